"""Operations of an engine of this process: `engine.operations`.

Rules: the engine's `authorize` is asked before anything is read or done: "control" of a projection,
of "timers", "claims", "members" or of "*" for the overview; "feed" of "*" for the log; "history"
of a stream. An overview is made once a second, whoever asks: who looks costs the engine nothing
that grows with their number. No aggregate is brought into memory, and nothing is written but what
`Projections` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, cast

import msgspec

from ..authorization import Action, Gate
from ..errors import Damaged, Forbidden, UsageError
from ..health.facts import Facts
from ..log.browsing import LogToBrowse, browse
from ..log.history import Histories
from ..log.selection import Selection
from ..members.roster import who_shares
from ..model.aggregate import Aggregate
from ..model.codec import EventRegistry
from ..model.retention import Retention
from ..personal.operations import PersonalData
from ..projections.operations import Projections, Status
from ..runtime.ports import Clock
from ..statistics import EngineStatistics
from ..stores.contract.acts import DONE_TEXTS, cancelled_text, dropped_text, skipped_text
from ..stores.contract.backend import Outside
from ..stores.contract.claims import HeldClaim
from ..stores.contract.requests import Arguments
from ..stores.contract.timers import WaitingTimer
from ..stores.contract.views import Parked, ProjectionDecision
from ..timers.desk import TimerDesk
from .answers import (
    Audit,
    Claims,
    Done,
    LogPage,
    Members,
    Overview,
    Retained,
    Sagas,
    ShownChange,
    ShownClaim,
    ShownProjection,
    ShownState,
    StreamCount,
    Timers,
)
from .audit import audit_of
from .operations import ACTS, Operations, TimerAct, checked_timer_act
from .pace import Pace
from .retaining import Retaining
from .sagas import process_kinds, sagas_page, with_states
from .shown import (
    as_json,
    checked_after,
    checked_limit,
    checked_stream,
    page_of,
    payload_max,
    shown_changes,
    timers_page,
)

__all__ = ["EngineOperations", "LogOfOperations", "Parts", "hot_streams"]

HOT_EVENTS: Final = 1_000
"""Events at the end of the log by which hot aggregates are told."""
_HOT_BYTES: Final = 1024 * 1024
_SHOWN_MAX: Final = 10
"""Aggregates of an overview."""
_KEPT_SECONDS: Final = 1.0
_HOT_SECONDS: Final = 5.0
"""Most of what an overview costs is to read the end of the log."""
_MEMBERS_SECONDS: Final = 2.0
_TROUBLED: Final = frozenset({"stopped", "paused", "retrying"})


class LogOfOperations(LogToBrowse, Protocol):
    """The log, with its tables of timers and claims."""

    async def read_claims(
        self, after: tuple[str, str] = ("", ""), *, claims_max: int
    ) -> list[HeldClaim]:
        """Read as `Store.read_claims` does."""
        ...

    async def read_timers(
        self, after: tuple[str, str] = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Read as `Store.read_timers` does."""
        ...


class Parts(msgspec.Struct, frozen=True):
    """What an engine reads with at this moment."""

    log: LogOfOperations
    registry: EventRegistry
    past: Histories
    projections: Projections
    fullest: Callable[[int], Sequence[tuple[str, int]]]
    """Gives the aggregates for which most commands wait."""


AskOwner: TypeAlias = Callable[[], Awaitable[tuple[Facts | None, str]]]
"""Asks the owner of a shared log how it is; gives None, and why, where it does not answer."""


class EngineOperations(Operations):
    """Operations of one engine; see `Operations` for what is asked and given."""

    def __init__(
        self,
        parts: Callable[[], Parts],
        statistics: Callable[[], EngineStatistics],
        check_usable: Callable[[], object],
        *,
        aggregates: Sequence[type[Aggregate]],
        personal: PersonalData,
        timer_desk: Callable[[], TimerDesk],
        outside: Outside | None,
        retaining: Retaining,
        gate: Gate | None,
        clock: Clock,
        ask_owner: AskOwner | None = None,
    ) -> None:
        self._parts = parts
        self._statistics = statistics
        self._check_usable = check_usable
        self._kinds: Mapping[str, type[Aggregate]] = {
            cls.__definition__.kind: cls for cls in aggregates
        }
        self._personal = personal
        self._timer_desk = timer_desk
        self._outside = outside
        self._gate = gate
        self._clock = clock
        self._ask_owner = ask_owner
        self._retaining = retaining
        self._pace = Pace()
        self._seen: tuple[float, Overview] | None = None
        self._hot: tuple[float, Sequence[StreamCount], int] | None = None

    @property
    def has_states(self) -> bool:
        """Always."""
        return True

    async def _begin(self, principal: str | None, action: Action, target: str) -> Parts:
        self._check_usable()
        if self._gate is not None:
            await self._gate.check(principal, action, target)
        return self._parts()

    # -- numbers ------------------------------------------------------------------------------

    async def overview(self, *, principal: str | None = None) -> Overview:
        """See `Operations.overview`."""
        parts = await self._begin(principal, "control", "*")
        now = self._clock.monotonic()
        if self._seen is None or now - self._seen[0] >= _KEPT_SECONDS:
            self._seen = now, await self._of_owner(await self._look(parts, now))
        return self._seen[1]

    async def _of_owner(self, overview: Overview) -> Overview:
        """Give an overview with what the owner of the log folds and fires, where others own it."""
        if self._ask_owner is None or overview.role == "owner":
            return overview
        facts, _ = await self._ask_owner()
        return with_facts(overview, facts)

    async def _look(self, parts: Parts, now: float) -> Overview:
        numbers = self._statistics()
        self._pace.look(now, numbers)
        head = await parts.log.head()
        if self._hot is None or now - self._hot[0] >= _HOT_SECONDS:
            self._hot = now, *await hot_streams(parts.log, head.position)
        _, hot, hot_of = self._hot
        projectors = numbers.projectors.values()
        lags = [p.lag_seconds for p in projectors if p.lag_seconds is not None]
        timers, membership = numbers.timers, numbers.membership
        return Overview(
            state=numbers.state,
            position=head.position,
            recorded=head.recorded or None,
            now=self._clock.now(),
            rates=self._pace.rates(),
            latencies=self._pace.latencies(numbers),
            commands_open=numbers.commands.open,
            answers=numbers.commands.answers,
            overloaded=numbers.commands.overloaded,
            undurable_events=numbers.journal.undurable_events,
            resident=numbers.aggregates.resident,
            mailboxes=_fullest(parts, numbers),
            hot=hot,
            hot_of=hot_of,
            projections=len(projectors),
            lag_events=max((p.lag_events or 0 for p in projectors), default=0),
            lag_seconds=max(lags, default=None),
            troubled=[p.name for p in projectors if p.state in _TROUBLED],
            parked=sum(p.parked for p in projectors),
            timers_waiting=timers.waiting,
            timers_due=timers.due,
            timers_parked=timers.parked,
            timers_lag_seconds=timers.lag_seconds,
            file_bytes=None if numbers.store is None else numbers.store.file_bytes,
            wal_bytes=None if numbers.store is None else numbers.store.wal_bytes,
            loop_blocked=numbers.loop_blocked,
            role=None if membership is None else membership.role,
        )

    async def position(self) -> int:
        """See `Operations.position`."""
        self._check_usable()
        return (await self._parts().log.head()).position

    # -- projections --------------------------------------------------------------------------

    async def projections(self, *, principal: str | None = None) -> Sequence[ShownProjection]:
        """See `Operations.projections`."""
        found = await self._parts().projections.list(principal=principal)
        return [_shown(status) for status in found]

    async def parked(
        self,
        projection: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """See `Operations.parked`."""
        return await self._parts().projections.parked(
            projection, key=key, after=after, limit=checked_limit(limit), principal=principal
        )

    async def act(
        self, kind: str, projection: str, arguments: Arguments, *, principal: str | None = None
    ) -> Done:
        """See `Operations.act`."""
        if kind not in ACTS:
            raise UsageError(f"{kind!r:.40} is nothing that is done with a projection: {ACTS}")
        projections, reason = self._parts().projections, arguments.reason
        named: dict[str, Any] = {"reason": reason, "principal": principal}
        if kind == "cancel":
            return Done("done", cancelled_text(await projections.cancel(projection, **named)))
        if kind == "drop":
            return Done("done", dropped_text(await projections.drop(projection, **named)))
        if kind == "retry":
            retried = await projections.retry(projection, key=arguments.key, **named)
            return Done("done", retried.text)
        if kind == "skip":
            position = 0 if arguments.position is None else arguments.position
            await projections.skip(projection, position, **named)
            return Done("done", skipped_text(position))
        plain = cast("Callable[..., Awaitable[None]]", getattr(projections, kind))
        await plain(projection, **named)
        return Done("done", DONE_TEXTS[kind])

    async def retry_timers(self, *, principal: str | None = None) -> Done:
        """See `Operations.retry_timers`."""
        count = await self._timer_desk().retry_parked(principal)
        return Done("done", f"timers that are tried again: {count}")

    async def act_on_timer(
        self,
        kind: TimerAct,
        stream: str,
        name: str,
        *,
        reason: str = "",
        principal: str | None = None,
    ) -> Done:
        """See `Operations.act_on_timer`."""
        desk = self._timer_desk()
        act = desk.fire if checked_timer_act(kind) == "fire" else desk.cancel
        return Done("done", await act(stream, name, reason, principal))

    # -- the log ------------------------------------------------------------------------------

    async def log(
        self,
        selection: Selection,
        *,
        kinds: frozenset[str] | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 50,
        payloads: bool = False,
        principal: str | None = None,
    ) -> LogPage:
        """See `Operations.log`."""
        checked_limit(limit)
        if selection.stream is None:
            parts = await self._begin(principal, "feed", "*")
        else:
            checked_stream(selection.stream)
            parts = await self._begin(principal, "history", selection.stream)
        found = await browse(
            parts.log,
            selection,
            after=after,
            before=before,
            limit=limit,
            kinds=kinds,
            payload_max=payload_max(limit, payloads=payloads),
        )
        return page_of(found, parts.registry, payloads=payloads)

    async def state(
        self, stream: str, version: int | None = None, *, principal: str | None = None
    ) -> ShownState:
        """See `Operations.state`."""
        cls, own_id = self._named(stream)
        state = await self._parts().past.state(cls, own_id, version, None, principal)
        return ShownState(stream, state.version, as_json(state))

    async def difference(
        self, stream: str, before: int, after: int, *, principal: str | None = None
    ) -> Sequence[ShownChange]:
        """See `Operations.difference`."""
        cls, own_id = self._named(stream)
        found = await self._parts().past.difference(cls, own_id, before, after, principal)
        return shown_changes(found)

    def _named(self, stream: str) -> tuple[type[Aggregate], str]:
        self._check_usable()
        kind, own_id = checked_stream(stream)
        if kind not in self._kinds:
            raise UsageError(f"no aggregate of the kind {kind!r:.100} is declared in this program")
        return self._kinds[kind], own_id

    # -- tables of the log --------------------------------------------------------------------

    async def timers(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        parked: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Timers:
        """See `Operations.timers`."""
        checked_limit(limit)
        log = (await self._begin(principal, "control", "timers")).log
        return await timers_page(
            lambda after, most: log.read_timers(after, timers_max=most),
            checked_after(after),
            limit,
            parked=parked,
            payloads=payloads,
        )

    async def sagas(
        self,
        *,
        before: int | None = None,
        limit: int = 50,
        waiting: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Sagas:
        """See `Operations.sagas`."""
        checked_limit(limit)
        await self._begin(principal, "control", "timers")
        log = (await self._begin(principal, "feed", "*")).log
        kinds = process_kinds([*self._kinds.values()])
        found = await sagas_page(
            log, kinds, before=before, limit=limit, waiting=waiting, payloads=payloads
        )
        return await with_states(self, found, principal) if payloads else found

    async def claims(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        principal: str | None = None,
    ) -> Claims:
        """See `Operations.claims`."""
        checked_limit(limit)
        log = (await self._begin(principal, "control", "claims")).log
        return claims_of(await log.read_claims(checked_after(after), claims_max=limit + 1), limit)

    async def members(self, *, principal: str | None = None) -> Members:
        """See `Operations.members`."""
        await self._begin(principal, "control", "members")
        if self._outside is None:
            return Members((), "this engine lets nobody join (Engine(join=True) does)")
        return Members(*await who_shares(self._outside, _MEMBERS_SECONDS))

    async def retention(
        self,
        rules: Sequence[Retention],
        *,
        dry_run: bool = False,
        at_rest: bool = False,
        principal: str | None = None,
    ) -> Sequence[Retained]:
        """See `Operations.retention`."""
        log = (await self._begin(principal, "control", "*")).log
        run = self._retaining.run
        return await run(log, rules, principal, dry_run=dry_run, at_rest=at_rest)

    async def audit(
        self, *, offset: int = 0, limit: int = 100, principal: str | None = None
    ) -> Audit:
        """See `Operations.audit`."""
        checked_limit(limit)
        projections = self._parts().projections
        decisions: list[ProjectionDecision] = []
        for status in await projections.list(principal=principal):
            decisions += await projections.decisions(status.name, principal=principal)
        with suppress(UsageError, Forbidden):  # of a process that does not own the log, or not his
            decisions += await self._timer_desk().decisions(principal)
        erasures = await self._personal.erasures(principal=principal)
        return await audit_of(decisions, erasures, self._parts().log, offset, limit)


def with_facts(overview: Overview, facts: Facts | None) -> Overview:
    """Give a member's overview with what its owner tells, or without what nobody does."""
    found = () if facts is None else facts.projections
    lags = [each.lag_seconds for each in found if each.lag_seconds is not None]
    return msgspec.structs.replace(
        overview,
        lag_events=None if facts is None else max((p.lag_events or 0 for p in found), default=0),
        lag_seconds=max(lags, default=None),
        troubled=[each.name for each in found if each.state in _TROUBLED],
        parked=None if facts is None else sum(each.parked for each in found),
        timers_waiting=None,
        timers_due=None,
        timers_parked=None if facts is None else facts.timers_parked,
        timers_lag_seconds=None if facts is None else facts.timers_overdue,
    )


def _fullest(parts: Parts, numbers: EngineStatistics) -> Sequence[StreamCount]:
    # While no command is open, no mailbox is looked at.
    if not numbers.commands.open:
        return ()
    return [StreamCount(*pair) for pair in parts.fullest(_SHOWN_MAX)]


async def hot_streams(log: LogToBrowse, end: int) -> tuple[Sequence[StreamCount], int]:
    """Give the streams with most of the last events, and of how many events."""
    after = max(0, end - HOT_EVENTS)
    if end == 0:
        return (), 0
    try:
        page = await log.read_feed(after, events_max=HOT_EVENTS, bytes_max=_HOT_BYTES)
    except Damaged:
        return (), 0  # the log's page shows it; who is called for it must see all the rest
    found = Counter(stored.stream for stored in page).most_common(_SHOWN_MAX)
    return [StreamCount(stream, count) for stream, count in found], len(page)


def claims_of(found: Sequence[HeldClaim], limit: int) -> Claims:
    """Give a page of claims, of which one more was read than is given."""
    shown = [ShownClaim(c.name, c.value, c.stream, c.position) for c in found[:limit]]
    more = (shown[-1].name, shown[-1].value) if len(found) > limit else None
    return Claims(shown, more)


def _shown(status: Status) -> ShownProjection:
    fields = {name: getattr(status, name) for name in Status.__struct_fields__}
    return ShownProjection(**fields)
