"""The machine's file system, as stores use it: connections, locks, and which file a path leads to.

Rules: no descriptor of a database is opened and closed here while SQLite may have the file open:
the kernel would let go of every POSIX lock of this process on it, and the next stranger to close
the file would remove its write-ahead log. A file is told by its device and number, and not by its
name. A lock's file is only written to where it is empty or holds the note of an engine. A process
that is forked keeps no lock of its parent.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from ...errors import StoreLocked, StoreRefused
from .room import DiskRoom

try:
    import fcntl
except ImportError:  # Windows has no flock; opening a file store there is refused with the reason
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileHold", "FileId", "FileLock", "SystemFiles", "absolute", "exists"]

_fcntl: Any = fcntl
_REWRITTEN_AT_ONCE: Final = 1024 * 1024
_NO_FLOCK: Final = "a file store needs flock, which this platform does not have"


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


class SystemFiles(DiskRoom):
    """The machine's file system."""

    def connect(self, path: str, *, readonly: bool = False) -> apsw.Connection:
        """Open a SQLite connection; a new file gets mode 0600 before SQLite sees it."""
        if path == ":memory:":
            return apsw.Connection(path)
        found = _plain_file(path)
        if found is None and not readonly:
            # Mode 0600, which SQLite gives to its -wal and -shm too. Only where there is none: to
            # close a descriptor of one that is there would let go of SQLite's locks on it here.
            with suppress(FileExistsError):  # somebody was first
                self.make(path)
            found = _plain_file(path)
        if found in _inherited and not readonly:
            raise _open_in_parent(path)
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(path, flags=flags)
        if _plain_file(path) != found:
            connection.close()
            raise StoreRefused(f"{path} was replaced while it was opened: open it again")
        if found is not None:
            _connected[connection] = found
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
        if known is None or known in _holds:
            return known is not None
        descriptor = _descriptor_of(known, writable=False)
        return descriptor is not None and _asked_for(descriptor) is not None

    def lock(self, path: str, *, briefly: bool = False) -> FileLock:
        """Take an exclusive flock on `path`, or raise StoreLocked with the holder's pid."""
        return FileLock(path, briefly=briefly)

    def is_locked(self, path: str) -> bool:
        """Ask for a shared flock, which several may have at a time, and give it back."""
        if _fcntl is None:
            raise StoreRefused(_NO_FLOCK)
        try:
            descriptor = os.open(path, os.O_RDONLY | _QUIETLY)
        except FileNotFoundError:
            return False
        try:
            _fcntl.flock(descriptor, _fcntl.LOCK_SH | _fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def holder(self, path: str) -> int | None:
        """Give the process whose pid a lock's file has, if there is such a process.

        Trying the lock would be surer, and could keep out an engine that starts at that moment.
        """
        if sys.platform == "win32":
            return None  # which has no file stores, and whose `os.kill` asks nothing, but kills
        try:
            descriptor = os.open(path, os.O_RDONLY | _QUIETLY)
        except OSError:
            return None
        try:
            note = _note_in(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return note.pid if note is not None and note.pid and _lives(note.pid) else None

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


def _plain_file(path: str) -> FileId | None:
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


def _open_in_parent(path: str) -> StoreRefused:
    return StoreRefused(
        f"{path} was open when this process was forked: SQLite takes the locks of the parent for "
        f"its own, and would write without any. Start the engine in a process that was not forked "
        f"from it (multiprocessing: `spawn`), or fork before it is opened. Nothing was changed"
    )


def _of_several_names(path: str, count: int) -> StoreRefused:
    return StoreRefused(
        f"{path} has {count} names (hard links), and is not known to be used by this one. SQLite "
        f"keeps a write-ahead log beside each name, so that two programs would destroy the file: "
        f"remove the other names, or make a copy"
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is somebody else's
    except (OSError, OverflowError):
        return False
    return True


# -- the lock beside a file ---------------------------------------------------------------------

_QUIETLY: Final = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
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

_locks: set[int] = set()
"""Descriptors of the locks that this process has."""


class _Note(NamedTuple):
    """What a lock's file says."""

    pid: int | None
    briefly: bool
    home: str
    """Its path; with another name, or in another folder, the file is known to be another's."""


def _note_in(descriptor: int) -> _Note | None:
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
        descriptor = os.open(path, os.O_RDONLY | _QUIETLY)
    except OSError:
        return ""
    try:
        note = _note_in(descriptor)
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _QUIETLY, 0o600)
        try:
            _check_lock(path, descriptor)
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor, _checked_note(path, descriptor)
        except BlockingIOError:
            found = _note_in(descriptor)
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
    size, note = os.fstat(descriptor).st_size, _note_in(descriptor)
    if size > _NOTE_BYTES_MAX or note is None:
        raise StoreRefused(
            f"{path} has {size} bytes of something else, and a store needs that name for its lock: "
            f"give the store another name, or move that file away. Nothing was changed"
        )
    if note.home != _home_of(path):
        # Once the note says that it lies here, a second name of the store's file is believed.
        _plain_file(path.removesuffix(_LOCK))
    return note


def _held(path: str, note: _Note | None, owner: int) -> StoreLocked:
    pid = None if note is None else note.pid
    briefly = note is not None and note.briefly
    if pid == owner:
        return StoreLocked(
            f"{path} is held by this very process ({pid}): another engine in it has the store "
            f"open. Close that one first, or give this one a store of its own.",
            briefly=briefly,
        )
    if pid is not None and not _lives(pid):
        # Whoever wrote for a process that is dead is at its end too; what that one forked is not.
        return StoreLocked(
            f"{path} is held still, and process {pid} that took it has ended: a process that it "
            f"has begun keeps it. End that one, or give this engine a store of its own.",
            briefly=True,
        )
    return StoreLocked(
        f"{path} is held by process {pid or 'unknown'}: one engine at a time may have "
        f"a store open. Stop that process, or give this one a store of its own.",
        briefly=briefly,
    )


# -- the file itself ----------------------------------------------------------------------------

_BYTE: Final = 1 << 62
"""Far behind what SQLite locks, and behind the end of every file."""
_FLOCK: Final = "hhqqi4x"
"""Linux's `struct flock`, where words have 64 bits."""

_connected: weakref.WeakKeyDictionary[Any, FileId] = weakref.WeakKeyDictionary()
"""The connections of this process, and of those that it was forked from."""
_inherited: set[FileId] = set()
"""Files that were open when this process was forked, of which SQLite believes to have locks."""
_holds: dict[FileId, weakref.ref[Any]] = {}
"""The connections of this process that hold a file; the kernel only tells processes apart."""
_holding = threading.Lock()


class FileHold:
    """A lock on a file itself, so that nobody has it by another name, or beside another lock.

    It is a POSIX lock through a descriptor of SQLite's own: none is opened, and none is closed. It
    ends with the process; a fork does not inherit it. Where the system has no list of descriptors,
    it keeps only this process from a second connection that holds the file.
    """

    def __init__(self, path: str, connection: Any) -> None:
        found = os.lstat(path)
        self._known = FileId(found.st_dev, found.st_ino)
        with _holding:
            other = _holds.get(self._known)
            if other is not None and other() is not None:
                raise StoreLocked(
                    f"{path} is open in another engine of this very process ({os.getpid()}), by "
                    f"another name: close that one first, or give this one a store of its own"
                )
            descriptor = _descriptor_of(self._known)
            if descriptor is not None:
                _lock_byte(path, descriptor)
            _holds[self._known] = weakref.ref(connection)
        self._is_held = True

    def release(self) -> None:
        """Let go of it; a second call does nothing."""
        if not self._is_held:
            return
        self._is_held = False
        with _holding:
            _holds.pop(self._known, None)
            # SQLite keeps a descriptor open while another connection of this process has a lock.
            descriptor = _descriptor_of(self._known)
            if descriptor is not None:
                _fcntl.lockf(descriptor, _fcntl.LOCK_UN, 1, _BYTE)


def _lock_byte(path: str, descriptor: int) -> None:
    try:
        _fcntl.lockf(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB, 1, _BYTE)
    except (BlockingIOError, PermissionError):
        raise StoreLocked(
            f"{path} is open in another engine (process {_asked_for(descriptor) or 'unknown'}), by "
            f"another name of the same file or beside another lock: stop that process, or give "
            f"this one a store of its own"
        ) from None
    except OSError:
        return  # this file system has no such locks


def _asked_for(descriptor: int) -> int | None:
    """Give the process that has the byte; None for none, and where the system does not tell."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:
        return None
    asked = struct.pack(_FLOCK, _fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
    try:
        kind, _, _, _, pid = struct.unpack(_FLOCK, _fcntl.fcntl(descriptor, _fcntl.F_GETLK, asked))
    except OSError:
        return None
    return None if kind == _fcntl.F_UNLCK else int(pid)


def _descriptor_of(known: FileId, *, writable: bool = True) -> int | None:
    """Give a descriptor of this process that leads to a file, whoever has opened it."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            found = [int(path.name) for path in Path(folder).iterdir()]
        except (OSError, ValueError):
            continue
        return next((one for one in found if _leads_to(one, known, writable=writable)), None)
    return None


def _leads_to(descriptor: int, known: FileId, *, writable: bool) -> bool:
    try:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != known:
            return False
        access = _fcntl.fcntl(descriptor, _fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        return False  # it was closed meanwhile
    return access == os.O_RDWR or not writable


def _forget_parents_locks() -> None:
    """Close what a fork has inherited: it would keep a lock longer than the process that took it.

    POSIX locks are not inherited, and SQLite does not know it: what was open is noted.
    """
    global _holding
    known = set(_connected.values())
    _inherited.update(one for one in known if _descriptor_of(one, writable=False) is not None)
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()
    _holds.clear()
    _holding = threading.Lock()  # a thread that is not here may have it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents_locks)
