"""vmap: a function of one lane to the function of all lanes, by batching its Graph (`ir/batch.py`).

In: in_axes and out_axes as JAX has them: an int, None (not mapped), or a nest of them along the arguments (results). Out: a
Transform. The function is recorded at its first lane; control flow read from a mapped value must agree in every lane.
"""

from __future__ import annotations

import numpy as np

from tapejit.ir.batch import batch
from tapejit.ir.build import Builder
from tapejit.ir.walk import inline

from .array import is_a, unwrap
from .errors import ArgumentError, ShapeError, located
from .transforms import Transform
from .tree import Tree, flatten, unflatten


class Vmap(Transform):
    """Map over an axis of the arguments. in_axes: an int or None, or a nest of them per argument; out_axes likewise."""

    name, lanes = "vmap", True

    def __init__(self, in_axes=0, out_axes=0):
        self.in_axes, self.out_axes = freeze(in_axes), freeze(out_axes)
        self.key = ("vmap", self.in_axes, self.out_axes)

    def enter(self, args, kwargs):
        leaves, tree = flatten((args, kwargs))
        arg_tree, kwarg_tree = tree.children
        axes = spread_axes(self.in_axes, arg_tree, "in_axes") + [0] * kwarg_tree.count
        size, lanes = None, []
        for x, axis in zip(leaves, axes):
            if axis is None:
                lanes.append(x)
                continue
            data = unwrap(x)
            ndim = np.ndim(data)
            if not -ndim <= axis < ndim:
                raise located(
                    ArgumentError,
                    f"vmap: in_axes asks for axis {axis} of an argument of shape {np.shape(data)}",
                    "in_axes=None for an argument that is not mapped over",
                )
            length = np.shape(data)[axis]
            if size is not None and length != size:
                raise located(
                    ShapeError,
                    f"vmap: mapped axes differ in length: {size} and {length}",
                    "map over axes of one length; in_axes=None for the others",
                )
            size = length
            lanes.append(first_lane(data, axis))
        if size is None:
            raise located(ArgumentError, "vmap: no argument is mapped over", "give one of in_axes an axis")
        args, kwargs = unflatten(tree, lanes)
        return args, kwargs, (tuple(a if a is None else a % np.ndim(unwrap(x)) for a, x in zip(axes, leaves)), size)

    def apply(self, program, context):
        axes, size = context
        graph, n = program.graph, program.leaves
        flags = [a is not None for a in axes] + [False] * (len(graph.params) - n)
        batched, on = batch(graph, flags, size)
        out_axes = spread_axes(self.out_axes, program.out_tree, "out_axes")
        b = Builder(batched.name)
        inputs = []
        for i, p in enumerate(batched.params):
            axis = axes[i] if i < n else None
            if axis is None or axis == 0:
                inputs.append(b.param(p.type, p.name))
            else:
                perm = move_axis(p.ndim, 0, axis)  # where the user has the axis
                outside = b.param(p.type.with_shape(tuple(p.shape[a] for a in perm)), p.name)
                inputs.append(b.transpose(outside, perm=move_axis(p.ndim, axis, 0)))
        results = []
        for y, flag, axis in zip(inline(b, batched, inputs), on, out_axes):
            if axis is None:
                if flag:
                    raise located(
                        ArgumentError,
                        "vmap: out_axes is None for a result that depends on a mapped argument",
                        "give it an axis",
                    )
            else:
                y = y if flag else b.broadcast_to(y, (size, *y.shape))
                y = b.transpose(y, perm=move_axis(y.ndim, 0, axis % y.ndim))
            results.append(y)
        return program.replace(b.finish(results))


def freeze(axes):
    return tuple(freeze(a) for a in axes) if isinstance(axes, (list, tuple)) else axes


def move_axis(ndim, source, target):
    order = [a for a in range(ndim) if a != source]
    order.insert(target, source)
    return tuple(order)


def spread_axes(axes, tree: Tree, what) -> list:
    """One axis per leaf: an int or None stands for a whole subtree."""
    if axes is None or is_a(axes, (int, np.integer)):
        return [axes if axes is None else int(axes)] * tree.count
    if isinstance(axes, dict) and tree.kind == "dict" and set(axes) == set(tree.data[1]):
        return [a for key, c in zip(tree.data[1], tree.children) for a in spread_axes(axes[key], c, what)]
    if not isinstance(axes, tuple) or len(axes) != len(tree.children) or tree.kind == "leaf":
        count = len(tree.children) or 1
        raise located(
            ArgumentError,
            f"vmap: {what}={axes!r} does not fit {count} argument{'s' if count != 1 else ''}",
            f"{what} is an int, None, or one of them per argument",
        )
    return [a for item, c in zip(axes, tree.children) for a in spread_axes(item, c, what)]


def first_lane(data, axis):
    """The values that the inner function is recorded at: the first lane; zeros if there is none."""
    data = np.asarray(data)
    if data.shape[axis] == 0:
        return np.zeros(data.shape[:axis] + data.shape[axis + 1 :], data.dtype)
    return np.take(data, 0, axis)
