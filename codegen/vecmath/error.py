"""erf and erfc.

In: a builder and the argument. Out: the value of the function. Up to 1/2, an odd polynomial gives erf. Beyond,
erfc(x) = exp(-x**2) F(t) / (1 + 2 x), where t = (x - 4) / (x + 4) maps the half line to a bounded interval on
which F is smooth enough for one polynomial (Shepherd & Laframboise, Math. Comp. 36 (1981)); x**2 is in two parts.
"""

from . import tables as t
from .exponential import nearest, reduce, scale_by_power

CENTER = 4.0


def erf(b, x):
    a = b.abs(x)
    product, tail = _erf_near_zero(b, a)
    far = 1.0 - _erfc_far(b, a)
    return b.copysign(b.select(a < 0.5, product + tail, far), x)


def erfc(b, x):
    a = b.abs(x)
    product, tail = _erf_near_zero(b, x)
    high, low = b.fast_two_sum(1.0, -product)
    far = _erfc_far(b, a)
    far = b.select(x < 0.0, 2.0 - far, far)
    return b.select(a < 0.5, high + (low - tail), far)


def _of(b, name):
    return getattr(t, name if b.double else name + "_F32")


def _erf_near_zero(b, x):
    """erf(x) for |x| <= 1/2 in two parts."""
    factor, factor_low = _of(b, "TWO_OVER_SQRT_PI")
    z = x * x
    product, product_low = b.two_product(x, factor)
    tail = b.fma(x * z, b.horner(z, _of(b, "ERF")), b.fma(x, factor_low, product_low))
    return product, tail


def _erfc_far(b, x):
    """erfc(x) for x >= 1/2; anything finite for x below."""
    x = b.minimum(x, 27.5 if b.double else 10.5)
    square, square_low = b.two_product(x, x)
    shifted, n = nearest(b, -square, _of(b, "INV_LN2")[0])
    r, r_low = reduce(b, -square, n)
    r, r_low = b.fast_two_sum(r, r_low - square_low)
    exponential = r + b.fma(r * r, b.horner(r, _of(b, "EXP")), r_low)
    (head, head_low), *rest = _of(b, "ERFC")
    u = (x - CENTER) / (x + CENTER)
    high, low = b.fast_two_sum(head, b.fma(u, b.horner(u, rest), head_low))
    divisor, divisor_low = b.fast_two_sum(x + x, 1.0)
    inverse = 1.0 / divisor
    y = high * inverse
    y_low = (b.fma(-y, divisor, high) + b.fma(-y, divisor_low, low)) * inverse
    return scale_by_power(b, y + b.fma(y, exponential, y_low), shifted)


FUNCTIONS = {"erf": erf, "erfc": erfc}
