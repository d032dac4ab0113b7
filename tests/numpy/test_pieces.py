"""`np.piecewise` against NumPy's own: conditions recorded and plain, functions that mix elements, derivatives."""

import numpy as np
import pytest

import tapejit
from tapejit.array import Array

X = np.array([-2.0, -1.0, -0.3, 0.0, 0.4, 1.0, 2.5])
M = np.linspace(-1.0, 1.3, 12).reshape(3, 4)
PLAIN = [True, False, False, True, False, True, True]
MASK = np.array(PLAIN)

CASES = {
    "numbers": (lambda x: np.piecewise(x, [x < 0, x >= 0], [-1, 1]), X),
    "overlapping": (lambda x: np.piecewise(x, [x < 1, x > -1], [np.sin, lambda v: v * 2]), X),
    "not covered": (lambda x: np.piecewise(x, [x < -1, x > 1], [np.sin, lambda v: v**2]), X),
    "otherwise": (lambda x: np.piecewise(x, [x < -1, x > 1], [np.sin, lambda v: v**2, np.cos]), X),
    "a number otherwise": (lambda x: np.piecewise(x, [x < 0], [lambda v: -v, 7.5]), X),
    "one condition": (lambda x: np.piecewise(x, x < 0, [lambda v: -v, np.sqrt]), X),
    "arguments": (lambda x: np.piecewise(x, [x < 0], [lambda v, a, b=0: v * a + b, 9], 3, b=1), X[:5]),
    "matrix": (lambda x: np.piecewise(x, [x < 0, x > 0.5], [np.exp, np.log, lambda v: v**3]), M),
    "rows": (lambda x: np.piecewise(x, [x[:, 0] < 0], [lambda v: v * v.sum(1, keepdims=True), lambda v: v + v[:, :1]]), M),
    "list of conditions in an array": (lambda x: np.piecewise(x, np.stack([x < 0, x > 1]), [1, 2, np.sin]), X),
    "a table": (lambda x: np.piecewise(x, [x < 0], [lambda v: np.interp(v, [-2.0, -1.5, 0.1], [1.0, 5.0, 7.0])]), X),
    "constant arrays": (lambda x: np.piecewise(x, [x < 0], [np.zeros_like, lambda v: np.full_like(v, 3) + v]), X),
    "plain": (lambda x: np.piecewise(x, [PLAIN], [lambda v: v - v.mean(), lambda v: np.cumsum(v)]), X),
    "plain lists": (lambda x: np.piecewise(x, [[True, False] + [True] * 5], [lambda v: v / v.size]), X),
    "an array closed over": (lambda x: np.piecewise(x, [MASK], [np.sin, lambda v: v * 3]), X),
    "plain and recorded": (lambda x: np.piecewise(x, [PLAIN, x > 0.2], [np.sin, lambda v: v * 3, np.cos]), X),
    "values": (lambda x: np.piecewise(x, [x < 0], [[7.0, 8.0, 9.0]]), X),
    "scalar": (lambda x: np.piecewise(x, [x < 0, x > 0], [lambda v: -v, np.sqrt]), np.array(2.0)),
    "scalar, one condition": (lambda x: np.piecewise(x, x < 0, [lambda v: -v, np.sqrt]), np.array(2.0)),
    "scalar otherwise": (lambda x: np.piecewise(x, [x < 0], [np.sqrt, lambda v: v * 2]), np.array(2.0)),
    "nothing": (lambda x: np.piecewise(x, [x < 0], [lambda v: 1 / 0, 3]), X[:0]),
    "written argument": (lambda x: np.piecewise(x, [x < 0], [lambda v: (v.__imul__(3.0), v + 1)[1]]), X),
}


@pytest.mark.filterwarnings("error:.*:tapejit.TapejitWarning")
@pytest.mark.parametrize("name", CASES)
def test_as_numpy_has_it(name):
    f, x = CASES[name]
    want = f(x.copy())
    g = tapejit.jit(f)
    for got in (f(Array(x)).numpy(), g(x), g(x)):
        got = np.asarray(got)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-15)
    if x.size == 0 or name == "scalar, one condition":
        return
    flat, h = x.reshape(-1), 1e-6
    off = flat + 0.01  # no condition changes within h of it
    of = lambda v: np.sum(f(v.reshape(x.shape)) ** 2)
    slope = tapejit.grad(of)
    steps = np.eye(x.size) * h
    # NumPy's own on the differenced side; a log of 0 is on none of the pieces
    want = [(of(off + e) - of(off - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(slope(off), want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(tapejit.jvp(of, (off,), (np.ones(x.size),))[1], np.sum(want), rtol=1e-6, atol=1e-6)
    curved = [(slope(off + e) - slope(off - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(tapejit.hessian(of)(off), curved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64])
def test_the_dtype_is_that_of_x(dtype):
    f = lambda x: np.piecewise(x, [x < 0, x > 2], [lambda v: v / 3 - 0.4, 7.5, np.sqrt])
    x = np.arange(-3, 5).astype(dtype)
    with np.errstate(invalid="ignore"):
        for got in (f(Array(x)).numpy(), tapejit.jit(f)(x)):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, f(x), rtol=1e-6)


def test_nan_of_a_piece_that_is_not_taken_stays_there():
    f = lambda x: np.piecewise(x, [x > 0], [lambda v: np.sqrt(v) * np.log(v), lambda v: v**2])
    assert np.array_equal(tapejit.jit(f)(X), f(X))
    value = lambda x: np.sum(f(x))
    want = np.where(X > 0, np.log(abs(X) + (X <= 0)) / 2 + 1, 1) / np.where(X > 0, np.sqrt(abs(X)), 1)
    np.testing.assert_allclose(tapejit.grad(value)(X), np.where(X > 0, want, 2 * X), rtol=1e-12)
    assert np.isfinite(tapejit.hessian(value)(X)).all()
    assert np.isfinite(tapejit.jvp(value, (X,), (np.ones(7),))[1])


def test_one_path_for_all_counts_vmap_and_tape():
    f = lambda x, t: np.piecewise(x, [x < t, x > 1], [lambda v: v * t, lambda v: t, lambda v: v**2 + t])
    jitted = tapejit.jit(f)
    rows = np.stack([X, -X, X * 0])
    for row, t in zip(rows, (0.5, -0.2, 3.0)):
        np.testing.assert_array_equal(jitted(row, t), f(row, t))
    assert jitted.cache_info().paths == 1
    np.testing.assert_array_equal(tapejit.vmap(f, in_axes=(0, None))(rows, 0.5), [f(row, 0.5) for row in rows])
    with tapejit.GradientTape() as tape:
        x, t = Array(X), tapejit.Variable(0.5)
        tape.watch(x)
        y = np.sum(f(x, t) ** 2)
    for got, want in zip(tape.gradient(y, [x, t]), tapejit.grad(lambda x, t: np.sum(f(x, t) ** 2), argnums=(0, 1))(X, 0.5)):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-13)


MIXING = {
    "mean": lambda v: v - v.mean(), "max": lambda v: v * (np.max(v) - 3), "cumsum": np.cumsum, "flip": lambda v: v[::-1],
    "slice": lambda v: v - v[0], "size": lambda v: v * v.size, "positions": lambda v: v + np.arange(len(v)),
}  # fmt: skip


@pytest.mark.parametrize("what", MIXING)
def test_functions_see_the_elements_of_their_piece_only(what):
    f = lambda x: np.piecewise(x, [x < 0.1], [MIXING[what], np.sin])
    jitted, slope = tapejit.jit(f), tapejit.grad(lambda x: np.sum(f(x) * np.arange(7.0)))
    for x in (X, X[::-1] * 2, X - 1):
        np.testing.assert_allclose(jitted(x), f(x), rtol=1e-13)
        steps = np.eye(7) * 1e-6
        want = [np.sum((f(x + e) - f(x - e)) * np.arange(7.0)) / 2e-6 for e in steps]
        np.testing.assert_allclose(slope(x), want, rtol=1e-5, atol=1e-7)


def test_errors():
    for bad in (lambda x: np.piecewise(x, [x < 0], [1, 2, 3]), lambda x: np.piecewise(x, [x < 0, x > 0], [1])):
        for run in (bad, tapejit.jit(bad), lambda x: bad(Array(x))):  # noqa: B023
            with pytest.raises(ValueError, match=r"condition\(s\), either"):
                run(X)
    for bad in (lambda x: np.piecewise(x, [[True, False]], [1, 2]), lambda x: np.piecewise(x, [(x < 0)[:3]], [1, 2])):
        for run in (bad, tapejit.jit(bad)):
            with pytest.raises(IndexError, match="boolean index did not match"):
                run(X)
    with pytest.raises(ValueError, match="cannot assign 2 input values to the 3 output values"):
        tapejit.jit(lambda x: np.piecewise(x, [x < 0], [[7.0, 8.0]]))(X)
    with pytest.raises(ValueError, match="cannot assign 2 input values to the 3 output values"):
        tapejit.jit(lambda x: np.piecewise(x, [x < 0], [lambda v: np.ones(2)]))(X)
