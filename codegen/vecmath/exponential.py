"""The exponential family: exp, exp2, expm1, sinh, cosh, tanh, logistic.

In: a builder and the argument. Out: the value of the function. All start from Cody & Waite's reduction
x = n log 2 + r, |r| <= log(2)/2, n log 2 being subtracted in two parts by FMA (the first difference is exact), a
minimax polynomial in r, and 2**n put into the exponent bits.
(Cody & Waite, Software Manual for the Elementary Functions, 1980; Muller, Elementary Functions, chapters 5 and 11.)
"""

from . import tables as t
from .builder import BY_TYPE, bits_of

# By b.double: from here to overflow arguments are rare (rare.py), so that 2**n and 2**-n are normal for all others.
HUGE, LARGEST = {True: 700.0, False: 85.0}, {True: 710.5, False: 89.5}


def exp(b, x):
    """exp(x); below the least normal number the result is rounded once, in the final scaling."""
    x = _clamp(b, x, (-746.0, 710.0), (-104.0, 89.0))
    shifted, n = nearest(b, x, _of(b, "INV_LN2")[0])
    r, _ = reduce(b, x, n)
    return scale_by_power(b, 1.0 + b.fma(r * r, b.horner(r, _of(b, "EXP")), r), shifted)


def exp2(b, x):
    """2**x = 2**n 2**r; r = x - n is exact, so powers of two are."""
    x = _clamp(b, x, (-1076.0, 1025.0), (-151.0, 129.0))
    shifted, n = nearest(b, x, 1.0)
    r = x - n
    high, low = _of(b, "LN2_FULL")
    tail = b.fma(r * r, b.horner(r, _of(b, "EXP2")), r * low)
    return scale_by_power(b, 1.0 + b.fma(r, high, tail), shifted)


def expm1(b, x):
    """2**n (1 + expm1(r)) - 1, summed as (2**n - 1) + 2**n r + ... with the error of each large sum carried along."""
    high, low = _expm1_parts(b, b.maximum(x, -50.0 if b.double else -30.0), 0)
    return b.copysign(high + low, x), ~(x < HUGE[b.double])


def expm1_of_rare(b, x):
    high, low = _expm1_parts(b, b.minimum(x, 710.0 if b.double else 89.0), 1)
    return 2.0 * (high + low)


def tanh(b, x):
    """e / (e + 1) with e = expm1(2|x|) / 2 carried in two parts; one division, corrected by its remainder."""
    a = b.minimum(b.abs(x), 22.0 if b.double else 10.0)
    if not b.double:
        return b.copysign(_tanh_f32(b, a), x)
    high, low = b.fast_two_sum(*_expm1_parts(b, a + a, 1))
    denominator, rest = b.two_sum(1.0, high)
    return b.copysign(b.quotient(high, low, denominator, rest + low), x)


def _tanh_f32(b, a):
    """A polynomial up to 1; beyond, 1 - 2 / (1 + exp(2 a)), where the error of the quotient counts for a quarter."""
    z = a * a
    near = b.fma(a * z, b.horner(z, t.TANH_F32), a)
    shifted = b.fma(a, 2.0 * t.INV_LN2_F32[0], b.format.magic)
    r, _ = reduce(b, a + a, shifted - b.format.magic)
    exponential = 1.0 + b.fma(r * r, b.two_horners(r, t.EXP_F32), r)
    far = 1.0 - 2.0 / (b.from_bits(b.bits(exponential) + (b.bits(shifted) << b.format.mantissa)) + 1.0)
    return b.select(a < 1.0, near, far)


def sinh(b, x):
    return b.copysign(_sinh(b, b.abs(x), 1), x), b.reaches(x, HUGE[b.double])


def cosh(b, x):
    return _cosh(b, b.abs(x), 1), b.reaches(x, HUGE[b.double])


def sinh_of_rare(b, x):
    return b.copysign(2.0 * _sinh(b, b.minimum(b.abs(x), LARGEST[b.double]), 2), x)


def cosh_of_rare(b, x):
    return 2.0 * _cosh(b, b.minimum(b.abs(x), LARGEST[b.double]), 2)


def _sinh(b, a, lower):
    """With p = 2**(n - lower), q = 2**(-n - lower): sinh(a) 2**(1 - lower) = (p - q) cosh(r) + (p + q) sinh(r)."""
    p, q, r, r_low, sinh_tail, cosh_tail = _hyperbolic_parts(b, a, lower)
    difference, difference_low = b.fast_two_sum(p, -q)
    total = p + q
    high, low = b.fused_two_sum(total, r, difference)
    return high + b.fma(total, sinh_tail + r_low, b.fma(difference, cosh_tail, low + difference_low))


def _cosh(b, a, lower):
    """With p = 2**(n - lower), q = 2**(-n - lower): cosh(a) 2**(1 - lower) = (p + q) cosh(r) + (p - q) sinh(r)."""
    p, q, r, r_low, sinh_tail, cosh_tail = _hyperbolic_parts(b, a, lower)
    total, total_low = b.fast_two_sum(p, q)
    difference = p - q
    high, low = b.fused_two_sum(difference, r, total)
    return high + b.fma(total, cosh_tail, b.fma(difference, sinh_tail + r_low, low + total_low))


def logistic(b, x):
    """1 / (1 + exp(-x)), and for x < 0 exp(x) / (1 + exp(x)): with |x| both tails keep their relative accuracy."""
    negative = x < 0.0
    a = _clamp(b, -b.abs(x), (-746.0, 710.0), (-104.0, 89.0))
    shifted, n = nearest(b, a, _of(b, "INV_LN2")[0])
    r, r_low = reduce(b, a, n)
    high, low = b.fast_two_sum(1.0, r)
    high, low = b.fast_two_sum(high, low + b.fma(r * r, b.horner(r, _of(b, "EXP")), r_low))
    denominator, rest = b.fast_two_sum(1.0, scale_by_power(b, high, shifted))
    rest = rest + scale_by_power(b, low, shifted)
    y = b.quotient(b.select(negative, high, 1.0), b.select(negative, low, 0.0), denominator, rest)
    return b.select(negative, scale_by_power(b, y, shifted), y)


def _of(b, name):
    return getattr(t, name if b.double else name + "_F32")


def _clamp(b, x, double, single):
    low, high = double if b.double else single
    return b.minimum(b.maximum(x, low), high)


def nearest(b, x, factor):
    """n = round(x * factor), and the sum whose low bits hold n + 2 * bias (even for a negative n a positive number)."""
    magic = b.format.magic + 2 * b.format.bias
    shifted = b.fma(x, factor, magic) if factor != 1.0 else x + magic
    return shifted, shifted - magic


def reduce(b, x, n):
    """x - n log 2 in two parts."""
    high, low = _of(b, "LN2_FULL")
    first = b.fma(n, -high, x)
    r = b.fma(n, -low, first)
    return r, b.fma(n, -low, first - r)


def scale_by_power(b, y, shifted):
    """y * 2**n in two factors, as neither 2**n nor the product need be a normal number."""
    i = b.bits(shifted)
    half = i >> 1
    mantissa = BY_TYPE[y.type].mantissa
    return y * b.from_bits(half << mantissa) * b.from_bits((i - half) << mantissa)


def _power(b, shifted, lower):
    """2**(n - lower) as a normal number."""
    return b.from_bits((b.bits(shifted) - (b.format.bias + lower)) << b.format.mantissa)


def _expm1_parts(b, x, lower):
    """expm1(x) / 2**lower in two parts."""
    shifted, n = nearest(b, x, _of(b, "INV_LN2")[0])
    r, r_low = reduce(b, x, n)
    scale = _power(b, shifted, lower)
    unit = 0.5**lower
    less = scale - unit
    lost = (scale - less) - unit
    # Either n = 0 and less = 0, or |less| >= scale / 2.
    high, low = b.fast_two_sum(less, scale * r)
    return high, b.fma(scale, _expm1_tail(b, r, r_low), low + lost)


def _expm1_tail(b, r, r_low):
    """expm1(r + r_low) - r"""
    half, *rest = _of(b, "EXP")
    return b.fma(half * r, r, b.fma(r * (r * r), b.two_horners(r, rest), r_low))


def _hyperbolic_parts(b, a, lower):
    """(2**(n - lower), 2**(-n - lower), r in two parts, sinh(r) - r, cosh(r) - 1), n >= 0."""
    shifted, n = nearest(b, a, _of(b, "INV_LN2")[0])
    r, r_low = reduce(b, a, n)
    p = _power(b, shifted, lower)
    # From the same bits: exponents add up to 2 * (bias - lower).
    q = b.from_bits(2 * (bits_of(1.0, b.format) - (lower << b.format.mantissa)) - b.bits(p))
    if lower == 2:  # beyond HUGE these bits are no number, and q has not counted for long
        q = b.select(n > 60.0, 0.0, q)
    z = r * r
    sinh_tail = r * z * b.horner(z, _of(b, "SINH"))
    cosh_tail = b.fma(z * z, b.horner(z, _of(b, "COSH")), 0.5 * z)
    return p, q, r, r_low, sinh_tail, cosh_tail


FUNCTIONS = {
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "sinh": sinh,
    "cosh": cosh,
    "tanh": tanh,
    "logistic": logistic,
}
RARE = {"expm1": expm1_of_rare, "sinh": sinh_of_rare, "cosh": cosh_of_rare}
