"""Orders: what a customer asks the shop for, from creation to shipping or cancellation.

Rules: an order is created once, with at least one line; quantities are 1 or more, prices 0 or more,
and both no larger than the views can add up (`lines`); only a created order can be adjusted,
shipped or cancelled, each with an error code of its own that stays the same. One that was checked
out keeps its lines, and is shipped when it is paid (`payment`). Handlers decide and change nothing;
appliers change the state and decide nothing. Events carry what the views need, so that no view has
to ask another. No clock, and no I/O but what the async handler is given.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from engine import Aggregate, Claim, Command, Decision, Event, Id, Rejected, applies, handles

from .lines import (
    Buyer,
    Line,
    LineId,
    refuse_moment,
    refuse_quantity,
    refuse_total,
    refuse_unsound,
    total_of,
)
from .money import Money
from .payment import (
    PAYMENT_MINUTES,
    Bill,
    CheckOut,
    OrderCheckedOut,
    OrderPaid,
    OrderReserved,
    PayOrder,
    VoucherRedeemed,
    pieces_of,
    refuse_reference,
)
from .rates import Rates, converted

__all__ = [
    "AdjustOrderItemQuantity",
    "CancelOrder",
    "CancelReason",
    "CreateOrder",
    "Order",
    "OrderCancelled",
    "OrderCreated",
    "OrderItemQuantityAdjusted",
    "OrderQuoted",
    "OrderShipped",
    "QuoteOrder",
    "ShipOrder",
    "Status",
]

NOBODY = Buyer(country="")


class Status(StrEnum):
    """Where an order stands."""

    NONE = "none"
    CREATED = "created"
    CHECKED_OUT = "checked-out"
    RESERVED = "reserved"
    PAID = "paid"
    SHIPPED = "shipped"
    CANCELLED = "cancelled"


class CancelReason(StrEnum):
    """Why an order is called off, as far as the shop counts it."""

    OTHER = "other"
    CUSTOMER = "customer"
    OUT_OF_STOCK = "out-of-stock"
    NOT_PAID = "not-paid"


class CreateOrder(Command):
    """Order these lines."""

    order_id: Id
    buyer: Buyer
    invoiced_at: str
    """The shop's own time, ISO 8601 without a zone: "2010-12-01T08:26:00"."""
    lines: tuple[Line, ...]


class AdjustOrderItemQuantity(Command):
    """Let a line of a created order have this quantity."""

    order_id: Id
    line_id: LineId
    quantity: int


class QuoteOrder(Command):
    """Say what a created order costs in another currency, at the rate of now."""

    order_id: Id
    currency: str
    """As ISO 4217 writes it: "EUR"."""


class ShipOrder(Command):
    """Send a created order on its way."""

    order_id: Id


class CancelOrder(Command):
    """Call a created order off."""

    order_id: Id
    reason: CancelReason = CancelReason.OTHER
    note: str = ""
    """Anything that a person wants to add."""


class OrderCreated(Event, name="order-created", version=1):
    """An order came into being."""

    buyer: Buyer
    invoiced_at: str
    lines: tuple[Line, ...]
    total: Money


class OrderItemQuantityAdjusted(Event, name="order-item-quantity-adjusted", version=1):
    """A line of an order has another quantity."""

    buyer: Buyer
    invoiced_at: str
    line_id: LineId
    product: str
    unit_price: Money
    quantity_before: int
    quantity_after: int
    total: Money
    """Of the whole order, afterwards."""

    @property
    def quantity_added(self) -> int:
        """How many pieces more; below 0 if fewer."""
        return self.quantity_after - self.quantity_before

    @property
    def total_added(self) -> Money:
        """What the order costs more; below 0 if less."""
        return self.quantity_added * self.unit_price


class OrderQuoted(Event, name="order-quoted", version=1):
    """A customer was told what an order costs in another currency."""

    currency: str
    rate: int
    """In ten-thousandths."""
    total: int
    """In hundredths of the currency."""


class OrderShipped(Event, name="order-shipped", version=1):
    """An order is on its way."""


class OrderCancelled(Event, name="order-cancelled", version=2):
    """An order was called off; what it was is said again, so that views can take it back.

    Version 1 is in `former_events`.
    """

    buyer: Buyer
    invoiced_at: str
    lines: tuple[Line, ...]
    total: Money
    reason: CancelReason
    note: str


# Keys are remembered for more versions than any order of the importer has events, so that a whole
# order can be sent again and nothing of it runs twice. Few orders have hundreds of events; these
# are loaded from a snapshot, and the others never have one.
class Order(Aggregate, kind="order", key_window=4_000, snapshot_every=500):
    """One order."""

    status: Status = Status.NONE
    buyer: Buyer = NOBODY
    invoiced_at: str = ""
    lines: dict[LineId, Line] = {}
    total: Money = 0
    percent_off: int = 0
    """By a voucher."""

    @property
    def due(self) -> Money:
        """What its bill says: the total, less what a voucher takes off, rounded down."""
        return self.total - self.total * self.percent_off // 100

    @handles
    def create(self, command: CreateOrder) -> OrderCreated:
        """Take an order with sound lines, once."""
        if not command.lines:
            raise Rejected("order-empty", f"order {self.id} has no lines")
        refuse_moment(command.invoiced_at)
        refuse_unsound(command.lines)
        if len({line.id for line in command.lines}) < len(command.lines):
            raise Rejected(
                "line-repeated", f"order {self.id} has two lines of one product at one price"
            )
        if self.status is not Status.NONE:
            raise Rejected("order-exists", f"order {self.id} exists already")
        return OrderCreated(
            command.buyer, command.invoiced_at, command.lines, total_of(command.lines)
        )

    @handles
    def adjust(self, command: AdjustOrderItemQuantity) -> OrderItemQuantityAdjusted:
        """Change the quantity of a line; to the same one also, so that its key is remembered."""
        # What is wrong with the command alone comes before what the order's state forbids: then
        # a refused command that is sent again later is refused with the same code.
        refuse_quantity(command.line_id, command.quantity)
        self.refuse_unless("adjusted", Status.CREATED)
        line = self.lines.get(command.line_id)
        if line is None:
            raise Rejected(
                "item-not-in-order",
                f"order {self.id} has no line {command.line_id}",
                line=command.line_id,
            )
        total = self.total + (command.quantity - line.quantity) * line.unit_price
        refuse_total(total)
        return OrderItemQuantityAdjusted(
            buyer=self.buyer,
            invoiced_at=self.invoiced_at,
            line_id=line.id,
            product=line.product,
            unit_price=line.unit_price,
            quantity_before=line.quantity,
            quantity_after=command.quantity,
            total=total,
        )

    @handles
    async def quote(self, command: QuoteOrder, rates: Rates) -> OrderQuoted:
        """Say the total at the rate of now; the order takes nothing else meanwhile."""
        self.refuse_unless("quoted", Status.CREATED)
        rate = await rates.of(command.currency)
        if rate is None:
            raise Rejected("currency-unknown", "the shop knows no rate of this currency")
        return OrderQuoted(command.currency, rate, converted(self.total, rate))

    @handles
    def ship(self, command: ShipOrder) -> OrderShipped:
        """Ship a created order; one that was checked out is shipped when it is paid."""
        self.refuse_unless("shipped", Status.CREATED, Status.PAID)
        return OrderShipped()

    @handles
    def cancel(self, command: CancelOrder) -> OrderCancelled:
        """Cancel an order that is not paid; what was shipped comes back as a return."""
        self.refuse_unless("cancelled", Status.CREATED, Status.CHECKED_OUT, Status.RESERVED)
        return self.cancellation(command.reason, command.note)

    @handles
    def check_out(self, command: CheckOut) -> Decision[OrderCheckedOut, Bill]:
        """Reply the bill."""
        self.refuse_unless("checked out", Status.CREATED)
        pieces = pieces_of(self.lines.values())
        return Decision(OrderCheckedOut(pieces), reply=Bill(self.due, PAYMENT_MINUTES))

    @handles
    def pay(self, command: PayOrder) -> Decision[OrderPaid]:
        """Take a payment of the whole bill, which pays no other order."""
        refuse_reference(command.reference)
        self.refuse_unless("paid", Status.RESERVED)
        if command.amount != self.due:
            raise Rejected("amount-differs", f"the bill is {self.due} pence", total=self.due)
        once = Claim("payment", command.reference, "payment-used", "it has paid another order")
        return Decision(OrderPaid(command.reference, command.amount), claims=[once])

    def cancellation(self, reason: CancelReason, note: str = "") -> OrderCancelled:
        """Give the event that cancels it."""
        lines = tuple(self.lines.values())
        return OrderCancelled(self.buyer, self.invoiced_at, lines, self.total, reason, note)

    def refuse_unless(self, what: str, *wanted: Status) -> None:
        """Raise Rejected unless it is in one of these states."""
        if self.status in wanted:
            return
        code = "order-unknown" if self.status is Status.NONE else f"order-{self.status}"
        found = "unknown" if self.status is Status.NONE else f"{self.status}"
        raise Rejected(
            code,
            f"order {self.id} is {found} and cannot be {what}: it must be {' or '.join(wanted)}",
            status=self.status,
        )

    @applies
    def created(self, event: OrderCreated) -> None:
        """Be created."""
        self.status = Status.CREATED
        self.buyer = event.buyer
        self.invoiced_at = event.invoiced_at
        self.lines = {line.id: line for line in event.lines}
        self.total = event.total

    @applies
    def adjusted(self, event: OrderItemQuantityAdjusted) -> None:
        """Have another quantity of a line."""
        line = self.lines[event.line_id]
        self.lines[event.line_id] = msgspec.structs.replace(line, quantity=event.quantity_after)
        self.total = event.total

    @applies
    def quoted(self, event: OrderQuoted) -> None:
        """Stay as it is: a quotation is for the customer."""

    @applies
    def redeemed(self, event: VoucherRedeemed) -> None:
        """Have a smaller bill; the lines and their total stay as they are."""
        self.percent_off = event.percent

    @applies
    def checked_out(self, event: OrderCheckedOut) -> None:
        """Wait for its pieces."""
        self.status = Status.CHECKED_OUT

    @applies
    def reserved(self, event: OrderReserved) -> None:
        """Wait for its payment."""
        self.status = Status.RESERVED

    @applies
    def paid(self, event: OrderPaid) -> None:
        """Be paid."""
        self.status = Status.PAID

    @applies
    def shipped(self, event: OrderShipped) -> None:
        """Be shipped."""
        self.status = Status.SHIPPED

    @applies
    def cancelled(self, event: OrderCancelled) -> None:
        """Be cancelled."""
        self.status = Status.CANCELLED
