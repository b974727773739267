"""A small world of its own for process managers: orders that are led to an end, and lose power.

Rules: everything comes from the seed, as in `world`, whose loop, disk and machine it uses. Clients
place orders; a manager reserves an item, charges a card, and ships, or undoes what it did where a
step is rejected or nobody pays in time. A life ends by a loss of power at any call of the disk; the
last one is quiet, and waits until nothing follows any more and no timer waits. Then each order has
come to exactly one end, nothing was done twice, and what was reserved was shipped or given back.
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
    After,
    Aggregate,
    CancelTimer,
    Command,
    Decision,
    Engine,
    EngineError,
    Event,
    Id,
    OutcomeUnknown,
    ProcessManager,
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

_SILENT = logging.Logger("fulfilling", logging.CRITICAL + 1)
_ORDERS, _ITEMS, _LIVES, _STOCK = 16, 2, 3, 5
_PATIENCE_SECONDS = 0.5


class Placed(Event, name="placed"):
    """An order came."""

    order: str


class Ended(Event, name="ended"):
    """An order has come to its end."""

    order: str
    how: str


class Reserved(Event, name="reserved"):
    """An item is put aside."""

    order: str


class Returned(Event, name="returned"):
    """It is put back."""

    order: str


class Charged(Event, name="charged"):
    """A card was charged."""

    order: str


class Moved(Event, name="moved"):
    """A manager went on."""

    order: str
    to: str


class Place(Command):
    """Order something."""

    order: Id


class End(Command):
    """Let an order end."""

    order: Id
    how: str


class Reserve(Command):
    """Put an item aside."""

    item: Id
    order: str


class Return(Command):
    """Put it back."""

    item: Id
    order: str


class Charge(Command):
    """Charge a card, which may be refused, or stay without an answer."""

    card: Id
    order: str


class GiveUp(Command):
    """Nobody has paid."""

    order: Id


class Order(Aggregate, kind="order"):
    """Comes to one end."""

    ends: int = 0

    @handles
    def place(self, command: Place) -> Placed | None:
        """Begin."""
        return Placed(self.id) if not self.version else None

    @handles
    def end(self, command: End) -> Ended:
        """End, as often as somebody says so: once, if all is well."""
        return Ended(self.id, command.how)

    @applies
    def placed(self, event: Placed) -> None:
        """Nothing to remember."""

    @applies
    def ended(self, event: Ended) -> None:
        """Count it."""
        self.ends += 1


class Item(Aggregate, kind="item", key_window=1):
    """Has some in stock, and remembers one key."""

    left: int = _STOCK

    @handles
    def reserve(self, command: Reserve) -> Reserved:
        """Put one aside."""
        if not self.left:
            raise Rejected("no-stock", "there is none left")
        return Reserved(command.order)

    @handles
    def put_back(self, command: Return) -> Returned:
        """Put it back."""
        return Returned(command.order)

    @applies
    def reserved(self, event: Reserved) -> None:
        """One less."""
        self.left -= 1

    @applies
    def returned(self, event: Returned) -> None:
        """One more."""
        self.left += 1


class Card(Aggregate, kind="card", key_window=1):
    """Pays, refuses, or says nothing."""

    charged: int = 0

    @handles
    def charge(self, command: Charge) -> Charged | None:
        """Answer by the number of the order."""
        number = int(command.order[1:])
        if number % 4 == 1:
            raise Rejected("no-money", "there is not enough")
        return None if number % 4 == 2 else Charged(command.order)

    @applies
    def was_charged(self, event: Charged) -> None:
        """Count it."""
        self.charged += 1


class Fulfilment(ProcessManager, kind="fulfilment", begins="now", key_window=1, snapshot_every=2):
    """Leads an order to its end."""

    state: str = ""

    @property
    def item(self) -> str:
        """Which item it is about."""
        return f"i{int(self.id[1:]) % _ITEMS}"

    @reacts(by="order")
    def placed(self, event: Placed) -> Decision[Moved]:
        """Reserve an item."""
        return self._to("begun", [Reserve(self.item, self.id)])

    @reacts(by="order")
    def reserved(self, event: Reserved) -> Decision[Moved]:
        """Take the payment, within a time."""
        give_up = After(GiveUp(self.id), "payment", seconds=_PATIENCE_SECONDS)
        commands = [Charge("card", self.id)]
        return Decision(Moved(self.id, "reserved"), commands=commands, timers=[give_up])

    @reacts(by="order")
    def charged(self, event: Charged) -> Decision[Moved] | None:
        """Ship."""
        if self.state != "reserved":
            return None  # too late: it was undone
        return self._to("shipped", [End(self.id, "shipped")])

    @when_rejected
    def no_stock(self, command: Reserve, rejection: Rejected) -> Decision[Moved]:
        """End without more."""
        return self._to("failed", [End(self.id, rejection.code)])

    @when_rejected
    def no_money(self, command: Charge, rejection: Rejected) -> Decision[Moved] | None:
        """Undo, unless the deadline has."""
        return self._undo(rejection.code)

    @handles
    def give_up(self, command: GiveUp) -> Decision[Moved] | None:
        """Undo, where nobody has paid."""
        return self._undo("not-paid")

    def _undo(self, why: str) -> Decision[Moved] | None:
        if self.state != "reserved":
            return None
        return self._to("failed", [Return(self.item, self.id), End(self.id, why)])

    def _to(self, state: str, commands: Sequence[Command]) -> Decision[Moved]:
        timers = [CancelTimer("payment")]
        return Decision(Moved(self.id, state), commands=commands, timers=timers)

    @applies
    def moved(self, event: Moved) -> None:
        """Be there."""
        self.state = event.to


class Told(msgspec.Struct):
    """What a seed left behind."""

    problems: list[str]
    crashes: int
    digest: str
    ends: Counter[str]


class _Life(SmallLife):
    """One life: an engine, and its clients."""

    def __init__(self, answers: dict[str, Any], *given: Any, quiet: bool) -> None:
        super().__init__(*given, quiet=quiet)
        self._answers = answers

    def where(self) -> str:
        return f"{len(self._answers)} orders were sent"

    async def main(self) -> None:
        random = self._random
        engine = Engine(
            [Order, Item, Card, Fulfilment],
            store=self.store,
            limits=Limits(
                resident_aggregates=random.choice((2, 100)),
                batch_events=random.choice((1, 4, 4_096)),
                reactor_events=random.choice((1, 3, 100)),
                timers_at_once=random.choice((1, 3, 100)),
                control_poll_ms=0,
            ),
            logger=_SILENT,
            ports=self.ports(),
        )
        async with engine:
            orders = [f"o{number}" for number in range(_ORDERS)]
            wanted = [order for order in orders if self._is_wanted(order)]
            await sent_together(self._send(engine, order) for order in wanted)
            if not self.quiet:
                await asyncio.sleep(random.expovariate(1 / 0.3))
            while self.quiet and not _is_over(engine):
                await asyncio.sleep(20.0)  # the wall clock may have gone back

    def _is_wanted(self, order: str) -> bool:
        if isinstance(self._answers.get(order), Receipt):
            return False
        return self.quiet or self._random.random() < 0.5

    async def _send(self, engine: Engine, order: str) -> None:
        await asyncio.sleep(self._random.expovariate(1 / 0.02))
        self._answers[order] = OutcomeUnknown("it never heard")
        try:
            self._answers[order] = await engine.execute(Place(order))
        except EngineError as error:
            self._answers[order] = error


def _is_over(engine: Engine) -> bool:
    numbers = engine.statistics()
    return (
        numbers.projectors["fulfilment"].position == numbers.position
        and not numbers.timers.waiting
        and not numbers.commands.open
    )


def run_seed(seed: int) -> Told:
    """Live through a seed; give what became of it, judged."""
    world = SmallWorld(seed)
    answers: dict[str, Any] = {}
    story, ends = world.story, Counter[str]()
    with world.lived(partial(_Life, answers), lambda r: r.randrange(1, 400), crashes=_LIVES) as log:
        if log is not None:
            read = log.read_feed(0, events_max=10_000, bytes_max=1 << 30)
            story.problems += _judged(answers, read, ends)
    return Told(story.problems, story.crashes, story.digest, ends)


def _judged(answers: dict[str, Any], log: Any, ends: Counter[str]) -> Iterator[str]:
    """Give what cannot be true of the log and of what was told."""
    found: dict[str, list[str]] = {}
    for stored in log:
        fields = msgspec.json.decode(stored.payload)
        what = fields.get("how") or fields.get("to") or stored.name
        found.setdefault(fields["order"], []).append(f"{stored.name}:{what}")
    for order, answer in answers.items():
        if isinstance(answer, Receipt) and order not in found:
            yield f"P1: {order} was acknowledged and is not in the log"
    for order, events in found.items():
        counts = Counter(events)
        twice = [event for event, count in counts.items() if count > 1]
        if twice:
            yield f"P21: {twice} happened twice to {order}: {events}"
        ended = [event for event in events if event.startswith("ended:")]
        if len(ended) != 1:
            yield f"P21: {order} came to {ended}: {events}"
            continue
        how = ended[0].removeprefix("ended:")
        ends[how] += 1
        was_reserved, was_returned = "reserved:reserved" in events, "returned:returned" in events
        if was_returned != (was_reserved and how != "shipped"):
            yield f"P21: {order} ended as {how}, and its item is not where it belongs: {events}"
        if how == "shipped" and "charged:charged" not in events:
            yield f"P21: {order} was shipped and not charged: {events}"
