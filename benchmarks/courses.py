"""`courses`: a decision on two boundaries, whose events are selected by tags, beside `walk`.

Each client enrols students, drawn at random, in courses, drawn at random; all courses have been
offered before. What a course has left and what a student has taken are folded from all events with
their tags, and the store checks in the append that none has come meanwhile.

If the Python package `umadb` is installed, its server runs the same work in the same rounds: it is
a store made for such conditions. Its clients are threads: each reads the events of a course and a
student, decides, and appends with the condition that there are no newer ones. That is the client
alone, without an application's framework above it. What a cell leaves is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw

import engine
from engine import Boundary, Command, Event, Id, Rejected, applies, decides

from . import closed_loop
from .closed_loop import MANY_ORDERS, Work
from .histogram import Histogram
from .scenario import Cell, Scenario, Wrong
from .systems import DURABLE, Target, commits_of, engine_system, send_of

__all__ = ["add_options", "scenario"]

COURSES: Final = 10_000
STUDENTS: Final = 10_000
THREADS: Final = 64
_SEATS: Final = 1_000_000
_COURSES_MAX: Final = 10_000
_START_SECONDS: Final = 20.0


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
    if student.courses >= _COURSES_MAX:
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
    has_peer = importlib.util.find_spec("umadb") is not None
    cells: list[Cell] = []
    for durable in (False, True):
        group = f"{'sqlite' if durable else 'memory'}, {clients:,} clients"
        walk = engine_system(durable=durable, keyed=True)
        run = partial(closed_loop.measure, walk, MANY_ORDERS, clients, options.seconds)
        cells.append(Cell(group, "walk", run))
        beside: tuple[str, ...] = ("walk",)
        if durable and has_peer:
            peer = partial(_measure_peer, courses, min(THREADS, clients), options.seconds)
            cells.append(Cell(group, "umadb", peer))
            beside = ("walk", "umadb")
        measured = partial(_measure, durable, courses, clients, options.seconds)
        cells.append(Cell(group, "courses", measured, beside))
    return Scenario(
        "courses",
        "from a command to its durable receipt, closed loop, decided on two boundaries by tags",
        {
            "durability": DURABLE,
            "work": f"a student of {courses:,} takes one of {courses:,} courses; one event, 2 tags",
            "walk": "orders of each client's own; one event a command",
            "umadb": f"its server and {THREADS} threads with its own client"
            if has_peer
            else "none is installed: pip install umadb",
            "keyed": "the engine's commands have key, correlation and principal",
            "loop": f"uvloop; clients are its tasks; {options.seconds:g} s a cell",
        },
        closed_loop.COLUMNS,
        "commands",
        cells,
    )


def _enrolments(courses: int, client: int) -> Iterator[Any]:
    draw = random.Random(client)
    while True:
        yield Enrol(f"c-{draw.randrange(courses)}", f"s-{draw.randrange(courses)}")


# -- the engine ----------------------------------------------------------------------------------


def _measure(
    durable: bool, courses: int, clients: int, seconds: float, folder: Path
) -> dict[str, float]:
    path = folder / "engine.db"
    store = f"sqlite:{path}" if durable else "memory:"
    figures, answers = engine.run(_run, store, courses, clients, seconds)
    if durable:
        _check(path, courses, answers)
    return figures


async def _run(
    store: str, courses: int, clients: int, seconds: float
) -> tuple[dict[str, float], int]:
    async with engine.Engine([Course, Student], decisions=[offer, enrol], store=store) as running:
        offers = (Offer(f"c-{n}", _SEATS) for n in range(courses))
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


# -- the peer ------------------------------------------------------------------------------------


class _Uma:
    """The peer's client, bound to what its package has; each thread has one of its own."""

    def __init__(self, url: str) -> None:
        self._umadb: Any = importlib.import_module("umadb")
        self.client: Any = self._umadb.Client(url)

    def offer(self, course: str) -> None:
        """Offer a course."""
        event = self._umadb.Event("course-offered", b'{"seats":%d}' % _SEATS, [f"course:{course}"])
        self.client.append([event])

    def enrol(self, course: str, student: str) -> None:
        """Read, decide and append, until nothing has come meanwhile."""
        umadb = self._umadb
        about_course, about_student = f"course:{course}", f"student:{student}"
        query = umadb.Query(
            [
                umadb.QueryItem(["course-offered", "student-enrolled"], [about_course]),
                umadb.QueryItem(["student-enrolled"], [about_student]),
            ]
        )
        while True:
            found, head = self.client.read(query).collect_with_head()
            taken = sum(
                about_course in event.event.tags and event.event.event_type == "student-enrolled"
                for event in found
            )
            if taken >= _SEATS or len(found) - taken > _COURSES_MAX:
                raise Wrong("the peer refuses what it should take")
            event = umadb.Event("student-enrolled", b"{}", [about_course, about_student])
            try:
                self.client.append([event], umadb.AppendCondition(query, head))
            except umadb.IntegrityError:
                continue
            return


def _measure_peer(courses: int, threads: int, seconds: float, folder: Path) -> dict[str, float]:
    with _server(folder) as url:
        uma = _Uma(url)
        _in_threads(threads, lambda number: _offer_some(url, range(number, courses, threads)))
        running = _Running()
        clients = [_Client(url, number, courses, running) for number in range(threads)]
        for client in clients:
            client.start()
        time.sleep(seconds / 4)
        running.warm, begin, first = True, time.perf_counter(), sum(c.answers for c in clients)
        time.sleep(seconds)
        rate = (sum(c.answers for c in clients) - first) / (time.perf_counter() - begin)
        running.on = False
        for client in clients:
            client.join()
        answers = sum(client.answers for client in clients)
        found = uma.client.head()
    if found != courses + answers:
        raise Wrong(f"the peer acknowledged {answers:,} enrolments, and its log ends at {found}")
    times = Histogram(seconds for client in clients for seconds in client.times)
    return {"commands": rate, **times.milliseconds()}


def _offer_some(url: str, numbers: range) -> None:
    uma = _Uma(url)
    for number in numbers:
        uma.offer(f"c-{number}")


def _in_threads(count: int, call: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Running:
    """What the clients look at."""

    on = True
    warm = False


class _Client(threading.Thread):
    """One client of the peer, in a closed loop."""

    def __init__(self, url: str, number: int, courses: int, running: _Running) -> None:
        super().__init__()
        self._url = url
        self._commands = _enrolments(courses, number)
        self._running = running
        self.answers = 0
        self.times: list[float] = []

    def run(self) -> None:
        """Send until it is over."""
        uma, running = _Uma(self._url), self._running
        while running.on:
            command = next(self._commands)
            begin = time.perf_counter()
            uma.enrol(command.course, command.student)
            self.answers += 1
            if running.warm:
                self.times.append(time.perf_counter() - begin)


@contextlib.contextmanager
def _server(folder: Path) -> Generator[str]:
    """Start the peer's server on a free port, with its file in the folder of the cell."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    program = Path(sys.executable).parent / "umadb"
    place = ["--listen", f"127.0.0.1:{port}", "--db-path", str(folder / "peer.umadb")]
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen([program, *place], stdout=log, stderr=log)
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise Wrong("the peer's server did not start")
