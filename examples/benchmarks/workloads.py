"""The workloads of the benchmarks: NumPy functions, their arguments by size, and the same with the gradient by hand."""

from functools import partial

import numpy as np
from scipy.special import ndtr

import tapejit
from tapejit.bench import (
    Workload,
    logistic,
    logistic_by_hand,
    rosenbrock,
    rosenbrock_by_hand,
    sin_squared,
    sin_squared_slope,
)


# ---- derivatives of sin(x)**2 ------------------------------------------------------------------------------------------
def derivative(order):
    """The transform that differentiates so many times."""

    def transform(f):
        for _ in range(order):
            f = tapejit.grad(f)
        return f

    return transform


def second_by_hand(x):
    """d2/dx2 sin(x)**2."""
    s, c = np.sin(x), np.cos(x)
    return 2.0 * (c * c - s * s)


def third_by_hand(x):
    """d3/dx3 sin(x)**2."""
    return -8.0 * np.sin(x) * np.cos(x)


# ---- Black-Scholes -----------------------------------------------------------------------------------------------------
def call_price(spot, strike, volatility, years, rate):
    """European calls, one per element."""
    spread = volatility * np.sqrt(years)
    d1 = (np.log(spot / strike) + rate * years) / spread + 0.5 * spread
    return spot * ndtr(d1) - strike * np.exp(-rate * years) * ndtr(d1 - spread)


def greeks_by_hand(spot, strike, volatility, years, rate):
    """(prices, derivatives with respect to each argument), by the closed formulas."""
    root = np.sqrt(years)
    spread = volatility * root
    d1 = (np.log(spot / strike) + rate * years) / spread + 0.5 * spread
    p1, p2 = ndtr(d1), ndtr(d1 - spread)
    discount = np.exp(-rate * years)
    density = spot * np.exp(-0.5 * d1 * d1) * (2.0 * np.pi) ** -0.5
    due = strike * discount * p2
    by_years = 0.5 * density * volatility / root + rate * due
    return spot * p1 - due, (p1, -discount * p2, density * root, by_years, years * due)


# ---- Gaussian mixture with diagonal precisions -------------------------------------------------------------------------
def mixture(alphas, means, logs, x):
    """Log-likelihood, without its constant, of weights softmax(alphas) and inverse scales exp(logs)."""
    scaled = np.exp(logs) * (x[:, None, :] - means)
    inner = alphas + np.sum(logs, axis=1) - 0.5 * np.sum(scaled**2, axis=2)
    return np.sum(log_sum_exp(inner)) - len(x) * log_sum_exp(alphas)


def log_sum_exp(a):
    """log(sum(exp(a))) over the last axis."""
    top = np.max(a, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(a - top), axis=-1)) + top[..., 0]


def mixture_by_hand(alphas, means, logs, x):
    """(value, gradients of alphas, means, logs)."""
    scale = np.exp(logs)
    scaled = scale * (x[:, None, :] - means)
    inner = alphas + np.sum(logs, axis=1) - 0.5 * np.sum(scaled**2, axis=2)
    each, total = log_sum_exp(inner), log_sum_exp(alphas)
    shares = np.exp(inner - each[:, None])
    d_alphas = shares.sum(0) - len(x) * np.exp(alphas - total)
    d_means = np.einsum("nk,nkd->kd", shares, scaled) * scale
    d_logs = shares.sum(0)[:, None] - np.einsum("nk,nkd->kd", shares, scaled**2)
    return np.sum(each) - len(x) * total, (d_alphas, d_means, d_logs)


# ---- networks ----------------------------------------------------------------------------------------------------------
def recurrent(params, xs):
    """Mean square of the last state of a tanh RNN; xs is [steps, batch, inputs]."""
    h = np.zeros((xs.shape[1], params["h"].shape[0]))
    for t in range(xs.shape[0]):
        h = np.tanh(xs[t] @ params["x"] + h @ params["h"] + params["b"])
    return np.mean(h * h)


def recurrent_by_hand(params, xs):
    """(value, gradients) by back-propagation through time."""
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


def classifier(params, x, y):
    """Mean cross-entropy of a relu layer and a softmax layer; y is one-hot."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    logits = hidden @ params["w2"] + params["b2"]
    return np.mean(log_sum_exp(logits) - np.sum(logits * y, axis=1))


def sgd_step(f):
    """(loss, parameters after a step of gradient descent), as one compiled function."""

    def step(params, x, y):
        value, grads = tapejit.value_and_grad(f)(params, x, y)
        return value, {k: params[k] - 0.1 * grads[k] for k in params}

    return tapejit.jit(step)


def sgd_step_by_hand(params, x, y):
    """The same in NumPy."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    logits = hidden @ params["w2"] + params["b2"]
    each = log_sum_exp(logits)
    d = (np.exp(logits - each[:, None]) - y) / np.float32(len(x))
    d_hidden = (d @ params["w2"].T) * (hidden > 0)
    grads = {"w1": x.T @ d_hidden, "b1": d_hidden.sum(0), "w2": hidden.T @ d, "b2": d.sum(0)}
    return np.mean(each - np.sum(logits * y, axis=1)), {k: params[k] - 0.1 * grads[k] for k in params}


def tiny(params, x):
    """Mean output of a network of three tanh layers; params is a list of (weights, biases)."""
    for w, b in params:
        x = np.tanh(x @ w + b)
    return np.mean(x)


def tiny_by_hand(params, x):
    """(value, gradients)."""
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


# ---- the list ----------------------------------------------------------------------------------------------------------
def logistic_data(rng, rows, columns):
    """(weights, features, labels)."""
    x, w = rng.standard_normal((rows, columns)), rng.standard_normal(columns)
    return w, x, np.sign(x @ w + rng.standard_normal(rows))


def option_data(rng, n):
    """Spot, strike, volatility, years, rate."""
    return tuple(rng.uniform(low, high, n) for low, high in ((50, 150), (50, 150), (0.1, 0.5), (0.1, 2.0), (0.0, 0.1)))


def mixture_data(rng, d, k, n):
    """Alphas, means, logs of inverse scales, points."""
    return tuple(rng.standard_normal(shape) for shape in ((k,), (k, d), (k, d), (n, d)))


def recurrent_data(rng, steps=20, batch=32, inputs=32, hidden=64):
    """Parameters and inputs."""
    params = {
        "x": 0.2 * rng.standard_normal((inputs, hidden)),
        "h": 0.1 * rng.standard_normal((hidden, hidden)),
        "b": np.zeros(hidden),
    }
    return params, rng.standard_normal((steps, batch, inputs))


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


def tiny_data(rng, batch=16):
    """Parameters and inputs."""
    sizes = (2, 16, 16, 1)
    return [(0.5 * rng.standard_normal(s), np.zeros(s[1])) for s in zip(sizes, sizes[1:])], rng.standard_normal((batch, 2))


def workloads(quick=False) -> list[Workload]:
    """Every workload at every size; with `quick`, without the large sizes."""
    rng = np.random.default_rng(0)
    both = tapejit.value_and_grad
    loads = [Workload("d sin(x)**2", "float", sin_squared, tapejit.grad, (1.0,), sin_squared_slope)]
    for n in (100,) if quick else (100, 1_000_000):
        x = np.linspace(-2 * np.pi, 2 * np.pi, n)
        for order, by_hand in enumerate((sin_squared_slope, second_by_hand, third_by_hand), 1):
            name = f"d{order if order > 1 else ''} sin(x)**2"
            loads.append(Workload(name, f"n={n}", sin_squared, derivative(order), (x,), by_hand))
    for n in (2, 10, 1000) if quick else (2, 10, 1000, 1_000_000):
        loads.append(Workload("rosenbrock", f"n={n}", rosenbrock, both, (rng.standard_normal(n),), rosenbrock_by_hand))
    for shape in ((100, 5), (1000, 20)) if quick else ((100, 5), (1000, 20), (100_000, 100)):
        size, data = f"{shape[0]}x{shape[1]}", logistic_data(rng, *shape)
        loads.append(Workload("logistic regression", size, logistic, both, data, logistic_by_hand))
    greeks = partial(both, argnums=(0, 1, 2, 3, 4))
    for n in (1000,) if quick else (1000, 1_000_000):
        loads.append(Workload("Black-Scholes, 5 Greeks", f"n={n}", call_price, greeks, option_data(rng, n), greeks_by_hand))
    for d, k, n in ((2, 5, 1000),) if quick else ((2, 5, 1000), (10, 25, 1000)):
        size, data = f"d{d} K{k} n{n}", mixture_data(rng, d, k, n)
        loads.append(Workload("GMM log-likelihood", size, mixture, partial(both, argnums=(0, 1, 2)), data, mixture_by_hand))
    loads.append(Workload("tanh RNN, 20 steps", "b32 32-64", recurrent, both, recurrent_data(rng), recurrent_by_hand))
    for batch in (32,) if quick else (32, 256):
        data = classifier_data(rng, batch)
        loads.append(
            Workload("MLP 784-128-10 f32 step", f"batch {batch}", classifier, sgd_step, data, sgd_step_by_hand, rtol=2e-4)
        )
    loads.append(Workload("MLP 2-16-16-1", "batch 16", tiny, both, tiny_data(rng), tiny_by_hand))
    return loads
