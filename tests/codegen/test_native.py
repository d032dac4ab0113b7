"""The machine-code entry: what it serves, what it leaves to Python, reference counts, and that results stay right."""

import collections
import dataclasses
import functools
import pickle
import sys

import numpy as np
import pytest

import tapejit
from tapejit.codegen import native
from tapejit.dispatch import NATIVE_AFTER
from tapejit.ir.knobs import INTERP, NATIVE

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython" or FREE_THREADED or not NATIVE.value or INTERP.value,
    reason="this build is served by Python",
)


def test_it_is_there():
    assert native.supported()


def test_hot_calls_with_floats_and_arrays_are_served(warm, served):
    f = tapejit.value_and_grad(lambda x, a: np.sum(a * x**2))
    x = np.arange(3.0)
    assert not served(f, x, 2.0)
    warm(f, x, 2.0)
    assert served(f, x, 2.0)
    value, gradient = f(x, 3.0)  # another float: a run-time value
    assert value == 15.0 and type(value) is np.float64
    np.testing.assert_array_equal(gradient, [0.0, 6.0, 12.0])


@pytest.mark.parametrize(
    "other",
    [np.arange(4.0), np.arange(3, dtype="f"), np.arange(3.0).reshape(3, 1), np.float64(2.0), 2.0, 2],
    ids=["shape", "dtype", "rank", "numpy scalar", "float", "int"],
)
def test_other_arguments_go_to_python_and_are_right(other, warm, served):
    f = tapejit.jit(lambda x: x * 2.0)
    warm(f, np.arange(3.0))
    assert not served(f, other)
    out = f(other)
    np.testing.assert_array_equal(out, np.asarray(other) * 2.0)
    assert out.dtype == np.result_type(other, 2.0)


def test_arrays_of_ours_and_errors_go_to_python(warm):
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    assert isinstance(f(tapejit.Array(2.0)), tapejit.Array)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f()
    with pytest.raises(TypeError, match="unexpected keyword"):
        f(1.0, z=2.0)
    with pytest.raises(tapejit.TapejitError, match="cannot be recorded"):
        f(np.array(["a"]))


def test_keywords():
    f = tapejit.jit(lambda x, scale=2.0, *, shift=0.0: x * scale + shift)
    for _ in range(NATIVE_AFTER + 1):
        f(np.ones(2), shift=1.0), f(np.ones(2), scale=3.0, shift=1.0), f(x=np.ones(2))
    hits = f._dispatcher.hits
    assert f(np.ones(2), shift=2.0).tolist() == [4.0, 4.0]
    assert f(np.ones(2), scale=5.0, shift=2.0).tolist() == [7.0, 7.0]
    assert f(x=np.ones(2) * 3).tolist() == [6.0, 6.0]
    assert f._dispatcher.hits == hits + 3
    assert f(np.ones(2), shift=2.0, scale=5.0).tolist() == [7.0, 7.0]  # another order: Python's turn
    assert f._dispatcher.hits == hits + 3


def test_nests_of_arguments(warm, served):
    def loss(params, data):
        (w, b), extra = params["layer"], params["more"]
        return np.sum(np.tanh(data[0] @ w + b) * extra[0]) + data[1]

    rng = np.random.default_rng(0)
    f = tapejit.value_and_grad(loss)
    nest = {"layer": (rng.normal(size=(3, 4)), rng.normal(size=4)), "more": [2.0, None]}
    data = [rng.normal(size=(5, 3)), 1.5]
    warm(f, nest, data)
    assert served(f, nest, data)
    value, slopes = f(nest, data)
    assert list(slopes) == ["layer", "more"] and type(slopes["layer"]) is tuple
    w, b = nest["layer"]
    h = np.tanh(data[0] @ w + b)
    np.testing.assert_allclose(value, 2 * h.sum() + 1.5, rtol=1e-13)
    np.testing.assert_allclose(slopes["layer"][1], 2 * (1 - h * h).sum(0), rtol=1e-13)
    np.testing.assert_allclose(slopes["more"][0], h.sum(), rtol=1e-13)
    for other in (
        {"more": nest["more"], "layer": nest["layer"]},  # another order of keys
        {"layer": list(nest["layer"]), "more": nest["more"]},
        {"layer": nest["layer"], "more": (2.0, None)},
    ):
        assert not served(f, other, data)
        np.testing.assert_allclose(f(other, data)[0], value, rtol=1e-13)
    with pytest.raises(KeyError):
        f({"layer": nest["layer"], "less": nest["more"]}, data)
    with pytest.raises((ValueError, IndexError)):
        f({"layer": (w,), "more": nest["more"]}, data)


Layer = collections.namedtuple("Layer", "w b")


class Scaled(collections.namedtuple("Scaled", "w b")):
    factor = 2.0

    def out(self, x):
        return (x * self.w + self.b) * self.factor


@dataclasses.dataclass
class Model:
    layer: Layer
    rate: float = 1.0

    def out(self, x):
        return np.sum(self.layer.w * x + self.layer.b) * self.rate


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("w", "b")
    w: np.ndarray
    b: np.ndarray


def test_namedtuples_and_dataclasses(warm, served):
    x, w, b = np.arange(3.0), np.full(3, 2.0), np.ones(3)
    f = tapejit.value_and_grad(lambda model, x: model.out(x))
    warm(f, Model(Layer(w, b), 3.0), x)
    assert served(f, Model(Layer(w, b), 3.0), x)
    value, slope = f(Model(Layer(w, b), 2.0), x)
    assert value == 18.0 and slope.rate == 9.0 and type(slope) is Model and type(slope.layer) is Layer
    assert slope.layer.w.tolist() == [0.0, 2.0, 4.0] and slope.layer.b.tolist() == [2.0] * 3
    broken = Model(Layer(w, b), 2.0)
    del broken.layer
    with pytest.raises(AttributeError, match="layer"):
        f(broken, x)
    with pytest.raises(AttributeError, match="'list' object has no attribute 'w'"):
        f(Model([w, b], 2.0), x)
    g = tapejit.jit(lambda p: {"sum": Slotted(p.w + p.b, p.w - p.b)})
    warm(g, Slotted(w, b))
    assert served(g, Slotted(w, b))
    assert g(Slotted(w, b * 5))["sum"].w.tolist() == [7.0] * 3


def test_class_attributes_are_read_at_each_call(warm, served):
    f = tapejit.jit(lambda p, x: p.out(x))
    p = Scaled(np.ones(2), np.ones(2))
    warm(f, p, 1.0)
    assert served(f, p, 1.0) and f(p, 1.0).tolist() == [4.0, 4.0]
    Scaled.factor = 3.0
    try:
        assert f(p, 1.0).tolist() == [6.0, 6.0]
    finally:
        Scaled.factor = 2.0


def test_kinds_of_arrays(warm, served):
    f = tapejit.jit(lambda x: x * 2.0)
    x = np.arange(3.0)
    warm(f, x)
    fixed = x.copy()
    fixed.flags.writeable = False
    assert served(f, fixed) and served(f, np.frombuffer(x.tobytes())) and served(f, np.ascontiguousarray(x))
    for other in (x.view(np.recarray), np.ma.masked_array(x)[:].data.view(np.memmap)):
        assert not served(f, other)
        assert np.asarray(f(other)).tolist() == [0.0, 2.0, 4.0]
    grown = np.arange(3.0)
    assert served(f, grown)
    grown.resize(4, refcheck=False)
    assert not served(f, grown) and f(grown).tolist() == [0.0, 2.0, 4.0, 0.0]
    grown.resize((2, 2), refcheck=False)
    assert not served(f, grown) and f(grown).tolist() == [[0.0, 2.0], [4.0, 0.0]]


def test_shared_nests_are_looked_at_once(warm, served):
    nest = (1.0, [2.0])
    for _ in range(5):
        nest = (nest,) * 100  # 10 ** 10 ways to the numbers
    f = tapejit.jit(lambda x: x * nest[0][0][0][0][0][1][0])
    warm(f, 3.0)
    assert served(f, 3.0) and f(3.0) == 6.0
    nest[1][0][0][0][2][1][0] = 4.0
    assert f(3.0) == 12.0


def test_equal_strings_and_dtypes_are_the_same(warm, served):
    f = tapejit.jit(lambda p, how: p["weight 1"] * (2.0 if how == "double it" else 1.0))
    warm(f, {"weight 1": np.ones(2)}, "double it")
    others = {"".join(["weight", " 1"]): pickle.loads(pickle.dumps(np.ones(2)))}, "".join(["double", " it"])
    assert others[0]["weight 1"].dtype is not np.dtype(float)
    assert served(f, *others) and f(*others).tolist() == [2.0, 2.0]


def test_other_byte_orders_are_not_taken_as_they_are(warm):
    f = tapejit.jit(lambda x: x * 2.0)
    warm(f, np.ones(2))
    with pytest.raises(tapejit.TapejitError, match="dtype >f8"):
        f(np.ones(2, ">f8"))


def test_integers_for_floats(warm, served):
    f = tapejit.grad(lambda x: x**3)
    warm(f, 3)
    assert served(f, 3) and f(-5) == 75.0 and f(2**53 + 1) == 3 * float(2**53 + 1) ** 2


def test_functions_and_types_as_arguments(warm, served):
    scale = 2.0

    def double(x):
        return x * scale

    f = tapejit.jit(lambda g, dtype, x: g(x).astype(dtype))
    warm(f, double, np.float32, np.ones(2))
    assert served(f, double, np.float32, np.ones(2))
    scale = 3.0
    assert f(double, np.float32, np.ones(2)).tolist() == [3.0, 3.0]
    assert not served(f, np.sin, np.float32, np.ones(2)) and not served(f, double, np.float64, np.ones(2))


def test_captured_arrays_may_be_strided(warm, served):
    data = np.arange(6.0).reshape(2, 3).T
    f = tapejit.jit(lambda x: data * x)
    warm(f, 2.0)
    assert served(f, 2.0)
    data[0, 1] = 10.0
    assert f(2.0).tolist() == [[0.0, 20.0], [2.0, 8.0], [4.0, 10.0]]


def test_nests_too_large_for_the_stack_are_left_to_python():
    f = tapejit.jit(lambda xs: np.sum(np.stack(xs)))
    xs = [np.ones(1)] * 6000
    for _ in range(NATIVE_AFTER + 1):
        assert f(xs) == 6000.0
    assert f._dispatcher is None


def test_integers_numpy_scalars_and_statics(warm, served):
    f = tapejit.jit(lambda x, n, s, flag: x * n + s if flag else x)
    args = np.ones(3), 3, np.float32(0.5), True
    warm(f, *args)
    assert served(f, *args)
    assert f(np.ones(3), 4, np.float32(1.5), True).tolist() == [5.5] * 3
    assert f(np.ones(3), -(2**62), np.float32(0.0), True).tolist() == [-(2.0**62)] * 3
    assert not served(f, np.ones(3), 4, np.float32(1.5), False)
    assert f(np.ones(3), 4, np.float32(1.5), False).tolist() == [1.0] * 3
    with pytest.raises((OverflowError, tapejit.TapejitError)):
        f(np.ones(3), 2**80, np.float32(0.0), True)


@pytest.mark.parametrize("n", [7, 400])  # the larger releases the GIL
def test_other_strides_are_copied_in(n, warm, served):
    f = tapejit.jit(lambda a, b: a @ np.sin(b))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, n)), rng.normal(size=(n, n))
    warm(f, x, y)
    before = sys.getrefcount(x)
    for other in (x.T, x[::-1], np.asfortranarray(x), np.ascontiguousarray(x), np.repeat(x, 2, 1)[:, ::2]):
        assert served(f, other, y.T)
        np.testing.assert_allclose(f(other, y.T), other @ np.sin(y.T), rtol=1e-10, atol=1e-10)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(float).reshape(n, n)
    unaligned[...] = x
    np.testing.assert_allclose(f(unaligned, y), x @ np.sin(y), rtol=1e-10, atol=1e-10)
    del other
    assert sys.getrefcount(x) == before


def test_results_in_tuples_lists_dicts(warm, served):
    f = tapejit.jit(lambda x: {"a": [x, x + 1.0], "b": (x * 2.0,)})
    warm(f, np.ones(2))
    assert served(f, np.ones(2))
    out = f(np.zeros(2))
    assert list(out) == ["a", "b"] and type(out["a"]) is list and type(out["b"]) is tuple
    np.testing.assert_array_equal(out["a"][1], [1.0, 1.0])


def test_each_path_of_a_branch_is_served(warm, served):
    f = tapejit.grad(lambda x: x * x if x > 0 else -x)
    warm(f, 2.0)
    warm(f, -2.0)
    assert served(f, 5.0) and served(f, -5.0)
    assert f(5.0) == 10.0 and f(-5.0) == -1.0


def test_arrays_made_while_recording_are_served(warm, served):
    f = tapejit.jit(lambda x: np.tril(np.ones((3, 3))) @ x + np.eye(3)[0])
    x = np.arange(3.0)
    warm(f, x)
    assert served(f, x)
    np.testing.assert_array_equal(f(x), [1.0, 1.0, 3.0])


def test_closed_over_values_are_read_at_each_call(warm, served):
    scale, data = 2.0, np.array([1.0, 2.0])
    f = tapejit.jit(lambda x: scale * np.sum(data) * x)
    warm(f, 1.0)
    assert served(f, 1.0)
    data[:] = 10.0
    assert f(1.0) == 40.0
    scale = 3.0
    assert f(1.0) == 60.0
    data = np.array([1.0, 1.0, 1.0])
    assert f(1.0) == 9.0


def test_containers_closed_over_are_read_item_by_item(warm, served):
    inner, table = [2.0, 3.0], {"a": 1.5, "b": (1.0, [0.5])}

    def g(x):
        total = x * 0.0
        for weight in inner:
            total = total * 2.0 + weight * x
        for number, value in enumerate(table.values()):
            total = total + (number + 1) * (value if isinstance(value, float) else value[0] + sum(value[1])) * x
        return total

    f = tapejit.grad(g)

    def right():
        slope = 0.0
        for weight in inner:
            slope = slope * 2.0 + weight
        for number, value in enumerate(table.values()):
            slope += (number + 1) * (value if isinstance(value, float) else value[0] + sum(value[1]))
        return slope

    def change(step):
        match step:
            case 0:
                inner[1] = 7.0
            case 1:
                inner.append(1.25)
            case 2:
                table["b"][1][0] = -4.0
            case 3:
                table["c"] = 9.0
            case 4:
                table["a"] = table.pop("a")  # the last one now
            case 5:
                del inner[0]
            case 6:
                inner.clear()

    for step in range(7):
        warm(f, 0.5)
        assert served(f, 0.5) and f(0.5) == pytest.approx(right(), rel=1e-15)
        change(step)
        assert [f(0.5), f(0.5)] == pytest.approx([right()] * 2, rel=1e-15)


def test_default_arguments_and_partials_are_read_item_by_item(warm, served):
    def g(scale, x, weights=(1.0, [2.0]), lib=np):
        return lib.sum(x * x) * scale["by"] * weights[1][0]

    partial = functools.partial(g, {"by": 0.5})
    f = tapejit.grad(partial)
    x = np.arange(3.0)
    warm(f, x)
    assert served(f, x)
    np.testing.assert_array_equal(f(x), 2.0 * x)
    g.__defaults__[0][1][0] = 6.0
    np.testing.assert_array_equal(f(x), 6.0 * x)
    partial.args[0]["by"] = 1.5
    np.testing.assert_array_equal(f(x), 18.0 * x)
    warm(f, x)
    assert served(f, x)


def test_a_record_in_another_thread_is_not_disturbed(warm, served):
    f = tapejit.jit(lambda x: x * 3.0)
    warm(f, 1.0)
    with tapejit.GradientTape() as tape:
        x = tapejit.Array(2.0)
        tape.watch(x)
        assert not served(f, 2.0)
        y = f(x)
    assert tape.gradient(y, x).numpy() == 3.0
    assert served(f, 2.0)


def test_many_shapes_share_a_bounded_table(warm):
    f = tapejit.jit(lambda x: x * 2.0)
    for n in range(1, 2 * native.SLOTS):
        warm(f, np.ones(n))
    assert len(f._dispatcher.specs) == native.SLOTS
    for n in range(1, 2 * native.SLOTS):
        assert f(np.ones(n)).tolist() == [2.0] * n


def test_without_it_ctypes_answers():
    """What PyPy and free-threaded builds get: the same results through plain pointers."""
    with NATIVE.at(0):
        assert not native.supported()
        f = tapejit.value_and_grad(lambda p, n: np.sum(np.sin(p["x"]) ** n) if np.sum(p["x"]) > 0 else np.sum(p["x"] * 2.0))
        x = np.linspace(0.0, 2.0, 50)
        for _ in range(2 * NATIVE_AFTER):
            value, slopes = f({"x": x}, 2)
        assert f._dispatcher is None
        np.testing.assert_allclose(value, np.sum(np.sin(x) ** 2), rtol=1e-13)
        np.testing.assert_allclose(slopes["x"], np.sin(2 * x), rtol=1e-13, atol=1e-15)
        np.testing.assert_array_equal(f({"x": -x}, 2)[1]["x"], np.full(50, 2.0))
