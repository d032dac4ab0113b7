"""Bad input: each error says what was seen, at which line of the user's, and what to write instead; nothing is lost."""

import inspect
import math
import re

import numpy as np
import pytest
import scipy.special

import tapejit
from tapejit import TapejitError, record
from tapejit.ir.knobs import INTERP


def fails(call, cls, what, instead):
    """Call; check class, the three parts, that the line is in this file, and that no state stays behind."""
    with pytest.raises(cls) as caught:
        call()
    error = caught.value
    assert isinstance(error, TapejitError)
    assert re.search(what, error.what), error.what
    assert re.search(instead, error.instead), error.instead
    assert error.where[0] == __file__ and f"\n  at {__file__}:{error.where[1]}" in str(error)
    assert f"\n  instead: {error.instead}" in str(error)
    assert record.state.records == [] and record.state.base is None and record.open_records[0] == 0
    return error


def line_of(function, text):
    """The number of the first line of a function's source that contains a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


# ---- what is differentiated ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("x", [np.arange(3), np.array([True, False]), np.int64(3)], ids=["int", "bool", "scalar"])
def test_integers_and_bools(x):
    fails(lambda: tapejit.grad(np.sum)(x), TypeError, "is not differentiable", r"x\.astype\(float\)")


def test_a_python_int_is_fine():
    assert tapejit.grad(lambda x: x * x)(3) == 6.0


@pytest.mark.parametrize(
    "x, what, instead",
    [
        (np.array([1, None], dtype=object), "dtype object", "dtype=float"),
        (np.array(["a"]), "dtype <U1", "pass a str"),
        (np.zeros(2, [("a", float)]), r"dtype \[\('a', '<f8'\)\]", "its fields as separate arrays"),
        (np.ones(2, complex), "dtype complex128", "real and imaginary part"),
        (1 + 2j, "dtype complex128", "real and imaginary part"),
        (np.ones(2, np.float16), "dtype float16", r"x\.astype\(np\.float64\)"),
        (np.ones(2, np.int8), "dtype int8", r"x\.astype\(np\.int64\)"),
        (np.ma.masked_array([1.0], [True]), "a masked array", "filled"),
    ],
)
def test_dtypes(x, what, instead):
    fails(lambda: tapejit.grad(lambda x: np.sum(x))(x), TypeError, what, instead)


def test_an_int_that_no_dtype_holds():
    fails(lambda: tapejit.jit(lambda n: n + 1)(2**63), OverflowError, "9223372036854775808 does not fit int64", "pass a float")


def test_shapes_that_do_not_broadcast():
    def add(x, y):
        return x + y

    what = r"operands could not be broadcast together with shapes \(2,\) \(3,\)"
    error = fails(lambda: tapejit.jit(add)(np.ones(2), np.ones(3)), ValueError, what, r"x\[:, None\]")
    assert error.where[1] == line_of(add, "return x + y")


@pytest.mark.parametrize("argnums", [2, -3, (0, 5)])
def test_argnums_out_of_range(argnums):
    fails(lambda: tapejit.grad(lambda x, y: x * y, argnums)(1.0, 2.0), ValueError, "names argument", "count positional")


def test_argnums_of_a_static_and_of_a_wrong_type():
    f = lambda x, how: x
    what = "argument 1 of <lambda> is static .'fast'."
    fails(lambda: tapejit.grad(f, 1)(1.0, "fast"), ValueError, what, "an array or a number")
    fails(lambda: tapejit.grad(f, "x"), TypeError, "argnums must be an int", "argnums=0")
    fails(lambda: tapejit.grad(3.0), TypeError, "grad takes a function, got float", "above a def")


# ---- what is returned ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "f, what, instead",
    [
        (lambda x: None, "returned None", "forget to return"),
        (lambda x: "text", "returned str 'text'", "return an array"),
        (lambda x: (x, x), "returned a tuple of 2", "has_aux=True"),
        (lambda x: x > 0, "returned bool", "return floats"),
    ],
)
def test_what_a_function_returns(f, what, instead):
    fails(lambda: tapejit.grad(f)(1.0), TypeError, what, instead)


@pytest.mark.parametrize(
    "f, what",
    [
        (lambda x: (x for _ in range(2)), "a result of <lambda> is a generator"),
        (lambda x: {1, 2}, "a result of <lambda> of type set is neither an array"),
        (lambda x: np.array(["a"]), "<lambda> returned an ndarray of dtype <U1"),
    ],
)
def test_results_that_cannot_be_kept(f, what):
    fails(lambda: tapejit.jit(f)(1.0), TypeError, what, "return arrays")


def test_has_aux_needs_a_pair():
    fails(lambda: tapejit.grad(lambda x: x, has_aux=True)(1.0), TypeError, "not a pair", r"return \(value, aux\)")


# ---- what cannot be recorded ---------------------------------------------------------------------------------------------
def test_functions_that_do_not_exist():
    def svd(x):
        return np.linalg.svd(x)[1]

    what = "np.linalg.svd cannot be recorded"
    error = fails(lambda: tapejit.grad(svd)(np.eye(2)), NotImplementedError, what, "compute it outside")
    assert error.where[1] == line_of(svd, "np.linalg.svd")
    fails(lambda: tapejit.grad(lambda x: scipy.special.jv(0, x))(1.0), NotImplementedError, "jv cannot be recorded", "outside")
    fails(lambda: tapejit.grad(lambda x: np.sum(np.sort(x)))(np.ones(2)), NotImplementedError, "np.sort", "")


kept = []


def test_an_array_that_leaked():
    def leak(x):
        kept.append(x * 2)
        return x

    tapejit.jit(leak)(1.0)
    fails(lambda: kept[-1] + 1, RuntimeError, "recorded by leak, which has returned", "return it from leak")
    fails(lambda: float(kept[-1]), RuntimeError, "leaked out of its record", "has_aux=True")
    fails(lambda: tapejit.jit(lambda y: y * kept[-1])(1.0), RuntimeError, "leaked", "return it")


def test_writing_into_ndarrays_and_arrays():
    def into(x):
        a = np.zeros(2)
        a[0] = x
        return np.sum(a)

    error = fails(lambda: tapejit.grad(into)(1.0), TypeError, "a\\[0\\] = x. of an ndarray", "zeros_like|tapejit.numpy")
    assert error.where[1] == line_of(into, "a[0] = x")

    def augmented(x):
        a = np.zeros(2)
        a += x
        return np.sum(a)

    fails(lambda: tapejit.grad(augmented)(1.0), TypeError, "would write a recorded value into an ndarray", r"a = a \+ x")
    fails(lambda: tapejit.grad(lambda x: np.sin(x, out=np.zeros(2)))(np.ones(2)), TypeError, "into an ndarray", "tapejit.numpy")

    kept = np.ones(2)

    def item(x):
        kept[0] = x
        return x

    error = fails(lambda: tapejit.grad(item)(1.0), TypeError, "item writes into an array that it closes over", r"\.copy\(\)")
    assert error.where[1] == line_of(item, "kept[0] = x")


@pytest.mark.parametrize(
    "f, what",
    [
        (lambda x: math.sin(x), "math.sin"),
        (lambda x: float(x) * x, r"float\(\)"),
        (lambda x: np.sum(np.asarray(x)), "np.asarray"),
        (lambda x: x.item(), r"\.item\(\)"),
        (lambda x: x.numpy(), r"\.numpy\(\)"),
        (lambda x: x.tolist(), r"\.tolist\(\)"),
        (lambda x: complex(x), r"complex\(\)"),
    ],
)
def test_recorded_values_do_not_become_plain_ones(f, what):
    fails(lambda: tapejit.grad(f)(1.0), TypeError, f"{what}.* that <lambda> is recording", ".")


# ---- arguments -----------------------------------------------------------------------------------------------------------
def test_unhashable_statics_and_generators():
    fails(lambda: tapejit.jit(lambda x, s: x)(1.0, {1, 2}), TypeError, "type set .* not hashable", "frozenset")
    fails(lambda: tapejit.jit(sum)(i for i in range(3)), TypeError, "a generator", "list")


def test_endless_recursion():
    def endless(x):
        return endless(x + 1)

    fails(lambda: tapejit.grad(endless)(1.0), RecursionError, "endless calls itself deeper", "let the recursion end")


def test_vmap_misuse():
    x = np.ones((2, 3))
    fails(lambda: tapejit.vmap(np.sum, in_axes=5)(x), ValueError, "axis 5 of an argument of shape", "in_axes=None")
    fails(lambda: tapejit.vmap(np.add)(x, np.ones(5)), ValueError, "differ in length: 2 and 5", "one length")
    fails(lambda: tapejit.vmap(np.sum, in_axes=(0, 0))(x), ValueError, "does not fit 1 argument", "one of them per argument")
    fails(lambda: tapejit.vmap(np.sum, in_axes=None)(x), ValueError, "no argument is mapped", "an axis")


def test_jvp_vjp_hvp_misuse():
    f = lambda x: np.sum(x**2)
    fails(lambda: tapejit.jvp(f, np.ones(2), np.ones(2)), ValueError, "primals must be a tuple", r"\(x,\)")
    fails(lambda: tapejit.jvp(f, (np.ones(2),), (np.ones(3),)), ValueError, r"shape \(3,\) where f64\[2\]", "the shape of")
    fails(lambda: tapejit.vjp(f, np.ones(2))[1](np.ones(2)), ValueError, r"shape \(2,\) where f64 is needed", "the shape of")
    fails(lambda: tapejit.hvp(f)(np.ones(2)), ValueError, "hvp needs the vector", r"hvp\(f\)\(x, v\)")
    fails(lambda: tapejit.hvp(lambda x: x)(np.ones(2), np.ones(2)), TypeError, r"returned f64\[2\], not a scalar", "np.sum")


def test_unknown_stage():
    fails(lambda: tapejit.jit(np.sin).ir(1.0, stage="best"), ValueError, "no stage 'best'", "recorded, gradient")


# ---- nothing is lost -----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(INTERP.value, reason="nothing is compiled with TAPEJIT_INTERP=1")
@pytest.mark.parametrize("interruption, power", [(ValueError, 5), (KeyboardInterrupt, 6)])
def test_exceptions_in_the_function_or_in_compilation_leave_all_clean(monkeypatch, interruption, power):
    f = tapejit.grad(lambda x: x**3)
    assert f(2.0) == 12.0
    trouble = [True]

    def own(x):
        if trouble:
            raise interruption
        return x**2

    g = tapejit.grad(own)
    with pytest.raises(interruption):
        g(1.0)
    assert record.state.records == [] and record.open_records[0] == 0 and g.cache_info().currsize == 0
    trouble.clear()
    assert g(1.0) == 2.0

    import tapejit.codegen.engine as engine

    def broken(*args):
        raise interruption

    h = tapejit.grad(lambda x: x**power + 1.25)
    with monkeypatch.context() as patch:
        patch.setattr(engine.Session, "optimize", broken)
        with pytest.raises(interruption):
            h(1.0)
    assert record.state.records == [] and h.cache_info().currsize == 0
    assert h(1.0) == power and f(2.0) == 12.0
