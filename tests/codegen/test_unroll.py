"""Small axes unrolled into registers: what it does to the kernels, and equality with NumPy on all shapes around its limits."""

import numpy as np
import pytest

from tapejit.codegen import compile_graph, unroll
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.types import F64, tensor


def distances(n, d):
    """Per row the distance to a centre, summed: two reductions over different axes."""
    b = Builder("f")
    x, c = b.param(tensor(F64, (n, d))), b.param(tensor(F64, (d,)))
    u = b.sub(x, b.broadcast(b.reshape(c, shape=(1, d)), shape=(n, d)))
    near = b.sqrt(b.reduce_sum(b.mul(u, u), axes=(1,)))
    return b.finish([b.reduce_sum(near, axes=(0,)), b.reduce_sum(u, axes=(0,)), b.reduce_max(u, axes=(1,))])


def numpy_distances(x, c):
    u = x - c
    return np.sqrt((u * u).sum(1)).sum(), u.sum(0), u.max(1, initial=-np.inf)


@pytest.mark.parametrize("n", [1, 2, unroll.LONG - 1, unroll.LONG, 1000])
@pytest.mark.parametrize("d", [1, 2, 3, unroll.SMALL_AXIS, unroll.SMALL_AXIS + 1])
def test_values_around_the_limits(n, d, rng):
    x, c = rng.normal(size=(n, d)), rng.normal(size=d)
    for found, wanted in zip(compile_graph(distances(n, d)).run([x, c]), numpy_distances(x, c)):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-11)


def test_rows_of_three_are_one_vectorized_loop_without_temporaries(rng):
    e = compile_graph(distances(1000, 3))
    assert [k["loops"] for k in e.stats.kernels] == [[1000]]
    assert e.stats.arena_bytes == 64
    assert "x double>" in e.optimized_llvm_text()


@pytest.mark.parametrize("m,k,n", [(100, 3, 4), (4, 100, 3), (3, 4, 100), (100, 16, 16), (16, 100, 16)])
def test_products_with_small_axes(m, k, n, rng):
    b = Builder("f")
    x, y = b.param(tensor(F64, (m, k))), b.param(tensor(F64, (k, n)))
    z = b.dot(x, y, contract=((1,), (0,)), batch=((), ()))
    e = compile_graph(b.finish([b.tanh(z), b.reduce_sum(z, axes=(1,)), b.reduce_min(z, axes=(0,))]))
    p, q = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    r = p @ q
    for found, wanted in zip(e.run([p, q]), (np.tanh(r), r.sum(1), r.min(0))):
        np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-12)


def test_running_folds_and_arg_reductions_stay_loops(rng):
    b = Builder("f")
    x = b.param(tensor(F64, (200, 4)))
    s = b.cumsum(x, axis=1, reverse=False)
    out = [b.argmax(s, axis=1), b.reduce_sum(s, axes=(1,)), b.pad(s, low=(0, 1), high=(1, 0), interior=(0, 1))]
    x = rng.normal(size=(200, 4))
    best, total, padded = compile_graph(b.finish(out)).run([x])
    s = np.cumsum(x, axis=1)
    wanted = np.zeros((201, 8))
    wanted[:200, 1::2] = s
    np.testing.assert_array_equal(best, s.argmax(1))
    np.testing.assert_allclose(total, s.sum(1), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(padded, wanted, rtol=1e-14)


def test_nan_and_infinity_pass_through(rng):
    x, c = rng.normal(size=(100, 3)), rng.normal(size=3)
    x[5, 1], x[7, 2] = np.nan, np.inf
    found = compile_graph(distances(100, 3)).run([x, c])
    wanted = numpy_distances(x, c)
    assert np.isnan(found[0]) and np.isnan(found[2][5]) and found[2][7] == np.inf
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-13)
