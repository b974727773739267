"""What a command holds, and what its answer does: it arrives, or its caller is told, never silence.

Rules: each test sends through a member what the owner would take, or answer, in one process.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    InvalidInput,
    OutcomeUnknown,
    Rejected,
    UsageError,
    handles,
)
from engine.members.forms import CommandForms, error_of
from tests.members.joining import some
from tests.members.shops import Colour, Count, Price, Priced, Refuse, Shop, shop
from tests.support.counters import Add


class OwnZone(tzinfo):
    """A zone of another library's, with one offset."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "UTC+02:00"


class MovingZone(OwnZone):
    """A zone whose offset depends on the moment, and that has no name that others know."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1) if moment is not None else None  # type: ignore[return-value]


async def shops(path: Path, stack: AsyncExitStack) -> tuple[Engine, Engine]:
    owner = await stack.enter_async_context(shop(path))
    return owner, await stack.enter_async_context(shop(path))


@pytest.mark.parametrize("how", ["large", "deep", "in itself", "exit"])
async def test_a_rejection_arrives_whatever_its_details_are(tmp_path: Path, how: str) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await shops(tmp_path, stack)

        with pytest.raises(Rejected, match="no: it is so") as rejected:
            await asyncio.wait_for(member.execute(Refuse("s", how)), 60)

        assert rejected.value.details["name"] == "cat"
        if how != "exit":
            assert "left out, since it" in str(rejected.value.details)
        assert (await owner.execute(Count("s"))).reply == 1


MOMENT = datetime(2026, 10, 25, 2, 30)


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"price": 1}, "1.0 None None "),
        ({"tags": ("a", "b")}, "0.0 None None a b "),
        ({"colour": Colour.RED}, "0.0 None None red"),
        ({"when": MOMENT}, "0.0 2026-10-25T02:30:00 None "),
        ({"when": MOMENT.replace(tzinfo=UTC)}, "0.0 2026-10-25T02:30:00+00:00 UTC "),
        (
            {"when": MOMENT.replace(tzinfo=timezone(timedelta(hours=2)))},
            "0.0 2026-10-25T02:30:00+02:00 UTC+02:00 ",
        ),
        ({"when": MOMENT.replace(tzinfo=OwnZone())}, "0.0 2026-10-25T02:30:00+02:00 UTC+02:00 "),
        (
            {"when": MOMENT.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=1)},
            "0.0 2026-10-25T02:30:00+01:00 Europe/Berlin ",
        ),
    ],
    ids=str,
)
async def test_a_value_of_the_declared_type_arrives_whoever_owns_the_log(
    tmp_path: Path, fields: dict[str, Any], stored: str
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await shops(tmp_path, stack)
        await member.execute(Price("s", **fields))

        [event] = (await owner.history(Shop, "s")).events

        assert event.event == Priced(stored)


class Rest(Command):
    guest_id: Id
    coins: int = 0
    counted: dict[str, list[int]] = {}
    begun: datetime | None = None
    ended: datetime | None = None


BERLIN = MOMENT.replace(tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    "sent",
    [
        Rest("s", 2**64),
        Rest("s", -(2**63) - 1),
        Rest("s", 10**5_000),
        Rest("s", 1, {"a": [2**64 - 1, 2**64]}),
        Rest("s", 2**64, {}, BERLIN, BERLIN.replace(fold=1)),
        Rest("s", 1, {}, MOMENT, BERLIN),
        Rest("s", 2**64, {}, MOMENT),
    ],
    ids=range(7),
)
def test_what_messagepack_has_no_word_for_arrives_beside_all_else(sent: Rest) -> None:
    forms = CommandForms({Rest: "guest"})
    for _ in range(2):  # the second time its types are known
        arrived = forms.decode(*forms.encode(sent))
        assert isinstance(arrived, Rest)
        assert arrived == sent
        for one, other in ((arrived.begun, sent.begun), (arrived.ended, sent.ended)):
            assert str(one) == str(other)
            assert getattr(one, "fold", 0) == getattr(other, "fold", 0)
        assert forms.decode(*forms.encode(Rest("s", 7))) == Rest("s", 7)


async def test_a_moment_in_a_zone_that_nobody_else_has_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await shops(tmp_path, stack)

        with pytest.raises(InvalidInput, match=r"Price\.when would arrive as something else"):
            await member.execute(Price("s", when=MOMENT.replace(tzinfo=MovingZone())))


async def test_a_command_that_is_too_large_is_refused_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.wire.BODY_MAX", 1_000)
    monkeypatch.setattr("engine.members.wire.FRAME_MAX", 2_000)
    async with AsyncExitStack() as stack:
        _, member = await shops(tmp_path, stack)

        with pytest.raises(InvalidInput, match="bytes, and 1000 can be sent"):
            await member.execute(Price("s", colour="x" * 1_000))
        with pytest.raises(InvalidInput, match="what travels with the command cannot be sent"):
            await member.execute(Price("s"), headers={"h": "x" * 2_000})


async def test_what_operators_are_told_is_told_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        await member.projections.pause("tallies", reason="x" * 1_000)
        with monkeypatch.context() as patch:
            patch.setattr("engine.members.wire.FRAME_MAX", 900)
            with pytest.raises(UsageError, match="ask for less at a time"):
                await asyncio.wait_for(member.projections.decisions("tallies"), 60)
            with pytest.raises(UsageError, match="cannot be sent between processes"):
                await member.projections.pause("tallies", reason="x" * 1_000)
        assert len(await member.projections.decisions("tallies")) == 1


async def test_nobody_is_told_that_a_command_was_not_run_since_its_reply_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_release(_: object) -> Any:
        raise RuntimeError("no such type")

    async with AsyncExitStack() as stack:
        owner, member = await shops(tmp_path, stack)
        with monkeypatch.context() as patch:
            patch.setattr("engine.members.waiting.reply_of", other_release)
            with pytest.raises(OutcomeUnknown, match="was run, and its last event is at position"):
                await asyncio.wait_for(member.execute(Count("s")), 60)

        assert (await owner.state(Shop, "s")).count == 1


@pytest.mark.parametrize("values", [b"", b"\xc1", b"\x92\x01\x80", b"\x90"])
def test_an_error_that_cannot_be_read_leaves_the_outcome_open(values: bytes) -> None:
    assert isinstance(error_of(("engine.errors:Rejected",), values), OutcomeUnknown)


async def test_neither_end_waits_for_the_other_where_both_have_much_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.wire._UNSENT_MAX", 16 * 1024)
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        headers = {"h": "x" * 20_000}
        # Each is refused, and quotes nothing: the answers are made long by their details.
        monkeypatch.setattr("engine.members.serving.as_failure", long_failure)
        asked = [member.execute(Add("c", -1), headers=headers) for _ in range(100)]

        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)

        assert {type(answer) for answer in answers} == {Rejected}


def long_failure(error: BaseException) -> tuple[tuple[str, ...], bytes]:
    from engine.members.forms import as_failure

    assert isinstance(error, Rejected)
    error.details = {"long": "y" * 20_000}
    return as_failure(error)


def test_a_command_has_one_name_wherever_its_module_was_started() -> None:
    forms = CommandForms({Price: "shop"})
    cls = type("Price", (Price,), {"__module__": "__main__", "__qualname__": "Price"})
    started = CommandForms({cls: "shop"})

    name, body = started.encode(cls("s", 2.0))

    assert forms.decode(name, body) == Price("s", 2.0)


def test_commands_of_one_name_are_told_apart() -> None:
    other = type("Price", (Command,), {"__annotations__": {"x": Id}, "__qualname__": "Price"})
    same = type("Price", (Command,), {"__annotations__": {"y": Id}, "__qualname__": "Price"})
    same.__module__ = "elsewhere"
    forms = CommandForms({other: "shop", same: "shop", Price: "basket"})

    for command in (other("a"), same("b"), Price("c")):
        assert forms.decode(*forms.encode(command)) == command


def test_a_command_that_no_process_could_read_is_refused_where_the_engine_is_made() -> None:
    class One:
        pass

    class Either(Command):
        odd_id: Id
        value: int | One

    class Odd(Aggregate, kind="odd"):
        @handles
        def take(self, command: Either) -> Event:
            raise NotImplementedError

    with pytest.raises(DefinitionError):
        Engine([Odd], store="sqlite:unused.db", join=True)


class Weigh(Command):
    scale_id: Id
    grams: float
    count: int | None = None


class Weighed(Command):
    scale_id: Id
    grams: Annotated[int, msgspec.Meta(ge=1)]


def test_what_is_known_to_arrive_is_read_back_only_where_a_value_tells() -> None:
    """Plain values of a class arrive always once they did; any others are looked at each time."""
    forms = CommandForms({Weigh: "scale", Weighed: "scale"})
    read: list[bytes] = []
    inside: Any = forms
    decode = inside._decode

    def noted(name: str, body: bytes) -> Any:
        read.append(body)
        return decode(name, body)

    inside._decode = noted
    for grams in (1.5, float("nan"), -0.0):
        forms.encode(Weigh("s", grams, 2**63))
    assert len(read) == 1, "the first one tells of all"
    large = Weigh("s", 1.5, 2**80)
    assert forms.decode(*forms.encode(large)) == large
    # The same field with an int: some arrive, and some do not.
    forms.encode(Weigh("s", 3, 1))
    with pytest.raises(InvalidInput, match=r"Weigh\.grams would arrive as something else"):
        forms.encode(Weigh("s", 2**60 + 1, 1))
    forms.encode(Weigh("s", 1.5))
    assert len(read) > 3
    # A field that asks something of its value is looked at each time.
    forms.encode(Weighed("s", 1))
    with pytest.raises(InvalidInput, match="cannot be sent"):
        forms.encode(Weighed("s", 0))
