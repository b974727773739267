"""An owner whose answers a test gives, and one end of a line to it, over any way to an owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from engine import Envelope, Receipt, Rejected
from engine.members.forms import CommandForms
from engine.members.listening import read_listen
from engine.members.meeting import LeaseMeeting
from engine.members.releases import Release
from engine.members.serving import Serving
from engine.members.wire import (
    PROTOCOL,
    Hello,
    Line,
    Message,
    Sent,
)
from engine.stores.contract.meeting import Listed, Owned
from tests.support.counters import Add
from tests.support.waiting import until

TOKEN = "a-token-of-this-test"
FORMS = CommandForms({Add: "counter"})


class Desk:
    """What a database says of the owner, in memory; and the store that takes the log there."""

    name = "a log"
    lease_seconds = 1.0
    patience_seconds = 1.0
    session = 7

    def __init__(self) -> None:
        self.address = ""
        self.seconds_left = 60.0
        self.struck: list[int] = []

    def announce(self, address: str) -> None:
        self.address = address

    async def owner(self) -> Owned | None:
        if not self.address:
            return None
        return Owned(self.session, "log", "process 1 on a", self.address, self.seconds_left)

    async def members(self) -> Sequence[Listed]:
        return ()

    async def strike(self, session: int) -> None:
        self.struck.append(session)

    async def close(self) -> None:
        pass


class Owner:
    """An owner that counts, and whose answers the test gives."""

    def __init__(self, listen: str | None, member: str | None, only: str) -> None:
        self.desk = Desk()
        self.run: list[Envelope] = []
        self.meeting = self._meeting(listen)
        self.joining = self._meeting(member)
        self._only = only

    def _meeting(self, listen: str | None) -> LeaseMeeting:
        return LeaseMeeting(self.desk, None if listen is None else read_listen(listen))

    def send(self, envelope: Envelope, _: object, /) -> asyncio.Future[Receipt]:
        self.run.append(envelope)
        answer: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        command = cast("Add", envelope.command)
        if command.amount < 0:
            answer.set_exception(Rejected("negative", "no", amount=command.amount))
        else:
            answer.set_result(Receipt(f"counter:{command.counter_id}", len(self.run), 1))
        return answer

    @asynccontextmanager
    async def open(self, **changed: Any) -> AsyncGenerator[Owner]:
        await self.meeting.prepare(cast("Any", self.desk))
        places = self.desk.address.split()
        self.desk.address = next(place for place in places if place.startswith(self._only))
        options: dict[str, Any] = {
            "log_id": "log",
            "session": self.desk.session,
            "send": self.send,
            "projections": cast("Any", None),
            "facts": cast("Any", None),
            "logger": logging.getLogger("foldline"),
            "release": Release("a", {}, {}),
            "is_owner": lambda: True,
            "is_another_ones": lambda _: False,
        } | changed
        self.serving = Serving(self.meeting, FORMS, **options)
        await self.serving.open()
        exchange = self.meeting._exchange
        await until(lambda: exchange is None or exchange.is_met)
        try:
            yield self
        finally:
            self.serving.leave()
            await self.serving.close()


class Member:
    """One end of a line, for what a member would send, and for what none would."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.lost = asyncio.Event()
        self.line = Line(lambda _, message: self.got.append(message), lambda _: self.lost.set())

    async def join(self, owner: Owner, protocol: int = PROTOCOL) -> Member:
        token = await owner.joining.connect(self.line)
        self.line.send(Hello(protocol, 1, 0.0, token))
        return self

    def write(self, data: bytes) -> None:
        assert self.line._transport is not None
        self.line._transport.write(data)

    async def answered(self, count: int) -> list[Message]:
        await until(lambda: len(self.got) >= count or self.lost.is_set())
        return self.got

    async def ended(self) -> list[Message]:
        await asyncio.wait_for(self.lost.wait(), 60)
        return self.got


def sent(number: int, amount: int = 1, key: str | None = None) -> Sent:
    name, body = FORMS.encode(Add("c", amount))
    return Sent(number, name, body, key, None, None, None, None, None, None)
