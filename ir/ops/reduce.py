"""The reduce kind: sum, prod, max, min, all, any over `axes`; argmax, argmin over one axis; cumsum, cumprod.

attrs: `axes`, a sorted tuple of the axes that are folded away (results have no such axes; a front end that keeps
them reshapes). The cumulative ones have `axis`, keep the shape, and `reverse`. `emit(e, accumulator, element)` combines
two scalars; `identity(dtype)` starts the accumulator. A fold is the one place where code generation may re-associate.
"""

from __future__ import annotations

import numpy as np

from ..op import NONDIFFERENTIABLE, UNUSED, Explicit, Linear, Op, Rule, register
from ..types import I64, tensor
from .contract import free_axes
from .elementwise import made_by


def _check_axes(name, type, axes):
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < type.ndim for a in axes):
        raise ValueError(f"{name}: axes {axes} of {type}: they must be sorted, distinct, within its {type.ndim} axes")


def without(shape, axes):
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def kept(shape, axes):
    """The shape with ones for the folded axes."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def spread(b, value, shape, axes):
    """The transpose of a fold's shape change: put the folded axes back and stretch along them."""
    return b.broadcast_to(b.reshape_to(value, kept(shape, axes)), shape)


def fold(name, evaluate, derivative, identity, dtypes, result="same", **payload) -> Op:
    """Define a fold over axes. `identity(dtype)` is the value of an empty one, None if it has none."""

    def infer(types, attrs):
        (x,) = types
        _check_axes(name, x, attrs["axes"])
        if x.dtype.kind not in dtypes:
            raise TypeError(f"{name} is not defined for {x}")
        if identity(x.dtype) is None and x.size == 0 and any(x.shape[a] == 0 for a in attrs["axes"]):
            raise ValueError(f"{name}: {x} has no elements to fold and the operation no identity")
        return (tensor(x.dtype, without(x.shape, attrs["axes"])),)

    return register(
        Op(
            name, "reduce", infer, lambda x, axes: (evaluate(x, axis=axes, dtype=x.dtype),), derivative, batch_fold,
            identity=identity, dtypes=dtypes, result=result, **payload,
        )
    )  # fmt: skip


def batch_fold(b, node, xs, batched, size):
    return b.apply(node.op, xs, {**node.attrs, "axes": tuple(a + 1 for a in node.attrs["axes"])})


def _no_axes(b, attrs, x):
    return x if attrs["axes"] == () else None


def _unit_axes(b, attrs, x):
    """Axes of length one fold to a reshape."""
    if attrs["axes"] and all(x.shape[a] == 1 for a in attrs["axes"]):
        return b.reshape_to(x, without(x.shape, attrs["axes"]))
    return None


SHAPE_RULES = (Rule("fold over no axes", _no_axes), Rule("fold over axes of length one", _unit_axes))


def _sum_of_broadcast(b, attrs, x):
    """sum(broadcast(x)) -> n * sum(x): exact in real arithmetic only, so for derivatives."""
    node = x.node
    if node is None or node.op.name != "broadcast" or x.dtype.kind == "b":
        return None
    source, axes = node.operands[0], attrs["axes"]
    lead = x.ndim - source.ndim
    stretched = [a for a in axes if a < lead or source.shape[a - lead] != x.shape[a]]
    if not stretched:
        return None
    count = int(np.prod([x.shape[a] for a in stretched], dtype=np.int64))
    rest = tuple(a for a in axes if a not in stretched)
    inner_shape = tuple(1 if a in stretched else n for a, n in enumerate(x.shape))
    inner = b.broadcast_to(b.reshape_to(source, (1,) * lead + source.shape), inner_shape)
    total = b.reduce_sum(inner, axes=rest) if rest else inner
    return b.mul(b.reshape_to(total, without(x.shape, axes)), count)


def _sum_of_fold(b, attrs, x):
    """sum over a sum -> one sum over both sets of axes."""
    node = x.node
    if node is None or node.op.name != "reduce_sum":
        return None
    source, inner = node.operands[0], node.attrs["axes"]
    left = [a for a in range(source.ndim) if a not in inner]
    return b.reduce_sum(source, axes=tuple(sorted([*inner, *[left[a] for a in attrs["axes"]]])))


def _sum_of_neg(b, attrs, x):
    node = x.node
    return b.neg(b.reduce_sum(node.operands[0], **attrs)) if node is not None and node.op.name == "neg" else None


def _sum_of_dot(b, attrs, x):
    """A free axis is summed in its operand, before the product; a batch axis becomes a contracted one."""
    node = x.node
    if node is None or node.op.name != "dot":
        return None
    (lc, rc), (lb, rb) = node.attrs["contract"], node.attrs["batch"]
    operands, at = [], len(lb)
    summed = [i for i in attrs["axes"] if i < at]
    taken = [[*lc, *[lb[i] for i in summed]], [*rc, *[rb[i] for i in summed]]]
    batch = [[a for i, a in enumerate(lb) if i not in summed], [a for i, a in enumerate(rb) if i not in summed]]
    for k, (operand, contracted, together) in enumerate(zip(node.operands, (lc, rc), (lb, rb))):
        free = free_axes(operand.ndim, contracted, together)
        gone = [a for i, a in enumerate(free) if at + i in attrs["axes"]]
        at += len(free)
        for axes in (taken, batch):
            axes[k] = tuple([a - sum([g < a for g in gone]) for a in axes[k]])
        operands.append(b.reduce_sum(operand, axes=tuple(gone)) if gone else operand)
    return b.dot(*operands, contract=tuple(taken), batch=tuple(batch))


def _sum_of_mul(b, attrs, x):
    """A factor that does not change along the summed axes comes after the sum."""
    sides, axes = made_by(x, "mul"), attrs["axes"]
    for factor, other in (sides, sides[::-1]) if sides else ():
        leads = [x.ndim - v.ndim for v in (factor, other)]
        if all([a >= leads[1] and (a < leads[0] or factor.shape[a - leads[0]] == 1) for a in axes]):
            factor = b.reshape_to(factor, without(factor.shape, [a - leads[0] for a in axes]))
            return b.mul(factor, b.reduce_sum(other, axes=tuple([a - leads[1] for a in axes])))
    return None


reduce_sum = fold(
    "reduce_sum", np.sum, Linear(lambda b, node, xs, ct, i: spread(b, ct, xs[0].shape, node.attrs["axes"])),
    lambda dtype: 0, "fi", emit=lambda e, acc, x: e.add(acc, x),
    rules=(
        Rule("sum over no axes", _no_axes, exact=False),  # NumPy's sum of -0.0 is 0.0
        Rule("sum over axes of length one", _unit_axes, exact=False),
        Rule("sum(broadcast(x)) -> n*sum(x)", _sum_of_broadcast, exact=False, heads=("broadcast",)),
        Rule("sum(sum(x)) -> sum(x)", _sum_of_fold, exact=False, heads=("reduce_sum",)),
        Rule("sum(c*x) -> c*sum(x)", _sum_of_mul, exact=False, heads=("mul",)),
        Rule("sum(dot(x, y)) -> dot(sum(x), y)", _sum_of_dot, exact=False, heads=("dot",)),
        Rule("sum(-x) -> -sum(x)", _sum_of_neg, exact=False, heads=("neg",)),  # 1 + -1 is +0 either way
    ),
)  # fmt: skip


def _others_product(b, x, axes):
    """Per element, the product of all other elements along the axes: exact with zeros among them, any order.

    Exclusive prefix product times exclusive suffix product along the flattened axes.
    """
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    perm = rest + axes
    moved = b.transpose(x, perm=perm) if perm != tuple(range(x.ndim)) else x
    lead = tuple(x.shape[a] for a in rest)
    n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    flat = b.reshape_to(moved, (*lead, n))
    last = flat.ndim - 1
    one = b.full(1, flat.type.with_shape((*lead, 1)))
    if n <= 1:
        others = b.full(1, flat.type)
    else:
        start, full = (0,) * flat.ndim, (1,) * flat.ndim
        head = b.slice(flat, start=start, stop=(*lead, n - 1), step=full)
        tail = b.slice(flat, start=(0,) * last + (1,), stop=(*lead, n), step=full)
        before = b.concatenate(one, b.cumprod(head, axis=last, reverse=False), axis=last)
        after = b.concatenate(b.cumprod(tail, axis=last, reverse=True), one, axis=last)
        others = b.mul(before, after)
    back = b.reshape_to(others, tuple(x.shape[a] for a in perm))
    if perm == tuple(range(x.ndim)):
        return back
    return b.transpose(back, perm=tuple(int(i) for i in np.argsort(perm)))


def _prod_jvp(b, node, xs, ys, tangents):
    axes = node.attrs["axes"]
    if tangents[0] is None:
        return (None,)
    return (b.reduce_sum(b.mul(_others_product(b, xs[0], axes), tangents[0]), axes=axes),)


def _prod_vjp(b, node, xs, ys, cts, wanted):
    axes = node.attrs["axes"]
    return (b.mul(_others_product(b, xs[0], axes), spread(b, cts[0], xs[0].shape, axes)),)


reduce_prod = fold(
    "reduce_prod", np.prod, Explicit(_prod_jvp, _prod_vjp), lambda dtype: 1, "fi",
    emit=lambda e, acc, x: e.mul(acc, x), rules=SHAPE_RULES,
)  # fmt: skip


def _extreme_weights(b, node, x, y):
    """Weights of the extreme elements: 1/k for each of k ties, so that they sum to one; NaN ties with NaN."""
    axes = node.attrs["axes"]
    top = spread(b, y, x.shape, axes)
    hit = b.or_(b.eq(x, top), b.and_(b.ne(x, x), b.ne(top, top)))
    ones = b.cast(hit, x.dtype)
    count = spread(b, b.reduce_sum(ones, axes=axes), x.shape, axes)
    return b.div(ones, count)


def _extreme_jvp(b, node, xs, ys, tangents):
    if tangents[0] is None:
        return (None,)
    weights = _extreme_weights(b, node, xs[0], ys[0])
    return (b.reduce_sum(b.mul(weights, tangents[0]), axes=node.attrs["axes"]),)


def _extreme_vjp(b, node, xs, ys, cts, wanted):
    weights = _extreme_weights(b, node, xs[0], ys[0])
    return (b.mul(weights, spread(b, cts[0], xs[0].shape, node.attrs["axes"])),)


def _without_dtype(function):
    return lambda x, axis, dtype: function(x, axis=axis)


reduce_max = fold(
    "reduce_max", _without_dtype(np.max), Explicit(_extreme_jvp, _extreme_vjp), lambda dtype: None, "fi",
    emit=lambda e, acc, x: e.maximum(acc, x), rules=SHAPE_RULES, masks=UNUSED,
    doc="Ties share the derivative equally.",
)  # fmt: skip
reduce_min = fold(
    "reduce_min", _without_dtype(np.min), Explicit(_extreme_jvp, _extreme_vjp), lambda dtype: None, "fi",
    emit=lambda e, acc, x: e.minimum(acc, x), rules=SHAPE_RULES, masks=UNUSED,
    doc="Ties share the derivative equally.",
)  # fmt: skip
reduce_and = fold(
    "reduce_and", _without_dtype(np.all), NONDIFFERENTIABLE, lambda dtype: True, "b",
    emit=lambda e, acc, x: e.and_(acc, x), rules=SHAPE_RULES,
)  # fmt: skip
reduce_or = fold(
    "reduce_or", _without_dtype(np.any), NONDIFFERENTIABLE, lambda dtype: False, "b",
    emit=lambda e, acc, x: e.or_(acc, x), rules=SHAPE_RULES,
)  # fmt: skip


# ---- argmax, argmin ------------------------------------------------------------------------------------------------
def _arg(name, function):
    def infer(types, attrs):
        (x,) = types
        axis = attrs["axis"]
        _check_axes(name, x, (axis,))
        if x.shape[axis] == 0:
            raise ValueError(f"{name}: {x} is empty along axis {axis}")
        return (tensor(I64, without(x.shape, (axis,))),)

    def batch(b, node, xs, batched, size):
        return b.apply(node.op, xs, {"axis": node.attrs["axis"] + 1})

    return register(
        Op(
            name, "reduce", infer, lambda x, axis: (np.asarray(function(x, axis=axis), dtype=np.int64),),
            NONDIFFERENTIABLE, batch, dtypes="fib", result="i64",
            doc="attrs: axis. The first of several extremes, NaN before all, as NumPy.",
        )
    )  # fmt: skip


argmax = _arg("argmax", np.argmax)
argmin = _arg("argmin", np.argmin)


# ---- cumulative ------------------------------------------------------------------------------------------------------
def _cumulative(name, function, derivative, identity, **payload):
    def infer(types, attrs):
        (x,) = types
        _check_axes(name, x, (attrs["axis"],))
        return (x,)

    def evaluate(x, axis, reverse):
        if reverse:
            return (np.flip(function(np.flip(x, axis), axis=axis, dtype=x.dtype), axis),)
        return (function(x, axis=axis, dtype=x.dtype),)

    def batch(b, node, xs, batched, size):
        return b.apply(node.op, xs, {**node.attrs, "axis": node.attrs["axis"] + 1})

    return register(
        Op(name, "reduce", infer, evaluate, derivative, batch, identity=identity, dtypes="fi", **payload)
    )


def _cumsum_transpose(b, node, xs, ct, i):
    return b.cumsum(ct, axis=node.attrs["axis"], reverse=not node.attrs["reverse"])


cumsum = _cumulative(
    "cumsum", np.cumsum, Linear(_cumsum_transpose), lambda dtype: 0, emit=lambda e, acc, x: e.add(acc, x),
    doc="attrs: axis, reverse.",
)  # fmt: skip


def _cumprod_matrix(b, node, x):
    """W[..., i, j] = d out_i / d x_j along the last axis: the product of x_0..x_i without x_j, for j <= i.

    Exact with zeros: the factor j is replaced by one before the cumulative product. Quadratic in the axis.
    """
    n = x.shape[-1]
    i = b.reshape(b.iota(shape=(n,), dtype=I64), shape=(n, 1))
    j = b.reshape(b.iota(shape=(n,), dtype=I64), shape=(1, n))
    rows = b.broadcast_to(b.reshape_to(x, (*x.shape, 1)), (*x.shape, n))  # [..., k, j] = x_k
    factors = b.select(b.eq(i, j), b.constant(1, x.dtype), rows)
    products = b.cumprod(factors, axis=rows.ndim - 2, reverse=node.attrs["reverse"])
    inside = b.le(i, j) if node.attrs["reverse"] else b.ge(i, j)
    return b.select(inside, products, b.constant(0, x.dtype))


def _axis_last(x, axis):
    perm = tuple(a for a in range(x.ndim) if a != axis) + (axis,)
    inverse = tuple(int(k) for k in np.argsort(perm))
    return perm, inverse


def _cumprod_apply(b, node, x, v, over):
    axis = node.attrs["axis"]
    perm, inverse = _axis_last(x, axis)
    weights = _cumprod_matrix(b, node, b.transpose(x, perm=perm))
    v = b.transpose(v, perm=perm)
    lead, n = v.shape[:-1], v.shape[-1]
    row = b.reshape_to(v, (*lead, 1, n) if over == "j" else (*lead, n, 1))
    out = b.reduce_sum(b.mul(weights, row), axes=(v.ndim,) if over == "j" else (v.ndim - 1,))
    return b.transpose(out, perm=inverse)


def _cumprod_jvp(b, node, xs, ys, tangents):
    return (None if tangents[0] is None else _cumprod_apply(b, node, xs[0], tangents[0], "j"),)


def _cumprod_vjp(b, node, xs, ys, cts, wanted):
    return (_cumprod_apply(b, node, xs[0], cts[0], "i"),)


cumprod = _cumulative(
    "cumprod", np.cumprod, Explicit(_cumprod_jvp, _cumprod_vjp), lambda dtype: 1,
    emit=lambda e, acc, x: e.mul(acc, x), doc="attrs: axis, reverse.",
)  # fmt: skip
