"""Which file a path leads to, and the lock beside it: a file with the pid of who has it.

Rules: a file is told by its device and number, and not by its name. A lock's file is only written
to where it is empty or holds the note of an engine. It says where it lies, so that a second name of
a store's file is known for one. A process that is forked keeps no lock of its parent. No database
is opened here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...errors import StoreLocked, StoreRefused

try:
    import fcntl
except ImportError:  # Windows has no flock; opening a file store there is refused with the reason
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "QUIETLY",
    "FileId",
    "FileLock",
    "absolute",
    "check_beside",
    "exists",
    "is_locked",
    "lives",
    "note_in",
    "plain_file",
]

_fcntl: Any = fcntl
_NO_FLOCK: Final = "a file store needs flock, which this platform does not have"
QUIETLY: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without following a link, or waiting for the other end of a pipe."""
_LOCK: Final = ".lock"
"""What a store's lock is called, behind the store's own name."""
_VIEWS: Final = "views"
"""What the file of a log's views has in its name; it has no lock, and its log's speaks for it."""
_BRIEFLY: Final = " briefly"
"""What is written behind the pid of who holds a lock for a moment only."""
_WIDTH: Final = 20
"""Of the first line, which is written over in place."""
_NOTE: Final = re.compile(rb"(?:([1-9][0-9]{0,9})( briefly)?)? *(?:\n(/[^\n]*\n)?)?")
"""Who has the lock, and where it lies. An older release wrote the first line alone."""
_NOTE_BYTES_MAX: Final = 8_192
_OPENED_TRIES: Final = 10
_WAL_HEADER_BYTES: Final = 32


_locks: set[int] = set()
"""Descriptors of the locks that this process has."""


class FileId(NamedTuple):
    """What tells a file from every other one, whatever its names are."""

    device: int
    number: int


def absolute(path: str) -> str:
    """Give a path that means the same file in every folder that the process may go to.

    Links in the folders are followed; the last name is not looked at.
    """
    folder, name = os.path.split(path)
    return str(Path(os.path.realpath(folder)) / name)


def exists(path: str) -> bool:
    """Tell whether a path leads to anything."""
    return Path(path).exists()


def plain_file(path: str) -> FileId | None:
    """Tell which file a path leads to; raise StoreRefused for one that no store may use."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise StoreRefused(f"{path} is a folder, and not a plain file: name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise StoreRefused(f"{path} is not a plain file: name the file itself, not a link to it")
    if found.st_mode & stat.S_IWOTH:
        raise StoreRefused(f"{path} is writable by everybody: take that right away (chmod o-w)")
    if found.st_nlink > 1 and not _is_home(path):
        raise _of_several_names(path, found.st_nlink)
    return FileId(found.st_dev, found.st_ino)


def check_beside(path: str, size: Callable[[str], int]) -> None:
    """Raise StoreRefused for a write-ahead log without its database, which SQLite would remove.

    Must be called before the file is opened, also to read. `size` gives that of a file.
    """
    left = size(path + "-wal")
    if left > _WAL_HEADER_BYTES and not size(path):
        raise StoreRefused(
            f"{path} is not there or is empty, and {path}-wal has {left} bytes that were written "
            f"to it: they would be lost. Put the file back that belongs to it, or move it away. "
            f"Nothing was changed"
        )


def _of_several_names(path: str, count: int) -> StoreRefused:
    return StoreRefused(
        f"{path} has {count} names (hard links), and is not known to be used by this one. SQLite "
        f"keeps a write-ahead log beside each name, so that two programs would destroy the file: "
        f"remove the other names, or make a copy"
    )


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is somebody else's
    except (OSError, OverflowError):
        return False
    return True


class _Note(NamedTuple):
    """What a lock's file says."""

    pid: int | None
    briefly: bool
    home: str
    """Its path; with another name, or in another folder, the file is known to be another's."""


def note_in(descriptor: int) -> _Note | None:
    """Read a lock's file; None where it is something else."""
    found = _NOTE.fullmatch(os.pread(descriptor, _NOTE_BYTES_MAX, 0))
    if found is None:
        return None
    home = os.fsdecode((found[3] or b"").rstrip(b"\n"))
    return _Note(int(found[1]) if found[1] else None, found[2] is not None, home)


def _home_of(path: str) -> str:
    """Give what the note of a lock at a path says of where it lies."""
    return absolute(path).replace("\n", "?")


def _home_at(path: str) -> str:
    """Give where a lock's file says that it lies; nothing where it does not, or is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | QUIETLY)
    except OSError:
        return ""
    try:
        note = note_in(descriptor)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return "" if note is None else note.home


def _is_home(path: str) -> bool:
    """Tell whether an engine has used a file by this name: its lock says so, or that of its log."""
    locks = (path + _LOCK, _log_of(path) + _LOCK)
    return any(_home_at(lock) == _home_of(lock) for lock in locks)


def _log_of(path: str) -> str:
    """Give the log whose views a path names, as `SqliteStore.views_path` does the other way."""
    stem, dot, suffix = path.rpartition(".")
    if dot and suffix == _VIEWS:
        return stem
    inner, _, views = stem.rpartition(".")
    return f"{inner}.{suffix}" if views == _VIEWS else path


class FileLock:
    """An flock with the holder's pid inside; the kernel lets go of it when the process ends.

    `pid` is another process for which this one has it.
    """

    def __init__(self, path: str, *, briefly: bool = False, pid: int | None = None) -> None:
        if _fcntl is None:
            raise StoreRefused(_NO_FLOCK)
        owner = pid or os.getpid()
        descriptor, note = _locked(path, owner)
        self._descriptor = descriptor
        _locks.add(descriptor)
        try:
            if note.home != (home := _home_of(path)):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, os.fsencode(f"{'':{_WIDTH}}\n{home}\n"), 0)
            _write_owner(descriptor, f"{owner}{_BRIEFLY if briefly else ''}")
        except BaseException:
            self._close()  # on a full disk, for one: whoever tries again shall get it
            raise

    def release(self) -> None:
        """Let go of it; the file stays, since removing it would let two engines each lock one."""
        if self._descriptor in _locks:
            try:
                # The pid would else go on naming this process, which may live for long without it.
                _write_owner(self._descriptor, "")
            finally:
                self._close()

    def _close(self) -> None:
        _locks.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1


def _write_owner(descriptor: int, owner: str) -> None:
    os.pwrite(descriptor, f"{owner:{_WIDTH}}".encode(), 0)


def _locked(path: str, owner: int) -> tuple[int, _Note]:
    """Give the descriptor of a lock's file that is locked, and what it said."""
    for _ in range(_OPENED_TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | QUIETLY, 0o600)
        try:
            _check_lock(path, descriptor)
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor, _checked_note(path, descriptor)
        except BlockingIOError:
            found = note_in(descriptor)
            os.close(descriptor)
            raise _held(path, found, owner) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise StoreRefused(f"{path} is removed again and again: let it be, since it keeps others out")


def _check_lock(path: str, descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise StoreRefused(
            f"{path} is no plain file, so that it cannot be a lock: move it away, or give the "
            f"store another name"
        )


def _is_at(path: str, descriptor: int) -> bool:
    """Tell whether a file was not removed meanwhile: another one could be locked in its place."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _checked_note(path: str, descriptor: int) -> _Note:
    """Give what a lock's file says; raise StoreRefused where nothing may be written to it."""
    size, note = os.fstat(descriptor).st_size, note_in(descriptor)
    if size > _NOTE_BYTES_MAX or note is None:
        raise StoreRefused(
            f"{path} has {size} bytes of something else, and a store needs that name for its lock: "
            f"give the store another name, or move that file away. Nothing was changed"
        )
    if note.home != _home_of(path):
        # Once the note says that it lies here, a second name of the store's file is believed.
        plain_file(path.removesuffix(_LOCK))
    return note


def _held(path: str, note: _Note | None, owner: int) -> StoreLocked:
    pid = None if note is None else note.pid
    briefly = note is not None and note.briefly
    if pid == owner:
        return StoreLocked(
            f"{path} is held by this very process ({pid}): another engine in it has the store "
            f"open. Close that one first, or give this one a store of its own. If its event loop "
            f"was closed before it ended, nobody can close it: start a new process.",
            briefly=briefly,
        )
    if pid is not None and not lives(pid):
        # Whoever wrote for a process that is dead is at its end too; what that one forked is not.
        return StoreLocked(
            f"{path} is held still, and process {pid} that took it has ended: a process that it "
            f"has begun keeps it. End that one, or give this engine a store of its own.",
            briefly=True,
        )
    return StoreLocked(
        f"{path} is held by process {pid or 'unknown'}: one engine at a time may have "
        f"a store open. Stop that process, give this one a store of its own, or let both share it: "
        f"Engine(join=True) in each.",
        briefly=briefly,
    )


def is_locked(path: str) -> bool:
    """Ask for a shared flock, which several may have at a time, and give it back."""
    if _fcntl is None:
        raise StoreRefused(_NO_FLOCK)
    try:
        descriptor = os.open(path, os.O_RDONLY | QUIETLY)
    except FileNotFoundError:
        return False
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_SH | _fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _forget_parents_locks() -> None:
    """Close what a fork has inherited: it would keep a lock longer than who took it."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_locks)
