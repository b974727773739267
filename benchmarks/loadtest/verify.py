"""The verification: whether the answers, the log and the views fit together.

Rules: it reads what the ended process has left (`left`), and asks no engine; views are compared
with a fold of the log by the projections' own functions, with none of the engine's projector in
between. A finding names the promise that is broken (docs/reference/promises.md). Of findings of one
kind a few are kept, and all are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from domain.model.returns import ReturnRecorded
from domain.views.catalogue import Catalogue
from domain.views.customers import Customers
from domain.views.orders import Orders
from domain.views.sales import Sales
from engine import Command, Event, Projection
from engine.testing.scenario import Folded

from .book import Book
from .left import Left, Logged, Unreadable, Views
from .load import WRITES, Load, id_field, number_of
from .record import Answer

__all__ = ["Findings", "Log", "check_answers", "check_log", "check_views", "verify"]

PROJECTIONS: Final[Sequence[type[Projection]]] = (Orders, Catalogue, Sales, Customers)
KEPT: Final = 5
"""Findings of one kind that are told in full."""
TOLD_EVERY: Final = 2_000

_RENAMED: Final = {"quantity": "quantity_after"}
"""What a command's field is called in its event, where that is another name."""
_EVENTS: Final = {event.event_name: msgspec.json.Decoder(event) for event in WRITES.values()}
_KIND: Final = dict.fromkeys(WRITES.values(), "order") | {ReturnRecorded: "return"}


class Findings:
    """What is wrong, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, what: str, count: int = 1) -> None:
        """Note one of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        kept = self._kinds.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(what)

    def lines(self) -> list[str]:
        """Give all as text; nothing where nothing is wrong."""
        lines: list[str] = []
        for kind, kept in self._kinds.items():
            lines.append(f"{kind}: {self._counts[kind]:,}")
            lines += [f"    {what}" for what in kept]
        return lines


Log = Callable[[], Iterable[Logged]]
"""Reads the log from its beginning."""
Told = Callable[[str, int], None]
"""Hears how far what has come."""


# -- the log and the answers ----------------------------------------------------------------------


def check_answers(book: Book, findings: Findings) -> None:
    """Check that each command has one answer, of a kind that is expected."""
    if book.fault_count:
        for fault in book.faults:
            findings.add("an answer is not the one answer of its command", fault, 0)
        findings.add("an answer is not the one answer of its command", "", book.fault_count)
    kinds = book.answered()
    silent = book.answers.count(Answer.NOTHING)
    if silent:
        first = book.answers.find(Answer.NOTHING)
        findings.add("P6: commands have no answer", f"command {first} is the first", silent)
    if kinds[Answer.OTHER]:
        first = book.answers.find(Answer.OTHER)
        findings.add(
            "P6: commands were refused for no reason", f"command {first}", kinds[Answer.OTHER]
        )


def check_log(load: Load, book: Book, log: Iterable[Logged], findings: Findings) -> int:
    """Check the log against the answers; give the number of its events."""
    expected = _Expected(load, book)
    seen = bytearray(len(book.answers))
    versions: dict[str, int] = {}
    place = count = 0
    for logged in log:
        count += 1
        place += 1
        if logged.position != place:
            findings.add("P4: positions have holes", f"{logged.position} comes after {place - 1}")
            place = logged.position
        _check_version(logged, versions, findings)
        number = number_of(logged.key)
        if number is None or number >= len(seen):
            findings.add(
                "P2: events belong to no command", f"position {logged.position}, {logged.event}"
            )
            continue
        if seen[number]:
            findings.add("P8: commands were run twice", f"{number}, at position {logged.position}")
        seen[number] = 1
        _check_answer(number, logged, book, findings)
        if not expected.is_event(number, logged):
            findings.add(
                "P2: events are not what their commands asked for",
                f"command {number}, at position {logged.position}: {logged.event} v"
                f"{logged.version} of {logged.stream}",
            )
    _check_acknowledged(book, seen, findings)
    _check_order(expected, book, findings)
    return count


def _check_version(logged: Logged, versions: dict[str, int], findings: Findings) -> None:
    before = versions.get(logged.stream, 0)
    if logged.version != before + 1:
        where = f"{logged.stream}, at position {logged.position}"
        findings.add("P3: versions have holes", f"{where}: {logged.version} after {before}")
    versions[logged.stream] = logged.version


def _check_answer(number: int, logged: Logged, book: Book, findings: Findings) -> None:
    answer = Answer(book.answers[number])
    where = f"command {number}, at position {logged.position}"
    if answer is Answer.RECEIPT:
        promised = (book.positions[number], book.versions[number])
        if promised != (logged.position, logged.version):
            findings.add(
                "P8: receipts name another place than the log",
                f"{where} and version {logged.version}: the receipt says {promised}",
            )
    elif answer is not Answer.NOTHING:
        findings.add("P6: what was refused is in the log", f"{where}: {answer.name}")


def _check_acknowledged(book: Book, seen: bytearray, findings: Findings) -> None:
    for number, answer in enumerate(book.answers):
        if answer == Answer.RECEIPT and not seen[number]:
            findings.add(
                "P1: acknowledged commands are not in the log",
                f"command {number}, acknowledged at position {book.positions[number]}",
            )


def _check_order(expected: _Expected, book: Book, findings: Findings) -> None:
    """Check that the rules said what they say to commands that come one at a time, in order."""
    for number, answer in enumerate(book.answers):
        if answer in (Answer.RECEIPT, Answer.REJECTED) and not expected.is_answer(number, answer):
            findings.add(
                "P5: commands of an order were not decided one after the other",
                f"command {number} has the answer {Answer(answer).name}",
            )


class _Expected:
    """What each command writes and is told.

    Of an order that missed a command, since the engine was full, the others may be decided
    otherwise: of these only what the command itself says is known.
    """

    def __init__(self, load: Load, book: Book) -> None:
        self._load = load
        self._outcomes = load.outcomes()
        missed = {n for n, answer in enumerate(book.answers) if answer == Answer.OVERLOADED}
        self._disturbed = {load.id_of(number) for number in missed | book.put_off}

    def is_answer(self, number: int, answer: int) -> bool:
        """Whether a receipt or a rejection is right."""
        if self._load.id_of(number) in self._disturbed:
            return True
        outcome = self._outcomes[self._load.place_of(number)]
        return (answer == Answer.RECEIPT) == (outcome is not None)

    def is_event(self, number: int, logged: Logged) -> bool:
        """Whether this is the event of a command."""
        place, id_ = self._load.place_of(number), self._load.id_of(number)
        command = self._load.sample[place]
        writes = WRITES[type(command)]
        if (logged.stream, logged.event) != (f"{_KIND[writes]}:{id_}", writes.event_name):
            return False
        if id_ not in self._disturbed:
            return logged.payload == self._outcomes[place]
        found = msgspec.json.decode(logged.payload)
        return all(found.get(name) == value for name, value in _asked(command).items())


def _asked(command: Command) -> Mapping[str, Any]:
    """Give what the event of a command must say, whatever its order was like."""
    fields = msgspec.json.decode(msgspec.json.encode(command), type=dict[str, Any])
    del fields[id_field(command)]
    return {_RENAMED.get(name, name): value for name, value in fields.items()}


# -- the views ------------------------------------------------------------------------------------


def check_views(views: Views, log: Log, end: int, findings: Findings, told: Told) -> None:
    """Check each view against a fold of the log up to its checkpoint, which must be the end."""
    checkpoints = views.checkpoints()
    folds: list[tuple[int, Folded]] = []
    for projection in PROJECTIONS:
        name = projection.__definition__.name
        position = checkpoints.get(name, 0)
        if position != end:
            findings.add(
                "P9: views do not stand at the log's end", f"{name} is at {position} of {end}"
            )
        folds.append((position, Folded(projection)))
    for logged in log():
        decoder = _EVENTS.get(logged.event)
        if decoder is None:
            continue
        event: Event = decoder.decode(logged.payload)
        for position, folded in folds:
            if logged.position <= position:
                folded.fold(event, stream=logged.stream, recorded=logged.recorded)
        if logged.position % TOLD_EVERY == 0:
            told("folded", logged.position)
    for projection, (_, folded) in zip(PROJECTIONS, folds, strict=True):
        for attribute in projection.__definition__.tables:
            _check_table(views, projection, attribute, folded, findings)


def _check_table(
    views: Views,
    projection: type[Projection],
    attribute: str,
    folded: Folded,
    findings: Findings,
) -> None:
    table = getattr(projection, attribute)
    shape = table.definition.shape
    expected = {flat[shape.key_place]: flat for flat in map(shape.flatten, folded.rows(table))}
    kind = f"P9: the view {table.definition.name} is not what a fold gives"
    for row in views.rows(table.definition.name, shape.columns):
        key = row[shape.key_place]
        if expected.pop(key, None) != row:
            findings.add(kind, f"row {key}")
    for key in expected:
        findings.add(kind, f"row {key} is missing")


# -- all of it ------------------------------------------------------------------------------------


def verify(load: Load, book: Book, left: Left, told: Told) -> tuple[int, list[str]]:
    """Check everything; give the number of events in the log, and what is wrong."""
    findings = Findings()
    check_answers(book, findings)
    count = 0
    try:
        for said in left.damage():
            findings.add("P1: the database finds what it keeps damaged", said)
        count = check_log(load, book, left.log(), findings)
        told("read", count)
        opening = left.views()
        if opening is not None:
            with opening as views:
                check_views(views, left.log, count, findings, told)
    except (Unreadable, msgspec.MsgspecError) as error:
        findings.add("P12: the files cannot be read", f"{error}")
    return count, findings.lines()
