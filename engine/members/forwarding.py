"""A member's side: commands on their way to the owner of the log, and their answers.

Rules: a command is sent to one owner at a time. If the line breaks before its answer, it goes to
the next owner if it has a key or was surely not run; else nobody knows, and its caller is told so
(OutcomeUnknown). What an owner that stops has refused goes to the next one. Where this process
becomes the owner, what waits is run here. Commands wait for an owner only so long as the patience;
those that are given up meanwhile by their callers are not sent. Their number is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from ..errors import Closed, DeadlinePassed, EngineError, OutcomeUnknown, Overloaded
from ..limits import Limits
from ..model.messages import Command, Envelope, Receipt, reply_of
from ..runtime.futures import retrieve
from ..write.bulk import Send
from ..write.mailbox import Sent
from . import wire
from .forms import CommandForms, decode_values, encode_values, error_of
from .wire import Called, Done, Failed, Line, Message, Told

__all__ = ["PATIENCE_SECONDS", "Forwarding"]

T = TypeVar("T")

PATIENCE_SECONDS: Final = 10.0
"""How long a command waits for a process that owns the log."""


class _Waiting(msgspec.Struct, eq=False):
    """A command without an answer."""

    envelope: Envelope
    name: str
    body: bytes
    answer: asyncio.Future[Receipt]
    until: float | None
    """By the loop's clock, where it has a deadline."""
    sent: bool = False
    """Whether an owner may have run it."""


class Forwarding:
    """The commands and calls of one member."""

    def __init__(
        self,
        check: Callable[[Envelope], tuple[Envelope, float | None]],
        check_usable: Callable[[], asyncio.AbstractEventLoop],
        forms: CommandForms,
        limits: Limits,
    ) -> None:
        self._check = check
        self._check_usable = check_usable
        self._forms = forms
        self._commands_max = limits.commands_accepted
        self._own: Send | None = None
        """Where this process owns the log: how its own engine takes a command."""
        self._line: Line | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._patience: asyncio.TimerHandle | None = None
        self._given_up = False
        """Whether nobody owned the log for longer than the patience."""
        self.forwarded = 0
        """Commands that were sent to another process."""

    # -- what callers do ----------------------------------------------------------------------

    def send(self, envelope: Envelope, /) -> Sent:
        """Take a command; give the future of its answer. Raises as `Reception.send` does."""
        if self._own is not None:
            return self._own(envelope)
        loop = self._check_usable()
        envelope, seconds = self._check(envelope)
        if len(self._waiting) >= self._commands_max:
            raise Overloaded(
                f"{len(self._waiting)} commands wait for the process that owns the log, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )
        if self._given_up:
            raise _nobody()
        name, body = self._forms.encode(envelope.command)
        until = None if seconds is None else loop.time() + seconds
        waiting = _Waiting(envelope, name, body, loop.create_future(), until)
        number = self._next()
        self._waiting[number] = waiting
        if seconds is not None:
            loop.call_later(seconds, self._expire, number)
        if self._line is not None:
            self._post(number, waiting)
        return waiting.answer

    async def call(self, method: str, as_type: type[T], /, **values: object) -> T:
        """Have the owner do something with its projections; give what it told."""
        loop = self._check_usable()
        if self._line is None:
            raise _nobody()
        number, told = self._next(), loop.create_future()
        self._calls[number] = told
        self._line.send(Called(number, method, encode_values(values)))
        try:
            return decode_values(await told, as_type)
        finally:
            self._calls.pop(number, None)

    def _next(self) -> int:
        self._number += 1
        return self._number

    # -- owners that come and go --------------------------------------------------------------

    def connected(self, line: Line) -> None:
        """Send all that waits to an owner, and what comes from now on."""
        self._found()
        self._line = line
        for number, waiting in [*self._waiting.items()]:
            self._post(number, waiting)

    def hold(self) -> None:
        """Send nothing more to an owner that leaves; it still answers what it was sent."""
        self._line = None

    def lost(self, *, gone: bool = True) -> None:
        """Note that the owner is gone; what can be sent again waits for the next one."""
        self._line = None
        for number, waiting in [*self._waiting.items()]:
            if waiting.sent and waiting.envelope.key is None:
                self._fail(number, _lost())
        for told in self._calls.values():
            _settle(told, OutcomeUnknown("the process that owned the log has gone: ask again"))
        if self._patience is None and gone:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE_SECONDS, self._give_up)

    def adopt(self, send: Send) -> None:
        """Run all that waits here, and what comes from now on: this process owns the log."""
        self._found()
        self._own = send
        for number, waiting in [*self._waiting.items()]:
            self._waiting.pop(number)
            if not waiting.answer.done():
                self._run_here(waiting, send)

    def end(self, why: str) -> None:
        """Answer all that waits, as this process leaves; nothing more is sent."""
        self._own = None
        if self._patience is not None:
            self._patience.cancel()
        self.lost(gone=False)
        for number, waiting in [*self._waiting.items()]:
            self._fail(number, _unknown() if waiting.sent else Closed(why))

    def _found(self) -> None:
        self._given_up = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience, self._given_up = None, True
        for number, waiting in [*self._waiting.items()]:
            self._fail(number, _unknown() if waiting.sent else _nobody())

    def _run_here(self, waiting: _Waiting, send: Send) -> None:
        seconds = None
        if waiting.until is not None:
            # It was not refused when it came: it is told that it came too late, and nothing else.
            seconds = max(waiting.until - asyncio.get_running_loop().time(), 1e-6)
        try:
            sent = send(msgspec.structs.replace(waiting.envelope, deadline=seconds))
        except Exception as error:
            _settle(waiting.answer, error)
            return
        task = asyncio.ensure_future(_received(sent))
        task.add_done_callback(lambda done: _hand_on(done, waiting.answer))

    # -- one command --------------------------------------------------------------------------

    def _post(self, number: int, waiting: _Waiting) -> None:
        if waiting.answer.done():
            del self._waiting[number]  # its caller has left before it was sent
            return
        envelope, left = waiting.envelope, None
        if waiting.until is not None:
            left = max(waiting.until - asyncio.get_running_loop().time(), 1e-6)
        assert self._line is not None
        sent = wire.Sent(
            number,
            waiting.name,
            waiting.body,
            envelope.key,
            envelope.expected,
            envelope.correlation,
            envelope.causation,
            envelope.principal,
            envelope.headers,
            left,
        )
        try:
            self._line.send(sent)
        except ValueError as error:
            self._fail(number, Overloaded(f"the command is too large to be sent: {error}"))
            return
        waiting.sent = True
        self.forwarded += 1

    def received(self, message: Message) -> None:
        """Take an answer of the owner."""
        if isinstance(message, Told):
            told = self._calls.get(message.number)
            if told is not None and not told.done():
                told.set_result(message.body)
        elif isinstance(message, Done):
            waiting = self._waiting.pop(message.number, None)
            if waiting is not None and not waiting.answer.done():
                try:
                    waiting.answer.set_result(_receipt_of(message, waiting.envelope.command))
                except EngineError as error:  # a reply of another release
                    _settle(waiting.answer, error)
        elif isinstance(message, Failed):
            self._failed(message)

    def _failed(self, failed: Failed) -> None:
        error = error_of(failed.classes, failed.values)
        told = self._calls.get(failed.number)
        if told is not None:
            _settle(told, error)
            return
        waiting = self._waiting.get(failed.number)
        if waiting is None:
            return
        if isinstance(error, Closed):
            # The owner stops and has not run it: the next one will.
            waiting.sent = False
            return
        if isinstance(error, OutcomeUnknown) and waiting.envelope.key is not None:
            # An owner that does not know has failed: the next one finds it by its key.
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_SECONDS, self._end_doubt, failed.number, self._line, error)
            return
        self._fail(failed.number, error)

    def _end_doubt(self, number: int, line: Line | None, error: EngineError) -> None:
        """Answer a command whose owner did not know what became of it, and has not gone."""
        if number in self._waiting and self._line is line:
            self._fail(number, error)

    def _expire(self, number: int) -> None:
        """Answer a command that no owner had by its deadline; any other has its owner's answer."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.sent:
            self._fail(
                number,
                DeadlinePassed(
                    "the deadline has passed before a process owned the log. Nothing was run."
                ),
            )

    def _fail(self, number: int, error: EngineError) -> None:
        _settle(self._waiting.pop(number).answer, error)


def _receipt_of(done: Done, command: Command) -> Receipt[Any]:
    form = reply_of(type(command))
    reply = None if form is None or done.reply is None else form.read(done.reply)
    return Receipt(done.stream, done.version, done.position, reply, done.others)


async def _received(sent: Sent) -> Receipt:
    return await asyncio.shield(sent if isinstance(sent, asyncio.Future) else await sent)


def _hand_on(done: asyncio.Future[Receipt], answer: asyncio.Future[Receipt]) -> None:
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        _settle(answer, error)
    elif not answer.done():
        answer.set_result(done.result())


def _settle(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Its caller may have left.
        future.add_done_callback(retrieve)


def _nobody() -> Closed:
    return Closed(
        "no process owns the log at the moment, or it lets nobody join: the command was not run. "
        "Send it again; start an engine with join=True if none runs."
    )


def _lost() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the process that owned the log has gone before it answered: the command may have been "
        "run. Send commands with a key: then the next owner is asked, and each is run once."
    )


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the process that owned the log has gone before it answered, and no other has taken its "
        "place: the command may have been run. Send it again with its key."
    )
