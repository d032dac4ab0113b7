"""Where buffers are: instructions that make their addresses, in a function of (inputs, outputs, arena, observed).

In: Buffers that are placed (memory.py). Out: lines of LLVM text, and the names of the addresses.
"""

from __future__ import annotations

from tapejit.ir.types import BOOL, tensor

from .loops import Buffer


def bases_of(kernel) -> str:
    """What a kernel of very many buffers takes."""
    return f"ptr %inputs, ptr %outputs, ptr %arena{', ptr %observed' if kernel.polls else ''}"


def alignment(buffer):
    """What is known of a buffer's address: NumPy's arrays are aligned to the element, ours to the arena's rule."""
    return buffer.type.dtype.itemsize


def place(buffer, name):
    """Instructions that make `name` the buffer's address."""
    kind, where = buffer.place
    if kind in ("arena", "scratch", "observed"):
        return [f"  {name} = getelementptr inbounds i8, ptr %{kind}, i64 {where}"]
    if kind == "constant":
        return [f"  {name} = getelementptr inbounds i8, ptr {where}, i64 0"]
    return [
        f"  {name}.at = getelementptr inbounds ptr, ptr %{kind}s, i64 {where}", f"  {name} = load ptr, ptr {name}.at",
    ]  # fmt: skip


def store_bases(bases):
    """Instructions that make `%bases`: what the addresses in tables are relative to, in the order of `bases`."""
    lines = [f"  %bases = alloca [{len(bases)} x ptr]", "  store ptr %arena, ptr %bases"]
    for (kind, where), k in list(bases.items())[1:]:
        lines += place(Buffer("base", tensor(BOOL), (kind, where)), f"%base{k}")
        lines += [
            f"  %base{k}.slot = getelementptr ptr, ptr %bases, i64 {k}", f"  store ptr %base{k}, ptr %base{k}.slot",
        ]  # fmt: skip
    return lines


def pointer(lines, pointers, buffer):
    """The address of a buffer in the entry; loaded where it is first used, all of whose uses follow."""
    found = pointers.get(buffer)
    if found is None:
        found = pointers[buffer] = f"%p{len(pointers)}"
        lines += place(buffer, found)
    return found
