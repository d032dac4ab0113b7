"""Loops as region operations: `scan` and `while`.

scan([count,] inits..., rows..., invariants...), one region, the body:
    body: carries..., one row of each of `rows`..., invariants... -> carries..., outs...
    results: the carries after the last iteration, and per out the stack of what each iteration gave, [length, *shape].
    attrs: length; carries and rows, how many there are; reverse: from the last row to the first; counted: the first
    operand is how many iterations are run, an i64 from 0 to length (rows 0 to count - 1; the stacks are zero elsewhere).
while(inits..., invariants...), two regions, test and body:
    test: carries..., invariants... -> bool        body: carries..., invariants... -> carries...
    results: the carries once the test fails, and how often the body ran, an i64. attrs: carries; capacity: how many
    iterations reverse mode makes room for, at least as many as were seen when the loop was recorded.

Derivatives. Forward mode carries the tangents along: one loop computes value and derivative. Reverse mode runs the loop with
one more stack per carry, of what each iteration began with, and of what is costly to compute again; a second scan, in
the other direction, computes each iteration again from there and pulls the cotangents back through it. Sums over the
iterations (cotangents of invariants) are carries of it. What it turns out not to need is dropped by
`passes/regions.py`. A loop whose stacks would take more than the knob TAPEJIT_LOOP_BYTES is first cut into about sqrt(length)
pieces, a scan of scans, of which only one piece is kept at a time (Griewank's checkpoints; the rule applies again to the
inner scan). The cotangent of a `while` is that of a counted scan over the iterations that it ran; a guard sees to it that
there were no more than its capacity.

Both rules give what is a loop again, so orders and modes nest as they do for straight lines.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import numpy as np

from ..analysis import depends
from ..backward import transpose_into
from ..batch import batch
from ..build import Builder
from ..evaluate import evaluate
from ..graph import Graph
from ..knobs import LOOP_BYTES
from ..linearize import linearize
from ..op import Derivative, Op, register
from ..types import BOOL, I64, tensor
from ..walk import inline
from .guard import guard, unguarded

COSTLY = 10  # from this Op.cost on (functions, products of arrays) reverse mode stacks a value rather than compute it again
SCALAR_LOOP = 16  # elements; of a row


class Parts(NamedTuple):
    """The operands of a scan, or what belongs to each of them."""

    count: list
    inits: list
    rows: list
    invariants: list


def parts(attrs, operands) -> Parts:
    c, k, m = attrs["counted"], attrs["carries"], attrs["rows"]
    operands = list(operands)
    return Parts(operands[:c], operands[c : c + k], operands[c + k : c + k + m], operands[c + k + m :])


def of_body(attrs, values) -> Parts:
    """The same of what belongs to the parameters of a scan's body, which takes no count."""
    return parts({**attrs, "counted": False}, values)


def scan_attrs(length, carries, rows, reverse=False, counted=False) -> dict:
    return {"length": length, "carries": carries, "rows": rows, "reverse": reverse, "counted": counted}


def apply_scan(b, body, count, inits, rows, invariants, length, reverse=False) -> tuple:
    """A scan on a Builder; `count`: [] or [the number of iterations]."""
    attrs = scan_attrs(length, len(inits), len(rows), reverse, bool(count))
    return b.apply(scan, [*count, *inits, *rows, *invariants], attrs, (body,))


# ---- scan ------------------------------------------------------------------------------------------------------------
def _infer_scan(types, attrs, regions):
    (body,) = regions
    length, k = attrs["length"], attrs["carries"]
    count, inits, rows, invariants = parts(attrs, types)
    if any([t is not tensor(I64) for t in count]):
        raise TypeError(f"scan: the count is an i64, not {count[0]}")
    for t in rows:
        if not t.ndim or t.shape[0] != length:
            raise TypeError(f"scan over {length} rows: {t} has not as many")
    given = [*inits, *[t.with_shape(t.shape[1:]) for t in rows], *invariants]
    taken, made = [p.type for p in body.params], [r.type for r in body.results]
    if given != taken:
        raise TypeError(f"scan: operands give {given}, the body takes {taken}")
    if made[:k] != inits:
        raise TypeError(f"scan: the carries are {inits}, the body makes {made[:k]}")
    return (*inits, *[t.with_shape((length, *t.shape)) for t in made[k:]])


def _evaluate_scan(*xs, regions, **attrs):
    (body,), k, length = regions, attrs["carries"], attrs["length"]
    count, state, rows, invariants = parts(attrs, xs)
    steps = range(min(int(count[0]), length) if count else length)
    outs = [np.zeros((length, *r.shape), r.dtype) for r in body.results[k:]]
    for i in reversed(steps) if attrs["reverse"] else steps:
        results = evaluate(body, [*state, *[x[i] for x in rows], *invariants])
        state = results[:k]
        for out, y in zip(outs, results[k:]):
            out[i] = y
    return (*state, *outs)


def spread(body, flags, k):
    """(which parameters are active when what the carries pick up in the loop is counted in, the active values)."""
    flags = list(flags)
    while True:
        on = depends(body, flags)
        grown = [f or (i < k and body.results[i] in on) for i, f in enumerate(flags)]
        if grown == flags:
            return flags, on
        flags = grown


def _chosen(values, flags):
    return [v for v, f in zip(values, flags) if f]


def kept(body, carries) -> list:
    """The values of an iteration that reverse mode stacks: what it began with, and what is costly to compute again."""
    small = all([p.type.size <= SCALAR_LOOP for p in body.params])
    costly = [
        r for node in body.nodes for r in node.results
        if (node.op.kind == "contract" and not small) or (node.op.kind == "elementwise" and node.op.cost >= COSTLY)
    ]  # fmt: skip
    return [*body.params[:carries], *costly]


def fits(length, body, carries) -> bool:
    """Whether the stacks of all iterations are no larger than is allowed."""
    return length * sum([v.type.nbytes for v in kept(body, carries)]) <= LOOP_BYTES.value


class _ScanDerivative(Derivative):
    joint = True

    def push(self, b, node, xs, tangents):
        """(results, their tangents): one scan that carries both."""
        body, k = node.regions[0], node.attrs["carries"]
        count, inits, rows, invariants = parts(node.attrs, xs)
        ts = list(tangents[len(count) :])
        flags, _ = spread(body, [t is not None for t in ts], k)
        own = [*inits, *rows, *invariants]
        ts = [b.zeros(x.type) if f and t is None else t for x, t, f in zip(own, ts, flags)]
        both = linearize(body, flags)
        n, m = len(body.results), len(rows)
        params, tangents_of = both.params[: len(body.params)], iter(both.params[len(body.params) :])
        d_params = [next(tangents_of) if f else None for f in flags]

        def interleaved(primal, tangent):
            out = []
            for low, high in ((0, k), (k, k + m), (k + m, len(flags))):
                out.append([*primal[low:high], *[t for t in tangent[low:high] if t is not None]])
            return out

        d_results = both.results[n:]
        moving = _chosen(range(k), flags)
        outs = [i for i in range(k, n) if body.results[i].type.is_float]
        results = [*both.results[:k], *[d_results[i] for i in moving], *both.results[k:n], *[d_results[i] for i in outs]]
        graph = Graph(both.name, sum(interleaved(params, d_params), []), both.nodes, results)
        operands = interleaved(own, [t if f else None for t, f in zip(ts, flags)])
        made = list(apply_scan(b, graph, count, *operands, node.attrs["length"], node.attrs["reverse"]))
        at = k + len(moving)
        values = [*made[:k], *made[at : at + n - k]]
        found = dict(zip([*moving, *outs], [*made[k:at], *made[at + n - k :]]))
        return values, [found.get(i) for i in range(n)]

    def forward(self, b, node, xs):
        """The results, and the stacks that `vjp` reads: of each carry, and of what is costly."""
        body = node.regions[0]
        stacked = kept(body, node.attrs["carries"])
        graph = Graph(body.name, body.params, body.nodes, [*body.results, *stacked])
        return b.apply(node.op, xs, node.attrs, (graph,))

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        body, k, length = unguarded(node.regions[0]), node.attrs["carries"], node.attrs["length"]
        count, inits, rows, invariants = parts(node.attrs, xs)
        flags, _ = spread(body, wanted[len(count) :], k)
        active = of_body(node.attrs, flags)
        saved, stacked = ys[len(body.results) :], kept(body, k)[k:]
        bb = Builder(f"pullback_{body.name}")
        cts_in = [bb.param(x.type, "ct") if f else None for x, f in zip(inits, active.inits)]
        sums = [bb.param(x.type, "sum") if f else None for x, f in zip(invariants, active.invariants)]
        before = [bb.param(p.type, p.name) for p in body.params[:k]]
        given = {v: bb.param(v.type) for v in stacked}
        row = [bb.param(p.type, p.name) for p in body.params[k : k + len(rows)]]
        seeds = [None if ct is None else bb.param(r.type, "ct") for ct, r in zip(cts[k:], body.results[k:])]
        fixed = [bb.param(p.type, p.name) for p in body.params[k + len(rows) :]]
        env = dict(zip(body.params, [*before, *row, *fixed]))
        grads, _ = transpose_into(bb, body, env, flags, [*cts_in, *seeds], given, strong)
        grads = of_body(node.attrs, grads)
        bb.loc, bb.tag = None, "vjp"
        back = [bb.zeros(x.type) if g is None else g for x, g, f in zip(inits, grads.inits, active.inits) if f]
        back += [bb.accumulate(s, g) for s, g in zip(sums, grads.invariants) if s is not None]
        back += [bb.zeros(p.type) if g is None else g for p, g, f in zip(row, grads.rows, active.rows) if f]
        starts = [b.zeros(x.type) if ct is None else ct for x, ct, f in zip(inits, cts, active.inits) if f]
        starts += [b.zeros(x.type) for x, f in zip(invariants, active.invariants) if f]
        stacks = [*saved, *rows, *[ct for ct in cts[k:] if ct is not None]]
        found = iter(apply_scan(b, bb.finish(back), count, starts, stacks, invariants, length, not node.attrs["reverse"]))
        out = [[next(found) if f else None for f in kind] for kind in (active.inits, active.invariants, active.rows)]
        out = [*[None] * len(count), *out[0], *out[2], *out[1]]
        return [g if want else None for g, want in zip(out, wanted)]

    def is_diagonal(self, node, flags):
        """Whether the body is elementwise in one type of what is carried, and nothing active comes in or goes out by rows."""
        body, k, counted = node.regions[0], node.attrs["carries"], node.attrs["counted"]
        active, on = spread(body, flags[counted:], k)
        types = {p.type for p, f in zip(body.params, active) if f}
        if len(types) != 1 or any(active[k : k + node.attrs["rows"]]) or any([r in on for r in body.results[k:]]):
            return False
        made = [n for n in body.nodes if any([r in on for r in n.results])]
        return all([n.op.kind == "elementwise" and n.results[0].type in types for n in made])

    def segments(self, node):
        """The scan as a scan of scans, if its stacks would be larger than is allowed; else None."""
        inner = isqrt(node.attrs["length"])
        if inner < 2 or fits(node.attrs["length"], node.regions[0], node.attrs["carries"]):
            return None
        return _segmented(node, inner)


def _segmented(node, inner) -> Graph:
    """The graph operands -> results of a scan cut into pieces of `inner` iterations, and what is left over."""
    attrs, body = node.attrs, node.regions[0]
    length, k, reverse = attrs["length"], attrs["carries"], attrs["reverse"]
    outer = length // inner
    whole = outer * inner
    b = Builder(f"pieces_{body.name}")
    count, inits, rows, invariants = parts(attrs, [b.param(o.type) for o in node.operands])
    b.at(node)

    def cut(x, low, high):
        ones = (1,) * x.ndim
        return b.slice(x, start=(low, *[0] * (x.ndim - 1)), stop=(high, *x.shape[1:]), step=ones)

    def folded(x):
        return b.reshape_to(cut(x, 0, whole), (outer, inner, *x.shape[1:]))

    piece = Builder(f"piece_{body.name}")
    state = [piece.param(x.type) for x in inits]
    first = [piece.param(tensor(I64), "first")] if count else []
    block = [piece.param(x.type.with_shape((inner, *x.shape[1:]))) for x in rows]
    total = [piece.param(tensor(I64), "count")] if count else []
    fixed = [piece.param(x.type) for x in invariants]
    piece.at(node)
    done = [piece.maximum(piece.minimum(piece.sub(total[0], first[0]), inner), 0)] if count else []
    made = apply_scan(piece, body, done, state, block, fixed, inner, reverse)
    pieces = piece.finish(made)

    starts = [b.mul(b.iota(shape=(outer,), dtype=I64), inner)] if count else []

    def run_pieces(state):
        made = apply_scan(b, pieces, [], state, [*starts, *map(folded, rows)], [*count, *invariants], outer, reverse)
        return list(made[:k]), [b.reshape_to(y, (whole, *y.shape[2:])) for y in made[k:]]

    def run_rest(state):
        if whole == length:
            return state, None
        rest = [b.maximum(b.sub(count[0], whole), 0)] if count else []
        made = apply_scan(b, body, rest, state, [cut(x, whole, length) for x in rows], invariants, length - whole, reverse)
        return list(made[:k]), made[k:]

    if reverse:
        state, last = run_rest(inits)
        state, outs = run_pieces(state)
    else:
        state, outs = run_pieces(inits)
        state, last = run_rest(state)
    if last is not None:
        outs = [b.concatenate(y, z, axis=0) for y, z in zip(outs, last)]
    return b.finish([*state, *outs])


def _swapped(b, x):
    """A value with its first two axes, iterations and lanes, in each other's place."""
    return b.transpose(x, perm=(1, 0, *range(2, x.ndim)))


def _batched_body(body, flags, k, size):
    """(the batched body, flags of its parameters, flags of its results); carries are batched on both sides or on none."""
    flags = list(flags)
    while True:
        graph, made = batch(body, flags, size)
        grown = [f or (i < k and made[i]) for i, f in enumerate(flags)]
        if grown == flags:
            break
        flags = grown
    b = Builder(graph.name)
    values = inline(b, graph, list(b.params_of(graph.params).values()))
    values = [b.broadcast_to(v, (size, *v.shape)) if i < k and f and not m else v for i, (v, m, f) in enumerate(
        zip(values, made, flags + [False] * len(values)))]  # fmt: skip
    return b.finish(values), flags, [*flags[:k], *made[k:]]


def _batch_scan(b, node, xs, batched, size):
    if node.attrs["counted"] and batched[0]:
        return _batch_counts(b, node, xs, batched, size)
    body, k, length = node.regions[0], node.attrs["carries"], node.attrs["length"]
    count, inits, rows, invariants = parts(node.attrs, xs)
    graph, flags, made = _batched_body(body, batched[len(count) :], k, size)
    was = of_body(node.attrs, batched[len(count) :])
    now = of_body(node.attrs, flags)
    inits = [b.broadcast_to(x, (size, *x.shape)) if f and not w else x for x, w, f in zip(inits, was.inits, now.inits)]
    rows = [_swapped(b, x) if f else x for x, f in zip(rows, now.rows)]
    results = apply_scan(b, graph, count, inits, rows, invariants, length, node.attrs["reverse"])
    out = []
    for i, (r, on) in enumerate(zip(results, made)):
        out.append((_swapped(b, r) if i >= k else r) if on else b.broadcast_to(r, (size, *r.shape)))
    return out


def _batch_counts(b, node, xs, batched, size):
    """Lanes of different counts: as many iterations as the longest needs, in which a lane that is done stays as it is."""
    attrs, body = node.attrs, node.regions[0]
    k, length = attrs["carries"], attrs["length"]
    inner = Builder(body.name)
    state = [inner.param(p.type, p.name) for p in body.params[:k]]
    at = inner.param(tensor(I64), "i")
    row = [inner.param(p.type, p.name) for p in body.params[k : k + attrs["rows"]]]
    own = inner.param(tensor(I64), "count")
    fixed = [inner.param(p.type, p.name) for p in body.params[k + attrs["rows"] :]]
    made = inline(inner, body, [*state, *row, *fixed])
    live = inner.lt(at, own)
    masked = [inner.select(live, new, old) for new, old in zip(made[:k], state)]
    masked += [inner.select(live, y, inner.zeros(y.type)) for y in made[k:]]
    graph = inner.finish(masked)
    count, inits, rows, invariants = parts(attrs, xs)
    most = b.reduce_max(count[0], axes=(0,)) if size else b.constant(0, I64)
    order = b.iota(shape=(length,), dtype=I64)
    outer = scan_attrs(length, k, attrs["rows"] + 1, attrs["reverse"], True)
    flags = parts(attrs, batched)
    plain = Builder("lanes")
    operands = [most, *inits, order, *rows, count[0], *invariants]
    on = [False, *flags.inits, False, *flags.rows, True, *flags.invariants]
    params = [plain.param(x.type.with_shape(x.shape[1:]) if f else x.type) for x, f in zip(operands, on)]
    lanes, _ = batch(plain.finish(plain.apply(scan, params, outer, (graph,))), on, size, all_results=True)
    return inline(b, lanes, operands)


scan = register(
    Op(
        "scan", "region", _infer_scan, _evaluate_scan, _ScanDerivative(), _batch_scan, dtypes="fib", arity=None,
        doc="A loop of known length over rows, with values carried from one iteration to the next.",
    )
)  # fmt: skip


# ---- while -----------------------------------------------------------------------------------------------------------
def _infer_while(types, attrs, regions):
    test, body = regions
    k = attrs["carries"]
    for region in regions:
        if [p.type for p in region.params] != list(types):
            raise TypeError(f"while: operands {types}, region takes {[p.type for p in region.params]}")
    if [r.type for r in test.results] != [tensor(BOOL)]:
        raise TypeError(f"while: the test makes {[r.type for r in test.results]}, not one bool")
    if [r.type for r in body.results] != list(types[:k]):
        raise TypeError(f"while: the carries are {types[:k]}, the body makes {[r.type for r in body.results]}")
    return (*types[:k], tensor(I64))


def _evaluate_while(*xs, regions, carries, capacity):
    test, body = regions
    state, invariants, count = list(xs[:carries]), xs[carries:], 0
    while bool(evaluate(test, [*state, *invariants])[0]):
        state, count = evaluate(body, [*state, *invariants]), count + 1
    return (*state, np.int64(count))


class _WhileDerivative(Derivative):
    joint = True

    def push(self, b, node, xs, tangents):
        test, body = node.regions
        k, n = node.attrs["carries"], len(xs)
        flags, _ = spread(body, [t is not None for t in tangents], k)
        ts = [b.zeros(x.type) if f and t is None else t for x, t, f in zip(xs, tangents, flags)]
        both = linearize(body, flags)
        moving = _chosen(range(k), flags)
        d_params = dict(zip(_chosen(range(n), flags), both.params[n:]))
        order = [*both.params[:k], *[d_params[i] for i in moving], *both.params[k:n]]
        order += [d_params[i] for i in range(k, n) if flags[i]]
        results = [*both.results[:k], *[both.results[k + i] for i in moving]]
        step = Graph(both.name, order, both.nodes, results)
        tester = Builder(test.name)
        own = [tester.param(p.type, p.name) for p in order]
        values = inline(tester, test, [*own[:k], *own[k + len(moving) : n + len(moving)]])
        operands = [*xs[:k], *[ts[i] for i in moving], *xs[k:], *[ts[i] for i in range(k, n) if flags[i]]]
        attrs = {"carries": k + len(moving), "capacity": node.attrs["capacity"]}
        made = b.apply(node.op, operands, attrs, (tester.finish(values), step))
        found = dict(zip(moving, made[k : k + len(moving)]))
        return [*made[:k], made[-1]], [*[found.get(i) for i in range(k)], None]

    def forward(self, b, node, xs):
        """The results, and those of the counted scan over the same iterations, which is what is pulled back."""
        ran = self.ran(b, node, xs)
        return (*ran, *scan.derivative.forward(b, self.counted(node), [ran[-1], *xs]))

    @staticmethod
    def ran(b, node, xs):
        """The results, with a guard that there were not too many iterations."""
        ran, capacity = b.apply(node.op, xs, node.attrs, node.regions), node.attrs["capacity"]
        b.apply(guard, [b.le(ran[-1], b.constant(capacity, I64))], {"seen": True, "capacity": capacity})
        return ran

    @staticmethod
    def counted(node):
        """The node of the counted scan."""
        b = Builder("counted")
        params = [b.param(tensor(I64), "count"), *[b.param(o.type) for o in node.operands]]
        attrs = scan_attrs(node.attrs["capacity"], node.attrs["carries"], 0, counted=True)
        b.at(node)
        return b.apply(scan, params, attrs, (node.regions[1],))[0].node

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        k = node.attrs["carries"]
        inner = scan.derivative.vjp(b, self.counted(node), [ys[k], *xs], ys[k + 1 :], cts[:k], [False, *wanted], strong)
        return inner[1:]

    def is_diagonal(self, node, flags):
        return False

    def segments(self, node):
        """What is pulled back is a scan; over its allowance it is pulled back in pieces."""
        pieces = scan.derivative.segments(self.counted(node))
        if pieces is None:
            return None
        b = Builder("pieces")
        xs = [b.param(o.type) for o in node.operands]
        b.at(node)
        ran = self.ran(b, node, xs)
        return b.finish([*inline(b, pieces, [ran[-1], *xs]), ran[-1]])


def _batch_while(b, node, xs, batched, size):
    """All lanes run until the last one is done; one that is done stays as it is, and counts no more."""
    test, body = node.regions
    k = node.attrs["carries"]
    lane = Builder(body.name)
    state = [lane.param(p.type, p.name) for p in body.params[:k]]
    runs = lane.param(tensor(I64), "runs")
    fixed = [lane.param(p.type, p.name) for p in body.params[k:]]
    (live,) = inline(lane, test, [*state, *fixed])
    made = inline(lane, body, [*state, *fixed])
    made = [lane.select(live, new, old) for new, old in zip(made, state)]
    step = lane.finish([*made, lane.select(live, lane.add(runs, 1), runs)])
    again = Builder(test.name)
    own = [again.param(p.type, p.name) for p in step.params]
    more = again.finish(inline(again, test, [*own[:k], *own[k + 1 :]]))
    flags = [*batched[:k], True, *batched[k:]]
    graph, flags, _ = _batched_body(step, flags, k + 1, size)
    tests, made = batch(more, flags, size)
    whole = Builder(tests.name)
    (found,) = inline(whole, tests, list(whole.params_of(tests.params).values()))
    if made[0]:
        found = whole.reduce_or(found, axes=(0,))
    operands = [*xs[:k], b.zeros(tensor(I64, (size,))), *xs[k:]]
    was = [*batched[:k], True, *batched[k:]]
    operands = [b.broadcast_to(x, (size, *x.shape)) if f and not w else x for x, w, f in zip(operands, was, flags)]
    attrs = {"carries": k + 1, "capacity": node.attrs["capacity"]}
    results = b.apply(node.op, operands, attrs, (whole.finish([found]), graph))
    return [r if f else b.broadcast_to(r, (size, *r.shape)) for r, f in zip(results[: k + 1], flags)]


while_ = register(
    Op(
        "while", "region", _infer_while, _evaluate_while, _WhileDerivative(), _batch_while, dtypes="fib", arity=None,
        doc="A loop that runs as long as a test holds, with values carried from one iteration to the next.",
    )
)  # fmt: skip
