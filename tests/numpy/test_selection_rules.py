"""What a selection (`x[mask]` of a recorded mask) is beside its value: dtypes, when it becomes an Array, writing, records."""

import copy
import operator
import warnings

import numpy as np
import pytest

import tapejit
import tapejit.numpy as tnp
from tapejit.array import Array
from tapejit.errors import ConcretizationError, LeakedArrayError, MutationError
from tapejit.record import recording
from tapejit.selection import Selection

X = np.array([0.3, -0.7, 1.1, 0.4, -0.2, 0.9])
INPUTS = [X, -X, np.abs(X), -np.abs(X), X[::-1] * 2 - 0.7]  # 4, 2, 6, 0 and 3 are positive
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def differences(f, x, h=1e-6):
    columns = [(np.asarray(f(x + h * e)) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))]
    return np.moveaxis(np.array(columns), 0, -1)


# ---- dtypes --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32, bool])
@pytest.mark.parametrize("f", [
    lambda x: x[x > 0], lambda x: x[x > 0].sum(), lambda x: x[x > 0].mean(), lambda x: x[x > 0].max(),
    lambda x: x[x > 0].min(), lambda x: np.prod(x[x > 0]), lambda x: x[x > 0] * 2, lambda x: (x[x > 0] * 2.5).sum(),
    lambda x: np.any(x[x > 0]), lambda x: np.count_nonzero(x[x > 0]), lambda x: np.where(x[x > 0], x[x > 0], 3).sum(),
    lambda x: x[x > 0].dtype.itemsize, lambda x: x[x > 0].sum(dtype=np.float64), lambda x: np.sum(x[x > 0], initial=3),
    lambda x: np.max(x[x > 0].astype(int), initial=1), lambda x: np.sum(x[x > 0], keepdims=True), lambda x: x[x > 0].std(),
    lambda x: np.sum(x[x > 0] == x[0]),
], ids=str)  # fmt: skip
def test_dtypes(f, dtype):
    for x in ([3, -2, 0, 1, 5], [1, 1, 0, 0, -1]):
        x = np.array(x, dtype)
        want, got = f(x), tapejit.jit(f)(x)
        assert np.asarray(got).dtype == np.asarray(want).dtype and np.shape(got) == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_weak_scalars():
    f = tapejit.jit(lambda x, a, b: (x[x > 0] * a + b, np.sum(x[x > 0] * a)))
    for a, b in ((2, 0.5), (3, 1.5)):
        got = f(np.float32(X), a, b)
        assert [r.dtype for r in got] == [np.float32] * 2
        np.testing.assert_allclose(got[0], np.float32(X)[X > 0] * a + b, rtol=1e-6)
    np.testing.assert_allclose(tapejit.grad(lambda p: np.sum(X[np.abs(X) * p > 0.5] * p))(1.0), X[np.abs(X) > 0.5].sum())


def test_integers_divided_by_what_is_not_selected():
    f = tapejit.jit(lambda x: np.sum(7 // x[x != 0]) + np.sum(2 ** x[x > 0]))
    for x in ([3, 0, -2], [0, 0, 0], [1, 2, 5]):
        x = np.array(x)
        assert f(x) == np.sum(7 // x[x != 0]) + np.sum(2 ** x[x > 0])


# ---- identity ------------------------------------------------------------------------------------------------------------
def taken(function):
    """What a function returns of a selection that a record holds, and whether it is one still."""
    with recording("test") as record:
        x = record.param(X)
        s = x[x > 0]
        assert type(s) is Selection and isinstance(s, Array)
        out = function(s)
        return out, type(s) is Selection, len(record.nodes)


@pytest.mark.parametrize("f, lazy", [
    (lambda s: s.dtype == np.float64 and s.ndim == 1, True), (lambda s: repr(s) == "Array([0.3, 1.1, 0.4, 0.9])", True),
    (lambda s: str(s) == "[0.3 1.1 0.4 0.9]" and f"{s}" == str(s), True), (lambda s: type(s * 2 + 1) is Selection, True),
    (lambda s: type(s * np.float64(2)) is Selection, True), (lambda s: type(s + np.ones(4)) is Array, False),
    (lambda s: type(s + np.ones(4)[:1]) is Array, False), (lambda s: type(np.array(2.0) - s) is Selection, True),
    (lambda s: type(tnp.sin(s)) is Selection, True), (lambda s: s.shape == (4,), False), (lambda s: s.size == 4, False),
    (lambda s: len(s) == 4, False), (lambda s: s.nbytes == 32, False), (lambda s: len(list(s)) == 4, False),
    (lambda s: s[0].shape == (), False), (lambda s: s.T.shape == (4,), False), (lambda s: s[1:].shape == (3,), False),
    (lambda s: s is np.real(s), True), (lambda s: s is not +s and s is not np.copy(s), True),
    (lambda s: s is not copy.copy(s) and type(s.copy()) is Selection, True), (lambda s: bool(0.3 + s.sum() > 2), True),
    (lambda s: bool(np.all(s > 0)), True), (lambda s: np.isnan(s).dtype == bool, True), (lambda s: bool(s.max() == 1.1), True),
    (lambda s: s.astype(np.float64) is not s, True), (lambda s: np.stack([s, s]).shape == (2, 4), False),
    (lambda s: s.reshape(2, 2).ndim == 2, False), (lambda s: np.zeros_like(s).shape == (4,), False),
    (lambda s: type(s.astype(int)) is Selection, True), (lambda s: (s @ s).shape == (), False),
])  # fmt: skip
def test_what_settles_a_selection(f, lazy):
    good, still, _ = taken(f)
    assert good and still == lazy


def test_shapes_that_do_not_fit_are_numpys_errors():
    def error(f, x):
        try:
            return f(x)
        except (IndexError, ValueError, TypeError) as raised:
            kind = next(k for k in (IndexError, ValueError, TypeError) if isinstance(raised, k))
            return kind, str(raised).split("\n")[0]

    a = np.reshape(X, (2, 3))
    for f, same_words in (
        (lambda x: x[x[0] > 0], True), (lambda x: x[:, x[:, 0] > 0], True), (lambda x: x[x[:, :2] > 0], True),
        (lambda x: x[x > 0, 0], False), (lambda x: x[[x[0, 0] > 0, x[0, 1] > 0, x[0, 0] > 0]], True),
        (lambda x: np.max(x[x > 9]), True), (lambda x: x[x > 0] + np.ones(7), False),
        (lambda x: x[x[:, 0] > -9, [0, 1, 2]], True), (lambda x: np.compress(x > 0, x), True),
        (lambda x: np.compress([x[0, 0], x[0, 0], x[0, 0]], x, 0), True), (lambda x: x[x > 0] @ np.ones(5), False),
        (lambda x: operator.setitem(x.copy(), x > 0, np.ones(5)), True),
        (lambda x: operator.iadd(x.astype(int)[x > 0], 0.5), False),
        (lambda x: operator.iadd(x[x[:, 0] > -9][:, :1], np.ones(3)), False),
    ):  # fmt: skip
        want, got = error(f, a), error(tapejit.jit(f), a)
        assert isinstance(want, tuple) and got[0] is want[0]
        assert not same_words or got[1] == want[1]


# ---- what is not selected ------------------------------------------------------------------------------------------------
def pairs(function, keep=lambda a: a > 0):
    """A function of two selections, for derivatives that are no diagonal."""
    return lambda x: np.sum(function(x[0][keep(x[0])], x[1][keep(x[0])]))


PAIRS = {
    "roots": pairs(lambda a, b: np.sqrt(a * b) * b),
    "powers": pairs(lambda a, b: a**b),
    "sines": pairs(lambda a, b: np.sin(a * b) * b),
    "lengths": pairs(lambda a, b: np.hypot(a, b) ** 3 / a),
    "finite": pairs(lambda a, b: np.tanh(a * b) * b, np.isfinite),
    "in order": pairs(lambda a, b: (a * a)[::-1] * b, np.isfinite),
}


@pytest.mark.parametrize("f", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("bad", [0.0, -0.0, -1.0, -np.inf, np.nan])
def test_what_is_not_selected_has_derivative_zero(f, bad):
    """Exactly: the derivatives are those of the function of the selected columns alone, and zero."""
    x = np.array([[0.5, 2.0, bad, bad], [0.7, 1.2, 0.3, 0.0]])
    keep = [0, 1, 2, 3] if f in (PAIRS["finite"], PAIRS["in order"]) and np.isfinite(bad) else [0, 1]
    alone = x[:, keep]
    index = np.ix_([0, 1], keep)
    for derivative in (tapejit.grad(f), tapejit.hessian(f), tapejit.jacobian(tapejit.grad(f), mode="reverse")):
        got, want = derivative(x), derivative(alone)
        assert np.all(np.isfinite(want))
        full = np.zeros(got.shape)
        full[np.ix_(*[i.ravel() for _ in range(got.ndim // 2) for i in index])] = want
        np.testing.assert_allclose(got, full, rtol=1e-12)


# ---- writing -------------------------------------------------------------------------------------------------------------
def filled(x):
    s = x[x > 0]
    s[0] = 7.0
    t = x[x > 0]
    t[...] = x[0]
    u = x[x > -9]
    u[x > 0] = 5.0
    v = x[x > 0]
    v += np.arange(1.0)
    np.multiply(v, 2.0, out=v)
    w = x[x > 9]
    w += 1.0
    w[...] = 2.0
    return s.sum() + 3 * t.sum() + u.sum() * v.mean() + w.sum()


def test_writing_into_a_selection():
    for x in (X, X[::-1] + 1.0, -X):
        np.testing.assert_allclose(tapejit.jit(filled)(x), filled(x), rtol=1e-14)
        np.testing.assert_allclose(tapejit.grad(filled)(x), differences(filled, x), atol=1e-7)


def test_writing_where_another_function_recorded_is_an_error():
    def outer(x):
        s = x[x > 0]

        def inner(z):
            nonlocal s
            s += z
            return np.sum(s)

        return tapejit.grad(inner)(x[0]) + np.sum(s)

    with pytest.raises(MutationError):
        tapejit.jit(outer)(X)


@pytest.mark.parametrize("count", [300, 1500])
@pytest.mark.parametrize("same", [False, True])
def test_long_loops_have_one_path(count, same):
    """Loops of more than 2,048 operations are folded while they are recorded, where masks are no nodes."""

    def program(x):
        y = x.copy()
        for _ in range(count):
            if same:
                y[y < 0] = y[y < 0] * 0.999
            else:
                y[y < 0] *= 0.999
        return y

    jitted = tapejit.jit(program)
    for x in INPUTS:
        np.testing.assert_allclose(jitted(x), program(x), rtol=1e-11)
    assert jitted.cache_info().paths == 1
    slopes = tapejit.grad(lambda x: np.sum(program(x)))(X)
    np.testing.assert_allclose(slopes, np.where(X < 0, 0.999**count, 1.0), rtol=1e-11)


def test_a_mask_that_changed_is_another():
    def program(x):
        y = x.copy()
        m = y < 0
        s = y[m]
        m[0] = True
        y[m] = 1.0
        t = y[y < 0.5] * 2  # y is another than below
        y += 0.1
        u = y[y < 0.5]
        return np.sum(s) + np.sum(t) + (np.sum(u + t) if len(u) == len(t) else np.sum(u))

    for x in INPUTS:
        np.testing.assert_allclose(tapejit.jit(program)(x), program(x), rtol=1e-14)


def test_selections_of_different_masks_are_not_one():
    """Three elements each, so that only the masks tell them apart."""
    x = np.array([0.3, -0.7, 1.1, 0.4, -0.2, -0.9])

    def swapped(x):
        y = x.copy()
        y[y > 0] = x[x < 0]
        return y

    for f in (
        swapped, lambda x: x[x > 0] * x[x < 0], lambda x: np.where(x[x > 0] > 0.35, x[x < 0], x[x > 0]),
        lambda x: x[x > 0] + x[x > -0.1 * x[0]], lambda x: x[x > 0] - x[-x > 0],
        lambda x: x[x > 0] * (x * 2)[x * 2 < 0], lambda x: x[x > 0][x[x < 0] < -0.5],
    ):  # fmt: skip
        np.testing.assert_allclose(tapejit.jit(f)(x), f(x), rtol=1e-14)
        np.testing.assert_allclose(tapejit.jacobian(f)(x), differences(f, x), atol=1e-7)


# ---- records -------------------------------------------------------------------------------------------------------------
def test_leaking_is_an_error():
    kept = []
    tapejit.jit(lambda x: kept.append(x[x > 0]) or np.sum(x))(X)
    (s,) = kept
    assert repr(s) == "Array([0.3, 1.1, 0.4, 0.9])"
    for use in (lambda: s + 1, lambda: s.shape, lambda: np.sum(s), lambda: s.numpy(), lambda: s[0], lambda: s.fill(0.0)):
        with pytest.raises(LeakedArrayError):
            use()
    with tapejit.GradientTape():  # what leaked is not settled by it
        pass


def test_conversions_are_refused():
    for use in (np.asarray, lambda s: s.numpy(), lambda s: s.tolist(), lambda s: s.__reduce__()):
        with pytest.raises(ConcretizationError):
            tapejit.jit(lambda x, use=use: use(x[x > 0]))(X)


def test_selections_in_nested_transforms():
    def outer(x):
        s = x[x > 0]
        inner = tapejit.grad(lambda z: np.sum(s * z**2) + np.sum(x[x * z > 0] * z))
        given = tapejit.grad(lambda v: np.sum(v**3))(s)
        return inner(x[0]) + np.sum(given)

    def plain(x):
        return 2 * x[0] * np.sum(x[x > 0]) + np.sum(x[x * x[0] > 0]) + np.sum(3 * x[x > 0] ** 2)

    for x in INPUTS:
        np.testing.assert_allclose(tapejit.jit(outer)(x), plain(x), rtol=1e-13)
        np.testing.assert_allclose(tapejit.grad(outer)(x), differences(plain, x), atol=1e-6)


def test_in_the_body_of_a_scan_and_a_branch():
    def body(c, _):
        c = c.copy()
        c[c > 0] *= 0.5
        return c, np.sum(c[c < 0])

    def program(x):
        c, sums = tapejit.scan(body, x, None, length=4)
        return np.sum(c) + np.sum(sums) + tapejit.cond(x[0] > 0, lambda x: np.sum(x[x > 0]), lambda x: np.sum(x[x < 0]), x)

    jitted = tapejit.jit(program)
    for x in INPUTS:
        want = np.sum(np.where(x > 0, x / 16, x)) + 4 * np.sum(x[x < 0]) + np.sum(x[x > 0] if x[0] > 0 else x[x < 0])
        np.testing.assert_allclose(jitted(x), want, rtol=1e-13)
    assert jitted.cache_info().paths == 1


def test_a_tape_inside_a_function_sees_what_it_records():
    def program(x):
        before = x[x > 0]
        with tapejit.GradientTape(persistent=True) as tape:
            tape.watch(x)
            inside = x[x > 0] * 2
            y = np.sum(inside**2)
            z = before * 3
        after = inside * 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert tape.gradient(z, x) is None and tape.gradient(after, x) is None
        return tape.gradient(y, x), tape.gradient(inside, x)

    for x in INPUTS:
        slope, ones = tapejit.jit(program)(x)
        np.testing.assert_allclose(slope, np.where(x > 0, 8 * x, 0), rtol=1e-13)
        assert ones.tolist() == np.where(x > 0, 2.0, 0.0).tolist()


def test_a_target_that_is_a_selection():
    with tapejit.GradientTape() as tape:
        v = tapejit.Variable(X)
        s = v[v > 0]
    assert tape.gradient(s, v).tolist() == (X > 0).astype(float).tolist()


def test_closed_over_masks_are_read_at_each_call():
    mask = X > 0
    f = tapejit.jit(lambda x: np.sum(x[mask]))
    assert f(X) == pytest.approx(2.7)
    mask[0] = False
    assert f(X) == pytest.approx(2.4)


def test_of_nothing():
    for shape in ((0,), (0, 2), (2, 0)):
        x = np.zeros(shape)
        for f in (lambda x: x[x > 0], lambda x: np.sum(x[x > 0]), lambda x: x[np.any(x > 0, tuple(range(1, x.ndim)))]):
            want, got = f(x), tapejit.jit(f)(x)
            assert np.shape(got) == np.shape(want) and np.all(got == want)


def test_outputs_and_arguments():
    f = tapejit.jit(lambda x: {"s": x[x > 0], "t": (x[x > 0] * 2, x.sum())})
    for x in INPUTS:
        out = f(x)
        assert out["s"].tolist() == x[x > 0].tolist() and out["t"][0].tolist() == (x[x > 0] * 2).tolist()
    g = tapejit.jit(lambda x, m: x[m])  # a mask as an argument
    assert g(X, X > 0).tolist() == X[X > 0].tolist() and g(X, X < 0).tolist() == X[X < 0].tolist()
