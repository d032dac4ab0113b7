"""GradientTape and Variable: TensorFlow's explicit form of differentiation, on the same Graph transforms.

While at least one tape is active the thread has a level-0 record (`TapeRecord`), shared by all active tapes: an operation
that reads a value of it is appended once. A tape is a set of watched values and, per record, the spans of nodes that were
appended while it was active; it holds no values of its own. `gradient` cuts from the target's record the nodes within the
spans that lie between the watched values and the target, makes a Graph of them, and applies the transform
`GradientsOf` to it, as `gradients_function` does. A structure seen before (by content hash) runs as compiled
code; a new one is interpreted once. While other tapes (or an enclosing function record) still record, the gradient Graph
is replayed on the Arrays instead, so that they see it: that is all there is to nesting.

A value that is watched on an inner tape is watched by the enclosing active tapes too, as in the tutorial.
"""

from __future__ import annotations

import contextlib
import warnings

import numpy as np

from .array import Array, make
from .cut import BatchJacobian, Cut, weights_of
from .errors import ArgumentError, ArgumentTypeError, ShapeError, TapeError, located
from .record import count_open, state
from .selection import settle_all
from .transforms import GradientsOf, Jacobian
from .tree import flatten, unflatten
from .variable import TapeRecord, UnconnectedWarning, Variable


class GradientTape:
    """Record operations for differentiation.

    persistent: gradient may be called more than once. watch_accessed_variables: Variables that are read are watched.

    >>> import tapejit
    >>> x = tapejit.Array(3.0)
    >>> with tapejit.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = x * x
    >>> tape.gradient(y, x)
    Array(6.)
    """

    def __init__(self, persistent=False, watch_accessed_variables=True):
        self._persistent, self._watch_accessed = bool(persistent), bool(watch_accessed_variables)
        self._clear()
        self._recording = False

    def _clear(self):
        self._spans = {}  # record -> [[start, end or None], ...]
        self._watched = {}  # Value -> the Array it stands for
        self._variables = {}  # id -> Variable, in order
        self._base = None
        self._used = False

    # ---- recording ----------------------------------------------------------------------------------------------
    def __enter__(self):
        if self._recording:
            raise located(TapeError, "Tape is already recording.", "one `with` at a time for one tape; nest two tapes")
        self._push()
        return self

    def __exit__(self, *exc):
        if self._recording:
            self._pop()

    def _push(self):
        stack = state.tapes
        settle_all()
        if state.base is None:
            state.base = self._base or TapeRecord()
            count_open(1)
        elif self._base is not None and self._base is not state.base:
            raise located(
                TapeError,
                "this tape was recording before, and another tape has begun since: it cannot go on inside that one",
                "enter the tape first and the other inside it, or use a new tape",
            )
        self._base = state.base
        stack.append(self)
        self._recording = True
        for record in [self._base, *state.records]:
            self._span(record)

    def _span(self, record):
        """Begin a span of a record: what is appended to it from now on."""
        if record.arrays is None:
            record.arrays = {}
        record.follow_no_more()
        self._spans.setdefault(record, []).append([len(record.nodes), None])

    def _pop(self):
        stack = state.tapes
        stack.remove(self)
        self._recording = False
        for record, spans in self._spans.items():
            if spans[-1][1] is None:
                spans[-1][1] = len(record.nodes)
        if not stack:
            state.base = None
            count_open(-1)

    def watch(self, tensor):
        """Have the tape follow an Array, a Variable, or a nest of them. An ndarray cannot be watched."""
        leaves, _ = flatten(tensor)
        for x in leaves:
            if not isinstance(x, Array):
                raise located(
                    ArgumentTypeError,
                    f"watch: {type(x).__name__} {x!r:.40} cannot be watched; operations on it cannot be followed",
                    "x = tapejit.Array(x), then watch that and compute with it",
                )
            if x._data.dtype.kind != "f":
                warnings.warn(
                    f"watch: an Array of dtype {x._data.dtype} has no derivative, its gradient will be None; "
                    "make it a float: x = tapejit.Array(x, dtype=float)",
                    UnconnectedWarning,
                    stacklevel=2,
                )
                continue
            if not self._recording:
                raise located(
                    TapeError, "watch outside the tape's `with` block: it records nothing there", "watch inside the `with`"
                )
            if isinstance(x, Variable):
                reading = x.read()
            else:
                reading = x
                if x._record is None or (x._record.depth == 0 and x._record is not self._base):
                    x._record, x._value = self._base, self._base.leaf(make(x._data))
            stack = state.tapes
            for tape in stack[: stack.index(self) + 1]:
                tape._add(x, reading)

    def _add(self, x, reading):
        record = reading._record
        if record not in self._spans:
            self._span(record)
        value = record.value(reading)
        record.arrays[value] = reading
        self._watched[value] = reading
        if isinstance(x, Variable):
            self._variables[id(x)] = x

    @contextlib.contextmanager
    def stop_recording(self):
        """Pause: what runs inside is not recorded by this tape."""
        if not self._recording:
            raise located(TapeError, "stop_recording on a tape that is not recording", "use it inside the tape's `with`")
        self._pop()
        try:
            yield
        finally:
            self._push()

    def reset(self):
        """Forget everything recorded and watched; go on recording if the tape was."""
        recording = self._recording
        if recording:
            self._pop()
        self._clear()
        if recording:
            self._push()

    def watched_variables(self) -> tuple:
        """The Variables watched so far, in order."""
        return tuple(self._variables.values())

    # ---- differentiation ------------------------------------------------------------------------------------------
    def gradient(self, target, sources, output_gradients=None, unconnected_gradients="none"):
        """The gradient of the summed targets with respect to sources, in the structure of sources.

        output_gradients: weights (cotangents), a list matching the targets; entries may be None for ones.
        unconnected_gradients: "none" gives None (and a warning that says why), "zero" gives zeros.
        """
        _check_unconnected(unconnected_gradients)
        self._begin("gradient")
        targets, _ = flatten(target)
        flat, tree = flatten(sources)
        if not targets or any(not isinstance(t, Array) for t in targets):
            kinds = ", ".join(sorted({type(t).__name__ for t in targets})) or "None"
            raise located(
                ArgumentTypeError,
                f"gradient: the target is {kinds}, not an Array that the tape recorded",
                "pass what was computed inside the `with`; did a function forget to return it?",
            )
        if output_gradients is not None:
            output_gradients = flatten_optional(output_gradients)
            if len(output_gradients) != len(targets):
                raise located(
                    ArgumentError,
                    f"gradient: {len(output_gradients)} output_gradients for {len(targets)} targets",
                    "one per target; None for ones",
                )
        cut = Cut(self, targets, flat)
        weights = weights_of(cut.targets, cut.kept, output_gradients)
        grads = [None] * len(cut.sources)
        if cut.kept:
            params = tuple(range(len(cut.sources)))
            known, inputs, live = cut.transformed(GradientsOf(params, dy=True))
            found = iter(cut.run(known, inputs, weights))
            for i, on in enumerate(live):
                if on:
                    grads[i] = next(found)
        grads = [_sum([grads[k] for k in own]) for own in cut.owned]
        grads = [self._missing(g, s, cut, unconnected_gradients) for g, s in zip(grads, flat)]
        return unflatten(tree, grads)

    def jacobian(
        self, target, sources, unconnected_gradients="none", parallel_iterations=None, experimental_use_pfor=True
    ):
        """The Jacobian of one target: shape target.shape + source.shape, in the structure of sources.

        parallel_iterations and experimental_use_pfor are accepted and have no effect: the Jacobian is one batched graph.
        """
        _check_unconnected(unconnected_gradients)
        self._begin("jacobian")
        return self._per_source(target, sources, unconnected_gradients, Jacobian, "jacobian")

    def batch_jacobian(
        self, target, source, unconnected_gradients="none", parallel_iterations=None, experimental_use_pfor=True
    ):
        """Per row of a batch: target [b, ...] by source [b, ...] gives [b, target rest..., source rest...].

        target[i] must depend on source[i] only.
        """
        _check_unconnected(unconnected_gradients)
        if not isinstance(source, Array) or not isinstance(target, Array):
            raise located(ArgumentTypeError, "batch_jacobian takes one Array target and one Array source", "pass Arrays")
        if target.ndim < 2 or source.ndim < 2 or target.shape[0] != source.shape[0]:
            raise located(
                ShapeError,
                f"Need first dimension of target shape ({target.shape}) and source shape ({source.shape}) to match.",
                "both of rank 2 or more, with the batch as the first axis",
            )
        self._begin("batch_jacobian")
        return self._per_source(target, source, unconnected_gradients, BatchJacobian, "batch_jacobian")

    def _per_source(self, target, sources, unconnected, transform, what):
        if not isinstance(target, Array):
            raise located(
                ArgumentTypeError, f"{what}: the target is {type(target).__name__}, not an Array", "pass one Array"
            )
        flat, tree = flatten(sources)
        cut = Cut(self, [target], flat)
        out = []
        for s, own in zip(flat, cut.owned):
            found = []
            for k in own:
                if cut.kept and cut.reaches(k):
                    known, inputs, _ = cut.transformed(transform(k))
                    found += cut.run(known, inputs, [])
            shape = target.shape + s.shape if what == "jacobian" else target.shape + s.shape[1:]
            out.append(self._missing(_sum(found), s, cut, unconnected, shape))
        return unflatten(tree, out)

    def _begin(self, what):
        if self._used and not self._persistent:
            raise located(
                TapeError,
                f"GradientTape.{what} can only be called once on non-persistent tapes.",
                "GradientTape(persistent=True), or take all gradients in one call: tape.gradient(y, [x, z])",
            )
        self._used = True
        if self._recording and not self._persistent:
            self._pop()

    def _missing(self, found, source, cut, unconnected, shape=None):
        """Zeros or None for a source that nothing depends on, with the reason."""
        if found is not None:
            return found
        if unconnected == "zero":
            shape = source.shape if shape is None else shape
            return make(np.zeros(shape, source.dtype if source.dtype.kind == "f" else np.float64))
        warnings.warn(f"gradient is None: {cut.why(source)}", UnconnectedWarning, stacklevel=4)
        return None


def _sum(arrays):
    """The sum of those that are not None, or None."""
    total = None
    for x in arrays:
        if x is not None:
            total = x if total is None else total + x
    return total


def _check_unconnected(value):
    if value not in ("none", "zero"):
        raise located(ArgumentError, f"unconnected_gradients={value!r}", 'unconnected_gradients="none" or "zero"')


def flatten_optional(x):
    """A flat list of cotangents in which None may stand for ones."""
    if x is None or not isinstance(x, (list, tuple)):
        return [x]
    return [item for entry in x for item in flatten_optional(entry)]
