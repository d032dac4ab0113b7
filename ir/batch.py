"""Batching (vmap): a Graph to the Graph that runs it for every lane of a leading batch axis.

In: a graph, which of its parameters carry a batch axis (always axis 0 here; front ends move axes), its size. Out: a
graph whose batched parameters have one more axis, and for each result whether it is batched. A node none of whose
operands is batched is copied as it is; the others ask their operation, whose kind knows.
"""

from __future__ import annotations

from .build import Builder
from .graph import Constant, Graph
from .pause import pause_gc


@pause_gc
def batch(graph: Graph, batched, size: int, all_results=False) -> tuple[Graph, list[bool]]:
    """The batched graph and which results are batched (`all_results`: stretch the others so that all are)."""
    b = Builder(f"vmap_{graph.name}")
    env, on = {}, {}
    for p, flag in zip(graph.params, batched):
        env[p] = b.param(p.type.with_shape((size, *p.shape)) if flag else p.type, p.name)
        on[p] = flag

    def lookup(value):
        return value if type(value) is Constant else env[value]

    for node in graph.nodes:
        xs = [lookup(o) for o in node.operands]
        flags = [on.get(o, False) for o in node.operands]
        any_batched = any(flags)
        if any_batched:
            b.at(node)
            ys = node.op.batch(b, node, xs, flags, size)
        else:
            ys = b.keep(node, xs)
        for result, y in zip(node.results, ys):
            env[result], on[result] = y, any_batched
    outs = [lookup(r) for r in graph.results]
    flags = [on.get(r, False) for r in graph.results]
    if all_results:
        outs = [y if f else b.broadcast_to(y, (size, *y.shape)) for y, f in zip(outs, flags)]
        flags = [True] * len(flags)
    return b.finish(outs), flags
