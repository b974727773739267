"""An engine whose log is in DynamoDB: its way there and itself are killed under load."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter as Counts
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from engine import (
    Aggregate,
    Archive,
    Command,
    DefinitionError,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Onlooker,
    Ports,
    Rejected,
    applies,
    handles,
)
from engine.model.codec import decode_metadata
from engine.stores.urls import backend_of_text
from engine.testing.conformance import feed
from tests.support.counters import Add, Counter, Look
from tests.support.dynamodb_server import DynamoServer
from tests.support.sleepers import Rest, Sleeper
from tests.support.tallies import GetTallies, Tallies, get_tallies, get_tally
from tests.write.courses import Enrol, Offer, school

SECONDS = 60
GATE_KILLS, ENGINE_KILLS = 5, 4


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


@pytest.fixture
def server(emulator: DynamoServer) -> DynamoServer:
    """Give the emulator with another table."""
    emulator.tables += 1
    return emulator


@pytest.fixture
def views(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'views.db'}"


def engine_of(server: DynamoServer, views: str | None) -> Engine:
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=server.store_url(),
        views=views,
    )


async def keys_in(server: DynamoServer) -> Counts[str]:
    """Count the events by the keys of their commands, in the log as a next process finds it."""
    store = server.store()
    await store.open(Ports())
    found = Counts(decode_metadata(event).key or "" for event in await feed(store))
    await store.close()
    return found


async def test_what_was_written_is_there_for_the_next_engine(
    server: DynamoServer, views: str
) -> None:
    """State, keys, rejections and views."""
    async with engine_of(server, views) as engine:
        first = await engine.execute(Add("c-1", 5), key="k-1")
        await engine.execute(Add("c-1", 2, times=3))
    async with engine_of(server, views) as engine:
        assert await engine.execute(Add("c-1", 5), key="k-1") == first
        receipt = await engine.execute(Add("c-1", 1))
        assert receipt.version == 5
        with pytest.raises(Rejected, match="12 at 5"):
            await engine.execute(Look("c-1"))
        assert (await engine.state(Counter, "c-1")).total == 12
        assert engine.statistics().projectors["tallies"].position <= receipt.position


async def test_a_way_that_is_cut_under_load_loses_and_doubles_nothing(
    server: DynamoServer, views: str
) -> None:
    """All connections break at once, with calls in both directions; no command is refused."""
    drawn, done = Random(7), asyncio.Event()
    acknowledged: list[str] = []

    async def write(engine: Engine, client: int) -> None:
        number = 0
        while not done.is_set():
            key = f"{client}-{number}"
            await engine.execute(Add(f"c-{drawn.randrange(20)}", 1), key=key)
            acknowledged.append(key)
            number += 1

    async with engine_of(server, views) as engine:
        writing = [asyncio.create_task(write(engine, client)) for client in range(24)]
        for _ in range(GATE_KILLS):
            before = len(acknowledged)
            async with asyncio.timeout(SECONDS):
                while len(acknowledged) < before + 100:
                    await asyncio.sleep(drawn.uniform(0, 0.02))
            server.kill()
            await asyncio.to_thread(server.start)
        done.set()
        await asyncio.gather(*writing)
    found = await keys_in(server)

    assert set(found.values()) == {1}
    assert set(found) == set(acknowledged)


async def test_an_engine_that_is_killed_under_load_loses_and_doubles_nothing(
    server: DynamoServer, views: str
) -> None:
    """The next one has the log as soon as its lease has ended, and views count each event once."""
    acknowledged: set[str] = set()
    for life in range(ENGINE_KILLS):
        begun = str(100_000 * life)
        command = ["-m", "tests.stores.leased_child", server.store_url(), views, begun]
        with subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                acknowledged |= {f"k-{line.strip()}"} if line.endswith("\n") else set()
                if len(acknowledged) > 150 * (life + 1):
                    process.kill()  # what it had told before is still read
    acknowledged.discard("k-ready")
    found = await keys_in(server)

    assert set(found.values()) == {1}
    assert acknowledged <= set(found)
    assert len(found) <= len(acknowledged) + ENGINE_KILLS * 16  # what was on its way at each kill
    async with engine_of(server, views) as engine:
        receipt = await engine.execute(Add("c-0", 1))
        tallies = await engine.query(GetTallies(), at=receipt)
    assert sum(tally.events for tally in tallies) == len(found) + 1


async def test_an_engine_that_stood_still_writes_nothing_behind_the_next_one(
    server: DynamoServer, views: str, tmp_path: Path
) -> None:
    """A process that is stopped for longer than its lease, and goes on later."""
    command = ["-m", "tests.stores.leased_child", server.store_url(), views, "0"]
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)][1:]
        process.send_signal(signal.SIGSTOP)
        async with engine_of(server, f"sqlite:{tmp_path / 'others.db'}") as engine:
            process.send_signal(signal.SIGCONT)
            receipt = await engine.execute(Add("c-0", 1), key="next")
            acknowledged += process.stdout.read().split()
            failure = process.stderr.read()
            await engine.execute(Add("c-0", 1), key="last")
    found = await keys_in(server)

    assert "another engine has taken the log" in failure
    assert set(found.values()) == {1}
    assert {f"k-{number}" for number in acknowledged} <= set(found)
    # All that the first one wrote stands before what the second one wrote.
    assert len(found) == receipt.position + 1


async def test_decisions_by_tags_see_all_that_they_select(server: DynamoServer) -> None:
    """Also those of a former engine; of many at once no more get a seat than there are."""
    given = {"store": server.store_url(), "views": "memory:"}
    async with school(**given) as engine:
        await engine.execute(Offer("c-1", 3))
        await engine.execute(Enrol("c-1", "s-0"))
    async with school(**given) as engine:
        enrolled = await asyncio.gather(
            *(engine.execute(Enrol("c-1", f"s-{number}")) for number in range(1, 9)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Rejected) for each in enrolled) == 6
        with pytest.raises(Rejected):
            await engine.execute(Enrol("c-1", "s-9"))


class Tick(Command):
    kept_id: Id


class Ticked(Event, name="ticked"):
    pass


class Kept(Aggregate, kind="kept", snapshot_every=10):
    ticks: int = 0

    @handles
    def tick(self, command: Tick) -> Ticked:
        return Ticked()

    @applies
    def ticked(self, event: Ticked) -> None:
        self.ticks += 1


async def test_a_snapshot_is_kept_for_the_next_engine(server: DynamoServer) -> None:
    url = server.store_url()
    async with Engine([Kept], store=url, views="memory:") as engine:
        for _ in range(25):
            await engine.execute(Tick("t-1"))
    store = server.store()
    await store.open(Ports())
    (snapshot,) = await store.read_snapshots(["kept:t-1"])
    await store.close()
    assert snapshot.version >= 10
    async with Engine([Kept], store=url, views="memory:") as engine:
        assert (await engine.execute(Tick("t-1"))).version == 26
        assert (await engine.state(Kept, "t-1")).ticks == 26


async def test_a_decision_with_a_timer_is_refused_by_name(server: DynamoServer) -> None:
    """Nothing is written, and the engine goes on."""
    async with Engine([Sleeper, Counter], store=server.store_url(), views="memory:") as engine:
        with pytest.raises(HandlerFailed, match=r"Sleeper.rest gives timers.*keeps no timers"):
            await engine.execute(Rest("s-1"))
        assert (await engine.execute(Add("c-1", 1))).position == 1


def test_what_looks_at_a_log_from_outside_is_refused_by_name() -> None:
    url = "dynamodb://eu-west-1/bank"
    for look in (
        lambda: backend_of_text(url).outside(Ports()),
        lambda: Onlooker(projections=[Tallies], answers=[get_tallies], store=url),
        lambda: Archive([Counter], store=url),
        lambda: Engine([Counter], store=url, views="memory:", join=True),
    ):
        with pytest.raises(DefinitionError, match="read by its engine alone"):
            look()
    with pytest.raises(DefinitionError, match=r'dynamodb://eu-west-1/bank .*views="sqlite:PATH"'):
        Engine([Counter], store=url)
