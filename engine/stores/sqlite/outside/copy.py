"""A copy of a log and its views, each whole and of one moment, while their engine runs or not.

Rules: SQLite copies, in one read transaction per file: an engine goes on meanwhile, and folds its
write-ahead log when the copy is done. The views are copied first, so that they are never ahead of
the log. Nothing is written over. What was written is synced and then read: each event is compared
with its checksum and its place, each page with its kind. A copy that is not whole is taken away.
The source is only read. Calls block.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager

import apsw
import msgspec

from ....errors import Damaged, StoreRefused
from ....runtime.ports import Files
from ....runtime.system_files import exists
from ...contract.log import Head
from ..connection import run, set_reading
from ..log.store import SqliteStore
from .log import SqliteReader

__all__ = ["Copied", "copy_log"]

_ENDINGS = ("", "-wal", "-shm", "-journal")
_PAGE_EVENTS = 1_000
_PAGE_BYTES = 16 * 1024 * 1024


class Copied(msgspec.Struct, frozen=True):
    """What was copied."""

    head: Head
    """The end of the log in the copy."""
    views: str | None
    """Where its views are; None where there were none."""


def copy_log(files: Files, path: str, to: str, *, damaged: bool = False) -> Copied:
    """Copy the log in the file `path` to the file `to`, and its views beside each.

    `damaged` takes what stands before the damage in a write-ahead log. Raises StoreRefused where
    there is no log to be read, where the copy would write over something or cannot be made, and
    Damaged for an event that cannot be used.
    """
    views, views_to = SqliteStore(path).views_path, SqliteStore(to).views_path
    with SqliteReader(path, files, damaged=damaged):
        pass  # it says what a file is that is no log
    for target in (to, views_to):
        _refuse_what_is_there(target)
    has_views = files.size(views) > 0
    if has_views:
        with _making(files, views_to):
            _copy(files, views, views_to)
    with _removing(files, views_to if has_views else None), _making(files, to):
        _copy(files, path, to)
        head = _verified(files, to)
    return Copied(head, views_to if has_views else None)


def _refuse_what_is_there(path: str) -> None:
    for ending in _ENDINGS:
        if exists(path + ending):
            raise StoreRefused(
                f"{path}{ending} is there already, and a copy writes over nothing: name another "
                f"file, or move that one away"
            )


@contextmanager
def _making(files: Files, path: str) -> Generator[None]:
    """Make a file, and take it away where what is inside fails."""
    try:
        files.make(path)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be made: {error.strerror}") from error
    with _removing(files, path):
        yield


@contextmanager
def _removing(files: Files, path: str | None) -> Generator[None]:
    try:
        yield
    except BaseException:
        for ending in _ENDINGS if path is not None else ():
            files.remove(f"{path}{ending}")
        raise


def _copy(files: Files, path: str, to: str) -> None:
    try:
        with (
            closing(files.connect(path, readonly=True)) as source,
            closing(files.connect(to)) as target,
        ):
            set_reading(source)
            with target.backup("main", source, "main") as backup:
                backup.step()
            found = run(target, "PRAGMA integrity_check(1)")
    except (apsw.Error, OSError) as error:
        raise StoreRefused(f"{path} could not be copied to {to}: {error}") from error
    if found != [("ok",)]:
        raise StoreRefused(
            f"{path} is malformed: SQLite's integrity_check finds something in the copy of it, "
            f"which was taken away. Restore a backup"
        )


def _verified(files: Files, path: str) -> Head:
    """Compare all events of a copy; give its end. Raises Damaged."""
    with SqliteReader(path, files) as reader:
        head = reader.head()
        after = 0
        while page := reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
            after = page[-1].position
        if after != head.position:
            raise Damaged(after + 1, "it is missing in the copy")
    return head
