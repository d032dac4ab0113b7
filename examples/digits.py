"""A two-layer network on scikit-learn's handwritten digits, written in NumPy, differentiated and compiled by tapejit.

    python examples/digits.py --out figures --seed 0

The parameters are a dict; `value_and_grad` returns the loss and a dict of gradients. The eager comparison is the gradient
written by hand in NumPy.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tapejit


def loss(params, x, y):
    """Mean cross-entropy of a tanh layer and a softmax layer; y is one-hot."""
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    top = logits.max(axis=1, keepdims=True)
    log_normalizer = top[:, 0] + np.log(np.sum(np.exp(logits - top), axis=1))
    return np.mean(log_normalizer - np.sum(logits * y, axis=1))


loss_and_grad = tapejit.value_and_grad(loss)


def loss_and_grad_by_hand(params, x, y):
    """What loss_and_grad computes, differentiated by hand."""
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    top = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(axis=1, keepdims=True)
    value = np.mean(top[:, 0] + np.log(total[:, 0]) - np.sum(logits * y, axis=1))
    d_logits = (weights / total - y) / len(x)
    d_hidden = (d_logits @ params["w2"].T) * (1 - hidden * hidden)
    return value, {"w1": x.T @ d_hidden, "b1": d_hidden.sum(0), "w2": hidden.T @ d_logits, "b2": d_logits.sum(0)}


def initial_params(rng, sizes=(64, 64, 10)):
    """Scaled normal weights and zero biases."""
    inputs, hidden, outputs = sizes
    return {
        "w1": rng.standard_normal((inputs, hidden)) / np.sqrt(inputs),
        "b1": np.zeros(hidden),
        "w2": rng.standard_normal((hidden, outputs)) / np.sqrt(hidden),
        "b2": np.zeros(outputs),
    }


class Adam:
    """Adam on a dict of arrays, with decoupled weight decay."""

    def __init__(self, params, rate=3e-3, decay=1e-3):
        self.rate, self.decay, self.step = rate, decay, 0
        self.mean = {k: np.zeros_like(v) for k, v in params.items()}
        self.square = {k: np.zeros_like(v) for k, v in params.items()}

    def update(self, params, grads):
        """Change the parameters in place; compiled code reads them at each call."""
        self.step += 1
        scale = self.rate * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        for k, g in grads.items():
            self.mean[k] += 0.1 * (g - self.mean[k])
            self.square[k] += 0.001 * (g * g - self.square[k])
            params[k] -= scale * self.mean[k] / (np.sqrt(self.square[k]) + 1e-8) + self.rate * self.decay * params[k]


def data(seed):
    """Pixels in -1 to 1 and one-hot labels, a quarter of them held out."""
    x, y = load_digits(return_X_y=True)
    return train_test_split(x / 8.0 - 1.0, np.eye(10)[y], test_size=0.25, random_state=seed, stratify=y)


def accuracy(params, x, y):
    """The share of rows whose largest output is the label."""
    outputs = np.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return float(np.mean(outputs.argmax(1) == y.argmax(1)))


def train(seed=0, epochs=40, batch=64):
    """Train; returns (params, mean loss per epoch, test accuracy)."""
    rng = np.random.default_rng(seed)
    x, x_test, y, y_test = data(seed)
    params = initial_params(rng)
    adam, history = Adam(params), []
    for _ in track(range(epochs), description=f"training, seed {seed}"):
        order = rng.permutation(len(x))
        losses = []
        for start in range(0, len(x) - batch + 1, batch):
            rows = order[start : start + batch]
            value, grads = loss_and_grad(params, x[rows], y[rows])
            adam.update(params, grads)
            losses.append(value)
        history.append(np.mean(losses))
    return params, history, accuracy(params, x_test, y_test)


def time_per_step(params, x, y, repeats=200):
    """Median microseconds of (compiled, by hand), the two taking turns."""
    times = {loss_and_grad: [], loss_and_grad_by_hand: []}
    for _ in range(repeats):
        for function, taken in times.items():
            start = time.perf_counter()
            function(params, x, y)
            taken.append(time.perf_counter() - start)
    return [1e6 * np.median(taken) for taken in times.values()]


def plot(history, path):
    """The loss curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="mean cross-entropy", yscale="log", title="Digits, training loss")
    axes.plot(range(1, len(history) + 1), history)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main():
    """Train, check the gradient against the one written by hand, report accuracy and time per step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(), help="directory for the PNG file (default: here)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    params, history, test_accuracy = train(args.seed, args.epochs)
    print(f"{args.epochs} epochs in {time.perf_counter() - start:.1f} s; test accuracy {test_accuracy:.1%}")

    x, _, y, _ = data(args.seed)
    x, y = x[:64], y[:64]
    for ours, by_hand in zip(loss_and_grad(params, x, y)[1].items(), loss_and_grad_by_hand(params, x, y)[1].items()):
        np.testing.assert_allclose(ours[1], by_hand[1], rtol=1e-9, atol=1e-12)
    compiled, by_hand = time_per_step(params, x, y)
    print(f"loss and gradient, batch of 64: compiled {compiled:.0f} us, eager NumPy written by hand {by_hand:.0f} us")
    plot(history, args.out / "digits_loss.png")


if __name__ == "__main__":
    main()
