"""What slices read of arrays that are written to element by element, or row by row: what was stored there.

In: recorded nodes. Out: nodes in which such slices are gone, or read what was stored, and what stands for their results. So
loops that write into arrays carry values instead, and `reroll.py` stacks what they store.

Arrays that are written to are chains of updates; windows of one kind, as of a chain, are the same or do not overlap. A
slice of what was not written yet is one of the array before. One that is finer than what was stored reads a part of that; one
that is coarser along one short axis is put together. Others stay.
"""

from __future__ import annotations

from ..graph import Node, Value
from ..op import TABLE
from .windows import WIDEST

SLICE, UPDATE, CONCATENATE = TABLE["slice"], TABLE["update"], TABLE["concatenate"]


def forwarded(nodes):
    """(nodes, stands): the nodes, with the slices as they are to be read, and what stands for results that are gone."""
    if not any([node.op is UPDATE for node in nodes]):
        return nodes, {}
    versions, out, stands = {}, [], {}  # an array -> (its chain, its number there)
    for node in nodes:
        if node.op is UPDATE:
            x, part = [stands.get(o, o) for o in node.operands]
            kind, window = _window(node, x.shape)
            chain, number = versions.get(x, (None, 0))
            if chain is None or chain.kind != kind or number != chain.length:
                chain, number = _Chain(x, kind), 0
            if kind is not None:
                chain.stores[window] = part, number + 1
                chain.length = number + 1
                versions[node.results[0]] = chain, number + 1
        elif node.op is SLICE:
            x = stands.get(node.operands[0], node.operands[0])
            chain, number = versions.get(x, (None, 0))
            kind, window = _window(node, x.shape)
            if chain is not None and None not in (kind, chain.kind):
                made = chain.read(node, kind, window, number)
                if isinstance(made, Value):
                    stands[node.results[0]] = made
                    continue
                if made is not None:
                    stands[node.results[0]] = made.results[0]
                    node = made
        out.append(node)
    return out, stands


class _Chain:
    """What was stored into versions 1 to `length` of the array `base`, by windows of one kind."""

    def __init__(self, base, kind):
        self.base, self.kind, self.length, self.stores = base, kind, 0, {}

    def read(self, node, kind, window, number):
        """What a slice of a version reads: the value that was stored there, a Node that makes it of what was stored or of the
        array before, or None."""
        wider = [a for a, (own, one) in enumerate(zip(self.kind, kind)) if one and not own]
        narrower = [a for a, (own, one) in enumerate(zip(self.kind, kind)) if own and not one]
        shape = self.base.shape
        whole = self.within(window, {a: (0, shape[a]) for a in wider})
        lanes = [whole]
        if len(narrower) == 1 and shape[narrower[0]] <= WIDEST:
            lanes = [self.within(whole, {narrower[0]: (i, i + 1)}) for i in range(shape[narrower[0]])]
        elif narrower:
            return None
        stored = [self.stores.get(w, (None, 0)) for w in lanes]
        parts = [part for part, made in stored if part is not None and made <= number]
        if not any([part is not None for part, _ in stored]):
            return Node(SLICE, (self.base,), node.attrs, [node.results[0].type], (), node.loc, node.tag)
        if len(parts) < len(stored) or (wider and narrower):
            return None
        if narrower:
            attrs = {"axis": narrower[0]}
            return Node(CONCATENATE, tuple(parts), attrs, [node.results[0].type], (), node.loc, node.tag)
        if not wider:
            return parts[0] if parts[0].type is node.results[0].type else None
        start = tuple([window[0][a] if a in wider else 0 for a in range(len(shape))])
        attrs = {"start": start, "stop": tuple([a + 1 for a in start]), "step": (1,) * len(shape)}
        attrs["stop"] = tuple([z if a in wider else n for a, (z, n) in enumerate(zip(attrs["stop"], parts[0].shape))])
        return Node(SLICE, (parts[0],), attrs, [node.results[0].type], (), node.loc, node.tag)

    @staticmethod
    def within(window, spans):
        """The window with other spans along some axes."""
        start, stop = map(list, window)
        for a, (low, high) in spans.items():
            start[a], stop[a] = low, high
        return tuple(start), tuple(stop)


def _window(node, shape):
    """(kind, window) of a slice or update whose axes are whole or one element each, else (None, None)."""
    start, stop, step = node.attrs["start"], node.attrs["stop"], node.attrs["step"]
    kind = tuple([z - a == 1 for a, z in zip(start, stop)])
    if not all([one or (a, z, k) == (0, n, 1) for one, a, z, k, n in zip(kind, start, stop, step, shape)]):
        return None, None
    return kind, (start, stop)
