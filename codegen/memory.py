"""The buffer plan: constant offsets into one arena per call.

In: the steps in order, and for each the buffers it touches. Out: every arena buffer's `place` is ("arena", offset);
returns the arena's size in bytes. A buffer lives from the first step that touches it to the last; buffers that live at
the same time never overlap, in particular not the inputs and outputs of one kernel, whose pointers are `noalias`.
Freed pieces are reused best fit first and merged with their neighbours. The arena begins with HEADER bytes for the
entry (the value that a failing guard saw). Offsets are multiples of 64 (a cache line, a full vector); buffers smaller
than that share lines.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

HEADER = 64
LINE = 64


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
