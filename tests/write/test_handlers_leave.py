"""Handlers that use engines, whose callers leave, and who are at work as the engine ends."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from engine import (
    Closed,
    DeadlinePassed,
    DefinitionError,
    Engine,
    EngineFailed,
    Envelope,
    HandlerFailed,
    NotRun,
    Receipt,
    UsageError,
)
from engine.running import run
from tests.support.held_store import HeldStore
from tests.support.waiting import settle, until
from tests.write.items import Item, Mark, Price, Rates, items, start, told


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


@pytest.mark.parametrize("why", [DeadlinePassed, HandlerFailed])
async def test_an_answer_of_another_engine_is_not_the_answer_of_this_one(
    why: type[NotRun],
) -> None:
    class Elsewhere(Rates):
        async def price(self, what: str) -> int:
            raise why(f"{what} of another engine: send again, with more time")

    async with items(Elsewhere()) as engine:
        with pytest.raises(HandlerFailed, match="Item.price failed on Price for item:a") as caught:
            await engine.execute(Price("a"))

        assert type(caught.value.__cause__) is why
        assert await told(engine, "a") == "0 at 0"


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
