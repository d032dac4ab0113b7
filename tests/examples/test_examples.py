"""Each example runs with short settings and does what it says: its asserts hold, its files are there and can be read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    """Run Python in a process of its own; returns what it printed."""
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def test_tutorial(tmp_path):
    printed = run(ROOT / "examples/tutorial.py", "--out", tmp_path)
    assert "with tapejit.numpy" in printed and "with numpy" in printed
    assert printed.count("g(3, 2) = 6.0, g(4, 3) = 48.0") == printed.count("dy/dx = 3.0, d2y/dx2 = 6.0") == 2
    assert is_png(tmp_path / "derivatives.png") and is_png(tmp_path / "derivatives_numpy.png")


def test_quickstart():
    printed = run(ROOT / "examples/quickstart.py")
    assert "func @grad_f(%x: f64[100]) -> f64[100]" in printed
    assert "quickstart.py:" in printed and "np.sin(x) ** 2" in printed
    assert "2 paths recorded, 2 call(s) answered by compiled code" in printed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits(tmp_path, seed):
    pytest.importorskip("sklearn")
    printed = run(ROOT / "examples/digits.py", "--out", tmp_path, "--seed", seed)
    accuracy = float(printed.split("test accuracy ")[1].split("%")[0])
    assert accuracy >= 97.0
    assert is_png(tmp_path / "digits_loss.png")


def test_fit():
    pytest.importorskip("sklearn")
    printed = run(ROOT / "examples/fit.py")
    table = re.findall(r"^(\S.*?) +\d+ +(\d+) +[\d-]+ +\d+\.\d ", printed, re.M)
    calls = {method: int(count) for method, count in table}
    assert len(calls) == 4
    assert calls["BFGS, tapejit gradient"] < calls["BFGS, finite differences"] / 10
    assert "largest difference of a coefficient from scikit-learn's" in printed


def test_lynx(tmp_path):
    printed = run(ROOT / "examples/lynx.py", "--out", tmp_path)
    assert "a 0.54" in printed and "loss 6.725 -> 2.0187" in printed
    assert is_png(tmp_path / "lynx.png")


def test_barrier(tmp_path):
    printed = run(ROOT / "examples/barrier.py", "--out", tmp_path, "--paths", 2000)
    assert "2 paths through the loop" in printed
    assert is_png(tmp_path / "barrier.png")


def test_kepler(tmp_path):
    printed = run(ROOT / "examples/kepler.py", "--out", tmp_path)
    assert "2 in 130 cases" in printed and "7 paths" in printed
    assert is_png(tmp_path / "kepler.png")


def test_compiled_vs_eager(tmp_path):
    table, figure = tmp_path / "results.json", tmp_path / "results.png"
    printed = run(ROOT / "examples/benchmarks/compiled_vs_eager.py", "--quick", "--json", table, "--png", figure)
    report = json.loads(table.read_text())
    assert len(report["results"]) == 14
    for result in report["results"]:
        assert result["name"] in printed
        assert min(result[k] for k in ("first_ms", "eager_us", "interpreted_us", "compiled_us")) > 0
    assert is_png(figure)


def test_workloads_of_the_full_table():
    folder = ROOT / "examples/benchmarks"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import workloads; print(len(workloads.workloads()))"
    assert run("-c", code).strip() == "22"


def test_figures_in_the_repository():
    figure = ROOT / "examples/figures/derivatives.png"
    assert is_png(figure) and figure.stat().st_size < 100_000
