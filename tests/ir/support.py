"""Graphs of one operation, and oracles that know nothing of our rules: finite differences, lane by lane runs; threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.types import type_of


def single(op, arrays, attrs, simplify=True):
    """The graph that applies `op` once to parameters of these arrays' types."""
    b = Builder(op.name, simplify=simplify)
    return b.finish(b.apply(op, [b.param(type_of(np.asarray(a))) for a in arrays], attrs))


def traced(function, *arrays):
    """The graph of `function(b, *values)`, one result."""
    b = Builder("f")
    return b.finish([function(b, *[b.param(type_of(np.asarray(a))) for a in arrays])])


def active(arrays):
    return [np.asarray(a).dtype.kind == "f" for a in arrays]


def random_like(arrays, seed=5):
    """A random direction for every float array."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=np.shape(a)), np.asarray(a).dtype) for a in arrays if np.asarray(a).dtype.kind == "f"]


def moved(arrays, directions, step):
    """The arrays, the float ones moved by step * direction."""
    directions = iter(directions)
    return [a + step * next(directions) if np.asarray(a).dtype.kind == "f" else a for a in arrays]


def difference(graph, arrays, directions, step=2e-4):
    """Directional derivative of the float results by a central difference of fourth order: error about 1e-11."""
    def at(k):
        return [r for r in evaluate(graph, moved(arrays, directions, k * step)) if r.dtype.kind == "f"]

    return [(8 * (p - m) - (pp - mm)) / (12 * step) for p, m, pp, mm in zip(at(1), at(-1), at(2), at(-2))]


def lanes(array, size):
    """`size` arrays with the same elements in other places, so that they stay valid inputs."""
    array = np.asarray(array)
    return np.stack([np.roll(array.reshape(-1), k).reshape(array.shape) for k in range(size)])


def close(got, want, rtol, what=""):
    """Equal shapes, dtypes, and values within rtol of the largest."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype, (what, got.dtype, got.shape, want.dtype, want.shape)
    if got.size:
        scale = max(1.0, float(np.max(np.abs(want))))
        assert np.all(np.abs(got - want) <= rtol * scale), (what, got, want)


def same(got, want, ulp=0, largest=(), signed_zeros=True):
    """Equal within `ulp` units in the last place; NaN where NaN is; zeros with their signs.

    largest: arrays, whose units count where they are larger than those of `want`.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape and got.dtype == want.dtype, (got.dtype, got.shape, want.dtype, want.shape)
    if got.dtype.kind != "f":
        assert np.array_equal(got, want), (got, want)
        return
    with np.errstate(all="ignore"):
        size = np.abs(want)
        for other in largest:
            size = np.maximum(size, np.abs(other))
        near = np.abs(got - want) <= ulp * np.spacing(size)
    good = (got == want) | (np.isnan(got) & np.isnan(want)) | near
    if signed_zeros:
        good &= np.isnan(want) | (want != 0) | (np.signbit(got) == np.signbit(want))
    assert np.all(good), (got[~good], want[~good], np.argwhere(~good))


def in_threads(work, arguments):
    """[work(a) for a in arguments], each in a thread of its own, started together; what any of them raises is raised."""
    arguments = list(arguments)
    start = threading.Barrier(len(arguments))

    def run(argument):
        start.wait()
        return work(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))
