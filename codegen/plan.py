"""The format of a plan: what a call must look like, for the marshaller.

In: nothing. Out: names for the i64 words of a plan, which native.py makes and marshal.py follows. A plan is a head of the
words named in `HEAD` and, where the head says (offsets in bytes), the records of the arguments (`Kind`, `Record`), of the
results (`Maker`), of the steps that build the nest of results (`Step`), and of what the function reads (`Read`).
"""

from __future__ import annotations

HEAD = (
    "owner", "positional", "keywords", "names", "given", "captured", "sources", "objects", "records",
    "reads", "cells", "leaves", "results", "makers", "steps", "build", "depth", "words", "hold", "yields", "releases", "entry",
    "arena", "arena_bytes", "taken", "bytes_descr", "written", "counters", "numbered", "remaining",
)  # fmt: skip
PLAN = {name: 8 * i for i, name in enumerate(HEAD)}


class Kind:
    """Of an argument. WHOLE is an int for a float input, OUTPUT an array to write results into, FIELDS those of a dataclass."""

    STATIC, NUMBER, INT, WHOLE, ARRAY, OUTPUT, TUPLE, LIST, DICT, FIELDS = range(10)


class Record:
    """Positions of an argument's words: after kind and type the OBJECT of a static, the SLOT of a leaf, the COUNT of a
    container's items; the number of its FIRST item, the offset of its keys or NAMES; and those of an array."""

    OBJECT = SLOT = COUNT = 2
    FIRST, NAMES = 3, 4
    DTYPE, RANK, SHAPE, DTYPE_NUMBER, BYTES = 3, 4, 5, 6, 7
    WORDS = 8


class Maker:
    """Of a result: a NumPy scalar, a new array, or an OUTPUT. With dtype, rank, shape, and the words named here."""

    SCALAR, NEW, GIVEN = range(3)
    CREATOR, NUMBER = 4, 5  # the function that makes an array; of an OUTPUT, its number among the objects
    WORDS = 6


class Step:
    """Of the build, with an object, a number or count, and keys. CALL calls the object with the items."""

    LEAF, CONSTANT, TUPLE, LIST, DICT, CALL = range(6)


class Read:
    """What must be as it was, with a holder, a key or number, and an object: the FIELD at so many bytes of an object, an
    item of a dict by NAME, the LENGTH of a list or dict, an ITEM of a list, the NEXT pair of the dict whose LENGTH was
    looked at last."""

    FIELD, NAME, LIST_LENGTH, ITEM, DICT_LENGTH, NEXT = range(6)
    WORDS = 4
