"""Who may do what: one hook before commands and reads, and no is the default."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    Engine,
    Envelope,
    Event,
    Forbidden,
    Id,
    InvalidInput,
    Limits,
    Meta,
    Overloaded,
    Projection,
    Query,
    Receipt,
    Row,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from engine.runtime.machine import SystemClock
from engine.runtime.ports import Ports
from tests.support.counters import Add, Added, Counter, counters, total
from tests.support.waiting import settle, until


class CountRooms(Query[int]):
    hotel: str = ""


@answers
async def count_rooms(query: CountRooms, views: Views) -> int:
    return 7


async def _raises(*_: Any) -> bool:
    raise RuntimeError("the directory of rights is down")


async def _true(*_: Any) -> bool:
    return True


async def _false(*_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "hook",
    [
        lambda *_: False,
        lambda *_: None,
        lambda *_: 1,
        lambda *_: "yes",
        lambda *_: 1 / 0,
        _false,
        _raises,
    ],
    ids=["false", "forgotten-return", "one", "text", "raises", "async-false", "async-raises"],
)
async def test_whatever_is_not_true_is_no(hook: Callable[..., Any]) -> None:
    async with Engine([Counter], answers=[count_rooms], authorize=hook) as engine:
        with pytest.raises(Forbidden, match="execute Add"):
            await engine.execute(Add("a", 1))
        with pytest.raises(Forbidden, match="query CountRooms"):
            await engine.query(CountRooms())

        assert engine.statistics().position == 0


@pytest.mark.parametrize("hook", [lambda *_: True, _true], ids=["sync", "async"])
async def test_true_is_yes(hook: Callable[..., Any]) -> None:
    async with Engine([Counter], answers=[count_rooms], authorize=hook) as engine:
        assert (await engine.execute(Add("a", 1))).version == 1
        assert await engine.query(CountRooms()) == 7


async def test_the_hook_is_told_who_does_what_to_which_message() -> None:
    asked: list[tuple[str | None, str, Command | Query[Any] | str]] = []

    def authorize(principal: str | None, action: str, message: Command | Query[Any] | str) -> bool:
        asked.append((principal, action, message))
        return True

    async with Engine([Counter], answers=[count_rooms], authorize=authorize) as engine:
        await engine.execute(Add("a", 1), principal="ann")
        await engine.query(CountRooms("h"), principal="bob")
        await engine.query(CountRooms("h"))

    assert asked == [
        ("ann", "execute", Add("a", 1)),
        ("bob", "query", CountRooms("h")),
        (None, "query", CountRooms("h")),
    ]


async def test_in_a_stream_of_commands_each_is_asked_for_and_no_is_an_answer() -> None:
    def authorize(principal: str | None, *_: Any) -> bool:
        return principal == "ann"

    async with counters(authorize=authorize) as engine:
        commands = [Envelope(command=Add("a", 1), principal=who) for who in ("ann", "eve", "ann")]
        found = [answer async for answer in engine.execute_many(commands)]

        assert [type(answer) for answer in found] == [Receipt, Forbidden, Receipt]
        with pytest.raises(Forbidden):
            await total(engine, "a")


async def test_a_refusal_shows_no_payload_and_keeps_the_principal_as_a_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def authorize(_: str | None, __: str, message: Any) -> bool:
        raise ZeroDivisionError(repr(message))

    async with counters(authorize=authorize) as engine:
        with caplog.at_level(logging.DEBUG), pytest.raises(Forbidden) as caught:
            await engine.execute(Add("secret-id", 123_456_789), principal="eve@example.org")

    shown = str(caught.value) + caplog.text
    assert "123456789" not in shown
    assert "secret-id" not in shown
    assert "eve@example.org" not in shown
    assert (caught.value.principal, caught.value.action) == ("eve@example.org", "execute")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_a_hook_may_say_why() -> None:
    def authorize(*_: Any) -> bool:
        raise Forbidden("tills may not sell at night")

    async with counters(authorize=authorize) as engine:
        with pytest.raises(Forbidden, match="at night"):
            await engine.execute(Add("a", 1))


# -- hooks that wait -------------------------------------------------------------------------


class Doors:
    """An async hook that waits for a command's door, by its amount."""

    def __init__(self) -> None:
        self.open: dict[int, asyncio.Event] = {}
        self.asked: list[int] = []
        self.says: dict[int, bool] = {}

    def door(self, amount: int) -> asyncio.Event:
        return self.open.setdefault(amount, asyncio.Event())

    def __call__(self, principal: Any, action: Any, message: Any) -> Any:
        if not isinstance(message, Add) or message.amount >= 100:
            return True
        return self._wait(message.amount)

    async def _wait(self, amount: int) -> bool:
        self.asked.append(amount)
        await self.door(amount).wait()
        return self.says.get(amount, True)


def started(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(call) for call in calls]


async def tags(engine: Engine, counter: str) -> list[int]:
    page = await engine.history(Counter, counter, limit=1_000)
    return [logged.event.amount for logged in page.events if isinstance(logged.event, Added)]


async def test_however_long_the_hook_takes_the_order_of_one_caller_stays() -> None:
    doors = Doors()
    async with counters(authorize=doors) as engine:
        # The last one needs no waiting of its own.
        calls = started(*(engine.execute(Add("a", n)) for n in (1, 2, 3, 100)))
        await until(lambda: doors.asked == [1, 2, 3])
        for amount in (3, 2, 1):
            doors.door(amount).set()
            await settle()
        await asyncio.gather(*calls)
        await engine.execute(Add("a", 101))

        assert await tags(engine, "a") == [1, 2, 3, 100, 101]


async def test_streams_of_commands_and_single_ones_stand_in_one_line() -> None:
    doors = Doors()

    async def stream(engine: Engine) -> None:
        async for _ in engine.execute_many([Add("a", 2), Add("a", 102)]):
            pass

    async with counters(authorize=doors) as engine:
        calls = started(engine.execute(Add("a", 1)), stream(engine), engine.execute(Add("a", 103)))
        await until(lambda: doors.asked == [1, 2])
        doors.door(2).set()
        await settle()
        doors.door(1).set()
        await asyncio.gather(*calls)

        assert await tags(engine, "a") == [1, 2, 103, 102]


async def test_a_slow_hook_holds_up_neither_other_aggregates_nor_other_principals() -> None:
    doors = Doors()
    async with counters(authorize=doors) as engine:
        [slow] = started(engine.execute(Add("a", 1), principal="ann"))
        await until(lambda: doors.asked == [1])
        await engine.execute(Add("b", 100), principal="ann")
        await engine.execute(Add("a", 100), principal="bob")
        doors.door(1).set()
        await slow

        assert await tags(engine, "a") == [100, 1]


@pytest.mark.parametrize("how", ["refused", "cancelled", "late"])
async def test_who_drops_out_of_a_line_lets_nobody_overtake(how: str) -> None:
    doors = Doors()
    async with counters(authorize=doors) as engine:
        first, second, third = started(
            engine.execute(Add("a", 1)),
            engine.execute(Add("a", 2), deadline=0.01 if how == "late" else None),
            engine.execute(Add("a", 3)),
        )
        await until(lambda: doors.asked == [1, 2, 3])
        if how == "refused":
            doors.says[2] = False
            doors.door(2).set()
        elif how == "cancelled":
            second.cancel()
        doors.door(3).set()
        await asyncio.wait([second])
        await settle()
        assert not third.done()
        doors.door(1).set()
        await asyncio.gather(first, third)

        assert await tags(engine, "a") == [1, 3]
        kept = {"refused": Forbidden, "late": DeadlinePassed}
        if how in kept:
            assert isinstance(second.exception(), kept[how])


class Stepping(SystemClock):
    """A clock that somebody moves on."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


async def test_a_deadline_counts_what_the_hook_takes() -> None:
    doors = Doors()
    async with counters(authorize=doors) as engine:
        with pytest.raises(DeadlinePassed, match="waited for authorize"):
            await engine.execute(Add("a", 1), deadline=0.01)
        [answer] = [
            answer
            async for answer in engine.execute_many([Envelope(command=Add("a", 2), deadline=0.01)])
        ]
        assert isinstance(answer, DeadlinePassed)
        assert doors.asked == [1, 2]
        doors.door(3).set()

        assert (await engine.execute(Add("a", 3), deadline=30)).version == 1


async def test_a_deadline_counts_what_a_hook_takes_that_is_not_async() -> None:
    clock = Stepping()

    def authorize(principal: object, action: object, message: object) -> bool:
        clock.seconds += 5.0
        return True

    async with counters(authorize=authorize, ports=Ports(clock=clock)) as engine:
        with pytest.raises(DeadlinePassed, match="waited for authorize"):
            await engine.execute(Add("a", 1), deadline=3)

        assert (await engine.execute(Add("a", 2), deadline=30)).version == 1


async def test_what_waits_for_the_hook_is_bounded() -> None:
    doors = Doors()
    async with counters(
        authorize=doors, limits=Limits(commands_accepted=3, mailbox_commands=3)
    ) as engine:
        calls = started(*(engine.execute(Add(f"c-{n}", n)) for n in range(3)))
        await until(lambda: len(doors.asked) == 3)
        with pytest.raises(Overloaded, match="wait for authorize"):
            await engine.execute(Add("a", 7))
        for n in range(3):
            doors.door(n).set()
        await asyncio.gather(*calls)

        assert (await engine.execute(Add("a", 100))).version == 1


async def _meets_a_cancellation(*_: Any) -> bool:
    given_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    given_up.cancel()
    return await given_up


def _raises_a_cancellation(*_: Any) -> bool:
    raise asyncio.CancelledError


@pytest.mark.parametrize("hook", [_meets_a_cancellation, _raises_a_cancellation])
async def test_a_cancellation_that_the_hook_met_is_a_no_and_ends_no_task(hook: Any) -> None:
    async with counters(authorize=hook) as engine:
        for call in (
            lambda: engine.execute(Add("a", 1)),
            lambda: engine.query(CountRooms()),
            lambda: anext(engine.feed()),
        ):
            with pytest.raises(Forbidden):
                await call()
        answers = [answer async for answer in engine.execute_many([Add("a", 1), Add("a", 2)])]

    assert [type(answer) for answer in answers] == [Forbidden, Forbidden]


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_a_caller_who_is_cancelled_at_the_gate_is_cancelled(how: str) -> None:
    doors = Doors()
    async with counters(authorize=doors) as engine:
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await engine.execute(Add("a", 1))
        else:
            [call] = started(engine.execute(Add("a", 1)))
            await until(lambda: doors.asked == [1])
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()

        assert await tags(engine, "a") == []
        assert (await engine.execute(Add("a", 100))).version == 1


async def test_the_time_of_a_query_counts_what_the_hook_takes() -> None:
    async def waits(*_: object) -> bool:
        return await asyncio.Event().wait()

    async with counters(answers=[count_rooms], authorize=waits) as engine:
        with pytest.raises(TimeoutError, match=r"authorize has not answered within 0\.01 s"):
            await engine.query(CountRooms(), timeout=0.01)


# -- nothing is done or told before the gate -------------------------------------------------


class Secret(Event, name="secret-merger-agreed"):
    amount: int


class Merge(Command):
    deal_id: Id


class Deal(Aggregate, kind="deal"):
    @handles
    def merge(self, command: Merge) -> Secret:
        return Secret(1)

    @applies
    def merged(self, event: Secret) -> None: ...


class Fact(Row, key="key"):
    key: str


class FindFact(Query[str]):
    pass


class Deals(Projection, name="secret-deals", version=1):
    rows: Table[Fact]

    @projects
    def merged(self, event: Secret, meta: Meta) -> None:
        self.rows.put(Fact(meta.id))


@answers
async def find_fact(query: FindFact, views: Views) -> str:
    return (await views.get(Deals.rows, "d") or Fact("nothing")).key


async def _past(engine: Engine, **options: Any) -> None:
    async with engine.past(**options):
        pass


BEFORE_THE_GATE: dict[str, Callable[[Engine], Coroutine[Any, Any, Any]]] = {
    "feed-behind-the-end": lambda e: anext(e.feed(99)),
    "feed-followed": lambda e: anext(e.feed(99, follow=True)),
    "feed-of-unknown-names": lambda e: anext(e.feed(names=["x"])),
    "feed-of-unknown-kinds": lambda e: anext(e.feed(kinds=["x"])),
    "feed-opened": lambda e: e.feed(names=["x"]).open(),
    "past-behind-the-end": lambda e: _past(e, position=99),
    "past-of-unknown-projections": lambda e: _past(e, projections=[Projection]),
    "state-of-no-version": lambda e: e.state(Deal, "d", version=99),
    "difference-of-no-version": lambda e: e.difference(Deal, "d", 0, 99),
    "unknown-query": lambda e: e.query(CountRooms()),
    "unknown-watched-query": lambda e: anext(e.watch(CountRooms())),
    "query-at-a-forged-position": lambda e: e.query(FindFact(), at=99),
    "status": lambda e: e.projections.status("nonsense"),
    "list": lambda e: e.projections.list(),
    "pause": lambda e: e.projections.pause("nonsense"),
    "resume": lambda e: e.projections.resume("nonsense"),
    "parked": lambda e: e.projections.parked("nonsense"),
    "skip": lambda e: e.projections.skip("nonsense", 99, reason="x"),
    "wrong-version": lambda e: e.execute(Merge("d"), expected=99),
    "reused-key": lambda e: e.execute(Merge("d"), key="k"),
}


@pytest.mark.parametrize("name", BEFORE_THE_GATE)
@pytest.mark.parametrize("hook", [lambda *_: False, _false], ids=["sync", "async"])
async def test_who_may_nothing_is_told_nothing(name: str, hook: Any) -> None:
    allowed = True

    def authorize(*asked: Any) -> Any:
        return True if allowed else hook(*asked)

    async with Engine(
        [Deal], projections=[Deals], answers=[find_fact], authorize=authorize
    ) as engine:
        await engine.execute(Merge("d"), key="k")
        allowed = False
        with pytest.raises(Forbidden) as caught:
            await BEFORE_THE_GATE[name](engine)

        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("principal", [7, b"ann", "\ud800", object()])
async def test_a_principal_is_a_string_also_where_it_only_reads(principal: Any) -> None:
    async with counters(authorize=lambda *_: True) as engine:
        for call in (
            lambda: engine.history(Counter, "a", principal=principal),
            lambda: engine.state(Counter, "a", principal=principal),
            lambda: anext(engine.feed(principal=principal)),
            lambda: engine.query(CountRooms(), principal=principal),
            lambda: engine.execute(Add("a", 1), principal=principal),
        ):
            with pytest.raises(InvalidInput, match="principal"):
                await call()
