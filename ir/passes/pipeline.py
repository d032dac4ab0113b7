"""The optimisation pipeline: one function, read top to bottom.

In: a Graph as recorded or as a transform made it. Out: a smaller Graph of equal meaning, ready to be differentiated
again (`differentiate_later`) or to be compiled.
"""

from __future__ import annotations

from ..build import Builder
from ..graph import Graph
from ..ops.region import expand
from ..walk import inline


def optimize(graph: Graph, differentiate_later: bool = False) -> Graph:
    """The optimised graph: same parameters, same results, same guards."""
    if not differentiate_later:
        graph = expand(graph)
    return rebuild(graph)


def rebuild(graph: Graph) -> Graph:
    """Apply every node again on a Builder: folding, value numbering, the operations' own rules, dead code."""
    b = Builder(graph.name)
    return b.finish(inline(b, graph, [b.param(p.type, p.name) for p in graph.params]))
