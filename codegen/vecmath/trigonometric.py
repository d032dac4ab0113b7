"""sin, cos, tan over the whole range of the format.

In: a builder and the argument. Out: the value of the function. The argument is reduced to x = n pi/2 + r, |r| <= pi/4,
r being carried in two parts. Two reductions: up to LIMIT pi/2 is subtracted in three parts by FMA (Cody & Waite, 1980),
the first difference being exact; beyond, where `rare.py` leads, by Payne & Hanek's method (SIGNUM Newsletter 18, 1983) in
floating-point arithmetic. With x' = x 2**(-16 j), which is an integer when j > 0, the factor 2**(16 j) 2/pi may drop
multiples of 4; that leaves a table of 61 rows of four doubles in fixed point. The fraction is known to an absolute error
near 2**-120, as the double nearest to a multiple of pi/2 lies 2**-61 from it.

A zero keeps its sign without a test: where n = 0, r and both corrections come out as 0 of the sign that makes `r - low` right.
sin and cos evaluate both polynomials and choose by n: when a program has both of the same argument, LLVM merges all but the
choice. tan has one polynomial, and in the odd quadrants it is -1 / tan(r).
"""

from . import tables as t
from .builder import bits_of

LIMIT = {True: 2.0**30, False: 2.0**17}  # by b.double: n is exact, and n times a third part's error does not count


def sin(b, x):
    return _sin_of(b, *_reduce(b, x)), b.reaches(x, LIMIT[b.double])


def cos(b, x):
    return _cos_of(b, *_reduce(b, x)), b.reaches(x, LIMIT[b.double])


def tan(b, x):
    return _tan_of(b, *_reduce(b, x)), b.reaches(x, LIMIT[b.double])


def sin_far(b, x):
    return _in_double(b, x, lambda x: _sin_of(b, *_reduce_far(b, x)))


def cos_far(b, x):
    return _in_double(b, x, lambda x: _cos_of(b, *_reduce_far(b, x)))


def tan_far(b, x):
    return _in_double(b, x, lambda x: _tan_of(b, *_reduce_far(b, x)))


def _in_double(b, x, function):
    return function(x) if b.double else b.truncate(function(b.extend(x)))


def _of(x, name):
    return getattr(t, name if x.type == "double" else name + "_F32")


def _sin_of(b, n, r, r_low):
    return _with_sign(b, _choose(b, n, cos_of_reduced(b, r, r_low), sin_of_reduced(b, r, r_low)), n)


def _cos_of(b, n, r, r_low):
    return _with_sign(b, _choose(b, n, sin_of_reduced(b, r, r_low), cos_of_reduced(b, r, r_low)), n + 1)


def _tan_of(b, n, r, r_low):
    """Half an ulp from each of the sum and the quotient; tan'(r) = 1 + tan(r)**2 is near enough to 1 + 1.4 r**2 for r_low."""
    z = r * r
    minus_low = b.fma(r * z, b.two_horners(z, [-c for c in _of(r, "TAN")]), -b.fma(1.4 * z, r_low, r_low))
    y = r - minus_low
    return _choose(b, n, -1.0 / y, y)


def _choose(b, n, odd, even):
    return b.select((n & 1).ne(0), odd, even)


def _with_sign(b, y, n):
    """-y in the third and fourth quadrants."""
    return b.from_bits(b.bits(y) ^ ((n & 2) << (62 if y.type == "double" else 30)))


def _reduce(b, x):
    """(n as an integer, right modulo 4; r in two parts): x = n pi/2 + r, for |x| < LIMIT."""
    shifted = b.fma(x, _of(x, "TWO_OVER_PI_FULL")[0], b.format.magic)
    n = shifted - b.format.magic
    first, second, third = _of(x, "HALF_PI")
    rest = b.fma(n, -first, x)
    product, product_low = b.two_product(n, second)
    # rest is a multiple of an ulp of the product: the fast sum is exact (Boldo et al., 2023).
    r, r_low = b.fast_two_sum(rest, -product)
    return b.bits(shifted), r, r_low - b.fma(n, third, product_low)


def _reduce_far(b, x):
    """The same for any double x."""
    exponent = (b.bits(x) >> 52) & 2047
    row = b.select(exponent > 1075, exponent - 1075, 0) >> 4
    x = x * b.from_bits(bits_of(1.0) - (row << 56))
    t0, t1, t2, t3 = (b.gather(f"two_over_pi.{i}", column, row) for i, column in enumerate(t.TWO_OVER_PI))
    p0, e0 = b.two_product(x, t0)
    p1, e1 = b.two_product(x, t1)
    p2, e2 = b.two_product(x, t2)
    p0 = b.fma(b.rint(p0 * 0.25), -4.0, p0)
    # p0 is a multiple of an ulp of e0, and so on below: again the fast sums are exact.
    total, rest0 = b.fast_two_sum(p0, e0)
    total, rest1 = b.two_sum(total, p1)
    nearest = b.rint(total)
    high, low0 = b.fast_two_sum(total - nearest, rest0 + rest1)
    high, low1 = b.fast_two_sum(high, e1)
    high, low2 = b.fast_two_sum(high, p2)
    low = low0 + (low1 + (low2 + b.fma(x, t3, e2)))
    half_pi, half_pi_low, _ = t.HALF_PI
    r, r_low = b.two_product(high, half_pi)
    return b.bits(nearest + 1.5 * 2.0**52), r, b.fma(high, half_pi_low, b.fma(low, half_pi, r_low))


def sin_of_reduced(b, r, r_low):
    """sin(r + r_low) for |r| <= pi/4, from a minimax polynomial in r**2."""
    z = r * r
    minus_low = b.fma(r * z, b.horner(z, [-c for c in _of(r, "SIN")]), b.fma(z * 0.5, r_low, -r_low))
    return r - minus_low


def cos_of_reduced(b, r, r_low):
    """cos(r + r_low) for |r| <= pi/4; 1 - r**2/2 without its rounding error."""
    z = r * r
    half = 0.5 * z
    head = 1.0 - half
    rest = (1.0 - head) - half
    return head + (rest + b.fma(z * z, b.horner(z, _of(r, "COS")), -(r * r_low)))


FUNCTIONS = {"sin": sin, "cos": cos, "tan": tan}
RARE = {"sin": sin_far, "cos": cos_far, "tan": tan_far}
