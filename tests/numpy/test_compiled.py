"""What the namespace is written in, compiled: values as eager ones, gradients as differences, on a second call too."""

import numpy as np
import pytest

import tapejit
from tapejit.array import Array

A = np.random.default_rng(0).normal(size=(3, 4))
DIRECTION = np.random.default_rng(1).normal(size=A.shape)
FUNCTIONS = {
    "pad": lambda x: np.pad(x, 2, "reflect"),
    "fancy": lambda x: x[[0, 2], :][:, [1, 1, 3]],
    "recorded row": lambda x: x[x[:, 0].argmin()],
    "rot90": lambda x: np.rot90(x),
    "insert": lambda x: np.insert(x, 1, 9.0, 0),
    "repeat": lambda x: np.repeat(x, [1, 0, 2], 0),
    "take_along_axis": lambda x: np.take_along_axis(x, np.argmax(x, 1, keepdims=True), 1),
    "diag": lambda x: np.diag(x[0], 1),
    "tril": lambda x: np.tril(x),
    "select": lambda x: np.select([x > 1, x > 0], [x**2, x], -x),
    "interp": lambda x: np.interp(x, np.arange(-4.0, 4.0), np.arange(-4.0, 4.0) ** 2),
    "cumprod": lambda x: np.cumprod(x, 1),
    "std": lambda x: np.std(x, 1),
    "nanmean": lambda x: np.nanmean(np.where(x > 0, x, np.nan), 0),
    "gradient": lambda x: np.gradient(x)[0],
    "convolve": lambda x: np.convolve(x[0], x[1]),
    "kron": lambda x: np.kron(x, x[:2]),
    "einsum": lambda x: np.einsum("ij,kj,ik->i", x, x, x @ x.T),
    "matrix_power": lambda x: np.linalg.matrix_power(x @ x.T, 3),
    "norm": lambda x: np.linalg.norm(x, 3, 0),
    "round": lambda x: np.round(x, 1) * x,
    "modf": lambda x: np.modf(x)[0] * x,
    "sinc": lambda x: np.sinc(x),
    "fmax": lambda x: np.fmax(x, x[::-1]),
    "power": lambda x: np.abs(x) ** x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled(name):
    function = FUNCTIONS[name]
    compiled = tapejit.jit(function)
    slope = tapejit.grad(lambda x: np.sum(function(x) ** 2))
    for x in (A, A[::-1] * 1.1):
        np.testing.assert_allclose(compiled(x), function(Array(x)).numpy(), rtol=1e-11, atol=1e-11)
        step = 1e-6
        ends = [np.sum(function(Array(x + t * DIRECTION)).numpy() ** 2) for t in (step, -step)]
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(slope(x) * DIRECTION), expected, rtol=1e-4, atol=1e-6)
