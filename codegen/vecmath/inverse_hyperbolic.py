"""asinh, acosh, atanh: each is the logarithm of a sum u + e that is known in two parts.

In: a builder and the argument. Out: the value of the function. The identities are
asinh(x) = log(1 + x + x**2 / (1 + sqrt(1 + x**2))), acosh(1 + d) = log(1 + d + sqrt(d**2 + 2 d)) and
atanh(x) = log(1 + 2 x / (1 - x)) / 2; beyond 2**30 the first two are log(x) + log 2.
"""

from .logarithmic import log_of_sum

LARGE = 2.0**30


def asinh(b, x):
    a = b.abs(x)
    near = b.minimum(a, LARGE)
    square, square_low = b.two_product(near, near)
    root = b.sqrt(square + 1.0)
    divisor = root + 1.0
    divisor_low = root - (divisor - 1.0)
    inverse = 1.0 / divisor
    q = square * inverse
    q_low = (b.fma(-q, divisor, square) + b.fma(-q, divisor_low, square_low)) * inverse
    w, w_low = b.fast_two_sum(near, q)
    y = _log_one_plus(b, a, w, w_low + q_low)
    return b.copysign(b.select(a < float("inf"), y, a), x)


def acosh(b, x):
    d = b.minimum(x, LARGE) - 1.0
    square, square_low = b.two_product(d, d)
    total, rest = b.two_sum(d + d, square)
    root = b.sqrt(total)
    root_low = (b.fma(-root, root, total) + (rest + square_low)) * b.half_inverse(root)
    w, w_low = b.fast_two_sum(root, d)
    y = _log_one_plus(b, x, w, w_low + root_low)
    return b.select(x < 1.0, float("nan"), b.select(x < float("inf"), y, x))


def atanh(b, x):
    a = b.abs(x)
    divisor = 1.0 - a
    divisor_low = (1.0 - divisor) - a
    inverse = 1.0 / divisor
    q = (a + a) * inverse
    q_low = (b.fma(-q, divisor, a + a) - q * divisor_low) * inverse
    u, e = b.two_sum(1.0, q)
    y = 0.5 * log_of_sum(b, u, e + q_low)
    special = b.select(a.eq(1.0), float("inf"), float("nan"))
    return b.copysign(b.select(a < 1.0, y, special), x)


def _log_one_plus(b, x, w, w_low):
    """log(1 + w + w_low), or log(2 x) for a large x."""
    large = x > LARGE
    u, e = b.two_sum(1.0, w)
    u, e = b.select(large, x, u), b.select(large, 0.0, e + w_low)
    return log_of_sum(b, u, e, b.select(large, 1.0, 0.0))


FUNCTIONS = {"asinh": asinh, "acosh": acosh, "atanh": atanh}
