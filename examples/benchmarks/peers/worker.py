"""One tool in a process of its own: `python -m peers.worker TOOL DESCRIPTOR CORE`, asked over a pipe by team.py.

    import              -> versions, by name
    prepare, name       -> seconds of the first call (building the function included, arguments made before), its results
    warm                -> seconds of a steady call, roughly
    time, count         -> seconds of that many calls, one after the other
    drop                -> forget the problem

Replies are ("ok", answer), ("absent", why) of what is not there, or ("failed", why). CORE pins the process before the tool is
imported and counts its cores; "-" does not.
"""

import gc
import importlib
import os
import platform
import sys
import time
import timeit
from multiprocessing.connection import Connection

import numpy as np

from .problems import find, flatten

NAMES = {"torch.compile": ("with_torch", "compiled"), "torch eager": ("with_torch", "eager")}


class Absent(Exception):
    """The tool has no version of a problem."""


class Bench:
    """The commands, and the problem that is being worked on."""

    def __init__(self, tool):
        self.tool, self.module, self.variant, self.timer = tool, None, None, None

    def import_(self):
        """The module of the tool's code, and with it the tool; returns versions."""
        name, self.variant = NAMES.get(self.tool, (f"with_{self.tool}", None))
        self.module = importlib.import_module(f"peers.{name}")
        return {"Python": platform.python_version(), "NumPy": np.__version__, self.tool: self.module.VERSION}

    def prepare(self, name):
        """Build the tool's version of a problem and call it once."""
        problem = find(name)
        skip = self.module.SKIP.get((problem.family, problem.size)) or self.module.SKIP.get(problem.family)
        if skip or not hasattr(self.module, problem.family):
            raise Absent(skip or "no version of it")
        if self.variant:
            self.module.VARIANT = self.variant
        _ = problem.args
        start = time.perf_counter()
        f, args = getattr(self.module, problem.family)(problem)
        result = f(*args)
        seconds = time.perf_counter() - start
        names = {f"a{i}": a for i, a in enumerate(args)}
        self.timer = timeit.Timer(f"f({', '.join(names)})", globals={"f": f, **names})
        return seconds, flatten(result)

    def warm(self):
        """Call until what is compiled late is compiled: five times, longer if that takes less than 20 ms."""
        calls, best, start = 0, float("inf"), time.perf_counter()
        while calls < 5 and time.perf_counter() - start < 2.0 or time.perf_counter() - start < 0.02:
            best = min(best, self.timer.timeit(1))
            calls += 1
        return best

    def time(self, count):
        """What is measured."""
        return self.timer.timeit(count)

    def drop(self):
        """Free the problem."""
        self.timer = None
        getattr(self.module, "forget", lambda: None)()
        gc.collect()


def main():
    """Answer until the driver hangs up."""
    tool, descriptor, core = sys.argv[1:]
    if core != "-":
        os.sched_setaffinity(0, {int(core)})
    os.dup2(2, 1)  # nothing that a tool prints may get into the driver's output
    connection, bench = Connection(int(descriptor)), Bench(tool)
    commands = {"import": bench.import_, "prepare": bench.prepare, "warm": bench.warm, "time": bench.time, "drop": bench.drop}
    while True:
        try:
            command, *args = connection.recv()
        except EOFError:
            return
        try:
            reply = "ok", commands[command](*args)
        except Absent as error:
            reply = "absent", str(error)
        except ImportError as error:
            reply = "absent", f"not installed: {error}"
        except Exception as error:
            reply = "failed", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        connection.send(reply)


if __name__ == "__main__":
    main()
