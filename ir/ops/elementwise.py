"""The elementwise kind, and its arithmetic, comparison, logic, selection and rounding operations.

An elementwise operation computes each element of its result from the matching elements of its operands, which
broadcast as in NumPy (shapes need not be equal; dtypes must be, except where a record says otherwise). Type rule,
batching and lowering belong to the kind; a record brings its payload. Transcendental functions: `transcendental.py`.
"""

from __future__ import annotations

import operator

import numpy as np

from ..graph import Constant
from ..op import NONDIFFERENTIABLE, NOT_TAKEN, NUMBER, Linear, Op, Partials, Rule, register
from ..types import BOOL, F64, I64, tensor

LETTERS = {"f": "floats", "i": "integers", "b": "bools"}


def broadcast_shapes(name, types):
    try:
        return np.broadcast_shapes(*[t.shape for t in types])
    except ValueError:
        raise ValueError(f"{name}: shapes {', '.join(str(t) for t in types)} do not broadcast") from None


def check_dtypes(name, types, allowed):
    for t in types:
        if t.dtype.kind not in allowed:
            kinds = ", ".join(LETTERS[k] for k in allowed)
            raise TypeError(f"{name} is defined for {kinds}; operand is {t}")
        if t.dtype != types[0].dtype:
            raise TypeError(f"{name}: operands must have one dtype, got {', '.join(map(str, types))}")


def elementwise(name, evaluate, derivative, *, arity=1, dtypes="f", result="same", infer=None, **payload) -> Op:
    """Define an elementwise operation. `evaluate(*arrays)` is the NumPy function; `result` is "same" or "bool"."""
    def infer_same(types, attrs):
        if len(types) != arity:
            raise TypeError(f"{name} takes {arity} operands, got {len(types)}")
        check_dtypes(name, types, dtypes)
        return (tensor(BOOL if result == "bool" else types[0].dtype, broadcast_shapes(name, types)),)

    return register(
        Op(
            name,
            "elementwise",
            infer or infer_same,
            (lambda x, y: (evaluate(x, y),)) if arity == 2 else lambda *xs, **attrs: (evaluate(*xs, **attrs),),
            derivative,
            batch_elementwise,
            arity=arity,
            dtypes=dtypes,
            result=result,
            **payload,
        )
    )


def batch_elementwise(b, node, xs, batched, size):
    """Batched operands get ones between the batch axis and their own axes, so that trailing axes still line up."""
    rank = max(x.ndim - on for x, on in zip(xs, batched))
    aligned = []
    for x, on in zip(xs, batched):
        if on and x.ndim - 1 < rank:
            x = b.reshape_to(x, (size,) + (1,) * (rank - x.ndim + 1) + x.shape[1:])
        aligned.append(x)
    return b.apply(node.op, aligned, node.attrs)


# ---- matching helpers for rewrite rules --------------------------------------------------------------------------
def is_number(value, number) -> bool:
    """Whether a value is this scalar constant, or one stretched to a shape. 0.0 does not match -0.0."""
    if type(value) is not Constant:
        node = value.node
        if node is None or node.op.name != "broadcast" or type(node.operands[0]) is not Constant:
            return False
        value = node.operands[0]
    data = value.data
    return data == number and (data != 0 or np.signbit(data) == np.signbit(number))


def made_by(value, name):
    """The operands of the node that made a value, if that node is of this operation; else None."""
    node = value.node
    return node.operands if node is not None and node.op.name == name else None


def stretched(b, value, *others):
    """`value`, in the shape that it has when combined with `others` (a rewrite must not change a result's shape)."""
    shape = value.shape
    for other in others:
        if other.shape != shape:
            shape = np.broadcast_shapes(shape, other.shape)
    return b.broadcast_to(value, shape)


def _zero_like(b, x, *others):
    return stretched(b, b.full(0, x.type), *others)


def _scaled_constant(b, attrs, x, y):
    """c*(d*x) -> (c*d)*x, in derivatives, unless c*d comes near overflow or underflow in either float width."""
    if type(y) is Constant and x.node is not None and x.node.op.name in ("reshape", "transpose") and y.ndim == 0:
        moved = x.node
        (source,) = moved.operands
        scaled = _scaled_constant(b, attrs, source, y)
        return b.apply(moved.op, [scaled], moved.attrs)[0] if scaled is not None else None
    if type(y) is Constant and (inner := made_by(x, "mul")) and type(inner[1]) is Constant and x.type.is_float:
        both = inner[1].data * y.data
        if 1e-60 < both * both < 1e60:
            return b.mul(inner[0], b.constant(both, y.dtype))
    return None


def _mul_neg(b, attrs, x, y):
    if (inner := made_by(x, "neg")) is not None:
        other = made_by(y, "neg")
        return b.mul(inner[0], other[0]) if other else b.neg(b.mul(inner[0], y))
    if (inner := made_by(y, "neg")) is not None:
        return b.neg(b.mul(x, inner[0]))
    return None


def _mul_inverse(b, attrs, x, y):
    for one, other in ((x, y), (y, x)):
        sides = made_by(one, "div")
        if sides and sides[1] is other and is_number(sides[0], 1):
            return stretched(b, b.full(1, other.type), one)
    return None


MUL_RULES = (
    Rule("x*1 -> x", lambda b, a, x, y: stretched(b, x, y) if is_number(y, 1) else None, heads=NUMBER),
    Rule("1*x -> x", lambda b, a, x, y: stretched(b, y, x) if is_number(x, 1) else None, heads=NUMBER),
    Rule("x*-1 -> -x", lambda b, a, x, y: b.neg(stretched(b, x, y)) if is_number(y, -1) else None, heads=NUMBER),
    Rule("-1*x -> -x", lambda b, a, x, y: b.neg(stretched(b, y, x)) if is_number(x, -1) else None, heads=NUMBER),
    Rule("x*0 -> 0", lambda b, a, x, y: _zero_like(b, x, y) if is_number(y, 0) else None, exact=False, heads=NUMBER),
    Rule("0*x -> 0", lambda b, a, x, y: _zero_like(b, y, x) if is_number(x, 0) else None, exact=False, heads=NUMBER),
    Rule("(-x)*y -> -(x*y)", _mul_neg, exact=False, heads=("neg",)),
    Rule("c*(d*x) -> (c*d)*x", _scaled_constant, exact=False, heads=("mul", "reshape", "transpose")),
    Rule("(1/x)*x -> 1", _mul_inverse, exact=False, heads=("div",)),
)


def _add_neg(b, attrs, x, y):
    if (inner := made_by(y, "neg")) is not None:
        return b.sub(x, inner[0])
    if (inner := made_by(x, "neg")) is not None:
        return b.sub(y, inner[0])
    return None


def _exp_minus_one(b, attrs, x, y):
    for power, one in ((made_by(x, "exp"), y), (made_by(y, "exp"), x)):
        if power and is_number(one, -1):
            return stretched(b, b.expm1(power[0]), one)
    return None


def _exp_less_one(b, attrs, x, y):
    if (power := made_by(x, "exp")) and is_number(y, 1):
        return stretched(b, b.expm1(power[0]), y)
    return None


ADD_RULES = (
    Rule("x+(-0.0) -> x", lambda b, a, x, y: stretched(b, x, y) if is_number(y, -0.0) else None, heads=NUMBER),
    Rule("x+0 -> x", lambda b, a, x, y: stretched(b, x, y) if is_number(y, 0) else None, exact=False, heads=NUMBER),
    Rule("0+x -> x", lambda b, a, x, y: stretched(b, y, x) if is_number(x, 0) else None, exact=False, heads=NUMBER),
    Rule("x+(-y) -> x-y", _add_neg, heads=("neg",)),
    Rule("x+x -> 2*x", lambda b, a, x, y: b.mul(x, 2) if x is y and x.dtype.kind != "b" else None, heads=("same",)),
    Rule("exp(x)+(-1) -> expm1(x)", _exp_minus_one, exact=False, heads=("exp",), stable=True),
)

SUB_RULES = (
    Rule("x-0 -> x", lambda b, a, x, y: stretched(b, x, y) if is_number(y, 0.0) else None, heads=NUMBER),
    Rule("x-(-y) -> x+y", lambda b, a, x, y: b.add(x, i[0]) if (i := made_by(y, "neg")) else None, heads=("neg",)),
    Rule("0-x -> -x", lambda b, a, x, y: b.neg(stretched(b, y, x)) if is_number(x, 0) else None, exact=False, heads=NUMBER),
    Rule("x-x -> 0", lambda b, a, x, y: _zero_like(b, x) if x is y else None, exact=False, heads=("same",)),
    Rule("exp(x)-1 -> expm1(x)", _exp_less_one, exact=False, heads=("exp",), stable=True),
)


def _pow_rules():
    def small(b, attrs, x, y):
        """x**2 -> x*x is correctly rounded; the others are exact by C99 Annex F."""
        if is_number(y, 1):
            return stretched(b, x, y)
        if is_number(y, 2):
            x = stretched(b, x, y)
            return b.mul(x, x)
        if is_number(y, 0):
            return stretched(b, b.full(1, x.type), y)
        if is_number(y, -1) and x.type.is_float:
            return stretched(b, b.div(1.0, x), y)
        return None

    def derived(b, attrs, x, y):
        if is_number(y, 3):
            x = stretched(b, x, y)
            return b.mul(b.mul(x, x), x)
        if is_number(y, 0.5):
            return b.sqrt(stretched(b, x, y))
        return None

    return (Rule("x**small", small, heads=NUMBER), Rule("x**3, x**0.5", derived, exact=False, heads=NUMBER))


# ---- arithmetic --------------------------------------------------------------------------------------------------
add = elementwise(
    "add", operator.add, Partials(lambda b, out, x, y: 1, lambda b, out, x, y: 1), arity=2, dtypes="fi",
    emit=lambda e, x, y: e.add(x, y), commutative=True, rules=ADD_RULES, numpy=(np.add,),
)  # fmt: skip
sub = elementwise(
    "sub", operator.sub, Partials(lambda b, out, x, y: 1, lambda b, out, x, y: -1), arity=2, dtypes="fi",
    emit=lambda e, x, y: e.sub(x, y), rules=SUB_RULES, numpy=(np.subtract,),
)  # fmt: skip
mul = elementwise(
    "mul", operator.mul, Partials(lambda b, out, x, y: y, lambda b, out, x, y: x, unbounded=True), arity=2, dtypes="fi",
    emit=lambda e, x, y: e.mul(x, y), commutative=True, rules=MUL_RULES, numpy=(np.multiply,),
)  # fmt: skip
div = elementwise(
    "div", operator.truediv,
    Partials(lambda b, out, x, y: b.div(1.0, y), lambda b, out, x, y: b.neg(b.div(out, y)), singular=True),
    arity=2, dtypes="f", emit=lambda e, x, y: e.div(x, y), numpy=(np.true_divide,), cost=4,
    rules=(
        Rule("x/1 -> x", lambda b, a, x, y: stretched(b, x, y) if is_number(y, 1) else None, heads=NUMBER),
        Rule(
            "(-x)/y -> -(x/y)", lambda b, a, x, y: b.neg(b.div(i[0], y)) if (i := made_by(x, "neg")) else None,
            heads=("neg",),
        ),
    ),
    domain=((-4.0, 4.0), (0.5, 3.0)),
)  # fmt: skip
neg = elementwise(
    "neg", operator.neg, Partials(lambda b, out, x: -1), dtypes="fi", emit=lambda e, x: e.neg(x), numpy=(np.negative,),
    rules=(Rule("-(-x) -> x", lambda b, a, x: i[0] if (i := made_by(x, "neg")) else None, heads=("neg",)),),
)  # fmt: skip


def _pow_dx(b, out, x, y):
    """y * x**(y-1); for y = 0 it is 0, also at x = 0 (where x**-1 would give 0*inf: the base is masked there)."""
    if type(y) is Constant:
        return b.mul(b.pow(x, b.constant(y.data - 1, y.dtype)), y) if y.data != 0 else None
    base = b.select(b.and_(b.eq(x, 0), b.eq(y, 0)), 1, x)
    return b.mul(b.pow(base, b.sub(y, 1)), y)


def _pow_dy(b, out, x, y):
    """x**y * log x; at x = 0 the limit 0 (y > 0) rather than 0*-inf."""
    return b.mul(out, b.log(b.select(b.eq(x, 0.0), 1.0, x)))


def _integer_pow(x, y):
    """np.power; integers to negative powers are refused when recorded and give 0 here (1 and -1 excepted)."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind == "f" or not (y < 0).any():
        return np.power(x, y)
    positive = np.power(x, np.where(y < 0, 0, y))
    unit = np.where(x == 1, 1, np.where(x == -1, np.where(y % 2 == 0, 1, -1), 0))
    return np.where(y < 0, unit, positive).astype(x.dtype)


pow = elementwise(
    "pow", _integer_pow, Partials(_pow_dx, _pow_dy, singular=True), arity=2, dtypes="fi", cost=40,
    emit=lambda e, x, y: e.math("pow", x, y), rules=_pow_rules(), numpy=(np.power, np.float_power),
    domain=((0.2, 3.0), (-2.0, 3.0)),
)  # fmt: skip


def _emit_remainder(e, x, y):
    """Python's %: the sign of the divisor. C remainder r, plus y where r and y differ in sign; a zero takes y's sign."""
    r = e.rem(x, y)
    if e.dtype(x).kind != "f":
        safe = e.select(e.eq(y, 0), 0, r)
        return e.select(e.and_(e.ne(safe, 0), e.lt(e.xor(safe, y), 0)), e.add(safe, y), safe)
    moved = e.select(e.xor(e.lt(r, 0.0), e.lt(y, 0.0)), e.add(r, y), r)
    return e.select(e.eq(r, 0.0), e.copysign(e.const(0.0, e.dtype(x)), y), moved)


def _minus_quotient(b, out, x, y):
    """Minus the whole number of y that went into x, as the value has it: floor(x/y) may round to the next one."""
    return b.neg(b.rint(b.div(b.sub(x, out), y)))


remainder = elementwise(
    "remainder", np.remainder, Partials(lambda b, out, x, y: 1, _minus_quotient), arity=2, dtypes="fi",
    emit=_emit_remainder, numpy=(np.remainder,), cost=20, domain=((0.1, 0.9), (1.0, 2.0)),
)  # fmt: skip


def _emit_floor_divide(e, x, y):
    if e.dtype(x).kind != "f":
        q, r = e.div(x, y), e.rem(x, y)
        down = e.and_(e.ne(r, 0), e.lt(e.xor(r, y), 0))
        return e.select(e.eq(y, 0), 0, e.select(down, e.sub(q, 1), q))
    m = e.rem(x, y)
    d = e.div(e.sub(x, m), y)
    d = e.select(e.and_(e.ne(m, 0.0), e.xor(e.lt(m, 0.0), e.lt(y, 0.0))), e.sub(d, 1.0), d)
    f = e.floor(d)
    f = e.select(e.gt(e.sub(d, f), 0.5), e.add(f, 1.0), f)
    q = e.div(x, y)
    f = e.select(e.eq(d, 0.0), e.copysign(e.const(0.0, e.dtype(x)), q), f)
    return e.select(e.eq(y, 0.0), q, f)


floor_divide = elementwise(
    "floor_divide", np.floor_divide, NONDIFFERENTIABLE, arity=2, dtypes="fi", emit=_emit_floor_divide,
    numpy=(np.floor_divide,), cost=20, domain=((-4.0, 4.0), (0.5, 2.0)),
)  # fmt: skip
fmod = elementwise(
    "fmod", np.fmod, Partials(lambda b, out, x, y: 1, _minus_quotient), arity=2, dtypes="fi",
    numpy=(np.fmod,), cost=20, domain=((0.1, 0.9), (1.0, 2.0)),
    emit=lambda e, x, y: e.rem(x, y) if e.dtype(x).kind == "f" else e.select(e.eq(y, 0), 0, e.rem(x, y)),
)  # fmt: skip
sqrt = elementwise(
    "sqrt", np.sqrt, Partials(lambda b, out, x: b.div(0.5, out), singular=True), emit=lambda e, x: e.sqrt(x),
    numpy=(np.sqrt,), cost=6, domain=((0.3, 4.0),),
)  # fmt: skip
sign = elementwise(
    "sign", np.sign, NONDIFFERENTIABLE, dtypes="fi", numpy=(np.sign,), kinks=(0.0,),
    emit=lambda e, x: e.select(e.gt(x, 0), 1, e.select(e.lt(x, 0), -1, e.select(e.eq(x, 0), 0, x))),
)  # fmt: skip
abs = elementwise(
    "abs", np.abs, Partials(lambda b, out, x: b.sign(x)), dtypes="fi", emit=lambda e, x: e.abs(x),
    numpy=(np.abs, np.fabs), kinks=(0.0,), doc="The derivative at 0 is 0.",
)  # fmt: skip

# ---- rounding: zero derivative -----------------------------------------------------------------------------------
for _name, _function, _emit in (
    ("floor", np.floor, lambda e, x: e.floor(x)),
    ("ceil", np.ceil, lambda e, x: e.ceil(x)),
    ("trunc", np.trunc, lambda e, x: e.trunc(x)),
    ("rint", np.rint, lambda e, x: e.rint(x)),
):
    elementwise(_name, _function, NONDIFFERENTIABLE, emit=_emit, numpy=(_function,))

# ---- minimum, maximum: NaN propagates; a tie gives each side one half ----------------------------------------------


def _half_at_ties(compare):
    """d max(x, y)/dx = 1 where x > y, 1/2 where x == y, 0 elsewhere; a NaN operand takes derivative 1."""

    def first(b, out, x, y):
        wins = b.or_(getattr(b, compare)(x, y), b.ne(x, x))
        return b.select(wins, 1.0, b.select(b.eq(x, y), 0.5, b.full(0.0, x.type)))

    return first, lambda b, out, x, y: first(b, out, y, x)


maximum = elementwise(
    "maximum", np.maximum, Partials(*_half_at_ties("gt")), arity=2, dtypes="fi", commutative=True, numpy=(np.maximum,),
    emit=lambda e, x, y: e.maximum(x, y), rules=(Rule("max(x,x)", lambda b, a, x, y: x if x is y else None, heads=("same",)),),
)  # fmt: skip
minimum = elementwise(
    "minimum", np.minimum, Partials(*_half_at_ties("lt")), arity=2, dtypes="fi", commutative=True, numpy=(np.minimum,),
    emit=lambda e, x, y: e.minimum(x, y), rules=(Rule("min(x,x)", lambda b, a, x, y: x if x is y else None, heads=("same",)),),
)  # fmt: skip

# ---- comparisons -------------------------------------------------------------------------------------------------
for _name, _function in (
    ("lt", np.less), ("le", np.less_equal), ("gt", np.greater),
    ("ge", np.greater_equal), ("eq", np.equal), ("ne", np.not_equal),
):  # fmt: skip
    elementwise(
        _name, _function, NONDIFFERENTIABLE, arity=2, dtypes="fib", result="bool", numpy=(_function,),
        emit=lambda e, x, y, name=_name: getattr(e, name)(x, y), commutative=_name in ("eq", "ne"),
    )  # fmt: skip

# ---- bits and logic ----------------------------------------------------------------------------------------------
for _name, _function in (("and_", np.bitwise_and), ("or_", np.bitwise_or), ("xor", np.bitwise_xor)):
    elementwise(
        _name, _function, NONDIFFERENTIABLE, arity=2, dtypes="ib", numpy=(_function,), commutative=True,
        emit=lambda e, x, y, name=_name: getattr(e, name)(x, y),
    )  # fmt: skip
not_ = elementwise(
    "not_", np.invert, NONDIFFERENTIABLE, dtypes="ib", emit=lambda e, x: e.not_(x), numpy=(np.invert,),
    rules=(Rule("~~x -> x", lambda b, a, x: i[0] if (i := made_by(x, "not_")) else None, heads=("not_",)),),
)  # fmt: skip
shift_left = elementwise(
    "shift_left", np.left_shift, NONDIFFERENTIABLE, arity=2, dtypes="i", emit=lambda e, x, y: e.shl(x, y),
    numpy=(np.left_shift,), domain=((-9, 9), (0, 8)),
)  # fmt: skip
shift_right = elementwise(
    "shift_right", np.right_shift, NONDIFFERENTIABLE, arity=2, dtypes="i", emit=lambda e, x, y: e.shr(x, y),
    numpy=(np.right_shift,), domain=((-99, 99), (0, 8)),
)  # fmt: skip
isnan = elementwise(
    "isnan", np.isnan, NONDIFFERENTIABLE, result="bool", emit=lambda e, x: e.ne(x, x), numpy=(np.isnan,)
)
isinf = elementwise(
    "isinf", np.isinf, NONDIFFERENTIABLE, result="bool", emit=lambda e, x: e.eq(e.abs(x), np.inf), numpy=(np.isinf,)
)
isfinite = elementwise(
    "isfinite", np.isfinite, NONDIFFERENTIABLE, result="bool", emit=lambda e, x: e.lt(e.abs(x), np.inf),
    numpy=(np.isfinite,),
)  # fmt: skip
signbit = elementwise(
    "signbit", np.signbit, NONDIFFERENTIABLE, result="bool", emit=lambda e, x: e.signbit(x), numpy=(np.signbit,)
)


def _copysign_dx(b, out, x, y):
    """+1 where the signs agree, -1 where they differ."""
    return b.select(b.eq(b.signbit(x), b.signbit(y)), 1.0, b.full(-1.0, x.type))


copysign = elementwise(
    "copysign", np.copysign,
    Partials(_copysign_dx, None),
    arity=2, emit=lambda e, x, y: e.copysign(x, y), numpy=(np.copysign,), kinks=(0.0,),
)  # fmt: skip

# ---- select, cast, stop_gradient ---------------------------------------------------------------------------------


def _infer_select(types, attrs):
    if len(types) != 3:
        raise TypeError(f"select takes 3 operands, got {len(types)}")
    c, x, y = types
    if c.dtype != BOOL or x.dtype != y.dtype:
        raise TypeError(f"select takes a bool and two operands of one dtype, got {c}, {x}, {y}")
    return (tensor(x.dtype, broadcast_shapes("select", types)),)


def _select_transpose(b, node, xs, ct, i):
    c, x, y = xs
    zero = b.constant(0, ct.dtype)
    kept = b.select(c, ct, zero) if i == 1 else b.select(c, zero, ct)
    return b.sum_to(kept, xs[i].shape)


def _select_rules(b, attrs, c, x, y):
    if x is y:
        return stretched(b, x, c)
    if is_number(c, True):
        return stretched(b, x, c, y)
    if is_number(c, False):
        return stretched(b, y, c, x)
    if (inner := made_by(c, "not_")) is not None:
        return b.select(inner[0], y, x)
    return None


select = elementwise(
    "select", np.where, Linear(_select_transpose, (1, 2)), arity=3, dtypes="fib", infer=_infer_select,
    emit=lambda e, c, x, y: e.select(c, x, y), rules=(Rule("select", _select_rules),), masks=NOT_TAKEN,
)  # fmt: skip


def _convert(x, dtype):
    with np.errstate(invalid="ignore"):
        return np.asarray(x).astype(dtype)


def _convert_transpose(b, node, xs, ct, i):
    return b.cast(ct, xs[0].dtype)


class _ConvertDerivative(Linear):
    """Linear between floats; an integer or bool result carries no derivative."""

    def jvp(self, b, node, xs, ys, tangents):
        return super().jvp(b, node, xs, ys, tangents) if ys[0].type.is_float else (None,)


def _convert_rules(b, attrs, x):
    dtype = attrs["dtype"]
    if x.dtype == dtype:
        return x
    inner = made_by(x, "convert")
    if inner is not None and _lossless(inner[0].dtype, x.dtype) and x.dtype.kind == dtype.kind:
        return b.cast(inner[0], dtype)  # widening first and then on loses nothing
    return None


def _lossless(source, target):
    """NumPy calls i64 -> f64 safe, but it rounds."""
    return np.can_cast(source, target, "safe") and (source, target) != (I64, F64)


convert = elementwise(
    "convert", _convert, _ConvertDerivative(_convert_transpose), dtypes="fib",
    infer=lambda types, attrs: (types[0].with_dtype(attrs["dtype"]),), emit=lambda e, x, dtype: e.cast(x, dtype),
    rules=(Rule("convert", _convert_rules),), doc="attrs: dtype.",
)  # fmt: skip
stop_gradient = elementwise(
    "stop_gradient", lambda x: x, NONDIFFERENTIABLE, dtypes="fib", emit=lambda e, x: x,
    doc="The identity, through which no derivative flows.",
)  # fmt: skip
