"""A command is sent again where that is safe, within its deadline, by the engine's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest

from engine import (
    Aggregate,
    Closed,
    Command,
    Conflict,
    DeadlinePassed,
    DefinitionError,
    Engine,
    EngineError,
    Envelope,
    Event,
    Forbidden,
    HandlerFailed,
    Id,
    InvalidInput,
    KeyReused,
    Middleware,
    OutcomeUnknown,
    Overloaded,
    Ports,
    Receipt,
    Rejected,
    Retry,
    StreamUnreadable,
    Voided,
    WrongVersion,
    applies,
    handles,
)
from engine.testing.scenario import ManualClock
from tests.support.waiting import until

QUICK = Retry(3, first_seconds=0.001, most_seconds=0.002)
UNKNOWN = OutcomeUnknown("nobody knows")


class Add(Command):
    counter: Id


class Added(Event, name="added"):
    pass


class Counter(Aggregate, kind="counter"):
    @handles
    def add(self, command: Add) -> Added:
        return Added()

    @applies
    def added(self, event: Added) -> None:
        pass


class Faulty(Middleware):
    """Answers with these errors, one after the other, and then goes on."""

    def __init__(self, *errors: EngineError) -> None:
        self.errors: Sequence[EngineError] = errors
        self.asked: list[Envelope] = []

    async def execute(
        self, envelope: Envelope, go_on: Callable[[Envelope], Awaitable[Receipt[Any]]]
    ) -> Receipt[Any]:
        self.asked.append(envelope)
        if self.errors:
            error, *self.errors = self.errors
            raise error
        return await go_on(envelope)


def has_asked(faulty: Faulty, times: int) -> bool:
    return len(faulty.asked) == times


def opened(faulty: Faulty, retry: Retry = QUICK, **more: Any) -> Engine:
    return Engine([Counter], middleware=[retry, faulty], **more)


PASSING = (Overloaded("full"), Conflict("counter:c-1", 1, 2), Voided("voided"))


async def test_what_passes_is_sent_again_as_often_as_said() -> None:
    async with opened(Faulty(*PASSING)) as engine:
        assert (await engine.execute(Add("c-1"))).version == 1
    faulty = Faulty(*PASSING, Overloaded("the last"))
    async with opened(faulty) as engine:
        with pytest.raises(Overloaded, match="the last"):
            await engine.execute(Add("c-1"))
    assert len(faulty.asked) == 4


ANSWERS: Sequence[EngineError] = (
    Rejected("no", "no"),
    WrongVersion("counter:c-1", 1, 2),
    DeadlinePassed("late"),
    HandlerFailed("failed"),
    StreamUnreadable("damaged"),
    Closed("closed"),
    KeyReused("reused"),
    UNKNOWN,
)


@pytest.mark.parametrize("error", ANSWERS, ids=lambda error: type(error).__name__)
async def test_an_answer_is_an_answer(error: EngineError) -> None:
    faulty = Faulty(error)
    async with opened(faulty) as engine:
        with pytest.raises(type(error)) as raised:
            await engine.execute(Add("c-1"))
    assert raised.value is error
    assert len(faulty.asked) == 1


async def test_what_nobody_knows_is_found_out_with_the_key() -> None:
    faulty = Faulty(UNKNOWN, Overloaded("full"))
    async with opened(faulty) as engine:
        first = await engine.execute(Add("c-1"), key="k")
        faulty.errors = [UNKNOWN]
        assert await engine.execute(Add("c-1"), key="k") == first


@pytest.mark.parametrize(
    "last",
    [
        Closed("closed"),
        DeadlinePassed("late"),
        HandlerFailed("failed"),
        Forbidden("he has lost the right meanwhile"),
        InvalidInput("of another middleware"),
    ],
)
async def test_what_was_unknown_once_is_not_called_not_run_later(last: EngineError) -> None:
    async with opened(Faulty(UNKNOWN, last)) as engine:
        with pytest.raises(OutcomeUnknown) as raised:
            await engine.execute(Add("c-1"), key="k")
    assert raised.value is UNKNOWN
    assert raised.value.__cause__ is last


async def test_an_owner_that_knows_the_key_ends_the_doubt() -> None:
    rejected = Rejected("no", "no")
    async with opened(Faulty(UNKNOWN, rejected)) as engine:
        with pytest.raises(Rejected):
            await engine.execute(Add("c-1"), key="k")


async def test_no_wait_begins_that_a_deadline_would_not_outlast() -> None:
    faulty = Faulty(*PASSING)
    async with opened(faulty, Retry(3, first_seconds=10, most_seconds=10)) as engine:
        with pytest.raises(Overloaded):
            await engine.execute(Add("c-1"), deadline=5)
    assert len(faulty.asked) == 1


async def test_it_waits_twice_as_long_each_time_by_the_engines_clock() -> None:
    clock, faulty = ManualClock(), Faulty(*PASSING)
    retry = Retry(3, first_seconds=60, most_seconds=100)
    async with opened(faulty, retry, ports=Ports(clock=clock)) as engine:
        running = asyncio.ensure_future(engine.execute(Add("c-1")))
        for asked, seconds in ((1, 60), (2, 100), (3, 100)):
            await until(partial(has_asked, faulty, asked))
            await asyncio.sleep(0)
            clock.advance(seconds - 1)
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(faulty.asked) == asked
            clock.advance(1)
        assert (await running).version == 1


async def test_one_call_may_be_sent_again_where_others_are_not() -> None:
    faulty = Faulty(Overloaded("full"))
    async with Engine([Counter], middleware=[]) as engine:
        assert (await engine.execute(Add("c-1"), retry=QUICK)).version == 1
    async with Engine([Counter], middleware=[faulty]) as engine:
        with pytest.raises(Overloaded):  # what is raised around it is not its own
            await engine.execute(Add("c-1"), retry=QUICK)


async def test_a_stream_of_commands_stays_in_order() -> None:
    faulty = Faulty(Voided("voided"))
    async with opened(faulty) as engine:
        found = [answer async for answer in engine.execute_many([Add("c-1"), Add("c-1")])]
    assert isinstance(found[0], Voided)
    assert len(faulty.asked) == 2


@pytest.mark.parametrize(
    ("times", "more"),
    [
        (0, {}),
        (101, {}),
        (True, {}),
        (3, {"first_seconds": 0}),
        (3, {"first_seconds": 9}),
        (3, {"first_seconds": "1"}),
    ],
)
def test_numbers_that_make_no_sense_are_refused(times: int, more: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        Retry(times, **more)


async def test_a_thread_says_how_often_to_send_again() -> None:
    asked: list[str | None] = []

    class Counted(Retry):
        async def execute(
            self, envelope: Envelope, go_on: Callable[[Envelope], Awaitable[Receipt[Any]]]
        ) -> Receipt[Any]:
            asked.append(envelope.key)
            return await super().execute(envelope, go_on)

    async with Engine([Counter]) as engine:
        execute = engine.portal().execute
        receipt = await asyncio.to_thread(execute, Add("c-1"), key="k", retry=Counted(3))
    assert (receipt.version, asked) == (1, ["k"])
