"""Functions that write into an array: the same programs on ndarrays are the reference; derivatives against differences."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapejit
import tapejit.numpy as tnp
from tapejit.array import Array

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
X = np.array([0.3, -0.7, 1.1, 0.4, -0.2, 0.9])
M = np.linspace(-1.0, 1.3, 12).reshape(3, 4)
T = np.linspace(0.5, 2.0, 24).reshape(2, 3, 4)
B = np.array([1.5, -0.5, 0.25, 2.0])
I = np.array([0, 3, 3, -6])


def program(write):
    """The array after the write, and views of it that are older, one of them written through."""

    def run(a, *values):
        y = a.copy()
        views = [y.reshape(-1)[::2], y.T, y[1:]] if y.ndim else []
        write(y, *values)
        return np.concatenate([np.reshape(v, -1) * (k + 1) for k, v in enumerate([y, *views])])

    return run


def quietly(f, *args):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return f(*args)


# (what writes, the array, values: floats are differentiated, all others are recorded too in a second run)
ADDS = {
    "add.at": (lambda y, b: np.add.at(y, I, b), X, B),
    "add.at a number": (lambda y, b: np.add.at(y, I, b[0]), X, B),
    "add.at recorded": (lambda y, b, i: np.add.at(y, i, b), X, B, I),
    "add.at rows": (lambda y, b: np.add.at(y, [0, 2, 0, 0], b[:, None]), M, B),
    "add.at rows, recorded": (lambda y, b, i: np.add.at(y, i, b), M, B, np.array([0, 2, 0, 0])),
    "add.at pairs": (lambda y, b, i, j: np.add.at(y, (i, j), b), M, B, np.array([0, 2, -1, 0]), np.array([1, -1, 3, 1])),
    "add.at slice first": (lambda y, b, i: np.add.at(y, (slice(None, None, -1), i), b), M, B, np.array([1, 1, 0, -1])),
    "add.at slice between": (lambda y, b, i: np.add.at(y, (i, slice(1, 3), i), b[:2, None] * [1, 2]), T, B, np.array([1, 1])),
    "add.at matrix of positions": (lambda y, b, i: np.add.at(y, i, b.reshape(2, 2)), X, B, I.reshape(2, 2)),
    "add.at mask": (lambda y, b: np.add.at(y, [True, False, True, True, False, True], b), X, B),
    "add.at recorded mask": (lambda y, b: np.add.at(y, y > 0, b), X, B),
    "add.at recorded mask, a number": (lambda y, b: np.add.at(y, y > 0.35, b[1]), X, B),
    "add.at recorded mask of rows": (lambda y, b: np.add.at(y, y[:, 0] < 0, b), M, B),
    "add.at basic": (lambda y, b: np.add.at(y, slice(1, 5), b), X, B),
    "add.at backwards": (lambda y, b: np.add.at(y, (slice(None, None, -2), 1), b[:2]), M, B),
    "add.at an int": (lambda y, b: np.add.at(y, 2, b[0]), X, B),
    "add.at recorded int": (lambda y, b, i: np.add.at(y, i, b[0]), X, B, np.array(-2)),
    "add.at through views": (lambda y, b: np.add.at(y.T[1:], [0, 0, 2, 1], b[:, None]), M, B),
    "add.at of itself": (lambda y, b: np.add.at(y, [0, 0, 1, 5], y[2:] * b), X, B),
    "add.at nothing": (lambda y, b: np.add.at(y, [], b[:0]), X, B),
    "subtract.at": (lambda y, b, i: np.subtract.at(y, i, b), X, B, I),
    "multiply.at": (lambda y, b: np.multiply.at(y, I, b), X, B),
    "multiply.at rows": (lambda y, b: np.multiply.at(y, [2, 2, 0, 2], b[:, None]), M, B),
    "multiply.at pairs": (lambda y, b: np.multiply.at(y, ([0, 2, 0, -3], [1, 3, 1, -3]), b), M, B),
    "multiply.at recorded mask": (lambda y, b: np.multiply.at(y, y > 0, b), X, B),
    "multiply.at recorded int": (lambda y, b, i: np.multiply.at(y, i, b[1]), X, B, np.array(4)),
    "divide.at": (lambda y, b: np.divide.at(y, I, b), X, B),
    "power.at": (lambda y, b: np.power.at(y, [0, 3, 0, 2], b), X, B),
    "maximum.at": (lambda y, b: np.maximum.at(y, [0, 1, 0, 1], b), X, B),
    "minimum.at": (lambda y, b: np.minimum.at(y, (slice(None), [1, 1]), b[:2]), M, B),
    "arctan2.at": (lambda y, b: np.arctan2.at(y, I, b), X, B),
    "negative.at": (lambda y, b: np.negative.at(y, [0, 3, 3, 3]), X, B),
    "sin.at": (lambda y, b: np.sin.at(y, [1, 1, 1, 0]), X, B),
    "exp.at recorded mask": (lambda y, b: np.exp.at(y, y < 0), X, B),
    "log.at recorded mask": (lambda y, b: np.log.at(y, y > 0), X, B),
}
PUTS = {
    "put": (lambda y, b: np.put(y, I, b), X, B),
    "put recorded": (lambda y, b, i: np.put(y, i, b), X, B, I),
    "put fewer": (lambda y, b, i: y.put(i, b[:2]), M, B, np.array([[11, 0, -3], [5, 5, 2]])),
    "put more": (lambda y, b, i: np.put(y, i, b), X, B, np.array([2])),
    "put a number": (lambda y, b, i: np.put(y, i, b[2]), X, B, I),
    "put wrap": (lambda y, b, i: np.put(y, i, b, mode="wrap"), X, B, np.array([7, -8, 13, 1])),
    "put clip": (lambda y, b, i: np.put(y, i, b, "clip"), X, B, np.array([7, -8, 13, 1])),
    "put through views": (lambda y, b: np.put(y.T[1:], [0, 8, 4], b), M, B),
    "place": (lambda y, b: np.place(y, y > 0.1, b[:2]), X, B),
    "place all": (lambda y, b: np.place(y, y > -9, b), X, B),
    "place more": (lambda y, b: np.place(y, y > 1, b), X, B),
    "place plain": (lambda y, b: np.place(y, [1, 0, 1, 1, 0, 1], b[:3]), X, B),
    "place matrix": (lambda y, b: np.place(y, np.sin(9 * y) > 0, b[:3]), M, B),
    "place a number": (lambda y, b: np.place(y, y < 0, b[1]), X, B),
    "place mask recorded": (lambda y, b, m: np.place(y, m, b), M, B, np.arange(12).reshape(3, 4) % 5 < 2),
    "place nothing": (lambda y, b: np.place(y, y > 9, b), X, B),
    "place no values": (lambda y, b: np.place(y, y > 9, b[:0]), X, B),
    "putmask": (lambda y, b: np.putmask(y, y > 0, b), X, B),
    "putmask matrix": (lambda y, b: np.putmask(y, np.cos(9 * y) > 0, b[:3]), M, B),
    "putmask same size": (lambda y, b: np.putmask(y, y < 0.5, y[::-1] * b[0]), X, B),
    "putmask plain": (lambda y, b: np.putmask(y.T, np.eye(4, 3) > 0, b[:2]), M, B),
    "putmask numbers": (lambda y, b, m: np.putmask(y, m, b[0]), X, B, np.array([0, 2, 0, -1, 5, 0])),
    "putmask no values": (lambda y, b: np.putmask(y, y > 0, b[:0]), X, B),
    "fill_diagonal": (lambda y, b: np.fill_diagonal(y, b[0]), M, B),
    "fill_diagonal values": (lambda y, b: np.fill_diagonal(y, b[:2]), M, B),
    "fill_diagonal more": (lambda y, b: np.fill_diagonal(y, b.reshape(2, 2)), M, B),
    "fill_diagonal tall": (lambda y, b: np.fill_diagonal(y.reshape(6, 2), b), M, B),
    "fill_diagonal wrap": (lambda y, b: np.fill_diagonal(y.reshape(6, 2), b, wrap=True), M, B),
    "fill_diagonal wide": (lambda y, b: np.fill_diagonal(y.reshape(2, 6), b, wrap=True), M, B),
    "fill_diagonal cube": (lambda y, b: np.fill_diagonal(y[:, :2, 1:3], b), T, B),
    "fill_diagonal part": (lambda y, b: np.fill_diagonal(y[1:], 0), M, B),
    "fill_diagonal flipped": (lambda y, b: np.fill_diagonal(np.fliplr(y), b), M, B),
    "put_along_axis": (lambda y, b, i: np.put_along_axis(y, i, b, 1), M, B[:2], np.array([[0, -1], [2, 2], [1, 3]])),
    "put_along_axis 0": (lambda y, b, i: np.put_along_axis(y, i, b, 0), M, B, np.array([[0, -1, 2, 1]])),
    "put_along_axis argmax": (lambda y, b: np.put_along_axis(y, np.argmax(y, 2, keepdims=True), b[0], 2), T, B),
    "put_along_axis flat": (lambda y, b, i: np.put_along_axis(y, i, b, None), M, B, np.array([0, -1, 4, 0])),
    "copyto": (lambda y, b: np.copyto(y[1:5], b, where=y[1:5] > 0), X, B),
    "fill": (lambda y, b: y[2:].fill(b[0]), X, B),
}
WRITES = ADDS | PUTS


def differences(f, args, at, h=1e-6):
    """The Jacobian of f in one of its arguments, by central differences."""
    columns = []
    for k in range(args[at].size):
        ends = []
        for sign in (1, -1):
            moved = args[at].copy()
            moved.reshape(-1)[k] += sign * h
            ends.append(quietly(f, *args[:at], moved, *args[at + 1 :]))
        columns.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(columns, -1).reshape(ends[0].shape + args[at].shape)


@pytest.mark.parametrize("name", WRITES)
def test_as_numpy_has_it(name):
    write, *args = WRITES[name]
    f = program(write)
    want = quietly(f, *args)
    assert name.split()[-1] in ("nothing", "values") or not np.array_equal(want, program(lambda y, *_: None)(*args))
    np.testing.assert_allclose(f(*map(Array, args)).numpy(), want, rtol=1e-14)
    jitted = tapejit.jit(f)
    for _ in range(3):
        np.testing.assert_allclose(jitted(*args), want, rtol=1e-14)
    with tapejit.GradientTape(persistent=True) as tape:
        watched = [Array(x) for x in args]
        for x in watched[:2]:
            tape.watch(x)
        loss = np.sum(np.sin(f(*watched)))
    exact = tapejit.grad(lambda *args: np.sum(np.sin(f(*args))), argnums=(0, 1))(*args)
    for k in (0, 1):
        slopes = differences(f, args, k)
        for mode in ("reverse", "forward"):
            got = tapejit.jacobian(f, argnums=k, mode=mode)(*args)
            np.testing.assert_allclose(got, slopes, rtol=1e-7, atol=1e-7)
        of_loss = np.tensordot(np.cos(want), slopes, 1)
        np.testing.assert_allclose(exact[k], of_loss, rtol=1e-7, atol=1e-7)
        taped = tape.gradient(loss, watched[k])
        if taped is None:  # not connected: what is written holds none of it
            assert not slopes.any()
        else:
            np.testing.assert_allclose(taped.numpy(), of_loss, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", [
    "add.at recorded", "add.at of itself", "multiply.at", "power.at", "multiply.at recorded mask", "put recorded",
    "place matrix", "putmask matrix", "fill_diagonal wrap", "put_along_axis argmax", "log.at recorded mask",
])  # fmt: skip
def test_second_order_and_vmap(name):
    write, *args = WRITES[name]
    f = program(write)
    slope = tapejit.grad(lambda *args: np.sum(np.sin(f(*args)) * args[1][0]), argnums=(0, 1))
    got = tapejit.hessian(lambda *args: np.sum(np.sin(f(*args)) * args[1][0]), argnums=(0, 1))(*args)
    for i in (0, 1):
        for j in (0, 1):
            want = differences(lambda *args: slope(*args)[i], args, j)  # noqa: B023
            np.testing.assert_allclose(got[i][j], want, rtol=1e-5, atol=1e-6)
    lanes = [np.stack([x, x[::-1] if x.dtype.kind == "i" else x * 1.1, x]) for x in args]
    want = [f(*lane) for lane in zip(*lanes)]
    np.testing.assert_allclose(tapejit.vmap(f)(*lanes), want, rtol=1e-13)
    mapped = tapejit.vmap(tapejit.grad(lambda *args: np.sum(np.sin(f(*args)))))(*lanes)
    alone = tapejit.grad(lambda *args: np.sum(np.sin(f(*args))))
    np.testing.assert_allclose(mapped, [alone(*lane) for lane in zip(*lanes)], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [n for n, case in WRITES.items() if len(case) > 3])
def test_other_positions_in_later_calls(name):
    write, a, b, *rest = WRITES[name]
    f = program(write)
    jitted, slope = tapejit.jit(f), tapejit.grad(lambda *args: np.sum(np.sin(f(*args))), argnums=1)
    for k in range(4):
        at = [np.roll(x, k) if k < 3 else np.zeros_like(x) for x in rest]
        np.testing.assert_allclose(jitted(a, b, *at), f(a, b, *at), rtol=1e-14)
        want = np.tensordot(np.cos(f(a, b, *at)), differences(f, [a, b, *at], 1), 1)
        np.testing.assert_allclose(slope(a, b, *at), want, rtol=1e-7, atol=1e-7)
    assert jitted.cache_info().paths == 1


def test_masks_take_one_path_for_all_counts():
    for write in (np.place, np.putmask):
        f = program(lambda y, b: write(y, y > 0, b))  # noqa: B023
        jitted = tapejit.jit(f)
        for a in (X, -X, X * 0, abs(X)):
            np.testing.assert_array_equal(jitted(a, B), f(a, B))
        assert jitted.cache_info().paths == 1


# ---- types, errors -------------------------------------------------------------------------------------------------------
F32, I32 = np.arange(4, dtype=np.float32), np.arange(4, dtype=np.int32)
TYPES = [
    lambda y: np.add.at(y, [0, 0], 1.5), lambda y: np.add.at(y, [0, 1], 0.1), lambda y: np.subtract.at(y, [1, 1, 2], 2),
    lambda y: np.add.at(y, [1, 1], np.array([2, 3])), lambda y: np.multiply.at(y, [0, 0, 3], 1.7),
    lambda y: np.divide.at(y, [3, 3], 2), lambda y: np.sqrt.at(y, [3, 3] if y.dtype != bool else []),
    lambda y: np.isnan.at(y, [1]),
    lambda y: np.add.at(y, [0, 0], True), lambda y: np.logical_not.at(y, [1, 1, 0]), lambda y: np.equal.at(y, [3, 3], 3),
    lambda y: np.put(y, [0, 2], 2.7), lambda y: np.put(y, [0, 2], [2.7, 3]), lambda y: np.put(y, [1], np.array([2.7])),
    lambda y: np.put(y, 0, True), lambda y: np.put(y, [1], 2**40), lambda y: np.put(y, [1], np.nan),
    lambda y: np.put(y, [1], np.array([2**40])), lambda y: np.place(y, y > 1, [2.7, 5]), lambda y: np.place(y, y > 1, -1.5),
    lambda y: np.putmask(y, y > 1, 2.7), lambda y: np.putmask(y, [0.5, 0, np.nan, 1], [7, 8]),
    lambda y: np.fill_diagonal(y.reshape(2, 2), 2.7), lambda y: np.fill_diagonal(y.reshape(2, 2), np.nan),
    lambda y: np.put_along_axis(y, np.array([1]), 2.7, 0), lambda y: y.fill(2.7), lambda y: y.fill(2**40),
    lambda y: y.__setitem__(1, 2**40), lambda y: y.__setitem__([1, 2], [2**40, 1]), lambda y: np.left_shift.at(y, [1, 1], 3),
]  # fmt: skip


def like(write, a, context):
    """What a write does to an ndarray is what it does to an Array: values and dtype, or the exception."""
    want = a.copy()
    try:
        quietly(write, want)
    except Exception as error:
        expected = next(k for k in type(error).__mro__ if k.__module__ == "builtins")
        with pytest.raises(expected) as caught:
            quietly(context, write, a)
        return error, caught.value
    got = quietly(context, write, a)
    assert got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-7 if a.dtype == np.float32 else 1e-15)
    return None


def eagerly(write, a):
    x = Array(a)
    write(x)
    return x.numpy()


def compiled(write, a):
    def f(a):
        y = a.copy()
        write(y)
        return y

    g = tapejit.jit(f)
    g(a)
    return np.asarray(g(a))


@pytest.mark.parametrize("context", [eagerly, compiled])
@pytest.mark.parametrize("write", TYPES)
@pytest.mark.parametrize("a", [F32, I32, F32 > 1, np.arange(4.0)], ids=lambda a: str(a.dtype))
def test_types(write, a, context):
    like(write, a, context)


ODD = [
    lambda y: np.add.at(y, [5], 1), lambda y: np.add.at(y, [0, -5], 1), lambda y: np.add.at(y, [0, 1], [1, 2, 3]),
    lambda y: np.multiply.at(y, [0, 1], [[1, 2]]), lambda y: np.add.at(y, 1, [5]), lambda y: np.add.at(y, [0.5], 1),
    lambda y: np.add.at(y, [0]), lambda y: np.negative.at(y, [0], 1), lambda y: np.add.at(y, ..., [1, 2, 3, 4]),
    lambda y: np.add.at(y, np.array([True, False, True, False]), [5, 6]), lambda y: np.add.at(y, [True], 1),
    lambda y: np.add.at(y, (), 1), lambda y: np.divmod.at(y, [0], 1), lambda y: np.add.at(y, None, 1),
    lambda y: np.put(y, [4], 1), lambda y: np.put(y, [0, -5], 1), lambda y: np.put(y, [9], []), lambda y: np.put(y, [], 1),
    lambda y: np.put(y, [1], 1, mode="x"), lambda y: np.put(y, np.array([0.5]), 1), lambda y: np.put(y, [True], 7),
    lambda y: np.put(y[:0], [0], 1), lambda y: np.put(y[:0], [0], 1, mode="clip"), lambda y: np.put(y[:0], [], 1),
    lambda y: np.place(y, [1, 0, 1], 5), lambda y: np.place(y, [[1, 0], [1, 1]], [5, 6]),
    lambda y: np.place(y, [1, 0, 0, 0], []), lambda y: np.place(y, [0] * 4, []), lambda y: np.place(y, [1] * 4, [[1], [2]]),
    lambda y: np.place(y[:0], [], [1]), lambda y: np.putmask(y[:0], [], [1]), lambda y: np.putmask(y, [1, 0], 5),
    lambda y: np.putmask(y, [[1, 0], [1, 1]], [5, 6]), lambda y: np.putmask(y, [1] * 4, []),
    lambda y: np.fill_diagonal(y, 1), lambda y: np.fill_diagonal(y.reshape(1, 2, 2), 1),
    lambda y: np.fill_diagonal(y.reshape(2, 2), []), lambda y: np.fill_diagonal(y[:0].reshape(0, 3), 1),
    lambda y: np.fill_diagonal(y[:0].reshape(3, 0), 1, True), lambda y: np.fill_diagonal(y[:0].reshape(0, 0, 0), 1),
    lambda y: np.put_along_axis(y.reshape(2, 2), np.array([0]), 1, 1), lambda y: np.put_along_axis(y, np.array([0.0]), 1, 0),
    lambda y: np.put_along_axis(y, np.array([4]), 1, 0), lambda y: np.put_along_axis(y, np.array([0, 1]), [1, 2, 3], 0),
    lambda y: np.put_along_axis(y, np.array([[0]]), 1, None), lambda y: np.put_along_axis(y, np.array([0]), 1, 3),
    lambda y: np.put_along_axis(y.reshape(2, 2), np.zeros((3, 1), int), 1, 1), lambda y: np.put_along_axis(y, np.array([0]), 1),
    lambda y: y.fill([1]), lambda y: y.fill(np.ones(1)), lambda y: np.put(np.broadcast_to(y, (2, 4)), [0], 1),
    lambda y: np.place(np.broadcast_to(y, (2, 4)), [1] * 8, 1), lambda y: np.putmask(np.broadcast_to(y, (2, 4)), [1] * 8, 1),
    lambda y: np.fill_diagonal(np.broadcast_to(y, (2, 4)), 1),
    lambda y: np.put_along_axis(np.broadcast_to(y, (2, 4)), np.array([[0]]), 1, 0),
]  # fmt: skip


@pytest.mark.parametrize("context", [eagerly, compiled])
@pytest.mark.parametrize("write", ODD)
def test_odd_cases_and_numpys_errors(write, context):
    errors = like(write, np.array([1.0, 2.0, 3.0, 4.0]), context)
    if errors and "read-only" in str(errors[0]):
        assert "read-only" in str(errors[1])
    elif errors and not isinstance(errors[1], tapejit.TapejitError):
        theirs, ours = [str(e).split("value array")[0].split("(")[0] for e in errors]
        assert ours.startswith(theirs[:20]) or "could not broadcast" in ours


def test_out_of_range_at_a_later_call():
    for write in (np.add.at, np.put):
        f = tapejit.jit(program(lambda y, i: write(y, i, 1.0)))  # noqa: B023
        f(X, np.array([0, 5]))
        for i in ([0, 6], [-7, 0]):
            with pytest.raises(IndexError, match="is out of bounds for axis 0 with size 6"):
                f(X, np.array(i))


def test_small_arrays():
    for write in (lambda y: np.add.at(y, (), 2.0), lambda y: np.put(y, 0, [5.0, 2.0]), lambda y: np.put(y, [0, -1], [5, 2])):
        for a in (np.array(1.0), np.array([1.0])):
            like(write, a, eagerly)


def test_a_plain_ndarray_takes_plain_values_only():
    plain = np.zeros((3, 3))
    tnp.put(plain, [0, 8], 1.0)
    tnp.fill_diagonal(plain[1:], Array(2.0))
    np.place(plain, Array(plain == 1.0), Array([7.0, 8.0]))
    assert plain.tolist() == [[7, 0, 0], [2, 0, 0], [0, 2, 8]]
    writes = [
        lambda x: np.put(plain, [0], x), lambda x: np.place(plain, plain > 1, x), lambda x: np.putmask(plain, plain > 1, x),
        lambda x: np.put_along_axis(plain, np.array([[0]]), x, 0), lambda x: np.add.at(plain, [0], x),
        lambda x: np.multiply.at(plain, (0, 0), x), lambda x: np.copyto(plain, x), lambda x: np.fill_diagonal(plain, x),
    ]  # fmt: skip
    for write in writes:
        local = lambda x, write=write: (write(x), x)[1]
        with pytest.raises(TypeError, match="ndarray|writes into an array") as caught:
            tapejit.grad(local)(1.0)
        assert "test_writing.py" in str(caught.value)
    assert plain.tolist() == [[7, 0, 0], [2, 0, 0], [0, 2, 8]]

    def into_a_local(x):
        np.put(scratch := np.zeros(3), [0], 1.0)
        np.put(scratch, [0], x)

    with pytest.raises(tapejit.errors.MutationError, match="np.put would write a recorded value into an ndarray"):
        tapejit.jit(into_a_local)(1.0)


def test_a_variable_is_assigned_to():
    v = tapejit.Variable([1.0, 2.0])
    for write in (lambda: np.put(v, [0], 1.0), lambda: np.add.at(v, [0], 1.0), lambda: np.place(v, [1, 0], 1.0)):
        with pytest.raises(tapejit.errors.MutationError, match=r"v\.assign\(value\)"):
            write()


@pytest.mark.parametrize("ufunc", [np.multiply, np.maximum, np.power])
def test_recorded_positions_of_what_depends_on_the_order(ufunc):
    f = tapejit.jit(lambda x, i: (ufunc.at(y := x.copy(), i, 2.0), y)[1])
    with pytest.raises(TypeError, match=rf"np\.{ufunc.__name__}\.at at recorded positions") as caught:
        f(X, I)
    assert "test_writing.py" in str(caught.value) and "np.add.at" in str(caught.value)
    with pytest.raises(TypeError, match="at recorded positions"):  # each step rounds to an integer
        tapejit.jit(lambda x, i: (np.add.at(y := x.copy(), i, 1.5), y)[1])(np.arange(6), I)


def test_what_is_missing_says_so():
    with pytest.raises(tapejit.errors.UnsupportedFunctionError, match=r"np\.gcd\.at cannot be recorded"):
        np.gcd.at(Array(np.arange(3)), [0], 1)


def test_arguments_are_copied_with_a_warning():
    x = X.copy()
    for write in (lambda y: np.add.at(y, [0], 1.0), lambda y: np.put(y, [0], 1.0), lambda y: np.place(y, y > 0, 1.0)):
        f = tapejit.jit(lambda y, write=write: (write(y), y)[1])
        with pytest.warns(tapejit.TapejitWarning, match="writes into its argument y"):
            assert f(x)[0] != X[0]
    assert np.array_equal(x, X)


def test_positions_that_are_closed_over_are_read_at_each_call():
    at, table = Array([0, 2]), Array([[1, 1]])
    put = tapejit.jit(lambda x: (np.put(y := x.copy(), at, [7.0, 8.0]), y)[1])
    read = tapejit.jit(lambda x: np.take(x, table) + x[at])
    for i, j in ((0, 2), (1, 1), (-1, 0)):
        at[:], table[0] = [i, j], [j, i]
        want = X.copy()
        np.put(want, [i, j], [7.0, 8.0])
        for _ in range(2):
            assert np.array_equal(put(X), want)
            assert np.array_equal(read(X), X[[[j, i]]] + X[[i, j]])
    table[0] = 1000, 0
    with pytest.raises(IndexError, match="index 1000 is out of bounds"):
        read(X)


def test_values_are_broadcast_over_a_matrix_of_positions():
    """NumPy 2.4 reads beyond the values here, so the reference is a loop."""
    for run in (eagerly, compiled):
        got = run(lambda y: np.add.at(y, [[0, 1], [1, 0], [1, 1]], [0.5, 3.0]), np.array([1.0, 2.0]))
        assert got.tolist() == [1 + 0.5 + 3.0, 2 + 3.0 + 0.5 + 0.5 + 3.0]


def test_many_repeats_cost_what_numpys_do():
    """Rounds work on ever fewer rows: one position that comes often is no reason to touch the others again."""
    rng = np.random.default_rng(0)
    index = np.concatenate([np.arange(1000), np.zeros(300, int)])
    b = rng.uniform(0.9, 1.1, 1300)
    f = program(lambda y, b: np.multiply.at(y, index, b))
    a = rng.uniform(1, 2, 1000)
    np.testing.assert_allclose(tapejit.jit(f)(a, b), f(a, b), rtol=1e-13)
    slope = tapejit.grad(lambda a: f(a, b)[0])(a)
    assert slope[0] == pytest.approx(np.prod(b[index == 0])) and not slope[1:].any()


# ---- generated -----------------------------------------------------------------------------------------------------------
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@QUIET
@given(SHAPES, st.data())
def test_random_writes(shape, data):
    a = np.arange(float(np.prod(shape))).reshape(shape) - 3.0
    count = data.draw(st.integers(0, 6))
    values = np.array(data.draw(st.lists(st.floats(-4, 4), min_size=count, max_size=count)), float)
    positions = np.array(data.draw(st.lists(st.integers(-a.size - 1, a.size), max_size=6)), np.int64)
    mode = data.draw(st.sampled_from(["raise", "wrap", "clip"]))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=a.size, max_size=a.size)), bool).reshape(shape)
    turned = data.draw(st.permutations(range(len(shape))))
    for write, where in (
        (lambda y, p, v: np.put(y, p, v, mode), positions),
        (lambda y, m, v: np.place(y, m, v), mask.transpose(turned)),
        (lambda y, m, v: np.putmask(y, m, v), mask.transpose(turned)),
    ):
        compare(lambda a, p, v: (write(a.transpose(turned), p, v), a)[1], a, where, values)  # noqa: B023


@QUIET
@given(SHAPES, st.data())
def test_random_at(shape, data):
    a = np.linspace(1, 2, int(np.prod(shape))).reshape(shape)
    form = data.draw(st.sampled_from([(), (3,), (2, 2), (0,)]))
    index = []
    for n in shape[: data.draw(st.integers(1, len(shape)))]:
        entries = st.integers(-n, n - 1) if n and data.draw(st.integers(0, 9)) else st.integers(-5, 5)
        array = st.lists(entries, min_size=int(np.prod(form)), max_size=int(np.prod(form))).map(
            lambda i: np.array(i, np.int64).reshape(form)
        )
        index.append(data.draw(st.one_of(array, array, st.slices(n))))
    index = tuple(index)
    try:
        chosen = a[index].shape
    except IndexError:
        chosen = (1,)
    # NumPy 2.4 reads beyond b in np.add.at(np.ones(1), [[0, 0], [0, 0]], [1.0, 2.0]): a matrix of positions gets all of b
    keep = data.draw(st.integers(0, len(chosen))) if len(form) < 2 else 0
    b = np.linspace(0.5, 1.5, int(np.prod(chosen[keep:]))).reshape(chosen[keep:])
    arrays = [i for i in index if isinstance(i, np.ndarray)]

    def added(a, b, *arrays):
        arrays = list(arrays)
        np.add.at(a, tuple([i if isinstance(i, slice) else arrays.pop(0) for i in index]), b)
        return a

    compare(added, a, b, *arrays)
    for ufunc in (np.subtract, np.multiply, np.power):
        compare(lambda a, b: (ufunc.at(a, index, b), a)[1], a, b)  # noqa: B023


def compare(f, a, *given):
    """f writes into its first argument and returns it: as on ndarrays, eager, and compiled with all of them recorded."""
    eager, jitted = f, tapejit.jit(lambda a, *given: f(a.copy(), *given))
    try:
        want = f(a.copy(), *given)
    except (IndexError, ValueError) as error:
        for run in (eager, jitted):
            with pytest.raises(type(error)):
                run(Array(a), *given)
        return
    np.testing.assert_allclose(eager(Array(a), *given).numpy(), want, rtol=1e-14)
    np.testing.assert_allclose(jitted(a, *given), want, rtol=1e-14)
