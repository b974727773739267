"""A connection breaks while a batch is appended: whatever happens, its outcome is found out."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import engine.stores.postgres.address as address_module
import engine.stores.postgres.log.writer as writer_module
from engine import Closed, Engine, EngineFailed, Ports, StoreFailed, StoreRefused
from engine.model.stored import EventType
from engine.stores.contract.claims import ClaimTaken, HeldClaim, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, StreamConflict, StreamRead, Write
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.schema import lock_key
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.log.writer import Writer
from engine.testing.conformance import ALL, append, event, feed, numbers, request
from tests.support.counters import Add, Counter
from tests.support.cutting import CutLine, Fault, cut_line
from tests.support.postgres import (
    Server,
    asked,
    connected,
    lose,
    postgres_server,
    wheel_programs,
)
from tests.support.waiting import settle, until


@pytest.fixture
async def line(postgres: Server) -> AsyncIterator[CutLine]:
    async with cut_line(postgres.port) as made:
        yield made


@pytest.fixture
def schema(postgres: Server) -> str:
    return postgres.new_schema()


@pytest.fixture
async def store(postgres: Server, line: CutLine, schema: str) -> AsyncIterator[PostgresStore]:
    opened = store_of(postgres, schema, port=line.port)
    await opened.open(Ports())
    await append(opened, request("a:1", 0, 1))
    yield opened
    await opened.close()


def store_of(
    server: Server, schema: str, *options: str, port: int | None = None, user: str = "postgres"
) -> PostgresStore:
    # No renewal of the lease comes between.
    url = server.url(schema, "lease=3600", *options, port=port)
    return PostgresStore(read_address(url.replace("postgres@", f"{user}@")))


def writer_of(store: PostgresStore) -> Writer:
    assert store._writer is not None
    return store._writer


FAULTS: Sequence[Fault] = ("request", "half", "reply", "late")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_line_that_is_cut_costs_nothing_but_time(
    store: PostgresStore, line: CutLine, fault: Fault
) -> None:
    line.cut_next(fault)
    outcomes = await append(store, request("a:1", 1, 2, 3), request("b:1", 0, 4))

    assert outcomes == [Appended(3, (3,)), Appended(4, (1,))]
    assert line.cuts[fault] == 1
    writer = writer_of(store)
    assert (writer.found_written, writer.written_again) == ((1, 0) if fault == "reply" else (0, 1))
    assert await append(store, request("b:1", 1, 5)) == [Appended(5, (2,))]
    assert numbers(await feed(store)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("fault", FAULTS)
async def test_conflicts_are_answered_as_they_would_have_been(
    store: PostgresStore, line: CutLine, fault: Fault
) -> None:
    line.cut_next(fault)
    outcomes = await append(store, request("a:1", 0, 8), request("b:1", 0, 2), request("a:1", 1, 9))

    assert outcomes == [StreamConflict("a:1", 0, 1), Appended(2, (1,)), StreamConflict("a:1", 1, 1)]
    assert numbers(await feed(store)) == [1, 2]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_batch_that_is_planned_is_found_too(
    store: PostgresStore, line: CutLine, fault: Fault
) -> None:
    """It brings a type, goes over two streams, and part of it does not fit."""
    moved = EventType("moved", 1, "01")
    both = AppendRequest([Write("b:1", 0, [event(2, moved)]), Write("c:1", 0, [event(3)])])
    await append(store, request("d:1", 0, 0))
    asked_first: list[Fault] = [fault]

    async def cut_the_append() -> Sequence[object]:
        # The versions are read first; what comes then is the append.
        original = Writer._send

        async def send(self: Writer, *values: Any) -> object:
            line.cut_next(*asked_first)
            asked_first.clear()
            return await original(self, *values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Writer, "_send", send)
            return await append(store, request("a:1", 7, 9), both)

    assert await cut_the_append() == [StreamConflict("a:1", 7, 1), Appended(4, (1, 1))]
    assert line.cuts[fault] == 1
    assert [kind.name for kind in await store.event_types()] == ["added", "moved"]
    assert [e.name for e in await feed(store)] == ["added", "added", "moved", "added"]
    again = EventType("moved", 1, "01")
    assert await append(store, AppendRequest([Write("b:1", 1, [event(5, again)])])) == [
        Appended(5, (2,))
    ]


@pytest.mark.parametrize("fault", FAULTS)
async def test_claims_are_taken_once_whatever_is_cut(
    store: PostgresStore, line: CutLine, fault: Fault
) -> None:
    def taking(stream: str, number: int) -> AppendRequest:
        return AppendRequest([Write(stream, 0, [event(number)])], [TakeClaim("n", "x", stream)])

    line.cut_next(fault)
    outcomes = await append(store, request("b:1", 0, 2), taking("c:1", 3))
    assert outcomes == [Appended(2, (1,)), Appended(3, (1,))]
    line.cut_next(fault)
    outcomes = await append(store, taking("d:1", 4), request("b:1", 1, 5))

    assert outcomes == [ClaimTaken(0), Appended(4, (2,))]
    assert await store.read_claims(claims_max=9) == [HeldClaim("n", "x", "c:1", 3)]
    assert numbers(await feed(store)) == [1, 2, 3, 5]


async def test_a_line_that_is_cut_again_and_again_is_outlasted(
    store: PostgresStore, line: CutLine
) -> None:
    line.cut_next("reply", "request", "half", "reply", "request", "late", "reply")
    outcomes = await append(store, request("a:1", 1, 2))

    assert outcomes == [Appended(2, (2,))]
    assert numbers(await feed(store)) == [1, 2]


async def test_a_batch_that_comes_late_finds_that_the_log_has_gone_on(
    store: PostgresStore, line: CutLine, postgres: Server, schema: str
) -> None:
    """Also where its streams would fit again: it stands behind another event."""
    line.cut_next("late")
    assert await append(store, request("b:1", 1, 9)) == [StreamConflict("b:1", 1, 0)]
    await append(store, request("b:1", 0, 2))
    line.release_late()
    await until_idle(postgres)

    assert numbers(await feed(store)) == [1, 2]
    assert await append(store, request("b:1", 1, 3)) == [Appended(3, (2,))]


async def until_idle(postgres: Server) -> None:
    """Wait until no append is at work in the server."""
    while (
        await asked(
            postgres,
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND "
            "query LIKE '%append_1%' AND pid <> pg_backend_pid()",
        )
    ) != [(0,)]:
        await asyncio.sleep(0)


async def test_a_caller_that_is_cancelled_while_the_server_works_loses_nothing(
    store: PostgresStore, postgres: Server, schema: str
) -> None:
    other = await connected(postgres)
    first, second = lock_key(schema)
    await other.execute(f"SELECT pg_advisory_lock({first}, {second})")
    waiting = asyncio.ensure_future(append(store, request("a:1", 1, 2)))
    await settle()
    waiting.cancel()
    await settle()
    assert not waiting.done()
    await other.close()
    await asyncio.wait([waiting])

    assert await append(store, request("a:1", 2, 3)) == [Appended(3, (3,))]
    assert numbers(await feed(store)) == [1, 2, 3]


async def test_a_log_that_is_taken_over_while_a_batch_waits_has_nothing_of_it(
    store: PostgresStore, postgres: Server, schema: str
) -> None:
    other = await connected(postgres)
    first, second = lock_key(schema)
    await other.execute(f"SELECT pg_advisory_lock({first}, {second})")
    waiting = asyncio.ensure_future(append(store, request("a:1", 1, 2)))
    await settle()
    await other.execute(f"UPDATE {schema}.sessions SET live = false")
    await other.close()
    with pytest.raises(StoreFailed, match="taken this log over") as fenced:
        await waiting

    assert (fenced.value.written, fenced.value.stopped) == (False, True)
    assert await asked(postgres, f"SELECT count(*) FROM {schema}.events") == [(1,)]


async def test_a_backend_that_is_ended_while_nothing_is_asked_is_not_noticed(
    store: PostgresStore, postgres: Server
) -> None:
    await asked(
        postgres,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'foldline'",
    )
    pages = await store.read_streams([StreamRead("a:1")], events_max=9, bytes_max=ALL)
    assert numbers(pages[0].events) == [1]
    assert await append(store, request("a:1", 1, 2)) == [Appended(2, (2,))]


async def test_events_that_were_acknowledged_and_are_gone_stop_the_log(
    store: PostgresStore, postgres: Server, schema: str
) -> None:
    await append(store, request("a:1", 1, 2))
    await lose(postgres, schema, 2)
    with pytest.raises(StoreFailed, match="the log went back") as failed:
        await append(store, request("b:1", 0, 3))
    assert (failed.value.written, failed.value.stopped) == (False, True)
    with pytest.raises(StoreFailed, match="takes nothing more: .*the log went back"):
        await append(store, request("b:1", 0, 3))

    assert await asked(postgres, f"SELECT count(*) FROM {schema}.events") == [(1,)]


async def test_other_events_in_place_of_those_that_were_acknowledged_stop_the_log(
    store: PostgresStore, postgres: Server, schema: str
) -> None:
    """As where another engine has gone on from what a failover left."""
    await append(store, request("a:1", 1, 2))
    await lose(postgres, schema, 2)
    await asked(postgres, f"UPDATE {schema}.sessions SET live = false")
    other = store_of(postgres, schema)
    await other.open(Ports())
    await append(other, request("x:1", 0, 7), request("x:2", 0, 8))
    await other.close()
    await asked(postgres, f"UPDATE {schema}.sessions SET live = (session = 1)")
    with pytest.raises(StoreFailed, match="the log went back") as failed:
        await append(store, request("b:1", 0, 3))

    assert failed.value.stopped
    assert await asked(postgres, f"SELECT count(*) FROM {schema}.events") == [(3,)]


# -- a server that stays away


@pytest.fixture
async def own_server() -> AsyncIterator[Server]:
    with postgres_server(wheel_programs()) as server:
        yield server


async def test_a_server_that_is_killed_and_comes_back_has_each_batch_once(
    own_server: Server,
) -> None:
    store = store_of(own_server, "foldline")
    await store.open(Ports())
    await append(store, request("a:1", 0, 0))
    for number in range(1, 3):
        waiting = [asyncio.ensure_future(append(store, request("a:1", number, number)))]
        await settle()
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        (outcomes,) = await asyncio.gather(*waiting)
        assert outcomes == [Appended(number + 1, (number + 1,))]

    assert numbers(await feed(store)) == [0, 1, 2]
    await store.close()


async def test_a_server_that_stays_away_is_told_and_the_log_goes_on_when_it_is_back(
    own_server: Server,
) -> None:
    store = store_of(own_server, "foldline", "patience=0.3")
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    own_server.stop()
    await until(lambda: writer_of(store).line.is_closed)
    with pytest.raises(StoreFailed, match="for 0.3 s.*Nothing was written") as failed:
        await append(store, request("a:1", 1, 2))
    assert (failed.value.written, failed.value.stopped) == (False, False)
    assert failed.value.passes
    with pytest.raises(StoreFailed, match="cannot be") as unread:
        await store.read_feed(0, events_max=1, bytes_max=1)
    assert unread.value.passes
    await asyncio.to_thread(own_server.start)

    assert await append(store, request("a:1", 1, 3)) == [Appended(2, (2,))]
    assert numbers(await feed(store)) == [1, 3]
    await store.close()


async def test_the_outcome_is_unknown_only_behind_the_patience(own_server: Server) -> None:
    async with cut_line(own_server.port) as line:
        store = store_of(own_server, "foldline", "patience=0.3", port=line.port)
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        line.cut_often(request=1.0)
        with pytest.raises(StoreFailed, match="nobody knows") as failed:
            await append(store, request("a:1", 1, 2))
        assert failed.value.written is None
        line.cut_often()
        with pytest.raises(StoreFailed, match="takes nothing more") as failed:
            await append(store, request("a:1", 1, 2))
        assert failed.value.stopped
        await store.close()


# -- what an administrator may do


async def test_a_time_limit_of_the_administrator_voids_the_batch_and_no_more(
    postgres: Server, schema: str
) -> None:
    user = f"timed_{schema}"
    await asked(postgres, f"CREATE ROLE {user} LOGIN SUPERUSER")
    await asked(postgres, f"ALTER ROLE {user} SET statement_timeout = '300ms'")
    store = store_of(postgres, schema, user=user)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    other = await connected(postgres)
    first, second = lock_key(schema)
    await other.execute(f"SELECT pg_advisory_lock({first}, {second})")
    with pytest.raises(StoreFailed, match="statement timeout.*57014") as failed:
        await append(store, request("a:1", 1, 2))
    assert (failed.value.written, failed.value.stopped) == (False, False)
    await other.close()

    assert await append(store, request("a:1", 1, 3)) == [Appended(2, (2,))]
    await store.close()


async def test_too_many_connections_are_told_and_pass(postgres: Server, schema: str) -> None:
    user = f"few_{schema}"
    await asked(postgres, f"CREATE ROLE {user} LOGIN CONNECTION LIMIT 1")
    await asked(postgres, f"GRANT CREATE ON DATABASE postgres TO {user}")
    store = store_of(postgres, schema, "patience=0.2", user=user)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    with pytest.raises(StoreFailed, match="too many connections") as refused:
        await store.read_feed(0, events_max=1, bytes_max=1)
    assert refused.value.passes
    await asked(postgres, f"ALTER ROLE {user} CONNECTION LIMIT 5")

    assert numbers(await feed(store)) == [1]
    await store.close()


async def test_a_commit_that_does_not_wait_for_the_standbys_is_refused(
    own_server: Server,
) -> None:
    own_server.sql("CREATE ROLE hasty LOGIN SUPERUSER")
    own_server.sql("ALTER ROLE hasty SET synchronous_commit = local")
    own_server.stop()
    own_server.settings["synchronous_standby_names"] = "nobody"
    await asyncio.to_thread(own_server.start)

    with pytest.raises(StoreRefused, match="synchronous_commit=local"):
        await store_of(own_server, "foldline", user="hasty").open(Ports())


async def test_an_engine_at_rest_ends_when_its_log_is_taken_over(
    postgres: Server, schema: str
) -> None:
    url = postgres.url(schema, "lease=1")
    with pytest.raises(EngineFailed) as ended:
        async with Engine([Counter], store=url, views="memory:") as engine:
            await engine.execute(Add("a", 1))
            await asked(postgres, f"UPDATE {schema}.sessions SET live = false")
            await until(lambda: engine.failed)
            with pytest.raises(Closed):
                await engine.execute(Add("a", 1))

    assert "taken this log over" in str(ended.value.__cause__)


async def test_a_server_that_is_set_to_lose_events_is_refused_when_it_comes_back(
    own_server: Server,
) -> None:
    store = store_of(own_server, "foldline")
    await store.open(Ports())
    own_server.stop()
    own_server.settings["fsync"] = "off"
    await asyncio.to_thread(own_server.start)
    await until(lambda: writer_of(store).line.is_closed)
    with pytest.raises(StoreFailed, match="fsync=off") as failed:
        await append(store, request("a:1", 0, 1))

    assert (failed.value.written, failed.value.stopped) == (False, True)
    await store.close()


async def test_reads_that_wait_for_a_lock_keep_no_lease_from_its_renewal(
    postgres: Server, schema: str
) -> None:
    store = PostgresStore(read_address(postgres.url(schema, "lease=1")))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    until_when = f"SELECT lease_until FROM {schema}.sessions WHERE live"
    administrator = await connected(postgres)
    locked = administrator.transaction()
    await locked.start()
    await administrator.execute(f"LOCK TABLE {schema}.events")
    reads = [asyncio.create_task(feed(store)) for _ in range(4)]
    begun = await asked(postgres, until_when)
    async with asyncio.timeout(60):
        while await asked(postgres, until_when) == begun:
            await asyncio.sleep(0.01)
    assert not any(read.done() for read in reads)

    await locked.rollback()
    await administrator.close()
    assert [numbers(await read) for read in reads] == [[1]] * 4
    await store.close()


async def test_a_lock_is_taken_back_from_an_engine_that_is_paused_with_it(
    postgres: Server,
    store: PostgresStore,
    line: CutLine,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = "SET LOCAL idle_in_transaction_session_timeout"
    monkeypatch.setattr(writer_module, "_LIMITS", f"{limit} = 99")
    has_it, goes_on = asyncio.Event(), asyncio.Event()
    read_head = vars(writer_module)["read_head"]

    async def pausing(*values: Any) -> Any:
        has_it.set()
        await goes_on.wait()
        return await read_head(*values)

    monkeypatch.setattr(writer_module, "read_head", pausing)
    line.cut_next("reply")
    appending = asyncio.ensure_future(append(store, request("a:1", 1, 2)))
    await has_it.wait()
    administrator = await connected(postgres)
    await administrator.fetch("SELECT pg_advisory_lock($1, $2)", *lock_key(schema))
    await administrator.close()
    goes_on.set()
    assert await appending == [Appended(2, (2,))]


async def test_a_start_that_waits_for_a_lock_is_given_up(
    postgres: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PostgresStore(read_address(postgres.url(schema, "patience=0.3", "lease=1")))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()
    monkeypatch.setattr(address_module, "_ANSWER_SECONDS", 0.3)
    administrator = await connected(postgres)
    locked = administrator.transaction()
    await locked.start()
    await administrator.execute(f"LOCK TABLE {schema}.events")
    async with asyncio.timeout(60):
        refused = (await asyncio.gather(store.open(Ports()), return_exceptions=True))[0]

    await locked.rollback()
    await administrator.close()
    assert isinstance(refused, StoreFailed)
    assert refused.written is False
    monkeypatch.undo()
    await store.open(Ports())
    assert numbers(await feed(store)) == [1]
    await store.close()


async def test_a_host_that_no_name_server_could_know_is_refused_without_the_password() -> None:
    address = read_address(f"postgresql://a:secret@{'x' * 80}.example/b")
    with pytest.raises((StoreFailed, StoreRefused)) as refused:
        await PostgresStore(address).open(Ports())

    shown = "".join(traceback.format_exception(refused.value, limit=None))
    assert "secret" not in shown
    frames = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    assert "'secret'" not in "".join(frames.format())
