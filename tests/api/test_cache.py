"""The cache: what makes a new record, what does not, what is freed, and what is left behind by a failure."""

import gc
import weakref

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support import in_threads

import tapejit
from tapejit import dispatch, grad, jit, paths, vmap
from tapejit.ir.knobs import INTERP
from tapejit.record import open_records, state

compiled = pytest.mark.skipif(INTERP.value, reason="nothing is compiled with TAPEJIT_INTERP=1")
X = np.array([1.0, 2.0, 3.0])
SCALE = 2.0
TABLE = {"w": np.array([1.0, 2.0]), "l": [np.array(3.0)]}


@pytest.fixture
def scale():
    """Restores the module's SCALE."""
    global SCALE
    before = SCALE
    yield
    SCALE = before


def misses(f, *calls):
    """How many of these calls (tuples of arguments) record."""
    f.cache_clear()
    for args in calls:
        f(*args)
    return f.cache_info().misses


# ---- keys ---------------------------------------------------------------------------------------------------------
def test_the_same_structure_and_shape_is_recorded_once():
    f = jit(lambda x: x * 2)
    assert misses(f, (X,), (X + 1,), (np.ones(3),)) == 1
    assert f.cache_info()[:4] == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "first, second",
    [
        (X, X[:2]),
        (X, X.astype(np.float32)),
        (X, X.astype(int)),
        (X, X[None]),
        (1.0, 1),
        (1.0, np.float64(1.0)),
        (1.0, np.array([1.0])),
        ([X], (X,)),
        ({"a": X}, {"b": X}),
        (True, 1),
        (True, 1.0),
        (True, False),
        ("a", "b"),
        (None, ()),
    ],
)
def test_another_structure_shape_dtype_or_static_is_recorded_anew(first, second):
    f = jit(lambda x: x)
    assert misses(f, (first,), (second,), (first,), (second,)) == 2


def test_weak_scalars_and_numpy_scalars_promote_apart():
    f = jit(lambda x, s: x * s)
    x = X.astype(np.float32)
    assert f(x, 2.0).dtype == np.float32
    assert f(x, np.float64(2.0)).dtype == np.float64
    assert f(x, 2.0).dtype == np.float32


def test_statics_inside_a_nest_compare_by_value_and_type():
    f = jit(lambda p: p["x"] + (10 if p["flag"] is True else 20))
    assert f({"x": 1.0, "flag": True}) == 11.0
    assert f({"x": 1.0, "flag": "yes"}) == 21.0
    assert f({"x": 1.0, "flag": True}) == 11.0
    assert f.cache_info().misses == 2


def test_equal_statics_made_anew_are_the_same_key():
    f = jit(lambda x, s: x)
    assert misses(f, (1.0, "".join(["a", "b"])), (2.0, "ab"), (3.0, frozenset([1])), (4.0, frozenset([1]))) == 2


def test_strides_and_memory_order_are_not_part_of_the_key():
    m = np.arange(6.0).reshape(2, 3)
    f = jit(lambda a: a @ X)
    for a in (m, np.asfortranarray(m), np.repeat(m, 2, axis=1)[:, ::2], m[::-1][::-1]):
        assert_array_equal(f(a), m @ X)
    assert f.cache_info().misses == 1


def test_one_function_serves_keyword_and_positional_calls():
    f = jit(lambda x, k=1.0: x * k)
    assert f(2.0, 3.0) == f(2.0, k=3.0) == f(x=2.0, k=3.0) == 6.0


# ---- size and clearing --------------------------------------------------------------------------------------------
def test_the_number_of_keys_is_bounded(monkeypatch):
    monkeypatch.setattr(dispatch, "MAX_KEYS", 5)
    f = jit(lambda x: x + 1)
    for n in range(1, 12):
        assert_array_equal(f(np.zeros(n)), np.ones(n))
    assert f.cache_info().currsize == 5
    assert_array_equal(f(np.zeros(1)), np.ones(1))  # was dropped: recorded anew


def test_cache_clear_forgets_everything_and_the_function_works_on():
    f = grad(lambda x: x**2)
    for _ in range(8):
        f(2.0)
    f.cache_clear()
    assert f.cache_info()[:4] == (0, 0, 0, 0)
    assert f(3.0) == 6.0
    assert f.cache_info().misses == 1


@compiled
def test_dropping_a_function_frees_it_and_its_machine_code():
    def body(x):
        return np.sin(x) * 3 + 0.123456

    f = grad(body)
    for _ in range(8):
        f(1.0)
    kept = [weakref.ref(f), weakref.ref(body)]
    code = weakref.ref(f.lookup(1.0).recent.code)
    del f, body
    gc.collect()
    assert [r() for r in kept] == [None, None] and code() is None


@compiled
def test_cache_clear_frees_machine_code():
    f = jit(lambda x: np.cos(x) * 7 + 0.654321)
    f(1.0)
    code = weakref.ref(f.lookup(1.0).recent.code)
    f.cache_clear()
    gc.collect()
    assert code() is None


def test_captured_arrays_are_freed_with_the_function():
    def make():
        array = np.ones(5)
        return jit(lambda x: np.sum(array) * x), weakref.ref(array)

    f, gone = make()
    assert f(2.0) == 10.0 and gone() is not None
    del f
    gc.collect()
    assert gone() is None


# ---- what a function reads beside its arguments -------------------------------------------------------------------
def test_a_rebound_global_number_is_noticed(scale):
    global SCALE
    f = jit(lambda x: x * SCALE)
    assert f(3.0) == 6.0
    SCALE = 5.0
    for _ in range(8):
        assert f(3.0) == 15.0
    SCALE = 7.0
    assert f(3.0) == 21.0


def test_a_global_of_another_type_but_equal_value_is_noticed(scale):
    global SCALE
    f = jit(lambda x: x + (1 if SCALE is True else 2))
    SCALE = True
    assert f(1.0) == 2.0
    SCALE = 1
    assert f(1.0) == 3.0


def test_a_rebound_cell_is_noticed():
    k = 2.0
    f = grad(lambda x: k * x**2)
    assert f(3.0) == 12.0
    k = 5.0
    assert f(3.0) == 30.0
    k = X
    assert f(3.0) == 36.0


def test_a_rebound_array_is_noticed():
    a = np.array([1.0, 2.0])
    f = jit(lambda x: np.sum(a * x))
    for _ in range(8):
        assert f(1.0) == 3.0
    a = np.array([10.0, 20.0])
    assert f(1.0) == 30.0
    a = np.array([1.0, 1.0, 1.0])
    assert f(1.0) == 3.0


@pytest.mark.parametrize("calls", [1, 8])
def test_an_array_mutated_in_place_is_read_afresh(calls):
    a = np.array([1.0, 2.0])
    f = jit(lambda x: a * x)
    summed = jit(lambda x: np.sum(a) * x)
    for _ in range(calls):
        assert_array_equal(f(1.0), [1.0, 2.0])
        assert summed(1.0) == 3.0
    a[0] = 10.0
    assert_array_equal(f(1.0), [10.0, 2.0])
    assert summed(1.0) == 12.0
    assert f.cache_info().misses == summed.cache_info().misses == 1


def test_a_branch_on_a_closed_over_array_follows_its_contents():
    a = np.array([1.0, 2.0])
    f = jit(lambda x: x if a[0] > 0 else -x)
    assert f(3.0) == 3.0
    a[0] = -1.0
    assert f(3.0) == -3.0


def test_an_array_read_only_by_c_code_is_told_by_its_contents():
    a = np.array([1.0, 2.0])
    f = jit(lambda x: x * float(np.asarray(a).tobytes() == np.array([1.0, 2.0]).tobytes()))
    assert f(3.0) == 3.0
    a[0] = -1.0
    assert f(3.0) == 0.0


def test_arrays_in_lists_and_dicts_are_read_afresh_and_rebound():
    f = grad(lambda x: x**2 * np.sum(TABLE["w"]) * TABLE["l"][0])
    w, first = TABLE["w"], TABLE["l"][0]
    try:
        assert f(1.0) == 18.0
        w[:] = [0.0, 1.0]
        assert f(1.0) == 6.0
        TABLE["w"] = np.array([5.0])
        assert f(1.0) == 30.0
        TABLE["l"][0] = np.array(1.0)
        assert f(1.0) == 10.0
    finally:
        w[:] = [1.0, 2.0]
        TABLE["w"], TABLE["l"][0] = w, first


def test_attributes_of_self_are_read_afresh_and_rebound():
    class Model:
        def __init__(self):
            self.w, self.k = np.array([1.0, 2.0]), 3.0

        @jit
        def __call__(self, x):
            return np.sum(self.w * x) * self.k

    m = Model()
    assert m(1.0) == 9.0
    m.w[0] = 2.0
    assert m(1.0) == 12.0
    m.w = np.array([1.0])
    assert m(1.0) == 3.0
    m.k = 10.0
    assert m(1.0) == 10.0
    assert Model()(1.0) == 9.0


def test_a_helper_function_that_is_rebound_is_noticed():
    def helper(x):
        return x * 2

    f = jit(lambda x: helper(x) + 1)
    assert f(3.0) == 7.0

    def helper(x):  # noqa: F811  the rebinding is the point
        return x * 10

    assert f(3.0) == 31.0


def test_numbers_that_a_helper_reads_are_noticed():
    k = [2.0]

    def helper(x):
        return x * k[0]

    f = jit(lambda x: helper(x))
    assert f(3.0) == 6.0
    k[0] = 5.0
    assert f(3.0) == 15.0


def test_a_list_that_grows_is_noticed():
    terms = [1.0]
    f = jit(lambda x: sum(t * x for t in terms))
    assert f(2.0) == 2.0
    terms.append(10.0)
    assert f(2.0) == 22.0


def test_variables_are_read_at_each_call():
    v = tapejit.Variable(2.0)
    f, g = jit(lambda x: v * x), grad(lambda x: v * x**2)
    for value in (2.0, 5.0, -1.0):
        v.assign(value)
        for _ in range(6):
            assert f(3.0) == 3.0 * value
            assert g(3.0) == 6.0 * value
    assert f.cache_info().misses == 1


# ---- threads ------------------------------------------------------------------------------------------------------
def test_threads_with_different_shapes_agree_with_serial_results():
    def body(x):
        return np.sum(np.sin(x) * x**2)

    f = grad(body)

    def work(i):
        return [f(np.linspace(0.1 * k, 1, 3 + i)) for k in range(20)]

    got = in_threads(work, range(8))
    for i, results in enumerate(got):
        for k, g in enumerate(results):
            x = np.linspace(0.1 * k, 1, 3 + i)
            assert_allclose(g, np.cos(x) * x**2 + 2 * x * np.sin(x), rtol=1e-13)
    assert f.cache_info().misses == 8


def test_threads_with_one_shape_record_once_and_do_not_mix_results():
    f = jit(lambda x: x * 2 + 1)
    for i, results in enumerate(in_threads(lambda i: [f(np.full(1000, float(i))) for _ in range(30)], range(8))):
        for r in results:
            assert_array_equal(r, np.full(1000, 2.0 * i + 1))
    assert f.cache_info().misses == 1


def test_threads_that_take_different_branches():
    f = grad(lambda x: x**2 if x > 0 else x**3)
    got = in_threads(lambda i: [f((-1.0) ** (i + k) * 2.0) for k in range(20)], range(8))
    assert got == [[4.0 if (i + k) % 2 == 0 else 12.0 for k in range(20)] for i in range(8)]


def test_tapes_of_threads_are_their_own():
    def work(i):
        out = []
        for k in range(5):
            x = tapejit.numpy.asarray(float(i + k))
            with tapejit.GradientTape() as tape:
                tape.watch(x)
                y = x**2
            out.append(float(tape.gradient(y, x).numpy()))
        return out

    assert in_threads(work, range(8)) == [[2.0 * (i + k) for k in range(5)] for i in range(8)]


# ---- failures -----------------------------------------------------------------------------------------------------
def is_clean():
    return state.records == [] and state.base is None and state.tapes == [] and open_records[0] == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, MemoryError])
def test_a_failure_in_the_function_leaves_nothing_behind(error):
    fail = True

    def body(x):
        y = np.sin(x)
        if fail:
            raise error("here")
        return y

    f = grad(jit(body))
    for _ in range(2):
        with pytest.raises(error):
            f(0.0)
        assert is_clean() and f.cache_info().currsize == 0
    fail = False
    assert f(0.0) == 1.0


@compiled
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_compile_leaves_nothing_behind(error, monkeypatch):
    f = grad(lambda x: x**2 if x > 0 else x**3)

    def broken(graph, name):
        raise error("in compile")

    with monkeypatch.context() as patch:
        patch.setattr(paths, "_compile", broken)
        with pytest.raises(error, match="in compile"):
            f(2.0)
    assert is_clean() and f.cache_info().currsize == 0
    assert f(2.0) == 4.0
    with monkeypatch.context() as patch:  # while a path grows
        patch.setattr(paths, "_compile", broken)
        with pytest.raises(error, match="in compile"):
            f(-2.0)
    assert is_clean() and f.cache_info().paths == 1
    assert f(-2.0) == 12.0 and f(2.0) == 4.0


def test_a_failure_in_a_transform_leaves_nothing_behind():
    whole = True
    f = grad(lambda x: (x > 0) if whole else x**2)
    with pytest.raises(tapejit.TapejitError):
        f(1.0)
    assert is_clean() and f.cache_info().currsize == 0
    whole = False
    assert f(1.0) == 2.0


def test_a_failure_in_an_inner_function_leaves_the_outer_clean():
    k = 0

    @jit
    def inner(x):
        return x * k

    def outer(x):
        y = vmap(lambda r: inner(r))(x)
        assert k, "k is zero"
        return np.sum(y)

    f = grad(outer)
    with pytest.raises(AssertionError, match="k is zero"):
        f(X)
    assert is_clean()
    k = 3
    assert_array_equal(f(X), [3.0, 3.0, 3.0])


def test_a_failure_under_a_tape_leaves_the_tape_usable_and_then_clean():
    x = tapejit.numpy.asarray(3.0)
    bad = jit(lambda x: {}["missing"])
    with tapejit.GradientTape() as tape:
        tape.watch(x)
        with pytest.raises(KeyError):
            bad(x)
        y = x**2
    assert tape.gradient(y, x).numpy() == 6.0
    with pytest.raises(KeyError), tapejit.GradientTape() as tape:
        bad(x)
    assert is_clean()
