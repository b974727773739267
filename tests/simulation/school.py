"""Courses, students and a desk: the rules by tags of the small world `subscribing`.

Rules: each event says what its decision has seen, so that a fold of the log alone can tell whether
that was all there was. A refusal for want of room says it too. Seats belong to a course, and are
also taken by an aggregate's events. Some enrolments lapse by a timer. A student who left is owed an
award, which a reaction sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from engine import (
    After,
    Aggregate,
    Boundary,
    CancelTimer,
    Command,
    Decision,
    Event,
    Id,
    Reactor,
    Rejected,
    To,
    applies,
    decides,
    handles,
    reacts,
)

__all__ = [
    "DECISIONS",
    "KINDS",
    "STUDENT_MAX",
    "Awarding",
    "Block",
    "Blocked",
    "Enrol",
    "Issue",
    "Leave",
    "Move",
    "Offer",
    "Sent",
    "SlowlyEnrol",
]

STUDENT_MAX = 2


class Offered(Event, name="offered", tags=("course",)):
    """A course has seats."""

    course: str
    number: int
    seats: int


class Enrolled(Event, name="enrolled", tags=("course", "student")):
    """A student has one of them; `left` and `nth` are what the decision saw."""

    course: str
    student: str
    number: int
    left: int
    nth: int
    lapses: bool


class Left(Event, name="left", tags=("course", "student")):
    """A student has it no more; `taken` is what the decision saw."""

    course: str
    student: str
    number: int
    taken: int
    by_timer: bool


class Blocked(Event, name="blocked", tags=("course",)):
    """A desk has taken a seat, whatever the course says; without a course it is a note."""

    course: str | None
    number: int


class Awarded(Event, name="awarded", tags=("student",)):
    """Who left gets something; `nth` and `leaves` are what the decision saw."""

    student: str
    number: int
    nth: int
    leaves: int


class Issued(Event, name="issued", tags=("invoices:all",)):
    """An invoice, whose numbers have no gaps."""

    number: int
    invoice: int


class Offer(Command):
    """Offer a course, once."""

    course: Id
    number: int
    seats: int


class Enrol(Command[int]):
    """Take a seat; how many are left is replied."""

    course: Id
    student: Id
    number: int
    seconds: float = 0.0
    """After which it lapses; 0 for never."""


class SlowlyEnrol(Command[int]):
    """The same, after a while."""

    course: Id
    student: Id
    number: int


class Leave(Command):
    """Give the seat back."""

    course: Id
    student: Id
    number: int


class Lapse(Command):
    """Give it back after its time; sent by timers alone."""

    course: Id
    student: Id
    number: int


class Move(Command):
    """Change from one course to another."""

    student: Id
    source: Id
    target: Id
    number: int


class Award(Command):
    """Sent by the reaction alone."""

    student: Id
    number: int


class Issue(Command[int]):
    """Issue the next invoice."""

    number: int


class Block(Command):
    """Take a seat by the desk."""

    desk: Id
    course: str | None
    number: int


Sent: TypeAlias = Offer | Enrol | SlowlyEnrol | Leave | Move | Issue | Block


class Course(Boundary, tags=("course",)):
    """Its seats."""

    seats: int = 0
    taken: int = 0

    @property
    def left(self) -> int:
        """How many are free."""
        return self.seats - self.taken

    @applies
    def offered(self, event: Offered) -> None:
        """Have them."""
        self.seats = event.seats

    @applies
    def enrolled(self, event: Enrolled) -> None:
        """One less."""
        self.taken += 1

    @applies
    def was_left(self, event: Left) -> None:
        """One more."""
        self.taken -= 1

    @applies
    def blocked(self, event: Blocked) -> None:
        """One less, by the desk."""
        self.taken += 1


class Student(Boundary, tags=("student",)):
    """What one takes, in a state that is more than numbers."""

    courses: list[str] = []
    leaves: int = 0
    awards: int = 0

    @applies
    def enrolled(self, event: Enrolled) -> None:
        """Take it."""
        self.courses.append(event.course)

    @applies
    def was_left(self, event: Left) -> None:
        """Take it no more."""
        self.courses.remove(event.course)
        self.leaves += 1

    @applies
    def awarded(self, event: Awarded) -> None:
        """Be given something."""
        self.awards += 1


class Enrolment(Boundary, tags=("course", "student")):
    """One student in one course."""

    number: int = -1

    @applies
    def enrolled(self, event: Enrolled) -> None:
        """Be there."""
        self.number = event.number

    @applies
    def was_left(self, event: Left) -> None:
        """Be there no more."""
        self.number = -1


class Invoices(Boundary, tags=("invoices:all",)):
    """The last number."""

    last: int = 0

    @applies
    def issued(self, event: Issued) -> None:
        """Count it."""
        self.last = event.invoice


class Desk(Aggregate, kind="desk"):
    """An aggregate whose events have tags."""

    blocked: int = 0

    @handles
    def block(self, command: Block) -> Blocked:
        """Ask nobody."""
        return Blocked(command.course, command.number)

    @applies
    def was_blocked(self, event: Blocked) -> None:
        """Count it."""
        self.blocked += 1


@decides
def offer(command: Offer, course: Course) -> Offered:
    """Offer it once."""
    if course.seats:
        raise Rejected("offered", "it is offered already")
    return Offered(command.course, command.number, command.seats)


def _refuse_without_room(course: Course, student: Student) -> None:
    """Raise Rejected with what is seen, where there is no room."""
    if course.left < 1:
        raise Rejected("full", f"{course.id} {course.left}")
    if len(student.courses) >= STUDENT_MAX:
        raise Rejected("too-many", f"{student.id} {len(student.courses)}")


def _enrolled(
    command: Enrol | SlowlyEnrol, course: Course, student: Student, lapses: bool
) -> Enrolled:
    _refuse_without_room(course, student)
    if command.course in student.courses:
        raise Rejected("there", "the student is there")
    number, left, nth = command.number, course.left - 1, len(student.courses) + 1
    return Enrolled(command.course, command.student, number, left, nth, lapses)


@decides
def enrol(command: Enrol, course: Course, student: Student) -> Decision[To[Enrolled], int]:
    """Take a seat, for a while perhaps."""
    event = _enrolled(command, course, student, command.seconds > 0)
    lapse = Lapse(command.course, command.student, command.number)
    timers = [After(lapse, command.student, seconds=command.seconds)] if event.lapses else []
    return Decision(To(course, event, timers=timers), reply=event.left)


@decides
async def slowly(command: SlowlyEnrol, student: Student, course: Course) -> Decision[Enrolled, int]:
    """Take a seat, after a while."""
    await asyncio.sleep(0.003)
    event = _enrolled(command, course, student, False)
    return Decision(event, reply=event.left)


@decides
def leave(command: Leave, course: Course, enrolment: Enrolment) -> list[To[Left]]:
    """Leave if the student is there; what was to lapse does no more."""
    if enrolment.number < 0:
        return []
    event = Left(command.course, command.student, command.number, course.taken, False)
    return [To(course, event, timers=[CancelTimer(command.student)])]


@decides
def lapse(command: Lapse, enrolment: Enrolment, course: Course) -> list[To[Left]]:
    """Leave if it is the same enrolment still."""
    if enrolment.number != command.number:
        return []
    event = Left(command.course, command.student, command.number, course.taken, True)
    return [To(course, event)]


@decides
def move(
    command: Move, source: Course, target: Course, student: Student
) -> list[To[Left] | To[Enrolled]]:
    """Leave one and take another, in one decision that is folded by three."""
    if source.id not in student.courses or target.id in student.courses:
        raise Rejected("not-there", "the student is not in one of them alone")
    if target.left < 1:
        raise Rejected("full", f"{target.id} {target.left}")
    number, nth = command.number, len(student.courses)
    left = Left(source.id, student.id, number, source.taken, False)
    enrolled = Enrolled(target.id, student.id, number, target.left - 1, nth, False)
    return [To(source, left, timers=[CancelTimer(student.id)]), To(target, enrolled)]


@decides
def award(command: Award, student: Student) -> Awarded:
    """Give it."""
    return Awarded(command.student, command.number, student.awards + 1, student.leaves)


@decides
def issue(command: Issue, invoices: Invoices) -> Decision[Issued, int]:
    """Give the next number."""
    number = invoices.last + 1
    return Decision(Issued(command.number, number), reply=number)


class Awarding(Reactor, name="awarding", begins="now"):
    """Has a decision by tags made for each student who left."""

    @reacts
    def was_left(self, event: Left) -> Award:
        """Award."""
        return Award(event.student, event.number)


KINDS: list[type[Aggregate]] = [Course, Student, Enrolment, Invoices, Desk]
DECISIONS: list[Callable[..., Any]] = [offer, enrol, slowly, leave, lapse, move, award, issue]
