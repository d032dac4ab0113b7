"""What a function reads beside its arguments: a change of it is noticed at the next call, wherever it is kept, or is loud."""

import collections
import functools
import gc
import itertools
import random
import sys
import types
import warnings

import numpy as np
import pytest

import tapejit
from tapejit import TapejitWarning, Variable, grad, jit


class Node:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("k", "w")

    def __init__(self, k, w=None):
        self.k, self.w = k, w


class Layer:
    gain = 1.0

    def __init__(self, k):
        self._k, self.w = k, np.ones(2)

    @property
    def k(self):
        return self._k

    def forward(self, x):
        return x * self.k * self.inner()

    def inner(self):
        return self.gain

    @staticmethod
    def twice(x):
        return 2 * x

    def __matmul__(self, x):
        return self.forward(x)


def follows(f, change, before, after, calls=6):
    """f(1.0) gives `before`, after change() `after`; once compiled and once more when its path is hot."""
    for _ in range(calls):
        assert f(1.0) == before
    change()
    for _ in range(calls):
        assert f(1.0) == after


# ---- where a number may be kept ------------------------------------------------------------------------------------------
def test_attribute_of_an_instance_deep_down():
    n = Node(a=Node(b=Node(c=Node(d=Node(k=2.0)))))
    follows(jit(lambda x: x * n.a.b.c.d.k), lambda: setattr(n.a.b.c.d, "k", 5.0), 2.0, 5.0)


def test_slots():
    s = Slotted(2.0)
    follows(jit(lambda x: x * s.k), lambda: setattr(s, "k", 5.0), 2.0, 5.0)


def test_attribute_found_by_getattr():
    n, name = Node(k=2.0), "k"
    follows(jit(lambda x: x * getattr(n, name)), lambda: setattr(n, "k", 5.0), 2.0, 5.0)


def test_attribute_of_a_class_and_of_its_base():
    class Base:
        k = 2.0

    class Derived(Base):
        pass

    d = Derived()
    follows(jit(lambda x: x * Derived.k), lambda: setattr(Base, "k", 5.0), 2.0, 5.0)
    follows(jit(lambda x: x * d.k), lambda: setattr(Derived, "k", 7.0), 5.0, 7.0)


def test_attribute_of_a_function():
    def f(x):
        return x * f.k

    f.k = 2.0
    follows(jit(f), lambda: setattr(f, "k", 5.0), 2.0, 5.0)


def test_attribute_of_a_module_and_what_its_functions_read(monkeypatch):
    m = types.ModuleType("settings")
    exec("K = 2.0\nL = 1.0\ndef helper(x):\n    return x * L\n", m.__dict__)
    monkeypatch.setitem(sys.modules, "settings", m)
    f = jit(lambda x: m.helper(x * m.K))
    follows(f, lambda: setattr(m, "K", 5.0), 2.0, 5.0)
    follows(f, lambda: setattr(m, "L", 10.0), 5.0, 50.0)
    follows(f, lambda: setattr(m, "helper", lambda x: -x), 50.0, -5.0)


def test_property_and_method_of_an_instance():
    layer = Layer(2.0)
    f = jit(lambda x: layer.forward(x))
    follows(f, lambda: setattr(layer, "_k", 5.0), 2.0, 5.0)
    follows(f, lambda: setattr(layer, "gain", 2.0), 5.0, 10.0)


def test_operator_method_and_static_method():
    layer = Layer(2.0)
    follows(jit(lambda x: layer.twice(layer @ x)), lambda: setattr(layer, "_k", 5.0), 4.0, 10.0)


def test_layers_in_a_list_in_a_model_in_a_method():
    class Model:
        def __init__(self):
            self.layers = [Layer(2.0), Layer(3.0)]

        @jit
        def value(self, x):
            return self.run(x)

        def run(self, x):
            for layer in self.layers:
                x = layer.forward(x)
            return x

    m = Model()
    follows(m.value, lambda: setattr(m.layers[1], "_k", 10.0), 6.0, 20.0)
    follows(m.value, lambda: m.layers.append(Layer(2.0)), 20.0, 40.0)
    follows(m.value, lambda: setattr(m.layers[0], "w", None), 40.0, 40.0)


def test_method_of_a_static_argument_reads_attributes_that_only_it_names():
    layer = Layer(2.0)
    g = jit(lambda x, layer: layer.forward(x))
    assert g(1.0, layer) == 2.0
    layer._k = 5.0
    assert g(1.0, layer) == 5.0


def test_arguments_and_keywords_of_a_partial():
    p = functools.partial(lambda x, k: x * k, k=2.0)
    follows(jit(p), lambda: p.keywords.update(k=5.0), 2.0, 5.0)


@pytest.mark.parametrize(
    "wrap",
    [
        jit,
        tapejit.gradients_function,
        tapejit.make_vjp,
        lambda f: tapejit.custom_gradient(lambda x: (f(x), lambda dy: dy)),
        lambda f: tapejit.vjp(f, np.array(1.0))[1],
    ],
    ids=["jit", "gradients_function", "make_vjp", "custom_gradient", "vjp"],
)
def test_number_read_by_a_function_that_is_wrapped(wrap):
    k = 2.0
    inner = wrap(lambda x: x * k)

    def outer(x):
        out = inner(x)
        while isinstance(out, (tuple, list)):  # the value, or the only gradient
            out = out[0]
        return out

    outer = jit(outer)
    assert outer(1.0) == 2.0
    k = 5.0
    assert outer(1.0) == 5.0


def test_item_far_down_a_list():
    numbers = [1.0] * 3000
    follows(jit(lambda x: x * numbers[2500]), lambda: numbers.__setitem__(2500, 5.0), 1.0, 5.0, calls=2)


@pytest.mark.parametrize("make, add", [(list, "append"), (set, "add"), (collections.deque, "append")])
def test_a_collection_that_grows(make, add):
    numbers = make([2.0, 3.0])
    follows(jit(lambda x: x * sum(numbers)), lambda: getattr(numbers, add)(4.0), 5.0, 9.0)


def test_a_builtin_that_is_rebound():
    choose = max
    f = jit(lambda x: choose(x, 3.0))
    assert f(1.0) == 3.0
    choose = min
    assert f(1.0) == 1.0


def test_the_sign_of_zero():
    k = 0.0
    f = jit(lambda x: np.copysign(x, k))
    assert f(1.0) == 1.0
    k = -0.0
    assert f(1.0) == -1.0


def test_counters_count():
    n = 0

    @jit
    def f(x):
        nonlocal n
        n += 1
        return x * n

    assert [f(1.0) for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


def test_mutable_default():
    def f(x, acc=[0.0]):  # noqa: B006
        acc[0] += 1
        return x * acc[0]

    g = jit(f)
    assert [g(1.0) for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


# ---- identity ------------------------------------------------------------------------------------------------------------
def test_an_object_that_takes_the_place_of_a_dead_one_is_another():
    """CPython reuses addresses: a key that told objects by a bare id would find a record of the dead one."""
    held = None
    f = jit(lambda x: x * held(x))

    def scaled(k):
        return eval(f"lambda x: x * 0 + {k}")

    for k in range(2, 12):
        held = None
        gc.collect()
        held = scaled(float(k))
        assert f(1.0) == k


def test_equal_statics_are_one_key_though_they_are_two_objects():
    class Size:
        def __init__(self, n):
            self.n = n

        def __eq__(self, other):
            return isinstance(other, Size) and self.n == other.n

        def __hash__(self):
            return hash(self.n)

    f = jit(lambda x, size: x * size.n)
    assert [f(1.0, Size(2)), f(1.0, Size(2)), f(1.0, Size(3))] == [2.0, 2.0, 3.0]
    assert f.cache_info().misses == 2


def test_what_is_not_named_does_not_record_again():
    n = Node(k=2.0, steps=0, history=[])
    f = jit(lambda x: x * n.k)
    for i in range(5):
        assert f(1.0) == 2.0
        n.steps += 1
        n.history.append(i)
    assert f.cache_info().misses == 1


def test_cycles_of_instances():
    a, b = Node(k=2.0), Node(k=3.0)
    a.other, b.other = b, a
    follows(jit(lambda x: x * a.other.other.k), lambda: setattr(a, "k", 5.0), 2.0, 5.0)


# ---- arrays --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "body",
    [
        lambda A, x: np.sum(A @ np.array([1.0, 1.0])) * x,
        lambda A, x: np.sum(A * x),
        lambda A, x: np.sum(A) * x,
        lambda A, x: np.sum(np.linalg.norm(A, axis=1) ** 2) * x,
        lambda A, x: (A[0, 0] + A[0, 1] + A.T[0, 1] + A[-1, -1]) * x,
        lambda A, x: sum(sum(row) for row in A) * x,
        lambda A, x: np.einsum("ij->", A) * x,
        lambda A, x: functools.reduce(np.add, A.ravel()) * x,
        lambda A, x: float(np.sum(A)) * x,
        lambda A, x: A.sum() * x,
    ],
)
def test_a_captured_array_is_read_afresh_however_it_is_read(body):
    A = np.array([[1.0, 0.0], [0.0, 1.0]])
    f = jit(lambda x: body(A, x))
    expected = lambda: body(A, 1.0)
    for _ in range(6):
        np.testing.assert_allclose(f(1.0), expected(), rtol=1e-14)
    A[0, 0] = 5.0
    for _ in range(6):
        np.testing.assert_allclose(f(1.0), expected(), rtol=1e-14)
    assert expected() in (6.0, 26.0)


@pytest.mark.parametrize("holder", [Slotted, lambda k, w: Node(k=k, w=w), collections.namedtuple("Pair", "k w")])
def test_an_array_in_a_holder_is_read_afresh(holder):
    h = holder(1.0, np.array([1.0, 2.0]))
    f = grad(lambda x: h.k * np.sum(h.w) * x**2)
    follows(f, lambda: h.w.__setitem__(0, 10.0), 6.0, 24.0)


def test_an_array_of_self_is_read_afresh_where_self_is_also_written_to():
    class Model:
        def __init__(self):
            self.w, self.calls = np.array([1.0, 2.0]), []

        @jit
        def value(self, x):
            self.last = "value"
            return np.sum(self.w) * x

    m = Model()
    follows(m.value, lambda: m.w.__setitem__(0, 10.0), 3.0, 12.0)


@pytest.mark.parametrize(
    "body, expected",
    [
        (lambda v, x: np.exp(v) * x, lambda v: np.exp(v) * 3),
        (lambda v, x: np.sum(np.exp(v)) * x, lambda v: np.exp(v) * 3),
        (lambda v, x: np.exp(v.value()) * x, lambda v: np.exp(v) * 3),
        (lambda v, x: x if np.exp(v) > 5 else -x, lambda v: 3 if np.exp(v) > 5 else -3),
    ],
)
def test_a_variable_in_an_expression_of_its_own_is_read_at_each_call(body, expected):
    v = Variable(1.0)
    f = jit(lambda x: body(v, x))
    for value in (1.0, 2.0, 0.5):
        v.assign(value)
        for _ in range(6):
            np.testing.assert_allclose(f(3.0), expected(value), rtol=1e-14)


# ---- loud where it cannot be followed ------------------------------------------------------------------------------------
@pytest.mark.parametrize("own", ["np.random", "Generator", "RandomState", "random", "random.Random"])
def test_random_numbers_drawn_while_recording(own):
    draw = {
        "np.random": np.random.standard_normal,
        "Generator": np.random.default_rng(0).normal,
        "RandomState": np.random.RandomState(0).normal,
        "random": random.random,
        "random.Random": random.Random(0).random,
    }[own]
    f = jit(lambda x: x + draw() if x > 0 else x)
    for _ in range(3):
        with pytest.raises(tapejit.TapejitError, match="drew random numbers while it was recorded") as caught:
            f(1.0)
        assert "pass them as an argument" in caught.value.instead
    assert f(-1.0) == -1.0
    with pytest.raises(RuntimeError, match="drew random numbers"):  # on another path
        f(1.0)
    assert f(-2.0) == -2.0


def test_random_numbers_seeded_within_are_no_hidden_state():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = jit(lambda x: x + np.random.default_rng(3).normal(size=2))
        np.testing.assert_array_equal(f(0.0), np.random.default_rng(3).normal(size=2))


def test_random_numbers_are_drawn_anew_at_each_step_of_a_tape():
    x, seen = tapejit.Array(1.0), set()
    for _ in range(3):
        with tapejit.GradientTape() as tape:
            tape.watch(x)
            y = x * np.random.standard_normal()
        seen.add(float(tape.gradient(y, x).numpy()))
    assert len(seen) == 3


def test_more_items_than_are_looked_at():
    numbers = [1.0] * 10_000
    f = jit(lambda x: x * numbers[0])
    with pytest.warns(TapejitWarning, match="reads a large or deep container of Python objects"):
        f(1.0)


def test_side_effects_happen_while_it_is_recorded_and_not_later():
    runs = itertools.count()
    f = jit(lambda x: (next(runs), x * 2)[1])
    assert [f(float(i)) for i in range(8)] == [2.0 * i for i in range(8)]
    assert next(runs) == 1
