"""Large results in recycled memory: arrays like any other, in blocks that dead ones left, and no more of them than agreed."""

import gc
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name
from support import in_threads

import tapejit
from tapejit.codegen import allocate

pytestmark = pytest.mark.skipif(allocate.allocator() is None, reason="NumPy's own memory on this platform")

N = 300_000  # 2.4 MB
CALLS = 8  # the first ones go through Python, then machine code answers


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    allocate.allocator().forget()
    assert allocate.allocator().kept() == 0
    yield
    allocate.allocator().forget()


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_results_are_arrays_like_any_other():
    f = tapejit.jit(lambda x: (x + 1.0, np.sum(x), x[:10] * 2.0))
    x = np.arange(float(N))
    for _ in range(CALLS):
        y, total, small = f(x)
        np.testing.assert_array_equal(y, x + 1.0)
        assert y.flags.owndata and y.flags.writeable and y.base is None and y.ctypes.data % 64 == 0
        assert get_handler_name(y) == "tapejit" and get_handler_name(small) == "default_allocator"
        assert total == N * (N - 1) / 2
    assert get_handler_name() == "default_allocator"  # what the user makes is NumPy's
    for other in (y.copy(), y[:], y * 2.0, pickle.loads(pickle.dumps(y)), np.empty(N)):
        assert get_handler_name(other) != "tapejit"


def test_a_dead_result_leaves_its_memory_to_the_next():
    f = tapejit.jit(lambda x: x * 2.0)
    x = np.arange(float(N))
    for _ in range(CALLS):
        first = f(x).ctypes.data
        second = f(x)
        assert second.ctypes.data == first and allocate.allocator().kept() == 0
        third = f(x)
        assert third.ctypes.data != first
        del second, third
        assert allocate.allocator().kept() >= 2 * x.nbytes
        np.testing.assert_array_equal(f(x), 2.0 * x)
        allocate.allocator().forget()


def test_views_keep_the_memory():
    f = tapejit.jit(lambda x: x * 2.0)
    x = np.arange(float(N))
    view = f(x)[7:11]
    for _ in range(CALLS):
        f(x + 1.0)
    np.testing.assert_array_equal(view, [14.0, 16.0, 18.0, 20.0])


@pytest.mark.parametrize("length", [10, N - 1, N + 1, 3 * N])
def test_resize(length):
    y = allocate.empty((N,), np.dtype(np.float64))
    y[:] = np.arange(N)
    y.resize(length, refcheck=False)
    wanted = np.arange(float(N))
    wanted.resize(length)
    np.testing.assert_array_equal(y, wanted)
    assert get_handler_name(y) == "tapejit"


def test_zeroed_memory_for_others_who_set_the_handler():
    ours = allocate.allocator()
    allocate.empty((N,), np.dtype(np.float64)).fill(7.0)
    before = ours.set_handler(ours.capsule)
    try:
        y = np.zeros(N)
    finally:
        ours.set_handler(before)
    assert get_handler_name(y) == "tapejit" and not y.any()


def test_what_is_kept_is_bounded():
    start = resident()
    arrays = [allocate.empty((1 << 20,), np.dtype(np.float64)) for _ in range(40)]
    for a in arrays:
        a.fill(1.0)
    assert resident() - start > 300e6
    del a, arrays
    assert 0 < allocate.allocator().kept() <= allocate.KEPT_BYTES
    assert resident() - start < 1.1 * allocate.KEPT_BYTES
    small = [allocate.empty((1 << 17,), np.dtype(np.float64)) for _ in range(40)]
    del small
    assert allocate.allocator().kept() <= allocate.KEPT_BLOCKS * 1.2 * 2**20
    allocate.allocator().forget()
    assert resident() - start < 20e6
    big = allocate.empty((allocate.KEPT_BYTES,), np.dtype(np.float64))
    del big
    assert allocate.allocator().kept() == 0


def test_no_memory_is_a_memory_error():
    with pytest.raises(MemoryError):
        allocate.empty((1 << 45,), np.dtype(np.float64))
    assert get_handler_name() == "default_allocator"


def test_blocks_of_many_sizes_never_overlap():
    rng = np.random.default_rng(0)
    held = {}
    for step in range(2000):
        slot = int(rng.integers(12))
        if slot in held:
            assert (held[slot] == held[slot][0]).all()
        held[slot] = allocate.empty((int(rng.integers(1, 10)) * 1000 + (1 << 17),), np.dtype(np.float64))
        held[slot].fill(step)
    spans = sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in held.values())
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))


def test_nothing_leaks():
    f = tapejit.jit(lambda x: (x + 1.0, x * 2.0))
    x = np.arange(float(N))
    for _ in range(50):
        f(x)
    capsule = allocate.allocator().capsule
    references, start = sys.getrefcount(capsule), resident()
    for _ in range(1000):
        f(x)
    assert abs(sys.getrefcount(capsule) - references) <= 1 and resident() - start < 5e6


def test_threads():
    f = tapejit.jit(lambda x: x * 2.0 + 1.0)
    wrong = []

    def work(k):
        x = np.full(N, float(k))
        kept = []
        for i in range(60):
            kept.append(f(x))
            if i % 3 == 0:
                kept.clear()
        if any([not (y == 2.0 * k + 1.0).all() for y in kept]):
            wrong.append(k)

    in_threads(work, range(4))
    assert not wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads
def test_fork():
    f = tapejit.jit(lambda x: x * 2.0)
    x = np.arange(float(N))
    y = f(x)
    kept = f(x + 1.0).ctypes.data
    pid = os.fork()
    if not pid:
        ok = (y == 2.0 * x).all()
        del y
        ok = ok and all([(f(x) == 2.0 * x).all() for _ in range(CALLS)])
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert f(x).ctypes.data == kept
    np.testing.assert_array_equal(y, 2.0 * x)


EXIT = """
import atexit, sys, threading
import numpy as np, tapejit
f = tapejit.jit(lambda x: x + 1.0)
x = np.ones(300_000)
class Late:
    def __init__(self, array): self.array = array
    def __del__(self): self.array.resize(10, refcheck=False)
held = [f(x) for _ in range(20)]
sys.modules["late"] = Late(f(x))
cycle = [f(x)]
cycle.append(cycle)
atexit.register(lambda: print(f(x)[0]))
threading.Thread(target=lambda: [f(x) for _ in range(10**9)], daemon=True).start()
"""


def test_arrays_that_outlive_everything():
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "2.0\n", "")
