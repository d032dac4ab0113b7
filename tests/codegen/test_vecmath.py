"""The vector math library: accuracy against mpmath, special values, and that loops over it are vectorized."""

import ctypes
import math
import re
import sys
import threading
from functools import lru_cache

import mpmath
import numpy as np
import pytest
from support import in_threads

from tapejit.codegen import compile_graph, vecmath
from tapejit.codegen.vecmath import rare, report
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.op import TABLE
from tapejit.ir.types import F64, tensor

INF, NAN = float("inf"), float("nan")
ULP = dict.fromkeys(["pow", "tan", "erf", "erfc", "lgamma"], 2.0) | {"digamma": 2.5}  # of the others, 1
CASES = [(name, dtype) for name in vecmath.NAMES for dtype in ("f64", "f32")]
kernel = lru_cache(maxsize=None)(report.kernel)


def evaluate(name, dtype, *arguments):
    return float(kernel(name, dtype)[0](*(np.array([a]) for a in arguments))[0])


@pytest.mark.parametrize("name, dtype", CASES)
def test_accuracy(name, dtype):
    arrays = report.points(name, dtype, count := 1500, seed=1)
    results = kernel(name, dtype)[0](*arrays)
    compared = 0
    for *arguments, value in zip(*arrays, results):
        true = report.exact(name, arguments)
        if true is None:
            continue
        compared += 1
        size = report.size_of_terms(name, arguments[0], true)
        limit = 4.0 if size else ULP.get(name, 1.0)
        error = report.ulp_error(value, true, dtype, size)
        assert error <= limit, f"{name}{tuple(map(float, arguments))} = {float(value)!r}: {error:.3f} ulp"
    assert compared > count / 10


SPECIAL = {
    "exp": [((0.0,), 1), ((-0.0,), 1), ((INF,), INF), ((-INF,), 0.0), ((1e30,), INF), ((-1e30,), 0.0)],
    "exp2": [((0.0,), 1), ((10.0,), 1024), ((-3.0,), 0.125), ((INF,), INF), ((-INF,), 0.0), ((1e30,), INF)],
    "expm1": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), INF), ((-INF,), -1), ((-1e30,), -1), ((1e30,), INF)],
    "log": [((1.0,), 0.0), ((0.0,), -INF), ((-0.0,), -INF), ((-1.0,), NAN), ((INF,), INF), ((-INF,), NAN)],
    "log2": [((1.0,), 0.0), ((8.0,), 3), ((0.125,), -3), ((0.0,), -INF), ((-1.0,), NAN), ((INF,), INF)],
    "log10": [((1.0,), 0.0), ((1000.0,), 3), ((0.0,), -INF), ((-1.0,), NAN), ((INF,), INF)],
    "log1p": [((0.0,), 0.0), ((-0.0,), -0.0), ((-1.0,), -INF), ((-2.0,), NAN), ((INF,), INF), ((-INF,), NAN)],
    "sin": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), NAN), ((-INF,), NAN)],
    "cos": [((0.0,), 1), ((-0.0,), 1), ((INF,), NAN), ((-INF,), NAN)],
    "tan": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), NAN), ((-INF,), NAN)],
    "asin": [((0.0,), 0.0), ((-0.0,), -0.0), ((1.0,), math.pi / 2), ((-1.0,), -math.pi / 2), ((1.5,), NAN),
             ((INF,), NAN)],
    "acos": [((1.0,), 0.0), ((-1.0,), math.pi), ((0.0,), math.pi / 2), ((-1.5,), NAN), ((INF,), NAN)],
    "atan": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), math.pi / 2), ((-INF,), -math.pi / 2)],
    "sinh": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), INF), ((-INF,), -INF), ((-1e30,), -INF)],
    "cosh": [((0.0,), 1), ((-0.0,), 1), ((INF,), INF), ((-INF,), INF), ((1e30,), INF)],
    "tanh": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), 1), ((-INF,), -1), ((1e30,), 1)],
    "asinh": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), INF), ((-INF,), -INF)],
    "acosh": [((1.0,), 0.0), ((0.5,), NAN), ((-2.0,), NAN), ((INF,), INF), ((-INF,), NAN)],
    "atanh": [((0.0,), 0.0), ((-0.0,), -0.0), ((1.0,), INF), ((-1.0,), -INF), ((2.0,), NAN), ((-INF,), NAN)],
    "cbrt": [((0.0,), 0.0), ((-0.0,), -0.0), ((-27.0,), -3), ((INF,), INF), ((-INF,), -INF)],
    "erf": [((0.0,), 0.0), ((-0.0,), -0.0), ((INF,), 1), ((-INF,), -1)],
    "erfc": [((0.0,), 1), ((INF,), 0.0), ((-INF,), 2)],
    "logistic": [((0.0,), 0.5), ((INF,), 1), ((-INF,), 0.0), ((-1e30,), 0.0)],
    "lgamma": [((1.0,), 0.0), ((2.0,), 0.0), ((INF,), INF), ((0.0,), INF), ((-0.0,), INF), ((-3.0,), INF), ((-1e30,), INF),
               ((-INF,), -INF)],  # the last as in SciPy; C has INF
    "digamma": [((INF,), INF), ((-INF,), NAN), ((0.0,), -INF), ((-0.0,), INF), ((-1.0,), NAN), ((-1e30,), NAN)],
    "hypot": [((3.0, -4.0), 5), ((0.0, -0.0), 0.0), ((INF, NAN), INF), ((NAN, -INF), INF), ((1.0, NAN), NAN),
              ((0.0, -2.0), 2)],
    "atan2": [((0.0, 0.0), 0.0), ((-0.0, 0.0), -0.0), ((0.0, -0.0), math.pi), ((-0.0, -0.0), -math.pi),
              ((0.0, -1.0), math.pi), ((-0.0, -1.0), -math.pi), ((-0.0, 1.0), -0.0), ((1.0, 0.0), math.pi / 2),
              ((-1.0, -0.0), -math.pi / 2), ((1.0, -INF), math.pi), ((-1.0, INF), -0.0),
              ((INF, 1.0), math.pi / 2), ((INF, INF), math.pi / 4), ((-INF, -INF), -3 * math.pi / 4),
              ((INF, -INF), 3 * math.pi / 4), ((NAN, INF), NAN), ((INF, NAN), NAN), ((NAN, 0.0), NAN)],
    "pow": [((2.0, 0.0), 1), ((NAN, 0.0), 1), ((1.0, NAN), 1), ((1.0, INF), 1), ((0.0, 0.0), 1), ((-2.0, 3.0), -8),
            ((-2.0, 2.0), 4), ((-8.0, 0.3), NAN), ((0.0, -3.0), INF), ((-0.0, -3.0), -INF), ((-0.0, -2.0), INF),
            ((-0.0, 3.0), -0.0), ((-0.0, 2.0), 0.0), ((0.0, 0.5), 0.0), ((-0.0, 0.5), 0.0), ((0.0, -INF), INF),
            ((0.0, INF), 0.0), ((-1.0, INF), 1), ((-1.0, -INF), 1), ((-1.0, 1e30), 1), ((0.5, INF), 0.0),
            ((0.5, -INF), INF), ((2.0, INF), INF), ((2.0, -INF), 0.0), ((-3.0, INF), INF), ((INF, 2.0), INF),
            ((INF, -2.0), 0.0), ((-INF, 3.0), -INF), ((-INF, 2.0), INF), ((-INF, -3.0), -0.0), ((-INF, 0.5), INF),
            ((NAN, 1.0), NAN), ((2.0, NAN), NAN), ((-1.0, NAN), NAN), ((0.0, NAN), NAN), ((INF, NAN), NAN),
            ((2.0, 1e30), INF), ((2.0, -1e30), 0.0), ((-2.0, -1e30), 0.0), ((INF, 1e-30), INF), ((0.0, 1e-30), 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("name, dtype", CASES)
def test_special_values(name, dtype):
    for arguments, expected in SPECIAL[name]:
        value = evaluate(name, dtype, *arguments)
        shown = f"{name}{arguments} = {value!r}"
        if math.isnan(expected):
            assert math.isnan(value), shown
        else:
            assert value == (expected if dtype == "f64" else float(np.float32(expected))), shown
            assert math.copysign(1, value) == math.copysign(1, expected), shown
    if vecmath.ARITY[name] == 1:
        assert math.isnan(evaluate(name, dtype, NAN))


def test_gradual_underflow():
    assert evaluate("exp", "f64", -740.0) == math.exp(-740.0) > 0
    assert evaluate("exp2", "f64", -1074.0) == 5e-324
    assert evaluate("exp2", "f64", -1075.5) == 0
    assert evaluate("pow", "f64", 2.0, -1074.0) == 5e-324
    assert evaluate("log2", "f64", 5e-324) == -1074
    assert evaluate("cbrt", "f64", 5e-324) == pytest.approx(1.7031839360032603e-108, rel=1e-15)
    for name in ("sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "expm1", "log1p"):
        assert evaluate(name, "f64", -5e-324) == -5e-324, name


@pytest.mark.parametrize("name, dtype", CASES)
def test_loop_is_vectorized(name, dtype):
    optimized = kernel(name, dtype)[1]
    # Those computed in double arithmetic narrow or widen at the ends: either type may be the vector.
    assert re.search(r"<\d+ x (double|float)>", optimized)
    assert not re.search(r"call (double|float) @(?!llvm\.|tapejit\.\w+\.f\d\d\.rare\.cold)", optimized)
    assert not re.search(r"\bf(add|mul|div|sub|cmp) (nnan|ninf|nsz|arcp|contract|afn|reassoc|fast)", optimized)


# Arguments that the fast paths leave to rare.py: at each place in a vector, and in the scalar rest of the loop.
@pytest.mark.parametrize("name, dtype", [case for case in CASES if case[0] in vecmath.SERVING_RARE])
def test_a_rare_argument_leaves_its_neighbours_alone(name, dtype):
    call = kernel(name, dtype)[0]
    assert "rare.slot" in call.text
    ordinary = np.linspace(0.5, 2.5, 71)
    expected = call(*[ordinary] * vecmath.ARITY[name])
    for odd in (1e300 if dtype == "f64" else 1e30, 1e-310 if dtype == "f64" else 1e-40, INF, NAN, -1.0):
        alone = evaluate(name, dtype, *[odd] * vecmath.ARITY[name])
        for places in (*[[k] for k in range(71)], range(0, 71, 2), range(71)):
            x = ordinary.copy()
            x[places] = odd
            result = call(*[x] * vecmath.ARITY[name])
            wanted = expected.copy()
            wanted[places] = alone
            assert result.tobytes() == wanted.tobytes() or np.array_equal(result, wanted, equal_nan=True), (odd, places)


def test_an_error_while_a_rare_loop_is_compiled_changes_no_result(monkeypatch):
    slot = rare._Slot("sin", "f64")
    monkeypatch.setitem(rare._slots, "tapejit.sin.f64.rare.slot", slot)
    compiled, failures = slot.compile_and_run, []

    def interrupted(*arguments):
        if len(failures) < 2:
            failures.append(1)
            raise KeyboardInterrupt
        compiled(*arguments)

    slot.callback = slot.signature(interrupted)
    slot.target.value = ctypes.cast(slot.callback, ctypes.c_void_p).value
    call = report.kernel("sin", "f64")[0]
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    result = call(np.array([1.0, 1e22, 2.0]))
    assert result.tolist() == [math.sin(1.0), -0.8522008497671888, math.sin(2.0)] and len(failures) == 2


def test_threads_that_meet_the_first_rare_argument_together(monkeypatch):
    monkeypatch.setitem(rare._slots, "tapejit.cos.f64.rare.slot", rare._Slot("cos", "f64"))
    call = report.kernel("cos", "f64")[0]
    start, results = threading.Barrier(8), []

    def work():
        start.wait()
        results.append(call(np.full(100_000, 1e22)))

    in_threads(lambda _: work(), range(8))
    assert len(results) == 8 and all((np.abs(r - 0.5232147853951389) < 2e-16).all() for r in results)


def test_an_error_in_compiling_a_rare_loop_gives_nan(monkeypatch):
    slot = rare._Slot("tan", "f64")
    monkeypatch.setitem(rare._slots, "tapejit.tan.f64.rare.slot", slot)
    monkeypatch.setattr(slot, "compile", lambda: 1 // 0)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    result = report.kernel("tan", "f64")[0](np.array([1e22] * 16))
    assert np.isnan(result).all()  # the lanes of one vector


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30, 100])
def test_polygamma(n):
    """Emitted by its record: beside 0, where powers overflow, and where they underflow but the result does not."""
    powers = [10.0 ** -np.linspace(1, 320 / (n + 1) - 3, 50), 10.0 ** np.linspace(1, 5, 50)]
    x = np.concatenate([np.linspace(0.01, 30.0, 200), *powers, -np.linspace(0.011, 20.5, 200)])
    b = Builder("f")
    made = compile_graph(b.finish(b.apply(TABLE["polygamma"], [b.param(tensor(F64, x.shape))], {"n": n})))
    compared = 0
    for a, value in zip(x, made.run([x])[0]):
        with mpmath.workprec(200 + 8 * n):  # mpmath sums large terms of both signs for a < 0
            true = mpmath.polygamma(n, mpmath.mpf(float(a)))
            size = abs(true) + (abs(mpmath.polygamma(n, mpmath.mpf(float(-a)))) if a < 0 else 0)
        if 1e-290 < abs(true) and size < 1e300:
            compared += 1
            assert report.ulp_error(value, true, "f64", size) <= (1.5 if a > 0 else 3) * n + 2, (n, a)
    assert compared > x.size / 2


def test_definitions_are_deterministic_and_unique():
    needed = {(name, dtype) for name, dtype in CASES}
    made = vecmath.definitions(needed)
    assert made == vecmath.definitions(set(sorted(needed, reverse=True)))
    assert all(line.startswith("declare ") for line in made.declares)
    symbols = re.findall(r"^(?:define internal \w+ )?(@tapejit[\w.]+)", made.text, re.M)
    assert len(symbols) == len(set(symbols))
    assert {vecmath.symbol(*n) for n in needed} <= set(symbols)
    assert "declare" not in made.text


def test_unknown_name_is_refused():
    with pytest.raises(KeyError):
        vecmath.symbol("arcsin", "f64")
    with pytest.raises(KeyError):
        vecmath.symbol("exp", "f16")
