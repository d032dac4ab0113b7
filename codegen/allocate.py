"""Memory of large results: blocks that dead arrays leave are used again, still mapped, in place of fresh zeroed pages.

In: the shape and dtype of a result. Out: an ndarray like any other; it owns its data, may be resized, pickled, outlive all of
us. `empty(shape, dtype)` is for Python; `new` has the signature of PyArray_NewFromDescr, for machine code (native.py).

The kernel zeroes every page before a program first writes it, which for a program that reads and writes memory costs as much
as its own work (Black-Scholes with five derivatives, six results of 8 MB: 22 ms where 13.4 suffice). The C library keeps a
few MB at the top of its heap, no more. So results of LARGE bytes and more are made with a memory handler of our own (NEP 49,
PyDataMem_SetHandler), which is in force only while we make them; NumPy returns the memory to the handler that an array was
made with. The handler is machine code. NumPy may call it until the very end of the process, so it is never freed.

A block is a mapping of its own, aligned for huge pages from HUGE on, and begins with a header of one cache line: its length,
and the next free block. Sizes that NumPy tells are not relied on. Data start at one of eight places of a page in turn: a
store a little ahead of a load in the last twelve bits of the address looks like one that the load depends on (measured:
rosenbrock is a quarter slower with 48 bytes in between, a tenth with 240, no slower from 496 on).

Free blocks are a list, the youngest first; one of exactly the wanted length is taken. There are at most KEPT_BLOCKS of
KEPT_BYTES in all; the eldest go back to the system first, and all do when it has no memory to give. The list is behind a
lock that nobody waits for: who finds it taken maps or unmaps. (A child forked while a thread had the lock goes on so.)
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from functools import lru_cache

import numpy as np

LARGE = 1 << 18  # bytes of a result: smaller ones are NumPy's own, which keeps those that fit the C library's heap
HUGE = 1 << 22
KEPT_BYTES = 1 << 27
KEPT_BLOCKS = 16
NEW_FROM_DESCR, SET_HANDLER = 94, 304  # positions in NumPy's C API table

TEXT = """
%block = type {{ i64, ptr, ptr, i64 }}  ; length of the mapping, its start, next free block
@lock = internal global i64 0, align 64
@free.first = internal global ptr null
@free.bytes = internal global i64 0
@free.count = internal global i64 0
@color = internal global i64 0
@capsule = internal global ptr null
@handler = global {{ [127 x i8], i8, ptr, ptr, ptr, ptr, ptr }} {{
  [127 x i8] c"tapejit{zeros}", i8 1, ptr null, ptr @allocate, ptr @zeroed, ptr @resize, ptr @release }}

declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)
declare ptr @memcpy(ptr, ptr, i64)
declare ptr @memset(ptr, i32, i64)
declare ptr @set_handler(ptr)
declare ptr @new_from_descr(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
declare void @Py_DecRef(ptr)

define internal i1 @enter() nounwind {{
  %pair = cmpxchg ptr @lock, i64 0, i64 1 acquire monotonic
  %in = extractvalue {{ i64, i1 }} %pair, 1
  ret i1 %in
}}

define internal void @leave() nounwind {{
  store atomic i64 0, ptr @lock release, align 8
  ret void
}}

define internal void @unmap(ptr %block) nounwind {{
  %length = load i64, ptr %block
  %start.at = getelementptr %block, ptr %block, i64 0, i32 1
  %start = load ptr, ptr %start.at
  %done = call i32 @munmap(ptr %start, i64 %length)
  ret void
}}

; There are so many more bytes in so many more free blocks.
define internal void @add_up(i64 %more.bytes, i64 %more.blocks) nounwind {{
  %bytes = load i64, ptr @free.bytes
  %bytes.sum = add i64 %bytes, %more.bytes
  store i64 %bytes.sum, ptr @free.bytes
  %count = load i64, ptr @free.count
  %count.sum = add i64 %count, %more.blocks
  store i64 %count.sum, ptr @free.count
  ret void
}}

; Take the block that the link points to out of the list.
define internal ptr @unlink(ptr %link) nounwind {{
  %block = load ptr, ptr %link
  %next.at = getelementptr %block, ptr %block, i64 0, i32 2
  %next = load ptr, ptr %next.at
  store ptr %next, ptr %link
  %length = load i64, ptr %block
  %less = sub i64 0, %length
  call void @add_up(i64 %less, i64 -1)
  ret ptr %block
}}

; Unmap the eldest free blocks until there are at most so many, of at most so many bytes.
define void @trim(i64 %most, i64 %bytes) nounwind {{
entry:
  br label %test
test:
  %count = load i64, ptr @free.count
  %kept = load i64, ptr @free.bytes
  %few = icmp sle i64 %count, %most
  %small = icmp sle i64 %kept, %bytes
  %fits = and i1 %few, %small
  br i1 %fits, label %out, label %walk
walk:
  %link = phi ptr [ @free.first, %test ], [ %next.at, %on ]
  %block = load ptr, ptr %link
  %next.at = getelementptr %block, ptr %block, i64 0, i32 2
  %next = load ptr, ptr %next.at
  %last = icmp eq ptr %next, null
  br i1 %last, label %drop, label %on
on:
  br label %walk
drop:
  %eldest = call ptr @unlink(ptr %link)
  call void @unmap(ptr %eldest)
  br label %test
out:
  ret void
}}

; A mapping as long as asked, aligned to a huge page if it is long, or null.
define internal ptr @map(i64 %length) nounwind {{
entry:
  %long = icmp uge i64 %length, {huge}
  %extra = select i1 %long, i64 {huge_page}, i64 0
  %whole = add i64 %length, %extra
  %p = call ptr @mmap(ptr null, i64 %whole, i32 {protection}, i32 {flags}, i32 -1, i64 0)
  %failed = icmp eq ptr %p, inttoptr (i64 -1 to ptr)
  br i1 %failed, label %none, label %mapped
none:
  ret ptr null
mapped:
  br i1 %long, label %align, label %plain
plain:
  ret ptr %p
align:
  %at = ptrtoint ptr %p to i64
  %negative = sub i64 0, %at
  %lead = and i64 %negative, {huge_page_mask}
  %start = getelementptr i8, ptr %p, i64 %lead
  %some = icmp ne i64 %lead, 0
  br i1 %some, label %before, label %behind
before:
  %cut = call i32 @munmap(ptr %p, i64 %lead)
  br label %behind
behind:
  %end = getelementptr i8, ptr %start, i64 %length
  %rest = sub i64 %extra, %lead
  %cut.end = call i32 @munmap(ptr %end, i64 %rest)
  %advised = call i32 @madvise(ptr %start, i64 %length, i32 {advice})
  ret ptr %start
}}

define internal ptr @allocate(ptr %context, i64 %size) nounwind {{
entry:
  %room = add i64 %size, {slack}
  %length = and i64 %room, {granule_mask}
  %in = call i1 @enter()
  br i1 %in, label %search, label %fresh
search:
  br label %look
look:
  %link = phi ptr [ @free.first, %search ], [ %next.at, %other ]
  %block = load ptr, ptr %link
  %end = icmp eq ptr %block, null
  br i1 %end, label %miss, label %compare
compare:
  %its = load i64, ptr %block
  %same = icmp eq i64 %its, %length
  br i1 %same, label %take, label %other
other:
  %next.at = getelementptr %block, ptr %block, i64 0, i32 2
  br label %look
take:
  %taken = call ptr @unlink(ptr %link)
  call void @leave()
  %found = getelementptr i8, ptr %taken, i64 64
  ret ptr %found
miss:
  call void @leave()
  br label %fresh
fresh:
  %first = call ptr @map(i64 %length)
  %given = icmp ne ptr %first, null
  br i1 %given, label %color, label %hard
hard:
  call void @forget()
  %second = call ptr @map(i64 %length)
  %still = icmp ne ptr %second, null
  br i1 %still, label %color, label %none
none:
  ret ptr null
color:
  %start = phi ptr [ %first, %fresh ], [ %second, %hard ]
  %n = atomicrmw add ptr @color, i64 1 monotonic
  %turn = mul i64 %n, 5
  %place = and i64 %turn, 7
  %above = mul i64 %place, 512
  %offset = add i64 %above, 448
  %made = getelementptr i8, ptr %start, i64 %offset
  store i64 %length, ptr %made
  %start.at = getelementptr %block, ptr %made, i64 0, i32 1
  store ptr %start, ptr %start.at
  %data = getelementptr i8, ptr %made, i64 64
  ret ptr %data
}}

define internal void @release(ptr %context, ptr %data, i64 %size) nounwind {{
entry:
  %nothing = icmp eq ptr %data, null
  br i1 %nothing, label %out, label %some
some:
  %block = getelementptr i8, ptr %data, i64 -64
  %length = load i64, ptr %block
  %fits = icmp ule i64 %length, {kept_bytes}
  br i1 %fits, label %try, label %back
try:
  %in = call i1 @enter()
  br i1 %in, label %keep, label %back
back:
  call void @unmap(ptr %block)
  ret void
keep:
  %first = load ptr, ptr @free.first
  %next.at = getelementptr %block, ptr %block, i64 0, i32 2
  store ptr %first, ptr %next.at
  store ptr %block, ptr @free.first
  call void @add_up(i64 %length, i64 1)
  call void @trim(i64 {kept_blocks}, i64 {kept_bytes})
  call void @leave()
  br label %out
out:
  ret void
}}

define internal ptr @zeroed(ptr %context, i64 %count, i64 %each) nounwind {{
entry:
  %size = mul i64 %count, %each
  %p = call ptr @allocate(ptr null, i64 %size)
  %failed = icmp eq ptr %p, null
  br i1 %failed, label %out, label %clear
clear:
  %cleared = call ptr @memset(ptr %p, i32 0, i64 %size)
  br label %out
out:
  ret ptr %p
}}

define internal ptr @resize(ptr %context, ptr %data, i64 %size) nounwind {{
entry:
  %p = call ptr @allocate(ptr null, i64 %size)
  %failed = icmp eq ptr %p, null
  %fresh = icmp eq ptr %data, null
  %done = or i1 %failed, %fresh
  br i1 %done, label %out, label %copy
copy:
  %block = getelementptr i8, ptr %data, i64 -64
  %length = load i64, ptr %block
  %start.at = getelementptr %block, ptr %block, i64 0, i32 1
  %start = load ptr, ptr %start.at
  %end = getelementptr i8, ptr %start, i64 %length
  %from = ptrtoint ptr %data to i64
  %to = ptrtoint ptr %end to i64
  %room = sub i64 %to, %from
  %less = icmp ult i64 %room, %size
  %bytes = select i1 %less, i64 %room, i64 %size
  %copied = call ptr @memcpy(ptr %p, ptr %data, i64 %bytes)
  call void @release(ptr null, ptr %data, i64 0)
  br label %out
out:
  ret ptr %p
}}

define void @forget() nounwind {{
entry:
  %in = call i1 @enter()
  br i1 %in, label %drop, label %out
drop:
  call void @trim(i64 0, i64 0)
  call void @leave()
  br label %out
out:
  ret void
}}

define i64 @kept() nounwind {{
  %bytes = load i64, ptr @free.bytes
  ret i64 %bytes
}}

define void @adopt(ptr %capsule) nounwind {{
  store ptr %capsule, ptr @capsule
  ret void
}}

define ptr @new(ptr %type, ptr %descr, i32 %rank, ptr %shape, ptr %strides, ptr %data, i32 %flags, ptr %object) nounwind {{
entry:
  %ours = load ptr, ptr @capsule
  %before = call ptr @set_handler(ptr %ours)
  %refused = icmp eq ptr %before, null
  br i1 %refused, label %lost, label %make
lost:
  call void @Py_DecRef(ptr %descr)
  ret ptr null
make:
  %array = call ptr @new_from_descr(ptr %type, ptr %descr, i32 %rank, ptr %shape, ptr %strides,
                                   ptr %data, i32 %flags, ptr %object)
  %same = call ptr @set_handler(ptr %before)
  call void @Py_DecRef(ptr %before)
  %stuck = icmp eq ptr %same, null
  br i1 %stuck, label %drop, label %good
drop:
  call void @Py_DecRef(ptr %array)
  ret ptr null
good:
  call void @Py_DecRef(ptr %same)
  ret ptr %array
}}
"""
EXPORTS = ("handler", "new", "adopt", "kept", "forget")
LIBC = ("mmap", "munmap", "madvise", "memcpy", "memset")


def numpy_api(position) -> int:
    """The address at this position of NumPy's C API table."""
    import numpy._core._multiarray_umath as umath

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_void_p.from_address(get(umath._ARRAY_API, None) + 8 * position).value


class Allocator:
    """The handler's machine code. new: address; kept(): bytes of free blocks; forget(): give them back to the system."""

    def __init__(self):
        from . import engine

        python, library = ctypes.pythonapi, ctypes.CDLL(None)
        imports = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in LIBC}
        imports["Py_DecRef"] = ctypes.cast(python.Py_DecRef, ctypes.c_void_p).value
        imports |= {"set_handler": numpy_api(SET_HANDLER), "new_from_descr": numpy_api(NEW_FROM_DESCR)}
        granule = 1 << 16
        text = TEXT.format(
            zeros=r"\00" * (127 - len("tapejit")), huge=HUGE, huge_page=1 << 21, huge_page_mask=(1 << 21) - 1,
            protection=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            advice=getattr(mmap, "MADV_HUGEPAGE", mmap.MADV_NORMAL), slack=granule - 1 + 4096, granule_mask=-granule,
            kept_bytes=KEPT_BYTES, kept_blocks=KEPT_BLOCKS,
        )  # fmt: skip
        code = engine.Code(engine.Image(text), EXPORTS, imports)
        make = python.PyCapsule_New
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        name = b"mem_handler"
        self.capsule = make(code.addresses["handler"], name, None)
        ctypes.CFUNCTYPE(None, ctypes.py_object)(code.addresses["adopt"])(self.capsule)
        self.set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(imports["set_handler"])
        self.new = code.addresses["new"]
        self.kept = ctypes.CFUNCTYPE(ctypes.c_int64)(code.addresses["kept"])
        self.forget = ctypes.CFUNCTYPE(None)(code.addresses["forget"])
        for kept in (code, name, self.capsule):  # until the process is gone: arrays may outlive this module
            engine.immortal(kept)


_lock = threading.Lock()


@lru_cache(maxsize=1)
def _allocator():
    try:
        return Allocator()
    except (OSError, TypeError, AttributeError):  # no POSIX memory calls, or another NumPy
        return None


def allocator() -> Allocator | None:
    """Made when first needed; None where the platform is not known."""
    with _lock:
        return _allocator()


def creator() -> int | None:
    """The address of `new`."""
    ours = allocator()
    return ours and ours.new


def empty(shape, dtype) -> np.ndarray:
    """np.empty, in a block that was used before if there is one."""
    ours = allocator()
    if ours is None:
        return np.empty(shape, dtype)
    before = ours.set_handler(ours.capsule)
    try:
        return np.empty(shape, dtype)
    finally:
        ours.set_handler(before)
