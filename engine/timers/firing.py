"""Fires timers: sends the command of each to its actor when it is due.

Rules:
- It sleeps until the next timer is due, and is woken when an earlier one is set.
- No timer is fired early by the engine's clock. Those that are late are fired in the order of their
  times, so many at once and no more.
- The command's events take the timer away in their own transaction, which refuses them if the timer
  was cancelled or set anew meanwhile. A command that writes nothing has it settled afterwards.
- Rejected is an outcome, which the aggregate that set the timer may decide about. What was not run
  for want of room, or was voided, is sent again. What fails otherwise is tried again later and
  later, and then set aside with its cause.
- When the engine stops, nothing more is sent; what is not fired waits in the log.

It decides nothing, and never writes an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from ..errors import (
    Closed,
    Conflict,
    EngineError,
    HandlerFailed,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    StoreFailed,
    UsageError,
    Voided,
)
from ..histogram import Histogram
from ..limits import Limits
from ..model.codec import Metadata, read_metadata
from ..model.messages import Envelope
from ..model.timers import TimedCommands
from ..runtime.bell import Bell
from ..runtime.contained import is_of_the_moment, is_unreached
from ..runtime.ports import Ports, jumps_of
from ..runtime.safely import shows_messages, text_of
from ..statistics import TimerStatistics
from ..stores.contract.log import Extra, Store
from ..stores.contract.timers import (
    FOREVER,
    DropTimer,
    FiredTimer,
    SetTimer,
    SettledTimer,
    TimerKey,
    WaitingTimer,
)
from .aside import UNKNOWN, Aside, has_failed, reason_of
from .due import DueTimers, Sent
from .giving import Fire, SentCommand, TellRejection
from .settling import SPENT, Settling, spent
from .tally import Tally

__all__ = ["Firing"]

_SENT_PER_TURN: Final = 64
"""Commands sent before the event loop gets its turn."""
_LOOK_SECONDS: Final = 10.0
"""How long it sleeps at most while a timer waits: the clock may be put right meanwhile."""
_BEGIN_SECONDS: Final = 5.0
"""How long a cancellation that waits for an engine may keep all timers waiting at its start."""
_PAUSE_SECONDS: Final = 0.05
_PAUSE_SECONDS_MAX: Final = 2.0
_RETRY_SECONDS_MAX: Final = 300.0
_PATIENT_RETRIES: Final = 20
"""At least, for what may pass by itself, such as a service that is away: more than an hour."""
_CAUSE_MAX: Final = 500
"""Characters of a cause that are kept."""
_DOUBLINGS_MAX: Final = 16


class Firing:
    """The task that fires the timers of one engine, until `stop`."""

    def __init__(
        self,
        store: Store,
        fire: Fire,
        known: TimedCommands,
        ports: Ports,
        limits: Limits,
        logger: logging.Logger,
        is_ending: Callable[[], bool],
        told: TellRejection,
    ) -> None:
        """Take the log, what posts commands, and what tells who set one that it was rejected."""
        self._told = told
        self._store = store
        self.fire = fire
        self._commands = known
        self._clock = ports.clock
        self._failpoint = ports.failpoint
        self._limits = limits
        self._logger = logger
        self._is_ending = is_ending
        self.settling = Settling(store, ports.failpoint, logger, self._note_settled)
        """The task beside it, which is to be run too."""
        self._bell = Bell()
        self._stopping = Bell()
        self._wakes_at = 0
        """The time for which it sleeps; 0 while it is awake."""
        self._sent: dict[Sent, WaitingTimer] = {}
        """Those that were sent and are not settled."""
        self._due = DueTimers(store, ports.clock, self._sent.keys(), logger)
        self.may_begin = Bell()
        """Rung when what operators have asked for in advance is done, or need not be waited for."""
        self._turned_away = False
        """Whether a command found no room, or was voided: it is sent again after a pause."""
        self._pause = 0.0
        self._store_failed = False
        self._tally = Tally(store, ports.clock)
        self._aside = Aside(store, known, self._tally, ports.clock, logger)
        self._seeks_known = False
        """Whether some were set aside whose commands this release may know."""
        self._fired = self._rejected = self._failed = 0
        self._late_seconds = Histogram.of_seconds()

    def begin(self, timers: int, failed: int, cancelled: int) -> None:
        """Take how many timers there are, as the store counts them."""
        self._tally.begin(timers, failed, cancelled)
        self._seeks_known = failed > 0

    def statistics(self) -> TimerStatistics:
        """Give the numbers as they are now; called from any thread."""
        now = self._clock.now()
        due = [timer.due for timer in list(self._sent.values())] + self._due.late(now)
        return TimerStatistics(
            waiting=max(0, self._tally.waiting),
            due=len(due),
            lag_seconds=max(0.0, (now - min(due)) / 1e6) if due else 0.0,
            fired=self._fired,
            rejected=self._rejected,
            failed=self._failed,
            parked=max(0, self._tally.parked),
            late_seconds=self._late_seconds.copy(),
        )

    # -- what the journal says ----------------------------------------------------------------

    def changed(self, extras: Sequence[Extra], more: int) -> None:
        """Note what is durable now: timers set and taken away, and how many more there are."""
        for extra in extras:
            if isinstance(extra, SetTimer):
                self._due.forget((extra.stream, extra.name))
                self._look_at(extra.due)
            elif isinstance(extra, DropTimer | FiredTimer):
                self._due.forget((extra.stream, extra.name))
        self._tally.changed(more)
        if self._tally.seconds is not None:
            self._bell.set()  # they are to be counted

    def _look_at(self, time: int) -> None:
        """See that the store is asked at a time of which nothing is known."""
        self._due.look_at(time)
        if time < self._wakes_at:
            self._bell.set()

    def look(self) -> None:
        """Ask the store what stands: others may have set timers."""
        self._tally.doubt()
        self._look_at(0)

    async def retry_parked(self) -> int:
        """Let all timers that are parked be due now, as if they had not failed; give how many.

        It returns when that is durable. Raises StoreFailed.
        """
        count = await self._aside.retry()
        self._look_at(0)
        return count

    # -- what operators do --------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self, key: TimerKey) -> Generator[None]:
        """Let a timer not be sent as long as the block lasts; raise UsageError if another holds it.

        It is read again afterwards.
        """
        with self._due.held(key):
            try:
                yield
            finally:
                self._look_at(0)

    def check_lands(self, timer: WaitingTimer) -> None:
        """Raise UsageError if the command of a timer is being run."""
        if (*timer.key, timer.position) in self._sent:
            raise UsageError(
                f"the command of the timer {timer.name!r:.100} of {timer.stream!r:.100} is being "
                f"run at this moment: nothing was done"
            )

    @property
    def any_stand(self) -> bool:
        """Whether there may be a timer."""
        return self._tally.any_stand

    def acted(self, before: WaitingTimer, after: WaitingTimer) -> None:
        """Count what an operator did to a timer."""
        self._tally.acted(
            waiting=(not after.parked) - (not before.parked),
            failed=has_failed(after) - has_failed(before),
            cancelled=after.cancelled,
        )

    # -- its life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Fire what is due, until `stop`."""
        end = jumps_of(self._clock, self._bell.set)
        try:
            await _wait(self.may_begin, _BEGIN_SECONDS)
            while not self._stopping.is_set():
                try:
                    if self._seeks_known:
                        await self._aside.retry_known()
                        self._seeks_known = False
                    await self._go_on()
                    self._store_failed = False
                except StoreFailed as error:
                    if not self._store_failed:
                        self._logger.warning("timers are fired later: %s", error)
                    self._store_failed = True
                    self._due.look_at(0)
                    await _wait(self._stopping, _PAUSE_SECONDS_MAX)
        finally:
            end()

    def stop(self) -> None:
        """Send nothing more, and let `run` return."""
        self._stopping.set()
        self.may_begin.set()
        self._bell.set()

    async def _go_on(self) -> None:
        """Send what is due, then sleep until there is more to do."""
        self._bell.clear()  # first: what rings from now on is heard when it sleeps
        if self._turned_away:
            self._turned_away = False
            self._pause = min(max(2 * self._pause, _PAUSE_SECONDS), _PAUSE_SECONDS_MAX)
            await _wait(self._stopping, self._pause)
        if self._tally.seconds == 0:
            async with self.settling.noting:
                await self._tally.count()
        if not self._is_ending() and self._due.is_to_read:
            await self._due.read()
        while self._due.is_due and not self._is_ending() and not self._is_held_up:
            self._send_some()
            await asyncio.sleep(0)
        await self._sleep()

    def _send_some(self) -> None:
        """Send what is due now, and no more than a turn's worth."""
        for _ in range(_SENT_PER_TURN):
            if self._is_held_up or (timer := self._due.take()) is None:
                return
            self._send(timer)

    @property
    def _is_held_up(self) -> bool:
        return self._turned_away or self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self._sent) >= self._limits.timers_at_once

    async def _sleep(self) -> None:
        if self._turned_away:
            return
        if self._is_full or self._is_ending():
            await self._bell.wait()
            return
        self._wakes_at = self._due.next
        seconds = (self._wakes_at - self._clock.now()) / 1e6
        count = self._tally.seconds
        if self._wakes_at == FOREVER and count is None:
            await self._bell.wait()
        elif seconds > 0:
            await _wait(self._bell, min(seconds, _LOOK_SECONDS if count is None else count))
        self._wakes_at = 0

    # -- one of them --------------------------------------------------------------------------

    def _send(self, timer: WaitingTimer) -> None:
        if self._failpoint is not None:
            self._failpoint("timers.due")
        self._sent[*timer.key, timer.position] = timer
        if timer.cause == SPENT:
            self.settling.add(SettledTimer(timer.stream, timer.name, timer.position))
            return
        try:
            carried = read_metadata(timer.metadata)
            envelope = self._envelope(timer, carried)
        except HandlerFailed as error:
            self._failed += 1
            self.settling.add(self._postponed(timer, error, UNKNOWN))
            return
        try:
            fired = FiredTimer(timer.stream, timer.name, timer.position)
            mail = self.fire(envelope, fired, carried.depth)
        except EngineError as error:
            self._take(timer, error, wrote=False)
        else:
            mail.answer.add_done_callback(partial(self._answered, timer, mail))

    def _envelope(self, timer: WaitingTimer, carried: Metadata) -> Envelope:
        event_id = f"{timer.stream}@{timer.version}"
        return Envelope(
            command=self._commands.decode(timer.command, timer.payload),
            key=f"timer:{timer.position}:{timer.name}",
            correlation=carried.correlation or event_id,
            causation=event_id,
            principal=carried.principal,
            headers=carried.headers,
        )

    def _answered(
        self, timer: WaitingTimer, mail: SentCommand, future: asyncio.Future[Any]
    ) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, Rejected) and self._tell(timer, mail.envelope, error):
            return
        self._take(timer, error, wrote=mail.wrote)

    def _tell(self, timer: WaitingTimer, envelope: Envelope, rejection: Rejected) -> bool:
        """Let the aggregate that set a timer hear that its command was rejected, if it wants to.

        What it decides then takes the timer away, as the command's events would have.
        """
        command = self._told(timer.stream, envelope.command, rejection)
        if command is None:
            return False
        self._rejected += 1
        key = f"{envelope.key}:refused"
        envelope = msgspec.structs.replace(envelope, command=command, key=key)
        try:
            fired = FiredTimer(timer.stream, timer.name, timer.position)
            mail = self.fire(envelope, fired, read_metadata(timer.metadata).depth)
        except EngineError as error:
            self._take(timer, error, wrote=False)
        else:
            mail.answer.add_done_callback(partial(self._heard, timer, mail))
        return True

    def _heard(self, timer: WaitingTimer, mail: SentCommand, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        self._take(timer, error, wrote=mail.wrote)

    def _take(self, timer: WaitingTimer, error: BaseException | None, *, wrote: bool) -> None:
        """Take what a timer's command led to."""
        if error is None or isinstance(error, Rejected):
            self._fired += 1
            self._pause = 0.0
            self._late_seconds.record(max(0.0, (self._clock.now() - timer.due) / 1e6))
            if error is None and wrote:
                self._land(timer)
                return
            if isinstance(error, Rejected):
                self._rejected += 1
                self._logger.info(
                    "the timer %s of %s: its command %s was rejected as %s",
                    timer.name,
                    timer.stream,
                    timer.command,
                    error.code,
                )
            self.settling.add(spent(timer, self._clock.now()))
        elif isinstance(error, Overloaded | Voided | Conflict):
            self._turned_away = True
            self._due.look_at(0)
            self._land(timer)
        elif isinstance(error, Closed | OutcomeUnknown):
            if not self._is_ending():  # whoever decides it has gone, and the next one takes it
                self._turned_away = True
                self._due.look_at(0)
            self._land(timer)  # else the engine ends, and the next one looks what stands
        else:
            self._failed += 1
            self.settling.add(self._postponed(timer, *reason_of(error)))

    def _postponed(self, timer: WaitingTimer, error: BaseException, why: str = "") -> SettledTimer:
        """Let a timer wait again, or set it aside."""
        attempts = timer.attempts + 1
        retries = self._limits.timer_retries
        of_system = isinstance(error.__cause__, OSError)
        if of_system or is_of_the_moment(error) or is_unreached(error):
            retries = max(retries, _PATIENT_RETRIES)
        parked = attempts > retries
        seconds = min(2.0 ** min(attempts - 1, _DOUBLINGS_MAX), _RETRY_SECONDS_MAX)
        cause = f"{why or f'{type(error).__name__}: '}{text_of(error)}"[:_CAUSE_MAX]
        again = "is set aside" if parked else f"is tried again in {seconds:g} s"
        self._logger.log(
            logging.ERROR if parked else logging.WARNING,
            "the timer %s of %s: its command %s failed with %s, and it %s",
            timer.name,
            timer.stream,
            timer.command,
            cause if shows_messages(self._logger) else type(error).__name__,
            again,
        )
        time = self._clock.now() + round(seconds * 1e6)
        return SettledTimer(timer.stream, timer.name, timer.position, time, attempts, parked, cause)

    def _land(self, timer: WaitingTimer) -> None:
        del self._sent[*timer.key, timer.position]
        self._bell.set()

    def _note_settled(self, settled: Sequence[SettledTimer], gone: int) -> None:
        self._tally.went(gone)
        for each in settled:
            del self._sent[each.stream, each.name, each.position]
            self._due.doubt((each.stream, each.name))
            if each.parked:
                self._tally.set_aside()
            elif each.next is not None:
                self._look_at(each.next)
        self._bell.set()


async def _wait(bell: Bell, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
