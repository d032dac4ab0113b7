"""Types of IR values: an element type and a static shape, `f64[128,10]`.

In: NumPy dtypes and shapes. Out: interned `Type` objects, so that two types are equal exactly when they are the
same object and a comparison costs a pointer compare. Five element types exist; `DTYPES` names them.
"""

from __future__ import annotations

import math
import threading
import weakref

import numpy as np

DTYPES = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "bool": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
F64, F32, I64, I32, BOOL = DTYPES.values()

_interned = weakref.WeakValueDictionary()  # what makes a Type one object, as long as anybody holds it
_recent: dict = {}  # the same, quicker to look up; forgotten when it is full
_lock = threading.Lock()
RECENT = 4096


class Type:
    """Element type and shape of one value. Make it with `tensor`, never directly.

    dtype: one of the five NumPy dtypes. shape: tuple of ints. size: number of elements. ndim: rank.
    """

    __slots__ = ("dtype", "shape", "size", "ndim", "text", "__weakref__")

    def __init__(self, dtype, shape):
        self.dtype, self.shape = dtype, shape
        self.size, self.ndim = math.prod(shape), len(shape)
        self.text = NAMES[dtype] + (f"[{','.join(map(str, shape))}]" if shape else "")

    def __repr__(self):
        return self.text

    __str__ = __repr__

    @property
    def name(self) -> str:
        """Short name of the element type, e.g. `f64`."""
        return NAMES[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        return self.dtype.kind == "f"

    def with_shape(self, shape) -> Type:
        return tensor(self.dtype, shape)

    def with_dtype(self, dtype) -> Type:
        return tensor(dtype, self.shape)

    def __reduce__(self):
        return tensor, (self.dtype, self.shape)


def tensor(dtype, shape=()) -> Type:
    """The interned type of these element type and shape.

    >>> import numpy as np
    >>> tensor(np.float64, (128, 10))
    f64[128,10]
    """
    key = (dtype, shape)
    found = _recent.get(key)
    if found is None:
        dtype = np.dtype(dtype)
        if dtype not in NAMES:
            raise TypeError(f"no IR element type for dtype {dtype}; there are {', '.join(DTYPES)}")
        shape = tuple(int(n) for n in shape)
        with _lock:
            found = _interned.setdefault((dtype, shape), Type(dtype, shape))
            if len(_recent) >= RECENT:
                _recent.clear()
            _recent[key] = found
    return found


def type_of(array) -> Type:
    """The type of a NumPy array or scalar."""
    return tensor(array.dtype, array.shape)


def parse_type(text: str) -> Type:
    """Read `f64[3,4]` back."""
    name, _, shape = text.partition("[")
    if name not in DTYPES:
        raise ValueError(f"unknown element type {name!r}; there are {', '.join(DTYPES)}")
    return tensor(DTYPES[name], tuple(int(n) for n in shape.rstrip("]").split(",")) if shape else ())
