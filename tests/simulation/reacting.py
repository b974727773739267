"""A small world of its own for reactors: orders that are paid and shipped, and lose power.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Clients
pay orders; a reactor ships each of their two parts to a depot, which remembers one key only, and
refuses some; what is refused cancels. A life ends by a loss of power at any call of the disk; the
last one is quiet, and waits until nothing follows any more. Then each part of each payment is in
the log exactly once, as it was shipped or as it was cancelled, in the order of its stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from engine import (
    Aggregate,
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    Meta,
    OutcomeUnknown,
    Reactor,
    Receipt,
    Rejected,
    applies,
    handles,
    reacts,
    when_rejected,
)
from engine.limits import Limits

from .small_world import SmallLife, SmallWorld, sent_together

__all__ = ["Told", "run_seed"]

_SILENT = logging.Logger("reacting", logging.CRITICAL + 1)
_ORDERS, _DEPOTS, _PAYMENTS, _LIVES = 4, 2, 30, 3
_PARTS = 2


class Paid(Event, name="paid"):
    """A payment, which leads to parts of it being shipped."""

    number: int


class Cancelled(Event, name="cancelled"):
    """A part of a payment is not shipped."""

    number: int
    part: int


class Shipped(Event, name="shipped"):
    """A part of a payment is on its way."""

    number: int
    part: int


class Pay(Command):
    """Pay once more."""

    order: Id
    number: int


class Cancel(Command):
    """Give a part up."""

    order: Id
    number: int
    part: int


class Ship(Command):
    """Ship a part, unless the depot refuses it."""

    depot: Id
    order: str
    number: int
    part: int


def refuses(number: int, part: int) -> bool:
    """Whether a depot refuses a part."""
    return (number + part) % 5 == 0


class Order(Aggregate, kind="order"):
    """Can be paid as often as one likes."""

    paid: int = 0

    @handles
    def pay(self, command: Pay) -> Paid:
        """Pay it."""
        return Paid(command.number)

    @handles
    def cancel(self, command: Cancel) -> Cancelled:
        """Give a part up."""
        return Cancelled(command.number, command.part)

    @applies
    def was_paid(self, event: Paid) -> None:
        """Count it."""
        self.paid += 1

    @applies
    def was_cancelled(self, event: Cancelled) -> None:
        """Nothing to remember."""


class Depot(Aggregate, kind="depot", key_window=1, snapshot_every=5):
    """Forgets every key but the last."""

    shipped: int = 0

    @handles
    def ship(self, command: Ship) -> Shipped:
        """Ship it, or say no."""
        if refuses(command.number, command.part):
            raise Rejected("refused", "this depot has none")
        return Shipped(command.number, command.part)

    @applies
    def was_shipped(self, event: Shipped) -> None:
        """Count it."""
        self.shipped += 1


class Shipping(Reactor, name="shipping", begins="now"):
    """Ships what was paid, and gives up what is refused."""

    @reacts
    def paid(self, event: Paid, meta: Meta) -> list[Ship]:
        """Ship each part from a depot that many share."""
        depot = f"d{event.number % _DEPOTS}"
        return [Ship(depot, meta.id, event.number, part) for part in range(_PARTS)]

    @when_rejected
    def refused(self, command: Ship, rejection: Rejected) -> Cancel:
        """Give it up."""
        return Cancel(command.order, command.number, command.part)


class Payment(msgspec.Struct):
    """One payment, and what its client was told."""

    command: Pay
    answer: Receipt | EngineError | None = None
    is_sent: bool = False


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    shipped: int
    cancelled: int


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(self, payments: list[Payment], *given: Any, quiet: bool) -> None:
        super().__init__(*given, quiet=quiet)
        self._payments = payments

    def where(self) -> str:
        return f"{sum(not payment.is_sent for payment in self._payments)} were not sent"

    async def main(self) -> None:
        random = self._random
        engine = Engine(
            [Order, Depot],
            projections=[Shipping],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((2, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                commands_accepted=random.choice((3, 65_536)),
                mailbox_commands=2,
                reactor_events=random.choice((1, 3, 100)),
                reactions_at_once=random.choice((1, 2, 100)),
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        async with engine:
            await sent_together(
                self._send(engine, payment)
                for payment in self._payments
                if not payment.is_sent and (self.quiet or random.random() < 0.5)
            )
            if not self.quiet:
                await asyncio.sleep(random.expovariate(1 / 0.05))
            while self.quiet and not _is_over(engine):
                await asyncio.sleep(0.01)

    async def _send(self, engine: Engine, payment: Payment) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 0.02))
        payment.is_sent, payment.answer = True, OutcomeUnknown("it never heard")
        try:
            payment.answer = await engine.execute(payment.command)
        except EngineError as error:
            payment.answer = error
            payment.is_sent = not error.safe_to_resend


def _is_over(engine: Engine) -> bool:
    numbers = engine.statistics()
    return numbers.projectors["shipping"].position == numbers.position


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    payments = [
        Payment(Pay(f"o{world.random.randrange(_ORDERS)}", number)) for number in range(_PAYMENTS)
    ]
    story, found = world.story, Counter[str]()
    with world.lived(
        partial(_Life, payments), lambda r: r.randrange(1, 300), crashes=_LIVES
    ) as log:
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            found.update(stored.name for stored in read)
            story.problems += _judged(payments, read)
    problems = story.problems
    return Told(problems, story.crashes, story.digest, found["shipped"], found["cancelled"])


def _judged(payments: Sequence[Payment], log: Any) -> Iterator[str]:
    """Give what cannot be true of the log and of what was told."""
    paid: dict[int, str] = {}
    followed: dict[tuple[int, int], list[str]] = {}
    order: dict[tuple[str, str], list[int]] = {}
    for stored in log:
        fields = msgspec.json.decode(stored.payload)
        number = fields["number"]
        if stored.name == "paid":
            if number in paid:
                yield f"P8: payment {number} is twice in the log"
            paid[number] = stored.stream
            continue
        followed.setdefault((number, fields["part"]), []).append(stored.name)
        if stored.name == "shipped":
            order.setdefault((paid[number], stored.stream), []).append(number)
    for number, stream in paid.items():
        for part in range(_PARTS):
            expected = ["cancelled"] if refuses(number, part) else ["shipped"]
            found = followed.pop((number, part), [])
            if found != expected:
                yield f"P21: part {part} of {number} of {stream} was {found}, not {expected}"
    if followed:
        yield f"P21: {followed} followed from nothing"
    places = {number: place for place, number in enumerate(paid)}
    for (stream, depot), numbers in order.items():
        if numbers != sorted(numbers, key=places.__getitem__):
            yield f"P21: what follows from {stream} came to {depot} as {numbers}"
    for payment in payments:
        if isinstance(payment.answer, Receipt) and payment.command.number not in paid:
            yield f"P1: {payment.command} was acknowledged and is not in the log"
