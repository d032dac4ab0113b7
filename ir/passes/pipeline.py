"""The optimisation pipeline: one function, read top to bottom.

In: a Graph as recorded or as a transform made it. Out: a smaller Graph of equal meaning, ready to be differentiated
again (`differentiate_later`) or to be compiled. Each step is a function Graph -> Graph of its own module; after each,
the graph is verified if the knob TAPEJIT_VERIFY says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import NamedTuple

from ..graph import Graph
from ..knobs import VERIFY
from ..pause import pause_gc
from ..verify import verify
from .bands import use_bands
from .collect import collect
from .equal import merge_equal
from .regions import drop_unused, optimize_regions
from .reroll import LEAST_NODES, reroll
from .simplify import simplify


class Step(NamedTuple):
    """What one step did: nodes before and after, and milliseconds taken."""

    name: str
    before: int
    after: int
    ms: float


@pause_gc
def optimize(graph: Graph, differentiate_later: bool = False, steps: list[Step] | None = None) -> Graph:
    """The optimised graph: same parameters, same results, same guards. `steps` receives a record per step."""
    run = partial(_run, [] if steps is None else steps)
    if not any([node.tag for node in graph.nodes]):
        graph = run("drop unused", drop_unused, graph)
        if len(graph) >= LEAST_NODES:
            graph = run("reroll", reroll, graph)
    graph = run("simplify", partial(simplify, release=not differentiate_later), graph)
    if any([node.regions for node in graph.nodes]):
        inner = partial(optimize, differentiate_later=differentiate_later)
        graph = run("regions", partial(optimize_regions, inner=inner, way=differentiate_later), graph)
    graph = run("merge equal", merge_equal, graph)
    graph = run("collect", partial(collect, factor=not differentiate_later), graph)
    if any(["." in node.tag for node in graph.nodes]):  # a derivative of a derivative
        graph = run("merge again", merge_equal, graph)
        if not differentiate_later:
            graph = run("bands", use_bands, graph)
    if VERIFY.value:
        verify(graph, "gradient" if differentiate_later else "optimized")
    return graph


def _run(steps: list[Step], name: str, step: Callable[[Graph], Graph], graph: Graph) -> Graph:
    start = perf_counter()
    out = step(graph)
    steps.append(Step(name, len(graph), len(out), 1e3 * (perf_counter() - start)))
    if VERIFY.value:
        verify(out, "gradient")
    return out
