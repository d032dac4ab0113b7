"""The comparison with peers: workers answer, results agree with NumPy's, what is wrong or missing is told. No times."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder of the benchmarks, importable."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return FOLDER


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_tapejit_and_c_agree(tmp_path):
    out, table = tmp_path / "out.json", tmp_path / "table.md"
    command = [sys.executable, FOLDER / "versus.py", "--peers", "c", "--only", "rosenbrock n=1000", "--quick"]
    command += ["--parts", "steady", "--rounds", "1", "--timeout", "60", "--json", out, "--markdown", table]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(out.read_text())["sections"][0]["rows"]
    assert (row["name"], row["size"]) == ("rosenbrock", "n=1000")
    assert {tool: cell["state"] for tool, cell in row["cells"].items()} == {"tapejit": "ok", "c": "ok"}
    assert "| rosenbrock n=1000 |" in table.read_text() and "rosenbrock n=1000" in done.stdout


def test_wrong_results_are_told(benchmarks):
    import versus

    right = [np.float64(2.0), np.array([1.0, -3.0])]
    assert versus.wrong([np.float64(2.0), np.array([1.0, -3.0 + 1e-12])], right, 1e-8) == ""
    assert versus.wrong([np.float64(2.0), np.array([1.0, -3.0 + 1e-6])], right, 1e-8) == "off by 3e-07"
    assert versus.wrong([np.float64(2.0), np.array([1.0, np.nan])], right, 1e-8) == "off by nan"
    assert versus.wrong([np.float64(2.0), np.array([[1.0, -3.0]])], right, 1e-8) == "shape (1, 2), not (2,)"
    assert versus.wrong(right[:1], right, 1e-8) == "1 results, not 2"


def test_a_tool_that_is_missing_or_late_is_told(benchmarks, tmp_path):
    from peers.team import Failure, Team

    with Team(["nothing", "tapejit"], caches=tmp_path, timeout=60) as team:
        with pytest.raises(Failure, match="No module named 'peers.with_nothing'"):
            team.ask("nothing", "prepare", "d sin(x)^2 float")
        seconds, (slope,) = team.ask("tapejit", "prepare", "d sin(x)^2 float")
        assert seconds > 0 and abs(slope - np.sin(1.4)) < 1e-15
        team.workers["tapejit"].timeout = 0.01
        with pytest.raises(Failure, match="no answer in 0.01 s"):
            team.ask("tapejit", "time", 100_000_000)
        assert not team.workers["tapejit"].alive


@pytest.mark.parametrize("name", ["GMM d2 K5 n1000", "logistic regression 100x5", "MLP 2-16-16-1 batch 16", "rosenbrock n=10"])
def test_references_against_differences(benchmarks, name):
    """The gradients that NumPy computes by hand, against central differences of the values that it computes."""
    from peers.problems import find, flatten

    problem = find(name)
    value, *slopes = problem.reference()
    rng = np.random.default_rng(0)
    moved = [a for a in flatten(problem.args)][: len(slopes)]
    directions = [rng.standard_normal(a.shape) for a in moved]

    def along(h):
        for a, d in zip(moved, directions):
            a += h * d
        result = problem.reference()[0]
        for a, d in zip(moved, directions):
            a -= h * d
        return result

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    assert sum(np.sum(s * d) for s, d in zip(slopes, directions)) == pytest.approx(expected, rel=1e-6)
