"""Whose log it is: one number that the server keeps beside the log, and that only ever grows.

UmaDB has no locks. It keeps a number by name with each append, and refuses an append whose number
is not larger. Rules: the number has the session, the seconds of its lease, and a count. Each append
and each renewal carries the next count, so that it grows while its engine lives. Who opens a log
looks whether the number stands still for the lease of its holder, by its own clock alone, and then
sets the next session. The append of a former session is refused by the server from then on. Two
that open at the same time set the same number, and one of them is refused. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["REGISTER", "SESSIONS_MAX", "Mark", "read_mark"]

REGISTER: Final = "foldline"
"""The name by which the server keeps the number."""
_COUNT_BITS: Final = 36
_LEASE_BITS: Final = 8
SESSIONS_MAX: Final = (1 << 64 - _LEASE_BITS - _COUNT_BITS) - 1
"""How often a log can be opened."""
_COUNT_LAST: Final = (1 << _COUNT_BITS) - 1
_LEASE_LAST: Final = (1 << _LEASE_BITS) - 1


class Mark(msgspec.Struct, frozen=True):
    """What the number says."""

    session: int
    lease_seconds: int = 0
    count: int = 0

    @property
    def number(self) -> int:
        """The number itself; the session counts most in it."""
        high = self.session << _LEASE_BITS | self.lease_seconds
        return high << _COUNT_BITS | self.count

    @property
    def is_given_back(self) -> bool:
        """Whether nobody has the log."""
        return not self.session or self.lease_seconds == _LEASE_LAST

    def next(self) -> Mark:
        """Give that of the next append or renewal; one that counted to its end begins a session."""
        if self.count + 1 == _COUNT_LAST:
            return Mark(self.session + 1, self.lease_seconds)
        return Mark(self.session, self.lease_seconds, self.count + 1)

    def given_back(self) -> Mark:
        """Give the last one of its session."""
        return Mark(self.session, _LEASE_LAST, _COUNT_LAST)


def read_mark(number: int | None) -> Mark:
    """Read the number; None is that of a log that nobody has opened yet."""
    high, count = divmod(number or 0, 1 << _COUNT_BITS)
    session, lease = divmod(high, 1 << _LEASE_BITS)
    return Mark(session, lease, count)
