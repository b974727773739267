"""Whether the name of a file that is open still leads to it, and to what SQLite keeps beside it.

Rules: a file is looked for by its path when it is opened, and believed no longer than its device
and number say so. Who finds another file there, or none, stops and names it: what it went on to
write would be in a file that nobody finds any more, or in somebody else's. Nothing is opened here.
"""

from __future__ import annotations

from ...errors import StoreFailed, StoreRefused
from .files import FileId, Files

__all__ = ["Place"]


class Place:
    """The file at `path`, as it was when this was made; with its WAL and index if it is written.

    One look takes 3 µs for each name.
    """

    def __init__(self, path: str, files: Files, *, written: bool = False) -> None:
        self._files = files
        names = (path, f"{path}-wal", f"{path}-shm") if written else (path,)
        found = [(name, files.identify(name)) for name in names]
        self._known = [(name, known) for name, known in found if known is not None]

    def check(self) -> None:
        """Raise StoreRefused where a name leads to another file now, or to none.

        Raises StoreFailed, of which nothing was written, where that cannot be seen at present.
        """
        for name, known in self._known:
            if self._look(name) != known:
                raise StoreRefused(
                    f"{name} is not the file any more that was opened: somebody has moved, removed "
                    f"or replaced it. Nothing more is written or believed: see what is there now, "
                    f"put the right file back, and start again"
                )

    def _look(self, name: str) -> FileId | None:
        try:
            return self._files.identify(name)
        except OSError as error:
            raise StoreFailed(
                f"{name} cannot be looked at ({error.strerror}), and nobody knows whether it is "
                f"the file still that was opened: give the right back to look into its folder",
                written=False,
                passes=True,
            ) from error
