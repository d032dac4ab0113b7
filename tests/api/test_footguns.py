"""The classic traps of compilers that record, and wrong answers that peers have shipped: here each is right, or loud."""

import numbers

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tapejit
from tapejit import GradientTape, grad, jacobian, jit, jvp, value_and_grad, vmap
from tapejit.errors import ConcretizationError, LeakedArrayError

X = np.array([1.0, 2.0, 3.0])


# ---- output buffers, aliasing, mutation ---------------------------------------------------------------------------
@pytest.mark.parametrize("calls", [1, 10])
def test_results_of_two_calls_do_not_alias(calls):
    f = jit(lambda x: x * 2)
    kept = [f(X + i) for i in range(calls + 1)]
    for i, r in enumerate(kept):
        assert_array_equal(r, 2 * (X + i))
    assert not np.shares_memory(kept[0], kept[-1])


def test_two_results_of_one_call_do_not_alias():
    a, b = jit(lambda x: (x * 2, x * 2))(X)
    a[0] = 99.0
    assert b[0] == 2.0


@pytest.mark.parametrize("body", [lambda x: x, lambda x: x[:2], lambda x: x.reshape(3, 1), lambda x: x.T, lambda x: [x]])
def test_a_result_that_is_or_views_an_input_is_a_copy(body):
    f = jit(body)
    for _ in range(6):
        assert not np.shares_memory(np.asarray(f(X)), X)


def test_a_result_that_is_a_closed_over_array_is_a_copy():
    a = np.ones(3)
    out = jit(lambda x: a)(1.0)
    out[0] = 5.0
    assert_array_equal(a, np.ones(3))


def test_one_object_given_twice_is_two_arguments():
    f = grad(lambda a, b: np.sum(a * b**2), argnums=(0, 1))
    ga, gb = f(X, X)
    assert_array_equal(ga, X**2)
    assert_array_equal(gb, 2 * X**2)
    one = tapejit.numpy.asarray(1.0)
    assert [g.numpy() for g in tapejit.gradients_function(lambda a, b: a * 3 + b)(one, one)] == [3.0, 1.0]


def test_an_argument_that_is_also_closed_over_is_apart():
    a = np.array([1.0, 2.0])
    assert_array_equal(grad(lambda x: np.sum(a * x))(a), a)  # not 2a


def test_inputs_mutated_between_calls_are_read_afresh():
    x = X.copy()
    f = grad(lambda x: np.sum(x**2))
    for k in range(8):
        x[0] = k
        assert_array_equal(f(x), 2 * x)


def test_calls_do_not_change_their_inputs():
    x = X.copy()
    for f in (jit(lambda x: np.flip(x) * 2), grad(lambda x: np.cumsum(x) ** 2)):
        f(x)
        assert_array_equal(x, X)


# ---- frozen constants and branches --------------------------------------------------------------------------------
def test_a_branch_is_not_frozen_by_the_first_call():
    f = jit(lambda x: x if x > 0 else -x)
    assert [f(v) for v in (1.0, -2.0, 3.0, -4.0)] == [1.0, 2.0, 3.0, 4.0]


def test_float_of_a_recorded_value_is_an_error():
    with pytest.raises(ConcretizationError):
        jit(lambda x: x * float(x))(2.0)


@pytest.mark.parametrize("freeze", [np.asarray, lambda x: x.item(), lambda x: np.array([x, x], dtype=object)])
def test_other_ways_to_freeze_a_value_are_errors(freeze):
    with pytest.raises(ConcretizationError):
        grad(lambda x: x * np.sum(freeze(x)))(2.0)


def test_default_arguments_are_read_and_may_be_overridden():
    a = np.ones(2)

    def f(x, k=2.0, *, a=a):
        return np.sum(a) * x * k

    f = jit(f)
    assert [f(1.0), f(1.0, 3.0), f(1.0, a=X), f(1.0)] == [4.0, 6.0, 12.0, 4.0]
    a[0] = 5.0
    assert f(1.0) == 12.0


def test_late_bound_loop_variables_are_pythons():
    late = [jit(lambda x: x * k) for k in range(3)]  # noqa: B023
    bound = [jit(lambda x, k=k: x * k) for k in range(3)]
    assert [f(1.0) for f in late] == [2.0, 2.0, 2.0]
    assert [f(1.0) for f in bound] == [0.0, 1.0, 2.0]


def test_functions_of_one_code_with_other_cells_do_not_share_a_record():
    """numba#6093: a cached closure replays another function."""

    def scaled(k):
        return jit(lambda x: x * k)

    fs = [scaled(k) for k in (2.0, 3.0)]
    assert [[f(1.0) for f in fs] for _ in range(6)] == [[2.0, 3.0]] * 6


def test_a_static_callable_that_reads_a_rebound_number():
    k = 2.0

    def how(x):
        return x * k

    f = jit(lambda x, how: how(x))
    assert f(1.0, how) == 2.0
    k = 5.0
    assert f(1.0, how) == 5.0


def test_a_callable_instance_reads_its_attributes_at_each_call():
    class F:
        def __init__(self):
            self.k, self.a = 2.0, np.ones(2)

        def __call__(self, x):
            return self.k * x * np.sum(self.a)

    body = F()
    f = jit(body)
    assert f(1.0) == 4.0
    body.k = 3.0
    assert f(1.0) == 6.0
    body.a[0] = 9.0
    assert f(1.0) == 30.0


def test_a_closed_over_array_changed_through_a_view_is_read_afresh():
    a = np.ones((2, 2))
    row = a[0]
    f = jit(lambda x: np.sum(a) * x)
    assert f(1.0) == 4.0
    row[:] = 10.0
    assert f(1.0) == 22.0


def test_nested_jit_notices_what_the_inner_function_reads():
    k = 2.0
    inner = jit(lambda x: x * k)
    outer = jit(lambda x: inner(x) + 1)
    assert outer(1.0) == 3.0
    k = 5.0
    assert outer(1.0) == 6.0


def test_a_recorded_value_that_leaks_is_an_error_later():
    leaked = []
    jit(lambda x: leaked.append(x * 2) or x)(1.0)
    with pytest.raises(LeakedArrayError):
        leaked[0] + 1


# ---- wrong answers that shipped elsewhere -------------------------------------------------------------------------
def test_jacobians_of_both_modes_agree_at_masked_diagonals():
    """jax#654"""

    def f(x):
        d = x[:, None] - x[None, :]
        return np.sum(np.where(np.eye(3, dtype=bool), 0.0, 1.0 / np.where(d == 0, 1.0, d)), axis=1)

    forward, reverse = (jacobian(f, mode=m)(X) for m in ("forward", "reverse"))
    assert_allclose(forward, reverse, rtol=1e-14)
    assert_allclose(forward, [[-1.25, 1.0, 0.25], [1.0, -2.0, 1.0], [0.25, 1.0, -1.25]], rtol=1e-14)


def test_second_derivative_of_prod_with_zeros_and_at_large_values():
    """torch#193012"""
    h = jacobian(grad(np.prod))
    assert_array_equal(h(np.array([0.0, 2.0, 3.0])), [[0, 3, 2], [3, 0, 0], [2, 0, 0]])
    with np.errstate(all="ignore"):
        big = h(np.array([1e200, 1e200, 1.0]))
    assert big[0, 1] == 1.0 and big[0, 2] == 1e200


def test_double_backward_of_a_where_and_of_a_norm():
    """torch#91469"""
    assert grad(grad(lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), 0.0)))(-1.0) == 0.0
    x = np.array([3.0, 4.0])
    expected = (np.eye(2) - np.outer(x, x) / 25) / 5
    assert_allclose(jacobian(grad(np.linalg.norm))(x), expected, rtol=1e-13)


def test_float64_constants_are_not_rounded_through_float32():
    """mlx#4182"""
    assert jit(lambda x: x + 1e-12)(1.0) - 1.0 == (1.0 + 1e-12) - 1.0
    assert jit(lambda x: x * np.float64(0.1))(X)[0] == 0.1


def test_unconnected_zeros_have_their_arguments_dtype():
    """tf#43043"""
    for dtype in (np.float32, np.float64):
        assert grad(lambda a, b: np.sum(a), argnums=1)(X, X.astype(dtype)).dtype == dtype


def test_forward_mode_goes_through_a_custom_gradient():
    """jax#3558"""

    @tapejit.custom_gradient
    def f(x):
        return x**2, lambda dy: dy * 2 * x

    assert jvp(f, (3.0,), (1.0,)) == (9.0, 6.0)
    assert jacobian(f, mode="forward")(3.0) == 6.0


def test_batch_jacobian_of_a_persistent_tape_twice():
    """tf#47785"""
    x = tapejit.numpy.asarray(np.arange(6.0).reshape(3, 2))
    with GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x**2
    for _ in range(2):
        assert_array_equal(tape.batch_jacobian(y, x).numpy(), [np.diag(2 * r) for r in x.numpy()])


def test_a_value_used_before_and_in_a_loop_gets_both_contributions():
    """warp#1694"""

    def f(x):
        y = x * x
        z = y
        for _ in range(3):
            z = z * x + y
        return z  # x^5 + x^4 + x^3 + x^2

    assert value_and_grad(f)(2.0) == (60.0, 80.0 + 32.0 + 12.0 + 4.0)


def test_the_users_arithmetic_keeps_ieee():
    """jax#6566: no fast-math in what the user wrote."""
    f = jit(lambda x: (x + 1e16) - 1e16)
    assert f(1.0) == (1.0 + 1e16) - 1e16
    with np.errstate(invalid="ignore"):
        assert np.isnan(jit(lambda x: x * 0)(np.inf)) and np.isnan(jit(lambda x: x - x)(np.inf))
    assert np.signbit(jit(lambda x: x + -0.0)(-0.0))
    assert bool(jit(lambda x: np.isnan(x))(np.nan))


def test_summation_order_in_vmap_is_that_of_each_lane():
    rows = np.random.default_rng(1).standard_normal((4, 50))
    assert_allclose(vmap(np.sum)(rows), [np.sum(r) for r in rows], rtol=1e-13)


# ---- what a recorded value is ----------------------------------------------------------------------------------------------
def _kind(x):
    """Asks what x is, in the ways that libraries do."""
    if isinstance(x, np.ndarray):
        return x * 2.0
    if isinstance(x, numbers.Integral) or isinstance(x, float) and not isinstance(x, np.floating):
        return x * 3.0
    match x:
        case np.floating():
            return x * 5.0 if np.isscalar(x) else x * 7.0
    return x * 11.0


KINDS = [2.0, 3, np.float64(2.0), np.float32(2.0), np.array(2.0), np.array([1.0, 2.0]), np.arange(3)]


@pytest.mark.parametrize("x", KINDS, ids=repr)
def test_isinstance_of_a_recorded_value_is_that_of_the_argument(x):
    for run in (tapejit.jit(_kind), tapejit.jit(lambda x: tapejit.jit(_kind)(x))):
        for _ in range(3):
            assert_array_equal(run(x), _kind(x))
    if np.ndim(x):
        elements = lambda v: v[0] * 2.0 if isinstance(v[0], np.generic) else v[0] * 3.0
        masked = lambda v: np.sum(v[v > 0.5]) * (2.0 if isinstance(v[v > 0.5], np.ndarray) else 3.0)
        assert tapejit.jit(elements)(x) == elements(x) and tapejit.jit(masked)(x) == masked(x)


def test_scalars_and_arrays_without_axes_have_keys_of_their_own():
    f = tapejit.jit(_kind)
    for _ in range(3):
        for x in (np.float64(2.0), np.array(2.0), 2.0):
            assert f(x) == _kind(x)


def test_outside_of_functions_an_array_is_an_array():
    x = tapejit.Array([1.0, 2.0])
    assert not isinstance(x, np.ndarray) and isinstance(x, tapejit.Array) and x.__class__ is tapejit.Array
    with tapejit.GradientTape() as tape:
        tape.watch(x)
        assert not isinstance(x * 2.0, np.ndarray)
