"""Body -> loop nest: the order of the loops, which of them become one, and where each statement stands.

In: a `Body` (statements of one point of the iteration space, and effects). Out: a `Kernel`, nested `For`s. Loops are
ordered so that the innermost one walks memory in unit steps (largest total stride outermost; natural order where an
effect depends on it), then neighbours are merged where every expression runs through both as through one. A statement
stands in the outermost loop that it depends on.

A fold whose loops are all innermost accumulates in a register; with kept loops inside it accumulates in memory, in the
output row, which the loop just outside fills with the start value: no access strides through memory.
"""

from __future__ import annotations

from dataclasses import replace

from tapejit.ir.graph import Constant
from tapejit.ir.types import I64, tensor

from . import affine
from .loops import Accumulate, Arg, Bind, For, Index, Inside, Kernel, Let, Load, Read, Register, Store
from .lower import Best, Fold, Put, Scan

STORE_WEIGHT = 2


def schedule(body, rows=None) -> Kernel | None:
    """The kernel of a body, or None if nothing it stores is wanted. rows: the loop that runs over the rows of a tile."""
    live = [(e, origin) for e, origin in zip(body.effects, body.origins) if not is_dead(e)]
    if not live:
        return None
    effects = [e for e, _ in live]
    order = loop_order(body, effects)
    statements, effects, order, extents, rows = merge_loops(body, body.statements, effects, order, rows)
    nested = Nest(order, extents, body.name)
    if rows is not None:
        nested.rows = rows
    for statement in statements:
        nested.put(statement)
    for effect in effects:
        nested.effect(effect)
    buffers = dict.fromkeys([s.buffer for s in statements if type(s) is Load])
    writes = {e.buffer for e in effects}
    buffers.update(dict.fromkeys([e.buffer for e in effects]))
    size = 1
    for n in body.space:
        size *= n
    origin = ", ".join(dict.fromkeys([origin for _, origin in live]))
    kernel = Kernel(nested.block(), list(buffers), writes, origin)
    lets = [s for s in statements if type(s) is Let]
    kernel.statistics = {
        "loops": [extents[v] for v in order], "loads": sum([type(s) is Load for s in statements]),
        "stores": len(effects), "bytes": sum([b.type.nbytes for b in buffers]),
        "operations": size * sum([s.op.cost for s in lets]), "fused": [s.op.name for s in lets],
    }  # fmt: skip
    return kernel


def is_dead(effect):
    """A store that every reader got as a scalar."""
    return effect.buffer.place[0] == "arena" and not effect.buffer.loads


def loop_order(body, effects):
    natural = list(range(len(body.space)))
    if body.ordered or len(natural) < 2:
        return natural
    weight = [0] * len(natural)
    for s in body.statements:
        if type(s) is Load:
            for v, c in s.at[1]:
                if v >= 0:
                    weight[v] += abs(c)
    for e in effects:
        for v, c in e.at[1]:
            if v >= 0:
                weight[v] += STORE_WEIGHT * abs(c)
    order = sorted(natural, key=lambda v: -weight[v])
    if body.contracted:  # the row of the result that the innermost loop runs along stays in the first cache
        summed = next((e.axes for e in effects if type(e) is Fold), frozenset())
        order[:-1] = sorted(order[:-1], key=lambda v: v in summed)
    return order


# ---- merging ---------------------------------------------------------------------------------------------------------
def expressions(statement):
    match statement:
        case Load() | Index():
            return (statement.at,)
        case Inside():
            return [e for e, _ in statement.conditions]
    return ()


def merge_loops(body, statements, effects, order, rows=None):
    """Neighbouring loops (a, b) through which every expression runs as through one loop become one.

    The last answer is (loop over the rows of a tile, its steps per row), if `rows` is such a loop.
    """
    extents = list(body.space)
    if len(order) < 2:
        return statements, effects, order, extents, rows if rows is None else (rows, 1)
    every = {e for s in statements for e in expressions(s)} | {e.at for e in effects}
    folds = [e.axes for e in effects if type(e) is Fold]
    last = len(body.space) - 1 if body.running else None
    gone, kept = set(), [order[0]]
    tall = 1 if rows is None else extents[rows]
    for a, b in zip(order, order[1:]):
        if (
            b != last
            and b != rows
            and all([affine.coefficient(e, a) == body.space[b] * affine.coefficient(e, b) for e in every])
            and all([(a in axes) == (b in axes) for axes in folds])
        ):
            gone.add(a)
            extents[b] *= extents[a]
            kept.pop()
            rows = b if rows == a else rows
        kept.append(b)
    steps = rows if rows is None else (rows, extents[rows] // tall)
    if kept == list(range(len(order))):
        return statements, effects, order, extents, steps
    number = {v: d for d, v in enumerate(kept)}  # loops are numbered from the outermost

    def drop(e):
        return (e[0], tuple(sorted([(number.get(v, v), c) for v, c in e[1] if v not in gone])))

    def rewrite(s):
        match s:
            case Load() | Index():
                return replace(s, at=drop(s.at))
            case Inside():
                return replace(s, conditions=tuple([(drop(e), n) for e, n in s.conditions]))
        return s

    effects = [replace(e, at=drop(e.at)) for e in effects]
    for e in effects:
        if type(e) is Fold:
            e.axes = frozenset([number[v] for v in e.axes if v not in gone])
    steps = steps and (number[steps[0]], steps[1])
    return [rewrite(s) for s in statements], effects, list(range(len(kept))), [extents[v] for v in kept], steps


# ---- the nest ----------------------------------------------------------------------------------------------------------
class Nest:
    """Statements by depth: before[d] and after[d] stand inside d loops, around the next inner one."""

    def __init__(self, order, extents, fresh):
        self.order, self.extents, self.fresh = order, extents, fresh
        self.level = {v: d + 1 for d, v in enumerate(order)}
        self.before = [[] for _ in range(len(order) + 1)]
        self.after = [[] for _ in range(len(order) + 1)]
        self.depth = {}  # of names and run-time index variables
        self.registers = 0
        self.rows = (None, 0)  # the loop over the rows of a tile, and its steps per row

    def block(self):
        body = self.before[-1]
        for d in range(len(self.order) - 1, -1, -1):
            v = self.order[d]
            body = [*self.before[d], self.loop(v, body), *self.after[d]]
        return body

    def loop(self, v, body):
        return For(v, self.extents[v], body, self.rows[1] if v == self.rows[0] else 0)

    def of_expression(self, e):
        depth = 0
        for v, _ in e[1]:
            depth = max(depth, self.level[v] if v >= 0 else self.depth[v])
        return depth

    def put(self, s):
        depth = 0
        for e in expressions(s):
            depth = max(depth, self.of_expression(e))
        args = s.args if type(s) is Let else (s.value,) if type(s) is Bind else ()
        if type(s) is Load and s.mask:
            args = (s.mask,)
        for arg in args:
            if type(arg) is str:
                depth = max(depth, self.depth[arg])
        self.depth[s.variable if type(s) is Bind else s.name] = depth
        self.before[depth].append(s)

    def register(self, depth, dtype, start):
        name = f"acc{self.registers}"
        self.registers += 1
        self.before[depth].append(Register(name, dtype, start))
        return name

    def effect(self, e):
        EFFECTS[type(e)](self, e)

    def _put(self, e):
        inner = self.before[-1]
        if e.op is None:
            inner.append(Store(e.buffer, e.at, e.value))
        else:
            inner.append(Accumulate((e.buffer, e.at), e.op, e.value, e.buffer.type.dtype, False))

    def _fold(self, e):
        dtype, inside = e.buffer.type.dtype, len(self.order)
        while inside and self.order[inside - 1] in e.axes:
            inside -= 1
        innermost = len(self.order) - inside
        whole = innermost == len(e.axes)
        if not whole and not e.resume:
            first = min([self.level[a] for a in e.axes]) - 1
            fill = [Store(e.buffer, e.at, e.start)]
            for v in reversed(self.order[first:]):
                if v not in e.axes:
                    fill = [self.loop(v, fill)]
            self.before[first].extend(fill)
        if not innermost:
            self.before[-1].append(Accumulate((e.buffer, e.at), e.op, e.value, dtype, True))
            return
        start = e.start
        if whole and e.resume:
            start = self.fresh()
            self.before[inside].append(Load(start, dtype, e.buffer, e.at))
        register = self.register(inside, dtype, start)
        self.before[-1].append(Accumulate(register, e.op, e.value, dtype, True))
        name = self.fresh()
        self.after[inside].append(Read(name, register, dtype))
        if whole:
            self.after[inside].append(Store(e.buffer, e.at, name))
        else:
            self.after[inside].append(Accumulate((e.buffer, e.at), e.op, name, dtype, True))

    def _scan(self, e):
        dtype, name = e.buffer.type.dtype, self.fresh()
        register = self.register(len(self.order) - 1, dtype, e.start)
        self.before[-1] += [
            Accumulate(register, e.op, e.value, dtype, False), Read(name, register, dtype), Store(e.buffer, e.at, name),
        ]  # fmt: skip

    def _best(self, e):
        depth, name = len(self.order) - 1, self.fresh()
        best = self.register(depth, e.dtype, Constant(tensor(e.dtype), e.dtype.type(0).item()))
        where = self.register(depth, I64, Constant(tensor(I64), 0))
        at = affine.variable(self.order[-1])
        self.before[-1].append(Arg(best, where, e.value, at, e.dtype, e.op.name == "argmax"))
        self.after[depth] += [Read(name, where, I64), Store(e.buffer, e.at, name)]


EFFECTS = {Put: Nest._put, Fold: Nest._fold, Scan: Nest._scan, Best: Nest._best}
