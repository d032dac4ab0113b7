"""tapejit in half a minute: derivatives of plain NumPy code, what is compiled, and what that gains.

    python examples/quickstart.py

Needs nothing but tapejit itself.
"""

import time

import numpy as np

import tapejit


def title(text):
    """A line that separates the sections of the output."""
    print(f"\n== {text}")


def f(x):
    """An ordinary NumPy function."""
    return np.sin(x) ** 2


def growth(rates, start, years):
    """Capital after some years of varying interest, with fees: a Python loop and a branch on values."""
    capital = start
    for i in range(years):
        fee = 0.01 if capital > 1.5 * start else 0.02
        capital = capital * (1 + rates[i] - fee)
    return capital


# Misra1a of NIST's Statistical Reference Datasets: monomolecular adsorption, volume against pressure (Misra, 1978).
PRESSURE = np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0])
VOLUME = np.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78])
CERTIFIED = np.array([2.3894212918e02, 5.5015643181e-04])  # NIST's parameters, to eleven digits
CERTIFIED_ERRORS = np.array([2.7070075241, 7.2668688436e-06])  # and their standard deviations


def residuals(b):
    """NIST's model of the adsorption, b1 * (1 - exp(-b2 * x)), less what was measured."""
    return b[0] * (1 - np.exp(-b[1] * PRESSURE)) - VOLUME


def median_us(functions, argument, repeats):
    """Median microseconds of a call of each function; they take turns."""
    times = [[] for _ in functions]
    for _ in range(repeats):
        for function, taken in zip(functions, times):
            start = time.perf_counter()
            function(argument)
            taken.append(time.perf_counter() - start)
    return [1e6 * float(np.median(taken)) for taken in times]


def main():
    """Print each section and check what can be checked."""
    title("gradient, and derivatives of higher order")
    slope = tapejit.grad(f)
    third = tapejit.grad(tapejit.grad(slope))
    print(f"f(1.0) = {f(1.0):.6f}  f'(1.0) = {slope(1.0):.6f}  f'''(1.0) = {third(1.0):.6f}")
    assert np.isclose(slope(1.0), np.sin(2.0)) and np.isclose(third(1.0), -4 * np.sin(2.0))

    title("the gradient as it is compiled: SSA, with the line of Python behind each operation")
    print(slope.ir(np.ones(100)))

    title("what became of it: kernels, loops, bytes")
    print(slope.explain(np.ones(100)))

    title("Python control flow is followed, with a new path where a branch goes another way")
    rates = np.array([0.05, 0.20, 0.30, -0.10, 0.08])
    sensitivity = tapejit.grad(growth)
    for scale in (1.0, 2.0, 1.0):
        print(f"rates x {scale}: d capital / d rates = {np.round(sensitivity(scale * rates, 100.0, 5), 2)}")
    info = sensitivity.cache_info()
    print(f"{info.paths} paths recorded, {info.hits} call(s) answered by compiled code")

    title("a fit to real data: NIST's Misra1a by Gauss-Newton steps with the exact Jacobian")
    jacobian = tapejit.jacobian(residuals)
    b = np.array([250.0, 5e-4])
    for iteration in range(1, 7):
        b = b - np.linalg.lstsq(jacobian(b), residuals(b))[0]
        print(f"step {iteration}: b1 = {b[0]:.9f}, b2 = {b[1]:.13f}, residual sum of squares {np.sum(residuals(b) ** 2):.11f}")
    print(f"certified: b1 = {CERTIFIED[0]:.8f} , b2 = {CERTIFIED[1]:.13f}, residual sum of squares 0.12455138894")
    variance = np.sum(residuals(b) ** 2) / (len(VOLUME) - 2)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(jacobian(b).T @ jacobian(b))))
    np.testing.assert_allclose(b, CERTIFIED, rtol=1e-9)
    np.testing.assert_allclose(errors, CERTIFIED_ERRORS, rtol=1e-8)

    title("compiled against eager: f' by hand in NumPy, 2 sin(x) cos(x), and tapejit.grad(f)")
    for n, repeats in ((100, 2000), (1_000_000, 20)):
        x = np.linspace(-6.0, 6.0, n)
        np.testing.assert_allclose(slope(x), 2 * np.sin(x) * np.cos(x), rtol=1e-12, atol=1e-15)
        eager, compiled = median_us([lambda x: 2 * np.sin(x) * np.cos(x), slope], x, repeats)
        print(f"n = {n:9,d}: NumPy {eager:10.2f} us, compiled {compiled:10.2f} us, {eager / compiled:.1f} times as fast")


if __name__ == "__main__":
    main()
