"""Logistic regression on scikit-learn's breast-cancer data, fitted by scipy.optimize with tapejit's derivatives.

    python examples/fit.py

One NumPy function is the whole model. `value_and_grad` gives scipy the value and the exact gradient in one call
(`jac=True`), `hvp` the product of the Hessian with a vector. The last line is scikit-learn's own fit of the same model.
"""

import time

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

import tapejit

PENALTY = 1.0


def load():
    """(standardised features, labels in -1, 1)."""
    x, y = load_breast_cancer(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), 2.0 * y - 1.0


X, Y = load()


def objective(w):
    """Penalised negative log-likelihood; w holds the coefficients, then the intercept."""
    margins = Y * (X @ w[:-1] + w[-1])
    return np.sum(np.logaddexp(0.0, -margins)) + 0.5 * PENALTY * np.sum(w[:-1] ** 2)


def fit(label, function, **options):
    """Minimise from zero, print one line, return the solution."""
    start = time.perf_counter()
    found = minimize(function, np.zeros(X.shape[1] + 1), **options)
    taken = 1e3 * (time.perf_counter() - start)
    slope = np.abs(tapejit.grad(objective)(found.x)).max()
    products = f"{found.nhev:5d}" if hasattr(found, "nhev") else "    -"
    print(f"{label:36s} {found.nit:5d} {found.nfev:7d} {products} {taken:9.1f}   {found.fun:.9f}  {slope:.1e}")
    return found.x


def main():
    """Fit with finite differences, gradients, and Newton methods; compare with scikit-learn."""
    value_and_grad, hvp = tapejit.value_and_grad(objective), tapejit.hvp(objective)
    w = np.zeros(X.shape[1] + 1)
    start = time.perf_counter()
    value_and_grad(w), hvp(w, w)
    print(f"{X.shape[0]} rows, {len(w)} parameters; recording and compiling took {1e3 * (time.perf_counter() - start):.0f} ms")
    print(f"{'method':36s} {'iter.':>5s} {'f calls':>7s} {'hess.':>5s} {'time, ms':>9s}   objective      largest |slope|")
    newton = dict(jac=True, hessp=hvp)
    solutions = [
        fit("BFGS, finite differences", objective, method="BFGS"),
        fit("BFGS, tapejit gradient", value_and_grad, method="BFGS", jac=True),
        fit("Newton-CG, tapejit gradient and hvp", value_and_grad, method="Newton-CG", options={"xtol": 1e-10}, **newton),
        fit("trust-krylov, the same", value_and_grad, method="trust-krylov", options={"gtol": 1e-8}, **newton),
    ]
    sklearn = LogisticRegression(C=1 / PENALTY, tol=1e-10, max_iter=1000).fit(X, Y)
    reference = np.append(sklearn.coef_, sklearn.intercept_)
    worst = [np.abs(w - reference).max() for w in solutions]
    print(f"scikit-learn's objective {objective(reference):.9f}; largest difference of a coefficient from scikit-learn's:")
    print(f"  finite differences {worst[0]:.1e}, BFGS {worst[1]:.1e}, Newton-CG {worst[2]:.1e}, trust-krylov {worst[3]:.1e}")
    assert max(worst[1:]) < 1e-4


if __name__ == "__main__":
    main()
