"""Commands on their way to an actor, and the count of those that have no answer yet.

Rules: what is accepted is answered exactly once, through the intake, which therefore knows when
everything accepted is done. A full mailbox, or a full engine, is said at once. An actor at rest
has no mailbox object: one waiting command stands for itself, a deque is made for the second.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from ..errors import DeadlinePassed, EngineError, Overloaded
from ..model.aggregate import CommandHandler
from ..model.decisions import UniqueValue
from ..model.messages import Envelope, Receipt
from ..model.timers import SetTimers
from ..statistics import IntakeStatistics, answer_class
from ..stores.contract.timers import FiredTimer

__all__ = [
    "Intake",
    "Mail",
    "Origin",
    "Sent",
    "Submit",
    "Together",
    "Waiting",
    "count",
    "take",
    "too_late",
]


class Together(Protocol):
    """A joint decision, as its actors and the journal know it; see `joint`."""

    mail: Mail
    turn: object | None
    """The actor in whose turn it goes on."""
    begun: bool
    """Whether it is being decided, or was."""

    def arrived(self, actor: Any, *, in_turn: bool) -> None:
        """Note that one more of its actors stands still, with nothing undurable."""
        ...

    def take_turn(self) -> None:
        """Go on, in the turn of one of its actors."""
        ...

    def give_up(self, error: EngineError) -> None:
        """Answer with an error, and let all that stand still go on."""
        ...

    def release(self) -> None:
        """Let all that stand still go on: the command has its answer."""
        ...

    def decide_again(self) -> bool:
        """Have it decided anew, as a stream was not where it was read; give whether it will be."""
        ...


class Origin(msgspec.Struct, array_like=True, frozen=True):
    """What a command comes from that a reactor or a timer gave, where others decide it."""

    depth: int = 0
    """How many reactions in a row led to it."""
    led: int = 0
    """The session of who leads."""
    fired: FiredTimer | None = None
    """The timer whose command it is."""


class Mail(msgspec.Struct):
    """One envelope on its way to its actor, with who decides it and the future of its answer."""

    envelope: Envelope
    """The engine's own: all in it was checked, and copied where its caller could change it."""
    handler: CommandHandler
    answer: asyncio.Future[Receipt]
    fingerprint: int | None = None
    """Of a command with a key."""
    seconds: float | None = None
    """Of its deadline, from acceptance; where there is one, `due` and `timer` go with it."""
    due: float = 0.0
    """When that is, by the clock's `monotonic`."""
    timer: asyncio.TimerHandle | None = None
    """Runs while the command waits for its turn."""
    open: bool = False
    """Whether it was accepted and has no answer yet."""
    reply: Any = None
    """What its receipt says that the handler replied."""
    kept: bytes | None = None
    """The same, as it is kept with the key."""
    sealed: str | None = None
    """The fingerprint as it is stored, where the events have personal fields."""
    claims: Sequence[UniqueValue] = ()
    """What its handler claims and releases."""
    joint: Together | None = None
    """Where several aggregates decide it: then it stands in the mailbox of each."""
    depth: int = 0
    """How many reactions in a row led to it."""
    timers: SetTimers | None = None
    """What its handler does to the timers of its aggregate."""
    fired: FiredTimer | None = None
    """The timer whose command it is."""
    wrote: bool = False
    """Whether the events of it were handed on, for a command of a timer."""
    led: int = 0
    """The session of who leads, where he gave it and others decide: it is run while he leads."""

    @property
    def origin(self) -> Origin | None:
        """What the command comes from; None of a caller's."""
        if not self.depth and self.fired is None:
            return None
        return Origin(self.depth, self.led, self.fired)


class Submit(Protocol):
    """Posts mail to its actor: `Reception.take`, or the same with a telemetry that looks on."""

    def __call__(self, mail: Mail, /) -> asyncio.Future[Receipt]:
        """Give the future of the answer; raise, with nothing run, where it cannot be posted."""
        ...


Sent: TypeAlias = asyncio.Future[Receipt] | Coroutine[Any, Any, asyncio.Future[Receipt]]
"""The future of an answer; where a gate is asked first, what waits for it and gives the future."""
Waiting: TypeAlias = Mail | deque[Mail] | None
"""An actor's mailbox: nothing, one command, or several in order."""


def count(waiting: Mail | deque[Mail]) -> int:
    """Give the number of commands that wait."""
    return len(waiting) if isinstance(waiting, deque) else 1


def take(waiting: Mail | deque[Mail]) -> tuple[Mail, Waiting]:
    """Give the first command and the mailbox without it."""
    if not isinstance(waiting, deque):
        return waiting, None
    mail = waiting.popleft()
    return mail, waiting or None


def too_late(mail: Mail, stream: str, why: str) -> DeadlinePassed:
    """Say that a command's time is over; `why` goes on behind its stream."""
    limit = "Limits.handler_seconds" if mail.seconds is None else f"its {mail.seconds:g} s"
    name = type(mail.envelope.command).__name__
    return DeadlinePassed(
        f"{name} for {stream} {why}, and {limit} are over. Nothing was written, and nothing will "
        f"be; send again, with more time."
    )


class Intake:
    """Counts accepted commands, refuses what is too much, and gives each its one answer."""

    __slots__ = (
        "_idle",
        "_limit",
        "_refused",
        "answered",
        "dropped",
        "open",
        "overloaded",
        "repeated",
        "rescue",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle = asyncio.Event()
        self._idle.set()
        self.open = 0
        """Commands that were accepted and have no answer yet."""
        self.answered = 0
        """Commands that had their answer since the start, whatever it was."""
        self.repeated = 0
        """Receipts among them that were those of an earlier command with the same key."""
        self.dropped = 0
        """Commands among them whose caller was cancelled before they were run."""
        self.overloaded = 0
        """Commands that were not accepted because the engine or a mailbox was full."""
        self._refused: dict[type[EngineError], int] = {}
        self.rescue: Callable[[Mail, EngineError], bool] | None = None
        """Takes a refused command over, where another engine can answer it; tells whether so."""

    def check(self) -> None:
        """Raise Overloaded if the engine has all the commands that it may hold."""
        if self.open >= self._limit:
            self.overloaded += 1
            raise Overloaded(
                f"{self.open} commands wait for their answers, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )

    def accepted(self) -> None:
        """Count one more command, or raise with nothing counted; called in the step that posts it.

        It raises only RecursionError, where the caller's stack is used up.
        """
        if self.open == 0:
            self._idle.clear()
        self.open += 1

    def answer(self, mail: Mail, receipt: Receipt) -> None:
        """Answer with a receipt; a caller that was cancelled is not there any more."""
        self._settle(mail)
        if not mail.answer.done():
            mail.answer.set_result(receipt)

    def repeat(self, mail: Mail, receipt: Receipt) -> None:
        """Answer with the receipt of an earlier command with the same key."""
        self.answer(mail, receipt)
        self.repeated += 1

    def refuse(self, mail: Mail, error: EngineError) -> None:
        """Answer with an error."""
        self._settle(mail)
        self._refused[type(error)] = self._refused.get(type(error), 0) + 1
        if mail.answer.done() or (self.rescue is not None and self.rescue(mail, error)):
            return
        mail.answer.set_exception(error)

    def drop(self, mail: Mail) -> None:
        """Let go of a command whose caller was cancelled before it was run."""
        assert mail.answer.done(), "only a caller that left may go without an answer"
        self._settle(mail)
        self.dropped += 1

    def _settle(self, mail: Mail) -> None:
        assert mail.open, "a command has one answer, and this one had it"
        mail.open = False
        if mail.timer is not None:
            mail.timer.cancel()  # it would keep the command until its deadline
        self.open -= 1
        self.answered += 1
        if self.open == 0:
            self._idle.set()

    def statistics(self, overloaded_elsewhere: int = 0) -> IntakeStatistics:
        """Give the numbers as they are now; called from any thread."""
        # The loop may go on meanwhile: a class counts after `answered` and is read before it, so
        # that no class holds an answer that `answered` has not.
        refused, repeated, dropped = self._refused.copy(), self.repeated, self.dropped
        answered, still_open = self.answered, self.open
        # Receipts are the most, and cost nothing here: they are what no other class has.
        receipts = answered - sum(refused.values()) - repeated - dropped
        answers = {"receipt": receipts, "repeated-key": repeated, "cancelled": dropped}
        for error, number in refused.items():
            name = answer_class(error)
            answers[name] = answers.get(name, 0) + number
        return IntakeStatistics(
            accepted=answered + still_open,
            open=still_open,
            answered=answered,
            answers=answers,
            overloaded=self.overloaded + overloaded_elsewhere,
        )

    async def wait_idle(self) -> None:
        """Wait until every accepted command has its answer."""
        while self.open:
            await self._idle.wait()
