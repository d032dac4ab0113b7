"""scan, fori_loop, while_loop, cond, switch, map: against Python, differences and straight code; nested, mapped, on tapes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit
from tapejit import (
    GradientTape,
    cond,
    fori_loop,
    grad,
    hessian,
    hvp,
    jacobian,
    jit,
    jvp,
    scan,
    switch,
    value_and_grad,
    vmap,
    while_loop,
)
from tapejit.errors import ArgumentError, ArgumentTypeError, GuardError, OutputError, ShapeError
from tapejit.ir.knobs import INTERP, LOOP_BYTES


def slope(f, x, step=1e-5):
    """Gradient by a difference of fourth order."""
    x = np.asarray(x, float)
    out = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        d = np.zeros(x.shape)
        d[i] = step
        out[i] = (8 * (f(x + d) - f(x - d)) - (f(x + 2 * d) - f(x - 2 * d))) / (12 * step)
    return out


@pytest.fixture(params=["compiled", "interpreted"], autouse=True)
def how(request):
    with INTERP.at(int(request.param == "interpreted")):
        yield request.param


# ---- scan --------------------------------------------------------------------------------------------------------------
def pendulum(p, steps=300):
    """Angle and speed after so many steps, and the mean energy on the way; p: angle, speed, length, friction."""
    def step(state, push):
        angle, speed = state["angle"], state["speed"]
        speed = speed + 0.01 * (push - 9.81 / p[2] * np.sin(angle) - p[3] * speed)
        angle = angle + 0.01 * speed
        return {"angle": angle, "speed": speed}, speed * speed + 19.62 / p[2] * (1 - np.cos(angle))

    push = np.linspace(0, 1, steps)
    last, energy = scan(step, {"angle": p[0], "speed": p[1]}, push)
    return last["angle"] * last["speed"] + np.mean(energy)


def pendulum_in_python(p, steps=300):
    angle, speed, total = p[0], p[1], 0.0
    for push in np.linspace(0, 1, steps):
        speed = speed + 0.01 * (push - 9.81 / p[2] * np.sin(angle) - p[3] * speed)
        angle = angle + 0.01 * speed
        total = total + speed * speed + 19.62 / p[2] * (1 - np.cos(angle))
    return angle * speed + total / steps


P = np.array([0.5, 0.1, 1.3, 0.2])


def test_scan_is_the_loop():
    assert_allclose(pendulum(P), pendulum_in_python(P), rtol=1e-12)
    for f in (jit(pendulum), lambda p: pendulum(tapejit.Array(p)).numpy()):
        assert_allclose(f(P), pendulum_in_python(P), rtol=1e-12)


def test_derivatives_of_scan():
    g = grad(pendulum)
    assert_allclose(g(P), slope(pendulum_in_python, P), rtol=1e-8)
    assert_allclose(g(P * 1.1), slope(pendulum_in_python, P * 1.1), rtol=1e-8)
    assert_allclose(jvp(pendulum, (P,), (P,))[1], slope(pendulum_in_python, P) @ P, rtol=1e-8)
    h = np.stack([slope(lambda p: grad(pendulum)(p)[i], P) for i in range(4)])  # noqa: B023
    assert_allclose(hessian(pendulum)(P), h, rtol=1e-6, atol=1e-6)
    assert_allclose(hvp(pendulum)(P, P), h @ P, rtol=1e-6)
    assert_allclose(jacobian(g, mode="reverse")(P), h, rtol=1e-6, atol=1e-6)


def test_lanes_of_scan():
    lanes = np.stack([P, P * 1.1, P * 0.9])
    assert_allclose(vmap(pendulum)(lanes), [pendulum_in_python(p) for p in lanes], rtol=1e-12)
    assert_allclose(vmap(grad(pendulum))(lanes), [grad(pendulum)(p) for p in lanes], rtol=1e-11)


def test_scan_on_a_tape():
    p = tapejit.Array(P)
    with GradientTape() as tape:
        tape.watch(p)
        y = pendulum(p)
    assert_allclose(tape.gradient(y, p).numpy(), slope(pendulum_in_python, P), rtol=1e-8)


def test_scan_backward_and_over_several_arrays():
    def f(x, w):
        def step(carry, row):
            a, (b, c) = row
            return carry * 0.5 + a * b, carry - c

        return scan(step, np.float64(0.0), (x, [x * 2, w]), reverse=True)

    x, w = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])
    carry, ys = f(x, w)
    c, out = 0.0, []
    for a, b in zip(x[::-1], w[::-1]):
        out.append(c - b)
        c = c * 0.5 + a * 2 * a
    assert_allclose(carry, c)
    assert_allclose(ys, out[::-1])
    got = grad(lambda x: f(x, w)[0] + np.sum(f(x, w)[1] ** 2))(x)
    assert_allclose(got, slope(lambda x: f(x, w)[0] + np.sum(f(x, w)[1] ** 2), x), rtol=1e-8)


def test_memory_is_bounded_and_the_gradient_the_same():
    want = grad(pendulum)(P)
    with LOOP_BYTES.at(400):
        f = grad(lambda p: pendulum(p))
        assert_allclose(f(P), want, rtol=1e-12)
        text = f.ir(P)
    assert "length=17" in text and "f64[300]" in text and "f64[17]" in text  # of carries, 17 and 17 at a time


def test_carries_without_rows_and_numbers_that_become_arrays_of_another_dtype():
    assert scan(lambda c, _: (c + 1, c), 0, None, length=4)[0] == 4
    c, ys = scan(lambda c, x: (c + x, c), 0, np.array([0.5, 0.25], np.float32))
    assert c == 0.75 and ys.dtype == np.float32
    assert scan(lambda c, _: (c * 2.0, None), np.ones(3), None, length=3)[1] is None
    c, ys = scan(lambda c, x: (c + x, x), 1.5, np.zeros(0))
    assert c == 1.5 and ys.shape == (0,)


def test_what_a_body_closes_over_is_read_at_each_call():
    data = np.array([1.0, 2.0])
    f = jit(lambda x: scan(lambda c, _: (c + np.sum(data) * x, ()), 0.0, None, length=2)[0])
    assert f(1.0) == 6.0
    data[:] = 10.0
    assert f(1.0) == 40.0


def test_map_is_a_loop_without_carry():
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert_allclose(tapejit.map(lambda r: np.sum(r) * r, x), np.sum(x, 1)[:, None] * x)
    f = grad(lambda x: np.sum(tapejit.map(lambda r: np.sum(r**3), x)))
    assert_allclose(f(x), 3 * x**2, rtol=1e-12)
    assert "scan" not in f.ir(x)


# ---- fori_loop and while_loop ------------------------------------------------------------------------------------------
def test_fori_loop_over_known_and_recorded_bounds():
    def f(x, n):
        return fori_loop(0, n, lambda i, y: y * x + i, x * 0.0)

    def plain(x, n):
        y = 0.0
        for i in range(n):
            y = y * x + i
        return y

    for n in (0, 1, 5):
        assert_allclose(f(1.5, n), plain(1.5, n))
        assert_allclose(grad(lambda x: f(x, n))(1.5), slope(lambda x: plain(x, n), 1.5), rtol=1e-9, atol=1e-12)  # noqa: B023
    g = jit(value_and_grad(f))
    for n in (3, 7, 0, 20, 100):
        value, d = g(0.9, n)
        assert_allclose(value, plain(0.9, n), rtol=1e-13)
        assert_allclose(d, slope(lambda x: plain(x, n), 0.9), rtol=1e-7, atol=1e-12)  # noqa: B023


def kepler(e, m):
    """Eccentric anomaly by Newton's method."""
    def step(state):
        x, _ = state
        d = (x - e * np.sin(x) - m) / (1 - e * np.cos(x))
        return x - d, d

    return while_loop(lambda s: abs(s[1]) > 1e-14, step, (m + e * 0.0, m * 0.0 + 1.0))[0]


def test_while_loop_and_its_derivatives_against_the_implicit_ones():
    f, second = value_and_grad(kepler, argnums=(0, 1)), grad(grad(kepler, argnums=1), argnums=1)
    for e, m in [(0.1, 0.5), (0.5, 2.0), (0.9, 0.3), (0.97, 0.05), (0.3, 3.0)]:
        x, (de, dm) = f(e, m)
        c = 1 - e * np.cos(x)
        assert_allclose(x - e * np.sin(x), m, rtol=1e-13)
        assert_allclose([de, dm], [np.sin(x) / c, 1 / c], rtol=1e-10)
        assert_allclose(second(e, m), -e * np.sin(x) / c**3, rtol=1e-8)
    assert f.cache_info().paths <= 2  # of 8 iterations, and of up to 16


def test_a_while_loop_that_needs_more_room_is_recorded_again():
    f = value_and_grad(lambda x: while_loop(lambda y: y < 1000.0, lambda y: y * 1.1, x))
    for x, paths in [(900.0, 1), (500.0, 1), (100.0, 2), (1.0, 3), (900.0, 3), (1.0, 3), (2000.0, 3)]:
        n = 0
        y = x
        while y < 1000.0:
            y, n = y * 1.1, n + 1
        value, d = f(x)
        assert_allclose(value, y, rtol=1e-12)
        assert_allclose(d, 1.1**n, rtol=1e-12)
        assert f.cache_info().paths == paths


def test_a_while_loop_in_a_scan_gets_more_room():
    def f(x):
        def row(total, v):
            y = while_loop(lambda y: y < 100.0, lambda y: y * 1.5, v * x)
            return total + y, ()

        return scan(row, 0.0, np.array([90.0, 50.0, 5.0, 0.01]))[0]

    def plain(x):
        total, slope = 0.0, 0.0
        for v in (90.0, 50.0, 5.0, 0.01):
            y, d = v * x, v
            while y < 100.0:
                y, d = y * 1.5, d * 1.5
            total, slope = total + y, slope + d
        return total, slope

    g = value_and_grad(f)
    for x in (1.0, 0.5, 1e-4, 1.5, 1e-4):
        assert_allclose(g(x), plain(x), rtol=1e-12)
    assert g.cache_info().paths <= 3


def square_root(a):
    return while_loop(lambda x: abs(x * x - a) > 1e-13 * a, lambda x: (x + a / x) / 2, a)


def test_lanes_that_need_more_room_inside_records_and_on_tapes():
    """The lane recorded takes 6 iterations, the last one 20."""
    v = np.array([2.0, 3.0, 1e9])
    assert_allclose(jit(lambda v: vmap(grad(square_root))(v))(v), 0.5 / np.sqrt(v), rtol=1e-9)
    a = tapejit.Array(v)
    with GradientTape() as tape:
        tape.watch(a)
        y = vmap(square_root)(a)
    assert_allclose(tape.gradient(y, a).numpy(), 0.5 / np.sqrt(v), rtol=1e-9)


@pytest.mark.parametrize("steps", [100, 2000])
def test_lanes_that_differ_within_a_folded_loop_are_told_with_the_line(steps):
    def grown(s):
        for _ in range(steps):
            s = s * 1.0002 + 0.01
            if s > 50.0:
                return s * 2
        return s

    lanes = np.array([0.1, 0.2, 49.5])
    refused(GuardError, lambda: vmap(grown)(lanes), "if s > 50.0", "differs between lanes")
    refused(GuardError, lambda: jit(lambda v: np.sum(vmap(grown)(v)))(lanes), "if s > 50.0", "differs between lanes")


def test_what_is_imported_meanwhile_draws_no_random_numbers():
    """Compiling within a record imports modules that seed generators of their own."""
    import subprocess
    import sys

    text = "import tapejit; f = lambda a: tapejit.while_loop(lambda x: x < 9, lambda x: x * 2, a); print(tapejit.grad(f)(1.0))"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout == "16.0\n"


def test_lanes_of_while_run_until_the_last_is_done():
    e, m = np.array([0.1, 0.9, 0.97, 0.5]), np.array([0.5, 0.3, 0.05, 2.0])
    assert_allclose(vmap(kepler)(e, m), [kepler(a, b) for a, b in zip(e, m)], rtol=1e-13)
    got = vmap(grad(kepler))(e, m)
    assert_allclose(got, [grad(kepler)(a, b) for a, b in zip(e, m)], rtol=1e-10)


# ---- branches ----------------------------------------------------------------------------------------------------------
def test_cond_takes_one_branch_and_one_path():
    f = value_and_grad(lambda x: cond(x > 0, lambda x: x**3, lambda x: np.sin(x) * 2, x))
    for x in (2.0, -1.0, 0.5, -3.0):
        want = (x**3, 3 * x**2) if x > 0 else (np.sin(x) * 2, np.cos(x) * 2)
        assert_allclose(f(x), want, rtol=1e-14)
    assert f.cache_info().paths == 1
    second = grad(grad(lambda x: cond(x > 0, lambda: x**3, lambda: x**2)))
    assert second(2.0) == 12.0 and second(-2.0) == 2.0


def test_the_branch_not_taken_leaks_no_nan():
    f = grad(lambda x: cond(x > 0, np.sqrt, lambda x: x * 0.0 + 1.0, x))
    assert f(-1.0) == 0.0 and f(4.0) == 0.25
    x = np.array([-1.0, 4.0, 0.0])
    assert_array_equal(vmap(grad(lambda x: cond(x > 0, lambda x: np.log(x), lambda x: -x, x)))(x), [-1.0, 0.25, -1.0])


def test_switch_clamps_and_differentiates():
    branches = [np.sin, np.cos, lambda x: x**3]
    f = value_and_grad(lambda x, i: switch(i, branches, x))
    for i in (-2, 0, 1, 2, 9):
        k = min(max(i, 0), 2)
        want = [(np.sin(0.7), np.cos(0.7)), (np.cos(0.7), -np.sin(0.7)), (0.7**3, 3 * 0.7**2)][k]
        assert_allclose(f(0.7, i), want, rtol=1e-14)
    x, i = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 2, 1])
    got = vmap(lambda x, i: switch(i, branches, x))(x, i)
    assert_allclose(got, [np.sin(0.1), np.cos(0.2), 0.3**3, np.cos(0.4)])


def test_branches_may_close_over_different_things():
    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])

    def f(x, y):
        return np.sum(cond(x[0] > 0, lambda: x * a + y, lambda: y * b))

    g = grad(f, argnums=(0, 1))
    x, y = np.array([1.0, -1.0]), np.array([0.5, 0.5])
    for s in (1, -1):
        dx, dy = g(s * x, y)
        assert_array_equal(dx, a if s > 0 else [0, 0])
        assert_array_equal(dy, [1, 1] if s > 0 else b)


def test_a_plain_predicate_is_pythons_own_choice():
    assert cond(True, lambda x: x + 1, lambda x: (x, x), 1.0) == 2.0
    assert switch(1, [np.sin, np.cos], 0.0) == 1.0


# ---- nested ------------------------------------------------------------------------------------------------------------
def test_everything_nests():
    def f(x):
        def row(total, w):
            inner, _ = scan(lambda c, v: (c * 0.9 + v * w, ()), total, x)
            root = while_loop(lambda y: abs(y * y - 2.0 - inner * inner) > 1e-13, lambda y: (y + (2 + inner * inner) / y) / 2,
                              1.0 + inner * 0)  # fmt: skip
            return cond(root > 1.6, lambda: root + inner, lambda: root - inner * w), root

        last, roots = scan(row, 0.1, x)
        return last + np.sum(roots**2)

    def plain(x):
        total, squares = 0.1, 0.0
        for w in x:
            inner = total
            for v in x:
                inner = inner * 0.9 + v * w
            root = np.sqrt(2 + inner * inner)
            total = root + inner if root > 1.6 else root - inner * w
            squares += root**2
        return total + squares

    x = np.array([0.3, -0.4, 0.9])
    assert_allclose(jit(f)(x), plain(x), rtol=1e-12)
    assert_allclose(grad(f)(x), slope(plain, x), rtol=1e-8)
    assert_allclose(hessian(f)(x), np.stack([slope(lambda x: grad(f)(x)[i], x) for i in range(3)]), rtol=1e-5)  # noqa: B023
    lanes = np.stack([x, x * 0.5, -x])
    assert_allclose(vmap(grad(f))(lanes), [slope(plain, r) for r in lanes], rtol=1e-7)


def test_dumps_name_the_functions():
    def swing(state, push):
        return state * 0.5 + push, state

    text = jit(lambda x: scan(swing, 0.0, x)[0]).ir(np.ones(3))
    assert "func @swing(" in text and "length=3" in text and "test_control.py" in text


# ---- errors ------------------------------------------------------------------------------------------------------------
def refused(error, f, *words):
    with pytest.raises(error) as caught:
        f()
    message = str(caught.value)
    assert "test_control.py" in message and "instead" in message
    for word in words:
        assert word in message, message


def test_errors_say_what_and_where():
    x = np.ones(3)
    refused(OutputError, lambda: scan(lambda c, v: (c, c, v), 0.0, x), "did not return a pair")
    refused(OutputError, lambda: scan(lambda c, v: ((c, c), v), 0.0, x), "structure of init")
    refused(OutputError, lambda: scan(lambda c, v: ({"a": x}, v), {"a": np.float64(0)}, x), "carry['a'] is f64 at", "f64[3]")
    refused(OutputError, lambda: scan(lambda c, v: (c + v, v), np.float32(0), x), "f32 at first and f64", "init.astype(f64)")
    refused(ShapeError, lambda: scan(lambda c, v: (c, v), 0.0, {"a": x, "b": np.ones(4)}), "xs['a'] has 3 rows, xs['b'] has 4")
    refused(ShapeError, lambda: scan(lambda c, v: (c, v), 0.0, 1.0), "xs is a number")
    refused(ShapeError, lambda: scan(lambda c, v: (c, v), 0.0, x, length=4), "length=4")
    refused(ArgumentError, lambda: scan(lambda c, v: (c, v), 0.0), "length=None")
    refused(OutputError, lambda: while_loop(lambda x: x > 0, lambda x: x - 1, np.ones(2)), "not one truth value")
    refused(ArgumentTypeError, lambda: fori_loop(0, 2.5, lambda i, y: y, 0.0), "2.5 is no whole number")
    refused(ShapeError, lambda: cond(tapejit.Array([True, False]), np.sin, np.cos, 1.0), "shape (2,)")
    p = tapejit.Array(True)
    refused(OutputError, lambda: cond(p, lambda x: x, lambda x: (x, x), 1.0), "2 arrays", "one array")
    refused(OutputError, lambda: cond(p, lambda x: x, lambda x: x > 0, 1.0), "bool", "f64")
    refused(ArgumentTypeError, lambda: scan(3, 0.0, x), "no function")
    refused(ArgumentError, lambda: switch(0, []), "no branches")
    refused(ArgumentTypeError, lambda: switch(tapejit.Array(0.5), [np.sin]), "index")


def test_python_control_flow_on_values_of_a_body_is_refused():
    def body(c, v):
        if v > 0:
            return c + v, c
        return c, c

    refused(GuardError, lambda: scan(body, 0.0, np.ones(3)), "if v > 0", "tapejit.cond")
    refused(GuardError, lambda: jit(lambda x: scan(body, 0.0, x)[0])(np.ones(3)), "tapejit.cond")
    f = jit(lambda x, k: scan(lambda c, v: (c + v if k > 0 else c - v, ()), 0.0, x)[0])  # an outer value: a guard out there
    assert f(np.ones(3), 1.0) == 3.0 and f(np.ones(3), -1.0) == -3.0


SQUARED = lambda f: grad(lambda *a: np.sum(grad(f)(*a) ** 2))
EACH = lambda f: vmap(grad(f), (0, None))


@pytest.mark.parametrize("transform", [jit, grad, SQUARED, EACH])
def test_positions_that_a_body_computes(transform):
    """x[i] by the counter, within the axis; beyond it an error at that call."""

    def f(x, n):
        return fori_loop(0, n, lambda i, c: c * 0.5 + x[i] * x[i - 1] ** 2, 0.0 * x[0])

    def plain(x, n):
        c = 0.0
        for i in range(n):
            c = c * 0.5 + x[i] * x[i - 1] ** 2
        return c

    x = np.array([0.5, -1.0, 2.0, 0.3])
    x, g = np.stack([x, 2 * x]) if "vmap" in repr(transform(f)) else x, transform(f)
    for n in (3, 4, 1, 2, 4):
        assert_allclose(g(x, n), transform(lambda x, _, n=n: plain(x, n))(x, n), rtol=1e-13, atol=1e-14)
    for _ in range(2):
        with pytest.raises(IndexError, match="out of bounds for an axis of 4 elements"):
            g(x, 5)
    assert_allclose(tapejit.map(lambda i: tapejit.numpy.take(x, i), np.array([-1, 0])), np.take(x, [-1, 0]))
    refused(GuardError, lambda: tapejit.map(lambda i: x[i], np.array([0, 1])), "tapejit.numpy.take")


@pytest.mark.parametrize("what", ["scan", "while", "cond", "nested"])
def test_a_variable_that_a_body_closes_over_is_on_the_tape(what):
    def f(w):
        if what == "scan":
            return scan(lambda c, _: (np.sin(c) * w, ()), w, length=3)[0]
        if what == "while":
            return while_loop(lambda c: c < 9.0, lambda c: c * w + w, w)
        if what == "cond":
            return cond(w > 1.0, lambda v: v * w, lambda v: v / w, w)
        return scan(lambda c, v: (scan(lambda d, u: (d * u + w, ()), c, v * np.ones(2))[0], ()), w, w * np.ones(2))[0]

    w = tapejit.Variable(1.7)
    for _ in range(2):
        with GradientTape() as tape:
            y = f(w)
        assert_allclose(tape.gradient(y, w), grad(f)(w.numpy()), rtol=1e-12)
        w.assign(1.4)
