"""Events of KurrentDB (EventStoreDB) out of a file of JSON lines, as its clients and its HTTP give.

Rules: a line is one event, or one page of the HTTP API with `embed=body`, whose entries are taken
from the oldest on. Order and number are proved by what the events say themselves: within a stream
each revision follows the one before, and places in the whole log only grow. So a page that is
missing, stands twice or comes too early is told, with its line. A stream may begin later than with
its first event, as one that was truncated does. What these forms look like is known from the
documents of the HTTP API, and from the clients' own types for JavaScript and Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, cast

import msgspec

from ..errors import StoreRefused
from .events import SourceEvent
from .json_lines import JsonLinesSource

__all__ = ["KurrentSource"]

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("eventId", "id"),
    "type": ("eventType", "type"),
    "stream": ("streamId", "stream_name"),
    "revision": ("eventNumber", "revision", "stream_position"),
    "time": ("updated", "created", "recorded_at"),
    "metadata": ("metaData", "metadata"),
}
"""What the fields are called: by HTTP, and by the clients for JavaScript and for Python."""
_OWN: Final = frozenset(name for names in _NAMES.values() for name in names) | {"data"}
_JSON: Final = "application/json"


class KurrentSource:
    """The file `path`."""

    def __init__(self, path: str) -> None:
        self._lines = JsonLinesSource(path)

    @property
    def name(self) -> str:
        """Its path."""
        return self._lines.name

    def __enter__(self) -> KurrentSource:
        """Look that it is there."""
        self._lines.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: each reading closes the file."""

    def events(self) -> Iterator[SourceEvent]:
        """Give the events, in order; raise StoreRefused for one that is out of place."""
        order = _Order()
        for line in self._lines.events():
            for place, record in _records(line):
                try:
                    event, log_place = _event(place, record)
                except (KeyError, TypeError, ValueError) as error:
                    raise StoreRefused(
                        f"{self.name}, {place}: it is no event as KurrentDB gives it, which has "
                        f"an id, a type, a stream, a revision and a time ({type(error).__name__})"
                    ) from error
                if (wrong := order.wrong_with(event, log_place)) is not None:
                    raise StoreRefused(f"{self.name}, {place}: {wrong}. Export all of it again")
                yield event


class _Order:
    """What came before, by which an event is in its place."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._place = -1, -1

    def wrong_with(self, event: SourceEvent, place: tuple[int, int] | None) -> str | None:
        """Say what is wrong with the place of an event; None if it is right."""
        assert event.stream is not None
        assert event.version is not None
        before = self._versions.get(event.stream)
        if before is not None and event.version != before + 1:
            number = event.version - 1
            what = "stands twice, or too late" if event.version <= before else "comes too early"
            return f"revision {number} of its stream {what}, behind revision {before - 1}"
        self._versions[event.stream] = event.version
        if place is not None:
            if place < self._place:
                return "its place in the whole log is before that of the event before it"
            self._place = place
        return None


def _records(line: SourceEvent) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the events of a line."""
    data: dict[str, Any] = line.data
    entries = data.get("entries")
    if isinstance(entries, list):
        # A page has its newest event first.
        given: Any = cast("Any", entries)
        for number, entry in enumerate(reversed(given)):
            yield f"{line.place}, entry {len(given) - number:,}", entry
        return
    event = data.get("event")
    # A link to an event has that event beside it.
    yield line.place, event if isinstance(event, dict) else data


def _event(place: str, record: Mapping[str, Any]) -> tuple[SourceEvent, tuple[int, int] | None]:
    """Read an event and its place in the whole log, where that is given."""

    def field(name: str) -> Any:
        return next(record[key] for key in _NAMES[name] if key in record)

    try:
        names = {name: field(name) for name in ("id", "type", "stream", "revision", "time")}
    except (StopIteration, RuntimeError):
        raise KeyError("a field that each event has") from None
    data, raw = _content(record)
    metadata = next((record[key] for key in _NAMES["metadata"] if key in record), None)
    if isinstance(metadata, str):
        metadata = msgspec.json.decode(metadata) if metadata else None
    others = {name: value for name, value in record.items() if name not in _OWN}
    event = SourceEvent(
        place=place,
        data=data,
        raw=raw,
        name=_text(names["type"]),
        stream=_text(names["stream"]),
        version=int(names["revision"]) + 1,
        id=_text(names["id"]),
        recorded=_time(names["time"]),
        metadata={**others, **(metadata if isinstance(metadata, dict) else {})},
    )
    return event, _log_place(record)


def _content(record: Mapping[str, Any]) -> tuple[Any, bytes]:
    """Give the data of an event, decoded where it is JSON, and as it stands."""
    data = record.get("data")
    raw = data.encode() if isinstance(data, str) else msgspec.json.encode(data)
    if record.get("isJson", True) is False or record.get("content_type", _JSON) != _JSON:
        return None, raw
    return (msgspec.json.decode(raw) if isinstance(data, str) else data), raw


def _log_place(record: Mapping[str, Any]) -> tuple[int, int] | None:
    position = record.get("position")
    if isinstance(position, dict):
        found = cast("dict[str, Any]", position)
        return int(found["commit"]), int(found["prepare"])
    if "commit_position" in record:
        return int(record["commit_position"]), int(record.get("prepare_position", 0))
    return None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("no text")
    return value


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    return time.replace(tzinfo=UTC) if time.utcoffset() is None else time.astimezone(UTC)
