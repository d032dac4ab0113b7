"""The create kind: values made from attributes alone: iota, and tables of numbers. Other constants broadcast."""

from __future__ import annotations

import numpy as np

from ..op import NONDIFFERENTIABLE, Op, register
from ..types import tensor


def _never_batched(b, node, xs, batched, size):
    raise AssertionError("an operation without operands is never batched")


iota = register(
    Op(
        "iota", "create", lambda types, attrs: (tensor(attrs["dtype"], attrs["shape"]),),
        lambda shape, dtype: (np.arange(shape[0], dtype=dtype),), NONDIFFERENTIABLE, _never_batched,
        arity=0, dtypes="fi", doc="0, 1, 2, ... attrs: shape (one axis), dtype.",
    )
)  # fmt: skip

table = register(
    Op(
        "table", "create", lambda types, attrs: (tensor(attrs["dtype"], (len(attrs["values"]),)),),
        lambda values, dtype: (np.array(values, dtype),), NONDIFFERENTIABLE, _never_batched,
        arity=0, dtypes="fib", doc="Numbers known when the program is built. attrs: values, dtype.",
    )
)  # fmt: skip
