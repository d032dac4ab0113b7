"""The calling convention: `Executable`, and the native function that Python calls.

The program's entry takes arrays of data pointers (emit.py). Python calls it through machine code that is given the list of
input arrays and the list of output arrays, followed by the arena (`lists` of marshal.py). That reads each ndarray's data
pointer itself, so a call costs two object conversions whatever the number of arrays. Where objects may be laid out
otherwise (PyPy, free-threaded builds, TAPEJIT_NATIVE=0) the pointers are collected here. Outputs are fresh; the arena is
taken from a free list and put back, so that calls may run at the same time. The GIL is released for programs with
enough work.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from tapejit.ir.knobs import NATIVE

from . import allocate, interrupts, marshal, memory

GIL_BYTES = 1 << 18  # programs that touch or compute more than this release the GIL

WITH_GIL = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
WITHOUT_GIL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
PLAIN = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


@lru_cache(maxsize=1)
def reads_objects() -> bool:
    """Whether lists and arrays of this process have the layouts that machine code may read: CPython with the GIL."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or hasattr(sys, "gettotalrefcount"):
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    array = np.zeros(3)
    items = [array]
    first = ctypes.c_size_t.from_address(id(items) + marshal.LIST_ITEMS).value
    return (
        ctypes.c_size_t.from_address(first).value == id(array)
        and ctypes.c_size_t.from_address(id(array) + marshal.DATA).value == array.ctypes.data
    )


@dataclass(frozen=True)
class GuardExit:
    """A guard saw another value than was recorded: its index among the guards, and the value."""

    index: int
    observed: int | bool


@dataclass
class Stats:
    """kernels: per kernel a dict (name, loops, loads, stores, bytes, operations, fused, origin)."""

    kernels: list = field(default_factory=list)
    library_calls: int = 0
    parallel: int = 0  # steps that run on several threads
    polls: bool = False  # whether it may be interrupted (interrupts.py)
    arena_bytes: int = 0
    code_bytes: int = 0
    compile_ms: dict = field(default_factory=dict)
    cached: bool = False


class Executable:
    """Machine code of one graph. `run` calls it; the texts are for reading, made when asked for."""

    def __init__(self, code, entry, steps, text, passes, results, guards, stats):
        self._code, self._steps, self.stats = code, steps, stats
        self.llvm_text, self._passes = text, passes
        self.entry_address = code.addresses[entry]
        self.results, self.guards = results, guards
        self._makers = [(allocate.empty if r.nbytes >= allocate.LARGE else np.empty, r.shape, r.dtype) for r in results]
        heavy = sum([k["bytes"] + k["operations"] for k in stats.kernels]) + stats.library_calls * GIL_BYTES
        self.releases_gil = heavy > GIL_BYTES or stats.parallel > 0
        if NATIVE.value and reads_objects():
            lists = (WITHOUT_GIL if self.releases_gil else WITH_GIL)(marshal.lists_code().addresses["lists"])
            self._call = partial(lists, self.entry_address)
        else:
            self._call, self.releases_gil = self._plain_call(PLAIN(self.entry_address)), True
        self._arenas = []

    @staticmethod
    def _plain_call(function):
        def call(inputs, outputs):
            data = [(ctypes.c_void_p * (len(x) + 1))(*[a.ctypes.data for a in x]) for x in (inputs, outputs[:-1])]
            arena = outputs[-1].ctypes.data
            return function(*data, arena, arena)

        return call

    def take_arena(self):
        """One that no call is using; it is the caller's until it is given back."""
        try:
            return self._arenas.pop()
        except IndexError:
            arena = memory.new_arena(self.stats.arena_bytes)
            interrupts.prepare(arena, self.releases_gil)
            return arena

    def run(self, inputs, given=None):
        """The results on `inputs` (C-contiguous aligned arrays of exactly the parameters' types), or a GuardExit.

        given: per result such an array, of the result's type and in nobody else's memory, to be written, or None. Raises what
        the handler of a signal raised while it ran.
        """
        if given is None:
            outputs = [empty(shape, dtype) for empty, shape, dtype in self._makers]
        else:
            outputs = [g if g is not None else make(*rest) for g, (make, *rest) in zip(given, self._makers)]
        arena = self.take_arena()
        outputs.append(arena)
        left = self._call(inputs if type(inputs) is list else list(inputs), outputs)
        del outputs[-1]
        if left:
            outputs = self._left(left, arena)
        self._arenas.append(arena)
        return outputs

    def _left(self, left, arena):
        if left == interrupts.INTERRUPTED:
            interrupts.reraise(arena)
        index = left - 1
        observed = int(arena[:8].view(np.int64)[0])
        return GuardExit(index, bool(observed) if self.guards[index] is bool else observed)

    @property
    def kernels_text(self) -> str:
        from .loops import show

        return show(self._steps)

    def optimized_llvm_text(self) -> str:
        from . import engine

        return engine.optimized(self.llvm_text, self._passes)

    def asm_text(self) -> str:
        from . import engine

        return engine.assembly(self.llvm_text, self._passes)
