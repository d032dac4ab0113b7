"""`switch`: one of several regions is run, which one is a run-time value.

switch(index, operands...), any number of regions, all operands -> results of the same types
    index: an i64; it is clamped to the regions there are.

Only the region taken is computed, in the derivatives too: each is a switch over the derivatives of the regions, and what
reverse mode needs of the forward part it computes again inside the region taken. Batched over the index, all
regions are computed and the results selected lane by lane.
"""

from __future__ import annotations

from ..analysis import depends
from ..backward import transpose_into
from ..batch import batch
from ..build import Builder
from ..evaluate import evaluate
from ..linearize import linearize
from ..op import NOT_TAKEN, Derivative, Op, register
from ..types import I64, tensor
from ..walk import inline
from .guard import unguarded


def _infer(types, attrs, regions):
    if types[0] is not tensor(I64):
        raise TypeError(f"switch: the index is an i64, not {types[0]}")
    made = [r.type for r in regions[0].results]
    for region in regions:
        if [p.type for p in region.params] != list(types[1:]):
            raise TypeError(f"switch: operands {types[1:]}, region takes {[p.type for p in region.params]}")
        if [r.type for r in region.results] != made:
            raise TypeError(f"switch: one region makes {made}, another {[r.type for r in region.results]}")
    return tuple(made)


def _evaluate(index, *xs, regions):
    return tuple(evaluate(regions[min(max(int(index), 0), len(regions) - 1)], xs))


class _SwitchDerivative(Derivative):
    joint = True

    def push(self, b, node, xs, tangents):
        flags = [t is not None for t in tangents[1:]]
        given = [t for t in tangents[1:] if t is not None]
        n = len(node.results)
        made = b.apply(node.op, [*xs, *given], node.attrs, tuple([linearize(r, flags) for r in node.regions]))
        on = [any([r.results[i] in depends(r, flags) for r in node.regions]) for i in range(n)]
        return made[:n], [t if f else None for t, f in zip(made[n:], on)]

    def forward(self, b, node, xs):
        return b.apply(node.op, xs, node.attrs, node.regions)

    def vjp(self, b, node, xs, ys, cts, wanted, strong=0):
        flags = list(wanted[1:])
        seeds = [ct for ct in cts if ct is not None]
        regions = [_pullback(unguarded(r), flags, cts, strong) for r in node.regions]
        grads = iter(b.apply(node.op, [*xs, *seeds], node.attrs, tuple(regions)))
        return [None, *[next(grads) if f else None for f in flags]]

    def is_diagonal(self, node, flags):
        return False

    def segments(self, node):
        return None


def _pullback(region, flags, cts, strong):
    """The graph (operands, cotangents of the results that have one) -> cotangents of the wanted operands."""
    b = Builder(f"pullback_{region.name}")
    env = b.params_of(region.params)
    seeds = [None if ct is None else b.param(r.type, "ct") for ct, r in zip(cts, region.results)]
    grads, _ = transpose_into(b, region, env, flags, seeds, strong=strong)
    b.loc, b.tag = None, "vjp"
    return b.finish([b.zeros(p.type) if g is None else g for p, g, f in zip(region.params, grads, flags) if f])


def _batch(b, node, xs, batched, size):
    flags = list(batched[1:])
    if not batched[0]:
        regions = tuple([batch(r, flags, size, all_results=True)[0] for r in node.regions])
        return b.apply(node.op, xs, node.attrs, regions)
    every = []
    for region in node.regions:
        graph, _ = batch(region, flags, size, all_results=True)
        every.append(inline(b, unguarded(graph), xs[1:]))
    out = list(every[-1])
    for i in reversed(range(len(every) - 1)):
        taken = b.le(xs[0], b.constant(i, I64))
        for k, (value, other) in enumerate(zip(every[i], out)):
            lanes = b.reshape_to(taken, (size,) + (1,) * (value.ndim - 1))
            out[k] = b.select(lanes, value, other)
    return out


switch = register(
    Op(
        "switch", "region", _infer, _evaluate, _SwitchDerivative(), _batch, dtypes="fib", arity=None, masks=NOT_TAKEN,
        doc="One of several regions, by a run-time index.",
    )
)  # fmt: skip
