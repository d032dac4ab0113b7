"""cbrt and hypot.

In: a builder and the argument(s). Out: the value of the function.
"""

from . import tables as t
from .builder import bits_of


def cbrt(b, x):
    """x = 2**(3 q) m, m in [1, 8): a polynomial estimate of m**(-1/3), one cubically convergent step, and a last
    Newton step on y**3 = m whose residual is computed almost without error (Muller, chapter 5)."""
    fmt = b.format
    a = b.abs(x)
    up = 54 if b.double else 24
    tiny = a < 2.0 ** (1 - fmt.bias)
    scaled = b.select(tiny, a * 2.0**up, a)
    i = b.bits(scaled)
    exponent = b.from_bits((i >> fmt.mantissa) | bits_of(2.0**fmt.mantissa, fmt)) - (2.0**fmt.mantissa + fmt.bias)
    q = b.rint((exponent - 1.0) * (1.0 / 3.0))
    rest = b.fma(q, -3.0, exponent)
    m = b.from_bits((i & ((1 << fmt.mantissa) - 1)) | bits_of(1.0, fmt))
    estimate = b.horner(m, t.CBRT_ESTIMATE if b.double else t.CBRT_ESTIMATE_F32)
    one, two = rest.eq(1.0), rest.eq(2.0)
    m = m * b.select(one, 2.0, b.select(two, 4.0, 1.0))
    roots = [1.0 / c for c in t.CBRT_SCALE]
    r = estimate * b.select(one, roots[1], b.select(two, roots[2], roots[0]))
    error = b.fma(-(m * r), r * r, 1.0)
    r = b.fma(r * error, b.fma(error, 2.0 / 9.0, 1.0 / 3.0), r)
    y = m * (r * r)
    square, square_low = b.two_product(y, y)
    residual = b.fma(-square, y, m) - square_low * y
    y = b.fma(residual, r * r * (1.0 / 3.0), y)
    scale = b.from_bits(b.bits(q + (fmt.magic + fmt.bias)) << fmt.mantissa)
    y = y * scale * b.select(tiny, 2.0 ** (-up // 3), 1.0)
    return b.select((a > 0.0) & (a < float("inf")), b.copysign(y, x), x)


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
