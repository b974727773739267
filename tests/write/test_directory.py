"""Residency: bounded by count, losing no command; cold loads gathered, damaged ones alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from engine import Damaged, Limits, Overloaded, Receipt, StreamUnreadable
from engine.model.stored import EventData, EventType
from engine.stores.contract.log import AppendRequest, Batch, StreamPage, StreamRead, Write
from engine.write.actor import Actor
from tests.support.counters import Add, Look, Touch, counters, total
from tests.support.held_store import HeldStore
from tests.support.waiting import settle, until


@pytest.mark.parametrize("resident", [1, 2, 7])
async def test_passivation_under_pressure_loses_no_command(resident: int) -> None:
    chooser = random.Random(resident)
    store = HeldStore()
    sent = {f"c{n}": 0 for n in range(20)}
    async with counters(store, limits=Limits(resident_aggregates=resident)) as engine:

        async def client() -> None:
            for _ in range(40):
                counter = chooser.choice(list(sent))
                while True:
                    try:
                        await engine.execute(Add(counter, 1))
                    except Overloaded:
                        await asyncio.sleep(0)
                    else:
                        sent[counter] += 1
                        break

        await asyncio.gather(*(client() for _ in range(10)))

        assert engine.statistics().aggregates.resident <= resident
        assert engine.statistics().aggregates.passivated > 100
        for counter, count in sent.items():
            assert await total(engine, counter) == f"{count} at {count}"


async def test_an_actor_with_undurable_events_does_not_leave() -> None:
    store = HeldStore()
    async with counters(store, limits=Limits(resident_aggregates=1)) as engine:
        store.hold()
        first = asyncio.create_task(engine.execute(Add("a", 1)))
        await until(lambda: store.batches)
        with pytest.raises(Overloaded, match="none is at rest"):
            await engine.execute(Add("b", 1))
        store.release()
        await first

        assert (await engine.execute(Add("b", 1))).position == 2


async def test_an_actor_with_waiting_commands_does_not_leave() -> None:
    async with counters(HeldStore(), limits=Limits(resident_aggregates=1)) as engine:
        await engine.execute(Add("a", 1))
        waiting, refused = await asyncio.gather(
            engine.execute(Add("a", 1)), engine.execute(Add("b", 1)), return_exceptions=True
        )

        assert isinstance(waiting, Receipt)
        assert waiting.version == 2
        assert isinstance(refused, Overloaded)
        assert await total(engine, "a") == "2 at 2"


async def test_commands_refused_in_one_turn_cost_one_search_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = HeldStore()
    looks = 0
    at_rest = Actor.at_rest.fget  # type: ignore[attr-defined]

    def look(actor: Actor) -> bool:
        nonlocal looks
        looks += 1
        return bool(at_rest(actor))

    async with counters(store, limits=Limits(resident_aggregates=50)) as engine:
        store.hold()
        busy = [asyncio.create_task(engine.execute(Add(f"busy-{n}", 1))) for n in range(50)]
        await until(lambda: store.batches)
        monkeypatch.setattr(Actor, "at_rest", property(look))
        more = [engine.execute(Add(f"more-{n}", 1)) for n in range(40)]
        refused = await asyncio.gather(*more, return_exceptions=True)

        assert {type(answer) for answer in refused} == {Overloaded}
        assert engine._directory.overloaded == 40
        assert 50 <= looks < 200
        store.release()
        await asyncio.gather(*busy)
        await engine.execute(Add("more-1", 1))


async def test_the_least_recently_used_leaves_first() -> None:
    store = HeldStore()
    async with counters(store, limits=Limits(resident_aggregates=3)) as engine:
        for counter in "abc":
            await engine.execute(Add(counter, 1))
        await engine.execute(Add("d", 1))
        for counter in "bc":
            await engine.execute(Touch(counter))
        await engine.execute(Add("e", 1))
        resident = {actor.id for actor in engine._directory.actors}

    assert "a" not in resident
    assert "e" in resident


async def test_cold_aggregates_that_come_up_together_are_loaded_together() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await asyncio.gather(*(engine.execute(Add(f"c{n}", 1)) for n in range(200)))

        assert store.stream_reads == [200]


async def test_a_long_stream_is_loaded_page_by_page() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1, 950))
        await engine.execute(Add("b", 2, 7))
    store.stream_reads.clear()
    async with counters(store, limits=Limits(page_events=100)) as engine:
        totals = await asyncio.gather(*(total(engine, counter) for counter in "ab"))

        assert totals == ["950 at 950", "14 at 7"]
        assert len(store.stream_reads) == 10


async def test_the_next_pages_of_a_long_stream_are_read_while_one_is_folded() -> None:
    class Noting(HeldStore):
        asked: ClassVar[list[int]] = []

        async def read_streams(
            self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
        ) -> Sequence[StreamPage]:
            self.asked.extend(read.after for read in reads)
            pages: Sequence[StreamPage] = await super().read_streams(
                reads, events_max=events_max, bytes_max=bytes_max
            )
            return pages

    store = Noting()
    async with counters(store) as engine:
        for _ in range(4):
            await engine.execute(Add("long", 1, times=10))
    store.asked.clear()
    async with counters(store, limits=Limits(page_events=10)) as engine:
        assert await total(engine, "long") == "40 at 40"

    # What lies behind the end was asked for before the end was known, and dropped.
    assert store.asked == [0, 10, 20, 30, 40]


async def test_a_stream_that_cannot_be_decoded_costs_only_itself() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await engine.execute(Add("b", 1))
        data = EventData(EventType("from-the-future", 9, "00"), b"{}")
        append = super(HeldStore, store).append
        await append(Batch([AppendRequest([Write("counter:c", 0, [data])])], 1))
        commands = [Add("c", 1), Add("b", 1), Add("c", 1)]
        results: list[Any] = await asyncio.gather(
            *(engine.execute(command) for command in commands), return_exceptions=True
        )

        assert isinstance(results[0], StreamUnreadable)
        assert "position 3" in str(results[0])
        assert "from-the-future version 9" in str(results[0])
        assert isinstance(results[0].__cause__, Damaged)
        assert isinstance(results[1], Receipt)
        assert isinstance(results[2], StreamUnreadable)
        with pytest.raises(StreamUnreadable):
            await engine.execute(Look("c"))


async def test_a_damaged_event_costs_only_its_own_stream() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await asyncio.gather(*(engine.execute(Add(counter, 1)) for counter in "abc"))
    damaged = store._streams["counter:b"]
    damaged[0] = msgspec.structs.replace(damaged[0], payload=b'{"amount":9}')
    async with counters(store) as engine:
        commands = [Add(counter, 1) for counter in "abc"]
        results: list[Any] = await asyncio.gather(
            *(engine.execute(command) for command in commands), return_exceptions=True
        )

        assert [type(result) for result in results] == [Receipt, StreamUnreadable, Receipt]
        assert "its checksum is" in str(results[1])


async def test_a_read_that_fails_is_answered_and_tried_again() -> None:
    class Failing(HeldStore):
        failing = True

        async def read_streams(self, reads: Any, *, events_max: int, bytes_max: int) -> Any:
            if self.failing:
                raise OSError(5, "input/output error")
            return await super().read_streams(reads, events_max=events_max, bytes_max=bytes_max)

    store = Failing()
    async with counters(store) as engine:
        with pytest.raises(StreamUnreadable):
            await engine.execute(Add("a", 1))
        store.failing = False

        assert await engine.execute(Add("a", 1)) == Receipt("counter:a", 1, 1)


async def test_a_full_mailbox_is_said_at_once() -> None:
    store = HeldStore()
    limits = Limits(mailbox_commands=5, batch_events=1)
    async with counters(store, limits=limits) as engine:
        store.hold()
        tasks = [asyncio.create_task(engine.execute(Add("a", 1))) for _ in range(20)]
        await until(lambda: store.batches)
        await settle()
        done = [task for task in tasks if task.done()]
        assert len(done) >= 12
        assert all(isinstance(task.exception(), Overloaded) for task in done)
        other = asyncio.create_task(engine.execute(Add("b", 1)))
        await settle()
        assert not other.done(), "another mailbox takes its command all the same"
        store.release()
        assert (await other).version == 1
        results = await asyncio.gather(*tasks, return_exceptions=True)

        accepted = [result for result in results if isinstance(result, Receipt)]
        assert len(accepted) == len(tasks) - len(done)
        assert await total(engine, "a") == f"{len(accepted)} at {len(accepted)}"


async def test_a_full_engine_is_said_at_once() -> None:
    store = HeldStore()
    limits = Limits(mailbox_commands=3, commands_accepted=10)
    async with counters(store, limits=limits) as engine:
        store.hold()
        tasks = [asyncio.create_task(engine.execute(Add(f"c{n}", 1))) for n in range(10)]
        await settle()
        with pytest.raises(Overloaded, match="commands_accepted"):
            await engine.execute(Add("x", 1))
        store.release()
        await asyncio.gather(*tasks)

        assert (await engine.execute(Add("x", 1))).version == 1


async def test_the_search_for_who_can_leave_is_short_where_all_were_used() -> None:
    """It is made in the event loop, for each aggregate that comes when the directory is full."""
    async with counters(limits=Limits(resident_aggregates=500)) as engine:
        await asyncio.gather(*[engine.execute(Add(f"c{n}", 1)) for n in range(500)])
        assert all(actor.used for actor in engine._directory.actors)
        await engine.execute(Add("x", 1))

        looked_at = [actor.id for actor in engine._directory.actors if not actor.used]
        assert looked_at == [f"c{n}" for n in range(1, 64)], "and the first of them has left"
        assert await total(engine, "c0") == "1 at 1"


async def test_idle_aggregates_leave_memory_and_busy_ones_stay() -> None:
    limits = Limits(idle_seconds=10)
    async with counters(limits=limits) as engine:
        await engine.execute(Add("idle", 1))
        await engine.execute(Add("busy", 1))
        directory = engine._directory
        for look in range(3):
            assert len(directory) == 2, look
            await engine.execute(Add("busy", 1))
            for actor in directory.actors:
                directory._look_at(actor)

        assert [actor.id for actor in directory.actors] == ["busy"]
        assert engine.statistics().aggregates.passivated == 1
        assert await total(engine, "idle") == "1 at 1"


async def test_the_sweep_runs_by_itself() -> None:
    async with counters(limits=Limits(idle_seconds=1)) as engine:
        await engine.execute(Add("a", 1))
        async with asyncio.timeout(30):
            while engine.statistics().aggregates.resident:
                await asyncio.sleep(0.05)

        assert engine.statistics().aggregates.passivated == 1


async def test_an_idle_aggregate_with_events_in_flight_stays() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        task = asyncio.create_task(engine.execute(Add("a", 1)))
        await until(lambda: store.batches)
        actor = engine._directory.actors[0]
        for _ in range(5):
            engine._directory._look_at(actor)
        assert engine._directory.actors == (actor,)
        store.release()
        await task


async def test_statistics_estimate_what_an_aggregate_holds() -> None:
    async with counters() as engine:
        assert engine.statistics().aggregates.bytes_each == 0
        for n in range(100):
            await engine.execute(Add(f"small-{n}", 1))
        small = engine.statistics().aggregates.bytes_each
        for n in range(100):
            await engine.execute(Add(f"large-{n}", 1, 1, {f"tag {t}": [t] for t in range(200)}))
        mixed = engine.statistics().aggregates.bytes_each

    assert 300 < small < 3_000
    # 200 entries of a key, a list and a dict slot are about 200 * 250 bytes, in half of them.
    assert 10_000 < mixed < 60_000


async def test_a_payload_that_is_no_utf_8_is_damage_like_any_other() -> None:
    """msgspec raises UnicodeDecodeError there, which is no error of its own."""
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        kind = store._types["added", 1]
        data = EventData(kind, b'{"amount": 1, "tags": {"\xff": []}}')
        append = super(HeldStore, store).append
        await append(Batch([AppendRequest([Write("counter:b", 0, [data])])], 1))
        with pytest.raises(StreamUnreadable, match="position 2 cannot be used") as caught:
            await engine.execute(Add("b", 1))

        assert isinstance(caught.value.__cause__, Damaged)
