"""A small world of its own for joint decisions: accounts that pay each other, and lose power.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Clients
transfer between two accounts, share among several, and deposit into one; with keys and without,
with deadlines, and some leave before their answer. A function may take its time. A life ends by a
loss of power at any call of the disk; the last one is quiet, and sends again with their keys what
is in doubt. Then the log, and all that the clients were told, must be true together: no joint
decision is there by halves, no account owes, and no cent comes or goes but by a deposit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import msgspec

from engine import (
    Aggregate,
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
    StoredEvent,
    To,
    applies,
    decides,
    handles,
)
from engine.limits import Limits
from engine.model.codec import decode_metadata

from .small_world import SmallLife, SmallWorld, sent_together

__all__ = ["Told", "run_seed"]

_SILENT = logging.Logger("transferring", logging.CRITICAL + 1)
_ACCOUNTS, _COMMANDS, _LIVES = 6, 50, 3


class Deposited(Event, name="deposited"):
    """Money came from outside."""

    number: int
    cents: int


class Moved(Event, name="moved"):
    """Money came from another account, or went there."""

    number: int
    cents: int


class Deposit(Command):
    """Pay in."""

    account: Id
    number: int
    cents: int


class Transfer(Command[int]):
    """Move money from one to another; what is left is replied."""

    source: Id
    target: Id
    number: int
    cents: int


class Share(Command):
    """Move money from one to some; a slow decision."""

    source: Id
    targets: list[Id]
    number: int
    cents: int


class Account(Aggregate, kind="account", snapshot_every=3):
    """Has money, and never owes."""

    cents: int = 0

    @handles
    def deposit(self, command: Deposit) -> Deposited:
        """Take it."""
        return Deposited(command.number, command.cents)

    @applies
    def deposited(self, event: Deposited) -> None:
        """Have it."""
        self.cents += event.cents

    @applies
    def moved(self, event: Moved) -> None:
        """Have it, or have it no more."""
        self.cents += event.cents


@decides
def transfer(command: Transfer, source: Account, target: Account) -> Decision[To[Moved], int]:
    """Move it, if it is there."""
    if source.cents < command.cents:
        raise Rejected("too-little", "there is not so much")
    number, cents = command.number, command.cents
    shares = [To(source, Moved(number, -cents)), To(target, Moved(number, cents))]
    return Decision(shares, reply=source.cents - cents)


@decides
async def share(command: Share, source: Account, targets: list[Account]) -> list[To[Moved]]:
    """Move it, after a while, if it is there."""
    await asyncio.sleep(0.01)
    number, cents = command.number, command.cents
    if source.cents < cents * len(targets):
        raise Rejected("too-little", "there is not so much")
    gifts = [To(target, Moved(number, cents)) for target in targets]
    return [*gifts, To(source, Moved(number, -cents * len(targets)))]


class Call(msgspec.Struct):
    """One command, and what its client was told, each time that it was sent."""

    command: Deposit | Transfer | Share
    key: str | None
    deadline: float | None
    leaves: float | None
    """Seconds after which its client leaves, in all lives but the last."""
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
    joint: int
    """Joint decisions in the log."""


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
            [Account],
            decisions=[transfer, share],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((_ACCOUNTS, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                turn_commands=random.choice((1, 3, 128)),
                actor_commands=1,
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
        deadline = None if self.quiet else call.deadline
        leaves = None if self.quiet else call.leaves
        try:
            async with asyncio.timeout(leaves):
                call.answers[place] = await engine.execute(
                    call.command, key=call.key, deadline=deadline
                )
        except TimeoutError:
            pass  # it has left, and was told nothing
        except Closed:
            call.answers.pop(place)
        except EngineError as error:
            call.answers[place] = error


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    calls = [_call(world.random, number) for number in range(_COMMANDS)]
    story, joint = world.story, 0
    with world.lived(partial(_Life, calls), lambda r: r.randrange(1, 250), crashes=_LIVES) as log:
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            story.problems += [*_judged_log(read), *_judged_calls(calls, read)]
            joint = sum(bool(decode_metadata(each).parties) for each in read)
    told = Counter(type(answer).__name__ for call in calls for answer in call.answers)
    return Told(story.problems, story.crashes, story.digest, told, joint)


def _call(random: Random, number: int) -> Call:
    source, *targets = (f"a{n}" for n in random.sample(range(_ACCOUNTS), random.randrange(2, 5)))
    key = f"k{number}" if random.random() < 0.6 else None
    deadline = random.choice((None, None, None, 0.005, 0.05))
    leaves = random.choice((None, None, None, 0.001, 0.02))
    kind = random.random()
    command: Deposit | Transfer | Share
    if kind < 0.3:
        command = Deposit(source, number, random.randrange(1, 30))
    elif kind < 0.75:
        command = Transfer(source, targets[0], number, random.randrange(1, 15))
    else:
        command = Share(source, targets, number, random.randrange(1, 5))
    return Call(command, key, deadline, leaves)


def _judged_log(log: Sequence[StoredEvent]) -> Iterator[str]:
    """Give what cannot be true of the log alone."""
    cents: Counter[str] = Counter()
    paid_in = 0
    left: list[tuple[str, int]] = []
    """What is still to come of a joint decision: streams and versions."""
    for stored in log:
        fields = msgspec.json.decode(stored.payload)
        parties = decode_metadata(stored).parties
        if parties:
            if left:
                yield f"P23: {left} of a joint decision are missing at {stored.position}"
            left = [(stream, version) for stream, version, count in parties if count]
        if (stored.name == "moved") != bool(left):
            yield f"P23: {stored.stream}@{stored.version} stands by itself"
        if left:
            if (stored.stream, stored.version) not in left:
                yield f"P23: {stored.stream}@{stored.version} stands inside a joint decision"
            else:
                left.remove((stored.stream, stored.version))
        else:
            paid_in += fields["cents"]
        cents[stored.stream] += fields["cents"]
        if cents[stored.stream] < 0:
            yield f"P5: {stored.stream} owes at {stored.position}"
        if not left and cents.total() != paid_in:
            yield f"P23: {cents.total()} of {paid_in} are there at {stored.position}"
    if left:
        yield f"P23: {left} of a joint decision are missing at the end"


def _judged_calls(calls: Sequence[Call], log: Sequence[StoredEvent]) -> Iterator[str]:
    """Give what cannot be true of the log and of what was told."""
    found: Counter[int] = Counter(msgspec.json.decode(e.payload)["number"] for e in log)
    positions = {(stored.stream, stored.version): stored.position for stored in log}
    for call in calls:
        command = call.command
        times, owed = found[command.number], _events_of(command)
        receipts = [answer for answer in call.answers if isinstance(answer, Receipt)]
        if times not in (0, owed):
            yield f"P8: {command} is {times} times in the log, and has {owed} events"
        if receipts and not times:
            yield f"P1: {command} was acknowledged and is not in the log"
        if times and not receipts and not call.in_doubt:
            yield f"P6: {command} was refused and is in the log"
        if call.key is not None and len({*receipts}) > 1:
            yield f"P8: {command} was answered with {receipts}"
        for receipt in receipts:
            last = max(positions[place] for place in receipt.versions.items())
            if last != receipt.position:
                yield f"P23: {receipt} does not say where {command} ends"


def _events_of(command: Deposit | Transfer | Share) -> int:
    if isinstance(command, Deposit):
        return 1
    return 2 if isinstance(command, Transfer) else 1 + len(command.targets)
