"""A sink whose broker fails: no event is to blame, and what it has opened is closed in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from engine import BrokerFailed, Delivery, Limits, MessageRefused, Sink
from engine.projections import back_off
from tests.projections.receiver import Receiver, add, filled, sinking, status
from tests.support.counters import Added
from tests.support.waiting import until


class Broken(Sink, name="outside", version=1, on_poison="park"):
    events_max = 7

    async def deliver(self, batch: Sequence[Delivery[Added]], receiver: Receiver) -> None:
        await receiver.take(batch)

    async def close(self) -> None:
        CLOSED.append(self)


CLOSED: list[Sink] = []


@pytest.fixture
def receiver() -> Receiver:
    CLOSED.clear()
    return Receiver()


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "SECONDS_MAX", 0.001)


def failing(receiver: Receiver, *, passes: bool) -> None:
    async def fail(batch: Sequence[Delivery[Any]]) -> None:
        raise BrokerFailed("nats://here:1 is not there", passes=passes)

    receiver.hold = fail


async def test_a_broker_that_is_down_is_waited_for_beyond_all_retries(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failing(receiver, passes=True)
    async with sinking(receiver, sink=Broken, limits=Limits(sink_retries=2)) as engine:
        position = await add(engine, "a", "b")
        await until(lambda: engine.statistics().projectors["outside"].retries > 20)
        found = await status(engine)
        assert (found.state, found.parked, found.lag_events) == ("retrying", 0, 2)
        receiver.hold = None
        await until(lambda: engine.statistics().projectors["outside"].position == position)

    told = [record.getMessage() for record in caplog.records if "tries again" in str(record.msg)]
    assert "BrokerFailed (nats://here:1 is not there)" in told[0]
    assert len(told) <= 3


async def test_an_outage_takes_no_patience_from_what_may_pass_after_it(receiver: Receiver) -> None:
    failing(receiver, passes=True)
    async with sinking(receiver, sink=Broken, limits=Limits(sink_retries=5)) as engine:
        position = await add(engine, "a", "b")
        await until(lambda: engine.statistics().projectors["outside"].retries > 20)
        left = 5

        async def time_out(batch: Sequence[Delivery[Any]]) -> None:
            nonlocal left
            if left:
                left -= 1
                raise OSError

        receiver.hold = time_out
        await until(lambda: engine.statistics().projectors["outside"].position == position)
        assert (left, (await status(engine)).parked) == (0, 0)


async def test_a_broker_that_refuses_everybody_stops_it_and_parks_nothing(
    receiver: Receiver,
) -> None:
    failing(receiver, passes=False)
    async with sinking(receiver, sink=Broken) as engine:
        position = await add(engine, *"abc")
        await until(lambda: engine.statistics().projectors["outside"].state == "stopped")
        found = await status(engine)
        assert found.failure is not None
        assert (found.parked, found.failure.event, len(receiver.tries)) == (0, "", 1)
        receiver.hold = None
        await engine.projections.resume("outside")
        await until(lambda: engine.statistics().projectors["outside"].position == position)


async def test_a_message_that_is_refused_is_parked_alone(receiver: Receiver) -> None:
    async def refuse(batch: Sequence[Delivery[Any]]) -> None:
        if any(delivery.position == 2 for delivery in batch):
            raise MessageRefused("too large")

    receiver.hold = refuse
    async with sinking(receiver, sink=Broken) as engine:
        position = await add(engine, *"abc")
        await until(lambda: engine.statistics().projectors["outside"].position == position)

        assert (await status(engine)).parked == 1
        assert receiver.positions == [1, 3]


async def test_a_sink_says_how_many_events_it_takes_at_once(
    receiver: Receiver, tmp_path: Any
) -> None:
    async with filled(receiver, f"sqlite:{tmp_path / 'log.db'}", Broken, *["a"] * 20) as engine:
        await until(lambda: engine.statistics().projectors["outside"].position == 20)

    assert [len(batch) for batch in receiver.batches] == [7, 7, 6]


async def test_what_a_sink_has_opened_is_closed_once_when_the_engine_ends(
    receiver: Receiver,
) -> None:
    async with sinking(receiver, sink=Broken) as engine:
        await add(engine, "a")
        assert CLOSED == []

    assert len(CLOSED) == 1


@pytest.mark.parametrize("how", [ValueError("a secret"), SystemExit(3), asyncio.CancelledError()])
async def test_a_close_that_raises_is_logged_and_hurts_nothing(
    receiver: Receiver, how: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Broken, name="outside", version=1):
        async def close(self) -> None:
            raise how

    async with sinking(receiver, sink=Bad) as engine:
        await add(engine, "a")

    assert "sink outside failed to close" in caplog.text
    assert "a secret" not in caplog.text


async def test_a_close_that_never_ends_is_given_up(receiver: Receiver) -> None:
    class Slow(Broken, name="outside", version=1):
        async def close(self) -> None:
            await asyncio.Event().wait()

    async with sinking(receiver, sink=Slow, limits=Limits(sink_stop_seconds=1)) as engine:
        await add(engine, "a")
