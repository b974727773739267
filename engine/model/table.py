"""Tables of a projection: as a class declares them, and as its handlers change them.

Rules: a table stands over cells, which keep flat rows while a batch is folded; outside of a handler
it only names itself. This file knows no projection, SQL or store.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

from ..errors import UsageError
from .rows import Flat, Row, RowShape, Scalar

__all__ = ["Cells", "SqlTable", "Table", "TableDefinition"]

R = TypeVar("R", bound=Row)


class Cells(Protocol):
    """The rows behind a table while a batch is folded."""

    def get(self, key: Scalar, /) -> Flat | None:
        """Give a row, or None where there is none."""
        ...

    def set(self, key: Scalar, flat: Flat | None, /) -> None:
        """Put a row, or take it away with None."""
        ...


class TableDefinition(msgspec.Struct, frozen=True):
    """One table of a projection."""

    attribute: str
    """What the projection calls it."""
    name: str
    """What SQL calls it: the projection's name, an underscore, the attribute."""
    projection: str
    shape: RowShape


class SqlTable(msgspec.Struct, frozen=True):
    """One table that a projection makes by SQL of its own."""

    attribute: str
    """What its statements call it, in braces."""
    name: str
    """What SQL calls it, as with `TableDefinition`."""
    statements: tuple[str, ...]
    """What makes it."""


class Table(Generic[R]):
    """A table of a projection; declare it as `summaries: Table[OrderSummary]`.

    Inside a handler, `self.summaries` reads and changes rows. Elsewhere `Orders.summaries` names
    the table, for `views.get` and the like.
    """

    __slots__ = ("_cells", "_encode_key", "_shape", "definition")

    def __init__(self, definition: TableDefinition, cells: Cells | None = None) -> None:
        self.definition = definition
        self._shape = definition.shape
        self._encode_key = definition.shape.encode_key
        self._cells: Cells = cells if cells is not None else _NoCells(definition.name)

    def get(self, key: Any) -> R | None:
        """Give the row with this key, or None."""
        flat = self._cells.get(self._encode_key(key))
        return None if flat is None else self._shape.build(flat)

    def put(self, row: R) -> None:
        """Add the row, or replace the one with its key."""
        if type(row) is not self._shape.row:
            raise TypeError(
                f"{self.definition.name} holds {self._shape.row.__name__}, not {type(row).__name__}"
            )
        flat = self._shape.flatten(row)
        self._cells.set(flat[self._shape.key_place], flat)

    def update(self, key: Any, /, **changes: Any) -> None:
        """Set the fields `changes` of the row with this `key`; KeyError where there is none."""
        place = self._encode_key(key)
        flat = self._cells.get(place)
        if flat is None:
            raise KeyError(f"{self.definition.name} has no row {key!r} to update: put it first")
        if self._shape.key in changes:
            raise ValueError(
                f"{self._shape.key} is the key of {self.definition.name} and stays: delete the "
                f"row and put another"
            )
        self._cells.set(place, self._shape.changed(flat, changes))

    def delete(self, key: Any) -> None:
        """Take the row with this key away, if it is there."""
        self._cells.set(self._encode_key(key), None)


class _NoCells:
    """Behind a table outside of its projection's handlers: it only names it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, _key: Scalar) -> Flat | None:
        raise self._error()

    def set(self, _key: Scalar, _flat: Flat | None) -> None:
        raise self._error()

    def _error(self) -> UsageError:
        return UsageError(
            f"{self._name} is changed by its projection's handlers only; to read it, use "
            f"`views.get(...)` in a query's answer"
        )
