"""What the modelled server stores: the log's tables, and the write-ahead log that they come from.

Rules: a committed transaction is a record of changes as plain values. What is seen is what the
records up to now make; after a crash, or on a standby, what the first so many of them make. Nothing
here waits, draws or knows of connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from .plpgsql import Function

__all__ = ["Change", "Event", "Member", "Record", "Session", "Shelves", "Tables"]

Change: TypeAlias = tuple[Any, ...]
"""Its name, and what it takes: ("event", Event), ("lease", 3, 17.5), ..."""
SEQUENCE_LOGGED: Final = 32
"""So many numbers of a sequence are logged at once: a crash skips what is left of them."""


class Event(msgspec.Struct, frozen=True):
    """A row of `events`."""

    position: int
    recorded: int
    behind: int
    checksum: int
    version: int
    type: int
    encoding: int
    stream: str
    payload: bytes
    metadata: bytes


class Session(msgspec.Struct):
    """A row of `sessions`; times are in seconds of the database's clock."""

    session: int
    holder: str
    opened: float
    lease_until: float
    live: bool = True
    shared: bool = False


class Member(msgspec.Struct, frozen=True):
    """A row of `members`; times as in `sessions`."""

    member: int
    holder: str
    view_seen: int
    lease_until: float
    decides: bool = False
    line: int = 0
    joined: float = 0.0


class Record(msgspec.Struct, eq=False):
    """What one transaction changed."""

    changes: list[Change]
    at: float
    """When it was written, in seconds that do not jump."""
    flushed: bool = False
    replicated: bool = False
    """Whether a standby has it."""


class Shelves:
    """The tables of views: rows by key, by the name of their table."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, tuple[Any, ...]]] = {}

    def copied(self) -> Shelves:
        """Give the same, which does not change with it."""
        copy = Shelves()
        copy.tables = {name: dict(rows) for name, rows in self.tables.items()}
        return copy

    def apply(self, what: str, table: str, key: Any = None, row: tuple[Any, ...] = ()) -> None:
        """Make, drop or empty a table, or put or take away a row."""
        if what == "put":
            self.tables.setdefault(table, {})[key] = row
        elif what == "gone":
            self.tables[table].pop(key, None)
        elif what == "made":
            self.tables[table] = {}
        else:
            assert what == "dropped", what
            self.tables.pop(table, None)


class Tables:
    """What a schema has in it."""

    def __init__(self, log_id: str) -> None:
        self._log_id = log_id
        self.log_id: str | None = None
        """None where the schema is not made."""
        self.schema_version = 0
        """Of the schema."""
        self.functions: dict[str, Function] = {}
        self.sessions: dict[int, Session] = {}
        self.numbered = 0
        """The last number that a session was given."""
        self.numbers_logged = 0
        self.view = 0
        """The number of the members."""
        self.members: dict[int, Member] = {}
        self.members_numbered = 0
        self.types: dict[int, tuple[str, int, str]] = {}
        self.events: list[Event] = []
        self.streams: dict[str, list[Event]] = {}
        self.snapshots: dict[str, tuple[Any, ...]] = {}
        self.claims: dict[tuple[str, str], tuple[str, int]] = {}
        """By name and value: the stream that holds it, and the position since when."""
        self.timers: dict[tuple[str, str], tuple[Any, ...]] = {}
        """Rows by stream and name."""
        self.tags: dict[str, list[tuple[int, int]]] = {}
        """Positions and types by tag."""
        self.tag_forms: tuple[tuple[Any, ...], ...] = ()
        self.views = Shelves()

    @property
    def last(self) -> Event | None:
        """The event at the end of the log."""
        return self.events[-1] if self.events else None

    def version(self, stream: str) -> int:
        """Give the version of a stream, 0 where it has no event."""
        found = self.streams.get(stream)
        return found[-1].version if found else 0

    def at(self, stream: str, version: int) -> Event | None:
        """Give the event at a place of a stream."""
        for event in self.streams.get(stream, ()):
            if event.version == version:
                return event
        return None

    def next_session(self) -> tuple[int, list[Change]]:
        """Give the next number of a session, at once and for ever, and what is logged for it."""
        self.numbered += 1
        changes: list[Change] = []
        if self.numbered > self.numbers_logged:
            self.numbers_logged = self.numbered + SEQUENCE_LOGGED
            changes.append(("numbers", self.numbers_logged))
        return self.numbered, changes

    def recovered(self, records: list[Record]) -> Tables:
        """Give what these records make from nothing."""
        made = Tables(self._log_id)
        for record in records:
            made.apply(record.changes)
        made.numbered = made.numbers_logged
        return made

    def apply(self, changes: list[Change]) -> None:
        """Let everybody see the changes of a transaction."""
        for name, *values in changes:
            getattr(self, f"_{name}")(*values)

    def _migrated(self, version: int, functions: Mapping[str, Function]) -> None:
        self.log_id, self.schema_version = self._log_id, version
        self.functions.update(functions)

    def _numbers(self, logged: int) -> None:
        self.numbers_logged = max(self.numbers_logged, logged)

    def _began(self, session: Session) -> None:
        self.sessions[session.session] = msgspec.structs.replace(session)

    def _dead(self, session: int) -> None:
        self.sessions[session].live = False

    def _lease(self, session: int, until: float) -> None:
        self.sessions[session].lease_until = until

    def _forgot(self, session: int) -> None:
        del self.sessions[session]

    def _viewed(self, view: int) -> None:
        self.view = view

    def _joined(self, member: Member) -> None:
        self.members[member.member] = member
        self.members_numbered = max(self.members_numbered, member.member)

    def _left(self, member: int) -> None:
        self.members.pop(member, None)

    def _type(self, number: int, name: str, version: int, schema_hash: str) -> None:
        self.types[number] = (name, version, schema_hash)

    def _event(self, event: Event) -> None:
        self.events.append(event)
        self.streams.setdefault(event.stream, []).append(event)

    def _snapshot(self, stream: str, *rest: Any) -> None:
        self.snapshots[stream] = (stream, *rest)

    def _claimed(self, name: str, value: str, stream: str, position: int) -> None:
        self.claims[name, value] = (stream, position)

    def _released(self, name: str, value: str) -> None:
        self.claims.pop((name, value), None)

    def _set(self, row: tuple[Any, ...]) -> None:
        self.timers[row[0], row[1]] = row

    def _tagged(self, tag: str, position: int, kind: int) -> None:
        self.tags.setdefault(tag, []).append((position, kind))

    def _untagged(self, kinds: tuple[int, ...]) -> None:
        for tag, rows in self.tags.items():
            self.tags[tag] = [row for row in rows if row[1] not in kinds]

    def _forms(self, forms: tuple[tuple[Any, ...], ...]) -> None:
        self.tag_forms = forms

    def _views(self, *change: Any) -> None:
        self.views.apply(*change)

    def _unset(self, stream: str, name: str) -> None:
        self.timers.pop((stream, name), None)
