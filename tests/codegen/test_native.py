"""The machine-code entry: what it serves, what it leaves to Python, reference counts, and that results stay right."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import tapejit
from tapejit.codegen import native
from tapejit.dispatch import NATIVE_AFTER

pytestmark = pytest.mark.skipif(not native.supported(), reason="this build is served by Python")


def warm(function, *args):
    for _ in range(NATIVE_AFTER + 1):
        out = function(*args)
    return out


def served(function, *args):
    """Whether machine code answers this call."""
    if function._dispatcher is None:
        return False
    before = function._dispatcher.hits
    function(*args)
    return function._dispatcher.hits == before + 1


def test_hot_calls_with_floats_and_arrays_are_served():
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
    [np.arange(4.0), np.arange(3, dtype="f"), np.arange(6.0)[::2], np.arange(3.0).reshape(3, 1), np.float64(2.0), 2.0, 2],
    ids=["shape", "dtype", "strides", "rank", "numpy scalar", "float", "int"],
)
def test_other_arguments_go_to_python_and_are_right(other):
    f = tapejit.jit(lambda x: x * 2.0)
    warm(f, np.arange(3.0))
    assert not served(f, other)
    out = f(other)
    np.testing.assert_array_equal(out, np.asarray(other) * 2.0)
    assert out.dtype == np.result_type(other, 2.0)


def test_keywords_arrays_of_ours_and_errors_go_to_python():
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    assert f(x=2.0) == 3.0
    assert isinstance(f(tapejit.Array(2.0)), tapejit.Array)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        f()
    with pytest.raises(tapejit.TapejitError, match="cannot be recorded"):
        f(np.array(["a"]))


def test_results_in_tuples_lists_dicts():
    f = tapejit.jit(lambda x: {"a": [x, x + 1.0], "b": (x * 2.0,)})
    warm(f, np.ones(2))
    assert served(f, np.ones(2))
    out = f(np.zeros(2))
    assert list(out) == ["a", "b"] and type(out["a"]) is list and type(out["b"]) is tuple
    np.testing.assert_array_equal(out["a"][1], [1.0, 1.0])


def test_each_path_of_a_branch_is_served():
    f = tapejit.grad(lambda x: x * x if x > 0 else -x)
    warm(f, 2.0)
    warm(f, -2.0)
    assert served(f, 5.0) and served(f, -5.0)
    assert f(5.0) == 10.0 and f(-5.0) == -1.0


def test_closed_over_values_are_read_at_each_call():
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


def test_a_record_in_another_thread_is_not_disturbed():
    f = tapejit.jit(lambda x: x * 3.0)
    warm(f, 1.0)
    with tapejit.GradientTape() as tape:
        x = tapejit.Array(2.0)
        tape.watch(x)
        assert not served(f, 2.0)
        y = f(x)
    assert tape.gradient(y, x).numpy() == 3.0
    assert served(f, 2.0)


def test_reference_counts_and_memory_stay():
    f = tapejit.value_and_grad(lambda x: np.sum(x**3))
    x = np.arange(5.0)
    warm(f, x)
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(x.dtype), sys.getrefcount(np.ndarray)
    for _ in range(20_000):
        f(x)
    gc.collect()
    after = sys.getrefcount(x), sys.getrefcount(x.dtype), sys.getrefcount(np.ndarray)
    assert max(abs(a - b) for a, b in zip(before, after)) <= 2
    value, gradient = f(x)
    assert sys.getrefcount(gradient) == 2


def test_dropping_the_function_frees_it():
    f = tapejit.grad(lambda x: x * x)
    warm(f, 1.0)
    specs = [weakref.ref(s) for s in f._dispatcher.specs]
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None and all(s() is None for s in specs)


def test_the_builtin_may_outlive_its_function():
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    call = type(f).__call__
    del f
    gc.collect()
    assert call(1.0) == 2.0 and call(np.ones(2)).tolist() == [2.0, 2.0]


def test_cache_clear_while_hot():
    f = tapejit.jit(lambda x: x + 1.0)
    warm(f, 1.0)
    f.cache_clear()
    assert f(1.0) == 2.0 and f.cache_info().currsize == 1


def test_many_shapes_share_a_bounded_table():
    f = tapejit.jit(lambda x: x * 2.0)
    for n in range(1, 2 * native.SLOTS):
        warm(f, np.ones(n))
    assert len(f._dispatcher.specs) == native.SLOTS
    for n in range(1, 2 * native.SLOTS):
        assert f(np.ones(n)).tolist() == [2.0] * n


def test_threads_call_one_function():
    f = tapejit.value_and_grad(lambda x: np.sum(np.sin(x) ** 2))
    wrong = []

    def work(n):
        x = np.linspace(0.0, 1.0, n)
        for _ in range(300):
            value, gradient = f(x)
            if not np.allclose(gradient, np.sin(2 * x)) or not np.isclose(value, np.sum(np.sin(x) ** 2)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 3, 50, 50)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
