"""Sinks: what is delivered outside, in which order, how often, and what becomes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Delivery, Engine, Event, Limits, Ports, Projection, ProjectionLag, Sink
from tests.projections.receiver import (
    Everything,
    Nothing,
    Outside,
    Parking,
    Receiver,
    add,
    everything,
    filled,
    reached,
    sinking,
    status,
    wait,
)
from tests.support.counters import Add, Added, Counter, Emptied
from tests.support.shelf import Crash
from tests.support.waiting import until


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture(params=["sqlite", "postgresql"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:{tmp_path / 'log.db'}"


# -- what is delivered ----------------------------------------------------------------------------


async def test_events_are_delivered_in_order_with_their_place_and_the_logs_id(file: str) -> None:
    found: list[Delivery[Added | Emptied]] = []

    class All(Sink, name="outside", version=1):
        async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
            found.extend(batch)

    async with Engine([Counter], projections=[All], answers=[everything], store=file) as engine:
        await reached(engine, await add(engine, "a", "b", "a"))
        log_id = engine._store.log_id

    assert [(d.position, d.meta.event_id, d.event) for d in found] == [
        (1, "counter:a@1", Added(1)),
        (2, "counter:b@1", Added(1)),
        (3, "counter:a@2", Added(1)),
    ]
    assert {d.log_id for d in found} == {log_id}


async def test_events_of_other_classes_are_passed_over_and_all_are_delivered_if_asked(
    receiver: Receiver,
) -> None:
    class Emptyings(Sink, name="outside", version=1):
        async def deliver(self, batch: Sequence[Delivery[Emptied]], receiver: Receiver) -> None:
            await receiver.take(batch)

    class All(Sink, name="all", version=1):
        async def deliver(self, batch: Sequence[Delivery[Event]], receiver: Receiver) -> None:
            receiver.tries.append([d.position for d in batch if isinstance(d.event, Added)])

    resources: dict[type, object] = {Receiver: receiver}
    projections: list[type[Projection]] = [Emptyings, All]
    async with Engine(
        [Counter], projections=projections, answers=[everything], resources=resources
    ) as engine:
        await reached(engine, await add(engine, "a", "b"))
        await until(lambda: engine.statistics().projectors["all"].position == 2)

        assert receiver.batches == []
        assert [p for tried in receiver.tries for p in tried] == [1, 2]


async def test_a_delivery_has_a_bounded_number_of_events(receiver: Receiver, file: str) -> None:
    async with Engine([Counter], store=file) as engine:
        await engine.execute(Add("a", 1, 25))
    async with sinking(receiver, file, limits=Limits(sink_events=10)) as engine:
        await reached(engine, 25)

    assert [len(batch) for batch in receiver.batches] == [10, 10, 5]
    assert receiver.positions == list(range(1, 26))


async def test_what_was_delivered_is_not_delivered_again_after_a_restart(
    receiver: Receiver, file: str
) -> None:
    async with filled(receiver, file, Outside, "a", "b") as engine:
        await reached(engine, 2)
    async with sinking(receiver, file) as engine:
        await reached(engine, await add(engine, "a"))

    assert receiver.positions == [1, 2, 3]


async def test_a_crash_between_delivery_and_checkpoint_delivers_again(
    receiver: Receiver, file: str
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    async with Engine([Counter], store=file) as engine:
        await add(engine, "a", "b")
    crashing = sinking(receiver, file, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    async with sinking(receiver, file) as engine:
        await reached(engine, 2)

    assert receiver.batches == [[1, 2], [1, 2]]


async def test_a_query_waits_for_a_sink_only_if_its_answer_names_it(receiver: Receiver) -> None:
    held = asyncio.Event()
    receiver.hold = lambda batch: wait(held)
    async with sinking(receiver) as engine:
        position = await add(engine, "a")

        assert await engine.query(Nothing(), at=position) == 0
        with pytest.raises(ProjectionLag, match="outside is 1 behind"):
            await engine.query(Everything(), at=position, timeout=0.01)
        held.set()
        assert await engine.query(Everything(), at=position) == 1


# -- poison ---------------------------------------------------------------------------------------


async def test_the_event_that_a_receiver_refuses_is_found_and_stops_it_alone(
    receiver: Receiver, file: str
) -> None:
    receiver.poison.add(70)
    async with filled(receiver, file, Outside, *["a", "b"] * 50) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await reached(engine, 100)

        found = await status(engine)
        assert found.failure is not None
        assert (found.position, found.failure.position) == (69, 70)
        assert "ValueError" in found.failure.cause
        assert "a secret" not in found.failure.cause
        assert receiver.positions == list(range(1, 70))
        assert len(receiver.tries) < 20
        receiver.poison.clear()
        await engine.projections.resume("outside")
        await reached(engine, 100)
        assert receiver.positions == list(range(1, 101))


async def test_a_parked_event_keeps_back_its_key_and_nothing_else(
    receiver: Receiver, file: str
) -> None:
    receiver.poison.update((4, 70))
    async with filled(receiver, file, Parking, *["a", "b", "c", "d"] * 25) as engine:
        await reached(engine, 100)

        kept = [s for n, s in enumerate(["a", "b", "c", "d"] * 25, 1) if s == "d" or n in (4, 70)]
        assert kept[0] == "d"
        assert {stream for stream, _ in receiver.seen} == {"counter:a", "counter:b", "counter:c"}
        assert [v for s, v in receiver.seen if s == "counter:b"] == list(range(1, 18))
        assert [v for s, v in receiver.seen if s == "counter:a"] == list(range(1, 26))
        assert (await status(engine)).parked == 25 + 8
        receiver.poison.clear()

        assert (await engine.projections.retry("outside")).released == 33
        await reached(engine, await add(engine, "d", "b"))
        for counter in "abcd":
            versions = [v for s, v in receiver.seen if s == f"counter:{counter}"]
            assert versions == list(range(1, 26 + (counter in "bd")))


async def test_poison_among_what_waits_behind_others_costs_nobody_else(
    receiver: Receiver, file: str
) -> None:
    """A batch that is halved parks nothing twice, and what stood behind it is looked at anew."""
    receiver.poison.update((2, 9))
    counters = ["a", "b", "b", "a", "b", "c", "b", "a", "c", "c", "b", "a"]
    async with filled(receiver, file, Parking, *counters) as engine:
        await reached(engine, 12)

        parked = await engine.projections.parked("outside")
        assert [p.position for p in parked] == [2, 3, 5, 7, 9, 10, 11]
        assert receiver.positions == [1, 4, 6, 8, 12]
        assert (await status(engine)).parked == 7


# -- failures that may pass -----------------------------------------------------------------------


class Picky(Outside, name="outside", version=1, on_poison="park"):
    transient = (ZeroDivisionError,)


async def test_a_sink_says_which_failures_may_pass(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        if len(receiver.tries) < 3:
            raise ZeroDivisionError

    receiver.hold = fail
    async with sinking(receiver, sink=Picky) as engine:
        await reached(engine, await add(engine, "a"))

        assert receiver.tries == [[1], [1], [1]]
        assert (await status(engine)).retries == 2
        assert await engine.projections.parked("outside") == []


async def test_other_failures_are_not_tried_again(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError("not among those that it named")

    receiver.hold = fail
    async with sinking(receiver, sink=Picky) as engine:
        await reached(engine, await add(engine, "a"))

        assert receiver.tries == [[1]]
        assert [p.attempts for p in await engine.projections.parked("outside")] == [1]


async def test_a_failure_that_does_not_pass_stops_a_sink_that_does_not_park(
    receiver: Receiver, file: str
) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError

    async with Engine([Counter], store=file) as engine:
        await add(engine, "a", "b", "c")
    receiver.hold = fail
    async with sinking(receiver, file, limits=Limits(sink_retries=2)) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await reached(engine, 3)

        assert set(map(tuple, receiver.tries)) == {(1, 2, 3)}, "it is not one event's fault"
        assert (await status(engine)).retries == 2
