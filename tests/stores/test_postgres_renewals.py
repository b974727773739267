"""A renewal that is on its way while another engine asks for the log: one of them has it after."""

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
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = $1"
    while not await asked(postgres, waits, question):
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
