"""Random programs for the tests of the IR: all kinds of operations, odd constants, guards, regions, both floats."""

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from tapejit.ir.build import Builder
from tapejit.ir.graph import Graph
from tapejit.ir.op import get
from tapejit.ir.types import BOOL, F32, F64, I32, I64, tensor

NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan, -math.nan)
SHAPES = ((), (3,), (2, 3), (1, 3), (2, 1))
UNARY = ("sin", "cos", "exp", "tanh", "neg", "abs", "sqrt", "floor", "stop_gradient")
BINARY = ("add", "sub", "mul", "div", "maximum", "pow")


class Programs:
    """Draws random graphs."""

    def __init__(self, draw):
        self.draw = draw

    def pick(self, items):
        return self.draw(st.sampled_from(list(items)))

    def graph(self, size=12, simplify=True, regions=True) -> Graph:
        b = Builder(self.pick(["f", "<lambda>", "a.b", "it's"]), simplify=simplify)
        for _ in range(self.draw(st.integers(1, 3))):
            b.param(tensor(self.pick([F64, F64, F32]), self.pick(SHAPES)), self.pick([None, "x", "x", "p['w'][0]"]))
        b.param(tensor(self.pick([I64, I32])), "n")
        values = list(b.params)
        for i in range(self.draw(st.integers(1, size))):
            b.loc = self.pick([None, (__file__, 7), (Programs.graph.__code__, 2 * i)])
            b.tag = self.pick(["", "", "vjp", "jvp.vjp"])
            values += self.step(b, values, regions)
        return b.finish(values[-self.draw(st.integers(0, 3)) :])

    def step(self, b, values, regions):
        floats = [v for v in values if v.type.is_float]
        x = self.pick(floats)
        kind = self.draw(st.integers(0, 9 if regions else 8))
        if kind <= 1:
            return [getattr(b, self.pick(UNARY))(x)]
        if kind <= 4:
            y = self.pick([v for v in floats if v.dtype == x.dtype and _fit(v, x)] + [self.pick(NUMBERS)])
            pair = [x, y] if self.draw(st.booleans()) else [y, x]
            return [getattr(b, self.pick(BINARY))(*pair)]
        if kind == 5:
            c = b.lt(x, self.pick(NUMBERS))
            return [c, b.select(c, x, self.pick(NUMBERS))]
        if kind == 6:
            return [b.convert(x, dtype=self.pick([F32, F64, I64, BOOL])), b.broadcast_to(x, (4, *x.shape))]
        if kind == 7:
            n = self.pick([v for v in values if v.dtype.kind == "i" and not v.shape])
            one = b.constant(self.draw(st.integers(-3, 3)), n.dtype)
            b.guard(b.gt(n, one), seen=True)
            b.guard(n, seen=3)
            return [b.add(n, one)]
        if kind == 8 and x.ndim:
            y = b.reduce_sum(x, axes=tuple(range(self.draw(st.integers(0, x.ndim)))))
            z = b.transpose(x, perm=tuple(reversed(range(x.ndim))))
            low = (1,) * x.ndim
            return [y, z, b.pad(x, low=low, high=low, interior=low), b.flip(x, axes=(0,))]
        if kind == 9:
            return self.region(b, x)
        return [b.reshape(x, shape=(1, *x.shape))]

    def region(self, b, x):
        """A sine with a derivative of the user's own: twice the true one."""
        primal = Builder("primal")
        p = primal.param(x.type, "x")
        inner = primal.finish([primal.sin(p), primal.cos(p)])
        pull = Builder("pullback")
        c, ct = pull.param(x.type), pull.param(x.type)
        outer = pull.finish([pull.mul(pull.mul(c, ct), 2.0)])
        attrs = {"outputs": 1, "captured": 0, "name": "it's # {mine}"}
        return list(b.apply(get("custom"), [x], attrs, (inner, outer)))[:1]


def _fit(a, b):
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="session")
def random_graph():
    """`random_graph(data, ...)` draws a graph from hypothesis' `data`."""
    return lambda data, **options: Programs(data.draw).graph(**options)
