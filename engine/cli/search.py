"""Which events of a log a command shows, and how they are found without reading more than needed.

Rules: a stream is read through its index, and a time is found by halving, since `recorded` never
decreases along a log; what names, keys and correlations select is found by reading on. Every event
that is passed over is compared with its checksum like one that is shown, so that a damaged event
stops a search and is never taken for one that does not match. Memory holds one page, and those of
the last events that will be shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from ..errors import ArchiveUnread
from ..log.selection import Selection
from ..model.given import listed
from ..model.stored import StoredEvent
from ..stores.contract.log import StreamRead
from ..stores.contract.outside import LogReader

__all__ = ["Search", "strange_names"]

PAGE_EVENTS: Final = 1_000
PAGE_BYTES: Final = 8 * 1024 * 1024


class _Sequence(Protocol):
    """Events that can be counted along: those of the log by position, of a stream by version."""

    def end(self) -> int:
        """Give how many there are."""
        ...

    def read(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        """Give those after the first `after`."""
        ...


class _Log:
    def __init__(self, reader: LogReader) -> None:
        self._reader = reader

    def end(self) -> int:
        return self._reader.head().position

    def read(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        return self._reader.read_feed(after, events_max=events_max, bytes_max=PAGE_BYTES)


class _Stream:
    def __init__(self, reader: LogReader, stream: str) -> None:
        self._reader = reader
        self._stream = stream

    def end(self) -> int:
        return self._reader.version_of(self._stream)

    def read(self, after: int, events_max: int) -> Sequence[StoredEvent]:
        pages = self._reader.read_streams(
            [StreamRead(self._stream, after)], events_max=events_max, bytes_max=PAGE_BYTES
        )
        return pages[0].events


def strange_names(reader: LogReader, names: Sequence[str]) -> str:
    """Tell of names that no event of the log has, and which it has; nothing where all are there."""
    stored = sorted({kind.name for kind in reader.event_types()}) if names else ()
    strange = [name for name in names if name not in stored]
    if not strange:
        return ""
    return f": no event here is named {', '.join(map(repr, strange))}; there are {listed(stored)}"


class Search:
    """A selection on its way along a log; it remembers how far it has come."""

    def __init__(self, reader: LogReader, selection: Selection) -> None:
        self._selection = selection
        self._sequence: _Sequence = (
            _Log(reader) if selection.stream is None else _Stream(reader, selection.stream)
        )
        self._by_position = selection.stream is None
        self._at = 0
        """How many events of the sequence are behind."""

    def begin(self, after: int) -> int:
        """Go to the first event after a position that is late enough; give how many are behind."""
        since = self._selection.since
        if self._by_position:
            self._at = after
        elif after:
            self._at = self._first(0, lambda position, _: position > after)
        if since is not None:
            self._at = max(self._at, self._first(self._at, lambda _, recorded: recorded >= since))
        return self._at

    def forward(self) -> Iterator[StoredEvent]:
        """Give the selected events up to the end as it is when it is reached."""
        until = self._selection.until
        while events := self._sequence.read(self._at, PAGE_EVENTS):
            for stored in events:
                if until is not None and stored.recorded > until:
                    return
                self._at += 1
                if self._selection.takes(stored):
                    yield stored

    def last(self, count: int) -> Sequence[StoredEvent]:
        """Give the last so many selected events, in order; `forward` goes on behind them."""
        until = self._selection.until
        self.begin(0)
        begin, end = self._at, self._sequence.end()
        if until is not None:
            end = self._first(begin, lambda _, recorded: recorded > until)
        self._at = max(begin, end)
        # Only what will be shown is read where that can be known: damage before it is not met.
        step = PAGE_EVENTS if self._selection.reads_on else min(count, PAGE_EVENTS)
        found: deque[StoredEvent] = deque()
        while end > begin and len(found) < count:
            start = max(begin, end - step)
            part = [e for e in self._between(start, end) if self._selection.takes(e)]
            found.extendleft(reversed(part[max(0, len(part) - (count - len(found))) :]))
            end = start
        return found

    def _between(self, after: int, end: int) -> Iterator[StoredEvent]:
        while after < end:
            events = self._sequence.read(after, end - after)
            assert events, "what was counted is there"
            yield from events
            after += len(events)

    def _first(self, low: int, there: Callable[[int, int], bool]) -> int:
        """Give how many events stand before the first one for which `there` holds, by halving.

        It is asked by position and time, which are in the log also where the contents are lost.
        """
        high = max(low, self._sequence.end())
        while low < high:
            middle = (low + high) // 2
            position, recorded = self._place(middle)
            if there(position, recorded):
                high = middle
            else:
                low = middle + 1
        return low

    def _place(self, after: int) -> tuple[int, int]:
        try:
            [stored] = self._sequence.read(after, 1)
        except ArchiveUnread as moved:
            if moved.recorded is None:
                raise
            return moved.position, moved.recorded
        return stored.position, stored.recorded
