"""Elementwise stretches of a program, for reverse mode: where the Jacobian is diagonal, forward mode is reverse mode.

A value's *root* is the latest active value of the same type that it depends on elementwise and alone: in
`y = exp(sin(x) * x)` the root of all three results is x. Along such a stretch dy/dx is one number per element, which a
forward sweep from 1 finds at the cost of a reverse sweep; the cotangent of x is then ct_y * dy/dx. Why do so:
  - the sweep needs the values in the order in which they are computed, so nothing is kept for later: value and
    derivative come out of one pass over the data;
  - it repeats well. Differentiating again meets the same tangents, which value numbering and `passes/equal.py` merge,
    so k-th derivatives grow polynomially, where reverse over reverse doubles;
  - a `where` inside drops the branch not taken by selection, not by multiplying with zero; and so that the zero it leaves
    stays one, an infinite cotangent counts as zero there.
A loop whose body is elementwise in what it carries is a member like any other, and keeps nothing of its iterations.
In: a graph and its active values. Out: roots and members for `backward.transpose_into`, which sees the values at which
a stretch is left (the exits) and asks `pull` for the root's cotangent. Linear in the nodes.
"""

from __future__ import annotations

import math

from .graph import Graph


def stretches(graph: Graph, on) -> tuple[dict, dict]:
    """Root of each member value, and the member nodes of each root in order; a root is no member of its own."""
    root, members = {}, {}
    for node in graph.nodes:
        results = [r for r in node.results if r in on]
        if not results or not (node.op.kind == "elementwise" or node.op.derivative.joint):
            continue
        roots = {root.get(o, o) for o in node.operands if o in on}
        if len(roots) != 1 or any([r.type is not next(iter(roots)).type for r in results]):
            continue
        if node.op.derivative.joint and not node.op.derivative.is_diagonal(node, [o in on for o in node.operands]):
            continue
        (found,) = roots
        root.update(dict.fromkeys(results, found))
        members.setdefault(found, []).append(node)
    return root, members


def advance(b, node, env, lookup, tangents):
    """Have `tangents` know the results of a member of a stretch; `env`, too, those of a loop, which makes both at once."""
    ts = [tangents.get(o) for o in node.operands]
    xs, derivative = [lookup(o) for o in node.operands], node.op.derivative
    if not any([t is not None for t in ts]):
        if derivative.joint:
            env.update(zip(node.results, b.keep(node, xs)))
        return
    b.at(node, "vjp")
    if derivative.joint:
        values, found = derivative.push(b, node, xs, ts)
        env.update(zip(node.results, values))
    else:
        found = derivative.jvp(b, node, xs, [env[node.results[0]]], ts)
    tangents.update([(r, t) for r, t in zip(node.results, found) if t is not None])


def pull(b, start, members, exits, env, lookup, tangents=None):
    """The cotangent that `exits`, a list of (value, cotangent, strong), give to the root `start`; its values in `b`.

    strong: why the cotangent holds structural zeros, which stay zero where a derivative is infinite (`Op.masks`).
    tangents: of the members, if they are known: where one is a loop.
    """
    left = {value for value, _, _ in exits}
    needed = []
    for node in reversed(members):
        if any([r in left for r in node.results]):
            needed.append(node)
            left.update(node.operands)
    known = tangents is not None
    tangents = tangents if known else {start: b.full(1, start.type)}
    guarded = math.inf  # how strong zeros must be kept, see `Partials`
    for node in reversed(needed):
        if not known:
            advance(b, node, env, lookup, tangents)
        guarded = min([guarded, *[getattr(n.op.derivative, "guarded", math.inf) for n in _inside(node)]])
    dropping = any([n.op.masks for node in needed for n in _inside(node)])
    total = None
    for value, ct, strong in exits:
        t = tangents.get(value)
        if t is not None:
            b.at(value.node, "vjp")
            ct = b.kept_finite(ct, t) if dropping else ct
            total = b.accumulate(total, b.scale_strongly(t, ct) if strong >= guarded else b.mul(t, ct))
    return total


def _inside(node) -> list:
    """The elementwise nodes that a member consists of."""
    return [node] if not node.regions else [n for region in node.regions for n in region.nodes]
