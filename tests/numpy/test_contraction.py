"""Products, einsum and norms against NumPy, and their derivatives."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapejit
import tapejit.numpy as tnp
from tapejit.array import Array
from tapejit.errors import ArgumentError, ShapeError, UnsupportedFunctionError

rng = np.random.default_rng(0)
OPERANDS = {
    "0d": np.array(2.0), "3": rng.normal(size=3), "4": rng.normal(size=4), "34": rng.normal(size=(3, 4)),
    "43": rng.normal(size=(4, 3)),
    "234": rng.normal(size=(2, 3, 4)), "243": rng.normal(size=(2, 4, 3)), "143": rng.normal(size=(1, 4, 3)),
    "5243": rng.normal(size=(5, 2, 4, 3)),
    "i34": rng.integers(-5, 5, (3, 4)), "i43": rng.integers(-5, 5, (4, 3)).astype(np.int32),
    "f43": rng.normal(size=(4, 3)).astype(np.float32),
    "b34": rng.normal(size=(3, 4)) > 0, "b43": rng.normal(size=(4, 3)) > 0, "empty": np.zeros((0, 4)),
    "T": rng.normal(size=(3, 4)).T,
}  # fmt: skip
M, N = OPERANDS["34"], OPERANDS["43"]


@pytest.mark.parametrize("name", "matmul dot inner outer vdot vecdot matvec vecmat kron".split())
def test_products(name, same):
    for x in OPERANDS.values():
        for y in OPERANDS.values():
            if np.size(x) * np.size(y) < 2000:
                same(name, x, y, record=False, rtol=1e-11)
    same(name, OPERANDS["4"], OPERANDS["4"])
    same(name, [1.0, 2.0], np.array([3.0, 4.0]))


CASES = [
    ("tensordot", M, N), ("tensordot", M, N, 1), ("tensordot", M, M, 2), ("tensordot", M, N, 0),
    ("tensordot", M, N, (1, 0)),
    ("tensordot", M, N, ([0, 1], [1, 0])), ("tensordot", M, N, ([0], [0])), ("tensordot", M, N, ([0, 1], [0])),
    ("tensordot", M, N, (5, 0)),
    ("tensordot", OPERANDS["234"], OPERANDS["243"], ((0, -1), (0, 1))), ("linalg.tensordot", M, N),
    ("cross", OPERANDS["3"], N), ("cross", N, OPERANDS["3"]), ("cross", M, M), ("cross", M, M, 0, 0),
    ("cross", M, M, 0, 0, 0),
    ("linalg.cross", N, N), ("cross", np.arange(3), OPERANDS["3"]), ("cross", np.array(1.0), OPERANDS["3"]),
    ("linalg.outer", M, N), ("linalg.outer", OPERANDS["3"], OPERANDS["4"]), ("linalg.vecdot", M, M),
    ("linalg.matmul", M, N),
    ("linalg.multi_dot", [M, N, M, OPERANDS["4"]]), ("linalg.multi_dot", [OPERANDS["3"], M, N]),
    ("linalg.multi_dot", [M]),
    ("linalg.multi_dot", [OPERANDS["3"], M, OPERANDS["4"]]), ("linalg.multi_dot", [M, M]),
    ("linalg.multi_dot", [M, OPERANDS["234"]]),
    *[("linalg.matrix_power", M @ N, n) for n in (0, 1, 2, 3, 7)], ("linalg.matrix_power", M, 2),
    ("linalg.matrix_power", OPERANDS["i34"][:, :3], 3),
    ("linalg.trace", OPERANDS["234"]), ("linalg.diagonal", OPERANDS["234"]), ("linalg.norm", M, 5.0),
    ("linalg.norm", OPERANDS["234"]),
    ("linalg.norm", OPERANDS["234"], 2), ("linalg.norm", OPERANDS["i34"]), ("linalg.norm", OPERANDS["f43"]),
    ("linalg.norm", OPERANDS["0d"]),
    *[("linalg.norm", OPERANDS["3"], p) for p in (None, 2, 1, 0, 3, 0.5, -1, -2, np.inf, -np.inf, "fro", "x")],
    *[("linalg.norm", M, p) for p in (None, 1, -1, np.inf, -np.inf, "fro", "x", 3)],
    *[("linalg.norm", OPERANDS["234"], p, axis) for p in (None, 1, 3, np.inf) for axis in (0, -1, (1,))],
    *[("linalg.norm", OPERANDS["234"], p, axis, k) for p in (None, 1, -np.inf, "fro") for axis in ((0, 1),
        (2, 0)) for k in (False, True)],
    ("linalg.norm", M, None, 5), ("linalg.norm", M, None, (0, 0)), ("linalg.norm", M, None, (0, 1, 1)),
    ("linalg.norm", M, None, "x"),
    ("linalg.norm", np.zeros(3)), ("linalg.norm", np.zeros(3), 3), ("linalg.norm", np.zeros(0)),
    ("linalg.norm", M, None, None, True),
    ("linalg.vector_norm", OPERANDS["234"]), ("linalg.matrix_norm", OPERANDS["234"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_as_numpy(case, same):
    same(*case, rtol=1e-11)


def test_keywords(same):
    same("vecdot", M, M, axis=0)
    same("linalg.vecdot", M, M, axis=0)
    for keywords in ({"axis": (0, 2)}, {"axis": 1, "ord": 1}, {"keepdims": True},
        {"axis": (2, 1), "ord": 3, "keepdims": True}):
        same("linalg.vector_norm", OPERANDS["234"], **keywords)
    same("linalg.matrix_norm", OPERANDS["234"], ord=1, keepdims=True)
    same("linalg.trace", OPERANDS["234"], offset=1)


EQUATIONS = [
    ("ij,jk->ik", M, N), ("ij,jk", M, N), ("ij->ji", M), ("ij->", M), ("ij->j", M), ("ii->i", M @ N), ("ii", M @ N),
    ("ij,ij->ij", M, M),
    ("i,j->ij", OPERANDS["3"], OPERANDS["4"]), ("i,i", OPERANDS["3"], OPERANDS["3"]),
    ("bij,bjk->bik", OPERANDS["234"], OPERANDS["243"]),
    ("...ij,...jk->...ik", OPERANDS["234"], OPERANDS["143"]), ("...ij,...jk", OPERANDS["5243"], OPERANDS["234"]),
    ("...", M), ("i...->...", M),
    ("...i->i", OPERANDS["234"]), ("ij,jk,kl->il", M, N, M), ("ij,kl->", M, N),
    ("ijk,ijk->i", OPERANDS["234"], OPERANDS["234"]), (",ij", 2.0, M),
    ("iij->j", OPERANDS["143"][:, :1]), ("ba", M), ("ij , jk -> ki", M, N), ("ij,j", M, OPERANDS["4"]),
    ("ij,ij", OPERANDS["b34"], OPERANDS["b34"]),
    ("ij,jk", OPERANDS["i34"], OPERANDS["i43"]), ("i,ij,j", OPERANDS["3"], M, OPERANDS["4"]),
    ("iii->i", np.arange(27.0).reshape(3, 3, 3)),
    ("ij,jk->ikz", M, N), ("ij,jk->ii", M, N), ("ij,jk", M, M), ("ij", OPERANDS["3"]), ("i", M), ("ij,jk", M),
    ("i1", M), ("i->j->k", M), ("ij,kj->ik", M, np.ones((2, 1))),
    (M, [0, 1], N, [1, 2]), (M, [0, 1], N, [1, 2], [2, 0]), (OPERANDS["234"], [Ellipsis, 1], [1, Ellipsis]),
    ("ij->ij", M), ("i->", np.zeros(0)),
]  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0] if isinstance(c[0], str) else "lists")
def test_einsum(case, same):
    same("einsum", *case, rtol=1e-11)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_einsum(data):
    sizes = dict(zip("abcde", data.draw(st.permutations([1, 2, 3, 2, 4]))))
    terms = data.draw(st.lists(st.text("abcde", max_size=4), min_size=1, max_size=4))
    known = sorted(set("".join(terms)))
    output = "".join(data.draw(st.permutations(known))[: data.draw(st.integers(0, len(known)))])
    equation = ",".join(terms) + data.draw(st.sampled_from(["->" + output, ""]))
    xs = [rng.normal(size=[sizes[k] for k in term]) for term in terms]
    got = tnp.einsum(equation, *map(Array, xs))
    np.testing.assert_allclose(got._data, np.einsum(equation, *xs), rtol=1e-9, atol=1e-9, err_msg=equation)


def test_errors_of_our_own():
    with pytest.raises(ShapeError, match="not aligned"):
        Array(M) @ M
    with pytest.raises(ArgumentError, match="inverse"):
        np.linalg.matrix_power(Array(M @ N), -1)
    for ord in (2, -2, "nuc"):
        with pytest.raises(UnsupportedFunctionError, match="singular values"):
            np.linalg.norm(Array(M), ord)
    with pytest.raises(UnsupportedFunctionError, match="np.linalg.eig"):
        np.linalg.eig(Array(M @ N))


@pytest.mark.parametrize("function", [
    lambda x, y: x @ y, lambda x, y: x[0] @ y, lambda x, y: np.dot(x, y[:, 0]), lambda x, y: np.inner(x, y.T),
    lambda x, y: np.outer(x, y),
    lambda x, y: np.tensordot(x, y, ([0, 1], [1, 0])), lambda x, y: np.kron(x, y),
    lambda x, y: np.cross(x[:, :3], y[:3]),
    lambda x, y: np.einsum("ij,jk,kl->l", x, y, x), lambda x, y: np.einsum("ij,ji->i", x, y),
    lambda x, y: np.linalg.norm(x - y.T),
    lambda x, y: np.linalg.norm(x, 3, 0), lambda x, y: np.linalg.norm(x, 1, (0, 1)),
    lambda x, y: np.linalg.multi_dot([x, y, x]),
    lambda x, y: np.linalg.matrix_power(x @ y, 3), lambda x, y: np.vecdot(x, y.T), lambda x, y: np.matvec(x, y.T),
    lambda x, y: np.vecmat(x[:, 0], x),
    lambda x, y: np.vdot(x, y), lambda x, y: np.stack([x, x]) @ np.stack([y, y * 2]),
    lambda x, y: x @ np.stack([y, y]),
])  # fmt: skip
def test_derivative(function, slopes):
    slopes(function, M, N, rtol=1e-5)


def test_norm_at_zero_has_derivative_zero():
    from tapejit.ir.backward import backward
    from tapejit.ir.evaluate import evaluate
    from tapejit.record import recording

    for ord in (None, 1, 2, 3, np.inf):
        with recording("test") as record:
            out = np.linalg.norm(record.param(np.zeros(3)), ord)
            graph, _ = record.finish([out])
        assert evaluate(backward(graph, [True]), [np.zeros(3), np.float64(1.0)])[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("length,width,heads", [(8, 12, 3), (16, 64, 4), (5, 4, 1)])
def test_attention_heads_split_by_reshape_and_transpose(length, width, heads):
    """Products of views that a reshape and a transposition make; value against NumPy, gradient against a difference."""

    def attention(w, x):
        q, k, v = ((x @ m).reshape(length, heads, -1).transpose(1, 0, 2) for m in w[:3])
        e = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(width // heads))
        out = (e / np.sum(e, axis=-1, keepdims=True)) @ v
        return np.sum((out.transpose(1, 0, 2).reshape(length, width) @ w[3]) ** 2)

    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(4, width, width)) / width, rng.normal(size=(length, width))
    value, (dw, dx) = tapejit.value_and_grad(attention, argnums=(0, 1))(w, x)
    np.testing.assert_allclose(value, attention(w, x), rtol=1e-12)
    u, v, h = rng.normal(size=w.shape), rng.normal(size=x.shape), 1e-5
    slope = (attention(w + h * u, x + h * v) - attention(w - h * u, x - h * v)) / (2 * h)
    np.testing.assert_allclose(np.sum(dw * u) + np.sum(dx * v), slope, rtol=1e-6)
