"""The log in one SQLite file: one writer, one transaction and one sync per batch.

Rules: WAL with `synchronous=FULL`, every setting read back after it was set; an flock beside the
file keeps a second engine out, and outside readers are welcome. One worker alone writes; beside it
a merger brings the write-ahead log into the file when it is large. What fails before the commit was
not written, and the store goes on; what fails in the commit is unknown, and the store takes nothing
more. It never opens with the standard library's SQLite, retries a commit, or trusts a cache that a
stranger's write may have made stale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import apsw

from ....errors import EngineError, StoreFailed, StoreLocked, StoreRefused
from ....model.stored import EventType, StoredEvent
from ....runtime.ports import Ports, Worker
from ...contract.log import (
    Batch,
    Committed,
    Head,
    Plan,
    StreamPage,
    StreamRead,
)
from ..connection import (
    BUSY_MS,
    check_library,
    close,
    described,
    durable_settings,
    is_out_of_room,
    make_wal_durable,
    open_writer,
    run,
    set_pragma,
    set_reading,
    unreadable,
)
from ..disk import SeenOnDisk
from ..files import Lock, files_of
from ..lock import take_lock
from ..lock_files import absolute, check_beside
from ..wal import PAGE_BYTES, WalMerger
from .beside import KeptBeside
from .cache import LogCache
from .claims import change_claims
from .contents import Contents
from .damage import blank_torn, check_counts, forgets, read_wal
from .ending import Ending
from .heads import read_head, read_kinds, read_log_id
from .pages import read_feed, read_streams
from .schema import (
    MIGRATIONS,
    check_schema,
    guard,
    insert_events,
    migrate,
    protect,
    read_schema_version,
    rows_of,
)
from .tags import add_tags
from .timers import change_timers

__all__ = ["SqliteStore"]

T = TypeVar("T")


class SqliteStore(KeptBeside, SeenOnDisk):
    """A log in the file `path`, which is looked for from the folder in which this is made.

    `open_timeout` is in seconds: how long to wait for its lock.
    """

    durable = True

    def __init__(self, path: str, *, open_timeout: float = 0.0) -> None:
        self.path = absolute(path)
        self._open_timeout = open_timeout
        self._ports = Ports()
        self._lock: Lock | None = None
        self._hold: Lock | None = None
        self._place: Contents | None = None
        self._ending: Ending | None = None
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._connection: Any = None
        self._reading: Any = None
        self._log_id = ""
        self._known = LogCache(self.path)
        self._stopped: BaseException | None = None
        self._merger: WalMerger | None = None

    @property
    def log_id(self) -> str:
        """The log's random id."""
        return self._log_id

    # -- life -------------------------------------------------------------------------------

    async def open(self, ports: Ports) -> None:
        """Open or make the file; raise StoreLocked or StoreRefused."""
        check_library()
        if self._writer is not None:
            raise StoreLocked(f"{self.path} is open already, by this object: close it first")
        self._ports = ports
        try:
            await self._begin_writing()
            self._reader = ports.workers.start("foldline-feed")
            await self._reader.run(self._open_reader)
        except BaseException:
            await self.close()
            raise

    async def _begin_writing(self) -> None:
        self._lock = await take_lock(files_of(self._ports), self.path, self._open_timeout)
        self._writer = self._ports.workers.start("foldline-log")
        await self._writer.run(self._open_writer)

    def _open_writer(self) -> None:
        try:
            self._open_file()
        except BaseException as error:
            self._stopped = error  # nothing of what is refused is folded as it is closed
            raise

    def _open_file(self) -> None:
        try:
            files, path = files_of(self._ports), self.path
            check_beside(path, files.size)
            # Nothing is known of what another life of this object has seen there.
            self._known = LogCache(path)
            self._ending = Ending(path, files)
            connection = self._connection = open_writer(files, path)
            set_pragma(connection, "busy_timeout", BUSY_MS)
            version = read_schema_version(connection, path, len(MIGRATIONS))
            wal = read_wal(connection, files, path)
            check_schema(connection, path, version)
            self._ending.check(connection, is_new=version == 0)
            if version == 0:
                set_pragma(connection, "page_size", PAGE_BYTES)
            for pragma, value in durable_settings():
                set_pragma(connection, pragma, value)
            # Now that SQLite keeps it open, and before anything of a log is written.
            self._hold = files_of(self._ports).hold(self.path, connection)
            # Before anything is written, which may take the places of what is blanked.
            blank = partial(blank_torn, connection, files, path, wal)
            make_wal_durable(connection, files, path, blank)
            if version < len(MIGRATIONS):
                migrate(connection, version)
            guard(connection)
            self._merger = self._make_merger(connection)
            self._read_state(connection)
            check_counts(connection, files, path, self._known.head, wal)
            protect(connection)
            self._place = Contents(path, files, self._merger, lambda: self._known.head)
        except OSError as error:
            raise StoreRefused(f"{self.path} cannot be opened: {error.strerror}") from error
        except (apsw.Error, UnicodeDecodeError) as error:
            raise StoreRefused(f"{self.path} cannot be opened: {described(error)}") from error

    def _make_merger(self, connection: Any) -> WalMerger:
        assert self._writer is not None, "the writer's thread runs this"
        return WalMerger(
            self.path,
            self._ports,
            self._writer,
            connection,
            check=self._check_place,
            stop=self._stop,
            is_stopped=lambda: self._stopped is not None,
        )

    def _check_place(self) -> None:
        if self._place is not None:
            self._place.check()

    def _read_state(self, connection: Any) -> None:
        log_id = read_log_id(connection)
        if log_id is None:
            if read_head(connection).position:
                raise StoreRefused(
                    f"{self.path} has events, and its table about has lost the id of the log: "
                    f"with another one, sinks would deliver all of it again. Insert the id, which "
                    f"backups and consumers know, or restore a backup. Nothing was changed"
                )
            log_id = self._ports.ids.new_id()
            run(connection, "INSERT INTO about VALUES (1, ?, ?)", (log_id, self._ports.clock.now()))
        self._log_id = log_id
        known = self._known
        known.refresh(connection)
        if known.head.position:
            # The last event is what every later one builds on: its checksum is compared now.
            read_feed(connection, known.types_by(connection), known.head.position - 1, 1, 1)

    def _open_reader(self) -> None:
        try:
            connection = self._reading = files_of(self._ports).connect(self.path, readonly=True)
            self._check_place()
            set_reading(connection)
        except apsw.Error as error:
            raise StoreRefused(f"{self.path} cannot be read: {described(error)}") from error

    async def close(self) -> None:
        """Merge the write-ahead log into the file, close it, give the lock back."""
        reader, self._reader = self._reader, None
        # Whatever fails or is cancelled on the way, no thread stays, and the lock goes last.
        try:
            if self._merger is not None:
                await self._merger.close()
        finally:
            try:
                await _end(reader, self._close_reader)
            finally:
                await self._end_writing()

    async def _end_writing(self) -> None:
        writer, self._writer = self._writer, None
        lock, self._lock = self._lock, None
        hold, self._hold = self._hold, None
        try:
            await _end(writer, self._close_writer)
        finally:
            for held in (hold, lock):
                if held is not None:
                    held.release()

    def _close_reader(self) -> None:
        connection, self._reading = self._reading, None
        self._close(connection)

    def _close_writer(self) -> None:
        connection, self._connection = self._connection, None
        self._known.forget()
        self._place = None
        stopped, self._stopped = self._stopped, None
        ending, self._ending = self._ending, None
        in_peace = False
        try:
            # The last connection to close merges the write-ahead log in and removes it.
            self._close(connection, merging=stopped is None)
            in_peace = stopped is None
        finally:
            if ending is not None:
                ending.close(in_peace=in_peace)

    def _close(self, connection: Any, *, merging: bool = True) -> None:
        if connection is not None:
            try:
                close(connection, merging=merging)
            except apsw.Error as error:
                raise StoreFailed(f"{self.path} was not closed: {error}", written=False) from error

    # -- writing ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, in one transaction and with one sync."""
        committed = await self._on_writer(self._append, batch)
        if self._merger is not None:
            self._merger.merge_if_large()
        return committed

    def _append(self, connection: Any, batch: Batch) -> Committed:
        if self._stopped is not None:
            raise StoreFailed(
                f"{self.path} takes nothing more since {type(self._stopped).__name__}: open it "
                f"again, which reads what is there",
                written=False,  # no transaction was begun for it
                stopped=True,
            )
        self._look_around()
        try:
            try:
                planned, timers = self._insert(connection, batch)
            except apsw.ConstraintError:
                # A cache was wrong in a way that only the schema noticed. SQLite does not say
                # which row: read the truth, and plan once more on it. Inside the transaction, so
                # that no stranger's commit comes between the two.
                self._roll_back(connection)
                if self._stopped is not None:
                    raise
                planned, timers = self._insert(connection, batch, believing=False)
        except BaseException as error:
            self._not_written(connection, error)
        self._commit(connection)
        self._look_around(written=None)
        self._known.keep(planned)
        if planned.events and self._ending is not None and self._place is not None:
            self._ending.note(self._log_id, self._known.head, self._place.stamp)
        self._reach("store.committed")
        return Committed(planned.outcomes, planned.events, timers)

    def _look_around(self, *, written: bool | None = False) -> None:
        """Stop for good where nobody finds what is written; put off what is not, where unseen."""
        try:
            if self._place is not None:
                self._place.check_all()
        except (StoreFailed, StoreRefused) as error:
            if isinstance(error, StoreFailed) and written is False:
                raise
            self._stopped = error
            raise StoreFailed(str(error), written=written, stopped=True) from error

    def _insert(self, connection: Any, batch: Batch, *, believing: bool = True) -> tuple[Plan, int]:
        """Insert what fits; give what that is, and how many timers more there are."""
        known = self._known
        run(connection, "BEGIN IMMEDIATE")
        self._reach("store.began")
        if not believing:
            known.refresh(connection)
        planned = known.plan(connection, batch, believing)
        if planned.refused:
            # What is remembered may be stale where a stranger wrote. It is good enough for a yes,
            # which the schema checks again, but a no must rest on what is in the file.
            known.refresh(connection)
            planned = known.plan(connection, batch, believing=False)
        known.add_types(connection, batch, planned)
        known.add_streams(connection, planned)
        insert_events(connection, rows_of(planned.events, known.streams, known.types))
        if planned.claims:
            change_claims(connection, planned.claims, lambda stream: known.streams[stream][0])
        add_tags(connection, planned.tags, known.types)
        timers = change_timers(connection, planned.timers) if planned.timers else 0
        self._reach("store.inserted")
        return planned, timers

    def _commit(self, connection: Any) -> None:
        try:
            run(connection, "COMMIT")
        except BaseException as error:
            if is_out_of_room(connection, error) and self._takes_back(connection):
                raise StoreFailed(
                    f"{self.path}: {error}: there is no room for its write-ahead log. Make some; "
                    f"until then nothing is written, and the engine goes on.",
                    written=False,
                ) from error
            # Whatever the error says, the commit record may be on the disk.
            self._stopped = error
            self._roll_back(connection)
            raise StoreFailed(
                f"{self.path}: the commit failed ({type(error).__name__}: {error}), and nobody "
                f"knows whether it is durable. Open the store again to see.",
                written=None,
            ) from error

    def _takes_back(self, connection: Any) -> bool:
        """Roll back a commit that found no room; tell whether nothing of it can come back."""
        self._roll_back(connection)
        return self._stopped is None and forgets(connection, files_of(self._ports), self.path)

    def _not_written(self, connection: Any, error: BaseException) -> NoReturn:
        """Take back what was not committed, and say so."""
        self._roll_back(connection)
        if isinstance(self._stopped, StoreRefused):
            why = str(self._stopped)
            raise StoreFailed(why, written=False, stopped=True) from self._stopped
        if self._stopped is not None:
            raise StoreFailed(
                f"{self.path}: {error}, and the transaction could not be taken back", written=None
            ) from error
        if not isinstance(error, Exception) or isinstance(error, EngineError):
            raise error
        # Whatever it was, it concerns this batch alone. Others' words may quote a value.
        why = str(error) if isinstance(error, apsw.Error) else type(error).__name__
        raise StoreFailed(f"{self.path}: {why}", written=False) from error

    def _roll_back(self, connection: Any) -> None:
        try:
            if connection.in_transaction:
                run(connection, "ROLLBACK")
            self._known.forget()
            if self._stopped is None:
                self._known.refresh(connection)
        except (apsw.Error, StoreRefused) as error:
            self._stopped = error

    # -- the write-ahead log ----------------------------------------------------------------

    @property
    def merges(self) -> tuple[int, int]:
        """How often the write-ahead log was merged, and put off, since the start."""
        merger = self._merger
        return (0, 0) if merger is None else (merger.merges, merger.put_off)

    def _stop(self, error: BaseException) -> None:
        self._stopped = error

    # -- reading ----------------------------------------------------------------------------

    async def head(self) -> Head:
        """Give the end of the log, as of the last append or the opening."""
        return self._known.head

    async def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return self._known.event_types()

    async def kinds(self) -> Sequence[str]:
        """Give the kinds of its streams, by one look into the index for each."""
        return sorted(await self._on_reader(read_kinds))

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read many streams at once."""
        return await self._on_reader(
            lambda c: read_streams(c, self._known.types_by(c), reads, events_max, bytes_max)
        )

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        """Read the global order."""
        return await self._on_reader(
            lambda c: read_feed(c, self._known.types_by(c), after, events_max, bytes_max)
        )

    def _keep(self, connection: Any, change: Callable[[Any], T]) -> T:
        if self._stopped is not None:
            raise StoreFailed(f"{self.path} takes nothing more since it failed", written=False)
        self._look_around()
        try:
            run(connection, "BEGIN IMMEDIATE")
            changed = change(connection)
        except BaseException as error:
            self._not_written(connection, error)
        self._commit(connection)
        return changed

    # -- workers ----------------------------------------------------------------------------

    async def _on_writer(self, call: Callable[..., T], *args: Any) -> T:
        if self._writer is None:
            raise StoreFailed(f"{self.path} is closed", written=False)
        return await self._writer.run(lambda: call(self._connection, *args))

    async def _on_reader(self, call: Callable[[Any], T]) -> T:
        if self._reader is None:
            raise StoreFailed(f"{self.path} is closed", written=False)

        def read() -> T:
            with unreadable(self.path):
                return call(self._reading)

        return await self._reader.run(read)

    def _reach(self, name: str) -> None:
        if self._ports.failpoint is not None:
            self._ports.failpoint(name)


async def _end(worker: Worker | None, call: Callable[[], None]) -> None:
    if worker is not None:
        try:
            await worker.run(call)
        finally:
            await worker.close()
