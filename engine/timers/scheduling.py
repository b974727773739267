"""What `engine.schedule` is given, checked, as a command to the schedule.

Rules: whatever is wrong is InvalidInput, before anything is run. A schedule without a time of its
own begins at the next one that its cron expression has, or after one interval.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from ..errors import DefinitionError, HandlerFailed, InvalidInput
from ..model.given import shown
from ..model.messages import Command, Receipt, check_name
from ..model.timers import SECONDS_AHEAD_MAX, SECONDS_PAST_MAX, TimedCommands
from ..runtime.ports import Clock
from .desk import TimerDesk
from .schedule import DropSchedule, SetSchedule, next_run

__all__ = ["Scheduling", "schedule_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_EVERY_LEAST: Final = timedelta(seconds=1)


class Scheduling:
    """The part of an engine that schedules commands."""

    _known: TimedCommands
    _clock: Clock

    def _timer_desk(self) -> TimerDesk:
        """Give what acts on timers; raise Closed, and UsageError where none are fired."""
        raise NotImplementedError

    async def execute(self, command: Command[Any], *, principal: str | None = None) -> Any:
        """Run one command."""
        raise NotImplementedError

    async def schedule(
        self,
        command: Command[Any],
        name: str,
        *,
        at: datetime | None = None,
        after: timedelta | None = None,
        every: timedelta | None = None,
        cron: str | None = None,
        zone: str = "UTC",
        principal: str | None = None,
    ) -> Receipt:
        """Let a command be run later, once or again and again; return when that is durable.

        - `command`: is run as a timer's: once for each time, also across restarts.
        - `name`: of the schedule. Given again, it takes the place of the one of that name.
        - `at`, `after`: when it is run first: a datetime with a zone, or a duration from now.
        - `every`: the time from one run to the next, at least a second.
        - `cron`: five fields, as "30 3 * * mon-fri"; needs the extra `cron`.
        - `zone`: the time zone of these fields, as "Europe/Berlin".
        - `principal`: on whose behalf; `authorize` is asked about the schedule, and not each run.

        A run that is still tried when the next one is due gives way to it. If runs were missed
        while no engine ran, one is made at the start. Declare `Schedule` among the aggregates.
        Raises InvalidInput for what cannot be scheduled, and what `execute` raises.
        """
        given = schedule_of(
            *(self._known, self._clock.now(), command, name),
            at=at,
            after=after,
            every=every,
            cron=cron,
            zone=zone,
        )
        receipt: Receipt = await self.execute(given, principal=principal)
        return receipt

    async def unschedule(self, name: str, *, principal: str | None = None) -> Receipt:
        """Let a scheduled command be run no more; return when that is durable.

        Raises Rejected ("not-scheduled") if nothing is scheduled under that name, and what
        `execute` raises.
        """
        receipt: Receipt = await self.execute(DropSchedule(name), principal=principal)
        return receipt

    async def next_timer(self) -> int | None:
        """Give when the next timer is to be tried, in µs since 1970-01-01 UTC; None for never.

        One that is being fired is in it. Raises Closed, StoreFailed, and UsageError in a process
        that does not own the log.
        """
        return await self._timer_desk().next_time()

    async def retry_timers(self, *, principal: str | None = None) -> int:
        """Try all timers again that were parked since their commands failed; give how many.

        They are due at once, and counted as if they had not failed before. `authorize` is asked
        for the action "control" of "timers". Raises Forbidden, StoreFailed, and UsageError in a
        process that does not own the log.
        """
        return await self._timer_desk().retry_parked(principal)

    async def fire_timer(
        self, stream: str, name: str, *, reason: str = "", principal: str | None = None
    ) -> None:
        """Let the command of a timer be run now, also if it has failed or was cancelled.

        - `stream`: which set the timer, as `order:o-1`.
        - `name`: of the timer, as `foldline timers` lists it.
        - `reason`, `principal`: are kept with the decisions about projections.
        - `principal` also goes to `authorize`, with the action "control" of "timers".

        It returns when that is durable, and does not wait for the command. Raises UsageError if
        there is no such timer, or its command is being run at this moment, or this process does not
        own the log; Forbidden; Closed; InvalidInput; and StoreFailed.
        """
        await self._timer_desk().fire(stream, name, reason, principal)

    async def cancel_timer(
        self, stream: str, name: str, *, reason: str = "", principal: str | None = None
    ) -> None:
        """Let the command of a timer not be run, whatever its aggregate has decided.

        The timer stays in the log, set aside with who cancelled it and why, so `fire_timer` can let
        it be run after all. If its aggregate sets a timer of that name again, that one waits as
        usual. It takes and raises what `fire_timer` does.
        """
        await self._timer_desk().cancel(stream, name, reason, principal)


def schedule_of(
    known: TimedCommands,
    now: int,
    command: object,
    name: object,
    *,
    at: object,
    after: object,
    every: object,
    cron: object,
    zone: object,
) -> SetSchedule:
    """Give what is to be sent to the schedule; raise InvalidInput. `now` is in µs."""
    try:
        checked = check_name(name, "a schedule", 'Write `name="..."`.')
        stored, payload = known.encode("schedule(...)", command)
    except (DefinitionError, HandlerFailed) as error:
        raise InvalidInput(f"{str(error).removesuffix('Nothing was written.')}") from error
    if (at is not None) + (after is not None) > 1 or (every is not None) + (cron is not None) > 1:
        raise InvalidInput("give at= or after=, and every= or cron=, and not two of a pair")
    if at is None and after is None and every is None and cron is None:
        raise InvalidInput("say when: at=, after=, every= or cron=")
    beat = 0 if every is None else _span("every", every, _EVERY_LEAST)
    text, place = _cron_of(cron, zone)
    due = _first(now, at, after, beat, text, place)
    ahead = (due - now) / 1e6
    if not -SECONDS_PAST_MAX <= ahead <= SECONDS_AHEAD_MAX:
        raise InvalidInput(
            f"the schedule {checked!r} begins {ahead:,.0f} s from now: give a time from now on, "
            f"within {SECONDS_AHEAD_MAX // 86_400:,} days"
        )
    return SetSchedule(checked, stored, payload.decode(), due, beat, text, place)


def _first(now: int, at: object, after: object, every: int, cron: str, zone: str) -> int:
    if at is not None:
        if not isinstance(at, datetime) or at.utcoffset() is None:
            raise InvalidInput(f"at= is a datetime with a time zone, not {shown(at)}")
        return (at - _EPOCH) // _MICROSECOND
    if after is not None:
        return now + _span("after", after, timedelta(0))
    return next_run(now, now, every, cron, zone)


def _span(what: str, given: object, least: timedelta) -> int:
    """Give a duration in µs."""
    if not isinstance(given, timedelta) or given < least:
        raise InvalidInput(
            f"{what}= is a timedelta of at least {least.total_seconds():g} s, as "
            f"timedelta(minutes=5), not {shown(given)}"
        )
    return given // _MICROSECOND


def _cron_of(cron: object, zone: object) -> tuple[str, str]:
    if cron is not None and not isinstance(cron, str):
        raise InvalidInput(f"cron= is a text of five fields, not {shown(cron)}")
    try:
        ZoneInfo(str(zone))
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput(
            f"zone= names a time zone, as 'Europe/Berlin', and not {shown(zone)}"
        ) from error
    if cron is not None:
        next_run(0, 0, 0, cron, str(zone))
    return cron or "", str(zone)
