"""Loops in machine code that never end: a signal's handler runs and may leave them, other threads go on meanwhile.

Each test is a process of its own that would hang otherwise. Values are compared with the closed form of the recurrence
s <- a s + b, which is c + a**n (s - c) with c = b / (1 - a).
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")

PRELUDE = '''
import gc, os, signal, sys, threading, time
import numpy as np
import tapejit

A, B = 0.75, 0.5
INF = np.array(np.inf)


def closed(s, n):
    return B / (1 - A) + A**n * (s - B / (1 - A))


def loop(s, limit):
    """s after as many iterations as the limit says."""
    step = lambda state: (A * state[0] + B, state[1] + 1.0)
    return tapejit.while_loop(lambda state: state[1] < limit, step, (s, 0.0))[0]


def later(handler=signal.default_int_handler, seconds=0.15):
    """A signal comes after a while."""
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def is_left(call, error=KeyboardInterrupt):
    try:
        call()
    except error:
        return True


def check(f, *args, wanted, limit=5.0, served=5, endless=INF):
    """f is right, is left in an endless loop, holds no reference to its arguments then, and is right again."""
    ending = np.array(limit)
    for _ in range(served):
        np.testing.assert_allclose(f(*args, ending), wanted, rtol=1e-12)
    objects = [*args, endless]
    before = [sys.getrefcount(x) for x in objects]
    for _ in range(2):
        later()
        assert is_left(lambda: f(*args, endless))
        gc.collect()
        assert [sys.getrefcount(x) for x in objects] == before
        np.testing.assert_allclose(f(*args, ending), wanted, rtol=1e-12)
    assert f.cache_info().misses == 1


x = np.array(3.0)
xs = np.linspace(-2.0, 4.0, 300)
'''

LOOPS = {
    "scalar": "check(tapejit.jit(loop), x, wanted=closed(x, 5))",
    "first calls": "check(tapejit.jit(loop), x, wanted=closed(x, 5), served=1)",
    "grad": "check(tapejit.grad(loop), x, wanted=A**5)",
    "array": "check(tapejit.jit(loop), xs, wanted=closed(xs, 5))",
    "array grad": "check(tapejit.grad(lambda s, limit: np.sum(loop(s, limit))), xs, wanted=np.full(300, A**5))",
    "lanes in registers": "check(tapejit.vmap(loop, (0, None)), xs[:8].copy(), wanted=closed(xs[:8], 5))",
    "lanes": "check(tapejit.vmap(loop, (0, None)), xs, wanted=closed(xs, 5))",
    "lanes of gradients": "check(tapejit.vmap(tapejit.grad(loop), (0, None)), xs, wanted=np.full(300, A**5))",
    "in a scan": """
def f(s, limit):
    return tapejit.scan(lambda s, _: (loop(s, limit), s), s, length=4)[1]
check(tapejit.jit(f), x, wanted=[closed(x, 5 * k) for k in range(4)])
check(tapejit.jit(f), xs, wanted=[closed(xs, 5 * k) for k in range(4)])
""",
    "in a while": """
def f(s, limit):
    outer = lambda s: (loop(s[0], limit), s[1] + 1)
    return tapejit.while_loop(lambda s: s[1] < 3, outer, (s, 0))[0]
check(tapejit.grad(f), x, wanted=A**15)
""",
    "in a branch": """
check(tapejit.jit(lambda s, limit: tapejit.cond(limit > 3, lambda s: loop(s, limit), lambda s: s, s)), x, wanted=closed(x, 5))
""",
    "without the GIL": """
def f(s, limit):
    return loop(np.sum(np.sin(np.sin(s))), limit)
many = np.linspace(-2.0, 4.0, 100_000)
check(tapejit.jit(f), many, wanted=closed(np.sum(np.sin(np.sin(many))), 5))
""",
    "into": """
out = np.empty(300)
f = tapejit.jit(loop)
before = sys.getrefcount(out)
for _ in range(5):
    np.testing.assert_allclose(f.into(out, xs, np.array(5.0)), closed(xs, 5), rtol=1e-12)
later()
assert is_left(lambda: f.into(out, xs, INF)) and sys.getrefcount(out) == before
np.testing.assert_allclose(f.into(out, xs, np.array(5.0)), closed(xs, 5), rtol=1e-12)
""",
    "while it is recorded": """
f = tapejit.jit(loop)
later()
assert is_left(lambda: f(x, INF)) and f.cache_info().currsize == 0
np.testing.assert_allclose(f(x, np.array(5.0)), closed(x, 5), rtol=1e-12)
""",
    "on a tape": """
for limit in 5.0, np.inf, 5.0:
    def call():
        with tapejit.GradientTape() as tape:
            s = tapejit.Variable(3.0)
            y = loop(s * 1.0, limit)
        return tape.gradient(y, s)
    if limit == 5.0:
        np.testing.assert_allclose(call(), A**5, rtol=1e-12)
    else:
        later()
        assert is_left(call)
""",
    "outside of records": """
np.testing.assert_allclose(loop(3.0, 5.0), closed(3.0, 5), rtol=1e-12)
later()
assert is_left(lambda: loop(3.0, np.inf))
np.testing.assert_allclose(loop(3.0, 5.0), closed(3.0, 5), rtol=1e-12)
""",
    "an iterator's bound": """
def f(s, n):
    return tapejit.fori_loop(0, n, lambda i, s: A * s + B, s)
check(tapejit.jit(f), x, wanted=closed(x, 5), limit=5, endless=np.array(1 << 62))
""",
    "counted": """
for s, count in ((x, 10**10), (xs, 10**9)):
    f = tapejit.jit(lambda s: tapejit.fori_loop(0, count, lambda i, s: A * s + B, s))
    later()
    assert is_left(lambda: f(s))
""",
    "many buffers": """
def f(s, limit):
    parts = tuple([s[i] for i in range(60)])
    step = lambda state: (tuple([A * p + B for p in state[0]]), state[1] + 1.0)
    return np.stack(tapejit.while_loop(lambda state: state[1] < limit, step, (parts, 0.0))[0])
check(tapejit.jit(f), xs[:60].copy(), wanted=closed(xs[:60], 5))
""",
    "many loops": """
def f(s, limit):
    for _ in range(12):
        s = s + loop(s, limit)
    return s
wanted = x
for _ in range(12):
    wanted = wanted + closed(wanted, 5)
check(tapejit.jit(f), x, wanted=wanted)
""",
    "an exception of the user's": """
class Enough(Exception):
    pass
def handler(number, frame):
    raise Enough("now")
f = tapejit.jit(loop)
for _ in range(5):
    f(x, np.array(5.0))
later(handler)
try:
    f(x, INF)
except Enough as error:
    assert error.args == ("now",) and error.__traceback__.tb_next is not None
np.testing.assert_allclose(f(x, np.array(5.0)), closed(x, 5), rtol=1e-12)
""",
    "a handler that returns": """
seen = []
def handler(number, frame):
    seen.append(float(f(x, np.array(5.0))))  # the loop's own function, whose arena is taken
    if len(seen) == 3:
        raise KeyboardInterrupt
    later(handler, 0.02)
f = tapejit.jit(loop)
for _ in range(5):
    f(x, np.array(5.0))
later(handler)
assert is_left(lambda: f(x, INF))
np.testing.assert_allclose(seen, [closed(x, 5)] * 3, rtol=1e-12)
""",
    "other threads go on": """
f, steps = tapejit.jit(loop), []
for _ in range(5):
    f(x, np.array(5.0))
def other():
    ready.wait()
    while len(steps) < 30:
        steps.append(time.sleep(0.001))
    os.kill(os.getpid(), signal.SIGINT)
ready = threading.Event()
thread = threading.Thread(target=other)
thread.start()
def call():
    ready.set()
    f(x, INF)
assert is_left(call)
thread.join()
assert len(steps) == 30
""",
    "endless in another thread": """
f = tapejit.jit(loop)
for _ in range(5):
    f(x, np.array(5.0))
def other():
    ready.set()
    f(x, INF)
ready = threading.Event()
threading.Thread(target=other, daemon=True).start()
ready.wait()
later()
assert is_left(lambda: time.sleep(100))
np.testing.assert_allclose(f(x, np.array(5.0)), closed(x, 5), rtol=1e-12)
""",
    "endless in another thread, without the GIL": """
many = np.linspace(-2.0, 4.0, 100_000)
f = tapejit.jit(lambda s, limit: loop(np.sum(np.sin(np.sin(s))), limit))
for _ in range(5):
    f(many, np.array(5.0))
ready = threading.Event()
threading.Thread(target=lambda: (ready.set(), f(many, INF)), daemon=True).start()
ready.wait()
later()
assert is_left(lambda: time.sleep(100))
""",
}


def run(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script], env=os.environ | environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", LOOPS)
def test_endless_loops_are_left(name):
    run(LOOPS[name])


@pytest.mark.parametrize("knob", [{"TAPEJIT_NATIVE": "0"}, {"TAPEJIT_INTERP": "1"}])
@pytest.mark.parametrize("name", ["scalar", "array grad", "an exception of the user's", "other threads go on"])
def test_endless_loops_are_left_without_machine_code(name, knob):
    run(LOOPS[name], **knob)


def test_object_code_from_disk_polls(tmp_path):
    script = LOOPS["scalar"] + """
from tapejit.codegen.entry import Executable
print(any(["optimize" in o.stats.compile_ms for o in gc.get_objects() if isinstance(o, Executable)]))
"""
    found = [run(script, TAPEJIT_CACHE_DIR=str(tmp_path / "cache")) for _ in range(2)]
    assert found == ["True\n", "False\n"]


def test_what_is_recorded_does_not_grow_with_the_iterations():
    script = """
def size(f, limit):
    return len(f.ir(x, np.array(limit), stage="recorded").splitlines())
assert size(tapejit.jit(loop), 5.0) == size(tapejit.jit(loop), 1e6)
import tracemalloc
f = tapejit.jit(loop)
f(x, np.array(5.0))
tracemalloc.start()
later(seconds=0.3)
assert is_left(lambda: tapejit.jit(lambda s, limit: loop(s, limit) + 1.0)(x, INF))
assert tracemalloc.get_traced_memory()[1] < 10_000_000
"""
    run(script)
    run(script, TAPEJIT_INTERP="1")
