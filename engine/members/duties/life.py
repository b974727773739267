"""The life of one process among those that run projections: joins, runs what is its own, leaves.

Rules: engines that append nothing run the projections that are this member's duty, each some. One
begins when every member has seen the view by which they are its own; where one becomes another
member's, the right of its engine ends before that view counts as seen, and a projection that is
lost is no failure. That engine ends, and another one opens the views again: the checkpoints say
where to go on. What is gained has an engine of its own, so that nothing else rests for it, as long
as there are few of them. Slices of one projection are duties of their own, and gathered where
something is decided about all of them. A process that was declared dead joins anew. Nothing is
decided here, and no row is written. A start waits until some member has made the tables of each.
Where the views of one projection are refused, the process joins anew without that one for a while.
So it does with those for which the server has no connection left, if others may run them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from ...errors import EngineError, ProjectionUnserved, StoreFailed, StoreRefused
from ...model.projection import ProjectionDefinition
from ...projections.progress import nothing_yet
from ...projections.runner import ProjectionRunner
from ...runtime.machine import process_name
from ...runtime.safely import described
from ...runtime.uncancelled import ended
from ...statistics import ProjectorState, ProjectorStatistics
from ...stores.contract.backend import Runners
from ...stores.contract.membership import (
    Attending,
    NotGathered,
    Right,
    View,
    ViewChanged,
    projection_of,
)
from ...wiring import Wiring
from .folding import FoldingEngine, MakeFolding
from .gathering import Gatherings
from .room import SHORT_SECONDS, Room
from .rows import ViewsRows
from .whose import able_beside, declared_by, declares, duties_of, kept_otherwise

__all__ = ["Duties", "elsewhere"]

_AGAIN_SECONDS: Final = 0.5
"""Before it is tried again, where something failed."""
_SOON_SECONDS: Final = 0.01
_LOOK_SECONDS: Final = 0.1
"""Between two looks at slices that are gathered."""
_MADE_SECONDS: Final = 15.0
"""How long a start waits for tables that others make: some more than the lease of one who died."""
_REFUSED_SECONDS: Final = 10.0
"""How long all is left to the others, where taking part was refused to this process."""
_YIELD_SECONDS: Final = 3.0
"""How long the first member waits, where connections lack, for others to leave theirs to it."""
_AT_WORK: Final = ("live", "catching-up")
_LEFT_SECONDS: Final = 60.0
"""How long one projection is left to the others, where its views were refused to this process."""


class Duties:
    """One process's part in the running of projections, from `start` to `end`."""

    def __init__(
        self,
        make: MakeFolding,
        outside: Runners,
        rows: ViewsRows,
        definitions: Sequence[ProjectionDefinition],
        logger: logging.Logger,
        failed: Callable[[BaseException], None],
        release: str,
        changed: Callable[[Mapping[str, ProjectionUnserved]], None],
    ) -> None:
        """Take how engines are made, and who is told where this part has failed for good.

        `changed` is told what is to be raised for projections that others keep otherwise.
        """
        self._make = make
        self._outside = outside
        self._rows = rows
        self.definitions: Mapping[str, ProjectionDefinition] = {d.name: d for d in definitions}
        self._declares = declares(definitions, release)
        self._logger = logger
        self._failed = failed
        self._changed = changed
        self._kept_otherwise: Mapping[str, tuple[str, int]] = {}
        """The release and the version of what others keep as it is not declared here."""
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._part: Attending | None = None
        self._running: list[FoldingEngine] = []
        self._wanted: frozenset[str] = frozenset()
        """What is this member's by the view that was seen last."""
        self._left_at: dict[str, int] = {}
        """Where a projection stood as this process ran it last."""
        self._told = ""
        """Why nothing is run here, as it was logged last."""
        self._gatherings = Gatherings(outside, logger)
        self._number = 0
        """Of the members, as they were heeded last."""
        self._scattered: set[str] = set()
        """Projections that are not run before all slices of them are gathered."""
        self._refused: dict[str, str] = {}
        """Why the views of a projection were refused to this process, as it tried last."""
        self._left_until: dict[str, float] = {}
        """By the event loop's clock, how long those are not run here."""
        self._crowded: frozenset[str] = frozenset()
        """Those of them for which the server had no connection left."""
        self._room = Room(logger, self._wake.set)
        self._of_nobody: frozenset[str] = frozenset()
        """Those of them that no member declares."""
        self.terms = 0
        """How often projections were opened here."""

    # -- what is run here ---------------------------------------------------------------------

    @property
    def names(self) -> Sequence[str]:
        """The projections that are run here now, and slices of others, in order."""
        return sorted(name for term in self._open() for name in term.right.names)

    @property
    def member(self) -> int:
        """The number of this member; 0 where it is none."""
        return 0 if self._part is None else self._part.member

    def running(self, name: str) -> Wiring | None:
        """Give the engine that runs all of a projection in this process, if one does."""
        return next((t.wiring for t in self._open() if name in t.right.names), None)

    def runner(self, name: str) -> ProjectionRunner | None:
        """Give what runs a projection in this process, or slices of it, if any is run here."""
        found = (term.wiring.projecting.get(name) for term in self._open())
        return next((runner for runner in found if runner is not None), None)

    def _open(self) -> list[FoldingEngine]:
        return [term for term in self._running if term.is_open]

    def _runner_of_all(self, name: str) -> ProjectionRunner | None:
        return self.runner(name) if self.running(name) is not None else None

    def unserved(self) -> Mapping[str, ProjectionUnserved]:
        """Give what is answered for each projection that others keep as it is not declared here."""
        kept = self._kept_otherwise.items()
        found = {name: ProjectionUnserved(name, *otherwise) for name, otherwise in kept}
        refused = {n: ProjectionUnserved(n, refused=self._refused[n]) for n in self._of_nobody}
        return {**found, **refused}

    def standing_still(self, name: str) -> ProjectorState | None:
        """Give the state of a projection that nobody runs, as far as that is known here."""
        if name in self._of_nobody:
            return "stopped"  # its views are refused
        is_own = any(projection_of(duty) == name for duty in self._missing())
        return "retrying" if self._told and is_own else None

    def state_here(self, name: str) -> str | None:
        """Give what a projection does that is run here, or by nobody; None where others run it."""
        runner = self.runner(name)
        if runner is None:
            return self.standing_still(name)
        state = runner.statistics().state
        is_whole = self.running(name) is not None
        return state if is_whole or state not in _AT_WORK else f"{state} here, in slices"

    def gather(self, name: str) -> None:
        """Have all slices of a projection run here for a while, if this process leads it."""
        self._gatherings.want(name)
        self._wake.set()

    def statistics(self, end: int) -> Mapping[str, ProjectorStatistics]:
        """Give the numbers of all projections; of those that others run nothing is known here."""
        found = {name: self.runner(name) for name in self.definitions}
        return {
            name: _elsewhere(name, self._left_at.get(name, 0), end, self.standing_still(name))
            if runner is None
            else runner.statistics()
            for name, runner in found.items()
        }

    # -- from start to end --------------------------------------------------------------------

    async def start(self) -> None:
        """Become a member, and run what is its own; raise what prevents that.

        Return when all have tables, so that queries find some, whoever runs the projections.
        """
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(started), name="foldline duties")
        try:
            await asyncio.shield(started)
            await self._until_made(self._task)
        except BaseException:
            self._stop.set()
            self._wake.set()
            await ended(self._task)
            if started.done() and not started.cancelled():
                started.exception()
            raise

    async def _until_made(self, running: asyncio.Task[None]) -> None:
        """Wait for tables that other members make, as where all begin at once on a new log."""
        now = asyncio.get_running_loop().time
        end = now() + _MADE_SECONDS
        while (lacking := self.definitions.keys() - await self._rows.made()) and now() < end:
            if running.done():
                return
            await asyncio.sleep(_LOOK_SECONDS)
        if lacking:
            self._logger.warning(
                "projections %s have no tables yet after %g s: queries that read them fail until "
                "the member whose duty they are has begun. The command `members` names it",
                ", ".join(sorted(lacking)),
                _MADE_SECONDS,
            )

    async def end(self) -> None:
        """Let the batches in hand be written, then leave; a second call does nothing."""
        if self._task is not None:
            self._stop.set()
            self._wake.set()
            await ended(self._task)

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            while not self._stop.is_set():
                try:
                    await self._take_part(started)
                except EngineError as error:
                    if not started.done():
                        raise
                    self._tell(error)
                    if not isinstance(error, StoreFailed):
                        await self._rest(_REFUSED_SECONDS)
                    await self._rest()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            else:
                self._failed(error)

    async def _rest(self, seconds: float = _AGAIN_SECONDS) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _tell(self, error: EngineError) -> None:
        """Log why projections are not run here, once for each reason."""
        if (why := described(error)) != self._told:
            self._told = why
            self._logger.warning(
                "this process does not run all projections that are its own now: %s", why
            )

    async def _take_part(self, started: asyncio.Future[None]) -> None:
        """Be a member until this process leaves, was declared dead, or is to join anew."""
        left = self._left_until = {n: t for n, t in self._left_until.items() if t > self._now()}
        declared = {n: how for n, how in self._declares.items() if n not in left}
        self._crowded &= left.keys()
        name, how = process_name(), msgspec.json.encode(declared).decode()
        part = self._part = self._outside.runner(name, how, self._heed, self._logger)
        running: asyncio.Task[None] | None = None
        try:
            await part.join()
            running = asyncio.create_task(part.run(), name="foldline duties' lease")
            running.add_done_callback(lambda _: self._wake.set())
            while not (self._stop.is_set() or running.done()):
                self._wake.clear()
                if self._left_until != left or self._seconds_left() == 0:
                    return
                if await self._turn(part, is_first=not started.done()):
                    if not started.done():
                        started.set_result(None)
                    await self._wait()
            if running.done():
                running.result()
        finally:
            # A lease that still runs is renewed until the last batch is written.
            if running is None or running.done():
                self._lose(self._running)
            try:
                for term in [*self._running]:
                    await self._end_term(term)
            finally:
                self._lose(self._running)
                self._part = None
                await self._gatherings.end()
                if running is not None:
                    running.cancel()
                    await asyncio.wait([running])
                await part.close()

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS if self._gatherings else self._seconds_left()):
                await self._wake.wait()

    def _seconds_left(self) -> float | None:
        """Give when one that is left to others is to be tried again; None where none is left."""
        until = min(self._left_until.values(), default=None)
        return None if until is None else max(0.0, until - self._now())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _heed(self, view: View) -> None:
        """Write nothing more of what is not this member's by a view, before that counts as seen."""
        part = self._part
        assert part is not None, "it is told of views behind its making"
        self._wanted = duties_of(view, part.member, self.definitions)
        if view.number != self._number:
            self._scattered.clear()  # by this number they may be gathered, or nobody needs it
        self._number = view.number
        self._lose([term for term in self._running if not term.right.names <= self._wanted])
        told = self._kept_otherwise, self._of_nobody
        self._kept_otherwise = kept_otherwise(view, self._declares)
        self._of_nobody = frozenset(self._refused).difference(declared_by(view))
        if back := self._crowded.difference(declared_by(view)):  # nobody else has it any more
            self._left_until = {n: t for n, t in self._left_until.items() if n not in back}
        if (self._kept_otherwise, self._of_nobody) != told:
            self._changed(self.unserved())
        self._wake.set()

    def _lose(self, terms: Sequence[FoldingEngine]) -> None:
        for term in terms:
            term.right.is_lost = True

    # -- what is its own ----------------------------------------------------------------------

    async def _turn(self, part: Attending, *, is_first: bool) -> bool:
        """Run what is this member's by now; tell whether there is nothing more to do."""
        await self._gather(part)
        if self._room.take():
            await self._make_room(part)
            return False
        ended, missing = self._ended(), self._missing()
        if ended is not None:
            await self._end_term(ended)
            if ended.wiring.life.failed is not None:
                await self._rest()
        elif missing and _is_seen(part):
            try:
                await self._begin_term(Right(missing, part, self.gather))
            except NotGathered as error:
                self._scattered.add(error.projection)
            except ViewChanged:
                await asyncio.sleep(_SOON_SECONDS)  # the members are being looked at
            except (StoreFailed, StoreRefused) as error:
                if is_first:
                    raise
                if isinstance(error, StoreRefused):
                    await self._leave_refused(part, missing, error)
                    return False
                self._tell(error)
                await self._rest()
        return self._ended() is None and not (_is_seen(part) and self._missing())

    async def _make_room(self, part: Attending) -> None:
        """Need fewer connections: by one engine for all, or by leaving all to others.

        The member that came first gives the others time to do so before it.
        """
        if len(self._running) > 1 or (self._running and self._missing()):
            self._room.use_one()
            return
        beside = self._able_beside(part)
        if beside and all(member > part.member for able in beside.values() for member in able):
            await self._rest(_YIELD_SECONDS)
            if not self._room.take():
                return
            beside = self._able_beside(part)
        if beside:
            until = dict.fromkeys(beside, self._now() + SHORT_SECONDS)
            self._left_until = {**self._left_until, **until}
            self._crowded |= beside.keys()
            self._room.tell_left(beside)

    def _able_beside(self, part: Attending) -> Mapping[str, Sequence[int]]:
        """Give the projections that other members could run as well, and those members."""
        found = {name: able_beside(part.view, part.member, name) for name in self.definitions}
        return {name: able for name, able in found.items() if able}

    async def _gather(self, part: Attending) -> None:
        try:
            if await self._gatherings.turn(part.view, part.member, self._runner_of_all):
                part.look()
        except StoreFailed as error:
            self._tell(error)

    def _able(self) -> frozenset[str]:
        """Give what is this member's, without slices that can not be run alone now."""
        return frozenset(n for n in self._wanted if projection_of(n) not in self._scattered)

    def _missing(self) -> frozenset[str]:
        """Give what is this member's, and is not run."""
        return self._able() - {name for term in self._running for name in term.right.names}

    def _ended(self) -> FoldingEngine | None:
        """Give an engine that is to end: of what is lost or has changed, or for one of all."""
        able, missing = self._able(), self._missing()
        anew = {projection_of(name) for name in missing}
        is_full = bool(missing) and len(self._running) >= self._room.engines_max
        for term in self._running:
            names = term.right.names
            if term.is_past or not names <= able or is_full:
                return term
            if any(projection_of(name) in anew for name in names):
                return term  # one engine has all slices of a projection that are run here
        return None

    async def _leave_refused(
        self, part: Attending, names: frozenset[str], refused: StoreRefused
    ) -> None:
        """Leave to the others what was refused here, and nothing else that was begun with it."""
        found: dict[str, StoreRefused] = {}
        projections = sorted({projection_of(name) for name in names})
        for one in projections:
            try:
                if len(projections) == 1:
                    raise refused
                duties = frozenset(name for name in names if projection_of(name) == one)
                await self._begin_term(Right(duties, part, self.gather))
                await self._end_term(self._running[-1])
            except StoreRefused as error:
                found[one] = error
        until = {name: self._now() + _LEFT_SECONDS for name in found}
        self._left_until = {**self._left_until, **until}
        for name, each in found.items():
            if self._refused.get(name) != (why := described(each)):
                self._refused[name] = why
                self._logger.error(
                    "this process does not run projection %s, and tries again each %g s; it runs "
                    "what else is its own: %s",
                    name,
                    _LEFT_SECONDS,
                    why,
                )
        if not found:
            await self._rest()  # it was refused for a moment only

    async def _begin_term(self, right: Right) -> None:
        wiring = self._make(right, self._room.lack)
        wiring.entrance.open()
        term = FoldingEngine(right, wiring)
        # Known before it is open, so that a view that comes meanwhile ends the right.
        self._running.append(term)
        try:
            await wiring.supervisor.start()
        except BaseException:
            self._running.remove(term)
            raise
        term.is_open = True
        for name in right.names:
            self._refused.pop(projection_of(name), None)
        assert wiring.supervisor.task is not None, "it was started"
        wiring.supervisor.task.add_done_callback(lambda _: self._wake.set())
        self.terms, self._told = self.terms + 1, ""
        self._logger.info(
            "this process, member %d of the log, runs %s", right.member, ", ".join(self.names)
        )

    async def _end_term(self, term: FoldingEngine) -> None:
        try:
            await term.wiring.supervisor.end()
        except EngineError as error:
            self._logger.warning("projections ended here: %s", described(error))
        finally:
            for name, runner in term.wiring.projecting.items():
                self._left_at[name] = runner.position
            self._running.remove(term)


def _is_seen(part: Attending) -> bool:
    """Tell whether all members act by the view that this one has."""
    return part.view.is_seen_by_all(part.view.number, but=part.member)


def elsewhere(known: Mapping[str, ProjectorStatistics]) -> Mapping[str, ProjectorStatistics]:
    """Give the numbers of what the owner of the log runs, for a process that is not the owner."""
    return {name: _elsewhere(name, numbers.position, 0, None) for name, numbers in known.items()}


def _elsewhere(
    name: str, position: int, end: int, state: ProjectorState | None
) -> ProjectorStatistics:
    """Give the numbers of a projection that another member runs, or none."""
    numbers = nothing_yet(name, position, end, None)
    return msgspec.structs.replace(numbers, state=state or "elsewhere", lag_events=None)
