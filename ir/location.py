"""Where in the user's code an operation came from.

In: a node's `loc`: `(code object, instruction offset)` as recorded, `(file name, line)` as parsed, or None. Out: file
name and line, and the text of that line. Recording keeps only the pair, which costs nothing; the line is looked up
here, when something is printed: by bisection in the code object's line table, read once per code object.
"""

from __future__ import annotations

import linecache
import os
from bisect import bisect_right
from functools import lru_cache


@lru_cache(maxsize=512)
def _line_table(code):
    """Start offsets of the code object's instruction ranges and the line of each (None: no line)."""
    starts, lines = [], []
    for start, _end, line in code.co_lines():
        starts.append(start)
        lines.append(line)
    return starts, lines


def resolve(loc) -> tuple[str, int] | None:
    """File name and line of a location; None if there is none."""
    if loc is None:
        return None
    where, position = loc
    if isinstance(where, str):
        return where, position
    starts, lines = _line_table(where)
    line = lines[max(bisect_right(starts, position) - 1, 0)] if lines else None
    return where.co_filename, where.co_firstlineno if line is None else line


def source_line(filename: str, line: int) -> str:
    """The stripped text of a line of a file; empty if it cannot be read."""
    return linecache.getline(filename, line).strip()


def describe(loc) -> str:
    """One line for messages: `model.py:5: return np.sin(x) ** 2`."""
    found = resolve(loc)
    if found is None:
        return "<no line known>"
    text = source_line(*found)
    return f"{os.path.basename(found[0])}:{found[1]}" + (f": {text}" if text else "")
