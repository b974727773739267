"""Middleware that goes on beyond its deadline or its call; callers who change what they gave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from msgspec.structs import replace

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    Engine,
    Envelope,
    Event,
    HandlerFailed,
    Id,
    InvalidInput,
    Limits,
    Middleware,
    OutcomeUnknown,
    Portal,
    Query,
    QueryCall,
    Receipt,
    To,
    UsageError,
    Views,
    answers,
    applies,
    decides,
    handles,
)

GoOn = Callable[[Envelope], Awaitable[Receipt[Any]]]


class Add(Command):
    counter: Id
    by: int = 1


class Move(Command):
    source: Id
    target: Id


class Added(Event, name="added"):
    by: int


class Counter(Aggregate, kind="counter"):
    total: int = 0

    @handles
    def add(self, command: Add) -> Added:
        return Added(command.by)

    @applies
    def added(self, event: Added) -> None:
        self.total += event.by


@decides
def move(command: Move, source: Counter, target: Counter) -> list[To[Added]]:
    return [To(source, Added(-1)), To(target, Added(1))]


class GetName(Query[str]):
    name: str


@answers
async def get_name(query: GetName, _: Views) -> str:
    return query.name.upper()


def opened(*middleware: Middleware, **more: Any) -> Engine:
    return Engine([Counter], decisions=[move], answers=[get_name], middleware=middleware, **more)


class Stubborn(Middleware):
    """Is not cancelled, and passes on a command without its deadline."""

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await go_on(replace(envelope, deadline=None))

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await go_on(replace(call, timeout=None))


async def test_who_is_not_cancelled_at_the_deadline_runs_nothing() -> None:
    async with opened(Stubborn()) as engine:
        with pytest.raises(DeadlinePassed, match="still in middleware"):
            await engine.execute(Add("c-1"), deadline=0.01)
        late = Envelope(command=Add("c-1"), deadline=0.01)
        (answer,) = [each async for each in engine.execute_many([late])]
        assert isinstance(answer, DeadlinePassed)
        with pytest.raises(TimeoutError, match="still in middleware"):
            await engine.query(GetName("ann"), timeout=0.01)
        assert (await engine.state(Counter, "c-1")).total == 0


async def test_what_goes_on_behind_the_call_runs_nothing() -> None:
    left: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    class Leaves(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
            async def later() -> Receipt[Any]:
                await go.wait()
                return await go_on(envelope)

            left.append(asyncio.ensure_future(later()))
            raise ValueError("not now")

    async with opened(Leaves()) as engine:
        with pytest.raises(ValueError, match="not now"):
            await engine.execute(Add("c-1"))
        go.set()
        with pytest.raises(UsageError, match="returned or raised already"):
            await left[0]
        assert (await engine.state(Counter, "c-1")).total == 0


async def test_a_deadline_in_another_task_behind_the_taking_is_no_promise() -> None:
    """`authorize` lets it in at the very moment at which the method is cancelled."""
    asked, left = asyncio.Event(), asyncio.Event()
    running: list[asyncio.Task[Any]] = []

    async def slowly(*_: object) -> bool:
        asked.set()
        await left.wait()
        return True

    class Shielded(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
            passed_on: Any = go_on(replace(envelope, deadline=None))
            running.append(asyncio.ensure_future(passed_on))
            try:
                return await asyncio.shield(running[0])
            except asyncio.CancelledError:
                left.set()
                await running[0]
                raise

    async with opened(Shielded(), authorize=slowly) as engine:
        with pytest.raises(OutcomeUnknown, match="It was taken before"):
            await engine.execute(Add("c-1"), deadline=0.01)
        assert (await running[0]).version == 1


class Held(Middleware):
    """Holds each command until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        self.entered.set()
        await self.let_go.wait()
        return await go_on(envelope)


async def test_expected_versions_are_those_of_the_call() -> None:
    held, expected = Held(), {"counter:a": 0}
    async with opened(held) as engine:
        running = asyncio.ensure_future(engine.execute(Move("a", "b"), expected=expected))
        await held.entered.wait()
        expected["counter:a"] = 7
        held.let_go.set()
        assert (await running).version == 1


async def test_expected_versions_of_a_stream_are_those_that_its_source_gave() -> None:
    expected = {"counter:a": 1}
    stream: list[Any] = [Add("a"), Envelope(command=Move("a", "b"), expected=expected)]
    limits = Limits(commands_accepted=1, mailbox_commands=1)
    found: list[object] = []
    async with opened(limits=limits) as engine:
        async for answer in engine.execute_many(stream, window=2):
            found.append(answer)
            expected["counter:a"] = 7  # the second waits for room

    assert [type(each) for each in found] == [Receipt, Receipt]


async def test_a_query_that_middleware_changes_is_checked_as_the_callers_is() -> None:
    class Wrong(Middleware):
        async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
            return await go_on(replace(call, query=GetName(cast("str", 3))))

        def watch(self, call: QueryCall) -> QueryCall:
            return replace(call, query=GetName(cast("str", 3)))

    async with opened(Wrong()) as engine:
        with pytest.raises(InvalidInput, match=r"GetName.name must be a str"):
            await engine.query(GetName("ann"))
        with pytest.raises(InvalidInput, match=r"GetName.name must be a str"):
            engine.watch(GetName("ann"))


class Leaving(Middleware):
    """Wants to end the program."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        if isinstance(envelope.command, Add) and envelope.command.by == 13:
            raise self.error
        return await go_on(envelope)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, BaseException])
async def test_an_exit_in_a_stream_is_one_answer(error: type[BaseException]) -> None:
    async with opened(Leaving(error)) as engine:
        stream = [Add("c-1"), Add("c-1", 13), Add("c-1")]
        found = [each async for each in engine.execute_many(stream)]

    assert [type(each) for each in found] == [Receipt, HandlerFailed, Receipt]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_call_of_a_thread_ends_nothing_else(error: type[BaseException]) -> None:
    with Portal(opened(Leaving(error))) as portal:
        with pytest.raises(Exception, match=error.__name__):
            portal.execute(Add("c-1", 13))
        assert portal.execute(Add("c-1")).version == 1
