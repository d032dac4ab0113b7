"""Writes the body of one scalar function as LLVM IR text, from Python expressions that read as mathematics.

In: Python code that combines `Value`s with `+ - * / < << & ...` and the methods of `Builder`.
Out: `Builder.lines` (SSA instructions), `Builder.declares` (intrinsics used) and `Builder.tables` (constant arrays
used). There is no control flow: everything here must stay one basic block, or LLVM's loop vectorizer pays for it.

One description serves both precisions: `b.double` says which, `b.format` holds the numbers of the format, and
Python constants are rounded to the format of the value they are combined with.
No instruction carries a fast-math flag, so sums and products are rounded exactly as written; the error-free
transformations below (Dekker 1971; Knuth, TAOCP 2, 4.2.2; Muller et al., Handbook of Floating-Point Arithmetic,
chapter 4) rely on it.
"""

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """The numbers of one IEEE 754 format that bit manipulation needs."""

    name: str
    type: str
    int_type: str
    width: int
    mantissa: int
    bias: int

    @property
    def magic(self):
        """1.5 * 2**mantissa: adding it leaves round(x) in the low bits of the sum."""
        return 1.5 * 2.0**self.mantissa


F64 = Format("f64", "double", "i64", 64, 52, 1023)
F32 = Format("f32", "float", "i32", 32, 23, 127)
FORMATS = {"f64": F64, "f32": F32}
BY_TYPE = {f.type: f for f in FORMATS.values()} | {f.int_type: f for f in FORMATS.values()}


def bits_of(value, fmt=F64):
    """The bit pattern of `value` rounded to `fmt`, as a non-negative int."""
    codes = ("<Q", "<d") if fmt is F64 else ("<I", "<f")
    return struct.unpack(codes[0], struct.pack(codes[1], value))[0]


def literal(value, type):
    """LLVM's text for a constant of the given type; a float constant is written as the double of equal value."""
    if type in ("double", "float"):
        if type == "float" and abs(value) < float("inf"):
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        return f"0x{bits_of(value):016X}"
    return str(int(value)) if type != "i1" else ("true" if value else "false")


class Value:
    """An SSA name (or constant) with its LLVM type; operators append one instruction to the builder."""

    __slots__ = ("builder", "text", "type")

    def __init__(self, builder, text, type):
        self.builder, self.text, self.type = builder, text, type

    @property
    def is_float(self):
        return self.type in ("double", "float")

    def _binary(self, float_op, int_op, other, swap=False):
        op = float_op if self.is_float else int_op
        left, right = self.text, self.builder.operand(other, self.type)
        if swap:
            left, right = right, left
        return self.builder.emit(f"{op} {self.type} {left}, {right}", self.type)

    def _compare(self, float_op, int_op, other):
        op = f"fcmp {float_op}" if self.is_float else f"icmp {int_op}"
        return self.builder.emit(f"{op} {self.type} {self.text}, {self.builder.operand(other, self.type)}", "i1")

    def __add__(self, other):
        return self._binary("fadd", "add", other)

    def __sub__(self, other):
        return self._binary("fsub", "sub", other)

    def __mul__(self, other):
        return self._binary("fmul", "mul", other)

    def __truediv__(self, other):
        return self._binary("fdiv", None, other)

    def __radd__(self, other):
        return self._binary("fadd", "add", other, swap=True)

    def __rsub__(self, other):
        return self._binary("fsub", "sub", other, swap=True)

    def __rmul__(self, other):
        return self._binary("fmul", "mul", other, swap=True)

    def __rtruediv__(self, other):
        return self._binary("fdiv", None, other, swap=True)

    def __neg__(self):
        if self.is_float:
            return self.builder.emit(f"fneg {self.type} {self.text}", self.type)
        return 0 - self

    def __and__(self, other):
        return self._binary(None, "and", other)

    def __or__(self, other):
        return self._binary(None, "or", other)

    def __xor__(self, other):
        return self._binary(None, "xor", other)

    def __invert__(self):
        return self ^ (1 if self.type == "i1" else -1)

    def __lshift__(self, other):
        return self._binary(None, "shl", other)

    def __rshift__(self, other):
        """Logical (zero-filling) shift: 64-bit arithmetic shifts have no AVX2 instruction."""
        return self._binary(None, "lshr", other)

    def __lt__(self, other):
        return self._compare("olt", "slt", other)

    def __le__(self, other):
        return self._compare("ole", "sle", other)

    def __gt__(self, other):
        return self._compare("ogt", "sgt", other)

    def __ge__(self, other):
        return self._compare("oge", "sge", other)

    def eq(self, other):
        return self._compare("oeq", "eq", other)

    def ne(self, other):
        return self._compare("une", "ne", other)

    def below(self, other):
        """Unsigned integer comparison."""
        return self._compare(None, "ult", other)

    def is_nan(self):
        return self._compare("uno", None, 0.0)


class Builder:
    """Collects the instructions of one function of `arity` arguments in format `fmt`."""

    def __init__(self, fmt, arity):
        self.format = fmt
        self.double = fmt is F64
        self.lines, self.declares, self.tables = [], set(), {}
        self.args = tuple(Value(self, f"%x{i}", fmt.type) for i in range(arity))

    def emit(self, instruction, type):
        name = f"%v{len(self.lines)}"
        self.lines.append(f"  {name} = {instruction}")
        return Value(self, name, type)

    def operand(self, value, type):
        return value.text if isinstance(value, Value) else literal(value, type)

    def intrinsic(self, name, *args):
        """Calls an intrinsic function whose arguments and result all have one type."""
        type = next(a.type for a in args if isinstance(a, Value))
        symbol = f"@llvm.{name}.{({'double': 'f64', 'float': 'f32'}).get(type, type)}"
        self.declares.add(f"declare {type} {symbol}({', '.join([type] * len(args))})")
        operands = ", ".join(f"{type} {self.operand(a, type)}" for a in args)
        return self.emit(f"call {type} {symbol}({operands})", type)

    def fma(self, x, y, z):
        """x * y + z with one rounding."""
        return self.intrinsic("fma", x, y, z)

    def rint(self, x):
        return self.intrinsic("rint", x)

    def sqrt(self, x):
        return self.intrinsic("sqrt", x)

    def abs(self, x):
        return self.intrinsic("fabs", x)

    def copysign(self, magnitude, sign):
        return self.intrinsic("copysign", magnitude, sign)

    def select(self, condition, yes, no):
        type = next((v.type for v in (yes, no) if isinstance(v, Value)), self.format.type)
        yes, no = self.operand(yes, type), self.operand(no, type)
        return self.emit(f"select i1 {condition.text}, {type} {yes}, {type} {no}", type)

    def minimum(self, x, bound):
        """min(x, bound); a NaN in x stays."""
        return self.select(x > bound, bound, x)

    def maximum(self, x, bound):
        """max(x, bound); a NaN in x stays."""
        return self.select(x < bound, bound, x)

    # Comparisons of bits: integer comparisons have execution units that floating-point code leaves idle.
    def outside(self, x, low, high):
        """Whether low <= x < high does not hold, for 0 < low."""
        fmt = BY_TYPE[x.type]
        first = bits_of(low, fmt)
        return ~(self.bits(x) - first).below(bits_of(high, fmt) - first)

    def reaches(self, x, bound):
        """Whether |x| < bound does not hold."""
        return ~(self.bits(self.abs(x)) < bits_of(bound, BY_TYPE[x.type]))

    def bits(self, x):
        """The bit pattern of a float as an integer of equal width."""
        int_type = BY_TYPE[x.type].int_type
        return self.emit(f"bitcast {x.type} {x.text} to {int_type}", int_type)

    def from_bits(self, i):
        type = BY_TYPE[i.type].type
        return self.emit(f"bitcast {i.type} {i.text} to {type}", type)

    def to_float(self, i):
        """An integer as the float of its width."""
        type = BY_TYPE[i.type].type
        return self.emit(f"sitofp {i.type} {i.text} to {type}", type)

    def to_integer(self, x):
        """A float in the range of the integer of its width, truncated to it."""
        int_type = BY_TYPE[x.type].int_type
        return self.emit(f"fptosi {x.type} {x.text} to {int_type}", int_type)

    def extend(self, x):
        """float -> double."""
        return self.emit(f"fpext float {x.text} to double", "double")

    def truncate(self, x):
        """double -> float, rounded to nearest even."""
        return self.emit(f"fptrunc double {x.text} to float", "float")

    def gather(self, name, table, index):
        """table[index] for an i64 index in range; vectorized into a gather from a constant global."""
        self.tables[name] = table
        array = f"[{len(table)} x double]"
        address = self.emit(f"getelementptr {array}, ptr @tapejit.table.{name}, i64 0, i64 {index.text}", "ptr")
        return self.emit(f"load double, ptr {address.text}, align 8", "double")

    def horner(self, x, coefficients):
        """sum(c[k] * x**k) with the coefficients given from the constant term up."""
        value = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            value = self.fma(value, x, c)
        return value

    def two_horners(self, x, coefficients):
        """The same as two chains of half the latency: for long polynomials in functions with little else to do."""
        square = x * x
        return self.fma(self.horner(square, coefficients[1::2]), x, self.horner(square, coefficients[::2]))

    def two_sum(self, x, y):
        """(s, e) with s = round(x + y) and s + e = x + y exactly (Knuth)."""
        s = x + y
        t = s - x
        return s, (x - (s - t)) + (y - t)

    def fast_two_sum(self, x, y):
        """two_sum for |x| >= |y| or x == 0 (Dekker)."""
        s = x + y
        return s, y - (s - x)

    def fused_two_sum(self, x, y, z):
        """(s, e) with s = round(x * y + z) and e what it lacks, rounded, for |z| >= |x * y| or z == 0."""
        s = self.fma(x, y, z)
        return s, self.fma(x, y, z - s)

    def two_product(self, x, y):
        """(p, e) with p = round(x * y) and p + e = x * y exactly, short of underflow."""
        p = x * y
        return p, self.fma(x, y, -p)

    def half_inverse(self, x):
        """About 1 / (2 x) for x > 0, good to 2 %: exponent and mantissa negated in the bits, then a Newton step."""
        fmt = BY_TYPE[x.type]
        guess = self.from_bits(bits_of(0.5, fmt) + bits_of(0.94, fmt) - self.bits(x))
        return guess * self.fma(x * guess, -2.0, 2.0)

    def quotient(self, high, low, denominator, denominator_low):
        """(high + low) / (denominator + denominator_low) by one division and the remainder it leaves."""
        inverse = 1.0 / denominator
        q = high * inverse
        remainder = self.fma(-q, denominator_low, self.fma(-q, denominator, high) + low)
        return self.fma(remainder, inverse, q)
