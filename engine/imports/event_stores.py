"""Tables of other event stores as sources: `eventsourcing`, Marten, Message DB.

Rules: events come in the order of the store's own global number. Values come as the store has
them; those that `eventsourcing` wraps by name are unwrapped if they are of its own types. What
these tables look like is known from each project's own sources and documents, named below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from ..errors import StoreRefused
from ..stores.contract.tables import NOTHING_READ, Tables
from .events import SourceEvent

__all__ = ["FORMS", "Form", "TablesSource"]

_PAGE: Final = 1_000
_BOOKKEEPING: Final = ("timestamp", "originator_topic")


class Form(msgspec.Struct, frozen=True):
    """How a store keeps its events."""

    table: str
    """In a server, with its schema."""
    file_table: str
    """In a file; empty for a store that has none."""
    order: str
    """The column of the global number."""
    file_order: str
    read: Callable[[str, Mapping[str, Any]], SourceEvent]
    """Gives the event of a row; raises KeyError, TypeError, ValueError for a row of others."""


class TablesSource:
    """The events of one table."""

    def __init__(self, tables: Tables, form: Form, table: str | None, *, in_file: bool) -> None:
        """Take the database; `table` if it is not the one that goes without saying."""
        self._tables = tables
        self._form = form
        self._table = table or (form.file_table if in_file else form.table)
        self._order = form.file_order if in_file else form.order

    @property
    def name(self) -> str:
        """Its address and its table."""
        return f"{self._tables.name}, {self._table}"

    def __enter__(self) -> TablesSource:
        """Open the database."""
        self._tables.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self._tables.__exit__(kind, error, traceback)

    def events(self) -> Iterator[SourceEvent]:
        """Give the events, page by page."""
        after = NOTHING_READ
        while page := self._tables.rows(self._table, self._order, after, _PAGE):
            for number, row in page:
                place = f"{self._order} {number:,}"
                try:
                    event = self._form.read(place, row)
                except (KeyError, TypeError, ValueError, InvalidOperation) as error:
                    raise StoreRefused(
                        f"{self.name}, {place}: this row is not as that store writes it "
                        f"({type(error).__name__}). Name another table by --table, or another "
                        f"form by --format"
                    ) from error
                yield event
            after = page[-1][0]


def _time(text: str) -> datetime:
    """Read a time, which is UTC where it has no zone."""
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.utcoffset() is None else time.astimezone(UTC)


# -- eventsourcing 9: SQLiteApplicationRecorder and PostgresApplicationRecorder -------------------

_UNWRAPPED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "uuid_hex": UUID,
    "decimal_str": Decimal,
    "datetime_iso": _time,
    "date_iso": lambda text: datetime.fromisoformat(text).date(),
    "tuple_as_list": lambda items: tuple(map(_unwrapped, items)),
}


def _unwrapped(value: object) -> object:
    if isinstance(value, list):
        return list(map(_unwrapped, cast("Sequence[object]", value)))
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    if fields.keys() == {"_type_", "_data_"}:
        known = _UNWRAPPED.get(fields["_type_"])
        return fields if known is None else known(fields["_data_"])
    return {name: _unwrapped(item) for name, item in fields.items()}


def _of_eventsourcing(place: str, row: Mapping[str, Any]) -> SourceEvent:
    raw = row["state"]
    if isinstance(raw, str):
        raw = bytes.fromhex(raw.removeprefix("\\x")) if raw.startswith("\\x") else raw.encode()
    topic: str = row["topic"]
    try:
        state: Any = _unwrapped(msgspec.json.decode(raw))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        state = None  # compressed or encrypted: the mapping function reads it
    fields = cast("dict[str, Any]", state) if isinstance(state, dict) else None
    time = None if fields is None else fields.get("timestamp")
    return SourceEvent(
        place=place,
        data=fields and {n: v for n, v in fields.items() if n not in _BOOKKEEPING},
        raw=raw,
        name=topic.rpartition(":")[2],
        stream=str(row["originator_id"]),
        version=int(row["originator_version"]),
        recorded=time if isinstance(time, datetime) else None,
        metadata={"topic": topic},
    )


# -- Marten: docs/events/storage.md and src/Marten/Events/Schema/EventsTable.cs of its repository --

_MARTEN: Final = ("seq_id", "id", "stream_id", "version", "data", "type", "timestamp")


def _of_marten(place: str, row: Mapping[str, Any]) -> SourceEvent:
    return SourceEvent(
        place=place,
        data=row["data"],
        name=row["type"],
        stream=str(row["stream_id"]),
        version=row["version"],
        id=row["id"],
        recorded=_time(row["timestamp"]),
        metadata={n: v for n, v in row.items() if n not in _MARTEN and v is not None},
    )


# -- Message DB: database/tables/messages.sql of its repository -----------------------------------


def _of_message_db(place: str, row: Mapping[str, Any]) -> SourceEvent:
    metadata: object = row["metadata"] or {}
    if not isinstance(metadata, dict):
        raise TypeError("metadata that is no object")
    return SourceEvent(
        place=place,
        data=row["data"],
        name=row["type"],
        stream=row["stream_name"],
        version=row["position"] + 1,
        id=row["id"],
        recorded=_time(row["time"]),
        metadata=cast("dict[str, Any]", metadata),
    )


FORMS: Final[Mapping[str, Form]] = {
    "eventsourcing": Form(
        "public.stored_events", "stored_events", "notification_id", "rowid", _of_eventsourcing
    ),
    "marten": Form("public.mt_events", "", "seq_id", "", _of_marten),
    "message-db": Form("message_store.messages", "", "global_position", "", _of_message_db),
}
"""By the name that people give."""
