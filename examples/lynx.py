"""Hares and lynxes: a predator-prey model fitted to the pelts that the Hudson's Bay Company bought from 1900 to 1920.

    python examples/lynx.py [--out FOLDER]

The equations of Lotka and Volterra for u = log hares, v = log lynxes (thousands),
    u' = a - b exp(v),    v' = d exp(u) - c,
are integrated from year to year by the adaptive method of Dormand and Prince (1980): a step of too large an error is retried.
The loss is the sum of squared differences of the logarithms; scipy.optimize minimises it over the four rates and the two
initial states with our gradients. Its loop is written twice:
    plain     `while` and `if` in Python; each sequence of accepted and rejected steps is recorded when it is first met
    compiled  `tapejit.while_loop` in `tapejit.scan`: recorded once, whatever steps are taken
The step sizes are not differentiated: with them held, the gradient is that of the solution up to the tolerance.
Data: pelts in thousands, as in Carpenter (2018), Stan case study "Predator-Prey Population Dynamics", whose posterior means and
standard deviations the fit is compared with.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import tapejit

YEARS = np.arange(1900, 1921)
HARES = np.array([30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6,
                  16.2, 24.7])  # fmt: skip
LYNXES = np.array([4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1,
                   8.6])  # fmt: skip
DATA = np.log(np.stack([HARES, LYNXES], axis=1))
START = np.log([0.5, 0.025, 0.9, 0.025, 30.0, 4.0])  # rates a, b, c, d and initial states, as logarithms
TOLERANCE = 1e-8
PUBLISHED = np.array([0.55, 0.028, 0.80, 0.024, 33.9, 5.9]), np.array([0.06, 0.004, 0.09, 0.004, 2.9, 0.5])

A = ((1 / 5,), (3 / 40, 9 / 40), (44 / 45, -56 / 15, 32 / 9), (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
     (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656))  # fmt: skip
FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def slopes(y, rates):
    """Time derivatives of (log hares, log lynxes)."""
    a, b, c, d = rates
    return a - b * np.exp(y[1]), d * np.exp(y[0]) - c


def attempt(y, h, rates):
    """(state after a step of length h, its error over the tolerance)."""
    k = [slopes(y, rates)]
    for row in (*A, FIFTH):
        moved = [y[i] + h * sum([w * s[i] for w, s in zip(row, k) if w]) for i in (0, 1)]
        k.append(slopes(moved, rates))
    wrong = [h * sum([w * s[i] for w, s in zip(ERROR, k) if w]) for i in (0, 1)]
    size = np.maximum(np.abs(wrong[0]), np.abs(wrong[1])) / TOLERANCE
    return moved, tapejit.stop_gradient(size)


def next_length(h, size):
    """The step to try after one with this error."""
    return h * np.clip(0.9 * np.maximum(size, 1e-10) ** -0.2, 0.2, 5.0)


def year_in_python(y, h, rates):
    """The state a year later and the next step length: plain control flow."""
    t = 0.0
    while t < 1.0:
        tried = np.minimum(h, 1.0 - t)
        moved, size = attempt(y, tried, rates)
        h = next_length(tried, size)
        if size <= 1.0:
            y, t = moved, t + tried
    return y, h


def year_compiled(y, h, rates):
    """The same as one loop in the program."""
    def step(state):
        t, y, h = state
        tried = np.minimum(h, 1.0 - t)
        moved, size = attempt(y, tried, rates)
        accepted = size <= 1.0
        y = tuple(np.where(accepted, new, old) for new, old in zip(moved, y))
        return np.where(accepted, t + tried, t), y, next_length(tried, size)

    _, y, h = tapejit.while_loop(lambda state: state[0] < 1.0, step, (0.0, tuple(y), h))
    return y, h


def losses(p, year, data):
    """Sum of squares of the differences, the years one after the other in Python."""
    q = np.exp(p)
    y, h, total = (p[4], p[5]), 0.1, np.sum((p[4:] - data[0]) ** 2)
    for hares, lynxes in data[1:]:
        y, h = year(y, h, (q[0], q[1], q[2], q[3]))
        total = total + (y[0] - hares) ** 2 + (y[1] - lynxes) ** 2
    return total


def loss(p):
    """The same, the years as a scan."""
    q = np.exp(p)

    def next_year(carry, row):
        y, h = year_compiled(*carry, (q[0], q[1], q[2], q[3]))
        return (y, h), (y[0] - row[0]) ** 2 + (y[1] - row[1]) ** 2

    _, squares = tapejit.scan(next_year, ((p[4], p[5]), 0.1), DATA[1:])
    return np.sum((p[4:] - DATA[0]) ** 2) + np.sum(squares)


def draw(path, p):
    """Data and fit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    q, y, h, fine = np.exp(p), (p[4], p[5]), 0.05, [(p[4], p[5])]
    for _ in range(20 * (len(YEARS) - 1)):
        y, _ = attempt(y, h, tuple(q[:4]))
        fine.append(tuple(y))
    times = np.linspace(YEARS[0], YEARS[-1], len(fine))
    figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for i, (name, pelts) in enumerate((("hares", HARES), ("lynxes", LYNXES))):
        axis.plot(times, np.exp([float(f[i]) for f in fine]), color=f"C{i}")
        axis.plot(YEARS, pelts, "o", color=f"C{i}", label=name)
    axis.set(title="Pelts bought by the Hudson's Bay Company", ylabel="thousands", xticks=YEARS[::4])
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    """Fit, check the gradient against differences and the plain loop, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of lynx.png")
    folder = parser.parse_args().out
    both = tapejit.value_and_grad(loss)
    start = time.perf_counter()
    both(START)
    first = time.perf_counter() - start
    start = time.perf_counter()
    fit = minimize(both, START, jac=True, method="BFGS", options={"gtol": 1e-6})
    taken = time.perf_counter() - start
    print(f"first gradient {first:.2f} s; {fit.nfev} gradients of the fit {1e3 * taken / fit.nfev:.2f} ms each")
    print("a {:.3f}, b {:.4f}, c {:.3f}, d {:.4f}, hares {:.1f}, lynxes {:.1f}".format(*np.exp(fit.x)))
    print(f"loss {both(START)[0]:.3f} -> {fit.fun:.4f}")
    value, gradient = both(START)
    plain = tapejit.value_and_grad(lambda p: losses(p, year_in_python, DATA))(START)
    print(f"the plain loop: loss differs by {abs(plain[0] - value):.0e}, gradient by {np.abs(plain[1] - gradient).max():.0e}")
    values = [[both(START + k * 1e-4 * d)[0] for k in (-2, -1, 1, 2)] for d in np.eye(6)]
    differences = np.array(values) @ np.array([1.0, -8.0, 8.0, -1.0]) / 12e-4
    print(f"differences: {np.abs(differences - gradient).max() / np.abs(gradient).max():.0e} of the largest derivative")
    assert np.abs(plain[1] - gradient).max() < 1e-9 * np.abs(gradient).max()
    assert np.abs(differences - gradient).max() < 1e-5 * np.abs(gradient).max()
    assert np.all(np.abs(np.exp(fit.x) - PUBLISHED[0]) < PUBLISHED[1]) and np.abs(fit.jac).max() < 1e-3
    draw(folder / "lynx.png", fit.x)


if __name__ == "__main__":
    main()
