"""What clients send to the shop, and what it answers: one struct for each body.

Rules: what a client sends is read strictly, so that a mistake is told and not passed over; what is
stored is read leniently, so that a newer shop may add to it. A text that somebody will look at has
no character that hides or turns another. The OpenAPI document is made of these structs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from engine import ABSENT, Change, LoggedEvent

from ..model.lines import Buyer, Line
from ..model.money import Money
from ..model.orders import CancelReason, CreateOrder, Order, Status
from ..views.catalogue import Product
from ..views.orders import OrderSummary

__all__ = [
    "Cancellation",
    "CheckedOut",
    "Delivered",
    "Differences",
    "Done",
    "FieldChange",
    "Happened",
    "Health",
    "NewBuyer",
    "NewLine",
    "NewOrder",
    "NewQuantity",
    "OrderAt",
    "OrderHistory",
    "OrderPage",
    "Payment",
    "Products",
    "UsedVoucher",
    "VoucherMade",
    "VoucherOffer",
]

# What turns the direction of a line, ends it, or is an order to a terminal is in no name.
Text = Annotated[
    str,
    msgspec.Meta(
        max_length=200,
        pattern=r"\A[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]*\Z",
    ),
]
LocalTime = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\Z",
        description="The shop's own time, without a zone.",
        examples=["2010-12-01T08:26:00"],
    ),
]


class NewBuyer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says of who buys."""

    country: Text
    customer_id: Text | None = None


class NewLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends of one line; the price is in pence."""

    product: Text
    description: Text
    quantity: int
    unit_price: Money


class NewOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to order; the order gets its id from the request's key."""

    buyer: NewBuyer
    invoiced_at: LocalTime
    lines: tuple[NewLine, ...]

    def command(self, order_id: str) -> CreateOrder:
        """Give the command that creates it."""
        buyer = Buyer(self.buyer.country, self.buyer.customer_id)
        lines = [Line(i.product, i.description, i.quantity, i.unit_price) for i in self.lines]
        return CreateOrder(order_id, buyer, self.invoiced_at, tuple(lines))


class NewQuantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to adjust a line."""

    quantity: int


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to call an order off."""

    reason: CancelReason = CancelReason.OTHER
    note: Annotated[str, msgspec.Meta(max_length=2_000)] = ""


class Payment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to pay; the amount is in pence."""

    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    amount: Money


class VoucherOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the staff sends to issue a voucher."""

    percent: int
    uses: int
    """How many orders may use it."""


class UsedVoucher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to use a voucher for an order."""

    voucher: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class Done(msgspec.Struct, frozen=True):
    """The answer to a change: it is durable."""

    order_id: str
    version: int
    """The order's, with this change."""
    receipt: str
    """Read with `?at=` this, and what was written is in the answer."""


class CheckedOut(msgspec.Struct, frozen=True):
    """The answer to a checkout: the bill."""

    order_id: str
    version: int
    receipt: str
    total: Money
    minutes: int
    """How long the pieces are kept for who has not paid."""


class Delivered(msgspec.Struct, frozen=True):
    """The answer to a delivery: it is durable."""

    product: str
    receipt: str


class VoucherMade(msgspec.Struct, frozen=True):
    """The answer to a voucher that was issued: it is durable."""

    voucher: str
    receipt: str


class OrderPage(msgspec.Struct, frozen=True):
    """Orders that wait to be shipped."""

    orders: Sequence[OrderSummary]
    after: str | None
    """Ask for the next page with this; null on the last one."""


class Products(msgspec.Struct, frozen=True):
    """What a search found, the best first."""

    products: Sequence[Product]


class Happened(msgspec.Struct, frozen=True):
    """One event of an order."""

    version: int
    position: int
    """Its place in the log."""
    recorded: int
    """In µs since 1970-01-01 UTC."""
    name: str
    principal: str | None
    key: str | None
    event: Mapping[str, Any]
    """What the event says, as it is read today."""

    @classmethod
    def of(cls, logged: LoggedEvent) -> Happened:
        """Give what is shown of an event."""
        meta = logged.meta
        body: Mapping[str, Any] = msgspec.to_builtins(logged.event) or {}
        place = (meta.version, meta.position, meta.recorded)
        return cls(*place, logged.name, meta.principal, meta.key, body)


class OrderHistory(msgspec.Struct, frozen=True):
    """What happened to an order, the first first."""

    events: Sequence[Happened]
    after: int | None
    """Ask for the next page with this version; null on the last one."""


class OrderAt(msgspec.Struct, frozen=True):
    """An order as it was at a version."""

    order_id: str
    version: int
    status: Status
    buyer: Buyer
    invoiced_at: str
    lines: Sequence[Line]
    total: Money

    @classmethod
    def of(cls, order: Order) -> OrderAt:
        """Give the state of an aggregate."""
        lines = list(order.lines.values())
        summary = (order.status, order.buyer, order.invoiced_at, lines, order.total)
        return cls(order.id, order.version, *summary)


class FieldChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One place at which two versions differ."""

    path: Sequence[str]
    """Where, as ["lines", "85123A@255", "quantity"]."""
    before: Any | msgspec.UnsetType = msgspec.UNSET
    """Absent where there was nothing."""
    after: Any | msgspec.UnsetType = msgspec.UNSET
    """Absent where there is nothing."""

    @classmethod
    def of(cls, change: Change) -> FieldChange:
        """Give what is shown of a change."""
        before, after = (
            msgspec.UNSET if value is ABSENT else msgspec.to_builtins(value)
            for value in (change.before, change.after)
        )
        return cls([str(step) for step in change.path], before, after)


class Differences(msgspec.Struct, frozen=True):
    """What changed in an order from one version to another."""

    changes: Sequence[FieldChange]


class Health(msgspec.Struct, frozen=True):
    """How the shop is."""

    engine: str
    """"running", if all is well."""
    views: Mapping[str, str]
    """What each projection does."""
