"""Renewals of leases beside engines that start.

One that is on its way is waited for, and one of the two has the log after. None of them waits for a
start: what starts here has not committed, as it is while a disk or a standby takes its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import Ports, StoreFailed
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, request
from tests.support.late_clock import LateClock
from tests.support.postgres import Server, asked, connected
from tests.support.waiting import until

_OVER = 0.0
"""Seconds of a lease that is over as soon as it is given."""
_WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = $1"


@pytest.fixture
async def schema(postgres: Server) -> str:
    schema = postgres.new_schema()
    store = PostgresStore(read_address(postgres.url(schema)))
    await store.open(Ports())
    await store.close()
    return schema


@pytest.fixture
async def renewing(postgres: Server) -> AsyncIterator[Any]:
    connection = await connected(postgres)
    yield connection
    await connection.close()


async def told_after(
    postgres: Server, renewing: Any, renewal: str, question: str
) -> tuple[Any, ...]:
    """Ask while a renewal is not committed yet; commit it; give what was answered then."""
    renewal_commits = renewing.transaction()
    await renewal_commits.start()
    assert await renewing.fetchval(renewal) is True
    answer = asyncio.ensure_future(asked(postgres, question))
    while not await asked(postgres, _WAITS, question):
        assert not answer.done(), "it did not wait"
    await renewal_commits.commit()
    (row,) = await answer
    return tuple(row)


async def test_who_was_told_that_he_has_the_log_keeps_it(
    postgres: Server, schema: str, renewing: Any
) -> None:
    begin = f"SELECT session, holder FROM {schema}.begin_session_2"
    ((first, _),) = await asked(postgres, f"{begin}('old', {_OVER}, false)")

    renewal = f"SELECT {schema}.renew_session_1({first}, 60)"
    told = await told_after(postgres, renewing, renewal, f"{begin}('new', 60, false)")

    assert told == (first, "old")


async def test_an_owner_of_a_part_whose_lease_was_renewed_is_no_owner_alone(
    postgres: Server, schema: str, renewing: Any
) -> None:
    join = f"SELECT joined, other FROM {schema}.join_members_2"
    ((member, _),) = await asked(postgres, f"{join}('part', {_OVER})")

    renewal = f"SELECT {schema}.renew_member_1({member}, 1, 60)"
    alone = f"SELECT session, holder FROM {schema}.begin_session_2('alone', 60, false)"
    told = await told_after(postgres, renewing, renewal, alone)

    assert told == (member, "part")


async def test_who_has_the_log_alone_and_renewed_that_keeps_owners_of_parts_out(
    postgres: Server, schema: str, renewing: Any
) -> None:
    begin = f"SELECT session FROM {schema}.begin_session_2('alone', {_OVER}, false)"
    ((session,),) = await asked(postgres, begin)

    renewal = f"SELECT {schema}.renew_session_1({session}, 60)"
    join = f"SELECT joined, other FROM {schema}.join_members_2('part', 60)"

    assert await told_after(postgres, renewing, renewal, join) == (None, "alone")


async def answered_beside(
    postgres: Server, starting: Any, start: str, *renewals: str
) -> tuple[tuple[Any, ...], str]:
    """Give what a start is told, and to what its commit is synced; all else is renewed before."""
    async with starting.transaction():
        row = await starting.fetchrow(start)
        for renewal in renewals:
            # An error after five seconds where the start has locked what is renewed.
            assert await asked(postgres, renewal) == [(True,)], renewal
        return tuple(row), await starting.fetchval("SHOW synchronous_commit")


async def test_who_is_told_that_another_one_has_the_log_keeps_no_renewal_waiting(
    postgres: Server, schema: str, renewing: Any
) -> None:
    begin = f"SELECT session, holder FROM {schema}.begin_session_2"
    join = f"SELECT joined, other FROM {schema}.join_members_2('part', 60)"
    ((session, _),) = await asked(postgres, f"{begin}('alone', 60, false)")
    renewal = f"SELECT {schema}.renew_session_1({session}, 60)"
    view = await asked(postgres, f"SELECT view FROM {schema}.membership")

    for start, told in (
        (f"{begin}('new', 60, false)", (session, "alone")),
        (f"{begin}('new', 60, true)", (session, "alone")),
        (join, (None, "alone")),
    ):
        said, _ = await answered_beside(postgres, renewing, start, renewal)
        assert said == told

    assert await asked(postgres, f"SELECT view FROM {schema}.membership") == view


async def test_who_joins_keeps_neither_who_leads_nor_other_owners_waiting(
    postgres: Server, schema: str, renewing: Any
) -> None:
    begin = f"SELECT session, holder FROM {schema}.begin_session_2"
    join = f"SELECT joined, other FROM {schema}.join_members_2"
    ((member, _),) = await asked(postgres, f"{join}('first', 60)")
    ((session, _),) = await asked(postgres, f"{begin}('leads', 60, true)")
    renewals = (
        f"SELECT {schema}.renew_session_1({session}, 60)",
        f"SELECT {schema}.renew_member_1({member}, 1, 60)",
    )

    for start, told in (
        (f"{begin}('leads too', 60, true)", (session, "leads")),
        (f"{begin}('alone', 60, false)", (member, "first")),
    ):
        said, _ = await answered_beside(postgres, renewing, start, *renewals)
        assert said == told
    (joined, other), synced = await answered_beside(
        postgres, renewing, f"{join}('second', 60)", *renewals
    )

    assert (joined is None, other, synced) == (False, None, "on")
    await asked(postgres, f"SELECT {schema}.end_session_1({session})")
    leads = f"{begin}('leads next', 60, true)"
    (_, holder), synced = await answered_beside(postgres, renewing, leads, renewals[1])
    assert (holder, synced) == (None, "on")


async def test_who_waited_for_a_renewal_waits_for_no_standby_behind_it(
    postgres: Server, schema: str, renewing: Any
) -> None:
    """What it has locked meanwhile is free as soon as it has its answer."""
    ((session,),) = await asked(
        postgres, f"SELECT session FROM {schema}.begin_session_2('alone', {_OVER}, false)"
    )
    starting = await connected(postgres)
    synced: list[Any] = []
    for start in (
        f"SELECT holder FROM {schema}.begin_session_2('new', 60, false)",
        f"SELECT other FROM {schema}.join_members_2('part', 60)",
    ):
        await asked(postgres, f"SELECT {schema}.renew_session_1({session}, {_OVER})")
        renewal_commits = renewing.transaction()
        await renewal_commits.start()
        await renewing.fetchval(f"SELECT {schema}.renew_session_1({session}, 60)")
        answer = asyncio.ensure_future(answered_beside(postgres, starting, start))
        while not await asked(postgres, _WAITS, start):
            assert not answer.done(), "it did not wait"
        await renewal_commits.commit()
        synced.append(await answer)
    await starting.close()

    assert synced == [(("alone",), "off")] * 2


async def test_an_engine_that_was_told_of_another_one_holds_nothing_any_more(
    postgres: Server, schema: str
) -> None:
    store = PostgresStore(read_address(postgres.url(schema)))
    await store.open(Ports())
    assert store.is_held()
    await asked(postgres, f"SELECT {schema}.end_session_1({store.session})")
    with pytest.raises(StoreFailed, match="taken this log over"):
        await append(store, request("a:1", 0, 1))

    # Its lease runs on by its own clock.
    assert not store.is_held()
    with pytest.raises(StoreFailed, match="taken this log over") as told:
        await store.held()

    assert (told.value.written, told.value.stopped) == (False, True)
    await store.close()


async def test_a_start_that_takes_long_renews_its_lease_at_once(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thirds of an hour are over behind the taking of the log, before it is open."""
    clock, begin = LateClock(), vars(PostgresStore)["_begin"]

    async def slowly(*known: Any) -> Any:
        clock.seconds = 2_400.0
        return await begin(*known)

    monkeypatch.setattr(PostgresStore, "_begin", slowly)
    store = PostgresStore(read_address(postgres.url(postgres.new_schema(), "lease=3600")))
    await store.open(Ports(clock=clock))

    def left() -> float:
        numbers = store.server_statistics()
        assert numbers is not None
        return numbers.lease_seconds_left

    await until(lambda: left() > 3_000)
    await store.close()
