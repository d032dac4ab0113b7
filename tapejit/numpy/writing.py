"""NumPy's functions that write into an array: `x[...] = v`, put, place, putmask, fill_diagonal, put_along_axis, `ufunc.at`;
and piecewise, which writes what functions give of `x[condition]`.

In: an Array that is written, positions or a mask, values. Out: nothing. Each computes the new value of the whole array and has
`mutation.assign` bind it, so that views see it and derivatives of every order follow.

Positions and masks may be recorded. Where NumPy takes values in the order of the true ones of a mask, these are counted at run
time, and no shape depends on them. `ufunc.at` does an operation once for each position, one after the other where positions
repeat: sums are a `scatter_add`; others go in rounds, the r-th of which does the r-th occurrence of each position, so these
must be known while recording. A plain ndarray takes plain values, and NumPy writes them.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator

import numpy as np

from ..array import DIRECT, HANDLERS, Array, handles, is_a, make
from ..errors import ConcretizationError, MutationError, located
from ..mutation import assign, born, converted, fitted, own, read_now
from ..promote import I64, any_true, apply1, asarray, call, cast, common_dtype, operand_array, truth
from ..promote import select as where
from ..record import state
from ..selection import Selection, same
from .common import UNSET, broadcast, firm, joined, one_axis, part, permuted, reshaped, taken
from .indexing import (
    Positions,
    basic_part,
    expanded,
    getitem,
    index_array,
    merged,
    misfit,
    moded,
    only_mask,
    plain,
    rows_of,
)


# ---- x[...] = v ------------------------------------------------------------------------------------------------------------
@handles(operator.setitem)
def setitem(a, index, value):
    """`a[index] = value`; see mutation.py."""
    if type(a) is Selection:
        a.settle()
    if type(a) is not Array:
        return assign(a, value)  # an error
    items = index if isinstance(index, tuple) else (index,)
    mask = only_mask(items)
    if mask is not None:
        set_where(a, mask, value)
        return
    items, gap = expanded(a, items)
    if not any([isinstance(i, Positions) for i in items]):
        assign(basic_part(a, index, items), value)
        return
    at = Rows(a, index, items, gap)
    value = fitted(value, make(np.broadcast_to(np.zeros((), a.dtype), at.shape)))
    if value.size:
        at.write(apply1("scatter", at.rows(), at.index, at.updates(value)))


class Rows:
    """The rows that an index with positions in it selects: what `gather` and the scatters take, and back.

    shape: of a[index]. index: one number per row; `static`: of plain data.
    """

    def __init__(self, a, index, items, gap):
        self.source, self.axes, self.rest, self.lead, positions, self.index = merged(a, index, items, gap)
        self.static = all([p.static for p in positions])
        lengths = [self.source.shape[r] for r in self.rest]
        self.shape = (*lengths[: self.lead], *self.index.shape, *lengths[self.lead :])

    def rows(self):
        return rows_of(self.source, self.axes, self.rest)

    def updates(self, value):
        """A value of shape a[index] with the axes of the positions in front."""
        lead, k = self.lead, self.index.ndim
        return permuted(value, (*range(lead, lead + k), *range(lead), *range(lead + k, value.ndim)))

    def write(self, rows):
        """Have the array hold these rows in place of its own."""
        order = (*self.axes, *self.rest)
        rows = reshaped(rows, tuple([self.source.shape[a] for a in order]))
        assign(self.source, permuted(rows, tuple(np.argsort(order).tolist())))


def set_where(a, mask, value):
    """a[mask] = value for a recorded mask: a choice per element."""
    if type(value) is Selection and same(value._alias.mask, mask):
        full, rest = value._alias.full, a.shape[mask.ndim :]
        if full.ndim == a.ndim and full.shape[mask.ndim :] in (rest, (1,) * len(rest)):
            with np.errstate(all="ignore"):  # casts what is not selected, too
                full = cast(full, a.dtype)
            assign(a, where(value._alias.wide, full, a))
            return
    wide, value = by_mask(a, mask, converted(value, a.dtype))
    assign(a, where(wide, value, a))


def by_mask(a, mask, value):
    """A recorded mask as it broadcasts with `a`, and the value for each element of `a` where it is true: of several values the
    k-th is for the k-th true one."""
    if mask.shape != a.shape[: mask.ndim]:
        misfit(a.shape, mask)
    rest = a.shape[mask.ndim :]
    wide = reshaped(mask, mask.shape + (1,) * len(rest))
    value = operand_array(value)
    if len(value.shape) <= len(rest) or value.shape[0] == 1:
        value = fitted(value, make(np.broadcast_to(np.zeros((), value.dtype), (1, *rest))))
        return wide, reshaped(value, rest)
    flat = reshaped(mask, (mask.size,))
    count = apply1("reduce_sum", cast(flat, I64), axes=(0,))
    if int(count) != value.shape[0]:
        raise ValueError(
            f"NumPy boolean array indexing assignment cannot assign {value.shape[0]} input values to the {int(count)} "
            "output values where the mask is true"
        )
    if value.shape[0] == 0:
        return wide, np.zeros((), value.dtype)
    value = broadcast(value if isinstance(value, Array) else make(value), (value.shape[0], *rest))
    return wide, reshaped(apply1("gather", value, ranks(flat)), a.shape)


def ranks(mask):
    """How many true ones come before each one of a flat mask; 0 before the first."""
    count = apply1("cumsum", cast(mask, I64), axis=0, reverse=False)
    return call("maximum", call("sub", count, 1), 0)


# ---- by position or mask -----------------------------------------------------------------------------------------------------
def writes(function):
    """Decorator: what writes into an Array is ours, into an ndarray NumPy's `function`, which takes no recorded value."""
    name = f"np.{function.__name__}"

    def wrap(ours):
        signature = inspect.signature(ours)

        @functools.wraps(ours)
        def write(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            target, *others = given.arguments.values()
            if type(target) is not Array:
                into_ndarray(name, target, others)
                return function(*plain(given.args), **{key: plain(x) for key, x in given.kwargs.items()})
            return ours(*args, **kwargs)

        return handles(function)(write)

    return wrap


def into_ndarray(name, target, values):
    """Errors for what cannot be written into what is no Array."""
    if isinstance(target, Array):
        assign(target, None)  # a Variable: an error
    if any([_recorded(x) for x in values]):
        raise located(
            MutationError,
            f"{name} would write a recorded value into an ndarray",
            "make it with tapejit.numpy, or np.zeros_like(x)",
        )


def _recorded(x) -> bool:
    """Whether there is an Array in it that is recorded, or read at each call of the function that is."""
    if isinstance(x, (list, tuple)):
        return any([_recorded(i) for i in x])
    return isinstance(x, Array) and (x._record is not None or bool(state.records))


def _values(v, dtype):
    """Values of any shape, flat, in the dtype of what they are written to."""
    v = converted(v, dtype)
    return reshaped(firm(v), (v.size,))


def _cycled(values, count):
    """So many values, from the start again where there are not as many."""
    n = values.size
    if n < count:
        times = -(-count // n)
        values = reshaped(broadcast(reshaped(values, (1, n)), (times, n)), (times * n,))
    return part(values, 0, 0, count)


def _flat_mask(name, mask, a):
    mask = truth(mask)
    if mask.size != a.size:
        raise ValueError(f"{name}: mask and data must be the same size")
    return reshaped(firm(mask), (a.size,))


def _assign_flat(a, flat):
    assign(a, reshaped(flat, a.shape))


@writes(np.put)
def put(a, ind, v, mode="raise"):
    """As `numpy.put`; of equal positions the last wins."""
    index, values, n = index_array(ind), _values(v, a.dtype), a.size
    index = reshaped(index, (index.size,))
    if n == 0 and index.size:
        raise IndexError("cannot replace elements of an empty array")
    if values.size == 0 or index.size == 0:
        return

    def fail():
        np.put(np.zeros(n, bool), index._data, False)

    flat = reshaped(firm(a), (n,))
    _assign_flat(a, apply1("scatter", flat, moded(index, n, mode, fail), _cycled(values, index.size)))


@writes(np.place)
def place(arr, mask, vals):
    """As `numpy.place`: the k-th true element gets the k-th value, from the start again where there are fewer."""
    mask, values = _flat_mask("place", mask, arr), _values(vals, arr.dtype)
    if values.size == 0:
        if any_true(mask):
            raise ValueError("Cannot insert from an empty array!")
        return
    if values.size > 1:
        values = apply1("gather", values, call("remainder", ranks(mask), values.size))
    flat = reshaped(firm(arr), (arr.size,))
    _assign_flat(arr, where(mask, values, flat))


@writes(np.putmask)
def putmask(a, mask, values):
    """As `numpy.putmask`: the value for an element is the one at its position, from the start again where there are fewer."""
    mask, values = _flat_mask("putmask", mask, a), _values(values, a.dtype)
    if values.size and a.size:
        _assign_flat(a, where(mask, _cycled(values, a.size), reshaped(firm(a), (a.size,))))


@writes(np.fill_diagonal)
def fill_diagonal(a, val, wrap=False):
    """As `numpy.fill_diagonal`."""
    if a.ndim < 2:
        raise ValueError("array must be at least 2-d")
    if a.ndim > 2 and len(set(a.shape)) > 1:
        raise ValueError("All dimensions of input must be of equal length")
    values, n = _values(val, a.dtype), a.size
    if n == 0 or values.size == 0:
        return
    step = sum([math.prod(a.shape[d + 1 :]) for d in range(a.ndim)])
    stop = n if wrap or a.ndim > 2 else min(n, a.shape[1] ** 2)
    count = len(range(0, stop, step))
    window = {"start": (0,), "stop": ((count - 1) * step + 1,), "step": (step if count > 1 else 1,)}
    _assign_flat(a, apply1("update", reshaped(firm(a), (n,)), _cycled(values, count), **window))


@writes(np.put_along_axis)
def put_along_axis(arr, indices, values, axis):
    """As `numpy.put_along_axis`; positions may be recorded, the last of equal ones wins."""
    indices = operand_array(indices)
    if axis is None:
        if indices.ndim != 1:
            raise ValueError("when axis=None, `indices` must have a single dimension.")
        target, axis = own(reshaped(arr, (arr.size,)), (arr,)), 0
    else:
        target, axis = arr, one_axis(axis, arr.ndim)
    if indices.dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    if target.ndim != indices.ndim:
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    index = [np.arange(n).reshape((-1,) + (1,) * (target.ndim - d - 1)) for d, n in enumerate(target.shape)]
    index[axis] = indices
    setitem(target, tuple(index), values)
    if target is not arr:
        _assign_flat(arr, target)


# ---- piecewise ---------------------------------------------------------------------------------------------------------------
@handles(np.piecewise)
def piecewise(x, condlist, funclist, *args, **kw):
    """As `numpy.piecewise`. If a condition is recorded its function is called also where it is true nowhere."""
    x = firm(x)
    conditions = [c if isinstance(c, Array) and c._record is not None else plain(c) for c in _conditions(x, condlist)]
    n = len(conditions)
    if len(funclist) not in (n, n + 1):
        raise ValueError(f"with {n} condition(s), either {n} or {n + 1} functions are expected")
    if len(funclist) == n + 1:
        conditions.append(_otherwise(conditions))
    shape = x.shape
    if not x.ndim:
        x, conditions = reshaped(x, (1,)), [reshaped(asarray(c), (1,)) for c in conditions]
    out = born(make(np.zeros(x.shape, x.dtype)))
    for condition, function in zip(conditions, funclist):
        if callable(function):
            chosen = getitem(x, condition) if x.size else x
            if type(chosen) is not Selection and not chosen.size:
                continue
            function = function(chosen, *args, **kw)
        setitem(out, condition, function)
    return reshaped(out, shape)


def _conditions(x, condlist) -> list:
    """The conditions as bools of one shape. One may be given without a list."""
    if np.isscalar(condlist) or isinstance(condlist, Array) and not condlist.ndim:
        condlist = [condlist]
    first = condlist[0]
    several = is_a(first, (list, np.ndarray)) or isinstance(first, Array) and first.ndim
    if not several and x.ndim:
        condlist = [condlist]
    conditions = [read_now(c) if isinstance(c, Array) else np.asarray(c) for c in map(truth, condlist)]
    if len({c.shape for c in conditions}) > 1:
        raise ValueError("all input arrays must have the same shape")
    shape = conditions[0].shape
    if shape != x.shape[: len(shape)]:
        misfit(x.shape, np.zeros(shape, bool))
    return conditions


def _otherwise(conditions):
    """Where none of the conditions is true."""
    if not any([isinstance(c, Array) for c in conditions]):
        return ~np.any(conditions, axis=0)
    covered = conditions[0]
    for condition in conditions[1:]:
        covered = call("or_", covered, condition)
    return call("not_", covered)


# ---- ufunc.at ----------------------------------------------------------------------------------------------------------------
_SUMS = {np.add, np.subtract}


def _at(ufunc):
    """`ufunc.at` for a ufunc with one result. As in NumPy, results are cast to the array's dtype whatever they are."""
    compute, name = DIRECT[ufunc], f"np.{ufunc.__name__}"

    def at(a, indices, b=UNSET, /):
        if (b is UNSET) != (ufunc.nin == 1):
            raise ValueError(
                "second operand needed for ufunc" if ufunc.nin == 2 else "second operand provided when ufunc is unary"
            )
        given = () if b is UNSET else (b,)
        if type(a) is not Array:
            into_ndarray(f"{name}.at", a, (indices, *given))
            return ufunc.at(a, plain(indices), *plain(given))
        given = tuple([operand_array(x) for x in given])

        def step(x, *others):
            return cast(compute(x, *others), a.dtype)

        mask = only_mask((indices,))
        if mask is not None:
            given = [by_mask(a, mask, x) for x in given]
            wide = by_mask(a, mask, 0)[0]
            return assign(a, where(wide, step(a, *[x for _, x in given]), a))
        items, gap = expanded(a, indices if isinstance(indices, tuple) else (indices,))
        if not any([isinstance(i, Positions) for i in items]):
            chosen = basic_part(a, indices, items)
            return assign(chosen, step(chosen, *[_spread(x, chosen.shape) for x in given]))
        at = Rows(a, indices, items, gap)
        given = [at.updates(_spread(x, at.shape)) for x in given]
        if math.prod(at.shape):
            at.write(_after(ufunc, step, at, given))

    at.__name__, at.__doc__ = f"{ufunc.__name__}.at", f"As `numpy.{ufunc.__name__}.at`."
    return at


def _spread(b, shape):
    """The second operand for each element that is written."""
    try:
        fits = np.broadcast_shapes(np.shape(b), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("array is not broadcastable to correct shape")
    return broadcast(b if isinstance(b, Array) else make(b), shape)


def _after(ufunc, step, at, given):
    """The rows after the operation was done at each position."""
    rows, index = firm(at.rows()), at.index
    if ufunc in _SUMS:
        common = common_dtype(rows, *given)
        if common.kind == rows.dtype.kind != "b":
            # In a wider dtype the sums are rounded once, where NumPy rounds each step.
            added = cast(given[0] if ufunc is np.add else call("neg", given[0]), common)
            return cast(apply1("scatter_add", cast(rows, common), index, added), rows.dtype)
    if index.size == 1:
        now = step(apply1("gather", rows, index), *given)
        return apply1("scatter", rows, index, now)
    if not at.static:
        raise located(
            ConcretizationError,
            f"np.{ufunc.__name__}.at at recorded positions of {rows.dtype}: what equal positions give depends on the order",
            "x[i] = f(x[i], b) if no position comes twice; np.add.at; np.where(mask, f(x, b), x)",
        )
    return _in_rounds(step, rows, index._data.reshape(-1), [reshaped(b, (index.size, *rows.shape[1:])) for b in given])


def _in_rounds(step, rows, index, given):
    """One round for the first occurrence of each position, one for the second, and so on, on ever fewer rows."""
    positions, which, counts = np.unique(index, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # those that come most often in front
    positions, counts = positions[order], counts[order]
    slot = np.argsort(order)[which]
    by_slot = np.argsort(slot, kind="stable")
    first = np.cumsum(counts) - counts
    now, done = taken(rows, positions, 0), []
    for r in range(counts[0]):
        left = int(np.count_nonzero(counts > r))
        done.append(part(now, 0, left, now.shape[0]))
        operands = by_slot[first[:left] + r]
        now = step(part(now, 0, 0, left), *[taken(b, operands, 0) for b in given])
    now = joined([now, *[x for x in reversed(done) if x.size]], 0)
    return apply1("scatter", rows, make(positions), now)


for _ufunc in [f for f in HANDLERS if isinstance(f, np.ufunc) and f.nout == 1 and f.signature is None]:
    HANDLERS[_ufunc, "at"] = _at(_ufunc)

__all__ = ["fill_diagonal", "piecewise", "place", "put", "put_along_axis", "putmask"]
