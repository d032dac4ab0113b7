"""`Function`: what the decorators return. One Python function, a stack of transforms, a cache of specializations.

The life of a call: a key is made of the arguments (structure, dtypes, shapes, statics) and of the environment the
function reads. Unknown key: the function is recorded, the transforms are folded over its record, the result is
optimized and compiled, and becomes a `Path`. Known key: the compiled code runs. Where the record holds guards (a Python
`if` on a recorded value), compiled code that sees another value leaves with (guard, value); the paths of one key form a
tree (`paths.py`) that says what to run next, and what it does not know is recorded and joins it. Nothing else ever decides
which code runs.

While something records (a tape, or an enclosing transform) the transformed record is replayed on the outer
Arrays instead, so that the outer record sees plain operations.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import warnings
from collections import OrderedDict, namedtuple

import numpy as np

from tapejit.ir.evaluate import GuardFailed
from tapejit.ir.ops.guard import guards_of, unguarded
from tapejit.ir.passes.pipeline import optimize
from tapejit.ir.walk import walk

from . import native
from .array import Array, is_a, make
from .environment import Environment
from .errors import ArgumentTypeError, GuardError, RandomnessError, TapejitWarning, located
from .into import Target
from .mutation import own
from .paths import FEW, Path, Paths, interpreted
from .promote import cast
from .record import Replay, lanes_differ, open_records, state
from .trace import definition, function_name, leaf_data, trace
from .tree import flatten, map_leaves, unflatten
from .variable import Variable, settled

CacheInfo = namedtuple("CacheInfo", "hits misses paths currsize maxsize")
MAX_KEYS = 256
NATIVE_AFTER = 2  # calls of a path before machine code takes over: a table is made, nothing compiled


_PLAIN = (np.ndarray, float, int)
_INERT = (bool, str, bytes, type(None), np.ufunc)  # statics that read nothing


@contextlib.contextmanager
def unhurried_gc():
    """Have the cyclic collector run rarely inside: a record is many objects that all stay, scanned in vain each time."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 200_000), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Room:
    """The room that while_loops are recorded with, inside a `with`: more at each attempt that says that it ran out of it, as
    where another lane than the one that was recorded takes more iterations."""

    def __enter__(self):
        self.before, self.suffices = state.room, False
        return self

    def __exit__(self, *exc):
        state.room = self.before

    def ran_out(self, capacity):
        """The attempt would have needed more than this capacity; 0: it did not run out."""
        self.suffices = not capacity
        state.room = max(state.room, 4 * capacity)


class Function:
    """A transformed function: calls like the original, returns what the transform says.

    into(out, *args) writes the results into arrays that exist.
    ir(*args, stage=...), explain(*args), draw(path, *args), cache_info(), cache_clear() look inside.
    """

    def __init__(self, fn, transforms):
        if not callable(fn):
            raise located(
                ArgumentTypeError,
                f"{transforms[-1].name} takes a function, got {type(fn).__name__} {fn!r:.60}",
                f"{transforms[-1].name}(f)(x), or @{transforms[-1].name} above a def",
            )
        if isinstance(fn, Function):
            fn, transforms = fn.fn, [*fn.transforms, *transforms]
        self.fn, self.transforms = fn, tuple(transforms)
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = function_name(fn)
        self._environment = None
        self._hashed = []  # arrays whose contents are part of the key; see environment.py
        self._known: OrderedDict = OrderedDict()
        self._lock = threading.RLock()
        self._dispatcher = self._into_dispatcher = None  # of codegen/native.py, once a path is hot
        self._quick = {}  # types, dtypes, shapes of plain positional arguments -> (key, environment, paths)
        self._hits = self._misses = 0

    def __repr__(self):
        stack = self.__name__
        for t in self.transforms:
            stack = f"{t.name}({stack})"
        return f"<tapejit {stack}>"

    def __get__(self, instance, owner=None):
        return self if instance is None else BoundFunction(self, instance)

    # ---- calling ------------------------------------------------------------------------------------------------
    def __call__(self, *args, **kwargs):
        base = state.base
        if base is None and not kwargs and not state.records:
            plain = tuple([(x.dtype, x.shape) if type(x) is np.ndarray else type(x) for x in args])
            known = self._quick.get(plain)
            env = self._environment  # None for a moment while another thread records
            if known is not None and env is not None and known[1] == env.read():
                self._hits += 1
                return self._run(known[0], known[2], args, kwargs, args)
        key, paths, args, kwargs, leaves = self._find(args, kwargs)
        if paths is None:
            return self._replay(args, kwargs, leaves)
        if not kwargs and all([type(x) in _PLAIN for x in args]):
            plain = tuple([(x.dtype, x.shape) if type(x) is np.ndarray else type(x) for x in args])
            if len(self._quick) >= MAX_KEYS:
                self._quick.clear()
            self._quick[plain] = (key, key[2], paths)
        return self._run(key, paths, args, kwargs, leaves)

    def into(self, out, /, *args, **kwargs):
        """The function at these arguments, its results written into the arrays of `out`, which are returned.

        out: structured as the result is, an ndarray of the result's dtype and shape for each array (0-d for a number), or
        None where a new one is wanted. An array may be an argument too, or share memory with one: `f.into(x, x)` replaces
        x by f(x). An array that is not C-contiguous is filled by a copy. If the call raises, what is in `out` is undefined.

        >>> import numpy as np, tapejit
        >>> f, slope = tapejit.value_and_grad(lambda x: np.sum(x ** 2)), np.empty(3)
        >>> f.into((None, slope), np.arange(3.0))[0], slope
        (np.float64(5.0), array([0., 2., 4.]))
        """
        key, paths, args, kwargs, leaves = self._find(args, kwargs)
        if paths is None:
            raise self._is_recorded()
        return self._run(key, paths, args, kwargs, leaves, Target(self.__name__, out))

    def _is_recorded(self):
        return located(
            ArgumentTypeError,
            f"{self.__name__}.into: the call is part of a record (of a tape, or of a transformed function that makes it), and "
            "a record holds values, not places",
            "call the function itself and use what it returns",
        )

    def _find(self, args, kwargs):
        """(key, paths, args, kwargs, leaves); they are None where the call is to be part of an outer record."""
        base = state.base
        if base is not None:
            args, kwargs = map_leaves(settled, (args, kwargs))
        leaves, tree = flatten((args, kwargs))
        if state.records or (base is not None and _reads(base, leaves)):
            return None, None, args, kwargs, leaves
        key = self._key(leaves, tree)
        paths = self._known.get(key)
        if paths is None:
            key, paths = self._first(key, args, kwargs, leaves)
        else:
            self._hits += 1
        if base is not None and paths is not None and _reads(base, paths.sources):
            paths = None
        return key, paths, args, kwargs, leaves

    def _key(self, leaves, tree):
        env = self._environment
        if env is None:
            env = self._environment = Environment(self.fn, self._hashed)
        return (tree, tuple([_signature(x) for x in leaves]), env.read(), _statics(tree, env))

    def _first(self, key, args, kwargs, leaves):
        with self._lock, unhurried_gc():
            self._environment = None  # what it names may have been rebound
            key = self._key(leaves, key[0])
            paths = self._known.get(key)
            if paths is not None:  # another thread recorded it meanwhile
                self._hits += 1
            else:
                self._misses += 1
                program = self._transformed(*self._record_to_keep(args, kwargs))
                if state.base is not None and _reads(state.base, program.captures):
                    return key, None  # it read a Variable as this tape does: nothing to keep for other calls
                key = self._hash_unbound(program, leaves, key)
                paths = self._known[key] = Paths(self.__name__, Path(program), self._held())
                while len(self._known) > MAX_KEYS:
                    self._known.popitem(last=False)
                    self._quick.clear()
        return key, paths

    def _held(self) -> list:
        """What the key tells by identity. Warns if there is more than is looked at."""
        readers = self._environment.readers()
        if any([r.cut for r in readers]):
            warnings.warn(
                f"{self.__name__} reads a large or deep container of Python objects: not all of its items are looked at in "
                "later calls, a change may go unnoticed. Keep numbers in an ndarray, which is read at each call, or pass "
                "them as an argument.",
                TapejitWarning,
                stacklevel=5,
            )
        return [x for r in readers for x in r.held]

    def _hash_unbound(self, program, leaves, key):
        """Have the contents of arrays that NumPy may have read while it was recorded decide the key too."""
        read = {id(a) for a in program.rebound}
        missed = [a for a in self._environment.arrays() if id(a) not in read]
        known = {id(a) for a in self._hashed}
        fresh = [a for a in missed if id(a) not in known]
        if not fresh:
            return key
        self._hashed = self._hashed + fresh
        self._environment = None
        return self._key(leaves, key[0])

    def _run(self, key, paths, args, kwargs, leaves, target=None):
        path, results = paths.start(leaves, target)
        tried = {}
        while type(results) is not list:  # a guard saw another value: follow the tree, or grow it
            tried[path] = results
            path = paths.onward(path, results, tried)
            if path is None:
                path, results = self._grow(paths, args, kwargs, leaves, target)
                if path is None:
                    return results
                break
            results = path.run(path.inputs(leaves), target)
        out = self._wrap(path.program, results, leaves, target)
        form = None if target is None else target.tree
        calls = path.calls[form] = path.calls.get(form, 0) + 1
        path.used = next(paths.clock)
        if tried or (path.soon and path.count > 1):
            with self._lock:
                paths.take(path)
                if path.soon and path.count > 1:
                    path.compile()
                    paths.merge_later()
        if calls >= NATIVE_AFTER and calls & (calls - 1) == 0:  # again where others have taken its place meanwhile
            merged = paths.merged
            self._go_native(path if merged is None or path not in merged.members else merged, key[0], leaves, target)
        if paths.merge_at is not None:
            self._merge(paths, key[0], leaves, target)
        return out

    def _merge(self, paths, tree, leaves, target):
        """Merge paths if it is time, else see to it that Python gets a call when it is."""
        with self._lock, unhurried_gc():
            first = paths.merge() if paths.merge_at is not None and paths.merge_at <= paths.count else None
            if first is not None:
                self._go_native(first, tree, leaves, target)
            wait = [] if paths.merge_at is None else [max(paths.merge_at - paths.count, 1)]
            for spec in [s for d in (self._dispatcher, self._into_dispatcher) if d is not None for s in d.specs]:
                if any([spec.counts(path.hits) for path in paths]):
                    spec.serve(*wait)

    def _go_native(self, path, tree, leaves, target):
        """Have machine code answer calls like this one from now on, where it can; see codegen/native.py."""
        with self._lock:
            env = self._environment
            if env is None:
                return
            entry = native.entry(path, tree, leaves, [env, *[env.static(x) for x in _readers(tree)]], target)
            if entry is None:
                return
            if type(self) is Function:  # `__call__` is looked up on the class: each function that goes native has its own
                self.__class__ = type("Function", (Function,), {})
            if target is None:
                dispatcher = self._dispatcher = self._dispatcher or self._serve("__call__")
            else:
                dispatcher = self._into_dispatcher = self._into_dispatcher or self._serve("into")
            dispatcher.add(entry)

    def _serve(self, method):
        """A Dispatcher of codegen/native.py in place of a method."""
        from tapejit.codegen.native import Dispatcher

        dispatcher = Dispatcher(functools.partial(getattr(Function, method), self), open_records)
        setattr(type(self), method, dispatcher.builtin)
        return dispatcher

    def _grow(self, paths, args, kwargs, leaves, target):
        """(path, results) for arguments that take a path of their own, which joins the tree; (None, what to return) where
        the call became part of a tape's record."""
        with self._lock, unhurried_gc():
            self._misses += 1
            with Room() as room:
                while not room.suffices:
                    program, contexts = self._record_to_keep(args, kwargs)
                    if state.base is not None and _reads(state.base, program.captures):
                        if target is not None:
                            raise self._is_recorded()
                        return None, self._replay(args, kwargs, leaves)
                    path, fresh = self._run_more_often(paths, program, contexts), False
                    if path is None:
                        program = self._transformed(program, contexts)
                        near, known, guard = paths.nearest(program)
                        path = near if known else Path(program, soon=len(paths) >= FEW)
                        fresh = not known and guard is not None
                    inputs = path.inputs(leaves)
                    results = path.run(inputs, target)
                    left = None if type(results) is list else guards_of(path.graph)[results.index]
                    room.ran_out(0 if left is None or path.program.trips else left.attrs.get("capacity", 0))
            if type(results) is not list:
                results = evaluate_recorded(path.program, inputs, any([t.lanes for t in self.transforms]))
            elif fresh:
                self._drop(paths.add(path, near, guard))
        return path, results

    def _run_more_often(self, paths, program, contexts):
        """The path for a record that is another one's, its loops run more or less often; None if there is none."""
        if any([t.lanes for t in self.transforms]):
            return None  # one of many was recorded, and the others did not run as often
        path, run = paths.run_as(program)
        if path is not None:
            if not path.program.trips.add(run):
                return path
            found, members = path.program.opened(path.program.trips), [path]
        else:
            found, members = paths.opened(program)
            if found is None:
                return None
        path = Path(self._transformed(found, contexts))
        self._drop(paths.replace(members, path))
        return path

    def _drop(self, paths):
        """Have machine code forget paths."""
        for path in paths:
            for dispatcher in (self._dispatcher, self._into_dispatcher):
                if dispatcher is not None:
                    dispatcher.drop(path.hits)

    def _wrap(self, program, results, leaves, target):
        if any([isinstance(x, Array) for x in leaves]):
            out = [make(r) for r in results]
        else:
            out = [r[()] if r.ndim == 0 else r for r in results]
        if target is not None:
            out = target.fill(program, results, out)
        return out[0] if program.out_tree.kind == "leaf" else unflatten(program.out_tree, out)

    # ---- recording ----------------------------------------------------------------------------------------------
    def program(self, args, kwargs):
        """Record the function at these arguments and fold the transforms over the record."""
        return self._transformed(*self._record(args, kwargs))

    def _record(self, args, kwargs):
        """(the Program as recorded, what the transforms noted of the arguments)."""
        contexts = []
        for t in reversed(self.transforms):
            args, kwargs, context = t.enter(args, kwargs)
            contexts.append(context)
        return trace(self.fn, args, kwargs)[0], contexts

    def _transformed(self, program, contexts):
        for t, context in zip(self.transforms, reversed(contexts)):
            graph = optimize(program.graph, differentiate_later=True)
            program = t.apply(program.replace(graph, connected=program.connected), context)
        return program

    def _record_to_keep(self, args, kwargs):
        """A record for later calls too; an error if the function drew random numbers, which they would repeat."""
        env = self._environment or Environment(self.fn, self._hashed)
        before = env.randomness()
        found = self._record(args, kwargs)
        if env.drew(before):
            raise located(
                RandomnessError,
                f"{self.__name__} drew random numbers while it was recorded: compiled, it would repeat them at each call",
                "draw them outside and pass them as an argument: f(x, rng.standard_normal(n)); or draw from a generator that "
                "the function itself seeds",
                where=definition(self.fn),
            )
        return found

    def _replay(self, args, kwargs, leaves):
        """Record one level deeper, then apply the transformed record to the outer Arrays."""
        data = [x if isinstance(x, Array) else leaf_data(x)[0] for x in leaves]
        with Room() as room:
            while not room.suffices:
                program = self.program(args, kwargs)
                inputs = [cast(x, p.dtype) for x, p in zip(data, program.graph.params)]
                inputs += [settled(x) if isinstance(x, Array) else make(x) for x in program.captures]
                try:
                    results = walk(program.graph, Replay(), inputs)
                    room.ran_out(0)
                except GuardError as error:
                    if not error.capacity:
                        raise
                    room.ran_out(error.capacity)
        out = [own(x, inputs) if isinstance(x, Array) else make(x) for x in results]
        if not any([isinstance(x, Array) for x in leaves]) and not any([x._record for x in out]):
            out = [x._data[()] for x in out]
        return unflatten(program.out_tree, out)

    # ---- looking inside -----------------------------------------------------------------------------------------
    def ir(self, *args, stage="optimized", color=False, **kwargs) -> str:
        """The program at these arguments, as text.

        stage: "recorded" (what the function did), "gradient" (after the transforms), "optimized", "kernels" (fused
        loops), "llvm", "asm".
        """
        from .show import program_text

        return program_text(self, args, kwargs, stage, color)

    def explain(self, *args, **kwargs) -> str:
        """What is compiled for these arguments: kernels, loops, bytes, flops, times, paths, cache state."""
        from .show import explain

        return explain(self, args, kwargs)

    def draw(self, path, *args, stage="optimized", **kwargs):
        """Draw the program's graph into an image file (png, svg, pdf)."""
        from .show import draw

        return draw(self, path, args, kwargs, stage)

    def cache_info(self) -> CacheInfo:
        """(hits, misses, paths, currsize, maxsize)."""
        count = sum([len(r) for r in self._known.values()])
        served = sum([d.hits for d in (self._dispatcher, self._into_dispatcher) if d is not None])
        return CacheInfo(self._hits + served, self._misses, count, len(self._known), MAX_KEYS)

    def cache_clear(self) -> None:
        """Forget all records and free their machine code."""
        with self._lock:
            self._known.clear()
            self._quick.clear()
            for dispatcher in (self._dispatcher, self._into_dispatcher):
                if dispatcher is not None:
                    dispatcher.clear()
            self._environment, self._hashed = None, []
            self._hits = self._misses = 0

    def lookup(self, *args, **kwargs):
        """The Paths of these arguments' key, or None."""
        leaves, tree = flatten((args, kwargs))
        return self._known.get(self._key(leaves, tree))


class BoundFunction(functools.partial):
    """A Function as a method of an instance, which is its first argument."""

    def into(self, out, /, *args, **kwargs):
        return self.func.into(out, *self.args, *args, **kwargs)

    def ir(self, *args, **kwargs) -> str:
        return self.func.ir(*self.args, *args, **kwargs)

    def explain(self, *args, **kwargs) -> str:
        return self.func.explain(*self.args, *args, **kwargs)

    def draw(self, path, *args, **kwargs):
        return self.func.draw(path, *self.args, *args, **kwargs)


def _signature(x):
    """What of an argument leaf decides the record: dtype, shape, and whether it is a scalar, NumPy's or Python's."""
    if type(x) is np.ndarray:
        return (x.dtype, x.shape)
    if isinstance(x, Array):
        return (x._data.dtype, x._data.shape, x._weak)
    if is_a(x, np.generic):
        return (x.dtype, np.generic)
    return (x.dtype, x.shape) if is_a(x, np.ndarray) else type(x)


def _statics(tree, env):
    """Fingerprints of what static arguments may read: attributes of instances (`self` of a method), cells of functions."""
    return tuple([env.static(x).read() for x in _readers(tree)])


def _readers(tree):
    """The static arguments, and classes of arguments, that may read something."""
    if tree.kind == "static":
        return [] if isinstance(tree.data[1], _INERT) else [tree.data[1]]
    out = []
    if tree.kind in ("namedtuple", "dataclass"):
        out.append(tree.data if tree.kind == "namedtuple" else tree.data[0])
    for c in tree.children:
        if c.kind != "leaf":
            out += _readers(c)
    return out


def _reads(base, objects) -> bool:
    """Whether one of these is an Array that the tapes' record holds, or a Variable, which it would hold if it was read."""
    return any([isinstance(x, Array) and (x._record is base or isinstance(x, Variable)) for x in objects])


def evaluate_recorded(program, inputs, lanes):
    """The program on NumPy, where compiled code leaves the very path that was recorded at these inputs.

    Right at a threshold NumPy and compiled code may differ in the last bit: the recorded run decides. Of a mapped function
    one lane was recorded (`lanes`), and another may have seen another value: a GuardError.
    """
    graph = program.graph
    if lanes:
        try:
            return interpreted(graph, inputs)
        except GuardFailed as miss:
            raise lanes_differ(miss.node, miss.observed) from None
    return interpreted(unguarded(graph), inputs)
