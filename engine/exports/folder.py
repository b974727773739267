"""A folder of files that grows with a log: each run adds what is new.

Rules: the name of a file says of which log it is, from which position to which, and the checksum of
the event there. So the next run knows where to go on, and a log that went back since, or another
log, is refused. One process at a time adds files: two would each begin behind the same one, and the
events of both would stand there twice. Of two files that have the same events, none is believed.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import StoreRefused
from ..runtime.folder import Folder as Place
from ..stores.contract.outside import LogReader

__all__ = ["Folder"]

_ID: Final = 12
"""Characters of the log's id in a name."""
_NAME: Final = re.compile(r"events-([0-9a-z]{1,12})-([0-9]{12})-([0-9]{12})-([0-9a-f]{8})\.(\w+)")


_LOCK: Final = ".export.lock"
"""Hidden, so that who asks for all files of the folder does not read it."""


class Folder:
    """The files of one log in a folder, in one form."""

    def __init__(self, path: Path, form: str, log: LogReader) -> None:
        """Take a log that is open."""
        self._path = path
        self._form = form
        self._log = log
        self._place = Place(str(path))

    def __enter__(self) -> Folder:
        """Make the folder and lock it; raise StoreRefused where that cannot be done."""
        try:
            self._place.make()
            is_free = self._place.lock(_LOCK)
        except OSError as error:
            raise StoreRefused(
                f"{self._path} is no folder, and cannot be made or locked: {error.strerror}"
            ) from error
        if not is_free:
            raise StoreRefused(
                f"another process exports into {self._path}: run this again when it has ended. "
                f"Nothing was written"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let others add files."""
        self._place.unlock()

    def end(self) -> int:
        """Give the position up to which there are files.

        Raises StoreRefused for files of another log or form, for two that have the same events,
        and where the log has another event at that position.
        """
        last = 0
        checksum = ""
        ranges: list[tuple[int, int, str]] = []
        for file in self._path.iterdir():
            found = _NAME.fullmatch(file.name)
            if found is None:
                continue
            log_id, begin, end, of_the_end, form = found.groups()
            ranges.append((int(begin), int(end), file.name))
            if (log_id, form) != (self._log.log_id[:_ID], self._form):
                raise StoreRefused(
                    f"{self._path} has files of log {log_id} in {form}, and this is log "
                    f"{self._log.log_id[:_ID]} in {self._form}: give each a folder of its own"
                )
            if int(end) > last:
                last, checksum = int(end), of_the_end
        for (_, behind, one), (begun, _, other) in pairwise(sorted(ranges)):
            if begun <= behind:
                raise StoreRefused(
                    f"{self._path} has the same events in {one} and {other}: remove one of them, "
                    f"so that nothing is counted twice. Nothing was written"
                )
        if last and self._checksum(last) != checksum:
            raise StoreRefused(
                f"{self._path} has files up to position {last:,}, and {self._log.name} has another "
                f"event there, or none: it went back, as to a backup. Export to a new folder"
            )
        return last

    def file(self, first: int, last: int) -> Path:
        """Give the name of the file of a range of positions."""
        return self._path / (
            f"events-{self._log.log_id[:_ID]}-{first:012}-{last:012}-{self._checksum(last)}"
            f".{self._form}"
        )

    def _checksum(self, position: int) -> str:
        page = self._log.read_feed(position - 1, events_max=1, bytes_max=1)
        return f"{page[0].checksum:08x}" if page else ""
