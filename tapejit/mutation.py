"""Writing into Arrays: `x[i] = v`, `x += v`, `out=`, and views that see it, as NumPy has them.

In: an Array, which may be a view of another (`record.View`), and what is written. Out: nothing; the Array that owns the
memory, its *root*, stands for a new value from then on.

A record holds values, which do not change, so a write is an operation whose result is the new value of the whole root:
    x[1:3] = v      root' = update(root, v, window 1:3)         (movement.py)
    x.T[0] = v      root' = transpose(update(transpose(root), v, window))       a write through views is undone view by view
The root is bound to the new value, and counts its writes. A view that is older than the last write is made anew, by the
operations that made it, when it is next used (`record.refresh`). Compiled code stores in place where the old value is dead.

Whether a result is a view is what NumPy did: views come of the operations in `record._VIEWING` if the memory is the same;
functions that return a new array in NumPy return one here (`owning`). A scalar (`x[0]` of a vector) is no view.

Where nothing records, the memory is written, as by NumPy. While a function is recorded
  - its arguments are values: the function works on a copy, the caller's array stays as it is, and a warning says so;
  - arrays that it closes over, or that an enclosing function made, are not its to change: an error;
  - into a plain ndarray no recorded value can be written: an error says what to make instead.
"""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np

from .array import HANDLERS, Array, handles, is_a, make
from .errors import MutationError, TapejitWarning, located
from .promote import apply1, cast, contains_array, operand, operand_array, wrap
from .record import Reading, Root, View, rebind, refresh, state
from .selection import Selection


# ---- results that are arrays of their own --------------------------------------------------------------------------------
def own(x, others=()):
    """An Array that is a view, or one of `others`, as an array of its own; other things as they are."""
    if type(x) is Selection and any([x is other for other in others]):
        return x.again()
    if type(x) is not Array or (type(x._alias) not in (View, Reading) and not any([x is other for other in others])):
        return x
    if x._alias is not None and x._alias.stale():
        refresh(x)
    if x._record is not None:
        out = make(x._data, x._record, x._value, x._weak)
    elif state.records:  # made outside: read at each call
        record = state.records[0]
        out = make(x._data, record, record.lookup(x), x._weak)
    else:
        return make(np.array(x._data) if is_a(x._data, np.ndarray) else x._data, weak=x._weak)
    if state.records:
        out._alias = Root(state.records[-1])
    return out


def owning(function):
    """Decorator: what the function returns is no view of its arguments; an Array given as `out` is written."""

    @functools.wraps(function)
    def ours(*args, **kwargs):
        out = kwargs.get("out")
        if out is not None:
            target = out[0] if isinstance(out, tuple) and len(out) == 1 else out
            if isinstance(target, Array):
                del kwargs["out"]
                return store(target, function(*args, **kwargs), function)
        found = function(*args, **kwargs)
        if isinstance(found, Array):
            return own(found, args)
        if type(found) in (tuple, list):
            return type(found)([own(x, args) for x in found])
        return found

    return ours


def born(x: Array) -> Array:
    """Mark a new Array of plain numbers as made by the function that is recorded, which may write into it."""
    if state.records and x._record is None:
        x._alias = Root(state.records[-1])
    return x


def read_now(x: Array) -> Array:
    """An Array of plain numbers that the function which is recorded did not make, as a value that is read at each call."""
    if not state.records or x._record is not None or not is_a(x._data, np.ndarray):
        return x
    if type(x._alias) is Root and x._alias.home is state.records[-1]:
        return x
    record = state.records[0]
    return make(x._data, record, record.lookup(x), x._weak)


# ---- writing -------------------------------------------------------------------------------------------------------------
def store(target: Array, value, function) -> Array:
    """Write the result of a function into an Array of its shape, as NumPy does for `out=` and `x += y`."""
    value = operand_array(value)
    check_cast(value, target, function)
    if value.shape != target.shape and (len(value.shape) > target.ndim or not _stretches(value.shape, target.shape)):
        raise ValueError(
            f"non-broadcastable output operand with shape {target.shape} doesn't match the broadcast shape {value.shape}"
        )
    assign(target, value)
    return target


def check_cast(value, target, function) -> None:
    """What NumPy says of a result that is written into an array of another kind."""
    if not np.can_cast(value.dtype, target.dtype, "same_kind"):
        name = getattr(function, "__name__", function)
        raise TypeError(
            f"Cannot cast {name} output from {value.dtype!r} to {target.dtype!r} with casting rule 'same_kind'"
        )


def _stretches(shape, to) -> bool:
    """Whether an array of this shape broadcasts to the other."""
    return all([n in (1, m) for n, m in zip(reversed(shape), reversed(to))])


def converted(value, dtype) -> Array:
    """What is written as an Array of a dtype. Python's numbers must fit it, as in NumPy."""
    if isinstance(value, (list, tuple)) and not contains_array(value):
        value = np.array(value, dtype)
    value = cast(operand(value), dtype)
    return value if isinstance(value, Array) else wrap(value)


def fitted(value, target: Array) -> Array:
    """What is assigned, in the target's dtype and shape."""
    value = converted(value, target.dtype)
    shape = value.shape
    extra = max(0, len(shape) - target.ndim)
    if math.prod(shape[:extra]) != 1 or not _stretches(shape[extra:], target.shape):
        raise ValueError(f"could not broadcast input array from shape {shape} into shape {target.shape}")
    if extra:
        value = apply1("reshape", value, shape=shape[extra:])
    return value if value.shape == target.shape else apply1("broadcast", value, shape=target.shape)


def assign(target: Array, value) -> None:
    """target[...] = value."""
    if isinstance(value, Array) and _is_same_view(target, value):
        return  # what `x[i] += v` ends with
    if type(target) is Selection:
        target.settle()
    path = _path(target)
    root = path[0]
    if type(root) is not Array or type(root._alias) is Reading:
        raise located(MutationError, "a Variable is not written in place", "v.assign(value), or v.assign_add(value)")
    if any([view._alias.op.name == "broadcast" for view in path[1:]]):
        raise ValueError("assignment destination is read-only")
    if is_a(root._data, np.generic):
        raise TypeError(f"{type(root._data).__module__}.{type(root._data).__name__} object does not support item assignment")
    value = fitted(value, target)
    if _records(root, value):
        _write(path, value)
    else:
        if state.base is not None:
            _forget(state.base, root)
        np.copyto(target._data, np.array(value._data))


def _path(target) -> list:
    """From the root to the target, each but the first a view of the one before."""
    path = [target]
    while type(path[-1]._alias) is View:
        path.append(path[-1]._alias.parent)
    return path[::-1]


def _is_same_view(target, value) -> bool:
    """Whether the value is the very view that is written: of the same parent, by the same operation, and up to date."""
    while True:
        if target is value:
            return True
        a, b = target._alias, value._alias
        if type(a) is not View or type(b) is not View or a.op is not b.op or a.attrs != b.attrs or b.stale():
            return False
        target, value = a.parent, b.parent


def _records(root, value) -> bool:
    """Whether a write has to be recorded; an error where it cannot be."""
    record = root._record
    if record is not None and record.closed:
        raise record.leaked(root)
    if not state.records:
        return record is not None or value._record is not None
    here = state.records[-1]
    if type(root._alias) is Root and root._alias.home is here:
        return True
    if record is None:
        raise _not_ours(here, "made outside of it")
    if record is not here:
        raise _not_ours(here, f"that belongs to {record.name}")
    value = here.value(root)
    if not here.makes(value) and not any([value is p for p in here.params]):
        raise _not_ours(here, "that it closes over")
    if not here.makes(value):
        warnings.warn(
            f"{here.name} writes into its argument {value.name or ''}: it works on a copy, the caller's array stays as "
            "it is. Return the array; start with `x = x.copy()` to say so.",
            TapejitWarning,
            stacklevel=_outside(),
        )
    return True


def _not_ours(record, what):
    return located(
        MutationError,
        f"{record.name} writes into an array {what}: that would happen now and not at later calls",
        "pass it as an argument, work on a copy (a = a.copy()), and return it",
    )


def _outside() -> int:
    """The stack level of the user's line, for warnings."""
    import sys

    from .errors import is_internal

    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and is_internal(frame.f_code):
        level, frame = level + 1, frame.f_back
    return level


def _write(path, value) -> None:
    """Bind the root to its value after the write, undoing the views one by one."""
    root, target = path[0], path[-1]
    parents = [root]
    for view in path[1:-1]:
        if view._alias.stale():
            refresh(view)
        parents.append(view)
    for parent, view in zip(reversed(parents), reversed(path[1:])):
        alias = view._alias
        value = _UNDONE[alias.op.name](parent, value, alias.attrs)
    if len(path) == 1:
        value = own(value, (value,))
    rebind(root, value)
    if type(root._alias) is not Root:
        root._alias = Root()
    root._alias.writes += 1
    root._alias.home = state.records[-1] if state.records else None
    if target is not root:
        refresh(target)


def _unflipped(parent, value, attrs):
    return apply1("flip", value, axes=attrs["axes"])


def _untransposed(parent, value, attrs):
    return apply1("transpose", value, perm=tuple(np.argsort(attrs["perm"]).tolist()))


_UNDONE = {
    "slice": lambda parent, value, attrs: apply1("update", parent, value, **attrs),
    "reshape": lambda parent, value, attrs: apply1("reshape", value, shape=parent.shape),
    "transpose": _untransposed,
    "flip": _unflipped,
}


def _forget(record, root) -> None:
    """Have a tape's record read anew what lies in this memory; it has kept what it read so far."""
    for key, (x, _) in list(record.captures.items()):
        if isinstance(x, Array) and x._record is None and np.may_share_memory(x._data, root._data):
            del record.captures[key]


@handles(np.copyto)
def copyto(dst, src, casting="same_kind", where=True) -> None:
    """As `numpy.copyto`, into an Array."""
    if not isinstance(dst, Array):
        raise located(
            MutationError,
            "np.copyto would write a recorded value into an ndarray",
            "make it with tapejit.numpy, or np.zeros_like(x)",
        )
    src = operand_array(src)
    if not np.can_cast(src.dtype, dst.dtype, casting):
        raise TypeError(f"Cannot cast array data from {src.dtype!r} to {dst.dtype!r} according to the rule '{casting}'")
    if where is not True:
        src = HANDLERS[np.where](where, fitted(src, dst), dst)
    assign(dst, src)
