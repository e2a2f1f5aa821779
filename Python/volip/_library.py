"""libvolip, as ctypes sees it: the functions of volip.h and their errors."""

import ctypes
import enum
import os


class Code(enum.IntEnum):
    """What can go wrong: the numbers of volip.h."""

    OK = 0
    NOT_A_POOL = 1
    TRUNCATED = 2
    FOREIGN_VERSION = 3
    UNKNOWN_FEATURES = 4
    DAMAGED_SUPERBLOCK = 5
    DAMAGED_LOG = 6
    UNREADABLE = 7
    MEMORY_FAILED = 8
    DAMAGED_HEAP = 9
    IN_USE = 10
    NOT_FOUND = 11
    ALREADY_EXISTS = 12
    NO_PERMISSION = 13
    INVALID_ARGUMENT = 14
    SYSTEM = 15
    ADDRESS_TAKEN = 16
    ADDRESS_SPACE_EXHAUSTED = 17
    POOL_FULL = 18
    SECTION_TOO_LARGE = 19
    DISK_FULL = 20
    NO_SECTION = 21
    WRITE_OUTSIDE_SECTION = 22
    UNANNOUNCED_WRITE = 23
    NESTED_SECTION = 24
    SECTION_ABORTED = 25
    FORKED_CHILD = 26
    CLOSED = 27
    POISONED = 28
    OUTCOME_UNKNOWN = 29
    TRACKER_UNAVAILABLE = 30
    NOT_ALLOCATED = 31
    ROOT_LAYOUT_MISMATCH = 32
    INVALID_ROOT_NAME = 33
    NO_ROOT = 34
    NO_GUEST = 35
    TOO_LATE = 36
    PAGE_TRACKED_WRITE = 37
    LANE_FULL = 38
    SECTIONS_DEADLOCKED = 39


class Error(Exception):
    """What failed: ``code`` is a :class:`Code`, the text a sentence with what to do."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = Code(code)


class Options(ctypes.Structure):
    _fields_ = [
        ("tracker", ctypes.c_char_p),
        ("log_bytes", ctypes.c_uint64),
        ("log_bytes_max", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 5),
    ]


EACH_ROOT = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
)

_POINTER = ctypes.c_void_p
_TEXT = ctypes.c_char_p
_COUNT = ctypes.POINTER(ctypes.c_uint64)

# Name: what it returns, what it takes. A code (int) and a pointer tell of errors.
_FUNCTIONS = {
    "volip_last_error": (ctypes.c_int, []),
    "volip_error_text": (_TEXT, []),
    "volip_pmap": (_POINTER, [_TEXT, ctypes.c_uint64, ctypes.POINTER(Options)]),
    "volip_open": (_POINTER, [_TEXT, ctypes.POINTER(Options)]),
    "volip_close": (ctypes.c_int, [_POINTER]),
    "volip_base": (_POINTER, [_POINTER]),
    "volip_tracker": (_TEXT, [_POINTER]),
    "volip_check": (ctypes.c_int, [_POINTER, _COUNT, _COUNT]),
    "volip_pstart": (ctypes.c_int, [_POINTER]),
    "volip_pend": (ctypes.c_int, []),
    "volip_pabort": (ctypes.c_int, []),
    "volip_section_pool": (_POINTER, []),
    "volip_will_write": (ctypes.c_int, [_POINTER, ctypes.c_size_t]),
    "volip_allocate": (_POINTER, [ctypes.c_size_t]),
    "volip_free": (ctypes.c_int, [_POINTER]),
    "volip_root": (_POINTER, [_POINTER, _TEXT, ctypes.c_size_t, _TEXT]),
    "volip_find_root": (_POINTER, [_POINTER, _TEXT, ctypes.c_size_t, _TEXT]),
    "volip_remove_root": (ctypes.c_int, [_POINTER, _TEXT]),
    "volip_for_each_root": (ctypes.c_int, [_POINTER, EACH_ROOT, _POINTER]),
    "volip_enter": (ctypes.c_int, []),
    "volip_is_guest": (ctypes.c_int, []),
}


def _load():
    # CDLL, so that the interpreter's lock is free while pstart waits for another thread's section.
    path = os.environ.get("VOLIP_LIBRARY", "libvolip.so.0")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"{error}: make install, and name the library in VOLIP_LIBRARY, or its directory in "
            "LD_LIBRARY_PATH") from None
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


library = _load()


def raise_last():
    raise Error(library.volip_last_error(), library.volip_error_text().decode())


def check(code):
    """Raises for any code but OK."""
    if code != Code.OK:
        raise_last()


def checked(address):
    """A pointer that is not NULL."""
    if not address:
        raise_last()
    return address
