"""tapejit and its peers side by side: whole calls, steady and first, with the results checked.

    python examples/benchmarks/versus.py --peers jax,torch,autograd,numba,casadi,c --json times.json --readme README.md
    python examples/benchmarks/versus.py --from times.json --markdown table.md --plot plot.svg

Each tool runs in a process of its own that stays alive (peers/worker.py) and is asked in turn: a round is a turn of every
tool, and the order moves on from round to round, so that noise hits all alike. Figures are medians over rounds. Results are
compared with gradients that NumPy computes (peers/problems.py): a wrong one is shown as WRONG, without its time. First calls
are made in fresh processes with empty caches, and again in a second process that finds what the first one left on disk;
importing the tool and making the arguments are not counted. How each tool is called: peers/__init__.py and the modules there.
A peer that is not installed, fails, or takes longer than `--timeout` for an answer is told below the tables; the others go on.
The machine should have nothing else to do. `pip install jax torch autograd numba casadi matplotlib` and gcc make all columns;
what one has of them will do.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from peers import table
from peers.problems import chain_problem, find, problems
from peers.team import Failure, Team, cores

COLUMNS = {  # in the tables' order: tool -> the peer that `--peers` names
    "tapejit": "tapejit",
    "c": "c",
    "jax": "jax",
    "torch.compile": "torch",
    "torch eager": "torch",
    "autograd": "autograd",
    "numba": "numba",
    "casadi": "casadi",
}
PEERS = "jax,torch,autograd,numba,casadi,c"
TURN = 0.01  # seconds of a tool's turn in a round
LONG = 1.0  # seconds of turns after which a tool has had enough of them
CHAINS = (1000, 3000, 10_000, 30_000)
FIRST = (
    "d sin(x)^2 float",
    "rosenbrock n=10",
    "Black-Scholes, 5 Greeks n=1000",
    "GMM d2 K5 n1000",
    "MLP 784-128-10 f32 step batch 32",
    "tanh RNN 20 steps b32 32-64",
)


def wrong(results, expected, rtol) -> str:
    """Why results are not what is expected; empty where they are."""
    if len(results) != len(expected):
        return f"{len(results)} results, not {len(expected)}"
    for mine, right in zip(results, expected):
        if mine.shape != right.shape:
            return f"shape {mine.shape}, not {right.shape}"
        scale = float(np.max(np.abs(right), initial=0.0)) or 1.0
        error = float(np.max(np.abs(mine - right), initial=0.0)) / scale
        if not error <= rtol:
            return f"off by {error:.1g}"
    return ""


def prepared(team, tool, problem, expected):
    """(cell of the table, what the worker said of the first call): the results are checked."""
    try:
        first, results = team.ask(tool, "prepare", problem.name)
    except Failure as failure:
        return failure.cell()
    why = wrong(results, expected, problem.rtol)
    return {"state": "wrong", "note": why} if why else {"state": "ok", "first": first}


def steady(team, problem, expected, rounds) -> dict:
    """Tool -> cell: the times of all that have right results, measured in turns."""
    cells = {tool: prepared(team, tool, problem, expected) for tool in team.tools}
    running = [tool for tool, cell in cells.items() if cell["state"] == "ok"]
    numbers = {}
    for at in range(-1, rounds):
        turn = at % len(running) if running else 0
        for tool in running[turn:] + running[:turn]:
            cell = cells[tool]
            try:
                if at < 0:
                    numbers[tool], cell["times"] = max(1, round(TURN / team.ask(tool, "warm"))), []
                elif sum(cell["times"]) * numbers[tool] < LONG:
                    cell["times"].append(team.ask(tool, "time", numbers[tool]) / numbers[tool])
            except Failure as failure:
                cells[tool] = failure.cell()
                running.remove(tool)
    for tool in running:
        cells[tool]["median"] = statistics.median(cells[tool]["times"])
    team.drop()
    return cells


def first(tools, problem, options, folder) -> dict:
    """Tool -> cell: seconds of the first call in a fresh process, and in the next one."""
    cells, expected = {}, problem.reference()
    for tool in tools:
        caches = Path(tempfile.mkdtemp(dir=folder))
        seconds = []
        for _ in range(2):
            with Team([tool], caches=caches, **options) as team:
                cell = prepared(team, tool, problem, expected)
            if cell["state"] != "ok":
                break
            seconds.append(cell["first"])
        cells[tool] = {**cell, "median": seconds[0], "again": seconds[1]} if cell["state"] == "ok" else cell
        shutil.rmtree(caches, ignore_errors=True)
    return cells


def imported(tools, options, folder) -> dict:
    """Versions. Python's bytecode is written meanwhile, so that compiling it is nobody's first call."""
    versions = {}
    for tool in tools:
        with Team([tool], caches=Path(tempfile.mkdtemp(dir=folder)), **options) as team:
            prepared(team, tool, find("d sin(x)^2 float"), [])
            versions |= team.versions
    return versions


def first_calls(tools, listed, options, folder):
    """Row after row of the first calls. A tool that is late on a chain is not asked for a longer one."""
    late = set()
    for problem in listed:
        chain = problem.family == "chain"
        cells = first([t for t in tools if not (chain and t in late)], problem, options, folder)
        cells |= {t: {"state": "failed", "note": "a shorter chain failed"} for t in tools if t not in cells}
        late |= {t for t, cell in cells.items() if chain and cell["state"] == "failed"}
        yield problem, {t: cells[t] for t in tools}


def chosen(listed, words):
    """The problems whose names contain one of the words."""
    return [p for p in listed if not words or any(w.lower() in p.name.lower() for w in words)]


def arguments(argv):
    """The command line, checked, so that nothing is missing when all is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=PEERS, help=f"comma-separated, of {PEERS}, or none; tapejit is always measured")
    parser.add_argument("--threads", default="1,all", help="1, all or both (default: 1,all)")
    parser.add_argument("--only", metavar="TEXT", help="comma-separated; only workloads whose name contains one of them")
    parser.add_argument("--parts", default="steady,first", help="steady, first or both (default: steady,first)")
    parser.add_argument("--rounds", type=int, help="turns of each tool on each workload (default: 15; quick: 5)")
    parser.add_argument("--quick", action="store_true", help="a dozen workloads, one thread, few rounds")
    parser.add_argument("--timeout", type=float, help="seconds to wait for an answer (default: 60; quick: 20)")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the workers (default: this one)")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="measure nothing: take times from this file")
    parser.add_argument("--json", type=Path, help="write all times to this file, row by row")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--readme", type=Path, help=f"write the tables between {' and '.join(table.MARKERS)} of this file")
    parser.add_argument("--plot", type=Path, help="draw the steady times into this file: .svg or .png (needs matplotlib)")
    args = parser.parse_args(argv)
    peers = set(args.peers.split(",")) - {"none"}
    unknown = peers - set(COLUMNS.values())
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    args.tools = [tool for tool, peer in COLUMNS.items() if peer in {"tapejit", *peers}]
    args.words = args.only.split(",") if args.only else []
    args.rounds = args.rounds or (5 if args.quick else 15)
    args.timeout = args.timeout or (20.0 if args.quick else 60.0)
    for option, allowed in (("threads", {"1", "all"}), ("parts", {"steady", "first"})):
        if not set(getattr(args, option).split(",")) <= allowed:
            parser.error(f"--{option} takes {' and '.join(sorted(allowed))}")
    if args.quick and args.threads == "1,all":
        args.threads = "1"
    if args.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib")
    if args.readme:
        try:
            table.around_markers(args.readme.read_text())
        except (OSError, ValueError) as error:
            parser.error(f"--readme {args.readme}: {error}")
    return args


def measure(args, report, folder):
    """Fill the report; yields after each row."""
    quick = args.quick
    listed = chosen([p for p in problems() if p.quick or not quick], args.words)
    early = chosen([find(name) for name in (FIRST[:2] if quick else FIRST)], args.words)
    chains = chosen([chain_problem(n) for n in (CHAINS[:2] if quick else CHAINS)], args.words)
    if not listed + early + chains:
        sys.exit(f"no workload's name contains any of {args.words}")

    def begin(title, threads, tools, first=False):
        """A section."""
        section = {"title": title, "first": first, "threads": threads, "rows": []}
        report["sections"].append(section)
        print(table.heading(section, tools), flush=True)
        return section

    def end(section, tools, problem, cells):
        """A row of it."""
        section["rows"].append(table.row(problem, cells))
        print(table.line(section, tools), flush=True)

    expected, options = {}, {"python": args.python, "timeout": args.timeout}
    for mode in args.threads.split(",") if listed and "steady" in args.parts else ():
        threads = 1 if mode == "1" else len(cores())
        section = begin(f"Steady calls, {threads} thread{'s' * (threads > 1)}", threads, args.tools)
        with Team(args.tools, caches=folder / "steady", threads=threads, **options) as team:
            for problem in listed:
                if problem.name not in expected:
                    expected[problem.name] = problem.reference()
                end(section, args.tools, problem, steady(team, problem, expected[problem.name], args.rounds))
                report["versions"] |= team.versions
                yield
    if "first" not in args.parts:
        return
    options["threads"] = len(cores())
    tools = [t for t in args.tools if t != "c"]  # compiled ahead of time
    report["versions"] |= imported(tools, options, folder)
    for title, these in (("First calls", early), ("First calls of chains", chains)):
        if these:
            section = begin(f"{title} (again in a second process)", options["threads"], tools, first=True)
            for problem, cells in first_calls(tools, these, options, folder):
                end(section, tools, problem, cells)
                yield


def main(argv=None):
    """Measure, print as rows are done, write what was asked for."""
    args = arguments(argv)
    if args.source:
        report = json.loads(args.source.read_text())
    else:
        report = {"machine": table.machine(), "tools": args.tools, "versions": {}, "sections": []}
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="versus-") as folder:
            for _ in measure(args, report, Path(folder)):
                report["minutes"] = round((time.monotonic() - start) / 60, 1)
                if args.json:
                    args.json.write_text(json.dumps(report, indent=1))
    print("\n".join(table.notes(report)))
    if args.markdown:
        args.markdown.write_text(table.markdown(report))
    if args.readme:
        args.readme.write_text(table.between_markers(args.readme.read_text(), report))
    if args.plot:
        table.plot(report, args.plot)


if __name__ == "__main__":
    main()
