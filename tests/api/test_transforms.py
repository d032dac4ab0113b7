"""The transforms: signatures and result structures are JAX's, numbers are known from calculus."""

import collections
import dataclasses
import functools

import numpy as np
import pytest

import tapejit
import tapejit.numpy as tnp
from tapejit import Array

Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Params:
    w: object
    b: object


def close(got, expected, rtol=1e-13):
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-15)


def square(x):
    return x * x


def cube(x):
    return x**3


def product(x, y):
    return x * x * y


# ---- grad ---------------------------------------------------------------------------------------------------------
def test_grad_of_a_scalar():
    close(tapejit.grad(np.sin)(0.0), 1.0)
    close(tapejit.grad(lambda x: np.sin(x) ** 2)(np.pi / 4), 1.0)


def test_grad_of_an_array_function_is_that_of_its_sum():
    close(tapejit.grad(cube)(np.array([1.0, 2.0])), [3.0, 12.0])


def test_grad_three_times_over_100_points():
    x = np.linspace(-2 * np.pi, 2 * np.pi, 100)
    f = lambda x: np.sin(x)
    close(tapejit.grad(tapejit.grad(tapejit.grad(f)))(x), -np.cos(x), 1e-12)


def test_grad_sixth_order():
    f = lambda x: x**7
    for order in range(1, 7):
        f = tapejit.grad(f)
        coefficient = np.prod(np.arange(7, 7 - order, -1.0))
        close(f(1.5), coefficient * 1.5 ** (7 - order), 1e-12)


@pytest.mark.parametrize(
    "argnums, expected",
    [(0, 12.0), (1, 4.0), (-1, 4.0), (-2, 12.0), ((0, 1), (12.0, 4.0)), ((1, 0), (4.0, 12.0)), ((-1,), (4.0,)), ([0], (12.0,))],
)
def test_argnums(argnums, expected):
    got = tapejit.grad(product, argnums=argnums)(2.0, 3.0)
    assert type(got) is tuple if isinstance(expected, tuple) else isinstance(got, np.float64)
    assert got == expected


def test_has_aux():
    f = lambda x: (x**2, {"double": 2 * x, "name": "n"})
    g, aux = tapejit.grad(f, has_aux=True)(3.0)
    assert g == 6.0 and aux == {"double": 6.0, "name": "n"}


def test_aux_is_not_differentiated():
    g, aux = tapejit.grad(lambda x: (x, x * 100), has_aux=True)(2.0)
    assert (g, aux) == (1.0, 200.0)


def test_aux_may_be_integers_and_bools():
    _, (i, b) = tapejit.grad(lambda x: (np.sum(x), (np.argmax(x), x > 1)), has_aux=True)(np.array([1.0, 5.0]))
    assert i == 1 and b.tolist() == [False, True]


def test_value_and_grad():
    value, g = tapejit.value_and_grad(cube)(2.0)
    assert (value, g) == (8.0, 12.0)


def test_value_and_grad_with_aux():
    (value, aux), g = tapejit.value_and_grad(lambda x: (x**2, "aux"), has_aux=True)(3.0)
    assert (value, aux, g) == (9.0, "aux", 6.0)


def test_value_and_grad_argnums_tuple():
    value, (gx, gy) = tapejit.value_and_grad(product, argnums=(0, 1))(2.0, 3.0)
    assert (value, gx, gy) == (12.0, 12.0, 4.0)


def test_gradient_that_is_not_connected_is_zero():
    close(tapejit.grad(lambda x, y: y * 2.0)(np.ones(3), 1.0), np.zeros(3))


def test_elementwise_grad():
    x = np.array([0.5, 1.0, 2.0])
    close(tapejit.elementwise_grad(np.log)(x), 1 / x)


def test_elementwise_grad_argnums():
    close(tapejit.elementwise_grad(np.power, argnums=1)(2.0, np.array([1.0, 3.0])), np.log(2) * np.array([2.0, 8.0]))


def test_stop_gradient_passes_a_nest_through():
    f = lambda p: p["a"] * tapejit.stop_gradient(p)["a"] + tapejit.stop_gradient(p)["b"][0]
    assert tapejit.grad(f)({"a": 3.0, "b": [1.0]}) == {"a": 3.0, "b": [0.0]}
    assert tapejit.stop_gradient(Array(2.0)).numpy() == 2.0


# ---- structures ---------------------------------------------------------------------------------------------------
def test_dict_of_lists():
    g = tapejit.grad(lambda p: np.sum(p["w"][0] * p["w"][1]) + p["b"])({"w": [np.ones(2), 3 * np.ones(2)], "b": 1.0})
    assert list(g) == ["w", "b"] and type(g["w"]) is list
    close(g["w"][0], [3.0, 3.0])
    close(g["w"][1], [1.0, 1.0])
    assert g["b"] == 1.0


def test_namedtuple():
    g = tapejit.grad(lambda p: p.x * p.y)(Point(2.0, 5.0))
    assert type(g) is Point and g == Point(5.0, 2.0)


def test_dataclass():
    g = tapejit.grad(lambda p: np.sum(p.w) * p.b)(Params(np.ones(2), 4.0))
    assert type(g) is Params and g.b == 2.0
    close(g.w, [4.0, 4.0])


def test_tuple_in_tuple():
    assert tapejit.grad(lambda p: p[0][0] * p[0][1] * p[1])(((2.0, 3.0), 4.0)) == ((12.0, 8.0), 6.0)


def test_results_keep_their_structure():
    f = tapejit.jit(lambda x: {"p": Point(x, [x + 1]), "none": None, "s": "text", "c": 3})
    out = f(1.0)
    assert out == {"p": Point(1.0, [2.0]), "none": None, "s": "text", "c": 3}
    assert type(out["p"]) is Point and type(out["p"].y) is list


def test_keyword_arguments():
    f = lambda x, *, scale=1.0, power=2: scale * x**power
    assert tapejit.grad(f)(3.0, scale=10.0) == 60.0
    assert tapejit.grad(f)(3.0, scale=1.0, power=3) == 27.0


def test_statics_are_part_of_the_key_and_may_decide_branches():
    def f(x, kind, flag=None, activation=np.sin):
        y = activation(x) if kind == "act" else x * x
        return y if flag is None else y * (2 if flag else 3)

    g = tapejit.grad(f)
    assert g(0.0, "act") == 1.0
    assert g(3.0, "square") == 6.0
    assert g(3.0, "square", True) == 12.0
    assert g(3.0, "square", False) == 18.0
    close(g(0.0, "act", None, np.exp), 1.0)
    assert g.cache_info().currsize == 5


def test_static_of_a_nest_comes_back_in_the_gradient():
    p = {"x": 3.0, "mode": "fast", "opt": None}
    assert tapejit.grad(lambda p: p["x"] ** 2)(p) == {"x": 6.0, "mode": "fast", "opt": None}


# ---- Python scalars, NumPy and Arrays ---------------------------------------------------------------------------------
def test_python_float_is_a_run_time_scalar():
    f = tapejit.jit(lambda x, rate: x * rate)
    for k in range(10):
        close(f(np.ones(2), k + 0.5), [k + 0.5] * 2)
    info = f.cache_info()
    assert (info.misses, info.currsize) == (1, 1)


def test_python_int_is_a_run_time_scalar():
    f = tapejit.jit(lambda x, n: x + n)
    assert [f(1.0, n) for n in range(5)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert f.cache_info().misses == 1


def test_python_int_is_taken_as_float_by_grad():
    assert tapejit.grad(lambda x: x**2)(3) == 6.0
    assert tapejit.grad(lambda p: p["a"] * p["b"])({"a": 2, "b": 5}) == {"a": 5.0, "b": 2.0}


def test_numpy_in_numpy_out():
    assert type(tapejit.grad(cube)(np.ones(2))) is np.ndarray
    assert type(tapejit.grad(cube)(1.0)) is np.float64
    assert type(tapejit.jit(cube)(np.float32(2.0))) is np.float32


def test_array_in_array_out():
    g = tapejit.grad(cube)(Array([1.0, 2.0]))
    assert type(g) is Array
    close(g.numpy(), [3.0, 12.0])


def test_array_anywhere_among_the_arguments_gives_arrays():
    a, b = tapejit.grad(lambda p, q: np.sum(p * q), argnums=(0, 1))(np.ones(2), Array([1.0, 2.0]))
    assert type(a) is type(b) is Array


def test_float32_with_python_floats_stays_float32():
    x = np.ones(3, np.float32)
    for f in (lambda x: np.sum(2.5 * x + 1) ** 2, lambda x: np.sum(np.where(x > 0, x, 0.0)), lambda x: np.mean(x / 3)):
        value, g = tapejit.value_and_grad(f)(x)
        assert value.dtype == g.dtype == np.float32


def test_weak_scalar_argument_stays_weak():
    f = tapejit.jit(lambda x, s: x * s)
    assert f(np.ones(2, np.float32), 2.0).dtype == np.float32
    assert f(np.ones(2, np.float32), np.float64(2.0)).dtype == np.float64
    assert tapejit.grad(lambda x, s: np.sum(x * (s + 1) ** 2))(np.ones(2, np.float32), 2.0).dtype == np.float32


def test_integer_arrays_follow_numpy():
    f = tapejit.jit(lambda i: (i // 2, i / 2, i % 3, i * 1.5))
    i = np.arange(5)
    for got, expected in zip(f(i), (i // 2, i / 2, i % 3, i * 1.5)):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_arguments_in_any_memory_layout():
    f = tapejit.jit(lambda x: np.sum(x * np.arange(6.0).reshape(2, 3)))
    a = np.arange(12.0).reshape(3, 4)
    expected = lambda x: np.sum(x * np.arange(6.0).reshape(2, 3))
    for x in (a[:2, :3], a.T[:2, :3], a[::-1][:2, :3], np.asfortranarray(a[:2, :3]), np.broadcast_to(np.arange(3.0), (2, 3))):
        for _ in range(6):
            close(f(x), expected(x))


# ---- jvp and vjp ----------------------------------------------------------------------------------------------------
def test_jvp():
    y, t = tapejit.jvp(lambda x, y: x * x * y, (2.0, 3.0), (1.0, 10.0))
    assert (y, t) == (12.0, 12.0 + 40.0)


def test_jvp_of_nests():
    p, dp = {"a": 2.0, "b": [np.array([1.0, 2.0])]}, {"a": 1.0, "b": [np.ones(2)]}
    y, t = tapejit.jvp(lambda p: {"out": p["a"] * p["b"][0]}, (p,), (dp,))
    close(y["out"], [2.0, 4.0])
    close(t["out"], [3.0, 4.0])


def test_vjp():
    y, pull = tapejit.vjp(lambda x, y: x * y, np.array([1.0, 2.0]), 3.0)
    close(y, [3.0, 6.0])
    gx, gy = pull(np.array([1.0, 10.0]))
    close(gx, [3.0, 30.0])
    assert gy == 21.0
    close(pull(np.array([0.0, 1.0]))[0], [0.0, 3.0])


def test_vjp_result_is_a_tuple_even_for_one():
    _, pull = tapejit.vjp(np.sin, 0.0)
    assert pull(2.0) == (2.0,)


def test_vjp_of_a_nest_with_aux():
    y, pull, aux = tapejit.vjp(lambda p: ((p[0] * p[1], p[0]), "aux"), (2.0, 5.0), has_aux=True)
    assert y == (10.0, 2.0) and aux == "aux"
    assert pull((1.0, 100.0)) == ((105.0, 2.0),)


def test_jvp_and_vjp_agree():
    f = lambda x: np.cumsum(np.sin(x)) * x[::-1]
    x, t, ct = np.array([0.3, 1.0, -2.0]), np.array([1.0, -1.0, 0.5]), np.array([2.0, 0.1, -0.7])
    _, tangent = tapejit.jvp(f, (x,), (t,))
    close(np.dot(tapejit.vjp(f, x)[1](ct)[0], t), np.dot(ct, tangent))


def test_jvp_again_does_not_record_again(monkeypatch):
    recorded = []
    trace = tapejit.dispatch.trace
    monkeypatch.setattr(tapejit.dispatch, "trace", lambda *args: recorded.append(args) or trace(*args))
    for k in range(4):
        assert tapejit.jvp(square, (float(k),), (1.0,)) == (k * k, 2 * k)
    assert len(recorded) == 1


# ---- jacobian, hessian, hvp -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["forward", "reverse", None])
def test_jacobian(mode):
    f = lambda x: np.stack([x[0] * x[1], np.sin(x[2]), x[0]])
    expected = [[2.0, 1.0, 0.0], [0.0, 0.0, np.cos(3.0)], [1.0, 0.0, 0.0]]
    close(tapejit.jacobian(f, mode=mode)(np.array([1.0, 2.0, 3.0])), expected)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_shape_is_output_then_input(mode):
    j = tapejit.jacobian(lambda x: np.ones((4, 2)) @ x, mode=mode)(np.ones((2, 3)))
    assert j.shape == (4, 3, 2, 3)
    close(j[1, 2], [[0, 0, 1], [0, 0, 1]])


def test_jacobian_structure():
    f = lambda p, q: {"sum": p["a"] + q, "prod": (p["a"] * q,)}
    j = tapejit.jacobian(f, argnums=(0, 1))({"a": np.array([1.0, 2.0])}, 3.0)
    close(j["sum"][0]["a"], np.eye(2))
    close(j["sum"][1], [1.0, 1.0])
    close(j["prod"][0][0]["a"], 3 * np.eye(2))
    close(j["prod"][0][1], [1.0, 2.0])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_of_masked_diagonals_is_the_same_both_ways(mode):  # jax#654
    f = lambda x: np.where(np.eye(2) > 0, 0.0, x @ x.T)
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    j = tapejit.jacobian(f, mode=mode)(x)
    close(j[0, 1], [[3.0, 4.0], [1.0, 2.0]])
    close(j[0, 0], np.zeros((2, 2)))


def test_jacobian_of_an_empty_argument():
    assert tapejit.jacobian(lambda x: x * 2)(np.zeros(0)).shape == (0, 0)


def test_hessian():
    h = tapejit.hessian(lambda x: x[0] ** 2 * x[1])(np.array([2.0, 3.0]))
    close(h, [[6.0, 4.0], [4.0, 0.0]])


def test_hessian_structure():
    h = tapejit.hessian(lambda p: p["a"] ** 2 * p["b"])({"a": 2.0, "b": 3.0})
    assert h == {"a": {"a": 6.0, "b": 4.0}, "b": {"a": 4.0, "b": 0.0}}
    h = tapejit.hessian(product, argnums=(0, 1))(2.0, 3.0)
    assert h == ((6.0, 4.0), (4.0, 0.0))


def test_hvp_is_hessian_times_vector():
    f = lambda x: np.sum(np.sin(x) * x[::-1])
    x, v = np.array([0.1, 0.7, -1.3]), np.array([1.0, 2.0, -1.0])
    close(tapejit.hvp(f)(x, v), tapejit.hessian(f)(x) @ v, 1e-12)


def test_hvp_of_a_nest():
    got = tapejit.hvp(lambda p: p["a"] ** 2 * p["b"])({"a": 2.0, "b": 3.0}, {"a": 1.0, "b": 10.0})
    assert got == {"a": 46.0, "b": 4.0}


def test_hvp_argnums():
    assert tapejit.hvp(lambda s, x: s * np.sum(x**3), argnums=1)(2.0, np.array([1.0]), np.array([5.0])).tolist() == [60.0]


# ---- vmap -------------------------------------------------------------------------------------------------------------
def test_vmap_over_both():
    close(tapejit.vmap(np.dot)(np.arange(6.0).reshape(3, 2), np.ones((3, 2))), [1.0, 5.0, 9.0])


def test_vmap_in_axes_none():
    m = np.array([[1.0, 2.0], [3.0, 4.0]])
    close(tapejit.vmap(lambda a, x: a @ x, in_axes=(None, 0))(m, np.eye(2)), m.T)


def test_vmap_negative_axes():
    x = np.arange(24.0).reshape(2, 3, 4)
    out = tapejit.vmap(lambda r: np.cumsum(r, 0), in_axes=-1, out_axes=-1)(x)
    close(out, np.cumsum(x, 0))
    close(tapejit.vmap(lambda r: np.sum(r), in_axes=-2)(x), x.sum((0, 2)))


def test_vmap_axes_nests():
    p = {"w": np.ones((2, 5)), "b": np.arange(5.0), "c": 10.0}
    f = lambda p, s: np.sum(p["w"]) + p["b"] + p["c"] * s
    out = tapejit.vmap(f, in_axes=({"w": 1, "b": 0, "c": None}, None))(p, 2.0)
    close(out, 22 + np.arange(5.0))


def test_vmap_out_axes_nest_and_none():
    f = lambda x, s: {"rows": x * s, "s": s * 2}
    out = tapejit.vmap(f, in_axes=(0, None), out_axes={"rows": 1, "s": None})(np.arange(6.0).reshape(3, 2), 2.0)
    close(out["rows"], (np.arange(6.0).reshape(3, 2) * 2).T)
    assert out["s"] == 4.0


def test_vmap_of_a_constant_result_repeats_it():
    close(tapejit.vmap(lambda x: 7.0)(np.zeros(3)), [7.0] * 3)


def test_vmap_of_vmap():
    x, y = np.arange(3.0), np.arange(4.0)
    outer = tapejit.vmap(tapejit.vmap(lambda a, b: a * b, in_axes=(None, 0)), in_axes=(0, None))
    close(outer(x, y), np.outer(x, y))


def test_vmap_of_an_empty_axis():
    assert tapejit.vmap(lambda x: x * 2)(np.zeros((0, 3))).shape == (0, 3)


def test_vmap_keyword_arguments_are_mapped_over_axis_0():
    close(tapejit.vmap(lambda x, y: x * y)(np.ones(3), y=np.arange(3.0)), [0.0, 1.0, 2.0])


@pytest.mark.parametrize("size", [1, 2, 7])
def test_per_example_gradients(size):
    w, x = np.array([1.0, -2.0]), np.arange(2.0 * size).reshape(size, 2)
    loss = lambda w, x: (w @ x - 1.0) ** 2
    got = tapejit.vmap(tapejit.grad(loss), in_axes=(None, 0))(w, x)
    close(got, 2 * (x @ w - 1.0)[:, None] * x)


# ---- decorators -------------------------------------------------------------------------------------------------------
def test_as_decorators():
    @tapejit.grad
    def slope(x):
        """Docstring."""
        return x**2

    @tapejit.grad(argnums=1)
    def second(x, y):
        return x * y

    @tapejit.vmap(in_axes=1)
    def columns(x):
        return np.sum(x)

    assert slope.__name__ == "slope" and slope.__doc__ == "Docstring."
    assert slope(3.0) == 6.0 and second(5.0, 1.0) == 5.0
    close(columns(np.ones((2, 3))), [2.0] * 3)


def test_on_methods():
    class Model:
        def __init__(self, k):
            self.k = k

        @tapejit.grad
        def slope(self, x):
            return self.k * x**2

        @tapejit.jit
        def value(self, x):
            return self.k * x**2

    def check(model, k):
        assert model.value(2.0) == 4 * k

    check(Model(1.0), 1.0)
    check(Model(2.0), 2.0)
    with pytest.raises(tapejit.TapejitError, match="argument 0 of slope is static"):
        Model(1.0).slope(2.0)


def test_grad_of_a_bound_method():
    class Model:
        k = 3.0

        def value(self, x):
            return self.k * x**2

    assert tapejit.grad(Model().value)(2.0) == 12.0


def test_grad_of_a_callable_object_and_a_partial():
    class Square:
        def __call__(self, x):
            return x * x

    assert tapejit.grad(Square())(4.0) == 8.0
    assert tapejit.grad(functools.partial(product, y=10.0))(2.0) == 40.0


def test_tapejit_numpy_and_numpy_are_the_same():
    x = np.array([0.2, 0.9])
    close(tapejit.grad(lambda x: np.sum(np.tanh(x)))(x), tapejit.grad(lambda x: tnp.sum(tnp.tanh(x)))(x))
