"""Moves the contents of closed streams out of a log in a file, into the cold file beside it.

Rules: it has the log as an engine has it, with both locks, so no engine runs meanwhile;
`archiving_beside` works beside one. What is copied is synced, read back through a connection that
remembers nothing, and compared byte for byte and with its checksums. Only then it is removed, in a
transaction with the note of it. A trigger of that connection compares once more: it lets an event
be emptied if the cold file has the same, and changes nothing else. The triggers in the file stay.
The last event of the log is never moved, since an engine looks at it as it starts. A run that is
refused leaves no note. Last, SQLite rewrites the file, which gives the room back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

import apsw
import msgspec

from ....errors import StoreFailed, StoreRefused
from ....model.stored import StoredEvent
from ....runtime.ports import Ports
from ...contract.archiving import Archived, ArchiveRule, Progress
from ..connection import (
    IN_MEMORY,
    cut_wal,
    durable_settings,
    has_no_folder,
    is_out_of_room,
    make_wal_durable,
    open_writer,
    run,
    run_many,
    set_pragma,
    set_reading,
    transaction,
    unreadable,
)
from ..files import Files, files_of
from ..lock_files import check_beside, exists
from ..shape import harden
from ..wal import PAGE_BYTES
from .behind import keep_behind
from .cold import (
    APPLICATION_ID,
    COLD_VERSION,
    MOVED,
    PARTIAL,
    attach,
    check_cold,
    cold_path,
    count_odd_names,
    detach,
    lacks,
)
from .damage import read_wal
from .heads import read_types
from .pages import read_selected
from .schema import COLD, check_inserted, insert_events
from .store import SqliteStore

__all__ = ["Page", "SqliteArchiver"]

T = TypeVar("T")
Call: TypeAlias = Callable[..., Awaitable[Any]]
"""Calls a function with a connection, and with what else is given."""

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 16 * 1024 * 1024
"""What is moved in one transaction."""
_PAGE_STREAMS: Final = 5_000
_ENDINGS: Final = ("", "-wal", "-shm", "-journal")

_CLOSED: Final = f"""
    SELECT s.number, s.name FROM streams s CROSS JOIN events e ON e.stream = s.number
        AND e.version = (SELECT max(version) FROM events WHERE stream = s.number)
    WHERE s.name > ?1 AND s.name >= ?2 || ':' AND s.name < ?2 || ';'
        AND e.encoding <> {MOVED} AND e.recorded < ?4
        AND e.position < (SELECT max(position) FROM events)
        AND e.type IN (SELECT number FROM event_types WHERE name IN (
            SELECT value FROM json_each(?3)))
    ORDER BY s.name LIMIT {_PAGE_STREAMS}
"""  # noqa: S608 - numbers of ours
_SIZES: Final = f"""
    SELECT version, position, length(payload) + length(metadata) FROM events
    WHERE stream = ? AND version > ? AND encoding <> {MOVED} ORDER BY version LIMIT {_PAGE_EVENTS}
"""  # noqa: S608 - numbers of ours
_ROWS: Final = """
    SELECT position, stream, version, type, recorded, encoding, payload, metadata, checksum
    FROM events WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position
"""
_THERE: Final = "SELECT position FROM events WHERE position IN (SELECT value FROM json_each(?))"
_NAMES: Final = "SELECT number, name FROM streams WHERE number IN (SELECT value FROM json_each(?))"
_EMPTY: Final = f"""
    UPDATE events SET encoding = {MOVED}, payload = x'', metadata = x''
    WHERE position IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - a number of ours
# What an UPDATE may do to this connection, whatever the code above believes.
_ONLY_MOVED: Final = f"""
    CREATE TEMP TRIGGER IF NOT EXISTS events_only_move BEFORE UPDATE ON main.events
    WHEN new.encoding <> {MOVED} OR new.payload <> x'' OR new.metadata <> x''
        OR (new.position, new.stream, new.version, new.type, new.recorded, new.checksum) IS NOT
           (old.position, old.stream, old.version, old.type, old.recorded, old.checksum)
        OR NOT EXISTS (
            SELECT 1 FROM cold.events c WHERE c.position = old.position
            AND (c.stream, c.version, c.type, c.recorded, c.checksum) IS
                (old.stream, old.version, old.type, old.recorded, old.checksum)
            AND (c.encoding, c.payload, c.metadata) IS (old.encoding, old.payload, old.metadata))
    BEGIN SELECT RAISE(ABORT, 'an event is emptied only where the cold file has the same'); END
"""  # noqa: S608 - a number of ours
_MOVED_ANY: Final = "SELECT 1 FROM archives WHERE events > 0 LIMIT 1"
_BEGIN_RUN: Final = "INSERT INTO archives VALUES (?, ?, ?, 0, 0, 0, 0, 0)"
_NOTE: Final = """
    UPDATE archives SET streams = streams + ?, events = events + ?, bytes = bytes + ?,
        position = max(position, ?) WHERE number = ?
"""
_ABOUT: Final = "INSERT INTO about VALUES (1, ?, ?)"


class Page(msgspec.Struct):
    """Events that are moved in one transaction."""

    positions: list[int] = []
    bytes: int = 0
    streams: int = 0
    """Whose last event is among them."""

    @property
    def asked(self) -> str:
        """Give the positions as statements take them."""
        return msgspec.json.encode(self.positions).decode()


class SqliteArchiver(SqliteStore):
    """Moves closed streams of the log in the file `path`."""

    has_log = True

    def __init__(self, path: str, ports: Ports) -> None:
        super().__init__(path)
        self._given = ports
        self._cold: Any = None
        self._run = 0

    async def __aenter__(self) -> SqliteArchiver:
        """Take the log; raise StoreLocked where an engine has it, StoreRefused without a log."""
        self._check_there()
        await self.open(self._given)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the log back."""
        await self._end()

    def _check_there(self) -> None:
        """Refuse a name that leads to no log: an engine would make one of that name."""
        if not files_of(self._given).size(self.path):
            raise StoreRefused(f"there is no log {self.path}: nothing was moved")

    async def archive(
        self, rule: ArchiveRule, progress: Progress, *, dry_run: bool = False
    ) -> Archived:
        """Move what the rule selects, and give the room back."""
        files = files_of(self._given)
        path = cold_path(self.path)
        done = Archived(before=files.size(self.path), cold=path)
        if dry_run and self._is_entered:
            await self._count(rule, done, self._own)
        elif dry_run:
            self._check_there()
            with (
                unreadable(self.path),
                closing(files.connect(self.path, readonly=True)) as connection,
            ):
                set_reading(connection)
                harden(connection)
                await self._count(rule, done, partial(_at_once, connection))
        else:
            await self._archive(rule, done, progress)
        done.after, done.cold_bytes = files.size(self.path), files.size(path)
        return done

    async def _archive(self, rule: ArchiveRule, done: Archived, progress: Progress) -> None:
        events, self._run = await self._own(_counted, rule), 0
        async with aclosing(self._pages(rule, self._own)) as pages:
            async for page in pages:
                if self._cold is None:
                    await self._own(self._open_cold)
                    await self._on_writer(self._let_move)
                await self._own(self._bring, page)
                await self._on_writer(self._leave, page, rule)
                self._merge_if_large()
                _add(done, page)
                progress(done.events, events)
        self._reach("archive.emptied")
        done.is_shrunk = await self._on_writer(self._shrink)

    async def _count(self, rule: ArchiveRule, done: Archived, call: Call) -> None:
        async with aclosing(self._pages(rule, call)) as pages:
            async for page in pages:
                _add(done, page)

    async def _pages(self, rule: ArchiveRule, call: Call) -> AsyncGenerator[Page]:
        """Give the events that the rule selects, each stream from its beginning."""
        closed = await call(_closed, rule)
        while found := await call(_next, closed):
            names: dict[str, int] = found
            streams = [names[name] for name in await rule.chosen([*names])]
            pages = await call(_pages_of, streams, *self._page_max)
            while page := await call(_next, pages):
                yield page

    @property
    def _is_entered(self) -> bool:
        return False  # to look, the log is opened read-only, whoever has it

    @property
    def _page_max(self) -> tuple[int, int]:
        return _PAGE_EVENTS, _PAGE_BYTES

    def _merge_if_large(self) -> None:
        if self._merger is not None:
            self._merger.merge_if_large()

    async def _own(self, call: Callable[..., T], *args: Any) -> T:
        """Call it with a connection on which to read and copy."""
        return await self._on_writer(call, *args)

    async def _end(self) -> None:
        try:
            if self._writer is not None:
                await self._on_writer(self._close_cold)
        finally:
            await self.close()

    # -- the cold file ------------------------------------------------------------------------

    def _open_cold(self, connection: Any) -> None:
        files, path = files_of(self._ports), cold_path(self.path)
        try:
            if not exists(path):
                if run(connection, _MOVED_ANY):
                    raise StoreRefused("it is not there: put that file back")
                self._make_cold(files, path)
            check_beside(path, files.size)
            cold = self._cold = open_writer(files, path)
            harden(cold)
            read_wal(cold, files, path)
            check_cold(cold, path, self.log_id, "main")
            for pragma, value in durable_settings():
                set_pragma(cold, pragma, value)
            make_wal_durable(cold, files, path)
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            raise StoreRefused(
                f"{path} cannot be used: {error}. Nothing more was moved; move that file away if "
                f"it belongs to another log"
            ) from error
        if (why := attach(connection)) is not None:
            raise StoreRefused(f"{why}. Nothing was moved")
        lacking = lacks(connection)
        if lacking:
            raise StoreRefused(
                f"{path} does not have the event at position {lacking}, which was moved there: "
                f"that file is older than the log. Nothing was moved: no file would have all. Put "
                f"the right file back, and run the command again"
            )
        if count_odd_names(connection, 1):
            raise StoreRefused(
                f"{path} has streams by other numbers than the log: it was beside another copy of "
                f"this log, such as the one before a restore. Nothing was moved. "
                + (
                    "Put the right file back, and run the command again"
                    if run(connection, _MOVED_ANY)
                    else "Move that file away, and run the command again"
                )
            )

    def _make_cold(self, files: Files, path: str) -> None:
        partial = path + PARTIAL
        for ending in _ENDINGS:
            files.remove(partial + ending)
        with closing(files.connect(partial)) as cold:
            harden(cold)
            set_pragma(cold, "page_size", PAGE_BYTES)
            for pragma, value in durable_settings():
                set_pragma(cold, pragma, value)
            with transaction(cold):
                for statement in COLD:
                    run(cold, statement)
                run(cold, f"PRAGMA application_id = {APPLICATION_ID}")
                run(cold, f"PRAGMA user_version = {COLD_VERSION}")
                run(cold, _ABOUT, (self.log_id, self._ports.clock.now()))
            cut_wal(cold, files, partial)
        files.place(partial, path)
        self._reach("archive.made")

    def _let_move(self, connection: Any) -> None:
        """Let events be emptied of which the cold file has the same, and nothing else."""
        run(connection, "DROP TRIGGER IF EXISTS temp.events_never_change")
        run(connection, _ONLY_MOVED)

    def _close_cold(self, connection: Any) -> None:
        detach(connection)
        cold, self._cold = self._cold, None
        if cold is not None:
            cold.close()

    # -- moving -------------------------------------------------------------------------------

    def _bring(self, connection: Any, page: Page) -> None:
        """Copy a page, and compare it."""
        with unreadable(self.path):
            events = self._read(connection, page.positions)
            rows = run(connection, _ROWS, (page.asked,))
        self._copy(connection, events, rows)
        self._reach("archive.copied")
        self._compare(page, events, rows)
        self._reach("archive.verified")

    def _leave(self, connection: Any, page: Page, rule: ArchiveRule) -> None:
        """Remove a page from the log, and note it; the first note is that of the run."""
        self._keep(connection, lambda c: self._remove(c, page, rule))
        self._reach("archive.moved")

    def _read(self, connection: Any, positions: Sequence[int]) -> list[StoredEvent]:
        """Give events, each compared with its checksum; raise Damaged."""
        names = {number: (name, version) for number, name, version, _ in read_types(connection)}
        events: list[StoredEvent] = []
        while len(events) < len(positions):
            rest = positions[len(events) :]
            events += read_selected(connection, names.__getitem__, rest, _PAGE_BYTES, True)
        return events

    def _copy(
        self, connection: Any, events: Sequence[StoredEvent], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Put into the cold file what it has not, with the names that it leans on, and sync it."""
        cold, path = self._cold, cold_path(self.path)
        asked = msgspec.json.encode([row[0] for row in rows]).decode()
        streams = msgspec.json.encode(sorted({row[1] for row in rows})).decode()
        try:
            there = {row[0] for row in run(cold, _THERE, (asked,))}
            with transaction(cold):
                names = run(connection, _NAMES, (streams,))
                run_many(cold, "INSERT OR IGNORE INTO streams VALUES (?, ?)", names)
                types = read_types(connection)
                run_many(cold, "INSERT OR IGNORE INTO event_types VALUES (?, ?, ?, ?)", types)
                insert_events(cold, [row for row in rows if row[0] not in there])
                keep_behind(cold, [e for e in events if e.position not in there])
            run(cold, "PRAGMA wal_checkpoint(PASSIVE)")
        except apsw.Error as error:
            raise StoreFailed(
                f"{path} cannot be written: {error}. What was not moved is in {self.path}; run the "
                f"command again, and it continues",
                written=False,
                passes=True,
            ) from error

    def _compare(
        self, page: Page, events: Sequence[StoredEvent], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Read the copy back, and refuse to go on where it is not the same; raise Damaged."""
        files, path = files_of(self._ports), cold_path(self.path)
        with unreadable(path), closing(files.connect(path, readonly=True)) as cold:
            set_reading(cold)
            set_pragma(cold, *IN_MEMORY)  # a page is small, and no folder need have room for it
            harden(cold)
            found = self._read(cold, page.positions)
            if found != events or run(cold, _ROWS, (page.asked,)) != rows:
                raise StoreRefused(
                    f"{path} has other events at the positions from {min(page.positions)} on than "
                    f"{self.path}: nothing of them was removed. Move that file away if it belongs "
                    f"to another log, and run the command again"
                )

    def _remove(self, connection: Any, page: Page, rule: ArchiveRule) -> None:
        number = self._run
        if not number:
            number = run(connection, "SELECT ifnull(max(number), 0) + 1 FROM archives")[0][0]
            run(connection, _BEGIN_RUN, (number, self._ports.clock.now(), str(rule)))
        run(connection, _EMPTY, (page.asked,))
        check_inserted(connection, len(page.positions))
        last = max(page.positions)
        values = (page.streams, len(page.positions), page.bytes, last, number)
        run(connection, _NOTE, values)
        self._reach("archive.removing")
        self._run = number

    # -- the room -----------------------------------------------------------------------------

    def _shrink(self, connection: Any) -> bool:
        """Rewrite the file of the log without what was moved; tell whether it is smaller now."""
        if not run(connection, "SELECT 1 FROM archives WHERE shrunk = 0 LIMIT 1"):
            return True
        self._close_cold(connection)
        try:
            set_pragma(connection, "temp_store", 1)  # in memory it would take as much as the log
            run(connection, "VACUUM main")
            self._reach("archive.shrunk")
            cut_wal(connection, files_of(self._ports), self.path)
            self._keep(connection, lambda c: run(c, "UPDATE archives SET shrunk = 1"))
        except (apsw.FullError, apsw.BusyError, OSError, StoreFailed):
            return False  # what was moved is moved: it is tried again by the next run
        except apsw.IOError as error:
            if is_out_of_room(connection, error) or has_no_folder(error):
                return False
            raise
        return True


def _add(done: Archived, page: Page) -> None:
    done.streams += page.streams
    done.events += len(page.positions)
    done.bytes += page.bytes


async def _at_once(connection: Any, call: Callable[..., Any], *args: Any) -> Any:
    return call(connection, *args)


def _pages_of(
    connection: Any, streams: Sequence[int], events_max: int, bytes_max: int
) -> Iterator[Page]:
    """Give the events of some streams that were not moved, in pages."""
    page = Page()
    for number in streams:
        for position, size in _events(connection, number):
            if len(page.positions) >= events_max or page.bytes + size > bytes_max:
                if page.positions:
                    yield page
                page = Page()
            page.positions.append(position)
            page.bytes += size
        page.streams += 1
    if page.positions:
        yield page


def _events(connection: Any, stream: int) -> Iterator[tuple[int, int]]:
    """Give position and size of each event of a stream that was not moved, in order."""
    version = 0
    while found := run(connection, _SIZES, (stream, version)):
        yield from ((position, size) for _, position, size in found)
        version = found[-1][0]


def _next(_connection: Any, found: Iterator[T]) -> T | None:
    return next(found, None)


def _closed(connection: Any, rule: ArchiveRule) -> Iterator[dict[str, int]]:
    """Give the numbers of closed streams by their names, many at a time."""
    names = msgspec.json.encode(rule.closed_by).decode()
    after = ""
    while found := run(connection, _CLOSED, (after, rule.kind, names, rule.before)):
        yield {name: number for number, name in found}
        after = found[-1][1]


def _counted(connection: Any, rule: ArchiveRule) -> int:
    """Count the events that are to be moved at most."""
    return sum(
        1
        for found in _closed(connection, rule)
        for number in found.values()
        for _ in _events(connection, number)
    )
