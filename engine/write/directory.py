"""Where actors are found, how many stay in memory, and how cold ones are loaded.

Rules: looking up an actor and posting to it happen in one step, with no await between; an actor
leaves in the same step that finds it at rest. So no command can be posted to an actor that has
left. Residency is bounded by count: beyond it the actor that was not used for longest leaves
(second chance, after Corbató's CLOCK: approximately least recently used, at no cost per command);
and by time: an actor without a command leaves after `Limits.idle_seconds`.
Cold actors that come up together are loaded with one read of the store, page by page, and the
event loop gets its turn while long streams are folded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from heapq import nlargest
from typing import NoReturn, TypeAlias

from ..errors import Damaged, EngineError, HandlerFailed, Overloaded
from ..histogram import Histogram
from ..limits import Limits
from ..log.read_ahead import AHEAD, ReadAhead
from ..model.ids import as_id, check_id
from ..model.stored import StoredEvent
from ..running import note_new_aggregates
from ..runtime.bell import Bell
from ..runtime.ports import Ports
from ..runtime.safely import as_error, text_of
from ..statistics import DirectoryStatistics
from ..stores.contract.log import Store, StreamPage, StreamRead
from ..telemetry import LoadBegan, Observer
from .actor import Actor
from .boundary import BoundaryActor, select
from .kind import Kind
from .snapshot import Distrusted, Outdated

__all__ = ["Directory"]

_SCAN_MAX = 1_024
"""Actors looked at, at most, to find one that can leave; the next search goes on behind them."""
_ENOUGH = 64
"""Actors looked at, where one of them could leave: all may have been used since the last lap."""
_FOLD_SLICE = 250
"""Events folded before the event loop gets its turn."""
_SAMPLE = 16
"""Actors that are measured to estimate what one holds."""
_IDLE_LOOKS = 2
"""How often an actor is found without a command before it leaves."""

_Ahead: TypeAlias = ReadAhead[StreamRead, StreamPage]


class Directory:
    """The resident actors of one engine, by stream."""

    def __init__(
        self,
        store: Store,
        limits: Limits,
        ports: Ports,
        logger: logging.Logger,
        watch: Observer | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._stopwatch = ports.stopwatch
        self._logger = logger
        self._watch = watch
        # A plain dict walks over all that was taken from its beginning to find its first entry.
        self._actors: OrderedDict[str, Actor] = OrderedDict()
        self._full = False
        """Whether a search of this turn of the loop has found nobody who can leave."""
        self._cold: list[Actor] = []
        self._wake = Bell()
        self.loads = 0
        """Actors loaded since the start."""
        self.passivated = 0
        """Actors that left memory, to make room or because they were idle."""
        self.restored = 0
        """Actors loaded from a snapshot and what came after it."""
        self.distrusted = 0
        """Snapshots that did not fit."""
        self.overloaded = 0
        """Commands that were turned away because nobody could leave."""
        self._load_seconds = Histogram.of_seconds()

    def __len__(self) -> int:
        """Give the number of resident actors."""
        return len(self._actors)

    @property
    def actors(self) -> Sequence[Actor]:
        """The resident actors, as they are now."""
        return tuple(self._actors.values())

    def fullest(self, most: int) -> Sequence[tuple[str, int]]:
        """Give those for which most commands wait, with how many, the fullest first."""
        waiting = ((actor.stream, actor.waiting) for actor in self._actors.values())
        return nlargest(most, (pair for pair in waiting if pair[1]), key=lambda pair: pair[1])

    def find(self, kind: Kind[Actor], aggregate_id: object) -> Actor:
        """Give the actor of an aggregate, a cold one if it was not in memory.

        Raises UsageError for an id that cannot be stored, Overloaded when nobody can leave, and
        HandlerFailed where its class cannot be made.
        """
        if type(aggregate_id) is not str:
            aggregate_id = as_id(aggregate_id)
        stream = kind.definition.kind + ":" + aggregate_id
        actor = self._actors.get(stream)
        if actor is not None:
            return actor
        check_id(aggregate_id)
        if len(self._actors) >= self._limits.resident_aggregates:
            self._make_room()
        try:
            make = BoundaryActor if kind.definition.tags else Actor
            actor = make(kind, stream, aggregate_id)
        except RecursionError:
            raise  # the caller's stack is used up
        except BaseException as error:
            name = kind.definition.cls.__qualname__
            raise HandlerFailed(
                f"{name}(id=...) failed with {type(error).__name__}: an aggregate begins empty. "
                f"Mend its defaults, or its __post_init__. Nothing was run."
            ) from as_error(error)
        self._actors[stream] = actor
        return actor

    def resident(self, stream: str) -> Actor | None:
        """Give the actor of a stream, if it is in memory."""
        return self._actors.get(stream)

    def find_all(self, named: Sequence[tuple[Kind[Actor], object]]) -> list[Actor]:
        """Give the actors of several aggregates, all of them in memory; raises as `find` does."""
        passivated = self.passivated
        actors = [self.find(kind, aggregate_id) for kind, aggregate_id in named]
        if passivated != self.passivated:
            for actor in actors:
                if self._actors.get(actor.stream) is not actor:
                    self._refuse()  # one of them made room for another
        return actors

    def forget(self, actor: Actor) -> None:
        """Take out an actor that has no state to keep."""
        if self._actors.get(actor.stream) is actor:
            del self._actors[actor.stream]

    def drop(self, actors: Sequence[Actor], error: EngineError) -> None:
        """Let actors go that others have from now on, and refuse what waits for them."""
        for actor in actors:
            self.forget(actor)
            actor.refuse_waiting(error)

    def _make_room(self) -> None:
        """Let one actor at rest leave, the first that had no command since the last search."""
        leaver = None if self._full else self._find_leaver()
        if leaver is None:
            self._refuse()
        self.passivated += 1
        del self._actors[leaver.stream]

    def _find_leaver(self) -> Actor | None:
        fallback: Actor | None = None
        for looked in range(min(_SCAN_MAX, len(self._actors))):
            if looked >= _ENOUGH and fallback is not None:
                break
            stream, actor = next(iter(self._actors.items()))
            if actor.at_rest and not actor.used:
                return actor
            if actor.at_rest and fallback is None:
                fallback = actor
            actor.used = False
            self._actors.move_to_end(stream)
        return fallback

    def _refuse(self) -> NoReturn:
        if not self._full:
            # Actors come to rest as the loop goes round: until then every search would end so.
            # Called first: it may raise RecursionError, and nobody would take this back.
            asyncio.get_running_loop().call_soon(self._search_again)
            self._full = True
        self.overloaded += 1
        raise Overloaded(
            f"{len(self._actors)} aggregates are in memory, as many as "
            f"Limits.resident_aggregates allows, and none is at rest. Nothing was run; send "
            f"again after a pause."
        )

    def _search_again(self) -> None:
        self._full = False

    async def sweep(self) -> None:
        """Let idle actors leave, until cancelled."""
        while True:
            await asyncio.sleep(self._limits.idle_seconds / _IDLE_LOOKS)
            for number, actor in enumerate(self.actors):
                self._look_at(actor)
                if number % _SCAN_MAX == _SCAN_MAX - 1:
                    await asyncio.sleep(0)

    def _look_at(self, actor: Actor) -> None:
        if actor.idle < _IDLE_LOOKS:
            actor.idle += 1
        elif actor.at_rest and self._actors.get(actor.stream) is actor:
            self.passivated += 1
            del self._actors[actor.stream]

    def let_go(self, actors: Sequence[Actor]) -> list[Actor]:
        """Let actors leave that are at rest, whatever they are used for; give those that stay."""
        stay: list[Actor] = []
        for actor in actors:
            if self._actors.get(actor.stream) is not actor:
                continue
            if actor.at_rest:
                self.passivated += 1
                del self._actors[actor.stream]
            else:
                stay.append(actor)
        return stay

    def bytes_each(self) -> int:
        """Estimate what one resident aggregate holds: its actor, its state and its keys, in bytes.

        A mean over a few of them, spread over the directory.
        """
        step = max(1, len(self._actors) // _SAMPLE)
        sample = self.actors[::step][:_SAMPLE]
        return sum(actor.footprint() for actor in sample) // len(sample) if sample else 0

    def statistics(self) -> DirectoryStatistics:
        """Give the numbers as they are now; called from any thread."""
        return DirectoryStatistics(
            resident=len(self._actors),
            loaded=self.loads,
            passivated=self.passivated,
            restored=self.restored,
            distrusted=self.distrusted,
            bytes_each=self.bytes_each(),
            load_seconds=self._load_seconds.copy(),
        )

    # -- loading ----------------------------------------------------------------------------

    def load(self, actor: Actor) -> None:
        """Have an actor's stream read, together with the others that come up in this turn.

        Raises RecursionError, with nothing changed, where the caller's stack is used up.
        """
        self._wake.set()
        self._cold.append(actor)

    async def run(self) -> None:
        """Load cold actors until cancelled; run by several, one folds while others read."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._cold:
                actors = self._cold[: self._limits.loads_at_once]
                del self._cold[: self._limits.loads_at_once]
                await self._load_measured(actors)

    async def _load_measured(self, actors: list[Actor]) -> None:
        watch = self._watch
        seen = None if watch is None else watch.begin(LoadBegan(len(actors)))
        begin, before = self._stopwatch(), self.loads
        try:
            await self._load(actors)
        except BaseException as error:
            if watch is not None:
                watch.end(seen, error)
            raise
        seconds = self._stopwatch() - begin
        self._load_seconds.record(seconds)
        note_new_aggregates(len(actors))
        if watch is not None:
            watch.end(seen, loaded=self.loads - before, seconds=seconds)

    async def _load(self, actors: list[Actor]) -> None:
        remaining = [actor for actor in actors if _begun(actor)]
        boundaries: list[BoundaryActor] = []
        await self._restore(remaining)
        with closing(ReadAhead(self._read_page)) as ahead:
            while remaining:
                try:
                    pages = await self._read(remaining, ahead)
                except Exception as error:
                    if len(remaining) == 1 or not isinstance(error, Damaged):
                        for actor in remaining:
                            actor.unreadable(error)
                        return
                    # One damaged stream must not cost the others their answers: each by itself.
                    for actor in remaining:
                        await self._load([actor])
                    return
                remaining = await self._fold(remaining, pages, boundaries)
        await select(self._store, self._limits, boundaries, self._selected)

    def _selected(self, actor: BoundaryActor) -> None:
        self.loads += 1
        actor.loaded(None)

    async def _restore(self, actors: list[Actor]) -> None:
        """Let actors begin at their snapshots, where there are any that fit."""
        wanted = {actor.stream: actor for actor in actors if actor.kind.freezer is not None}
        if not wanted:
            return
        try:
            snapshots = await self._store.read_snapshots(list(wanted))
        except Exception as error:
            self._logger.warning("snapshots cannot be read, streams are: %s", text_of(error))
            return
        for snapshot in snapshots:
            try:
                wanted[snapshot.stream].restore(snapshot)
            except Distrusted as why:
                self._distrust(wanted[snapshot.stream], why)

    def _distrust(self, actor: Actor, why: Distrusted) -> None:
        self.distrusted += 1
        self._logger.log(
            logging.DEBUG if isinstance(why, Outdated) else logging.WARNING,
            "the snapshot of %s is not used: %s. Its stream is folded from the beginning.",
            actor.stream,
            why,
        )

    async def _read(self, actors: list[Actor], ahead: _Ahead) -> Sequence[StreamPage]:
        """Read a page of each; of a single long stream, also what follows."""
        reads = [StreamRead(actor.stream, actor.read_after) for actor in actors]
        if len(reads) > 1:
            return await self._read_pages(reads)
        [read] = reads
        page = await ahead.take(read) or await self._read_page(read)
        size = len(page.events)
        if page.more and size == self._limits.page_events:
            ahead.look(StreamRead(read.stream, read.after + size * n) for n in range(1, AHEAD + 1))
        return [page]

    async def _read_page(self, read: StreamRead) -> StreamPage:
        return (await self._read_pages([read]))[0]

    async def _read_pages(self, reads: Sequence[StreamRead]) -> Sequence[StreamPage]:
        return await self._store.read_streams(
            reads, events_max=self._limits.page_events, bytes_max=self._limits.page_bytes
        )

    async def _fold(
        self,
        actors: list[Actor],
        pages: Sequence[StreamPage],
        boundaries: list[BoundaryActor],
    ) -> list[Actor]:
        """Fold one page of each actor; give those whose streams go on.

        Boundaries whose streams are read come to `boundaries`: their tags are next.
        """
        assert len(pages) == len(actors), "the store owes one page per read"
        unfinished: list[Actor] = []
        folded = 0
        for actor, page in zip(actors, pages, strict=True):
            assert page.stream == actor.stream
            try:
                events = _proved(actor, page)
                for begin in range(0, len(events), _FOLD_SLICE):
                    part = events[begin : begin + _FOLD_SLICE]
                    _replay(actor, part, events[-1].version)
                    folded += len(part)
                    if folded >= _FOLD_SLICE:
                        folded = 0
                        await asyncio.sleep(0)
            except Distrusted as why:
                self._distrust(actor, why)
                unfinished.append(actor)
                continue
            except _Unfoldable as unfoldable:
                actor.unreadable(unfoldable.cause)
                continue
            if page.more:
                unfinished.append(actor)
            elif isinstance(actor, BoundaryActor):
                boundaries.append(actor)
            else:
                self.loads += 1
                self.restored += actor.restored
                actor.loaded(events[-1] if events else None)
        return unfinished


class _Unfoldable(Exception):
    """What the host's code raised, whatever it is: of the engine's own task nothing is caught."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__()
        self.cause = as_error(cause)


def _begun(actor: Actor) -> bool:
    """Let an actor begin; tell whether its class could be made."""
    try:
        actor.begin_load()
    except BaseException as error:
        actor.unreadable(as_error(error))
        return False
    return True


def _proved(actor: Actor, page: StreamPage) -> Sequence[StoredEvent]:
    try:
        return actor.prove(page)
    except Distrusted:
        raise
    except BaseException as error:
        raise _Unfoldable(error) from error


def _replay(actor: Actor, events: Sequence[StoredEvent], end: int) -> None:
    try:
        actor.replay(events, end)
    except BaseException as error:
        raise _Unfoldable(error) from error
