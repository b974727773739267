"""Where streams of a log end, as far as the one engine that writes it has read or written them.

Rules: what is not known is looked up. A read that began before an append may end behind it: then it
tells nothing of the streams that were written meanwhile. Only so many streams are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Final, NamedTuple

from ...model.stored import StoredEvent

__all__ = ["Place", "Places"]

_PLACES_MAX: Final = 100_000


class Place(NamedTuple):
    """An event of a stream."""

    version: int
    position: int
    is_last: bool


class Places:
    """Where streams were read or written last, for some of them.

    A read that began before an append may end behind it: then it tells nothing of those streams.
    """

    def __init__(self, most: int = _PLACES_MAX) -> None:
        self._most = most
        self._places: dict[str, Place] = {}
        self._reads: list[set[str]] = []

    def get(self, stream: str) -> Place | None:
        """Give what is known of a stream."""
        return self._places.get(stream)

    @contextmanager
    def reading(self) -> Generator[dict[str, Place]]:
        """Give what a read fills, and keep that at its end."""
        found: dict[str, Place] = {}
        written: set[str] = set()
        self._reads.append(written)
        try:
            yield found
        finally:
            self._reads = [each for each in self._reads if each is not written]
        for stream, place in found.items():
            if stream not in written:
                self._put(stream, place)

    def appended(self, events: Iterable[StoredEvent]) -> None:
        """Know the last events of streams."""
        for event in events:
            self._put(event.stream, Place(event.version, event.position, is_last=True))
            for written in self._reads:
                written.add(event.stream)

    def _put(self, stream: str, place: Place) -> None:
        self._places.pop(stream, None)
        self._places[stream] = place
        if len(self._places) > self._most:
            del self._places[next(iter(self._places))]
