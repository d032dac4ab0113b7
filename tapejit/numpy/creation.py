"""Functions that make arrays. Their results are constants of a record, unless recorded values go into them.

`random` is not here: drawn numbers would be frozen into compiled code. Draw with numpy.random and pass them in.
"""

from __future__ import annotations

import operator

import numpy as np

from ..array import Array, handles, make
from ..mutation import born
from ..promote import apply1, call, cast, common_dtype, contains_array, operand, operand_array, select, wrap
from ..record import check_dtype
from .common import broadcast, firm, joined, reshaped, static_shape
from .indexing import diagonal
from .shapes import broadcast_to, expand_dims, moveaxis


def _constant(data) -> Array:
    return born(wrap(check_dtype(np.asarray(data))))


def _number(x):
    """A plain number; a recorded integer becomes a guard, a recorded float is refused."""
    if isinstance(x, Array):
        return operator.index(x) if x.dtype.kind in "ib" else float(x)
    return x


@handles(np.array)
def array(object, dtype=None, *, copy=True, order="K", subok=False, ndmin=0):
    """As `numpy.array`; nested lists may hold recorded values."""
    if isinstance(object, Array) or isinstance(object, (list, tuple)) and contains_array(object):
        x = firm(operand(object))
        x = x if dtype is None else cast(x, check_dtype(np.empty(0, dtype)).dtype)
    else:
        x = _constant(np.array(object, dtype=dtype))
    return reshaped(x, (1,) * (ndmin - x.ndim) + x.shape)


@handles(np.asarray, np.asanyarray, np.ascontiguousarray)
def asarray(a, dtype=None, order=None, *, copy=None):
    """As `numpy.asarray`; nested lists may hold recorded values."""
    return array(a, dtype, copy=copy)


@handles(np.copy)
def copy(a, order="K", subok=False):
    """As `numpy.copy`."""
    return firm(a)


@handles(np.astype)
def astype(x, dtype, /, *, copy=True, device=None):
    """As `numpy.astype`."""
    return cast(firm(x), check_dtype(np.empty(0, dtype)).dtype)


# ---- constants -----------------------------------------------------------------------------------------------------------
def zeros(shape, dtype=float, order="C"):
    """As `numpy.zeros`."""
    return _constant(np.zeros(static_shape(shape), dtype))


def ones(shape, dtype=None, order="C"):
    """As `numpy.ones`."""
    return _constant(np.ones(static_shape(shape), dtype))


def empty(shape, dtype=float, order="C"):
    """As `numpy.zeros`: there are no undefined elements."""
    return zeros(shape, dtype)


def full(shape, fill_value, dtype=None, order="C"):
    """As `numpy.full`; the value may be recorded."""
    value = firm(fill_value)
    value = value if dtype is None else cast(value, np.dtype(dtype))
    return broadcast_value(value, static_shape(shape))


def broadcast_value(value, shape):
    """A value stretched to a shape; plain ones as an array of their own."""
    if value._record is None:
        return _constant(np.full(shape, value._data))
    return broadcast_to(value, shape)


def _like(prototype, dtype, shape):
    x = operand_array(prototype)
    return (x.shape if shape is None else static_shape(shape)), (x.dtype if dtype is None else dtype)


@handles(np.zeros_like)
def zeros_like(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
    """As `numpy.zeros_like`."""
    return zeros(*_like(a, dtype, shape))


@handles(np.ones_like)
def ones_like(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
    """As `numpy.ones_like`."""
    return ones(*_like(a, dtype, shape))


@handles(np.empty_like)
def empty_like(prototype, /, dtype=None, order="K", subok=True, shape=None, *, device=None):
    """As `numpy.zeros_like`: there are no undefined elements."""
    return zeros(*_like(prototype, dtype, shape))


@handles(np.full_like)
def full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    """As `numpy.full_like`; the value may be recorded."""
    shape, dtype = _like(a, dtype, shape)
    return full(shape, fill_value, dtype)


def identity(n, dtype=None):
    """As `numpy.identity`."""
    return eye(n, dtype=dtype)


def eye(N, M=None, k=0, dtype=float, order="C"):
    """As `numpy.eye`."""
    return _constant(np.eye(_number(N), _number(M), _number(k), dtype=dtype))


def tri(N, M=None, k=0, dtype=float):
    """As `numpy.tri`."""
    return _constant(np.tri(_number(N), _number(M), _number(k), dtype=dtype))


def indices(dimensions, dtype=int, sparse=False):
    """As `numpy.indices`."""
    found = np.indices(static_shape(dimensions), dtype, sparse)
    return tuple([_constant(i) for i in found]) if sparse else _constant(found)


def fromfunction(function, shape, *, dtype=float, **kwargs):
    """As `numpy.fromfunction`."""
    return function(*[i for i in indices(shape, dtype)], **kwargs)


# ---- sequences -----------------------------------------------------------------------------------------------------------
def arange(start, stop=None, step=1, dtype=None):
    """As `numpy.arange`; recorded integers become guards, since the length depends on them."""
    start, stop, step = [_number(x) for x in (start, stop, step)]
    start, stop = (0, start) if stop is None else (start, stop)
    return _constant(np.arange(start, stop, step, dtype=dtype))


def _is_plain(*xs):
    return not any([isinstance(x, Array) or isinstance(x, (list, tuple)) and contains_array(x) for x in xs])


@handles(np.linspace)
def linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0, *, device=None):
    """As `numpy.linspace`; the ends may be recorded."""
    num = operator.index(num)
    if _is_plain(start, stop):
        found = np.linspace(start, stop, num, endpoint, retstep, dtype, axis)
        return (_constant(found[0]), found[1]) if retstep else _constant(found)
    if num < 0:
        raise ValueError(f"Number of samples, {num}, must be non-negative.")
    first, last = operand_array(start), operand_array(stop)
    common = common_dtype(firm(first), firm(last), 0.0)
    first, last = asarray(cast(first, common)), asarray(cast(last, common))
    pieces = num - 1 if endpoint else num
    span = call("sub", last, first)
    step = call("div", span, float(pieces)) if pieces > 0 else make(np.full(span.shape, np.nan, common))
    place = make(np.arange(num, dtype=common).reshape((num,) + (1,) * span.ndim))
    out = call("add", call("mul", place, step if pieces > 0 else span), first)
    if endpoint and num > 1:
        # As NumPy: the last sample is the end itself, not what rounding makes of it.
        at_end = make((np.arange(num) == num - 1).reshape(place.shape))
        out = select(at_end, last, out)
    if dtype is not None:
        dtype = np.dtype(dtype)
        out = cast(call("floor", out) if dtype.kind == "i" else out, dtype)
    out = moveaxis(out, 0, axis)
    return (out, step) if retstep else out


@handles(np.logspace)
def logspace(start, stop, num=50, endpoint=True, base=10.0, dtype=None, axis=0):
    """As `numpy.logspace`; ends and base may be recorded."""
    if _is_plain(start, stop, base):
        return _constant(np.logspace(start, stop, num, endpoint, base, dtype, axis))
    exponents = linspace(start, stop, num, endpoint, axis=axis)
    out = firm(call("pow", base, exponents))
    return out if dtype is None else cast(out, np.dtype(dtype))


@handles(np.geomspace)
def geomspace(start, stop, num=50, endpoint=True, dtype=None, axis=0):
    """As `numpy.geomspace`; the ends may be recorded."""
    if _is_plain(start, stop):
        return _constant(np.geomspace(start, stop, num, endpoint, dtype, axis))
    first, last = firm(start), firm(stop)
    logs = linspace(call("log10", call("abs", first)), call("log10", call("abs", last)), num, endpoint, axis=axis)
    sign = call("sign", first)
    out = call("mul", expand_dims(sign, axis) if sign.ndim else sign, call("pow", 10.0, logs))
    return out if dtype is None else cast(out, np.dtype(dtype))


# ---- matrices ------------------------------------------------------------------------------------------------------------
@handles(np.diag)
def diag(v, k=0):
    """As `numpy.diag`."""
    x = firm(v)
    k = operator.index(k)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ValueError("Input must be 1- or 2-d.")
    n = x.size
    size = n + abs(k)
    if n == 0:
        return make(np.zeros((size, size), x.dtype))
    # Flattened, the diagonal is every (size+1)-th element: zeros between, before and after.
    first = k if k >= 0 else -k * size
    high = size * size - first - ((n - 1) * (size + 1) + 1)
    return reshaped(apply1("pad", x, low=(first,), high=(high,), interior=(size,)), (size, size))


@handles(np.diagflat)
def diagflat(v, k=0):
    """As `numpy.diagflat`."""
    x = firm(v)
    return diag(reshaped(x, (x.size,)), k)


def _triangle(m, k, lower):
    x = firm(m)
    if x.ndim == 0:
        raise TypeError("tri() missing 1 required positional argument: 'N'")
    shape = x.shape[-2:] if x.ndim > 1 else x.shape * 2
    mask = make(np.tri(*shape, k=operator.index(k) if lower else operator.index(k) - 1, dtype=bool))
    zero = x.dtype.type(0)
    return select(mask, x, zero) if lower else select(mask, zero, x)


@handles(np.tril)
def tril(m, k=0):
    """As `numpy.tril`."""
    return _triangle(m, k, True)


@handles(np.triu)
def triu(m, k=0):
    """As `numpy.triu`."""
    return _triangle(m, k, False)


@handles(np.vander)
def vander(x, N=None, increasing=False):
    """As `numpy.vander`."""
    x = firm(x)
    if x.ndim != 1:
        raise ValueError("x must be a one-dimensional array or sequence.")
    count = x.size if N is None else operator.index(N)
    column = reshaped(x, (x.size, 1))
    columns = [make(np.ones((x.size, 1), x.dtype))]
    for _ in range(count - 1):
        columns.append(column if len(columns) == 1 else call("mul", columns[-1], column))
    columns = columns[:count]
    if not columns:
        return make(np.ones((x.size, 0), x.dtype))
    return joined(columns if increasing else columns[::-1], 1)


@handles(np.meshgrid)
def meshgrid(*xi, copy=True, sparse=False, indexing="xy"):
    """As `numpy.meshgrid`."""
    if indexing not in ("xy", "ij"):
        raise ValueError("Valid values for `indexing` are 'xy' and 'ij'.")
    xs = [firm(x) for x in xi]
    ndim = len(xs)
    place = list(range(ndim))
    if indexing == "xy" and ndim > 1:
        place[:2] = 1, 0
    xs = [reshaped(x, tuple([x.size if d == at else 1 for d in range(ndim)])) for x, at in zip(xs, place)]
    if not sparse:
        shape = np.broadcast_shapes(*[x.shape for x in xs])
        xs = [broadcast(x, shape) for x in xs]
    return tuple(xs)


@handles(np.result_type)
def result_type(*arrays_and_dtypes):
    """As `numpy.result_type`."""
    return np.result_type(*[_promotes_as(x) for x in arrays_and_dtypes])


def _promotes_as(x):
    if not isinstance(x, Array):
        return x
    return {"f": 0.0, "i": 0, "b": False}[x.dtype.kind] if x._weak else x.dtype


__all__ = [
    "arange", "array", "asarray", "astype", "copy", "diag", "diagflat", "empty", "empty_like", "eye", "fromfunction",
    "full", "full_like", "geomspace", "identity", "indices", "linspace", "logspace", "meshgrid", "ones", "ones_like",
    "result_type", "tri", "tril", "triu", "vander", "zeros", "zeros_like",
]  # fmt: skip
