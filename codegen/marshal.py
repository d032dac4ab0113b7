"""Marshalling: the machine code between Python's objects and a program, one for all programs, driven by a table for each.

In: nothing (the LLVM text is the same in every process, so its object code comes from the disk cache). Out: `code()`, with

    dispatch(self, args, nargs, kwnames)   a METH_FASTCALL | METH_KEYWORDS function: tries plans in turn, else Python
    lists(program, inputs, outputs)         runs a program on a list of input arrays and one of outputs and the arena

`attempt` follows a plan (plan.py): it checks the arguments, collects the pointers to their data, allocates the results, runs
the program and builds the nest of results; it returns MISS for arguments that are not the plan's.

The algorithm: the objects of a nest are numbered breadth first, the arguments first. A queue of pointers starts with the
arguments; record k says what object k must be, and a container appends its items to the queue, where their numbers say.
One loop, no recursion, and nothing runs meanwhile that could free an object. Results are built by a stack machine, items
before their container.

Results may have to go into arrays that are among the arguments (OUTPUT). The program writes such an array itself unless an
input shares memory with it; then the result is made beside it and copied when the program is done.

Why a table and not code for each specialization: measured, a table costs 5 to 15 ns a call more. It takes 25 microseconds
to make for one float and 0.2 ms for a nest of 40 arrays, where LLVM took 5 and 830 ms.

References: the queue borrows. Where something can run that might let objects go (the GIL is released, a loop polls, an array
is copied, attributes are read) every object in it is held first (`hold`). The plan's owner is held from first check to end.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from functools import lru_cache

import numpy as np

from .allocate import NEW_FROM_DESCR, numpy_api
from .interrupts import INTERRUPTED, Head
from .plan import PLAN, Kind, Maker, Read, Record, Step
from .writer import Writer

HEADER, SIZE, LIST_ITEMS, SCALAR_VALUE = 8, 16, 24, 16
TUPLE_ITEMS = tuple.__basicsize__  # 24; from CPython 3.14 on there is a hash before the items
VECTORCALL_OFFSET = 56  # in a type object
DATA, RANK, DIMENSIONS, DESCR, FLAGS = 16, 24, 32, 56, 64  # in an ndarray
BYTE_ORDER, TYPE_NUMBER = 26, 28  # in a dtype
SWAPPED = ord(">" if sys.byteorder == "little" else "<")
READY, WRITEABLE = 0x0001 | 0x0100, 0x0400  # C-contiguous and aligned
LINE = 64
MISSED = "inttoptr (i64 1 to ptr)"

PYTHON = {
    "Py_IncRef": "void (ptr)", "Py_DecRef": "void (ptr)", "PyTuple_New": "ptr (i64)", "PyList_New": "ptr (i64)",
    "PyDict_New": "ptr ()", "PyTuple_SetItem": "i32 (ptr, i64, ptr)", "PyList_SetItem": "i32 (ptr, i64, ptr)",
    "PyDict_SetItem": "i32 (ptr, ptr, ptr)", "PyDict_GetItem": "ptr (ptr, ptr)", "PyDict_Size": "i64 (ptr)",
    "PyDict_Next": "i32 (ptr, ptr, ptr, ptr)", "PyLong_AsLongLongAndOverflow": "i64 (ptr, ptr)",
    "PyUnicode_Compare": "i32 (ptr, ptr)", "PyObject_GetAttr": "ptr (ptr, ptr)", "PyObject_CallObject": "ptr (ptr, ptr)",
    "PyEval_SaveThread": "ptr ()", "PyEval_RestoreThread": "void (ptr)", "PyErr_Restore": "void (ptr, ptr, ptr)",
}  # fmt: skip
NUMPY = {  # with positions in NumPy's table
    "PyArray_Scalar": ("ptr (ptr, ptr, ptr)", 60), "PyArray_NewCopy": ("ptr (ptr, i32)", 85),
    "PyArray_NewFromDescr": ("ptr (ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)", NEW_FROM_DESCR),
}  # fmt: skip
OURS = {"same": "i1 (ptr, ptr)", "fits": "i1 (ptr, ptr, ptr)", "attempt": "ptr (ptr, ptr, i64, ptr)"}
SIGNATURES = PYTHON | {name: signature for name, (signature, _) in NUMPY.items()} | OURS


def addresses() -> dict:
    """Of what the machine code names: name -> address."""
    out = {name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in PYTHON}
    out |= {name: numpy_api(position) for name, (_, position) in NUMPY.items()}
    return out | {"PyUnicode_Type": id(str), "PyArray_Type": id(np.ndarray)}


@lru_cache(maxsize=1)
def code():
    """The machine code, for as long as the process lives."""
    from . import engine

    names = addresses()
    heads = [f"declare {SIGNATURES[n].replace(' (', f' @{n}(')}" for n in names if n in SIGNATURES]
    heads += [f"@{n} = external global i8" for n in names if n not in SIGNATURES]
    heads += ["declare ptr @llvm.ptrmask.p0.i64(ptr, i64)", "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"]
    text = "\n".join([*heads, _same(), _fits(), _Attempt().w.text(), _dispatch()])
    return engine.immortal(engine.Code(engine.Image(text), ["dispatch"], names))


@lru_cache(maxsize=1)
def lists_code():
    """The machine code that runs a program on lists of arrays: needed by every process, at its first call."""
    from . import engine

    image = engine.Image(_lists(), "none")  # passes would make gathers of these loops, for 10 ms
    return engine.immortal(engine.Code(image, ["lists"], {}))


def _same() -> str:
    """Whether two objects are one, or equal strings."""
    w = Writer("internal i1 @same(ptr %a, ptr %b)", SIGNATURES)
    w.branch(w.test("eq", "%a", "%b", "ptr"), "yes", "different")
    w.label("different")
    for x in ("%a", "%b"):
        w.need(w.test("eq", w.load(x, HEADER), "@PyUnicode_Type", "ptr"), "no")
    w.branch(w.test("eq", w.call("PyUnicode_Compare", "%a", "%b"), "0", "i32"), "yes", "no")
    w.label("yes")
    w.line("ret i1 true")
    w.label("no")
    w.line("ret i1 false")
    return w.text()


def _fits() -> str:
    """Whether an array has the dtype and shape that a record tells."""
    w = Writer("internal i1 @fits(ptr %plan, ptr %record, ptr %array)", SIGNATURES)
    descr = w.load("%array", DESCR)
    w.branch(w.test("eq", descr, w.load("%record", 8 * Record.DTYPE), "ptr"), "known", "another")
    w.label("another")  # dtypes that were pickled are objects of their own
    number = w.let(f"sext i32 {w.load(descr, TYPE_NUMBER, 'i32')} to i64")
    w.need(w.test("eq", number, w.load("%record", 8 * Record.DTYPE_NUMBER, "i64")), "no")
    w.need(w.test("ne", w.load(descr, BYTE_ORDER, "i8"), SWAPPED, "i8"), "no")
    w.go("known")
    w.label("known")
    rank = w.load("%record", 8 * Record.RANK, "i64")
    w.need(w.test("eq", w.let(f"sext i32 {w.load('%array', RANK, 'i32')} to i64"), rank), "no")
    has, wanted = w.load("%array", DIMENSIONS), w.byte("%plan", w.load("%record", 8 * Record.SHAPE, "i64"))
    with w.loop(rank) as axis:
        length = w.load(w.word(has, axis), type="i64")
        w.need(w.test("eq", length, w.load(w.word(wanted, axis), type="i64")), "no")
    w.line("ret i1 true")
    w.label("no")
    w.line("ret i1 false")
    return w.text()


class _Attempt:
    """Emits `attempt(plan, args, nargs, kwnames)`: the result, NULL with an exception set, or MISS."""

    def __init__(self):
        head = "internal ptr @attempt(ptr %plan, ptr %args, i64 %nargs, ptr %kwnames)"
        self.w = w = Writer(head, SIGNATURES)
        self.names()
        self.frame()
        self.given()
        self.reads()
        self.objects()
        self.hold_for_later()
        self.copies()
        self.overlaps()
        self.results()
        self.run()
        self.deliver()
        self.build()
        w.label("failed")
        w.store("null", self.out)
        w.go("drop")
        w.label("drop")
        with w.loop(self.owned) as i:
            w.call("Py_DecRef", w.load(w.word(self.made, i)))
        w.go("leave")
        w.label("raised")  # before anything was made
        w.store("null", self.out)
        w.go("leave")
        w.label("leave")
        with w.when(w.test("ne", w.load(self.hold, type="i64"), 0)):
            with w.loop(self.count("objects")) as k:
                w.call("Py_DecRef", w.load(w.word(self.queue, k)))
        w.call("Py_DecRef", self.owner)
        w.line(f"ret ptr {w.load(self.out)}")
        w.label("not_ours")
        w.line(f"ret ptr {MISSED}")

    def count(self, name):
        return self.w.load("%plan", PLAN[name], "i64")

    def table(self, name):
        return self.w.byte("%plan", self.count(name))

    def record(self, k):
        return self.w.let(f"getelementptr [{Record.WORDS} x i64], ptr {self.records}, i64 {k}")

    def field(self, record, word, type="i64"):
        return self.w.load(record, 8 * word, type)

    def names(self):
        """As many arguments as the plan has, and the same keywords; and it has calls left to serve."""
        w = self.w
        w.need(w.test("sgt", self.count("remaining"), 0), "not_ours")
        w.need(w.test("eq", self.count("positional"), "%nargs"), "not_ours")
        given, wanted = w.variable("i64", 0), self.count("keywords")
        with w.when(w.test("ne", "%kwnames", "null", "ptr")):
            w.store(w.load("%kwnames", SIZE, "i64"), given, "i64")
        w.need(w.test("eq", w.load(given, type="i64"), wanted), "not_ours")
        names = self.table("names")
        with w.loop(wanted) as i:
            name = w.load(w.word("%kwnames", i), TUPLE_ITEMS)
            w.need(w.call("same", name, w.load(w.word(names, i))), "not_ours")

    def frame(self):
        """Scratch on the stack."""
        w, words = self.w, self.count("words")
        self.queue = w.let(f"alloca i64, i64 {words}, align 16")
        leaves, results = self.count("leaves"), self.count("results")
        self.inputs = w.word(self.queue, self.count("objects"))
        self.values = w.word(self.inputs, leaves)  # numbers
        self.outputs = w.word(self.values, leaves)
        self.scalars = w.word(self.outputs, results)
        self.made = w.word(self.scalars, results)  # result arrays,
        self.stack = w.word(self.made, results)  # then the stack of the build: of both, all is dropped on failure
        self.records = self.table("records")
        self.out = w.variable("ptr", MISSED)
        self.owner = w.load("%plan", PLAN["owner"])
        w.call("Py_IncRef", self.owner)

    def given(self):
        """The arguments and the captured arrays are the first objects."""
        w = self.w
        arguments = self.count("given")
        with w.loop(arguments) as i:
            w.store(w.load(w.word("%args", i)), w.word(self.queue, i))
        sources, captured = self.table("sources"), w.word(self.queue, arguments)
        with w.loop(self.count("captured")) as i:
            w.store(w.load(w.word(sources, i)), w.word(captured, i))
        self.hold = w.variable("i64", self.count("hold"))
        self.strided = w.variable("i64", 0)
        with w.when(w.test("ne", w.load(self.hold, type="i64"), 0)):
            first = w.let(f"add i64 {arguments}, {self.count('captured')}")
            self.hold_first(first)
            self.clear(w.word(self.queue, first), w.let(f"sub i64 {self.count('objects')}, {first}"))

    def clear(self, words, count):
        with self.w.loop(count) as i:
            self.w.store("null", self.w.word(words, i))

    def hold_first(self, count):
        with self.w.loop(count) as k:
            self.w.call("Py_IncRef", self.w.load(self.w.word(self.queue, k)))

    def objects(self):
        """Check each object, breadth first; note where the data of the leaves is."""
        w = self.w
        position, key, item, overflow = w.variable("i64"), w.variable("ptr"), w.variable("ptr"), w.variable("i32")
        with w.loop(self.count("objects")) as k:
            obj, record = w.load(w.word(self.queue, k)), self.record(k)
            kind, slot = self.field(record, 0), self.field(record, Record.SLOT)
            first = w.word(self.queue, self.field(record, Record.FIRST))
            names = w.byte("%plan", self.field(record, Record.NAMES))
            with w.when(w.test("ne", kind, Kind.STATIC)):
                w.need(w.test("eq", w.load(obj, HEADER), self.field(record, 1, "ptr"), "ptr"), "leave")
            with w.switch(kind, 10) as case:
                with case(Kind.STATIC):
                    w.need(w.call("same", obj, self.field(record, Record.OBJECT, "ptr")), "leave")
                with case(Kind.NUMBER):
                    self.number(slot, w.load(obj, SCALAR_VALUE, "i64"), "i64")
                for case_of, type in ((Kind.INT, "i64"), (Kind.WHOLE, "double")):
                    with case(case_of):
                        value = w.call("PyLong_AsLongLongAndOverflow", obj, overflow)
                        w.need(w.test("eq", w.load(overflow, type="i32"), 0, "i32"), "leave")
                        self.number(slot, value if case_of == Kind.INT else w.let(f"sitofp i64 {value} to double"), type)
                with case(Kind.ARRAY):
                    w.need(w.call("fits", "%plan", record, obj), "leave")
                    ready = w.let(f"and i32 {w.load(obj, FLAGS, 'i32')}, {READY}")
                    with w.when(w.test("ne", ready, READY, "i32")):
                        w.store(1, self.strided, "i64")
                    w.store(w.load(obj, DATA), w.word(self.inputs, slot))
                with case(Kind.OUTPUT):
                    w.need(w.call("fits", "%plan", record, obj), "leave")
                    ready = w.let(f"and i32 {w.load(obj, FLAGS, 'i32')}, {READY | WRITEABLE}")
                    w.need(w.test("eq", ready, READY | WRITEABLE, "i32"), "leave")
                    w.store(w.load(obj, DATA), w.word(self.outputs, slot))
                with case(Kind.TUPLE):
                    w.need(w.test("eq", w.load(obj, SIZE, "i64"), slot), "leave")
                    with w.loop(slot) as i:
                        self.push(first, i, w.load(w.word(obj, i), TUPLE_ITEMS))
                with case(Kind.LIST):
                    w.need(w.test("eq", w.load(obj, SIZE, "i64"), slot), "leave")
                    items = w.load(obj, LIST_ITEMS)
                    with w.loop(slot) as i:
                        self.push(first, i, w.load(w.word(items, i)))
                with case(Kind.DICT):
                    w.need(w.test("eq", w.call("PyDict_Size", obj), slot), "leave")
                    w.store(0, position, "i64")
                    with w.loop(slot) as i:
                        w.call("PyDict_Next", obj, position, key, item)
                        w.need(w.call("same", w.load(key), w.load(w.word(names, i))), "leave")
                        self.push(first, i, w.load(item))
                with case(Kind.FIELDS):
                    with w.loop(slot) as i:
                        value = w.call("PyObject_GetAttr", obj, w.load(w.word(names, i)))
                        w.store(value, w.word(first, i))
                        w.need(w.test("ne", value, "null", "ptr"), "raised")

    def number(self, slot, value, type):
        w = self.w
        at = w.word(self.values, slot)
        w.store(value, at, type)
        w.store(at, w.word(self.inputs, slot))

    def push(self, first, i, item):
        w = self.w
        w.store(item, w.word(first, i))
        with w.when(w.test("ne", w.load(self.hold, type="i64"), 0)):
            w.call("Py_IncRef", item)

    def reads(self):
        """Closure cells, globals and what is in them hold what they held. Looked at before the arguments' items are borrowed,
        since the name of a global may be compared with a key that runs Python."""
        w = self.w
        cells, found = self.table("cells"), w.variable("ptr")
        position, key, item = w.variable("i64"), w.variable("ptr"), w.variable("ptr")
        with w.loop(self.count("reads")) as i:
            read = w.let(f"getelementptr [{Read.WORDS} x i64], ptr {cells}, i64 {i}")
            holder, name, number, wanted = w.load(read, 8), w.load(read, 16), w.load(read, 16, "i64"), w.load(read, 24)
            w.store(wanted, found)
            with w.switch(w.load(read, type="i64"), 6) as case:
                with case(Read.FIELD):
                    w.store(w.load(w.byte(holder, number)), found)
                with case(Read.NAME):
                    w.store(w.call("PyDict_GetItem", holder, name), found)
                with case(Read.LIST_LENGTH):
                    w.need(w.test("eq", w.load(holder, SIZE, "i64"), number), "leave")
                with case(Read.ITEM):
                    w.store(w.load(w.word(w.load(holder, LIST_ITEMS), number)), found)
                with case(Read.DICT_LENGTH):
                    w.need(w.test("eq", w.call("PyDict_Size", holder), number), "leave")
                    w.store(0, position, "i64")
                with case(Read.NEXT):
                    w.call("PyDict_Next", holder, position, key, item)
                    w.need(w.test("eq", w.load(key), name, "ptr"), "leave")
                    w.store(w.load(item), found)
            w.need(w.test("eq", w.load(found), wanted, "ptr"), "leave")

    def hold_for_later(self):
        w = self.w
        some = w.let(f"or i64 {w.load(self.strided, type='i64')}, {self.count('yields')}")
        more = w.test("eq", w.load(self.hold, type="i64"), 0)
        with w.when(w.let(f"and i1 {w.test('ne', some, 0)}, {more}")):
            self.hold_first(self.count("objects"))
            w.store(1, self.hold, "i64")

    def copies(self):
        """Contiguous copies take the place of arrays with other strides."""
        w = self.w
        with w.when(w.test("ne", w.load(self.strided, type="i64"), 0)):
            with w.loop(self.count("objects")) as k:
                record, at = self.record(k), w.word(self.queue, k)
                with w.when(w.test("eq", self.field(record, 0), Kind.ARRAY)):
                    obj = w.load(at)
                    ready = w.let(f"and i32 {w.load(obj, FLAGS, 'i32')}, {READY}")
                    with w.when(w.test("ne", ready, READY, "i32")):
                        copy = w.call("PyArray_NewCopy", obj, 0)
                        w.need(w.test("ne", copy, "null", "ptr"), "raised")
                        w.store(copy, at)
                        w.store(w.load(copy, DATA), w.word(self.inputs, self.field(record, Record.SLOT)))
                        w.call("Py_DecRef", obj)

    def overlaps(self):
        """A result is made beside its given array (no pointer here) where that shares memory with an argument; two given
        arrays that share memory are Python's to refuse."""
        w = self.w
        with w.when(w.test("ne", self.count("written"), 0)):
            with w.loop(self.count("objects")) as k:
                record = self.record(k)
                with w.when(w.test("eq", self.field(record, 0), Kind.OUTPUT)):
                    low, high = self.extent(k, record)
                    with w.loop(self.count("objects")) as j:
                        other = self.record(j)
                        kind = self.field(other, 0)
                        read, written = w.test("eq", kind, Kind.ARRAY), w.test("eq", kind, Kind.OUTPUT)
                        also_written = w.let(f"and i1 {written}, {w.test('ne', j, k)}")
                        with w.when(w.let(f"or i1 {read}, {also_written}")):
                            start, end = self.extent(j, other)
                            meets = w.let(f"and i1 {w.test('ult', start, high, 'ptr')}, {w.test('ult', low, end, 'ptr')}")
                            with w.when(meets):
                                w.need(read, "leave")
                                w.store("null", w.word(self.outputs, self.field(record, Record.SLOT)))

    def extent(self, k, record):
        data = self.w.load(self.w.load(self.w.word(self.queue, k)), DATA)
        return data, self.w.byte(data, self.field(record, Record.BYTES))

    def results(self):
        w = self.w
        self.owned = w.let(f"add i64 {self.count('results')}, {self.count('depth')}")
        self.clear(self.made, self.owned)
        self.makers = self.table("makers")
        with w.loop(self.count("results")) as i:
            maker, output = self.maker(i), w.word(self.outputs, i)
            with w.switch(w.load(maker, type="i64"), 3) as case:
                with case(Maker.SCALAR):
                    w.store(w.word(self.scalars, i), output)
                with case(Maker.NEW):
                    self.new_result(i, maker, output)
                with case(Maker.GIVEN):
                    given = self.given_array(maker)
                    beside = w.test("eq", w.load(output), "null", "ptr")
                    with w.when(w.let(f"xor i1 {beside}, true")):
                        w.call("Py_IncRef", given)
                        w.store(given, w.word(self.made, i))
                    with w.when(beside):
                        self.new_result(i, maker, output)

    def maker(self, i):
        return self.w.let(f"getelementptr [{Maker.WORDS} x i64], ptr {self.makers}, i64 {i}")

    def given_array(self, maker):
        return self.w.load(self.w.word(self.queue, self.field(maker, Maker.NUMBER)))

    def new_result(self, i, maker, output):
        w = self.w
        rank = w.let(f"trunc i64 {self.field(maker, 2)} to i32")
        shape = w.byte("%plan", self.field(maker, 3))
        array = self.new_array(self.field(maker, 1, "ptr"), rank, shape, self.field(maker, Maker.CREATOR, "ptr"))
        w.store(array, w.word(self.made, i))
        w.need(w.test("ne", array, "null", "ptr"), "failed")
        w.store(w.load(array, DATA), output)

    def new_array(self, descr, rank, shape, creator="@PyArray_NewFromDescr"):
        self.w.call("Py_IncRef", descr)  # which the array takes over
        arguments = f"ptr @PyArray_Type, ptr {descr}, i32 {rank}, ptr {shape}, ptr null, ptr null, i32 0, ptr null"
        return self.w.let(f"call ptr {creator}({arguments})")

    def run(self):
        """The program, in the plan's arena; in one of its own where another thread is using that."""
        w = self.w
        arena, extra = w.variable("ptr", w.load("%plan", PLAN["arena"])), w.variable("ptr", "null")
        with w.when(w.test("ne", self.count("taken"), 0)):
            more = self.new_array(w.load("%plan", PLAN["bytes_descr"]), 1, w.byte("%plan", PLAN["arena_bytes"]))
            w.store(more, extra)
            w.need(w.test("ne", more, "null", "ptr"), "failed")
            own = w.let(f"call ptr @llvm.ptrmask.p0.i64(ptr {w.byte(w.load(more, DATA), LINE - 1)}, i64 {-LINE})")
            w.store(own, arena)
            w.store(0, w.word(own, Head.DUE), "i64")
            w.store(self.count("releases"), w.word(own, Head.RELEASED), "i64")
        alone = w.test("eq", w.load(extra), "null", "ptr")
        with w.when(alone):
            w.store(1, w.byte("%plan", PLAN["taken"]), "i64")
        releases, thread = w.test("ne", self.count("releases"), 0), w.variable("ptr")
        with w.when(releases):
            w.store(w.call("PyEval_SaveThread"), thread)
        memory, entry = w.load(arena), w.load("%plan", PLAN["entry"])
        left = w.let(f"call i64 {entry}(ptr {self.inputs}, ptr {self.outputs}, ptr {memory}, ptr {memory})")
        with w.when(releases):
            w.call("PyEval_RestoreThread", w.load(thread))
        with w.when(w.test("eq", left, INTERRUPTED)):
            w.call("PyErr_Restore", *[w.load(w.word(memory, Head.EXCEPTION + i)) for i in range(3)])
            w.store("null", self.out)
        with w.when(alone):
            w.store(0, w.byte("%plan", PLAN["taken"]), "i64")
        w.call("Py_DecRef", w.load(extra))
        w.need(w.test("eq", left, 0), "drop")

    def deliver(self):
        """What was made beside a given array is copied into it."""
        w = self.w
        with w.when(w.test("ne", self.count("written"), 0)):
            with w.loop(self.count("results")) as i:
                maker, at = self.maker(i), w.word(self.made, i)
                with w.when(w.test("eq", self.field(maker, 0), Maker.GIVEN)):
                    made, given = w.load(at), self.given_array(maker)
                    with w.when(w.test("ne", made, given, "ptr")):
                        size = self.field(self.record(self.field(maker, Maker.NUMBER)), Record.BYTES)
                        to, source = w.load(given, DATA), w.load(made, DATA)
                        w.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {size}, i1 false)")
                        w.call("Py_IncRef", given)
                        w.store(given, at)
                        w.call("Py_DecRef", made)

    def build(self):
        """The nest of results, by a stack machine."""
        w = self.w
        top, steps = w.variable("i64", 0), self.table("build")
        with w.loop(self.count("steps")) as i:
            step = w.let(f"getelementptr [4 x i64], ptr {steps}, i64 {i}")
            kind, operand, count = w.load(step, type="i64"), w.load(step, 8), w.load(step, 16, "i64")
            depth = w.load(top, type="i64")
            at = w.word(self.stack, depth)
            base = w.word(self.stack, w.let(f"sub i64 {depth}, {count}"))
            result = w.variable("ptr")
            with w.switch(kind, 6) as case:
                with case(Step.LEAF):
                    self.leaf(count, base, result)
                with case(Step.CONSTANT):
                    w.store(operand, result)
                    w.call("Py_IncRef", operand)
                for number, name in ((Step.TUPLE, "PyTuple"), (Step.LIST, "PyList")):
                    with case(number):
                        self.sequence(name, at, base, count)
                        self.pop(at, result)
                with case(Step.CALL):
                    self.sequence("PyTuple", at, base, count)
                    called = w.call("PyObject_CallObject", operand, w.load(at))
                    w.need(w.test("ne", called, "null", "ptr"), "failed")
                    w.call("Py_DecRef", w.load(at))
                    w.store("null", at)
                    w.store(called, result)
                with case(Step.DICT):
                    new = w.call("PyDict_New")
                    w.store(new, at)
                    w.need(w.test("ne", new, "null", "ptr"), "failed")
                    keys = w.byte("%plan", w.load(step, 24, "i64"))
                    with w.loop(count) as k:
                        item = w.load(w.word(base, k))
                        failed = w.call("PyDict_SetItem", new, w.load(w.word(keys, k)), item)
                        w.need(w.test("eq", failed, 0, "i32"), "failed")
                        w.call("Py_DecRef", item)  # the dict took a reference of its own
                        w.store("null", w.word(base, k))
                    self.pop(at, result)
            taken = w.let(f"select i1 {w.test('ult', kind, Step.TUPLE)}, i64 0, i64 {count}")
            now = w.let(f"sub i64 {depth}, {taken}")
            w.store(w.load(result), w.word(self.stack, now))
            w.store(w.let(f"add i64 {now}, 1"), top, "i64")
        w.store(w.load(self.stack), self.out)
        self.tally()
        w.go("leave")

    def tally(self):
        """Count the call where the plan says: of programs with several paths the last result is the number of the counter."""
        w = self.w
        number = w.variable("i64", 0)
        with w.when(w.test("ne", self.count("numbered"), 0)):
            last = w.let(f"sub i64 {self.count('results')}, 1")
            w.store(w.load(w.word(self.scalars, last), type="i64"), number, "i64")
        counter = w.load(w.word(self.table("counters"), w.load(number, type="i64")))
        w.store(w.let(f"add i64 {w.load(counter, type='i64')}, 1"), counter, "i64")
        w.store(w.let(f"sub i64 {self.count('remaining')}, 1"), w.byte("%plan", PLAN["remaining"]), "i64")

    def leaf(self, number, base, result):
        """A result array; of a scalar the NumPy scalar."""
        w = self.w
        at = w.word(self.made, number)
        array = w.load(at)
        w.store("null", at)
        w.store(array, result)
        with w.when(w.test("eq", array, "null", "ptr")):
            descr = w.load(self.maker(number), 8)
            scalar = w.call("PyArray_Scalar", w.word(self.scalars, number), descr, "null")
            w.store(scalar, result)
            w.need(w.test("ne", scalar, "null", "ptr"), "failed")

    def sequence(self, name, at, base, count):
        """A tuple or list of the items from `base` on, at `at`."""
        w = self.w
        new = w.call(f"{name}_New", count)
        w.store(new, at)
        w.need(w.test("ne", new, "null", "ptr"), "failed")
        with w.loop(count) as k:
            item = w.word(base, k)
            w.call(f"{name}_SetItem", new, k, w.load(item))
            w.store("null", item)

    def pop(self, at, result):
        w = self.w
        w.store(w.load(at), result)
        w.store("null", at)


def _dispatch() -> str:
    """The builtin: `self` is the tuple (table, slow, busy, ...); the table holds its end, the hits, then plans.

    A plan that serves a call changes places with the one before it, so that those that serve most come to be tried first.
    """
    w = Writer("ptr @dispatch(ptr %self, ptr %args, i64 %nargs, ptr %kwnames)", SIGNATURES)
    busy = w.load(w.load(w.load("%self", TUPLE_ITEMS + 16), DATA), type="i64")
    table = w.load(w.load("%self", TUPLE_ITEMS), DATA)
    at = w.variable("i64", 2)
    w.branch(w.test("eq", busy, 0), "next", "slow")
    w.label("next")
    i = w.load(at, type="i64")
    w.need(w.test("ult", i, w.load(table, type="i64")), "slow")
    plan = w.load(w.word(table, i))
    out = w.call("attempt", plan, "%args", "%nargs", "%kwnames")
    w.store(w.let(f"add i64 {i}, 1"), at, "i64")
    w.need(w.test("ne", out, MISSED, "ptr"), "next")
    with w.when(w.test("ugt", i, 2)):
        with w.when(w.test("eq", w.load(w.word(table, i)), plan, "ptr")):  # no other thread has moved it meanwhile
            before = w.word(table, w.let(f"sub i64 {i}, 1"))
            w.store(w.load(before), w.word(table, i))
            w.store(plan, before)
    hits = w.word(table, 1)
    w.store(w.let(f"add i64 {w.load(hits, type='i64')}, 1"), hits, "i64")
    w.line(f"ret ptr {out}")
    w.label("slow")
    slow = w.load("%self", TUPLE_ITEMS + 8)
    function = w.load(slow, ctypes.c_ssize_t.from_address(id(functools.partial) + VECTORCALL_OFFSET).value)
    w.line(f"ret ptr {w.let(f'call ptr {function}(ptr {slow}, ptr %args, i64 %nargs, ptr %kwnames)')}")
    return w.text()


def _lists() -> str:
    """A program on the data of two lists of arrays, the last output being the arena."""
    w = Writer("i64 @lists(ptr %program, ptr %inputs, ptr %outputs)", SIGNATURES)
    data = []
    for items in ("%inputs", "%outputs"):
        count, arrays = w.load(items, SIZE, "i64"), w.load(items, LIST_ITEMS)
        pointers = w.let(f"alloca ptr, i64 {count}")
        with w.loop(count) as i:
            w.store(w.load(w.load(w.word(arrays, i)), DATA), w.word(pointers, i))
        data.append(pointers)
    last = w.let(f"sub i64 {w.load('%outputs', SIZE, 'i64')}, 1")
    arena = w.load(w.word(data[1], last))
    w.line(f"ret i64 {w.let(f'call i64 %program(ptr {data[0]}, ptr {data[1]}, ptr {arena}, ptr {arena})')}")
    return w.text("optnone noinline")
