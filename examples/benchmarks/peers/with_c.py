"""Gradients by hand in C (gradients.c), compiled with gcc when the worker starts: the practical limit.

Called through ctypes, the GIL held, with results allocated by NumPy at each call. Products of large matrices are left out: they
would be BLAS's, as in the other columns.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .problems import BOTTOM, TOP

FLAGS = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
SKIP = dict.fromkeys(("classifier", "recurrent", "attention"), "matrix products would be BLAS's")


def compiled() -> ctypes.PyDLL:
    """gradients.c as a library, with threads where more than one is asked for."""
    if not shutil.which("gcc"):
        raise ImportError("no gcc")
    flags = FLAGS + ["-fopenmp" if os.environ["OMP_NUM_THREADS"] != "1" else "-fopenmp-simd"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "gradients.so"
        subprocess.run(["gcc", *flags, Path(__file__).with_name("gradients.c"), "-o", library, "-lm"], check=True)
        return ctypes.PyDLL(str(library))


LIBRARY = compiled()
VERSION = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
ARRAY, LONG, DOUBLE = ctypes.py_object, ctypes.c_long, ctypes.c_double


def declared(name, arrays, longs, result=None):
    """A function of the library that takes so many arrays, then so many longs."""
    f = LIBRARY[name]
    f.argtypes, f.restype = [ARRAY] * arrays + [LONG] * longs, result
    return f


def scalar(p):
    f = LIBRARY["scalar"]
    f.argtypes, f.restype = [DOUBLE], DOUBLE
    return f, p.args


def sin_squared(p):
    f, empty = declared(f"sin_squared_{p.sizes[0]}", 2, 1), np.empty

    def slope(x):
        out = empty(x.shape)
        f(x, out, len(x))
        return out

    return slope, p.args


def rosenbrock(p):
    f, empty = declared("rosenbrock", 2, 1, DOUBLE), np.empty

    def value_and_grad(x):
        out = empty(x.shape)
        return f(x, out, len(x)), out

    return value_and_grad, p.args


def hessian(p):
    f, empty = declared("hessian", 2, 1), np.empty

    def second(x):
        n = len(x)
        out = empty((n, n))
        f(x, out, n)
        return out

    return second, p.args


def options(p):
    f, empty = declared("options", 11, 1), np.empty

    def greeks(spot, strike, volatility, years, rate):
        n = len(spot)
        price, *slopes = out = [empty(n) for _ in range(6)]
        f(spot, strike, volatility, years, rate, *out, n)
        return price, slopes

    return greeks, p.args


def logistic(p):
    f, empty = declared("logistic", 4, 2, DOUBLE), np.empty

    def value_and_grad(w, x, y):
        out = empty(w.shape)
        return f(w, x, y, out, *x.shape), out

    return value_and_grad, p.args


def mixture(p):
    f, empty = declared("mixture", 7, 3, DOUBLE), np.empty

    def value_and_grad(alphas, means, factors, x):
        out = empty(alphas.shape), empty(means.shape), empty(factors.shape)
        return f(alphas, means, factors, x, *out, *x.shape, len(alphas)), out

    return value_and_grad, p.args


def state(p):
    f, empty, top, bottom = declared("state", 8, 1), np.empty, np.array(TOP), np.array(BOTTOM)

    def slopes(salinity, temperature, pressure):
        n = len(salinity)
        out = empty(n), empty(n), empty(n)
        f(salinity, temperature, pressure, *out, top, bottom, n)
        return out

    return slopes, p.args


def chain(p):
    f, empty, length = declared("chain", 2, 2), np.empty, p.sizes[0]

    def slope(x):
        out = empty(x.shape)
        f(x, out, len(x), length)
        return out

    return slope, p.args


def orbit(p):
    f, empty, steps = declared("orbit", 4, 1, DOUBLE), np.empty, p.sizes[0]

    def value_and_grad(start, rates):
        out = empty(2), empty(4)
        return f(start, rates, *out, steps), out

    return value_and_grad, p.args


def tiny(p):
    f, empty = declared("tiny", 13, 1, DOUBLE), np.empty

    def value_and_grad(params, x):
        out = [(empty(w.shape), empty(b.shape)) for w, b in params]
        (w1, b1), (w2, b2), (w3, b3) = params
        return f(w1, b1, w2, b2, w3, b3, x, *out[0], *out[1], *out[2], len(x)), out

    return value_and_grad, p.args
