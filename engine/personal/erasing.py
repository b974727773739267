"""What follows the destruction of a person's key: memory, snapshots and views lose him too.

Rules: an erasure begins with the destruction of the key, in the store of keys, by whoever asks. It
is unfinished until this task has let go of all that was read before: aggregates leave memory,
snapshots become unreadable, and every projection of events with personal fields is built anew
beside the tables that serve, which are then taken away and written over. Sinks that can erase are
asked to: read models elsewhere make the rows of these people anew. What was written about them
until states, reactors and sinks had let go is erased too, as it may have been read before. Former
tables of all other projections are taken away: an older handler may have put him there. Tables of
projections that this program does not declare may have the person too, and so may their parked
events under keys that a `sequence` made: they are waited for. Sinks that it does not declare are
named. Nothing stays parked under a key that was made of people. So one that was begun before a
crash, or by another process, is finished here. What fails is logged, and tried again. It never
changes an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from ..errors import Closed, EngineError, UsageError
from ..limits import Limits
from ..model.codec import EventRegistry
from ..model.messages import Event
from ..model.personal import is_subject
from ..model.projection import Delivering, ProjectionDefinition, reaching
from ..projections.projector import Projector
from ..projections.rekeying import Rekeying
from ..projections.runner import ProjectionRunner
from ..projections.targets.sink import SinkTarget
from ..projections.undeclared import Undeclared
from ..runtime.bell import Bell
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import traceback_text
from ..stores.contract.keys import Erasure
from ..stores.contract.views import Part, Scrubbed, ViewsStore
from ..write.directory import Directory
from .vault import Vault

__all__ = ["Eraser"]

_LOOK_SECONDS: Final = 0.05
"""Between two looks at a build that folds."""
_REASON: Final = "a person's data was erased"
_MEANWHILE: Final = "written while erasure {} was under way"
_AGAIN_SECONDS: Final = 5.0
"""After a failure."""


class Eraser:
    """Finishes erasures, beside the projectors, until `stop`."""

    def __init__(
        self,
        vault: Vault,
        directory: Directory,
        projecting: Mapping[str, ProjectionRunner],
        views: ViewsStore,
        undeclared: Undeclared,
        sink_of: Callable[[Part], SinkTarget],
        registry: EventRegistry,
        limits: Limits,
        ports: Ports,
        logger: logging.Logger,
    ) -> None:
        self._vault = vault
        self._directory = directory
        of_people = {n: r for n, r in projecting.items() if _sees_people(r.definition, registry)}
        self._projecting = {n: r for n, r in of_people.items() if r.definition.has_tables}
        # Also those that see nobody any more: a former version of them may have.
        self._elsewhere = {n: r for n, r in projecting.items() if _erases(r.definition.sink)}
        self._others = [
            r for n, r in projecting.items() if r.definition.has_tables and n not in of_people
        ]
        self._delivering = [r for r in of_people.values() if not r.definition.has_tables]
        # Also those that see nobody, or have no `sequence`, any more: what is parked may be older.
        self._parking = [r for r in projecting.values() if not r.definition.has_tables]
        self._registry = registry
        self._limits = limits
        self._sink_of = sink_of
        self._views = views
        self._undeclared = undeclared
        self._poll_seconds = max(limits.control_poll_ms, 100) / 1_000
        self._ports = ports
        self._logger = logger
        self._stopping = Bell()
        self._asked = Bell()
        self._changes: int | None = None
        self._seen: int | None = None
        """As `_changes`, while something is waited for."""
        self._gone: set[int] = set()
        """Unfinished erasures whose persons are in no state any more."""
        self._later: set[int] = set()
        """Erasures of what was written while a former one let go of states."""
        self._again = False
        """Whether one of them has begun, so that all is begun anew."""
        self._compared = False
        """Whether views were looked at that may be older than an erasure that is finished."""
        self.is_under_way = False
        """Whether somebody is being erased, as far as is known."""
        self._is_cut_off = False
        self._told: set[str] = set()
        """Projections that are known to hold an erasure up."""
        self._letting_go: set[str] = set()
        """Reactors and sinks that may do something still because of what they had read."""
        self.not_asked: tuple[str, ...] = ()
        """Sinks of these views that this program does not declare."""
        self._folded: set[int] = set()
        """Unfinished erasures whose persons are in no views of this engine any more."""

    # -- the task -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Finish what is begun until `stop`; it goes on after a restart."""
        while not self._stopping.is_set():
            pause = self._poll_seconds
            try:
                await self._look()
                self._is_cut_off = False
                if self._told.intersection(self._elsewhere):
                    pause = _AGAIN_SECONDS
            except EngineError as error:
                self._changes = None
                self._tell(error)
                pause = _AGAIN_SECONDS
            except Exception as error:
                self._changes = None
                self._logger.error(
                    "an erasure is not finished, and is tried again\n%s", traceback_text(error)
                )
                pause = _AGAIN_SECONDS
            await self._pause(pause)

    def _tell(self, error: EngineError) -> None:
        """Log why it does not go on; if nobody is being erased, once until it does."""
        if self.is_under_way:
            self._logger.warning("an erasure is not finished, and is tried again: %s", error)
        elif not self._is_cut_off:
            text = "the keys of personal data cannot be had, and are asked for again: %s"
            self._logger.warning(text, error)
        self._is_cut_off = True

    def stop(self) -> None:
        """Let `run` return; what is not finished is gone on with by the next engine."""
        self._stopping.set()
        self._asked.set()

    def ask(self) -> None:
        """Look at once: somebody of this process has begun an erasure."""
        self._changes = self._seen = None
        self.is_under_way = True
        self._asked.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        except TimeoutError:
            return
        if not self._stopping.is_set():
            self._asked.clear()

    async def _look(self) -> None:
        changes = self._vault.store.change_count()
        if changes == self._changes:
            return
        # Kept first: who asks meanwhile has it looked at again.
        self._changes = changes
        begun = await self._vault.unfinished()
        self.is_under_way = bool(begun)
        if begun:
            await self._finish(begun)
        elif not self._compared:
            await self._compare()
        self._compared = True

    # -- what is done -------------------------------------------------------------------------

    async def _finish(self, begun: Sequence[Erasure]) -> None:
        """Let go of everything that was read before these erasures began."""
        await self._let_go_of(begun)
        if self._again:
            self._again, self._changes = False, None
            self._asked.set()
            return
        numbers = {each.number for each in begun}
        if not numbers <= self._folded:
            if not await self._former_are_gone() or not await self._fold_again(self._projecting):
                return
            await self._key_again()
            # Also of what somebody has taken away before: it is in the file until then.
            await self._scrub()
            if not await self._others_are_gone():
                return
            self._folded = numbers
        if not await self._erased_elsewhere(begun):
            self._changes = None
            return
        await self._name_others()
        for erasure in begun:
            await self._vault.store.finish(erasure.number, self._ports.clock.now())
            self._logger.info(
                "erasure %d is finished: %d keys were destroyed, and %d projections were built "
                "anew",
                erasure.number,
                erasure.keys,
                len(self._projecting),
            )
        self.is_under_way = False

    @property
    def waits_for(self) -> Sequence[str]:
        """Give the projections, of this program or of another, that hold erasures up."""
        return sorted(self._told | self._letting_go)

    async def _erased_elsewhere(self, begun: Sequence[Erasure]) -> bool:
        """Let sinks erase, all at once; tell whether all have."""
        subjects = [each.subject for each in begun]
        sinks = self._elsewhere.items()
        return all(await asyncio.gather(*(self._erased_in(*sink, subjects) for sink in sinks)))

    async def _erased_in(self, name: str, runner: ProjectionRunner, subjects: list[str]) -> bool:
        """Let a sink erase; tell whether it has. One that fails is named, and asked again."""
        self._letting_go.add(name)
        try:
            for projector in runner.serving:
                erase = self._sink_of(projector.part).erase
                await projector.ask(partial(erase, subjects))
        except Exception as error:
            if name not in self._told and not self._stopping.is_set():
                self._told.add(name)
                self._logger.warning(
                    "an erasure is not finished: sink %s may have the person still, and is "
                    "asked again\n%s",
                    name,
                    traceback_text(error, messages=shows_messages(self._logger)),
                )
            return False
        self._told.discard(name)
        self._letting_go.discard(name)
        return True

    async def _others_are_gone(self) -> bool:
        """Wait until the views have nothing of people that nobody here can fold or key again.

        Tell whether so. Somebody else may be erased meanwhile: then all is begun anew.
        """
        begun, waited = self._changes, set[str]()
        while others := await self._of_nobody():
            is_asked = self._changes != begun or self._vault.store.change_count() != begun
            if self._stopping.is_set() or is_asked:
                self._changes = None
                return False
            names = {name for group in others.values() for name in group}
            self._told.difference_update(waited - names)
            if not self._told.issuperset(names):
                self._logger.warning(
                    "an erasure is not finished: the views have %s, which this program "
                    "does not declare, and the person may be in them. A program that declares them "
                    "finishes it. If there is none any more, drop them while this one runs: "
                    "`%s projections drop`, or engine.projections.drop",
                    " and ".join(f"{what} of {', '.join(group)}" for what, group in others.items()),
                    COMMAND,
                )
            self._told.update(names)
            waited = names
            await asyncio.sleep(self._poll_seconds)
        self._told.difference_update(waited)
        if waited:
            await self._scrub()
        return True

    async def _of_nobody(self) -> Mapping[str, Sequence[str]]:
        """Name projections that this program does not declare, by what may have people there."""
        tables, parking = await self._views.undeclared(), await self._undeclared.parking()
        found = {"tables": tables, "parked events": parking}
        return {what: names for what, names in found.items() if names}

    async def _scrub(self) -> None:
        """Let the file of the views have nothing that was deleted."""
        if isinstance(self._views, Scrubbed):
            await self._views.scrub()

    async def _former_are_gone(self) -> bool:
        """Take away former tables of projections that see nobody any more; tell whether all are."""
        for runner in self._others:
            while not runner.serving and not self._stopping.is_set():
                await self._rest(runner)  # what is former serves until then
            if self._stopping.is_set():
                return False
            self._told.discard(runner.definition.name)
            await runner.desk.drop_former(_REASON)
        return True

    async def _key_again(self) -> bool:
        """Let no parked event stand under a key that was made of people; tell whether one did."""
        has_changed = False
        for runner in self._parking:
            if not await self._undeclared.parks_by_sequence(runner.definition.name):
                continue  # nobody is in the name of a stream, and there may be very many
            for projector in runner.serving:
                if await self._views.parked_keys(projector.part):
                    has_changed |= await self._keyed_again(projector)
        return has_changed

    async def _keyed_again(self, projector: Projector) -> bool:
        """Key what one part has parked; it is named until that is done, and where it fails."""
        name = projector.definition.name
        self._letting_go.add(name)  # what is under way there may take long
        again = Rekeying(self._views, projector, self._registry, self._limits)
        try:
            has_changed = await projector.ask(again.run)
        except Exception:
            if name not in self._told and not self._stopping.is_set():
                self._told.add(name)
                self._logger.warning(
                    "an erasure is not finished: the person may be in keys under which %s has "
                    "parked events, and they cannot be made anew. It is tried again",
                    name,
                )
            raise
        self._told.discard(name)
        self._letting_go.discard(name)
        return has_changed

    async def _name_others(self) -> None:
        """Tell which sinks nobody here can ask: what they have written may have the person."""
        names = tuple(await self._undeclared.sinks())
        if names and names != self.not_asked:
            self._logger.warning(
                "an erasure is finished here, and the person may be in what was written by %s: "
                "sinks that this program does not declare, so nobody has asked them. A program "
                "that declares such a read model erases people in it. If there is none any more, "
                "remove what it has written, then drop its name: `%s projections drop`",
                ", ".join(names),
                COMMAND,
            )
        self.not_asked = names

    async def _compare(self) -> None:
        """Fold again what serves and was made before a finished erasure: somebody put it back."""
        kept = [e for e in await self._vault.store.erasures() if e.finished]  # none of just now
        last = max((e.asked for e in kept if e.keys and is_subject(e.subject)), default=0)
        decided = await self._views.decisions() if last else ()
        swapped, dropped = (
            {d.projection for d in decided if d.kind == kind and d.decided >= last}
            for kind in ("swap", "drop")
        )
        older = {
            name: runner
            for name, runner in self._projecting.items()
            if last and runner.serving and name not in swapped & dropped
        }
        if last and await self._key_again():
            await self._scrub()
        if older:
            self._logger.warning(
                "the views of %s may be older than an erasure, as in an old copy: they are "
                "built anew, and may show who was erased until then",
                ", ".join(sorted(older)),
            )
            if await self._fold_again(older):
                await self._scrub()

    async def _fold_again(self, projecting: Mapping[str, ProjectionRunner]) -> bool:
        """Build projections anew beside what serves; tell whether all serve."""
        former = {name: await self._begin_again(each) for name, each in projecting.items()}
        for name, runner in projecting.items():
            if not await self._folded_again(runner, former[name]):
                return False
        return True

    async def _let_go_of(self, begun: Sequence[Erasure]) -> None:
        """Let states and snapshots lose the persons, and make none of what was read before."""
        if all(each.number in self._gone for each in begun):
            return
        let_go = await self._vault.let_go()
        self._vault.forget()
        self._vault.keeps_states = False
        await self._vault.erase_states()
        await self._empty_memory()
        await self._read_again()
        if not self._stopping.is_set():
            self._vault.keeps_states = True
            new = [each for each in begun if each.number not in self._gone]
            await self._erase_what_came(e for e in new if e.number > let_go)
            await self._vault.states_are_gone()
            self._gone = {each.number for each in begun}

    async def _erase_what_came(self, begun: Iterable[Erasure]) -> None:
        """Destroy the keys that were made while states had these persons still, once.

        A handler may have read a name before, and have written it behind: in this process, or in
        one that has ended before its states had let go. What this process has made is sound if the
        erasure was begun before it. No clock is asked.
        """
        vault = self._vault
        for each in begun:
            made = vault.made(each.subject) if each.keys else None
            if made is None or each.number in self._later:
                continue
            if made > vault.begun_before.get(each.number, made):
                continue
            why = _MEANWHILE.format(each.number)
            again = await vault.erase(each.subject, why, each.principal)
            self._later.add(again.number)
            self._again = True

    async def _read_again(self) -> None:
        """Let reactors and sinks begin nothing more because of events that they had read before."""
        for runner in self._delivering:
            name = runner.definition.name
            self._letting_go.add(name)  # what is under way there may take long
            try:
                for projector in runner.serving:
                    await projector.ask(projector.reopen)
            except Closed:
                if not self._stopping.is_set():
                    raise
            finally:
                if name not in self._elsewhere:  # that one is asked to erase next
                    self._letting_go.discard(name)

    async def _empty_memory(self) -> None:
        """Let all aggregates leave memory that were read before; busy ones when they rest."""
        waiting = [actor for actor in self._directory.actors if actor.kind.is_personal]
        while waiting and not self._stopping.is_set():
            waiting = self._directory.let_go(waiting)
            if waiting:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _begin_again(self, runner: ProjectionRunner) -> frozenset[int]:
        """Begin a build; give the builds that are not to serve any more."""
        if runner.building and runner.serving:
            # What is on its way may have folded him already.
            with suppress(UsageError):
                await runner.desk.cancel(_REASON)
        # The first tables of this version have nothing that serves meanwhile.
        while runner.building and not self._stopping.is_set():
            await self._rest(runner)
        former = frozenset(projector.part.build for projector in runner.serving)
        if not self._stopping.is_set():
            await runner.desk.rebuild(_REASON)
        return former

    async def _folded_again(self, runner: ProjectionRunner, former: frozenset[int]) -> bool:
        """Wait until what is built anew serves; tell whether it does."""
        while not self._stopping.is_set():
            if runner.building:
                await self._rest(runner)
            elif any(projector.part.build in former for projector in runner.serving):
                # Somebody has given the build up: what serves has the person still.
                await self._rest(runner)
                former = await self._begin_again(runner)
            else:
                self._told.discard(runner.definition.name)
                await runner.desk.drop_former(_REASON)
                return True
        return False

    async def _rest(self, runner: ProjectionRunner) -> None:
        """Wait a moment for a build; tell once that it stands still; let go of who is erased."""
        name = runner.definition.name
        # It also rests for a moment while it is swapped in.
        states = ("paused", "stopped") if runner.paused else ("stopped",)
        still = next((p.state for p in runner.building if p.state in states), None)
        if still is not None and name not in self._told:
            self._told.add(name)
            self._logger.warning(
                "an erasure is not finished: the new build of projection %s is %s, and what serves "
                "may have the person still. Resume it, or skip the event that stopped it",
                name,
                still,
            )
        await asyncio.sleep(_LOOK_SECONDS)
        changes = self._vault.store.change_count()
        if changes == self._seen:
            return
        self._seen = changes
        begun = await self._vault.unfinished()
        # Builds may take long: states do not wait for them.
        await self._let_go_of(begun)


def _sees_people(definition: ProjectionDefinition, registry: EventRegistry) -> bool:
    """Tell whether a projection takes events with personal data, by a handler of a base too."""
    classes = reaching(definition, registry.classes).handlers
    return Event in classes or registry.is_personal(c for c in classes if c is not Event)


def _erases(sink: Delivering | None) -> bool:
    return sink is not None and sink.erase is not None
