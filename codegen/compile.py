"""Graph -> Executable: the stages of code generation, read top to bottom, and the memory of what was compiled.

Graphs of equal digest share an Executable as long as anybody holds one. When nobody does its machine code is freed; what
stays for the last few is the object code and how to load it (`Recipe`), so that a function made anew at each use (a lambda)
is linked, not compiled. A Recipe is entered when it is complete: a failure or a KeyboardInterrupt leaves nothing behind.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass

from tapejit.ir.graph import Graph
from tapejit.ir.ops.guard import guards_of
from tapejit.ir.pause import pause_gc
from tapejit.ir.types import BOOL, tensor

from . import blas, emit, interrupts, memory, regions, registers, threads, vecmath
from .entry import Executable, Stats
from .fuse import fuse
from .loops import Buffer, Call, Exit, For, Program, Region, Tiles, flat, kernels_of, unnested
from .lower import Body
from .tile import scheduled, tiled
from .vecmath.rare import LATE

KEPT = 64
# Statements outside loops: up to so many, and no loop, need but few of LLVM's passes; from so many on they are left scalar.
LITTLE, STRAIGHT_LINE = 20, 200

_lock = threading.RLock()
_alive = weakref.WeakValueDictionary()
_recent = OrderedDict()


@pause_gc
def compile_graph(graph: Graph, name="f"):
    """The Executable of an optimised graph. `name` is for reading only."""
    key = graph.digest
    with _lock:
        found = _alive.get(key)
        if found is not None:
            found.stats.cached = True
            return found
        recipe = _recent.pop(key, None)
        if recipe is None:
            recipe = _compile(graph, key)
        else:
            recipe.stats.cached = True
        found = recipe.load()
        _alive[key], _recent[key] = found, recipe
        while len(_recent) > KEPT:
            _recent.popitem(last=False)
        return found


def clear():
    """Forget the object code that is kept."""
    with _lock:
        _recent.clear()


@dataclass
class Recipe:
    """All that an Executable is made from, its object code included."""

    image: object
    entry: str
    imports: dict
    steps: list
    text: str
    passes: str
    results: list
    guards: list
    stats: object

    def load(self):
        from . import engine

        start = time.perf_counter()
        code = engine.Code(self.image, [self.entry], self.imports)
        self.stats.compile_ms["link"] = (time.perf_counter() - start) * 1e3
        return Executable(
            code, self.entry, self.steps, self.text, self.passes, self.results, self.guards, self.stats
        )


def _compile(graph, digest) -> Recipe:
    from . import engine

    marks = [time.perf_counter()]
    program = program_of(graph)
    steps = program.steps
    marks.append(time.perf_counter())

    module = emit.ModuleEmitter(engine.attributes()).module(steps, digest)
    text = module.text + LATE + module.late if module.late else module.text
    marks.append(time.perf_counter())

    # by the second part of the symbol; the rest is vector math
    owners = {"parallel": threads, "poll": interrupts, "i32": blas, "i64": blas}
    imports = {symbol: owners.get(symbol.split(".")[1], vecmath).address(symbol) for symbol in module.externals}
    kernels = kernels_of(steps)
    passes = _passes(kernels)
    image = engine.Image(text, passes)

    stats = Stats(
        kernels=[{"name": k.name, "origin": k.origin, **k.statistics} for k in kernels],
        library_calls=sum([type(s) is Call for s in flat(steps)]),
        parallel=sum([type(s) is Tiles and s.piece > 0 for s in unnested(steps)]),
        polls=interrupts.SYMBOL in imports,
        arena_bytes=program.arena,
        code_bytes=len(image.data),
        compile_ms={"fuse": (marks[1] - marks[0]) * 1e3, "emit": (marks[2] - marks[1]) * 1e3, **image.times},
    )
    exits = sorted([s for s in flat(steps) if type(s) is Exit], key=lambda s: s.index)
    guards = [bool if s.buffer.type.name == "bool" else int for s in exits]
    results = [r.type for r in graph.results]
    return Recipe(image, module.entry, imports, steps, text, passes, results, guards, stats)


def program_of(graph, first_guard=0) -> Program:
    """The steps of a graph and the bytes of memory that they need, nested graphs within."""
    steps, _ = fuse(graph, first_guard)
    for step in steps:
        for buffer in [b for b, _, _ in step.loads] if isinstance(step, Body) else step.reads:
            buffer.loads += 1
    memory.in_place(steps)
    for step in steps:
        if type(step) is Region:
            _prepare(step)
    steps = [one for step in tiled(steps) for one in scheduled(step)]
    arena = memory.plan([s.buffers for s in steps])
    return Program(graph.name, steps, arena, [p.type for p in graph.params], [r.type for r in graph.results])


def _prepare(step):
    """Decide what runs a region: a kernel of its own if all of it fits the registers, else its programs."""
    step.steps = registers.steps(step)
    if step.steps is not None:
        return
    first = step.first
    for region in step.node.regions:
        step.programs.append(program_of(region, first))
        first += len(guards_of(region))
    step.every = regions.every(step)
    times = max(step.node.attrs.get("length", 1), 1)
    for kernel in kernels_of([s for p in step.programs for s in p.steps]):
        kernel.statistics["operations"] *= times
    step.scratch = Buffer("scratch", tensor(BOOL, (regions.scratch_bytes(step),)), ("arena", None))


def _passes(kernels):
    """Which of LLVM's passes are worth their time; see engine.PASSES."""
    statements = [s for k in kernels for s in k.body]
    if len(statements) <= LITTLE and not any([type(s) is For for s in statements]):
        return "few"
    return "scalar" if len(statements) > STRAIGHT_LINE else "all"
