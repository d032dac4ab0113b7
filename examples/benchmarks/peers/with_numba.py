"""Numba: gradients by hand in loops under njit, as its users write them; it differentiates nothing itself.

NumPy arrays in, NumPy arrays out. `fastmath` as in the C column. With several threads, loops over 100,000 elements and more are
parallel (`prange`), short ones would pay 20 us for it; the mixture's are left serial, as sums into arrays need blocks by hand.
"""

import math
import os

import numba
import numpy as np
from numba import prange

from .problems import BOTTOM, TOP

VERSION = numba.__version__
SKIP = dict.fromkeys(("orbit", "tiny", "classifier", "recurrent", "attention"), "nobody writes back-propagation in loops")
MANY = 100_000
THREADS = os.environ.get("NUMBA_NUM_THREADS") != "1"


def compiled(f, n=0):
    """The function as machine code; for so many elements. Not cached if parallel: the cache would give that for few, too."""
    parallel = THREADS and n >= MANY
    return numba.njit(f, fastmath=True, error_model="numpy", cache=not parallel, parallel=parallel)


def scalar(p):
    return compiled(scalar_slope), p.args


def scalar_slope(x):
    return 2.0 * math.sin(x) * math.cos(x)


def sin_squared(p):
    order, n = p.sizes
    return compiled((first, second, third)[order - 1], n), p.args


def first(x):
    out = np.empty_like(x)
    for i in prange(len(x)):
        out[i] = 2.0 * math.sin(x[i]) * math.cos(x[i])
    return out


def second(x):
    out = np.empty_like(x)
    for i in prange(len(x)):
        s, c = math.sin(x[i]), math.cos(x[i])
        out[i] = 2.0 * (c * c - s * s)
    return out


def third(x):
    out = np.empty_like(x)
    for i in prange(len(x)):
        out[i] = -8.0 * math.sin(x[i]) * math.cos(x[i])
    return out


def rosenbrock(p):
    return compiled(valley, p.sizes[0]), p.args


def valley(x):
    n = len(x)
    out = np.empty_like(x)
    total = 0.0
    for i in prange(n - 1):
        bend, rest = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        total += 100.0 * bend * bend + rest * rest
        before = 200.0 * (x[i] - x[i - 1] * x[i - 1]) if i else 0.0
        out[i] = before - 400.0 * x[i] * bend - 2.0 * rest
    out[n - 1] = 200.0 * (x[n - 1] - x[n - 2] * x[n - 2])
    return total, out


def hessian(p):
    return compiled(valley_hessian), p.args


def valley_hessian(x):
    n = len(x)
    out = np.zeros((n, n))
    for i in range(n - 1):
        out[i, i] += 1200.0 * x[i] * x[i] - 400.0 * x[i + 1] + 2.0
        out[i + 1, i + 1] = 200.0
        out[i, i + 1] = out[i + 1, i] = -400.0 * x[i]
    return out


def options(p):
    return compiled(greeks, p.sizes[0]), p.args


def greeks(spot, strike, volatility, years, rate):
    n = len(spot)
    price, by_spot, by_strike = np.empty(n), np.empty(n), np.empty(n)
    by_volatility, by_years, by_rate = np.empty(n), np.empty(n), np.empty(n)
    for i in prange(n):
        root = math.sqrt(years[i])
        spread = volatility[i] * root
        d1 = (math.log(spot[i] / strike[i]) + rate[i] * years[i]) / spread + 0.5 * spread
        d2 = d1 - spread
        p1 = 0.5 * math.erfc(-d1 * 0.7071067811865476)
        p2 = 0.5 * math.erfc(-d2 * 0.7071067811865476)
        discount = math.exp(-rate[i] * years[i])
        due = strike[i] * discount * p2
        density = spot[i] * math.exp(-0.5 * d1 * d1) * 0.3989422804014327
        price[i] = spot[i] * p1 - due
        by_spot[i] = p1
        by_strike[i] = -discount * p2
        by_volatility[i] = density * root
        by_years[i] = 0.5 * density * volatility[i] / root + rate[i] * due
        by_rate[i] = years[i] * due
    return price, (by_spot, by_strike, by_volatility, by_years, by_rate)


def logistic(p):
    rows, columns = p.sizes
    return compiled(blocks_of_logistic if THREADS and rows * columns >= MANY else rows_of_logistic, rows * columns), p.args


def rows_of_logistic(w, x, y):
    n, d = x.shape
    total, slope = 0.0, np.zeros(d)
    for i in range(n):
        dot = 0.0
        for j in range(d):
            dot += x[i, j] * w[j]
        margin = y[i] * dot
        small = math.exp(-abs(margin))
        total += math.log1p(small) + max(-margin, 0.0)
        weight = -y[i] / n * (small / (1.0 + small) if margin > 0.0 else 1.0 / (1.0 + small))
        for j in range(d):
            slope[j] += weight * x[i, j]
    return total / n, slope


def blocks_of_logistic(w, x, y):
    n, d = x.shape
    count = 64
    totals, slopes = np.zeros(count), np.zeros((count, d))
    for block in prange(count):
        slope = np.zeros(d)
        for i in range(block * n // count, (block + 1) * n // count):
            dot = 0.0
            for j in range(d):
                dot += x[i, j] * w[j]
            margin = y[i] * dot
            small = math.exp(-abs(margin))
            totals[block] += math.log1p(small) + max(-margin, 0.0)
            weight = -y[i] / n * (small / (1.0 + small) if margin > 0.0 else 1.0 / (1.0 + small))
            for j in range(d):
                slope[j] += weight * x[i, j]
        slopes[block] = slope
    return np.sum(totals) / n, slopes.sum(0)


def mixture(p):
    return compiled(likelihood), p.args


def likelihood(alphas, means, factors, x):
    (n, d), k = x.shape, len(alphas)
    q, base = np.zeros((k, d, d)), alphas.copy()
    for c in range(k):
        for i in range(d):
            for j in range(i):
                q[c, i, j] = factors[c, i, j]
            q[c, i, i] = math.exp(factors[c, i, i])
            base[c] += factors[c, i, i]
    total, d_means, d_factors, shares = 0.0, np.zeros((k, d)), np.zeros((k, d, d)), np.zeros(k)
    y, centered, inner = np.empty((k, d)), np.empty((k, d)), np.empty(k)
    for point in range(n):
        for c in range(k):
            square = 0.0
            for i in range(d):
                centered[c, i] = x[point, i] - means[c, i]
            for i in range(d):
                row = 0.0
                for j in range(i + 1):
                    row += q[c, i, j] * centered[c, j]
                y[c, i] = row
                square += row * row
            inner[c] = base[c] - 0.5 * square
        top, each = inner.max(), 0.0
        for c in range(k):
            inner[c] = math.exp(inner[c] - top)
            each += inner[c]
        total += math.log(each) + top
        for c in range(k):
            share = inner[c] / each
            shares[c] += share
            for i in range(d):
                weighted = share * y[c, i]
                for j in range(i + 1):
                    d_factors[c, i, j] -= weighted * centered[c, j]
                    d_means[c, j] += weighted * q[c, i, j]
    mass = 0.0
    for c in range(k):
        mass += math.exp(alphas[c])
        for i in range(d):
            d_factors[c, i, i] = d_factors[c, i, i] * q[c, i, i] + shares[c]
    return total - n * math.log(mass), (shares - n * np.exp(alphas) / mass, d_means, d_factors)


def state(p):
    return compiled(density_slopes, p.args[0].size), p.args


NUMERATOR, DENOMINATOR = np.array(TOP), np.array(BOTTOM)


@numba.njit(fastmath=True, error_model="numpy", cache=True)
def polynomial(c, t, root, p):
    """The value and its derivatives by t, root and p, which Horner's rule carries along."""
    value = by_t = by_root = by_p = 0.0
    for plane in range(c.shape[0] - 1, -1, -1):
        v = v_t = v_root = 0.0
        for row in range(3, -1, -1):
            cubic = cubic_t = 0.0
            for power in range(3, -1, -1):
                cubic_t = cubic_t * t + cubic
                cubic = cubic * t + c[plane, row, power]
            v_root = v_root * root + v
            v, v_t = v * root + cubic, v_t * root + cubic_t
        by_p = by_p * p + value
        value, by_t, by_root = value * p + v, by_t * p + v_t, by_root * p + v_root
    return value, by_t, by_root, by_p


def density_slopes(salinity, temperature, pressure):
    n = len(salinity)
    by_salinity, by_temperature, by_pressure = np.empty(n), np.empty(n), np.empty(n)
    for i in prange(n):
        t, root, p = temperature[i], math.sqrt(salinity[i]), pressure[i]
        top, top_t, top_root, top_p = polynomial(NUMERATOR, t, root, p)
        bottom, bottom_t, bottom_root, bottom_p = polynomial(DENOMINATOR, t, root, p)
        over = 1.0 / bottom
        ratio, small = top * over, 0.02 * math.exp(-p * t)
        by_salinity[i] = (top_root - ratio * bottom_root) * over * 0.5 / root
        by_temperature[i] = (top_t - ratio * bottom_t) * over - small * p
        by_pressure[i] = (top_p - ratio * bottom_p) * over - small * t
    return by_salinity, by_temperature, by_pressure


def chain(p):
    length = p.sizes[0]
    slope = compiled(chain_slope)
    return lambda x: slope(x, length), p.args


def chain_slope(x, length):
    out = np.empty_like(x)
    for i in range(len(x)):
        w, y, dy = x[i] + 1.0, x[i], 1.0
        for _ in range(length // 4):
            dy = dy * x[i] + y
            y = y * x[i] + 0.5 - w
            dy = (dy - 1.0 - y / w) / w
            y = y / w
        out[i] = dy
    return out
