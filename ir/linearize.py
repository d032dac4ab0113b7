"""Forward mode: a Graph to the Graph of its value and its directional derivative (JVP).

In: graph f(x_1..x_n) and which parameters are active. Out: a graph with parameters x_1..x_n followed by a tangent per
active parameter, and results f's results followed by their tangents, of equal types. Each node contributes its
operation's own rule; a tangent that is structurally zero is None on the way (nothing is computed for it) and becomes
zeros only as a result. Time and size are linear in the nodes.
"""

from __future__ import annotations

from .build import Builder
from .graph import Constant, Graph
from .pause import pause_gc


@pause_gc
def linearize(graph: Graph, active) -> Graph:
    """The JVP graph. `active`: one bool per parameter; parameters that are not floats are never active."""
    b = Builder(f"jvp_{graph.name}")
    env = b.params_of(graph.params)
    tangents = {
        p: b.param(p.type, f"d_{p.name}" if p.name else None)
        for p, on in zip(graph.params, active)
        if on and p.type.is_float
    }

    def lookup(value):
        return value if type(value) is Constant else env[value]

    for node in graph.nodes:
        xs = [lookup(o) for o in node.operands]
        ts = [tangents.get(o) for o in node.operands]
        active = node.op.derivative.differentiable and any([t is not None for t in ts])
        if active and node.op.derivative.joint:
            b.at(node, "jvp")
            ys, found = node.op.derivative.push(b, node, xs, ts)
            env.update(zip(node.results, ys))
            tangents.update([(r, t) for r, t in zip(node.results, found) if t is not None])
            continue
        ys = b.keep(node, xs)
        env.update(zip(node.results, ys))
        if active:
            b.at(node, "jvp")
            for result, t in zip(node.results, node.op.derivative.jvp(b, node, xs, ys, ts)):
                if t is not None:
                    tangents[result] = t
    b.loc, b.tag = None, "jvp"
    outs = [lookup(r) for r in graph.results]
    touts = [tangents[r] if r in tangents else b.zeros(r.type) for r in graph.results]
    return b.finish(outs + touts)
