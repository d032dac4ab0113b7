"""TensorFlow's implicit forms: gradients with respect to every trainable Variable that a function reads.

In: a function of anything. Out: a function that runs it on a tape and returns (gradient, variable) pairs, ready for an
optimizer, in the order in which the Variables were constructed.
"""

from __future__ import annotations

import functools

from .errors import ArgumentError, OutputError, located
from .tape import GradientTape
from .trace import definition, function_name


def implicit_value_and_gradients(f):
    """g(*args, **kwargs) -> (value, [(gradient, variable), ...]) over the trainable Variables that f reads.

    >>> import tapejit
    >>> w = tapejit.Variable(3.0)
    >>> value, pairs = tapejit.implicit_value_and_gradients(lambda x: w * x)(2.0)
    >>> value, pairs[0][0]
    (Array(6.), Array(2.))
    """

    @functools.wraps(f)
    def gradients(*args, **kwargs):
        with GradientTape() as tape:
            value = f(*args, **kwargs)
        if value is None:
            raise located(
                OutputError,
                "Cannot differentiate a function that returns None; did you forget to return a value from "
                f"{function_name(f)}?",
                "return an array, or a nest of arrays",
                where=definition(f),
            )
        variables = sorted(tape.watched_variables(), key=lambda v: v.serial)
        if not variables:
            raise located(
                ArgumentError,
                "No trainable variables were accessed while the function was being computed.",
                "compute with a tapejit.Variable, or use gradients_function for gradients by the arguments",
                where=definition(f),
            )
        return value, list(zip(tape.gradient(value, variables), variables))

    return gradients


def implicit_gradients(f):
    """g(*args, **kwargs) -> [(gradient, variable), ...]; see `implicit_value_and_gradients`."""
    both = implicit_value_and_gradients(f)

    @functools.wraps(f)
    def gradients(*args, **kwargs):
        return both(*args, **kwargs)[1]

    return gradients
