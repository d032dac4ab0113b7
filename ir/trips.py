"""Loops that run more or less often: one graph for all numbers of iterations (trip counts) that were recorded.

In: the graph of a record, straight-line, in which a `while` of the user's, or a `for` with a `break`, has left a guard per
iteration. Out: `Trips`, or None where there is no such loop. It has a graph in which each such loop is a `while` region,
whose count is then looked up among the counts that were recorded: a guard leaves for any other. And it says of another
record whether that is the same program run with other counts, and with which.

    [P0 .. test, guard] [rest P0 .. test, guard] ... [rest P0 .. test, guard that saw the other value] what follows
     before the loop     one iteration of `while`                                                      after it

`passes/reroll.py` finds the loop and what each operand of an iteration is: of the same iteration, carried, the same, or a row.
One place of the iteration is the guard by which the loop is left. Iterations of the new loop begin behind that guard and
end with it, so that the test is a carried bool. Where there are rows (numbers that change, windows that move), the `while`
only counts, and a counted scan over the rows makes the values: that is what reverse mode would do anyway.

Nothing is inferred: another number of iterations joins by a record that was held against this one operation by operation
(`run_of`), and what comes after the loop must be the same, wherever it reads from the last iterations. The counts of
several loops join together, as one row of the table `known`, a parameter of the graph. Python numbers behind the last loop,
such as its count, may differ: they are looked up in a second table, `numbers`, in the same row.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from .build import Builder
from .graph import Constant, Graph
from .op import TABLE
from .ops.guard import guard
from .ops.loop import apply_scan
from .passes.reroll import BACK, find_loops
from .passes.windows import moved, moving_rows
from .types import BOOL, I64, type_of

UPDATE, WHILE = TABLE["update"], TABLE["while"]
MOST = 3  # loops of one graph
LEAST_ROOM = 64  # iterations that reverse mode makes room for
LEAST_KNOWN = 64  # rows of the table


class Run(NamedTuple):
    """How a record ran. counts: how often each loop. numbers: {(node, operand): number} behind them, of those that differ; the
    node is None for a result."""

    counts: tuple
    numbers: dict


class Trips:
    """The loops of one record. known: counts that were recorded, a row each, -1 where there is none yet. numbers: those of
    `slots`, (node, operand) as in Run. capacity: of the whiles."""

    def __init__(self, recorded, loops):
        self.recorded, self.loops = recorded, loops
        self.known = np.full((LEAST_KNOWN, len(loops)), -1)
        self.slots, self.numbers = [], np.zeros((LEAST_KNOWN, 0))
        self.capacity = LEAST_ROOM

    @property
    def tables(self) -> list:
        """What the graph takes beside the record's parameters."""
        return [self.known, self.numbers] if self.slots else [self.known]

    @classmethod
    def of(cls, recorded: Graph) -> Trips | None:
        """The loops of a record that are left by a guard."""
        loops = [Open.of(loop, recorded.nodes) for loop in find_loops(recorded.nodes)]
        loops = [loop for loop in loops if loop is not None]
        trips = cls(recorded, loops)
        if not 0 < len(loops) <= MOST or not trips.find_used():
            return None
        trips.add(Run(tuple([loop.count for loop in loops]), {}))
        return trips

    def find_used(self) -> bool:
        """Have each loop know what is used of it later; False where that is of another than the last iterations."""
        makers = {}
        for loop in self.loops:
            for i in range(loop.start, loop.stop):
                makers.update([(r, (loop, i)) for r in self.recorded.nodes[i].results])
        at = 0
        for loop in [*self.loops, None]:
            until = len(self.recorded.nodes) if loop is None else loop.start
            read = [o for node in self.recorded.nodes[at:until] for o in node.operands]
            read += self.recorded.results if loop is None else loop.outer
            for o in read:
                maker, i = makers.get(o, (None, 0))
                if maker is not None and not maker.use(i, o.index):
                    return False
            at = until if loop is None else loop.stop
        return True

    # ---- other runs --------------------------------------------------------------------------------------------------
    def run_of(self, other: Graph, same) -> Run | None:
        """How another record ran, if it is one of the same program. same(x, y): whether the value y of the other record is x
        of this one; `same.pairs` are those known, `same.stands` values of this one that are others there."""
        nodes, others, at, to, counts, numbers = self.recorded.nodes, other.nodes, 0, 0, [], {}

        def fit(node, xs, ys):
            for s, (x, y) in enumerate(zip(xs, ys)):
                behind = len(counts) == len(self.loops)
                varies = behind and type(x) is type(y) is Constant and x.type is y.type and _fits(y)
                if varies and ((node, s) in self.slots or not same(x, y)):
                    numbers[node, s] = y.data
                elif not same(x, y):
                    return False
            return True

        for loop in [*self.loops, None]:
            until = len(nodes) if loop is None else loop.start
            if len(others) < to + until - at:
                return None
            for i, y in zip(range(at, until), others[to : to + until - at]):
                x = nodes[i]
                if not (_alike(x, y) and _equal(x.attrs, y.attrs) and fit(i, x.operands, y.operands)):
                    return None
                same.pairs.update(zip(x.results, y.results))
            to += until - at
            if loop is not None:
                found = loop.follow(others, to, same)
                if found is None:
                    return None
                count, to = found
                counts.append(count)
                at = loop.stop
        whole = to == len(others) and len(other.results) == len(self.recorded.results)
        return Run(tuple(counts), numbers) if whole and fit(None, self.recorded.results, other.results) else None

    def conflict(self, run):
        """The (node, operand) behind the loops where a run of known counts has another number; None if there is none."""
        if not self.knows(run):
            return None
        was = dict(zip(self.slots, self.numbers[(self.known == run.counts).all(axis=1)][0].tolist()))
        return next((at for at, x in run.numbers.items() if repr(float(x)) != repr(was.get(at, self.written(at)))), None)

    def knows(self, run) -> bool:
        """Whether loops are known to run so often."""
        return bool((self.known == run.counts).all(axis=1).any())

    def constant(self, at) -> Constant:
        """What the record has for a number."""
        node, s = at
        return (self.recorded.results if node is None else self.recorded.nodes[node].operands)[s]

    def written(self, at) -> float:
        return float(self.constant(at).data)

    def add(self, run) -> bool:
        """Have a run join; whether the graph must be built anew: with more numbers, more room for iterations or for runs."""
        fresh = [at for at in run.numbers if at not in self.slots]
        if fresh:  # so far the same in all runs
            columns = np.tile([self.written(at) for at in fresh], (len(self.known), 1))
            self.slots, self.numbers = self.slots + fresh, np.hstack([self.numbers, columns])
        if self.knows(run):
            return False
        grown = bool(fresh)
        free = np.flatnonzero(self.known[:, 0] < 0)
        if not len(free):
            free, grown = [len(self.known)], True
            self.known = np.vstack([self.known, np.full((3 * len(self.known), len(self.loops)), -1)])
            self.numbers = np.vstack([self.numbers, np.zeros((3 * len(self.numbers), len(self.slots)))])
        self.numbers[free[0]] = [run.numbers.get(at, self.written(at)) for at in self.slots]
        self.known[free[0]] = run.counts
        while max(run.counts) > self.capacity:
            self.capacity, grown = 2 * self.capacity, True
        return grown

    # ---- the graph ---------------------------------------------------------------------------------------------------
    def build(self) -> Graph:
        """The record with loops; its parameters are the record's and `known`."""
        b = Builder(self.recorded.name, simplify=False)
        env = b.params_of(self.recorded.params)
        known, *numbers = [b.param(type_of(x), name) for x, name in zip(self.tables, ("known", "numbers"))]
        at, counts, left = 0, [], []
        for loop in self.loops:
            _copy(b, env, self.recorded.nodes[at : loop.start])
            count, done = loop.build(b, env, self.capacity)
            counts.append(b.reshape_to(count, (1,)))
            left += done
            at = loop.stop
        row = b.concatenate(*counts, axis=0) if len(counts) > 1 else counts[0]
        is_row = b.reduce_and(b.eq(known, b.broadcast_to(row, known.shape)), axes=(1,))
        found = b.reduce_or(is_row, axes=(0,))
        for done in left:
            found = b.and_(found, done)
        b.apply(guard, [found], {"seen": True, "trips": self.recorded.digest[:8]})
        stands = {}
        if numbers:
            those = b.gather(numbers[0], b.argmax(b.cast(is_row, I64), axis=0))
            for k, slot in enumerate(self.slots):
                number = b.reshape_to(b.slice(those, start=(k,), stop=(k + 1,), step=(1,)), ())
                stands[slot] = b.cast(number, self.constant(slot).dtype)
        for i in range(at, len(self.recorded.nodes)):
            node = self.recorded.nodes[i]
            operands = [stands.get((i, s), env.get(o, o)) for s, o in enumerate(node.operands)]
            b.at(node)
            env.update(zip(node.results, b.apply(node.op, operands, node.attrs, node.regions)))
        return b.finish([stands.get((None, s), env.get(r, r)) for s, r in enumerate(self.recorded.results)])


class Open:
    """A loop that is left by a guard. Iteration k of `count` is nodes[start + k * period :][: period], and after the last one
    come the first places again, up to the guard, which is at place `exit`. on: what it sees while the loop goes on.
    slots, inits, moves: as of reroll.Loop, slots ("rows", values) with a value for each iteration that has one.
    uses: (place, result, how many rotated iterations before the end) that are read after the loop.
    """

    def __init__(self, loop, nodes, exit):
        self.nodes, self.start, self.period, self.count = nodes, loop.start, loop.period, loop.count
        self.exit, self.on = exit, nodes[loop.start + exit].attrs["seen"]
        self.stop = loop.stop + exit + 1
        self.template = nodes[loop.start : loop.start + loop.period]
        self.slots, self.inits, self.moves = loop.slots, loop.inits, loop.moves
        self.uses = set()

    @classmethod
    def of(cls, loop, nodes) -> Open | None:
        """The loop of reroll's, if it is left by a guard and what it does can be a body."""
        template = nodes[loop.start : loop.start + loop.period]
        if any([template[j].op is UPDATE for j in loop.moves]):
            return None
        for j, node in enumerate(template):
            at = loop.stop + j
            if at >= len(nodes) or nodes[at].op is not node.op:
                return None
            if node.op is guard and nodes[at].attrs["seen"] is not node.attrs["seen"]:
                break
        else:
            return None
        if node.operands[0].dtype != BOOL or loop.slots[j, 0][0] not in ("in", "carry"):
            return None
        found = cls(loop, nodes, j)
        rows = {at: ("rows", found.whole_row(at, slot[1])) for at, slot in loop.slots.items() if slot[0] == "rows"}
        found.slots = {**loop.slots, **rows}
        scratch = Builder()
        if any([found.windows(scratch, scratch.param(found.slots[j, 0][1].type), j) is None for j in found.moves]):
            return None
        return found if found.follow(nodes, loop.start, _Itself()) == (found.count, found.stop) else None

    def whole_row(self, at, values):
        """The rows of an operand, with that of the iteration in which the loop is left."""
        j, s = at
        return [*values, self.nodes[self.start + self.count * self.period + j].operands[s]] if j < self.exit else values

    @property
    def outer(self) -> list:
        """The values from before the loop that it reads."""
        out = list(self.inits.values())
        for kind, what, *_ in self.slots.values():
            out += what if kind == "rows" else [what] if kind == "same" else []
        return out

    def use(self, i, r) -> bool:
        """Note that result r of node i is read after the loop; False if it is not of the last iterations."""
        k, place = divmod(i - self.start, self.period)
        back = self.count - self.turn(place, k)
        self.uses.add((place, r, back))
        return back <= BACK + 1

    def turn(self, place, k):
        """The iteration of the new loop, which begins behind the guard, that does this place of iteration k."""
        return k - (place <= self.exit)

    # ---- another record ----------------------------------------------------------------------------------------------
    def follow(self, nodes, at, same):
        """(how often the loop runs in another record, where it goes on behind it), the loop beginning there; None if what
        stands there is not this loop. Values of the last iterations become known to `same`."""
        begin, k, last = at, 0, deque(maxlen=BACK + 2)
        while True:
            last.append([])
            for j in range(self.period):
                if at >= len(nodes) or not self.is_next(nodes[at], j, k, last, same):
                    return None
                last[-1].append(nodes[at])
                at += 1
                if j == self.exit and nodes[at - 1].attrs["seen"] is not self.on:
                    self.pair(k, nodes, begin, same)
                    return k, at
            k += 1

    def is_next(self, node, j, k, last, same) -> bool:
        model = self.template[j]
        if not _alike(node, model):
            return False
        if j in self.moves:
            start, step = self.moves[j]
            if k >= self.count + (j <= self.exit) or node.attrs != moved(model, [a + k * by for a, by in zip(start, step)]):
                return False
        elif j != self.exit and not _equal(node.attrs, model.attrs):
            return False
        for s, o in enumerate(node.operands):
            kind, what, *more = self.slots[j, s]
            if kind == "rows":
                fits = k < len(what) and same(what[k], o)
            elif kind == "same":
                fits = same(what, o)
            else:
                r, back = more[0], more[1] if kind == "carry" else 0
                fits = o is last[-1 - back][what].results[r] if back <= k else same(self.inits[what, r, back - k], o)
            if not fits:
                return False
        return True

    def pair(self, count, nodes, begin, same):
        """What is used of the last iterations, in another record whose loop begins at node `begin`."""
        for place, r, back in self.uses:
            value = self.result(place, r, self.count - back)
            k = count - back + (place <= self.exit)
            if k >= 0:
                same.pairs[value] = nodes[begin + k * self.period + place].results[r]
            elif (place, r, -k) in self.inits:
                same.stands[value] = self.inits[place, r, -k]

    def result(self, place, r, turn):
        """The record's value of a place in an iteration of the new loop."""
        k = turn + (place <= self.exit)
        return self.nodes[self.start + k * self.period + place].results[r]

    # ---- the new loop ------------------------------------------------------------------------------------------------
    def source(self, j, s):
        """(place, result, how many turns back) of an operand that the loop makes; None for others."""
        kind, place, *more = self.slots[j, s]
        if kind in ("same", "rows"):
            return None
        back = more[1] if kind == "carry" else 0
        return place, more[0], back - (j <= self.exit) + (place <= self.exit)

    @property
    def order(self) -> list:
        """The places of an iteration of the new loop, but for the guard and for windows, which are rows."""
        return [j for j in (*range(self.exit + 1, self.period), *range(self.exit)) if j not in self.moves]

    def build(self, b, env, capacity):
        """Put the loop on a Builder; (its count, whether it was left by the guard, if it can be left otherwise)."""
        _copy(b, env, self.template[: self.exit])
        b.at(self.template[self.exit])
        slots = [(j, s) for j in (*self.order, self.exit) for s in range(len(self.template[j].operands))]
        depth = {}
        for place, r, back in [*[self.source(*at) for at in slots if self.source(*at)], *self.uses]:
            depth[place, r] = max(depth.get((place, r), 0), back)
        keys = sorted([(place, r, e) for (place, r), most in depth.items() for e in range(1, most + 1)])
        goes_on = self.template[self.exit].operands[0]
        inits = [*[self.before(b, env, *key) for key in keys], env.get(goes_on, goes_on)]
        fixed = [self.slots[at][1] for at in slots if self.slots[at][0] == "same"]
        fixed = list(dict.fromkeys([value for value in fixed if type(value) is not Constant]))
        rows, invariants = self.rows_of(b, env, slots), [env[value] for value in fixed]
        if not rows:
            *finals, _, count = self.run(b, keys, inits, {}, fixed, invariants, capacity)
            env.update(self.finals(keys, finals))
            return count, []
        ran = self.run(b, keys, [*inits, b.constant(0, I64)], rows, fixed, invariants, max(capacity, self.count))
        count, last = ran[-1], ran[len(keys)]
        body = Builder(f"loop_{b.name}", simplify=False)
        state = [body.param(x.type) for x in inits[:-1]]
        row = {at: body.param(x.type.with_shape(x.shape[1:])) for at, x in rows.items()}
        own = {value: body.param(x.type) for value, x in zip(fixed, invariants)}
        results = self.body(body, keys, state, row, own)[:-1]
        finals = apply_scan(b, body.finish(results), [count], inits[:-1], list(rows.values()), invariants, self.count)
        env.update(self.finals(keys, finals))
        return count, [b.not_(last) if self.on else last]

    def run(self, b, keys, inits, rows, fixed, invariants, capacity):
        """The while; with rows, their number is carried last."""
        body = Builder(f"while_{b.name}", simplify=False)
        state = [body.param(x.type) for x in inits]
        own = {value: body.param(x.type) for value, x in zip(fixed, invariants)}
        body.at(self.template[self.exit])
        row = {at: body.gather(body.param(x.type), state[-1]) for at, x in rows.items()}
        results = self.body(body, keys, state[: len(keys)], row, own)
        test = Builder(f"test_{b.name}", simplify=False)
        operands = [*inits, *invariants, *rows.values()]
        params = [test.param(x.type) for x in operands]
        again = params[len(keys)] if self.on else test.not_(params[len(keys)])
        if rows:
            results.append(body.add(state[-1], 1))
            again = test.and_(again, test.lt(params[len(keys) + 1], self.count))
        attrs = {"carries": len(inits), "capacity": capacity}
        return b.apply(WHILE, operands, attrs, (test.finish([again]), body.finish(results)))

    def body(self, b, keys, state, row, own) -> list:
        """An iteration on a Builder: what is carried on, and the value that the guard sees."""
        carried = dict(zip(keys, state))
        made = {(j, 0): row[j] for j in self.moves}

        def value(place, r, back):
            return made[place, r] if back == 0 else carried[place, r, back]

        def operand(j, s):
            kind, what, *_ = self.slots[j, s]
            if kind == "same":
                return what if type(what) is Constant else own[what]
            return row[j, s] if kind == "rows" else value(*self.source(j, s))

        for j in self.order:
            node = self.template[j]
            b.at(node)
            results = b.apply(node.op, [operand(j, s) for s in range(len(node.operands))], node.attrs, node.regions)
            made.update({(j, r): x for r, x in enumerate(results)})
        return [*[value(place, r, e - 1) for place, r, e in keys], operand(self.exit, 0)]

    def before(self, b, env, place, r, back):
        """The value of a place so many iterations before the new loop begins."""
        old = self.template[place].results[r]
        if place > self.exit or back > 1:
            old = self.inits.get((place, r, back - (place <= self.exit)))
            if old is None:  # read behind the loop only, where it ran
                return b.zeros(self.template[place].results[r].type)
        return env.get(old, old)

    def rows_of(self, b, env, slots) -> dict:
        """(place, operand), or the place of a window, -> an array of rows, one for each iteration of the new loop."""
        rows = {}
        for j, s in slots:
            if self.slots[j, s][0] == "rows":
                values = self.slots[j, s][1][j <= self.exit :]
                if all([type(x) is Constant for x in values]):
                    rows[j, s] = b.table(values=tuple([x.data for x in values]), dtype=values[0].dtype)
                else:
                    values = [b.broadcast(x, shape=()) if type(x) is Constant else env[x] for x in values]
                    rows[j, s] = b.concatenate(*[b.reshape_to(x, (1, *x.shape)) for x in values], axis=0)
        for j in self.moves:
            rows[j] = self.windows(b, env[self.slots[j, 0][1]], j)
        return rows

    def windows(self, b, x, j):
        """The windows at a place as rows; None where they cannot be."""
        start, step = self.moves[j]
        first = tuple([a + (j <= self.exit) * by for a, by in zip(start, step)])
        return moving_rows(b, x, first, step, self.template[j], self.count)

    def finals(self, keys, finals) -> dict:
        """The record's values that are used behind the loop -> those of the new one."""
        found = dict(zip(keys, finals))
        return {self.result(place, r, self.count - back): found[place, r, back] for place, r, back in self.uses}


class _Itself:
    """`same` for a record that is held against itself."""

    def __init__(self):
        self.pairs, self.stands = {}, {}

    def __call__(self, x, y) -> bool:
        return x is y


def _copy(b, env, nodes):
    for node in nodes:
        b.at(node)
        env.update(zip(node.results, b.apply(node.op, [env.get(o, o) for o in node.operands], node.attrs, node.regions)))


def _alike(x, y) -> bool:
    """Whether two nodes are the same operation, but for their operands and attributes."""
    return (
        x.op is y.op
        and len(x.operands) == len(y.operands)
        and [r.type for r in x.results] == [r.type for r in y.results]
        and [r.digest for r in x.regions] == [r.digest for r in y.regions]
    )


def _fits(constant) -> bool:
    """Whether a number is one that a table of f64 can hold."""
    return constant.dtype != BOOL and (constant.type.is_float or abs(constant.data) < 2**53)


def _equal(attrs, others) -> bool:
    """Whether attributes are the same, to the sign of a zero."""
    return attrs is others or (attrs == others and repr(attrs) == repr(others))
