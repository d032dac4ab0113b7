"""Elementwise functions against NumPy: values, dtypes, shapes, exceptions, weak scalars, derivatives."""

import numpy as np
import pytest

import tapejit.numpy as tnp
from tapejit.array import Array
from tapejit.errors import DTypeError, MutationError, UnsupportedFunctionError
from tapejit.ir.types import NAMES

FLOATS = np.array([[-2.5, -1.0, -0.0, 0.0], [0.25, 0.5, 1.0, 2.75]])
UNIT = np.array([-0.9, -0.25, 0.0, 0.5, 0.75])
ABOVE = np.array([1.0, 1.5, 2.0, 3.75])
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e-300, 5e-324])
INTS = np.array([-3, -1, 0, 1, 2, 7])
OPERANDS = {
    "f64": FLOATS, "f32": FLOATS.astype(np.float32), "i64": INTS, "i32": INTS.astype(np.int32),
    "bool": np.array([True, False]), "0d": np.array(0.5), "empty": np.zeros((0, 3)), "strided": FLOATS[:, ::-2],
    "special": SPECIAL, "scalar": 0.5, "int": 3, "numpy scalar": np.float32(0.5),
}  # fmt: skip
UNARY = (
    "negative positive absolute fabs sign sqrt square cbrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan arctan "
    "arcsinh sinh cosh tanh degrees radians deg2rad rad2deg floor ceil trunc rint isnan isinf isfinite signbit logical_not "
    "invert conjugate modf arcsin arccos arccosh arctanh sinc nan_to_num round around fix real imag"
).split()
BINARY = (
    "add subtract multiply divide true_divide floor_divide remainder mod fmod float_power maximum minimum fmax fmin less "
    "less_equal greater greater_equal equal not_equal logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor "
    "heaviside copysign arctan2 hypot logaddexp logaddexp2 divmod isclose"
).split()
PAIRS = {
    "f64 f64": (FLOATS, FLOATS[::-1] + 0.5), "f64 f32": (FLOATS, FLOATS.astype(np.float32)),
    "f32 scalar": (FLOATS.astype(np.float32), 1.5), "scalar f32": (2, FLOATS.astype(np.float32)),
    "i64 scalar": (INTS, 2), "i64 float": (INTS, 0.5), "i32 i64": (INTS.astype(np.int32), INTS[::-1]),
    "i32 f32": (INTS.astype(np.int32), np.float32(2.5)),
    "bool bool": (np.array([True, False]), np.array([True, True])),
    "bool i64": (np.array([True, False]), np.array([3, 4])), "bool scalar": (np.array([True, False]), 2.0),
    "broadcast": (FLOATS, np.array([1.0, 2.0, -3.0, 4.0])), "0d": (np.array(2.0), FLOATS),
    "empty": (np.zeros((0, 4)), 2.0),
    "special": (SPECIAL, SPECIAL[::-1]), "mismatch": (FLOATS, np.ones(3)), "zero": (FLOATS, np.zeros(4)),
    "int zero": (INTS, np.array([0, 1, 2, -2, 0, 3])), "numpy scalar": (FLOATS.astype(np.float32), np.float64(2.0)),
}  # fmt: skip


def representable(name, args):
    """Whether NumPy computes in dtypes that we have (it does bool arithmetic in int8 and float16)."""
    with np.errstate(all="ignore"):
        try:
            out = getattr(np, name)(*args)
        except (TypeError, ValueError):
            return True
    return all(np.asarray(o).dtype in NAMES for o in (out if isinstance(out, tuple) else (out,)))


@pytest.mark.parametrize("name", UNARY)
def test_unary(name, same):
    for x in OPERANDS.values():
        if name == "reciprocal" and x is INTS or x is OPERANDS["i32"]:
            x = x[x != 0]  # of the integer 0 NumPy's is undefined
        if representable(name, (x,)):
            same(name, x)
        else:
            with pytest.raises(DTypeError):
                getattr(tnp, name)(Array(x))


@pytest.mark.parametrize("name", BINARY)
def test_binary(name, same):
    for x, y in PAIRS.values():
        if representable(name, (x, y)):
            same(name, x, y)
        else:
            with pytest.raises(DTypeError):
                getattr(tnp, name)(Array(x), Array(y))


POWERS = [
    (FLOATS, 2), (FLOATS, -1), (np.abs(FLOATS), 0.5), (FLOATS, 3.0), (INTS, 2), (INTS, INTS[::-1] * 0 + 3),
    (2, INTS[3:]),
    (INTS, -1), (INTS, np.array([1, 2, 3, -1, 0, 0])), (2.0, INTS), (FLOATS.astype(np.float32), 2), (INTS, 0.5),
    (np.array([True]), np.array([2])), (np.array(3), 2), (INTS.astype(np.int32), np.array(2, np.int32)),
]  # fmt: skip


@pytest.mark.parametrize("x, y", POWERS)
def test_power(x, y, same):
    same("power", x, y)
    same("pow", x, y)


def test_negative_integer_exponents_are_guarded():
    with pytest.raises(ValueError, match="Integers to negative"):
        Array([2, 3]) ** -1
    with pytest.raises(ValueError, match="Integers to negative"):
        2 ** Array([1, -1])


@pytest.mark.parametrize("name", ["left_shift", "right_shift", "bitwise_and", "bitwise_or", "bitwise_xor"])
def test_integer_operators(name, same):
    same(name, INTS, 2)
    same(name, INTS.astype(np.int32), np.array([1, 2, 3, 1, 0, 2], np.int32))
    same(name, FLOATS, 2)


ROUNDS = [(FLOATS * 1.2345, 2), (FLOATS * 1234.5, -2), (INTS * 17, -1), (INTS, 3), (FLOATS, 0), (np.array(2.5), 0),
    (2.675, 2)]


@pytest.mark.parametrize("x, decimals", ROUNDS)
def test_round(x, decimals, same):
    same("round", x, decimals)
    same("around", x, decimals=decimals)


CLIPS = [
    ((FLOATS, -1, 1), {}), ((FLOATS, None, 0.5), {}), ((FLOATS, 0, None), {}), ((FLOATS,), {"min": 0, "max": 1}),
    ((FLOATS,), {"max": 1}), ((INTS, 0, 2.5), {}), ((INTS, 0, 2), {}), ((FLOATS, 1, -1), {}), ((FLOATS,), {}),
    ((SPECIAL, -1, 1), {}), ((FLOATS.astype(np.float32), 0, np.float64(1)), {}),
    ((FLOATS, np.zeros(4), np.ones((2, 1))), {}),
    ((FLOATS, 1), {}), ((FLOATS, 0, 1), {"min": 0}), ((INTS.astype(np.int32), -1, 2), {}), ((FLOATS, None, None), {}),
]  # fmt: skip


@pytest.mark.parametrize("args, kwargs", CLIPS)
def test_clip(args, kwargs, same):
    same("clip", *args, **kwargs)


WHERES = [
    (FLOATS > 0, FLOATS, 0), (FLOATS, 1.0, 2.0), (FLOATS > 0, FLOATS.astype(np.float32), 2.5), (True, INTS, 0.5),
    (FLOATS > 0, INTS[:4], FLOATS), (np.array([[True], [False]]), np.zeros(3), np.ones((2, 1))), (FLOATS > 0, 1, 2),
    (FLOATS > 0, True, False), (FLOATS > 0,), (FLOATS > 0, 1), (FLOATS > 0, np.ones(3), 0.0),
]  # fmt: skip


@pytest.mark.parametrize("args", WHERES)
def test_where(args, same):
    same("where", *args, record=len(args) == 3)


def test_nan_to_num(same):
    same("nan_to_num", SPECIAL, nan=1.0, posinf=2.0, neginf=-2.0)
    same("nan_to_num", np.array([np.nan, np.inf, -np.inf, 1.0], np.float32), nan=5.0)


TESTS = [
    ("allclose", FLOATS, FLOATS + 1e-9), ("allclose", FLOATS, FLOATS + 1e-3), ("array_equal", FLOATS, FLOATS),
    ("array_equal", FLOATS, FLOATS[0]), ("array_equal", SPECIAL, SPECIAL), ("array_equiv", FLOATS, np.zeros(3)),
    ("array_equiv", np.ones((2, 3)), np.ones(3)), ("isclose", INTS, INTS + 1),
]  # fmt: skip


@pytest.mark.parametrize("name, x, y", TESTS)
def test_tests(name, x, y, same):
    same(name, x, y)


def test_nan_equal(same):
    same("array_equal", SPECIAL, SPECIAL, equal_nan=True)
    same("allclose", SPECIAL, SPECIAL, equal_nan=True)


def test_comparison_with_a_python_integer_beyond_the_type(same):
    for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
        for number in (2**40, -(2**40)):
            same(name, INTS.astype(np.int32), number)
            same(name, number, INTS.astype(np.int32), dispatch=False)


def test_dtype_selects_the_loop(same):
    same("add", INTS, INTS, dtype=np.float32)
    same("sin", FLOATS, dtype=np.float32)
    same("multiply", FLOATS, 2, dtype=np.int64)


def test_ufunc_methods():
    x, y = FLOATS[1], FLOATS[0]
    for ufunc in (np.add, np.multiply, np.maximum, np.minimum):
        np.testing.assert_array_equal(ufunc.outer(Array(x), Array(y)).numpy(), ufunc.outer(x, y))
        for keywords in ({}, {"axis": 1}, {"axis": None}, {"keepdims": True}, {"initial": 3.0}):
            np.testing.assert_allclose(ufunc.reduce(Array(FLOATS), **keywords).numpy(),
                ufunc.reduce(FLOATS, **keywords))
    for ufunc in (np.add, np.multiply):
        np.testing.assert_array_equal(ufunc.accumulate(Array(FLOATS)).numpy(), ufunc.accumulate(FLOATS))
    assert np.logical_or.reduce(Array(FLOATS > 2)).numpy().tolist() == [False, False, False, True]
    with pytest.raises(UnsupportedFunctionError, match=r"np\.gcd\.at cannot be recorded"):
        np.gcd.at(Array(x), [0], 1)


def test_keywords_that_cannot_be_recorded():
    x = Array(FLOATS)
    assert np.sin(x, out=None, where=True).shape == x.shape
    with pytest.raises(TypeError, match="where"):
        np.sin(x, where=FLOATS > 0)
    with pytest.raises(MutationError):
        np.sin(x, out=np.zeros((2, 4)))
    given = Array(np.empty(FLOATS.shape))
    assert tnp.sin(x, out=given) is given and given.tolist() == np.sin(FLOATS).tolist()
    with pytest.raises(TypeError):
        tnp.sin(x, nonsense=1)


def test_operators_stay_weak_and_functions_do_not():
    from tapejit.record import recording

    with recording("test") as record:
        w = record.param(np.float64(2.0), weak=True)
        single = np.ones(2, np.float32)
        for y in (w * 3, -w, w + 1, abs(w), w**2, w / 2, w % 2, w // 2, 3 - w):
            assert y._weak
            assert (y * single).dtype == np.float32
        for y in (np.sin(w), np.maximum(w, 0), np.where(True, w, w), np.reshape(w, (1,)), np.sum(w), np.copy(w),
            np.round(w)):
            assert not y._weak
            assert (y * single).dtype == np.float64


SMOOTH_UNARY = [
    ("negative", FLOATS), ("absolute", UNIT[:2]), ("sqrt", ABOVE), ("square", FLOATS), ("cbrt", ABOVE),
    ("reciprocal", ABOVE),
    ("exp", FLOATS), ("exp2", FLOATS), ("expm1", FLOATS), ("log", ABOVE), ("log2", ABOVE), ("log10", ABOVE),
    ("log1p", ABOVE),
    ("sin", FLOATS), ("cos", FLOATS), ("tan", UNIT), ("arcsin", UNIT), ("arccos", UNIT), ("arctan", FLOATS),
    ("arcsinh", FLOATS), ("arccosh", ABOVE + 1), ("arctanh", UNIT), ("sinh", FLOATS), ("cosh", FLOATS),
    ("tanh", FLOATS),
    ("degrees", FLOATS), ("radians", FLOATS), ("sinc", np.array([-0.3, 0.0, 1e-5, 0.002, 0.5])),
    ("nan_to_num", FLOATS),
    ("fabs", ABOVE), ("positive", ABOVE), ("floor", UNIT + 0.1), ("modf", FLOATS + 0.1), ("rint", UNIT + 0.1),
    ("real", UNIT),
]  # fmt: skip


@pytest.mark.parametrize("name, x", SMOOTH_UNARY)
def test_unary_derivative(name, x, slopes):
    slopes(getattr(np, name), x)


@pytest.mark.parametrize("name", (
    "add subtract multiply divide power float_power maximum minimum fmax fmin arctan2 hypot logaddexp logaddexp2 remainder "
    "fmod copysign floor_divide"
).split())  # fmt: skip
def test_binary_derivative(name, slopes):
    slopes(getattr(np, name), ABOVE, np.array([[0.7], [2.6]]))


def test_selection_derivative(slopes):
    slopes(lambda x, y: np.where(x > y, x * 2, y**2), ABOVE, np.array([2.1]))
    slopes(lambda x, lo, hi: np.clip(x, lo, hi), FLOATS, -0.7, 0.7)
    (grad,) = slopes(lambda x: np.where(x > 0, np.sqrt(x), 0.0) + np.where(x > 0, np.log(x), 0.0),
        np.array([-1.0, 0.5]))
    assert grad[0] == 0.0
