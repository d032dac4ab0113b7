"""The verifier detects each violation, says which, and shows the program around it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapejit.ir.build import Builder
from tapejit.ir.graph import Constant, Graph, Node, Value
from tapejit.ir.op import get
from tapejit.ir.text import parse
from tapejit.ir.types import BOOL, F32, F64, tensor
from tapejit.ir.verify import VerifyError, verify

S = tensor(F64)
BASE = """\
func @f(%x: f64[3], %c: bool) -> f64[3] {
  %0 = sin %x : f64[3]
  %1 = cos %0 : f64[3]
  %2 = exp %1 : f64[3]
  %3 = mul %2, %0 : f64[3]
  %4 = tanh %3 : f64[3]
  %5 = neg %4 : f64[3]
  %6 = mul %5, 2.0 : f64[3]
  %7 = add %6, %x : f64[3]
  guard %c {seen=True}
  return %7
}"""


def message(graph, stage="recorded"):
    with pytest.raises(VerifyError) as caught:
        verify(graph, stage)
    return caught.value


def base():
    return parse(BASE)


def test_a_sound_program_passes_every_stage():
    for stage in ("recorded", "gradient", "optimized"):
        verify(base(), stage)
    with pytest.raises(ValueError, match="no stage 'final'"):
        verify(base(), "final")


def test_use_before_definition_and_the_excerpt():
    g = base()
    nodes = g.nodes[:4] + [g.nodes[5], g.nodes[4]] + g.nodes[6:]
    nodes[4].loc = ("model.py", 12)
    error = message(Graph("f", g.params, nodes, g.results))
    assert error.node is nodes[4]
    assert str(error) == (
        "func @f: operand 0 is used before it is defined: <Value tanh : f64[3]> (model.py:12)\n"
        "  func @f(%x: f64[3], %c: bool) -> f64[3] {\n"
        "    %0 = sin %x : f64[3]\n"
        "    %1 = cos %0 : f64[3]\n"
        "    %2 = exp %1 : f64[3]\n"
        "    %3 = mul %2, %0 : f64[3]\n"
        ">   %4 = neg %? : f64[3]\n"
        "    %5 = tanh %3 : f64[3]\n"
        "    %6 = mul %4, 2.0 : f64[3]\n"
        "    %7 = add %6, %x : f64[3]\n"
        "    guard %c {seen=True}"
    )


def test_value_of_another_program():
    g, h = base(), base()
    error = message(Graph("f", g.params, g.nodes, h.results))
    assert "result 0 of the program is used before it is defined" in str(error)
    assert "operand 0 is used before it is defined" in str(message(Graph("f", h.params, g.nodes, g.results)))


def test_node_twice():
    g = base()
    assert "result 0 is defined twice" in str(message(Graph("f", g.params, g.nodes[:2] + g.nodes[1:], g.results)))


def test_parameter_twice_and_parameter_that_is_none():
    g = base()
    assert "parameter 2 is defined twice" in str(message(Graph("f", g.params + g.params[:1], g.nodes, g.results)))
    assert "parameter 1 is not a parameter" in str(message(Graph("f", g.params[:1] + g.results, [], [])))
    assert "parameter 0 is not a parameter" in str(message(Graph("f", [Constant(S, 1.0)], [], [])))


def test_result_that_names_another_node():
    g = base()
    g.nodes[1].results = (Value(tensor(F64, (3,)), g.nodes[0], 0),)
    g.nodes[2].operands = g.nodes[1].results
    assert "result 0 names another node as its origin" in str(message(g))


def test_operation_outside_the_table():
    g = base()
    g.nodes[0].op = dataclasses.replace(get("sin"), cost=2)
    assert "'sin' is not an operation of the table" in str(message(g))


def apply(op, operands, attrs, types):
    params = [o for o in operands if type(o) is not Constant]
    node = Node(get(op), tuple(operands), attrs, types)
    return Graph("g", params, [node], node.results)


def param(type):
    return Builder().param(type, "x")


X = tensor(F64, (3,))
VIOLATIONS = [
    ("sin", [X], {}, (tensor(F32, (3,)),), "sin yields f64[3], the node says f32[3]"),
    ("sin", [X], {}, (X, X), "sin yields f64[3], the node says f64[3], f64[3]"),
    ("sin", [X], {}, (), "sin yields f64[3], the node says nothing"),
    ("add", [X, tensor(F32, (3,))], {}, (X,), "add does not accept this: add: operands must have one dtype"),
    ("add", [X, tensor(F64, (4,))], {}, (X,), "add does not accept this: add: shapes f64[3], f64[4] do not broadcast"),
    ("reduce_sum", [X], {"axes": (1,)}, (S,), "reduce_sum does not accept this: reduce_sum: axes (1,)"),
    ("reduce_sum", [X], {}, (S,), "reduce_sum does not accept this: 'axes'"),
    ("guard", [tensor(BOOL)], {"seen": True}, (tensor(BOOL),), "a guard has no results"),
    ("guard", [X], {"seen": True}, (), "guard takes a bool or integer scalar, got f64[3]"),
    ("reduce_sum", [X], {"axes": [0]}, (S,), "attribute axes is no plain data: [0]"),
    ("reduce_sum", [X], {"axes": (np.int64(0),)}, (S,), "attribute axes is no plain data: (np.int64(0),)"),
    ("neg", [Constant(X, 1.0)], {}, (X,), "operand 0 is a constant of shape (3,); constants are scalars"),
    ("neg", [Constant(S, 1)], {}, (S,), "operand 0: the constant 1 is not a Python number of type f64"),
    ("neg", [Constant(S, np.float64(1))], {}, (S,), "is not a Python number of type f64"),
    ("neg", [Constant(tensor(F32), 0.1)], {}, (tensor(F32),), "operand 0: the constant 0.1 is not rounded to f32"),
]


@pytest.mark.parametrize("op, operands, attrs, types, expected", VIOLATIONS)
def test_types_attributes_constants(op, operands, attrs, types, expected):
    operands = [o if isinstance(o, Constant) else param(o) for o in operands]
    assert expected in str(message(apply(op, operands, attrs, types)))


def test_nan_and_infinity_are_sound_constants():
    for data in (float("nan"), float("inf"), -0.0):
        verify(apply("neg", [Constant(tensor(F32), data)], {}, (tensor(F32),)))


REGION = """\
func @f(%x: f64) -> f64 {
  %0 = custom %x {outputs=1, captured=0, name='mine'} : f64 {
    func @primal(%x: f64) -> f64 {
      %0 = sin %x : f64
      return %0
    }
    func @pull(%ct: f64) -> f64 {
      return %ct
    }
  }
  %1 = stop_gradient %0 : f64
  return %1
}"""


def test_stages_and_regions():
    g = parse(REGION)
    verify(g, "gradient")
    assert "no custom in an optimized program: it is expanded" in str(message(g, "optimized"))
    only = parse(REGION.replace("custom %x {outputs=1, captured=0, name='mine'} : f64 {", "sin %x : f64 {"))
    assert "sin does not accept this" in str(message(only))
    primal = g.nodes[0].regions[0]
    primal.nodes[0].operands = g.params
    error = message(g)
    assert str(error).startswith("func @primal: operand 0 is used before it is defined")
    h = parse("func @f(%x: f64) -> f64 {\n  %0 = stop_gradient %x : f64\n  return %0\n}")
    assert "no stop_gradient in an optimized program: no derivative is due" in str(message(h, "optimized"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_builder_makes_is_sound(data, random_graph):
    verify(random_graph(data, simplify=data.draw(st.booleans())))
