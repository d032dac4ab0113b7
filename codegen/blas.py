"""Matrix products: which go to BLAS, in what layout, and the LLVM text that calls it.

In: a `dot` node. Out: a `Product` step, or None where generated loops do as well (integers, small products, plain dot
products and outer products, which are memory-bound and fuse). A product is brought to C[m,n] = A[m,k] B[k,n] under loops:
each operand is seen through reshapes, transposes and slices as a strided view of what is in memory (affine.py does
it), free axes that are jointly strided become one, others are looped over like batch axes. A view whose rows or
columns have unit stride is passed with a transposition flag and a leading dimension: nothing is copied. The product of a
matrix with its own transpose is computed as one triangle (syrk) and mirrored.

Until loops are made a product is a body like others: tile.py may run it over some rows at a time (along m, n or k) and lay
its operands out anew. `lowered` then makes the `Call`.

Fortran sees the transposed row-major problem, C' = B' A'. The routines are those of the OpenBLAS in NumPy's wheels, which is
in the process already (64-bit integers); where NumPy was built otherwise, those of scipy.linalg.cython_blas (32-bit
integers), whose import takes 150 ms.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tapejit.ir.graph import Constant
from tapejit.ir.op import get
from tapejit.ir.types import F64, tensor

from . import affine
from .affine import Split
from .loops import Call
from .lower import MOVE, Body, Fold, Force
from .pack import fills_badly

SMALL_PRODUCT = 4096  # m*n*k up to which generated loops beat the call (measured)
SMALL_MATRIX = 65536  # elements of the matrix up to which a generated matrix-vector product does
HUGE_MATRIX = 1 << 24  # bytes from which on it does again: it reads the matrix in one stream, which tile.py can share
LONG_ROW = 64  # elements of a row in memory, for that
SHORT_ROW = (17, 48)  # elements of rows that a generated sum fills vectors badly with; shorter ones are unrolled (unroll.py)
SYMMETRIC = 48  # rows from which on a product with the own transpose takes half the time as one triangle (syrk), mirrored
SEEN_THROUGH = ("reshape", "transpose", "slice")


@dataclass(frozen=True)
class Group:
    """Axes that run as one: their length, and the stride of one step per operand (left, right, result)."""

    length: int
    strides: tuple


class Product(Body):
    """result += left right, a body of no arithmetic: two loads, and a fold over k. The space is (*batch, m, n, k)."""

    WEIGHT = 2  # of one multiplication and addition, which the library does eight at a time

    def __init__(self, groups, buffers, start):
        super().__init__(tuple([g.length for g in groups]), None)
        at = [(o, tuple([(v, g.strides[i]) for v, g in enumerate(groups) if g.strides[i]])) for i, o in enumerate(start)]
        for buffer, where in zip(buffers[:2], at):
            self.load(buffer, where, ())
        result, k = buffers[2], len(groups) - 1
        zero = Constant(tensor(result.type.dtype), result.type.dtype.type(0).item())
        self.effects.append(Fold(result, at[2], get("reduce_sum"), frozenset([k]), zero))
        self.origins.append("dot")
        self.weight = self.WEIGHT


class _Ranges:
    """What an index map asks of a body: the extents of its loops."""

    running = False

    def __init__(self, shape):
        self.extent = shape.__getitem__


def view(value):
    """(value in memory, offset expression with one variable per axis of `value`)."""
    map = tuple([affine.variable(a) for a in range(value.ndim)])
    ranges = _Ranges(value.shape)
    while value.node is not None and value.node.op.name in SEEN_THROUGH:
        x = value.node.operands[0]
        try:
            map, _ = MOVE[value.node.op.name](ranges, x, value.node.attrs, map, ())
        except (Split, Force):
            break
        value = x
    return value, affine.linear(map, value.shape)


def source(value):
    """The value that has to be in memory for a product with `value`."""
    return view(value)[0]


def is_library(node) -> bool:
    """Whether a dot node is left to the library."""
    return _analysed(node) is not None


def product(node, buffer, buffer_of) -> Product | None:
    """The step that computes a dot node into a buffer, or None."""
    found = _analysed(node)
    if found is None:
        return None
    groups, (left, right), start = found
    return Product(groups, [buffer_of(left), buffer_of(right), buffer], (*start, 0))


def _analysed(node):
    """((*batch, m, n, k), (left, right), their offsets), or None where the library is of no use."""
    lhs, rhs = node.operands
    if not lhs.type.is_float or not lhs.type.size or not rhs.type.size:
        return None
    (lc, rc), (lb, rb) = node.attrs["contract"], node.attrs["batch"]
    left, left_at = view(lhs)
    right, right_at = view(rhs)
    lf = [a for a in range(lhs.ndim) if a not in lc and a not in lb]
    rf = [a for a in range(rhs.ndim) if a not in rc and a not in rb]
    out_strides = _strides(node.results[0].shape)

    def axis(n, a, c, at):
        return Group(n, (affine.coefficient(left_at, a), affine.coefficient(right_at, c), at))

    nb, nl = len(lb), len(lf)
    batch = [axis(lhs.shape[a], a, c, out_strides[i]) for i, (a, c) in enumerate(zip(lb, rb))]
    rows = [axis(lhs.shape[a], a, -1, out_strides[nb + i]) for i, a in enumerate(lf)]
    columns = [axis(rhs.shape[c], -1, c, out_strides[nb + nl + i]) for i, c in enumerate(rf)]
    inner = [axis(lhs.shape[a], a, c, 0) for a, c in zip(lc, rc)]
    more, m = _merge(rows)
    batch += more
    more, n = _merge(columns)
    batch += more
    rest, k = _merge(_by_stride(inner))
    if rest or not _pays(m, n, k, lhs.dtype.itemsize) or _routine(m, n, k) is None:
        return None
    return [*[g for g in batch if g.length != 1], m, n, k], (left, right), (left_at[0], right_at[0])


def _strides(shape):
    out, stride = [], 1
    for n in reversed(shape):
        out.append(stride)
        stride *= n
    return out[::-1]


def _by_stride(groups):
    """Contracted axes may be summed in any order: outermost in memory first."""
    return sorted(groups, key=lambda g: (-g.strides[0], -g.strides[1]))


def _merge(groups):
    """(groups that stay loops, the last group with all that run into it merged)."""
    groups = [g for g in groups if g.length != 1]
    if not groups:
        return [], Group(1, (0, 0, 0))
    last = groups.pop()
    while groups and groups[-1].strides == tuple([last.length * s for s in last.strides]):
        last = Group(last.length * groups.pop().length, last.strides)
    return groups, last


def _pays(m, n, k, itemsize) -> bool:
    """Whether the library is faster than loops."""
    if k.length == 1 or (m.length == 1 and n.length == 1):
        return False
    if m.length != 1 and n.length != 1:
        return m.length * n.length * k.length > SMALL_PRODUCT
    matrix, rows = (0, m) if n.length == 1 else (1, n)
    elements = rows.length * k.length
    if elements <= SMALL_MATRIX:
        in_rows = k.strides[matrix] == 1 and SHORT_ROW[0] <= k.length <= SHORT_ROW[1] <= rows.length
        return in_rows and fills_badly(k.length)
    row = k.length if k.strides[matrix] == 1 else rows.length
    return elements * itemsize < HUGE_MATRIX or not LONG_ROW <= row <= elements // LONG_ROW


def _routine(m, n, k):
    """(routine, options), or None where strides are in the way."""
    options = {"m": m.length, "n": n.length, "k": k.length}
    if m.length == 1 or n.length == 1:
        matrix, rows = (0, m) if n.length == 1 else (1, n)
        ld = _layout(rows.strides[matrix], k.strides[matrix], rows.length, k.length)
        if ld is None or not k.strides[1 - matrix]:
            return None
        flag, lead = ld
        options |= {"matrix": matrix, "trans": "T" if flag == "N" else "N", "lda": lead,
                    "incx": k.strides[1 - matrix], "incy": rows.strides[2]}  # fmt: skip
        return "gemv", options
    a = _layout(m.strides[0], k.strides[0], m.length, k.length)
    b = _layout(k.strides[1], n.strides[1], k.length, n.length)
    if a is None or b is None or n.strides[2] != 1:
        return None
    options |= {"transa": a[0], "lda": a[1], "transb": b[0], "ldb": b[1], "ldc": m.strides[2]}
    return "gemm", options


def lowered(product, axis=None, rows=0) -> Call:
    """The call. axis: that runs over the rows of a tile, of at most so many `rows` (tile.py)."""
    (result,) = product.effects
    operands, order = [*product.statements, result], list(range(len(product.space)))
    lengths = [min(n, rows) if v == axis else n for v, n in enumerate(product.space)]
    m, n = order[-3:-1]
    if lengths[m] != 1 != lengths[n] and affine.coefficient(result.at, n) != 1:  # C' = B' A'
        operands[:2], order[-3:-1] = operands[1::-1], (n, m)
    groups = [Group(lengths[v], tuple([affine.coefficient(x.at, v) for x in operands])) for v in order]
    routine, options = _routine(*groups[-3:])
    options["beta"] = int(result.resume)
    if routine == "gemm" and axis is None and not result.resume and _is_symmetric(operands, groups):
        routine, options = "syrk", {key: options[key] for key in ("m", "n", "k", "transa", "lda", "ldc", "beta")}
    tile = None
    if axis is not None:
        at = order.index(axis)
        tile = ("mnk"[at - len(order) + 3], groups[at].strides)
    buffers, start = [x.buffer for x in operands], [x.at[0] for x in operands]
    return Call(routine, result.buffer.type.dtype, options, buffers, start, tuple(groups[:-3]), tile, "dot")


def _is_symmetric(operands, groups) -> bool:
    """Whether it is the product of a matrix with its own transpose."""
    left, right = operands[:2]
    *batch, m, n, k = groups
    same = (left.buffer, left.at[0]) == (right.buffer, right.at[0]) and m.length == n.length >= SYMMETRIC
    return same and m.strides[0] == n.strides[1] and all([g.strides[0] == g.strides[1] for g in (*batch, k)])


def _layout(row_stride, column_stride, rows, columns):
    """("N", row stride) for a row-major matrix, ("T", column stride) for its transpose; None for neither."""
    if column_stride == 1 and row_stride >= columns:
        return "N", row_stride
    if row_stride == 1 and column_stride >= rows:
        return "T", column_stride
    return None


# ---- text ------------------------------------------------------------------------------------------------------------
ARGUMENTS = {"gemm": 13, "gemv": 11, "syrk": 10}


def symbol(step) -> str:
    return f"tapejit.{provider().integer}.{'d' if step.dtype == F64 else 's'}{step.routine}"


def declaration(step) -> str:
    return f"declare void @{symbol(step)}({', '.join(['ptr'] * ARGUMENTS[step.routine])})"


def function(step) -> str:
    """The text of an internal function (ptr left, ptr right, ptr result) from its parameter list on.

    One that runs in tiles takes the first row and the number of rows, too.
    """
    type = "double" if step.dtype == F64 else "float"
    lines, slots, at = [], ["entry:"], [str(s) for s in step.start]
    along, strides = step.tile or ("", ())
    for x, stride in enumerate(strides):
        lines += [f"  %begin.{x} = mul i64 %begin, {stride}", f"  %first.{x} = add i64 {at[x]}, %begin.{x}"]
        at[x] = f"%first.{x}"
    label = "entry"
    closing = []
    for d, loop in enumerate(step.batch):
        lines += [f"  br label %loop{d}", f"loop{d}:",
                  f"  %i{d} = phi i64 [ 0, %{label} ], [ %i{d}.next, %end{d} ]"]  # fmt: skip
        label = f"loop{d}"
        for x in range(3):
            if loop.strides[x]:
                lines += [f"  %s{d}.{x} = mul i64 %i{d}, {loop.strides[x]}",
                          f"  %o{d}.{x} = add i64 {at[x]}, %s{d}.{x}"]  # fmt: skip
                at[x] = f"%o{d}.{x}"
        closing.append([f"  br label %end{d}", f"end{d}:", f"  %i{d}.next = add i64 %i{d}, 1",
                        f"  %d{d} = icmp eq i64 %i{d}.next, {loop.length}",
                        f"  br i1 %d{d}, label %out{d}, label %loop{d}", f"out{d}:"])  # fmt: skip
    where = []
    for x, name in enumerate("abc"):
        lines.append(f"  %{name}.at = getelementptr {type}, ptr %{name}, i64 {at[x]}")
        where.append(f"%{name}.at")

    def ref(type, value):
        name = f"%r{len(slots)}"
        slots.append(f"  {name} = alloca {type}\n  store {type} {value}, ptr {name}")
        return name

    o, integer = step.options, provider().integer
    count = "%count" if integer == "i64" else "%count.short"

    def length(name):
        return ref(integer, count if name == along else o[name])

    one, beta = ref(type, "1.0"), ref(type, f"{o['beta']}.0")
    if step.routine == "gemm":
        args = [ref("i8", ord(o["transb"])), ref("i8", ord(o["transa"])), length("n"), length("m"), length("k"), one,
                where[1], ref(integer, o["ldb"]), where[0], ref(integer, o["lda"]), beta, where[2],
                ref(integer, o["ldc"])]  # fmt: skip
    elif step.routine == "syrk":  # the upper triangle as Fortran sees it is the lower one
        trans = "T" if o["transa"] == "N" else "N"
        args = [ref("i8", ord("U")), ref("i8", ord(trans)), length("n"), length("k"), one, where[0], ref(integer, o["lda"]),
                beta, where[2], ref(integer, o["ldc"])]  # fmt: skip
    else:
        free = length("m" if o["matrix"] == 0 else "n")
        shape = (free, length("k")) if o["trans"] == "N" else (length("k"), free)
        args = [ref("i8", ord(o["trans"])), *shape, one, where[o["matrix"]], ref(integer, o["lda"]),
                where[1 - o["matrix"]], ref(integer, o["incx"]), beta, where[2], ref(integer, o["incy"])]  # fmt: skip
    lines.append(f"  call void @{symbol(step)}({', '.join([f'ptr {a}' for a in args])})")
    if step.routine == "syrk":
        lines += _mirror(type, o["n"], o["ldc"], label)
    for block in reversed(closing):
        lines += block
    head = "(ptr %a, ptr %b, ptr %c) nounwind noinline {"
    if along:
        head = "(ptr %a, ptr %b, ptr %c, i64 %begin, i64 %count) nounwind noinline {"
        slots[1:1] = ["  %count.short = trunc i64 %count to i32"]
    return "\n".join([head, *slots, *lines, "  ret void", "}\n"])


def _mirror(type, n, ld, before) -> list:
    """Copy what is below the diagonal of the row-major matrix at %c.at to above it; `before`: the block it follows."""
    return f"""  br label %mirror
mirror:
  %row = phi i64 [ 1, %{before} ], [ %row.next, %mirrored.row ]
  %row.at = mul i64 %row, {ld}
  br label %mirror.element
mirror.element:
  %column = phi i64 [ 0, %mirror ], [ %column.next, %mirror.element ]
  %below = add i64 %row.at, %column
  %below.at = getelementptr {type}, ptr %c.at, i64 %below
  %element = load {type}, ptr %below.at
  %column.at = mul i64 %column, {ld}
  %above = add i64 %column.at, %row
  %above.at = getelementptr {type}, ptr %c.at, i64 %above
  store {type} %element, ptr %above.at
  %column.next = add i64 %column, 1
  %more.columns = icmp slt i64 %column.next, %row
  br i1 %more.columns, label %mirror.element, label %mirrored.row
mirrored.row:
  %row.next = add i64 %row, 1
  %more.rows = icmp slt i64 %row.next, {n}
  br i1 %more.rows, label %mirror, label %mirrored
mirrored:""".split("\n")


# ---- where the routines are ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Provider:
    """Routines in Fortran's calling convention: the LLVM type of their integers, and `find(name) -> address`."""

    integer: str
    find: Callable[[str], int]


@lru_cache(maxsize=1)
def provider() -> Provider:
    return numpy_provider() or scipy_provider()


def numpy_provider() -> Provider | None:
    """The OpenBLAS that NumPy's wheels bring along, found through NumPy's own extension module."""
    import numpy._core._multiarray_umath as umath

    library = ctypes.CDLL(umath.__file__)
    if not all([hasattr(library, f"scipy_{kind}{name}_64_") for kind in "sd" for name in ARGUMENTS]):
        return None
    return Provider("i64", lambda name: ctypes.cast(getattr(library, f"scipy_{name}_64_"), ctypes.c_void_p).value)


def set_num_threads(n) -> None:
    """Of the OpenBLAS in NumPy's wheels; other libraries have settings of their own."""
    import numpy._core._multiarray_umath as umath

    setter = getattr(ctypes.CDLL(umath.__file__), "scipy_openblas_set_num_threads64_", None)
    if setter is not None:
        setter(ctypes.c_int(n))


def scipy_provider() -> Provider:
    from scipy.linalg import cython_blas

    def find(name):
        capsule = cython_blas.__pyx_capi__[name]
        get_name = ctypes.pythonapi.PyCapsule_GetName
        get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        return get_pointer(capsule, get_name(capsule))

    return Provider("i32", find)


def address(symbol) -> int:
    """The address of the routine with this symbol."""
    return provider().find(symbol.rpartition(".")[2])


def operations(step) -> int:
    return 2 * math.prod([step.options[x] for x in "mnk"]) * math.prod([g.length for g in step.batch])
