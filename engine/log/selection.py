"""Which events of a log somebody asks to see, by what is stored of them.

Rules: an event is judged undecoded, by its name and by what travelled with its command. Place and
time are for whoever reads: a stream has an index, and times never decrease along a log.
"""

from __future__ import annotations

import msgspec

from ..model.codec import decode_metadata
from ..model.stored import StoredEvent

__all__ = ["Selection"]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; None and empty select everything. Times are in µs and inclusive."""

    stream: str | None = None
    names: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    key: str | None = None
    correlation: str | None = None

    @property
    def reads_on(self) -> bool:
        """Whether it passes events over that only reading them can tell."""
        return bool(self.names) or self.key is not None or self.correlation is not None

    def takes(self, stored: StoredEvent) -> bool:
        """Tell whether an event is selected, place and time apart."""
        if self.names and stored.name not in self.names:
            return False
        if self.key is None and self.correlation is None:
            return True
        metadata = decode_metadata(stored)
        return (self.key is None or metadata.key == self.key) and (
            self.correlation is None or metadata.correlation == self.correlation
        )
