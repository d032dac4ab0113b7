"""Every operation of the table, compiled, against the interpreter: kinds x dtypes x shapes."""

import numpy as np
import pytest

from tapejit.codegen import compile_graph
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.op import TABLE
from tapejit.ir.types import BOOL, DTYPES, F32, F64, I32, I64, tensor

BY_KIND = {kind: [op for op in TABLE.values() if op.kind == kind] for kind in {op.kind for op in TABLE.values()}}
SHAPES = {
    1: [((),), ((7,),), ((2, 0, 3),), ((3, 1, 5),)],
    2: [((), ()), ((7,), ()), ((3, 1), (1, 4)), ((0,), (1,)), ((2, 3), (3,)), ((130,), (130,))],
    3: [((), (4,), ()), ((3, 1), (4,), (3, 4)), ((0, 2), (2,), (1,))],
}


def build(op, types, attrs=None, simplify=True):
    b = Builder("f", simplify=simplify)
    params = [b.param(t) for t in types]
    return b.finish(b.apply(op, params, attrs or {}))


ATTRS = {"convert": [{"dtype": d} for d in DTYPES.values()], "polygamma": [{"n": 1}, {"n": 2}, {"n": 9}]}


def dtypes_of(op):
    return [d for d in DTYPES.values() if d.kind in op.dtypes]


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.5, np.inf, -np.inf, np.nan, 1e-320, 1e300, -1e300, 7.0, 1e10]


@pytest.mark.parametrize("op", BY_KIND["elementwise"], ids=lambda op: op.name)
def test_elementwise(op, check, sample):
    for dtype in dtypes_of(op):
        for attrs in ATTRS.get(op.name, [{}]):
            for shapes in SHAPES[op.arity]:
                types = [tensor(dtype, s) for s in shapes]
                if op.name == "select":
                    types[0] = tensor(BOOL, shapes[0])
                low, high = (0, 3) if op.name == "pow" and dtype.kind == "i" else (-3, 3)
                args = [sample(t, low, high) for t in types]
                check(build(op, types, attrs, simplify=False), args)


@pytest.mark.parametrize("op", BY_KIND["elementwise"], ids=lambda op: op.name)
def test_special_values(op, check):
    """Zeros of both signs, infinities, NaN, subnormals; the least integer, -1 and 0 as divisors; wide shifts."""
    for dtype in dtypes_of(op):
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                numbers = np.array(SPECIAL).astype(dtype)
        elif dtype.kind == "i":
            info = np.iinfo(dtype)
            numbers = np.array([0, 1, -1, 2, -7, 63, 64, 32, 31, info.min, info.max, 100], dtype)
        else:
            numbers = np.array([False, True])
        n = len(numbers)
        grids = np.meshgrid(*[numbers] * op.arity, indexing="ij")
        args = [np.ascontiguousarray(g) for g in grids]
        if op.name == "select":
            args[0] = np.ascontiguousarray(np.arange(n**3).reshape(n, n, n) % 3 == 0)
        for attrs in ATTRS.get(op.name, [{}]):
            graph = build(op, [tensor(a.dtype, a.shape) for a in args], attrs, simplify=False)
            check(graph, args)


REDUCED = [((), ()), ((7,), (0,)), ((3, 4, 5), (1,)), ((3, 4, 5), (0, 2)), ((3, 4, 5), (0,)), ((3, 4, 5), (0, 1, 2)),
           ((1, 600), (0, 1)), ((4, 1), (1,)), ((3, 4, 5), (2,)), ((2, 3, 2, 3), (1, 3)), ((2, 3, 2, 3), (1, 2))]  # fmt: skip


@pytest.mark.parametrize("op", [op for op in BY_KIND["reduce"]], ids=lambda op: op.name)
def test_reduce(op, check):
    for dtype in dtypes_of(op):
        if op.emit is None or op.name.startswith("cum"):
            for shape in [(7,), (3, 4), (2, 3, 4), (1, 5), (3, 1)]:
                for axis in range(len(shape)):
                    for reverse in (False, True):
                        attrs = {"axis": axis} if op.emit is None else {"axis": axis, "reverse": reverse}
                        check(build(op, [tensor(dtype, shape)], attrs))
            if op.emit is not None:
                check(build(op, [tensor(dtype, (0, 3))], {"axis": 0, "reverse": False}))
        else:
            for shape, axes in REDUCED:
                check(build(op, [tensor(dtype, shape)], {"axes": axes}, simplify=False), scale=100)
            if op.identity(dtype) is not None:
                check(build(op, [tensor(dtype, (3, 0))], {"axes": (1,)}))
                check(build(op, [tensor(dtype, (3, 0))], {"axes": (0,)}))


@pytest.mark.parametrize("op", [TABLE["reduce_max"], TABLE["reduce_min"], TABLE["argmax"], TABLE["argmin"]],
                         ids=lambda op: op.name)  # fmt: skip
@pytest.mark.parametrize("dtype", [F64, F32])
def test_extremes_of_nan_and_ties(op, dtype, check):
    x = np.array([[1, 2, 2, 0, 0], [np.nan, 1, np.nan, 5, 5], [-np.inf, -np.inf, 3, np.inf, np.inf],
                  [4, 4, 4, 4, np.nan], [-np.inf] * 5], dtype)  # fmt: skip
    for axis in (0, 1):
        attrs = {"axis": axis} if op.emit is None else {"axes": (axis,)}
        check(build(op, [tensor(dtype, x.shape)], attrs), [x])


MOVED = [
    ("reshape", (3, 4), {"shape": (2, 6)}), ("reshape", (), {"shape": (1, 1)}), ("reshape", (0, 2), {"shape": (5, 0)}),
    ("transpose", (2, 3, 4), {"perm": (2, 0, 1)}), ("transpose", (5, 3), {"perm": (1, 0)}),
    ("broadcast", (3, 1), {"shape": (2, 3, 4)}), ("broadcast", (), {"shape": (3,)}),
    ("broadcast", (1,), {"shape": (0,)}),
    ("slice", (7, 5), {"start": (1, 0), "stop": (6, 5), "step": (2, 3)}),
    ("slice", (7,), {"start": (3,), "stop": (3,), "step": (1,)}),
    ("pad", (3, 2), {"low": (1, 0), "high": (0, 2), "interior": (0, 0)}),
    ("pad", (3, 2), {"low": (1, 0), "high": (0, 2), "interior": (2, 1)}),
    ("pad", (0, 2), {"low": (1, 0), "high": (0, 2), "interior": (2, 1)}),
    ("pad", (1,), {"low": (3,), "high": (2,), "interior": (0,)}),
    ("flip", (3, 4), {"axes": (0, 1)}), ("flip", (3, 4), {"axes": (1,)}),
]  # fmt: skip


@pytest.mark.parametrize("name,shape,attrs", MOVED)
def test_movement(name, shape, attrs, check):
    """Alone (a copy), of a computed value (an index map), and under a computation."""
    for dtype in DTYPES.values():
        b = Builder("f")
        x = b.param(tensor(dtype, shape))
        moved = b.apply(TABLE[name], [x], attrs)[0]
        computed = b.apply(TABLE[name], [b.ne(x, x)], attrs)[0]
        check(b.finish([moved, computed, b.eq(moved, moved)]))


def test_concatenate(check):
    for dtype in DTYPES.values():
        b = Builder("f")
        x, y = b.param(tensor(dtype, (2, 3))), b.param(tensor(dtype, (2, 1)))
        both = b.concatenate(x, b.select(b.eq(y, y), y, y), x, axis=1)
        check(b.finish([both, b.concatenate(both, both, axis=0), b.eq(both, b.flip(both, axes=(1,)))]))
    b = Builder("f")
    parts = [b.reshape(b.param(tensor(F64)), shape=(1,)) for _ in range(5)]
    check(b.finish([b.concatenate(*parts, axis=0)]))


def test_iota(check):
    b = Builder("f")
    results = [b.iota(shape=(5,), dtype=d) for d in (F64, F32, I64, I32)]
    x = b.param(tensor(I64, (5,)))
    results.append(b.mul(results[2], x))
    results.append(b.reshape(b.broadcast(results[2], shape=(4, 5)), shape=(20,)))
    check(b.finish(results))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_gather(dtype, check, rng, sample):
    for shape, at in [((7,), ()), ((7, 3), (4,)), ((7, 2, 2), (2, 3)), ((1,), (3,)), ((7, 3), (0,)), ((4, 0), (2,))]:
        b = Builder("f")
        x, i = b.param(tensor(dtype, shape)), b.param(tensor(I64, at))
        taken = b.gather(x, i)
        twice = b.gather(b.ne(x, x), i)
        args = [sample(x.type), np.asarray(rng.integers(0, shape[0], at))]
        check(b.finish([taken, twice, b.eq(taken, taken)]), args)


@pytest.mark.parametrize("name", ["scatter", "scatter_add"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_scatter(name, dtype, check, rng, sample):
    if dtype.kind not in TABLE[name].dtypes:
        return
    for shape, at in [((7,), ()), ((7, 3), (20,)), ((4, 2, 2), (2, 9)), ((1,), (3,)), ((7, 3), (0,)), ((4, 0), (2,))]:
        b = Builder("f")
        x, i = b.param(tensor(dtype, shape)), b.param(tensor(I64, at))
        u = b.param(tensor(dtype, (*at, *shape[1:])))
        out = b.apply(TABLE[name], [x, i, u])[0]
        args = [sample(x.type), np.asarray(rng.integers(0, shape[0], at)), sample(u.type)]
        check(b.finish([out, b.eq(out, x)]), args)
        zeros = Builder("g")
        i, u = zeros.param(i.type), zeros.param(u.type)
        check(zeros.finish(zeros.apply(TABLE[name], [zeros.zeros(x.type), i, u])), args[1:])


DOTS = [
    ((3, 4), (4, 5), (1,), (0,), (), ()), ((4, 3), (4, 5), (0,), (0,), (), ()), ((3, 4), (5, 4), (1,), (1,), (), ()),
    ((4,), (4,), (0,), (0,), (), ()), ((3, 4), (4,), (1,), (0,), (), ()), ((4,), (4, 3), (0,), (0,), (), ()),
    ((2, 3, 4), (2, 4, 5), (2,), (1,), (0,), (0,)), ((3, 2, 4), (4, 5, 2), (2,), (0,), (1,), (2,)),
    ((2, 3, 4), (3, 4, 5), (1, 2), (0, 1), (), ()), ((2, 3, 4), (4, 3, 5), (1, 2), (1, 0), (), ()),
    ((3, 0), (0, 2), (1,), (0,), (), ()), ((0, 3), (3, 2), (1,), (0,), (), ()), ((3, 1), (1, 2), (1,), (0,), (), ()),
    ((1, 7), (7, 1), (1,), (0,), (), ()), ((40, 50), (50, 60), (1,), (0,), (), ()),
]  # fmt: skip


@pytest.mark.parametrize("case", DOTS, ids=str)
def test_dot(case, check):
    left, right, lc, rc, lb, rb = case
    for dtype in (F64, F32, I64, I32):
        b = Builder("f")
        x, y = b.param(tensor(dtype, left)), b.param(tensor(dtype, right))
        out = b.dot(x, y, contract=(lc, rc), batch=(lb, rb))
        check(b.finish([out, b.dot(b.neg(x), y, contract=(lc, rc), batch=(lb, rb))]), scale=100)


def test_results_alias_nothing(check):
    """Parameters, views of them, constants and one value twice are results."""
    b = Builder("f")
    x = b.param(tensor(F64, (2, 3)))
    y = b.mul(x, 2.0)
    z = b.reshape(y, shape=(6,))
    flat = b.transpose(y, perm=(1, 0))
    check(b.finish([x, x, y, y, z, b.reshape(x, shape=(6,)), flat, b.constant(1.5, F64), b.full(2, x.type)]))


def test_no_results_and_no_parameters(check):
    b = Builder("f")
    b.param(tensor(F64, (2, 3)))
    check(b.finish([]))
    b = Builder("f")
    check(b.finish([b.full(1, tensor(F32, (3,)))]))


def test_table_is_covered():
    """Kinds that these tests do not know would slip through."""
    assert set(BY_KIND) <= {"elementwise", "reduce", "movement", "indexing", "contract", "create", "guard", "region"}
    assert compile_graph(Builder("f").finish([])).run([]) == []
