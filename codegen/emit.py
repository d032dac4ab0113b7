"""Loop IR -> the text of one LLVM module.

In: the steps (kernels, library calls, exits) with all buffers placed. Out: `Module`: text, the name of the entry, the
external functions it calls. A kernel becomes an internal function of `noalias` pointers, named by the hash of its text, so
that equal kernels of a program are one function and unequal ones never share a name. The entry

    i64 entry(ptr inputs, ptr outputs, ptr arena, ptr observed)

calls the steps in order; it returns 0, or 1 + the index of the first guard that saw another value, or
interrupts.INTERRUPTED. entry.py adds the function that Python calls. Addresses are `getelementptr` on the parameters
only, so LLVM sees all there is to see. Accumulation registers are stack slots here, which LLVM's first pass (SROA) turns
into SSA values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import numpy as np

from tapejit.ir.hashing import blake2b
from tapejit.ir.types import BOOL, I64

from . import affine, blas, interrupts, regions, threads, vecmath
from .loops import (
    Accumulate,
    Arg,
    Bind,
    Call,
    Fill,
    For,
    Index,
    Inside,
    Kernel,
    Leave,
    Let,
    Load,
    Read,
    Region,
    Register,
    Store,
    Tiles,
    Write,
)  # fmt: skip
from .places import alignment, bases_of, place, pointer, store_bases
from .scalars import MEMORY, TYPES, Emitter, Scalar, called_function, literal, power_function

INLINED_MATH = 24  # vector math functions inlined in all loops of a program; more are called,
INLINED_IN_LONG_LOOPS = 96  # with loops of LONG: calls take up to 1.7 times as long, about 1.1 times for one function
LONG = 4096
SINGLE_CALLS = 4  # calls of one kernel up to which its buffers are arguments of each; else they are in tables
PARAMETER_LIMIT = 64  # more buffers than this are addressed from the three base pointers
RETURNS = {"void": "  ret void", "i64": "  ret i64 0"}


@dataclass
class Module:
    text: str
    late: str  # see vecmath.rare.LATE
    entry: str
    externals: frozenset


class KernelEmitter(Emitter):
    """Emits one kernel's statements. `scalars`: Loop IR names to Scalars; `variables`: index variables to SSA names."""

    def __init__(self, pointers):
        super().__init__()
        self.pointers = pointers  # Buffer -> SSA name
        self.scalars, self.variables, self.registers = {}, {}, {}
        self.slots, self.offsets, self.label = [], [{}], "entry"
        self.labels = 0
        self.opened = []  # labels of the loops that we are in
        self.rows = 0  # of every tile, if all have as many

    # ---- operands ----------------------------------------------------------------------------------------------------
    def get(self, x):
        return self.scalars[x] if type(x) is str else Scalar(literal(x.data, x.dtype), x.dtype, x.data)

    def offset(self, e):
        """The text of an affine expression as an i64. Kept per loop, so that each is computed once."""
        if not e[1]:
            return str(e[0])
        for known in self.offsets:
            if e in known:
                return known[e]
        total = None
        for v, c in e[1]:
            term = self.variables[v]
            if c != 1:
                term = self.new(f"mul nsw i64 {term}, {c}", I64).text
            total = term if total is None else self.new(f"add nsw i64 {total}, {term}", I64).text
        if e[0]:
            total = self.new(f"add nsw i64 {total}, {e[0]}", I64).text
        self.offsets[-1][e] = total
        return total

    def address(self, buffer, at):
        pointer = self.pointers[buffer]
        if at == affine.ZERO:
            return pointer
        return self.new(f"getelementptr inbounds {MEMORY[buffer.type.dtype]}, ptr {pointer}, i64 {self.offset(at)}", I64).text

    def load(self, buffer, at):
        dtype = buffer.type.dtype
        x = self.new(f"load {MEMORY[dtype]}, ptr {self.address(buffer, at)}", dtype)
        return self.new(f"icmp ne i8 {x.text}, 0", BOOL) if dtype == BOOL else x

    def store(self, buffer, at, x):
        address = self.address(buffer, at)
        if x.dtype == BOOL:
            x = self.new(f"zext i1 {x.text} to i8", BOOL)
        self.line(f"  store {MEMORY[x.dtype]} {x.text}, ptr {address}")

    def block(self, name):
        self.line(f"{name}:")
        self.label = name

    def fresh_label(self, stem):
        self.labels += 1
        return f"{stem}{self.labels}"

    # ---- statements --------------------------------------------------------------------------------------------------
    def run(self, body):
        stack = [iter(body)]
        opened = []
        while stack:
            statement = next(stack[-1], None)
            if statement is None:
                stack.pop()
                if opened:
                    self.close(*opened.pop())
            elif type(statement) is For:
                opened.append(self.open(statement))
                stack.append(iter(statement.body))
            else:
                STATEMENTS[type(statement)](self, statement)

    def open(self, loop):
        label = self.fresh_label("loop")
        name, last = f"%{label}.i", str(loop.extent)
        if loop.row:
            first = self.new(f"mul nsw i64 %begin, {loop.row}", I64).text
            last = str(self.rows * loop.row) if self.rows else self.new(f"mul nsw i64 %count, {loop.row}", I64).text
        before, start, first_block = self.label, "0", f"{label}.on" if loop.poll else label
        if loop.count:
            last = self.get(loop.count).text
            some = self.new(f"icmp sgt i64 {last}, 0", BOOL).text
            self.line(f"  br i1 {some}, label %{first_block}, label %{label}.out")
        else:
            self.line(f"  br label %{first_block}")
        self.opened.append(label)
        if loop.poll:  # a loop around it runs so many steps at a time
            self.block(first_block)
            start, to = f"%{label}.from", f"%{label}.to"
            self.line(f"  {start} = phi i64 [ 0, %{before} ], [ {to}, %{label}.poll ]")
            self.line(f"  {to}.most = add nuw nsw i64 {start}, {loop.poll[0]}")
            self.line(f"  {to} = call i64 @llvm.smin.i64(i64 {to}.most, i64 {last})")
            self.line(f"  br label %{label}")
            self.declares |= {"declare i64 @llvm.smin.i64(i64, i64)", interrupts.DECLARATION}
            before = first_block
        self.block(label)
        self.line(f"  {name} = phi i64 [ {start}, %{before} ], [ {name}.next, %{label}.end ]")
        self.variables[loop.axis] = self.new(f"add nsw i64 {name}, {first}", I64).text if loop.row else name
        self.offsets.append({})
        return label, name, last, loop.poll

    def close(self, label, name, last, poll):
        self.offsets.pop()
        self.opened.pop()
        self.line(f"  br label %{label}.end")
        self.block(f"{label}.end")
        self.line(f"  {name}.next = add nuw nsw i64 {name}, 1")
        self.line(f"  {name}.done = icmp eq i64 {name}.next, {f'%{label}.to' if poll else last}")
        self.line(f"  br i1 {name}.done, label %{label}.{'full' if poll else 'out'}, label %{label}")
        if poll:
            self.block(f"{label}.full")
            self.line(f"  {name}.all = icmp eq i64 {name}.next, {last}")
            self.line(f"  br i1 {name}.all, label %{label}.out, label %{label}.poll")
            self.block(f"{label}.poll")
            self.line(f"  %{label}.left = call i64 @{interrupts.SYMBOL}(ptr {self.pointers[poll[1]]})")
            self.line(f"  {name}.go = icmp eq i64 %{label}.left, 0")
            self.line(f"  br i1 {name}.go, label %{label}.on, label %{label}.leave")
            self.block(f"{label}.leave")
            self.line(f"  ret i64 %{label}.left")
        self.block(f"{label}.out")

    def _load(self, s):
        if s.mask is None:
            self.scalars[s.name] = self.load(s.buffer, s.at)
            return
        yes, out, before = self.fresh_label("inside"), self.fresh_label("joined"), self.label
        offset = self.offset(s.at)  # outside the branch: an affine address, which masked loads can use
        self.line(f"  br i1 {self.scalars[s.mask].text}, label %{yes}, label %{out}")
        self.block(yes)
        x = self.load(s.buffer, s.at) if offset else None
        self.line(f"  br label %{out}")
        self.block(out)
        zero = literal(0, s.dtype)
        self.scalars[s.name] = self.new(f"phi {TYPES[s.dtype]} [ {x.text}, %{yes} ], [ {zero}, %{before} ]", s.dtype)

    def _let(self, s):
        args = [self.get(a) for a in s.args]
        self.scalars[s.name] = s.op.emit(self, *args, **s.attrs)
        if type(self.scalars[s.name]) is not Scalar:
            self.scalars[s.name] = self.const(self.scalars[s.name], s.dtype)

    def _index(self, s):
        self.scalars[s.name] = Scalar(self.offset(s.at), I64)

    def _bind(self, s):
        self.variables[s.variable] = self.get(s.value).text

    def _inside(self, s):
        total = None
        for e, n in s.conditions:
            one = self.new(f"icmp ult i64 {self.offset(e)}, {n}", BOOL)
            total = one if total is None else self.and_(total, one)
        self.scalars[s.name] = total

    def slot(self, name, dtype, start):
        pointer = f"%{name}"
        self.slots.append(f"  {pointer} = alloca {TYPES[dtype]}")
        self.registers[name] = (pointer, dtype)
        self.line(f"  store {TYPES[dtype]} {self.get(start).text}, ptr {pointer}")

    def _register(self, s):
        self.slot(s.name, s.dtype, s.start)

    def read(self, register):
        pointer, dtype = self.registers[register]
        return self.new(f"load {TYPES[dtype]}, ptr {pointer}", dtype)

    def write(self, register, x):
        pointer, dtype = self.registers[register]
        self.line(f"  store {TYPES[dtype]} {x.text}, ptr {pointer}")

    def _read(self, s):
        self.scalars[s.name] = self.read(s.register)

    def _write(self, s):
        self.write(s.register, self.get(s.value))

    def _leave(self, s):
        on = self.fresh_label("on")
        self.line(f"  br i1 {self.get(s.condition).text}, label %{on}, label %{self.opened[-1]}.out")
        self.block(on)

    def _accumulate(self, s):
        value = self.get(s.value)
        in_register = type(s.target) is str
        before = self.read(s.target) if in_register else self.load(*s.target)
        self.accumulating = s.reassociate
        after = s.op.emit(self, before, value)
        self.accumulating = False
        if in_register:
            self.write(s.target, after)
        else:
            self.store(*s.target, after)

    def _arg(self, s):
        value, best = self.get(s.value), self.read(s.best)
        wins = self.gt(value, best) if s.greatest else self.lt(value, best)
        if s.dtype.kind == "f":
            wins = self.or_(wins, self.and_(self.ne(value, value), self.eq(best, best)))
        at = Scalar(self.offset(s.at), I64)
        wins = self.or_(wins, self.eq(at, 0))
        self.write(s.best, self.select(wins, value, best))
        self.write(s.where, self.select(wins, at, self.read(s.where)))

    def _store(self, s):
        self.store(s.buffer, s.at, self.get(s.value))


STATEMENTS = {
    Load: KernelEmitter._load, Let: KernelEmitter._let, Index: KernelEmitter._index, Bind: KernelEmitter._bind,
    Inside: KernelEmitter._inside, Register: KernelEmitter._register, Read: KernelEmitter._read,
    Accumulate: KernelEmitter._accumulate, Arg: KernelEmitter._arg, Store: KernelEmitter._store,
    Write: KernelEmitter._write, Leave: KernelEmitter._leave,
}  # fmt: skip


class ModuleEmitter:
    """Collects functions; `module(steps)` is the whole."""

    def __init__(self, attributes):
        self.attributes = attributes  # of every kernel: the preferred vector width
        self.functions, self.declares, self.math, self.powers = {}, set(), set(), set()
        self.externals, self.tables, self.constants = set(), {}, {}
        self.loops, self.longest = 0, 0

    def kernel(self, kernel, tiles=None):
        """(symbol, whether it takes the base pointers) of a kernel's function; in tiles it takes (first row, rows) too."""
        wide = len(kernel.buffers) > PARAMETER_LIMIT and tiles is None
        pointers = {b: f"%b{i}" for i, b in enumerate(kernel.buffers)}
        e = KernelEmitter(pointers)
        e.inline = any([type(s) is For for s in kernel.body])
        if tiles is not None and tiles.extent % tiles.rows == 0:
            e.rows = tiles.rows
        e.run(kernel.body)
        result = "i64" if kernel.polls else "void"
        if kernel.polls:
            self.externals.add(interrupts.SYMBOL)
        if wide:
            parameters = bases_of(kernel)
            head = [line for i, b in enumerate(kernel.buffers) for line in place(b, f"%b{i}")]
        else:
            parameters = ", ".join([f"ptr noalias align {alignment(b)} %b{i}" for i, b in enumerate(kernel.buffers)])
            head = []
        if tiles is not None:
            parameters += ", i64 %begin, i64 %count"
        text = "\n".join([f"({parameters}) {self.attributes} {{", "entry:", *head, *e.slots, *e.lines, RETURNS[result], "}\n"])
        name = self.function("kernel", text, result)
        self.longest = max(self.longest, prod(kernel.statistics["loops"]))
        self.declares |= e.declares
        self.math |= e.math_functions
        self.powers |= e.powers
        kernel.name = name
        return name, wide

    def module(self, steps, digest) -> Module:
        lines = self.program(steps)
        entry = f"tapejit.{digest}"
        text = "\n".join([
            f"define i64 @{entry}(ptr %inputs, ptr %outputs, ptr %arena, ptr %observed) nounwind {{", *lines,
            "  ret i64 0", "}\n",
        ])  # fmt: skip
        functions = vecmath.definitions({(name, dtype) for name, dtype, _ in self.math}, self.calls())
        called = [called_function(n, d, vecmath.ARITY[n]) for n, d, inline in sorted(self.math) if not inline]
        parts = [
            "\n".join(sorted(self.declares | functions.declares)), functions.text, *called,
            *map(power_function, sorted(self.powers)), *self.constants.values(), *self.functions.values(),
            *self.tables.values(), text,
        ]  # fmt: skip
        externals = frozenset(self.externals | functions.externals)
        return Module("\n".join([p for p in parts if p]), functions.late, entry, externals)

    def program(self, steps) -> list:
        """The lines of a function of (inputs, outputs, arena, observed) that runs the steps, but for its end."""
        lines = ["entry:"]
        pointers, bases, tables = {}, {("arena", 0): 0}, len(self.tables)
        for buffer in [b for step in steps for b in step.buffers if b.place[0] == "constant"]:
            self.constant(buffer)
        kernels = {id(step): self.kernel(step) for step in steps if isinstance(step, Kernel)}
        count = Counter([name for name, _ in kernels.values()])
        for step in steps:
            if isinstance(step, Kernel):
                name, wide = kernels[id(step)]
                if wide:
                    call = f"@{name}({bases_of(step)})"
                elif count[name] > SINGLE_CALLS:
                    call = self.table_call(name, step, bases)
                else:
                    args = [pointer(lines, pointers, b) for b in step.buffers]
                    call = f"@{name}({', '.join([f'ptr {a}' for a in args])})"
                if step.polls:
                    self.call_or_leave(call, lines)
                else:
                    lines.append(f"  call void {call}")
            elif isinstance(step, Tiles):
                self.tiles(step, lines, pointers)
            elif isinstance(step, Fill):
                self.fill(step, lines, pointers)
            elif isinstance(step, Call):
                self.library_call(step, lines, pointers)
            elif isinstance(step, Region):
                self.region(step, lines, pointers)
            else:
                self.exit(step, lines, pointers)
        if len(self.tables) > tables:
            lines[1:1] = store_bases(bases)
        return lines

    def constant(self, buffer):
        """Make an array of numbers that are known a constant of the module."""
        dtype = buffer.type.dtype
        if type(buffer.place[1]) is tuple:
            items = [f"{MEMORY[dtype]} {int(x) if dtype == BOOL else literal(x, dtype)}" for x in buffer.place[1]]
            text = f"internal unnamed_addr constant [{len(items)} x {MEMORY[dtype]}] [{', '.join(items)}]"
            name = f"@numbers.{blake2b(text.encode(), digest_size=6).hexdigest()}"
            self.constants[name] = f"{name} = {text}, align 64"
            buffer.place = ("constant", name)

    def region(self, step, lines, pointers):
        """Call the function that runs the step's programs, each a function of its own."""
        names = []
        for program in step.programs:
            text = "\n".join([*self.program(program.steps), "  ret i64 0", "}\n"])
            head = "(ptr %inputs, ptr %outputs, ptr %arena, ptr %observed) nounwind {\n"
            names.append(self.function("program", head + text, "i64"))
            program.name = names[-1]
        text, declares = regions.driver(step, names)
        self.declares |= declares
        name = self.function(step.node.op.name, text, "i64")
        args = [pointer(lines, pointers, b) for b in (*step.operands, *step.results, step.scratch)]
        if step.polls:
            self.declares.add(interrupts.DECLARATION)
            self.externals.add(interrupts.SYMBOL)
        self.call_or_leave(f"@{name}({', '.join([f'ptr {a}' for a in (*args, '%observed')])})", lines, step.leaves)

    def call_or_leave(self, call, lines, leaves=True):
        """Call a function that may leave the whole program."""
        left, k = f"%left{self.loops}", self.loops
        self.loops += 1
        lines.append(f"  {left} = call i64 {call}")
        if leaves:
            lines += [
                f"  %whole{k} = icmp eq i64 {left}, 0", f"  br i1 %whole{k}, label %whole.{k}, label %part.{k}",
                f"part.{k}:", f"  ret i64 {left}", f"whole.{k}:",
            ]  # fmt: skip

    def table_call(self, name, kernel, bases) -> str:
        """The call of a kernel that is called often: the addresses of the buffers are in a table of constants.

        LLVM takes 30 us for each argument of a call, and a long recorded loop is a few kernels, each called many times. So
        the arguments are passed once, by a function that reads them from a table: pairs of a base and an offset.
        """
        places = [b.place for b in kernel.buffers]
        places = [(0, where) if kind == "arena" else (bases.setdefault((kind, where), len(bases)), 0) for kind, where in places]
        items = ", ".join([f"i64 {number}" for pair in places for number in pair])
        table = f"@table.{len(self.tables)}"
        self.tables[table] = f"{table} = internal unnamed_addr constant [{2 * len(places)} x i64] [{items}]"
        lines = ["(ptr %bases, ptr %table) nounwind noinline {", "entry:"]
        for i in range(len(places)):
            lines += [
                f"  %base{i}.at = getelementptr i64, ptr %table, i64 {2 * i}",
                f"  %base{i}.index = load i64, ptr %base{i}.at",
                f"  %base{i}.slot = getelementptr ptr, ptr %bases, i64 %base{i}.index",
                f"  %base{i} = load ptr, ptr %base{i}.slot",
                f"  %offset{i}.at = getelementptr i64, ptr %table, i64 {2 * i + 1}",
                f"  %offset{i} = load i64, ptr %offset{i}.at",
                f"  %p{i} = getelementptr i8, ptr %base{i}, i64 %offset{i}",
            ]
        arguments = ", ".join([f"ptr %p{i}" for i in range(len(places))])
        if kernel.polls:
            lines += [f"  %left = call i64 @{name}({arguments})", "  ret i64 %left", "}\n"]
        else:
            lines += [f"  call void @{name}({arguments})", "  ret void", "}\n"]
        caller = self.function("call", "\n".join(lines), "i64" if kernel.polls else "void")
        return f"@{caller}(ptr %bases, ptr {table})"

    def calls(self) -> set:
        """The vector math that is called: all of it, if there is much."""
        pairs = {(name, dtype) for name, dtype, inline in self.math if inline}
        sites = [f"{vecmath.symbol(*pair)}(" for pair in pairs]
        count = sum([text.count(site) for site in sites for text in self.functions.values()])
        return pairs if count > (INLINED_IN_LONG_LOOPS if self.longest >= LONG else INLINED_MATH) else set()

    def exit(self, step, lines, pointers):
        k, address = step.index, pointer(lines, pointers, step.buffer)
        dtype = step.buffer.type.dtype
        type = MEMORY[dtype]
        wide = f"%seen{k}" if type == "i64" else f"%wide{k}"
        lines.append(f"  %seen{k} = load {type}, ptr {address}")
        if type != "i64":
            lines.append(f"  {wide} = {'zext' if dtype == BOOL else 'sext'} {type} %seen{k} to i64")
        lines += [
            f"  %same{k} = icmp eq i64 {wide}, {int(step.seen)}",
            f"  br i1 %same{k}, label %on{k}, label %leave{k}",
            f"leave{k}:", f"  store i64 {wide}, ptr %observed", f"  ret i64 {k + 1}", f"on{k}:",
        ]  # fmt: skip

    def tiles(self, step, lines, pointers):
        """The tiles one after the other, or the call that runs the pieces in parallel."""
        if not step.piece:
            self.tile_loop(step, lines, {b: pointer(lines, pointers, b) for b in step.buffers}, "0", str(step.extent))
            return
        name = self.piece(step)
        label = f"job{self.loops}"
        self.loops += 1
        lines.append(f"  %{label} = alloca [3 x ptr]")
        for i, base in enumerate(("inputs", "outputs", "arena")):
            lines.append(f"  %{label}.{base} = getelementptr ptr, ptr %{label}, i64 {i}")
            lines.append(f"  store ptr %{base}, ptr %{label}.{base}")
        self.declares.add(f"declare void @{threads.SYMBOL}(ptr, ptr, i64, i64, ptr)")
        self.externals.add(threads.SYMBOL)
        room, scratch = 0, "null"
        if step.scratch:
            room, scratch = step.scratch.room, pointer(lines, pointers, step.scratch)
        job = f"ptr @{name}, ptr %{label}, i64 {step.pieces}, i64 {room}, ptr {scratch}"
        lines.append(f"  call void @{threads.SYMBOL}({job})")

    def piece(self, step):
        """The function (context, k, scratch) that runs piece k."""
        lines = ["entry:"]
        for i, base in enumerate(("inputs", "outputs", "arena")):
            lines += [f"  %{base}.at = getelementptr ptr, ptr %context, i64 {i}", f"  %{base} = load ptr, ptr %{base}.at"]
        pointers = {}
        args = {b: pointer(lines, pointers, b) for b in step.buffers}
        for i, (buffer, start) in enumerate(step.partials.items()):
            lines.append(f"  %own{i}.o = mul nsw i64 %k, {buffer.type.nbytes // step.pieces}")
            lines.append(f"  %own{i} = getelementptr i8, ptr {args[buffer]}, i64 %own{i}.o")
            args[buffer] = f"%own{i}"
            self.fill_call(lines, args[buffer], buffer.type.size // step.pieces, start)
        lines += [
            f"  %first = mul nsw i64 %k, {step.piece}", f"  %last.full = add nsw i64 %first, {step.piece}",
            f"  %last = call i64 @llvm.smin.i64(i64 %last.full, i64 {step.extent})",
        ]  # fmt: skip
        self.tile_loop(step, lines, args, "%first", "%last")
        head = "(ptr %context, i64 %k, ptr %scratch) nounwind {"
        return self.function("piece", "\n".join([head, *lines, "  ret void", "}\n"]))

    def tile_loop(self, step, lines, args, first, last):
        """A loop over the tiles of the rows from first to last; the base of a window is where row 0 would be."""
        label = f"tiles{self.loops}"
        self.loops += 1
        begin, end = f"%{label}.begin", f"%{label}.end"
        before = lines_label(lines)
        lines += [
            f"  br label %{label}", f"{label}:", f"  {begin} = phi i64 [ {first}, %{before} ], [ {end}, %{label} ]",
            f"  {end}.full = add nsw i64 {begin}, {step.rows}",
            f"  {end} = call i64 @llvm.smin.i64(i64 {end}.full, i64 {last})",
            f"  {end}.count = sub nsw i64 {end}, {begin}",
        ]  # fmt: skip
        self.declares.add("declare i64 @llvm.smin.i64(i64, i64)")
        args = dict(args)
        for i, (buffer, row) in enumerate(step.windows.items()):
            base = f"%{label}.w{i}"
            lines += [f"  {base}.o = mul nsw i64 {begin}, -{row}",
                      f"  {base} = getelementptr i8, ptr {args[buffer]}, i64 {base}.o"]  # fmt: skip
            args[buffer] = base
        for kernel in step.kernels:
            name = self.library(kernel) if isinstance(kernel, Call) else self.kernel(kernel, step)[0]
            pointers = ", ".join([f"ptr {args[b]}" for b in kernel.buffers])
            lines.append(f"  call void @{name}({pointers}, i64 {begin}, i64 {end}.count)")
        lines += [f"  {end}.last = icmp eq i64 {end}, {last}", f"  br i1 {end}.last, label %{label}.out, label %{label}",
                  f"{label}.out:"]  # fmt: skip

    def fill(self, step, lines, pointers):
        self.fill_call(lines, pointer(lines, pointers, step.buffer), step.buffer.type.size, step.start)

    def fill_call(self, lines, at, size, start):
        type = MEMORY[start.dtype]
        name = self.function("fill", FILL.format(type=type))
        number = int(start.data) if type == "i8" else literal(start.data, start.dtype)
        lines.append(f"  call void @{name}(ptr {at}, i64 {size}, {type} {number})")

    def library_call(self, step, lines, pointers):
        args = [pointer(lines, pointers, b) for b in step.buffers]
        lines.append(f"  call void @{self.library(step)}({', '.join([f'ptr {a}' for a in args])})")

    def library(self, step):
        """The function that makes a library call."""
        self.declares.add(blas.declaration(step))
        self.externals.add(blas.symbol(step))
        return self.function("call", blas.function(step))

    def function(self, kind, text, result="void"):
        """Enter an internal function under a name made of its content."""
        name = f"{kind}.{blake2b(text.encode(), digest_size=6).hexdigest()}"
        self.functions[name] = f"define internal {result} @{name}{text}"
        return name


def lines_label(lines):
    """The block that the next instruction of the entry belongs to."""
    return next(line[:-1] for line in reversed(lines) if line.endswith(":"))


FILL = """(ptr noalias %b, i64 %n, {type} %start) nounwind noinline {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %at = getelementptr inbounds {type}, ptr %b, i64 %i
  store {type} %start, ptr %at
  %next = add nuw nsw i64 %i, 1
  %done = icmp eq i64 %next, %n
  br i1 %done, label %out, label %loop
out:
  ret void
}}
"""

assert np.dtype(np.intp).itemsize == 8, "tapejit compiles for 64-bit machines"
