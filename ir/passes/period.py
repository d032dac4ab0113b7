"""Where a program repeats itself: candidates for `reroll.py`.

In: the nodes of a graph as recorded. Out: (start, period, repetitions) of stretches that are the same operations, attributes
and result types over and over, recorded by the same instructions of the user's code. What they compute on is not looked at.

Each node gets a number, equal for nodes that look alike. An anchor is a number that comes again at equal distances: that
distance proposes the period, and one comparison of the whole stretch with itself, shifted, tells how far it holds. Rare
anchors come first: they belong to the outer ones of nested loops. All is linear in the nodes but for the few anchors, and
the comparisons are NumPy's.
"""

from __future__ import annotations

import numpy as np

from ..op import TABLE

LEAST = 8  # iterations
MULTIPLES = (1, 2, 3, 4)  # of an anchor's distance that are tried as the period
ANCHORS = 400  # that are tried at most
WINDOWED = frozenset([TABLE["slice"], TABLE["update"]])  # their windows may move from iteration to iteration


def signatures(nodes) -> np.ndarray:
    """A number per node, equal where only operands differ (and where a window starts)."""
    quick, known, out = {}, {}, []
    for node in nodes:
        loc, attrs = node.loc, node.attrs
        if loc is None or node.tag or node.op.arity is None or len(node.results) != 1:
            out.append(known.setdefault(_look(node), len(known)))
            continue
        key = (node.op, id(loc[0]), loc[1], node.results[0].type)
        if attrs:
            key += _attrs(node)
        number = quick.get(key)
        if number is None:
            number = quick[key] = known.setdefault(_look(node), len(known))
        out.append(number)
    return np.array(out, np.int64)


def _look(node) -> tuple:
    """All of a node that counts."""
    regions = tuple([region.digest for region in node.regions])
    types = tuple([r.type for r in node.results])
    return node.op, node.tag, _place(node.loc), types, len(node.operands), _attrs(node), regions


def _attrs(node) -> tuple:
    """The attributes that count; numbers of tables by their spelling, for 0.0 is not -0.0."""
    if node.op in WINDOWED:
        return (node.attrs["step"],)
    return tuple(node.attrs.items()) if node.operands else (repr(node.attrs),)


def _place(loc):
    """Where in the source an instruction is: its own number changes when the interpreter replaces it by a quicker one."""
    if loc is None:
        return None
    code, at = loc
    if hasattr(code, "co_positions"):
        for i, position in enumerate(code.co_positions()):
            if 2 * i == at:
                return id(code), position
    return code if type(code) is str else id(code), at


def anchors(numbers) -> list:
    """[(start, period, repetitions)] proposed by numbers that come again at equal distances, the rarest first."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    ends = np.cumsum(counts)
    out = []
    for number in np.argsort(counts, kind="stable"):
        if counts[number] < LEAST:
            continue
        places = order[ends[number] - counts[number] : ends[number]]
        for times in MULTIPLES:
            out += _equal_steps(places, times)
        if len(out) >= ANCHORS:
            break
    return out[:ANCHORS]


def _equal_steps(places, times):
    """The stretches of `places` whose every `times`-th are equally far apart."""
    steps = places[times:] - places[:-times]
    if len(steps) < times * (LEAST - 1):
        return []
    cuts = np.flatnonzero(np.diff(steps)) + 1
    begins, stops = np.r_[0, cuts], np.r_[cuts, len(steps)]
    long = np.flatnonzero(stops - begins >= times * (LEAST - 1))
    return [(int(places[b]), int(steps[b]), int(s - b) // times + 1) for b, s in zip(begins[long], stops[long])]


def extent(numbers, start, period, low, high) -> tuple[int, int]:
    """(first, stop) of the stretch around `start`, within [low, high), whose nodes look like those a period on."""
    here = numbers[low : high - period]
    same = here == numbers[low + period : high]
    at = start - low
    if not 0 <= at < len(same) or not same[at]:
        return start, start
    breaks = np.flatnonzero(~same)
    k = np.searchsorted(breaks, at)
    first = int(breaks[k - 1]) + 1 if k else 0
    stop = int(breaks[k]) if k < len(breaks) else len(same)
    return low + first, low + stop + period
