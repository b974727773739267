"""The work of `courses` for `eventsourcing` 10: an application with slices, stored in UmaDB.

Rules: written as the documents of that package show it, with its MessagePack decisions. Imported
only where the package is installed. A conflict is tried again, as the engine does.
"""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
# mypy: ignore-errors

from __future__ import annotations

from eventsourcing.domain import Selector, event
from eventsourcing.msgspec import DcbApplication, Decision, Slice
from eventsourcing.persistence import IntegrityError

from .courses_peers import COURSES_MAX, SEATS

__all__ = ["School"]


class CourseOffered(Decision):
    """A course can be taken."""

    course: str
    seats: int


class StudentEnrolled(Decision):
    """A student takes it."""

    course: str
    student: str


class Offer(Slice):
    """Offer a course."""

    do_projection = False

    def __init__(self, course: str) -> None:
        """Take the course."""
        self.course = course

    def consistency_boundary(self) -> Selector:
        """Select nothing that would matter: each is offered once."""
        return Selector(types=[CourseOffered], tags=[f"course:{self.course}"])

    def execute(self) -> None:
        """Offer it."""
        tags = [f"course:{self.course}"]
        self.trigger_event(CourseOffered, tags, course=self.course, seats=SEATS)


class Enrol(Slice):
    """Take one."""

    def __init__(self, course: str, student: str) -> None:
        """Take what it is about."""
        self.course, self.student = course, student
        self.seats = self.taken = self.courses = 0

    def consistency_boundary(self) -> list[Selector]:
        """Select what the rule is about."""
        return [
            Selector(types=[CourseOffered, StudentEnrolled], tags=[f"course:{self.course}"]),
            Selector(types=[StudentEnrolled], tags=[f"student:{self.student}"]),
        ]

    @event(CourseOffered)
    def _(self, seats: int) -> None:
        self.seats = seats

    @event(StudentEnrolled)
    def _(self, course: str, student: str) -> None:
        self.taken += course == self.course
        self.courses += student == self.student

    def execute(self) -> None:
        """Enrol if there is a seat, and the student may."""
        if self.taken >= self.seats or self.courses >= COURSES_MAX:
            raise RuntimeError("the peer refuses what it should take")
        tags = [f"course:{self.course}", f"student:{self.student}"]
        self.trigger_event(StudentEnrolled, tags, course=self.course, student=self.student)


class School:
    """One client of the application."""

    def __init__(self, url: str) -> None:
        """Connect."""
        self._app = DcbApplication(
            env={"PERSISTENCE_MODULE": "eventsourcing_umadb", "UMADB_URI": url}
        )

    def offer(self, course: str) -> None:
        """Offer a course."""
        self._app.do(Offer(course))

    def enrol(self, course: str, student: str) -> None:
        """Read, decide and append, until nothing has come meanwhile."""
        while True:
            try:
                self._app.do(Enrol(course, student))
            except IntegrityError:
                continue
            return
