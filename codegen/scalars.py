"""The Emitter protocol of ir/op.py on LLVM IR text: scalar instructions, one line each.

In: `Scalar`s (an SSA name or literal with its NumPy dtype) and Python numbers. Out: lines of LLVM IR, and the sets of
declarations and vector math functions that they need. Text is written directly: building llvmlite.ir objects and
printing them costs more than LLVM's own work on small kernels.

Fast-math: `contract` on arithmetic (a product and a sum may become one FMA); `reassoc` only while `accumulating`,
i.e. on the operation that folds an element into an accumulator. Nothing else, anywhere.
Integer operations are defined for all inputs, as NumPy defines them: division by zero gives 0, the quotient of the least
integer by -1 wraps, shifts by the width or more give 0 or the sign, casts of NaN give the least integer.
"""

from __future__ import annotations

import struct

import numpy as np

from tapejit.ir.types import BOOL, F32, F64, I32, I64, NAMES

from . import vecmath

TYPES = {F64: "double", F32: "float", I64: "i64", I32: "i32", BOOL: "i1"}
MEMORY = {**TYPES, BOOL: "i8"}
BITS = {F64: ("i64", 64), F32: ("i32", 32), I64: ("i64", 64), I32: ("i32", 32)}
UNROLLED_POWER = 64


class Scalar:
    """An SSA name or a literal, and its dtype. number: the Python number, if it is a literal."""

    __slots__ = ("text", "dtype", "number")

    def __init__(self, text, dtype, number=None):
        self.text, self.dtype, self.number = text, dtype, number


def literal(number, dtype) -> str:
    if dtype.kind == "f":
        if dtype == F32:
            with np.errstate(over="ignore"):
                number = float(np.float32(number))
        return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
    if dtype == BOOL:
        return "true" if number else "false"
    return str(int(number))


class Emitter:
    """Appends instructions to `lines`.

    declares: declaration lines. math_functions: (name, "f64", inlined) of vecmath. powers: types of integer powers.
    """

    def __init__(self):
        self.lines, self.declares, self.math_functions, self.powers = [], set(), set(), set()
        self.accumulating = False
        self.inline = True  # whether math functions are inlined (so that loops vectorize) or called
        self._names = 0

    # ---- plumbing ----------------------------------------------------------------------------------------------------
    def line(self, text):
        self.lines.append(text)

    def fresh(self):
        self._names += 1
        return f"%v{self._names}"

    def new(self, instruction, dtype):
        name = self.fresh()
        self.lines.append(f"  {name} = {instruction}")
        return Scalar(name, dtype)

    def const(self, number, dtype):
        return Scalar(literal(number, dtype), dtype, number)

    def dtype(self, x):
        return x.dtype

    def both(self, x, y):
        """Two operands as Scalars of one dtype."""
        if type(x) is not Scalar:
            x = self.const(x, y.dtype)
        elif type(y) is not Scalar:
            y = self.const(y, x.dtype)
        return x, y

    def call(self, name, dtype, *args, extra=""):
        type = TYPES[dtype]
        suffix = f"{name}.{NAMES[dtype] if dtype.kind == 'f' else type}"
        flag = ", i1" if extra else ""
        self.declares.add(f"declare {type} @{suffix}({', '.join([type] * len(args))}{flag})")
        operands = ", ".join([f"{type} {a.text}" for a in args])
        return self.new(f"call {type} @{suffix}({operands}{extra})", dtype)

    def binary(self, floating, integer, x, y):
        x, y = self.both(x, y)
        if x.dtype.kind == "f":
            flags = "reassoc contract" if self.accumulating else "contract"
            return self.new(f"{floating} {flags} {TYPES[x.dtype]} {x.text}, {y.text}", x.dtype)
        return self.new(f"{integer} {TYPES[x.dtype]} {x.text}, {y.text}", x.dtype)

    # ---- arithmetic --------------------------------------------------------------------------------------------------
    def add(self, x, y):
        return self.binary("fadd", "add", x, y)

    def sub(self, x, y):
        return self.binary("fsub", "sub", x, y)

    def mul(self, x, y):
        return self.binary("fmul", "mul", x, y)

    def div(self, x, y):
        x, y = self.both(x, y)
        if x.dtype.kind == "f":
            return self.new(f"fdiv {TYPES[x.dtype]} {x.text}, {y.text}", x.dtype)
        quotient = self.new(f"sdiv {TYPES[x.dtype]} {x.text}, {self._divisor(y).text}", x.dtype)
        wrapped = self.select(self.eq(y, -1), self.sub(0, x), quotient)
        return self.select(self.eq(y, 0), 0, wrapped)

    def rem(self, x, y):
        x, y = self.both(x, y)
        if x.dtype.kind == "f":
            return self.new(f"frem {TYPES[x.dtype]} {x.text}, {y.text}", x.dtype)
        return self.new(f"srem {TYPES[x.dtype]} {x.text}, {self._divisor(y).text}", x.dtype)

    def _divisor(self, y):
        """y, or 1 where the machine's division would trap (0, and -1 for the least integer): remainders come out 0."""
        return self.select(self.or_(self.eq(y, 0), self.eq(y, -1)), 1, y)

    def neg(self, x):
        return self.new(f"fneg {TYPES[x.dtype]} {x.text}", x.dtype) if x.dtype.kind == "f" else self.sub(0, x)

    def abs(self, x):
        return self.call("llvm.fabs", x.dtype, x) if x.dtype.kind == "f" else self.call(
            "llvm.abs", x.dtype, x, extra=", i1 false")

    def sqrt(self, x):
        return self.call("llvm.sqrt", x.dtype, x)

    def floor(self, x):
        return self.call("llvm.floor", x.dtype, x)

    def ceil(self, x):
        return self.call("llvm.ceil", x.dtype, x)

    def trunc(self, x):
        return self.call("llvm.trunc", x.dtype, x)

    def rint(self, x):
        return self.call("llvm.rint", x.dtype, x)

    def fma(self, x, y, z):
        x, y = self.both(x, y)
        return self.call("llvm.fma", x.dtype, x, y, self.both(x, z)[1])

    def maximum(self, x, y):
        x, y = self.both(x, y)
        return self.call("llvm.maximum" if x.dtype.kind == "f" else "llvm.smax", x.dtype, x, y)

    def minimum(self, x, y):
        x, y = self.both(x, y)
        return self.call("llvm.minimum" if x.dtype.kind == "f" else "llvm.smin", x.dtype, x, y)

    # ---- comparison and selection ------------------------------------------------------------------------------------
    def compare(self, floating, integer, x, y):
        x, y = self.both(x, y)
        if x.dtype.kind == "f":
            return self.new(f"fcmp {floating} {TYPES[x.dtype]} {x.text}, {y.text}", BOOL)
        sign = "" if integer in ("eq", "ne") else "u" if x.dtype == BOOL else "s"
        return self.new(f"icmp {sign}{integer} {TYPES[x.dtype]} {x.text}, {y.text}", BOOL)

    def lt(self, x, y):
        return self.compare("olt", "lt", x, y)

    def le(self, x, y):
        return self.compare("ole", "le", x, y)

    def gt(self, x, y):
        return self.compare("ogt", "gt", x, y)

    def ge(self, x, y):
        return self.compare("oge", "ge", x, y)

    def eq(self, x, y):
        return self.compare("oeq", "eq", x, y)

    def ne(self, x, y):
        return self.compare("une", "ne", x, y)

    def select(self, c, x, y):
        x, y = self.both(x, y)
        type = TYPES[x.dtype]
        return self.new(f"select i1 {c.text}, {type} {x.text}, {type} {y.text}", x.dtype)

    # ---- bits --------------------------------------------------------------------------------------------------------
    def bitwise(self, what, x, y):
        x, y = self.both(x, y)
        return self.new(f"{what} {TYPES[x.dtype]} {x.text}, {y.text}", x.dtype)

    def and_(self, x, y):
        return self.bitwise("and", x, y)

    def or_(self, x, y):
        return self.bitwise("or", x, y)

    def xor(self, x, y):
        return self.bitwise("xor", x, y)

    def not_(self, x):
        return self.bitwise("xor", x, -1 if x.dtype != BOOL else True)

    def shl(self, x, y):
        x, y = self.both(x, y)
        fits, safe = self._shift(y)
        return self.select(fits, self.bitwise("shl", x, safe), 0)

    def shr(self, x, y):
        x, y = self.both(x, y)
        _, safe = self._shift(y)
        return self.bitwise("ashr", x, safe)

    def _shift(self, y):
        """Whether a shift is within the width (negative ones are not), and the shift or width - 1."""
        type, width = BITS[y.dtype]
        fits = self.new(f"icmp ult {type} {y.text}, {width}", BOOL)
        return fits, self.select(fits, y, width - 1)

    def copysign(self, x, y):
        x, y = self.both(x, y)
        return self.call("llvm.copysign", x.dtype, x, y)

    def signbit(self, x):
        type, _ = BITS[x.dtype]
        bits = self.new(f"bitcast {TYPES[x.dtype]} {x.text} to {type}", x.dtype)
        return self.new(f"icmp slt {type} {bits.text}, 0", BOOL)

    # ---- functions and casts -----------------------------------------------------------------------------------------
    def math(self, name, *xs):
        if len(xs) == 2:
            xs = self.both(*xs)
        dtype = xs[0].dtype
        type = TYPES[dtype]
        if dtype.kind != "f":
            return self._integer_power(*xs)
        self.math_functions.add((name, NAMES[dtype], self.inline))
        operands = ", ".join([f"{type} {x.text}" for x in xs])
        called = "" if self.inline else ".called"
        return self.new(f"call {type} {vecmath.symbol(name, NAMES[dtype])}{called}({operands})", dtype)

    def _integer_power(self, x, y):
        if y.number is not None and 0 < y.number <= UNROLLED_POWER:
            power, out, n = x, None, y.number
            while n:
                if n & 1:
                    out = power if out is None else self.mul(out, power)
                n >>= 1
                power = self.mul(power, power) if n else power
            return out
        type = TYPES[x.dtype]
        self.powers.add(type)
        return self.new(f"call {type} @tapejit.power.{type}({type} {x.text}, {type} {y.text})", x.dtype)

    def cast(self, x, dtype):
        source, a, z = x.dtype, TYPES[x.dtype], TYPES[dtype]
        if source == dtype:
            return x
        if dtype == BOOL:
            return self.ne(x, 0)
        if source.kind == "f" and dtype.kind == "f":
            return self.new(f"{'fptrunc' if dtype == F32 else 'fpext'} {a} {x.text} to {z}", dtype)
        if source.kind == "f":
            return self._float_to_integer(x, dtype)
        if dtype.kind == "f":
            return self.new(f"{'uitofp' if source == BOOL else 'sitofp'} {a} {x.text} to {z}", dtype)
        if source == BOOL:
            return self.new(f"zext i1 {x.text} to {z}", dtype)
        return self.new(f"{'trunc' if dtype == I32 else 'sext'} {a} {x.text} to {z}", dtype)

    def _float_to_integer(self, x, dtype):
        """Truncation; NaN and what is out of range become the least integer, as on x86 (in LLVM they are poison)."""
        a, z = TYPES[x.dtype], TYPES[dtype]
        limit = 2.0 ** (BITS[dtype][1] - 1)
        name = f"llvm.fptosi.sat.{z}.{NAMES[x.dtype]}"
        self.declares.add(f"declare {z} @{name}({a})")
        inside = self.lt(self.abs(x), limit)
        return self.select(inside, self.new(f"call {z} @{name}({a} {x.text})", dtype), -int(limit))


def called_function(name, dtype, arity) -> str:
    """A math function that is called: what straight-line code uses, where inlining would only cost compile time."""
    type = "double" if dtype == "f64" else "float"
    symbol = vecmath.symbol(name, dtype)
    args = ", ".join([f"{type} %x{i}" for i in range(arity)])
    return (
        f"define internal {type} {symbol}.called({args}) noinline nounwind willreturn memory(none) {{\n"
        f"  %y = call {type} {symbol}({args})\n  ret {type} %y\n}}\n"
    )


def power_function(type) -> str:
    """x**y for integers by repeated squaring; negative y as 1/x**-y truncated, and 0**-1 = 0."""
    return f"""define internal {type} @tapejit.power.{type}({type} %x, {type} %y) nounwind willreturn memory(none) {{
entry:
  %negative = icmp slt {type} %y, 0
  %odd = and {type} %y, 1
  %is.one = icmp eq {type} %x, 1
  %is.minus = icmp eq {type} %x, -1
  %even = icmp eq {type} %odd, 0
  %sign = select i1 %even, {type} 1, {type} -1
  %alternating = select i1 %is.minus, {type} %sign, {type} 0
  %unit = select i1 %is.one, {type} 1, {type} %alternating
  %n0 = select i1 %negative, {type} 0, {type} %y
  br label %loop
loop:
  %n = phi {type} [ %n0, %entry ], [ %n.half, %loop ]
  %power = phi {type} [ %x, %entry ], [ %square, %loop ]
  %out = phi {type} [ 1, %entry ], [ %out.next, %loop ]
  %bit = and {type} %n, 1
  %set = icmp ne {type} %bit, 0
  %times = mul {type} %out, %power
  %out.next = select i1 %set, {type} %times, {type} %out
  %square = mul {type} %power, %power
  %n.half = lshr {type} %n, 1
  %more = icmp ne {type} %n.half, 0
  br i1 %more, label %loop, label %done
done:
  %result = select i1 %negative, {type} %unit, {type} %out.next
  ret {type} %result
}}
"""
