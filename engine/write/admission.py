"""Commands that wait for the gate: each passes behind those sent before it to the same aggregate.

Rules: however long `authorize` takes for one command, those of one principal to one aggregate are
posted in the order in which they were sent, and each within its deadline. No more wait than
`Limits.commands_accepted`. What is denied is posted nowhere. A hook that sends a command into the
line of the one that it is asked about is refused: each would wait for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Sequence
from contextvars import ContextVar
from typing import Final

from ..authorization import Gate
from ..errors import DeadlinePassed, Overloaded, UsageError
from ..limits import Limits
from ..model.messages import Receipt
from ..runtime.ports import Clock
from .mailbox import Mail, Submit, too_late

__all__ = ["Admission"]


class _Question:
    """One command that the hook is asked about."""

    __slots__ = ("admission", "is_answered", "lines", "outer")

    def __init__(
        self, admission: Admission, lines: Sequence[Hashable], outer: _Question | None
    ) -> None:
        self.admission = admission
        self.lines = lines
        self.outer = outer
        """The one whose hook has sent this command."""
        self.is_answered = False

    def waits_for(self, admission: Admission, lines: Sequence[Hashable]) -> bool:
        """Tell whether this or an outer one has no answer yet, and stands in one of those lines."""
        meets = any(line in self.lines for line in lines)
        stands = self.admission is admission and meets and not self.is_answered
        return stands or (self.outer is not None and self.outer.waits_for(admission, lines))


_ASKED: Final[ContextVar[_Question | None]] = ContextVar("foldline_question", default=None)
"""What the hook is asked in whose task, or in a task begun there, this code runs."""


class Admission:
    """Lets the commands of one engine through its gate, in their order."""

    def __init__(self, gate: Gate, clock: Clock, limits: Limits) -> None:
        self._gate = gate
        self._clock = clock
        self._waiting_max = limits.commands_accepted
        self._waiting = 0
        """Commands that the hook keeps waiting."""
        self._lines: dict[Hashable, asyncio.Future[None]] = {}
        """The last command of each line that waits; done when it and all before it have passed."""

    async def admit(
        self, mail: Mail, lines: Sequence[Hashable], post: Submit
    ) -> asyncio.Future[Receipt]:
        """Ask for a command, and post it behind those that were sent before it in its lines.

        Raises Forbidden, DeadlinePassed, Overloaded, and what `post` raises.
        """
        if self._waiting >= self._waiting_max:
            raise Overloaded(
                f"{self._waiting} commands wait for authorize, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )
        outer = _ASKED.get()
        if outer is not None and outer.waits_for(self, lines):
            raise _waits_for_itself(mail)
        begun = 0.0 if mail.seconds is None else self._clock.monotonic()
        answer = self._gate.ask(mail.envelope.principal, "execute", mail.envelope.command)
        if answer is not None or any(line in self._lines for line in lines):
            await self._stand_in_line(mail, _Question(self, lines, outer), answer)
        self._take_off(mail, begun)
        return post(mail)

    async def _stand_in_line(
        self, mail: Mail, question: _Question, answer: Awaitable[object] | None
    ) -> None:
        """Return when the hook has said yes and those before have passed."""
        lines = question.lines
        _ASKED.set(question)
        before = [self._lines[line] for line in lines if line in self._lines]
        own = asyncio.get_running_loop().create_future()
        self._lines.update(dict.fromkeys(lines, own))
        self._waiting += 1
        try:
            await self._pass(mail, question, answer, before)
        finally:
            question.is_answered = True
            _ASKED.set(question.outer)  # no token: who leaves may end this in another context
            self._waiting -= 1
            # Whoever is refused or leaves lets nobody behind him overtake who is before him.
            self._leave_behind(before, lines, own)

    async def _pass(
        self,
        mail: Mail,
        question: _Question,
        answer: Awaitable[object] | None,
        before: Sequence[asyncio.Future[None]],
    ) -> None:
        """Return when the hook has said yes and those before have passed, within the deadline."""
        principal, command = mail.envelope.principal, mail.envelope.command
        try:
            async with asyncio.timeout(mail.seconds):
                if answer is not None:
                    await self._gate.hear(answer, principal, "execute", command)
                    question.is_answered = True
                for each in before:
                    await asyncio.shield(each)
        except TimeoutError:
            raise _too_late(mail) from None

    def _take_off(self, mail: Mail, begun: float) -> None:
        """Let a deadline count from `begun`; raise DeadlinePassed where it is over."""
        if mail.seconds is not None:
            spent = self._clock.monotonic() - begun
            if spent >= mail.seconds:
                raise _too_late(mail)
            mail.seconds -= spent

    def _leave_behind(
        self,
        before: Sequence[asyncio.Future[None]],
        lines: Sequence[Hashable],
        own: asyncio.Future[None],
    ) -> None:
        """Leave the lines when those before have left them."""
        waiting = [each for each in before if not each.done()]
        if waiting:
            waiting[0].add_done_callback(lambda _: self._leave_behind(waiting[1:], lines, own))
            return
        for line in lines:
            if self._lines.get(line) is own:
                del self._lines[line]
        if not own.done():
            own.set_result(None)


def _too_late(mail: Mail) -> DeadlinePassed:
    return too_late(mail, "its aggregate", "waited for authorize")


def _waits_for_itself(mail: Mail) -> UsageError:
    name = type(mail.envelope.command).__name__
    return UsageError(
        f"authorize sends {name} to the aggregate that it is asked about, for the same principal: "
        f"each would wait for the other. Answer first and send it then, or send it for another "
        f"principal. Nothing was run."
    )
