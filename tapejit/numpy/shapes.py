"""Functions that move elements: reshape, transpose, join, split, repeat, flip, pad.

Shapes, axes, section counts and positions are static: a recorded integer among them becomes a guard of the record.
"""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..array import Array, handles, since
from ..errors import ArgumentError, located
from ..promote import apply1, asarray, cast, common_dtype, operand_array
from .common import (
    UNSET,
    all_axes,
    broadcast,
    check_order,
    firm,
    joined,
    one_axis,
    part,
    permuted,
    refuse,
    reshaped,
    static_shape,
    taken,
)  # fmt: skip


# ---- shape and axes --------------------------------------------------------------------------------------------------
def _full_shape(x, shape):
    """The shape with its -1 filled in."""
    shape = tuple([n if n >= 0 else -1 for n in static_shape(shape)])
    known = math.prod([n for n in shape if n != -1])
    unknown = shape.count(-1)
    fits = unknown == 0 and known == x.size or unknown == 1 and known and x.size % known == 0
    if unknown > 1:
        raise ValueError("can only specify one unknown dimension")
    if not fits:
        raise ValueError(f"cannot reshape array of size {x.size} into shape {shape}")
    return tuple([x.size // known if n == -1 else n for n in shape])


@handles(np.reshape)
def reshape(a, /, shape, order="C", *, copy=None):
    """As `numpy.reshape`, for order "C" and "F"."""
    check_order("np.reshape", order)
    x = firm(a)
    shape = _full_shape(x, shape)
    if order == "C":
        return reshaped(x, shape)
    return transpose(reshaped(transpose(x), shape[::-1]))


@handles(np.ravel)
def ravel(a, order="C"):
    """As `numpy.ravel`, for order "C" and "F"."""
    return reshape(a, -1, order=order)


@handles(np.transpose)
def transpose(a, axes=None):
    """As `numpy.transpose`."""
    x = firm(a)
    if axes is None:
        return permuted(x, tuple(range(x.ndim))[::-1])
    axes = static_shape(axes)
    if len(axes) != x.ndim:
        raise ValueError("axes don't match array")
    axes = tuple([one_axis(i, x.ndim) for i in axes])
    if len(set(axes)) != len(axes):
        raise ValueError("repeated axis in transpose")
    return permuted(x, axes)


permute_dims = transpose


@handles(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x, /):
    """As `numpy.matrix_transpose`."""
    x = firm(x)
    if x.ndim < 2:
        raise ValueError(f"Input array must be at least 2-dimensional, but it is {x.ndim}")
    return swapaxes(x, -1, -2)


@handles(np.swapaxes)
def swapaxes(a, axis1, axis2):
    """As `numpy.swapaxes`."""
    x = firm(a)
    i, j = one_axis(axis1, x.ndim), one_axis(axis2, x.ndim)
    perm = list(range(x.ndim))
    perm[i], perm[j] = j, i
    return permuted(x, tuple(perm))


@handles(np.moveaxis)
def moveaxis(a, source, destination):
    """As `numpy.moveaxis`."""
    x = firm(a)
    source = normalize_axis_tuple(source, x.ndim, "source")
    destination = normalize_axis_tuple(destination, x.ndim, "destination")
    if len(source) != len(destination):
        raise ValueError("`source` and `destination` arguments must have the same number of elements")
    perm = [n for n in range(x.ndim) if n not in source]
    for to, at in sorted(zip(destination, source)):
        perm.insert(to, at)
    return permuted(x, tuple(perm))


@handles(np.rollaxis)
def rollaxis(a, axis, start=0):
    """As `numpy.rollaxis`."""
    x = firm(a)
    axis = one_axis(axis, x.ndim)
    start = operator.index(start)
    if not -x.ndim <= start <= x.ndim:
        raise np.exceptions.AxisError(f"'start' arg requires {-x.ndim} <= start < {x.ndim + 1}, got {start}")
    start = start + x.ndim if start < 0 else start
    perm = [n for n in range(x.ndim) if n != axis]
    perm.insert(start - (axis < start), axis)
    return permuted(x, tuple(perm))


@handles(np.expand_dims)
def expand_dims(a, axis):
    """As `numpy.expand_dims`."""
    x = firm(a)
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    ndim = x.ndim + len(axes)
    axes = normalize_axis_tuple(axes, ndim)
    rest = iter(x.shape)
    return reshaped(x, tuple([1 if i in axes else next(rest) for i in range(ndim)]))


@handles(np.squeeze)
def squeeze(a, axis=None):
    """As `numpy.squeeze`."""
    x = firm(a)
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else all_axes(axis, x.ndim)
    if any(x.shape[i] != 1 for i in axes):
        raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return reshaped(x, tuple([n for i, n in enumerate(x.shape) if i not in axes]))


def _atleast(count, place):
    def function(*arys):
        out = [place(x) if x.ndim < count else x for x in map(firm, arys)]
        return out[0] if len(out) == 1 else tuple(out)

    function.__name__ = f"atleast_{count}d"
    function.__doc__ = f"As `numpy.atleast_{count}d`."
    return function


def _three_axes(x):
    return reshaped(x, {0: (1, 1, 1), 1: (1, *x.shape, 1), 2: (*x.shape, 1)}[x.ndim])


atleast_1d = handles(np.atleast_1d)(_atleast(1, lambda x: reshaped(x, (1,))))
atleast_2d = handles(np.atleast_2d)(_atleast(2, lambda x: reshaped(x, (1, x.size))))
atleast_3d = handles(np.atleast_3d)(_atleast(3, _three_axes))


@handles(np.broadcast_to)
def broadcast_to(array, shape, subok=False):
    """As `numpy.broadcast_to`."""
    x = firm(array)
    shape = static_shape(shape)
    lead = len(shape) - x.ndim
    if lead < 0 or any(n < 0 for n in shape) or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:])):
        raise ValueError(
            f"operands could not be broadcast together with remapped shapes [original->remapped]: {x.shape} and "
            f"requested shape {shape}"
        )
    return broadcast(x, shape)


@handles(np.broadcast_arrays)
def broadcast_arrays(*args, subok=False):
    """As `numpy.broadcast_arrays`."""
    xs = [firm(x) for x in args]
    shape = np.broadcast_shapes(*[x.shape for x in xs])
    return tuple([broadcast(x, shape) for x in xs])


@handles(np.shape)
def shape(a):
    """As `numpy.shape`."""
    return operand_array(a).shape


@handles(np.ndim)
def ndim(a):
    """As `numpy.ndim`."""
    return operand_array(a).ndim


@handles(np.size)
def size(a, axis=None):
    """As `numpy.size`."""
    x = operand_array(a)
    return x.size if axis is None else math.prod([x.shape[i] for i in all_axes(axis, x.ndim)])


# ---- joining -----------------------------------------------------------------------------------------------------------
def _in_one_dtype(name, arrays, dtype, casting):
    """The arrays to be joined, cast to one dtype."""
    xs = [operand_array(x) for x in arrays]
    if not xs:
        raise ValueError(f"need at least one array to {name}")
    # Joined scalars are 0-d arrays to NumPy, so Python numbers count with their own dtypes here.
    common = common_dtype(*[firm(x) if isinstance(x, Array) else x for x in xs]) if dtype is None else np.dtype(dtype)
    for x in xs:
        if not np.can_cast(x.dtype, common, casting):
            raise TypeError(f"Cannot cast array data from {x.dtype} to {common} according to the rule {casting!r}")
    return [asarray(cast(x, common)) for x in xs]


@handles(np.concatenate)
def concatenate(arrays, /, axis=0, out=None, *, dtype=None, casting="same_kind"):
    """As `numpy.concatenate`."""
    refuse("np.concatenate", out, {})
    xs = _in_one_dtype("concatenate", arrays, dtype, casting)
    if axis is None:
        xs, axis = [ravel(x) for x in xs], 0
    if any(x.ndim == 0 for x in xs):
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    axis = one_axis(axis, xs[0].ndim)
    for i, x in enumerate(xs):
        if x.ndim != xs[0].ndim:
            raise ValueError(
                "all the input array dimensions must match exactly, but along dimension 0, the array at index 0 has "
                f"{xs[0].ndim} dimension(s) and the array at index {i} has {x.ndim} dimension(s)"
            )
        for d, (n, m) in enumerate(zip(xs[0].shape, x.shape)):
            if n != m and d != axis:
                raise ValueError(
                    "all the input array dimensions except for the concatenation axis must match exactly, but along "
                    f"dimension {d}, the array at index 0 has size {n} and the array at index {i} has size {m}"
                )
    return joined(xs, axis)


concat = concatenate


@handles(np.stack)
def stack(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    """As `numpy.stack`."""
    refuse("np.stack", out, {})
    xs = _in_one_dtype("stack", arrays, dtype, casting)
    if any(x.shape != xs[0].shape for x in xs):
        raise ValueError("all input arrays must have the same shape")
    axis = one_axis(axis, xs[0].ndim + 1)
    return joined([expand_dims(x, axis) for x in xs], axis)


@handles(np.vstack)
def vstack(tup, *, dtype=None, casting="same_kind"):
    """As `numpy.vstack`."""
    return concatenate([atleast_2d(x) for x in tup], 0, dtype=dtype, casting=casting)


@handles(np.hstack)
def hstack(tup, *, dtype=None, casting="same_kind"):
    """As `numpy.hstack`."""
    xs = [atleast_1d(x) for x in tup]
    return concatenate(xs, 0 if xs and xs[0].ndim == 1 else 1, dtype=dtype, casting=casting)


@handles(np.dstack)
def dstack(tup):
    """As `numpy.dstack`."""
    return concatenate([atleast_3d(x) for x in tup], 2)


@handles(np.column_stack)
def column_stack(tup):
    """As `numpy.column_stack`."""
    return concatenate([transpose(atleast_2d(x)) if x.ndim < 2 else x for x in map(firm, tup)], 1)


@handles(np.append)
def append(arr, values, axis=None):
    """As `numpy.append`."""
    if axis is None:
        arr, values, axis = ravel(arr), ravel(values), 0
    return concatenate([arr, values], axis)


@handles(np.insert)
def insert(arr, obj, values, axis=None):
    """As `numpy.insert`; positions are static."""
    x = firm(arr)
    if axis is None:
        x, axis = ravel(x), 0
    axis = one_axis(axis, x.ndim)
    n = x.shape[axis]
    positions = _static_positions(obj)
    new = asarray(cast(operand_array(values), x.dtype))
    if isinstance(positions, slice):
        count = len(range(*positions.indices(n)))
    else:
        count = np.size(positions)
        if np.ndim(positions) == 0:
            new = reshape(new, (1,) * (x.ndim - new.ndim) + new.shape)
            new = moveaxis(new, 0, axis)
            count = new.shape[axis]
    if np.ndim(positions) or isinstance(positions, slice):
        count = new.shape[-1] if count == 1 and new.ndim == x.ndim == 1 else count
    new = broadcast_to(new, x.shape[:axis] + (count,) + x.shape[axis + 1 :])
    order = np.insert(np.arange(n), positions, np.arange(n, n + count))
    return taken(joined([x, new], axis), order, axis)


@handles(np.delete)
def delete(arr, obj, axis=None):
    """As `numpy.delete`; positions are static."""
    x = firm(arr)
    if axis is None:
        x, axis = ravel(x), 0
    axis = one_axis(axis, x.ndim)
    return taken(x, np.delete(np.arange(x.shape[axis]), _static_positions(obj)), axis)


def _static_positions(obj):
    """Positions as NumPy takes them; recorded integers become guards."""
    if isinstance(obj, Array):
        return operator.index(obj) if obj.ndim == 0 else np.array([operator.index(i) for i in obj], np.intp)
    if isinstance(obj, (list, tuple)) and any(isinstance(i, Array) for i in obj):
        return [operator.index(i) for i in obj]
    return obj


# ---- splitting -----------------------------------------------------------------------------------------------------------
@handles(np.array_split)
def array_split(ary, indices_or_sections, axis=0):
    """As `numpy.array_split`."""
    x = firm(ary)
    axis = one_axis(axis, x.ndim)
    n = x.shape[axis]
    try:
        cuts = [operator.index(i) for i in indices_or_sections]
    except TypeError:
        sections = operator.index(indices_or_sections)
        if sections <= 0:
            raise ValueError("number sections must be larger than 0.") from None
        each, extras = divmod(n, sections)
        cuts = [(i + 1) * each + min(i + 1, extras) for i in range(sections - 1)]
    ends = [*cuts, n]
    starts = [0, *cuts]
    out = []
    for start, stop in zip(starts, ends):
        start, stop, _ = slice(start, stop).indices(n)
        out.append(part(x, axis, start, max(start, stop)))
    return out


@handles(np.split)
def split(ary, indices_or_sections, axis=0):
    """As `numpy.split`."""
    if not isinstance(indices_or_sections, (tuple, list)) and np.ndim(indices_or_sections) == 0:
        x = firm(ary)
        sections = operator.index(indices_or_sections)
        if x.shape[one_axis(axis, x.ndim)] % sections:
            raise ValueError("array split does not result in an equal division")
    return array_split(ary, indices_or_sections, axis)


@handles(np.hsplit)
def hsplit(ary, indices_or_sections):
    """As `numpy.hsplit`."""
    x = firm(ary)
    if x.ndim == 0:
        raise ValueError("hsplit only works on arrays of 1 or more dimensions")
    return split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


@handles(np.vsplit)
def vsplit(ary, indices_or_sections):
    """As `numpy.vsplit`."""
    x = firm(ary)
    if x.ndim < 2:
        raise ValueError("vsplit only works on arrays of 2 or more dimensions")
    return split(x, indices_or_sections, 0)


@handles(np.dsplit)
def dsplit(ary, indices_or_sections):
    """As `numpy.dsplit`."""
    x = firm(ary)
    if x.ndim < 3:
        raise ValueError("dsplit only works on arrays of 3 or more dimensions")
    return split(x, indices_or_sections, 2)


@handles(since("unstack"))
def unstack(x, /, *, axis=0):
    """As `numpy.unstack`."""
    x = firm(x)
    if x.ndim == 0:
        raise ValueError("Input array must be at least 1-d.")
    axis = one_axis(axis, x.ndim)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return tuple([reshaped(part(x, axis, i, i + 1), shape) for i in range(x.shape[axis])])


# ---- repeating, turning, padding ------------------------------------------------------------------------------------------
@handles(np.repeat)
def repeat(a, repeats, axis=None):
    """As `numpy.repeat`; the counts are static."""
    x = firm(a)
    if axis is None:
        x, axis = ravel(x), 0
    axis = one_axis(axis, x.ndim)
    counts = np.asarray(_static_positions(repeats))
    n = x.shape[axis]
    if counts.size != 1:
        return taken(x, np.repeat(np.arange(n), counts), axis)
    count = operator.index(counts.reshape(())[()])
    if count < 0:
        raise ValueError("repeats may not contain negative values.")
    head, tail = x.shape[: axis + 1], x.shape[axis + 1 :]
    stretched = broadcast(reshaped(x, (*head, 1, *tail)), (*head, count, *tail))
    return reshaped(stretched, (*head[:-1], n * count, *tail))


@handles(np.tile)
def tile(A, reps):
    """As `numpy.tile`."""
    x = firm(A)
    reps = static_shape(reps)
    ndim = max(x.ndim, len(reps))
    reps = (1,) * (ndim - len(reps)) + reps
    shape = (1,) * (ndim - x.ndim) + x.shape
    apart = [n for pair in zip((1,) * ndim, shape) for n in pair]
    wide = [n for pair in zip(reps, shape) for n in pair]
    x = broadcast_to(reshaped(x, tuple(apart)), tuple(wide))
    return reshaped(x, tuple([r * n for r, n in zip(reps, shape)]))


@handles(np.roll)
def roll(a, shift, axis=None):
    """As `numpy.roll`; shifts are static."""
    x = firm(a)
    if axis is None:
        return reshaped(roll(ravel(x), shift, 0), x.shape)
    axes = normalize_axis_tuple(axis, x.ndim, allow_duplicate=True)
    shifts = np.asarray(_static_positions(shift))
    if shifts.ndim > 1:
        raise ValueError("'shift' and 'axis' should be scalars or 1D sequences")
    shifts, axes = np.broadcast_arrays(shifts, np.asarray(axes))
    for by, at in zip(shifts.reshape(-1).tolist(), axes.reshape(-1).tolist()):
        n = x.shape[at]
        if n and by % n:
            x = joined([part(x, at, n - by % n, n), part(x, at, 0, n - by % n)], at)
    return x


@handles(np.flip)
def flip(m, axis=None):
    """As `numpy.flip`."""
    x = firm(m)
    return apply1("flip", x, axes=all_axes(axis, x.ndim))


@handles(np.fliplr)
def fliplr(m):
    """As `numpy.fliplr`."""
    x = firm(m)
    if x.ndim < 2:
        raise ValueError("Input must be >= 2-d.")
    return flip(x, 1)


@handles(np.flipud)
def flipud(m):
    """As `numpy.flipud`."""
    x = firm(m)
    if x.ndim < 1:
        raise ValueError("Input must be >= 1-d.")
    return flip(x, 0)


@handles(np.rot90)
def rot90(m, k=1, axes=(0, 1)):
    """As `numpy.rot90`."""
    x = firm(m)
    axes = tuple(axes)
    if len(axes) != 2:
        raise ValueError("len(axes) must be 2.")
    if axes[0] == axes[1] or abs(axes[0] - axes[1]) == x.ndim:
        raise ValueError("Axes must be different.")
    if not all(-x.ndim <= a < x.ndim for a in axes):
        raise ValueError(f"Axes={axes} out of range for array of ndim={x.ndim}.")
    k = operator.index(k) % 4
    if k == 0:
        return x
    if k == 2:
        return flip(flip(x, axes[0]), axes[1])
    if k == 1:
        return swapaxes(flip(x, axes[1]), *axes)
    return flip(swapaxes(x, *axes), axes[1])


@handles(np.pad)
def pad(array, pad_width, mode="constant", *, constant_values=UNSET, reflect_type="even", **kwargs):
    """As `numpy.pad`, modes constant, edge, reflect, symmetric and wrap; the constants may be recorded."""
    x = firm(array)
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap") or reflect_type != "even" or kwargs:
        raise located(
            ArgumentError,
            f"np.pad(mode={mode!r}) with these arguments cannot be recorded",
            "constant, edge, reflect, symmetric or wrap; or np.concatenate of the parts",
        )
    if mode != "constant" and constant_values is not UNSET or reflect_type != "even" and mode == "constant":
        raise ValueError(f"unsupported keyword arguments for mode '{mode}': {{'constant_values'}}")
    widths = _pairs(pad_width, x.ndim)
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError("index can't contain negative values")
    if mode != "constant":
        for axis, (before, after) in enumerate(widths):
            if before or after:
                order = np.pad(np.arange(x.shape[axis]), (before, after), mode=mode)
                x = taken(x, order, axis)
        return x
    if constant_values is UNSET or (not isinstance(constant_values, Array) and np.ndim(constant_values) == 0
                                    and not isinstance(constant_values, (list, tuple)) and constant_values == 0):
        low, high = tuple([a for a, _ in widths]), tuple([z for _, z in widths])
        return apply1("pad", x, low=low, high=high, interior=(0,) * x.ndim)
    constants = broadcast_to(cast(asarray(constant_values), x.dtype), (x.ndim, 2))
    for axis, (before, after) in enumerate(widths):
        ends = []
        for side, count in enumerate((before, after)):
            shape = x.shape[:axis] + (count,) + x.shape[axis + 1 :]
            ends.append(broadcast(constants[axis, side], shape))
        x = joined([ends[0], x, ends[1]], axis)
    return x


def _pairs(pad_width, ndim):
    """(before, after) for each axis, as ints."""
    if isinstance(pad_width, dict):
        pairs = [(0, 0)] * ndim
        for axis, width in pad_width.items():
            pairs[one_axis(axis, ndim)] = tuple(width) if isinstance(width, (tuple, list)) else (width, width)
        pad_width = pairs
    widths = np.asarray(_static_positions(pad_width))
    if widths.dtype.kind not in "iu":
        raise TypeError("`pad_width` must be of integral type.")
    return np.broadcast_to(widths, (ndim, 2)).tolist()


__all__ = [
    "append", "array_split", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_arrays", "broadcast_to",
    "column_stack", "concat", "concatenate", "delete", "dsplit", "dstack", "expand_dims", "flip", "fliplr", "flipud",
    "hsplit", "hstack", "insert", "matrix_transpose", "moveaxis", "ndim", "pad", "permute_dims", "ravel", "repeat",
    "reshape", "roll", "rollaxis", "rot90", "shape", "size", "split", "squeeze", "stack", "swapaxes", "tile",
    "transpose", "unstack", "vsplit", "vstack",
]  # fmt: skip
