"""What an engine with `join=True` is made of: its part in the ownership, and its way to read.

Rules: an engine's parts stand here for as long as it lives, whoever owns the log. Commands go
through `forwarding`, and operators' calls through `projections`, wherever they end. What is read is
read from the views and the log of the store, or from this process's engine while it owns the log:
`use` is told which. Nothing is opened before `start`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from os import PathLike

import msgspec

from ..errors import DefinitionError, UsageError
from ..health.facts import Facts, facts_of
from ..health.watch import HealthWatch
from ..host.entrance import Entrance
from ..host.supervisor import Life
from ..log.bus import Bus
from ..log.feed import Feeds
from ..log.history import Histories
from ..model.given import shown
from ..outside.log_file import LogFile
from ..outside.onlooker import Waking
from ..queries.answers import Answers
from ..queries.live import LiveQueries
from ..queries.past import Pasts
from ..runtime.uncancelled import ended
from ..statistics import EngineStatistics
from ..stores.contract.backend import Runners
from ..stores.contract.log import Store
from ..stores.contract.membership import Heed
from ..stores.urls import StoreName, open_backend
from ..wiring import Declared, Settings, Wiring
from .controlling import MemberProjections
from .duties.asking import SharedProjections
from .duties.declaring import Sharing
from .duties.life import Duties, elsewhere
from .duties.rows import ViewsRows
from .forms import CommandForms
from .forwarding import Forwarding
from .meeting import LeaseMeeting, meeting_of
from .membership import Membership
from .reading import LogWatch, MemberAnswers, MemberFeeds, MemberLive, MemberViews
from .releases import not_kept, release_of
from .same_log import SameLog
from .sending import Sending
from .serving import HEALTH
from .spread.deciding import Spread
from .spread.leading import Leading
from .spread.router import Router
from .wire import Welcome

__all__ = ["Joined", "Reads", "joinable", "reads_of"]


class Reads(msgspec.Struct, frozen=True):
    """What an engine reads with."""

    answers: Answers | MemberAnswers
    live: LiveQueries | MemberLive
    past: Histories
    feeds: Feeds
    pasts: Pasts


def joinable(store: StoreName | Store) -> StoreName:
    """Give the name of a store, which each process opens for itself; refuse what is none."""
    if isinstance(store, str | PathLike):
        return store
    raise DefinitionError(
        f"join=True takes the URL or the path of a log, which each process opens for itself, and "
        f"not {shown(store)}"
    )


def reads_of(wiring: Wiring) -> Reads:
    """Give what the engine of this process reads with."""
    return Reads(wiring.answers, wiring.live, wiring.past, wiring.feeds, wiring.pasts)


class Joined:
    """The part of one process. Raises DefinitionError for a store that nobody can join.

    `first` is an engine as it was put together; `again` puts together another one.
    """

    def __init__(
        self,
        first: Wiring,
        again: Callable[[], Wiring],
        declared: Declared,
        settings: Settings,
        store: StoreName,
        use: Callable[[Reads], None],
        *,
        listen: str | None = None,
        elsewhere: bool = False,
        release: str | None = None,
        deciding: Callable[[Heed], Wiring] | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """Take also where an owner listens, if views are kept elsewhere, and the release's name.

        With `deciding`, which makes an engine that decides, each process owns a part of the log.
        With `sharing` each runs a part of the projections, and `first` is put together for none.
        """
        self._release = release_of(release, first.registry, declared.projections)
        self._first, self._again = first, again
        self._wiring: Wiring | None = None
        """The engine of this process, while it owns the log."""
        self._use = use
        self._made = sharing is not None
        self.life = Life()
        self.entrance = Entrance(self.life)
        self._ports = settings.ports
        outside = self.outside = open_backend(store).outside(settings.ports)
        # The port is for those that decide: calls of operators come in at any other one.
        meeting = meeting_of(
            outside.meeting(), listen, elsewhere, settings.logger, own_port=deciding is None
        )
        self.spread: Spread | None = None
        self._reads_on = meeting.keeps_reading
        forms = CommandForms(first.reception.kinds)
        reception = first.reception
        sending = self._sending = Sending(reception.checked_to_send, reception.kinds, first.watch)
        self._router: Router | None = None
        if deciding is not None:
            self._router = self._spread_by(deciding, forms, settings, listen)
        known = sending.check, self.entrance.check, forms, settings.limits
        self.forwarding = Forwarding(
            *known,
            may_lose_it=meeting.keeps_reading,
            patience_seconds=meeting.patience_seconds,
            failpoint=settings.ports.failpoint,
        )
        self.send = sending.around(self.forwarding.send)
        self.send_of_many = sending.around(self.forwarding.send_of_many)
        if self._router is not None:
            self.send = sending.around(self._router.send)
            self.send_of_many = sending.around(self._router.send_of_many)
        self._duties: Duties | None = None
        self._rows: ViewsRows | None = None
        self.projections = self._make_projections(sharing, len(declared.projections), settings)
        self._onlooker = MemberViews(
            projections=[*declared.projections],
            answers=declared.answers,
            store=store,
            limits=settings.limits,
            ports=settings.ports,
        )
        self._onlooker.belong_to(self, self._state_here)
        self._onlooker.observe(first.watch)
        self._onlooker.believe(lambda: self.forwarding.position)
        self._log = LogFile(outside.log_reader(), settings.ports)
        self._watching: asyncio.Task[None] | None = None
        self._watch, self.reads = self._make_reads(declared, settings)
        self._membership = Membership(
            *(self.life, self._make, meeting, SameLog(outside, self._ports), self, self.forwarding),
            *(forms, self._release, settings.logger),
            None if self._router is None else lambda envelope, _: self.send(envelope),
            settings.ports.failpoint,
        )
        looked = first.store, self._known_log_id, self._facts, self._role
        self.health = HealthWatch(self.life, self.entrance, settings.ports, *looked)

    def _spread_by(
        self,
        deciding: Callable[[Heed], Wiring],
        forms: CommandForms,
        settings: Settings,
        listen: str | None,
    ) -> Router:
        """Have commands decided by whoever owns their slots, and some of them here."""
        meeting = meeting_of(self.outside.meeting(), listen, False, settings.logger)
        if not isinstance(meeting, LeaseMeeting):
            raise DefinitionError(
                'join="spread" goes with a log in PostgreSQL: a file has one owner at a time, so '
                "write join=True"
            )
        reception, logger = self._first.reception, settings.logger
        router = Router(
            reception.checked_to_send,
            self._sending.check,
            self.entrance.check,
            forms,
            settings.limits,
            reception.stream_of,
            meeting,
            logger,
            settings.ports.failpoint,
        )
        parts = deciding, meeting, router, forms, self._release
        self.spread = Spread(
            *(*parts, logger, self._fail, settings.ports.failpoint),
            lambda: (self._read_to(), self._wiring is not None),
        )
        return router

    def _make_projections(
        self, sharing: Sharing | None, count: int, settings: Settings
    ) -> MemberProjections:
        """Have projections asked where they are run; with `sharing`, run a part of them here."""
        if sharing is None:
            return MemberProjections(self.forwarding, count)
        outside = self.outside
        assert isinstance(outside, Runners), "it was looked at as the engine was made"
        self._rows = ViewsRows(outside, settings.ports)
        known = self._rows, sharing.definitions, settings.logger, self._fail
        release = self._release.name
        self._duties = Duties(
            sharing.fold, outside, *known, release, lambda kept: self._onlooker.leave_out_too(kept)
        )
        asked = self._duties, self._rows, self._first.gate, self.entrance.check
        return SharedProjections(self.forwarding, count, *asked)

    def _fail(self, error: BaseException) -> None:
        self.life.state, self.life.failed = "failed", error

    def _state_here(self, name: str) -> str | None:
        """Give what a projection does in this process; None where this process does not run it."""
        if self._duties is not None and name in self._duties.definitions:
            return self._duties.state_here(name)
        runner = None if self._wiring is None else self._wiring.projecting.get(name)
        return None if runner is None else runner.statistics().state

    def _read_to(self) -> int | None:
        """Give the position up to which all has read that follows the log here; None for none."""
        running = () if self._wiring is None else self._wiring.projecting.values()
        found = [projector.statistics().position for projector in running]
        if self._watch.is_followed:
            found.append(self._watch.position)
        return min(found, default=None)

    def _make_reads(self, declared: Declared, settings: Settings) -> tuple[LogWatch, Reads]:
        first, check = self._first, self.entrance.check
        bus = Bus(settings.limits)
        notices = self._onlooker.notices
        waking = Waking(notices, None if notices is None else notices.appended)
        watch = LogWatch(self._log, bus, waking)
        past = Histories(
            self._log,
            first.definitions,
            first.registry,
            settings.limits,
            workers=settings.ports.workers,
            check_usable=check,
            gate=first.gate,
        )
        feeds = MemberFeeds(
            watch,
            self._log,
            bus,
            first.registry,
            first.definitions,
            settings.limits,
            check_usable=check,
            gate=first.gate,
        )
        pasts = Pasts(
            past,
            self._log,
            declared.projections,
            first.answers.definitions,
            settings.ports,
            settings.logger,
            dialect=first.views.dialect,
        )
        pasts.engine = self
        live = MemberLive(self._onlooker, check, self._is_stopping, first.gate)
        answers = MemberAnswers(self._onlooker, check, self._states)
        return watch, Reads(answers, live, past, feeds, pasts)

    def _is_stopping(self) -> bool:
        return self.life.state in ("stopping", "stopped")

    def _make(self) -> Wiring:
        """Give an engine to be tried: what was put together is used once."""
        wiring = self._again() if self._made else self._first
        self._made = True
        wiring.answers.engine = wiring.pasts.engine = self
        if self._router is not None:
            Leading(wiring, self._router.send_from)
        return wiring

    # -- from start to end --------------------------------------------------------------------

    async def start(self) -> None:
        """Become the owner or a member; raise what prevents both."""
        self.entrance.open()
        try:
            await self._membership.start()
            if self.spread is not None:
                await self._start_beside(self.spread)
            if self._duties is not None:
                await self._start_beside(self._duties)
        except BaseException:
            await self._close()
            raise

    async def _start_beside(self, part: Spread | Duties) -> None:
        try:
            await part.start()
        except BaseException:
            await self._membership.end()
            raise

    async def end(self) -> None:
        """Leave, and close what was opened."""
        try:
            if self._duties is not None:
                await self._duties.end()
            if self.spread is not None:
                await self.spread.end()
            await self._membership.end()
        finally:
            await self._close()

    async def _close(self) -> None:
        """Close it to the end, whatever cancels who waits; what closes has timeouts of its own."""
        closing = asyncio.create_task(self._close_all(), name="foldline closing")
        await ended(closing)
        closing.result()

    async def _close_all(self) -> None:
        if self._rows is not None:
            await self._rows.close()
        if self._watching is not None:
            feeds = self.reads.feeds
            feeds.stop()
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
            await self._log.close()
            await self._onlooker.__aexit__(None, None, None)
        await self._close_keys()

    @property
    def wiring(self) -> Wiring:
        """The engine of this process; while another process owns the log, one that is not open."""
        return self._wiring or self._first

    @property
    def past(self) -> Histories:
        """What this process looks back with."""
        own = self._wiring is not None and not self._reads_on
        return self.wiring.past if own else self.reads.past

    @property
    def log(self) -> Store | LogFile:
        """What this process reads the log with."""
        return self._log if self._wiring is None or self._reads_on else self._wiring.store

    def owning(self) -> Wiring:
        """Give the engine of this process; raise UsageError where another process owns the log."""
        if self._wiring is None:
            raise UsageError("another process owns the log: call this there")
        return self._wiring

    async def _open_keys(self, log_id: str, log: Store | LogFile) -> None:
        """Let all of this process use the first engine's keys, which no engine's end closes."""
        vault = self._first.vault
        if vault is not None:
            await vault.open(self._ports, log_id, log, self._first.registry.personal)
            vault.is_kept = True
            self._log.met = vault.know

    async def _close_keys(self) -> None:
        if self._first.vault is not None:
            self._first.vault.is_kept = False
            await self._first.vault.close()

    def statistics(self) -> EngineStatistics:
        """Give the numbers as they are now."""
        wiring = self.wiring
        numbers, read = wiring.statistics(), self._onlooker.statistics()
        membership = self._membership.statistics()
        if self.spread is not None and self._router is not None:
            numbers, spread = self.spread.statistics(numbers)
            membership = msgspec.structs.replace(
                membership, spread=spread, forwarded=spread.forwarded
            )
        position = max(numbers.position, self._watch.position)
        queries = {name: query.plus(read[name]) for name, query in numbers.queries.items()}
        projectors = numbers.projectors
        if self._wiring is None:
            projectors = elsewhere(projectors)
        if (duties := self._duties) is not None:
            projectors = {**projectors, **duties.statistics(position)}
            queries = {**read, **queries}  # none of its engines answers any
            membership = msgspec.structs.replace(
                membership,
                member=duties.member,
                duties=tuple(duties.names),
            )
        return msgspec.structs.replace(
            numbers,
            state=self.life.state,
            queries=queries,
            position=position,
            projectors=projectors,
            membership=msgspec.structs.replace(
                membership,
                answers=self._sending.answers,
                seconds=self._sending.seconds,
            ),
        )

    # -- how it is ----------------------------------------------------------------------------

    def _role(self) -> str:
        return self._membership.statistics().role

    def _known_log_id(self) -> str:
        return self._log.log_id if self._wiring is None else self._wiring.store.log_id

    async def _facts(self) -> Facts:
        """Give what the owner tells of itself, whoever that is."""
        if self._wiring is None:
            facts = await self.forwarding.call(HEALTH, Facts)
        else:
            facts = await facts_of(self._wiring)
        if not isinstance(self.projections, SharedProjections):
            return facts
        shared = await self.projections.facts()
        return msgspec.structs.replace(facts, projections=(*facts.projections, *shared))

    async def _states(self) -> Mapping[str, str]:
        """Give what each projection does, wherever it is run."""
        return {one.name: one.state for one in (await self._facts()).projections}

    def is_erasing(self) -> bool:
        """Tell whether an erasure is under way here: another owner finishes its own."""
        eraser = None if self._wiring is None else self._wiring.eraser
        return eraser is not None and eraser.is_under_way

    async def erasing(self) -> tuple[Sequence[str], Sequence[str]]:
        """Give what holds erasures up, and which sinks the owner does not declare."""
        facts = await self._facts()
        return facts.erasures_wait_for, facts.not_asked

    # -- what the membership tells ------------------------------------------------------------

    @property
    def log_id(self) -> str:
        """Of the log that this process reads."""
        return self._log.log_id

    async def begin_owning(self, wiring: Wiring) -> None:
        """Use the engine of this process from now on."""
        self._wiring, self.projections.own = wiring, wiring.projections
        if self._reads_on:
            # What is begun here goes on where another process has the log next.
            await self.begin_joining(None)
        else:
            if wiring is not self._first:
                await self._open_keys(wiring.store.log_id, wiring.store)
            self._use(reads_of(wiring))

    def end_owning(self) -> None:
        """Let another process's engine do from now on what this one's did."""
        self._wiring = self.projections.own = None

    async def begin_joining(self, owner: Welcome | None) -> None:
        """Use the store's views and log, which are opened the first time."""
        says = owner is None or owner.keeps is not None
        shared = () if self._duties is None else self._duties.definitions
        self._onlooker.leave_out(not_kept(self._release, owner, shared), misfits=says)
        if self._watching is None:
            await self._onlooker.__aenter__()
            try:
                await self._log.open()
                await self._watch.look()
            except BaseException:
                await self._log.close()
                await self._onlooker.__aexit__(None, None, None)
                raise
            self._watching = asyncio.create_task(self._run(), name="foldline log watch")
        await self._open_keys(self._log.log_id, self._log)
        self._use(self.reads)

    async def _run(self) -> None:
        """Watch the log, and let feeds end with the engine."""
        feeds = asyncio.ensure_future(self.reads.feeds.run())
        try:
            await self._watch.run()
        finally:
            self.reads.feeds.stop()
            await asyncio.wait([feeds])
