"""Eager NumPy, recorded and interpreted, compiled: first call, steady call, speed-up, per workload and size.

    python examples/benchmarks/compiled_vs_eager.py --json results.json --png results.png

Whole calls are timed, the variants take turns, medians are reported; their results are checked against each other. Eager
NumPy computes what the compiled function does, with the gradient written by hand. Environment variables that pin BLAS
(OPENBLAS_CORETYPE, OMP_NUM_THREADS, ...) change the figures of all three: unset them unless that is what you measure.
"""

import argparse
import json
from pathlib import Path

from workloads import workloads

from tapejit.bench import run


def plot(report, path):
    """Bars: how many times as fast the compiled call is as eager NumPy."""
    from matplotlib.figure import Figure

    results = report["results"][::-1]
    ratios = [r["eager_us"] / r["compiled_us"] for r in results]
    figure = Figure(figsize=(7.5, 1 + 0.27 * len(results)), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="eager NumPy, gradient by hand / compiled (times as fast)")
    bars = axes.barh([f"{r['name']}  {r['size']}" for r in results], ratios, color=["C0" if r >= 1 else "C3" for r in ratios])
    axes.bar_label(bars, [f" {r:.1f}" for r in ratios], fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.margins(x=0.12, y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(f"{report['machine']['cpu']}, {report['machine']['date'][:10]}", fontsize=9)
    figure.savefig(path, dpi=110)


def main():
    """Run the workloads, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--png", type=Path, help="draw the speed-ups into this file")
    parser.add_argument("--quick", action="store_true", help="small sizes only, fewer repeats")
    parser.add_argument("--only", metavar="TEXT", help="only the workloads whose name contains this")
    args = parser.parse_args()
    chosen = [w for w in workloads(args.quick) if not args.only or args.only.lower() in w.name.lower()]
    if not chosen:
        parser.error(f"no workload's name contains {args.only!r}")
    report = run(chosen, 0.1 if args.quick else 1.0)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    if args.png:
        plot(report, args.png)


if __name__ == "__main__":
    main()
