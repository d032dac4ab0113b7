"""Tiles whose rows run fastest: short rows are packed so that loops are long and vectorized.

In: a group of bodies (tile.py) whose loops, but for the rows, are short. Out: the same group over windows laid out
[element of the row][row of the tile]: innermost loops run over the rows of the tile with unit stride, sums over short axes add
up whole vectors, nothing is reduced within a vector. What comes from outside is packed first, what goes outside unpacked
last, tile by tile, by kernels of the group's own.

The offset s*row + rest of an access by rows becomes row + R*rest. Worth it where the rows do many operations for each element
that has to be packed, and where elements of a row meet in a sum over an axis that fills vectors badly: a mixture model,
distances to a set of centres, products with small matrices. unroll.py comes first: with the shortest rows no memory is
needed at all.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from math import prod

from tapejit.ir.types import tensor

from . import affine
from .loops import Buffer, Load
from .lower import Best, Body, Fold, Put, Scan

SHORT = 48  # elements of a loop, at most
LANES = 8
TINY = 16  # elements whose sum within vectors takes longer than the loop
LONG = 256  # rows, at least
WORK = 4  # operations of a row for each element packed or unpacked
ROW_BYTES = 1 << 13
TILE_BYTES = 1 << 17
ROWS = range(128, 24, -8)


def wanted(group, stride_of, outside) -> bool:
    """Whether packing pays. stride_of: elements of a row per buffer touched by rows; outside: buffers others touch too."""
    extent, meet, work, packed = group.extent, False, 0, 0
    if extent < LONG:
        return False
    for body, axis in zip(group.bodies, group.axes):
        others = [n for v, n in enumerate(body.space) if v != axis]
        if any([n > SHORT for n in others]) or any([type(e) in (Scan, Best) for e in body.effects]):
            return False
        short = [body.space[max(e.axes - {axis})] for e in body.effects if type(e) is Fold and e.axes - {axis}]
        meet |= any([fills_badly(n) for n in short])
        work += body.weight * prod(others)
    packed = sum([s for b, s in stride_of.items() if b in outside and s > 1])
    return meet and work >= WORK * packed and sum(stride_of.values()) * 8 <= ROW_BYTES


def fills_badly(n) -> bool:
    """Whether a loop of n steps leaves vectors mostly empty: the remainder runs element by element."""
    return n <= TINY or 2 * (n // LANES + n % LANES) * LANES >= 3 * n


def rows_of_a_tile(extent, row_bytes):
    """A divisor of the extent, if there is one: then all tiles are alike and the loops over them have constant length."""
    most = max(TILE_BYTES // row_bytes, ROWS[-1])
    return next((r for r in ROWS if r <= most and extent % r == 0), min(64, most - most % 8))


def pack(group, stride_of, outside):
    """Lay the group's buffers out anew; `group.rows` is known."""
    rows, extent = group.rows, group.extent
    there = {}  # buffer -> window
    for buffer, s in stride_of.items():
        if buffer in outside:
            if s == 1:
                continue
            window = Buffer(f"{buffer.name}.rows", tensor(buffer.type.dtype, (s, rows)), ("arena", None))
            window.loads = 1
        else:
            window = buffer
        window.room = s * rows * buffer.type.dtype.itemsize
        group.windows[window] = buffer.type.dtype.itemsize
        there[buffer] = window

    def relaid(at, axis, s):
        rest = (at[0], tuple([t for t in at[1] if t[0] != axis]))
        return affine.add(affine.variable(axis), affine.scale(rest, rows)) if s > 1 else at

    bodies, axes, read, written = [], [], [], []
    for body, axis in zip(group.bodies, group.axes):
        new = copy(body)
        new.statements = []
        for s in body.statements:
            if type(s) is Load and s.buffer in there:
                read.append(s.buffer)
                s = replace(s, buffer=there[s.buffer], at=relaid(s.at, axis, stride_of[s.buffer]))
            new.statements.append(s)
        new.effects = []
        for e in body.effects:
            if e.buffer in there:
                written.append(e.buffer)
                e = replace(e, buffer=there[e.buffer], at=relaid(e.at, axis, stride_of[e.buffer]))
            new.effects.append(e)
        bodies.append(new)
        axes.append(axis)
    for buffer, window in there.items():
        if window is buffer:
            continue
        s = stride_of[buffer]
        here = affine.add(affine.scale(affine.variable(0), s), affine.variable(1))
        inside = affine.add(affine.variable(0), affine.scale(affine.variable(1), rows))
        if buffer in written:
            bodies.append(copying((extent, s), window, inside, buffer, here, "unpack"))
            axes.append(0)
        else:
            bodies.insert(0, copying((extent, s), buffer, here, window, inside, "pack"))
            axes.insert(0, 0)
    group.bodies, group.hypotheses = bodies, [(extent, axes)]


def copying(space, source, at, target, to, origin):
    body = Body(space, None)
    body.effects.append(Put(target, to, body.load(source, at, ())))
    body.origins.append(origin)
    return body
