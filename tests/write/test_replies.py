"""A handler replies: typed, the same for a repeated key, and kept as long as the key is."""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    Decision,
    DefinitionError,
    Engine,
    Event,
    HandlerFailed,
    Id,
    KeyReused,
    Limits,
    Receipt,
    Rejected,
    applies,
    handles,
)
from engine.model.codec import decode_metadata
from tests.support.held_store import HeldStore


class Seat(msgspec.Struct):
    row: int
    place: str
    since: datetime


class Reserve(Command[Seat]):
    hall: Id
    row: int


class Count(Command[int]):
    hall: Id


class Rename(Command[str | None]):
    hall: Id
    name: str = ""


class Give(Command[list[Any]]):
    """Replies with whatever the test says."""

    hall: Id
    what: str


class Slow(Command[int]):
    hall: Id


class Reserved(Event, name="seat-reserved"):
    row: int


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
replies: dict[str, Any] = {}


class Hall(Aggregate, kind="hall", snapshot_every=3):
    taken: int = 0

    @handles
    def reserve(self, command: Reserve) -> Decision[Reserved, Seat]:
        if command.row < 0:
            raise Rejected("no-row", "there is no such row")
        seat = Seat(command.row, chr(97 + self.taken), NOON)
        return Decision(Reserved(command.row), reply=seat)

    @handles
    def count(self, command: Count) -> Decision[Reserved, int]:
        return Decision(reply=self.taken)

    @handles
    def rename(self, command: Rename) -> Decision[Reserved, str | None] | Reserved:
        return Decision([Reserved(1), Reserved(2)], reply=command.name or None)

    @handles
    def give(self, command: Give) -> Decision[Reserved, list[Any]] | Reserved:
        given = replies[command.what]
        return Reserved(0) if given is Reserved else Decision(Reserved(0), reply=given)

    @handles
    async def slow(self, command: Slow) -> Decision[Reserved, int]:
        await asyncio.sleep(0)
        return Decision(Reserved(9), reply=self.taken)

    @applies
    def reserved(self, event: Reserved) -> None:
        self.taken += 1


async def test_a_receipt_has_the_reply_in_its_declared_type() -> None:
    async with Engine([Hall]) as engine:
        seat = await engine.execute(Reserve("h", 4))
        slow = await engine.execute(Slow("h"))
        counted = await engine.execute(Count("h"))

        assert seat == Receipt("hall:h", 1, 1, Seat(4, "a", NOON))
        assert seat.reply.place == "a"
        assert slow == Receipt("hall:h", 2, 2, 1)
        assert counted == Receipt("hall:h", 2, 2, 2)


async def test_a_repeated_key_gets_the_first_reply() -> None:
    async with Engine([Hall]) as engine:
        first = await engine.execute(Reserve("h", 4), key="k")
        await engine.execute(Reserve("h", 5), key="l")

        assert await engine.execute(Reserve("h", 4), key="k") == first
        assert (await engine.execute(Reserve("h", 5), key="l")).reply == Seat(5, "b", NOON)
        with pytest.raises(KeyReused):
            await engine.execute(Reserve("h", 5), key="k")


@pytest.mark.parametrize("name", ["", "hall", "null", '"', "\U0001f600"])
async def test_a_reply_is_kept_with_its_key(tmp_path: Path, name: str) -> None:
    url = f"sqlite:{tmp_path}/log.db"
    async with Engine([Hall], store=url) as engine:
        first = await engine.execute(Rename("h", name), key="k")
        assert first.reply == (name or None)
    async with Engine([Hall], store=url) as engine:
        assert await engine.execute(Rename("h", name), key="k") == first
        for number in range(4):  # so that it comes from a snapshot the next time
            await engine.execute(Reserve("h", number))
    async with Engine([Hall], store=url) as engine:
        assert await engine.execute(Rename("h", name), key="k") == first
        assert engine.statistics().aggregates.restored == 1


async def test_without_a_key_no_reply_is_stored() -> None:
    store = HeldStore()
    async with Engine([Hall], store=store) as engine:
        await engine.execute(Reserve("h", 1))
        await engine.execute(Reserve("h", 1), key="k")
        await engine.execute(Rename("h", ""), key="l")
        stored = await store.read_feed(0, events_max=9, bytes_max=1 << 20)

    assert stored[0].metadata == b""
    assert [bytes(decode_metadata(each).reply) for each in stored[1:]] == [
        b'{"row":1,"place":"b","since":"2026-01-01T12:00:00Z"}',
        b"null",
        b"",
    ]


async def test_a_reply_is_a_copy() -> None:
    given: list[Any] = [[1]]
    replies["mutable"] = given
    async with Engine([Hall]) as engine:
        first = await engine.execute(Give("h", "mutable"), key="k")
        given[0].append(2)
        assert first.reply == [[1]]
        first.reply.append(3)

        assert (await engine.execute(Give("h", "mutable"), key="k")).reply == [[1]]


async def test_replies_wait_for_the_events_that_they_were_decided_on() -> None:
    store = HeldStore()
    async with Engine([Hall], store=store) as engine:
        store.hold()
        reserved = asyncio.ensure_future(engine.execute(Reserve("h", 1), key="k"))
        again = asyncio.ensure_future(engine.execute(Reserve("h", 1), key="k"))
        counted = asyncio.ensure_future(engine.execute(Count("h")))
        for _ in range(9):
            await asyncio.sleep(0)
        assert not any(each.done() for each in (reserved, again, counted))
        store.release()

        assert await reserved == await again == Receipt("hall:h", 1, 1, Seat(1, "a", NOON))
        assert await counted == Receipt("hall:h", 1, 1, 1)


class Plain(msgspec.Struct):
    x: int


class Wider(Plain):
    y: int = 0


@dataclasses.dataclass
class Data:
    x: int


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([float("nan")], "NaN or infinite"),
        ([datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=7)))], "read back as"),
        ([Plain(1)], "read back as"),
        ([(1, 2)], "read back as"),
        ([object()], "failed on Give"),
        ("text", "no value of its declared type"),
        (None, "no value of its declared type"),
        (Reserved, "returned no Decision"),
        (["x" * 20_000], "has 20004 bytes, above Limits.reply_bytes at 16384"),
    ],
)
async def test_a_reply_that_would_come_back_otherwise_is_refused(given: Any, why: str) -> None:
    replies["odd"] = given
    async with Engine([Hall]) as engine:
        with pytest.raises(HandlerFailed, match=why):
            await engine.execute(Give("h", "odd"), key="k")
        state = await engine.state(Hall, "h")

        assert state.version == 0
        assert (await engine.execute(Reserve("h", 1))).version == 1


async def test_the_bound_of_replies_is_a_limit() -> None:
    replies["long"] = ["x" * 20_000]
    async with Engine([Hall], limits=Limits(reply_bytes=20_004)) as engine:
        assert (await engine.execute(Give("h", "long"))).reply == replies["long"]


async def test_a_kept_reply_of_another_type_is_told(tmp_path: Path) -> None:
    class Answer(Command[int], name="answer"):
        hall: Id

    class Former(Aggregate, kind="hall"):
        @handles
        def answer(self, command: Answer) -> Decision[Reserved, int]:
            return Decision(Reserved(1), reply=7)

        @applies
        def reserved(self, event: Reserved) -> None:
            """Nothing."""

    class Later(Command[list[int]], name="answer"):
        hall: Id

    class Today(Aggregate, kind="hall"):
        @handles
        def answer(self, command: Later) -> Decision[Reserved, list[int]]:
            return Decision(Reserved(1), reply=[7])

        @applies
        def reserved(self, event: Reserved) -> None:
            """Nothing."""

    url = f"sqlite:{tmp_path}/log.db"
    async with Engine([Former], store=url) as engine:
        await engine.execute(Answer("h"), key="k")
    async with Engine([Today], store=url) as engine:
        with pytest.raises(HandlerFailed, match="kept with its key is none of the declared type"):
            await engine.execute(Later("h"), key="k")
        assert (await engine.state(Today, "h")).version == 1


class Bill(msgspec.Struct):
    """Of a former release."""

    total: int = 0
    tags: frozenset[str] = frozenset("abcdefghijk")


class RenamedBill(msgspec.Struct):
    amount: int = 0
    tags: frozenset[str] = frozenset()


class RoundedBill(msgspec.Struct):
    total: bool = False
    tags: frozenset[str] = frozenset()


class LongerBill(msgspec.Struct):
    total: float = 0
    note: str = "none"
    tags: list[str] = []


def paying(reply: Any, given: Any) -> tuple[Any, Any]:
    """Give a release: an aggregate that bills, and its command."""

    class Pay(Command[reply], name="pay"):
        hall: Id

    class Payer(Aggregate, kind="payer"):
        @handles
        def pay(self, command: Pay) -> Decision[Reserved, reply]:
            return Decision(Reserved(1), reply=given)

        @applies
        def reserved(self, event: Reserved) -> None:
            """Nothing."""

    return Payer, Pay


@pytest.mark.parametrize(
    ("today", "says"),
    [(Bill, 500), (LongerBill, 500), (RenamedBill, None), (RoundedBill, None)],
)
async def test_a_kept_reply_is_read_where_the_type_of_today_keeps_all_it_says(
    tmp_path: Path, today: Any, says: int | None
) -> None:
    """A field that was renamed, and has a default, would be read as that."""
    url = f"sqlite:{tmp_path}/log.db"
    payer, pay = paying(Bill, Bill(500))
    async with Engine([payer], store=url) as engine:
        await engine.execute(pay("h"), key="k")
    payer, pay = paying(today, today())
    async with Engine([payer], store=url) as engine:
        if says is None:
            with pytest.raises(HandlerFailed, match="none of the declared type"):
                await engine.execute(pay("h"), key="k")
        else:
            reply = (await engine.execute(pay("h"), key="k")).reply
            assert (reply.total, set(reply.tags)) == (says, set("abcdefghijk"))


def declared(reply: Any) -> None:
    class Odd(Command[reply]):
        hall: Id


@pytest.mark.parametrize(
    "reply",
    [weakref.ref, Callable[[], int], dict[tuple[int, int], int], Plain | Wider, type],
)
def test_a_reply_that_cannot_be_stored_is_refused_with_its_command(reply: Any) -> None:
    with pytest.raises(DefinitionError, match="reply of command .*Odd"):
        declared(reply)


def test_a_reply_that_is_no_type_yet_is_refused_with_its_command() -> None:
    with pytest.raises(DefinitionError, match="give the type itself"):
        declared(TypeVar("T"))


class Ahead(Command["Behind"]):
    hall: Id


class Behind(msgspec.Struct):
    x: int


class Looking(Aggregate, kind="looking"):
    @handles
    def ahead(self, command: Ahead) -> Decision[Reserved, Behind]:
        return Decision(reply=Behind(3))

    @applies
    def reserved(self, event: Reserved) -> None:
        """Nothing."""


async def test_a_reply_may_be_declared_below_its_command() -> None:
    async with Engine([Looking]) as engine:
        assert (await engine.execute(Ahead("h"))).reply == Behind(3)


def test_a_reply_that_is_nowhere_is_refused_with_its_handler() -> None:
    class Lost(Command["Nowhere"]):  # type: ignore[name-defined]
        hall: Id

    with pytest.raises(DefinitionError, match="the reply of command .*Lost cannot be resolved"):

        class Losing(Aggregate, kind="losing"):
            @handles
            def lost(self, command: Lost) -> Decision[Reserved, int]:
                return Decision(reply=3)

            @applies
            def reserved(self, event: Reserved) -> None:
                """Nothing."""


class Mute(Command):
    hall: Id
    gives: str = ""


class Silent(Aggregate, kind="silent"):
    @handles
    def mute(self, command: Mute) -> Decision[Reserved] | Reserved | None:
        given: dict[str, Any] = {
            "reply": Decision(Reserved(1), reply=5),
            "decision": Decision(Reserved(1)),
            "events": [Reserved(1)],
            "text": Decision("text"),
        }
        return given.get(command.gives)

    @applies
    def reserved(self, event: Reserved) -> None:
        """Nothing."""


async def test_a_command_without_a_reply_has_none() -> None:
    async with Engine([Silent]) as engine:
        for number, gives in enumerate(("decision", "events", "")):
            receipt = await engine.execute(Mute("h", gives))
            assert receipt == Receipt("silent:h", min(number + 1, 2), min(number + 1, 2))
            assert receipt.reply is None
        with pytest.raises(HandlerFailed, match="its command declares none"):
            await engine.execute(Mute("h", "reply"))
        with pytest.raises(HandlerFailed, match="returned a str"):
            await engine.execute(Mute("h", "text"))


async def test_a_decision_that_is_not_annotated_is_refused() -> None:
    class Sly(Aggregate, kind="sly"):
        @handles
        def mute(self, command: Mute) -> Reserved:
            return Decision(Reserved(1))  # type: ignore[return-value]

        @applies
        def reserved(self, event: Reserved) -> None:
            """Nothing."""

    async with Engine([Sly]) as engine:
        with pytest.raises(HandlerFailed, match="returned a Decision: annotate it so"):
            await engine.execute(Mute("h"))


def handled(command: type[Command[Any]], returns: Any) -> None:
    def decide(self: Any, command: Any) -> Any:
        """Nothing."""

    decide.__annotations__ = {"command": command, "return": returns}
    marked = handles(decide)

    class Odd(Aggregate, kind="odd"):
        decide = marked

        @applies
        def reserved(self, event: Reserved) -> None:
            """Nothing."""


@pytest.mark.parametrize(
    ("command", "returns", "why"),
    [
        (Count, Reserved, "declares a reply: annotate it"),
        (Count, None, "declares a reply: annotate it"),
        (Count, Decision, "does not say which events its Decision has"),
        (Mute, Decision[Reserved, int], "declares none: write `class"),
        (Mute, Decision[int], "is annotated to return"),  # type: ignore[type-var]
    ],
)
def test_a_handler_that_does_not_go_with_its_command_is_refused(
    command: type[Command[Any]], returns: Any, why: str
) -> None:
    with pytest.raises(DefinitionError, match=why):
        handled(command, returns)


def test_receipts_without_a_reply_look_as_they_did() -> None:
    receipt = Receipt("a:1", 1, 2)
    assert repr(receipt) == "Receipt(stream='a:1', version=1, position=2)"
    assert msgspec.json.encode(receipt) == b'{"stream":"a:1","version":1,"position":2}'
    assert Receipt.from_token(receipt.token) == receipt
