"""How the stores in SQLite files reach the file system: a door that tests and simulations replace.

Rules: every connection, lock and look at a file of a store goes through `Files`. An engine's ports
may bring others than the machine's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, cast

import apsw

from ...runtime.ports import Ports
from .lock_files import FileId, FileLock
from .system_files import SystemFiles

__all__ = ["FileId", "FileLock", "Files", "Lock", "Mark", "SystemFiles", "beside", "files_of"]


class Lock(Protocol):
    """Exclusive use of a path, given back by `release` or by the end of the process."""

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Mark(Protocol):
    """A small file that says what its writer last knew; it never fails, and is not synced."""

    def read(self) -> bytes:
        """Give what it says; nothing where there is none, or something else."""
        ...

    def write(self, said: bytes) -> None:
        """Write over what it says: `foldline ` and the rest, with as many bytes each time."""
        ...

    def close(self, *, removing: bool) -> None:
        """Write to it no more; with `removing` it goes."""
        ...


class Files(Protocol):
    """How a store opens its files and connections."""

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        """Open a SQLite connection. A file that does not exist is made with mode 0600."""
        ...

    def identify(self, path: str) -> FileId | None:
        """Give what tells the file at a path from every other one; None where there is none."""
        ...

    def stamp(self, path: str) -> tuple[int, int]:
        """Give what changes when a file is written to: its bytes, and the time of that, in ns.

        Zeros where there is none.
        """
        ...

    def hold(self, path: str, connection: Any) -> Lock:
        """Take the file itself that `connection` writes, whatever name others have for it.

        Raises StoreLocked where another engine has it. `release` it when the connection is closed.
        """
        ...

    def is_held(self, path: str) -> bool:
        """Tell whether somebody holds the file itself, which must be open in this process."""
        ...

    def lock(self, path: str, *, briefly: bool = False) -> Lock:
        """Take `path` for this engine alone, or raise StoreLocked naming who has it.

        `briefly` tells whoever comes meanwhile that it will be given back in a moment.
        """
        ...

    def is_locked(self, path: str) -> bool:
        """Tell whether somebody has `path`; nothing is made where it is not there.

        Whoever takes it in that very moment may find it locked, and has to try again.
        """
        ...

    def holder(self, path: str) -> int | None:
        """Give the process that has a path locked, as far as its note tells, without asking."""
        ...

    def inheritors(self, path: str) -> Sequence[int]:
        """Give the processes that have a lock's file open, as far as the system tells."""
        ...

    def size(self, path: str) -> int:
        """Give the bytes of a file, 0 where there is none."""
        ...

    def free(self, path: str) -> int:
        """Give the bytes that may still be written on the disk of a file; raises OSError."""
        ...

    def rewrite(self, path: str) -> None:
        """Write a file's bytes over themselves, and sync it: what is shown is on the disk then.

        A crash on the way leaves each byte as it was on the disk, or as it was shown.
        """
        ...

    def sync(self, path: str) -> None:
        """Make what was written to a file durable, and its size; not of a database. Raises OSError.

        Others may write to it meanwhile.
        """
        ...

    def parts(self, path: str, begin: int, step: int, size: int) -> Iterator[bytes]:
        """Give `size` bytes at `begin`, `begin + step` and so on, to the end of a file.

        Never of a database: to close it would let go of SQLite's locks on it in this process.
        """
        ...

    def blank(self, path: str, places: Sequence[int], size: int) -> None:
        """Write `size` zeros at some places of a file, of which the same holds; not synced."""
        ...

    def mark(self, path: str) -> Mark:
        """Give a small file that is written over in place; nothing is opened or made."""
        ...

    def make(self, path: str) -> None:
        """Make an empty file of mode 0600 where nothing is; raises OSError."""
        ...

    def place(self, path: str, to: str) -> None:
        """Give a file that is whole another name in its folder, synced; raises OSError."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        ...


def beside(log: str, what: str) -> str:
    """Give the path of what belongs to a log: `shop.views.db` beside `shop.db`."""
    folder, slash, name = log.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    own = f"{stem}.{what}{dot}{suffix}" if stem else f"{name}.{what}"
    return f"{folder}{slash}{own}"


_MACHINE: Final = SystemFiles()


def files_of(ports: Ports) -> Files:
    """Give the files that ports bring, or the machine's."""
    return _MACHINE if ports.files is None else cast("Files", ports.files)
