"""The keys of personal data in a SQLite file of their own, or in memory for ":memory:".

Rules: what is destroyed is overwritten: SQLite zeroes what it deletes (`secure_delete`), and the
write-ahead log is merged and cut to nothing before a destruction is told. One connection reads, in
the event loop, without ever waiting for the one that writes, in a worker. The file has mode 0600,
names its log, and is no part of the log's files: it is copied by itself alone. It is believed if
it has the schema of ours, and no trigger of it fires here: one could swallow a key, or keep one
that was destroyed. It is believed while its name leads to the file that was opened: a key in
another one would be found by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import apsw

from ...errors import StoreFailed, StoreRefused
from ...runtime.ports import Ports, Worker
from ..contract.keys import Erasure, SubjectKey
from .connection import (
    BUSY_MS,
    close,
    cut_wal,
    described,
    durable_settings,
    make_wal_durable,
    open_writer,
    run,
    run_many,
    set_pragma,
    set_reading,
    transaction,
)
from .files import Files, files_of
from .lock_files import check_beside
from .outside.copy import copy_file
from .place import Place
from .shape import check_shape, harden, made, read_shape

__all__ = ["SqliteKeys"]

T = TypeVar("T")

MEMORY: Final = ":memory:"
APPLICATION_ID: Final = 0x464C4B31
"""Marks the file as one of keys ("FLK1")."""
_TABLES: Final = (
    "CREATE TABLE about(one INTEGER PRIMARY KEY CHECK (one = 1), log_id TEXT NOT NULL) STRICT",
    """
    CREATE TABLE keys(
        number INTEGER PRIMARY KEY,
        subject TEXT NOT NULL,
        secret BLOB CHECK (length(secret) = 32)
    ) STRICT
    """,
    "CREATE INDEX keys_by_subject ON keys(subject) WHERE secret IS NOT NULL",
    """
    CREATE TABLE erasures(
        number INTEGER PRIMARY KEY,
        subject TEXT NOT NULL,
        asked INTEGER NOT NULL,
        keys INTEGER NOT NULL,
        reason TEXT NOT NULL,
        principal TEXT,
        finished INTEGER
    ) STRICT
    """,
)
_GUARDS: Final = (
    # A slip in a shell: what a missing key has encrypted is lost, and nobody was erased.
    """
    CREATE TRIGGER IF NOT EXISTS keys_never_go BEFORE DELETE ON keys
    BEGIN SELECT RAISE(ABORT, 'a key is never deleted: erase its person'); END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS keys_never_change BEFORE UPDATE ON keys
    WHEN new.number <> old.number OR new.subject <> old.subject OR new.secret IS NOT NULL
    BEGIN SELECT RAISE(ABORT, 'a key keeps its number, person and secret'); END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS erasures_never_go BEFORE DELETE ON erasures
    BEGIN SELECT RAISE(ABORT, 'an erasure is never deleted: it may be unfinished'); END
    """,
)
_KEY: Final = "SELECT number, subject, secret FROM keys WHERE number = ?"
_KEPT: Final = """
    SELECT 1 FROM keys
    WHERE number = ? AND subject = ? AND coalesce(secret = ?, true)"""
_CURRENT: Final = """
    SELECT number, subject, secret FROM keys
    WHERE subject = ? AND secret IS NOT NULL ORDER BY number DESC LIMIT 1"""
_ERASURES: Final = "SELECT number, subject, asked, keys, reason, principal, finished FROM erasures"
_LARGEST: Final = "SELECT coalesce(max(number), 0) FROM keys"


class SqliteKeys:
    """Keys in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._worker: Worker | None = None
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._place: Place | None = None
        self._files: Files = files_of(Ports())

    def __repr__(self) -> str:
        return f"SqliteKeys({self._path!r})"

    def another(self) -> SqliteKeys:
        """Give the same file, not open."""
        return SqliteKeys(self._path)

    # -- life ---------------------------------------------------------------------------------

    async def missing(self, ports: Ports) -> str | None:
        """See `PlacedKeys.missing`."""
        there = self._path == MEMORY or files_of(ports).identify(self._path) is not None
        return None if there else self._path

    async def open(self, ports: Ports, log_id: str, *, only_reads: bool = False) -> int:
        """Open it, or make it for this log."""
        assert self._reader is None, "it is opened once"
        if only_reads:
            return self._open_to_read(ports, log_id)
        if self._path != MEMORY:
            self._worker = ports.workers.start("foldline-keys")
        try:
            largest = await self._on_writer(self._open_writer, ports, log_id)
            with self._failures("opened"):
                self._reader = self._writer
                if self._path != MEMORY:
                    self._reader = files_of(ports).connect(self._path, readonly=True)
                    set_reading(self._reader)
        except BaseException:
            await self.close()
            raise
        return largest

    def _open_writer(self, ports: Ports, log_id: str) -> int:
        files = self._files = files_of(ports)
        with self._failures("opened"):
            check_beside(self._path, files.size)
            connection = self._writer = open_writer(files, self._path)
            harden(connection)
            set_pragma(connection, "busy_timeout", BUSY_MS)
            if not _is_empty(connection):
                self._check(connection, log_id)  # before anything of a stranger's file is changed
            for pragma, value in () if self._path == MEMORY else durable_settings():
                set_pragma(connection, pragma, value)
            set_pragma(connection, "secure_delete", 1)
            if self._path != MEMORY:
                make_wal_durable(connection, files, self._path)
            with transaction(connection):
                self._make(connection, log_id)
            if self._path != MEMORY:
                self._place = Place(self._path, files, written=True)
            [(largest,)] = run(connection, _LARGEST)
        return int(largest)

    def _make(self, connection: apsw.Connection, log_id: str) -> None:
        if _is_empty(connection):
            run(connection, f"PRAGMA application_id={APPLICATION_ID}")
            for statement in _TABLES:
                run(connection, statement)
            run(connection, "INSERT INTO about VALUES (1, ?)", (log_id,))
        self._check(connection, log_id)
        for guard in _GUARDS:  # of a file of an earlier release too
            run(connection, guard)

    def _open_to_read(self, ports: Ports, log_id: str) -> int:
        if not files_of(ports).size(self._path):
            raise StoreRefused(
                f"there are no keys at {self._path}: nothing of this log was ever encrypted, or "
                f"its keys are elsewhere. Then give the log's own file of keys, as keys= or --keys"
            )
        with self._failures("opened"):
            self._reader = files_of(ports).connect(self._path, readonly=True)
            harden(self._reader)
            set_reading(self._reader)
            self._check(self._reader, log_id)
            [(largest,)] = run(self._reader, _LARGEST)
        return int(largest)

    def _check(self, connection: apsw.Connection, log_id: str) -> None:
        [(application,)] = run(connection, "PRAGMA application_id")
        if application != APPLICATION_ID:
            raise StoreRefused(f"{self._path} is no file of keys: nothing was changed")
        check_shape(connection, self._path, read_shape(connection, self._path), made(_TABLES))
        [(found,)] = run(connection, "SELECT log_id FROM about")
        if found != log_id:
            raise StoreRefused(
                f"the keys {self._path} are of another log, {found}, and this one is {log_id}: "
                f"give the engine its own file of keys. Nothing was changed"
            )

    def is_there(self) -> bool:
        """See `KeysInFile.is_there`."""
        return self._path != MEMORY and self._files.size(self._path) > 0

    def copy(self, to: str) -> None:
        """See `KeysInFile.copy`."""
        copy_file(self._files, self._path, to)

    async def close(self) -> None:
        """Close it; a second call does nothing."""
        reader, self._reader = self._reader, None
        if reader is not None and reader is not self._writer:
            reader.close()
        if self._writer is not None:
            await self._on_writer(self._close_writer)
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._failures("closed"):
                close(writer, merging=True)

    # -- reading, in the event loop -----------------------------------------------------------

    def find(self, number: int) -> SubjectKey | None:
        """Give the key of a number."""
        return self._read_key(_KEY, number)

    def current(self, subject: str) -> SubjectKey | None:
        """Give the key of a subject."""
        return self._read_key(_CURRENT, subject)

    def _read_key(self, sql: str, value: int | str) -> SubjectKey | None:
        with self._failures("read"):
            found = run(self._open_reader(), sql, (value,))
        return SubjectKey(*found[0]) if found else None

    def change_count(self) -> int:
        """Give what SQLite counts of the commits of others."""
        with self._failures("read"):
            [(count,)] = run(self._open_reader(), "PRAGMA data_version")
        return int(count)

    def _open_reader(self) -> apsw.Connection:
        assert self._reader is not None, "it is open"
        return self._reader

    # -- writing, in the worker ---------------------------------------------------------------

    def check(self) -> None:
        """See `PlacedKeys.check`."""
        if self._place is None:
            return
        try:
            self._place.check()
        except StoreRefused as error:
            raise StoreFailed(f"the keys of personal data: {error}", written=False) from error

    async def add(self, keys: Sequence[SubjectKey]) -> None:
        """Keep new keys."""
        await self._on_writer(self._add, keys)

    def _add(self, keys: Sequence[SubjectKey]) -> None:
        rows = [(key.number, key.subject, key.secret) for key in keys]
        with self._writing() as connection:
            # After a failure of which nobody knows what was written, they come again.
            new = [row for row in rows if not run(connection, _KEPT, row)]
            run_many(connection, "INSERT INTO keys VALUES (?, ?, ?)", new)

    async def erase(self, erasure: Erasure) -> Erasure:
        """Destroy all keys of a subject."""
        return await self._on_writer(self._erase, erasure)

    def _erase(self, erasure: Erasure) -> Erasure:
        subject = erasure.subject
        with self._writing() as connection:
            [(count,)] = run(
                connection,
                "SELECT count(*) FROM keys WHERE subject = ? AND secret IS NOT NULL",
                (subject,),
            )
            run(connection, "UPDATE keys SET secret = NULL WHERE subject = ?", (subject,))
            [(number,)] = run(
                connection,
                "INSERT INTO erasures VALUES (NULL, ?, ?, ?, ?, ?, NULL) RETURNING number",
                (subject, erasure.asked, count, erasure.reason, erasure.principal),
            )
        self._cut()
        kept = (number, subject, erasure.asked, count, erasure.reason, erasure.principal)
        return Erasure(*kept)

    def _cut(self) -> None:
        """Merge the write-ahead log and cut it to nothing: a secret may be in its older part."""
        if self._path == MEMORY:
            return
        assert self._writer is not None
        with self._failures("merged"):
            cut_wal(self._writer, self._files, self._path)

    async def unfinished(self) -> Sequence[Erasure]:
        """Give the erasures that are not finished."""
        return await self._on_writer(
            self._read_erasures, f"{_ERASURES} WHERE finished IS NULL ORDER BY number"
        )

    async def finish(self, number: int, at: int) -> None:
        """Note that an erasure is finished."""
        await self._on_writer(self._finish, number, at)

    def _finish(self, number: int, at: int) -> None:
        self._cut()
        with self._writing() as connection:
            run(connection, "UPDATE erasures SET finished = ? WHERE number = ?", (at, number))

    async def erasures(self, subject: str | None = None) -> Sequence[Erasure]:
        """Give the erasures."""
        if subject is None:
            return await self._on_writer(self._read_erasures, f"{_ERASURES} ORDER BY number")
        sql = f"{_ERASURES} WHERE subject = ? ORDER BY number"
        return await self._on_writer(self._read_erasures, sql, subject)

    def _read_erasures(self, sql: str, *values: str) -> Sequence[Erasure]:
        with self._failures("read"):
            connection = self._writer or self._open_reader()
            return [Erasure(*row) for row in run(connection, sql, values)]

    # -- both ---------------------------------------------------------------------------------

    async def _on_writer(self, call: Callable[..., T], *values: Any) -> T:
        if self._worker is None:
            return call(*values)
        return await self._worker.run(call, *values)

    @contextmanager
    def _writing(self) -> Generator[apsw.Connection]:
        assert self._writer is not None, "it is open"
        self.check()
        with self._failures("written"), transaction(self._writer):
            yield self._writer
        self.check()

    @contextmanager
    def _failures(self, what: str) -> Generator[None]:
        try:
            yield
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise StoreRefused(
                f"the keys {self._path} are damaged: {error}. Restore them from their own backup"
            ) from error
        except (apsw.Error, OSError) as error:
            raise StoreFailed(
                f"the keys {self._path} could not be {what}: {described(error)}",
                written=False,
                passes=True,
            ) from error


def _is_empty(connection: apsw.Connection) -> bool:
    """Tell whether a file has nothing yet."""
    [(objects,)] = run(connection, "SELECT count(*) FROM sqlite_schema")
    return bool(objects == 0)
