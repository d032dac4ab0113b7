"""The native entry: calls of a transformed function that never pass through Python.

In: an Executable, what its arguments must be (a nest of numbers and ndarrays, as `Argument`s), the structure of its results.
Out: a `Spec`, whose plan the machine code of marshal.py follows: it checks the arguments by reading the fields of the objects,
runs the program and builds the results through NumPy's C API. `Dispatcher(slow, busy)` is a Python builtin that tries the
specs in turn and calls the Python object `slow` for the rest: unknown arguments, anything while `busy[0]` is not zero,
guards that see another value.

What is served: Python floats and ints, NumPy scalars, ndarrays, in tuples, lists, dicts (same keys, same order),
namedtuples and dataclasses, by position or by keyword; statics by identity (str by value). An array of the right dtype and
shape but other strides is copied first. Results may be any nest. Captured objects must be ndarrays. All else is left to Python.

A spec owns one arena. Programs with enough work release the GIL while they run; a second thread that comes along
meanwhile gets an arena for that call.

Why the struct offsets may be relied on: they are part of the stable layouts of CPython 3.10 to 3.14 (object header, float,
list, tuple, type) and of NumPy 2 (PyArrayObject_fields); `supported()` checks them on live objects once before first use.
"""

from __future__ import annotations

import ctypes
import types
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tapejit.ir.knobs import NATIVE

from . import allocate, marshal
from .entry import reads_objects
from .plan import PLAN, Kind, Maker, Read, Step

METH_FASTCALL_KEYWORDS = 0x0080 | 0x0002
FOREVER = 1 << 62  # calls
SLOTS = 16  # specs a dispatcher can hold; the one tried last gives way then
LARGEST = 1 << 14  # words of scratch on the stack; larger nests are left to Python
SCALARS = (np.float64, np.float32, np.int64, np.int32, np.bool_)
NUMBERS = (float, *SCALARS)


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


def supported() -> bool:
    """Whether machine code may answer calls in this process."""
    return bool(NATIVE.value) and _layouts_known()


@lru_cache(maxsize=1)
def _layouts_known() -> bool:
    """Whether objects have the layouts that the machine code reads."""
    if not reads_objects():
        return False
    if not all([hasattr(ctypes.pythonapi, name) for name in marshal.PYTHON]):
        return False

    def read(address, ctype=ctypes.c_size_t):
        return ctype.from_address(address).value

    a, t, x = np.zeros((2, 3)), (object(), None), 1.5
    items, swapped = [x, a], a.dtype.newbyteorder()
    copy = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.c_int)(marshal.addresses()["PyArray_NewCopy"])
    return (
        allocate.numpy_api(2) == id(np.ndarray)
        and read(id(a) + marshal.HEADER) == id(np.ndarray)
        and read(id(a) + marshal.DATA) == a.ctypes.data
        and read(id(a) + marshal.RANK, ctypes.c_int) == 2
        and read(read(id(a) + marshal.DIMENSIONS) + 8) == 3
        and read(id(a) + marshal.DESCR) == id(a.dtype)
        and read(id(a.dtype) + marshal.TYPE_NUMBER, ctypes.c_int) == a.dtype.num
        and read(id(swapped) + marshal.BYTE_ORDER, ctypes.c_char) == chr(marshal.SWAPPED).encode()
        and read(id(a) + marshal.FLAGS, ctypes.c_int) & marshal.READY == marshal.READY
        and read(id(x) + marshal.SCALAR_VALUE, ctypes.c_double) == 1.5
        and all([_reads_scalar(c) for c in SCALARS])
        and read(id(items) + marshal.SIZE) == read(id(t) + marshal.SIZE) == 2
        and read(read(id(items) + marshal.LIST_ITEMS) + 8) == id(a)
        and copy(a.T, 0).flags.c_contiguous
        and None not in _fields().values()
        and read(id(t) + marshal.TUPLE_ITEMS) == id(t[0])
    )


@lru_cache(maxsize=1)
def _fields() -> dict:
    """Where cells and functions keep what they refer to: offset in bytes by name, None if it was not found."""

    def function(x=(), *, y=()):
        return x, y

    offsets = {}
    for holder, name in (types.CellType(function), "cell_contents"), (function, "__defaults__"), (function, "__kwdefaults__"):
        words = (ctypes.c_size_t * (type(holder).__basicsize__ // 8)).from_address(id(holder))
        offsets[name] = next((8 * i for i, word in enumerate(words) if word == id(getattr(holder, name))), None)
    return offsets


def _reads_scalar(kind) -> bool:
    x = kind(1)
    return np.ctypeslib.as_ctypes_type(kind).from_address(id(x) + marshal.SCALAR_VALUE).value == 1


@dataclass(frozen=True)
class Argument:
    """What an argument must be.

    kind: of plan.py. cls: its exact type. slot: a leaf's number among the program's inputs; of an OUTPUT, among its
    results. data: of an array its Type, of a static the object, of a dict the keys, of FIELDS the names.
    """

    kind: int
    cls: type = None
    slot: int = 0
    data: object = None
    children: tuple = ()


class _Plan:
    """The words of a plan under construction."""

    def __init__(self):
        self.head, self.body = dict.fromkeys(PLAN, 0), []

    def place(self, words) -> int:
        """Append words; their offset in bytes."""
        offset = 8 * (len(PLAN) + len(self.body))
        self.body += words
        return offset

    def names(self, objects) -> int:
        return self.place([id(x) for x in objects])

    def shape(self, type) -> int:
        return self.place(type.shape)

    def array(self):
        return np.array([*self.head.values(), *self.body], np.int64)

    def record(self, a: Argument, first):
        """The words of one argument; `first`: the number of its first item."""
        head = [a.kind, id(a.cls)]
        if a.kind == Kind.STATIC:
            return [*head, id(a.data), 0, 0, 0, 0, 0]
        if a.kind in (Kind.ARRAY, Kind.OUTPUT):
            dtype = a.data.dtype
            return [*head, a.slot, id(dtype), a.data.ndim, self.shape(a.data), dtype.num, a.data.nbytes]
        if a.kind in (Kind.NUMBER, Kind.INT, Kind.WHOLE):
            return [*head, a.slot, 0, 0, 0, 0, 0]
        return [*head, len(a.children), first, self.names(a.data or ()), 0, 0, 0]

    def arguments(self, objects):
        """The records of a nest, breadth first."""
        queue, records = list(objects), []
        for a in queue:
            records += self.record(a, len(queue))
            queue += a.children
        self.outputs = {a.slot: k for k, a in enumerate(queue) if a.kind == Kind.OUTPUT}
        self.head.update(objects=len(queue), records=self.place(records), given=len(objects))
        self.head["hold"] = int(any([a.kind == Kind.FIELDS for a in queue]))
        self.head["written"] = int(bool(self.outputs))

    def results(self, types):
        """Makers of the results."""
        makers, small = [], allocate.numpy_api(allocate.NEW_FROM_DESCR)
        for i, r in enumerate(types):
            kind = Maker.GIVEN if i in self.outputs else Maker.NEW if r.ndim else Maker.SCALAR
            creator = (r.nbytes >= allocate.LARGE and allocate.creator()) or small
            makers += [kind, id(r.dtype), r.ndim, self.shape(r), creator, self.outputs.get(i, 0)]
        self.head.update(results=len(types), makers=self.place(makers))

    def build(self, structure):
        """The steps that build the nest; the depth of the stack that they need, one for the object being made included."""
        steps, deepest = [], 0

        def emit(node, depth):
            nonlocal deepest
            kind, operand, items, keys = node
            for i, item in enumerate(items):
                emit(item, depth + i)
            deepest = max(deepest, depth + len(items) + 1)
            count = operand if kind == Step.LEAF else len(items)
            steps.append([kind, id(operand), count, self.names(keys)])

        emit(structure, 0)
        self.head.update(steps=len(steps), build=self.place(sum(steps, [])), depth=deepest)


class Spec:
    """The plan of one specialization's entry, with all that it reads kept alive.

    arguments: an Argument each, the last ones passed by the names `keywords`. captured: (object, Argument) of ndarrays read
    at each call. reads: (plan.Read, holder, key or number, object): fields of cells and functions (by name), globals and
    items of containers that must still hold that object. structure: the nest of results, a node being (step, operand,
    items, keys): the operand of a LEAF is the number of the result, of a CONSTANT the object, of a CALL the callable.
    counters: i64 arrays, in which the calls that are served are counted: in the one that the last result says, if there are
    several.
    """

    def __init__(self, executable, arguments, keywords, captured, reads, structure, counters):
        self.arena, self.counters = executable.take_arena(), counters
        self.holds = (executable, arguments, keywords, captured, reads, structure, [r.dtype for r in executable.results])
        plan = _Plan()
        head = plan.head
        plan.arguments([*arguments, *[a for _, a in captured]])
        plan.results(executable.results)
        plan.build(structure)
        leaves = sum([a.kind in LEAVES for a in _nest([*arguments, *[a for _, a in captured]])])
        yields = executable.stats.polls or executable.releases_gil
        head.update(
            owner=id(self), entry=executable.entry_address, arena=self.arena.ctypes.data,
            arena_bytes=self.arena.nbytes + marshal.LINE, bytes_descr=id(BYTES), releases=int(executable.releases_gil),
            positional=len(arguments) - len(keywords), keywords=len(keywords), names=plan.names(keywords),
            given=len(arguments), captured=len(captured), sources=plan.names([x for x, _ in captured]), leaves=leaves,
            yields=int(yields), reads=len(reads), cells=plan.place(_words_of(reads)), remaining=FOREVER,
            counters=plan.place([c.ctypes.data for c in counters]), numbered=int(len(counters) > 1),
            words=head["objects"] + 2 * leaves + 3 * head["results"] + head["depth"],
        )  # fmt: skip
        self.words, self.plan = head["words"], plan.array()
        self.address = self.plan.ctypes.data

    def counts(self, counter) -> bool:
        """Whether calls are counted there."""
        return any([c is counter for c in self.counters])

    def serve(self, calls=FOREVER) -> None:
        """Leave calls to Python after so many."""
        self.plan[PLAN["remaining"] // 8] = calls


def spec(*description):
    """The Spec, or None where a nest is too large for the stack."""
    made = Spec(*description)
    return made if made.words <= LARGEST else None


def _words_of(reads):
    """Four words of each."""
    word = {Read.FIELD: _fields().get, Read.NAME: id, Read.NEXT: id}
    return [w for kind, holder, key, x in reads for w in (kind, id(holder), word.get(kind, int)(key), id(x))]


BYTES = np.dtype(np.uint8)
LEAVES = (Kind.NUMBER, Kind.INT, Kind.WHOLE, Kind.ARRAY)


def _nest(arguments):
    for a in arguments:
        yield a
        yield from _nest(a.children)


@lru_cache(maxsize=1)
def _definition():
    """The PyMethodDef of the dispatcher's machine code; one per process, alive for good."""
    from . import engine

    doc = b"The compiled function; see type(f).__doc__."
    definition = _MethodDef(b"__call__", marshal.code().addresses["dispatch"], METH_FASTCALL_KEYWORDS, doc)
    return engine.immortal(definition)


class Dispatcher:
    """A builtin that tries machine-code specs and falls back to `slow`, a functools.partial.

    busy: an i64 array; while its first element is not zero every call goes to `slow`.
    """

    def __init__(self, slow, busy):
        new = ctypes.pythonapi.PyCMethod_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p]
        self.table = np.zeros(2 + SLOTS, np.int64)  # end of the used part, hits, addresses
        self.table[0] = 2
        self.specs = []
        # The builtin keeps the specs alive as long as it can be called.
        self.builtin = new(ctypes.addressof(_definition()), (self.table, slow, busy, self.specs), None, None)

    @property
    def hits(self) -> int:
        return int(self.table[1])

    def add(self, spec: Spec) -> None:
        """Try this spec first from now on, in place of those of the same paths."""
        places = {address: i for i, address in enumerate(self.table[2:].tolist())}
        others = [s for s in self.specs if not all([spec.counts(c) for c in s.counters])]
        others.sort(key=lambda s: places[s.address])
        self._keep([spec, *others[: SLOTS - 1]])

    def drop(self, counter) -> None:
        """Forget the specs that count there."""
        self._keep([s for s in self.specs if not s.counts(counter)])

    def _keep(self, specs):
        self.table[0] = 2  # nothing is tried while the addresses move
        self.specs[:] = specs
        addresses = [s.address for s in specs]
        self.table[2:] = addresses + [0] * (SLOTS - len(addresses))  # a call that is under way looks whether it is still there
        self.table[0] = 2 + len(addresses)

    def clear(self) -> None:
        self._keep([])
        self.table[1] = 0
