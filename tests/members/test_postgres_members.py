"""Engines that share a log in PostgreSQL: members find the owner by the database, and go on."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    OutcomeUnknown,
    Receipt,
    Rejected,
    StoreLocked,
)
from engine.members.forwarding import Forwarding
from engine.members.meeting import LeaseMeeting
from engine.runtime.ports import Ports
from engine.stores.postgres.address import read_address
from engine.stores.postgres.outside.directory import PostgresOwnerDirectory
from engine.write.mailbox import Mail
from tests.members.joining import joined, part, some
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, asked
from tests.support.tallies import GetTallies, GetTally, Tally
from tests.support.waiting import until
from tests.timers.kettles import Kettle, SwitchOn


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=1")


@asynccontextmanager
async def rolling(log: str) -> AsyncGenerator[PostgresOwnerDirectory]:
    """Give what the database says of who has a log."""
    found = PostgresOwnerDirectory(read_address(log), Ports())
    try:
        yield found
    finally:
        await found.close()


async def test_members_follow_watch_and_look_back(log: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        engines = await some(tmp_path, 2, stack, store=log)
        for engine in engines:
            await engine.execute(Add("c", 1))
        for engine in engines:
            feed = await stack.enter_async_context(aclosing(engine.feed(1, follow=True)))
            watch = await stack.enter_async_context(aclosing(engine.watch(GetTally("c"), at=2)))
            assert (await anext(feed)).meta.position == 2
            assert await anext(watch) == Tally("c", 2, 2)
            assert (await engine.state(Counter, "c", version=1)).total == 1
            async with engine.past(position=1) as past:
                assert await past.query(GetTallies()) == [Tally("c", 1, 1)]


async def test_operators_may_call_any_process(log: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        await member.projections.pause("tallies", reason="a look", principal="ops")

        assert (await owner.projections.status("tallies")).state == "paused"
        assert (await member.projections.decisions("tallies"))[0].principal == "ops"
        await owner.projections.resume("tallies")


async def test_the_owner_is_met_in_a_private_folder_that_the_database_names(
    log: str, tmp_path: Path, postgres: Server
) -> None:
    schema = read_address(log).schema
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack, store=log)
        async with rolling(log) as directory:
            owner = await directory.owner()
        assert owner is not None
        folder = Path(owner.address.removeprefix("unix:"))

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "members").stat().st_mode) == 0o600
        assert owner.seconds_left > 0
        with pytest.raises(StoreLocked) as locked:
            await Engine([Counter], store=log).__aenter__()
        assert str(folder) not in str(locked.value)
    assert not folder.exists()
    assert await asked(postgres, f"SELECT 1 FROM {schema}.sessions WHERE live") == []


async def test_an_owner_that_ends_is_followed_at_once(log: str, tmp_path: Path) -> None:
    long = log.replace("lease=1", "lease=60")
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path, store=long)
        await owner.__aenter__()
        members = [await stack.enter_async_context(joined(tmp_path, store=long)) for _ in range(2)]
        feed = await stack.enter_async_context(aclosing(members[0].feed(follow=True)))
        sent = [
            asyncio.create_task(members[n % 2].execute(Add(f"c{n % 7}", 1))) for n in range(100)
        ]
        await until(lambda: owner.statistics().position > 0)
        async with asyncio.timeout(10):
            await owner.__aexit__(None, None, None)
            answers = await asyncio.gather(*sent)

        assert sorted(a.position for a in answers) == list(range(1, 101))
        await until(lambda: {part(m).role for m in members} == {"owner", "member"})
        assert [(await anext(feed)).meta.position for _ in range(100)] == list(range(1, 101))


def stand_still(engine: Engine) -> Any:
    """Let an owner's lease run out, as SIGSTOP does: it renews nothing; give its store."""
    store: Any = engine._joined._wiring.store  # type: ignore[union-attr]
    store._keeper.cancel()
    return store


async def test_an_owner_whose_lease_is_over_answers_nothing_and_is_a_member_then(
    log: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        await owner.execute(Add("c", 1))
        watch = await stack.enter_async_context(aclosing(owner.watch(GetTally("c"), at=1)))
        assert await anext(watch) == Tally("c", 1, 1)
        store = stand_still(owner)
        await until(lambda: not store.is_held())
        rejected = asyncio.create_task(owner.execute(Add("c", -1)))
        keyless = asyncio.create_task(owner.execute(Add("c", 5)))
        await until(lambda: part(member).role == "owner")
        assert not rejected.done()
        assert (await member.execute(Add("d", 1))).position == 2
        assert await owner.query(GetTally("d"), at=2) == Tally("d", 1, 1)

        # It hears of it as it renews.
        renewing = asyncio.ensure_future(store._keep(store._leases))
        with pytest.raises(Rejected):
            await rejected
        assert (await keyless).position == 3
        await until(lambda: part(owner).role == "member")
        renewing.cancel()
        assert owner.failed is None
        assert await anext(watch) == Tally("c", 6, 2)
        assert (await owner.execute(Add("c", 1))).position == 4


async def test_what_an_owner_had_in_flight_is_asked_of_the_next_one(
    log: str, tmp_path: Path, postgres: Server
) -> None:
    schema = read_address(log).schema
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack, store=log)
        await member.execute(Add("c", 1))
        # As if another one had taken the log over, and nobody had told its owner.
        await asked(postgres, f"SELECT {schema}.end_session_1(1)")
        sent = [asyncio.create_task(e.execute(Add("c", 1))) for e in (owner, member) * 3]

        answers = await asyncio.gather(*sent, return_exceptions=True)

        known = [a for a in answers if isinstance(a, Receipt)]
        assert {type(a) for a in answers} <= {Receipt, OutcomeUnknown}
        state = await member.state(Counter, "c")
        assert state.total == 1 + len(known)
        assert sorted(a.position for a in known) == list(range(2, 2 + len(known)))
        assert len(known) >= 3


async def test_the_command_of_a_timer_that_was_in_flight_is_fired_by_the_next_owner(
    log: str, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = read_address(log).schema
    sent_on: list[Mail] = []
    monkeypatch.setattr(Forwarding, "rescue", lambda _, mail, __: sent_on.append(mail))
    async with AsyncExitStack() as stack:
        owner, member = [Engine([Kettle], store=log, join=True) for _ in range(2)]
        await stack.enter_async_context(owner)
        await stack.enter_async_context(member)
        await owner.execute(SwitchOn("k", 0.0005))
        await asked(postgres, f"SELECT {schema}.end_session_1(1)")
        async with aclosing(member.feed(follow=True)) as feed:
            found = [(await anext(feed)).meta.key for _ in range(2)]
        rows = await asked(postgres, f"SELECT metadata FROM {schema}.events WHERE position = 2")

    assert found == [None, "timer:1:off"]
    assert b'"fired"' in rows[0][0]
    assert sent_on == []


def test_what_goes_with_no_members_is_refused(log: str) -> None:
    with pytest.raises(DefinitionError, match="leave views= away"):
        Engine([Counter], store=log, views="memory:", join=True)
    with pytest.raises(DefinitionError, match="go with join=True"):
        Engine([Counter], store=log, listen="tcp://127.0.0.1:0")
    with pytest.raises(DefinitionError, match="in PostgreSQL"):
        Engine([Counter], store="sqlite:x.db", join=True, listen="tcp://127.0.0.1:0")


async def test_nobody_is_declared_dead_for_one_lease_after_the_server_started(
    postgres: Server, tmp_path: Path
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=3600")
    schema = read_address(log).schema
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack, store=log)
        await asked(postgres, f"UPDATE {schema}.sessions SET lease_until = opened - interval '1 h'")
        directory = await stack.enter_async_context(rolling(log))
        owner = await directory.owner()

        assert owner is not None
        assert 0 < owner.seconds_left < 3_600, "the server is younger than its lease"
        assert not await LeaseMeeting(directory, None).is_vacant()


async def test_who_is_not_the_owner_is_sent_nothing(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.membership.PATIENCE_SECONDS", 0.0)
    logs = [postgres.url(postgres.new_schema(), "lease=60") for _ in range(2)]
    schemas = [read_address(log).schema for log in logs]
    async with AsyncExitStack() as stack:
        [owner] = await some(tmp_path, 1, stack, store=logs[0])
        await stack.enter_async_context(Engine([Counter], store=logs[1]))
        # As where a port is another owner's by now.
        await asked(
            postgres,
            f"UPDATE {schemas[1]}.sessions SET holder = f.holder FROM {schemas[0]}.sessions AS f",
        )
        with pytest.raises(StoreLocked, match="lets nobody join"):
            await joined(tmp_path, store=logs[1]).__aenter__()
        assert owner.statistics().position == 0
