"""The TensorFlow forms: gradients_function and its kin, with TensorFlow's semantics and error texts."""

import re
import sys

import numpy as np
import pytest

import tapejit
from tapejit import UnconnectedWarning


def values(arrays):
    return [None if a is None else a.numpy().tolist() for a in arrays]


def test_a_list_even_for_one():
    g = tapejit.gradients_function(lambda x: np.sin(x) ** 2)
    (gradient,) = g(np.pi / 2)
    assert isinstance(gradient, tapejit.Array) and abs(gradient.numpy()) < 1e-15


def test_all_positional_arguments_by_default():
    assert values(tapejit.gradients_function(lambda x, y: x * x * y)(3.0, 2.0)) == [12.0, 9.0]


@pytest.mark.parametrize("params, want", [(["y"], [9.0]), ([1], [9.0]), (["y", "x"], [9.0, 12.0]), ([1, 0], [9.0, 12.0])])
def test_params_by_name_and_index(params, want):
    assert values(tapejit.gradients_function(lambda x, y: x * x * y, params)(3.0, 2.0)) == want


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated with the definition")
def test_params_by_name_where_annotations_name_nothing():
    def f(x: Nowhere, y: Nowhere | None = None) -> Nowhere:  # noqa: F821
        return x * x * y

    assert values(tapejit.gradients_function(f, ["y"])(3.0, 2.0)) == [9.0]


def test_mixed_params():
    with pytest.raises(ValueError, match=r"params must be all strings or all integers; got \['x', 1\]\."):
        tapejit.gradients_function(lambda x, y: x * y, ["x", 1])


def test_unknown_name():
    with pytest.raises(ValueError, match="params names 'z', which is no positional parameter"):
        tapejit.gradients_function(lambda x, y: x * y, ["z"])


def test_keyword_arguments_are_refused():
    with pytest.raises(ValueError, match="Functions to be differentiated cannot receive keyword arguments."):
        tapejit.gradients_function(lambda x: x)(x=1.0)


def test_a_function_that_returns_none():
    def forgot(x):
        x * x

    text = "Cannot differentiate a function that returns None; did you forget to return a value from forgot?"
    with pytest.raises(TypeError, match=re.escape(text)):
        tapejit.gradients_function(forgot)(1.0)


def test_outputs_are_summed():
    assert values(tapejit.gradients_function(lambda x: (x, {"twice": 2 * x, "square": x * x}))(3.0)) == [9.0]


def test_dy_weighs_the_outputs():
    g = tapejit.gradients_function(lambda x: x * x)
    assert values(g(np.array([1.0, 2.0]), dy=np.array([1.0, 10.0]))) == [[2.0, 40.0]]
    g = tapejit.gradients_function(lambda x: [x, x * x])
    assert values(g(3.0, dy=[10.0, 1.0])) == [16.0]


def test_one_object_for_two_arguments():
    one = tapejit.Array(1.0)
    assert values(tapejit.gradients_function(lambda x, y: x * y)(one, one)) == [1.0, 1.0]


def test_the_identity():
    assert values(tapejit.gradients_function(lambda x: x)(2.0)) == [1.0]


def test_none_for_unconnected_and_for_integers_says_why():
    with pytest.warns(UnconnectedWarning, match="does not depend on y"):
        assert values(tapejit.gradients_function(lambda x, y: x * x)(3.0, 2.0)) == [6.0, None]
    with pytest.warns(UnconnectedWarning, match="n is i64: only floats have derivatives"):
        assert values(tapejit.gradients_function(lambda x, n: x**n)(3.0, 2)) == [6.0, None]


def test_the_power_function_of_the_tutorial():
    def f(x, y):
        output = 1
        for _ in range(int(y)):
            output = output * x
        return output

    def g(x, y):
        return tapejit.gradients_function(f, params=["x"])(x, y)[0]

    assert f(3.0, 2).real == 9.0
    assert g(3.0, 2).numpy() == 6.0 and g(4.0, 3).numpy() == 48.0


def test_higher_order_by_wrapping():
    f = lambda x: x**4
    first = lambda x: tapejit.gradients_function(f)(x)[0]
    second = lambda x: tapejit.gradients_function(first)(x)[0]
    assert second(2.0).numpy() == 48.0


def test_value_and_gradients_function():
    value, (gradient,) = tapejit.value_and_gradients_function(lambda x: x * x)(3.0)
    assert value.numpy() == 9.0 and gradient.numpy() == 6.0
    value, (gradient,) = tapejit.value_and_gradients_function(lambda x: x * x)(3.0, dy=2.0)
    assert value.numpy() == 9.0 and gradient.numpy() == 12.0


def test_nests_of_arguments():
    (g,) = tapejit.gradients_function(lambda p: p["a"] * p["b"])({"a": 2.0, "b": 3.0})
    assert g["a"].numpy() == 3.0 and g["b"].numpy() == 2.0


def test_make_vjp():
    value, pull = tapejit.make_vjp(lambda x, y: x * y)(3.0, 2.0)
    assert value.numpy() == 6.0 and values(pull()) == [2.0, 3.0] and values(pull(10.0)) == [20.0, 30.0]
    value, pull = tapejit.make_vjp(lambda x, y: x * y, params=["y"], persistent=False)(3.0, 2.0)
    assert values(pull(1.0)) == [3.0]
    with pytest.raises(RuntimeError, match="vjp can only be called once"):
        pull(1.0)


def test_implicit_gradients():
    b, w = tapejit.Variable(1.0, name="b"), tapejit.Variable(2.0, name="w")
    frozen = tapejit.Variable(5.0, trainable=False)
    pairs = tapejit.implicit_gradients(lambda x: w * w * x + b + frozen)(3.0)
    assert [(g.numpy().item(), v.name) for g, v in pairs] == [(1.0, "b"), (12.0, "w")]
    value, pairs = tapejit.implicit_value_and_gradients(lambda x, scale=1.0: w * x * scale)(3.0, scale=2.0)
    assert value.numpy() == 12.0 and pairs[0][0].numpy() == 6.0 and pairs[0][1] is w
    with pytest.raises(ValueError, match="No trainable variables were accessed while the function was being computed."):
        tapejit.implicit_gradients(lambda x: x * 2)(3.0)
