"""custom_gradient: a function with a derivative of the user's own, TensorFlow's form.

In: f(*args) -> (y, grad_fn). Out: a function of the same arguments that returns y and whose derivative is
grad_fn(*dys) -> one gradient per argument. When it is recorded, f is recorded one level deeper, and grad_fn one level
deeper still, at fresh cotangents; what grad_fn reads of f's values becomes residuals. Both are regions of one `custom` node
(ir/ops/region.py), so grad_fn is differentiated, batched and compiled like everything else.
"""

from __future__ import annotations

import functools

import numpy as np

from tapejit.ir.graph import Graph
from tapejit.ir.op import TABLE

from .array import Array
from .errors import CustomGradientError, located
from .promote import asarray, cast
from .record import apply, recording, state
from .trace import definition, function_name, leaf_data
from .tree import flatten, map_leaves, unflatten
from .variable import settled

CUSTOM = TABLE["custom"]


def custom_gradient(f=None):
    """Give a function its own derivative: `f(*args)` returns `(y, grad_fn)`.

    grad_fn takes one cotangent per array of y and returns one gradient per argument (a list or tuple; a single one may
    stand alone; None is zero), each of its argument's shape. It is recorded, so higher derivatives and forward mode
    follow from it. A recorded value that f closes over has no gradient: asking for one is a CustomGradientError.

    >>> import numpy as np, tapejit
    >>> @tapejit.custom_gradient
    ... def clipped(x):
    ...     return x * 1.0, lambda dy: np.clip(dy, -1.0, 1.0)
    >>> tapejit.grad(lambda x: 5 * clipped(x))(2.0)
    np.float64(1.0)
    """

    if f is None:
        return custom_gradient

    @functools.wraps(f)
    def wrapped(*args, **kwargs):
        args = map_leaves(settled, args)
        leaves, tree = flatten(args)
        if not any([isinstance(x, Array) and _recorded(x) for x in leaves]):
            return _pair(f, f(*args, **kwargs))[0]
        return _record(f, leaves, tree, kwargs)

    return wrapped


def _recorded(x):
    record = x._record
    return record is not None and (record.depth > 0 or record is state.base)


def _pair(f, out):
    if not isinstance(out, tuple) or len(out) != 2 or not callable(out[1]):
        raise located(
            CustomGradientError,
            f"custom_gradient: {function_name(f)} returned {type(out).__name__}, not a pair (y, grad_fn)",
            "return y, grad_fn",
            where=definition(f),
        )
    return out


def _record(f, leaves, tree, kwargs):
    name = function_name(f)
    with recording(name) as forward:
        inner = [forward.param(data, None, weak) for data, weak in map(leaf_data, leaves)]
        y, grad_fn = _pair(f, f(*unflatten(tree, inner), **kwargs))
        outs, out_tree = flatten(y)
        outs = [asarray(o) for o in outs]
        with recording(f"{name}.grad_fn") as back:
            cts = [back.param(np.ones(o.shape, o.dtype)) for o in outs]
            grads = _check(f, grad_fn(*cts), tree, inner)
            pullback, residuals = back.finish(grads)
        n = len(cts)
        pullback = Graph(pullback.name, pullback.params[n:] + pullback.params[:n], pullback.nodes, pullback.results)
        primal, captured = forward.finish([*outs, *residuals])
    attrs = {"outputs": len(outs), "captured": len(captured), "name": name}
    operands = [cast(asarray(x), i.dtype) for x, i in zip(leaves, inner)] + captured
    results = apply(CUSTOM, operands, attrs, (primal, pullback))[: len(outs)]
    return unflatten(out_tree, results)


def _check(f, grads, tree, inner):
    """The gradients as one Array per argument leaf; zeros for None and for integers."""
    args = len(tree.children)
    if not isinstance(grads, (tuple, list)):
        grads = (grads,)
    if len(grads) != args:
        raise located(
            CustomGradientError,
            f"the grad_fn of {function_name(f)} returned {len(grads)} gradients for {args} arguments",
            "return one gradient per argument, None where there is none",
            where=definition(f),
        )
    out = []
    at = iter(inner)
    for g, child in zip(grads, tree.children):
        own = [next(at) for _ in range(child.count)]
        given = [None] * child.count if g is None else flatten(g)[0]
        if len(given) != child.count:
            raise located(
                CustomGradientError,
                f"the grad_fn of {function_name(f)} returned a gradient that has not its argument's structure",
                "give it the structure of the argument",
                where=definition(f),
            )
        for g_leaf, x in zip(given, own):
            if g_leaf is None or x.dtype.kind != "f":
                out.append(asarray(np.zeros(x.shape, x.dtype)))
                continue
            g_leaf = cast(asarray(g_leaf), x.dtype)
            if g_leaf.shape != x.shape:
                raise located(
                    CustomGradientError,
                    f"the grad_fn of {function_name(f)} returned a gradient of shape {g_leaf.shape} for an argument of "
                    f"shape {x.shape}",
                    "give it the shape of the argument (sum over broadcast axes)",
                    where=definition(f),
                )
            out.append(g_leaf)
    return out
