"""Looking inside: the program text at each stage, `explain`, and drawings of the graph.

In: a Function (or any callable) and arguments. Out: text, or an image file. Nothing here runs in an ordinary call.
"""

from __future__ import annotations

from tapejit.ir.location import describe
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.passes.regions import drop_unused
from tapejit.ir.text import show

from .errors import ArgumentError, located
from .paths import Path
from .trace import trace

STAGES = ("recorded", "gradient", "optimized", "kernels", "llvm", "asm")


def check_stage(stage):
    if stage not in STAGES:
        raise located(ArgumentError, f"there is no stage {stage!r}", f"one of {', '.join(STAGES)}")


def program_at(function, args, kwargs, stage):
    """The graph of a Function at these arguments, at one of the graph stages."""
    if stage == "recorded":
        for t in reversed(function.transforms):
            args, kwargs, _ = t.enter(args, kwargs)
        return drop_unused(trace(function.fn, args, kwargs)[0].graph)
    graph = function.program(args, kwargs).graph
    return graph if stage == "gradient" else optimize(graph)


def program_text(function, args, kwargs, stage="optimized", color=False) -> str:
    """The program as text; see `Function.ir`."""
    check_stage(stage)
    if stage in ("recorded", "gradient", "optimized"):
        return show(program_at(function, args, kwargs, stage), color=color)
    code = compiled(function, args, kwargs)
    if stage == "kernels":
        return code.kernels_text
    return code.optimized_llvm_text() if stage == "llvm" else code.asm_text()


def compiled(function, args, kwargs):
    """The Executable for these arguments, as a call would use it."""
    path = taken(function.lookup(*args, **kwargs), function.program(args, kwargs))
    if path is not None and path.code is not None:
        return path.code
    from tapejit.codegen import compile_graph

    return compile_graph(program_at(function, args, kwargs, "optimized"), function.__name__)


def taken(paths, program):
    """The known path that a record took, or None."""
    if paths is None:
        return None
    path, run = paths.run_as(program)
    if path is not None:
        return path if path.program.trips.knows(run) else None
    path, known, _ = paths.nearest(program)
    return path if known else None


def path_lines(paths):
    """The tree of paths: for each guard where some part its line and the values seen, and how often each path was taken."""
    lines = [f"paths ({len(paths)}, {_calls(sum([p.count for p in paths]))}):"]
    number, stack = 0, [(paths.top, 1, "")]
    while stack:
        node, depth, before = stack.pop()
        if type(node) is Path:
            number += 1
            soon = ", interpreted" if node.soon else ""
            often = "" if node.program.trips is None else f"; {_often(node.program.trips)}"
            lines.append(f"{'  ' * depth}{before}path {number}: {_calls(node.count)}{soon}{often}")
            continue
        lines.append(f"{'  ' * depth}{before}{describe(node.loc)}")
        seen = [(_seen(value), below) for value, below in sorted(node.branches.items(), key=_order, reverse=True)]
        width = max([len(text) for text, _ in seen])
        stack += [(below, depth + 1, f"{text:{width}} -> ") for text, below in seen]
    return lines


def _order(branch):
    value = branch[0] if type(branch[0]) is tuple else branch[:1]
    return [n if isinstance(n, int) else -1 for n in value]


def _seen(value) -> str:
    """What a guard saw; in a loop that was folded, in so many iterations."""
    if type(value) is not tuple:
        return repr(value)
    seen, *place = value
    if isinstance(place[-1], str):
        return "any number of times that was recorded"
    if len(place) % 2:
        return f"with room for {place[-1]:,} iterations"
    return f"{seen!r} {' x '.join([f'{n:,}' for n in place[1::2] if n is not None])} times"


def _often(trips) -> str:
    """How often loops ran in the records of a path."""
    known = trips.known[trips.known[:, 0] >= 0]
    what = [f"{low:,} to {high:,} times" for low, high in zip(known.min(axis=0), known.max(axis=0))]
    return f"its loop{'s' * (len(what) > 1)} {' and '.join(what)}, {len(known):,} ways"


def _calls(n):
    return f"{n:,} call{'' if n == 1 else 's'}"


def code_lines(stats) -> list[str]:
    """The kernels with their loops and costs, memory, and where compile time went."""
    ms = stats.compile_ms
    total = sum([t for t in ms.values()])
    lines = [
        f"compiled in {total:.1f} ms ({', '.join(f'{k} {t:.1f}' for k, t in ms.items())})"
        f"{', code shared with an equal graph' if stats.cached else ''}; {len(stats.kernels)} kernels, "
        f"{stats.library_calls} library calls, arena {stats.arena_bytes} bytes, machine code {stats.code_bytes} bytes"
    ]
    for k in stats.kernels:
        loops = " x ".join(map(str, k["loops"])) or "straight line"
        lines.append(
            f"  {k['name']}  loops {loops}; {k['loads']} loads, {k['stores']} stores, {k['bytes']} bytes, "
            f"{k['operations']} operations; fused from: {_brief(k['fused'])}"
        )
    return lines


def _brief(names, most=12):
    names = [names] if isinstance(names, (str, int)) else list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def explain(function, args, kwargs) -> str:
    """What is compiled for these arguments, in words and figures; see `Function.explain`."""
    code = compiled(function, args, kwargs)
    program, known, info = function.program(args, kwargs), function.lookup(*args, **kwargs), function.cache_info()
    path = taken(known, program)
    program = program if path is None else path.program
    graph = optimize(program.graph)
    lines = [f"{function!r}  {', '.join(f'{p.name or i}: {p.type}' for i, p in enumerate(graph.params))}"]
    lines.append(
        f"  operations: {len(program.graph)} after the transforms, {len(graph)} optimized; "
        f"captured arrays: {len(program.captures)}"
    )
    if program.connected is not None and not all(program.connected):
        missing = [i for i, on in enumerate(program.connected) if not on]
        lines.append(f"  the result does not depend on differentiated input(s) {missing}: their gradient is zero or None")
    lines += ["  " + line for line in code_lines(code.stats)]
    guards = [n for n in graph.nodes if n.op.kind == "guard"]
    for i, g in enumerate(guards):
        saw = "ran as often as in some record" if "trips" in g.attrs else f"saw {g.attrs['seen']!r}"
        lines.append(f"  guard {i}: {saw} at {describe(g.loc)}")
    if known is not None:
        lines += ["  " + line for line in path_lines(known)]
        if known.merged is not None:
            many = len(known.merged.members)
            lines.append(f"  {many} of them in one function, {len(known.merged.graph)} operations until they part")
    state = "compiled for these arguments" if known is not None else "not called with such arguments yet"
    lines.append(
        f"  cache: {state}; {info.currsize} of {info.maxsize} keys, {info.paths} paths, {info.hits} hits, {info.misses} misses"
    )
    return "\n".join(lines)


_COLORS = {
    "param": "#cfe8cf", "result": "#f3d9b1", "elementwise": "#dbe7f6", "reduce": "#f6dbe3", "contract": "#e3dbf6",
    "guard": "#f6b8b8",
}  # fmt: skip


def draw(function, path, args, kwargs, stage="optimized") -> str:
    """Draw the graph into `path` (png, svg or pdf by its ending), through networkx and matplotlib; returns the path."""
    check_stage(stage)
    if stage not in ("recorded", "gradient", "optimized"):
        raise located(ArgumentError, f"draw: {stage!r} is not a graph", 'stage="recorded", "gradient" or "optimized"')
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise located(ArgumentError, "draw needs matplotlib, which is not installed", "pip install matplotlib") from error
    import networkx

    from tapejit.ir.analysis import to_networkx

    graph = to_networkx(program_at(function, args, kwargs, stage))
    layers = {}
    for node in networkx.topological_sort(graph):
        above = [layers[p] for p in graph.predecessors(node)]
        layers[node] = 1 + max(above) if above else 0
    for node, data in graph.nodes(data=True):
        data["layer"] = layers[node]
    rows = max(layers.values()) + 1
    widest = max([list(layers.values()).count(k) for k in range(rows)])
    position = networkx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    position = {n: (x, -y) for n, (x, y) in position.items()}
    figure = Figure(figsize=(min(4 + 1.8 * widest, 40), min(2 + 0.9 * rows, 60)))
    axes = figure.add_subplot()
    colors = [_COLORS.get(d["kind"], "#eeeeee") for _, d in graph.nodes(data=True)]
    labels = {n: d["label"] for n, d in graph.nodes(data=True)}
    networkx.draw_networkx_edges(graph, position, ax=axes, edge_color="#888888", node_size=1800, arrowsize=9)
    networkx.draw_networkx_nodes(graph, position, ax=axes, node_color=colors, node_size=1800, edgecolors="#666666")
    networkx.draw_networkx_labels(graph, position, labels, ax=axes, font_size=7)
    axes.set_axis_off()
    axes.set_title(f"{function!r}, {stage}", fontsize=9)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return str(path)
