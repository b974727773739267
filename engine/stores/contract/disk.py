"""What a store tells of the disk that its files are on.

Rules: a look at a disk blocks, and may never come back: it is made in a thread, and not in that of
the store's own reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from ...runtime.ports import Ports

__all__ = ["DiskSpace", "OnDisk"]


class DiskSpace(msgspec.Struct, frozen=True):
    """The disk of a log, as it is now."""

    free_bytes: int
    """What this user may still write on it."""
    file_bytes: int
    """Size of the log's file."""
    wal_bytes: Mapping[str, int]
    """Size of each write-ahead log: of the "log", and of the "views" if they are in a file."""


@runtime_checkable
class OnDisk(Protocol):
    """What a store that keeps files may also be."""

    def disk(self, ports: Ports) -> DiskSpace:
        """Look at the disk, whether the store is open or not; raise OSError if it cannot be."""
        ...
