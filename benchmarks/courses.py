"""`courses`: a decision on two boundaries, whose events are selected by tags, beside `walk`.

Each client enrols students, drawn at random, in courses, drawn at random; all courses have been
offered before. What a course has left and what a student has taken are folded from all events with
their tags, and the store checks in the append that none has come meanwhile.

If the Python package `umadb` is installed, its server runs the same work in the same rounds, and
so does `eventsourcing` above it; see `courses_peers`. What a cell leaves is counted.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

import engine
from engine import Boundary, Command, Event, Id, Rejected, applies, decides

from . import closed_loop, courses_peers
from .closed_loop import MANY_ORDERS, Work
from .courses_peers import COURSES_MAX, SEATS
from .scenario import Cell, Scenario, Wrong
from .systems import DURABLE, Target, commits_of, engine_system, send_of

__all__ = ["add_options", "scenario"]

COURSES: Final = 10_000
_STORES: Final[Mapping[bool, Mapping[str, str | None]]] = {
    False: {"courses": None},
    True: {"courses": "", "courses, ?writer=process": "?writer=process"},
}
"""What the engine writes with, by whether that is durable: what its file's URL ends with."""


class CourseOffered(Event, name="course-offered", tags=("course",), gc=False):
    """A course can be taken."""

    course: str
    seats: int


class StudentEnrolled(Event, name="student-enrolled", tags=("course", "student"), gc=False):
    """A student takes it."""

    course: str
    student: str


class Offer(Command, gc=False):
    """Offer a course."""

    course: Id
    seats: int


class Enrol(Command, gc=False):
    """Take one."""

    course: Id
    student: Id


class Course(Boundary, tags=("course",)):
    """Its seats."""

    seats: int = 0
    taken: int = 0

    @applies
    def offered(self, event: CourseOffered) -> None:
        """Have so many."""
        self.seats = event.seats

    @applies
    def enrolled(self, _: StudentEnrolled) -> None:
        """Have one less."""
        self.taken += 1


class Student(Boundary, tags=("student",)):
    """What one has taken."""

    courses: int = 0

    @applies
    def enrolled(self, _: StudentEnrolled) -> None:
        """Have one more."""
        self.courses += 1


@decides
def offer(command: Offer, course: Course) -> CourseOffered:
    """Offer it once."""
    if course.version:
        raise Rejected("offered-already", "the course has been offered")
    return CourseOffered(command.course, command.seats)


@decides
def enrol(command: Enrol, course: Course, student: Student) -> StudentEnrolled:
    """Enrol if there is a seat, and the student may."""
    if course.taken >= course.seats:
        raise Rejected("course-full", "no seat is left")
    if student.courses >= COURSES_MAX:
        raise Rejected("too-many-courses", "the student has enough")
    return StudentEnrolled(command.course, command.student)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this scenario can be told."""
    parser.add_argument("--clients", type=int, help="default: 256")
    parser.add_argument("--courses", type=int, help=f"and as many students; default: {COURSES}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    clients: int = options.clients or (32 if options.quick else 256)
    courses: int = options.courses or (200 if options.quick else COURSES)
    cells: list[Cell] = []
    for durable in (False, True):
        group = f"{'sqlite' if durable else 'memory'}, {clients:,} clients"
        walk = engine_system(durable=durable, keyed=True)
        run = partial(closed_loop.measure, walk, MANY_ORDERS, clients, options.seconds)
        cells.append(Cell(group, "walk", run))
        beside: tuple[str, ...] = ("walk",)
        if durable:
            for name, make in courses_peers.found().items():
                peer = partial(courses_peers.measure, make, courses, clients, options.seconds)
                cells.append(Cell(group, name, peer))
                beside = (*beside, name)
        for name, asked in _STORES[durable].items():
            measured = partial(_measure, asked, courses, clients, options.seconds)
            cells.append(Cell(group, name, measured, beside))
    return Scenario(
        "courses",
        "from a command to its durable receipt, closed loop, decided on two boundaries by tags",
        {
            "durability": DURABLE,
            "work": f"a student of {courses:,} takes one of {courses:,} courses; one event, 2 tags",
            "walk": "orders of each client's own; one event a command",
            "peers": courses_peers.told(clients),
            "keyed": "the engine's commands have key, correlation and principal",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
    )


def _enrolments(courses: int, client: int) -> Iterator[Any]:
    return itertools.starmap(Enrol, courses_peers.draws(courses, client))


# -- the engine ----------------------------------------------------------------------------------


def _measure(
    asked: str | None, courses: int, clients: int, seconds: float, folder: Path
) -> dict[str, float]:
    path = folder / "engine.db"
    store = "memory:" if asked is None else f"sqlite:{path}{asked}"
    figures, answers = engine.run(_run, store, courses, clients, seconds)
    if asked is not None:
        _check(path, courses, answers)
    return figures


async def _run(
    store: str, courses: int, clients: int, seconds: float
) -> tuple[dict[str, float], int]:
    async with engine.Engine([Course, Student], decisions=[offer, enrol], store=store) as running:
        offers = (Offer(f"c-{n}", SEATS) for n in range(courses))
        async for answer in running.execute_many(offers, window=1_000):
            assert isinstance(answer, engine.Receipt), answer
        before = commits_of(running)
        target = Target(send_of(running, keyed=True), lambda: commits_of(running))
        work = Work((), partial(_enrolments, courses))
        rate, times, answers = await closed_loop.drive(target, work, clients, seconds)
        after = target.commits()
    events = (after.events - before.events) / (after.commits - before.commits)
    return {"commands": rate, **times.milliseconds(), "events": events}, answers


def _check(path: Path, courses: int, answers: int) -> None:
    """Raise Wrong unless each answered command is there once, with both its tags."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        events = connection.execute("select count(*) from events").fetchone()[0]
        tags = connection.execute("select count(*) from tags").fetchone()[0]
    finally:
        connection.close()
    if (events, tags) != (courses + answers, courses + 2 * answers):
        raise Wrong(f"{answers:,} commands were answered; the log has {events} and {tags} tags")
