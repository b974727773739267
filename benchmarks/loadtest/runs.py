"""What a run is: a steady rate, a ramp until the engine cannot follow, or an overload.

Rules: everything is an open loop of phases. A step of the ramp begins when the one before is
answered; it is followed if its commands are run about as fast as they are due, and well if its p99
stays below the bound too. Saturation is what is run in a second where more is due than can be run.
The overload is three phases behind each other: half of saturation, three times of it, and half of
it again. What must hold is judged by counts and bytes; latencies are told and judge nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec

from .book import Book, PhaseNumbers
from .lives import Lives
from .load import Phase
from .record import Answer

__all__ = ["MEMORY_GROWTH_MAX", "RECOVERED_SHARE_MIN", "Overload", "Plan", "Run", "Step"]

GROWTH: Final = 1.25
"""From one step of a ramp to the next."""
FOLLOWED_SHARE_MIN: Final = 0.9
"""Of the rate at which commands are due: below it there was a backlog at the end of the step."""
OVERLOAD: Final = 3.0
CALM: Final = 0.5
LEAD_SECONDS: Final = 0.2
"""Between the decision to begin a phase and its first command."""
MEMORY_GROWTH_MAX: Final = 512 * 1024 * 1024
"""Bytes by which resident memory may be larger under overload than before."""
RECOVERED_SHARE_MIN: Final = 0.5
"""Of the commands run in a second before the overload, how many must be run after it."""


class Plan(msgspec.Struct, frozen=True):
    """What the run is to do."""

    mode: Literal["steady", "ramp", "overload"]
    rate: float
    duration: float
    step_seconds: float
    p99_ms_max: float
    saturation: float | None = None
    """Known already, so that an overload needs no ramp."""


class Step(msgspec.Struct, frozen=True):
    """One step of a ramp."""

    rate: float
    throughput: float
    p50_ms: float
    p99_ms: float
    overloaded: int
    followed: bool
    well: bool
    """Followed, with its p99 below the bound."""


class Overload(msgspec.Struct, frozen=True):
    """What an overload did."""

    saturation: float
    before: float
    """Commands run or rejected in a second, of each phase."""
    during: float
    after: float
    refused: int
    refusal_p50_ms: float
    refusal_p99_ms: float
    """From sending to `Overloaded`: what the engine takes to say it."""
    refusal_due_p50_ms: float
    refusal_due_p99_ms: float
    """From when the command was due: how late the event loop was with everything, too."""
    rss_before: int
    rss_peak: int
    """While the overload lasted, and until its last answer."""
    drained_seconds: float
    """From its last command to the last answer."""

    def findings(self) -> list[str]:
        """Say what does not hold."""
        found: list[str] = []
        if not self.refused:
            found.append(
                f"P11: at {OVERLOAD:g} times saturation nothing was answered Overloaded: something "
                f"has no bound, or the overload was too short (--duration)"
            )
        grown = self.rss_peak - self.rss_before
        if grown > MEMORY_GROWTH_MAX:
            found.append(
                f"P11: memory grew by {grown >> 20} MiB under overload; the bound is "
                f"{MEMORY_GROWTH_MAX >> 20}"
            )
        if self.after < RECOVERED_SHARE_MIN * self.before:
            found.append(
                f"throughput did not recover: {self.after:,.0f}/s after the overload, "
                f"{self.before:,.0f}/s before"
            )
        return found


class Run:
    """Carries a plan out."""

    def __init__(self, plan: Plan, book: Book, lives: Lives, told: Callable[[str], None]) -> None:
        self.steps: list[Step] = []
        self.overload: Overload | None = None
        self._plan = plan
        self._book = book
        self._lives = lives
        self._told = told

    def carry_out(self) -> None:
        """Do what the plan says, and have everything answered; raise Ended."""
        lives, plan = self._lives, self._plan
        lives.start()
        lives.wait(lambda: bool(lives.numbers))
        if plan.mode == "steady":
            self._phase(plan.rate, plan.duration)
        elif plan.mode == "ramp" or plan.saturation is None:
            self._ramp()
        if plan.mode == "overload":
            self._overload()
        lives.end()

    @property
    def saturation(self) -> float:
        """What was run in a second, at most, in a step of the ramp."""
        return max((step.throughput for step in self.steps), default=0.0)

    @property
    def well(self) -> float:
        """The highest rate that was followed with its p99 below the bound."""
        return max((step.rate for step in self.steps if step.well), default=0.0)

    def _phase(self, rate: float, seconds: float) -> PhaseNumbers:
        begin = time.monotonic() + LEAD_SECONDS
        phase = Phase(len(self._book.answers), max(1, round(rate * seconds)), begin, rate)
        self._lives.begin(phase)
        numbers = self._book.phases[-1]
        self._lives.wait(lambda: numbers.complete)
        return numbers

    def _ramp(self) -> None:
        rate, missed = self._plan.rate, 0
        while missed < 2:
            step = self._step(rate)
            self.steps.append(step)
            self._told(tell_step(step))
            # The machine may have had a bad moment: what was missed once is tried once more.
            missed = 0 if step.followed else missed + 1
            rate = rate * GROWTH if step.followed else rate

    def _step(self, rate: float) -> Step:
        numbers = self._phase(rate, self._plan.step_seconds)
        p99 = numbers.latency.ms(99)
        refused = numbers.answers[Answer.OVERLOADED]
        followed = numbers.throughput >= FOLLOWED_SHARE_MIN * rate and not refused
        return Step(
            rate=rate,
            throughput=numbers.throughput,
            p50_ms=numbers.latency.ms(50),
            p99_ms=p99,
            overloaded=refused,
            followed=followed,
            well=followed and p99 <= self._plan.p99_ms_max,
        )

    def _overload(self) -> None:
        saturation = self._plan.saturation or self.saturation
        seconds = self._plan.duration / 3
        self._told(f"overload: {OVERLOAD:g} times {saturation:,.0f}/s, after a calm phase")
        before = self._phase(CALM * saturation, seconds)
        rss_before = self._lives.numbers[-1][1].rss
        during = self._phase(OVERLOAD * saturation, seconds)
        after = self._phase(CALM * saturation, seconds)
        self.overload = Overload(
            saturation=saturation,
            before=before.throughput,
            during=during.throughput,
            after=after.throughput,
            refused=during.answers[Answer.OVERLOADED],
            refusal_p50_ms=during.refusal.ms(50),
            refusal_p99_ms=during.refusal.ms(99),
            refusal_due_p50_ms=during.refusal_due.ms(50),
            refusal_due_p99_ms=during.refusal_due.ms(99),
            rss_before=rss_before,
            rss_peak=self._peak(during.phase.begin, after.phase.begin, rss_before),
            drained_seconds=max(0.0, during.last_at - during.phase.begin - during.phase.seconds),
        )

    def _peak(self, begin: float, end: float, least: int) -> int:
        found = [numbers.rss for _, numbers in self._lives.numbers if begin <= numbers.at <= end]
        return max(found, default=least)


def tell_step(step: Step) -> str:
    """Give a step as a line."""
    verdict = "well" if step.well else "followed" if step.followed else "not followed"
    return (
        f"{step.rate:10,.0f}/s  run {step.throughput:10,.0f}/s  p50 {step.p50_ms:9.2f} ms  "
        f"p99 {step.p99_ms:9.2f} ms  overloaded {step.overloaded:,}  {verdict}"
    )


def tell_overload(overload: Overload) -> Sequence[str]:
    """Give an overload as lines."""
    share = overload.after / overload.before if overload.before else 0.0
    said = f"p50 {overload.refusal_p50_ms:.3f} ms, p99 {overload.refusal_p99_ms:.3f} ms"
    due = f"p50 {overload.refusal_due_p50_ms:.1f} ms, p99 {overload.refusal_due_p99_ms:.1f} ms"
    kept = overload.during / overload.saturation
    before_rate, during, after = (
        f"{rate:,.0f}" for rate in (overload.before, overload.during, overload.after)
    )
    before, peak = overload.rss_before >> 20, overload.rss_peak >> 20
    return (
        f"overload at {OVERLOAD:g} times {overload.saturation:,.0f}/s:",
        f"  {overload.refused:,} answered Overloaded: from sending {said}; from when due {due}",
        f"  memory {before} MiB before, {peak} MiB at most",
        f"  run {before_rate}/s before, {during}/s in it, {kept:.0%} of saturation",
        f"  run {after}/s after it, {share:.0%} of before",
        f"  all answered {overload.drained_seconds:.2f} s after its end",
    )
