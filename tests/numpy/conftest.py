"""The comparison that all tests of the namespace share: ours against NumPy's, in every way it can be called.

`same(name, *args,
    **kwargs)` calls numpy's function on plain arguments, then ours on Arrays, NumPy's on Arrays (dispatch)
and a record of ours replayed by the interpreter. Values, dtypes, shapes and exception types must be NumPy's.
`slopes(function, *xs)` compares the derivative of a record with central differences.
"""

import warnings

import numpy as np
import pytest

import tapejit.numpy as tnp
from tapejit.array import Array
from tapejit.ir.backward import backward
from tapejit.ir.evaluate import evaluate
from tapejit.ir.types import NAMES
from tapejit.record import recording

_BUILTIN = (IndexError, ZeroDivisionError, OverflowError, TypeError, ValueError)


def find(namespace, name):
    for part in name.split("."):
        namespace = getattr(namespace, part)
    return namespace


def wrapped(x, wrap=Array):
    """ndarrays in a nest of lists and tuples as Arrays."""
    if isinstance(x, np.ndarray) and x.dtype in NAMES:
        return wrap(x)
    if isinstance(x, (list, tuple)) and any(isinstance(i, (np.ndarray, list, tuple)) for i in x):
        return type(x)([wrapped(i, wrap) for i in x])
    return x


def outcome(function, args, kwargs):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return function(*args, **kwargs), None
        except Exception as error:
            return None, error


def leaves(x):
    return [i for part in x for i in leaves(part)] if isinstance(x, (tuple, list)) else [x]


def plain(x):
    return x._data if isinstance(x, Array) else x


def check(got, expected, rtol, what):
    got, expected = leaves(got), leaves(expected)
    assert len(got) == len(expected), what
    for g, e in zip(got, expected):
        g, e = plain(g), np.asarray(e)
        assert np.shape(g) == e.shape, f"{what}: shape {np.shape(g)}, NumPy has {e.shape}"
        assert np.asarray(g).dtype == e.dtype, f"{what}: dtype {np.asarray(g).dtype}, NumPy has {e.dtype}"
        tol = max(rtol, 2e-6) if e.dtype == np.float32 and rtol else rtol
        np.testing.assert_allclose(g, e, rtol=tol, atol=tol / 10, err_msg=what)


def check_error(error, expected, what):
    assert error is not None, f"{what}: NumPy raises {expected!r}, we do not"
    wanted = next((k for k in _BUILTIN if isinstance(expected, k)), type(expected))
    assert isinstance(error, wanted), f"{what}: NumPy raises {expected!r}, we {error!r}"


def replay(function, args, kwargs):
    """The results of a record of the call, run by the interpreter on the same arguments."""
    with recording("test") as record:
        params = []

        def param(data):
            params.append(data)
            return record.param(np.array(data))

        out = function(*wrapped(list(args), param), **{k: wrapped(v, param) for k, v in kwargs.items()})
        results = [r for r in leaves(out) if isinstance(r, Array)]
        graph, captures = record.finish(results)
    return evaluate(graph, params + [plain(c) for c in captures]), [plain(r) for r in results]


@pytest.fixture(scope="session")
def same():
    def same(name, *args, rtol=1e-13, dispatch=True, record=True, **kwargs):
        theirs, ours = find(np, name), find(tnp, name)
        what = f"{name}{args!r:.200} {kwargs!r:.100}"
        expected, error = outcome(theirs, args, kwargs)
        calls = [(ours, "called")]
        if dispatch and any(isinstance(x, Array) for x in leaves(wrapped(list(args)))):
            calls.append((theirs, "dispatched"))
        for function, how in calls:
            xs, ks = wrapped(list(args)), {k: wrapped(v) for k, v in kwargs.items()}
            got, raised = outcome(function, xs, ks)
            if error is not None:
                check_error(raised, error, f"{what} {how}")
            else:
                if raised is not None:
                    raise AssertionError(f"{what} {how}: {raised!r}") from raised
                check(got, expected, rtol, f"{what} {how}")
        if record and error is None:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again, eager = replay(ours, args, kwargs)
            for a, b in zip(again, eager):
                np.testing.assert_array_equal(a, b, err_msg=f"{what}: replay")
        return expected

    return same


@pytest.fixture(scope="session")
def slopes():
    def slopes(function, *xs, step=1e-6, rtol=1e-6):
        """Directional derivatives in a random direction of a random projection of the result, both ways."""
        random = np.random.default_rng(0)
        xs = [np.asarray(x, float) for x in xs]
        with recording("test") as record, np.errstate(all="ignore"):
            params = [record.param(x) for x in xs]
            outs = [o for o in leaves(function(*params)) if isinstance(o, Array)]
            graph, captures = record.finish(outs)
        seeds = [random.normal(size=o.shape) for o in outs]
        closed = [plain(c) for c in captures]
        active = [True] * len(xs) + [False] * len(closed)
        grads = evaluate(backward(graph, active), [*xs, *closed, *seeds])[len(outs) :]
        directions = [random.normal(size=x.shape) for x in xs]

        def along(t):
            values = evaluate(graph, [*[x + t * d for x, d in zip(xs, directions)], *closed])
            return sum(np.sum(s * v) for s, v in zip(seeds, values))

        numeric = (along(step) - along(-step)) / (2 * step)
        exact = sum(np.sum(g * d) for g, d in zip(grads, directions))
        assert np.isfinite(exact)
        np.testing.assert_allclose(exact, numeric, rtol=rtol, atol=rtol)
        return grads

    return slopes
