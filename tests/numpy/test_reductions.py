"""Reductions, running sums, differences and convolutions against NumPy, and their derivatives."""

import numpy as np
import pytest

from tapejit.array import HANDLERS, Array
from tapejit.errors import UnsupportedFunctionError

A = np.random.default_rng(0).normal(size=(2, 3, 4))
INPUTS = {
    "f64": A, "f32": A.astype(np.float32), "i64": np.arange(12).reshape(3, 4) - 5,
    "i32": np.arange(6, dtype=np.int32).reshape(2, 3),
    "bool": A > 0, "0d": np.array(2.5), "1d": A[0, 0], "strided": A[:, ::-1, ::2],
    "nan": np.array([[1.0, np.nan], [np.nan, np.nan]]),
    "empty": np.zeros((0, 3)), "empty rows": np.zeros((3, 0)), "scalar": 2.0, "list": [1.0, 2.0, 3.0],
}  # fmt: skip
FOLDS = "sum prod max min amax amin mean std var all any ptp nansum nanprod nanmax nanmin nanmean nanvar nanstd".split()


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("name", [*FOLDS, "count_nonzero"])
def test_fold(name, x, same):
    if name == "ptp" and np.asarray(x).dtype == bool:
        x = np.asarray(x) * 1
    record = name != "count_nonzero"
    if name == "count_nonzero":
        assert int(np.count_nonzero(Array(x))) == np.count_nonzero(x)
    else:
        same(name, x, record=record)
    for axis in (0, -1, (0,), (0, -1), 1, 5, ()):
        same(name, x, axis=axis)
        same(name, x, axis=axis, keepdims=True)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name, same):
    for x in INPUTS.values():
        for axis in (None, 0, -1, 1, 5):
            same(name, x, axis=axis)
            same(name, x, axis=axis, keepdims=True)


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
def test_running(name, same):
    for x in INPUTS.values():
        for axis in (None, 0, -1, 1, 5):
            same(name, x, axis=axis)
    same(name, A, 1, np.float32)
    for cumulative in ("cumulative_sum", "cumulative_prod"):
        for x in INPUTS.values():
            for axis in (None, 0, -1, 1):
                for initial in (False, True):
                    same(cumulative, x, axis=axis, include_initial=initial)


KEYWORDS = [
    ("sum", {"dtype": np.float32}), ("sum", {"initial": 3.0}), ("sum", {"where": A > 0}),
    ("prod", {"initial": 2, "axis": 0}),
    ("prod", {"where": A > 0, "axis": 1}), ("max", {"initial": 0.5}), ("max", {"where": A > 0, "initial": -1.0}),
    ("max", {"where": A > 0}), ("min", {"initial": 0, "axis": (0, 1)}), ("mean", {"where": A > 0}),
    ("mean", {"dtype": np.float32}),
    ("var", {"ddof": 1}), ("var", {"correction": 1, "axis": 0}), ("var", {"correction": 1, "ddof": 1}),
    ("std", {"ddof": 1.5, "axis": -1}),
    ("var", {"where": A > 0, "axis": 2}), ("var", {"mean": A.mean(1, keepdims=True), "axis": 1}),
    ("all", {"where": A > 0}),
    ("any", {"where": A > 9}), ("nanmean", {"where": A > 0}), ("nansum", {"axis": (0, 2), "keepdims": True}),
    ("sum", {"where": np.array([True, False, True, True])}), ("average", {}), ("average", {"axis": 1}),
    ("average", {"weights": np.arange(24.0).reshape(A.shape)}),
    ("average", {"axis": 1, "weights": np.array([1, 2, 3])}),
    ("average", {"axis": (0, 2), "weights": np.arange(8).reshape(2, 4), "returned": True}),
    ("average", {"weights": np.ones(3)}),
    ("average", {"axis": 0, "weights": np.ones(3)}), ("average", {"axis": 0, "keepdims": True, "returned": True}),
    ("var", {"ddof": 24}), ("nanvar", {"ddof": 24}), ("nanstd", {"ddof": 1, "axis": 0}),
]  # fmt: skip


@pytest.mark.parametrize("name, keywords", KEYWORDS, ids=lambda k: k if isinstance(k, str) else ",".join(k))
def test_keywords(name, keywords, same):
    same(name, A, **keywords)


DIFFERENCES = [
    ("diff", A), ("diff", A, 2), ("diff", A, 0), ("diff", A, 1, 0), ("diff", A > 0), ("diff", A[0, 0], 7),
    ("diff", A, -1),
    ("diff", np.array(1.0)), ("diff", np.arange(4), 1, -1, 0), ("diff", A, 1, 1, A[:, :1], 5.0), ("diff", A, 1, 3),
    ("ediff1d", A), ("ediff1d", A, 1.0, [2.0, 3.0]), ("ediff1d", np.arange(3), 0.5),
    ("ediff1d", np.arange(4), [7], 9),
    ("gradient", A[0, 0]), ("gradient", A), ("gradient", A, 0.5), ("gradient", A, 0.5, 2.0, 1.0),
    ("gradient", A, 0.5, 2.0),
    ("gradient", np.arange(5) ** 2), ("gradient", A[0, 0], np.array([0.0, 1.0, 3.0, 3.5])), ("gradient", A[0, :1]),
    ("gradient", A[0, 0], np.array([0.0, 1.0])), ("gradient", A[0, 0, :2]), ("gradient", A[0].astype(np.float32)),
    ("gradient", A[0], np.array([0.0, 1.0, 3.0]), 2.0),
    ("trapezoid", A), ("trapezoid", A, np.arange(4.0) ** 2), ("trapezoid", A, None, 0.5, 1),
    ("trapezoid", np.arange(5)),
    ("trapezoid", A, A + 1, 1.0, 0), ("trapezoid", A, np.array([0, 2, 3]), 1.0, 1),
    *[(f, x, v, mode) for f in ("convolve", "correlate") for mode in ("full", "same", "valid")
      for x in (np.arange(5.0), np.arange(6)) for v in (np.array([1.0, -2.0, 0.5]), np.array([2]), np.arange(8),
          np.arange(4))],
    ("convolve", np.arange(3), 2), ("convolve", np.zeros(0), np.ones(2)), ("convolve", A, np.ones(2)),
    ("convolve", np.ones(2), np.zeros(0)),
    ("correlate", np.ones(3), np.zeros(0)), ("convolve", np.ones(3), np.ones(2), "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENCES, ids=lambda c: c[0])
def test_difference(case, same):
    same(*case)


def test_gradient_keywords(same):
    for order in (1, 2, 3):
        same("gradient", A[0], edge_order=order)
        same("gradient", A[0], 0.3, axis=1, edge_order=order)
        same("gradient", A[0, 0], np.array([0.0, 1.0, 3.0, 3.5]), edge_order=order)
    same("gradient", A, axis=(0, -1))


def test_what_is_missing_says_so():
    for function in (np.sort, np.median, np.percentile, np.argsort):
        if function not in HANDLERS:
            with pytest.raises(UnsupportedFunctionError, match=f"np.{function.__name__}"):
                function(Array(A[0, 0]), *([50] if function is np.percentile else []))
    if np.sort not in HANDLERS:
        with pytest.raises(UnsupportedFunctionError, match="np.sort"):
            Array(A).sort()


@pytest.mark.parametrize("function", [
    lambda x: np.sum(x, (0, 2)), lambda x: np.prod(x, 1), lambda x: np.max(x, 2), lambda x: np.min(x),
    lambda x: np.mean(x, 0),
    lambda x: np.var(x, 1, ddof=1), lambda x: np.std(x, -1), lambda x: np.ptp(x, 1),
    lambda x: np.average(x, 1, np.array([1, 2, 3])),
    lambda x: np.cumsum(x, 1), lambda x: np.cumprod(x, -1),
    lambda x: np.cumulative_sum(x, axis=0, include_initial=True),
    lambda x: np.diff(x, 2), lambda x: np.gradient(x), lambda x: np.gradient(x, 0.5, axis=2, edge_order=2),
    lambda x: np.trapezoid(x, dx=0.5), lambda x: np.convolve(x[0, 0], x[1, 1], "same"),
    lambda x: np.correlate(x[0, 0], x[1, 1, :2]),
    lambda x: np.nansum(np.where(x > 0, x, np.nan), 1), lambda x: np.nanmean(np.where(x > 0, x, np.nan)),
    lambda x: np.sum(x, where=x > 0),
    lambda x: np.mean(x, 1, where=x > -1), lambda x: np.nanmax(np.where(x > 0, x, np.nan)), lambda x: np.ediff1d(x),
    lambda x: np.average(x, weights=x**2), lambda x: np.nanstd(np.where(x > -1, x, np.nan)),
    lambda x: np.max(x, initial=0.1, axis=0),
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, A, rtol=1e-5)


def test_deviation_of_equal_elements_has_derivative_zero(slopes):
    (grad,) = slopes(lambda x: np.std(np.stack([x, x])), np.array(2.0))
    assert grad == 0.0
