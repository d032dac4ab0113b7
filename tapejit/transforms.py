"""The transforms, each a map from Program to Program: Grad, Jacobian, Jvp, Vjp, Hvp, GradientsOf, Jit; Vmap is in `mapping.py`.

A decorated function is recorded once, at its own arguments; the transforms stacked on it are then folded over its
Program, innermost first. Each has two halves:
    enter(args, kwargs) -> (args, kwargs, context)   the arguments that the next inner function sees (vmap takes one
                                                     lane, jvp drops the tangents, grad makes int scalars float)
    apply(program, context) -> Program               the transform itself, on graphs: never a look at numbers
`key` identifies the transform among a function's options. Results are structured as in JAX.
"""

from __future__ import annotations

import numpy as np

from tapejit.ir.analysis import connected
from tapejit.ir.backward import transpose_into
from tapejit.ir.batch import batch
from tapejit.ir.build import Builder
from tapejit.ir.graph import Graph
from tapejit.ir.linearize import linearize
from tapejit.ir.ops.region import CapturedDerivative
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.types import I64
from tapejit.ir.walk import inline

from .array import is_a, unwrap
from .errors import ArgumentError, ArgumentTypeError, CustomGradientError, DTypeError, ShapeError, located
from .trace import Program, check_single_output, output_error, returned
from .tree import Tree, flatten, map_leaves


class Transform:
    """Base: the identity in both halves."""

    name = "jit"
    key: tuple = ("jit",)
    lanes = False  # whether the function is recorded at one of many values

    def enter(self, args, kwargs):
        return args, kwargs, None

    def apply(self, program: Program, context) -> Program:
        return program

    def __repr__(self):
        return f"{self.name}{self.key[1:]}"


class Jit(Transform):
    """Compile only."""


# ---- helpers -----------------------------------------------------------------------------------------------------
def as_float(x):
    """A Python int scalar as a float: 'a Python int scalar is taken as float by grad'."""
    return float(x) if is_a(x, int) and not is_a(x, bool) else x


def float_arguments(args, argnums):
    """args with the Python ints among the differentiated ones made floats."""
    chosen = {a % len(args) for a in argnums if -len(args) <= a < len(args)}
    return tuple(map_leaves(as_float, a) if i in chosen else a for i, a in enumerate(args))


def check_argnums(argnums):
    """(tuple of ints, whether it was a single int)."""
    if is_a(argnums, (int, np.integer)) and not is_a(argnums, bool):
        return (int(argnums),), True
    if isinstance(argnums, (tuple, list)) and argnums and all(is_a(a, (int, np.integer)) for a in argnums):
        return tuple(int(a) for a in argnums), False
    raise located(
        ArgumentTypeError,
        f"argnums must be an int or a non-empty tuple of ints, got {argnums!r}",
        "argnums=0, or argnums=(0, 1)",
    )


def active_arguments(program: Program, argnums, what) -> tuple[list[bool], list[Tree], list[int]]:
    """(active flag per parameter, tree per chosen argument, chosen parameter indices in order)."""
    chosen, trees = [], []
    args = program.in_tree.children[0]
    for a in argnums:
        span = program.argument(a)
        tree = args.children[a]
        if not len(span):
            seen = repr(tree.data[1]) if tree.kind == "static" else f"an empty {tree.kind}"
            raise located(
                ArgumentError,
                f"{what} with argnums={a}: argument {a} of {program.name} is static ({seen:.60}), there is nothing to "
                "differentiate",
                "name the argument that is an array or a number",
            )
        trees.append(tree)
        chosen += list(span)
    for i in chosen:
        p = program.graph.params[i]
        if not p.type.is_float:
            raise located(
                DTypeError,
                f"{what} with respect to {p.name or f'argument {i}'} of {program.name}: {p.type} is not differentiable",
                "pass floats: x.astype(float), np.array([1.0, 2.0])",
            )
    flags = [False] * len(program.graph.params)
    for i in chosen:
        flags[i] = True
    return flags, trees, chosen


def seed_ones(b, results):
    return [b.full(1, r.type) if r.type.is_float else None for r in results]


def pull(program: Program, b, graph, env, active, seeds):
    """`transpose_into`, with a captured value's derivative turned into an error that says what to write."""
    try:
        return transpose_into(b, graph, env, active, seeds)
    except CapturedDerivative as error:
        raise captured_error(program, error) from None


def push(program, graph, active) -> Graph:
    """`linearize`, likewise."""
    try:
        return linearize(graph, active)
    except CapturedDerivative as error:
        raise captured_error(program, error) from None


def captured_error(program, error):
    return located(
        CustomGradientError,
        f"the custom gradient of {error} closes over a value that {program.name} is differentiated by; its grad_fn says "
        "nothing about that value",
        f"make the value an argument of {error}, and return its gradient too",
        where=program.where,
    )


def tree_of(trees, single) -> Tree:
    return trees[0] if single else Tree("tuple", None, tuple(trees))


def filled(b, grads, params):
    return [b.zeros(p.type) if g is None else g for g, p in zip(grads, params)]


# ---- gradients ---------------------------------------------------------------------------------------------------
class Grad(Transform):
    """Reverse-mode gradient of the sum of the one array that a function returns."""

    def __init__(self, argnums=0, has_aux=False, value=False):
        self.argnums, self.single = check_argnums(argnums)
        self.has_aux, self.value = bool(has_aux), value
        self.name = "value_and_grad" if value else "grad"
        self.key = (self.name, self.argnums, self.single, self.has_aux)

    def enter(self, args, kwargs):
        return float_arguments(args, self.argnums), kwargs, None

    def apply(self, program, context):
        main = split_aux(program, self.name) if self.has_aux else program
        graph = program.graph
        active, trees, chosen = active_arguments(program, self.argnums, self.name)
        check_single_output(main, self.name)
        on = connected(Graph(graph.name, graph.params, graph.nodes, graph.results[:1]), active)
        b = Builder(f"{self.name}_{graph.name}")
        env = b.params_of(graph.params)
        seeds = [b.full(1, graph.results[0].type)] + [None] * (len(graph.results) - 1)
        grads, outs = pull(program, b, graph, env, active, seeds)
        grads = filled(b, [grads[i] for i in chosen], [graph.params[i] for i in chosen])
        order = [i for i, flag in enumerate(active) if flag]
        on = [on[order.index(i)] for i in chosen]
        gradient = tree_of(trees, self.single)
        results = grads
        out_tree = gradient
        if self.value:  # (value, gradient), or ((value, aux), gradient)
            out_tree, results = Tree("tuple", None, (program.out_tree, gradient)), outs + grads
        elif self.has_aux:  # (gradient, aux)
            out_tree = Tree("tuple", None, (gradient, program.out_tree.children[1]))
            results = grads + outs[1:]
        return program.replace(b.finish(results), out_tree=out_tree, connected=on)


def split_aux(program, what):
    """The part of a (value, aux) program that is differentiated."""
    tree = program.out_tree
    if tree.kind != "tuple" or len(tree.children) != 2:
        raise output_error(
            program,
            f"{what} with has_aux=True of {program.name}: it returned {returned(program)}, not a pair",
            "return (value, aux)",
        )
    value = tree.children[0]
    graph = program.graph
    head = Graph(graph.name, graph.params, graph.nodes, graph.results[: value.count])
    return program.replace(head, out_tree=value)


class GradientsOf(Transform):
    """TensorFlow's gradients_function: gradients of the summed outputs, or of their products with `dy`.

    A list, one per parameter; integer parameters and unconnected ones are None there (see `Program.connected`).
    With `dy` the arguments are (args, dy) and dy has the structure of the outputs.
    """

    def __init__(self, params, value=False, dy=False):
        self.params, self.value, self.dy = params, value, dy
        self.name = "value_and_gradients_function" if value else "gradients_function"
        self.key = (self.name, params, dy)

    def enter(self, args, kwargs):
        return (args[0] if self.dy else args), kwargs, None

    def apply(self, program, context):
        tree = program.out_tree
        if tree.kind == "static":
            if tree.data[1] is None:
                raise output_error(
                    program,
                    "Cannot differentiate a function that returns None; did you forget to return a value from "
                    f"{program.name}?",
                    "return an array, or a nest of arrays",
                )
            raise output_error(
                program, f"Cannot differentiate {program.name}: it returned {returned(program)}", "return an array"
            )
        graph = program.graph
        args = program.in_tree.children[0]
        spans = [program.argument(p, "params") for p in self.params]
        chosen = [i for span in spans for i in span]
        active = [False] * len(graph.params)
        for i in chosen:
            active[i] = graph.params[i].type.is_float
        order = [i for i, flag in enumerate(active) if flag]
        on = connected(graph, active)
        b = Builder(f"gradients_{graph.name}")
        own = graph.params[: program.leaves]
        env = b.params_of(own)
        if self.dy:
            seeds = [b.param(r.type, f"dy{i}") for i, r in enumerate(graph.results)]
        else:
            seeds = seed_ones(b, graph.results)
        env.update(b.params_of(graph.params[program.leaves :]))
        seeds = [s if r.type.is_float else None for s, r in zip(seeds, graph.results)]
        grads, outs = pull(program, b, graph, env, active, seeds)
        live = [active[i] and on[order.index(i)] for i in chosen]
        results = [grads[i] for i, flag in zip(chosen, live) if flag]
        trees = []
        flags = iter(live)
        for p in self.params:
            trees.append(prune(args.children[p], flags))
        out_tree = Tree("list", None, tuple(trees))
        if self.value:
            out_tree, results = Tree("tuple", None, (tree, out_tree)), outs + results
        in_tree = program.in_tree
        if self.dy:
            in_tree = Tree("tuple", None, (Tree("tuple", None, (args, tree)), in_tree.children[1]))
        return program.replace(b.finish(results), in_tree, out_tree, live)


NOTHING = Tree("static", (type(None), None))


def prune(tree, flags):
    """The tree with None for each leaf whose flag is False."""
    if tree.kind == "leaf":
        return tree if next(flags) else NOTHING
    if tree.kind == "static":
        return NOTHING
    return Tree(tree.kind, tree.data, tuple([prune(c, flags) for c in tree.children]))


# ---- products with the Jacobian ----------------------------------------------------------------------------------
def match_types(program, tree, leaves, params, what):
    """Check that tangents (cotangents) have the structure and shapes of what they belong to; (leaves as arrays)."""
    given, given_tree = leaves
    if given_tree.count != tree.count:
        raise located(
            ArgumentError,
            f"{what} of {program.name}: got {given_tree.count} arrays where {tree.count} are needed",
            f"give {what} the structure of what they belong to",
        )
    for x, p in zip(given, params):
        if np.shape(unwrap(x)) != p.shape:
            raise located(
                ShapeError,
                f"{what} of {program.name}: shape {np.shape(unwrap(x))} where {p.type} is needed",
                f"give {what} the shape of what they belong to",
            )


class Jvp(Transform):
    """(primals, tangents) -> (f(*primals), its derivative along the tangents)."""

    name = "jvp"
    key = ("jvp",)

    def enter(self, args, kwargs):
        primals, tangents = args
        return float_arguments(primals, range(len(primals))), kwargs, flatten(tangents)

    def apply(self, program, tangents):
        graph, n = program.graph, program.leaves
        check_differentiable(program, graph.params[:n], "jvp")
        args = program.in_tree.children[0]
        match_types(program, args, tangents, graph.params[:n], "tangents")
        active = [p.type.is_float and i < n for i, p in enumerate(graph.params)]
        both = push(program, graph, active)
        count = len(graph.params)
        b = Builder(f"jvp_{graph.name}")
        primals = [b.param(p.type, p.name) for p in graph.params[:n]]
        ts = [b.param(p.type, f"d_{p.name}") for p in graph.params[:n]]
        caps = [b.param(p.type, p.name) for p in graph.params[n:]]
        inputs = [*primals, *caps, *[t for t, on in zip(ts, active) if on]]
        assert len(both.params) == count + sum(active)
        results = inline(b, both, inputs)
        out = program.out_tree
        in_tree = Tree("tuple", None, (Tree("tuple", None, (args, args)), program.in_tree.children[1]))
        return program.replace(b.finish(results), in_tree, Tree("tuple", None, (out, out)))


def check_differentiable(program, params, what):
    for p in params:
        if not p.type.is_float:
            raise located(
                DTypeError,
                f"{what} with respect to {p.name} of {program.name}: {p.type} is not differentiable",
                "pass floats: x.astype(float); close over what is not to be differentiated",
            )


class Vjp(Transform):
    """(primals, cotangents) -> cotangents of the primals, a tuple; `value=True`: (f(*primals), that tuple)."""

    def __init__(self, value=False, has_aux=False):
        self.value, self.has_aux = value, has_aux
        self.name = "vjp"
        self.key = ("vjp", value, has_aux)

    def enter(self, args, kwargs):
        primals, cts = args
        return float_arguments(primals, range(len(primals))), kwargs, flatten(cts)

    def apply(self, program, cts):
        graph, n = program.graph, program.leaves
        main = split_aux(program, "vjp") if self.has_aux else program
        outs = main.graph.results
        match_types(program, main.out_tree, cts, outs, "cotangents")
        active = [p.type.is_float and i < n for i, p in enumerate(graph.params)]
        on = connected(main.graph, active)
        b = Builder(f"vjp_{graph.name}")
        env = b.params_of(graph.params[:n])
        seeds = [b.param(r.type, f"ct{i}") for i, r in enumerate(outs)]
        env.update(b.params_of(graph.params[n:]))
        seeds = [s if r.type.is_float else None for s, r in zip(seeds, outs)]
        grads, values = pull(program, b, main.graph, env, active, seeds)
        grads = filled(b, grads[:n], graph.params[:n])
        args = program.in_tree.children[0]
        tree = args
        results = grads
        if self.value:
            tree, results = Tree("tuple", None, (program.out_tree, tree)), [*values, *grads]
        in_tree = Tree("tuple", None, (Tree("tuple", None, (args, main.out_tree)), program.in_tree.children[1]))
        return program.replace(b.finish(results), in_tree, tree, on)


class Hvp(Transform):
    """(*args, v) -> Hessian of a scalar function times v, forward over reverse; v has the structure of args[argnums]."""

    name = "hvp"

    def __init__(self, argnums=0):
        self.argnums, self.single = check_argnums(argnums)
        self.key = ("hvp", self.argnums, self.single)
        self.grad = Grad(argnums if not self.single else self.argnums[0])

    def enter(self, args, kwargs):
        if len(args) < 2:
            raise located(ArgumentError, "hvp needs the vector as its last argument", "hvp(f)(x, v)")
        *args, v = args
        args, kwargs, _ = self.grad.enter(tuple(args), kwargs)
        return args, kwargs, flatten(map_leaves(as_float, v))

    def apply(self, program, v):
        check_scalar(program, "hvp")
        first = self.grad.apply(program, None)
        graph = optimize(first.graph, differentiate_later=True)
        active, trees, chosen = active_arguments(program, self.argnums, "hvp")
        vector = tree_of(trees, self.single)
        match_types(program, vector, v, [graph.params[i] for i in chosen], "the vector")
        both = push(program, graph, active)
        n = program.leaves
        b = Builder(f"hvp_{graph.name}")
        primals = [b.param(p.type, p.name) for p in graph.params[:n]]
        ts = {i: b.param(graph.params[i].type, "v") for i in chosen}
        caps = [b.param(p.type, p.name) for p in graph.params[n:]]
        inputs = [*primals, *caps, *[ts[i] for i, flag in enumerate(active) if flag]]
        results = inline(b, both, inputs)[len(graph.results) :]
        args = program.in_tree.children[0]
        in_args = Tree("tuple", None, (*args.children, vector))
        return program.replace(b.finish(results), Tree("tuple", None, (in_args, program.in_tree.children[1])), vector)


def check_scalar(program, what):
    result = check_single_output(program, what)
    if result.shape != ():
        raise output_error(
            program,
            f"{what} of {program.name}: it returned {result.type}, not a scalar",
            "return a scalar (np.sum(...)); for array outputs use jacobian(jacobian(f))",
        )


# ---- Jacobians ---------------------------------------------------------------------------------------------------
class Jacobian(Transform):
    """Dense Jacobian, by batched JVPs or VJPs, whichever needs fewer. Shapes: output shape + input shape."""

    def __init__(self, argnums=0, mode=None, name="jacobian"):
        self.argnums, self.single = check_argnums(argnums)
        self.mode, self.name = mode, name
        self.key = (name, self.argnums, self.single, mode)

    def enter(self, args, kwargs):
        return float_arguments(args, self.argnums), kwargs, None

    def apply(self, program, context):
        graph = program.graph
        active, trees, chosen = active_arguments(program, self.argnums, self.name)
        if program.out_tree.count == 0:
            check_single_output(program, self.name)
        for r in graph.results:
            if not r.type.is_float:
                raise output_error(
                    program,
                    f"{self.name} of {program.name}: it returned {r.type}, which is not differentiable",
                    "return floats only",
                )
        n_in = sum([graph.params[i].type.size for i in chosen])
        n_out = sum([r.type.size for r in graph.results])
        forward = self.mode == "forward" or (self.mode is None and n_in <= n_out)
        b = Builder(f"{self.name}_{graph.name}")
        env = list(b.params_of(graph.params).values())
        blocks = {}  # (result, parameter) -> value
        if forward:
            for i in chosen:
                columns = self._forward(program, b, env, i)
                blocks.update({(k, i): c for k, c in enumerate(columns)})
        else:
            for k in range(len(graph.results)):
                rows = self._reverse(program, b, env, active, chosen, k)
                blocks.update({(k, i): r for i, r in zip(chosen, rows)})
        results = [blocks[k, i] for k in range(len(graph.results)) for i in chosen]
        inner = tree_of(trees, self.single)
        return program.replace(b.finish(results), out_tree=nest(program.out_tree, inner))

    def _forward(self, program, b, env, i):
        """For one parameter: d results / d parameter, by one JVP per element of it, batched."""
        graph = program.graph
        p = graph.params[i]
        n = p.type.size
        only = [k == i for k in range(len(graph.params))]
        jvp = optimize(push(program, graph, only), differentiate_later=True)
        count = len(graph.results)
        jvp = Graph(jvp.name, jvp.params, jvp.nodes, jvp.results[count:])
        batched, _ = batch(jvp, [False] * len(graph.params) + [True], n, all_results=True)
        columns = inline(b, batched, [*env, basis(b, p.type)], "jvp")
        out = []
        for c, r in zip(columns, graph.results):
            c = b.transpose(c, perm=(*range(1, c.ndim), 0))
            out.append(b.reshape_to(c, r.shape + p.shape))
        return out

    def _reverse(self, program, b, env, active, chosen, k):
        """For one result: d result / d parameters, by one VJP per element of it, batched."""
        graph = program.graph
        result = graph.results[k]
        inner = Builder(graph.name)
        params = inner.params_of(graph.params)
        seed = inner.param(result.type, "ct")
        seeds = [seed if j == k else None for j in range(len(graph.results))]
        grads, _ = pull(program, inner, graph, params, active, seeds)
        grads = filled(inner, [grads[i] for i in chosen], [graph.params[i] for i in chosen])
        vjp = optimize(inner.finish(grads), differentiate_later=True)
        size = result.type.size
        if size == 1:  # a gradient: nothing to batch
            rows = inline(b, vjp, [*env, b.full(1, result.type)], "vjp")
        else:
            batched, _ = batch(vjp, [False] * len(graph.params) + [True], size, all_results=True)
            rows = inline(b, batched, [*env, basis(b, result.type)], "vjp")
        return [b.reshape_to(r, result.shape + graph.params[i].shape) for r, i in zip(rows, chosen)]


def basis(b, type):
    """The unit vectors of a shape, stacked: [size, *shape]."""
    n = type.size
    i = b.iota(shape=(n,), dtype=I64) if n else b.zeros(type.with_shape((0,)).with_dtype(I64))
    eye = b.eq(b.reshape_to(i, (n, 1)), b.reshape_to(i, (1, n)))
    return b.reshape_to(b.cast(eye, type.dtype), (n, *type.shape))


def nest(outer: Tree, inner: Tree) -> Tree:
    """The outer structure with the inner one at each leaf."""
    if outer.kind == "leaf":
        return inner
    return Tree(outer.kind, outer.data, tuple([nest(c, inner) for c in outer.children]))
