"""`tapejit.numpy.linalg`: norms, products and diagonals under numpy.linalg's names. There are no decompositions yet."""

from __future__ import annotations

import math
import operator

import numpy as np

from ..array import Array, handles, is_a
from ..errors import UnsupportedFunctionError, located
from ..promote import F64, call, cast, select
from ..selection import Selection
from .common import all_axes, firm, one_axis, permuted, reshaped
from .contraction import cross as _cross
from .contraction import matmul, matrix_power, multi_dot, tensordot, vecdot
from .contraction import outer as _outer
from .contraction import trace as _trace
from .indexing import diagonal as _diagonal
from .reductions import max, min, root, sum
from .shapes import matrix_transpose


def _ends(x, out, axes, keepdims):
    return reshaped(out, tuple([1 if i in axes else n for i, n in enumerate(x.shape)])) if keepdims else out


def norm(x, ord=None, axis=None, keepdims=False):
    """As `numpy.linalg.norm`, but for the orders that need singular values (2, -2, "nuc" of matrices).

    The derivative at 0 is 0.
    """
    x = firm(x)
    x = x if x.dtype.kind == "f" else cast(x, F64)
    ndim = x.ndim
    if axis is None:
        if ord is None or (ord in ("f", "fro") and ndim == 2) or (ord == 2 and ndim == 1):
            flat = x if type(x) is Selection else reshaped(x, (x.size,))
            return _ends(x, root(sum(call("mul", flat, flat))), range(ndim), keepdims)
        axis = tuple(range(ndim))
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    try:
        axes = tuple([operator.index(i) for i in axes])
    except TypeError:
        raise TypeError("'axis' must be None, an integer or a tuple of integers") from None
    axes = tuple([one_axis(i, ndim) for i in axes])
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) == 2:
        return _matrix_norm(x, ord, axes, keepdims)
    raise ValueError("Improper number of dimensions to norm.")


handles(np.linalg.norm)(norm)


def _vector_norm(x, ord, axes, keepdims):
    if ord == np.inf:
        return max(call("abs", x), axes, keepdims=keepdims)
    if ord == -np.inf:
        return min(call("abs", x), axes, keepdims=keepdims)
    if isinstance(ord, str):
        raise ValueError(f"Invalid norm order '{ord}' for vectors")
    if ord is None or _is(ord, 2):
        return root(sum(call("mul", x, x), axes, keepdims=keepdims))
    if _is(ord, 0):
        return sum(cast(call("ne", x, 0.0), x.dtype), axes, keepdims=keepdims)
    if _is(ord, 1):
        return sum(call("abs", x), axes, keepdims=keepdims)
    total = sum(call("pow", call("abs", x), ord), axes, keepdims=keepdims)
    inverse = call("div", 1.0, ord) if isinstance(ord, Array) else 1.0 / ord
    zero = call("eq", total, 0.0)
    power = call("pow", select(zero, total.dtype.type(1), total), inverse)
    return select(zero, call("pow", total, inverse) if _is_negative(ord) else total, power)


def _is(ord, number):
    return is_a(ord, (int, float, np.number)) and ord == number


def _is_negative(ord):
    return is_a(ord, (int, float, np.number)) and ord < 0


def _matrix_norm(x, ord, axes, keepdims):
    row, column = axes
    if row == column:
        raise ValueError("Duplicate axes given.")
    if ord in (2, -2, "nuc"):
        raise located(
            UnsupportedFunctionError,
            f"np.linalg.norm(ord={ord!r}) of a matrix needs singular values, which cannot be recorded yet",
            "ord='fro', 1, -1, inf or -inf",
        )
    if ord in (None, "fro", "f"):
        return root(sum(call("mul", x, x), axes, keepdims=keepdims))
    if ord not in (1, -1, np.inf, -np.inf):
        raise ValueError("Invalid norm order for matrices.")
    over, across = (row, column) if ord in (1, -1) else (column, row)
    sums = sum(call("abs", x), over, keepdims=True)
    out = (max if ord > 0 else min)(sums, across, keepdims=True)
    return out if keepdims else reshaped(out, tuple([n for i, n in enumerate(x.shape) if i not in axes]))


@handles(np.linalg.vector_norm)
def vector_norm(x, /, *, axis=None, keepdims=False, ord=2):
    """As `numpy.linalg.vector_norm`; the derivative at 0 is 0."""
    x = firm(x)
    axes = all_axes(axis, x.ndim)
    rest = [i for i in range(x.ndim) if i not in axes]
    flat = reshaped(permuted(x, (*axes, *rest)), (math.prod([x.shape[i] for i in axes]), *[x.shape[i] for i in rest]))
    return _ends(x, norm(flat, ord, 0), axes, keepdims)


@handles(np.linalg.matrix_norm)
def matrix_norm(x, /, *, keepdims=False, ord="fro"):
    """As `numpy.linalg.matrix_norm`, for the orders that `norm` has."""
    return norm(x, ord, (-2, -1), keepdims)


@handles(np.linalg.trace)
def trace(x, /, *, offset=0, dtype=None):
    """As `numpy.linalg.trace`: of the last two axes."""
    return _trace(x, offset, -2, -1, dtype)


@handles(np.linalg.diagonal)
def diagonal(x, /, *, offset=0):
    """As `numpy.linalg.diagonal`: of the last two axes."""
    return _diagonal(x, offset, -2, -1)


@handles(np.linalg.outer)
def outer(x1, x2, /):
    """As `numpy.linalg.outer`."""
    x, y = firm(x1), firm(x2)
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"Input arrays must be one-dimensional, but they are {x.ndim=} and {y.ndim=}.")
    return _outer(x, y)


@handles(np.linalg.cross)
def cross(x1, x2, /, *, axis=-1):
    """As `numpy.linalg.cross`."""
    return _cross(x1, x2, axis=axis)


__all__ = [
    "cross", "diagonal", "matmul", "matrix_norm", "matrix_power", "matrix_transpose", "multi_dot", "norm", "outer",
    "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip
