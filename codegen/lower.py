"""From values to scalar statements: the body of a kernel, one function per KIND of operation.

In: a value and a map (affine.py), i.e. one element of it at each point of a kernel's iteration space. Out: Loop IR
statements that compute that element, appended to a `Body`. Movement operations rewrite the map and emit nothing;
elementwise operations emit one `Let`; values that live in memory emit a `Load`, unless this very body stores
that element, in which case the scalar at hand is used. Equal (value, map, mask) are computed once.

What a body does with its scalars are effects (`Put`, `Fold`, `Scan`, `Best`), which schedule.py places in the loop
nest. An `Item` is one effect together with the elements it needs; fuse.py decides which items share a body.

The walk uses an explicit stack: a chain of 100,000 operations must not recurse.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from tapejit.ir.graph import EMPTY, Constant
from tapejit.ir.op import TABLE
from tapejit.ir.types import I64, tensor

from . import affine
from .affine import ZERO, Split, Unfit
from .loops import Bind, Buffer, Index, Inside, Let, Load


class Force(Exception):
    """This value has to be in memory: no affine index reaches it otherwise."""

    def __init__(self, value):
        super().__init__(value)
        self.value = value


# ---- effects ---------------------------------------------------------------------------------------------------------
@dataclass(slots=True, eq=False, repr=False)
class Put:
    """buffer[at] = value, or with `op`: buffer[at] = op(buffer[at], value), in order (scatter)."""

    buffer: Buffer
    at: tuple
    value: object = None
    op: object = None


@dataclass(slots=True, eq=False, repr=False)
class Fold:
    """Reduce `value` over the loops `axes` into buffer[at]; `resume`: go on from what is there."""

    buffer: Buffer
    at: tuple
    op: object
    axes: frozenset
    start: object
    value: object = None
    resume: bool = False


@dataclass(slots=True, eq=False, repr=False)
class Scan:
    """Running fold along the innermost loop, stored at each step."""

    buffer: Buffer
    at: tuple
    op: object
    start: object
    value: object = None


@dataclass(slots=True, eq=False, repr=False)
class Best:
    """argmax or argmin along the innermost loop."""

    buffer: Buffer
    at: tuple
    op: object
    dtype: np.dtype
    value: object = None


@dataclass(slots=True, eq=False, repr=False)
class Item:
    """One effect, the elements it needs, and the loops it runs over.

    products: lists of (value, map) pairs, which are multiplied (contract); several products are put together by the
    operation `combine`. index: value and map of a scatter's row index, which is the run-time variable -1 of the effect's
    offset. make: compute the values though they have a buffer, which is the one being made. after: what earlier
    items stored into the buffer comes first.
    """

    space: tuple
    products: list
    effect: object
    origin: str
    index: tuple | None = None
    make: bool = False
    after: bool = False
    combine: object = None

    @property
    def ordered(self):
        """Whether the loops must run in the given order."""
        return type(self.effect) in (Scan, Best) or (type(self.effect) is Put and self.index is not None)

    def split(self, v, factor):
        """The same item with loop v made two, the inner one of length `factor`."""
        stands = {u: affine.variable(u + 1) for u in range(v + 1, len(self.space))}
        stands[v] = affine.add(affine.scale(affine.variable(v), factor), affine.variable(v + 1))
        item = self.over((*self.space[:v], self.space[v] // factor, factor, *self.space[v + 1 :]), stands)
        if type(item.effect) is Fold:
            axes = {a + (a > v) for a in item.effect.axes}
            item.effect.axes = frozenset(axes | {v + 1} if v in axes else axes)
        return item

    def over(self, space, stands):
        """The same item over other loops; `stands`: for each of the old ones the expression in its place."""

        def through(map):
            return tuple([affine.substitute(e, stands) for e in map])

        products = [[(value, through(map)) for value, map in factors] for factors in self.products]
        effect = replace(self.effect, at=affine.substitute(self.effect.at, stands))
        index = self.index and (self.index[0], through(self.index[1]))
        return replace(self, space=space, products=products, effect=effect, index=index)


def weight(op):
    """About how many instructions the operation becomes."""
    return op.cost if op.cost < 10 else 4 * op.cost


# ---- bodies ----------------------------------------------------------------------------------------------------------
class Body:
    """The scalar statements of one kernel under construction.

    buffer_of(value) -> (Buffer or None) says which values live in memory.
    """

    def __init__(self, space, buffer_of):
        self.space, self.buffer_of = space, buffer_of
        self.items, self.statements, self.effects, self.origins = [], [], [], []
        self.loads, self.stored, self.masked = {}, {}, {}
        self.reads = set()
        self.indexing = self.ordered = self.running = self.contracted = False
        self._names_at, self._masks, self._rows, self._row_extents = {}, {}, {}, []
        self._names = self.weight = 0

    def extent(self, v):
        return self.space[v] if v >= 0 else self._row_extents[-v - 1]

    def append(self, item: Item) -> None:
        """Lower an item's elements and add its effect."""
        effect = item.effect
        self.items.append(item)
        self.ordered |= item.ordered
        self.running |= type(effect) in (Scan, Best)
        if item.index is not None:
            index, map = item.index
            row = self.row(self.scalar(index, map), effect.buffer.type.shape[0])
            effect = replace(effect, at=affine.substitute(effect.at, {-1: row}))
            self.indexing = True
        dtype, total = item.products[0][0][0].dtype, None
        for factors in item.products:
            values = [self.scalar(value, map, make=item.make) for value, map in factors]
            term = values[0] if len(values) == 1 else self.let(TABLE["mul"], values, dtype)
            total = term if total is None else self.let(item.combine, [total, term], dtype)
        self.contracted |= len(item.products[0]) > 1 and type(effect) is Fold and not self.effects
        self.effects.append(replace(effect, value=total))
        self.origins.append(item.origin)
        if type(effect) is Put and item.index is None:
            self.stored[effect.buffer, effect.at] = total

    def scalar(self, value, map, mask=(), make=False):
        """The name (or Constant) of this element of `value`; its statements are appended where they are missing."""
        top = [value, map, mask, self.names(map, mask), None]
        stack = [top]
        while stack:
            entry = stack[-1]
            value, map, mask, names, children = entry
            if value in names:
                stack.pop()
                continue
            if children is None:
                if type(value) is Constant:
                    names[value] = value
                    continue
                buffer = None if make and entry is top else self.buffer_of(value)
                if buffer is not None:
                    names[value] = self.load(buffer, affine.linear(map, value.type.shape), mask)
                    continue
                found = EXPAND[value.node.op.kind](self, value.node, map, mask)
                # Most elements stand where those that they are made of do, and share their dictionary.
                children = entry[4] = [(v, m, k, names if m is map and k is mask else self.names(m, k)) for v, m, k in found]
            pending = [[*child, None] for child in children if child[0] not in child[3]]
            if pending:
                pending.reverse()
                stack.extend(pending)
                continue
            finish = FINISH[value.node.op.kind]
            done = finish(self, value.node, map, mask, [child[3][child[0]] for child in children])
            if type(done) is tuple:  # one more element is needed, known only now
                children.append((*done, self.names(*done[1:])))
            else:
                names[value] = done
        return top[3][top[0]]

    def names(self, map, mask) -> dict:
        """value -> name (or Constant) of its element there."""
        found = self._names_at.get((map, mask))
        if found is None:
            found = self._names_at[map, mask] = {}
        return found

    # ---- statements --------------------------------------------------------------------------------------------------
    def name(self):
        self._names += 1
        return f"%{self._names}"

    def add(self, make, *fields):
        name = self.name()
        self.statements.append(make(name, *fields))
        return name

    def let(self, op, args, dtype, attrs=EMPTY):
        self.weight += weight(op)
        return self.add(Let, dtype, op, tuple(args), attrs)

    def load(self, buffer, at, mask):
        found = self.stored.get((buffer, at)) or self.loads.get((buffer, at, ())) or self.loads.get((buffer, at, mask))
        if found is None:
            name = self.mask(mask) if mask else None
            found = self.loads[buffer, at, mask] = self.add(Load, buffer.type.dtype, buffer, at, name)
            self.masked[found] = mask
        return found

    @property
    def buffers(self) -> set:
        """All that are read or written."""
        return {b for b, _, _ in self.loads} | {e.buffer for e in self.effects}

    def redirected(self, where):
        """The same body on other memory: where(buffer, offset) gives the buffer and the offset in their place."""

        def elsewhere(access):
            buffer, at = where(access.buffer, access.at)
            return replace(access, buffer=buffer, at=at)

        new = copy(self)
        new.loads = {(*where(b, at), mask): name for (b, at, mask), name in self.loads.items()}
        new.statements = [elsewhere(s) if type(s) is Load else s for s in self.statements]
        new.effects = [elsewhere(e) for e in self.effects]
        return new

    @property
    def masks(self):
        """The conditions under which something is read."""
        return self._masks.keys()

    def mask(self, conditions):
        found = self._masks.get(conditions)
        if found is None:
            found = self._masks[conditions] = self.add(Inside, conditions)
        return found

    def row(self, scalar, extent):
        """The expression of a run-time index into an axis of length `extent`."""
        if type(scalar) is Constant:
            return affine.constant(scalar.data)
        found = self._rows.get(scalar)
        if found is None:
            self._row_extents.append(extent)
            found = self._rows[scalar] = -len(self._row_extents)
            self.statements.append(Bind(found, scalar))
        return affine.variable(found)


# ---- elementwise -----------------------------------------------------------------------------------------------------
def aligned(map, shape, operand_shape):
    """The map of an operand that broadcasts to `shape`."""
    if operand_shape == shape:
        return map
    lead = len(shape) - len(operand_shape)
    return tuple([ZERO if n == 1 else at for n, at in zip(operand_shape, map[lead:])])


def _elementwise(body, node, map, mask):
    shape = node.results[0].type.shape
    return [(o, map if type(o) is Constant else aligned(map, shape, o.type.shape), mask) for o in node.operands]


def _finish_elementwise(body, node, map, mask, args):
    return body.let(node.op, args, node.results[0].dtype, node.attrs)


# ---- movement --------------------------------------------------------------------------------------------------------
def _reshape(body, x, attrs, map, mask):
    offset = affine.linear(map, attrs["shape"])
    try:
        return affine.unravel(offset, x.shape, body.extent), mask
    except Unfit:
        raise Force(x) from None
    except Split as split:
        if body.running and split.variable == len(body.space) - 1:
            raise Force(x) from None
        raise


def _transpose(body, x, attrs, map, mask):
    out = [None] * len(map)
    for at, p in zip(map, attrs["perm"]):
        out[p] = at
    return tuple(out), mask


def _broadcast(body, x, attrs, map, mask):
    return aligned(map, attrs["shape"], x.shape), mask


def _slice(body, x, attrs, map, mask):
    return tuple([affine.shift(affine.scale(e, k), a) for e, a, k in zip(map, attrs["start"], attrs["step"])]), mask


def _flip(body, x, attrs, map, mask):
    axes = attrs["axes"]
    return tuple([
        affine.shift(affine.scale(e, -1), n - 1) if a in axes else e for a, (e, n) in enumerate(zip(map, x.shape))
    ]), mask  # fmt: skip


def _pad(body, x, attrs, map, mask):
    """Inside: the operand, shifted; outside zero. None for a mask that never holds."""
    inner = tuple([affine.shift(e, -low) for e, low in zip(map, attrs["low"])])
    conditions = dict.fromkeys(mask)
    for at, n in zip(inner, x.shape):
        low, high = affine.bounds(at, body.extent)
        if at[0] + high < 0 or at[0] + low >= n:
            return inner, None
        if at[0] + low < 0 or at[0] + high >= n:
            conditions[at, n] = None
    return inner, tuple(conditions)


MOVE = {
    "reshape": _reshape, "transpose": _transpose, "broadcast": _broadcast, "slice": _slice, "flip": _flip, "pad": _pad,
}  # fmt: skip


def _movement(body, node, map, mask):
    x = node.operands[0]
    map, mask = MOVE[node.op.name](body, x, node.attrs, map, mask)
    return [] if mask is None else [(x, map, mask)]


def _finish_movement(body, node, map, mask, args):
    if node.op.name != "pad":
        return args[0]
    zero = Constant(tensor(node.results[0].dtype), node.results[0].dtype.type(0).item())
    if not args:
        return zero
    _, inner = _pad(body, node.operands[0], node.attrs, map, mask)
    if inner == mask or body.masked.get(args[0]) == inner:
        return args[0]
    return body.let(TABLE["select"], [body.mask(inner), args[0], zero], zero.dtype)


# ---- create and indexing ---------------------------------------------------------------------------------------------
def _iota(body, node, map, mask):
    return []


def _finish_iota(body, node, map, mask, args):
    name = body.add(Index, map[0])
    dtype = node.results[0].dtype
    return name if dtype == I64 else body.let(TABLE["convert"], [name], dtype, {"dtype": dtype})


def _gather(body, node, map, mask):
    index = node.operands[1]
    body.indexing = True
    return [(index, map[: index.ndim], mask)]


def _finish_gather(body, node, map, mask, args):
    """With the index alone, answers which element of x it wants; then that element is the result."""
    if len(args) == 2:
        return args[1]
    x, index = node.operands
    return (x, (body.row(args[0], x.shape[0]), *map[index.ndim :]), mask)


EXPAND = {"elementwise": _elementwise, "movement": _movement, "create": _iota, "indexing": _gather}
FINISH = {
    "elementwise": _finish_elementwise, "movement": _finish_movement, "create": _finish_iota,
    "indexing": _finish_gather,
}  # fmt: skip
