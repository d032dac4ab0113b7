"""What a function reads beside its arguments: closure cells, globals, `self`.

While a function is recorded, the ndarrays that its closure cells and globals hold are seen by it as Arrays of the record
(`rebind`): a copy of the function with other cells and another globals dict runs, nothing shared is touched. So
`np.sum(A) * x` with a closed-over A is recorded whole and A is read at each call, not baked in.

Recorded code bakes in every Python number and every branch on one, so a change of what it was read from must be noticed.
`Environment(fn)` finds the cells and globals that the function's code names, transitively through the plain Python
functions it names; `read()` gives a hashable fingerprint of them for the cache key: numbers and strings by value, arrays
and other objects by identity, containers and instances by their items (bounded). The contents of an array that the record
captured are not part of it, since they are read at each call; those of an array that it could have read and did not
capture (NumPy itself may have computed with it) are, by hash (`hashed`).
"""

from __future__ import annotations

import dis
import functools
import types

import numpy as np

from tapejit.ir.types import NAMES

from .array import Array
from .errors import is_internal

_BY_VALUE = (int, float, complex, bool, str, bytes, type(None), np.generic)
_ITEMS, _DEPTH, _FUNCTIONS = 512, 3, 100
_SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType)


def _original(f):
    """The user's function of a transformed one of ours."""
    return getattr(f, "fn", f)


def _is_library(code) -> bool:
    name = code.co_filename
    return is_internal(code) or "site-packages" in name or name.startswith("<frozen")


class Environment:
    """The cells and globals a function reads. `holds`: the functions found, kept alive so that identities stay unique."""

    __slots__ = ("slots", "holds", "names", "hashed")

    def __init__(self, fn, hashed=()):
        self.slots = []  # (mapping or cell, key or None)
        self.holds = []
        self.names = set()  # every name the code mentions: which attributes it may read
        self.hashed = {id(a): a for a in hashed}
        seen, queue = set(), [fn]
        while queue and len(self.holds) < _FUNCTIONS:
            f = queue.pop()
            f = _original(f)
            if isinstance(f, functools.partial):
                self.slots += [(f.args, None), (f.keywords, None)]
                queue += [f.func, *f.args, *f.keywords.values()]
                continue
            if isinstance(f, types.MethodType):
                self.slots.append((f.__self__, None))
                f = f.__func__
            elif callable(f) and isinstance(call := _original(type(f).__call__), types.FunctionType):
                self.slots.append((f, None))  # an instance of a class with __call__
                f = call
            if not isinstance(f, types.FunctionType) or id(f) in seen or _is_library(f.__code__):
                continue
            seen.add(id(f))
            self.holds.append(f)
            for cell in f.__closure__ or ():
                self.slots.append((cell, None))
                queue.append(_contents(cell))
            defaults = [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()]
            if not all([isinstance(d, _BY_VALUE) for d in defaults]):
                self.slots.append((defaults, None))
                queue += defaults
            names = _global_names(f.__code__)
            self.names |= names
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
        reader = Reader(self.names, self.hashed)
        return tuple([reader.fingerprint(value) for value in self.values()])

    def values(self):
        """What the slots hold now."""
        for holder, key in self.slots:
            if key is not None:
                yield holder.get(key)
            else:
                yield _contents(holder) if type(holder) is types.CellType else holder

    def identities(self):
        """(cell, None, object) and (globals, name, object) per slot, if the same objects imply the same fingerprint.

        None where a slot holds a container or an instance, whose items may change, or arrays are told by their contents.
        """
        if self.hashed:
            return None
        out = []
        for (holder, key), value in zip(self.slots, self.values()):
            simple = isinstance(value, (*_BY_VALUE, *_SKIPPED, types.FunctionType, np.ndarray)) or hasattr(value, "fn")
            if not simple or (key is None and type(holder) is not types.CellType):
                return None
            out.append((holder, key, value))
        return out

    def arrays(self) -> list:
        """The ndarrays that the function can reach through its slots."""
        reader = Reader(self.names, {})
        for value in self.values():
            reader.fingerprint(value)
        return reader.met


class Rebinding:
    """A function to run in place of `original`, which sees the ndarrays it closes over as `wrap(array)`.

    fn: copies of the function and of the plain Python functions it names, with other cells and globals; the original if
    there is nothing to replace. Lists, tuples, dicts and simple instances that hold ndarrays are replaced by copies;
    `intact()` tells whether the run left those as they were (else it must be repeated with the originals). Functions
    that assign to globals or closed-over variables keep their own, since an assignment has to reach the original.
    found: the ndarrays replaced.
    """

    def __init__(self, original, wrap):
        self.wrap, self.found = wrap, []
        self._functions, self._copies = {}, {}
        self.fn = original
        if isinstance(original, types.FunctionType) and not _is_library(original.__code__):
            self.fn = self._function(original)
        elif isinstance(original, types.MethodType) and isinstance(original.__func__, types.FunctionType):
            self.fn = types.MethodType(self._function(original.__func__), self.value(original.__self__))
        if not self.found:
            self.fn = original

    def value(self, value, depth=_DEPTH):
        """What stands for a value: itself, if there is no ndarray in it."""
        cls = type(value)
        if cls is np.ndarray:
            if value.dtype not in NAMES:
                return value
            self.found.append(value)
            return self.wrap(value)
        if isinstance(value, types.FunctionType):
            return value if _is_library(value.__code__) else self._function(value)
        if depth == 0 or isinstance(value, (*_BY_VALUE, *_SKIPPED, Array)):
            return value
        if cls in (list, tuple, dict):
            items = list(value.values()) if cls is dict else value
            if not 0 < len(items) <= _ITEMS:
                return value
            return self._copy(value, items, depth, lambda new: dict(zip(value, new)) if cls is dict else cls(new))
        own = getattr(value, "__dict__", None)
        if type(own) is dict and own and cls.__module__ != __package__ and cls.__new__ is object.__new__:

            def instance(new):
                made = object.__new__(cls)
                made.__dict__.update(zip(own, new))
                return made

            return self._copy(value, list(own.values()), depth, instance)
        return value

    def _copy(self, value, items, depth, make):
        known = self._copies.get(id(value))
        if known is not None:
            return known[1]
        self._copies[id(value)] = (value, value, items)  # meets itself: kept as it is
        new = [self.value(v, depth - 1) for v in items]
        if all([a is b for a, b in zip(new, items)]):
            return value
        copy = make(new)
        self._copies[id(value)] = (value, copy, new)
        return copy

    def intact(self) -> bool:
        """Whether the run left the copied containers and instances as they were made."""
        for value, copy, items in self._copies.values():
            if copy is not value:
                now = copy if isinstance(copy, (list, tuple)) else list(getattr(copy, "__dict__", copy).values())
                if len(now) != len(items) or any([a is not b for a, b in zip(now, items)]):
                    return False
        return True

    def _function(self, f):
        known = self._functions.get(f)
        if known is not None:
            return known
        code = f.__code__
        opcodes = set(code.co_code[::2])
        closure, names = f.__closure__, f.__globals__
        if closure and not opcodes & _STORES_CELL:
            closure = tuple([types.CellType() for _ in closure])
        if not opcodes & _STORES_GLOBAL:
            names = dict(names)
        copy = types.FunctionType(code, names, f.__name__, f.__defaults__, closure)
        copy.__dict__ = f.__dict__
        copy.__qualname__, copy.__module__ = f.__qualname__, f.__module__
        self._functions[f] = copy
        if f.__defaults__:
            copy.__defaults__ = tuple([self.value(d) for d in f.__defaults__])
        if f.__kwdefaults__:
            copy.__kwdefaults__ = {k: self.value(d) for k, d in f.__kwdefaults__.items()}
        if closure is not f.__closure__:
            for new, old in zip(closure, f.__closure__):
                try:
                    new.cell_contents = self.value(old.cell_contents)
                except ValueError:  # a cell not yet filled
                    pass
        if names is not f.__globals__:
            for name in _global_names(code):
                if name in names:
                    names[name] = self.value(names[name])
        return copy


_STORES_GLOBAL = {dis.opmap[n] for n in ("STORE_GLOBAL", "DELETE_GLOBAL") if n in dis.opmap}
_STORES_CELL = {dis.opmap[n] for n in ("STORE_DEREF", "DELETE_DEREF") if n in dis.opmap}


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


class Reader:
    """Makes fingerprints: hashable stand-ins for what recorded code may have read from a value. Bounded in items."""

    def __init__(self, names, hashed):
        self.names, self.hashed, self.budget, self.met = names, hashed, _ITEMS, []

    def fingerprint(self, value, depth=_DEPTH):
        if isinstance(value, _BY_VALUE):
            return (value.__class__, value)
        if isinstance(value, np.ndarray):
            self.met.append(value)
            return (id(value), hash(value.tobytes())) if id(value) in self.hashed else id(value)
        if isinstance(value, Array) or depth == 0 or self.budget <= 0:
            return id(value)
        if isinstance(value, (list, tuple)):
            return self._items(value, value[:_ITEMS], depth)
        if isinstance(value, dict):
            keys = [(k.__class__, k) if isinstance(k, _BY_VALUE) else id(k) for k in list(value)[:_ITEMS]]
            return (tuple(keys), self._items(value, list(value.values())[:_ITEMS], depth))
        own = getattr(value, "__dict__", None)
        if own and not isinstance(value, (types.FunctionType, *_SKIPPED)) and type(value).__module__ != __package__:
            return self._items(value, [v for k, v in own.items() if k in self.names], depth)
        return id(value)

    def _items(self, value, items, depth):
        self.budget -= len(items)
        return (id(value), *[self.fingerprint(v, depth - 1) for v in items])
