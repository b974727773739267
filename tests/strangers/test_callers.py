"""Callers who give what does not fit, or change what they gave: each hurts nobody but himself."""

from __future__ import annotations

import asyncio
import enum
import math
from collections import UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    DeadlinePassed,
    Engine,
    EngineError,
    Envelope,
    Event,
    Id,
    InvalidInput,
    Limits,
    Query,
    Receipt,
    UsageError,
    Views,
    answers,
    applies,
    handles,
)
from tests.support.counters import Add, Added, Counter, counters, total
from tests.support.held_store import HeldStore
from tests.support.tallies import GetTally, Tallies, Tally, get_tally
from tests.support.waiting import settle


class Line(msgspec.Struct):
    """A value that can be changed."""

    product: str
    details: dict[str, Any] = {}


@dataclass
class Remark:
    text: str


class Order(Command):
    order_id: Id
    lines: list[Line] = []
    tags: Any = None
    more: dict[str, list[int]] = {}


class Ordered(Event, name="ordered"):
    seen: str


class Shop(Aggregate, kind="shop"):
    seen: list[str] = []

    @handles
    def order(self, command: Order) -> Ordered:
        return Ordered(repr(command))

    @applies
    def ordered(self, event: Ordered) -> None:
        self.seen.append(event.seen)


LONE = b"caf\xe9.csv".decode("utf-8", "surrogateescape")


class Loud(str):
    """A string whose methods all fail."""

    def _fail(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a method of the caller's was called")

    encode = isascii = __len__ = __eq__ = __hash__ = __repr__ = __radd__ = __format__ = _fail
    __str__ = isprintable = __getitem__ = _fail


class Number(int):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = int.__hash__
    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__


class Seconds(float):
    def __lt__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __le__ = __gt__ = __ge__ = __rsub__ = __radd__ = __lt__


class Version(enum.IntEnum):
    NONE = 0


class Unreadable(Mapping[str, str]):
    def __getitem__(self, key: str) -> str:
        raise ConnectionError("the broker is gone")

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return 1


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("shown")

    __eq__ = __ne__ = __bool__ = __float__ = __int__ = __str__ = __repr__  # type: ignore[assignment]
    __hash__ = object.__hash__


REFUSED: list[dict[str, Any]] = [
    *({"key": bad} for bad in ("", LONE, "k" * 256, b"k", 7, NoRepr(), Mock(spec=str), ["k"])),
    *({"expected": bad} for bad in (True, False, -1, 1.0, math.nan, "1", NoRepr(), 10**5_000)),
    *({"expected": bad} for bad in (2**63, -(10**5_000), [0], Mock(spec=int))),
    *({"deadline": bad} for bad in (math.nan, True, "1", NoRepr(), [1], 1j, Mock(spec=float))),
    *({"correlation": bad} for bad in (LONE, 7, b"c", NoRepr(), Mock(spec=str))),
    *({"causation": bad} for bad in (LONE, ["x"])),
    *({"principal": bad} for bad in (LONE, object(), SimpleNamespace())),
    *({"headers": bad} for bad in ([], "", [("a", "b")], {"a": 1}, {1: "a"}, {"a": LONE})),
    *({"headers": bad} for bad in ({LONE: "a"}, {"a": None}, Unreadable(), NoRepr())),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
async def test_what_does_not_fit_is_refused_and_named(number: int) -> None:
    [(name, value)] = REFUSED[number].items()
    async with counters() as engine:
        with pytest.raises(InvalidInput) as caught:
            await engine.execute(Add("a", 1), **{name: value})
        assert name in str(caught.value)
        assert len(str(caught.value).encode("utf-8")) < 400
        assert engine.statistics().commands.accepted == 0

        assert (await engine.execute(Add("a", 1))).version == 1


TAKEN: list[dict[str, Any]] = [
    {"key": Loud("k"), "principal": Loud("p"), "correlation": Loud("c"), "causation": Loud("b")},
    {"expected": Number(0)},
    {"expected": Version.NONE},
    {"deadline": Seconds(5)},
    {"deadline": Number(5)},
    {"deadline": math.inf},
    {"deadline": 10**400},
    {"deadline": 1.7e308},
    {"headers": UserDict({"a": "b"})},
    {"headers": defaultdict(str, a="b")},
    {"headers": {"a": Loud("b")}},
]


@pytest.mark.parametrize("number", range(len(TAKEN)))
async def test_what_fits_is_taken_whatever_its_class_does(number: int) -> None:
    async with counters() as engine:
        receipt = await engine.execute(Add("a", 1), **TAKEN[number])
        [logged] = (await engine.history(*counter("a"))).events

    assert receipt.version == 1
    for name in ("key", "principal", "correlation", "causation"):
        assert type(getattr(logged.meta, name)) in (str, type(None))


def counter(counter_id: str) -> tuple[type[Aggregate], str]:
    from tests.support.counters import Counter

    return Counter, counter_id


@pytest.mark.parametrize("deadline", [0, -1, -math.inf, -(10**400), -0.0])
async def test_a_deadline_that_has_passed_is_said_however_long_ago(deadline: float) -> None:
    async with counters() as engine:
        with pytest.raises(DeadlinePassed):
            await engine.execute(Add("a", 1), deadline=deadline)


async def test_an_id_that_does_not_fit_is_refused() -> None:
    bad_ids: list[Any] = [LONE, NoRepr(), Mock(spec=str), 7, Loud(""), Loud("x" * 300)]
    async with counters() as engine:
        for bad in bad_ids:
            with pytest.raises(InvalidInput, match="id"):
                await engine.execute(Add(bad, 1))
        assert (await engine.execute(Add(Loud("a"), 1))).stream == "counter:a"


async def test_a_keyed_command_that_cannot_be_encoded_is_its_callers_fault() -> None:
    async with Engine([Shop]) as engine:
        for bad in (object(), LONE, {"x": {1, object()}}):
            with pytest.raises(InvalidInput, match="Order has a key and cannot be encoded"):
                await engine.execute(Order("a", tags=bad), key="k")
        assert engine.statistics().commands.accepted == 0


class AskSomething(Query[int]):
    pass


MISTAKEN: dict[str, tuple[Any, str]] = {
    "query": (AskSomething(), "AskSomething, which is a query: ask `await engine.query"),
    "event": (Added(1), "Added, which is an event: send a command"),
    "class": (Add, r"Add, which is a class: give an instance, `Add\(...\)`"),
    "query-class": (AskSomething, "AskSomething, which is a query"),
    "envelope": (Envelope(command=Add("a", 1)), "execute_many"),
    "text": ("add", "'add', which is no message"),
    "nothing": (None, "None, which is no message"),
    "object": (NoRepr(), "a NoRepr, which is no message"),
    "unknown": (Order("a"), "handles Order: pass the aggregate"),
}


@pytest.mark.parametrize("name", MISTAKEN)
async def test_what_is_no_command_is_refused_with_what_to_do_instead(name: str) -> None:
    given, said = MISTAKEN[name]
    async with counters() as engine:
        with pytest.raises(UsageError, match=said):
            await engine.execute(given)


async def test_in_a_stream_what_is_no_command_is_answered_and_the_rest_goes_on() -> None:
    given: Any = [Add("a", 1), AskSomething(), None, Envelope(command=Added(1)), Add("a", 1)]  # type: ignore[arg-type]
    async with counters() as engine:
        answers = [answer async for answer in engine.execute_many(given)]

    assert [type(answer) for answer in answers] == [Receipt, *[UsageError] * 3, Receipt]


@pytest.mark.parametrize("window", [0, -1, True, 1.5, math.nan, math.inf, "8", None, 10**400])
async def test_a_window_that_is_none_is_refused(window: Any) -> None:
    async with counters() as engine:
        with pytest.raises(InvalidInput, match="window"):
            await anext(engine.execute_many([Add("a", 1)], window=window))


@pytest.mark.parametrize("commands", [Add("a", 1), None, 7, Add, object()])
async def test_what_gives_no_commands_is_refused(commands: Any) -> None:
    async with counters() as engine:
        with pytest.raises(UsageError, match="one after the other"):
            await anext(engine.execute_many(commands))


# -- callers who change what they gave -------------------------------------------------------


def changed_afterwards() -> tuple[Order, Callable[[], None]]:
    line = Line("tea", {"size": [1]})
    tags: dict[str, Any] = {"a": [1, {2}], "b": Remark("x")}
    command = Order("o", [line], tags, {"n": [1]})

    def change() -> None:
        command.lines.append(Line("coffee"))
        line.product = "coffee"
        line.details["size"].append(2)
        tags["a"][1].add(3)
        tags["b"].text = "y"
        tags["c"] = 1
        command.more["n"].append(2)

    return command, change


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_command_is_run_as_it_was_when_it_was_sent(key: str | None) -> None:
    command, change = changed_afterwards()
    sent = repr(command)
    async with Engine([Shop]) as engine:
        task = asyncio.create_task(engine.execute(command, key=key))
        await asyncio.sleep(0)
        change()
        await task

        assert (await engine.state(Shop, "o")).seen == [sent]
        assert repr(command) != sent


async def test_what_the_gate_has_seen_is_what_is_run() -> None:
    command, change = changed_afterwards()
    sent = repr(command)
    headers = {"ip": "1"}
    asked = asyncio.Event()
    told: list[str] = []

    async def authorize(principal: object, action: object, message: object) -> bool:
        told.append(repr(message))
        await asked.wait()
        return True

    async with Engine([Shop], authorize=authorize) as engine:
        task = asyncio.create_task(engine.execute(command, headers=headers))
        await settle()
        change()
        headers["ip"] = "2"
        asked.set()
        await task
        [logged] = (await engine.history(Shop, "o")).events
        seen = (await engine.state(Shop, "o")).seen

    assert told[0] == seen[0] == sent
    assert logged.meta.headers == {"ip": "1"}


async def test_one_dict_of_headers_may_be_filled_for_each_command() -> None:
    store = HeldStore()
    headers: dict[str, str] = {}
    async with Engine([Shop], store=store) as engine:
        tasks = []
        for row in range(4):
            headers["row"] = str(row)
            tasks.append(asyncio.create_task(engine.execute(Order(f"o-{row}"), headers=headers)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        found = {e.meta.id: e.meta.headers async for e in engine.feed()}

    assert found == {f"o-{row}": {"row": str(row)} for row in range(4)}


class Stubborn(list[int]):
    def __deepcopy__(self, memo: object) -> Stubborn:
        raise RuntimeError("not to be copied")


async def test_what_cannot_be_copied_is_refused_by_its_field() -> None:
    circle: list[Any] = []
    circle.append(circle)
    async with Engine([Shop]) as engine:
        for bad in (Stubborn([1]), circle):
            with pytest.raises(InvalidInput, match=r"Order\.tags cannot be copied"):
                await engine.execute(Order("o", tags=bad))
        assert engine.statistics().commands.accepted == 0


async def test_a_caller_who_is_refused_costs_the_others_nothing() -> None:
    async with counters() as engine:
        good = [engine.execute(Add("a", 1)) for _ in range(3)]
        bad = [engine.execute(Add("a", 1), **options) for options in REFUSED]
        answers = await asyncio.gather(*good, *bad, return_exceptions=True)

        assert [a.version for a in answers[:3] if isinstance(a, Receipt)] == [1, 2, 3]
        assert all(isinstance(answer, EngineError) for answer in answers[3:])
        assert await total(engine, "a") == "3 at 3"


def test_limits_are_whole_numbers_that_a_timer_can_take() -> None:
    from engine import DefinitionError

    for bad in (math.nan, math.inf, "1", True, None, 1.5, 10**400):
        with pytest.raises(DefinitionError, match=r"Limits\.handler_seconds"):
            Limits(handler_seconds=bad)  # type: ignore[arg-type]


def test_the_deadline_of_a_kind_is_a_number_of_seconds() -> None:
    from engine import DefinitionError

    for bad in (math.nan, "1", True, 0, -1):
        with pytest.raises(DefinitionError, match="deadline"):

            class Bad(Aggregate, kind="bad", deadline=bad):
                @handles
                def order(self, command: Order) -> None: ...


async def test_a_kind_may_have_a_deadline_without_an_end() -> None:
    class Patient(Aggregate, kind="patient", deadline=10**400):
        @handles
        def order(self, command: Order) -> None: ...

    async with Engine([Patient]) as engine:
        assert (await engine.execute(Order("o"))).version == 0


# -- reads -----------------------------------------------------------------------------------


class Weigh(Query[int]):
    of: list[int] = []


@answers
async def weigh(query: Weigh, views: Views) -> int:
    await asyncio.sleep(0)
    return sum(query.of)


async def test_a_query_is_answered_as_it_was_when_it_was_asked() -> None:
    given = [1, 2]
    async with Engine([Shop], answers=[weigh]) as engine:
        asked = asyncio.create_task(engine.query(Weigh(given), timeout=10**400))
        await asyncio.sleep(0)
        watched = engine.watch(Weigh(given))
        given.append(100)

        assert await asked == 3
        assert await anext(watched) == 3


WRONG_READS: dict[str, Callable[[Engine], Any]] = {
    "timeout-nan": lambda e: e.query(Weigh(), timeout=math.nan),
    "timeout-true": lambda e: e.query(Weigh(), timeout=True),
    "timeout-text": lambda e: anext(e.watch(Weigh(), timeout="5")),  # type: ignore[arg-type]
    "at-float": lambda e: e.query(Weigh(), at=1.0),  # type: ignore[arg-type]
    "at-true": lambda e: e.query(Weigh(), at=True),
    "at-negative": lambda e: e.query(Weigh(), at=-1),
    "at-huge": lambda e: e.query(Weigh(), at=10**5_000),
    "at-token": lambda e: e.query(Weigh(), at=LONE),
    "at-deep-token": lambda e: e.query(Weigh(), at="W1tbW1tb" * 5_000),
    "at-of-a-forged-receipt": lambda e: e.query(Weigh(), at=Receipt("a", 1, "1")),  # type: ignore[arg-type]
    "after-huge": lambda e: e.history(Shop, "a", after=10**5_000),
    "limit-huge": lambda e: e.history(Shop, "a", limit=-(10**5_000)),
    "version-odd": lambda e: e.state(Shop, "a", version=NoRepr()),  # type: ignore[arg-type]
    "id-odd": lambda e: e.state(Shop, Mock(spec=str)),
    "feed-huge": lambda e: anext(e.feed(10**5_000)),
    "feed-odd": lambda e: anext(e.feed(NoRepr())),  # type: ignore[arg-type]
    "feed-names": lambda e: anext(e.feed(names=[["x"]])),  # type: ignore[list-item]
    "feed-kinds": lambda e: anext(e.feed(kinds=7)),  # type: ignore[arg-type]
    "aggregate-instance": lambda e: e.state(Shop(), "a"),  # type: ignore[arg-type]
    "aggregate-list": lambda e: e.state([Shop], "a"),  # type: ignore[arg-type]
    "command-asked": lambda e: e.query(Order("o")),  # type: ignore[arg-type]
    "class-asked": lambda e: e.query(Weigh),  # type: ignore[arg-type]
    "event-asked": lambda e: e.query(Added(1)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG_READS)
async def test_a_read_that_cannot_be_is_refused_by_a_typed_error(name: str) -> None:
    async with Engine([Shop], answers=[weigh]) as engine:
        with pytest.raises(UsageError) as caught:
            await WRONG_READS[name](engine)
        assert len(str(caught.value)) < 400


async def test_a_command_that_is_asked_is_told_to_be_sent() -> None:
    async with Engine([Shop], answers=[weigh]) as engine:
        with pytest.raises(UsageError, match=r"send it by `await engine\.execute"):
            await engine.query(Order("o"))  # type: ignore[arg-type]


async def test_a_list_of_projections_that_grows_later_is_another_list() -> None:
    """As one is into which each module of an application registers its own."""
    known: list[Any] = [Tallies]
    engine = Engine([Counter], projections=known, answers=[get_tally])
    known[:] = []
    async with engine:
        receipt = await engine.execute(Add("a", 1))
        assert await engine.query(GetTally("a"), at=receipt) == Tally("a", 1, 1)
        async with engine.past() as past:
            assert await past.query(GetTally("a")) == Tally("a", 1, 1)
