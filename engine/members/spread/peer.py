"""The line of one owner to another, and the commands that it has there.

Rules: a line is made anew as long as the other one is a member. When it breaks, what was sent and
has no key is unknown to its caller; everything else goes back to whoever finds the owner of it now.
Who answers must be the member that was looked for, of the same log. A process whose folder shows
that it is dead is declared so at once. A line on which one who lives says nothing to who waits for
it is given up: a network may drop what passes, and tell nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from ...errors import EngineError, StoreRefused
from ...runtime.futures import retrieve
from ...runtime.machine import process_number
from ...runtime.safely import described
from ...stores.contract.membership import Present
from ..forwarding import PATIENCE_SECONDS, Forwarding
from ..hearing import LOOKS, Hearing
from ..readable import Reader
from ..wire import PROTOCOL, Hello, Leaving, Left, Line, Message, Refused, Welcome

__all__ = ["Meets", "Peer"]

_REST_SECONDS: Final = 0.05
"""Between two tries to connect."""
_TRIES: Final = 20
"""To connect, before it is said that this fails."""
_WELCOME_SECONDS: Final = 2.0


class Meets(Protocol):
    """How other members are met."""

    patience_seconds: float
    """For how long one waits for a database that has gone."""

    async def connect_at(self, address: str, line: Line) -> str:
        """Connect; give the token to show. Raises OSError, StoreFailed and StoreRefused."""
        ...

    def is_dead_at(self, address: str) -> bool:
        """Tell whether the process that had this address is dead for certain."""
        ...


class Peer:
    """Another member, as this one knows it."""

    def __init__(
        self,
        there: Present,
        meets: Meets,
        forwarding: Forwarding,
        log_id: str,
        connected: Callable[[], None],
        strike: Callable[[int], Awaitable[None]],
        logger: logging.Logger,
    ) -> None:
        self.there = there
        self.reader = Reader(there.holder, None)
        """What it has said that it reads."""
        self.forwarding = forwarding
        self._meets = meets
        self._log_id = log_id
        self._connected = connected
        self._strike = strike
        self._logger = logger
        self._tries = 0
        """In vain, one after the other."""
        self._task = asyncio.create_task(self._run(), name="foldline peer")
        self._task.add_done_callback(retrieve)

    def close(self) -> asyncio.Task[None]:
        """End the line, and give back what has no answer; give the task that ends it."""
        self._task.cancel()
        self.forwarding.lost(gone=False)
        return asyncio.create_task(self._end(), name="foldline peer ends")

    async def _end(self) -> None:
        """Cancel what goes on until it ends: what connects may take that for a failure."""
        while not self._task.done():
            await asyncio.wait([self._task], timeout=_REST_SECONDS)
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                if self._meets.is_dead_at(self.there.address):
                    await self._strike(self.there.member)
                else:
                    await self._meet()
            except (OSError, EngineError) as error:
                self._tries += 1
                if self._tries == _TRIES:
                    self._logger.warning(
                        "%s cannot be joined: %s", self.there.holder, described(error)
                    )
            await asyncio.sleep(_REST_SECONDS)

    async def _meet(self) -> None:
        lost = asyncio.Event()
        welcomed: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        welcomed.add_done_callback(retrieve)

        def receive(line: Line, message: Message) -> None:
            self._receive(line, message, welcomed)

        line = Line(receive, lambda _: lost.set())
        try:
            token = await self._meets.connect_at(self.there.address, line)
            clock = asyncio.get_running_loop().time()
            line.send(Hello(PROTOCOL, process_number(), clock, token))
            gone = asyncio.ensure_future(lost.wait())
            try:
                waits: list[asyncio.Future[Any]] = [gone, welcomed]
                await asyncio.wait(
                    waits, timeout=_WELCOME_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if welcomed.done() and self._is_it(welcomed.result()):
                    self._tries = 0
                    said = welcomed.result()
                    who = f"{self.there.holder} of release {said.release!r}"
                    self.reader = Reader(who, said.reads)
                    self.forwarding.connected(line)
                    self._connected()
                    await self._listen(line, gone)
            finally:
                gone.cancel()
        finally:
            self.forwarding.lost(gone=False)
            line.close()

    async def _listen(self, line: Line, gone: asyncio.Future[Any]) -> None:
        """Return when the line is gone, or the other end is as silent as if it was."""
        hearing = Hearing(line, lambda: self.forwarding.is_waiting)
        while not gone.done():
            look = asyncio.ensure_future(hearing.look(PATIENCE_SECONDS / LOOKS))
            try:
                await asyncio.wait([gone, look], return_when=asyncio.FIRST_COMPLETED)
            finally:
                look.cancel()
            if hearing.is_silent:
                self._logger.warning(
                    "%s has said nothing for %g s: its event loop is blocked, or the way to it is "
                    "cut. Its line is made again",
                    *(self.there.holder, PATIENCE_SECONDS),
                )
                line.abort()
                return

    def _is_it(self, welcome: Welcome) -> bool:
        if welcome.protocol != PROTOCOL:
            raise StoreRefused(
                f"process {welcome.process} speaks protocol {welcome.protocol}, and this release "
                f"{PROTOCOL}: run one release"
            )
        return (welcome.session, welcome.log_id) == (self.there.member, self._log_id)

    def _receive(self, line: Line, message: Message, welcomed: asyncio.Future[Welcome]) -> None:
        if isinstance(message, Welcome):
            if not welcomed.done():
                welcomed.set_result(message)
        elif isinstance(message, Refused):
            if not welcomed.done():
                welcomed.set_exception(StoreRefused(f"it lets nobody join: {message.why}"))
        elif isinstance(message, Leaving):
            self.forwarding.hold()
            line.send(Left())
        else:
            try:
                self.forwarding.received(message)
            except Exception as error:
                self._logger.error("an answer is malformed: %s", described(error))
                line.abort()
