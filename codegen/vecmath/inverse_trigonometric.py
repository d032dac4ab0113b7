"""asin, acos, atan, atan2.

In: a builder and the argument(s). Out: the value of the function.
asin and acos: a minimax polynomial up to 1/2; above it asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2)).
atan(num / den) for 0 <= num <= den: above 1/2, pi/4 + atan((num - den) / (num + den)); the other octants by symmetry.
Square root and quotient carry their remainder to first order, and multiples of pi/4 are added in two parts.
(Muller, Elementary Functions, chapter 11: only textbook identities are used.)
"""

from . import tables as t
from .builder import bits_of


def asin(b, x):
    a = b.abs(x)
    big, w, tail = _asin_half(b, a, a)
    half_pi, half_pi_low, _ = _of(b, "HALF_PI")
    scale = b.select(big, -2.0, 1.0)
    high, low = b.fast_two_sum(b.select(big, half_pi, 0.0), scale * w)
    low = low + b.select(big, half_pi_low, 0.0)
    return b.copysign(high + b.fma(scale, tail, low), x)


def acos(b, x):
    big, w, tail = _asin_half(b, b.abs(x), x)
    half_pi, half_pi_low, _ = _of(b, "HALF_PI")
    below = x < -0.5
    scale = b.select(big, b.select(below, -2.0, 2.0), -1.0)
    multiple = b.select(big, b.select(below, 2.0, 0.0), 1.0)
    high, low = b.fast_two_sum(multiple * half_pi, scale * w)
    return high + b.fma(scale, tail, b.fma(multiple, half_pi_low, low))


def atan(b, x):
    """The polynomial up to 9/16, pi/4 + atan((a - 1) / (a + 1)) up to 5/2, then pi/2 - atan(1 / a).

    a - 1 is exact; the rounding error of a + 1 counts least where the quotient is small beside the result.
    """
    a = b.minimum(b.abs(x), 2.0**60)
    small, large = b.bits(a) < bits_of(0.5625, b.format), b.bits(a) > bits_of(2.5, b.format)
    numerator = b.select(small, a, b.select(large, -1.0, a - 1.0))
    denominator = b.select(small, 1.0, b.select(large, a, a + 1.0))
    half_pi, half_pi_low, _ = _of(b, "HALF_PI")
    base = b.select(small, 0.0, b.select(large, half_pi, half_pi / 2))
    inverse = 1.0 / denominator
    q = numerator * inverse
    remainder = b.fma(-q, denominator, numerator)
    z = q * q
    high, low = b.fast_two_sum(base, q)
    low = b.fma(base, half_pi_low / half_pi, b.fma(remainder, inverse, low))
    return b.copysign(high + b.fma(q * z, b.two_horners(z, _of(b, "ATAN")), low), x)


def atan2(b, y, x):
    """The angle of the point (x, y); scaled so that no quotient of representable size over- or underflows."""
    ax, ay = b.abs(x), b.abs(y)
    swapped = ay > ax
    num, den = b.select(swapped, ax, ay), b.select(swapped, ay, ax)
    infinite = den.eq(float("inf"))
    num = b.select(infinite, b.select(num.eq(float("inf")), 1.0, 0.0), num)
    den = b.select(infinite | den.eq(0.0), 1.0, den)
    # Up, so that remainders do not underflow; down only as far as the inverse of den needs, or a small num would
    # lose bits that the quotient has.
    above, down, below, up = (1000, -100, 200, 600) if b.double else (100, -28, 20, 60)
    scale = b.select(den > 2.0**above, 2.0**down, b.select(den < 2.0**below, 2.0**up, 1.0))
    negative = b.copysign(1.0, x) < 0.0
    angle = b.copysign(_atan_quotient(b, num * scale, den * scale, swapped, negative), y)
    return b.select(ax.is_nan() | ay.is_nan(), x + y, angle)


def _of(b, name):
    return getattr(t, name if b.double else name + "_F32")


def _asin_half(b, a, x):
    """(a > 1/2, w, tail): asin(w) = w + tail for w = x, or for w = sqrt((1 - a) / 2) when a > 1/2."""
    big = a > 0.5
    z = b.select(big, b.fma(a, -0.5, 0.5), a * a)
    root = b.sqrt(z)
    root_low = b.select(big, b.fma(-root, root, z) * b.half_inverse(root), 0.0)
    w = b.select(big, root, x)
    return big, w, b.fma(w * z, b.horner(z, _of(b, "ASIN")), root_low)


def _atan_quotient(b, num, den, swapped, negative):
    """atan(num / den) for 0 <= num <= den; pi/2 minus it where swapped; pi minus that where negative."""
    middle = num > 0.5 * den
    total, total_low = b.fast_two_sum(den, num)
    numerator = b.select(middle, num - den, num)
    denominator = b.select(middle, total, den)
    inverse = 1.0 / denominator
    q = numerator * inverse
    remainder = b.fma(-q, denominator, numerator) - q * b.select(middle, total_low, 0.0)
    z = q * q
    tail = b.fma(q * z, b.horner(z, _of(b, "ATAN")), remainder * inverse)
    eighths = b.select(middle, 1.0, 0.0)
    eighths = b.select(swapped, 2.0 - eighths, eighths)
    flipped = swapped
    if negative is not None:
        eighths = b.select(negative, 4.0 - eighths, eighths)
        flipped = swapped ^ negative
    q, tail = b.select(flipped, -q, q), b.select(flipped, -tail, tail)
    half_pi, half_pi_low, _ = _of(b, "HALF_PI")
    base, base_low = b.two_product(eighths, half_pi / 2)
    high, low = b.fast_two_sum(base, q)
    return high + (low + b.fma(eighths, half_pi_low / 2, base_low + tail))


FUNCTIONS = {"asin": asin, "acos": acos, "atan": atan, "atan2": atan2}
