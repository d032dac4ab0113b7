"""JAX: jax.jit of jax.grad, value_and_grad, hessian, with 64-bit numbers enabled.

Arguments are jax.Arrays; a call ends when its results are ready (all results of one executable are at the same time, so waiting
for one of them is enough). Nothing is donated: the caller keeps its arguments, as with every tool.
"""

import jax
import jax.numpy as jnp

from . import problems

jax.config.update("jax_enable_x64", True)
VERSION = jax.__version__
SKIP = {}


def alone(f):
    """Compiled f, its one result awaited."""
    compiled = jax.jit(f)
    return lambda *args: compiled(*args).block_until_ready()


def several(f):
    """Compiled f, its results awaited; the first is an array."""
    compiled = jax.jit(f)

    def call(*args):
        results = compiled(*args)
        results[0].block_until_ready()
        return results

    return call


def arrays(p):
    """The arguments on JAX's device."""
    return jax.block_until_ready(jax.tree.map(jnp.asarray, p.args))


def sin_squared_at(x):
    return jnp.sin(x) ** 2


def valley(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def scalar(p):
    return alone(jax.grad(sin_squared_at)), p.args


def sin_squared(p):
    f = sin_squared_at
    for _ in range(p.sizes[0]):
        f = jax.grad(f)
    return alone(jax.vmap(f)), arrays(p)


def rosenbrock(p):
    return several(jax.value_and_grad(valley)), arrays(p)


def hessian(p):
    return alone(jax.hessian(valley)), arrays(p)


def options(p):
    def price(spot, strike, volatility, years, rate):
        spread = volatility * jnp.sqrt(years)
        d1 = (jnp.log(spot / strike) + rate * years) / spread + 0.5 * spread
        due = strike * jnp.exp(-rate * years)
        return spot * jax.scipy.special.ndtr(d1) - due * jax.scipy.special.ndtr(d1 - spread)

    return several(jax.vmap(jax.value_and_grad(price, argnums=(0, 1, 2, 3, 4)))), arrays(p)


def logistic(p):
    def loss(w, x, y):
        return jnp.mean(jax.nn.softplus(-y * (x @ w)))

    return several(jax.value_and_grad(loss)), arrays(p)


def mixture(p):
    def likelihood(alphas, means, factors, x):
        logs = jnp.diagonal(factors, axis1=1, axis2=2)
        q = jnp.tril(factors, -1) + jnp.exp(logs)[:, :, None] * jnp.eye(x.shape[1])
        y = (x - means[:, None]) @ jnp.transpose(q, (0, 2, 1))
        inner = (alphas + jnp.sum(logs, axis=1))[:, None] - 0.5 * jnp.sum(y**2, axis=2)
        return jnp.sum(jax.nn.logsumexp(inner, axis=0)) - len(x) * jax.nn.logsumexp(alphas)

    return several(jax.value_and_grad(likelihood, argnums=(0, 1, 2))), arrays(p)


def state(p):
    def density(*args):
        return problems.density(*args, lib=jnp)

    return several(jax.vmap(jax.grad(density, argnums=(0, 1, 2)))), arrays(p)


def chain(p):
    length = p.sizes[0]
    return alone(jax.grad(lambda x: jnp.sum(problems.chain(x, length)))), arrays(p)


def orbit(p):
    steps = p.sizes[0]

    def end(start, rates):  # a plain loop of 100 steps takes minutes to compile
        step = lambda state, _: (problems.runge_kutta(*state, rates, 10.0 / steps), None)
        (x, y), _ = jax.lax.scan(step, (start[0], start[1]), None, length=steps)
        return x * x + y

    return several(jax.value_and_grad(end, argnums=(0, 1))), arrays(p)


def tiny(p):
    def mean_output(params, x):
        for w, b in params:
            x = jnp.tanh(x @ w + b)
        return jnp.mean(x)

    return several(jax.value_and_grad(mean_output)), arrays(p)


def classifier(p):
    def loss(params, x, y):
        hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
        logits = hidden @ params["w2"] + params["b2"]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * y, axis=1))

    def step(params, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return value, jax.tree.map(lambda a, g: a - 0.1 * g, params, grads)

    return several(step), arrays(p)


def recurrent(p):
    def last_state(params, xs):
        h = jnp.zeros((xs.shape[1], params["h"].shape[0]))
        for driven in xs @ params["x"] + params["b"]:
            h = jnp.tanh(driven + h @ params["h"])
        return jnp.mean(h**2)

    return several(jax.value_and_grad(last_state)), arrays(p)


def attention(p):
    def block(x, wq, wk, wv, wo):
        tokens, width = x.shape
        q, k, v = (jnp.reshape(x @ w, (tokens, problems.HEADS, -1)) for w in (wq, wk, wv))
        scores = jnp.einsum("qhd,khd->hqk", q, k) * (width // problems.HEADS) ** -0.5
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores, axis=-1), v)
        return jnp.mean((jnp.reshape(mixed, (tokens, width)) @ wo) ** 2)

    return several(jax.value_and_grad(block, argnums=(0, 1, 2, 3, 4))), arrays(p)
