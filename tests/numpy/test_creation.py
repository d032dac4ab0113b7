"""Functions that make arrays, dtype casts and the namespace itself."""

import inspect

import numpy as np
import pytest

import tapejit.numpy as tnp
from tapejit import array as front
from tapejit.array import HANDLERS, Array
from tapejit.errors import DTypeError, UnsupportedFunctionError
from tapejit.record import recording

M = np.arange(12.0).reshape(3, 4)
V = np.array([1.0, 2.0, 4.0])
CASES = [
    *[(f, s) for f in ("zeros", "ones") for s in (3, (2, 3), (), [2], -1)], ("zeros", 3, np.float32),
    ("ones", 2, bool),
    ("full", (2, 2), 3), ("full", 3, 2.5, np.int64), ("full", (2, 3), V), ("full", 2, True), ("full", (2, 2), V),
    ("zeros_like", M), ("ones_like", M.astype(np.float32)), ("full_like", M, 2), ("full_like", np.arange(3), 2.5),
    ("zeros_like", M, np.int32),
    ("eye", 3), ("eye", 2, 3, 1), ("eye", 3, None, -1, np.int64), ("identity", 2), ("tri", 3), ("tri", 2, 4, 1),
    ("indices", (2, 3)),
    ("arange", 5), ("arange", 1, 7, 2), ("arange", 0.0, 1.0, 0.25), ("arange", 3, 0, -1),
    ("arange", 0, 3, None, np.float32), ("arange", 5, 0),
    *[("linspace", 0, 1, *rest) for rest in ((), (5,), (5, False), (1,), (0,), (5, True, True),
        (2, True, False, np.int64), (-1,))],
    ("linspace", V, 2 * V, 4), ("linspace", V, 7.0, 3, True, False, None, 1),
    ("linspace", V.astype(np.float32), V, 3), ("linspace", V, V, 1, False),
    ("linspace", V, 2 * V, 4, True, True), ("linspace", V, 9 * V, 4, True, False, np.int64),
    ("linspace", V, 9 * V, 0),
    ("logspace", 0, 2, 4), ("logspace", V, 2, 4), ("logspace", V, 2, 4, False, 2.0), ("geomspace", 1, 8, 4),
    ("geomspace", V, 3 * V, 4),
    ("geomspace", -V, -3 * V, 4, False),
    *[("diag", x, k) for x in (V, M) for k in (0, 1, -1, 3, -3)], ("diag", np.zeros(0), 2), ("diag", np.array(1.0)),
    ("diagflat", M, 1),
    *[(f, x, k) for f in ("tril", "triu") for x in (M, V, np.ones((2, 3, 3))) for k in (0, 1, -1)],
    ("tril", np.array(1.0)),
    ("vander", V), ("vander", V, 2), ("vander", np.arange(3), 4, True), ("vander", M), ("vander", V, 0),
    ("vander", V, 1),
    ("meshgrid", V, M[0]), ("meshgrid", V), ("meshgrid", V, 2.0, M[0]), ("copy", M), ("astype", M, np.float32),
    ("astype", M, bool),
    ("astype", V, int), ("array", [1, 2]), ("array", [[1.0], [2]]), ("array", M, np.float32),
    ("asarray", [True, False]), ("asarray", 2.0),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_as_numpy(case, same):
    rtol = 1e-12 if "space" in case[0] else 0.0
    same(*case, rtol=rtol, dispatch=case[0] not in ("full", "array", "asarray"),
        record=not case[0].startswith("zeros"))


def test_keywords(same):
    for keywords in ({"indexing": "ij"}, {"sparse": True}, {"indexing": "x"}):
        same("meshgrid", V, M[0], **keywords)
    same("zeros_like", M, shape=(2,))
    same("array", 3.0, ndmin=2, dispatch=False)
    np.testing.assert_array_equal(tnp.fromfunction(lambda i, j: i + 2 * j, (2, 3)),
        np.fromfunction(lambda i, j: i + 2 * j, (2, 3)))


def test_lists_of_recorded_values():
    with recording("test") as record:
        x, y = record.param(np.float64(2.0)), record.param(np.float64(3.0), weak=True)
        z = tnp.array([[x, y], [1, x * y]])
        assert z._record is record and z.dtype == np.float64
        np.testing.assert_array_equal(z._data, [[2, 3], [1, 6]])
        assert tnp.array([x, 1], dtype=np.float32).dtype == np.float32
        assert tnp.asarray([[x, y]]).shape == (1, 2)
        assert (z * [x, y])._record is record
        with pytest.raises(ValueError):
            tnp.array([[x, y], [x]])
        with pytest.raises(TypeError, match="np.stack"):
            np.array([x, y])
        assert tnp.full((2, 2), x)._record is record
        assert tnp.linspace(0.0, x, 3)._record is record
        assert tnp.arange(record.param(np.int64(3))).shape == (3,)
        assert record.nodes[-1].op.name == "guard"


def test_dtypes_that_cannot_be_recorded():
    for dtype in (np.float16, np.complex128, np.int8, object):
        with pytest.raises(DTypeError):
            tnp.zeros(2, dtype)
        with pytest.raises(DTypeError):
            Array([1.0]).astype(dtype)


@pytest.mark.parametrize("function", [
    lambda x: np.linspace(x[0, 0], x[1, 1], 5), lambda x: np.diag(x[0], 1), lambda x: np.tril(x),
    lambda x: np.triu(x, 1),
    lambda x: np.meshgrid(x[0], x[1]), lambda x: np.vander(x[0]), lambda x: np.geomspace(x[0, 1], x[1, 1], 4),
    lambda x: np.full_like(x, x[0, 0]),
    lambda x: tnp.array([[x[0, 0], 2.0], [x[1, 1], x[0, 1] * 2]]), lambda x: x.astype(int) * x, lambda x: np.diag(x),
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, M + 0.5)


# ---- the namespace -------------------------------------------------------------------------------------------------------
def test_names_are_numpys():
    for name in tnp.__all__:
        assert hasattr(np, name), name
        assert hasattr(tnp, name)
    for name in tnp.linalg.__all__:
        assert hasattr(np.linalg, name) and getattr(tnp.linalg, name)


EXTRA = {"like", "device", "kwargs", "order", "signature", "extobj", "subok", "copy", "optimize", "min", "max",
    "dtype", "out"}


@pytest.mark.parametrize("name", [n for n in tnp.__all__ if inspect.isfunction(getattr(tnp, n)) and n != "where"])
def test_signatures_are_numpys(name):
    """Positional parameters: NumPy's, in its order, with its defaults."""
    try:
        theirs = inspect.signature(getattr(np, name)).parameters.values()
    except ValueError:
        pytest.skip("NumPy states no signature")
    ours = list(inspect.signature(getattr(tnp, name)).parameters.values())
    positional = [p for p in theirs if p.kind is not p.KEYWORD_ONLY and p.name not in EXTRA]
    mine = [p for p in ours if p.kind is not p.KEYWORD_ONLY and p.name not in EXTRA]
    assert len(mine) >= len(positional)
    for p, q in zip(positional, mine):
        if p.kind is p.POSITIONAL_OR_KEYWORD:
            assert p.name == q.name
        if isinstance(p.default, (int, float, str, tuple, type(None))) and p.default is not p.empty:
            assert q.default == p.default, p.name


def test_every_function_of_the_methods_is_there():
    """What Array's methods and operators look up exists, but for the named ones that need operations to come."""
    source = inspect.getsource(front)
    import re

    keys = set(re.findall(r"\bnp\.([a-z_0-9]+)", source[source.index("class Array") :]))
    missing = {k for k in keys if callable(getattr(np, k, None)) and not isinstance(getattr(np, k), type)
               and getattr(np, k) not in HANDLERS} - {"asarray", "array2string", "stack", "concatenate", "sort",
               "argsort", "where", "foo"}
    assert not missing


def test_missing_functions_are_named_with_their_line():
    with pytest.raises(UnsupportedFunctionError) as caught:
        np.quantile(Array(V), 0.5)
    assert "np.quantile" in str(caught.value) and "test_creation.py" in str(caught.value)
    with pytest.raises(UnsupportedFunctionError, match="np.linalg.svd"):
        np.linalg.svd(Array(M))
    for name in ("random", "quantile", "nonsense"):
        with pytest.raises(AttributeError, match=name):
            getattr(tnp, name)


def test_methods_are_numpys():
    x = Array(M)
    for call in (
        lambda a: a.sum(0), lambda a: a.prod(), lambda a: a.mean(1, keepdims=True), lambda a: a.std(ddof=1),
        lambda a: a.var(axis=0),
        lambda a: a.max(1), lambda a: a.min(), lambda a: a.argmax(0), lambda a: a.argmin(), lambda a: a.all(),
        lambda a: a.any(0),
        lambda a: a.cumsum(1), lambda a: a.cumprod(), lambda a: a.clip(1, 5), lambda a: a.dot(a.T),
        lambda a: a.trace(), lambda a: a.ravel(),
        lambda a: a.squeeze(), lambda a: a.swapaxes(0, 1), lambda a: a.repeat(2, 0), lambda a: a.take([0, 1]),
        lambda a: a.round(1),
        lambda a: a.diagonal(), lambda a: a.copy(), lambda a: a.conj(), lambda a: a.reshape(4, 3),
        lambda a: a.reshape((2, -1)),
        lambda a: a.transpose(), lambda a: a.transpose(1, 0), lambda a: a.flatten(), lambda a: a.astype(np.float32),
        lambda a: a.T, lambda a: a.mT,
    ):  # fmt: skip
        got, expected = call(x), call(M)
        np.testing.assert_array_equal(got.numpy(), expected)
        assert got.dtype == expected.dtype and got.shape == expected.shape
