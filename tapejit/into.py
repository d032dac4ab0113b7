"""Results in arrays that the caller gives: what `Function.into(out, *args)` needs to know of `out`.

In: `out`, a nest structured as the function's result, with an ndarray for each array, or None where a new one is wanted
(for a single array or a whole part of the nest). Out: `Target`, which tells compiled code which arrays it may write
directly, and fills the rest.

A program's kernels take for granted that what they write is nobody else's memory. So an array is written directly if it is
C-contiguous, aligned, and shares no memory with an argument or a captured array; else the result is made beside it and
copied, which is also what makes `f.into(x, x)` right. Two given arrays that share memory are an error, since one of the
results would be lost. A path that turns out not to be the one taken (a guard saw another value) may want other arrays: so
whether `out` fits is decided for each path, and is an error only for the one that returns.
"""

from __future__ import annotations

import itertools

import numpy as np

from .errors import ArgumentError, located
from .tree import LEAF, Tree, flatten, paths


class Target:
    """`out` of one call. name: of the function, for errors."""

    def __init__(self, name, out):
        self.name = name
        self.leaves, self.tree = flatten(out)
        self.program = self.complaint = None
        self.arrays: list = []  # for each result of `program` the given array or None

    def direct(self, program, inputs):
        """Per result the array that may be written while the inputs are read, or None; None if `out` does not fit."""
        self.look(program)
        if self.complaint is not None:
            return None
        return [a if a is not None and _plain(a) and not _meets(a, inputs) else None for a in self.arrays]

    def fill(self, program, results, values) -> list:
        """`values`, what the call returns, with the given arrays in place; those that `results` are not get a copy."""
        self.look(program)
        if self.complaint is not None:
            raise located(ArgumentError, f"{self.name}.into: {self.complaint[0]}", self.complaint[1])
        for given, result in zip(self.arrays, results):
            if given is not None and given is not result:
                np.copyto(given, result)
        return [value if given is None else given for given, value in zip(self.arrays, values)]

    def look(self, program):
        """Set `arrays` and `complaint` for this program's results."""
        if self.program is program:
            return
        self.program, self.complaint = program, None
        self.arrays = self._matched(program.out_tree, self.tree, iter(self.leaves))
        if self.complaint is None:
            names, types = paths(program.out_tree, "out"), [r.type for r in program.graph.results]
            given = [(n, a, t) for n, a, t in zip(names, self.arrays, types) if a is not None]
            pairs = itertools.combinations(given, 2)
            complaints = itertools.chain(itertools.starmap(_unfit, given), itertools.starmap(_shared, pairs))
            self.complaint = next(filter(None, complaints), None)

    def _matched(self, want, has, leaves) -> list:
        """The given array, or None, for each leaf of the structure `want`."""
        if has.kind == "static" and has.data[1] is None:
            return [None] * want.count
        if want.kind is LEAF and has.kind is LEAF:
            return [next(leaves)]
        if (want.kind, want.data, len(want.children)) != (has.kind, has.data, len(has.children)):
            self.complaint = (
                f"`out` is {_described(self.tree)}, the result is {_described(self.program.out_tree)}",
                "give a nest like the result, an ndarray for each array, None for what is to be new",
            )
            return []
        return [a for pair in zip(want.children, has.children) for a in self._matched(*pair, leaves)]


def _plain(array) -> bool:
    """Whether compiled code may write it: it is laid out as a new array is."""
    return array.flags.c_contiguous and array.flags.aligned


def _meets(array, others) -> bool:
    return any([np.may_share_memory(array, x) for x in others])


def _shared(one, other):
    """The complaint about two given arrays in the same memory, or None."""
    (a, x, _), (b, y, _) = one, other
    try:
        meet = np.may_share_memory(x, y) and np.shares_memory(x, y, max_work=1 << 20)
    except np.exceptions.TooHardError:
        meet = True
    return (f"{a} and {b} share memory, so one result would overwrite the other", "give separate arrays") if meet else None


def _unfit(name, array, type):
    """The complaint about one given array, or None."""
    wanted = f"np.empty({type.shape}, np.{type.dtype})"
    if not isinstance(array, np.ndarray):
        return f"{name} is {array!r:.40} ({array.__class__.__name__}), not an ndarray", f"{wanted}, or None for a new one"
    if (array.dtype, array.shape) != (type.dtype, type.shape):
        return f"{name} is {array.dtype} of shape {array.shape}, the result {type.dtype} of shape {type.shape}", wanted
    if not array.flags.writeable:
        return f"{name} is read-only", f"{wanted}, or a copy: {name}.copy()"
    if _folded(array):
        return f"{name} has several elements in the same place (strides {array.strides})", wanted
    return None


def _folded(array) -> bool:
    """Whether elements may share memory with each other, as in a broadcast view."""
    extent = array.itemsize
    for stride, length in sorted([(abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1]):
        if stride < extent:
            return True
        extent += stride * (length - 1)
    return False


def _described(tree: Tree) -> str:
    """A nest's structure in a line: (*, {'w': *, 'b': *}), an array being *."""
    if tree.kind is LEAF:
        return "*"
    if tree.kind == "static":
        return repr(tree.data[1])
    inner = [_described(c) for c in tree.children]
    if tree.kind == "dict":
        return "{" + ", ".join([f"{k!r}: {c}" for k, c in zip(tree.data[1], inner)]) + "}"
    items = ", ".join(inner)
    if tree.kind == "list":
        return f"[{items}]"
    if tree.kind == "tuple":
        return f"({items},)" if len(inner) == 1 else f"({items})"
    cls = tree.data if tree.kind == "namedtuple" else tree.data[0]
    return f"{cls.__name__}({items})"
