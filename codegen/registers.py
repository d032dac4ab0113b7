"""Loops over scalars: a scan or while whose body is a few numbers becomes one kernel that carries them in registers.

In: a loops.Region. Out: steps in its place (a Kernel, and Fills of stacks that a counted loop may leave unfilled), or None
where the body is more than that: large values, nested regions, guards, run-time indices into what changes, too much
code. Then the body is a program of its own (regions.py), which goes through memory.

All elements of all values of the body are lowered one by one into one Body without loops, as if its small arrays
were so many scalars: what one operation stores, the next finds as a name, and nothing temporary reaches memory. A load of
a carry is then the read of a register, a load of an invariant stands before the loop, rows and stacks are addressed by
the loop's index. LLVM sees a loop of straight-line code whose only chain is the recurrence itself.
"""

from __future__ import annotations

from dataclasses import replace

from tapejit.ir.graph import Constant
from tapejit.ir.op import TABLE
from tapejit.ir.ops.loop import parts
from tapejit.ir.types import I64, tensor

from . import affine, fuse, interrupts, unroll
from .loops import Bind, Buffer, Fill, For, Kernel, Leave, Let, Load, Read, Register, Store, Write
from .lower import Body, Force, Put

SMALL = 16  # elements of a value
CARRIED = 64  # elements of all carries
CODE = 2500  # operations on elements
ENDLESS = 1 << 62  # iterations of a while: no bound
ZERO = Constant(tensor(I64), 0)


def steps(step) -> list | None:
    """What stands for the region, or None."""
    if step.node.op.name not in ("scan", "while") or not all([fits(region) for region in step.node.regions]):
        return None
    if step.node.attrs.get("length") == 0:
        return None
    if sum([p.type.size for p in step.node.regions[-1].params[: step.node.attrs["carries"]]]) > CARRIED:
        return None
    try:
        return _Loop(step).steps()
    except (Unsuited, Force):
        return None


class Unsuited(Exception):
    """The body is not for registers."""


def fits(graph) -> bool:
    """Whether all that is computed is a few scalars; arrays may be large where only parts of them are read."""
    total = 0
    for node in graph.nodes:
        kind, size = node.op.kind, node.results[0].type.size if node.results else 0
        if kind in ("guard", "region") or node.op.name.startswith(("arg", "cum", "scatter", "table")):
            return False
        if kind == "reduce":
            size = max(size, node.operands[0].type.size)
        elif kind == "contract":
            size *= fuse.contracted_size(node)
        elif kind in ("movement", "create"):
            continue
        if size > SMALL * (SMALL if kind == "contract" else 1):
            return False
        total += size
    return total <= CODE and all([r.type.size <= SMALL for r in graph.results])


class _Scalars:
    """One region's elements as statements of `body`, its parameters and results as buffers."""

    def __init__(self, graph):
        self.graph, self.buffers = graph, {}
        self.inputs = [Buffer(f"in{i}", p.type, ("input", i)) for i, p in enumerate(graph.params)]
        self.buffers.update(zip(graph.params, self.inputs))
        self.body = Body((), self.buffer_of)
        for node in graph.nodes:
            if fuse.is_root(node) and node.results[0].type.size:
                buffer = self.buffers[node.results[0]] = Buffer("t", node.results[0].type, ("arena", None))
                for item in fuse.items(node, buffer):
                    self.append(item)
        self.outputs = []
        for i, r in enumerate(graph.results):
            self.outputs.append(Buffer(f"out{i}", r.type, ("output", i)))
            self.append(fuse.put(r, self.outputs[-1], "carry"))

    def append(self, item):
        for one in unroll.flattened(item):
            if type(one.effect) is not Put or one.effect.op is not None or one.index is not None:
                raise Unsuited
            self.body.append(one)

    def buffer_of(self, value):
        found = self.buffers.get(value)
        while found is None and value.node is not None and value.node.op.name == "reshape":
            value = value.node.operands[0]
            found = self.buffers.get(value)
        return found


class _Loop:
    def __init__(self, step):
        self.step, self.attrs = step, step.node.attrs
        self.scan = step.node.op.name == "scan"
        attrs = self.attrs if self.scan else {**self.attrs, "rows": 0, "counted": False, "reverse": False, "length": ENDLESS}
        self.attrs = attrs
        self.count, self.inits, self.rows, self.invariants = parts(attrs, step.operands)
        self.k, self.names = attrs["carries"], 0
        self.before, self.inside, self.after = [], [], []
        self.loaded = {}
        self.registers = {}  # (carry, element) -> (register, name of what it holds in this iteration)

    def name(self):
        self.names += 1
        return f"%{self.names}"

    def steps(self):
        body_graph = self.step.node.regions[-1]
        self.carry_in(body_graph)
        stacks = self.step.results[self.k :] if self.scan else []
        limit = None
        if self.count:
            asked, limit = self.load_before(self.count[0], affine.ZERO), self.name()
            most = Constant(tensor(I64), self.attrs["length"])
            self.before.append(Let(limit, I64, TABLE["minimum"], (asked, most), {}))
            self.index(limit)
        elif self.attrs["reverse"]:
            self.row = affine.shift(affine.scale(affine.variable(0), -1), self.attrs["length"] - 1)
        else:
            self.row = affine.variable(0)
        if not self.scan:
            test = self.lowered(self.step.node.regions[0])
            self.inside.append(Leave(self.answer(test)))
        scalars = self.lowered(body_graph)
        stores, writes = [], []
        for effect in scalars.body.effects:
            if effect.buffer.place[0] != "output":
                continue
            i = effect.buffer.place[1]
            if i < self.k:
                writes.append(Write(self.registers[i, effect.at[0]][0], effect.value))
            else:
                at = affine.add(effect.at, affine.scale(self.row, effect.buffer.type.size))
                stores.append(Store(stacks[i - self.k], at, effect.value))
        self.inside += [*stores, *writes]
        if not self.scan:
            self.count_iterations()
        loop = For(0, self.attrs["length"], self.inside, count=limit, poll=self.poll())
        self.carry_out(body_graph)
        return [*[Fill(b, _zero(b.type.dtype)) for b in stacks if self.count and b.type.size], self.kernel(loop, stacks)]

    def poll(self):
        """Of a loop that may run for long, how often it polls and where the head of the call is."""
        work = sum([s.op.cost if type(s) is Let else type(s) in (Load, Store) for s in self.inside])
        if work * self.attrs["length"] <= interrupts.LONG:
            return None
        return interrupts.iterations(work), Buffer("head", tensor(I64, (interrupts.Head.WORDS,)), ("observed", 0))

    def kernel(self, loop, stacks):
        finals = self.step.results[: self.k] if self.scan else self.step.results
        writes = [b for b in (*finals, *stacks) if b.type.size]
        if loop.poll is not None:
            writes.append(loop.poll[1])
        body = [*self.before, loop, *self.after]
        reads = [s.buffer for s in (*self.before, *self.inside) if type(s) is Load]
        kernel = Kernel(body, list(dict.fromkeys([*reads, *writes])), set(writes), self.step.node.op.name)
        lets = [s for s in self.inside if type(s) is Let]
        length = self.attrs["length"] if self.scan else 1
        kernel.statistics = {
            "loops": [length], "loads": sum([type(s) is Load for s in self.inside]), "stores": len(stacks),
            "bytes": sum([b.type.nbytes for b in kernel.buffers]), "operations": length * sum([s.op.cost for s in lets]),
            "fused": [s.op.name for s in lets],
        }  # fmt: skip
        return kernel

    # ---- carries -----------------------------------------------------------------------------------------------------
    def carry_in(self, graph):
        for i, (buffer, p) in enumerate(zip(self.inits, graph.params)):
            for e in range(p.type.size):
                start, register, now = self.name(), f"c{i}.{e}", self.name()
                self.before.append(Load(start, p.dtype, buffer, affine.constant(e)))
                self.before.append(Register(register, p.dtype, start))
                self.inside.append(Read(now, register, p.dtype))
                self.registers[i, e] = register, now

    def carry_out(self, graph):
        for (i, e), (register, _) in self.registers.items():
            final = self.name()
            dtype = graph.params[i].dtype
            self.after += [Read(final, register, dtype), Store(self.step.results[i], affine.constant(e), final)]

    def count_iterations(self):
        self.before.append(Register("runs", I64, ZERO))
        now, more, final = self.name(), self.name(), self.name()
        self.inside += [
            Read(now, "runs", I64), Let(more, I64, TABLE["add"], (now, Constant(tensor(I64), 1)), {}), Write("runs", more),
        ]  # fmt: skip
        self.after += [Read(final, "runs", I64), Store(self.step.results[self.k], affine.ZERO, final)]

    def index(self, limit):
        """Of a counted loop that runs backward the first row is known at run time."""
        if not self.attrs["reverse"]:
            self.row = affine.variable(0)
            return
        last = self.name()
        self.before.append(Let(last, I64, TABLE["sub"], (limit, Constant(tensor(I64), 1)), {}))
        self.before.append(Bind(-1, last))
        self.row = affine.add(affine.variable(-1), affine.scale(affine.variable(0), -1))

    # ---- bodies ------------------------------------------------------------------------------------------------------
    def load_before(self, buffer, at):
        found = self.loaded.get((buffer, at))
        if found is None:
            found = self.loaded[buffer, at] = self.name()
            self.before.append(Load(found, buffer.type.dtype, buffer, at))
        return found

    def lowered(self, graph):
        """The elements of a region, its statements put inside the loop under names of our own."""
        scalars = _Scalars(graph)
        stands = {}
        for s in scalars.body.statements:
            if type(s) is Load:
                stands[s.name] = self.loaded_element(s, stands)
            elif type(s) is Let:
                made = self.name()
                self.inside.append(replace(s, name=made, args=tuple([stands.get(a, a) for a in s.args])))
                stands[s.name] = made
            else:
                raise Unsuited  # an index that is known at run time only, or a mask
        scalars.body.effects = [replace(e, value=stands.get(e.value, e.value)) for e in scalars.body.effects]
        return scalars

    def loaded_element(self, s, stands):
        kind, i = s.buffer.place
        if kind != "input" or s.mask is not None or s.at[1]:
            raise Unsuited
        if i < self.k:
            return self.registers[i, s.at[0]][1]
        if i >= self.k + len(self.rows):
            return self.load_before(self.invariants[i - self.k - len(self.rows)], s.at)
        name = self.name()
        at = affine.add(s.at, affine.scale(self.row, s.buffer.type.size))
        self.inside.append(Load(name, s.dtype, self.rows[i - self.k], at))
        return name

    def answer(self, test):
        (effect,) = [e for e in test.body.effects if e.buffer.place[0] == "output"]
        return effect.value


def _zero(dtype):
    return Constant(tensor(dtype), dtype.type(0).item())
