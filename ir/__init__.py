"""What a program is and what can be done to one. Never imports code generation or the front end.

types, graph, op (the record), ops (the table), build, walk, evaluate, linearize, backward, batch, text, verify, analysis,
passes. Importing this package fills the operation table.
"""

from . import ops  # noqa: F401  fills the table
