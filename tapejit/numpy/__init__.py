"""NumPy under `tapejit.numpy`: same names, same signatures, results are Arrays.

    import tapejit.numpy as np

The functions here are also what plain `numpy` calls when an Array is among the arguments, so `import numpy as np` does as
well; this namespace is for making Arrays (`zeros`, `array([x, y])` of recorded values) and for code that wants no
dispatch. A NumPy function that is missing here cannot be recorded; asking for it says so.
"""

from __future__ import annotations

import numpy as _numpy
from numpy import (
    bool_,
    broadcast_shapes,
    diag_indices,
    dtype,
    e,
    euler_gamma,
    finfo,
    float32,
    float64,
    iinfo,
    inf,
    int32,
    int64,
    ix_,
    nan,
    newaxis,
    pi,
    promote_types,
    s_,
    tril_indices,
    triu_indices,
)  # fmt: skip

from . import contraction, creation, differences, indexing, linalg, masks, reductions, shapes, ufuncs, writing
from .contraction import *  # noqa: F403
from .creation import *  # noqa: F403
from .differences import *  # noqa: F403
from .indexing import *  # noqa: F403
from .masks import *  # noqa: F403
from .reductions import *  # noqa: F403
from .shapes import *  # noqa: F403
from .ufuncs import *  # noqa: F403
from .writing import *  # noqa: F403

__all__ = [
    "bool_", "broadcast_shapes", "diag_indices", "dtype", "e", "euler_gamma", "finfo", "float32", "float64", "iinfo", "inf",
    "int32", "int64", "ix_", "linalg", "nan", "newaxis", "pi", "promote_types", "s_", "tril_indices",
    "triu_indices",
]  # fmt: skip
for _module in (ufuncs, creation, shapes, indexing, masks, writing, reductions, differences, contraction):
    __all__ += _module.__all__


def __getattr__(name):
    if name == "random":
        raise AttributeError(
            "tapejit.numpy has no random: drawn numbers would be frozen into compiled code; draw them with numpy.random and "
            "pass them in"
        )
    if hasattr(_numpy, name):
        raise AttributeError(f"tapejit.numpy has no {name}: numpy.{name} cannot be recorded")
    raise AttributeError(f"module 'tapejit.numpy' has no attribute {name!r}")
