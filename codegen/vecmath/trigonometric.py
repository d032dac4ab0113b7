"""sin, cos, tan over the whole range of the format.

In: a builder and the argument. Out: the value of the function. The argument is reduced to x = (n + F) pi/2,
|F| <= 1/2, by Payne & Hanek's method (SIGNUM Newsletter 18, 1983) in floating-point arithmetic. With
x' = x 2**(-16 j), which is an integer when j > 0, the factor 2**(16 j) 2/pi may drop multiples of 4; that leaves a
table of 61 rows of four doubles in fixed point. F is carried in two parts with an absolute error near 2**-120, as
the double nearest to a multiple of pi/2 lies 2**-61 from it.

One path serves all arguments. A branch to a slow path would keep the loop from being vectorized, and computing
two paths and selecting takes more operations than this one. Small arguments all read the first row, so that the
gathers cost little; cos and sin of the same argument share the reduction once LLVM has merged equal expressions.
"""

from . import tables as t
from .builder import bits_of


def sin(b, x):
    n, r, r_low = _reduce(b, x)
    y = _with_sign(b, _choose(b, n, _cos(b, r, r_low), _sin(b, r, r_low)), n)
    return b.select(b.abs(x) < (2.0**-26 if b.double else 2.0**-12), x, y if b.double else b.truncate(y))


def cos(b, x):
    n, r, r_low = _reduce(b, x)
    y = _with_sign(b, _choose(b, n, _sin(b, r, r_low), _cos(b, r, r_low)), n + 1)
    return y if b.double else b.truncate(y)


def tan(b, x):
    """sin / cos, or -cos / sin in the odd quadrants; for f64 all three are in two parts."""
    n, r, r_low = _reduce(b, x)
    if b.double:
        s, s_low = b.fast_two_sum(*_sin_parts(b, r, r_low))
        c, c_low = b.fast_two_sum(*_cos_parts(b, r, r_low))
        y = b.quotient(
            _choose(b, n, c, s), _choose(b, n, c_low, s_low), _choose(b, n, s, c), _choose(b, n, s_low, c_low)
        )
    else:
        s, c = _sin(b, r, r_low), _cos(b, r, r_low)
        y = _choose(b, n, c, s) / _choose(b, n, s, c)
    y = b.from_bits(b.bits(y) ^ ((n & 1) << 63))
    return b.select(b.abs(x) < (2.0**-27 if b.double else 2.0**-13), x, y if b.double else b.truncate(y))


def _choose(b, n, odd, even):
    return b.select((n & 1).ne(0), odd, even)


def _with_sign(b, y, n):
    """-y in the third and fourth quadrants."""
    return b.from_bits(b.bits(y) ^ ((n & 2) << 62))


def _reduce(b, x):
    """(n as an integer, right modulo 4; r and its low part): x = n pi/2 + r. For f32, r is one double."""
    if not b.double:
        return _reduce_f32(b, b.extend(x))
    exponent = (b.bits(x) >> 52) & 2047
    row = b.select(exponent > 1075, exponent - 1075, 0) >> 4
    x = x * b.from_bits(bits_of(1.0) - (row << 56))
    t0, t1, t2, t3 = (b.gather(f"two_over_pi.{i}", column, row) for i, column in enumerate(t.TWO_OVER_PI))
    p0, e0 = b.two_product(x, t0)
    p1, e1 = b.two_product(x, t1)
    p2, e2 = b.two_product(x, t2)
    p0 = b.fma(b.rint(p0 * 0.25), -4.0, p0)
    # p0 is a multiple of an ulp of e0, and so on below: the fast sums are exact (Boldo et al., 2023).
    total, rest0 = b.fast_two_sum(p0, e0)
    total, rest1 = b.two_sum(total, p1)
    nearest = b.rint(total)
    high, low0 = b.fast_two_sum(total - nearest, rest0 + rest1)
    high, low1 = b.fast_two_sum(high, e1)
    high, low2 = b.fast_two_sum(high, p2)
    low = low0 + (low1 + (low2 + b.fma(x, t3, e2)))
    half_pi, half_pi_low = t.HALF_PI
    r, r_low = b.two_product(high, half_pi)
    r_low = b.fma(high, half_pi_low, b.fma(low, half_pi, r_low))
    return b.bits(nearest + b.format.magic), r, r_low


def _reduce_f32(b, x):
    """The same in double arithmetic: x' has 24 bits, so its product with the first column is exact."""
    exponent = (b.bits(x) >> 52) & 2047
    row = b.select(exponent > 1046, exponent - 1046, 0)
    row = b.select(row > 104, 104, row)
    x = x * b.from_bits(bits_of(1.0) - (row << 52))
    t0, t1 = (b.gather(f"two_over_pi_f32.{i}", column, row) for i, column in enumerate(t.TWO_OVER_PI_F32))
    p = x * t0
    nearest = b.rint(p)
    r = b.fma(x, t1, p - nearest) * t.HALF_PI[0]
    return b.bits(nearest + 1.5 * 2.0**52), r, None


def _sin_parts(b, r, r_low):
    """sin(r + r_low) in two parts for |r| <= pi/4, from a minimax polynomial in r**2."""
    z = r * r
    return r, b.fma(r * z, b.horner(z, t.SIN), b.fma(z * -0.5, r_low, r_low))


def _cos_parts(b, r, r_low):
    """cos(r + r_low) in two parts for |r| <= pi/4."""
    z = r * r
    half = 0.5 * z
    head = 1.0 - half
    rest = (1.0 - head) - half
    return head, rest + b.fma(z * z, b.horner(z, t.COS), -(r * r_low))


def _sin(b, r, r_low):
    if r_low is None:
        z = r * r
        return b.fma(r * z, b.horner(z, t.SIN_SHORT), r)
    high, low = _sin_parts(b, r, r_low)
    return high + low


def _cos(b, r, r_low):
    if r_low is None:
        z = r * r
        return b.fma(z * z, b.horner(z, t.COS_SHORT), b.fma(z, -0.5, 1.0))
    high, low = _cos_parts(b, r, r_low)
    return high + low


FUNCTIONS = {"sin": sin, "cos": cos, "tan": tan}
