"""The disk that the files of a log are on: what is free, and how large they are.

Rules: it only looks, by the names of the files, and opens none of them. It blocks.
"""

from __future__ import annotations

import errno
from contextlib import suppress

from ...runtime.ports import Ports
from ...statistics import StoreStatistics
from ..contract.disk import DiskSpace
from .files import beside, files_of

__all__ = ["SeenOnDisk"]


class SeenOnDisk:
    """The part of a store that looks at its files from outside."""

    path: str
    _ports: Ports

    @property
    def views_path(self) -> str:
        """Where the views of this log lie: `shop.views.db` beside `shop.db`."""
        return beside(self.path, "views")

    @property
    def merges(self) -> tuple[int, int]:
        """How often the write-ahead log was merged, and put off, since the start."""
        raise NotImplementedError

    def disk(self, ports: Ports) -> DiskSpace:
        """Look at what is free, and at the write-ahead logs."""
        files = files_of(ports)
        if files.identify(self.path) is None:
            raise FileNotFoundError(errno.ENOENT, "it is not there", self.path)
        places = {"log": self.path, "views": self.views_path}
        sizes = {of: files.size(f"{path}-wal") for of, path in places.items()}
        return DiskSpace(files.free(self.path), files.size(self.path), sizes)

    def statistics(self) -> StoreStatistics:
        """Give the numbers as they are now; called from any thread."""
        merges, put_off = self.merges
        files = files_of(self._ports)
        free: int | None = None
        with suppress(OSError):
            free = files.free(self.path)
        return StoreStatistics(
            file_bytes=files.size(self.path),
            wal_bytes=files.size(self.path + "-wal"),
            wal_merges=merges,
            wal_merges_put_off=put_off,
            free_bytes=free,
        )
