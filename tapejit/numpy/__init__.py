"""NumPy under `tapejit.numpy`: same names, same signatures, results are Arrays.

    import tapejit.numpy as np

The functions here are also what plain `numpy` calls when an Array is among the arguments, so `import numpy as np` does as
well; this namespace is for making Arrays (`zeros`, `array([x, y])` of recorded values) and for code that wants no
dispatch. What is missing raises an error that names it.
"""

from __future__ import annotations

import numpy as _np
from numpy import (  # noqa: F401
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

from ..errors import UnsupportedFunctionError as _Unsupported
from ..errors import located as _located
from . import contraction, creation, differences, indexing, linalg, reductions, shapes, ufuncs
