"""Accuracy and speed of the vector math library, measured: writes ACCURACY.md.

Usage: python -m tapejit.codegen.vecmath.report [name ...] [--points N] [--jax PYTHON]

In: names (default: all, and only then the file is written). Out: for each function and format, the largest error in ulps
found and the time of one element in a loop over 100,000, beside NumPy's (SciPy's where NumPy has none) and, with --jax, that of
jax in the given Python. Arguments are drawn as random bit patterns, over a moderate range, and near the function's special
points. Candidates for the largest error are found by comparing with extended precision (x87 long double, or float64 for f32)
and then confirmed with mpmath, which alone is believed. Times are the least of many runs that alternate between the two.

The tests use `kernel`, `points`, `exact` and `ulp_error` from here. Needs mpmath.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import mpmath
import numpy as np
from mpmath import mpf

from .. import engine
from . import ARITY, NAMES, definitions, rare, symbol
from .builder import FORMATS

DTYPES = {"f64": np.float64, "f32": np.float32}
EXPONENTIAL = {"exp", "exp2", "expm1", "sinh", "cosh", "tanh", "logistic"}
NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "pow": "power",
               "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}  # fmt: skip
SCIPY_NAMES = {"logistic": "expit", "lgamma": "gammaln", "digamma": "psi"}
RANGES = {"exp": (-750, 712), "exp2": (-1080, 1030), "expm1": (-40, 40), "sinh": (-3, 3), "cosh": (-712, 712),
          "tanh": (-20, 20), "logistic": (-750, 40), "log": (0, 4), "log2": (0, 4), "log10": (0, 4),
          "log1p": (-1, 4), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-1, 1), "acosh": (1, 5),
          "erf": (-6, 6), "erfc": (-6, 28), "lgamma": (-5, 170), "digamma": (-5, 20)}  # fmt: skip
SPECIAL_POINTS = {"log": (1,), "log2": (1, 2), "log10": (1, 10, 1000), "log1p": (0, -1, -0.29, 0.41), "acosh": (1,),
                  "asin": (0.5, 1), "acos": (-0.5, 0.5, 1), "atanh": (0.5, 1), "atan": (0.5, 1, 2),
                  "lgamma": (1, 2, 4, -1, -2.5), "digamma": (1, 1.4616321449683622, 4, -1, -1.573), "erf": (0.5, 1),
                  "erfc": (-0.5, 0.5, 26.5), "exp": (0, 0.3466, 709.78, -708.4, -745.1)}  # fmt: skip
# f(x) = x (1 + c x) to more than double precision for |x| < 2**-60.
TINY = {"expm1": 0.5, "log1p": -0.5} | dict.fromkeys("sin tan asin atan sinh tanh asinh atanh".split(), 0)
# 6381956970095103 * 2**797 is the double nearest to a multiple of pi/2 (Muller, Elementary Functions, table 11.1).
HARD = {name: (6381956970095103.0 * 2.0**797, 1e22, 2.0**1023) for name in ("sin", "cos", "tan")}


def kernel(name, dtype, width=512):
    """(call(*arrays, out), optimized LLVM text) of a loop that applies the function."""
    type, arity = FORMATS[dtype].type, ARITY[name]
    functions = definitions({(name, dtype)})
    pointers = ", ".join(f"ptr noalias %a{i}" for i in range(arity))
    loads = "\n".join(
        f"  %p{i} = getelementptr {type}, ptr %a{i}, i64 %k\n  %x{i} = load {type}, ptr %p{i}" for i in range(arity)
    )
    arguments = ", ".join(f"{type} %x{i}" for i in range(arity))
    source = "\n".join(sorted(functions.declares)) + f"""
{functions.text}
define void @kernel({pointers}, ptr noalias %out, i64 %n) "prefer-vector-width"="{width}" {{
entry:
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%k.1, %loop]
{loads}
  %y = call {type} {symbol(name, dtype)}({arguments})
  %q = getelementptr {type}, ptr %out, i64 %k
  store {type} %y, ptr %q
  %k.1 = add nuw nsw i64 %k, 1
  %more = icmp ult i64 %k.1, %n
  br i1 %more, label %loop, label %exit
exit:
  ret void
}}
""" + (rare.LATE + functions.late if functions.late else "")
    code = engine.Code(engine.Image(source), ["kernel"], {symbol: rare.address(symbol) for symbol in functions.externals})
    native = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(code.addresses["kernel"])

    def call(*arrays, out=None):
        arrays = [np.ascontiguousarray(a, DTYPES[dtype]) for a in arrays]
        out = np.empty_like(arrays[0]) if out is None else out
        native(*(a.ctypes.data for a in arrays), out.ctypes.data, out.size)
        return out

    call.native, call.code, call.text = native, code, source  # the code owns what native points to
    return call, engine.optimized(source)


def points(name, dtype, count, seed=0):
    """Arrays of arguments: bit patterns, moderate values, values near special points; hard cases at the end."""
    rng = np.random.default_rng(seed)
    real = DTYPES[dtype]
    columns = [_column(name, dtype, count, rng) for _ in range(ARITY[name])]
    if name == "pow":
        columns[0] = np.where(rng.random(columns[0].size) < 0.9, np.abs(columns[0]), columns[0])
        with np.errstate(all="ignore"):
            exponents = rng.uniform(-746, 711, columns[0].size) / np.log(np.abs(columns[0].astype(float)))
            exponents /= 1 if dtype == "f64" else 8
            columns[1] = np.where(rng.random(columns[0].size) < 0.8, exponents, rng.permutation(columns[1]))
    elif name == "atan2":
        columns[1] = np.where(rng.random(columns[0].size) < 0.5, rng.permutation(columns[1]), columns[1])
    with np.errstate(all="ignore"):
        return [np.ascontiguousarray(c.astype(real)) for c in columns]


def _column(name, dtype, count, rng):
    real, unsigned = DTYPES[dtype], {"f64": np.uint64, "f32": np.uint32}[dtype]
    bits = rng.integers(0, np.iinfo(unsigned).max, count // 3, dtype=unsigned, endpoint=True).view(real)
    low, high = RANGES.get(name, (-30, 30))
    shrink = 8 if dtype == "f32" and name in EXPONENTIAL else 1
    moderate = rng.uniform(low, high, count // 3) / shrink
    if name in ("sin", "cos", "tan"):
        moderate[::2] = np.rint(moderate[::2] * 10.0 ** rng.integers(0, 12, moderate[::2].size)) * (np.pi / 2)
    near = rng.choice(np.array(SPECIAL_POINTS.get(name, (0, 1)), float), count - 2 * (count // 3))
    near = near + rng.standard_normal(near.size) * 10.0 ** -rng.uniform(0, 20 if dtype == "f64" else 9, near.size)
    with np.errstate(all="ignore"):
        return np.concatenate([bits, moderate, near, HARD.get(name, ())]).astype(real)


def exact(name, arguments):
    """The function's value by mpmath, or None where it is not a finite real number or out of every range."""
    x, *rest = (mpf(float(a)) for a in arguments)
    if not all(mpmath.isfinite(a) for a in (x, *rest)):
        return None
    try:
        if name in TINY and x != 0 and abs(x) < mpf(2) ** -60:
            return x * (1 + x * TINY[name])
        exponent = mpmath.frexp(x)[1]
        extra = 1100 if name in ("sin", "cos", "tan") and exponent > 60 else 0
        with mpmath.workprec(max(240 if name in TINY or name == "acosh" else 140, extra + 240 * bool(extra))):
            value = _exact(name, x, *rest)
    except (ValueError, ZeroDivisionError):
        return None
    return None if isinstance(value, mpmath.mpc) or not mpmath.isfinite(value) else value


def _exact(name, x, *rest):
    if name in EXPONENTIAL and abs(x) > 3000 or name in ("erf", "erfc") and abs(x) > 60:
        raise ValueError("beyond every range")
    if name == "pow":
        if x == 0 or abs(rest[0] * mpmath.log(abs(x))) > 3000:
            raise ValueError("beyond every range")
        return x ** rest[0]
    formulas = {
        "exp2": lambda: mpf(2) ** x,
        "log2": lambda: mpmath.log(x) / mpmath.log(2),
        "logistic": lambda: 1 / (1 + mpmath.exp(-x)),
        "lgamma": lambda: mpmath.loggamma(x) if x > 0 else _lgamma_of_negative(x),
        "hypot": lambda: mpmath.sqrt(x * x + rest[0] ** 2),
    }
    return formulas.get(name, lambda: getattr(mpmath, name)(x, *rest))()


def _lgamma_of_negative(x):
    return mpmath.log(mpmath.pi / abs(x * mpmath.sinpi(x))) - mpmath.loggamma(-x)


def size_of_terms(name, x, true):
    """For lgamma and digamma of a negative x: the size of the terms that are summed, to which the error is relative."""
    return max(1, abs(true) + abs(exact(name, [-x]))) if name in ("lgamma", "digamma") and x < 0 else 0


def ulp_error(value, true, dtype, size=0):
    """|value - true| in units in the last place of true's binade, or size's if that is larger; overflow must give the
    infinity of its sign.
    """
    fmt = FORMATS[dtype]
    largest = mpf(2) ** (fmt.bias + 1) * (1 - mpf(2) ** -(fmt.mantissa + 2))
    if abs(true) >= largest:
        return 0.0 if np.isinf(value) and (value > 0) == (true > 0) else float("inf")
    if not np.isfinite(value):
        return float("inf")
    size = max(abs(true), size)
    exponent = mpmath.frexp(size)[1] if size else -5000
    unit = mpf(2) ** max(exponent - fmt.mantissa - 1, 1 - fmt.bias - fmt.mantissa)
    with mpmath.workprec(200):
        return float(abs(mpf(float(value)) - true) / unit)


def worst(name, dtype, count, seed=0):
    """(largest ulp error, its arguments) over `count` points."""
    call, _ = kernel(name, dtype)
    arrays = points(name, dtype, count, seed)
    results = call(*arrays)
    filtered = _most_suspect(name, dtype, arrays, results)
    largest = (-1.0, None)
    for i in filtered:
        arguments = [a[i] for a in arrays]
        true = exact(name, arguments)
        if true is not None:
            error = ulp_error(results[i], true, dtype, size_of_terms(name, arguments[0], true))
            largest = max(largest, (error, [float(a) for a in arguments]), key=lambda p: p[0])
    return largest


def _most_suspect(name, dtype, arrays, results, keep=150):
    """Indices worth mpmath's time: the hard cases, and the largest errors against extended precision."""
    count, hard = results.size, len(HARD.get(name, ()))
    wide = np.longdouble if dtype == "f64" else np.float64
    function = getattr(np, NUMPY_NAMES.get(name, name), None)
    if name == "logistic":
        function = lambda x: 1 / (1 + np.exp(-x))
    if function is None:
        return np.unique(np.linspace(0, count - 1, 20_000).astype(int))
    with np.errstate(all="ignore"):
        reference = function(*(a.astype(wide) for a in arrays))
        error = np.abs(results.astype(wide) - reference) / np.spacing(np.abs(reference.astype(results.dtype)))
    error = np.where(np.isfinite(error), error, 0)
    error[count - hard :] = np.inf
    both_finite = np.isfinite(results) | (np.abs(reference) > np.finfo(results.dtype).max) | np.isnan(reference)
    error[~both_finite] = np.inf
    return np.argsort(-error.astype(float), kind="stable")[:keep]


def timing_arguments(name, dtype, size=100_000):
    """Arrays of moderate arguments."""
    rng = np.random.default_rng(0)
    low, high = {"asin": (-1, 1), "acos": (-1, 1), "atanh": (-1, 1), "erf": (-4, 4), "erfc": (-4, 4)}.get(name, (-20, 20))
    if name in ("log", "log2", "log10", "log1p", "acosh", "pow", "lgamma", "digamma"):
        low, high = 1, 20
    arrays = [rng.uniform(low, high, size).astype(DTYPES[dtype]) for _ in range(ARITY[name])]
    if name == "pow":
        arrays[1] = rng.uniform(-20, 20, size).astype(DTYPES[dtype])
    return arrays


def reference(name):
    """NumPy's function, or SciPy's."""
    function = getattr(np, NUMPY_NAMES.get(name, name), None)
    if function is None:
        import scipy.special

        function = getattr(scipy.special, SCIPY_NAMES.get(name, name))
    return function


def timing(name, dtype, repeat=60):
    """(our ns per element, NumPy's) by alternating runs."""
    call, function = kernel(name, dtype)[0], reference(name)
    arrays = timing_arguments(name, dtype)
    out = np.empty_like(arrays[0])
    pointers = [a.ctypes.data for a in (*arrays, out)]
    ours, theirs = [], []
    for _ in range(repeat):
        for run, times in ((lambda: call.native(*pointers, out.size), ours), (lambda: function(*arrays, out=out), theirs)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return min(ours) / out.size * 1e9, min(theirs) / out.size * 1e9


JAX = """
import json, sys, time
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
results = {}
for key, (expression, path) in json.load(sys.stdin).items():
    arrays = [jnp.asarray(a) for a in np.load(path).values()]
    function = jax.jit(eval(expression))
    function(*arrays).block_until_ready()
    times = []
    for _ in range(60):
        start = time.perf_counter()
        function(*arrays).block_until_ready()
        times.append(time.perf_counter() - start)
    results[key] = min(times) / arrays[0].size * 1e9
print(json.dumps(results))
"""
JAX_NAMES = {"sin": "jnp.sin", "cos": "jnp.cos", "tanh": "jnp.tanh", "pow": "jnp.power", "erf": "jax.scipy.special.erf",
             "exp": "jnp.exp", "log": "jnp.log"}  # fmt: skip


def jax_timing(python, folder):
    """{(name, dtype): ns per element} of jax on the same arguments, in a process of its own."""
    jobs = {}
    for name, expression in JAX_NAMES.items():
        for dtype in FORMATS:
            path = os.path.join(folder, f"{name}.{dtype}.npz")
            np.savez(path, *timing_arguments(name, dtype))
            jobs[f"{name}.{dtype}"] = (expression, path)
    done = subprocess.run([python, "-c", JAX], input=json.dumps(jobs), capture_output=True, text=True, check=True)
    return {tuple(key.split(".")): ns for key, ns in json.loads(done.stdout).items()}


def machine():
    """The processor and the width of vectors, as a person would name them."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        name = f"{named.get('model name', name)} (family {named.get('cpu family')}, model {named.get('model')})"
    return f"{name}, vectors of {engine.session().width} bits, NumPy {np.__version__}"


HEAD = """# Vector math: measured accuracy and speed

Generated by `python -m tapejit.codegen.vecmath.report --jax PYTHON`; do not edit. Largest error found over {points:,} arguments
for each column (units in the last place; confirmed with mpmath), and nanoseconds for an element in a loop over 100,000 on one
core, beside NumPy's (SciPy's for erf, erfc, logistic, lgamma, digamma) and jax's where asked for. Of erf, erfc, lgamma and
digamma 20,000 of the arguments are compared; errors of the latter two for negative x are in units of |f(x)| + |f(-x)|, or 1.
Measured on {machine}.

| function | f64 ulp | ns | NumPy | ratio | jax | f32 ulp | ns | NumPy | ratio | jax |
|---|---|---|---|---|---|---|---|---|---|---|"""


def row(name, points, jax):
    cells = [name]
    for dtype in FORMATS:
        error, _ = worst(name, dtype, points)
        ours, theirs = timing(name, dtype)
        peer = jax.get((name, dtype))
        cells += [f"{error:.2f}", f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}", f"{peer:.2f}" if peer else ""]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--jax", metavar="PYTHON", help="a Python that has jax")
    options = parser.parse_args()
    jax = {}
    if options.jax:
        with tempfile.TemporaryDirectory() as folder:
            jax = jax_timing(options.jax, folder)
    lines = [HEAD.format(points=options.points, machine=machine())]
    print(lines[0])
    for name in options.names or NAMES:
        lines.append(row(name, options.points, jax))
        print(lines[-1], flush=True)
    if not options.names:
        Path(__file__).with_name("ACCURACY.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
