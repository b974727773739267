"""What a store may also be: measured, in a server, able to end by itself, leased, or in part only.

Rules: whoever needs one asks whether a store is it. A store that is none of these is as good. One
that does a part of the contract says which part it lacks: whoever needs that is refused by name,
before anything is written, and the suite of all stores looks that the store refuses it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from ...errors import StoreFailed
    from ...statistics import ServerStatistics, StoreStatistics

__all__ = ["EndsByItself", "Lack", "Leased", "Measured", "Partial", "Served", "lacks_of"]

Lack: TypeAlias = Literal["timers", "snapshots", "tags of stored events"]
"""A part of the contract: timers that wait; states that are kept; tags that are declared later."""


@runtime_checkable
class Measured(Protocol):
    """What a store that keeps files may also be."""

    def statistics(self) -> StoreStatistics:
        """Give what is known of the files; called from any thread, at any time."""
        ...


@runtime_checkable
class Served(Protocol):
    """What a store in a server may also be."""

    def server_statistics(self) -> ServerStatistics | None:
        """Give what is known of the server, where the log is open; from any thread."""
        ...


@runtime_checkable
class EndsByItself(Protocol):
    """What a store may also be that can end by itself, while nothing is asked of it."""

    async def ended(self) -> StoreFailed:
        """Wait until it has ended; give why. Nothing more can be appended then."""
        ...


@runtime_checkable
class Leased(Protocol):
    """What a store may also be that has its log for a time only, and renews that time.

    While it is not held, another engine may have the log, and what this process remembers of it may
    be old: then nothing is decided.
    """

    def is_held(self) -> bool:
        """Return whether nobody else can have the log now, by this process's own clock."""
        ...

    async def held(self) -> None:
        """Wait until it is held again; raise StoreFailed where that takes too long."""
        ...

    @property
    def is_succeeded(self) -> bool:
        """Whether it ended only because another engine has the log, or may have it by now."""
        ...


@runtime_checkable
class TakingTurns(Protocol):
    """What a store may also be to whose log others append at the same time.

    An append waits for those of others. What is gathered meanwhile goes with the next one, so it is
    better to gather a little longer than to wait with a small batch.
    """

    async def turn(self) -> None:
        """Wait, before a batch is gathered, for about as long as it would wait for others."""
        ...


@runtime_checkable
class Partial(Protocol):
    """What a store may also be that does a part of the contract.

    It answers as if there were none of what it lacks, and raises StoreFailed with nothing written,
    or StoreRefused, for what would make some.
    """

    @property
    def lacks(self) -> Mapping[Lack, str]:
        """What it lacks, each with what to do instead."""
        ...


def lacks_of(store: object) -> Mapping[Lack, str]:
    """Give what a store lacks; most lack nothing."""
    return store.lacks if isinstance(store, Partial) else {}
