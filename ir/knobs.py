"""The few settings of the compiler: a default from the environment, and a context manager to change one in a block.

    TAPEJIT_VERIFY=1      check every graph after every step of the pipeline (slow; the tests set it)
    TAPEJIT_INTERP=1      run the interpreter (NumPy) in place of native code
    TAPEJIT_NATIVE=0      call machine code through ctypes only, reading no fields of Python's objects (what other builds do)
    TAPEJIT_LOOP_BYTES=n  what reverse mode may keep of the iterations of one loop; beyond that it computes some again (1 GiB)
    TAPEJIT_DEBUG=0..6    how much is reported on stderr: retraces, passes, IR, Loop IR, LLVM, assembly

In: environment variables, read once at import. Out: `VERIFY` and the others below, which are read as `if VERIFY.value:`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager


class Knob:
    """One integer setting of the process. `with knob.at(1): ...` changes it inside a block."""

    def __init__(self, name: str, default: int = 0):
        self.name = name
        self.value = int(os.environ.get(name) or default)

    @contextmanager
    def at(self, value: int):
        before, self.value = self.value, value
        try:
            yield self
        finally:
            self.value = before

    def __repr__(self):
        return f"<Knob {self.name}={self.value}>"


VERIFY = Knob("TAPEJIT_VERIFY")
DEBUG = Knob("TAPEJIT_DEBUG")
INTERP = Knob("TAPEJIT_INTERP")
NATIVE = Knob("TAPEJIT_NATIVE", 1)
LOOP_BYTES = Knob("TAPEJIT_LOOP_BYTES", 1 << 30)
