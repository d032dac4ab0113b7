"""Code generation: a Graph becomes machine code. `compile_graph(graph).run(arrays)`.

The stages, each in its file: fuse.py (Graph -> steps), lower.py (values -> scalar statements), schedule.py (-> loop
nests), memory.py (buffers -> offsets in an arena), emit.py and scalars.py (-> LLVM text), engine.py (-> machine
code), entry.py (how it is called); compile.py runs them. LLVM is loaded at the first compilation.
"""

from .compile import compile_graph
from .entry import Executable, GuardExit

__all__ = ["Executable", "GuardExit", "compile_graph"]
