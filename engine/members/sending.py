"""What a member sends to the owner of the log, as its telemetry and its numbers have it.

Rules: each command is seen once by the process that sends it, as one that is forwarded, and once by
the process that runs it, as a command. So whoever adds up commands of all processes counts none
twice. What the telemetry gives as headers travels with the command: the owner's part of a trace
hangs on it. A command that this process runs itself is none of these. Without a telemetry a command
costs nothing here, and none is counted. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from ..model.copying import own_copy
from ..model.messages import Command, Envelope, Receipt
from ..statistics import answer_class
from ..telemetry import ForwardBegan, Observation, Observer
from ..write.bulk import Send
from ..write.mailbox import Sent
from ..write.observed import class_of_answer, tell_answer

__all__ = ["Check", "Sending"]

Check = Callable[[Envelope], tuple[Envelope, float | None]]


class _Begun(msgspec.Struct, eq=False):
    """A command on its way to the owner."""

    at: float
    """By the loop's clock."""
    seen: Observation | None


class Sending:
    """Sees the commands that a member forwards. `check` and `around` belong together."""

    def __init__(
        self, check: Check, kinds: Mapping[type[Command], str], watch: Observer | None
    ) -> None:
        """Take what checks a command before it is forwarded, and whom to tell, if anybody."""
        self._check = check
        self._kinds = kinds
        self._is_on = watch is not None
        self._watch = watch if watch is not None and watch.wants_commands else None
        self._begun: _Begun | None = None
        """Between the check of a command and its being sent, which is one step."""
        self._answers: Counter[str] = Counter()
        self.seconds = 0.0
        """Until the answers came, of all that have one."""

    @property
    def answers(self) -> Mapping[str, int]:
        """How many answers there were, by class."""
        return dict(self._answers)

    def check(self, envelope: Envelope, /) -> tuple[Envelope, float | None]:
        """Check a command that is to be forwarded, and begin to watch it."""
        envelope, seconds = self._check(envelope)
        if not self._is_on:
            return envelope, seconds
        seen: Observation | None = None
        if self._watch is not None:
            given = envelope.headers
            began = ForwardBegan(
                own_copy(envelope.command),
                self._kinds[type(envelope.command)],
                envelope.correlation,
                envelope.causation,
                None if given is None else {**given},
            )
            seen = self._watch.begin(began)
            headers = self._watch.headers_of(seen, given)
            if headers is not given:
                envelope = msgspec.structs.replace(envelope, headers=headers)
        self._begun = _Begun(asyncio.get_running_loop().time(), seen)
        return envelope, seconds

    def around(self, send: Send) -> Send:
        """Give what sends as `send` does, and sees what is forwarded."""
        return partial(self._send, send) if self._is_on else send

    def _send(self, send: Send, envelope: Envelope, /) -> Sent:
        try:
            sent = send(envelope)
        except BaseException as error:
            if (begun := self._taken()) is not None:
                self._answers[answer_class(type(error))] += 1
                if self._watch is not None:
                    self._watch.end(begun.seen, error, answer=answer_class(type(error)))
            raise
        if (begun := self._taken()) is not None and isinstance(sent, asyncio.Future):
            sent.add_done_callback(partial(self._answered, begun))
        return sent

    def _taken(self) -> _Begun | None:
        begun, self._begun = self._begun, None
        return begun

    def _answered(self, begun: _Begun, answer: asyncio.Future[Receipt]) -> None:
        self._answers[class_of_answer(answer)] += 1
        self.seconds += answer.get_loop().time() - begun.at
        if self._watch is not None and begun.seen is not None:
            tell_answer(self._watch, begun.seen, answer)
