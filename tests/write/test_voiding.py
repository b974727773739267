"""What a journal voids is of an actor, and not of all that a stream ever had."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from engine import Engine, Limits, Ports, StoreFailed, Voided
from engine.model.messages import Envelope
from engine.model.stored import StoredEvent
from engine.stores.contract.log import Batch, Committed, Write
from engine.stores.memory import MemoryStore
from engine.write.entries import Entry, EntryPart
from engine.write.journal import Journal
from engine.write.mailbox import Intake, Mail
from engine.write.snapshot import Frozen
from tests.support.counters import Add, Counter


class Standing:
    """An actor as a journal knows it."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.incarnation = 0
        self.position = 0

    def settled(self, entry: Entry, position: int) -> None:
        """Go on: nothing is settled here."""

    def seal(self, frozen: Frozen, event: StoredEvent) -> None:
        """Keep no snapshot."""

    def voided(self) -> None:
        """Count."""
        self.incarnation += 1


def part(owner: Standing) -> EntryPart:
    return EntryPart(owner, 0, Write(owner.stream, 0, ()), 0, None)


class Gathering:
    """A journal that gathers, and what waits for it."""

    def __init__(self) -> None:
        self.intake = Intake(100)
        ports, logger = Ports(), logging.getLogger("foldline")
        self.journal = Journal(
            *(MemoryStore(), self.intake, Limits(), ports),
            publish=lambda _: None,
            room_again=lambda: None,
            logger=logger,
        )

    def submit(self, first: Standing, *others: Standing) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        handler: Any = None
        mail = Mail(Envelope(command=Add("c", 1)), handler, answer)
        mail.open = True
        self.intake.accepted()
        parties = tuple((owner.stream, 0, 0) for owner in (first, *others)) if others else ()
        place = first, 0, Write(first.stream, 0, ()), 0, None
        parts = [part(owner) for owner in others]
        self.journal.submit(Entry(*place, mail, 1, 1, None, parts, parties))
        return answer


async def test_a_stream_that_was_let_go_takes_nothing_of_its_next_actor_with_it() -> None:
    """Both wrote to one stream: the first as its batch was with the store, the second behind it."""
    gathering = Gathering()
    former, later, beside = Standing("c:1"), Standing("c:1"), Standing("c:2")
    together, alone = gathering.submit(later, beside), gathering.submit(Standing("c:1"))

    gathering.journal._void_owners([former], None)

    assert (former.incarnation, later.incarnation, beside.incarnation) == (1, 0, 0)
    assert not together.done()
    assert not alone.done()


async def test_who_stands_still_for_a_void_decision_goes_on() -> None:
    """All that it was decided on are told, whichever of them it is that is void."""
    for voided in (0, 1):
        gathering = Gathering()
        both = Standing("c:1"), Standing("c:2")
        answer = gathering.submit(*both)

        gathering.journal._void_owners([both[voided]], None)

        assert isinstance(answer.exception(), Voided)
        assert [one.incarnation for one in both] == [1, 1]


class Full(MemoryStore):
    """A store that has no room."""

    async def append(self, batch: Batch) -> Committed:
        raise StoreFailed("there is no room. Make some.", written=False, passes=True)


async def test_what_the_store_says_ends_with_one_full_stop() -> None:
    async with Engine([Counter], store=Full()) as engine:
        with pytest.raises(Voided, match=r"Make some\. Nothing was written; send again\.$"):
            await engine.execute(Add("c", 1))
