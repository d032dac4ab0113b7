"""The contract kind: dot, the batched tensor contraction that every matrix product is written in.

attrs: `contract` = (axes of lhs, axes of rhs) summed over pairwise, `batch` = (axes of lhs, axes of rhs) that run
together. Result axes: batch, then the free axes of lhs, then the free axes of rhs, each in order.
"""

from __future__ import annotations

import math

import numpy as np

from ..op import Multilinear, Op, Rule, register
from ..types import tensor
from .elementwise import is_number
from .movement import argsort


def free_axes(ndim, *used):
    taken = {a for axes in used for a in axes}
    return tuple(a for a in range(ndim) if a not in taken)


def _infer(types, attrs):
    lhs, rhs = types
    (lc, rc), (lb, rb) = attrs["contract"], attrs["batch"]
    if lhs.dtype != rhs.dtype or lhs.dtype.kind not in "fi":
        raise TypeError(f"dot takes two operands of one number type, got {lhs} and {rhs}")
    if [lhs.shape[a] for a in lc] != [rhs.shape[a] for a in rc]:
        raise ValueError(f"dot: contracted axes differ in length: {lhs} axes {lc}, {rhs} axes {rc}")
    if [lhs.shape[a] for a in lb] != [rhs.shape[a] for a in rb]:
        raise ValueError(f"dot: batch axes differ in length: {lhs} axes {lb}, {rhs} axes {rb}")
    left = [lhs.shape[a] for a in free_axes(lhs.ndim, lc, lb)]
    right = [rhs.shape[a] for a in free_axes(rhs.ndim, rc, rb)]
    return (tensor(lhs.dtype, (*[lhs.shape[a] for a in lb], *left, *right)),)


def _evaluate(lhs, rhs, contract, batch):
    lhs, rhs = np.asarray(lhs), np.asarray(rhs)
    (lc, rc), (lb, rb) = contract, batch
    lf, rf = free_axes(lhs.ndim, lc, lb), free_axes(rhs.ndim, rc, rb)
    shape = [lhs.shape[a] for a in lb] + [lhs.shape[a] for a in lf] + [rhs.shape[a] for a in rf]
    sizes = [[x.shape[a] for a in axes] for x, axes in ((lhs, lb), (lhs, lf), (lhs, lc), (rhs, rf))]
    n, m, k, p = [math.prod(s) for s in sizes]
    a = lhs.transpose(*lb, *lf, *lc).reshape(n, m, k)
    c = rhs.transpose(*rb, *rc, *rf).reshape(n, k, p)
    product = np.matmul(a, c) if lc else a * c  # nothing to sum: -0.0 stays
    return (product.reshape(shape).astype(lhs.dtype, copy=False),)


def _transpose(b, node, xs, ct, i):
    (lc, rc), (lb, rb) = node.attrs["contract"], node.attrs["batch"]
    if i == 1:
        lc, rc, lb, rb = rc, lc, rb, lb
    x, other = xs[i], xs[1 - i]
    free_x, free_other = free_axes(x.ndim, lc, lb), free_axes(other.ndim, rc, rb)
    # ct: batch, free of lhs, free of rhs. Contract it with the other operand over that one's free axes.
    nb = len(lb)
    at_other = nb + len(free_x) if i == 0 else nb
    ct_other = tuple(range(at_other, at_other + len(free_other)))
    ct_batch = tuple(range(nb))
    if i == 0:
        out = b.dot(ct, other, contract=(ct_other, free_other), batch=(ct_batch, rb))
        # axes of out: batch, free of x, contracted axes of other in ascending order
        order = [*lb, *free_x, *[lc[rc.index(a)] for a in free_axes(other.ndim, free_other, rb)]]
    else:
        out = b.dot(other, ct, contract=(free_other, ct_other), batch=(rb, ct_batch))
        order = [*lb, *[lc[rc.index(a)] for a in free_axes(other.ndim, free_other, rb)], *free_x]
    return b.transpose(out, perm=argsort(order))


def _batch(b, node, xs, batched, size):
    (lc, rc), (lb, rb) = node.attrs["contract"], node.attrs["batch"]
    lhs, rhs = xs
    if batched[0]:
        lc, lb = tuple(a + 1 for a in lc), tuple(a + 1 for a in lb)
    if batched[1]:
        rc, rb = tuple(a + 1 for a in rc), tuple(a + 1 for a in rb)
    if all(batched):
        return b.apply(node.op, xs, {"contract": (lc, rc), "batch": ((0, *lb), (0, *rb))})
    out = b.dot(lhs, rhs, contract=(lc, rc), batch=(lb, rb))
    # The batch axis of the one batched operand is its first free axis: bring it to the front.
    at = len(lb) if batched[0] else len(lb) + len(free_axes(lhs.ndim, lc, lb))
    return (b.transpose(out, perm=(at, *[a for a in range(out.ndim) if a != at])),)


def _zero_rule(b, attrs, x, y):
    if is_number(x, 0) or is_number(y, 0):
        return b.zeros(_infer([x.type, y.type], attrs)[0])
    return None


def _no_contraction(b, attrs, x, y):
    """A contraction over nothing is an outer product: elementwise, so that it fuses."""
    (lc, _), (lb, rb) = attrs["contract"], attrs["batch"]
    if lc:
        return None
    lf, rf = free_axes(x.ndim, lb), free_axes(y.ndim, rb)
    x = b.transpose(x, perm=(*lb, *lf))
    y = b.transpose(y, perm=(*rb, *rf))
    nb = len(lb)
    x = b.reshape_to(x, x.shape + (1,) * len(rf))
    y = b.reshape_to(y, y.shape[:nb] + (1,) * len(lf) + y.shape[nb:])
    return b.mul(x, y)


dot = register(
    Op(
        "dot", "contract", _infer, _evaluate, Multilinear(_transpose), _batch, dtypes="fi", arity=2, cost=100,
        rules=(Rule("dot with zeros", _zero_rule, exact=False), Rule("outer product", _no_contraction)),
        domain=((-2.0, 2.0), (-2.0, 2.0)),
    )
)  # fmt: skip
