"""The work that every benchmark does: create an order, adjust it nine times, then the next one.

Small on purpose, so that what is measured is the engine and not a domain. It must not change
without a reason in the commit: figures of two versions are compared by it.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator

from engine import Aggregate, Command, Event, Id, Rejected, applies, handles

COMMANDS_PER_ORDER = 10


class Status(enum.Enum):
    """Where an order is in its life."""

    NONE = "none"
    CREATED = "created"


class OrderOpened(Event, name="order-opened", gc=False):
    """An order with one item."""

    order_id: str
    item: str
    quantity: int


class OrderAdjusted(Event, name="order-adjusted", gc=False):
    """The item's quantity changed."""

    order_id: str
    item: str
    quantity: int


class OpenOrder(Command, gc=False):
    """Begin an order."""

    order_id: Id
    item: str
    quantity: int


class AdjustOrder(Command, gc=False):
    """Change the item's quantity."""

    order_id: Id
    item: str
    quantity: int


class BenchmarkOrder(Aggregate, kind="benchmark-order"):
    """An order with a rule or two, as any has."""

    status: Status = Status.NONE
    items: dict[str, int] = {}

    @handles
    def open(self, command: OpenOrder) -> OrderOpened:
        """Begin it once."""
        if self.status is not Status.NONE:
            raise Rejected("order-exists", f"order {self.id} exists already")
        return OrderOpened(command.order_id, command.item, command.quantity)

    @handles
    def adjust(self, command: AdjustOrder) -> OrderAdjusted:
        """Change an item that it has."""
        if command.item not in self.items:
            raise Rejected("item-unknown", f"order {self.id} has no {command.item}")
        if command.quantity < 1:
            raise Rejected("quantity-not-positive", "a quantity is at least 1")
        return OrderAdjusted(command.order_id, command.item, command.quantity)

    @applies
    def opened(self, event: OrderOpened) -> None:
        """Fold the beginning."""
        self.status = Status.CREATED
        self.items[event.item] = event.quantity

    @applies
    def adjusted(self, event: OrderAdjusted) -> None:
        """Fold a change."""
        self.items[event.item] = event.quantity


def commands_of(client: int) -> Iterator[OpenOrder | AdjustOrder]:
    """Give one client's commands, without end, about orders of a series of its own."""
    return commands_about(f"{client:06d}-{order:08d}" for order in itertools.count())


def commands_about(order_ids: Iterable[str]) -> Iterator[OpenOrder | AdjustOrder]:
    """Give commands about orders, one after the other."""
    for order_id in order_ids:
        yield OpenOrder(order_id, "mouse", 1)
        for quantity in range(2, COMMANDS_PER_ORDER + 1):
            yield AdjustOrder(order_id, "mouse", quantity)
