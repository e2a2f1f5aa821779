"""Persistent memory: bytes and NumPy arrays that survive kill -9 and power loss.

    import volip

    pool = volip.open("visits.pool", size=64 << 20)
    with pool.section():                     # all of it is durable, or nothing
        visits = pool.array("visits", (7, 24), "int64")
        visits[0, 9] += 1

What is in a pool is bytes: memoryviews and NumPy arrays over them. Python's own objects are not.
Writes belong inside ``with pool.section():``; an exception rolls back. Reading wants no section.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping

from ._library import EACH_ROOT, Code, Error, Options, check, checked, library

__all__ = ["Code", "Error", "Pool", "Section", "enter", "is_guest", "open"]

_BYTES = b"python bytes"

class _Thread(threading.local):
    """The calling thread's sections: how deep they are nested, and whether an inner one was
    aborted. libvolip knows of the outermost alone."""

    depth = 0
    is_doomed = False
    outermost = None


_thread = _Thread()


def _forget_section():
    _thread.depth = 0


# The section stays with the parent.
os.register_at_fork(after_in_child=_forget_section)


def open(path, size=None, *, tracker=None, log_bytes=0, log_bytes_max=0):
    """Opens the pool at ``path``, and recovers it after a crash.

    With ``size`` in bytes (1 MiB at least) it is made where there is none. ``tracker`` and the
    log's bytes are as in ``volip_options`` of volip.h.
    """
    options = Options(tracker and tracker.encode(), log_bytes, log_bytes_max)
    name = os.fsencode(path)
    if size is None:
        return Pool(checked(library.volip_open(name, ctypes.byref(options))))
    return Pool(checked(library.volip_pmap(name, size, ctypes.byref(options))))


def enter():
    """Makes this process a virtual machine on /dev/kvm. Before other threads (those of NumPy
    too) and before pools are opened; there is no way back."""
    check(library.volip_enter())


def is_guest():
    """Whether the process is a virtual machine that ``enter`` made."""
    return library.volip_is_guest() != 0


class Section:
    """``with pool.section():``. Sections nest flat: an inner one is part of the outermost. It
    belongs to one thread: no await and no yield inside."""

    # A signal's handler may raise after any call. Between pstart and the end of __enter__ there is
    # no other, so that either nothing is open or __exit__ is called. Where the handler raises at
    # the very door of __exit__, the section is found to have lost its with statement by the next.
    # (A finalizer would not do: an exception that is raised in one is ignored by Python.)

    def __init__(self, pool):
        self._pool = pool
        self._is_open = False

    def __enter__(self):
        handle = self._pool._open_handle()
        if _thread.depth > 0 and _thread.outermost() is None:
            check(library.volip_pabort())
            _thread.depth = 0
        if _thread.depth == 0:
            _thread.is_doomed = False
            _thread.outermost = weakref.ref(self)
            try:
                check(library.volip_pstart(handle))
            except BaseException:
                if library.volip_section_pool():
                    library.volip_pabort()
                raise
        elif library.volip_section_pool() != handle:
            check(library.volip_pstart(handle))  # says what is wrong with that
        _thread.depth += 1
        self._is_open = True
        return self

    def abort(self):
        """Ends the section here and takes its writes back; those of an inner one at the end of
        the outermost, which then raises Error (SECTION_ABORTED)."""
        if not self._is_open:
            raise Error(Code.NO_SECTION, "This section is over.")
        self._end(is_aborted=True)

    def __exit__(self, kind, value, traceback):
        if self._is_open:
            self._end(is_aborted=kind is not None)

    def _end(self, is_aborted):
        self._is_open = False
        _thread.depth = max(_thread.depth - 1, 0)
        if _thread.depth > 0:
            _thread.is_doomed |= is_aborted
        elif is_aborted:
            check(library.volip_pabort())
        elif _thread.is_doomed:
            check(library.volip_pabort())
            raise Error(Code.SECTION_ABORTED, "An inner section was aborted: all was rolled back.")
        else:
            check(library.volip_pend())


class Pool(Mapping):
    """An open pool: a mapping from the names of its roots to memoryviews of their bytes.

    ``pool["name"] = b"..."`` stores bytes under a name, and ``del`` removes it, in a section.
    """

    def __init__(self, handle):
        self._handle = handle
        self._process = os.getpid()
        self._views = []  # weak references to what memoryviews and arrays are of

    def section(self):
        """A section of the calling thread, for ``with``."""
        return Section(self)

    def close(self):
        """Closes the pool. Like that of mmap it refuses while memoryviews or arrays of the pool
        are in use: BufferError. A pool that is never closed loses nothing."""
        if self._handle is None:
            return
        self._forget_views()
        if self._views:
            raise BufferError(f"{len(self._views)} views of the pool are in use: delete them first")
        handle, self._handle = self._handle, None
        code = library.volip_close(handle)
        if code == Code.NESTED_SECTION:
            self._handle = handle
        check(code)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.close()

    def __del__(self):
        # A forked child has no pool to close; in a section it is left to recovery.
        if self._handle is not None and self._process == os.getpid():
            library.volip_close(self._handle)

    @property
    def tracker(self):
        """Which tracker finds the writes."""
        return library.volip_tracker(self._open_handle()).decode()

    def check(self):
        """Walks all metadata. Returns the number of allocated blocks and their bytes; raises
        Error (DAMAGED_HEAP) for what is wrong."""
        blocks, bytes_ = ctypes.c_uint64(), ctypes.c_uint64()
        check(library.volip_check(self._open_handle(), blocks, bytes_))
        return blocks.value, bytes_.value

    # Roots

    def _roots(self):
        found = {}

        @EACH_ROOT
        def each(name, address, size, context):
            found[name.decode()] = (address, size)

        check(library.volip_for_each_root(self._open_handle(), each, None))
        return found

    def __getitem__(self, name):
        address, size = self._roots()[name]
        return self._view(address, size)

    def __iter__(self):
        return iter(self._roots())

    def __len__(self):
        return len(self._roots())

    def __setitem__(self, name, value):
        data = memoryview(value).cast("B")
        if name in self and self._roots()[name][1] != len(data):
            del self[name]
        address = library.volip_root(self._open_handle(), name.encode(), len(data), _BYTES)
        self._view(checked(address), len(data))[:] = data

    def __delitem__(self, name):
        """Views of it that are still there are of memory that belongs to nobody."""
        if name not in self:
            raise KeyError(name)
        check(library.volip_remove_root(self._open_handle(), name.encode()))

    def array(self, name, shape, dtype=float):
        """The NumPy array under a name, made of zeros where there is none: for that it wants a
        section. Another shape or dtype than it was made with is an Error (ROOT_LAYOUT_MISMATCH).
        """
        import numpy

        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise TypeError(f"{dtype}: Python objects cannot be in a pool")
        shape = tuple(numpy.atleast_1d(shape).tolist()) if numpy.ndim(shape) == 0 else tuple(shape)
        size = int(numpy.prod(shape, dtype=object)) * dtype.itemsize
        kind = f"numpy {dtype.descr} {shape}".encode()
        address = checked(library.volip_root(self._open_handle(), name.encode(), size, kind))
        return numpy.ndarray(shape, dtype, self._view(address, size))

    # Blocks without a name: their addresses stay the same, and may be stored in the pool

    def allocate(self, size):
        """A memoryview of ``size`` new bytes with any content, in the calling thread's section."""
        self._open_handle()
        return self._view(checked(library.volip_allocate(size)), size)

    def free(self, view):
        """Gives back what ``allocate`` gave."""
        check(library.volip_free(self.address(view)))

    def address(self, view):
        """The address of a view's first byte, the same in every process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(view))

    def at(self, address, size):
        """A memoryview of ``size`` bytes at an address that ``address`` gave."""
        return self._view(address, size)

    def will_write(self, view):
        """Announces that a system call (``readinto``) will write to a view: needed with the
        tracker ``write-protect``."""
        check(library.volip_will_write(self.address(view), len(memoryview(view).cast("B"))))

    def _open_handle(self):
        if self._handle is None:
            raise Error(Code.CLOSED, "The pool is closed.")
        return self._handle

    def _view(self, address, size):
        self._open_handle()
        memory = (ctypes.c_ubyte * size).from_address(address)
        memory._pool = self  # a view keeps its pool
        if len(self._views) >= 64 and len(self._views) & (len(self._views) - 1) == 0:
            self._forget_views()
        self._views.append(weakref.ref(memory))
        return memoryview(memory).cast("B")

    def _forget_views(self):
        self._views = [view for view in self._views if view() is not None]
