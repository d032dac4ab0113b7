"""An adaptive integrator with rejected steps, and random programs of loops and branches, as plain Python has them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from tapejit import grad, jacobian, value_and_grad

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "lynx.py"
spec = importlib.util.spec_from_file_location("lynx", SOURCE)
lynx = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lynx)

RATES, START = (0.55, 0.028, 0.8, 0.024), (3.5, 1.8)


def years(p, year, count=3):
    """log hares and log lynxes after some years; p: rates, then initial states."""
    y, h = (p[4], p[5]), 0.1
    for _ in range(count):
        y, h = year(y, h, (p[0], p[1], p[2], p[3]))
    return np.stack(y)


def reference(p, count=3):
    """(states, their derivatives by p) from the variational equations, by another method at a tight tolerance."""
    def right(t, z):
        (u, v), s = z[:2], z[2:].reshape(2, 6)
        a, b, c, d = p[:4]
        jacobian = np.array([[0.0, -b * np.exp(v)], [d * np.exp(u), 0.0]])
        direct = np.zeros((2, 6))
        direct[0, :2] = 1.0, -np.exp(v)
        direct[1, 2:4] = -1.0, np.exp(u)
        return np.concatenate([[a - b * np.exp(v), d * np.exp(u) - c], (jacobian @ s + direct).reshape(-1)])

    z = np.zeros(14)
    z[:2] = p[4:]
    z[2:].reshape(2, 6)[:, 4:] = np.eye(2)
    out = solve_ivp(right, (0, count), z, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return out[:2], out[2:].reshape(2, 6)


@pytest.mark.parametrize("year", [lynx.year_in_python, lynx.year_compiled])
def test_an_adaptive_integrator_against_another_one(year):
    p = np.array([*RATES, *START])
    states, slopes = reference(p)
    assert_allclose(years(p, lynx.year_in_python), states, rtol=1e-7)
    f = jacobian(lambda p: years(p, year))
    assert_allclose(f(p), slopes, rtol=1e-5, atol=1e-5)
    g = value_and_grad(lambda p: np.sum(years(p, year) ** 2))
    for moved in (p, p * 1.05, p * 0.9, p * 1.001):
        states, slopes = reference(moved)
        value, slope = g(moved)
        assert_allclose(value, np.sum(states**2), rtol=1e-7)
        assert_allclose(slope, 2 * states @ slopes, rtol=1e-5)


# ---- random programs -----------------------------------------------------------------------------------------------------
TERMS = st.sampled_from(["a", "b", "x[i % 4]", "x[0]", "0.5", "np.sin(a)", "a * b", "np.abs(b)", "np.maximum(a, b)"])
TESTS = st.sampled_from(["a > b", "b > 0.3", "a * b < 0.5 and x[1] > 0", "x[2] > 1 or not a > 0", "i % 3 == 1", "0.1 < a < 1"])


@st.composite
def blocks(draw, depth=2):
    """Lines of a program on two numbers a and b, an index i and an array x."""
    lines = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["set", "set", "if", "for", "while", "leave"] if depth else ["set"]))
        p, q = draw(TERMS), draw(TERMS)
        if kind == "set":
            lines.append(f"{draw(st.sampled_from('ab'))} = 0.6 * {p} + 0.3 * {q} / (1.0 + b * b)")
        elif kind == "leave":
            lines += [f"if {draw(TESTS)}:", "    break" if depth < 2 else f"    return {p} + {q}"]
        elif kind == "if":
            lines += [f"if {draw(TESTS)}:", *_inside(draw(blocks(depth - 1)))]
            lines += ["else:", *_inside(draw(blocks(depth - 1)))]
        elif kind == "for":
            lines += [f"for i in range({draw(st.integers(0, 3))}):", *_inside(draw(blocks(depth - 1)))]
        else:
            body = draw(blocks(depth - 1))
            n = f"n{depth}"  # one each: an inner loop must not set back an outer one
            lines += [f"{n} = 0", f"while {n} < 3 and {draw(TESTS)}:", f"    {n} += 1", *_inside(body)]
    return lines


def _inside(lines):
    return ["    " + line for line in lines]


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(blocks(), st.integers(0, 1000))
def test_random_programs(lines, seed):
    check(lines, seed)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(blocks(), st.integers(0, 1000))
def test_many_random_programs(lines, seed):
    check(lines, seed)


def check(lines, seed):
    """Value, gradient and a second derivative against Python and differences, at four points."""
    text = "\n    ".join(["def f(x):", "i = 0", "a, b = x[2], x[3] * 0.5", *_loops_only(lines), "return a * 1.3 + b * b"])
    scope = {"np": np}
    exec(compile(text, "<random>", "exec"), scope)
    f, g = scope["f"], value_and_grad(scope["f"])
    rng = np.random.default_rng(seed)
    for turn in range(4):
        x = rng.normal(size=4)
        value, slope = g(x)
        assert_allclose(value, f(x), rtol=1e-12, atol=1e-12)
        step, want, jumps = 1e-5, np.empty(4), False
        for k, d in enumerate(np.eye(4) * step):
            near = [f(x + m * d) for m in (-2, -1, 0, 1, 2)]
            want[k] = (8 * (near[3] - near[1]) - (near[4] - near[0])) / (12 * step)
            jumps |= abs(near[4] - 2 * near[2] + near[0]) > 1e-7 or abs(near[3] - 2 * near[2] + near[1]) > 1e-7
        if not jumps:  # at a border between two paths a difference says nothing
            assert_allclose(slope, want, rtol=1e-6, atol=1e-7)
        if not jumps and turn == 0:
            assert_allclose(grad(lambda x: np.sum(grad(f)(x)))(x), _second(g, x), rtol=1e-4, atol=1e-4)


def _second(slope, x, step=1e-5):
    return np.array([np.sum(slope(x + d)[1] - slope(x - d)[1]) / (2 * step) for d in np.eye(4) * step])


def _loops_only(lines, loop=False):
    """The lines with `break` outside of loops replaced."""
    out = []
    depth = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        while depth and depth[-1] >= indent:
            depth.pop()
        word = line.strip()
        if word.startswith(("for", "while")):
            depth.append(indent)
        out.append(" " * indent + "pass" if word == "break" and not depth else line)
    return out
