"""Products of arrays, all written in `dot` of the table: matmul, einsum, tensordot and their kin."""

from __future__ import annotations

import math
import operator

import numpy as np

from ..array import Array, handles, since
from ..errors import ArgumentError, ShapeError, located
from ..promote import BOOL, I64, apply1, asarray, call, cast, common_dtype
from .common import broadcast, firm, one_axis, permuted, refuse, reshaped, static_shape
from .indexing import diagonal
from .reductions import sum as _sum


def _alike(*xs):
    """Operands as Arrays of one number type; for bools int64, and whether the result must become bool again."""
    xs = [firm(x) for x in xs]
    dtype = xs[0]._data.dtype
    if dtype.kind != "b" and all([x._data.dtype is dtype for x in xs]):
        return xs, False
    dtype = common_dtype(*xs)
    wanted = I64 if dtype == BOOL else dtype
    return [asarray(cast(x, wanted)) for x in xs], dtype == BOOL


def _dot(x, y, contract, batch=((), ())):
    return apply1("dot", x, y, contract=contract, batch=batch)


def _result(out, logical):
    return call("ne", out, 0) if logical else out


# ---- matrix products ---------------------------------------------------------------------------------------------------
def _mismatch(name, x, y, n, m):
    return located(
        ShapeError,
        f"{name}: shapes {x.shape} and {y.shape} not aligned: {n} != {m} (the axes to be summed over differ in length)",
        "transpose or reshape one operand",
    )


@handles(np.matmul, np.linalg.matmul)
def matmul(x1, x2, /, out=None, **kwargs):
    """As `numpy.matmul`."""
    if out is not None or kwargs:
        refuse("np.matmul", out, kwargs)
    (x, y), logical = _alike(x1, x2)
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(
            f"matmul: Input operand {0 if x.ndim == 0 else 1} does not have enough dimensions (has 0, gufunc core with "
            "signature (n?,k),(k,m?)->(n?,m?) requires 1)"
        )
    last, rows = x.ndim - 1, max(0, y.ndim - 2)
    if x.shape[last] != y.shape[rows]:
        raise _mismatch("matmul", x, y, x.shape[last], y.shape[rows])
    lead_x, lead_y = x.shape[:-2], y.shape[:-2]
    if not lead_y:  # one matrix or vector for all of x: no batches needed
        return _result(_dot(x, y, ((last,), (rows,))), logical)
    if not lead_x:
        out = _dot(x, y, ((last,), (rows,)))
        if x.ndim == 2:  # axes: rows of x, batch, columns of y
            out = permuted(out, (*range(1, out.ndim - 1), 0, out.ndim - 1))
        return _result(out, logical)
    try:
        lead = np.broadcast_shapes(lead_x, lead_y)
    except ValueError:
        raise located(
            ShapeError,
            f"matmul: operands could not be broadcast together with shapes {x.shape} {y.shape}",
            "make the axes before the last two equal or 1",
        ) from None
    x, y = broadcast(x, lead + x.shape[-2:]), broadcast(y, lead + y.shape[-2:])
    k = len(lead)
    return _result(_dot(x, y, ((k + 1,), (k,)), (tuple(range(k)), tuple(range(k)))), logical)


@handles(np.dot)
def dot(a, b, out=None):
    """As `numpy.dot`."""
    refuse("np.dot", out, {})
    (x, y), logical = _alike(a, b)
    if x.ndim == 0 or y.ndim == 0:
        return _result(call("mul", x, y), logical)
    last, rows = x.ndim - 1, max(0, y.ndim - 2)
    if x.shape[last] != y.shape[rows]:
        raise _mismatch("dot", x, y, x.shape[last], y.shape[rows])
    return _result(_dot(x, y, ((last,), (rows,))), logical)


@handles(np.vdot)
def vdot(a, b, /):
    """As `numpy.vdot`."""
    x, y = firm(a), firm(b)
    if x.size != y.size:
        raise _mismatch("vdot", x, y, x.size, y.size)
    return dot(reshaped(x, (x.size,)), reshaped(y, (y.size,)))


@handles(np.inner)
def inner(a, b, /):
    """As `numpy.inner`."""
    (x, y), logical = _alike(a, b)
    if x.ndim == 0 or y.ndim == 0:
        return _result(call("mul", x, y), logical)
    if x.shape[-1] != y.shape[-1]:
        raise _mismatch("inner", x, y, x.shape[-1], y.shape[-1])
    return _result(_dot(x, y, ((x.ndim - 1,), (y.ndim - 1,))), logical)


@handles(np.outer)
def outer(a, b, out=None):
    """As `numpy.outer`."""
    refuse("np.outer", out, {})
    (x, y), logical = _alike(a, b)
    return _result(call("mul", reshaped(x, (x.size, 1)), reshaped(y, (1, y.size))), logical)


@handles(np.vecdot, np.linalg.vecdot)
def vecdot(x1, x2, /, out=None, *, axis=-1, **kwargs):
    """As `numpy.vecdot`."""
    refuse("np.vecdot", out, kwargs)
    (x, y), logical = _alike(x1, x2)
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError("vecdot: an operand does not have enough dimensions (has 0, requires 1)")
    i, j = one_axis(axis, x.ndim), one_axis(axis, y.ndim)
    if x.shape[i] != y.shape[j]:
        raise _mismatch("vecdot", x, y, x.shape[i], y.shape[j])
    x = permuted(x, (*[d for d in range(x.ndim) if d != i], i))
    y = permuted(y, (*[d for d in range(y.ndim) if d != j], j))
    return _result(_rows_dot(x, y), logical)


def _rows_dot(x, y):
    """Sum over the last axes, the others broadcast."""
    lead = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, y = broadcast(x, (*lead, x.shape[-1])), broadcast(y, (*lead, y.shape[-1]))
    k = len(lead)
    return _dot(x, y, ((k,), (k,)), (tuple(range(k)), tuple(range(k))))


@handles(since("matvec"))
def matvec(x1, x2, /, out=None, **kwargs):
    """As `numpy.matvec`."""
    refuse("np.matvec", out, kwargs)
    x, y = firm(x1), firm(x2)
    if x.ndim < 2 or y.ndim < 1:
        raise ValueError("matvec: an operand does not have enough dimensions (signature (m,n),(n)->(m))")
    out = matmul(x, reshaped(y, (*y.shape, 1)))
    return reshaped(out, out.shape[:-1])


@handles(since("vecmat"))
def vecmat(x1, x2, /, out=None, **kwargs):
    """As `numpy.vecmat`."""
    refuse("np.vecmat", out, kwargs)
    x, y = firm(x1), firm(x2)
    if x.ndim < 1 or y.ndim < 2:
        raise ValueError("vecmat: an operand does not have enough dimensions (signature (n),(n,m)->(m))")
    out = matmul(reshaped(x, (*x.shape[:-1], 1, x.shape[-1])), y)
    return reshaped(out, (*out.shape[:-2], out.shape[-1]))


@handles(np.tensordot, np.linalg.tensordot)
def tensordot(a, b, axes=2):
    """As `numpy.tensordot`."""
    (x, y), logical = _alike(a, b)
    try:
        left, right = axes
        left = list(left) if np.iterable(left) else [left]
        right = list(right) if np.iterable(right) else [right]
    except TypeError:
        count = operator.index(axes)
        left, right = list(range(-count, 0)), list(range(count))
    left, right = [[operator.index(i) for i in side] for side in (left, right)]
    if len(left) != len(right):
        raise ValueError("shape-mismatch for sum")
    if not all([-x.ndim <= i < x.ndim for i in left] + [-y.ndim <= i < y.ndim for i in right]):
        raise IndexError("tuple index out of range")
    left, right = tuple([i % x.ndim for i in left]), tuple([i % y.ndim for i in right])
    if [x.shape[i] for i in left] != [y.shape[i] for i in right] or len(set(left)) != len(left):
        raise ValueError("shape-mismatch for sum")
    return _result(_dot(x, y, (left, right)), logical)


@handles(np.kron)
def kron(a, b):
    """As `numpy.kron`."""
    (x, y), logical = _alike(a, b)
    ndim = max(x.ndim, y.ndim)
    n, m = (1,) * (ndim - x.ndim) + x.shape, (1,) * (ndim - y.ndim) + y.shape
    x = reshaped(x, tuple([k for i in n for k in (i, 1)]))
    y = reshaped(y, tuple([k for i in m for k in (1, i)]))
    return _result(reshaped(call("mul", x, y), tuple([i * j for i, j in zip(n, m)])), logical)


@handles(np.cross)
def cross(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    """As `numpy.cross`, for vectors of length 3."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = firm(a), firm(b)
    if x.ndim < 1 or y.ndim < 1:
        raise ValueError("At least one array has zero dimension")
    i, j = one_axis(axisa, x.ndim), one_axis(axisb, y.ndim)
    x = permuted(x, (i, *[d for d in range(x.ndim) if d != i]))
    y = permuted(y, (j, *[d for d in range(y.ndim) if d != j]))
    if x.shape[0] != 3 or y.shape[0] != 3:
        raise ValueError(
            "Both input arrays must be (arrays of) 3-dimensional vectors, but they are "
            f"{x.shape[0]} and {y.shape[0]} dimensional instead."
        )
    ndim = max(x.ndim, y.ndim) - 1
    axisc = one_axis(axisc, ndim + 1)
    xs, ys = [x[k] for k in range(3)], [y[k] for k in range(3)]
    parts = []
    for p, q in ((1, 2), (2, 0), (0, 1)):
        part = call("sub", call("mul", xs[p], ys[q]), call("mul", xs[q], ys[p]))
        parts.append(reshaped(part, part.shape[:axisc] + (1,) + part.shape[axisc:]))
    return apply1("concatenate", *parts, axis=axisc)


@handles(np.trace)
def trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None):
    """As `numpy.trace`."""
    return _sum(diagonal(a, offset, axis1, axis2), -1, dtype, out)


# ---- einsum ----------------------------------------------------------------------------------------------------------------
@handles(np.einsum)
def einsum(*operands, out=None, optimize=False, **kwargs):
    """As `numpy.einsum`; with more than two operands, the pair with the smallest result is contracted first."""
    refuse("np.einsum", out, {k: v for k, v in kwargs.items() if k != "dtype"})
    inputs, output, xs = _parse(operands)
    xs, logical = _alike(*xs)
    if kwargs.get("dtype") is not None:
        xs = [asarray(cast(x, np.dtype(kwargs["dtype"]))) for x in xs]
    sizes = _sizes(inputs, xs)
    terms = [_prepare(x, labels, sizes) for x, labels in zip(xs, inputs)]
    while len(terms) > 1:
        i, j = _cheapest(terms, output, sizes)
        first, second = terms[i], terms[j]
        rest = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = set(output).union(*[labels for _, labels in rest])
        terms = [*rest, _contract(first, second, needed)]
    x, labels = _sum_out(*terms[0], set(output))
    return _result(permuted(x, tuple([labels.index(k) for k in output])), logical)


def _parse(operands):
    """(labels of each operand, labels of the result, operands); an ellipsis becomes labels of its own."""
    if not operands:
        raise ValueError("must specify the einstein sum subscripts string and at least one operand, or at least one operand "
                         "and its corresponding subscripts list")
    if isinstance(operands[0], str):
        text, *xs = operands
        text = text.replace(" ", "")
        left, arrow, right = text.partition("->")
        if ">" in left or "-" in left or ">" in right or "-" in right:
            raise ValueError("invalid subscript given in einstein sum subscripts string")
        terms = [_letters(t) for t in left.split(",")]
        result = _letters(right) if arrow else None
    else:
        pairs = list(operands)
        result = list(pairs.pop()) if len(pairs) % 2 else None
        xs, terms = pairs[::2], [list(t) for t in pairs[1::2]]
    if len(terms) != len(xs):
        fewer = "more" if len(xs) > len(terms) else "fewer"
        raise ValueError(f"{fewer} operands provided to einstein sum function than specified in the subscripts string")
    ndims = [firm(x).ndim for x in xs]
    wide = 0
    for term, ndim in zip(terms, ndims):
        named = len([k for k in term if k is not Ellipsis])
        if Ellipsis in term:
            if ndim < named:
                raise ValueError("einstein sum subscripts string contains too many subscripts for operand")
            wide = max(wide, ndim - named)
        elif named != ndim:
            raise ValueError(
                f"operand has {'more' if ndim > named else 'fewer'} dimensions than subscripts given in einstein sum, but no "
                "'...' ellipsis provided to broadcast the extra dimensions."
            )
    inputs = []
    for term, ndim in zip(terms, ndims):
        count = ndim - len([k for k in term if k is not Ellipsis])
        inputs.append(_fill(term, range(wide - count, wide)))
    if result is not None and wide and Ellipsis not in result:
        raise ValueError(
            "output has more dimensions than subscripts given in einstein sum, but no '...' ellipsis provided to broadcast "
            "the extra dimensions."
        )
    if result is None:
        named = [k for term in terms for k in term if k is not Ellipsis]
        result = [Ellipsis] * any(Ellipsis in t for t in terms) + sorted([k for k in set(named) if named.count(k) == 1])
    output = _fill(result, range(wide))
    if len(set(output)) != len(output):
        raise ValueError("einstein sum subscripts string includes output subscript multiple times")
    known = set().union(*map(set, inputs))
    if not set(output) <= known:
        raise ValueError("einstein sum subscripts string included output subscript which never appeared in an input")
    return inputs, output, xs


def _letters(text):
    """'i...j' as ['i', Ellipsis, 'j']."""
    head, dots, tail = text.partition("...")
    if not all(c.isascii() and c.isalpha() for c in head + tail):
        raise ValueError(f"invalid subscript in einstein sum subscripts string: {text!r}")
    return [*head, *([Ellipsis] if dots else []), *tail]


def _fill(term, places):
    """The term with its ellipsis replaced by labels of broadcast axes."""
    out = []
    for k in term:
        out.extend([("...", p) for p in places] if k is Ellipsis else [k])
    return out


def _sizes(inputs, xs):
    """The length of each label; an axis of length one stretches."""
    sizes = {}
    for x, labels in zip(xs, inputs):
        for k, n in zip(labels, x.shape):
            if sizes.setdefault(k, n) != n:
                if 1 not in (sizes[k], n):
                    raise ValueError(
                        f"operands could not be broadcast together with remapped shapes: axis {k!r} has lengths "
                        f"{sizes[k]} and {n}"
                    )
                sizes[k] = n if sizes[k] == 1 else sizes[k]
    return sizes


def _prepare(x, labels, sizes):
    """An operand without repeated labels (their diagonal) and without axes that only stretch."""
    labels = list(labels)
    for k in list(dict.fromkeys(labels)):
        while labels.count(k) > 1:
            i = labels.index(k)
            j = labels.index(k, i + 1)
            x = diagonal(x, 0, i, j)
            labels = [other for at, other in enumerate(labels) if at not in (i, j)] + [k]
    kept = [i for i, k in enumerate(labels) if x.shape[i] == sizes[k]]
    if len(kept) < len(labels):
        x = reshaped(x, tuple([x.shape[i] for i in kept]))
    return x, [labels[i] for i in kept]


def _cheapest(terms, output, sizes):
    """Which two terms to contract next: those whose result grows least over what they hold."""
    if len(terms) == 2:
        return 0, 1
    best = None
    for i in range(len(terms)):
        for j in range(i + 1, len(terms)):
            rest = set(output).union(*[t[1] for k, t in enumerate(terms) if k not in (i, j)])
            both = set(terms[i][1]) | set(terms[j][1])
            after = math.prod([sizes[k] for k in both & rest])
            held = sum([math.prod([sizes[k] for k in terms[t][1]]) for t in (i, j)])
            cost = (after - held, math.prod([sizes[k] for k in both]))
            if best is None or cost < best[0]:
                best = (cost, i, j)
    return best[1:]


def _sum_out(x, labels, needed):
    axes = tuple([i for i, k in enumerate(labels) if k not in needed])
    if not axes:
        return x, labels
    return apply1("reduce_sum", x, axes=axes), [k for k in labels if k in needed]


def _contract(first, second, needed):
    """The product of two terms, summed over the labels that nothing else needs."""
    x, lx = _sum_out(*first, needed | set(second[1]))
    y, ly = _sum_out(*second, needed | set(lx))
    shared = [k for k in lx if k in ly]
    batch, summed = [k for k in shared if k in needed], [k for k in shared if k not in needed]
    if not summed:
        return _elementwise(x, lx, y, ly)

    def places(labels, wanted):
        return tuple([labels.index(k) for k in wanted])

    out = _dot(x, y, (places(lx, summed), places(ly, summed)), (places(lx, batch), places(ly, batch)))
    return out, [*batch, *[k for k in lx if k not in shared], *[k for k in ly if k not in shared]]


def _elementwise(x, lx, y, ly):
    """Nothing to sum over: align the axes and multiply."""
    labels = [*lx, *[k for k in ly if k not in lx]]
    order = sorted(range(len(ly)), key=lambda i: labels.index(ly[i]))
    y, ly = permuted(y, tuple(order)), [ly[i] for i in order]
    length = dict(zip(ly, y.shape))
    x = reshaped(x, x.shape + (1,) * (len(labels) - len(lx)))
    y = reshaped(y, tuple([length.get(k, 1) for k in labels]))
    return call("mul", x, y), labels


def multi_dot(arrays, *, out=None):
    """As `numpy.linalg.multi_dot`: in the order that takes the fewest products."""
    refuse("np.linalg.multi_dot", out, {})
    xs = [firm(x) for x in arrays]
    if len(xs) < 2:
        raise ValueError("Expecting at least two arrays.")
    row, column = xs[0].ndim == 1, xs[-1].ndim == 1
    if row:
        xs[0] = reshaped(xs[0], (1, xs[0].size))
    if column:
        xs[-1] = reshaped(xs[-1], (xs[-1].size, 1))
    if any(x.ndim != 2 for x in xs):
        raise np.linalg.LinAlgError("multi_dot: arrays must be two-dimensional, the first and last may be vectors")
    result = _chain(xs)
    shape = result.shape[1:] if row else result.shape
    return reshaped(result, shape[:-1] if column else shape)


handles(np.linalg.multi_dot)(multi_dot)


def _chain(xs) -> Array:
    """A product of matrices by the order of least cost (dynamic programming over the cuts)."""
    n = len(xs)
    size = [x.shape[0] for x in xs] + [xs[-1].shape[1]]
    cost = {(i, i): (0, i) for i in range(n)}
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            cost[i, j] = min(
                [(cost[i, k][0] + cost[k + 1, j][0] + size[i] * size[k + 1] * size[j + 1], k) for k in range(i, j)]
            )

    def product(i, j):
        if i == j:
            return xs[i]
        k = cost[i, j][1]
        return dot(product(i, k), product(k + 1, j))

    return product(0, n - 1)


def matrix_power(a, n):
    """As `numpy.linalg.matrix_power`, for n >= 0."""
    x = firm(a)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")
    n = operator.index(n)
    if n < 0:
        raise located(ArgumentError, f"np.linalg.matrix_power(a, {n}) needs the inverse", "n >= 0")
    if n == 0:
        eye = np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), static_shape(x.shape))
        return asarray(np.array(eye))
    power, result = x, None
    while n:
        n, odd = divmod(n, 2)
        if odd:
            result = power if result is None else matmul(result, power)
        if n:
            power = matmul(power, power)
    return result


handles(np.linalg.matrix_power)(matrix_power)

__all__ = [
    "cross", "dot", "einsum", "inner", "kron", "matmul", "matvec", "outer", "tensordot", "trace", "vdot", "vecdot", "vecmat",
]  # fmt: skip
