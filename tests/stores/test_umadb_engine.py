"""An engine whose log is in UmaDB: server and engine are killed under load, and what it lacks."""

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
    DefinitionError,
    Engine,
    HandlerFailed,
    Onlooker,
    Ports,
    Rejected,
    applies,
    handles,
)
from engine.model.codec import decode_metadata
from engine.stores.umadb.calls import umadb
from engine.stores.urls import backend_of_text
from engine.testing.conformance import feed
from tests.support.counters import Add, Counter, Look
from tests.support.sleepers import Rest, Rested, Sleeper
from tests.support.tallies import GetTallies, Tallies, get_tallies, get_tally
from tests.support.umadb_server import UmadbServer
from tests.write.courses import Enrol, Offer, school

SECONDS = 60
SERVER_KILLS, ENGINE_KILLS = 5, 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UmadbServer]:
    made = UmadbServer(tmp_path / "umadb")
    made.start()
    yield made
    made.close()


@pytest.fixture
def views(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'views.db'}"


def engine_of(server: UmadbServer, views: str | None) -> Engine:
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=server.store_url(),
        views=views,
    )


async def keys_in(server: UmadbServer) -> Counts[str]:
    """Count the events by the keys of their commands, in the log as a next process finds it."""
    store = server.store()
    await store.open(Ports())
    found = Counts(decode_metadata(event).key or "" for event in await feed(store))
    await store.close()
    return found


async def test_what_was_written_is_there_for_the_next_engine(
    server: UmadbServer, views: str
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


async def test_a_server_that_is_killed_under_load_loses_and_doubles_nothing(
    server: UmadbServer, views: str
) -> None:
    """No command is refused, where the server is back in time."""
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
        for _ in range(SERVER_KILLS):
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
    server: UmadbServer, views: str, tmp_path: Path
) -> None:
    """The next one has the log as soon as its lease has ended, and views count each event once."""
    acknowledged: set[str] = set()
    begun = 0
    for life in range(ENGINE_KILLS):
        command = ["-m", "tests.stores.leased_child", server.store_url(), views, str(begun)]
        with subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                acknowledged |= {f"k-{line.strip()}"} if line.endswith("\n") else set()
                if len(acknowledged) > 150 * (life + 1):
                    process.kill()  # what it had told before is still read
        begun += 100_000
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
    server: UmadbServer, views: str, tmp_path: Path
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


async def test_decisions_by_tags_see_all_that_they_select(server: UmadbServer) -> None:
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
    module, client = umadb(), server.client()
    query = module.Query([module.QueryItem(types=["student-enrolled"], tags=["course:c-1"])])
    assert len(list(client.read(query))) == 3


async def test_a_command_reads_nothing_more_behind_its_load(server: UmadbServer) -> None:
    """The end of a stream that was loaded is known, also that it is empty."""
    async with Engine([Counter], store=server.store_url(), views="memory:") as engine:
        await engine.execute(Add("c-1", 1))
        writer = engine._store._writer  # type: ignore[attr-defined]
        asked: list[object] = []
        look = writer.calls.asked

        async def counted(call: object) -> object:
            asked.append(call)
            return await look(call)

        writer.calls.asked = counted
        for number in range(5):
            await engine.execute(Add(f"c-{number}", 1))
            await engine.execute(Add(f"c-{number}", 1))
    assert asked == []


# -- what it lacks


class Kept(Aggregate, kind="kept", snapshot_every=10):
    @handles
    def rest(self, command: Rest) -> Rested:
        return Rested()

    @applies
    def rested(self, event: Rested) -> None:
        pass


async def test_a_decision_with_a_timer_is_refused_by_name(server: UmadbServer) -> None:
    """Nothing is written, and the engine goes on."""
    async with Engine([Sleeper, Counter], store=server.store_url(), views="memory:") as engine:
        with pytest.raises(HandlerFailed, match=r"Sleeper.rest gives timers.*keeps no timers"):
            await engine.execute(Rest("s-1"))
        assert (await engine.execute(Add("c-1", 1))).position == 1


def test_an_aggregate_with_snapshots_is_refused_by_name() -> None:
    with pytest.raises(DefinitionError, match=r"Kept says snapshot_every=.*no snapshots"):
        Engine([Kept], store="umadb://localhost:1", views="memory:")


def test_views_are_where_the_host_says() -> None:
    with pytest.raises(DefinitionError, match=r'umadb://localhost:1 .*views="sqlite:PATH"'):
        Engine([Counter], store="umadb://localhost:1")


def test_what_looks_at_a_log_from_outside_is_refused_by_name() -> None:
    url = "umadb://localhost:1"
    for look in (
        lambda: backend_of_text(url).outside(Ports()),
        lambda: Onlooker(projections=[Tallies], answers=[get_tallies], store=url),
        lambda: Archive([Counter], store=url),
        lambda: Engine([Counter], store=url, views="memory:", join=True),
    ):
        with pytest.raises(DefinitionError, match="read by its engine alone"):
            look()
