"""The module on an installed libvolip: VOLIP_LIBRARY, or where the loader finds it."""

import faulthandler
import gc
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
import volip

HEADER = Path(__file__).parents[2] / "CSupport/CVolip/include/volip.h"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.pool"


@pytest.fixture
def pool(path):
    with volip.open(path, size=16 << 20) as pool:
        yield pool


def fails(code):
    return pytest.raises(volip.Error, check=lambda error: error.code == code)


def run(script, *arguments):
    """Runs a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_codes_are_those_of_the_header():
    numbers = dict(re.findall(r"^  VOLIP_(\w+) = (\d+),", HEADER.read_text(), re.MULTILINE))
    assert {code.name: str(code.value) for code in volip.Code} == numbers


def test_bytes_are_there_after_the_next_open(path):
    with volip.open(path, size=16 << 20) as pool:
        with pool.section():
            pool["greeting"] = b"hello"
            pool["empty"] = b""
    with volip.open(path) as pool:
        assert bytes(pool["greeting"]) == b"hello" and bytes(pool["empty"]) == b""
        assert sorted(pool) == ["empty", "greeting"] and len(pool) == 2
        with pool.section():
            pool["greeting"][0:1] = b"H"
        assert bytes(pool["greeting"]) == b"Hello"
        with pool.section():
            pool["greeting"] = "größer".encode()
            del pool["empty"]
        assert bytes(pool["greeting"]).decode() == "größer" and list(pool) == ["greeting"]
        assert pool.check()[0] == 1


def test_an_exception_rolls_back(pool):
    with pool.section():
        pool["name"] = b"first"
    with pytest.raises(ZeroDivisionError):
        with pool.section():
            pool["name"][:] = b"other"
            pool["more"] = b"more"
            1 / 0
    assert bytes(pool["name"]) == b"first" and "more" not in pool


def test_abort_ends_a_section(pool):
    with pool.section() as section:
        pool["name"] = b"gone"
        section.abort()
        assert "name" not in pool
        with fails(volip.Code.NO_SECTION):
            section.abort()
    with pool.section():
        pool["name"] = b"there"
    assert "name" in pool


def test_sections_nest_flat(pool):
    with pool.section():
        with pool.section():
            pool["inner"] = b"1"
        assert bytes(pool["inner"]) == b"1"
    with fails(volip.Code.SECTION_ABORTED):
        with pool.section():
            with pytest.raises(ZeroDivisionError):
                with pool.section():
                    pool["inner"][:] = b"2"
                    1 / 0
    assert bytes(pool["inner"]) == b"1"


def test_a_thread_has_one_pool_at_a_time(pool, tmp_path):
    with volip.open(tmp_path / "other.pool", size=16 << 20) as other:
        with pool.section():
            with fails(volip.Code.INVALID_ARGUMENT):
                with other.section():
                    pass
            pool["name"] = b"value"
    assert "name" in pool


def test_arrays_live_in_the_pool(path):
    with volip.open(path, size=16 << 20) as pool:
        with pool.section():
            table = pool.array("table", (3, 1000), "int32")
            assert table.sum() == 0
            table[:] = numpy.arange(3000).reshape(3, 1000)
            table[1] *= 2
            records = pool.array("records", 4, [("key", "u8"), ("value", "f4", 3)])
            records["value"][2] = 1.5
        del table, records
    with volip.open(path) as pool:
        table = pool.array("table", (3, 1000), "int32")
        assert table[2, 999] == 2999 and table[1, 1] == 2002 and table.base is not None
        records = pool.array("records", 4, [("key", "u8"), ("value", "f4", 3)])
        assert records["value"][2].tolist() == [1.5, 1.5, 1.5]
        with pytest.raises(ZeroDivisionError):
            with pool.section():
                table.sort(axis=0)
                table += 1
                1 / 0
        assert table[2, 999] == 2999
        for shape, kind in [((3, 999), "int32"), ((1000, 3), "int32"), ((3, 1000), "uint32")]:
            with fails(volip.Code.ROOT_LAYOUT_MISMATCH):
                pool.array("table", shape, kind)
        with pytest.raises(TypeError):
            pool.array("objects", 3, object)
        del table, records


def test_blocks_have_addresses_that_stay(path):
    with volip.open(path, size=16 << 20) as pool:
        with pool.section():
            block = pool.allocate(100)
            block[:] = bytes(100)
            block[7] = 7
            address = pool.address(block)
            pool["first"] = address.to_bytes(8, "little")
            pool.free(pool.allocate(10))
        del block
    with volip.open(path) as pool:
        address = int.from_bytes(pool["first"], "little")
        assert pool.at(address, 100)[7] == 7
        with pool.section():
            pool.free(pool.at(address, 100))
            with fails(volip.Code.NOT_ALLOCATED):
                pool.free(pool.at(address, 100))


def test_errors_have_codes_and_sentences(path, pool):
    with fails(volip.Code.NOT_FOUND):
        volip.open(path.parent / "nothing")
    with fails(volip.Code.IN_USE):
        volip.open(path)
    with fails(volip.Code.NO_SECTION):
        pool["name"] = b"x"
    with fails(volip.Code.NO_SECTION):
        pool.allocate(8)
    with pytest.raises(KeyError):
        pool["nothing"]
    with pool.section():
        with pytest.raises(KeyError):
            del pool["nothing"]
        with fails(volip.Code.NESTED_SECTION):
            pool.close()
        with fails(volip.Code.INVALID_ROOT_NAME):
            pool["x" * 64] = b""
    try:
        volip.open(path)
    except volip.Error as error:
        assert str(path) in str(error)


def test_a_pool_with_views_is_not_closed(path):
    pool = volip.open(path, size=16 << 20)
    with pool.section():
        pool["name"] = b"value"
        table = pool.array("table", 10)
    part = table[2:4]
    view = pool["name"]
    del table
    with pytest.raises(BufferError):
        pool.close()
    del part
    with pytest.raises(BufferError):
        pool.close()
    del view
    pool.close()
    pool.close()
    with fails(volip.Code.CLOSED):
        pool["name"]


def test_a_view_keeps_its_pool(path):
    pool = volip.open(path, size=16 << 20)
    with pool.section():
        pool["name"] = b"value"
    view = pool["name"]
    del pool
    gc.collect()
    assert bytes(view) == b"value"
    del view
    gc.collect()
    volip.open(path).close()  # closed with the last view


def test_a_section_without_its_with_statement_is_taken_back(pool):
    pool.section().__enter__()  # as a signal at the door of __exit__ leaves it
    pool["name"] = b"left"
    with pool.section():
        assert "name" not in pool
        pool["other"] = b"durable"
    assert list(pool) == ["other"]


def test_many_views_come_and_go(pool):
    with pool.section():
        pool["name"] = b"value"
    kept = [pool["name"] for _ in range(100)]
    for _ in range(1000):
        pool["name"]
    assert len(pool._views) < 300
    with pytest.raises(BufferError):
        pool.close()
    assert bytes(kept[99]) == b"value"
    kept.clear()


def test_threads_take_turns(pool):
    with pool.section():
        count = pool.array("count", 1, "int64")

    def add():
        for _ in range(500):
            with pool.section():
                old = int(count[0])
                gc.collect(0)
                count[0] = old + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count[0] == 2000
    del count, add  # the function has it, too
    threads.clear()
    gc.collect()


@pytest.mark.parametrize("tracker", ["page-map-scan", "write-protect"])
def test_with_each_tracker_of_the_host(path, tracker, tmp_path):
    faulthandler.enable()
    (tmp_path / "data").write_bytes(bytes(range(200)))
    with volip.open(path, size=16 << 20, tracker=tracker) as pool:
        assert pool.tracker == tracker
        with pool.section():
            pool["data"] = bytes(200)
        with pool.section(), open(tmp_path / "data", "rb", buffering=0) as file:
            view = pool["data"]
            pool.will_write(view)
            assert file.readinto(view) == 200
            gc.collect()
        assert bytes(view) == bytes(range(200))
        del view


def test_a_write_outside_a_section_is_found(path):
    with volip.open(path, size=16 << 20, tracker="page-map-scan") as pool:
        with pool.section():
            pool["name"] = b"value"
    with volip.open(path, tracker="page-map-scan") as pool:
        pool["name"][:] = b"stray"
        with fails(volip.Code.WRITE_OUTSIDE_SECTION):
            with pool.section():
                pass
        assert bytes(pool["name"]) == b"value"


KILLED = """
import sys, volip
pool = volip.open(sys.argv[1], size=16 << 20)
with pool.section():
    table = pool.array("table", 4096, "int64")
while True:
    with pool.section():
        table += 1
    print(table[0], flush=True)
"""


def test_a_process_that_is_killed_leaves_whole_sections(path):
    acknowledged = 0
    for lines in [1, 7, 40, 111]:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().split("\n")[:-1]
        process.wait()
        with volip.open(path) as pool:
            table = pool.array("table", 4096, "int64")
            assert (table == table[0]).all() and table[0] >= acknowledged + lines
            if rest:
                assert int(table[0]) - int(rest[-1]) in (0, 1)
            acknowledged = int(table[0])
            del table


INTERRUPTED = """
import random, signal, sys, volip
class Interrupted(Exception):
    pass
def interrupt(number, frame):
    raise Interrupted
signal.signal(signal.SIGALRM, interrupt)
random.seed(int(sys.argv[3]))
pool = volip.open(sys.argv[1], size=16 << 20, tracker=sys.argv[2])
with pool.section():
    table = pool.array("table", 4096, "int64")
interrupts = 0
for _ in range(200):
    durable = int(table[0])
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-3))
        while True:
            with pool.section():
                table += 1
                with pool.section():
                    table *= 1
            durable += 1
    except Interrupted:
        interrupts += 1
    with pool.section():
        pass  # takes back what a signal at the door of __exit__ has left
    assert (table == table[0]).all() and int(table[0]) - durable in (0, 1)
print(interrupts)
"""


@pytest.mark.parametrize("tracker", ["page-map-scan", "write-protect"])
def test_a_signal_handler_that_raises_anywhere_leaves_whole_sections(path, tracker):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    outcome = run(INTERRUPTED, path, tracker, seed)
    assert outcome.stdout == "200\n", outcome.stderr


CHILD = """
import os, sys, volip
pool = volip.open(sys.argv[1], size=16 << 20)
with pool.section():
    child = os.fork()
    if child == 0:
        code = None
        try:
            with pool.section():
                pass
        except volip.Error as error:
            code = error.code
        os._exit(0 if code == volip.Code.FORKED_CHILD else 1)
    pool["name"] = b"value"
    assert os.waitpid(child, 0)[1] == 0
assert bytes(pool["name"]) == b"value"
"""


def test_a_forked_child_has_no_pool(path):
    outcome = run(CHILD, path)
    assert outcome.returncode == 0, outcome.stderr


GUEST = """
import sys, volip
volip.enter()
import gc, numpy, threading
pool = volip.open(sys.argv[1], size=16 << 20)
assert volip.is_guest() and pool.tracker == "adaptive"
with pool.section():
    table = pool.array("table", 100000, "int64")
    table[:] = numpy.arange(100000)[::-1]
    table.sort()
def add():
    with pool.section():
        table[:] += 1
thread = threading.Thread(target=add)
thread.start()
thread.join()
gc.collect()
print(table[99999])
"""


@pytest.mark.skipif(not os.access("/dev/kvm", os.W_OK), reason="/dev/kvm cannot be opened")
def test_in_guest_mode(path):
    outcome = run(GUEST, path)
    assert outcome.stdout == "100000\n", outcome.stderr
    with volip.open(path) as pool:
        assert pool.array("table", 100000, "int64")[7] == 8
