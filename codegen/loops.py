"""Loop IR: what a kernel does, as loops and scalar statements; the stage "kernels" of the dump.

In: built by lower.py (statements of a body) and schedule.py (the nest around them). Out: walked by emit.py, printed by
`show`. Scalars are SSA names (`%3`); registers (`acc0`) are the only mutable things, they become phis. Memory is
addressed by affine offsets (affine.py) in elements of a buffer. Statements know nothing of LLVM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tapejit.ir.types import NAMES

from . import affine


class Buffer:
    """A contiguous piece of memory. place: ("input", i), ("output", i), ("arena", byte
    offset), ("observed", 0): the head of the call's arena, or ("constant", its numbers). room: its bytes."""

    __slots__ = ("name", "type", "place", "loads", "writers", "room")

    def __init__(self, name, type, place=None):
        self.name, self.type, self.place, self.room = name, type, place, type.nbytes
        self.loads = 0
        self.writers = []

    def __repr__(self):
        return self.name


@dataclass(slots=True, eq=False, repr=False)
class Load:
    name: str
    dtype: np.dtype
    buffer: Buffer
    at: tuple
    mask: str | None = None  # reads zero where the mask is false, and touches no memory there


@dataclass(slots=True, eq=False, repr=False)
class Let:
    name: str
    dtype: np.dtype
    op: object
    args: tuple
    attrs: dict


@dataclass(slots=True, eq=False, repr=False)
class Index:
    """An index expression as an i64 scalar."""

    name: str
    at: tuple


@dataclass(slots=True, eq=False, repr=False)
class Inside:
    """The conjunction of `0 <= expression < n`, over `conditions` = ((expression, n), ...)."""

    name: str
    conditions: tuple


@dataclass(slots=True, eq=False, repr=False)
class Bind:
    """The run-time index variable `variable` (< 0) of affine expressions stands for this i64 scalar."""

    variable: int
    value: object


@dataclass(slots=True, eq=False, repr=False)
class Register:
    name: str
    dtype: np.dtype
    start: object


@dataclass(slots=True, eq=False, repr=False)
class Accumulate:
    """target = op.emit(target, value); the target is a register's name or (buffer, offset)."""

    target: object
    op: object
    value: object
    dtype: np.dtype
    reassociate: bool  # the order of accumulation is free (a fold)


@dataclass(slots=True, eq=False, repr=False)
class Read:
    name: str
    register: str
    dtype: np.dtype


@dataclass(slots=True, eq=False, repr=False)
class Write:
    register: str
    value: object


@dataclass(slots=True, eq=False, repr=False)
class Leave:
    """Leave the innermost loop unless the scalar `condition` holds."""

    condition: object


@dataclass(slots=True, eq=False, repr=False)
class Arg:
    """best, where = value, at if value beats best; NaN beats all but NaN. `first`: at == 0, which always wins."""

    best: str
    where: str
    value: object
    at: tuple
    dtype: np.dtype
    greatest: bool


@dataclass(slots=True, eq=False, repr=False)
class Store:
    buffer: Buffer
    at: tuple
    value: object


@dataclass(slots=True, eq=False, repr=False)
class For:
    """A loop; with `row` it runs over that many steps for each row of the tile (tile.py), else from 0 to the extent.

    count: the scalar that is how many steps are run, up to the extent; none at all if it is 0. poll: (steps, Buffer) of one
    that polls (interrupts.py) after so many steps, which leaves the kernel where it is interrupted.
    """

    axis: int
    extent: int
    body: list
    row: int = 0
    count: str | None = None
    poll: tuple | None = None


@dataclass(slots=True, eq=False, repr=False)
class Kernel:
    """A loop nest as an internal function of its buffers."""

    body: list
    buffers: list
    writes: set
    origin: str
    statistics: dict = field(default_factory=dict)
    name: str = ""

    @property
    def polls(self):
        """Whether it may leave the whole program, and returns what with, or 0."""
        return any([type(s) is For and s.poll is not None for s in self.body])


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """A library call: `routine` of BLAS under the loops `batch` (blas.Group: length and strides of one step).

    tile: the option that is the number of rows of a tile, if it runs in tiles, and the strides of a row.
    """

    routine: str
    dtype: np.dtype
    options: dict
    buffers: list  # left, right, result
    start: list  # offsets into them
    batch: tuple
    tile: tuple | None
    origin: str


@dataclass(slots=True, eq=False, repr=False)
class Fill:
    """Every element of the buffer becomes the Constant `start`."""

    buffer: Buffer
    start: object

    @property
    def buffers(self):
        return [self.buffer]


@dataclass(slots=True, eq=False, repr=False)
class Tiles:
    """Kernels and Calls run over `rows` rows at a time of `extent`. windows: buffer -> bytes of a row, for those kept for a
    tile only.

    In pieces of `piece` rows, if that is not 0, which may run at the same time: windows lie in the `scratch` of
    each thread, and each piece folds the rows into a part of its own: partials: buffer of all parts -> what a part starts with.
    """

    kernels: list
    extent: int
    rows: int
    windows: dict
    piece: int = 0
    partials: dict = field(default_factory=dict)
    scratch: Buffer | None = None

    @property
    def pieces(self):
        return -(-self.extent // self.piece) if self.piece else 1

    @property
    def buffers(self):
        scratch = [self.scratch] if self.scratch else []
        return list(dict.fromkeys([b for k in self.kernels for b in k.buffers] + scratch))


@dataclass(slots=True, eq=False, repr=False)
class Exit:
    """Leave with 1 + index if the scalar in `buffer` differs from `seen`."""

    index: int
    buffer: Buffer
    seen: object

    @property
    def buffers(self):
        return [self.buffer]

    @property
    def reads(self):
        return [self.buffer]

    writes = ()

    def redirect(self, stands):
        self.buffer = stands.get(self.buffer, self.buffer)


@dataclass(slots=True, eq=False, repr=False)
class Program:
    """The steps of a nested graph, called with tables of pointers to its inputs and outputs, and `arena` bytes of its own."""

    name: str
    steps: list
    arena: int
    inputs: list  # Types
    outputs: list


@dataclass(slots=True, eq=False, repr=False)
class Region:
    """An operation with regions (ir/ops/loop.py, branch.py): `programs`, one per region, run on the operands.

    first: the number of the first guard in it. steps: what stands for it, where that is not the call of programs. every:
    after how many iterations it polls (interrupts.py), 0 if it does not.
    """

    node: object
    operands: list
    results: list
    first: int
    origin: str
    programs: list = field(default_factory=list)
    scratch: Buffer | None = None
    steps: list | None = None
    every: int = 0

    @property
    def polls(self):
        return self.every > 0

    @property
    def guarded(self):
        """Whether a guard in its programs, or an interruption there, may leave the whole program."""
        steps = flat([s for p in self.programs for s in p.steps])
        return any([isinstance(s, Exit) or (isinstance(s, (Kernel, Region)) and s.polls) for s in steps])

    @property
    def leaves(self):
        return self.polls or self.guarded

    @property
    def buffers(self):
        return list(dict.fromkeys([*self.operands, *self.results, *[self.scratch] * (self.scratch is not None)]))

    @property
    def reads(self):
        return self.operands

    @property
    def writes(self):
        return self.results

    def redirect(self, stands):
        self.operands = [stands.get(b, b) for b in self.operands]


# ---- text ----------------------------------------------------------------------------------------------------------
LOOP_NAMES = "ijklmnpqrstuvw"


def loop_name(v):
    return LOOP_NAMES[v] if 0 <= v < len(LOOP_NAMES) else f"i{v}" if v >= 0 else f"at{-v - 1}"


def _operand(x):
    return x if isinstance(x, str) else repr(x.data) if hasattr(x, "data") else repr(x)


def _at(expression):
    return affine.show(expression, loop_name)


def show_kernel(kernel) -> str:
    parameters = ", ".join(f"{b.name}: {b.type}" for b in kernel.buffers)
    lines = [f"kernel {kernel.name}({parameters})    # {kernel.origin}"]
    stack = [(s, 1) for s in reversed(kernel.body)]
    while stack:
        statement, depth = stack.pop()
        lines.append("  " * depth + show_statement(statement))
        if isinstance(statement, For):
            stack.extend([(s, depth + 1) for s in reversed(statement.body)])
    return "\n".join(lines)


def show_statement(s) -> str:
    match s:
        case Load():
            mask = f" if {s.mask} else 0" if s.mask else ""
            return f"{s.name} = {s.buffer.name}[{_at(s.at)}]{mask}"
        case Let():
            attrs = "".join([f" {k}={NAMES.get(v, v)}" for k, v in s.attrs.items()])
            return f"{s.name} = {s.op.name} {', '.join(map(_operand, s.args))}{attrs}"
        case Index():
            return f"{s.name} = index {_at(s.at)}"
        case Bind():
            return f"{loop_name(s.variable)} = {_operand(s.value)}"
        case Inside():
            return f"{s.name} = " + " and ".join(f"0 <= {_at(e)} < {n}" for e, n in s.conditions)
        case Register():
            return f"{s.name} := {_operand(s.start)} : {NAMES[s.dtype]}"
        case Accumulate():
            target = s.target if isinstance(s.target, str) else f"{s.target[0].name}[{_at(s.target[1])}]"
            return f"{target} {s.op.name}= {_operand(s.value)}"
        case Read():
            return f"{s.name} = {s.register}"
        case Write():
            return f"{s.register} = {_operand(s.value)}"
        case Leave():
            return f"leave unless {_operand(s.condition)}"
        case Arg():
            return f"{s.best}, {s.where} arg{'max' if s.greatest else 'min'}= {_operand(s.value)}, {_at(s.at)}"
        case Store():
            return f"{s.buffer.name}[{_at(s.at)}] = {_operand(s.value)}"
        case For():
            up_to = f"{s.count}, at most {s.extent}" if s.count else s.extent
            poll = f", polling every {s.poll[0]}" if s.poll else ""
            return f"for {loop_name(s.axis)} in {up_to}{f' by tile, {s.row} a row' if s.row else ''}{poll}:"
        case Call():
            options = " ".join(f"{k}={v}" for k, v in s.options.items())
            left, right, out = s.buffers
            times = "".join([f" x{g.length}" for g in s.batch])
            rows = f", {s.tile[0]} by tile" if s.tile else ""
            return f"call {s.routine}({left.name}, {right.name}) -> {out.name} {options}{times}{rows}    # {s.origin}"
        case Fill():
            return f"fill({s.buffer.name}) {_operand(s.start)}"
        case Exit():
            return f"exit {s.index} unless {s.buffer.name}[0] == {s.seen!r}"
        case Region():
            names = [", ".join([b.name for b in bs]) for bs in (s.operands, s.results)]
            attrs = "".join([f" {k}={v}" for k, v in s.node.attrs.items()])
            poll = f", polling every {s.every}" if s.every else ""
            return f"{s.node.op.name}({names[0]}) -> {names[1]}{attrs}{poll}    # {s.origin}"
    raise TypeError(f"no text for {s!r}")


def unnested(steps) -> list:
    """The steps, and those of nested programs after the step that runs them."""
    out = []
    for s in steps:
        out.append(s)
        if isinstance(s, Region):
            out += [one for program in s.programs for one in unnested(program.steps)]
    return out


def flat(steps) -> list:
    """The steps, those of nested programs and of tiles one by one."""
    return [k for s in unnested(steps) for k in (s.kernels if isinstance(s, Tiles) else [s])]


def kernels_of(steps) -> list:
    return [s for s in flat(steps) if isinstance(s, Kernel)]


def show(steps) -> str:
    """All kernels once, then the program that calls them."""
    kernels = {k.name: k for k in kernels_of(steps)}
    out = [show_kernel(k) for k in kernels.values()]
    return "\n\n".join([*out, "\n".join(["program", *_show_steps(steps, "  ")])]) + "\n"


def _show_steps(steps, indent) -> list:
    lines = []
    for step in steps:
        inside = indent
        if isinstance(step, Tiles):
            windows = "".join([f"; {b.name}: a tile" for b in step.windows])
            pieces = f", {step.pieces} pieces in parallel" if step.piece else ""
            lines.append(f"{indent}tiles of {step.rows} rows of {step.extent}{pieces}{windows}")
            inside += "  "
        for one in step.kernels if isinstance(step, Tiles) else [step]:
            call = isinstance(one, Kernel) and f"{one.name}({', '.join(b.name for b in one.buffers)})"
            lines.append(f"{inside}{call or show_statement(one)}")
        if isinstance(step, Region):
            for program in step.programs:
                lines += [f"{indent}  {program.name}:", *_show_steps(program.steps, indent + "    ")]
    return lines
