"""What versus.py measured, for people: lines while it runs, Markdown, a plot.

A report is what `--json` writes: the machine, tools and versions, and sections of rows. A row has a workload's name, size and
kind, and a cell per tool: its state ("ok", "wrong", "failed", "absent"), the median in seconds, all times, a note. `BY_HAND`
names the columns that do not differentiate: they are limits, not peers, and no ratio to the best peer counts them.
"""

from __future__ import annotations

import math
import os
import platform
from datetime import datetime, timezone

from tapejit.bench import cpu_name

BY_HAND = {"c": "C by hand", "numba": "numba by hand"}
RATIOS = ("best peer / tapejit", "tapejit / C")


def machine() -> dict:
    """What the figures depend on, beside versions."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def row(problem, cells) -> dict:
    """A row of a section."""
    return {"name": problem.title, "size": problem.size, "kind": problem.kind, "cells": cells}


def ratios(cells) -> tuple:
    """(best peer / tapejit, tapejit / C), None where one of the two has no time."""
    times = {tool: cell["median"] for tool, cell in cells.items() if cell["state"] == "ok"}
    ours = times.pop("tapejit", None)
    limit = times.get("c")
    best = min((t for tool, t in times.items() if tool not in BY_HAND), default=None)
    return (best / ours if ours and best else None), (ours / limit if ours and limit else None)


def duration(seconds) -> str:
    """Three digits and a unit."""
    for unit, scale in (("us", 1e6), ("ms", 1e3), ("s", 1.0)):
        if seconds * scale < 999.5 or unit == "s":
            value = seconds * scale
            return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.01))))}f} {unit}"
    raise AssertionError


def text(cell) -> str:
    """A cell: a time, or what came instead of it."""
    if cell["state"] != "ok":
        return {"absent": "-", "wrong": "WRONG", "failed": "failed"}[cell["state"]]
    return duration(cell["median"]) + (f" ({duration(cell['again'])})" if "again" in cell else "")


def times_as(ratio) -> str:
    """A ratio with two digits."""
    return "" if ratio is None else f"{ratio:.3g}" if ratio < 100 else f"{ratio:.0f}"


def heading(section, tools) -> str:
    """The lines above a section."""
    width = width_of(section)
    columns = "".join(f"{BY_HAND.get(t, t):>{width}}" for t in tools)
    return f"\n{section['title']}\n{'':38}{columns}{'peer/ours':>11}{'ours/C':>8}"


def width_of(section) -> int:
    """Columns of first calls hold two times."""
    return 19 if section["first"] else 15


def line(section, tools) -> str:
    """The last row of a section."""
    row = section["rows"][-1]
    columns = "".join(f"{text(row['cells'][t]):>{width_of(section)}}" for t in tools)
    peer, limit = map(times_as, ratios(row["cells"]))
    return f"{row['name'] + ' ' + row['size']:38}{columns}{peer:>11}{limit:>8}"


def about(report) -> str:
    """The machine and the versions in a sentence."""
    m = report["machine"]
    tools = ", ".join(f"{tool} {version}" for tool, version in report["versions"].items())
    return f"{m['cpu']}, {m['cores']} cores, {m['system']}, {m['date'][:10]}. {tools}."


def notes(report) -> list[str]:
    """Why cells have no time, one line per reason, and the mean ratios of each section."""
    reasons = {}
    for section in report["sections"]:
        for row in section["rows"]:
            for tool, cell in row["cells"].items():
                if cell["state"] != "ok":
                    key = tool, text(cell), cell["note"]
                    reasons.setdefault(key, dict.fromkeys([])).setdefault(f"{row['name']} {row['size']}")
    lines = []
    for section in report["sections"]:
        peers, limits = zip(*(ratios(row["cells"]) for row in section["rows"])) if section["rows"] else ((), ())
        means = [f"{name} {times_as(mean(values))}" for name, values in zip(RATIOS, (peers, limits)) if mean(values)]
        if means:
            lines.append(f"{section['title']}: geometric means: {', '.join(means)}.")
    for (tool, state, why), where in reasons.items():
        lines.append(f"{BY_HAND.get(tool, tool)}: {state}: {why} ({places(list(where))}).")
    return lines


def places(names) -> str:
    """A list of workloads, shortened."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def mean(values):
    """The geometric mean of what is there."""
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def markdown(report) -> str:
    """All sections as tables, with the machine above and the notes below."""
    lines = [about(report), ""]
    for section in report["sections"]:
        lines += [f"### {section['title']}", ""]
        tools = [t for t in report["tools"] if any(t in row["cells"] for row in section["rows"])]
        head = ["workload", *(BY_HAND.get(t, t) for t in tools), *RATIOS]
        lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        for row in section["rows"]:
            cells = [text(row["cells"][t]) for t in tools] + [times_as(r) for r in ratios(row["cells"])]
            lines.append("| " + " | ".join([f"{row['name']} {row['size']}", *cells]) + " |")
        lines.append("")
    return "\n".join(lines + [f"- {note}" for note in notes(report)]) + "\n"


def plot(report, path):
    """Dots: each tool's time over tapejit's, a panel per section, a line per workload."""
    from matplotlib.figure import Figure

    sections = [s for s in report["sections"] if s["rows"]]
    most = max(len(s["rows"]) for s in sections)
    figure = Figure(figsize=(7.5 * len(sections), 1.8 + 0.27 * most), layout="constrained")
    for axes, section in zip(figure.subplots(1, len(sections), squeeze=False)[0], sections):
        rows = [r for r in section["rows"] if r["cells"]["tapejit"]["state"] == "ok"][::-1]
        for at, tool in enumerate(t for t in report["tools"] if t != "tapejit"):
            dots = [
                (r["cells"][tool]["median"] / r["cells"]["tapejit"]["median"], y)
                for y, r in enumerate(rows)
                if tool in r["cells"] and r["cells"][tool]["state"] == "ok"
            ]
            style = {"marker": "|", "s": 120, "color": "black"} if tool == "c" else {"s": 28, "color": f"C{at}"}
            axes.scatter(*zip(*dots) if dots else ([], []), label=BY_HAND.get(tool, tool), zorder=3, **style)
        axes.axvline(1.0, color="black", linewidth=0.8, label="tapejit")
        axes.set_yticks(range(len(rows)), [f"{r['name']}  {r['size']}" for r in rows], fontsize=8)
        axes.set(xscale="log", xlabel="time / tapejit's time", ylim=(-0.6, len(rows) - 0.4))
        axes.grid(axis="both", alpha=0.3)
        axes.set_title(section["title"], fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=9, fontsize=8)
    m = report["machine"]
    figure.supxlabel(f"{m['cpu']}, {m['cores']} cores, {m['date'][:10]}", fontsize=8)
    figure.savefig(path, dpi=110)
