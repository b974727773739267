"""A command of a member that has no answer yet, and what becomes of it.

Rules: what an owner tells of a command that an earlier one may have run counts only where it knows
the key. A reply that cannot be read here is no reason to say that nothing was run.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec

from ..errors import (
    EngineError,
    HandlerFailed,
    KeyReused,
    OutcomeUnknown,
    Rejected,
    WrongVersion,
)
from ..model.messages import Envelope, Receipt, reply_of
from ..runtime.futures import retrieve
from ..runtime.safely import as_error, described
from ..write.mailbox import Origin, Sent
from .patience import Patience
from .wire import Done

__all__ = [
    "LOST",
    "NOBODY",
    "SEND_AGAIN",
    "UNKNOWN",
    "Post",
    "Waiting",
    "as_told",
    "give_receipt",
    "run_here",
    "settle",
]

T = TypeVar("T")

_KNOW_THE_KEY: Final = (KeyReused, OutcomeUnknown, Rejected, WrongVersion)
"""What an owner answers only if it has not found the key of a command, or does not know either."""


class Post(Protocol):
    """Sends a command into the engine: `Reception.send_from`."""

    def __call__(self, envelope: Envelope, origin: Origin | None, /) -> Sent:
        """Give what `Reception.send` gives; raise as it does."""
        ...


class Waiting(msgspec.Struct, eq=False):
    """A command without an answer."""

    envelope: Envelope
    name: str
    body: bytes
    answer: asyncio.Future[Receipt]
    until: float | None
    """By the loop's clock, where it has a deadline."""
    is_sent: bool = False
    """Whether the owner of this moment has it."""
    is_in_doubt: bool = False
    """Whether an owner that is gone may have run it."""
    is_patient: bool = False
    """Whether it is of a stream, and waits where the engine is full."""
    is_served: bool = False
    """Whether another member has sent it, which sends it on itself."""
    origin: Origin | None = None
    """What it comes from, where it is no caller's."""
    since: float | None = None
    """Since when it waits for one of several owners, by the loop's clock."""
    timer: asyncio.TimerHandle | None = None
    """To its deadline, while no owner has it."""


def as_told(error: BaseException, waiting: Waiting) -> BaseException:
    """Give what is told of a command that an earlier owner may have run, if this one says so."""
    if not waiting.is_in_doubt or not isinstance(error, EngineError):
        return error
    if isinstance(error, _KNOW_THE_KEY):
        return error
    doubt = OutcomeUnknown(
        f"the process that owned the log has gone before it answered: the command may have been "
        f"run. The next one has not looked for its key, since it answered with {described(error)}. "
        f"{SEND_AGAIN}"
    )
    doubt.__cause__ = error
    return doubt


def give_receipt(done: Done, waiting: Waiting) -> None:
    """Answer with a receipt; if its reply is none here, nobody is told that nothing was run."""
    try:
        form = reply_of(type(waiting.envelope.command))
        reply = None if form is None else form.read(done.reply or b"null", done.names)
        receipt = Receipt(done.stream, done.version, done.position, reply, done.others)
        waiting.answer.set_result(receipt)
    except BaseException as error:  # of the reply's class, whatever it is
        cause = error.__cause__ if isinstance(error, HandlerFailed) else None
        unknown = OutcomeUnknown(
            f"the command was run, and its last event is at position {done.position} of the log. "
            f"Its reply is of another release, and none of the type declared here: read what it "
            f"did from a view"
        )
        unknown.__cause__ = cause or as_error(error)
        settle(waiting.answer, unknown)


def run_here(waiting: Waiting, send: Post, patience: Patience) -> None:
    if waiting.is_patient or waiting.is_in_doubt or patience.is_waiting:
        patience.take(partial(_post, waiting, send), partial(_hear, waiting))
        return
    try:
        sent = _post(waiting, send)
    except Exception as error:
        settle(waiting.answer, error)
        return
    task = asyncio.ensure_future(_received(sent))
    task.add_done_callback(lambda done: _hand_on(done, waiting))


def _post(waiting: Waiting, send: Post) -> Sent:
    """Send a command with what is left of its deadline."""
    seconds = None
    if waiting.until is not None:
        # It was not refused when it came: it is told that it came too late, and nothing else.
        seconds = max(waiting.until - asyncio.get_running_loop().time(), 1e-6)
    return send(msgspec.structs.replace(waiting.envelope, deadline=seconds), waiting.origin)


def _hear(waiting: Waiting, sent: asyncio.Future[Receipt] | Exception) -> None:
    if isinstance(sent, Exception):
        settle(waiting.answer, as_told(sent, waiting))
    else:
        sent.add_done_callback(lambda done: _hand_on(done, waiting))


async def _received(sent: Sent) -> Receipt:
    return await asyncio.shield(sent if isinstance(sent, asyncio.Future) else await sent)


def _hand_on(done: asyncio.Future[Receipt], waiting: Waiting) -> None:
    answer = waiting.answer
    if done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        settle(answer, as_told(error, waiting))
    elif not answer.done():
        answer.set_result(done.result())


def settle(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        # Its caller may have left.
        future.add_done_callback(retrieve)


SEND_AGAIN: Final = "Send it again with its key; without one, read first."
NOBODY: Final = (
    "no process owns the log at the moment, or it lets nobody join: the command was not run. "
    "Send it again; start an engine with join=True if none runs."
)
LOST: Final = (
    "the process that owned the log has gone before it answered: the command may have been "
    "run. Send commands with a key: then the next owner is asked, and each is run once."
)
UNKNOWN: Final = (
    "the process that owned the log has gone before it answered, and no other has taken its "
    "place: the command may have been run. Send it again with its key."
)
