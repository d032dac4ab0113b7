"""What is fused, as printed Loop IR; what is vectorized; how compile time grows."""

import re
import time

import numpy as np
import pytest

from tapejit.codegen import compile_graph
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.op import TABLE
from tapejit.ir.types import F32, F64, I64, tensor


def kernels(executable):
    """The printed kernels, without their hashed names; the program apart."""
    text = re.sub(r"kernel\.[0-9a-f]+", "kernel", executable.kernels_text)
    *bodies, program = text.strip().split("\n\n")
    return bodies, program


def vector_types(executable):
    return set(re.findall(r"<\d+ x (?:double|float)>", executable.optimized_llvm_text()))


def wide(executable, element="double"):
    widths = [int(t[1:].split()[0]) for t in vector_types(executable) if element in t]
    return max(widths, default=1) >= (4 if element == "double" else 8)


def test_value_and_gradient_in_one_sweep(check):
    b = Builder("f")
    x = b.param(tensor(F64, (1000,)))
    s = b.sin(x)
    y = b.mul(s, s)
    e = check(b.finish([b.reduce_sum(y, axes=(0,)), b.mul(b.mul(s, b.cos(x)), 2.0)]), scale=100)
    (kernel,), _ = kernels(e)
    assert kernel == """\
kernel kernel(in0: f64[1000], out0: f64, out1: f64[1000])    # reduce_sum, mul
  acc0 := -0.0 : f64
  for i in 1000:
    %1 = in0[i]
    %2 = sin %1
    %3 = mul %2, %2
    %4 = cos %1
    %5 = mul %2, %4
    %6 = mul %5, 2.0
    acc0 reduce_sum= %3
    out1[i] = %6
  %7 = acc0
  out0[0] = %7"""
    assert wide(e)


def rosenbrock_gradient(n):
    b = Builder("f")
    x = b.param(tensor(F64, (n,)))
    after = b.slice(x, start=(1,), stop=(n,), step=(1,))
    before = b.slice(x, start=(0,), stop=(n - 1,), step=(1,))
    u = b.sub(after, b.mul(before, before))
    left = b.sub(b.mul(b.mul(before, u), -400.0), b.mul(b.sub(1.0, before), 2.0))
    low = b.pad(left, low=(0,), high=(1,), interior=(0,))
    return b.finish([b.add(low, b.pad(b.mul(u, 200.0), low=(1,), high=(0,), interior=(0,)))])


def test_shifted_gradients_meet_in_one_vectorized_sweep(check):
    e = check(rosenbrock_gradient(500), scale=500)
    (kernel,), _ = kernels(e)
    assert kernel.count("for ") == 1 and "%1 = 0 <= i < 499" in kernel and "0 <= i + -1 < 499" in kernel
    assert e.stats.arena_bytes == 64 and wide(e)


def horner(b, x, terms):
    y = x
    for k in range(terms):
        y = b.add(b.mul(y, x), 1.0 / (k + 1.0))
    return y


def test_a_kernel_is_absorbed_by_the_one_that_reads_it(check):
    """The root is made first, by itself; the polynomial shares nothing with it, what comes after reads both."""
    b = Builder("f")
    x, y = (b.param(tensor(F64, (5000,)), name) for name in "xy")
    root, long = b.sqrt(x), horner(b, y, 31)
    out = b.add(b.mul(root, long), b.mul(b.add(root, 1.0), horner(b, root, 31)))
    rng = np.random.default_rng(0)
    e = check(b.finish([b.mul(out, long), out]), rng.uniform(0.1, 0.9, (2, 5000)))
    assert len(kernels(e)[0]) == 1


def test_a_kernel_is_not_absorbed_past_its_readers(check):
    b = Builder("f")
    x, y = (b.param(tensor(F64, (5000,)), name) for name in "xy")
    root, long = b.sqrt(x), horner(b, y, 31)
    total = b.reduce_sum(b.reshape(root, shape=(50, 100)), axes=(1,))
    shifted = b.add(b.mul(b.flip(root, axes=(0,)), long), long)
    out = b.add(b.mul(root, shifted), b.mul(long, b.reduce_sum(total, axes=(0,))))
    rng = np.random.default_rng(0)
    check(b.finish([shifted, out, total]), rng.uniform(0.1, 0.9, (2, 5000)))


def test_a_kernel_is_not_absorbed_past_what_writes_its_buffer(check):
    """The copy that a scatter begins with stays before its updates."""
    b = Builder("f")
    x, y = (b.param(tensor(F64, (5000,)), name) for name in "xy")
    i, u = b.param(tensor(I64, (3,))), b.param(tensor(F64, (3,)))
    scattered, long = b.scatter(x, i, u), horner(b, y, 31)
    out = b.add(b.mul(scattered, long), long)
    rng = np.random.default_rng(0)
    args = [*rng.uniform(0.1, 0.9, (2, 5000)), np.array([1, 5, 7]), np.array([10.0, 20.0, 30.0])]
    check(b.finish([out, long, b.mul(long, b.add(scattered, 1.0))]), args)


def test_row_and_column_sums_and_map_share_a_nest(check):
    b = Builder("f")
    x = b.param(tensor(F64, (20, 30)))
    y = b.exp(x)
    e = check(b.finish([b.reduce_sum(y, axes=(0,)), b.reduce_sum(y, axes=(1,)), y]), scale=1000)
    (kernel,), _ = kernels(e)
    assert kernel == """\
kernel kernel(in0: f64[20,30], out2: f64[20,30], out0: f64[30], out1: f64[20])    # exp, reduce_sum
  for j in 30:
    out0[j] = -0.0
  for i in 20:
    acc0 := -0.0 : f64
    for j in 30:
      %1 = in0[30*i + j]
      %2 = exp %1
      out2[30*i + j] = %2
      out0[j] reduce_sum= %2
      acc0 reduce_sum= %2
    %3 = acc0
    out1[i] = %3"""
    assert wide(e)


def softmax(b, x):
    n = x.shape[0]
    top = b.reshape(b.reduce_max(x, axes=(1,)), shape=(n, 1))
    e = b.exp(b.sub(x, top))
    return b.div(e, b.reshape(b.reduce_sum(e, axes=(1,)), shape=(n, 1)))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_softmax_is_vectorized_and_computes_exp_once(dtype, check):
    b = Builder("f")
    e = check(b.finish([softmax(b, b.param(tensor(dtype, (16, 200))))]))
    assert e.kernels_text.count("= exp") == 1
    assert wide(e, "double" if dtype == F64 else "float")


def test_movement_costs_nothing(check):
    """Reshape, transpose, flip, slice and broadcast become index maps of one kernel; contiguous loops collapse."""
    b = Builder("f")
    x, y = b.param(tensor(F64, (4, 6))), b.param(tensor(F64, (12,)))
    moved = b.transpose(b.reshape(b.mul(x, 2.0), shape=(2, 12)), perm=(1, 0))
    flipped = b.reshape(b.flip(y, axes=(0,)), shape=(12, 1))
    e = check(b.finish([b.add(moved, flipped)]))
    assert len(e.stats.kernels) == 1 and e.stats.arena_bytes == 64
    b = Builder("f")
    x = b.param(tensor(F64, (4, 5, 6)))
    e = check(b.finish([b.reshape(b.sin(x), shape=(20, 6))]))
    assert e.stats.kernels[0]["loops"] == [120]


def test_a_reshape_splits_the_loops_it_needs(check):
    b = Builder("f")
    x = b.param(tensor(F64, (4, 6)))
    rows = b.reshape(b.add(x, b.iota(shape=(6,), dtype=F64)), shape=(24,))
    e = check(b.finish([rows]))
    assert e.stats.kernels[0]["loops"] == [4, 6]


def test_concatenated_parts_are_computed_in_place(check):
    b = Builder("f")
    x, y = b.param(tensor(F64, (3, 4))), b.param(tensor(F64, (3, 2)))
    e = check(b.finish([b.concatenate(b.sin(x), b.cos(y), axis=1)]))
    assert e.stats.arena_bytes == 64 and e.kernels_text.count("[6*i + j") == 2


def test_stretched_transcendental_is_not_recomputed(check):
    b = Builder("f")
    x, y = b.param(tensor(F64, (30,))), b.param(tensor(F64, (20, 30)))
    e = check(b.finish([b.mul(b.exp(x), y)]))
    assert [k["loops"] for k in e.stats.kernels] == [[30], [20, 30]]


def test_cheap_shared_values_are_recomputed_and_dear_ones_kept(check):
    def program(shared):
        b = Builder("f")
        x = b.param(tensor(F64, (1000, 64)))
        y = shared(b, x)
        total = b.reduce_sum(y, axes=(1,))
        return b.finish([b.mul(y, b.reshape(total, shape=(1000, 1)))])

    cheap = check(program(lambda b, x: b.mul(x, 2.0)), scale=100)
    dear = check(program(lambda b, x: b.sin(x)), scale=100)
    assert "t" in cheap.kernels_text and cheap.stats.arena_bytes < 1000 * 64 * 8 <= dear.stats.arena_bytes
    assert dear.kernels_text.count("= sin") == 1


def test_scalar_work_is_straight_line_code(check):
    b = Builder("f")
    x = b.param(tensor(F64, (50,)))
    s = b.reduce_sum(x, axes=(0,))
    y = s
    for _ in range(30):
        y = b.add(b.mul(y, s), b.sin(y))
    e = check(b.finish([b.mul(x, b.tanh(y))]))
    assert [k["loops"] for k in e.stats.kernels] == [[50], [], [50]]


def test_leading_sum_does_not_stride(check):
    """The inner loop runs along the kept axis, in memory order, also through a transpose."""
    b = Builder("f")
    x = b.param(tensor(F64, (64, 40)))
    e = check(b.finish([b.reduce_sum(x, axes=(0,)), b.reduce_sum(b.transpose(x, perm=(1, 0)), axes=(1,))]), scale=10)
    bodies, _ = kernels(e)
    assert all("in0[40*i + j]" in k for k in bodies) and wide(e)


def test_equal_kernels_are_one_function(check):
    b = Builder("f")
    x = b.param(tensor(F64, (40, 40)))
    for _ in range(5):
        x = b.tanh(b.mul(b.dot(x, x, contract=((1,), (0,)), batch=((), ())), 0.01))
    e = check(b.finish([x]))
    assert e.kernels_text.count("tanh %") == 1 and e.llvm_text.count("define internal void @kernel.") == 1


def chain(n, shape):
    b = Builder("f")
    x = b.param(tensor(F64, shape))
    y = x
    for i in range(n // 2):
        y = b.mul(b.add(y, x), 0.5 - 0.0001 * i)
    return b.finish([y])


@pytest.mark.parametrize("n,shape,seconds", [(3000, (10,), 2), (20_000, (), 3), (60_000, (), 8)])
def test_long_chains_compile_in_linear_time(n, shape, seconds, check):
    start = time.process_time()
    graph = chain(n, shape)
    compile_graph(graph)
    assert time.process_time() - start < seconds  # of this process: the machine may be busy
    check(graph, scale=10)


def test_inline_limit_counts_functions():
    b = Builder("f")
    x = b.param(tensor(F64, (100,)))
    y = x
    for _ in range(300):
        y = b.sin(y)
    e = compile_graph(b.finish([y]))
    assert len(e.stats.kernels) > 3
    found = e.run([np.linspace(-1, 1, 100)])[0]
    wanted = np.linspace(-1, 1, 100)
    for _ in range(300):
        wanted = np.sin(wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_gather_waits_for_the_guard_that_protects_it(check):
    b = Builder("f")
    x, i = b.param(tensor(F64, (5,))), b.param(tensor(I64))
    inside = b.lt(i, 5)
    b.guard(inside, seen=True)
    e = check(b.finish([b.mul(b.gather(x, i), 2.0)]), [np.arange(5.0), np.array(3)])
    _, program = kernels(e)
    assert re.search(r"exit 0 .*\n  kernel", program)
    assert e.run([np.arange(5.0), np.array(10**12)]).observed is False


def test_scatters_into_a_temporary_copy_once(check):
    b = Builder("f")
    x, i, v = b.param(tensor(F64, (1000,))), b.param(tensor(I64)), b.param(tensor(F64))
    y = x
    for k in range(6):
        y = b.apply(TABLE["scatter_add" if k % 2 else "scatter"], [y, b.add(i, k), b.mul(v, float(k))])[0]
    e = check(b.finish([y, b.mul(y, 2.0)]), [np.arange(1000.0), np.array(3), np.array(0.5)])
    assert e.stats.arena_bytes == 64 and [k["loops"] for k in e.stats.kernels].count([1000]) == 2
    b = Builder("f")
    x = b.sin(b.param(tensor(F64, (5,))))
    i = b.param(tensor(I64, (5,)))
    check(b.finish([b.scatter_add(x, i, x)]), [np.arange(5.0), np.array([0, 0, 1, 2, 4])])


def test_a_kernel_of_very_many_buffers(check):
    b = Builder("f")
    xs = [b.param(tensor(F64)) for _ in range(150)]
    check(b.finish([b.mul(x, float(i)) for i, x in enumerate(xs)]), scale=1000)
