"""Fold repeated iterations of a recorded program into `scan`s: what was a loop of the user's becomes one again.

In: a Graph as recorded, straight-line code, up to millions of nodes. Out: an equal Graph in which loops of many iterations
are scans whose bodies are one iteration each; gradients, passes and machine code no longer grow with the number of iterations.

`period.py` proposes stretches of p nodes that come n times. Here each operand of each of the p nodes is followed through
all iterations, a column of n values, and must be one of
    the value at the same place of its own iteration                           internal to the body
    that of the iteration d before, d <= BACK                                  a carry (d of them in a chain)
    one value from before the loop, the same for all                           an invariant
    values from before the loop that differ: numbers, parameters, stacked rows a row
Slices whose windows move evenly along an invariant array are rows, too; writes into an array whose windows move evenly,
y[i] = v, are stacked, and written by one operation after the loop. Before that, what a slice reads of an array that was
written to is traced to what was stored there (`stores.py`).
Where a column breaks the rule, the loop ends before that iteration and may begin anew after it. So every operand of every
iteration is checked; what is not understood stays as it was. Columns are compared by list operations, about 1 us a node.

A body is searched again for loops within. Values of all iterations that are used later are stacked, those of the last only are
carries. A scan stands where its last iteration stood, so that all that it reads is there.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import is_

import numpy as np

from ..build import Builder
from ..graph import Constant, Graph
from ..op import TABLE
from ..ops.loop import apply_scan
from .period import LEAST, anchors, extent, signatures
from .stores import forwarded
from .windows import moving_rows, stacked, written

LEAST_NODES = 256  # of a program: smaller ones are better off fused as they are
LEAST_SAVED = 128  # nodes that a loop makes disappear
BACK = 4  # iterations that a value is carried over
CHANGES = 3  # of a value that is otherwise the same in all iterations: the loop is cut there
SLICE, UPDATE, CONCATENATE = TABLE["slice"], TABLE["update"], TABLE["concatenate"]


def reroll(graph: Graph) -> Graph:
    """The graph with its loops folded."""
    if len(graph.nodes) < LEAST_NODES:
        return graph
    nodes, stands = forwarded(graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    loops = _find(nodes, position, stands)
    return _Fold(graph, nodes, position, stands, loops).run() if loops else graph


def last_loop(nodes, start=None, period=None):
    """The Loop that recorded nodes end with, but for an iteration that was begun; of nested ones the outer; None if there
    is none.

    start, period: where it begins, if that is known."""
    position = {node: i for i, node in enumerate(nodes)}
    if start is None:
        loops = _find(nodes, position, {})
    else:
        numbers = signatures(nodes[start:])
        if (numbers[period:] != numbers[:-period]).any():
            return None
        loops = _Columns(nodes, position, {}, start, period, (len(nodes) - start) // period).loops()
    loops = [loop for loop in loops if loop.stop + loop.period > len(nodes)]
    return max(loops, key=lambda loop: loop.period, default=None)


def find_loops(nodes) -> list:
    """The Loops of recorded nodes, in order."""
    return _find(nodes, {node: i for i, node in enumerate(nodes)}, {})


# ---- finding ---------------------------------------------------------------------------------------------------------
def _find(nodes, position, stands) -> list:
    """The loops, in order; they do not overlap."""
    numbers = signatures(nodes)
    taken, loops, tried = [(-1, 0), (len(nodes), len(nodes) + 1)], [], set()
    for start, period, _ in anchors(numbers):
        low, high = _gap(taken, start)
        if high - low < LEAST * period:
            continue
        first, stop = extent(numbers, start, period, low, high)
        count = (stop - first) // period
        if count < LEAST or (count - 1) * period < LEAST_SAVED or (first, period, count) in tried:
            continue
        tried.add((first, period, count))
        found = _Columns(nodes, position, stands, first, period, count).loops()
        loops += found
        taken = sorted(taken + [(loop.start, loop.stop) for loop in found])
    return sorted(loops, key=lambda loop: loop.start)


def _gap(taken, at):
    """The free stretch around a position; empty if it is taken."""
    for (_, low), (high, end) in zip(taken, taken[1:]):
        if at < high:
            return (low, high) if at >= low else (0, 0)
        if at < end:
            break
    return 0, 0


@dataclass
class Loop:
    """Iterations first..last-1 of a stretch: nodes[start : stop], `period` nodes each.

    slots: (place, operand) -> ("in", place, result) | ("carry", place, result, distance) | ("same", value) |
    ("rows", values). moves: place of a node whose window moves -> (start of the first, step per iteration).
    """

    start: int
    stop: int
    period: int
    slots: dict
    moves: dict
    inits: dict = field(default_factory=dict)  # (place, result, distance) -> value before the first iteration

    @property
    def count(self):
        return (self.stop - self.start) // self.period


class _Columns:
    """A stretch that looks periodic, operand by operand."""

    def __init__(self, nodes, position, stands, first, period, count):
        self.first, self.period, self.count, self.position = first, period, count, position
        self.columns = [nodes[first + j : first + count * period : period] for j in range(period)]
        self.stands = stands
        self.middle = count // 2
        self.breaks, self.odd = set(), set()  # iterations that may not follow the one before; that fit no loop
        self.slots, self.moves = {}, {}

    def loops(self) -> list:
        for j in range(self.period):
            if not self.follow(j):
                return []
        out, k = [], 0
        while k < self.count:
            if k in self.odd:
                k += 1
                continue
            stop = k + 1
            while stop < self.count and stop not in self.breaks and stop not in self.odd:
                stop += 1
            loop = self.segment(k, stop)
            if loop is not None:
                out.append(loop)
            k = stop
        return out

    def operand(self, j, s, k):
        o = self.columns[j][k].operands[s]
        return self.stands.get(o, o)

    # ---- following -----------------------------------------------------------------------------------------------
    def operands(self, j, s):
        column = [node.operands[s] for node in self.columns[j]]
        if self.stands:
            get = self.stands.get
            column = [get(o, o) for o in column]
        return column

    def follow(self, j) -> bool:
        """Classify the operands of the nodes at place j; False if it is hopeless."""
        node = self.columns[j][self.middle]
        for s in range(len(node.operands)):
            column = self.operands(j, s)
            found = self.source(j, column)
            if found is None:
                return False
            self.slots[j, s] = found
        if node.op in (SLICE, UPDATE):
            return self.windows(j, node)
        return True

    def source(self, j, column):
        o = column[self.middle]
        at = None if o.node is None else self.position.get(o.node)
        inside = at is not None and self.first <= at < self.first + self.count * self.period
        if inside:
            k, place = divmod(at - self.first, self.period)
            back = self.middle - k
            if 0 <= back <= BACK:
                made = [node.results[o.index] for node in self.columns[place]]
                late, early = column[back:], made[: self.count - back]
                if not all(map(is_, late, early)):
                    wrong = [i + back for i, (a, b) in enumerate(zip(late, early)) if a is not b]
                    if 4 * len(wrong) > self.count:
                        return None
                    (self.breaks if back else self.odd).update(wrong)
                return ("carry", place, o.index, back) if back else ("in", place, o.index)
        changes = [i + 1 for i, (a, b) in enumerate(zip(column, column[1:])) if a is not b]
        if len(changes) <= CHANGES:
            self.breaks.update(changes)
            return ("same", column)
        alike = len({v.type for v in column}) == 1
        return ("rows", column) if alike and not inside else None

    def windows(self, j, node) -> bool:
        """How the window of a slice or update moves."""
        starts = [n.attrs["start"] for n in self.columns[j]]
        if starts.count(starts[0]) == len(starts):
            return True
        kind, place, *_ = self.slots[j, 0]
        if node.op is SLICE:
            known = kind == "same"
        else:
            known = kind in ("in", "carry") and self.columns[place][self.middle].op is UPDATE
        if not known:
            return False
        starts = np.array(starts)
        steps = np.diff(starts, axis=0)
        usual = steps[min(self.middle, len(steps) - 1)]
        self.breaks.update((np.flatnonzero((steps != usual).any(axis=1)) + 1).tolist())
        self.moves[j] = (starts, tuple(usual.tolist()))
        return True

    # ---- segments ------------------------------------------------------------------------------------------------
    def segment(self, k, stop):
        """The loop of iterations k to stop - 1, some of the first ones left out if need be; None if it is not worth it."""
        carries = {}
        for (j, s), slot in self.slots.items():
            if slot[0] == "carry":
                carries.setdefault(slot[1:], []).append((j, s))
        far = max([d for _, _, d in carries], default=0)
        fixed = [slot[1] for slot in self.slots.values() if slot[0] == "same"]
        k = max([k, *[self.iteration_of(column[k]) + 1 for column in fixed]])
        if far > 1:
            k += far
        elif k < stop and not self.begins(k, carries):
            k += 1
        if stop - k < LEAST or (stop - k - 1) * self.period < LEAST_SAVED:
            return None
        for slot in self.slots.values():
            if slot[0] in ("rows", "same") and not self.are_before(slot[1][k : stop if slot[0] == "rows" else k + 1], k):
                return None
        slots = {at: self.within(slot, k, stop) for at, slot in self.slots.items()}
        moves = {j: (tuple(starts[k].tolist()), step) for j, (starts, step) in self.moves.items() if any(step)}
        start = self.first + k * self.period
        loop = Loop(start, start + (stop - k) * self.period, self.period, slots, moves)
        for (place, r, d), readers in carries.items():
            for e in range(1, d + 1):  # with far > 1 all of these are values of the iterations before
                j, s = readers[0]
                value = self.operand(j, s, k) if far <= 1 else self.columns[place][k - e].results[r]
                loop.inits[place, r, e] = value
        return loop

    def within(self, slot, k, stop):
        if slot[0] == "same":
            return ("same", slot[1][k])
        return ("rows", slot[1][k:stop]) if slot[0] == "rows" else slot

    def begins(self, k, carries) -> bool:
        """Whether all that read a carry agree on what it is before iteration k, and it is of the right type."""
        for (place, r, _), readers in carries.items():
            values = [self.operand(j, s, k) for j, s in readers]
            if any([v is not values[0] for v in values]) or values[0].type is not self.columns[place][k].results[r].type:
                return False
            if not self.are_before(values[:1], k):
                return False
        return True

    def iteration_of(self, value) -> int:
        """The iteration that makes a value; less than 0 before the first."""
        return (self.position.get(value.node, -1) - self.first) // self.period if value.node is not None else -1

    def are_before(self, values, k) -> bool:
        """Whether the values exist before iteration k."""
        limit = self.first + k * self.period
        return all([v.node is None or self.position.get(v.node, -1) < limit for v in values])


# ---- folding ---------------------------------------------------------------------------------------------------------
class _Fold:
    """The graph under construction."""

    def __init__(self, graph, nodes, position, stands, loops):
        self.graph, self.nodes, self.stands, self.loops = graph, nodes, stands, loops
        self.b = Builder(graph.name, simplify=False)
        self.env = self.b.params_of(graph.params)
        self.rows = {}  # old value -> (stack in the new graph, its row there), made a value when it is asked for
        self.position = position
        self.starts = [loop.start for loop in loops]

    def run(self) -> Graph:
        used = self.used_outside()
        at = 0
        for loop in self.loops:
            self.copy(self.nodes[at : loop.start])
            _FoldLoop(self, loop, used.get(id(loop), {})).run()
            at = loop.stop
        self.copy(self.nodes[at:])
        return self.b.finish([self.value(r) for r in self.graph.results])

    def copy(self, nodes):
        b = self.b
        for node in nodes:
            if node.op is CONCATENATE:
                found = self.joined(node)
                if found is not None:
                    self.env[node.results[0]] = found
                    continue
            operands = [self.value(o) for o in node.operands]
            b.at(node)
            self.env.update(zip(node.results, b.apply(node.op, operands, node.attrs, node.regions)))

    def value(self, old):
        """The value in the new graph."""
        if type(old) is Constant:
            return old
        old = self.stands.get(old, old)
        found = self.env.get(old)
        if found is None:
            if type(old) is Constant:
                return old
            found = self.env[old] = self.b.reshape_to(stacked(self.b, *self.rows[old], 1), old.shape)
        return found

    def used_outside(self) -> dict:
        """id of a loop -> {(place, result): iterations whose value is used outside of it}."""
        used = {}

        def use(value, loop=None):
            value = self.stands.get(value, value)
            at = None if value.node is None else self.position.get(value.node)
            maker = None if at is None else self.loops[bisect_right(self.starts, at) - 1]
            if maker is not None and maker is not loop and maker.start <= at < maker.stop:
                k, place = divmod(at - maker.start, maker.period)
                used.setdefault(id(maker), {}).setdefault((place, value.index), set()).add(k)

        at = 0
        for loop in self.loops:
            for node in self.nodes[at : loop.start]:
                for o in node.operands:
                    use(o)
            for kind, what, *_ in loop.slots.values():
                for o in what if kind == "rows" else [what] if kind == "same" else ():
                    use(o, loop)
            for o in loop.inits.values():
                use(o, loop)
            at = loop.stop
        for node in self.nodes[at:]:
            for o in node.operands:
                use(o)
        for r in self.graph.results:
            use(r)
        return used

    def stack_of(self, olds, shape_of_row):
        """Outer values as one array: a slice of the stack that they are the rows of, or put side by side."""
        b = self.b
        olds = [self.stands.get(o, o) for o in olds]
        if all([type(o) is Constant for o in olds]):
            return b.table(values=tuple([o.data for o in olds]), dtype=olds[0].dtype)
        places = [self.rows.get(o) for o in olds]
        if all([place is not None for place in places]):
            stack, first = places[0]
            if all([s is stack and k == first + i for i, (s, k) in enumerate(places)]):
                return stacked(b, stack, first, len(olds))
        return b.concatenate(*[b.reshape_to(self.row_value(o), (1, *shape_of_row)) for o in olds], axis=0)

    def row_value(self, old):
        value = self.value(old)
        return self.b.broadcast(value, shape=()) if type(value) is Constant else value

    def joined(self, node):
        """concatenate of the rows of a stack in order, each one long along the axis: the stack itself; else None."""
        axis = node.attrs["axis"]
        olds = [self.stands.get(o, o) for o in node.operands]
        places = [self.rows.get(o) for o in olds]
        if any([place is None for place in places]) or any([o.shape != olds[0].shape for o in olds]):
            return None
        stack, first = places[0]
        if any([s is not stack or k != first + i for i, (s, k) in enumerate(places)]):
            return None
        self.b.at(node)
        part = stacked(self.b, stack, first, len(olds))
        order = (*range(1, axis + 1), 0, *range(axis + 1, part.ndim))
        return self.b.reshape_to(self.b.transpose(part, perm=order), node.results[0].shape)


class _FoldLoop:
    """One loop on its way into the new graph."""

    def __init__(self, fold, loop, used):
        self.fold, self.loop, self.used, self.b = fold, loop, used, fold.b
        self.columns = [fold.nodes[loop.start + j : loop.stop : loop.period] for j in range(loop.period)]

    def run(self):
        fold, loop, b = self.fold, self.loop, self.b
        first = [column[0] for column in self.columns]
        b.at(first[0])
        stores = {j: move for j, move in loop.moves.items() if first[j].op is UPDATE}
        self.rounds = self.find_rounds(stores)
        if not self.are_only_written(stores):
            return fold.copy(fold.nodes[loop.start : loop.stop])
        body = Builder(f"loop_{fold.graph.name}", simplify=False)
        carries, inits = {}, []  # (place, result, distance) -> parameter
        for key, value in loop.inits.items():
            if key[0] not in stores:
                carries[key] = body.param(first[key[0]].results[key[1]].type)
                inits.append(fold.value(value))
        last = [at for at, ks in self.used.items() if ks == {loop.count - 1} and at[0] not in stores]
        for place, r in last:
            if (place, r, 1) not in carries:
                carries[place, r, 1] = body.param(first[place].results[r].type)
                inits.append(b.zeros(first[place].results[r].type))
        rows, fixed, windows, stacks, invariants = {}, {}, {}, [], []
        for at, slot in loop.slots.items():
            if slot[0] == "rows":
                rows[at] = body.param(slot[1][0].type)
                stacks.append(fold.stack_of(slot[1], slot[1][0].shape))
        for j, (start, step) in loop.moves.items():
            if j not in stores:
                x = fold.value(loop.slots[j, 0][1])
                stack = moving_rows(b, x, start, step, first[j], loop.count)
                if stack is None:
                    return fold.copy(fold.nodes[loop.start : loop.stop])
                windows[j] = body.param(first[j].results[0].type)
                stacks.append(stack)
        for at, slot in loop.slots.items():
            if slot[0] == "same" and at[0] not in windows and type(slot[1]) is not Constant and slot[1] not in fixed:
                fixed[slot[1]] = body.param(slot[1].type)
                invariants.append(fold.value(slot[1]))
        made = {}  # (place, result) -> value in the body
        for j, node in enumerate(first):
            if j in windows:
                made[j, 0] = windows[j]
                continue
            if j in stores:
                continue
            operands = [self.operand(j, s, made, carries, rows, fixed) for s in range(len(node.operands))]
            body.at(node)
            results = body.apply(node.op, operands, node.attrs, node.regions)
            made.update({(j, r): value for r, value in enumerate(results)})

        def carried(place, r, d):
            return made[place, r] if d == 1 else carries[place, r, d - 1]

        results = [carried(*key) for key in carries]
        outs = [at for at, ks in self.used.items() if at not in last and at[0] not in stores]
        results += [made[at] for at in outs]
        results += [self.operand(j, 1, made, carries, rows, fixed) for j in stores]
        graph = reroll(body.finish(results))
        b.at(first[0])
        found = list(apply_scan(b, graph, [], inits, stacks, invariants, loop.count))
        self.finals(carries, found, last, outs, stores)

    def operand(self, j, s, made, carries, rows, fixed):
        """An operand of the node at place j in the body."""
        slot = self.loop.slots[j, s]
        if slot[0] == "same":
            return slot[1] if type(slot[1]) is Constant else fixed[slot[1]]
        return rows[j, s] if slot[0] == "rows" else (made if slot[0] == "in" else carries)[slot[1:]]

    def finals(self, carries, found, last, outs, stores):
        fold, loop = self.fold, self.loop
        final = dict(zip(carries, found))
        for place, r in last:
            fold.env[self.columns[place][-1].results[r]] = final[place, r, 1]
        for (place, r), stack in zip(outs, found[len(carries) :]):
            for k in self.used[place, r]:
                fold.rows[self.columns[place][k].results[r]] = (stack, k)
        arrays = {}  # place of the last store into an array -> the array, with what was stored so far
        for (j, (start, step)), stack in zip(stores.items(), found[len(carries) + len(outs) :]):
            node, end = self.columns[j][0], self.rounds[j][-1]
            before = arrays.get(end) or fold.value(loop.inits[end, 0, 1])
            self.b.at(node)
            arrays[end] = written(self.b, before, stack, start, step, node, loop.count)
        for end, array in arrays.items():
            fold.env[self.columns[end][-1].results[0]] = array

    def find_rounds(self, stores) -> dict:
        """For each place that stores into an array those that store into the same one, in the order of an iteration; [] if
        what one of them makes is read by anything but the next."""
        readers = {}
        for at, slot in self.loop.slots.items():
            if slot[0] in ("in", "carry") and slot[1] in stores:
                readers.setdefault(slot[1], []).append(at)
        rounds = {}
        for j in stores:
            found, at = [], j
            while at not in found and len(readers.get(at, ())) == 1 and readers[at][0][1] == 0 and readers[at][0][0] in stores:
                found.append(at)
                at = readers[at][0][0]
            ends = [k for k in found if self.loop.slots[readers[k][0]] == ("carry", k, 0, 1)]
            whole = at == j and len(ends) == 1
            after = found.index(ends[0]) + 1 if whole else 0
            rounds[j] = found[after:] + found[:after] if whole else []
        return rounds

    def are_only_written(self, stores) -> bool:
        """Whether the arrays that these places store into are read after the loop only, and no element is stored twice."""
        for j in stores:
            round = self.rounds[j]
            last = {self.loop.count - 1} if round and j == round[-1] else set()
            if not round or not self.used.get((j, 0), set()) <= last or not self.moves_by_elements(j):
                return False
            if not all([self.are_apart(j, k) for k in round if k < j]):
                return False
        return True

    def are_apart(self, j, k) -> bool:
        """Whether no two windows of two places have an element in common, as far as one axis tells."""
        return any([set(self.span(j, a)).isdisjoint(self.span(k, a)) for a in range(len(self.loop.moves[j][1]))])

    def span(self, j, axis) -> range:
        """The positions along an axis that the windows of a place cover, which are one element long where they move."""
        start, step = self.loop.moves[j]
        if step[axis]:
            return range(start[axis], start[axis] + self.loop.count * step[axis], step[axis])
        attrs = self.columns[j][0].attrs
        return range(attrs["start"][axis], attrs["stop"][axis], attrs["step"][axis])

    def moves_by_elements(self, j) -> bool:
        """Whether the window at place j moves along one axis, on which it is one element long: no two of them overlap."""
        _, step = self.loop.moves[j]
        window = self.columns[j][0].operands[1].shape
        return [n for n, k in zip(window, step) if k] == [1]
