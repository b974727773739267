"""Ways for a process to end in the middle: SIGKILL at a failpoint, or at a call that SQLite makes.

Rules: nothing is simulated. The file system is the system's own, reached through a VFS that passes
every call on; the process kills itself, and no `finally`, no buffer and no lock of it survives.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import apsw

from engine.runtime.ports import FAILPOINTS, SWAP_FAILPOINTS

from .story import Death, Place

LOG = "cells.db"
VIEWS = "cells.views.db"

_FAILPOINTS_OFTEN = {"mailbox": 40, "actor": 35, "projector": 25, "views": 25}

FAILPOINT_PLACES = (
    *(Place(name, often=_FAILPOINTS_OFTEN.get(name.partition(".")[0], 12)) for name in FAILPOINTS),
    *(Place(name, often=4) for name in SWAP_FAILPOINTS),
)

_CALLS = {
    f"open {LOG}": 2,
    f"write {LOG}": 25,
    f"sync {LOG}": 3,
    f"truncate {LOG}": 2,
    f"open {LOG}-wal": 2,
    f"write {LOG}-wal": 120,
    f"sync {LOG}-wal": 25,
    f"truncate {LOG}-wal": 3,
    f"delete {LOG}-wal": 1,
    f"open {LOG}-journal": 1,
    f"write {LOG}-journal": 2,
    f"sync {LOG}-journal": 2,
    f"delete {LOG}-journal": 1,
    f"open {VIEWS}": 2,
    f"write {VIEWS}": 20,
    f"sync {VIEWS}": 5,
    f"truncate {VIEWS}": 4,
    f"open {VIEWS}-wal": 1,
    f"write {VIEWS}-wal": 110,
    f"sync {VIEWS}-wal": 10,
    f"delete {VIEWS}-wal": 1,
    f"open {VIEWS}-journal": 1,
    f"write {VIEWS}-journal": 2,
    f"sync {VIEWS}-journal": 2,
    f"delete {VIEWS}-journal": 1,
}
"""The calls that SQLite makes, and about how often in a life of some fifty commands. Journals are
there only until a new file has switched to its write-ahead log; that of the views is cut where a
reader has made it grow, which these lives do not come to."""


def _moments(call: str) -> tuple[str, ...]:
    return ("before", "during", "after") if call.startswith("write") else ("before", "after")


CALL_PLACES = tuple(
    Place(call, moment, often) for call, often in _CALLS.items() for moment in _moments(call)
)
ACKNOWLEDGEMENT = Place("acknowledgement", often=30)


def die() -> NoReturn:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives SIGKILL")


class Reaper:
    """Counts how often this process comes by its place, and ends it there."""

    def __init__(self, death: Death) -> None:
        self._name = death.place.name
        self._moment = death.place.moment
        self._left = death.nth

    def failpoint(self, name: str) -> None:
        """Reach a failpoint."""
        if self._is_last(name):
            die()

    def before(self, call: str) -> str:
        """Come to a call; die before it, or give the moment that is left to die at."""
        if not self._is_last(call):
            return ""
        if self._moment == "before":
            die()
        return self._moment

    def _is_last(self, name: str) -> bool:
        if name != self._name:
            return False
        self._left -= 1
        return self._left == 0


class DyingVfs(apsw.VFS):
    """The system's VFS, in which a process may find its end."""

    def __init__(self, reaper: Reaper) -> None:
        self.name = "dying"
        self.reaper = reaper
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        moment = self.reaper.before(f"open {Path(path).name}")
        file = DyingFile(self.reaper, Path(path).name, name, flags)
        if moment:
            die()
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        moment = self.reaper.before(f"delete {Path(filename).name}")
        super().xDelete(filename, syncdir)
        if moment:
            die()


class DyingFile(apsw.VFSFile):
    """A file whose calls may be the last."""

    def __init__(self, reaper: Reaper, name: str, filename: Any, flags: list[int]) -> None:
        self._reaper = reaper
        self._name = name
        super().__init__("", filename, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        moment = self._reaper.before(f"write {self._name}")
        if moment == "during":
            super().xWrite(bytes(data)[: len(data) // 2], offset)
            die()
        super().xWrite(data, offset)
        if moment:
            die()

    def xSync(self, flags: int) -> None:  # noqa: N802
        moment = self._reaper.before(f"sync {self._name}")
        super().xSync(flags)
        if moment:
            die()

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        moment = self._reaper.before(f"truncate {self._name}")
        super().xTruncate(newsize)
        if moment:
            die()


class LyingVfs(apsw.VFS):
    """The system's VFS on a disk that says that it has synced, and has not."""

    def __init__(self) -> None:
        self.name = "lying"
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        return LyingFile("", name, flags)


class LyingFile(apsw.VFSFile):
    """A file whose syncs do nothing."""

    def xSync(self, flags: int) -> None:  # noqa: N802
        return None
