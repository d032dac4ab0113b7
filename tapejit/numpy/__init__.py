"""NumPy under `tapejit.numpy`: same names, same signatures; results are Arrays."""

from .reductions import *  # noqa: F403
from .ufuncs import *  # noqa: F403
from .shapes import *  # noqa: F403
from .indexing import *  # noqa: F403
from .linalg import *  # noqa: F403
