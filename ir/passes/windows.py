"""Windows that move evenly over an array, one step per iteration of a loop, as one array of rows, and back.

In: a Builder, the array, where the first window starts, how far it moves along each axis, a slice (or update) node that is
one of the iterations, how many there are. Out: values [iterations, *window], None where there is no such view; for
`written` the array with all the windows replaced. Nothing is copied but where windows overlap.
"""

from __future__ import annotations

from math import prod

WIDEST = 16  # elements of an overlapping window along the axis it moves along


def stacked(b, stack, first, count):
    """Rows first to first + count - 1 of a stack."""
    if first == 0 and count == stack.shape[0]:
        return stack
    rest = stack.ndim - 1
    return b.slice(stack, start=(first,) + (0,) * rest, stop=(first + count, *stack.shape[1:]), step=(1,) * (rest + 1))


def moved(node, start) -> dict:
    """The attributes of a slice or update elsewhere."""
    stop = tuple([a + z - s for a, z, s in zip(start, node.attrs["stop"], node.attrs["start"])])
    return {**node.attrs, "start": tuple(start), "stop": stop}


def moving_rows(b, x, start, step, node, count):
    """[count, *window]: the windows of slices of x."""
    shape, moving = node.results[0].shape, [a for a, k in enumerate(step) if k]
    if len(moving) > 1:
        if any([shape[a] != 1 for a in range(x.ndim)]):
            return None
        strides = [prod(x.shape[a + 1 :]) for a in range(x.ndim)]
        first, by = sum([s * k for s, k in zip(start, strides)]), sum([s * k for s, k in zip(step, strides)])
        if by == 0:
            return None
        flat = _evenly(b, b.reshape_to(x, (x.type.size,)), 0, first, by, count, ((0,), (1,), (1,)))
        return b.reshape_to(flat, (count, *shape))
    (axis,) = moving
    stop = [a + z - s for a, z, s in zip(start, node.attrs["stop"], node.attrs["start"])]
    window = start, tuple(stop), node.attrs["step"]
    width = shape[axis]
    if width == 1:
        lined = _evenly(b, x, axis, start[axis], step[axis], count, window)
        return b.reshape_to(_first(b, lined, axis), (count, *shape))
    if width > WIDEST or node.attrs["step"][axis] != 1:
        return None
    parts = [_evenly(b, x, axis, start[axis] + i, step[axis], count, window) for i in range(width)]
    parts = [_first(b, p, axis) for p in parts]  # [count, other axes of the window]
    others = [n for a, n in enumerate(shape) if a != axis]
    parts = [b.reshape_to(p, (count, *others[:axis], 1, *others[axis:])) for p in parts]
    return b.concatenate(*parts, axis=axis + 1)


def _evenly(b, x, axis, first, by, count, window):
    """The elements first, first + by, ... along an axis, `count` of them; the window along the other axes."""
    start, stop, step = map(list, window)
    low = first if by > 0 else first + (count - 1) * by
    start[axis], stop[axis], step[axis] = low, low + (count - 1) * abs(by) + 1, abs(by)
    found = b.slice(x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    return found if by > 0 else b.flip(found, axes=(axis,))


def _first(b, x, axis):
    """An axis made the first."""
    return b.transpose(x, perm=(axis, *[a for a in range(x.ndim) if a != axis])) if axis else x


def written(b, x, stack, start, step, node, count):
    """x with the windows, one element long on the one axis that they move along, replaced by the rows of the stack."""
    shape = node.operands[1].shape
    ((axis, by),) = [(a, k) for a, k in enumerate(step) if k]
    others = [n for a, n in enumerate(shape) if a != axis]
    part = b.transpose(b.reshape_to(stack, (count, *others)), perm=(*range(1, axis + 1), 0, *range(axis + 1, len(shape))))
    stop = [a + z - s for a, z, s in zip(start, node.attrs["stop"], node.attrs["start"])]
    low, stride = list(start), list(node.attrs["step"])
    low[axis] = start[axis] if by > 0 else start[axis] + (count - 1) * by
    stop[axis], stride[axis] = low[axis] + (count - 1) * abs(by) + 1, abs(by)
    part = part if by > 0 else b.flip(part, axes=(axis,))
    return b.update(x, part, start=tuple(low), stop=tuple(stop), step=tuple(stride))
