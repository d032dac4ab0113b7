"""The operation table. Importing this package fills `op.TABLE`; one module per kind (elementwise has two)."""

from . import contract, create, elementwise, guard, indexing, movement, reduce, region, transcendental

__all__ = [
    "contract", "create", "elementwise", "guard", "indexing", "movement", "reduce", "region", "transcendental",
]  # fmt: skip
