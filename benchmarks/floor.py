"""The fixed floor: the least that an actor loop with group commit can be, in one small file.

It does the benchmark's work with nothing around it: no keys, no metadata, no checksums, no
passivation, no conflicts, no error handling. The engine is measured as a ratio to it in the same
run. It must stay as it is; change it only with a reason in the commit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from typing import Any

import apsw
import msgspec

_EVENTS = (
    "create table events(position integer primary key, stream text not null, "
    "version integer not null, type text not null, data blob not null)"
)
_INSERT = "insert into events values"
_CHUNK = 256
_encode = msgspec.json.Encoder().encode

Row = tuple[int, str, int, str, bytes]


class FloorWriter:
    """A thread that inserts batches into bare SQLite, WAL and synchronous=FULL; or nothing."""

    def __init__(self, path: str | None) -> None:
        """Open the file, or keep nothing where there is no path."""
        self._calls: queue.SimpleQueue[tuple[list[Row], Any] | None] = queue.SimpleQueue()
        self._connection: Any = None if path is None else connect(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def submit(self, rows: list[Row], done: Any) -> None:
        """Write the rows, then call `done` in the loop."""
        if self._connection is None:
            asyncio.get_running_loop().call_soon(done)
        else:
            self._calls.put((rows, (asyncio.get_running_loop(), done)))

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            rows, (loop, done) = call
            insert(self._connection, rows)
            loop.call_soon_threadsafe(done)


def insert(connection: Any, rows: list[Row]) -> None:
    """Write the rows in one transaction; they are on disk when it returns."""
    connection.execute("begin immediate")
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        flat: list[Any] = []
        for row in part:
            flat += row
        connection.execute(_INSERT + ",".join(["(?,?,?,?,?)"] * len(part)), flat)
    connection.execute("commit")


def connect(path: str) -> Any:
    """Open bare SQLite, durable at each commit, with the table of the rows."""
    connection: Any = apsw.Connection(path, statementcachesize=512)
    for statement in (
        "pragma page_size=8192",
        "pragma journal_mode=wal",
        "pragma synchronous=full",
        "pragma wal_autocheckpoint=4000",
        _EVENTS,
        "create unique index stream_version on events(stream, version)",
    ):
        connection.execute(statement).fetchall()
    return connection


class FloorActor:
    """State, version and mailbox of one order."""

    __slots__ = ("items", "mailbox", "name", "scheduled", "version")

    def __init__(self, name: str) -> None:
        """Begin empty."""
        self.name = name
        self.items: dict[str, int] = {}
        self.version = 0
        self.mailbox: deque[tuple[Any, asyncio.Future[int]]] = deque()
        self.scheduled = False


class FloorEngine:
    """The bare loop: mailbox, handler, encode, fold, gather, write, answer."""

    def __init__(self, path: str | None) -> None:
        """Write to a SQLite file, or nowhere."""
        self._loop = asyncio.get_running_loop()
        self._writer = FloorWriter(path)
        self._actors: dict[str, FloorActor] = {}
        self._rows: list[Row] = []
        self._answers: list[tuple[asyncio.Future[int], int]] = []
        self._in_flight = False
        self._kicked = False
        self.position = 0
        self.commits = 0

    def execute(self, command: Any) -> asyncio.Future[int]:
        """Give the future of the command's version."""
        actor = self._actors.get(command.order_id)
        if actor is None:
            actor = self._actors[command.order_id] = FloorActor(command.order_id)
        future: asyncio.Future[int] = self._loop.create_future()
        actor.mailbox.append((command, future))
        if not actor.scheduled:
            actor.scheduled = True
            self._loop.call_soon(self._work, actor)
        return future

    def _work(self, actor: FloorActor) -> None:
        actor.scheduled = False
        while actor.mailbox:
            command, future = actor.mailbox.popleft()
            self.position += 1
            actor.version += 1
            actor.items[command.item] = command.quantity
            row = (self.position, actor.name, actor.version, "adjusted", _encode(command))
            self._rows.append(row)
            self._answers.append((future, actor.version))
        self._kick()

    def _kick(self) -> None:
        if not self._in_flight and not self._kicked and self._rows:
            self._kicked = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._kicked, self._in_flight = False, True
        rows, self._rows = self._rows, []
        answers, self._answers = self._answers, []
        self.commits += 1

        def done() -> None:
            self._in_flight = False
            for future, version in answers:
                if not future.done():
                    future.set_result(version)
            self._kick()

        self._writer.submit(rows, done)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
