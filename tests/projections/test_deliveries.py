"""Deliveries that take too long, are given up, or go on after they were cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Delivery, Engine, Limits, Sink, UsageError
from engine.projections.targets.courier import Abandoned, Courier, NotDelivered
from tests.projections.receiver import Parking, Receiver, add, reached, sinking, wait
from tests.support.counters import Added, Counter
from tests.support.waiting import until

LOGGER = logging.getLogger("tests.sinks")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


async def test_a_delivery_that_takes_too_long_is_cancelled_and_made_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled: list[bool] = []

    async def hang(batch: Sequence[Delivery[Any]]) -> None:
        receiver.hold = None
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    receiver.hold = hang
    async with sinking(receiver, limits=Limits(sink_seconds=1)) as engine:
        await reached(engine, await add(engine, "a"))

    assert cancelled == [True]
    assert receiver.tries == [[1], [1]]
    assert "NotDelivered (deliver of sink outside took longer than 1 s" in caplog.text


async def test_a_batch_that_is_too_slow_is_delivered_in_smaller_ones(receiver: Receiver) -> None:
    async def be_slow(batch: Sequence[Delivery[Any]]) -> None:
        if len(batch) > 2:
            await asyncio.Event().wait()

    receiver.hold = be_slow
    async with sinking(receiver, limits=Limits(sink_seconds=1)) as engine:
        await engine.projections.pause("outside")
        position = await add(engine, *"abcdefgh")
        await engine.projections.resume("outside")
        await reached(engine, position)

    assert [len(batch) for batch in receiver.tries] == [8, 4, 2, 2, 2, 2]


async def test_stopping_gives_a_delivery_up_that_does_not_end(
    receiver: Receiver, file: str
) -> None:
    async def hang(batch: Sequence[Delivery[Any]]) -> None:
        await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    receiver.hold = hang
    limits = Limits(sink_stop_seconds=1, sink_seconds=5)
    async with sinking(receiver, file, limits=limits) as engine:
        await add(engine, "a")
        await until(lambda: receiver.tries == [[1]])
        begin = loop.time()
    assert 0.9 < loop.time() - begin < 3
    receiver.hold = None
    async with sinking(receiver, file) as engine:
        await reached(engine, 1)

    assert receiver.batches == [[1]]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(True, "ConnectionError (the mail server is down)"), (False, "ConnectionError")],
)
async def test_the_log_says_why_a_delivery_is_made_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, wanted: bool, said: str
) -> None:
    async def fail_once(batch: Sequence[Delivery[Any]]) -> None:
        receiver.hold = None
        raise ConnectionError("the mail server is down\nand what it said")

    receiver.hold = fail_once
    async with sinking(receiver, log_messages=wanted) as engine:
        await reached(engine, await add(engine, "a"))

    assert f"projection outside failed with {said} and tries again" in caplog.text


async def test_what_is_given_up_is_not_parked_though_it_was_the_last_try(
    receiver: Receiver, file: str
) -> None:
    async def fail_and_hang(batch: Sequence[Delivery[Any]]) -> None:
        if len(receiver.tries) < 3:
            raise ConnectionError
        await asyncio.Event().wait()

    receiver.hold = fail_and_hang
    limits = Limits(sink_stop_seconds=1, sink_retries=1)
    async with sinking(receiver, file, Parking, limits=limits) as engine:
        await add(engine, "a")
        await until(lambda: len(receiver.tries) == 3)
    receiver.hold = None
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, 1)
        assert await engine.projections.parked("outside") == []

    assert receiver.batches == [[1]]


async def test_stopping_lets_a_delivery_end_that_does(receiver: Receiver, file: str) -> None:
    held = asyncio.Event()
    receiver.hold = lambda batch: wait(held)
    async with sinking(receiver, file) as engine:
        await add(engine, "a")
        await until(lambda: receiver.tries == [[1]])
        asyncio.get_running_loop().call_soon(held.set)
    async with sinking(receiver, file) as engine:
        await reached(engine, 1)

    assert receiver.tries == [[1]]


async def test_stopping_does_not_wait_for_the_next_try(receiver: Receiver) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise ConnectionError

    receiver.hold = fail
    loop = asyncio.get_running_loop()
    async with sinking(receiver) as engine:
        await add(engine, "a")
        await until(lambda: engine.statistics().projectors["outside"].retries == 6)
        begin = loop.time()

    assert loop.time() - begin < 1, "the next try would come in 1.6 s"


class Emptying(Sink, name="outside", version=1, on_poison="park"):
    async def deliver(self, batch: Sequence[Delivery[Added]], receiver: Receiver) -> None:
        left: Any = batch
        while left:  # as one who takes from a queue does
            await receiver.take([left.pop(0)])


async def test_a_delivery_that_empties_its_batch_loses_nothing_of_it(
    receiver: Receiver, file: str
) -> None:
    async def lost_once(batch: Sequence[Delivery[Any]]) -> None:
        if batch[0].position == 3:
            receiver.hold = None
            raise ConnectionError

    async with Engine([Counter], store=file) as engine:
        await add(engine, *"abcde")
    receiver.hold = lost_once
    async with sinking(receiver, file, Emptying) as engine:
        await reached(engine, 5)
    assert sorted(set(receiver.positions)) == [1, 2, 3, 4, 5]


async def test_of_a_batch_that_was_emptied_the_event_is_parked_that_fails(
    receiver: Receiver, file: str
) -> None:
    async with Engine([Counter], store=file) as engine:
        await add(engine, *"abcde")
    receiver.poison = {4}
    async with sinking(receiver, file, Emptying) as engine:
        await reached(engine, 5)
        assert [p.position for p in await engine.projections.parked("outside")] == [4]
    assert sorted(set(receiver.positions)) == [1, 2, 3, 5]


@pytest.fixture
def courier() -> Courier:
    return Courier("outside", Limits(), LOGGER)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.projections.targets.courier.CANCEL_SECONDS", 0.01)


async def test_what_goes_on_after_it_was_cancelled_is_not_overtaken(
    courier: Courier, quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, begun = asyncio.Event(), list[int]()

    async def stubborn() -> None:
        begun.append(1)
        while not held.is_set():
            try:
                await held.wait()
            except asyncio.CancelledError:
                begun.append(0)

    async def fine() -> None:
        begun.append(2)

    monkeypatch.setattr(courier, "_seconds", 0.05)
    assert isinstance(await courier.hand_over(stubborn), NotDelivered)
    assert "does not end when it is cancelled" in caplog.text
    overtaking = await courier.hand_over(fine)
    held.set()
    assert "nothing overtakes it" in str(overtaking)
    await until(lambda: courier._task is not None and courier._task.done())

    monkeypatch.setattr(courier, "_seconds", 30)
    assert await courier.hand_over(fine) is None
    assert begun[-1] == 2
    assert 2 not in begun[:-1]


async def test_a_courier_that_is_cancelled_cancels_what_is_under_way(courier: Courier) -> None:
    cancelled: list[bool] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    handing = asyncio.ensure_future(courier.hand_over(hang))
    await until(lambda: courier._task is not None)
    await asyncio.sleep(0)
    handing.cancel()
    await until(lambda: cancelled == [True])

    assert handing.cancelled()


async def test_a_delivery_that_somebody_else_cancels_is_made_again(courier: Courier) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    assert "cancelled by somebody else" in str(await courier.hand_over(cancelled))


async def test_what_a_delivery_forgot_to_await_is_not_taken_for_delivered(
    courier: Courier,
) -> None:
    delivered: list[int] = []

    async def deliver() -> None:
        delivered.append(1)

    async def forgets() -> Any:
        return deliver()

    async def forgets_a_task() -> Any:
        return asyncio.get_running_loop().create_future()

    for forgetful in (forgets, forgets_a_task):
        error = await courier.hand_over(forgetful)
        assert isinstance(error, UsageError)
        assert "await it there" in str(error)
    assert await courier.hand_over(deliver) is None
    assert delivered == [1]


async def test_a_courier_that_has_stopped_begins_nothing(courier: Courier) -> None:
    courier.stop()
    with pytest.raises(Abandoned):
        await courier.hand_over(lambda: asyncio.sleep(0))
