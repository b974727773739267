"""Looking back: an aggregate's events, its state at any version or time, and what changed between.

Rules: only what is committed is seen, and everything is read from the log: a state given here is a
fresh fold that shares nothing with the actor's. What is asked for is authorized first, as "history"
of the stream. Memory is bounded by one page and one state, and the event loop gets its turn while
long streams are folded. A damaged event stops whoever needs it, after everything before it, and is
never skipped. Nothing here writes, or brings an aggregate into memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from ..authorization import Gate
from ..errors import Damaged, InvalidInput, StreamUnreadable, UsageError
from ..limits import Limits
from ..model.aggregate import Aggregate, AggregateDefinition
from ..model.boundary import tags_by
from ..model.codec import EventRegistry, decode_meta
from ..model.difference import Change, difference
from ..model.for_pydantic import core_schema, json_schema
from ..model.given import WHOLE_MAX, made_twice, named, shown
from ..model.ids import as_id, check_id
from ..model.messages import Event, Meta
from ..model.stored import EventType, StoredEvent
from ..runtime.ports import Workers
from ..runtime.safely import as_error
from ..stores.contract.log import StreamPage, StreamRead
from ..stores.contract.tags import TagForm, TagPage, TagRead

__all__ = [
    "Histories",
    "History",
    "HistoryPage",
    "LoggedEvent",
    "StreamSource",
    "logged",
    "microseconds",
]

A = TypeVar("A", bound=Aggregate)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FOLD_SLICE = 250
"""Events decoded or folded before the event loop gets its turn."""


class LoggedEvent(msgspec.Struct, frozen=True):
    """An event as the log has it."""

    event: Event | None
    """As it is today, decoded for this reader alone; None where its type is retired."""
    meta: Meta
    """Where it stands, when it was written, and what travelled with its command."""
    name: str
    """Its stored name."""
    event_version: int
    """The version under which it is stored."""

    __get_pydantic_core_schema__ = classmethod(core_schema)
    __get_pydantic_json_schema__ = classmethod(json_schema)


class HistoryPage(msgspec.Struct, frozen=True):
    """Events of one stream, in order."""

    stream: str
    """`kind:id` of the aggregate."""
    events: tuple[LoggedEvent, ...]
    """In order of version."""
    more: bool
    """Whether the stream continues: ask again with `after=page.events[-1].meta.version`."""


class StreamSource(Protocol):
    """What streams are read from: a store, or a file that another process writes."""

    async def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read as `Store.read_streams` does."""
        ...


@runtime_checkable
class TagSource(Protocol):
    """What is also read by tags: a store."""

    async def read_tagged(
        self, reads: Sequence[TagRead], *, events_max: int, bytes_max: int
    ) -> Sequence[TagPage]:
        """Read as `Store.read_tagged` does."""
        ...


@runtime_checkable
class SharedTags(TagSource, Protocol):
    """What is read by tags that another process, and perhaps another release, has indexed."""

    async def tag_forms(self) -> Sequence[TagForm]:
        """Give the forms by which the index was made."""
        ...

    async def event_types(self) -> Sequence[EventType]:
        """Give the types that the log has stored."""
        ...


def logged(registry: EventRegistry, stored: StoredEvent) -> LoggedEvent:
    """Decode a stored event for a reader; raise Damaged where that cannot be done."""
    return LoggedEvent(
        registry.decode(stored), decode_meta(stored), stored.name, stored.event_version
    )


class Histories:
    """Reads the histories of the aggregates of one engine."""

    def __init__(
        self,
        source: StreamSource,
        definitions: Sequence[AggregateDefinition],
        registry: EventRegistry,
        limits: Limits,
        *,
        workers: Workers,
        check_usable: Callable[[], object],
        gate: Gate | None = None,
    ) -> None:
        self._source = source
        self._workers = workers
        self._definitions: Mapping[type, AggregateDefinition] = {d.cls: d for d in definitions}
        self.registry = registry
        self.limits = limits
        self.check_usable = check_usable
        self.gate = gate

    # -- what is asked for ------------------------------------------------------------------

    def history(
        self,
        aggregate: type[Aggregate],
        aggregate_id: str,
        after: int,
        limit: int,
        principal: str | None,
    ) -> History:
        """Give the history of an aggregate, which reads when it is awaited or iterated."""
        stream = self._stream(aggregate, aggregate_id)
        _check_version("after", after)
        if type(limit) is not int or limit < 1:
            raise InvalidInput(f"limit is a number of events from 1 on, not {shown(limit)}")
        return History(self, stream, after, min(limit, self.limits.page_events), principal)

    async def state(
        self,
        aggregate: type[A],
        aggregate_id: str,
        version: int | None,
        at: datetime | int | None,
        principal: str | None,
    ) -> A:
        """Fold an aggregate up to a version, a time, or its last durable event."""
        stream = self._stream(aggregate, aggregate_id)
        if version is not None and at is not None:
            raise UsageError("a state is asked for by version= or by at=, not by both")
        if version is not None:
            _check_version("version", version)
        until = None if at is None else microseconds(at)
        await self.allow(principal, stream)
        return await self._folded(aggregate, stream, version, until)

    async def fold(self, aggregate: type[A], aggregate_id: str) -> A:
        """Fold an aggregate up to its last durable event, for the engine: nobody is asked."""
        return await self._folded(aggregate, self._stream(aggregate, aggregate_id), None, None)

    async def _folded(
        self, aggregate: type[A], stream: str, version: int | None, until: int | None
    ) -> A:
        if self._definitions[aggregate].tags:
            return await self._fold_tagged(aggregate, stream, version, until)
        return await self._fold(aggregate, stream, version, until)

    async def difference(
        self,
        aggregate: type[Aggregate],
        aggregate_id: str,
        before: int,
        after: int,
        principal: str | None,
    ) -> tuple[Change, ...]:
        """Give what changed between two versions; the version itself is not among it."""
        stream = self._stream(aggregate, aggregate_id)
        _check_version("before", before)
        _check_version("after", after)
        await self.allow(principal, stream)
        if self._definitions[aggregate].tags:
            raise UsageError(f"{stream} is a boundary: compare two of its states yourself")
        # Folded one by one: appliers change a state in place, and a copy of any state is not to
        # be had.
        first = await self._fold(aggregate, stream, before, None)
        second = await self._fold(aggregate, stream, after, None)
        # Beside the loop, since it takes as long as the states are large. Nobody else has them.
        worker = self._workers.start("foldline-difference")
        try:
            changes = await worker.run(difference, first, second)
        finally:
            await worker.close()
        return tuple(change for change in changes if change.path != ("version",))

    def _stream(self, aggregate: type[Aggregate], aggregate_id: object) -> str:
        self.check_usable()
        cls = cast("object", aggregate)
        definition = self._definitions.get(cls) if isinstance(cls, type) else None
        if definition is None:
            name = getattr(aggregate, "__name__", type(aggregate).__name__)
            raise UsageError(
                f"{name} is no aggregate of this engine: pass the class, and pass it to "
                f"Engine([...]) too. Nothing was read."
                + (made_twice(cls, self._definitions) if isinstance(cls, type) else "")
            )
        own_id = as_id(aggregate_id)
        check_id(own_id)
        return definition.kind + ":" + own_id

    async def allow(self, principal: str | None, stream: str) -> None:
        """Return if the principal may see the history of a stream; raise Forbidden otherwise."""
        if self.gate is not None:
            await self.gate.check(principal, "history", stream)

    # -- pages ------------------------------------------------------------------------------

    async def page(self, stream: str, after: int, events_max: int) -> HistoryPage:
        """Read and decode one page; it ends before an event that cannot be used.

        Raises Damaged where the first event of the page is that one.
        """
        page = await self._read(stream, after, events_max)
        events: list[LoggedEvent] = []
        for stored in page.events:
            try:
                events.append(logged(self.registry, stored))
            except Damaged:
                if not events:
                    raise
                return HistoryPage(stream, tuple(events), True)
            if len(events) % _FOLD_SLICE == 0:
                await asyncio.sleep(0)
        return HistoryPage(stream, tuple(events), page.more)

    async def _read(self, stream: str, after: int, events_max: int) -> StreamPage:
        """Read one page; where an event in it is damaged, a smaller one that ends before it."""
        while True:
            self.check_usable()
            try:
                pages = await self._source.read_streams(
                    [StreamRead(stream, after)],
                    events_max=events_max,
                    bytes_max=self.limits.page_bytes,
                )
            except Damaged:
                if events_max == 1:
                    raise
                events_max //= 2
                continue
            return pages[0]

    # -- states -----------------------------------------------------------------------------

    async def _fold(
        self, aggregate: type[A], stream: str, version: int | None, until: int | None
    ) -> A:
        state = _begun(aggregate, stream)
        while version is None or state.version < version:
            wanted = self.limits.page_events
            if version is not None:
                wanted = min(wanted, version - state.version)
            page = await self._read(stream, state.version, wanted)
            for stored in page.events:
                # `recorded` never decreases along a log, so the first later event is the end.
                if until is not None and stored.recorded > until:
                    return state
                self._apply(state, stored)
                if state.version % _FOLD_SLICE == 0:
                    await asyncio.sleep(0)
            if not page.more:
                break
        if version is not None and state.version < version:
            raise InvalidInput(
                f"{stream} has version {state.version}, and version {version} was asked for"
            )
        return state

    async def _fold_tagged(
        self, aggregate: type[A], stream: str, version: int | None, until: int | None
    ) -> A:
        """Fold a boundary, whose version is the number of events that it has folded."""
        definition, source = self._definitions[aggregate], self._source
        if not isinstance(source, TagSource):
            raise UsageError(
                f"{stream} is a boundary, whose state is given by the engine that has the log. "
                f"Nothing was read."
            )
        await self._check_index(source, definition, stream)
        state, after = _begun(aggregate, stream), 0
        names = tuple(sorted(self.registry.names_of(definition.appliers)))
        tags = tags_by(definition.tags, state.id)
        most, size = self.limits.page_events, self.limits.page_bytes
        more = True
        while more and (version is None or state.version < version):
            self.check_usable()
            read = TagRead(tags, names, after)
            (page,) = await source.read_tagged([read], events_max=most, bytes_max=size)
            more = page.more
            for stored in page.events:
                if until is not None and until < stored.recorded:
                    return state
                event, after = self.registry.decode(stored), stored.position
                if event is not None and type(event) in definition.appliers:
                    self._fold_one(state, stored, event)
                    state.version += 1
                if state.version == version:
                    return state
            await asyncio.sleep(0)
        if version is not None and version > state.version:
            raise InvalidInput(
                f"{stream} has version {state.version}, and version {version} was asked for"
            )
        return state

    async def _check_index(
        self, source: TagSource, definition: AggregateDefinition, stream: str
    ) -> None:
        """Raise StreamUnreadable where the index is of a release whose events have other tags."""
        if not isinstance(source, SharedTags):
            return
        kept = {(form.name, form.version): form for form in await source.tag_forms()}
        names = self.registry.names_of(definition.appliers)
        forms = (
            TagForm(t.name, t.version, each.fields, each.fixed) for t, each in self.registry.tagged
        )
        other = [f for f in forms if f.name in names and kept.get((f.name, f.version)) != f]
        # Behind the forms: who appends the first event of a type has indexed it before.
        stored = {(t.name, t.version) for t in await source.event_types()} if other else ()
        for kind in other:
            if (kind.name, kind.version) in stored:
                raise StreamUnreadable(
                    f"{stream} cannot be folded here: {kind.name} version {kind.version} is found "
                    f"by other tags in this log than this release declares. Ask again when an "
                    f"engine of this release has the log, or bring all processes to one release"
                )

    def _apply(self, state: Aggregate, stored: StoredEvent) -> None:
        assert stored.version == state.version + 1, "versions of a stream have no holes"
        event = self.registry.decode(stored)
        if event is not None:
            self._fold_one(state, stored, event)
        state.version = stored.version

    def _fold_one(self, state: Aggregate, stored: StoredEvent, event: Event) -> None:
        definition = self._definitions[type(state)]
        apply = definition.appliers.get(type(event))
        what = f"{stored.name} version {stored.event_version} at position {stored.position}"
        if apply is None:
            raise StreamUnreadable(
                f"{what} is in {stored.stream}, and nothing in {definition.cls.__name__} applies it"
            )
        try:
            apply(state, event)
        except BaseException as error:  # of the host's code, whatever it is: a Rejected too
            raise StreamUnreadable(
                f"{apply.__qualname__} failed on {what} of {stored.stream} with "
                f"{type(error).__name__}"
            ) from as_error(error)


class History:
    """The events of one aggregate after a version: await it for a page, iterate it for all.

    A page has at most `limit` events (fewer where they are large), and `more` if the stream
    continues. Iterating reads page by page and ends at the end of the stream as the last page found
    it. Either may be done again, and reads again.
    """

    def __init__(
        self, past: Histories, stream: str, after: int, limit: int, principal: str | None
    ) -> None:
        self._past = past
        self._stream = stream
        self._after = after
        self._limit = limit
        self._principal = principal

    def __await__(self) -> Generator[Any, Any, HistoryPage]:
        """Read one page."""
        return self._page().__await__()

    async def _page(self) -> HistoryPage:
        await self._past.allow(self._principal, self._stream)
        return await self._past.page(self._stream, self._after, self._limit)

    async def __aiter__(self) -> AsyncGenerator[LoggedEvent, None]:
        """Read all events, page by page."""
        await self._past.allow(self._principal, self._stream)
        after, more = self._after, True
        while more:
            page = await self._past.page(self._stream, after, self._limit)
            for event in page.events:
                yield event
            more = page.more
            after += len(page.events)


def _begun(aggregate: type[A], stream: str) -> A:
    """Make an aggregate without events; raise StreamUnreadable where its class cannot."""
    try:
        return aggregate(id=stream.partition(":")[2])
    except BaseException as error:
        raise StreamUnreadable(
            f"{aggregate.__qualname__}(id=...) failed with {type(error).__name__}: an aggregate "
            f"begins empty. Mend its defaults, or its __post_init__."
        ) from as_error(error)


def _check_version(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= WHOLE_MAX:
        raise InvalidInput(f"{name} is a version, a whole number from 0 on, not {shown(value)}")


def microseconds(at: object) -> int:
    """Give µs since 1970-01-01 UTC; raise InvalidInput for what is no moment."""
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise InvalidInput(
                f"at={at.isoformat()} has no time zone: say which moment is meant, for instance "
                f"with datetime(..., tzinfo=UTC)"
            )
        return (at - _EPOCH) // timedelta(microseconds=1)
    if type(at) is not int:
        raise InvalidInput(f"at is an aware datetime or µs since 1970-01-01 UTC, not {named(at)}")
    return at
