"""pow: x**y = exp(y log x) with the logarithm in two parts.

In: a builder and the arguments. Out: the value of the function. x = 2**k (1 + f), s = f / (2 + f) with the remainder of the
division, and log x = k log 2 + 2 s + s**3 (c + s**2 P(s**2)), c in two parts; all but s**5 P is summed without error worth
mention. The relative error is about 2**-66, as y log x, up to 745, must be known to 2**-55. Where |y log x| < 700 the
power of two goes straight into the result's exponent; the rest, and what is not a positive normal x, is rare (rare.py).
For f32 plain double arithmetic is enough, and with logarithms to base 2 the reduction is exact.
"""

from . import tables as t
from .exponential import scale_by_power
from .logarithmic import is_rare, split

SHIFT = 1.5 * 2.0**52  # adding it leaves the nearest integer in the low bits


def pow(b, x, y):
    if not b.double:
        return _pow_f32(b, x, y)
    product, product_low = _product(b, *_logarithm(b, *split(b, x)), y)
    shifted, value = _exponential(b, product, product_low, SHIFT)
    return _scale(b, value, shifted), is_rare(b, x) | b.reaches(product, 700.0)


def _pow_f32(b, x, y):
    """2**(y log2 x) in double arithmetic."""
    k, f = split(b, b.extend(x))
    s = f / (f + 2.0)
    product = b.fma(s, b.two_horners(s * s, t.POW_LOG2_SHORT), k) * b.extend(y)
    shifted = product + SHIFT
    value = b.two_horners(product - (shifted - SHIFT), t.EXP2_SHORT)
    return b.truncate(_scale(b, value, shifted)), is_rare(b, x) | b.reaches(product, 125.0)


def _scale(b, y, shifted):
    """y * 2**n, n in the low bits, where nothing over- or underflows."""
    return b.from_bits(b.bits(y) + (b.bits(shifted) << 52))


def pow_of_rare(b, x, y):
    base = b.abs(x)
    value = _magnitude(b, base, y) if b.double else b.truncate(_magnitude(b, b.extend(base), b.extend(y)))
    whole = b.rint(y).eq(y)
    half = y * 0.5
    odd = whole & b.rint(half).ne(half)
    value = b.select(odd, b.copysign(value, x), value)
    invalid = (x < 0.0) & (x > float("-inf")) & ~whole
    value = b.select(invalid, float("nan"), value)
    return b.select(y.eq(0.0) | x.eq(1.0), 1.0, value)


def _magnitude(b, x, y):
    """x**y for doubles x >= 0."""
    y = b.minimum(b.maximum(y, -1.7e308), 1.7e308)
    tiny = x < 2.0**-1022
    k, f = split(b, b.select(tiny, x * 2.0**54, x))
    high, low = _logarithm(b, b.select(tiny, k - 54.0, k), f)
    high = b.select(x.eq(0.0), float("-inf"), b.select(x < float("inf"), high, x))
    product, product_low = _product(b, high, low, y)
    product_low = b.select(b.abs(product) < 800.0, product_low, 0.0)
    product = b.minimum(b.maximum(product, -750.0), 710.0)
    shifted, value = _exponential(b, product, product_low, SHIFT + 2 * 1023.0)
    return scale_by_power(b, value, shifted)


def _product(b, high, low, y):
    product = high * y
    return product, b.fma(low, y, b.fma(high, y, -product))


def _logarithm(b, k, f):
    """k log 2 + log(1 + f) in two parts."""
    inverse = 1.0 / (f + 2.0)
    s = f * inverse
    twice = s + s
    s_low = b.fma(-s, f, f - twice) * inverse  # f - 2 s is exact
    (c, c_low), *rest = t.POW_LOG
    z, z_low = b.two_product(s, s)
    twice_low = s_low + s_low
    z_low = b.fma(s, twice_low, z_low)
    # s z (c + ...) in two parts
    v, v_low = b.two_product(z, c)
    v_low = b.fma(z * z, b.two_horners(z, rest), b.fma(z, c_low, b.fma(z_low, c, v_low)))
    cube, cube_low = b.two_product(s, v)
    cube_low = b.fma(s, v_low, b.fma(s_low, v, cube_low))
    ln2, ln2_low = t.LN2
    high, rest0 = b.fast_two_sum(k * ln2, twice)
    high, rest1 = b.fast_two_sum(high, cube)
    low = b.fma(k, ln2_low, (rest0 + rest1) + (twice_low + cube_low))
    return b.fast_two_sum(high, low)


def _exponential(b, product, product_low, magic):
    """(n + magic, exp(product + product_low) / 2**n)"""
    shifted = b.fma(product, t.INV_LN2[0], magic)
    n = shifted - magic
    ln2, ln2_low = t.LN2_FULL
    r = b.fma(n, -ln2, product) + b.fma(n, -ln2_low, product_low)
    return shifted, 1.0 + b.fma(r * r, b.two_horners(r, t.EXP), r)


FUNCTIONS = {"pow": pow}
RARE = {"pow": pow_of_rare}
