"""The transforms as users call them: signatures and result structures are JAX's, values are known by hand."""

import dataclasses
import doctest
import functools
import itertools
from collections import namedtuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit
from tapejit import api, grad, hessian, hvp, jacobian, jit, jvp, stop_gradient, value_and_grad, vjp, vmap

X = np.array([1.0, 2.0, 3.0])
Point = namedtuple("Point", "x y")


@dataclasses.dataclass
class Model:
    w: np.ndarray
    b: float
    name: str = "linear"


# ---- doctests -----------------------------------------------------------------------------------------------------
def test_every_public_function_of_api_has_a_doctest_that_passes():
    results = doctest.testmod(api)
    assert results.failed == 0
    assert results.attempted >= 12


# ---- grad, value_and_grad -----------------------------------------------------------------------------------------
def test_grad_of_a_number():
    assert grad(lambda x: x**3)(2.0) == 12.0


def test_grad_of_an_array_function_is_that_of_its_sum():
    assert_array_equal(grad(lambda x: x * x)(X), 2 * X)


def test_grad_takes_a_python_int_as_a_float():
    assert grad(lambda x: x**2)(3) == 6.0


def test_argnums_picks_one_argument():
    def f(a, b, c):
        return a * b**2 + c

    assert grad(f, 1)(2.0, 3.0, 4.0) == 12.0
    assert grad(f, argnums=-1)(2.0, 3.0, 4.0) == 1.0


def test_a_tuple_of_argnums_gives_a_tuple_in_that_order():
    out = grad(lambda a, b: a * b**2, argnums=(1, 0))(2.0, 3.0)
    assert type(out) is tuple and out == (12.0, 9.0)
    assert grad(lambda a, b: a * b**2, argnums=(0,))(2.0, 3.0) == (9.0,)


def test_argnums_may_repeat_and_be_negative():
    assert grad(lambda a, b: a * b, argnums=(0, -1, -2))(2.0, 3.0) == (3.0, 2.0, 3.0)


def test_has_aux_gives_gradient_and_aux():
    g, aux = grad(lambda x: (x**2, {"twice": 2 * x, "tag": "t"}), has_aux=True)(3.0)
    assert g == 6.0 and aux == {"twice": 6.0, "tag": "t"}


def test_value_and_grad_with_and_without_aux():
    assert value_and_grad(lambda x: x**2)(3.0) == (9.0, 6.0)
    (value, aux), g = value_and_grad(lambda x: (x**2, x + 1), has_aux=True)(3.0)
    assert (value, aux, g) == (9.0, 4.0, 6.0)


def test_value_and_grad_of_an_array_function_returns_its_value_unsummed():
    value, g = value_and_grad(lambda x: x**2)(X)
    assert_array_equal(value, X**2)
    assert_array_equal(g, 2 * X)


def test_elementwise_grad_nests():
    assert_array_equal(api.elementwise_grad(api.elementwise_grad(lambda x: x**3))(X), 6 * X)


def test_an_unused_argument_has_zero_gradient_of_its_shape():
    ga, gb = grad(lambda a, b: np.sum(a), argnums=(0, 1))(X, np.ones((2, 2)))
    assert_array_equal(ga, np.ones(3))
    assert_array_equal(gb, np.zeros((2, 2)))


# ---- nests, keywords, statics -------------------------------------------------------------------------------------
def test_the_gradient_of_a_nest_has_its_structure():
    params = {"layers": [{"w": X, "b": 1.0}, (2.0, X)], "scale": 3.0}

    def f(p):
        return p["scale"] * np.sum(p["layers"][0]["w"] * p["layers"][1][1]) + p["layers"][0]["b"] ** 2

    g = grad(f)(params)
    assert set(g) == {"layers", "scale"} and type(g["layers"]) is list and type(g["layers"][1]) is tuple
    assert g["scale"] == 14.0
    assert_array_equal(g["layers"][0]["w"], 3 * X)
    assert g["layers"][0]["b"] == 2.0 and g["layers"][1][0] == 0.0


def test_namedtuples_and_dataclasses_come_back_as_their_class():
    g = grad(lambda p: p.x**2 * p.y)(Point(3.0, 2.0))
    assert type(g) is Point and g == (12.0, 9.0)
    m = grad(lambda m, x: np.sum(m.w * x) + m.b)(Model(X, 1.0), 2.0)
    assert type(m) is Model and m.b == 1.0 and m.name == "linear"
    assert_array_equal(m.w, [2.0, 2.0, 2.0])


def test_results_may_be_nests_too():
    out = jit(lambda x: {"a": [x, x + 1], "p": Point(x, None)})(1.0)
    assert out == {"a": [1.0, 2.0], "p": Point(1.0, None)}


def test_dict_order_of_arguments_does_not_matter():
    f = grad(lambda p: p["a"] * p["b"] ** 2)
    assert f({"a": 2.0, "b": 3.0}) == f({"b": 3.0, "a": 2.0}) == {"a": 9.0, "b": 12.0}


def test_keyword_arguments_pass_through_and_are_not_differentiated():
    assert grad(lambda x, *, k=1.0: k * x**2)(3.0, k=5.0) == 30.0
    assert grad(lambda x, k=2.0: k * x**2)(3.0) == 12.0


@pytest.mark.parametrize("static, expected", [("square", 6.0), (None, 0.0), (True, 3.0), (np.exp, np.exp(3.0))])
def test_statics_are_seen_as_they_are(static, expected):
    def f(x, how):
        if how == "square":
            return x**2
        if how is None:
            return x * 0.0
        if how is True:
            return x**2 / 2
        return how(x)

    assert_allclose(grad(f)(3.0, static), expected, rtol=1e-15)


def test_other_float_values_do_not_record_again():
    f = grad(lambda x, y: x**2 * y)
    assert [f(x, y) for x, y in [(1.0, 2.0), (3.0, 4.0), (-1.5, 0.0)]] == [4.0, 24.0, 0.0]
    assert f.cache_info().misses == 1


def test_other_int_values_do_not_record_again():
    f = jit(lambda x, n: x * n)
    assert [f(2.0, n) for n in (1, 2, 30)] == [2.0, 4.0, 60.0]
    assert f.cache_info().misses == 1


# ---- kinds of arrays ----------------------------------------------------------------------------------------------
def test_numpy_in_numpy_out():
    assert type(jit(np.sin)(X)) is np.ndarray
    assert type(jit(np.sin)(1.0)) is np.float64
    assert type(grad(np.sin)(np.float32(1.0))) is np.float32


def test_array_in_array_out():
    x = tapejit.numpy.asarray(X)
    assert isinstance(x, tapejit.Array)
    g = grad(lambda x: np.sum(x**2))(x)
    assert isinstance(g, tapejit.Array)
    assert_array_equal(g.numpy(), 2 * X)


def test_float32_arrays_with_python_floats_stay_float32():
    f = value_and_grad(lambda x, s: np.sum(x * s + 1.5) ** 2, argnums=(0, 1))
    value, (gx, gs) = f(X.astype(np.float32), 2.0)
    assert value.dtype == np.float32 and gx.dtype == np.float32
    assert value == 16.5**2 and gs == 2 * 16.5 * 6


@pytest.mark.parametrize("transform", [grad, jacobian, api.elementwise_grad])
def test_derivatives_of_float32_are_float32(transform):
    assert transform(lambda x: x**2 * 0.5)(X.astype(np.float32)).dtype == np.float32


# ---- jvp, vjp -----------------------------------------------------------------------------------------------------
def test_jvp_returns_value_and_tangent():
    y, t = jvp(lambda x, y: x * y, (3.0, 4.0), (1.0, 10.0))
    assert (y, t) == (12.0, 34.0)


def test_jvp_of_a_nest_has_the_structure_of_the_result():
    y, t = jvp(lambda p: {"s": p["a"] ** 2, "l": [p["b"]]}, ({"a": 3.0, "b": X},), ({"a": 1.0, "b": 2 * X},))
    assert y["s"] == 9.0 and t["s"] == 6.0
    assert_array_equal(t["l"][0], 2 * X)


def test_vjp_pulls_back_as_often_as_wanted():
    y, pull = vjp(lambda x, y: x * y, 3.0, 4.0)
    assert y == 12.0
    assert pull(1.0) == (4.0, 3.0)
    assert pull(2.0) == (8.0, 6.0)


def test_vjp_has_aux():
    y, pull, aux = vjp(lambda x: (x**2, "note"), 3.0, has_aux=True)
    assert (y, aux) == (9.0, "note") and pull(1.0) == (6.0,)


def test_vjp_takes_cotangents_in_the_structure_of_the_result():
    y, pull = vjp(lambda x: {"a": x**2, "b": (3 * x,)}, 2.0)
    assert y == {"a": 4.0, "b": (6.0,)}
    assert pull({"a": 1.0, "b": (10.0,)}) == (34.0,)


def test_jvp_and_vjp_do_not_record_again():
    runs = itertools.count()

    def f(x):
        next(runs)
        return x**2

    for x in (1.0, 2.0, 3.0):
        assert jvp(f, (x,), (1.0,))[1] == 2 * x
        assert vjp(f, x)[1](1.0) == (2 * x,)
    assert next(runs) == 3  # recorded once each: jvp, the value, the pullback


# ---- jacobian, hessian, hvp ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["forward", "reverse", None])
def test_jacobian_is_output_shape_then_argument_shape(mode):
    A = np.arange(6.0).reshape(2, 3)
    assert_array_equal(jacobian(lambda x: A @ x, mode=mode)(X), A)
    assert jacobian(lambda m: m @ X, mode=mode)(A).shape == (2, 2, 3)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_of_nests_is_output_structure_then_argument_structure(mode):
    j = jacobian(lambda p: (p["a"] * p["b"], {"c": p["a"] ** 2}), mode=mode)({"a": 3.0, "b": X})
    assert_array_equal(j[0]["a"], X)
    assert_array_equal(j[0]["b"], 3 * np.eye(3))
    assert j[1]["c"]["a"] == 6.0
    assert_array_equal(j[1]["c"]["b"], np.zeros(3))


def test_jacobian_for_two_argnums_is_a_tuple():
    ja, jb = jacobian(lambda a, b: a * b, argnums=(0, 1))(X, 2 * X)
    assert_array_equal(ja, np.diag(2 * X))
    assert_array_equal(jb, np.diag(X))


def test_hessian_of_two_arguments_is_a_tuple_of_tuples():
    h = hessian(lambda a, b: a**2 * b, argnums=(0, 1))(3.0, 5.0)
    assert h == ((10.0, 6.0), (6.0, 0.0))


def test_hessian_of_a_dict_is_keyed_twice():
    h = hessian(lambda p: p["a"] ** 2 * np.sum(p["b"]))({"a": 3.0, "b": X})
    assert h["a"]["a"] == 12.0
    assert_array_equal(h["a"]["b"], [6.0, 6.0, 6.0])
    assert_array_equal(h["b"]["b"], np.zeros((3, 3)))


def test_hvp_is_hessian_times_vector():
    f = lambda x: np.sum(x**3) + x[0] * x[1]  # noqa: E731
    v = np.array([1.0, -1.0, 2.0])
    assert_allclose(hvp(f)(X, v), hessian(f)(X) @ v, rtol=1e-14)


def test_hvp_of_argnums_and_nests():
    assert hvp(lambda a, b: a * b**3, argnums=1)(2.0, 3.0, 1.0) == 36.0
    assert hvp(lambda p: p["a"] * p["b"])({"a": 2.0, "b": 3.0}, {"a": 1.0, "b": 0.0}) == {"a": 0.0, "b": 1.0}


# ---- vmap ---------------------------------------------------------------------------------------------------------
M = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("axis, expected", [(0, M.sum(1)), (1, M.sum(0)), (-1, M.sum(0)), (-2, M.sum(1))])
def test_vmap_over_an_axis(axis, expected):
    assert_array_equal(vmap(np.sum, in_axes=axis)(M), expected)


def test_vmap_none_is_not_mapped():
    assert_array_equal(vmap(lambda a, b: a * b, in_axes=(0, None))(X, 10.0), 10 * X)
    assert_array_equal(vmap(lambda a, b: a + b, in_axes=(None, 1))(X[:2], M), M.T + X[:2])


def test_vmap_in_axes_may_be_a_nest():
    f = vmap(lambda p, x: p["w"] * x + p["b"], in_axes=({"w": 0, "b": None}, 0))
    assert_array_equal(f({"w": X, "b": 1.0}, X), X * X + 1)


def test_vmap_out_axes():
    row = vmap(lambda r: (r, np.sum(r)), out_axes=(1, 0))(M)
    assert_array_equal(row[0], M.T)
    assert_array_equal(row[1], M.sum(1))
    assert_array_equal(vmap(lambda r: r, out_axes=-1)(M), M.T)


def test_vmap_out_axes_none_of_an_unmapped_result():
    a, b = vmap(lambda x, y: (x, y * 2), in_axes=(0, None), out_axes=(0, None))(X, 4.0)
    assert_array_equal(a, X)
    assert b == 8.0


def test_vmap_broadcasts_an_unmapped_result():
    assert_array_equal(vmap(lambda x: 7.0)(X), [7.0, 7.0, 7.0])


def test_vmap_of_vmap_is_an_outer_product():
    outer = vmap(vmap(lambda a, b: a * b, in_axes=(None, 0)), in_axes=(0, None))
    assert_array_equal(outer(X, X[:2]), np.outer(X, X[:2]))


def test_vmap_maps_keyword_arguments_over_their_first_axis():
    assert_array_equal(vmap(lambda x, *, k: x * k)(X, k=X), X * X)


# ---- stop_gradient, custom_gradient -------------------------------------------------------------------------------
def test_stop_gradient_of_a_nest():
    def f(x):
        s = stop_gradient({"a": x, "b": [x**2]})
        return x * s["a"] + s["b"][0]

    assert value_and_grad(f)(3.0) == (18.0, 3.0)


def test_custom_gradient_is_used_and_differentiated_again():
    @tapejit.custom_gradient
    def cube(x):
        return x**3, lambda dy: dy * 3 * x**2 * 10

    assert grad(cube)(2.0) == 120.0
    assert grad(grad(cube))(2.0) == 120.0  # d/dx 30 x^2
    assert jvp(cube, (2.0,), (1.0,)) == (8.0, 120.0)


def test_custom_gradient_in_vmap_and_jit():
    @tapejit.custom_gradient
    def clipped(x):
        return x * 1.0, lambda dy: np.clip(dy, -1.0, 1.0)

    assert_array_equal(jit(vmap(grad(lambda x, s: s * clipped(x))))(X, np.array([0.5, 2.0, -3.0])), [0.5, 1.0, -1.0])


# ---- decorators ---------------------------------------------------------------------------------------------------
def test_decorator_with_and_without_options():
    @grad
    def plain(x):
        "Doc."
        return x**2

    @grad(argnums=1)
    def second(x, y):
        return x * y

    assert plain(3.0) == 6.0 and plain.__doc__ == "Doc." and plain.__name__ == "plain"
    assert second(3.0, 4.0) == 3.0


def test_decorated_methods_read_self():
    class Quadratic:
        def __init__(self, a):
            self.a = a

        @jit
        def value(self, x):
            return self.a * x**2

        @grad(argnums=1)
        def slope(self, x):
            return self.a * x**2

    one, two = Quadratic(1.0), Quadratic(X)
    assert one.value(3.0) == 9.0 and one.slope(3.0) == 6.0
    assert_array_equal(two.value(2.0), 4 * X)
    assert two.slope(2.0) == 24.0
    one.a = 5.0
    assert one.value(3.0) == 45.0


def test_bound_methods_and_partials_can_be_transformed():
    class Scale:
        k = 3.0

        def apply(self, x):
            return self.k * x**2

    assert grad(Scale().apply)(2.0) == 12.0
    assert grad(functools.partial(lambda k, x: k * x**2, 5.0))(2.0) == 20.0


def test_callable_instances_can_be_transformed():
    class F:
        def __call__(self, x):
            return x**2

    assert grad(F())(3.0) == 6.0


# ---- nesting ------------------------------------------------------------------------------------------------------
def test_third_derivative():
    assert_allclose(grad(grad(grad(np.sin)))(0.5), -np.cos(0.5), rtol=1e-15)


def test_tape_in_grad_in_jit_in_tape():
    def slope(x):  # 3x^2
        with tapejit.GradientTape() as tape:
            tape.watch(x)
            y = x**3
        return tape.gradient(y, x)

    f = jit(lambda x: grad(slope)(x) * x)  # 6x^2
    assert f(2.0) == 24.0
    x = tapejit.numpy.asarray(2.0)
    with tapejit.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    assert tape.gradient(y, x).numpy() == 24.0  # 12x


def test_jacobian_of_vmap_of_grad():
    assert_array_equal(jacobian(vmap(grad(lambda x: x**3)))(X), np.diag(6 * X))


def test_vmap_of_jacobian():
    assert_array_equal(vmap(jacobian(lambda r: r * r))(M), [np.diag(2 * r) for r in M])


def test_hvp_in_jit():
    f = jit(lambda x, v: hvp(lambda z: np.sum(z**3))(x, v) + x)
    assert_array_equal(f(X, np.ones(3)), 7 * X)


def test_grad_of_jvp_and_of_vjp():
    assert grad(lambda x: jvp(lambda z: z**3, (x,), (1.0,))[1])(2.0) == 12.0
    assert grad(lambda x: vjp(lambda z: z**3, x)[1](1.0)[0])(2.0) == 12.0


def test_hessian_forward_over_reverse_and_back_agree():
    f = lambda x: np.prod(x) ** 2  # noqa: E731
    a = jacobian(jacobian(f, mode="reverse"), mode="forward")(X)
    b = jacobian(jacobian(f, mode="forward"), mode="reverse")(X)
    assert_allclose(a, b, rtol=1e-14)
    assert_allclose(a[0, 1], 4 * np.prod(X) ** 2 / (X[0] * X[1]), rtol=1e-14)


def test_value_and_grad_of_a_function_that_uses_vmap_with_a_capture():
    def loss(w):
        return np.sum(vmap(lambda x: w * x**2)(X))

    assert value_and_grad(loss)(2.0) == (28.0, 14.0)


# ---- perturbation confusion ---------------------------------------------------------------------------------------
def test_x_times_derivative_of_x_plus_y():
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0) == 1.0  # confused: 2


def test_siskind_pearlmutter_inner_derivative_of_the_outer_variable():
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0) == 6.0  # d/dx x*x
    assert grad(lambda x: grad(lambda y: x * y**2)(x))(3.0) == 12.0  # d/dx 2x^2


def test_siskind_pearlmutter_forward_mode():
    def derivative(f, x):
        return jvp(f, (x,), (1.0,))[1]

    assert derivative(lambda x: x * derivative(lambda y: x + y, 1.0), 1.0) == 1.0
    assert derivative(lambda x: x * derivative(lambda y: x * y, 2.0), 3.0) == 6.0


def test_siskind_pearlmutter_curried_shift():
    """Manzyuk et al., 'Perturbation confusion in forward AD of higher-order functions': D D of a shifted sine."""

    def shift(u):
        return lambda f: lambda x: f(x + u)

    def derivative_of_shift_at_zero(f, y):
        return jvp(lambda u: shift(u)(f)(y), (0.0,), (1.0,))[1]

    twice = derivative_of_shift_at_zero(lambda x: derivative_of_shift_at_zero(np.sin, x), 0.5)
    assert_allclose(twice, -np.sin(0.5), rtol=1e-15)


def test_inner_function_reads_values_of_two_levels_further_out():
    def f(x):
        return grad(lambda y: grad(lambda z: x * y * z**2)(x * y))(x)

    # d/dz = 2 x y z at z = x y; inner z is a function of y too: 2 x^2 y^2 -> d/dy = 4 x^2 y, at y = x: 4 x^3
    assert f(2.0) == 32.0
    assert grad(f)(2.0) == 48.0


# ---- closures over recorded values --------------------------------------------------------------------------------
def test_a_jitted_closure_over_a_recorded_value_carries_its_derivative():
    def f(x):
        g = jit(lambda y: x**2 * y)
        return g(3.0)

    assert grad(f)(2.0) == 12.0


def test_a_closure_kept_outside_reads_a_tape_value_each_time():
    scale = tapejit.Variable(2.0)
    f = jit(lambda y: scale * y)
    with tapejit.GradientTape() as tape:
        z = f(3.0)
    assert tape.gradient(z, scale).numpy() == 3.0
