"""The first pass: copy the graph through a Builder, which simplifies it, and on the way replace a few nodes.

In: a Graph. Out: an equal Graph. Copying through a Builder is folding, value numbering, the operations' own rewrite
rules (algebra, views of views, broadcasts against reductions), and dead code: see `build.py`.

With `release` no derivative is due any more: custom derivatives give way to the function itself, stop_gradient to its
operand. Always, a few textbook expressions are written in the form that keeps their digits, here because a derivative
of the form that loses them loses more:
    log(1 + exp(x))  -> logaddexp(x, 0)      no overflow above 709, and its derivative is not inf/inf
    log(1 + x)       -> log1p(x)             x below 1e-16 is not lost
    log(1 - x)       -> log1p(-x)
    exp(x) - 1       -> expm1(x)
They are at least as accurate everywhere; it is the one change to the user's own arithmetic, so the list is short.
"""

from __future__ import annotations

from ..build import Builder
from ..graph import Graph
from ..op import get
from ..ops.elementwise import is_number, made_by, stretched
from ..ops.region import expand
from ..walk import Copy, walk

STOP = get("stop_gradient")


def simplify(graph: Graph, release: bool = False) -> Graph:
    """The simplified graph; `release`: no derivative is due."""
    b = Builder(graph.name)
    handler = _Simplify(b, release)
    graph = expand(graph) if release else graph
    return b.finish(walk(graph, handler, list(b.params_of(graph.params).values())))


class _Simplify(Copy):
    def __init__(self, builder, release):
        super().__init__(builder)
        self.release = release

    def node(self, node, operands):
        if self.release and node.op is STOP:
            return (operands[0],)
        rule = _STABLE.get(node.op.name)
        if rule is not None:
            self.builder.at(node)
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
    if (power := made_by(x, "exp")) and is_number(y, 1):
        return stretched(b, b.expm1(power[0]), y)
    return None


def _add(b, x, y):
    for power, one in ((made_by(x, "exp"), y), (made_by(y, "exp"), x)):
        if power and is_number(one, -1):
            return stretched(b, b.expm1(power[0]), one)
    return None


_STABLE = {"log": _log, "sub": _sub, "add": _add}
