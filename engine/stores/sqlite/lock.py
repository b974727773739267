"""Taking a log's lock, which keeps a second engine out: tried again while its holder leaves.

Rules: whoever has it for a moment only is waited for; any other only as long as the caller says.
Nothing of the log is opened here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ...errors import StoreLocked, StoreRefused
from .files import Files, Lock

__all__ = ["take_lock"]

_POLL_SECONDS: Final = 0.05
_BRIEF_TRIES: Final = 200
"""How often whoever has the lock for a moment is waited for."""


async def take_lock(files: Files, path: str, patience_seconds: float) -> Lock:
    """Take the lock of the log in the file `path`, within `patience_seconds`.

    Raises StoreLocked where another engine has it, StoreRefused where it cannot be made.
    """
    now = asyncio.get_running_loop().time
    deadline, tried = now() + patience_seconds, 0
    while True:
        tried += 1
        try:
            return files.lock(path + ".lock")
        except StoreLocked as error:
            # A command that only looks whether somebody has it is gone by the second try, and
            # one that acts on a log at rest soon after.
            patience = _BRIEF_TRIES if error.briefly else 2
            if now() >= deadline and tried >= patience:
                raise _told(files, path, error) from None
        except OSError as error:
            raise StoreRefused(f"{path} cannot be opened: {error.strerror}") from error
        await asyncio.sleep(_POLL_SECONDS)


def _told(files: Files, path: str, error: StoreLocked) -> StoreLocked:
    """Name who keeps the lock of a process that is dead, where the system tells."""
    lock = path + ".lock"
    if not error.briefly or files.holder(lock) is not None:
        return error
    found = ", ".join(map(str, files.inheritors(lock)))
    return StoreLocked(f"{error} It is kept by: {found or 'unknown'}.", briefly=True)
