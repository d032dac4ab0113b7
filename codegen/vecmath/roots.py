"""cbrt and hypot.

In: a builder and the argument(s). Out: the value of the function.
"""

from . import tables as t
from .builder import bits_of

THIRD = (2**32 + 2) // 3  # times the upper half of the bits: one multiplication of 32-bit integers, which vectors have


def cbrt(b, x):
    """r ~ a**(-1/3) to 4 % by dividing the bits by -3, which needs no exponent; a polynomial in e = 1 - a r**3 brings it
    to half precision, and a Newton step on y = a r**2, with the residual almost without error, to full (Muller, chapter 5)."""
    fmt = b.format
    a = b.abs(x)
    bits = b.bits(a)
    least, infinity = bits_of(2.0 ** (1 - fmt.bias), fmt), bits_of(float("inf"), fmt)
    subnormal_or_special = (bits - 1).below(least - 1) | ~(bits < infinity)
    return b.copysign(_cbrt_of_normal(b, a), x), subnormal_or_special


def cbrt_of_rare(b, x):
    a = b.abs(x)
    up = 54 if b.double else 24
    y = _cbrt_of_normal(b, a * 2.0**up) * 2.0 ** (-up // 3)
    return b.select(a < 1.0, b.copysign(y, x), x)


def _cbrt_of_normal(b, a):
    """The cube root of a positive normal number or 0."""
    if not b.double:
        return _cbrt_f32(b, a)
    r = b.from_bits(t.CBRT_BITS[0] - (b.bits(a) >> 32) * THIRD)
    e = b.fma(-(a * r), r * r, 1.0)
    r = b.fma(r * e, b.two_horners(e, t.CBRT), r)
    inverse_square = r * r
    y = a * inverse_square
    square, square_low = b.two_product(y, y)
    residual = b.fma(-square_low, y, b.fma(-square, y, a))
    return b.fma(residual, inverse_square * (1.0 / 3.0), y)


def _cbrt_f32(b, a):
    """With r cut to 8 bits r**2 is exact, and y = a r**2 in two parts needs but the polynomial (1 - e)**(-2/3).

    Of y's low part two thirds vanish with its share of e = 1 - a r**3.
    """
    r = b.to_integer(b.fma(b.to_float(b.bits(a)), -1.0 / 3.0, float(t.CBRT_BITS[1])))
    r = b.from_bits(r & -(1 << 16))
    y, y_low = b.two_product(a, r * r)
    e = b.fma(-y, r, 1.0)
    return y + b.fma(y * e, b.two_horners(e, t.CBRT_SQUARED_F32), y_low * (1.0 / 3.0))


def hypot(b, x, y):
    """sqrt(x**2 + y**2): the sum of squares in two parts, and the remainder of its root to first order."""
    if not b.double:
        x, y = b.extend(x), b.extend(y)
    ax, ay = b.abs(x), b.abs(y)
    infinite = ax.eq(float("inf")) | ay.eq(float("inf"))
    if not b.double:
        root = b.truncate(b.sqrt(b.fma(ax, ax, ay * ay)))
        return b.select(infinite, float("inf"), root)
    larger = ax > ay
    high, low = b.select(larger, ax, ay), b.select(larger, ay, ax)
    big, small = high > 2.0**500, high < 2.0**-450
    scale = b.select(big, 2.0**-600, b.select(small, 2.0**600, 1.0))
    unscale = b.select(big, 2.0**600, b.select(small, 2.0**-600, 1.0))
    high, low = high * scale, low * scale
    first, first_low = b.two_product(high, high)
    second, second_low = b.two_product(low, low)
    total, rest = b.fast_two_sum(first, second)
    root = b.sqrt(total)
    residual = b.fma(-root, root, total) + (rest + (first_low + second_low))
    return b.select(infinite, float("inf"), b.fma(residual, b.half_inverse(root), root) * unscale)


FUNCTIONS = {"cbrt": cbrt, "hypot": hypot}
RARE = {"cbrt": cbrt_of_rare}
