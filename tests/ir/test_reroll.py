"""Loops of the user's code, recorded straight, folded into scans: the same values bit for bit, and the same gradients."""

import sys
import time

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tapejit
from tapejit import follow
from tapejit import numpy as tnp
from tapejit.ir.backward import backward
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.passes.reroll import reroll
from tapejit.ir.verify import verify
from tapejit.trace import trace


def rk4(state, rates, n):
    (x, y), (a, b, c, d), h = state, rates, 2.0 / n

    def f(x, y):
        return a * x - b * x * y, d * x * y - c * y

    for _ in range(n):
        k1 = f(x, y)
        k2 = f(x + 0.5 * h * k1[0], y + 0.5 * h * k1[1])
        k3 = f(x + 0.5 * h * k2[0], y + 0.5 * h * k2[1])
        k4 = f(x + h * k3[0], y + h * k3[1])
        x = x + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        y = y + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    return x * x + y


def rk4_of_arrays(y, rates, n):
    h = 2.0 / n

    def f(y):
        return np.stack([rates[0] * y[0] - rates[1] * y[0] * y[1], rates[3] * y[0] * y[1] - rates[2] * y[1]])

    for _ in range(n):
        k1 = f(y)
        k2 = f(y + 0.5 * h * k1)
        k3 = f(y + 0.5 * h * k2)
        k4 = f(y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return np.sum(y)


def sum_from_zero(x, n):
    total = 0.0
    for i in range(n):
        total = total + np.sin(x[i]) * x[i]
    return total


def backwards(x, n):
    s = x[0]
    for i in reversed(range(n)):
        s = 0.9 * s + x[i]
    return s


def every_other(x, n):
    s = x[0]
    for i in range(0, n - 1, 2):
        s = 0.9 * s + x[i] * x[i + 1]
    return s


def windows(x, n):
    s = x[0]
    for i in range(n - 3):
        s = 0.5 * s + np.sum(x[i : i + 3] * x[i + 1])
    return s


def diagonal(x, n):
    m, s = x.reshape(-1, 5), 0.0
    m = m[: n // 5] @ m[: n // 5].T
    for i in range(n // 5):
        s = s * 0.3 + m[i, i] + m[i, 0] * m[0, i] + np.sin(m[i, i] * 0.1) + 1.0 / (2.0 + m[i, i] ** 2)
    return s


def two_loops(x, n):
    s = x[0]
    for i in range(n):
        s = 0.9 * s + x[i]
    t = s
    for i in range(n):
        t = t - 0.01 * t * x[i] * s
    return t + s


def nested(x, n):
    s = 0.0
    for i in range(n):
        t = s
        for j in range(10):
            t = t * 0.9 + x[j] * 0.1
        s = s + t * x[i]
    return s


def triangle(x, n):
    s = 0.0
    for i in range(60):
        for j in range(i):
            s = s * 0.9 + x[j] * x[i] * 0.1
    return s + n * 0.0


def values_in_a_list(x, n):
    out, v = [], x[0]
    for i in range(n):
        v = v * 0.99 + np.sin(x[i]) * 0.1
        out.append(v)
    return np.sum(np.stack(out) ** 2) + out[3] * out[-2]


def rows_in_a_list(x, n):
    out, v = [], x[:3]
    for i in range(n - 3):
        v = v * 0.99 + x[i : i + 3] * 0.1
        out.append(v)
    return np.sum(np.stack(out, axis=1)[1] ** 2) + np.sum(np.concatenate(out))


def comprehension(x, n):
    return sum([x[i] * x[i] + np.cos(x[i]) for i in range(n)])


def floats(x, n):
    t, s = 0.0, x[0]
    for w in np.linspace(0, 1, n).tolist():
        s = s + (w - s * t) * 0.1
        t = t + 0.01
    return s


def fibonacci(x, n):
    a, b = x[0], x[1]
    for _ in range(n):
        a, b = b, 0.3 * a + 0.6 * b
    return a + b


def three_steps_back(x, n):
    ys = [x[0], x[1], x[2]]
    for i in range(n):
        ys.append(0.5 * ys[-1] - 0.2 * ys[-3] + 0.1 * x[i])
    return ys[-1] * ys[-2]


def filled(x, n):
    y = tnp.zeros(n)
    for i in range(1, n):
        y[i] = 0.5 * y[i - 1] + np.sin(x[i])
    return np.sum(y * y) + y[n // 2]


def filled_from_the_end(x, n):
    y = tnp.zeros((n, 2))
    y[n - 1] = x[:2]
    for i in range(n - 2, -1, -1):
        y[i] = 0.5 * y[i + 1] + x[i]
    return np.sum(y[0] * y[3])


def gauss_seidel(x, n):
    y = tnp.zeros(n) + x[:n]
    for i in range(1, n - 1):
        y[i] = 0.5 * (y[i - 1] + y[i + 1]) - 0.1 * x[i]
    return np.sum(y * y)


def horner(x, n):
    s = x[0] * 0.0
    for k in range(n):
        s = s * 0.5 + 1.0 / (k + 1)
    return s


def newton(x, n):
    y = x[0] + 10.0
    for _ in range(n):
        y = y - 0.05 * (y * y - 2.0) / (2.0 * y)
    return y


def guarded(x, n):
    s = x[0]
    for i in range(n):
        s = s * 1.001 + x[i] * 0.01
        if s > 1e6:
            return s * 2
    return s


def one_step_differs(x, n):
    s = x[0]
    for i in range(n):
        s = 0.9 * s + x[i]
        if i == n // 2:
            s = s * s
    return s


def one_operand_differs(x, n):
    s, t = x[0], x[1]
    for i in range(n):
        s = 0.9 * s + (t if i == n // 2 else s) * x[i]
    return s


def changing_roles(x, n):
    a, b = x[0], x[1]
    for i in range(n):
        a, b = (a + 0.1 * b, b) if i % 3 else (b, a * 0.5)
    return a + b


def kept_from_the_first(x, n):
    first, s = None, x[0]
    for i in range(n):
        s = 0.9 * s + x[i]
        if first is None:
            first = s
        s = s + 0.01 * first
    return s


def matrices(x, n):
    a = x[:9].reshape(3, 3) * 0.1
    h = x[:3]
    for _ in range(n):
        h = np.tanh(a @ h + 0.1)
    return np.sum(h)


def rows(x, n):
    h = x[:4] * 0.0
    for row in x[: 4 * (n // 4)].reshape(-1, 4):
        h = np.tanh(h * 0.5 + row) + np.sin(row) * np.cos(h) - 0.1 * h * row + np.exp(-h * h) * 0.01 * row
    return np.sum(h)


def arrays_and_numbers(x, n):
    v = x[:3]
    for c in [x[:3] if i % 2 else x[i] for i in range(n)]:
        v = v * 0.5 + np.sin(v) * c + 0.1 * v
    return np.sum(v)


def columns(x, n):
    y = tnp.zeros((n, 2))
    y[0] = x[:2]
    for i in range(n - 1):
        y[i + 1, 0] = y[i, 0] * 0.9 + 0.1 * y[i, 1]
        y[i + 1, 1] = y[i, 1] * 0.8 - 0.1 * np.sin(y[i, 0])
    return np.sum(y * y) + y[n // 2, 1]


def rows_of_stored_elements(x, n):
    y = tnp.zeros((n, 3))
    y[0] = x[:3]
    for i in range(n - 1):
        row = y[i] * 0.5 + 0.1 * np.sin(y[i][::-1])
        y[i + 1, 0] = row[0] - row[1]
        y[i + 1, 2] = row[2]
        y[i + 1, 1] = row[1] * row[0]
    return np.sum(y * y)


def elements_of_stored_rows(x, n):
    y = tnp.zeros((n, 2))
    y[0] = x[:2]
    for i in range(1, n):
        y[i] = y[i - 1] * 0.5 + y[i - 1, 0] * np.cos(y[i - 1, 1])
    return np.sum(y[3:] * y[:-3])


def two_arrays(x, n):
    y, z = tnp.zeros(n), tnp.zeros((2, n))
    for i in range(1, n):
        z[:, i] = y[i - 1] * 0.5 + x[i]
        y[i] = np.sin(z[0, i]) - z[1, i - 1]
    return np.sum(y * y) + np.sum(z[1] * y)


def even_and_odd(x, n):
    y = tnp.zeros(2 * n + 2)
    for i in range(n):
        y[2 * i + 1] = 0.5 * y[2 * i] + x[i]
        y[2 * i + 2] = 0.3 * y[2 * i + 1] - x[i]
    return np.sum(y * y)


def stored_twice(x, n):
    y = tnp.zeros(n + 1)
    for i in range(n):
        y[i] = y[i] * 0.5 + x[i]
        y[i + 1] = np.sin(y[i])
    return np.sum(y * y)


def strided_rows(x, n):
    y = tnp.zeros((n, 4)) + 0.1
    for i in range(1, n):
        y[i, ::2] = y[i - 1, 1::2] * 0.5 + x[i]
        y[i, 1] = np.sum(y[i]) * 0.1
    return np.sum(y * y)


def read_before_stored(x, n):
    y = tnp.zeros((n, 2)) + x[0]
    for i in range(n - 1):
        y[i, 0] = np.sum(y[i]) + y[i + 1, 1]
        y[i, 1] = np.sum(y[i + 1]) * 0.5 + y[i, 0] * 0.1
    return np.sum(y * y)


def table_of_sums(x, n):
    y = tnp.zeros((12, 12)) + x[0]
    for i in range(1, 12):
        for j in range(1, 12):
            y[i, j] = 0.5 * y[i - 1, j] + 0.3 * y[i, j - 1] - 0.1 * y[i - 1, j - 1] + x[i] * x[j]
    return np.sum(y * y)


def stored_into_the_same(x, n):
    total = 0.0
    for i in range(1, n):
        y = x.copy()
        y[i] = 0.5 * x[i - 1]
        total = total + np.sum(y * y) * 0.01
    return total


FOLDED = [
    sum_from_zero, backwards, every_other, windows, diagonal, two_loops, nested, values_in_a_list, rows_in_a_list,
    comprehension, floats, fibonacci, three_steps_back, filled, gauss_seidel, horner, newton, guarded, matrices, rows,
    arrays_and_numbers, columns, rows_of_stored_elements, elements_of_stored_rows, two_arrays, even_and_odd,
]  # fmt: skip
OTHERS = [
    triangle, filled_from_the_end, one_step_differs, one_operand_differs, changing_roles, kept_from_the_first, stored_twice,
    strided_rows, read_before_stored, table_of_sums, stored_into_the_same,
]  # fmt: skip


@pytest.fixture(autouse=True)
def straight(monkeypatch):
    """Nothing is folded before the pass is to."""
    monkeypatch.setattr(follow, "FIRST", sys.maxsize)


def recorded(function, *args):
    """(graph, its inputs)."""
    program, _ = trace(function, args, {})
    n = [i for i, a in enumerate(args) if not isinstance(a, int)]
    inputs = [np.asarray(args[i]) for i in n] + [np.asarray(a) for a in args if isinstance(a, int)]
    return program.graph, [*inputs, *[np.asarray(getattr(c, "_data", c)) for c in program.captures]]


def of(function, n=300):
    x = np.random.default_rng(3).normal(size=max(n, 300))
    return recorded(lambda x: function(x, n), x)


def agree(graph, inputs, folded):
    verify(folded)
    for got, want in zip(evaluate(folded, inputs), evaluate(graph, inputs), strict=True):
        assert_array_equal(got, want)
    for got, want in zip(evaluate(optimize(folded), inputs), evaluate(graph, inputs), strict=True):
        assert_allclose(got, want, rtol=1e-12)
    on = [a.dtype.kind == "f" for a in inputs]
    cts = [np.ones(r.shape) for r in graph.results]
    straight = evaluate(backward(graph, on), [*inputs, *cts])
    for got, want in zip(evaluate(backward(folded, on), [*inputs, *cts]), straight, strict=True):
        assert_allclose(got, want, rtol=1e-11, atol=1e-13 * np.max(np.abs(want), initial=1.0))


def loops(graph):
    return [n for n in graph.nodes if n.op.name == "scan"]


@pytest.mark.parametrize("function", FOLDED, ids=lambda f: f.__name__)
def test_loops_are_folded(function):
    graph, inputs = of(function)
    folded = reroll(graph)
    assert loops(folded)
    agree(graph, inputs, folded)
    longer = reroll(of(function, 600)[0])
    assert len(longer) == len(folded)
    assert [len(n.regions[0]) for n in loops(longer)] == [len(n.regions[0]) for n in loops(folded)]


@pytest.mark.parametrize("function", OTHERS, ids=lambda f: f.__name__)
def test_what_does_not_quite_repeat_is_right(function):
    graph, inputs = of(function)
    agree(graph, inputs, reroll(graph))


@pytest.mark.parametrize("function", [rk4, rk4_of_arrays])
def test_runge_kutta(function):
    args = np.array([1.0, 1.2]), np.array([1.5, 1.0, 3.0, 1.0])
    graph, inputs = recorded(lambda y, p: function(y, p, 100), *args)
    folded = reroll(graph)
    (loop,) = loops(folded)
    assert loop.attrs["length"] >= 99 and len(folded) < 200
    agree(graph, inputs, folded)


def test_loops_within_loops_are_folded_too():
    def f(x):
        s = x[0]
        for i in range(20):
            for j in range(60):
                s = s * 0.9 + x[j] * x[i]
            s = s + 1.0
        return s

    graph, inputs = recorded(f, np.random.default_rng(0).normal(size=60))
    folded = reroll(graph)
    inner = [n for loop in loops(folded) for n in loop.regions[0].nodes if n.op.name == "scan"]
    assert len(inner) == 1 and inner[0].attrs["length"] >= 59
    agree(graph, inputs, folded)


def test_the_time_step_in_floats_is_a_table():
    graph, inputs = of(floats)
    folded = reroll(graph)
    tables = [n for n in folded.nodes if n.op.name == "table"]
    assert tables and all([len(n.attrs["values"]) > 200 for n in tables])
    agree(graph, inputs, folded)


def test_tables_that_differ_in_the_signs_of_zeros_only():
    whole = [float(i % 3) for i in range(300)]
    signed = [w or -0.0 for w in whole]

    def f(x):
        s, t = 0.0, 0.0
        for w in whole:
            s = s + np.copysign(x[1], x[0] * w)
        for w in signed:
            t = t + np.copysign(x[1], x[0] * w)
        return s - t

    graph, inputs = recorded(f, np.array([1.0, 2.0]))
    assert len(loops(reroll(graph))) == 2
    agree(graph, inputs, reroll(graph))
    assert tapejit.jit(f)(inputs[0]) == 400.0  # 100 times 2 less -2


def test_a_guard_inside_holds_in_every_iteration():
    graph, inputs = of(guarded)
    folded = reroll(graph)
    (loop,) = loops(folded)
    assert "guard" in [n.op.name for n in loop.regions[0].nodes]
    with pytest.raises(GuardFailed):
        evaluate(folded, [inputs[0] * 1e9])


def test_small_programs_stay_as_they_are():
    graph, _ = of(horner, 40)
    assert reroll(graph) is graph


def test_time_is_linear():
    def cost(n):
        graph, _ = recorded(lambda x: newton(x, n), np.ones(1))
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            reroll(graph)
            best = min(best, time.process_time() - start)
        return best

    assert min([cost(40_000) / cost(10_000) for _ in range(3)]) < 7


# ---- random programs -----------------------------------------------------------------------------------------------------
@st.composite
def bodies(draw):
    """A loop body: a few statements on three variables, rows, indices and earlier values; sometimes one step is special."""
    lines = []
    operand = st.sampled_from(["a", "b", "c", "x[i]", "x[n - 1 - i]", "x[0]", "0.5", "ws[i]", "old[-1]", "old[-2]", "y[i]"])
    for _ in range(draw(st.integers(2, 5))):
        target = draw(st.sampled_from("abc"))
        p, q, r = draw(operand), draw(operand), draw(operand)
        op = draw(st.sampled_from(["{p} * 0.5 + {q} * {r} * 0.1", "np.sin({p}) - 0.3 * {q}", "{p} - {q} / (3.0 + {r} * {r})"]))
        lines.append(f"{target} = {op.format(p=p, q=q, r=r)}")
    if draw(st.booleans()):
        lines.append(f"y[i + 1] = {draw(st.sampled_from('abc'))}")
    lines.append("old.append(a)")
    if draw(st.booleans()):
        lines.append(f"if i == {draw(st.integers(0, 70))}: b = a * c")
    if draw(st.booleans()):
        lines.append("if c > 1e3: c = c * 0.5")
    return lines


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(bodies(), st.sampled_from(["a", "a + b * c", "np.sum(np.stack(old[2:])) + c", "old[10] * old[-1]", "np.sum(y)"]))
def test_random_loops(lines, result):
    head = ["n = 70", "a, b, c = x[1], x[2], 0.25", "old = [x[3], x[4]]", "y = tnp.zeros(n + 1)", "for i in range(n):"]
    text = "\n    ".join(["def f(x, ws):", *head, *["    " + line for line in lines], f"return {result}"])
    scope = {"np": np, "tnp": tnp}
    exec(compile(text, "<random>", "exec"), scope)
    x, ws = np.random.default_rng(0).normal(size=70), np.linspace(0, 1, 70).tolist()
    graph, inputs = recorded(lambda x: scope["f"](x, ws), x)
    agree(graph, inputs, reroll(graph))
    slope = tapejit.grad(lambda x: scope["f"](x, ws))(x)
    on = [True] + [False] * (len(inputs) - 1)
    want = evaluate(backward(graph, on), [*inputs, np.ones(())])[1]
    assert_allclose(slope, want, rtol=1e-9, atol=1e-11 * np.max(np.abs(want)))
