"""Structured control flow: `scan`, `fori_loop`, `while_loop`, `cond`, `switch`, `map`, with JAX's signatures.

A plain Python loop or `if` on recorded values needs none of these. They are for loops whose number of iterations differs from
call to call (a Python `while` is recorded anew for each), for choices that are to be made per lane under vmap, and for programs
too long to be recorded step by step.

In: functions and the values they start from. The functions are recorded once each, one level deeper, at concrete values; what
they close over becomes an operand. Out: one node of `ir/ops/loop.py` or `branch.py`, computed at once, by compiled code where
there is much to do (`record.py`), and part of the record that its operands belong to. Derivatives of any order, vmap, tapes and
nesting follow from the operations' rules. Outside of any record: NumPy in, NumPy out; Arrays in, Arrays out.
"""

from __future__ import annotations

import builtins
from contextlib import nullcontext

import numpy as np

from tapejit.ir.graph import Graph, Value
from tapejit.ir.location import resolve
from tapejit.ir.op import TABLE
from tapejit.ir.ops.guard import guards_of
from tapejit.ir.ops.loop import scan_attrs
from tapejit.ir.types import type_of

from .array import Array, is_a
from .errors import ArgumentError, ArgumentTypeError, GuardError, OutputError, ShapeError, located
from .promote import asarray, cast, truth
from .record import apply, capture_key, recording, state
from .trace import definition, function_name, leaf_data
from .tree import Tree, flatten, map_leaves, paths, unflatten
from .variable import settled

SCAN, WHILE, SWITCH = TABLE["scan"], TABLE["while"], TABLE["switch"]


class _Region:
    """A function recorded as a region. graph: its parameters are the leaves given, then what it captured."""

    def __init__(self, f, args, weak, tree, quiet=False):
        """args: concrete leaves; weak: whether each came from a Python scalar; tree: of the positional arguments."""
        if not callable(f):
            raise located(ArgumentTypeError, f"{type(f).__name__} {f!r:.60} is no function", "pass a function")
        self.f, self.name = f, function_name(f)
        with recording(self.name) as record, np.errstate(all="ignore") if quiet else nullcontext():
            inner = [record.param(x, None, w) for x, w in zip(args, weak)]
            out = f(*unflatten(tree, inner))
            leaves, self.out_tree = flatten(out)
            self.outs = [asarray(settled(o)) for o in leaves]
            self.graph, captures = record.finish(self.outs)
        self.captures = [settled(x) for x in captures]  # Variables as the tapes read them
        self.count = len(args)
        guards = [g for g in guards_of(self.graph) if "axis" not in g.attrs]
        if guards:
            kind = type(guards[0].attrs["seen"])
            taken = "tapejit.numpy.take(a, i) where `a[i]` is of a plain ndarray; " if kind is int else ""
            raise located(
                GuardError,
                f"{self.name} is recorded once for all iterations and branches, but reads a value as a Python {kind.__name__}",
                f"{taken}tapejit.cond(p, f, g, x) or np.where(p, a, b); or a plain Python loop, which may branch as it likes",
                where=resolve(guards[0].loc),
            )

    def types(self):
        return [r.type for r in self.graph.results]

    def over(self, captures) -> Graph:
        """The graph with parameters for all of these captured objects."""
        own = {capture_key(x): p for x, p in zip(self.captures, self.graph.params[self.count :])}
        params = [own.get(capture_key(x)) or Value(_type(x)) for x in captures]
        return Graph(self.name, [*self.graph.params[: self.count], *params], self.graph.nodes, self.graph.results)


def _type(x):
    return type_of(x._data if isinstance(x, Array) else x)


def _joined(*regions) -> list:
    """What any of the regions captured, once each."""
    return list({capture_key(x): x for r in regions for x in r.captures}.values())


def _start(values):
    """(leaves, concrete data, weak flags, tree) of what a loop starts from."""
    leaves, tree = flatten(map_leaves(settled, values))
    data = [leaf_data(x) for x in leaves]
    return leaves, [np.asarray(d)[()] if np.ndim(d) == 0 else d for d, _ in data], [w for _, w in data], tree


def _given(leaves, data):
    """The leaves as operands of the dtypes that were settled on."""
    return [cast(asarray(x), d.dtype) for x, d in zip(leaves, data)]


def _result(tree, outs, leaves, captures):
    """The nest of results: NumPy's if all that went in was."""
    if not any([isinstance(x, Array) for x in (*leaves, *captures)]) and not any([o._record for o in outs]):
        outs = [o._data[()] if o._data.ndim == 0 else o._data for o in outs]
    return unflatten(tree, outs)


def _stable(what, body, data, weak, tree, record):
    """Record until what the body makes has the types that the carry has; the region and the carry's concrete values.

    A Python number takes the dtype that the body gives it, once.
    """
    for attempt in (1, 2):
        region = record(data, weak)
        carry_tree, types = region.carry
        if carry_tree != tree:
            raise located(
                OutputError,
                f"{what}: {region.name} was given a carry of {_kind(tree)} and returned {_kind(carry_tree)}",
                "return the carry in the structure of init",
                where=definition(body),
            )
        wrong = [i for i, (d, t) in enumerate(zip(data, types)) if type_of(d) is not t]
        if not wrong:
            return region, data
        i = wrong[0]
        if attempt == 2 or not all([weak[k] and types[k].ndim == 0 for k in wrong]):
            name = paths(tree, "carry")[i]
            cure = f"init.astype({types[i].name})" if type_of(data[i]).shape == types[i].shape else "an init of that shape"
            raise located(
                OutputError,
                f"{what}: {name} is {type_of(data[i])} at first and {types[i]} after an iteration of {region.name}",
                f"start with {cure}, or convert it in {region.name}",
                where=definition(body),
            )
        data = [types[k].dtype.type(d) if k in wrong else d for k, d in enumerate(data)]
        weak = [w and k not in wrong for k, w in enumerate(weak)]


def _kind(tree):
    return f"{tree.count} arrays" if tree.kind != "leaf" else "one array"


# ---- loops -----------------------------------------------------------------------------------------------------------
def scan(f, init, xs=None, length=None, reverse=False):
    """Carry a value over the rows of xs: `carry, y = f(carry, x)` for each; (last carry, the y stacked), as `jax.lax.scan`.

    xs: a nest of arrays with equal first axes, or None with `length`. reverse: from the last row to the first. The carry keeps
    its structure, shapes and dtypes. Any derivative; memory for reverse mode is bounded by TAPEJIT_LOOP_BYTES.

    >>> import numpy as np, tapejit
    >>> tapejit.scan(lambda s, x: (s + x, s * x), 0.0, np.array([1.0, 2.0, 3.0]))
    (np.float64(6.0), array([0., 2., 9.]))
    """
    leaves, data, weak, tree = _start(init)
    row_leaves, row_tree = flatten(map_leaves(settled, xs))
    rows = [asarray(x) for x in row_leaves]
    n = _rows(rows, row_tree, length)
    at = -1 if reverse else 0
    first = [r._data[at] if n else np.zeros(r.shape[1:], r.dtype)[()] for r in rows]

    def record(data, weak):
        region = _Region(f, [*data, *first], [*weak, *[False] * len(first)], Tree("tuple", None, (tree, row_tree)))
        out = region.out_tree
        if out.kind != "tuple" or len(out.children) != 2:
            raise located(OutputError, f"scan: {region.name} did not return a pair", "return carry, y", where=definition(f))
        count = out.children[0].count
        region.carry = out.children[0], region.types()[:count]
        return region

    region, data = _stable("scan", f, data, weak, tree, record)
    attrs = scan_attrs(n, len(data), len(rows), bool(reverse))
    operands = [*_given(leaves, data), *rows, *region.captures]
    outs = apply(SCAN, operands, attrs, (region.graph,))
    return _result(region.out_tree, outs, [*leaves, *row_leaves], region.captures)


def _rows(rows, tree, length):
    """How many rows there are."""
    names = paths(tree, "xs")
    for name, r in zip(names, rows):
        if not r.ndim:
            raise located(ShapeError, f"scan: {name} is a number, not rows", "an array whose first axis is iterated over")
        if r.shape[0] != rows[0].shape[0]:
            raise located(
                ShapeError,
                f"scan: {names[0]} has {rows[0].shape[0]} rows, {name} has {r.shape[0]}",
                "arrays of equally many rows",
            )
    if rows:
        if length is not None and length != rows[0].shape[0]:
            raise located(ShapeError, f"scan: length={length}, but xs has {rows[0].shape[0]} rows", "leave length out")
        return rows[0].shape[0]
    if not is_a(length, (int, np.integer)) or length < 0:
        raise located(ArgumentError, f"scan without rows: length={length!r}", "xs=..., or length= a whole number")
    return int(length)


def map(f, xs):
    """f of each row of xs, the results stacked, one row after the other as far as memory goes, as `jax.lax.map`.

    >>> import numpy as np, tapejit
    >>> tapejit.map(lambda x: x @ x, np.arange(6.0).reshape(3, 2))
    array([ 1., 13., 41.])
    """
    return scan(_Renamed(f, lambda _, x: ((), f(x))), (), xs)[1]


class _Renamed:
    """A function under the name of the user's."""

    def __init__(self, f, inner):
        self.inner, self.__name__, self.__wrapped__ = inner, function_name(f), f

    def __call__(self, *args):
        return self.inner(*args)


def fori_loop(lower, upper, body, init):
    """`for i in range(lower, upper): x = body(i, x)`; the last x, as `jax.lax.fori_loop`.

    Bounds may be recorded values: then it is a `while_loop`, and reverse mode counts the iterations.

    >>> import tapejit
    >>> tapejit.grad(lambda x: tapejit.fori_loop(0, 3, lambda i, y: y * x + i, 1.0))(2.0)
    np.float64(13.0)
    """
    for bound in (lower, upper):
        if not isinstance(bound, Array) and not is_a(bound, (int, np.integer)):
            raise located(ArgumentTypeError, f"fori_loop: the bound {bound!r:.40} is no whole number", "int(n)")

    def step(state, *_):
        i, x = state
        return i + 1, body(i, x)

    first = np.int64(lower) if not isinstance(lower, Array) else cast(lower, np.dtype(np.int64))
    if isinstance(lower, Array) or isinstance(upper, Array):
        step = _Renamed(body, step)
        return while_loop(_Renamed(body, lambda state: state[0] < upper), step, (first, init))[1]
    count = builtins.max(int(upper) - int(lower), 0)
    return scan(_Renamed(body, lambda s, _: (step(s), ())), (first, init), None, length=count)[0][1]


def while_loop(cond, body, init):
    """`while cond(x): x = body(x)`; the last x, as `jax.lax.while_loop`, but in reverse mode too.

    The number of iterations is up to the values at each call; one compiled function serves all. For reverse mode there is room
    for as many as the recorded call took, rounded up to a power of two: a call that takes more is recorded anew, once.

    >>> import tapejit
    >>> def root(a):  # Newton's method
    ...     return tapejit.while_loop(lambda x: abs(x * x - a) > 1e-12, lambda x: (x + a / x) / 2, a)
    >>> value, slope = tapejit.value_and_grad(root)(16.0)
    >>> round(value, 9), round(slope, 9)
    (np.float64(4.0), np.float64(0.125))
    """
    leaves, data, weak, tree = _start(init)
    one = Tree("tuple", None, (tree,))

    def record(data, weak):
        region = _Region(body, data, weak, one)
        region.carry = region.out_tree, region.types()
        return region

    step, data = _stable("while_loop", body, data, weak, tree, record)
    test = _Region(_Renamed(cond, lambda x: truth(cond(x))), data, [False] * len(data), one)
    if [t.shape for t in test.types()] != [()]:
        what = f"while_loop: {test.name} returned {test.types()[0]}, not one truth value"
        raise located(OutputError, what, "np.any(...), np.all(...)", where=definition(cond))
    captures = _joined(test, step)
    regions = test.over(captures), step.over(captures)
    operands = [*_given(leaves, data), *captures]
    made = apply(WHILE, operands, {"carries": len(data), "capacity": state.room}, regions)
    return _result(step.out_tree, made[:-1], leaves, captures)


# ---- branches --------------------------------------------------------------------------------------------------------
def cond(pred, true_fun, false_fun, *operands):
    """`true_fun(*operands) if pred else false_fun(*operands)`, as `jax.lax.cond`.

    Only one is computed, in derivatives too. Under vmap with a mapped pred both are, and lanes are selected.

    >>> import numpy as np, tapejit
    >>> f = tapejit.vmap(lambda x: tapejit.cond(x > 0, np.sqrt, lambda x: -x, x))
    >>> f(np.array([4.0, -3.0]))
    array([2., 3.])
    """
    if isinstance(pred, Array) and pred.shape:
        raise located(ShapeError, f"cond: pred has shape {pred.shape}", "one truth value; np.where(p, a, b) for arrays")
    index = cast(truth(pred), np.dtype(np.int64)) if isinstance(pred, Array) else int(bool(pred))
    return _switch("cond", index, (false_fun, true_fun), operands)


def switch(index, branches, *operands):
    """`branches[index](*operands)`, the index clamped to those there are, as `jax.lax.switch`. All return alike.

    >>> import numpy as np, tapejit
    >>> tapejit.grad(lambda x, i: tapejit.switch(i, [np.sin, np.cos, np.exp], x))(0.0, 2)
    np.float64(1.0)
    """
    if not branches:
        raise located(ArgumentError, "switch: no branches", "a list of functions")
    if np.shape(index) != () or (isinstance(index, Array) and index.dtype.kind != "i"):
        raise located(ArgumentTypeError, f"switch: the index is {index!r:.40}", "one whole number: x.astype(int)")
    index = cast(index, np.dtype(np.int64)) if isinstance(index, Array) else int(index)
    return _switch("switch", index, tuple(branches), operands)


def _switch(what, index, branches, operands):
    if not isinstance(index, Array):  # known: Python's own choice
        return branches[builtins.min(builtins.max(index, 0), len(branches) - 1)](*operands)
    leaves, data, weak, tree = _start(operands)
    taken = builtins.min(builtins.max(int(index._data), 0), len(branches) - 1)
    regions = [_Region(f, data, weak, tree, quiet=k != taken) for k, f in enumerate(branches)]
    first = regions[0]
    for k, r in enumerate(regions[1:], 1):
        if r.out_tree != first.out_tree:
            raise located(
                OutputError,
                f"{what}: {first.name} returns {_kind(first.out_tree)}, {r.name} returns {_kind(r.out_tree)}",
                "return the same structure from all branches",
                where=definition(branches[k]),
            )
        for name, a, z in zip(paths(first.out_tree, "result"), first.types(), r.types()):
            if a is not z:
                raise located(
                    OutputError,
                    f"{what}: {name} is {a} from {first.name} and {z} from {r.name}",
                    "return equal shapes and dtypes from all branches: .astype, np.broadcast_to",
                    where=definition(branches[k]),
                )
    captures = _joined(*regions)
    outs = apply(SWITCH, [index, *_given(leaves, data), *captures], {}, tuple([r.over(captures) for r in regions]))
    return _result(first.out_tree, outs, [index, *leaves], captures)
