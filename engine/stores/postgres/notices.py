"""Tells other processes that something was committed, so that they need not look for it: NOTIFY.

Rules: a notice says that there is something, and not what: who hears it looks. It leaves behind the
commit and over another connection. Inside of it, each commit would wait for all other commits of
the server that have a notice, since the server takes a lock for them until its disk has answered.
One leaves at a time, and the next one a moment later, for all that was committed meanwhile. Who
listens has a lock, by which it is known whether anybody does: if nobody, it is asked anew a second
later, and nothing is told. A notice may be lost: who listens looks now and then by himself. What
fails here is told to nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal, TypeAlias
from zlib import crc32

from ...errors import EngineError
from .line import Line
from .log.schema import LockKey, signed

__all__ = [
    "REST_SECONDS",
    "UNHEARD_SECONDS",
    "Notice",
    "Of",
    "channel_of",
    "listeners_key",
    "tell",
    "tell_listeners",
]

Of: TypeAlias = Literal["log", "views"]

REST_SECONDS: Final = 0.005
"""Between two notices of one kind."""
UNHEARD_SECONDS: Final = 1.0
"""The same while nobody listens: so much later than he has begun, a listener is told of all."""
_CLASS: Final = 0x464C4432
"""The first half of the key of the listeners' lock ("FLD2")."""
_TELL: Final = "SELECT pg_catalog.pg_notify($1, $2)"
_TELL_LISTENERS: Final = f"{_TELL} WHERE NOT pg_catalog.pg_try_advisory_xact_lock($3, $4)"


def channel_of(schema: str) -> str:
    """Give the channel of a log and its views."""
    return f"foldline_{schema}"


def listeners_key(schema: str) -> LockKey:
    """Give the key of the lock that who listens shares with all others who do."""
    return _CLASS, signed(crc32(schema.encode()))


async def tell(line: Line, schema: str, word: str) -> None:
    """Say a word to all who listen to a log."""
    await line.fetch(_TELL, channel_of(schema), word)


async def tell_listeners(line: Line, schema: str, word: Of) -> bool:
    """Do the same if anybody listens; give whether."""
    key = listeners_key(schema)
    return bool(await line.fetch(_TELL_LISTENERS, channel_of(schema), word, *key))


class Notice:
    """Notices of one kind, from `begin` to `end`."""

    def __init__(self) -> None:
        self._leave: Callable[[], Awaitable[bool]] | None = None
        self._is_due = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, leave: Callable[[], Awaitable[bool]]) -> None:
        """Take what lets a notice leave, and tells if anybody listens; it may raise EngineError."""
        self._leave = leave

    def note(self) -> None:
        """Tell that something was committed."""
        self._is_due = True
        if self._task is None and self._leave is not None:
            self._task = asyncio.ensure_future(self._run(self._leave))

    async def _run(self, leave: Callable[[], Awaitable[bool]]) -> None:
        try:
            while self._is_due:
                self._is_due = False
                is_heard = False
                with suppress(EngineError):
                    is_heard = await leave()
                await asyncio.sleep(REST_SECONDS if is_heard else UNHEARD_SECONDS)
        finally:
            self._task = None

    async def end(self) -> None:
        """Tell nothing more; a second call does nothing."""
        self._leave = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
