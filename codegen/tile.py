"""Kernels over the same rows run tile by tile: what one writes the next reads from a near cache.

In: the steps of a program (fuse.py), bodies not yet scheduled. Out: steps in which runs of bodies are gathered into
`Group`s. A group runs as

    for rows in tiles of R:  kernel_1(rows); kernel_2(rows); ...

where every kernel keeps its own loops, over its rows only. A softmax, a norm, the responsibilities of a mixture, a
loss over a data matrix that is read by the prediction and again by its gradient pass through memory once.

Legal if each buffer that one body of the group writes and another touches is touched *by rows*: in every access the row
variable has the same coefficient s > 0 and the other terms stay within [0, s), but for multiples of s * extent: a buffer is
[blocks][rows][s elements]. Then iteration r of a body meets nothing but iteration r of the others. Folds over the rows
themselves go on from tile to tile (`Fold.resume`): their buffers are filled with the start value before the group, and
nothing in the group may read them.

Worth it if the bodies share more by rows than the near caches hold. A buffer that no other step touches needs no more room
than a tile: it shrinks to a window, whose base moves with the tile. R follows from the bytes of a row. Products that the
library computes are bodies too (blas.Product), as long as they are small for each row: a tile of them is one call.

Which axis of a body runs over the rows is not written anywhere: each group carries the hypotheses that are still
possible, one axis per body, and a body joins if at least one survives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from tapejit.ir.types import BOOL, tensor

from . import affine, pack
from .blas import Product, lowered
from .loops import Buffer, Fill, Region, Tiles
from .lower import Best, Body, Fold, Put, Scan
from .memory import LINE
from .schedule import is_dead, loop_order, schedule

SHARED_BYTES = 1 << 20  # bytes met again by rows from which on tiles pay: what does not fit the nearer caches
TILE_BYTES = 1 << 17  # of one tile over all buffers touched by rows
LEAST_ROWS = 32
LEAST_EXTENT = 128  # rows of a group
OPEN_GROUPS = 4  # groups that may still grow
HYPOTHESES = 8
MOST_BODIES = 60
SMALL_PRODUCT = 2048  # multiplications for a row in a library's product: more of them are worth large calls

# Work is estimated (measured: AVX-512, memory between the second cache and RAM). A fork and join takes 2 us while the workers
# spin, up to 30 us if they have to be woken.
PIECE_NANOSECONDS = 10_000  # of a piece for one thread, at least
LEAST_PIECES = 4
MOST_PIECES = 64
WHOLE_LINES = 64  # rows of pieces come in multiples of this, so that threads do not write to the same cache lines
INSTRUCTION_NANOSECONDS = 0.02
BYTE_NANOSECONDS = 0.02
RUN_BYTES = 1 << 15  # in one go of a piece that is cut from the inner loops: memory is best read in long runs
SMALL_PARTS = 1 << 18  # bytes of the parts that folds over the rows are made of, which may always be; more of them may be
PARTS_SHARE = 8  # this fraction of what the step touches


@dataclass(eq=False)
class Group:
    """bodies, and for each hypothesis (rows, axis of each body). windows: buffers shrunk to a tile: bytes of a row."""

    bodies: list
    hypotheses: list
    since: tuple = field(default_factory=lambda: (set(), set()))  # buffers (touched, written) by later steps outside
    windows: dict = field(default_factory=dict)
    rows: int = 0  # of a tile
    piece: int = 0  # rows of what one thread takes at a time, 0 if all is one
    partials: dict = field(default_factory=dict)
    scratch: Buffer | None = None

    @property
    def extent(self):
        return self.hypotheses[0][0]

    @property
    def axes(self):
        return self.hypotheses[0][1]


def tiled(steps) -> list:
    """The steps with groups; a body stands where its group's first one stood."""
    out, open_groups = [], []
    for step in steps:
        if not isinstance(step, Body):
            for group in open_groups:
                group.since[0].update(step.reads)
                group.since[1].update(step.writes)
            out.append(step)
            continue
        joined = next((g for g in reversed(open_groups) if joins(g, step)), None)
        reads, writes = touched_by(step)
        for group in open_groups:
            if group is not joined:
                group.since[0].update(reads)
                group.since[1].update(writes)
        if joined is None:
            axes = row_axes(step)
            joined = Group([step], sorted([(step.space[a], [a]) for a in axes], reverse=True))
            out.append(joined)
            if axes:
                open_groups = [*open_groups[1 - OPEN_GROUPS :], joined]
    users = users_of(steps)
    finished = [one for step in out for one in (finish(step, users) if type(step) is Group else [step])]
    return [one for step in finished for one in (in_pieces(step) if type(step) in (Body, Group) else [step])]


def scheduled(step) -> list:
    """The step as loops: the kernel of a body, the kernels of a group, what stands for a region; nothing where nothing it
    stores is wanted."""
    if isinstance(step, Body):
        kernel = loops_of(step)
        return [] if kernel is None else [kernel]
    if type(step) is Region and step.steps is not None:
        return step.steps
    if type(step) is not Group:
        return [step]
    kernels = [loops_of(body, axis, step.rows) for body, axis in zip(step.bodies, step.axes)]
    kernels = [k for k in kernels if k is not None]
    return [Tiles(kernels, step.extent, step.rows, step.windows, step.piece, step.partials, step.scratch)]


def loops_of(body, axis=None, rows=0):
    return lowered(body, axis, rows) if type(body) is Product else schedule(body, axis)


# ---- legality ----------------------------------------------------------------------------------------------------------
def effects_of(body):
    return [e for e in body.effects if not is_dead(e)]


def accesses(body):
    """(buffer, offset) of every load and live effect."""
    return [(b, at) for b, at, _ in body.loads] + [(e.buffer, e.at) for e in effects_of(body)]


def touched_by(body):
    return {b for b, _, _ in body.loads}, {e.buffer for e in effects_of(body)}


def row_axes(body):
    """Loops that may be cut into tiles."""
    if type(body) is Product:
        most = SMALL_PRODUCT * prod(body.space[:-3])
        last = range(len(body.space) - 3, len(body.space))
        return [v for v in last if body.space[v] >= LEAST_EXTENT and prod(body.space) // body.space[v] <= most]
    if body.indexing or body.ordered and any([type(e) is Put for e in body.effects]):
        return []
    running = any([type(e) in (Scan, Best) for e in body.effects])
    return [v for v in range(len(body.space) - running) if body.space[v] >= LEAST_EXTENT]


def stride(body, axis, buffer, at):
    """The coefficient of the rows if the access is by rows, else 0."""
    s, extent = affine.coefficient(at, axis), body.space[axis]
    if s <= 0:
        return 0
    rest = (at[0], tuple([t for t in at[1] if t[0] != axis]))
    if pack.blocks(buffer, s, extent) > 1:
        _, rest = pack.split(at, axis, s * extent)
    low, high = affine.bounds((0, rest[1]), body.extent)
    return s if rest[0] + low >= 0 and rest[0] + high < s else 0


def strides(body, axis):
    """Per buffer: the stride of its rows, or 0 if an access is not by rows or they differ."""
    out = {}
    for buffer, at in accesses(body):
        s = stride(body, axis, buffer, at)
        out[buffer] = s if out.get(buffer, s) == s else 0
    return out


def joins(group, body):
    """Add the body to the group if it may run there; says whether."""
    reads, writes = touched_by(body)
    outside_reads, outside_writes = group.since
    if reads & outside_writes or writes & (outside_reads | outside_writes):
        return False
    axes = row_axes(body)
    survivors = []
    for extent, chosen in group.hypotheses:
        known = [strides(b, a) for b, a in zip(group.bodies, chosen)]
        for a in axes:
            if body.space[a] == extent and compatible(group, known, body, strides(body, a)):
                survivors.append((extent, [*chosen, a]))
    if not survivors or len(group.bodies) >= MOST_BODIES:
        return False
    group.hypotheses = survivors[:HYPOTHESES]
    group.bodies.append(body)
    return True


def compatible(group, known, body, mine):
    """Whether the body meets each earlier one by rows wherever either writes, and shares something by rows."""
    _, my_writes = touched_by(body)
    shared = False
    for other, theirs in zip(group.bodies, known):
        _, their_writes = touched_by(other)
        for buffer in mine.keys() & theirs.keys():
            same = mine[buffer] == theirs[buffer] != 0
            if not same and buffer in my_writes | their_writes:
                return False
            shared |= same
    return shared


# ---- finishing ---------------------------------------------------------------------------------------------------------
def finish(group, users):
    """The steps that run the group: the fills it needs, then itself; or its bodies if tiles do not pay or may not be."""
    if len(group.bodies) == 1:
        return group.bodies
    stride_of, count = {}, {}
    for body, axis in zip(group.bodies, group.axes):
        for buffer, s in strides(body, axis).items():
            stride_of[buffer] = s if stride_of.get(buffer, s) == s else 0
            count[buffer] = count.get(buffer, 0) + 1
    stride_of = {b: s for b, s in stride_of.items() if s}
    mine = {id(body) for body in group.bodies}
    outside = {b for b in stride_of if b.place[0] != "arena" or {id(step) for step in users[b]} - mine}
    packed = pack.wanted(group, stride_of, outside)
    if not packed and sum([b.type.nbytes for b in stride_of if count[b] > 1]) < SHARED_BYTES:
        return group.bodies
    carried = carried_by(group)
    if any([{id(body) for body in writers(users[e.buffer], e.buffer)} - mine for e in carried]):
        return group.bodies
    for e in carried:
        e.resume = True
    row_bytes = sum([s * pack.blocks(b, s, group.extent) * b.type.dtype.itemsize for b, s in stride_of.items()])
    group.rows = (pack.rows_of_a_tile if packed else rows_of_a_tile)(group.extent, row_bytes)
    if packed:
        filled = {b for b in outside if b.place[0] in ("input", "constant") or {id(s) for s in writers(users[b], b)} - mine}
        pack.pack(group, stride_of, outside, filled)
    else:
        pack.keep(group, stride_of, outside)
    return [group]


def carried_by(group, with_bodies=False):
    """The folds over the rows."""
    found = [(b, e) for b, axis in zip(group.bodies, group.axes) for e in effects_of(b) if type(e) is Fold and axis in e.axes]
    return found if with_bodies else [e for _, e in found]


def writers(steps, buffer):
    return [s for s in steps if (any([e.buffer is buffer for e in s.effects]) if isinstance(s, Body) else buffer in s.writes)]


def users_of(steps):
    """Per buffer the steps that touch it."""
    out = {}
    for step in steps:
        for buffer in set.union(*touched_by(step)) if isinstance(step, Body) else step.buffers:
            out.setdefault(buffer, []).append(step)
    return out


def rows_of_a_tile(extent, row_bytes):
    rows = max(TILE_BYTES // row_bytes, LEAST_ROWS)
    rows -= rows % (64 if rows >= 64 else 8)  # whole vectors
    return min(rows, extent)


# ---- pieces ------------------------------------------------------------------------------------------------------------
def in_pieces(step) -> list:
    """The steps that run a body or a group, cut into pieces for several threads if there is enough to do.

    How many pieces depends on the work alone, so that sums are added up in the same order by any number of threads: each
    piece folds the rows into a part of its own, the parts are folded in order.
    """
    pieces, group = (pieces_of(step), step) if type(step) is Group else alone(step)
    if pieces < 2:
        if type(step) is Body:
            return [step]
        return [*[Fill(e.buffer, e.start) for e in {e.buffer: e for e in carried_by(group)}.values()], group]
    unit = group.rows if type(step) is Group else WHOLE_LINES if group.extent >= pieces * WHOLE_LINES else 1
    group.piece = -(-group.extent // (pieces * unit)) * unit
    if type(step) is Body:
        group.rows = group.piece
    pieces = -(-group.extent // group.piece)
    room = 0
    for window in group.windows:
        window.place = ("scratch", room)
        room += -(-window.room // LINE) * LINE
    group.scratch = Buffer("scratch", tensor(BOOL, (room,)), ("arena", None)) if room else None
    parts, after = {}, {}
    for body, e in carried_by(group, with_bodies=True):
        e.resume = True
        buffer = e.buffer
        if buffer not in parts:
            line = LINE // buffer.type.dtype.itemsize  # no two parts share one
            type_of_parts = tensor(buffer.type.dtype, (pieces, -(-buffer.type.size // line) * line))
            made = parts[buffer] = Buffer(f"{buffer.name}.parts", type_of_parts, ("arena", None))
            made.loads = 1
            group.partials[made] = e.start
        combine(after, body, e, parts[buffer])
        e.buffer = parts[buffer]
    return [group, *after.values()]


def alone(body):
    """(pieces, group of one body over the loop that is cut best), or (0, None).

    The rows of one body may meet as they like: no two points store the same element but in folds and in scatters.
    """
    effects = effects_of(body)
    if not effects or any([type(e) is Put and (e.op is not None or any([v < 0 for v, _ in e.at[1]])) for e in effects]):
        return 0, None
    order = loop_order(body, effects)
    best, inside = (0, None), prod(body.space)
    for v in order[: len(order) - any([type(e) in (Scan, Best) for e in effects])]:
        group = Group([body], [(body.space[v], [v])])
        runs = MOST_PIECES if v == order[0] else 8 * inside // RUN_BYTES
        best = max(best, (min(pieces_of(group), runs), group), key=lambda pair: pair[0])
        inside //= body.space[v]
    return best


def pieces_of(group):
    """About how many pieces the work is worth; parts must not take much of the memory that is touched anyway."""
    worth = int(sum([nanoseconds(b) for b in group.bodies]) // PIECE_NANOSECONDS)
    if worth < LEAST_PIECES:
        return 1
    pieces = min(worth, MOST_PIECES, group.extent)
    parts = sum([b.type.nbytes for b in {e.buffer for e in carried_by(group)}])
    if parts * pieces > SMALL_PARTS:
        touched = sum([b.type.nbytes for b in {b for body in group.bodies for b in set.union(*touched_by(body))}])
        pieces = min(pieces, max(SMALL_PARTS, touched // PARTS_SHARE) // parts)
    return pieces


def nanoseconds(body):
    """About how long a body takes on one core."""
    points = prod(body.space)
    bytes = sum([min(b.type.nbytes, points * b.type.dtype.itemsize) for b in set.union(*touched_by(body))])
    return points * body.weight * INSTRUCTION_NANOSECONDS + bytes * BYTE_NANOSECONDS


def combine(after, body, fold, parts):
    """Add to the bodies by space: fold the parts, element by element of what this fold stores, into its buffer.

    Other elements of the buffer may be another body's.
    """
    kept = [v for v, _ in fold.at[1]]
    space = (parts.type.shape[0], *[body.space[v] for v in kept])
    at = affine.substitute(fold.at, {v: affine.variable(i + 1) for i, v in enumerate(kept)})
    folding = after.setdefault(space, Body(space, None))
    value = folding.load(parts, affine.add(affine.scale(affine.variable(0), parts.type.shape[1]), at), ())
    folding.effects.append(Fold(fold.buffer, at, fold.op, frozenset([0]), fold.start, value))
    folding.origins.append("parts")
