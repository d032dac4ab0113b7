"""Native code of scan, while and switch: in registers, through memory, nested, with guards; against the interpreter."""

import numpy as np
import pytest
from loop_programs import PROGRAMS, S, V, arrays, body_of, floats, program
from numpy.testing import assert_allclose, assert_array_equal
from support import random_like

from tapejit.codegen import compile_graph
from tapejit.codegen.entry import GuardExit
from tapejit.ir.backward import backward
from tapejit.ir.batch import batch
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.linearize import linearize
from tapejit.ir.op import TABLE
from tapejit.ir.ops.loop import apply_scan
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.types import BOOL, F32, F64, I64, tensor


def agree(graph, args, rtol=1e-12):
    """Compiled and interpreted are the same, twice (what an arena held before does not matter)."""
    code, args = compile_graph(graph), [np.require(a, requirements="CA").reshape(np.shape(a)) for a in arrays(args)]
    want = evaluate(graph, args)
    for _ in range(2):
        for got, w in zip(code.run(args), want, strict=True):
            assert got.dtype == w.dtype and got.shape == w.shape
            assert_allclose(got, w, rtol=rtol, atol=rtol)
    return code


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_and_their_derivatives(name):
    graph, args, _ = PROGRAMS[name]
    args = arrays(args)
    for g in (graph, optimize(graph)):
        agree(g, args)
    vjp = backward(graph, floats(args))
    inputs = [*args, *random_like(evaluate(graph, args))]
    agree(vjp, inputs)
    agree(optimize(vjp), inputs)
    second = optimize(linearize(optimize(vjp, differentiate_later=True), floats(inputs)))
    agree(second, [*inputs, *random_like(inputs, seed=2)], 1e-10)


@pytest.mark.parametrize("name", PROGRAMS)
def test_lanes(name):
    graph, args, _ = PROGRAMS[name]
    args = arrays(args)
    lanes, _ = batch(graph, [True] * len(args), 5, all_results=True)
    stacks = [np.stack([a * (1 + 0.1 * k) if a.dtype.kind == "f" else a - k // 2 for k in range(5)]) for a in args]
    agree(optimize(lanes), [s.astype(a.dtype) for s, a in zip(stacks, args)])


def test_a_scalar_loop_is_one_kernel_of_constant_size():
    def code(length):
        body = body_of([S, S, S], lambda b, x, v, k: [b.add(x, v), b.mul(b.sub(v, b.mul(k, b.sin(x))), 0.9)])
        graph = program([S, S, S], lambda b, x, v, k: apply_scan(b, body, [], [x, v], [], [k], length))
        return agree(graph, [0.1, 0.2, 0.3])

    short, long = code(10), code(5000)
    assert [k["loops"] for k in long.stats.kernels] == [[5000]]
    assert len(long.llvm_text.splitlines()) == len(short.llvm_text.splitlines())
    assert long.llvm_text.count("@llvm.memcpy") == 0


def test_small_arrays_of_a_body_are_scalars():
    def make(b, y, a):
        x, v = b.slice(y, start=(0,), stop=(1,), step=(1,)), b.slice(y, start=(1,), stop=(3,), step=(1,))
        z = b.dot(a, y, contract=((1,), (0,)), batch=((), ()))
        w = b.concatenate(b.mul(x, 0.5), b.flip(v, axes=(0,)), axis=0)
        return [b.add(b.mul(z, 0.1), w), b.reduce_max(z, axes=(0,)), b.gt(z, w)]

    body = body_of([V, tensor(F64, (3, 3))], make)
    graph = program([V, tensor(F64, (3, 3))], lambda b, y, a: apply_scan(b, body, [], [y], [], [a], 6))
    code = agree(graph, [np.array([0.3, -0.7, 1.1]), np.linspace(-1, 1, 9).reshape(3, 3)])
    assert len(code.stats.kernels) == 1


@pytest.mark.parametrize("dtype", [F64, F32, I64])
def test_large_carries_rows_and_stacks_go_through_memory(dtype):
    row = tensor(dtype, (300,))

    def make(b, y, x, a):
        z = b.add(b.mul(y, a), x)
        return [b.flip(z, axes=(0,)), b.reduce_sum(z, axes=(0,)), b.sub(z, y)]

    body = body_of([row, row, tensor(dtype)], make)
    types = [row, tensor(dtype, (8, 300)), tensor(dtype)]
    for reverse in (False, True):
        graph = program(types, lambda b, y, x, a: apply_scan(b, body, [], [y], [x], [a], 8, reverse))  # noqa: B023
        rng = np.random.default_rng(0)
        args = [np.asarray(rng.normal(size=t.shape) * 3, dtype) for t in types]
        agree(graph, args, 1e-4 if dtype == F32 else 1e-12)


def test_carries_may_change_places_and_be_constants():
    body = body_of([S, S, V, tensor(BOOL)], lambda b, x, y, v, f: [y, x, b.add(v, x), b.not_(f)])
    types = [S, S, V, tensor(BOOL)]
    for n in (1, 4, 5):
        graph = program(types, lambda b, *xs: apply_scan(b, body, [], xs, [], [], n))  # noqa: B023
        agree(graph, [1.0, 2.0, np.arange(3.0), np.True_])
    big = tensor(F64, (40,))
    body = body_of([big, big, S], lambda b, x, y, s: [y, x, b.constant(2.5, F64)])
    agree(program([big, big, S], lambda b, *xs: apply_scan(b, body, [], xs, [], [], 3)), [np.ones(40), np.zeros(40), 1.0])


def test_numbers_in_another_shape_as_inits():
    one = tensor(F64, (1,))
    body = body_of([one], lambda b, x: [b.mul(b.sin(x), 1.5)])
    graph = program([], lambda b: apply_scan(b, body, [], [b.reshape(b.constant(0.5, F64), shape=(1,))], [], [], 9))
    agree(graph, [])


def test_constants_as_inits_and_rows_used_twice():
    body = body_of([S, S, S], lambda b, s, x, y: [b.add(s, b.mul(x, y)), s])
    n = tensor(F64, (6,))
    graph = program([n], lambda b, x: apply_scan(b, body, [], [b.constant(0.5, F64)], [x, x], [], 6))
    agree(graph, [np.arange(6.0)])


def test_a_table_is_read_at_run_time_indices():
    table = tensor(F64, (10,))

    def make(b, i, t):
        x = b.gather(t, i)
        return [b.remainder(b.add(i, 3), 10), x]

    body = body_of([tensor(I64), table], make)
    graph = program([table], lambda b, t: apply_scan(b, body, [], [b.constant(1, I64)], [], [t], 7))
    agree(graph, [np.arange(10.0) ** 2])


def guarded(length):
    def make(b, s, x):
        s = b.add(s, x)
        b.apply(TABLE["guard"], [b.lt(s, 10.0)], {"seen": True})
        return [s, b.mul(s, 2.0)]

    body = body_of([S, S], make)

    def outer(b, s, x):
        b.apply(TABLE["guard"], [b.gt(s, -5.0)], {"seen": True})
        out = apply_scan(b, body, [], [s], [x], [], length)
        b.apply(TABLE["guard"], [b.lt(out[0], 9.0)], {"seen": True})
        return out

    return program([S, tensor(F64, (length,))], outer)


@pytest.mark.parametrize(
    "start, step, index", [(0.0, 1.0, None), (-6.0, 1.0, 0), (0.0, 4.0, 1), (9.9, 0.1, 1), (1.0, 1.7, 2)]
)
def test_guards_inside_loops_leave_the_program(start, step, index):
    graph = guarded(5)
    args = [np.asarray(start), np.full(5, step)]
    for g in (graph, optimize(graph)):
        found = compile_graph(g).run(args)
        if index is None:
            agree(g, args)
        else:
            assert found == GuardExit(index, False)
            with pytest.raises(GuardFailed):
                evaluate(g, args)


def test_guards_in_a_branch_and_after_it():
    def inside(b, x):
        b.apply(TABLE["guard"], [b.lt(x, 3.0)], {"seen": True})
        return [b.mul(x, x)]

    regions = (body_of([S], inside), body_of([S], lambda b, x: [b.neg(x)]))

    def outer(b, i, x):
        (y,) = b.apply(TABLE["switch"], [i, x], {}, regions)
        b.apply(TABLE["guard"], [b.gt(y, -10.0)], {"seen": True})
        return [y]

    code = compile_graph(program([tensor(I64), S], outer))

    def run(i, x):
        return code.run([np.asarray(i), np.asarray(x)])

    assert run(0, 2.0)[0] == 4.0 and run(1, 5.0)[0] == -5.0
    assert run(0, 4.0) == GuardExit(0, False) and run(1, 11.0) == GuardExit(1, False)


def test_only_the_branch_taken_is_run():
    """The other one would not end."""
    step = body_of([S], lambda b, x: [b.add(x, 1.0)])
    forever = body_of([S], lambda b, x: [b.lt(x, np.inf)])
    never = body_of([S], lambda b, x: b.apply(TABLE["while"], [x], {"carries": 1, "capacity": 8}, (forever, step))[:1])
    regions = (body_of([S], lambda b, x: [b.mul(x, 2.0)]), never)
    graph = program([tensor(I64), S], lambda b, i, x: b.apply(TABLE["switch"], [i, x], {}, regions))
    agree(graph, [np.int64(0), 3.0])


def test_loops_run_kernels_in_parallel_and_library_products():
    n = 600
    square, row = tensor(F64, (n, n)), tensor(F64, (n,))
    body = body_of([row, square], lambda b, y, a: [b.tanh(b.dot(a, y, contract=((1,), (0,)), batch=((), ())))])
    graph = program([row, square], lambda b, y, a: apply_scan(b, body, [], [y], [], [a], 4))
    rng = np.random.default_rng(0)
    agree(graph, [rng.normal(size=n), rng.normal(size=(n, n)) / n**0.5], 1e-9)
    wide = tensor(F64, (400_000,))
    body = body_of([wide], lambda b, y: [b.sin(b.exp(b.mul(y, 0.5)))])
    code = agree(program([wide], lambda b, y: apply_scan(b, body, [], [y], [], [], 3)), [rng.normal(size=400_000)])
    assert code.stats.parallel == 1


def test_dumps_show_loops():
    graph, _, _ = PROGRAMS["nested"]
    text = compile_graph(optimize(graph)).kernels_text
    assert "scan(" in text and "length=4" in text and "program." in text
    graph, _, _ = PROGRAMS["while"]
    text = compile_graph(optimize(graph)).kernels_text
    assert "leave unless" in text and "c0.0 =" in text


def test_the_count_is_clamped():
    graph, args, _ = PROGRAMS["counted"]
    code = compile_graph(graph)
    args = arrays(args)
    most = code.run([np.asarray(7), *args[1:]])
    for n in (8, 1000, 2**40):
        assert_array_equal(code.run([np.asarray(n), *args[1:]])[1], most[1])
    assert_array_equal(code.run([np.asarray(-3), *args[1:]])[1], 0.0)
