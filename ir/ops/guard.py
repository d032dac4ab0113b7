"""The guard kind: a recorded value became a Python value, and this is what was seen.

guard(x) with attrs `seen` (a bool or an int) and no results; `capacity` of one that asks whether a loop took no more
iterations than reverse mode made room for (loop.py), `trips` of one that asks whether loops ran as often as in some record
(trips.py): a hash of that. Guards keep their order and are never dropped. Compiled code
that sees another value leaves before any effect with (index of the guard, value seen now), and the function is
recorded anew for that value. Under batching every lane must agree, else the run leaves too.
"""

from __future__ import annotations

from ..build import Builder
from ..graph import Graph
from ..op import NONDIFFERENTIABLE, Op, register
from ..types import BOOL
from ..walk import Copy, rebuild


def _infer(types, attrs):
    (x,) = types
    if x.ndim or x.dtype.kind not in "ib":
        raise TypeError(f"guard takes a bool or integer scalar, got {x}")
    return ()


def _evaluate(x, seen):
    raise AssertionError("a guard has no results; handlers check it themselves")


def _batch(b, node, xs, batched, size):
    (x,) = xs
    if size == 0:
        return ()  # no lane, nothing to agree on
    if x.dtype == BOOL:
        fold = b.reduce_and if node.attrs["seen"] else b.reduce_or
        b.apply(node.op, [fold(x, axes=(0,))], node.attrs)
    else:
        b.apply(node.op, [b.reduce_min(x, axes=(0,))], node.attrs)
        b.apply(node.op, [b.reduce_max(x, axes=(0,))], node.attrs)
    return ()


guard = register(
    Op("guard", "guard", _infer, _evaluate, NONDIFFERENTIABLE, _batch, dtypes="ib", doc="attrs: seen.")
)


def guards_of(graph: Graph) -> list:
    """All guard nodes in order, those of nested graphs where their node stands: how compiled code numbers them."""
    out = []
    for node in graph.nodes:
        if node.op is guard:
            out.append(node)
        for region in node.regions:
            out += guards_of(region)
    return out


def unguarded(graph: Graph) -> Graph:
    """The graph without guards, for what is computed again after they held. All other nodes stay, in their order."""
    if not guards_of(graph):
        return graph
    return rebuild(graph, _Unguarded(Builder(graph.name, simplify=False)))


class _Unguarded(Copy):
    def node(self, node, operands):
        if node.op is guard:
            return ()
        self.builder.at(node)
        return self.builder.apply(node.op, operands, node.attrs, tuple([unguarded(r) for r in node.regions]))
