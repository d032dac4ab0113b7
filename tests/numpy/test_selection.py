"""Recorded masks as indices. The same programs on ndarrays are the reference, differences check derivatives.

`FREE`: programs that never ask how many are selected, one path for all counts. `COUNTED`: those that do, one path per count.
"""


import numpy as np
import pytest

import tapejit
from tapejit.errors import GuardError

X = np.array([0.3, -0.7, 1.1, 0.4, -0.2, 0.9])
INPUTS = [X, -X, np.abs(X), -np.abs(X), X[::-1] * 2 - 0.7]  # 4, 2, 6, 0 and 3 are positive
COUNTS = 5
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def written(index, function):
    def program(x):
        y = x.copy()
        y[index(y)] = function(y, index(y))
        return y

    return program


def augmented(op, value):
    def program(x):
        y = x.copy()
        if op == "mul":
            y[y < 0] *= value
        elif op == "add":
            y[y < 0] += value
        elif op == "sub":
            y[y < 0] -= value * x[0]
        else:
            y[x > 0] **= value
        return y

    return program


def aliased(x):
    s = x[x > 0]
    t, u = s, +s
    s += 1.0
    s *= x[0]
    return np.sum(t) + 10.0 * np.sum(u)


def masked_twice(x):
    s = x[x > -0.6]
    return np.sum(s[s < 0.5] ** 3)


def later_writes(x):
    y, m = x.copy(), x > 0
    s = y[m]
    y[:] = 7.0
    m[0] = False
    return np.sum(s) + np.sum(y[m])


def rows(x):
    a = np.reshape(x, (3, 2))
    keep = a[:, 0] > 0
    s = a[keep]
    return np.sum(s**2 * a[0]) + np.mean(np.exp(s)) + np.sum(a[a > 0.25])


def row_write(x):
    a = np.reshape(x, (3, 2)).copy()
    keep = a[:, 0] < 0.5
    a[keep] *= 3.0
    a[keep] = np.sin(a[keep])
    return a


def loop(x):
    y = x.copy()
    for _ in range(6):
        y[y > 0.123] *= 0.9
        y[np.abs(y) > 0.5] = np.sin(y[np.abs(y) > 0.5])
    return y


FREE = {
    "square": lambda x: np.sum(x[x > 0] ** 2),
    "log": lambda x: np.sum(np.log(x[x > 0])),
    "sqrt": lambda x: np.sqrt(x[x > 0]).sum() * x[0],
    "reciprocal": lambda x: np.sum(1 / x[x != 0.5]),
    "chain": lambda x: np.sum(np.tanh(np.sqrt(1 + x[x > 0] ** 2)) / x[x > 0] - 2),
    "where": lambda x: np.sum(np.where(x[x > 0] > 0.5, x[x > 0], x[0] * x[x > 0])),
    "clip": lambda x: np.clip(x[x < 0.8] * 3, -1.0, 1.5).sum(),
    "tuple": lambda x: np.sum(x[(x > 0,)]) + np.sum(x[(x > 0) & (x < 1)] * x[(x > 0) & (x < 1)]),
    "astype": lambda x: np.sum(x[x > 0].astype(float) * x[x > 0].astype(int)),
    "prod": lambda x: np.prod(x[x > 0]) + x[x > 0].prod(axis=0),
    "mean": lambda x: np.mean(x[x > -0.6] ** 2) * x[x > -0.6].mean(0),
    "std": lambda x: np.std(x[x > -0.65]) + x[x > -0.65].var(ddof=1),
    "extremes": lambda x: np.max(x[x > -3] * 2) - x[x > -3].min() + np.maximum.reduce(x[x > -3]),
    "norms": lambda x: sum([np.linalg.norm(x[x > 0], o) for o in (None, 1, 2, 3)]),
    "counts": lambda x: np.count_nonzero(x[x > 0] > 0.5) * x[0] + x[1] * np.any(x[x > 0] > 1) + np.all(x[x > 0] > 0.35),
    "reduce": lambda x: np.add.reduce(x[x > 0]) + np.multiply.reduce(x[x > 0]) + np.nansum(x[x > 0]),
    "namespace": lambda x: np.sum(np.divide(np.expm1(x[x > 0]), 3.0)) + np.sum(np.heaviside(x[x > 0], 0.5) * x[0]),
    "double": augmented("mul", 2.0),
    "shift": augmented("add", 0.25),
    "less": augmented("sub", 0.5),
    "power": augmented("pow", 3),
    "root": written(lambda y: y > 0, lambda y, m: np.sqrt(y[m])),
    "twice": written(lambda y: y < 0, lambda y, m: y[y < 0] * 2),
    "other": written(lambda y: y < 0.5, lambda y, m: (y**2)[m] * y[m]),
    "aliased": aliased,
    "masked twice": masked_twice,
    "later writes": later_writes,
    "rows": rows,
    "row write": row_write,
    "loop": loop,
}


def scattered(x):
    a = np.reshape(x, (2, 3)).copy()
    a[x[:2] > 0, 0] = 9.0 * x[0]
    a[:, x[3:] < 0] *= 2.0
    return a


def count_of(x):
    s = x[x > 0]
    return np.sum(s * np.arange(len(s)))


COUNTED = {
    "plain": lambda x: x[x > 0],
    "lifted": lambda x: np.exp(x[x > 0]) * 2,
    "in a dict": lambda x: {"a": x[x > 0] ** 2}["a"],
    "nonzero": lambda x: x[np.nonzero(x > 0)] * 3.0,
    "where": lambda x: x[np.where(x > 0)] ** 2,
    "flatnonzero": lambda x: np.sin(x[np.flatnonzero(x > 0)]),
    "argwhere": lambda x: x[np.argwhere(x > 0)[:, 0]] * x[0],
    "compress": lambda x: np.compress(x > 0, x * x),
    "extract": lambda x: np.extract(x > 0, x * x),
    "lengths": count_of,
    "shape": lambda x: x[x > 0].reshape(1, -1) * x[x > 0].size,
    "two masks": lambda x: np.concatenate([x[x > 0], x[x <= 0]]),
    "running": lambda x: np.flip(x[x > 0]) * np.cumsum(x[x > 0]),
    "array": lambda x: x[x > 0] * (x * 2)[x > 0][::-1],
    "written": written(lambda y: y > 0, lambda y, m: y[m][::-1] * 2),
}
MIXED = {  # how many counts they guard is not the number of positive elements
    "rows": lambda x: np.reshape(x, (2, 3))[x[:2] > 0, 0],
    "columns": lambda x: np.reshape(x, (2, 3))[:, x[3:] > 0],
    "two axes": lambda x: np.reshape(x, (2, 3))[np.reshape(x, (2, 3)) > 0] ** 2,
    "ellipsis": lambda x: np.reshape(x, (3, 2))[..., x[:2] > 0],
    "leading": lambda x: np.reshape(x, (2, 3, 1))[np.reshape(x, (2, 3)) > 0, 0],
    "beside an array": lambda x: np.reshape(x, (2, 3))[x[:2] > -9, [0, 2]],
    "a new axis": lambda x: x[x.sum() > 0],
    "list of bools": lambda x: np.reshape(x, (2, 3))[[x[0] > 0, x[1] > 0]],
    "pairs": lambda x: sum(np.reshape(x, (2, 3))[np.nonzero(np.reshape(x, (2, 3)) > 0)]) * x,
    "compress columns": lambda x: np.compress(x[:3] > 0, np.reshape(x, (2, 3)), axis=1),
    "short condition": lambda x: np.compress(x[:2] > 0, np.reshape(x, (2, 3)), axis=1),
    "scattered": scattered,
}
ALL = {**FREE, **{f"{k}, counted": f for k, f in COUNTED.items()}, **{f"{k}, mixed": f for k, f in MIXED.items()}}
named = lambda programs: pytest.mark.parametrize("f", programs.values(), ids=programs.keys())


def differences(f, x, h=1e-6):
    columns = [(np.asarray(f(x + h * e)) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return np.moveaxis(np.array(columns), 0, -1)


@named(ALL)
def test_values_are_numpys(f):
    jitted = tapejit.jit(f)
    for _ in range(4):  # later calls are native
        for x in INPUTS:
            want = np.asarray(f(x))
            got = jitted(x)
            assert got.shape == want.shape and got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-13)


@named(FREE)
def test_one_path_for_all_counts(f):
    jitted = tapejit.jit(f)
    for x in INPUTS:
        jitted(x)
    assert jitted.cache_info().paths == 1


@named(COUNTED)
def test_one_path_for_each_count(f):
    jitted = tapejit.jit(f)
    for x in INPUTS + INPUTS:
        jitted(x)
    assert jitted.cache_info().paths == COUNTS


@named(ALL)
def test_derivatives(f):
    inputs = [x for x in INPUTS if np.all(np.isfinite(np.asarray(f(x))))]
    assert len(inputs) >= 4
    v = np.linspace(-1.0, 1.0, 6)
    for x in inputs:
        want = differences(f, x)
        got = tapejit.jacobian(f, mode="reverse")(x)
        np.testing.assert_allclose(got, want, atol=2e-7)
        np.testing.assert_allclose(tapejit.jacobian(f, mode="forward")(x), got, atol=1e-12)
        np.testing.assert_allclose(tapejit.jvp(f, (x,), (v,))[1], got @ v, atol=1e-12)
        loss = lambda x: np.sum(np.sin(f(x)))
        np.testing.assert_allclose(tapejit.hessian(loss)(x), differences(tapejit.grad(loss), x), atol=3e-5)


@named(ALL)
def test_on_a_tape(f):
    for x in INPUTS:
        loss = lambda x: np.sum(np.sin(f(x)))
        if not np.isfinite(loss(x)):
            continue
        with tapejit.GradientTape() as tape:
            a = tapejit.Array(x)
            tape.watch(a)
            out = f(a)
            y = np.sum(np.sin(out))
        np.testing.assert_allclose(out.numpy(), f(x), rtol=1e-13)
        np.testing.assert_allclose(tape.gradient(y, a).numpy(), tapejit.grad(loss)(x), atol=1e-12)


def test_analytic_derivatives():
    on = X > 0
    for f, want in (
        (FREE["square"], np.where(on, 2 * X, 0)),
        (FREE["log"], np.where(on, 1 / np.where(on, X, 1), 0)),
        (lambda x: np.max(x[x < 1]), [0, 0, 0, 0, 0, 1]),
        (lambda x: np.mean(x[x > 0]), on / 4),
        (lambda x: np.sum(np.sin(x[x > 0][1:])), np.where(on, np.cos(X), 0) * [0, 1, 1, 1, 1, 1]),
    ):
        np.testing.assert_allclose(tapejit.grad(f)(X), want, rtol=1e-14)
    np.testing.assert_allclose(tapejit.hessian(FREE["square"])(X), np.diag(2.0 * on), atol=0)


# ---- what is not selected ------------------------------------------------------------------------------------------------
CLEAN = {
    "log": (lambda x: np.sum(np.log(x[x > 0])), lambda x: x > 0),
    "sqrt": (lambda x: np.sum(np.sqrt(x[x > 0])), lambda x: x > 0),
    "power": (lambda x: np.sum(x[x > 0] ** 1.5), lambda x: x > 0),
    "reciprocal": (lambda x: np.sum(1 / x[np.abs(x) > 0]), lambda x: np.abs(x) > 0),
    "finite": (lambda x: np.sum(np.sin(x[np.isfinite(x)]) * x[np.isfinite(x)] ** 2), np.isfinite),
    "exp": (lambda x: np.sum(np.exp(-1e4 * (x[x > -0.5] + 2) + 2e4)), lambda x: x > -0.5),
    "large": (lambda x: np.sum(np.sin(np.exp(1e4 * x[x < -0.5]))), lambda x: x < -0.5),
    "counted": (lambda x: np.sum(np.exp(1e4 * x[x < -0.5])[::-1]), lambda x: x < -0.5),
    "writing": (lambda x: np.sum(rooted(x)[x > 0]), lambda x: x > 0),
    "written whole": (lambda x: np.sum(np.where(x > 0, rooted(x), 0.0)), lambda x: x > 0),
    "arcs": (lambda x: np.sum(np.arccosh(x[x > 1.5]) + np.arctanh(1 / x[x > 1.5])), lambda x: x > 1.5),
    "twice": (lambda x: np.sum(np.log(np.log(x[x > 1.5]) ** 0.5)), lambda x: x > 1.5),
    "product": (lambda x: np.prod(x[np.isfinite(x)] + 2) + np.sum(x[np.isfinite(x)]) ** 2, np.isfinite),
    "mean": (lambda x: np.mean(np.log(x[x > 1])), lambda x: x > 1),
    "deviation": (lambda x: np.std(np.log(x[x > 0.1])), lambda x: x > 0.1),
}


def rooted(x):
    y = x.copy()
    m = y > 0
    y[m] = np.sqrt(np.log(1 + y[m]))
    return y


@pytest.mark.parametrize("f, keep", CLEAN.values(), ids=CLEAN.keys())
@pytest.mark.parametrize("bad", [0.0, -1.0, 1e300, np.inf, np.nan, -np.inf])
def test_what_is_not_selected_has_derivative_zero(f, keep, bad):
    """Exactly: the derivatives are those of the function of the selected elements alone, and zero."""
    x = np.array([0.5, -1.0, 0.0, 2.0, bad])
    picked = np.flatnonzero(keep(x))
    if not np.all(np.isfinite(x[picked])):
        return  # it is selected
    assert len(picked) < 5 or keep is np.isfinite
    part = x[picked]
    for derivative, axes in ((tapejit.grad(f), 1), (tapejit.hessian(f), 2)):
        got, want = derivative(x), derivative(part)
        index = np.ix_(*[picked] * axes)
        np.testing.assert_allclose(got[index], want, rtol=1e-12)
        rest = np.ones(got.shape, bool)
        rest[index] = False
        assert np.all(got[rest] == 0)
    got, want = tapejit.jvp(f, (x,), (np.ones(5),))[1], tapejit.jvp(f, (part,), (np.ones(len(part)),))[1]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("f", [
    lambda x: np.sqrt(np.sum(x[x > 0] ** 2)), lambda x: np.mean(x[x > 0]), lambda x: np.log(np.sum(x[x > 0])),
    lambda x: np.linalg.norm(x[x > 0]), lambda x: np.var(x[x > 0]),
])  # fmt: skip
def test_nothing_selected_has_derivative_zero(f):
    assert tapejit.grad(f)(-np.abs(X)).tolist() == [0.0] * 6
    assert np.all(np.isfinite(tapejit.grad(f)(X)))


def test_the_fill_does_not_tie_with_the_largest():
    g = tapejit.grad(lambda x: np.max(x[x < 0]))
    assert g(np.array([1.0, -np.inf, 2.0, -np.inf])).tolist() == [0.0, 0.5, 0.0, 0.5]
    assert g(np.array([1.0, -np.inf, 2.0, -3.0])).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert g(np.array([-1.0, -np.inf, -2.0, 3.0])).tolist() == [1.0, 0.0, 0.0, 0.0]


# ---- lanes ---------------------------------------------------------------------------------------------------------------
@named(FREE)
def test_lanes_may_differ_where_no_count_is_asked_for(f):
    lanes = np.stack([x for x in INPUTS if np.all(np.isfinite(np.asarray(f(x))))])
    np.testing.assert_allclose(tapejit.vmap(f)(lanes), [f(x) for x in lanes], rtol=1e-13)
    loss = lambda x: np.sum(np.sin(f(x)))
    slopes = [tapejit.grad(loss)(x) for x in lanes]
    np.testing.assert_allclose(tapejit.vmap(tapejit.grad(loss))(lanes), slopes, rtol=1e-12, atol=1e-13)


@named({**COUNTED, **MIXED})
def test_lanes_of_one_count(f):
    lanes = np.stack([X, X * 2, X**3])
    np.testing.assert_allclose(tapejit.vmap(f)(lanes), [f(x) for x in lanes], rtol=1e-13)
    got = tapejit.vmap(tapejit.jacobian(f))(lanes)
    np.testing.assert_allclose(got, [tapejit.jacobian(f)(x) for x in lanes], rtol=1e-12)


@named(COUNTED)
def test_lanes_of_several_counts_are_an_error(f):
    with pytest.raises(GuardError, match=r"differs between lanes(.|\n)*test_selection.py"):
        tapejit.vmap(f)(np.stack([X, -X]))
