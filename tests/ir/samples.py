"""Inputs for every operation of the table, for the tests of the IR and of the code generator alike.

    samples(op, dtype=None)   list of (arrays, attrs): well-behaved inputs, one for each shape and attribute case
    specials(op, dtype=None)  list of (arrays, attrs): for elementwise operations, vectors that hold every combination
                              of signed zeros, infinities, NaN, subnormals, huge numbers, extreme and zero integers
    dtypes(op)                the element types that the operation takes, the default one first

dtype None is the first of `dtypes(op)`. An operand whose type is fixed (select's bool, gather's index) keeps it.
Numbers lie within the record's `domain` and away from its `kinks`, and are the same in every run. A sample has no
two equal extremes. Guard and region operations have no samples: they are programs, not functions of arrays.

A new elementwise operation needs nothing here; one of another kind needs an entry in `CASES`.
"""

import functools
import itertools
import zlib

import numpy as np

from tapejit.ir.op import TABLE
from tapejit.ir.types import BOOL, F32, F64, I32, I64

SHAPES = {
    0: [()],
    1: [((),), ((5,),), ((2, 3),), ((0,),), ((2, 0, 3),)],
    2: [
        ((), ()), ((4,), (4,)), ((2, 3), (3,)), ((), (3,)), ((2, 1), ()), ((2, 1), (1, 3)), ((3, 1, 2), (4, 2)),
        ((0,), (0,)), ((2, 0), (2, 1)),
    ],
    3: [((), (), ()), ((4,), (4,), (4,)), ((3,), (2, 3), ()), ((2, 1), (3,), (1, 3)), ((0,), (0,), ())],
}  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -2.5, 2.0, -3.0, 7.25, 1e-3, -40.0, 1e4, np.inf, -np.inf, np.nan)
EXTREMES = {F64: (5e-324, -2e-310, 1e-300, -1e300, 1e300), F32: (1e-45, -2e-39, 1e-37, -1e37, 1e37)}


def dtypes(op) -> list:
    """The element types an operation takes, the default one first."""
    families = (("f", (F64, F32)), ("i", (I64, I32)), ("b", (BOOL,)))
    return [dtype for letter, family in families if letter in op.dtypes for dtype in family]


def samples(op, dtype=None) -> list:
    """(arrays, attrs) for each shape and attribute case of the operation."""
    dtype = np.dtype(dtype or dtypes(op)[0])
    rng = np.random.default_rng(zlib.crc32(op.name.encode()))
    if op.kind in ("guard", "region"):
        return []
    if op.kind != "elementwise":
        return list(CASES[op.name](op, dtype, functools.partial(draw, rng, op, dtype)))
    out = []
    for shapes in SHAPES[op.arity]:
        arrays = [draw(rng, op, dtype, shape, position=i) for i, shape in enumerate(shapes)]
        if op.name == "select":
            arrays[0] = rng.integers(0, 2, shapes[0]).astype(bool)
        for attrs in ATTRS.get(op.name, lambda dtype: [{}])(dtype):
            out.append((arrays, attrs))
    return out


def specials(op, dtype=None) -> list:
    """(arrays, attrs): one vector per operand, every combination of special values; none for other kinds."""
    dtype = np.dtype(dtype or dtypes(op)[0])
    if op.kind != "elementwise":
        return []
    if dtype.kind == "f":
        values = np.array(FLOATS + EXTREMES[dtype], dtype)
    elif dtype.kind == "i":
        info = np.iinfo(dtype)
        values = np.array([0, 1, -1, 2, -2, 3, -3, 7, -8, 100, info.max, info.min, info.min + 1], dtype)
        if op.name.startswith("shift"):
            values = np.array([0, 1, 2, 5, 31], dtype)
    else:
        values = np.array([False, True])
    pools = [values] * op.arity
    if op.name == "select":
        pools[0] = np.array([False, True])
    arrays = [np.array(column, pool.dtype) for column, pool in zip(zip(*itertools.product(*pools)), pools)]
    if op.name == "convert":
        arrays = [values[np.isfinite(values) & (values > -100) & (values < 101)]]  # others are undefined for an integer result
    return [(arrays, attrs) for attrs in ATTRS.get(op.name, lambda dtype: [{}])(dtype)]


def draw(rng, op, dtype, shape, position=0):
    """An array of this dtype within the operation's domain, off its kinks, without equal elements (floats)."""
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    low, high = op.domain[position] if position < len(op.domain) else (-3.0, 3.0) if dtype.kind == "f" else (-9, 9)
    if dtype.kind == "i":
        low, high = int(np.ceil(low)), int(np.floor(high))
        low, high = (low, high) if high - low >= 2 else (1, 9)  # the domain of a divisor
        return rng.integers(low, high + 1, shape).astype(dtype)
    out = rng.uniform(low, high, shape)
    for kink in op.kinks:
        out = np.where(np.abs(out - kink) < 0.1, kink + np.copysign(0.1, out - kink), out)
    return np.asarray(out, dtype)


ATTRS = {
    "convert": lambda dtype: [{"dtype": d} for d in (F64, F32, I64, I32, BOOL)],
    "polygamma": lambda dtype: [{"n": n} for n in (1, 2, 5)],
}


# ---- the other kinds -------------------------------------------------------------------------------------------------
def _fold(op, dtype, draw):
    cases = [
        ((), ()), ((4,), ()), ((4,), (0,)), ((1,), (0,)), ((2, 3), (0,)), ((2, 3), (1,)), ((2, 3), (0, 1)),
        ((2, 3, 4), (0, 2)), ((2, 3, 4), (1,)), ((2, 1, 3), (1, 2)), ((3, 37), (1,)), ((37, 3), (0,)), ((0, 3), (1,)),
    ]  # fmt: skip
    if op.identity(dtype) is not None:
        cases += [((0,), (0,)), ((3, 0), (1,)), ((0, 3), (0, 1))]
    for shape, axes in cases:
        yield [draw(shape)], {"axes": axes}


def _arg(op, dtype, draw):
    for shape, axis in [((4,), 0), ((1,), 0), ((2, 3), 0), ((2, 3), 1), ((2, 5, 3), 1), ((0, 3), 1)]:
        yield [draw(shape)], {"axis": axis}
    yield [np.array([1, 0, 1, 0]).astype(dtype)], {"axis": 0}


def _cumulative(op, dtype, draw):
    for shape, axis in [((4,), 0), ((1,), 0), ((2, 3), 0), ((2, 3), 1), ((2, 3, 2), 1), ((0,), 0), ((0, 2), 1)]:
        for reverse in (False, True):
            yield [draw(shape)], {"axis": axis, "reverse": reverse}


def _reshape(op, dtype, draw):
    for shape, to in [
        ((6,), (2, 3)), ((2, 3), (6,)), ((), (1, 1)), ((1,), ()), ((2, 3, 2), (4, 3)), ((0, 3), (2, 0)), ((4,), (4,)),
    ]:  # fmt: skip
        yield [draw(shape)], {"shape": to}


def _transpose(op, dtype, draw):
    for shape, perm in [
        ((), ()), ((3,), (0,)), ((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((1, 3), (1, 0)), ((0, 2), (1, 0)),
    ]:  # fmt: skip
        yield [draw(shape)], {"perm": perm}


def _broadcast(op, dtype, draw):
    for shape, to in [
        ((), ()), ((), (2, 3)), ((3,), (2, 3)), ((2, 1), (2, 3)), ((1, 1), (2, 3)), ((2, 1, 3), (4, 2, 5, 3)),
        ((1,), (0,)), ((0,), (2, 0)),
    ]:  # fmt: skip
        yield [draw(shape)], {"shape": to}


def _slice(op, dtype, draw):
    for shape, start, stop, step in [
        ((), (), (), ()), ((5,), (1,), (4,), (1,)), ((5,), (0,), (5,), (2,)), ((6,), (1,), (6,), (3,)),
        ((5,), (2,), (2,), (1,)), ((4, 5), (1, 0), (4, 4), (2, 3)), ((4, 5), (0, 0), (4, 5), (1, 1)),
        ((2, 3, 4), (1, 1, 0), (2, 3, 1), (1, 1, 1)), ((0, 3), (0, 1), (0, 3), (1, 2)),
    ]:  # fmt: skip
        yield [draw(shape)], {"start": start, "stop": stop, "step": step}


def _pad(op, dtype, draw):
    for shape, low, high, interior in [
        ((), (), (), ()), ((3,), (0,), (0,), (0,)), ((3,), (1,), (2,), (0,)), ((3,), (0,), (1,), (2,)),
        ((2, 3), (1, 0), (0, 2), (1, 0)), ((0,), (1,), (2,), (3,)), ((1,), (2,), (0,), (5,)),
        ((2, 2, 2), (0, 1, 0), (1, 0, 0), (0, 0, 2)),
    ]:  # fmt: skip
        yield [draw(shape)], {"low": low, "high": high, "interior": interior}


def _flip(op, dtype, draw):
    for shape, axes in [((), ()), ((4,), (0,)), ((2, 3), (1,)), ((2, 3), (0, 1)), ((2, 1, 3), (1,)), ((0, 2), (0,))]:
        yield [draw(shape)], {"axes": axes}


def _concatenate(op, dtype, draw):
    for shapes, axis in [
        ([(3,)], 0), ([(3,), (2,)], 0), ([(2, 3), (1, 3), (2, 3)], 0), ([(2, 1), (2, 3)], 1), ([(0,), (2,)], 0),
        ([(2, 2, 1), (2, 3, 1)], 1), ([(0, 2), (0, 3)], 1),
    ]:  # fmt: skip
        yield [draw(shape) for shape in shapes], {"axis": axis}


def _index(shape, rows):
    """Positions below `rows`, with repetitions and out of order."""
    return (np.arange(int(np.prod(shape))) * 5 // 2 % max(rows, 1)).reshape(shape).astype(I64)


INDEXED = [
    ((4,), ()), ((4,), (6,)), ((4, 3), (5,)), ((4, 3), (2, 2)), ((3, 2, 2), (4,)), ((4, 2), ()), ((3,), (0,)),
    ((1, 0), (2,)),
]  # fmt: skip


def _gather(op, dtype, draw):
    for shape, index in INDEXED:
        yield [draw(shape), _index(index, shape[0])], {}


def _scatter(op, dtype, draw):
    for shape, index in INDEXED:
        yield [draw(shape), _index(index, shape[0]), draw(index + shape[1:])], {}


def _update(op, dtype, draw):
    for shape, start, stop, step in [
        ((5,), (1,), (4,), (1,)), ((6,), (0,), (5,), (2,)), ((4, 3), (1, 0), (3, 3), (1, 1)), ((3, 4), (2, 1), (3, 4), (1, 2)),
        ((4,), (2,), (2,), (1,)), ((3, 2), (0, 0), (3, 2), (1, 1)), ((), (), (), ()), ((0, 2), (0, 0), (0, 1), (1, 1)),
    ]:  # fmt: skip
        window = tuple([len(range(*bounds)) for bounds in zip(start, stop, step)])
        yield [draw(shape), draw(window, position=1)], {"start": start, "stop": stop, "step": step}


def _dot(op, dtype, draw):
    none = ((), ())
    for left, right, contract, batch in [
        ((3,), (3,), ((0,), (0,)), none), ((2, 3), (3,), ((1,), (0,)), none), ((3,), (3, 2), ((0,), (0,)), none),
        ((2, 3), (3, 4), ((1,), (0,)), none), ((3, 2), (4, 3), ((0,), (1,)), none), ((2,), (3,), none, none),
        ((5, 2, 3), (5, 3, 4), ((2,), (1,)), ((0,), (0,))), ((2, 5, 3), (3, 4, 5), ((2,), (0,)), ((1,), (2,))),
        ((2, 3, 4), (4, 5, 3), ((1, 2), (2, 0)), none), ((4, 3), (4, 3), ((1,), (1,)), ((0,), (0,))),
        ((2, 5, 3, 4), (4, 5, 3, 2), ((3, 2), (0, 2)), ((0, 1), (3, 1))), ((), (), none, none), ((), (3,), none, none),
        ((2, 0), (0, 3), ((1,), (0,)), none), ((0, 2), (2, 3), ((1,), (0,)), none), ((3, 2), (3,), none, ((0,), (0,))),
    ]:  # fmt: skip
        yield [draw(left), draw(right, position=1)], {"contract": contract, "batch": batch}


def _iota(op, dtype, draw):
    for n in (0, 1, 7):
        yield [], {"shape": (n,), "dtype": dtype}


def _table(op, dtype, draw):
    return [((), {"values": tuple(draw(n).tolist()), "dtype": dtype}) for n in (5, 1)]


CASES = {
    **dict.fromkeys(["reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or"], _fold),
    **dict.fromkeys(["argmax", "argmin"], _arg),
    **dict.fromkeys(["cumsum", "cumprod"], _cumulative),
    **dict.fromkeys(["scatter", "scatter_add"], _scatter),
    "reshape": _reshape, "transpose": _transpose, "broadcast": _broadcast, "slice": _slice, "pad": _pad,
    "flip": _flip, "concatenate": _concatenate, "update": _update, "gather": _gather, "dot": _dot, "iota": _iota,
    "table": _table,
}  # fmt: skip


def all_ops() -> list:
    """The operations that have samples, by name."""
    return [op for _, op in sorted(TABLE.items()) if op.kind not in ("guard", "region")]
