"""Numbers of books, found by tags, in worlds where several engines own a log; and their judge.

Rules: a number is decided on all events with the tag of its book, in whatever till these are, and
some of them a till appends unasked. Each event says what its decision has seen, and a refusal too.
The judge folds the log by a code of its own. Between question and answer it knows the log as it was
in the database, so what was told must have been so at one of these moments.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final

import msgspec

from engine.engine import Engine
from engine.errors import EngineError, NotRun, Rejected
from engine.model.aggregate import Aggregate, applies, handles
from engine.model.boundary import Boundary
from engine.model.decisions import Decision
from engine.model.joint import To, decides
from engine.model.messages import Command, Event, Id, Receipt

__all__ = ["DECISIONS", "KINDS", "Asked", "ask_once", "judged_numbers"]

_BOOKS: Final = 2
_TILLS: Final = 5


class Numbered(Event, name="numbered", tags=("book",)):
    """The next number; `skips` are those that its decision saw."""

    operation: int
    book: str
    number: int
    skips: int


class Skipped(Event, name="skipped", tags=("book",)):
    """Appended without a question."""

    operation: int
    book: str


class Number(Command[int]):
    """Take the next number."""

    till: Id
    book: Id
    operation: int


class Look(Command):
    """Be refused, with what is there."""

    till: Id
    book: Id
    operation: int


class Skip(Command):
    """Append without a question."""

    till: Id
    book: str
    operation: int


class Till(Aggregate, kind="till"):
    """Where such events are stored."""

    @handles
    def skip(self, command: Skip) -> Skipped:
        """Ask nobody."""
        return Skipped(command.operation, command.book)

    @applies
    def numbered(self, event: Numbered) -> None:
        """Keep nothing."""

    @applies
    def skipped(self, event: Skipped) -> None:
        """Keep nothing."""


class Book(Boundary, tags=("book",)):
    """The last number, and how many skips."""

    last: int = 0
    skips: int = 0

    @applies
    def numbered(self, event: Numbered) -> None:
        """Count it."""
        self.last = event.number

    @applies
    def skipped(self, event: Skipped) -> None:
        """Count it."""
        self.skips += 1


@decides
def number(command: Number, till: Till, book: Book) -> Decision[To[Numbered], int]:
    """Give the next number."""
    event = Numbered(command.operation, command.book, book.last + 1, book.skips)
    return Decision(To(till, event), reply=event.number)


@decides
def look(_command: Look, till: Till, book: Book) -> list[To[Numbered]]:
    """Say what is there."""
    raise Rejected("seen", "", last=book.last, skips=book.skips)


KINDS: Final[Sequence[type[Aggregate]]] = (Till, Book)
DECISIONS: Final[Sequence[Any]] = (number, look)


class Asked(msgspec.Struct):
    """One command, and what its caller was told; where that is None, nobody was told."""

    command: Number | Look | Skip
    begun: int
    """The end of the log as it was sent, in the database."""
    ended: int = 0
    answer: Receipt[Any] | EngineError | None = None


async def ask_once(engine: Engine, asked: list[Asked], server: Any, random: Random) -> None:
    """Send one command, and note what it was told; those of this world have negative numbers."""
    operation = -len(asked) - 1
    till, book = f"t{random.randrange(_TILLS)}", f"b{random.randrange(_BOOKS)}"
    kind = random.choice((Number, Number, Look, Skip))
    key = f"n{-operation}" if random.random() < 0.5 and kind is not Look else None
    call = Asked(kind(till, book, operation), len(server.tables.events))
    asked.append(call)
    try:
        call.answer = await engine.execute(call.command, key=key)
    except EngineError as error:
        call.answer = error
    except asyncio.CancelledError:
        call.answer = None
        raise
    finally:
        call.ended = len(server.tables.events)


def judged_numbers(asked: Sequence[Asked], log: Sequence[Any]) -> Iterator[str]:
    """Give what cannot be true of the log, and of what was told."""
    now: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    seen: list[dict[str, tuple[int, int]]] = [{}]
    found: dict[int, Any] = {}
    times: Counter[int] = Counter()
    for logged in log:
        event = logged.event
        if isinstance(event, Numbered | Skipped):
            last, skips = now[event.book]
            if isinstance(event, Numbered) and (event.number, event.skips) != (last + 1, skips):
                yield f"P26: {event} is behind {last} numbers and {skips} skips"
            if isinstance(event, Numbered):
                now[event.book] = event.number, skips
            else:
                now[event.book] = last, skips + 1
            found[event.operation] = logged
            times[event.operation] += 1
        seen.append({**now})
    for operation, count in times.items():
        if count > 1 or -operation > len(asked):
            yield f"P8: the call {operation} is there {count} times"
    for call in asked:
        yield from _judged_call(call, found.get(call.command.operation), seen)


def _judged_call(
    call: Asked, logged: Any, seen: Sequence[dict[str, tuple[int, int]]]
) -> Iterator[str]:
    answer = call.answer
    if isinstance(answer, Receipt):
        if logged is None or answer.position != logged.meta.position:
            yield f"P1: {call} was acknowledged, and the log has {logged}"
        elif isinstance(call.command, Number) and answer.reply != logged.event.number:
            yield f"P26: {call} was answered with another number than {logged.event}"
    elif isinstance(answer, NotRun) and logged is not None:
        yield f"P6: {call} was called not run or refused, and is in the log"
    if isinstance(answer, Rejected):
        told = answer.details["last"], answer.details["skips"]
        window = seen[call.begun : call.ended + 1]
        if all(each.get(call.command.book, (0, 0)) != told for each in window):
            there = [each.get(call.command.book) for each in window]
            yield f"P26: {call} was told {told}, and there was {there}"
