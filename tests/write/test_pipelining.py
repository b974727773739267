"""The rules that keep pipelining right: who waits, who is voided, and what nobody loses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import (
    Closed,
    Conflict,
    Engine,
    EngineFailed,
    HandlerFailed,
    Limits,
    NotRun,
    OutcomeUnknown,
    Receipt,
    Rejected,
    StoreFailed,
    Voided,
)
from tests.support.counters import SPOILS, Add, Empty, Look, Spoil, Touch, counters, total
from tests.support.held_store import HeldStore, not_written, unknown
from tests.support.waiting import settle, until


def start(engine: Engine, command: Any, **options: Any) -> asyncio.Task[Receipt]:
    return asyncio.create_task(engine.execute(command, **options))


async def answers(tasks: list[asyncio.Task[Receipt]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_leaves_only_when_its_events_are_durable() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        task = start(engine, Add("a", 1))
        await until(lambda: store.batches)
        await settle()
        assert not task.done()

        store.release()

        assert await task == Receipt("counter:a", 1, 1)


async def test_a_hot_aggregate_decides_on_while_the_disk_works() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        first = start(engine, Add("a", 1))
        await until(lambda: store.batches)
        rest = [start(engine, Add("a", 1)) for _ in range(100)]
        await settle()
        store.release()
        await answers([first, *rest])

        assert [len(batch.requests) for batch in store.batches] == [1, 100]
        assert await total(engine, "a") == "101 at 101"


async def test_commands_of_many_aggregates_share_a_commit() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await answers([start(engine, Add(f"c{n}", n)) for n in range(200)])

        assert len(store.batches) <= 3


async def test_a_batch_is_bounded_by_events_and_by_bytes() -> None:
    limits = Limits(batch_events=10, batch_bytes=4_000, event_bytes=2_000)
    store = HeldStore()
    async with counters(store, limits=limits) as engine:
        await answers([start(engine, Add(f"c{n}", n, 3)) for n in range(30)])
        counted = list(store.batches)
        await answers([start(engine, Add(f"c{n}", 1, 1, {"x" * 1_500: []})) for n in range(30)])

    events = [sum(len(r.writes[0].events) for r in batch.requests) for batch in counted]
    sizes = [
        sum(data.size for r in batch.requests for data in r.writes[0].events)
        for batch in store.batches[len(counted) :]
    ]
    assert max(events) <= 10
    assert sum(events) == 90
    assert max(sizes) <= 4_000


@pytest.mark.parametrize("command", [Look("a"), Touch("a"), Add("a", -1)])
async def test_what_writes_nothing_waits_for_the_version_it_was_decided_on(command: Any) -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        first = start(engine, Add("a", 1))
        second = start(engine, command)
        await until(lambda: store.batches)
        await settle()
        assert not second.done()

        store.release()
        results = await answers([first, second])

        assert results[0] == Receipt("counter:a", 1, 1)
        assert isinstance(results[1], Rejected) or results[1] == Receipt("counter:a", 1, 1)


async def test_what_is_decided_on_durable_state_is_answered_while_the_disk_works() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        store.hold()
        other = start(engine, Add("b", 1))
        await until(lambda: len(store.batches) == 2)

        assert await total(engine, "a") == "1 at 1"
        assert await engine.execute(Touch("a")) == Receipt("counter:a", 1, 1)
        assert not other.done()

        store.release()
        await other


async def test_a_repeated_key_waits_for_the_events_of_its_first_command() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        first = start(engine, Add("a", 1), key="k")
        again = start(engine, Add("a", 1), key="k")
        await until(lambda: store.batches)
        await settle()
        assert not again.done()

        store.release()

        assert await answers([first, again]) == [Receipt("counter:a", 1, 1)] * 2
        assert (await store.head()).position == 1


async def test_a_conflict_voids_every_later_command_of_its_stream_and_no_other() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        store.hold()
        blocker = start(engine, Add("z", 1))
        await until(lambda: len(store.batches) == 2)
        # These gather behind the blocker and go into one batch; a second writer is first.
        same_batch = [start(engine, Add("a", 10)), start(engine, Add("a", 20))]
        refused = start(engine, Look("a"))
        other = start(engine, Add("b", 5))
        await settle()
        await store.append_behind("counter:a", 1, 100)
        store.release()
        results = await answers([*same_batch, refused, other, blocker])

        assert isinstance(results[0], Conflict)
        assert (results[0].expected, results[0].actual) == (1, 2)
        assert [type(r) for r in results[1:3]] == [Voided, Voided]
        assert all(isinstance(r, NotRun) for r in results[:3])
        assert isinstance(results[3], Receipt)
        assert isinstance(results[4], Receipt)
        assert await total(engine, "a") == "101 at 2"
        assert await engine.execute(Add("a", 1)) == Receipt("counter:a", 3, 5)


async def test_a_conflict_voids_what_gathers_behind_the_batch_in_flight() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await store.append_behind("counter:a", 1, 100)
        store.hold()
        in_flight = start(engine, Add("a", 10))
        await until(lambda: len(store.batches) == 2)
        # Decided at version 2: by luck the version at which the stream really is.
        gathering = [start(engine, Add("a", 20)), start(engine, Add("b", 1))]
        await settle()
        store.release()
        results = await answers([in_flight, *gathering])

        assert isinstance(results[0], Conflict)
        assert isinstance(results[1], Voided)
        assert isinstance(results[2], Receipt)
        assert await total(engine, "a") == "101 at 2"


async def test_a_command_is_decided_anew_after_a_conflict() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await store.append_behind("counter:a", 1, 41)
        with pytest.raises(
            Conflict, match="is at version 2, and the command was decided at versio"
        ):
            await engine.execute(Add("a", 0), key="k")

        assert await engine.execute(Add("a", 0), key="k") == Receipt("counter:a", 3, 3)
        assert await total(engine, "a") == "42 at 3"


async def test_a_batch_that_was_not_written_voids_all_of_it_and_the_engine_goes_on() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await engine.execute(Touch("b"))
        store.hold()
        store.failures.append(not_written())
        in_flight = [start(engine, Add("a", 1)), start(engine, Add("b", 1))]
        await until(lambda: len(store.batches) == 2)
        gathering = [
            start(engine, Add("a", 1)),
            start(engine, Look("b")),
            start(engine, Add("c", 1)),
        ]
        await settle()
        store.release()
        results = await answers([*in_flight, *gathering])

        assert [type(r) for r in results[:4]] == [Voided] * 4
        assert results[4] == Receipt("counter:c", 1, 2), "a failed batch burns no position"
        assert await total(engine, "a") == "1 at 1"
        assert await engine.execute(Add("b", 1)) == Receipt("counter:b", 1, 3)


@pytest.mark.parametrize("failure", [unknown(), OSError(5, "input/output error")])
async def test_a_failed_sync_stops_the_engine_and_what_was_in_flight_is_unknown(
    failure: BaseException,
) -> None:
    store = HeldStore()
    outcomes: list[Any] = []
    with pytest.raises(EngineFailed):
        async with counters(store) as engine:
            await answers([start(engine, Add("a", 1), key="old"), start(engine, Add("b", 1))])
            before = len(store.batches)
            store.hold()
            store.failures.append(failure)
            in_flight = [start(engine, Add("a", 1), key="k"), start(engine, Add("b", 1))]
            followers = [start(engine, Look("a")), start(engine, Add("a", 1), key="k")]
            await until(lambda: len(store.batches) == before + 1)
            gathering = start(engine, Add("a", 1))
            await settle()
            store.release()
            outcomes = await answers([*in_flight, *followers, gathering])
            assert engine.failed is failure
            with pytest.raises(Closed):
                await engine.execute(Add("c", 1))
            assert engine.statistics().commands.open == 0

    names = [type(outcome) for outcome in outcomes]
    assert names == [OutcomeUnknown, OutcomeUnknown, Voided, OutcomeUnknown, Voided]


async def test_commands_that_wait_when_the_engine_fails_are_answered_closed() -> None:
    store = HeldStore()
    limits = Limits(batch_events=1)
    with pytest.raises(EngineFailed):
        async with counters(store, limits=limits) as engine:
            store.hold()
            store.failures.append(unknown())
            tasks = [start(engine, Add("a", 1)) for _ in range(10)]
            await until(lambda: store.batches)
            await settle()
            store.release()
            results = await answers(tasks)

    assert isinstance(results[0], OutcomeUnknown)
    assert all(isinstance(result, Voided | Closed) for result in results[1:])
    assert {type(result) for result in results[1:]} == {Voided, Closed}


@pytest.mark.parametrize("how", SPOILS)
async def test_any_failure_of_the_aggregates_code_is_answered_and_leaves_no_trace(how: str) -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1))
        with pytest.raises(HandlerFailed):
            await engine.execute(Spoil("a", how))

        assert await total(engine, "a") == "1 at 1"
        assert await engine.execute(Add("a", 1)) == Receipt("counter:a", 2, 2)


async def test_a_failed_handler_costs_neither_what_is_in_flight_nor_what_waits() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        store.hold()
        first = start(engine, Add("a", 1))
        await until(lambda: store.batches)
        gathered = start(engine, Add("a", 2))
        spoiled = start(engine, Spoil("a", "second-fold"))
        later = [start(engine, Add("a", 4)), start(engine, Look("a"))]
        await settle()
        assert spoiled.done(), "it is not run, whatever becomes of the events before it"
        assert not later[0].done()
        store.release()
        results = await answers([first, gathered, spoiled, *later])

        assert [type(r) for r in results] == [Receipt, Receipt, HandlerFailed, Receipt, Rejected]
        assert results[4].message == "7 at 3"


async def test_the_state_shares_nothing_with_what_the_caller_holds() -> None:
    async with counters() as engine:
        tags = {"x": [1]}
        command = Add("a", 1, 2, tags)
        await engine.execute(command)
        actor = engine._directory.actors[0]
        tags["x"].append(2)

        assert actor.state.tags == {"x": [1]}  # type: ignore[attr-defined]
        assert actor.state.tags is not command.tags  # type: ignore[attr-defined]


async def test_commands_run_in_the_order_in_which_the_mailbox_took_them() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        receipts = await answers([start(engine, Add("a", n)) for n in range(300)])

        assert [receipt.version for receipt in receipts] == list(range(1, 301))
        payloads = [event.payload for event in await store.events()]
        assert [int(p.split(b":")[1].split(b",")[0]) for p in payloads] == list(range(300))


async def test_events_of_one_command_stand_next_to_each_other() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await answers([start(engine, Add(f"c{n % 7}", n, 3)) for n in range(70)])
        events = await store.events()

    for first in range(0, len(events), 3):
        assert len({(event.stream, event.payload) for event in events[first : first + 3]}) == 1


async def test_an_empty_result_gives_a_receipt_of_the_stream_as_it_is() -> None:
    async with counters() as engine:
        assert await engine.execute(Touch("a")) == Receipt("counter:a", 0, 0)
        await engine.execute(Add("a", 1))

        assert await engine.execute(Touch("a")) == Receipt("counter:a", 1, 1)
        assert (await engine.execute(Empty("a"))).version == 2
        assert (await engine.execute(Empty("a"))).version == 2


async def test_a_batch_that_a_stopped_store_never_began_is_not_run_and_ends_the_engine() -> None:
    store = HeldStore()
    with pytest.raises(EngineFailed):
        async with counters(store) as engine:
            await engine.execute(Add("a", 1))
            store.hold()
            store.failures.append(StoreFailed("it has stopped", written=False, stopped=True))
            first = start(engine, Add("a", 1))
            await until(lambda: len(store.batches) == 2)
            rest = [start(engine, Add(who, 1)) for who in ("a", "b")]
            await asyncio.sleep(0)
            store.release()
            results = await asyncio.wait_for(answers([first, *rest]), 20)

            assert all(isinstance(result, NotRun) for result in results), results
            await until(lambda: engine.failed is not None)


@pytest.mark.parametrize("command", [Look("a"), Touch("a"), Add("a", 1)])
async def test_nothing_is_decided_on_events_whose_outcome_nobody_knows(command: Any) -> None:
    """Between the failure and the end of the engine actors still have turns."""
    store = HeldStore()
    limits = Limits(turn_commands=1, actor_commands=1)
    with pytest.raises(EngineFailed):
        async with counters(store, limits=limits) as engine:
            await engine.execute(Add("a", 1), key="k")
            store.hold()
            store.failures.append(unknown())
            first = start(engine, Add("a", 1))
            await until(lambda: len(store.batches) == 2)
            rest = [start(engine, command) for _ in range(500)]
            await asyncio.sleep(0)
            store.release()
            results = await asyncio.wait_for(answers([first, *rest]), 20)

            assert isinstance(results[0], OutcomeUnknown)
            assert all(isinstance(result, NotRun) for result in results[1:])
