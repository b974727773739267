"""A copy of a log and its views, each whole and of one moment, while their engine runs or not.

Rules: SQLite copies, in one read transaction per file: an engine goes on meanwhile, and folds its
write-ahead log when the copy is done. The views are copied first, so that they are never ahead of
the log, and the cold file last, so that it is never behind it. Nothing is written over. What was
written is synced and then read: each event is compared with its checksum and its place, each page
with its kind. Until then it has another name, under which nobody takes it for a log, also where the
copying is killed; the log gets its name last. A copy that is not whole is taken away. The source is
only read. Calls block.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import apsw

from ....errors import Damaged, StoreRefused
from ...contract.log import Head
from ...contract.outside import Copied
from ..connection import described, run, set_reading, snapshot, unreadable
from ..files import Files
from ..lock_files import exists
from ..log.cold import PARTIAL, cold_path, has_moved
from ..log.store import SqliteStore
from .log import SqliteLogReader

__all__ = ["PARTIAL", "copy_file", "copy_log", "place_copy", "refuse_what_is_there"]

_ENDINGS: Final = ("", "-wal", "-shm", "-journal")
_PAGES: Final = 2_000
"""How many are copied before somebody who wants it to end is listened to."""
_PAGE_EVENTS: Final = 1_000
_PAGE_BYTES: Final = 16 * 1024 * 1024


def copy_log(files: Files, path: str, to: str, *, damaged: bool = False) -> Copied:
    """Copy the log in the file `path` to the file `to`, and its views beside each.

    `damaged` takes what stands before the damage in a write-ahead log. Raises StoreRefused where
    there is no log to be read, where the copy would write over something or cannot be made, and
    Damaged for an event that cannot be used.
    """
    views, views_to = SqliteStore(path).views_path, SqliteStore(to).views_path
    with SqliteLogReader(path, files, damaged=damaged):
        pass  # it says what a file is that is no log
    has_views = files.size(views) > 0
    cold, cold_to = cold_path(path), cold_path(to)
    has_cold = _has_cold(files, path)
    made = [*[views_to] * has_views, *[cold_to] * has_cold, to]
    for target in (to, views_to, cold_to, *(name + PARTIAL for name in made)):
        refuse_what_is_there(target)
    with ExitStack() as stack:
        for target in made:
            _make(files, target + PARTIAL)
            stack.enter_context(_taken_away(files, target + PARTIAL))
        if has_views:
            _copy(files, views, views_to + PARTIAL)
        _copy(files, path, to + PARTIAL)
        if has_cold:
            _copy(files, cold, cold_to + PARTIAL)
        head = _verified(files, to + PARTIAL)
        for target in made:
            place_copy(files, target)
            stack.enter_context(_taken_away(files, target))
    return Copied(head, views_to if has_views else None)


def copy_file(files: Files, path: str, to: str) -> None:
    """Copy the file `path` alone to the file `to`, as it is at one moment."""
    for target in (to, to + PARTIAL):
        refuse_what_is_there(target)
    _make(files, to + PARTIAL)
    with _taken_away(files, to + PARTIAL):
        _copy(files, path, to + PARTIAL)
        place_copy(files, to)


_LEFT: Final = (
    "another copy is being made, or one was killed before it was whole. Remove it if none is"
)


def refuse_what_is_there(path: str) -> None:
    """Raise StoreRefused where a file of a copy would be."""
    for ending in _ENDINGS:
        if exists(path + ending):
            raise StoreRefused(
                f"{path}{ending} is there already, and a copy writes over nothing: "
                + (_LEFT if path.endswith(PARTIAL) else "name another file, or move it away")
            )


def _make(files: Files, path: str) -> None:
    try:
        files.make(path)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be made: {error.strerror}") from error


@contextmanager
def _taken_away(files: Files, path: str) -> Generator[None]:
    """Remove a file of a copy where what is inside fails."""
    try:
        yield
    except BaseException:
        for ending in _ENDINGS:
            files.remove(f"{path}{ending}")
        raise


def place_copy(files: Files, path: str) -> None:
    """Give a copy its name; all of it is in the one file, and what readers left beside is not."""
    for ending in _ENDINGS[1:]:
        files.remove(f"{path}{PARTIAL}{ending}")
    try:
        files.place(path + PARTIAL, path)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be made: {error.strerror}") from error


def _has_cold(files: Files, path: str) -> bool:
    """Tell whether a log has a cold file; raise StoreRefused where that is not there."""
    with unreadable(path), closing(files.connect(path, readonly=True)) as connection:
        set_reading(connection)
        if not has_moved(connection):
            return False
    if not exists(cold := cold_path(path)):
        raise StoreRefused(f"{cold} is not there, and has events of this log: put that file back")
    return True


def _copy(files: Files, path: str, to: str) -> None:
    try:
        with (
            closing(files.connect(path, readonly=True)) as source,
            closing(files.connect(to)) as target,
        ):
            set_reading(source)
            with snapshot(source), target.backup("main", source, "main") as backup:
                run(source, "SELECT count(*) FROM sqlite_schema")  # from here on it is one moment
                while not backup.step(_PAGES):
                    pass
            found = run(target, "PRAGMA integrity_check(1)")
    except apsw.FullError as error:
        raise StoreRefused(f"{path} could not be copied to {to}: there is no room") from error
    except (apsw.Error, OSError) as error:
        # The error of a step has no words of its own.
        why = f"{type(error).__name__}, {described(error)}"
        raise StoreRefused(f"{path} could not be copied to {to}: {why}") from error
    if found != [("ok",)]:
        raise StoreRefused(
            f"{path} is malformed: SQLite's integrity_check finds something in the copy of it, "
            f"which was taken away. Restore a backup"
        )


def _verified(files: Files, path: str) -> Head:
    """Compare all events of a copy; give its end. Raises Damaged."""
    with SqliteLogReader(path, files) as reader:
        head = reader.head()
        after = 0
        while page := reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
            after = page[-1].position
        if after != head.position:
            raise Damaged(after + 1, "it is missing in the copy")
    return head
