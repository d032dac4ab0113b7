"""The movement kind: operations that move elements and compute nothing; all are linear.

reshape(shape)   transpose(perm)   broadcast(shape)   slice(start, stop, step)   flip(axes)
pad(low, high, interior): zeros before, after and between the elements of each axis
concatenate(axis), of any number of operands
update(start, stop, step), of two operands: the first with a window, as slice takes it, replaced by the second
Attributes are full tuples, one entry per axis; slice steps are positive (a front end flips for negative ones).
"""

from __future__ import annotations

import math

import numpy as np

from ..graph import Constant
from ..op import UNUSED, Linear, Op, Rule, register
from ..types import tensor


def movement(name, infer, evaluate, transpose, batch, **payload) -> Op:
    return register(
        Op(name, "movement", infer, evaluate, Linear(transpose), batch, dtypes="fib", **payload)
    )  # fmt: skip


def made_by(value, name):
    node = value.node
    return node if node is not None and node.op.name == name else None


def argsort(perm):
    inverse = [0] * len(perm)
    for i, p in enumerate(perm):
        inverse[p] = i
    return tuple(inverse)


# ---- reshape -----------------------------------------------------------------------------------------------------
def _infer_reshape(types, attrs):
    (x,) = types
    if math.prod(attrs["shape"]) != x.size:
        raise ValueError(f"reshape: {x} has {x.size} elements, shape {attrs['shape']} has {math.prod(attrs['shape'])}")
    return (tensor(x.dtype, attrs["shape"]),)


def _reshape_rules(b, attrs, x):
    shape = attrs["shape"]
    if x.shape == shape:
        return x
    if inner := made_by(x, "reshape"):
        return b.reshape_to(inner.operands[0], shape)
    if (inner := made_by(x, "broadcast")) and inner.operands[0].ndim == 0:
        return b.broadcast_to(inner.operands[0], shape)
    return None


reshape = movement(
    "reshape", _infer_reshape, lambda x, shape: (np.reshape(x, shape),),
    lambda b, node, xs, ct, i: b.reshape_to(ct, xs[0].shape),
    lambda b, node, xs, batched, size: b.apply(node.op, xs, {"shape": (size, *node.attrs["shape"])}),
    rules=(Rule("reshape", _reshape_rules),),
)  # fmt: skip


# ---- transpose ---------------------------------------------------------------------------------------------------
def _infer_transpose(types, attrs):
    (x,), perm = types, attrs["perm"]
    if sorted(perm) != list(range(x.ndim)):
        raise ValueError(f"transpose: {perm} is no permutation of the axes of {x}")
    return (tensor(x.dtype, tuple(x.shape[p] for p in perm)),)


def _transpose_rules(b, attrs, x):
    perm = attrs["perm"]
    if perm == tuple(range(len(perm))):
        return x
    if inner := made_by(x, "transpose"):
        return b.transpose(inner.operands[0], perm=tuple(inner.attrs["perm"][p] for p in perm))
    if (inner := made_by(x, "broadcast")) and inner.operands[0].ndim == 0:
        return b.broadcast_to(inner.operands[0], tuple(x.shape[p] for p in perm))
    moving = [p for p in perm if x.shape[p] != 1]
    if moving == sorted(moving):  # only axes of length one move
        return b.reshape(x, shape=tuple(x.shape[p] for p in perm))
    return None


transpose = movement(
    "transpose", _infer_transpose, lambda x, perm: (np.transpose(x, perm),),
    lambda b, node, xs, ct, i: b.transpose(ct, perm=argsort(node.attrs["perm"])),
    lambda b, node, xs, batched, size: b.apply(node.op, xs, {"perm": (0, *[p + 1 for p in node.attrs["perm"]])}),
    rules=(Rule("transpose", _transpose_rules),),
)  # fmt: skip


# ---- broadcast ---------------------------------------------------------------------------------------------------
def _infer_broadcast(types, attrs):
    (x,), shape = types, attrs["shape"]
    lead = len(shape) - x.ndim
    if lead < 0 or any(n != m and n != 1 for n, m in zip(x.shape, shape[lead:])):
        raise ValueError(f"broadcast: {x} does not stretch to shape {shape}")
    return (tensor(x.dtype, shape),)


def _broadcast_rules(b, attrs, x):
    if x.shape == attrs["shape"]:
        return x
    if inner := made_by(x, "broadcast"):
        return b.broadcast(inner.operands[0], shape=attrs["shape"])
    if x.ndim and (inner := made_by(x, "reshape")) and x.type.size == 1:
        return b.broadcast(b.reshape_to(inner.operands[0], ()), shape=attrs["shape"])
    return None


def _batch_broadcast(b, node, xs, batched, size):
    (x,), shape = xs, node.attrs["shape"]
    x = b.reshape_to(x, (size,) + (1,) * (len(shape) - x.ndim + 1) + x.shape[1:])
    return (b.broadcast_to(x, (size, *shape)),)


broadcast = movement(
    "broadcast", _infer_broadcast, lambda x, shape: (np.broadcast_to(x, shape),),
    lambda b, node, xs, ct, i: b.sum_to(ct, xs[0].shape), _batch_broadcast,
    rules=(Rule("broadcast", _broadcast_rules),),
)  # fmt: skip


# ---- slice and pad -----------------------------------------------------------------------------------------------
def slice_length(start, stop, step):
    return max(0, -(-(stop - start) // step))


def _window(start, stop, step) -> tuple:
    """NumPy's index of the window of a slice or an update."""
    return tuple([np.s_[a:z:k] for a, z, k in zip(start, stop, step)])


def _infer_slice(types, attrs):
    (x,) = types
    for n, start, stop, step in zip(x.shape, attrs["start"], attrs["stop"], attrs["step"], strict=True):
        if not (0 <= start <= stop <= n and step >= 1):
            raise ValueError(f"slice {start}:{stop}:{step} is not within an axis of length {n} of {x}")
    shape = tuple(map(slice_length, attrs["start"], attrs["stop"], attrs["step"]))
    return (tensor(x.dtype, shape),)


def _slice_transpose(b, node, xs, ct, i):
    """Zeros around, and between for a step: what the slice left out."""
    low = node.attrs["start"]
    interior = tuple(step - 1 for step in node.attrs["step"])
    high = tuple(
        n - start - ((m - 1) * step + 1 if m else 0)
        for n, start, step, m in zip(xs[0].shape, low, node.attrs["step"], ct.shape)
    )
    return b.pad(ct, low=low, high=high, interior=tuple(k if m > 1 else 0 for k, m in zip(interior, ct.shape)))


def _slice_rules(b, attrs, x):
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    if stop == x.shape and not any(start) and all(s == 1 for s in step):
        return x
    if inner := made_by(x, "slice"):
        at, by = inner.attrs["start"], inner.attrs["step"]
        source = inner.operands[0]
        lengths = tuple(map(slice_length, start, stop, step))
        first = tuple(a + s * k if n else 0 for a, s, k, n in zip(at, start, by, lengths))
        stride = tuple(s * k for s, k in zip(step, by))
        end = tuple(f + (n - 1) * s + 1 if n else f for f, n, s in zip(first, lengths, stride))
        return b.slice(source, start=first, stop=end, step=stride)
    if (inner := made_by(x, "broadcast")) and inner.operands[0].ndim == 0:
        return b.broadcast_to(inner.operands[0], tuple(map(slice_length, start, stop, step)))
    if made_by(x, "update"):
        return _slice_of_update(b, attrs, x)
    if inner := made_by(x, "concatenate"):  # a slice that lies within one of the parts
        axis, offset = inner.attrs["axis"], 0
        for part in inner.operands:
            end = offset + part.shape[axis]
            if offset <= start[axis] and stop[axis] <= end and start[axis] < stop[axis]:
                def shift(t, by=offset):
                    return t[:axis] + (t[axis] - by,) + t[axis + 1 :]

                return b.slice(part, start=shift(start), stop=shift(stop), step=step)
            offset = end
    return None


def _batch_axes(attrs, **lead):
    return {key: (lead[key], *value) for key, value in attrs.items()}


slice = movement(
    "slice", _infer_slice,
    lambda x, start, stop, step: (x[_window(start, stop, step)],),
    _slice_transpose,
    lambda b, node, xs, batched, size: b.apply(node.op, xs, _batch_axes(node.attrs, start=0, stop=size, step=1)),
    rules=(Rule("slice", _slice_rules),), masks=UNUSED,
)  # fmt: skip


def _infer_pad(types, attrs):
    (x,) = types
    low, high, interior = attrs["low"], attrs["high"], attrs["interior"]
    if not len(low) == len(high) == len(interior) == x.ndim or min((0, *low, *high, *interior)) < 0:
        raise ValueError(f"pad of {x} takes one non-negative low, high and interior per axis, got {attrs}")
    shape = tuple(a + n + max(n - 1, 0) * k + z for n, a, z, k in zip(x.shape, low, high, interior))
    return (tensor(x.dtype, shape),)


def _pad(x, low, high, interior):
    x = np.asarray(x)
    (type,) = _infer_pad([tensor(x.dtype, x.shape)], {"low": low, "high": high, "interior": interior})
    out = np.zeros(type.shape, x.dtype)
    if x.size:
        out[_pad_window(x.shape, low, interior)] = x
    return (out,)


def _pad_window(shape, low, interior):
    return tuple(np.s_[a : a + (n - 1) * (k + 1) + 1 : k + 1] for n, a, k in zip(shape, low, interior))


def _pad_transpose(b, node, xs, ct, i):
    window = _pad_window(xs[0].shape, node.attrs["low"], node.attrs["interior"])
    if xs[0].type.size == 0:
        return b.zeros(xs[0].type)
    return b.slice(
        ct, start=tuple(w.start for w in window), stop=tuple(w.stop for w in window), step=tuple(w.step for w in window)
    )


def _pad_rules(b, attrs, x):
    if x.shape and not any(attrs["low"]) and not any(attrs["high"]) and not any(attrs["interior"]):
        return x
    if x.type.size == 0 or (_constant_source(x) is not None and _constant_source(x).data == 0):
        (type,) = _infer_pad([x.type], attrs)
        return b.zeros(type)
    return None


def _constant_source(x):
    inner = made_by(x, "broadcast")
    source = inner.operands[0] if inner else x
    return source if type(source) is Constant and not np.signbit(source.data) else None


pad = movement(
    "pad", _infer_pad, _pad, _pad_transpose,
    lambda b, node, xs, batched, size: b.apply(node.op, xs, _batch_axes(node.attrs, low=0, high=0, interior=0)),
    rules=(Rule("pad", _pad_rules),),
)  # fmt: skip


# ---- flip --------------------------------------------------------------------------------------------------------
def _infer_flip(types, attrs):
    (x,) = types
    if any(not 0 <= a < x.ndim for a in attrs["axes"]):
        raise ValueError(f"flip: axes {attrs['axes']} of {x}")
    return (x,)


def _flip_rules(b, attrs, x):
    axes = tuple(a for a in attrs["axes"] if x.shape[a] > 1)
    if not axes:
        return x
    if inner := made_by(x, "flip"):
        return b.flip(inner.operands[0], axes=tuple(sorted(set(axes) ^ set(inner.attrs["axes"]))))
    if (inner := made_by(x, "broadcast")) and inner.operands[0].ndim == 0:
        return x
    return None


flip = movement(
    "flip", _infer_flip, lambda x, axes: (np.flip(x, axes),),
    lambda b, node, xs, ct, i: b.flip(ct, axes=node.attrs["axes"]),
    lambda b, node, xs, batched, size: b.apply(node.op, xs, {"axes": tuple(a + 1 for a in node.attrs["axes"])}),
    rules=(Rule("flip", _flip_rules),),
)  # fmt: skip


# ---- concatenate -------------------------------------------------------------------------------------------------
def _infer_concatenate(types, attrs):
    axis = attrs["axis"]
    first = types[0]
    for t in types:
        if t.dtype != first.dtype or t.ndim != first.ndim or not 0 <= axis < t.ndim:
            raise ValueError(f"concatenate along axis {axis}: {', '.join(map(str, types))}")
        if t.shape[:axis] + t.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]:
            raise ValueError(f"concatenate along axis {axis}: {', '.join(map(str, types))}")
    total = sum([t.shape[axis] for t in types])
    return (tensor(first.dtype, first.shape[:axis] + (total,) + first.shape[axis + 1 :]),)


def _concatenate_transpose(b, node, xs, ct, i):
    axis = node.attrs["axis"]
    offset = sum([x.shape[axis] for x in xs[:i]])
    start, stop = [0] * ct.ndim, list(ct.shape)
    start[axis], stop[axis] = offset, offset + xs[i].shape[axis]
    return b.slice(ct, start=tuple(start), stop=tuple(stop), step=(1,) * ct.ndim)


def _concatenate_rules(b, attrs, *xs):
    if len(xs) == 1:
        return xs[0]
    axis = attrs["axis"]
    parts = [x for x in xs if x.shape[axis]]
    if len(parts) < len(xs):
        return b.concatenate(*parts, axis=axis) if parts else xs[0]
    return None


def _batch_concatenate(b, node, xs, batched, size):
    xs = [x if on else b.broadcast_to(x, (size, *x.shape)) for x, on in zip(xs, batched)]
    return b.apply(node.op, xs, {"axis": node.attrs["axis"] + 1})


concatenate = movement(
    "concatenate", _infer_concatenate, lambda *xs, axis: (np.concatenate(xs, axis),), _concatenate_transpose,
    _batch_concatenate, arity=None, rules=(Rule("concatenate", _concatenate_rules),),
)  # fmt: skip


# ---- update ------------------------------------------------------------------------------------------------------

def _infer_update(types, attrs):
    x, part = types
    (window,) = _infer_slice((x,), attrs)
    if window is not part:
        raise ValueError(f"update: the window of {x} is {window}, what replaces it {part}")
    return (x,)


def _update(x, part, start, stop, step):
    out = np.array(x)
    out[_window(start, stop, step)] = part
    return (out,)


def _update_transpose(b, node, xs, ct, i):
    return b.slice(ct, **node.attrs) if i else b.update(ct, b.zeros(xs[1].type), **node.attrs)


def _batch_update(b, node, xs, batched, size):
    xs = [x if on else b.broadcast_to(x, (size, *x.shape)) for x, on in zip(xs, batched)]
    return b.apply(node.op, xs, _batch_axes(node.attrs, start=0, stop=size, step=1))


def _apart(one, other) -> bool:
    """Whether two windows have no element in common, as far as one axis tells."""
    spans = zip(one["start"], one["stop"], one["step"], other["start"], other["stop"], other["step"])
    return any([z <= c or y <= a or (k == j and k > 1 and (a - c) % k) for a, z, k, c, y, j in spans])


def _slice_of_update(b, attrs, x):
    """What was stored there, or what an update elsewhere left as it was."""
    source = x
    while (inner := made_by(source, "update")) and _apart(attrs, inner.attrs):
        source = inner.operands[0]
    if inner and inner.attrs == attrs:
        return inner.operands[1]
    return b.slice(source, **attrs) if source is not x else None


def _update_rules(b, attrs, x, part):
    if part.type.size == 0:
        return x
    if part.type is x.type:
        return part
    if (inner := made_by(x, "update")) and inner.attrs == attrs:
        return b.update(inner.operands[0], part, **attrs)
    if (inner := made_by(part, "slice")) and inner.operands[0] is x and inner.attrs == attrs:
        return x
    return None


update = movement(
    "update", _infer_update, _update, _update_transpose, _batch_update, arity=2, masks=UNUSED,
    rules=(Rule("update", _update_rules),),
)  # fmt: skip
