"""Courses, students, usernames and invoices: rules that belong to no aggregate, for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from engine import (
    Aggregate,
    Boundary,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Rejected,
    To,
    applies,
    decides,
    handles,
)


class Offered(Event, name="course-offered", tags=("course",)):
    course: str
    seats: int


class Enrolled(Event, name="student-enrolled", tags=("course", "student")):
    course: str
    student: str


class Left(Event, name="student-left", tags=("course", "student")):
    course: str
    student: str


class Issued(Event, name="invoice-issued", tags=("invoices:all",)):
    number: int


class Noted(Event, name="noted", tags=("course",)):
    course: str | None
    text: str


class Offer(Command):
    course: Id
    seats: int


class Enrol(Command[int]):
    course: Id
    student: Id


class Leave(Command):
    course: Id
    student: Id


class Move(Command):
    student: Id
    source: Id
    target: Id


class Issue(Command[int]):
    pass


class SlowlyEnrol(Command):
    course: Id
    student: str


class Seize(Command):
    """Takes seats by the events of an aggregate."""

    desk: Id
    course: str | None
    text: str


class Course(Boundary, tags=("course",)):
    seats: int = 0
    taken: int = 0
    notes: int = 0

    @applies
    def offered(self, event: Offered) -> None:
        self.seats = event.seats

    @applies
    def enrolled(self, event: Enrolled) -> None:
        self.taken += 1

    @applies
    def left(self, event: Left) -> None:
        self.taken -= 1

    @applies
    def noted(self, event: Noted) -> None:
        if event.text == "poison":
            raise ValueError("it cannot be folded")
        self.notes += 1


class Student(Boundary, tags=("student",)):
    courses: int = 0

    @applies
    def enrolled(self, event: Enrolled) -> None:
        self.courses += 1

    @applies
    def left(self, event: Left) -> None:
        self.courses -= 1


class Enrolment(Boundary, tags=("course", "student")):
    """One student in one course."""

    is_there: bool = False

    @applies
    def enrolled(self, event: Enrolled) -> None:
        self.is_there = True

    @applies
    def left(self, event: Left) -> None:
        self.is_there = False


class Invoices(Boundary, tags=("invoices:all",)):
    last: int = 0

    @applies
    def issued(self, event: Issued) -> None:
        self.last = event.number


class Desk(Aggregate, kind="desk"):
    """An aggregate whose events have tags."""

    notes: int = 0

    @handles
    def note(self, command: Seize) -> Noted:
        return Noted(command.course, command.text)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


GATE: list[asyncio.Event] = []


@decides
def offer(command: Offer, course: Course) -> Offered:
    if course.seats:
        raise Rejected("there-already", course.id)
    return Offered(command.course, command.seats)


@decides
def enrol(
    command: Enrol, course: Course, student: Student, enrolment: Enrolment
) -> Decision[Enrolled, int]:
    if enrolment.is_there:
        raise Rejected("enrolled", "the student is in this course already")
    if course.taken >= course.seats:
        raise Rejected("full", f"{course.id} has {course.seats} seats")
    if student.courses >= 3:
        raise Rejected("too-many", f"{student.id} has three courses")
    return Decision(
        [Enrolled(command.course, command.student)], reply=course.seats - course.taken - 1
    )


@decides
def leave(command: Leave, enrolment: Enrolment) -> list[Left]:
    if not enrolment.is_there:
        return []
    return [Left(command.course, command.student)]


@decides
def move(
    command: Move, source: Course, target: Course, student: Student
) -> list[To[Left] | Enrolled]:
    if target.taken >= target.seats:
        raise Rejected("full", target.id)
    left = Left(command.source, command.student)
    return [To(source, left), Enrolled(command.target, command.student)]


@decides
def issue(command: Issue, invoices: Invoices) -> Decision[Issued, int]:
    return Decision([Issued(invoices.last + 1)], reply=invoices.last + 1)


@decides
async def slowly(command: SlowlyEnrol, course: Course) -> list[Enrolled]:
    await GATE[-1].wait()
    if course.taken >= course.seats:
        raise Rejected("full", course.id)
    return [Enrolled(command.course, command.student)]


DECISIONS: list[Callable[..., Any]] = [offer, enrol, leave, move, issue, slowly]
KINDS: list[type[Aggregate]] = [Course, Student, Enrolment, Invoices, Desk]


def school(**settings: Any) -> Engine:
    """Give an engine of all of it."""
    return Engine(KINDS, decisions=DECISIONS, **settings)
