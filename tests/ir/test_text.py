"""The text form: golden dumps a reader would see, and the round trip for every graph that can be drawn."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapejit.ir.backward import backward
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.graph import Constant, Graph, Node
from tapejit.ir.linearize import linearize
from tapejit.ir.location import describe, resolve
from tapejit.ir.op import get
from tapejit.ir.text import ParseError, parse, show
from tapejit.ir.types import F32, F64, I32, I64, tensor

SLOPE = """\
func @slope(%x: f64[100], %n: i64) -> f64 {
  %0 = sin %x : f64[100]
  %1 = cos %x : f64[100]
  %2 = mul %0, %1 : f64[100]
  %3 = mul %2, 2.0 : f64[100]
  %4 = reduce_sum %3 {axes=(0,)} : f64
  %5 = gt %n, 3 : bool
  guard %5 {seen=True}
  return %4
}"""


def roundtrip(graph):
    text = show(graph)
    back = parse(text)
    assert back.digest == graph.digest, text
    assert parse(show(graph, locations=False)).digest == graph.digest
    assert show(back, locations=False) == show(graph, locations=False)
    return back


def slope():
    b = Builder("slope")
    x, n = b.param(tensor(F64, (100,)), "x"), b.param(tensor(I64), "n")
    y = b.reduce_sum(b.mul(b.mul(b.sin(x), b.cos(x)), 2.0), axes=(0,))
    b.guard(b.gt(n, 3), seen=True)
    return b.finish([y])


def test_golden():
    assert show(slope(), locations=False) == SLOPE
    assert str(slope()) == SLOPE
    assert parse(SLOPE).same(slope())


def test_locations_are_a_column_with_source_text_where_the_line_changes(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("def f(x):\n    return np.sin(x) ** 2\n")
    b = Builder("f")
    x = b.param(tensor(F64), "x")
    b.loc = ("other.py", 1)
    start = b.exp(x)
    b.loc = (str(file), 2)
    y = b.sin(start)
    b.tag = "vjp"
    g = b.finish([b.mul(b.cos(start), y)])
    text = show(g)
    rows = text.splitlines()
    assert [row.index("#") for row in rows[2:5]] == [44, 44, 44]
    assert rows[2].split("#")[1] == " model.py:2  return np.sin(x) ** 2"
    assert rows[3].split("#")[1] == rows[4].split("#")[1] == " model.py:2 vjp"
    back = parse(text)
    assert [n.loc for n in back.nodes] == [("other.py", 1)] + [("model.py", 2)] * 3
    assert [n.tag for n in back.nodes] == ["", "", "vjp", "vjp"]


def test_location_of_a_code_object():
    def user(x):
        y = x + 1
        return y

    code = user.__code__
    lasti = next(start for start, _, line in code.co_lines() if line == code.co_firstlineno + 1)
    assert resolve((code, lasti)) == (__file__, code.co_firstlineno + 1)
    assert describe((code, lasti)) == f"test_text.py:{code.co_firstlineno + 1}: y = x + 1"
    assert resolve(None) is None and describe(None) == "<no line known>"


def one(op, operands, attrs, types, regions=()):
    params = [o for o in operands if type(o) is not Constant]
    node = Node(get(op), tuple(operands), attrs, types, regions)
    return Graph("g", params, [node], node.results)


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001, 0xFFF0000000000123])
def test_nan_keeps_its_bits(bits):
    data = struct.unpack("<d", struct.pack("<Q", bits))[0]
    back = roundtrip(one("neg", [Constant(tensor(F64), data)], {}, (tensor(F64),)))
    assert struct.unpack("<Q", struct.pack("<d", back.nodes[0].operands[0].data))[0] == bits


def test_constants_say_their_type_only_where_it_is_not_evident():
    b = Builder("f", simplify=False)
    x, n = b.param(tensor(F32), "x"), b.param(tensor(I32), "n")
    values = [
        b.mul(x, 0.1),
        b.mul(b.constant(0.1, F32), b.constant(2, F32)),
        b.add(n, 2),
        b.select(b.constant(True, np.bool_), x, -math.inf),
        b.add(b.constant(2, I32), b.constant(-3, I32)),
        b.neg(b.constant(-0.0, F64)),
    ]
    g = b.finish(values + [b.constant(7, I64), b.constant(1.5, F32)])
    lines = [row.strip() for row in show(g).splitlines()]
    assert lines[1:-1] == [
        "%0 = mul %x, 0.1 : f32",
        "%1 = mul 0.1:f32, 2.0:f32 : f32",
        "%2 = add %n, 2 : i32",
        "%3 = select true, %x, -inf : f32",
        "%4 = add 2:i32, -3:i32 : i32",
        "%5 = neg -0.0 : f64",
        "return %0, %1, %2, %3, %4, %5, 7:i64, 1.5",
    ]
    assert roundtrip(g).nodes[0].operands[1].data == np.float32(0.1).item()


ATTRIBUTES = [
    1, -3, True, False, None, "a, b}", "it's # \"so\"", "", (), (1,), (1, 2), ((0, 1), ()), ((1, (2.5, None)), "x"),
    1e-300, -0.0, float("inf"), -float("inf"), np.dtype("f4"), np.dtype("?"), ("f64", np.dtype("f8")),
    "line\nbreak\\", "ü→",
]  # fmt: skip


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_attributes(value):
    g = one("neg", [Builder().param(tensor(F64), "x")], {"k": value, "other": (0,)}, (tensor(F64),))
    back = roundtrip(g).nodes[0].attrs
    assert repr(back) == repr(g.nodes[0].attrs)


def test_parameters_get_distinct_names():
    b = Builder("f")
    xs = [b.param(tensor(F64), name) for name in ("x", "x", None, "x_1", "7", "p['w'][0]", "→")]
    g = b.finish([b.concatenate(*[b.reshape(x, shape=(1,)) for x in xs], axis=0)])
    head = show(g).splitlines()[0]
    names = "x x_1 arg2 x_1_1 _7 p_w_0 arg6".split()
    assert head == f"func @f({', '.join(f'%{n}: f64' for n in names)}) -> f64[7] {{"
    roundtrip(g)


REGION = """\
func @f(%x: f64) -> (f64, f64) {
  %0, %1 = custom %x {outputs=1, captured=0, name='mine'} : f64, f64 {
    func @primal(%x: f64) -> (f64, f64) {
      %0 = sin %x : f64
      %1 = cos %x : f64
      return %0, %1
    }
    func @pull(%r: f64, %ct: f64) -> f64 {
      %0 = mul %r, %ct : f64
      return %0
    }
  }
  %2 = add %0, 1.0 : f64
  return %2, %1
}"""


def test_regions():
    g = parse(REGION)
    assert show(g) == REGION
    assert [len(r) for r in g.nodes[0].regions] == [2, 1]
    assert [float(v) for v in evaluate(g, [np.float64(0.5)])] == [math.sin(0.5) + 1, math.cos(0.5)]


def test_color_only_adds_escapes():
    import re

    text = show(slope(), color=True)
    assert text != SLOPE and re.sub(r"\x1b\[\d+m", "", text) == SLOPE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_roundtrip_of_random_programs(data, random_graph):
    roundtrip(random_graph(data, simplify=data.draw(st.booleans())))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_roundtrip_of_transformed_programs(data, random_graph):
    g = random_graph(data, size=8)
    jvp = linearize(g, [True] * len(g.params))
    roundtrip(backward(jvp, [True] * len(jvp.params)))


WRONG = [
    ("", "line 1: the text ends here; expected `func @name"),
    ("fun @f() -> f64 {", "line 1: expected `func @name(%x: f64) -> f64 {`"),
    ("func @f(%x: f65) -> f64 {", "line 1: expected a type such as `f64[3,4]`: unknown element type 'f65'"),
    ("func @f(%x f64) -> f64 {", "line 1: expected a parameter such as `%x: f64[3]` at '%x f64'"),
    ("func @f(%x: f64, %x: f64) -> f64 {", "line 1: expected a new name: %x is defined above already"),
    ("  %0 = sine %x : f64", "line 2: expected an operation of the table, not 'sine' (did you mean 'sin'?)"),
    ("  %0 = sin %y : f64", "line 2: expected a value defined above, not %y"),
    ("  %0 = sin %x", "line 2: expected one type per result: 1 results, 0 types"),
    ("  %0 = sin ; : f64", "line 2: expected the end of the line, a comment, or `{` of a region at '; : f64'"),
    ("  %0 = add %x, 2..0 : f64", "line 2: expected a value or a number, not '2..0'"),
    ("  %0 = add %x, 2:f64 : f64", "line 2: expected a number that is f64, not '2:f64'"),
    ("  %0 = sin %x {a=} : f64", "line 2: expected attributes such as `{axes=(0,)}`, not {a=}"),
    ("  %0 = sin %x {a=open} : f64", "line 2: expected attributes"),
    ("  %0 == 3", "line 2: expected an operation"),
    ("  return %x, %x", "line 2: expected results of types [f64] as the func says, got [f64, f64]"),
    ("  return %x : f64", "line 2: expected `return` with operands only"),
    ("  %0 = sin %x : f64\n  %0 = cos %x : f64", "line 3: expected a new name: %0 is defined above already"),
    ("  return %x\n  %1 = sin %x : f64", "line 3: expected `}` after return"),
    ("  return %x\n}\nreturn", "line 4: expected nothing after the func's closing `}`"),
    ("  %0 = sin %x : f64", "line 2: the text ends here; expected an operation, `return` or `}` in func @f"),
]


@pytest.mark.parametrize("text, message", WRONG)
def test_parse_errors_name_the_line_and_what_was_expected(text, message):
    if text.startswith("  "):
        text = "func @f(%x: f64) -> f64 {\n" + text
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert message in str(caught.value)
