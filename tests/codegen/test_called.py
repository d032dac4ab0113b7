"""Long programs: vector math that is called, not inlined; kernels that are called with tables of addresses."""

import mpmath
import numpy as np
import pytest

from tapejit.codegen import compile_graph, emit
from tapejit.codegen.vecmath import called
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.types import F32, F64, tensor

UNARY = ("exp", "log", "sin", "cos", "tanh", "erf", "lgamma", "digamma")
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e300, -1e300, 1e22, 0.5, 710.0, -746.0]


def program(dtype, n, more=()):
    """The functions of one parameter, and further results to make another graph of it."""
    b = Builder("f", simplify=False)
    x = b.param(tensor(dtype, (n,)))
    return b.finish([*[getattr(b, name)(x) for name in UNARY], *[b.constant(k, dtype) for k in more]])


@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
@pytest.mark.parametrize("n", [2, 7, 8, 10, 37, 1000])
def test_called_functions_give_the_same_numbers_as_inlined_ones(dtype, n, monkeypatch):
    rng = np.random.default_rng(n)
    x = np.concatenate([SPECIAL, rng.normal(size=n) * 10.0 ** rng.integers(-3, 4, n)])[-n:].astype(dtype)
    with np.errstate(over="ignore"):
        x[: min(n, len(SPECIAL))] = np.array(SPECIAL[:n]).astype(dtype)
    inlined = compile_graph(program(dtype, n)).run([x])
    monkeypatch.setattr(emit, "INLINED_MATH", 0)
    made = compile_graph(program(dtype, n, [1.0]))
    assert called.SUFFIX in made.llvm_text
    for a, b in zip(inlined, made.run([x])):
        np.testing.assert_array_equal(a, b)


def test_many_sines_against_mpmath():
    """More than are inlined; huge arguments among them leave the fast path of the called function."""
    b = Builder("f")
    x = b.param(tensor(F64, (19,)))
    factors = [float(k) for k in range(1, 40)]
    made = compile_graph(b.finish([b.sin(b.mul(x, k)) for k in factors]))
    assert called.SUFFIX in made.llvm_text
    u = np.linspace(-1e6, 1e9, 19)
    u[[3, 18]] = 1e22, np.inf
    for k, found in zip(factors, made.run([u])):
        wanted = [mpmath.sin(v) for v in map(mpmath.mpf, u[:18] * k)]
        error = [abs(mpmath.mpf(f) - w) for f, w in zip(found, wanted)]
        assert all(e <= np.spacing(abs(float(w))) for e, w in zip(error, wanted)) and np.isnan(found[18])


def test_two_arguments(monkeypatch):
    monkeypatch.setattr(emit, "INLINED_MATH", 0)
    b = Builder("f")
    x, y = b.param(tensor(F64, (21,))), b.param(tensor(F64, (21,)))
    made = compile_graph(b.finish([b.pow(x, y), b.atan2(x, y)]))
    assert called.SUFFIX in made.llvm_text
    rng = np.random.default_rng(3)
    u, v = rng.uniform(0.1, 9, 21), rng.normal(size=21) * 5
    power, angle = made.run([u, v])
    np.testing.assert_allclose(power, u**v, rtol=1e-15)
    np.testing.assert_allclose(angle, np.arctan2(u, v), rtol=1e-15)


@pytest.mark.parametrize("n", [10, 1025])
def test_kernels_called_with_tables(n):
    """A long recorded loop: equal kernels over the arena, the parameters and the results."""
    b = Builder("f")
    x, c = b.param(tensor(F64, (n,))), b.param(tensor(F64, (n,)))
    y, kept = x, []
    for k in range(900):
        y = b.add(b.mul(y, c), x)
        if k % 100 == 0:
            kept.append(y)
    made = compile_graph(b.finish([y, *kept]))
    if n == 10:
        assert "@table.0 = " in made.llvm_text and len({k["name"] for k in made.stats.kernels}) < len(made.stats.kernels) / 2
    u, w = np.linspace(-1, 1, n), np.linspace(0.5, 0.99, n)
    found = made.run([u, w])
    value, wanted = u, []
    for k in range(900):
        value = value * w + u
        if k % 100 == 0:
            wanted.append(value)
    for f, v in zip(found, [value, *wanted]):
        np.testing.assert_allclose(f, v, rtol=1e-13, atol=1e-13)
