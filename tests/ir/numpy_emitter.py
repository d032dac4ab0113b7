"""The Emitter protocol of ir/op.py on NumPy arrays: checks what records emit, without LLVM.

Integer division, remainder and shifts are defined for all inputs as codegen defines them: by zero 0, the least
integer by -1 wraps.
"""

import numpy as np
import scipy.special

from tapejit.ir.op import TABLE

MATH = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "atan2": np.arctan2, "erf": scipy.special.erf, "erfc": scipy.special.erfc,
    "logistic": scipy.special.expit, "lgamma": lambda x: TABLE["lgamma"].evaluate(x)[0], "digamma": scipy.special.digamma,
}  # fmt: skip


def _pair(x, y):
    """Python numbers take the other operand's type."""
    if not isinstance(x, (np.ndarray, np.generic)):
        x = y.dtype.type(x)
    elif not isinstance(y, (np.ndarray, np.generic)):
        y = x.dtype.type(y)
    assert x.dtype == y.dtype, f"an emission mixes {x.dtype} and {y.dtype}"
    return x, y


def _binary(function):
    return lambda self, x, y: function(*_pair(x, y))


def _unary(function):
    return lambda self, x: function(x)


def _divide(x, y):
    if x.dtype.kind == "f":
        return np.true_divide(x, y)
    safe = np.where(y == 0, 1, y).astype(y.dtype)
    floor = x // safe
    truncated = floor + ((x % safe != 0) & ((x < 0) != (safe < 0)))
    return np.where(y == 0, 0, truncated).astype(x.dtype)


class NumpyEmitter:
    """Scalars are arrays; every method works element by element."""

    add, sub, mul = _binary(np.add), _binary(np.subtract), _binary(np.multiply)
    div, rem = _binary(_divide), _binary(np.fmod)
    neg, abs, sqrt = _unary(np.negative), _unary(np.abs), _unary(np.sqrt)
    floor, ceil, trunc, rint = _unary(np.floor), _unary(np.ceil), _unary(np.trunc), _unary(np.rint)
    minimum, maximum = _binary(np.minimum), _binary(np.maximum)
    lt, le, gt, ge = _binary(np.less), _binary(np.less_equal), _binary(np.greater), _binary(np.greater_equal)
    eq, ne = _binary(np.equal), _binary(np.not_equal)
    and_, or_, xor = _binary(np.bitwise_and), _binary(np.bitwise_or), _binary(np.bitwise_xor)
    shl, shr = _binary(np.left_shift), _binary(np.right_shift)
    not_, signbit, copysign = _unary(np.invert), _unary(np.signbit), _binary(np.copysign)

    def fma(self, x, y, z):
        return self.add(self.mul(x, y), z)

    def select(self, c, x, y):
        assert c.dtype == bool
        if not isinstance(x, (np.ndarray, np.generic)) and not isinstance(y, (np.ndarray, np.generic)):
            raise TypeError("select of two Python numbers has no type")
        return np.where(c, *_pair(x, y))

    def cast(self, x, dtype):
        return x.astype(dtype)

    def dtype(self, x):
        return x.dtype

    def const(self, number, dtype):
        return np.dtype(dtype).type(number)

    def math(self, name, *xs):
        if len(xs) == 2:
            xs = _pair(*xs)
        if name == "pow" and xs[0].dtype.kind == "i":
            return _integer_power(*xs)
        return MATH.get(name, getattr(np, name, None))(*xs)


def _integer_power(x, y):
    """Exact powers by Python's integers, wrapped; 1/x**-y truncated for negative y, where 0**-1 is 0."""
    bits = 8 * x.dtype.itemsize

    def one(a, n):
        if n < 0:
            return 1 if a == 1 else (-1 if n % 2 else 1) if a == -1 else 0
        return (pow(a, n, 1 << bits) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)

    out = [one(a, n) for a, n in zip(*[v.reshape(-1).tolist() for v in np.broadcast_arrays(x, y)])]
    return np.array(out, x.dtype).reshape(np.broadcast_shapes(x.shape, y.shape))
