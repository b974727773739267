"""Who looks after the tallies of a life: pauses, resets, rebuilds, skips, and mends the handlers.

Rules: it decides at any moment, now and then two things at once, and leaves some calls in the
middle; it writes into the story what it asked and what it was told. As a life begins it looks
whether what earlier ones were told still holds; in the last one it lets everything be served, and
writes down what is there. In between it judges only what can be seen at the moment: that what is
paused rests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

from engine.engine import Engine
from engine.errors import Closed, Damaged, ProjectionLag, StoreFailed, StoreRefused, UsageError
from engine.projections.operations import Status
from engine.testing.simulation.loop import SimulatedLoop

from .story import Deed, Story
from .tallies import GetTallies, Tallies

__all__ = ["NAME", "Steward", "left_in_the_file"]

NAME: Final = "tallies"
_DEEDS: Final = (
    *("pause", "resume", "resume", "reset", "rebuild", "rebuild", "cancel", "drop"),
    *("retry", "retry", "skip", "skip", "mend", "mend"),
)
_UNTOLD: Final = frozenset(("building", "closed"))
"""States that do not say whether it is paused."""
_REFUSED: Final = frozenset(("cancel", "reset", "skip"))
"""What may be asked for where it cannot be done."""


class Steward:
    """The steward of one life."""

    def __init__(self, story: Story, random: Random, loop: SimulatedLoop) -> None:
        self._story = story
        self._random = random
        self._loop = loop

    def _problem(self, text: str) -> None:
        self._story.problems.append(text)

    async def work(self, engine: Engine, deeds: int) -> None:
        """Look whether all is as it was decided, then do so many things, or until the end."""
        with contextlib.suppress(Closed):
            await self._begin(engine)
            for _ in range(deeds):
                rests_at = self._rests_at(engine)
                await asyncio.sleep(self._random.expovariate(self._story.swarm.steward))
                if rests_at is not None and self._rests_at(engine) not in (None, rests_at):
                    self._problem(f"P9: it is paused at {rests_at}, and moves")
                await self._do_some(engine)

    def _rests_at(self, engine: Engine) -> int | None:
        """Give the position of what is paused for certain."""
        story, found = self._story, engine.statistics().projectors[NAME]
        # A reset whose caller has left may come at any moment.
        resets = [d for d in story.deeds if d.what == "reset" and d.life == story.lives]
        rests = story.paused and found.state == "paused" and all(d.ended for d in resets)
        return found.position if rests else None

    # -- what it does -------------------------------------------------------------------------

    async def _do_some(self, engine: Engine) -> None:
        count = 2 if self._random.random() < 0.2 else 1
        tasks = [
            asyncio.ensure_future(self._do(engine, self._choose(engine))) for _ in range(count)
        ]
        for task in tasks:
            if self._random.random() < 0.1:
                self._loop.after_steps(int(self._random.expovariate(1 / 20)), task.cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    def _choose(self, engine: Engine) -> str:
        found = engine.statistics().projectors[NAME]
        if (found.parked or found.failure is not None) and self._random.random() < 0.5:
            return self._random.choice(("skip", "retry"))
        return self._random.choice(_DEEDS)

    async def _do(self, engine: Engine, what: str) -> None:
        if what == "mend":
            Tallies.ailing = not Tallies.ailing and self._story.swarm.ailing
            return
        deed = Deed(what, self._story.lives, self._story.tick())
        if what in ("pause", "resume"):
            self._story.paused = None
        self._story.deeds.append(deed)
        try:
            await self._ask(engine, deed)
        except UsageError as error:
            deed.refused = True
            if what not in _REFUSED:
                self._problem(f"P9: {what} is refused: {error}")
        except (StoreFailed, StoreRefused, Damaged):
            return
        else:
            self._done(engine, deed)

    def _done(self, engine: Engine, deed: Deed) -> None:
        deed.ended = self._story.tick()
        if deed.what not in ("pause", "resume"):
            return
        other = [d for d in self._story.deeds if d.what in ("pause", "resume") and d is not deed]
        if any(d.life == deed.life and (not d.ended or d.ended > deed.begun) for d in other):
            return  # the two were asked for at once
        self._story.paused = deed.what == "pause"
        state = engine.statistics().projectors[NAME].state
        if self._story.paused and state != "paused" and state not in _UNTOLD:
            self._problem(f"P9: it is paused, and {state}")

    async def _ask(self, engine: Engine, deed: Deed) -> None:
        control = engine.projections
        if deed.what == "skip":
            await self._skip(engine, deed)
        elif deed.what == "retry":
            await control.retry(NAME)
        elif deed.what == "rebuild":
            await control.rebuild(NAME)
            status = await self._status(engine)
            deed.build = max(build.number for build in status.builds)
        else:
            await getattr(control, deed.what)(NAME)

    async def _skip(self, engine: Engine, deed: Deed) -> None:
        """Skip something that is parked, or that has stopped what serves or is built."""
        status = await self._status(engine)
        parked = await engine.projections.parked(NAME)
        places = [p.position for p in parked]
        building = status.building
        failures = (status.failure, building.failure if building is not None else None)
        places += [f.position for f in failures if f is not None and f.event]
        if not places:
            raise UsageError("there is nothing to skip")
        deed.position = self._random.choice(places)
        # What another build has folded already stays in it.
        deed.strict = building is None and deed.position in [p.position for p in parked]
        await engine.projections.skip(NAME, deed.position, reason="the steward says so")

    async def _status(self, engine: Engine) -> Status:
        status = await engine.projections.status(NAME)
        states = [build.state for build in status.builds]
        numbers = {build.number for build in status.builds}
        if states.count("serving") != 1 or states.count("building") > 1:
            self._problem(f"P9: the builds are {status.builds}")
        if len(numbers) != len(states):
            self._problem(f"P9: two builds have one number: {status.builds}")
        return status

    # -- the beginning ------------------------------------------------------------------------

    async def _begin(self, engine: Engine) -> None:
        """Look whether what was told in earlier lives holds."""
        story = self._story
        try:
            status = await self._status(engine)
            decisions = await engine.projections.decisions(NAME)
        except (StoreFailed, StoreRefused):
            return
        paused, state = story.paused, await self._settled_state(engine)
        if paused is not None and (state == "paused") != paused and state not in _UNTOLD:
            self._problem(f"P9: paused is {paused}, and it is {state}")
        positions = {d.position for d in decisions if d.kind == "skip"}
        for deed in story.deeds:
            if deed.what == "skip" and deed.ended and deed.position not in positions:
                self._problem(f"P9: {deed} was acknowledged and is forgotten")
        self._check_build(status)

    async def _settled_state(self, engine: Engine) -> str:
        """Give the state that it comes to rest in, if it is to rest."""
        seconds = 0
        while (state := engine.statistics().projectors[NAME].state) != "paused":
            if not self._story.paused or seconds == 60:
                break
            await asyncio.sleep(1)
            seconds += 1
        return state

    def _check_build(self, status: Status) -> None:
        """A build that was begun is there, or has been served, unless somebody took it away."""
        deeds = self._story.deeds
        begun = [deed for deed in deeds if deed.what == "rebuild" and deed.ended]
        if not begun or len(set(self._story.swarm.tally_versions)) > 1:
            return
        last = begun[-1]
        if any(deed.begun > last.begun for deed in deeds if deed.what in ("cancel", "drop")):
            return
        if last.build not in {build.number for build in status.builds}:
            self._problem(f"P9: {last} was acknowledged, and the builds are {status.builds}")

    # -- the end ------------------------------------------------------------------------------

    async def settle(self, engine: Engine, position: int) -> None:
        """Let everything be served, and write down what is there."""
        story, control = self._story, engine.projections
        await control.resume(NAME)
        Tallies.ailing = story.swarm.stays_ailing
        if Tallies.ailing:
            try:
                await control.cancel(NAME)
            except UsageError:
                Tallies.ailing = (await self._status(engine)).building is None
        await self._wait_for_builds(engine)
        if self._random.random() < 0.3:
            await control.reset(NAME)
        if self._random.random() < 0.3:
            await control.drop(NAME)
        try:
            await engine.query(GetTallies(), at=position, timeout=600)
            await control.retry(NAME)
            story.tallies = await engine.query(GetTallies(), at=position, timeout=600)
        except ProjectionLag as lag:
            self._problem(f"P9: nothing fails any more, and {lag}")
            return
        await self._write_down(engine)

    async def calm_down(self, engine: Engine, position: int) -> None:
        """Mend everything, where nothing else fails any more: then all must be served."""
        self._story.paused = None
        await engine.projections.resume(NAME)
        self._story.paused = False
        Tallies.ailing = False
        await engine.projections.retry(NAME)  # as much may be parked as is allowed
        await self._wait_for_builds(engine)
        await engine.query(GetTallies(), at=position, timeout=600)

    async def _wait_for_builds(self, engine: Engine) -> None:
        for _ in range(600):
            await engine.projections.resume(NAME)
            await asyncio.sleep(1)
            status = await self._status(engine)
            # It may have stopped at what it had begun with before it was mended.
            if status.building is None and status.state != "stopped":
                return
        self._problem(f"P9: it is never served: {await self._status(engine)}")

    async def _write_down(self, engine: Engine) -> None:
        story, control = self._story, engine.projections
        after = 0
        while page := await control.parked(NAME, after=after, limit=7):
            story.parked += page
            after = page[-1].position
        status = await self._status(engine)
        story.decisions = list(await control.decisions(NAME))
        story.still_ailing = Tallies.ailing
        if status.parked != len(story.parked):
            self._problem(f"P9: {status.parked} events are told to be parked: {story.parked}")
        if (status.serving, status.state) != (status.version, "live"):
            self._problem(f"P9: in the end it stands so: {status}")


_TABLES: Final = (
    "SELECT substr(name, 14) FROM sqlite_schema WHERE type = 'table' AND name LIKE 'tallies_rows:%'"
)


def left_in_the_file(path: Path) -> Iterator[str]:
    """Give what of a file of views belongs to no build."""
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        builds = _numbers(connection, "SELECT number FROM builds WHERE projection = 'tallies'")
        for what, sql in (
            ("parked events", "SELECT build FROM parked WHERE projection = 'tallies'"),
            ("checkpoints", "SELECT build FROM checkpoints WHERE projection = 'tallies'"),
            ("tables", _TABLES),
        ):
            found = _numbers(connection, sql)
            if not found <= builds or (what != "parked events" and found != builds):
                yield f"P9: there are builds {sorted(builds)}, and {what} of {sorted(found)}"
    finally:
        connection.close()


def _numbers(connection: Any, sql: str) -> set[int]:
    return {int(number) for (number,) in connection.execute(sql).fetchall()}
