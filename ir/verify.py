"""The verifier: is this a well-formed Graph, and one that this stage may hold?

In: a Graph and a stage. Out: nothing, or a `VerifyError` that says what is wrong and prints the ten lines of program
around it. One sweep over the nodes: every operand is defined above and every value once, the operation is the table's,
its result types are those its type rule derives again from the operands, constants are scalars rounded to their type,
attributes are plain data (so that the text form and the content hash are complete). Stages add rows:

    recorded    as traced or parsed; any operation
    gradient    made by a transform: as recorded
    optimized   ready for code generation: no region operation that has an expansion, no stop_gradient
"""

from __future__ import annotations

import numpy as np

from . import op as _op
from .graph import Constant, Graph
from .location import describe
from .text import Printer

STAGES = ("recorded", "gradient", "optimized")
_ABSENT = {"optimized": {"custom": "it is expanded", "stop_gradient": "no derivative is due"}}
_PLAIN = (int, float, str, type(None), np.dtype)
_DATA = {"f": float, "i": int, "b": bool}
AROUND = 5  # lines of the program shown before and after the culprit


class VerifyError(Exception):
    """A graph is malformed. `node`: the culprit, None when it is the parameters or results."""

    def __init__(self, graph: Graph, index: int | None, problem: str):
        self.node = graph.nodes[index] if index is not None and index < len(graph.nodes) else None
        where = f" ({describe(self.node.loc)})" if self.node is not None and self.node.loc else ""
        super().__init__(f"func @{graph.name}: {problem}{where}\n{_excerpt(graph, index)}")
        self.problem = problem


def verify(graph: Graph, stage: str = "recorded") -> None:
    """Raise VerifyError unless `graph` is well formed and may occur at `stage`."""
    absent = _ABSENT.get(stage, {})
    if stage not in STAGES:
        raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
    defined = set()
    for position, p in enumerate(graph.params):
        if p in defined:
            raise VerifyError(graph, None, f"parameter {position} is defined twice")
        if p.node is not None or type(p) is Constant:
            raise VerifyError(graph, None, f"parameter {position} is not a parameter: {p!r}")
        defined.add(p)
    table = _op.TABLE
    for index, node in enumerate(graph.nodes):
        op = node.op
        if table.get(op.name) is not op:
            raise VerifyError(graph, index, f"{op.name!r} is not an operation of the table")
        if op.name in absent:
            raise VerifyError(graph, index, f"no {op.name} in an {stage} program: {absent[op.name]}")
        for position, operand in enumerate(node.operands):
            if operand not in defined:
                _check_operand(graph, index, f"operand {position}", operand)
        for key, value in node.attrs.items():
            if not _is_plain(value):
                raise VerifyError(graph, index, f"attribute {key} is no plain data: {value!r}")
        for region in node.regions:
            verify(region, stage)
        _check_types(graph, index, node)
        for position, result in enumerate(node.results):
            if result in defined:
                raise VerifyError(graph, index, f"result {position} is defined twice")
            if result.node is not node or result.index != position:
                raise VerifyError(graph, index, f"result {position} names another node as its origin")
            defined.add(result)
    for position, result in enumerate(graph.results):
        if result not in defined:
            _check_operand(graph, None, f"result {position} of the program", result)


def _check_operand(graph, index, what, operand):
    if type(operand) is not Constant:
        raise VerifyError(graph, index, f"{what} is used before it is defined: {operand!r}")
    type_, data = operand.type, operand.data
    if type_.shape:
        raise VerifyError(graph, index, f"{what} is a constant of shape {type_.shape}; constants are scalars")
    if type(data) is not _DATA[type_.dtype.kind]:
        raise VerifyError(graph, index, f"{what}: the constant {data!r} is not a Python number of type {type_}")
    with np.errstate(all="ignore"):
        rounded = type_.dtype.type(data).item()
    if rounded != data and rounded == rounded:
        raise VerifyError(graph, index, f"{what}: the constant {data!r} is not rounded to {type_}")


def _is_plain(value):
    if type(value) is tuple:
        return all([_is_plain(item) for item in value])
    return isinstance(value, _PLAIN) and not isinstance(value, np.generic)


def _check_types(graph, index, node):
    types = [o.type for o in node.operands]
    try:
        derived = node.op.infer(types, node.attrs, node.regions) if node.regions else node.op.infer(types, node.attrs)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise VerifyError(graph, index, f"{node.op.name} does not accept this: {error}") from error
    found = tuple([r.type for r in node.results])
    if tuple(derived) != found:
        if node.op.kind == "guard":
            raise VerifyError(graph, index, "a guard has no results")
        raise VerifyError(graph, index, f"{node.op.name} yields {_list(derived)}, the node says {_list(found)}")


def _list(types):
    return ", ".join([str(t) for t in types]) or "nothing"


def _excerpt(graph, index):
    """Ten lines around the culprit, which is marked; the nested programs of its neighbours are left out."""
    codes = [code for code, _ in Printer(locations=False, regions=False).func(graph)]
    at = 0 if index is None else index + 1
    low = max(0, at - AROUND)
    return "\n".join([("> " if i == at else "  ") + code for i, code in enumerate(codes[low : at + AROUND], low)])
