"""Functions that fold axes away, running sums, differences and products along an axis.

As in NumPy: sums of bools and small integers are int64, means of integers float64, an extreme of nothing is a ValueError.
`where=` masks with the operation's identity. Means and variances of float32 are computed in float32. A Selection that is
folded as a whole is the full array with `where=`, so that its size is not asked for.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from ..array import REDUCERS, Array, handles, is_a, make, since
from ..errors import ArgumentTypeError, located
from ..promote import BOOL, F64, I64, any_true, apply1, asarray, call, cast, common_dtype, operand, operand_array, select, truth
from ..selection import Selection
from .common import UNSET, all_axes, broadcast, firm, joined, one_axis, refuse, reshaped


def _kept(shape, axes):
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def _axes(axis, ndim):
    """The axes that are folded; as NumPy's ufunc.reduce, a scalar may be folded along axis 0 or -1."""
    if ndim == 0 and is_a(axis, (int, np.integer)) and axis in (0, -1):
        return ()
    return all_axes(axis, ndim)


def _whole(x, axis, keepdims, where):
    """(x, axis, where), the full array in place of a Selection that is folded as a whole."""
    if type(x) is not Selection:
        return x, axis, where
    flat = axis is None or (x.ndim == 1 and axis in (0, -1, (0,), (-1,)))
    if not flat or (keepdims and keepdims is not UNSET) or (where is not UNSET and where is not True):
        return x, axis, where
    return x._alias.full, None, x._alias.wide


def _finish(x, out, axes, keepdims):
    return reshaped(out, _kept(x.shape, axes)) if keepdims and keepdims is not UNSET else out


def _masked(x, where, identity):
    """Elements that `where` leaves out replaced by the identity."""
    if where is UNSET or where is True:
        return x
    return select(truth(where), x, x.dtype.type(identity))


def _accumulator(dtype):
    """In what dtype NumPy sums: bools and int32 as int64."""
    return I64 if dtype.kind in "bi" else dtype


def _folder(op, combine, identity, function):
    def fold(a, axis=None, dtype=None, out=None, keepdims=UNSET, initial=UNSET, where=UNSET):
        if out is not None:
            refuse(function.__name__, out, {})
        x = a if type(a) is Array else asarray(a)
        x, axis, where = _whole(x, axis, keepdims, where)
        data = x._data
        axes = tuple(range(data.ndim)) if axis is None else _axes(axis, data.ndim)
        wanted = _accumulator(data.dtype) if dtype is None else np.dtype(dtype)
        if data.dtype is not wanted:
            x = cast(x, wanted)
        if where is not UNSET:
            x = _masked(x, where, identity)
        result = apply1(op, x, axes=axes)
        if initial is not UNSET:
            result = call(combine, cast(operand(initial), wanted), result)
        return _finish(x, result, axes, keepdims)

    fold.__name__ = fold.__qualname__ = function.__name__
    fold.__doc__ = f"As `numpy.{function.__name__}`."
    return handles(function)(fold)


sum = _folder("reduce_sum", "add", 0, np.sum)
prod = _folder("reduce_prod", "mul", 1, np.prod)


def _extreme(op, combine, on_bools, function):
    def extreme(a, axis=None, out=None, keepdims=UNSET, initial=UNSET, where=UNSET):
        refuse(function.__name__, out, {})
        x = firm(a)
        if type(x) is Selection:
            x, axis, where = _whole(x, axis, keepdims, where) if initial is not UNSET else _filled(x, axis, keepdims, where)
        axes = _axes(axis, x.ndim)
        if where is not UNSET and where is not True and initial is UNSET:
            raise ValueError(
                f"reduction operation '{combine}' does not have an identity, so to use a where mask one has to specify "
                "'initial'"
            )
        if initial is not UNSET:
            dtype = common_dtype(x, operand(initial))
            x, initial = cast(x, dtype), cast(operand(initial), dtype)
            x = x if where is UNSET or where is True else select(truth(where), x, initial)
        if x.size == 0:
            rest = tuple([n for i, n in enumerate(x.shape) if i not in axes])
            if initial is UNSET and math.prod(rest):
                raise ValueError(f"zero-size array to reduction operation {combine} which has no identity")
            only = make(np.zeros((), x.dtype)) if initial is UNSET else firm(initial)
            return _finish(x, broadcast(only, rest), axes, keepdims)
        result = apply1(on_bools if x.dtype == BOOL else op, x, axes=axes)
        if initial is not UNSET:
            result = call(("or_" if combine == "maximum" else "and_") if x.dtype == BOOL else combine, initial, result)
        return _finish(x, result, axes, keepdims)

    def _filled(x, axis, keepdims, where):
        """As `_whole`, with what no selected element is less than in the others' places; guards that it is less than one."""
        full, all_axes, mask = _whole(x, axis, keepdims, where)
        if full is x:
            return x, axis, where
        kind, low = full.dtype.kind, combine == "maximum"
        fill = (-np.inf if low else np.inf) if kind == "f" else not low
        if kind == "i":
            fill = np.iinfo(full.dtype).min if low else np.iinfo(full.dtype).max
        fill = full.dtype.type(fill)
        # Among elements that are all infinite, those that are not selected would tie with them.
        if not any_true(call("and_", mask, call("ne", full, fill)) if kind == "f" else x._alias.mask):
            return x, axis, where
        return select(mask, full, fill), None, UNSET

    extreme.__name__ = extreme.__qualname__ = function.__name__
    extreme.__doc__ = f"As `numpy.{function.__name__}`; elements that tie share the derivative equally."
    return handles(function)(extreme)


max = amax = _extreme("reduce_max", "maximum", "reduce_or", np.max)
min = amin = _extreme("reduce_min", "minimum", "reduce_and", np.min)
handles(np.amax)(max)
handles(np.amin)(min)


def _quantifier(op, identity, function):
    def quantifier(a, axis=None, out=None, keepdims=UNSET, *, where=UNSET):
        refuse(function.__name__, out, {})
        x, axis, where = _whole(asarray(truth(a)), axis, keepdims, where)
        axes = _axes(axis, x.ndim)
        return _finish(x, apply1(op, _masked(x, where, identity), axes=axes), axes, keepdims)

    quantifier.__name__ = quantifier.__qualname__ = function.__name__
    quantifier.__doc__ = f"As `numpy.{function.__name__}`."
    return handles(function)(quantifier)


all = _quantifier("reduce_and", True, np.all)
any = _quantifier("reduce_or", False, np.any)


@handles(np.count_nonzero)
def count_nonzero(a, axis=None, *, keepdims=False):
    """As `numpy.count_nonzero`, as an Array."""
    return sum(truth(a), axis, keepdims=keepdims)


@handles(np.ptp)
def ptp(a, axis=None, out=None, keepdims=UNSET):
    """As `numpy.ptp`."""
    return call("sub", max(a, axis, out, keepdims), min(a, axis, out, keepdims))


# ---- positions of extremes -----------------------------------------------------------------------------------------------
def _position(op, function):
    def position(a, axis=None, out=None, *, keepdims=UNSET):
        refuse(function.__name__, out, {})
        x = firm(a)
        shape, ndim = x.shape, x.ndim
        flat = axis is None
        if flat:
            x, axis = reshaped(x, (x.size,)), 0
        elif ndim == 0 and operator.index(axis) in (0, -1):
            x, axis, flat = reshaped(x, (1,)), 0, True  # NumPy lets argmax see a scalar as one element
        axis = one_axis(axis, x.ndim)
        if x.shape[axis] == 0:
            raise ValueError(f"attempt to get {op} of an empty sequence")
        result = apply1(op, x, axis=axis)
        if keepdims and keepdims is not UNSET:
            result = reshaped(result, (1,) * ndim if flat else _kept(shape, (axis,)))
        return result

    position.__name__ = position.__qualname__ = function.__name__
    position.__doc__ = f"As `numpy.{function.__name__}`; not differentiated."
    return handles(function)(position)


argmax, argmin = _position("argmax", np.argmax), _position("argmin", np.argmin)


# ---- averages --------------------------------------------------------------------------------------------------------------
def _mean_dtype(x, dtype):
    return np.dtype(dtype) if dtype is not None else F64 if x.dtype.kind in "bi" else x.dtype


def _count(x, axes, where, dtype):
    """How many elements a fold takes: a number, or counts where a mask leaves some out."""
    if where is UNSET or where is True:
        return dtype.type(math.prod([x.shape[i] for i in axes]))
    mask = broadcast(asarray(truth(where)), x.shape)
    return cast(apply1("reduce_sum", cast(mask, I64), axes=axes), dtype)


@handles(np.mean)
def mean(a, axis=None, dtype=None, out=None, keepdims=UNSET, *, where=UNSET):
    """As `numpy.mean`."""
    refuse("np.mean", out, {})
    x, axis, where = _whole(asarray(a), axis, keepdims, where)
    axes = all_axes(axis, x.ndim)
    wanted = _mean_dtype(x, dtype)
    total = sum(cast(x, wanted), axes, where=where)
    return _finish(x, call("div", total, _count(x, axes, where, wanted)), axes, keepdims)


@handles(np.var)
def var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=UNSET, *, where=UNSET, mean=UNSET, correction=UNSET):
    """As `numpy.var`."""
    refuse("np.var", out, {})
    if correction is not UNSET:
        if ddof != 0:
            raise ValueError("ddof and correction can't be provided simultaneously.")
        ddof = correction
    x, axis, where = _whole(asarray(a), axis, keepdims, where)
    axes = all_axes(axis, x.ndim)
    wanted = _mean_dtype(x, dtype)
    x = cast(x, wanted)
    count = _count(x, axes, where, wanted)
    if mean is UNSET:
        mean = reshaped(call("div", sum(x, axes, where=where), count), _kept(x.shape, axes))
    away = call("sub", x, mean)
    squares = sum(call("mul", away, away), axes, where=where)
    left = call("maximum", call("sub", count, cast(operand_array(ddof), wanted)), wanted.type(0))
    return _finish(x, call("div", squares, left), axes, keepdims)


@handles(np.std)
def std(a, axis=None, dtype=None, out=None, ddof=0, keepdims=UNSET, *, where=UNSET, mean=UNSET, correction=UNSET):
    """As `numpy.std`; where all elements are equal the derivative is 0."""
    return root(var(a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction))


def root(x):
    """sqrt whose derivative at 0 is 0 instead of infinite."""
    zero = call("eq", x, 0.0)
    return select(zero, x, call("sqrt", select(zero, x.dtype.type(1), x)))


@handles(np.average)
def average(a, axis=None, weights=None, returned=False, *, keepdims=UNSET):
    """As `numpy.average`."""
    x = firm(a)
    if weights is None:
        out = mean(x, axis, keepdims=keepdims)
        scale = make(np.full(out.shape, out.dtype.type(x.size / out.size if out.size else 0)))
        return (out, scale) if returned else out
    w = firm(weights)
    if x.shape != w.shape:
        if axis is None:
            raise TypeError("Axis must be specified when shapes of a and weights differ.")
        axes = axis if isinstance(axis, (tuple, list)) else (axis,)
        axes = tuple([one_axis(i, x.ndim) for i in axes])
        if w.shape != tuple([x.shape[i] for i in axes]):
            raise ValueError("Shape of weights must be consistent with shape of a along specified axis.")
        order = sorted(range(len(axes)), key=axes.__getitem__)
        w = apply1("transpose", w, perm=tuple(order))
        w = reshaped(w, tuple([n if i in axes else 1 for i, n in enumerate(x.shape)]))
    dtype = common_dtype(x, w)
    dtype = F64 if dtype.kind != "f" else dtype
    x, w = cast(x, dtype), cast(w, dtype)
    scale = sum(broadcast(w, x.shape), axis, keepdims=keepdims)
    out = call("div", sum(call("mul", x, w), axis, keepdims=keepdims), scale)
    return (out, scale) if returned else out


# ---- ignoring NaN ------------------------------------------------------------------------------------------------------------
def _without_nan(x, identity):
    return select(call("isnan", x), x.dtype.type(identity), x) if x.dtype.kind == "f" else x


def _nan_fold(fold, identity, function):
    def nanfold(a, axis=None, dtype=None, out=None, keepdims=UNSET, initial=UNSET, where=UNSET):
        return fold(_without_nan(firm(a), identity), axis, dtype, out, keepdims, initial, where)

    nanfold.__name__ = nanfold.__qualname__ = function.__name__
    nanfold.__doc__ = f"As `numpy.{function.__name__}`."
    return handles(function)(nanfold)


nansum, nanprod = _nan_fold(sum, 0, np.nansum), _nan_fold(prod, 1, np.nanprod)


def _nan_extreme(extreme, identity, function):
    def nanextreme(a, axis=None, out=None, keepdims=UNSET, initial=UNSET, where=UNSET):
        x = firm(a)
        if x.dtype.kind != "f":
            return extreme(x, axis, out, keepdims, initial, where)
        found = extreme(_without_nan(x, identity), axis, out, keepdims, initial, where)
        # Of NaNs alone the result is NaN, not the identity.
        only_nan = all(call("isnan", x), axis, keepdims=keepdims)
        return select(only_nan, x.dtype.type(np.nan), found) if initial is UNSET else found

    nanextreme.__name__ = nanextreme.__qualname__ = function.__name__
    nanextreme.__doc__ = f"As `numpy.{function.__name__}`, without the warning for NaNs alone."
    return handles(function)(nanextreme)


nanmax, nanmin = _nan_extreme(max, -np.inf, np.nanmax), _nan_extreme(min, np.inf, np.nanmin)


def _present(x, where):
    """The mask of the elements that are not NaN (and that `where` keeps)."""
    if x.dtype.kind != "f":
        return where
    there = call("not_", call("isnan", x))
    return there if where is UNSET or where is True else call("and_", there, truth(where))


@handles(np.nanmean)
def nanmean(a, axis=None, dtype=None, out=None, keepdims=UNSET, *, where=UNSET):
    """As `numpy.nanmean`."""
    x = firm(a)
    return mean(x, _axes(axis, x.ndim), dtype, out, keepdims, where=_present(x, where))


@handles(np.nanvar)
def nanvar(a, axis=None, dtype=None, out=None, ddof=0, keepdims=UNSET, *, where=UNSET, mean=UNSET, correction=UNSET):
    """As `numpy.nanvar`."""
    x = firm(a)
    present = _present(x, where)
    axis = _axes(axis, x.ndim)
    out = var(x, axis, dtype, out, ddof, keepdims, where=present, mean=mean, correction=correction)
    if present is UNSET:
        return out
    # NumPy gives NaN where the degrees of freedom run out, var an infinity or NaN.
    count = sum(present, axis, keepdims=keepdims)
    return select(call("le", count, ddof if correction is UNSET else correction), out.dtype.type(np.nan), out)


@handles(np.nanstd)
def nanstd(a, axis=None, dtype=None, out=None, ddof=0, keepdims=UNSET, *, where=UNSET, mean=UNSET, correction=UNSET):
    """As `numpy.nanstd`."""
    return root(nanvar(a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction))


# ---- running ---------------------------------------------------------------------------------------------------------------
def _running(op, function):
    def running(a, axis=None, dtype=None, out=None):
        refuse(function.__name__, out, {})
        x = asarray(a)
        if axis is None or x.ndim == 0:
            if axis is not None:
                one_axis(axis, 1)  # NumPy sees a scalar as one element
            x, axis = reshaped(x, (x.size,)), 0
        axis = one_axis(axis, x.ndim)
        wanted = _accumulator(x.dtype) if dtype is None else np.dtype(dtype)
        return apply1(op, cast(x, wanted), axis=axis, reverse=False)

    running.__name__ = running.__qualname__ = function.__name__
    running.__doc__ = f"As `numpy.{function.__name__}`."
    return handles(function)(running)


cumsum, cumprod = _running("cumsum", np.cumsum), _running("cumprod", np.cumprod)


def _cumulative(name, running, identity):
    def cumulative(x, /, *, axis=None, dtype=None, out=None, include_initial=False):
        x = asarray(x)
        if x.ndim == 0:
            x = reshaped(x, (1,))
        if axis is None:
            if x.ndim > 1:
                raise ValueError("For arrays which have more than one dimension ``axis`` argument is required.")
            axis = 0
        result = running(x, axis, dtype, out)
        if include_initial:
            axis = one_axis(axis, x.ndim)
            first = make(np.full(_kept(x.shape, (axis,)), identity, result.dtype))
            result = joined([first, result], axis)
        return result

    cumulative.__name__ = cumulative.__qualname__ = name
    cumulative.__doc__ = f"As `numpy.{name}`."
    return handles(since(name))(cumulative)


cumulative_sum = _cumulative("cumulative_sum", cumsum, 0)
cumulative_prod = _cumulative("cumulative_prod", cumprod, 1)


# ---- ufunc methods -----------------------------------------------------------------------------------------------------------
def _register_methods():
    """ufunc.reduce, whose default axis is 0, and ufunc.accumulate."""

    def reducer(fold, takes_dtype):
        def reduce(array, axis=0, dtype=None, out=None, keepdims=False, initial=UNSET, where=UNSET):
            initial = UNSET if initial is None else initial
            if takes_dtype == "dtype":
                return fold(array, axis, dtype, out, keepdims, initial, where)
            if dtype is not None:
                raise located(ArgumentTypeError, "ufunc.reduce(dtype=...) is not recorded here", "x.astype(dtype) first")
            if takes_dtype == "initial":
                return fold(array, axis, out, keepdims, initial, where)
            return fold(array, axis, out, keepdims, where=where)

        return reduce

    def accumulator(running):
        return lambda array, axis=0, dtype=None, out=None: running(array, axis, dtype, out)

    for ufunc, fold, takes in (
        (np.add, sum, "dtype"), (np.multiply, prod, "dtype"), (np.maximum, max, "initial"),
        (np.minimum, min, "initial"), (np.logical_and, all, ""), (np.logical_or, any, ""),
    ):  # fmt: skip
        REDUCERS[ufunc] = reducer(fold, takes)
    handles((np.add, "accumulate"))(accumulator(cumsum))
    handles((np.multiply, "accumulate"))(accumulator(cumprod))


_register_methods()


__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "average", "count_nonzero", "cumprod", "cumsum",
    "cumulative_prod", "cumulative_sum", "max", "mean", "min", "nanmax", "nanmean", "nanmin", "nanprod", "nanstd",
    "nansum", "nanvar", "prod", "ptp", "std", "sum", "var",
]  # fmt: skip
