"""Builder: makes a Graph one operation at a time.

In: operations applied to Values (or Python numbers, which become constants of the other operands' type). Out: a
Graph. On the way each node's type is inferred from the table, constants fold, the operation's own rewrite rules
apply, and equal nodes get one value (value numbering, local to this builder and gone with it). Because every
transform rebuilds its graph through a Builder, simplification is not a separate fixed point: it is what building
does, once per node, in time linear in the nodes.

`at(node)` sets the location and tag that new nodes carry. Nodes made by a transform ("derived", their tag is not
empty) may also be rewritten by inexact rules: derivatives have no evaluation order of the user's to keep.
"""

from __future__ import annotations

import math

import numpy as np

from . import op as _op
from .graph import EMPTY, Constant, Graph, Node, Value
from .types import tensor

_NUMBER = (int, float, bool, np.generic)
_VALUES = frozenset((Value, Constant))
_inferred: dict = {}  # (operation, operand types) -> result types, of operations without attributes; emptied when full
INFERRED = 4096
_applicable: dict = {}  # (operation, derived, heads of the operands) -> the rewrite rules that may match


class Builder:
    """Builds one Graph. Every operation of the table is also a method: `b.mul(x, 2.0)`, `b.reduce_sum(x, axes=(0,))`."""

    def __init__(self, name="main", simplify=True):
        self.name, self.simplify = name, simplify
        self.params, self.nodes = [], []
        self.loc, self.tag = None, ""
        self._seen, self._constants, self._numbers = {}, {}, {}

    # ---- values -------------------------------------------------------------------------------------------------
    def param(self, type, name=None) -> Value:
        value = Value(type, None, len(self.params), name)
        self.params.append(value)
        return value

    def constant(self, data, dtype) -> Constant:
        """A scalar constant, rounded to its dtype."""
        made = self._numbers.get((data, dtype, data.__class__)) if data else None
        if made is None:
            type = tensor(dtype)
            with np.errstate(over="ignore"):
                rounded = type.dtype.type(data).item()
            made = self._intern(Constant(type, rounded))
            if data:  # zeros of both signs are equal as dictionary keys
                self._numbers[data, dtype, data.__class__] = made
        return made

    def full(self, number, type) -> Value:
        """A number in every element of a value of this type."""
        return self.broadcast_to(self.constant(number, type.dtype), type.shape)

    def zeros(self, type) -> Value:
        return self.full(0, type)

    # ---- nodes --------------------------------------------------------------------------------------------------
    def at(self, node, step="") -> None:
        """Nodes made from now on stem from `node`; `step` names the transform that makes them ("vjp")."""
        self.loc = node.loc
        self.tag = f"{step}.{node.tag}" if step and node.tag and len(node.tag) < 40 else step or node.tag

    def apply(self, op, operands, attrs=EMPTY, regions=()) -> tuple[Value, ...]:
        """Apply an operation; the result values of the node, or of an equal one made before."""
        operands = [self._intern(o) if type(o) is Constant else o for o in operands]
        if self.simplify:
            found = self._simplified(op, operands, attrs)
            if found is not None:
                return found
            # Regions count by identity: equal ones that are different objects are merely not merged.
            ids = [id(o) for o in operands]
            if op.commutative:
                ids.sort()
            key = (op, *ids, *attrs.items(), *regions) if attrs or regions else (op, *ids)
            node = self._seen.get(key)
            if node is not None:
                return node.results
        node = Node(op, tuple(operands), attrs, _infer(op, operands, attrs, regions), regions, self.loc, self.tag)
        self.nodes.append(node)
        if self.simplify:
            self._seen[key] = node
        return node.results

    def _simplified(self, op, operands, attrs):
        """The results if a rewrite rule or folding yields them, else None; `operands` is brought into normal form."""
        heads = [op, bool(self.tag)]
        for o in operands:
            node = o.node
            heads.append(node.op.name if node is not None else "constant" if type(o) is Constant else "")
        if op.kind == "elementwise":
            if "broadcast" in heads and _strip_broadcasts(operands):
                return self.apply(op, operands, attrs)
            if "constant" in heads:
                if all([type(o) is Constant for o in operands]):
                    return (self._fold(op, operands, attrs),)
                if op.commutative and heads[2] == "constant":
                    operands.reverse()
                    heads[2:] = heads[3], heads[2]
        if len(operands) == 2 and operands[0] is operands[1]:
            heads.append("same")
        heads = tuple(heads)
        rules = _applicable.get(heads)
        if rules is None:
            rules = _applicable[heads] = [
                rule.apply
                for rule in op.rules
                if (rule.exact or self.tag) and (not rule.heads or not set(heads).isdisjoint(rule.heads))
            ]
        for rule in rules:
            found = rule(self, attrs, *operands)
            if found is not None:
                return (found,)
        return None

    def _intern(self, constant):
        return self._constants.setdefault(constant.key, constant)

    def _fold(self, op, operands, attrs):
        with np.errstate(all="ignore"):
            (out,) = op.evaluate(*[o.dtype.type(o.data) for o in operands], **attrs)
        return self.constant(out.item(), out.dtype)  # np.where gives an array

    def __getattr__(self, name):
        op = _op.TABLE.get(name)
        if op is None:
            raise AttributeError(f"no operation named {name!r} in the table")

        def method(*operands, **attrs):
            results = self.apply(op, self._values(op, operands), attrs)
            return results[0] if len(results) == 1 else results

        method.__name__ = name
        self.__dict__[name] = method
        return method

    def _values(self, op, operands):
        """Numbers among the operands become constants of the first value's type (for select: of the branches')."""
        if _VALUES.issuperset(map(type, operands)):
            return operands
        typed = [o for o in operands[1 if op.name == "select" else 0 :] if isinstance(o, Value)]
        if not typed:
            raise TypeError(f"{op.name}: only numbers given; use Builder.constant to say their type")
        return [self.constant(o, typed[0].dtype) if isinstance(o, _NUMBER) else o for o in operands]

    # ---- idioms of derivative rules -----------------------------------------------------------------------------
    def scale(self, partial, value) -> Value:
        """partial * value, where partial may be the number 1 or -1."""
        if isinstance(partial, _NUMBER):
            if partial == 1:
                return value
            if partial == -1:
                return self.neg(value)
        return self.mul(partial, value)

    def scale_strongly(self, partial, ct) -> Value:
        """partial * ct, but 0 where ct is zero and partial infinite or NaN.

        The partial is masked, not the product: where it is finite the product stays linear in ct, and its own
        derivative right where ct happens to be zero.
        """
        dead = self.and_(self.eq(ct, 0.0), self.not_(self.isfinite(partial)))
        return self.mul(self.select(dead, 0.0, partial), ct)

    def accumulate(self, total, term):
        """total + term, where None is a symbolic zero."""
        if total is None:
            return term
        return total if term is None else self.add(total, term)

    def broadcast_to(self, value, shape) -> Value:
        return value if value.shape == shape else self.broadcast(value, shape=tuple(shape))

    def reshape_to(self, value, shape) -> Value:
        return value if value.shape == shape else self.reshape(value, shape=tuple(shape))

    def cast(self, value, dtype) -> Value:
        return value if value.dtype == dtype else self.convert(value, dtype=np.dtype(dtype))

    def sum_to(self, value, shape) -> Value:
        """Undo a broadcast: sum over the axes in which `shape` was stretched (the transpose of broadcast)."""
        if value.shape == shape:
            return value
        lead = value.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(
            lead + i for i, n in enumerate(shape) if n == 1 and value.shape[lead + i] != 1
        )
        if axes:
            value = self.reduce_sum(value, axes=axes)
        elif math.prod(shape) != value.type.size:
            raise ValueError(f"{value.type} is no broadcast of shape {shape}")
        return self.reshape_to(value, tuple(shape))

    def finish(self, results) -> Graph:
        """The graph with these results; nodes that no result and no guard needs are dropped."""
        graph = Graph(self.name, self.params, self.nodes, results)
        return drop_dead(graph) if self.simplify else graph


def _infer(op, operands, attrs, regions):
    if regions:
        return op.infer([o.type for o in operands], attrs, regions)
    if attrs:
        return op.infer([o.type for o in operands], attrs)
    key = (op, *[o.type for o in operands])
    types = _inferred.get(key)
    if types is None:
        if len(_inferred) >= INFERRED:
            _inferred.clear()
        types = _inferred[key] = op.infer(list(key[1:]), attrs)
    return types


def _strip_broadcasts(operands) -> bool:
    """Replace broadcast(x) by x where the other operands already stretch the elementwise result to the same shape."""
    changed = False
    for i, operand in enumerate(operands):
        node = operand.node
        if node is not None and node.op.name == "broadcast":
            others = [o.shape for k, o in enumerate(operands) if k != i]
            source = node.operands[0]
            if operand.shape in others or (others and _stretches(operand.shape, [source.shape, *others])):
                operands[i] = source
                changed = True
    return changed


def _stretches(shape, shapes):
    return np.broadcast_shapes(*shapes) == np.broadcast_shapes(shape, *shapes)


def drop_dead(graph: Graph) -> Graph:
    """The graph without nodes that neither a result nor a guard depends on. One backward sweep."""
    live = set(graph.results)
    kept = []
    for node in reversed(graph.nodes):
        if node.op.kind == "guard" or any([r in live for r in node.results]):
            kept.append(node)
            live.update(node.operands)
    kept.reverse()
    return graph if len(kept) == len(graph.nodes) else Graph(graph.name, graph.params, kept, graph.results)
