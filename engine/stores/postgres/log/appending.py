"""A batch on its way into the database, as arrays, and the answer that comes back for it.

Rules: pure. What nearly every batch is (versions that go on from each other, types that the log
knows) is laid out at once, and the database says which of its streams do not fit; where a request
has several streams, or claims, it is written whole or not at all. Any other batch is planned on
versions that were read (`plan`), and then laid out. Both end in what the contract's `plan` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from zlib import crc32

import msgspec

from ....errors import StoreFailed
from ....model.stored import EventType, StoredEvent
from ...contract.log import (
    Appended,
    Batch,
    Committed,
    Head,
    Outcome,
    Plan,
    StreamConflict,
    Write,
)
from ...contract.tags import Unchanged
from .claims import ChangedClaims
from .tags import ChangedTags, TagsLaidOut
from .timers import ChangedTimers, TimersLaidOut, fired_by

__all__ = ["KnownTypes", "Sending", "laid_out", "nothing_of", "planned_out"]

KnownTypes: TypeAlias = Mapping[tuple[str, int], tuple[int, str]]
"""Number and schema hash by name and version."""

_NO_TYPES: Final[tuple[list[Any], ...]] = ([], [], [], [])


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent of a batch. Each list has one value an event, or one a stream."""

    batch: Batch
    recorded: int
    streams: list[str]
    versions: list[int]
    types: list[int]
    encodings: list[int]
    payloads: list[bytes]
    metadatas: list[bytes]
    checksums: list[int]
    first: dict[str, tuple[int, int]]
    """For each stream the version that it must have, and the place of its first event here."""
    reached: dict[str, int]
    """The version of each stream behind it."""
    asked: dict[str, int]
    """The versions that streams must have, for those of which the database is to look.

    Not those that begin here: the database does not let a stream begin twice.
    """
    new_types: Sequence[tuple[int, EventType]] = ()
    claims: ChangedClaims | None = None
    """Where there are any: then it is written whole or not at all."""
    whole: bool = False
    """Whether a request of it has several streams, or asks whether one is there: then likewise, as
    the database leaves out those streams alone that do not fit."""
    timers: ChangedTimers | None = None
    """Where any change: likewise."""
    tags: ChangedTags | None = None
    """Where events have any, or a request has conditions: likewise."""
    numbers: Mapping[tuple[str, int], int] = {}
    """Of the types of events that have tags."""
    plan: Plan | None = None
    """Where the batch was planned before: what it does, if all of it fits."""

    def values(self, session: int, head: Head, *, synced: bool) -> tuple[Any, ...]:
        """Give what `append_1` takes; `append_2` with claims, 3 with timers, and 4 with tags."""
        claims, timers, tags = self.claims, self.timers, self.tags
        if timers is None and tags is not None:
            timers = ChangedTimers((), {}, 0)
        if claims is None and timers is not None:
            claims = ChangedClaims.none()
        new = self.new_types
        types = _NO_TYPES
        if new:
            kinds = [kind for _, kind in new]
            types = (
                [number for number, _ in new],
                [kind.name for kind in kinds],
                [kind.version for kind in kinds],
                [kind.schema_hash for kind in kinds],
            )
        return (
            session,
            head.position,
            head.checksum,
            self.recorded,
            self.streams,
            self.versions,
            self.types,
            self.encodings,
            self.payloads,
            self.metadatas,
            self.checksums,
            list(self.asked),
            list(self.asked.values()),
            self.plan is None and not self.whole,
            synced,
            *types,
            *(() if claims is None else claims.arrays()),
            *(() if timers is None else timers.arrays()),
            *(() if tags is None else tags.arrays(self.numbers)),
        )

    def committed(
        self, head: Head, at: int, misfits: Mapping[str, int], more: int | None = None
    ) -> Committed:
        """Give what the append did to a log that ended at `head`.

        `at` is the time of its events, `misfits` the versions of the streams that did not fit, and
        `more` how many timers more there are; None where nobody has said.
        """
        if more is None:
            more = 0 if self.timers is None else self.timers.more
        if self.plan is not None:
            assert not misfits, "what was planned is written whole or not at all"
            return Committed(self.plan.outcomes, self.plan.events, more)
        behind = at - self.recorded
        position = head.position
        checksums = self.checksums
        outcomes: list[Outcome] = []
        events: list[StoredEvent] = []
        place = 0
        for request in self.batch.requests:
            first = request.writes[0]
            if misfits and first.stream in misfits:
                assert len(request.writes) == 1, "a batch with several streams a request is whole"
                place += len(first.events)
                actual = misfits[first.stream]
                outcomes.append(StreamConflict(first.stream, first.expected, actual))
                continue
            versions: list[int] = []
            for write in request.writes:
                stream, version = write.stream, write.expected
                for data in write.events:
                    version += 1
                    position += 1
                    kind = data.type
                    events.append(
                        StoredEvent(
                            position,
                            stream,
                            version,
                            kind.name,
                            kind.version,
                            at,
                            data.payload,
                            data.metadata,
                            data.encoding,
                            checksums[place],
                            behind,
                        )
                    )
                    place += 1
                versions.append(version)
            outcomes.append(Appended(position, tuple(versions)))
        return Committed(outcomes, events, more)


def laid_out(batch: Batch, known: KnownTypes, current: Mapping[str, int]) -> Sending | None:
    """Lay a batch out as if it fitted; None where it must be planned first.

    `current` has the versions of streams that this writer has brought to where they are.
    """
    sending = nothing_of(batch)
    reached = sending.reached
    claims: ChangedClaims | None = None
    whole = False
    asks: dict[str, int] = {}
    timers, tagged = TimersLaidOut(), TagsLaidOut()
    for request in batch.requests:
        whole = whole or len(request.writes) > 1
        if request.extras and not timers.add(request, len(sending.streams)):
            return None
        if not tagged.add(request, len(sending.streams)):
            return None
        for write in request.writes:
            if request.extras:
                claims = claims or ChangedClaims.none()
                own = [extra for extra in request.extras if extra.stream == write.stream]
                claims.add(own, len(sending.streams) + 1)
            stream, version = write.stream, write.expected
            if not write.events:
                if stream in reached:
                    return None  # by this very batch: to be planned
                # Whether it holds must be known whatever becomes of the answer.
                asks[stream] = sending.asked[stream] = version
                whole = True
                continue
            if asks and asks.get(stream, version) != version:
                return None
            if stream not in reached:
                sending.first[stream] = (version, len(sending.streams))
                there = current.get(stream)
                if there is None and version:
                    sending.asked[stream] = version
                elif there is not None and there != version:
                    return None
            elif reached[stream] != version:
                return None
            if not _lay(sending, write, known):
                return None
            reached[stream] = version + len(write.events)
    tags = tagged.changed()
    if claims is None and not whole and tags is None:
        return sending
    if claims is not None and not claims.are_distinct:
        return None
    if claims is not None and not claims.names:
        claims = None  # only timers are beside its events
    return msgspec.structs.replace(
        sending,
        claims=claims,
        whole=whole or tags is not None,
        timers=timers.changed(),
        tags=tags,
        numbers={} if tags is None else {key: number for key, (number, _) in known.items()},
    )


def nothing_of(batch: Batch) -> Sending:
    """Give what is sent of a batch before any of it is laid out."""
    return Sending(
        batch=batch,
        recorded=batch.recorded,
        streams=[],
        versions=[],
        types=[],
        encodings=[],
        payloads=[],
        metadatas=[],
        checksums=[],
        first={},
        reached={},
        asked={},
    )


def _lay(sending: Sending, write: Write, known: KnownTypes) -> bool:
    """Add the events of a write; tell whether the log knows their types."""
    stream, version, recorded = write.stream, write.expected, sending.recorded
    name = stream.encode()
    for data in write.events:
        version += 1
        kind = data.type
        number = known.get((kind.name, kind.version))
        if number is None or number[1] != kind.schema_hash:
            return False
        payload, metadata, encoding = data.payload, data.metadata, data.encoding
        sending.streams.append(stream)
        sending.versions.append(version)
        sending.types.append(number[0])
        sending.encodings.append(encoding)
        sending.payloads.append(payload)
        sending.metadatas.append(metadata)
        # `checksum_of`, without its call: this is once for each event.
        told = (
            version,
            kind.version,
            recorded,
            encoding,
            len(payload),
            len(metadata),
            kind.name.encode(),
            name,
            payload,
            metadata,
        )
        sending.checksums.append(crc32(b"%d %d %d %d %d %d %b %b\0%b%b" % told))
    return True


def planned_out(batch: Batch, planned: Plan, known: KnownTypes, after: int) -> Sending:
    """Lay out what fits of a batch that was planned for a log that ends at position `after`.

    Raises StoreFailed for a type of events that does not fit.
    """
    new: dict[tuple[str, int], tuple[int, EventType]] = {}
    highest = max((number for number, _ in known.values()), default=0)
    for request, outcome in zip(batch.requests, planned.outcomes, strict=True):
        if not isinstance(outcome, Appended):
            continue
        for write in request.writes:
            for data in write.events:
                kind = data.type
                key = (kind.name, kind.version)
                stored = known.get(key)
                if key in new:
                    stored = (new[key][0], new[key][1].schema_hash)
                if stored is None:
                    highest += 1
                    new[key] = (highest, kind)
                elif (renews := kind.renews(stored[1])) is not False:
                    if renews is None:
                        raise StoreFailed(
                            f"{kind.name} version {kind.version} is stored with schema {stored[1]} "
                            f"and comes with {kind.schema_hash}. Nothing was written.",
                            written=False,
                        )
                    new[key] = (stored[0], kind)
    events = planned.events
    first: dict[str, tuple[int, int]] = {}
    for place, event in enumerate(events):
        first.setdefault(event.stream, (event.version - 1, place))
    numbers = {key: number for key, (number, _) in known.items()}
    numbers |= {key: number for key, (number, _) in new.items()}
    return Sending(
        batch=batch,
        recorded=events[0].recorded if events else batch.recorded,
        streams=[event.stream for event in events],
        versions=[event.version for event in events],
        types=[numbers[event.name, event.event_version] for event in events],
        encodings=[event.encoding for event in events],
        payloads=[event.payload for event in events],
        metadatas=[event.metadata for event in events],
        checksums=[event.checksum for event in events],
        first=first,
        reached=planned.versions,
        asked={stream: expected for stream, (expected, _) in first.items() if expected},
        new_types=tuple(new.values()),
        claims=ChangedClaims.planned(planned.claims, after) if planned.claims else None,
        timers=_planned_timers(batch, planned, after),
        tags=_planned_tags(batch, planned, after),
        numbers=numbers,
        plan=planned,
    )


def _planned_tags(batch: Batch, planned: Plan, after: int) -> ChangedTags | None:
    """Give what the index gets, and the conditions of what is appended."""
    conditions = [
        (extra.tags, extra.names, extra.after)
        for request, outcome in zip(batch.requests, planned.outcomes, strict=True)
        if isinstance(outcome, Appended)
        for extra in request.extras
        if type(extra) is Unchanged
    ]
    if not planned.tags and not conditions:
        return None
    return ChangedTags(planned.tags, conditions, after)


def _planned_timers(batch: Batch, planned: Plan, after: int) -> ChangedTimers | None:
    """Give the timers that change; those that the batch itself has set need not stand before."""
    if not planned.timers:
        return None
    fired = [
        timer
        for request, outcome in zip(batch.requests, planned.outcomes, strict=True)
        if isinstance(outcome, Appended)
        for timer in fired_by(request.extras)
        if timer.position <= after
    ]
    return ChangedTimers(fired, planned.timers, after)
