"""The paths of a function: how many are kept, which gives way, what runs before it is compiled, how they are shown."""

import itertools
import math
import re
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support import in_threads

from tapejit import TapejitWarning, grad, jit, value_and_grad, vmap
from tapejit.errors import HiddenStateError
from tapejit.ir.knobs import INTERP, NATIVE
from tapejit.ir.ops.guard import guards_of
from tapejit.paths import FEW, MAX_PATHS, QUIET

compiled = pytest.mark.skipif(INTERP.value, reason="nothing is compiled with TAPEJIT_INTERP=1")
native = pytest.mark.skipif(INTERP.value or not NATIVE.value, reason="no machine code answers calls")


def power(x, n):
    """x ** n by a loop, and another after it that is as long: a path for each n."""
    factors, out = [], 1.0
    while n > 0:
        factors, n = [*factors, x], n - 1
    for factor in factors:
        out = out * factor
    return out


def paths_of(f, *args):
    return list(f.lookup(*args))


def outcomes(f, *args):
    """The lengths of the known paths of `power`."""
    return sorted(map(length, paths_of(f, *args)))


def length(path):
    return len(guards_of(path.program.recorded.graph)) - 1


# ---- the bound -------------------------------------------------------------------------------------------------------------
def test_the_path_that_was_not_taken_for_longest_gives_way():
    f = grad(power)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(MAX_PATHS):
            assert f(1.0, float(n)) == n
    assert f(1.0, 0.0) == 0.0 and f(1.0, 2.0) == 2.0  # so 1 is the one not taken for longest, then 3
    with pytest.warns(TapejitWarning, match=r"64 paths .* 65 of which part at test_paths.py:\d+: while n > 0:") as seen:
        assert f(1.0, 64.0) == 64.0
        assert f(1.0, 65.0) == 65.0
    assert len(seen) == 1 and seen[0].filename == __file__
    assert outcomes(f, 1.0, 1.0) == [0, 2, *range(4, 66)]
    assert f.cache_info().paths == MAX_PATHS
    before = f.cache_info().misses
    for n in [0, 2, *range(4, 66)]:  # all that are left are found
        assert f(1.5, float(n)) == pytest.approx(n * 1.5 ** (n - 1), rel=1e-12)
    assert f.cache_info().misses == before
    assert f(2.0, 3.0) == 12.0 and f(2.0, 1.0) == 1.0 and f.cache_info().misses == before + 2


@native
def test_a_path_that_machine_code_takes_is_not_the_one_to_give_way():
    f = jit(power)
    for _ in range(3):
        f(2.0, 1.0)
    for n in range(2, MAX_PATHS + 1):
        f(1.0, float(n))
    hits = f._dispatcher.hits
    assert f(2.0, 1.0) == 2.0 and f._dispatcher.hits == hits + 1
    with pytest.warns(TapejitWarning, match="more than 64"):
        f(1.0, 100.0)
    assert outcomes(f, 1.0, 1.0) == [1, *range(3, MAX_PATHS + 1), 100]


def test_few_paths_are_kept_of_a_long_record(monkeypatch):
    monkeypatch.setattr("tapejit.paths.MAX_OPERATIONS", 12_000)
    f = grad(power)
    with pytest.warns(TapejitWarning, match=r"more than \d+ paths"):
        for n in range(100, 60, -1):
            assert f(1.0, float(n)) == n
    assert FEW < len(paths_of(f, 1.0, 1.0)) < 40
    assert 11_000 < sum([p.operations for p in paths_of(f, 1.0, 1.0)]) <= 12_000


def test_random_walks_in_a_bounded_tree_are_right():
    def branchy(x):
        total = 0.0
        for i in range(9):
            if x[i] > 0:
                total = total + x[i] ** 2
            elif x[i] < -1:
                total = total - 3.0 * x[i]
        return total

    f, rng = value_and_grad(branchy), np.random.default_rng(0)
    points = [rng.normal(size=9) for _ in range(90)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TapejitWarning)
        for k in rng.integers(0, 90, size=300):
            x = points[k]
            value, slope = f(x)
            assert_allclose(value, branchy(x), rtol=1e-14)
            assert_allclose(slope, np.where(x > 0, 2 * x, np.where(x < -1, -3.0, 0.0)), rtol=1e-14)
    known = paths_of(f, points[0])
    assert len(known) == MAX_PATHS and len({tuple(p.seen) for p in known}) == MAX_PATHS


def test_threads_grow_and_follow_one_tree():
    f, wrong = grad(power), []

    def work(seed):
        for n in np.random.default_rng(seed).integers(0, 90, size=150):
            if not math.isclose(f(1.01, float(n)), n * 1.01 ** (n - 1), rel_tol=1e-12, abs_tol=1e-300):
                wrong.append(n)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TapejitWarning)
        in_threads(work, range(4))
    assert not wrong and f.cache_info().paths == MAX_PATHS


# ---- what is tried ---------------------------------------------------------------------------------------------------------
@compiled
def test_a_value_deep_in_the_tree_is_found_in_few_steps(monkeypatch):
    f = jit(power)
    for n in range(40):
        f(1.0, float(n))
        f(1.0, float(n))
    runs, run = [], type(paths_of(f, 1.0, 1.0)[0]).run
    monkeypatch.setattr("tapejit.paths.Path.run", lambda path, *args: runs.append(path) or run(path, *args))
    monkeypatch.setattr(NATIVE, "value", 0)
    f._dispatcher and f._dispatcher.clear()
    f(1.0, 3.0)
    for n, most in [(38.0, 3), (38.0, 1), (37.0, 2), (39.0, 3), (2.0, 2), (3.0, 3)]:
        runs.clear()
        assert f(1.0, n) == 1.0
        assert len(runs) <= most, n


def test_the_length_of_a_loop_is_found_by_halving(monkeypatch):
    def f(x):
        xs = [x]
        while xs[-1] > 1.0:
            xs.append(xs[-1] * 0.96)
        return sum(xs)  # of all of them: no path stands for another length

    g = jit(f)
    points = [float(x) for x in 0.96 ** -(np.arange(60, 100) - 0.5)]
    for x in points * 2:
        g(x)
    runs, run = [], type(paths_of(g, 1.0)[0]).run
    assert len(paths_of(g, 1.0)) == 40
    monkeypatch.setattr("tapejit.paths.Path.run", lambda path, *args: runs.append(path) or run(path, *args))
    for x in points[::3] + points[::-7]:
        runs.clear()
        assert g(x) == pytest.approx(f(x), rel=1e-12)
        assert len(runs) <= 11  # the one taken last, log2(36) folded ones, up to 4 that are too short for that


@compiled
def test_new_paths_of_a_function_with_many_are_interpreted_first():
    f = grad(power)
    for n in range(FEW + 3):
        f(2.0, float(n))
    later = {length(p): p for p in paths_of(f, 1.0, 1.0)}
    assert [later[n].code is None for n in range(FEW + 3)] == [False] * FEW + [True] * 3
    n = FEW + 1
    assert f(2.0, float(n)) == n * 2.0 ** (n - 1)
    assert later[n].code is not None and later[n + 1].code is None
    assert f(3.0, float(n)) == n * 3.0 ** (n - 1) and later[n].count == 3


def adaptive(p, y, t1, tolerance):
    """y' = p0 sin(y) cos(t) - p1 y by Heun's method with steps of its own choice (Euler's as the comparison)."""

    def f(t, y):
        return p[0] * np.sin(y) * np.cos(t) - p[1] * y

    t, h = 0.0, 0.1
    while t < t1:
        h = min(h, t1 - t)
        k1 = f(t, y)
        k2 = f(t + h, y + h * k1)
        error = abs(h * (k2 - k1) / 2)
        if error <= tolerance:
            t, y = t + h, y + h * (k1 + k2) / 2
        h = h * min(3.0, max(0.3, 0.9 * (tolerance / (error + 1e-30)) ** 0.5))
    return y


def test_steps_that_are_accepted_or_rejected_at_every_call_anew():
    f, rng, step = value_and_grad(adaptive), np.random.default_rng(1), 1e-7
    for p in 2.0 + rng.random((FEW + 6, 2)):
        value, slope = f(p, 1.0, 3.0, 1e-3)
        assert_allclose(value, adaptive(p, 1.0, 3.0, 1e-3), rtol=1e-11)
        found = [(adaptive(p + d, 1.0, 3.0, 1e-3) - adaptive(p - d, 1.0, 3.0, 1e-3)) / (2 * step) for d in step * np.eye(2)]
        assert_allclose(slope, found, rtol=1e-4)
    assert f.cache_info().paths > FEW


# ---- merged ----------------------------------------------------------------------------------------------------------------
def settle(f, *calls):
    """Make these calls until their paths are one function."""
    for _ in range(QUIET):
        for args in calls:
            f(*args)
    return f.lookup(*calls[0]).merged


@compiled
@pytest.mark.parametrize(
    "transform, size",
    [(jit, 0), (jit, 200), (grad, 0), (grad, 3), (grad, 200), (lambda f: grad(grad(f)), 0), (lambda f: vmap(grad(f)), 3)],
)
def test_merged_paths_are_what_they_were(transform, size):
    """Each branch against the derivative of a function that takes it without looking."""

    def branch(x, k):
        y = np.sum(np.sin(x) * x)
        return [y**2, 3.0 * y, np.exp(y) * np.sum(x), y * np.sum(np.cos(x))][k]

    def f(x):
        m = np.sum(x)
        if m < -1:
            return branch(x, 0)
        if m < 1:
            return branch(x, 1) if np.sin(m) > 0.4 else branch(x, 2)
        return branch(x, 3)

    g = transform(f)
    points = [np.full(size, v / size) + 0.01 * np.arange(size) / size**2 if size else v for v in (-2.0, 0.5, 0.1, 3.0)]
    if "vmap" in repr(g):
        points = [np.stack([p, p]) for p in points]
    assert len(settle(g, *[(p,) for p in points]).members) == 4
    for k, x in enumerate(points):
        wanted = transform(lambda x, k=k: branch(x, k))(x)
        for _ in range(2):
            assert_allclose(g(x), wanted, rtol=1e-12, atol=1e-14)
    assert g.cache_info().misses == 4


@compiled
def test_random_programs_merged():
    rng = np.random.default_rng(3)
    for seed in range(12):
        order = np.random.default_rng(seed).integers(0, 6, size=8)

        def f(x, n, order=order):
            y, z = np.sin(x), x * 2.0
            for i, kind in enumerate(order):
                if kind == 0 and np.sum(y) > 0:
                    y = y * z + 1.0
                elif kind == 1:
                    z = z - np.cos(y) if z[i % 3] > 0.3 else z * y
                elif kind == 2:
                    y = y + x[int(n)]
                elif kind == 3 and int(n) == 1:
                    return np.sum(y * z)
                elif kind == 4:
                    while np.max(y) > 1.0:
                        y = y * 0.6
                else:
                    z = np.tanh(z + y)
            return np.sum(y * y) + np.sum(z)

        g = value_and_grad(f)
        points = [(rng.normal(size=3), float(rng.integers(0, 3))) for _ in range(12)]
        settle(g, *points)
        for x, n in [*points, *[(rng.normal(size=3), float(rng.integers(0, 3))) for _ in range(6)]]:
            value, slope = g(x, n)
            assert_allclose(value, f(x, n), rtol=1e-12)
            step = 1e-6 * np.eye(3)
            assert_allclose(slope, [(f(x + d, n) - f(x - d, n)) / 2e-6 for d in step], rtol=2e-5, atol=2e-7)


@compiled
def test_what_paths_have_in_common_is_computed_once():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(80, 80))

    def f(x):
        y = a @ x
        s = np.sum(y)
        if s > 10:
            return np.sum(y**2)
        return s if s > -10 else np.sum(y**3)

    g, x = jit(f), rng.normal(size=(80, 80))
    calls = [(x * c / np.sum(a @ x),) for c in (-50.0, 0.5, 50.0)]
    merged = settle(g, *calls)
    assert len(merged.members) == 3 and merged.code.stats.library_calls == 1
    for (x,) in calls:
        assert_allclose(g(x), f(x), rtol=1e-12)


@compiled
def test_integers_that_are_merged_and_one_that_is_not():
    f = value_and_grad(lambda x, n: np.sin(x) * sum(x**k for k in range(int(n))))
    assert settle(f, (0.5, 2.0), (0.5, 5.0), (0.5, -1.0)) is not None
    for n in (2, 5, -1, 4, 0, 4, 3, 5, 2):
        value, slope = f(0.7, float(n))
        powers = sum([0.7**k for k in range(n)])
        slopes = sum([k * 0.7 ** (k - 1) for k in range(1, n)])
        assert_allclose([value, slope], [np.sin(0.7) * powers, np.cos(0.7) * powers + np.sin(0.7) * slopes], rtol=1e-14)
    assert f.cache_info().paths == 6


@compiled
def test_a_read_behind_its_guard_stays_behind_it():
    f = jit(lambda x, i: x[int(i)] * 2.0 if i < x.size else x[0])
    g = jit(lambda x, i: np.sum(np.take(x, i)) if i < 3 else np.sum(x))
    x = np.arange(1.0, 4.0)
    assert settle(f, (x, 1.0), (x, 5.0), (x, 2.0)) is not None and settle(g, (x, 1), (x, 5)) is not None
    for i, (a, b) in {0: (2.0, 1.0), 1: (4.0, 2.0), 2: (6.0, 3.0), 3: (1.0, 6.0), 10**9: (1.0, 6.0)}.items():
        assert f(x, float(i)) == a and g(x, i) == b


@compiled
def test_arrays_that_only_one_path_reads_and_results_in_given_arrays():
    a, b = np.array([1.0, 2.0]), np.array([10.0, 20.0])

    def f(x):
        if x[0] > 0:
            return (x * a, np.sum(x))
        return (x * b + a, np.sum(x * b)) if x[1] > 0 else (x, x[0])

    g, out = jit(f), (np.empty(2), np.empty(()))
    calls = [(np.array(v),) for v in ([1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0])]
    assert len(settle(g, *calls).members) == 3
    for k in range(3):
        a += k
        b *= 2.0
        for (x,) in calls:
            for _ in range(4):
                found = g.into(out, x)
                assert found[0] is out[0] and found[1] is out[1]
                for u, v, w in zip(found, g(x), f(x)):
                    assert_allclose(u, w, rtol=1e-15)
                    assert_allclose(v, w, rtol=1e-15)


@compiled
def test_paths_of_other_structure_stay_apart_and_a_dropped_path_ends_the_merger(monkeypatch):
    f = jit(lambda x, n: [x * n, x + n, (x, n), x - n][int(n)])
    merged = settle(f, *[(2.0, float(n)) for n in range(4)])
    assert len(merged.members) == 3
    assert [f(2.0, float(n)) for n in range(4)] == [0.0, 3.0, (2.0, 2.0), -1.0]
    monkeypatch.setattr("tapejit.paths.MAX_PATHS", 4)
    f(2.0, 1.0), f(2.0, 2.0), f(2.0, 3.0)
    g = jit(power)
    assert len(settle(g, *[(2.0, float(n)) for n in range(4)]).members) == 4
    with pytest.warns(TapejitWarning):
        assert g(2.0, 10.0) == 1024.0
    assert g.lookup(2.0, 1.0).merged is None
    assert [g(2.0, float(n)) for n in (1, 2, 3, 10)] == [2.0, 4.0, 8.0, 1024.0]


@compiled
def test_threads_merge_and_grow():
    f, wrong = value_and_grad(power), []

    def work(seed):
        for n in np.minimum(np.random.default_rng(seed).geometric(0.25, size=3000), 30):
            value, slope = f(1.01, float(n))
            if not (math.isclose(value, 1.01**n, rel_tol=1e-12) and math.isclose(slope, n * 1.01 ** (n - 1), rel_tol=1e-12)):
                wrong.append(n)

    in_threads(work, range(4))
    assert not wrong and f.lookup(1.0, 1.0).merged is not None


@native
def test_calls_of_merged_paths_are_counted_per_path():
    f = jit(power)
    settle(f, (1.0, 1.0), (1.0, 3.0))
    before = {length(p): p.count for p in paths_of(f, 1.0, 1.0)}
    hits = f._dispatcher.hits
    for n in (1, 3, 3, 3, 1):
        f(1.0, float(n))
    assert {length(p): p.count - before[length(p)] for p in paths_of(f, 1.0, 1.0)} == {1: 2, 3: 3}
    assert f._dispatcher.hits == hits + 5 and "2 of them in one function" in f.explain(1.0, 1.0)


@native
def test_a_path_of_large_arrays_that_nearly_all_calls_take_is_tried_alone():
    f = jit(lambda x: np.sum(x * x) if np.sum(x) > 0 else np.sum(x) + 1.0)
    x = np.linspace(0.0, 1.0, 100)
    for _ in range(4):
        f(x), f(-x)
    for _ in range(300):
        f(x)
    assert f.lookup(x).merged is None
    assert settle(f, *[(x,), (-x,)] * 20) is not None
    assert len(f._dispatcher.specs[0].counters) == 2
    for _ in range(10_000):
        assert f(-x) == pytest.approx(-49.0, rel=1e-14)
    (first, *_) = f._dispatcher.specs
    assert len(first.counters) == 1 and first.counts(next(p for p in paths_of(f, x) if p.seen == [False]).hits)
    assert f(x) == pytest.approx(np.sum(x * x), rel=1e-14)


# ---- hidden state ------------------------------------------------------------------------------------------------------------
def test_an_iterator_that_is_closed_over_is_found_out():
    numbers = itertools.count(1.0)

    def f(x):
        y = x * next(numbers)
        if x > 0:
            return y
        return -y

    g = jit(f)
    assert g(1.0) == 1.0
    with pytest.raises(HiddenStateError, match=r"mul with 1.0 at .*next\(numbers\)\n.*mul with 2.0 at .*next\(numbers\)"):
        g(-1.0)
    assert g(3.0) == 3.0 and g.cache_info().paths == 1


@pytest.mark.parametrize("transform", [jit, grad, lambda f: vmap(grad(f)), lambda f: jit(grad(grad(f)))])
def test_a_branch_on_a_file_is_found_out(transform, tmp_path):
    switch = tmp_path / "switch"
    switch.write_text("on")

    def f(x):
        y = x**3
        if switch.read_text() == "on":
            y = y * 2.0
        if x > 0:
            return y
        return -y

    g, one = transform(f), np.ones(2) if transform not in (jit, grad) else np.ones(())
    one = one if "vmap" in repr(g) else 1.0
    g(one)
    switch.write_text("off")
    with pytest.raises(HiddenStateError, match=r"then: mul with 2.0 at test_paths.py:\d+: y = y \* 2.0\n  now: .*if x > 0"):
        g(-one)
    switch.write_text("on")
    assert_allclose(g(-one), -transform(lambda x: 2.0 * x**3)(-one))


def test_another_result_is_found_out():
    numbers = itertools.count()

    def f(x):
        n = next(numbers)
        if x > 0 and n < 5:
            return x
        return float(n)

    g = jit(f)
    assert g(1.0) == 1.0 and g(-1.0) == 1.0
    for value in (3.0, -3.0):
        assert g(value) == (3.0 if value > 0 else 1.0)  # known paths: nothing is recorded, nothing can be noticed


def test_arrays_made_anew_and_nested_functions_are_no_hidden_state():
    table = np.arange(3.0)

    def f(x, k):
        inner = jit(lambda y: y * np.arange(3.0) + table)
        weights = {name: np.full(3, i) for i, name in enumerate("ab")}
        y = inner(x) @ weights["b"] + np.linspace(0.0, 1.0, 3) @ table
        if k > 1:
            return y
        return y * 2.0 if k > 0 else np.sum(inner(y)) + weights["a"][0]

    for transform in (jit, grad):
        g = transform(f)
        assert [float(g(1.0, k)) for k in (2.0, 0.5, -1.0, 2.0)] == (
            [8.5, 17.0, 28.5, 8.5] if transform is jit else [3.0, 6.0, 9.0, 3.0]
        )


@pytest.mark.parametrize("kind", ["positional", "keyword"])
def test_default_arguments_that_are_replaced(kind):
    table = np.array([1.0, 2.0])

    def scale(x, k=2.0, a=table):
        return x * k + np.sum(a)

    def keyword(x, *, k=2.0, a=table):
        return x * k + np.sum(a)

    inner = scale if kind == "positional" else keyword
    f = jit(lambda x: inner(x))
    for k in (2.0, 5.0, 2.0):
        for a in (table, np.array([10.0])):
            if kind == "positional":
                inner.__defaults__ = (k, a)
            else:
                inner.__kwdefaults__["k"] = k
                inner.__kwdefaults__ = {**inner.__kwdefaults__, "a": a}
            for _ in range(4):
                assert f(1.0) == k + a.sum()
            a[0] += 1.0
            assert f(1.0) == k + a.sum()


def test_equal_numbers_as_defaults_are_no_change():
    def scale(x, k=2.0):
        return x * k

    f = jit(scale)
    for k in (2.0, 3.0) * 5:
        scale.__defaults__ = tuple([k])
        assert f(1.0) == k
    assert f.cache_info().misses == 2


# ---- explain -----------------------------------------------------------------------------------------------------------------
def test_explain_shows_the_tree():
    f = jit(power)
    for n in (2, 0, 1, 2, 2, 2, 2, 2, 2):
        f(1.0, float(n))
    first = power.__code__.co_firstlineno
    line = f"test_paths.py:{first + 3}: while n > 0:"
    tree = f"""  paths (3, 9 calls):
    {line}
      False -> path 1: 1 call
      True  -> {line}
        False -> path 2: 1 call
        True  -> path 3: 7 calls
"""
    assert tree in f.explain(1.0, 1.0)


def test_explain_of_one_path_and_of_integers():
    f = jit(lambda x: x + 1.0)
    for _ in range(1003):
        f(1.0)
    assert "paths (1, 1,003 calls):\n    path 1: 1,003 calls\n" in f.explain(1.0)
    g = jit(lambda x, n: x * int(n))
    for n in (10.0, 2.0, -1.0):
        g(1.0, n)
    assert "      -1 -> path 1: 1 call\n      2  -> path 2: 1 call\n      10 -> path 3: 1 call\n" in g.explain(1.0, 2.0)


# ---- loops that are folded ---------------------------------------------------------------------------------------------------
def test_loops_of_many_lengths():
    """Folded loops (ir/passes/reroll.py) of different lengths have the same guards, and are told apart by their lengths."""

    def f(x, n):
        total, last = 0.0, []
        while n > 0:
            x = np.sin(x) * 1.1 + total * np.cos(x)
            total = total + x * 0.5 + np.tanh(x * total)
            last.append(x)
            n = n - 1
        return total + x + sum(last[-8:])  # as long a tail as there were iterations, up to a point

    g, lengths = value_and_grad(f), (300, 302, 5, 299, 9, 8, 100, 350, 0, 17)
    for _ in range(3):
        for n in lengths:
            value, slope = g(0.3, float(n))
            assert_allclose(value, f(0.3, n), rtol=1e-10)
            assert_allclose(slope, (f(0.3 + 1e-7, n) - f(0.3 - 1e-7, n)) / 2e-7, rtol=1e-4, atol=1e-7)
    assert g.cache_info().paths == g.cache_info().misses == len(lengths)
    assert re.search(r"\n +True 30[12] times +-> path", g.explain(0.3, 1.0))  # CPython 3.10 tests the first time elsewhere


def test_branches_in_a_long_loop():
    def shrink(x, least):
        count = 0
        while x > least:
            x = x * 0.97 if x > 0.5 else x * 0.95 - 0.001
            count += 1
        return x * count

    f, rng = value_and_grad(shrink), np.random.default_rng(0)
    points = list(zip(rng.uniform(0.1, 3.0, 25), 10.0 ** rng.uniform(-6, -0.5, 25)))
    for x, least in points * 2:
        value, slope = f(x, least)
        assert_allclose(value, shrink(x, least), rtol=1e-12)
        assert_allclose(slope, (shrink(x + 1e-9, least) - shrink(x - 1e-9, least)) / 2e-9, rtol=1e-4)
    assert f.cache_info().paths == 2 < f.cache_info().misses  # of both loops, and of the second alone
