"""Members, feeds and onlookers of a log in PostgreSQL are woken by notices, and do without them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Ports, StoreFailed
from engine.members import reading
from engine.outside import onlooker
from engine.outside.onlooker import Onlooker
from engine.stores.contract.outside import Notices
from engine.stores.postgres.address import read_address
from engine.stores.postgres.driver import Asyncpg
from engine.stores.postgres.line import Line
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.notices import tell_listeners
from engine.stores.postgres.outside import notices as listening
from engine.stores.postgres.outside.notices import PostgresNotices
from engine.stores.postgres.views.link import Place
from tests.members.joining import joined, some
from tests.support.counters import Add, Added, Counter
from tests.support.pgbouncer import pooler
from tests.support.postgres import Server, asked
from tests.support.tallies import GetTally, Tallies, Tally, get_tally
from tests.support.waiting import until

FOREVER = 3_600.0


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=2")


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look who is told, until he is."""
    monkeypatch.setattr(onlooker, "TOLD_LOOK_SECONDS", FOREVER)
    monkeypatch.setattr(onlooker, "_TOLD_RESTS", (FOREVER, FOREVER))
    monkeypatch.setattr(reading, "_TOLD_REST", FOREVER)


async def heard(found: Notices | None) -> Notices:
    """Wait until notices are heard."""
    assert found is not None
    await until(lambda: found.is_heard)
    return found


def notices_of(engine: Engine) -> Notices:
    part: Any = engine
    found: Notices | None = part._joined._onlooker.notices
    assert found is not None
    return found


@pytest.mark.usefixtures("only_told")
async def test_a_member_is_woken_by_what_the_owner_commits(log: str, tmp_path: Path) -> None:
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        await owner.execute(Add("c", 1))
        await heard(notices_of(member))
        feed = await stack.enter_async_context(aclosing(member.feed(follow=True)))
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"), at=1)))
        assert (await anext(feed)).meta.position == 1
        assert await anext(watch) == Tally("c", 1, 1)

        for total in range(2, 6):
            receipt = await owner.execute(Add("c", 1))
            assert (await anext(feed)).meta.position == receipt.position
            assert await anext(watch) == Tally("c", total, total)
            answer = await member.query(GetTally("c"), at=receipt, timeout=FOREVER)
            assert answer == Tally("c", total, total)


@pytest.mark.usefixtures("only_told")
async def test_an_onlooker_is_woken_beside_an_engine_that_nobody_joins(log: str) -> None:
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        engine = Engine([Counter], projections=[Tallies], answers=[get_tally], store=log)
        await stack.enter_async_context(engine)
        await engine.execute(Add("c", 1))
        looking = Onlooker(projections=[Tallies], answers=[get_tally], store=log)
        await stack.enter_async_context(looking)
        await heard(looking.notices)
        watch = await stack.enter_async_context(aclosing(looking.watch(GetTally("c"))))
        assert await anext(watch) == Tally("c", 1, 1)

        receipt = await engine.execute(Add("c", 1))
        assert await anext(watch) == Tally("c", 2, 2)
        receipt = await engine.execute(Add("c", 1))
        assert await looking.query(GetTally("c"), at=receipt, timeout=FOREVER) == Tally("c", 3, 3)


@pytest.mark.usefixtures("only_told")
async def test_what_is_told_behind_a_look_that_another_one_shares_is_not_missed(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 2.0)
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        engine = Engine([Counter], projections=[Tallies], answers=[get_tally], store=log)
        await stack.enter_async_context(engine)
        await engine.execute(Add("c", 1))
        looking = Onlooker(projections=[Tallies], answers=[get_tally], store=log)
        await stack.enter_async_context(looking)
        found = await heard(looking.notices)
        watch = await stack.enter_async_context(aclosing(looking.watch(GetTally("c"))))
        assert await anext(watch) == Tally("c", 1, 1)

        told = found.changed.count
        await engine.execute(Add("c", 1))
        await until(lambda: found.changed.count > told)
        assert await anext(watch) == Tally("c", 2, 2)


async def test_who_waits_as_the_connection_breaks_looks_at_once_and_hears_again(
    log: str, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch, only_told: None
) -> None:
    monkeypatch.setattr(listening, "_AGAIN_SECONDS", 0.0)
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        await owner.execute(Add("c", 1))
        found = await heard(notices_of(member))
        before = found.changed.count
        ended = await asked(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted",
        )
        assert ended
        await until(lambda: found.changed.count > before)
        await heard(found)
        receipt = await owner.execute(Add("c", 1))
        assert await member.query(GetTally("c"), at=receipt, timeout=FOREVER) == Tally("c", 2, 2)


async def test_nothing_is_told_where_nobody_listens(log: str) -> None:
    address = read_address(log)
    place = Place(address, Ports())
    line = await Line.connected(Asyncpg(), address)
    try:
        assert not await tell_listeners(line, address.schema, "log")
        listener = PostgresNotices(place)
        await listener.open()
        await heard(listener)
        rings = listener.appended.count

        assert await tell_listeners(line, address.schema, "log")
        await until(lambda: listener.appended.count > rings)
        await listener.close()
        assert not listener.is_heard
    finally:
        await line.close()


async def test_notices_of_another_log_wake_nobody(log: str, postgres: Server) -> None:
    address, other = read_address(log), read_address(postgres.url(postgres.new_schema()))
    listener = PostgresNotices(Place(address, Ports()))
    await listener.open()
    await heard(listener)
    line = await Line.connected(Asyncpg(), address)
    before = listener.appended.count, listener.changed.count
    try:
        assert not await tell_listeners(line, other.schema, "log")
        assert await tell_listeners(line, address.schema, "views")
        await until(lambda: listener.changed.count > before[1])
        assert listener.appended.count == before[0]
    finally:
        await line.close()
        await listener.close()


async def test_a_failed_notice_fails_no_command(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def tell(self: PostgresStore, of: str) -> bool:
        tried.append(of)
        raise StoreFailed("no notice leaves", written=False)

    monkeypatch.setattr(PostgresStore, "tell", tell)
    async with joined(tmp_path, store=log) as engine:
        for total in range(1, 4):
            receipt = await engine.execute(Add("c", 1))
            assert await engine.query(GetTally("c"), at=receipt) == Tally("c", total, total)
    assert set(tried) == {"log", "views"}


# -- behind a pooler --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def port(postgres: Server) -> Iterator[int]:
    with pooler(postgres) as started:
        yield started


async def test_behind_a_pooler_nobody_believes_to_be_told_and_all_is_seen(
    postgres: Server, port: int, tmp_path: Path
) -> None:
    pooled = postgres.url(postgres.new_schema(), "lease=2", port=port)
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=pooled)
        feed = await stack.enter_async_context(aclosing(member.feed(follow=True)))
        for total in range(1, 4):
            receipt = await owner.execute(Add("c", 1))
            event = (await anext(feed)).event
            assert isinstance(event, Added)
            assert await member.query(GetTally("c"), at=receipt) == Tally("c", total, total)
        assert not notices_of(member).is_heard


async def test_a_pooler_that_is_not_recognised_proves_nothing(
    postgres: Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[bool] = []
    connected, proven = Line.connected.__func__, PostgresNotices._is_proven  # type: ignore[attr-defined]

    async def unrecognised(cls: Any, *args: Any) -> Line:
        line: Line = await connected(cls, *args)
        line.pooled = False
        return line

    async def seen(self: PostgresNotices, line: Line) -> bool:
        proofs.append(await proven(self, line))
        return proofs[-1]

    async def unnamed(self: Line, query: str, *values: Any) -> Any:
        return await self.connection.fetch(query, *values)

    monkeypatch.setattr(Line, "connected", classmethod(unrecognised))
    monkeypatch.setattr(Line, "fetch", unnamed)
    monkeypatch.setattr(PostgresNotices, "_is_proven", seen)
    monkeypatch.setattr(listening, "_ANSWER_SECONDS", 1.0)
    address = read_address(postgres.url(postgres.new_schema(), port=port))
    listener = PostgresNotices(Place(address, Ports()))
    await listener.open()
    await until(lambda: proofs)
    assert proofs == [False]
    assert not listener.is_heard
    await listener.close()
