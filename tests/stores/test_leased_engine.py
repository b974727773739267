"""Engines of a log with a lease (UmaDB, DynamoDB): server and engine are killed under load."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter as Counts
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest

from engine import (
    Archive,
    DefinitionError,
    Engine,
    HandlerFailed,
    Onlooker,
    Ports,
    Rejected,
)
from engine.model.codec import decode_metadata
from engine.stores.leased.log import LeasedLog
from engine.stores.urls import backend_of_text
from engine.testing.conformance import feed
from tests.support.counters import Add, Counter, Look
from tests.support.dynamodb_server import DynamoServer
from tests.support.late_clock import LateClock
from tests.support.sleepers import Rest, Sleeper
from tests.support.tallies import GetTallies, Tallies, get_tallies, get_tally
from tests.support.umadb_server import UmadbServer
from tests.support.waiting import until
from tests.write.courses import Enrol, Offer, school

SECONDS = 60
SERVER_KILLS, ENGINE_KILLS = 5, 4


Server: TypeAlias = DynamoServer | UmadbServer


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DynamoServer]:
    made = DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    made.start()
    yield made
    made.close()


@pytest.fixture(params=["dynamodb", "umadb"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Give a new log: another table of the one emulator, or a server of its own."""
    if request.param == "dynamodb":
        emulator: DynamoServer = request.getfixturevalue("emulator")
        emulator.tables += 1
        yield emulator
        return
    made = UmadbServer(tmp_path / "umadb")
    made.start()
    yield made
    made.close()


@pytest.fixture
def views(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'views.db'}"


def engine_of(server: Server, views: str | None) -> Engine:
    return Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, get_tallies],
        store=server.store_url(),
        views=views,
    )


async def keys_in(server: Server) -> Counts[str]:
    """Count the events by the keys of their commands, in the log as a next process finds it."""
    store = server.store()
    await store.open(Ports())
    found = Counts(decode_metadata(event).key or "" for event in await feed(store))
    await store.close()
    return found


async def test_what_was_written_is_there_for_the_next_engine(server: Server, views: str) -> None:
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
    server: Server, views: str
) -> None:
    """No command is refused, where the server is back in time. Of DynamoDB the way there is cut."""
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
    server: Server, views: str
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
    server: Server, views: str, tmp_path: Path
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
        try:
            async with engine_of(server, f"sqlite:{tmp_path / 'others.db'}") as engine:
                process.send_signal(signal.SIGCONT)
                receipt = await engine.execute(Add("c-0", 1), key="next")
                acknowledged += process.stdout.read().split()
                failure = process.stderr.read()
                await engine.execute(Add("c-0", 1), key="last")
        finally:
            process.kill()  # whatever failed, nobody waits for a process that stands still
    found = await keys_in(server)

    assert "another engine has taken the log" in failure
    assert set(found.values()) == {1}
    assert {f"k-{number}" for number in acknowledged} <= set(found)
    # All that the first one wrote stands before what the second one wrote.
    assert len(found) == receipt.position + 1


async def test_decisions_by_tags_see_all_that_they_select(server: Server) -> None:
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


async def test_a_decision_with_a_timer_is_refused_by_name(server: Server) -> None:
    """Nothing is written, and the engine goes on."""
    async with Engine([Sleeper, Counter], store=server.store_url(), views="memory:") as engine:
        with pytest.raises(HandlerFailed, match=r"Sleeper.rest gives timers.*keeps no timers"):
            await engine.execute(Rest("s-1"))
        assert (await engine.execute(Add("c-1", 1))).position == 1


@pytest.mark.parametrize("url", ["dynamodb://eu-west-1/bank", "umadb://localhost:1"])
def test_what_looks_at_a_log_from_outside_is_refused_by_name(url: str) -> None:
    for look in (
        lambda: backend_of_text(url).outside(Ports()),
        lambda: Onlooker(projections=[Tallies], answers=[get_tallies], store=url),
        lambda: Archive([Counter], store=url),
        lambda: Engine([Counter], store=url, views="memory:", join=True),
    ):
        with pytest.raises(DefinitionError, match="read by its engine alone"):
            look()
    with pytest.raises(DefinitionError, match=rf'{url} .*views="sqlite:PATH"'):
        Engine([Counter], store=url)


async def test_a_start_that_takes_long_renews_its_lease_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thirds of a lease are over behind the taking of the log, before it is open."""
    clock, begin = LateClock(), vars(LeasedLog)["_begin"]

    def slowly(*known: Any) -> None:
        clock.seconds = 40.0
        begin(*known)

    monkeypatch.setattr(LeasedLog, "_begin", slowly)
    store = server.store("lease=60")
    await store.open(Ports(clock=clock))

    def left() -> float:
        numbers = store.server_statistics()
        assert numbers is not None
        return numbers.lease_seconds_left

    await until(lambda: left() > 50)
    await store.close()
