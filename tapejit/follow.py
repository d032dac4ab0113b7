"""Loops folded while they are recorded: a record of many iterations takes the memory of a few, and less time.

In: the nodes of a Record, as it grows. Out: a `scan` in their place, with the values that were used later as rows of it.

A record that has grown long is searched for a loop that its nodes end with (`ir/passes/reroll.py` finds it, and checks
each operand of each iteration). If there is one, its last iteration becomes the template that a `Follower` holds against what
is recorded from then on: an operation that is what the loop does next, on the values that it takes there, makes no node, only
the next number. Its Array holds that number for a value. What differs ends the loop: a scan takes the place of
its iterations, those before it was found included, and of the iteration that was begun nodes are made. A loop that ends soon is
made into nodes again: it may be the inner one of a longer one.

Numbers: operation j of the k-th iteration that is followed has base + k * period + j, each loop has a base of its own. A
number, or a value of an iteration that a scan has taken the place of, is made a row of the scan where it is used first
(`define`), so that what is recorded of two runs is equal as long as they do the same. For the same reason the scan
stacks what all of its operations make; the optimiser drops what nobody reads.

Loops that write into arrays, that guard, or that hold other loops and branches are left to `reroll`.
"""

from __future__ import annotations

from math import isnan

import numpy as np

from tapejit.ir.build import Builder
from tapejit.ir.graph import Constant, Node, Value
from tapejit.ir.op import TABLE
from tapejit.ir.ops.loop import apply_scan
from tapejit.ir.passes.reroll import last_loop
from tapejit.ir.passes.windows import moved, moving_rows

from .array import Array, is_a

FIRST = 2048  # nodes from which on a record is searched, and again each time that there are so many times as many:
AGAIN = 4
WORTH = 8192  # operations that are folded; less are made into nodes again
SLICE, RESHAPE, UPDATE = TABLE["slice"], TABLE["reshape"], TABLE["update"]


def search(record) -> None:
    """Follow the loop that the nodes of a record end with, if there is one and an iteration has just ended; see when to
    search next."""
    tail, known = record.nodes[record.folded :], record.begun
    record.begun = None
    loop = last_loop(tail, *known) if known else last_loop(tail)
    if loop is not None and _can_follow(tail[loop.start : loop.start + loop.period]):
        rest = len(tail) - loop.stop
        if not rest:
            record.follower = Follower(record, tail, loop)
        elif not known:
            record.begun = loop.start, loop.period
            record.search_at = len(record.nodes) + loop.period - rest
            return
    record.search_at = record.folded + AGAIN * len(tail)


def _can_follow(template) -> bool:
    return not any([node.regions or len(node.results) != 1 or node.op is UPDATE or node.tag for node in template])


class Follower:
    """A loop that a record follows. steps: per operation of an iteration (operation, attributes, what its operands are):
        int                         how many operations back it is made
        Value                       a value from before the loop, or a number
        (class, number, Constant)   a number that is neither zero nor NaN, which are compared by their bits
        list                        one value per iteration, from before the loop, or a number
    rows: the lists by (place, operand). moves: place of a slice whose window moves -> [start at the next iteration, step].
    """

    def __init__(self, record, nodes, loop):
        self.record, self.loop, self.period = record, loop, loop.period
        self.start = record.folded + loop.start
        self.real = [node.results[0] for node in nodes[loop.start : loop.stop]]
        self.template = nodes[loop.stop - loop.period : loop.stop]
        self.rows, self.moves, self.steps = {}, {}, []
        for j, (start, step) in loop.moves.items():
            self.moves[j] = [tuple([a + loop.count * k for a, k in zip(start, step)]), step]
        for j, node in enumerate(self.template):
            slots = tuple([self.slot(j, s) for s in range(len(node.operands))])
            self.steps.append((node.op, None if j in self.moves else node.attrs, slots))
        self.base = self.number = record.numbers
        self.at = 0
        self.own = frozenset(self.real)
        self.made = {}  # which operation of all that were followed -> its Value, once it has one
        self.stacks = ()  # per operation of an iteration, all that it made

    def slot(self, j, s):
        kind, *what = self.loop.slots[j, s]
        if kind == "rows":
            self.rows[j, s] = list(what[0])
            return self.rows[j, s]
        if kind != "same":
            return j - what[0] + (what[2] * self.period if kind == "carry" else 0)
        (value,) = what
        if type(value) is Constant and value.data and not isnan(value.data):
            return value.dtype.type, value.data, value
        return value

    # ---- following -----------------------------------------------------------------------------------------------
    def step(self, op, operands, attrs):
        """The number for the result of an operation, if it is what the loop does next; else the loop has ended: None."""
        known, usual, slots = self.steps[self.at]
        if op is not known or (attrs is not usual and not self.has(attrs)):
            return self.leave()
        number, record = self.number, self.record
        for o, slot in zip(operands, slots):
            kind = slot.__class__
            if kind is int:
                if type(o) is not Array or o._record is not record:
                    return self.leave()
                if o._value != number - slot:
                    back = number - slot - self.base
                    if back >= 0 or o._value is not self.real[back]:
                        return self.leave()
            elif kind is tuple:
                if type(o) is not slot[0] or o != slot[1]:
                    return self.leave()
            elif not (self.row(o, slot) if kind is list else self.value(o) is slot):
                return self.leave()
        self.number = number + 1
        self.at += 1
        if self.at == self.period:
            self.at = 0
            for move in self.moves.values():
                move[0] = tuple([a + k for a, k in zip(*move)])
        return number

    def has(self, attrs) -> bool:
        """Whether these are the attributes of the next operation."""
        node, move = self.template[self.at], self.moves.get(self.at)
        if move is None:
            return attrs == node.attrs and repr(attrs) == repr(node.attrs)  # by their spelling, for 0.0 is not -0.0
        return attrs == moved(node, move[0])

    def value(self, o):
        """The value of an operand from before the loop; None for one of the loop's own."""
        if isinstance(o, Array) and o._record is self.record:
            value = o._value
            if type(value) is int:
                return self.record.value(o) if value < self.base else None
            return value
        return self.record.lookup(o)

    def making(self, number):
        """(operation, attributes, operands) of an operation that was followed, or None."""
        at = number - self.base
        op, attrs, slots = self.steps[at % self.period]
        if at < 0 or attrs is None:
            return None
        k, operands = (len(self.real) + at) // self.period, []
        for slot in slots:
            kind = slot.__class__
            if kind is int:
                back = at - slot
                operands.append(number - slot if back >= 0 else self.real[back])
            elif kind is list and len(slot) <= k:
                return None
            else:
                operands.append(slot[2] if kind is tuple else slot[k] if kind is list else slot)
        return op, attrs, operands

    def row(self, o, column) -> bool:
        """Whether an operand can be the next row; it is then."""
        type_ = column[0].type
        del column[(len(self.real) + self.number - self.base) // self.period :]  # of an operation that raised
        if is_a(o, np.generic):
            if type_.shape or type(o) is not type_.dtype.type:
                return False
            column.append(o)
            return True
        value = self.value(o)
        if value is None or value.type is not type_ or value in self.own:
            return False
        column.append(value)
        return True

    # ---- ending --------------------------------------------------------------------------------------------------
    def leave(self) -> None:
        """End the loop: have the record hold a scan, or nodes, for it."""
        record, total = self.record, self.number - self.base
        record.follower, record.numbers = None, self.number
        whole = total - total % self.period
        if whole < WORTH or not self.fold(whole // self.period):
            whole = 0
        for i in range(whole, total):
            self.emit(i)
        record.loops.append(self)
        record.search_at = record.folded + (FIRST if whole else AGAIN * (len(record.nodes) - record.folded))

    def value_at(self, i) -> Value:
        """The value of operation number base + i."""
        if i < 0:
            return self.real[i]
        value = self.made.get(i)
        if value is None:
            value = self.made[i] = Value(self.template[i % self.period].results[0].type)
            self.record.pending[value] = self, i
        return value

    def emit(self, i) -> None:
        """A node for operation number base + i."""
        k, j = divmod(i, self.period)
        k += len(self.real) // self.period
        node, (_, attrs, slots) = self.template[j], self.steps[j]
        operands = []
        for slot in slots:
            kind = slot.__class__
            value = self.value_at(i - slot) if kind is int else slot[2] if kind is tuple else slot[k] if kind is list else slot
            operands.append(self.record.constant(value) if is_a(value, np.generic) else value)
        if attrs is None:
            start, step = self.loop.moves[j]
            attrs = moved(node, [a + k * by for a, by in zip(start, step)])
        fresh = Node(node.op, tuple(operands), attrs, [node.results[0].type], (), node.loc)
        self.record.nodes.append(fresh)
        self.made[i] = fresh.results[0]

    def fold(self, count) -> bool:
        """Put a scan in the place of the iterations that are nodes and of `count` more; False if there is none."""
        record, loop, period = self.record, self.loop, self.period
        real = len(self.real) // period
        b, body = Builder(record.name, simplify=False), Builder(f"loop_{record.name}", simplify=False)
        b.at(self.template[0])
        depth = dict.fromkeys(range(period), 1)
        for place, _, d in loop.inits:
            depth[place] = max(depth[place], d)
        keys = sorted([(d, j) for j in depth for d in range(1, depth[j] + 1)])
        types = [node.results[0].type for node in self.template]
        carries = {(d, j): body.param(types[j]) for d, j in keys}
        inits = [loop.inits[j, 0, d] if (j, 0, d) in loop.inits else b.zeros(types[j]) for d, j in keys]
        stacks, rows, made, fixed = [], {}, {}, {}
        for at, column in self.rows.items():
            rows[at] = body.param(column[0].type)
            stacks.append(self.stacked(b, column[: real + count]))
        for j, (start, step) in loop.moves.items():
            made[j] = body.param(types[j])
            stacks.append(moving_rows(b, self.steps[j][2][0], start, step, self.template[j], real + count))
            if stacks[-1] is None:
                return False
        for j, (_, _, slots) in enumerate(self.steps):
            for slot in slots if j not in made else ():
                if type(slot) is Value and slot not in fixed:
                    fixed[slot] = body.param(slot.type)
        for j, (op, attrs, slots) in enumerate(self.steps):
            if j in made:
                continue
            operands = []
            for s, slot in enumerate(slots):
                kind = slot.__class__
                if kind is int:
                    value = made[j - slot] if slot <= j else carries[-((j - slot) // period), (j - slot) % period]
                else:
                    value = slot[2] if kind is tuple else rows[j, s] if kind is list else fixed.get(slot, slot)
                operands.append(value)
            body.at(self.template[j])
            (made[j],) = body.apply(op, operands, attrs)
        results = [made[j] if d == 1 else carries[d - 1, j] for d, j in keys] + [made[j] for j in range(period)]
        found = apply_scan(b, body.finish(results), [], inits, stacks, list(fixed), real + count)
        self.stacks = found[len(keys) :]
        self.made.update({(count - 1) * period + j: found[j] for j in range(period)})
        record.pending.update({value: (self, i - len(self.real)) for i, value in enumerate(self.real)})
        record.nodes[self.start :] = b.nodes
        record.folded = len(record.nodes)
        return True

    def stacked(self, b, column):
        """The rows as one array."""
        if not any([type(x) is Value for x in column]):
            numbers = [x.item() if is_a(x, np.generic) else x.data for x in column]
            return b.table(values=tuple(numbers), dtype=column[0].dtype)
        values = [self.record.constant(x) if is_a(x, np.generic) else x for x in column]
        parts = [b.broadcast(x, shape=(1,)) if type(x) is Constant else b.reshape_to(x, (1, *x.shape)) for x in values]
        return b.concatenate(*parts, axis=0)

    def define(self, value, i) -> list:
        """Two nodes that make operation number base + i a row of the scan, for a value that was pending."""
        stack, node, shape = self.stacks[i % self.period], self.template[i % self.period], value.shape
        k = (i + len(self.real)) // self.period
        attrs = {"start": (k,) + (0,) * len(shape), "stop": (k + 1, *shape), "step": (1,) * (len(shape) + 1)}
        row = Node(SLICE, (stack,), attrs, [value.type.with_shape((1, *shape))], (), node.loc)
        out = Node(RESHAPE, (row.result,), {"shape": shape}, [value.type], (), node.loc)
        out.results, value.node, value.index = (value,), out, 0
        return [row, out]


def settle(record, results) -> list:
    """The nodes of a record that has come to its end, with what is used of the loops that were followed."""
    if record.follower is not None:
        record.follower.leave()
    pending, nodes = record.pending, []
    if not pending:
        return record.nodes
    for operands, node in [*[(node.operands, node) for node in record.nodes], (results, None)]:
        for o in operands:
            found = pending.pop(o, None)
            if found is not None:
                nodes += found[0].define(o, found[1])
        if node is not None:
            nodes.append(node)
    return nodes
