"""The replay: the orders of two weeks, sent to the shop again in a minute.

Rules: what is sent when is a function of the file and of the seconds. Nights and Sundays take no
time, so that something always happens; an order waits some hours of the shop before it is shipped,
and those of the last hours are left for whoever looks on. Every command has the key that an import
gives it: after a crash all that was done is sent again at once, recognised, and gone on from.
"""

from __future__ import annotations

import asyncio
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from engine import Engine, EngineError, Envelope, KeyReused, Receipt, Rejected

from ..importer.importer import commands_of
from ..importer.invoices import Invoice
from ..importer.proof import LoggedKeys
from ..model.orders import ShipOrder

__all__ = ["Replay", "ReplayState", "Step", "schedule"]

GAP_MINUTES_MAX: Final = 30
"""The longest time without an order that is waited for."""
WAIT_MINUTES_MIN: Final = 90
WAIT_MINUTES_MORE: Final = 480
"""How long an order waits to be shipped, in minutes of the shop, by its number."""
TICK_SECONDS: Final = 0.04


class Step(msgspec.Struct, frozen=True):
    """Commands that are due at a time."""

    at: float
    """In seconds after the beginning."""
    shop_time: str
    """What the shop's clock says then."""
    envelopes: Sequence[Envelope]


class ReplayState(msgspec.Struct):
    """How far it has come; each command that was answered is in one of the last three counts."""

    seconds: float
    commands: int
    """All that there are."""
    executed: int = 0
    repeated: int = 0
    """Of an earlier life, sent again and recognised by their keys."""
    refused: int = 0
    shop_time: str = ""
    done: bool = False


def schedule(invoices: Sequence[Invoice], seconds: float) -> list[Step]:
    """Say what is sent when, so that the last order comes after so many seconds."""
    timed = list(_in_business(sorted(invoices, key=lambda invoice: invoice.invoiced_at)))
    last = max((minute for minute, _ in timed), default=0) or 1
    steps: list[tuple[float, str, list[Envelope]]] = []
    clock = [(minute, invoice.invoiced_at) for minute, invoice in timed]
    for minute, invoice in timed:
        envelopes = list(commands_of(invoice))
        shipments = [e for e in envelopes if isinstance(e.command, ShipOrder)]
        others = [e for e in envelopes if not isinstance(e.command, ShipOrder)]
        steps.append((minute, invoice.invoiced_at, others))
        later = minute + _wait(invoice.number)
        if shipments and later <= last:
            steps.append((later, "", shipments))
    steps.sort(key=lambda step: step[0])
    return [
        Step(at * seconds / last, shop_time or _time_at(clock, at), envelopes)
        for at, shop_time, envelopes in steps
    ]


def _in_business(invoices: Sequence[Invoice]) -> Iterator[tuple[int, Invoice]]:
    """Give each invoice with its minute, where long times without one are left out."""
    minute, before = 0, None
    for invoice in invoices:
        now = datetime.fromisoformat(invoice.invoiced_at)
        if before is not None:
            minute += min(GAP_MINUTES_MAX, int((now - before).total_seconds()) // 60)
        before = now
        yield minute, invoice


def _wait(number: str) -> int:
    return WAIT_MINUTES_MIN + zlib.crc32(number.encode()) % WAIT_MINUTES_MORE


def _time_at(clock: Sequence[tuple[int, str]], minute: float) -> str:
    """Give the time of the last invoice until then; they are in order."""
    return clock[bisect_right(clock, minute, key=lambda entry: entry[0]) - 1][1]


class Replay:
    """One life's part of a replay."""

    def __init__(self, steps: Sequence[Step], seconds: float) -> None:
        self._steps = steps
        self.state = ReplayState(seconds, sum(len(step.envelopes) for step in steps))

    async def play(
        self, engine: Engine, logged: LoggedKeys, acknowledged: Callable[[str, Receipt], None]
    ) -> None:
        """Send what is due, to the end; what the log has already at once."""
        begin = self._first_new(logged)
        before = engine.statistics().position
        if begin:
            self.state.shop_time = max(step.shop_time for step in self._steps[:begin])
        for step in self._steps[:begin]:
            await self._send(engine, [step], before, acknowledged)
        clock = asyncio.get_running_loop().time
        started = clock() - (self._steps[begin - 1].at if begin else 0)
        place = begin
        while place < len(self._steps):
            end = place
            while end < len(self._steps) and self._steps[end].at <= clock() - started:
                end += 1
            await self._send(engine, self._steps[place:end], before, acknowledged)
            place = end
            await asyncio.sleep(TICK_SECONDS)
        self.state.done = True

    def _first_new(self, logged: LoggedKeys) -> int:
        """Give the place behind the last step of which the log has something."""
        known = [
            place
            for place, step in enumerate(self._steps, start=1)
            if any(envelope.key in logged.positions for envelope in step.envelopes)
        ]
        return max(known, default=0)

    async def _send(
        self,
        engine: Engine,
        steps: Sequence[Step],
        before: int,
        acknowledged: Callable[[str, Receipt], None],
    ) -> None:
        envelopes = [envelope for step in steps for envelope in step.envelopes]
        keys = iter([envelope.key or "" for envelope in envelopes])
        if steps:
            self.state.shop_time = max(self.state.shop_time, steps[-1].shop_time)
        async for answer in engine.execute_many(envelopes):
            self._count(next(keys), answer, before, acknowledged)

    def _count(
        self,
        key: str,
        answer: Receipt | EngineError,
        before: int,
        acknowledged: Callable[[str, Receipt], None],
    ) -> None:
        if isinstance(answer, Receipt):
            acknowledged(key, answer)
            if answer.position > before:
                self.state.executed += 1
            else:
                self.state.repeated += 1
        elif isinstance(answer, Rejected | KeyReused):
            self.state.refused += 1
        else:
            raise answer
