"""Differences, slopes, integrals and convolutions of sampled values."""

from __future__ import annotations

import builtins
import operator

import numpy as np

from ..array import handles
from ..errors import ArgumentError, located
from ..promote import BOOL, F64, apply1, asarray, call, cast, common_dtype, operand, operand_array
from .common import UNSET, all_axes, broadcast, firm, joined, one_axis, part, reshaped


@handles(np.diff)
def diff(a, n=1, axis=-1, prepend=UNSET, append=UNSET):
    """As `numpy.diff`."""
    x = firm(a)
    n = operator.index(n)
    if n == 0:
        return x
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    if x.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    axis = one_axis(axis, x.ndim)
    parts = [_end(prepend, x, axis), x, _end(append, x, axis)]
    parts = [p for p in parts if p is not None]
    if len(parts) > 1:
        dtype = common_dtype(*parts)
        x = joined([asarray(cast(p, dtype)) for p in parts], axis)
    for _ in range(n):
        length = x.shape[axis]
        upper, lower = part(x, axis, builtins.min(1, length), length), part(x, axis, 0, builtins.max(length - 1, 0))
        x = call("xor" if x.dtype == BOOL else "sub", upper, lower)
    return x


def _end(value, x, axis):
    """What `diff` joins to an end: a scalar counts as one entry along the axis."""
    if value is UNSET:
        return None
    value = firm(value)
    return broadcast(value, x.shape[:axis] + (1,) + x.shape[axis + 1 :]) if value.ndim == 0 else value


@handles(np.ediff1d)
def ediff1d(ary, to_end=None, to_begin=None):
    """As `numpy.ediff1d`."""
    x = firm(ary)
    x = reshaped(x, (x.size,))
    parts = [diff(x)]
    for value, place in ((to_begin, 0), (to_end, len(parts) + 1)):
        if value is not None:
            value = firm(value)
            if not np.can_cast(value.dtype, x.dtype, casting="same_kind"):
                end = "to_begin" if place == 0 else "to_end"
                raise TypeError(f"dtype of `{end}` must be compatible with input `ary` under the `same_kind` rule.")
            parts.insert(place, asarray(cast(reshaped(value, (value.size,)), x.dtype)))
    return joined(parts, 0)


@handles(np.gradient)
def gradient(f, *varargs, axis=None, edge_order=1):
    """As `numpy.gradient`, for spacings that are numbers or coordinates, recorded or not."""
    x = firm(f)
    axes = all_axes(None, x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple([one_axis(i, x.ndim) for i in axes])
    spacings = list(varargs) or [1.0]
    if len(spacings) == 1 and np.ndim(operand_array(spacings[0])) == 0:
        spacings = spacings * len(axes)
    if len(spacings) != len(axes):
        raise TypeError("invalid number of arguments")
    if edge_order > 2:
        raise ValueError("'edge_order' greater than 2 not supported")
    x = cast(x, F64) if x.dtype.kind != "f" else x
    out = [_slope(x, h, at, edge_order) for h, at in zip(spacings, axes)]
    return out[0] if len(out) == 1 else tuple(out)


def _slope(x, spacing, axis, edge_order):
    n = x.shape[axis]
    if n < edge_order + 1:
        raise ValueError(
            "Shape of array too small to calculate a numerical gradient, at least (edge_order + 1) elements are required."
        )
    h = operand(spacing)
    if np.ndim(operand_array(h)) == 1:
        return _uneven_slope(x, asarray(h), axis, edge_order)
    if np.ndim(operand_array(h)) > 1:
        raise ValueError("distances must be either scalars or 1d")

    def at(start, stop):
        return part(x, axis, start % n, (stop - 1) % n + 1)

    def combine(*terms):
        total = None
        for weight, value in terms:
            value = call("mul", value, weight)
            total = value if total is None else call("add", total, value)
        return call("div", total, h)

    if edge_order == 1:
        first = call("div", call("sub", at(1, 2), at(0, 1)), h)
        last = call("div", call("sub", at(-1, n), at(-2, -1)), h)
    else:
        first = combine((-1.5, at(0, 1)), (2.0, at(1, 2)), (-0.5, at(2, 3)))
        last = combine((0.5, at(-3, -2)), (-2.0, at(-2, -1)), (1.5, at(-1, n)))
    if n == 2:
        return joined([first, last], axis)
    middle = call("div", call("sub", at(2, n), at(0, n - 2)), call("mul", h, 2.0))
    return joined([first, middle, last], axis)


def _uneven_slope(x, points, axis, edge_order):
    n = x.shape[axis]
    if points.shape != (n,):
        raise ValueError("when 1d, distances must match the length of the corresponding dimension")
    shape = (n - 1,) + (1,) * (x.ndim - axis - 1)
    steps = reshaped(diff(cast(points, x.dtype if points.dtype.kind != "f" else points.dtype)), shape)

    def at(start, stop):
        return part(x, axis, start, stop)

    def step(start, stop):
        return part(steps, 0, start, stop)

    def combine(*terms):
        total = None
        for weight, value in terms:
            value = call("mul", weight, value)
            total = value if total is None else call("add", total, value)
        return total

    def interior():
        h1, h2 = step(0, n - 2), step(1, n - 1)
        both = call("add", h1, h2)
        a = call("neg", call("div", h2, call("mul", h1, both)))
        b = call("div", call("sub", h2, h1), call("mul", h1, h2))
        c = call("div", h1, call("mul", h2, both))
        return combine((a, at(0, n - 2)), (b, at(1, n - 1)), (c, at(2, n)))

    def edge(h1, h2, values, sign):
        """Second order at an end; h1 is the step at the end, h2 the next one inwards."""
        both = call("add", h1, h2)
        a = call("div", call("add", call("mul", h1, 2.0), h2), call("mul", h1, both))
        b = call("div", both, call("mul", h1, h2))
        c = call("div", h1, call("mul", h2, both))
        total = combine((a, values[0]), (call("neg", b), values[1]), (c, values[2]))
        return call("neg", total) if sign < 0 else total

    if edge_order == 1:
        first = call("div", call("sub", at(1, 2), at(0, 1)), step(0, 1))
        last = call("div", call("sub", at(n - 1, n), at(n - 2, n - 1)), step(n - 2, n - 1))
    else:
        first = edge(step(0, 1), step(1, 2), [at(0, 1), at(1, 2), at(2, 3)], -1)
        ends = [at(n - 1, n), at(n - 2, n - 1), at(n - 3, n - 2)]
        last = edge(step(n - 2, n - 1), step(n - 3, n - 2), ends, 1)
    return joined([first, last] if n == 2 else [first, interior(), last], axis)


@handles(np.trapezoid)
def trapezoid(y, x=None, dx=1.0, axis=-1):
    """As `numpy.trapezoid`."""
    y = firm(y)
    axis = one_axis(axis, y.ndim)
    n = y.shape[axis]
    if x is None:
        d = operand(dx)
    else:
        x = firm(x)
        if x.ndim == 1:
            d = diff(x)
            d = reshaped(d, (d.size,) + (1,) * (y.ndim - axis - 1))
        else:
            d = diff(x, axis=axis)
    upper, lower = part(y, axis, builtins.min(1, n), n), part(y, axis, 0, builtins.max(n - 1, 0))
    area = call("div", call("mul", d, call("add", upper, lower)), 2.0)
    return apply1("reduce_sum", area, axes=(area.ndim - y.ndim + axis,))


# ---- convolution -----------------------------------------------------------------------------------------------------
def _full_convolution(x, v):
    """sum_j v[j] x[k-j] for all k: v times the matrix whose row j is x shifted by j.

    The matrix is made without moving data: x with zeros behind, repeated, read with a row length one less, slips by one.
    """
    n, m = x.shape[0], v.shape[0]
    padded = apply1("pad", x, low=(0,), high=(m,), interior=(0,))
    rows = reshaped(broadcast(padded, (m, n + m)), (m * (n + m),))
    shifted = reshaped(part(rows, 0, 0, m * (n + m - 1)), (m, n + m - 1))
    return apply1("dot", v, shifted, contract=((0,), (0,)), batch=((), ()))


def _operands(a, v):
    xs = []
    for x in (a, v):
        x = firm(x)
        if x.ndim > 1:
            raise ValueError("object too deep for desired array")
        xs.append(reshaped(x, (x.size,)))
    dtype = common_dtype(*xs)
    if dtype == BOOL:
        raise located(ArgumentError, "convolution of bools is not recorded", ".astype(int) first")
    return [asarray(cast(x, dtype)) for x in xs]


def _window(full, longer, shorter, mode, reverse=False):
    """The part of the full result that a mode keeps."""
    modes = {"valid": 0, "v": 0, 0: 0, "same": 1, "s": 1, 1: 1, "full": 2, "f": 2, 2: 2}
    if mode not in modes:
        raise ValueError(f"mode must be one of 'valid', 'same', or 'full' (got {mode!r})")
    kind = modes[mode]
    if kind == 2:
        return full
    if kind == 0:
        return part(full, 0, shorter - 1, longer)
    start = (shorter - 1) // 2 if not reverse else shorter - 1 - (shorter - 1) // 2
    return part(full, 0, start, start + longer)


@handles(np.convolve)
def convolve(a, v, mode="full"):
    """As `numpy.convolve`."""
    x, v = _operands(a, v)
    if v.size > x.size:
        x, v = v, x
    if x.size == 0:
        raise ValueError("a cannot be empty")
    if v.size == 0:
        raise ValueError("v cannot be empty")
    return _window(_full_convolution(x, v), x.size, v.size, mode)


@handles(np.correlate)
def correlate(a, v, mode="valid"):
    """As `numpy.correlate`."""
    x, v = _operands(a, v)
    if x.size == 0 or v.size == 0:
        raise ValueError("first array argument cannot be empty" if x.size == 0 else "second array argument cannot be empty")
    swapped = v.size > x.size
    flipped = apply1("flip", v, axes=(0,))
    full = _full_convolution(flipped, x) if swapped else _full_convolution(x, flipped)
    return _window(full, *((v.size, x.size) if swapped else (x.size, v.size)), mode, reverse=swapped)


__all__ = ["convolve", "correlate", "diff", "ediff1d", "gradient", "trapezoid"]
