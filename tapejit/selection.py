"""`x[mask]` with a recorded mask: positions that are found at run time, and selections that need not know how many.

In: an Array and a recorded boolean Array over its leading axes. Out: `positions`, int64 of a length that is guarded (another
count is another path), or a `Selection`: an Array that stands for x[mask], and is one as soon as somebody asks what
depends on the count: its shape, its data, its value in the record.

Until then it is a pair, the full array and the mask. What is elementwise among selections of one mask and scalars is done
to the full arrays and gives a selection (`lifted`, called by promote.py); a fold over all of it takes the mask as `where=`
(reductions.py); writing it back at the same mask is a `where` (numpy/writing.py). None of these depends on the count, so all
counts share one path. Elements that are not selected are computed too, from whatever they are: warnings are off, and an
operation that has derivatives which might be infinite there gets a number from its domain in their place.

An Array that was computed by the rules above is never seen by those who do not know them: `_data`, `_record` and
`_value` are properties that make a plain Array of it first (`settle`).
"""

from __future__ import annotations

import threading
import weakref

import numpy as np

from tapejit.ir.op import TABLE

from .array import _OPERANDS, DIRECT, Array, make
from .record import apply, state

I64 = np.dtype(np.int64)
_CLASS = object.__dict__["__class__"]  # Array has a property of this name
# Their derivatives stay finite or are kept zero by strong zeros (ir/op.py), whatever the operands are.
_MILD = frozenset(["add", "sub", "neg", "mul", "abs", "maximum", "minimum", "copysign"])


def _op(name, *xs, **attrs) -> Array:
    return apply(TABLE[name], xs, attrs)[0]


# ---- positions -----------------------------------------------------------------------------------------------------------
def positions(mask) -> Array:
    """Where a mask, seen as flat, is true. The count is guarded; the positions are in range also where it is another."""
    n = mask.size
    flat = _op("reshape", mask, shape=(n,)) if mask.ndim != 1 else mask
    ones = _op("convert", flat, dtype=I64)
    count = int(_op("reduce_sum", ones, axes=(0,)))
    if count == 0:
        return make(np.zeros(0, np.int64))
    rank = _op("sub", _op("cumsum", ones, axis=0, reverse=False), np.int64(1))
    # What is not selected goes to a place of its own behind the others, which is cut off.
    place = _op("select", flat, _op("minimum", rank, np.int64(count)), np.int64(count))
    room = _made_in(rank._record, "broadcast", np.int64(0), shape=(count + 1,))
    filled = _op("scatter", room, place, _made_in(rank._record, "iota", shape=(n,), dtype=I64))
    return _op("slice", filled, start=(0,), stop=(count,), step=(1,))


def _made_in(record, name, *numbers, **attrs) -> Array:
    """What is computed from numbers only, as a part of a record."""
    outs = TABLE[name].evaluate(*numbers, **attrs)
    return make(outs[0]) if record is None else record.append(TABLE[name], numbers, attrs, outs)[0]


def unraveled(flat, shape) -> list:
    """Flat positions as positions along each axis."""
    if flat.size == 0:
        return [flat] * len(shape)
    out = []
    for n in reversed(shape[1:]):
        out.append(_op("remainder", flat, np.int64(n)))
        flat = _op("floor_divide", flat, np.int64(n))
    return [flat, *reversed(out)]


# ---- selections ----------------------------------------------------------------------------------------------------------
class Lazy:
    """What a Selection is: `full` where `mask`, Arrays that nobody writes into. computed: full is the result of operations,
    which may be anything where it is not selected."""

    __slots__ = ("full", "mask", "computed")

    def __init__(self, full, mask, computed):
        self.full, self.mask, self.computed = full, mask, computed

    def stale(self) -> bool:
        return False

    @property
    def wide(self):
        """The mask with axes for the rest of full's."""
        rest = self.full.ndim - self.mask.ndim
        return _op("reshape", self.mask, shape=self.mask.shape + (1,) * rest) if rest else self.mask

    @property
    def records(self) -> list:
        """The records that it belongs to, the deepest last."""
        found = [x._record for x in (self.full, self.mask) if x._record is not None]
        return sorted(found, key=lambda r: r.depth)


class _Alive(threading.local):
    """The selections of a thread that nobody has asked for their shape yet."""

    def __init__(self):
        self.selections = weakref.WeakValueDictionary()


_alive = _Alive()


def selection(full, mask, computed=False) -> Array:
    """full[mask], put off. A tape differentiates what lies between two points of its record: there it is not put off."""
    x = object.__new__(Selection)
    x._weak, x._alias = False, Lazy(full, mask, computed)
    if state.tapes:
        x.settle()
    else:
        _alive.selections[id(x)] = x
    return x


def settle_all() -> None:
    """Make plain Arrays of all selections, so that they are older than what is recorded from now on."""
    for x in list(_alive.selections.values()):
        if type(x) is Selection and not any([r.closed for r in x._alias.records]):
            x.settle()


def _in_place(function, name):
    """x[mask] += y: as for an Array, the object itself stands for the new value."""

    def method(self, other):
        if not isinstance(other, _OPERANDS):
            return NotImplemented
        from .mutation import check_cast, store
        from .promote import cast

        value = DIRECT[function](self, other)
        if type(self) is Selection is type(value):
            old, new = self._alias, value._alias
            ours = not state.records or old.records[-1] is state.records[-1]
            if ours and old.full._data.shape == new.full._data.shape:
                check_cast(value, self, function)
                self._alias = cast(value, self.dtype)._alias
                return self
        Selection.settle(self)
        return store(self, value, function)

    method.__name__ = name
    return method


class Selection(Array):
    """x[mask] that has not been asked how many; see the module docstring."""

    __slots__ = ()

    def settle(self) -> None:
        """Become a plain Array: the selected rows, their number guarded. One that is an Array already stays as it is."""
        if type(self) is not Selection:
            return
        lazy = self._alias
        for record in lazy.records:
            if record.closed:
                raise record.leaked(self.seen())
        full = lazy.full
        if lazy.computed and full.dtype.kind == "f":
            full = _op("select", lazy.wide, full, full.dtype.type(0))
        found, rest = positions(lazy.mask), full.shape[lazy.mask.ndim :]
        rows = full if lazy.mask.ndim == 1 else _op("reshape", full, shape=(lazy.mask.size, *rest))
        if found.size:
            out = _op("gather", rows, found)
        else:
            out = _op("slice", rows, start=(0,) * rows.ndim, stop=(0, *rest), step=(1,) * rows.ndim)
        _CLASS.__set__(self, Array)
        self._data, self._record, self._value, self._alias = out._data, out._record, out._value, None

    def seen(self) -> Array:
        """The value now, of no record."""
        lazy = self._alias
        return make(lazy.full._data[lazy.mask._data])

    def again(self) -> Array:
        """An array of its own."""
        lazy = self._alias
        return selection(lazy.full, lazy.mask, lazy.computed)

    def read(self):
        """As an operand: itself."""
        return self

    @property
    def _data(self):
        self.settle()
        return self._data

    @property
    def _record(self):
        self.settle()
        return self._record

    @property
    def _value(self):
        self.settle()
        return self._value

    @property
    def __class__(self):
        """For isinstance: an ndarray in a function that is recorded, as an Array there is."""
        return np.ndarray if any([r.depth and not r.closed for r in self._alias.records]) else Selection

    @property
    def dtype(self):
        return self._alias.full._data.dtype

    @property
    def ndim(self):
        lazy = self._alias
        return lazy.full._data.ndim - lazy.mask._data.ndim + 1

    def __repr__(self):
        return repr(self.seen())

    def __str__(self):
        return str(self.seen())

    def __format__(self, spec):
        return format(self.seen(), spec)

    def __reduce__(self):
        self.settle()
        return self.__reduce__()


for _name, _function in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
    "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
}.items():  # fmt: skip
    setattr(Selection, f"__i{_name}__", _in_place(_function, f"__i{_name}__"))


# ---- computing with them -------------------------------------------------------------------------------------------------
def lifted(function, xs, op=None):
    """An elementwise function of operands that are Selections of one mask and scalars, done to the full arrays.

    None if they are not of that kind; none of them is a Selection any more then. `op`: the operation, if it is just one.
    """
    picked = [x for x in xs if type(x) is Selection]
    first = picked[0]._alias
    rest = first.full.ndim - first.mask.ndim
    if (
        not state.tapes
        and all([x._alias.full.ndim == first.full.ndim and same(x._alias.mask, first.mask) for x in picked[1:]])
        and all([type(x) is Selection or getattr(x, "ndim", 0) <= rest for x in xs])
    ):
        with np.errstate(all="ignore"):
            try:
                out = function(*[_harmless(x, op, i) if type(x) is Selection else x for i, x in enumerate(xs)])
            except ValueError:  # the shapes do not broadcast: let the error name those that the user sees
                out = None
        if out is not None:
            return selection(out, first.mask, True)
    for x in picked:
        Selection.settle(x)
    return None


def _harmless(x, op, i):
    """The full array; for an operation with other derivatives, with a number from the domain of operand i elsewhere."""
    full = x._alias.full
    if full.dtype.kind != "f" or op is None or op.name in _MILD or not op.derivative.differentiable:
        return full
    inside = sum(op.domain[i]) / 2 if op.domain else 1.0
    return _op("select", x._alias.wide, full, full.dtype.type(inside))


MOST_COMPARED = 64


def same(a, b) -> bool:
    """Whether two masks are one: the same value of a record, or computed alike from the same values (`x < 0`, twice)."""
    if a is b:
        return True
    record = a._record
    if record is None or record is not b._record:
        return False
    pairs, left = [(a._value, b._value)], MOST_COMPARED
    while pairs:
        x, y = pairs.pop()
        if x is y or (type(x) is int and x == y):
            continue
        left -= 1
        one, other = record.made(x), record.made(y)
        if left < 0 or one is None or other is None or one[:2] != other[:2] or repr(one[1]) != repr(other[1]):
            return False
        pairs += zip(one[2], other[2])
    return True
