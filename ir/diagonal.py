"""Elementwise stretches of a program, for reverse mode: where the Jacobian is diagonal, forward mode is reverse mode.

A value's *root* is the latest active value of the same type that it depends on elementwise and alone: in
`y = exp(sin(x) * x)` the root of all three results is x. Along such a stretch dy/dx is one number per element, which a
forward sweep from 1 finds at the cost of a reverse sweep; the cotangent of x is then ct_y * dy/dx. Why do so:
  - the sweep needs the values in the order in which they are computed, so nothing is kept for later: value and
    derivative come out of one pass over the data;
  - it repeats well. Differentiating again meets the same tangents, which value numbering and `passes/equal.py` merge,
    so k-th derivatives grow polynomially, where reverse over reverse doubles;
  - a `where` inside drops the branch not taken by selection, not by multiplying with zero.
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
        if node.op.kind != "elementwise" or node.results[0] not in on:
            continue
        (result,) = node.results
        roots = {root.get(o, o) for o in node.operands if o in on}
        if len(roots) == 1:
            (found,) = roots
            if found.type is result.type:
                root[result] = found
                members.setdefault(found, []).append(node)
    return root, members


def pull(b, start, members, exits, env, lookup):
    """The cotangent that `exits`, a list of (value, cotangent, strong), give to the root `start`; its values in `b`.

    strong: why the cotangent holds structural zeros, which stay zero where a derivative is infinite (`Op.masks`).
    """
    left = {value for value, _, _ in exits}
    needed = []
    for node in reversed(members):
        if node.results[0] in left:
            needed.append(node)
            left.update(node.operands)
    tangents = {start: b.full(1, start.type)}
    guarded = math.inf  # how strong zeros must be kept, see `Partials`
    for node in reversed(needed):
        ts = [tangents.get(o) for o in node.operands]
        if any([t is not None for t in ts]):
            b.at(node, "vjp")
            (t,) = node.op.derivative.jvp(b, node, [lookup(o) for o in node.operands], [env[node.results[0]]], ts)
            if t is not None:
                tangents[node.results[0]] = t
            guarded = min(guarded, getattr(node.op.derivative, "guarded", math.inf))
    total = None
    for value, ct, strong in exits:
        t = tangents.get(value)
        if t is not None:
            b.at(value.node, "vjp")
            total = b.accumulate(total, b.scale_strongly(t, ct) if strong >= guarded else b.mul(t, ct))
    return total
