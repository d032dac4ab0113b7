"""Random programs: what fusion makes of them computes what the interpreter computes.

A program is drawn as a list of operations on earlier values; shapes come from a small set so that values meet. Floats
are kept tame (a bounded function after each operation), so that re-association stays within the tolerance.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapejit.codegen import compile_graph, memory
from tapejit.codegen.compile import clear
from tapejit.ir import ops  # noqa: F401  fills the table
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.types import F64, I64, tensor

SHAPES = [(), (4,), (6,), (4, 6), (6, 4), (24,), (1, 6), (4, 1), (2, 3, 4), (2, 2, 6), (1,), (3, 0)]


def tame(b, x):
    return b.tanh(x)


def reshape(b, draw, x):
    fits = [s for s in SHAPES if np.prod(s, dtype=int) == x.type.size]
    return b.reshape_to(x, draw(st.sampled_from(fits))) if fits else x


def transpose(b, draw, x):
    return b.transpose(x, perm=tuple(draw(st.permutations(range(x.ndim)))))


def flip(b, draw, x):
    return b.flip(x, axes=tuple(a for a in range(x.ndim) if draw(st.booleans())))


def cut(b, draw, x):
    start = tuple(draw(st.integers(0, n)) for n in x.shape)
    stop = tuple(draw(st.integers(a, n)) for a, n in zip(start, x.shape))
    return b.slice(x, start=start, stop=stop, step=tuple(draw(st.integers(1, 2)) for _ in x.shape))


def pad(b, draw, x):
    def some(top):
        return tuple(draw(st.integers(0, top)) for _ in x.shape)

    if x.type.size > 500:
        return x
    return b.pad(x, low=some(2), high=some(2), interior=some(1) if draw(st.booleans()) else (0,) * x.ndim)


def stretch(b, draw, x):
    fits = []
    for s in SHAPES:
        try:
            fits += [s] if np.broadcast_shapes(s, x.shape) == s else []
        except ValueError:
            pass
    return b.broadcast_to(x, draw(st.sampled_from(fits))) if fits else x


def fold(b, draw, x):
    axes = tuple(a for a in range(x.ndim) if draw(st.booleans()))
    name = draw(st.sampled_from(["reduce_sum", "reduce_sum", "reduce_prod", "reduce_max"]))
    if name == "reduce_max" and any(x.shape[a] == 0 for a in axes):
        return x
    return tame(b, getattr(b, name)(x, axes=axes))


def running(b, draw, x):
    if not x.ndim:
        return x
    axis = draw(st.integers(0, x.ndim - 1))
    if draw(st.booleans()) and x.shape[axis]:
        return b.convert(b.argmax(x, axis=axis), dtype=F64)
    return tame(b, b.cumsum(x, axis=axis, reverse=draw(st.booleans())))


def gather(b, draw, x):
    if not x.ndim or not x.shape[0] or x.type.size > 200:
        return x
    index = b.convert(b.mul(b.abs(b.tanh(b.iota(shape=(5,), dtype=F64))), float(x.shape[0] - 1)), dtype=I64)
    if draw(st.booleans()):
        return b.gather(x, index)
    updates = b.broadcast_to(b.sin(b.iota(shape=(1,), dtype=F64)), (5, *x.shape[1:]))
    return tame(b, b.apply(draw(st.sampled_from([b_ops("scatter"), b_ops("scatter_add")])), [x, index, updates])[0])


def b_ops(name):
    return ops.indexing.__dict__[name]


def join(b, draw, x):
    return b.concatenate(x, x, axis=draw(st.integers(0, x.ndim - 1))) if x.ndim and x.type.size < 200 else x


def plain(b, draw, x):
    name = draw(st.sampled_from(["neg", "sin", "cos", "exp", "abs", "sqrt"]))
    return tame(b, b.sqrt(b.abs(x)) if name == "sqrt" else getattr(b, name)(x))


UNARY = [plain, plain, plain, reshape, reshape, transpose, flip, cut, pad, stretch, stretch, fold, fold, running, gather,
         join]  # fmt: skip


def multiply(b, draw, x, y):
    if x.ndim == 2 and y.ndim == 2 and x.shape[1] == y.shape[0]:
        return tame(b, b.dot(x, y, contract=((1,), (0,)), batch=((), ())))
    return x


def combine(b, draw, x, y):
    try:
        shape = np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return x
    if np.prod(shape, dtype=int) > 1000:
        return x
    name = draw(st.sampled_from(["add", "mul", "sub", "maximum", "select"]))
    if name == "select":
        return b.select(b.lt(x, y), x, 0.5)
    return getattr(b, name)(x, y)


@st.composite
def programs(draw):
    b = Builder("f")
    values = [b.param(tensor(F64, draw(st.sampled_from(SHAPES)))) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(1, 18))):
        x = values[-1] if draw(st.booleans()) else draw(st.sampled_from(values))
        if draw(st.integers(0, 2)):
            values.append(draw(st.sampled_from(UNARY))(b, draw, x))
        else:
            join_two = draw(st.sampled_from([combine, combine, combine, multiply]))
            values.append(join_two(b, draw, x, draw(st.sampled_from(values))))
    if draw(st.integers(0, 3)) == 0:
        total = b.reduce_sum(values[-1], axes=tuple(range(values[-1].ndim)))
        b.guard(b.lt(total, 0.0), seen=draw(st.booleans()))
    results = draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
    return b.finish([values[-1], *results])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(programs())
def test_random_program(graph):
    check(graph)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(programs())
def test_random_program_in_place(graph):
    """Every temporary that may be is stored over one that is read for the last time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "LARGE", 0)
        clear()
        check(graph)


def check(graph):
    rng = np.random.default_rng(0)
    args = [np.array(rng.uniform(-1, 1, p.shape)) for p in graph.params]
    found = compile_graph(graph).run(args)
    try:
        wanted = evaluate(graph, args)
    except GuardFailed as failed:
        assert found.index == 0 and found.observed is failed.observed
        return
    for f, w in zip(found, wanted, strict=True):
        assert f.shape == w.shape
        np.testing.assert_allclose(f, w, rtol=1e-9, atol=1e-9)
