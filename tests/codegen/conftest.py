"""Helpers of the code generation tests: `check` compiles a graph and compares it with the interpreter."""

import numpy as np
import pytest

from tapejit.codegen import compile_graph
from tapejit.dispatch import NATIVE_AFTER
from tapejit.ir.evaluate import evaluate


def random_array(type, rng, low=-3.0, high=3.0):
    """A uniform random array of a type."""
    kind = type.dtype.kind
    if kind == "b":
        out = rng.random(type.shape) < 0.5
    elif kind == "i":
        out = rng.integers(int(low), int(high) + 1, type.shape)
    else:
        out = rng.uniform(low, high, type.shape)
    return np.array(out, type.dtype, order="C")


def assert_close(found, wanted, ulps=64, scale=1.0):
    """Equal dtype and shape; integers equal; floats within `ulps` of `scale` or of themselves; NaN equals NaN."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, (found, wanted)
    if wanted.dtype.kind == "f":
        tiny = np.finfo(wanted.dtype).eps
        np.testing.assert_allclose(found, wanted, rtol=ulps * tiny, atol=ulps * tiny * scale)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def sample(rng):
    """sample(type, low=-3, high=3): a random array."""
    return lambda type, *interval: random_array(type, rng, *interval)


@pytest.fixture
def check(rng):
    """check(graph, args=None) runs compiled and interpreted; returns the Executable."""

    def run(graph, args=None, **tolerance):
        if args is None:
            args = [random_array(p.type, rng) for p in graph.params]
        executable = compile_graph(graph)
        found, wanted = executable.run(args), evaluate(graph, args)
        assert len(found) == len(wanted)
        for f, w in zip(found, wanted):
            assert_close(f, w, **tolerance)
            assert f.flags.c_contiguous and f.flags.owndata and not any(np.shares_memory(f, a) for a in args)
        return executable

    return run


@pytest.fixture
def warm():
    """warm(function, *args): its result, when machine code has taken over calls like this one."""

    def run(function, *args):
        for _ in range(NATIVE_AFTER + 1):
            out = function(*args)
        return out

    return run


@pytest.fixture
def served():
    """served(function, *args): whether machine code answers this call."""

    def run(function, *args):
        if function._dispatcher is None:
            return False
        before = function._dispatcher.hits
        function(*args)
        return function._dispatcher.hits == before + 1

    return run
