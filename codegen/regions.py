"""The functions that run nested programs: one per scan, while and switch whose body does not fit the registers.

In: a loops.Region with its Programs, and the names of their functions, each (inputs, outputs, arena, observed) -> i64, with
tables of pointers, as the entry itself has. Out: the text of a function of the operands, the results, the scratch
memory and `observed`, which fills the tables and calls them: nothing is copied but carries at the ends. A carry has two
places that change roles from one iteration to the next; rows and stacks are read and written where they are. A guard that
fails inside (not 0) is handed on at once; so is an interruption, for which loops that may run for long poll.
"""

from __future__ import annotations

import math

from tapejit.ir.ops.loop import parts

from . import interrupts
from .loops import Call, flat, kernels_of
from .memory import LINE
from .writer import Writer

PROGRAM = "i64 (ptr, ptr, ptr, ptr)"
COPY = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
CLEAR = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"
STEP = 16  # operations that take as long as the call of a step
CLAMP = {"declare i64 @llvm.smin.i64(i64, i64)", "declare i64 @llvm.smax.i64(i64, i64)"}


def lines_of(nbytes):
    return -(-max(nbytes, 1) // LINE) * LINE


def _carries(step):
    """The Types of what is carried."""
    return [b.type for b in step.operands[step.node.attrs.get("counted", 0) :][: step.node.attrs.get("carries", 0)]]


def scratch_bytes(step) -> int:
    """Two places per carry, one for what a test answers, and the largest arena."""
    return sum([2 * lines_of(t.nbytes) for t in _carries(step)]) + LINE + max([p.arena for p in step.programs])


def every(step) -> int:
    """After how many iterations a loop polls, 0 if it need not, by how much an iteration does."""
    if step.node.op.name == "switch":
        return 0
    steps = flat([s for p in step.programs for s in p.steps])
    work = sum([k.statistics["operations"] + k.statistics["bytes"] // 8 for k in kernels_of(steps)])
    work += sum([math.isqrt(math.prod([b.type.size for b in s.buffers])) for s in steps if isinstance(s, Call)])
    work += STEP * len(steps)
    if step.node.op.name == "scan" and step.node.attrs["length"] * work <= interrupts.LONG:
        return 0
    return interrupts.iterations(work)


def driver(step, names) -> tuple[str, set]:
    """(text from the parameters on, declarations)."""
    return {"scan": _Scan, "while": _While, "switch": _Switch}[step.node.op.name](step, names).function()


class _Driver:
    def __init__(self, step, names):
        self.step, self.names = step, names
        self.w = Writer("", {**dict.fromkeys(names, PROGRAM), interrupts.SYMBOL: "i64 (ptr)"})
        self.operands = [f"%x{i}" for i in range(len(step.operands))]
        self.results = [f"%y{i}" for i in range(len(step.results))]

    def function(self):
        w = self.w
        self.inputs = self.table(max([len(p.inputs) for p in self.step.programs]))
        self.outputs = self.table(max([len(p.outputs) for p in self.step.programs]))
        at = 0
        self.places = []
        for t in _carries(self.step):
            self.places.append([w.byte("%scratch", at), w.byte("%scratch", at + lines_of(t.nbytes))])
            at += 2 * lines_of(t.nbytes)
        self.flag, self.arena = w.byte("%scratch", at), w.byte("%scratch", at + LINE)
        if self.step.leaves:
            self.left = w.variable("i64", "0")
        self.run()
        w.line("ret i64 0")
        if self.step.leaves:
            w.label("leave")
            w.line(f"ret i64 {w.load(self.left, type='i64')}")
        parameters = ", ".join([f"ptr {p}" for p in (*self.operands, *self.results, "%scratch", "%observed")])
        return "\n".join([f"({parameters}) nounwind {{", "entry:", *w.slots, *w.lines, "}\n"]), {COPY, CLEAR, *CLAMP}

    def clamped(self, number, most):
        low = self.w.let(f"call i64 @llvm.smax.i64(i64 {number}, i64 0)")
        return self.w.let(f"call i64 @llvm.smin.i64(i64 {low}, i64 {most})")

    def table(self, length):
        name = self.w.fresh("%table")
        self.w.slots.append(f"  {name} = alloca [{max(length, 1)} x ptr]")
        return name

    def put(self, table, index, pointer):
        self.w.store(pointer, self.w.byte(table, 8 * index))

    def call(self, number):
        """Run a program; leave if a guard in it fails."""
        left = self.w.call(self.names[number], self.inputs, self.outputs, self.arena, "%observed")
        if self.step.guarded:
            self.go_on(left)

    def go_on(self, left):
        """Leave with `left` if that is not 0."""
        self.w.store(left, self.left, "i64")
        self.w.need(self.w.test("eq", left, "0"), "leave")

    def poll(self, i):
        """Poll after iteration i, if it is time; leave if interrupted."""
        w = self.w
        if self.step.every:
            with w.when(w.test("eq", w.let(f"and i64 {i}, {self.step.every - 1}"), self.step.every - 1)):
                self.go_on(w.call(interrupts.SYMBOL, "%observed"))

    def copy(self, to, source, nbytes):
        if nbytes:
            self.w.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {nbytes}, i1 false)")

    # ---- carries -----------------------------------------------------------------------------------------------------
    def begin(self, inits):
        """Copy the carries in; `now` and `next`: variables that hold where they are and where the next ones go."""
        w = self.w
        for (here, _), init, t in zip(self.places, inits, _carries(self.step)):
            self.copy(here, init, t.nbytes)
        self.now = [w.variable("ptr", here) for here, _ in self.places]
        self.next = [w.variable("ptr", there) for _, there in self.places]

    def look(self):
        for i, now in enumerate(self.now):
            self.put(self.inputs, i, self.w.load(now))

    def aim(self):
        for i, then in enumerate(self.next):
            self.put(self.outputs, i, self.w.load(then))

    def turn(self):
        for now, then in zip(self.now, self.next):
            a, b = self.w.load(now), self.w.load(then)
            self.w.store(b, now)
            self.w.store(a, then)

    def end(self):
        for now, result, t in zip(self.now, self.results, _carries(self.step)):
            self.copy(result, self.w.load(now), t.nbytes)


class _Scan(_Driver):
    def run(self):
        w, attrs = self.w, self.step.node.attrs
        count, inits, rows, invariants = parts(attrs, self.operands)
        types = parts(attrs, [b.type for b in self.step.operands])
        k, length = attrs["carries"], attrs["length"]
        stacks = list(zip(self.results[k:], [b.type for b in self.step.results[k:]]))
        many = str(length)
        if count:
            many = self.clamped(w.load(count[0], type="i64"), length)
            for y, t in stacks:
                w.line(f"call void @llvm.memset.p0.i64(ptr {y}, i8 0, i64 {t.nbytes}, i1 false)")
        for i, x in enumerate(invariants):
            self.put(self.inputs, k + len(rows) + i, x)
        self.begin(inits)
        each = max(length, 1)
        with w.loop(many) as i:
            row = w.let(f"sub i64 {w.let(f'sub i64 {many}, 1')}, {i}") if attrs["reverse"] else i
            self.look()
            self.aim()
            for j, (x, t) in enumerate(zip(rows, types.rows)):
                self.put(self.inputs, k + j, w.byte(x, w.let(f"mul i64 {row}, {t.nbytes // each}")))
            for j, (y, t) in enumerate(stacks):
                self.put(self.outputs, k + j, w.byte(y, w.let(f"mul i64 {row}, {t.nbytes // each}")))
            self.call(0)
            self.turn()
            self.poll(i)
        self.end()


class _While(_Driver):
    def run(self):
        w, k = self.w, self.step.node.attrs["carries"]
        for i, x in enumerate(self.operands[k:]):
            self.put(self.inputs, k + i, x)
        self.begin(self.operands[:k])
        runs = w.variable("i64", "0")
        head, out = w.fresh("test"), w.fresh("done")
        w.go(head)
        w.label(head)
        self.look()
        self.put(self.outputs, 0, self.flag)
        self.call(0)
        w.need(w.test("ne", w.load(self.flag, type="i8"), "0", "i8"), out)
        self.aim()
        self.call(1)
        self.turn()
        run = w.load(runs, type="i64")
        w.store(w.let(f"add i64 {run}, 1"), runs, "i64")
        self.poll(run)
        w.go(head)
        w.label(out)
        self.end()
        w.store(w.load(runs, type="i64"), self.results[k], "i64")


class _Switch(_Driver):
    def run(self):
        w = self.w
        for i, x in enumerate(self.operands[1:]):
            self.put(self.inputs, i, x)
        for i, y in enumerate(self.results):
            self.put(self.outputs, i, y)
        taken = self.clamped(w.load(self.operands[0], type="i64"), len(self.names) - 1)
        with w.switch(taken, len(self.names)) as case:
            for number in range(len(self.names)):
                with case(number):
                    self.call(number)
