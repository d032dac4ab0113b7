"""Tiles whose rows run fastest: short rows are packed so that loops are long and vectorized.

In: a group of bodies (tile.py) whose loops, but for the rows, are short. Out: the same group over windows laid out
[element of the row][row of the tile]: innermost loops run over the rows of the tile with unit stride, sums over short axes add
up whole vectors, nothing is reduced within a vector. What comes from outside is packed first, what goes outside unpacked
last, tile by tile, by kernels of the group's own.

The offset period*block + s*row + rest of an access by rows becomes row + R*(s*block + rest). Worth it where the rows do many
operations for each element that has to be packed, and where elements of a row meet in a sum over an axis that fills vectors
badly: a mixture model, distances to a set of centres, products with small matrices. unroll.py comes first: with the shortest
rows no memory is needed at all.

Where packing does not pay, `keep` leaves windows in the order of rows: [block][row of the tile][element].
"""

from __future__ import annotations

from math import prod

from tapejit.ir.types import tensor

from . import affine
from .loops import Buffer
from .lower import Best, Body, Fold, Put, Scan

SHORT = 48  # elements of a loop, at most
LANES = 8
TINY = 16  # elements whose sum within vectors takes longer than the loop
LONG = 256  # rows, at least
WORK = 4  # operations of a row for each element packed or unpacked
ROW_BYTES = 1 << 14
TILE_BYTES = 1 << 17
ROWS = range(128, 56, -8)


def wanted(group, stride_of, outside) -> bool:
    """Whether packing pays. stride_of: elements of a row per buffer touched by rows; outside: buffers others touch too."""
    extent, meet, work, packed = group.extent, False, 0, 0
    if extent < LONG:
        return False
    for body, axis in zip(group.bodies, group.axes):
        others = [n for v, n in enumerate(body.space) if v != axis]
        if any([n > SHORT for n in others]) or any([type(e) in (Scan, Best) for e in body.effects]):
            return False
        if type(body) is Body:  # a library fills its vectors well
            short = [body.space[max(e.axes - {axis})] for e in body.effects if type(e) is Fold and e.axes - {axis}]
            meet |= any([fills_badly(n) for n in short])
        work += body.weight * prod(others)
    elements = {b: s * blocks(b, s, extent) for b, s in stride_of.items()}
    packed = sum([n for b, n in elements.items() if b in outside and stride_of[b] > 1])
    return meet and work >= WORK * packed and sum(elements.values()) * 8 <= ROW_BYTES


def fills_badly(n) -> bool:
    """Whether a loop of n steps leaves vectors mostly empty: the remainder runs element by element."""
    return n <= TINY or 2 * (n // LANES + n % LANES) * LANES >= 3 * n


def rows_of_a_tile(extent, row_bytes):
    """A divisor of the extent, if there is one: then all tiles are alike and the loops over them have constant length."""
    most = max(TILE_BYTES // row_bytes, ROWS[-1])
    return next((r for r in ROWS if r <= most and extent % r == 0), min(64, most - most % 8))


def blocks(buffer, stride, extent):
    """How many times so many rows of `stride` elements make up the buffer."""
    return max(1, buffer.type.size // (stride * extent)) if buffer.type.size % (stride * extent) == 0 else 1


def split(at, axis, period):
    """An offset without its rows, in two: multiples of the period, and the rest."""
    outer = tuple([(v, c) for v, c in at[1] if v != axis and c % period == 0])
    rest = tuple([(v, c) for v, c in at[1] if v != axis and c % period])
    return (at[0] // period, tuple([(v, c // period) for v, c in outer])), (at[0] % period, rest)


def keep(group, stride_of, outside):
    """Windows of the group's own buffers, in the order they have; `group.rows` is known."""
    rows, extent = group.rows, group.extent
    there = {}
    for buffer, s in stride_of.items():
        if buffer not in outside:
            size, count = s * buffer.type.dtype.itemsize, blocks(buffer, s, extent)
            group.windows[buffer] = size
            buffer.room = count * rows * size
            if count > 1:
                there[buffer] = buffer

    def relaid(buffer, at, axis):
        s = stride_of[buffer]
        block, rest = split(at, axis, s * extent)
        return affine.add(affine.add(affine.scale(block, s * rows), affine.scale(affine.variable(axis), s)), rest)

    moved(group, there, relaid)


def pack(group, stride_of, outside, filled):
    """Lay the group's buffers out anew, rows fastest; `group.rows` is known. filled: buffers that hold something before."""
    rows, extent = group.rows, group.extent
    there = {}  # buffer -> window
    for buffer, s in stride_of.items():
        elements = s * blocks(buffer, s, extent)
        if buffer in outside:
            if s == 1:
                continue
            window = Buffer(f"{buffer.name}.rows", tensor(buffer.type.dtype, (elements, rows)), ("arena", None))
            window.loads = 1
        else:
            window = buffer
        window.room = elements * rows * buffer.type.dtype.itemsize
        group.windows[window] = buffer.type.dtype.itemsize
        there[buffer] = window

    def relaid(buffer, at, axis):
        s = stride_of[buffer]
        block, rest = split(at, axis, s * extent)
        element = affine.add(affine.scale(block, s), rest)
        return affine.add(affine.variable(axis), affine.scale(element, rows))

    written = moved(group, there, relaid)
    for buffer, window in there.items():
        if window is buffer:
            continue
        s = stride_of[buffer]
        count = blocks(buffer, s, extent)
        block, row, element = map(affine.variable, range(3))
        here = affine.add(affine.add(affine.scale(block, s * extent), affine.scale(row, s)), element)
        inside = affine.add(row, affine.scale(affine.add(affine.scale(block, s), element), rows))
        space = (count, extent, s)
        if buffer in written:
            group.bodies.append(copying(space, window, inside, buffer, here, "unpack"))
            group.axes.append(1)
        if buffer in filled:
            group.bodies.insert(0, copying(space, buffer, here, window, inside, "pack"))
            group.axes.insert(0, 1)


def moved(group, there, relaid) -> set:
    """Let the bodies use these buffers in place of others, at relaid(buffer, offset, rows' axis). The buffers written."""
    written, bodies = set(), []
    for body, axis in zip(group.bodies, group.axes):
        written.update([e.buffer for e in body.effects])
        bodies.append(body.redirected(lambda b, at, axis=axis: (there[b], relaid(b, at, axis)) if b in there else (b, at)))
    group.bodies, group.hypotheses = bodies, [(group.extent, list(group.axes))]
    return written


def copying(space, source, at, target, to, origin):
    body = Body(space, None)
    body.effects.append(Put(target, to, body.load(source, at, ())))
    body.origins.append(origin)
    return body
