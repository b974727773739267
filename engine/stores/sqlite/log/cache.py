"""The writer's cache: what it remembers of its log file, so that an append looks up little.

Rules: it has the head, the types of events, the streams that were last written and the tags of what
came last. A stranger's write may have made it stale. So a plan on it is good enough for a yes,
which the schema checks again; after whatever may have made it wrong it is read anew. It is changed
in the writer's thread, inside its transaction, and never begins or ends one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from ....errors import StoreFailed
from ....model.stored import EventType
from ...contract.log import Appended, Batch, Head, Plan, claim_keys, fired_keys, plan
from ..connection import run
from .claims import read_holders
from .contents import check_last
from .heads import read_head, read_types, read_versions
from .pages import Types
from .schema import check_inserted, insert_streams
from .tags import RecentTags, read_came
from .timers import read_standing

__all__ = ["LogCache"]

CACHED_STREAMS_MAX: Final = 200_000
"""Streams whose number and version the writer remembers."""

_TYPE: Final = "SELECT name, version FROM event_types WHERE number = ?"


class LogCache:
    """What is remembered of one log file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.head = Head()
        self.streams: dict[str, tuple[int, int]] = {}
        """Number and version by name."""
        self.types: dict[tuple[str, int], tuple[int, str]] = {}
        """Number and schema hash by name and version."""
        self._next_stream = 1
        self._type_names: dict[int, tuple[str, int]] = {}
        self._recent = RecentTags()

    def event_types(self) -> Sequence[EventType]:
        """Give the types in the order of their first use."""
        return [
            EventType(name, version, hash_) for (name, version), (_, hash_) in self.types.items()
        ]

    def refresh(self, connection: Any) -> None:
        """Read again all that the writer remembers of the file.

        Raises StoreRefused where its last event is not there any more.
        """
        if self.head.position:
            check_last(connection, self._path, self.head)
        self.streams.clear()
        self.read_types(connection)
        self.head = read_head(connection)
        self._next_stream = run(connection, "SELECT ifnull(max(number), 0) + 1 FROM streams")[0][0]
        self._recent.begin(self.head.position)

    def read_types(self, connection: Any) -> None:
        """Read the types anew."""
        rows = read_types(connection)
        self.types = {(name, version): (number, hash_) for number, name, version, hash_ in rows}
        self._type_names = {number: (name, version) for number, name, version, _ in rows}

    def forget(self) -> None:
        """Forget the streams: what was to be written of them was taken back."""
        self.streams.clear()

    def plan(self, connection: Any, batch: Batch, believing: bool) -> Plan:
        """Plan on what is remembered; what is not is looked up.

        But not a stream that a write begins: whoever is believed has looked, and the schema does
        not let it begin twice.
        """
        writes = [write for request in batch.requests for write in request.writes]
        begun = {write.stream for write in writes if believing and write.expected == 0}
        holders = read_holders(connection, claim_keys(batch))
        standing = read_standing(connection, fired_keys(batch))
        versions = self._versions(connection, {write.stream for write in writes}, begun)
        came = read_came(connection, batch, self._recent)
        return plan(batch, versions, self.head, holders, standing, came)

    def _versions(self, connection: Any, streams: Set[str], begun: Set[str]) -> Mapping[str, int]:
        known = self.streams
        if len(known) + len(streams) > CACHED_STREAMS_MAX:
            known.clear()
        cold = [stream for stream in streams if stream not in known and stream not in begun]
        if cold:
            for name, number, version in read_versions(connection, cold):
                known[name] = (number, version)
        return {stream: known[stream][1] for stream in streams if stream in known}

    def add_types(self, connection: Any, batch: Batch, planned: Plan) -> None:
        """Insert the types of events that are new; raise StoreFailed for one that is another."""
        # Events of one class share their type: each is looked at once.
        kinds = {
            id(data.type): data.type
            for request, outcome in zip(batch.requests, planned.outcomes, strict=True)
            if isinstance(outcome, Appended)
            for write in request.writes
            for data in write.events
        }
        for kind in kinds.values():
            known = self.types.get((kind.name, kind.version))
            if known is None:
                self._insert_type(connection, kind)
            elif renews := kind.renews(known[1]):
                self._renew_type(connection, kind, known[0])
            elif renews is None:
                raise StoreFailed(
                    f"{kind.name} version {kind.version} is stored with schema {known[1]} "
                    f"and comes with {kind.schema_hash}. Nothing was written.",
                    written=False,
                )

    def _insert_type(self, connection: Any, kind: EventType) -> None:
        number = max(self._type_names, default=0) + 1
        values = (number, kind.name, kind.version, kind.schema_hash)
        run(connection, "INSERT INTO event_types VALUES (?, ?, ?, ?)", values)
        check_inserted(connection, 1)
        self.types[kind.name, kind.version] = (number, kind.schema_hash)
        self._type_names[number] = (kind.name, kind.version)

    def _renew_type(self, connection: Any, kind: EventType, number: int) -> None:
        renew = "UPDATE event_types SET schema_hash = ? WHERE number = ?"
        run(connection, renew, (kind.schema_hash, number))
        self.types[kind.name, kind.version] = (number, kind.schema_hash)

    def add_streams(self, connection: Any, planned: Plan) -> None:
        """Insert the streams that are new."""
        new: list[tuple[int, str]] = []
        for stream in planned.versions:
            if stream not in self.streams:
                self.streams[stream] = (self._next_stream, 0)
                new.append((self._next_stream, stream))
                self._next_stream += 1
        if new:
            insert_streams(connection, new)

    def keep(self, planned: Plan) -> None:
        """Remember what a commit has written."""
        self.streams |= {s: (self.streams[s][0], v) for s, v in planned.versions.items()}
        if planned.events:
            last = planned.events[-1]
            self.head = Head(last.position, last.checksum, last.recorded)
        self._recent.add(planned.tags)

    def types_by(self, connection: Any) -> Types:
        """Give what names types of events by their numbers; called from the reader's thread too."""

        def name_and_version(number: int) -> tuple[str, int]:
            known = self._type_names.get(number)
            if known is None:
                # A stranger that writes to the file may have brought a type of its own.
                found = run(connection, _TYPE, (number,))
                if not found:
                    raise KeyError(number)
                known = self._type_names[number] = found[0]
            return known

        return name_and_version
