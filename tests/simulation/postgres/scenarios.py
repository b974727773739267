"""Small scripts that run over the modelled server and over a real one, which must give the same.

Rules: a script asks by the store's own statements, over several connections, and gives what it was
told: rows, or the SQLSTATE of an error. It gives nothing that differs between two servers: no
random id, no time of day, no name of a schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from engine.stores.postgres.address import Address
from engine.stores.postgres.driver import Connection
from engine.stores.postgres.failures import is_lost, sqlstate_of
from engine.stores.postgres.log import (
    claims,
    reading,
    store,
    timers,
    writer,
)
from engine.stores.postgres.log.schema import lock_key, migrate, presence_key
from engine.stores.postgres.outside.directory import OWNER
from engine.stores.postgres.settings import check_settings

__all__ = ["SCENARIOS", "Place", "Scenario"]


class Place(Protocol):
    """A server, modelled or real."""

    address: Address

    async def connect(self) -> Connection:
        """Connect."""
        ...

    async def terminate(self, connection: Connection) -> None:
        """End its backend, as an administrator does."""
        ...


Scenario: TypeAlias = Callable[[Place], Awaitable[Sequence[Any]]]

ABOUT: str = vars(store)["_ABOUT"]
TYPES: str = vars(reading)["_TYPES"]
KINDS: str = vars(reading)["_KINDS"]
FEED: str = vars(reading)["_FEED"]
STREAMS: str = vars(reading)["_STREAMS"]
VERSIONS: str = vars(reading)["_VERSIONS"]
SNAPSHOTS: str = vars(reading)["_SNAPSHOTS"]
FOUND: str = vars(writer)["_FOUND"]
HOLDERS: str = vars(claims)["_HOLDERS"]
READ: str = vars(claims)["_READ"]
STANDING, DUE, ALL_TIMERS, COUNT, SETTLE = (
    str(vars(timers)[name]) for name in ("_STANDING", "_DUE", "_ALL", "_COUNT", "_SETTLE")
)
BEGIN = (
    "SELECT session, holder, opened, lease_until, seconds_left FROM {s}.begin_session_2($1, $2, $3)"
)
RENEW = "SELECT {s}.renew_session_1($1, $2)"
END = "SELECT {s}.end_session_1($1)"
KEEP = "SELECT {s}.keep_snapshots_1($1, $2, $3, $4, $5, $6)"
CHECKSUM = "SELECT checksum FROM {s}.events WHERE position = $1"
TRY_LOCK = "SELECT pg_catalog.pg_try_advisory_lock($1, $2)"
UNLOCK = "SELECT pg_catalog.pg_advisory_unlock($1, $2)"
LOCK = "SELECT pg_catalog.pg_advisory_xact_lock($1, $2)"


async def ask(place: Place, connection: Connection, query: str, *values: Any) -> Any:
    """Ask; give the rows, or the SQLSTATE of the error, "lost" where the connection is."""
    try:
        rows = await connection.fetch(place.address.sql(query), *values)
    except Exception as error:
        return "lost" if is_lost(error) else sqlstate_of(error) or type(error).__name__
    return [tuple(row) for row in rows]


def batch(session: int, head: tuple[int, int], *events: tuple[str, int, int], **rest: Any) -> Any:
    """Give what `append_1` takes, of events by stream, version and checksum."""
    expected: dict[str, int] = rest.get("expected", {})
    types = rest.get("types", ([], [], [], []))
    return (
        *(session, *head, rest.get("recorded", 1_000)),
        [stream for stream, _, _ in events],
        [version for _, version, _ in events],
        [rest.get("type", 1)] * len(events),
        [0] * len(events),
        [b"p" * (10 * version) for _, version, _ in events],
        [b"m"] * len(events),
        [checksum for _, _, checksum in events],
        *(list(expected), list(expected.values()), rest.get("alone", True), True, *types),
    )


ONE_TYPE = ([1], ["was"], [1], ["hash"])


async def opened(place: Place) -> tuple[Connection, int]:
    """Make the schema and take the log."""
    connection = await place.connect()
    await check_settings(connection, place.address)
    await migrate(connection, place.address)
    ((session, *_),) = await ask(place, connection, BEGIN, "first", 60.0, False)
    return connection, session


# -- the scripts --------------------------------------------------------------------------------


async def the_schema_is_made_once(place: Place) -> Sequence[Any]:
    connection = await place.connect()
    before = await ask(place, connection, reading.HEAD)
    await check_settings(connection, place.address)
    await migrate(connection, place.address)
    await migrate(connection, place.address)
    about = await ask(place, connection, ABOUT)
    empty = [
        await ask(place, connection, query, *values)
        for query, *values in (
            (reading.HEAD,),
            (TYPES,),
            (KINDS,),
            (FEED, 0, 10, 10),
            (STREAMS, ["a:1"], [0], 10, 10),
            (VERSIONS, ["a:1"]),
            (CHECKSUM, 1),
        )
    ]
    return [before, len(about[0][0]), about[0][1], empty]


async def one_session_has_the_log(place: Place) -> Sequence[Any]:
    connection, first = await opened(place)
    other = await place.connect()
    ((held, holder, *_, left),) = await ask(place, other, BEGIN, "second", 60.0, False)
    told = [held == first, holder, 0 < left <= 60]
    told += [await ask(place, connection, RENEW, first, 60.0)]
    told += [await ask(place, connection, END, first)]
    told += [await ask(place, connection, RENEW, first, 60.0)]
    ((second, holder, *_),) = await ask(place, other, BEGIN, "second", 0.01, False)
    told += [second == first + 1, holder]
    await asyncio.sleep(0.05)
    told += [await ask(place, other, RENEW, second, 0.01)]
    await asyncio.sleep(0.05)
    ((third, holder, *_),) = await ask(place, connection, BEGIN, "third", 60.0, False)
    told += [third == second + 1, holder, await ask(place, other, RENEW, second, 60.0)]
    told += [await ask(place, other, writer.APPEND, *batch(second, (0, 0), ("a:1", 1, 7)))]
    return [*told, await ask(place, other, reading.HEAD)]


async def whose_a_log_is_can_be_asked(place: Place) -> Sequence[Any]:
    connection = await place.connect()
    told = [await ask(place, connection, OWNER, 60.0)]
    await check_settings(connection, place.address)
    await migrate(connection, place.address)
    told += [await ask(place, connection, OWNER, 60.0)]
    ((session, *_),) = await ask(place, connection, BEGIN, "first", 60.0, False)
    ((told_session, log_id, holder, left),) = await ask(place, connection, OWNER, 60.0)
    told += [told_session == session, len(log_id), holder, 0 < left <= 60]
    # Longer than the lease: the server may just have started.
    ((*_, left),) = await ask(place, connection, OWNER, 9_000_000.0)
    told += [left > 60, await ask(place, connection, END, session)]
    return [*told, await ask(place, connection, OWNER, 60.0)]


async def presence_shows_while_a_connection_stands(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other = await place.connect()
    key = presence_key(place.address.schema, session)
    told = [await ask(place, other, TRY_LOCK, *key), await ask(place, other, TRY_LOCK, *key)]
    told += [await ask(place, connection, TRY_LOCK, *key)]
    told += [await ask(place, other, UNLOCK, *key), await ask(place, connection, TRY_LOCK, *key)]
    told += [await ask(place, other, UNLOCK, *key), await ask(place, connection, TRY_LOCK, *key)]
    told += [await ask(place, other, TRY_LOCK, *key)]
    await place.terminate(connection)
    told += [await ask(place, connection, reading.HEAD), connection.is_closed()]
    return [*told, await ask(place, other, TRY_LOCK, *key)]


async def an_append_is_taken_where_the_log_ends(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)

    async def append(head: tuple[int, int], *events: tuple[str, int, int], **rest: Any) -> Any:
        return await ask(place, connection, writer.APPEND, *batch(session, head, *events, **rest))

    told = [await append((0, 0), ("a:1", 1, 11), ("b:1", 1, 12), types=ONE_TYPE)]
    told += [await append((0, 0), ("a:1", 2, 13))]  # elsewhere
    told += [await append((2, 99), ("a:1", 2, 13))]  # other events
    told += [await append((2, 12), ("a:1", 1, 13))]  # a stream that has begun
    told += [await append((2, 12), ("a:1", 2, 13), ("a:1", 2, 14), expected={"a:1": 1})]
    told += [await append((2, 12), ("a:1", 2, 13), expected={"a:1": 1}, recorded=5)]
    told += [await append((3, 13), ("a:1", 5, 14), ("c:1", 1, 15), expected={"a:1": 4})]
    told += [await append((4, 15), ("b:1", 9, 16), expected={"b:1": 8}, alone=False)]
    told += [await append((4, 15), ("b:1", 9, 16), expected={"b:1": 8}, types=ONE_TYPE)]
    told += [await append((4, 15), ("b:1", 9, 16), expected={"b:1": 8})]  # none of it is left
    told += [await append((4, 15), ("d:1", 1, 17), types=([1], ["was"], [1], ["other"]))]
    told += [await append((5, 17), ("d:1", 2, 18), types=([2], ["was"], [1], ["third"]))]
    for query, *values in (
        (reading.HEAD,),
        (TYPES,),
        (FEED, 0, 100, 1_000),
        (CHECKSUM, 5),
        (FOUND, ["a:1", "a:1", "z:1"], [2, 9, 1]),
    ):
        told += [await ask(place, connection, query, *values)]
    return told


async def pages_are_cut_by_events_and_bytes(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    events = [
        (f"{kind}:{n}", version, 10 * n + version)
        for kind in ("a", "bb")
        for n in (1, 2)
        for version in (1, 2, 3)
    ]
    query = batch(session, (0, 0), *events, types=ONE_TYPE)
    told = [await ask(place, connection, writer.APPEND, *query)]
    for after, events_max, bytes_max in ((0, 100, 1), (0, 2, 999), (3, 5, 54), (4, 100, 33)):
        told += [await ask(place, connection, FEED, after, events_max, bytes_max)]
    names = ["a:1", "none:1", "bb:2", "a:2"]
    for afters, events_max, bytes_max in (
        ([0, 0, 0, 0], 100, 10_000),
        ([0, 0, 0, 0], 4, 10_000),
        ([1, 0, 3, 0], 3, 10_000),
        ([0, 0, 0, 0], 100, 1),
        ([0, 5, 1, 9], 100, 75),
    ):
        told += [await ask(place, connection, STREAMS, names, afters, events_max, bytes_max)]
    told += [await ask(place, connection, VERSIONS, names)]
    return [*told, await ask(place, connection, KINDS)]


async def snapshots_replace_each_other(place: Place) -> Sequence[Any]:
    connection, _ = await opened(place)

    async def keep(*rows: tuple[str, int]) -> Any:
        names, versions = [row[0] for row in rows], [row[1] for row in rows]
        columns = names, versions, versions, versions, versions, [b"s"] * len(rows)
        return await ask(place, connection, KEEP, *columns)

    told = [await keep(("a:1", 1), ("b:1", 2)), await keep(("b:1", 3))]
    told += [await keep(("c:1", 1), ("c:1", 2))]
    rows = await ask(place, connection, SNAPSHOTS, ["a:1", "b:1", "c:1", "z:1"])
    return [*told, sorted(rows)]


async def what_is_not_committed_is_not_seen(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other = await place.connect()
    query = batch(session, (0, 0), ("a:1", 1, 11), types=ONE_TYPE)
    told: list[Any] = []
    async with connection.transaction():
        told += [await ask(place, connection, writer.APPEND, *query)]
        told += [await ask(place, other, reading.HEAD), await ask(place, other, TYPES)]
    told += [await ask(place, other, reading.HEAD), await ask(place, other, TYPES)]
    try:
        async with connection.transaction():
            query = batch(session, (1, 11), ("a:1", 2, 12), expected={"a:1": 1})
            told += [await ask(place, connection, writer.APPEND, *query)]
            raise LookupError
    except LookupError:
        told += [await ask(place, other, reading.HEAD)]
    return told


async def a_failed_transaction_takes_nothing_more(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    query = batch(session, (0, 0), ("a:1", 1, 11), ("a:1", 1, 12), types=ONE_TYPE)
    told: list[Any] = []
    try:
        async with connection.transaction():
            told += [await ask(place, connection, writer.APPEND, *query)]
            told += [await ask(place, connection, reading.HEAD)]
            raise LookupError
    except LookupError:
        told += [await ask(place, connection, reading.HEAD)]
    return told


async def an_append_waits_for_the_lock(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other = await place.connect()
    key = lock_key(place.address.schema)
    query = batch(session, (0, 0), ("a:1", 1, 11), types=ONE_TYPE)
    order: list[Any] = []

    async def append() -> None:
        order.append(await ask(place, connection, writer.APPEND, *query))

    async with other.transaction():
        await other.execute(LOCK, *key)
        task = asyncio.ensure_future(append())
        await asyncio.sleep(0.1)
        order.append(await ask(place, other, reading.HEAD))
    await task
    return [*order, await ask(place, other, reading.HEAD)]


async def a_lock_is_waited_for_in_vain(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other, third = await place.connect(), await place.connect()
    key = lock_key(place.address.schema)
    query = batch(session, (0, 0), ("a:1", 1, 11), types=ONE_TYPE)
    async with other.transaction():
        await other.execute(LOCK, *key)
        told = await asyncio.gather(
            ask(place, connection, writer.APPEND, *query),
            ask(place, third, BEGIN, "third", 1.0, False),
        )
    return [*told, await ask(place, connection, writer.APPEND, *query)]


async def a_broken_connection_gives_its_locks_back(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other = await place.connect()
    query = batch(session, (0, 0), ("a:1", 1, 11), types=ONE_TYPE)
    block = other.transaction()
    await block.__aenter__()
    told = [await ask(place, other, writer.APPEND, *query)]
    other.terminate()
    told += [await ask(place, other, reading.HEAD), other.is_closed()]
    told += [await ask(place, connection, writer.APPEND, *query)]
    return [*told, await ask(place, connection, reading.HEAD)]


async def a_backend_that_is_ended_writes_nothing(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    other, third = await place.connect(), await place.connect()
    key = lock_key(place.address.schema)
    query = batch(session, (0, 0), ("a:1", 1, 11), types=ONE_TYPE)
    async with other.transaction():
        await other.execute(LOCK, *key)
        task = asyncio.ensure_future(ask(place, connection, writer.APPEND, *query))
        await asyncio.sleep(0.1)
        await place.terminate(connection)
        told = [await task, connection.is_closed()]
    return [*told, await ask(place, third, reading.HEAD)]


async def claims_change_with_their_events(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)

    async def append(head: tuple[int, int], event: Any, *changes: Any, **rest: Any) -> Any:
        columns = [list(column) for column in zip(*changes, strict=True)]
        query = (*batch(session, head, event, alone=False, **rest), *columns)
        return await ask(place, connection, claims.APPEND_CLAIMS, *query)

    told = [await append((0, 0), ("a:1", 1, 11), ("mail", "x", "", "a:1", 1), types=ONE_TYPE)]
    told += [await append((0, 0), ("a:1", 1, 11), ("mail", "x", "", "a:1", 1))]  # it came late
    told += [await append((1, 11), ("b:1", 1, 12), ("mail", "x", "", "b:1", 1))]  # held
    told += [await append((1, 11), ("b:1", 1, 12), ("mail", "x", "a:1", "b:1", 1))]
    told += [
        await append((2, 12), ("b:1", 9, 13), ("mail", "y", "", "b:1", 1), expected={"b:1": 8})
    ]
    told += [
        await append(
            *((2, 12), ("b:1", 2, 13), ("mail", "x", "b:1", "", 1), ("mail", "z", "", "b:1", 1)),
            expected={"b:1": 1},
        )
    ]
    for query, *values in (
        (HOLDERS, ["mail", "mail"], ["x", "z"]),
        (READ, "", "", 10),
        (READ, "mail", "z", 10),
        (reading.HEAD,),
    ):
        told += [await ask(place, connection, query, *values)]
    return told


async def timers_change_with_their_events(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)

    async def append(
        head: tuple[int, int],
        event: Any,
        fired: Any = (),
        dropped: Any = (),
        new: Any = (),
        **rest: Any,
    ) -> Any:
        columns = [
            [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
            for rows, width in ((fired, 3), (dropped, 2), (new, 8))
        ]
        extras = [*([],) * 5, *columns[0], *columns[1], *columns[2]]
        query = (*batch(session, head, event, alone=False, **rest), *extras)
        return await ask(place, connection, timers.APPEND_TIMERS, *query)

    def row(name: str, due: int, version: int) -> Sequence[Any]:
        return ["a:1", name, due, 1, version, "expire", b"{}", b""]

    both = [row("t", 5, 1), row("u", 9, 1)]
    told = [await append((0, 0), ("a:1", 1, 11), new=both, types=ONE_TYPE)]
    told += [await append((0, 0), ("a:1", 1, 11), new=both)]  # it came late
    told += [await append((1, 11), ("b:1", 1, 12), [("a:1", "t", 7)], [("a:1", "t")])]  # another
    told += [await append((1, 11), ("b:1", 1, 12), [("a:1", "t", 1)], [("a:1", "t")])]
    told += [
        await append(
            *((2, 12), ("a:1", 2, 13)),
            dropped=[("a:1", "u"), ("a:1", "v")],
            new=[row("u", 7, 2), row("v", 6, 2)],
            expected={"a:1": 1},
        )
    ]
    settled = [["a:1"] * 3, ["u", "v", "w"], [3, 3, 3], [-1, 60, -1], [0, 2, 0], [False] * 3]
    told += [await ask(place, connection, SETTLE, session + 1, *settled, ["", "why", ""])]
    told += [await ask(place, connection, SETTLE, session, *settled, ["", "why", ""])]
    for query, *values in (
        (STANDING, ["a:1", "a:1"], ["u", "v"]),
        (DUE, -1, 0, "", "", 59, 10),
        (DUE, -1, 0, "", "", 60, 10),
        (ALL_TIMERS, "a:1", "u", 10),
        (COUNT,),
    ):
        told += [await ask(place, connection, query, *values)]
    return told


SCENARIOS: Sequence[Scenario] = (
    the_schema_is_made_once,
    one_session_has_the_log,
    whose_a_log_is_can_be_asked,
    presence_shows_while_a_connection_stands,
    an_append_is_taken_where_the_log_ends,
    pages_are_cut_by_events_and_bytes,
    snapshots_replace_each_other,
    what_is_not_committed_is_not_seen,
    a_failed_transaction_takes_nothing_more,
    an_append_waits_for_the_lock,
    a_lock_is_waited_for_in_vain,
    a_broken_connection_gives_its_locks_back,
    a_backend_that_is_ended_writes_nothing,
    claims_change_with_their_events,
    timers_change_with_their_events,
)
