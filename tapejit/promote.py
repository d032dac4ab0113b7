"""From what a user passes to what an operation takes: NumPy 2's promotion (NEP 50), then `record.apply`.

`operand(x)` accepts Arrays, ndarrays, NumPy and Python scalars, and lists of them. `call(name, *xs)` promotes the
operands of an elementwise operation to one dtype (Python scalars are weak: they take the other's), inserts the
casts and applies. `cast(x, dtype)` and `apply1(name, *xs, **attrs)` are what the rest of the namespace is written in.
"""

from __future__ import annotations

import numpy as np

from tapejit.ir.op import TABLE
from tapejit.ir.types import NAMES

from .array import HANDLERS, Array, is_a, make
from .errors import ArgumentTypeError, DTypeError, ShapeError, located
from .record import apply, check_dtype, state
from .selection import Selection, lifted

F64, I64, BOOL = np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_)
CONVERT = TABLE["convert"]


def operand(x):
    """An Array, ndarray or NumPy scalar of a supported dtype, or a Python scalar as it is (weak)."""
    if isinstance(x, Array):
        return x.read() if type(x) is not Array else x
    if is_a(x, (bool, int, float)) and not is_a(x, np.generic):
        return x
    if is_a(x, (np.ndarray, np.generic)):
        if x.dtype not in NAMES:
            check_dtype(x)
        return x
    if isinstance(x, (list, tuple)):
        if contains_array(x):
            return HANDLERS[np.stack]([operand_array(item) for item in x])
        return operand(np.asarray(x))
    if isinstance(x, complex):
        raise located(DTypeError, f"complex number {x!r}", "complex numbers are not supported yet")
    if hasattr(x, "__array__"):
        return operand(np.asarray(x))
    raise located(
        ArgumentTypeError, f"{type(x).__name__} {x!r:.60} is no operand of a numerical operation", "pass numbers or arrays"
    )


def contains_array(x) -> bool:
    return any([isinstance(i, Array) or (isinstance(i, (list, tuple)) and contains_array(i)) for i in x])


def operand_array(x):
    """As `operand`, with Python scalars made NumPy scalars of their own dtype."""
    x = operand(x)
    return strong(x) if is_a(x, (bool, int, float)) and not is_a(x, np.generic) else x


def strong(x):
    """A Python scalar as the NumPy scalar of its default dtype."""
    if is_a(x, bool):
        return np.bool_(x)
    return np.int64(x) if is_a(x, int) else np.float64(x)


def is_weak(x) -> bool:
    return x._weak if isinstance(x, Array) else is_a(x, (bool, int, float)) and not is_a(x, np.generic)


_common: dict = {}
_SAMPLES = {"f": 0.0, "i": 0, "b": False}


def _promotion_key(x):
    """What decides promotion: a dtype, or for a weak operand the kind of its Python scalar."""
    if isinstance(x, Array):
        return x.dtype.kind if x._weak else x.dtype
    if is_a(x, (np.ndarray, np.generic)):
        return x.dtype
    return "b" if is_a(x, bool) else "i" if is_a(x, int) else "f"


def common_dtype(*xs) -> np.dtype:
    """The NumPy 2 promotion of operands; of Python scalars only, their default dtype."""
    key = tuple([_promotion_key(x) for x in xs])
    found = _common.get(key)
    if found is None:
        if all(isinstance(k, str) for k in key):
            found = np.result_type(*[strong(_SAMPLES[k]) for k in key])
        else:
            found = np.result_type(*[_SAMPLES[k] if isinstance(k, str) else k for k in key])
        if found not in NAMES:
            raise located(
                DTypeError,
                f"NumPy promotes {', '.join(map(str, key))} to {found}, which cannot be recorded",
                "cast one operand with .astype(np.float64) first",
            )
        _common[key] = found
    return found


def cast(x, dtype):
    """`x` in another dtype. Python scalars must fit (OverflowError as in NumPy); NumPy scalars are converted at once."""
    if type(x) is Selection and x.dtype != dtype:
        found = lifted(lambda full: cast(full, dtype), (x,))
        if found is not None:
            return found
    if isinstance(x, Array):
        if x.dtype == dtype:
            return x
        return apply(CONVERT, (x,), {"dtype": np.dtype(dtype)})[0]
    if is_a(x, np.ndarray):
        if x.dtype == dtype:
            return x
        # A closed-over array is read at each call, so its cast has to be part of the record.
        return apply(CONVERT, (wrap(x),), {"dtype": np.dtype(dtype)})[0]
    return np.dtype(dtype).type(x)


def loop_dtype(op, dtype) -> np.dtype:
    """The dtype in which NumPy computes an operation for operands of `dtype` (sin of integers is float64)."""
    if dtype.kind in op.dtypes:
        return dtype
    if op.dtypes == "f" and dtype.kind == "i":
        return F64
    if dtype.kind == "b" and "i" in op.dtypes:
        instead = "use np.logical_xor / ~ on bools, or .astype(int) first"
    elif dtype.kind == "b":
        instead = ".astype(np.float64) first (NumPy would give float16)"
    else:
        instead = "pass integers or bools"
    raise located(DTypeError, f"{op.name} is not defined for {dtype}", instead)


ON_PYTHON_BOOLS = {"add", "sub", "mul", "floor_divide", "remainder", "pow", "neg"}  # are ints: True + True is 2
ON_BOOLS = {"add": "or_", "mul": "and_", "maximum": "or_", "minimum": "and_"}  # what NumPy does on bools
_plans: dict = {}  # (operation, what decides each operand's promotion) -> (op, scalar type per operand or None, weak)


def call(name, *xs):
    """An elementwise operation of the table on whatever the user passed."""
    key = [name]
    for x in xs:
        cls = type(x)
        if cls is Array:
            key.append(x._data.dtype.kind if x._weak else x._data.dtype)
        elif cls is float or cls is int:
            key.append(cls)
        else:
            xs = [operand(x) for x in xs]
            if any([type(x) is Selection for x in xs]):
                found = lifted(lambda *ys: call(name, *ys), xs, TABLE[name])
                if found is not None:
                    return found
            xs = [_settled(x) for x in xs]
            op, casts, weak = _plan(name, xs)
            break
    else:
        key = tuple(key)
        plan = _plans.get(key)
        if plan is None:
            plan = _plans[key] = _plan(name, xs)
        op, casts, weak = plan
    if casts is not None:
        xs = [x if to is None else cast(x, to) if isinstance(x, Array) else to(x) for x, to in zip(xs, casts)]
    try:
        (out,) = apply(op, xs)
    except ValueError as error:
        raise _explained(error, op, xs) from None
    if weak and out._data.dtype.kind != "b":
        out._weak = True
    return out


def _settled(x):
    """An operand as an Array or a Python float or int, which is what plans are made for."""
    x = operand(x)
    return x if is_a(x, (Array, int, float)) and not is_a(x, (bool, np.generic)) else _held(x)


def _held(x):
    return make(np.bool_(x), weak=True) if is_a(x, bool) else wrap(x)


def _plan(name, xs):
    dtype, weak = common_dtype(*xs), all([is_weak(x) for x in xs])
    if weak and dtype == BOOL and name in ON_PYTHON_BOOLS:
        dtype = I64
    op = TABLE[ON_BOOLS.get(name, name) if dtype == BOOL else name]
    to = loop_dtype(op, dtype).type
    casts = tuple([None if isinstance(x, Array) and x._data.dtype.type is to else to for x in xs])
    return op, casts if any(casts) else None, weak


def _explained(error, op, xs):
    """The error of shapes that do not broadcast, with what to write; others as they are."""
    if "broadcast" not in str(error) or hasattr(error, "what"):
        return error
    shapes = " ".join([str(np.shape(x._data if isinstance(x, Array) else x)) for x in xs])
    return located(
        ShapeError,
        f"operands could not be broadcast together with shapes {shapes} (in {op.name})",
        "make trailing axes equal or 1: x[:, None], x.reshape(...), np.expand_dims",
    )


def select(condition, x, y):
    """np.where(condition, x, y)."""
    condition, x, y = operand(condition), operand(x), operand(y)
    if any([type(i) is Selection for i in (condition, x, y)]):
        found = lifted(select, (condition, x, y))
        if found is not None:
            return found
    dtype = common_dtype(x, y)
    xs = [truth(condition), cast(x, dtype), cast(y, dtype)]
    try:
        return apply(TABLE["select"], xs)[0]
    except ValueError as error:
        raise _explained(error, TABLE["select"], xs) from None


def truth(x):
    """A value as bool: x != 0 for numbers."""
    x = operand_array(x)
    return x if x.dtype == BOOL else call("ne", x, 0)


def any_of(flags) -> Array:
    """Whether any element of a bool Array is True, as a 0-d Array."""
    return apply1("reduce_or", flags, axes=tuple(range(flags.ndim)))


def any_true(flags) -> bool:
    """The same as a Python bool: a guard if they are recorded."""
    return bool(any_of(flags))


def apply1(name, *xs, **attrs) -> Array:
    """An operation of the table with one result, on operands that already have the dtypes it takes."""
    return apply(TABLE[name], xs, attrs)[0]


def asarray(x) -> Array:
    """Anything numerical as an Array: recorded ones as they are, plain ones eager (no copy)."""
    x = operand_array(x)
    return x if isinstance(x, Array) else wrap(x)


def wrap(x) -> Array:
    """An ndarray or NumPy scalar as an eager Array: sharing its data, but a snapshot while a tape records.

    A tape computes with the data again when it differentiates, and the ndarray may have been written to by then.
    """
    return make(np.array(x) if state.base is not None and is_a(x, np.ndarray) else x)
