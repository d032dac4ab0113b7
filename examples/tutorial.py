"""TensorFlow's eager tutorial "Automatic differentiation and gradient tape", snippet by snippet, in tapejit's names.

    python examples/tutorial.py --out figures

Every snippet runs twice: `np` is `tapejit.numpy` the first time, plain `numpy` the second. Its asserts are the tutorial's.
"""

import argparse
from math import pi
from pathlib import Path

import numpy

import tapejit
import tapejit.numpy


def derivatives_of_a_function(np):
    """A function, and a function that computes its gradient."""

    def f(x):
        return np.square(np.sin(x))

    grad_f = tapejit.gradients_function(f)  # returns a list: one gradient per argument
    print(f"  f(pi/2) = {float(f(pi / 2))}, gradient {float(grad_f(pi / 2)[0]):.1e}")
    assert f(pi / 2) == 1.0
    assert abs(grad_f(pi / 2)[0]) < 1e-7


def higher_order_gradients(np):
    """The same gradient applied to its own result: f and three derivatives over 100 points, as NumPy arrays."""

    def f(x):
        return np.square(np.sin(x))

    def grad(f):
        return lambda x: tapejit.gradients_function(f)(x)[0]

    x = np.linspace(-2 * pi, 2 * pi, 100)
    curves = [f(x), grad(f)(x), grad(grad(f))(x), grad(grad(grad(f)))(x)]
    x, *curves = [numpy.array(tapejit.Array(c).numpy()) for c in (x, *curves)]
    closed = [numpy.sin(x) ** 2, numpy.sin(2 * x), 2 * numpy.cos(2 * x), -4 * numpy.sin(2 * x)]
    worst = max(abs(a - b).max() for a, b in zip(curves, closed))
    print(f"  f, f', f'', f''' at {len(x)} points: largest difference from the closed forms {worst:.1e}")
    assert worst < 1e-13
    return x, curves


def python_control_flow(np):
    """A loop whose length is an argument: int(y) is read from the recorded value."""

    def f(x, y):
        output = 1
        for _ in range(int(y)):
            output = np.multiply(output, x)
        return output

    def g(x, y):
        return tapejit.gradients_function(f)(x, y)[0]  # the gradient with respect to x, y is an integer

    print(f"  d(x**y)/dx: g(3, 2) = {float(g(3.0, 2))}, g(4, 3) = {float(g(4.0, 3))}")
    assert f(3.0, 2) == 9.0
    assert g(3.0, 2) == 6.0
    assert f(4.0, 3) == 64.0
    assert g(4.0, 3) == 48.0


def gradient_tape(np):
    """Gradients from a tape: also with respect to what was computed on the way, so the tape is persistent."""
    x = tapejit.Array(np.ones((2, 2)))
    with tapejit.GradientTape(persistent=True) as t:
        t.watch(x)
        y = np.sum(x)
        z = np.multiply(y, y)

    dz_dy = t.gradient(z, y)
    assert dz_dy.numpy() == 8.0

    dz_dx = t.gradient(z, x)
    for i in [0, 1]:
        for j in [0, 1]:
            assert dz_dx[i][j].numpy() == 8.0
    print(f"  tape: dz/dy = {dz_dy}, dz/dx = {dz_dx.numpy().tolist()}")


def nested_tapes(np):
    """A tape inside a tape: the outer one records the gradient that the inner one computes."""
    x = tapejit.Array(np.asarray(1.0))
    with tapejit.GradientTape() as t:
        with tapejit.GradientTape() as t2:
            t2.watch(x)  # the enclosing tape watches it too
            y = np.multiply(np.multiply(x, x), x)
        dy_dx = t2.gradient(y, x)
    d2y_dx2 = t.gradient(dy_dx, x)

    print(f"  nested tapes: y = x**3 at 1: dy/dx = {dy_dx}, d2y/dx2 = {d2y_dx2}")
    assert dy_dx.numpy() == 3.0
    assert d2y_dx2.numpy() == 6.0


def plot(x, curves, path):
    """The tutorial's figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    labels = ["f(x) = sin(x)²", "first derivative", "second derivative", "third derivative"]
    for curve, label in zip(curves, labels):
        axes.plot(x, curve, label=label)
    axes.set_xlabel("x")
    axes.set_xlim(x[0], x[-1])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main():
    """Run every snippet under both namespaces and draw the figure of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(), help="directory for the PNG files (default: here)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for np in (tapejit.numpy, numpy):
        print(f"with {np.__name__}")
        derivatives_of_a_function(np)
        x, curves = higher_order_gradients(np)
        python_control_flow(np)
        gradient_tape(np)
        nested_tapes(np)
        plot(x, curves, out / ("derivatives.png" if np is tapejit.numpy else "derivatives_numpy.png"))


if __name__ == "__main__":
    main()
