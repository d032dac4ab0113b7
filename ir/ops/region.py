"""`custom`, a function with a derivative of the user's own. The other operations with regions: `loop.py`, `branch.py`.

custom(x_1..x_n), attrs `outputs` = k, `captured` = m, `name`; regions (primal, pullback).
    primal: x_1..x_n -> y_1..y_k, r_1..r_j     the function as written, and what its pullback uses (residuals)
    pullback: r_1..r_j, ct_1..ct_k -> one cotangent per operand but the last m, which are captured values
The derivative of the y is the pullback, whatever the primal computes; forward mode transposes the pullback, which is
linear in ct. The residuals are ordinary results, differentiated through the primal: so higher orders are right.
"""

from __future__ import annotations

from ..backward import transpose_into
from ..batch import batch
from ..build import Builder
from ..evaluate import evaluate
from ..graph import Graph
from ..linearize import linearize
from ..op import Derivative, Op, register
from ..walk import Copy, inline, rebuild


class CapturedDerivative(Exception):
    """A derivative was asked with respect to a value that a custom gradient captured instead of taking it."""


def _infer(types, attrs, regions):
    primal, pullback = regions
    if [p.type for p in primal.params] != list(types):
        raise TypeError(f"custom {attrs['name']}: operands {types}, region takes {[p.type for p in primal.params]}")
    return tuple(r.type for r in primal.results)


def _evaluate(*xs, regions, **attrs):
    return tuple(evaluate(regions[0], xs))


def _check_captured(node, flags):
    captured = node.attrs["captured"]
    if captured and any(flags[len(flags) - captured :]):
        raise CapturedDerivative(node.attrs["name"])


def _split(node, values):
    k = node.attrs["outputs"]
    return values[:k], values[k:]


def _pull(b, node, ys, cts, wanted):
    """Cotangents of the operands from those of y, by the pullback; None where not wanted."""
    pullback = node.regions[1]
    outs, residuals = _split(node, ys)
    seeds = [b.zeros(y.type) if ct is None else ct for y, ct in zip(outs, cts)]
    grads = inline(b, pullback, [*residuals, *seeds], "vjp")
    grads += [None] * (len(wanted) - len(grads))
    return [g if want else None for g, want in zip(grads, wanted)]


class _CustomDerivative(Derivative):
    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        _check_captured(node, wanted)
        out_cts, residual_cts = _split(node, cts)
        total = [None] * len(xs)
        if any(ct is not None for ct in out_cts):
            total = _pull(b, node, ys, out_cts, wanted)
        if any(ct is not None for ct in residual_cts):
            primal = _residuals_only(node)
            env = dict(zip(primal.params, xs))
            grads, _ = transpose_into(b, primal, env, wanted, residual_cts)
            total = [b.accumulate(t, g) for t, g in zip(total, grads)]
        return total

    def jvp(self, b, node, xs, ys, tangents):
        active = [t is not None for t in tangents]
        _check_captured(node, active)
        outs, residuals = _split(node, ys)
        pullback = node.regions[1]
        # t_y = L^T t_x for the pullback L: ct -> cotangents of x, transposed in ct at any point (here zero).
        seeds = [b.zeros(y.type) for y in outs]
        env = dict(zip(pullback.params, [*residuals, *seeds]))
        flags = [False] * len(residuals) + [True] * len(seeds)
        grads, _ = transpose_into(b, pullback, env, flags, list(tangents[: len(pullback.results)]))
        t_outs = list(grads[len(residuals) :])
        t_residuals = [None] * len(residuals)
        if residuals:
            graph = linearize(_residuals_only(node), active)
            both = inline(b, graph, [*xs, *[t for t in tangents if t is not None]], "jvp")
            t_residuals = both[len(residuals) :]
        return (*t_outs, *t_residuals)


def _residuals_only(node) -> Graph:
    primal = node.regions[0]
    return Graph(primal.name, primal.params, primal.nodes, primal.results[node.attrs["outputs"] :])


def _batch(b, node, xs, batched, size):
    k = node.attrs["outputs"]
    residuals = len(node.regions[0].results) - k
    pullback, _ = batch(node.regions[1], [True] * (residuals + k), size, all_results=True)
    xs = [x if on else b.broadcast_to(x, (size, *x.shape)) for x, on in zip(xs, batched)]
    primal, _ = batch(node.regions[0], [True] * len(xs), size, all_results=True)
    return b.apply(node.op, xs, node.attrs, (primal, pullback))


custom = register(
    Op(
        "custom", "region", _infer, _evaluate, _CustomDerivative(), _batch, dtypes="fib", arity=None,
        doc="A function with a derivative of the user's own.",
    )
)  # fmt: skip


def expand(graph: Graph) -> Graph:
    """The graph with every custom node replaced by its primal region: done last, when no derivative is due."""
    if not any(node.regions for node in graph.nodes):
        return graph
    return rebuild(graph, _Expand(Builder(graph.name)))


class _Expand(Copy):
    def node(self, node, operands):
        if node.op is custom:
            return inline(self.builder, expand(node.regions[0]), operands)
        regions = tuple([expand(region) for region in node.regions])
        if any([new is not old for new, old in zip(regions, node.regions)]):
            self.builder.at(node)
            return self.builder.apply(node.op, operands, node.attrs, regions)
        return super().node(node, operands)
