"""asinh, acosh, atanh: logarithms of something that is known in two parts.

In: a builder and the argument. Out: the value of the function. asinh(x) = log(1 + w) with w = x + x**2 / (1 + sqrt(1 + x**2)),
and acosh(1 + d) = log(1 + w) with w = d + sqrt(d**2 + 2 d), the root's remainder coming from an estimate of its inverse.
atanh(x) = log((1 + x) / (1 - x)) / 2 has the only division in the logarithm's series: with 2**k near the quotient,
s = (1 + x - 2**k (1 - x)) / (1 + x + 2**k (1 - x)).
Beyond 2**LARGE the first two are log(x) + log 2, which is rare, as are poles and what has no real value (rare.py).
"""

from . import tables as t
from .builder import bits_of
from .logarithmic import LARGE, log_one_plus, log_twice


def asinh(b, x):
    a = b.abs(x)
    square, square_low = b.two_product(a, a)
    root = b.sqrt(square + 1.0)
    divisor = root + 1.0
    divisor_low = root - (divisor - 1.0)
    inverse = 1.0 / divisor
    q = square * inverse
    remainder = b.fma(-q, divisor, square) + b.fma(-q, divisor_low, square_low)
    w, w_low = b.fast_two_sum(a, q)
    y = log_one_plus(b, w + 1.0, w, b.fma(remainder, inverse, w_low))
    return b.copysign(y, x), b.reaches(x, 2.0 ** LARGE[b.double])


def asinh_of_rare(b, x):
    return b.copysign(log_twice(b, b.abs(x)), x)


def acosh(b, x):
    d = x - 1.0
    square, square_low = b.two_product(d, d)
    total, rest = b.two_sum(d + d, square)
    root = b.sqrt(total)
    root_low = (b.fma(-root, root, total) + (rest + square_low)) * b.half_inverse(root)
    w, w_low = b.fast_two_sum(root, d)
    return log_one_plus(b, w + 1.0, w, w_low + root_low), b.outside(x, 1.0, 2.0 ** LARGE[b.double])


def acosh_of_rare(b, x):
    return b.select(x < 1.0, float("nan"), log_twice(b, x))


def atanh(b, x):
    fmt = b.format
    a = b.abs(x)
    above, above_low = b.fast_two_sum(1.0, a)
    below, below_low = b.fast_two_sum(1.0, -a)
    # The difference of the bits is about the logarithm of the quotient: its nearest integer is k.
    i = (b.bits(above) - b.bits(below)) + bits_of(1.5 * 2.0 ** (1 - fmt.bias), fmt) - bits_of(2.0 ** (1 - fmt.bias), fmt)
    k = b.from_bits((i >> fmt.mantissa) | bits_of(2.0**fmt.mantissa, fmt)) - 2.0**fmt.mantissa
    exponent = i & bits_of(float("inf"), fmt)
    below = b.from_bits(b.bits(below) + exponent)
    below_low = below_low * b.from_bits(exponent + bits_of(1.0, fmt))
    difference, difference_low = above - below, above_low - below_low
    total, total_low = b.fast_two_sum(above, below)
    inverse = 1.0 / total
    s = (difference + difference_low) * inverse
    remainder = b.fma(-s, total, difference) + b.fma(-s, total_low + (above_low + below_low), difference_low)
    z = s * s
    ln2, ln2_low = t.LN2 if b.double else t.LN2_F32
    high, rest = b.fast_two_sum(k * (ln2 / 2), s)
    low = b.fma(remainder, inverse, b.fma(k, ln2_low / 2, rest))
    tail = b.horner(z, [c / 2 for c in (t.LOG1P if b.double else t.LOG1P_F32)])
    return b.copysign(high + b.fma(s * z, tail, low), x), b.reaches(x, 1.0)


def atanh_of_rare(b, x):
    return b.select(b.abs(x).eq(1.0), b.copysign(float("inf"), x), float("nan"))


FUNCTIONS = {"asinh": asinh, "acosh": acosh, "atanh": atanh}
RARE = {"asinh": asinh_of_rare, "acosh": acosh_of_rare, "atanh": atanh_of_rare}
