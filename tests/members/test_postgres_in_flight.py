"""What timers and reactors had in flight as an owner lost its log: the next owner makes it anew.

It goes to nobody as an ordinary command, which would be run beside what the next owner finds in the
log. The handler of that command waits here until its owner has lost the log, so it is in flight
then, whatever the machine does.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    EngineError,
    Event,
    Id,
    Reactor,
    applies,
    handles,
    reacts,
)
from engine.members.forwarding import Forwarding
from engine.stores.postgres.address import read_address
from engine.write.mailbox import Mail
from tests.support.postgres import Server, asked
from tests.support.waiting import until


class Wind(Command):
    clock: Id
    seconds: float


class Strike(Command):
    clock: Id


class Wound(Event, name="clock-wound"):
    pass


class Struck(Event, name="clock-struck"):
    pass


class Hand:
    """Of one engine: holds up who strikes."""

    def __init__(self, *, holds: bool) -> None:
        self.strikes = 0
        self.free = asyncio.Event()
        if not holds:
            self.free.set()


class Clock(Aggregate, kind="clock"):
    @handles
    def wind(self, command: Wind) -> Decision[Wound]:
        if not command.seconds:
            return Decision(Wound())
        return Decision(Wound(), timers=[After(Strike(self.id), "strike", seconds=command.seconds)])

    @handles
    async def strike(self, command: Strike, hand: Hand) -> Struck:
        hand.strikes += 1
        await hand.free.wait()
        return Struck()

    @applies
    def wound(self, event: Wound) -> None: ...

    @applies
    def struck(self, event: Struck) -> None: ...


class Striking(Reactor, name="striking", begins="start"):
    @reacts
    def wound(self, event: Wound) -> Strike:
        return Strike("tower")


def wiring_of(engine: Engine) -> object:
    """Give the engine of one term of an owner; None while it is a member."""
    return engine._joined._wiring  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("reactors", "seconds", "key"),
    [([], 0.001, "timer:1:strike"), ([Striking], 0.0, "reaction:striking:1:0")],
    ids=["timer", "reactor"],
)
async def test_it_is_made_by_the_next_owner_and_sent_on_by_nobody(
    postgres: Server,
    monkeypatch: pytest.MonkeyPatch,
    reactors: list[type[Reactor]],
    seconds: float,
    key: str,
) -> None:
    log = postgres.url(postgres.new_schema(), "lease=1")
    sent_on: list[Mail] = []

    def rescue(_: Forwarding, mail: Mail, error: EngineError) -> bool:
        sent_on.append(mail)
        return False

    monkeypatch.setattr(Forwarding, "rescue", rescue)
    hands = [Hand(holds=True), Hand(holds=False)]
    async with AsyncExitStack() as stack:
        owner, member = [
            Engine([Clock], projections=reactors, store=log, join=True, resources={Hand: hand})
            for hand in hands
        ]
        for engine in (owner, member):
            await stack.enter_async_context(engine)
        first = wiring_of(owner)
        await owner.execute(Wind("a", seconds))
        await until(lambda: hands[0].strikes == 1)

        await asked(postgres, f"SELECT {read_address(log).schema}.end_session_1(1)")
        # It hears of it as it renews, or by this.
        hearing = asyncio.ensure_future(owner.execute(Wind("b", 0.0)))
        await until(lambda: wiring_of(owner) is not first)
        hands[0].free.set()  # either may be the next owner
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        async with aclosing(member.feed(follow=True, names=["clock-struck"])) as feed:
            found: Any = (await anext(feed)).meta

    assert found.key == key
    assert Strike not in [type(mail.envelope.command) for mail in sent_on]
