"""`np.piecewise`: functions of parts of an array, chosen by conditions.

In: x, conditions, a function or number for each. Out: an Array of x's shape and dtype.

Conditions of plain data are NumPy's case: a function is called on `x[condition]`. If a condition is recorded, the shape of that
would depend on values, so the function is called on all of x, and what it gives is chosen element by element: the same if it
works on each element alone. That is checked on its record (`_mixed`), and what does not is refused; but a length that it reads,
`v.size`, is that of x, and is not noticed. The function is recorded one level deeper for this, and then replayed.
"""

from __future__ import annotations

import math

import numpy as np

from tapejit.ir.graph import Constant
from tapejit.ir.walk import walk

from ..array import Array, handles, make, unwrap
from ..errors import ArgumentError, OutputError, located
from ..mutation import born, own, read_now
from ..promote import asarray, call, cast, operand, select, truth
from ..record import Replay, recording
from ..variable import settled
from .common import firm, reshaped
from .indexing import getitem, misfit
from .writing import setitem


@handles(np.piecewise)
def piecewise(x, condlist, funclist, *args, **kw):
    """As `numpy.piecewise`; on recorded conditions functions must work on each element alone, and see all of them."""
    x = firm(x)
    conditions = _conditions(x, condlist)
    n = len(conditions)
    if len(funclist) not in (n, n + 1):
        raise ValueError(f"with {n} condition(s), either {n} or {n + 1} functions are expected")
    if len(funclist) == n + 1:
        conditions.append(_otherwise(conditions))
    out = born(make(np.zeros(x.shape, x.dtype)))
    for condition, function in zip(conditions, funclist):
        if not callable(function):
            setitem(out, condition, function)
        elif not isinstance(condition, Array):
            chosen = getitem(x, condition)
            if chosen.size:
                setitem(out, condition, function(chosen, *args, **kw))
        elif x.size:
            out = _chosen(x, condition, out, function, args, kw)
    return out


def _conditions(x, condlist) -> list:
    """The conditions: recorded Arrays, ndarrays of plain data; bool, of one shape. One may be given without a list."""
    if np.isscalar(condlist) or isinstance(condlist, Array) and not condlist.ndim:
        condlist = [condlist]
    first = condlist[0]
    several = isinstance(first, (list, np.ndarray)) or isinstance(first, Array) and first.ndim
    if not several and x.ndim:
        condlist = [condlist]
    conditions = []
    for c in map(truth, condlist):
        if isinstance(c, Array):
            c = read_now(c)
        conditions.append(c if isinstance(c, Array) and c._record is not None else np.asarray(unwrap(c)))
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


def _chosen(x, condition, out, function, args, kw):
    """`out` with the function of x where the condition is true."""
    count, rest = condition.size, x.shape[condition.ndim :]
    rows = reshaped(x, (count, *rest))
    name = getattr(function, "__name__", type(function).__name__)
    with recording(name) as record, np.errstate(all="ignore"):  # of elements that the function is not meant for
        param = record.param(rows._data)
        result = asarray(settled(function(own(param, (param,)), *args, **kw)))
        graph, captures = record.finish([result])
    if count > 1 and (what := _mixed(graph, captures)):
        raise located(
            ArgumentError,
            f"np.piecewise on a recorded condition calls {name} on all of x, and it does not work on each element alone "
            f"({what}): NumPy would give it those for which the condition is true",
            "np.where(condition, f(x), ...), with what f has of several elements, such as a mean, computed before",
        )
    with np.errstate(all="ignore"):
        (value,) = walk(graph, Replay(), [rows, *map(settled, captures)])
    value = cast(operand(value), x.dtype)
    shape = np.shape(value)
    if shape == (count, *rest):
        value = reshaped(value, x.shape)
    elif len(shape) > len(rest) and shape[0] == 1 or len(shape) <= len(rest):
        value = reshaped(asarray(value), shape[len(shape) - len(rest) :] if len(shape) > len(rest) else shape)
    else:
        raise located(
            OutputError,
            f"np.piecewise: {name} of an array of shape {(count, *rest)} gives one of shape {shape}",
            "return one value, or one for each element",
        )
    return select(reshaped(condition, condition.shape + (1,) * len(rest)), value, out)


def _mixed(graph, captures) -> str:
    """What in a record has elements meet along the first axis of its first parameter; "" if nothing has."""
    count = graph.params[0].shape[0]
    at = {graph.params[0]: 0}  # value -> the axis along which it has one entry for each element of the parameter
    for value, captured in zip(graph.params[1:], captures):
        if _uniform(captured, count):
            at[value] = 0
    for node in graph.nodes:
        axes = [None if type(o) is Constant else at.get(o) for o in node.operands]
        if node.op.name == "broadcast" and axes == [None]:  # np.full_like(v, number)
            axis = _stretched(node.operands[0].shape, node.results[0].shape, count)
            if axis is not None:
                at[node.results[0]] = axis
        elif any([a is not None for a in axes]):
            axis = _axis_after(node, axes, count)
            if axis is None:
                return "control flow on its values" if node.op.name == "guard" else node.op.name
            at[node.results[0]] = axis
    result = graph.results[0]
    if type(result) is Constant or result not in at and count not in result.shape[:1]:
        return ""
    return "" if at.get(result) == 0 else "the order of its result"


def _uniform(captured, count) -> bool:
    """Whether it is the same for all of so many rows, whatever is computed: np.zeros_like(v), np.full_like(v, number)."""
    if isinstance(captured, Array) and captured._record is not None:
        value = captured._record.value(captured)
        node = value.node
        return node is not None and node.op.name == "broadcast" and _stretched(node.operands[0].shape, value.shape, count) == 0
    data = np.asarray(unwrap(captured))
    return data.ndim > 0 and data.shape[0] == count and data.tobytes() == data[:1].tobytes() * count


def _stretched(shape, to, count):
    """The first axis that is of length `count` only since it was broadcast, or None."""
    was = (1,) * (len(to) - len(shape)) + shape
    return next((a for a, (n, m) in enumerate(zip(was, to)) if n == 1 and m == count), None)


def _axis_after(node, axes, count):
    """The axis of a node's result, given its operands'; None if the elements meet, or that is not known."""
    if len(node.results) != 1:
        return None
    op, attrs = node.op, node.attrs
    out = node.results[0].shape
    if op.kind == "elementwise" or op.name == "broadcast":  # aligned at the last axis
        end, *others = {a - len(o.shape) for a, o in zip(axes, node.operands) if a is not None}
        rows = [o.shape[end] for a, o in zip(axes, node.operands) if a is None and len(o.shape) >= -end]
        return None if others or count in rows else end + len(out)
    axis, shape = axes[0], node.operands[0].shape
    if op.name == "gather" and axes[0] is None:  # rows of a table, at positions computed from the elements
        return axes[1]
    if axis is None or any([a is not None for a in axes[1:]]):
        return None
    if op.name == "transpose":
        return attrs["perm"].index(axis)
    if op.name == "reshape":
        before, found = math.prod(shape[:axis]), 0
        while found < len(out) and not (math.prod(out[:found]) == before and out[found] == count):
            found += 1
        return found if found < len(out) else None
    if op.name == "slice":
        whole = attrs["start"][axis] == 0 and attrs["stop"][axis] == count and attrs["step"][axis] == 1
        return axis if whole else None
    if op.name.startswith("reduce_"):
        return None if axis in attrs["axes"] else axis - sum([a < axis for a in attrs["axes"]])
    return None


__all__ = ["piecewise"]
