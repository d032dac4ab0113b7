"""What the whole namespace shares: axes, static integers, slices along an axis, strong results."""

from __future__ import annotations

import operator

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..array import Array, is_a, make
from ..errors import ArgumentError, ArgumentTypeError, MutationError, located
from ..promote import apply1, asarray

UNSET = np._NoValue
_DEFAULTS = {"where": True, "casting": "same_kind", "order": "K", "subok": True, "signature": None}


def firm(x) -> Array:
    """An Array that is not weak: NumPy's functions return strong dtypes even for Python scalars."""
    if type(x) is not Array:
        x = asarray(x)
    return make(x._data, x._record, x._value) if x._weak else x


def refuse(name, out, kwargs):
    """Accept keyword arguments that ask for nothing; a located error for the others."""
    if out is not None and (not isinstance(out, tuple) or any(o is not None for o in out)):
        raise located(
            MutationError, f"{name}(out=...) would overwrite an array, which is not recorded", f"y = {name}(x)"
        )
    for key, value in kwargs.items():
        if key not in _DEFAULTS:
            raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
        if key == "where" and value is not True:
            raise located(
                ArgumentTypeError,
                f"{name}(where=...) leaves elements undefined and is not recorded",
                "np.where(mask, f(x), other)",
            )
        if key in ("casting", "signature") and value != _DEFAULTS[key]:
            raise located(ArgumentTypeError, f"{name}({key}={value!r}) is not recorded", "x.astype(dtype) first")


def static_shape(shape) -> tuple[int, ...]:
    """A shape as a tuple of ints; recorded integers in it become guards."""
    if is_a(shape, (Array, np.ndarray)) and shape.ndim == 1 or isinstance(shape, (tuple, list)):
        return tuple([operator.index(n) for n in shape])
    return (operator.index(shape),)


def all_axes(axis, ndim) -> tuple[int, ...]:
    """The sorted axes that a reduction folds; AxisError and ValueError as in NumPy."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(sorted(normalize_axis_tuple(axis, ndim)))


def one_axis(axis, ndim) -> int:
    return normalize_axis_index(operator.index(axis), ndim)


def check_order(name, order):
    """Memory layouts are not recorded, so only the orders that do not depend on them are taken."""
    if order not in ("C", "F"):
        raise located(ArgumentError, f"{name}(order={order!r}) depends on the memory layout", "order='C' or order='F'")


def reshaped(x, shape) -> Array:
    return x if x._data.shape == shape and not x._weak else apply1("reshape", x, shape=shape)


def permuted(x, perm) -> Array:
    return firm(x) if perm == tuple(range(len(perm))) else apply1("transpose", x, perm=perm)


def broadcast(x, shape) -> Array:
    return x if x._data.shape == shape else apply1("broadcast", x, shape=shape)


def part(x, axis, start, stop, step=1) -> Array:
    """x[..., start:stop:step, ...] along one axis; 0 <= start <= stop <= n, step >= 1."""
    shape = x._data.shape
    if start == 0 and stop == shape[axis] and step == 1:
        return x
    lead, tail = axis, len(shape) - axis - 1
    return apply1(
        "slice", x, start=(0,) * lead + (start,) + (0,) * tail,
        stop=shape[:axis] + (stop,) + shape[axis + 1 :], step=(1,) * lead + (step,) + (1,) * tail,
    )  # fmt: skip


def joined(parts, axis) -> Array:
    """Arrays of one dtype end to end."""
    return parts[0] if len(parts) == 1 else apply1("concatenate", *parts, axis=axis)


def gathered(x, index, axis) -> Array:
    """The entries of `x` at integer positions (in range, any shape) along one axis, whose place their axes take."""
    index = index if isinstance(index, Array) else make(np.asarray(index, np.int64))
    if axis == 0:
        return apply1("gather", x, index)
    rest = [a for a in range(x.ndim) if a != axis]
    out = apply1("gather", permuted(x, (axis, *rest)), index)
    k = index.ndim
    return permuted(out, (*range(k, k + axis), *range(k), *range(k + axis, out.ndim)))


_MAX_RUNS = 8


def _runs(index):
    """Split static positions into runs of constant step: (first, step, length)."""
    runs, i, n = [], 0, len(index)
    while i < n:
        length, step = 1, 1
        if i + 1 < n:
            step = index[i + 1] - index[i]
            length = 2
            while i + length < n and index[i + length] - index[i + length - 1] == step:
                length += 1
            # A pair with a stride may be the accident of two runs meeting: let the second start the next.
            if length == 2 and step not in (-1, 0, 1):
                length, step = 1, 1
        runs.append((index[i], step, length))
        i += length
    return runs


def taken(x, index, axis) -> Array:
    """The entries at static positions along one axis: slices, flips and repetitions where they do, else a gather."""
    index = [int(i) for i in index]
    runs = _runs(index)
    if not runs:
        return part(x, axis, 0, 0)
    if len(runs) > _MAX_RUNS:
        return gathered(x, index, axis)
    parts = []
    for first, step, length in runs:
        if step == 0:
            one = part(x, axis, first, first + 1)
            parts.append(broadcast(one, x.shape[:axis] + (length,) + x.shape[axis + 1 :]))
        elif step > 0:
            parts.append(part(x, axis, first, first + (length - 1) * step + 1, step))
        else:
            run = part(x, axis, first + (length - 1) * step, first + 1, -step)
            parts.append(apply1("flip", run, axes=(axis,)))
    return joined(parts, axis)
