"""The driver's side of the workers: processes that are kept alive, asked in turn, and ended when they take too long.

A `Team` is one worker per tool under one thread setting. Environment: OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, which slow a
current OpenBLAS down, are unset; every pool of threads is told its size; with one thread all workers are pinned to one and the
same core, so that none has the better one. Caches on disk are in a folder of the run. A worker is stopped while it is not
asked: threads of OpenMP and OpenBLAS look for work for a while after their last, on cores that are others' turn to use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Pipe
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
POOLS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "TAPEJIT")
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE")
CACHES = ("TAPEJIT_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")


class Failure(Exception):
    """A worker could not do what it was asked; the message is why. absent: no such tool, or no version of the problem."""

    def __init__(self, why, absent=False):
        super().__init__(why)
        self.absent = absent

    def cell(self) -> dict:
        """What the table shows instead of a time."""
        return {"state": "absent" if self.absent else "failed", "note": str(self)}


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def environment(threads: int, caches: Path) -> dict:
    """The variables of a worker."""
    variables = {k: v for k, v in os.environ.items() if k not in UNSET}
    path = str(HERE) + os.pathsep + variables.get("PYTHONPATH", "")
    variables.update({f"{pool}_NUM_THREADS": str(threads) for pool in POOLS}, PYTHONPATH=path.rstrip(os.pathsep))
    variables.update({name: str(caches / name.lower()) for name in CACHES})
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return variables


class Worker:
    """One tool's process."""

    def __init__(self, tool, python, threads, caches, timeout):
        core = str(cores()[-1]) if threads == 1 and hasattr(os, "sched_setaffinity") else "-"
        self.tool, self.timeout = tool, timeout
        self.pipe, theirs = Pipe()
        command = [python, "-m", "peers.worker", tool, str(theirs.fileno()), core]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=environment(threads, caches),
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stderr=None if os.environ.get("VERSUS_DEBUG") else subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def ask(self, *message):
        """The answer to a command; Failure on an error, on silence, at the end of the process."""
        try:
            self.signal(signal.SIGCONT)
            self.pipe.send(message)
            if not self.pipe.poll(self.timeout):
                self.end()
                raise Failure(f"no answer in {self.timeout:g} s")
            status, answer = self.pipe.recv()
            self.signal(signal.SIGSTOP)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self.end()
            raise Failure("killed by " + signal.Signals(-code).name if code < 0 else f"exited with {code}") from None
        if status != "ok":
            raise Failure(answer, absent=status == "absent")
        return answer

    def end(self) -> int:
        """Close the pipe, end the process and its children, return its exit code."""
        self.pipe.close()
        self.signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        self.signal(signal.SIGKILL)
        return self.process.wait()

    def signal(self, number) -> None:
        """To the process and its children, if there are any left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None


class Team:
    """A worker per tool, started when it is first needed, and again after it ended."""

    def __init__(self, tools, python=sys.executable, threads=1, caches=Path(), timeout=60.0):
        self.tools, self.options = tools, (python, threads, caches, timeout)
        self.workers, self.versions, self.missing = {}, {}, {}

    def ask(self, tool, *message):
        """The answer of a tool's worker; Failure, too, where the tool is not installed."""
        if tool in self.missing:
            raise self.missing[tool]
        if tool not in self.workers or not self.workers[tool].alive:
            try:
                self.workers[tool] = Worker(tool, *self.options)
                self.versions |= self.workers[tool].ask("import")
            except Failure as failure:
                self.missing[tool] = failure
                raise
        return self.workers[tool].ask(*message)

    def drop(self):
        """Have all workers forget the problem."""
        for worker in self.workers.values():
            if worker.alive:
                with contextlib.suppress(Failure):  # it ended since; the next problem starts another
                    worker.ask("drop")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers.values():
            if worker.alive:
                worker.end()
