"""tapejit: plain NumPy functions and `tapejit.grad`, `value_and_grad`, `hessian`, `jit`."""

import numpy as np
import workloads

import tapejit
from tapejit import bench

from . import problems

VERSION = tapejit.__version__
SKIP = {}


def scalar(p):
    return tapejit.grad(bench.sin_squared), p.args


def sin_squared(p):
    f = bench.sin_squared
    for _ in range(p.sizes[0]):
        f = tapejit.grad(f)
    return f, p.args


def rosenbrock(p):
    return tapejit.value_and_grad(bench.rosenbrock), p.args


def hessian(p):
    return tapejit.hessian(bench.rosenbrock), p.args


def options(p):
    return tapejit.value_and_grad(workloads.call_price, argnums=(0, 1, 2, 3, 4)), p.args


def logistic(p):
    return tapejit.value_and_grad(bench.logistic), p.args


def mixture(p):
    def likelihood(alphas, means, factors, x):
        logs = np.diagonal(factors, axis1=1, axis2=2)
        q = np.tril(factors, -1) + np.exp(logs)[:, :, None] * np.eye(x.shape[1])
        y = (x - means[:, None]) @ np.transpose(q, (0, 2, 1))
        inner = (alphas + np.sum(logs, axis=1))[:, None] - 0.5 * np.sum(y**2, axis=2)
        return np.sum(workloads.log_sum_exp(inner.T)) - len(x) * workloads.log_sum_exp(alphas)

    return tapejit.value_and_grad(likelihood, argnums=(0, 1, 2)), p.args


def state(p):
    return tapejit.grad(problems.density, argnums=(0, 1, 2)), p.args


def chain(p):
    length = p.sizes[0]
    return tapejit.grad(lambda x: problems.chain(x, length)), p.args


def orbit(p):
    steps = p.sizes[0]
    return tapejit.value_and_grad(lambda start, rates: problems.orbit(start, rates, steps), argnums=(0, 1)), p.args


def tiny(p):
    return tapejit.value_and_grad(workloads.tiny), p.args


def classifier(p):
    return workloads.sgd_step(workloads.classifier), p.args


def recurrent(p):
    return tapejit.value_and_grad(workloads.recurrent), p.args


def attention(p):
    def block(x, wq, wk, wv, wo):
        tokens, width = x.shape
        q, k, v = (np.transpose(np.reshape(x @ w, (tokens, problems.HEADS, -1)), (1, 0, 2)) for w in (wq, wk, wv))
        scores = q @ np.transpose(k, (0, 2, 1)) * (width // problems.HEADS) ** -0.5
        shares = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        shares = shares / np.sum(shares, axis=-1, keepdims=True)
        return np.mean((np.reshape(np.transpose(shares @ v, (1, 0, 2)), (tokens, width)) @ wo) ** 2)

    return tapejit.value_and_grad(block, argnums=(0, 1, 2, 3, 4)), p.args
