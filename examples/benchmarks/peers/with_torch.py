"""PyTorch, twice: eager (`torch.autograd.grad`) and compiled (`torch.compile` of `torch.func` transforms).

The compiled variant gets value and gradients as one graph, with static shapes. Arguments are tensors; the eager variant's are
leaves that require gradients, as parameters do. `VARIANT` is set by the worker before a problem is built.
"""

import functools

import numpy as np
import torch
from torch.func import grad, grad_and_value, vmap
from torch.nn import functional

from . import problems

VERSION = torch.__version__
VARIANT = "compiled"
SKIP = {"orbit": "86 ms for 100 steps; torch.compile has not compiled 100 after 4 minutes"}

compiled = functools.partial(torch.compile, dynamic=False, fullgraph=True)


def forget():
    """Drop what is compiled: functions of one origin share a limit of eight versions."""
    torch.compiler.reset()


def tensors(nest):
    """Arrays and numbers as tensors."""
    if isinstance(nest, dict):
        return {k: tensors(v) for k, v in nest.items()}
    if isinstance(nest, (tuple, list)):
        return type(nest)(map(tensors, nest))
    return torch.from_numpy(nest) if isinstance(nest, np.ndarray) else torch.tensor(nest, dtype=torch.float64)


def value_and_grad(f, p, argnums=(0,)):
    """(function, arguments): value and gradients of f; an array as value is differentiated through its sum."""
    args = tensors(p.args)
    if VARIANT == "compiled":

        def total(*args):
            value = f(*args)
            return value.sum(), value

        def call(*args):
            grads, (_, value) = grad_and_value(total, argnums, has_aux=True)(*args)
            return value, grads

        return compiled(call), args
    variables = [leaf.requires_grad_() for at in argnums for leaf in problems.leaves(args[at])]

    def call(*args):
        value = f(*args)
        return value.detach(), torch.autograd.grad(value.sum() if value.dim() else value, variables)

    return call, args


def square(x):
    return torch.sin(x) ** 2


def valley(x):
    return torch.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def derivative(order, p):
    """(function, arguments): the derivative of that order of sin(x)**2."""
    args = tensors(p.args)
    if VARIANT == "compiled":
        f = square
        for _ in range(order):
            f = grad(f)
        return compiled(vmap(f) if args[0].dim() else f), args
    args[0].requires_grad_()

    def call(x):
        y = square(x)
        for left in range(order - 1, -1, -1):
            (y,) = torch.autograd.grad(y.sum() if y.dim() else y, x, create_graph=left > 0)
        return y

    return call, args


def scalar(p):
    return derivative(1, p)


def sin_squared(p):
    return derivative(p.sizes[0], p)


def rosenbrock(p):
    return value_and_grad(valley, p)


def hessian(p):
    if VARIANT == "compiled":
        return compiled(torch.func.hessian(valley)), tensors(p.args)
    return functools.partial(torch.autograd.functional.hessian, valley, vectorize=True), tensors(p.args)


def options(p):
    def price(spot, strike, volatility, years, rate):
        spread = volatility * torch.sqrt(years)
        d1 = (torch.log(spot / strike) + rate * years) / spread + 0.5 * spread
        return spot * torch.special.ndtr(d1) - strike * torch.exp(-rate * years) * torch.special.ndtr(d1 - spread)

    return value_and_grad(price, p, (0, 1, 2, 3, 4))


def logistic(p):
    return value_and_grad(lambda w, x, y: torch.mean(functional.softplus(-y * (x @ w))), p)


def mixture(p):
    def likelihood(alphas, means, factors, x):
        logs = torch.diagonal(factors, dim1=1, dim2=2)
        q = torch.tril(factors, -1) + torch.diag_embed(torch.exp(logs))
        y = (x - means[:, None]) @ q.transpose(1, 2)
        inner = (alphas + torch.sum(logs, dim=1))[:, None] - 0.5 * torch.sum(y**2, dim=2)
        return torch.sum(torch.logsumexp(inner, dim=0)) - len(x) * torch.logsumexp(alphas, dim=0)

    return value_and_grad(likelihood, p, (0, 1, 2))


def slopes(f, p, argnums):
    """(function, arguments): the gradients of the sum of f."""
    args = tensors(p.args)
    if VARIANT == "compiled":
        return compiled(grad(lambda *args: f(*args).sum(), argnums)), args
    variables = [args[at].requires_grad_() for at in argnums]
    return lambda *args: torch.autograd.grad(f(*args).sum(), variables), args


def state(p):
    def density(*args):
        return problems.density(*args, lib=torch)

    return slopes(density, p, (0, 1, 2))


def chain(p):
    length = p.sizes[0]
    return slopes(lambda x: problems.chain(x, length), p, (0,))


def tiny(p):
    def mean_output(params, x):
        for w, b in params:
            x = torch.tanh(torch.addmm(b, x, w))
        return torch.mean(x)

    return value_and_grad(mean_output, p)


def classifier(p):
    def loss(params, x, y):
        hidden = torch.relu(torch.addmm(params["b1"], x, params["w1"]))
        return functional.cross_entropy(torch.addmm(params["b2"], hidden, params["w2"]), y)

    args = tensors(p.args)
    if VARIANT == "compiled":

        def step(params, x, y):
            grads, value = grad_and_value(loss)(params, x, y)
            return value, {k: params[k] - 0.1 * grads[k] for k in params}

        return compiled(step), args
    variables = [leaf.requires_grad_() for leaf in problems.leaves(args[0])]

    def step(params, x, y):
        value = loss(params, x, y)
        grads = torch.autograd.grad(value, variables)
        with torch.no_grad():
            return value.detach(), [torch.sub(v, g, alpha=0.1) for v, g in zip(variables, grads)]

    return step, args


def recurrent(p):
    def last_state(params, xs):
        driven = xs @ params["x"] + params["b"]
        h = torch.zeros_like(driven[0])
        for each in driven.unbind():
            h = torch.tanh(torch.addmm(each, h, params["h"]))
        return torch.mean(h**2)

    return value_and_grad(last_state, p)


def attention(p):
    def block(x, wq, wk, wv, wo):
        tokens, width = x.shape
        q, k, v = ((x @ w).view(tokens, problems.HEADS, -1).transpose(0, 1)[None] for w in (wq, wk, wv))
        mixed = functional.scaled_dot_product_attention(q, k, v)[0]
        return torch.mean((mixed.transpose(0, 1).reshape(tokens, width) @ wo) ** 2)

    return value_and_grad(block, p, (0, 1, 2, 3, 4))
