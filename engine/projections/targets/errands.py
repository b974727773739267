"""The errands of a reactor: the commands that follow from events, executed.

Rules: events of one key form a lane. In a lane each command waits for the receipt of the one
before, and each event for the one before; lanes do not wait for each other, and a bounded number is
under way. What the engine has no room for, and what was voided or left unknown, is sent again with
its key, after a pause, for as long as the engine runs: no event is to blame. Rejected is an
outcome. Any other failure stops its lane there, and is the event's. Nothing new is begun while it
rests, or when the engine stops; what is accepted goes to its end. This file knows no checkpoint,
and decides nothing about what has failed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from ...errors import Closed, Conflict, EngineFailed, OutcomeUnknown, Overloaded, Rejected, Voided
from ...model.messages import Command, Envelope, Event, Meta, Receipt
from ...model.stored import StoredEvent
from ...runtime.bell import Bell
from ...runtime.contained import contained
from .courier import Abandoned

__all__ = ["Errand", "Errands", "Post", "SendReaction"]

SECONDS: Final = 0.02
SECONDS_MAX: Final = 0.5
"""How long a lane waits before it sends a command again: doubled each time, up to this."""
_DOUBLINGS_MAX: Final = 8
_WAITED_FOR: Final = (Overloaded, Voided, Conflict, OutcomeUnknown)
"""Answers of a command that is sent again with its key, whatever is said of its event."""

Sent: TypeAlias = "asyncio.Future[Receipt] | Coroutine[Any, Any, asyncio.Future[Receipt]]"


class SendReaction(Protocol):
    """Sends a command into the engine: `Reception.send`."""

    def __call__(self, envelope: Envelope, /, depth: int) -> Sent:
        """Give the future of its answer, or what is awaited for that; raise, with nothing run."""
        ...


class Post(msgspec.Struct):
    """A command on its way."""

    envelope: Envelope
    depth: int


class Errand(msgspec.Struct):
    """One event, and how far what follows from it has come."""

    stored: StoredEvent
    event: Event
    meta: Meta
    key: str
    """Of its lane."""
    commands: tuple[Command, ...] | None = None
    """What its reaction gave; None before it ran."""
    place: int = 0
    """Of the command that is next."""
    follows: Command | None = None
    """What follows the rejection of that command, and is to be sent in its place."""
    tries: int = 0
    """How often that was sent in vain."""
    error: Exception | None = None


class Desk(Protocol):
    """What says what is to be sent for an errand, and hears what became of it."""

    def next_post(self, errand: Errand) -> Post | None:
        """Give what to send next; None where all is done. Raises what is wrong with the event."""
        ...

    def received(self, errand: Errand) -> None:
        """Note that what was sent has its receipt."""
        ...

    def rejected(self, errand: Errand, rejection: Rejected) -> None:
        """Note that what was sent was rejected."""
        ...

    def waits(self) -> None:
        """Note that something is sent again later."""
        ...

    def done(self, errand: Errand) -> None:
        """Note that all is done because of an event."""
        ...


class Errands:
    """Executes what follows from events, lane by lane, while it does not rest."""

    def __init__(
        self, desk: Desk, send: SendReaction, lanes_max: int, is_ending: Callable[[], bool]
    ) -> None:
        """Take who knows what to send, and how many lanes are under way at a time."""
        self._desk = desk
        self._send = send
        self._lanes_max = lanes_max
        self._is_ending = is_ending
        self._lanes: dict[str, deque[Errand]] = {}
        """What is not done, by key; a lane whose first errand has failed stays as it is."""
        self._ready: deque[str] = deque()
        """Lanes that can go on, and are not under way."""
        self.under_way = 0
        self._rests = True
        self._at_gate: dict[Coroutine[Any, Any, Any], asyncio.Future[Receipt]] = {}
        """Commands that `authorize` has not let in."""
        self.changed = Bell()
        """Set when an errand is done or has failed, and when nothing is under way any more."""

    def add(self, errand: Errand) -> None:
        """Put an errand behind those of its lane."""
        lane = self._lanes.get(errand.key)
        if lane is None:
            lane = self._lanes[errand.key] = deque()
            self._ready.append(errand.key)
        lane.append(errand)

    def drop(self, key: str) -> None:
        """Let go of a lane, which has failed."""
        self._lanes.pop(key, None)

    def go_on(self) -> None:
        """Begin what can begin."""
        self._rests = False
        while self._ready and self.under_way < self._lanes_max and not self._is_ending():
            self.under_way += self._advance(self._ready.popleft())

    def rest(self) -> None:
        """Begin no more events until it is to go on."""
        self._rests = True

    def give_up(self) -> None:
        """Let go of what waits for `authorize`, which nobody has accepted: the engine stops."""
        for waiting in tuple(self._at_gate.values()):
            waiting.cancel()

    async def clear(self) -> None:
        """Let what is under way end, and forget the rest."""
        self._rests = True
        while self.under_way:
            self.changed.clear()
            await self.changed.wait()
        self._lanes.clear()
        self._ready.clear()

    def _advance(self, key: str) -> bool:
        """Send the next command of a lane; tell whether something of it is under way."""
        lane = self._lanes.get(key)
        while lane:
            errand = lane[0]
            if errand.commands is None and (self._rests or self._is_ending()):
                self._ready.append(key)
                return False
            try:
                post = self._desk.next_post(errand)
                sent = None if post is None else self._send(post.envelope, post.depth)
            except BaseException as raised:
                return self._failed(errand, contained(raised))
            if sent is not None:
                future = sent if isinstance(sent, asyncio.Future) else self._admitted(sent)
                future.add_done_callback(partial(self._answered, errand))
                return True
            lane.popleft()
            self._desk.done(errand)
            self.changed.set()
        self._lanes.pop(key, None)
        return False

    def _admitted(
        self, sent: Coroutine[Any, Any, asyncio.Future[Receipt]]
    ) -> asyncio.Future[Receipt]:
        """Give the future of a command that waits for the gate."""
        has_passed = False

        async def admitted() -> Receipt:
            nonlocal has_passed
            try:
                answer = await sent
            finally:
                has_passed = True
                self._at_gate.pop(sent, None)
            return await answer

        task = asyncio.ensure_future(admitted())
        if not has_passed:  # already, where the host starts tasks eagerly
            self._at_gate[sent] = task
        return task

    def _answered(self, errand: Errand, answer: asyncio.Future[Receipt]) -> None:
        """Go on behind an answer."""
        error = Closed("it was cancelled") if answer.cancelled() else answer.exception()
        try:
            if error is None:
                errand.tries = 0
                self._desk.received(errand)
            elif isinstance(error, Rejected):
                errand.tries = 0
                self._desk.rejected(errand, error)
            else:
                self._leave(self._failed(errand, contained(error)))
                return
        except BaseException as raised:  # of the host's code
            self._leave(self._failed(errand, contained(raised)))
            return
        self._go_on_with(errand.key)

    def _go_on_with(self, key: str) -> None:
        self._leave(self._advance(key))

    def _failed(self, errand: Errand, error: Exception) -> bool:
        """Take a failure: tell whether it is waited for, or else note it at its errand."""
        # Where others decide too, nobody may have the aggregate at this moment.
        elsewhere = isinstance(error, Closed) and not self._is_ending()
        if isinstance(error, (Closed, EngineFailed)) and not elsewhere:
            stops = "the engine stops, and what follows from an event is made at the next start"
            error = Abandoned(stops)
        elif elsewhere or isinstance(error, _WAITED_FOR):
            seconds = min(SECONDS * 2.0 ** min(errand.tries, _DOUBLINGS_MAX), SECONDS_MAX)
            errand.tries += 1
            self._desk.waits()
            loop = asyncio.get_running_loop()
            loop.call_later(seconds, self._go_on_with, errand.key)
            return True
        errand.error = error
        self.changed.set()
        return False

    def _leave(self, is_under_way: bool) -> None:
        """Let the next lane begin where one has come to its end, or stands."""
        if is_under_way:
            return
        self.under_way -= 1
        if not self._rests:
            self.go_on()
        if not self.under_way:
            self.changed.set()
