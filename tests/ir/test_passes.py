"""The pipeline and its passes: what each does on small programs, and that meaning is kept on random ones."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapejit.ir.backward import backward
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.knobs import VERIFY, Knob
from tapejit.ir.passes.collect import collect
from tapejit.ir.passes.equal import merge_equal
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.passes.simplify import simplify
from tapejit.ir.text import parse, show
from tapejit.ir.types import F32, F64, tensor


def run(graph, *args):
    return [np.asarray(r) for r in evaluate(graph, args)]


def body(graph):
    """The operations of a graph as text."""
    return [line.strip() for line in show(graph, locations=False).splitlines()[1:-1]]


def derived(text, *, shape="f64"):
    """A program of one result; every line is tagged as made by a transform."""
    lines = [line.strip() for line in text.strip().splitlines()]
    lines = [line if line.startswith("return") else f"{line} # vjp" for line in lines]
    return parse(f"func @f(%x: {shape}, %y: {shape}, %z: {shape}) -> {shape} {{\n" + "\n".join(lines) + "\n}")


# ---- collect -----------------------------------------------------------------------------------------------------
COLLECTED = [
    ("%0 = mul %x, %y : f64\n%1 = mul %y, %x : f64\n%2 = add %0, %1 : f64\nreturn %2",
     ["%0 = mul %x, %y : f64", "%1 = mul %0, 2.0 : f64", "return %1"]),
    ("%0 = sub %x, %y : f64\n%1 = add %0, %y : f64\nreturn %1", ["return %x"]),
    ("%0 = mul %x, 3.0 : f64\n%1 = sub %0, %x : f64\n%2 = neg %1 : f64\n%3 = add %2, %y : f64\nreturn %3",
     ["%0 = mul %x, 2.0 : f64", "%1 = sub %y, %0 : f64", "return %1"]),
    ("%0 = mul %x, %y : f64\n%1 = mul %0, 0.5 : f64\n%2 = mul %x, %1 : f64\n%3 = mul %2, 4.0 : f64\nreturn %3",
     ["%0 = mul %x, %x : f64", "%1 = mul %0, %y : f64", "%2 = mul %1, 2.0 : f64", "return %2"]),
    ("%0 = mul %x, %y : f64\n%1 = mul %x, %z : f64\n%2 = add %0, %1 : f64\nreturn %2",
     ["%0 = add %y, %z : f64", "%1 = mul %x, %0 : f64", "return %1"]),
    ("%0 = sub %x, %y : f64\n%1 = sub %y, %x : f64\n%2 = add %0, %1 : f64\nreturn %2", ["return 0.0"]),
]  # fmt: skip


@pytest.mark.parametrize("text, expected", COLLECTED)
def test_like_terms_and_powers_of_derived_nodes(text, expected):
    assert body(collect(derived(text), factor=True)) == expected


def test_the_users_own_arithmetic_is_not_touched():
    text = (
        "func @f(%x: f64, %y: f64) -> f64 {\n  %0 = sub %x, %y : f64\n  %1 = add %0, %y : f64\n"
        "  %2 = mul %1, 3.0 : f64\n  %3 = mul %2, 0.1 : f64\n  return %3\n}"
    )
    for later in (False, True):
        assert show(optimize(parse(text), later), locations=False) == text
    x, y = np.float64(1.0), np.float64(1e17)
    assert float(run(optimize(parse(text)), x, y)[0]) == (1.0 - 1e17 + 1e17) * 3.0 * 0.1


def test_no_product_is_distributed_over_a_sum():
    """(1 - y) * (1 - y) near y = 1 would lose its digits as 1 - 2y + y*y."""
    g = derived("%0 = sub 1.0, %y : f64\n%1 = mul %0, %0 : f64\n%2 = mul %1, %x : f64\nreturn %2")
    y = 1 - 2.0**-30
    for factor in (False, True):
        found = float(run(collect(g, factor), *map(np.float64, (1.0, y, 0.0)))[0])
        assert found == 2.0**-60


def test_coefficients_that_would_overflow_are_left_alone():
    g = derived("%0 = mul %x, 1e200 : f64\n%1 = mul %0, 1e200 : f64\nreturn %1")
    assert float(run(collect(g), *map(np.float64, (1e-200, 0, 0)))[0]) == pytest.approx(1e200)
    g = derived("%0 = mul %x, 1e-200 : f64\n%1 = mul %0, 1e-200 : f64\nreturn %1")
    assert float(run(collect(g), *map(np.float64, (1e200, 0, 0)))[0]) == pytest.approx(1e-200)
    g = derived("%0 = mul %x, 1e30 : f32\n%1 = mul %0, 1e30 : f32\nreturn %1", shape="f32")
    assert float(run(collect(g), *map(np.float32, (1e-30, 0, 0)))[0]) == pytest.approx(1e30)
    g = derived("%0 = div %x, 0.0 : f64\nreturn %0")
    assert float(run(collect(g), *map(np.float64, (2.0, 0, 0)))[0]) == math.inf


def test_shapes_that_broadcast():
    b = Builder("f")
    s, v, m = (b.param(tensor(F64, shape), n) for shape, n in (((), "s"), ((3,), "v"), ((2, 3), "m")))
    b.tag = "vjp"
    cancelled = b.sub(b.add(b.mul(m, s), b.mul(v, s)), b.mul(s, m))
    g = b.finish([cancelled, b.mul(b.mul(b.mul(m, s), v), s), b.add(b.add(m, s), s)])
    args = np.float64(2.0), np.arange(3.0), np.arange(6.0).reshape(2, 3)
    for factor in (False, True):
        out = collect(g, factor)
        assert [r.type for r in out.results] == [r.type for r in g.results]
        for found, expected in zip(run(out, *args), run(g, *args)):
            np.testing.assert_array_equal(found, expected)


def test_small_shapes_are_multiplied_first():
    b = Builder("f")
    s, v = b.param(tensor(F64), "s"), b.param(tensor(F64, (3,)), "v")
    b.tag = "vjp"
    g = b.finish([b.mul(b.mul(b.mul(v, s), 3.0), b.sin(s))])
    assert body(collect(g, factor=True)) == [
        "%0 = sin %s : f64", "%1 = mul %s, %0 : f64", "%2 = mul %1, 3.0 : f64", "%3 = mul %2, %v : f64[3]", "return %3",
    ]  # fmt: skip


def test_a_quotient_shares_its_reciprocal():
    g = derived("%0 = div %x, %z : f64\n%1 = div %y, %z : f64\n%2 = add %0, %1 : f64\nreturn %2")
    assert body(collect(g, factor=True)) == [
        "%0 = div 1.0, %z : f64", "%1 = add %x, %y : f64", "%2 = mul %0, %1 : f64", "return %2",
    ]  # fmt: skip


# ---- merge_equal -------------------------------------------------------------------------------------------------
def test_equal_algebra_is_merged_however_it_is_written():
    b = Builder("f")
    x, y = b.param(tensor(F64), "x"), b.param(tensor(F64), "y")
    b.tag = "vjp"
    one = b.mul(b.add(x, y), b.sub(x, y))
    two = b.sub(b.mul(x, x), b.mul(y, y))
    g = merge_equal(b.finish([b.sin(one), b.sin(two), b.sub(one, two), b.div(b.mul(x, two), y)]))
    assert body(g) == [
        "%0 = add %x, %y : f64", "%1 = sub %x, %y : f64", "%2 = mul %0, %1 : f64", "%3 = sin %2 : f64",
        "%4 = mul %x, %2 : f64", "%5 = div %4, %y : f64", "return %3, %3, 0.0, %5",
    ]  # fmt: skip


def test_what_is_not_equal_is_not_merged():
    b = Builder("f")
    x, y = b.param(tensor(F64), "x"), b.param(tensor(F64), "y")
    v = b.param(tensor(F64, (2,)), "v")
    b.tag = "vjp"
    results = [
        b.add(x, y), b.sub(x, y), b.mul(x, y), b.div(x, y), b.div(y, x), b.sin(b.add(x, y)), b.cos(b.add(x, y)),
        b.pow(x, 3.0), b.pow(x, y), b.add(x, 0.1), b.add(x, 0.1 + 2**-55), b.broadcast_to(x, (2,)), b.add(x, v),
        b.reduce_sum(v, axes=(0,)), b.reduce_max(v, axes=(0,)), b.slice(v, start=(0,), stop=(1,), step=(1,)),
        b.slice(v, start=(1,), stop=(2,), step=(1,)), b.mul(x, math.inf), b.mul(x, math.nan), b.select(b.lt(x, y), x, y),
    ]  # fmt: skip
    g = b.finish(results)
    assert merge_equal(g) is g


def test_user_nodes_are_not_merged_with_equal_ones():
    b = Builder("f")
    x, y = b.param(tensor(F64), "x"), b.param(tensor(F64), "y")
    g = b.finish([b.sub(b.add(x, y), y), b.mul(b.add(x, y), b.sub(x, y)), b.sub(b.mul(x, x), b.mul(y, y))])
    assert merge_equal(g) is g


# ---- simplify ----------------------------------------------------------------------------------------------------
STABLE = [  # program, what it becomes, a point, the true value there (mpmath, 30 digits)
    (lambda b, x: b.log(b.add(b.exp(x), 1.0)), "logaddexp", -40.0, 4.248354255291588986e-18),
    (lambda b, x: b.log(b.add(1.0, b.exp(x))), "logaddexp", 800.0, 800.0),
    (lambda b, x: b.log(b.add(1.0, x)), "log1p", 1e-18, 1e-18),
    (lambda b, x: b.log(b.sub(1.0, x)), "log1p", 1e-18, -1e-18),
    (lambda b, x: b.sub(b.exp(x), 1.0), "expm1", 1e-17, 1e-17),
    (lambda b, x: b.add(b.exp(x), -1.0), "expm1", 1e-17, 1e-17),
]


@pytest.mark.parametrize("rule, name, point, value", STABLE)
def test_stable_forms(rule, name, point, value):
    b = Builder("f")
    g = b.finish([rule(b, b.param(tensor(F64), "x"))])
    out = simplify(g)
    assert out.nodes[-1].op.name == name
    assert float(run(out, np.float64(point))[0]) == pytest.approx(value, rel=1e-15)


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


def test_custom_and_stop_gradient_stay_until_no_derivative_is_due():
    g = parse(REGION)
    assert [n.op.name for n in optimize(g, differentiate_later=True).nodes] == ["custom", "stop_gradient"]
    assert body(optimize(g)) == ["%0 = sin %x : f64", "return %0"]


# ---- pipeline ----------------------------------------------------------------------------------------------------
def test_steps_are_recorded():
    steps = []
    g = derived("%0 = mul %x, %y : f64\n%1 = mul %y, %x : f64\n%2 = add %0, %1 : f64\nreturn %2")
    out = optimize(g, steps=steps)
    assert [s.name for s in steps] == ["simplify", "merge equal", "collect"]
    assert steps[0].before == 3 and steps[-1].after == len(out) == 2
    assert all(s.ms >= 0 for s in steps) and all(a.after == b.before for a, b in zip(steps, steps[1:]))


def test_knob(monkeypatch):
    monkeypatch.setenv("TAPEJIT_TESTED", "3")
    knob = Knob("TAPEJIT_TESTED")
    with knob.at(5):
        assert knob.value == 5
    assert knob.value == 3 and Knob("TAPEJIT_ABSENT", 7).value == 7


def arguments(graph, seed):
    rng = np.random.default_rng(seed)
    for p in graph.params:
        if p.dtype.kind == "f":
            yield np.asarray(rng.uniform(0.2, 2.0, p.shape)).astype(p.dtype)
        else:
            yield np.full(p.shape, 5, p.dtype)


def outcome(graph, seed):
    try:
        return evaluate(graph, list(arguments(graph, seed)))
    except GuardFailed as failed:
        return failed.observed


def assert_same(found, expected, tolerance):
    if not isinstance(expected, list):
        assert found == expected
        return
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == F32:
            tolerance = tolerance and 1e-2
        finite = np.isfinite(b) & (np.abs(b) < 1e15)
        np.testing.assert_allclose(a[finite], b[finite], rtol=tolerance, atol=tolerance)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_meaning_of_recorded_programs_is_kept_bit_for_bit(data, random_graph):
    g = random_graph(data, simplify=False)
    for node in g.nodes:
        node.tag = ""
    with VERIFY.at(1):
        assert_same(outcome(optimize(g), 1), outcome(g, 1), 0)
        assert_same(outcome(optimize(g, True), 1), outcome(g, 1), 0)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_meaning_of_gradients_is_kept(data, random_graph):
    g = random_graph(data, regions=False)
    for node in g.nodes:
        node.tag = ""
    vjp = backward(g, [True] * len(g.params))
    again = backward(vjp, [True] * len(vjp.params))
    with VERIFY.at(1):
        for graph in (vjp, again):
            expected = outcome(graph, 2)
            assert_same(outcome(optimize(graph), 2), expected, 1e-6)
            assert_same(outcome(optimize(optimize(graph, True)), 2), expected, 1e-6)
