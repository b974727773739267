"""Whether the files of a log and of its views are sound: their heads, every page, every index.

Rules: SQLite reads its own pages (`integrity_check`), which compares each index with its table. The
head of a file is read through SQLite's own door to it: a descriptor that is opened and closed
beside it would let go of its locks. A file is read in one transaction, so that its write-ahead log
grows meanwhile by what is written. Nothing is changed, and nothing in a file is run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, Final

import apsw

from ....errors import Damaged, EngineError, StoreFailed, StoreRefused
from ...contract.verifying import Finding, Report
from ..connection import run, set_reading
from ..files import Files
from ..log.damage import read_wal, suspect_tail
from ..log.heads import read_head
from ..log.schema import MIGRATIONS, check_schema, read_schema_version
from ..shape import harden
from ..views.builds import check_file, read_builds

__all__ = ["SqliteStructure"]

_LINES_MAX: Final = 100
_STEPS: Final = 200_000
"""Of SQLite's machine, or pages, between two rests."""
_HEAD_BYTES: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_FORMATS: Final = b"\x02\x02"
"""To write and to read a file with a write-ahead log."""
_CHECKSUM: Final = "SELECT checksum FROM events WHERE position = ?"


class SqliteStructure:
    """The log in the file `path`, and its views in the file `views`."""

    def __init__(self, path: str, views: str, files: Files) -> None:
        self._path = path
        self._views = views
        self._files = files

    def before(self, report: Report) -> bool:
        """Look at the log's head, its schema and its write-ahead log."""
        found: list[Finding] = []
        try:
            with closing(self._connected(self._path)) as connection:
                self._look_at_head(self._path, found.append)
                version = read_schema_version(connection, self._path, len(MIGRATIONS))
                check_schema(connection, self._path, version)
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
        self._look_at_pages(self._path, report, rest)
        if self._files.size(self._views) == 0:
            return
        self._look_at_pages(self._views, report, rest)
        try:
            self._look_at_views(report)
        except EngineError as error:
            report(Finding("views", str(error), name=self._views))
        except (apsw.Error, OSError, UnicodeDecodeError) as error:
            report(_unread(self._views, error))

    def _look_at_pages(self, path: str, report: Report, rest: Callable[[], None]) -> None:
        try:
            with closing(self._connected(path)) as connection:
                self._look_at_head(path, report)
                connection.set_progress_handler(partial(_go_on, rest), _STEPS)
                for (line,) in run(connection, f"PRAGMA integrity_check({_LINES_MAX})"):
                    if line != "ok":
                        text = f"{path} is malformed: {' '.join(str(line).split())}"
                        report(Finding(_kind_of(line), text, name=path))
        except (apsw.Error, OSError, UnicodeDecodeError, StoreRefused) as error:
            report(_unread(path, error))

    def _look_at_views(self, report: Report) -> None:
        """Compare what the views say of their log with the log."""
        with (
            closing(self._connected(self._views)) as views,
            closing(self._connected(self._path)) as log,
        ):
            log_id = check_file(views, self._views)
            found = run(log, "SELECT log_id FROM about")
            if found != [(log_id,)]:
                text = f"{self._views} has views of another log: an engine folds them anew"
                report(Finding("views", text, name=self._views))
                return
            builds = read_builds(views)
            head = read_head(log)
            for build in builds:
                for at in build.checkpoints.values():
                    there = run(log, _CHECKSUM, (at.position,))
                    if at.position and there != [(at.checksum,)]:
                        where = (
                            "is behind the end of the log"
                            if at.position > head.position
                            else ("names another event than the log has there")
                        )
                        text = f"the checkpoint of projection {build.projection!r} {where}"
                        report(Finding("checkpoint", text, at.position, build.projection))


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
    text = f"{path} cannot be read: {type(error).__name__}, {error}"
    return Finding("unread", text, name=path)
