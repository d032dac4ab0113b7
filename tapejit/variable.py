"""What tapes record into and watch: `TapeRecord`, the level-0 record of a thread, and `Variable`.

In: operations on Arrays that an active tape's record holds, reads of Variables. Out: nodes of that record, and per value
the Array that was read as it (`arrays`), from which a tape cuts what it differentiates (`cut.py`).
"""

from __future__ import annotations

import itertools

import numpy as np

from tapejit.ir.graph import Value
from tapejit.ir.types import type_of

from .array import Array, is_a, make
from .errors import MutationError, ShapeError, TapejitWarning, located, user_line
from .promote import asarray
from .record import Reading, Record, state


class UnconnectedWarning(TapejitWarning):
    """A gradient is None; the message says why."""


class TapeRecord(Record):
    """The level-0 record of a thread's active tapes."""

    __slots__ = ("reads",)

    def __init__(self):
        super().__init__(0, "a GradientTape")
        self.arrays = {}
        self.reads = {}  # Value -> (how, line): it went through float() or an ndarray

    def lookup(self, x) -> Value:
        if is_a(x, np.ndarray):  # may be written to between now and the gradient: take a snapshot
            return self.leaf(make(np.array(x)))
        return super().lookup(x)

    def leaf(self, array) -> Value:
        """A new parameter that stands for an Array."""
        value = Value(type_of(array._data))
        self.arrays[value] = array
        return value

    def guard_bool(self, array, seen):
        return seen  # the tape's slice is made anew at each execution: nothing to guard

    guard_int = guard_bool

    def guard(self, array, seen, at=None, **more):
        pass

    def concretize(self, array, how, instead):
        self.reads[array._value] = (how, user_line())


class Variable(Array):
    """A mutable value that active tapes watch on their own when it is read.

    Variable(initial, trainable=True, name=None, dtype=None). assign, assign_add, assign_sub replace the value.

    >>> import tapejit
    >>> w = tapejit.Variable(3.0)
    >>> with tapejit.GradientTape() as tape:
    ...     loss = w * w
    >>> tape.gradient(loss, w)
    Array(6.)
    """

    __slots__ = ("trainable", "name", "serial")
    _serials = itertools.count()

    def __init__(self, initial_value, trainable=True, name=None, dtype=None):
        super().__init__(initial_value, dtype)
        if self._data.dtype.kind not in "fib":
            asarray(self._data)  # raises the located dtype error
        self.trainable, self.name = bool(trainable), name
        self.serial = next(self._serials)  # the order of construction

    def read(self) -> Array:
        """The value now, as an Array of the function that is recorded, or else of the active tapes; operations call this."""
        record = state.records[0] if state.records else state.base
        if record is None:
            return self._reading()
        readings = record.readings.setdefault(id(self), (self, []))[1]
        if not readings or readings[-1]._data is not self._data:
            reading = self._reading()
            reading._record = record
            reading._value = record.lookup(self) if state.records else record.leaf(reading)
            readings.append(reading)
        for tape in state.tapes:
            # A tape from outside the function watches what it sees when the record is replayed.
            if record in tape._spans and ((tape._watch_accessed and self.trainable) or id(self) in tape._variables):
                tape._add(self, readings[-1])
        return readings[-1]

    def _reading(self) -> Array:
        reading = make(self._data)
        reading._alias = Reading()
        return reading

    def assign(self, value):
        """Replace the value; shape and dtype stay. Returns the Variable. Refused while a function is recorded."""
        if state.records:
            raise located(
                MutationError,
                f"assign to a Variable while {state.records[0].name} is recorded: it would happen now and not at later calls",
                "return the new value, and assign it outside",
            )
        data = value._data if isinstance(value, Array) else np.asarray(value)
        if data.shape != self._data.shape:
            raise located(
                ShapeError,
                f"assign: shape {data.shape} to a Variable of shape {self._data.shape}",
                "make a new Variable to change the shape",
            )
        self._data = np.array(data, dtype=self._data.dtype)
        return self

    def assign_add(self, delta):
        """value += delta."""
        return self.assign(self._data + (delta._data if isinstance(delta, Array) else delta))

    def assign_sub(self, delta):
        """value -= delta."""
        return self.assign(self._data - (delta._data if isinstance(delta, Array) else delta))

    def __deepcopy__(self, memo=None):
        return Variable(self._data, self.trainable, self.name)

    __copy__ = __deepcopy__

    def __reduce__(self):
        return Variable, (self.numpy(), self.trainable, self.name)

    def value(self) -> Array:
        """The value as an Array (read, hence watched)."""
        return self.read()


def settled(x):
    """A Variable as the value that it is read as; other things as they are."""
    return x.read() if isinstance(x, Variable) else x
