"""Reverse mode: a Graph to the Graph of its value and its vector-Jacobian product (VJP).

In: graph f(x_1..x_n) and which parameters are active. Out: a graph with parameters x_1..x_n followed by a cotangent per
float result, and results f's results followed by one cotangent per active parameter. The nodes of f are copied, then
one sweep in reverse order asks each operation's own rule for the contributions to its operands. Only nodes on a path
from an active parameter to a result take part. Contributions are summed here and broadcasting is undone here
(through `Builder.sum_to`), never in a rule. What the backward part needs of the forward part is simply used: whether
it is kept or computed again is decided when kernels are made. Elementwise stretches are swept forward: see `diagonal.py`.

Cotangents that come out of a `where`, a slice or a gather hold exact structural zeros; along their path an
operation with a singular partial (sqrt at 0) multiplies with a strong zero, so that the branch not taken gives 0, not
0 * inf = NaN. How strong: see `Op.masks`.
"""

from __future__ import annotations

from .analysis import depends
from .build import Builder
from .diagonal import advance, pull, stretches
from .graph import EMPTY, Constant, Graph
from .pause import pause_gc
from .types import tensor
from .walk import Copy, inline, rebuild


@pause_gc
def backward(graph: Graph, active) -> Graph:
    """The VJP graph. `active`: one bool per parameter; parameters that are not floats are never active."""
    b = Builder(f"vjp_{graph.name}")
    env = b.params_of(graph.params)
    seeds = [b.param(r.type, f"ct{i}") if r.type.is_float else None for i, r in enumerate(graph.results)]
    grads, outs = transpose_into(b, graph, env, active, seeds)
    b.loc, b.tag = None, "vjp"
    filled = [
        (b.zeros(p.type) if ct is None else ct)
        for p, ct, on in zip(graph.params, grads, active)
        if on and p.type.is_float
    ]
    return b.finish(outs + filled)


def transpose_into(b: Builder, graph: Graph, env: dict, active, seeds, given=EMPTY, strong=0):
    """Copy `graph` onto `b` and pull `seeds` (one Value or None per result) back through it.

    env: the parameters' values in `b`; filled with all other values on the way. given: values of the graph that are in `b`
    already. strong: why the seeds hold structural zeros, see Op.masks.
    Returns (cotangent or None per parameter, the results' values in `b`).
    """
    graph = in_segments(graph)
    on = depends(graph, active)
    joint = {}  # node -> all that its `forward` made
    root, members = stretches(graph, on)
    pushed = {r: {} for r, nodes in members.items() if any([n.op.derivative.joint for n in nodes])}  # tangents, made at once

    def lookup(value):
        return value if type(value) is Constant else env[value]

    for node in graph.nodes:
        operands = [lookup(o) for o in node.operands]
        start = root.get(next((r for r in node.results if r in root), None))
        makes_both = node.op.derivative.joint and any([r in on for r in node.results])
        if node.results and node.results[0] in given:
            env.update([(r, given[r]) for r in node.results])
        elif not makes_both:
            env.update(zip(node.results, b.keep(node, operands)))
        elif start not in pushed:
            b.at(node)
            joint[node] = node.op.derivative.forward(b, node, operands)
            env.update(zip(node.results, joint[node]))
        if start in pushed:
            tangents = pushed[start]
            if not tangents:
                b.loc, b.tag = None, "vjp"
                tangents[start] = b.full(1, start.type)
            advance(b, node, env, lookup, tangents)

    pending = {}  # value of `graph` -> contributions to its cotangent, values of `b`
    for result, seed in zip(graph.results, seeds):
        if seed is not None and result in on:
            pending.setdefault(result, []).append(seed)
    masked = dict.fromkeys(pending, strong)  # values of `graph` whose cotangent holds structural zeros -> why, see Op.masks
    exits = {}  # root of an elementwise stretch -> (value where it is left, cotangent there, strong)

    def settle(value):
        left = exits.pop(value, None)
        if left is not None:
            ct = pull(b, value, members[value], left, env, lookup, pushed.get(value))
            if ct is not None:
                pending.setdefault(value, []).append(ct)
                reasons = [strong for _, _, strong in left] + [node.op.masks for node in members[value]]
                masked[value] = max(masked.get(value, 0), *reasons)

    for node in reversed(graph.nodes):
        for r in node.results:
            settle(r)
        if not any([r in pending for r in node.results]):
            continue
        b.at(node, "vjp")
        strong = max([masked.get(r, 0) for r in node.results])
        cts = [total(b, pending.pop(r, None)) for r in node.results]
        inside = [(r, ct, strong) for r, ct in zip(node.results, cts) if r in root and ct is not None]
        if inside:
            exits.setdefault(root[inside[0][0]], []).extend(inside)
            continue
        wanted = [o in on for o in node.operands]
        ys = joint.get(node) or [env[r] for r in node.results]
        xs = [lookup(o) for o in node.operands]
        contributions = node.op.derivative.vjp(b, node, xs, ys, cts, wanted, strong)
        for operand, ct, want in zip(node.operands, contributions, wanted):
            if want and ct is not None:
                pending.setdefault(operand, []).append(ct)
                masked[operand] = max(masked.get(operand, 0), strong, node.op.masks)
    for p in graph.params:
        settle(p)
    b.loc, b.tag = None, "vjp"
    return [total(b, pending.get(p)) for p in graph.params], [lookup(r) for r in graph.results]


def in_segments(graph: Graph) -> Graph:
    """The graph with loops cut into pieces where all of their iterations would take too much memory."""
    segments = {node: node.op.derivative.segments(node) for node in graph.nodes if node.op.derivative.joint}
    if not any([s is not None for s in segments.values()]):
        return graph
    return rebuild(graph, _InSegments(Builder(graph.name), segments))


class _InSegments(Copy):
    def __init__(self, builder, segments):
        super().__init__(builder)
        self.segments = segments

    def node(self, node, operands):
        pieces = self.segments.get(node)
        return super().node(node, operands) if pieces is None else inline(self.builder, pieces, operands)


def total(b: Builder, contributions):
    """The sum of the contributions, in order; None if there are none."""
    if contributions is None:
        return None
    if len(contributions) > 2:
        contributions = merge_pads(b, contributions)
    out = None
    for ct in contributions:
        out = b.accumulate(out, ct)
    return out


def merge_pads(b: Builder, contributions) -> list:
    """Join contributions that are zero but for disjoint blocks (what slices and `x[i]` leave) by concatenation.

    A Python loop over the n elements of an array would otherwise sum n arrays of n elements.
    """
    blocks, others = {}, []
    for ct in contributions:
        node = ct.node
        if node is None or node.op.name != "pad" or any(node.attrs["interior"]) or ct.type.size == 0:
            others.append(ct)
            continue
        block = node.operands[0]
        where = tuple([(low, low + n) for low, n in zip(node.attrs["low"], block.shape)])
        if where in blocks:
            blocks[where] = b.add(blocks[where], block)
        else:
            blocks[where] = block
    if len(blocks) < 3:
        return contributions
    shape, dtype = contributions[0].shape, contributions[0].dtype
    for axis in reversed(range(len(shape))):
        blocks = _join(b, blocks, axis, dtype)
    for where, block in blocks.items():
        low = tuple([start for start, _ in where])
        high = tuple([n - stop for n, (_, stop) in zip(shape, where)])
        padded = b.pad(block, low=low, high=high, interior=(0,) * len(shape)) if any(low) or any(high) else block
        others.append(padded)
    return others


def _join(b, blocks, axis, dtype):
    """Concatenate along an axis the blocks that agree in all other axes and do not overlap; gaps become zeros."""
    rows = {}
    for where, block in blocks.items():
        rows.setdefault(where[:axis] + where[axis + 1 :], []).append((where[axis], block))
    out = {}
    for rest, row in rows.items():
        row.sort(key=lambda item: item[0])
        spans = [span for span, _ in row]
        if len(row) == 1 or any([a[1] > z[0] for a, z in zip(spans, spans[1:])]):
            for span, block in row:
                out[rest[:axis] + (span,) + rest[axis:]] = block
            continue
        parts, at = [], spans[0][0]
        for (start, stop), block in row:
            if start > at:
                gap = block.shape[:axis] + (start - at,) + block.shape[axis + 1 :]
                parts.append(b.zeros(tensor(dtype, gap)))
            parts.append(block)
            at = stop
        out[rest[:axis] + ((spans[0][0], at),) + rest[axis:]] = b.concatenate(*parts, axis=axis)
    return out
