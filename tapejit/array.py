"""`Array`: an eager array that can be recorded.

An Array holds a NumPy value (`_data`) and, while something records, the SSA value that stands for it (`_value`) in
the record it belongs to (`_record`). `_weak` marks a value that came from a Python scalar and takes the other operand's
dtype (NEP 50). It is not an ndarray subclass, since C code would silently drop the record: it implements the
operators, `__array_ufunc__` and `__array_function__` instead, and all of them look the NumPy function up in `HANDLERS`,
which `tapejit.numpy` fills. A function that is not there is an error that names it; nothing is ever converted silently.

Turning a recorded value into a Python bool or int records a guard; into a float or ndarray is refused while a
function is recorded, since the result could not follow the inputs.
"""

from __future__ import annotations

import operator

import numpy as np

from .errors import MutationError, UnsupportedFunctionError, located

HANDLERS: dict = {}  # NumPy/SciPy function -> ours; filled by tapejit.numpy and tapejit.scipy
DIRECT: dict = {}  # ufunc -> ours without ufunc arguments, for the operators; filled by tapejit.numpy.ufuncs
REDUCERS: dict = {}  # ufunc -> ours for ufunc.reduce


def is_a(x, classes) -> bool:
    """isinstance by the type that x has: an Array of a record says that it is an ndarray or a number (`Array.__class__`)."""
    return issubclass(type(x), classes)


def since(name):
    """A function that newer versions of NumPy 2 have, or None."""
    return getattr(np, name, None)


# NumPy's functions whose results may be views of an argument; those of all others are arrays of their own (mutation.py).
_VIEWS = {
    operator.getitem, np.reshape, np.ravel, np.transpose, np.matrix_transpose, np.linalg.matrix_transpose, np.swapaxes,
    np.moveaxis, np.rollaxis, np.expand_dims, np.squeeze, np.broadcast_to, np.broadcast_arrays, np.array_split, np.split,
    np.hsplit, np.vsplit, np.dsplit, since("unstack"), np.flip, np.fliplr, np.flipud, np.rot90, np.asarray, np.real,
    np.diagonal, np.linalg.diagonal, np.atleast_1d, np.atleast_2d, np.atleast_3d,
} - {None}  # fmt: skip


def handles(*functions):
    """Decorator: this function of ours stands for these NumPy functions when an Array is among the arguments.

    None is passed over: a function that this version of NumPy does not have yet (`since`).
    """

    def register(ours):
        if _VIEWS.isdisjoint(functions):
            from .mutation import owning

            ours = owning(ours)
        for function in [f for f in functions if f is not None]:
            HANDLERS[function] = ours
            DIRECT.setdefault(function, ours)
        return ours

    return register


def _name(function):
    module = getattr(function, "__module__", None) or "numpy"
    prefix = {"numpy": "np", "numpy.linalg": "np.linalg"}.get(module, module)
    if isinstance(function, np.ufunc) and getattr(np, function.__name__, None) is function:
        prefix = "np"
    return f"{prefix}.{getattr(function, '__name__', function)}"


def unsupported(function, method=""):
    """The error for a function, or a ufunc's method, that we do not have, with the nearest that we do."""
    import difflib

    name = f"{_name(function)}.{method}" if method else _name(function)
    known = sorted({_name(f) for f in HANDLERS if not isinstance(f, tuple)})
    near = difflib.get_close_matches(name, known, 3, 0.6)
    hint = f"the nearest that exist: {', '.join(near)}" if near else "see tapejit.numpy for those that exist"
    return located(
        UnsupportedFunctionError,
        f"{name} cannot be recorded: tapejit does not have it",
        f"{hint}; or compute it outside the function and pass the result in",
    )


def _binary(function, reflected=False):
    if reflected:

        def method(self, other):
            if not isinstance(other, _OPERANDS):
                return NotImplemented
            return DIRECT[function](other, self)

    else:

        def method(self, other):
            if not isinstance(other, _OPERANDS):
                return NotImplemented
            return DIRECT[function](self, other)

    method.__name__ = function.__name__
    return method


def _in_place(function):
    """x += y writes into x, and so into all views of it; a scalar, as NumPy's, is bound anew."""

    def method(self, other):
        if type(self) is not Array or not self._data.shape or not isinstance(other, _OPERANDS):
            return NotImplemented
        from .mutation import store

        return store(self, DIRECT[function](self, other), function)

    return method


def _unary(function):
    def method(self):
        return DIRECT[function](self)

    return method


def _method(function):
    def method(self, *args, **kwargs):
        ours = HANDLERS.get(function)
        if ours is None:
            raise unsupported(function)
        return ours(self, *args, **kwargs)

    method.__name__, method.__doc__ = function.__name__, f"As `numpy.ndarray.{function.__name__}`."
    return method


class Array:
    """An eager array whose operations are recorded while a tape or a transform is active.

    `Array(data, dtype=None)` from anything `numpy.asarray` takes. `.numpy()` gives the value back.

    >>> import tapejit
    >>> x = tapejit.Array([1.0, 2.0])
    >>> (x * 2).numpy()
    array([2., 4.])
    """

    __slots__ = ("_data", "_record", "_value", "_weak", "_alias", "__weakref__")
    __hash__ = None

    def __init__(self, data, dtype=None):
        if isinstance(data, Array):
            data = data.numpy()
        self._data = np.array(data, dtype=dtype)
        self._record = self._value = self._alias = None
        self._weak = False

    # ---- what it is ---------------------------------------------------------------------------------------------
    @property
    def __class__(self):
        """For isinstance: what a function that is recorded is called with, an ndarray or a number; else an Array."""
        record = self._record
        if record is None or record.depth == 0 or record.closed:
            return type(self)
        return type(self._data.item()) if self._weak else type(self._data)

    @property
    def shape(self):
        return self._data.shape

    @property
    def dtype(self):
        return self._data.dtype

    @property
    def ndim(self):
        return self._data.ndim

    @property
    def size(self):
        return self._data.size

    @property
    def nbytes(self):
        return self._data.nbytes

    @property
    def itemsize(self):
        return self._data.dtype.itemsize

    @property
    def T(self):
        return HANDLERS[np.transpose](self)

    @property
    def mT(self):
        return HANDLERS[np.matrix_transpose](self)

    @property
    def real(self):
        return self

    @property
    def flat(self):
        raise located(MutationError, "`.flat` of an Array is not recorded", "x.reshape(-1), or index x directly")

    def __len__(self):
        if not self._data.shape:
            raise TypeError("len() of unsized object")
        return self._data.shape[0]

    def __iter__(self):
        if not self._data.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self._data.shape[0]))

    def __repr__(self):
        self._update()
        body = np.array2string(np.asarray(self._data), separator=", ", prefix="Array(")
        extra = "" if self.dtype in (np.float64, np.int64, np.bool_) else f", dtype={self.dtype}"
        return f"{type(self).__name__}({body}{extra})"

    def __str__(self):
        self._update()
        return str(self._data)

    def __format__(self, spec):
        self._update()
        return format(self._data[()] if self._data.ndim == 0 else self._data, spec)

    # ---- from recorded to plain -----------------------------------------------------------------------------------
    def _concrete(self, how, instead):
        self._update()
        record = self._record
        if record is not None:
            record.concretize(self, how, instead)
        return self._data

    def _update(self):
        """Have a view see what was written since into what it is a view of."""
        if self._alias is not None and self._alias.stale():
            from .record import refresh

            refresh(self)

    def numpy(self):
        """The value as a NumPy array (a copy). Refused while a function is recorded."""
        data = self._concrete("`.numpy()`", "keep computing with it; np functions take it as it is")
        return np.array(data)

    def __array__(self, dtype=None, copy=None):
        data = self._concrete(
            "conversion to a NumPy array (np.asarray, np.array, writing into an ndarray, or C code)",
            "np functions take it as it is; np.stack builds arrays of recorded values, np.zeros_like(x) one to write into",
        )
        return np.array(data, dtype=dtype)

    def item(self, *args):
        """The value as a Python scalar. Refused while a function is recorded."""
        return self._concrete("`.item()`", "keep it an array").item(*args)

    def __deepcopy__(self, memo):
        return HANDLERS[np.copy](self)

    def __copy__(self):
        return HANDLERS[np.copy](self)

    def __reduce__(self):
        return type(self), (self._concrete("pickling", "return it, and pickle the result"),)

    def tolist(self):
        """The value as nested Python lists. Refused while a function is recorded."""
        return self._concrete("`.tolist()`", "iterate over it, or index it").tolist()

    def __float__(self):
        return float(self._concrete(
            "float() (math.sin and its like call it, and `a[0] = x` of an ndarray)",
            "use np.sin etc., leave float() out; write into arrays of tapejit.numpy, or np.zeros_like(x)",
        ))

    def __complex__(self):
        return complex(self._concrete("complex()", "complex numbers are not supported yet"))

    def __bool__(self):
        self._update()
        value = bool(self._data)
        return value if self._record is None else self._record.guard_bool(self, value)

    def __int__(self):
        self._update()
        value = int(self._data)
        return value if self._record is None else self._record.guard_int(self, value)

    def __index__(self):
        self._update()
        value = operator.index(self._data[()].item() if self._weak else self._data[()])
        return value if self._record is None else self._record.guard_int(self, value)

    def __trunc__(self):
        return int(self)

    def __floor__(self):
        return int(HANDLERS[np.floor](self))

    def __ceil__(self):
        return int(HANDLERS[np.ceil](self))

    def __round__(self, ndigits=None):
        return int(HANDLERS[np.rint](self)) if ndigits is None else HANDLERS[np.round](self, ndigits)

    # ---- NumPy's protocols ----------------------------------------------------------------------------------------
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method == "__call__":
            ours = HANDLERS.get(ufunc)
        elif method == "reduce":
            ours = REDUCERS.get(ufunc)
        else:
            ours = HANDLERS.get((ufunc, method))
        if ours is None and method == "__call__":
            from .scipy import resolve

            ours = resolve(ufunc)
        if ours is None:
            raise unsupported(ufunc, method if method != "__call__" else "")
        out = kwargs.get("out")
        if out is not None:
            if not all(o is None or isinstance(o, Array) for o in (out if isinstance(out, tuple) else (out,))):
                raise located(
                    MutationError,
                    f"{_name(ufunc)} would write a recorded value into an ndarray (out=, or an in-place operator)",
                    "make `a` with tapejit.numpy, or np.zeros_like(x); or write `a = a + x`",
                )
        return ours(*inputs, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        ours = HANDLERS.get(function)
        if ours is None:
            raise unsupported(function)
        return ours(*args, **kwargs)

    # ---- indexing -----------------------------------------------------------------------------------------------------
    def __getitem__(self, index):
        return HANDLERS[operator.getitem](self, index)

    def __setitem__(self, index, value):
        HANDLERS[operator.setitem](self, index, value)

    # ---- operators ------------------------------------------------------------------------------------------------
    __add__, __radd__ = _binary(np.add), _binary(np.add, True)
    __sub__, __rsub__ = _binary(np.subtract), _binary(np.subtract, True)
    __mul__, __rmul__ = _binary(np.multiply), _binary(np.multiply, True)
    __truediv__, __rtruediv__ = _binary(np.true_divide), _binary(np.true_divide, True)
    __floordiv__, __rfloordiv__ = _binary(np.floor_divide), _binary(np.floor_divide, True)
    __mod__, __rmod__ = _binary(np.remainder), _binary(np.remainder, True)
    __pow__, __rpow__ = _binary(np.power), _binary(np.power, True)
    __matmul__, __rmatmul__ = _binary(np.matmul), _binary(np.matmul, True)
    __and__, __rand__ = _binary(np.bitwise_and), _binary(np.bitwise_and, True)
    __or__, __ror__ = _binary(np.bitwise_or), _binary(np.bitwise_or, True)
    __xor__, __rxor__ = _binary(np.bitwise_xor), _binary(np.bitwise_xor, True)
    __lshift__, __rlshift__ = _binary(np.left_shift), _binary(np.left_shift, True)
    __rshift__, __rrshift__ = _binary(np.right_shift), _binary(np.right_shift, True)
    __lt__, __le__, __gt__ = _binary(np.less), _binary(np.less_equal), _binary(np.greater)
    __ge__, __eq__, __ne__ = _binary(np.greater_equal), _binary(np.equal), _binary(np.not_equal)
    __divmod__, __rdivmod__ = _binary(np.divmod), _binary(np.divmod, True)
    __iadd__, __isub__, __imul__ = _in_place(np.add), _in_place(np.subtract), _in_place(np.multiply)
    __itruediv__, __ifloordiv__ = _in_place(np.true_divide), _in_place(np.floor_divide)
    __imod__, __ipow__, __imatmul__ = _in_place(np.remainder), _in_place(np.power), _in_place(np.matmul)
    __iand__, __ior__, __ixor__ = _in_place(np.bitwise_and), _in_place(np.bitwise_or), _in_place(np.bitwise_xor)
    __ilshift__, __irshift__ = _in_place(np.left_shift), _in_place(np.right_shift)
    __neg__, __pos__ = _unary(np.negative), _unary(np.positive)
    __abs__, __invert__ = _unary(np.abs), _unary(np.invert)

    # ---- methods --------------------------------------------------------------------------------------------------
    sum, prod, mean, std, var = map(_method, (np.sum, np.prod, np.mean, np.std, np.var))
    max, min, argmax, argmin = map(_method, (np.max, np.min, np.argmax, np.argmin))
    all, any, cumsum, cumprod, clip = map(_method, (np.all, np.any, np.cumsum, np.cumprod, np.clip))
    dot, trace, ravel, squeeze = map(_method, (np.dot, np.trace, np.ravel, np.squeeze))
    swapaxes, repeat, take, round = map(_method, (np.swapaxes, np.repeat, np.take, np.round))
    diagonal, copy, sort, argsort = map(_method, (np.diagonal, np.copy, np.sort, np.argsort))
    put = _method(np.put)
    conj = conjugate = _method(np.conjugate)

    def reshape(self, *shape, order="C"):
        """As `numpy.ndarray.reshape`: `x.reshape(2, 3)` or `x.reshape((2, 3))`."""
        return HANDLERS[np.reshape](self, shape[0] if len(shape) == 1 else shape, order=order)

    def transpose(self, *axes):
        """As `numpy.ndarray.transpose`: `x.transpose()`, `x.transpose(1, 0)` or `x.transpose((1, 0))`."""
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
            axes = axes[0]
        return HANDLERS[np.transpose](self, axes or None)

    def flatten(self, order="C"):
        """As `numpy.ndarray.flatten`."""
        return HANDLERS[np.copy](HANDLERS[np.ravel](self, order))

    def fill(self, value):
        """As `numpy.ndarray.fill`."""
        if np.ndim(value if not isinstance(value, Array) else value._data):
            raise ValueError("setting an array element with a sequence.")
        HANDLERS[operator.setitem](self, ..., value)

    def astype(self, dtype, **kwargs):
        """As `numpy.ndarray.astype`."""
        return HANDLERS[np.astype](self, dtype)


_OPERANDS = (Array, float, int, np.ndarray, np.generic, complex, list, tuple)


def make(data, record=None, value=None, weak=False, cls=Array):
    """An Array around NumPy data as it is, no copy; `record` and `value` bind it."""
    array = object.__new__(cls)
    array._data, array._record, array._value, array._weak, array._alias = data, record, value, weak, None
    return array


def unwrap(x):
    """The NumPy value of an Array, other things as they are. For front-end code that has no record to keep."""
    return x._data if isinstance(x, Array) else x


