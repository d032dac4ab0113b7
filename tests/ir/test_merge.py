"""Graphs of several paths merged into one: what it computes, where it leaves, what is refused."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tapejit.ir.build import Builder
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.merge import merge
from tapejit.ir.ops.guard import guards_of
from tapejit.ir.types import F64, I64, tensor
from tapejit.ir.verify import verify


def path(seen, rest, extra=False):
    """x, n -> rest(x, y), where y = sin(x), behind a guard on y[0] < n or on n."""
    b = Builder("path")
    x, n = b.param(tensor(F64, (3,)), "x"), b.param(tensor(I64), "n")
    y = b.sin(x)
    if extra:
        y = b.sin(y)
    if type(seen) is int:
        b.guard(n, seen=seen)
    else:
        b.guard(b.lt(b.reduce_sum(y, axes=(0,)), 0.5), seen=seen)
    return b.finish([rest(b, x, y)])


REST = [lambda b, x, y: b.mul(y, y), lambda b, x, y: b.add(b.cos(x), y)]


def test_two_branches():
    graphs = [path(True, REST[0]), path(False, REST[1])]
    found = merge(graphs, [["x", "n"]] * 2)
    verify(found.graph, "optimized")
    assert [n.op.name for n in found.graph.nodes].count("sin") == 1 and found.guards == []
    for x in (np.full(3, -1.0), np.full(3, 1.0)):
        value, number = evaluate(found.graph, [x, np.int64(0)])
        assert number == (np.sum(np.sin(x)) >= 0.5)
        assert_array_equal(value, evaluate(graphs[int(number)], [x, np.int64(0)])[0])


def test_an_integer_that_no_path_saw_fails_a_guard():
    graphs = [path(4, REST[0]), path(-2, REST[1])]
    found = merge(graphs, [["x", "n"]] * 2)
    verify(found.graph, "optimized")
    x = np.arange(3.0)
    for k, n in enumerate((4, -2)):
        value, number = evaluate(found.graph, [x, np.int64(n)])
        assert number == k
        assert_array_equal(value, evaluate(graphs[k], [x, np.int64(n)])[0])
    with pytest.raises(GuardFailed) as left:
        evaluate(found.graph, [x, np.int64(7)])
    assert left.value.observed == 7
    assert found.guards[guards_of(found.graph).index(left.value.node)] in [(0, 0), (1, 0)]


def test_captured_arrays_of_one_name_are_one_parameter():
    graphs = [path(4, REST[0]), path(-2, REST[1])]
    assert len(merge(graphs, [["x", "n"], ["x", "n"]]).graph.params) == 2
    b = Builder("other")
    x, n, a = b.param(tensor(F64, (3,))), b.param(tensor(I64)), b.param(tensor(F64, (3,)))
    b.guard(n, seen=0)
    found = merge([*graphs, b.finish([b.mul(x, a)])], [["x", "n"], ["x", "n"], ["x", "n", "a"]])
    value, number = evaluate(found.graph, [np.ones(3), np.int64(0), np.full(3, 5.0)])
    assert number == 2
    assert_array_equal(value, np.full(3, 5.0))


def test_paths_that_compute_a_guard_in_different_ways_are_refused():
    assert merge([path(True, REST[0]), path(False, REST[1], extra=True)], [["x", "n"]] * 2) is not None  # as lanes have it
    assert merge([path(True, REST[0]), path(True, REST[1], extra=True)], [["x", "n"]] * 2) is None
    assert merge([path(4, REST[0]), path(4, REST[1])], [["x", "n"]] * 2) is None
