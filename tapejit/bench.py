"""Compiled against eager on this machine: workloads, the stop-watch, the table. `python -m tapejit bench` runs `small_set()`.

A `Workload` is a NumPy function, the transform that is asked of it, its arguments, and the same computation in eager NumPy.
`measure` calls the variants in turn, whole calls, and takes medians; results are checked against each other first.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import numpy as np

from tapejit.ir.knobs import INTERP

from .api import grad, jit, value_and_grad
from .tree import flatten

HEADER = (
    f"{'workload':24s} {'size':>12s} {'1st call':>9s} {'eager':>11s} {'interpreted':>11s} {'compiled':>11s} "
    f"{'compiled':>9s} {'vs inter-':>9s}\n"
    f"{'':37s} {'ms':>9s} {'us':>11s} {'us':>11s} {'us':>11s} {'vs eager':>9s} {'preted':>9s}"
)


@dataclass
class Workload:
    """One computation at one size.

    transform: what is asked, `f -> transformed f`. eager: all that the transformed function returns, in NumPy, differentiated
    by hand.
    """

    name: str
    size: str
    function: Callable
    transform: Callable
    args: tuple
    eager: Callable
    rtol: float = 1e-8


@dataclass
class Result:
    """Milliseconds of the first call (recording, differentiating, compiling, running), microseconds of a steady one."""

    name: str
    size: str
    first_ms: float
    eager_us: float
    interpreted_us: float
    compiled_us: float

    def line(self) -> str:
        """One line of the table."""
        return (
            f"{self.name:24s} {self.size:>12s} {self.first_ms:9.1f} {self.eager_us:11.2f} "
            f"{self.interpreted_us:11.2f} {self.compiled_us:11.2f} {self.eager_us / self.compiled_us:9.1f} "
            f"{self.interpreted_us / self.compiled_us:9.1f}"
        )


def agree(ours, theirs, rtol):
    """Raise AssertionError where two nests of arrays differ by more than rtol of their largest entry."""
    for a, b in zip(flatten(ours)[0], flatten(theirs)[0], strict=True):
        scale = float(np.max(np.abs(b), initial=0.0))
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def steady(functions, args, seconds) -> list[float]:
    """Median microseconds of a call of each function. They take turns, in batches of at least 0.2 ms."""
    counts, rounds_cost = [], 0.0
    for f in functions:
        for _ in range(5):
            f(*args)
        start = time.perf_counter()
        f(*args)
        once = time.perf_counter() - start
        counts.append(max(1, int(2e-4 / once)))
        rounds_cost += once * counts[-1]
    times = [[] for _ in functions]
    for _ in range(int(np.clip(seconds / rounds_cost, 5, 500))):
        for f, count, taken in zip(functions, counts, times):
            start = time.perf_counter()
            for _ in range(count):
                f(*args)
            taken.append((time.perf_counter() - start) / count)
    return [1e6 * float(np.median(taken)) for taken in times]


def measure(workload: Workload, seconds: float = 1.0) -> Result:
    """Check the variants of a workload against each other, then time them."""
    args = workload.args
    compiled, interpreted = workload.transform(workload.function), workload.transform(workload.function)
    start = time.perf_counter()
    out = compiled(*args)
    first = time.perf_counter() - start
    with INTERP.at(1):
        recorded = interpreted(*args)
    agree(out, recorded, workload.rtol)
    agree(out, workload.eager(*args), workload.rtol)
    times = steady([workload.eager, interpreted, compiled], args, seconds)
    return Result(workload.name, workload.size, 1e3 * first, *times)


def start_up() -> float:
    """Milliseconds for the first compilation of the process: LLVM is loaded and made ready."""
    start = time.perf_counter()
    jit(lambda x: x + 1.0)(1.0)
    return 1e3 * (time.perf_counter() - start)


def machine() -> dict:
    """What the figures depend on."""
    pinned = {k: v for k, v in os.environ.items() if k.startswith(("OPENBLAS_", "OMP_", "MKL_", "BLIS_"))}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas_variables": pinned,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(workloads, seconds=1.0, out=print) -> dict:
    """Measure workloads, printing the table as it grows; returns what `--json` writes."""
    about = machine()
    pinned = ", ".join(f"{k}={v}" for k, v in about["blas_variables"].items())
    out(f"{about['date']}  {about['cpu']}, {about['cpus']} CPUs, Python {about['python']}, NumPy {about['numpy']}")
    if pinned:
        out(f"note: variables that pin BLAS or its threads are set ({pinned}); unset them unless that is what you measure")
    if about["load"] and about["load"] > 0.5:
        out(f"note: other programs are running (load {about['load']:.1f}); calls that use threads of BLAS suffer most")
    about["start_up_ms"] = start_up()
    out(f"start-up, once a process: {about['start_up_ms']:.0f} ms\n{HEADER}")
    results = []
    for workload in workloads:
        results.append(measure(workload, seconds))
        out(results[-1].line())
    return {"machine": about, "results": [asdict(r) for r in results]}


# ---- the built-in set -------------------------------------------------------------------------------------------------
def sin_squared(x):
    """sin(x)**2."""
    return np.sin(x) ** 2


def sin_squared_slope(x):
    """Its derivative by hand."""
    return 2.0 * np.sin(x) * np.cos(x)


def rosenbrock(x):
    """The generalised Rosenbrock function."""
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock_by_hand(x):
    """(value, gradient) of it in NumPy."""
    bend, rest = x[1:] - x[:-1] ** 2, 1.0 - x[:-1]
    slope = np.zeros_like(x)
    slope[:-1] = -400.0 * x[:-1] * bend - 2.0 * rest
    slope[1:] += 200.0 * bend
    return np.sum(100.0 * bend**2 + rest**2), slope


def logistic(w, x, y):
    """Mean logistic loss of labels in -1, 1."""
    return np.mean(np.logaddexp(0.0, -y * (x @ w)))


def logistic_by_hand(w, x, y):
    """(value, gradient) of it in NumPy."""
    margins = y * (x @ w)
    return np.mean(np.logaddexp(0.0, -margins)), -((y / (1.0 + np.exp(margins))) @ x) / len(y)


def small_set() -> list[Workload]:
    """The workloads of `python -m tapejit bench`."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1000, 20)), rng.standard_normal(20)
    y = np.sign(x @ w + rng.standard_normal(1000))
    loads = [Workload("d sin(x)**2", "float", sin_squared, grad, (1.0,), sin_squared_slope)]
    for n in (100, 1_000_000):
        loads.append(Workload("d sin(x)**2", f"n={n}", sin_squared, grad, (np.linspace(-6, 6, n),), sin_squared_slope))
    for n in (10, 1000):
        loads.append(
            Workload("rosenbrock", f"n={n}", rosenbrock, value_and_grad, (rng.standard_normal(n),), rosenbrock_by_hand)
        )
    loads.append(Workload("logistic regression", "1000x20", logistic, value_and_grad, (w, x, y), logistic_by_hand))
    return loads
