"""CasADi: expression graphs of MX matrices (of SX scalars where there are few numbers), run by its virtual machine.

A call copies NumPy arrays into the buffers that a function is bound to (`Function.buffer`, its documented low-overhead call,
some 15 us less than calling the function with arrays) and the results out. Elementwise functions are mapped over as many parts
of a large vector as there are threads. No just-in-time C: that takes seconds of a compiler for each function.
"""

import os

import casadi as ca
import numpy as np

from . import problems

VERSION = ca.__version__
SKIP = dict.fromkeys(("classifier", "attention"), "no float32")
THREADS = int(os.environ["OMP_NUM_THREADS"])
MANY = 20_000  # elements from which threads pay


def bound(f, args, shapes):
    """The function on memory of its own: NumPy arrays like args are copied in, results of these shapes out."""
    buffer, run = f.buffer()

    def memory(bind, at, shape, size):
        """What the function reads or writes, as an array of that shape: matrices are column after column."""
        flat = np.empty(size)
        bind(at, memoryview(flat))
        return flat.reshape(shape, order="F")

    inputs = [memory(buffer.set_arg, i, np.shape(a), f.numel_in(i)) for i, a in enumerate(args)]
    outputs = [memory(buffer.set_res, i, s, f.numel_out(i)) for i, s in enumerate(shapes)]

    def call(*args):
        for mine, arg in zip(inputs, args):
            mine[...] = arg
        run()
        return [out.copy() for out in outputs]

    call.memory = buffer  # freed with its last reference
    return call


def function(inputs, outputs):
    """A function of expressions with dense results."""
    return ca.Function("f", inputs, [ca.densify(o) for o in outputs])


def elementwise(make, order, results, p):
    """An elementwise function, its derivatives of that order by each argument; of them, the results in that slice."""
    n = p.args[0].size
    parts = THREADS if n >= MANY and n % THREADS == 0 else 1
    symbols = [ca.MX.sym(f"x{i}", n // parts) for i in range(len(p.args))]
    y = make(*symbols)
    slopes = [y]
    for _ in range(order):
        slopes = [ca.gradient(ca.sum1(s), x) for s in slopes for x in symbols]
    outputs = [y, *slopes][results]
    f = function(symbols, outputs)
    return bound(f.map(parts, "thread") if parts > 1 else f, p.args, [(n,)] * len(outputs))


def square(x):
    return ca.sin(x) ** 2


def valley(x):
    return ca.sum1(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def scalar(p):
    x = ca.SX.sym("x")
    return bound(function([x], [ca.gradient(square(x), x)]), p.args, [()]), p.args


def sin_squared(p):
    return elementwise(square, p.sizes[0], slice(1, None), p), p.args


def rosenbrock(p):
    x = (ca.SX if p.sizes[0] <= 10 else ca.MX).sym("x", p.sizes[0])
    y = valley(x)
    return bound(function([x], [y, ca.gradient(y, x)]), p.args, [(), p.sizes]), p.args


def hessian(p):
    x = ca.SX.sym("x", p.sizes[0])
    return bound(function([x], [ca.hessian(valley(x), x)[0]]), p.args, [p.sizes * 2]), p.args


def options(p):
    def normal(z):
        return 0.5 + 0.5 * ca.erf(z * 0.5**0.5)

    def price(spot, strike, volatility, years, rate):
        spread = volatility * ca.sqrt(years)
        d1 = (ca.log(spot / strike) + rate * years) / spread + 0.5 * spread
        return spot * normal(d1) - strike * ca.exp(-rate * years) * normal(d1 - spread)

    return elementwise(price, 1, slice(None), p), p.args


def logistic(p):
    rows, columns = p.sizes
    w, x, y = ca.MX.sym("w", columns), ca.MX.sym("x", columns, rows), ca.MX.sym("y", 1, rows)
    margins = y * ca.mtimes(w.T, x)
    loss = ca.sum2(ca.log(1.0 + ca.exp(-ca.fabs(margins))) - ca.fmin(margins, 0.0)) / rows
    call = bound(function([w, x, y], [loss, ca.gradient(loss, w)]), (p.args[0], p.args[1].T, p.args[2]), [(), (columns,)])
    return lambda w, x, y: call(w, x.T, y), p.args


def mixture(p):
    (d, k, n), (alphas, means, factors, points) = p.sizes, p.args
    a, m = ca.MX.sym("a", k), ca.MX.sym("m", d, k)
    q, x = ca.MX.sym("q", d, d * k), ca.MX.sym("x", d, n)  # matrices side by side, transposed
    inner = []
    for alpha, mean, above in zip(ca.vertsplit(a), ca.horzsplit(m), ca.horzsplit(q, d)):
        logs = ca.diag(above)
        y = ca.mtimes(ca.tril(above.T, False) + ca.diag(ca.exp(logs)), x - ca.repmat(mean, 1, n))
        inner.append(alpha + ca.sum1(logs) - 0.5 * ca.sum1(y**2))
    top = inner[0]
    for row in inner[1:]:
        top = ca.fmax(top, row)
    each = ca.log(sum(ca.exp(row - top) for row in inner)) + top
    total = ca.sum2(each) - n * ca.logsumexp(a)
    call = bound(
        function([a, m, q, x], [total, *(ca.gradient(total, v) for v in (a, m, q))]),
        (alphas, means.T, factors.reshape(k * d, d).T, points.T),
        [(), (k,), (d, k), (d, d * k)],
    )

    def value_and_grad(alphas, means, factors, x):
        value, d_alphas, d_means, d_factors = call(alphas, means.T, factors.reshape(k * d, d).T, x.T)
        return value, (d_alphas, d_means.T, d_factors.T.reshape(k, d, d))

    return value_and_grad, p.args


def state(p):
    def density(*args):
        return problems.density(*args, lib=ca)

    return elementwise(density, 1, slice(1, None), p), p.args


def chain(p):
    return elementwise(lambda x: problems.chain(x, p.sizes[0]), 1, slice(1, None), p), p.args


def orbit(p):
    steps = p.sizes[0]
    state, rates = ca.SX.sym("state", 2), ca.SX.sym("rates", 4)
    ahead = ca.vertcat(*problems.runge_kutta(state[0], state[1], ca.vertsplit(rates), 10.0 / steps))
    many = ca.Function("step", [state, rates], [ahead]).mapaccum(steps, {"base": 100})  # its loop
    start, rates = ca.MX.sym("start", 2), ca.MX.sym("rates", 4)
    last = many(start, ca.repmat(rates, 1, steps))[:, -1]
    value = last[0] ** 2 + last[1]
    grads = function([start, rates], [value, ca.gradient(value, start), ca.gradient(value, rates)])
    return bound(grads, p.args, [(), (2,), (4,)]), p.args


def tiny(p):
    params, x = p.args
    flat = problems.leaves(params)
    symbols = [ca.MX.sym(f"p{i}", *(a.shape if a.ndim == 2 else (1, a.size))) for i, a in enumerate(flat)]
    data = y = ca.MX.sym("x", *x.shape)
    for w, b in zip(symbols[::2], symbols[1::2]):
        y = ca.tanh(ca.mtimes(y, w) + ca.repmat(b, x.shape[0], 1))
    mean = ca.sum1(y) / x.shape[0]
    grads = function([*symbols, data], [mean, *(ca.gradient(mean, s) for s in symbols)])
    call = bound(grads, [*flat, x], [(), *(a.shape for a in flat)])

    def value_and_grad(params, x):
        value, *rest = call(*problems.leaves(params), x)
        return value, list(zip(rest[::2], rest[1::2]))

    return value_and_grad, p.args


def recurrent(p):
    params, xs = p.args
    steps, batch, inputs = xs.shape
    names = sorted(params)
    symbols = {k: ca.MX.sym(k, *np.atleast_2d(params[k].T).T.shape) for k in names}
    data = ca.MX.sym("xs", inputs, steps * batch)  # states are columns, so that all arrays are copied as they are
    driven = ca.mtimes(symbols["x"].T, data) + ca.repmat(symbols["b"], 1, steps * batch)
    h = ca.MX.zeros(params["h"].shape[0], batch)
    for each in ca.horzsplit(driven, batch):
        h = ca.tanh(each + ca.mtimes(symbols["h"].T, h))
    mean = ca.sumsqr(h) / h.numel()
    grads = function([*symbols.values(), data], [mean, *(ca.gradient(mean, s) for s in symbols.values())])
    call = bound(grads, [*(params[k] for k in names), xs.reshape(-1, inputs).T], [(), *(params[k].shape for k in names)])

    def value_and_grad(params, xs):
        value, *rest = call(*(params[k] for k in names), xs.reshape(-1, inputs).T)
        return value, dict(zip(names, rest))

    return value_and_grad, p.args
