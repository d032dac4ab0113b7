"""What lies between a tape's sources and targets, cut from the record as a Program, transformed and run.

In: a tape (its watched values and spans), targets, sources. Out: gradients or Jacobian blocks as Arrays. The cut is a Graph
of the sources and of everything else it reads; a transform is applied to it once per structure (by content hash).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from tapejit.ir.analysis import connected
from tapejit.ir.batch import batch
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.graph import Constant
from tapejit.ir.knobs import INTERP
from tapejit.ir.ops.guard import guard as GUARD
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.types import type_of
from tapejit.ir.walk import inline, walk

from .array import Array, make, unwrap
from .errors import ShapeError, located
from .mutation import own
from .promote import asarray, cast
from .record import Replay, state
from .trace import Program
from .transforms import Transform, basis, filled, pull
from .tree import ONE_LEAF, Tree
from .variable import Variable


def weights_of(targets, kept, given):
    out = []
    for i in kept:
        t = targets[i]
        w = None if given is None else given[i]
        if w is None:
            w = make(np.ones(t.shape, t.dtype))
        w = cast(asarray(w), t.dtype)
        if w.shape != t.shape:
            raise located(
                ShapeError, f"output_gradients: shape {w.shape} for a target of shape {t.shape}", "one weight per element"
            )
        out.append(w)
    return out


class Cut:
    """What a tape recorded between sources and targets, as a Program of the sources.

    Sources that are intermediate values get an added zero parameter each (`source + 0`), whose cotangent is theirs,
    so that several sources may depend on each other, as TensorFlow allows. A Variable that was assigned to between reads
    is several sources (`owned`), whose gradients are summed.
    """

    def __init__(self, tape, targets, sources):
        self.tape = tape
        self.targets = [self.readings(t)[-1] for t in targets]
        readings = [self.readings(s) for s in sources]
        self.sources = [r for own in readings for r in own]
        at = iter(range(len(self.sources)))
        self.owned = [[next(at) for _ in own] for own in readings]  # per source as given: where it is in self.sources
        records = [r for r in [t._record for t in self.targets] if r in tape._spans]
        self.record = max(records, key=lambda r: r.depth, default=None)
        self.kept, self.live = [], set()
        if self.record is not None:
            self._mark()

    def readings(self, x) -> list:
        """What stands for a source or target on the tape: the Arrays that a Variable was read as; else itself."""
        if not isinstance(x, Variable):
            return [x]
        known = [record.readings.get(id(x), (x, []))[1] for record in self.tape._spans]
        return [reading for readings in known for reading in readings] or [x]

    def _value(self, x):
        """The value of an Array in the cut record, or None."""
        if x._record is self.record:
            return self.record.value(x)
        return self.record.captured(x)

    def _mark(self):
        """Forward over the spans: which values depend on a watched one; which targets do."""
        live = self.live
        for value, array in self.tape._watched.items():
            if array._record is self.record:
                live.add(value)
            elif (captured := self.record.captured(array)) is not None:
                live.add(captured)
        self.nodes = []
        for start, end in self.tape._spans[self.record]:
            for node in self.record.nodes[start:end]:
                if node.op is not GUARD and any([o in live for o in node.operands]):
                    self.nodes.append(node)
                    live.update(node.results)
        values = [self._value(t) if isinstance(t, Array) else None for t in self.targets]
        self.kept = [i for i, v in enumerate(values) if v in live and v.type.is_float]

    def reaches(self, i) -> bool:
        """Whether a target depends on source i."""
        source = self._value(self.sources[i])
        if source is None or source not in self.live:
            return False
        graph, _, count = self._graph()
        active = [k == i for k in range(len(graph.params))]
        on = connected(graph, active)
        return bool(on) and on[0]

    def _graph(self):
        """(graph, its non-source inputs, number of sources). Parameters: sources, then everything else it reads."""
        wanted = [self._value(self.targets[i]) for i in self.kept]
        needed, kept = set(wanted), []
        for node in reversed(self.nodes):
            if any([r in needed for r in node.results]):
                kept.append(node)
                needed.update(node.operands)
        kept.reverse()
        b = Builder("tape", simplify=False)
        env, deltas = {}, {}
        for k, s in enumerate(self.sources):
            value = self._value(s)
            param = b.param(type_of(s._data), f"source{k}")
            if value is None or value not in self.live:
                continue
            if value.node is None and value not in env:
                env[value] = param
            else:
                deltas.setdefault(value, []).append(param)
        inputs = []

        def lookup(value):
            if type(value) is Constant:
                return value
            found = env.get(value)
            if found is None:
                found = env[value] = shifted(value, b.param(value.type))
                inputs.append(value)
            return found

        def shifted(value, at):
            for delta in deltas.get(value, ()):
                b.tag = "tape"
                at = b.add(at, delta)
            return at

        for value in [v for v in deltas if v in env]:  # the same leaf given twice as a source
            env[value] = shifted(value, env[value])
        for node in kept:
            b.at(node)
            operands = [lookup(o) for o in node.operands]
            b.at(node)
            results = b.apply(node.op, operands, node.attrs, node.regions)
            for old, new in zip(node.results, results):
                env[old] = shifted(old, new) if old in deltas else new
        return b.finish([lookup(v) for v in wanted]), inputs, len(self.sources)

    def transformed(self, transform: Transform):
        """(the transformed program, its inputs beside the sources, per source whether its gradient is a result)."""
        graph, inputs, count = self._graph()
        key = (graph.digest, transform.key, count)
        known = _programs.get(key)
        if known is None:
            args = Tree("tuple", None, (ONE_LEAF,) * count)
            in_tree = Tree("tuple", None, (args, Tree("dict", (dict, ()))))
            outs = Tree("list", None, (ONE_LEAF,) * len(graph.results))
            ready = optimize(graph, differentiate_later=True)
            known = _programs[key] = _Known(transform.apply(Program(ready, in_tree, outs, [], "the tape's record"), None))
            while len(_programs) > _MAX_PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return known, inputs, known.program.connected

    def run(self, known, inputs, weights):
        """The transformed program at the recorded values: replayed if something still records, else compiled."""
        sources = []
        for s in self.sources:
            value = self._value(s)
            plain = value is not None and value in self.live and value.node is None
            first = plain and not any([self._value(o) is value for o in self.sources[: len(sources)]])
            sources.append(s if first else make(np.zeros(s.shape, s.dtype)))
        arguments = [*sources, *weights, *[self.record.arrays[v] for v in inputs]]
        base = state.base
        if state.records or (base is not None and any([isinstance(x, Array) and x._record is base for x in arguments])):
            return [own(x, arguments) for x in walk(known.program.graph, Replay(), arguments)]
        return [make(r) for r in known.run([unwrap(x) for x in arguments])]

    def why(self, source) -> str:
        """Why a source has no gradient, in words."""
        name = f"Variable {source.name}" if isinstance(source, Variable) and source.name else "the source"
        if not isinstance(source, Array):
            return f"{name} is {type(source).__name__}, not an Array: nothing computed from it is recorded"
        if source.dtype.kind != "f":
            return f"{name} has dtype {source.dtype}, and only floats have derivatives"
        if self.record is None:
            return "the target was not computed on this tape from a watched value"
        values = [self._value(r) for r in self.readings(source)]
        if not any([v in self.live for v in values]):
            if isinstance(source, Variable):
                return f"{name} was not read while the tape recorded"
            return f"{name} was not watched by this tape (tape.watch(x)), or was computed before the tape began"
        reads = getattr(self.record, "reads", {})
        if reads:
            how, where = next(iter(reads.values()))
            line = f" at {where[0]}:{where[1]}" if where else ""
            return f"the target does not depend on {name}; note that a recorded value went through {how}{line}"
        return f"the target does not depend on {name}"


_MAX_PROGRAMS = 512
_programs: OrderedDict = OrderedDict()  # (content hash of the cut, transform, sources) -> _Known


class _Known:
    """A gradient program that a tape met: interpreted the first time, compiled from the second on."""

    __slots__ = ("program", "graph", "code", "runs")

    def __init__(self, program):
        self.program, self.graph, self.code, self.runs = program, optimize(program.graph), None, 0

    def run(self, arrays):
        self.runs += 1
        if self.runs == 1 or INTERP.value:
            return evaluate(self.graph, arrays)
        if self.code is None:
            from tapejit.codegen import compile_graph

            self.code = compile_graph(self.graph, "tape")
        return self.code.run([np.asarray(x, order="C") for x in arrays])


class BatchJacobian(Transform):
    """d target[b, i] / d source[b, j] for all b: one VJP per element of a row of the target, batched."""

    def __init__(self, source):
        self.source = source
        self.key = ("batch_jacobian", source)

    def apply(self, program, context):
        graph = program.graph
        (result,), p = graph.results, graph.params[self.source]
        size, row = result.shape[0], result.type.with_shape(result.shape[1:])
        inner = Builder(graph.name)
        env = {q: inner.param(q.type, q.name) for q in graph.params}
        seed = inner.param(result.type, "ct")
        active = [q is p for q in graph.params]
        grads, _ = pull(program, inner, graph, env, active, [seed])
        vjp = inner.finish(filled(inner, [grads[self.source]], [p]))
        batched, _ = batch(vjp, [False] * len(graph.params) + [True], row.size, all_results=True)
        b = Builder("batch_jacobian")
        params = [b.param(q.type, q.name) for q in graph.params]
        unit = basis(b, row)  # [row size, *row]: the same unit vector for every element of the batch
        unit = b.broadcast_to(b.reshape_to(unit, (row.size, 1, *row.shape)), (row.size, *result.shape))
        (rows,) = inline(b, batched, [*params, unit], "vjp")  # [row size, b, *source row]
        rows = b.transpose(rows, perm=(1, 0, *range(2, rows.ndim)))
        return program.replace(b.finish([b.reshape_to(rows, (size, *row.shape, *p.shape[1:]))]), out_tree=ONE_LEAF)
