"""The primary dies and its standby takes its place, with all that was acknowledged or without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine import Ports, StoreFailed, StoreRefused
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, feed, numbers, request
from tests.support.postgres import Server, asked, postgres_server, wheel_programs


@pytest.fixture
def primary() -> Iterator[Server]:
    with postgres_server(wheel_programs()) as server:
        yield server


@pytest.fixture
def standby(primary: Server) -> Iterator[Server]:
    with postgres_server(wheel_programs(), follows=primary) as server:
        yield server


def store_of(*servers: Server) -> PostgresStore:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return PostgresStore(read_address(f"postgresql://postgres@{hosts}/postgres?lease=3600"))


async def test_a_standby_that_has_all_of_it_goes_on_with_the_log(
    primary: Server, standby: Server
) -> None:
    store = store_of(primary, standby)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    lag = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) FROM pg_stat_replication"
    while await asked(primary, lag) != [(0,)]:
        pass
    primary.kill()
    standby.sql("SELECT pg_promote()")
    await append(store, request("a:1", 1, 2))

    assert numbers(await feed(store)) == [1, 2]
    assert await asked(standby, "SELECT count(*) FROM foldline.events") == [(2,)]
    await store.close()


async def test_a_standby_that_lost_what_was_acknowledged_is_not_appended_to(
    primary: Server, standby: Server
) -> None:
    store = store_of(primary, standby)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    standby.stop()
    await append(store, request("a:1", 1, 2))
    primary.kill()
    standby.start()
    standby.sql("SELECT pg_promote()")
    with pytest.raises(StoreFailed, match="the log went back") as failed:
        await append(store, request("b:1", 0, 3))

    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert await asked(standby, "SELECT count(*) FROM foldline.events WHERE version > 1") == [(0,)]
    await store.close()


async def test_a_standby_that_follows_is_not_opened(primary: Server, standby: Server) -> None:
    with pytest.raises((StoreFailed, StoreRefused), match="standby"):
        await store_of(standby).open(Ports())
