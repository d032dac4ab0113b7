"""Nests of Python containers: flatten to leaves, rebuild.

In: any nest of dict, list, tuple, namedtuple, dataclass. Leaves are arrays and numbers (what can be differentiated); str,
None, bool, callables and other hashable objects are static: part of the structure, compared by value. Out: the leaves and
a `Tree`, hashable, which rebuilds the nest around other leaves.
"""

from __future__ import annotations

import dataclasses
import types

import numpy as np

from .array import Array, is_a
from .errors import ArgumentTypeError, located

LEAF = "leaf"


class Tree:
    """The structure of a nest. kind: leaf, static, tuple, list, dict, namedtuple, dataclass."""

    __slots__ = ("kind", "data", "children", "count", "_hash")

    def __init__(self, kind, data=None, children=()):
        self.kind, self.data, self.children = kind, data, children
        self.count = 1 if kind is LEAF else sum([c.count for c in children])
        self._hash = None

    def __eq__(self, other):
        if self is other:
            return True
        return (
            isinstance(other, Tree)
            and self.kind == other.kind
            and self.data == other.data
            and self.children == other.children
        )

    def __hash__(self):
        if self._hash is None:
            self._hash = hash((self.kind, self.data, self.children))
        return self._hash

    def __repr__(self):
        inner = ", ".join(map(repr, self.children))
        return "*" if self.kind is LEAF else f"{self.kind}({self.data!r}{', ' if inner else ''}{inner})"


ONE_LEAF = Tree(LEAF)
_NUMBERS = (int, float, np.ndarray, np.generic, Array, complex)


def is_leaf(x) -> bool:
    return is_a(x, _NUMBERS) and not is_a(x, bool)


def flatten(x, leaves: list | None = None) -> tuple[list, Tree]:
    """(leaves, tree) of a nest. Raises ArgumentTypeError for an unhashable static or a generator."""
    leaves = [] if leaves is None else leaves
    return leaves, _flatten(x, leaves)


def _flatten(x, leaves):
    cls = type(x)
    if cls is tuple:
        return Tree("tuple", None, tuple([_flatten(i, leaves) for i in x]))
    if is_leaf(x):
        leaves.append(x)
        return ONE_LEAF
    if cls is list:
        return Tree("list", None, tuple([_flatten(i, leaves) for i in x]))
    if isinstance(x, dict):
        return Tree("dict", (cls, tuple(x)), tuple([_flatten(i, leaves) for i in x.values()]))
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return Tree("namedtuple", cls, tuple([_flatten(i, leaves) for i in x]))
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        names = tuple(f.name for f in dataclasses.fields(x))
        return Tree("dataclass", (cls, names), tuple([_flatten(getattr(x, n), leaves) for n in names]))
    return Tree("static", static(x))


def static(x):
    """(type, value) of a static, so that 1 and True differ; refuses what cannot be compared by value."""
    if isinstance(x, types.GeneratorType):
        raise located(
            ArgumentTypeError,
            "an argument is a generator, which can be read only once and so cannot be recorded",
            "pass a list or an array: list(generator)",
        )
    try:
        hash(x)
    except TypeError:
        raise located(
            ArgumentTypeError,
            f"an argument of type {type(x).__name__} is neither an array nor a container of arrays, and is not "
            f"hashable, so it cannot be a static: {x!r:.80}",
            "pass a tuple or frozenset, a dataclass, or close over it",
        ) from None
    return (type(x), x)


def unflatten(tree: Tree, leaves):
    """The nest of this structure around these leaves."""
    return _unflatten(tree, iter(leaves))


def _unflatten(tree, leaves):
    kind = tree.kind
    if kind is LEAF:
        return next(leaves)
    if kind == "static":
        return tree.data[1]
    return assemble(tree, *[_unflatten(c, leaves) for c in tree.children])


def assemble(tree, *items):
    """The container of a tree's own kind around these items."""
    kind = tree.kind
    if kind == "tuple":
        return items
    if kind == "list":
        return list(items)
    if kind == "dict":
        cls, keys = tree.data
        return _dict(cls, keys, items)
    if kind == "namedtuple":
        return tree.data(*items)
    cls, names = tree.data
    out = object.__new__(cls)
    for name, item in zip(names, items):
        object.__setattr__(out, name, item)
    return out


def _dict(cls, keys, items):
    try:
        return cls(zip(keys, items))
    except TypeError:  # defaultdict and its like take a factory first
        return dict(zip(keys, items))


def map_leaves(function, x):
    """The nest with `function` applied to each leaf."""
    leaves, tree = flatten(x)
    return unflatten(tree, [function(leaf) for leaf in leaves])


def map_statics(function, tree: Tree) -> Tree:
    """The tree with `function` applied to each static; the tree itself if that changes none."""
    if tree.kind == "static":
        old = tree.data[1]
        new = function(old)
        return tree if new is old else Tree("static", (type(new), new))
    children = tuple([c if c.kind is LEAF else map_statics(function, c) for c in tree.children])
    if all([a is b for a, b in zip(children, tree.children)]):
        return tree
    return Tree(tree.kind, tree.data, children)


def paths(tree: Tree, prefix="") -> list[str]:
    """A readable name for each leaf, e.g. `params['w'][0]`; used to name parameters in dumps and errors."""
    if tree.kind is LEAF:
        return [prefix]
    if tree.kind == "static":
        return []
    if tree.kind == "dict":
        names = [f"{prefix}[{k!r}]" for k in tree.data[1]]
    elif tree.kind == "namedtuple":
        names = [f"{prefix}.{n}" for n in tree.data._fields]
    elif tree.kind == "dataclass":
        names = [f"{prefix}.{n}" for n in tree.data[1]]
    else:
        names = [f"{prefix}[{i}]" for i in range(len(tree.children))]
    return [p for name, child in zip(names, tree.children) for p in paths(child, name)]
