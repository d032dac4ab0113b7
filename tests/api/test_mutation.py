"""Writing into Arrays: the same programs on ndarrays are the reference, derivatives are checked by differences."""

import operator
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import tapejit
import tapejit.numpy as tnp

X = np.array([0.3, -0.7, 1.1, 0.4, -0.2, 0.9])
M = np.linspace(-1.0, 1.3, 12).reshape(3, 4)


def scalar(x):
    y = x.copy()
    y[0] = x[1] * 2.0
    y[-1] = y[0] + 1.0
    return y


def window(x):
    y = x.copy()
    y[1:3] = x[:2] * x[2:4]
    y[::2] = np.sin(y[::2])
    y[::-1][1] = 3.0 * x[0]
    return y


def augmented(x):
    y = x * 1.0
    y += x[::-1]
    y[1:] -= 0.5 * y[:-1]
    y[0] *= y[1]
    y[2:4] /= 1.0 + x[0] ** 2
    y **= 2
    return y


def views(x):
    y = x.copy()
    a, b, c = y.reshape(2, 3), y[1:5], y[::2]
    a[1] = x[:3]
    b += 1.0
    c[0] = b[0]
    a.T[2] *= x[0]
    return y + c.sum() * b.mean() + a[:, 0].sum()


def copies(x):
    """What is no view keeps its value."""
    y = x.copy()
    first, taken, masked = y[0], y[[0, 1]], np.where(y > 0, y, y)
    flat, plus, kept = y.flatten(), +y, y.astype(float)
    y[:] = 0.0
    return y + first + taken.sum() + masked + flat * plus + kept


def fancy(x):
    y = x.copy()
    y[[0, 3, 3]] = x[1:4]
    y[np.array([True, False, True, False, False, False])] = x[:2] ** 2
    y[[1, 2]] += x[[4, 5]]
    return y


def masks(x):
    y = x.copy()
    y[y < 0] = 0.0
    y[x > 0.35] = x[0] * 2.0
    y[y == 0.0] = x[:2]
    return y


def whole(x):
    y = np.zeros_like(x)
    y[...] = x
    z = np.ones_like(y)
    z[:] = y
    z.fill(x[1])
    y[:3] += z[3:]
    return y


def overlap(x):
    y = x.copy()
    y[1:] = y[:-1]
    y[:-2] += y[2:]
    return y


def recurrence(x):
    y = np.zeros_like(x)
    y[0] = x[0]
    for i in range(1, 6):
        y[i] = 0.5 * y[i - 1] + np.sin(x[i])
    return y


def given_out(x):
    y = np.empty_like(x)
    np.multiply(x, 2.0, out=y)
    np.add(y, x, out=y)
    np.copyto(y[:2], x[2:4])
    return y


PROGRAMS = [scalar, window, augmented, views, copies, fancy, masks, whole, overlap, recurrence, given_out]


def differences(f, x, h=1e-6):
    return np.array([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))]).T


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_as_numpy_has_it(f):
    want = f(X)
    jitted = tapejit.jit(f)
    for _ in range(4):
        np.testing.assert_allclose(jitted(X), want, rtol=1e-14)
    np.testing.assert_allclose(tapejit.jacobian(f)(X), differences(f, X), atol=1e-8)
    np.testing.assert_allclose(tapejit.jacobian(f, mode="forward")(X), differences(f, X), atol=1e-8)
    loss = lambda x: np.sum(f(x) ** 2)
    np.testing.assert_allclose(tapejit.hessian(loss)(X), differences(tapejit.grad(loss), X), atol=1e-5)
    with tapejit.GradientTape() as tape:
        x = tapejit.Array(X)
        tape.watch(x)
        y = np.sum(f(x) ** 2)
    np.testing.assert_allclose(tape.gradient(y, x).numpy(), tapejit.grad(loss)(X), rtol=1e-12)
    np.testing.assert_allclose(f(tapejit.Array(X)).numpy(), want, rtol=1e-14)


@pytest.mark.parametrize("f", [window, augmented, views, fancy, overlap], ids=lambda f: f.__name__)
def test_under_vmap(f):
    rows = np.stack([X, 2 * X, X[::-1]])
    np.testing.assert_allclose(tapejit.vmap(f)(rows), [f(row) for row in rows], rtol=1e-13)


def red_black(u, f, sweeps=3):
    """Gauss-Seidel for -u'' = f in slices."""
    u = u.copy()
    for _ in range(sweeps):
        u[1:-1:2] = 0.5 * (u[:-2:2] + u[2::2] + f[1:-1:2])
        u[2:-1:2] = 0.5 * (u[1:-2:2] + u[3::2] + f[2:-1:2])
    return u


def test_red_black_gauss_seidel():
    rng = np.random.default_rng(0)
    u, f = rng.standard_normal((2, 41))
    want = red_black(u, f)
    np.testing.assert_allclose(tapejit.jit(red_black)(u, f), want, rtol=1e-14)
    loss = lambda u, f: np.sum(red_black(u, f) ** 2)
    got = tapejit.grad(loss, argnums=(0, 1))(u, f)
    for k, at in ((0, 7), (0, 0), (1, 12), (1, 39)):
        e = np.zeros(41)
        e[at] = 1e-6
        low, high = [loss(*(a + s * e if i == k else a for i, a in enumerate((u, f)))) for s in (-1, 1)]
        assert got[k][at] == pytest.approx((high - low) / 2e-6, rel=1e-6, abs=1e-8)


def lattice(p, steps=4):
    """Diffusion and reaction on a torus-free grid, in place."""
    p = p.copy()
    for _ in range(steps):
        p[1:-1, 1:-1] += 0.1 * (p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2] - 4.0 * p[1:-1, 1:-1])
        p[0], p[-1] = p[1], p[-2]
        p[:, 0] = p[:, 1]
        p -= 0.01 * p**3
    return p


def test_a_lattice_update():
    p = np.random.default_rng(1).standard_normal((9, 7))
    np.testing.assert_allclose(tapejit.jit(lattice)(p), lattice(p), rtol=1e-13)
    g = tapejit.grad(lambda p: np.sum(np.cos(lattice(p))))(p)
    for at in ((0, 0), (4, 3), (8, 6), (1, 1)):
        e = np.zeros((9, 7))
        e[at] = 1e-6
        low, high = [np.sum(np.cos(lattice(p + s * e))) for s in (-1, 1)]
        assert g[at] == pytest.approx((high - low) / 2e-6, rel=1e-6, abs=1e-8)


# ---- eager Arrays --------------------------------------------------------------------------------------------------------
def test_eager_arrays_share_memory_as_ndarrays_do():
    a = tapejit.Array([1.0, 2.0, 3.0, 4.0])
    b, c, s = a[1:], a.reshape(2, 2), a[1]
    a[1] = 9.0
    assert b.tolist() == [9.0, 3.0, 4.0] and c.tolist() == [[1.0, 9.0], [3.0, 4.0]] and float(s) == 2.0
    b += 1.0
    c[0, 0] = 7.0
    assert a.tolist() == [7.0, 10.0, 4.0, 5.0]
    d = a.copy()
    d[:] = 0.0
    assert a.tolist() == [7.0, 10.0, 4.0, 5.0]


def test_a_compiled_function_reads_a_changed_array_afresh():
    a = tapejit.Array([1.0, 2.0])
    f = tapejit.jit(lambda x: x * a)
    for _ in range(4):
        assert f(3.0).tolist() == [3.0, 6.0]
    a[0] = 5.0
    assert f(3.0).tolist() == [15.0, 6.0]


def test_a_tape_keeps_what_it_read():
    x, a = tapejit.Array([1.0, 2.0]), tapejit.Array([3.0, 4.0])
    with tapejit.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * a
        a[0] = 100.0
        z = x * a
        x[1] = y[0]
        w = np.sum(x**2)
    assert z.tolist() == [100.0, 8.0] and w.tolist() == 10.0
    assert tape.gradient(w, x).tolist() == [2.0, 6.0]
    assert tape.gradient(w, y).tolist() == [6.0, 0.0]


def test_arrays_of_tapejit_numpy_take_recorded_values():
    def f(x):
        a, b = tnp.zeros(3), tnp.eye(2)
        a[0], a[2] = x, x**2
        b[1] = a[1:]
        return a.sum() + (b * 3.0).sum()

    assert tapejit.value_and_grad(f)(2.0) == (6.0 + 15.0, 5.0 + 12.0)


def test_a_tape_keeps_what_it_read_from_an_array_that_is_recorded_later():
    x, y = tapejit.Array([1.0, 2.0]), tapejit.Array([3.0, 4.0])
    part = y[1:]
    with tapejit.GradientTape(persistent=True) as tape:
        tape.watch(x)
        before, of_view = np.sum(x * y), np.sum(x[1:] * part)
        y[0] = x[0] * 10.0
        y[1] = x[0]
        after, after_view = np.sum(x * y), np.sum(x[1:] * part)
    assert tape.gradient(before, x).tolist() == [3.0, 4.0] and tape.gradient(of_view, x).tolist() == [0.0, 4.0]
    assert tape.gradient(after, x).tolist() == [22.0, 1.0] and tape.gradient(after_view, x).tolist() == [2.0, 1.0]


def test_what_is_read_before_a_write_keeps_its_value():
    def f(x):
        a = tnp.ones(2)
        b = x * a
        c = a[:1] + 0.0
        a[0] = x[0] * 5.0
        a[1] = 7.0
        return b * 2.0 + c + a

    compiled = tapejit.jit(f)
    for x in ([1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 2.0]):
        np.testing.assert_allclose(compiled(np.array(x)), [2 * x[0] + 1 + 5 * x[0], 2 * x[1] + 1 + 7])
    assert tapejit.jacobian(f)(np.ones(2)).tolist() == [[7.0, 0.0], [0.0, 2.0]]


def test_a_write_after_the_tape_does_not_change_its_gradients():
    x, y = tapejit.Array([1.0, 2.0]), tapejit.Array([3.0, 4.0])
    with tapejit.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = np.sum(x**2 * y)
    y[0] = 100.0
    y[1:] = 50.0
    assert tape.gradient(z, x).tolist() == [6.0, 16.0]
    x[0] = 1000.0
    with pytest.warns(tapejit.TapejitWarning, match="not watched by this tape"):
        assert tape.gradient(z, x) is None  # of what x holds now


# ---- errors ----------------------------------------------------------------------------------------------------------------
def test_arguments_are_copied_with_a_warning():
    def f(x):
        x[0] = 5.0
        return x * 2

    x = np.ones(3)
    with pytest.warns(tapejit.TapejitWarning, match="writes into its argument x"):
        assert tapejit.jit(f)(x).tolist() == [10.0, 2.0, 2.0]
    assert x.tolist() == [1.0, 1.0, 1.0]


def test_a_result_of_a_compiled_function_is_no_view():
    same, part = tapejit.jit(lambda x: x), tapejit.grad(lambda x: np.sum(x[1:] ** 2) / 2)

    def f(x):
        y = x.copy()
        a, b = same(y), part(y)
        a[0], b[1] = 100.0, 200.0
        return np.sum(y) + a[0] * 0.0 + b[1] * 0.0

    assert tapejit.jit(f)(X) == pytest.approx(np.sum(X))
    assert tapejit.grad(f)(X).tolist() == [1.0] * 6


def test_a_variable_is_assigned_to():
    v = tapejit.Variable([1.0, 2.0])
    with pytest.raises(tapejit.TapejitError, match=r"v\.assign\(value\)"):
        v[0] = 3.0
    v += 1.0  # is bound anew
    assert type(v) is tapejit.Array and v.tolist() == [2.0, 3.0]


def test_a_copy_of_an_argument_may_be_written():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tapejit.jit(scalar)(X)


@pytest.mark.parametrize("outside", [np.zeros(3), tapejit.Array(np.zeros(3))], ids=["ndarray", "Array"])
def test_what_is_closed_over_is_not_written(outside):
    def f(x):
        outside[0] = x
        return x

    with pytest.raises((TypeError, tapejit.TapejitError), match="writes into an array|writing into an ndarray") as caught:
        tapejit.grad(f)(1.0)
    assert "test_mutation.py" in str(caught.value)
    assert np.asarray(outside).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "write, error",
    [
        (lambda y: operator.setitem(y, slice(0, 2), y[:3]), ValueError),
        (lambda y: operator.setitem(y, 9, 1.0), IndexError),
        (lambda y: operator.setitem(y, [0, 9], 1.0), IndexError),
        (lambda y: operator.setitem(np.broadcast_to(y, (2, 6)), (0, 0), 1.0), ValueError),
        (lambda y: operator.iadd(y, np.ones((2, 6))), ValueError),
        (lambda y: operator.iadd((y > 0).astype(int), 0.5), TypeError),
    ],
)
def test_numpys_errors(write, error):
    with pytest.raises(error):
        write(X.copy())
    with pytest.raises(error):
        tapejit.jit(lambda x: (write(x.copy()), x)[1])(X)


# ---- random programs ----------------------------------------------------------------------------------------------------
STEP = st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.floats(-2, 2))
STEPS = st.lists(STEP, min_size=1, max_size=12)


def random_program(steps):
    def f(x):
        y = x.copy()
        held = [y]
        for kind, a, b, k, c in steps:
            at = held[a % len(held)]
            n = at.shape[0]
            lo, hi = sorted((a % n, b % n + 1)) if n else (0, 0)
            if kind == 0:
                at[a % n] = c * x[b]
            elif kind == 1:
                at[lo:hi:k] = at[lo:hi:k] * c + x[0]
            elif kind == 2:
                at += c
            elif kind == 3 and hi > lo:
                held.append(at[lo:hi:k])
            elif kind == 4:
                held.append(at[::-1])
            elif kind == 5:
                at[lo:hi] *= x[b]
            elif kind == 6:
                at[[a % n, b % n]] = c * x[:2]
            else:
                held.append(at.copy())
        return np.concatenate([h * (i + 1.0) for i, h in enumerate(held)])

    return f


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_random_programs(steps):
    f = random_program(steps)
    np.testing.assert_allclose(tapejit.jit(f)(X), f(X), rtol=1e-12, atol=1e-12)
    t = np.linspace(-1, 1, 6)
    np.testing.assert_allclose(tapejit.jacobian(f)(X) @ t, differences(f, X) @ t, rtol=1e-5, atol=1e-5)


def test_an_inner_function_writes_into_what_it_makes_of_plain_numbers():
    def f(x):
        z = np.ones_like(x) * 2.0
        z[1:] -= x[:-1]
        return np.sum(x * z**2)

    x = np.array([0.5, -1.0, 2.0])
    twice = tapejit.grad(lambda x: np.sum(tapejit.grad(f)(x) ** 2))(x)
    np.testing.assert_allclose(twice, 2 * tapejit.hessian(f)(x) @ tapejit.grad(f)(x), rtol=1e-13)
