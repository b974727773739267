"""Handlers that wait: what goes on meanwhile, how they end, and what becomes of late results."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine import (
    Aggregate,
    Closed,
    Command,
    Conflict,
    Context,
    DeadlinePassed,
    DefinitionError,
    Engine,
    EngineFailed,
    Envelope,
    Event,
    HandlerFailed,
    Id,
    Limits,
    Overloaded,
    Ports,
    Receipt,
    Rejected,
    UsageError,
    Voided,
    applies,
    handles,
)
from engine.running import run
from engine.stores.memory import MemoryStore
from engine.testing.scenario import ManualClock, given
from tests.support.held_store import HeldStore, not_written
from tests.support.waiting import settle, until


class Priced(Event, name="priced"):
    pence: int
    by: str = ""


class Price(Command):
    """Asks the rates for a price; they do with `what` as they are told."""

    item_id: Id
    what: str = "ten"


class Mark(Command):
    """Is decided at once."""

    item_id: Id
    pence: int


class Tell(Command):
    """Rejects always, and tells the state."""

    item_id: Id


class Rates:
    """A resource that answers, hangs, raises or blocks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.answers: dict[str, Callable[[], Awaitable[int]]] = {
            "ten": self._ten,
            "wait": self._wait,
            "stubborn": self._stubborn,
            "raise": self._raise,
            "cancelled": self._cancelled,
            "reject": self._reject,
            "negative": self._negative,
        }

    async def price(self, what: str) -> int:
        self.asked.append(what)
        return await self.answers[what]()

    async def _ten(self) -> int:
        await asyncio.sleep(0)
        return 10

    async def _wait(self) -> int:
        await self.gate.wait()
        return 20

    async def _stubborn(self) -> int:
        while not self.gate.is_set():
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.asked.append("would not be cancelled")
        return 30

    async def _raise(self) -> int:
        await asyncio.sleep(0)
        raise OSError("no rates today")

    async def _cancelled(self) -> int:
        raise asyncio.CancelledError

    async def _reject(self) -> int:
        await asyncio.sleep(0)
        raise Rejected("no-price", "there is no price")

    async def _negative(self) -> int:
        return -100


class Item(Aggregate, kind="item"):
    pence: int = 0
    marks: int = 0

    @handles
    async def price(self, command: Price, ctx: Context, rates: Rates) -> Priced:
        before = self.pence
        pence = await rates.price(command.what)
        assert self.pence == before, "nobody changes the state while the handler waits"
        return Priced(pence + before, ctx.principal or "")

    @handles
    def mark(self, command: Mark) -> Priced:
        return Priced(command.pence)

    @handles
    def tell(self, command: Tell) -> None:
        raise Rejected("told", f"{self.pence} at {self.version}")

    @applies
    def priced(self, event: Priced) -> None:
        if event.pence < 0:
            raise ValueError("a price is positive")
        self.pence = event.pence
        self.marks += 1


def items(rates: Rates, **options: Any) -> Engine:
    options.setdefault("store", MemoryStore())
    return Engine([Item], resources={Rates: rates}, **options)


def start(engine: Engine, command: Any, **options: Any) -> asyncio.Task[Receipt]:
    return asyncio.create_task(engine.execute(command, **options))


async def told(engine: Engine, item: str) -> str:
    try:
        await engine.execute(Tell(item))
    except Rejected as rejected:
        return rejected.message
    raise AssertionError("Tell always rejects")


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
        await until(lambda: not engine._journal.has_room)
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
        slow = start(engine, Mark("a", 2), deadline=0.01)
        await until(lambda: len(store.batches) == 2)
        await asyncio.sleep(0.02)
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


async def test_execute_inside_a_handler_is_refused_by_name() -> None:
    class Nested(Rates):
        async def price(self, what: str) -> int:
            return (await asyncio.create_task(engine.execute(Mark("b", 1)))).version

    async with items(Nested()) as engine:
        with pytest.raises(HandlerFailed) as caught:
            await engine.execute(Price("a"))

        assert isinstance(caught.value.__cause__, UsageError)
        assert "Item.price calls engine.execute with Mark" in str(caught.value.__cause__)
        assert engine.statistics().position == 0


async def test_a_task_that_a_handler_began_may_execute_when_the_handler_is_over() -> None:
    later: list[asyncio.Task[Receipt]] = []
    over = asyncio.Event()

    async def afterwards(engine: Engine) -> Receipt:
        await over.wait()
        return await engine.execute(Mark("b", 1))

    class Beginning(Rates):
        async def price(self, what: str) -> int:
            later.append(asyncio.create_task(afterwards(engine)))
            return 1

    async with items(Beginning()) as engine:
        await engine.execute(Price("a"))
        over.set()

        assert (await later[0]).stream == "item:b"


async def test_another_engine_may_be_used_inside_a_handler() -> None:
    async with items(Rates()) as other:

        class Reaching(Rates):
            async def price(self, what: str) -> int:
                return (await other.execute(Mark("b", 1))).version

        async with items(Reaching()) as engine:
            assert (await engine.execute(Price("a"))).version == 1


async def test_a_cancelled_caller_does_not_cancel_its_handler() -> None:
    rates = Rates()
    async with items(rates) as engine:
        caller = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        rates.gate.set()

        assert await told(engine, "a") == "20 at 1"


async def test_a_repeated_key_gets_the_receipt_of_its_first_async_run() -> None:
    rates = Rates()
    async with items(rates) as engine:
        first = start(engine, Price("a", "wait"), key="k")
        again = start(engine, Price("a", "wait"), key="k")
        await until(lambda: rates.asked)
        rates.gate.set()

        assert await first == await again == Receipt("item:a", 1, 1)
        assert rates.asked == ["wait"]


async def test_stopping_lets_handlers_finish() -> None:
    rates = Rates()
    async with items(rates) as engine:
        task = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked)
        asyncio.get_running_loop().call_soon(rates.gate.set)

    assert task.result() == Receipt("item:a", 1, 1)


async def test_stopping_does_not_wait_for_ever_for_a_handler_that_was_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rates = Rates()
    with caplog.at_level(logging.ERROR):
        async with items(rates) as engine:
            with pytest.raises(DeadlinePassed):
                await engine.execute(Price("a", "stubborn"), deadline=0.01)

    assert "Item.price does not end when it is cancelled" in caplog.text
    rates.gate.set()
    await settle()


async def test_when_the_engine_fails_a_handler_at_work_is_answered() -> None:
    rates, store = Rates(), HeldStore()
    with pytest.raises(EngineFailed):
        async with items(rates, store=store) as engine:
            waiting = start(engine, Price("a", "wait"))
            behind = start(engine, Mark("a", 1))
            await until(lambda: rates.asked)
            store.failures.append(RuntimeError("the disk is gone"))
            broken = start(engine, Mark("b", 1))
            results = await asyncio.gather(waiting, behind, broken, return_exceptions=True)
            assert [type(result) for result in results[:2]] == [Closed, Closed]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_handler_whose_task_somebody_cancels_is_answered(begun: bool) -> None:
    """As a host does that cancels all tasks of its loop."""
    rates = Rates()
    async with items(rates) as engine:
        waiting = start(engine, Price("a", "wait"))
        await until(lambda: rates.asked if begun else handler_tasks())
        assert bool(rates.asked) is begun
        for task in handler_tasks():
            task.cancel()

        with pytest.raises(HandlerFailed):
            await asyncio.wait_for(waiting, 20)
        assert (await engine.execute(Mark("a", 1))).version == 1


def handler_tasks() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "Item.price" in task.get_name()]


async def test_execute_many_takes_deadlines() -> None:
    rates = Rates()
    async with items(rates) as engine:
        commands = [
            Envelope(command=Price("a", "wait"), deadline=0.01),
            Envelope(command=Mark("b", 1), deadline=5),
        ]
        found = [type(answer) async for answer in engine.execute_many(commands)]

        assert found == [DeadlinePassed, Receipt]


def test_it_runs_on_uvloop_too() -> None:
    async def main() -> str:
        rates = Rates()
        async with items(rates) as engine:
            await asyncio.gather(*(engine.execute(Price(f"i{n}")) for n in range(50)))
            with pytest.raises(DeadlinePassed):
                await engine.execute(Price("a", "wait"), deadline=0.01)
            return await told(engine, "i7")

    assert run(main) == "10 at 1"


def test_a_resource_that_nobody_gave_is_named_when_the_engine_is_made() -> None:
    with pytest.raises(DefinitionError, match=r"Engine\(resources=\{Rates: \.\.\.\}\)"):
        Engine([Item])


async def test_a_blocked_loop_is_logged_with_the_stack_that_blocks_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blocking(Rates):
        async def price(self, what: str) -> int:
            return self.sleep_like_a_sync_driver()

        def sleep_like_a_sync_driver(self) -> int:
            while engine.statistics().loop_blocked == 0:
                time.sleep(0.001)
            return 1

    with caplog.at_level(logging.WARNING):
        async with items(Blocking(), limits=Limits(loop_blocked_ms=20)) as engine:
            await engine.execute(Price("a"))
            await until_logged(caplog, "goes on, after about")

    assert "blocked for more than 20 ms" in caplog.text
    assert "sleep_like_a_sync_driver" in caplog.text
    assert engine.statistics().loop_blocked == 1


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in caplog.text:
            await asyncio.sleep(0.001)


async def test_a_loop_that_gives_way_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Callable[[float, float, Callable[[], str]], None]] = []

    class Watcher:
        def start(self, check: Any, every: float) -> Callable[[], None]:
            asked.append(check)
            return asked.clear

    async with items(Rates(), ports=Ports(watcher=Watcher())) as engine:
        for tick in range(10):
            asked[0](tick * 100.0, tick * 100.0, lambda: "stack")
            await asyncio.sleep(0)
        assert engine.statistics().loop_blocked == 0
        asked[0](2_000.0, 2_000.0, lambda: "stack")
        asked[0](2_000.05, 2_000.05, lambda: "stack")
        assert engine.statistics().loop_blocked == 0
        asked[0](2_000.1, 2_000.1, lambda: "stack")
        asked[0](2_000.2, 2_000.2, lambda: "stack")
        assert engine.statistics().loop_blocked == 1
        await asyncio.sleep(0)
        asked[0](2_000.3, 2_000.3, lambda: "stack")
        assert "goes on, after about 0.3 s" in caplog.text

    assert asked == []


async def test_a_machine_that_holds_up_the_whole_process_is_not_blamed_on_the_loop() -> None:
    checks: list[Callable[[float, float, Callable[[], str]], None]] = []

    class Watcher:
        def start(self, check: Any, every: float) -> Callable[[], None]:
            checks.append(check)
            return checks.clear

    async with items(Rates(), ports=Ports(watcher=Watcher())) as engine:
        checks[0](1.0, 1.0, lambda: "stack")
        checks[0](9.0, 1.1, lambda: "stack")  # eight seconds in which the process did nothing
        assert engine.statistics().loop_blocked == 0
        checks[0](9.05, 1.15, lambda: "stack")
        checks[0](12.0, 4.0, lambda: "stack")  # three in which it was busy, and let nobody in
        assert engine.statistics().loop_blocked == 1


async def test_the_test_kit_runs_async_handlers() -> None:
    rates = Rates()
    scenario = given(Item, Priced(5))

    decision = await scenario.when_async(Price("x"), resources={Rates: rates}, principal="ann")
    decision.then(Priced(15, "ann"))
    (await scenario.when_async(Price("x", "reject"), resources={Rates: rates})).then_rejected(
        "no-price"
    )
    (await scenario.when_async(Mark("x", 7))).then(Priced(7))
    with pytest.raises(UsageError, match="when_async"):
        scenario.when(Price("x"))
    with pytest.raises(UsageError, match=r"resources=\{Rates: \.\.\.\}"):
        await scenario.when_async(Price("x"))
