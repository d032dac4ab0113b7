"""Banded results made of their diagonals: equal to the dense computation, and sparse where they should be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapejit
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.passes import bands
from tapejit.ir.types import F64, tensor


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    monkeypatch.setattr(bands, "LEAST", 1)


def scattered(graph):
    return sum([n.op.name == "scatter" for n in graph.nodes])


def identity(b, n, m, offset=0):
    rows = b.reshape(b.iota(shape=(n,), dtype=np.dtype(np.int64)), shape=(n, 1))
    columns = b.reshape(b.iota(shape=(m,), dtype=np.dtype(np.int64)), shape=(1, m))
    return b.convert(b.eq(b.add(rows, offset), columns), dtype=F64)


@pytest.mark.parametrize("n,m", [(4, 4), (3, 7), (7, 3), (2, 20)])
@pytest.mark.parametrize("offset", [-5, -2, -1, 0, 1, 2, 30])
def test_shifted_identities(n, m, offset):
    b = Builder("f")
    x = b.param(tensor(F64, (m,)))
    graph = b.finish([b.mul(identity(b, n, m, offset), x)])
    x = np.arange(1.0, m + 1)
    np.testing.assert_array_equal(evaluate(bands.use_bands(graph), [x])[0], np.eye(n, m, offset) * x)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_programs_of_bands(data):
    n, m = data.draw(st.sampled_from([(12, 12), (9, 14), (14, 9)]))
    b = Builder("f")
    row, column, scalar = b.param(tensor(F64, (m,))), b.param(tensor(F64, (n, 1))), b.param(tensor(F64))
    made = [identity(b, n, m, data.draw(st.integers(-3, 3))), identity(b, n, m)]
    for _ in range(data.draw(st.integers(1, 8))):
        x, y = data.draw(st.sampled_from(made)), data.draw(st.sampled_from(made))
        match data.draw(st.integers(0, 7)):
            case 0:
                made.append(b.mul(x, data.draw(st.sampled_from([row, column, scalar, b.sin(row)]))))
            case 1:
                made.append(b.div(x, data.draw(st.sampled_from([row, column, scalar]))))
            case 2:
                made.append(b.add(x, y))
            case 3:
                made.append(b.sub(x, y))
            case 4:
                made.append(b.mul(x, y))
            case 5:
                cut = b.slice(x, start=(1, 2), stop=(n, m), step=(1, 1))
                made.append(b.pad(cut, low=(0, 1), high=(1, 1), interior=(0, 0)))
            case 6:
                made.append(b.neg(x))
            case 7:
                side = b.slice(b.transpose(x, perm=(1, 0)), start=(0, 0), stop=(min(n, m),) * 2, step=(1, 1))
                made.append(b.pad(side, low=(0, 0), high=(n - min(n, m), m - min(n, m)), interior=(0, 0)))
    graph = b.finish([made[-1], b.transpose(made[-1], perm=(1, 0))])
    rng = np.random.default_rng(0)
    args = [rng.uniform(0.5, 2.0, p.shape) for p in graph.params]
    for found, wanted in zip(evaluate(bands.use_bands(graph), args), evaluate(graph, args), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-14)


def heat(u):
    return (u[2:] - 2 * u[1:-1] + u[:-2]) * np.exp(-u[1:-1] ** 2)


def heat_jacobian(u):
    j, mid = np.zeros((len(u) - 2, len(u))), u[1:-1]
    e = np.exp(-(mid**2))
    i = np.arange(len(mid))
    j[i, i] = j[i, i + 2] = e
    j[i, i + 1] = e * (-2 - 2 * mid * (u[2:] - 2 * mid + u[:-2]))
    return j


def test_jacobian_of_a_stencil_has_three_diagonals():
    f = tapejit.jacobian(heat)
    u = np.linspace(-1.0, 1.0, 40)
    np.testing.assert_allclose(f(u), heat_jacobian(u), rtol=1e-13)
    assert f.ir(u).count(" = scatter ") == 3


def test_hessians_against_scipy_and_by_hand():
    from scipy.optimize import rosen_hess

    f = tapejit.hessian(lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))
    x = np.linspace(-2.0, 2.0, 50)
    np.testing.assert_allclose(f(x), rosen_hess(x), rtol=1e-12)
    assert f.ir(x).count(" = scatter ") == 3
    g = tapejit.hessian(lambda x: np.sum(np.sin(x) * x))
    np.testing.assert_allclose(g(x), np.diag(2 * np.cos(x) - x * np.sin(x)), rtol=1e-12, atol=1e-13)
    dense = tapejit.hessian(lambda x: np.sum(np.sin(x)) ** 2)
    c, s = np.cos(x), np.sin(x)
    np.testing.assert_allclose(dense(x), 2 * np.outer(c, c) - 2 * s.sum() * np.diag(s), rtol=1e-12, atol=1e-12)


def test_a_structural_zero_stays_zero():
    j = tapejit.jacobian(np.sqrt)(np.array([0.0, 1.0, 4.0, 9.0]))
    np.testing.assert_array_equal(j, np.diag([np.inf, 0.5, 0.25, 1 / 6]))


def test_a_matrix_of_many_diagonals_stays_dense():
    b = Builder("f")
    total = identity(b, 40, 40)
    for k in range(1, bands.MOST_DIAGONALS + 2):
        total = b.add(total, identity(b, 40, 40, k))
    graph = b.finish([total])
    assert not scattered(bands.use_bands(graph))
