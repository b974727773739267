"""How log and views speak to SQLite: statements, transactions, settings, and its errors made ours.

Rules: a setting is read back after it was set, and a file where it did not take is refused. An
error's message is SQLite's own, which carries no values. A transaction that fails in any way is
rolled back. This file knows no table, projection or thread.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw
import msgspec

from ...errors import RowRefused, StoreFailed, StoreRefused
from ...model.rows import Scalar
from ...runtime.native import native_sleep
from ...runtime.package import COMMAND
from .files import Files

__all__ = [
    "BUSY_MS",
    "IN_MEMORY",
    "OnlyReads",
    "check_library",
    "check_order",
    "close",
    "cut_wal",
    "described",
    "durable_settings",
    "failures",
    "floats_are_exact",
    "has_no_folder",
    "is_out_of_room",
    "make_wal_durable",
    "only_reads",
    "open_writer",
    "quoted",
    "readable",
    "refused_rows",
    "run",
    "run_many",
    "run_some",
    "set_pragma",
    "set_reading",
    "snapshot",
    "transaction",
    "unreadable",
    "within",
]

_VALUE_BYTES: Final = 16
"""What a value takes at least, however short it is."""
BUSY_MS: Final = 5_000
"""How long to wait for a stranger (a shell, a backup) that holds the file."""


IN_MEMORY: Final = ("temp_store", 2)
"""Where a writer keeps what a statement of many rows has changed, until it ends.

Else it is a file in a folder of the system's, and a batch fails where that is full or read-only.
"""
_NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_CUTS: Final = 5
"""Tries to cut a write-ahead log, each of which waits `BUSY_MS` for readers."""
_TURNS: Final = 500
"""Tries while another connection cuts or merges it: SQLite says so at once, with no count."""
_TURN_SECONDS: Final = 0.01
SQLITE_OLDEST: Final = (3, 51, 3)
"""Before it, a checkpoint beside a writer could corrupt the file (the WAL-reset bug)."""


def check_library() -> None:
    """Raise StoreRefused where this SQLite is too old."""
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if found < SQLITE_OLDEST:
        raise StoreRefused(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a log that is read while it is "
            f"written: install apsw with SQLite {'.'.join(map(str, SQLITE_OLDEST))} or newer"
        )


def quoted(name: str) -> str:
    """Give a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def run(connection: Any, sql: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
    """Run one statement to its end; give its rows."""
    rows: list[tuple[Any, ...]] = connection.execute(sql, values).fetchall()
    return rows


def run_many(connection: Any, sql: str, rows: Iterable[Sequence[Scalar]]) -> None:
    """Run one statement once for each row."""
    connection.executemany(sql, rows)


def run_some(
    connection: Any,
    sql: str,
    values: Sequence[Scalar],
    rows_max: int,
    *,
    bytes_max: int | None = None,
    can_cache: bool = True,
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """Run a statement for its first rows; give the names of its columns, and the rows.

    What gives no columns at all is no statement that reads, and gets no names. Without `can_cache`
    it is compiled anew, which asks the authorizer. Raises apsw.TooBigError above `bytes_max`.
    """
    names: list[str] = []

    def begins(cursor: Any, _statement: str, _values: object) -> bool:
        # Here, since a cursor without a row knows its columns no more when it has been run.
        # And only the first time: what follows may be a comment, which is a statement to it.
        if not names:
            names.extend(str(column[0]) for column in cursor.get_description())
        return True

    cursor = connection.cursor()
    cursor.exec_trace = begins
    cursor.execute(sql, tuple(values), can_cache=can_cache)
    try:
        rows = (row for row, _ in zip(cursor, range(rows_max), strict=False))
        return names, list(rows) if bytes_max is None else within(rows, bytes_max)
    finally:
        cursor.close(True)


def within(rows: Iterable[tuple[Any, ...]], bytes_max: int) -> list[tuple[Any, ...]]:
    """Take rows as long as they weigh no more than that; raise apsw.TooBigError then."""
    taken: list[tuple[Any, ...]] = []
    weight = 0
    for row in rows:
        weight += sum([_VALUE_BYTES + (len(v) if isinstance(v, str | bytes) else 0) for v in row])
        if weight > bytes_max:
            raise apsw.TooBigError(
                f"the answer has more than {bytes_max // 1024**2} MB: ask for fewer rows, or for "
                f"shorter values"
            )
        taken.append(row)
    return taken


@contextmanager
def transaction(connection: apsw.Connection) -> Generator[None]:
    """Commit what is done inside, or take all of it back."""
    run(connection, "BEGIN IMMEDIATE")
    try:
        yield
        run(connection, "COMMIT")
    except BaseException:
        if connection.in_transaction:
            run(connection, "ROLLBACK")
        raise


@contextmanager
def snapshot(connection: apsw.Connection) -> Generator[None]:
    """Read one and the same state of the file inside."""
    run(connection, "BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            run(connection, "ROLLBACK")


MENDS_VIEWS: Final = (
    f"If it is a projection's, `{COMMAND} projections reset` folds its tables again from "
    "the log. Otherwise stop the engine, remove the file of the views with its -wal and -shm, and "
    "start again: all views are then rebuilt, sinks deliver everything again, and what people "
    "decided is forgotten"
)


_PASSES: Final = (
    apsw.FullError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.NoMemError,
    OSError,
)
"""What is over when what is around the file lets it: a sync that failed is told of before."""


def _passes(error: Exception) -> bool:
    """Tell whether an error of SQLite may be over without anything having been done to the file."""
    return isinstance(error, _PASSES)


_NEEDS: Final = {
    apsw.SQLITE_IOERR_SHMSIZE: (
        "there is no room on its disk for the index (-shm) that SQLite keeps beside a file that is "
        "open. Make some, and try again"
    ),
    apsw.SQLITE_IOERR_GETTEMPPATH: (
        "SQLite needs a folder for temporary files, and can write to none: let it write to "
        "/var/tmp or /tmp, or name a folder in TMPDIR"
    ),
}
"""What SQLite calls an error of the disk, and is none."""


def described(error: BaseException) -> str:
    """Give what an error says; SQLite says the same of a disk that is full and of a broken one."""
    return _NEEDS.get(getattr(error, "extendedresult", 0), str(error))


@contextmanager
def unreadable(path: str) -> Generator[None]:
    """Turn errors of SQLite that reads a log into StoreFailed."""
    try:
        yield
    except apsw.Error as error:
        why = f"{path} cannot be read: {described(error)}"
        raise StoreFailed(why, written=False, passes=_passes(error)) from error
    except UnicodeDecodeError as error:
        why = f"{path} is damaged: a text in it is no UTF-8. Run `foldline verify {path}`"
        raise StoreFailed(why, written=False) from error


@contextmanager
def failures(path: str, what: str, *, refused: bool = False) -> Generator[None]:
    """Turn errors of SQLite and of its files into StoreFailed, or StoreRefused where it opens."""
    try:
        yield
    except apsw.InterruptError:
        raise
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise StoreRefused(
            f"the views {path} are damaged: {error}. They can be rebuilt: stop the engine, remove "
            f"the file with its -wal and -shm, and start again."
        ) from error
    except UnicodeDecodeError:
        raise StoreRefused(
            f"the views {path} are damaged: a text in them is no UTF-8. {MENDS_VIEWS}"
        ) from None
    except (apsw.Error, OSError) as error:
        message = f"the views {path} could not be {what}: {described(error)}"
        if isinstance(error, apsw.BusyError):
            message += (
                ". Another process writes there and does not end (a shell, a backup, `projections "
                "build`): end it, and try again"
            )
        if refused:
            raise StoreRefused(message) from error
        raise StoreFailed(message, written=False, passes=_passes(error)) from error


@contextmanager
def readable(table: str) -> Generator[None]:
    """Raise StoreRefused where a value of a table of views is none, and say what to do."""
    try:
        yield
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise StoreRefused(
            f"the table {table} of the views is damaged: a value in it cannot be read "
            f"({type(error).__name__}). {MENDS_VIEWS}"
        ) from None


_UNFIT: Final = (
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What is raised for the sake of values that are bound, and of nothing else."""


@contextmanager
def refused_rows(table: str) -> Generator[None]:
    """Raise RowRefused for what a table does not take: the file is well, and the rows are not."""
    try:
        yield
    except _UNFIT as error:
        # SQLite's own words name columns; those of others may quote a value.
        why = str(error) if isinstance(error, apsw.Error) else "SQL has no such value"
        raise RowRefused(table, f"{type(error).__name__}, {why}") from None


def set_pragma(connection: apsw.Connection, pragma: str, value: str | int) -> None:
    """Set a pragma, read it back, and refuse the file where it did not take."""
    run(connection, f"PRAGMA {pragma}={value}")
    found = run(connection, f"PRAGMA {pragma}")
    if found != [(value,)]:
        raise StoreRefused(f"{connection.filename}: PRAGMA {pragma}={value} did not take: {found}")


def durable_settings() -> Sequence[tuple[str, str | int]]:
    """Give the settings of a connection that makes a log durable."""
    settings: list[tuple[str, str | int]] = [
        ("journal_mode", "wal"),
        ("synchronous", 2),  # FULL: a commit returns after its sync
        ("wal_autocheckpoint", 0),  # the engine merges by itself
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("mmap_size", 0),
        IN_MEMORY,
    ]
    if sys.platform == "darwin":
        # There a plain fsync leaves the data in the drive's cache.
        settings += [("fullfsync", 1), ("checkpoint_fullfsync", 1)]
    return settings


def is_out_of_room(connection: Any, error: BaseException) -> bool:
    """Tell whether a write failed since the disk, a quota or the process's bound is full.

    Then no sync was made for it, and the call that failed wrote less than it was to write.
    """
    if isinstance(error, apsw.FullError):
        return True
    code = getattr(error, "extendedresult", 0) if isinstance(error, apsw.IOError) else 0
    return code == apsw.SQLITE_IOERR_WRITE and connection.system_errno in _NO_ROOM


def has_no_folder(error: apsw.Error) -> bool:
    """Tell whether SQLite found no folder in which it can make a temporary file."""
    return bool(getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_GETTEMPPATH)


def open_writer(files: Files, path: str) -> apsw.Connection:
    """Open a file to write to; its write-ahead log stays as it is until it was made durable."""
    connection = files.connect(path)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def make_wal_durable(
    connection: apsw.Connection,
    files: Files,
    path: str,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Write and sync again what an earlier process left in the log of a file that opens.

    A process that was killed may have written a commit and not synced it, or met a sync that
    failed, after which the kernel calls clean what it never wrote. It is shown to whoever reads,
    and a loss of power would take it away; and merging what the disk does not have could leave
    half of it in the file. `before` is called when nobody else can write any more. Raises OSError.
    """
    log = path + "-wal"
    if files.size(log):
        # Nobody else writes meanwhile: neither into the log, nor to begin it anew.
        with transaction(connection):
            before()
            files.rewrite(log)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)


def close(connection: apsw.Connection, *, merging: bool) -> None:
    """Close; without `merging` the write-ahead log stays as it is, which a failed sync asks for.

    What was marked clean and never written is still in the kernel's copy of the log, so the next
    opening merges it rightly. Merging it now and removing the log would not do: the removal may
    be lost with the power, and leave the older part of the log beside the newer file.
    """
    if not merging:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


def cut_wal(connection: apsw.Connection, files: Files, path: str) -> None:
    """Merge the write-ahead log and cut it to nothing, since its older part has what was deleted.

    The cut is synced too, as SQLite leaves it to the next commit: a loss of power would bring back
    what was deleted. Raises OSError, and StoreFailed where somebody reads who does not end.
    """
    for _ in range(_CUTS):
        for _ in range(_TURNS):
            [(busy, pages, _)] = run(connection, "PRAGMA wal_checkpoint(TRUNCATE)")
            if not busy:
                files.sync(path + "-wal")
                return
            if pages >= 0:
                break
            native_sleep(_TURN_SECONDS)
    raise StoreFailed(
        f"{path} is being read by somebody who does not end: what was deleted stays in its -wal "
        f"file until then. End the other process; this is tried again",
        written=False,
        passes=True,
    )


def set_reading(connection: apsw.Connection) -> None:
    """Set a connection up to read a log and do nothing else."""
    for pragma, value in (
        ("busy_timeout", BUSY_MS),
        ("query_only", 1),
        ("trusted_schema", 0),
        ("cell_size_check", 1),
        ("mmap_size", 0),
    ):
        set_pragma(connection, pragma, value)


_READS: Final = frozenset(
    (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)
)


def only_reads(
    action: int, one: str | None, two: str | None, _database: str | None, _inner: str | None
) -> int:
    """Authorize what a SELECT does, and nothing else: no PRAGMA, no ATTACH, no change."""
    if action == apsw.SQLITE_PRAGMA and one == "data_version" and two is None:
        # A search asks by it whether the index that it holds is the one in the file.
        return apsw.SQLITE_OK
    return apsw.SQLITE_OK if action in _READS else apsw.SQLITE_DENY


class OnlyReads:
    """Holds a connection to reading, as `only_reads` does, and tells which tables are read."""

    def __init__(self) -> None:
        self.tables: set[str] | None = None
        """Takes the names of the tables that a statement reads while it is compiled."""
        self.is_beginning = False
        """Whether it is the store itself that begins or ends a read transaction."""

    def __call__(
        self, action: int, one: str | None, two: str | None, database: str | None, inner: str | None
    ) -> int:
        """Authorize one thing that a statement does."""
        if action == apsw.SQLITE_READ and self.tables is not None and one is not None:
            self.tables.add(one)
        if action == apsw.SQLITE_TRANSACTION and self.is_beginning:
            return apsw.SQLITE_OK
        return only_reads(action, one, two, database, inner)


_FLOATS: Final = tuple(
    sign * (base / 7.0) * 10.0**exponent
    for sign in (1, -1)
    for base in range(1, 12)
    for exponent in range(-300, 300, 37)
)


def floats_are_exact(connection: apsw.Connection) -> bool:
    """Tell whether this SQLite writes floats into JSON so that they come back bit for bit.

    3.54 does for 700,000 random ones; 3.51 loses the last digits of one in twelve.
    """
    marks = ",".join("?" * len(_FLOATS))
    text: str = run(connection, f"SELECT json_array({marks})", _FLOATS)[0][0]
    return msgspec.json.decode(text, type=tuple[float, ...]) == _FLOATS


def check_order(keys: Iterable[Any], after: Any, table: str) -> None:
    """Raise StoreRefused where rows of a page do not come one behind the other, and behind `after`.

    SQLite believes the order in which a damaged index has them. Pages would never end then.
    """
    before = after
    try:
        for key in keys:
            if not before < key:
                break
            before = key
        else:
            return
    except TypeError:
        pass  # of another type than its column
    raise StoreRefused(
        f"the table {table} is damaged: its rows behind {before!a:.100} are not in order. Restore "
        f"the log from a backup, or use `{COMMAND} repair`"
    )
