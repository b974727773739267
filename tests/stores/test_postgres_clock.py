"""The clock of a PostgreSQL server that goes back: leases of the dead end no later for that."""

from __future__ import annotations

import asyncio
import logging

import pytest

from engine import Ports, StoreLocked
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.leases_sql import seconds_left
from engine.stores.postgres.log.members import Attendance
from engine.stores.postgres.log.session import holder_text
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.outside.directory import PostgresOwnerDirectory
from engine.testing.conformance import append, request
from tests.support.postgres import Server, asked
from tests.support.waiting import until

BACK = "interval '1 hour'"
"""What the clock goes back by: what it said before is so far ahead of it then."""


def store_in(server: Server, schema: str, *options: str) -> PostgresStore:
    return PostgresStore(read_address(server.url(schema, *options)))


@pytest.fixture
async def schema(postgres: Server) -> str:
    schema = postgres.new_schema()
    store = store_in(postgres, schema)
    await store.open(Ports())
    await store.close()
    return schema


async def goes_back(server: Server, schema: str) -> None:
    """Let all leases look as they do once the clock went back."""
    for table in ("sessions", "members"):
        await asked(server, f"UPDATE {schema}.{table} SET lease_until = lease_until + {BACK}")


async def died(server: Server, schema: str, seconds: float) -> None:
    """Leave a session behind, as a process that was killed does."""
    await asked(server, f"SELECT {schema}.begin_session_2('dead', {seconds}, false)")


async def test_the_next_engine_waits_for_one_lease_and_no_longer(
    postgres: Server, schema: str
) -> None:
    await died(postgres, schema, 1)
    await goes_back(postgres, schema)

    store = store_in(postgres, schema, "lease=1")
    async with asyncio.timeout(60):
        await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()


async def test_an_engine_that_lives_keeps_its_log(postgres: Server, schema: str) -> None:
    store = store_in(postgres, schema, "lease=600")
    await store.open(Ports())
    await goes_back(postgres, schema)

    with pytest.raises(StoreLocked):
        await store_in(postgres, schema, "lease=600").open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()


async def test_a_lease_that_is_as_long_as_it_was_given_is_not_shortened(
    postgres: Server, schema: str
) -> None:
    await died(postgres, schema, 600)
    until_when = f"SELECT lease_until FROM {schema}.sessions WHERE live"
    given = await asked(postgres, until_when)
    await asked(postgres, f"SELECT {schema}.mend_leases_1(1)")

    assert await asked(postgres, until_when) == given


async def test_members_declare_one_dead_whose_lease_the_clock_has_made_longer(
    postgres: Server, schema: str
) -> None:
    address = read_address(postgres.url(schema, "lease=1"))
    holder, logger = holder_text("one", "unix:/one"), logging.getLogger("foldline")
    one = Attendance(address, Ports(), holder, lambda _: None, logger)
    await one.join()
    running = asyncio.create_task(one.run())
    await asked(postgres, f"SELECT {schema}.join_members_1('dead', 1)")
    await until(lambda: len(one.view.members) == 2)
    await goes_back(postgres, schema)

    await until(lambda: [there.holder for there in one.view.members] == ["one"])
    running.cancel()
    await asyncio.wait([running])
    await one.close()


async def test_who_would_join_is_told_that_the_owners_lease_ends(
    postgres: Server, schema: str
) -> None:
    await died(postgres, schema, 1)
    await goes_back(postgres, schema)
    directory = PostgresOwnerDirectory(read_address(postgres.url(schema, "lease=1")), Ports())

    first, second = await directory.owner(), await directory.owner()
    await directory.close()
    assert first is not None
    assert second is not None
    assert first.seconds_left > 3_000 > 9 > second.seconds_left


async def test_a_clock_behind_the_start_of_its_server_spares_nobody(postgres: Server) -> None:
    left = seconds_left("m").replace(
        "pg_catalog.pg_postmaster_start_time()", f"(clock_timestamp() + {BACK})"
    )
    query = f"SELECT {left} FROM (SELECT clock_timestamp() - interval '5 s' AS lease_until) AS m"
    ((seconds,),) = await asked(postgres, query, 9.0)

    assert seconds <= 0
