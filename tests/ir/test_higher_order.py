"""Repeated differentiation: sizes that grow polynomially, and values against mpmath's Taylor series.

The k-th derivative is made as a user makes it: the transform is applied to the optimised derivative of order k - 1.
Run with `-s` to see the table of sizes.
"""

import mpmath
import numpy as np
import pytest

from tapejit.ir.backward import backward
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.linearize import linearize
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.types import F64, tensor
from tapejit.ir.verify import verify
from tapejit.ir.walk import inline

ORDERS = 9
POINTS = (0.1, 0.7, 1.3, -2.1, 3.0)

FUNCTIONS = {  # name: (in the IR, in mpmath)
    "sin(x)**2": (lambda b, x: b.pow(b.sin(x), 2.0), lambda x: mpmath.sin(x) ** 2),
    "exp(sin(x**2))": (lambda b, x: b.exp(b.sin(b.pow(x, 2.0))), lambda x: mpmath.exp(mpmath.sin(x * x))),
    "tanh(sin(x))": (lambda b, x: b.tanh(b.sin(x)), lambda x: mpmath.tanh(mpmath.sin(x))),
    "exp(-x**2)": (lambda b, x: b.exp(b.neg(b.mul(x, x))), lambda x: mpmath.exp(-x * x)),
    "sin(x)/(x**2+1)": (
        lambda b, x: b.div(b.sin(x), b.add(b.mul(x, x), 1.0)),
        lambda x: mpmath.sin(x) / (x * x + 1),
    ),
    "sqrt(log(x**2+1.5))": (
        lambda b, x: b.sqrt(b.log(b.add(b.mul(x, x), 1.5))),
        lambda x: mpmath.sqrt(mpmath.log(x * x + mpmath.mpf(1.5))),
    ),
}
BOUNDS = {  # most nodes of the derivatives of order 1, 3, 6, 9
    "sin(x)**2": (4, 4, 6, 4),
    "exp(sin(x**2))": (8, 30, 100, 200),
    "tanh(sin(x))": (8, 22, 80, 175),
    "exp(-x**2)": (6, 12, 26, 50),
    "sin(x)/(x**2+1)": (12, 48, 200, 450),
    "sqrt(log(x**2+1.5))": (9, 40, 170, 400),
}


def program(rule, shape=()):
    """The function as a program; summed over the elements if it has several."""
    b = Builder("f")
    x = b.param(tensor(F64, shape), "x")
    y = rule(b, x)
    return b.finish([b.reduce_sum(y, axes=(0,)) if shape else y])


def reverse(graph):
    """x -> gradient of the sum of the graph's result."""
    vjp = backward(graph, [True])
    b = Builder("grad")
    x = b.param(graph.params[0].type, "x")
    b.tag = "vjp"
    results = inline(b, vjp, [x, b.full(1.0, graph.results[0].type)])
    return optimize(b.finish(results[1:]), differentiate_later=True)


def forward(graph):
    """x -> derivative of the graph's result in the direction 1."""
    jvp = linearize(graph, [True])
    b = Builder("jvp")
    x = b.param(graph.params[0].type, "x")
    b.tag = "jvp"
    results = inline(b, jvp, [x, b.full(1.0, x.type)])
    return optimize(b.finish(results[1:]), differentiate_later=True)


def derivatives(rule, mode, orders=ORDERS, shape=()):
    """The programs of the derivatives of order 1, 2, ... as they are compiled."""
    graph, out = program(rule, shape), []
    for _ in range(orders):
        graph = mode(graph)
        out.append(optimize(graph))
    return out


@pytest.mark.parametrize("shape", [(), (100,)], ids=["scalar", "f64[100]"])
@pytest.mark.parametrize("mode", [reverse, forward])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_stay_polynomial(name, mode, shape):
    if shape and mode is forward:
        pytest.skip("the forward derivative of a sum is the sum of the derivatives: the scalar case")
    sizes = [len(g) for g in derivatives(FUNCTIONS[name][0], mode, shape=shape)]
    print(f"\n{name:22}{mode.__name__:9}{str(shape):7} {sizes}")
    for k, bound in zip((1, 3, 6, 9), BOUNDS[name]):
        assert sizes[k - 1] <= bound, sizes
    # Cubic growth at most: doubling the order multiplies the size by no more than 8.
    assert sizes[7] <= 8 * sizes[3]


def taylor(name, point):
    with mpmath.workdps(50):
        series = mpmath.taylor(FUNCTIONS[name][1], mpmath.mpf(point), ORDERS)
        return [float(c * mpmath.factorial(k)) for k, c in enumerate(series)]


@pytest.mark.parametrize("mode", [reverse, forward])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_against_mpmath(name, mode):
    graphs = derivatives(FUNCTIONS[name][0], mode)
    for point in POINTS:
        expected = taylor(name, point)
        for k, graph in enumerate(graphs, 1):
            verify(graph, "optimized")
            found = float(evaluate(graph, [np.float64(point)])[0])
            assert found == pytest.approx(expected[k], rel=1e-11), (point, k)


def test_values_of_a_vector():
    graphs = derivatives(FUNCTIONS["exp(sin(x**2))"][0], reverse, shape=(len(POINTS),))
    for k, graph in enumerate(graphs, 1):
        (found,) = evaluate(graph, [np.array(POINTS)])
        np.testing.assert_allclose(found, [taylor("exp(sin(x**2))", p)[k] for p in POINTS], rtol=1e-11)


def test_mixed_modes_agree_with_mpmath():
    """Forward over reverse over forward."""
    graph = program(FUNCTIONS["exp(sin(x**2))"][0])
    for mode in (forward, reverse, forward, reverse, forward):
        graph = mode(graph)
    assert len(graph) <= 80
    found = float(evaluate(optimize(graph), [np.float64(0.7)])[0])
    assert found == pytest.approx(taylor("exp(sin(x**2))", 0.7)[5], rel=1e-12)


def test_hessian_vector_products_of_a_product_of_many_stay_linear():
    """Two variables that mix at every step: reverse over reverse has no elementwise stretch to sweep forward."""
    sizes = {}
    for steps in (10, 20, 40):
        b = Builder("orbit")
        x, v = b.param(tensor(F64), "x"), b.param(tensor(F64), "v")
        for _ in range(steps):
            v = b.sub(v, b.mul(b.sin(x), 0.1))
            x = b.add(x, b.mul(v, 0.1))
        graph = b.finish([x])
        for _ in range(2):
            vjp = backward(graph, [True, True])
            c = Builder("grad")
            params = [c.param(p.type, p.name) for p in graph.params]
            c.tag = "vjp"
            graph = optimize(c.finish(inline(c, vjp, [*params, c.constant(1.0, F64)])[1:2]), True)
        sizes[steps] = len(graph)
    assert sizes[40] - sizes[20] <= 2.2 * (sizes[20] - sizes[10])
