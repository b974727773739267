"""How much room files take, and what is free on the machine's disks.

Rules: it only looks, and opens nothing. It blocks.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["DiskRoom"]


class DiskRoom:
    """The part of the machine's file system that tells of room."""

    def stamp(self, path: str) -> tuple[int, int]:
        """Ask for the bytes of a file, and for the time at which it was written to last."""
        raise NotImplementedError

    def size(self, path: str) -> int:
        """Give the bytes of a file, 0 where there is none."""
        return self.stamp(path)[0]

    def free(self, path: str) -> int:
        """Give the bytes that this user may still write on the disk of a file; raises OSError."""
        return shutil.disk_usage(Path(path).parent).free
