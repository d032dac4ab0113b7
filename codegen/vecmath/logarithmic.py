"""The logarithm family: log, log2, log10, log1p, pow.

In: a builder and the argument(s). Out: the value of the function. The argument is split as 2**k m with m in
[sqrt(1/2), sqrt(2)), and log(1 + f), f = m - 1, comes from the series of the inverse hyperbolic tangent:
with s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - s (f - s**2 P(s**2)), as 2 s = f - s f. The largest terms,
k log 2 and f, are added without error; all that is rounded before the last sum is small beside the result.
(Muller, Elementary Functions, chapter 11; Tang, ACM TOMS 16 (1990) for the table of pow.)
"""

from . import tables as t
from .builder import bits_of

SQRT_HALF = 0.7071067811865476


def log(b, x):
    k, m = _split(b, x)
    f = m - 1.0
    ln2, ln2_low = _of(b, "LN2")
    total, rest = b.fast_two_sum(k * ln2, f)
    # The series as in the docstring above: shorter than `_correction`, and accurate enough where f is exact.
    s = f / (f + 2.0)
    z = s * s
    y = total + b.fma(k, ln2_low, b.fma(-s, b.fma(-z, b.horner(z, _of(b, "LOG")), f), rest))
    return _poles(b, x, y)


def log2(b, x):
    return _log_base(b, x, 1.0, 0.0, *_of(b, "INV_LN2"))


def log10(b, x):
    return _log_base(b, x, *_of(b, "LOG10_2"), *_of(b, "INV_LN10"))


def log1p(b, x):
    """log(u + e) where u + e = 1 + x exactly; e enters to first order, and is 0 where 1 + x needs no splitting."""
    u, e = b.two_sum(1.0, x)
    y = log_of_sum(b, u, e)
    y = b.select(x < float("inf"), y, x)
    y = b.select(x > -1.0, y, b.select(x.eq(-1.0), float("-inf"), b.select(x < -1.0, float("nan"), x)))
    return b.copysign(y, x)


def _of(b, name):
    return getattr(t, name if b.double else name + "_F32")


def _split(b, x):
    """(k, m) with x = 2**k m, m in [sqrt(1/2), sqrt(2)), for positive finite x; k as a float."""
    fmt = b.format
    up = 54 if b.double else 25
    tiny = x < 2.0 ** (1 - fmt.bias)
    x = b.select(tiny, x * 2.0**up, x)
    base = b.select(tiny, float(-up - fmt.bias), float(-fmt.bias))
    k, m, _ = exponent_and_mantissa(b, x, fmt, SQRT_HALF)
    return k + base, m


def exponent_and_mantissa(b, x, fmt, start):
    """(k + bias as a float, m in [start, 2 start), bits of m above those of start), x = 2**k m, for x > 0 normal."""
    first = bits_of(start, fmt)
    i = b.bits(x) + (bits_of(1.0, fmt) - first)
    # The exponent becomes a float by writing it under the exponent of 2**mantissa.
    k = b.from_bits((i >> fmt.mantissa) | bits_of(2.0**fmt.mantissa, fmt)) - 2.0**fmt.mantissa
    field = i & ((1 << fmt.mantissa) - 1)
    return k, b.from_bits(field + first), field


def _correction(b, f, s):
    """f - log(1 + f), where s = f / (2 + f)."""
    z, half = s * s, 0.5 * f
    # s f = f**2/2 - s f**2/2: so written, the large term is not rounded before the small one is taken from it.
    return b.fma(half, f, -(s * b.fma(z, b.horner(z, _of(b, "LOG")), half * f)))


def _poles(b, x, y):
    """log's values at 0, below 0, at infinity and for NaN."""
    special = b.select(x.eq(0.0), float("-inf"), b.select(x < 0.0, float("nan"), x))
    # One unsigned comparison of the bits tells 0 < x < infinity.
    return b.select((b.bits(x) - 1).below(bits_of(float("inf"), b.format) - 1), y, special)


def _log_base(b, x, unit, unit_low, scale, scale_low):
    """k * unit + log(m) * scale with both constants in two parts."""
    k, m = _split(b, x)
    f = m - 1.0
    high, high_low = b.fast_two_sum(f, -_correction(b, f, f / (f + 2.0)))
    product, product_low = b.two_product(high, scale)
    product_low = b.fma(high, scale_low, b.fma(high_low, scale, product_low))
    total, rest = b.fast_two_sum(k * unit, product)
    if unit_low:
        rest = b.fma(k, unit_low, rest)
    return _poles(b, x, total + (rest + product_low))


def log_of_sum(b, u, e, k_more=None):
    """log(u + e), and k_more log 2 with it, for u > 0 normal and |e| no more than some ulp of u."""
    fmt = b.format
    k, m, _ = exponent_and_mantissa(b, u, fmt, SQRT_HALF)
    k = k - (float(fmt.bias) if k_more is None else fmt.bias - k_more)
    # 2**-k from the bits of u and m, for k small enough that e counts.
    scale = b.from_bits((b.bits(m) - b.bits(u)) + bits_of(1.0, fmt))
    scale = b.select(u < 2.0 ** (fmt.mantissa + 2), scale, 0.0)
    f, f_low = b.two_sum(m - 1.0, e * scale)
    s = f / (f + 2.0)
    correction = _correction(b, f, s)
    # d log(1 + f) = f_low / (1 + f), and 1 / (1 + f) = 1 - 2 s + ...
    f_low = b.fma(f_low, -2.0 * s, f_low)
    ln2, ln2_low = _of(b, "LN2")
    total, rest = b.fast_two_sum(k * ln2, f)
    return total + b.fma(k, ln2_low, rest + (f_low - correction))


FUNCTIONS = {"log": log, "log2": log2, "log10": log10, "log1p": log1p}
