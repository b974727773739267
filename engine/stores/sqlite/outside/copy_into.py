"""A log that is copied into a new file from elsewhere, and what stands about it beside.

Rules: until it is whole and verified the file is called TO.partial, and has a table that says how
far it is, in the transaction of each page. So a copy that was killed goes on from there. The file
itself is held as an engine holds its log: no two write into it, not even where both have all
events and one gives it its name. Nothing is written over. The log gets its name last, synced. By
how much a writer's clock was behind, which a log in SQLite never needs of its own, is kept in a
table of its own for the events that need it. Calls block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

import apsw
import msgspec

from ....errors import StoreFailed, StoreLocked, StoreRefused
from ....model.projection import slice_of
from ....model.stored import EventType, Snapshot, StoredEvent
from ...contract.claims import HeldClaim
from ...contract.copying import Carried, Mark, Repaired, foreign_copy, marked, rival_copy
from ...contract.outside import Found
from ...contract.requests import Request
from ...contract.timers import WaitingTimer
from ...contract.views import Parked
from ..connection import described, durable_settings, run, run_many, set_pragma, transaction
from ..files import Files, Lock
from ..log.behind import keep_behind
from ..log.repairs import keep_repairs
from ..log.schema import MIGRATIONS, insert_events, insert_streams, migrate, protect
from ..log.snapshots import write_snapshots
from ..log.timers import add_timers
from ..shape import harden
from ..views.builds import check_file, open_file
from ..views.parked import add_decision
from ..wal import PAGE_BYTES
from .copy import PARTIAL, place_copy, refuse_what_is_there
from .log import SqliteLogReader

__all__ = ["SqliteCopyTarget"]

_ENDINGS: Final = ("", "-wal", "-shm", "-journal")
_MERGED_PAGES: Final = 8_192
"""What the write-ahead log may have before it is merged: 64 MiB."""
_STREAMS_MAX: Final = 200_000
"""Whose numbers are remembered."""
_PAGE_EVENTS: Final = 1_000
_PAGE_BYTES: Final = 16 * 1024 * 1024
_MARK: Final = (
    "CREATE TABLE copying(one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, digest INTEGER NOT NULL) STRICT"
)
_ABOUT: Final = "INSERT INTO about VALUES (1, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER))"
_TYPES: Final = (
    "INSERT INTO event_types VALUES (?, ?, ?, ?) "
    "ON CONFLICT (number) DO UPDATE SET schema_hash = excluded.schema_hash"
)


class SqliteCopyTarget:
    """The file `path`, and that of its views."""

    def __init__(self, path: str, views: str, files: Files) -> None:
        self._path = path
        self._partial = path + PARTIAL
        self._views = views
        self._files = files
        self._connection: apsw.Connection | None = None
        self._hold: Lock | None = None
        """Of the file itself: while it is open, nobody else copies there."""
        self._log_id = ""
        self._has_views = False
        self._streams: dict[str, int] = {}
        self._types: dict[tuple[str, int], int] = {}
        self._known: Sequence[EventType] = ()

    @property
    def name(self) -> str:
        """Its path."""
        return self._path

    def __enter__(self) -> SqliteCopyTarget:
        """Take calls."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file, which stays as it is."""
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    # -- the log ------------------------------------------------------------------------------

    def begin(self, log_id: str) -> Mark:
        """Make the file, or go on with the one that is there."""
        self._log_id = log_id
        begun = self._files.size(self._partial) > 0
        refuse_what_is_there(self._path)
        with self._writing():
            if not begun:
                for name in (self._views, self._views + PARTIAL):
                    refuse_what_is_there(name)
                if (
                    self._files.identify(self._partial) is None
                ):  # never removed: it may be a rival's
                    self._files.make(self._partial)
            connection = self._connection = self._files.connect(self._partial)
            harden(connection)
            if not begun:
                set_pragma(connection, "page_size", PAGE_BYTES)
            for pragma, value in durable_settings():
                set_pragma(connection, pragma, value)
            set_pragma(connection, "synchronous", 1)  # in order; all of it at the end
            set_pragma(connection, "wal_autocheckpoint", _MERGED_PAGES)
            self._take(connection)
            return self._begun(connection)

    def _take(self, connection: apsw.Connection) -> None:
        """Hold the file, which another process may have given its name meanwhile."""
        try:
            self._hold = self._files.hold(self._partial, connection)
        except (StoreLocked, FileNotFoundError) as error:
            raise rival_copy(self._path) from error
        refuse_what_is_there(self._path)

    def _begun(self, connection: apsw.Connection) -> Mark:
        version = run(connection, "PRAGMA user_version")[0][0]
        if version == 0:
            migrate(connection, 0)
        elif version != len(MIGRATIONS):
            raise StoreRefused(
                f"{self._partial} was begun by another release: remove it, and begin anew"
            )
        found = run(connection, "SELECT log_id FROM about")
        if found and found[0][0] != self._log_id:
            raise foreign_copy(self._partial, found[0][0], self._log_id)
        there = run(connection, "SELECT 1 FROM sqlite_schema WHERE name = 'copying'")
        if not there:
            # Nothing is in it yet, or it was killed as it was to have its name.
            mark = self._read_mark() if found else Mark()
            with transaction(connection):
                run(connection, _MARK)
                row = (mark.position, mark.checksum, mark.digest)
                run(connection, "INSERT INTO copying VALUES (1, ?, ?, ?)", row)
                if not found:
                    run(connection, _ABOUT, (self._log_id,))
        sql = "SELECT position, checksum, digest FROM copying"
        return Mark(*run(connection, sql)[0])

    def _read_mark(self) -> Mark:
        mark = Mark()
        with self.written() as log:
            while page := log.read_feed(
                mark.position, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES
            ):
                mark = marked(mark, page)
        return mark

    def add(
        self, events: Sequence[StoredEvent], types: Sequence[EventType], before: Mark, after: Mark
    ) -> None:
        """Add a page, and say how far the copy is, in one transaction."""
        connection = self._open()
        with self._writing(), transaction(connection):
            self._move_mark(connection, before, after)
            self._keep_types(connection, types)
            self._know_streams(connection, {event.stream for event in events})
            # In few statements: each row of its own would hand the interpreter's lock over, and
            # wait for whoever reads the next page.
            insert_events(connection, [self._row(event) for event in events])
            keep_behind(connection, events)

    def _move_mark(self, connection: apsw.Connection, before: Mark, after: Mark) -> None:
        run(
            connection,
            "UPDATE copying SET position = ?, checksum = ?, digest = ? WHERE position = ?",
            (after.position, after.checksum, after.digest, before.position),
        )
        if connection.changes() != 1:
            raise rival_copy(self._path)

    def _row(self, event: StoredEvent) -> tuple[int | bytes, ...]:
        return (
            event.position,
            self._streams[event.stream],
            event.version,
            self._types[event.name, event.event_version],
            event.recorded,
            event.encoding,
            event.payload,
            event.metadata,
            event.checksum,
        )

    def _keep_types(self, connection: apsw.Connection, types: Sequence[EventType]) -> None:
        if types is self._known:
            return
        rows = [(n, t.name, t.version, t.schema_hash) for n, t in enumerate(types, 1)]
        run_many(connection, _TYPES, rows)
        self._types = {(name, version): number for number, name, version, _ in rows}
        self._known = types

    def _know_streams(self, connection: apsw.Connection, names: set[str]) -> None:
        if len(self._streams) > _STREAMS_MAX:
            self._streams.clear()
        wanted = names - self._streams.keys()
        if not wanted:
            return
        asked = msgspec.json.encode(sorted(wanted)).decode()
        sql = "SELECT name, number FROM streams WHERE name IN (SELECT value FROM json_each(?))"
        self._streams.update(run(connection, sql, (asked,)))
        new = sorted(wanted - self._streams.keys())
        if new:
            last: int = run(connection, "SELECT ifnull(max(number), 0) FROM streams")[0][0]
            rows = list(enumerate(new, last + 1))
            insert_streams(connection, rows)
            self._streams.update((name, number) for number, name in rows)

    # -- the rest -----------------------------------------------------------------------------

    def clear_kept(self) -> None:
        """Forget what claims and timers were kept."""
        with self._writing():
            run(self._open(), "DELETE FROM claims")
            run(self._open(), "DELETE FROM timers")

    def keep_claims(self, claims: Sequence[HeldClaim]) -> None:
        """Keep more claims, whose streams are known before their events come."""
        connection = self._open()
        with self._writing(), transaction(connection):
            self._know_streams(connection, {claim.stream for claim in claims})
            run_many(
                connection,
                "INSERT INTO claims VALUES (?, ?, ?, ?)",
                [(c.name, c.value, self._streams[c.stream], c.position) for c in claims],
            )

    def keep_timers(self, timers: Sequence[WaitingTimer]) -> None:
        """Keep more timers."""
        connection = self._open()
        with self._writing(), transaction(connection):
            add_timers(connection, timers)

    def keep_snapshots(self, snapshots: Iterable[Sequence[Snapshot]]) -> None:
        """Keep snapshots, each page in a transaction."""
        connection = self._open()
        for page in snapshots:
            with self._writing(), transaction(connection):
                write_snapshots(connection, page)

    def keep_carried(self, types: Sequence[EventType], carried: Carried | None) -> None:
        """Make the file of views anew."""
        connection = self._open()
        with self._writing(), transaction(connection):
            self._keep_types(connection, types)
        partial = self._views + PARTIAL
        for name in (partial, self._views):
            self._remove(name)
        self._has_views = carried is not None
        if carried is None:
            return
        with self._writing():
            self._files.make(partial)
            views = self._files.connect(partial)
            try:
                set_pragma(views, "page_size", PAGE_BYTES)
                open_file(views, partial, self._log_id)
                with transaction(views):
                    _fill(views, carried)
            finally:
                views.close()

    def _remove(self, name: str) -> None:
        """Remove a file of views of a copy that was killed, and of nothing else."""
        if self._files.size(name) > 0 and not name.endswith(PARTIAL):
            views = self._files.connect(name, readonly=True)
            try:
                if (log_id := check_file(views, name)) != self._log_id:
                    raise foreign_copy(name, log_id, self._log_id)
            finally:
                views.close()
        for ending in _ENDINGS:
            self._files.remove(name + ending)

    def keep_repairs(self, repairs: Sequence[Repaired]) -> None:
        """Keep what was repaired."""
        connection = self._open()
        with self._writing(), transaction(connection):
            keep_repairs(connection, repairs)

    def written(self) -> SqliteLogReader:
        """Give the file to be read."""
        return SqliteLogReader(self._partial, self._files)

    def place(self) -> None:
        """Give both files their names, the log's last."""
        connection = self._open()
        with self._writing():
            with transaction(connection):
                run(connection, "DROP TABLE copying")
            protect(connection)
            set_pragma(connection, "synchronous", 2)
            run(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
            self._close()
        if self._has_views:
            place_copy(self._files, self._views)
        place_copy(self._files, self._path)

    # -- what is open -------------------------------------------------------------------------

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            raise StoreFailed(f"the copy {self._path} is closed", written=False)
        return self._connection

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except apsw.FullError as error:
            raise StoreFailed(
                f"{self._path}: there is no room for the copy. Make some, and run this again: it "
                f"continues where it was",
                written=False,
                passes=True,
            ) from error
        except (apsw.Error, OSError) as error:
            why = f"{type(error).__name__}, {described(error)}"
            raise StoreFailed(
                f"the copy {self._path} cannot be written: {why}", written=False
            ) from error


def _fill(views: Any, carried: Carried) -> None:
    for decision in carried.decisions:
        add_decision(views, decision)
    for request in carried.requests:
        run(views, "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _request(request))
    for sink in carried.sinks:
        _add_sink(views, sink, carried.parked[sink.projection])


def _request(request: Request) -> tuple[Any, ...]:
    return (
        request.number,
        request.kind,
        request.projection,
        msgspec.json.encode(request.arguments).decode(),
        request.asked,
        request.principal,
        request.state,
        request.answer,
        request.answered,
    )


def _add_sink(views: Any, sink: Found, parked: Sequence[Parked]) -> None:
    name, number = sink.projection, sink.number
    run(
        views,
        "INSERT INTO builds VALUES (?, ?, ?, ?, ?, ?, '[]', 'serving', NULL, 0)",
        (name, number, sink.version, sink.definition, sink.slices, sink.log_id),
    )
    for slice_, at in sorted(sink.checkpoints.items()):
        row = (name, number, slice_, at.position, at.checksum)
        run(views, "INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?)", row)
    for p in parked:
        place = (name, number, p.position, slice_of(p.key, sink.slices), p.key)
        rest = (p.event, p.stream, p.parked, p.attempts, p.cause)
        run(views, "INSERT INTO parked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*place, *rest))
