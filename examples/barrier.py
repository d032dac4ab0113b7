"""A down-and-out call by Monte Carlo, one path at a time, with an early exit: the loop ends where the barrier is hit.

    python examples/barrier.py [--out FOLDER] [--paths N]

Between two dates the price is a Brownian bridge: a path that is above the barrier B at both survives the step with probability
    1 - exp(-2 log(S/B) log(S'/B) / (sigma**2 dt)),
which goes to zero where the barrier is near: the payoff is continuous, and the mean of its derivatives is the derivative of its
mean. At which date a path ends is control flow on a computed value: each is a path through the function, recorded once;
together they become one native function. Price, delta and vega are compared with the formulas of Reiner and Rubinstein (1991).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.special import ndtr

import tapejit

STRIKE, BARRIER, RATE, YEARS, DATES = 100.0, 85.0, 0.03, 1.0, 12
STEP = YEARS / DATES


def payoff(spot, volatility, normals):
    """The discounted payoff of one path, weighted with the probability that it survives between the dates."""
    weight = 1.0
    for normal in normals:
        after = spot * np.exp((RATE - 0.5 * volatility**2) * STEP + volatility * STEP**0.5 * normal)
        if after <= BARRIER:
            return 0.0 * after
        near = np.log(spot / BARRIER) * np.log(after / BARRIER)
        weight = weight * (1.0 - np.exp(-2.0 * near / (volatility**2 * STEP)))
        spot = after
    return np.exp(-RATE * YEARS) * np.maximum(spot - STRIKE, 0.0) * weight


def call(spot, volatility):
    """Black and Scholes."""
    spread = volatility * YEARS**0.5
    d1 = (np.log(spot / STRIKE) + RATE * YEARS) / spread + 0.5 * spread
    return spot * ndtr(d1) - STRIKE * np.exp(-RATE * YEARS) * ndtr(d1 - spread)


def formula(spot, volatility):
    """Reiner and Rubinstein: the barrier below the strike."""
    return call(spot, volatility) - (BARRIER / spot) ** (2.0 * RATE / volatility**2 - 1.0) * call(BARRIER**2 / spot, volatility)


def estimate(greeks, spot, volatility, draws):
    """(price, delta, vega) and their standard errors."""
    each = np.array([(value, *slopes) for value, slopes in (greeks(spot, volatility, z) for z in draws)])
    return each.mean(axis=0), each.std(axis=0) / len(draws) ** 0.5


def draw(path, spots, found, errors, exact):
    """Price, delta and vega against the spot price: estimates with two standard errors, formulas as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for i, (axis, title) in enumerate(zip(axes, ("price", "delta", "vega"))):
        axis.plot(spots, exact[:, i], color="0.5", label="formula")
        axis.errorbar(spots, found[:, i], 2 * errors[:, i], fmt="o", ms=4, capsize=2, label="Monte Carlo")
        axis.axvline(BARRIER, color="C3", lw=0.8)
        axis.set(title=title, xlabel="spot price")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    """Estimate at several spot prices, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of barrier.png")
    parser.add_argument("--paths", type=int, default=20_000, help="of the Monte Carlo estimate at each spot price")
    options = parser.parse_args()
    volatility = 0.25
    greeks = tapejit.value_and_grad(payoff, argnums=(0, 1))
    exact_greeks = tapejit.value_and_grad(formula, argnums=(0, 1))
    rng = np.random.default_rng(1)
    spots = np.array([87.0, 90.0, 95.0, 100.0, 110.0, 120.0])
    found, errors, exact = [], [], []
    start = time.perf_counter()
    for spot in spots.tolist():
        mean, error = estimate(greeks, spot, volatility, rng.standard_normal((options.paths, DATES)))
        value, slopes = exact_greeks(spot, volatility)
        found.append(mean)
        errors.append(error)
        exact.append((value, *slopes))
        print(f"spot {spot:5.0f}  " + "  ".join(f"{n} {m:7.3f} ± {e:.3f} ({x:7.3f})" for n, m, e, x in zip(
            ("price", "delta", "vega"), mean, error, exact[-1])))  # fmt: skip
    taken = (time.perf_counter() - start) / (len(spots) * options.paths)
    found, errors, exact = map(np.array, (found, errors, exact))
    off = np.abs(found - exact) / errors
    print(f"{greeks.cache_info().paths} paths through the loop; {1e6 * taken:.1f} us a price with two derivatives")
    print(f"estimates are at most {off.max():.1f} standard errors from the formulas")
    assert off.max() < 4.5
    draw(options.out / "barrier.png", spots, found, errors, exact)


if __name__ == "__main__":
    main()
