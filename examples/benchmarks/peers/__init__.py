"""Tools that differentiate, side by side: what `examples/benchmarks/versus.py` asks of each, and how.

problems.py      the computations, their arguments and their gradients from an independent source (NumPy by hand, complex steps)
with_NAME.py     one tool's version of every problem that it can express, written as its users would
worker.py        the process that runs one tool: builds, calls, times
team.py          the driver's side: starts workers, asks them over a pipe, ends them in time
table.py         medians and ratios as text, Markdown, a plot

A module with_NAME has one function per problem family, `family(problem) -> (function, arguments)`; `function(*arguments)` is
what is timed, whole: arguments passed, results computed to the end and returned. Arguments are in the form that the tool's
users keep their data in, made before the clock starts: NumPy arrays for tapejit, autograd, numba, casadi and c, jax.Array for
jax, torch.Tensor for torch; numbers are Python floats (torch: a tensor). Results are the tool's own arrays, new at each call;
casadi's are copies out of its buffers, which the next call overwrites. A family that is missing from a module is shown as a
dash; `SKIP` says of what is possible but left out, why. `forget`, where there is one, drops what the tool keeps of a problem.
"""
