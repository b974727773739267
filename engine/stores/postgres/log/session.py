"""Whose log it is: one session at a time, which an append names and the database looks up.

Rules: a session has a lease by the database's clock. A living engine renews it; whoever opens the
log while the lease runs is refused, and told who has it. While its connection stands, a session
also has a lock of the server's, which tells at once that it lives; where a pooler stands between,
only the renewals tell. An engine that was killed keeps the log for the rest of its lease. Whoever
takes over makes the former session one that appends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from ....errors import StoreLocked
from ..address import Address
from ..driver import Connection, LogMessage, Record
from ..failures import sqlstate_of
from ..line import Line
from .schema import presence_key

__all__ = [
    "begin_session",
    "end_session",
    "fetch_numbered",
    "holder_text",
    "is_too_long",
    "mend_leases",
    "read_holder",
    "read_shares",
    "renew_session",
    "show_presence",
]

_BEGIN: Final = (
    "SELECT session, holder, opened, lease_until, seconds_left FROM {s}.begin_session_2($1, $2, $3)"
)
_POLL_SECONDS: Final = 0.2
_MARGIN_SECONDS: Final = 0.05
"""Waited beyond a lease, so that the database finds it over."""


_TOO_LONG_SECONDS: Final = 1.0
_NOT_FOR_US: Final = ("42883", "42501", "25006")
"""No such function, no right to call it, and a server that takes no writes."""
_TAKEN: Final = "23505"
"""The SQLSTATE of a row whose number another row has."""
_TAKEN_MAX: Final = 100_000


_MEETS: Final = ", whose members meet it at "
_SHARES: Final = ", of joint decisions "


def holder_text(name: str, address: str, shares: str = "") -> str:
    """Give what stands in the database of who has the log: its name, and where others meet it.

    And of which kinds its joint decisions are, where it makes any with others.
    """
    name += _SHARES + shares if shares else ""
    return name + _MEETS + address if address else name


def read_holder(text: str) -> tuple[str, str]:
    """Give name and address out of such a text; the address is empty where nobody may join."""
    name, _, address = text.partition(_MEETS)
    return name.partition(_SHARES)[0], address


def read_shares(text: str) -> str:
    """Give of which kinds the joint decisions are out of such a text; empty for none."""
    return text.partition(_MEETS)[0].partition(_SHARES)[2]


class _Held(msgspec.Struct, frozen=True):
    """Who has the log."""

    session: int
    holder: str
    opened: Any
    lease_until: Any
    seconds_left: float


async def begin_session(
    line: Line,
    address: Address,
    holder: str,
    now: Callable[[], float],
    *,
    waits: bool = True,
    shared: bool = False,
) -> tuple[int, float]:
    """Take the log; give the number of the session, and when its lease was asked for, by `now`.

    Waits for the lease of a holder that does not show itself, unless `waits` is false. Raises
    StoreLocked for one that does. With `shared` others may append beside it.
    """
    query = address.sql(_BEGIN)
    seen: _Held | None = None
    is_mended = False
    while True:
        with line.answering(address.answer_seconds), _warnings_of(line) as warnings:
            asked = now()
            row = (await fetch_numbered(line, query, holder, address.lease_seconds, shared))[0]
            if row[1] is None:
                session: int = row[0]
                if warnings and not await _is_kept(line, address, session, warnings):
                    continue
                await show_presence(line, address, session)
                return session, asked
            held = _Held(*row)
            if is_too_long(address, held.seconds_left) and not is_mended:
                is_mended = True
                await mend_leases(line, address)
                continue
            renewed = seen is not None and seen.lease_until != held.lease_until
            if not waits or renewed or await _is_present(line, address, held.session):
                raise _locked(address, held)
        seen = held
        end = now() + held.seconds_left + _MARGIN_SECONDS
        await asyncio.sleep(min(_POLL_SECONDS, end - now()))


async def fetch_numbered(line: Line, query: str, *values: Any) -> Sequence[Record]:
    """Run a call that makes a row with the next number of its table; again where one has that.

    Rows that another server has replicated to this one have numbers of which its sequences do not
    know. Each try takes the next number, whatever becomes of it.
    """
    for _ in range(_TAKEN_MAX):
        try:
            return await line.fetch(query, *values)
        except Exception as error:
            if sqlstate_of(error) != _TAKEN:
                raise
    return await line.fetch(query, *values)


@contextmanager
def _warnings_of(line: Line) -> Generator[list[str]]:
    heard: list[str] = []

    def hear(_: Connection, message: LogMessage) -> None:
        if message.severity_en == "WARNING":
            heard.append(message.severity_en)

    line.connection.add_log_listener(hear)
    try:
        yield heard
    finally:
        line.connection.remove_log_listener(hear)


async def _is_kept(line: Line, address: Address, session: int, warnings: list[str]) -> bool:
    """Wait until the standbys have a session whose commit did not; tell whether it still stands.

    Otherwise a failover would take it away, and its engine would be told of another one.
    """
    while warnings:
        warnings.clear()
        if not await renew_session(line, address, session):
            return False
    return True


async def renew_session(line: Line, address: Address, session: int) -> bool:
    """Let the lease begin anew; tell whether the log is still this session's."""
    query = address.sql("SELECT {s}.renew_session_1($1, $2)")
    renewed: bool = (await line.fetch(query, session, address.lease_seconds))[0][0]
    return renewed


def is_too_long(address: Address, seconds: float) -> bool:
    """Tell whether a lease may be one that a clock which went back has made longer."""
    return seconds > address.lease_seconds + _TOO_LONG_SECONDS


async def mend_leases(line: Line, address: Address) -> None:
    """Let leases begin anew that end later than their lengths from now on, by the server's clock.

    Whoever may not do so leaves it to the others, and a log of an earlier release stays as it is.
    """
    try:
        await line.fetch(address.sql("SELECT {s}.mend_leases_1($1)"), _TOO_LONG_SECONDS)
    except Exception as error:
        if sqlstate_of(error) not in _NOT_FOR_US:
            raise


async def end_session(line: Line, address: Address, session: int) -> None:
    """Give the log back."""
    await line.fetch(address.sql("SELECT {s}.end_session_1($1)"), session)


async def show_presence(line: Line, address: Address, session: int) -> None:
    """Take the lock that tells others that this session's connection stands."""
    if not line.pooled:
        key = presence_key(address.schema, session)
        await line.fetch("SELECT pg_catalog.pg_try_advisory_lock($1, $2)", *key)


async def _is_present(line: Line, address: Address, session: int) -> bool:
    """Tell whether the connection of a session stands, as far as can be told at once."""
    if line.pooled:
        return False
    key = presence_key(address.schema, session)
    got: bool = (await line.fetch("SELECT pg_catalog.pg_try_advisory_lock($1, $2)", *key))[0][0]
    if got:
        await line.fetch("SELECT pg_catalog.pg_advisory_unlock($1, $2)", *key)
    return not got


def _locked(address: Address, held: _Held) -> StoreLocked:
    return StoreLocked(
        f"{address.name} is open in another engine: {read_holder(held.holder)[0]}, since "
        f"{held.opened.isoformat(sep=' ', timespec='seconds')}. Stop that one first: one engine at "
        f"a time has a log"
    )
