"""Handlers for scipy.special: `special.erf(x)` of an Array is recorded like a NumPy ufunc.

scipy is never imported here. When a ufunc that is not NumPy's meets an Array, scipy.special has been imported by whoever
holds the ufunc: `resolve` looks it up there by name. `special` is the same as a namespace of ours; it also has logsumexp,
softmax, log_softmax and polygamma, which in scipy are plain functions that do not dispatch.
"""

from __future__ import annotations

import math
import operator
import sys
import types

import numpy as np

from tapejit.ir.ops.transcendental import HIGHEST_ORDER

from .array import HANDLERS
from .errors import ArgumentError, located
from .numpy.common import all_axes, firm, refuse, reshaped
from .numpy.reductions import max as _max
from .numpy.reductions import sum as _sum
from .promote import F64, apply1, call, cast, common_dtype, operand, operand_array, select


def _floats(*xs):
    """Operands in one float dtype; integers as float64."""
    dtype = common_dtype(*[operand(x) for x in xs])
    dtype = dtype if dtype.kind == "f" else F64
    return [cast(operand_array(x), dtype) for x in xs]


def expit(x):
    """As `scipy.special.expit`: 1 / (1 + exp(-x))."""
    return call("logistic", *_floats(x))


def log_expit(x):
    """As `scipy.special.log_expit`."""
    (x,) = _floats(x)
    return call("neg", call("softplus", call("neg", x)))


def logit(x):
    """As `scipy.special.logit`."""
    (x,) = _floats(x)
    return call("sub", call("log", x), call("log1p", call("neg", x)))


def erf(x):
    """As `scipy.special.erf`."""
    return call("erf", *_floats(x))


def erfc(x):
    """As `scipy.special.erfc`."""
    return call("erfc", *_floats(x))


def gammaln(x):
    """As `scipy.special.gammaln`: the logarithm of |gamma(x)|."""
    return call("lgamma", *_floats(x))


def digamma(x):
    """As `scipy.special.digamma` or `psi`: the derivative of gammaln."""
    return call("digamma", *_floats(x))


def polygamma(n, x):
    """As `scipy.special.polygamma`, for one n: the derivative of digamma of that order."""
    if (n := operator.index(n)) == 0:
        return digamma(x)
    if not 0 < n <= HIGHEST_ORDER:
        raise located(ArgumentError, f"polygamma({n}, x): the order is not one of 0, 1, ..., {HIGHEST_ORDER}")
    return apply1("polygamma", firm(_floats(x)[0]), n=n)


def ndtr(x):
    """As `scipy.special.ndtr`: the normal distribution function."""
    (x,) = _floats(x)
    return call("mul", call("erfc", call("mul", x, -math.sqrt(0.5))), 0.5)


def _times_log(x, y, log, one):
    """x * log(y), and 0 where x is 0, unless y is NaN; where log(y) is finite the derivative is exact there too."""
    x, y = _floats(x, y)
    zero = x.dtype.type(0)
    no_limit = call("or_", call("le", y, one - 1.0), call("isinf", y))
    apart = call("and_", call("eq", x, zero), no_limit)
    return select(apart, zero, call("mul", x, call(log, select(apart, x.dtype.type(one), y))))


def xlogy(x, y):
    """As `scipy.special.xlogy`."""
    return _times_log(x, y, "log", 1.0)


def xlog1py(x, y):
    """As `scipy.special.xlog1py`."""
    return _times_log(x, y, "log1p", 0.0)


def entr(x):
    """As `scipy.special.entr`: -x log x, 0 at 0."""
    (x,) = _floats(x)
    positive = call("gt", x, 0.0)
    value = call("neg", call("mul", x, call("log", select(positive, x, x.dtype.type(1)))))
    below = select(call("lt", x, 0.0), x.dtype.type(-np.inf), x)
    return select(positive, value, below)


def rel_entr(x, y):
    """As `scipy.special.rel_entr`: x log(x / y)."""
    x, y = _floats(x, y)
    inside = call("and_", call("gt", x, 0.0), call("gt", y, 0.0))
    one, zero = x.dtype.type(1), x.dtype.type(0)
    px, py = select(inside, x, one), select(inside, y, one)
    value = call("mul", px, call("log", call("div", px, py)))
    border = call("and_", call("eq", x, 0.0), call("ge", y, 0.0))
    unordered = call("or_", call("isnan", x), call("isnan", y))
    outside = select(border, zero, select(unordered, x.dtype.type(np.nan), x.dtype.type(np.inf)))
    return select(inside, value, outside)


def exp10(x):
    """As `scipy.special.exp10`."""
    (x,) = _floats(x)
    return call("pow", x.dtype.type(10), x)


def _same(name):
    def function(x):
        return call(name, *_floats(x))

    function.__name__, function.__doc__ = name, f"As `scipy.special.{name}`."
    return function


exp2, expm1, log1p, cbrt = _same("exp2"), _same("expm1"), _same("log1p"), _same("cbrt")


def _shift(x, axes):
    """The largest element, or 0 if it is infinite. A constant to the derivative: no result depends on the shift."""
    top = apply1("stop_gradient", _max(x, axes, keepdims=True))
    return select(call("isfinite", top), top, x.dtype.type(0))


def logsumexp(a, axis=None, b=None, keepdims=False, return_sign=False):
    """As `scipy.special.logsumexp`, without `return_sign`: log(sum(b * exp(a))), shifted by the largest element."""
    if return_sign:
        refuse("logsumexp", None, {"return_sign": return_sign})
    x = firm(_floats(a)[0])
    axes = all_axes(axis, x.ndim)
    top = _shift(x, axes)
    terms = call("exp", call("sub", x, top))
    if b is not None:
        terms = call("mul", operand(b), terms)
    total = call("log", _sum(terms, axes, keepdims=True))
    out = call("add", total, top)
    return out if keepdims else reshaped(out, tuple([n for i, n in enumerate(x.shape) if i not in axes]))


def log_softmax(x, axis=None):
    """As `scipy.special.log_softmax`."""
    x = firm(_floats(x)[0])
    axes = all_axes(axis, x.ndim)
    shifted = call("sub", x, _shift(x, axes))
    return call("sub", shifted, call("log", _sum(call("exp", shifted), axes, keepdims=True)))


def softmax(x, axis=None):
    """As `scipy.special.softmax`."""
    x = firm(_floats(x)[0])
    axes = all_axes(axis, x.ndim)
    terms = call("exp", call("sub", x, _shift(x, axes)))
    return call("div", terms, _sum(terms, axes, keepdims=True))


_UFUNCS = (
    cbrt, digamma, entr, erf, erfc, exp10, exp2, expit, expm1, gammaln, log1p, log_expit, logit, ndtr, rel_entr, xlog1py,
    xlogy,
)  # fmt: skip
special = types.SimpleNamespace(
    **{f.__name__: f for f in (*_UFUNCS, log_softmax, logsumexp, polygamma, softmax)},
    psi=digamma,
)


def _handler(function):
    def ufunc(*xs, out=None, **kwargs):
        refuse(f"scipy.special.{function.__name__}", out, kwargs)
        return firm(function(*xs))

    return ufunc


def resolve(ufunc):
    """Our handler of a ufunc of scipy.special, or None; it is entered in HANDLERS for the next time."""
    module = sys.modules.get("scipy.special")
    for function in _UFUNCS:
        if module is not None and getattr(module, function.__name__, None) is ufunc:
            return HANDLERS.setdefault(ufunc, _handler(function))
    return None
