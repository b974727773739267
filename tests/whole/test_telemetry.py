"""The seam for tracing: what it is told, and that it cannot hurt anybody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from engine import (
    Engine,
    Overloaded,
    ProjectionLag,
    Rejected,
    UsageError,
)
from engine.limits import Limits
from engine.model.codec import decode_meta
from engine.telemetry import (
    LINKS_MAX,
    CommandBegan,
    CommitBegan,
    LoadBegan,
    ProjectionBegan,
    QueryBegan,
)
from tests.support.counters import Add, Look, counters
from tests.support.held_store import HeldStore
from tests.support.recorder import Raising, Recorder
from tests.support.tallies import GetTallies, Tallies, get_tallies
from tests.support.waiting import until


def engine_with(telemetry: Any, store: Any = None, **options: Any) -> Any:
    return counters(
        store, projections=[Tallies], answers=[get_tallies], telemetry=telemetry, **options
    )


async def test_every_station_tells_what_begins_and_how_it_ends() -> None:
    recorder = Recorder()
    async with engine_with(recorder) as engine:
        receipt = await engine.execute(Add("a", 1, 2), correlation="order 7", causation="click")
        with pytest.raises(Rejected):
            await engine.execute(Look("a"))
        await engine.query(GetTallies(), at=receipt)
        late = await engine.execute(Add("b", 1))
        with pytest.raises(ProjectionLag):
            await engine.query(GetTallies(), at=late, timeout=0)
        assert recorder.statistics
        assert recorder.statistics().position == 3
    assert recorder.detached

    (add, none, facts), (_, rejected, refusal), _ = recorder.of(CommandBegan)
    assert (add.kind, add.correlation, add.causation) == ("counter", "order 7", "click")
    assert none is None
    assert facts == {"answer": "receipt", "stream": "counter:a", "version": 2, "position": 2}
    assert isinstance(rejected, Rejected)
    assert refusal == {"answer": "rejected"}
    (commit, _, written), _ = recorder.of(CommitBegan)
    assert (commit.events, commit.commands) == (2, 1)
    assert written == {"committed_events": 2, "position": 2, "seconds": written["seconds"]}
    (load, _, loaded), _ = recorder.of(LoadBegan)
    assert (load.aggregates, loaded) == (1, {"loaded": 1, "seconds": loaded["seconds"]})
    (batch, _, folded), _ = recorder.of(ProjectionBegan)
    assert (batch.projection, [e.position for e in batch.events]) == ("tallies", [1, 2])
    assert folded == {"projected_events": 2, "position": 2, "seconds": folded["seconds"]}
    (query, error, waited), (_, lag, _) = recorder.of(QueryBegan)
    assert (query.at, error) == (2, None)
    assert waited["seconds"] >= waited["wait_seconds"] > 0
    assert isinstance(lag, ProjectionLag)


async def test_a_command_that_is_turned_away_ends_too() -> None:
    recorder, store = Recorder(), HeldStore()
    store.hold()
    limits = Limits(commands_accepted=1, mailbox_commands=1)
    async with engine_with(recorder, store, limits=limits) as engine:
        first = asyncio.create_task(engine.execute(Add("a", 1)))
        await until(lambda: store.batches)
        with pytest.raises(Overloaded):
            await engine.execute(Add("a", 1))
        assert [facts for _, _, facts in recorder.told[-1:]] == [{"answer": "overloaded"}]
        first.cancel()
        store.release()
        await until(lambda: len(recorder.of(CommandBegan)) == 2)
        assert recorder.of(CommandBegan)[-1][2] == {"answer": "cancelled"}


async def test_a_message_that_nothing_handles_is_told_to_the_caller_alone() -> None:
    recorder = Recorder()
    async with engine_with(recorder) as engine:
        with pytest.raises(UsageError, match="no aggregate of this engine handles"):
            await engine.execute(GetTallies())

    assert recorder.told == []


async def test_its_headers_are_stored_with_the_events_and_no_others() -> None:
    store = HeldStore()
    async with engine_with(Recorder({"trace": "1"}), store) as engine:
        await engine.execute(Add("a", 1), headers={"mine": "2"})
    async with engine_with(Recorder(), store) as engine:
        await engine.execute(Add("a", 1), headers={"mine": "3"})
        await engine.execute(Add("a", 1))
        events = await store.events()

    headers = [decode_meta(stored).headers for stored in events]
    assert headers == [{"trace": "1"}, {"mine": "3"}, None]


async def test_a_commit_shows_so_many_headers_and_no_more() -> None:
    recorder, store = Recorder(), HeldStore()
    store.hold()
    async with engine_with(recorder, store) as engine:
        first = asyncio.create_task(engine.execute(Add("a", 1)))
        await until(lambda: store.batches)
        commands = [engine.execute(Add(f"c{n}", 1), headers={"n": str(n)}) for n in range(100)]
        rest = asyncio.gather(first, *commands)
        await until(lambda: engine.statistics().journal.undurable_events == 100)
        store.release()
        await rest

    shown = [commit.headers for commit, _, _ in recorder.of(CommitBegan)]
    assert [len(headers) for headers in shown] == [0, LINKS_MAX]


@pytest.mark.parametrize("error", [ValueError("secret"), asyncio.CancelledError("secret")])
@pytest.mark.parametrize("step", ["wants", "attach", "begin", "headers", "end", "detach"])
async def test_a_telemetry_that_raises_hurts_nobody(
    step: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine_with(Raising(step, error)) as engine:
        receipts = [await engine.execute(Add("a", 1)) for _ in range(3)]
        with pytest.raises(Rejected):
            await engine.execute(Look("a"))
        [tally] = await engine.query(GetTallies(), at=receipts[-1])
    numbers = engine.statistics()

    assert [receipt.version for receipt in receipts] == [1, 2, 3]
    assert (tally.total, numbers.state, engine.failed) == (3, "stopped", None)
    assert numbers.telemetry_failures >= 1
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == 1
    assert "the telemetry Raising raised" in told[0]
    assert "secret" not in caplog.text


async def test_without_a_telemetry_a_command_is_posted_as_it_is() -> None:
    engine, watched = Engine([]), Engine([], telemetry=Recorder())
    measures_only = Recorder()
    measures_only.wants_commands = False

    assert engine._wiring.reception.submit == engine._wiring.reception.take
    measured = Engine([], telemetry=measures_only)
    assert measured._wiring.reception.submit == measured._wiring.reception.take
    assert watched._wiring.reception.submit != watched._wiring.reception.take


def test_the_engine_does_not_import_opentelemetry() -> None:
    code = "import engine, sys; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
