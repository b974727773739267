"""A SQLite log read from outside: by tools and other processes, while its engine runs or not.

Rules: the connection can only read; no lock is taken, no engine is kept waiting, and nothing is
made where no log is. A read transaction lasts one page. Every event is compared with its checksum,
every page with its order; what stands before a damaged event is given, and the page that would
begin with it raises Damaged. A file that is not a log, or that a later release has migrated, is
refused. Calls block: this is for programs without an event loop of others, or for a
worker. SQLite itself keeps an empty `-wal` and a `-shm` beside a log that is read and that nobody
writes; they hold nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, TypeVar

import apsw

from ....errors import Damaged, StoreFailed, StoreRefused
from ....model.stored import EventType, StoredEvent
from ...contract.archiving import ArchiveRun
from ...contract.claims import ClaimKey, HeldClaim
from ...contract.log import Head, StreamPage, StreamRead
from ...contract.outside import NoLog
from ...contract.tags import TagForm, TagPage, TagRead, TagRow
from ...contract.timers import BEGINNING, FOREVER, TimerKey, WaitingTimer
from ...contract.verifying import ProvedPage
from ..connection import described, run, set_reading, unreadable
from ..files import Files, SystemFiles
from ..log.claims import read_claims
from ..log.cold import kept_after, read_archives
from ..log.damage import read_wal
from ..log.ending import Ending
from ..log.heads import read_head, read_kinds, read_log_id, read_types
from ..log.pages import prove_feed, read_feed, read_streams
from ..log.schema import (
    CLAIMS_SINCE,
    MIGRATIONS,
    TAGS_SINCE,
    TIMERS_SINCE,
    check_schema,
    read_schema_version,
)
from ..log.tags import read_forms, read_rows, read_tagged
from ..log.timers import read_due, read_timers
from ..place import Place

__all__ = ["SqliteLogReader"]

T = TypeVar("T")

VALUE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of one event that somebody else's engine has stored."""
_CHECKSUM: Final = "SELECT checksum FROM events WHERE position = ?"
_VERSION = (
    "SELECT coalesce(max(version), 0) FROM events "
    "WHERE stream = (SELECT number FROM streams WHERE name = ?)"
)


class SqliteLogReader:
    """The log in the file `path`, read-only. Use it with `with`, or `open` and `close` it."""

    def __init__(self, path: str, files: Files | None = None, *, damaged: bool = False) -> None:
        """Take where it is; `damaged` reads what stands before the damage in a write-ahead log."""
        self.path = path
        self._damaged = damaged
        self.log_id = ""
        """The log's random id; known after `open`."""
        self._files = files or SystemFiles()
        self._connection: Any = None
        self._place: Place | None = None
        self._has_claims = self._has_timers = self._has_tags = False
        self._types: dict[int, EventType] = {}

    @property
    def name(self) -> str:
        """Its path."""
        return self.path

    # -- life -------------------------------------------------------------------------------

    def __enter__(self) -> SqliteLogReader:
        """Open it."""
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def open(self) -> None:
        """Open the file; raise StoreRefused where there is no log that can be read."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            connection = self._connection = self._files.connect(self.path, readonly=True)
            set_reading(connection)
            self._place = Place(self.path, self._files)
            self._check_schema(connection)
            connection.limit(apsw.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
            self.log_id = read_log_id(connection) or ""
        except OSError as error:
            raise StoreRefused(f"{self.path} cannot be read: {error.strerror}") from error
        except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
            if self._files.size(self.path) == 0:
                raise NoLog(f"there is no log {self.path}: no such file") from error
            raise StoreRefused(
                f"{self.path} cannot be opened: {error}. SQLite keeps an index beside a log that "
                f"is read: where its folder cannot be written to, copy the log elsewhere first."
            ) from error
        except (apsw.Error, UnicodeDecodeError) as error:
            raise StoreRefused(f"{self.path} cannot be read: {described(error)}") from error

    def _check_schema(self, connection: Any) -> None:
        version = read_schema_version(connection, self.path, len(MIGRATIONS))
        if not self._damaged and not self._files.is_locked(self.path + ".lock"):
            # Else its engine has looked.
            read_wal(connection, self._files, self.path)
            Ending(self.path, self._files).check(connection, is_new=version == 0)
        if version == 0:
            raise StoreRefused(f"{self.path} is empty: no engine has made a log of it yet")
        check_schema(connection, self.path, version)
        self._has_claims = version >= CLAIMS_SINCE
        self._has_timers = version >= TIMERS_SINCE
        self._has_tags = version >= TAGS_SINCE

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        connection, self._connection = self._connection, None
        self._types.clear()
        if connection is not None:
            connection.close()

    # -- reading ----------------------------------------------------------------------------

    def head(self) -> Head:
        """Give the end of the log, as it is now."""
        with self._reading() as connection:
            return read_head(connection)

    def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored, in the order of their first use."""
        with self._reading() as connection:
            self._read_types(connection)
        return tuple(self._types.values())

    def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams, sorted."""
        with self._reading() as connection:
            return sorted(read_kinds(connection))

    def checksum_at(self, position: int) -> int | None:
        """Give the checksum at a position, which need not fit what stands there."""
        try:
            with self._reading() as connection:
                found = run(connection, _CHECKSUM, (position,))
        except StoreFailed:
            return None
        return found[0][0] if found and type(found[0][0]) is int else None

    def version_of(self, stream: str) -> int:
        """Give the version of a stream, 0 where it has no events."""
        with self._reading() as connection:
            version: int = run(connection, _VERSION, (stream,))[0][0]
        return version

    def change_count(self) -> int:
        """Give a number that changes whenever another connection has committed; about 2 µs."""
        with self._reading() as connection:
            count: int = run(connection, "PRAGMA data_version")[0][0]
        return count

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read the global order after a position; empty at the end of the log."""

        def read(connection: Any, most: int) -> Sequence[StoredEvent]:
            return read_feed(connection, self._type, after, most, bytes_max)

        return self._read_page(read, events_max)

    def proved(self, after: int, *, events_max: int, bytes_max: int) -> ProvedPage | None:
        """Prove a page, as `ProvesPages.proved` says."""
        with self._reading() as connection:
            return prove_feed(connection, self._type, after, events_max, bytes_max)

    def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once, as `Store.read_streams` does."""

        def read(connection: Any, most: int) -> Sequence[StreamPage]:
            return read_streams(connection, self._type, reads, most, bytes_max)

        return self._read_page(read, events_max)

    def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Give the claims behind `after`, in order, as `Store.read_claims` does."""
        if not self._has_claims:
            return []
        with self._reading() as connection:
            return read_claims(connection, after, claims_max)

    def archives(self) -> Sequence[ArchiveRun]:
        """Give the runs that moved something into the cold file, in their order."""
        with self._reading() as connection:
            return read_archives(connection)

    def kept_after(self, position: int) -> int | None:
        """Give the position of the next event whose contents were not moved; None if all were."""
        with self._reading() as connection:
            return kept_after(connection, position)

    def read_timers(self, after: TimerKey = ("", ""), *, timers_max: int) -> list[WaitingTimer]:
        """Give the timers behind `after`, in order, as `Store.read_timers` does."""
        if not self._has_timers:
            return []
        with self._reading() as connection:
            return read_timers(connection, after, timers_max)

    def next_timer(self) -> int | None:
        """Give when the next timer is to be tried, in µs; None if none waits."""
        if not self._has_timers:
            return None
        with self._reading() as connection:
            page = read_due(connection, BEGINNING, FOREVER, 1)
        return page[0].next if page else None

    def tag_forms(self) -> Sequence[TagForm]:
        """Give the forms by which the index of tags was made."""
        if not self._has_tags:
            return ()
        with self._reading() as connection:
            return read_forms(connection)

    def read_tags(self, after: tuple[str, int] = ("", 0), *, rows_max: int) -> Sequence[TagRow]:
        """Give rows of the index of tags, in order."""
        if not self._has_tags:
            return ()
        with self._reading() as connection:
            return read_rows(connection, after, rows_max)

    def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Give the events that queries by tags select, as `Store.read_tagged` does."""
        if not self._has_tags:
            return [TagPage((), False) for _ in reads]

        def read(connection: Any, most: int) -> Sequence[TagPage]:
            return read_tagged(connection, self._type, reads, most, bytes_max)

        return self._read_page(read, events_max)

    def _read_page(self, read: Callable[[Any, int], T], events_max: int) -> T:
        """Read a page; where an event in it is damaged, a smaller one that ends before it."""
        while True:
            try:
                with self._reading() as connection:
                    return read(connection, events_max)
            except Damaged:
                if events_max == 1:
                    raise
                events_max //= 2

    def _type(self, number: int) -> tuple[str, int]:
        if number not in self._types:
            self._read_types(self._connection)
        known = self._types[number]
        return known.name, known.version

    def _read_types(self, connection: Any) -> None:
        rows = sorted(read_types(connection))
        self._types = {
            number: EventType(name, version, hash_) for number, name, version, hash_ in rows
        }

    @contextmanager
    def _reading(self) -> Generator[Any]:
        if self._connection is None:
            raise StoreFailed(f"{self.path} is closed", written=False)
        if self._place is not None:
            self._place.check()
        with unreadable(self.path):
            try:
                yield self._connection
            except UnicodeDecodeError as error:
                raise StoreFailed(f"{self.path} cannot be read: {error}", written=False) from error
