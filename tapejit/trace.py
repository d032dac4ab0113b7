"""Trace: run a Python function on Arrays that record, and keep what it did as a `Program`.

In: a function and concrete arguments. Out: a Program: the recorded Graph, the structure of arguments and results, and the
captured outer objects (closed-over arrays, Arrays of outer records), which are parameters after the arguments. The
function runs for real on real values, so Python control flow simply runs; reads of recorded values left guards.
"""

from __future__ import annotations

import inspect
import sys

import numpy as np

from tapejit.ir.graph import Graph

from .array import Array, is_a
from .environment import Rebinding
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    IntegerRangeError,
    MutationError,
    OutputError,
    RecursionDepthError,
    TapejitError,
    located,
)
from .promote import strong
from .record import check_dtype, recording
from .tree import Tree, flatten, map_statics, paths, unflatten


class Program:
    """A recorded function, before or after transforms.

    graph: parameters are the leaves of `in_tree` in order, then one per captured object. in_tree: the structure of
    (args, kwargs). out_tree: the structure of the result; graph.results are its leaves in order. connected: per leaf
    of a gradient result, whether it depends on anything (None: not a gradient). rebound: the closed-over ndarrays that
    were Arrays of the record while it ran. recorded: the Program before transforms. trips: how often its loops may
    run (ir/trips.py), if that varies; what is known of it are further parameters, the last. nested: whether what was recorded
    holds transformed functions or gradients of tapes, whose operations are those of their optimized graphs.
    """

    __slots__ = (
        "graph", "in_tree", "out_tree", "captures", "name", "where", "connected", "rebound", "trips", "nested", "_recorded",
    )  # fmt: skip

    def __init__(
        self, graph, in_tree, out_tree, captures, name, where=None, connected=None, rebound=(), recorded=None, trips=None
    ):  # fmt: skip
        self.graph, self.in_tree, self.out_tree = graph, in_tree, out_tree
        self.captures, self.name, self.where, self.connected = captures, name, where, connected
        self.rebound, self.trips, self._recorded, self.nested = rebound, trips, recorded, False

    @property
    def recorded(self) -> Program:
        return self._recorded or self

    def replace(self, graph: Graph, in_tree=None, out_tree=None, connected=None) -> Program:
        in_tree, out_tree = in_tree or self.in_tree, out_tree or self.out_tree
        same = self.captures, self.name, self.where
        return Program(graph, in_tree, out_tree, *same, connected, self.rebound, self.recorded, self.trips)

    def opened(self, trips) -> Program:
        """What was recorded, its loops as often as is known of them."""
        was = self.recorded
        same = was.captures, was.name, was.where
        return Program(trips.build(), was.in_tree, was.out_tree, *same, None, was.rebound, was, trips)

    @property
    def leaves(self) -> int:
        """The number of argument leaves, the first so many parameters."""
        return self.in_tree.count

    def argument(self, position: int, what="argnums") -> range:
        """The parameters of the positional argument at `position`."""
        args = self.in_tree.children[0]
        count = len(args.children)
        if not -count <= position < count:
            raise located(
                ArgumentError,
                f"{what} names argument {position}, but {self.name} was called with {count} positional "
                f"argument{'s' if count != 1 else ''}",
                "count positional arguments from 0; keyword arguments cannot be differentiated: pass it by position",
            )
        position %= count
        start = sum([c.count for c in args.children[:position]])
        return range(start, start + args.children[position].count)


def function_name(fn) -> str:
    return getattr(fn, "__name__", None) or type(fn).__name__


def signature(fn) -> inspect.Signature:
    """As inspect.signature, which evaluates annotations from Python 3.14 on: what they name need not exist."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(fn, annotation_format=Format.FORWARDREF)
    return inspect.signature(fn)


def definition(fn):
    """(file, line) where a function is defined, or None."""
    code = getattr(getattr(fn, "__wrapped__", fn), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else None


def leaf_data(x):
    """(NumPy value, weak) of an argument leaf; the dtype is checked."""
    if isinstance(x, Array):
        return x._data, x._weak
    if is_a(x, (np.ndarray, np.generic)):
        if type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray):  # which loads numpy.ma: 15 ms
            raise located(ArgumentTypeError, "a masked array cannot be recorded", "x.filled(value) and np.where")
        return check_dtype(x if is_a(x, np.generic) else np.asarray(x), "an argument"), False
    return strong(check_number(x)), True


def check_number(x):
    if isinstance(x, complex):
        check_dtype(np.asarray(x), "an argument")
    if is_a(x, int) and not -(2**63) <= x < 2**63:
        raise located(IntegerRangeError, f"the Python int {x} does not fit int64", "pass a float")
    return x


def trace(fn, args, kwargs, name=None) -> tuple[Program, object]:
    """Record one call. Returns the Program and the concrete result (as the function returned it).

    The ndarrays that the function closes over are Arrays of the record meanwhile. Where it does with one what only an
    ndarray can (C code, writing into it), it is recorded again with the ndarrays themselves.
    """
    name = name or function_name(fn)
    leaves, in_tree = flatten((args, kwargs))
    with recording(name) as record:
        rebinding = Rebinding(fn, record.capture)
        try:
            program, out = _run(record, fn, rebinding, name, leaves, in_tree)
            if rebinding.intact():
                program.rebound = rebinding.found
                return program, out
            first = None
        except (TypeError, AttributeError, NotImplementedError) as error:
            if not rebinding.found:
                raise
            first = error
    try:
        with recording(name) as record:
            return _run(record, fn, None, name, leaves, in_tree)
    except TapejitError:
        if isinstance(first, MutationError):  # says more of `a[0] = x` than what the conversion of x does
            raise first from None
        raise


def _run(record, fn, rebinding, name, leaves, in_tree):
    names, own_tree = parameter_names(fn, in_tree), in_tree
    inner = [record.param(data, n, weak) for (data, weak), n in zip(map(leaf_data, leaves), names)]
    bound = fn
    if rebinding is not None:
        bound = rebinding.fn
        in_tree = map_statics(rebinding.value, in_tree)
    args, kwargs = unflatten(in_tree, inner)
    try:
        out = bound(*args, **kwargs)
    except RecursionError as error:
        if isinstance(error, TapejitError):
            raise
        raise located(
            RecursionDepthError,
            f"{name} calls itself deeper than Python allows while it is recorded",
            "let the recursion end on a Python int or a shape; or write it as a loop; or raise sys.setrecursionlimit",
            where=definition(fn),
        ) from None
    except ValueError as error:  # NumPy's own words for `a[0] = x` hide the error that the conversion of x raised
        if isinstance(error.__cause__, TapejitError):
            raise error.__cause__ from None
        raise
    try:
        results, out_tree = flatten(out)
    except ArgumentTypeError as error:
        what = error.what.replace("an argument", f"a result of {name}", 1)
        raise located(OutputError, what, "return arrays, numbers or nests of them", where=definition(fn)) from None
    results = [result_leaf(fn, name, r) for r in results]
    graph, captures = record.finish(results)
    program = Program(graph, own_tree, out_tree, captures, name, definition(fn))
    program.nested = record.nested
    return program, out


def result_leaf(fn, name, x):
    """A leaf of a result as something the record can look up."""
    if isinstance(x, Array):
        return x.read() if type(x) is not Array else x
    if is_a(x, np.ndarray) and x.dtype.kind in "OUSV":
        raise located(
            OutputError,
            f"{name} returned an ndarray of dtype {x.dtype}",
            "return arrays of numbers; stack recorded values with np.stack",
            where=definition(fn),
        )
    if is_a(x, (np.ndarray, np.generic)):
        return check_dtype(x, f"returned by {name}")
    return strong(check_number(x))


def parameter_names(fn, in_tree: Tree) -> list[str]:
    """A name per argument leaf, from the function's signature where it has one: `params['w']`."""
    code = getattr(fn, "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code else []
    if names and hasattr(fn, "__self__"):
        names = names[1:]
    positional, keyword = in_tree.children
    out = []
    for i, child in enumerate(positional.children):
        out += paths(child, names[i] if i < len(names) else f"arg{i}")
    for key, child in zip(keyword.data[1], keyword.children):
        out += paths(child, key)
    return out


def returned(program: Program) -> str:
    """What a function returned, in words, for errors."""
    tree = program.out_tree
    if tree.kind == "static":
        value = tree.data[1]
        return "None" if value is None else f"{type(value).__name__} {value!r:.40}"
    if tree.kind == "leaf":
        return str(program.graph.results[0].type)
    return f"a {tree.kind} of {len(tree.children)}"


def check_single_output(program: Program, what: str):
    """The one array that a function to be differentiated must return; an OutputError otherwise."""
    tree, name = program.out_tree, program.name
    if tree.kind == "leaf":
        result = program.graph.results[0]
        if not result.type.is_float:
            raise output_error(
                program,
                f"{what} of {name}: it returned {result.type}, which is not differentiable",
                "return floats; comparisons, argmax and casts to int have no derivative",
            )
        return result
    if tree.kind == "static" and tree.data[1] is None:
        instead = f"did you forget to return a value from {name}?"
    elif tree.kind == "static":
        instead = "return an array or a number"
    else:
        instead = (
            "return one array; has_aux=True takes (value, aux); jacobian and gradients_function take several outputs"
        )
    raise output_error(program, f"{what} of {name}: it returned {returned(program)}, not an array", instead)


def output_error(program, what, instead):
    """An OutputError that points at the function's definition."""
    return located(OutputError, what, instead, where=program.where)
