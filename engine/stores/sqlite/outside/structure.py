"""Whether the files of a log and of its views are sound: their heads, every page, every index.

Rules: SQLite reads its own pages (`integrity_check`), which compares each index with its table. The
head of a file is read through SQLite's own door to it: a descriptor that is opened and closed
beside it would let go of its locks. A file is read in one transaction, so that its write-ahead log
grows meanwhile by what is written. Nothing is changed, and nothing in a file is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final, get_args

import apsw

from ....errors import Damaged, EngineError, StoreFailed, StoreRefused
from ...contract.outside import Found
from ...contract.verifying import Finding, Report
from ...contract.views import DecisionKind
from ..connection import described, run, set_reading
from ..files import Files
from ..lock_files import exists
from ..log.cold import cold_path, odd_rows, reach
from ..log.damage import read_wal, suspect_tail
from ..log.schema import (
    COLD,
    MIGRATIONS,
    check_schema,
    later_tables,
    odd_triggers,
    read_schema_version,
)
from ..shape import harden
from ..views.builds import check_file, odd_tables, read_builds, real_name
from ..views.parked import read_decisions, read_parked

__all__ = ["SqliteStructure"]

_LINES_MAX: Final = 100
_STEPS: Final = 200_000
"""Of SQLite's machine, or pages, between two rests."""
_HEAD_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_FORMATS: Final = b"\x02\x02"
"""To write and to read a file with a write-ahead log."""
_TABLE: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
_EVENT: Final = (
    "SELECT s.name, t.name || ' v' || t.version FROM events e "
    "JOIN streams s ON s.number = e.stream "
    "JOIN event_types t ON t.number = e.type WHERE e.position = ?"
)
_STRAY: Final = """
SELECT name FROM sqlite_schema s WHERE type NOT IN ('table', 'index', 'view', 'trigger')
OR typeof(name) <> 'text' OR typeof(tbl_name) <> 'text' OR lower(tbl_name) NOT IN (
    SELECT lower(name) FROM sqlite_schema WHERE type IN ('table', 'view'))
"""
_STRAY_ROWS: Final = """
SELECT DISTINCT kind, projection, build FROM (
    SELECT 'checkpoints' AS kind, projection, build FROM checkpoints
    UNION ALL SELECT 'parked events', projection, build FROM parked) AS kept
WHERE NOT EXISTS (SELECT 1 FROM builds b WHERE b.projection = kept.projection
    AND b.number = kept.build)
"""
# SQLite looks at no CHECK where it may only read.
_ABOUT: Final = "SELECT group_concat(one) FROM about"
# Runs of the archive are numbered from 1 on, and none ever goes.
_ARCHIVES: Final = "SELECT count(*), coalesce(min(number), 1), max(number) FROM archives"
_ODD_BUILDS: Final = (
    "SELECT projection, number FROM builds WHERE own NOT IN (0, 1) OR (own = 1 AND tables = '[]')"
)
_DECISIONS: Final = frozenset(get_args(DecisionKind))
_STATES: Final = frozenset(("serving", "building", "former"))
_ALL: Final = 2**63 - 1
_CHECKSUM: Final = "SELECT checksum FROM events WHERE position = ?"


class SqliteStructure:
    """The log in the file `path`, and its views in the file `views`."""

    def __init__(self, path: str, views: str, files: Files) -> None:
        self._path = path
        self._views = views
        self._files = files
        self._proves_indexes = False

    def before(self, report: Report) -> bool:
        """Look at the log's head, its schema and its write-ahead log."""
        found: list[Finding] = []
        try:
            with closing(self._connected(self._path)) as connection:
                self._look_at_head(self._path, found.append)
                version = read_schema_version(connection, self._path, len(MIGRATIONS))
                check_schema(connection, self._path, version)
                if later := later_tables(connection, self._path, version):
                    text = f"{self._path} says version {version}, and has the table {later[0]!r}"
                    found.append(Finding("schema", f"{text} of a later one", name=self._path))
                _look_at_triggers(connection, self._path, (), found.append)
                self._look_at_wal(connection, found.append)
        except StoreRefused as error:
            found.append(Finding("schema", str(error), name=self._path))
        except (apsw.Error, OSError, UnicodeDecodeError, StoreFailed, Damaged) as error:
            found.append(_unread(self._path, error))
        for finding in found:
            report(finding)
        return not any(finding.wrong in ("schema", "unread") for finding in found)

    def _connected(self, path: str) -> apsw.Connection:
        connection = self._files.connect(path, readonly=True)
        try:
            set_reading(connection)
            harden(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _look_at_head(self, path: str, report: Report) -> None:
        head = _head_of(path)
        if head[:16] != _MAGIC or head[18:20] not in (_FORMATS, b"\x01\x01"):
            report(
                Finding(
                    "page",
                    f"page 1 of {path} is damaged: its head says that this SQLite cannot write "
                    f"the file",
                    name=path,
                )
            )

    def _look_at_wal(self, connection: Any, report: Report) -> None:
        wal = f"{self._path}-wal"
        locked = self._files.is_locked(self._path + ".lock")
        try:
            found = read_wal(connection, self._files, self._path)
        except StoreRefused as error:
            report(Finding("wal", str(error), name=wal))
            return
        if not locked and (found.torn or suspect_tail(self._files, self._path, found)):
            report(
                Finding(
                    "wal",
                    f"the last transaction in {wal} does not match its checksum: a loss of power "
                    f"tore it before anybody was answered, or it was damaged since. Without it the "
                    f"log is sound; a backup that has more events tells",
                    name=wal,
                )
            )

    def whole(self, report: Report, rest: Callable[[], None]) -> None:
        """Look at every page of both files, and at what the views say of the log."""
        self._proves_indexes = self._look_at_pages(self._path, report, rest)
        self._look_at_about(self._path, report)
        self._look_at_archives(report)
        self._look_at_cold(report, rest)
        if self._files.size(self._views) == 0:
            return
        self._look_at_pages(self._views, report, rest)
        try:
            self._look_at_views(report)
        except EngineError as error:
            report(Finding("views", str(error), name=self._views))
        except (apsw.Error, OSError, UnicodeDecodeError) as error:
            report(_unread(self._views, error))

    def _look_at_cold(self, report: Report, rest: Callable[[], None]) -> None:
        """Look at the cold file, if something was moved there."""
        path = cold_path(self._path)
        try:
            with closing(self._connected(self._path)) as connection:
                connection.set_progress_handler(partial(_go_on, rest), _STEPS)
                why = reach(connection)
                positions, names = odd_rows(connection) if why is None else ([], 0)
            if why is None:
                with closing(self._connected(path)) as cold:
                    _look_at_triggers(cold, path, COLD, report)
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            report(_unread(path, error))
            return
        if why:
            report(Finding("archive", f"the cold file of this log: {why}", name=path))
        for position in positions:
            text = f"{path} has another event at position {position} than the log"
            report(Finding("archive", text, position, path))
        if names:
            text = f"{path} has other names of streams or of types of events than the log"
            report(Finding("archive", text, name=path))
        if why is None or exists(path):
            self._look_at_pages(path, report, rest)
        if why is None:
            self._look_at_about(path, report)

    def _look_at_about(self, path: str, report: Report) -> None:
        """Look at the one row in which a file says whose it is."""
        try:
            with closing(self._connected(path)) as connection:
                if run(connection, _ABOUT) != [("1",)]:
                    text = f"the table 'about' of {path} is not as an engine makes it"
                    report(Finding("page", text, name=path))
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            report(_unread(path, error))

    def unlooked(self) -> Sequence[str]:
        """Give nothing: all of both files is looked at."""
        return ()

    def _look_at_archives(self, report: Report) -> None:
        """Look at the numbers of the runs that moved something away."""
        try:
            with closing(self._connected(self._path)) as connection:
                if not run(connection, _TABLE, ("archives",)):
                    return  # a log of an earlier release
                [(count, first, last)] = run(connection, _ARCHIVES)
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            report(_unread(self._path, error))
            return
        if count and (first, last) != (1, count):
            text = f"the runs of the archive in {self._path} are not numbered one after the other"
            report(Finding("page", text, name=self._path))

    def proves_indexes(self) -> bool:
        """Tell whether SQLite found each row of the log in each of its indexes."""
        return self._proves_indexes

    def _look_at_pages(self, path: str, report: Report, rest: Callable[[], None]) -> bool:
        """Let SQLite look at a file; tell whether it finds nothing."""
        is_sound = True
        try:
            with closing(self._connected(path)) as connection:
                self._look_at_head(path, report)
                connection.set_progress_handler(partial(_go_on, rest), _STEPS)
                for (line,) in run(connection, f"PRAGMA integrity_check({_LINES_MAX})"):
                    if line != "ok":
                        is_sound = False
                        text = f"{path} is malformed: {' '.join(str(line).split())}"
                        report(Finding(_kind_of(line), text, name=path))
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            is_sound = False
            report(_unread(path, error))
        return is_sound

    def _look_at_views(self, report: Report) -> None:
        """Compare what the views say of their log with the log."""
        with (
            closing(self._connected(self._views)) as views,
            closing(self._connected(self._path)) as log,
        ):
            log_id = check_file(views, self._views)
            for (name,) in run(views, _STRAY):
                text = f"the schema of {self._views} has {name!a} on no table that is there"
                report(Finding("page", text, name=self._views))
            for name in odd_tables(views):
                text = f"the table {name!a} of {self._views} is not as an engine makes it"
                report(Finding("page", text, name=self._views))
            found = run(log, "SELECT log_id FROM about")
            if found != [(log_id,)]:
                text = f"{self._views} has views of another log: an engine folds them anew"
                report(Finding("views", text, name=self._views))
                return
            for build in read_builds(views):
                self._look_at_build(views, log, build, log_id, report)
            for projection, build in run(views, _ODD_BUILDS):
                text = f"build {build} of {projection!a} does not say who makes its tables"
                report(Finding("views", text, name=str(projection)))
            for table, projection, build in run(views, _STRAY_ROWS):
                text = f"{table} are kept for build {build} of {projection!a}, which is not there"
                report(Finding("views", text, name=str(projection)))
            _look_at_decisions(views, log, report)

    def _look_at_build(
        self, views: Any, log: Any, build: Found, log_id: str, report: Report
    ) -> None:
        name = build.projection
        if build.log_id != log_id or build.state not in _STATES:
            text = f"a build of projection {name!r} is of another log, or in no state"
            report(Finding("views", text, name=name))
        if {*build.checkpoints} != {*range(build.slices)}:  # a flipped bit makes one of no number
            text = f"build {build.number} of projection {name!r} lacks a checkpoint of a slice"
            report(Finding("checkpoint", text, name=name))
        for at in build.checkpoints.values():
            if at.position and run(log, _CHECKSUM, (at.position,)) != [(at.checksum,)]:
                text = f"the checkpoint of projection {name!r} is at no event of the log"
                report(Finding("checkpoint", text, at.position, name))
        for table in build.tables:
            if not run(views, _TABLE, (real_name(table, build.number),)):
                text = f"projection {name!r} lacks its table {table!a}"
                report(Finding("views", text, name=name))
        for parked in read_parked(views, name, build.number, None, 0, _ALL):
            there = run(log, _EVENT, (parked.position,))
            if there != [(parked.stream, parked.event)]:
                text = f"projection {name!r} has parked an event that the log has not"
                report(Finding("views", text, parked.position, name))


def _look_at_triggers(
    connection: Any, path: str, statements: Sequence[str], report: Report
) -> None:
    for name in odd_triggers(connection, statements):
        text = f"the trigger {name!a} of {path} is not as an engine makes it"
        report(Finding("page", text, name=name))


def _look_at_decisions(views: Any, log: Any, report: Report) -> None:
    for decision in read_decisions(views, None):
        position, checksum = decision.position, decision.checksum
        # A decision about no event, or about the beginning of the log, has none to be there.
        nothing = checksum is None or (position, checksum) == (0, 0)
        if not nothing and run(log, _CHECKSUM, (position,)) != [(checksum,)]:
            text = "a decision is about an event that the log has not"
            report(Finding("views", text, position, decision.projection))
        if decision.kind not in _DECISIONS:
            text = f"a decision is of the kind {decision.kind!a}, which this release does not know"
            report(Finding("views", text, position, decision.projection))


def _head_of(path: str) -> bytes:
    """Read a file through SQLite, which keeps its locks on it when this is closed."""
    opened = apsw.VFSFile("", path, [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        return bytes(opened.xRead(min(_HEAD_BYTES, opened.xFileSize()), 0))
    finally:
        opened.xClose()


def _go_on(rest: Callable[[], None]) -> bool:
    rest()
    return False


def _kind_of(line: object) -> Any:
    return "index" if " index " in f" {line} " else "page"


def _unread(path: str, error: BaseException) -> Finding:
    text = f"{path} cannot be read: {type(error).__name__}, {described(error)}"
    return Finding("unread", text, name=path)
