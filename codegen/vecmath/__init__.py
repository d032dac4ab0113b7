"""Vector math library: LLVM IR text for the elementary functions, written so that LLVM vectorizes it.

In: names such as ("exp", "f64"). Out: `declare` lines and `define internal ... alwaysinline` blocks to paste
into a module. Every function is scalar and free of branches, so once it is inlined in a loop LLVM's loop
vectorizer widens it together with whatever surrounds it: no vector library, no calls, and it fuses.

Arguments that a fast path does not serve leave it for another version of the function: see rare.py. Programs with much
vector math call it instead of inlining it: see called.py.

Flow: `symbol` names a function -> `definitions` looks up its Python description (exponential.py, logarithmic.py,
... each a dict from name to a function of a `builder.Builder` and its arguments) -> the builder writes SSA text.
`tables.py` holds the coefficients, made by `coefficients.py` with mpmath; `report.py` measures accuracy and speed.

To add a function: describe it in the module of its family, enter it in that module's FUNCTIONS, in ARITY here and
in the test's domains; new polynomials go in coefficients.py.

Accuracy promise: at most 1 ulp from the exact value (2 for pow, tan, erf, erfc) over the whole range of the
format, subnormals and huge arguments included; special values as in C99 Annex F. No fast-math flags anywhere.
lgamma: 2 ulp, digamma: 2.5 ulp for positive arguments; for negative ones 4 units of |f(x)| + |f(-x)|, or of
1 if that is larger: beside a zero there, the relative error is larger. lgamma(-inf) is -inf, as in SciPy.
`llvm.fma` is used for its single rounding: on a target without FMA it becomes a libm call, correct but slow.
"""

from dataclasses import dataclass
from functools import cache

from . import (
    called,
    error,
    exponential,
    gamma,
    inverse_hyperbolic,
    inverse_trigonometric,
    logarithmic,
    power,
    rare,
    roots,
    trigonometric,
)
from .builder import FORMATS, Builder, literal

UNARY = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
    "cbrt erf erfc logistic lgamma digamma"
).split()
BINARY = ["pow", "atan2", "hypot"]
ARITY = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}
NAMES = tuple(ARITY)

FAMILIES = (
    error,
    exponential,
    gamma,
    inverse_hyperbolic,
    inverse_trigonometric,
    logarithmic,
    power,
    roots,
    trigonometric,
)
OURS = {name: function for family in FAMILIES for name, function in family.FUNCTIONS.items()}
SERVING_RARE = {name: function for family in FAMILIES for name, function in getattr(family, "RARE", {}).items()}


def symbol(name, dtype):
    """The LLVM symbol of function `name` for dtype "f64" or "f32", e.g. `@tapejit.exp.f64`."""
    if name not in ARITY or dtype not in FORMATS:
        raise KeyError(f"no vector math function {name!r} for {dtype!r}")
    return f"@tapejit.{name}.{dtype}"


@dataclass(frozen=True)
class Definitions:
    """Text for a module. declares: to merge with its own. late: to go after `rare.LATE`. externals: symbols to import."""

    declares: set
    text: str
    late: str
    externals: set


def definitions(needed, calls=frozenset()):
    """The Definitions of a set of (name, dtype) pairs: each function and table once, in sorted order.

    calls: those that are not to be inlined.
    """
    inlined = sorted(needed - calls)
    made = [_function(name, dtype) for name, dtype in inlined]
    hooks = [pair for pair, function in zip(inlined, made) if function.rare]
    declares, text = _joined(made)
    for name, dtype in hooks:
        declares |= set(rare.declarations(name, dtype, ARITY[name]))
    externals = {rare.slot_symbol(name, dtype) for name, dtype in hooks}
    variants = rare.variants(hooks)
    for name, dtype in sorted(calls):
        declares |= set(called.declarations(name, dtype, ARITY[name]))
        variants += called.variants(name, dtype)
        externals |= {f"tapejit.{name}.{dtype}", *called.variants(name, dtype)}
    if not variants:
        return Definitions(declares, text, "", set())
    pointers = ", ".join(f"ptr @{name}" for name in variants)
    kept = f"@{rare.KEPT} = constant [{len(variants)} x ptr] [{pointers}]\n"
    return Definitions(declares, kept + text, rare.definitions(hooks, ARITY), externals)


def address(symbol) -> int:
    """The address of one of the `externals` of Definitions."""
    return (rare if symbol.endswith(rare.SLOT) else called).address(symbol)


def rare_definition(name, dtype):
    """(declare lines, text) of the version that serves the rare arguments, under the function's own symbol."""
    return _joined([_function(name, dtype, serving_rare=True)])


def _joined(functions):
    tables = {name: values for f in functions for name, values in f.tables.items()}
    parts = [*(_table(name, tables[name]) for name in sorted(tables)), *(f.text for f in functions)]
    return {line for f in functions for line in f.declares}, "\n".join(parts)


def _table(name, values):
    items = ", ".join(f"double {literal(v, 'double')}" for v in values)
    return f"@tapejit.table.{name} = internal unnamed_addr constant [{len(values)} x double] [{items}], align 64\n"


@dataclass(frozen=True)
class Function:
    text: str
    declares: frozenset
    tables: dict
    rare: bool  # whether it ends in the hook of rare.py


@cache
def _function(name, dtype, serving_rare=False):
    b = Builder(FORMATS[dtype], ARITY[name])
    result = (SERVING_RARE if serving_rare else OURS)[name](b, *b.args)
    type = b.format.type
    parameters = ", ".join(f"{type} {a.text}" for a in b.args)
    has_hook = isinstance(result, tuple)
    if has_hook:
        value, condition = result
        result = b.emit(f"call {type} @{rare.hook(name, dtype)}({parameters}, {type} {value.text}, i1 {condition.text})", type)
    body = "\n".join([*b.lines, f"  ret {type} {result.text}"])
    text = (
        f"define internal {type} {symbol(name, dtype)}({parameters}) alwaysinline nounwind willreturn memory(none) "
        f"{{\n{body}\n}}\n"
    )
    return Function(text, frozenset(b.declares), b.tables, has_hook)
