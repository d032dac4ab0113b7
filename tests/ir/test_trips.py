"""Records that differ in how often a loop ran, as one graph: what is found, what it computes, what is refused."""

import numpy as np
import pytest

from tapejit import numpy as tnp
from tapejit.ir.evaluate import GuardFailed, evaluate
from tapejit.ir.text import show
from tapejit.ir.trips import Trips
from tapejit.ir.verify import verify
from tapejit.paths import run_of
from tapejit.trace import trace


def halved(x):
    y = x * 2.0
    while y > 1.0:
        y = y * 0.9
    return y


def summed(x):
    """Numbers and windows per iteration, a break, a value of the iteration before the last, the count."""
    total, last = x[0] * 1.0, x[1]
    for k in range(200):
        last, total = total, total + 0.5 * x[k] + k * 0.25
        if total > x[199]:
            break
    return total * last + k


def record(f, x):
    return trace(f, (x,), {})[0]


def trips_of(f, x):
    program = record(f, x)
    return program, Trips.of(program.graph)


def test_the_graph():
    _, trips = trips_of(halved, 1e7)
    graph = trips.build()
    verify(graph)
    body = """\
func @halved(%x: f64, %known: i64[64,1]) -> f64 {
  %0 = mul %x, 2.0 : f64
  %1 = gt %0, 1.0 : bool
  %2, %3, %4 = while %0, %1 {carries=2, capacity=256} : f64, bool, i64 {
    func @test_halved(%arg0: f64, %arg1: bool) -> bool {
      return %arg1
    }
    func @while_halved(%arg0: f64, %arg1: bool) -> (f64, bool) {
      %0 = mul %arg0, 0.9 : f64
      %1 = gt %0, 1.0 : bool
      return %0, %1
    }
  }
"""
    assert show(graph, locations=False).startswith(body)
    assert trips.known[:2, 0].tolist() == [160, -1]


def ramp(top):
    x = np.linspace(0.0, 1.0, 200)
    x[199] = top
    return x


@pytest.mark.parametrize(
    "f, points", [(halved, [1e7, 0.3, 0.6, 1e3, 4e6]), (summed, [ramp(top) for top in (4900.0, 3.0, 20.0, 4000.0, 0.1)])]
)
def test_it_computes_what_each_record_does(f, points):
    program, trips = trips_of(f, points[0])
    for x in points[1:]:
        other = record(f, x)
        run = run_of(trips, program, other)
        table = [np.array(t) for t in trips.tables]
        if not trips.knows(run):
            with pytest.raises(GuardFailed):
                evaluate(trips.build(), [np.asarray(x), *table])
        trips.add(run)
    graph = trips.build()
    verify(graph)
    for x in points:
        (got,) = evaluate(graph, [np.asarray(x), *trips.tables])
        np.testing.assert_allclose(got, f(x), rtol=1e-13)


def test_a_longer_run_than_there_are_rows_is_another_program():
    program, trips = trips_of(summed, ramp(4000.0))
    longer = record(summed, ramp(4900.0))
    assert run_of(trips, program, longer) is None
    again = Trips.of(longer.graph)
    assert run_of(again, longer, program) is not None


def every_value(x):
    ys = [x * 1.0]
    while ys[-1] > 1.0:
        ys.append(ys[-1] * 0.9)
    return sum(ys)


def stored(x):
    y = tnp.zeros(200)
    y[0], i = x, 0
    while y[i] > 1.0:
        y[i + 1] = y[i] * 0.9
        i = i + 1
    return np.sum(y)


def many_loops(x):
    total = 0.0
    for i in range(5):
        y = x * (i + 1.0)
        while y > 1.0:
            y = y * 0.9
        total = total + y
    return total


def counted(x):
    y = x * 1.0
    for _ in range(150):
        y = y * 0.99
    return y


@pytest.mark.parametrize("f", [every_value, stored, many_loops, counted])
def test_what_has_no_such_loop(f):
    program, trips = trips_of(f, 1e6)
    assert trips is None or run_of(trips, program, record(f, 1e5)) is None


def test_another_program_is_no_run():
    program, trips = trips_of(halved, 1e7)

    def other(x):
        y = x * 2.0
        while y > 1.0:
            y = y * 0.9 if y > 10.0 else y * 0.8
        return y

    def tail(x):
        return halved(x) * 2.0

    for f in (other, tail):
        assert run_of(trips, program, record(f, 1e5)) is None
    assert run_of(trips, program, record(halved, 1e5)).counts == (116,)
