"""The lock on a database's file itself, and which files a fork has inherited from its parent.

Rules: it is taken through a descriptor of SQLite's own. None is opened and closed here: the kernel
would let go of every POSIX lock of this process on that file. Such locks are not inherited by a
fork, and SQLite does not know it: what was open there is noted, and refused.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import weakref
from typing import Any, Final

from ...errors import StoreLocked, StoreRefused
from .lock_files import FileId

try:
    import fcntl
except ImportError:  # Windows has no flock; opening a file store there is refused with the reason
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileHold", "check_not_inherited", "connected", "is_held", "next_descriptor"]

_fcntl: Any = fcntl
_BYTE: Final = 1 << 62
"""Far behind what SQLite locks, and behind the end of every file."""
_FLOCK: Final = "hhqqi4x"
"""Linux's `struct flock`, where words have 64 bits."""

_connected: weakref.WeakKeyDictionary[Any, FileId] = weakref.WeakKeyDictionary()
"""The connections of this process, and of those that it was forked from."""
_inherited: set[FileId] = set()
"""Files that were open when this process was forked, of which SQLite believes to have locks."""
_descriptors: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""Those of connections, where they are known: a process with many tenants has thousands."""
_holds: dict[FileId, weakref.ref[Any]] = {}
"""The connections of this process that hold a file; the kernel only tells processes apart."""
_holding = threading.Lock()


def next_descriptor() -> int:
    """Give the number that the next file gets which is opened, if no other thread opens one."""
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return -1
    os.close(descriptor)
    return descriptor


def connected(connection: Any, known: FileId, likely: int) -> None:
    """Note that a connection has a file open, likely by that descriptor."""
    _connected[connection] = known
    if _fcntl is not None and _leads_to(likely, known, writable=True):
        _descriptors[connection] = likely


def check_not_inherited(path: str, known: FileId | None) -> None:
    """Raise StoreRefused for a file that was open in the process that this one was forked from."""
    if known in _inherited:
        raise StoreRefused(
            f"{path} was open when this process was forked: SQLite takes the locks of the parent "
            f"for its own, and would write without any. Start the engine in a process that was not "
            f"forked from it (multiprocessing: `spawn`), or fork before it is opened. Nothing was "
            f"changed"
        )


def is_held(known: FileId) -> bool:
    """Tell whether a process, or this one, has a file, through a descriptor of SQLite's own."""
    if known in _holds:
        return True
    descriptor = _descriptor_of(known, writable=False)
    return descriptor is not None and _asked_for(descriptor) is not None


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
            descriptor = _descriptors.get(connection)
            if descriptor is None or not _leads_to(descriptor, self._known, writable=True):
                descriptor = _descriptor_of(self._known)
            self._descriptor = descriptor
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
            # SQLite keeps it open while another connection of this process has a lock. If it is
            # closed, the kernel has let go of every lock of this process on the file.
            descriptor = self._descriptor
            if descriptor is not None and _leads_to(descriptor, self._known, writable=True):
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
            found = [*map(int, os.listdir(folder))]  # noqa: PTH208
        except (OSError, ValueError):
            continue
        return next((one for one in found if _leads_to(one, known, writable=writable)), None)
    return None


def _leads_to(descriptor: int, known: FileId, *, writable: bool) -> bool:
    device, inode = known
    try:
        found = os.fstat(descriptor)
        if found.st_ino != inode or found.st_dev != device:
            return False
        access = _fcntl.fcntl(descriptor, _fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        return False  # it was closed meanwhile
    return access == os.O_RDWR or not writable


def _note_what_was_open() -> None:
    """Note, in a fork, which files the parent had open."""
    global _holding
    known = set(_connected.values())
    _inherited.update(one for one in known if _descriptor_of(one, writable=False) is not None)
    _holds.clear()
    _holding = threading.Lock()  # a thread that is not here may have it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_what_was_open)
