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


def test_quick_run(tmp_path):
    """tapejit, and C where there is a compiler, on the short list: all results are right, the README has the table."""
    times, page = tmp_path / "times.json", tmp_path / "README.md"
    page.write_text("above\n<!-- versus.py: begin -->\n<!-- versus.py: end -->\nbelow\n")
    command = [sys.executable, FOLDER / "versus.py", "--quick", "--parts", "steady", "--rounds", "1", "--timeout", "60"]
    command += ["--peers", "c" if shutil.which("gcc") else "none", "--json", times, "--readme", page]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(times.read_text())["sections"][0]["rows"]
    assert len(rows) >= 12
    for row in rows:
        assert row["cells"]["tapejit"]["state"] == "ok", row
        assert row["cells"].get("c", {"state": "absent"})["state"] in ("ok", "absent"), row
        assert f"| {row['name']} {row['size']} |" in page.read_text() and f"{row['name']} {row['size']}" in done.stdout
    lines = page.read_text().splitlines()
    assert lines[0] == "above" and lines[-1] == "below"
    assert {line.count("|") for line in lines if line.startswith("|")} == {6 if shutil.which("gcc") else 5}


def report():
    """A report with times that are easily divided."""

    def cells(**times):
        failed = {"state": "failed", "note": "it broke"}
        return {tool: {"state": "ok", "median": t, "times": [t]} if t else dict(failed) for tool, t in times.items()}

    machine = {"cpu": "Some CPU", "cores": 2, "system": "Linux", "date": "2026-01-02T03:04+00:00", "load": 0.0}
    rows = [
        {"name": "a", "size": "n=1", "kind": "loops", "cells": cells(tapejit=2e-7, c=1e-7, jax=6e-6, numba=3e-7, casadi=None)},
        {"name": "b", "size": "n=2", "kind": "loops", "cells": cells(tapejit=2e-3, c=8e-3, jax=3e-3, numba=1.0, casadi=None)},
    ]
    sections = [{"title": f"Part {i}", "first": False, "threads": i, "rows": rows} for i in (1, 2)]
    tools = ["tapejit", "c", "jax", "numba", "casadi"]
    return {"machine": machine, "tools": tools, "versions": {"jax": "1.2"}, "sections": sections}


TABLE = """\
| workload | tapejit | C by hand | jax | numba by hand | best peer / tapejit | C / tapejit |
|---|---:|---:|---:|---:|---:|---:|
| a n=1 | 200 ns | 100 ns | 6.00 us | 300 ns | 30 (jax) | 0.5 |
| b n=2 | 2.00 ms | 8.00 ms | 3.00 ms | 1.00 s | 1.5 (jax) | 4 |
"""


def test_markdown(benchmarks):
    from peers import table

    text = table.markdown(report())
    assert text.startswith("Some CPU, 2 cores, Linux, 2026-01-02. jax 1.2.\n")
    assert text.count("\n" + TABLE) == 2
    assert "Part 1: geometric means: best peer / tapejit 6.71, C / tapejit 1.41." in text
    assert "casadi: failed: it broke (a n=1, b n=2)." in text


def test_first_calls_are_not_compared_with_tools_that_build_nothing(benchmarks):
    from peers import table

    cells = {tool: {"state": "ok", "median": t, "again": t} for tool, t in dict(tapejit=0.1, autograd=1e-3, jax=0.4).items()}
    row = {"name": "a", "size": "n=1", "kind": "loops", "cells": cells}
    assert table.ratios({"first": True}, row) == (4.0, None, "jax")
    assert table.ratios({"first": False}, row) == (0.01, None, "autograd")


def test_readme_is_rewritten_between_its_markers(benchmarks):
    from peers import table

    begin, end = table.MARKERS
    once = table.between_markers(f"# top\n\n{begin}\nold\n{end}\n\nrest\n", report())
    assert once.startswith(f"# top\n\n{begin}\n") and once.endswith(f"{end}\n\nrest\n")
    assert TABLE in once and "old" not in once and once.count("<details>") == once.count("</details>") == 1
    assert table.between_markers(once, report()) == once
    for page in ("no markers", f"{end}\n{begin}", f"{begin}\n{begin}\n{end}"):
        with pytest.raises(ValueError, match="versus.py: begin"):
            table.between_markers(page, report())


def test_plot(benchmarks, tmp_path):
    pytest.importorskip("matplotlib")
    from peers import table

    table.plot(report(), tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f">{text}</text>" in drawn for text in ("Part 1", "Part 2", "jax", "C by hand", "b  n=2"))
    assert ">casadi<" not in drawn


def test_options_are_checked_before_anything_is_measured(benchmarks, tmp_path, capsys):
    import versus

    page = tmp_path / "README.md"
    page.write_text("nothing to replace")
    for options, why in (
        (["--readme", str(page)], "it needs one line <!-- versus.py: begin -->"),
        (["--peers", "jax,numpy"], "no such peer: numpy"),
        (["--threads", "3"], "--threads takes 1 and all"),
    ):
        with pytest.raises(SystemExit):
            versus.main(options)
        said = capsys.readouterr()
        assert why in said.err and not said.out


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
        with pytest.raises(Failure, match="not installed: No module named 'peers.with_nothing'"):
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
