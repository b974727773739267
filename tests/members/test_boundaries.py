"""Decisions by tags among processes that share a log, also of two releases with other tags."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Archive,
    Boundary,
    Command,
    Engine,
    Event,
    Id,
    Receipt,
    Rejected,
    StreamUnreadable,
    applies,
    decides,
    upcasts,
)
from tests.members.joining import part
from tests.write.courses import KINDS, Course, Enrol, Enrolment, Leave, Offer, Student, school


async def test_a_member_sends_decisions_by_tags_and_gives_the_states_of_boundaries(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(school(store=store, join=True))
        member = await stack.enter_async_context(school(store=store, join=True))
        await member.execute(Offer("c", 2))

        first = await member.execute(Enrol("c", "s"), key="k")
        assert (first.reply, first.stream) == (1, "course:c")
        assert await owner.execute(Enrol("c", "s"), key="k") == first
        assert await member.execute(Enrol("c", "s"), key="k") == first
        sent = [each.execute(Enrol("c", f"t{n}")) for n in range(4) for each in (owner, member)]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(isinstance(answer, Receipt) for answer in answers) == 1
        assert sum(isinstance(answer, Rejected) for answer in answers) == 7
        await member.execute(Leave("c", "s"))

        for engine in (owner, member):
            course = await engine.state(Course, "c")
            assert (course.seats, course.taken, course.version) == (2, 1, 4)
            assert (await engine.state(Student, "s")).courses == 0
            assert not (await engine.state(Enrolment, "c/s")).is_there
            assert (await engine.state(Course, "c", version=2)).taken == 1
    async with Archive(KINDS, store=store) as archive:
        assert (await archive.state(Course, "c")).taken == 1


def release(*tags: str) -> tuple[type[Boundary], Any, Any]:
    """Give a release whose one event has these tags, and which counts by the last one."""

    class Sold(Event, name="sold", tags=tags):
        seat: str
        row: str

    class Sell(Command):
        row: Id
        seat: str

    class Counted(Boundary, tags=tags[-1:], kind="counted"):
        sold: int = 0

        @applies
        def was_sold(self, event: Sold) -> None:
            self.sold += 1

    class Row(Boundary, tags=("row",)):
        sold: int = 0

        @applies
        def was_sold(self, event: Sold) -> None:
            self.sold += 1

    @decides
    def sell(command: Sell, row: Row) -> Sold:
        if row.sold >= 3:
            raise Rejected("full", row.id)
        return Sold(command.seat, command.row)

    def make(store: str, **settings: Any) -> Engine:
        return Engine([Row, Counted], decisions=[sell], store=store, **settings)

    return Counted, Sell, make


async def test_releases_with_other_tags_take_turns_on_one_log(tmp_path: Path) -> None:
    """Each indexes the log by its own tags as it starts, also what the other has written."""
    store = f"sqlite:{tmp_path}/log.db"
    _, old_sell, old = release("row")
    counted, new_sell, new = release("row", "seat")
    async with old(store) as engine:
        await engine.execute(old_sell("r", "a"))
    async with new(store) as engine:
        assert (await engine.state(counted, "a")).sold == 1
        await engine.execute(new_sell("r", "b"))
    async with old(store) as engine:
        await engine.execute(old_sell("r", "b"))
        with pytest.raises(Rejected, match="full"):
            await engine.execute(old_sell("r", "b"))
    async with new(store) as engine:
        assert (await engine.state(counted, "b")).sold == 2
        with pytest.raises(Rejected, match="full"):
            await engine.execute(new_sell("r", "b"))


async def test_releases_with_other_tags_share_a_log(tmp_path: Path) -> None:
    """The owner's tags are in the index: a member does not take another's index for its own."""
    store = f"sqlite:{tmp_path}/log.db"
    _, old_sell, old = release("row")
    counted, new_sell, new = release("row", "seat")
    async with AsyncExitStack() as stack:
        owner = await old(store, join=True).__aenter__()
        member = await stack.enter_async_context(new(store, join=True))
        assert part(member).role == "member"
        await owner.execute(old_sell("r", "a"))
        await member.execute(new_sell("r", "a"))
        with pytest.raises(StreamUnreadable, match="sold version 1 is found by other tags"):
            await member.state(counted, "a")
        await owner.__aexit__(None, None, None)

        await member.execute(new_sell("r", "b"))
        assert part(member).role == "owner"
        assert (await member.state(counted, "a")).sold == 2


class SeatTakenBefore(Event, name="seat-taken", version=1, tags=("row",)):
    row: str


class SeatTaken(Event, name="seat-taken", version=2, tags=("row",)):
    row: str
    paid: bool


@upcasts
def unpaid(event: SeatTakenBefore) -> SeatTaken:
    return SeatTaken(event.row, paid=False)


class TakeBefore(Command):
    row: Id


class Take(Command):
    row: Id


class RowBefore(Boundary, tags=("row",), kind="row"):
    taken: int = 0

    @applies
    def was_taken(self, event: SeatTakenBefore) -> None:
        self.taken += 1


class RowOfSeats(Boundary, tags=("row",), kind="row"):
    taken: int = 0

    @applies
    def was_taken(self, event: SeatTaken) -> None:
        self.taken += 1


@decides
def take_before(command: TakeBefore, row: RowBefore) -> SeatTakenBefore:
    return SeatTakenBefore(command.row)


@decides
def take(command: Take, row: RowOfSeats) -> SeatTaken:
    return SeatTaken(command.row, paid=True)


async def test_a_member_reads_by_tags_while_nobody_has_stored_its_new_version(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    former = Engine([RowBefore], decisions=[take_before], store=store, join=True)
    newer = Engine([RowOfSeats], decisions=[take], upcasters=[unpaid], store=store, join=True)
    async with former as owner, newer as member:
        await owner.execute(TakeBefore("r"))

        assert (await member.state(RowOfSeats, "r")).taken == 1
