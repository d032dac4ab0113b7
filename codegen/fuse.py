"""Graph -> steps: which values live in memory, and which kernels, library calls and guard checks make them.

Two questions, answered in this order, both in time linear in the graph.

1. Which values are *roots*, i.e. have a buffer? Results, operands of matrix products, reductions, scatters, concatenations
   have to. An elementwise value is one if it would be computed more than once for more than it costs: it has several
   uses, or its consumer stretches it, and it is not cheap (Op.cost, summed over what would be recomputed). Everything
   else is inlined where it is used; movement operations are always inlined, as index maps.
2. Which roots share a kernel? Roots are placed in graph order. A root becomes an `Item` (an effect over an iteration
   space) and may join a kernel with the same space that comes after everything the item reads, or that stores
   exactly the element that the item reads (then the scalar is passed on and, if nothing else reads it, never
   stored). It joins where it shares most bytes; else it opens a kernel at the end. If it joins one and reads what
   another kernel over the same space stores, that one is absorbed: its work moves there too, if nothing between needs it.

Guards are steps of their own. A kernel that indexes memory by run-time values never moves before an earlier guard: the
guard may be what keeps the index in range.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from tapejit.ir.graph import Constant, Graph
from tapejit.ir.op import TABLE
from tapejit.ir.ops.guard import guards_of
from tapejit.ir.types import tensor

from . import affine, blas, peel, unroll
from .affine import ZERO, Split
from .loops import Buffer, Exit, Region
from .lower import Best, Body, Fold, Force, Item, Put, Scan

CHEAP = 4  # recomputing this much arithmetic per element beats a round trip through memory
CHEAP_READS = 2  # as does reading this many arrays instead of one
CHEAP_STRETCHED = 2
STRETCHED_LIMIT = 8
INLINE_LIMIT = 60  # operations inlined into one root
BODY_LIMIT = 1000  # statements in one kernel,
SMALL_BODY_LIMIT = 100  # where it is small (short kernels compile faster, run as fast, are more often equal), and
WEIGHT_LIMIT = 4000  # instructions they become: LLVM is superlinear far above
SIZE_OF_FUNCTION = 10  # in operations, for INLINE_LIMIT
BUFFER_LIMIT = 48
ABSORBED = 64  # steps back, as far as a kernel may lie that is absorbed
SMALL = 1024  # elements; smaller kernels are fused even if they share nothing, for the calls
MANY = 1000


def fuse(graph: Graph, first_guard=0):
    """(steps, output buffers): each step is a Body (of a library's product too), a loops.Exit or a loops.Region.

    first_guard: the number of the graph's first guard."""
    forced = set()
    while True:
        plan = Plan(graph, forced, first_guard)
        try:
            plan.run()
            return [step for step in plan.steps if step is not None], plan.outputs
        except Force as wanted:
            value = plan.base(wanted.value)
            if value in forced:
                raise AssertionError(f"{value} is in memory already") from None
            forced.add(value)


class Plan:
    def __init__(self, graph, forced, guards=0):
        self.graph, self.forced, self.guards = graph, forced, guards
        self.steps, self.outputs = [], []  # a step may give way to None
        self.buffers, self._bases = {}, {}
        self.at = {}  # id of step -> position
        self.last_guard = -1
        self.readers, self.recent = {}, {}

    # ---- which values are roots ----------------------------------------------------------------------------------
    def base(self, value):
        """The value whose buffer holds the elements of `value` in the same order: reshapes stripped."""
        node = value.node
        if node is None or node.op.name != "reshape":
            return value
        found = self._bases.get(value)
        if found is None:
            found = self._bases[value] = self._bases.get(node.operands[0]) or self.base_of_chain(node.operands[0])
        return found

    def base_of_chain(self, value):
        while value.node is not None and value.node.op.name == "reshape":
            value = value.node.operands[0]
        return value

    def required(self):
        """Values that must be in memory whatever they cost."""
        out = set(self.forced)
        for value in self.graph.results:
            out.add(self.base(value))
        for node in self.graph.nodes:
            kind = node.op.kind
            if kind == "guard" or kind == "region":
                out.update([self.base(o) for o in node.operands])
            elif kind == "contract" and blas.is_library(node):
                out.update([self.base(blas.source(o)) for o in node.operands])
        return {v for v in out if type(v) is not Constant and v.node is not None}

    def uses(self):
        """Per value: by how many roots it may be used, and whether a consumer stretches it."""
        uses, stretched = {}, set()
        for value in self.graph.results:
            uses[value] = MANY
        for node in reversed(self.graph.nodes):
            kind = node.op.kind
            out = node.results[0] if node.results else None
            for i, o in enumerate(dict.fromkeys(node.operands)):
                if type(o) is Constant:
                    continue
                count = 1
                if kind == "movement" and out not in self.always:
                    count = uses.get(out, 0)
                    if out in stretched or out.type.size > 2 * o.type.size:
                        stretched.add(o)
                elif kind == "contract":
                    if node.results[0].type.size * contracted_size(node) > o.type.size:
                        stretched.add(o)
                elif kind == "elementwise" or (kind == "indexing" and node.op.name == "gather"):
                    if out.type.size > o.type.size:
                        stretched.add(o)
                elif kind == "indexing" and i == 1 and node.operands[2].type.size > o.type.size:
                    stretched.add(o)
                uses[o] = min(uses.get(o, 0) + count, MANY)
        return uses, stretched

    def choose(self):
        """Fill `buffers` with a Buffer for every parameter and root."""
        self.always = self.required()
        uses, stretched = self.uses()
        self.used = uses
        for i, p in enumerate(self.graph.params):
            self.buffers[p] = Buffer(f"in{i}", p.type, ("input", i))
        self.sizes = {}
        weight = {}  # value -> (cost, size, values read) of what is recomputed where it is inlined
        nothing = (0, 0, frozenset())
        for node in self.graph.nodes:
            if not node.results:
                continue
            value, op = node.results[0], node.op
            if op.name == "table":
                self.buffers[value] = Buffer(f"t{len(self.buffers)}", value.type, ("constant", node.attrs["values"]))
                continue
            if op.kind == "region":
                for r in node.results:
                    self.buffers[r] = Buffer(f"t{len(self.buffers)}", r.type, ("arena", None))
                continue
            cost = op.cost if op.kind == "elementwise" or op.kind == "indexing" else 0
            size = 1 + (op.kind == "elementwise" and op.cost >= 10) * SIZE_OF_FUNCTION
            reads = nothing[2]
            for o in dict.fromkeys(node.operands):
                if o in self.buffers:
                    reads |= {o} if o.type.size * 2 > value.type.size else nothing[2]
                    continue
                c, s, r = weight.get(o, nothing)
                cost, size = cost + c, size + s
                if len(reads) <= CHEAP_READS:
                    reads |= {b for b in r if b.type.size * 2 > value.type.size}
            root = value in self.always or is_root(node)
            if not root and op.kind in ("elementwise", "indexing"):
                root = (
                    (uses.get(value, 0) > 1 and (cost > CHEAP or len(reads) > CHEAP_READS))
                    or (value in stretched and (cost > CHEAP_STRETCHED or size > STRETCHED_LIMIT))
                    or size > INLINE_LIMIT
                )
            if root:
                self.buffers[value] = Buffer(f"t{len(self.buffers)}", value.type, ("arena", None))
                self.sizes[value] = size
            else:
                weight[value] = (cost, size, reads)

    def buffer_of(self, value):
        found = self.buffers.get(value)
        if found is None and value.node is not None and value.node.op.name == "reshape":
            found = self.buffers.get(self.base(value))
        return found

    # ---- placing -----------------------------------------------------------------------------------------------
    def run(self):
        self.choose()
        copies = self.bind_results()
        self.wanted = self.small_rows(copies)
        for node in self.graph.nodes:
            if node.op.kind == "guard":
                self.guard(node, self.guards)
                self.guards += 1
            elif node.op.kind == "region":
                self.region(node)
            elif node.op.name != "table" and node.results[0] in self.buffers:
                buffer = self.buffers[node.results[0]]
                if (node.op.kind == "indexing" or node.op.name == "update") and self.overwrites(node, buffer):
                    self.place(items(node, self.buffers[node.results[0]])[1])
                elif buffer.type.size:
                    product = blas.product(node, buffer, self.buffer_of) if node.op.kind == "contract" else None
                    if product is not None:
                        self.step(product)
                        buffer.writers = [len(self.steps) - 1]
                    else:
                        for item in items(node, buffer):
                            self.place_unrolled(item)
        for value, buffer in copies:
            if buffer.type.size:
                self.place_unrolled(put(value, buffer, "copy"))

    def small_rows(self, copies):
        """The shapes of rows that are unrolled; see unroll.py."""
        if not any([unroll.may_meet(node) for node in self.graph.nodes]):
            return frozenset()
        made = []
        for node in self.graph.nodes:
            buffer = self.buffers.get(node.results[0]) if node.results else None
            if buffer is None or not buffer.type.size or node.op.name == "table":
                continue
            if node.op.kind != "contract" or not blas.is_library(node):
                made += [(item, self.sizes.get(node.results[0], 1)) for item in items(node, buffer)]
        return unroll.small_rows(made + [(put(value, buffer, "copy"), 1) for value, buffer in copies])

    def place_unrolled(self, item):
        for one in unroll.unrolled(item, self.wanted):
            self.place(one)

    def overwrites(self, node, buffer):
        """A scatter or update of a temporary that nothing else reads happens there, without the copy."""
        x = self.base(node.operands[0])
        there = self.buffers.get(x)
        if node.op.name == "gather" or there is None or there.place[0] != "arena" or not there.writers:
            return False
        if self.used[x] != 1 or node.operands[0] in node.operands[1:] or not node.operands[-1].type.size:
            return False
        there.name, there.place = buffer.name, buffer.place
        self.outputs = [there if b is buffer else b for b in self.outputs]
        self.buffers[node.results[0]] = there
        return True

    def bind_results(self):
        """Give each result an output buffer: the root's own if it is free, else a copy, made last."""
        taken, copies = {}, []
        for i, value in enumerate(self.graph.results):
            base = value if type(value) is Constant else self.base(value)
            buffer = self.buffers.get(base)
            if buffer is None or buffer.place[0] != "arena":
                buffer = Buffer(f"out{i}", value.type, ("output", i))
                copies.append((value, buffer))
            else:
                buffer.name, buffer.place = f"out{i}", ("output", i)
            taken[i] = buffer
        self.outputs = list(taken.values())
        return copies

    def guard(self, node, index):
        self.step(Exit(index, self.in_memory(node.operands[0]), node.attrs["seen"]))
        self.last_guard = len(self.steps) - 1

    def in_memory(self, value):
        """The buffer of what a step of its own reads."""
        buffer = self.buffer_of(value)
        if buffer is None:  # a number, or one in another shape
            buffer = self.buffers[value] = Buffer(f"c{len(self.buffers)}", value.type, ("arena", None))
            self.place(put(value, buffer, "constant", make=True))
        return buffer

    def region(self, node):
        results = [self.buffers[r] for r in node.results]
        self.step(Region(node, [self.in_memory(o) for o in node.operands], results, self.guards, node.op.name))
        for buffer in results:
            buffer.writers = [len(self.steps) - 1]
        inside = [g for region in node.regions for g in guards_of(region)]
        if inside:
            self.guards, self.last_guard = self.guards + len(inside), len(self.steps) - 1

    def step(self, step):
        self.at[id(step)] = len(self.steps)
        self.steps.append(step)

    def place(self, item: Item) -> None:
        body, item = self.alone(item)
        if body.masks and self.peeled(item, body):
            return
        low, best, score = self.earliest(item, body), None, 0
        size = 1
        for n in item.space:
            size *= n
        for kernel in self.candidates(item, body, size):
            if self.at[id(kernel)] < low or not self.fits(kernel, body):
                continue
            shared = size <= SMALL
            for buffer, at, _ in body.loads:
                if (buffer, at) in kernel.stored:
                    shared += 2 * buffer.type.nbytes
                elif buffer in kernel.reads:
                    shared += buffer.type.nbytes
            if shared > score:
                best, score = kernel, shared
        if best is None:
            self.step(body)
            best = body
            body.reads = set()
        else:
            self.absorb(best, body)
            best.append(item)
        position = self.at[id(best)]
        for buffer, _, _ in body.loads:
            best.reads.add(buffer)
            self.readers.setdefault(buffer, {})[item.space] = best
        self.recent[item.space] = best
        item.effect.buffer.writers.append(position)

    def absorb(self, kernel, body) -> None:
        """Move into the kernel what makes the elements that the body, which is about to join, reads."""
        end = self.at[id(kernel)]
        for buffer, at, _ in [*body.loads]:
            for position in [p for p in buffer.writers if end - ABSORBED <= p < end]:
                maker = self.steps[position]
                if type(maker) is not Body or maker.space != kernel.space or (buffer, at) not in maker.stored:
                    continue
                if maker.indexing or any([type(e) is not Put or e.op is not None for e in maker.effects]):
                    continue
                made = {e.buffer for e in maker.effects}
                if self.fits(kernel, maker) and not any([made & touched_by(s) for s in self.steps[position + 1 : end + 1]]):
                    self.move(maker, kernel)

    def move(self, maker, kernel) -> None:
        position = self.at.pop(id(maker))
        self.steps[position] = None
        for item in maker.items:
            kernel.append(item)
            writers = item.effect.buffer.writers
            writers[writers.index(position)] = self.at[id(kernel)]
        kernel.reads |= maker.reads
        for where in (self.recent, *[self.readers.get(b, {}) for b in maker.reads]):
            if where.get(maker.space) is maker:
                where[maker.space] = kernel

    def peeled(self, item, body) -> bool:
        """Whether the item was placed without its borders, and these after it; see peel.py."""
        if len(item.space) != 1 or item.space[0] < peel.LONG or body.indexing:
            return False
        if type(item.effect) is not Put or item.effect.op is not None or item.effect.buffer.place[0] != "output":
            return False
        found = peel.ranges(body.masks, item.space[0])
        if not found:
            return False
        rest = [peel.restricted(item, *r) for r in found[1:]]
        for kernel in dict.fromkeys([k for b, _, _ in body.loads for k in self.readers.get(b, {}).values()]):
            rest += self.cut(kernel, *found[0])
        self.place(peel.restricted(item, *found[0]))
        for one in rest:
            self.place(one)
        return True

    def cut(self, kernel, start, end) -> list:
        """Restrict a kernel of sums that nobody has read yet to a range; the items that are left to do."""
        space, position = kernel.space, self.at[id(kernel)]
        if len(space) != 1 or not start < end <= space[0] or space[0] == end - start or kernel.masks:
            return []
        if any([type(i.effect) is not Fold or i.effect.resume or self.readers.get(i.effect.buffer) for i in kernel.items]):
            return []
        body = Body((end - start,), self.buffer_of)
        for item in kernel.items:
            body.append(peel.restricted(item, start, end))
        body.reads = kernel.reads
        self.steps[position] = body
        self.at[id(body)] = position
        for where in (self.recent, *[self.readers.get(b, {}) for b in kernel.reads]):
            if where.get(space) is kernel:
                del where[space]
            where[body.space] = body
        outside = [(a, b) for a, b in ((0, start), (end, space[0])) if a < b]
        return [peel.restricted(item, *r, goes_on=True) for item in kernel.items for r in outside]

    def alone(self, item):
        """The item in a body of its own, and the item, its loops split where a reshape asks for it."""
        while True:
            body = Body(item.space, self.buffer_of)
            try:
                body.append(item)
                return body, item
            except Split as split:
                item = item.split(split.variable, split.factor)

    def earliest(self, item, body):
        """The first position at which a kernel may hold this item."""
        low = self.last_guard + 1 if body.indexing else 0
        if item.after:
            low = max([low, *[p + 1 for p in item.effect.buffer.writers]])
        for buffer, at, _ in body.loads:
            for position in buffer.writers:
                kernel = self.steps[position]
                passed = type(kernel) is Body and kernel.space == item.space and (buffer, at) in kernel.stored
                low = max(low, position if passed else position + 1)
        return low

    def candidates(self, item, body, size):
        """Kernels over the same space that share something with the item; for small ones also the last of all."""
        found = {}
        for buffer, _, _ in body.loads:
            for position in buffer.writers:
                step = self.steps[position]
                if type(step) is Body and step.space == item.space:
                    found[id(step)] = step
            kernel = self.readers.get(buffer, {}).get(item.space)
            if kernel is not None:
                found[id(kernel)] = kernel
        if size <= SMALL and item.space in self.recent:
            found[id(self.recent[item.space])] = self.recent[item.space]
        return found.values()

    def fits(self, kernel, body):
        small = prod(kernel.space) <= SMALL and kernel.space not in self.wanted
        if len(kernel.statements) + len(body.statements) > (SMALL_BODY_LIMIT if small else BODY_LIMIT):
            return False
        if kernel.space and kernel.weight + body.weight > WEIGHT_LIMIT:
            return False
        if not kernel.space:
            return True
        buffers = kernel.reads | {e.buffer for e in kernel.effects} | {b for b, _, _ in body.loads}
        return len(buffers) < BUFFER_LIMIT


def touched_by(step) -> set:
    """The buffers that a step reads or writes."""
    if step is None:
        return set()
    return set(step.buffers)


def contracted_size(node):
    """The number of products that each element of a dot's result adds up."""
    lhs, ((axes, _), _) = node.operands[0], (node.attrs["contract"], node.attrs["batch"])
    return prod([lhs.shape[a] for a in axes])


def is_root(node):
    """Whether the kind says that this value is made in memory."""
    op = node.op
    if op.kind == "movement":
        return op.name in ("concatenate", "update") or (op.name == "pad" and any(node.attrs["interior"]))
    return op.kind in ("reduce", "contract") or (op.kind == "indexing" and op.name != "gather")


# ---- items: what makes a root, one function per kind -------------------------------------------------------------------
def items(node, buffer) -> list[Item]:
    kind = node.op.kind
    if kind == "movement" and is_root(node):
        return {"concatenate": _concatenated, "update": _updated, "pad": _padded}[node.op.name](node, buffer)
    make = {"reduce": _reduced, "contract": _contracted, "indexing": _indexed}.get(kind)
    return make(node, buffer) if make else [put(node.results[0], buffer, node.op.name, make=True)]


def loops_over(shape):
    """(space, map) of a loop nest over a shape; axes of length one have no loop."""
    space, map = [], []
    for n in shape:
        map.append(ZERO if n == 1 else affine.variable(len(space)))
        if n != 1:
            space.append(n)
    return tuple(space), tuple(map)


def put(value, buffer, origin, make=False):
    space, map = loops_over(value.shape)
    return Item(space, [[(value, map)]], Put(buffer, affine.linear(map, value.shape)), origin, make=make)


def _window(value, buffer, shape, low, step, origin):
    """Store all of `value` into a strided window of the buffer."""
    space, map = loops_over(value.shape)
    target = tuple([affine.shift(affine.scale(e, k), a) for e, a, k in zip(map, low, step)])
    return Item(space, [[(value, map)]], Put(buffer, affine.linear(target, shape)), origin)


def _concatenated(node, buffer):
    axis, out, at = node.attrs["axis"], [], 0
    shape = node.results[0].shape
    for value in node.operands:
        low = [0] * len(shape)
        low[axis] = at
        at += value.shape[axis]
        if value.type.size:
            out.append(_window(value, buffer, shape, low, [1] * len(shape), "concatenate"))
    return out


def _fill(number, type, buffer, origin):
    space, map = loops_over(type.shape)
    zero = Constant(tensor(type.dtype), type.dtype.type(number).item())
    return Item(space, [[(zero, ())]], Put(buffer, affine.linear(map, type.shape)), origin)


def _padded(node, buffer):
    """Zeros everywhere, then the operand into its window; in that order, so the second is no sibling of the first."""
    (x,) = node.operands
    zeros = _fill(0, node.results[0].type, buffer, "pad")
    if not x.type.size:
        return [zeros]
    step = [k + 1 for k in node.attrs["interior"]]
    window = _window(x, buffer, node.results[0].shape, node.attrs["low"], step, "pad")
    return [zeros, replace(window, after=True)]


def _updated(node, buffer):
    """A copy of the first operand, then the second into its window."""
    x, part = node.operands
    window = _window(part, buffer, x.shape, node.attrs["start"], node.attrs["step"], "update")
    return [put(x, buffer, "update"), replace(window, after=True)]


EXTREMES = {"reduce_max": (-np.inf, "min"), "reduce_min": (np.inf, "max")}


def _start(op, dtype):
    """What a fold starts from: its identity; for sums of floats -0.0, which leaves every element as it is."""
    if op.identity(dtype) is None:
        number, end = EXTREMES[op.name]
        number = number if dtype.kind == "f" else getattr(np.iinfo(dtype), end)
    else:
        number = op.identity(dtype)
        if op.name == "reduce_sum" and dtype.kind == "f":
            number = -0.0
    return Constant(tensor(dtype), dtype.type(number).item())


def _reduced(node, buffer):
    (x,), op, attrs = node.operands, node.op, node.attrs
    if "axes" in attrs:
        if x.type.size == 0:
            return [_fill(op.identity(x.dtype), node.results[0].type, buffer, op.name)]
        space, map = loops_over(x.shape)
        kept = tuple([e for a, e in enumerate(map) if a not in attrs["axes"]])
        axes = frozenset([map[a][1][0][0] for a in attrs["axes"] if map[a][1]])
        at = affine.linear(kept, node.results[0].shape)
        effect = Fold(buffer, at, op, axes, _start(op, x.dtype)) if axes else Put(buffer, at)
        return [Item(space, [[(x, map)]], effect, op.name)]
    axis = attrs["axis"]
    others = [n for a, n in enumerate(x.shape) if a != axis]
    space, map = loops_over(others)
    length = x.shape[axis]
    along = affine.variable(len(space))
    if attrs.get("reverse"):
        along = affine.shift(affine.scale(along, -1), length - 1)
    full = (*map[:axis], along, *map[axis:])
    space = (*space, length)
    if op.emit is None:
        return [Item(space, [[(x, full)]], Best(buffer, affine.linear(map, node.results[0].shape), op, x.dtype), op.name)]
    effect = Scan(buffer, affine.linear(full, x.shape), op, _start(op, x.dtype))
    return [Item(space, [[(x, full)]], effect, op.name)]


def _contracted(node, buffer):
    lhs, rhs = node.operands
    (lc, rc), (lb, rb) = node.attrs["contract"], node.attrs["batch"]
    out = node.results[0]
    if lhs.type.size == 0 or rhs.type.size == 0:
        return [_fill(0, out.type, buffer, "dot")]
    lf = [a for a in range(lhs.ndim) if a not in lc and a not in lb]
    rf = [a for a in range(rhs.ndim) if a not in rc and a not in rb]
    lengths = [lhs.shape[a] for a in (*lb, *lf)] + [rhs.shape[a] for a in rf] + [lhs.shape[a] for a in lc]
    space, map = loops_over(lengths)
    nb, nl, nr = len(lb), len(lf), len(rf)
    batch, left, right, inner = map[:nb], map[nb : nb + nl], map[nb + nl : nb + nl + nr], map[nb + nl + nr :]

    def where(ndim, *pairs):
        full = [None] * ndim
        for axes, exprs in pairs:
            for a, e in zip(axes, exprs):
                full[a] = e
        return tuple(full)

    seeds = [
        (lhs, where(lhs.ndim, (lb, batch), (lf, left), (lc, inner))),
        (rhs, where(rhs.ndim, (rb, batch), (rf, right), (rc, inner))),
    ]
    at = affine.linear((*batch, *left, *right), out.shape)
    total = TABLE["reduce_sum"]
    axes = frozenset([e[1][0][0] for e in inner if e[1]])
    effect = Fold(buffer, at, total, axes, _start(total, out.dtype)) if axes else Put(buffer, at)
    return [Item(space, [seeds], effect, "dot")]


def _indexed(node, buffer):
    """gather of which a buffer is wanted; scatter: a copy of x, then the updates in order, at run-time rows."""
    if node.op.name == "gather":
        return [put(node.results[0], buffer, "gather", make=True)]
    x, index, updates = node.operands
    copy = put(x, buffer, node.op.name)
    if not updates.type.size:
        return [copy]
    space, map = loops_over(updates.shape)
    offset = affine.linear((affine.variable(-1), *map[index.ndim :]), x.shape)
    if x.shape[0] == 1:
        offset = affine.linear((ZERO, *map[index.ndim :]), x.shape)
    op = TABLE["add"] if node.op.name == "scatter_add" else None
    rows = (index, map[: index.ndim])
    return [copy, Item(space, [[(updates, map)]], Put(buffer, offset, op=op), node.op.name, rows, after=True)]
