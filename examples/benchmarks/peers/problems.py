"""The computations that tools are compared on: families, sizes, seeded arguments, and results from an independent source.

A `Problem` is one family at one size. Every process makes the same arguments from the same seed. `reference` computes what a
tool must return, as a flat list of arrays: NumPy with the gradient by hand, or a complex step (exact to rounding for analytic
elementwise functions: the imaginary part of f(x + ih) is h f'(x), with nothing subtracted).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr

CHAIN = 1000  # operations of the chain whose steady call is timed
HEADS = 4
STEPS = 10_000  # of the hares and lynxes
BLOCK = 1 << 14  # elements at a time of a complex step, so that its intermediates stay in a cache


@dataclass(frozen=True)
class Problem:
    """One computation at one size.

    family: name of the function in each with_NAME module. sizes: what that function may read. make: (rng, *sizes) -> arguments.
    solve: (*arguments) -> nest of expected results. kind: "overhead", "loops" or "blas", what the time goes into.
    """

    family: str
    title: str
    size: str
    sizes: tuple
    make: Callable
    solve: Callable
    kind: str
    rtol: float = 1e-8
    quick: bool = False  # part of the short run

    @property
    def name(self) -> str:
        """What `--only` is matched against."""
        return f"{self.title} {self.size}"

    @cached_property
    def args(self) -> tuple:
        """The arguments, the same in every process."""
        return self.make(np.random.default_rng(zlib.crc32(self.name.encode())), *self.sizes)

    def reference(self) -> list:
        """The expected results, flat."""
        return flatten(self.solve(*self.args))


def leaves(nest) -> list:
    """What tuples, lists and dicts (by sorted key) hold."""
    if isinstance(nest, dict):
        nest = [nest[k] for k in sorted(nest)]
    return [leaf for part in nest for leaf in leaves(part)] if isinstance(nest, (tuple, list)) else [nest]


def flatten(nest) -> list:
    """The leaves as NumPy arrays."""
    return [np.asarray(leaf) for leaf in leaves(nest)]


def complex_step(f, *args, argnums):
    """Derivatives of an elementwise analytic function with respect to some of its arguments."""
    slopes = [np.empty_like(args[a]) for a in argnums]
    for start in range(0, args[0].size, BLOCK):
        part = [a[start : start + BLOCK] for a in args]
        for slope, a in zip(slopes, argnums):
            moved = [p + 1e-30j if i == a else p for i, p in enumerate(part)]
            slope[start : start + BLOCK] = f(*moved).imag / 1e-30
    return slopes


# ---- elementwise -------------------------------------------------------------------------------------------------------
def sin_squared(order):
    """The derivative of that order of sin(x)**2, by hand."""
    return {
        1: lambda x: 2.0 * np.sin(x) * np.cos(x),
        2: lambda x: 2.0 * (np.cos(x) ** 2 - np.sin(x) ** 2),
        3: lambda x: -8.0 * np.sin(x) * np.cos(x),
    }[order]


def option_data(rng, n):
    """Spot, strike, volatility, years, rate."""
    return tuple(rng.uniform(low, high, n) for low, high in ((50, 150), (50, 150), (0.1, 0.5), (0.1, 2.0), (0.0, 0.1)))


def greeks(spot, strike, volatility, years, rate):
    """Prices of European calls and their derivatives with respect to each argument, by the closed formulas."""
    root = np.sqrt(years)
    spread = volatility * root
    d1 = (np.log(spot / strike) + rate * years) / spread + 0.5 * spread
    p1, p2 = ndtr(d1), ndtr(d1 - spread)
    due = strike * np.exp(-rate * years) * p2
    density = spot * np.exp(-0.5 * d1 * d1) * (2.0 * np.pi) ** -0.5
    by_years = 0.5 * density * volatility / root + rate * due
    return spot * p1 - due, (p1, -due / strike, density * root, by_years, years * due)


def coefficients(planes):
    """A polynomial of the equation of state: by powers of pressure, of the root of salinity, of temperature."""
    c = np.random.default_rng(planes).standard_normal((planes, 4, 4)) * 0.05
    c[0, 0, 0] = 1.0
    return c.tolist()


TOP, BOTTOM = coefficients(4), coefficients(3)


def horner(terms, x):
    """sum(terms[i] * x**i)."""
    total = terms[-1]
    for term in terms[-2::-1]:
        total = total * x + term
    return total


def density(salinity, temperature, pressure, lib=np):
    """An equation of state of the shape that ocean models use: a ratio of polynomials, 112 terms, and an exponential.

    lib: whose `sqrt` and `exp` to use.
    """
    root = lib.sqrt(salinity)
    top, bottom = (
        horner([horner([horner(row, temperature) for row in plane], root) for plane in planes], pressure)
        for planes in (TOP, BOTTOM)
    )
    return top / bottom + 0.02 * lib.exp(-pressure * temperature)


def chain(x, length):
    """A number of cheap operations, each on the result of the one before."""
    w, y = x + 1.0, x
    for _ in range(length // 4):
        y = y * x
        y = y + 0.5
        y = y - w
        y = y / w
    return y


# ---- a long loop ------------------------------------------------------------------------------------------------------
def slopes_of(x, y, rates):
    """Time derivatives of hares and lynxes (Lotka and Volterra)."""
    a, b, c, d = rates
    return a * x - b * x * y, d * x * y - c * y


def runge_kutta(x, y, rates, h):
    """One step of the classical method."""
    k1, l1 = slopes_of(x, y, rates)
    k2, l2 = slopes_of(x + 0.5 * h * k1, y + 0.5 * h * l1, rates)
    k3, l3 = slopes_of(x + 0.5 * h * k2, y + 0.5 * h * l2, rates)
    k4, l4 = slopes_of(x + h * k3, y + h * l3, rates)
    return x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4), y + h / 6.0 * (l1 + 2.0 * l2 + 2.0 * l3 + l4)


def orbit(start, rates, steps):
    """x*x + y after that many steps to time 10, as a plain loop."""
    (x, y), h = start, 10.0 / steps
    for _ in range(steps):
        x, y = runge_kutta(x, y, rates, h)
    return x * x + y


def orbit_by_steps(start, rates, steps):
    """Value and gradients by complex steps."""
    given = [complex(v) for v in (*start, *rates)]
    slopes = []
    for i in range(6):
        moved = [v + 1e-30j * (k == i) for k, v in enumerate(given)]
        found = orbit(moved[:2], moved[2:], steps)
        slopes.append(found.imag / 1e-30)
    return found.real, (np.array(slopes[:2]), np.array(slopes[2:]))


# ---- reductions --------------------------------------------------------------------------------------------------------
def rosenbrock(x):
    """Value and gradient."""
    bend, rest = x[1:] - x[:-1] ** 2, 1.0 - x[:-1]
    slope = np.zeros_like(x)
    slope[:-1] = -400.0 * x[:-1] * bend - 2.0 * rest
    slope[1:] += 200.0 * bend
    return np.sum(100.0 * bend**2 + rest**2), slope


def rosenbrock_hessian(x):
    """Its second derivatives."""
    diagonal = np.zeros_like(x)
    diagonal[:-1] = 1200.0 * x[:-1] ** 2 - 400.0 * x[1:] + 2.0
    diagonal[1:] += 200.0
    beside = -400.0 * x[:-1]
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)


def logistic_data(rng, rows, columns):
    """Weights, features, labels of -1 and 1."""
    x, w = rng.standard_normal((rows, columns)), rng.standard_normal(columns)
    return w, x, np.sign(x @ w + rng.standard_normal(rows))


def logistic(w, x, y):
    """Mean logistic loss and its gradient."""
    margins = y * (x @ w)
    return np.mean(np.logaddexp(0.0, -margins)), -((y / (1.0 + np.exp(margins))) @ x) / len(y)


def log_sum_exp(a):
    """log(sum(exp(a))) over the last axis."""
    top = np.max(a, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(a - top), axis=-1)) + top[..., 0]


def mixture_data(rng, d, k, n):
    """Alphas [K], means [K, d], factors [K, d, d], points [n, d]."""
    alphas, means, factors, x = (rng.standard_normal(shape) for shape in ((k,), (k, d), (k, d, d), (n, d)))
    return alphas, means, 0.5 * factors, x


def mixture(alphas, means, factors, x):
    """Log-likelihood (less its constant) of a Gaussian mixture and its gradient.

    As in ADBench, weights are softmax(alphas) and an inverse covariance is Q'Q of a triangular Q: factors hold it below the
    diagonal, the logs of its diagonal on it, and anything above.
    """
    n, d = x.shape
    logs = np.einsum("kii->ki", factors)
    q = np.tril(factors, -1) + np.exp(logs)[:, :, None] * np.eye(d)
    centered = x - means[:, None]
    y = centered @ q.transpose(0, 2, 1)  # [K, n, d]
    inner = (alphas + logs.sum(1))[:, None] - 0.5 * np.sum(y * y, axis=2)
    each, total = log_sum_exp(inner.T), log_sum_exp(alphas)
    shares = np.exp(inner - each)
    weighted = shares[:, :, None] * y
    d_factors = np.tril(-weighted.transpose(0, 2, 1) @ centered)
    on_diagonal = np.einsum("kii->ki", d_factors) * np.exp(logs) + shares.sum(1)[:, None]
    d_factors = np.tril(d_factors, -1) + on_diagonal[:, :, None] * np.eye(d)
    d_means = np.einsum("kij,ki->kj", q, weighted.sum(1))
    return np.sum(each) - n * total, (shares.sum(1) - n * np.exp(alphas - total), d_means, d_factors)


# ---- networks ----------------------------------------------------------------------------------------------------------
def tiny_data(rng, batch):
    """(weights, biases) of each layer, inputs."""
    sizes = (2, 16, 16, 1)
    return [(0.5 * rng.standard_normal(s), np.zeros(s[1])) for s in zip(sizes, sizes[1:])], rng.standard_normal((batch, 2))


def tiny(params, x):
    """Mean output of tanh layers and its gradient."""
    layers = [x]
    for w, b in params:
        layers.append(np.tanh(layers[-1] @ w + b))
    grads = []
    d = np.full(layers[-1].shape, 1.0 / layers[-1].size)
    for (w, _), below, above in zip(params[::-1], layers[-2::-1], layers[:0:-1]):
        d = d * (1.0 - above**2)
        grads.append((below.T @ d, d.sum(0)))
        d = d @ w.T
    return np.mean(layers[-1]), grads[::-1]


def classifier_data(rng, batch):
    """Parameters, pixels, one-hot labels, all float32."""
    params = {
        "w1": 0.05 * rng.standard_normal((784, 128)),
        "b1": np.zeros(128),
        "w2": 0.1 * rng.standard_normal((128, 10)),
        "b2": np.zeros(10),
    }
    params = {k: v.astype(np.float32) for k, v in params.items()}
    return params, rng.random((batch, 784), np.float32), np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)]


def classifier(params, x, y):
    """Mean cross-entropy of a relu layer and a softmax layer, and the parameters after a step of 0.1 down its gradient."""
    p = {k: v.astype(float) for k, v in params.items()}
    hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
    logits = hidden @ p["w2"] + p["b2"]
    each = log_sum_exp(logits)
    d = (np.exp(logits - each[:, None]) - y) / len(x)
    d_hidden = (d @ p["w2"].T) * (hidden > 0)
    grads = {"w1": x.T @ d_hidden, "b1": d_hidden.sum(0), "w2": hidden.T @ d, "b2": d.sum(0)}
    return np.mean(each - np.sum(logits * y, axis=1)), {k: p[k] - 0.1 * grads[k] for k in p}


def recurrent_data(rng, steps, batch, inputs, hidden):
    """Parameters and inputs [steps, batch, inputs]."""
    params = {
        "x": 0.2 * rng.standard_normal((inputs, hidden)),
        "h": 0.1 * rng.standard_normal((hidden, hidden)),
        "b": np.zeros(hidden),
    }
    return params, rng.standard_normal((steps, batch, inputs))


def recurrent(params, xs):
    """Mean square of the last state of a tanh RNN, and its gradient by back-propagation through time."""
    states = [np.zeros((xs.shape[1], params["h"].shape[0]))]
    for x in xs:
        states.append(np.tanh(x @ params["x"] + states[-1] @ params["h"] + params["b"]))
    grads = {k: np.zeros_like(v) for k, v in params.items()}
    d = 2.0 * states[-1] / states[-1].size
    for t in range(len(xs) - 1, -1, -1):
        d = d * (1.0 - states[t + 1] ** 2)
        grads["x"] += xs[t].T @ d
        grads["h"] += states[t].T @ d
        grads["b"] += d.sum(0)
        d = d @ params["h"].T
    return np.mean(states[-1] ** 2), grads


def attention_data(rng, tokens, width):
    """Tokens, then the weights of queries, keys, values and output, all float32."""
    weights = [(rng.standard_normal((width, width)) / width**0.5).astype(np.float32) for _ in range(4)]
    return rng.standard_normal((tokens, width), np.float32), *weights


def attention(x, wq, wk, wv, wo):
    """Mean square of the output of a softmax attention block, and its gradient with respect to tokens and weights."""
    x, wq, wk, wv, wo = (a.astype(float) for a in (x, wq, wk, wv, wo))
    tokens, width = x.shape

    def heads(a):
        return a.reshape(tokens, HEADS, -1).transpose(1, 0, 2)

    def merged(a):
        return a.transpose(1, 0, 2).reshape(tokens, width)

    q, k, v = heads(x @ wq), heads(x @ wk), heads(x @ wv)
    scale = (width // HEADS) ** -0.5
    scores = scale * q @ k.transpose(0, 2, 1)
    shares = np.exp(scores - log_sum_exp(scores)[..., None])
    mixed = merged(shares @ v)
    out = mixed @ wo
    d_out = 2.0 * out / out.size
    d_mixed = heads(d_out @ wo.T)
    d_shares = d_mixed @ v.transpose(0, 2, 1)
    d_scores = scale * shares * (d_shares - np.sum(d_shares * shares, axis=-1, keepdims=True))
    dq, dk, dv = merged(d_scores @ k), merged(d_scores.transpose(0, 2, 1) @ q), merged(shares.transpose(0, 2, 1) @ d_mixed)
    return np.mean(out**2), (dq @ wq.T + dk @ wk.T + dv @ wv.T, x.T @ dq, x.T @ dk, x.T @ dv, mixed.T @ d_out)


# ---- the list ----------------------------------------------------------------------------------------------------------
def count(n):
    """A length as people write it."""
    return {10**6: "1e6", 4 << 20: "4M", 4 << 10: "4k", 64 << 10: "64k"}.get(n, str(n))


def chain_problem(length):
    """The gradient of a chain of that many operations on 10 numbers."""
    return Problem(
        "chain",
        f"chain of {length:,}",
        "n=10",
        (length,),
        lambda rng, _: (rng.uniform(0.5, 1.0, 10),),
        lambda x: complex_step(lambda z: chain(z, length), x, argnums=(0,)),
        "overhead",
        quick=length == CHAIN,
    )


def problems() -> list[Problem]:
    """Every problem at every size."""
    listed = [
        Problem("scalar", "d sin(x)^2", "float", (), lambda rng: (0.7,), lambda x: sin_squared(1)(x), "overhead", quick=True)
    ]
    for order in (1, 2, 3):
        for n in (100, 10**6):
            listed.append(
                Problem(
                    "sin_squared",
                    f"d{order} sin(x)^2" if order > 1 else "d sin(x)^2",
                    f"n={count(n)}",
                    (order, n),
                    lambda rng, _, n: (rng.uniform(-6.0, 6.0, n),),
                    sin_squared(order),
                    "overhead" if n == 100 else "loops",
                    quick=n == 100 and order == 1,
                )
            )
    for n in (2, 10, 1000, 10**6):
        kind = "overhead" if n <= 100 else "loops"
        make = lambda rng, n: (rng.standard_normal(n),)
        listed.append(Problem("rosenbrock", "rosenbrock", f"n={count(n)}", (n,), make, rosenbrock, kind, quick=n in (10, 1000)))
    for n in (10, 100):
        make = lambda rng, n: (rng.standard_normal(n),)
        listed.append(
            Problem("hessian", "rosenbrock Hessian", f"n={n}", (n,), make, rosenbrock_hessian, "overhead", quick=n == 10)
        )
    for n in (1000, 10**6):
        listed.append(
            Problem("options", "Black-Scholes, 5 Greeks", f"n={count(n)}", (n,), option_data, greeks, "loops", quick=n == 1000)
        )
    for shape in ((100, 5), (1000, 20), (100_000, 100)):
        size = f"{shape[0]}x{shape[1]}"
        kind = "overhead" if shape[0] <= 100 else "loops"
        listed.append(
            Problem("logistic", "logistic regression", size, shape, logistic_data, logistic, kind, quick=shape[0] == 1000)
        )
    for shape in ((2, 5, 1000), (10, 25, 1000), (20, 25, 10_000)):
        size = "d{} K{} n{}".format(*shape)
        listed.append(Problem("mixture", "GMM", size, shape, mixture_data, mixture, "loops", quick=shape[0] == 2))
    for n in (4 << 10, 64 << 10, 4 << 20):
        make = lambda rng, n: tuple(rng.uniform(0.1, 1.0, n) for _ in range(3))
        solve = lambda *args: complex_step(density, *args, argnums=(0, 1, 2))
        listed.append(Problem("state", "equation of state", f"n={count(n)}", (n,), make, solve, "loops", quick=n == 4 << 10))
    listed.append(chain_problem(CHAIN))
    make = lambda rng, steps: (np.array([1.0, 1.2]), np.array([1.5, 1.0, 3.0, 1.0]))
    solve = lambda start, rates: orbit_by_steps(start, rates, STEPS)
    title = "Lotka-Volterra RK4, loop"
    listed.append(Problem("orbit", title, f"{STEPS:,} steps", (STEPS,), make, solve, "loops", rtol=1e-7))
    listed.append(Problem("tiny", "MLP 2-16-16-1", "batch 16", (16,), tiny_data, tiny, "overhead", quick=True))
    for batch in (32, 256):
        title, size = "MLP 784-128-10 f32 step", f"batch {batch}"
        listed.append(
            Problem("classifier", title, size, (batch,), classifier_data, classifier, "blas", rtol=2e-4, quick=batch == 32)
        )
    shape = (20, 32, 32, 64)
    listed.append(Problem("recurrent", "tanh RNN 20 steps", "b32 32-64", shape, recurrent_data, recurrent, "blas"))
    title = f"attention {HEADS} heads f32"
    listed.append(Problem("attention", title, "128x64", (128, 64), attention_data, attention, "blas", rtol=2e-4))
    return listed


def find(name) -> Problem:
    """The problem of that name, chains of any length included."""
    if name.startswith("chain of "):
        return chain_problem(int(name.split()[2].replace(",", "")))
    return next(p for p in problems() if p.name == name)
