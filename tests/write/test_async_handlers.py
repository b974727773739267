"""Handlers that wait: what goes on meanwhile, and what becomes of their results."""

from __future__ import annotations

import asyncio

import pytest

from engine import Conflict, HandlerFailed, Limits, Overloaded, Receipt, Rejected, Voided
from tests.support.held_store import HeldStore, not_written
from tests.support.waiting import settle, until
from tests.write.items import Mark, Price, Priced, Rates, items, start, told


async def test_an_async_handler_decides_with_its_resources_and_its_context() -> None:
    rates = Rates()
    async with items(rates) as engine:
        receipt = await engine.execute(Price("a"), principal="ann")

        assert receipt == Receipt("item:a", 1, 1)
        assert await told(engine, "a") == "10 at 1"
        assert rates.asked == ["ten"]
        assert engine.statistics().handlers_running == 0


async def test_other_aggregates_go_on_while_one_waits() -> None:
    rates = Rates()
    async with items(rates) as engine:
        slow = start(engine, Price("a", "wait"))
        for number in range(100):
            await engine.execute(Mark("b", number))
        assert not slow.done()
        assert engine.statistics().handlers_running == 1
        rates.gate.set()

        assert (await slow).position == 101


async def test_the_aggregate_itself_takes_nothing_until_its_handler_has_returned() -> None:
    rates = Rates()
    async with items(rates) as engine:
        tasks = [start(engine, Price("a", "wait"))]
        await until(lambda: rates.asked)
        tasks += [start(engine, Mark("a", 7)), start(engine, Price("a", "ten"))]
        await settle()
        assert not any(task.done() for task in tasks)
        rates.gate.set()

        assert [(await task).version for task in tasks] == [1, 2, 3]
        assert await told(engine, "a") == "17 at 3"


async def test_an_aggregate_does_not_leave_memory_while_its_handler_decides() -> None:
    rates = Rates()
    async with items(rates, limits=Limits(resident_aggregates=1)) as engine:
        pricing = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        [refused] = await asyncio.gather(engine.execute(Mark("b", 1)), return_exceptions=True)
        rates.gate.set()

        assert isinstance(refused, Overloaded)
        assert (await pricing).version == 1
        assert (await engine.execute(Mark("b", 1))).version == 1


async def test_an_async_handler_decides_on_what_is_not_durable_yet() -> None:
    rates, store = Rates(), HeldStore()
    async with items(rates, store=store) as engine:
        store.hold()
        first = start(engine, Mark("a", 5))
        second = start(engine, Price("a"))
        await until(lambda: rates.asked)
        await settle()
        assert not first.done()
        store.release()

        assert [(await first).version, (await second).version] == [1, 2]
        assert await told(engine, "a") == "15 at 2"


async def test_a_rejection_out_of_an_async_handler_waits_like_any_other() -> None:
    rates, store = Rates(), HeldStore()
    async with items(rates, store=store) as engine:
        store.hold()
        first = start(engine, Mark("a", 5))
        second = start(engine, Price("a", "reject"))
        await until(lambda: rates.asked)
        await settle()
        assert not second.done()
        store.release()

        assert (await first).version == 1
        with pytest.raises(Rejected, match="no-price"):
            await second


@pytest.mark.parametrize("what", ["raise", "cancelled", "negative"])
async def test_a_failing_async_handler_is_answered_and_its_aggregate_loads_again(
    what: str,
) -> None:
    rates = Rates()
    async with items(rates) as engine:
        await engine.execute(Mark("a", 5))
        with pytest.raises(HandlerFailed, match="price failed on Price"):
            await engine.execute(Price("a", what))

        assert await told(engine, "a") == "5 at 1"
        assert engine.statistics().aggregates.loaded == 2
        assert engine.statistics().position == 1


async def test_a_conflict_voids_a_decision_that_is_still_being_made() -> None:
    rates, store = Rates(), HeldStore()
    async with items(rates, store=store) as engine:
        await engine.execute(Mark("a", 1))
        store.hold()
        first = start(engine, Mark("a", 2))
        second = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        await store.append_event("item:a", 1, Priced(99))
        store.release()

        assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], Conflict)
        assert isinstance((await asyncio.gather(second, return_exceptions=True))[0], Voided)
        rates.gate.set()
        await settle()
        assert await told(engine, "a") == "99 at 2"
        assert engine.statistics().handlers_running == 0


async def test_a_command_behind_a_decision_that_was_voided_is_decided_on_what_is_stored() -> None:
    rates, store = Rates(), HeldStore()
    async with items(rates, store=store) as engine:
        await engine.execute(Mark("a", 1))
        store.hold()
        store.failures.append(not_written())
        first = start(engine, Mark("a", 2))
        second = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        behind = start(engine, Mark("a", 3))
        await settle()
        store.release()

        results = await asyncio.gather(first, second, behind, return_exceptions=True)
        assert [type(result) for result in results] == [Voided, Voided, Receipt]
        assert await told(engine, "a") == "3 at 2"


async def test_a_lost_batch_voids_a_decision_that_waits_for_its_turn() -> None:
    """The handler has returned, but the journal was full, so that nobody took what it gave."""
    rates, store = Rates(), HeldStore()
    limits = Limits(batch_events=1, command_events=1)
    async with items(rates, store=store, limits=limits) as engine:
        await engine.execute(Mark("a", 1))
        store.hold()
        store.failures.append(not_written())
        first = start(engine, Mark("a", 2))
        second = start(engine, Price("a"))
        await until(lambda: rates.asked)
        others = [start(engine, Mark("b", 3)), start(engine, Mark("c", 3))]
        await settle()
        store.release()

        results = await asyncio.gather(first, second, *others, return_exceptions=True)
        assert [type(result) for result in results] == [Voided, Voided, Receipt, Receipt]
        assert await told(engine, "a") == "1 at 1"
