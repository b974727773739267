"""Handlers and their deadlines: cancelled, late, given up, or held up by others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import Aggregate, DeadlinePassed, Engine, Limits, Ports, UsageError, applies, handles
from engine.testing.scenario import ManualClock
from tests.support.held_store import HeldStore
from tests.support.waiting import until
from tests.write.items import Item, Mark, Price, Priced, Rates, items, start, told


async def test_a_handler_that_hangs_is_answered_and_cancelled_at_its_deadline() -> None:
    rates = Rates()
    async with items(rates) as engine:
        await engine.execute(Mark("a", 5))
        with pytest.raises(DeadlinePassed, match="Nothing was written, and nothing will be"):
            await engine.execute(Price("a", "wait"), deadline=0.01)

        assert await told(engine, "a") == "5 at 1"
        await until(lambda: engine.statistics().handlers_running == 0)
        assert engine.statistics().aggregates.loaded == 2


async def test_a_handler_that_will_not_be_cancelled_is_answered_and_its_result_dropped() -> None:
    rates = Rates()
    async with items(rates) as engine:
        with pytest.raises(DeadlinePassed):
            await engine.execute(Price("a", "stubborn"), deadline=0.01)
        await engine.execute(Mark("a", 6))
        await until(lambda: "would not be cancelled" in rates.asked)
        assert engine.statistics().handlers_running == 1
        rates.gate.set()
        await until(lambda: engine.statistics().handlers_running == 0)

        assert await told(engine, "a") == "6 at 1"


async def test_what_waits_behind_a_hanging_handler_has_deadlines_of_its_own() -> None:
    rates = Rates()
    async with items(rates) as engine:
        hanging = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        with pytest.raises(DeadlinePassed, match="waited for its turn"):
            await engine.execute(Mark("a", 1), deadline=0.01)
        patient = start(engine, Mark("a", 2))
        rates.gate.set()

        assert (await hanging).version == 1
        assert (await patient).version == 2
        assert await told(engine, "a") == "2 at 2"


async def test_handler_seconds_bounds_handlers_without_a_deadline() -> None:
    rates = Rates()
    async with items(rates, limits=Limits(handler_seconds=1)) as engine:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlinePassed, match="Limits.handler_seconds are over"):
            await engine.execute(Price("a", "wait"))

        assert 0.9 <= loop.time() - began < 20


async def test_a_kind_has_a_deadline_of_its_own() -> None:
    class Hasty(Item, kind="hasty", deadline=0.01):
        pass

    async with Engine([Hasty], resources={Rates: Rates()}) as engine:
        with pytest.raises(DeadlinePassed, match="its 0.01 s are over"):
            await engine.execute(Price("a", "wait"))


async def test_a_handler_that_blocked_the_loop_beyond_its_deadline_is_late() -> None:
    clock = ManualClock()

    class Blocking(Rates):
        async def price(self, what: str) -> int:
            clock.advance(60)  # as time.sleep(60) would
            return 10

    async with items(Blocking(), ports=Ports(clock=clock, watcher=None)) as engine:
        with pytest.raises(DeadlinePassed):
            await engine.execute(Price("a"), deadline=50)
        with pytest.raises(DeadlinePassed):
            await engine.execute(Price("a"))

        assert engine.statistics().position == 0


async def test_a_sync_handler_that_blocked_beyond_its_deadline_is_late_too() -> None:
    clock = ManualClock()

    class Slow(Aggregate, kind="slow"):
        @handles
        def mark(self, command: Mark) -> Priced:
            clock.advance(command.pence)
            return Priced(1)

        @applies
        def priced(self, event: Priced) -> None: ...

    async with Engine([Slow], ports=Ports(clock=clock, watcher=None)) as engine:
        with pytest.raises(DeadlinePassed, match="decided too slowly"):
            await engine.execute(Mark("a", 60), deadline=50)

        assert (await engine.execute(Mark("a", 40), deadline=50)).version == 1


async def test_a_command_that_comes_late_to_its_turn_is_not_run() -> None:
    clock = ManualClock()
    async with items(Rates(), ports=Ports(clock=clock, watcher=None)) as engine:
        late = start(engine, Mark("a", 1), deadline=5)
        await asyncio.sleep(0)
        clock.advance(6)

        with pytest.raises(DeadlinePassed, match="waited for its turn"):
            await late
        assert engine.statistics().position == 0


async def test_an_outcome_that_waits_for_room_in_the_journal_is_refused_at_its_deadline() -> None:
    store, rates = HeldStore(), Rates()
    async with items(rates, store=store, limits=Limits(batch_events=1)) as engine:
        await engine.execute(Price("a"))
        store.hold()
        slow = start(engine, Price("a", "wait"), deadline=0.05)
        await until(lambda: "wait" in rates.asked)
        full = [start(engine, Mark(name, 1)) for name in "bcd"]
        await until(lambda: not engine._wiring.journal.has_room)
        rates.gate.set()

        with pytest.raises(DeadlinePassed, match="was decided too slowly"):
            await asyncio.wait_for(slow, 5)
        store.release()
        await asyncio.gather(*full)
        assert (await engine.execute(Price("a"))).version == 2


async def test_a_decided_command_is_answered_truly_however_long_the_disk_takes() -> None:
    store = HeldStore()
    async with items(Rates(), store=store) as engine:
        await engine.execute(Mark("a", 1))
        store.hold()
        clock = asyncio.get_running_loop().time
        begun = clock()
        slow = start(engine, Mark("a", 2), deadline=0.3)
        await until(lambda: len(store.batches) == 2)
        await until(lambda: clock() > begun + 0.4)
        store.release()

        assert (await slow).version == 2


@pytest.mark.parametrize("deadline", [0, -1, -0.5])
async def test_a_deadline_that_has_passed_is_answered_at_once(deadline: float) -> None:
    async with items(Rates()) as engine:
        with pytest.raises(DeadlinePassed, match="passed already"):
            await engine.execute(Mark("a", 1), deadline=deadline)
        assert engine.statistics().commands.answered == 0


@pytest.mark.parametrize("deadline", ["1", float("nan"), object()])
async def test_a_deadline_is_a_number(deadline: Any) -> None:
    async with items(Rates()) as engine:
        with pytest.raises(UsageError, match="a number of seconds"):
            await engine.execute(Mark("a", 1), deadline=deadline)
