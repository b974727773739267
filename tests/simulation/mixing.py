"""A small world of its own that mixes claims, joint decisions, reactions, processes and timers.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Guests
of a theatre hold seats and pay in. A life ends by a loss of power at any call of the disk, so it
falls between any two steps: event, claim, timer, reaction, payment. The last life is quiet, sends
again what is in doubt, and waits until nothing follows any more. Then each booking has come to one
end, no seat had two holders, no money is lost or made, and no timer was forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec

from engine import (
    Engine,
    EngineError,
    NotRun,
    OutcomeUnknown,
    Receipt,
    Rejected,
    StoreRefused,
)
from engine.limits import Limits
from engine.model.codec import decode_metadata
from engine.model.stored import StoredEvent
from engine.outside.claims import compare_claims
from engine.outside.timers import compare_timers
from engine.stores.sqlite.outside.log import SqliteLogReader

from .small_world import SmallLife, SmallWorld
from .theatre import AGGREGATES, DECISIONS, PRICE, REACTORS, Deposit, Hold

__all__ = ["Told", "run_seed"]

_SILENT = logging.Logger("mixing", logging.CRITICAL + 1)
_BOOKINGS, _SEATS, _GUESTS, _LIVES = 7, 4, 3, 2
_EVER = 1 << 62
"""A time when every timer has been due."""
_ENDS = frozenset({"confirmed", "expired", "dropped"})


class Call(msgspec.Struct):
    """One command with its key, and what its client was told last."""

    command: Hold | Deposit
    key: str
    answer: object = NotRun("it was not sent yet")


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    found: Counter[str]
    """How many events of each name are in the log."""


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(self, calls: list[Call], *given: Any, quiet: bool) -> None:
        super().__init__(*given, quiet=quiet)
        self._calls = calls

    def where(self) -> str:
        return f"{sum(isinstance(call.answer, NotRun) for call in self._calls)} were not run"

    async def main(self) -> None:
        random = self._random
        engine = Engine(
            AGGREGATES,
            projections=REACTORS,
            decisions=DECISIONS,
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((4, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                reactor_events=random.choice((1, 3, 100)),
                timers_at_once=random.choice((1, 3, 512)),
                control_poll_ms=0,
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        async with engine:
            wanted = [c for c in self._calls if isinstance(c.answer, NotRun | OutcomeUnknown)]
            await asyncio.gather(*(self._send(engine, call) for call in wanted))
            if not self.quiet:
                await asyncio.sleep(random.choice((0.01, 0.2, 0.5)))
            while self.quiet and not _is_over(engine):
                await asyncio.sleep(60.0)  # the wall clock may have gone back

    def left(self) -> Iterable[str]:
        return _left(str(self._disk.folder / "log.db"))

    async def _send(self, engine: Engine, call: Call) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 0.05))
        call.answer = OutcomeUnknown("it never heard")
        try:
            call.answer = await engine.execute(call.command, key=call.key)
        except EngineError as error:
            call.answer = error


def _is_over(engine: Engine) -> bool:
    numbers = engine.statistics()
    return (
        all(p.position == numbers.position for p in numbers.projectors.values())
        and not numbers.timers.waiting
        and not numbers.commands.open
    )


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    calls = [*_calls(world.random)]
    story, found = world.story, Counter[str]()
    with world.lived(partial(_Life, calls), _crash_at, crashes=_LIVES) as log:
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            found.update(stored.name for stored in read)
            story.problems += [*_judged(calls, read), *_compared(log)]
    return Told(story.problems, story.crashes, story.digest, found)


def _crash_at(random: Random) -> int:
    # An opening makes a hundred calls, and all that follows then some five hundred.
    early = random.random() < 0.2
    return random.randrange(*((1, 100) if early else (100, 600)))


def _calls(random: Random) -> Iterator[Call]:
    for number in range(_GUESTS):
        cents = random.choice((0, PRICE, 3 * PRICE))
        if cents:
            yield Call(Deposit(f"g{number}", f"d{number}", cents), f"d{number}")
    for number in range(_BOOKINGS):
        seat, guest = f"s{random.randrange(_SEATS)}", f"g{random.randrange(_GUESTS)}"
        yield Call(Hold(f"b{number}", seat, guest), f"h{number}")


def _left(path: str) -> list[str]:
    """Give what a loss of power has left in the tables that is not what the log says."""
    try:
        with SqliteLogReader(path) as log:
            return [
                f"P24: {key} is {said} in the log, and {there} in the table"
                for key, said, there in compare_timers(log, _EVER).differences
            ]
    except StoreRefused:
        return []  # the power went before there was a log


def _compared(log: SqliteLogReader) -> Iterator[str]:
    for claim, said, there in compare_claims(log).differences:
        yield f"P19: {claim} is held by {said} in the log, and by {there} in the table"
    left = log.read_timers(timers_max=100)
    if left:
        yield f"P24: {[(timer.stream, timer.name) for timer in left]} are left"
    for key, in_log, in_table in compare_timers(log, _EVER).differences:
        yield f"P24: {key} is {in_log} in the log, and {in_table} in the table"


def _judged(calls: Sequence[Call], log: Sequence[StoredEvent]) -> Iterator[str]:
    """Give what cannot be true of the log and of what was told."""
    holder: dict[str, str] = {}
    seats: dict[str, str] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    cents = 0
    for stored in log:
        fields = msgspec.json.decode(stored.payload)
        booking, moved = fields["booking"], fields.get("cents", 0)
        counts[booking, stored.name, (moved > 0) - (moved < 0)] += 1
        cents += moved
        yield from _judged_timers(stored)
        if stored.name == "held":
            seat = seats[booking] = fields["seat"]
            if holder.setdefault(seat, booking) != booking:
                yield f"P19: {booking} has {seat}, which {holder[seat]} holds"
        elif stored.name in ("expired", "dropped"):
            holder.pop(seats[booking], None)
    # A manager goes on twice where it pays back.
    twice = [which for which, n in counts.items() if n > 1 and which[1] != "went"]
    if twice:
        yield f"P21: {twice} happened twice"
    yield from _judged_money(calls, counts, cents)
    for booking in seats:
        yield from _judged_booking(booking, counts)


def _judged_timers(stored: StoredEvent) -> Iterator[str]:
    """Compare what an event says of timers with what its decision has set and cancelled."""
    metadata = decode_metadata(stored)
    named = {name for name, *_ in metadata.timers}
    if stored.name == "held" and "hold" not in named:
        yield f"P24: the timer of {stored.stream} is not in the log"
    if stored.name == "confirmed" and "hold" not in metadata.cancels:
        yield f"P24: the log does not say that {stored.stream} has cancelled its timer"
    if stored.name in ("expired", "confirmed") and metadata.fired is None:
        yield f"P24: {stored.stream} is {stored.name} by no timer"


def _judged_money(
    calls: Sequence[Call], counts: Counter[tuple[str, str, int]], cents: int
) -> Iterator[str]:
    paid_in = 0
    for call in calls:
        is_hold = isinstance(call.command, Hold)
        name = call.command.booking if isinstance(call.command, Hold) else call.command.number
        times = counts[name, "held" if is_hold else "deposited", 0 if is_hold else 1]
        if isinstance(call.answer, Receipt) and not times:
            yield f"P1: {call.command} was acknowledged and is not in the log"
        if isinstance(call.answer, Rejected) and times:
            yield f"P7: {call.command} was rejected and is in the log"
        if isinstance(call.command, Deposit):
            paid_in += call.command.cents * times
    if cents != paid_in:
        yield f"P23: {paid_in} were paid in, and {cents} are there"


def _judged_booking(booking: str, counts: Counter[tuple[str, str, int]]) -> Iterator[str]:
    ends = [end for end in sorted(_ENDS) if counts[booking, end, 0]]
    if len(ends) != 1:
        yield f"P21: {booking} came to {ends}"
        return
    paid, back = counts[booking, "paid", 1], counts[booking, "refunded", 1]
    if ends == ["confirmed"] and (paid, back) != (1, 0):
        yield f"P21: {booking} is confirmed, paid {paid} times and paid back {back} times"
    if ends != ["confirmed"] and paid != back:
        yield f"P21: {booking} is {ends[0]}, paid {paid} times and paid back {back} times"
