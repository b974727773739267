"""Schedules: commands for a time, or again and again, that no aggregate of the host has set.

Rules: a schedule is an aggregate like any other, which the host declares: `Engine([Order,
Schedule])`. Its events say what was scheduled and when it ran, and timers do the rest. A run that
is not done when the next one is due gives way to it: runs do not pile up. Those that were missed
while no engine ran are made up for by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Final
from zoneinfo import ZoneInfo

from ..errors import HandlerFailed, InvalidInput, Rejected, UsageError, Voided
from ..model.aggregate import Aggregate, Context, applies, handles
from ..model.decisions import Decision
from ..model.messages import Command, Event, Id
from ..model.timers import After, At, CancelTimer, TimedCommands, Timer
from ..write.sampling import Caught

__all__ = ["DropSchedule", "Schedule", "SetSchedule", "next_run"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_RUN: Final = "run"
_NEXT: Final = "next"


class SetSchedule(Command, name="set-schedule"):
    """Let a command be run at a time, and again where it says so; see `Engine.schedule`."""

    schedule: Id
    command: str
    """The stored name of its class."""
    payload: str
    """The command as JSON."""
    due: int
    """Of the first run, in µs since 1970-01-01 UTC."""
    every: int = 0
    """µs from one run to the next; 0 for none."""
    cron: str = ""
    """Times of further runs, as five fields; empty for none."""
    zone: str = "UTC"
    """In which these are meant."""


class DropSchedule(Command, name="drop-schedule"):
    """Let a schedule's command be run no more."""

    schedule: Id


class RunSchedule(Command, name="run-schedule"):
    """Begin a run; sent by a timer alone."""

    schedule: Id
    due: int


class ScheduleSet(Event, name="schedule-set"):
    """A command is to be run at a time, and perhaps again."""

    command: str
    payload: str
    due: int
    every: int
    cron: str
    zone: str


class ScheduleDropped(Event, name="schedule-dropped"):
    """Its command is run no more."""


class ScheduleRan(Event, name="schedule-ran"):
    """A run of a recurring schedule has begun."""

    due: int
    next: int
    """When the next one is due, in µs since 1970-01-01 UTC."""


class Schedule(Aggregate, kind="schedule", snapshot_every=1_000):
    """Commands for a time: declare it, `Engine([Order, Schedule])`, and call `engine.schedule`."""

    command: str = ""
    """The stored name of the command; empty if nothing is scheduled."""
    payload: str = ""
    """The command as JSON."""
    every: int = 0
    """µs from one run to the next; 0 for none."""
    cron: str = ""
    """Times of further runs, as five fields; empty for none."""
    zone: str = "UTC"
    """In which these are meant."""

    @handles
    def set(self, command: SetSchedule, known: TimedCommands) -> Decision[ScheduleSet]:
        """Take the place of whatever was scheduled under this name."""
        told = ScheduleSet(
            *(command.command, command.payload, command.due),
            *(command.every, command.cron, command.zone),
        )
        if command.every or command.cron:
            timer = At(command.due, RunSchedule(self.id, command.due), _NEXT)
            return Decision(told, timers=[timer])
        try:
            once = known.decode(command.command, command.payload.encode())
        except HandlerFailed as error:  # it was made of a command that its sender knows
            raise Caught(
                Voided(
                    f"the process that owns the log does not know {command.command!r} so: it runs "
                    f"another release. Nothing was run; send again when all are of one release."
                )
            ) from error
        return Decision(told, timers=[At(command.due, once, _RUN), CancelTimer(_NEXT)])

    @handles
    def run(
        self, command: RunSchedule, ctx: Context, known: TimedCommands
    ) -> Decision[ScheduleRan] | None:
        """Run the command once, and set the timer of the next run."""
        if not (self.every or self.cron):
            return None
        due = next_run(max(command.due, ctx.now), command.due, self.every, self.cron, self.zone)
        once = known.decode(self.command, self.payload.encode())
        timers: list[Timer] = [After(once, _RUN), At(due, RunSchedule(self.id, due), _NEXT)]
        return Decision(ScheduleRan(command.due, due), timers=timers)

    @handles
    def drop(self, _: DropSchedule) -> Decision[ScheduleDropped]:
        """Cancel it; a run that is due already is cancelled too."""
        if not self.command:
            raise Rejected("not-scheduled", f"nothing is scheduled as {self.id}")
        return Decision(ScheduleDropped(), timers=[CancelTimer(_RUN), CancelTimer(_NEXT)])

    @applies
    def was_set(self, event: ScheduleSet) -> None:
        """Keep what is needed for further runs."""
        self.command, self.payload = event.command, event.payload
        self.every, self.cron, self.zone = event.every, event.cron, event.zone

    @applies
    def was_dropped(self, _: ScheduleDropped) -> None:
        """Forget it."""
        self.command, self.payload, self.every, self.cron = "", "", 0, ""

    @applies
    def ran(self, _: ScheduleRan) -> None:
        """Change nothing: timers know when the next run is."""


def next_run(now: int, former: int, every: int, cron: str, zone: str) -> int:
    """Give when a schedule runs next behind `now`, in µs; raise InvalidInput for what never does.

    `former` is when it was due before: runs at an interval keep its beat.
    """
    if every:
        return former + every * ((now - former) // every + 1)
    local = (_EPOCH + now * _MICROSECOND).astimezone(ZoneInfo(zone))
    for found in _cron(cron, local):
        due = (found - _EPOCH) // _MICROSECOND
        # In an hour that a zone has twice, the first times found are those of its first round.
        if due > now:
            return due
    raise InvalidInput(f"cron={cron!r} has no time within the next fifty years")


def _cron(text: str, local: datetime) -> Iterator[datetime]:
    """Give the times of a cron expression behind a moment, in its zone; InvalidInput for none."""
    try:
        # At the call: only who gives cron= needs the package.
        module: Any = import_module("cronsim")
    except ImportError as error:
        raise UsageError(
            "cron= needs the package cronsim: install the extra `cron`, as in "
            "pip install '../foldline[cron]'"
        ) from error
    simulate: Callable[[str, datetime], Iterator[datetime]] = module.CronSim
    try:
        return simulate(text, local)
    except module.CronSimError as error:
        raise InvalidInput(
            f"cron={text!r:.80} is none: {error}. Give five fields, as '30 3 * * mon-fri': minute, "
            f"hour, day of the month, month, day of the week"
        ) from error
