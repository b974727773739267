"""A log that is verified: every event, and whatever else must follow from the events.

Rules: stretches of events are looked at, by this thread or by other processes, and joined here in
order: versions and times with those before, keys with all that are remembered. Claims are folded
and compared with their table, snapshots with their events, and the end of each stream with what its
index finds, where the index was not proved as a whole. What is damaged is told and passed over, so
that one run names all of it. It only reads, beside an engine or not, page by page; what is written
meanwhile is not looked at. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from ..errors import Damaged, EngineError, StoreFailed
from ..limits import KEY_WINDOW
from ..model.stored import Snapshot, StoredEvent
from ..stores.contract.claims import ClaimKey, HeldClaim
from ..stores.contract.copying import CopySource
from ..stores.contract.log import StreamRead
from ..stores.contract.timers import FOREVER, TimerKey, WaitingTimer
from ..stores.contract.verifying import Finding, Report, Structure, Wrong
from ..write.snapshot import is_sound
from .claims import fold_claims
from .stretches import LogInspector, Lost, Met, SingleInspector, Stretch, pages, stretches
from .tags import TagCheck
from .timers import fold_timers, timer_differences

__all__ = ["FINDINGS_MAX", "Verified", "verify_log"]

FINDINGS_MAX: Final = 1_000
"""That are told; the rest is counted."""
_PAGE_BYTES: Final = 8 * 1024 * 1024
_ROWS: Final = 1_000
_STREAMS_MAX: Final = 5_000_000
_KEYS_MAX: Final = 5_000_000
"""Streams, and keys, that are remembered at a time."""


class Verified(msgspec.Struct):
    """What was looked at, and what is wrong."""

    position: int = 0
    """Up to which it was verified."""
    events: int = 0
    """That are sound."""
    streams: int = 0
    claims: int = 0
    timers: int = 0
    tags: int = 0
    snapshots: int = 0
    findings: int = 0
    unlooked: list[str] = []
    """What could not be looked at, or was not, and why."""


class Lane(Protocol):
    """How a run is watched and held back."""

    def progress(self, position: int, end: int) -> None:
        """Show how far it is."""
        ...

    def rest(self) -> None:
        """Rest between two pieces of work."""
        ...


def verify_log(
    source: CopySource,
    structure: Structure | None,
    report: Report,
    lane: Lane,
    *,
    window: Callable[[str], int | None] = lambda _: None,
    now: int = FOREVER,
    inspector: LogInspector | None = None,
) -> Verified:
    """Verify a log, and give what was looked at; each finding goes to `report`.

    `structure` is None for a backup, which has none. `window` gives the key window of a kind, and
    None where that is not known: then a key that comes again is counted, and not called wrong.
    Timers that are due behind `now`, in µs, must be there. `inspector` looks at the events and at
    the structure, in this thread alone without one. Raises StoreFailed where the store cannot be
    reached at all.
    """
    done = Verified()
    told = _Told(report, done)
    if structure is not None and not structure.before(told.report):
        done.unlooked.append("the events, since the log cannot be opened")
        structure.whole(told.report, lane.rest)
        return done
    with source:
        inspector = inspector or SingleInspector(source.log, structure, lane.rest)
        _Verifying(source, told, lane, window, now, inspector, by_index=structure is not None).run()
    return done


class _Told:
    """Counts findings, and passes the first ones on."""

    def __init__(self, report: Report, done: Verified) -> None:
        self._report = report
        self.done = done

    def report(self, finding: Finding) -> None:
        self.done.findings += 1
        if self.done.findings <= FINDINGS_MAX:
            self._report(finding)

    def say(
        self, wrong: Wrong, text: str, position: int | None = None, name: str | None = None
    ) -> None:
        self.report(Finding(wrong, text, position, name))


class _Verifying:
    """One walk over a log."""

    def __init__(
        self,
        source: CopySource,
        told: _Told,
        lane: Lane,
        window: Callable[[str], int | None],
        now: int,
        inspector: LogInspector,
        *,
        by_index: bool,
    ) -> None:
        self._source = source
        self._log = source.log
        self._told = told
        self._lane = lane
        self._window = window
        self._now = now
        self._inspector = inspector
        self._by_index = by_index
        self._versions: dict[str, int] = {}
        self._keys: dict[int, int] = {}
        """The version at which each was met last, by a hash of stream and key."""
        self._claims: dict[ClaimKey, HeldClaim] = {}
        self._timers: dict[TimerKey, WaitingTimer] = {}
        self._tags: TagCheck | None = None
        """None where its forms cannot be read."""
        self._lost: set[int] = set()
        """Positions of events that could not be read."""
        self._again: list[int] = []
        """Positions of keys that come again, where nobody knows whether they may."""
        self._recorded = 0
        self._told_last = ""

    def run(self) -> None:
        """Walk over everything."""
        done = self._told.done
        done.position = end = self._log.head().position
        self._begin_tags()
        self._walk(end)
        done.streams = len(self._versions)
        self._tell_again()
        shape = self._inspector.shape()
        for finding in shape.findings:
            self._told.report(finding)
        if self._by_index and not shape.proves_indexes:
            self._compare_ends()
        self._compare_snapshots()
        self._compare_tags(end)
        # Last, and together with what was written meanwhile: the table is of one moment.
        self._compare_claims(end)
        done.unlooked += shape.unlooked

    # -- events -------------------------------------------------------------------------------

    def _walk(self, end: int) -> None:
        forms = () if self._tags is None else self._tags.forms
        for stretch in self._inspector.stretches(end, forms):
            for lost in stretch.lost:
                self._are_lost(lost)
            if stretch.events:
                self._join(stretch)
            self._told.done.events += stretch.events
            self._lane.progress(stretch.last, end)

    def _are_lost(self, lost: Lost) -> None:
        self._lost.update(range(lost.first, lost.last + 1))
        is_of_a_file = not self._by_index or lost.wrong == "archive"
        for position in range(lost.first, lost.last + 1):
            if is_of_a_file and lost.what == self._told_last:
                return  # of the same one, which a backup or a log has beside
            self._told_last = lost.what
            text = f"the event at position {position}: {lost.what}"
            self._told.say(lost.wrong, text, position)

    def _join(self, stretch: Stretch) -> None:
        """Join a stretch to those before."""
        for finding in stretch.findings:
            self._told.report(finding)
        if stretch.begun < self._recorded:
            met = stretch.met[0]
            text = f"{met.stream} version {met.first} was recorded before the event before it"
            self._told.say("time", text, met.position, met.stream)
        self._recorded = stretch.ended
        versions = self._versions
        for met in stretch.met:
            before = versions.get(met.stream, 0)
            if met.first != before + 1:
                self._odd_version(met, before)
            versions[met.stream] = met.last
        self._join_keys(stretch)
        self._fold(stretch.carried)
        if self._tags is not None:
            self._tags.see(stretch.tags, stretch.tag_rows)
        if len(versions) > _STREAMS_MAX:
            versions.clear()  # a stream then goes on from wherever it is
            self._told.done.unlooked.append(
                f"versions across position {stretch.last}: there are too many streams"
            )

    def _odd_version(self, met: Met, before: int) -> None:
        gap = met.first - before - 1
        forgotten = not before and bool(self._told.done.unlooked)
        if forgotten or 0 < gap <= len(self._lost):
            return  # told already, by the positions that could not be read
        text = f"{met.stream} goes from version {before} to {met.first}"
        self._told.say("version", text, met.position, met.stream)

    def _join_keys(self, stretch: Stretch) -> None:
        keys, known = stretch.keys, self._keys
        hashes, versions = (memoryview(each).cast("q") for each in (keys.hashes, keys.versions))
        fresh = len(set(hashes)) == len(hashes) and known.keys().isdisjoint(hashes)
        if fresh:
            known.update(zip(hashes, versions, strict=True))
        else:
            positions, met = (memoryview(each).cast("q") for each in (keys.positions, keys.met))
            for hashed, version, position, place in zip(
                hashes, versions, positions, met, strict=True
            ):
                before = known.get(hashed)
                if before is not None:
                    stream = stretch.met[place].stream
                    self._look_at_known(stream, version, position, before)
                known[hashed] = version
        for _ in range(len(known) - _KEYS_MAX):
            del known[next(iter(known))]

    def _look_at_known(self, stream: str, version: int, position: int, known: int) -> None:
        """Look whether a key may come again, which that of version `known` had."""
        window = self._window(stream.partition(":")[0])
        if known <= version - (window or KEY_WINDOW):
            return
        if window is None:
            self._again.append(position)
            return
        text = (
            f"{stream} has the key of version {known} again at {version}, within "
            f"the key window: the command was run twice"
        )
        self._told.say("key", text, position, stream)

    def _tell_again(self) -> None:
        if self._again:
            self._told.done.unlooked.append(
                f"{len(self._again):,} keys that come again in a stream, the first at position "
                f"{self._again[0]}: for how long a kind knows its keys, only the code says (--app)"
            )

    def _fold(self, page: Sequence[StoredEvent]) -> None:
        try:
            fold_claims(self._claims, page)
            fold_timers(self._timers, page)
        except Damaged as error:
            self._told.say("claim", str(error), error.position)

    # -- what follows from them ---------------------------------------------------------------

    def _compare_ends(self) -> None:
        """Ask the index for the last event of each stream."""
        for begin in range(0, len(streams := list(self._versions)), _ROWS):
            some = streams[begin : begin + _ROWS]
            self._lane.rest()
            try:
                self._compare_some(some)
            except EngineError:
                for stream in some:
                    self._compare_one(stream)

    def _compare_one(self, stream: str) -> None:
        try:
            self._compare_some([stream])
        except Damaged as error:
            if error.position not in self._lost:
                self._told.say("index", f"{stream}: {error.what}", error.position, stream)
        except StoreFailed as error:
            self._told.say("index", f"{stream}: {error}", None, stream)

    def _compare_some(self, streams: Sequence[str]) -> None:
        reads = [StreamRead(stream, self._versions[stream] - 1) for stream in streams]
        pages = self._log.read_streams(reads, events_max=4 * _ROWS, bytes_max=_PAGE_BYTES)
        for page, read in zip(pages, reads, strict=True):
            if not page.events and not page.more:
                text = f"its index does not find version {read.after + 1} of {page.stream}"
                self._told.say("index", text, None, page.stream)

    def _compare_snapshots(self) -> None:
        for page in self._snapshot_pages():
            self._lane.rest()
            for snapshot in page:
                self._told.done.snapshots += 1
                if snapshot.position not in self._lost:
                    self._compare_snapshot(snapshot)

    def _snapshot_pages(self) -> Iterator[Sequence[Snapshot]]:
        after = ""
        try:
            while page := self._source.snapshots(after, _ROWS):
                yield page
                after = page[-1].stream
        except (EngineError, ValueError, TypeError) as error:
            self._told.say("snapshot", f"the snapshots behind {after!a} cannot be read: {error}")

    def _compare_snapshot(self, snapshot: Snapshot) -> None:
        why = self._misfit(snapshot)
        if why:
            text = f"the snapshot of {snapshot.stream} is not used, and may be removed: {why}"
            self._told.say("snapshot", text, snapshot.position, snapshot.stream)

    def _misfit(self, snapshot: Snapshot) -> str:
        try:
            if not is_sound(snapshot):
                return "its bytes are damaged"
            if snapshot.position < 1:
                return "it has no position"
            found = self._log.read_feed(snapshot.position - 1, events_max=1, bytes_max=1)
        except (EngineError, TypeError, OverflowError) as error:
            return f"its event cannot be read ({error})"
        if not found:
            return "its event is not in the log"
        (event,) = found
        there = (event.stream, event.version, event.checksum)
        said = (snapshot.stream, snapshot.version, snapshot.checksum)
        return "" if there == said else "it belongs to another event than the log has there"

    def _begin_tags(self) -> None:
        try:
            self._tags = TagCheck(self._log)
        except (EngineError, ValueError, TypeError) as error:
            self._told.say("tag", f"the index of tags cannot be read: {error}")

    def _compare_tags(self, end: int) -> None:
        if self._tags is None:
            return
        self._told.done.tags = self._tags.rows

        def again(after: int, end: int) -> Iterator[Sequence[StoredEvent]]:
            return pages(self._log, after, end, lambda _position, _error: None)

        try:
            for (tag, position, _, _), is_in_log in self._tags.differences(again, end, self._lost):
                name, verb = tag.partition(":")[0], "does not find" if is_in_log else "finds"
                has = "that it has" if is_in_log else "that it has not"
                text = f"the index of tags {verb} the event at position {position} by a tag {name}"
                self._told.say("tag", f"{text} {has}", position, name)
        except (EngineError, ValueError, TypeError) as error:
            self._told.say("tag", f"the index of tags cannot be compared: {error}")

    def _compare_claims(self, end: int) -> None:
        held: dict[ClaimKey, HeldClaim] = {}
        waiting: dict[TimerKey, WaitingTimer] = {}

        def keep_timers(page: Sequence[WaitingTimer]) -> None:
            waiting.update({timer.key: timer for timer in page})

        def keep(page: Sequence[HeldClaim]) -> None:
            held.update({(claim.name, claim.value): claim for claim in page})

        try:
            head = self._source.moment(keep, keep_timers)
        except (EngineError, ValueError, TypeError) as error:
            text = f"the table of claims, or that of timers, cannot be read: {error}"
            self._told.say("claim", text)
            return
        for stretch in stretches(self._log, end, head.position, (), self._lane.rest):
            for lost in stretch.lost:
                self._are_lost(lost)
            self._fold(stretch.carried)
        self._told.done.claims = len(self._claims)
        self._compare_timers(waiting)
        for key in sorted(self._claims.keys() | held.keys()):
            log, table = self._claims.get(key), held.get(key)
            if log != table and not (self._lost and log is None):
                text = (
                    f"a claim of the name {key[0]} is {_said(log)} by the log, and "
                    f"{_said(table)} by its table"
                )
                self._told.say("claim", text, (log or table or _NOBODY).position, key[0])

    def _compare_timers(self, waiting: dict[TimerKey, WaitingTimer]) -> None:
        self._told.done.timers = len(waiting)
        for key, log, table in timer_differences(self._timers, waiting, self._now):
            if log is None and self._lost:
                continue
            if _waits(log) == _waits(table):
                other = "and its table has another time, command or metadata of it"
            else:
                other = f"and {_waits(table)} by its table"
            text = f"the timer {key[1]} of {key[0]} is {_waits(log)} by the log, {other}"
            position = (log or table or NO_TIMER).position
            self._told.say("timer", text, position, key[1])


NO_TIMER: Final = WaitingTimer("", "", 0, 0, 0, "", b"", b"", 0)


def _waits(timer: WaitingTimer | None) -> str:
    return "not there" if timer is None else f"set at position {timer.position}"


_NOBODY: Final = HeldClaim("", "", "", 0)


def _said(claim: HeldClaim | None) -> str:
    return "held by nobody" if claim is None else f"held by {claim.stream}"
