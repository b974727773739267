"""Engines that own a log in PostgreSQL together: each decides for its slots, as if it were one."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Closed,
    DefinitionError,
    Engine,
    Rejected,
    StoreFailed,
    StoreLocked,
    Voided,
    WrongVersion,
)
from engine.members.spread.router import is_elsewhere
from engine.model.messages import Envelope
from engine.runtime.ports import Ports
from engine.stores.contract.log import Batch
from engine.stores.contract.membership import slot_of
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.spread import SpreadStore
from engine.testing.conformance import append
from engine.testing.conformance.given_log import request
from tests.members.spread_run import run_owners
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, asked, lose
from tests.support.tallies import GetTally, Tallies, get_tallies, get_tally
from tests.support.tallies import Tally as Tallied
from tests.support.waiting import settle, until


@pytest.fixture
def log(postgres: Server) -> str:
    return postgres.url(postgres.new_schema(), "lease=5")


def spread(log: str, **options: Any) -> Engine:
    """Give an engine of counters that owns a part of its log."""
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=log,
        join="spread",
        **options,
    )


@asynccontextmanager
async def owners(log: str, count: int) -> AsyncGenerator[list[Engine]]:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(spread(log)) for _ in range(count)]
        await until(lambda: all(is_settled(engine, count) for engine in engines))
        yield engines


def router(engine: Engine) -> Any:
    joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    return joined._router


def is_settled(engine: Engine, count: int) -> bool:
    """Tell whether an engine knows so many owners, and decides for all slots of its own."""
    found = router(engine)
    return len(found._view.members) == count and sum(found._ready) == len(found._gained) > 0


async def test_two_owners_answer_as_one(log: str) -> None:
    async with owners(log, 2) as engines:
        receipts = await asyncio.gather(
            *(engines[n % 2].execute(Add(f"c{n % 40}", 1), key=f"k{n}") for n in range(400))
        )
        assert sorted(r.position for r in receipts) == list(range(1, 401))
        assert Tally(r.version for r in receipts) == dict.fromkeys(range(1, 11), 40)
        for n in range(8):
            engine, stream = engines[n % 2], f"counter:c{n}"
            again = await engines[1 - n % 2].execute(Add(f"c{n}", 1), key=f"k{n}")
            assert again == receipts[n]
            with pytest.raises(Rejected):
                await engine.execute(Add(f"c{n}", -1))
            with pytest.raises(WrongVersion):
                await engine.execute(Add(f"c{n}", 1), expected=3)
            assert (await engine.execute(Add(f"c{n}", 1), expected=10)).version == 11
            assert (await engine.state(Counter, f"c{n}")).total == 11, stream
        last = (await engines[0].execute(Add("c0", 1))).position
        for engine in engines:
            assert await engine.query(GetTally("c0"), at=last) == Tallied("c0", 12, 12)
        shares = [router(engine)._gained.keys() for engine in engines]
        assert shares[0] | shares[1] == set(range(256))
        assert not shares[0] & shares[1]
        assert slot_of("counter:c0") in shares[0] | shares[1]


async def test_owners_come_and_go_and_nothing_is_lost(log: str) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(spread(log))
        sent: list[asyncio.Task[Any]] = []
        over = asyncio.Event()

        async def client(number: int) -> None:
            count = 0
            while not over.is_set():
                receipt = await first.execute(Add(f"c{number}", 1), key=f"{number}-{count}")
                count += 1
                assert receipt.version == count

        sent = [asyncio.create_task(client(n)) for n in range(40)]
        for _ in range(5):
            async with spread(log) as other:
                await until(partial(is_settled, other, 2))
                await other.execute(Add("d", 1))
        over.set()
        await asyncio.gather(*sent)
        assert (await first.execute(Add("d", 1))).version == 6


# -- the rules, one by one ------------------------------------------------------------------------


def deciding(engine: Engine) -> Any:
    """Give the engine of a process that decides."""
    joined: Any = engine._joined  # pyright: ignore[reportPrivateUsage]
    return joined.spread.wiring


def look_no_more(engine: Engine) -> Any:
    """Let a process be told of no view, and renew nothing, as if it stood still; give its store."""
    store = deciding(engine).store
    store._keeper.cancel()
    return store


def owned_by(engine: Engine) -> list[str]:
    """Give counters whose slots a process has by its view."""
    names = (f"c{n}" for n in range(400))
    return [name for name in names if slot_of(f"counter:{name}") in router(engine)._gained]


async def events_of(postgres: Server, log: str, counter: str) -> int:
    schema = read_address(log).schema
    query = f"SELECT count(*) FROM {schema}.events WHERE stream = $1"
    [(count,)] = await asked(postgres, query, f"counter:{counter}")
    return int(count)


async def test_what_was_decided_by_an_old_view_is_not_written(log: str, postgres: Server) -> None:
    long = log.replace("lease=5", "lease=600")
    async with owners(long, 1) as [first]:
        await asyncio.gather(*(first.execute(Add(f"c{n}", 1)) for n in range(100)))
        look_no_more(first)
        async with spread(long) as second:
            await until(lambda: len(router(second)._view.members) == 2)
            lost = next(c for c in owned_by(second) if int(c[1:]) < 100)
            kept = next(
                c for c in owned_by(first) if c not in owned_by(second) and int(c[1:]) < 100
            )
            sent = [asyncio.create_task(first.execute(Add(c, 1))) for c in (lost, kept)]
            await until(lambda: deciding(first).store._changed_at > 0)

            assert [await events_of(postgres, log, c) for c in (lost, kept)] == [1, 1]
            assert not any(task.done() for task in sent)
            assert not deciding(first).store.is_held(), "it would decide by what it remembers"
            # It looks again: one is run here, the other one by its owner, and nobody sees it.
            attendance = deciding(first).store.attendance
            await attendance.turn()
            looking = asyncio.create_task(attendance.run())
            receipts = await asyncio.gather(*sent)
            assert [r.version for r in receipts] == [2, 2]
            looking.cancel()


async def test_a_new_owner_answers_only_when_the_former_one_has_seen_that_or_is_dead(
    log: str,
) -> None:
    short = log.replace("lease=5", "lease=2")
    async with owners(short, 1) as [first]:
        await asyncio.gather(*(first.execute(Add(f"c{n}", 1)) for n in range(100)))
        store = look_no_more(first)
        async with spread(short) as second:
            await until(lambda: len(router(second)._view.members) == 2)
            lost = next(c for c in owned_by(second) if int(c[1:]) < 100)
            was_held: list[bool] = []

            async def rejected() -> None:
                with pytest.raises(Rejected):
                    await second.execute(Add(lost, -5))
                was_held.append(store.is_held())

            asking = asyncio.create_task(rejected())
            await until(lambda: not store.is_held() or asking.done())
            assert not asking.done(), "the former owner may still answer"
            await asyncio.wait_for(asking, 30)
            assert was_held == [False]


async def test_an_owner_answers_nothing_when_its_lease_is_over(
    log: str, caplog: pytest.LogCaptureFixture
) -> None:
    short = log.replace("lease=5", "lease=1")
    async with owners(short, 2) as [first, second]:
        mine = owned_by(first)[0]
        await first.execute(Add(mine, 1))
        store = look_no_more(first)
        await until(lambda: not store.is_held())
        rejected = asyncio.create_task(first.execute(Add(mine, -5)))
        await until(lambda: len(router(second)._view.members) == 1)
        assert (await second.execute(Add(mine, 6))).version == 2
        assert not rejected.done()
        again = asyncio.create_task(store._keep(store._leases))  # it hears that it is dead
        with pytest.raises(Rejected):
            await rejected
        await again
        await until(lambda: is_settled(first, 2))
        assert first.failed is None
    assert "Nothing was written. This process joins them again." in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_command_waits_where_the_engine_has_failed_and_another_one_follows(
    log: str,
) -> None:
    """As behind a failover that lost events: its caller is not told to start a new engine."""
    async with owners(log, 1) as [first]:
        mine, life = owned_by(first)[0], deciding(first).life
        life.state = "failed"
        sent = asyncio.create_task(first.execute(Add(mine, 1)))
        await settle()
        assert not sent.done()
        life.state = "running"
        router(first).place_all()

        assert (await sent).version == 1


async def test_who_does_not_own_a_slot_answers_nobody(log: str) -> None:
    async with owners(log, 2) as [first, second]:
        foreign = owned_by(second)[0]
        envelope = Envelope(command=Add(foreign, 1))
        with pytest.raises(Closed, match="another process's"):
            router(first).serve(envelope)
        # Also what comes by the gate, or in any other way, past the router.
        receipt = await deciding(first).reception.send(envelope)
        assert receipt.version == 1
        assert deciding(first).directory.resident(f"counter:{foreign}") is None
        assert deciding(second).directory.resident(f"counter:{foreign}") is not None


async def test_what_another_member_has_sent_is_never_sent_on(log: str) -> None:
    """It may have gone to the next owner too by now, and be answered there."""
    async with owners(log, 2) as [first, second]:
        foreign = owned_by(second)[0]
        envelope = Envelope(command=Add(foreign, 1), key="k")
        ways = router(first)
        # It comes while the slot was gained and is not ready, and then the slot moves.
        slot = slot_of(f"counter:{foreign}")
        ways._gained[slot] = ways._view.number + 1
        waiting = ways.serve(envelope)
        ways.place_all()
        assert not waiting.done()
        del ways._gained[slot]
        ways.place_all()
        with pytest.raises(Closed, match="another process's"):
            await waiting
        # It was let in, by a gate that took its time, as the slot had moved.
        with pytest.raises(Closed, match="another process's"):
            ways._decide_for_another(envelope)

        receipt = await second.execute(Add(foreign, 6), expected=0)
        assert receipt.version == 1, "nothing of it was run"


async def test_what_another_member_has_sent_goes_back_where_it_was_decided_by_an_old_view(
    log: str,
) -> None:
    long = log.replace("lease=5", "lease=600")
    async with owners(long, 1) as [first]:
        look_no_more(first)
        async with spread(long) as second:
            await until(lambda: len(router(second)._view.members) == 2)
            lost = owned_by(second)[0]
            with pytest.raises(Voided) as voided:
                await router(first).serve(Envelope(command=Add(lost, 1), key="k"))
            assert is_elsewhere(voided.value)
            await deciding(first).store.attendance.turn()
            await until(lambda: is_settled(second, 2))

            assert (await second.execute(Add(lost, 6), expected=0)).version == 1


async def test_what_moved_is_dropped_as_the_view_is_heeded(log: str) -> None:
    async with owners(log, 1) as [first]:
        await asyncio.gather(*(first.execute(Add(f"c{n}", 1)) for n in range(100)))
        async with spread(log) as second:
            await until(lambda: is_settled(second, 2))
            residents = {a.stream for a in deciding(first).directory.actors}
            gained = {f"counter:{c}" for c in owned_by(second)}

            assert len(residents) > 10
            assert not residents & gained


def test_what_has_one_owner_only_is_refused(log: str) -> None:
    with pytest.raises(DefinitionError, match="goes with a log in PostgreSQL"):
        Engine([Counter], store="sqlite:x.db", join="spread")


async def test_one_owner_and_several_are_never_there_at_a_time(log: str) -> None:
    async with owners(log, 1):
        with pytest.raises(StoreLocked, match="open in another engine"):
            await Engine([Counter], store=log).__aenter__()
    async with Engine([Counter], store=log) as alone:
        await alone.execute(Add("c", 1))
        with pytest.raises(StoreLocked):
            store = SpreadStore(read_address(log), lambda _: None)
            await store.open(Ports())
    async with owners(log, 1) as [engine]:
        assert (await engine.execute(Add("c", 1))).version == 2


async def test_what_comes_late_over_a_former_line_is_not_written(
    log: str, postgres: Server
) -> None:
    store = SpreadStore(read_address(log), lambda _: None)
    await store.open(Ports())
    try:
        await store.append(Batch([request("counter:c", 0, 1)], 0))
        await asked(postgres, store.address.sql("SELECT {s}.take_line_1($1)"), store.session)
        with pytest.raises(StoreFailed, match="taken this log over") as failed:
            await store.append(Batch([request("counter:c", 1, 2)], 0))
        assert failed.value.written is False
        assert await events_of(postgres, log, "c") == 1
    finally:
        await store.close()


async def test_who_has_joined_again_still_says_who_is_dead(log: str) -> None:
    long = log.replace("lease=5", "lease=600")
    async with owners(long, 2) as [first, second]:
        before = deciding(first).store.attendance.member
        await deciding(second).store.attendance.strike(before)
        await until(
            lambda: (
                deciding(first) is not None
                and deciding(first).store.attendance.member not in (0, before)
                and is_settled(first, 2)
            )
        )
        [(dead, peer)] = router(first)._peers.items()
        await peer._strike(dead)
        await until(lambda: router(first)._view.find(dead) is None)


async def test_a_log_that_lost_what_was_acknowledged_gets_nothing_more(
    log: str, postgres: Server
) -> None:
    """A version behind those that are lost would leave a gap in its stream."""
    store = SpreadStore(read_address(log), lambda _: None)
    await store.open(Ports())
    try:
        for version in range(3):
            await append(store, request("counter:c", version, 1))
        await lose(postgres, store.address.schema, 2)
        with pytest.raises(StoreFailed, match="the log went back") as failed:
            await append(store, request("counter:c", 3, 1))
        assert (failed.value.written, failed.value.stopped) == (False, True)
        assert await events_of(postgres, log, "c") == 1
    finally:
        await store.close()


# -- with processes that die ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "count", "incidents"),
    [
        (1, 2, [("kill", 0), ("stop", 3.5), ("leave", 0)]),
        (2, 3, [("stop", 3.0), ("kill", 0), ("kill", 0), ("leave", 0)]),
    ],
)
async def test_owners_that_die_and_stand_still_lose_nothing_and_tell_no_lies(
    postgres: Server,
    tmp_path: Path,
    seed: int,
    count: int,
    incidents: list[tuple[str, float]],
) -> None:
    ran = await run_owners(postgres, tmp_path, seed=seed, owners=count, incidents=incidents)

    assert ran.problems == []
    assert ran.answers["done"] > 200
    assert ran.answers["seen"] > 50
