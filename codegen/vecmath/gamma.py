"""lgamma and digamma.

In: a builder and the argument. Out: the value of the function; for f32 computed in double arithmetic. From 1 to 4 one
polynomial in t = (x - 2) / (x + 2), which maps the half line to an interval, with the zeros split off: lgamma(x) =
(x - 1) (x - 2) P(t) and digamma(x) = (x - x0) P(t); below 1 by lgamma(x) = lgamma(x + 1) - log x and digamma(x) =
digamma(x + 1) - 1 / x. From 4 on Stirling's series in 1 / x**2, as a minimax polynomial, with log x in two parts (Abramowitz
& Stegun, 6.1.41, 6.3.18).

Negative arguments are rare (rare.py) and come from the reflection formulas (6.1.17, 6.3.7). There the zeros are not split off:
beside a zero the error is about an ulp of the terms, lgamma(|x|) and log |x| or digamma(|x|) and pi cot(pi x).
"""

from . import tables as t
from .logarithmic import split
from .trigonometric import cos_of_reduced, sin_of_reduced

FAR = 4.0
HUGE = 2.0**1000  # x log x beyond may overflow, whose rounding error would be NaN


def lgamma(b, x):
    wide = x if b.double else b.extend(x)
    y = _lgamma(b, wide, *_log(b, *split(b, wide)))
    return y if b.double else b.truncate(y), _is_rare(b, x, HUGE if b.double else float("inf"))


def digamma(b, x):
    wide = x if b.double else b.extend(x)
    near, inverse, inverse_low, far = _digamma_parts(b, wide)
    y = b.select(wide < FAR, b.select(wide < 1.0, (near - inverse_low) - inverse, near), far)
    return y if b.double else b.truncate(y), _is_rare(b, x, float("inf"))


def lgamma_of_rare(b, x):
    x = x if b.double else b.extend(x)
    a = b.abs(x)
    tiny = a < 2.0**-1022
    k, f = split(b, b.select(tiny, a * 2.0**54, a))
    high, low = _log(b, b.select(tiny, k - 54.0, k), f)
    y = b.select(a < HUGE, _lgamma(b, a, high, low), a * (high - 1.0))
    fraction, sine, _ = _turn(b, a)
    other_high, other_low = _log(b, *split(b, a * b.abs(sine) * (1.0 / t.PI[0])))
    y = b.select((x < 0.0) & (a > 2.0**-500), -other_high - (other_low + y), y)
    pole = a.eq(0.0) | ((x < 0.0) & fraction.eq(0.0))
    y = b.select(a < float("inf"), b.select(pole, float("inf"), y), x)
    return y if b.double else b.truncate(y)


def digamma_of_rare(b, x):
    x = x if b.double else b.extend(x)
    a = b.abs(x)
    near, inverse, _, far = _digamma_parts(b, a)
    fraction, sine, cosine = _turn(b, a)
    above = b.select(a < 1.0, near, b.select(a < FAR, near, far) + inverse)  # digamma(a + 1)
    negative = b.select(fraction.eq(0.0), float("nan"), above + t.PI[0] * (cosine / sine))
    y = b.select(x < 0.0, negative, near - 1.0 / x)
    y = b.select(x.eq(float("inf")) | x.is_nan(), x, y)
    return y if b.double else b.truncate(y)


def _of(b, name):
    return getattr(t, name if b.double else name + "_SHORT")


def _is_rare(b, x, limit):
    return b.outside(x, 2.0 ** (1 - b.format.bias), limit)


def _log(b, k, f):
    """k log 2 + log(1 + f) in two parts; see logarithmic.py."""
    ln2, ln2_low = t.LN2
    total, rest = b.fast_two_sum(k * ln2, f)
    s = f / (f + 2.0)
    z = s * s
    return b.fast_two_sum(total, b.fma(k, ln2_low, b.fma(-s, b.fma(-z, b.two_horners(z, t.LOG), f), rest)))


def _near(b, x, name):
    """(z - 1, P(t)) where z = x + 1 for x < 1 and z = x for x <= 4, t = (z - 2) / (z + 2)."""
    base = b.select(x < 1.0, x, x - 1.0)  # exact: z may be not
    return base, b.horner((base - 1.0) / (base + 3.0), _of(b, name))


def _lgamma(b, x, high, low):
    """lgamma of a positive x from log x in two parts."""
    base, polynomial = _near(b, x, "LGAMMA")
    zeros, zeros_low = b.two_product(base, base - 1.0)
    near = b.fma(zeros, polynomial, zeros_low * polynomial)
    near = b.select(x < 1.0, (near - low) - high, near)
    inverse = 1.0 / x
    factor = x - 0.5
    log_less, log_less_low = b.fast_two_sum(high, -1.0)
    product, product_low = b.two_product(factor, log_less)
    rest = b.fma(inverse, b.horner(inverse * inverse, _of(b, "LGAMMA_REST")), t.STIRLING[0])
    far = product + (b.fma(factor, log_less_low + low, product_low) + rest)
    return b.select(x < FAR, near, far)


def _digamma_parts(b, x):
    """For a positive x: (digamma(x + 1) if x < 1, else digamma(x), for x < 4; 1 / x in two parts; digamma(x) for x >= 4)."""
    zero, zero_low = t.PSI_ZERO
    base, polynomial = _near(b, x, "DIGAMMA")
    distance, distance_low = b.two_sum(base, 1.0 - zero)
    near = b.fma(distance, polynomial, (distance_low - zero_low) * polynomial)
    inverse = 1.0 / x
    high, low = _log(b, *split(b, x))
    rest = b.fma(inverse, b.horner(inverse * inverse, _of(b, "DIGAMMA_REST")), 0.5)
    return near, inverse, inverse * b.fma(-inverse, x, 1.0), high + (low - inverse * rest)


def _turn(b, a):
    """(a - round(a), sin(pi a), cos(pi a)), the latter two up to a common sign, for a >= 0."""
    fraction = a - b.rint(a)
    half_turns = b.rint(fraction + fraction)
    rest = b.fma(half_turns, -0.5, fraction)
    pi, pi_low = t.PI
    r, r_low = b.two_product(rest, pi)
    r_low = b.fma(rest, pi_low, r_low)
    sine, cosine = sin_of_reduced(b, r, r_low), cos_of_reduced(b, r, r_low)
    odd = half_turns.ne(0.0)
    # A quarter turn on: sin becomes cos, cos becomes -sin.
    return fraction, b.select(odd, cosine, sine), b.select(odd, -sine, cosine)


FUNCTIONS = {"lgamma": lgamma, "digamma": digamma}
RARE = {"lgamma": lgamma_of_rare, "digamma": digamma_of_rare}
