"""The judge of `subscribing`: folds the log by a code of its own, and compares what was told.

Rules: it knows payloads and their places in the log, and neither boundary nor index. At the place
of each event it knows all that came before, so a decision that missed one is seen by what it says
it saw. Nothing is there twice, nothing that was told is missing, and no student waits for an award.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from engine import EngineError, OutcomeUnknown, Receipt, Rejected, StoredEvent

from .school import STUDENT_MAX, Enrol, Issue, Leave, Move, Sent, SlowlyEnrol

__all__ = ["Call", "judged"]

_UNTOLD = 30
"""Events that may be durable, and the engine was not told."""


class Call(msgspec.Struct):
    """One command, and what its client was told, each time that it was sent."""

    command: Sent
    key: str | None
    deadline: float | None
    leaves: float | None
    """Seconds after which its client leaves, in all lives but the last."""
    answers: list[Receipt | EngineError | None] = []
    """None where nobody was told."""
    refused: dict[int, tuple[int, int]] = {}
    """Of answers that are refusals, by their places: the end of the log as it was sent, and as it
    was answered, as far as the engine knew."""

    @property
    def in_doubt(self) -> bool:
        return any(a is None or isinstance(a, OutcomeUnknown) for a in self.answers)


class _Book:
    """What a log has said so far."""

    def __init__(self) -> None:
        self.seats: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.there: dict[tuple[str, str], dict[str, Any]] = {}
        """Who is where, by the event that says so."""
        self.leaves: Counter[str] = Counter()
        self.awards: Counter[str] = Counter()
        self.owed: Counter[tuple[str, int]] = Counter()
        """Awards that are to come, by student and number of what they are for."""
        self.invoices = 0
        self.seen: list[dict[str, int]] = [{}]
        """At each position: seats left, by course, and courses, by student."""

    def courses(self, student: str) -> int:
        """How many courses a student takes."""
        return sum(one == student for _, one in self.there)

    def take(self, name: str, said: Mapping[str, Any]) -> str:
        """Take an event; give what it says that is not so, or nothing."""
        wrong = str(getattr(self, name)(said))
        left = {course: seats - self.taken[course] for course, seats in self.seats.items()}
        left |= {course: -taken for course, taken in self.taken.items() if course not in left}
        self.seen.append(left | Counter(student for _, student in self.there))
        return wrong

    def offered(self, said: Mapping[str, Any]) -> str:
        before, self.seats[said["course"]] = self.seats[said["course"]], said["seats"]
        return f"it had {before} seats" if before else ""

    def enrolled(self, said: Mapping[str, Any]) -> str:
        course, student = said["course"], said["student"]
        self.taken[course] += 1
        left = self.seats[course] - self.taken[course]
        is_there = (course, student) in self.there
        self.there[course, student] = dict(said)
        nth = self.courses(student)
        if is_there:
            return "the student was there"
        if (said["left"], said["nth"]) != (left, nth):
            return f"{left} seats were left, and it was the student's course {nth}"
        return "above the limit" if left < 0 or nth > STUDENT_MAX else ""

    def left(self, said: Mapping[str, Any]) -> str:
        course, student = said["course"], said["student"]
        taken = self.taken[course]
        was = self.there.pop((course, student), None)
        self.taken[course] -= 1
        self.leaves[student] += 1
        self.owed[student, said["number"]] += 1
        if was is None or (said["by_timer"] and was["number"] != said["number"]):
            return f"the student was there by {was}"
        return f"{taken} seats were taken" if said["taken"] != taken else ""

    def blocked(self, said: Mapping[str, Any]) -> str:
        if said["course"] is not None:
            self.taken[said["course"]] += 1
        return ""

    def awarded(self, said: Mapping[str, Any]) -> str:
        student = said["student"]
        self.awards[student] += 1
        self.owed[student, said["number"]] -= 1
        seen = self.awards[student], self.leaves[student]
        if (said["nth"], said["leaves"]) != seen:
            return f"it was award {seen[0]} after {seen[1]} leaves"
        return "nobody owed it" if self.owed[student, said["number"]] < 0 else ""

    def issued(self, said: Mapping[str, Any]) -> str:
        self.invoices += 1
        return f"it was {self.invoices}" if said["invoice"] != self.invoices else ""


def judged(
    log: Sequence[StoredEvent], calls: Sequence[Call], states: Mapping[str, tuple[int, ...]]
) -> Iterator[str]:
    """Give what cannot be true of the log, of what was told, and of the states at the end."""
    book = _Book()
    for stored in log:
        said = msgspec.json.decode(stored.payload)
        wrong = book.take(stored.name, said)
        if wrong:
            yield f"P26: {stored.name} at {stored.position} says {said}, and {wrong}"
    yield from _judged_end(book, states)
    yield from _judged_calls(log, calls)
    for call in calls:
        yield from _judged_refusals(book, call)


def _judged_end(book: _Book, states: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Judge a world in which nothing follows any more."""
    owed = {key: count for key, count in book.owed.items() if count}
    if owed:
        yield f"P18: awards are owed at the end: {owed}"
    late = [place for place, said in book.there.items() if said["lapses"]]
    if late:
        yield f"P22: {late} have not lapsed"
    for stream, state in states.items():
        kind, _, name = stream.partition(":")
        found = (
            (book.seats[name], book.taken[name])
            if kind == "course"
            else (book.courses(name), book.leaves[name], book.awards[name])
        )
        if state != found:
            yield f"P26: {stream} is {state} for the engine, and {found} by the log"


def _judged_calls(log: Sequence[StoredEvent], calls: Sequence[Call]) -> Iterator[str]:
    found: dict[int, list[dict[str, Any]]] = {}
    for stored in log:
        said = msgspec.json.decode(stored.payload)
        if stored.name != "awarded" and not said.get("by_timer"):
            found.setdefault(said["number"], []).append({**said, "position": stored.position})
    for call in calls:
        command = call.command
        events, owed = found.get(command.number, []), 2 if isinstance(command, Move) else 1
        receipts = [answer for answer in call.answers if isinstance(answer, Receipt)]
        if len(events) not in (0, owed):
            yield f"P8: {command} is in the log by {events}"
        if events and not receipts and not call.in_doubt:
            yield f"P6: {command} was refused and is in the log"
        # Who leaves a course that he is not in has a receipt, and wrote nothing: no key is kept.
        if not isinstance(command, Leave):
            yield from _judged_receipts(call, receipts, events)


def _judged_receipts(
    call: Call, receipts: Sequence[Receipt], events: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    command = call.command
    if receipts and not events:
        yield f"P1: {command} was acknowledged and is not in the log"
        return
    if call.key is not None and len({*receipts}) > 1:
        yield f"P8: {command} was answered with {receipts}"
    reply = "left" if isinstance(command, Enrol | SlowlyEnrol) else None
    reply = "invoice" if isinstance(command, Issue) else reply
    for receipt in receipts:
        if receipt.position != events[-1]["position"]:
            yield f"P23: {receipt} does not say where {command} ends"
        if reply is not None and receipt.reply != events[0][reply]:
            yield f"P26: {command} was answered with {receipt.reply}, and {events[0]} is stored"


def _judged_refusals(book: _Book, call: Call) -> Iterator[str]:
    """Give refusals that were true at no moment between question and answer."""
    for place, (begin, end) in call.refused.items():
        error = call.answers[place]
        if not isinstance(error, Rejected) or error.code not in {"full", "too-many"}:
            continue
        name, _, seen = error.message.partition(" ")
        # What is read may be durable before the engine has been told so.
        window = book.seen[begin : end + _UNTOLD + 1]
        if all(each.get(name, 0) != int(seen) for each in window):
            yield f"P26: {call.command} was refused by {error} between {begin} and {end}"
