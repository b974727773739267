"""A small world of its own for claims and replies: guests that take seats, and lose power.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Guests
take a seat, change it and leave it, with keys and without. A life ends by a loss of power at any
call of the disk; the last one is quiet, and sends again with their keys what is in doubt. Then the
log, the table of claims and all that the clients were told must be true together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import msgspec

from engine import (
    Aggregate,
    Claim,
    Closed,
    Command,
    Decision,
    Engine,
    EngineError,
    Event,
    Id,
    NotRun,
    OutcomeUnknown,
    Receipt,
    Rejected,
    Release,
    applies,
    handles,
)
from engine.limits import Limits
from engine.outside.claims import compare_claims
from engine.stores.sqlite.outside.log import SqliteLogReader

from .small_world import SmallLife, SmallWorld, sent_together

__all__ = ["Call", "Guest", "Told", "draw_call", "judged", "run_seed"]

_SILENT = logging.Logger("claiming", logging.CRITICAL + 1)
_GUESTS, _SEATS, _COMMANDS, _LIVES = 5, 3, 40, 3


class Seated(Event, name="seated"):
    """A guest has a seat."""

    number: int
    seat: str


class Stood(Event, name="stood"):
    """A guest has none any more."""

    number: int


class Sit(Command[int]):
    """Take a seat; its number is what is replied."""

    guest: Id
    number: int
    seat: str


class Stand(Command):
    """Leave a seat."""

    guest: Id
    number: int


class Guest(Aggregate, kind="guest", snapshot_every=3):
    """Has one seat, or none."""

    seat: str = ""

    @handles
    def sit(self, command: Sit) -> Decision[Seated, int]:
        """Take the seat, and leave another one."""
        former = [Release("seat", self.seat)] if self.seat not in ("", command.seat) else []
        claims = [*former, Claim("seat", command.seat)]
        return Decision(Seated(command.number, command.seat), reply=command.number, claims=claims)

    @handles
    def stand(self, command: Stand) -> Decision[Stood] | None:
        """Leave it, if there is one."""
        if not self.seat:
            return None
        return Decision(Stood(command.number), claims=[Release("seat", self.seat)])

    @applies
    def seated(self, event: Seated) -> None:
        """Have it."""
        self.seat = event.seat

    @applies
    def stood(self, event: Stood) -> None:
        """Have none."""
        self.seat = ""


class Call(msgspec.Struct):
    """One command, and what its client was told, each time that it was sent."""

    command: Sit | Stand
    key: str | None
    answers: list[Receipt | EngineError | None] = []
    """None where nobody was told."""

    @property
    def in_doubt(self) -> bool:
        return any(a is None or isinstance(a, OutcomeUnknown) for a in self.answers)


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    answers: Counter[str]
    events: int


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(self, calls: list[Call], *given: Any, quiet: bool) -> None:
        super().__init__(*given, quiet=quiet)
        self._calls = calls

    def where(self) -> str:
        return f"{sum(not call.answers for call in self._calls)} calls were not made"

    async def main(self) -> None:
        random = self._random
        engine = Engine(
            [Guest],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((3, 100)),
                batch_events=random.choice((1, 4, 4_096)),
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        async with engine:
            await sent_together(self._send(engine, call) for call in self._wanted())

    def _wanted(self) -> Iterator[Call]:
        """Give what was never sent, certainly not run, or in doubt and has a key."""
        for call in self._calls:
            last = call.answers[-1] if call.answers else None
            again = isinstance(last, NotRun) or (call.key is not None and call.in_doubt)
            if not call.answers or again:
                yield call

    async def _send(self, engine: Engine, call: Call) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 0.02))
        place = len(call.answers)
        call.answers.append(None)  # until it is told
        try:
            call.answers[place] = await engine.execute(call.command, key=call.key)
        except Closed:
            call.answers.pop(place)
        except EngineError as error:
            call.answers[place] = error


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    calls = [draw_call(world.random, number) for number in range(_COMMANDS)]
    story, events = world.story, 0
    with world.lived(partial(_Life, calls), lambda r: r.randrange(1, 250), crashes=_LIVES) as log:
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            events = len(read)
            story.problems += [*judged(calls, read), *_compared(log)]
    told = Counter(type(answer).__name__ for call in calls for answer in call.answers)
    return Told(story.problems, story.crashes, story.digest, told, events)


def draw_call(random: Random, number: int) -> Call:
    """Draw what one client sends."""
    guest = f"g{random.randrange(_GUESTS)}"
    key = f"k{number}" if random.random() < 0.6 else None
    if random.random() < 0.3:
        return Call(Stand(guest, number), key)
    return Call(Sit(guest, number, f"s{random.randrange(_SEATS)}"), key)


def _compared(log: SqliteLogReader) -> Iterator[str]:
    compared = compare_claims(log)
    for key, in_log, in_table in compared.differences:
        yield f"P19: {key} is held by {in_log} in the log, and by {in_table} in the table"


def judged(calls: list[Call], log: Any) -> Iterator[str]:
    """Give what cannot be true of the log and of what was told."""
    holder: dict[str, str] = {}
    ever: dict[str, set[str]] = {}
    found: Counter[int] = Counter()
    for stored in log:
        fields = msgspec.json.decode(stored.payload)
        found[fields["number"]] += 1
        for seat in [seat for seat, guest in holder.items() if guest == stored.stream]:
            del holder[seat]
        seat = fields.get("seat")
        if seat is None:
            continue
        if holder.setdefault(seat, stored.stream) != stored.stream:
            yield f"P19: {stored.stream} took {seat}, which {holder[seat]} holds"
        ever.setdefault(seat, set()).add(stored.stream)
    for call in calls:
        yield from _told(call, found[call.command.number], ever)


def _told(call: Call, times: int, ever: dict[str, set[str]]) -> Iterator[str]:
    command = call.command
    receipts = [answer for answer in call.answers if isinstance(answer, Receipt)]
    if times > 1:
        yield f"P8: {command} is {times} times in the log"
    if isinstance(command, Sit) and receipts and not times:
        yield f"P1: {command} was acknowledged and is not in the log"
    if times and not receipts and not call.in_doubt:
        yield f"P6: {command} was refused and is in the log"
    if isinstance(command, Sit) and any(r.reply != command.number for r in receipts):
        yield f"P8: {command} was replied to with {receipts}"
    if isinstance(command, Sit) and any(isinstance(a, Rejected) for a in call.answers):
        others = ever.get(command.seat, set()) - {f"guest:{command.guest}"}
        if not others:
            yield f"P7: {command} was rejected, and nobody else ever had the seat"
