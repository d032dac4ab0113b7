"""The machine-code entry: reference counts and lifetimes on every path, errors, threads, reentrance, the end of the process."""

import collections
import dataclasses
import gc
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from support import in_threads

import tapejit
from tapejit.codegen import native
from tapejit.dispatch import NATIVE_AFTER
from tapejit.ir.knobs import INTERP

pytestmark = pytest.mark.skipif(not native.supported() or INTERP.value, reason="this build is served by Python")


def test_an_attribute_that_runs_python_may_empty_what_holds_it(warm, served):
    """Reading a field can run any code if its class is changed later; nothing that is in use may be freed by it."""

    @dataclasses.dataclass
    class Box:
        x: np.ndarray

    f = tapejit.jit(lambda items: items[0].x + items[1])
    warm(f, [Box(np.ones(50)), np.ones(50)])
    assert served(f, [Box(np.ones(50)), np.ones(50)])
    for _ in range(100):
        items = [Box(np.ones(50)), np.full(50, 2.0)]

        def getter(self, items=items):
            items.clear()
            f.cache_clear()
            return np.ones(50)

        Box.x = property(getter, lambda self, value: None)
        try:
            f(items)
        except IndexError:  # the list was empty when Python looked
            pass
        del Box.x


def test_an_error_in_a_field_is_the_users(warm, served):
    @dataclasses.dataclass
    class Box:
        x: np.ndarray

    f = tapejit.jit(lambda box: box.x * 2.0)
    warm(f, Box(np.ones(3)))
    box = Box(np.ones(3))
    assert served(f, box)
    Box.x = property(lambda self: 1 / 0, lambda self, value: None)
    before = sys.getrefcount(box)
    for _ in range(1000):
        with pytest.raises(ZeroDivisionError):
            f(box)
    assert sys.getrefcount(box) == before
    del Box.x
    assert f(box).tolist() == [2.0] * 3


class Reporting(collections.namedtuple("Reporting", "x y")):
    """A result that runs Python when it is made."""

    made = staticmethod(lambda: None)

    def __new__(cls, x, y):
        cls.made()
        return super().__new__(cls, x, y)


def test_a_result_that_runs_python_when_it_is_made(monkeypatch, warm, served):
    f = tapejit.jit(lambda x: {"pair": Reporting(x * 2.0, x + 1.0), "sum": np.sum(x)})
    x = np.arange(4.0)
    warm(f, x)
    assert served(f, x)
    for depth in (1, 3):  # it calls the function that makes it, and has it forgotten meanwhile
        left = depth

        def made():
            nonlocal left
            left -= 1
            if left >= 0:
                assert f(np.ones(4))["sum"] == 4.0
                f.cache_clear()
                gc.collect()
                assert f(np.zeros(4))["pair"].y.tolist() == [1.0] * 4

        monkeypatch.setattr(Reporting, "made", made)
        for _ in range(20):
            left = depth
            out = f(x)
            assert out["pair"].x.tolist() == [0.0, 2.0, 4.0, 6.0] and out["sum"] == 6.0
            left = 0
            warm(f, x)


def test_a_result_that_cannot_be_made(monkeypatch, warm, served):
    f = tapejit.jit(lambda x: (x + 1.0, [Reporting(x * 2.0, np.sum(x))], {"z": x - 1.0}))
    x = np.arange(50.0)
    warm(f, x)
    assert served(f, x)

    def made():
        raise LookupError("not now")

    monkeypatch.setattr(Reporting, "made", made)
    gc.collect()
    before, memory, hits = counts(x), resident(), f._dispatcher.hits
    for _ in range(50_000):
        with pytest.raises(LookupError, match="not now"):
            f(x)
    assert f._dispatcher.hits == hits + 50_000
    assert max(abs(a - b) for a, b in zip(before, counts(x))) < 100
    assert resident() - memory < 2 << 20  # three arrays of 400 bytes lost at each call would be 60 MB
    monkeypatch.undo()
    first, (pair,), _ = f(x)
    assert pair.y == np.sum(x) and first.tolist() == (x + 1.0).tolist()
    fresh = np.empty(50)
    references = sys.getrefcount(first)
    assert references == sys.getrefcount(fresh)


def test_keys_live_as_long_as_the_results_that_name_them(warm):
    class Key:
        def __init__(self, name):
            self.name = name

    def make():
        keys = [Key("a"), Key("b")]
        return tapejit.jit(lambda p: {keys[1]: p[keys[0]] * 2.0, keys[0]: p[keys[1]] + 1.0}), keys

    f, keys = make()
    nest = dict(zip(keys, (np.ones(2), np.zeros(2))))
    warm(f, nest)
    references = [weakref.ref(k) for k in keys]
    for _ in range(100):
        out = f(nest)
    assert [k.name for k in out] == ["b", "a"] and [v.tolist() for v in out.values()] == [[2.0, 2.0], [1.0, 1.0]]
    del f, keys, nest, out
    gc.collect()
    assert [r() for r in references] == [None, None]


def run(program) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_machine_code_outlives_the_modules():
    program = """
import gc, numpy as np, tapejit
from tapejit.codegen import engine, marshal, native
f = tapejit.value_and_grad(lambda x: np.sum(x * x))
for _ in range(5):
    f(np.ones(3)), f.into((None, np.empty(3)), np.ones(3))
marshal.code.cache_clear(), marshal.lists_code.cache_clear(), native._definition.cache_clear()  # as at exit
engine._session = None
gc.collect()
print(*f(np.arange(3.0)), f.into((None, np.empty(3)), np.arange(3.0))[1], f(np.arange(4.0))[0])
"""
    assert run(program) == "5.0 [0. 2. 4.] [0. 2. 4.] 14.0\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_no_memory_for_the_results():
    program = """
import resource, sys, numpy as np, tapejit
f = tapejit.jit(lambda x: {"small": x + 1.0, "large": np.broadcast_to(x, (40_000, 1000)) * 2.0, "sum": np.sum(x)})
x = np.ones(1000)
for _ in range(3):
    out = f(x)
del out
hits, references = f._dispatcher.hits, sys.getrefcount(x)
free = resource.getrlimit(resource.RLIMIT_AS)
keep = f(x)
with open("/proc/self/statm") as pages:
    used = int(pages.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), free[1]))
raised = 0
for _ in range(100):
    try:
        f(x)
    except MemoryError:
        raised += 1
resource.setrlimit(resource.RLIMIT_AS, free)
print(raised, f._dispatcher.hits - hits, sys.getrefcount(x) - references, f(x)["large"].sum())
"""
    assert run(program) == "100 101 0 80000000.0\n"


def counts(nest):
    leaves = [x for x in tapejit.tree.flatten(nest)[0] if isinstance(x, np.ndarray)]
    return [sys.getrefcount(x) for x in (*leaves, np.dtype(float), np.ndarray, float, dict, tuple, list, 1.0, None)]


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["array", "nest", "keyword", "strided", "miss", "exit", "merged"])
def test_reference_counts_and_memory_over_a_million_calls(kind, monkeypatch):
    if kind == "exit":
        monkeypatch.setattr("tapejit.paths.QUIET", 1 << 40)

    def cube(p, y=1.0):
        if y == -1.0:
            return np.sum(p)
        return np.sum(p["w"][0] ** 3) * y if isinstance(p, dict) else np.sum(p**3) * y

    f = tapejit.value_and_grad(cube)
    x = np.arange(5.0)
    args, kwargs = {
        "array": ((x,), {}), "nest": (({"w": (x, 2.0)},), {}), "keyword": ((x,), {"y": 2.0}), "strided": ((x[::2],), {}),
        "miss": ((x.astype("f"),), {}), "exit": ((x, -1.0), {}),
        "merged": ((x, -1.0), {}),
    }[kind]  # fmt: skip
    times = {"array": 1_000_000, "miss": 20_000, "exit": 100_000, "merged": 100_000}.get(kind, 300_000)
    several = kind in ("exit", "merged")
    for _ in range(40 if kind == "merged" else NATIVE_AFTER + 1):
        if several:
            f(x, -1.0), f(x, 2.0)
        f(*((x,) if kind == "miss" else (np.ascontiguousarray(x[::2]),) if kind == "strided" else args), **kwargs)
    f(*args, **kwargs)
    gc.collect()
    before, memory, hits = counts(args), resident(), f._dispatcher.hits
    for _ in range(times):
        f(*args, **kwargs)
        if several:  # the plan that serves a call is tried first at the next, and leaves when it has made the results' arrays
            f(x, 2.0)
    gc.collect()
    assert (kind == "merged") == any([len(s.counters) > 1 for s in f._dispatcher.specs])
    assert f._dispatcher.hits - hits == (2 * times if several else times if kind != "miss" else times - NATIVE_AFTER + 1)
    assert max(abs(a - b) for a, b in zip(before, counts(args))) < 100  # one lost or won at each call would be `times`
    assert resident() - memory < 2 << 20
    slope = f(*args, **kwargs)[1]
    slope = slope["w"][0] if kind == "nest" else slope
    fresh = np.empty(5)
    assert sys.getrefcount(slope) == sys.getrefcount(fresh)


def test_a_program_that_releases_the_gil_is_served_in_many_threads(served):
    f = tapejit.value_and_grad(lambda p: np.sum(np.sin(p["x"]) ** 2))
    xs = [np.linspace(0.0, k, 100_000) for k in range(1, 5)]
    for _ in range(NATIVE_AFTER + 1):
        f({"x": xs[0]})
    assert served(f, {"x": xs[0]})
    wanted = [(np.sum(np.sin(x) ** 2), np.sin(2 * x)) for x in xs]
    wrong, stop = [], threading.Event()

    def work(k):
        for _ in range(60):
            nest = {"x": xs[k].copy()}
            threading.Timer(0.0002, nest.clear).start()  # the container is emptied while the program runs
            try:
                value, slopes = f(nest)
            except KeyError:
                continue
            if not np.isclose(value, wanted[k][0]) or not np.allclose(slopes["x"], wanted[k][1], atol=1e-12):
                wrong.append(k)

    def clear():
        while not stop.wait(0.003):
            f.cache_clear()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)] + [threading.Thread(target=clear)]
    for t in threads:
        t.start()
    for t in threads[:-1]:
        t.join()
    stop.set()
    threads[-1].join()
    assert not wrong


def test_dropping_the_function_frees_it(warm):
    f = tapejit.grad(lambda x: x * x)
    warm(f, 1.0)
    specs = [weakref.ref(s) for s in f._dispatcher.specs]
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None and all(s() is None for s in specs)


def test_the_builtin_may_outlive_its_function(warm):
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    call = type(f).__call__
    del f
    gc.collect()
    assert call(1.0) == 2.0 and call(np.ones(2)).tolist() == [2.0, 2.0]


def test_cache_clear_while_hot(warm):
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    f.cache_clear()
    assert f(1.0) == 2.0 and f.cache_info().currsize == 1


def test_threads_call_one_function():
    f = tapejit.value_and_grad(lambda x: np.sum(np.sin(x) ** 2))
    wrong = []

    def work(n):
        x = np.linspace(0.0, 1.0, n)
        for _ in range(300):
            value, gradient = f(x)
            if not np.allclose(gradient, np.sin(2 * x)) or not np.isclose(value, np.sum(np.sin(x) ** 2)):
                wrong.append(n)

    in_threads(work, (1, 2, 3, 3, 50, 50))
    assert not wrong


def test_arguments_that_change_while_the_function_runs():
    """What the entry checks is what was recorded, not what the containers hold by then."""
    nest = {"x": np.ones(3)}

    def clearing(p):
        total = np.sum(p["x"])
        p.pop("x")
        return total

    f = tapejit.jit(clearing)
    for _ in range(NATIVE_AFTER + 2):
        f(nest | {})
    with pytest.raises(KeyError):
        f({})
