"""Rare arguments: how a loop of vectors leaves its fast path for the few arguments that it does not serve.

A function may have two descriptions: one that is fast and says which arguments are none of its, and one in its module's RARE
that serves those, at a price (Payne and Hanek's reduction, subnormals, infinities). Computing both and selecting would cost
their sum, and a branch would keep the loop from being vectorized. So the fast description ends in a call

    y = @tapejit.<function>.rare(x, y, is_rare)

of a function that is declared with vector variants but not yet defined: LLVM's vectorizer replaces the call by a variant.
After the passes the definitions are linked in and inlined (`LATE`): "if any lane is rare, call the cold function".
Thus a vector of ordinary arguments pays for one test. The cold function stores the lanes and calls a loop over the other
description; ordinary lanes keep their value, so that no element's result depends on its neighbours.

The loop is compiled when the first rare argument occurs in the process: the cold function calls what a slot points to, at
first a Python function that compiles, fills the slot and runs the loop. That one takes the GIL, so nobody may hold the GIL
and wait for another thread that runs our code. If it is interrupted (Ctrl-C), ctypes can only print that: the loop clears the
flags of the lanes that it has served, and the cold function calls until all are clear.

In: names and dtypes. Out: `declarations` and `definitions` (text), `address` of the slot.
"""

import ctypes
import threading

from .builder import FORMATS

SLOT = ".rare.slot"  # how the symbols of the slots end
# What follows this line in a module's text engine.py links in after the passes: `alwaysinline` functions are inlined, what
# is unused is dropped. KEPT is a global that refers to what the text before declares and only the passes will use.
LATE = "\n; ---- late ----\n"
KEPT = "tapejit.kept"

_slots, _lock = {}, threading.Lock()


def hook(name, dtype, lanes=1):
    return f"tapejit.{name}.{dtype}.rare" + (f".{lanes}" if lanes > 1 else "")


def slot_symbol(name, dtype):
    """The symbol of the slot, to be imported by whoever has the hook in its module."""
    return f"tapejit.{name}.{dtype}{SLOT}"


def declarations(name, dtype, arity):
    """Declarations of the hook, scalar and vector."""
    variants = ",".join(
        f"_ZGV_LLVM_N{lanes}{'v' * (arity + 2)}_{hook(name, dtype)}({hook(name, dtype, lanes)})" for lanes in _widths(dtype)
    )
    pure = "nounwind willreturn memory(none)"
    yield f'declare {_signature(name, dtype, arity, 1)} {pure} "vector-function-abi-variant"="{variants}"'
    for lanes in _widths(dtype):
        yield f"declare {_signature(name, dtype, arity, lanes)} {pure}"


def variants(needed) -> list:
    """Symbols of the vector variants, which nothing refers to before the vectorizer has run (see KEPT)."""
    return [hook(name, dtype, lanes) for name, dtype in needed for lanes in _widths(dtype)]


def definitions(needed, arity):
    """The text to link in after the passes: hooks, and the cold functions that they call."""
    parts = [_definition(name, dtype, arity[name], lanes) for name, dtype in needed for lanes in (1, *_widths(dtype))]
    return "\n".join([*parts, '!0 = !{!"branch_weights", i32 1, i32 100000}\n'])


def address(symbol) -> int:
    """The address of the slot with this symbol."""
    with _lock:
        if symbol not in _slots:
            _slots[symbol] = _Slot(*symbol.split(".")[1:3])
        return ctypes.addressof(_slots[symbol].target)


class _Slot:
    """What a cold function calls. Lives as long as the process, as compiled modules point into it."""

    def __init__(self, name, dtype):
        from . import ARITY

        self.name, self.dtype, self.arity = name, dtype, ARITY[name]
        self.signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (self.arity + 2), ctypes.c_int64)
        self.callback = self.signature(self.compile_and_run)
        self.target = ctypes.cast(self.callback, ctypes.c_void_p)
        self.code, self.lock = None, threading.Lock()

    def compile_and_run(self, *arguments):
        try:
            with self.lock:  # several threads may come: the code of the first serves all
                if self.code is None:
                    self.code = self.compile()
                self.target.value = self.code.addresses["loop"]
        except Exception:  # no memory, or an error of ours: ctypes prints it, and no wrong number comes out
            *_, values, flags, lanes = arguments
            nans = (ctypes.c_double if self.dtype == "f64" else ctypes.c_float) * lanes
            nans.from_address(values)[:] = [float("nan")] * lanes
            ctypes.memset(flags, 0, lanes)
            raise
        self.signature(self.target.value)(*arguments)

    def compile(self):
        from .. import engine
        from . import rare_definition

        text = _loop(self.name, self.dtype, self.arity, *rare_definition(self.name, self.dtype), engine.attributes())
        return engine.Code(engine.Image(text), ["loop"], {})


def _widths(dtype):
    """Lanes of a vector of 512, 256 or 128 bits, and for f32 beside f64 half of that."""
    return (2, 4, 8) if dtype == "f64" else (2, 4, 8, 16)


def _vector(type, lanes):
    return f"<{lanes} x {type}>" if lanes > 1 else type


def _signature(name, dtype, arity, lanes, suffix=""):
    type = _vector(FORMATS[dtype].type, lanes)
    parameters = [f"{type} %x{i}" for i in range(arity)] + [f"{type} %y", f"{_vector('i1', lanes)} %rare"]
    return f"{type} @{hook(name, dtype, lanes)}{suffix}({', '.join(parameters)})"


def _definition(name, dtype, arity, lanes):
    type, condition, bytes = (_vector(t, lanes) for t in (FORMATS[dtype].type, "i1", "i8"))
    cold = _signature(name, dtype, arity, lanes, ".cold")
    any_lane = (
        f"  %lanes = bitcast {condition} %rare to i{lanes}\n  %any = icmp ne i{lanes} %lanes, 0\n  br i1 %any"
        if lanes > 1
        else "  br i1 %rare"
    )
    names = [*[f"x{i}" for i in range(arity)], "y"]
    stores = "\n".join(f"  %p.{x} = alloca {type}\n  store {type} %{x}, ptr %p.{x}" for x in names)
    pointers = ", ".join(f"ptr %p.{x}" for x in names)
    slot = slot_symbol(name, dtype)
    declaration = f"@{slot} = external global ptr\n" if lanes == 1 else ""
    left = f"i{8 * lanes}"
    return f"""{declaration}define {_signature(name, dtype, arity, lanes)} alwaysinline nounwind {{
{any_lane}, label %leave, label %stay, !prof !0
leave:
  %other = call {cold}
  ret {type} %other
stay:
  ret {type} %y
}}
define internal {cold} cold noinline nounwind {{
{stores}
  %p.rare = alloca {bytes}
  %bytes = zext {condition} %rare to {bytes}
  store {bytes} %bytes, ptr %p.rare
  br label %again
again:
  %loop = load ptr, ptr @{slot}
  call void %loop({pointers}, ptr %p.rare, i64 {lanes})
  %flags = load {left}, ptr %p.rare
  %served = icmp eq {left} %flags, 0
  br i1 %served, label %done, label %again
done:
  %other = load {type}, ptr %p.y
  ret {type} %other
}}
"""


def _loop(name, dtype, arity, declares, functions, attributes):
    """y[k] = f(x[k]) where rare[k]; rare[k] = 0."""
    type = FORMATS[dtype].type
    names = [*[f"x{i}" for i in range(arity)], "y"]
    pointers = ", ".join(f"ptr noalias %p.{x}" for x in names)
    loads = "\n".join(f"  %q.{x} = getelementptr {type}, ptr %p.{x}, i64 %k\n  %{x} = load {type}, ptr %q.{x}" for x in names)
    arguments = ", ".join(f"{type} %{x}" for x in names[:-1])
    return "\n".join(sorted(declares)) + f"""
{functions}
define void @loop({pointers}, ptr noalias %p.rare, i64 %n) {attributes} {{
entry:
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%k.1, %loop]
{loads}
  %q.rare = getelementptr i8, ptr %p.rare, i64 %k
  %byte = load i8, ptr %q.rare
  %rare = icmp ne i8 %byte, 0
  %value = call {type} @tapejit.{name}.{dtype}({arguments})
  %out = select i1 %rare, {type} %value, {type} %y
  store {type} %out, ptr %q.y
  store i8 0, ptr %q.rare
  %k.1 = add nuw nsw i64 %k, 1
  %more = icmp ult i64 %k.1, %n
  br i1 %more, label %loop, label %exit
exit:
  ret void
}}
"""
