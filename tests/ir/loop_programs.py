"""Programs with loops and branches: (graph, arguments, the same in Python), for the tests of all that handles regions."""

import numpy as np

from tapejit.ir.build import Builder
from tapejit.ir.op import TABLE
from tapejit.ir.ops.loop import apply_scan
from tapejit.ir.types import F64, I64, tensor

S, V = tensor(F64), tensor(F64, (3,))
N = 7


def body_of(types, make):
    b = Builder("body")
    return b.finish(make(b, *[b.param(t) for t in types]))


def program(types, make):
    b = Builder("f")
    return b.finish(make(b, *[b.param(t) for t in types]))


def oscillator(reverse=False, counted=False, length=N):
    """Two carries, a row, two invariants, a stack; one carry starts without a tangent and picks one up."""
    def make(b, x, v, f, k, h):
        new = b.add(v, b.mul(h, b.sub(f, b.mul(k, b.sin(x)))))
        return [b.add(x, b.mul(h, new)), new, b.mul(x, new)]

    body = body_of([S, S, S, S, S], make)
    types = [*[tensor(I64)] * counted, S, S, tensor(F64, (length,)), S, S]

    def outer(b, *xs):
        count, (x, v, f, k, h) = list(xs[:counted]), xs[counted:]
        x, v, xs = apply_scan(b, body, count, [x, v], [f], [k, h], length, reverse)
        return [b.mul(x, v), b.reduce_sum(b.mul(xs, xs), axes=(0,))]

    def plain(*xs):
        n, (x, v, f, k, h) = (int(xs[0]) if counted else length), xs[counted:]
        total = 0.0
        for i in reversed(range(n)) if reverse else range(n):
            new = v + h * (f[i] - k * np.sin(x))
            total += (x * new) ** 2
            x, v = x + h * new, new
        return [x * v, total]

    forces = np.linspace(-0.4, 0.7, length)
    return program(types, outer), [*[np.int64(length - 2)] * counted, 0.3, -0.2, forces, 1.7, 0.13], plain


def network():
    """A product in the body: its result is stacked, not computed again."""
    M = tensor(F64, (3, 3))

    def make(b, h, x, w):
        z = b.add(b.dot(w, h, contract=((1,), (0,)), batch=((), ())), x)
        return [b.tanh(z), b.reduce_sum(b.mul(z, z), axes=(0,))]

    body = body_of([V, V, M], make)

    def outer(b, h, x, w):
        h, s = apply_scan(b, body, [], [h], [x], [w], N)
        return [b.reduce_sum(h, axes=(0,)), b.reduce_sum(s, axes=(0,))]

    def plain(h, x, w):
        total = 0.0
        for row in x:
            z = w @ h + row
            h, total = np.tanh(z), total + z @ z
        return [h.sum(), total]

    rng = np.random.default_rng(1)
    return program([V, tensor(F64, (N, 3)), M], outer), [rng.normal(size=s) for s in ((3,), (N, 3), (3, 3))], plain


def nested():
    """A loop in a loop, the inner one over the outer one's row."""
    inner = body_of([S, S, S], lambda b, s, x, a: [b.add(b.mul(s, a), b.sin(x))])

    def make(b, s, x, a):
        (s2,) = apply_scan(b, inner, [], [s], [x], [a], 3)
        return [b.mul(s2, a), s2]

    body = body_of([S, V, S], make)

    def outer(b, s, x, a):
        s, ys = apply_scan(b, body, [], [s], [x], [a], 4)
        return [s, b.reduce_sum(b.mul(ys, ys), axes=(0,))]

    def plain(s, x, a):
        total = 0.0
        for row in x:
            for e in row:
                s = s * a + np.sin(e)
            total, s = total + s * s, s * a
        return [s, total]

    return program([S, tensor(F64, (4, 3)), S], outer), [0.4, np.linspace(0.1, 2, 12).reshape(4, 3), 0.8], plain


def newton():
    """A while loop: square root by Newton's method, from a start that depends on the argument."""
    def step(b, x, a):
        return [b.mul(b.add(x, b.div(a, x)), 0.5)]

    def test(b, x, a):
        return [b.gt(b.abs(b.sub(b.mul(x, x), a)), 1e-9)]

    regions = body_of([S, S], test), body_of([S, S], step)

    def outer(b, a):
        x, n = b.apply(TABLE["while"], [b.mul(a, 2.0), a], {"carries": 1, "capacity": 16}, regions)
        return [b.mul(x, x), b.mul(x, b.convert(n, dtype=F64))]

    def plain(a):
        x, n = 2.0 * a, 0
        while abs(x * x - a) > 1e-9:
            x, n = (x + a / x) * 0.5, n + 1
        return [x * x, x * n]

    return program([S], outer), [3.7], plain


def branches(index):
    regions = (
        body_of([S, S], lambda b, x, y: [b.mul(x, y), b.sin(y)]),
        body_of([S, S], lambda b, x, y: [b.exp(x), b.constant(2.0, F64)]),
        body_of([S, S], lambda b, x, y: [b.mul(b.mul(y, y), y), x]),
    )

    def outer(b, i, x, y):
        return [b.mul(*b.apply(TABLE["switch"], [i, x, y], {}, regions))]

    def plain(i, x, y):
        i = min(max(int(i), 0), 2)
        return [[x * y * np.sin(y), np.exp(x) * 2.0, y**3 * x][i]]

    return program([tensor(I64), S, S], outer), [np.int64(index), 0.7, 1.3], plain


PROGRAMS = {
    "scan": oscillator(), "reverse": oscillator(reverse=True), "counted": oscillator(counted=True),
    "counted reverse": oscillator(reverse=True, counted=True), "network": network(), "nested": nested(), "while": newton(),
    "one": oscillator(length=1), "none": oscillator(length=0),
    **{f"switch {i}": branches(i) for i in (-1, 0, 1, 2, 5)},
}  # fmt: skip


def arrays(args):
    return [np.asarray(a) for a in args]


def floats(args):
    return [a.dtype.kind == "f" for a in arrays(args)]
