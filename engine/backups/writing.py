"""A backup that is written: what a log is copied into, segment by segment.

Rules: a segment is on the disk before a manifest names it, and each manifest is a backup of its own
position. Nothing is added to a backup that lacks one of its files. So a backup that was killed is
one up to its last segment, and goes on from there. What is there already is not written again; the
last segment alone, where it is small, goes into the next one. What neither this manifest nor the
one of before names is removed last. Everything is in memory only as one segment, but for the
timers, which are packed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Final

import msgspec

from ..errors import StoreFailed, StoreRefused, UsageError
from ..model.stored import EventType, Snapshot, StoredEvent
from ..runtime.package import release
from ..stores.contract.claims import HeldClaim
from ..stores.contract.copying import Carried, Mark, Repaired
from ..stores.contract.outside import LogReader
from ..stores.contract.timers import WaitingTimer
from .format import (
    FORM,
    MANIFEST,
    File,
    Manifest,
    Segment,
    SegmentWriter,
    frames_of,
    manifest_bytes,
    named,
)
from .places import Place, read_manifest

__all__ = ["BackupTarget"]

_SEGMENT_EVENTS: Final = 200_000
_SEGMENT_BYTES: Final = 32 * 1024 * 1024
"""Before they are packed."""
_SMALL_BYTES: Final = 1024 * 1024
"""A last segment below this goes into the next one."""

_pack: Final = msgspec.msgpack.Encoder().encode


class BackupTarget:
    """A backup at a place, of the log that people call `source`.

    `now` gives the time in µs; `rest` is called between two pieces of work.
    """

    def __init__(
        self,
        place: Place,
        source: str,
        now: Callable[[], int],
        rest: Callable[[], None] = lambda: None,
        *,
        segment_events: int = _SEGMENT_EVENTS,
    ) -> None:
        self._place = place
        self._source = source
        self._now = now
        self._rest = rest
        self._segment_events = segment_events
        self._log_id = ""
        self._segments: list[Segment] = []
        self._open: SegmentWriter | None = None
        self._count = 0
        """Of the events in it."""
        self._mark = Mark()
        self._recorded = 0
        self._types: Sequence[EventType] = ()
        self._beside: list[File] = []
        self._waiting: SegmentWriter | None = None
        """Timers, until what goes along is written."""
        self._former: set[str] = set()
        """Files of the backup that was there before."""
        self.manifest: Manifest | None = None
        """What is there: of before, and then what was written."""

    @property
    def name(self) -> str:
        """What people call the place."""
        return self._place.name

    def __enter__(self) -> BackupTarget:
        """Keep others from writing there."""
        self._place.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let others write there; what was begun stays."""
        self._place.end()

    # -- the log ------------------------------------------------------------------------------

    def begin(self, log_id: str) -> Mark:
        """Begin, or go on with the backup of that log that is there."""
        self._log_id = log_id
        found = self.manifest = read_manifest(self._place)
        if found is None:
            return Mark()
        if found.log_id != log_id:
            raise StoreRefused(
                f"{self.name} has a backup of the log {found.log_id}, and this is {log_id}: name "
                f"another folder. Nothing was changed"
            )
        for segment in found.segments:
            self._look_at(segment.file)
        self._former = found.files()
        # What goes along is that of before until there is a new one.
        self._segments, self._beside = list(found.segments), list(found.beside)
        self._types, self._recorded = found.types, found.recorded
        if self._segments:
            self._mark = self._segments[-1].after
        return self._mark

    def _look_at(self, file: File) -> None:
        """Refuse to go on behind a file that is gone: nothing could be restored, and all seem well.

        What goes along is written anew each time, so that nobody need miss it.
        """
        size = self._place.size(file.name)
        if size != file.size:
            what = "is not there" if size is None else f"has {size} bytes, not {file.size}"
            raise StoreRefused(
                f"{file.name} of the backup {self.name} {what}: somebody has removed or changed "
                f"it, and no log can be restored of the rest. Put it back, or begin a new backup "
                f"in another folder. Nothing was changed"
            )

    def add(
        self, events: Sequence[StoredEvent], types: Sequence[EventType], before: Mark, after: Mark
    ) -> None:
        """Add events; write the segment where it is large enough."""
        assert before == self._mark, "a copy goes on from where it is"
        segment = self._open = self._open or self._begin_segment(events[0].position)
        segment.add_events(events)
        self._count += len(events)
        self._mark, self._recorded, self._types = after, events[-1].recorded, types
        if segment.raw >= _SEGMENT_BYTES or self._count >= self._segment_events:
            self._end_segment()
            self._write_manifest(whole=False)
        self._rest()

    def _begin_segment(self, first: int) -> SegmentWriter:
        last = self._segments[-1] if self._segments and self._place.keeps else None
        count = 0 if last is None else last.after.position - last.first + 1
        if last is None or last.file.size > _SMALL_BYTES or 2 * count > self._segment_events:
            self._count = 0
            return SegmentWriter(self._log_id, "events", first, self._before())
        self._segments.pop()
        segment = SegmentWriter(self._log_id, "events", last.first, self._before())
        data = self._place.read(last.file.name) or b""
        head = (self._log_id, "events", last.first, self._before())
        for frame in frames_of(data, last.file, last.first, head):
            segment.add(frame)
        self._count = count
        return segment

    def _before(self) -> str:
        return self._segments[-1].file.sha256 if self._segments else ""

    def _end_segment(self) -> None:
        segment, self._open = self._open, None
        if segment is None:
            return
        name = f"events-{segment.first:012}-{self._mark.position:012}.seg"
        file = self._write(name, segment.whole())
        self._segments.append(Segment(file, segment.first, self._mark, self._recorded))

    def _write(self, name: str, data: bytes) -> File:
        file = named(name, data)
        self._place.write(name, data)
        if self._place.keeps and named(name, self._place.read(name) or b"") != file:
            raise StoreFailed(
                f"{name} of the backup {self.name} reads otherwise than it was written: look at "
                f"that disk. The backup is as it was before",
                written=False,
            )
        return file

    def _write_manifest(self, *, whole: bool) -> None:
        manifest = Manifest(
            FORM,
            self._log_id,
            self._source,
            self._now(),
            self._mark.position,
            self._mark.checksum,
            self._recorded,
            whole,
            {"release": release(), "python": platform.python_version()},
            self._types,
            tuple(self._segments),
            tuple(self._beside),
        )
        if whole or self._place.keeps:
            data = manifest_bytes(manifest)
            self._place.write(MANIFEST, data)
            self.manifest = manifest

    # -- the rest -----------------------------------------------------------------------------

    def clear_kept(self) -> None:
        """Forget what timers were kept; claims follow from the events."""
        self._waiting = SegmentWriter(self._log_id, "beside", 0, "")
        self.keep_timers(())  # so that none is told from none that were kept

    def keep_claims(self, claims: Sequence[HeldClaim]) -> None:
        """Do nothing: claims follow from the events, up to whichever position is restored."""

    def keep_timers(self, timers: Sequence[WaitingTimer]) -> None:
        """Keep more timers: which of them were cancelled, no event says."""
        assert self._waiting is not None, "`clear_kept` was called"
        self._waiting.add(_pack(("timers", timers)))

    def keep_snapshots(self, snapshots: Iterable[Sequence[Snapshot]]) -> None:
        """Write snapshots, in place of those of before."""
        self._end_segment()
        self._beside = []
        segment, self._waiting = self._waiting or self._new_beside(), None
        for page in snapshots:
            if page:
                segment.add(_pack(("snapshots", list(page))))
            if segment.raw >= _SEGMENT_BYTES:
                self._end_beside(segment)
                segment = self._new_beside()
            self._rest()
        self._open = segment

    def keep_repairs(self, repairs: Sequence[Repaired]) -> None:
        """Write what was repaired in the log."""
        if repairs:
            segment = self._open = self._open or self._new_beside()
            segment.add(_pack(("repairs", repairs)))

    def keep_carried(self, types: Sequence[EventType], carried: Carried | None) -> None:
        """Write what goes along, in place of that of before."""
        segment, self._open = self._open or self._new_beside(), None
        if carried is not None:
            segment.add(_pack(("carried", carried)))
        self._types = types
        self._end_beside(segment)

    def _new_beside(self) -> SegmentWriter:
        return SegmentWriter(self._log_id, "beside", len(self._beside), "")

    def _end_beside(self, segment: SegmentWriter) -> None:
        # A name of its own, so that the manifest of before stays true until there is a new one.
        name = f"beside-{self._mark.position:012}-{self._now():016}-{len(self._beside)}.seg"
        self._beside.append(self._write(name, segment.whole()))

    def written(self) -> LogReader:
        """Raise: what was written is proved as it is written, and read again by a check."""
        raise UsageError("a backup is read by a check of its own")

    def place(self) -> None:
        """Write the manifest, and remove what neither it nor the one of before names.

        Whoever restores or verifies meanwhile reads by the one of before.
        """
        if not self._mark.position:
            raise StoreRefused("the log is empty: there is nothing to back up yet")
        self._write_manifest(whole=True)
        assert self.manifest is not None, "it was written"
        kept = self.manifest.files() | self._former
        for name in self._place.names():
            if name.endswith((".seg", ".partial")) and name not in kept:
                self._place.remove(name)
