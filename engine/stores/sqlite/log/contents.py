"""Whether a log's file still has what was written to it, where somebody else has written there too.

Rules: a file is the same file after a backup was copied over it, and after it was cut. Its size and
the time of its last change tell that somebody was there who was no fold of ours; then what it says
is looked at by a connection that remembers nothing, as at a start, and believed or refused. Who
only touches it, or folds the log from a shell, has done no harm. What is done while a fold of ours
is under way cannot be told from it, and is left to who reads. It runs in the writer's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import apsw

from ....errors import Damaged, StoreFailed, StoreRefused
from ...contract.log import Head
from ..connection import run, set_reading
from ..files import Files
from ..lock_files import check_beside
from ..place import Place
from ..shape import harden
from ..wal import WalMerger
from .damage import Wal, check_counts
from .heads import read_head

__all__ = ["Contents", "check_last"]

_CHECKSUM: Final = "SELECT checksum FROM events WHERE position = ?"
_PASSING: Final = (apsw.BusyError, apsw.LockedError, apsw.CantOpenError, apsw.NoMemError, OSError)
"""What says nothing of the file."""


class Contents(Place):
    """The place of a log that is written, and what the files there were when they were seen last.

    `head` gives the last event that is known to be in them.
    """

    def __init__(
        self, path: str, files: Files, merger: WalMerger | None, head: Callable[[], Head]
    ) -> None:
        super().__init__(path, files, written=True)
        self._path = path
        self._merger = merger
        self._head = head
        self._folds: int | None = self._folding()
        self._seen = self._look_at()

    @property
    def stamp(self) -> tuple[int, int]:
        """What the database's file was when it was seen last."""
        return self._seen[0]

    def check(self) -> None:
        """Raise as that of a place does, also where nobody may open the file any more."""
        super().check()
        check_beside(self._path, self._files.size)  # SQLite would remove the write-ahead log

    def check_all(self) -> None:
        """Raise as `check` does, also where the files do not say any more what was written.

        Costs 3 µs more for each of two names, and some ms where somebody else has written there.
        """
        super().check()
        folds, now = self._folding(), self._look_at()
        if folds is None or folds != self._folding():
            return  # a fold is at it: after that
        (file, wal), (seen, seen_wal) = now, self._seen
        if folds == self._folds and (file != seen or wal < seen_wal):
            self._look_into()
        self._folds, self._seen = folds, now

    def _folding(self) -> int | None:
        """Give how many folds have been begun; None while one is under way."""
        merger = self._merger
        if merger is None:
            return 0
        return None if merger.task is not None else merger.begun

    def _look_at(self) -> tuple[tuple[int, int], int]:
        return self._files.stamp(self._path), self._files.size(f"{self._path}-wal")

    def _look_into(self) -> None:
        known = self._head()
        try:
            with closing(self._files.connect(self._path, readonly=True)) as connection:
                harden(connection)
                set_reading(connection)
                head = read_head(connection)
                if known.position:
                    check_last(connection, self._path, known)
                check_counts(connection, self._files, self._path, head, Wal(0))
        except _PASSING as error:
            raise StoreFailed(
                f"{self._path} was changed, and cannot be looked at now ({error}): nothing is "
                f"written until it can",
                written=False,
            ) from error
        except (apsw.Error, Damaged, StoreRefused, UnicodeDecodeError) as error:
            raise _written_over(self._path, str(error)) from error


def check_last(connection: Any, path: str, known: Head) -> None:
    """Raise StoreRefused where the last event that was written is not there any more."""
    if run(connection, _CHECKSUM, (known.position,)) != [(known.checksum,)]:
        raise _written_over(path, f"position {known.position} has another event, or none")


def _written_over(path: str, why: str) -> StoreRefused:
    return StoreRefused(
        f"{path} does not have any more what was written to it: another program has written over "
        f"it, or cut it ({why}). Nothing more is written or believed. Stop that program; put a "
        f"backup in its place only while no engine runs"
    )
