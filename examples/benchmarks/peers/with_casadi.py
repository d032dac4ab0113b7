"""CasADi: expression graphs of SX scalars (of MX matrices where there are matrix products), run by its virtual machine.

A call copies NumPy arrays in and the results out, as its users' calls do; its documented low-overhead buffers would take one
memory for all calls. No just-in-time C: that needs seconds of a compiler for each function, and is a setting few use.
"""

import casadi as ca
import numpy as np

from . import problems

VERSION = ca.__version__
BIG = "graphs of millions of nodes"
SKIP = {
    **{("sin_squared", "n=1e6"): BIG, ("rosenbrock", "n=1e6"): BIG, ("options", "n=1e6"): BIG},
    **{("logistic", "100000x100"): BIG, ("state", "n=64k"): BIG, ("state", "n=4M"): BIG},
    **dict.fromkeys(("mixture", "classifier", "attention"), "no batched products"),
}


def function(inputs, outputs, shapes):
    """Compiled for the virtual machine: arrays in, arrays of these shapes out."""
    f = ca.Function("f", inputs, outputs)

    def call(*args):
        out = f(*args)
        return [o.full().reshape(s) for o, s in zip(out if len(shapes) > 1 else (out,), shapes)]

    return call


def one(f):
    return lambda *args: f(*args)[0]


def scalar(p):
    x = ca.SX.sym("x")
    f = ca.Function("f", [x], [ca.gradient(ca.sin(x) ** 2, x)])
    return lambda x: float(f(x)), p.args


def elementwise(make, count, order=1):
    """Derivatives of an elementwise function by each of its arguments, mapped over the elements of a vector."""

    def derivatives(n):
        single = [ca.SX.sym(f"x{i}") for i in range(count)]
        y = make(*single)
        slopes = [y]
        for _ in range(order):
            slopes = [ca.gradient(s, v) for s in slopes for v in single]
        f = ca.Function("f", single, [y, *slopes]).map(n)
        return lambda *args: [o.full().ravel() for o in f(*[a.reshape(1, -1) for a in args])]

    return derivatives


def sin_squared(p):
    order, n = p.sizes
    f = elementwise(lambda x: ca.sin(x) ** 2, 1, order)(n)
    return lambda x: f(x)[1], p.args


def valley(x):
    return ca.sum1(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock(p):
    x = ca.SX.sym("x", p.sizes[0])
    y = valley(x)
    return function([x], [y, ca.gradient(y, x)], [(), p.args[0].shape]), p.args


def hessian(p):
    x = ca.SX.sym("x", p.sizes[0])
    return one(function([x], [ca.hessian(valley(x), x)[0]], [(p.sizes[0],) * 2])), p.args


def options(p):
    def price(spot, strike, volatility, years, rate):
        spread = volatility * ca.sqrt(years)
        d1 = (ca.log(spot / strike) + rate * years) / spread + 0.5 * spread
        normal = lambda z: 0.5 * (1.0 + ca.erf(z * 0.5**0.5))
        return spot * normal(d1) - strike * ca.exp(-rate * years) * normal(d1 - spread)

    return elementwise(price, 5)(p.sizes[0]), p.args


def logistic(p):
    w, x, y = ca.MX.sym("w", p.sizes[1]), ca.MX.sym("x", *p.sizes), ca.MX.sym("y", p.sizes[0])
    margins = y * ca.mtimes(x, w)
    loss = ca.sum1(ca.log(1.0 + ca.exp(-margins))) / p.sizes[0]
    return function([w, x, y], [loss, ca.gradient(loss, w)], [(), (p.sizes[1],)]), p.args


def state(p):
    def density(salinity, temperature, pressure):
        root = ca.sqrt(salinity)
        top, bottom = (
            problems.horner(
                [problems.horner([problems.horner(row, temperature) for row in plane], root) for plane in planes], pressure
            )
            for planes in (problems.TOP, problems.BOTTOM)
        )
        return top / bottom + 0.02 * ca.exp(-pressure * temperature)

    f = elementwise(density, 3)(p.sizes[0])
    return lambda *args: f(*args)[1:], p.args


def chain(p):
    x = ca.SX.sym("x", 10)
    y = problems.chain(x, p.sizes[0])
    return one(function([x], [ca.jtimes(y, x, ca.SX.ones(10), True)], [(10,)])), p.args


def tiny(p):
    params, x = p.args
    symbols = [(ca.MX.sym(f"w{i}", *w.shape), ca.MX.sym(f"b{i}", 1, len(b))) for i, (w, b) in enumerate(params)]
    data = y = ca.MX.sym("x", *x.shape)
    for w, b in symbols:
        y = ca.tanh(ca.mtimes(y, w) + ca.repmat(b, x.shape[0], 1))
    mean = ca.sum1(y) / x.shape[0]
    flat = [s for pair in symbols for s in pair]
    grads = ca.Function("f", [*flat, data], [mean, *[ca.gradient(mean, s) for s in flat]])

    def call(params, x):
        value, *rest = grads(*[a if a.ndim == 2 else a[None] for pair in params for a in pair], x)
        return float(value), [r.full() if i % 2 == 0 else r.full().ravel() for i, r in enumerate(rest)]

    return call, p.args


def recurrent(p):
    params, xs = p.args
    symbols = {k: ca.MX.sym(k, *np.atleast_2d(v).shape) for k, v in params.items()}
    data = [ca.MX.sym(f"x{t}", *x.shape) for t, x in enumerate(xs)]
    h = ca.MX.zeros(xs.shape[1], params["h"].shape[0])
    for x in data:
        bias = ca.repmat(symbols["b"], xs.shape[1], 1)
        h = ca.tanh(ca.mtimes(x, symbols["x"]) + ca.mtimes(h, symbols["h"]) + bias)
    mean = ca.sum1(ca.sum2(h**2)) / h.numel()
    names = sorted(params)
    grads = ca.Function("f", [*[symbols[k] for k in names], *data], [mean, *[ca.gradient(mean, symbols[k]) for k in names]])

    def call(params, xs):
        value, *rest = grads(*[np.atleast_2d(params[k]) for k in names], *xs)
        return float(value), {k: r.full().reshape(params[k].shape) for k, r in zip(names, rest)}

    return call, p.args
