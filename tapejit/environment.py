"""What a function reads beside its arguments: closure cells, globals, defaults, `self`.

Recorded code bakes in every Python number and every branch on one, so a change of what it was read from must be noticed.
`Environment(fn)` finds the cells and globals that the function's code names, transitively through the plain Python
functions it names; `read()` gives a hashable fingerprint of them for the cache key: numbers and strings by value, arrays
and other objects by identity, containers and instances by their items (bounded). Arrays' contents are not part of it:
they are parameters of the record and read at each call.
"""

from __future__ import annotations

import functools
import types

import numpy as np

from .array import Array
from .errors import is_internal

_BY_VALUE = (int, float, complex, bool, str, bytes, type(None), np.generic)
_ITEMS, _DEPTH, _FUNCTIONS = 512, 3, 100
_SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType)


def _is_library(code) -> bool:
    name = code.co_filename
    return is_internal(code) or "site-packages" in name or name.startswith("<frozen")


class Environment:
    """The cells and globals a function reads. `holds`: the functions found, kept alive so that identities stay unique."""

    __slots__ = ("slots", "holds")

    def __init__(self, fn):
        self.slots = []  # (mapping or cell, key or None)
        self.holds = []
        seen, queue = set(), [fn]
        while queue and len(self.holds) < _FUNCTIONS:
            f = queue.pop()
            f = getattr(f, "fn", f)  # a transformed function of ours
            if isinstance(f, functools.partial):
                queue.append(f.func)
                continue
            if isinstance(f, types.MethodType):
                self.slots.append((f.__self__, None))
                f = f.__func__
            if not isinstance(f, types.FunctionType) or id(f) in seen or _is_library(f.__code__):
                continue
            seen.add(id(f))
            self.holds.append(f)
            for cell in f.__closure__ or ():
                self.slots.append((cell, None))
                queue.append(_contents(cell))
            names = _global_names(f.__code__)
            for name in sorted(names):
                value = f.__globals__.get(name)
                if value is None or not isinstance(value, _SKIPPED):
                    if name in f.__globals__:
                        self.slots.append((f.__globals__, name))
                        queue.append(value)

    def read(self) -> tuple:
        """The fingerprint now; () for a function that reads nothing."""
        if not self.slots:
            return ()
        budget = [_ITEMS]
        out = []
        for holder, key in self.slots:
            if key is not None:
                value = holder.get(key)
            else:
                value = _contents(holder) if type(holder) is types.CellType else holder
            out.append(fingerprint(value, budget, _DEPTH))
        return tuple(out)


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _global_names(code) -> set:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def fingerprint(value, budget, depth):
    """Hashable stand-in for what recorded code may have read from a value."""
    if isinstance(value, _BY_VALUE):
        return (value.__class__, value)
    if isinstance(value, (np.ndarray, Array)) or depth == 0 or budget[0] <= 0:
        return id(value)
    if isinstance(value, (list, tuple)):
        budget[0] -= len(value)
        return (id(value), *[fingerprint(v, budget, depth - 1) for v in value[:_ITEMS]])
    if isinstance(value, dict):
        budget[0] -= len(value)
        return (id(value), *[(id(k), fingerprint(v, budget, depth - 1)) for k, v in list(value.items())[:_ITEMS]])
    own = getattr(value, "__dict__", None)
    if own and not isinstance(value, (types.FunctionType, *_SKIPPED)) and type(value).__module__ != __package__:
        budget[0] -= len(own)
        return (id(value), *[fingerprint(v, budget, depth - 1) for v in list(own.values())[:_ITEMS]])
    return id(value)
