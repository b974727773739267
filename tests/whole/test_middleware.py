"""What stands around calls: in order, within deadlines, in streams, and where the call is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import pytest
from msgspec.structs import replace

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    DefinitionError,
    Engine,
    Envelope,
    Event,
    Forbidden,
    HandlerFailed,
    Id,
    InvalidInput,
    Limits,
    Middleware,
    OutcomeUnknown,
    Ports,
    Query,
    QueryCall,
    Receipt,
    Rejected,
    UsageError,
    Views,
    answers,
    applies,
    handles,
)
from engine.testing.scenario import ManualClock

GoOn = Callable[[Envelope], Awaitable[Receipt[Any]]]


class Add(Command):
    counter: Id
    by: int = 1


class Added(Event, name="added"):
    by: int


class Counter(Aggregate, kind="counter"):
    total: int = 0

    @handles
    def add(self, command: Add) -> Added:
        if command.by < 0:
            raise Rejected("too-few", "only more")
        return Added(command.by)

    @applies
    def added(self, event: Added) -> None:
        self.total += event.by


class GetName(Query[str]):
    name: str


@answers
async def get_name(query: GetName, _: Views) -> str:
    return query.name.upper()


class Seen(Middleware):
    """Notes what passes by."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        self.seen.append(f"{self.name} {type(envelope.command).__name__}")
        try:
            return await go_on(envelope)
        finally:
            self.seen.append(f"{self.name} done")

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        self.seen.append(f"{self.name} {type(call.query).__name__}")
        return await go_on(call)


class Tenant(Middleware):
    """Translates a principal, for commands, queries and watches."""

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        return await go_on(
            replace(envelope, principal=f"shop/{envelope.principal}", headers={"tenant": "shop"})
        )

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        return await go_on(replace(call, principal=f"shop/{call.principal}"))

    def watch(self, call: QueryCall) -> QueryCall:
        return replace(call, principal=f"shop/{call.principal}")


class Held(Middleware):
    """Holds each command until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.entered = asyncio.Event()

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        self.entered.set()
        await self.let_go.wait()
        return await go_on(envelope)


class Failing(Middleware):
    """Raises before or after a command that adds 13."""

    def __init__(self, *, after: bool) -> None:
        self.after = after

    async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
        unlucky = cast("Add", envelope.command).by == 13
        if unlucky and not self.after:
            raise ValueError("13")
        receipt = await go_on(envelope)
        if unlucky:
            raise ValueError("13")
        return receipt


def opened(*middleware: Middleware, **more: Any) -> Engine:
    return Engine([Counter], answers=[get_name], middleware=middleware, **more)


async def test_the_first_is_the_outermost_and_hears_what_was_raised_inside() -> None:
    seen: list[str] = []
    async with opened(Seen("a", seen), Seen("b", seen)) as engine:
        await engine.execute(Add("c-1"))
        assert await engine.query(GetName("ann")) == "ANN"
        with pytest.raises(Rejected):
            await engine.execute(Add("c-1", -1))

    command = ["a Add", "b Add", "b done", "a done"]
    assert seen == [*command, "a GetName", "b GetName", *command]


async def test_a_principal_is_translated_before_authorize_is_asked_and_kept_with_headers() -> None:
    def only_of_the_shop(principal: str | None, _: str, __: object) -> bool:
        return principal == "shop/ann"

    async with opened(Tenant(), authorize=only_of_the_shop) as engine:
        await engine.execute(Add("c-1"), principal="ann")
        assert await engine.query(GetName("ann"), principal="ann") == "ANN"
        async with aclosing(cast("Any", engine.watch(GetName("ann"), principal="ann"))) as live:
            assert await anext(aiter(live)) == "ANN"
        with pytest.raises(Forbidden):
            await engine.execute(Add("c-1"), principal="eve")
        (first,) = (await engine.history(Counter, "c-1", principal="shop/ann")).events

    assert (first.meta.principal, first.meta.headers) == ("shop/ann", {"tenant": "shop"})


async def test_what_is_wrong_is_told_before_anything_stands_around_it() -> None:
    seen: list[str] = []
    engine = opened(Seen("a", seen))
    with pytest.raises(UsageError):
        await engine.execute(Add("c-1"))
    async with engine:
        with pytest.raises(InvalidInput, match="Add.by"):
            await engine.execute(Add("c-1", cast("int", "1")))

    assert seen == []


async def test_a_change_by_the_caller_meanwhile_changes_nothing() -> None:
    held, headers = Held(), {"a": "1"}
    async with opened(held) as engine:
        running = asyncio.ensure_future(engine.execute(Add("c-1"), headers=headers))
        await held.entered.wait()
        headers["a"] = "2"
        held.let_go.set()
        await running
        (first,) = (await engine.history(Counter, "c-1")).events

    assert first.meta.headers == {"a": "1"}


async def test_a_deadline_counts_what_stands_around_a_command() -> None:
    held = Held()
    async with opened(held) as engine:
        with pytest.raises(DeadlinePassed, match="still in middleware"):
            await engine.execute(Add("c-1"), deadline=0.01)
        with pytest.raises(DeadlinePassed):
            await engine.execute(Add("c-1"), deadline=0)
        with pytest.raises(InvalidInput, match="deadline"):
            held.let_go.set()
            await engine.execute(Add("c-1"), deadline=cast("float", "soon"))
        assert (await engine.execute(Add("c-1"), deadline=60)).version == 1


async def test_time_that_passes_in_middleware_is_taken_off_a_deadline() -> None:
    clock = ManualClock()

    class Takes(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
            clock.advance(5)
            return await go_on(envelope)

    async with opened(Takes(), ports=Ports(clock=clock)) as engine:
        with pytest.raises(DeadlinePassed):
            await engine.execute(Add("c-1"), deadline=4)
        assert (await engine.execute(Add("c-1"), deadline=6)).version == 1


async def test_a_timeout_counts_what_stands_around_a_query() -> None:
    class Slow(Middleware):
        async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
            await asyncio.Event().wait()
            return await go_on(call)

    async with opened(Slow()) as engine:
        with pytest.raises(TimeoutError, match="GetName was still in middleware"):
            await engine.query(GetName("ann"), timeout=0.01)


async def test_who_is_cancelled_in_front_of_the_engine_runs_nothing() -> None:
    held = Held()
    async with opened(held) as engine:
        running = asyncio.ensure_future(engine.execute(Add("c-1")))
        await held.entered.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        held.let_go.set()
        assert (await engine.execute(Add("c-1"))).version == 1


async def test_nothing_of_a_stream_overtakes_however_long_each_is_held() -> None:
    class Uneven(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
            for _ in range(cast("Add", envelope.command).by % 3):
                await asyncio.sleep(0)
            return await go_on(envelope)

    async with opened(Uneven()) as engine:
        stream = (Add("c-1", number) for number in range(100))
        found = [answer async for answer in engine.execute_many(stream, window=16)]
        events = [e.event async for e in engine.history(Counter, "c-1")]

    assert [cast("Receipt", each).version for each in found] == list(range(1, 101))
    assert events == [Added(number) for number in range(100)]


async def test_a_full_engine_slows_a_stream_down_and_loses_nothing() -> None:

    limits = Limits(commands_accepted=4, mailbox_commands=4)
    seen: list[str] = []
    async with opened(Seen("a", seen), limits=limits) as engine:
        stream = (Add("c-1", number) for number in range(50))
        found = [answer async for answer in engine.execute_many(stream, window=32)]

    assert [cast("Receipt", each).version for each in found] == list(range(1, 51))


@pytest.mark.parametrize(("after", "error"), [(False, HandlerFailed), (True, OutcomeUnknown)])
async def test_what_is_raised_in_a_stream_is_one_answer_and_true(
    after: bool, error: type[Exception]
) -> None:
    async with opened(Failing(after=after)) as engine:
        stream = [Add("c-1", 1), Add("c-1", 13), Add("c-1", 2)]
        first, second, third = [answer async for answer in engine.execute_many(stream)]
        assert type(second) is error
        assert isinstance(first, Receipt)
        assert isinstance(third, Receipt)
        assert (await engine.state(Counter, "c-1")).total == (16 if after else 3)
        with pytest.raises(ValueError, match="13"):
            await engine.execute(Add("c-2", 13))


async def test_who_leaves_a_stream_gives_up_what_was_not_taken() -> None:
    held = Held()
    async with opened(held) as engine:

        async def ask() -> list[Any]:
            return [answer async for answer in engine.execute_many([Add("c-1"), Add("c-1")])]

        asking = asyncio.ensure_future(ask())
        await held.entered.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        held.let_go.set()
        assert (await engine.execute(Add("c-1"))).version == 1


async def test_a_method_that_forgets_to_give_the_answer_is_named() -> None:
    class Forgetful(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Any:
            await go_on(envelope)

    class Strange(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Receipt[Any]:
            return await go_on(cast("Envelope", envelope.command))

    class Silent(Middleware):
        async def execute(self, envelope: Envelope, go_on: GoOn) -> Any:
            pass

    cases: list[tuple[Middleware, str, type[Exception]]] = [
        (Forgetful(), "None in place of the receipt.*was taken", OutcomeUnknown),
        (Silent(), "None in place of the receipt.*Nothing was run", UsageError),
        (Strange(), "an Envelope", UsageError),
    ]
    for each, told, error in cases:
        async with opened(each) as engine:
            with pytest.raises(error, match=told):
                await engine.execute(Add("c-1"))


@pytest.mark.parametrize("given", [Seen, [Seen], "abc", [object()], None])
def test_what_is_no_middleware_is_refused(given: Any) -> None:
    with pytest.raises(DefinitionError, match="middleware= is a list"):
        Engine([Counter], middleware=given)


async def members(folder: Any, seen: list[str]) -> AsyncGenerator[Engine]:
    url = f"sqlite:{folder}/log.db"
    async with (
        opened(Seen("owner", seen), store=url, join=True),
        opened(Seen("member", seen), store=url, join=True) as member,
    ):
        yield member


async def test_it_stands_where_the_call_is_made(tmp_path: Any) -> None:
    seen: list[str] = []
    async with aclosing(members(tmp_path, seen)) as found:
        member = await anext(found)
        assert (await member.execute(Add("c-1"))).version == 1

    assert seen == ["member Add", "member done"]
