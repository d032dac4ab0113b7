"""Programs as users write them: values against plain NumPy, first and second derivatives against differences, paths merged."""

import functools
import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tapejit
from tapejit import GradientTape, Variable, grad, jit, value_and_grad

POINTS = [np.random.default_rng(seed).normal(size=6) * scale for seed, scale in enumerate((0.3, 0.9, 1.0, 1.8, 0.6))]
TABLE = np.random.default_rng(9).normal(size=(250, 3)) * 0.3


def flat(tree):
    """The leaves of nested lists, tuples and dicts."""
    if isinstance(tree, dict):
        tree = [tree[k] for k in sorted(tree)]
    return [x for t in tree for x in flat(t)] if isinstance(tree, (list, tuple)) else [tree]


def difference(f, x, step=1e-6):
    return np.array([(f(x + d) - f(x - d)) / (2 * step) for d in step * np.eye(x.size)])


def follows(program, points, calls=40, second=True, plain=None):
    """jit, value_and_grad, gradients of gradients and tapes, each point many times in mixed order. plain: for NumPy alone."""
    plain = plain or program

    def scalar(x, program=program):
        total = 0.0
        for i, y in enumerate(flat(program(x))):
            total = total + np.sum(y) * (1.0 + 0.1 * i)
        return total

    def squared(x):
        return np.sum(grad(scalar)(x) ** 2)

    compiled, slope, twice = jit(program), value_and_grad(scalar), grad(squared)
    total = lambda x: scalar(x, plain)
    known = [([np.array(y) for y in flat(plain(x))], total(x), difference(total, x)) for x in points]
    for n, k in enumerate(np.random.default_rng(0).permutation(np.arange(calls) % len(points))):
        x, (values, expected, gradient) = points[k], known[k]
        found = flat(compiled(x))
        assert len(found) == len(values)
        for a, b in zip(found, values):
            assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        value, found = slope(x)
        assert_allclose(value, expected, rtol=1e-10, atol=1e-12)
        assert_allclose(found, gradient, rtol=2e-5, atol=2e-6)
        if n < len(points):
            w = Variable(x)
            with GradientTape() as tape:
                y = scalar(w)
            assert_allclose(tape.gradient(y, w), found, rtol=1e-10, atol=1e-12)
        if second and n < 2 * len(points):
            gradients = lambda x: float(np.sum(slope(x)[1] ** 2))
            assert_allclose(twice(x), difference(gradients, x), rtol=2e-4, atol=2e-4)
    assert compiled.cache_info().misses <= len(points)


# ---- guarded paths -------------------------------------------------------------------------------------------------------
def generator(x):
    def squares():
        for v in x:
            yield v * v if v > 0 else -v
            if v > 1.5:
                return

    return sum(squares())


def counted(x):
    n, total = 0, 0.0
    for v in x:
        n += 1 if v > 0 else 0
        total = total + v * n
    return total / (n or 1)


def searched(x):
    for v in x:
        if v < -1:
            continue
        if v > 0.9:
            break
        kept = v * v
    else:
        return np.sum(x * x)
    return v**3 + (kept if x[0] <= 0.9 and x[0] >= -1 else 0.0)


def matched(x):
    match int(x[0] * 3):
        case 0:
            return x[1] * x[2]
        case 1 | 2:
            return x[1] ** 2
        case n if n < 0:
            return x[2] ** 3 * n
        case _:
            return np.sin(x[3])


def tried(x):
    try:
        assert x[0] > 0, "not positive"
        y = np.log(x[0])
    except AssertionError:
        y = -x[0] * x[1]
    finally:
        z = x[2] * 3
    return y + z * x[1]


def halved(x):
    return x if x < 0.1 else halved(x * 0.5) + np.sin(x)


def keyed(x):
    groups = {}
    for v in x:
        groups.setdefault(int(v), []).append(v)
    return {k: sum(vs) ** 2 * (k + 1) for k, vs in sorted(groups.items())} if len(groups) > 1 else x


def grown(x):
    n, total = 0, 0.0
    while True:
        total, n = total + x[n] ** 2, n + 1
        if total > 1 or n >= 6:
            break
    return [total * n, x[:n] * 2]


GUARDED = {
    "generator": generator,
    "comprehension": lambda x: sum([v * 2 for v in x if v > 0]) + sum(v for v in x if not v > 0 and v > -1) * x[0],
    "any all": lambda x: x[0] * x[1] if any(v > 1 for v in x) else x[2] * x[3] if all(v < 0.8 for v in x) else np.sum(x**2),
    "sorted key": lambda x: sum(w * v**2 for w, v in enumerate(sorted(x, key=lambda t: abs(t)))),
    "max min": lambda x: max(x) * min(x) + max(x[0], 0.5, x[1] * 2) + min(x, key=lambda v: v * v),
    "reduce": lambda x: functools.reduce(lambda a, b: a * b if b > 0 else a - b, x),
    "combinations": lambda x: sum(a * b for a, b in itertools.combinations(x, 2) if a < b),
    "takewhile": lambda x: sum(itertools.takewhile(lambda v: v < 1, x), 0.0) + sum(itertools.accumulate(x)) * x[1],
    "walrus": lambda x: y * 2 if (y := np.sum(x * x)) > 3 else y**2,
    "lengths": lambda x: np.sum(np.arange(int(abs(x[0]) * 4) + 1) * x[1] ** 2),
    "positions": lambda x: x[np.argmax(x)] ** 2 * x[int(np.argmin(x))] + np.sum(x[[i for i in range(6) if x[i] > 0]] ** 2),
    "truths": lambda x: np.sum(x * x) * sum(v > 0 for v in x) + np.count_nonzero(x > 0.5) * x[0] ** 2,
    "recursion": lambda x: halved(x[0] * x[0]),
    **{f.__name__: f for f in (counted, searched, matched, tried, keyed, grown)},
}


@pytest.mark.parametrize("program", GUARDED.values(), ids=GUARDED)
def test_paths(program):
    follows(program, POINTS)


# ---- long loops ----------------------------------------------------------------------------------------------------------
def runge_kutta(x):
    f = lambda t, y: np.stack([y[1], -np.sin(y[0]) * x[2] + np.cos(t)])
    y, t, h = x[:2], 0.0, 0.01
    for _ in range(220):
        k1 = f(t, y)
        k2 = f(t + h / 2, y + h / 2 * k1)
        k3 = f(t + h / 2, y + h / 2 * k2)
        y, t = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(t + h, y + h * k3)), t + h
    return y * t


def leapfrog(x):
    q, p = x[0], x[1] - 0.005 * x[0]
    for i in range(300):
        q = q + 0.01 * p
        p = p - (0.01 * q if i < 299 else 0.005 * q)
    return q * p


def swapped(x):
    a, b, c = x[0], x[1], 1.0
    for _ in range(250):
        a, b, c = b, c, 0.3 * (a + b + c)
    return a - b * c


def listed(x):
    xs, keep = [x[0], x[1] * 2], []
    for i in range(300):
        xs.append(xs[i] * 0.5 + 0.4 * np.sin(xs[-1]))
        if i in (3, 77, 298):
            keep.append(xs[-1] * x[2])
    return sum(xs[::-1][:5]) + xs[100] + keep[0] * keep[1] + np.stack(xs)[::60]


def stated(x):
    s = {"q": x[0], "p": x[1], "n": 0}
    for _ in range(300):
        s = {"q": s["q"] + 0.01 * s["p"], "p": s["p"] - 0.01 * np.sin(s["q"]), "n": s["n"] + 1}
    return s["q"] * s["n"] + s["p"]


def triangular(x):
    s = 0.0
    for i in range(24):
        for j in range(i + 1):
            s = s + x[i % 6] * x[j % 6] * 0.1
        s = np.tanh(s)
    return s


def odd(x):
    y = 0.0
    for i in range(300):
        if i == 0:
            y = x[0]
        elif i == 299:
            y = y * y
        elif i % 3:
            y = np.cos(y) * x[1]
        else:
            y = 0.9 * y + x[2]
        if i == 150:
            y = y + x[0] ** 2
    return y


def ring(x):
    buffer, others = [x[0]] * 5, [x[1], x[2], x[3]]
    for i in range(250):
        buffer = [*buffer[1:], 0.3 * buffer[0] + 0.5 * np.sin(buffer[-1])]
        others[i % 3] = np.sin(others[(i + 1) % 3]) + 0.1 * others[i % 3]
    return sum(buffer) + others[0] * others[1]


def stencil(x):
    u = np.outer(x, x)
    for _ in range(200):
        v = u.copy()
        v[1:-1, 1:-1] += 0.1 * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
        u = v + 0.01 * np.roll(v, 1, 0)
    return u * np.arange(6.0)


def columns(x):
    y = np.zeros_like(np.outer(x, np.ones(250)))
    y[:, 0] = x
    for k in range(1, 250):
        y[:, k] = y[:, k - 1] * 0.99 + 0.01 * np.sin(y[:, k - 1])
    return y[:, -1] + y[2, 77]


def rows(x):
    s, t = 0.0, 0.0
    for k, (row, other) in enumerate(zip(TABLE, reversed(TABLE))):
        s, t = np.tanh(s * 0.5 + np.sum(row * x[:3]) + x[k % 6 if k < 6 else 5]), t + 0.01 * np.sum(other * x[3:])
    return s * t


def dynamic(x):
    n = 14
    y = np.zeros_like(np.outer(np.ones(n), np.ones(n)) * x[0])
    for i in range(n):
        for j in range(n):
            y[i, j] = x[i % 6] * x[j % 6] + (y[i - 1, j] * 0.5 if i else 0.0) + (y[i, j - 1] * 0.25 if j else 0.0)
    return y[-1]


def left_early(x):
    y = x[0] * x[0] + 1.0
    for i in range(400):  # noqa: B007
        y = 0.98 * y + 0.0001 * x[1]
        if y < 0.2:
            break
    return y * i


LOOPS = [runge_kutta, leapfrog, swapped, listed, stated, triangular, odd, ring, stencil, columns, rows, dynamic, left_early]


@pytest.mark.parametrize("program", LOOPS, ids=lambda f: f.__name__)
def test_loops(program):
    follows(program, POINTS[:3], calls=6, second=program not in (stencil, dynamic, left_early))


def test_ten_thousand_iterations():
    def program(x):
        y, kept = x[0], []
        for i in range(10_000):
            y = y + 1e-4 * np.sin(y + i * 0.001) * x[1]
            kept.append(y)
        return kept[0] + kept[5000] * kept[-1] - kept[-7000]

    follows(program, [POINTS[0][:2]], calls=2, second=False)


# ---- writing -------------------------------------------------------------------------------------------------------------
def pivoted(x):
    a = np.outer(x, x[::-1])[:4, :4] + np.diag(x[:4] + 2.0)
    for k in range(3):
        p = k + int(np.argmax(np.abs(a[k:, k])))
        if p != k:
            a[[k, p]] = a[[p, k]]
        a[k + 1 :, k] /= a[k, k]
        a[k + 1 :, k + 1 :] -= np.outer(a[k + 1 :, k], a[k, k + 1 :])
    return a


def bubbles(x):
    y = x[:4].copy()
    for i in range(4):
        for j in range(3 - i):
            if y[j] > y[j + 1]:
                y[j], y[j + 1] = y[j + 1], y[j]
    return y * np.arange(4) * y


def red_black(x):
    u = np.outer(x, x)[:5, :5]
    for k in range(8):
        for i in range(1, 4):
            for j in range(1, 4):
                if (i + j + k) % 2:
                    u[i, j] = 0.25 * (u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1]) + 0.01 * x[i]
    return u


def lattice(x):
    f = [np.outer(x, x) * w for w in (0.3, 0.2, 0.5)]
    for _ in range(30):
        f[1], f[2] = np.roll(f[1], 1, 0), np.roll(f[2], -1, 1)
        density = f[0] + f[1] + f[2]
        for q, w in enumerate((0.5, 0.2, 0.3)):
            f[q] += 0.3 * (w * density * (1 + 0.01 * density) - f[q])
        f[0][0] = f[1][1]
        f[2][:, -1] *= 0.9
    return f


def views(x):
    y = x.copy()
    v = y[1:][::2]
    v[1:] = x[0] * x[1]
    u = v[::-1]
    u += x[5]
    kept = {"views": [y, y[1:3]]}
    kept["views"][0][1] = x[0] ** 2
    kept["views"][1] += x[1]
    m = y.reshape(2, 3)
    for row, other in zip(m, x.reshape(2, 3)[::-1]):
        row *= 2
        row[1:] += other[:-1]
    m.T[0] -= m.T[2]
    a, b = np.split(y, 2)
    a += b
    b *= a
    return [y, v * y[0], u, m]


def overlapping(x):
    y, z = x.copy(), np.empty_like(x)
    y[1:] = y[:-1]
    y[:-1] += y[1:]
    y[[1, 1, 2]] = x[[0, 3, 4]]
    y[[4, 4]] += x[[0, 1]]
    y[2:4], y[4:6] = y[4:6], y[2:4]
    z[::-2] = y[:3]
    z[::2] = np.sin(z[1::2])
    np.multiply(z, y, out=z[:])
    np.copyto(y[2:5], z[0:3], where=x[2:5] > 0)
    return [y, z]


WRITTEN = [pivoted, bubbles, red_black, lattice, views, overlapping]


@pytest.mark.parametrize("program", WRITTEN, ids=lambda f: f.__name__)
def test_writing(program):
    follows(program, POINTS, calls=40 if program in (pivoted, bubbles) else 6)


# ---- what is read beside the arguments, changed between calls of a function with several paths -------------------------------
def test_everything_around_a_function_changes():
    class Layer:
        def __init__(self):
            self.w, self.b, self.n, self.act, self.scale = np.array([1.0, 2.0]), 0.5, 2, np.sin, None

        def __call__(self, x):
            y = self.act(self.w * x) + self.b
            for _ in range(self.n):
                y = y * x
            return np.sum(y if self.scale is None else self.scale(y))

    layer, numbers, table, arrays, rate = Layer(), [1.0, 2.0], {"k": 1.0, "a": np.ones(2)}, [np.ones(2), np.zeros(2)], 2.0

    def program(x):
        y = rate * x + numbers[0] * x**2 + sum(numbers) + table["k"] * x + np.sum(table["a"]) * x
        y = y + arrays[0][1] * x + np.sum(arrays[1]) + len(arrays) * x
        return y * layer(x) if layer.b > 0 and x > -1 else y

    def set_rate(v):
        nonlocal rate
        rate = v

    rng = np.random.default_rng(1)
    changes = [
        set_rate,
        lambda v: numbers.__setitem__(0, v),
        lambda v: numbers.append(v) if len(numbers) < 4 else numbers.pop(),
        lambda v: table.update(k=v),
        lambda v: table.update(a=np.array([v, 1.0])),
        lambda v: table["a"].__setitem__(0, v),
        lambda v: arrays[0].__setitem__(1, v),
        lambda v: arrays.__setitem__(1, np.array([v, v])),
        lambda v: arrays.append(np.ones(1)) if len(arrays) < 4 else arrays.pop(),
        lambda v: layer.w.__setitem__(0, v),
        lambda v: setattr(layer, "w", np.array([v, 1.0])),
        lambda v: setattr(layer, "b", v),
        lambda v: setattr(layer, "n", int(abs(v) * 2)),
        lambda v: setattr(layer, "act", np.cos if v > 0 else np.tanh),
        lambda v: setattr(layer, "scale", None if layer.scale else lambda y: y * v),
    ]
    f, g = jit(program), grad(program)
    for n in range(150):
        if n % 3 == 0:
            changes[rng.integers(len(changes))](float(rng.normal()))
        x = float(rng.normal())
        assert_allclose(f(x), program(x), rtol=1e-12)
        assert_allclose(g(x), (program(x + 1e-6) - program(x - 1e-6)) / 2e-6, rtol=1e-5, atol=1e-6)


# ---- structured control flow ---------------------------------------------------------------------------------------------
class Plain:
    """What tapejit's functions do, in Python."""

    def scan(f, c, xs, reverse=False):
        rows = [nest(lambda x, i=i: x[i], xs) for i in range(len(flat(xs)[0]))]
        ys = []
        for r in reversed(rows) if reverse else rows:
            c, y = f(c, r)
            ys.append(y)
        return c, nest(lambda *y: np.stack(y), *(reversed(ys) if reverse else ys))

    def while_loop(cond, f, c):
        while cond(c):
            c = f(c)
        return c

    def fori_loop(lower, upper, f, c):
        for i in range(lower, upper):
            c = f(i, c)
        return c

    def cond(p, f, g, *xs):
        return f(*xs) if p else g(*xs)

    def switch(i, fs, *xs):
        return fs[min(max(int(i), 0), len(fs) - 1)](*xs)

    def map(f, xs):
        return Plain.scan(lambda c, x: (c, f(x)), 0.0, xs)[1]


def nest(f, *trees):
    """f of the leaves of equal nests."""
    first = trees[0]
    if isinstance(first, dict):
        return {k: nest(f, *[t[k] for t in trees]) for k in first}
    return type(first)(nest(f, *ts) for ts in zip(*trees)) if isinstance(first, (list, tuple)) else f(*trees)


def scan_of_nests(L, x):
    def step(c, r):
        return {"a": c["a"] * r["u"] + c["b"][0], "b": (np.sum(c["b"][1]), c["b"][1] * r["v"][0])}, [c["a"], r["u"]]

    return L.scan(step, {"a": x[0], "b": (x[1], x)}, {"u": np.arange(4.0) * x[:4], "v": (np.outer(x[:4], x),)})


def scan_in_scan(L, x):
    inner = lambda c: L.scan(lambda d, q: (np.sin(d * q) + c[0], d), c, x[:3])[0]
    return L.scan(lambda c, r: (inner(c) * 0.5 + r, c), x, np.outer(TABLE[:3, 0], x))


def while_in_scan(L, x):
    inner = lambda c, r: L.while_loop(lambda d: np.sum(d * d) > 1.0, lambda d: d * 0.7 * np.cos(0.3 * r), c)
    return L.scan(lambda c, r: (inner(c + x, r), c), x, x)


def scan_in_while(L, x):
    inner = lambda c: L.scan(lambda d, q: (np.sin(d) + q, d), c, x)[0]
    return L.while_loop(lambda c: c[1] < 9.0, lambda c: (inner(c[0]), c[1] * 1.3 + c[0] ** 2), (x[0], 1.0))


def loops_in_loops(L, x):
    inner = lambda i, c: L.fori_loop(0, i, lambda j, d: d * 0.9 + x[0] * x[1] * j, c)
    return L.fori_loop(0, 5, inner, x[0])


def switched(L, x):
    ways = [lambda v: v[0] * v[1], lambda v: v[1] ** 2, lambda v: np.sin(v[2]), lambda v: v[3] * x[0]]
    return L.switch(np.floor(x[0] * 2).astype(int), ways, x)


def reversed_scan(L, x):
    return L.scan(lambda c, r: (np.sin(c) + r * x[0] * c, r - c), x[1], x * x, reverse=True)


def counting_scan(L, x):
    return L.scan(lambda c, r: ((c[0] + 1, c[1] * r + c[0] * x[2]), c[0] * r), (0, x[0]), x)


def cond_in_scan(L, x):
    return L.scan(lambda c, r: (L.cond(r > 0.1, lambda d: d * r + x[0], lambda d: np.sin(d) - x[1], c), c), x[2], x * 2)


def mapped(L, x):
    return L.map(lambda r: {"a": np.tanh(TABLE[:6] @ r[:3]), "s": np.sum(r * x)}, np.outer(x, x))


CONTROLLED = [
    scan_of_nests, scan_in_scan, while_in_scan, scan_in_while, loops_in_loops, switched, reversed_scan, counting_scan,
    cond_in_scan, mapped,
]  # fmt: skip


@pytest.mark.parametrize("program", CONTROLLED, ids=lambda f: f.__name__)
def test_control(program):
    follows(functools.partial(program, tapejit), POINTS[:4], calls=8, plain=functools.partial(program, Plain))
