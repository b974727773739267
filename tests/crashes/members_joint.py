"""What several owners decide together, as processes of a trial send it: purses, pairs and books.

A move takes from one purse what another one gets, and no purse has less than nothing. Of a pair one
may have less than nothing, if both together have not: who decides that sees both, and changes one.
The numbers of a book are found by their tag, in whatever till they were rung up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from engine import (
    Aggregate,
    Boundary,
    Command,
    Decision,
    Event,
    Id,
    Receipt,
    Rejected,
    To,
    applies,
    decides,
    handles,
)

__all__ = ["DECISIONS", "KINDS", "Look", "Move", "drawn", "told"]

_PURSES: Final = 10
_PAIRS: Final = 4
_BOOKS: Final = 4
_TILLS: Final = 6


class Moved(Event, name="moved"):
    what: str
    cents: int


class Numbered(Event, name="numbered", tags=("book",)):
    what: str
    book: str
    number: int


class Close(Command):
    till: Id


class Fill(Command):
    purse: Id
    what: str
    cents: int


class Move(Command):
    source: Id
    target: Id
    what: str
    cents: int


class Spend(Command):
    """Takes from one of a pair."""

    one: Id
    other: Id
    what: str
    cents: int


class Look(Command[int]):
    """Gives what two purses have."""

    one: Id
    other: Id


class Number(Command[int]):
    """Takes the next number of a book, or asks for the last one."""

    till: Id
    book: Id
    what: str
    asks: bool


class Purse(Aggregate, kind="purse"):
    cents: int = 0

    @handles
    def fill(self, command: Fill) -> Moved:
        return Moved(command.what, command.cents)

    @applies
    def moved(self, event: Moved) -> None:
        self.cents += event.cents


class Till(Aggregate, kind="till"):
    @handles
    def close(self, _command: Close) -> None:
        pass

    @applies
    def numbered(self, event: Numbered) -> None:
        pass


class Book(Boundary, tags=("book",)):
    last: int = 0

    @applies
    def numbered(self, event: Numbered) -> None:
        self.last = event.number


@decides
def move(command: Move, source: Purse, target: Purse) -> list[To[Moved]]:
    _check(source.cents, command.cents, source)
    taken, given = Moved(command.what, -command.cents), Moved(command.what, command.cents)
    return [To(source, taken), To(target, given)]


@decides
def spend(command: Spend, one: Purse, other: Purse) -> list[To[Moved]]:
    _check(one.cents + other.cents, command.cents, one)
    return [To(one, Moved(command.what, -command.cents))]


def _check(there: int, wanted: int, first: Purse) -> None:
    if there < wanted:
        raise Rejected("too-little", "so much is not there", notes=first.version, cents=there)


@decides
def look(_command: Look, one: Purse, other: Purse) -> Decision[To[Moved], int]:
    return Decision(reply=one.cents + other.cents)


@decides
def number(command: Number, till: Till, book: Book) -> Decision[To[Numbered], int]:
    if command.asks:
        return Decision(reply=book.last)
    taken = Numbered(command.what, book.id, book.last + 1)
    return Decision([To(till, taken)], reply=book.last + 1)


KINDS: Final[Sequence[type[Aggregate]]] = (Purse, Till, Book)
DECISIONS: Final[Sequence[Callable[..., Any]]] = (move, spend, look, number)


def drawn(chance: random.Random, key: str) -> tuple[Command, tuple[str, str]]:
    """Give a command, and the streams that it is about: the first one, and the other one."""
    kind, cents = chance.randrange(8), chance.randrange(1, 50)
    if kind in (0, 1):
        till, book = f"t{chance.randrange(_TILLS)}", f"b{chance.randrange(_BOOKS)}"
        return Number(till, book, key, asks=kind == 0), (f"till:{till}", f"book:{book}")
    if kind == 2:
        names = [f"p{chance.randrange(_PURSES)}", f"s{chance.randrange(_PAIRS)}{'ab'[cents % 2]}"]
        purse = names[cents % 2]
        return Fill(purse, key, cents), (f"purse:{purse}", "")
    if kind in (3, 4):
        pair = chance.randrange(_PAIRS)
        one, other = chance.sample([f"s{pair}a", f"s{pair}b"], 2)
    else:
        one, other = (f"p{n}" for n in chance.sample(range(_PURSES), 2))
    streams = f"purse:{one}", f"purse:{other}"
    if kind in (4, 5):
        return Look(one, other), streams
    return (Spend if kind == 3 else Move)(one, other, key, cents), streams


def told(receipt: Receipt[Any], other: str) -> tuple[int, int]:
    """Give the version of the other one, and the reply."""
    return receipt.versions.get(other, 0), receipt.reply or 0
