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
from typing import NamedTuple

import numpy as np

from . import op as _op
from .graph import EMPTY, Constant, Graph, Node, Value
from .types import tensor

_NUMBER = (int, float, bool, np.generic)
_VALUES = frozenset((Value, Constant))
SAME = object()  # the two operands are one value
_inferred: dict = {}  # (operation, operand types) -> result types, of operations without attributes; emptied when full
_cases: dict = {}  # (operation, derived, heads of the operands: operation, Constant or None) -> _Case; emptied when full
REMEMBERED = 4096


class Builder:
    """Builds one Graph. Every operation of the table is also a method: `b.mul(x, 2.0)`, `b.reduce_sum(x, axes=(0,))`."""

    def __init__(self, name="main", simplify=True):
        self.name, self.simplify = name, simplify
        self.params, self.nodes = [], []
        self.loc, self.tag = None, ""
        self._seen, self._constants, self._numbers = {}, {}, {}

    # ---- values -------------------------------------------------------------------------------------------------
    def param(self, type, name=None) -> Value:
        """A new parameter."""
        value = Value(type, None, len(self.params), name)
        self.params.append(value)
        return value

    def params_of(self, params) -> dict:
        """Parameters of another graph as the next ones of this: the same Values where they have the same position
        (so that nodes can be kept). A dict from theirs to ours."""
        env = {}
        for p in params:
            if p.index == len(self.params):
                self.params.append(p)
                env[p] = p
            else:
                env[p] = self.param(p.type, p.name)
        return env

    def constant(self, data, dtype) -> Constant:
        """A scalar constant, rounded to its dtype."""
        made = self._numbers.get((data, dtype, data.__class__)) if data else None
        if made is None:
            type = tensor(dtype)
            with np.errstate(over="ignore"):
                rounded = type.dtype.type(data).item()
            made = Constant(type, rounded)
            made = self._constants.setdefault(made.key, made)
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
        operands = list(operands)
        heads = [op, bool(self.tag)]
        for i, o in enumerate(operands):
            node = o.node
            if node is not None:
                heads.append(node.op)
            elif type(o) is Constant:
                operands[i] = self._constants.setdefault(o.key, o)
                heads.append(Constant)
            else:
                heads.append(None)
        if not self.simplify:
            return self._append(op, operands, attrs, regions, False).results
        if len(operands) == 2 and operands[0] is operands[1]:
            heads.append(SAME)
        heads = tuple(heads)
        case = _cases.get(heads)
        if case is None:
            case = _remember(_cases, heads, _case(*heads))
        if case.unusual:
            if case.stretched and _strip_broadcasts(operands):
                return self.apply(op, operands, attrs)
            if case.folds:
                return (self._fold(op, operands, attrs),)
            if case.swapped:
                operands.reverse()
        for rule in case.rules:
            found = rule(self, attrs, *operands)
            if found is not None:
                return (found,)
        key = _number(op, operands, attrs, regions)
        node = self._seen.get(key)
        if node is None:
            node = self._seen[key] = self._append(op, operands, attrs, regions, True)
        return node.results

    def keep(self, node, operands) -> tuple[Value, ...]:
        """`apply` for a node of another graph, with its location and tag: the node itself where nothing is new.

        Nodes are never mutated, so graphs may share them. A node that a Builder made has no rewrite rule left
        that its operands match; with the same operands it is only looked up. That is most of what transforms copy.
        """
        if node.normal and self.simplify:
            for o, own in zip(operands, node.operands):
                if o is not own or (type(o) is Constant and self._constants.setdefault(o.key, o) is not o):
                    break
            else:
                known = self._seen.setdefault(_number(node.op, operands, node.attrs, node.regions), node)
                if known is node:
                    self.nodes.append(node)
                return known.results
        self.at(node)
        return self.apply(node.op, operands, node.attrs, node.regions)

    def _append(self, op, operands, attrs, regions, normal):
        types = _infer(op, operands, attrs, regions)
        node = Node(op, tuple(operands), attrs, types, regions, self.loc, self.tag, normal)
        self.nodes.append(node)
        return node

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
        return self.mul(self.kept_finite(partial, ct), ct)

    def kept_finite(self, x, factor) -> Value:
        """x, but 0 where the factor is zero and x infinite or NaN."""
        if x.node is not None and x.node.op.name == "broadcast" and x.shape == factor.shape:
            x = x.node.operands[0]  # fewer to look at
        dead = self.and_(self.eq(factor, 0.0), self.not_(self.isfinite(x)))
        return self.select(dead, 0.0, x)

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
    return _remember(_inferred, key, op.infer(list(key[1:]), attrs)) if types is None else types


def _remember(table, key, value):
    if len(table) >= REMEMBERED:
        table.clear()
    table[key] = value
    return value


class _Case(NamedTuple):
    """What can be done about an operation on operands with these heads, before one looks at them."""

    unusual: bool  # one of the next three
    stretched: bool  # an operand is broadcast
    folds: bool  # all are constants
    swapped: bool  # the constant goes last
    rules: list  # the rewrite rules that may match


def _case(op, derived, *heads):
    same = heads[-1:] == (SAME,)
    heads = list(heads[:-1] if same else heads)
    elementwise = op.kind == "elementwise"
    folds = elementwise and bool(heads) and all([head is Constant for head in heads])
    swapped = elementwise and not folds and op.commutative and heads[0] is Constant
    names = {"constant" if head is Constant else head.name for head in heads if head is not None}
    stretched = elementwise and "broadcast" in names
    if same:
        names.add("same")
    rules = [
        rule.apply
        for rule in op.rules
        if (rule.exact or rule.stable or derived) and (not rule.heads or not names.isdisjoint(rule.heads))
    ]
    return _Case(stretched or folds or swapped, stretched, folds, swapped, rules)


def _number(op, operands, attrs, regions):
    """Equal for equal nodes. Regions count by identity: equal ones that are different objects are merely not merged."""
    if not operands and not regions:
        return (op, repr(attrs))  # a table of numbers: 0.0 is not -0.0
    if attrs or regions:
        ids = [id(o) for o in operands]
        if op.commutative:
            ids.sort()
        return (op, *ids, *attrs.items(), *regions)
    if len(operands) == 2:
        a, z = id(operands[0]), id(operands[1])
        return (op, z, a) if op.commutative and z < a else (op, a, z)
    return (op, *[id(o) for o in operands])


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


def guards(node) -> bool:
    """Whether a node is a guard or holds one, and so stays though nothing reads what it makes."""
    return node.op.kind == "guard" or any([guards(n) for region in node.regions for n in region.nodes])


def drop_dead(graph: Graph) -> Graph:
    """The graph without nodes that neither a result nor a guard depends on. One backward sweep."""
    live = set(graph.results)
    kept = []
    for node in reversed(graph.nodes):
        if any([r in live for r in node.results]) or guards(node):
            kept.append(node)
            live.update(node.operands)
    kept.reverse()
    return graph if len(kept) == len(graph.nodes) else Graph(graph.name, graph.params, kept, graph.results)
