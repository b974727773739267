"""The same work with more to it: a reply, a unique value for each order, or encrypted fields.

Rules: orders, events and keys are those of `workload`. With a reply each command gives the order's
quantities, of which a client makes no use; the cost of making its own command of each is included.
With a claim each new order claims a number of its own, one in ten commands. With personal fields
the item of each event is encrypted, with a key for each order, which is made durable first.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Literal

import engine
from engine import Aggregate, Claim, Command, Decision, Event, Id, Personal, applies, handles

from .systems import Send, System, Target, commits_of, count_rows, send_of
from .workload import AdjustOrder, BenchmarkOrder, OpenOrder, OrderAdjusted, OrderOpened

__all__ = ["MODES", "Mode", "decided_system"]

Mode = Literal["off", "reply", "claim", "personal"]
MODES: Sequence[Mode] = ("off", "reply", "claim", "personal")
_NAMES = {
    "off": "events alone",
    "reply": "with a reply",
    "claim": "with a claim an order",
    "personal": "encrypted, a key an order",
}


class OpenReplied(Command[dict[str, int]], gc=False):
    """Begin an order, and hear what it has."""

    order_id: Id
    item: str
    quantity: int


class AdjustReplied(Command[dict[str, int]], gc=False):
    """Change the item's quantity, and hear what it has."""

    order_id: Id
    item: str
    quantity: int


class RepliedOrder(Aggregate, kind="benchmark-order"):
    """An order that replies."""

    items: dict[str, int] = {}

    @handles
    def open(self, command: OpenReplied) -> Decision[OrderOpened, dict[str, int]]:
        """Begin it."""
        opened = OrderOpened(command.order_id, command.item, command.quantity)
        return Decision(opened, reply={command.item: command.quantity})

    @handles
    def adjust(self, command: AdjustReplied) -> Decision[OrderAdjusted, dict[str, int]]:
        """Change an item."""
        adjusted = OrderAdjusted(command.order_id, command.item, command.quantity)
        return Decision(adjusted, reply={**self.items, command.item: command.quantity})

    @applies
    def opened(self, event: OrderOpened) -> None:
        """Fold the beginning."""
        self.items[event.item] = event.quantity

    @applies
    def adjusted(self, event: OrderAdjusted) -> None:
        """Fold a change."""
        self.items[event.item] = event.quantity


class ClaimedOrder(Aggregate, kind="benchmark-order"):
    """An order with a unique number."""

    items: dict[str, int] = {}

    @handles
    def open(self, command: OpenOrder) -> Decision[OrderOpened]:
        """Begin it, if nobody else has its number."""
        opened = OrderOpened(command.order_id, command.item, command.quantity)
        return Decision(opened, claims=[Claim("number", command.order_id)])

    @handles
    def adjust(self, command: AdjustOrder) -> OrderAdjusted:
        """Change an item."""
        return OrderAdjusted(command.order_id, command.item, command.quantity)

    @applies
    def opened(self, event: OrderOpened) -> None:
        """Fold the beginning."""
        self.items[event.item] = event.quantity

    @applies
    def adjusted(self, event: OrderAdjusted) -> None:
        """Fold a change."""
        self.items[event.item] = event.quantity


class PersonalOpened(Event, name="personal-opened"):
    """An order whose item is personal was begun."""

    order_id: str
    item: Personal[str]
    quantity: int


class PersonalAdjusted(Event, name="personal-adjusted"):
    """It was changed."""

    order_id: str
    item: Personal[str]
    quantity: int


class PersonalOrder(Aggregate, kind="benchmark-order"):
    """An order with personal data, whose subject it is itself."""

    items: dict[str, int] = {}

    @handles
    def open(self, command: OpenOrder) -> PersonalOpened:
        """Begin it."""
        return PersonalOpened(command.order_id, command.item, command.quantity)

    @handles
    def adjust(self, command: AdjustOrder) -> PersonalAdjusted:
        """Change an item."""
        return PersonalAdjusted(command.order_id, command.item, command.quantity)

    @applies
    def opened(self, event: PersonalOpened) -> None:
        """Fold the beginning."""
        self.items[event.item] = event.quantity

    @applies
    def adjusted(self, event: PersonalAdjusted) -> None:
        """Fold a change."""
        self.items[event.item] = event.quantity


_AGGREGATES: dict[str, type[Aggregate]] = {
    "off": BenchmarkOrder,
    "reply": RepliedOrder,
    "claim": ClaimedOrder,
    "personal": PersonalOrder,
}


def decided_system(mode: Mode, *, durable: bool) -> System:
    """Give the engine with keys, and with what a mode says of its decisions."""

    @contextlib.asynccontextmanager
    async def opened(folder: Path) -> AsyncGenerator[Target]:
        store = f"sqlite:{folder / 'engine.db'}" if durable else "memory:"
        async with engine.Engine([_AGGREGATES[mode]], store=store) as running:
            send = send_of(running, keyed=True)
            yield Target(_replied(send) if mode == "reply" else send, lambda: commits_of(running))

    def count(folder: Path) -> int:
        return count_rows(folder / "engine.db")

    return System(_NAMES[mode], opened, count if durable else None)


def _replied(send: Send) -> Send:
    """Give what sends the command that is replied to, in place of another one."""
    to: Any = send

    def replied(command: OpenOrder | AdjustOrder, number: int) -> Any:
        cls = OpenReplied if type(command) is OpenOrder else AdjustReplied
        return to(cls(command.order_id, command.item, command.quantity), number)

    return replied
