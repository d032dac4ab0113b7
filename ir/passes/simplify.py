"""The two passes that only copy: `simplify` rebuilds a graph, `release` also opens what served differentiation alone.

In: a Graph. Out: an equal Graph. Copying through a Builder is folding, value numbering, the operations' own rewrite
rules (algebra, views of views, broadcasts against reductions), and dead code: see `build.py`.
"""

from __future__ import annotations

from ..graph import Graph
from ..op import get
from ..ops.region import expand
from ..walk import Builder, Copy, walk

STOP = get("stop_gradient")


def simplify(graph: Graph) -> Graph:
    """Every node applied again on a Builder."""
    return _copy(graph, Copy)


def release(graph: Graph) -> Graph:
    """As no derivative is due: custom derivatives give way to the function itself, stop_gradient to its operand."""
    return _copy(expand(graph), _Release)


class _Release(Copy):
    def node(self, node, operands):
        return (operands[0],) if node.op is STOP else super().node(node, operands)


def _copy(graph, handler):
    b = Builder(graph.name)
    return b.finish(walk(graph, handler(b), [b.param(p.type, p.name) for p in graph.params]))
