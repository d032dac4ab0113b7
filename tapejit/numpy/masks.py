"""Functions that find or take what is true: nonzero, argwhere, compress and their kin.

In: anything numerical. Of plain data the result is static; of what is recorded the positions are found at run time, and
how many there are is guarded (`selection.positions`).
"""

from __future__ import annotations

import numpy as np

from ..array import Array, handles, make, unwrap
from ..mutation import born, read_now
from ..promote import any_true, asarray, operand_array, truth
from ..selection import positions, unraveled
from .common import firm, gathered, joined, one_axis, part, refuse, reshaped, taken


def _mask(x) -> Array:
    """What is not zero: a recorded Array, or plain data."""
    x = operand_array(x)
    x = read_now(x) if type(x) is Array else x
    if isinstance(x, Array) and x._record is not None:
        return asarray(truth(x))
    return make(np.asarray(unwrap(x)) != 0)


def true_positions(x) -> list:
    """Where x is not zero, one Array per axis."""
    mask = _mask(x)
    if mask._record is None or mask.ndim == 0:
        return [born(make(i)) for i in np.nonzero(mask._data)]
    return unraveled(positions(mask), mask.shape)


@handles(np.nonzero)
def nonzero(a):
    """As `numpy.nonzero`."""
    return tuple(true_positions(a))


@handles(np.flatnonzero)
def flatnonzero(a):
    """As `numpy.flatnonzero`."""
    mask = _mask(a)
    return born(make(np.flatnonzero(mask._data))) if mask._record is None else positions(mask)


@handles(np.argwhere)
def argwhere(a):
    """As `numpy.argwhere`."""
    mask = _mask(a)
    if mask._record is None:
        return born(make(np.argwhere(mask._data)))
    if mask.ndim == 0:
        return make(np.zeros((int(bool(mask)), 0), np.int64))
    return joined([reshaped(i, (i.size, 1)) for i in true_positions(mask)], 1)


@handles(np.compress)
def compress(condition, a, axis=None, out=None):
    """As `numpy.compress`."""
    refuse("np.compress", out, {})
    x, keep = firm(a), _mask(condition)
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    if keep.ndim != 1:
        raise ValueError("condition must be a 1-d array")
    axis = one_axis(axis, x.ndim)
    n, last = x.shape[axis], np.flatnonzero(keep._data)[-1:]
    if keep._record is None:
        if last.size and last[0] >= n:
            raise _beyond(last[0], axis, n)
        return taken(x, np.flatnonzero(keep._data), axis)
    if keep.size > n:
        if any_true(part(keep, 0, n, keep.size)):
            raise _beyond(last[0], axis, n)
        keep = part(keep, 0, 0, n)
    index = positions(keep)
    return gathered(x, index, axis) if index.size else part(x, axis, 0, 0)


def _beyond(index, axis, n):
    return IndexError(f"index {index} is out of bounds for axis {axis} with size {n}")


@handles(np.extract)
def extract(condition, arr):
    """As `numpy.extract`."""
    keep = _mask(condition)
    flat = make(keep._data.reshape(-1)) if keep._record is None else reshaped(keep, (keep.size,))
    return compress(flat, arr)


__all__ = ["argwhere", "compress", "extract", "flatnonzero", "nonzero"]
