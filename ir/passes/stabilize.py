"""Write a few textbook expressions in the form that keeps their digits.

In: a Graph. Out: a Graph that computes the same functions at least as accurately everywhere:
    log(1 + exp(x))  -> logaddexp(x, 0)      no overflow above 709, and its derivative is not inf/inf
    log(1 + x)       -> log1p(x)             x below 1e-16 is not lost
    log(1 - x)       -> log1p(-x)
    exp(x) - 1       -> expm1(x)
This is the one pass that changes the user's own arithmetic, which is why the list is short. One loop over the nodes.
"""

from __future__ import annotations

from ..graph import Graph
from ..ops.elementwise import is_number, made_by, stretched
from ..walk import Builder, Copy, walk


def stabilize(graph: Graph) -> Graph:
    """The graph with the expressions of the module docstring replaced."""
    if not any([node.op.name in _RULES for node in graph.nodes]):
        return graph
    b = Builder(graph.name)
    return b.finish(walk(graph, _Stabilize(b), [b.param(p.type, p.name) for p in graph.params]))


class _Stabilize(Copy):
    def node(self, node, operands):
        rule = _RULES.get(node.op.name)
        if rule is not None and operands[0].type.is_float:
            self.builder.at(node, self.step)
            found = rule(self.builder, *operands)
            if found is not None:
                return (found,)
        return super().node(node, operands)


def _log(b, x):
    if sides := made_by(x, "add"):
        for one, other in (sides, sides[::-1]):
            if is_number(one, 1):
                other = stretched(b, other, one)
                power = made_by(other, "exp")
                return b.logaddexp(power[0], 0.0) if power else b.log1p(other)
    if (sides := made_by(x, "sub")) and is_number(sides[0], 1):
        return b.log1p(b.neg(stretched(b, sides[1], sides[0])))
    return None


def _sub(b, x, y):
    if is_number(y, 1) and (power := made_by(x, "exp")):
        return stretched(b, b.expm1(power[0]), y)
    return None


def _add(b, x, y):
    for one, other in ((x, y), (y, x)):
        if is_number(one, -1) and (power := made_by(other, "exp")):
            return stretched(b, b.expm1(power[0]), one)
    return None


_RULES = {"log": _log, "sub": _sub, "add": _add}
