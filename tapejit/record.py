"""Recording: every operation on Arrays goes through `apply`, which computes it and, if something records, appends it.

Records form levels. Each transform (grad, jit, vmap, ...) that records a function opens a `Record` one level deeper than
what is open; GradientTapes share the thread's level 0 (`tape.py`). An operation belongs to the deepest level among its
operands: an operand from further out becomes an explicit capture of the deeper record. So a nested transform never
confuses its own perturbation with an outer one, and what does not touch a record is not recorded at all.

In: op records, Arrays / ndarrays / NumPy scalars. Out: Arrays. State is per thread; a record is closed when its function
returns or raises, and an Array that outlives it says so when it is used.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import attrgetter

import numpy as np

from tapejit.ir.build import Builder
from tapejit.ir.evaluate import GuardFailed
from tapejit.ir.graph import EMPTY, Constant, Graph, Node, Value
from tapejit.ir.knobs import INTERP
from tapejit.ir.location import resolve
from tapejit.ir.op import TABLE
from tapejit.ir.ops.guard import guards_of
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.types import NAMES, tensor, type_of

from . import follow
from .array import Array, is_a, make
from .errors import ConcretizationError, DTypeError, GuardError, LeakedArrayError, PositionError, located, user_location

GUARD, WHILE = TABLE["guard"], TABLE["while"]
COMPILED = 2000  # operations in all iterations of a loop, from which on it is computed by compiled code
MOST_COMPILED = 64
BASE = attrgetter("base")
_compiled: OrderedDict = OrderedDict()  # (operation, attributes, regions) -> its Executable, its guards
_compiling = threading.Lock()


# Operations whose results NumPy makes as views, if their memory is the operand's.
_VIEWING = frozenset([TABLE[name] for name in ("reshape", "transpose", "broadcast", "slice", "flip")])


class Root:
    """What is known of an Array that others are views of, or that was written to: how often. home: the record it was
    made in, for one that holds no recorded value."""

    __slots__ = ("writes", "home")

    def __init__(self, home=None):
        self.writes, self.home = 0, home

    def stale(self) -> bool:
        return False


class Reading(Root):
    """Of what a Variable was read as, which is not to be written to: it stands for the Variable."""

    __slots__ = ()


class View:
    """How an Array is a view: `op` with `attrs` of the Array `parent`, in the end of `root`; `seen`: of root's writes."""

    __slots__ = ("parent", "root", "op", "attrs", "seen")

    def __init__(self, parent, op, attrs):
        alias = parent._alias
        self.parent, self.op, self.attrs = parent, op, attrs
        self.root = alias.root if type(alias) is View else parent
        if self.root._alias is None:
            self.root._alias = Root()
        self.seen = self.root._alias.writes

    def stale(self) -> bool:
        return self.seen != self.root._alias.writes


def refresh(x) -> None:
    """Make a stale view anew from what it is a view of, as it is now."""
    stale = []
    while type(x._alias) is View and x._alias.stale():
        stale.append(x)
        x = x._alias.parent
    for view in reversed(stale):
        alias = view._alias
        (fresh,) = apply(alias.op, (alias.parent,), alias.attrs)
        rebind(view, fresh)
        alias.seen = alias.root._alias.writes


def rebind(array, other) -> None:
    """Have an Array stand for what another one holds; records keep what it stood for."""
    own, before = array._record, make(array._data, array._record, array._value)
    if own is None:
        key = capture_key(array)
        for record in [r for r in (state.base, *state.records) if r is not None]:
            found = record.captures.get(key)
            if found is not None and found[0] is array:
                record.captures[key] = (before, found[1])
    elif own.arrays is not None and own.arrays.get(array._value) is array:
        own.arrays[array._value] = before
    array._data, array._record, array._value = other._data, other._record, other._value


class State(threading.local):
    """Per thread: open records and active tapes (outermost first), and the tapes' level-0 record while there are any; the
    iterations that a while_loop which is recorded now makes room for at least."""

    def __init__(self):
        self.records = []
        self.tapes = []
        self.base = None
        self.room = 8


state = State()

open_records = np.zeros(1, np.int64)  # in all threads; machine code looks here whether calls may skip Python
_counting = threading.Lock()


def count_open(change: int) -> None:
    """Say that a record (of a function, or the tapes' of a thread) was opened (+1) or closed (-1)."""
    with _counting:
        open_records[0] += change


class Record:
    """The record of one function call, one level: parameters, nodes in order, captured outer values."""

    __slots__ = (
        "depth", "name", "params", "nodes", "captures", "closed", "constants", "arrays", "readings",
        "follower", "loops", "pending", "numbers", "folded", "begun", "search_at", "nested",
    )  # fmt: skip

    def __init__(self, depth, name):
        self.depth, self.name, self.closed = depth, name, False
        self.params, self.nodes = [], []
        self.captures = {}  # id of an outer object -> (the object, its parameter Value)
        self.constants = {}
        self.readings = {}  # id of a Variable -> (the Variable, the Arrays it was read as, one per assignment between)
        self.nested = False  # whether it holds what inner records were made into
        self.arrays = None  # Value -> what was read as it, kept from when a tape begins inside this record
        # Loops that are folded while they are recorded, see follow.py.
        self.follower = None  # of the loop that is recorded now
        self.loops = []  # Followers that have ended
        self.pending = {}  # values that are rows of scans, but have no node yet -> (Follower, which)
        self.numbers = self.folded = 0  # given out; nodes up to the last scan
        self.begun, self.search_at = None, follow.FIRST if depth else sys.maxsize

    def param(self, data, name=None, weak=False) -> Array:
        """A new parameter, standing at this call for `data`."""
        value = Value(type_of(data), None, len(self.params), name)
        self.params.append(value)
        return make(data, self, value, weak)

    def lookup(self, x) -> Value:
        """The value of an operand in this record; what comes from outside is captured."""
        if isinstance(x, Array):
            if x._alias is not None and x._alias.stale():
                refresh(x)
            if x._record is self:
                return self.value(x)
            data = x._data
            if x._record is None:
                if is_a(data, np.generic):
                    return self.constant(data)  # a scalar of plain data cannot change, unlike a 0-d array
            elif x._record.closed:
                raise x._record.leaked(x)
        elif is_a(x, np.ndarray):
            data = x
        else:
            return self.constant(x)
        key = capture_key(x)
        found = self.captures.get(key)
        if found is None:
            found = self.captures[key] = (x, Value(type_of(data)))
        return found[1]

    def value(self, array) -> Value:
        """The value of an Array of this record."""
        value = array._value
        if type(value) is not int:
            return value
        if self.follower is not None and value >= self.follower.base:
            self.follower.leave()
        loop = self.loops[bisect_right(self.loops, value, key=BASE) - 1]
        return loop.value_at(value - loop.base)

    def made(self, value):
        """(operation, attributes, operands) that a value is the only result of, or None."""
        if type(value) is int:
            return self.follower.making(value) if self.follower is not None else None
        node = value.node if type(value) is Value else None
        return (node.op, node.attrs, node.operands) if node and len(node.results) == 1 and not node.regions else None

    def makes(self, value) -> bool:
        """Whether a value is computed in this record."""
        return value.node is not None or value in self.pending

    def follow_no_more(self):
        """Make nodes of all that is recorded from now on."""
        if self.follower is not None:
            self.follower.leave()
        self.search_at = sys.maxsize

    def capture(self, array) -> Array:
        """An ndarray from outside as an Array of this record, read anew at each call."""
        return make(array, self, self.lookup(array))

    def captured(self, x):
        """The parameter that stands for an outer object, or None if this record did not read it."""
        found = self.captures.get(capture_key(x))
        return found[1] if found else None

    def constant(self, x) -> Constant:
        key = (type(x), x.tobytes())
        made = self.constants.get(key)
        if made is None:
            made = self.constants[key] = Constant(tensor(x.dtype), x.item())
        return made

    def append(self, op, operands, attrs, outs, regions=(), at=None):
        """Append a node; the Arrays of its results, whose concrete values are `outs`."""
        if self.closed:
            raise self.leaked(next(o for o in operands if isinstance(o, Array) and o._record is self))
        if at is not None:
            self.nested = True
        if self.follower is not None:
            number = None if regions else self.follower.step(op, operands, attrs)
            if number is not None:
                return [make(outs[0], self, number)]
        values = tuple([
            o._value if type(o) is Array and o._record is self and type(o._value) is not int else self.lookup(o)
            for o in operands
        ])
        if self.arrays is not None:
            for value, o in zip(values, operands):
                if isinstance(o, Array) and o._record is not None:
                    self.arrays[value] = o
                elif type(value) is not Constant and value not in self.arrays:  # may be written to before the gradient
                    self.arrays[value] = make(np.array(o._data if isinstance(o, Array) else o))
        loc, tag = (user_location(), "") if at is None else (at.loc, at.tag)
        node = Node(op, values, attrs, [tensor(out.dtype, out.shape) for out in outs], regions, loc, tag)
        self.nodes.append(node)
        if len(self.nodes) >= self.search_at:
            follow.search(self)
        if len(outs) == 1:
            return [make(outs[0], self, node.results[0])]
        return [make(out, self, value) for out, value in zip(outs, node.results)]

    def guard(self, array, seen, at=None, **more):
        """Record that `array` was read as the Python value `seen`. axis: it says whether positions lie within that length."""
        if self.closed:
            raise self.leaked(array)
        if self.follower is not None:
            self.follower.leave()
        loc, tag, attrs = (at.loc, at.tag, at.attrs) if at is not None else (user_location(), "", {"seen": seen, **more})
        self.nodes.append(Node(GUARD, (self.lookup(array),), attrs, (), (), loc, tag))

    def guard_bool(self, array, seen):
        if array._data.dtype != np.bool_:
            array = apply(TABLE["ne"], (array, array._data.dtype.type(0)))[0]
        self.guard(reshape_scalar(array), seen)
        return seen

    def guard_int(self, array, seen):
        if array._data.dtype != np.int64:
            array = apply(TABLE["convert"], (array,), {"dtype": np.dtype(np.int64)})[0]
        self.guard(reshape_scalar(array), seen)
        return seen

    def concretize(self, array, how, instead):
        if self.closed:
            raise self.leaked(array)
        raise located(
            ConcretizationError,
            f"{how} of a value that {self.name} is recording: the result could not follow the inputs",
            instead,
        )

    def leaked(self, array):
        return located(
            LeakedArrayError,
            f"this Array ({array._data.dtype}{list(array._data.shape)}) was recorded by {self.name}, which has "
            "returned: it leaked out of its record",
            f"return it from {self.name} (has_aux=True for values beside the result) instead of storing it",
        )

    def finish(self, results) -> tuple[Graph, list]:
        """Close; the graph (parameters: own ones, then captures) and the captured objects."""
        values = [self.lookup(r) for r in results]
        self.closed, nodes = True, follow.settle(self, values)
        used = {o for node in nodes for o in node.operands}
        used.update(values)
        captured = [(x, value) for x, value in self.captures.values() if value in used]
        params = [*self.params, *[value for _, value in captured]]
        for i, p in enumerate(params):
            p.index = i
        return Graph(self.name, params, nodes, values), [x for x, _ in captured]


def capture_key(x) -> int:
    """Identity of a captured object: an eager Array and the ndarray it wraps are one."""
    return id(x._data) if type(x) is Array and x._record is None else id(x)


def reshape_scalar(array):
    """A one-element Array as a scalar: what bool() and int() read."""
    if array._data.ndim:
        return apply(TABLE["reshape"], (array,), {"shape": ()})[0]
    return array


class recording:
    """Context manager: a new Record, one level deeper, closed on the way out whatever happens."""

    def __init__(self, name):
        self.name = name

    def __enter__(self) -> Record:
        records = state.records
        self.record = Record(records[-1].depth + 1 if records else 1, self.name)
        records.append(self.record)
        count_open(1)
        return self.record

    def __exit__(self, *exc):
        state.records.pop()
        count_open(-1)
        self.record.closed = True


def is_recording() -> bool:
    """Whether anything records in this thread: a function or a tape."""
    return bool(state.records) or state.base is not None


def run_region(op, datas, attrs, regions):
    """Compute an operation with regions: by compiled code, but for what is little work, and the user's own derivatives."""
    loop = op.name == "while" or attrs.get("length", 0) * sum([len(r) for r in regions]) >= COMPILED
    if not loop or INTERP.value:
        try:
            return op.evaluate(*datas, regions=regions, **attrs)
        except GuardFailed as miss:
            raise lanes_differ(miss.node, miss.observed) from None
    code, guards = _code_of(op, datas, attrs, regions)
    outs = code.run([np.asarray(x, order="C") for x in datas])
    if type(outs) is not list:
        raise lanes_differ(guards[outs.index], outs.observed)
    return [r[()] if r.ndim == 0 else r for r in outs]


def _code_of(op, datas, attrs, regions):
    """(the Executable of an operation with regions, the guards inside)."""
    from tapejit.codegen import compile_graph

    key = (op.name, *attrs.items(), *[r.digest for r in regions])
    with _compiling:
        found = _compiled.pop(key, None)
        if found is None:
            b = Builder(op.name)
            params = [b.param(type_of(np.asarray(x))) for x in datas]
            graph = optimize(b.finish(b.apply(op, params, attrs, regions)))
            found = compile_graph(graph, op.name), guards_of(graph)
        _compiled[key] = found
        while len(_compiled) > MOST_COMPILED:
            _compiled.popitem(last=False)
    return found


def roomy(attrs, count) -> dict:
    """The attributes of a `while` that ran so many times: with room for them."""
    room = attrs["capacity"]
    while room < count:
        room *= 2
    return attrs if room == attrs["capacity"] else {**attrs, "capacity": room}


def apply(op, operands, attrs=EMPTY, regions=(), at=None):
    """Compute an operation on Arrays, ndarrays and NumPy scalars, and record it at the deepest level among them.

    Operands must have the dtypes that the operation takes (`promote.py` sees to that). Returns a list of Arrays.
    `at`: the node that this one repeats, for its location.
    """
    record, datas = None, []
    for o in operands:
        if isinstance(o, Array):
            if o._alias is not None and o._alias.stale():
                refresh(o)
            datas.append(o._data)
            r = o._record
            if r is not record and r is not None and (record is None or r.depth > record.depth):
                record = r
        else:
            datas.append(o)
    if record is None or record.depth == 0:
        record = _shallow(record, operands)
    if op is GUARD:
        return guard_again(datas[0], operands[0], record, at)
    if regions:
        outs = run_region(op, datas, attrs, regions)
        attrs = roomy(attrs, outs[-1]) if op is WHILE else attrs
    else:
        outs = op.evaluate(*datas, **attrs) if attrs else op.evaluate(*datas)
    results = [make(out) for out in outs] if record is None else record.append(op, operands, attrs, outs, regions, at)
    if op in _VIEWING and isinstance(operands[0], Array) and np.may_share_memory(outs[0], datas[0]):
        results[0]._alias = View(operands[0], op, attrs)
    return results


def _shallow(record, operands):
    """The record for an operation none of whose operands belongs to a function's record.

    Inside a function, Arrays from outside (a Variable, an Array it closes over) are read at each call: what is computed
    from them belongs to the outermost function; what from Arrays that the innermost made itself (zeros, ones) to that.
    Otherwise it belongs to the tapes, if one of its operands does.
    """
    if record is not None and record is state.base:
        return record
    arrays = [o for o in operands if isinstance(o, Array)] if state.records else ()
    if any([type(o._alias) is Root and o._alias.home is state.records[-1] for o in arrays]):
        return state.records[-1]
    if arrays:
        return state.records[0]
    return None


def lanes_differ(guard, observed):
    """The error for a guard of a mapped function, or of a loop's body, that one of its lanes or iterations does not pass."""
    if "axis" in guard.attrs:
        what = f"a position is out of bounds for an axis of {guard.attrs['axis']} elements"
        return located(PositionError, what, "np.take(x, i, axis, mode='clip') or 'wrap'", where=resolve(guard.loc))
    error = located(
        GuardError,
        f"control flow depends on a value that differs between lanes (recorded {guard.attrs['seen']!r}, another lane has "
        f"{observed!r})",
        "np.where(condition, a, b) in place of `if` on a mapped value",
        where=resolve(guard.loc),
    )
    error.capacity = guard.attrs.get("capacity", 0)
    return error


def guard_again(data, operand, record, at):
    """Replay of the guard `at` from an inner record: it must hold here too, and is recorded here."""
    if data.item() != at.attrs["seen"]:
        raise lanes_differ(at, data.item())
    if record is not None:
        record.guard(operand, at.attrs["seen"], at)
    return ()


class Replay:
    """Handler for `ir.walk`: applies a graph's nodes to Arrays, so that outer records see plain operations."""

    def constant(self, value):
        return value.dtype.type(value.data)

    def node(self, node, operands):
        return apply(node.op, operands, node.attrs, node.regions, node)


def check_dtype(array, what="this array"):
    """Refuse dtypes that the IR does not have, naming what to write."""
    if array.dtype in NAMES:
        return array
    kind = array.dtype.kind
    if kind == "O":
        instead = "make it numeric: np.asarray(x, dtype=float); for a list of recorded values use np.stack"
    elif kind in "US":
        instead = "strings are static: pass a str, not an array of them"
    elif kind == "V":
        instead = "pass its fields as separate arrays: x['field']"
    elif kind == "c":
        instead = "complex numbers are not supported yet: pass real and imaginary part"
    elif kind in "iub":
        instead = "x.astype(np.int64)"
    else:
        instead = "x.astype(np.float64)"
    raise located(
        DTypeError,
        f"dtype {array.dtype} cannot be recorded ({what}); there are float64, float32, int64, int32 and bool",
        instead,
    )
