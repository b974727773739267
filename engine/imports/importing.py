"""A new log out of a source: first all of it is looked at, then it is written, then read again.

Rules: the source is read twice, and is only read. Nothing is made before every event has been
mapped and found good. The id of the new log follows from what is in it, so an import that was
killed is known again, and continues; another one is refused there. A source or a mapping that gives
something else the second time is noticed, and then there is no log. What was written is read again
and compared. Calls block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import blake2b
from itertools import chain, islice
from typing import Final, TypeVar

import msgspec

from ..errors import InvalidInput, StoreRefused
from ..model.codec import decode_metadata
from ..model.stored import EventType, StoredEvent
from ..outside.copying import CopyProgress, verify_copy
from ..outside.timers import fold_timers
from ..stores.contract.copying import CopyTarget, Mark, marked
from ..stores.contract.timers import TimerKey, WaitingTimer
from .drafts import Drafts
from .events import Source
from .numbering import Numbering

__all__ = ["ImportedLog", "import_log", "looked_at"]

_PAGE_EVENTS: Final = 2_000
_CLAIMS: Final = 1_000

T = TypeVar("T")
Progress = Callable[[CopyProgress], None]


class ImportedLog(msgspec.Struct, frozen=True):
    """What an import made, or would make."""

    log_id: str
    events: int
    streams: int
    passed_over: int
    """Events of the source that became nothing here."""
    digest: int
    """Over the places, times and checksums of all events, in order."""
    resumed_at: int = 0
    due: int = 0
    """Timers that are fired when an engine starts, as their time has come: no event says whether
    the old log had fired or cancelled them."""


class _Seen(msgspec.Struct, frozen=True):
    """A source that was read to its end."""

    log: ImportedLog
    mark: Mark
    types: Sequence[EventType]


def looked_at(source: Source, drafts: Drafts, now: int, on_progress: Progress) -> ImportedLog:
    """Give what an import would make; nothing is written.

    Raises StoreRefused for an event that does not fit, with its place.
    """
    with source:
        return _look(source, drafts, now, on_progress).log


def import_log(
    source: Source,
    drafts: Drafts,
    target: CopyTarget,
    now: int,
    on_progress: Progress = lambda _: None,
    *,
    page_events: int = _PAGE_EVENTS,
) -> ImportedLog:
    """Make a log of a source.

    Raises StoreRefused for an event that does not fit, with its place, and for a target that is
    neither empty nor this import, Damaged where what was written is read otherwise, and StoreFailed
    where a store fails.
    """
    with source:
        seen = _look(source, drafts, now, on_progress)
        with target:
            begun = target.begin(seen.log.log_id)
            timers: dict[TimerKey, WaitingTimer] = {}
            numbering = _write(
                source, drafts, target, seen, begun, now, on_progress, page_events, timers
            )
            target.clear_kept()
            for claims in _pages(numbering.held(), _CLAIMS):
                target.keep_claims(claims)
            for waiting in _pages((timers[key] for key in sorted(timers)), _CLAIMS):
                target.keep_timers(waiting)
            target.keep_snapshots(())
            target.keep_carried(seen.types, None)
            verify_copy(target, seen.mark, on_progress, page_events)
            target.place()
    due = sum(timer.due <= now for timer in timers.values())
    return msgspec.structs.replace(seen.log, resumed_at=begun.position, due=due)


class _Passed:
    """Counts what becomes nothing."""

    def __init__(self) -> None:
        self.count = 0


def _placed(
    source: Source, drafts: Drafts, numbering: Numbering, passed: _Passed
) -> Iterator[StoredEvent]:
    """Give all events in their places."""
    for found in source.events():
        before = numbering.position
        for draft in drafts(found):
            try:
                event = numbering.place(draft)
            except InvalidInput as error:
                raise StoreRefused(f"{source.name}, {found.place}: {error}") from error
            yield event
        passed.count += numbering.position == before


def _look(source: Source, drafts: Drafts, now: int, on_progress: Progress) -> _Seen:
    numbering, passed, mark = Numbering(now), _Passed(), Mark()
    whole = blake2b(digest_size=16)
    for page in _pages(_placed(source, drafts, numbering, passed), _PAGE_EVENTS):
        mark = marked(mark, page)
        numbers = chain.from_iterable((e.checksum, e.recorded, e.behind) for e in page)
        whole.update(array("q", numbers).tobytes())
        on_progress(CopyProgress("checked", mark.position, mark.position))
    if not mark.position:
        raise StoreRefused(
            f"{source.name} gives no event, and {passed.count:,} that become nothing: look at the "
            f"mapping function. Nothing was written"
        )
    log = ImportedLog(
        whole.hexdigest(), mark.position, numbering.streams, passed.count, mark.digest
    )
    return _Seen(log, mark, numbering.types)


def _write(
    source: Source,
    drafts: Drafts,
    target: CopyTarget,
    seen: _Seen,
    begun: Mark,
    now: int,
    on_progress: Progress,
    page_events: int,
    timers: dict[TimerKey, WaitingTimer],
) -> Numbering:
    """Write what is not there yet; give the numbering at the end, and the timers that wait."""
    numbering, mark, end = Numbering(now), Mark(), seen.log.events
    events = _placed(source, drafts, numbering, _Passed())
    for page in _cut(events, begun.position, page_events):
        after = marked(mark, page)
        _fold_timers(timers, page)
        if after.position > end:
            raise _changed(source)
        if after.position > begun.position:
            target.add(page, seen.types, mark, after)
        elif after.position == begun.position and after != begun:
            raise _changed(source)
        mark = after
        on_progress(CopyProgress("written", mark.position, end))
    if mark != seen.mark or numbering.types != seen.types:
        raise _changed(source)
    return numbering


def _fold_timers(timers: dict[TimerKey, WaitingTimer], page: Sequence[StoredEvent]) -> None:
    """Bring the timers from before some events to behind them.

    What was fired names the place of its timer in the old log, which may be another one here: it is
    taken away by its name alone, since a timer that waits twice would be fired again.
    """
    for stored in page:
        if b'"fired"' in stored.metadata:
            fired = decode_metadata(stored).fired
            if fired is not None:
                timers.pop((fired[0], fired[1]), None)
        fold_timers(timers, [stored])


def _cut(events: Iterator[StoredEvent], place: int, most: int) -> Generator[list[StoredEvent]]:
    """Give pages; one of them ends at a place."""
    page: list[StoredEvent] = []
    for event in events:
        page.append(event)
        if len(page) == most or event.position == place:
            yield page
            page = []
    if page:
        yield page


def _pages(items: Iterator[T], most: int) -> Generator[list[T]]:
    while page := list(islice(items, most)):
        yield page


def _changed(source: Source) -> StoreRefused:
    return StoreRefused(
        f"{source.name} gave other events the second time that it was read: stop what writes to "
        f"it, and let the mapping function give the same for the same event. Then remove what was "
        f"begun, and begin anew. There is no log yet"
    )
