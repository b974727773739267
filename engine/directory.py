"""Where actors are found, how many stay in memory, and how cold ones are loaded.

Rules: looking up an actor and posting to it happen in one step, with no await between; an actor
leaves in the same step that finds it at rest. So no command can be posted to an actor that has
left. Residency is bounded by count: beyond it the actor that was not used for longest leaves
(second chance, after Corbató's CLOCK: approximately least recently used, at no cost per command).
Cold actors that come up together are loaded with one read of the store, page by page, and the
event loop gets its turn while long streams are folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .actor import Actor
from .errors import Damaged, Overloaded, UsageError
from .kind import Kind
from .limits import ID_LENGTH_MAX, Limits
from .ports import Ports
from .statistics import DirectoryStatistics, Histogram
from .stores.contract import Store, StreamPage, StreamRead
from .telemetry import LoadBegan, Watch

__all__ = ["Directory"]

_SCAN_MAX = 1_024
"""Actors looked at, at most, to find one that can leave; the next search goes on behind them."""
_FOLD_SLICE = 250
"""Events folded before the event loop gets its turn."""


class Directory:
    """The resident actors of one engine, by stream."""

    def __init__(
        self, store: Store, limits: Limits, ports: Ports, watch: Watch | None = None
    ) -> None:
        self._store = store
        self._limits = limits
        self._stopwatch = ports.stopwatch
        self._watch = watch
        self._actors: dict[str, Actor] = {}
        self._cold: list[Actor] = []
        self._wake = asyncio.Event()
        self.loads = 0
        """Actors loaded since the start."""
        self.passivated = 0
        """Actors that left memory to make room."""
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

    def find(self, kind: Kind, aggregate_id: object) -> Actor:
        """Give the actor of an aggregate, a cold one if it was not in memory.

        Raises UsageError for an id that cannot be stored, Overloaded when nobody can leave.
        """
        if not isinstance(aggregate_id, str):
            raise UsageError(f"an aggregate's id is a string, not a {type(aggregate_id).__name__}")
        # Joined and not formatted: Python's versions differ in how they format an enum's member.
        stream = kind.definition.kind + ":" + aggregate_id
        actor = self._actors.get(stream)
        if actor is not None:
            return actor
        _check_id(aggregate_id)
        if len(self._actors) >= self._limits.resident_aggregates:
            self._make_room()
        actor = self._actors[stream] = Actor(kind, stream, aggregate_id)
        return actor

    def forget(self, actor: Actor) -> None:
        """Take out an actor that has no state to keep."""
        if self._actors.get(actor.stream) is actor:
            del self._actors[actor.stream]

    def _make_room(self) -> None:
        """Let one actor at rest leave, the first that had no command since the last search."""
        fallback: Actor | None = None
        for _ in range(min(_SCAN_MAX, len(self._actors))):
            stream = next(iter(self._actors))
            actor = self._actors.pop(stream)
            if actor.at_rest and not actor.used:
                self.passivated += 1
                return
            if actor.at_rest and fallback is None:
                fallback = actor
            actor.used = False
            self._actors[stream] = actor
        if fallback is None:
            self.overloaded += 1
            raise Overloaded(
                f"{len(self._actors)} aggregates are in memory, as many as "
                f"Limits.resident_aggregates allows, and none is at rest. Nothing was run; send "
                f"again after a pause."
            )
        self.passivated += 1
        del self._actors[fallback.stream]

    def statistics(self) -> DirectoryStatistics:
        """Give the numbers as they are now; called from any thread."""
        return DirectoryStatistics(
            resident=len(self._actors),
            loaded=self.loads,
            passivated=self.passivated,
            load_seconds=self._load_seconds.copy(),
        )

    # -- loading ----------------------------------------------------------------------------

    def load(self, actor: Actor) -> None:
        """Have an actor's stream read, together with the others that come up in this turn."""
        self._cold.append(actor)
        self._wake.set()

    async def run(self) -> None:
        """Load cold actors until cancelled."""
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
        self._load_seconds.record(self._stopwatch() - begin)
        if watch is not None:
            watch.end(seen, loaded=self.loads - before)

    async def _load(self, actors: list[Actor]) -> None:
        for actor in actors:
            actor.begin_load()
        remaining = actors
        while remaining:
            try:
                pages = await self._read(remaining)
            except Exception as error:
                if len(remaining) == 1 or not isinstance(error, Damaged):
                    for actor in remaining:
                        actor.unreadable(error)
                    return
                # One damaged stream must not cost the others their answers: each by itself.
                for actor in remaining:
                    await self._load([actor])
                return
            remaining = await self._fold(remaining, pages)

    async def _read(self, actors: list[Actor]) -> Sequence[StreamPage]:
        return await self._store.read_streams(
            [StreamRead(actor.stream, actor.version) for actor in actors],
            events_max=self._limits.page_events,
            bytes_max=self._limits.page_bytes,
        )

    async def _fold(self, actors: list[Actor], pages: Sequence[StreamPage]) -> list[Actor]:
        """Fold one page of each actor; give those whose streams go on."""
        assert len(pages) == len(actors), "the store owes one page per read"
        unfinished: list[Actor] = []
        folded = 0
        for actor, page in zip(actors, pages, strict=True):
            assert page.stream == actor.stream
            try:
                for stored in page.events:
                    actor.replay(stored)
                    folded += 1
                    if folded % _FOLD_SLICE == 0:
                        await asyncio.sleep(0)
            except Exception as error:
                actor.unreadable(error)
                continue
            if page.more:
                unfinished.append(actor)
            else:
                self.loads += 1
                actor.loaded()
        return unfinished


def _check_id(aggregate_id: str) -> None:
    if not 0 < len(aggregate_id) <= ID_LENGTH_MAX or not aggregate_id.isprintable():
        raise UsageError(
            f"the id {aggregate_id[:40]!r} has {len(aggregate_id)} characters: an id has 1 to "
            f"{ID_LENGTH_MAX} printable ones. Nothing was run."
        )
