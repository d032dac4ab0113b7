"""Loops that run more or less often at each call: one path for all numbers of iterations, each of them recorded once."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from support import in_threads

from tapejit import GradientTape, TapejitWarning, Variable, grad, hessian, jit, value_and_grad, vmap
from tapejit.errors import GuardError, HiddenStateError
from tapejit.ir.knobs import INTERP, NATIVE

RNG = np.random.default_rng(3)
NOISE = RNG.standard_normal(400)


def newton(x):
    y = 1.0 * x
    while abs(y * y - x) > 1e-11 * x:
        y = y - 0.3 * (y * y - x) / (2 * y)
    return y * np.sin(y)


def returns_before(x):
    y, last = 1.0 * x, 0.5 * x
    while y > 1.0:
        last, y = y, y * 0.9 - 0.001
    return y + last


def fibonacci(x):
    a, b = 1.0 * x, 2.0 * x
    while a < 1e8:
        a, b = b, a + b * 0.3
    return a / b * x


def own_steps(x):
    t, y = 0.0, 1.0 * x
    while t < 1.0:
        h = 0.02 * (1 + 0.1 * np.sin(y * 9))
        t, y = t + h, y - h * y * y
    return y


def count_behind(x):
    """Its own count, a Python number, in what it returns."""
    y, n = 1.0 * x, 0
    while y > 1.0:
        y, n = y * 0.95, n + 1
    return y * n + n


def guard_within(x):
    y, total = 1.0 * x, 0.0
    while y > 1.0:
        y = y * 0.95
        total = total + y if y < 1e9 else total - y
    return total + y


def barrier(p):
    """A Python range, numbers that change, a window that moves, a return from within."""
    s = p * 1.0
    for k in range(400):
        s = s * np.exp(0.02 * NOISE[k] + 0.0005 * k * 0.1)
        if s > 1.6:
            return s * 0.3 + p
    return s


def two_loops(x):
    y = 1.0 * x
    while y > 1.0:
        y = y * 0.95
    z = y * 3.0
    while z < 50 + x:
        z = z * 1.02 + 0.01
    return y * z


def branch_behind(x):
    y = 1.0 * x
    while y > 1.0:
        y = y * 0.93 + 0.001
    return y**2 if y > 0.97 else np.sin(y)


def loops_in_a_loop(x):
    total = 0.0
    for i in range(3):
        y = x * (i + 1.0)
        while y > 1:
            y = y * 0.95
        total = total + y
    return total


PROGRAMS = {  # function -> (arguments, most paths)
    newton: (RNG.uniform(0.01, 1e5, 25), 1),
    returns_before: ([0.3, 0.9, 1.05, 5.0, 1e3, 1e4, 2e4, 0.1, 1.01, 3e3, 7.0], 2),
    fibonacci: (RNG.uniform(1e-5, 0.1, 15), 1),
    own_steps: (RNG.uniform(0.5, 3.0, 15), 1),
    count_behind: (RNG.uniform(2, 2000, 20), 1),
    guard_within: (RNG.uniform(2, 2000, 20), 1),
    barrier: (RNG.uniform(0.5, 1.4, 15), 3),
    two_loops: (RNG.uniform(2, 200, 12), 1),
    branch_behind: (RNG.uniform(2, 20000, 30), 3),
    loops_in_a_loop: (RNG.uniform(2, 300, 12), 1),
}


def slope_of(f, x, h=1e-6):
    return (f(x + h * x) - f(x - h * x)) / (2 * h * x)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_values_and_derivatives(f):
    points, most = PROGRAMS[f]
    g = value_and_grad(f)
    second = grad(grad(f))
    for x in [float(x) for x in points] * 2:
        value, slope = g(x)
        assert_allclose(value, f(x), rtol=1e-12)
        assert_allclose(slope, slope_of(f, x), rtol=2e-5, atol=1e-7)
        assert_allclose(second(x), slope_of(lambda v: g(v)[1], x), rtol=2e-4, atol=1e-6)
    assert g.cache_info().paths <= most and second.cache_info().paths <= most


@pytest.mark.skipif(INTERP.value or not NATIVE.value, reason="no machine code answers calls")
def test_counts_that_were_recorded_run_native_and_others_are_recorded():
    g = jit(newton)
    points = [float(x) for x in np.geomspace(0.1, 1e6, 30)]
    for x in points * 2:
        g(x)
    misses, hits = g.cache_info().misses, g._dispatcher.hits
    for x in points:
        assert g(x) == pytest.approx(newton(x), rel=1e-12)
    assert g.cache_info().misses == misses and g._dispatcher.hits == hits + 30
    assert g(1e30) == pytest.approx(newton(1e30), rel=1e-9) and g.cache_info().misses == misses + 1
    assert g.cache_info().paths == 1


def test_what_a_hidden_counter_does_is_not_inferred():
    """Runs of 76 and of 78 iterations say nothing of one of 77, the counter being a Python number."""

    def f(x):
        y, n = 1.0 * x, 0
        while y > 1.0:
            y, n = y * 0.97, n + 1
        return y * 2.0 if n == 77 else y

    g = jit(f)
    for n in (76, 78, 100, 77, 60, 77, 101, 76):
        x = 0.97 ** -(n - 0.5)
        assert g(x) == pytest.approx(f(x), rel=1e-12)
    assert g.cache_info().paths == 2


def test_pairs_of_counts_are_known_not_each_alone():
    def f(x, z):
        y, n = 1.0 * x, 0
        while y > 1.0:
            y, n = y * 0.9, n + 1
        while z > 1.0:
            z, n = z * 0.9, n + 1
        return y + z if n < 70 else y - z

    g = jit(f)
    lengths = (30, 50), (50, 15), (30, 15), (50, 50), (15, 50), (40, 29), (40, 31)
    for a, b in lengths * 2:
        x, z = 0.9 ** -(a - 0.5), 0.9 ** -(b - 0.5)
        assert g(x, z) == pytest.approx(f(x, z), rel=1e-12)


def test_another_number_behind_a_loop_of_the_same_count_is_hidden_state():
    clock = itertools.count()

    def f(x):
        y = 1.0 * x
        while y > 1.0:
            y = y * 0.95
        return y * float(next(clock))

    g = jit(f)
    g(50.0), g(2000.0)
    with pytest.raises(HiddenStateError, match="at test_trips.py"):
        g(3000.0), g(2000.0), g._find((2000.0,), {})[1].run_as(g._record((2000.0,), {})[0])


def test_more_counts_and_more_iterations_than_there_was_room_for():
    def f(x, n):
        y = x * 1.0
        while n > 0:
            y, n = y * 1.001 + 0.0001, n - 1
        return y

    g = value_and_grad(f)
    for n in (200, *range(0, 160, 2), 5000, 199):
        value, slope = g(1.5, float(n))
        assert_allclose(value, f(1.5, n), rtol=1e-12)
        assert_allclose(slope, 1.001**n, rtol=1e-12)
    assert g.cache_info().paths == 1 and "loop 0 to 5,000 times, 83 ways" in g.explain(1.5, 200.0)


def test_counts_between_loops_and_among_the_results():
    def f(x):
        y, n = 1.0 * x, 0
        while y > 1.0:
            y, n = y * 0.95, n + 1
        z, m = y * n + 3.0, 0
        while z < 2000.0 * x**0.1:
            z, m = z * 1.03, m + 1
        return z, n, m * 0.5

    g = jit(f)
    for x in [float(x) for x in np.geomspace(3e3, 3e7, 14)] * 2:
        for got, want in zip(g(x), f(x)):
            assert type(got) is not np.ndarray and got == pytest.approx(want, rel=1e-12)


def test_arrays_of_floats_and_hessians():
    def f(x):
        y = x * 1.0
        while np.sum(y * y) > 1e-3:
            y = y * 0.9 + 0.01 * np.sin(y[::-1])
        return np.sum(y**3)

    g, h, g32 = grad(f), hessian(f), value_and_grad(f)
    for scale in (1.0, 3.0, 100.0, 2.0, 40.0):
        x = scale * np.array([0.3, -0.2, 0.5])
        steps = np.eye(3) * 1e-6 * scale
        expected = [(f(x + e) - f(x - e)) / (2e-6 * scale) for e in steps]
        assert_allclose(g(x), expected, rtol=1e-4, atol=1e-9)
        expected = [(g(x + e) - g(x - e)) / (2e-6 * scale) for e in steps]
        assert_allclose(h(x), expected, rtol=1e-3, atol=1e-8)
        value, slope = g32(x.astype(np.float32))
        assert value.dtype == slope.dtype == np.float32
        assert_allclose(slope, g(x), rtol=2e-3, atol=1e-5)


def test_lists_of_all_iterations_have_a_path_for_each_number():
    def f(x):
        ys = [x]
        while ys[-1] > 1:
            ys.append(ys[-1] * 0.96)
        return sum(ys)

    g = value_and_grad(f)
    for x in (50.0, 300.0, 51.0, 70.0):
        value, slope = g(x)
        assert_allclose(value, f(x), rtol=1e-12)
        assert_allclose(slope, slope_of(f, x), rtol=1e-6)


def test_lanes_of_different_counts_are_an_error_as_before():
    g = vmap(newton)
    with pytest.raises(GuardError, match="differs between lanes"):
        g(np.array([2.0, 1e5]))
    assert_allclose(g(np.array([2.0, 2.0])), newton(2.0), rtol=1e-12)


def test_inside_other_transforms_and_on_tapes():
    inner = grad(newton)
    outer = grad(lambda x: inner(x) * x)
    for x in (3.0, 1e4, 70.0):
        assert_allclose(outer(x), slope_of(lambda v: inner(v) * v, x), rtol=1e-5)
        with GradientTape() as tape:
            v = Variable(x)
            out = newton(v) * 2.0
        assert_allclose(tape.gradient(out, v).numpy(), 2 * slope_of(newton, x), rtol=1e-5)


def test_threads_share_the_counts():
    g, wrong = value_and_grad(returns_before), []

    def work(seed):
        for x in np.random.default_rng(seed).uniform(0.5, 3e4, 120):
            if abs(g(float(x))[0] - returns_before(float(x))) > 1e-11:
                wrong.append(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TapejitWarning)
        in_threads(work, range(4))
    assert not wrong


# ---- random loops --------------------------------------------------------------------------------------------------------
LINES = [
    "b = 0.5 * b + 0.1 * np.sin(a)", "b = np.maximum(b, 0.01 * a) * 0.9", "b, c = c, 0.9 * b + 0.1", "t = t + 0.01 * n",
    "b = b + 0.01 * t", "c = 0.7 * c + 0.2 * b * w[n % 7]", "last = a", "c = c - 0.01 * z[n % 300]", "c = 0.8 * c + last",
    "if b > 50.0: b = b * 0.5", "if n == 40: c = c + 1.0", "if a < 0.02 * x: break", "if n > 55: c = c * 0.9",
]  # fmt: skip
RESULTS = ["a + b * c", "a * n + b", "b if b > 0.3 else a * c", "last + a * t", "(a + c) * (n + 0.5)", "np.sin(b) + c * last"]


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=5), st.sampled_from(RESULTS), st.booleans(), st.booleans())
def test_random_loops(lines, result, twice, counted):
    check_random(lines, result, twice, counted)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=6), st.sampled_from(RESULTS), st.booleans(), st.booleans())
def test_many_random_loops(lines, result, twice, counted):
    check_random(lines, result, twice, counted)


def check_random(lines, result, twice, counted):
    """Values and gradients of a loop, perhaps with another behind it, at arguments that it takes other counts for."""
    head = "for n in range(200):" if counted else "while a > 1.0:"
    test = ["if a < 1.0: break"] if counted else []
    step = ["a = a * 0.95 + 0.005 * np.tanh(b)", *([] if counted else ["n = n + 1"])]
    loop = [head, *["    " + line for line in [*test, *lines, *step]]]
    more = ["while b < 30.0:", "    b = b * 1.05 + 0.3"] if twice else []
    start = ["a, b, c, t, n, last = x * 1.0, 0.4 * x, 0.3, 0.0, 0, x", *loop, *more]
    text = "\n    ".join(["def f(x, seen=None):", *start, "if seen is not None: seen.append(n)", f"return {result}"])
    scope = {"np": np, "w": np.linspace(0.5, 1.0, 7), "z": NOISE}
    exec(compile(text, "<random>", "exec"), scope)
    f = scope["f"]
    g = value_and_grad(lambda x: f(x))
    for x in [300.0, 20.0, 3e3, 21.0, 0.5, 2e4, 305.0, 3.0, 500.0, 20.0, 3e3]:
        value, slope = g(x)
        assert_allclose(value, f(x), rtol=1e-11)
        h = 1e-6 * x
        counts = []
        near = [f(x + m * h, counts) for m in (-1, -0.5, 0, 0.5, 1)]
        want, other = (near[4] - near[0]) / (2 * h), (near[3] - near[1]) / h
        if len(set(counts)) == 1 and abs(want - other) < 1e-4 * (1 + abs(want)):  # else there is a border between
            assert_allclose(slope, want, rtol=1e-3, atol=1e-4)
