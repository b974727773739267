"""What operators do with one timer: let its command be run now, or not at all.

Rules: the gate is asked first. What is done is written into the book of decisions, synced, and then
into the log's table; both hold over restarts. A timer that was cancelled stays in the table, set
aside, until its aggregate sets or cancels it, or an operator lets it be fired after all. While its
command is being run nothing is changed: what was begun is not taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..authorization import Gate
from ..errors import UsageError
from ..model.given import as_text
from ..model.texts import unfit
from ..runtime.ports import Clock
from ..stores.contract.log import Store
from ..stores.contract.requests import TIMER_KINDS, Request, refusal_of
from ..stores.contract.timers import (
    FOREVER,
    SettledTimer,
    WaitingTimer,
    find_timer,
    no_timer_text,
    timer_target,
)
from ..stores.contract.views import DecisionKind, ProjectionDecision, ViewsStore
from .firing import Firing

__all__ = ["TimerDesk"]

_CAUSE_MAX: Final = 500
"""Characters of who cancelled a timer, and why."""


class TimerDesk:
    """Acts on the timers of one engine that fires them."""

    def __init__(
        self, store: Store, views: ViewsStore, firing: Firing, clock: Clock, gate: Gate | None
    ) -> None:
        self._store = store
        self._views = views
        self._firing = firing
        self._clock = clock
        self._gate = gate

    async def retry_parked(self, principal: str | None) -> int:
        """Let all timers that have failed be due now; give how many."""
        await self._check(principal)
        return await self._firing.retry_parked()

    async def fire(self, stream: str, name: str, reason: str, principal: str | None) -> str:
        """Let a timer be due now, as if it had neither failed nor been cancelled."""
        await self._act("fire-timer", stream, name, reason, principal)
        return "its command is run now"

    async def cancel(self, stream: str, name: str, reason: str, principal: str | None) -> str:
        """Set a timer aside, so that its command is not run."""
        await self._act("cancel-timer", stream, name, reason, principal)
        return "its command is not run"

    async def next_time(self) -> int | None:
        """Give when a timer is to be tried next, in µs; None if none waits."""
        page = await self._store.read_due(until=FOREVER, timers_max=1)
        return page[0].next if page else None

    def any_wait(self) -> bool:
        """Tell whether there is a timer that somebody may ask for."""
        return self._firing.any_stand

    def looked(self) -> None:
        """Take that what was asked for before the engine ran is done: timers may be fired."""
        self._firing.may_begin.set()

    async def do(self, request: Request) -> str:
        """Do what another process has asked for."""
        asked = request.arguments
        assert asked is not None, "what cannot be read was refused"
        assert refusal_of(request.kind, asked) is None, "and what is not complete, too"
        act = self.fire if request.kind == "fire-timer" else self.cancel
        return await act(asked.stream or "", asked.timer or "", asked.reason, request.principal)

    async def decisions(self, principal: str | None) -> Sequence[ProjectionDecision]:
        """Give what people decided about timers, the oldest first."""
        await self._check(principal)
        return [d for d in await self._views.decisions() if d.kind in TIMER_KINDS]

    async def _check(self, principal: str | None) -> None:
        if self._gate is not None:
            await self._gate.check(principal, "control", "timers")

    async def _act(
        self, kind: DecisionKind, stream: str, name: str, reason: str, principal: str | None
    ) -> None:
        as_text("stream=", stream)
        as_text("name=", name)
        as_text("reason=", reason)
        await self._check(principal)
        with self._firing.held((stream, name)):
            timer = await self._find(stream, name)
            self._firing.check_lands(timer)
            now = self._clock.now()
            await self._views.decide(
                ProjectionDecision(
                    timer_target(stream, name), kind, now, 0, timer.position, reason, principal
                )
            )
            settled = SettledTimer(stream, name, timer.position, now)
            if kind == "cancel-timer":
                why = f"cancelled by {principal or 'somebody'}" + (f": {reason}" if reason else "")
                place = stream, name, timer.position, timer.due
                settled = SettledTimer(*place, parked=True, cause=why[:_CAUSE_MAX])
            await self._store.settle_timers([settled])
            # Its aggregate may have set or cancelled it in between, which counts for more.
            after = await self._find(stream, name)
            if after.position != timer.position:
                raise UsageError(
                    f"the timer {name!r:.100} of {stream!r:.100} was set again at this moment: "
                    f"nothing was done to the new one"
                )
            self._firing.acted(timer, after)

    async def _find(self, stream: str, name: str) -> WaitingTimer:
        found = None
        if unfit(stream) is None and unfit(name) is None:
            found = await find_timer(
                lambda after, most: self._store.read_timers(after, timers_max=most), stream, name
            )
        if found is None:
            raise UsageError(no_timer_text(stream, name))
        return found
