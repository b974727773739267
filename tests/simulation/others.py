"""Those who share a life with the clients: who reads, who watches, and who disturbs.

Rules: a follower sees every event in its place, once, and its feed ends with the engine. A rival
writes to the streams behind the engine's back, through the contract of the store, as a second
engine would. An operator resumes what has stopped. A monitor compares what the engine says of
itself with its limits. A saboteur cancels tasks that are not its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any

from engine.engine import Engine
from engine.errors import Closed, EngineError, StoreFailed
from engine.limits import Limits
from engine.model.stored import EventData
from engine.stores.contract.log import Appended, AppendRequest, Batch, StreamRead, Write
from engine.testing.simulation.loop import SimulatedLoop

from .domain import Was
from .story import Story, Stranger

__all__ = ["Others"]


class Others:
    """The others of one life."""

    def __init__(self, story: Story, random: Random, loop: SimulatedLoop) -> None:
        self._story = story
        self._random = random
        self._loop = loop
        self.followed = 0
        """The position up to which the follower has seen the log."""

    def _problem(self, text: str) -> None:
        self._story.problems.append(text)

    async def follow(self, engine: Engine) -> None:
        """Read the log as it grows, until the engine ends."""
        after = self._random.choice((0, engine.statistics().position))
        self.followed = after
        with contextlib.suppress(Closed, StoreFailed):
            async with contextlib.aclosing(engine.feed(after, follow=True)) as feed:
                async for logged in feed:
                    if logged.meta.position != self.followed + 1:
                        at = logged.meta.position
                        self._problem(f"P4: a feed gave {at} after {self.followed}")
                    self.followed = logged.meta.position
                    self.saw(logged)

    def saw(self, logged: Any) -> None:
        """Take note of an event that somebody was shown."""
        meta = logged.meta
        shown = (meta.stream, meta.version, repr(logged.event))
        before = self._story.shown.setdefault(meta.position, shown)
        if before != shown:
            self._problem(f"P4: position {meta.position} was {before} and is {shown}")

    async def resume_projections(self, engine: Engine) -> None:
        """Resume what has stopped, mended or not."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / 0.05))
            with contextlib.suppress(Closed):
                for name in ("cells", "puts", "brittle"):
                    await engine.projections.resume(name)

    async def monitor(self, engine: Engine, limits: Limits) -> None:
        """Compare the engine's own numbers with its limits."""
        while True:
            await asyncio.sleep(self._random.choice((0.002, 0.05, 2.0)))
            found = engine.statistics()
            waiting = max(p.bus.waiting / p.slices for p in found.projectors.values())
            for what, number, bound in (
                ("accepted commands", found.commands.open, limits.commands_accepted),
                ("resident aggregates", found.aggregates.resident, limits.resident_aggregates),
                ("events on the bus", waiting, limits.bus_events),
                (
                    "undurable events",
                    found.journal.undurable_events,
                    limits.batch_events + limits.command_events,
                ),
            ):
                if number > bound:
                    self._problem(f"P11: {number} {what}, and the limit is {bound}")

    def sabotage(self, task: asyncio.Task[Any], name: str) -> None:
        """Cancel the task of an async handler, before or after it has begun."""
        if name == "Deliberation._run" and self._random.random() < self._story.swarm.sabotage:
            self._loop.after_steps(self._random.choice((0, 0, 1, 5)), task.cancel)

    async def rival(self, engine: Engine) -> None:
        """Write behind the engine's back."""
        while True:
            await asyncio.sleep(self._random.expovariate(self._story.swarm.rivals))
            with contextlib.suppress(EngineError):
                await self._write_as_a_stranger(engine)

    async def _write_as_a_stranger(self, engine: Engine) -> None:
        """Append to one cell, or to two at once, on the right versions or on old ones."""
        store: Any = engine._store  # pyright: ignore[reportPrivateUsage]
        drawn = [self._random.choice(self._story.operations).command.cell_id for _ in range(2)]
        cells = sorted(set(drawn[: self._random.choice((1, 1, 2))]))
        pages = await store.read_streams(
            [StreamRead(f"cell:{cell}") for cell in cells], events_max=10_000, bytes_max=1 << 30
        )
        strangers: list[Stranger] = []
        for cell, page in zip(cells, pages, strict=True):
            expected = max(0, len(page.events) - self._random.choice((0, 0, 0, 1)))
            number = -1 - len(self._story.strangers)
            strangers.append(Stranger(number, cell, self._story.tick(), expected))
            self._story.strangers.append(strangers[-1])
        registry = engine.registry
        kind = registry.type_of(Was)
        writes = tuple(
            Write(f"cell:{s.cell}", s.expected, [EventData(kind, registry.encode(event))])
            for s in strangers
            for event in [Was(s.number, 3, 0, 1)]
        )
        committed = await store.append(Batch([AppendRequest(writes)], 0))
        for stranger in strangers:
            stranger.written = isinstance(committed.outcomes[0], Appended)
            stranger.ended = self._story.tick()
