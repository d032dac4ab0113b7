"""The paths of one key: a function's specializations along the outcomes of its guards.

In: Programs as recorded and transformed, and the exits (guard, observed value) that compiled code leaves with. Out: `Paths`,
which says what code to run next. Its tree branches where paths part: a `Split` stands for one guard and has a branch for
each value seen there; the leaves are the `Path`s. What lies below a Split agrees on all guards before it, so that any path
of a branch will do to go on with: the one taken last is tried, and the next exit leads further down. A value that belongs
deep in the tree is found in a step or two if it resembles the last one, not in one step a Split. Loops of many iterations are
folded (ir/passes/reroll.py), their guards too: what is seen there is a value and the number of iterations, and where such a
loop is left, or what follows it, any other number is worth a try, those first that lie between too few and too many. So it
is with the room that a while_loop has.

A Path checks all its own guards, so the tree only finds candidates: no path ever runs for a value that is not its own, and
any leaf may be dropped at any time. Past MAX_PATHS, or MAX_OPERATIONS in all of them (where there are FEW, that is no
matter), it is the one that has not been taken for longest, with a warning that names the line where paths part most.

Compiling takes much longer than recording, and some functions take a new path at every call (the accepted and rejected steps
of an adaptive integrator). So where there are FEW others already, a new one is run by the interpreter, and compiled when it
is taken a second time.

Paths that have been there for a while are merged (`Merged`): one function computes what they have in common once, and branches.
It says which path was taken, and leaves as they do.

Two records that agree on every outcome up to a guard must hold the same operations up to there. Where they do not, the
function reads something that is guarded by nothing (an iterator, a file, a clock), and what is compiled has frozen it: that
is found when a path joins the tree (`is_same`), and is an error with both lines.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter, namedtuple

import numpy as np

from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.graph import Constant
from tapejit.ir.knobs import INTERP
from tapejit.ir.location import describe, resolve
from tapejit.ir.merge import SMALL, merge
from tapejit.ir.ops.guard import guard, guards_of
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.text import show
from tapejit.ir.trips import Trips

from .array import Array
from .errors import HiddenStateError, TapejitWarning, located

MAX_PATHS = 64
MAX_OPERATIONS = 500_000  # about 200 MB
FEW = 8
MANY = 32  # from which on paths with short loops become one
QUIET = 32  # calls without a new path, until paths are merged; four times as many each time
ONE_SIDED = 7 / 8  # of the calls
MAX_MERGED = 5000  # operations of all that is merged: about a second of compiling

Exit = namedtuple("Exit", "index observed")


class Path:
    """One specialization: the code of one key along one sequence of guard outcomes.

    soon: it is too soon to compile it, as it may not be taken again. The interpreter runs it until `compile` is called.
    """

    __slots__ = (
        "program", "graph", "code", "sources", "calls", "hits", "looked", "used", "dtypes", "seen", "locs", "soon", "openable",
    )  # fmt: skip

    def __init__(self, program, soon=False):
        self.program, self.graph = program, program.graph
        self.code = None
        self.sources = program.captures if program.trips is None else [*program.captures, *program.trips.tables]
        self.openable = ...  # the Trips of its record, once that was looked for; None if there are none
        self.calls = {}  # how many, by structure of `out`; None if there is none
        self.hits = np.zeros(1, np.int64)  # calls that machine code answered, which counts them here,
        self.looked = 0  # and how many when it was last looked
        self.used = 0
        self.dtypes = [p.dtype for p in program.graph.params[: program.leaves]]
        self.seen, self.locs = seen_in(program.graph), [g.loc for g in guards_of(program.graph)]
        self.soon = soon
        if not soon:
            self.compile()

    def compile(self):
        graph = optimize(self.graph)
        code = None if INTERP.value else _compile(graph, self.program.name)
        self.program = self.program.replace(graph, connected=self.program.connected)
        self.soon, self.graph, self.code = False, graph, code

    def loops(self):
        """The loops of its record that may run more or less often, if nothing was made of them yet; else None."""
        if self.openable is ...:
            self.openable = None if self.program.trips is not None else Trips.of(self.program.recorded.graph)
        return self.openable

    @property
    def counters(self) -> list:
        """What machine code counts calls in."""
        return [self.hits]

    @property
    def operations(self) -> int:
        """How many are kept, the record's included."""
        return len(self.graph) + len(self.program.recorded.graph)

    @property
    def count(self) -> int:
        """How often it was taken."""
        return sum(self.calls.values()) + int(self.hits[0])

    def inputs(self, leaves) -> list:
        """Arrays for the parameters: arguments, then captured arrays as they are now."""
        arrays = [_ready(x, d) for x, d in zip(leaves, self.dtypes)]
        return arrays + [_ready(x, _data(x).dtype) for x in self.sources] if self.sources else arrays

    def run(self, inputs, target=None):
        """Results, in the target's arrays where that can be, or an exit where control flow leaves this path."""
        if self.code is not None:
            return self.code.run(inputs, None if target is None else target.direct(self.program, inputs))
        try:
            return interpreted(self.graph, inputs)
        except GuardFailed as miss:
            return Exit(guards_of(self.graph).index(miss.node), miss.observed)


def _compile(graph, name):
    from tapejit.codegen import compile_graph

    return compile_graph(graph, name)


def _data(x):
    return x._data if isinstance(x, Array) else x


def _ready(x, dtype):
    """An argument as compiled code takes it: a C-contiguous, aligned array of this dtype; itself if it is one."""
    if type(x) is not np.ndarray:
        x = np.asarray(_data(x), dtype)
    flags = x.flags
    if flags.c_contiguous and flags.aligned and x.dtype == dtype:
        return x
    return np.require(x, dtype, "CA").reshape(x.shape)  # require makes 0-d arrays 1-d


def interpreted(graph, inputs) -> list:
    """The results of the interpreter as fresh arrays: as in compiled code, none shares memory with an input."""
    return [np.array(r) for r in evaluate(graph, inputs)]


def seen_in(graph, place=()) -> list:
    """What the guards saw, in the order in which compiled code numbers them: of those in a loop a tuple, with its place and
    length, of whether a while_loop had room enough one with its capacity, of how often loops ran one with a hash. Graphs of
    equal lists went the same way."""
    out, loops = [], 0
    for node in graph.nodes:
        if node.op is guard:
            what = (*place, *[node.attrs[k] for k in ("capacity", "trips") if k in node.attrs])
            out.append((node.attrs["seen"], *what) if what else node.attrs["seen"])
        for region in node.regions:
            out += seen_in(region, (*place, loops, node.attrs.get("length")))
        loops += bool(node.regions)
    return out


class Split:
    """A guard, by its number, where paths part. branches: by what was seen a Split or a Path. recent: the path below that
    was taken last."""

    __slots__ = ("guard", "branches", "recent")

    def __init__(self, guard, branches, recent):
        self.guard, self.branches, self.recent = guard, branches, recent

    @property
    def loc(self):
        return self.recent.locs[self.guard]


class Merged(Path):
    """Code of several paths in one function. members: the Paths; guards: see ir/merge.py."""

    __slots__ = ("members", "guards")

    def __init__(self, members, merged):
        first = members[0].program
        super().__init__(first.replace(merged.graph, connected=first.connected), soon=True)
        self.members, self.guards, self.soon = members, merged.guards, False
        sources = {id(x): x for m in members for x in m.sources}
        self.sources = list(sources.values())
        self.code = _compile(merged.graph, first.name)

    @property
    def counters(self) -> list:
        return [m.hits for m in self.members]

    def start(self, leaves, target):
        """(the path that was taken, results), or (a path, where it is left)."""
        inputs = self.inputs(leaves)
        given = None if target is None else target.direct(self.program, inputs)
        results = self.code.run(inputs, None if given is None else [*given, None])
        if type(results) is list:
            return self.members[int(results.pop())], results
        member, guard = self.guards[results.index]
        return self.members[member], Exit(guard, results.observed)


class Paths:
    """All paths of one key. holds: the objects that the key tells by identity. merged: several of them in one function.
    merge_at: how many calls have to be seen until they are merged, None if nothing new is to be."""

    def __init__(self, name, first, holds=()):
        self.name, self.top, self.holds = name, first, holds
        self.clock, self.warned = itertools.count(1), False
        self.merged, self.merges, self.merge_at = None, 0, None
        self.tally = {}  # how often each path had been taken

    @property
    def count(self) -> int:
        """The number of calls."""
        return sum([path.count for path in self])

    def start(self, leaves, target):
        """Run what is most likely right: (path, results), or (path, where it is left)."""
        if self.merged is not None:
            return self.merged.start(leaves, target)
        path = self.recent
        return path, path.run(path.inputs(leaves), target)

    def merge(self):
        """Have one function for as many paths as have results of one structure. Returns what is to be tried first from now
        on, that function or a path; None if nothing changes."""
        self.merge_at = None
        groups = {}
        for path in self:
            if path.code is not None:
                types = [r.type for r in path.graph.results]
                groups.setdefault((path.program.out_tree, *types), []).append(path)
        members = max(groups.values(), key=len, default=[])
        if len(members) < 2 or sum([len(p.graph) for p in members]) > MAX_MERGED:
            return None
        alone = None
        if any([r.type.size > SMALL for p in members for n in p.graph.nodes for r in n.results]):
            self.merge_at, alone = 2 * self.count, self._taken_mostly(members)
        if self.merged is not None and self.merged.members == members:
            return alone
        found = None if alone is not None else merge([p.graph for p in members], [_names(p) for p in members])
        if found is None:
            return None
        self.merged, self.merges = Merged(members, found), self.merges + 1
        return self.merged

    def _taken_mostly(self, members):
        """The path that nearly all calls took since this was last asked, or None. Of large arrays that is faster alone, by up
        to a third: its code need not stop at a guard before it computes what lies behind."""
        before, self.tally = self.tally, {path: path.count for path in members}
        taken = {path: count - before.get(path, 0) for path, count in self.tally.items()}
        most = max(members, key=taken.get)
        return most if taken[most] > ONE_SIDED * sum(taken.values()) else None

    def merge_later(self):
        """Merge when nothing has changed for a while, each time a longer one."""
        self.merge_at = None if INTERP.value else self.count + (QUIET << 2 * self.merges)

    def __len__(self):
        return sum([1 for _ in self])

    def __iter__(self):
        """The paths, in tree order."""
        stack = [self.top]
        while stack:
            node = stack.pop()
            if type(node) is Path:
                yield node
            else:
                stack.extend(reversed(list(node.branches.values())))

    @property
    def sources(self) -> list:
        """What the paths read beside the arguments."""
        return [x for path in self for x in path.sources]

    @property
    def recent(self) -> Path:
        """The one to try first: the one that was taken last."""
        return _recent(self.top)

    def route(self, seen) -> list:
        """The Splits that a path with these outcomes is below, then the Path or None where they end."""
        out = [self.top]
        while type(out[-1]) is Split:
            guard = out[-1].guard
            out.append(out[-1].branches.get(seen[guard]) if guard < len(seen) else None)
        return out

    def onward(self, path, exit, tried):
        """The path to try where `path` was left; None if there is none. tried: path -> Exit, of those that were."""
        for split in reversed(self.route(path.seen)[:-1]):
            if split.guard > exit.index:
                continue
            branches = list(split.branches.items())  # at once: another thread may add one
            likely = [b for seen, b in branches if split.guard == exit.index and _value(seen) == exit.observed]
            if any([type(seen) is tuple for seen, _ in branches]):  # a loop, of which it may have run another number
                likely += _by_length(branches, split.guard, tried)
            for branch in likely:
                if _recent(branch) not in tried:
                    return _recent(branch)
        return None

    def take(self, path):
        """Note that a path was taken, which was not the most recent one."""
        *splits, end = self.route(path.seen)
        if end is path:  # else another thread has dropped it meanwhile
            for split in splits:
                split.recent = path

    def nearest(self, program):
        """(the path with most outcomes in common with a new record, whether that is its own, the first guard that differs)."""
        near, guard = self.beside(seen_in(program.graph))
        return near, is_same(near.program, program, guard is not None), guard

    def beside(self, seen):
        """(the path with most outcomes in common with these, the first guard that differs)."""
        *splits, near = self.route(seen)
        if near is None:
            near = splits[-1].recent
        differs = [_unequal(a, b) for a, b in zip(near.seen, seen)]
        return near, differs.index(True) if True in differs else None

    # ---- loops that run more or less often -----------------------------------------------------------------------------
    def run_as(self, program):
        """(the path, ir/trips.Run) that a new record is, its loops run so often; (None, None) if there is none."""
        for path in self:
            trips = path.program.trips
            run = None if trips is None else run_of(trips, path.program, program)
            if run is not None:
                differs = trips.conflict(run)
                if differs is not None:
                    node = None if differs[0] is None else trips.recorded.nodes[differs[0]]
                    raise hidden_state(program, node, node)
                return path, run
        return None, None

    def opened(self, program):
        """(a Program for a new record and others that are it, their loops run more or less often, the paths of these), or
        (None, []). Of a function of which there is one such Program, any record with loops of the kind becomes one. Where
        loops are too short to be folded, paths stay as they are until they are many: merged, they are faster."""
        if len(self) < MANY and not any([type(seen) is tuple for path in self for seen in path.seen]):
            return None, []
        own = Trips.of(program.graph)
        several = own is not None and any([path.program.trips is not None for path in self])
        others = [(path.loops(), path.program) for path in self]
        for trips, owner in [(own, program), *others]:
            if trips is None or (owner is not program and not join(trips, owner, program)):
                continue
            members = [path for path in self if path.program is owner or join(trips, owner, path.program)]
            if members or several:
                return owner.opened(trips), members
        return None, []

    def replace(self, members, path) -> list:
        """Have a path join the tree in the place of others; those that gave way."""
        if len(members) == len(self):
            self.top, self.merged = path, None
            self.merge_later()
            return members
        for member in members:
            self._remove(member)
        return [*members, *self.add(path, *self.beside(path.seen))]

    def add(self, path, near, guard):
        """Have a path join the tree, which parts from the path `near` at a guard; the paths that gave way."""
        above = [n for n in self.route(near.seen) if type(n) is Split and n.guard <= guard]
        split = above[-1] if above else None
        if split is None or split.guard < guard:
            below = self.top if split is None else split.branches[near.seen[split.guard]]
            fresh = Split(guard, {near.seen[guard]: below}, path)
            self._put(split, near.seen, fresh)
            split = fresh
        split.branches[path.seen[guard]] = path
        self.take(path)
        self.merge_later()
        dropped = []
        while len(self) > MAX_PATHS or (len(self) > FEW and sum([p.operations for p in self]) > MAX_OPERATIONS):
            dropped.append(self._drop())
        return dropped

    def _put(self, split, seen, node):
        """Put a node below a split, or on top."""
        if split is None:
            self.top = node
        else:
            split.branches[seen[split.guard]] = node

    def _drop(self):
        """Drop the path that was not taken for longest."""
        if not self.warned:
            self.warned = True
            line, ways = self.most_split()
            warnings.warn(
                f"{self.name}: more than {len(self) - 1} paths through its control flow, {ways} of which part at {line}; those "
                "not taken for longest are dropped and recorded anew when met. np.where, tapejit.cond and tapejit.while_loop "
                "keep one path for all values.",
                TapejitWarning,
                stacklevel=6,
            )
        fresh, found = self.recent, None
        for path in self:
            if path.hits[0] > path.looked:  # by machine code, some time since it was last looked
                path.looked, path.used = int(path.hits[0]), next(self.clock)
            if path is not fresh and (found is None or path.used < found.used):
                found = path
        self._remove(found)
        return found

    def _remove(self, found):
        """Take a path out of the tree, which has others."""
        *above, _ = self.route(found.seen)
        parent = above.pop()
        del parent.branches[found.seen[parent.guard]]
        if len(parent.branches) == 1:  # splits nothing any more
            self._put(above[-1] if above else None, found.seen, next(iter(parent.branches.values())))
        else:
            above.append(parent)
        for split in reversed(above):
            if split.recent is found:
                split.recent = _recent(next(iter(split.branches.values())))
        if self.merged is not None and found in self.merged.members:
            self.merged = None

    def most_split(self):
        """(the source line where most paths part, how many)."""
        ways, example = Counter(), {}
        stack = [self.top]
        while stack:
            node = stack.pop()
            if type(node) is Split:
                where = resolve(node.loc)
                example[where] = node.loc
                ways[where] += len(node.branches) - 1
                stack += node.branches.values()
        ((where, most),) = ways.most_common(1)
        return describe(example[where]), most + 1


def _by_length(branches, guard, tried) -> list:
    """The branches at the guard of a loop. First those whose number of iterations lies between what was too few and too many,
    the middle one first, then those that are no folded loops, then the others, those taken last first."""
    low, high = -1, np.inf
    for path, exit in tried.items():
        n = _length(path.seen[guard]) if guard <= exit.index else None
        if n is not None and exit.index == guard:
            high = min(high, n)
        elif n is not None and type(path.seen[exit.index]) is not tuple:
            low = max(low, n)
    lengths = sorted([n for seen, _ in branches if (n := _length(seen)) is not None and low < n < high])
    middle = lengths[len(lengths) // 2] if lengths else None
    order = sorted(branches, key=lambda b: (_length(b[0]) != middle, _length(b[0]) is not None, -_recent(b[1]).used))
    return [branch for _, branch in order]


def _length(seen):
    """The number of iterations of the loop that a guard is in, if it is a folded one within no other."""
    return seen[2] if type(seen) is tuple and len(seen) == 3 else None


def _names(path) -> list:
    """Of a graph's parameters, those that are one in all paths having one."""
    return [*range(path.program.leaves), *[("source", id(x)) for x in path.sources]]


def _value(seen):
    return seen[0] if type(seen) is tuple else seen


def _unequal(a, b) -> bool:
    return type(a) is not type(b) or a != b


def _recent(node):
    return node if type(node) is Path else node.recent


# ---- hidden state --------------------------------------------------------------------------------------------------------
def is_same(old, new, parted=False) -> bool:
    """Whether two Programs of one key have equal records. An error if other operations were recorded though all guards
    before saw the same. parted: whether a guard saw another value anywhere."""
    found = difference(old, new)
    if found is None:
        return True
    before, now, here = found
    if here or (parted and new.recorded.nested):  # an inner graph lacks what only its other paths need, also before they part
        return False
    raise hidden_state(new, before, now)


def hidden_state(program, before, now):
    """The error for two runs of a function that differ in a node (None: its end) though all that is guarded was the same."""
    return located(
        HiddenStateError,
        f"{program.name} did different things in two runs in which everything that is guarded was the same: it reads something "
        f"that tapejit cannot see, an iterator, a counter in C code, a file or a clock\n  then: {_step(before)}\n"
        f"  now:  {_step(now)}",
        "pass what it reads as an argument, or read it outside of the function",
        where=resolve(now.loc) if now is not None else program.where,
    )


def run_of(trips, owner, program):
    """How a record ran, of a Program whose loops may run more or less often; None if it is not the same but for that."""
    owner, program = owner.recorded, program.recorded
    return trips.run_of(program.graph, _Pairs(owner, program)) if owner.out_tree == program.out_tree else None


def join(trips, owner, program) -> bool:
    """Have another record join; False if it is not the same but for how often its loops run."""
    run = run_of(trips, owner, program)
    if run is None or trips.conflict(run) is not None:
        return False
    trips.add(run)
    return True


def _step(node) -> str:
    if node is None:
        return "the function returned"
    constants = ", ".join([repr(o.data) for o in node.operands if type(o) is Constant])
    return f"{node.op.name}{constants and f' with {constants}'} at {describe(node.loc)}"


def difference(old, new):
    """The first nodes in which the records of two Programs differ, None being the end of one, and whether they are guards
    of one value that saw different things; None if there are none."""
    old, new = old.recorded, new.recorded
    a, b, same = old.graph, new.graph, _Pairs(old, new)
    for x, y in itertools.zip_longest(a.nodes, b.nodes):
        if x is None or y is None or not all(map(same, x.operands, y.operands)) or _content(x) != _content(y):
            parted = x is not None and y is not None and (x.op is y.op is guard or _differ_in_room(x, y))
            return x, y, parted and all(map(same, x.operands, y.operands))
        same.pairs.update(zip(x.results, y.results))
    if old.out_tree == new.out_tree and len(a.results) == len(b.results) and all(map(same, a.results, b.results)):
        return None
    return None, None, False


def _differ_in_room(x, y) -> bool:
    """Whether two nodes are the same while_loop, or hold the same ones, recorded when it had run more often or less."""
    return x.op is y.op and bool(x.regions) and _roomless(x) == _roomless(y)


def _roomless(node) -> list:
    """A node with regions, but for the room that while_loops have."""
    attrs = {k: v for k, v in node.attrs.items() if k != "capacity"}
    return [attrs, *[re.sub(r"capacity=\d+", "", show(r, locations=False)) for r in node.regions]]


def _content(node):
    return node.op, len(node.operands), node.attrs, [r.digest for r in node.regions]


class _Pairs:
    """Whether a value of one record is what a value of the other is."""

    def __init__(self, old, new):
        self.old, self.new, self.pairs, self.stands = old, new, {}, {}

    def __call__(self, x, y) -> bool:
        x = self.stands.get(x, x)
        known = self.pairs.get(x)
        if known is not None:
            return known is y
        if type(x) is Constant or type(y) is Constant:
            return type(x) is type(y) and x.key == y.key
        if x.node is not None or y.node is not None:
            return False
        one, other = self.source(self.old, x), self.source(self.new, y)
        if one is not other and (type(one) is int or type(other) is int or not _equal(_data(one), _data(other))):
            return False
        self.pairs[x] = y
        return True

    @staticmethod
    def source(program, param):
        """The number of an argument, or the captured object."""
        first = program.leaves
        return param.index if param.index < first else program.captures[param.index - first]


def _equal(x, y) -> bool:
    """Whether two arrays have the same type and bytes: such as are made anew in each run."""
    return (x.dtype, x.shape) == (y.dtype, y.shape) and x.tobytes() == y.tobytes()
