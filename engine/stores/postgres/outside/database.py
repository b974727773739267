"""A database of a PostgreSQL server, asked which logs it has, and how many connections it takes.

Rules: each question is one statement, which changes nothing. A server that is away is waited for as
long as the URL says. Calls block, and come from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from ....runtime.own_loop import OwnLoop
from ....runtime.ports import Ports
from ..address import Address
from ..driver import driver_of
from ..line import Line, Lines

__all__ = ["PostgresDatabase"]

T = TypeVar("T")

_LOGS: Final = """
SELECT n.nspname, coalesce(t.oid::text || ' ' || pg_catalog.pg_stat_get_tuples_inserted(t.oid)
    || ' ' || pg_catalog.pg_stat_get_tuples_updated(t.oid)
    || ' ' || pg_catalog.pg_stat_get_tuples_deleted(t.oid), '')
FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
    AND c.relname = 'about' AND c.relkind = 'r'
LEFT JOIN pg_catalog.pg_class AS t ON t.relnamespace = n.oid AND t.relname = 'timers'
WHERE pg_catalog.starts_with(n.nspname, $1) ORDER BY n.nspname
"""
"""Schemas that have the table which every log has, and what the server has counted of timers."""
_CONNECTIONS: Final = (
    "SELECT least(current_setting('max_connections')::int "
    "- current_setting('superuser_reserved_connections')::int, "
    "nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1)) "
    "FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d "
    "WHERE r.rolname = current_user AND d.datname = current_database()"
)
"""What the server, this role and this database allow, whoever has them now."""


class PostgresDatabase:
    """One database, until `close`."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self._address = address
        self._driver = driver_of(ports)
        self._loop = OwnLoop("foldline-database")

    @property
    def patience_seconds(self) -> float:
        """How long the server is waited for."""
        return self._address.patience_seconds

    def logs(self, beginning: str) -> Mapping[str, str]:
        """Give the schemas that have a log, each with a text that changes with its timers.

        Raises StoreFailed or StoreRefused.
        """
        return dict(self._ask(_LOGS, beginning))

    def connections_max(self) -> int:
        """Give how many connections may be open at once. Raises StoreFailed or StoreRefused."""
        ((connections,),) = self._ask(_CONNECTIONS)
        return int(connections)

    def close(self) -> None:
        """End the thread that asks; a second call does nothing."""
        self._loop.close()

    def _ask(self, query: str, *values: Any) -> Sequence[Any]:
        async def fetch(line: Line) -> Sequence[Any]:
            return await line.fetch(query, *values)

        return self._loop.run(lambda: self._once(fetch))

    async def _once(self, call: Callable[[Line], Awaitable[T]]) -> T:
        lines = Lines(self._driver, self._address)
        try:
            return await lines.run(call)
        finally:
            await lines.close()
