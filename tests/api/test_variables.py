"""Variables: read anew by every compiled function, watched by every tape, across assignments, nesting and threads."""

import copy
import pickle
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support import in_threads

import tapejit
from tapejit import Array, GradientTape, UnconnectedWarning, Variable, grad, jit, value_and_grad, vmap
from tapejit.errors import MutationError


# ---- assignments between reads -------------------------------------------------------------------------------------------
def test_what_was_read_before_an_assignment_keeps_its_gradient():
    v = Variable(2.0)
    with GradientTape(persistent=True) as tape:
        y = v * v
        v.assign(5.0)
        z = v * v
    assert tape.gradient(y, v).numpy() == 4.0
    assert tape.gradient(z, v).numpy() == 10.0
    assert tape.gradient([y, z], v).numpy() == 14.0
    assert tape.jacobian(y, v).numpy() == 4.0


def test_two_losses_with_a_step_between():
    """As in the training of two networks against each other on one persistent tape."""
    a, b = Variable(2.0), Variable(3.0)
    with GradientTape(persistent=True) as tape:
        first, second = a * b, a * b * b
    a.assign_sub(tape.gradient(first, a))
    assert tape.gradient(second, a).numpy() == 9.0
    assert tape.gradient(second, b).numpy() == 12.0


def test_a_variable_that_is_watched_by_hand_stays_watched():
    v = Variable(2.0, trainable=False)
    with GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(v)
        v.assign(3.0)
        y = v * v
    assert tape.gradient(y, v).numpy() == 6.0


def test_assigning_within_a_recorded_function_is_an_error():
    v = Variable(2.0)
    with pytest.raises(tapejit.TapejitError, match="assign to a Variable while <lambda> is recorded") as caught:
        jit(lambda x: (v.assign(x), x)[1])(1.0)
    assert "assign it outside" in str(caught.value) and __file__ in str(caught.value)
    assert v.numpy() == 2.0


# ---- compiled functions and tapes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("calls", [0, 8])
def test_a_compiled_function_is_seen_by_a_tape_however_often_it_ran(calls):
    v = Variable(3.0)
    f = jit(lambda x: x * v * v)
    for _ in range(calls):
        assert f(2.0) == 18.0
    with GradientTape() as tape:
        y = f(2.0)
    assert tape.gradient(y, v).numpy() == 12.0


def test_a_compiled_function_first_called_under_a_tape_reads_the_variable_later():
    v = Variable(3.0)
    f = jit(lambda x: x * v * v if v > 0 else x)
    with GradientTape() as tape:
        y = f(2.0)
    assert tape.gradient(y, v).numpy() == 12.0
    v.assign(1.0)
    assert f(2.0) == 2.0
    v.assign(-1.0)
    with GradientTape() as tape:
        y = f(Array(2.0)) * v
    assert tape.gradient(y, v).numpy() == 2.0
    v.assign(4.0)
    assert f(2.0) == 32.0


def test_a_variable_as_an_argument():
    v = Variable([1.0, 2.0])
    np.testing.assert_array_equal(grad(lambda w: np.sum(w * w))(v).numpy(), [2.0, 4.0])
    with GradientTape() as tape:
        y = jit(lambda w: np.sum(w * w))(v)
    np.testing.assert_array_equal(tape.gradient(y, v).numpy(), [2.0, 4.0])
    with GradientTape() as tape:
        y = np.sum(grad(lambda p: np.sum(p["w"] ** 3))({"w": v})["w"])
    np.testing.assert_array_equal(tape.gradient(y, v).numpy(), [6.0, 12.0])


def test_a_variable_as_an_argument_of_a_custom_gradient():
    @tapejit.custom_gradient
    def tripled(x):
        return x * 1.0, lambda dy: 3 * dy

    v = Variable(2.0)
    with GradientTape() as tape:
        y = tripled(v)
    assert tape.gradient(y, v).numpy() == 3.0


@pytest.mark.parametrize("transform", [jit, lambda f: lambda x: vmap(f)(np.array([x]))[0]])
def test_a_tape_within_a_recorded_function_reads_the_variable_at_each_call(transform):
    v = Variable(3.0)

    def f(x):
        with GradientTape() as tape:
            y = x * np.exp(v)
        return tape.gradient(y, v) + y

    g = transform(f)
    for value in (0.0, 1.0, -1.0):
        v.assign(value)
        for _ in range(6):
            np.testing.assert_allclose(g(2.0), 4 * np.exp(value), rtol=1e-14)


def test_grad_of_a_tape_that_reads_a_variable():
    v = Variable(3.0)

    def f(x):
        with GradientTape() as tape:
            y = x * x * v * v
        return tape.gradient(y, v)  # 2 v x^2

    g = grad(f)  # 4 v x
    assert g(2.0) == 24.0
    v.assign(1.0)
    assert g(2.0) == 8.0


def test_tapes_around_and_within_a_compiled_function():
    v = Variable(3.0)

    def inner(x):
        with GradientTape() as tape:
            y = x * v**3
        return tape.gradient(y, v)  # 3 x v^2

    f = jit(inner)
    for value in (3.0, 2.0):
        v.assign(value)
        with GradientTape() as tape:
            y = f(2.0)
        assert y.numpy() == 6 * value**2
        assert tape.gradient(y, v).numpy() == 12 * value


def test_a_tape_within_a_function_does_not_see_variables_that_only_the_outer_code_reads():
    v = Variable(3.0)

    @jit
    def f(x):
        y = x * v
        with GradientTape() as tape:
            z = x * 2.0
        assert tape.watched_variables() == ()
        return y + z

    assert f(1.0) == 5.0


def test_watched_variables_of_a_compiled_function():
    a, b = Variable(2.0), Variable(3.0, trainable=False)
    f = jit(lambda x: a * b * x)
    with GradientTape() as tape:
        y = f(1.0)
    assert tape.watched_variables() == (a,)
    with pytest.warns(UnconnectedWarning):
        assert tape.gradient(y, b) is None


def test_implicit_gradients_through_a_compiled_function():
    a, b = Variable(2.0), Variable(3.0)
    f = jit(lambda x: b * a * x)
    for _ in range(2):
        pairs = tapejit.implicit_gradients(f)(10.0)
        assert [(g.numpy(), v is w) for (g, v), w in zip(pairs, (a, b))] == [(30.0, True), (20.0, True)]


# ---- threads, copies -----------------------------------------------------------------------------------------------------
def test_one_variable_on_tapes_of_several_threads():
    v, out, gate = Variable(2.0), [None] * 4, threading.Barrier(4)

    def work(i):
        with GradientTape() as tape:
            y = v ** (i + 1)
            gate.wait()  # each has read it before any takes its gradient
        out[i] = float(tape.gradient(y, v).numpy())

    in_threads(work, range(4))
    assert out == [1.0, 4.0, 12.0, 32.0]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(duplicate):
    v = Variable([1.0, 2.0], name="w", trainable=False)
    w = duplicate(v)
    v.assign_add(10.0)
    assert type(w) is Variable and (w.name, w.trainable) == ("w", False)
    np.testing.assert_array_equal(w.numpy(), [1.0, 2.0])
    a = duplicate(Array([1.0, 2.0]))
    assert type(a) is Array
    np.testing.assert_array_equal(a.numpy(), [1.0, 2.0])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_of_recorded_values_are_recorded(duplicate):
    f = value_and_grad(lambda x: duplicate(x) * duplicate({"x": x})["x"])
    assert [f(2.0), f(3.0)] == [(4.0, 4.0), (9.0, 6.0)]


def test_pickling_a_recorded_value_is_an_error():
    with pytest.raises(tapejit.TapejitError, match="pickling of a value that <lambda> is recording"):
        jit(lambda x: x * len(pickle.dumps(x)))(1.0)


def test_steps_on_a_tape_leave_nothing_behind():
    import gc

    v = Variable(np.ones(3))
    f = jit(lambda x: np.sum(np.sin(v) * x))

    def steps(n):
        for _ in range(n):
            with GradientTape() as tape:
                loss = f(np.ones(3)) + np.sum(v * v)
            v.assign_sub(1e-4 * tape.gradient(loss, v))
        del tape, loss
        gc.collect()
        return len(gc.get_objects())

    steps(20)
    before = steps(20)
    assert steps(500) - before < 100  # a leak of one object a step would be 480


# ---- copies and views ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("copy", [np.copy, lambda w: w.astype(float), Variable.flatten, np.nan_to_num, lambda w: w[:].copy()])
def test_a_copy_may_be_written_and_stays_what_it_was(copy):
    w = Variable([1.0, 2.0, 3.0])
    before = copy(w)
    w.assign_add(np.ones(3))
    assert_allclose(before, [1.0, 2.0, 3.0])
    with GradientTape() as tape:
        u = copy(w)
        u[1] = w[0] * 2
        y = np.sum(u * u)
    assert_allclose(tape.gradient(y, w), [20.0, 0.0, 8.0])
    assert_allclose(w, [2.0, 3.0, 4.0])


@pytest.mark.parametrize("view", [lambda w: w[1:], lambda w: w.value(), np.ravel, lambda w: w.T])
def test_what_a_variable_is_read_as_is_not_written(view):
    w = Variable([1.0, 2.0, 3.0])
    before = view(w)
    with pytest.raises(MutationError, match="a Variable is not written in place"):
        before[0] = 5.0
    with GradientTape(), pytest.raises(MutationError, match="a Variable is not written in place"):
        view(w)[0] = 5.0
    w.assign_add(np.ones(3))
    assert_allclose(before, np.arange(1.0, 4.0)[-len(before) :])
