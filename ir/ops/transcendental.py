"""Elementwise transcendental functions: exponentials, logarithms, trigonometric, hyperbolic, error and gamma functions.

Each record: NumPy function, partial derivative(s), emission through `e.math` (the vector math of code generation).
Partials reuse the value wherever mathematics allows, so that a gradient costs no second transcendental call.
The functions that NumPy lacks are evaluated by scipy.special, imported when first evaluated; `properties` names the
SciPy function that such a record implements, as "scipy:erf".

lgamma -> digamma -> polygamma(1) -> polygamma(2) ...: polygamma is one record for all orders. It has no vector math of its
own: it is emitted as the sum that its docstring states, plain arithmetic but for the two sines that negative arguments need.
"""

from __future__ import annotations

import math

import numpy as np

from ..op import Partials, Rule
from ..types import F64
from .elementwise import elementwise, is_number, made_by, stretched

LN2, LN10 = math.log(2.0), math.log(10.0)


def unary(name, function, partial, *, singular=False, unbounded=False, **payload):
    payload.setdefault("cost", 15)
    payload.setdefault("emit", lambda e, x: e.math(name, x))
    payload.setdefault("numpy", (function,))
    return elementwise(name, function, Partials(partial, singular=singular, unbounded=unbounded), **payload)


def special(name, scipy_name, partial, **payload):
    """A function of scipy.special; the import costs 150 ms, so it waits for the first evaluation."""

    def function(x):
        import scipy.special

        return getattr(scipy.special, scipy_name)(x)

    return unary(name, function, partial, numpy=(), properties=frozenset([f"scipy:{scipy_name}"]), **payload)


def _even(name):
    """f(-x) -> f(x)."""
    def apply(b, attrs, x):
        inner = made_by(x, "neg")
        return getattr(b, name)(inner[0]) if inner else None

    return (Rule(f"{name}(-x) -> {name}(x)", apply, heads=("neg",)),)


def _log_of_sum(b, attrs, x):
    """Without overflow above 709, and without inf/inf in the derivative; x below 1e-16 is not lost."""
    if sides := made_by(x, "add"):
        for one, other in (sides, sides[::-1]):
            if is_number(one, 1):
                other = stretched(b, other, one)
                power = made_by(other, "exp")
                return b.logaddexp(power[0], 0.0) if power else b.log1p(other)
    if (sides := made_by(x, "sub")) and is_number(sides[0], 1):
        return b.log1p(b.neg(stretched(b, sides[1], sides[0])))
    return None


LOG_RULES = (
    Rule(
        "log(1+exp(x)) -> logaddexp(x, 0), log(1+x) -> log1p(x)", _log_of_sum,
        exact=False, heads=("add", "sub"), stable=True,
    ),
)  # fmt: skip


# ---- exponentials and logarithms -----------------------------------------------------------------------------------
exp = unary("exp", np.exp, lambda b, out, x: out, unbounded=True)
exp2 = unary("exp2", np.exp2, lambda b, out, x: b.mul(out, LN2), unbounded=True)
expm1 = unary("expm1", np.expm1, lambda b, out, x: b.add(out, 1.0), unbounded=True)
log = unary("log", np.log, lambda b, out, x: b.div(1.0, x), singular=True, domain=((0.2, 4.0),), rules=LOG_RULES)
log2 = unary("log2", np.log2, lambda b, out, x: b.div(1.0 / LN2, x), singular=True, domain=((0.2, 4.0),))
log10 = unary("log10", np.log10, lambda b, out, x: b.div(1.0 / LN10, x), singular=True, domain=((0.2, 4.0),))
log1p = unary("log1p", np.log1p, lambda b, out, x: b.div(1.0, b.add(x, 1.0)), singular=True, domain=((-0.8, 3.0),))


def _logaddexp(name, function, power, unit, doubled):
    """log_b(b**x + b**y), where `unit` = ln b and `doubled` = log_b 2, `power` the name of b**x."""

    def weight(b, out, x, y):
        """The first operand's share b**x / (b**x + b**y); equal infinities share equally, as equal numbers do."""
        same = b.and_(b.eq(x, y), b.isinf(x))
        difference = b.select(same, 0.0, b.sub(x, y))
        return b.logistic(difference if unit == 1 else b.mul(difference, unit))

    def emit(e, x, y):
        tail = e.math("log1p", e.math(power, e.neg(e.abs(e.sub(x, y)))))
        apart = e.add(e.maximum(x, y), tail if unit == 1 else e.mul(tail, 1.0 / unit))
        return e.select(e.eq(x, y), e.add(x, doubled), apart)

    return elementwise(
        name, function, Partials(weight, lambda b, out, x, y: weight(b, out, y, x)), arity=2, emit=emit,
        numpy=(function,), commutative=True, cost=35,
    )  # fmt: skip


logaddexp = _logaddexp("logaddexp", np.logaddexp, "exp", 1, LN2)
logaddexp2 = _logaddexp("logaddexp2", np.logaddexp2, "exp2", LN2, 1.0)
softplus = elementwise(
    "softplus", lambda x: np.logaddexp(x, x.dtype.type(0)), Partials(lambda b, out, x: b.logistic(x)), cost=35,
    emit=lambda e, x: e.add(e.maximum(x, 0.0), e.math("log1p", e.math("exp", e.neg(e.abs(x))))),
    doc="log(1 + exp(x)).", properties=frozenset(["scipy:softplus"]),
)  # fmt: skip
logistic = special("logistic", "expit", lambda b, out, x: b.mul(out, b.sub(1.0, out)), doc="1 / (1 + exp(-x)).")


# ---- trigonometric ---------------------------------------------------------------------------------------------------
def _one_minus_square(b, x):
    """1 - x*x without the cancellation near 1."""
    return b.mul(b.sub(1.0, x), b.add(x, 1.0))


sin = unary("sin", np.sin, lambda b, out, x: b.cos(x))
cos = unary("cos", np.cos, lambda b, out, x: b.neg(b.sin(x)), rules=_even("cos"))
tan = unary(
    "tan", np.tan, lambda b, out, x: b.add(b.mul(out, out), 1.0), cost=20, domain=((-1.3, 1.3),), unbounded=True,
)  # fmt: skip
asin = unary(
    "asin", np.arcsin, lambda b, out, x: b.div(1.0, b.sqrt(_one_minus_square(b, x))), singular=True,
    domain=((-0.9, 0.9),),
)  # fmt: skip
acos = unary(
    "acos", np.arccos, lambda b, out, x: b.div(-1.0, b.sqrt(_one_minus_square(b, x))), singular=True,
    domain=((-0.9, 0.9),),
)  # fmt: skip
atan = unary("atan", np.arctan, lambda b, out, x: b.div(1.0, b.add(b.mul(x, x), 1.0)))


def _over_square(b, value, x, y):
    """value / (x*x + y*y), which neither overflows nor underflows on the way."""
    radius = b.hypot(x, y)
    return b.div(b.div(value, radius), radius)


atan2 = elementwise(
    "atan2", np.arctan2,
    Partials(
        lambda b, out, y, x: _over_square(b, x, x, y), lambda b, out, y, x: b.neg(_over_square(b, y, x, y)),
        singular=True,
    ),
    arity=2, emit=lambda e, y, x: e.math("atan2", y, x), numpy=(np.arctan2,), cost=30, domain=((0.3, 3.0), (-3.0, 3.0)),
)  # fmt: skip

# ---- hyperbolic --------------------------------------------------------------------------------------------------------
sinh = unary("sinh", np.sinh, lambda b, out, x: b.cosh(x), unbounded=True)
cosh = unary("cosh", np.cosh, lambda b, out, x: b.sinh(x), unbounded=True, rules=_even("cosh"))
tanh = unary("tanh", np.tanh, lambda b, out, x: b.sub(1.0, b.mul(out, out)))
asinh = unary("asinh", np.arcsinh, lambda b, out, x: b.div(1.0, b.sqrt(b.add(b.mul(x, x), 1.0))))
acosh = unary(
    "acosh", np.arccosh, lambda b, out, x: b.div(1.0, b.mul(b.sqrt(b.sub(x, 1.0)), b.sqrt(b.add(x, 1.0)))),
    singular=True, domain=((1.2, 4.0),),
)  # fmt: skip
atanh = unary(
    "atanh", np.arctanh, lambda b, out, x: b.div(1.0, _one_minus_square(b, x)), singular=True, domain=((-0.8, 0.8),),
)  # fmt: skip


# ---- roots, error functions --------------------------------------------------------------------------------------------
def _hypot_dx(b, out, x, y):
    """x / hypot(x, y), and 0 at the origin, whatever the order of differentiation."""
    return b.select(b.eq(out, 0.0), 0.0, b.div(x, out))


hypot = elementwise(
    "hypot", np.hypot, Partials(_hypot_dx, lambda b, out, x, y: _hypot_dx(b, out, y, x)), arity=2, commutative=True,
    emit=lambda e, x, y: e.math("hypot", x, y), numpy=(np.hypot,), cost=12, domain=((0.3, 3.0), (-3.0, 3.0)),
    doc="The derivative at the origin is 0.",
)  # fmt: skip
cbrt = unary(
    "cbrt", np.cbrt, lambda b, out, x: b.div(1.0 / 3.0, b.mul(out, out)), singular=True, domain=((0.3, 4.0),),
)  # fmt: skip
erf = special("erf", "erf", lambda b, out, x: b.mul(b.exp(b.neg(b.mul(x, x))), 2.0 / math.sqrt(math.pi)))
erfc = special("erfc", "erfc", lambda b, out, x: b.mul(b.exp(b.neg(b.mul(x, x))), -2.0 / math.sqrt(math.pi)))


# ---- the gamma function's logarithm and its derivatives ----------------------------------------------------------------
def _lgamma(x):
    """As scipy.special.gammaln, whose value for subnormal numbers is infinite."""
    import scipy.special

    size = np.abs(x)
    with np.errstate(divide="ignore"):
        return np.where(size < np.finfo(x.dtype).tiny, -np.log(size), scipy.special.gammaln(x)).astype(x.dtype)


lgamma = unary(
    "lgamma", _lgamma, lambda b, out, x: b.digamma(x), singular=True, numpy=(), domain=((0.3, 4.0),), cost=40,
    properties=frozenset(["scipy:gammaln"]), doc="log(abs(gamma(x))).",
)  # fmt: skip
digamma = special(
    "digamma", "digamma", lambda b, out, x: _polygamma_of(b, x, 1), singular=True, domain=((0.3, 4.0),), cost=40,
    doc="The derivative of lgamma; NaN at its poles but zero.",
)  # fmt: skip

SHIFT, HIGHEST_ORDER = 9, 100  # SHIFT is enough for all these orders: the series errs by less than 2**-56
BERNOULLI = ((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6), (-3617, 510))


def _polygamma(x, n):
    import scipy.special

    return np.where(np.isneginf(x), np.nan, scipy.special.polygamma(n, x)).astype(x.dtype)


def _polygamma_of(b, x, n):
    return b.apply(polygamma, (x,), {"n": n})[0]


def _polygamma_type(types, attrs):
    if not 1 <= attrs["n"] <= HIGHEST_ORDER:
        raise ValueError(f"polygamma is defined for orders from 1 to {HIGHEST_ORDER}, not {attrs['n']}")
    return digamma.infer(types, attrs)


def _power(e, x, n):
    """x**n for n >= 1, by squaring."""
    if n == 1:
        return x
    half = _power(e, x, n // 2)
    square = e.mul(half, half)
    return e.mul(square, x) if n % 2 else square


def _horner(e, x, coefficients):
    """sum(c[k] * x**k)"""
    value = e.const(float(coefficients[-1]), F64)
    for c in reversed(coefficients[:-1]):
        value = e.fma(value, x, float(c))
    return value


def _cotangent_derivative(n):
    """Coefficients of the polynomial P with (d/dz)**n cot(z) = P(cot(z)), from cot' = -(1 + cot**2)."""
    p = [0, 1]
    for _ in range(n):
        slope = [k * c for k, c in enumerate(p)][1:]
        p = [-(a + b) for a, b in zip([*slope, 0, 0], [0, 0, *slope])]
    return p


def _root(number, n):
    """(r, number / r**n) as floats, the latter about 1: powers of r / x neither overflow nor underflow before number / x**n."""
    from fractions import Fraction

    r = math.exp(math.log(number) / n)
    return r, float(number / Fraction(r) ** n)


def _emit_polygamma(e, x, n):
    """In double arithmetic. With y = x, or 1 - x for x <= 0, f = n! sum(1 / (y + k)**(n + 1), k = 0, 1, ...): SHIFT terms as
    they are and the rest by Euler and Maclaurin's formula (DLMF 5.15.8). Then polygamma is f or -f, and for x <= 0 by
    reflection (5.15.6) -f - (d/dx)**n pi cot(pi x), where the derivative is a polynomial in the cotangent.
    """
    from fractions import Fraction

    dtype, x = e.dtype(x), e.cast(x, F64)
    reflected = e.le(x, 0.0)
    y = e.select(reflected, e.sub(1.0, x), x)
    root, rest = _root(math.factorial(n - 1), n)
    r = e.div(root, e.add(y, float(SHIFT)))  # root / (y + SHIFT), whence the powers of root in the coefficients
    series = [
        Fraction(top * math.factorial(n + 2 * k - 1), bottom * math.factorial(2 * k) * math.factorial(n - 1))
        / Fraction(root) ** (2 * k)
        for k, (top, bottom) in enumerate(BERNOULLI, 1)
    ]
    square = e.mul(r, r)
    tail = e.fma(_horner(e, square, series), square, e.mul(r, n / (2 * root)))
    power = e.mul(_power(e, r, n), rest)
    total = e.fma(power, tail, power)
    root, rest = _root(math.factorial(n), n + 1)
    terms = None
    for k in reversed(range(SHIFT)):
        term = _power(e, e.div(root, e.add(y, float(k)) if k else y), n + 1)
        terms = term if terms is None else e.add(terms, term)
    total = e.fma(terms, rest, total)
    turn = e.sub(x, e.rint(x))
    cosine = e.math("sin", e.mul(e.sub(0.5, e.abs(turn)), math.pi))  # accurate beside its zeros
    cotangent = e.div(cosine, e.math("sin", e.mul(turn, math.pi)))
    p = _cotangent_derivative(n)  # even or odd
    value = _horner(e, e.mul(cotangent, cotangent), p[(n + 1) % 2 :: 2])
    value = value if n % 2 else e.mul(value, cotangent)
    beyond = e.sub(e.mul(value, -(math.pi ** (n + 1))), total)
    return e.cast(e.select(reflected, beyond, total if n % 2 else e.neg(total)), dtype)


polygamma = unary(
    "polygamma", _polygamma, lambda b, out, x, n: _polygamma_of(b, x, n + 1), singular=True, numpy=(), emit=_emit_polygamma,
    infer=_polygamma_type, domain=((0.3, 4.0),), cost=120,
    doc="attrs: n >= 1. The derivative of digamma of order n, to about n + 2 ulp.",
)  # fmt: skip
