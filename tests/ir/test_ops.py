"""Every operation of the table, from its record: value, type, derivatives to third order, batching, emission."""

import itertools

import numpy as np
import pytest
from numpy_emitter import NumpyEmitter
from samples import all_ops, dtypes, samples, specials
from support import active, close, difference, lanes, random_like, same, single

from tapejit.ir.backward import backward
from tapejit.ir.batch import batch
from tapejit.ir.evaluate import evaluate
from tapejit.ir.linearize import linearize
from tapejit.ir.op import TABLE, Derivative
from tapejit.ir.types import BOOL, F32, F64, I64, type_of

OPS = all_ops()
DIFFERENTIABLE = [op for op in OPS if op.derivative.differentiable and "f" in op.dtypes]


def named(ops):
    return pytest.mark.parametrize("op", ops, ids=lambda op: op.name)


def float_results(graph, arrays):
    return [r for r in evaluate(graph, arrays) if r.dtype.kind == "f"]


def reverse(op, arrays, attrs):
    """The VJP graph and its arguments, with random cotangents."""
    graph = single(op, arrays, attrs)
    cts = random_like(evaluate(graph, arrays), seed=9)
    return backward(graph, active(arrays)), [*arrays, *cts]


# ---- statements ------------------------------------------------------------------------------------------------------
@named(list(TABLE.values()))
def test_record_is_complete(op):
    assert isinstance(op.derivative, Derivative) and callable(op.batch) and set(op.dtypes) <= set("fib")
    assert op.kind != "elementwise" or op.emit is not None
    if op.kind == "reduce" and not op.name.startswith("arg"):
        assert op.emit is not None and op.identity is not None


def test_samples_cover_the_table():
    programs = {op.name for op in TABLE.values() if op.kind in ("guard", "region")}
    assert {op.name for op in OPS if samples(op)} == set(TABLE) - programs


# ---- values ------------------------------------------------------------------------------------------------------------
@named(OPS)
def test_value_and_type(op):
    for dtype in dtypes(op):
        for arrays, attrs in samples(op, dtype) + specials(op, dtype):
            want = op.infer([type_of(a) for a in arrays], attrs)
            with np.errstate(all="ignore"):
                results = op.evaluate(*arrays, **attrs)
                for function in op.numpy:
                    if function is np.float_power or (dtype.kind == "i" and function in (np.power, np.fabs)):
                        continue  # other types, or negative powers, which NumPy refuses
                    if op.kind == "elementwise":
                        same(results[0], function(*arrays))
            assert [type_of(np.asarray(r)) for r in results] == list(want), (arrays, attrs)
            for simplify in (True, False):
                for got, result in zip(evaluate(single(op, arrays, attrs, simplify), arrays), results, strict=True):
                    same(got, result, signed_zeros=op.kind != "reduce")


NUMPY = {
    "reduce_sum": lambda x, axes: np.sum(x, axes), "reduce_prod": lambda x, axes: np.prod(x, axes),
    "reduce_max": lambda x, axes: np.max(x, axes), "reduce_min": lambda x, axes: np.min(x, axes),
    "argmax": np.argmax, "argmin": np.argmin, "flip": lambda x, axes: np.flip(x, axes),
    "reshape": lambda x, shape: x.reshape(shape), "transpose": lambda x, perm: np.transpose(x, perm),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape), "gather": lambda x, i: np.take(x, i, axis=0),
    "concatenate": lambda *xs, axis: np.concatenate(xs, axis),
    "cumsum": lambda x, axis, reverse: np.cumsum(x[::-1] if reverse else x, axis)[:: -1 if reverse else 1],
    "cumprod": lambda x, axis, reverse: np.cumprod(x[::-1] if reverse else x, axis)[:: -1 if reverse else 1],
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
def test_array_operations_mean_what_numpy_means(name):
    for arrays, attrs in samples(TABLE[name]):
        if attrs.get("axis") and name.startswith("cum"):
            continue
        close(evaluate(single(TABLE[name], arrays, attrs), arrays)[0], NUMPY[name](*arrays, **attrs), 1e-15)


def test_dot_means_einsum():
    letters = "abcdefgh"
    for (x, y), attrs in samples(TABLE["dot"]):
        (lc, rc), (lb, rb) = attrs["contract"], attrs["batch"]
        left = letters[: x.ndim]
        right = [letters[4 + i] for i in range(y.ndim)]
        for a, c in zip(lc + lb, rc + rb):
            right[c] = left[a]
        free = [left[a] for a in range(x.ndim) if a not in lc + lb] + [
            right[a] for a in range(y.ndim) if a not in rc + rb
        ]
        out = "".join([left[a] for a in lb] + free)
        want = np.einsum(f"{left},{''.join(right)}->{out}", x, y)
        close(evaluate(single(TABLE["dot"], (x, y), attrs), (x, y))[0], want, 1e-14)


# ---- derivatives -------------------------------------------------------------------------------------------------------
@named(DIFFERENTIABLE)
def test_forward_against_differences(op):
    for arrays, attrs in samples(op):
        graph = single(op, arrays, attrs)
        directions = random_like(arrays)
        values = evaluate(linearize(graph, active(arrays)), [*arrays, *directions])[len(graph.results) :]
        got = [v for v in values if v.dtype.kind == "f"]
        if attrs.get("dtype") == F32:
            continue  # a difference of rounded numbers says nothing
        for g, want in zip(got, difference(graph, arrays, directions), strict=True):
            close(g, want, 2e-9, (op.name, attrs))


@named(DIFFERENTIABLE)
def test_reverse_against_forward(op):
    for arrays, attrs in samples(op):
        graph = single(op, arrays, attrs)
        directions = random_like(arrays)
        tangents = evaluate(linearize(graph, active(arrays)), [*arrays, *directions])[len(graph.results) :]
        pullback, args = reverse(op, arrays, attrs)
        cts = args[len(arrays) :]
        grads = evaluate(pullback, args)[len(graph.results) :]
        for g, d in zip(grads, directions, strict=True):
            assert (g.shape, g.dtype) == (d.shape, d.dtype)
        tangents = [t for t in tangents if t.dtype.kind == "f"]
        left = sum(float(np.sum(c * t)) for c, t in zip(cts, tangents, strict=True))
        right = sum(float(np.sum(g * d)) for g, d in zip(grads, directions))
        tolerance = 1e-6 if attrs.get("dtype") == F32 else 1e-12
        assert abs(left - right) <= tolerance * max(1.0, abs(left)), (attrs, left, right)


@named(DIFFERENTIABLE)
def test_second_and_third_order_against_differences(op):
    for arrays, attrs in samples(op):
        if attrs.get("dtype", F64) != F64:
            continue
        graph, args = reverse(op, arrays, attrs)
        directions = random_like(args, seed=1)
        second = linearize(graph, active(args))
        got = evaluate(second, [*args, *directions])[len(graph.results) :]
        for g, want in zip(got, difference(graph, args, directions), strict=True):
            close(g, want, 2e-7, (op.name, attrs))
        if op.kind == "elementwise":
            args = [*args, *directions]
            further = random_like(args, seed=2)
            third = evaluate(linearize(second, active(args)), [*args, *further])[len(second.results) :]
            for g, want in zip(third, difference(second, args, further), strict=True):
                close(g, want, 5e-6, (op.name, attrs))


@named(DIFFERENTIABLE)
def test_reverse_over_reverse_against_forward_over_reverse(op):
    """Symmetric Hessians by two ways; and three derivatives use only operations of the table that have rules."""
    for arrays, attrs in samples(op)[:4]:
        graph, args = reverse(op, arrays, attrs)
        flags = active(args)
        twice = backward(graph, flags)
        directions = random_like(args, seed=1)
        cts = random_like(float_results(graph, args), seed=3)
        count = len(graph.results)
        tangents = [t for t in evaluate(linearize(graph, flags), [*args, *directions])[count:] if t.dtype.kind == "f"]
        grads = evaluate(twice, [*args, *cts])[count:]
        left = sum(float(np.sum(c * t)) for c, t in zip(cts, tangents, strict=True))
        right = sum(float(np.sum(g * d)) for g, d in zip(grads, directions, strict=True))
        tolerance = 1e-5 if attrs.get("dtype") == F32 else 1e-10
        assert abs(left - right) <= tolerance * max(1.0, abs(left)), (attrs, left, right)
    thrice = backward(twice, active([*args, *cts]))
    assert {node.op.name for node in thrice.nodes} <= set(TABLE)


@named([op for op in DIFFERENTIABLE if op.name != "convert"])
def test_float32_against_float64(op):
    for arrays, attrs in samples(op, F32):
        graph, args = reverse(op, arrays, attrs)
        narrow = evaluate(graph, args)
        wide_args = [np.asarray(a, F64) if a.dtype == F32 else a for a in args]
        wide_graph = backward(single(op, wide_args[: len(arrays)], attrs), active(arrays))
        for n, w in zip(narrow, evaluate(wide_graph, wide_args), strict=True):
            assert n.dtype == F32
            close(n, w.astype(F32), 3e-5, (op.name, attrs))


@named([op for op in OPS if not op.derivative.differentiable])
def test_no_derivative_where_none_is_stated(op):
    for arrays, attrs in samples(op):
        graph, args = reverse(op, arrays, attrs)
        for g in evaluate(graph, args)[1:]:
            assert not g.any()


# ---- batching ----------------------------------------------------------------------------------------------------------
@named([op for op in OPS if op.kind != "create"])
def test_batching_against_single_runs(op):
    size = 3
    for arrays, attrs in samples(op):
        graph = single(op, arrays, attrs)
        flags = [f for f in itertools.product([False, True], repeat=len(arrays)) if any(f)]
        for batched in flags:
            stacks = [lanes(a, size) if on else a for a, on in zip(arrays, batched)]
            got = evaluate(batch(graph, batched, size, all_results=True)[0], stacks)
            runs = [evaluate(graph, [s[k] if on else s for s, on in zip(stacks, batched)]) for k in range(size)]
            for g, want in zip(got, zip(*runs), strict=True):
                if g.dtype.kind == "f":
                    close(g, np.stack(want), 1e-14, (attrs, batched))
                else:
                    same(g, np.stack(want))


# ---- emission ----------------------------------------------------------------------------------------------------------
@named([op for op in OPS if op.kind == "elementwise"])
def test_emission_against_evaluation(op):
    for dtype in dtypes(op):
        for arrays, attrs in samples(op, dtype) + specials(op, dtype):
            with np.errstate(all="ignore"):
                (want,) = op.evaluate(*arrays, **attrs)
                got = op.emit(NumpyEmitter(), *[np.asarray(a) for a in arrays], **attrs)
            got = np.broadcast_to(np.asarray(got), np.shape(want))
            ulp, largest = 2, ()
            if op.name.startswith("logaddexp"):  # whose last sum may cancel
                largest = arrays
            elif op.name == "polygamma":  # SciPy's errors for x < 0 are those of larger terms
                ulp, largest = 2 * attrs["n"] + 8, (want.dtype.type(16),)
            same(got, want, ulp, largest, signed_zeros=op.name not in ("maximum", "minimum"))


@named([op for op in OPS if op.kind == "reduce" and op.emit is not None])
def test_emission_of_folds(op):
    dtype = dtypes(op)[0]
    values = np.array([True, False, True]) if dtype == BOOL else np.array([1.5, -2.0, 0.25])
    accumulator = op.identity(dtype)
    if accumulator is None:
        accumulator, values = values[0], values[1:]
    accumulator = np.asarray(accumulator, dtype)
    for v in values:
        accumulator = op.emit(NumpyEmitter(), accumulator, v)
    full = np.array([True, False, True]) if dtype == BOOL else np.array([1.5, -2.0, 0.25])
    attrs = {"axis": 0, "reverse": False} if op.name.startswith("cum") else {"axes": (0,)}
    want = np.asarray(op.evaluate(full, **attrs)[0]).reshape(-1)[-1]
    assert accumulator == want


def test_iota_counts():
    assert evaluate(single(TABLE["iota"], (), {"shape": (4,), "dtype": I64}), ())[0].tolist() == [0, 1, 2, 3]
