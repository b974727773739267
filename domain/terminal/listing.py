"""A listing: how often something happened, and the first of what it happened to.

Rules: the count is exact; what is listed is bounded, so that a file of any length, with any number
of faults in it, is told in bounded memory.
"""

from __future__ import annotations

import msgspec

__all__ = ["LISTED_MAX", "Listing"]

LISTED_MAX = 100


class Listing(msgspec.Struct):
    """Counts all, lists the first `LISTED_MAX`."""

    count: int = 0
    listed: list[str] = []

    def add(self, text: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(text)

    @property
    def unlisted(self) -> int:
        """How many more there are than are listed."""
        return self.count - len(self.listed)
