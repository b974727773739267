"""One connection to the views: its statements, its transactions, and what its errors mean.

Rules: what the engine asks is planned with the values that it has, since a plan that is kept was
made when its table was empty. Where a pooler stands between, nothing is prepared. A statement that
fails takes its transaction back; where the line breaks, nobody knows what was written, and the
connection is given up. Calls on a link do not overlap.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

from ....errors import StoreFailed, StoreRefused
from ....runtime.ports import Ports
from ..address import Address
from ..driver import Record, Statement, driver_of
from ..failures import described_failure, is_lost, passes_by_itself, sqlstate_of
from ..line import Line

__all__ = [
    "Link",
    "Place",
    "failed",
    "is_lost_line",
    "is_unfit",
    "limited",
    "transaction",
    "views_schema",
]

STATEMENTS_MAX: Final = 200
"""Statements of users that one connection keeps by name."""
SET_UP: Final = (
    "SET plan_cache_mode = force_custom_plan; SET jit = off; SET client_min_messages = error"
)
IDLE_SECONDS: Final = 2.0
"""How long a transaction may wait for its next statement, where a lease is shorter."""
_NO_RIGHT: Final = "42501"


class Named(Protocol):
    """A column of an answer or a type, as asyncpg has it."""

    name: str


class Described(Statement, Protocol):
    """A statement that tells what it gives."""

    def get_attributes(self) -> Sequence[Named]:
        """Give the columns of its answer; none where it gives no rows."""
        ...

    def get_parameters(self) -> Sequence[Named]:
        """Give the types of its values."""
        ...


def views_schema(log_schema: str) -> str:
    """Give what the schema of the views beside a log is called."""
    return f"{log_schema}_views"


class Place:
    """Where the views are: a server, and the schemas of the log and of the views in it."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self.address = address
        self.ports = ports
        self.log_schema = address.schema
        self.schema = views_schema(address.schema)
        self.connected: Callable[[Link], Awaitable[None]] | None = None
        """Called with each new connection, before anything else is done on it."""

    @property
    def name(self) -> str:
        """What people call it, without a password."""
        return self.address.name

    async def connect(self) -> Link:
        """Open a connection; raise StoreFailed or StoreRefused."""
        line = await Line.connected(driver_of(self.ports), self.address)
        link = Link(line)
        try:
            with line.answering(self.address.answer_seconds):
                if not line.pooled:
                    await link.do(SET_UP)
                if self.connected is not None:
                    await self.connected(link)
        except BaseException as error:
            link.end()
            if isinstance(error, Exception):
                raise failed(self, error, "opened", written=False) from error
            raise
        return link


class Link:
    """One connection."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._described: dict[str, Described] = {}
        self._count = 0

    async def run(self, query: str, *values: Any) -> Sequence[Record]:
        """Run a statement; give its rows."""
        return await self.line.fetch(query, *values)

    async def do(self, query: str) -> None:
        """Run statements without values, in one round trip."""
        await self.line.connection.execute(query)

    async def ask(
        self, query: str, values: Sequence[Any]
    ) -> tuple[Sequence[str], Sequence[Record]]:
        """Run a statement; give the names of its columns, and its rows."""
        if self.line.pooled:
            rows: Sequence[Any] = await self.line.connection.fetch(query, *values)
            if rows:
                return list(rows[0].keys()), rows
            return _names(await self._unnamed(query)), rows
        known = self._described.get(query) or await self._describe(query)
        return _names(known), await known.fetch(*values)

    async def takes(self, query: str) -> Sequence[str]:
        """Give the names of the types that the values of a statement have."""
        if self.line.pooled:
            known = await self._unnamed(query)
        else:
            known = self._described.get(query) or await self._describe(query)
        return [kind.name for kind in known.get_parameters()]

    async def _unnamed(self, query: str) -> Described:
        """Have a statement described that is not kept: by its name, a pooler's next user met it."""
        return cast("Described", await self.line.connection.prepare(query, name=""))

    async def _describe(self, query: str) -> Described:
        if len(self._described) >= STATEMENTS_MAX:
            self._described.clear()
        self._count += 1
        name = f"foldline_user_{self._count}"
        found = cast("Described", await self.line.connection.prepare(query, name=name))
        self._described[query] = found
        return found

    def forget(self) -> None:
        """Plan users' statements anew: the tables that they name are other ones now."""
        self._described.clear()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.line.is_closed

    def end(self) -> None:
        """Close it at once."""
        self.line.drop()

    async def close(self) -> None:
        """Close it in peace, or at once where that takes long."""
        await self.line.close()


def _names(described: Described) -> Sequence[str]:
    return [attribute.name for attribute in described.get_attributes()]


def limited(begin: str, address: Address) -> str:
    """Give a begin of a transaction whose client may stand still, or be lost, in the middle.

    It keeps its locks for no longer than a lease then, so that the next engine can go on.
    """
    ms = int(max(address.lease_seconds, IDLE_SECONDS) * 1_000)
    return f"{begin}; SET LOCAL idle_in_transaction_session_timeout = {ms}"


@asynccontextmanager
async def transaction(link: Link, begin: str = "BEGIN") -> AsyncGenerator[None]:
    """Commit what is done inside, or take it back; `begin` may set more for it."""
    try:
        await link.do(begin)  # which may wait for a lock in vain, and is then begun all the same
        yield
    except Exception as error:
        if not is_lost_line(error):
            with contextlib.suppress(Exception):
                await link.do("ROLLBACK")
        raise
    except BaseException:
        link.end()  # nobody waits for what it still does
        raise
    await link.do("COMMIT")


def is_unfit(error: BaseException) -> bool:
    """Tell whether a value is to blame that was given: it is of another type, or SQL has none."""
    state = sqlstate_of(error)
    # The driver refuses some by itself, before it asks the server.
    return isinstance(error, ValueError | OverflowError | TypeError) or state.startswith(
        ("22", "23", "54")
    )


def is_lost_line(error: BaseException) -> bool:
    """Tell whether the connection is of no use any more."""
    return is_lost(error) and not isinstance(error, ValueError)


def failed(
    place: Place, error: Exception, what: str, *, written: bool | None
) -> StoreFailed | StoreRefused:
    """Say what failed; a right that is missing must be granted by somebody."""
    if sqlstate_of(error) == _NO_RIGHT:
        return StoreRefused(
            f"the views in {place.name} cannot be {what}: {described_failure(error)}. Grant it to "
            f"the user of the engine, which owns the tables of projections; nothing was changed"
        )
    return StoreFailed(
        f"the views in {place.name} cannot be {what}: {described_failure(error)}",
        written=written,
        passes=passes_by_itself(error),
    )
