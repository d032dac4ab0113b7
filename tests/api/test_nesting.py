"""Transforms in transforms: any mix, no perturbation confusion, closures over values that an outer transform records."""

import numpy as np
import pytest

import tapejit
from tapejit import Array, GradientTape, grad, hvp, jacobian, jit, jvp, vjp, vmap


def close(got, expected, rtol=1e-13):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-15)


# ---- perturbation confusion (Siskind & Pearlmutter 2005) ---------------------------------------------------------------
def test_inner_variable_is_not_the_outer_one():
    """d/dx (x * d/dy (x + y)) = 1; 2 if the perturbations are confused."""
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0) == 1.0


def test_confusion_through_products():
    """d/dx (x * d/dy (x * y)) = d/dx x^2."""
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0) == 6.0


def test_confusion_at_the_same_number():
    """The inner function is taken at the outer value itself: d/dx [d/dy (x y^2) at y = x] = d/dx 2x^2."""
    assert grad(lambda x: grad(lambda y: x * y * y)(x))(3.0) == 12.0


def test_confusion_forward_in_forward():
    inner = lambda x: jvp(lambda y: x + y, (1.0,), (1.0,))[1]
    assert jvp(lambda x: x * inner(x), (1.0,), (1.0,)) == (1.0, 1.0)


@pytest.mark.parametrize("outer", ["jvp", "grad"])
def test_confusion_forward_and_reverse_mixed(outer):
    if outer == "jvp":
        assert jvp(lambda x: x * grad(lambda y: x + y)(1.0), (1.0,), (1.0,))[1] == 1.0
    else:
        assert grad(lambda x: x * jvp(lambda y: x + y, (1.0,), (1.0,))[1])(1.0) == 1.0


def test_confusion_of_tapes():
    x, one = Array(1.0), Array(1.0)
    with GradientTape() as outer:
        outer.watch(x)
        with GradientTape() as inner:
            inner.watch(one)
            z = x + one
        y = x * inner.gradient(z, one)
    assert outer.gradient(y, x).numpy() == 1.0


def test_the_amazing_bug():
    """Manzyuk et al. 2012: a derivative operator applied twice through a higher-order function."""
    shift = lambda offset: lambda g: lambda x: g(x + offset)
    derivative = lambda offset: lambda g: lambda x: grad(lambda o: shift(o)(g)(x))(offset)
    d = derivative(0.0)
    close(d(d(lambda x: np.exp(x)))(1.0), np.e)


def test_three_levels_over_one_another():
    """d/dx d/dy d/dz of x y z * z at z = y, y = x."""
    inner = lambda x, y: grad(lambda z: x * y * z * z)(y)  # 2 x y^2
    middle = lambda x: grad(lambda y: inner(x, y))(x)  # 4 x^2
    assert grad(middle)(3.0) == 24.0


# ---- closures over outer recorded values --------------------------------------------------------------------------------
def test_closure_over_an_outer_value():
    f = lambda x: grad(lambda y: x**2 * y**3)(2.0)  # 12 x^2
    assert grad(f)(5.0) == 120.0


def test_closure_over_an_intermediate_array():
    def f(x):
        w = np.exp(x)
        return np.sum(grad(lambda y: np.sum(w * y * y))(x))  # 2 x e^x

    x = np.array([0.5, 1.0])
    close(grad(f)(x), 2 * (1 + x) * np.exp(x))


def test_inner_function_that_is_a_constant_of_the_inner_argument():
    assert grad(lambda x: grad(lambda y: x * x)(1.0) + x)(3.0) == 1.0


def test_inner_result_used_with_the_outer_value_under_jit():
    f = jit(lambda x, y: x * grad(lambda z: np.sin(x * z))(y))  # x^2 cos(xy)
    for x, y in [(1.0, 0.0), (2.0, 0.5), (3.0, -1.0)]:
        close(f(x, y), x * x * np.cos(x * y))


def test_vmap_closure_over_an_outer_value():
    f = lambda s: np.sum(vmap(lambda row: s * np.sum(row**2))(np.ones((3, 2))))
    assert grad(f)(2.0) == 6.0


def test_vmap_within_grad_maps_recorded_values():
    f = lambda x: np.sum(vmap(lambda row: np.sum(row) ** 2)(x))
    close(grad(f)(np.array([[1.0, 2.0], [3.0, 4.0]])), [[6.0, 6.0], [14.0, 14.0]])


# ---- mixes ------------------------------------------------------------------------------------------------------------
def test_tape_in_grad_in_jit_in_tape():
    def inner(x):  # a tape within: 3 x^2
        with GradientTape() as tape:
            tape.watch(x)
            y = x**3
        return tape.gradient(y, x)

    middle = jit(grad(inner))  # 6 x
    x = Array(2.0)
    with GradientTape() as tape:
        tape.watch(x)
        y = middle(x) * x  # 6 x^2
    assert tape.gradient(y, x).numpy() == 24.0


def test_grad_inside_a_tape_inside_grad():
    def f(x):
        with GradientTape() as tape:
            tape.watch(x)
            y = grad(lambda z: z**4)(x)  # 4 x^3
        return tape.gradient(y, x)  # 12 x^2

    assert grad(f)(2.0) == 48.0


def test_grad_of_jit_of_grad_of_jit():
    f = grad(jit(grad(jit(lambda x: x**4))))
    assert f(2.0) == 48.0


def test_jacobian_of_vmap_of_grad():
    f = lambda x: np.sum(x**3)
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    j = jacobian(vmap(grad(f)))(x)
    expected = np.zeros((2, 2, 2, 2))
    for i in range(2):
        for k in range(2):
            expected[i, k, i, k] = 6 * x[i, k]
    close(j, expected)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_vmap_of_jacobian(mode):
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    j = vmap(jacobian(lambda v: np.stack([v[0] * v[1], v[1] ** 2, v[0]]), mode=mode))(x)
    close(j, [[[b, a], [0, 2 * b], [1, 0]] for a, b in x])


def test_jacobian_of_jacobian_of_jacobian():
    t = jacobian(jacobian(jacobian(lambda x: x[0] ** 2 * x[1])))(np.array([2.0, 3.0]))
    assert t.shape == (2, 2, 2)
    close(t[0], [[0.0, 2.0], [2.0, 0.0]])
    close(t[1], [[2.0, 0.0], [0.0, 0.0]])


def test_hvp_in_jit():
    f = lambda x: np.sum(x**4)
    step = jit(lambda x, v: x - hvp(f)(x, v))
    close(step(np.array([1.0, 2.0]), np.array([1.0, 1.0])), [1 - 12.0, 2 - 48.0])


def test_grad_of_hvp():
    f = lambda x: np.sum(x**4)
    g = grad(lambda x: np.sum(hvp(f)(x, np.ones(2))))  # 24 x
    close(g(np.array([1.0, 2.0])), [24.0, 48.0])


def test_vmap_of_hvp_gives_the_hessian():
    f = lambda x: x[0] ** 2 * x[1] + x[1] ** 3
    x = np.array([2.0, 3.0])
    close(vmap(lambda v: hvp(f)(x, v))(np.eye(2)), [[6.0, 4.0], [4.0, 18.0]])


def test_vjp_within_jit_and_grad():
    def f(x):
        y, pull = vjp(lambda z: np.sin(z) * z, x)
        return np.sum(pull(np.ones(2))[0])  # cos z z + sin z

    x = np.array([0.3, 0.8])
    close(jit(f)(x), np.sum(np.cos(x) * x + np.sin(x)))
    close(grad(f)(x), 2 * np.cos(x) - np.sin(x) * x)


def test_vjp_closure_is_differentiated_by_its_cotangent():
    def f(ct):
        return tapejit.vjp(lambda z: z**2, 3.0)[1](ct)[0] ** 2  # 36 ct^2

    assert grad(f)(2.0) == 144.0


def test_jvp_within_grad_by_the_tangent():
    assert grad(lambda t: jvp(lambda x: x**3, (2.0,), (t,))[1] ** 2)(1.0) == 288.0


def test_value_and_grad_within_a_newton_loop_under_jit():
    def solve(a):
        x = a
        for _ in range(30):
            value, slope = tapejit.value_and_grad(lambda x: x**2 - a)(x)
            x = x - value / slope
        return x

    close(jit(solve)(9.0), 3.0)
    close(grad(solve)(9.0), 1 / 6)


def test_a_gradient_that_mentions_itself_in_a_loop():
    """Gradient descent, differentiated by its step size: x_{k+1} = x_k (1 - 2 s)."""

    def last(s):
        x = 1.0
        for _ in range(5):
            x = x - s * grad(lambda x: x**2)(x)
        return x

    close(grad(last)(0.1), -10 * 0.8**4)


def test_nested_over_tf_forms():
    g = tapejit.gradients_function(lambda x, y: x * x * y)
    second = tapejit.gradients_function(lambda x, y: g(x, y)[0])
    assert [v.numpy() for v in second(3.0, 2.0)] == [4.0, 6.0]
    assert grad(lambda x: g(x, 2.0)[0])(3.0) == 4.0


def test_transform_of_a_numpy_function_itself():
    assert grad(grad(np.square))(5.0) == 2.0
    close(vmap(np.linalg.norm)(np.array([[3.0, 4.0], [6.0, 8.0]])), [5.0, 10.0])


def test_mixed_second_derivatives_agree_in_all_orders():
    f = lambda x, y: np.sin(x * y) * y
    x, y = 0.4, 1.3
    forward = jvp(lambda x: jvp(lambda y: f(x, y), (y,), (1.0,))[1], (x,), (1.0,))[1]
    reverse = grad(lambda x: grad(f, 1)(x, y))(x)
    mixed = jvp(lambda x: grad(f, 1)(x, y), (x,), (1.0,))[1]
    other = grad(lambda y: grad(f, 0)(x, y))(y)
    close([forward, reverse, mixed], [other] * 3, 1e-12)
