"""What an administrator sets on a server, and a full disk: typed, named, and nothing lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from engine import (
    Closed,
    Engine,
    EngineFailed,
    Ports,
    Query,
    StoreFailed,
    StoreRefused,
    Views,
    Voided,
    answers,
)
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.schema import lock_key
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.urls import sql_of_schema
from engine.testing.conformance import append, feed, numbers, request
from tests.support.counters import Add, Counter
from tests.support.postgres import (
    Server,
    connected,
    postgres_server,
    unprivileged,
    wheel_programs,
)
from tests.support.tallies import GetTallies, Tallies, get_tallies, tallied
from tests.support.waiting import until


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that is set otherwise by these tests, and by nobody else's."""
    with postgres_server(wheel_programs()) as server:
        yield server


@pytest.fixture
def schema(own: Server) -> str:
    return own.new_schema()


@pytest.fixture
def role(own: Server, schema: str) -> str:
    """A role for an engine, for which an administrator may set this and that."""
    own.sql(f"CREATE ROLE of_{schema} LOGIN; GRANT CREATE ON DATABASE postgres TO of_{schema}")
    return f"of_{schema}"


def url_of(own: Server, schema: str, role: str, *options: str) -> str:
    return own.url(schema, *options).replace("postgres@", f"{role}@")


# -- settings that change while an engine runs ----------------------------------------------------


@pytest.fixture
async def resetting(own: Server) -> AsyncIterator[None]:
    yield
    own.sql("ALTER SYSTEM RESET ALL")
    own.sql("SELECT pg_reload_conf()")


@pytest.mark.usefixtures("resetting")
@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_is_set_to_lose_events_by_a_reload_ends_the_engine(
    own: Server, schema: str, setting: str
) -> None:
    with pytest.raises(EngineFailed) as ended:
        async with Engine([Counter], store=own.url(schema, "lease=1"), views="memory:") as engine:
            await engine.execute(Add("a", 1))
            own.sql(f"ALTER SYSTEM SET {setting} = off")
            own.sql("SELECT pg_reload_conf()")
            await until(lambda: engine.failed)
            with pytest.raises(Closed):
                await engine.execute(Add("a", 1))

    assert f"has {setting}=off" in str(ended.value.__cause__)


async def test_a_statement_timeout_voids_a_batch_that_waits_for_longer(
    own: Server, schema: str, role: str
) -> None:
    own.sql(f"ALTER ROLE {role} SET statement_timeout = '300ms'")
    store = PostgresStore(read_address(url_of(own, schema, role, "lease=3600")))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    administrator = await connected(own)
    locked = administrator.transaction()
    await locked.start()
    await administrator.fetch("SELECT pg_advisory_xact_lock($1, $2)", *lock_key(schema))
    with pytest.raises(StoreFailed, match="statement timeout") as failed:
        await append(store, request("a:1", 1, 2))
    await locked.rollback()
    await administrator.close()

    assert (failed.value.written, failed.value.stopped, failed.value.passes) == (False, False, True)
    await append(store, request("a:1", 1, 3))
    assert numbers(await feed(store)) == [1, 3]
    await store.close()


@pytest.mark.parametrize("setting", ["statement_timeout", "transaction_timeout"])
async def test_a_projection_whose_writes_run_out_of_time_tries_again_and_counts_each_event_once(
    own: Server, schema: str, role: str, setting: str
) -> None:
    own.sql(f"ALTER ROLE {role} SET {setting} = '2s'")
    async with tallied(url_of(own, schema, role, "lease=3600")) as engine:
        await engine.query(GetTallies(), at=await engine.execute(Add("a", 1)))
        administrator = await connected(own)
        locked = administrator.transaction()
        await locked.start()
        await administrator.execute(f"LOCK TABLE {schema}_views.checkpoints IN EXCLUSIVE MODE")
        last = await engine.execute(Add("a", 2))
        await until(lambda: engine.statistics().projectors["tallies"].retrying)
        await locked.rollback()
        await administrator.close()
        (found,) = await engine.query(GetTallies(), at=last)

    assert (found.total, found.events) == (3, 2)


# -- room ---------------------------------------------------------------------------------------


async def test_too_many_connections_are_named_and_waited_for(
    own: Server, schema: str, role: str
) -> None:
    url = url_of(own, schema, role, "lease=3600")
    own.sql(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    with pytest.raises(StoreFailed, match="too many connections for role") as full:
        await PostgresStore(read_address(url)).open(Ports())
    assert (full.value.written, full.value.passes) == (False, True)

    own.sql(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    store = PostgresStore(read_address(url))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    own.sql(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    own.sql(
        f"SELECT pg_terminate_backend(pid, 9000) FROM pg_stat_activity WHERE usename = '{role}'"
    )
    waiting = asyncio.ensure_future(append(store, request("a:1", 1, 2)))
    async with asyncio.timeout(60):
        while "too many connections for role" not in own.log():
            await asyncio.sleep(0.01)
    assert not waiting.done()
    own.sql(f"ALTER ROLE {role} CONNECTION LIMIT -1")
    await waiting

    assert numbers(await feed(store)) == [1, 2]
    told = store.server_statistics()
    assert told is not None
    assert told.reconnects >= 1
    assert 0 < told.lease_seconds_left <= 3_600
    await store.close()


async def test_an_answer_waits_for_a_connection_that_another_one_gives_back(
    own: Server, schema: str, role: str
) -> None:
    reading, leaving = asyncio.Event(), asyncio.Event()

    class GetHeld(Query[int]):
        pass

    @answers
    async def held(query: GetHeld, views: Views) -> int:
        found = len(await views.find(Tallies.rows))
        reading.set()
        await leaving.wait()
        return found

    url = url_of(own, schema, role, "lease=3600")
    async with Engine(
        [Counter], projections=[Tallies], answers=[held, get_tallies], store=url
    ) as engine:
        last = await engine.execute(Add("a", 1))
        first = asyncio.ensure_future(engine.query(GetHeld(), at=last))
        await reading.wait()
        taken = own.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'")
        own.sql(f"ALTER ROLE {role} CONNECTION LIMIT {taken}")
        refusals = own.log().count("too many connections for role")
        second = asyncio.ensure_future(engine.query(GetTallies()))
        while own.log().count("too many connections for role") == refusals:
            await asyncio.sleep(0.01)
        leaving.set()

        assert await first == 1
        assert len(await second) == 1
    own.sql(f"ALTER ROLE {role} CONNECTION LIMIT -1")


@pytest.fixture
def small_disk(own: Server) -> Iterator[str]:
    """A tablespace on a disk of a few megabytes."""
    folder = own.folder / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    user = unprivileged()
    if user is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("no disk can be mounted here")
    try:
        os.chown(folder, user.pw_uid, user.pw_gid)
        own.sql(f"CREATE TABLESPACE small LOCATION '{folder}'")
        yield "small"
        own.sql("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


async def test_a_full_disk_of_the_server_voids_commands_and_stops_nothing(
    own: Server, schema: str, small_disk: str
) -> None:
    text = {"x" * 20_000: [1]}
    async with tallied(own.url(schema, "lease=3600")) as engine:
        await engine.execute(Add("a", 1))
        own.sql(f"ALTER TABLE {schema}.events SET TABLESPACE {small_disk}")
        own.sql(f"ALTER TABLE {schema}.events ALTER payload SET STORAGE EXTERNAL")
        acknowledged = 1
        with pytest.raises(Voided, match="No space left on device"):
            while True:
                sent = [engine.execute(Add("a", 1, tags=text)) for _ in range(10)]
                acknowledged += len(await asyncio.gather(*sent))
        assert engine.failed is None
        own.sql(f"ALTER TABLE {schema}.events SET TABLESPACE pg_default")
        last = await engine.execute(Add("a", 1))
        (found,) = await engine.query(GetTallies(), at=last)

    assert acknowledged > 20
    assert found.events == last.position
    assert own.sql(f"SELECT count(*) FROM {schema}.events") == str(last.position)
    assert last.position >= acknowledged + 1


# -- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_views"])
async def test_a_schema_of_somebody_else_is_refused_by_name_and_left_alone(
    own: Server, schema: str, role: str, suffix: str
) -> None:
    own.sql(f"CREATE SCHEMA {schema}{suffix}")
    with pytest.raises(StoreRefused, match="permission denied for schema"):
        async with tallied(url_of(own, schema, role, "lease=1")):
            raise AssertionError("it must not start")

    found = f"SELECT count(*) FROM pg_class WHERE relnamespace = '{schema}{suffix}'::regnamespace"
    assert own.sql(found) == "0"


async def test_a_role_works_with_what_the_owner_made_by_hand(own: Server, schema: str) -> None:
    own.sql(f"CREATE ROLE of_{schema} LOGIN")
    own.sql(sql_of_schema(own.url(schema), since=0, role=f"of_{schema}"))
    for expected in (1, 2):
        async with tallied(url_of(own, schema, f"of_{schema}", "lease=1")) as engine:
            last = await engine.execute(Add("a", 1))
            (found,) = await engine.query(GetTallies(), at=last)
            await engine.projections.pause("tallies", reason="look")
            await engine.projections.resume("tallies", reason="looked")
        assert found.events == expected
    assert own.sql(f"SELECT has_table_privilege('of_{schema}', '{schema}.events', 'INSERT')") == "f"


async def test_a_log_that_could_not_be_read_at_the_start_is_given_back_at_once(
    own: Server, schema: str
) -> None:
    own.sql(f"CREATE ROLE of_{schema} LOGIN")
    url = own.url(schema)
    own.sql(sql_of_schema(url, since=0, role=f"of_{schema}"))
    own.sql(f"REVOKE SELECT ON {schema}.events FROM of_{schema}")
    with pytest.raises(StoreRefused, match="permission denied for table events"):
        await PostgresStore(read_address(url_of(own, schema, f"of_{schema}"))).open(Ports())

    assert own.sql(f"SELECT count(*) FROM {schema}.sessions WHERE live") == "0"


async def opened_by(own: Server, schema: str, role: str) -> None:
    """Open a log that is there already, and close it."""
    store = PostgresStore(read_address(url_of(own, schema, role)))
    await store.open(Ports())
    await store.close()


async def test_a_user_who_may_only_read_is_told_so_and_not_that_the_server_is_away(
    own: Server, schema: str, role: str
) -> None:
    await opened_by(own, schema, role)
    own.sql(f"ALTER ROLE {role} SET default_transaction_read_only = on")

    with pytest.raises(StoreFailed, match="takes no writes now: .*read_only is on") as failed:
        await opened_by(own, schema, role)
    assert failed.value.passes


async def test_a_start_that_runs_out_of_time_names_the_setting(
    own: Server, schema: str, role: str
) -> None:
    await opened_by(own, schema, role)
    own.sql(f"ALTER ROLE {role} SET statement_timeout = '50ms'")
    stranger = await connected(own)
    async with stranger.transaction():
        await stranger.execute("SELECT pg_advisory_xact_lock($1, $2)", *lock_key(schema))

        with pytest.raises(StoreFailed, match=r"was reached, .*\(statement_timeout\)") as failed:
            await opened_by(own, schema, role)
    assert failed.value.passes
    await stranger.close()
