"""A folder of one process, whose end other processes of the machine notice at once.

Rules: it is its user's alone (mode 0700), and its name is drawn, so that no other folder ever has
it. It is locked for as long as the process lives, and forks do not have the lock. A lock that is
free says that the process is gone for certain. Nothing else says anything: a folder that cannot be
found may be on another machine, and one of another start of the machine may be shared with it. The
lock also keeps what tidies folders for temporary files away from it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from .unix_socket import hide, release

__all__ = ["PrivateFolder", "is_abandoned", "remove_abandoned"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""Another text at each start of the machine, where the system has one."""
_NAME: Final = "boot"


class PrivateFolder:
    """The folder, from its making to `remove`. Raises OSError where none can be made."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="foldline-")
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        hide(self._descriptor)
        _lock(self._descriptor, alone=True)
        (Path(self.path) / _NAME).write_text(_boot())

    def remove(self) -> None:
        """Take it away, with what is in it; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            release(descriptor)
            os.close(descriptor)


def is_abandoned(path: str) -> bool:
    """Tell whether the process whose folder this is has gone for certain."""
    try:
        if not _boot() or (Path(path) / _NAME).read_text() != _boot():
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        # Shared: others may be asking at the same moment. Who takes its folder away may live on.
        return _lock(descriptor, alone=False) and (Path(path) / _NAME).exists()
    finally:
        os.close(descriptor)


def remove_abandoned(path: str) -> None:
    """Take away what a process left that has gone."""
    shutil.rmtree(path, ignore_errors=True)


def _lock(descriptor: int, *, alone: bool) -> bool:
    """Take the lock if it is free; tell whether it was."""
    import fcntl  # which no Windows has

    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _boot() -> str:
    with contextlib.suppress(OSError):
        return _BOOT.read_text()
    return ""
