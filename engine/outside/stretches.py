"""Stretches of a log: what one says by itself, so that several are looked at side by side.

Rules: each event is compared with its checksum and its place, with the one before in its stream and
with the time before. What also follows from events before the stretch is given along, as numbers
and in order: `verifying` joins it. Keys go as hashes, which are the same in processes with the same
seed. It only reads. Calls block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from operator import le, methodcaller
from typing import Final, Protocol

import msgspec

from ..errors import ArchiveUnread, Damaged, EngineError, StoreFailed
from ..model.codec import UNDECODABLE
from ..model.stored import StoredEvent
from ..stores.contract.archiving import TellsArchives
from ..stores.contract.outside import LogReader
from ..stores.contract.tags import TagForm
from ..stores.contract.verifying import Finding, ProvedPage, ProvesPages, Structure, Wrong
from .claims import CLAIM_MARKS
from .marked import marked
from .tags import TagSums
from .timers import TIMER_MARKS

__all__ = [
    "STRETCH",
    "Keys",
    "LogInspector",
    "Lost",
    "Met",
    "Shape",
    "SingleInspector",
    "Stretch",
    "look_at",
    "pages",
    "shape_of",
    "stretches",
]

STRETCH: Final = 50_000
"""Positions that are looked at together."""
_PAGE_EVENTS: Final = 5_000
_PAGE_BYTES: Final = 8 * 1024 * 1024
_FAILED_MAX: Final = 1_000
"""Reads in a row that fail since the store cannot be reached, before that is believed."""
_MARKS: Final = (*CLAIM_MARKS, *TIMER_MARKS)


class _Keyed(msgspec.Struct):
    """The key alone out of an event's metadata, which is read in a third of the time."""

    key: str | None = None


_keyed = msgspec.json.Decoder(_Keyed).decode
_PLAIN: Final = b'{"key":"'
"""Before a key where an engine writes it; as it is in JSON, it is found in a tenth of that time."""
_is_plain = methodcaller("startswith", _PLAIN)


class Lost(msgspec.Struct, array_like=True):
    """Events in a row that could not be read, all for one reason."""

    first: int
    last: int
    wrong: Wrong
    what: str


class Met(msgspec.Struct, array_like=True):
    """A stream in a stretch."""

    stream: str
    first: int
    """Its first version there."""
    position: int
    """Of that one."""
    last: int


class Keys(msgspec.Struct, array_like=True, frozen=True):
    """The keys of a stretch, in order: columns of numbers of 64 bits, as they lie in memory."""

    hashes: bytes = b""
    """Of stream and key."""
    positions: bytes = b""
    versions: bytes = b""
    met: bytes = b""
    """The places of their streams in `Stretch.met`."""


class Stretch(msgspec.Struct):
    """What was looked at, and what is left for whoever knows what was before."""

    last: int
    """The position up to which it goes."""
    events: int = 0
    """That are sound."""
    begun: int = 0
    """When the first of them was recorded, in µs, …"""
    ended: int = 0
    """… and the last one."""
    lost: list[Lost] = []
    findings: list[Finding] = []
    met: list[Met] = []
    keys: Keys = Keys()
    carried: list[StoredEvent] = []
    """Events that may say something of claims or timers."""
    tags: dict[int, int] = {}
    """Sums of rows of tags."""
    tag_rows: int = 0


class Shape(msgspec.Struct):
    """What the structure of a store is like."""

    findings: list[Finding] = []
    unlooked: list[str] = []
    proves_indexes: bool = False


class LogInspector(Protocol):
    """Who looks at a log."""

    def stretches(self, end: int, forms: Sequence[TagForm]) -> Iterator[Stretch]:
        """Give all stretches up to a position, in order."""
        ...

    def shape(self) -> Shape:
        """Give what its structure is like; called once, behind all stretches."""
        ...


class SingleInspector:
    """Nobody but the thread that asks."""

    def __init__(
        self, log: LogReader, structure: Structure | None, rest: Callable[[], None]
    ) -> None:
        """Take what is looked at; `rest` is called often."""
        self._log = log
        self._structure = structure
        self._rest = rest

    def stretches(self, end: int, forms: Sequence[TagForm]) -> Iterator[Stretch]:
        """Look at the events."""
        return stretches(self._log, 0, end, forms, self._rest)

    def shape(self) -> Shape:
        """Look at the structure."""
        return Shape() if self._structure is None else shape_of(self._structure, self._rest)


def shape_of(structure: Structure, rest: Callable[[], None]) -> Shape:
    """Look at a structure; give what is found."""
    shape = Shape()
    structure.whole(shape.findings.append, rest)
    shape.unlooked = list(structure.unlooked())
    shape.proves_indexes = structure.proves_indexes()
    return shape


def stretches(
    log: LogReader, after: int, end: int, forms: Sequence[TagForm], rest: Callable[[], None]
) -> Iterator[Stretch]:
    """Give all stretches of a log between two positions, in order."""
    for begin in range(after, end, STRETCH):
        yield look_at(log, begin, min(begin + STRETCH, end), forms, rest)


def look_at(
    log: LogReader, after: int, end: int, forms: Sequence[TagForm], rest: Callable[[], None]
) -> Stretch:
    """Look at the events between two positions; `rest` is called between pages.

    Raises StoreFailed where nothing can be read any more.
    """
    looking = _Looking(end, forms)
    for page in _proved_pages(log, after, end, looking.lose):
        looking.see(page)
        rest()
    return looking.done()


class _Looking:
    """One stretch at work."""

    def __init__(self, end: int, forms: Sequence[TagForm]) -> None:
        self._given = Stretch(end)
        self._places: dict[str, int] = {}
        """Of the streams in what is given."""
        self._keys = [array("q") for _ in Keys.__struct_fields__]
        self._tags = TagSums(forms)
        self._lost = 0

    def done(self) -> Stretch:
        """Give what was seen."""
        given = self._given
        given.keys = Keys(*[column.tobytes() for column in self._keys])
        given.tags, given.tag_rows = self._tags.sums, self._tags.rows
        return given

    def lose(self, position: int, error: EngineError) -> None:
        """Note an event that cannot be read."""
        self._lost += 1
        what = error.what if isinstance(error, Damaged) else str(error)
        wrong: Wrong = "missing" if "missing" in what else "event"
        if isinstance(error, ArchiveUnread):
            wrong = "archive"
        lost = self._given.lost
        if lost and (lost[-1].last, lost[-1].what) == (position - 1, what):
            lost[-1].last = position
        else:
            lost.append(Lost(position, position, wrong, what))

    def see(self, page: ProvedPage) -> None:
        """Look at a page behind those before."""
        given, recorded = self._given, page.recorded
        if not given.events:
            given.begun = recorded[0]
        elif recorded[0] < given.ended:
            self._tell_time(page, 0)
        if not all(map(le, recorded, recorded[1:])):
            for place in range(1, len(recorded)):
                if recorded[place] < recorded[place - 1]:
                    self._tell_time(page, place)
        given.ended = recorded[-1]
        given.events += len(recorded)
        self._see_keys(page, self._see_versions(page))
        if b"[" in b" ".join(page.metadata):  # as in all that has one of the marks
            given.carried += marked(page.events(), _MARKS)
        if self._tags:
            self._tags.see(page.events())

    def _see_versions(self, page: ProvedPage) -> Sequence[int]:
        """Compare versions; give the place of each event's stream."""
        places, met, position = self._places, self._given.met, page.after
        given: list[int] = []
        for stream, version in zip(page.streams, page.versions, strict=True):
            position += 1
            place = places.get(stream)
            if place is None:
                place = places[stream] = len(met)
                met.append(Met(stream, version, position, version))
            else:
                known = met[place]
                if version != known.last + 1:
                    self._tell_gap(stream, known.last, version, position)
                known.last = version
            given.append(place)
        return given

    def _tell_gap(self, stream: str, before: int, version: int, position: int) -> None:
        if not 0 < version - before - 1 <= self._lost:  # else it is told by what was lost
            text = f"{stream} goes from version {before} to {version}"
            self._tell("version", text, position, stream)

    def _see_keys(self, page: ProvedPage, places: Sequence[int]) -> None:
        hashes, positions, versions, met = self._keys
        streams, first = page.streams, page.after + 1
        found = _plain_keys(page.metadata)
        if found is not None:
            hashes.extend(map(hash, zip(streams, found, strict=True)))
            positions.extend(range(first, first + len(found)))
            versions.extend(page.versions)
            met.extend(places)
            return
        for place, metadata in enumerate(page.metadata):
            key = self._odd_key(page, place) if b'"key"' in metadata else None
            if key is not None:
                hashes.append(hash((streams[place], key)))
                positions.append(first + place)
                versions.append(page.versions[place])
                met.append(places[place])

    def _odd_key(self, page: ProvedPage, place: int) -> bytes | None:
        metadata, stream = page.metadata[place], page.streams[place]
        plain = _plain_keys([metadata])
        if plain is not None:
            return plain[0]
        try:
            key = _keyed(metadata).key
        except UNDECODABLE:
            text = f"the metadata of {stream} version {page.versions[place]} cannot be read"
            self._tell("event", text, page.after + 1 + place, stream)
            return None
        return None if key is None else key.encode()

    def _tell_time(self, page: ProvedPage, place: int) -> None:
        stream, version = page.streams[place], page.versions[place]
        text = f"{stream} version {version} was recorded before the event before it"
        self._tell("time", text, page.after + 1 + place, stream)

    def _tell(self, wrong: Wrong, text: str, position: int, name: str) -> None:
        self._given.findings.append(Finding(wrong, text, position, name))


def _plain_keys(metadata: Sequence[bytes]) -> list[bytes] | None:
    """Give the keys where each event has one that stands as it is; else None."""
    if not all(map(_is_plain, metadata)):
        return None
    begin = len(_PLAIN)
    try:
        keys = [one[begin : one.index(b'"', begin)] for one in metadata]
    except ValueError:  # that is no JSON
        return None
    return None if b"\\" in b"".join(keys) else keys


def _proved_pages(
    log: LogReader, after: int, end: int, lost: Callable[[int, EngineError], None]
) -> Generator[ProvedPage]:
    """Give the events up to a position in columns; what is odd is read event by event."""
    prove = log.proved if isinstance(log, ProvesPages) else None
    while after < end:
        most = min(_PAGE_EVENTS, end - after)
        page = prove and prove(after, events_max=most, bytes_max=_PAGE_BYTES)
        if page:
            yield page
            after += len(page.streams)
            continue
        for events in pages(log, after, after + most, lost):
            yield _columns(events)
        after += most


def _columns(events: Sequence[StoredEvent]) -> ProvedPage:
    return ProvedPage(
        events[0].position - 1,
        [event.stream for event in events],
        [event.version for event in events],
        [event.recorded for event in events],
        [event.metadata for event in events],
        lambda: events,
    )


def pages(
    log: LogReader, after: int, end: int, lost: Callable[[int, EngineError], None]
) -> Generator[Sequence[StoredEvent]]:
    """Give the events up to a position; `lost` is told of each that cannot be read.

    Raises StoreFailed where nothing can be read any more.
    """
    most, failed = _PAGE_EVENTS, 0
    while after < end:
        error: EngineError
        try:
            page = log.read_feed(after, events_max=min(most, end - after), bytes_max=_PAGE_BYTES)
            error = Damaged(after + 1, "it is missing, though the log ends behind it")
        except Damaged as damaged:
            page, error = (), damaged
        except StoreFailed as unread:
            failed += 1
            if unread.passes and failed > _FAILED_MAX:
                raise
            if most > 1:
                most //= 2  # which event is it?
                continue
            page, error = (), unread
        if page:
            most, failed = min(4 * most, _PAGE_EVENTS), 0
            yield page
            after = page[-1].position
        elif isinstance(error, ArchiveUnread) and error.whole and isinstance(log, TellsArchives):
            kept = log.kept_after(after)
            last = end if kept is None else min(end, kept - 1)
            for position in range(after + 1, last + 1):
                lost(position, error)  # one by one they would be asked for in vain
            after, most = last, 1
        else:
            after += 1
            lost(after, error)
            most = 1  # what stands beside it may be lost too: from there on in growing steps
