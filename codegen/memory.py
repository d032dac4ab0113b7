"""The buffer plan: constant offsets into one arena per call; before that, results in place of operands.

`in_place` lets an elementwise body store a large temporary over one of the same size that it reads for the last time, element
by element: one buffer stands for both from there on.

`plan`. In: the steps in order, and for each the buffers it touches. Out: every arena buffer's `place` is ("arena", offset);
returns the arena's size in bytes. A buffer lives from the first step that touches it to the last; buffers that live at
the same time never overlap, in particular not the inputs and outputs of one kernel, whose pointers are `noalias`.
Freed pieces are reused best fit first and merged with their neighbours. The arena begins with HEADER bytes for the
entry (the value that a failing guard saw) and for interruptions (interrupts.Head). Offsets are multiples of 64 (a cache line,
a full vector); buffers smaller than that share lines.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from .lower import Body, Put

HEADER = 64
LINE = 64
LARGE = 1 << 20  # bytes of a temporary that is stored in place of another


def in_place(steps) -> None:
    """Put bodies that store in place of an operand into the list of steps; all later steps find the result there."""
    first, last = {}, {}
    for i, step in enumerate(steps):
        for b in step.buffers:
            first.setdefault(b, i)
            last[b] = i
    stands = {}  # buffer -> the one in its place
    for i, step in enumerate(steps):
        if not isinstance(step, Body):
            step.redirect(stands)
            continue
        if step.buffers & stands.keys():
            step = steps[i] = step.redirected(lambda b, at: (stands.get(b, b), at))
        for effect in step.effects:
            a, b = operand_to_overwrite(step, effect, i, first, last), effect.buffer
            if a is not None:
                stands[b], last[a], effect.buffer = a, last[b], a
                a.loads += b.loads


def operand_to_overwrite(step, effect, i, first, last):
    """The buffer in whose place this effect of step i may store: large, of the same size, read last here and only there."""
    b, places = effect.buffer, {}
    if type(effect) is not Put or effect.op is not None or step.indexing or not is_large(b) or first[b] != i:
        return None
    if not {v for v, n in enumerate(step.space) if n > 1} <= {v for v, _ in effect.at[1]}:
        return None
    written = [e.buffer for e in step.effects]
    if written.count(b) > 1:
        return None
    for a, at, mask in step.loads:
        places.setdefault(a, set()).add((at, mask))
    for a, at in places.items():
        same = a.type.dtype == b.type.dtype and a.type.nbytes == b.type.nbytes and is_large(a)
        if same and at == {(effect.at, ())} and last[a] == i and a not in written:
            return a
    return None


def is_large(buffer):
    return buffer.place[0] == "arena" and buffer.type.nbytes >= LARGE


def plan(touched: list[list]) -> int:
    """Assign offsets; `touched[i]` lists the buffers of step i."""
    last = {}
    for i, buffers in enumerate(touched):
        for b in buffers:
            if b.place[0] == "arena":
                last[b] = i
    ends = [[] for _ in touched]
    for b, i in last.items():
        ends[i].append(b)
    arena = Arena()
    placed = set()
    for i, buffers in enumerate(touched):
        for b in buffers:
            if b in last and b not in placed:
                placed.add(b)
                b.place = ("arena", arena.take(room(b)))
        for b in ends[i]:
            arena.give(b.place[1], room(b))
    return arena.top


def room(buffer):
    """Bytes kept for a buffer: small ones a power of two, so that they stay aligned to it; others whole lines."""
    n = max(buffer.room, 8)
    return 1 << (n - 1).bit_length() if n < LINE else -(-n // LINE) * LINE


class Arena:
    """Free pieces by offset, and by (size, offset); the end grows."""

    def __init__(self):
        self.top = HEADER
        self.by_offset, self.by_size = [], []
        self.small = {}  # size below a line -> free offsets

    def take(self, size):
        if size < LINE:
            free = self.small.setdefault(size, [])
            if not free:
                line = self.take(LINE)
                free.extend(range(line + LINE - size, line - 1, -size))
            return free.pop()
        k = bisect_left(self.by_size, (size, 0))
        if k == len(self.by_size):
            offset = self.top
            if self.by_offset and sum(self.by_offset[-1]) == self.top:  # stretch the free piece at the end
                offset, length = self.by_offset.pop()
                self.by_size.remove((length, offset))
            self.top = offset + size
            return offset
        length, offset = self.by_size.pop(k)
        self.by_offset.remove((offset, length))
        if length > size:
            self.insert(offset + size, length - size)
        return offset

    def give(self, offset, size):
        if size < LINE:
            self.small[size].append(offset)
            return
        k = bisect_left(self.by_offset, (offset, 0))
        if k < len(self.by_offset) and self.by_offset[k][0] == offset + size:
            after = self.by_offset.pop(k)
            self.by_size.remove(after[::-1])
            size += after[1]
        if k and sum(self.by_offset[k - 1]) == offset:
            before = self.by_offset.pop(k - 1)
            self.by_size.remove(before[::-1])
            offset, size = before[0], size + before[1]
        self.insert(offset, size)

    def insert(self, offset, size):
        insort(self.by_offset, (offset, size))
        insort(self.by_size, (size, offset))


def new_arena(size):
    """A fresh arena, aligned to a line."""
    raw = np.empty(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size]
