"""The operation record, the kinds, and the four ways to state a derivative.

An operation is one `Op`, whole: what it is called, what it accepts, how NumPy evaluates it, its derivative, how it is
batched, how a scalar of it is emitted, what rewrites hold for it, and where its tests sample. The constructors of a
kind (`ops/elementwise.py`, `ops/reduce.py`, ...) fill in what the kind decides once: type rule, batching, lowering.

Derivatives
    Partials        elementwise: one function per operand, `d(b, y, *xs, **attrs) -> Value | number | None`. Both modes follow.
    Linear          linear in the listed operands together (reshape, sum, concatenate): forward mode applies the
                    operation to the tangents; reverse mode calls `transpose(b, node, xs, ct, i) -> Value`.
    Multilinear     linear in each listed operand separately (dot): same `transpose`, forward mode is the product rule.
    Explicit        both rules by hand: `jvp(b, node, xs, ys, tangents)`, `vjp(b, node, xs, ys, cts, wanted)`.
    NONDIFFERENTIABLE   stated: derivative zero almost everywhere (comparisons, rounding) or integers.
In every rule `b` is a Builder, `node` the node being differentiated (attributes, types), xs/ys the operand and result
values in the graph under construction; rules emit only table operations and never look at numbers. A missing tangent
or cotangent is None and stands for a symbolic zero.

The Emitter protocol, against which `Op.emit(e, *scalars, **attrs)` is written, so that a record needs no LLVM: scalars are
opaque; Python numbers may stand for constants of the other operand's type.
    e.add sub mul div(x, y)   e.rem(x, y) C remainder      e.neg abs sqrt floor ceil trunc rint(x)
    e.fma(x, y, z)            e.minimum maximum(x, y)      NaN-propagating
    e.lt le gt ge eq ne(x, y) ordered, except ne: true on NaN    e.select(c, x, y)
    e.and_ or_ xor(x, y)      e.not_(x)                    e.shl shr(x, y)
    e.copysign(x, y)          e.signbit(x) -> bool         e.math(name, *xs) a function of codegen/vecmath
    e.cast(x, dtype)          e.dtype(x) -> np.dtype       e.const(number, dtype)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .graph import Value

KINDS = ("elementwise", "reduce", "movement", "indexing", "contract", "create", "library", "region", "guard")


UNUSED, NOT_TAKEN = 1, 2  # why a cotangent holds structural zeros, see Op.masks


class Derivative:
    """How an operation is differentiated; see the module docstring for the rules' signatures.

    joint: of an operation with regions, whose value is made together with what its derivative needs:
        push(b, node, xs, tangents) -> (results, their tangents)   in place of the node and its jvp
        forward(b, node, xs) -> results and more                   in place of the node, where vjp follows, which gets
                                                                   all of it as `ys`
        segments(node) -> Graph or None                            what to differentiate in its place
        is_diagonal(node, flags) -> bool                           whether it is elementwise in the operands flagged, see
                                                                   diagonal.py
    """

    differentiable = True
    needs_results = True
    joint = False

    def jvp(self, b, node, xs, ys, tangents):
        raise NotImplementedError

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        raise NotImplementedError


class Nondifferentiable(Derivative):
    """Stated: no derivative flows through (it is zero almost everywhere, or the operation is not on floats)."""

    differentiable = False

    def jvp(self, b, node, xs, ys, tangents):
        return (None,) * len(ys)

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        return (None,) * len(xs)


NONDIFFERENTIABLE = Nondifferentiable()


class Partials(Derivative):
    """Elementwise: partial derivatives, one per operand. None states that an operand has none.

    singular: a partial may be infinite or NaN at a point of the domain's border (sqrt at 0). Where the cotangent is
    an exact zero that a `where`, slice or gather put there, such a product is zero, not NaN (a strong zero).
    unbounded: a partial may be infinite elsewhere (exp of 1000, a factor that is infinite); the same, but only in the
    branch that a `where` did not take.
    """

    def __init__(self, *rules: Callable | None, singular=False, unbounded=False):
        self.rules, self.guarded = rules, UNUSED if singular else NOT_TAKEN if unbounded else math.inf

    def jvp(self, b, node, xs, ys, tangents):
        total = None
        for rule, tangent in zip(self.rules, tangents):
            if tangent is not None and rule is not None:
                partial = rule(b, ys[0], *xs, **node.attrs)
                if partial is not None:
                    total = b.accumulate(total, b.scale(partial, tangent))
        return (None if total is None else b.broadcast_to(total, ys[0].shape),)

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        (ct,) = cts
        out = []
        for rule, x, want in zip(self.rules, xs, wanted):
            partial = rule(b, ys[0], *xs, **node.attrs) if want and rule is not None else None
            if partial is None:
                out.append(None)
                continue
            if strong >= self.guarded and isinstance(partial, Value):
                term = b.scale_strongly(partial, ct)
            elif getattr(partial, "shape", ()) == x.shape != ct.shape:
                out.append(b.scale(partial, b.sum_to(ct, x.shape)))  # sum before the product: less work
                continue
            else:
                term = b.scale(partial, ct)
            out.append(b.sum_to(term, x.shape))
        return out


class Linear(Derivative):
    """Linear in `operands` jointly (default: all of them). `transpose(b, node, xs, ct, i)` is the adjoint for operand i."""

    needs_results = False

    def __init__(self, transpose: Callable, operands: tuple[int, ...] | None = None):
        self.transpose, self.operands = transpose, operands

    def _linear(self, count):
        return range(count) if self.operands is None else self.operands

    def jvp(self, b, node, xs, ys, tangents):
        linear = self._linear(len(xs))
        if all(tangents[i] is None for i in linear):
            return (None,) * len(ys)
        inputs = list(xs)
        for i in linear:
            inputs[i] = b.zeros(xs[i].type) if tangents[i] is None else tangents[i]
        return b.apply(node.op, inputs, node.attrs)

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        out = [None] * len(xs)
        for i in self._linear(len(xs)):
            if wanted[i]:
                out[i] = self.transpose(b, node, xs, cts[0], i)
        return out


class Multilinear(Linear):
    """Linear in each operand separately: the product rule in forward mode."""

    def jvp(self, b, node, xs, ys, tangents):
        total = None
        for i in self._linear(len(xs)):
            if tangents[i] is not None:
                inputs = list(xs)
                inputs[i] = tangents[i]
                total = b.accumulate(total, b.apply(node.op, inputs, node.attrs)[0])
        return (total,)


class Explicit(Derivative):
    """Both rules by hand, for the few operations where neither partials nor a transpose say it."""

    def __init__(self, jvp: Callable, vjp: Callable):
        self._jvp, self._vjp = jvp, vjp

    def jvp(self, b, node, xs, ys, tangents):
        return self._jvp(b, node, xs, ys, tangents)

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        return self._vjp(b, node, xs, ys, cts, wanted)


@dataclass(frozen=True)
class Rule:
    """A rewrite of one operation: `apply(b, attrs, *operands) -> Value | None` (None: does not match).

    exact: holds bit for bit for all inputs, NaN, infinities and signed zeros included; an inexact one
    (0*x -> 0, x+0 -> x) is applied only to nodes made by differentiation, never to the user's own arithmetic.
    stable: a textbook expression in the form that keeps its digits, log(1+x) -> log1p(x). At least as accurate
    everywhere, and applied everywhere, because a derivative of the form that loses digits loses more. It is the one change
    to the user's own arithmetic, so there are few.
    heads: what makes an operand of a node that may match, so that the Builder tries no rule in vain: names of
    operations, "constant", or "same" (two operands, one value); empty: any. A stretched constant is a "broadcast".
    """

    name: str
    apply: Callable
    exact: bool = True
    heads: tuple[str, ...] = ()
    stable: bool = False


NUMBER = ("constant", "broadcast")  # the heads of a rule about an operand that is a number


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operation. Fields not given are stated by the kind's constructor; see the module docstring.

    infer(types, attrs) -> tuple of result Types; raises TypeError or ValueError on a misuse.
    evaluate(*arrays, **attrs) -> tuple of NumPy arrays or scalars, fresh or views, operands never written.
    batch(b, node, xs, batched, size) -> tuple of result Values with the batch axis first, called when some operand
        is batched (then its axis 0 is the batch axis).
    emit(e, *scalars, **attrs): see the Emitter protocol. For a reduction it combines (accumulator, element), without attrs.
    numpy: the NumPy functions that this record implements as they are.
    dtypes: what operands may be: letters of "f" float, "i" integer, "b" bool.
    domain: sampling interval per operand for the generated tests; kinks: points excluded there, tested apart.
    masks: its transpose puts exact structural zeros into the cotangent, of elements UNUSED (slice, gather) or of a
        branch NOT_TAKEN (select); 0 if it does not.
    """

    name: str
    kind: str
    infer: Callable
    evaluate: Callable
    derivative: Derivative
    batch: Callable
    emit: Callable | None = None
    numpy: tuple = ()
    dtypes: str = "f"
    arity: int | None = 1
    result: str = "same"
    rules: tuple[Rule, ...] = ()
    commutative: bool = False
    masks: int = 0
    identity: Any = None
    cost: int = 1
    domain: tuple = ()
    kinks: tuple = ()
    doc: str = ""
    properties: frozenset = field(default_factory=frozenset)

    def __repr__(self):
        return f"<Op {self.name}>"

    def __reduce__(self):
        return get, (self.name,)


TABLE: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Enter an operation in the table; the name must be new."""
    if op.name in TABLE:
        raise ValueError(f"operation {op.name!r} is defined twice")
    if op.kind not in KINDS:
        raise ValueError(f"operation {op.name!r}: unknown kind {op.kind!r}")
    TABLE[op.name] = op
    return op


def get(name: str) -> Op:
    """The operation of this name."""
    return TABLE[name]
