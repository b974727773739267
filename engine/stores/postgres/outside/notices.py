"""Hears from the server that somebody has committed, on a connection of its own: LISTEN.

Rules: it is believed only while it is proven: a word of its own is sent over another connection,
and must come, at first and again each minute. Where it does not, as behind a pooler that lends a
connection for one transaction, or while the server is away, it says so, and whoever waits looks
often. It tries again by itself. Who tells knows of who listens by a lock. Each time that it begins
or ends to hear, all are woken, since something may have been missed. Nothing is written, and what
is heard is a hint.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from ....runtime.ring import Ring
from ..driver import driver_of
from ..line import Line
from ..notices import UNHEARD_SECONDS, channel_of, listeners_key, tell
from ..views.link import Place

__all__ = ["PostgresNotices"]

_PROOF_SECONDS: Final = 60.0
"""Between two proofs that notices come."""
_ANSWER_SECONDS: Final = 3.0
"""How long a proof may take."""
_AGAIN_SECONDS: Final = 5.0
"""Between two tries to listen."""
_PROMPT_SECONDS: Final = 0.5
"""How much later than it was to do so the owner of a log may tell."""
_PROOF: Final = "proof"
_SHARE: Final = "SELECT pg_catalog.pg_advisory_lock_shared($1, $2)"


class PostgresNotices:
    """The notices of the log at a place, and of its views."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._appended, self._changed = Ring(), Ring()
        self._proven = Ring()
        self._is_heard = False
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_heard(self) -> bool:
        """Whether the last proof came, over a connection that stands."""
        return self._is_heard

    @property
    def appended(self) -> Ring:
        """Rung behind an append."""
        return self._appended

    @property
    def changed(self) -> Ring:
        """Rung behind a change of the views."""
        return self._changed

    async def open(self) -> None:
        """Begin to listen."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="foldline notices")

    async def close(self) -> None:
        """Listen no more; a second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            with suppress(Exception):  # whoever reads from there is told
                await self._listen()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen(self) -> None:
        """Hear what comes until it is no longer proven; return at once behind a pooler."""
        line = await Line.connected(driver_of(self._place.ports), self._place.address)
        try:
            if line.pooled:
                return
            self._gone.clear()
            line.connection.add_termination_listener(self._ended)
            schema = self._place.log_schema
            with line.answering(_ANSWER_SECONDS):
                await line.connection.add_listener(channel_of(schema), self._hear)
                await line.fetch(_SHARE, *listeners_key(schema))
            # The owner of the log finds out that somebody listens.
            await asyncio.sleep(UNHEARD_SECONDS + _PROMPT_SECONDS)
            while await self._is_proven(line):
                self._hears(True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PROOF_SECONDS):
                        await self._gone.wait()
        finally:
            self._hears(False)
            line.drop()

    async def _is_proven(self, line: Line) -> bool:
        """Tell whether a word comes that is sent from another connection."""
        known = self._proven.count
        other = await Line.connected(driver_of(self._place.ports), self._place.address)
        try:
            with other.answering(_ANSWER_SECONDS):
                await tell(other, self._place.log_schema, _PROOF)
        finally:
            other.drop()
        await self._proven.wait(known, _ANSWER_SECONDS)
        return self._proven.count != known and not line.is_closed

    def _hears(self, heard: bool) -> None:
        if heard != self._is_heard:
            self._is_heard = heard
            self._appended.ring()
            self._changed.ring()

    def _ended(self, _: Any) -> None:
        self._hears(False)
        self._gone.set()

    def _hear(self, _: Any, process: int, channel: str, word: str) -> None:  # noqa: ARG002 - asyncpg's
        if word == "log":
            self._appended.ring()
        elif word == "views":
            self._changed.ring()
        elif word == _PROOF:
            self._proven.ring()
