"""Functions that move elements against NumPy, and their derivatives."""

import numpy as np
import pytest

import tapejit.numpy as tnp
from tapejit.array import Array
from tapejit.errors import ArgumentError
from tapejit.record import recording

A = np.arange(24.0).reshape(2, 3, 4)
M = np.arange(12).reshape(3, 4)
V = np.array([3.0, 1.0, 2.0, 5.0])
S = np.array(2.5)
EMPTY = np.zeros((0, 3))
TURNED = np.asfortranarray(M)[::-1, ::2]

CASES = [
    *[("reshape", A, s) for s in ((6, 4), -1, (2, -1), (4, 6, 1), (5, 5), (-1, -1), (-1, 5), [3, 8], (0,), (-2, 12))],
    *[("reshape", A, s, "F") for s in ((6, 4), -1, (4, -1))],
    ("reshape", EMPTY, (3, 0)), ("reshape", EMPTY, (-1,)), ("reshape", EMPTY, (0, -1)), ("reshape", S, (1, 1)),
    ("reshape", S, ()),
    ("ravel", A), ("ravel", A, "F"), ("ravel", S), ("ravel", TURNED), ("ravel", 3.0),
    *[("transpose", A, axes) for axes in (None, (1, 0, 2), (2, 0, 1), (-1, 0, 1), (0, 0, 1), (0, 1), (0, 1, 3))],
    ("transpose", V), ("transpose", TURNED), ("permute_dims", A, (2, 1, 0)),
    ("matrix_transpose", A), ("matrix_transpose", V), ("linalg.matrix_transpose", M),
    *[("swapaxes", A, i, j) for i, j in ((0, 1), (-1, 0), (0, 3), (1, 1))],
    *[("moveaxis", A, i, j) for i,
        j in ((0, 2), (-1, 0), ((0, 1), (-1, -2)), (0, 3), ((0, 0), (1, 2)), ((0, 1), (0,)))],
    *[("rollaxis", A, i, j) for i, j in ((0, 2), (2, 0), (1, 3), (-1, 1), (0, 5), (3, 0))],
    *[("expand_dims", A, i) for i in (0, -1, (0, 2), (0, -1), 5, (1, 1))], ("expand_dims", S, 0),
    *[("squeeze", A[:, :1, :1], i) for i in (None, 1, (1, 2), -1, 0, 3)], ("squeeze", S),
    *[("broadcast_to", V, s) for s in ((2, 4), (4,), (1, 3, 4), (3,), (4, 1), ())], ("broadcast_to", S, (2, 2)),
    ("broadcast_to", S, 3), ("broadcast_to", EMPTY, (2, 0, 3)),
    ("broadcast_arrays", M, V), ("broadcast_arrays", M, S, 2), ("broadcast_arrays", M, np.ones(3)),
    *[(f"atleast_{d}d", x) for d in (1, 2, 3) for x in (S, V, M, A, 2)], ("atleast_2d", S, V),
    ("shape", A), ("ndim", A), ("size", A), ("size", A, 1), ("size", A, (0, 1)), ("size", A, 5),
    *[("concatenate", [M, M + 1], axis) for axis in (0, 1, -1, None, 2)], ("concatenate", [V, M]),
    ("concatenate", []),
    ("concatenate", [M, V[None]]), ("concatenate", [M, EMPTY]), ("concatenate", [S, S]), ("concat", (V, V)),
    ("concatenate", [V.astype(np.float32), np.arange(3)]), ("concatenate", [V > 1, np.arange(3)]),
    *[("stack", [V, V + 1], axis) for axis in (0, 1, -1, 2, -3)], ("stack", [V, V[:2]]), ("stack", []),
    ("stack", [S, S]),
    ("stack", [M]),
    *[(f, xs) for f in ("vstack", "hstack", "dstack", "column_stack") for xs in ([V, V], [M, M], [S, S], [A, A],
        [M, V], (V,))],
    ("append", M, [7.0]), ("append", M, np.ones((1, 4)), 0), ("append", M, V, 0), ("append", V, 2),
    *[(f, x, n) for f in ("array_split", "split") for x in (V, M) for n in (2, 3, [1, 2], [1, 9], [2, 1], 0, [-1])],
    ("split", M, 2, 1), ("array_split", M, 3, -1), ("array_split", M, 3, 2),
    *[(f, x, 2) for f in ("hsplit", "vsplit", "dsplit") for x in (V, np.ones((2, 2)), np.ones((2, 2, 4)), S)],
    ("unstack", M), ("unstack", S), ("unstack", EMPTY),
    *[("repeat", M, n, axis) for n in (2, 0, [1, 0, 2], [2]) for axis in (None, 0, 1, -1, 2)], ("repeat", S, 3),
    ("repeat", V, -1), ("repeat", V, [1, 2]), ("repeat", V, np.array([1, 2, 0, 3])),
    *[("tile", x, n) for x in (M, S, V, EMPTY) for n in (2, (2, 1), (1, 2, 2), 0, ())],
    *[("roll", M, n, axis) for n in (1, -1, 5, 0) for axis in (None, 0, 1, -1, (0, 1), 2)],
    ("roll", M, (1, 2), (0, 1)), ("roll", M, (1, 2), 0), ("roll", V, -13), ("roll", EMPTY, 2),
    ("roll", M, (1, 2), (0, 0)),
    *[("flip", A, axis) for axis in (None, 0, 1, -1, (0, 2), 3, (0, 0))], ("fliplr", M), ("flipud", V), ("fliplr", V),
    ("flip", S),
    ("flipud", S),
    *[("rot90", M, k) for k in (0, 1, 2, 3, -1, 5)], ("rot90", A, 1, (1, 2)), ("rot90", A, 1, (0, 0)), ("rot90", V),
    ("rot90", A, 1, (0, 3)),
    *[("pad", M, 2, mode) for mode in ("constant", "edge", "reflect", "symmetric", "wrap")],
    *[("pad", M, ((1, 0), (5, 7)), mode) for mode in ("constant", "edge", "reflect", "symmetric", "wrap")],
    ("pad", V, (1, 2)), ("pad", S, 2), ("pad", EMPTY, 1), ("pad", EMPTY, 1, "edge"), ("pad", V, -1), ("pad", V, 1.5),
    ("pad", V, ((1, 2), (3, 4))), ("pad", V, [3], "reflect"), ("pad", M, {1: (1, 2)}), ("pad", V, 0, "wrap"),
    ("insert", V, 1, 9.0), ("insert", V, [1, 3], [7.0, 8.0]), ("insert", V, [0, 4], 1), ("insert", M, 1, 5, 0),
    ("insert", V, -1, 9),
    ("insert", M, 1, np.array([1, 2, 3]), 1), ("insert", V, 9, 1.0), ("insert", M, [1], np.array([[1], [2], [3]]), 1),
    ("insert", M, 1, 2.7), ("insert", V, slice(0, 2), 9.0), ("insert", V, 1, [1.0, 2.0]),
    ("insert", M, 0, np.ones((2, 4)), 0),
    ("delete", V, 1), ("delete", V, [0, 2]), ("delete", M, slice(0, 2), 0), ("delete", M, -1, 1), ("delete", V, 9),
    ("delete", M, 1), ("delete", V, [True, False, False, True]), ("delete", V, []),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_as_numpy(case, same):
    same(*case)


def test_keywords(same):
    same("stack", [V, V], dtype=np.float32)
    same("concatenate", [V, V], dtype=np.int64, casting="unsafe")
    same("concatenate", [V, V], dtype=np.int64)
    same("unstack", A, axis=-1)
    same("pad", M, 1, constant_values=3)
    same("pad", M, ((1, 2), (0, 3)), constant_values=((1, 2), (3, 4)))
    same("pad", M, 1, "edge", constant_values=3)
    same("vstack", (V, V), dtype=np.float32)


def test_what_depends_on_memory_layout_is_refused():
    for order in ("A", "K"):
        with pytest.raises(ArgumentError):
            np.ravel(Array(M), order)
    with pytest.raises(ArgumentError):
        np.pad(Array(M), 1, "linear_ramp")


def test_recorded_sizes_are_guards():
    with recording("test") as record:
        n = record.param(np.int64(2))
        x = record.param(A)
        assert x.reshape(n, -1).shape == (2, 12)
        assert np.repeat(x, n, 0).shape == (4, 3, 4)
        assert np.roll(x, n).shape == x.shape
        assert [node.attrs["seen"] for node in record.nodes if node.op.name == "guard"][:2] == [2, 2]


def test_recorded_padding(slopes):
    slopes(lambda x, c: np.pad(x, 1, constant_values=c), M, 2.0)
    with recording("test") as record:
        c = record.param(np.float64(2.0))
        np.testing.assert_array_equal(tnp.pad(V, (1, 2), constant_values=c)._data,
            np.pad(V, (1, 2), constant_values=2.0))


@pytest.mark.parametrize("function", [
    lambda x: np.reshape(x, (3, -1), order="F"), lambda x: np.moveaxis(x, 0, -1),
    lambda x: np.concatenate([x, x[:1] * 2]),
    lambda x: np.stack([x, x**2], 1), lambda x: np.split(x, 2, 2), lambda x: np.repeat(x, [1, 0, 2], 1),
    lambda x: np.tile(x, (2, 2)),
    lambda x: np.roll(x, 3), lambda x: np.flip(x), lambda x: np.rot90(x), lambda x: np.pad(x, 2, "reflect"),
    lambda x: np.pad(x, 1, "wrap"), lambda x: np.pad(x, 1, "edge"), lambda x: np.pad(x, 1, "symmetric"),
    lambda x: np.insert(x, 1, x[0, 0, 0], 0), lambda x: np.delete(x, 1, 2),
    lambda x: np.broadcast_to(x, (2, 2, 3, 4)),
    lambda x: np.squeeze(np.expand_dims(x, 1)), lambda x: np.unstack(x), lambda x: x.T, lambda x: x.mT,
    lambda x: x.flatten("F"),
    lambda x: np.hstack(x), lambda x: np.atleast_3d(x[0]), lambda x: np.array_split(x, 2, 1),
    lambda x: np.append(x, x[0, 0]),
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, A / 10)
