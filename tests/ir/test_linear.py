"""Chains of 100,000 operations: every step is a loop, and takes time proportional to the length."""

import sys
import time

import pytest

from tapejit.ir.backward import backward
from tapejit.ir.build import Builder
from tapejit.ir.evaluate import evaluate
from tapejit.ir.knobs import VERIFY
from tapejit.ir.linearize import linearize
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.text import parse, show
from tapejit.ir.types import F64, tensor
from tapejit.ir.verify import verify

LONG = 100_000


def elementwise_chain(n):
    """One variable: the derivative is swept forward."""
    b = Builder("chain")
    x, w = b.param(tensor(F64), "x"), b.param(tensor(F64), "w")
    y = x
    b.loc = (elementwise_chain.__code__, 0)
    for _ in range(n // 4):
        y = b.add(b.mul(b.mul(b.sin(y), w), 0.5), x)
    return b.finish([y])


def coupled_chain(n):
    """Two variables that mix: the derivative is swept in reverse, sums of many terms arise."""
    b = Builder("orbit")
    x, v, w = (b.param(tensor(F64), name) for name in "xvw")
    b.loc = (coupled_chain.__code__, 0)
    for _ in range(n // 5):
        v = b.sub(v, b.mul(b.sin(x), w))
        x = b.add(x, b.mul(v, 0.01))
    return b.finish([x])


def stages(chain, n):
    """Every step of a compilation up to code generation; (name, seconds of this process) for each."""
    times = []

    def timed(name, function, *args):
        start = time.process_time()
        result = function(*args)
        times.append((name, time.process_time() - start))
        return result

    graph = timed("build", chain, n)
    active = [p.name != "w" for p in graph.params]
    gradient = timed("backward", backward, graph, active)
    timed("linearize", linearize, graph, active)
    with VERIFY.at(0):  # it is timed by itself
        best = timed("optimize", optimize, gradient)
    timed("verify", verify, best, "optimized")
    text = timed("show", show, best)
    again = timed("parse", parse, text)
    assert timed("digest", lambda: again.digest) == best.digest
    assert timed("evaluate", evaluate, graph, [0.5] * len(graph.params))
    return times


@pytest.mark.parametrize("chain, length", [(elementwise_chain, LONG), (coupled_chain, LONG // 4)])
def test_time_is_linear_in_the_length(chain, length):
    limit = sys.getrecursionlimit()
    for _ in range(3):  # other work of the machine may come in between
        small, large = stages(chain, length // 5), stages(chain, length)
        assert sys.getrecursionlimit() == limit
        for (name, a), (_, b) in zip(small, large):
            print(f"{chain.__name__:18}{name:15}{a:6.2f} s {b:6.2f} s  x{b / max(a, 1e-9):.1f}")
        # Five times the length: about five times the time, where it is long enough to be measured.
        ratios = {name: b / max(a, 0.1) for (name, a), (_, b) in zip(small, large)}
        if max(ratios.values()) < 14 and sum([b for _, b in large]) < 10 * sum([a for _, a in small]):
            return
    pytest.fail(f"not linear, three times: {ratios}")


def test_a_sum_of_many_terms():
    """100,000 terms that cancel in pairs, in one sum."""
    b = Builder("f")
    x = b.param(tensor(F64), "x")
    b.tag = "vjp"
    total, terms = b.mul(x, 0.5), []
    for i in range(LONG // 4):
        terms.append(b.sin(b.add(x, float(i))))
        total = b.add(total, terms[-1])
    for term in reversed(terms):
        total = b.sub(total, term)
    assert [n.op.name for n in optimize(b.finish([total])).nodes] == ["mul"]
