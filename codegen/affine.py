"""Affine index expressions, the language in which kernels address memory.

An expression is a tuple `(constant, ((variable, coefficient), ...))`, terms sorted by variable, no zero
coefficients, so that equal expressions are equal tuples and serve as dictionary keys. A variable >= 0 is a loop of
the kernel's iteration space; a variable < 0 is a run-time index (of a gather). A *map* is a tuple of expressions,
one per axis of a value: where in the value the kernel's body stands.

Movement operations rewrite maps and move no data. Reshape is the only one that may fail: `unravel` splits a linear
offset into coordinates when the terms fall apart cleanly (all but a remainder divisible by the axis length); when a
loop itself must be split for that, it says so with `Split`, and when nothing helps, with `Unfit`.
"""

from __future__ import annotations

ZERO = (0, ())


class Split(Exception):
    """The loop `variable` should become two, the inner one of length `factor`."""

    def __init__(self, variable, factor):
        super().__init__(variable, factor)
        self.variable, self.factor = variable, factor


class Unfit(Exception):
    """The offset has no affine coordinates in the wanted shape."""


def constant(number):
    return (number, ())


def variable(index):
    return (0, ((index, 1),))


def add(a, b):
    if not a[1]:
        return (a[0] + b[0], b[1])
    if not b[1]:
        return (a[0] + b[0], a[1])
    terms = dict(a[1])
    for v, c in b[1]:
        terms[v] = terms.get(v, 0) + c
    return (a[0] + b[0], tuple(sorted([t for t in terms.items() if t[1]])))


def scale(a, factor):
    if factor == 1:
        return a
    if factor == 0:
        return ZERO
    return (a[0] * factor, tuple([(v, c * factor) for v, c in a[1]]))


def shift(a, number):
    return (a[0] + number, a[1])


def coefficient(a, var):
    for v, c in a[1]:
        if v == var:
            return c
    return 0


def substitute(a, replace):
    """Each variable in the dict `replace` becomes the expression it names."""
    out = (a[0], ())
    for v, c in a[1]:
        out = add(out, scale(replace[v], c) if v in replace else (0, ((v, c),)))
    return out


def linear(map, shape):
    """The row-major offset of the coordinates `map` in `shape`."""
    out, stride = ZERO, 1
    for at, n in zip(reversed(map), reversed(shape)):
        if n != 1:
            out = add(out, scale(at, stride))
        stride *= n
    return out


def bounds(a, extent):
    """(least, greatest) value of the terms without the constant; `extent(var)` is the number of its values."""
    low = high = 0
    for v, c in a[1]:
        reach = c * (extent(v) - 1)
        if reach < 0:
            low += reach
        else:
            high += reach
    return low, high


def unravel(offset, shape, extent):
    """Coordinates in `shape` of a linear offset, all affine; raises Split or Unfit."""
    out = []
    for n in reversed(shape[1:]):
        if n == 1:
            out.append(ZERO)
            continue
        rest = tuple([t for t in offset[1] if t[1] % n])
        low, high = bounds((0, rest), extent)
        at = offset[0] % n
        if at + low < 0 or at + high >= n:
            _suggest_split(rest, n, extent)
        quotient = tuple([(v, c // n) for v, c in offset[1] if c % n == 0])
        out.append((at, rest))
        offset = ((offset[0] - at) // n, quotient)
    if shape:
        out.append(offset)
    out.reverse()
    return tuple(out)


def _suggest_split(terms, n, extent):
    for v, c in terms:
        if v >= 0 and 0 < c < n and n % c == 0:
            factor = n // c
            if extent(v) > factor and extent(v) % factor == 0:
                raise Split(v, factor)
    raise Unfit


def show(a, name):
    """Text such as `5*i + j + 1`."""
    parts = [name(v) if c == 1 else f"{c}*{name(v)}" for v, c in a[1]]
    if a[0] or not parts:
        parts.append(str(a[0]))
    return " + ".join(parts)
