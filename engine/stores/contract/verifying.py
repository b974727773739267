"""What is found in a log and its views by those who look for damage.

Rules: a finding says what is wrong by a word that a program reads, where, and in a sentence. It
never shows a payload or a value. What cannot be looked at is told too: nothing is called sound that
nobody has read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from ...model.stored import StoredEvent

__all__ = ["Finding", "ProvedPage", "ProvesPages", "Report", "Structure", "Wrong"]

Wrong: TypeAlias = Literal[
    "event",
    "missing",
    "version",
    "time",
    "key",
    "claim",
    "timer",
    "tag",
    "snapshot",
    "index",
    "page",
    "wal",
    "schema",
    "type",
    "checkpoint",
    "views",
    "archive",
    "backup",
    "unread",
]
"""What is wrong: an event or its place, what follows from events and says something else, a page or
a file, or that something could not be read at all."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong."""

    wrong: Wrong
    text: str
    """A sentence for people."""
    position: int | None = None
    """Of the event, where it is about one."""
    name: str | None = None
    """Of the stream, file, table or projection."""


Report: TypeAlias = Callable[[Finding], None]


class ProvedPage(msgspec.Struct, frozen=True):
    """Events in a row, each as it was written by its checksum, column by column."""

    after: int
    """The position before the first."""
    streams: Sequence[str]
    versions: Sequence[int]
    recorded: Sequence[int]
    metadata: Sequence[bytes]
    events: Callable[[], Sequence[StoredEvent]]
    """Makes them, for whoever needs more."""


@runtime_checkable
class ProvesPages(Protocol):
    """A reader of a log that proves a page without making its events; its calls block."""

    def proved(self, after: int, *, events_max: int, bytes_max: int) -> ProvedPage | None:
        """Give a page behind a position; None where anything is odd: `read_feed` says what."""
        ...


class Structure(Protocol):
    """What a store's own shape is looked at by: files, pages, indexes, what stands beside the log.

    Calls block.
    """

    def before(self, report: Report) -> bool:
        """Look at what a reader would be refused for; tell whether the log can be read at all."""
        ...

    def whole(self, report: Report, rest: Callable[[], None]) -> None:
        """Look at every page and index, of the log and of its views; `rest` is called often."""
        ...

    def unlooked(self) -> Sequence[str]:
        """Give what could not be looked at, and why; known after `whole`."""
        ...

    def proves_indexes(self) -> bool:
        """Tell whether `whole` found each event of the log in each of its indexes."""
        ...
