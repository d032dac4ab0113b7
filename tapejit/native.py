"""What machine code must find in the arguments of a hot call, and what it builds around the results.

In: a Path (dispatch.py), the structure and leaves of a call that took it, the given results (into.py) if there are any. Out:
`entry(...)`, a codegen/native.py Spec, or None where some argument, result or closed-over value is of a kind that only
Python can check.
"""

from __future__ import annotations

import functools

import numpy as np

from .array import Array
from .tree import LEAF, ONE_LEAF, assemble


def entry(path, tree, leaves, readers, target):
    """The Spec of a path for arguments of this structure and such leaves, or None.

    readers: the Environments whose contents decide the path. target: an into.Target, passed before the arguments, or None.
    """
    from tapejit.codegen import native

    if path.code is None or not native.supported():
        return None
    program = path.program
    reads = [r.identities() for r in readers]
    positional, keyword = tree.children
    sources = [x._data if type(x) is Array else x for x in path.sources]  # an Array does not change, a Variable may
    inputs = zip(range(len(program.graph.params)), (*leaves, *sources), program.graph.params)
    arguments = []
    if target is not None:
        target.look(program)
        results = zip(range(program.out_tree.count), target.arrays, program.graph.results)
        arguments.append(_given(program.out_tree, target.tree, results, native))
    arguments += [_argument(t, inputs, native) for t in (*positional.children, *keyword.children)]
    captured = [_argument(ONE_LEAF, inputs, native) for _ in sources]
    if None in reads or None in arguments or any([a is None or a.kind != native.Kind.ARRAY for a in captured]):
        return None
    structure = _structure(program.out_tree, iter(range(program.out_tree.count)), native)
    captured = list(zip(sources, captured))
    return native.spec(path.code, arguments, keyword.data[1], captured, sum(reads, []), structure, path.counters)


def _argument(tree, inputs, native):
    """What an argument must be, or None if machine code cannot tell. inputs: (number, leaf, parameter) still to come."""
    if tree.kind is LEAF:
        slot, x, param = next(inputs)
        return _leaf(type(x), x, slot, param.type, native)
    return _nest(tree, [_argument(c, inputs, native) for c in tree.children], native)


def _leaf(cls, x, slot, want, native):
    if cls is np.ndarray:
        same = (x.dtype, x.shape) == (want.dtype, want.shape)
        return native.Argument(native.Kind.ARRAY, cls, slot, want) if same else None
    if want.ndim:
        return None
    if cls is int:
        kind = {np.dtype(np.int64): native.Kind.INT, np.dtype(np.float64): native.Kind.WHOLE}.get(want.dtype)
        return None if kind is None else native.Argument(kind, cls, slot)
    known = cls in native.NUMBERS and np.dtype(cls) == want.dtype
    return native.Argument(native.Kind.NUMBER, cls, slot) if known else None


def _nest(tree, items, native):
    """A static, or a container of what `items` must be."""
    kind = tree.kind
    if kind == "static":
        return native.Argument(native.Kind.STATIC, data=tree.data[1])
    if None in items:
        return None
    items = tuple(items)
    if kind == "dict":
        cls, keys = tree.data
        return native.Argument(native.Kind.DICT, cls, data=keys, children=items) if cls is dict else None
    if kind == "dataclass":
        return native.Argument(native.Kind.FIELDS, tree.data[0], data=tree.data[1], children=items)
    cls = {"tuple": tuple, "list": list}.get(kind, tree.data)
    if cls.__iter__ is not list.__iter__ and cls.__iter__ is not tuple.__iter__:
        return None
    return native.Argument(native.Kind.LIST if cls is list else native.Kind.TUPLE, cls, children=items)


def _given(want, has, results, native):
    """What `out`, now of the structure `has`, must be. results: (number, array or None, result) still to come."""
    if has.kind == "static" and has.data[1] is None:  # new ones are wanted
        for _ in range(want.count):
            next(results)
    elif want.kind is LEAF:
        slot, array, result = next(results)
        return native.Argument(native.Kind.OUTPUT, np.ndarray, slot, result.type) if type(array) is np.ndarray else None
    return _nest(has, [_given(*pair, results, native) for pair in zip(want.children, has.children)], native)


def _structure(tree, numbers, native):
    """The nest of results as machine code builds it."""
    if tree.kind == "leaf":
        return (native.Step.LEAF, next(numbers), (), ())
    if tree.kind == "static":
        return (native.Step.CONSTANT, tree.data[1], (), ())
    items = [_structure(c, numbers, native) for c in tree.children]
    if tree.kind == "dict" and tree.data[0] is dict:
        return (native.Step.DICT, None, items, tree.data[1])
    if tree.kind in ("tuple", "list"):
        return (native.Step.TUPLE if tree.kind == "tuple" else native.Step.LIST, None, items, ())
    return (native.Step.CALL, functools.partial(assemble, tree), items, ())
