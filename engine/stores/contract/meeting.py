"""Who has a log that is leased, as its database says, for processes that would share it.

Rules: all times are by the clock of the database. What stands there is what the owner has said of
itself when it took the log; whoever reads it finds out by himself whether that is still so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["Announcing", "Listed", "Owned", "OwnerDirectory"]


class Owned(msgspec.Struct, frozen=True):
    """Who has a log."""

    session: int
    log_id: str
    holder: str
    """What people call the process."""
    address: str
    """Where its members meet it; empty where it lets nobody join."""
    seconds_left: float
    """Until another one may take the log, if this one does nothing; 0 and less: now.

    Never less than what is left of a whole lease since the server started: while it was away, no
    owner could renew anything.
    """


class Listed(msgspec.Struct, frozen=True):
    """A process that the database has among the members of a log, on whatever machine."""

    member: int
    holder: str
    """What people call the process."""
    address: str
    """Where others meet it; empty where nobody can."""
    decides: bool
    """Whether it is one of several owners."""
    views_behind: int
    """How many views it has not heeded yet."""
    seconds: float
    """Since it joined."""
    seconds_left: float
    """Of its lease; 0 and less: it may be declared dead."""
    position: int
    """The end of the log at that moment."""


class Announcing(Protocol):
    """A log that tells in its database where its owner is met."""

    @property
    def session(self) -> int:
        """The session by which this engine has the log."""
        ...

    def announce(self, address: str) -> None:
        """Say where others meet its owner; called before the log is taken.

        Then `open` waits for nobody: it raises StoreLocked where another one has the log.
        """
        ...


class OwnerDirectory(Protocol):
    """What a database says of the owner of one log."""

    @property
    def name(self) -> str:
        """What people call the log."""
        ...

    @property
    def lease_seconds(self) -> float:
        """How long a lease is."""
        ...

    @property
    def patience_seconds(self) -> float:
        """For how long an engine of this log waits for a database that has gone."""
        ...

    async def owner(self) -> Owned | None:
        """Give who has the log; None where nobody has, or there is no log yet.

        Raises StoreFailed and StoreRefused.
        """
        ...

    async def members(self) -> Sequence[Listed]:
        """Give who is among the members, in the order in which they came; raises as `owner` does.

        A process that only sends commands to an owner may be none of them.
        """
        ...

    async def strike(self, session: int) -> None:
        """Note that the process of a session is dead for certain: the log is free then."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...
