"""The first pass: copy the graph through a Builder, which simplifies it, and let go of what only derivatives need.

In: a Graph. Out: an equal Graph. Copying through a Builder is folding, value numbering, the operations' own rewrite
rules (algebra, views of views, broadcasts against reductions), and dead code: see `build.py`. What a Builder made is
simple already, and returned as it is.

With `release` no derivative is due any more: custom derivatives give way to the function itself, stop_gradient to its
operand.
"""

from __future__ import annotations

from ..build import Builder, drop_dead
from ..graph import Graph
from ..op import get
from ..ops.region import expand
from ..walk import Copy, rebuild

STOP = get("stop_gradient")


def simplify(graph: Graph, release: bool = False) -> Graph:
    """The simplified graph; `release`: no derivative is due."""
    graph = expand(graph) if release else graph
    if all([node.normal and node.op is not STOP for node in graph.nodes]):
        return drop_dead(graph)
    return rebuild(graph, _Simplify(Builder(graph.name), release))


class _Simplify(Copy):
    def __init__(self, builder, release):
        super().__init__(builder)
        self.release = release

    def node(self, node, operands):
        if self.release and node.op is STOP:
            return (operands[0],)
        return super().node(node, operands)
