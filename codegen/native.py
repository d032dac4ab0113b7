"""The native entry: calls of a transformed function that never pass through Python.

In: an Executable, what its arguments must be (a nest of numbers and ndarrays, as `Argument`s), the structure of its results.
Out: a machine-code function `spec(args, nargs, kwnames)` that checks the arguments by reading the fields of the objects, runs
the program and builds the results through NumPy's C API; it returns the marker MISS for arguments that are not its own.
`Dispatcher(slow, busy)` is a Python builtin (METH_FASTCALL | METH_KEYWORDS), the same machine code for every function: it
tries the specs in turn and calls the Python object `slow` for the rest: unknown arguments, anything while `busy[0]` is not
zero, guards that see another value.

What is served: Python floats and ints, NumPy scalars, ndarrays, in tuples, lists and dicts (same keys, same order), by
position or by keyword; None, bool and str by identity. An array of the right dtype and shape but other strides is copied
first. Results are arrays and statics in tuples, lists and dicts; captured objects must be ndarrays. All else is left to Python.

A spec owns one arena. Programs with enough work release the GIL while they run; the spec is marked as taken meanwhile, and
a second thread that comes along goes through Python, which has arenas to spare. What a taken spec reads stays alive: arrays
inside containers, which another thread could empty, are held by a reference, and a spec that is dropped while taken is kept
until it is free (`_retired`).

Why the struct offsets may be relied on: they are part of the stable layouts of CPython 3.10 to 3.14 (object header, float,
list, tuple, type) and of NumPy 2 (PyArrayObject_fields); `supported()` checks them on live objects once before first use.
"""

from __future__ import annotations

import ctypes
import functools
import types
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tapejit.ir.knobs import NATIVE

from . import allocate
from .entry import reads_objects

HEADER, TUPLE_ITEMS, LIST_ITEMS, SIZE, SCALAR_VALUE, CELL_CONTENTS = 8, 24, 24, 16, 16, 16
VECTORCALL_OFFSET = 56  # in a type object
DATA, RANK, DIMENSIONS, DESCR, FLAGS = 16, 24, 32, 56, 64
CONTIGUOUS_ALIGNED = 0x0001 | 0x0100
METH_FASTCALL_KEYWORDS = 0x0080 | 0x0002
SLOTS = 16  # specs a dispatcher can hold; the oldest is replaced then
MISS = 1
PYTHON_API = (
    "Py_IncRef", "Py_DecRef", "PyTuple_New", "PyTuple_SetItem", "PyList_New", "PyList_SetItem", "PyDict_New",
    "PyDict_SetItem", "PyDict_GetItem", "PyDict_Next", "PyDict_Size", "PyLong_AsLongLongAndOverflow", "PyEval_SaveThread",
    "PyEval_RestoreThread",
)  # fmt: skip


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


@lru_cache(maxsize=1)
def _api():
    """Addresses of the C functions that the machine code calls."""
    positions = {"ndarray": 2, "PyArray_Scalar": 60, "PyArray_NewCopy": 85, "PyArray_NewFromDescr": allocate.NEW_FROM_DESCR}
    out = {name: allocate.numpy_api(position) for name, position in positions.items()}
    for name in PYTHON_API:
        out[name] = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    return out


def supported() -> bool:
    """Whether machine code may answer calls in this process."""
    return bool(NATIVE.value) and _layouts_known()


@lru_cache(maxsize=1)
def _layouts_known() -> bool:
    """Whether objects have the layouts that the machine code reads."""
    if not reads_objects():
        return False
    if not all([hasattr(ctypes.pythonapi, name) for name in PYTHON_API]):
        return False

    def read(address, ctype):
        return ctype.from_address(address).value

    a, t, x = np.zeros((2, 3)), (object(), None), 1.5
    cell, items = types.CellType(x), [x, a]
    copy = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.c_int)(_api()["PyArray_NewCopy"])
    return (
        _api()["ndarray"] == id(np.ndarray)
        and read(id(a) + HEADER, ctypes.c_size_t) == id(np.ndarray)
        and read(id(a) + DATA, ctypes.c_size_t) == a.ctypes.data
        and read(id(a) + RANK, ctypes.c_int) == 2
        and read(read(id(a) + DIMENSIONS, ctypes.c_size_t) + 8, ctypes.c_int64) == 3
        and read(id(a) + DESCR, ctypes.c_size_t) == id(a.dtype)
        and read(id(a) + FLAGS, ctypes.c_int) & CONTIGUOUS_ALIGNED == CONTIGUOUS_ALIGNED
        and read(id(x) + SCALAR_VALUE, ctypes.c_double) == 1.5
        and all([_reads_scalar(c) for c in SCALARS])
        and read(id(items) + SIZE, ctypes.c_size_t) == read(id(t) + SIZE, ctypes.c_size_t) == 2
        and read(read(id(items) + LIST_ITEMS, ctypes.c_size_t) + 8, ctypes.c_size_t) == id(a)
        and copy(a.T, 0).flags.c_contiguous
        and read(id(cell) + CELL_CONTENTS, ctypes.c_size_t) == id(x)
        and read(id(t) + TUPLE_ITEMS, ctypes.c_size_t) == id(t[0])
    )


SCALARS = (np.float64, np.float32, np.int64, np.int32)


def _reads_scalar(kind) -> bool:
    x = kind(3)
    return np.ctypeslib.as_ctypes_type(kind).from_address(id(x) + SCALAR_VALUE).value == 3


class _Text:
    """Lines of one LLVM function under construction, with fresh names."""

    def __init__(self):
        self.slots, self.lines, self.count = [], [], 0
        self.block, self.returns = "entry", []

    def add(self, line):
        self.lines.append("  " + line)

    def finish(self, value):
        """Leave with this value, through the block that lets copies go."""
        self.returns.append(f"[ {value}, %{self.block} ]")
        self.add("br label %return")

    def let(self, expression):
        self.count += 1
        self.add(f"%v{self.count} = {expression}")
        return f"%v{self.count}"

    def label(self, name):
        self.lines.append(f"{name}:")
        self.block = name

    def field(self, pointer, offset, type="ptr"):
        return self.let(f"load {type}, ptr {self.let(f'getelementptr i8, ptr {pointer}, i64 {offset}')}")

    def require(self, left, right, type="ptr"):
        """Go to `miss` unless equal."""
        same = self.let(f"icmp eq {type} {left}, {right}")
        self.count += 1
        self.add(f"br i1 {same}, label %go{self.count}, label %miss")
        self.label(f"go{self.count}")

    def call(self, name, restype, *args):
        function = address(_api()[name] if type(name) is str else name)
        joined = ", ".join(args)
        if restype == "void":
            self.add(f"call void {function}({joined})")
            return None
        return self.let(f"call {restype} {function}({joined})")


def address(number) -> str:
    return f"inttoptr (i64 {number} to ptr)"


@dataclass(frozen=True)
class Argument:
    """What an argument must be. kind: float, int, scalar, array (`data`: its Type), static (`data`: the object), tuple,
    list, dict (`data`: the keys)."""

    kind: str
    data: object = None
    children: tuple = ()


class _Arguments:
    """Emits the checks of arguments; collects their data pointers, copies and held references."""

    def __init__(self, text, hold):
        self.t, self.hold = text, hold
        self.count = 0  # of leaves seen: positions in %inputs
        self.copies = []  # slots of arrays copied here, or null
        self.held = []

    def store(self, data):
        t = self.t
        t.add(f"store ptr {data}, ptr {t.let(f'getelementptr ptr, ptr %inputs, i64 {self.count}')}")
        self.count += 1

    def take(self, obj, argument, nested=False):
        getattr(self, f"_{argument.kind}")(obj, argument, nested)

    def type(self, obj, cls):
        self.t.require(self.t.field(obj, HEADER), address(id(cls)))

    def _float(self, obj, argument, nested):
        self.type(obj, float)
        self.scalar(obj, "i64", nested)

    def _scalar(self, obj, argument, nested):
        self.type(obj, argument.data)
        self.scalar(obj, f"i{8 * argument.data(0).itemsize}", nested)

    def scalar(self, obj, type, nested):
        if nested:  # its container may change while the GIL is released
            slot = self.slot(type)
            self.t.add(f"store {type} {self.t.field(obj, SCALAR_VALUE, type)}, ptr {slot}")
            self.store(slot)
        else:
            self.store(self.t.let(f"getelementptr i8, ptr {obj}, i64 {SCALAR_VALUE}"))

    def slot(self, type, start=None):
        self.t.count += 1
        name = f"%slot{self.t.count}"
        self.t.slots.append(f"  {name} = alloca {type}")
        if start is not None:
            self.t.slots.append(f"  store {type} {start}, ptr {name}")
        return name

    def _int(self, obj, argument, nested):
        t = self.t
        self.type(obj, int)
        overflow, value = self.slot("i32"), self.slot("i64")
        t.add(f"store i64 {t.call('PyLong_AsLongLongAndOverflow', 'i64', f'ptr {obj}', f'ptr {overflow}')}, ptr {value}")
        t.require(t.let(f"load i32, ptr {overflow}"), "0", "i32")
        self.store(value)

    def _static(self, obj, argument, nested):
        self.t.require(obj, address(id(argument.data)))

    def _array(self, obj, argument, nested):
        self.type(obj, np.ndarray)
        self.store(_array_data(self.t, obj, argument.data, self))
        if nested and self.hold:
            self.held.append(obj)

    def _tuple(self, obj, argument, nested):
        self.type(obj, tuple)
        self.t.require(self.t.field(obj, SIZE, "i64"), str(len(argument.children)), "i64")
        for i, child in enumerate(argument.children):
            self.take(self.t.field(obj, TUPLE_ITEMS + 8 * i), child, nested)

    def _list(self, obj, argument, nested):
        self.type(obj, list)
        self.t.require(self.t.field(obj, SIZE, "i64"), str(len(argument.children)), "i64")
        items = self.t.field(obj, LIST_ITEMS)
        for i, child in enumerate(argument.children):
            self.take(self.t.field(items, 8 * i), child, True)

    def _dict(self, obj, argument, nested):
        t = self.t
        self.type(obj, dict)
        t.require(t.call("PyDict_Size", "i64", f"ptr {obj}"), str(len(argument.data)), "i64")
        position = self.slot("i64")
        t.add(f"store i64 0, ptr {position}")
        key, value = self.slot("ptr"), self.slot("ptr")
        for wanted, child in zip(argument.data, argument.children):
            t.call("PyDict_Next", "i32", f"ptr {obj}", f"ptr {position}", f"ptr {key}", f"ptr {value}")
            t.require(t.let(f"load ptr, ptr {key}"), address(id(wanted)))
            self.take(t.let(f"load ptr, ptr {value}"), child, True)


def _array_data(t: _Text, array, type, arguments=None):
    """The data pointer of an array after checks that it is what the program was compiled for.

    With `arguments`, an array of other strides is copied; without, it is not ours."""
    t.require(t.field(array, RANK, "i32"), str(type.ndim), "i32")
    t.require(t.field(array, DESCR), address(id(type.dtype)))
    if type.ndim:
        dimensions = t.field(array, DIMENSIONS)
        for axis, n in enumerate(type.shape):
            t.require(t.field(dimensions, 8 * axis, "i64"), str(n), "i64")
    flags = t.let(f"and i32 {t.field(array, FLAGS, 'i32')}, {CONTIGUOUS_ALIGNED}")
    if arguments is None:
        t.require(flags, str(CONTIGUOUS_ALIGNED), "i32")
        return t.field(array, DATA)
    t.count += 1
    n, slot = t.count, arguments.slot("ptr", "null")
    arguments.copies.append(slot)
    direct = t.field(array, DATA)
    t.add(f"%plain{n} = icmp eq i32 {flags}, {CONTIGUOUS_ALIGNED}")
    t.add(f"br i1 %plain{n}, label %direct{n}, label %strided{n}")
    t.label(f"strided{n}")
    copy = t.call("PyArray_NewCopy", "ptr", f"ptr {array}", "i32 0")
    t.add(f"store ptr {copy}, ptr {slot}")
    t.add(f"%copied{n} = icmp eq ptr {copy}, null")
    t.add(f"br i1 %copied{n}, label %failed, label %made{n}")
    t.label(f"made{n}")
    moved = t.field(copy, DATA)
    t.add("store i1 true, ptr %any")
    t.add(f"br label %joined{n}")
    t.label(f"direct{n}")
    t.add(f"br label %joined{n}")
    t.label(f"joined{n}")
    return t.let(f"phi ptr [ {direct}, %direct{n} ], [ {moved}, %made{n} ]")


def spec_text(entry_address, arguments, keywords, captured, reads, results, structure, arena_address, taken) -> str:
    """LLVM text of `ptr spec(ptr args, i64 nargs, ptr kwnames)`.

    arguments: an Argument each, the last ones passed by the names `keywords`. captured: (object, Type) of ndarrays read at
    each call. reads: (cell, None, object) or (dict, name, object): closure cells and globals that must still hold that
    object. results: Types. structure: nest of ("leaf", i), ("static", object), ("tuple" | "list", [..]) and
    ("dict", keys, [..]). taken: address of the i64 that is 1 while the program runs without the GIL, or None if it keeps
    the GIL.
    """
    t = _Text()
    inputs = sum([_leaves(a) for a in arguments]) + len(captured)
    t.slots += [
        f"  %inputs = alloca [{max(inputs, 1)} x ptr]", f"  %outputs = alloca [{max(len(results), 1)} x ptr]",
        f"  %scalars = alloca [{max(len(results), 1)} x i64]", "  %any = alloca i1", "  store i1 false, ptr %any",
        "  %owner = alloca i1", "  store i1 false, ptr %owner",
        f"  %shape = alloca [{max([r.ndim for r in results], default=0) + 1} x i64]",
    ]  # fmt: skip
    t.require("%nargs", str(len(arguments) - len(keywords)), "i64")
    if keywords:
        t.add("%keyed = icmp ne ptr %kwnames, null")
        t.add("br i1 %keyed, label %names, label %miss")
        t.label("names")
        t.require(t.field("%kwnames", SIZE, "i64"), str(len(keywords)), "i64")
        for i, name in enumerate(keywords):
            t.require(t.field("%kwnames", TUPLE_ITEMS + 8 * i), address(id(name)))
    else:
        t.require("%kwnames", "null")
    given = _Arguments(t, taken is not None)
    for i, argument in enumerate(arguments):
        given.take(t.field("%args", 8 * i), argument)
    for holder, name, expected in reads:
        if name is None:
            found = t.field(address(id(holder)), CELL_CONTENTS)
        else:
            found = t.call("PyDict_GetItem", "ptr", f"ptr {address(id(holder))}", f"ptr {address(id(name))}")
        t.require(found, address(id(expected)))
    for obj, type in captured:
        given.store(_array_data(t, address(id(obj)), type))
    made = []  # array objects, None for the scalars
    for i, r in enumerate(results):
        slot = t.let(f"getelementptr ptr, ptr %outputs, i64 {i}")
        if r.ndim == 0:
            t.add(f"store ptr {t.let(f'getelementptr i64, ptr %scalars, i64 {i}')}, ptr {slot}")
            made.append(None)
            continue
        for axis, n in enumerate(r.shape):
            t.add(f"store i64 {n}, ptr {t.let(f'getelementptr i64, ptr %shape, i64 {axis}')}")
        descr = address(id(r.dtype))
        t.call("Py_IncRef", "void", f"ptr {descr}")  # NewFromDescr takes a reference
        make = (r.nbytes >= allocate.LARGE and allocate.creator()) or "PyArray_NewFromDescr"
        array = t.call(
            make, "ptr", f"ptr {address(id(np.ndarray))}", f"ptr {descr}", f"i32 {r.ndim}", "ptr %shape",
            "ptr null", "ptr null", "i32 0", "ptr null",
        )  # fmt: skip
        _unless_null(t, array, made)
        made.append(array)
        t.add(f"store ptr {t.field(array, DATA)}, ptr {slot}")
    arena = address(arena_address)
    call = f"call i64 {address(entry_address)}(ptr %inputs, ptr %outputs, ptr {arena}, ptr {arena})"
    if taken is None:
        left = t.let(call)
    else:
        t.add(f"%busy = load i64, ptr {address(taken)}")
        t.add("%free = icmp eq i64 %busy, 0")
        t.add("br i1 %free, label %mine, label %exited")
        t.label("mine")
        for obj in given.held:
            t.call("Py_IncRef", "void", f"ptr {obj}")
        t.add(f"store i64 1, ptr {address(taken)}")
        t.add("store i1 true, ptr %owner")
        thread = t.call("PyEval_SaveThread", "ptr")
        left = t.let(call)
        t.call("PyEval_RestoreThread", "void", f"ptr {thread}")
        for obj in given.held:
            t.call("Py_DecRef", "void", f"ptr {obj}")
    t.add(f"%ran = icmp eq i64 {left}, 0")
    t.add("br i1 %ran, label %ok, label %exited")
    t.label("exited")
    for array in filter(None, made):
        t.call("Py_DecRef", "void", f"ptr {array}")
    t.add("br label %miss")
    t.label("ok")
    for i, r in enumerate(results):
        if made[i] is None:
            data = t.let(f"getelementptr i64, ptr %scalars, i64 {i}")
            scalar = t.call("PyArray_Scalar", "ptr", f"ptr {data}", f"ptr {address(id(r.dtype))}", "ptr null")
            _unless_null(t, scalar, [m for k, m in enumerate(made) if m and (k < i or results[k].ndim)])
            made[i] = scalar
    t.finish(_build(t, structure, made))
    t.label("failed")
    t.finish("null")
    t.label("miss")
    t.finish(address(MISS))
    t.label("return")
    t.add(f"%result = phi ptr {', '.join(t.returns)}")
    if given.copies:
        t.add("%some = load i1, ptr %any")
        t.add("br i1 %some, label %drop, label %done")
        t.label("drop")
        for slot in given.copies:
            t.call("Py_DecRef", "void", f"ptr {t.let(f'load ptr, ptr {slot}')}")  # of NULL: nothing
        t.add("br label %done")
        t.label("done")
    if taken is not None:  # last of all: from then on this code may be freed
        t.add("%owned = load i1, ptr %owner")
        t.add("br i1 %owned, label %leave, label %left")
        t.label("leave")
        t.add(f"store i64 0, ptr {address(taken)}")
        t.add("br label %left")
        t.label("left")
    t.add("ret ptr %result")
    body = "\n".join([*t.slots, *t.lines])
    return f"define ptr @spec(ptr %args, i64 %nargs, ptr %kwnames) nounwind {{\nentry:\n{body}\n}}\n"


def _leaves(argument) -> int:
    return sum([_leaves(c) for c in argument.children]) if argument.children else argument.kind in LEAVES


LEAVES = ("float", "int", "scalar", "array")


def _unless_null(t, pointer, made):
    """Return NULL, an exception being set, if an allocation failed; what was made before is let go."""
    t.count += 1
    n = t.count
    failed = t.let(f"icmp eq ptr {pointer}, null")
    t.add(f"br i1 {failed}, label %lost{n}, label %obtained{n}")
    t.label(f"lost{n}")
    for array in filter(None, made):
        t.call("Py_DecRef", "void", f"ptr {array}")
    t.add("br label %failed")
    t.label(f"obtained{n}")


def _build(t, structure, made):
    """The nest of results. A failed allocation of a container is rare enough to leak its items with the exception set."""
    kind = structure[0]
    if kind == "leaf":
        return made[structure[1]]
    if kind == "static":
        t.call("Py_IncRef", "void", f"ptr {address(id(structure[1]))}")
        return address(id(structure[1]))
    if kind == "dict":
        out = t.call("PyDict_New", "ptr")
        _unless_null(t, out, [])
        for key, item in zip(structure[1], structure[2]):
            value = _build(t, item, made)
            t.call("PyDict_SetItem", "i32", f"ptr {out}", f"ptr {address(id(key))}", f"ptr {value}")
            t.call("Py_DecRef", "void", f"ptr {value}")  # SetItem took its own reference
        return out
    name = "PyTuple" if kind == "tuple" else "PyList"
    out = t.call(f"{name}_New", "ptr", f"i64 {len(structure[1])}")
    _unless_null(t, out, [])
    for i, item in enumerate(structure[1]):
        t.call(f"{name}_SetItem", "i32", f"ptr {out}", f"i64 {i}", f"ptr {_build(t, item, made)}")
    return out


class Spec:
    """Machine code of one specialization's entry, with all that it reads kept alive."""

    def __init__(self, executable, arguments, keywords, captured, reads, structure):
        from . import engine, memory

        self.arena = memory.new_arena(executable.stats.arena_bytes)
        self.taken = np.zeros(1, np.int64) if executable.releases_gil else None
        self.holds = (executable, arguments, keywords, captured, reads, structure, [r.dtype for r in executable.results])
        text = spec_text(
            executable.entry_address, arguments, keywords, captured, reads, executable.results, structure,
            self.arena.ctypes.data, None if self.taken is None else self.taken.ctypes.data,
        )  # fmt: skip
        self.code = engine.Code(engine.Image(text, keep=False), ["spec"], {})
        self.address = self.code.addresses["spec"]

    @property
    def running(self) -> bool:
        return self.taken is not None and bool(self.taken[0])


_retired = []  # specs dropped while a thread ran them


def _retire(specs):
    """Let specs go, those that run when they are done."""
    _retired[:] = [s for s in [*_retired, *specs] if s.running]


DISPATCH = """
define ptr @dispatch(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) nounwind {{
entry:
  %busy.at = getelementptr i8, ptr %self, i64 {busy}
  %busy.array = load ptr, ptr %busy.at
  %busy.data = getelementptr i8, ptr %busy.array, i64 {data}
  %busy.field = load ptr, ptr %busy.data
  %busy = load volatile i64, ptr %busy.field
  %idle = icmp eq i64 %busy, 0
  %table.at = getelementptr i8, ptr %self, i64 {items}
  %table = load ptr, ptr %table.at
  %data.at = getelementptr i8, ptr %table, i64 {data}
  %data = load ptr, ptr %data.at
  br i1 %idle, label %next, label %slow
next:
  %i = phi i64 [ 2, %entry ], [ %i.1, %missed ]
  %count = load i64, ptr %data
  %more = icmp ult i64 %i, %count
  br i1 %more, label %call, label %slow
call:
  %spec.at = getelementptr i64, ptr %data, i64 %i
  %spec = load ptr, ptr %spec.at
  %out = call ptr %spec(ptr %args, i64 %nargs, ptr %kwnames)
  %miss = icmp eq ptr %out, inttoptr (i64 {miss} to ptr)
  br i1 %miss, label %missed, label %hit
missed:
  %i.1 = add i64 %i, 1
  br label %next
hit:
  %hits.at = getelementptr i64, ptr %data, i64 1
  %hits = load i64, ptr %hits.at
  %hits.1 = add i64 %hits, 1
  store i64 %hits.1, ptr %hits.at
  ret ptr %out
slow:
  %slow.at = getelementptr i8, ptr %self, i64 {slow}
  %callee = load ptr, ptr %slow.at
  %function.at = getelementptr i8, ptr %callee, i64 {vectorcall}
  %function = load ptr, ptr %function.at
  %r = call ptr %function(ptr %callee, ptr %args, i64 %nargs, ptr %kwnames)
  ret ptr %r
}}
"""


def _vectorcall_offset() -> int:
    """Where a functools.partial, which `slow` is, has its vectorcall function."""
    return ctypes.c_ssize_t.from_address(id(functools.partial) + VECTORCALL_OFFSET).value


@lru_cache(maxsize=1)
def _dispatch_definition():
    """The PyMethodDef of the dispatcher's machine code; one per process, alive for good."""
    from . import engine

    text = DISPATCH.format(
        items=TUPLE_ITEMS, slow=TUPLE_ITEMS + 8, busy=TUPLE_ITEMS + 16, data=DATA, miss=MISS,
        vectorcall=_vectorcall_offset(),
    )  # fmt: skip
    code = engine.Code(engine.Image(text, keep=False), ["dispatch"], {})
    doc = b"The compiled function; see type(f).__doc__."
    return _MethodDef(b"__call__", code.addresses["dispatch"], METH_FASTCALL_KEYWORDS, doc), code


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
        self.builtin = new(ctypes.addressof(_dispatch_definition()[0]), (self.table, slow, busy, self.specs), None, None)

    @property
    def hits(self) -> int:
        return int(self.table[1])

    def add(self, spec: Spec) -> None:
        """Try this spec first from now on."""
        self.specs.insert(0, spec)
        self.table[0] = 2  # nothing is tried while the addresses move
        _retire(self.specs[SLOTS:])
        del self.specs[SLOTS:]
        addresses = [s.address for s in self.specs]
        self.table[2 : 2 + len(addresses)] = addresses
        self.table[0] = 2 + len(addresses)

    def clear(self) -> None:
        self.table[0], self.table[1] = 2, 0
        _retire(self.specs)
        self.specs.clear()
