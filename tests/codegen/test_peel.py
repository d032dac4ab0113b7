"""Loops without their borders: the same numbers, no masks in the long loop, value and gradient in one sweep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapejit
from tapejit.codegen import compile_graph, peel
from tapejit.codegen.compile import clear
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.types import F32, F64, tensor


@pytest.fixture
def short(monkeypatch):
    """Short loops are peeled, too."""
    clear()
    monkeypatch.setattr(peel, "LONG", 2)
    yield
    clear()


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def by_hand(x):
    bend, rest, slope = x[1:] - x[:-1] ** 2, 1.0 - x[:-1], np.zeros_like(x)
    slope[:-1] = -400.0 * x[:-1] * bend - 2.0 * rest
    slope[1:] += 200.0 * bend
    return np.sum(100.0 * bend**2 + rest**2), slope


@pytest.mark.parametrize("n", [511, 512, 1000, 100_000])
def test_value_and_gradient_of_a_stencil_share_a_loop_without_masks(n, rng):
    f = tapejit.value_and_grad(rosenbrock)
    x = rng.normal(size=n)
    for found, wanted in zip(f(x), by_hand(x)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-10)
    longest = [k for k in f.ir(x, stage="kernels").split("\n\n") if f"in {n - 2}" in k]
    if n >= peel.LONG:
        (kernel,) = longest
        assert " if " not in kernel and "reduce_sum=" in kernel and "out1[" in kernel
    else:
        assert not longest


def test_ranges():
    at = lambda k, c=1: (k, ((0, c),))
    assert peel.ranges([((at(0), 999),), ((at(-1), 999),)], 1000) == [(1, 999), (0, 1), (999, 1000)]
    assert peel.ranges([((at(999, -1), 998),)], 1000) == [(2, 1000), (0, 2)]
    assert peel.ranges([((at(-500), 100),)], 1000) == []  # no range is the greater part
    assert peel.ranges([((at(0, 2), 900),)], 1000) == []  # steps of two are left alone
    assert peel.ranges([((at(0), 1000),)], 1000) == []


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_random_stencils(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peel, "LONG", 2)
        clear()
        n, dtype = data.draw(st.integers(3, 40)), data.draw(st.sampled_from([F64, F32]))
        b = Builder("f")
        full, sums = [b.param(tensor(dtype, (n,))), b.param(tensor(dtype, (n,)))], []
        for _ in range(data.draw(st.integers(1, 6))):
            x, low = data.draw(st.sampled_from(full)), data.draw(st.integers(0, 2))
            stop = n - data.draw(st.integers(0, min(2, n - low - 1)))
            part = b.sin(b.slice(x, start=(low,), stop=(stop,), step=(1,)))
            if data.draw(st.booleans()):
                part = b.flip(part, axes=(0,))
            if data.draw(st.booleans()):
                sums.append(getattr(b, data.draw(st.sampled_from(["reduce_sum", "reduce_max"])))(part, axes=(0,)))
            before = data.draw(st.integers(0, n - part.shape[0]))
            padded = b.pad(part, low=(before,), high=(n - part.shape[0] - before,), interior=(0,))
            full.append(b.add(padded, data.draw(st.sampled_from(full))))
        graph = b.finish([*full[2:], *sums])
        rng = np.random.default_rng(0)
        args = [rng.normal(size=n).astype(dtype) for _ in range(2)]
        for found, wanted in zip(compile_graph(graph).run(args), evaluate(graph, args), strict=True):
            np.testing.assert_allclose(
                found, wanted, rtol=1e-12 if dtype == F64 else 1e-5, atol=1e-12 if dtype == F64 else 1e-5
            )


def test_second_derivatives_of_short_stencils(short, rng):
    x = rng.normal(size=9)
    found = tapejit.hessian(rosenbrock)(x)
    diagonal = np.zeros(9)
    diagonal[:-1] = 1200.0 * x[:-1] ** 2 - 400.0 * x[1:] + 2.0
    diagonal[1:] += 200.0
    beside = -400.0 * x[:-1]
    np.testing.assert_allclose(found, np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1), rtol=1e-13, atol=1e-11)
