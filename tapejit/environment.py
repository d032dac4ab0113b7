"""What a function reads beside its arguments: closure cells, globals, `self`.

While a function is recorded, the ndarrays that its closure cells and globals hold are seen by it as Arrays of the record
(`rebind`): a copy of the function with other cells and another globals dict runs, nothing shared is touched. So
`np.sum(A) * x` with a closed-over A is recorded whole and A is read at each call, not baked in.

Recorded code bakes in every Python number and every branch on one, so a change of what it was read from must be noticed.
`Environment(fn)` finds the cells and globals that the function's code names, transitively through the plain Python
functions, methods, classes and modules it names; `read()` gives a hashable fingerprint of them for the cache key: numbers
and strings by value, arrays and other objects by identity, containers and instances by their items (bounded; beyond, there
is a warning). The contents of an array that the record captured are not part of it, since they are read at each call; those
of an array that it could have read and did not capture (NumPy itself may have computed with it) are, by hash (`hashed`).
"""

from __future__ import annotations

import collections
import dis
import functools
import gc
import importlib
import pickle
import sys
import types

import numpy as np

from tapejit.ir.types import NAMES

from .array import Array, is_a
from .errors import is_internal

_BY_VALUE = (int, float, complex, bool, str, bytes, type(None), np.generic)
_ITEMS, _DEPTH = 512, 3  # of containers whose ndarrays are rebound
_READ, _FAR, _OBJECTS = 4096, 8, 2000  # items and depth of a fingerprint; objects looked at to find what is read
_DEFAULTS = ("__defaults__", "__kwdefaults__")
_SEQUENCES = (list, tuple, collections.deque, set, frozenset)
_SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType)
_DYNAMIC = {"getattr", "vars", "attrgetter", "__dict__"}  # code that mentions one may read attributes it does not name
_FIELD_DESCRIPTORS = (types.MemberDescriptorType, type(collections.namedtuple("_", "field").field))
# dunder methods that no expression calls
_UNREAD = {
    "__init__", "__new__", "__repr__", "__str__", "__post_init__", "__replace__", "__getnewargs__",
    "__annotate__", "__annotate_func__",
}  # fmt: skip


def _original(f):
    """The user's function of a transformed one of ours."""
    return getattr(f, "__wrapped__", f) if str(type(f).__module__).startswith(f"{__package__}.") else f


def _is_library(code) -> bool:
    name = code.co_filename
    return is_internal(code) or "site-packages" in name or name.startswith("<frozen")


@functools.cache
def _is_library_module(name) -> bool:
    if not isinstance(name, str):  # on CPython 3.10 a class of C code may have a descriptor there
        return True
    root = name.partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return root in (__package__, "numpy") or root in sys.stdlib_module_names - {"__main__"} or "site-packages" in file


def _is_plain(value) -> bool:
    """Whether nothing can be read from a value but itself."""
    return is_a(value, (*_BY_VALUE, np.ndarray, Array))


def _attributes(value, names) -> list:
    """What code that mentions these names may read of an instance's own attributes."""
    own = getattr(value, "__dict__", None)
    if own is not None:
        every = not _DYNAMIC.isdisjoint(names)
        return [v for k, v in own.items() if every or k in names]
    slots = [s for c in type(value).__mro__ for s in c.__dict__.get("__slots__", ()) if s in names]
    return [getattr(value, s) for s in slots if hasattr(value, s)]


class Environment:
    """What a function, or an instance with methods, reads: `slots`, and of what these hold the attributes in `names`."""

    __slots__ = ("root", "instance", "slots", "names", "dotted", "hashed", "statics")

    def __init__(self, root, hashed=(), names=()):
        self.root = root = _original(root)
        self.instance = not isinstance(root, (types.FunctionType, types.MethodType, functools.partial, *_SKIPPED))
        self.names = set(names)  # every name the code mentions: which attributes it may read
        self.dotted = set()  # those that stand after a dot: what it may read of a module
        self.hashed = {id(a): a for a in hashed}
        self.statics = {}
        known = -1
        while known < len(self.names) + len(self.dotted):  # a method that was found may name what leads to more
            known = len(self.names) + len(self.dotted)
            self.slots = []  # (mapping, key), (function, attribute), (cell, None), or (the value itself, None)
            self._walk()

    def _walk(self):
        seen, queue = {}, [self.root]
        while queue and len(seen) < _OBJECTS:
            value = _original(queue.pop())
            if not _is_plain(value) and id(value) not in seen:
                seen[id(value)] = value
                queue += self._inside(value)

    def _inside(self, value) -> list:
        """What a value leads to; the slots that it reads are noted."""
        if isinstance(value, functools.partial):
            self.slots += [(value.args, None), (value.keywords, None)]
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)):
            if value.__self__ is None or isinstance(value.__self__, types.ModuleType):
                return []
            self.slots.append((value.__self__, None))
            return [value.__self__, getattr(value, "__func__", None)]
        if isinstance(value, types.FunctionType):
            if is_internal(value.__code__):  # what custom_gradient, vjp and their like return closes over the user's
                return [_contents(cell) for cell in value.__closure__ or ()]
            return [] if _is_library(value.__code__) else self._function(value)
        if isinstance(value, types.ModuleType):
            return [] if _is_library_module(value.__name__) else self._named(value.__dict__, self.dotted)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, (*_SEQUENCES, dict)):
            return list(value.values() if isinstance(value, dict) else value)[:_READ]
        return [type(value), *_attributes(value, self.names)]

    def _named(self, mapping, names) -> list:
        """Slots for these names; what they hold."""
        found = [name for name in mapping if name in names]
        self.slots += [(mapping, name) for name in found]
        return [mapping[name] for name in found]

    def _function(self, f) -> list:
        names = _global_names(f.__code__)
        self.names |= names
        self.dotted |= names if not _DYNAMIC.isdisjoint(names) else _dotted_names(f.__code__)
        self.slots += [(cell, None) for cell in f.__closure__ or ()]
        found = [_contents(cell) for cell in f.__closure__ or ()]
        for field in _DEFAULTS:  # where there are any: without one a call that needs it fails, and is not kept
            if getattr(f, field):
                self.slots.append((f, field))
                found.append(getattr(f, field))
        for name in sorted(names & f.__globals__.keys()):
            value = f.__globals__[name]
            if not (isinstance(value, types.ModuleType) and _is_library_module(value.__name__)):
                self.slots.append((f.__globals__, name))
                found.append(value)
        return found + self._named(f.__dict__, self.names)

    def _class(self, cls) -> list:
        """The methods that the code may call, and the class attributes that it names."""
        found = []
        classes = [c for c in cls.__mro__ if not _is_library_module(c.__module__)]
        for i, c in enumerate(classes):
            for name, value in list(c.__dict__.items()):
                function = next((getattr(value, a) for a in ("fget", "__func__", "func") if hasattr(value, a)), value)
                special = name.startswith("__") and name.endswith("__")
                if isinstance(_original(function), types.FunctionType):
                    if name in self.names or (special and name not in _UNREAD):
                        found.append(function)
                elif name in self.names and not special and not isinstance(value, _FIELD_DESCRIPTORS):
                    self.slots += [(b.__dict__, name) for b in classes[: i + 1]]  # those before may come to hide it
                    found.append(value)
        return found

    def static(self, value) -> Environment:
        """What a static argument reads, with this function's code."""
        known = self.statics.get(id(value))
        if known is None:
            known = self.statics[id(value)] = Environment(value, self.hashed.values(), self.names)
        return known

    def read(self) -> tuple:
        """The fingerprint now; () for a function that reads nothing."""
        return self._reader(self.hashed)[1] if self.slots or self.instance else ()

    def _reader(self, hashed=()):
        reader = Reader(self.names, hashed)
        values = [*_attributes(self.root, self.names), *self.values()] if self.instance else self.values()
        return reader, tuple([reader.fingerprint(value) for value in values])

    def values(self):
        """What the slots hold now."""
        for holder, key in self.slots:
            if type(holder) is types.FunctionType and key is not None:
                yield getattr(holder, key)
            elif key is not None:
                yield holder.get(key)
            else:
                yield _contents(holder) if type(holder) is types.CellType else holder

    def identities(self):
        """What machine code has to find unchanged (native.Spec: reads), if the same objects imply the same fingerprint.

        None where a slot holds an instance, which may change, or much, or arrays are told by their contents.
        """
        from tapejit.codegen.plan import Read

        if self.hashed or self.instance:
            return None
        out, seen = [], set()
        for (holder, key), value in zip(self.slots, self.values()):
            if type(holder) is types.MappingProxyType:  # of a class
                holder = gc.get_referents(holder)[0]
            if type(holder) is types.CellType:
                out.append((Read.FIELD, holder, "cell_contents", value))
            elif type(holder) is types.FunctionType and key in _DEFAULTS:
                out.append((Read.FIELD, holder, key, value))
            elif key is not None:  # else the holder is the value
                if type(holder) is not dict or key not in holder:
                    return None
                out.append((Read.NAME, holder, key, value))
            if not _items_to_read(value, Read, out, seen, _FAR) or len(out) > _OBJECTS:
                return None
        return out

    def readers(self) -> list:
        """A Reader that has read everything, for the function and for each static argument met."""
        return [self._reader()[0], *[r for s in self.statics.values() for r in s.readers()]]

    def arrays(self) -> list:
        """The ndarrays that the function can reach through its slots and static arguments."""
        return [a for r in self.readers() for a in r.met]

    def randomness(self) -> dict:
        """The states of the random generators that the function can reach: NumPy's and Python's own, and those it reads."""
        states, held = {}, [x for r in self.readers() for x in r.held]
        named = "random" in self.names
        if named or "random" in sys.modules:  # else its import would be for nothing
            python = importlib.import_module("random")
            states["random"] = python.getstate()
            states |= {id(x): x.getstate() for x in held if isinstance(x, python.Random)}
        if named or "numpy.random" in sys.modules:
            states["numpy.random"] = np.random.get_state()
            states |= {id(x): x.bit_generator.state for x in held if isinstance(x, np.random.Generator)}
            states |= {id(x): x.get_state() for x in held if isinstance(x, np.random.RandomState)}
        return {name: pickle.dumps(state) for name, state in states.items()}

    def drew(self, before) -> bool:
        """Whether random numbers were drawn since; generators that were imported meanwhile, by LLVM or so, do not count."""
        now = self.randomness()
        return any([now.get(name, state) != state for name, state in before.items()])


_SIMPLE = (*_BY_VALUE, *_SKIPPED, types.FunctionType, np.ndarray, np.ufunc)


def _items_to_read(value, kinds, out, seen, depth) -> bool:
    """Add what a value that is the same object may hold anew; False where that cannot be told by looking at items.

    seen: of the containers looked at, each of which needs it once.
    """
    if is_a(value, _SIMPLE) or _original(value) is not value or id(value) in seen:
        return True
    if type(value) not in (list, tuple, dict) or depth == 0 or max(len(value), len(seen), len(out)) > _OBJECTS:
        return False
    seen.add(id(value))
    items = list(value.values()) if type(value) is dict else value
    if type(value) is list:
        out.append((kinds.LIST_LENGTH, value, len(value), None))
        out += [(kinds.ITEM, value, i, x) for i, x in enumerate(items)]
    elif type(value) is dict:
        out.append((kinds.DICT_LENGTH, value, len(value), None))
        out += [(kinds.NEXT, value, key, x) for key, x in value.items()]
    return all([_items_to_read(x, kinds, out, seen, depth - 1) for x in items])


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
        if depth == 0 or is_a(value, (*_BY_VALUE, *_SKIPPED, Array)):
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


@functools.lru_cache(maxsize=1024)
def _dotted_names(code) -> frozenset:
    """Names that follow a dot, or an import, in a function's code."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _DOTS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _dotted_names(constant)
    return frozenset(names)


_DOTS = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"}


class Reader:
    """Makes fingerprints: hashable stand-ins for what recorded code may have read from a value.

    met: the ndarrays; held: the objects told by identity, to be kept alive with the fingerprint, so that no other object
    can take their place. Bounded in items and depth; `cut`: whether a bound was reached, so that a change may go unnoticed.
    """

    def __init__(self, names, hashed):
        self.names, self.hashed, self.budget = names, hashed, _READ
        self.met, self.held, self.cut, self._seen = [], [], False, set()

    def fingerprint(self, value, depth=_FAR):
        if is_a(value, _BY_VALUE):
            return (value.__class__, value) if value else (value.__class__, repr(value))  # 0.0 and -0.0 differ
        if type(value) is tuple and len(value) <= self.budget and all([is_a(v, _BY_VALUE) for v in value]):
            self.budget -= len(value)
            return (tuple, *[self.fingerprint(v) for v in value])
        self.held.append(value)
        if is_a(value, np.ndarray):
            self.met.append(value)
            return (id(value), hash(value.tobytes())) if id(value) in self.hashed else id(value)
        if isinstance(value, (Array, types.FunctionType, *_SKIPPED)) or id(value) in self._seen:
            return id(value)
        self._seen.add(id(value))
        if isinstance(value, _SEQUENCES):
            return self._items(value, list(value), depth)
        if isinstance(value, dict):
            keys = [(k.__class__, k) if is_a(k, _BY_VALUE) else id(k) for k in list(value)[:_READ]]
            return (tuple(keys), self._items(value, list(value.values()), depth))
        if type(value).__module__.partition(".")[0] == __package__:
            return id(value)
        return self._items(value, _attributes(value, self.names), depth)

    def _items(self, value, items, depth):
        if items and (depth == 0 or len(items) > self.budget):
            self.cut = True
            items = items[: self.budget] if depth else ()
        self.budget -= len(items)
        return (id(value), *[self.fingerprint(v, depth - 1) for v in items])
