"""HIPS autograd: value_and_grad, elementwise_grad, hessian of functions over autograd.numpy, recorded anew at each call.

NumPy arrays in, NumPy arrays out.
"""

from importlib.metadata import version

import autograd
import autograd.numpy as np
from autograd.scipy.special import logsumexp
from autograd.scipy.stats import norm

from . import problems

VERSION = version("autograd")
SKIP = {("state", "n=4M"): "it keeps some 250 arrays of 32 MB", "orbit": "240 ms for 100 steps"}


def square(x):
    return np.sin(x) ** 2


def valley(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def value_and_grads(f, argnums):
    """Value and gradients of several arguments; an array as value is differentiated through its sum."""
    differentiated = autograd.make_vjp(f, argnums)

    def call(*args):
        pullback, value = differentiated(*args)
        return value, pullback(np.ones(np.shape(value)))

    return call


def scalar(p):
    return autograd.grad(square), p.args


def sin_squared(p):
    f = square
    for _ in range(p.sizes[0]):
        f = autograd.elementwise_grad(f)
    return f, p.args


def rosenbrock(p):
    return autograd.value_and_grad(valley), p.args


def hessian(p):
    return autograd.hessian(valley), p.args


def options(p):
    def price(spot, strike, volatility, years, rate):
        spread = volatility * np.sqrt(years)
        d1 = (np.log(spot / strike) + rate * years) / spread + 0.5 * spread
        return spot * norm.cdf(d1) - strike * np.exp(-rate * years) * norm.cdf(d1 - spread)

    return value_and_grads(price, (0, 1, 2, 3, 4)), p.args


def logistic(p):
    def loss(w, x, y):
        return np.mean(np.logaddexp(0.0, -y * np.dot(x, w)))

    return autograd.value_and_grad(loss), p.args


def mixture(p):
    def likelihood(alphas, means, factors, x):
        logs = np.diagonal(factors, axis1=-1, axis2=-2)
        q = np.tril(factors, -1) + np.exp(logs)[:, :, None] * np.eye(x.shape[1])
        y = np.matmul(x - means[:, None], np.transpose(q, (0, 2, 1)))
        inner = np.reshape(alphas + np.sum(logs, axis=1), (-1, 1)) - 0.5 * np.sum(y**2, axis=2)
        return np.sum(logsumexp(inner, axis=0)) - len(x) * logsumexp(alphas)

    return value_and_grads(likelihood, (0, 1, 2)), p.args


def state(p):
    def density(*args):
        return problems.density(*args, lib=np)

    return autograd.elementwise_grad(density, (0, 1, 2)), p.args


def chain(p):
    length = p.sizes[0]
    return autograd.elementwise_grad(lambda x: problems.chain(x, length)), p.args


def tiny(p):
    def mean_output(params, x):
        for w, b in params:
            x = np.tanh(np.dot(x, w) + b)
        return np.mean(x)

    return autograd.value_and_grad(mean_output), p.args


def classifier(p):
    def loss(params, x, y):
        hidden = np.maximum(np.dot(x, params["w1"]) + params["b1"], 0)
        logits = np.dot(hidden, params["w2"]) + params["b2"]
        return np.mean(logsumexp(logits, axis=1) - np.sum(logits * y, axis=1))

    differentiated = autograd.value_and_grad(loss)

    def step(params, x, y):
        value, grads = differentiated(params, x, y)
        return value, {k: params[k] - 0.1 * grads[k] for k in params}

    return step, p.args


def recurrent(p):
    def last_state(params, xs):
        driven = np.dot(xs, params["x"]) + params["b"]
        h = np.zeros(driven.shape[1:])
        for t in range(len(xs)):
            h = np.tanh(driven[t] + np.dot(h, params["h"]))
        return np.mean(h**2)

    return autograd.value_and_grad(last_state), p.args


def attention(p):
    def block(x, wq, wk, wv, wo):
        tokens, width = x.shape
        q, k, v = (np.transpose(np.reshape(np.dot(x, w), (tokens, problems.HEADS, -1)), (1, 0, 2)) for w in (wq, wk, wv))
        scores = np.matmul(q, np.transpose(k, (0, 2, 1))) * (width // problems.HEADS) ** -0.5
        shares = np.exp(scores - logsumexp(scores, axis=-1, keepdims=True))
        mixed = np.reshape(np.transpose(np.matmul(shares, v), (1, 0, 2)), (tokens, width))
        return np.mean(np.dot(mixed, wo) ** 2)

    return value_and_grads(block, (0, 1, 2, 3, 4)), p.args
