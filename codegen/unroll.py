"""Small axes unrolled: arrays of a few elements per row become scalars in registers.

In: the items of a root (lower.Item), one after the other. Out: the same effects over the other loops only, one item for each
point of the small loops; a fold over a small loop becomes an expression. The items of neighbouring roots then run
over the same loops, join one kernel and pass their elements on as SSA values: a mixture model on points of the plane, rigid
bodies, a network of a few neurons become one loop over the rows, vectorized along them, without a temporary in memory.

That pays where rows are long and values of one row meet, in a reduction or a product over a small axis; flat elementwise
work is better off with its loops merged (schedule.py). So the graph is looked at first: `small_rows` answers which
shapes of the remaining loops are worth it; much code, and functions above all, would compile for too long.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

from . import affine
from .lower import Best, Fold, Put, Scan

SMALL_AXIS = 16  # elements: a loop that may be unrolled
SMALL_ROW = 32  # elements of a row over all small loops; for matrix products
SMALL_PRODUCT = 256
LONG = 64  # rows, at least: enough for the vector registers
CODE_LIMIT = 600  # operations of all items of one shape of rows, as fuse.py counts them


def small_loops(space):
    return [v for v, n in enumerate(space) if n <= SMALL_AXIS]


def may_meet(node):
    """Whether elements of a short row may meet in this node: a quick look before items are made."""
    if node.op.kind == "contract":
        return min(node.operands[0].shape + node.operands[1].shape, default=LONG) <= SMALL_AXIS
    if node.op.kind != "reduce" or "axes" not in node.attrs:
        return False
    return any([1 < node.operands[0].shape[a] <= SMALL_AXIS for a in node.attrs["axes"]])


def rows(item):
    """The extents of the loop that stays, or None where an item is not to be unrolled.

    With two loops left the inner one would stride over the small axes of some operand."""
    if type(item.effect) in (Scan, Best) or item.index is not None:
        return None
    small = small_loops(item.space)
    limit = SMALL_PRODUCT if len(item.products[0]) > 1 else SMALL_ROW
    if not small or prod([item.space[v] for v in small]) > limit:
        return None
    kept = tuple([n for n in item.space if n > SMALL_AXIS])
    return kept if len(kept) == 1 and kept[0] >= LONG else None


def small_rows(sized_items) -> frozenset:
    """The extents of remaining loops over which unrolling pays: something is reduced over a small loop there.

    In: pairs of an item and the operations of one of its elements."""
    code, meet = {}, set()
    for item, size in sized_items:
        kept = rows(item)
        if kept is None:
            continue
        small = small_loops(item.space)
        code[kept] = code.get(kept, 0) + size * prod([item.space[v] for v in small])
        if type(item.effect) is Fold and item.effect.axes & set(small):
            meet.add(kept)
    return frozenset([kept for kept in meet if code[kept] <= CODE_LIMIT])


def unrolled(item, wanted) -> list:
    """The items that stand for `item`: itself, or one per element of its small loops."""
    if not wanted or rows(item) not in wanted:
        return [item]
    return _over_points(item, small_loops(item.space))


def flattened(item) -> list:
    """The items that stand for `item`, one per element of all its loops, without any."""
    if type(item.effect) in (Scan, Best):
        return [item]
    return _over_points(item, list(range(len(item.space))))


def _over_points(item, small):
    effect = item.effect
    folded = [v for v in small if type(effect) is Fold and v in effect.axes]
    free = [v for v in small if v not in folded]
    kept = [v for v in range(len(item.space)) if v not in small]
    renumbered = {v: affine.variable(d) for d, v in enumerate(kept)}
    number = {v: d for d, v in enumerate(kept)}
    out = []
    for point in product(*[range(item.space[v]) for v in free]):
        fixed = renumbered | {v: affine.constant(i) for v, i in zip(free, point)}
        products = [
            [(value, tuple([affine.substitute(e, at) for e in map])) for value, map in factors]
            for inner in product(*[range(item.space[v]) for v in folded])
            for at in [fixed | {v: affine.constant(i) for v, i in zip(folded, inner)}]
            for factors in item.products
        ]
        at = affine.substitute(effect.at, fixed)
        combine = effect.op if folded else item.combine
        if type(effect) is Fold and effect.axes <= set(folded):
            made = Put(effect.buffer, at)
        elif type(effect) is Fold:
            made = replace(effect, at=at, axes=frozenset([number[v] for v in effect.axes if v in number]))
        else:
            made = replace(effect, at=at)
        space = tuple([item.space[v] for v in kept])
        out.append(replace(item, space=space, products=products, effect=made, combine=combine))
    return out
