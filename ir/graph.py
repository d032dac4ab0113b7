"""The SSA program: `Value`, `Constant`, `Node`, `Graph`.

A Graph has parameters, nodes in execution order, and results. A Node applies an operation (`op.Op`) to operand
values, with attributes and (for region operations) nested Graphs, and defines result values. A Value is defined
once: by a node, or as a parameter, or it is a scalar `Constant` (printed inline). Nothing is mutated after the graph
is built: a transform makes a new Graph. Order is a plain list, so every walk is a loop: no recursion over depth.

Locations are kept lazily: `node.loc` is `(code object, instruction offset)`, or `(file name, line)` once parsed or
merged; `node.tag` says which transforms made the node ("" recorded from user code, "vjp", "jvp", "vjp.vjp", ...).
"""

from __future__ import annotations

import struct

from .hashing import blake2b
from .types import Type

EMPTY: dict = {}


class Value:
    """One SSA value. `node` is None for a parameter, `index` its position among the node's results or parameters."""

    __slots__ = ("type", "node", "index", "name", "__weakref__")

    def __init__(self, type: Type, node=None, index=0, name=None):
        self.type, self.node, self.index, self.name = type, node, index, name

    @property
    def shape(self):
        return self.type.shape

    @property
    def dtype(self):
        return self.type.dtype

    @property
    def ndim(self):
        return self.type.ndim

    def __repr__(self):
        what = self.node.op.name if self.node else self.name or f"arg{self.index}"
        return f"<Value {what} : {self.type}>"


class Constant(Value):
    """A scalar known when the program is built. `data` is a Python float, int or bool already rounded to its type."""

    __slots__ = ("data", "key")

    def __init__(self, type: Type, data):
        super().__init__(type)
        self.data = data
        # Identity by bits, so that 0.0 and -0.0 differ and NaN equals itself.
        self.key = (type, struct.pack("<d", data) if isinstance(data, float) else data)

    def __repr__(self):
        return f"<Constant {self.data} : {self.type}>"


class Node:
    """One operation applied. `attrs` is never mutated (nodes share it); `regions` are Graphs.

    normal: made by a Builder, so that no rewrite rule matches it any more.
    """

    __slots__ = ("op", "operands", "attrs", "results", "regions", "loc", "tag", "normal")

    def __init__(self, op, operands, attrs, types, regions=(), loc=None, tag="", normal=False):
        self.op, self.operands, self.attrs = op, operands, attrs
        self.regions, self.loc, self.tag, self.normal = regions, loc, tag, normal
        if len(types) == 1:
            self.results = (Value(types[0], self),)
        else:
            self.results = tuple([Value(type, self, i) for i, type in enumerate(types)])

    @property
    def result(self) -> Value:
        return self.results[0]

    def __repr__(self):
        return f"<Node {self.op.name} {' '.join(str(o.type) for o in self.operands)} -> {self.results}>"


class Graph:
    """A program: `params` and `results` are tuples of Values, `nodes` a list in execution order."""

    __slots__ = ("name", "params", "nodes", "results", "_digest", "__weakref__")

    def __init__(self, name, params, nodes, results):
        self.name, self.params, self.nodes, self.results = name, tuple(params), nodes, tuple(results)
        self._digest = None

    def __len__(self):
        return len(self.nodes)

    def __str__(self):
        from .text import show

        return show(self)

    @property
    def digest(self) -> str:
        """Content hash: equal for graphs that compute the same in the same order; names and locations do not count."""
        if self._digest is None:
            self._digest = _digest(self)
        return self._digest

    def same(self, other: Graph) -> bool:
        """Whether two graphs have equal content."""
        return self.digest == other.digest


def _digest(graph: Graph) -> str:
    numbers = {value: i for i, value in enumerate(graph.params)}
    hasher = blake2b(digest_size=16)
    write = hasher.update

    def ref(value):
        number = numbers.get(value)
        return f"%{number}" if number is not None else f"#{value.key!r}"

    write("|".join(p.type.text for p in graph.params).encode())
    for node in graph.nodes:
        for result in node.results:
            numbers[result] = len(numbers)
        line = f"\n{node.op.name}({','.join([ref(o) for o in node.operands])}){sorted(node.attrs.items())!r}"
        write(line.encode())
        write("|".join([r.type.text for r in node.results]).encode())
        for region in node.regions:
            write(region.digest.encode())
    write(("\n=" + ",".join([ref(r) for r in graph.results])).encode())
    return hasher.hexdigest()
