"""Optimise nested graphs, and loops with what is around them.

In: a Graph. Out: an equal Graph whose regions are optimised (by the pipeline itself: `inner`), and whose scans
    - have no result that nobody uses, and no carry, row or invariant that nothing needs (what reverse mode stacks in vain)
    - take as invariants what does not change: carries that are handed on, rows that are all the same; constants inline
    - compute nothing that depends on invariants alone: it is computed before the loop (movement of data stays inside,
      where it is an index map)
    - are no loops where one iteration needs nothing of another, but operations on all rows at once (`batch`), unless that
      takes more than MAP_BYTES of memory
A graph that came out of here is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from ..batch import batch
from ..build import Builder, guards
from ..graph import Constant, Graph
from ..op import TABLE
from ..ops.guard import guards_of
from ..ops.loop import apply_scan, parts, scan
from ..walk import Copy, inline, rebuild

CUSTOM = TABLE["custom"]
MAP_BYTES = 1 << 26  # of all values of all iterations of a loop that becomes operations on all rows
_INSIDE = frozenset([TABLE[n] for n in ("reshape", "transpose", "broadcast", "slice", "flip", "pad", "iota")])
_done: WeakKeyDictionary = WeakKeyDictionary()  # optimised region -> which ways of optimising it has seen


def optimize_regions(graph: Graph, inner: Callable[[Graph], Graph], way) -> Graph:
    """`inner` optimises a region; `way`: equal for equal ways of doing so."""
    if not any([node.regions and node.op is not CUSTOM for node in graph.nodes]):
        return graph
    while True:
        graph = rebuild(graph, _Regions(Builder(graph.name), _used(graph), inner, way))
        if not _in_vain(graph):  # a loop that needs less than before may have been what an earlier one stacked for
            return graph


def drop_unused(graph: Graph) -> Graph:
    """The graph whose scans have no result that nobody uses, nor what only such results need."""
    used = _used(graph)
    if not any([r not in used for node in graph.nodes if node.op is scan for r in node.results]):
        return graph
    return rebuild(graph, _Drop(Builder(graph.name, simplify=False), used))


def _used(graph) -> set:
    """The values that something reads."""
    return {o for node in graph.nodes for o in node.operands}.union(graph.results)


def _in_vain(graph) -> bool:
    """Whether a loop makes a stack that nothing reads."""
    used = _used(graph)
    return any([r not in used for node in graph.nodes if node.op is scan for r in node.results[node.attrs["carries"] :]])


class _Regions(Copy):
    def __init__(self, builder, used, inner, way):
        super().__init__(builder)
        self.used, self.inner, self.way = used, inner, way

    def region(self, graph):
        ways = _done.get(graph)
        if ways is None or self.way not in ways:
            graph = self.inner(graph)
            _done.setdefault(graph, set()).add(self.way)
        return graph

    def node(self, node, operands):
        if not node.regions or node.op is CUSTOM:
            return super().node(node, operands)
        regions = tuple([self.region(r) for r in node.regions])
        self.builder.at(node)
        if node.op is not scan:
            return self.builder.apply(node.op, operands, node.attrs, regions)
        return _Loop(self, node, regions[0], operands).results()


class _Drop(Copy):
    way = None

    def __init__(self, builder, used):
        super().__init__(builder)
        self.used = used

    def node(self, node, operands):
        if node.op is not scan:
            return super().node(node, operands)
        self.builder.at(node)
        return _Loop(self, node, node.regions[0], operands).cut()


class _Loop:
    """One scan on its way into the builder `b`. Sets of body values are by identity."""

    def __init__(self, pass_, node, body, operands):
        self.pass_, self.b, self.node, self.body, self.attrs = pass_, pass_.builder, node, body, node.attrs
        self.length, self.k = node.attrs["length"], node.attrs["carries"]
        self.count, self.inits, self.rows, self.invariants = parts(node.attrs, operands)
        self.wanted = [r in pass_.used for r in node.results]

    def results(self) -> list:
        b, k = self.b, self.k
        if self.length == 0:
            return [*self.inits, *[b.zeros(r.type) for r in self.node.results[k:]]]
        if self.length == 1 and not self.count:
            row = [b.reshape_to(x, x.shape[1:]) for x in self.rows]
            made = inline(b, self.body, [*self.inits, *row, *self.invariants])
            return [*made[:k], *[b.reshape_to(y, (1, *y.shape)) for y in made[k:]]]
        self.live()
        self.classify()
        if not self.state and not self.count and not guards_of(self.body) and self.small():
            return self.as_map()
        return self.as_scan()

    def cut(self) -> list:
        """The results, of a scan that does no more than it must."""
        self.live()
        rows = self.body.params[self.k : self.k + len(self.rows)]
        self.row_of, self.fixed = dict(zip(rows, self.rows)), dict(zip(self.body.params[self.k + len(rows) :], self.invariants))
        self.state = [i for i, p in enumerate(self.body.params[: self.k]) if p in self.needed or self.wanted[i]]
        return self.as_scan()

    def live(self):
        """What of the body is needed for the results that are wanted."""
        body, k = self.body, self.k
        needed = {r for r, w in zip(body.results, self.wanted) if w}
        params = {p: i for i, p in enumerate(body.params[:k])}
        while True:
            before = len(needed)
            needed.update([body.results[params[p]] for p in params if p in needed])
            for node in reversed(body.nodes):
                if any([r in needed for r in node.results]) or guards(node):
                    needed.update(node.results)
                    needed.update(node.operands)
            if len(needed) == before:
                break
        self.needed = needed
        self.nodes = [n for n in body.nodes if not n.results or any([r in needed for r in n.results])]

    def classify(self):
        """`state`: the carries that stay, by position; `fixed`: body value -> outer value that it is in every iteration;
        `row_of`: body parameter -> outer stack."""
        body, k = self.body, self.k
        rows = body.params[k : k + len(self.rows)]
        self.fixed = dict(zip(body.params[k + len(rows) :], self.invariants))
        self.row_of, self.state = {}, []
        for p, x in zip(rows, self.rows):
            same = _unstacked(self.b, x)
            if same is None:
                self.row_of[p] = x
            else:
                self.fixed[p] = same
        for i, p in enumerate(body.params[:k]):
            if body.results[i] is p:
                self.fixed[p] = self.inits[i]
            elif p in self.needed or self.wanted[i]:
                self.state.append(i)
        self.hoist()

    def hoist(self):
        """Compute before the loop what depends on nothing of it."""
        still, inside = set(), []
        for node in self.nodes:
            if node.op.kind == "guard" or node.regions or not all([_known(o, self.fixed, still) for o in node.operands]):
                inside.append(node)
            else:
                still.update(node.results)
        wanted = {o for node in inside for o in node.operands if o in still}
        results = [r for i, r in enumerate(self.body.results) if self.wanted[i] or i in self.state]
        wanted.update([r for r in results if r in still])
        before, self.nodes = [], inside
        outs = set(self.body.results[self.k :])
        stay = []
        for node in reversed(self.body.nodes):
            if not any([r in wanted for r in node.results]) or not all([r in still for r in node.results]):
                continue
            if node.op in _INSIDE and not any([r in outs for r in node.results]):
                stay.append(node)
            else:
                before.append(node)
            wanted.update([o for o in node.operands if o in still])
        # What stays may be wanted by what goes before the loop: then it is there, too.
        going = {o for node in before for o in node.operands}
        for node in stay:
            if node.results[0] in going:
                before.append(node)
                going.update(node.operands)
        position = {node: i for i, node in enumerate(self.body.nodes)}
        for node in sorted(before, key=position.get):
            self.b.at(node)
            made = self.b.apply(node.op, [self.fixed.get(o, o) for o in node.operands], node.attrs)
            self.fixed.update(zip(node.results, made))
        self.nodes = sorted([*self.nodes, *[n for n in stay if n.results[0] not in self.fixed]], key=position.get)
        self.b.at(self.node)

    def small(self) -> bool:
        if any([node.regions for node in self.nodes]):
            return False
        return self.length * sum([r.type.nbytes for node in self.nodes for r in node.results]) <= MAP_BYTES

    def out_of(self, i):
        """The stack of result i where it is not made by the loop, or None."""
        y, counted = self.body.results[i], bool(self.count)
        shape = (self.length, *y.shape)
        if type(y) is Constant and (not counted or y.data == 0):
            return self.b.broadcast_to(self.b.constant(y.data, y.dtype), shape)
        if not counted and y in self.fixed:
            return self.b.broadcast_to(self.fixed[y], shape)
        return self.row_of.get(y) if not counted else None

    def as_map(self):
        """All iterations at once."""
        lanes = Builder(self.body.name)
        env, operands, flags = self.inner(lanes, [])
        outs = [i for i in range(self.k, len(self.body.results)) if self.wanted[i] and self.out_of(i) is None]
        self.copy(lanes, env)
        graph = lanes.finish([env.get(self.body.results[i], self.body.results[i]) for i in outs])
        graph, _ = batch(graph, flags, self.length, all_results=True)
        made = dict(zip(outs, inline(self.b, graph, operands)))
        return self.collected(made)

    def as_scan(self):
        inner = Builder(self.body.name)
        env, operands, flags = self.inner(inner, self.state)
        self.copy(inner, env)
        outs = [i for i in range(self.k, len(self.body.results)) if self.wanted[i] and self.out_of(i) is None]
        results = [self.body.results[i] for i in [*self.state, *outs]]
        graph = inner.finish([env.get(r, r) for r in results])
        n, m = len(self.state), len([f for f in flags if f])
        if not (n or outs or guards_of(graph)):
            return self.collected({})
        _done.setdefault(graph, set()).add(self.pass_.way)
        inits, rows, fixed = operands[:n], operands[n : n + m], operands[n + m :]
        self.b.at(self.node)
        made = apply_scan(self.b, graph, self.count, inits, rows, fixed, self.length, self.attrs["reverse"])
        return self.collected(dict(zip([*self.state, *outs], made)))

    def inner(self, b, state):
        """Parameters of the new body: carries, rows, invariants. (env, outer operands, whether each is a row)."""
        env, operands, flags, known = {}, [], [], {}
        used = {o for node in self.nodes for o in node.operands}
        used.update([r for i, r in enumerate(self.body.results) if self.wanted[i] or i in state])
        for i in state:
            p = self.body.params[i]
            env[p] = b.param(p.type, p.name)
            operands.append(self.inits[i])
            flags.append(False)
        for row, values in ((True, self.row_of), (False, self.fixed)):
            for p, x in values.items():
                if p not in used:
                    continue
                if type(x) is Constant and not row:
                    env[p] = x
                    continue
                at = known.get((row, x))
                if at is None:
                    at = known[row, x] = b.param(p.type, getattr(p, "name", None))
                    operands.append(x)
                    flags.append(row)
                env[p] = at
        return env, operands, flags

    def copy(self, b, env):
        for node in self.nodes:
            env.update(zip(node.results, b.keep(node, [env.get(o, o) for o in node.operands])))

    def collected(self, made):
        """A value for each result of the node; those that nobody wants are None."""
        out = []
        for i, r in enumerate(self.body.results):
            if i in made:
                out.append(made[i])
            elif i < self.k:
                out.append(self.inits[i] if r is self.body.params[i] else None)
            else:
                out.append(self.out_of(i) if self.wanted[i] else None)
        return out


def _known(value, fixed, still):
    return type(value) is Constant or value in fixed or value in still


def _unstacked(b, x):
    """The row that all rows of a stack are, or None."""
    node = x.node
    if node is None or node.op.name != "broadcast":
        return None
    (source,) = node.operands
    if source.ndim == x.ndim:
        if source.shape[0] != 1:
            return None
        source = b.reshape_to(source, source.shape[1:])
    return b.broadcast_to(source, x.shape[1:])
