"""Where a log ended when it was last written, in a small file beside it: `shop.db.end`.

Rules: a database whose write-ahead log was lost or cut looks like one that was closed in peace, or
like one that a loss of power has left. So each batch is noted once it is on the disk: the log's id,
its last position, and what the database's file was then. Who opens or reads a log that ends before
that, while its database has not been written to since, refuses it: what was acknowledged is gone. A
backup that was put in its place, or a database that was folded since, has another time, and is
believed. A copy that got its former time back cannot be told apart, and is refused. The note goes
with an end in peace. Nothing here is synced, and nothing fails a batch.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple
from zlib import crc32

from ....errors import StoreRefused
from ...contract.log import Head
from ..files import Files
from .heads import read_head, read_log_id

__all__ = ["Ending"]

_BYTES: Final = 160
"""Of a note, which is written over in place."""
_NOTE: Final = re.compile(
    rb"foldline end ([0-9]{1,18}) of ([!-~]{1,64}) ([0-9]{1,18}) ([0-9]{1,20}) [0-9]+ *\n"
)


class _Noted(NamedTuple):
    """What a note says."""

    log_id: str
    position: int
    stamp: tuple[int, int]
    """Of the database's file: its bytes, and the time at which it was written to last."""


class Ending:
    """The note beside the log at `path`, made before the database is opened."""

    def __init__(self, path: str, files: Files) -> None:
        self._path, self._files = path, files
        self._mark = files.mark(f"{path}.end")
        self._stamp = files.stamp(path)

    def check(self, connection: Any, *, is_new: bool) -> None:
        """Raise StoreRefused where the log ends before what was noted. Writes nothing.

        One that is new has lost its tables too: they are in the first batch that was noted.
        """
        noted = _read(self._mark.read())
        if noted is None or noted.stamp != self._stamp:
            return
        ended = 0 if is_new else read_head(connection).position
        log_id = None if is_new else read_log_id(connection)
        if ended < noted.position and log_id in (None, noted.log_id):
            raise StoreRefused(
                f"{self._path} ends at position {ended}, and position {noted.position} was on the "
                f"disk when it was last written: the end of {self._path}-wal is lost, though its "
                f"events were acknowledged. Put that file back as it was, or restore a backup. To "
                f"go on without these events, or if you put an older copy there with its former "
                f"time, remove {self._path}.end. Nothing was changed"
            )

    def note(self, log_id: str, head: Head, stamp: tuple[int, int]) -> None:
        """Note the end of the log, which is on the disk; `stamp` is of the database's file."""
        self._mark.write(_note(_Noted(log_id, head.position, stamp)))

    def close(self, *, in_peace: bool) -> None:
        """Leave the note where not all is in the database; otherwise remove it."""
        self._mark.close(removing=in_peace and not self._files.size(f"{self._path}-wal"))


def _note(noted: _Noted) -> bytes:
    size, time = noted.stamp
    told = f"foldline end {noted.position} of {noted.log_id} {size} {time}"
    return f"{told} {crc32(told.encode())}".encode().ljust(_BYTES - 1) + b"\n"


def _read(said: bytes) -> _Noted | None:
    """Give what a note says; None for what is none, or is torn."""
    found = _NOTE.fullmatch(said)
    if found is None:
        return None
    position, size, time = int(found[1]), int(found[3]), int(found[4])
    noted = _Noted(found[2].decode(), position, (size, time))
    return noted if said == _note(noted) else None
