"""GradientTape: TensorFlow's semantics (USERS.md 2.1), and what nests in what."""

import gc
import re
import warnings
import weakref

import numpy as np
import pytest

import tapejit
import tapejit.numpy as tnp
from tapejit import Array, GradientTape, UnconnectedWarning, Variable, record

namespaces = pytest.mark.parametrize("ns", [np, tnp], ids=["numpy", "tapejit.numpy"])


def watched(value, **options):
    """A tape that is recording, and a watched Array."""
    tape = GradientTape(**options)
    tape.__enter__()
    x = Array(value)
    tape.watch(x)
    return tape, x


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    for tape in list(record.state.tapes):
        tape.__exit__()
    assert record.state.base is None and record.state.records == [] and record.open_records[0] == 0


@namespaces
def test_the_tutorial(ns):
    x = tnp.ones((2, 2))
    with GradientTape() as tape:
        tape.watch(x)
        y = ns.sum(x)
        z = ns.multiply(y, y)
    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), np.full((2, 2), 8.0))
    with GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = ns.sum(x)
        z = ns.multiply(y, y)
    assert tape.gradient(z, y).numpy() == 8.0
    np.testing.assert_array_equal(tape.gradient(z, x).numpy(), np.full((2, 2), 8.0))


@namespaces
def test_nested_tapes_of_the_tutorial_watch_on_the_inner_tape_only(ns):
    x = Array(1.0)
    with GradientTape() as outer:
        with GradientTape() as inner:
            inner.watch(x)
            y = ns.power(x, 3)
        dy_dx = inner.gradient(y, x)
        assert dy_dx.numpy() == 3.0
    assert outer.gradient(dy_dx, x).numpy() == 6.0


def test_third_order():
    x = Array(2.0)
    with GradientTape() as a, GradientTape() as b, GradientTape() as c:
        for t in (a, b, c):
            t.watch(x)
        y = x**4
        first = c.gradient(y, x)
        second = b.gradient(first, x)
        third = a.gradient(second, x)
    assert (first.numpy(), second.numpy(), third.numpy()) == (32.0, 48.0, 48.0)


def test_targets_are_summed_and_sources_keep_their_structure():
    with GradientTape() as tape:
        p = {"a": Variable(2.0), "b": [Variable(3.0)]}
        y = [p["a"] * p["b"][0], p["a"] ** 2]
    g = tape.gradient(y, p)
    assert g["a"].numpy() == 7.0 and g["b"][0].numpy() == 2.0


def test_sources_that_depend_on_each_other_and_repeat():
    tape, x = watched(3.0)
    y = x * x
    z = y * y
    tape.__exit__()
    assert [g.numpy() for g in tape.gradient(z, [x, y, x])] == [108.0, 18.0, 108.0]


def test_output_gradients():
    tape, x = watched([1.0, 2.0], persistent=True)
    y, z = x * x, 3 * x
    tape.__exit__()
    np.testing.assert_array_equal(tape.gradient(y, x, output_gradients=np.array([1.0, 10.0])).numpy(), [2.0, 40.0])
    np.testing.assert_array_equal(tape.gradient([y, z], x, output_gradients=[None, Array([2.0, 2.0])]).numpy(), [8.0, 10.0])
    with pytest.raises(ValueError, match="1 output_gradients for 2 targets"):
        tape.gradient([y, z], x, output_gradients=[None])
    with pytest.raises(ValueError, match="for a target of shape"):
        tape.gradient(y, x, output_gradients=[np.ones(3)])


def test_a_non_persistent_tape_is_used_once():
    tape, x = watched(3.0)
    y = x * x
    tape.__exit__()
    tape.gradient(y, x)
    with pytest.raises(RuntimeError, match=re.escape("can only be called once on non-persistent tapes.")):
        tape.gradient(y, x)


def test_gradient_inside_the_context():
    with GradientTape() as tape:
        x = Array(3.0)
        tape.watch(x)
        assert tape.gradient(x * x, x).numpy() == 6.0
        assert not tape._recording  # a non-persistent tape stops
    with GradientTape(persistent=True) as tape:
        tape.watch(x)
        first = tape.gradient(x**3, x)
        assert tape.gradient(first, x).numpy() == 18.0  # the gradient was recorded too


def test_stop_recording_and_reset():
    tape, x = watched(3.0, persistent=True)
    y = x * x
    with tape.stop_recording():
        z = x * x * x
    w = x * 2.0
    tape.__exit__()
    assert tape.gradient(y, x).numpy() == 6.0 and tape.gradient(w, x).numpy() == 2.0
    with pytest.warns(UnconnectedWarning):
        assert tape.gradient(z, x) is None
    with pytest.raises(RuntimeError, match="not recording"):
        with tape.stop_recording():
            pass
    tape, x = watched(3.0)
    y = x * x
    tape.reset()
    tape.watch(x)
    z = x * x * x
    tape.__exit__()
    with pytest.warns(UnconnectedWarning):
        assert tape.gradient(y + z, x) is None  # y + z was computed after the tape
    assert GradientTape().watched_variables() == ()


def test_entering_twice_and_again():
    tape, x = watched(3.0, persistent=True)
    with pytest.raises(RuntimeError, match="Tape is already recording."):
        tape.__enter__()
    y = x * x
    tape.__exit__()
    with tape:  # goes on with the same tape
        z = y * x
    assert tape.gradient(z, x).numpy() == 27.0


def test_variables_are_watched_on_their_own():
    a, b, c = Variable(2.0, name="a"), Variable(3.0), Variable(4.0, trainable=False)
    with GradientTape() as tape:
        y = b * a * c
    assert tape.watched_variables() == (b, a)
    assert [g.numpy() for g in tape.gradient(y, [a, b])] == [12.0, 8.0]
    with GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(a)
        y = a * b
    with pytest.warns(UnconnectedWarning, match="was not watched|was not read"):
        ga, gb = tape.gradient(y, [a, b])
    assert ga.numpy() == 3.0 and gb is None


def test_a_variable_as_target():
    v = Variable(2.0)
    with GradientTape() as tape:
        tape.watch(v)
    assert tape.gradient(v, v).numpy() == 1.0


@pytest.mark.parametrize("target", [None, 3.0, "y"])
def test_a_target_that_is_no_array(target):
    tape, x = watched(3.0)
    tape.__exit__()
    with pytest.raises(TypeError, match="not an Array that the tape recorded"):
        tape.gradient(target, x)


def test_none_says_why():
    x, n = Array(3.0), Array(3)
    with GradientTape(persistent=True) as tape:
        with pytest.warns(UnconnectedWarning, match="int64 has no derivative"):
            tape.watch(n)
        tape.watch(x)
        y, z = x * n, x * 2
        cut = np.sin(float(x)) * z
        constant = Array(float(x)) * 2
    with pytest.warns(UnconnectedWarning, match="dtype int64"):
        assert tape.gradient(y, n) is None
    with pytest.warns(UnconnectedWarning, match="not watched by this tape"):
        assert tape.gradient(y, Array(1.0)) is None
    with pytest.warns(UnconnectedWarning, match="not computed on this tape|went through"):
        assert tape.gradient(constant, x) is None
    assert tape.gradient(cut, x).numpy() == 2 * np.sin(3.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unconnected_zero_has_the_sources_shape_and_dtype(dtype):
    x, other = Array(np.ones(2, dtype)), Array(np.ones((2, 3), dtype))
    with GradientTape(persistent=True) as tape:
        tape.watch([x, other])
        y = x * x
    zero = tape.gradient(y, other, unconnected_gradients="zero")
    assert zero.shape == (2, 3) and zero.dtype == dtype and not zero.numpy().any()
    assert tape.jacobian(y, other, unconnected_gradients="zero").shape == (2, 2, 3)
    with pytest.raises(ValueError, match="unconnected_gradients='nil'"):
        tape.gradient(y, other, unconnected_gradients="nil")


def test_watching_what_cannot_be():
    with GradientTape() as tape:
        with pytest.raises(TypeError, match="ndarray"):
            tape.watch(np.ones(2))
    with pytest.raises(RuntimeError, match="outside the tape's"):
        tape.watch(Array(1.0))


def test_jacobian():
    tape, x = watched([1.0, 2.0])
    y = x * x
    tape.__exit__()
    np.testing.assert_array_equal(tape.jacobian(y, x).numpy(), [[2.0, 0.0], [0.0, 4.0]])
    with pytest.raises(RuntimeError, match="jacobian can only be called once"):
        tape.jacobian(y, x)


def test_batch_jacobian_on_a_non_persistent_tape():  # tf#47785 was silently wrong here
    tape, x = watched([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    y = np.stack([x[:, 0] * x[:, 1], x[:, 1] ** 2], axis=1)
    tape.__exit__()
    want = [[[2, 1], [0, 4]], [[4, 3], [0, 8]], [[6, 5], [0, 12]]]
    np.testing.assert_array_equal(tape.batch_jacobian(y, x).numpy(), want)


def test_batch_jacobian_shapes():
    tape, x = watched(np.ones((2, 2)), persistent=True)
    y = x[:1] * 2
    tape.__exit__()
    text = "Need first dimension of target shape ((1, 2)) and source shape ((2, 2)) to match."
    with pytest.raises(ValueError, match=re.escape(text)):
        tape.batch_jacobian(y, x)


def test_ndarrays_that_change_after_they_were_read():
    data = np.array([1.0, 2.0])
    tape, x = watched([3.0, 4.0])
    y = np.sum(x * data)
    data[:] = 100.0
    tape.__exit__()
    np.testing.assert_array_equal(tape.gradient(y, x).numpy(), [1.0, 2.0])


def test_a_structure_met_again_is_compiled_and_stays_right():
    for value in (1.0, 2.0, 3.0, 4.0):
        tape, x = watched(value)
        y = x**3 + 2 * x
        tape.__exit__()
        assert tape.gradient(y, x).numpy() == 3 * value**2 + 2


def test_control_flow_on_a_tape_simply_runs():
    for start, want in ((1.0, 128 * 7.0), (50.0, 2.0), (200.0, 1.0)):
        tape, x = watched(start)
        y = x
        n = 0
        while y < 100:
            y, n = y * 2, n + 1
        y = y * x if start == 1.0 else y
        tape.__exit__()
        got = tape.gradient(y, x).numpy()
        assert got == (2 * 128 * start if start == 1.0 else want)


def test_tape_in_recorded_functions():
    def f(x):
        with GradientTape() as tape:
            tape.watch(x)
            y = np.sum(x**3)
        return tape.gradient(y, x)

    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(tapejit.jit(f)(x), 3 * x**2)
    np.testing.assert_array_equal(tapejit.jit(f)(2 * x), 12 * x**2)
    np.testing.assert_array_equal(tapejit.grad(f)(x), 6 * x)
    np.testing.assert_array_equal(tapejit.vmap(lambda x: f(x))(np.stack([x, x])), [3 * x**2] * 2)


def test_compiled_functions_inside_a_tape():
    f, g = tapejit.jit(lambda x: x**2), tapejit.grad(lambda x: x**3)
    tape, x = watched(3.0, persistent=True)
    plain = f(2.0)
    y, z = f(x), g(x)
    tape.__exit__()
    assert plain == 4.0 and type(plain) is np.float64
    assert tape.gradient(y, x).numpy() == 6.0 and tape.gradient(z, x).numpy() == 18.0


def test_a_compiled_function_that_reads_a_watched_array():
    tape, x = watched(3.0)
    f = tapejit.jit(lambda c: c * x * x)
    y = f(2.0)
    tape.__exit__()
    assert tape.gradient(y, x).numpy() == 12.0


def test_steps_do_not_leak():
    v = Variable(np.ones(3))
    last, probes = None, []
    for step in range(300):
        with GradientTape() as tape:
            loss = np.sum(v * v)
        last = tape.gradient(loss, v)
        v.assign_sub(0.01 * last)
        if step % 100 == 0:
            probes.append(weakref.ref(loss))
    del tape, loss
    gc.collect()
    assert all(p() is None for p in probes)


def test_training_converges_to_least_squares():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=20)
    w = Variable(np.zeros(3))
    for _ in range(500):
        with GradientTape() as tape:
            loss = np.mean((a @ w - b) ** 2)
        w.assign_sub(0.2 * tape.gradient(loss, w))
    np.testing.assert_allclose(w.numpy(), np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-8)


def test_variable_assignment():
    v = Variable([1.0, 2.0])
    assert v.assign_add(1.0) is v
    np.testing.assert_array_equal(v.numpy(), [2.0, 3.0])
    with pytest.raises(ValueError, match=r"assign: shape \(3,\) to a Variable of shape \(2,\)"):
        v.assign(np.ones(3))


def test_an_error_inside_the_context_closes_the_tape():
    with pytest.raises(KeyError), GradientTape() as tape:
        raise KeyError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with GradientTape() as tape:
            x = Array(1.0)
            tape.watch(x)
            y = x * 2
        assert tape.gradient(y, x).numpy() == 2.0
