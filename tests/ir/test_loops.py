"""Region operations: scan, while, switch. Values against Python loops, derivatives against differences, lanes against runs."""

import numpy as np
import pytest
from support import close, difference, random_like

from tapejit.ir.backward import backward
from tapejit.ir.batch import batch
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.knobs import LOOP_BYTES
from tapejit.ir.linearize import linearize
from tapejit.ir.op import TABLE
from tapejit.ir.ops.loop import apply_scan
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.text import parse
from tapejit.ir.types import F64, I64, tensor
from tapejit.ir.verify import verify
from tapejit.ir.walk import inline

S, V = tensor(F64), tensor(F64, (3,))
N = 7


def body_of(types, make):
    b = Builder("body")
    return b.finish(make(b, *[b.param(t) for t in types]))


def program(types, make):
    b = Builder("f")
    return b.finish(make(b, *[b.param(t) for t in types]))


# ---- programs: (graph, arguments, the same in Python) ------------------------------------------------------------------
def oscillator(reverse=False, counted=False, length=N):
    """Two carries, a row, two invariants, a stack; one carry starts without a tangent and picks one up."""
    def make(b, x, v, f, k, h):
        new = b.add(v, b.mul(h, b.sub(f, b.mul(k, b.sin(x)))))
        return [b.add(x, b.mul(h, new)), new, b.mul(x, new)]

    body = body_of([S, S, S, S, S], make)
    types = [*[tensor(I64)] * counted, S, S, tensor(F64, (length,)), S, S]

    def outer(b, *xs):
        count, (x, v, f, k, h) = list(xs[:counted]), xs[counted:]
        x, v, xs = apply_scan(b, body, count, [x, v], [f], [k, h], length, reverse)
        return [b.mul(x, v), b.reduce_sum(b.mul(xs, xs), axes=(0,))]

    def plain(*xs):
        n, (x, v, f, k, h) = (int(xs[0]) if counted else length), xs[counted:]
        total = 0.0
        for i in reversed(range(n)) if reverse else range(n):
            new = v + h * (f[i] - k * np.sin(x))
            total += (x * new) ** 2
            x, v = x + h * new, new
        return [x * v, total]

    forces = np.linspace(-0.4, 0.7, length)
    return program(types, outer), [*[np.int64(length - 2)] * counted, 0.3, -0.2, forces, 1.7, 0.13], plain


def network():
    """A product in the body: its result is stacked, not computed again."""
    M = tensor(F64, (3, 3))

    def make(b, h, x, w):
        z = b.add(b.dot(w, h, contract=((1,), (0,)), batch=((), ())), x)
        return [b.tanh(z), b.reduce_sum(b.mul(z, z), axes=(0,))]

    body = body_of([V, V, M], make)

    def outer(b, h, x, w):
        h, s = apply_scan(b, body, [], [h], [x], [w], N)
        return [b.reduce_sum(h, axes=(0,)), b.reduce_sum(s, axes=(0,))]

    def plain(h, x, w):
        total = 0.0
        for row in x:
            z = w @ h + row
            h, total = np.tanh(z), total + z @ z
        return [h.sum(), total]

    rng = np.random.default_rng(1)
    return program([V, tensor(F64, (N, 3)), M], outer), [rng.normal(size=s) for s in ((3,), (N, 3), (3, 3))], plain


def nested():
    """A loop in a loop, the inner one over the outer one's row."""
    inner = body_of([S, S, S], lambda b, s, x, a: [b.add(b.mul(s, a), b.sin(x))])

    def make(b, s, x, a):
        (s2,) = apply_scan(b, inner, [], [s], [x], [a], 3)
        return [b.mul(s2, a), s2]

    body = body_of([S, V, S], make)

    def outer(b, s, x, a):
        s, ys = apply_scan(b, body, [], [s], [x], [a], 4)
        return [s, b.reduce_sum(b.mul(ys, ys), axes=(0,))]

    def plain(s, x, a):
        total = 0.0
        for row in x:
            for e in row:
                s = s * a + np.sin(e)
            total, s = total + s * s, s * a
        return [s, total]

    return program([S, tensor(F64, (4, 3)), S], outer), [0.4, np.linspace(0.1, 2, 12).reshape(4, 3), 0.8], plain


def newton():
    """A while loop: square root by Newton's method, from a start that depends on the argument."""
    def step(b, x, a):
        return [b.mul(b.add(x, b.div(a, x)), 0.5)]

    def test(b, x, a):
        return [b.gt(b.abs(b.sub(b.mul(x, x), a)), 1e-9)]

    regions = body_of([S, S], test), body_of([S, S], step)

    def outer(b, a):
        x, n = b.apply(TABLE["while"], [b.mul(a, 2.0), a], {"carries": 1, "capacity": 16}, regions)
        return [b.mul(x, x), b.mul(x, b.convert(n, dtype=F64))]

    def plain(a):
        x, n = 2.0 * a, 0
        while abs(x * x - a) > 1e-9:
            x, n = (x + a / x) * 0.5, n + 1
        return [x * x, x * n]

    return program([S], outer), [3.7], plain


def branches(index):
    regions = (
        body_of([S, S], lambda b, x, y: [b.mul(x, y), b.sin(y)]),
        body_of([S, S], lambda b, x, y: [b.exp(x), b.constant(2.0, F64)]),
        body_of([S, S], lambda b, x, y: [b.mul(b.mul(y, y), y), x]),
    )

    def outer(b, i, x, y):
        return [b.mul(*b.apply(TABLE["switch"], [i, x, y], {}, regions))]

    def plain(i, x, y):
        i = min(max(int(i), 0), 2)
        return [[x * y * np.sin(y), np.exp(x) * 2.0, y**3 * x][i]]

    return program([tensor(I64), S, S], outer), [np.int64(index), 0.7, 1.3], plain


PROGRAMS = {
    "scan": oscillator(), "reverse": oscillator(reverse=True), "counted": oscillator(counted=True),
    "counted reverse": oscillator(reverse=True, counted=True), "network": network(), "nested": nested(), "while": newton(),
    "one": oscillator(length=1), "none": oscillator(length=0),
    **{f"switch {i}": branches(i) for i in (-1, 0, 1, 2, 5)},
}  # fmt: skip


def arrays(args):
    return [np.asarray(a) for a in args]


def floats(args):
    return [a.dtype.kind == "f" for a in arrays(args)]


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
