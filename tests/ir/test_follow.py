"""Loops that are folded while they are recorded: what was recorded straight, bit for bit, and its gradients."""

import sys

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from test_reroll import FOLDED, OTHERS, loops, recorded, rk4, rk4_of_arrays

import tapejit
from tapejit import follow
from tapejit import numpy as tnp
from tapejit.ir.backward import backward
from tapejit.ir.evaluate import evaluate
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.verify import verify


def with_limits(monkeypatch, first, worth, again=2):
    monkeypatch.setattr(follow, "FIRST", first)
    monkeypatch.setattr(follow, "WORTH", worth)
    monkeypatch.setattr(follow, "AGAIN", again)


def agree(monkeypatch, function, *args, first=200, worth=100, again=2):
    """The graph that was folded while it was recorded, compared to the one that was not."""
    with_limits(monkeypatch, sys.maxsize, 0)
    straight, inputs = recorded(function, *args)
    with_limits(monkeypatch, first, worth, again)
    graph, others = recorded(function, *args)
    verify(graph)
    for got, want in zip(evaluate(graph, others), evaluate(straight, inputs), strict=True):
        assert_array_equal(got, want)
    for got, want in zip(evaluate(optimize(graph), others), evaluate(straight, inputs), strict=True):
        assert_allclose(got, want, rtol=1e-12)
    on = [a.dtype.kind == "f" for a in inputs]
    want = evaluate(backward(straight, on), [*inputs, *[np.ones(r.shape) for r in straight.results]])
    got = evaluate(backward(graph, on), [*others, *[np.ones(r.shape) for r in graph.results]])
    for g, w in zip(got, want, strict=True):
        assert_allclose(g, w, rtol=1e-11, atol=1e-13 * np.max(np.abs(w), initial=1.0))
    return graph


X = np.random.default_rng(3).normal(size=400)


@pytest.mark.parametrize("limits", [(64, 1), (200, 100), (333, 500)], ids=str)
@pytest.mark.parametrize("function", FOLDED + OTHERS, ids=lambda f: f.__name__)
def test_loops(monkeypatch, function, limits):
    agree(monkeypatch, lambda x: function(x, 300), X, first=limits[0], worth=limits[1])


@pytest.mark.parametrize("function", [rk4, rk4_of_arrays])
def test_memory_does_not_grow_with_the_iterations(monkeypatch, function):
    args = np.array([1.0, 1.2]), np.array([1.5, 1.0, 3.0, 1.0])
    graph = agree(monkeypatch, lambda y, p: function(y, p, 100), *args)
    assert loops(graph)[-1].attrs["length"] >= 90 and len(graph) < 300
    with_limits(monkeypatch, 2048, 8192, 4)
    sizes = [len(recorded(lambda y, p, n=n: function(y, p, n), *args)[0]) for n in (500, 1500)]
    assert sizes[0] == sizes[1] < 300


def test_what_a_loop_made_is_used_later(monkeypatch):
    def f(x):
        values, squares, s, first = [], [], x[0], x[1]
        for i in range(300):
            s = 0.9 * s + np.sin(x[i]) * first
            values.append(s)
            squares.append(s * s)
        t = values[0] + values[7] * values[150] + values[-1]
        for v, w in zip(values, squares):  # rows that another loop made
            t = 0.99 * t + v * w * 0.01
        return t + squares[40] * np.sum(np.stack(values[100:200])) + np.sum(np.stack(squares[::3]))

    graph = agree(monkeypatch, f, X)
    assert [n.attrs["length"] for n in loops(graph)][:2] == [300, 300]


def test_what_differs_ends_the_loop(monkeypatch):
    def f(x, change):
        s, t, w = x[0], x[1], 0.5
        for i in range(200):
            u = np.sin(s) * w
            if i == 120:
                s, t, w, u = change(s, t, w, u)
            s = u - 0.1 * t * x[2]
            t = t * 0.5 + s
        return s + t

    changes = [
        lambda s, t, w, u: (s, t, 0.25, u),  # a number
        lambda s, t, w, u: (s, t, -0.0, u),
        lambda s, t, w, u: (s, t, np.float32(0.5), u),
        lambda s, t, w, u: (t, s, w, u),  # other values
        lambda s, t, w, u: (s, t, w, s),  # that of this iteration for one of the next
        lambda s, t, w, u: (s, t, x_outside, u),
        lambda s, t, w, u: (s, s * 1.0, w, u),  # an operation more
        lambda s, t, w, u: (s, np.stack([t, s])[0], w, u),  # the loop's values as operands of what ends it
        lambda s, t, w, u: (s, t, w * s, u),
    ]
    x_outside = tapejit.Array(0.75)
    for change in changes:
        agree(monkeypatch, lambda x, change=change: f(x, change), X)


def test_signed_zeros_and_nans_are_other_numbers(monkeypatch):
    def f(x, numbers):
        s, t = x[0], x[0]
        for w in numbers:
            s = 0.5 * s + np.copysign(x[1], w)
            t = t + (w + x[2])
        return s, t

    zeros = [0.0] * 100 + [-0.0] * 100
    got = [float(agree_on(monkeypatch, f, numbers)[0]) for numbers in (zeros, zeros[::-1])]
    assert_allclose(got, [-2 * abs(X[1]), 2 * abs(X[1])], rtol=1e-12)
    agree_on(monkeypatch, f, [np.nan] * 150)
    agree_on(monkeypatch, f, [1.0] * 120 + [np.nan] * 60)


def agree_on(monkeypatch, f, numbers):
    graph = agree(monkeypatch, lambda x: f(x, numbers), X)
    return evaluate(graph, [X])


def test_numbers_of_each_iteration_are_a_table(monkeypatch):
    def f(x):
        s, h = x[0], 0.01
        for i in range(400):
            s = s + h * np.cos(i * h) * s + 1.0 / (i + 1) - (i % 2) * x[1]
        return s

    graph = agree(monkeypatch, f, X)
    assert {len(n.attrs["values"]) for n in graph.nodes if n.op.name == "table"} == {400}


def test_loops_that_end_soon_leave_the_one_around_them_to_be_found(monkeypatch):
    def f(x):
        s = x[0]
        for i in range(40):
            for j in range(60):
                s = s * 0.9 + x[j] * 0.1
            s = s * x[i]
        return s

    graph = agree(monkeypatch, f, X, worth=500)
    (loop,) = loops(optimize(graph, differentiate_later=True))
    (inner,) = loops(loop.regions[0])
    assert loop.attrs["length"] >= 38 and inner.attrs["length"] >= 59


def test_guards_writes_and_derivatives_within_loops(monkeypatch):
    def f(x):
        y, s = tnp.zeros(200), x[0]
        for i in range(200):
            s = tapejit.grad(lambda v: np.sin(v) * x[1] * v)(s) * 0.5
            if s > 100.0:
                break
            y[i] = s
        return np.sum(y * y)

    agree(monkeypatch, f, X)

    def g(x):
        s, t = x[0], x[0] * 2
        for i in range(150):
            s = s * 0.9 + x[i]
        if s > t:
            return s * 2
        for i in range(150):
            t = t * 0.9 + x[i]
        return t

    agree(monkeypatch, g, X)
    with_limits(monkeypatch, 200, 100)
    call = tapejit.value_and_grad(g)
    for x in (X, -X, X * 0.5, -X):  # two paths, of which one uses more of what the first loop made
        value, slope = call(x)
        plain = tapejit.value_and_grad(lambda x: g(x))
        with_limits(monkeypatch, sys.maxsize, 0)
        want, other = plain(x)
        with_limits(monkeypatch, 200, 100)
        assert_allclose(value, want, rtol=1e-13)
        assert_allclose(slope, other, rtol=1e-12)


def test_paths_that_use_other_values_of_a_loop_before_they_part(monkeypatch):
    def f(x):
        values, s = [], x[0]
        for i in range(200):
            s = s * 0.9 + np.sin(x[i])
            values.append(s)
        if values[-1] > 0:
            return values[3] * values[100]
        return np.sum(np.stack(values)) + values[7]

    with_limits(monkeypatch, 200, 100)
    call = tapejit.value_and_grad(f)
    for x in (X, -X, 0.3 * X, -0.2 * X, X):
        value, slope = call(x)
        assert_allclose(value, f(x), rtol=1e-12)
        step = 1e-6
        for i in (0, 5, 150):
            e = np.eye(len(x))[i] * step
            assert_allclose(slope[i], (f(x + e) - f(x - e)) / (2 * step), rtol=2e-5, atol=1e-8)
    assert call.cache_info().paths == 2


def test_tapes_within_see_every_node(monkeypatch):
    def f(x):
        s = x[0]
        for i in range(100):
            s = s * 0.9 + x[i]
        with tapejit.GradientTape() as tape:
            tape.watch(s)
            y = s
            for i in range(100):
                y = y * 0.9 + np.sin(s) * x[i]
        return tape.gradient(y, s) + y

    agree(monkeypatch, f, X)


def test_an_error_in_a_loop_leaves_nothing_behind(monkeypatch):
    with_limits(monkeypatch, 200, 100)

    @tapejit.grad
    def f(x, stop):
        s = x[0]
        for i in range(200):
            s = s * 0.9 + x[i]
            if i == stop:
                raise KeyError("stopped")
        return s * s

    with pytest.raises(KeyError, match="stopped"):
        f(X, 150)
    s = 0.9**200 * X[0] + sum([0.9 ** (199 - i) * X[i] for i in range(200)])
    assert_allclose(f(X, 250)[10], 2 * s * 0.9**189, rtol=1e-11)


def test_an_error_that_is_caught_in_a_loop_leaves_nothing_behind(monkeypatch):
    left = []
    tapejit.jit(lambda x: left.append(x * 2) or x)(1.0)

    def f(x):
        s, w = x[0], x[1]
        for i in range(200):
            c = s < 1.0
            if i == 150:
                with pytest.raises(tapejit.errors.LeakedArrayError):
                    np.where(c, i * 0.3, left[0])
            t = np.where(c, i * 0.3, w)
            s = 0.9 * s + t * 0.01
        return s

    agree(monkeypatch, f, X)


# ---- random programs -----------------------------------------------------------------------------------------------------
OPERANDS = [
    "a", "b", "c", "x[i]", "x[n - 1 - i]", "x[0]", "0.5", "ws[i]", "ks[i]", "old[-1]", "old[-2]", "other", "values[i]",
]  # fmt: skip
FORMS = [
    "{p} * 0.5 + {q} * {r} * 0.1", "np.sin({p}) - 0.3 * {q}", "{p} - {q} / (3.0 + {r} * {r})", "np.where({p} > {q}, {p}, {r})",
]  # fmt: skip
SPECIAL = ["b = a * c", "a, b = b, a", "old.append(c)"]


@st.composite
def programs(draw):
    operand = st.sampled_from(OPERANDS)
    lines = []
    for _ in range(draw(st.integers(2, 5))):
        form = draw(st.sampled_from(FORMS)).format(p=draw(operand), q=draw(operand), r=draw(operand))
        lines.append(f"{draw(st.sampled_from('abc'))} = {form}")
    lines.append("old.append(a)")
    if draw(st.booleans()):
        lines.append(f"if i in {draw(st.sets(st.integers(0, 70), max_size=4))}: {draw(st.sampled_from(SPECIAL))}")
    if draw(st.booleans()):
        lines.append(f"for j in range({draw(st.integers(1, 12))}): c = 0.9 * c + a * x[j]")
    return lines


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    programs(),
    st.sampled_from(["a", "a + b * c", "np.sum(np.stack(old[2:])) + c", "old[10] * old[-1]", "old[20] + old[40] * b"]),
    st.integers(40, 400),
    st.integers(1, 800),
    st.sampled_from([2, 3, 4]),
)
def test_random_loops(lines, result, first, worth, again):
    head = ["n, a, b, c, old, other = 70, x[1], x[2], 0.25, [x[3], x[4]], x[5] * x[6]"]
    head += ["values = [x[i] * other for i in range(n)]", "for i in range(n):"]
    text = "\n    ".join(["def f(x, ws, ks):", *head, *["    " + line for line in lines], f"return {result}"])
    scope = {"np": np, "tnp": tnp}
    exec(compile(text, "<random>", "exec"), scope)
    ws, ks = np.linspace(0, 1, 70).tolist(), [2.0 if i < 33 else -0.0 if i < 50 else 0.0 for i in range(70)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        agree(monkeypatch, lambda x: scope["f"](x, ws, ks), X[:70], first=first, worth=worth, again=again)
