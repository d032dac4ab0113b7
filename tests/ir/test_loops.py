"""Region operations: scan, while, switch. Values against Python loops, derivatives against differences, lanes against runs."""

import numpy as np
import pytest
from loop_programs import PROGRAMS, N, S, V, arrays, body_of, floats, program
from support import close, difference, random_like

from tapejit.ir.backward import backward
from tapejit.ir.batch import batch
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.knobs import LOOP_BYTES
from tapejit.ir.linearize import linearize
from tapejit.ir.ops.loop import apply_scan
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.text import parse
from tapejit.ir.types import F64, tensor
from tapejit.ir.verify import verify
from tapejit.ir.walk import inline


@pytest.fixture(params=PROGRAMS, ids=lambda name: name.replace(" ", "_"))
def loop(request):
    graph, args, plain = PROGRAMS[request.param]
    return graph, arrays(args), plain


def test_value(loop):
    graph, args, plain = loop
    for g in (graph, optimize(graph), parse(str(graph))):
        verify(g)
        for got, want in zip(evaluate(g, args), plain(*args), strict=True):
            close(got, np.asarray(want), 1e-13)


def test_text_and_digest_survive_the_round_trip(loop):
    graph, _, _ = loop
    assert parse(str(graph)).digest == graph.digest


def oracle(plain, args, directions, step=2e-4):
    """Directional derivative of the Python loop by differences."""
    def at(k):
        given = iter(directions)
        return [np.asarray(r) for r in plain(*[a + k * step * next(given) if a.dtype.kind == "f" else a for a in args])]

    return [(8 * (p - m) - (pp - mm)) / (12 * step) for p, m, pp, mm in zip(at(1), at(-1), at(2), at(-2))]


def test_forward_against_differences(loop):
    graph, args, plain = loop
    directions = random_like(args)
    jvp = linearize(graph, floats(args))
    for g in (jvp, optimize(jvp), linearize(optimize(graph, differentiate_later=True), floats(args))):
        verify(g)
        found = evaluate(g, [*args, *directions])[len(graph.results) :]
        for got, want in zip(found, oracle(plain, args, directions), strict=True):
            close(got, want, 1e-8)


def dots(xs, ys):
    return sum(float(np.sum(x * y)) for x, y in zip(xs, ys, strict=True))


def test_reverse_against_forward(loop):
    graph, args, _ = loop
    directions = random_like(args)
    n = len(graph.results)
    tangents = evaluate(linearize(graph, floats(args)), [*args, *directions])[n:]
    cts = random_like(tangents, seed=3)
    vjp = backward(graph, floats(args))
    for g in (vjp, optimize(vjp), backward(optimize(graph, differentiate_later=True), floats(args))):
        verify(g)
        grads = evaluate(g, [*args, *cts])[n:]
        assert [x.shape for x in grads] == [d.shape for d in directions]
        assert abs(dots(cts, tangents) - dots(grads, directions)) < 1e-12 * max(1.0, abs(dots(cts, tangents)))


@pytest.mark.parametrize("limit", [8, 24, 64])
def test_pieces_of_a_long_loop_are_computed_again(limit):
    """With room for a few iterations only: the same cotangents, bit for bit, and no stack of all carries."""
    for name in ("scan", "reverse", "counted", "counted reverse", "network", "while"):
        graph, args, _ = PROGRAMS[name]
        cts = random_like(evaluate(graph, args), seed=3)
        want = evaluate(backward(graph, floats(args)), [*args, *cts])
        with LOOP_BYTES.at(limit):
            vjp = optimize(backward(graph, floats(args)))
        for got, w in zip(evaluate(vjp, [*args, *cts]), want, strict=True):
            close(got, w, 1e-13)
        assert any([node.op.name == "scan" for n in vjp.nodes for region in n.regions for node in region.nodes])


def test_second_order_against_differences(loop):
    graph, args, plain = loop
    flags = floats(args)
    n = len(graph.results)
    cts = random_like(evaluate(graph, args), seed=3)
    vjp = optimize(backward(graph, flags), differentiate_later=True)
    inputs = [*args, *cts]
    on = floats(inputs)
    directions = random_like(inputs, seed=4)
    found = evaluate(optimize(linearize(vjp, on)), [*inputs, *directions])[len(vjp.results) :]
    for got, want in zip(found, difference(vjp, inputs, directions), strict=True):
        close(got, want, 1e-7)
    again = backward(vjp, on)
    seeds = random_like(evaluate(vjp, inputs), seed=5)
    for g in (again, optimize(again)):
        grads = evaluate(g, [*inputs, *seeds])[len(vjp.results) :]
        assert abs(dots(seeds, found) - dots(grads, directions)) < 1e-10 * max(1.0, abs(dots(grads, directions)))
    assert n


@pytest.mark.parametrize("which", ["all", "first", "last", "integers"])
def test_lanes_against_single_runs(loop, which):
    graph, args, _ = loop
    size = 3
    flags = [
        which == "all" or (which == "first" and i == 0) or (which == "last" and i == len(args) - 1)
        or (which == "integers" and a.dtype.kind == "i") for i, a in enumerate(args)
    ]  # fmt: skip
    if not any(flags):
        return
    for g in (graph, backward(graph, floats(args))):
        inputs = [*args, *random_like(evaluate(graph, args), seed=3)][: len(g.params)]
        on = [*flags, *[False] * (len(inputs) - len(args))]
        batched, _ = batch(g, on, size, all_results=True)
        verify(batched)
        stacks = []
        for a, f in zip(inputs, on):
            moved = [a * (1 + 0.2 * k) if a.dtype.kind == "f" else a - k for k in range(size)]
            stacks.append(np.stack(moved).astype(a.dtype) if f else a)
        want = [evaluate(g, [x[k] if f else x for x, f in zip(stacks, on)]) for k in range(size)]
        for h in (batched, optimize(batched)):
            for got, lanes in zip(evaluate(h, stacks), zip(*want), strict=True):
                close(got, np.stack(lanes), 1e-12)


# ---- what the optimiser makes of loops ----------------------------------------------------------------------------------
def test_a_gradient_keeps_only_what_it_reads():
    """Of the oscillator's iterations the backward loop reads x, sin(x), which is costly, and v; f is there anyway."""
    graph, args, _ = PROGRAMS["scan"]
    b = Builder("g")
    env = [b.param(p.type) for p in graph.params]
    grads = inline(b, backward(graph, floats(args)), [*env, b.constant(1.0, F64), b.constant(0.0, F64)])[2:]
    forward, pull = [n for n in optimize(b.finish(grads)).nodes if n.op.name == "scan"]
    assert forward.attrs["carries"] == 2 and len(forward.results) == 2 + 3
    assert pull.attrs["reverse"] and pull.attrs["rows"] == 4


def test_what_no_iteration_changes_is_computed_before_the_loop():
    body = body_of([S, S, V], lambda b, s, a, w: [b.add(s, b.mul(b.exp(a), b.reduce_sum(w, axes=(0,))))])
    graph = program([S, S, V], lambda b, s, a, w: apply_scan(b, body, [], [s], [], [a, w], 5))
    made = optimize(graph)
    assert [n.op.name for n in made.nodes] == ["exp", "reduce_sum", "mul", "scan"]
    assert [n.op.name for n in made.nodes[-1].regions[0].nodes] == ["add"]
    args = [np.float64(1.0), np.float64(0.5), np.arange(3.0)]
    close(evaluate(made, args)[0], np.asarray(1 + 5 * np.exp(0.5) * 3), 1e-15)


def test_a_loop_that_carries_nothing_is_one_operation_on_all_rows():
    body = body_of([S, S], lambda b, x, a: [b.sin(b.mul(x, a))])
    graph = program([tensor(F64, (N,)), S], lambda b, x, a: apply_scan(b, body, [], [], [x], [a], N))
    made = optimize(graph)
    assert "scan" not in [n.op.name for n in made.nodes]
    x = np.linspace(0, 1, N)
    close(evaluate(made, [x, np.float64(2.0)])[0], np.sin(2 * x), 1e-15)


def test_a_carry_that_is_handed_on_is_an_invariant():
    body = body_of([S, S, S], lambda b, s, a, x: [b.add(s, b.mul(a, x)), a])
    graph = program([S, S, tensor(F64, (N,))], lambda b, s, a, x: apply_scan(b, body, [], [s, a], [x], [], N))
    (node,) = [n for n in optimize(graph).nodes if n.op.name == "scan"]
    assert node.attrs["carries"] == 1
    args = [np.float64(1.0), np.float64(0.5), np.arange(float(N))]
    assert [r.tolist() for r in evaluate(optimize(graph), args)] == [11.5, 0.5]


def test_the_gradient_of_an_elementwise_loop_runs_forward_and_stacks_nothing():
    """y = y * x / w and y = sin(y) - x, so often: the Jacobian is diagonal; against complex steps."""
    def make(b, y, x, w):
        return [b.sub(b.sin(b.div(b.mul(y, x), w)), x)]

    body = body_of([V, V, V], make)

    def outer(b, x):
        w = b.add(x, 1.0)
        (y,) = apply_scan(b, body, [], [b.mul(x, x)], [], [x, w], 30)
        return [b.mul(y, b.exp(x))]

    graph, x = program([V], outer), np.array([0.3, 0.7, 1.1])

    def plain(x):
        w, y = x + 1, x * x
        for _ in range(30):
            y = np.sin(y * x / w) - x
        return y * np.exp(x)

    ct = np.array([1.0, -2.0, 0.5])
    want = ct * np.array([plain(x + 1e-30j).imag / 1e-30 for x in x])
    for g in (backward(graph, [True]), optimize(backward(graph, [True]))):
        close(evaluate(g, [x, ct])[1], want, 1e-13)
    (loop,) = [n for n in optimize(backward(graph, [True])).nodes if n.op.name == "scan"]
    assert loop.attrs["carries"] == 2 and len(loop.results) == 2 and not loop.attrs["reverse"]
    second = backward(optimize(backward(graph, [True]), differentiate_later=True), [True, False])
    seeds = [np.zeros(3), np.ones(3)]
    got = evaluate(optimize(second), [x, ct, *seeds])[2]
    step = 1e-4
    slopes = [evaluate(backward(graph, [True]), [x + k * step, ct])[1] for k in (-2, -1, 1, 2)]
    close(got, np.array([1, -8, 8, -1]) @ np.array(slopes) / (12 * step), 1e-8)


def test_elementwise_loops_in_a_body_whose_functions_are_stacked():
    """The sine is given to the pullback of the outer loop, and the inner loop goes on from it."""
    inner = body_of([V], lambda b, z: [b.add(b.mul(z, 0.99), b.mul(b.cos(z), 0.05))])
    body = body_of([V], lambda b, y: apply_scan(b, inner, [], [b.mul(b.sin(y), 1.4)], [], [], 3))
    graph = program([V], lambda b, x: apply_scan(b, body, [], [x], [], [], 4))

    def plain(x):
        for _ in range(4):
            x = np.sin(x) * 1.4
            for _ in range(3):
                x = x * 0.99 + np.cos(x) * 0.05
        return x

    x, ct = np.array([0.3, 0.7, 1.1]), np.array([1.0, -2.0, 0.5])
    want = ct * plain(x + 1e-30j).imag / 1e-30
    assert np.min(np.abs(want)) > 1e-4
    for g in (backward(graph, [True]), optimize(backward(graph, [True]))):
        close(evaluate(g, [x, ct])[1], want, 1e-13)


def test_a_loop_that_no_derivative_flows_into():
    """copysign of a number has no derivative by the sign: the loop behind it is computed, and passes nothing back."""
    body = body_of([V], lambda b, z: [b.add(b.mul(z, 0.9), 0.1)])

    def outer(b, x):
        (z,) = apply_scan(b, body, [], [b.copysign(b.full(2.0, V), x)], [], [], 5)
        return [b.mul(z, x)]

    graph, x = program([V], outer), np.array([0.3, -0.7, 1.1])
    z = np.copysign(2.0, x)
    for _ in range(5):
        z = z * 0.9 + 0.1
    for g in (backward(graph, [True]), optimize(backward(graph, [True]))):
        close(evaluate(g, [x, np.ones(3)])[1], z, 1e-15)


def test_what_is_costly_counts_as_memory_too():
    """The network's carries alone would fit into 7 x 24 bytes; its products and tanh beside them do not."""
    graph, args, _ = PROGRAMS["network"]
    cts = random_like(evaluate(graph, args), seed=3)
    want = evaluate(backward(graph, floats(args)), [*args, *cts])
    with LOOP_BYTES.at(N * 24):
        vjp = optimize(backward(graph, floats(args)))
    assert any([node.op.name == "scan" for n in vjp.nodes for region in n.regions for node in region.nodes])
    for got, w in zip(evaluate(vjp, [*args, *cts]), want, strict=True):
        close(got, w, 1e-13)
