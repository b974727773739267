"""Tables of another program in a PostgreSQL server, read-only and as of one moment.

Rules: nothing is written or locked. A row comes as the server's JSON of it, so that a column more
or less does no harm: bytes are texts that begin with a backslash and an x. Calls block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import msgspec

from ....errors import EngineError, StoreFailed, StoreRefused
from ....runtime.own_loop import OwnLoop
from ....runtime.ports import Ports
from ..address import Address
from ..driver import driver_of
from ..failures import described_failure, passes_by_itself, sqlstate_of
from ..line import Line

__all__ = ["PostgresTables"]

_MOMENT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_NOT_THERE: Final = ("42P01", "42703", "3F000")
_NO_RIGHT: Final = "42501"


class PostgresTables:
    """The tables of a database."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self._address = address
        self._ports = ports
        self._loop = OwnLoop("foldline-tables")
        self._line: Line | None = None

    @property
    def name(self) -> str:
        """Its URL without user and password."""
        return self._address.name

    def __enter__(self) -> PostgresTables:
        """Connect, and keep to what is there now."""
        try:
            self._loop.run(self._open)
        except BaseException:
            self._close()
            raise
        return self

    async def _open(self) -> None:
        self._line = await Line.connected(driver_of(self._ports), self._address)
        await self._line.connection.execute(_MOMENT)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._close()

    def _close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._loop.run(line.close)
        self._loop.close()

    def rows(
        self, table: str, order: str, after: int, limit: int
    ) -> Sequence[tuple[int, Mapping[str, Any]]]:
        """Give the next rows of a table."""
        number = _quoted(order)
        sql = (
            f"SELECT {number}, to_jsonb(r)::text FROM {_table(table)} AS r "  # noqa: S608 - quoted
            f"WHERE {number} > $1 ORDER BY {number} LIMIT $2"
        )
        found = self._loop.run(lambda: self._ask(table, sql, after, limit))
        return [(row[0], msgspec.json.decode(row[1])) for row in found]

    async def _ask(self, table: str, sql: str, *values: int) -> Sequence[Any]:
        assert self._line is not None, "it is not open"
        try:
            return await self._line.connection.fetch(sql, *values)
        except EngineError:
            raise
        except Exception as error:
            said = described_failure(error)
            if sqlstate_of(error) in _NOT_THERE:
                raise StoreRefused(
                    f"{self.name} has no such table, {table}: {said}. Name it by --table, as in "
                    f"--table schema.table"
                ) from error
            if sqlstate_of(error) == _NO_RIGHT:
                raise StoreRefused(
                    f"{table} in {self.name} may not be read: {said}. Grant SELECT on it"
                ) from error
            raise StoreFailed(
                f"{table} in {self.name} cannot be read: {said}",
                written=False,
                passes=passes_by_itself(error),
            ) from error


def _table(name: str) -> str:
    return ".".join(_quoted(part) for part in name.split("."))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
