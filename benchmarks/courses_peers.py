"""What `courses` is measured beside: UmaDB's own client, and `eventsourcing` 10 above it.

Rules: the server of `umadb` is started on a free port, with its file in the folder of the cell. The
clients are threads, each with a client of its own: each reads the events of a course and a student,
decides, and appends with the condition that there are no newer ones; a conflict is tried again.
`umadb` is the client alone. `eventsourcing` is an application with a slice, as its own documents
show it, and its MessagePack transcoder, which is its fastest. A peer that is not installed is left
out. What is acknowledged is counted in the log.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from .histogram import Histogram
from .scenario import Wrong

__all__ = ["COURSES_MAX", "SEATS", "draws", "found", "measure", "told"]

SEATS: Final = 1_000_000
COURSES_MAX: Final = 10_000
_THREADS: Final = 64
_START_SECONDS: Final = 20.0


class Peer(Protocol):
    """One client of a peer."""

    def offer(self, course: str) -> None:
        """Offer a course."""
        ...

    def enrol(self, course: str, student: str) -> None:
        """Enrol, until nothing has come meanwhile."""
        ...


Make: TypeAlias = Callable[[str], Peer]
"""Gives a client, of the server's address."""


def draws(courses: int, client: int) -> Iterator[tuple[str, str]]:
    """Give courses and students, drawn at random, the same for each system."""
    draw = random.Random(client)
    while True:
        yield f"c-{draw.randrange(courses)}", f"s-{draw.randrange(courses)}"


def found() -> Mapping[str, Make]:
    """Give the peers that are installed."""
    peers: dict[str, Make] = {}
    if importlib.util.find_spec("umadb") is not None:
        peers["umadb"] = _Uma
        if importlib.util.find_spec("eventsourcing_umadb") is not None:
            peers["eventsourcing"] = importlib.import_module(f"{__package__}.courses_slices").School
    return peers


def told(clients: int) -> str:
    """Say which peers are measured, and how."""
    names = " and ".join(found())
    if not names:
        return "none is installed: pip install umadb eventsourcing-umadb"
    return f"{names}, on umadb's server, by {min(_THREADS, clients)} threads with a client each"


class _Uma:
    """The server's own client, bound to what its package has."""

    def __init__(self, url: str) -> None:
        self._umadb: Any = importlib.import_module("umadb")
        self.client: Any = self._umadb.Client(url)

    def offer(self, course: str) -> None:
        """Offer a course."""
        event = self._umadb.Event("course-offered", b'{"seats":%d}' % SEATS, [f"course:{course}"])
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
            if taken >= SEATS or len(found) - taken > COURSES_MAX:
                raise Wrong("the peer refuses what it should take")
            event = umadb.Event("student-enrolled", b"{}", [about_course, about_student])
            try:
                self.client.append([event], umadb.AppendCondition(query, head))
            except umadb.IntegrityError:
                continue
            return


def measure(
    make: Make, courses: int, clients: int, seconds: float, folder: Path
) -> dict[str, float]:
    """Run a cell of a peer; raise Wrong if its log has not what it acknowledged."""
    threads = min(_THREADS, clients)
    with _server(folder) as url:
        importlib.import_module("umadb")  # in this thread, which alone may take signals
        _in_threads(threads, lambda n: _offer_some(make(url), range(n, courses, threads)))
        running = _Running()
        loops = [_Client(make(url), number, courses, running) for number in range(threads)]
        for client in loops:
            client.start()
        time.sleep(seconds / 4)
        running.warm, begin, first = True, time.perf_counter(), sum(c.answers for c in loops)
        time.sleep(seconds)
        rate = (sum(c.answers for c in loops) - first) / (time.perf_counter() - begin)
        running.on = False
        for client in loops:
            client.join()
        answers = sum(client.answers for client in loops)
        head = _Uma(url).client.head()
    if head != courses + answers:
        raise Wrong(f"the peer acknowledged {answers:,} enrolments, and its log ends at {head}")
    times = Histogram(seconds for client in loops for seconds in client.times)
    return {"commands": rate, **times.milliseconds()}


def _offer_some(peer: Peer, numbers: range) -> None:
    for number in numbers:
        peer.offer(f"c-{number}")


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

    def __init__(self, peer: Peer, number: int, courses: int, running: _Running) -> None:
        super().__init__()
        self._peer = peer
        self._draws = draws(courses, number)
        self._running = running
        self.answers = 0
        self.times: list[float] = []

    def run(self) -> None:
        """Send until it is over."""
        peer, running = self._peer, self._running
        while running.on:
            course, student = next(self._draws)
            begin = time.perf_counter()
            peer.enrol(course, student)
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
