"""The transforms as users call them. Each takes a function and returns a `Function`, works as a decorator, and nests.

NumPy (or Python scalars) in, NumPy out; `tapejit.Array` in, `tapejit.Array` out; the TensorFlow forms at the end return
Arrays. Arguments may be any nest of dicts, lists, tuples, namedtuples, dataclasses of arrays and numbers; strings, None,
bools, callables and other hashables are static. Signatures and result structures are JAX's where JAX has the function.
"""

from __future__ import annotations

import functools
import warnings

import numpy as np

from tapejit.ir.op import TABLE
from tapejit.ir.types import type_of

from .array import Array, is_a, make
from .dispatch import Function
from .errors import ArgumentError, OutputError, TapeError, located
from .mapping import Vmap
from .promote import asarray, operand_array
from .record import apply
from .trace import function_name, signature
from .transforms import Grad, GradientsOf, Hvp, Jacobian, Jit, Jvp, Vjp
from .tree import map_leaves
from .variable import UnconnectedWarning


def _decorator(make_transforms):
    """`f` given: the transformed function; not given: a decorator that waits for it."""

    def apply_to(f, *args, **kwargs):
        if f is None:
            return lambda g: apply_to(g, *args, **kwargs)
        return Function(f, make_transforms(*args, **kwargs))

    return apply_to


_jit = _decorator(lambda: [Jit()])
_grad = _decorator(lambda argnums, has_aux: [Grad(argnums, has_aux)])
_value_and_grad = _decorator(lambda argnums, has_aux: [Grad(argnums, has_aux, value=True)])
_jacobian = _decorator(lambda argnums, mode: [Jacobian(argnums, mode)])
_hessian = _decorator(lambda argnums: [Jacobian(argnums), Jacobian(argnums, name="hessian")])
_hvp = _decorator(lambda argnums: [Hvp(argnums)])
_vmap = _decorator(lambda in_axes, out_axes: [Vmap(in_axes, out_axes)])


def jit(f=None):
    """Compile a function: recorded at its first call for each structure, dtype and shape of arguments.

    `f.into(out, *args)` writes the results into arrays that exist: see `Function.into`. So for all transforms.

    >>> import numpy as np, tapejit
    >>> tapejit.jit(lambda x: np.sin(x) ** 2)(0.0)
    np.float64(0.0)
    """
    return _jit(f)


def grad(f=None, argnums=0, has_aux=False):
    """The gradient of a function with respect to the positional argument(s) `argnums`.

    The function returns one float array (an array's gradient is that of its sum), or with `has_aux` a pair (value,
    aux); then the result is (gradient, aux). The gradient has the structure and shapes of the argument; a tuple of
    them for a tuple `argnums`. Python int scalars are taken as floats; int arrays raise DTypeError.

    >>> import tapejit
    >>> tapejit.grad(lambda x: x ** 2)(3)
    np.float64(6.0)
    """
    return _grad(f, argnums, has_aux)


def value_and_grad(f=None, argnums=0, has_aux=False):
    """As `grad`, returning (value, gradient), or ((value, aux), gradient); both in one compiled function.

    >>> import tapejit
    >>> tapejit.value_and_grad(lambda x: x ** 2)(3.0)
    (np.float64(9.0), np.float64(6.0))
    """
    return _value_and_grad(f, argnums, has_aux)


def elementwise_grad(f=None, argnums=0):
    """The derivative of an elementwise function at each element: the gradient of its sum, as in autograd.

    >>> import numpy as np, tapejit
    >>> tapejit.elementwise_grad(np.square)(np.array([1.0, 2.0]))
    array([2., 4.])
    """
    return _grad(f, argnums, False)


def jacobian(f=None, argnums=0, mode=None):
    """The dense Jacobian: shape of the output + shape of the argument, for each output and argument leaf.

    mode: "forward", "reverse", or None to choose the cheaper by shape.

    >>> import numpy as np, tapejit
    >>> tapejit.jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    if mode not in (None, "forward", "reverse"):
        raise located(ArgumentError, f"jacobian: mode={mode!r}", 'mode="forward", "reverse" or None')
    return _jacobian(f, argnums, mode)


def hessian(f=None, argnums=0):
    """The Hessian: the Jacobian of the Jacobian, with JAX's structure (output, argument, argument).

    >>> import numpy as np, tapejit
    >>> tapejit.hessian(lambda x: np.sum(x ** 3))(np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    return _hessian(f, argnums)


def hvp(f=None, argnums=0):
    """Hessian-vector product of a scalar function: `hvp(f)(x, v)`, forward over reverse, no Hessian formed.

    >>> import numpy as np, tapejit
    >>> tapejit.hvp(lambda x: np.sum(x ** 3))(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    array([6., 0.])
    """
    return _hvp(f, argnums)


def vmap(f=None, in_axes=0, out_axes=0):
    """Map a function over an axis of its arguments, all lanes in one compiled function.

    in_axes, out_axes: an int, None (not mapped), or one of them per argument (result). The function is recorded for
    one lane; control flow on a mapped value must agree between lanes, else GuardError.

    >>> import numpy as np, tapejit
    >>> tapejit.vmap(lambda a, b: a @ b)(np.eye(2), np.ones((2, 2)))
    array([1., 1.])
    """
    return _vmap(f, in_axes, out_axes)


# ---- products with the Jacobian at a point ------------------------------------------------------------------------
def _function_of(f, transform) -> Function:
    """The Function of f with this transform, kept on f's behalf so that calling again does not record again.

    It holds f, so it is stored on f itself where f has attributes; other callables get a new one each time.
    """
    try:
        kept = f.__dict__.setdefault("__tapejit__", {})
    except AttributeError:
        return Function(f, [transform])
    found = kept.get(transform.key)
    if found is None:
        found = kept[transform.key] = Function(f, [transform])
    return found


def jvp(f, primals, tangents):
    """(f(*primals), its directional derivative along tangents), as `jax.jvp`: forward mode.

    >>> import numpy as np, tapejit
    >>> tapejit.jvp(np.sin, (0.0,), (2.0,))
    (np.float64(0.0), np.float64(2.0))
    """
    _check_tuple("jvp", "primals", primals)
    _check_tuple("jvp", "tangents", tangents)
    tangents = map_leaves(_as_float, tuple(tangents))
    return _function_of(f, Jvp())(tuple(primals), tangents)


def vjp(f, *primals, has_aux=False):
    """(f(*primals), vjp_fn): vjp_fn(cotangents of the result) is a tuple of cotangents of the primals, as `jax.vjp`.

    With has_aux, f returns (value, aux) and the result is (value, vjp_fn, aux). vjp_fn may be called any number of times.

    >>> import numpy as np, tapejit
    >>> y, pull = tapejit.vjp(lambda x: x * x, np.array([1.0, 2.0]))
    >>> pull(np.array([1.0, 1.0]))
    (array([2., 4.]),)
    """
    primals = map_leaves(_as_float, primals)
    out = _function_of(f, Jit())(*primals)
    pull = _function_of(f, Vjp(has_aux=has_aux))

    def vjp_fn(cotangents):
        return pull(primals, map_leaves(_as_float, cotangents))

    if has_aux:
        if not isinstance(out, tuple) or len(out) != 2:
            raise located(
                OutputError, f"vjp with has_aux=True of {function_name(f)}: it did not return a pair", "return (value, aux)"
            )
        return out[0], vjp_fn, out[1]
    return out, vjp_fn


def _as_float(x):
    return float(x) if is_a(x, int) and not is_a(x, bool) else x


def _check_tuple(what, name, value):
    if not isinstance(value, (tuple, list)):
        raise located(
            ArgumentError,
            f"{what}: {name} must be a tuple with one entry per argument, got {type(value).__name__}",
            f"{what}(f, (x,), (t,))",
        )


def stop_gradient(x):
    """The value of x (any nest of arrays), through which no derivative flows.

    >>> import tapejit
    >>> tapejit.grad(lambda x: x * tapejit.stop_gradient(x))(3.0)
    np.float64(3.0)
    """
    return map_leaves(lambda leaf: apply(TABLE["stop_gradient"], (asarray(leaf),))[0], x)


# ---- TensorFlow's forms -------------------------------------------------------------------------------------------
def _positional_names(f):
    """Names of the positional parameters, or None if the signature cannot be read."""
    try:
        parameters = signature(f).parameters.values()
    except (TypeError, ValueError):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _resolve_params(f, params):
    """TensorFlow's `params`: None (all positional), all names, or all indices; a tuple of ints or None."""
    if params is None:
        return None
    if is_a(params, (str, int)):
        params = [params]
    params = list(params)
    if all(isinstance(p, str) for p in params):
        names = _positional_names(f)
        if names is None:
            raise located(
                ArgumentError,
                "params are names, but the signature of the function cannot be read",
                "give params as integers",
            )
        for p in params:
            if p not in names:
                raise located(
                    ArgumentError,
                    f"params names {p!r}, which is no positional parameter of {function_name(f)}({', '.join(names)})",
                    "one of its parameters, or an index",
                )
        return tuple(names.index(p) for p in params)
    if all(is_a(p, (int, np.integer)) and not is_a(p, bool) for p in params):
        return tuple(int(p) for p in params)
    raise located(
        ArgumentError, f"params must be all strings or all integers; got {params}.", "params=['x', 'y'] or params=[0, 1]"
    )


class _Gradients:
    """What gradients_function and value_and_gradients_function return."""

    def __init__(self, f, params, value):
        self.f, self.value = f, value
        self.params = _resolve_params(f, params)
        self._functions, self._explained = {}, set()
        functools.update_wrapper(self, f, updated=())

    def function(self, count, dy) -> Function:
        """The compiled Function for this many arguments, with or without dy."""
        params = tuple(range(count)) if self.params is None else self.params
        key = (params, dy)
        if key not in self._functions:
            self._functions[key] = Function(self.f, [GradientsOf(params, self.value, dy)])
        return self._functions[key]

    def __call__(self, *args, dy=None, **kwargs):
        if kwargs:
            raise located(
                ArgumentError,
                "Functions to be differentiated cannot receive keyword arguments.",
                "pass them by position, or bind them: lambda x: f(x, key=value)",
            )
        args = map_leaves(_tensor, args)
        if dy is None:
            out = self.function(len(args), False)(*args)
        else:
            out = self.function(len(args), True)(args, map_leaves(_tensor, dy))
        self._explain(out[1] if self.value else out, args)
        return out

    def _explain(self, gradients, args):
        """Warn, once per argument, why a gradient is None."""
        params = range(len(args)) if self.params is None else self.params
        for p, gradient in zip(params, gradients):
            if gradient is not None or p in self._explained or not isinstance(args[p], Array):
                continue
            self._explained.add(p)
            names = _positional_names(self.f) or []
            name = names[p] if p < len(names) else f"argument {p}"
            if args[p].dtype.kind != "f":
                why = f"{name} is {type_of(args[p]._data)}: only floats have derivatives (pass 2.0, or x.astype(float))"
            else:
                why = f"the result of {function_name(self.f)} does not depend on {name}"
            warnings.warn(f"the gradient by {name} is None: {why}", UnconnectedWarning, stacklevel=3)

    def ir(self, *args, **options):
        """As `Function.ir`."""
        return self.function(len(args), False).ir(*args, **options)


def _tensor(x):
    """A leaf as an Array of a dtype of its own, as TensorFlow converts arguments to tensors."""
    return x if isinstance(x, Array) else make(operand_array(x))


def gradients_function(f=None, params=None):
    """TensorFlow's: g(*args, dy=None) -> list of gradients of f's summed outputs, one per entry of params.

    params: None for all positional arguments, or names, or indices. dy: weights (cotangents) of the outputs, in
    their structure. None stands for a gradient of an integer argument or of one that the outputs do not depend on.
    Results are Arrays.

    >>> import tapejit
    >>> tapejit.gradients_function(lambda x, y: x * x * y)(3.0, 2.0)
    [Array(12.), Array(9.)]
    """
    if f is None:
        return lambda g: gradients_function(g, params)
    return _Gradients(f, params, False)


def value_and_gradients_function(f=None, params=None):
    """As `gradients_function`, returning (value, list of gradients)."""
    if f is None:
        return lambda g: value_and_gradients_function(g, params)
    return _Gradients(f, params, True)


def make_vjp(f, params=None, persistent=True):
    """TensorFlow's: g(*args) -> (value, vjp), vjp(dy=None) -> list of gradients; dy=None stands for ones.

    persistent: whether vjp may be called more than once.
    """
    pair = _Gradients(f, params, False)

    def decorated(*args):
        args = map_leaves(_tensor, args)
        value = _function_of(f, Jit())(*args)
        used = []

        def vjp(dy=None):
            if used and not persistent:
                raise located(
                    TapeError,
                    "vjp can only be called once, make_vjp was asked for persistent=False",
                    "make_vjp(f, persistent=True)",
                )
            used.append(True)
            return pair(*args, dy=dy)

        return value, vjp

    return decorated

