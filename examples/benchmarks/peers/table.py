"""What versus.py measured, for people: lines while it runs, Markdown, the part of a README between two markers, a plot.

A report is what `--json` writes: the machine, tools and versions, and sections of rows. A row has a workload's name, size and
kind, and a cell per tool: its state ("ok", "wrong", "failed", "absent"), the median in seconds, all times, a note. `BY_HAND`
names the columns that do not differentiate: they are limits, not peers, and no ratio to the best peer counts them. First calls
are not compared with those of the tools that never compile (`EAGER`).
"""

from __future__ import annotations

import math
import os
import platform
from datetime import datetime, timezone

from tapejit.bench import cpu_name

BY_HAND = {"c": "C by hand", "numba": "numba by hand"}
EAGER = {"torch eager", "autograd"}
RATIOS = ("best peer / tapejit", "C / tapejit")
MARKERS = ("<!-- versus.py: begin -->", "<!-- versus.py: end -->")


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


def ratios(section, row) -> tuple:
    """(best peer / tapejit, C / tapejit, the best peer), None where one of the two has no time."""
    cells = row["cells"]
    times = {tool: cell["median"] for tool, cell in cells.items() if cell["state"] == "ok"}
    ours = times.pop("tapejit", None)
    limit = times.get("c")
    peers = times.keys() - BY_HAND.keys() - (EAGER if section["first"] else set())
    best = min(peers, key=times.get, default=None)
    return (times[best] / ours if ours and best else None), (limit / ours if ours and limit else None), best


def duration(seconds) -> str:
    """Three digits and a unit."""
    for unit, scale in (("ns", 1e9), ("us", 1e6), ("ms", 1e3), ("s", 1.0)):
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
    return f"\n{section['title']}\n{'':38}{columns}{'peer/ours':>11}{'C/ours':>8}"


def width_of(section) -> int:
    """Columns of first calls hold two times."""
    return 19 if section["first"] else 15


def line(section, tools) -> str:
    """The last row of a section."""
    row = section["rows"][-1]
    columns = "".join(f"{text(row['cells'][t]):>{width_of(section)}}" for t in tools)
    peer, limit = map(times_as, ratios(section, row)[:2])
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
        peers, limits, _ = zip(*(ratios(section, row) for row in section["rows"])) if section["rows"] else ((), (), ())
        means = [f"{name} {times_as(mean(values))}" for name, values in zip(RATIOS, (peers, limits)) if mean(values)]
        if means:
            lines.append(f"{section['title']}: geometric means: {', '.join(means)}.")
    if any(section["first"] for section in report["sections"]):
        lines.append(f"First calls: {' and '.join(sorted(EAGER))} build no function, so no ratio counts them.")
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


def columns(section, tools) -> list[str]:
    """The tools that have a time in the section, or a wrong result."""
    states = {t: {row["cells"][t]["state"] for row in section["rows"] if t in row["cells"]} for t in tools}
    return [t for t in tools if states[t] & {"ok", "wrong"}]


def rows(section, tools) -> list[str]:
    """A section as a table."""
    tools = columns(section, tools)
    head = ["workload", *(BY_HAND.get(t, t) for t in tools), *RATIOS]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in section["rows"]:
        peer, limit, best = ratios(section, row)
        last = [f"{times_as(peer)} ({best})" if peer else "", times_as(limit)]
        cells = [f"{row['name']} {row['size']}", *(text(row["cells"][t]) for t in tools), *last]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(report, folded=False) -> str:
    """All sections as tables, with the machine above and the notes below; folded: those after the first open with a click."""
    parts = [[about(report)]]
    for at, section in enumerate(s for s in report["sections"] if s["rows"]):
        table = rows(section, report["tools"])
        if folded and at:
            parts.append([f"<details><summary>{section['title']}</summary>", "", *table, "", "</details>"])
        else:
            parts.append([f"**{section['title']}**", "", *table])
    parts.append([f"- {note}" for note in notes(report)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def around_markers(page) -> tuple[str, str]:
    """What is above and below the two markers, markers included; ValueError if a page does not have them."""
    begin, end = MARKERS
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"it needs one line {begin} and, below it, one line {end}")
    return page[: page.index(begin)] + begin, page[page.index(end) :]


def between_markers(page, report) -> str:
    """The page with the tables in place of what was between its two markers."""
    above, below = around_markers(page)
    return f"{above}\n{markdown(report, folded=True)}{below}"


def plot(report, path):
    """Dots: each tool's time over tapejit's; a panel per section of steady calls, a line per workload; .svg or .png."""
    import matplotlib
    from matplotlib.figure import Figure

    sections = [s for s in report["sections"] if s["rows"] and not s["first"]] or report["sections"][:1]
    tools = [t for t in report["tools"] if t != "tapejit" and any(t in columns(s, [t]) for s in sections)]
    most = max(len(s["rows"]) for s in sections)
    figure = Figure(figsize=(3.2 + 4.6 * len(sections), 1.6 + 0.25 * most), layout="constrained")
    for panel, (axes, section) in enumerate(zip(figure.subplots(1, len(sections), squeeze=False, sharex=True)[0], sections)):
        lines = section["rows"][::-1]
        for at, tool in enumerate(tools):
            dots = [
                (row["cells"][tool]["median"] / row["cells"]["tapejit"]["median"], y)
                for y, row in enumerate(lines)
                if all(row["cells"].get(t, {"state": ""})["state"] == "ok" for t in ("tapejit", tool))
            ]
            style = {"marker": "|", "s": 90, "color": "black"} if tool == "c" else {"s": 22, "color": f"C{at}"}
            axes.scatter(*zip(*dots) if dots else ([], []), label=BY_HAND.get(tool, tool), zorder=3, **style)
        axes.axvline(1.0, color="black", linewidth=0.8, label="tapejit")
        names = [] if panel and len(lines) == most else [f"{row['name']}  {row['size']}" for row in lines]
        axes.set_yticks(range(len(lines)), names or [""] * len(lines), fontsize=8)
        axes.set(xscale="log", xlabel="time / tapejit's time", ylim=(-0.6, len(lines) - 0.4))
        axes.grid(axis="x", alpha=0.3)
        rules = [y for row in range(len(lines)) for y in (row, row, math.nan)]  # one line, and no ticks: the file stays small
        axes.plot([0.0, 1.0, math.nan] * len(lines), rules, color="0.9", linewidth=0.8, transform=axes.get_yaxis_transform())
        axes.minorticks_off()
        axes.tick_params(axis="y", length=0)
        axes.set_title(section["title"], fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=9, fontsize=8)
    m = report["machine"]
    figure.supxlabel(f"{m['cpu']}, {m['cores']} cores, {m['date'][:10]}", fontsize=8)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "versus"}):
        figure.savefig(path, dpi=100)
