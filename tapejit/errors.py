"""Every error and warning that tapejit raises of its own, in one form: what was seen, at which line, what to write.

`located(Class, what, instead)` builds one. The line is the innermost frame that is neither tapejit's nor NumPy's. Each
class also derives from the Python exception that a NumPy user would expect (TypeError, ValueError, ...).
"""

from __future__ import annotations

import os
import sys

import numpy as np

from tapejit.ir.location import source_line

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(_HERE)
_INTERNAL = tuple(
    os.path.join(folder, "")
    for folder in (_HERE, os.path.join(_ROOT, "ir"), os.path.join(_ROOT, "codegen"), os.path.dirname(np.__file__))
)
_internal_codes: dict = {}  # id of a code object -> (whether it is internal, the code object)
MOST_CODES = 4096


class TapejitError(Exception):
    """Base of all errors of tapejit's own. `what`, `where` (file, line) and `instead` are its parts."""

    what, where, instead = "", None, ""


class TapejitWarning(UserWarning):
    """Base of all warnings of tapejit's own."""


class DTypeError(TapejitError, TypeError):
    """A dtype that cannot be recorded or differentiated."""


class ArgumentError(TapejitError, ValueError):
    """An argument that does not fit: argnums, params, axes, statics."""


class ArgumentTypeError(TapejitError, TypeError):
    """An argument of a type that cannot be taken."""


class ShapeError(TapejitError, ValueError):
    """Shapes that do not fit each other."""


class OutputError(TapejitError, TypeError):
    """A function to be differentiated returned what cannot be."""


class UnsupportedFunctionError(TapejitError, NotImplementedError, TypeError):
    """A NumPy or SciPy function that tapejit does not have."""


class ConcretizationError(TapejitError, TypeError):
    """A recorded value was turned into a plain Python or NumPy value, which would cut the record."""


class LeakedArrayError(TapejitError, RuntimeError):
    """A recorded Array was used after the function that recorded it had returned."""


class MutationError(TapejitError, TypeError):
    """An assignment that cannot be recorded."""


class IntegerPowerError(TapejitError, ValueError):
    """Integers to negative integer powers."""


class IntegerRangeError(TapejitError, OverflowError):
    """A Python int that no integer dtype holds."""


class TapeError(TapejitError, RuntimeError):
    """A GradientTape used in a way that it does not allow."""


class GuardError(TapejitError, RuntimeError):
    """Control flow that depends on a value and cannot be followed: lanes disagree.

    capacity: where a while_loop ran more often than it was recorded with room for, that room.
    """

    capacity = 0


class PositionError(GuardError, IndexError):
    """A position in the body of a loop, or of a mapped function, that lies outside of the axis."""


class HiddenStateError(GuardError):
    """A recorded function did different things though everything that is guarded was the same."""


class RandomnessError(TapejitError, RuntimeError):
    """A recorded function drew random numbers, which later calls would repeat."""


class CustomGradientError(TapejitError, ValueError):
    """A custom gradient that does not fit its function."""


class RecursionDepthError(TapejitError, RecursionError):
    """The function that is recorded calls itself without end."""


def is_internal(code) -> bool:
    """Whether a code object belongs to tapejit or NumPy rather than to the user."""
    known = _internal_codes.get(id(code))  # by identity: the hash of a code object is that of all its constants
    if known is None:
        name = code.co_filename
        internal = name.startswith(_INTERNAL) or name.startswith("<__array_function__")
        if len(_internal_codes) >= MOST_CODES:
            _internal_codes.clear()
        known = _internal_codes[id(code)] = internal, code  # kept alive, so that no other gets its identity
    return known[0]


def user_frame(frame=None):
    """The innermost frame of the user's code, or None."""
    frame = frame or sys._getframe(1)
    while frame is not None and is_internal(frame.f_code):
        frame = frame.f_back
    return frame


def user_location():
    """`(code, instruction offset)` of the innermost user frame: cheap now, resolved to a line only when shown."""
    frame = sys._getframe(2)
    known = _internal_codes
    while frame is not None:
        code = frame.f_code
        found = known.get(id(code))
        if not (is_internal(code) if found is None else found[0]):
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def user_line():
    """(file name, line number) of the innermost user frame, or None."""
    frame = user_frame(sys._getframe(1))
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def describe(where) -> str:
    """`model.py:12: y = np.foo(x)` for a (file, line) pair."""
    if where is None:
        return "unknown line"
    file, line = where
    text = source_line(file, line)
    if len(text) > 100:
        text = text[:97] + "..."
    return f"{file}:{line}" + (f": {text}" if text else "")


def located(cls, what, instead="", where=None):
    """Make an error that says what was seen, where in the user's code, and what to write instead."""
    where = where or user_line()
    message = f"{what}\n  at {describe(where)}"
    if instead:
        message += f"\n  instead: {instead}"
    error = cls(message)
    error.what, error.where, error.instead = what, where, instead
    return error
