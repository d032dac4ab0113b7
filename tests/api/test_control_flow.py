"""Python control flow on recorded values: recorded as it ran, guarded, never frozen."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit
from tapejit import grad, hessian, jacobian, jit, value_and_grad, vmap
from tapejit.errors import GuardError


def line_of(function, text):
    """The line number of the first line of a function that holds this text."""
    import inspect

    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if text in line)


# ---- if, while, for -----------------------------------------------------------------------------------------------
def relu_cubed(x):
    if x > 0:
        return x**3
    return -2.0 * x


@pytest.mark.parametrize("order", [[1.0, -1.0], [-1.0, 1.0]])
def test_if_follows_the_value_whichever_branch_was_recorded_first(order):
    f = grad(relu_cubed)
    expected = {1.0: 3.0, -1.0: -2.0}
    for x in order * 8:  # long enough for the native entry to take over
        assert f(x) == expected[x]
    assert f.cache_info().paths == 2 and f.cache_info().misses == 2


def test_second_order_under_guards():
    f = grad(grad(relu_cubed))
    assert [f(x) for x in (2.0, -2.0, 3.0, -3.0)] == [12.0, 0.0, 18.0, 0.0]


def test_value_and_grad_and_hessian_agree_with_their_branch():
    assert value_and_grad(relu_cubed)(-4.0) == (8.0, -2.0)
    h = hessian(lambda x: np.sum(x**2) if np.sum(x) > 0 else np.sum(x**3))
    assert_array_equal(h(np.array([1.0, 1.0])), 2 * np.eye(2))
    assert_array_equal(h(np.array([-1.0, -2.0])), np.diag([-6.0, -12.0]))


def test_elif_chain():
    @jit
    def f(x):
        if x < -1:
            return x * 10
        elif x < 1:
            return x * 100
        elif x < 2:
            return x * 1000
        else:
            return x * 10000

    assert [f(x) for x in (0.5, 3.0, -2.0, 1.5, 0.25, 1.0)] == [50.0, 30000.0, -20.0, 1500.0, 25.0, 1000.0]


def test_while_on_a_recorded_value():
    @grad
    def f(x):
        while x < 100.0:
            x = x * x
        return x

    for x, k in [(3.0, 8), (11.0, 2), (200.0, 1), (3.5, 4), (2.0, 8)]:
        assert_allclose(f(x), k * x ** (k - 1), rtol=1e-14)


def test_newton_iteration_to_convergence():
    @value_and_grad
    def root(a):
        x = a
        while abs(x * x - a) > 1e-12:
            x = 0.5 * (x + a / x)
        return x

    for a in (2.0, 9.0, 50.0, 3.0):
        value, slope = root(a)
        assert_allclose(value, np.sqrt(a), rtol=1e-12)
        assert_allclose(slope, 0.5 / np.sqrt(a), rtol=1e-6)


def test_for_over_range_of_int():
    @value_and_grad
    def power(x, n):
        out = 1.0
        for _ in range(int(n)):
            out = out * x
        return out

    assert power(3.0, 2.0) == (9.0, 6.0)
    assert power(4.0, 3.0) == (64.0, 48.0)
    assert power(5.0, 0.0) == (1.0, 0.0)
    assert power(2.0, 3.9) == (8.0, 12.0)  # int truncates, as in Python


def test_range_of_an_int_argument_needs_no_int():
    @jit
    def f(x, n):
        for _ in range(n):
            x = x * 2
        return x

    assert [f(1.0, n) for n in (3, 5, 0, 3)] == [8.0, 32.0, 1.0, 8.0]


def test_for_over_an_array_is_over_its_first_axis():
    @grad
    def f(x):
        total = 0.0
        for row in x:
            if row > 0:
                total = total + row**2
        return total

    assert_array_equal(f(np.array([1.0, -2.0, 3.0])), [2.0, 0.0, 6.0])
    assert_array_equal(f(np.array([-1.0, 2.0, 3.0])), [0.0, 4.0, 6.0])


def test_break_continue_and_else():
    @jit
    def f(x, limit):
        for i in range(5):  # noqa: B007  read after the loop
            if x > limit:
                break
            if x < 0:
                x = x + 10
                continue
            x = x * 2
        else:
            x = -x
        return x + i

    def plain(x, limit):
        return f.__wrapped__(x, limit)

    for args in [(1.0, 10.0), (1.0, 1000.0), (-3.0, 5.0), (50.0, 1.0)]:
        assert f(*args) == plain(*args)


# ---- reads --------------------------------------------------------------------------------------------------------
def test_int_read_used_as_an_index_and_as_a_shape():
    @jit
    def f(x, i):
        return x[int(i)] + np.sum(np.ones(int(i)))

    x = np.array([10.0, 20.0, 30.0])
    assert [f(x, i) for i in (0.0, 2.0, 1.0, 2.0)] == [10.0, 32.0, 21.0, 32.0]


def test_chained_comparison():
    f = grad(lambda x: x**2 if 0 < x < 1 else x**3)
    assert [f(x) for x in (0.5, 2.0, -1.0, 0.25)] == [1.0, 12.0, 3.0, 0.5]


def test_builtin_max_min_abs_sorted():
    f = grad(lambda a, b: max(a, b) ** 2 + min(a, b), argnums=(0, 1))
    assert f(3.0, 2.0) == (6.0, 1.0)
    assert f(2.0, 5.0) == (1.0, 10.0)
    g = grad(lambda a, b: sorted([a, b])[0] * abs(a))
    assert g(-3.0, 1.0) == 6.0  # -a^2 ... at a < 0: a * -a
    assert g(4.0, 1.0) == 1.0


def test_and_or_not():
    @jit
    def f(x, y):
        if x > 0 and not y > 0 or y > 10:
            return x - y
        return x + y

    assert [f(*p) for p in [(1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (-1.0, 11.0)]] == [2.0, 2.0, 0.0, -12.0]


def test_truth_of_any_and_all():
    f = jit(lambda x: np.sum(x) if np.all(x > 0) else np.prod(x) if np.any(x > 0) else np.min(x))
    assert f(np.array([1.0, 2.0, 4.0])) == 7.0
    assert f(np.array([-1.0, 2.0, 4.0])) == -8.0
    assert f(np.array([-1.0, -2.0, -4.0])) == -4.0


def test_truth_of_several_elements_is_numpys_error():
    with pytest.raises(ValueError, match="ambiguous"):
        jit(lambda x: x if x > 0 else -x)(np.array([1.0, -1.0]))


def test_equality_with_a_number_branches():
    f = grad(lambda x: 1.0 if x == 0 else np.sin(x) / x)
    assert f(0.0) == 0.0
    assert_allclose(f(1.0), np.cos(1.0) - np.sin(1.0), rtol=1e-14)
    assert f(0.0) == 0.0


# ---- returns and exceptions ---------------------------------------------------------------------------------------
def test_results_of_another_structure_per_path():
    @jit
    def f(x):
        if x > 0:
            return {"up": x}
        return (x, "down")

    assert f(1.0) == {"up": 1.0}
    assert f(-1.0) == (-1.0, "down")
    assert f(2.0) == {"up": 2.0}


def test_results_of_another_shape_per_path():
    f = jit(lambda x: np.ones(2) * x if x > 0 else x)
    assert_array_equal(f(3.0), [3.0, 3.0])
    assert f(-3.0) == -3.0


def test_try_except_follows_the_value():
    @jit
    def f(x):
        try:
            if x < 0:
                raise ValueError("negative")
            return np.sqrt(x)
        except ValueError:
            return x * 0.0

    assert [f(x) for x in (4.0, -4.0, 9.0)] == [2.0, 0.0, 3.0]


def test_assert_fires_at_a_later_call():
    @grad
    def f(x):
        assert x > 0, "x must be positive"
        return x**2

    assert f(3.0) == 6.0
    for _ in range(2):
        with pytest.raises(AssertionError, match="x must be positive"):
            f(-1.0)
    assert f(4.0) == 8.0


def test_an_exception_of_one_branch_reaches_the_caller_each_time():
    table = {True: 2.0}
    f = jit(lambda x: x * table[bool(x > 0)])
    assert f(1.0) == 2.0
    for _ in range(2):
        with pytest.raises(KeyError):
            f(-1.0)
    assert f(2.0) == 4.0


def test_recursion_on_a_python_int_and_on_a_recorded_value():
    def power(x, n):
        return x * power(x, n - 1) if n else 1.0

    assert grad(lambda x: power(x, 5))(2.0) == 80.0

    def halve(x):
        return x if x < 1 else halve(x / 2)

    f = jit(halve)
    assert [f(x) for x in (8.0, 0.5, 5.0)] == [0.5, 0.5, 0.625]


# ---- vmap ---------------------------------------------------------------------------------------------------------
def test_lanes_that_agree_share_a_branch():
    f = vmap(relu_cubed)
    assert_array_equal(f(np.array([1.0, 2.0])), [1.0, 8.0])
    assert_array_equal(f(np.array([-1.0, -2.0])), [2.0, 4.0])


def test_lanes_that_disagree_raise_with_the_line():
    with pytest.raises(GuardError, match="lane") as info:
        vmap(relu_cubed)(np.array([1.0, -2.0]))
    assert f"{__file__}:{line_of(relu_cubed, 'if x > 0')}" in str(info.value)


def test_lanes_that_disagree_later_raise_too_and_the_next_call_works():
    f = vmap(grad(relu_cubed))
    assert_array_equal(f(np.array([1.0, 2.0])), [3.0, 12.0])
    with pytest.raises(GuardError):
        f(np.array([1.0, -2.0]))
    with pytest.raises(GuardError):
        f(np.array([-1.0, 2.0]))
    assert_array_equal(f(np.array([-1.0, -2.0])), [-2.0, -2.0])


def test_branches_on_an_unmapped_argument_are_free():
    f = vmap(lambda x, s: x * 2 if s > 0 else x * 3, in_axes=(0, None))
    x = np.array([1.0, -2.0])
    assert_array_equal(f(x, 1.0), 2 * x)
    assert_array_equal(f(x, -1.0), 3 * x)


def test_where_is_the_way_for_lanes_that_differ():
    f = vmap(grad(lambda x: np.where(x > 0, x**3, -2.0 * x)))
    assert_array_equal(f(np.array([1.0, -2.0])), [3.0, -2.0])


# ---- nested -------------------------------------------------------------------------------------------------------
def test_a_branch_inside_an_inner_grad_is_guarded_in_the_outer_jit():
    f = jit(lambda x: grad(relu_cubed)(x) + 1)
    assert [f(x) for x in (2.0, -2.0, 3.0, -3.0)] == [13.0, -1.0, 28.0, -1.0]


def test_a_branch_of_an_inner_jit_on_an_outer_value():
    def f(x):
        inner = jit(lambda y: y * x if x > 0 else y - x)
        return inner(x * 2)

    g = grad(f)
    assert [g(x) for x in (3.0, -3.0, 1.0)] == [12.0, 1.0, 4.0]  # 2x^2, x


@pytest.mark.parametrize("inner", [jit, grad], ids=lambda t: t.__name__)
def test_what_an_inner_function_computes_for_one_of_its_branches_only(inner):
    """Its optimized graph lacks it on other paths, before the guard too: that is no hidden state."""

    def plain(x):
        y = np.exp(x)
        if x > 1:
            return np.sum(np.arange(int(x)) * x)
        return y * y if x > 0 else 3 * x

    f, g = grad(lambda x: inner(plain)(x) ** 2), inner(plain)
    for x in (0.5, -1.0, 2.5, 3.5, 0.3, 2.2, -2.0, 3.1):
        assert_allclose(f(x), (g(x + 1e-6) ** 2 - g(x - 1e-6) ** 2) / 2e-6, rtol=1e-7, atol=1e-12)
    assert f.cache_info().misses == 4


def test_conditions_on_python_numbers_are_python_bools():
    """Which add up as ints and choose from lists; those on NumPy's are NumPy's."""
    programs = [
        lambda x: ((x > 0) + (x > 1)) * x,
        lambda x: ((x > 0) - (x < 0)) * x,
        lambda x: -((x > 0) & (x < 2)) * x + ((x > 0) | (x < 2)) + True,
        lambda x: [x, x * 2, x * 3][(x > 0) + (x > 1)],
        lambda x: [x, x * 2][x > 1],
    ]
    for plain in programs:
        f = jit(plain)
        assert [f(x) for x in (-1.0, 0.5, 3.0)] == [plain(x) for x in (-1.0, 0.5, 3.0)]
    assert jit(programs[0])(np.float64(3.0)) == programs[0](np.float64(3.0)) == 3.0


def test_a_branch_under_a_tape():
    for x, expected in [(2.0, 12.0), (-2.0, -2.0)]:
        x = tapejit.numpy.asarray(x)
        with tapejit.GradientTape() as tape:
            tape.watch(x)
            y = jit(relu_cubed)(x)
        assert tape.gradient(y, x).numpy() == expected


def test_jacobian_of_a_branching_function():
    j = jacobian(lambda x: x**2 if x[0] > x[1] else x * 3)
    assert_array_equal(j(np.array([2.0, 1.0])), np.diag([4.0, 2.0]))
    assert_array_equal(j(np.array([1.0, 2.0])), 3 * np.eye(2))


# ---- thresholds ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "compare, factors",
    [(np.less, [2, 3, 3]), (np.less_equal, [2, 2, 3]), (np.greater, [3, 3, 2]), (np.greater_equal, [3, 2, 2])],
)
def test_values_just_below_at_and_just_above_a_threshold(compare, factors):
    f = grad(lambda x: x * 2 if compare(x, 0.1) else x * 3)
    for _ in range(6):
        assert [f(float(np.nextafter(0.1, 0))), f(0.1), f(float(np.nextafter(0.1, 1)))] == factors


def test_a_guard_on_a_computed_threshold_agrees_with_numpy_at_each_value():
    def plain(x):
        return x * 2 if np.exp(x) >= np.exp(1.0) else x * 3

    f = jit(plain)
    for x in (1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2), 1.0 - 1e-12, 1.0 + 1e-12):
        assert_allclose(f(float(x)), plain(float(x)), rtol=1e-15)


def test_nan_takes_the_false_branch():
    f = jit(lambda x: 1.0 if x > 0 else 2.0)
    assert [f(1.0), f(np.nan), f(-1.0), f(np.nan)] == [1.0, 2.0, 2.0, 2.0]


def test_negative_zero_is_not_less_than_zero():
    f = jit(lambda x: 1.0 / (x + 1) if x < 0 else 5.0)
    assert [f(-0.5), f(-0.0), f(0.0)] == [2.0, 5.0, 5.0]


# ---- many paths ---------------------------------------------------------------------------------------------------
def test_more_than_64_paths_warn_and_stay_right():
    @grad
    def f(x, n):
        for _ in range(int(n)):
            x = x * 1.5
        return x

    with pytest.warns(tapejit.TapejitWarning, match="more than 64 paths"):
        for n in range(70):
            assert_allclose(f(1.0, float(n)), 1.5**n, rtol=1e-13)
    assert f.cache_info().paths <= 65
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tapejit.TapejitWarning)
        for n in (0, 69, 33):
            assert_allclose(f(1.0, float(n)), 1.5**n, rtol=1e-13)


def test_a_path_of_many_guards():
    def plain(x):
        total = 0.0
        for i in range(40):
            total = total + (x[i] ** 2 if x[i] > 0 else x[i])
        return total

    f = grad(plain)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.standard_normal(40)
        assert_allclose(f(x), np.where(x > 0, 2 * x, 1.0), rtol=1e-14)
