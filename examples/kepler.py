"""Kepler's equation by Newton's method: a `while` on a computed value, compiled and differentiated as it is written.

    python examples/kepler.py [--out FOLDER]

E - e sin(E) = M gives the eccentric anomaly E of a body on an ellipse of eccentricity e at mean anomaly M. How many steps
Newton's method takes depends on M and e. Each number of steps is a path of its own through the function, recorded when it
is first taken and native from then on. The derivatives are compared with those of the implicit function theorem,
    dE/dM = 1 / (1 - e cos E),    d2E/dM2 = -e sin E / (1 - e cos E)**3.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import tapejit

TOLERANCE = 1e-12


def anomaly(mean, eccentricity):
    """The eccentric anomaly."""
    e = eccentricity
    found = mean + e * np.sin(mean)
    step = 1.0
    while abs(step) > TOLERANCE:
        step = (found - e * np.sin(found) - mean) / (1.0 - e * np.cos(found))
        found = found - step
    return found


def iterations(mean, e):
    """How many steps are taken."""
    count, found, step = 0, mean + e * np.sin(mean), 1.0
    while abs(step) > TOLERANCE:
        step = (found - e * np.sin(found) - mean) / (1.0 - e * np.cos(found))
        found, count = found - step, count + 1
    return count


def draw(path, mean, e, values):
    """The anomaly and its derivatives for one eccentricity, and the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for y, label in zip(values, ("E", "dE/dM", "d²E/dM²")):
        left.plot(mean, y, label=label)
    left.set(title=f"Eccentric anomaly, e = {e}", xlabel="mean anomaly M")
    left.legend()
    for e in (0.2, 0.5, 0.8, 0.95):
        right.step(mean, [iterations(m, e) for m in mean], where="mid", label=f"e = {e}")
    right.set(title="Newton steps", xlabel="mean anomaly M")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    """Check 10,000 anomalies, time a call, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of kepler.png")
    folder = parser.parse_args().out
    slope, curvature = tapejit.grad(anomaly), tapejit.grad(tapejit.grad(anomaly))
    rng = np.random.default_rng(0)
    inputs = list(zip(rng.uniform(0.0, np.pi, 10_000).tolist(), rng.uniform(0.0, 0.95, 10_000).tolist()))
    first = np.array([slope(*x) for x in inputs])
    second = np.array([curvature(*x) for x in inputs])
    start = time.perf_counter()
    for x in inputs:
        slope(*x)
    taken = (time.perf_counter() - start) / len(inputs)
    e, found = np.array([x[1] for x in inputs]), np.array([anomaly(*x) for x in inputs])
    below = 1.0 - e * np.cos(found)
    errors = np.abs(first * below - 1.0).max(), np.abs(second + e * np.sin(found) / below**3).max()
    counts = np.bincount([iterations(*x) for x in inputs])
    print("Newton steps: " + ", ".join(f"{k} in {n} cases" for k, n in enumerate(counts) if n))
    print(f"{slope.cache_info().paths} paths; a gradient takes {1e6 * taken:.2f} us")
    print(f"against the implicit derivative: dE/dM {errors[0]:.1e} (relative), d2E/dM2 {errors[1]:.1e}")
    assert errors[0] < 1e-12 and errors[1] < 1e-9
    mean = np.linspace(0.0, np.pi, 200)
    values = [[f(m, 0.8) for m in mean.tolist()] for f in (anomaly, slope, curvature)]
    draw(folder / "kepler.png", mean, 0.8, values)
    print(f"wrote {folder / 'kepler.png'}")


if __name__ == "__main__":
    main()
