"""pow, by table: x**y = exp(y log x) with the logarithm in two parts.

In: a builder and the arguments. Out: the value of the function. x = 2**k m; a table of 128 cells gives c ~ 1/m with few
bits, so that r = c m - 1 is exact and below 2**-7, and -log c in two parts (Tang, ACM TOMS 16, 1990). Then
log x = k log 2 - log c + r - r**2/2 + r**3 P(r), of which all but the last term are summed without error worth
mention: its relative error is about 2**-66, as y log x, up to 745, must be known to 2**-55.
For f32 the same in plain double arithmetic is more than enough.
"""

from . import tables as t
from .builder import F64
from .logarithmic import exponent_and_mantissa

CELL_START = 0.7109375  # (1 + 54/128) / 2, where the table starts


def pow(b, x, y):
    base = b.abs(x)
    value = _magnitude(b, base, y) if b.double else _magnitude_f32(b, b.extend(base), b.extend(y))
    whole = b.rint(y).eq(y)
    half = y * 0.5
    odd = whole & b.rint(half).ne(half)
    value = b.select(odd, b.copysign(value, x), value)
    invalid = (x < 0.0) & (x > float("-inf")) & ~whole
    value = b.select(invalid, float("nan"), value)
    return b.select(y.eq(0.0) | x.eq(1.0), 1.0, value)


def _logarithm_terms(b, x, low_columns):
    """(k, r, the columns of the table) for a normal double x."""
    k, m, field = exponent_and_mantissa(b, x, F64, CELL_START)
    c, *columns = (b.gather(f"log.{i}", t.LOG_TABLE[i], field >> 45) for i in range(1 + low_columns))
    return k, b.fma(m, c, -1.0), columns


def _poles(b, x, logarithm):
    """The logarithm with its values at 0, infinity and NaN."""
    logarithm = b.select(x < float("inf"), logarithm, x)
    return b.select(x.eq(0.0), float("-inf"), logarithm)


def _magnitude(b, x, y):
    """x**y for x >= 0."""
    y = b.minimum(b.maximum(y, -1.7e308), 1.7e308)
    tiny = x < 2.0**-1022
    k, r, (head, tail) = _logarithm_terms(b, b.select(tiny, x * 2.0**54, x), 2)
    k = k - b.select(tiny, 54.0 + 1023.0, 1023.0)
    ln2, ln2_low = t.LN2
    # Both are multiples of 2**-42, so the sum is exact.
    high, rest0 = b.fast_two_sum(b.fma(k, ln2, head), r)
    minus_half = r * -0.5
    square, square_low = b.two_product(r, minus_half)
    high, rest1 = b.fast_two_sum(high, square)
    rest = b.fma(k, ln2_low, tail) + (rest0 + rest1)
    low = rest + b.fma(r * (r * r), b.horner(r, t.POW_LOG), square_low)
    high, low = b.fast_two_sum(high, low)
    high = _poles(b, x, high)

    product = high * y
    inside = b.abs(product) < 800.0
    product_low = b.select(inside, b.fma(low, y, b.fma(high, y, -product)), 0.0)
    product = b.minimum(b.maximum(product, -750.0), 710.0)
    magic = b.format.magic + 2 * b.format.bias
    shifted = b.fma(product, t.INV_LN2[0], magic)
    n = shifted - magic
    ln2, ln2_low = t.LN2_FULL
    first = b.fma(n, -ln2, product)
    product_low = b.fma(n, -ln2_low, product_low)
    r, r_low = b.fast_two_sum(first, product_low)
    value = 1.0 + (r + b.fma(r * r, b.horner(r, t.EXP), r_low))
    i = b.bits(shifted)
    half = i >> 1
    return value * b.from_bits(half << 52) * b.from_bits((i - half) << 52)


def _magnitude_f32(b, x, y):
    """x**y for doubles x >= 0 and y that are singles, as a single."""
    y = b.minimum(b.maximum(y, -1e300), 1e300)
    k, r, (head,) = _logarithm_terms(b, x, 1)
    k = k - 1023.0
    tail = b.fma(r * r, b.fma(r, b.horner(r, t.POW_LOG_SHORT), -0.5), r)
    high = _poles(b, x, b.fma(k, t.LN2_FULL[0], head) + tail)
    product = b.minimum(b.maximum(high * y, -150.0), 150.0)
    magic = 1.5 * 2.0**52 + 1023.0
    shifted = b.fma(product, t.INV_LN2[0], magic)
    r = b.fma(shifted - magic, -t.LN2_FULL[0], product)
    value = b.fma(r * r, b.horner(r, t.EXP_SHORT), r + 1.0)
    return b.truncate(value * b.from_bits(b.bits(shifted) << 52))


FUNCTIONS = {"pow": pow}
