"""`x[...]` against NumPy over generated indices; positions that are recorded; taking and selecting."""

import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tapejit.array import Array
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.record import recording

A = np.arange(60.0).reshape(3, 4, 5)
V = np.arange(5) * 10
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def agree(x, index, wrap=lambda i: i):
    """Ours is NumPy's, result or exception; recorded and replayed too."""
    try:
        expected = x[index]
    except IndexError as error:
        with pytest.raises(IndexError):
            Array(x)[wrap(index)]
        return error
    for got in (Array(x)[wrap(index)], Array(x)[index]):
        assert isinstance(got, Array)
        assert got.shape == expected.shape and got.dtype == expected.dtype
        np.testing.assert_array_equal(got._data, expected)
    with recording("test") as record:
        out = record.param(x)[index]
        graph, captures = record.finish([out])
    np.testing.assert_array_equal(evaluate(graph, [x, *[getattr(c, "_data", c) for c in captures]])[0], expected)
    return None


def arrays(index):
    """The integer arrays of an index as Arrays."""
    if isinstance(index, tuple):
        return tuple([arrays(i) for i in index])
    return Array(index) if isinstance(index, np.ndarray) and index.dtype.kind == "i" else index


@QUIET
@given(st.data())
def test_basic(data):
    x = np.arange(120.0).reshape(data.draw(st.sampled_from([(2, 3, 4, 5), (120,), (1, 120), (8, 15)])))
    agree(x, data.draw(hnp.basic_indices(x.shape, allow_newaxis=True, max_dims=6)))


@QUIET
@given(st.data())
def test_integer_arrays(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    x = np.arange(np.prod(shape)).reshape(shape)
    agree(x, data.draw(hnp.integer_array_indices(shape, dtype=np.dtype(np.int64))), arrays)


@QUIET
@given(st.data())
def test_mixed(data):
    """Slices, None, integers, integer arrays and masks in any order."""
    x = A
    index = []
    for n in x.shape:
        kind = data.draw(st.sampled_from(["slice", "int", "array", "mask", "none", "list", "numpy int"]))
        if kind == "none":
            index.append(None)
        item = {
            "slice": st.slices(n), "none": st.slices(n), "int": st.integers(-n, n),
            "numpy int": st.integers(-n, n - 1).map(np.int32),
            "array": st.sampled_from([np.array([0, -1]), np.array([[1], [2]]), np.array([1]), np.array(-1),
                np.array([0, 9])]),
            "mask": st.sampled_from([np.arange(n) % 2 == 0, np.zeros(n, bool), np.ones(n + 1, bool)]),
            "list": st.sampled_from([[0, 1], [-1], [], [True] + [False] * (n - 1)]),
        }[kind]  # fmt: skip
        index.append(data.draw(item))
    keep = data.draw(st.integers(1, len(index)))
    index = index[:keep]
    if data.draw(st.booleans()):
        index.insert(data.draw(st.integers(0, len(index))), Ellipsis)
    agree(x, tuple(index), arrays)


CASES = [
    0, -1, 2, 3, -4, (), Ellipsis, None, (0, 1, 2), (0, 1, 2, 3), (Ellipsis, 0), (0, Ellipsis, Ellipsis), slice(None),
    slice(None, None, -1),
    (slice(2, 0, -1), slice(None), slice(4, None, -2)), (slice(5, 9),), (0, [1, 2]), ([0, 1], 0),
    ([0, 1], slice(None), [1, 2]),
    (slice(None), [0, 1], [1, 2]), ([0], slice(None), 0), (0, slice(None), [1, 2]), (slice(None), 0, [1, 2]),
    ([[0], [1]], [0, 1]),
    A[:, 0, 0] > 10, A > 30, A[0] > 10, (slice(None), A[0, :, 0] > 5), (A[:, :, 0] > 20, 0),
    (A[:, :, 0] > 20, slice(None)),
    (0, A[0] > 10), True, False, (True, 0), np.array(True), (None, [0, 1]), ([0, 1], None, [1, 2]), ([0, 3],),
    ([0.5],), 1.5, "x",
    (slice(None), [True, False]), np.zeros((3, 5), bool), [[0, 1], [2, 0]], np.array([], int), [],
    ([0, 1, 2], [0, 1]), np.uint8(2),
    np.array([0, 1], np.uint8), (slice(None), slice(None), slice(1, 4, 2)), (Ellipsis, [1, 1, 0], 2), (0, 0, 0, None),
    (None, Ellipsis, None), slice(0, 0), (slice(3, 1),), np.array([0.0]), (A > 30, 0), [True, False, True],
    (Ellipsis, A[0, 0] > 1),
]  # fmt: skip


@pytest.mark.parametrize("index", CASES, ids=lambda i: str(i)[:30].replace("\n", ""))
def test_case(index):
    agree(A, index, arrays)


def test_small_arrays():
    for x in (np.array(2.0), np.zeros((0, 3)), V):
        for index in (0, (), Ellipsis, None, [0], slice(1, None), (Ellipsis, None), np.zeros(0, int), (0, 0)):
            agree(x, index, arrays)


def recorded(function, *xs):
    with recording("test") as record:
        out = function(*[record.param(np.asarray(x)) for x in xs])
        graph, captures = record.finish([out])
    return lambda *ys: evaluate(graph, [*map(np.asarray, ys), *[getattr(c, "_data", c) for c in captures]])[0]


def test_recorded_positions_are_read_at_run_time():
    take = recorded(operator.getitem, A, 1)
    for i in (0, 2, -1, -3):
        np.testing.assert_array_equal(take(A, i), A[i])
    for i in (3, -4):
        with pytest.raises(GuardFailed):
            take(A, i)
    take = recorded(lambda x, i, j: x[i, :, j], A, [0, 1], [2, 3])
    np.testing.assert_array_equal(take(A, [-1, 0], [0, -5]), A[[-1, 0], :, [0, -5]])
    with pytest.raises(GuardFailed):
        take(A, [0, 0], [0, 5])
    take = recorded(lambda x, i: x[1, i, ::2], A, np.int32(1))
    np.testing.assert_array_equal(take(A, np.int32(-1)), A[1, -1, ::2])
    take = recorded(lambda x, i: np.take(x, i, 1), A, [0, 1])
    np.testing.assert_array_equal(take(A, [3, -1]), A[:, [3, -1]])
    take = recorded(lambda x, i: x[[i, 0]], A, 1)
    np.testing.assert_array_equal(take(A, 2), A[[2, 0]])


def test_recorded_slice_bounds_are_guards():
    take = recorded(lambda x, n: x[:n], V, 2)
    assert take(V, 2).tolist() == [0, 10]
    with pytest.raises(GuardFailed):
        take(V, 3)


def test_out_of_range_raises_indexerror_while_recording():
    with recording("test") as record:
        x, i = record.param(A), record.param(np.array([0, 3]))
        with pytest.raises(IndexError, match="index 3 is out of bounds for axis 0 with size 3"):
            x[i]


def test_recorded_masks_are_positions_at_run_time():
    take = recorded(lambda x: x[x > 30], A)
    np.testing.assert_array_equal(take(A), A[A > 30])
    np.testing.assert_array_equal(take(59 - A), (59 - A)[59 - A > 30])
    with pytest.raises(GuardFailed):
        take(A + 1)
    with recording("test") as record:
        x = record.param(A)
        assert x[A > 30].shape == (29,) and not record.nodes[-1].op.kind == "guard"
    assert Array(A)[Array(A) > 30].shape == (29,)


TAKES = [
    ("take", V, [0, 2]), ("take", A, [[0, 1], [2, 0]]), ("take", A, 1, 1), ("take", A, [0, -1], -1), ("take", V, 7),
    ("take", V, [-6]),
    ("take", A, [7, -9], 1, None, "wrap"), ("take", A, [7, -9], 1, None, "clip"), ("take", A, [0], 3),
    ("take", V, np.array([0.5])),
    ("take", np.zeros((0, 3)), [0], 0), ("take", V, []), ("take", V, np.array([True, False])),
    ("take", V, 0, None, None, "x"),
    ("take_along_axis", A, np.argsort(-A, 1), 1), ("take_along_axis", A, np.zeros((1, 1, 2), int), -1),
    ("take_along_axis", V, np.array([0, -1]), None), ("take_along_axis", V, np.array([5])),
    ("take_along_axis", A, np.zeros((3, 4, 1))),
    ("take_along_axis", A, np.zeros((2, 4, 1), int)),
    ("compress", [True, False, True], A, 0), ("compress", [0, 1], A), ("compress", [1] * 9, V),
    ("compress", A > 0, A),
    ("extract", A > 30, A), ("nonzero", V), ("flatnonzero", A > 50), ("argwhere", A > 50), ("nonzero", A > 50),
    *[("diagonal", A, k) for k in (0, 1, -1, 2, -2, 4, -3, 9)], ("diagonal", A, 0, 1, 2), ("diagonal", A, 1, -1, 0),
    ("diagonal", V),
    ("diagonal", A, 0, 1, 1), ("diagonal", A, 0, 0, 5),
    *[("trace", A, k) for k in (0, 1, -1, 9)], ("trace", A > 30, 0, 1, 2), ("trace", A, 0, 0, 1, np.float32),
    ("trace", V),
    ("select", [A > 30, A > 10], [A, -A], 7), ("select", [A > 30], [A, A]), ("select", [], []), ("select", [A], [A]),
    ("select", [V > 10, V > 20], [V, 0.5]),
    ("searchsorted", V, [5, 10, 45, -1]), ("searchsorted", V, 10, "right"), ("searchsorted", V, A),
    ("searchsorted", A, 1), ("searchsorted", V, 1, "x"),
]  # fmt: skip


@pytest.mark.parametrize("case", TAKES, ids=lambda c: c[0])
def test_taking(case, same):
    same(*case, record=case[0] not in ("nonzero", "flatnonzero", "argwhere", "compress", "extract"))


def test_interp(same):
    x = np.array([-1.0, 0.0, 0.3, 1.0, 2.5, 4.0, 5.0, np.nan])
    xp, fp = np.array([0.0, 1.0, 2.0, 4.0]), np.array([1.0, 3.0, -2.0, 0.5])
    same("interp", x, xp, fp)
    same("interp", x, xp, fp, -7.0, 9.0)
    same("interp", 0.5, xp, fp)
    same("interp", x, xp[:1], fp[:1])
    same("interp", x, xp, fp[:2])
    same("interp", x, xp[:0], fp[:0])


@pytest.mark.parametrize("function", [
    lambda x: x[1], lambda x: x[::-2, None, 1:3], lambda x: x[[0, 1, 0]], lambda x: x[[0, 1], :, [1, 1]],
    lambda x: x[x[:, 0, 0].argmax()],
    lambda x: x[A > 20], lambda x: np.take(x, [1, 1, 0], 2),
    lambda x: np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1),
    lambda x: np.diagonal(x, 1), lambda x: np.trace(x), lambda x: np.select([x > 2, x > 1], [x**2, x**3], -x),
    lambda x: np.interp(x[0, 0] + 0.01, np.arange(5.0), x[0, :, 0][[0, 1, 2, 3, 0]] ** 2),
    lambda x: np.compress([0, 1], x, 0),
    lambda x: list(x[0]), lambda x: x[..., -1], lambda x: x[np.array([[0], [2]]), np.array([1, 3])],
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, A / 12 + 0.01)
