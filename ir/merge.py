"""Several paths through one function -> one graph that branches where they part.

In: graphs of equal parameters and result types, each the optimized record of one sequence of guard outcomes. Out: `Merged`,
whose graph computes what the graphs need in common once; where a guard saw different values in them stands a `switch` over
these values, whose regions hold the rest of each path, merged likewise. A value that no path saw fails a guard, as before.

The algorithm is value numbering: a node's number is that of its operation, attributes and operands' numbers, in one table for
all graphs. Before a split stands what the guards up to it need, and nothing else: the rest is made in the branch
that needs it, where it can be fused with its uses. A branch takes what was made outside as operands, except what is cheaper
to compute again than to keep in memory (`fleeting`).
"""

from __future__ import annotations

from dataclasses import dataclass

from .build import Builder
from .graph import Constant, Graph
from .op import TABLE
from .ops.guard import guards_of
from .types import BOOL, I64

CHEAP = 4  # operations per element that are computed again rather than stored,
SMALL = 64  # for values of more elements than this


@dataclass
class Merged:
    """graph: its results are those of the path taken, and the number of that path. guards: for each of the graph's guards, in
    the order in which compiled code numbers them, a path that has it and its number there."""

    graph: Graph
    guards: list


def merge(graphs, names) -> Merged | None:
    """The graphs as one, or None where those that agree up to a guard do not compute it the same way, or guard inside a loop.

    names: of each graph's parameters, hashable; parameters of equal names are one.
    """
    b = Builder(graphs[0].name, simplify=False)
    try:
        merger = _Merger(graphs, names)
        env = {number: b.param(p.type, p.name) for number, p in merger.params.items()}
        results = merger.part(b, env, range(len(graphs)), 0)
    except _Different:
        return None
    return Merged(b.finish(results), merger.guards)


class _Different(Exception):
    """Two paths cannot be matched."""


class _Path:
    """A graph with its values numbered. guards: of each (seen, number of its operand)."""

    def __init__(self, graph, names, table):
        self.graph, self.numbers, self.guards = graph, {}, []
        for p, name in zip(graph.params, names):
            self.numbers[p] = table.setdefault(("parameter", name), len(table))
        for node in graph.nodes:
            operands = [self.number(o, table) for o in node.operands]
            if node.op.kind == "guard":
                self.guards.append((node.attrs["seen"], operands[0]))
                continue
            if any([guards_of(region) for region in node.regions]):
                raise _Different
            if node.op.commutative:
                operands.sort()
            key = (node.op, *operands, repr(sorted(node.attrs.items())), *[r.digest for r in node.regions])
            for i, r in enumerate(node.results):
                self.numbers[r] = table.setdefault((i, key), len(table))
        self.results = [self.number(r, table) for r in graph.results]

    def number(self, value, table):
        if type(value) is Constant:
            return table.setdefault(value.key, len(table))
        return self.numbers[value]

    def needed(self, known, wanted) -> set:
        """The numbers that these are computed from, themselves included, back to those that are known."""
        need = set(wanted)
        for node in reversed(self.graph.nodes):
            made = [self.numbers[r] for r in node.results]
            if any([n in need and n not in known for n in made]):
                need.update([self.numbers[o] for o in node.operands if type(o) is not Constant])
        return need


class _Merger:
    def __init__(self, graphs, names):
        table = {}
        self.paths = [_Path(g, n, table) for g, n in zip(graphs, names)]
        self.params = {}
        for path in self.paths:
            for p in path.graph.params:
                self.params.setdefault(path.numbers[p], p)
        self.guards = []

    def part(self, b, env, members, guard):
        """Make on `b` what these paths, which agree on all guards before number `guard`, do from there on; the results."""
        paths = [self.paths[m] for m in members]
        if len(members) == 1:
            (path,) = paths
            self.emit(b, env, members[0], guard, len(path.guards), path.results)
            return [_value(path, env, r) for r in path.graph.results] + [b.constant(members[0], I64)]
        split = guard
        while len(ways := {p.guards[split] for p in paths if split < len(p.guards)}) == 1:
            split += 1
        branches = {}
        for m, p in zip(members, paths):
            if split >= len(p.guards):
                raise _Different
            branches.setdefault(p.guards[split][0], []).append(m)
        if len(branches) < len(ways):
            raise _Different
        lead, at = members[0], paths[0].guards[split][1]
        onward = dict.fromkeys(branches, split + 1)
        if len({n for _, n in ways}) > 1:  # lanes: whether all are true decides, and whether none is is guarded
            if not all([type(seen) is bool for seen in branches]):
                raise _Different
            lead = branches[True][0]
            at, onward[False] = self.paths[lead].guards[split][1], split
        self.emit(b, env, lead, guard, split, [at])
        kept = {n: v for n, v in env.items() if not _fleeting(v)}
        wanted = [p.needed(kept, [*p.results, *[n for _, n in p.guards[split:]]]) for p in paths]
        live = [n for n in kept if n == at or any([n in w for w in wanted])]
        index, regions = env[at], []
        for seen in sorted(branches):
            inner = Builder(f"{b.name}_{seen}", simplify=False)
            own = {n: inner.param(env[n].type) for n in live}
            regions.append(inner.finish(self.part(inner, own, branches[seen], onward[seen])))
        b.loc, b.tag = None, ""
        if index.dtype == BOOL:
            index = b.convert(index, dtype=I64)
        else:
            regions.append(self.leave(live, at, lead, split, regions[0]))
            index = b.constant(len(branches), I64)
            for i, seen in enumerate(sorted(branches)):
                index = b.select(b.eq(env[at], b.constant(seen, env[at].dtype)), b.constant(i, I64), index)
        return list(b.apply(TABLE["switch"], [index, *[env[n] for n in live]], {}, tuple(regions)))

    def leave(self, live, at, member, split, other):
        """The region for a value that no path saw: a guard that fails."""
        b = Builder(f"{other.name}_leave", simplify=False)
        own = {n: b.param(p.type) for n, p in zip(live, other.params)}
        b.guard(own[at], seen=self.paths[member].guards[split][0])
        self.guards.append((member, split))
        return b.finish([b.zeros(r.type) for r in other.results])

    def emit(self, b, env, member, first, end, wanted):
        """Apply what these numbers and the guards from `first` to `end` need of a path, and these guards, in its order."""
        path, number = self.paths[member], 0
        need = path.needed(env, [*wanted, *[n for _, n in path.guards[first:end]]])
        for node in path.graph.nodes:
            if node.op.kind == "guard":
                number += 1
                if not first < number <= end:
                    continue
                self.guards.append((member, number - 1))
            elif not any([path.numbers[r] in need and path.numbers[r] not in env for r in node.results]):
                continue
            b.at(node)
            results = b.apply(node.op, [_value(path, env, o) for o in node.operands], node.attrs, node.regions)
            env.update(zip([path.numbers[r] for r in node.results], results))


def _value(path, env, value):
    return value if type(value) is Constant else env[path.numbers[value]]


def _fleeting(value) -> bool:
    """Whether a value is computed again in the branches that need it."""
    node = value.node
    if node is None or value.type.size <= SMALL:
        return False
    return node.op.kind in ("movement", "create") or (node.op.kind == "elementwise" and node.op.cost <= CHEAP)
