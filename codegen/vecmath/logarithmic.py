"""The logarithm family: log, log2, log10, log1p.

In: a builder and the argument. Out: the value of the function. The argument is split as 2**k (1 + f), and log(1 + f) comes
from the series of the inverse hyperbolic tangent: with s = f / (2 + f), log(1 + f) = 2 atanh(s) = f - s (f - s**2 P(s**2)),
as 2 s = f - s f. The largest terms, k log 2 and f, are added without error; all that is rounded before the last sum is small
beside the result. (Muller, Elementary Functions, chapter 11.)

log2 and log10 multiply only f by their constant in two parts. For f32 they are f (c + Q(f)) with c exact: no division.
Zeros, subnormals, infinities and what is negative are rare arguments (rare.py).
"""

from . import tables as t
from .builder import BY_TYPE, bits_of

SQRT_HALF = 0.7071067811865476
LARGE = {True: 500, False: 60}  # by b.double: from 2**LARGE on, 1 + x and x have the same logarithm, and squares may overflow


def log(b, x):
    return _log(b, *split(b, x)), is_rare(b, x)


def log2(b, x):
    return _log2(b, *split(b, x)), is_rare(b, x)


def log10(b, x):
    return _log10(b, *split(b, x)), is_rare(b, x)


def log1p(b, x):
    u = x + 1.0
    return b.copysign(log_one_plus(b, u, x), x), is_rare(b, u, 2.0**LARGE[b.double])


def _of_any(formula):
    """The function of any argument from that of a split one."""

    def function(b, x):
        up = 54 if b.double else 25
        tiny = x < 2.0 ** (1 - b.format.bias)
        k, f = split(b, b.select(tiny, x * 2.0**up, x))
        return _poles(b, x, formula(b, k - b.select(tiny, float(up), 0.0), f))

    return function


def log1p_of_rare(b, x):
    beside_large = b.select(x.eq(-1.0), float("-inf"), b.select(x < -1.0, float("nan"), x))
    return b.select(x > 1.0, _of_any(_log)(b, x), beside_large)


def _of(b, name):
    return getattr(t, name if b.double else name + "_F32")


def is_rare(b, x, limit=float("inf")):
    """Whether x is anything but a positive normal number below the limit."""
    return b.outside(x, 2.0 ** (1 - b.format.bias), limit)


def split(b, x, start=SQRT_HALF):
    """(k as a float, f) with x = 2**k (1 + f), 1 + f in [start, 2 start), for a positive normal x."""
    fmt = BY_TYPE[x.type]
    first = bits_of(start, fmt)
    i = b.bits(x) + (bits_of(1.0, fmt) - first)
    # The exponent becomes a float by writing it under the exponent of 2**mantissa.
    k = b.from_bits((i >> fmt.mantissa) | bits_of(2.0**fmt.mantissa, fmt)) - (2.0**fmt.mantissa + fmt.bias)
    return k, b.from_bits((i & ((1 << fmt.mantissa) - 1)) + first) - 1.0


def _poles(b, x, y):
    """log's values at 0, below 0, at infinity and for NaN."""
    special = b.select(x.eq(0.0), float("-inf"), b.select(x < 0.0, float("nan"), x))
    return b.select((x > 0.0) & (x < float("inf")), y, special)


def _log(b, k, f):
    ln2, ln2_low = _of(b, "LN2")
    total, rest = b.fast_two_sum(k * ln2, f)
    s = f / (f + 2.0)
    z = s * s
    return total + b.fma(k, ln2_low, b.fma(-s, b.fma(-z, b.horner(z, _of(b, "LOG")), f), rest))


def _log2(b, k, f):
    if not b.double:
        return k + b.fma(f, b.horner(f, t.LOG2_F32), f)
    product, low = _scaled_log(b, f, *t.INV_LN2)
    total, rest = b.fast_two_sum(k, product)
    return total + (rest + low)


def _log10(b, k, f):
    unit, unit_low = _of(b, "LOG10_2")
    if not b.double:
        return b.fma(k, unit, b.fma(k, unit_low, b.fma(f, b.horner(f, t.LOG10_F32), 0.5 * f)))
    product, low = _scaled_log(b, f, *t.INV_LN10)
    total, rest = b.fast_two_sum(k * unit, product)
    return total + (rest + b.fma(k, unit_low, low))


def _scaled_log(b, f, scale, scale_low):
    """scale * log(1 + f) in two parts."""
    s = f / (f + 2.0)
    z = s * s
    correction = s * b.fma(-z, b.horner(z, t.LOG), f)
    product, low = b.two_product(f, scale)
    return product, b.fma(-scale, correction, b.fma(f, scale_low, low))


def log_twice(b, x):
    """log(2 x) for a positive normal x, infinity or NaN."""
    k, f = split(b, x)
    return b.select(x < float("inf"), _log(b, k + 1.0, f), x)


def log_one_plus(b, u, w, w_low=None):
    """log(1 + w + w_low), where u = round(1 + w) is positive, normal and not beyond the square of 2**LARGE.

    f = (w + 1 - 2**k) / 2**k is exact (Sterbenz) where 1 + f is in [3/4, 3/2). Once 2**k swamps the 1 no error counts.
    """
    fmt = b.format
    start = bits_of(0.75, fmt)
    i = b.bits(u) + (bits_of(1.0, fmt) - start)
    k = b.from_bits((i >> fmt.mantissa) | bits_of(2.0**fmt.mantissa, fmt)) - (2.0**fmt.mantissa + fmt.bias)
    inverse = b.from_bits(2 * bits_of(1.0, fmt) - (i & bits_of(float("inf"), fmt)))  # 2**-k
    f = b.fma(w, inverse, inverse - 1.0)
    s = f / (f + 2.0)
    z = s * s
    ln2, ln2_low = _of(b, "LN2")
    total, rest = b.fast_two_sum(k * ln2, f)
    if w_low is not None:
        # d log(1 + f) = f_low / (1 + f), and 1 / (1 + f) = 1 - 2 s + ...
        f_low = w_low * inverse
        rest = rest + b.fma(f_low, -2.0 * s, f_low)
    return total + b.fma(k, ln2_low, b.fma(-s, b.fma(-z, b.horner(z, _of(b, "LOG1P")), f), rest))


FUNCTIONS = {"log": log, "log2": log2, "log10": log10, "log1p": log1p}
RARE = {"log": _of_any(_log), "log2": _of_any(_log2), "log10": _of_any(_log10), "log1p": log1p_of_rare}
