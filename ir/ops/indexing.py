"""The indexing kind: take rows at run-time positions, and its two inverses.

gather(x, index)                x[n, rest...], index[any...] of i64 -> [any..., rest...]
scatter_add(x, index, updates)  x with updates[any..., rest...] added at the rows; repeated rows add up
scatter(x, index, updates)      x with the rows replaced; of repeated rows the last wins, as in NumPy

Indices must lie in [0, n): a front end wraps negative ones and guards the range, so that compiled code need not
check. Everything else in NumPy's advanced indexing is written in these by merging the indexed axes into one.
"""

from __future__ import annotations

import numpy as np

from ..op import UNUSED, Linear, Op, Rule, register
from ..types import I64, tensor
from .elementwise import is_number


def _infer_gather(types, attrs):
    x, index = types
    if index.dtype != I64 or x.ndim < 1:
        raise TypeError(f"gather takes an array and i64 indices, got {x} and {index}")
    if x.shape[0] == 0 and index.size:
        raise ValueError(f"gather from {x}, which has no rows")
    return (tensor(x.dtype, index.shape + x.shape[1:]),)


def _gather_transpose(b, node, xs, ct, i):
    return b.scatter_add(b.zeros(xs[0].type), xs[1], ct)


def _flat_batches(b, x, index, size):
    """Both operands batched: one gather from the batches laid end to end."""
    n = x.shape[1]
    offset = b.mul(b.iota(shape=(size,), dtype=I64), n)
    offset = b.reshape_to(offset, (size,) + (1,) * (index.ndim - 1))
    return b.reshape_to(x, (size * n, *x.shape[2:])), b.add(index, offset)


def _batch_first(b, value, axis):
    return b.transpose(value, perm=(axis, *[a for a in range(value.ndim) if a != axis]))


def _batch_gather(b, node, xs, batched, size):
    x, index = xs
    if not batched[0]:
        return (b.gather(x, index),)
    if not batched[1]:
        rows = b.transpose(x, perm=(1, 0, *range(2, x.ndim)))
        return (_batch_first(b, b.gather(rows, index), index.ndim),)
    x, index = _flat_batches(b, x, index, size)
    return (b.gather(x, index),)


def _gather_rules(b, attrs, x, index):
    node = x.node
    if node is not None and node.op.name == "broadcast" and node.operands[0].ndim == 0:
        return b.broadcast_to(node.operands[0], index.shape + x.shape[1:])
    return None


gather = register(
    Op(
        "gather", "indexing", _infer_gather, lambda x, index: (np.asarray(x)[np.asarray(index)],),
        Linear(_gather_transpose, (0,)), _batch_gather, dtypes="fib", arity=2, masks=UNUSED, cost=2,
        rules=(Rule("gather of a constant", _gather_rules),),
    )
)  # fmt: skip


def _infer_scatter(types, attrs):
    x, index, updates = types
    if index.dtype != I64 or x.ndim < 1 or updates.dtype != x.dtype:
        raise TypeError(f"scatter takes an array, i64 indices and updates of its dtype, got {x}, {index}, {updates}")
    if updates.shape != index.shape + x.shape[1:]:
        raise ValueError(f"scatter: updates {updates} do not fit {index} into {x}")
    return (x,)


def _batch_scatter(b, node, xs, batched, size):
    x, index, updates = (v if on else b.broadcast_to(v, (size, *v.shape)) for v, on in zip(xs, batched))
    shape = x.shape
    x, index = _flat_batches(b, x, index, size)
    return (b.reshape_to(b.apply(node.op, (x, index, updates), {})[0], shape),)


def _scatter_add(x, index, updates):
    out = np.array(x)
    np.add.at(out, np.asarray(index), updates)
    return (out,)


def _scatter_add_transpose(b, node, xs, ct, i):
    return ct if i == 0 else b.gather(ct, xs[1])


scatter_add = register(
    Op(
        "scatter_add", "indexing", _infer_scatter, _scatter_add, Linear(_scatter_add_transpose, (0, 2)),
        _batch_scatter, dtypes="fi", arity=3, cost=4,
        rules=(Rule("adding zeros", lambda b, a, x, i, u: x if is_number(u, 0) else None, exact=False),),
    )
)  # fmt: skip


def _scatter(x, index, updates):
    out, index = np.array(x), np.asarray(index)
    rows = out.shape[1:]
    out[index.reshape(-1)] = np.asarray(updates).reshape(index.size, *rows)
    return (out,)


def _scatter_transpose(b, node, xs, ct, i):
    """The replaced rows of x get none; of repeated rows only the last update, which won, gets any."""
    x, index, updates = xs
    if i == 0:
        return b.scatter(ct, index, b.zeros(updates.type))
    n, count = x.shape[0], index.type.size
    order = b.reshape_to(b.iota(shape=(count,), dtype=I64), index.shape)
    winner = b.gather(b.scatter(b.zeros(tensor(I64, (n,))), index, order), index)
    won = b.reshape_to(b.eq(winner, order), index.shape + (1,) * (x.ndim - 1))
    return b.select(won, b.gather(ct, index), 0.0)


scatter = register(
    Op(
        "scatter", "indexing", _infer_scatter, _scatter, Linear(_scatter_transpose, (0, 2)), _batch_scatter,
        dtypes="fib", arity=3, masks=UNUSED, cost=4,
    )
)  # fmt: skip
