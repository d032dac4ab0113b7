"""Structural zeros: matrices that are zero but for a few diagonals are computed along those diagonals only.

In: a graph of no further derivative. Out: an equal graph in which each result that is such a matrix is made as zeros into which
the diagonals are scattered: O(n) operations and one fill in place of O(n**2) operations. Jacobians and Hessians of
functions of neighbours (finite differences, chains, sums of local terms) come out of forward and reverse mode like this,
because their seed is the identity, `iota == iota'`.

While the graph is copied each matrix known to be banded has a `Band` beside it: for each diagonal d (the elements [i, i + d]),
from which row on and with which values, a vector or one number. Elementwise products with anything that is constant
along rows or columns, sums of bands, slices, zero padding, transposition and sums over an axis stay in this form. The dense
nodes that nobody needs then vanish with the copy.

A structural zero stays zero whatever it is multiplied by: where an entry of the function is infinite the dense computation
gives 0 * inf = NaN all over its row, this one only where the derivative is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..build import Builder
from ..graph import Constant, Graph
from ..ops.elementwise import made_by
from ..types import I64
from ..walk import Copy, walk

LEAST = 1024  # elements of a matrix from which on it pays
MOST_DIAGONALS = 16


@dataclass(frozen=True)
class Diagonal:
    """Elements [row + k, row + k + d] for k in range(length): `values[k]`, or the one number `values`."""

    row: int
    length: int
    values: object


def use_bands(graph: Graph) -> Graph:
    """The graph with banded results made of their diagonals; itself if there are none."""
    if not any([r.ndim == 2 and r.type.size >= LEAST for r in graph.results]):
        return graph
    if not any([node.op.name == "iota" for node in graph.nodes]):
        return graph
    b = Builder(graph.name)
    handler = _Bands(b)
    results = walk(graph, handler, list(b.params_of(graph.params).values()))
    made = [handler.dense(r) for r in results]
    if all([new is old for new, old in zip(made, results)]):
        return graph
    return b.finish(made)


class _Bands(Copy):
    def __init__(self, builder):
        super().__init__(builder)
        self.bands = {}  # value -> {d: Diagonal}

    def node(self, node, operands):
        results = super().node(node, operands)
        rule = RULES.get(node.op.name)
        if rule is not None and results[0] not in self.bands and results[0].ndim in (1, 2):
            found = rule(self, node, operands, results[0])
            if found is not None and len(found) <= MOST_DIAGONALS:
                self.bands[results[0]] = found
        return results

    def dense(self, value):
        """A result made of its diagonals if it is a large band, else as it is."""
        band = self.bands.get(value)
        if band is None or value.type.size < LEAST or sum([d.length for d in band.values()]) * 4 > value.type.size:
            return value
        b, (rows, columns) = self.builder, value.shape
        flat = b.broadcast_to(b.constant(0, value.dtype), (rows * columns,))
        for d, diagonal in sorted(band.items()):
            first = diagonal.row * columns + diagonal.row + d
            at = b.add(b.mul(b.iota(shape=(diagonal.length,), dtype=I64), columns + 1), first)
            flat = b.scatter(flat, at, b.broadcast_to(diagonal.values, (diagonal.length,)))
        return b.reshape(flat, shape=value.shape)

    def part(self, diagonal, row, length):
        """Values of a diagonal from another row on, within it."""
        if diagonal.values.ndim == 0 or (row, length) == (diagonal.row, diagonal.length):
            return diagonal.values
        start = row - diagonal.row
        return self.builder.slice(diagonal.values, start=(start,), stop=(start + length,), step=(1,))

    def along(self, value, shape, d, row, length):
        """Elements [row + k, row + k + d] of a value stretched to `shape`; None if it varies along both axes."""
        b = self.builder
        while (inner := made_by(value, "broadcast")) and inner[0].ndim:
            value = inner[0]
        if value.ndim == 0 or value.type.size == 1:
            return b.reshape_to(value, ())
        if value.ndim == 1 or value.shape[0] == 1:
            start, size = row + d, value.shape[-1]
        elif value.shape[1] == 1:
            start, size = row, value.shape[0]
        else:
            return None
        return b.slice(b.reshape_to(value, (size,)), start=(start,), stop=(start + length,), step=(1,))


def _index(value, shape):
    """(axis, offset) if a value stretched to `shape` is the row or column number plus an offset."""
    offset = 0
    while value.node is not None:
        node = value.node
        if node.op.name == "iota" and node.attrs["dtype"] == I64 and value.ndim == 1:
            return 1, offset
        if node.op.name == "broadcast":
            value = node.operands[0]
        elif node.op.name in ("add", "sub") and type(node.operands[1]) is Constant:
            step = node.operands[1].data
            offset += step if node.op.name == "add" else -step
            value = node.operands[0]
        elif node.op.name == "reshape" and made_by(node.operands[0], "iota") is not None and value.ndim == 2:
            if value.shape in ((shape[0], 1), (1, shape[1])):
                return int(value.shape[0] == 1 and shape[1] != 1), offset
            return None
        else:
            return None
    return None


def _eq(h, node, operands, out):
    if out.ndim != 2 or 1 in out.shape:
        return None
    sides = [_index(o, out.shape) if o.ndim else None for o in operands]
    if None in sides or {axis for axis, _ in sides} != {0, 1}:
        return None
    offset = dict(sides)  # row + offset[0] == column + offset[1]
    return _clipped({offset[0] - offset[1]: h.builder.constant(True, out.dtype)}, out.shape)


def _clipped(numbers, shape):
    """Whole diagonals of one number each."""
    out = {}
    for d, number in numbers.items():
        first, last = max(0, -d), min(shape[0], shape[1] - d)
        if first < last:
            out[d] = Diagonal(first, last - first, number)
    return out


def _each(h, node, operands, out):
    """Operations of one operand that keep zero zero."""
    band = h.bands.get(operands[0])
    if band is None:
        return None

    def applied(x):
        return h.builder.apply(node.op, (x,), node.attrs)[0]

    return {d: Diagonal(g.row, g.length, applied(g.values)) for d, g in band.items()}


def _product(h, node, operands, out):
    """A band times, or divided by, what is constant along an axis; or two bands."""
    x, y = operands
    left, right = h.bands.get(x), h.bands.get(y)
    if node.op.name == "div" and (left is None or right is not None):
        return None
    apply = getattr(h.builder, node.op.name)
    result = {}
    if left is not None and right is not None:
        for d in left.keys() & right.keys():
            p, q = left[d], right[d]
            row = max(p.row, q.row)
            length = min(p.row + p.length, q.row + q.length) - row
            if length > 0:
                result[d] = Diagonal(row, length, apply(h.part(p, row, length), h.part(q, row, length)))
        return result
    band, other = (left, y) if left is not None else (right, x)
    if band is None or other.ndim > 2 or (x if left is not None else y).shape != out.shape:
        return None
    for d, g in band.items():
        factor = h.along(other, out.shape, d, g.row, g.length)
        if factor is None:
            return None
        result[d] = Diagonal(g.row, g.length, apply(g.values, factor) if left is not None else apply(factor, g.values))
    return result


def _sum(h, node, operands, out):
    left, right = (h.bands.get(o) for o in operands)
    if left is None or right is None or operands[0].shape != operands[1].shape:
        return None
    apply, b, result = getattr(h.builder, node.op.name), h.builder, {}
    for d in left.keys() | right.keys():
        p, q = left.get(d), right.get(d)
        if q is None:
            result[d] = p
        elif p is None:
            result[d] = q if node.op.name == "add" else Diagonal(q.row, q.length, b.neg(q.values))
        else:
            row, end = min(p.row, q.row), max(p.row + p.length, q.row + q.length)
            result[d] = Diagonal(row, end - row, apply(*[_stretched(b, g, row, end) for g in (p, q)]))
    return result


def _stretched(b, g, row, end):
    """The values of a diagonal with zeros before and after."""
    if (g.row, g.row + g.length) == (row, end):
        return g.values
    values = b.broadcast_to(g.values, (g.length,))
    return b.pad(values, low=(g.row - row,), high=(end - g.row - g.length,), interior=(0,))


def _slice(h, node, operands, out):
    band = h.bands.get(operands[0])
    start = node.attrs["start"]
    if band is None or set(node.attrs["step"]) != {1}:
        return None
    result = {}
    for d, g in band.items():
        moved = d + start[0] - start[1]
        row = max(g.row - start[0], 0, -moved)
        end = min(g.row + g.length - start[0], out.shape[0], out.shape[1] - moved)
        if row < end:
            result[moved] = Diagonal(row, end - row, h.part(g, row + start[0], end - row))
    return result


def _pad(h, node, operands, out):
    band = h.bands.get(operands[0])
    if band is None or any(node.attrs["interior"]):
        return None
    low = node.attrs["low"]
    return {d + low[1] - low[0]: Diagonal(g.row + low[0], g.length, g.values) for d, g in band.items()}


def _transpose(h, node, operands, out):
    band = h.bands.get(operands[0])
    if band is None or node.attrs["perm"] != (1, 0):
        return None
    return {-d: Diagonal(g.row + d, g.length, g.values) for d, g in band.items()}


RULES = {
    "eq": _eq, "convert": _each, "neg": _each, "mul": _product, "div": _product, "add": _sum, "sub": _sum, "slice": _slice,
    "pad": _pad, "transpose": _transpose,
}  # fmt: skip
