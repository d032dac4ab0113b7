"""Loops that can be interrupted: what compiled loops that may run for long call now and then.

In: nothing. Out: `address(SYMBOL)` of the machine code of

    i64 tapejit.poll(ptr head)

which runs one turn of a loop in Python. So whatever happens between two instructions of Python happens here: other threads
run that wait for the GIL, and so do the handlers of signals that have come (in the main thread). It returns 0, or INTERRUPTED
where one raised. The loop then leaves the program as by a guard, and whoever called the program raises what was raised
(`reraise`, or marshal.py).

head: the words that an arena begins with (Head), those of one call. So threads do not share when they last looked, and the
exception is no thread's current one while machine code winds up, whether or not that holds the GIL.

How often. A loop counts its iterations and polls when about WORK operations are done, a fraction of a millisecond. That reads a
clock; there is a turn every 5 ms only, or every 50 where the program has released the GIL: to get it from a thread that
computes in Python takes up to 5 ms.

Workers of the pool (threads.py) never come here: the loops that poll stand between what is run in pieces.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import time
from functools import lru_cache

import numpy as np

from .writer import Writer

SYMBOL = "tapejit.poll"
TURN = "tapejit.turn"
EXITING = "tapejit.exiting"  # not 0 once the interpreter goes: a thread without the GIL lets it alone from then on
DECLARATION = f"declare i64 @{SYMBOL}(ptr) cold nounwind"
INTERRUPTED = -1
WORK = 1 << 22  # operations, or doubles that are read or written, between two polls
LONG = WORK << 3  # a loop of known length polls if it does more than that in all
OFTEN, APART = 5_000_000, 50_000_000  # ns between two turns of Python, with and without the GIL

CALLS = {
    "PyGILState_Ensure": "i32 ()", "PyGILState_Release": "void (i32)", "PyErr_Fetch": "void (ptr, ptr, ptr)",
    "PyObject_CallObject": "ptr (ptr, ptr)", "Py_DecRef": "void (ptr)",
}  # fmt: skip
WINDOWS = sys.platform == "win32"
CLOCK = ("kernel32", "GetTickCount64", "i64 ()") if WINDOWS else (None, "clock_gettime", "i32 (i32, ptr)")


class Head:
    """Words of an arena's head, after what a failing guard saw: three of an exception; the time before which nothing is to
    be done; whether the program runs without the GIL."""

    EXCEPTION, DUE, RELEASED = 1, 4, 5
    WORDS = 6


def prepare(arena, releases) -> None:
    """Make a fresh arena one of a program that is run without the GIL, or with it."""
    arena[: 8 * Head.WORDS].view(np.int64)[Head.DUE :] = 0, releases


def reraise(arena) -> None:
    """Raise what was raised while the program ran in this arena."""
    restore = ctypes.pythonapi.PyErr_Restore
    restore.argtypes, restore.restype = [ctypes.c_void_p] * 3, None
    restore(*arena[: 8 * Head.DUE].view(np.int64)[Head.EXCEPTION :].tolist())


def iterations(work) -> int:
    """How many iterations of so much work are run between two polls: a power of two."""
    return 1 << (max(WORK // max(work, 1), 1).bit_length() - 1)


def address(symbol=SYMBOL) -> int:
    """Of the function."""
    return _code().addresses[symbol]


@lru_cache(maxsize=1)
def _code():
    from . import engine

    imports = {name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in CALLS}
    heads = [f"declare {signature.replace(' (', f' @{name}(')}" for name, signature in CALLS.items()]
    library, name, signature = CLOCK
    imports[name] = ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
    heads += [f"declare {signature.replace(' (', f' @{name}(')}", f"@{TURN} = external global i8"]
    imports[TURN] = id(engine.immortal(_turn))
    text = "\n".join([*heads, f"@{EXITING} = global i64 0\n", _poll()])
    code = engine.immortal(engine.Code(engine.Image(text), [SYMBOL, EXITING], imports))
    atexit.register(ctypes.memset, code.addresses[EXITING], 1, 8)
    return code


def _turn():
    for _ in (None,):  # where Python looks for signals, and for threads that wait for the GIL, in all its versions
        pass


def _poll() -> str:
    w = Writer(f"i64 @{SYMBOL}(ptr %head)", CALLS)
    w.need(w.test("sge", _now(w), w.load("%head", 8 * Head.DUE, "i64")), "go")
    away = w.test("ne", w.load("%head", 8 * Head.RELEASED, "i64"), 0)
    state = w.variable("i32")
    with w.when(away):
        w.need(w.test("eq", w.let(f"load atomic i64, ptr @{EXITING} monotonic, align 8"), 0), "go")
        w.store(w.call("PyGILState_Ensure"), state, "i32")
    done = w.call("PyObject_CallObject", f"@{TURN}", "null")
    w.call("Py_DecRef", done)
    raised = w.test("eq", done, "null", "ptr")
    with w.when(raised):
        w.call("PyErr_Fetch", *[w.byte("%head", 8 * (Head.EXCEPTION + i)) for i in range(3)])
    with w.when(away):
        w.call("PyGILState_Release", w.load(state, type="i32"))
    pause = w.let(f"select i1 {away}, i64 {APART}, i64 {OFTEN}")
    w.store(w.let(f"add i64 {_now(w)}, {pause}"), w.byte("%head", 8 * Head.DUE), "i64")
    w.line(f"ret i64 {w.let(f'select i1 {raised}, i64 {INTERRUPTED}, i64 0')}")
    w.label("go")
    w.line("ret i64 0")
    return w.text()


def _now(w):
    """The time in ns."""
    if WINDOWS:
        return w.let(f"mul i64 {w.let('call i64 @GetTickCount64()')}, 1000000")
    pair = w.variable("{ i64, i64 }")
    w.line(f"call i32 @clock_gettime(i32 {time.CLOCK_MONOTONIC}, ptr {pair})")
    seconds = w.let(f"mul i64 {w.load(pair, type='i64')}, 1000000000")
    return w.let(f"add i64 {seconds}, {w.load(pair, 8, 'i64')}")
