"""Kernels over the same rows, tile by tile: which group, and that nothing changes in the numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapejit.codegen import blas, compile_graph, memory, pack, tile, unroll
from tapejit.codegen.compile import clear
from tapejit.codegen.loops import Call, Tiles
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.types import F32, F64, tensor


@pytest.fixture(autouse=True)
def always_tiles(monkeypatch):
    """Tiles of few rows for every group that is legal, so that small arrays show all there is."""
    clear()
    monkeypatch.setattr(tile, "SHARED_BYTES", 0)
    monkeypatch.setattr(tile, "TILE_BYTES", 0)
    monkeypatch.setattr(tile, "LEAST_ROWS", 8)
    monkeypatch.setattr(tile, "LEAST_EXTENT", 2)
    yield
    clear()


def tiles(executable):
    return [s for s in executable._steps if type(s) is Tiles]


def along(b, x, n):
    """A vector of row values stretched over rows of length n."""
    return b.broadcast(b.reshape(x, shape=(x.shape[0], 1)), shape=(x.shape[0], n))


def softmax(b, x):
    e = b.exp(b.sub(x, along(b, b.reduce_max(x, axes=(1,)), x.shape[1])))
    return b.div(e, along(b, b.reduce_sum(e, axes=(1,)), x.shape[1]))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 100])
@pytest.mark.parametrize("m", [2, 30])
def test_softmax(n, m, rng):
    b = Builder("f")
    x = b.param(tensor(F64, (n, m)))
    e = compile_graph(b.finish([softmax(b, x)]))
    x = rng.normal(size=(n, m)) * 10
    wanted = np.exp(x - x.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(e.run([x])[0], wanted, rtol=1e-14)
    if n >= 8 and m == 30:
        (step,) = tiles(e)
        assert len(step.windows) >= 2  # what lives for a row only needs no memory for all of them
        assert e.stats.arena_bytes < 64 * 8 * m * 8


def logistic_gradient(n, d, dtype=F64):
    b = Builder("f")
    w, x, y = b.param(tensor(dtype, (d,))), b.param(tensor(dtype, (n, d))), b.param(tensor(dtype, (n,)))
    z = b.dot(x, w, contract=((1,), (0,)), batch=((), ()))
    r = b.sub(b.logistic(z), y)
    loss = b.reduce_sum(b.mul(r, r), axes=(0,))
    return b.finish([loss, b.dot(r, x, contract=((0,), (0,)), batch=((), ())), b.reduce_max(z, axes=(0,))])


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("n,d", [(20, 3), (21, 40), (203, 100)])
def test_a_matrix_is_read_once_by_the_product_and_by_its_transpose(n, d, dtype, rng):
    graph = logistic_gradient(n, d, dtype)
    e = compile_graph(graph)
    args = [rng.normal(size=p.shape).astype(p.dtype) for p in graph.params]
    for found, wanted in zip(e.run(args), evaluate(graph, args)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5 if dtype == F32 else 1e-12, atol=1e-5 if dtype == F32 else 1e-12)
    for _ in range(3):  # folds start afresh at each call
        again = e.run(args)
    np.testing.assert_array_equal(again[1], e.run(args)[1])
    if d == 100:
        (step,) = tiles(e)
        x = next(b for b in step.buffers if b.type.shape == (n, d))
        assert sum(x in k.buffers for k in step.kernels) == 2


def test_what_meets_across_rows_is_not_grouped(rng):
    """A shifted read, a reversed one and a total read in the same rows would see what is not there yet."""
    b = Builder("f")
    x = b.param(tensor(F64, (64, 40)))
    s = b.cumsum(x, axis=1, reverse=False)
    up = b.slice(s, start=(1, 0), stop=(64, 40), step=(1, 1))
    down = b.flip(b.cumsum(s, axis=1, reverse=True), axes=(0,))
    total = b.reduce_sum(s, axes=(0,))
    shares = b.div(s, b.broadcast(b.reshape(total, shape=(1, 40)), shape=(64, 40)))
    graph = b.finish([b.cumsum(up, axis=1, reverse=False), b.sin(down), b.cumsum(shares, axis=1, reverse=False)])
    x = rng.normal(size=(64, 40))
    for found, wanted in zip(compile_graph(graph).run([x]), evaluate(graph, [x])):
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


UNARY = ["sin", "exp", "neg", "tanh"]


def always_pack(patch):
    patch.setattr(pack, "LONG", 2)
    patch.setattr(pack, "WORK", 0)
    patch.setattr(pack, "TINY", pack.SHORT)
    patch.setattr(pack, "ROWS", range(16, 7, -8))


@pytest.mark.parametrize("n", [8, 16, 40, 43])
def test_distances_to_centres_are_packed(n, rng, monkeypatch):
    """Rows run fastest: packed points, sums over short axes as whole vectors, one result unpacked, one summed over rows."""
    always_pack(monkeypatch)
    b = Builder("f")
    x, c = b.param(tensor(F64, (n, 3))), b.param(tensor(F64, (5, 3)))
    u = b.sub(b.broadcast(b.reshape(x, shape=(n, 1, 3)), shape=(n, 5, 3)), b.reshape(c, shape=(1, 5, 3)))
    d = b.sqrt(b.reduce_sum(b.mul(u, u), axes=(2,)))
    near = b.exp(b.neg(d))
    total = b.reduce_sum(near, axes=(1,))
    shares = b.div(near, along(b, total, 5))
    monkeypatch.setattr(unroll, "SMALL_AXIS", 0)
    e = compile_graph(b.finish([shares, b.reduce_sum(shares, axes=(0,)), total]))
    x, c = rng.normal(size=(n, 3)), rng.normal(size=(5, 3))
    near = np.exp(-np.sqrt(((x[:, None] - c) ** 2).sum(2)))
    wanted = near / near.sum(1, keepdims=True)
    for found, right in zip(e.run([x, c]), (wanted, wanted.sum(0), near.sum(1))):
        np.testing.assert_allclose(found, right, rtol=1e-13)
    (step,) = tiles(e)
    origins = [k.origin for k in step.kernels]
    assert origins[0] == "pack" and origins[-1] == "unpack" and {b.name for b in step.windows} >= {"in0.rows", "out0.rows"}


def always_library(patch):
    patch.setattr(blas, "SMALL_PRODUCT", 0)
    patch.setattr(blas, "SMALL_MATRIX", 0)
    patch.setattr(blas, "SHORT_ROW", (1, 1000))
    patch.setattr(unroll, "SMALL_AXIS", 0)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("n", [16, 43])
def test_library_products_run_tile_by_tile(n, order, packed, dtype, rng, monkeypatch):
    """Products along the rows, over them, and with a vector, in groups of blocks, wherever the rows are in memory."""
    k, d = 3, 5
    if packed:
        always_pack(monkeypatch)
    always_library(monkeypatch)
    b = Builder("f")
    shape = tuple(np.array((k, n, d))[list(order)])
    x = b.exp(b.transpose(b.param(tensor(dtype, shape)), perm=tuple(np.argsort(order))))  # [k, n, d]
    q, v = b.param(tensor(dtype, (k, d, d))), b.param(tensor(dtype, (d,)))
    y = b.sin(b.dot(x, q, contract=((2,), (2,)), batch=((0,), (0,))))
    shares = b.dot(y, v, contract=((2,), (0,)), batch=((), ()))  # [k, n]
    shares = b.div(b.exp(shares), b.reduce_sum(b.exp(shares), axes=(0,)))
    z = b.mul(y, b.reshape(shares, shape=(k, n, 1)))
    over = b.dot(x, z, contract=((1,), (1,)), batch=((0,), (0,)))
    weighted = b.dot(shares, x, contract=((1,), (1,)), batch=((0,), (0,)))
    e = compile_graph(b.finish([z, over, weighted]))
    args = [rng.normal(size=s).astype(dtype) for s in (shape, (k, d, d), (d,))]
    x, q, v = np.exp(args[0].transpose(np.argsort(order)).astype(F64)), *args[1:]
    y = np.sin(np.einsum("kni,kji->knj", x, q))
    shares = np.exp(y @ v) / np.exp(y @ v).sum(0)
    z = y * shares[:, :, None]
    wanted = z, np.einsum("kni,knj->kij", x, z), np.einsum("kn,kni->ki", shares, x)
    for found, right in zip(e.run(args), wanted):
        np.testing.assert_allclose(found, right, rtol=1e-12 if dtype == F64 else 2e-4, atol=1e-12 if dtype == F64 else 2e-4)
    inside = [k for step in tiles(e) for k in step.kernels if type(k) is Call]
    assert inside and e.stats.library_calls >= 3


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans(), st.booleans(), st.booleans())
def test_random_row_programs(data, packed, library, in_place):
    """Row reductions, column reductions, products, shifts and scans in any order equal the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        if packed:
            always_pack(patch)
        if library:
            always_library(patch)
        if in_place:
            patch.setattr(memory, "LARGE", 0)
        random_row_program(data)


def random_row_program(data):
    n, m = data.draw(st.sampled_from([(16, 20), (33, 17), (40, 5), (9, 64)]))
    b = Builder("f")
    full = [b.param(tensor(F64, (n, m))), b.param(tensor(F64, (n, m)))]
    rows, columns = [b.param(tensor(F64, (n,)))], [b.param(tensor(F64, (m,)))]
    squares = [b.param(tensor(F64, (m, m)))]
    for _ in range(data.draw(st.integers(3, 12))):
        x = data.draw(st.sampled_from(full))
        match data.draw(st.integers(0, 11)):
            case 0:
                rows.append(b.reduce_sum(x, axes=(1,)))
            case 1:
                rows.append(b.reduce_max(x, axes=(1,)))
            case 2:
                columns.append(b.reduce_sum(x, axes=(0,)))
            case 3:
                full.append(b.mul(x, b.tanh(along(b, data.draw(st.sampled_from(rows)), m))))
            case 4:
                c = data.draw(st.sampled_from(columns))
                full.append(b.add(x, b.sin(b.broadcast(b.reshape(c, shape=(1, m)), shape=(n, m)))))
            case 5:
                full.append(b.cumsum(x, axis=data.draw(st.integers(0, 1)), reverse=data.draw(st.booleans())))
            case 6:
                cut = b.slice(x, start=(1, 0), stop=(n, m), step=(1, 1))
                full.append(b.pad(cut, low=(0, 0), high=(1, 0), interior=(0, 0)))
            case 7:
                rows.append(b.dot(x, data.draw(st.sampled_from(columns)), contract=((1,), (0,)), batch=((), ())))
            case 8:
                columns.append(b.dot(data.draw(st.sampled_from(rows)), x, contract=((0,), (0,)), batch=((), ())))
            case 9:
                full.append(b.dot(x, data.draw(st.sampled_from(squares)), contract=((1,), (1,)), batch=((), ())))
            case 10:
                y = data.draw(st.sampled_from(full))
                squares.append(b.mul(b.dot(x, y, contract=((0,), (0,)), batch=((), ())), 1.0 / n))
            case 11:
                turned = b.dot(data.draw(st.sampled_from(squares)), x, contract=((1,), (1,)), batch=((), ()))
                full.append(b.transpose(turned, perm=(1, 0)))
        full.append(getattr(b, data.draw(st.sampled_from(UNARY)))(b.sin(full[-1])))
    graph = b.finish([full[-1], rows[-1], columns[-1], squares[-1], b.reduce_sum(full[-1], axes=(0, 1))])
    clear()
    rng = np.random.default_rng(1)
    args = [rng.normal(size=p.shape) for p in graph.params]
    for found, wanted in zip(compile_graph(graph).run(args), evaluate(graph, args)):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(wanted).max()))
