"""LLVM: text of a module -> machine code in this process. The only file that imports llvmlite.

In: module text, the symbols to export, addresses for external symbols. Out: `Code`, which owns the machine code: it is
freed when the last reference goes. Object code is kept on disk (disk.py). One target machine and one pass pipeline per
process, made when first needed; LLVM is called under one lock. Nothing here is global to LLVM: no options are set, no
symbols are added to the process.

What LLVM keeps of the past is let go in time: constants and types are owned by a context, so every module has its own; an
LLJIT keeps about 10 kB of each library that it ever linked, so every so many libraries there is a new one, and the
old one goes with its last library.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time

import llvmlite
import llvmlite.binding as llvm

from . import disk
from .vecmath.rare import KEPT, LATE

_lock = threading.RLock()
_serial = itertools.count()
_session = None

LIBRARIES = 64  # that one LLJIT links; a new one takes 1 ms
RUNS = 16  # of one pass builder
# Which passes are run: "all" of them; those that leave code outside loops "scalar", as there is much, over which the SLP
# vectorizer takes its time; the "few" that matter for a little code without loops: half the time of all; "none".
PASSES = ("all", "scalar", "few")
SPEED = 1  # vectorizes, unrolls and interleaves like 3, for half the time (measured: equal code speed)


class Session:
    """What one process needs of LLVM."""

    def __init__(self):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        self.target = llvm.Target.from_default_triple()
        self.options = {"cpu": llvm.get_host_cpu_name(), "features": features.flatten(), "opt": 3}
        self.machine = self.target.create_target_machine(**self.options, reloc="pic", codemodel="small")
        self.builders = {}  # passes -> (pass builder, its runs)
        self.tunings = {passes: self.tuning(passes) for passes in PASSES}
        with open(__file__, "rb") as source:  # how the passes are run
            target = [self.target.triple, *self.options.values(), *llvm.llvm_version_info, llvmlite.__version__]
            self.identity = disk.digest(source.read(), *[str(part).encode() for part in target])
        self.width = 512 if features.get("avx512f") else 256
        self.linked = 0

    def linker(self):
        """The LLJIT for one more library."""
        if self.linked % LIBRARIES == 0:
            machine = self.target.create_target_machine(**self.options, jit=True)  # owned by the LLJIT
            self.jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
        self.linked += 1
        return self.jit

    def tuning(self, passes):
        options = llvm.create_pipeline_tuning_options(speed_level=SPEED)
        options.loop_vectorization = options.loop_interleaving = options.loop_unrolling = True
        options.slp_vectorization = passes == "all"
        return options

    def builder(self, passes):
        """For one run. Each run makes the next one slower, by callbacks, and each builder leaves 1.5 kB behind."""
        made, runs = self.builders.get(passes, (None, RUNS))
        if runs == RUNS:
            made, runs = llvm.create_pass_builder(self.machine, self.tunings[passes]), 0
        self.builders[passes] = made, runs + 1
        return made

    def optimize(self, text, passes):
        """The module after the passes; see PASSES."""
        text, _, late = text.partition(LATE)
        context = llvm.create_context()
        module = llvm.parse_assembly(text, context)
        if passes == "none":
            return module
        builder = self.builder(passes)
        if passes == "few":
            manager = llvm.create_new_module_pass_manager()
            manager.add_always_inliner_pass()
            manager.add_sroa_pass()
            manager.add_instruction_combine_pass()
            manager.add_simplify_cfg_pass()
            manager.add_global_dead_code_eliminate_pass()
        else:
            manager = builder.getModulePassManager()
        _run(manager, builder, module)
        if late:
            self._link_late(module, llvm.parse_assembly(late, context))
        return module

    def _link_late(self, module, late):
        names = [f.name for f in late.functions if not f.is_declaration]
        module.link_in(late)
        for value in (module.get_global_variable(KEPT), *map(module.get_function, names)):
            value.linkage = "internal"
        passes = llvm.create_new_module_pass_manager()
        passes.add_always_inliner_pass()
        passes.add_global_dead_code_eliminate_pass()
        _run(passes, self.builder("scalar"), module)


def _run(passes, builder, module):
    passes.run(module, builder)
    # llvmlite's own `close` does not free a pass manager (its base classes are in the wrong order): 40 kB a module.
    llvm.NewPassManager._dispose(passes)
    passes.detach()


def session() -> Session:
    global _session
    with _lock:
        if _session is None:
            _session = Session()
        return _session


def attributes() -> str:
    """Attributes of every function whose loops should be vectorized."""
    width = session().width
    return f'nounwind noinline alignstack({width // 8}) "prefer-vector-width"="{width}"'


class Image:
    """Object code of a module, not yet loaded. data: its bytes. times: milliseconds by phase."""

    def __init__(self, text, passes="all"):
        start = time.perf_counter()
        with _lock:
            s = session()
            key = disk.digest(s.identity, passes.encode(), text.encode())
            self.data = disk.load(key)
            if self.data is not None:
                self.times = {"read": (time.perf_counter() - start) * 1e3}
                return
            module = s.optimize(text, passes)
            optimized = time.perf_counter()
            self.data = s.machine.emit_object(module)
            module.close()
            emitted = time.perf_counter()
        self.times = {"optimize": (optimized - start) * 1e3, "select": (emitted - optimized) * 1e3}
        disk.save(key, self.data)


class Code:
    """Machine code, alive as long as this object. addresses: exported symbol -> address."""

    def __init__(self, image: Image, exports, imports):
        with _lock:
            library = llvm.JITLibraryBuilder().add_object_img(image.data).add_current_process()
            for name in exports:
                library.export_symbol(name)
            for name, address in imports.items():
                library.import_symbol(name, address)
            self._tracker = library.link(session().linker(), f"tapejit.{next(_serial)}")
        self.addresses = {name: self._tracker[name] for name in exports}


def immortal(kept):
    """An object that is never freed: what machine code belongs to that may be called when the modules are gone already."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    return kept


def optimized(text, passes="all") -> str:
    """The module after LLVM's passes, for reading."""
    with _lock:
        return str(session().optimize(text, passes))


def assembly(text, passes="all") -> str:
    with _lock:
        s = session()
        return s.machine.emit_assembly(s.optimize(text, passes))
