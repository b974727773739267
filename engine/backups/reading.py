"""A backup that is read: as a log, in its order, and as what a log is copied from.

Rules: each file is proved by its manifest before it is believed, and each event by its checksum and
its place. It may end at an earlier position, or at a time: what goes along is then as it would have
been there. It never ends inside of what one command has stored, as far as events say that. Claims
are folded from the events. Timers stand as they stood, and at an earlier end as the events say; one
that an operator had cancelled stays cancelled. A sink that was further has delivered up to the end.
A reactor goes back to the first event because of which something was made behind the end. Nothing
is written. Calls block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

import msgspec

from ..errors import Damaged, StoreFailed, StoreRefused, UsageError
from ..model.codec import UNDECODABLE, decode_metadata
from ..model.stored import EventType, Snapshot, StoredEvent, verify
from ..outside.claims import fold_claims
from ..outside.timers import fold_timers
from ..projections.targets.made import reaction_of
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.copying import Carried, Repaired
from ..stores.contract.log import Head, StreamPage, StreamRead
from ..stores.contract.outside import Found
from ..stores.contract.timers import TimerKey, WaitingTimer
from ..stores.contract.verifying import Finding, Report
from ..stores.contract.views import Checkpoint
from .format import File, Manifest, Segment, frames_of, named, rows_of
from .places import Place, read_manifest

__all__ = ["BackupLog", "BackupSource", "look_at_files"]

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_CLAIMS: Final = 2_000

_snapshots: Final = msgspec.msgpack.Decoder(list[Snapshot])
_carried: Final = msgspec.msgpack.Decoder(Carried)
_timers: Final = msgspec.msgpack.Decoder(list[WaitingTimer])
_repairs: Final = msgspec.msgpack.Decoder(list[Repaired])
_frame: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])


class BackupLog:
    """The events of a backup, up to position `at`, or to the last one that was recorded by `until`.

    `until` is in µs since 1970-01-01 UTC.
    """

    def __init__(self, place: Place, *, at: int | None = None, until: int | None = None) -> None:
        self._place = place
        self._at = at
        self._until = until
        self._found: Manifest | None = None
        self._head = Head()
        self._events: Iterator[StoredEvent] = iter(())
        self._behind = -1
        """The position before the event that these begin with; none where they do not fit."""
        self._claims: dict[ClaimKey, HeldClaim] = {}
        self._timers: dict[TimerKey, WaitingTimer] = {}
        self._folded = 0
        self._bad: dict[int, Damaged] = {}
        """What was found in a segment that is damaged, by its first position."""

    @property
    def name(self) -> str:
        """What people call the place."""
        return self._place.name

    @property
    def log_id(self) -> str:
        """The log's id."""
        return self.manifest.log_id

    @property
    def manifest(self) -> Manifest:
        """What the backup says of itself; known after `open`."""
        if self._found is None:
            raise StoreFailed(f"the backup {self.name} is closed", written=False)
        return self._found

    def __enter__(self) -> BackupLog:
        """Open it."""
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def open(self) -> None:
        """Read the manifest; raise StoreRefused where there is none, or where it is damaged."""
        self._found = read_manifest(self._place)
        if self._found is None:
            raise StoreRefused(
                f"there is no backup in {self.name}: no manifest.json is there, or none that was "
                f"finished"
            )
        self._head = self._end(self._found)

    def close(self) -> None:
        """Forget it; a second call does nothing."""
        self._found = None
        self._behind, self._folded = -1, 0
        self._claims.clear()
        self._timers.clear()

    def _end(self, manifest: Manifest) -> Head:
        whole = Head(manifest.position, manifest.checksum, manifest.recorded)
        position = manifest.position
        if self._at is not None:
            if self._at > position:
                raise UsageError(
                    f"the backup {self.name} ends at position {position}, and position {self._at} "
                    f"was asked for"
                )
            position = self._at
        elif self._until is not None:
            position = self._last_by(manifest.segments, self._until)
        if position == manifest.position and manifest.whole:
            return whole
        self._head = whole
        position = self._checked(position) if position else 0
        if position < 1:
            raise UsageError(f"the backup {self.name} has no event by then: nothing is restored")
        (last,) = self.read_feed(position - 1, events_max=1, bytes_max=1)
        return Head(last.position, last.checksum, last.recorded)

    def _checked(self, position: int) -> int:
        """Give an end that no command's events are on both sides of.

        Raises UsageError where somebody has named another one.
        """
        if self._at is None:
            with suppress(Damaged):  # whoever reads it says so
                first, last = self._decision_at(position)
                return position if last <= position else first - 1
            return position
        first, last = self._decision_at(position)
        if last <= position:
            return position
        raise UsageError(
            f"position {position} of the backup {self.name} is inside of what one command has "
            f"stored, from {first} to {last}: all of it is restored, or none. Give {first - 1}, or "
            f"{last}"
        )

    def _decision_at(self, position: int) -> tuple[int, int]:
        """Give the first and the last position of the command whose event is at a position.

        Of a command that has left no word of how many events it wrote, that is this position.
        """
        before, recorded = position, None
        while before:
            after = max(0, before - _PAGE_EVENTS)
            for event in reversed(list(self._between(after, before))):
                recorded = event.recorded if recorded is None else recorded
                count = _events_of(event) if event.recorded == recorded else 1
                if count:
                    end = event.position + count - 1
                    return (event.position, end) if end >= position else (position, position)
            before = after
        return position, position

    def _between(self, after: int, end: int) -> Iterator[StoredEvent]:
        """Give the events behind a position, up to another one."""
        for segment in self.manifest.segments:
            if segment.first <= end and segment.after.position > after:
                yield from (e for e in self._read(segment) if after < e.position <= end)

    def begun_behind(self) -> Mapping[str, int]:
        """Give by reactor the first event because of which something was made behind the end.

        What is damaged there is passed over: nobody knows what was made in it.
        """
        found: dict[str, int] = {}
        end = self._head.position
        for segment in self.manifest.segments:
            if segment.after.position <= end:
                continue
            with suppress(Damaged):
                for event in self._read(segment):
                    made = reaction_of(event) if event.position > end else None
                    if made is not None and made.position <= end:
                        known = found.get(made.reactor, made.position)
                        found[made.reactor] = min(known, made.position)
        return found

    def _last_by(self, segments: Sequence[Segment], until: int) -> int:
        """Give the position of the last event that was recorded by then; times never go back."""
        later = next((s for s in segments if s.recorded > until), None)
        if later is None:
            return segments[-1].after.position
        earlier = [e.position for e in self._read(later) if e.recorded <= until]
        return earlier[-1] if earlier else later.first - 1

    # -- reading ------------------------------------------------------------------------------

    def head(self) -> Head:
        """Give its end."""
        return self._head

    def event_types(self) -> Sequence[EventType]:
        """Give the types that the log had."""
        return self.manifest.types

    def change_count(self) -> int:
        """Give the same number each time."""
        return self._head.position

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read its order after a position; fast where that is where the last page ended."""
        page: list[StoredEvent] = []
        size, end = 0, min(after + events_max, self._head.position)
        while after < end:
            try:
                event = self._following(after)
            except Damaged:
                if page:
                    break  # what stands before is given
                raise
            size += len(event.payload) + len(event.metadata)
            if page and size > bytes_max:
                self._behind = -1  # it was taken, and is not given
                break
            page.append(event)
            after = self._behind = event.position
        if page and page[0].position == self._folded + 1:
            fold_claims(self._claims, page)
            fold_timers(self._timers, page)
            self._folded = after
        return page

    def _following(self, after: int) -> StoredEvent:
        """Give the event behind a position; raise Damaged where it is not there."""
        event = next(self._events, None) if self._behind == after else None
        if event is None:  # another place, or the next segment
            self._seek(after)
            event = next(self._events, None)
        if event is None or event.position != after + 1:
            self._behind = -1
            raise Damaged(after + 1, f"it is missing in the backup {self.name}")
        return event

    def _seek(self, after: int) -> None:
        segments = self.manifest.segments
        place = bisect_left(segments, after + 1, key=lambda s: s.after.position)
        self._events, self._behind = iter(()), after
        if place < len(segments):
            events = self._read(segments[place])
            self._events = (event for event in events if event.position > after)

    def claims(self) -> Mapping[ClaimKey, HeldClaim]:
        """Give all claims that are held at its end, as its events say; reads what was not read."""
        while self._folded < self._head.position:
            self.read_feed(self._folded, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES)
        return self._claims

    def timers(self) -> Mapping[TimerKey, WaitingTimer]:
        """Give all timers that stand at its end.

        No event says that one was cancelled by an operator, has failed, or was fired without an
        event. At an earlier end those stand that the events say.
        """
        self.claims()
        kept = self._kept_timers()
        if kept is None:
            return self._timers  # an older release has made it
        if self.manifest.whole and self._head.position == self.manifest.position:
            return kept
        return {key: _unless_cancelled(timer, kept.get(key)) for key, timer in self._timers.items()}

    def _kept_timers(self) -> dict[TimerKey, WaitingTimer] | None:
        pages = [_timers.decode(data) for what, data in self.beside() if what == "timers"]
        return {timer.key: timer for page in pages for timer in page} if pages else None

    def _read(self, segment: Segment) -> Iterator[StoredEvent]:
        """Give the events of a segment, each proved."""
        if segment.first in self._bad:
            raise self._bad[segment.first]
        place = self.manifest.segments.index(segment)
        before = self.manifest.segments[place - 1].file.sha256 if place else ""
        head = (self.log_id, "events", segment.first, before)
        position = segment.first
        try:
            for frame in self._frames(segment.file, position, head):
                for event in self._rows(frame, position):
                    verify(event)
                    position = event.position + 1
                    yield event
        except Damaged as error:
            self._bad[segment.first] = error
            raise

    def _rows(self, frame: bytes, position: int) -> Iterator[StoredEvent]:
        try:
            yield from rows_of(frame)
        except UNDECODABLE as error:
            raise Damaged(position, f"an event of the backup cannot be read: {error}") from error

    def _frames(
        self, file: File, position: int, head: tuple[str, str, int, str]
    ) -> Iterator[bytes]:
        data = self._place.read(file.name)
        if data is None:
            raise Damaged(position, f"{file.name} of the backup {self.name} is not there")
        return frames_of(data, file, position, head)

    def beside(self) -> Iterator[tuple[str, msgspec.Raw]]:
        """Give what goes along: what it is, and its bytes."""
        for number, file in enumerate(self.manifest.beside):
            head = (self.log_id, "beside", number, "")
            for frame in self._frames(file, 0, head):
                yield _frame.decode(frame)

    def checksum_at(self, position: int) -> int | None:
        """Give the checksum of an event."""
        page = self.read_feed(position - 1, events_max=1, bytes_max=1)
        return page[0].checksum if page else None

    def version_of(self, stream: str) -> int:
        """Raise UsageError: a backup is read in its order."""
        raise _in_order(self.name, stream)

    def read_streams(
        self,
        reads: Sequence[StreamRead],
        *,
        events_max: int,  # noqa: ARG002 - of the protocol
        bytes_max: int,  # noqa: ARG002
    ) -> Sequence[StreamPage]:
        """Raise UsageError: a backup is read in its order."""
        raise _in_order(self.name, reads[0].stream)

    def read_claims(self, after: ClaimKey = ("", ""), *, claims_max: int) -> list[HeldClaim]:
        """Raise UsageError: a backup keeps no table of claims."""
        raise _in_order(self.name, f"claims after {after} ({claims_max})")

    def read_timers(self, after: TimerKey = ("", ""), *, timers_max: int) -> list[WaitingTimer]:
        """Raise UsageError: a backup keeps no table of timers."""
        raise _in_order(self.name, f"timers after {after} ({timers_max})")


def _in_order(name: str, what: str) -> UsageError:
    return UsageError(
        f"{name} is a backup, and is read in its order only, not by {what}: restore it"
    )


class BackupSource:
    """A backup to be copied into a store."""

    def __init__(self, log: BackupLog) -> None:
        self.log = log
        """Its events, open inside of `with`."""

    def __enter__(self) -> BackupSource:
        """Open it."""
        self.log.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.log.close()

    def is_in_use(self) -> bool:
        """Tell that nobody writes to it."""
        return False

    def moment(
        self,
        keep_claims: Callable[[Sequence[HeldClaim]], None],
        keep_timers: Callable[[Sequence[WaitingTimer]], None],
    ) -> Head:
        """Give the end, and all claims that are held there, and timers that wait."""
        claims = self.log.claims()
        held = [claims[key] for key in sorted(claims)]
        for begin in range(0, len(held), _CLAIMS):
            keep_claims(held[begin : begin + _CLAIMS])
        timers = self.log.timers()
        waiting = [timers[key] for key in sorted(timers)]
        for begin in range(0, len(waiting), _CLAIMS):
            keep_timers(waiting[begin : begin + _CLAIMS])
        return self.log.head()

    def snapshots(self, after: str, limit: int) -> Sequence[Snapshot]:
        """Give snapshots in the order of their streams, of what is there up to the end."""
        found: list[Snapshot] = []
        for what, data in self.log.beside():
            if what == "snapshots":
                page = _snapshots.decode(data)
                found += [s for s in page if s.stream > after] if page[-1].stream > after else []
            if len(found) >= limit:
                break
        return found[:limit]

    def repairs(self) -> Sequence[Repaired]:
        """Give what was repaired in the log."""
        return [
            one
            for what, data in self.log.beside()
            if what == "repairs"
            for one in _repairs.decode(data)
            if one.position <= self.log.head().position
        ]

    def carried(self) -> Carried | None:
        """Give what goes along, as it would be at the end; None where there were no views."""
        found = next((data for what, data in self.log.beside() if what == "carried"), None)
        if found is None:
            return None
        carried = _carried.decode(found)
        if self.log.head().position == self.log.manifest.position:
            return carried
        end = self.log.head()
        parked = {
            name: [event for event in events if event.position <= end.position]
            for name, events in carried.parked.items()
        }
        begun = self.log.begun_behind()
        sinks = [
            _at_most(sink, self._before(begun.get(sink.projection), end)) for sink in carried.sinks
        ]
        return msgspec.structs.replace(carried, sinks=sinks, parked=parked)

    def _before(self, position: int | None, end: Head) -> Checkpoint:
        """Give the checkpoint before an event, or that of the end."""
        if position is None:
            return Checkpoint(end.position, end.checksum)
        checksum = self.log.checksum_at(position - 1) if position > 1 else None
        return Checkpoint() if checksum is None else Checkpoint(position - 1, checksum)


def _events_of(event: StoredEvent) -> int:
    """Give how many events the command wrote whose first event this is; 0 if it does not say."""
    metadata = decode_metadata(event)
    if metadata.parties:
        return sum(events for _, _, events in metadata.parties)
    return metadata.events if metadata.key is not None else 0


def _unless_cancelled(timer: WaitingTimer, kept: WaitingTimer | None) -> WaitingTimer:
    """Give a timer as an event says, or as an operator has left it."""
    is_the_same = kept is not None and kept.position == timer.position
    return kept if kept is not None and is_the_same and kept.cancelled else timer


def _at_most(sink: Found, last: Checkpoint) -> Found:
    """Give a sink that has delivered no further than this."""
    checkpoints = {
        slice_: at if at.position <= last.position else last
        for slice_, at in sink.checkpoints.items()
    }
    return msgspec.structs.replace(sink, checkpoints=checkpoints)


def look_at_files(place: Place, report: Report) -> None:
    """Report each file of a backup that is not what its manifest says, or is not there.

    Raises StoreRefused where there is no manifest that can be believed.
    """
    with BackupLog(place) as log:
        manifest = log.manifest
        for file in (*(segment.file for segment in manifest.segments), *manifest.beside):
            data = place.read(file.name)
            if data is None or named(file.name, data) != file:
                why = "is not there" if data is None else "is not what its manifest says"
                report(Finding("backup", f"{file.name} of {place.name} {why}", name=file.name))
