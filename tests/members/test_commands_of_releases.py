"""Commands between two releases of one application: run as they were meant, or told to come again.

Rules: two engines of one process share a file, and each has the classes of its release. A command
is called the same in each.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from enum import IntEnum
from pathlib import Path

import pytest

from engine import (
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    OutcomeUnknown,
    Schedule,
    Voided,
    applies,
    handles,
)


class Marked(Event, name="marked"):
    name: str


class Former(IntEnum):
    NEW = 1
    PAID = 2
    SENT = 3


class Newer(IntEnum):
    NEW = 1
    HELD = 2
    PAID = 3


class Mark(Command):
    parcel: Id
    state: Former


class Parcel(Aggregate, kind="parcel"):
    name: str = ""

    @handles
    def mark(self, command: Mark) -> Marked:
        return Marked(command.state.name)

    @applies
    def marked(self, event: Marked) -> None:
        self.name = event.name


class NotedMark(Command):
    """Of the next release, with a field more."""

    parcel: Id
    state: Former
    note: str = ""


class NotedParcel(Aggregate, kind="parcel"):
    name: str = ""

    @handles
    def mark(self, command: NotedMark) -> Marked:
        return Marked(command.state.name)

    @applies
    def marked(self, event: Marked) -> None:
        self.name = event.name


class NumberedMark(Command):
    """Of the next release, whose enum has a member more."""

    parcel: Id
    state: Newer


class NumberedParcel(Aggregate, kind="parcel"):
    name: str = ""

    @handles
    def mark(self, command: NumberedMark) -> Marked:
        return Marked(command.state.name)

    @applies
    def marked(self, event: Marked) -> None:
        self.name = event.name


NotedMark.__qualname__ = NumberedMark.__qualname__ = Mark.__qualname__


def shared(path: Path, *aggregates: type[Aggregate]) -> Engine:
    return Engine(list(aggregates), store=f"sqlite:{path}/log.db", join=True)


@pytest.mark.parametrize(
    ("newer", "command", "why"),
    [
        (NotedParcel, NotedMark("p-1", Former.PAID, "in cash"), "declares 'parcel/Mark' otherwise"),
        (
            NumberedParcel,
            NumberedMark("p-1", Newer.PAID),
            "called PAID where it was sent",
        ),
    ],
    ids=["field", "number"],
)
async def test_a_command_that_a_former_owner_does_not_know_so_waits_for_a_newer_one(
    tmp_path: Path, newer: type[NotedParcel | NumberedParcel], command: Command, why: str
) -> None:
    async with AsyncExitStack() as former, AsyncExitStack() as newest:
        owner = await former.enter_async_context(shared(tmp_path, Parcel))
        member = await newest.enter_async_context(shared(tmp_path, newer))

        with pytest.raises(Voided, match=why) as voided:
            await member.execute(command, key="k")

        assert voided.value.safe_to_resend
        assert (await owner.state(Parcel, "p-1")).version == 0
        await former.aclose()
        assert (await member.execute(command, key="k")).version == 1
        assert (await member.state(newer, "p-1")).name == "PAID"


async def test_a_number_that_both_releases_call_the_same_arrives(tmp_path: Path) -> None:
    async with shared(tmp_path, Parcel) as owner, shared(tmp_path, NumberedParcel) as member:
        await member.execute(NumberedMark("p-1", Newer.NEW))

        assert (await owner.state(Parcel, "p-1")).name == "NEW"


@pytest.mark.parametrize("is_debug", [False, True])
async def test_a_schedule_whose_command_the_owners_release_does_not_know_is_to_be_set_again(
    tmp_path: Path, is_debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with (
        Engine([Parcel, Schedule], store=store, join=True, debug=is_debug) as owner,
        shared(tmp_path, NotedParcel, Schedule) as member,
    ):
        with pytest.raises(Voided, match=r"does not know 'noted-mark' so: .* send again"):
            await member.schedule(
                NotedMark("p-1", Former.PAID), "marking", after=timedelta(hours=1)
            )
        assert owner.statistics().timers.waiting == 0
    assert not caplog.text


class Told(Command[int]):
    """Of the next release, which replies."""

    parcel: Id
    state: Former


class TellingParcel(Aggregate, kind="parcel"):
    @handles
    def mark(self, command: Told) -> Decision[Marked, int]:
        return Decision(Marked(command.state.name), reply=command.state)

    @applies
    def marked(self, event: Marked) -> None:
        pass


class Shown(Command[Former]):
    """Of the former release."""

    parcel: Id
    state: Former


class ShowingParcel(Aggregate, kind="parcel"):
    @handles
    def mark(self, command: Shown) -> Decision[Marked, Former]:
        return Decision(Marked(command.state.name), reply=Former.SENT)

    @applies
    def marked(self, event: Marked) -> None:
        pass


class NumberedShown(Command[Newer]):
    """Of the next release, whose enum has a member more."""

    parcel: Id
    state: Former


class NumberedShowingParcel(Aggregate, kind="parcel"):
    @handles
    def mark(self, command: NumberedShown) -> Decision[Marked, Newer]:
        return Decision(Marked(command.state.name), reply=Newer.PAID)

    @applies
    def marked(self, event: Marked) -> None:
        pass


Told.__qualname__ = Shown.__qualname__ = NumberedShown.__qualname__ = Mark.__qualname__


@pytest.mark.parametrize(
    ("former", "newer", "command"),
    [
        (Parcel, TellingParcel, Told("p-1", Former.PAID)),
        (ShowingParcel, NumberedShowingParcel, NumberedShown("p-1", Former.PAID)),
    ],
    ids=["none", "number"],
)
async def test_a_reply_of_another_release_is_never_told_as_another_one(
    tmp_path: Path, former: type[Aggregate], newer: type[Aggregate], command: Command[object]
) -> None:
    async with shared(tmp_path, former) as owner, shared(tmp_path, newer) as member:
        with pytest.raises(OutcomeUnknown, match="the command was run"):
            await member.execute(command)

        assert (await owner.state(former, "p-1")).version == 1
