"""Elementwise transcendental functions: exponentials, logarithms, trigonometric, hyperbolic, error functions.

Each record: NumPy function, partial derivative(s), emission through `e.math` (the vector math of code generation).
"""

from __future__ import annotations

import numpy as np

from ..op import Partials
from .elementwise import elementwise


def unary(name, function, partial, *, singular=False, **payload):
    payload.setdefault("cost", 15)
    payload.setdefault("emit", lambda e, x: e.math(name, x))
    return elementwise(
        name, function, Partials(partial, singular=singular), numpy=payload.pop("numpy", (function,)), **payload
    )


exp = unary("exp", np.exp, lambda b, out, x: out)
log = unary("log", np.log, lambda b, out, x: b.div(1.0, x), singular=True, domain=((0.2, 4.0),))
sin = unary("sin", np.sin, lambda b, out, x: b.cos(x))
cos = unary("cos", np.cos, lambda b, out, x: b.neg(b.sin(x)))
tanh = unary("tanh", np.tanh, lambda b, out, x: b.sub(1.0, b.mul(out, out)))
