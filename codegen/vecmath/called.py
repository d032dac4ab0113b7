"""Called functions: for programs with much vector math, which would compile for long if each call were inlined.

A sine is 60 instructions wherever it is inlined, and LLVM's time goes with the instructions: 2 ms for each sine in a
vectorized loop. So a program with many calls declares the function instead of defining it: a scalar one, and as its
vector variants functions of whole registers, which LLVM's loop vectorizer then calls. They are compiled once per process
(or read from disk), from the same descriptions, and give the same numbers.

In: names and dtypes. Out: `declarations` (text), the symbols of the `variants`, the `address` of a symbol.
"""

import threading

from .builder import FORMATS

SUFFIX = ".whole"  # how the symbols end, before the lanes

_libraries, _lock = {}, threading.Lock()


def widths(dtype):
    """Lanes of a register; for f32 also of half a one, as beside f64."""
    from .. import engine

    lanes = engine.session().width // 64
    return (lanes,) if dtype == "f64" else (lanes, 2 * lanes)


def variant(name, dtype, lanes):
    return f"tapejit.{name}.{dtype}{SUFFIX}.{lanes}"


def variants(name, dtype) -> list:
    """Symbols of the vector variants."""
    return [variant(name, dtype, n) for n in widths(dtype)]


def declarations(name, dtype, arity):
    """Declarations of the function, scalar under its own symbol, and of its vector variants."""
    symbol = f"tapejit.{name}.{dtype}"
    variants = ",".join([f"_ZGV_LLVM_N{n}{'v' * arity}_{symbol}({variant(name, dtype, n)})" for n in widths(dtype)])
    pure = "nounwind willreturn memory(none)"
    yield f'declare {_signature(symbol, dtype, arity, 1)} {pure} "vector-function-abi-variant"="{variants}"'
    for n in widths(dtype):
        yield f"declare {_signature(variant(name, dtype, n), dtype, arity, n)} {pure}"


def address(symbol) -> int:
    """The machine code of a symbol: `tapejit.<name>.<dtype>`, or that of a variant."""
    name, dtype = symbol.split(".")[1:3]
    with _lock:
        if (name, dtype) not in _libraries:
            _libraries[name, dtype] = _library(name, dtype)
        return _libraries[name, dtype].addresses[symbol]


def _library(name, dtype):
    from .. import engine
    from . import ARITY, definitions, rare

    functions = definitions({(name, dtype)})
    exports = {1: f"tapejit.{name}.{dtype}"} | {n: variant(name, dtype, n) for n in widths(dtype)}
    text = "\n".join([
        *sorted(functions.declares), functions.text.replace(f"@{exports[1]}(", "@one("),
        *[_over_lanes(variant(name, dtype, n), dtype, ARITY[name], n, engine.attributes()) for n in widths(dtype)],
        _splat(exports[1], variant(name, dtype, widths(dtype)[0]), dtype, ARITY[name], widths(dtype)[0]),
        '!0 = distinct !{!0, !{!"llvm.loop.unroll.disable"}}\n',
    ])  # fmt: skip
    text += rare.LATE + functions.late if functions.late else ""
    imports = {symbol: rare.address(symbol) for symbol in functions.externals}
    return engine.Code(engine.Image(text), list(exports.values()), imports)


def _signature(symbol, dtype, arity, lanes):
    type = FORMATS[dtype].type
    type = type if lanes == 1 else f"<{lanes} x {type}>"
    return f"{type} @{symbol}({', '.join([f'{type} %x{i}' for i in range(arity)])})"


def _splat(symbol, vector_symbol, dtype, arity, lanes):
    """The function of scalars, in terms of a function of vectors: for what is left over of a loop."""
    type = FORMATS[dtype].type
    vector = f"<{lanes} x {type}>"
    splats = "\n".join([
        f"  %e{i} = insertelement {vector} poison, {type} %x{i}, i64 0\n"
        f"  %v{i} = shufflevector {vector} %e{i}, {vector} poison, <{lanes} x i32> zeroinitializer"
        for i in range(arity)
    ])  # fmt: skip
    arguments = ", ".join([f"{vector} %v{i}" for i in range(arity)])
    return f"""define {_signature(symbol, dtype, arity, 1)} nounwind {{
{splats}
  %all = call {vector} @{vector_symbol}({arguments})
  %y = extractelement {vector} %all, i64 0
  ret {type} %y
}}
"""


def _over_lanes(symbol, dtype, arity, lanes, attributes):
    """A function of vectors: a loop over the lanes, which LLVM vectorizes whole."""
    type = FORMATS[dtype].type
    vector = f"<{lanes} x {type}>"
    stores = "\n".join([f"  %p{i} = alloca {vector}\n  store {vector} %x{i}, ptr %p{i}" for i in range(arity)])
    loads = "\n".join([
        f"  %q{i} = getelementptr {type}, ptr %p{i}, i64 %k\n  %a{i} = load {type}, ptr %q{i}" for i in range(arity)
    ])  # fmt: skip
    arguments = ", ".join([f"{type} %a{i}" for i in range(arity)])
    return f"""define {_signature(symbol, dtype, arity, lanes)} {attributes} {{
entry:
{stores}
  %out = alloca {vector}
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k.1, %loop ]
{loads}
  %y = call {type} @one({arguments})
  %to = getelementptr {type}, ptr %out, i64 %k
  store {type} %y, ptr %to
  %k.1 = add nuw nsw i64 %k, 1
  %more = icmp ult i64 %k.1, {lanes}
  br i1 %more, label %loop, label %exit, !llvm.loop !0
exit:
  %all = load {vector}, ptr %out
  ret {vector} %all
}}
"""
