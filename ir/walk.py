"""The one loop that gives a graph meaning, whatever the meaning is.

`walk(graph, handler, args)` binds the parameters to `args` (of any kind the handler understands: NumPy arrays,
Builder Values, recorded Arrays) and calls `handler.node(node, operands)` for each node in order, which returns the
node's results. `handler.constant(c)` gives the meaning of a scalar constant. Returns the graph's results.
"""

from __future__ import annotations

from .build import Builder
from .graph import Constant, Graph


def walk(graph: Graph, handler, args) -> list:
    if len(args) != len(graph.params):
        raise ValueError(f"{graph.name} takes {len(graph.params)} values, got {len(args)}")
    env = _Environment(zip(graph.params, args))
    env.constant = handler.constant
    run = handler.node
    for node in graph.nodes:
        results = run(node, [env[o] for o in node.operands])
        for value, result in zip(node.results, results):
            env[value] = result
    return [env[r] for r in graph.results]


class _Environment(dict):
    """What each value of the graph means; a constant is given its meaning when first asked for."""

    def __missing__(self, value):
        if type(value) is not Constant:
            raise KeyError(value)
        meaning = self[value] = self.constant(value)
        return meaning


class Copy:
    """Handler that re-applies every node on a Builder: inlining, and (through the Builder's rules) simplification."""

    def __init__(self, builder: Builder, step=""):
        self.builder, self.step = builder, step

    def constant(self, value):
        return value  # the Builder interns it

    def node(self, node, operands):
        if not self.step:
            return self.builder.keep(node, operands)
        self.builder.at(node, self.step)
        return self.builder.apply(node.op, operands, node.attrs, node.regions)


def rebuild(graph: Graph, handler: Copy) -> Graph:
    """The graph that a handler makes of a graph, on the handler's builder."""
    b = handler.builder
    return b.finish(walk(graph, handler, list(b.params_of(graph.params).values())))


def inline(builder: Builder, graph: Graph, args, step="") -> list:
    """Apply a graph's nodes on a builder; its result values there. `step` tags them as made by a transform."""
    return walk(graph, Copy(builder, step), args)
