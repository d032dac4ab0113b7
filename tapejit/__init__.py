"""tapejit: differentiate plain NumPy on a CPU.

    import numpy as np, tapejit

    @tapejit.grad
    def slope(x):
        return np.sin(x) ** 2

    slope(1.0)                  # the exact derivative, compiled at the first call
    tapejit.grad(slope)(1.0)    # any order
    print(slope.ir(1.0))        # the gradient's SSA, with the Python line behind every operation
"""

from tapejit.codegen.threads import get_num_threads, set_num_threads

from . import numpy  # noqa: F401  fills array.HANDLERS
from .api import (
    elementwise_grad,
    grad,
    gradients_function,
    hessian,
    hvp,
    jacobian,
    jit,
    jvp,
    make_vjp,
    stop_gradient,
    value_and_grad,
    value_and_gradients_function,
    vjp,
    vmap,
)
from .array import Array
from .control import cond, fori_loop, map, scan, switch, while_loop
from .custom import custom_gradient
from .errors import TapejitError, TapejitWarning
from .implicit import implicit_gradients, implicit_value_and_gradients
from .tape import GradientTape
from .variable import UnconnectedWarning, Variable

__version__ = "0.1.0"

__all__ = [
    "Array", "GradientTape", "TapejitError", "TapejitWarning", "UnconnectedWarning", "Variable", "cond", "custom_gradient",
    "elementwise_grad", "fori_loop", "get_num_threads", "grad", "gradients_function", "hessian", "hvp", "implicit_gradients",
    "implicit_value_and_gradients", "jacobian", "jit", "jvp", "make_vjp", "map", "numpy", "scan", "set_num_threads",
    "stop_gradient", "switch", "value_and_grad", "value_and_gradients_function", "vjp", "vmap", "while_loop",
]  # fmt: skip
