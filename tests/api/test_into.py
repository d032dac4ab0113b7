"""`f.into(out, *args)`: results in arrays that the caller gives. The same in compiled code, through ctypes, interpreted."""

import collections
import dataclasses
import gc
import sys
import threading

import numpy as np
import pytest
from support import in_threads

import tapejit
from tapejit.codegen import native
from tapejit.dispatch import NATIVE_AFTER
from tapejit.ir.knobs import INTERP, NATIVE

CALLS = NATIVE_AFTER + 2  # the last ones are machine code's
machine_code = pytest.mark.skipif(not native.supported() or INTERP.value, reason="this build is served by Python")


@pytest.fixture(params=["native", "ctypes", "interpreted"], autouse=True)
def how(request):
    with NATIVE.at(int(request.param == "native")), INTERP.at(int(request.param == "interpreted")):
        yield request.param


def served(f, out, *args):
    """Whether machine code answers this call."""
    if f._into_dispatcher is None:
        return False
    before = f._into_dispatcher.hits
    f.into(out, *args)
    return f._into_dispatcher.hits == before + 1


def addresses(*arrays):
    return [a.ctypes.data for a in arrays]


@pytest.mark.parametrize("n", [3, 1000, 300_000])
def test_results_are_written_into_the_given_arrays(n, how):
    f = tapejit.jit(lambda x, y: (np.sin(x) * y, np.cumsum(x)))
    rng = np.random.default_rng(0)
    first, second, untouched = np.empty(n), np.empty(n), np.empty(n)
    before = addresses(first, second)
    for _ in range(CALLS):
        x, y = rng.normal(size=(2, n))
        out = f.into((first, second), x, y)
        assert type(out) is tuple and out[0] is first and out[1] is second and addresses(*out) == before
        np.testing.assert_allclose(first, np.sin(x) * y, rtol=1e-13, atol=1e-300)
        np.testing.assert_allclose(second, np.cumsum(x), rtol=1e-9, atol=1e-9)
    assert served(f, (first, second), x, y) == (how == "native" and native.supported() and not INTERP.value)
    _held = (untouched,)  # as `out` holds the others
    assert sys.getrefcount(first) == sys.getrefcount(second) == sys.getrefcount(untouched)


def test_numbers_into_arrays_without_axes_and_new_arrays_for_none():
    f = tapejit.value_and_grad(lambda x: np.sum(x**2))
    value, slope = np.empty(()), np.empty(3)
    for k in range(1, CALLS + 1):
        out = f.into((value, slope), np.arange(3.0) * k)
        assert out[0] is value and out[1] is slope and value == 5.0 * k * k and slope.tolist() == [0.0, 2.0 * k, 4.0 * k]
    for k in range(1, CALLS + 1):
        out = f.into((None, slope), np.arange(3.0) * k)
        assert type(out[0]) is np.float64 and out[0] == 5.0 * k * k and out[1] is slope and slope[2] == 4.0 * k
    for _ in range(CALLS):
        out = f.into(None, np.arange(3.0))
        assert out[0] == 5.0 and out[1] is not slope and out[1].tolist() == [0.0, 2.0, 4.0]


Layer = collections.namedtuple("Layer", "w b")


@dataclasses.dataclass
class Model:
    layer: Layer
    rate: object
    name: str = "model"


def test_nests_and_keywords():
    def loss(model, x, *, power=2):
        return np.sum((x @ model["layers"][0].layer.w + model["layers"][0].layer.b) ** power) * model["layers"][0].rate

    def params(make):
        return {"layers": [Model(Layer(make(3, 2), make(2)), make())]}

    rng = np.random.default_rng(0)
    f = tapejit.grad(loss)
    out = params(lambda *shape: np.empty(shape))
    for _ in range(CALLS):
        model, x = params(lambda *shape: rng.normal(size=shape)), rng.normal(size=(5, 3))
        model["layers"][0].rate = 2.0
        got = f.into(out, model, x, power=3)["layers"][0]
        want = out["layers"][0]
        assert type(got) is Model and got.layer.w is want.layer.w and got.rate is want.rate and got.name == "model"
        layer = model["layers"][0].layer
        h = x @ layer.w + layer.b
        np.testing.assert_allclose(got.layer.w, 6 * x.T @ h**2, rtol=1e-12)
        np.testing.assert_allclose(got.layer.b, 6 * (h**2).sum(0), rtol=1e-12)
        np.testing.assert_allclose(got.rate, (h**3).sum(), rtol=1e-12)


@pytest.mark.parametrize("n", [4, 200_000])
def test_an_argument_may_be_overwritten(n):
    """`f.into(x, x)`: each element of these results needs elements of x that an earlier one has replaced."""
    f = tapejit.jit(lambda x: np.cumsum(x)[::-1] / 3.0 + x[0])
    x = np.linspace(0.5, 1.5, n)
    for _ in range(CALLS):
        want = np.cumsum(x)[::-1] / 3.0 + x[0]
        assert f.into(x, x) is x
        np.testing.assert_allclose(x, want, rtol=1e-9)
        x /= np.max(x)
    references = sys.getrefcount(x)
    f.into(x, x)
    assert sys.getrefcount(x) == references


def test_parts_of_arguments_and_captured_arrays_may_be_overwritten():
    data = np.arange(6.0)
    f = tapejit.jit(lambda x: (x[::-1] + np.sum(data), data * np.sum(x)))
    memory = np.arange(12.0)
    for _ in range(CALLS):
        x = memory[2:8]
        want = x[::-1] + np.sum(data), data * np.sum(x)
        f.into((memory[4:10], data), x)  # shifted by two, and what the function closes over
        np.testing.assert_array_equal(memory[4:10], want[0])
        np.testing.assert_array_equal(data, want[1])
        memory %= 7.0
        data %= 5.0
    x = np.arange(12.0)[::2]  # is copied before the program runs
    for _ in range(CALLS):
        want = x[::-1] + np.sum(data)
        f.into((x, None), x)
        np.testing.assert_array_equal(x, want)


def test_other_layouts_are_filled_by_a_copy():
    f = tapejit.jit(lambda x: x @ x)
    x = np.random.default_rng(0).normal(size=(5, 5))
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(float).reshape(5, 5)
    columns = np.zeros((5, 10))
    for out in (np.zeros((5, 5)).T, columns[:, 1::2], np.zeros((5, 5))[::-1], unaligned, np.zeros((5, 5)).view(np.recarray)):
        for _ in range(CALLS):
            out[...] = np.nan
            assert f.into(out, x) is out
            np.testing.assert_allclose(out, x @ x, rtol=1e-13)
    assert not columns[:, ::2].any()


def test_each_path_of_a_branch(how):
    """A guard may leave a path when some results of it have been written; what fits is decided by the path that returns."""
    f = tapejit.jit(lambda x: x * 2.0 if np.sum(np.sin(x)) > 0 else (x[:1] - 1.0 if x[0] < -5 else -x))
    out, one = np.empty(3), np.empty(1)
    for _ in range(CALLS):
        assert f.into(out, np.ones(3)).tolist() == [2.0] * 3
        assert f.into(out, -np.ones(3)).tolist() == [1.0] * 3
        assert f.into(one, np.array([-6.0, -1.0, -1.0])).tolist() == [-7.0]
        x = -np.ones(3)
        assert f.into(x, x).tolist() == [1.0] * 3
        with pytest.raises(tapejit.TapejitError, match=r"out is float64 of shape \(1,\), the result float64 of shape \(3,\)"):
            f.into(one, np.ones(3))
    assert served(f, out, -np.ones(3)) == (how == "native" and native.supported() and not INTERP.value)


def read_only():
    a = np.empty(3)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        (np.empty(4), r"out\[1\] is float64 of shape \(4,\), the result float64 of shape \(3,\)"),
        (np.empty((1, 3)), r"out\[1\] is float64 of shape \(1, 3\), the result float64 of shape \(3,\)"),
        (np.empty(3, "f"), r"out\[1\] is float32 of shape \(3,\), the result float64 of shape \(3,\)"),
        (np.empty(3, ">f8"), r"out\[1\] is >f8 of shape \(3,\)"),
        (read_only(), r"out\[1\] is read-only"),
        (np.lib.stride_tricks.as_strided(np.empty(1), (3,), (0,)), r"out\[1\] has several elements in the same place"),
        (1.0, r"out\[1\] is 1.0 \(float\), not an ndarray"),
        (tapejit.Array([1.0, 2.0, 3.0]), r"out\[1\] is .* not an ndarray"),
        ([1.0, 2.0, 3.0], r"`out` is \(\*, \[\*, \*, \*\]\), the result is \(\*, \*\)"),
        ("slope", r"`out` is \(\*, 'slope'\), the result is \(\*, \*\)"),
    ],
)
def test_what_does_not_fit_is_refused(slope, message):
    f = tapejit.value_and_grad(lambda x: np.sum(x**2))
    x, value = np.arange(3.0), np.empty(())
    for _ in range(CALLS):
        with pytest.raises(tapejit.TapejitError, match=message):
            f.into((value, slope), x)
    for _ in range(CALLS):
        f.into((value, np.empty(3)), x)
    for _ in range(2):
        with pytest.raises(tapejit.TapejitError, match=message):
            f.into((value, slope), x)
    if isinstance(slope, np.ndarray) and not slope.flags.writeable:
        assert slope.base is None


def test_results_that_would_overwrite_each_other_are_refused():
    f = tapejit.jit(lambda x: (x + 1.0, x * 2.0))
    x, a, matrix = np.arange(3.0), np.empty(5), np.zeros((3, 2))
    for _ in range(CALLS):
        f.into((a[:3], np.empty(3)), x)
    for _ in range(2):
        for pair in ((a[:3], a[:3]), (a[:3], a[2:]), (a[:3], a[2::-1])):
            with pytest.raises(ValueError, match=r"out\[0\] and out\[1\] share memory"):
                f.into(pair, x)
    f.into((matrix[:, 0], matrix[:, 1]), x)  # interleaved: no element in common
    np.testing.assert_array_equal(matrix, np.stack([x + 1.0, x * 2.0], 1))


def test_it_is_refused_in_a_record():
    f = tapejit.jit(lambda x: x * 2.0)
    out = np.empty(2)
    with pytest.raises(tapejit.TapejitError, match="the call is part of a record"):
        tapejit.grad(lambda x: np.sum(f.into(out, x)))(np.ones(2))
    with tapejit.GradientTape() as tape:
        x = tapejit.Array([1.0, 2.0])
        tape.watch(x)
        with pytest.raises(tapejit.TapejitError, match="the call is part of a record"):
            f.into(out, x)
        assert f.into(out, np.ones(2)).tolist() == [2.0, 2.0]
    assert f.into(out, tapejit.Array([1.0, 2.0])) is out and out.tolist() == [2.0, 4.0]


def test_the_name_out_is_free_for_arguments():
    f = tapejit.jit(lambda x, out: x * out)
    for _ in range(CALLS):
        assert f.into(np.empty(2), np.ones(2), out=3.0).tolist() == [3.0, 3.0]
    with pytest.raises(TypeError, match="out"):
        f.into()


class Spring:
    """A method is differentiated by the argument after self."""

    def __init__(self, stiffness):
        self.stiffness = stiffness

    @tapejit.value_and_grad(argnums=1)
    def energy(self, x):
        return np.sum(self.stiffness * x**2)


def test_methods():
    slope = np.empty(3)
    for stiffness in (1.0, 3.0):
        spring = Spring(stiffness)
        for _ in range(CALLS):
            value, given = spring.energy.into((None, slope), np.arange(3.0))
            assert value == 5.0 * stiffness and given is slope and slope.tolist() == [0.0, 2.0 * stiffness, 4.0 * stiffness]
    assert "mul" in spring.energy.ir(np.arange(3.0)) and "energy" in spring.energy.explain(np.arange(3.0))


def test_calls_and_calls_into_do_not_mix_up():
    f = tapejit.jit(lambda a, b: a - b)
    out = np.empty(2)
    for k in range(3 * CALLS):
        x = np.full(2, float(k))
        assert f(x, 1.0).tolist() == [k - 1.0] * 2
        assert f.into(out, x, 2.0).tolist() == [k - 2.0] * 2
    assert f.cache_info()[:3] == (6 * CALLS - 1, 1, 1)
    f.cache_clear()
    assert f.cache_info()[:3] == (0, 0, 0) and f.into(out, x, 1.0)[0] == x[0] - 1.0


@machine_code
def test_threads_write_their_own_arrays(how):
    """Programs that release the GIL; and containers that are emptied meanwhile."""
    f = tapejit.value_and_grad(lambda x: np.sum(np.sin(x) ** 2))
    xs = [np.linspace(0.0, k, 100_000) for k in range(1, 5)]
    wrong = []

    def work(x):
        slope = np.empty_like(x)
        for _ in range(40):
            out = [np.empty(()), slope]
            threading.Timer(0.0002, out.clear).start()
            value, gradient = f.into(tuple(out) if out else (None, slope), x)
            if gradient is not slope or not np.allclose(slope, np.sin(2 * x), atol=1e-12):
                wrong.append(x[-1])

    in_threads(work, xs)
    assert not wrong


@machine_code
@pytest.mark.parametrize("kind", ["plain", "overlap", "error"])
def test_reference_counts_over_many_calls(kind, how):
    f = tapejit.value_and_grad(lambda x: np.sum(x**2) / 2)
    x, value = np.arange(5.0), np.empty(())
    out = {"plain": (value, np.empty(5)), "overlap": (value, x), "error": (value, value)}[kind]
    for _ in range(CALLS):
        f.into((value, np.empty(5)), x)

    def counts():
        gc.collect()
        return [sys.getrefcount(a) for a in (*out, x, value, np.dtype(float), np.ndarray, None, tuple)]

    before = counts()
    for _ in range(200_000 if kind != "error" and how == "native" else 3000):
        if kind == "error":
            with pytest.raises(tapejit.TapejitError):
                f.into(out, x)
        else:
            f.into(out, x)
    assert max(abs(a - b) for a, b in zip(before, counts())) < 100
    assert x.tolist() == np.arange(5.0).tolist()  # the gradient of this function is x
