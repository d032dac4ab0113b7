"""Vector math library: LLVM IR text for the elementary functions, written so that LLVM vectorizes it.

In: names such as ("exp", "f64"). Out: `declare` lines and `define internal ... alwaysinline` blocks to paste
into a module. Every function is scalar and free of branches, so once it is inlined in a loop LLVM's loop
vectorizer widens it together with whatever surrounds it: no vector library, no calls, and it fuses.
Where we have no function of our own, the definition is a call to libm (correct, but the loop stays scalar);
`VECTORIZED` says which are ours.

Flow: `symbol` names a function -> `definitions` looks up its Python description (exponential.py, logarithmic.py,
... each a dict from name to a function of a `builder.Builder` and its arguments) -> the builder writes SSA text.
`tables.py` holds the coefficients, made by `coefficients.py` with mpmath; `report.py` measures accuracy and speed.

To add a function: describe it in the module of its family, enter it in that module's FUNCTIONS, in ARITY here and
in the test's domains; new polynomials go in coefficients.py.

Accuracy promise: at most 1 ulp from the exact value (2 for pow, tan, erf, erfc) over the whole range of the
format, subnormals and huge arguments included; special values as in C99 Annex F. No fast-math flags anywhere.
lgamma and tgamma are libm's, with its accuracy (here, 2 and 5 ulp; lgamma only relative to 1 near its zeros).
`llvm.fma` is used for its single rounding: on a target without FMA it becomes a libm call, correct but slow.
"""

from functools import cache

from . import (
    error,
    exponential,
    inverse_hyperbolic,
    inverse_trigonometric,
    logarithmic,
    power,
    roots,
    trigonometric,
)
from .builder import FORMATS, Builder, literal

UNARY = (
    "exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh "
    "cbrt erf erfc logistic lgamma tgamma"
).split()
BINARY = ["pow", "atan2", "hypot"]
ARITY = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}
NAMES = tuple(ARITY)

FAMILIES = (
    error,
    exponential,
    inverse_hyperbolic,
    inverse_trigonometric,
    logarithmic,
    power,
    roots,
    trigonometric,
)
OURS = {name: function for family in FAMILIES for name, function in family.FUNCTIONS.items()}
VECTORIZED = frozenset((name, dtype) for name in OURS for dtype in FORMATS)


def symbol(name, dtype):
    """The LLVM symbol of function `name` for dtype "f64" or "f32", e.g. `@tapejit.exp.f64`."""
    if name not in ARITY or dtype not in FORMATS:
        raise KeyError(f"no vector math function {name!r} for {dtype!r}")
    return f"@tapejit.{name}.{dtype}"


def definitions(needed):
    """(declare lines, text of the define blocks and tables) for a set of (name, dtype) pairs.

    Each function and table appears once, in sorted order. The `declare` lines are apart so that the caller can
    merge them with its own.
    """
    declares, tables, functions = set(), {}, []
    for name, dtype in sorted(needed):
        text, its_declares, its_tables = _function(name, dtype)
        functions.append(text)
        declares |= its_declares
        tables.update(its_tables)
    return declares, "\n".join([*(_table(name, tables[name]) for name in sorted(tables)), *functions])


def _libm(name):
    def call(b, *args):
        return b.call(name if b.double else name + "f", b.format.type, *args)

    return call


def _table(name, values):
    items = ", ".join(f"double {literal(v, 'double')}" for v in values)
    return f"@tapejit.table.{name} = internal unnamed_addr constant [{len(values)} x double] [{items}], align 64\n"


@cache
def _function(name, dtype):
    head = symbol(name, dtype)
    b = Builder(FORMATS[dtype], ARITY[name])
    result = OURS.get(name, _libm(name))(b, *b.args)
    type = b.format.type
    parameters = ", ".join(f"{type} {a.text}" for a in b.args)
    body = "\n".join([*b.lines, f"  ret {type} {result.text}"])
    text = (
        f"define internal {type} {head}({parameters}) alwaysinline nounwind willreturn memory(none) {{\n{body}\n}}\n"
    )
    return text, frozenset(b.declares), b.tables
