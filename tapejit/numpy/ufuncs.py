"""Elementwise functions: NumPy's ufuncs, and the plain functions that are as elementwise (clip, where, round, ...).

Most are one operation of the table, so they are made from rows `(our operation, NumPy functions)`. As in NumPy, `out=`
is an Array to write to (mutation.py), `dtype=` selects the type that is computed in; `where=` other than True is
refused: `np.where` says the same without undefined elements.

A result is weak (takes the other operand's dtype later on, as a Python scalar does) only if it comes from an operator
on weak operands; every other function gives NumPy scalars' strong dtypes, as in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from ..array import DIRECT, Array, handles, is_a, make, since
from ..errors import DTypeError, IntegerPowerError, located
from ..mutation import own
from ..promote import (
    BOOL,
    F64,
    any_of,
    asarray,
    call,
    cast,
    common_dtype,
    is_weak,
    operand,
    operand_array,
    select,
    truth,
)
from .common import UNSET, firm, refuse, reshaped
from .masks import nonzero


def in_dtype(name, dtype, xs):
    """Operands cast for `dtype=`; as in NumPy a cast between kinds (float to int) is a TypeError."""
    dtype = np.dtype(dtype)
    for x in xs:
        given = operand(x)
        kind = np.asarray(given).dtype if not isinstance(given, Array) else given.dtype
        if not np.can_cast(kind, dtype, "same_kind"):
            raise located(
                DTypeError, f"{name} cannot cast operand from {kind} to {dtype} with rule 'same_kind'", "x.astype(dtype)"
            )
    return [cast(x if isinstance(x, Array) else operand_array(x), dtype) for x in xs]


def _public(name, compute, arity, functions):
    """The public function around `compute`, which takes exactly the operands."""
    if arity == 1:

        def ufunc(x, /, out=None, *, dtype=None, **kwargs):
            if out is not None or kwargs:
                refuse(name, out, kwargs)
            if dtype is not None:
                (x,) = in_dtype(name, dtype, (x,))
            return compute(x)

    else:

        def ufunc(x1, x2, /, out=None, *, dtype=None, **kwargs):
            if out is not None or kwargs:
                refuse(name, out, kwargs)
            if dtype is not None:
                x1, x2 = in_dtype(name, dtype, (x1, x2))
            return compute(x1, x2)

    ufunc.__name__ = ufunc.__qualname__ = name
    ufunc.__doc__ = compute.__doc__ or f"As `numpy.{name}`."
    if arity == 2:
        handles(*[(f, "outer") for f in functions])(_outer(ufunc))
    DIRECT.update(dict.fromkeys(functions, compute))
    return handles(*functions)(ufunc)


def _outer(ufunc):
    def outer(x1, x2, /, out=None, **kwargs):
        x, y = firm(x1), firm(x2)
        return ufunc(reshaped(x, x.shape + (1,) * y.ndim), y, out=out, **kwargs)

    return outer


def ufunc(*functions):
    """Decorator: a function of one or two operands becomes public, with NumPy's ufunc arguments."""

    def wrap(compute):
        arity = compute.__code__.co_argcount
        return _public(compute.__name__.rstrip("_"), compute, arity, functions)

    return wrap


def _direct(op, arity, *functions, weak=False):
    """One operation of the table; `weak`: an operator, whose result on Python scalars stays weak."""
    if weak and arity == 1:

        def compute(x):
            return call(op, x)

    elif weak:

        def compute(x, y):
            return call(op, x, y)

    elif arity == 1:

        def compute(x):
            out = call(op, x)
            out._weak = False
            return out

    else:

        def compute(x, y):
            out = call(op, x, y)
            out._weak = False
            return out

    return _public(functions[0].__name__, compute, arity, functions)


def dtype_of(x):
    """The dtype of an operand; a Python scalar's is its default one."""
    return operand_array(x).dtype


# ---- arithmetic ----------------------------------------------------------------------------------------------------
add = _direct("add", 2, np.add, weak=True)
multiply = _direct("mul", 2, np.multiply, weak=True)
subtract = _direct("sub", 2, np.subtract, weak=True)
floor_divide = _direct("floor_divide", 2, np.floor_divide, weak=True)
remainder = mod = _direct("remainder", 2, np.remainder, weak=True)
fmod = _direct("fmod", 2, np.fmod)
negative = _direct("neg", 1, np.negative, weak=True)
sign = _direct("sign", 1, np.sign)
sqrt = _direct("sqrt", 1, np.sqrt)


def _no_bools(name, x):
    """Refuse bools where NumPy would compute in int8 or float16."""
    if x.dtype == BOOL:
        raise located(DTypeError, f"{name} is not defined for bool", ".astype(np.float64) first")
    return x


def _floating(x, name="this function"):
    """Integers as float64, where NumPy has float loops only."""
    x = _no_bools(name, operand_array(x))
    return cast(x, F64) if x.dtype.kind == "i" else x


@ufunc(np.fabs)
def fabs(x):
    """As `numpy.fabs`."""
    return firm(call("abs", _floating(x, "fabs")))


@ufunc(np.true_divide)
def divide(x, y):
    """As `numpy.divide`."""
    x, y = operand(x), operand(y)
    if common_dtype(x, y) == BOOL:
        x, y = cast(operand_array(x), F64), cast(operand_array(y), F64)
    return call("div", x, y)


true_divide = divide


@ufunc(np.positive)
def positive(x):
    """As `numpy.positive`."""
    return own(_no_bools("positive", asarray(x) if not isinstance(x, Array) else operand(x)), (x,))


@ufunc(np.absolute)
def absolute(x):
    """As `numpy.absolute`; the derivative at 0 is 0."""
    x = operand(x)
    return own(asarray(x), (x,)) if dtype_of(x) == BOOL else call("abs", x)


abs = absolute


@ufunc(np.power)
def power(x, y):
    """As `numpy.power`; that an integer exponent is not negative becomes a guard of the record."""
    if type(x) is Array and x._data.dtype.kind == "f":
        return call("pow", x, y)
    x, y = operand(x), operand(y)
    if common_dtype(x, y).kind == "i" and dtype_of(y).kind == "i":
        negative_exponent = call("lt", y, 0)
        if negative_exponent.ndim:
            negative_exponent = any_of(negative_exponent)
        if negative_exponent:
            raise located(
                IntegerPowerError, "Integers to negative integer powers are not allowed.", "x ** -1.0, or float(x) ** n"
            )
    return call("pow", x, y)


pow = power


@ufunc(np.float_power)
def float_power(x, y):
    """As `numpy.float_power`."""
    return firm(call("pow", cast(operand_array(x), F64), cast(operand_array(y), F64)))


@ufunc(np.square)
def square(x):
    """As `numpy.square`."""
    x = _no_bools("square", operand_array(x))
    return call("mul", x, x)


@ufunc(np.reciprocal)
def reciprocal(x):
    """As `numpy.reciprocal`; of integers 1 / x towards zero, and 0 at 0."""
    x = firm(x)
    if x.dtype.kind == "f":
        return call("div", 1.0, x)
    return select(call("gt", call("abs", x), 1), cast(0, x.dtype), call("floor_divide", 1, x))


# ---- transcendental ------------------------------------------------------------------------------------------------
exp, exp2, expm1 = _direct("exp", 1, np.exp), _direct("exp2", 1, np.exp2), _direct("expm1", 1, np.expm1)
log, log2 = _direct("log", 1, np.log), _direct("log2", 1, np.log2)
log10, log1p = _direct("log10", 1, np.log10), _direct("log1p", 1, np.log1p)
logaddexp, logaddexp2 = _direct("logaddexp", 2, np.logaddexp), _direct("logaddexp2", 2, np.logaddexp2)
sin, cos, tan = _direct("sin", 1, np.sin), _direct("cos", 1, np.cos), _direct("tan", 1, np.tan)
sinh, cosh, tanh = _direct("sinh", 1, np.sinh), _direct("cosh", 1, np.cosh), _direct("tanh", 1, np.tanh)
arcsin = asin = _direct("asin", 1, np.arcsin)
arccos = acos = _direct("acos", 1, np.arccos)
arctan = atan = _direct("atan", 1, np.arctan)
arcsinh = asinh = _direct("asinh", 1, np.arcsinh)
arccosh = acosh = _direct("acosh", 1, np.arccosh)
arctanh = atanh = _direct("atanh", 1, np.arctanh)
arctan2 = atan2 = _direct("atan2", 2, np.arctan2)
hypot, cbrt = _direct("hypot", 2, np.hypot), _direct("cbrt", 1, np.cbrt)


def _scaled(factor, name, *functions):
    def compute(x):
        x = _floating(x)
        return firm(call("mul", x, x.dtype.type(factor)))

    return _public(name, compute, 1, functions)


degrees = _scaled(180 / math.pi, "degrees", np.degrees)
rad2deg = _scaled(180 / math.pi, "rad2deg", np.rad2deg)
radians = _scaled(math.pi / 180, "radians", np.radians)
deg2rad = _scaled(math.pi / 180, "deg2rad", np.deg2rad)


@handles(np.sinc)
def sinc(x):
    """As `numpy.sinc`; the derivatives at 0 are exact too."""
    x = operand_array(x)
    y = firm(call("mul", x, math.pi))
    square = call("mul", y, y)
    # Near 0, sin(y)/y is its series: the quotient's derivatives cancel there.
    terms = (-1 / 6, 1 / 120, -1 / 5040)
    series = call("mul", square, terms[2])
    for term in (terms[1], terms[0]):
        series = call("mul", square, call("add", series, term))
    small = call("lt", call("abs", y), 0.01)
    apart = select(small, y.dtype.type(1), y)
    return select(small, call("add", series, 1.0), call("div", call("sin", apart), apart))


# ---- rounding, parts -----------------------------------------------------------------------------------------------
def _rounding(op, *functions):
    def compute(x):
        x = operand_array(x)
        return own(asarray(x), (x,)) if x.dtype.kind != "f" else firm(call(op, x))  # of integers the identity, as in NumPy

    return _public(functions[0].__name__, compute, 1, functions)


floor, ceil, trunc = _rounding("floor", np.floor), _rounding("ceil", np.ceil), _rounding("trunc", np.trunc)
rint = _direct("rint", 1, np.rint)


@handles(since("fix"))
def fix(x, out=None):
    """As `numpy.fix`."""
    return trunc(x, out=out)


@handles(np.round, np.around)
def round(a, decimals=0, out=None):
    """As `numpy.round`; the derivative is zero."""
    refuse("np.round", out, {})
    x = firm(a)
    if x.dtype.kind == "i" and decimals >= 0:
        return x
    if decimals == 0:
        return call("rint", x)
    factor = 10.0 ** builtin_abs(decimals)
    if decimals > 0:
        return call("div", call("rint", call("mul", x, factor)), factor)
    return cast(call("mul", call("rint", call("div", x, factor)), factor), x.dtype)


around = round


def builtin_abs(number):
    return number if number >= 0 else -number


@ufunc(np.modf)
def modf(x):
    """As `numpy.modf`."""
    x = firm(_floating(x))
    whole = call("trunc", x)
    part = select(call("isinf", x), x.dtype.type(0), call("sub", x, whole))
    return call("copysign", part, x), whole


@ufunc(np.divmod)
def divmod(x, y):
    """As `numpy.divmod`."""
    return call("floor_divide", x, y), call("remainder", x, y)


@ufunc(np.conjugate)
def conjugate(x):
    """As `numpy.conjugate`: numbers here are real."""
    return _no_bools("conjugate", firm(x))


conj = conjugate


@handles(np.real)
def real(val):
    """As `numpy.real`: numbers here are real."""
    return firm(val)


@handles(np.imag)
def imag(val):
    """As `numpy.imag`: zeros."""
    return make(np.zeros_like(asarray(val)._data))


@handles(np.iscomplexobj)
def iscomplexobj(x):
    """As `numpy.iscomplexobj`."""
    return False


@handles(np.isrealobj)
def isrealobj(x):
    """As `numpy.isrealobj`."""
    return True


# ---- extremes ------------------------------------------------------------------------------------------------------
maximum, minimum = _direct("maximum", 2, np.maximum), _direct("minimum", 2, np.minimum)


def _ignoring_nan(extreme, function):
    def compute(x, y):
        x, y = operand(x), operand(y)
        out = extreme(x, y)
        if out.dtype.kind != "f":
            return out
        x, y = cast(operand_array(x), out.dtype), cast(operand_array(y), out.dtype)
        return select(call("isnan", x), y, select(call("isnan", y), x, out))

    return _public(function.__name__, compute, 2, (function,))


fmax, fmin = _ignoring_nan(maximum, np.fmax), _ignoring_nan(minimum, np.fmin)


@handles(np.clip)
def clip(a, a_min=UNSET, a_max=UNSET, out=None, *, min=UNSET, max=UNSET, dtype=None, **kwargs):
    """As `numpy.clip`; on a bound the derivative is one half."""
    refuse("np.clip", out, kwargs)
    if a_min is UNSET and a_max is UNSET:
        a_min, a_max = None if min is UNSET else min, None if max is UNSET else max
    elif a_min is UNSET:
        raise TypeError("clip() missing 1 required positional argument: 'a_min'")
    elif a_max is UNSET:
        raise TypeError("clip() missing 1 required positional argument: 'a_max'")
    elif min is not UNSET or max is not UNSET:
        raise ValueError("Passing `min` or `max` keyword argument when `a_min` and `a_max` are provided is forbidden.")
    x = asarray(a)
    if dtype is not None:
        (x,) = in_dtype("np.clip", dtype, (x,))
    if a_min is not None and a_max is not None:
        both = common_dtype(*[operand(v) for v in (x, a_min, a_max)])
        x = cast(x, both)
    if a_min is not None:
        x = maximum(x, a_min)
    if a_max is not None:
        x = minimum(x, a_max)
    return firm(x)


# ---- comparisons, logic, bits --------------------------------------------------------------------------------------
def _truth_of(op, x, y):
    """The bool of an operator, which is Python's (weak) if both operands are Python scalars."""
    out = call(op, x, y)
    out._weak = is_weak(x) and is_weak(y)
    return out


def _comparison(op, beyond, function):
    """`beyond(sign)`: the result against a Python integer too large for the other operand's type."""

    def compute(x, y):
        try:
            return _truth_of(op, x, y)
        except OverflowError:
            number, array = (x, y) if is_a(x, int) else (y, x)
            above = (number > 0) == (number is y)
            return make(np.broadcast_to(np.bool_(beyond(above)), asarray(array).shape))

    return _public(function.__name__, compute, 2, (function,))


less = _comparison("lt", lambda above: above, np.less)
less_equal = _comparison("le", lambda above: above, np.less_equal)
greater = _comparison("gt", lambda above: not above, np.greater)
greater_equal = _comparison("ge", lambda above: not above, np.greater_equal)
equal = _comparison("eq", lambda above: False, np.equal)
not_equal = _comparison("ne", lambda above: True, np.not_equal)


@ufunc(np.logical_and)
def logical_and(x, y):
    """As `numpy.logical_and`."""
    return call("and_", truth(x), truth(y))


@ufunc(np.logical_or)
def logical_or(x, y):
    """As `numpy.logical_or`."""
    return call("or_", truth(x), truth(y))


@ufunc(np.logical_xor)
def logical_xor(x, y):
    """As `numpy.logical_xor`."""
    return call("xor", truth(x), truth(y))


@ufunc(np.logical_not)
def logical_not(x):
    """As `numpy.logical_not`."""
    return call("not_", truth(x))


bitwise_and = _public("bitwise_and", lambda x, y: _truth_of("and_", x, y), 2, (np.bitwise_and,))
bitwise_or = _public("bitwise_or", lambda x, y: _truth_of("or_", x, y), 2, (np.bitwise_or,))
bitwise_xor = _public("bitwise_xor", lambda x, y: _truth_of("xor", x, y), 2, (np.bitwise_xor,))
invert = bitwise_not = bitwise_invert = _direct("not_", 1, np.invert)
left_shift = bitwise_left_shift = _direct("shift_left", 2, np.left_shift)
right_shift = bitwise_right_shift = _direct("shift_right", 2, np.right_shift)


def _classify(op, function, otherwise):
    """isnan and its like; `otherwise(x)` answers for integers and bools."""

    def compute(x):
        x = operand_array(x)
        return call(op, x) if x.dtype.kind == "f" else otherwise(asarray(x))

    return _public(function.__name__, compute, 1, (function,))


isnan = _classify("isnan", np.isnan, lambda x: make(np.zeros(x.shape, bool)))
isinf = _classify("isinf", np.isinf, lambda x: make(np.zeros(x.shape, bool)))
isfinite = _classify("isfinite", np.isfinite, lambda x: make(np.ones(x.shape, bool)))
signbit = _classify("signbit", np.signbit, lambda x: call("lt", x, 0))
copysign = _direct("copysign", 2, np.copysign)


@ufunc(np.heaviside)
def heaviside(x, y):
    """As `numpy.heaviside`; the derivative with respect to x is zero."""
    dtype = common_dtype(operand(x), operand(y))
    if dtype.kind != "f":
        _no_bools("heaviside", make(np.zeros((), dtype)))
        dtype = F64
    x, y = cast(operand_array(x), dtype), cast(operand_array(y), dtype)
    one, zero = dtype.type(1), dtype.type(0)
    unordered = select(call("isnan", x), x, y)
    return select(call("lt", x, zero), zero, select(call("gt", x, zero), one, unordered))


# ---- selection, tests ----------------------------------------------------------------------------------------------
@handles(np.where)
def where(condition, x=UNSET, y=UNSET, /):
    """As `numpy.where`; the branch not taken never sends NaN into the derivative."""
    if x is UNSET and y is UNSET:
        return nonzero(condition)
    if x is UNSET or y is UNSET:
        raise ValueError("either both or neither of x and y should be given")
    return select(condition, x, y)


@handles(np.nan_to_num)
def nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    """As `numpy.nan_to_num`; replaced elements have derivative zero."""
    x = firm(x)
    if x.dtype.kind != "f":
        return x
    info = np.finfo(x.dtype)
    high = info.max if posinf is None else posinf
    low = info.min if neginf is None else neginf
    out = select(call("isnan", x), cast(nan, x.dtype), x)
    out = select(call("eq", x, np.inf), cast(high, x.dtype), out)
    return select(call("eq", x, -np.inf), cast(low, x.dtype), out)


@handles(np.isclose)
def isclose(a, b, rtol=1.0e-5, atol=1.0e-8, equal_nan=False):
    """As `numpy.isclose`."""
    x, y = operand_array(a), operand_array(b)
    y = cast(y, F64) if y.dtype.kind != "f" else y
    bound = call("add", call("mul", call("abs", y), rtol), atol)
    x = cast(x, F64) if x.dtype.kind != "f" else x
    near = call("and_", call("le", call("abs", call("sub", x, y)), bound), call("isfinite", y))
    near = call("or_", near, call("eq", x, y))
    if equal_nan:
        near = call("or_", near, call("and_", call("isnan", x), call("isnan", y)))
    return near


@handles(np.allclose)
def allclose(a, b, rtol=1.0e-5, atol=1.0e-8, equal_nan=False):
    """As `numpy.allclose`: a Python bool, so a guard while something records."""
    return _all(isclose(a, b, rtol, atol, equal_nan))


def _all(flags):
    return bool(logical_not(any_of(logical_not(flags))))


@handles(np.array_equal)
def array_equal(a1, a2, equal_nan=False):
    """As `numpy.array_equal`: a Python bool, so a guard while something records."""
    x, y = asarray(a1), asarray(a2)
    if x.shape != y.shape:
        return False
    same = equal(x, y)
    if equal_nan:
        same = call("or_", same, call("and_", isnan(x), isnan(y)))
    return _all(same)


@handles(np.array_equiv)
def array_equiv(a1, a2):
    """As `numpy.array_equiv`: a Python bool, so a guard while something records."""
    x, y = asarray(a1), asarray(a2)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return _all(equal(x, y))


__all__ = [
    "abs", "absolute", "acos", "acosh", "add", "allclose", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
    "arctan2", "arctanh", "around", "array_equal", "array_equiv", "asin", "asinh", "atan", "atan2", "atanh",
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "cbrt", "ceil", "clip", "conj", "conjugate", "copysign", "cos", "cosh", "deg2rad", "degrees",
    "divide", "divmod", "equal", "exp", "exp2", "expm1", "fabs", "fix", "float_power", "floor", "floor_divide",
    "fmax", "fmin", "fmod", "greater", "greater_equal", "heaviside", "hypot", "imag", "invert", "isclose",
    "iscomplexobj", "isfinite", "isinf", "isnan", "isrealobj", "left_shift", "less", "less_equal", "log", "log10",
    "log1p", "log2", "logaddexp", "logaddexp2", "logical_and", "logical_not", "logical_or", "logical_xor", "maximum",
    "minimum", "mod", "modf", "multiply", "nan_to_num", "negative", "not_equal", "positive", "pow", "power",
    "rad2deg", "radians", "real", "reciprocal", "remainder", "right_shift", "rint", "round", "sign", "signbit", "sin",
    "sinc", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "true_divide", "trunc", "where",
]  # fmt: skip
