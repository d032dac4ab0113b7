"""Reverse mode: a Graph to the Graph of its value and its vector-Jacobian product (VJP).

In: graph f(x_1..x_n) and which parameters are active. Out: a graph with parameters x_1..x_n followed by a cotangent per
float result, and results f's results followed by one cotangent per active parameter. The nodes of f are copied, then
one sweep in reverse order asks each operation's own rule for the contributions to its operands. Only nodes on a path
from an active parameter to a result take part. Contributions are summed here and broadcasting is undone here
(through `Builder.sum_to`), never in a rule. What the backward part needs of the forward part is simply used: whether
it is kept or computed again is decided when kernels are made. Elementwise stretches are swept forward: see `diagonal.py`.

Cotangents that come out of a `where`, a slice or a gather hold exact structural zeros; along their path an
operation with a singular partial (sqrt at 0) multiplies with a strong zero, so that the branch not taken gives 0, not
0 * inf = NaN.
"""

from __future__ import annotations

from .analysis import depends
from .build import Builder
from .diagonal import pull, stretches
from .graph import Constant, Graph


def backward(graph: Graph, active) -> Graph:
    """The VJP graph. `active`: one bool per parameter; parameters that are not floats are never active."""
    b = Builder(f"vjp_{graph.name}")
    env = {p: b.param(p.type, p.name) for p in graph.params}
    seeds = [b.param(r.type, f"ct{i}") if r.type.is_float else None for i, r in enumerate(graph.results)]
    grads, outs = transpose_into(b, graph, env, active, seeds)
    b.loc, b.tag = None, "vjp"
    filled = [
        (b.zeros(p.type) if ct is None else ct)
        for p, ct, on in zip(graph.params, grads, active)
        if on and p.type.is_float
    ]
    return b.finish(outs + filled)


def transpose_into(b: Builder, graph: Graph, env: dict, active, seeds):
    """Copy `graph` onto `b` and pull `seeds` (one Value or None per result) back through it.

    env: the parameters' values in `b`; filled with all other values on the way.
    Returns (cotangent or None per parameter, the results' values in `b`).
    """
    on = depends(graph, active)

    def lookup(value):
        return b.constant(value.data, value.dtype) if type(value) is Constant else env[value]

    for node in graph.nodes:
        b.at(node)
        env.update(zip(node.results, b.apply(node.op, [lookup(o) for o in node.operands], node.attrs, node.regions)))

    pending = {}  # value of `graph` -> contributions to its cotangent, values of `b`
    for result, seed in zip(graph.results, seeds):
        if seed is not None and result in on:
            pending.setdefault(result, []).append(seed)
    masked = set()  # values of `graph` whose cotangent holds structural zeros
    root, members = stretches(graph, on)
    exits = {}  # root of an elementwise stretch -> (value where it is left, cotangent there, strong)

    def settle(value):
        left = exits.pop(value, None)
        if left is not None:
            ct = pull(b, value, members[value], left, env, lookup)
            if ct is not None:
                pending.setdefault(value, []).append(ct)
                if any([strong for _, _, strong in left]):
                    masked.add(value)

    for node in reversed(graph.nodes):
        for r in node.results:
            settle(r)
        if not any([r in pending for r in node.results]):
            continue
        b.at(node, "vjp")
        strong = any([r in masked for r in node.results])
        cts = [total(b, pending.pop(r, None)) for r in node.results]
        if node.results[0] in root:
            exits.setdefault(root[node.results[0]], []).append((node.results[0], cts[0], strong))
            continue
        wanted = [o in on for o in node.operands]
        ys = [env[r] for r in node.results]
        xs = [lookup(o) for o in node.operands]
        contributions = node.op.derivative.vjp(b, node, xs, ys, cts, wanted, strong)
        for operand, ct, want in zip(node.operands, contributions, wanted):
            if want and ct is not None:
                pending.setdefault(operand, []).append(ct)
                if strong or node.op.masks:
                    masked.add(operand)
    for p in graph.params:
        settle(p)
    b.loc, b.tag = None, "vjp"
    return [total(b, pending.get(p)) for p in graph.params], [lookup(r) for r in graph.results]


def total(b: Builder, contributions):
    """The sum of the contributions, in order; None if there are none."""
    if contributions is None:
        return None
    out = None
    for ct in contributions:
        out = b.accumulate(out, ct)
    return out
