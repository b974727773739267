"""Replies of classes of the host's, whose code raises as they are read again with their key."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec
import pytest

from engine import (
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    applies,
    handles,
)


class Ticket(msgspec.Struct):
    number: int

    fails_with: ClassVar[type[BaseException] | None] = None

    def __post_init__(self) -> None:
        if Ticket.fails_with is not None:
            raise Ticket.fails_with


class Draw(Command[Ticket]):
    drawer: Id


class Drawn(Event, name="drawn"):
    pass


class Drawer(Aggregate, kind="drawer"):
    @handles
    def draw(self, command: Draw) -> Decision[Drawn, Ticket]:
        return Decision(Drawn(), reply=Ticket(self.version))

    @applies
    def drawn(self, event: Drawn) -> None:
        pass


@pytest.mark.parametrize(
    "raised", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
async def test_a_reply_that_cannot_be_read_again_fails_its_repetition_alone(
    raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Engine([Drawer]) as engine:
        first = await engine.execute(Draw("a"), key="k")
        with monkeypatch.context() as patch:
            patch.setattr(Ticket, "fails_with", raised)
            with pytest.raises(HandlerFailed, match="was run before"):
                await engine.execute(Draw("a"), key="k")

        assert await engine.execute(Draw("a"), key="k") == first
        assert (await engine.execute(Draw("b"))).version == 1
