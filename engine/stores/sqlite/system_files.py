"""The machine's file system, as stores use it: connections, locks, and which file a path leads to.

Rules: no descriptor of a database is opened and closed here while SQLite may have the file open:
the kernel would let go of every POSIX lock of this process on it, and the next stranger to close
the file would remove its write-ahead log. Locks are in `lock_files` and `held_files`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import apsw

from ...errors import StoreRefused
from .held_files import FileHold, check_not_inherited, connected, is_held, next_descriptor
from .lock_files import (
    QUIETLY,
    FileId,
    FileLock,
    check_beside,
    is_locked,
    lives,
    note_in,
    plain_file,
)
from .marks import FileMark
from .room import DiskRoom

__all__ = ["SystemFiles"]

_DESCRIPTORS: Final = 3
"""Of a database: its file, the write-ahead log, and the index of that."""
_REWRITTEN_AT_ONCE: Final = 1024 * 1024


def _check_descriptors() -> None:
    """Say why SQLite could not open its files, which it does not: no descriptors are left."""
    held: list[int] = []
    try:
        while len(held) < _DESCRIPTORS:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise apsw.CantOpenError(
                f"{os.strerror(error.errno).lower()}. A database needs {_DESCRIPTORS} descriptors: "
                f"raise the limit of this process (`ulimit -n`, LimitNOFILE), or close files"
            ) from error
    finally:
        for descriptor in held:
            os.close(descriptor)


class SystemFiles(DiskRoom):
    """The machine's file system."""

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        """Open a SQLite connection; a new file gets mode 0600 before SQLite sees it."""
        if path == ":memory:":
            return apsw.Connection(path)
        found = plain_file(path)
        if found is None and not readonly:
            # Mode 0600, which SQLite gives to its -wal and -shm too. Only where there is none: to
            # close a descriptor of one that is there would let go of SQLite's locks on it here.
            with suppress(FileExistsError):  # somebody was first
                self.make(path)
            found = plain_file(path)
        if not readonly:
            check_not_inherited(path, found)
        elif found is not None:
            check_beside(path, self.size)
        _check_descriptors()
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        likely = next_descriptor()
        connection = apsw.Connection(path, flags=flags)
        if plain_file(path) != found:
            connection.close()
            raise StoreRefused(f"{path} was replaced while it was opened: open it again")
        if found is not None:
            connected(connection, found, likely)
        return connection

    def identify(self, path: str) -> FileId | None:
        """Ask for device and inode, of a link itself and not of what it leads to."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return FileId(found.st_dev, found.st_ino)

    def stamp(self, path: str) -> tuple[int, int]:
        """Ask for the bytes of a file, and for the time at which it was written to last."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return 0, 0
        return found.st_size, found.st_mtime_ns

    def hold(self, path: str, connection: Any) -> FileHold:
        """Lock one byte of the file that SQLite does not use."""
        return FileHold(path, connection)

    def is_held(self, path: str) -> bool:
        """Ask for the lock on that byte, through a descriptor of SQLite's own."""
        known = self.identify(path)
        return known is not None and is_held(known)

    def lock(self, path: str, *, briefly: bool = False) -> FileLock:
        """Take an exclusive flock on `path`, or raise StoreLocked with the holder's pid."""
        return FileLock(path, briefly=briefly)

    def is_locked(self, path: str) -> bool:
        """Ask for a shared flock, which several may have at a time, and give it back."""
        return is_locked(path)

    def holder(self, path: str) -> int | None:
        """Give the process whose pid a lock's file has, if there is such a process.

        Trying the lock would be surer, and could keep out an engine that starts at that moment.
        """
        if sys.platform == "win32":
            return None  # which has no file stores, and whose `os.kill` asks nothing, but kills
        try:
            descriptor = os.open(path, os.O_RDONLY | QUIETLY)
        except OSError:
            return None
        try:
            note = note_in(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return note.pid if note is not None and note.pid and lives(note.pid) else None

    def inheritors(self, path: str) -> Sequence[int]:
        """Look into /proc for the processes that have a lock's file open."""
        known = self.identify(path)
        found: list[int] = []
        for process in Path("/proc").glob("[0-9]*/fd"):
            try:
                opened = map(Path.stat, process.iterdir())
                if any((one.st_dev, one.st_ino) == known for one in opened):
                    found.append(int(process.parent.name))
            except OSError:
                continue  # it has ended, or is somebody else's
        return sorted(found)

    def rewrite(self, path: str) -> None:
        """Write a file's bytes over themselves, and sync it; not a database, but what is beside."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            offset = 0
            while part := os.pread(descriptor, _REWRITTEN_AT_ONCE, offset):
                offset += os.pwrite(descriptor, part, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync(self, path: str) -> None:
        """Sync a file; not a database, but what is beside."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def parts(self, path: str, begin: int, step: int, size: int) -> Iterator[bytes]:
        """Give `size` bytes at `begin`, `begin + step` and so on, to the end; of no database."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            while part := os.pread(descriptor, size, begin):
                yield part
                begin += step
        finally:
            os.close(descriptor)

    def blank(self, path: str, places: Sequence[int], size: int) -> None:
        """Write `size` zeros at some places of a file; not a database, but what is beside."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for place in places:
                os.pwrite(descriptor, bytes(size), place)
        finally:
            os.close(descriptor)

    def mark(self, path: str) -> FileMark:
        """Give a small file that is written over in place; nothing is opened or made."""
        return FileMark(path)

    def make(self, path: str) -> None:
        """Make an empty file of mode 0600 where nothing is; raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))

    def place(self, path: str, to: str) -> None:
        """Give a file that is whole another name in its folder, synced; raises OSError."""
        if os.path.lexists(to):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to)
        Path(path).rename(to)
        folder = os.open(Path(to).parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: str) -> None:
        """Remove a file if it is there."""
        Path(path).unlink(missing_ok=True)
