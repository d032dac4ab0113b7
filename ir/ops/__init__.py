"""The operation table. Importing this package fills `op.TABLE`; one module per kind (elementwise has two)."""

from . import branch, contract, create, elementwise, guard, indexing, loop, movement, reduce, region, transcendental

__all__ = [
    "branch", "contract", "create", "elementwise", "guard", "indexing", "loop", "movement", "reduce", "region",
    "transcendental",
]  # fmt: skip
