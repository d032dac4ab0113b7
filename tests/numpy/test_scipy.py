"""scipy.special of Arrays against scipy, by dispatch and from our namespace."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import special

import tapejit
from tapejit import scipy as ours
from tapejit.array import Array
from tapejit.errors import ArgumentError, UnsupportedFunctionError

X = np.array([-30.0, -2.5, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0, 40.0])
UNIT = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
UNARY = {
    "erf": X, "erfc": X, "expit": X, "log_expit": X, "entr": X, "ndtr": X, "exp10": X / 10, "exp2": X, "expm1": X / 2,
    "log1p": UNIT, "cbrt": X, "logit": UNIT, "gammaln": X, "digamma": X, "psi": X,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    function = getattr(special, name)
    for x in (UNARY[name], UNARY[name].astype(np.float32), SPECIAL):
        with np.errstate(all="ignore"):
            expected = function(x)
            for got in (function(Array(x)), getattr(ours.special, name)(Array(x))):
                assert got.dtype == expected.dtype
                rtol = 2e-5 if x.dtype == np.float32 else 2e-13
                np.testing.assert_allclose(got._data, expected, rtol=rtol, atol=rtol / 100)


@pytest.mark.parametrize("name", ["xlogy", "xlog1py", "rel_entr"])
def test_binary(name):
    function = getattr(special, name)
    edges = [0.0, 0.5, 1.0, 2.0, np.inf, np.nan]
    x, y = np.meshgrid([-1.0, *edges], [-2.0, *edges])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(function(Array(x), Array(y))._data, function(x, y), rtol=1e-13)
        np.testing.assert_allclose(function(Array(x), 2)._data, function(x, 2), rtol=1e-13)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_functions(name):
    x = np.random.default_rng(0).normal(size=(3, 4)) * 50
    for axis in (None, 0, -1):
        got = getattr(ours.special, name)(Array(x), axis)
        np.testing.assert_allclose(got._data, getattr(special, name)(x, axis), rtol=1e-13)
    for edge in (np.array([-np.inf, -np.inf]), np.array([np.inf, 0.0])):
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(ours.special.logsumexp(Array(edge))._data, special.logsumexp(edge))
    weights = np.array([1.0, 2.0, 0.0, 0.5])
    np.testing.assert_allclose(
        ours.special.logsumexp(Array(x), 1, weights, True)._data, special.logsumexp(x, 1, weights, True), rtol=1e-13
    )


@pytest.mark.parametrize("function", [
    special.erf, special.erfc, special.expit, special.log_expit, special.entr, special.ndtr, special.logit,
    special.exp10, special.gammaln, special.digamma, lambda x: ours.special.polygamma(2, x),
    lambda x: special.xlogy(x, x + 1), lambda x: special.xlog1py(x, x), lambda x: special.rel_entr(x, x**2),
    ours.special.logsumexp,
    lambda x: ours.special.softmax(x, 0), ours.special.log_softmax,
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, np.array([[0.1, 0.4], [0.7, 0.9]]))


def test_xlogy_at_zero_has_the_exact_derivative(slopes):
    from tapejit.ir.backward import backward
    from tapejit.ir.evaluate import evaluate
    from tapejit.record import recording

    with recording("test") as record:
        out = special.xlogy(record.param(np.zeros(2)), record.param(np.array([0.5, 0.0])))
        graph, _ = record.finish([out])
    with np.errstate(all="ignore"):
        args = [np.zeros(2), np.array([0.5, 0.0]), np.ones(2)]
        _, dx, dy = evaluate(backward(graph, [True, True]), args)
    np.testing.assert_allclose(dx, [np.log(0.5), 0.0])
    np.testing.assert_array_equal(dy, [0.0, 0.0])


def test_others_are_named():
    with pytest.raises(UnsupportedFunctionError, match="jv"):
        special.jv(1.0, Array(X))


def test_scipy_is_not_imported():
    code = "import tapejit, numpy, sys; import tapejit.scipy; numpy.sin(tapejit.Array([1.0])); sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_polygamma():
    x = np.array([0.1, 1.0, 2.5, -0.5, 30.0])
    for n in (0, 1, np.int32(3)):
        np.testing.assert_allclose(ours.special.polygamma(n, Array(x))._data, special.polygamma(n, x), rtol=1e-13)
    assert ours.special.polygamma(1, Array(x.astype(np.float32))).dtype == np.float32
    assert ours.special.polygamma(1, Array([1, 2])).dtype == np.float64
    for n in (-1, 101):
        with pytest.raises(ArgumentError, match="order"):
            ours.special.polygamma(n, Array(x))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_of_gammaln_are_the_polygammas(order):
    f = special.gammaln
    for _ in range(order):
        f = tapejit.grad(f)
    for x in (0.3, 1.0, 4.7, -1.3):
        np.testing.assert_allclose(f(x), special.polygamma(order - 1, x), rtol=1e-13)
