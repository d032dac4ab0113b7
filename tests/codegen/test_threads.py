"""Programs in pieces: the same bits with any number of threads, after fork, from many Python threads, at exit."""

import ctypes
import multiprocessing
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import in_threads

import tapejit
from tapejit.codegen import threads, tile
from tapejit.codegen.compile import clear

pytestmark = pytest.mark.skipif(threads.FUTEX is None, reason="one thread on this system")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    clear()
    monkeypatch.setattr(tile, "PIECE_NANOSECONDS", 100)
    monkeypatch.setattr(tile, "WHOLE_LINES", 8)
    before, wanted = threads.get_num_threads(), threads._wanted
    yield
    threads.set_num_threads(before)
    threads._wanted = wanted
    clear()


def loss(w, x):
    z = x @ w
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    p = e / np.sum(e, axis=1, keepdims=True)
    return np.sum(np.log(p[:, 0])) + np.max(x) * np.sum(p[:, 1] ** 2)


def inputs(n):
    rng = np.random.default_rng(n)
    return rng.normal(size=(7, 5)), rng.normal(size=(n, 7))


def same(found, wanted):
    return all(np.array_equal(a, b) for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]]))


@pytest.mark.parametrize("n", [8, 50, 333, 2000])
def test_results_do_not_depend_on_the_number_of_threads(n):
    f = tapejit.value_and_grad(loss, argnums=(0, 1))
    args = inputs(n)
    results = []
    for k in (1, 2, 3, 7, 1):
        tapejit.set_num_threads(k)
        assert tapejit.get_num_threads() == k
        results.append([f(*args) for _ in range(20)])
    if n == 2000:
        assert "pieces in parallel" in f.ir(*args, stage="kernels")
        assert threads.pool().started() >= 6
    wanted = results[0][0]
    assert all(same(r, wanted) for row in results for r in row)
    w, x = args
    u, v, h = np.cos(np.arange(35.0)).reshape(7, 5), np.sin(x), 1e-6
    slope = (loss(w + h * u, x + h * v) - loss(w - h * u, x - h * v)) / (2 * h)
    np.testing.assert_allclose(wanted[0], loss(w, x), rtol=1e-12)
    np.testing.assert_allclose(np.sum(wanted[1][0] * u) + np.sum(wanted[1][1] * v), slope, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (3, 1000), (1000, 3), (64, 64), (5, 40, 6), (1, 257)])
def test_reductions_and_maps_of_every_layout(shape):
    x = np.random.default_rng(0).normal(size=shape)

    def program(x):
        y = np.tanh(x) * np.cos(x)
        return [np.sum(y), np.max(x), np.min(y, axis=0), np.sum(y, axis=-1), np.cumsum(y, axis=-1), y.T, np.argmax(x), y > 0.1]

    f = tapejit.jit(program)
    for k in (1, 2, 4):
        tapejit.set_num_threads(k)
        for found, wanted in zip(f(x), program(x)):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def pieces(f, *args):
    """The numbers of pieces in the dump."""
    return [int(n) for n in re.findall(r"(\d+) pieces in parallel", f.ir(*args, stage="kernels"))]


def test_folds_of_several_kernels_into_one_array():
    """Too much for one kernel: each folds some of the columns, and leaves the others alone."""
    x = np.random.default_rng(0).uniform(0.5, 1.5, (500, 16))

    def program(x):
        return np.sum(x**1.7 + x**x, axis=0), np.sum(x, axis=1)

    f = tapejit.jit(program)
    for found, wanted in zip(f(x), program(x)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert f.ir(x, stage="kernels").split("program")[1].count("(out0.parts, out0)") >= 2


def test_folds_of_every_type():
    x = np.random.default_rng(0).normal(size=5000)

    def program(x):
        i = np.where(x > 0, 3, -2)
        single = x.astype(np.float32)
        return [np.all(x > -9), np.any(x > 9), np.sum(i), np.max(i), np.min(single), np.prod(np.sign(x)), np.sum(x > 0)]

    f = tapejit.jit(program)
    assert pieces(f, x)
    for found, wanted in zip(f(x), program(x)):
        assert found == wanted and found.dtype == wanted.dtype


def test_gathers_in_pieces_and_scatters_whole():
    rng = np.random.default_rng(0)
    x, i = rng.normal(size=3000), rng.integers(0, 3000, 4000)
    f = tapejit.jit(lambda x: np.sin(x[i]))
    np.testing.assert_allclose(f(x), np.sin(x[i]), rtol=1e-14)
    assert pieces(f, x)
    g = tapejit.grad(lambda x: np.sum(np.sin(x[i])))
    np.testing.assert_allclose(g(x), np.bincount(i, np.cos(x[i]), 3000), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_take_little_memory(axis):
    x = np.random.default_rng(0).normal(size=(100, 100_000) if axis == 0 else (100_000, 100))
    f = tapejit.jit(lambda x: np.sum(x, axis=axis))
    np.testing.assert_allclose(f(x), np.sum(x, axis=axis), rtol=1e-12, atol=1e-10)
    assert pieces(f, x)
    (code,) = [paths.recent.code for paths in f._known.values()]
    assert code.stats.arena_bytes < 1.1 * x.nbytes / tile.PARTS_SHARE


def test_few_long_rows():
    x = np.random.default_rng(0).normal(size=(5, 40_000))
    f = tapejit.jit(lambda x: np.cumsum(x, axis=1))
    np.testing.assert_allclose(f(x), np.cumsum(x, axis=1), rtol=1e-10, atol=1e-10)
    assert pieces(f, x) == [5]


def test_windows_take_little_memory():
    x = np.random.default_rng(0).normal(size=(4096, 500))

    def softmax(x):
        e = np.exp(x - np.max(x, axis=1, keepdims=True))
        return e / np.sum(e, axis=1, keepdims=True)

    f = tapejit.jit(softmax)
    for k in (1, 3):
        tapejit.set_num_threads(k)
        np.testing.assert_allclose(f(x), softmax(x), rtol=1e-13)
    assert pieces(f, x)[0] > 30 and len(re.findall("a tile", f.ir(x, stage="kernels"))) >= 3
    (code,) = [paths.recent.code for paths in f._known.values()]
    assert code.stats.arena_bytes < x.nbytes / 30


@pytest.mark.skipif(threads.MACHINE != "x86_64", reason="the number of the rounding mode")
def test_workers_compute_in_the_callers_environment():
    x = np.random.default_rng(0).normal(size=20_000)
    f = tapejit.jit(lambda x: [np.sum(x), x / 3.0])
    rounding, upward = ctypes.CDLL(None).fesetround, 0x800
    tapejit.set_num_threads(3)
    nearest = [f(x) for _ in range(20)]
    assert threads.pool().started() >= 2
    results = []
    for k in (1, 3):
        tapejit.set_num_threads(k)
        for _ in range(50):
            rounding(upward)
            try:
                results.append(f(x))
            finally:
                rounding(0)
    assert results[0][0] > nearest[0][0]
    assert np.mean(results[0][1] > nearest[0][1]) > 0.3 and not np.any(results[0][1] < nearest[0][1])
    for total, quotients in results:
        assert total == results[0][0]
        np.testing.assert_array_equal(quotients, results[0][1])


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True, 10**6])
def test_a_bad_number_of_threads(bad):
    with pytest.raises(ValueError, match="integer from 1 to 256"):
        tapejit.set_num_threads(bad)


def test_many_python_threads_at_once():
    tapejit.set_num_threads(3)
    f = tapejit.value_and_grad(loss, argnums=(0, 1))
    args = [inputs(n) for n in (100, 1000, 1500, 1000)]
    wanted = [f(*a) for a in args]
    wrong = []

    def work(k):
        for _ in range(100):
            if not same(f(*args[k]), wanted[k]):
                wrong.append(k)

    in_threads(work, range(4))
    assert not wrong


def _child(f, args, queue):
    queue.put([f(*args), threads.pool().started()])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork in a process with threads: what is tested
def test_a_forked_child_makes_its_own_workers():
    tapejit.set_num_threads(3)
    f = tapejit.value_and_grad(loss, argnums=(0, 1))
    args = inputs(1000)
    wanted = f(*args)
    assert threads.pool().started() >= 2
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        queue = context.Queue()
        child = context.Process(target=_child, args=(f, args, queue))
        child.start()
        found, started = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0 and same(found, wanted) and started >= 2
        assert same(f(*args), wanted)
    pid = os.fork()
    if not pid:
        os._exit(0 if same(f(*args), wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


EXIT = """
import numpy as np, sys, threading, tapejit
from tapejit.codegen import tile
tile.PIECE_NANOSECONDS = 100
f = tapejit.jit(lambda x: np.sum(np.sin(x) ** 2))
x = np.ones(5000)
f(x)
if sys.argv[1] == "daemon":
    threading.Thread(target=lambda: [f(x) for _ in range(10**9)], daemon=True).start()
if sys.argv[1] == "error":
    raise SystemExit(3)
print(f(x) > 0, tapejit.get_num_threads())
"""


@pytest.mark.parametrize("how", ["plain", "daemon", "error"])
def test_exit_right_after_use(how):
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", EXIT, how], env=os.environ | {"TAPEJIT_NUM_THREADS": "4"}, capture_output=True, text=True
        )
        assert done.returncode == (3 if how == "error" else 0) and not done.stderr, done.stderr
        assert done.stdout == ("" if how == "error" else "True 4\n")


def test_the_environment_names_the_number():
    code = "import tapejit; print(tapejit.get_num_threads())"
    for value, wanted in (("5", "5"), ("", None), ("0", None), ("many", None)):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"TAPEJIT_NUM_THREADS": value}, capture_output=True, text=True
        )
        assert done.stdout.strip() == (wanted or str(len(os.sched_getaffinity(0))))


@pytest.mark.slow
def test_many_fork_joins_under_load():
    tapejit.set_num_threads(4)
    f = tapejit.jit(lambda x: np.sum(np.sin(x) ** 2))
    x = np.linspace(0, 1, 5000)
    wanted = f(x)
    stop = threading.Event()
    burner = threading.Thread(target=lambda: [sum(range(1000)) for _ in iter(stop.is_set, True)])
    burner.start()
    for _ in range(100_000):
        assert f(x) == wanted
    stop.set()
    burner.join()
