"""Derivatives at the corners: numbers known from calculus, conventions of the records, no NaN from dead branches."""

import math

import numpy as np
import pytest
from support import active, traced

from tapejit.ir.backward import backward
from tapejit.ir.evaluate import evaluate
from tapejit.ir.linearize import linearize
from tapejit.ir.types import F64, I64


def gradients(function, *arrays):
    """Gradients of the sum of the result by reverse mode; forward mode must give the same products."""
    arrays = [np.asarray(a) for a in arrays]
    graph = traced(function, *arrays)
    (result,) = evaluate(graph, arrays)
    grads = evaluate(backward(graph, active(arrays)), [*arrays, np.ones_like(result)])[1:]
    tangents = [np.ones_like(a) for a in arrays if a.dtype.kind == "f"]
    (slope,) = evaluate(linearize(graph, active(arrays)), [*arrays, *tangents])[1:]
    np.testing.assert_allclose(np.sum(slope), sum(np.sum(g) for g in grads), rtol=1e-12, atol=1e-12)
    return [g.tolist() for g in grads]


def reverse_gradient(function, x):
    graph = traced(function, x)
    (result,) = evaluate(graph, [x])
    return evaluate(backward(graph, [True]), [x, np.ones_like(result)])[1].tolist()


def hessian(function, x):
    """Of the sum of the result, by forward over reverse and by reverse over reverse, which must agree."""
    x = np.asarray(x)
    graph = traced(function, x)
    (result,) = evaluate(graph, [x])
    first = backward(graph, [True])
    columns, rows = [], []
    for k in range(x.size):
        unit = np.zeros(x.size)
        unit[k] = 1.0
        unit = unit.reshape(x.shape)
        args = [x, np.ones_like(result)]
        columns.append(evaluate(linearize(first, [True, False]), [*args, unit])[3].reshape(-1))
        rows.append(evaluate(backward(first, [True, False]), [*args, np.zeros_like(result), unit])[2].reshape(-1))
    np.testing.assert_allclose(np.array(columns).T, np.array(rows), rtol=1e-12, atol=1e-12)
    return np.array(rows).tolist()


def guarded(inner):
    """where(x > 0, inner(x), 0)"""
    return lambda b, x: b.select(b.gt(x, 0.0), inner(b, x), 0.0)


# inner function, its derivative at 4
DEAD = {
    "sqrt": (lambda b, x: b.sqrt(x), 0.25),
    "log": (lambda b, x: b.log(x), 0.25),
    "div": (lambda b, x: b.div(1.0, x), -1 / 16),
    "pow": (lambda b, x: b.pow(x, 0.5), 0.25),
    "x pow": (lambda b, x: b.pow(x, x), 256 * (1 + math.log(4))),
    "log of sqrt": (lambda b, x: b.log(b.sqrt(x)), 0.125),
    "x log x": (lambda b, x: b.mul(x, b.log(x)), 1 + math.log(4)),
    "exp of 1/x": (lambda b, x: b.exp(b.div(1.0, x)), -math.exp(0.25) / 16),
    "cbrt": (lambda b, x: b.cbrt(x), 1 / (3 * 4 ** (2 / 3))),
    "log1p": (lambda b, x: b.log1p(b.sub(x, 1.0)), 0.25),
    "acosh": (lambda b, x: b.acosh(b.add(x, 1.0)), 1 / math.sqrt(24)),
    "sqrt of a sum of two": (lambda b, x: b.sqrt(b.add(b.mul(x, x), x)), 9 / (2 * math.sqrt(20))),
}


@pytest.mark.parametrize("name", DEAD)
def test_the_branch_not_taken_gives_zero(name):
    inner, at_four = DEAD[name]
    (got,) = gradients(guarded(inner), [0.0, -1.0, 4.0, -0.0])
    assert got[:2] == [0.0, 0.0] and got[3] == 0.0
    assert got[2] == pytest.approx(at_four, rel=1e-13)


@pytest.mark.parametrize("name", DEAD)
def test_the_branch_not_taken_gives_zero_through_other_operations(name):
    """The same in reverse mode proper: the select lies behind a reshape, and x behind a product of two values."""
    inner, at_four = DEAD[name]

    def behind(b, x):
        x = b.reshape(x, shape=(1, 3))
        return b.select(b.gt(x, 0.0), b.reshape(inner(b, b.reshape(x, shape=(3,))), shape=(1, 3)), 0.0)

    def product(b, x, y):
        return b.select(b.gt(x, 0.0), inner(b, b.mul(x, y)), 0.0)

    x = np.array([0.0, -1.0, 4.0])
    assert reverse_gradient(behind, x) == [0.0, 0.0, pytest.approx(at_four, rel=1e-13)]
    dx, dy = gradients(product, x, np.ones(3))
    assert dx == [0.0, 0.0, pytest.approx(at_four, rel=1e-13)]
    assert dy == [0.0, 0.0, pytest.approx(4 * at_four, rel=1e-13)]


def test_overflow_in_the_branch_not_taken_gives_zero():
    (got,) = gradients(lambda b, x: b.select(b.lt(x, 700.0), b.exp(x), 0.0), [1000.0, 0.0])
    assert got == [0.0, 1.0]


def test_an_infinite_factor_in_the_branch_not_taken_gives_zero():
    f = lambda b, x, y: b.select(b.gt(y, 0.0), b.mul(x, b.log(y)), 0.0)
    dx, dy = gradients(f, [2.0, 2.0], [0.0, 4.0])
    assert dx == [0.0, pytest.approx(math.log(4.0))] and dy == [0.0, 0.5]


def test_second_order_of_the_branch_not_taken_is_zero():
    got = hessian(guarded(lambda b, x: b.sqrt(x)), [0.0, -1.0, 4.0])
    assert got == [[0, 0, 0], [0, 0, 0], [0, 0, -1 / 32]]


@pytest.mark.parametrize("name", ["sqrt", "log"])
def test_elements_that_slice_and_gather_leave_out_give_zero(name):
    rows = lambda b: b.add(b.iota(shape=(2,), dtype=I64), 1)
    x = np.array([0.0, 4.0, 4.0])  # where both have the derivative 1/4
    cut = lambda b, x: b.slice(getattr(b, name)(x), start=(1,), stop=(3,), step=(1,))
    taken = lambda b, x: b.gather(getattr(b, name)(x), rows(b))
    assert reverse_gradient(cut, x) == [0.0, 0.25, 0.25]
    assert reverse_gradient(taken, x) == [0.0, 0.25, 0.25]


def test_a_cotangent_that_happens_to_be_zero_keeps_its_own_derivative():
    """sum(log(x)[1:]**2) at x = 1: the residual is 0, the Hessian 2/x**2 * (1 - log x) = 2, not a strong zero."""
    def f(b, x):
        r = b.slice(b.log(x), start=(1,), stop=(3,), step=(1,))
        return b.mul(r, r)

    def g(b, x):
        r = b.select(b.gt(x, 0.5), b.log(b.mul(x, x)), 0.0)
        return b.mul(r, r)

    assert hessian(f, [1.0, 1.0, 1.0]) == [[0, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert hessian(g, [1.0, 0.0]) == [[8, 0], [0, 0]]


def test_ties_share_equally():
    assert gradients(lambda b, x, y: b.maximum(x, y), [1.0, 2.0, 3.0], [1.0, 5.0, 0.0]) == [[0.5, 0, 1], [0.5, 1, 0]]
    assert gradients(lambda b, x, y: b.minimum(x, y), [1.0, 2.0, 3.0], [1.0, 5.0, 0.0]) == [[0.5, 1, 0], [0.5, 0, 1]]
    third = 1 / 3
    assert gradients(lambda b, x: b.reduce_max(x, axes=(0,)), [2.0, 2.0, 1.0, 2.0]) == [[third, third, 0.0, third]]
    assert gradients(lambda b, x: b.reduce_min(x, axes=(1,)), [[2.0, 1.0, 1.0]]) == [[[0.0, 0.5, 0.5]]]
    assert gradients(lambda b, x: b.maximum(x, x), [2.0]) == [[1.0]]


def test_abs_sign_and_rounding():
    assert gradients(lambda b, x: b.abs(x), [0.0, -0.0, -2.0, 3.0]) == [[0, 0, -1, 1]]
    for name in ("sign", "floor", "ceil", "trunc", "rint"):
        assert gradients(lambda b, x, name=name: getattr(b, name)(x), [0.0, 1.5, -2.5]) == [[0, 0, 0]]


def test_powers_at_zero():
    for exponent, want in ((0.0, 0.0), (1.0, 1.0), (2.0, 0.0), (3.0, 0.0)):
        assert gradients(lambda b, x, c=exponent: b.pow(x, c), [0.0]) == [[want]]
        grads = gradients(lambda b, x, y: b.pow(x, y), [0.0], [exponent])
        assert grads == [[want], [0.0]]
    assert hessian(lambda b, x: b.pow(x, 2.0), [0.0]) == [[2.0]]
    assert gradients(lambda b, y: b.pow(b.full(0.0, y.type), y), [2.0, 0.5]) == [[0, 0]]


def test_mixed_second_derivative_of_a_power_at_exponent_zero():
    """d2(x**y)/dxdy = x**(y-1) (1 + y log x), 1/x at y = 0."""
    f = lambda b, v: b.pow(
        b.slice(v, start=(0,), stop=(1,), step=(1,)), b.slice(v, start=(1,), stop=(2,), step=(1,))
    )
    got = np.array(hessian(f, [4.0, 0.0]))
    np.testing.assert_allclose(got, [[0.0, 0.25], [0.25, math.log(4.0) ** 2]], rtol=1e-14)


def test_remainder_counts_as_its_value_does():
    """1.0 % 0.1 is 0.09999..., nine times 0.1 went in, though 1.0 / 0.1 rounds to ten."""
    assert gradients(lambda b, x, y: b.remainder(x, y), [1.0, -7.0], [0.1, 2.0]) == [[1, 1], [-9, 4]]
    assert gradients(lambda b, x, y: b.fmod(x, y), [1.0, -7.0], [0.1, 2.0]) == [[1, 1], [-9, 3]]


def test_products_with_zeros():
    prod = lambda b, x: b.reduce_prod(x, axes=(0,))
    assert gradients(prod, [2.0, 3.0, 5.0]) == [[15, 10, 6]]
    assert gradients(prod, [0.0, 3.0, 5.0]) == [[15, 0, 0]]
    assert gradients(prod, [0.0, 3.0, 0.0]) == [[0, 0, 0]]
    assert hessian(prod, [0.0, 3.0, 0.0]) == [[0, 0, 3], [0, 0, 0], [3, 0, 0]]
    assert hessian(prod, [1e154, 1e154, 0.0]) == [[0, 0, 1e154], [0, 0, 1e154], [1e154, 1e154, 0]]


def test_cumprod_with_zeros():
    """Sum of x, xy, xyz at (2, 0, 5): 1 + y + yz, x + xz, xy."""
    run = lambda reverse: lambda b, x: b.cumprod(x, axis=0, reverse=reverse)
    assert gradients(run(False), [2.0, 0.0, 5.0]) == [[1, 12, 0]]
    assert gradients(run(True), [5.0, 0.0, 2.0]) == [[0, 12, 1]]
    assert hessian(run(False), [2.0, 0.0, 5.0]) == [[0, 6, 0], [6, 0, 2], [0, 2, 0]]


def test_logaddexp_with_infinities():
    inf = math.inf
    f = lambda b, x, y: b.logaddexp(x, y)
    x, y = [-inf, 1.0, -inf, inf, 0.0], [1.0, -inf, -inf, 0.0, 0.0]
    assert gradients(f, x, y) == [[0, 1, 0.5, 1, 0.5], [1, 0, 0.5, 0, 0.5]]
    got = np.array(hessian(lambda b, v: b.logaddexp(v, 0.0), [0.0, 800.0, -800.0]))
    assert np.diag(got).tolist() == [0.25, 0.0, 0.0]
    assert gradients(lambda b, x: b.softplus(x), [-inf, 0.0, inf]) == [[0, 0.5, 1]]


def test_hypot_and_norm_at_the_origin():
    assert gradients(lambda b, x, y: b.hypot(x, y), [0.0, 3.0, -2.0], [0.0, 4.0, 0.0]) == [[0, 0.6, -1], [0, 0.8, 0]]
    pair = lambda b, v: [b.slice(v, start=(k,), stop=(k + 1,), step=(1,)) for k in (0, 1)]
    f = lambda b, v: b.hypot(*pair(b, v))
    assert hessian(f, [0.0, 0.0]) == [[0, 0], [0, 0]]
    norm = lambda b, x: b.sqrt(b.reduce_sum(b.mul(x, x), axes=(0,)))
    np.testing.assert_allclose(gradients(norm, [3.0, 4.0]), [[0.6, 0.8]], rtol=1e-15)


def test_borders_of_domains_are_infinite():
    for name, at in (("sqrt", 0.0), ("log", 0.0), ("cbrt", 0.0), ("asin", 1.0), ("acosh", 1.0), ("atanh", 1.0)):
        assert reverse_gradient(lambda b, x, name=name: getattr(b, name)(x), np.array([at])) == [math.inf]
    assert reverse_gradient(lambda b, x: b.acos(x), np.array([1.0])) == [-math.inf]


def test_far_arguments_keep_their_derivatives():
    assert gradients(lambda b, x: b.tanh(x), [400.0, -400.0]) == [[0, 0]]
    assert gradients(lambda b, x: b.logistic(x), [-800.0, 800.0]) == [[0, 0]]
    (dy,), (dx,) = gradients(lambda b, y, x: b.atan2(y, x), [1e-200], [1e-200])
    assert dy == pytest.approx(5e199, rel=1e-14) and dx == pytest.approx(-5e199, rel=1e-14)


def test_scatter_with_repeated_rows():
    """Of rows 1, 0, 1 the last update wins row 1; added ones all count."""
    index = lambda b: b.convert(b.abs(b.sub(b.iota(shape=(3,), dtype=F64), 1.0)), dtype=I64)  # 1, 0, 1
    x, u = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])
    replace = lambda b, x, u: b.scatter(x, index(b), u)
    add = lambda b, x, u: b.scatter_add(x, index(b), u)
    assert evaluate(traced(replace, x, u), [x, u])[0].tolist() == [20, 30, 3]
    assert evaluate(traced(add, x, u), [x, u])[0].tolist() == [21, 42, 3]
    assert gradients(replace, x, u) == [[0, 0, 1], [0, 1, 1]]
    assert gradients(add, x, u) == [[1, 1, 1], [1, 1, 1]]


def test_an_empty_slice_of_a_strided_slice():
    x = np.arange(4.0)

    def f(b, x):
        inner = b.slice(x, start=(0,), stop=(4,), step=(3,))
        return b.slice(inner, start=(2,), stop=(2,), step=(1,))

    assert evaluate(traced(f, x), [x])[0].shape == (0,)
