"""The interpreter: a Graph on NumPy arrays, one NumPy call per node.

In: a graph and arrays for its parameters. Out: its results as NumPy arrays. This is the reference meaning that
compiled code is tested against. A guard that sees another value than the recorded one raises `GuardFailed`.
"""

from __future__ import annotations

import numpy as np

from .graph import Graph
from .walk import walk


class GuardFailed(Exception):
    """A guard saw another value than was recorded. `node`: the guard; `observed`: the value seen now."""

    def __init__(self, node, observed):
        super().__init__(f"guard recorded {node.attrs['seen']!r}, saw {observed!r}")
        self.node, self.observed = node, observed


class Evaluate:
    """Handler for `walk` on NumPy arrays."""

    def constant(self, value):
        return value.dtype.type(value.data)

    def node(self, node, operands):
        if node.op.kind == "guard":
            observed = operands[0].item()
            if observed != node.attrs["seen"]:
                raise GuardFailed(node, observed)
            return ()
        if node.regions:
            return node.op.evaluate(*operands, regions=node.regions, **node.attrs)
        return node.op.evaluate(*operands, **node.attrs)


def evaluate(graph: Graph, args) -> list[np.ndarray]:
    """Run a graph on NumPy arrays. Floating-point events follow IEEE silently, as in compiled code."""
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in walk(graph, Evaluate(), list(args))]
