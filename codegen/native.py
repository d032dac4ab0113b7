"""The native entry: calls of a transformed function that never pass through Python.

In: an Executable, what its arguments must be (ndarrays of one dtype and shape, Python floats), the structure of its results.
Out: a machine-code function `spec(args, nargs)` that checks the arguments by reading the fields of the objects, runs the
program and builds the results through NumPy's C API; it returns the marker MISS for arguments that are not its own.
`dispatcher(specs, slow)` is a Python builtin (METH_FASTCALL | METH_KEYWORDS), the same machine code for every function: it
tries the specs in turn and calls the Python object `slow` for the rest: unknown arguments, keywords, anything while a
`busy[0]` is not zero, guards that see another value.

Refused here, and so served by Python: programs with enough work to release the GIL (each spec has one arena, which the GIL
guards), results other than arrays in tuples, lists and dicts, captured objects that are not ndarrays.

Why the struct offsets may be relied on: they are part of the stable layouts of CPython 3.11 to 3.14 (object header, float,
list, tuple) and of NumPy 2 (PyArrayObject_fields); `supported()` checks them on live objects once before first use.
"""

from __future__ import annotations

import ctypes
import sys
import types
from functools import lru_cache

import numpy as np

HEADER, TUPLE_ITEMS, FLOAT_VALUE, CELL_CONTENTS = 8, 24, 16, 16
DATA, RANK, DIMENSIONS, DESCR, FLAGS = 16, 24, 32, 56, 64
CONTIGUOUS_ALIGNED = 0x0001 | 0x0100
ARRAY_TYPE, ARRAY_SCALAR, NEW_FROM_DESCR = 2, 60, 94  # positions in NumPy's C API table
METH_FASTCALL_KEYWORDS = 0x0080 | 0x0002
SLOTS = 16  # specs a dispatcher can hold; the oldest is replaced then
MISS = 1
PYTHON_API = (
    "PyObject_Vectorcall", "Py_IncRef", "Py_DecRef", "PyTuple_New", "PyTuple_SetItem", "PyList_New", "PyList_SetItem",
    "PyDict_New", "PyDict_SetItem", "PyDict_GetItem",
)  # fmt: skip


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


@lru_cache(maxsize=1)
def _api():
    """Addresses of the C functions that the machine code calls."""
    import numpy._core._multiarray_umath as umath

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = (ctypes.c_void_p * 100).from_address(get(umath._ARRAY_API, None))
    out = {"ndarray": table[ARRAY_TYPE], "PyArray_Scalar": table[ARRAY_SCALAR], "PyArray_NewFromDescr": table[NEW_FROM_DESCR]}
    for name in PYTHON_API:
        out[name] = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    return out


@lru_cache(maxsize=1)
def supported() -> bool:
    """Whether objects of this process have the layouts that the machine code reads."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or hasattr(sys, "gettotalrefcount"):
        return False
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    if not all([hasattr(ctypes.pythonapi, name) for name in PYTHON_API]):  # 3.10 exports no PyObject_Vectorcall
        return False

    def read(address, ctype):
        return ctype.from_address(address).value

    a, t, x = np.zeros((2, 3)), (object(), None), 1.5
    cell = types.CellType(x)
    return (
        _api()["ndarray"] == id(np.ndarray)
        and read(id(a) + HEADER, ctypes.c_size_t) == id(np.ndarray)
        and read(id(a) + DATA, ctypes.c_size_t) == a.ctypes.data
        and read(id(a) + RANK, ctypes.c_int) == 2
        and read(read(id(a) + DIMENSIONS, ctypes.c_size_t) + 8, ctypes.c_int64) == 3
        and read(id(a) + DESCR, ctypes.c_size_t) == id(a.dtype)
        and read(id(a) + FLAGS, ctypes.c_int) & CONTIGUOUS_ALIGNED == CONTIGUOUS_ALIGNED
        and read(id(x) + FLOAT_VALUE, ctypes.c_double) == 1.5
        and read(id(cell) + CELL_CONTENTS, ctypes.c_size_t) == id(x)
        and read(id(t) + TUPLE_ITEMS, ctypes.c_size_t) == id(t[0])
    )


class _Text:
    """Lines of one LLVM function under construction, with fresh names."""

    def __init__(self):
        self.lines, self.count = [], 0

    def add(self, line):
        self.lines.append("  " + line)

    def let(self, expression):
        self.count += 1
        self.add(f"%v{self.count} = {expression}")
        return f"%v{self.count}"

    def label(self, name):
        self.lines.append(f"{name}:")

    def field(self, pointer, offset, type="ptr"):
        return self.let(f"load {type}, ptr {self.let(f'getelementptr i8, ptr {pointer}, i64 {offset}')}")

    def require(self, left, right, type="ptr"):
        """Go to `miss` unless equal."""
        same = self.let(f"icmp eq {type} {left}, {right}")
        self.count += 1
        self.add(f"br i1 {same}, label %go{self.count}, label %miss")
        self.label(f"go{self.count}")

    def call(self, name, restype, *args):
        function = address(_api()[name])
        joined = ", ".join(args)
        if restype == "void":
            self.add(f"call void {function}({joined})")
            return None
        return self.let(f"call {restype} {function}({joined})")


def address(number) -> str:
    return f"inttoptr (i64 {number} to ptr)"


def _array_data(t: _Text, array, type):
    """The data pointer of an array argument, after checks that it is what the program was compiled for."""
    t.require(t.field(array, RANK, "i32"), str(type.ndim), "i32")
    t.require(t.field(array, DESCR), address(id(type.dtype)))
    flags = t.let(f"and i32 {t.field(array, FLAGS, 'i32')}, {CONTIGUOUS_ALIGNED}")
    t.require(flags, str(CONTIGUOUS_ALIGNED), "i32")
    if type.ndim:
        dimensions = t.field(array, DIMENSIONS)
        for axis, n in enumerate(type.shape):
            t.require(t.field(dimensions, 8 * axis, "i64"), str(n), "i64")
    return t.field(array, DATA)


def spec_text(entry_address, arguments, captured, reads, results, structure, arena_address) -> str:
    """LLVM text of `ptr spec(ptr args, i64 nargs)`.

    arguments: per argument "float" or the Type of an ndarray. captured: (object, Type) of ndarrays read at each call.
    reads: (cell, None, object) or (dict, name, object): closure cells and globals that must still hold that object.
    results: Types. structure: nest of ("leaf", i), ("tuple" | "list", [..]), ("dict", keys, [..]).
    """
    t = _Text()
    inputs = len(arguments) + len(captured)
    t.add(f"%inputs = alloca [{max(inputs, 1)} x ptr]")
    t.add(f"%outputs = alloca [{max(len(results), 1)} x ptr]")
    t.add(f"%scalars = alloca [{max(len(results), 1)} x i64]")
    longest = max([r.ndim for r in results], default=0)
    t.add(f"%shape = alloca [{max(longest, 1)} x i64]")
    t.require("%nargs", str(len(arguments)), "i64")
    for i, kind in enumerate(arguments):
        obj = t.field("%args", 8 * i)
        t.require(t.field(obj, HEADER), address(id(float if kind == "float" else np.ndarray)))
        data = t.let(f"getelementptr i8, ptr {obj}, i64 {FLOAT_VALUE}") if kind == "float" else _array_data(t, obj, kind)
        t.add(f"store ptr {data}, ptr {t.let(f'getelementptr ptr, ptr %inputs, i64 {i}')}")
    for holder, name, expected in reads:
        if name is None:
            found = t.field(address(id(holder)), CELL_CONTENTS)
        else:
            found = t.call("PyDict_GetItem", "ptr", f"ptr {address(id(holder))}", f"ptr {address(id(name))}")
        t.require(found, address(id(expected)))
    for k, (obj, type) in enumerate(captured):
        data = _array_data(t, address(id(obj)), type)
        t.add(f"store ptr {data}, ptr {t.let(f'getelementptr ptr, ptr %inputs, i64 {len(arguments) + k}')}")
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
        array = t.call(
            "PyArray_NewFromDescr", "ptr", f"ptr {address(id(np.ndarray))}", f"ptr {descr}", f"i32 {r.ndim}", "ptr %shape",
            "ptr null", "ptr null", "i32 0", "ptr null",
        )  # fmt: skip
        _unless_null(t, array, made)
        made.append(array)
        t.add(f"store ptr {t.field(array, DATA)}, ptr {slot}")
    arena = address(arena_address)
    left = t.let(f"call i64 {address(entry_address)}(ptr %inputs, ptr %outputs, ptr {arena}, ptr {arena})")
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
    out = _build(t, structure, made)
    t.add(f"ret ptr {out}")
    t.label("miss")
    t.add(f"ret ptr {address(MISS)}")
    body = "\n".join(t.lines)
    return f"define ptr @spec(ptr %args, i64 %nargs) nounwind {{\nentry:\n{body}\n}}\n"


def _unless_null(t, pointer, made):
    """Return NULL, an exception being set, if an allocation failed; what was made before is let go."""
    t.count += 1
    n = t.count
    failed = t.let(f"icmp eq ptr {pointer}, null")
    t.add(f"br i1 {failed}, label %failed{n}, label %made{n}")
    t.label(f"failed{n}")
    for array in filter(None, made):
        t.call("Py_DecRef", "void", f"ptr {array}")
    t.add("ret ptr null")
    t.label(f"made{n}")


def _build(t, structure, made):
    """The nest of results. A failed allocation of a container is rare enough to leak its items with the exception set."""
    kind = structure[0]
    if kind == "leaf":
        return made[structure[1]]
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

    def __init__(self, executable, arguments, captured, reads, structure):
        from . import engine, memory

        self.arena = memory.new_arena(executable.stats.arena_bytes)
        self.holds = (executable, captured, reads, structure, [r.dtype for r in executable.results])
        arena = self.arena.ctypes.data
        text = spec_text(executable.entry_address, arguments, captured, reads, executable.results, structure, arena)
        self.code = engine.Code(engine.Image(text), ["spec"], {})
        self.address = self.code.addresses["spec"]


def can_serve(executable) -> bool:
    """Whether an Executable's calls hold the GIL throughout, so that one arena serves them all."""
    return supported() and not executable.releases_gil


DISPATCH = """
define ptr @dispatch(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) nounwind {{
entry:
  %busy.at = getelementptr i8, ptr %self, i64 {busy}
  %busy.array = load ptr, ptr %busy.at
  %busy.data = getelementptr i8, ptr %busy.array, i64 {data}
  %busy.field = load ptr, ptr %busy.data
  %busy = load volatile i64, ptr %busy.field
  %idle = icmp eq i64 %busy, 0
  %plain = icmp eq ptr %kwnames, null
  %try = and i1 %idle, %plain
  %table.at = getelementptr i8, ptr %self, i64 {items}
  %table = load ptr, ptr %table.at
  %data.at = getelementptr i8, ptr %table, i64 {data}
  %data = load ptr, ptr %data.at
  br i1 %try, label %next, label %slow
next:
  %i = phi i64 [ 2, %entry ], [ %i.1, %missed ]
  %count = load i64, ptr %data
  %more = icmp ult i64 %i, %count
  br i1 %more, label %call, label %slow
call:
  %spec.at = getelementptr i64, ptr %data, i64 %i
  %spec = load ptr, ptr %spec.at
  %out = call ptr %spec(ptr %args, i64 %nargs)
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
  %r = call ptr {vectorcall}(ptr %callee, ptr %args, i64 %nargs, ptr %kwnames)
  ret ptr %r
}}
"""


@lru_cache(maxsize=1)
def _dispatch_definition():
    """The PyMethodDef of the dispatcher's machine code; one per process, alive for good."""
    from . import engine

    text = DISPATCH.format(
        items=TUPLE_ITEMS, slow=TUPLE_ITEMS + 8, busy=TUPLE_ITEMS + 16, data=DATA, miss=MISS,
        vectorcall=address(_api()["PyObject_Vectorcall"]),
    )  # fmt: skip
    code = engine.Code(engine.Image(text), ["dispatch"], {})
    doc = b"The compiled function; see type(f).__doc__."
    return _MethodDef(b"__call__", code.addresses["dispatch"], METH_FASTCALL_KEYWORDS, doc), code


class Dispatcher:
    """A builtin that tries machine-code specs and falls back to the Python callable `slow`.

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
        del self.specs[SLOTS:]
        addresses = [s.address for s in self.specs]
        self.table[0] = 2  # nothing is tried while the addresses move
        self.table[2 : 2 + len(addresses)] = addresses
        self.table[0] = 2 + len(addresses)

    def clear(self) -> None:
        self.table[0], self.table[1] = 2, 0
        self.specs.clear()
