import numpy as np

from ..array import handles
from ..promote import apply1, asarray


@handles(np.matmul, np.dot)
def matmul(x1, x2, out=None):
    x, y = asarray(x1), asarray(x2)
    return apply1("dot", x, y, contract=((x.ndim - 1,), (max(0, y.ndim - 2),)), batch=((), ()))
