"""What a store may also be: measured, in a server, able to end by itself, leased.

Rules: whoever needs one asks whether a store is it. A store that is none of these is as good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ...errors import StoreFailed
    from ...statistics import ServerStatistics, StoreStatistics

__all__ = ["Leased", "Measured", "Mortal", "Served"]


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
class Mortal(Protocol):
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
