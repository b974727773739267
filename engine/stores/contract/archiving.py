"""What moves the contents of closed streams out of a log, into a cold file beside it.

Rules: a stream is closed if its last event is of one of the types that the rule names, and is old
enough. Positions, versions, times and checksums stay in the log, so nothing that leans on them
changes. Contents are copied, read back and compared before any are removed. Where a move ends
early, each event is in the log, or in both, or in the cold file alone: never in none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

from ...errors import DefinitionError

__all__ = [
    "MOVED",
    "ArchiveRule",
    "ArchiveRun",
    "Archived",
    "Archiver",
    "Progress",
    "ReadsArchives",
    "TellsArchives",
]

MOVED: Final = -1
"""The encoding of an event in the log whose contents are elsewhere."""


class ArchiveRule(msgspec.Struct, frozen=True):
    """Which streams are closed.

    Raises DefinitionError for a kind, or names of events, that no stream can have.
    """

    kind: str
    """Of their aggregates."""
    closed_by: tuple[str, ...]
    """The stored names of events, one of which is the last of the stream."""
    before: int
    """The time before which that event was recorded, in µs since 1970-01-01 UTC."""
    judge: Callable[[str], Awaitable[bool]] | None = None
    """Is asked of each such stream, by its name, whether it is closed indeed."""
    text: str = ""
    """The rule in words, where these say more."""

    def __post_init__(self) -> None:
        """Refuse what selects nothing or everything."""
        if not self.kind or ":" in self.kind:
            raise DefinitionError(f"{self.kind!r} is no kind of aggregates: nothing was archived")
        if not self.closed_by or not all(self.closed_by):
            raise DefinitionError(
                f"name the events that close a stream of {self.kind}: nothing was archived"
            )

    def __str__(self) -> str:
        """Give it in words, as it is kept in the log."""
        return self.text or f"{self.kind} closed by {', '.join(self.closed_by)}"

    async def chosen(self, streams: Sequence[str]) -> Sequence[str]:
        """Give those of some streams that are closed indeed."""
        if self.judge is None:
            return streams
        return [stream for stream in streams if await self.judge(stream)]


class Archived(msgspec.Struct):
    """What was moved, or would be."""

    streams: int = 0
    events: int = 0
    bytes: int = 0
    """Of their payloads and metadata."""
    before: int = 0
    """Bytes of the log's file at the beginning."""
    after: int = 0
    """Bytes of it now."""
    cold: str = ""
    """Where the cold file is."""
    cold_bytes: int = 0
    """Bytes of that."""
    is_shrunk: bool = True
    """Whether the log's file has given back its room: not where somebody reads it all the time."""


Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many events were moved, and how many there are to be."""


class Archiver(AbstractAsyncContextManager["Archiver"], Protocol):
    """Moves closed streams of one log.

    Some have the log inside of `async with`: then no engine has it open meanwhile, and StoreLocked
    is raised there if one has. Others move beside engines.
    """

    @property
    def has_log(self) -> bool:
        """Whether it has the log inside of `async with`."""
        ...

    async def archive(
        self, rule: ArchiveRule, progress: Progress, *, dry_run: bool = False
    ) -> Archived:
        """Move what the rule selects, and give the room back; or only look, for `dry_run`.

        To look, it need not have the log. A move that ended early goes on where it was when it is
        asked for again.
        """
        ...


class ArchiveRun(msgspec.Struct, frozen=True):
    """A run that moved something, as the log keeps it."""

    begun: int
    rule: str
    """In words."""
    streams: int
    """Whose last event was moved."""
    events: int
    bytes: int
    """Of their payloads and metadata."""
    position: int
    """Of the last event that was moved."""


@runtime_checkable
class ReadsArchives(Protocol):
    """A store whose log may be archived; of another, nothing ever was."""

    async def read_archives(self) -> Sequence[ArchiveRun]:
        """Give all runs, in their order. There are few: each is what somebody asked for."""
        ...


@runtime_checkable
class TellsArchives(Protocol):
    """The same of a log that is read from another process; its calls block."""

    def archives(self) -> Sequence[ArchiveRun]:
        """Give all runs, as `ReadsArchives.read_archives` does."""
        ...

    def kept_after(self, position: int) -> int | None:
        """Give the position of the next event whose contents were not moved; None if all were."""
        ...
