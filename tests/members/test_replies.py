"""Replies of handlers, as a member's caller gets them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path

import msgspec

from engine import Aggregate, Command, Decision, Engine, Event, Id, Receipt, applies, handles


class Place(msgspec.Struct, frozen=True):
    row: int
    on: date


class Booked(Event, name="booked"):
    on: date


class Book(Command[Place]):
    hall: Id
    on: date


class Hall(Aggregate, kind="hall"):
    taken: int = 0

    @handles
    def book(self, command: Book) -> Decision[Booked, Place]:
        return Decision(Booked(command.on), reply=Place(self.taken + 1, command.on))

    @applies
    def booked(self, event: Booked) -> None:
        self.taken += 1


async def test_a_reply_arrives_as_it_was_given_also_again(tmp_path: Path) -> None:
    def make() -> Engine:
        return Engine([Hall], store=f"sqlite:{tmp_path}/log.db", join=True)

    day = date(2026, 11, 29)
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(make())
        member = await stack.enter_async_context(make())

        first = await member.execute(Book("a", day), key="k")
        assert first == Receipt("hall:a", 1, 1, Place(1, day))
        assert first.reply.on == day
        assert await member.execute(Book("a", day), key="k") == first
        assert await owner.execute(Book("a", day), key="k") == first
        assert (await member.execute(Book("a", day))).reply == Place(2, day)
