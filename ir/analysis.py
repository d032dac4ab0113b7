"""Questions about a graph: which values depend on which parameters, liveness, and the graph as a networkx DiGraph."""

from __future__ import annotations

from .graph import Constant, Graph


def depends(graph: Graph, active) -> set:
    """The values through which a derivative can flow from an active parameter: float values, differentiable nodes."""
    on = {p for p, flag in zip(graph.params, active) if flag and p.type.is_float}
    for node in graph.nodes:
        if node.op.derivative.differentiable and any([o in on for o in node.operands]):
            on.update([r for r in node.results if r.type.is_float])
    return on


def connected(graph: Graph, active) -> list[bool]:
    """Per active float parameter: whether any float result depends on it differentiably. One backward sweep."""
    reached = {r for r in graph.results if r.type.is_float}
    for node in reversed(graph.nodes):
        if node.op.derivative.differentiable and any([r in reached for r in node.results]):
            reached.update([o for o in node.operands if o.type.is_float])
    return [p in reached for p, flag in zip(graph.params, active) if flag and p.type.is_float]


def last_uses(graph: Graph) -> dict:
    """For each value, the index of the last node that reads it; results live to the end (len(graph.nodes))."""
    last = {}
    for i, node in enumerate(graph.nodes):
        for operand in node.operands:
            if type(operand) is not Constant:
                last[operand] = i
    last.update({r: len(graph.nodes) for r in graph.results})
    return last


def to_networkx(graph: Graph):
    """The data-flow as `networkx.DiGraph`: a node per operation, parameter and result, an edge per use.

    Node attributes: `label`, `kind` ("param", the operation's kind, or "result"), `type`; edges carry `operand`.
    """
    import networkx

    out = networkx.DiGraph(name=graph.name)
    where = {}
    for i, p in enumerate(graph.params):
        where[p] = f"%{p.name or i}"
        out.add_node(where[p], label=f"{p.name or f'arg{i}'}: {p.type}", kind="param", type=str(p.type))
    for i, node in enumerate(graph.nodes):
        key = f"{i}:{node.op.name}"
        types = ", ".join([str(r.type) for r in node.results])
        constants = [repr(o.data) for o in node.operands if type(o) is Constant]
        label = f"{node.op.name}{'(' + ', '.join(constants) + ')' if constants else ''}\n{types}"
        out.add_node(key, label=label, kind=node.op.kind, type=types, tag=node.tag)
        for k, operand in enumerate(node.operands):
            if operand in where:
                out.add_edge(where[operand], key, operand=k)
        for r in node.results:
            where[r] = key
    for i, r in enumerate(graph.results):
        key = f"result{i}"
        out.add_node(key, label=f"result {i}: {r.type}", kind="result", type=str(r.type))
        if r in where:
            out.add_edge(where[r], key, operand=i)
    return out
