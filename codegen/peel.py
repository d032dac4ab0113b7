"""Borders peeled off: a loop that tests its index at each step becomes a long loop that does not, and short ones at its ends.

In: an item (lower.Item) over one long loop and the masks of its body, from the pads of a stencil's gradient. Out: the ranges
that the masks cut the loop into, the longest first, and the item over each of them. In every range a mask holds throughout or
nowhere (lower.py drops it), so the long loop reads and computes as plainly as the forward pass does.

The sums of the forward pass run over a range that differs by an element or two (n - 1 differences of n numbers). They are cut
at the same places (`Plan.peeled` of fuse.py), a sum going on where the range before left it: value and gradient then share
one loop, which reads its operands once.
"""

from __future__ import annotations

from . import affine
from .lower import Fold

LONG = 512  # steps of a loop worth it: the borders are kernels of their own
MOST_RANGES = 4


def ranges(masks, extent) -> list:
    """[(start, end), ...], the longest first; [] where nothing is to be gained. masks: tuples of (expression, length)."""
    points = {0, extent}
    for mask in masks:
        for e, n in mask:
            ((v, c),) = e[1] if len(e[1]) == 1 else ((None, 0),)
            if v != 0 or abs(c) != 1:
                return []
            points |= {-e[0], n - e[0]} if c == 1 else {e[0] - n + 1, e[0] + 1}
    points = sorted([p for p in points if 0 <= p <= extent])
    found = sorted(zip(points, points[1:]), key=lambda r: r[0] - r[1])
    start, end = found[0]
    return found if 1 < len(found) <= MOST_RANGES and 2 * (end - start) > extent else []


def restricted(item, start, end, goes_on=False):
    """The item over a range of its one loop; a fold that `goes_on` adds to what others have left."""
    part = item.over((end - start,), {0: affine.shift(affine.variable(0), start)})
    if type(part.effect) is Fold:
        part.effect.resume = goes_on
    part.after |= goes_on
    return part
