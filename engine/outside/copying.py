"""A log copied from one store into another, of the same kind or of another.

Rules: the source is only read, and may be in use: the copy is of one position, and says which. Each
event is compared with its checksum as it is read, and what was written is read again at the end:
its number, its order, all checksums and times must be those that were read from the source, and so
must the claims that are held. Until then no engine takes the target for a log. A copy that was
interrupted or killed goes on when it is made again. Calls block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from operator import attrgetter
from typing import Final, Generic, TypeAlias, TypeVar
from zlib import crc32

import msgspec

from ..errors import Damaged, StoreFailed, StoreRefused
from ..model.stored import EventType, Snapshot, StoredEvent
from ..runtime.ahead import ahead
from ..stores.contract.claims import HeldClaim
from ..stores.contract.copying import Carried, CopySource, CopyTarget, Mark, marked
from ..stores.contract.outside import LogReader
from ..stores.contract.timers import WaitingTimer

__all__ = ["CopyProgress", "Transferred", "transfer", "verify_copy"]

_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_SNAPSHOTS: Final = 500
_CLAIMS: Final = 2_000
_kind_of: Final = attrgetter("name", "event_version")


class CopyProgress(msgspec.Struct, frozen=True):
    """How far a copy is."""

    what: str
    """"copied" or "verified"."""
    position: int
    end: int


class Transferred(msgspec.Struct, frozen=True):
    """What was copied."""

    position: int
    resumed_at: int
    """Where a copy was that had been begun; 0 for a new one."""
    snapshots: int
    carried: Carried | None
    """None where the source has no views beside it."""
    in_use: bool
    """Whether an engine had the source open at the end: what it writes later is not in the copy."""


def transfer(
    source: CopySource,
    target: CopyTarget,
    on_progress: Callable[[CopyProgress], None] = lambda _: None,
    *,
    page_events: int = _PAGE_EVENTS,
    compared: bool = True,
) -> Transferred:
    """Copy a log with its snapshots, and what was decided about its projections.

    Without `compared`, the target itself proves what was written.

    Raises StoreRefused for a target that is not empty, Damaged for an event of the source, or of
    the copy, that is not what was written, and StoreFailed where a store fails.
    """
    with source, target:
        begun = target.begin(source.log.log_id)
        _check_history(source.log, target.name, begun)
        move = _Moving(source, target, on_progress, page_events)
        # What takes long comes first. Then views are read before the end is looked up, so that no
        # sink is ahead of the log.
        mark = move.up_to(begun, source.log.head().position)
        carried = source.carried()
        target.clear_kept()
        claims, timers = _Kept(target.keep_claims), _Kept(target.keep_timers)
        mark = move.up_to(mark, source.moment(claims.keep, timers.keep).position)
        snapshots = _Counted(_snapshots(source, mark.position))
        target.keep_snapshots(snapshots)
        in_use = source.is_in_use()
        target.keep_repairs(source.repairs())
        target.keep_carried(source.log.event_types(), carried)
        if compared:
            verify_copy(target, mark, on_progress, page_events)
            _verify_kept(target, claims, timers)
        target.place()
    return Transferred(mark.position, begun.position, snapshots.count, carried, in_use)


def _check_history(log: LogReader, target: str, begun: Mark) -> None:
    """Raise StoreRefused where the source has another event where the copy ends."""
    if not begun.position:
        return
    page = log.read_feed(begun.position - 1, events_max=1, bytes_max=1)
    if not page or page[0].checksum != begun.checksum:
        raise StoreRefused(
            f"the copy in {target} ends at position {begun.position}, and {log.name} has "
            f"{'another event' if page else 'no event'} there: it went back since the copy was "
            f"begun. Keep the copy, which has what the log lost, and begin another one elsewhere"
        )


class _Moving:
    """Pages on their way: one is read while another is written."""

    def __init__(
        self,
        source: CopySource,
        target: CopyTarget,
        on_progress: Callable[[CopyProgress], None],
        page_events: int,
    ) -> None:
        self._source = source
        self._target = target
        self._on_progress = on_progress
        self._page_events = page_events

    def up_to(self, mark: Mark, end: int) -> Mark:
        """Copy the events behind a mark up to a position; give the mark there."""
        log = self._source.log
        with ahead(_pages(log, mark, end, self._page_events)) as pages:
            for page, types, after in pages:
                self._target.add(page, types, mark, after)
                mark = after
                self._on_progress(CopyProgress("copied", mark.position, end))
        if mark.position < end:
            raise Damaged(mark.position + 1, f"{log.name} has no event there any more")
        return mark


_Page: TypeAlias = tuple[Sequence[StoredEvent], Sequence[EventType], Mark]
"""Events, all types that the log has, and the mark behind them."""


def _pages(log: LogReader, mark: Mark, end: int, page_events: int) -> Generator[_Page]:
    types = log.event_types()
    known = {(kind.name, kind.version) for kind in types}
    while mark.position < end:
        most = min(page_events, end - mark.position)
        page = log.read_feed(mark.position, events_max=most, bytes_max=_PAGE_BYTES)
        if not page:
            return
        if not known.issuperset(map(_kind_of, page)):
            types = log.event_types()
            known = {(kind.name, kind.version) for kind in types}
        mark = marked(mark, page)
        yield page, types, mark


Row = TypeVar("Row")


class _Kept(Generic[Row]):
    """Claims or timers on their way, with a digest of all that have passed."""

    def __init__(self, keep: Callable[[Sequence[Row]], None]) -> None:
        self._keep = keep
        self._encode = msgspec.json.Encoder().encode_lines
        self.count = 0
        self.digest = 0

    def keep(self, rows: Sequence[Row]) -> None:
        """Hand them on."""
        self._keep(rows)
        self.count += len(rows)
        self.digest = crc32(self._encode(rows), self.digest)


class _Counted:
    """Pages of snapshots, counted as they pass."""

    def __init__(self, pages: Iterator[Sequence[Snapshot]]) -> None:
        self._pages = pages
        self.count = 0

    def __iter__(self) -> Iterator[Sequence[Snapshot]]:
        """Give them."""
        for page in self._pages:
            self.count += len(page)
            yield page


def _snapshots(source: CopySource, end: int) -> Generator[Sequence[Snapshot]]:
    """Give the snapshots of what is copied; others are of events that the copy does not have."""
    after = ""
    while page := source.snapshots(after, _SNAPSHOTS):
        yield [snapshot for snapshot in page if snapshot.position <= end]
        after = page[-1].stream


def verify_copy(
    target: CopyTarget,
    wanted: Mark,
    on_progress: Callable[[CopyProgress], None],
    page_events: int,
) -> None:
    """Read what was written; raise Damaged where it is not what was read from the source."""
    found = Mark()
    with target.written() as log:
        end = log.head().position
        with ahead(_pages(log, found, end, page_events)) as pages:
            for _, _, found in pages:
                on_progress(CopyProgress("verified", found.position, wanted.position))
    if found != wanted:
        raise Damaged(
            min(found.position, wanted.position),
            f"the copy in {target.name} has {found.position} events with the digest "
            f"{found.digest:#010x}, and {wanted.position} with {wanted.digest:#010x} were read "
            f"from the source: it is no copy. Remove it, and begin anew",
        )


def _verify_kept(
    target: CopyTarget, wanted_claims: _Kept[HeldClaim], wanted_timers: _Kept[WaitingTimer]
) -> None:
    """Read what was kept beside the events; raise StoreFailed where the source had others."""
    claims = _Kept[HeldClaim](lambda _: None)
    timers = _Kept[WaitingTimer](lambda _: None)
    with target.written() as log:
        after = "", ""
        while page := log.read_claims(after, claims_max=_CLAIMS):
            claims.keep(page)
            after = page[-1].name, page[-1].value
        behind = "", ""
        while waiting := log.read_timers(behind, timers_max=_CLAIMS):
            timers.keep(waiting)
            behind = waiting[-1].key
    pairs = ("claims", claims, wanted_claims), ("timers", timers, wanted_timers)
    for what, found, wanted in pairs:
        if (found.count, found.digest) != (wanted.count, wanted.digest):
            raise StoreFailed(
                f"the copy in {target.name} has {found.count} {what} with the digest "
                f"{found.digest:#010x}, and {wanted.count} with {wanted.digest:#010x} were read "
                f"from the source: it is no log yet. Run this again, which copies the {what} anew",
                written=False,
            )
