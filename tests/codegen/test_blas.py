"""Matrix products on BLAS: every layout that a flag and a leading dimension express, and those that need loops."""

import itertools

import numpy as np
import pytest

from tapejit.codegen import blas, compile_graph
from tapejit.codegen.compile import clear
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.types import F32, F64, I64, tensor


@pytest.fixture(autouse=True, params=["numpy", "scipy"])
def provider(request, monkeypatch):
    """Every test with the routines of either library."""
    found = getattr(blas, f"{request.param}_provider")()
    if found is None:
        pytest.skip("this NumPy was not built with its own OpenBLAS")
    clear()
    monkeypatch.setattr(blas, "provider", lambda: found)
    yield found
    clear()


def test_the_routines_take_integers_of_their_own_width(provider):
    b = Builder("f")
    x, y = b.param(tensor(F64, (30, 40))), b.param(tensor(F64, (40, 50)))
    text = compare(b.finish([b.dot(x, y, contract=((1,), (0,)), batch=((), ()))]), 1).llvm_text
    assert f"tapejit.{provider.integer}.dgemm" in text and f"store {provider.integer} 30" in text


def compare(graph, calls=None):
    rng = np.random.default_rng(0)
    args = [np.array(rng.integers(-5, 6, p.shape)).astype(p.dtype) for p in graph.params]
    executable = compile_graph(graph)
    for f, w in zip(executable.run(args), evaluate(graph, args), strict=True):
        np.testing.assert_array_equal(f, w)  # small integers: exact in any order
    if calls is not None:
        assert executable.stats.library_calls == calls
    return executable


@pytest.mark.parametrize("dtype", [F64, F32])
def test_transposition_flags(dtype):
    """Stored or used transposed on either side: never a copy."""
    for stored, used in itertools.product(itertools.product((False, True), repeat=2), repeat=2):
        b = Builder("f")
        x = b.param(tensor(dtype, (30, 40) if stored[0] == used[0] else (40, 30)))
        y = b.param(tensor(dtype, (40, 50) if stored[1] == used[1] else (50, 40)))
        x = b.transpose(x, perm=(1, 0)) if stored[0] else x
        y = b.transpose(y, perm=(1, 0)) if stored[1] else y
        e = compare(b.finish([b.dot(x, y, contract=((0,) if used[0] else (1,), (1,) if used[1] else (0,)),
                                    batch=((), ()))]), 1)  # fmt: skip
        assert len(e.stats.kernels) == 0


@pytest.mark.parametrize("left,right,lc,rc,lb,rb", [
    ((5, 30, 40), (5, 40, 20), (2,), (1,), (0,), (0,)),  # batch first
    ((30, 5, 40), (40, 20, 5), (2,), (0,), (1,), (2,)),  # unit stride in the batch axis: loops
    ((30, 5, 40), (5, 20, 40), (2,), (2,), (1,), (0,)),  # batch in the middle
    ((6, 30, 40), (40, 20), (2,), (0,), (), ()),  # free axes merge
    ((6, 30, 40), (6, 40, 20), (0, 2), (0, 1), (), ()),  # contraction over axes that do not merge
    ((30, 6, 40), (6, 40, 20), (1, 2), (0, 1), (), ()),  # and over those that do
    ((30, 40, 6), (40, 20), (1,), (0,), (), ()),  # free axes around the contracted one: a loop of products
    ((2, 3, 20, 30), (2, 3, 30, 40), (3,), (2,), (0, 1), (0, 1)),
    ((20, 30), (40, 3, 30), (1,), (2,), (), ()),
], ids=str)  # fmt: skip
def test_batches_and_many_axes(left, right, lc, rc, lb, rb):
    for dtype in (F64, I64):
        b = Builder("f")
        x, y = b.param(tensor(dtype, left)), b.param(tensor(dtype, right))
        compare(b.finish([b.dot(x, y, contract=(lc, rc), batch=(lb, rb))]))


def test_matrix_and_vector():
    """gemv on either side, on a matrix and its transpose, with a strided vector."""
    for transposed, vector_first in itertools.product((False, True), repeat=2):
        b = Builder("f")
        a = b.param(tensor(F64, (300, 400)))
        v = b.param(tensor(F64, (400 if transposed == vector_first else 300, 3)))
        column = b.reshape(b.slice(v, start=(0, 1), stop=(v.shape[0], 2), step=(1, 1)), shape=(v.shape[0],))
        m = b.transpose(a, perm=(1, 0)) if transposed else a
        axis = 0 if transposed != (transposed == vector_first) else 1
        if m.shape[axis] != v.shape[0]:
            axis = 1 - axis
        out = (
            b.dot(column, m, contract=((0,), (axis,)), batch=((), ()))
            if vector_first
            else b.dot(m, column, contract=((axis,), (0,)), batch=((), ()))
        )
        compare(b.finish([out]), 1)


def test_slices_are_views():
    b = Builder("f")
    x, y = b.param(tensor(F64, (50, 60))), b.param(tensor(F64, (70, 30)))
    rows = b.slice(x, start=(3, 10), stop=(43, 50), step=(1, 1))
    columns = b.slice(y, start=(5, 2), stop=(45, 28), step=(1, 1))
    e = compare(b.finish([b.dot(rows, columns, contract=((1,), (0,)), batch=((), ()))]), 1)
    assert not e.stats.kernels and e.stats.arena_bytes == 64


def test_small_integer_and_degenerate_products_are_loops():
    b = Builder("f")
    x, y = b.param(tensor(F64, (4, 5))), b.param(tensor(F64, (5, 6)))
    i, j = b.param(tensor(I64, (40, 50))), b.param(tensor(I64, (50, 60)))
    u, v = b.param(tensor(F64, (2000,))), b.param(tensor(F64, (2000,)))
    compare(b.finish([b.dot(p, q, contract=((p.ndim - 1,), (0,)), batch=((), ())) for p, q in ((x, y), (i, j), (u, v))]), 0)


def test_computed_and_stretched_operands():
    b = Builder("f")
    x, y = b.param(tensor(F64, (40, 50))), b.param(tensor(F64, (60,)))
    stretched = b.broadcast(y, shape=(50, 60))
    compare(b.finish([b.dot(b.neg(x), stretched, contract=((1,), (0,)), batch=((), ()))]), 1)
    compare(b.finish([b.dot(b.flip(x, axes=(1,)), stretched, contract=((1,), (0,)), batch=((), ()))]))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_products_with_the_own_transpose(dtype):
    """One triangle is computed and mirrored; not where rows are few or the two operands are different windows."""
    for shape, axis in (((70, 90), 0), ((70, 90), 1), ((300, 64), 0)):
        b = Builder("f")
        x = b.param(tensor(dtype, shape))
        e = compare(b.finish([b.dot(x, x, contract=((axis,), (axis,)), batch=((), ()))]), 1)
        assert "call syrk" in e.kernels_text
    b = Builder("f")
    x = b.param(tensor(dtype, (3, 70, 90)))
    e = compare(b.finish([b.dot(x, x, contract=((1,), (1,)), batch=((0,), (0,)))]), 1)
    assert "call syrk" in e.kernels_text
    b = Builder("f")
    x = b.param(tensor(dtype, (70, 90)))
    y = b.slice(x, start=(0, 0), stop=(70, 60), step=(1, 1))
    z = b.slice(x, start=(0, 30), stop=(70, 90), step=(1, 1))
    few = b.slice(x, start=(0, 0), stop=(20, 90), step=(1, 1))
    inner = {"contract": ((1,), (1,)), "batch": ((), ())}
    e = compare(b.finish([b.dot(y, y, **inner), b.dot(y, z, **inner), b.dot(few, few, **inner)]), 3)
    assert e.kernels_text.count("call syrk") == 1
