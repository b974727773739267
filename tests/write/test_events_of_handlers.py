"""An event is what was encoded of it: what its handler keeps of it changes no state."""

from __future__ import annotations

import msgspec

from engine import Aggregate, Command, Engine, Event, Id, applies, handles

KEPT = [1]


class Keep(Command):
    box: Id


class Kept(Event, name="kept"):
    numbers: list[int]


class Box(Aggregate, kind="box"):
    numbers: list[int] = msgspec.field(default_factory=list)

    @handles
    def keep(self, command: Keep) -> Kept:
        return Kept(KEPT)

    @applies
    def kept(self, event: Kept) -> None:
        self.numbers = event.numbers


async def test_a_handler_that_changes_what_it_returned_changes_no_state() -> None:
    async with Engine([Box]) as engine:
        await engine.execute(Keep("b"))
        KEPT.append(2)
        [actor] = engine._directory.actors
        durable = await engine.state(Box, "b")

        assert actor.state.numbers == durable.numbers == [1]  # type: ignore[attr-defined]
