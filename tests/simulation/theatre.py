"""A theatre for `mixing`: seats are claimed, paid for, confirmed, and given up by a timer.

Rules: each step is of another kind, so what one of them loses or does twice shows in the others.
A booking claims a seat and sets a timer; a reactor lets it be paid, which is a joint decision of
two accounts; a process manager confirms what was paid, or pays it back where that comes too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine import (
    After,
    Aggregate,
    CancelTimer,
    Claim,
    Command,
    Decision,
    Event,
    Id,
    ProcessManager,
    Reactor,
    Rejected,
    Release,
    To,
    applies,
    decides,
    handles,
    reacts,
    when_rejected,
)

__all__ = ["AGGREGATES", "DECISIONS", "HOUSE", "PRICE", "REACTORS", "Deposit", "Hold"]

HOUSE = "house"
PRICE = 10
_HOLD_SECONDS = 0.3


class Held(Event, name="held"):
    """A seat is held for somebody."""

    booking: str
    seat: str
    payer: str


class Confirmed(Event, name="confirmed"):
    """The seat is his."""

    booking: str


class Expired(Event, name="expired"):
    """Nobody has paid in time."""

    booking: str


class Dropped(Event, name="dropped"):
    """He cannot pay."""

    booking: str


class Deposited(Event, name="deposited"):
    """Money came from outside."""

    booking: str
    cents: int


class Paid(Event, name="paid"):
    """Money went from a guest to the house."""

    booking: str
    payer: str
    cents: int


class Refunded(Event, name="refunded"):
    """It went back."""

    booking: str
    cents: int


class Went(Event, name="went"):
    """A manager went on."""

    booking: str
    to: str


class Hold(Command):
    """Hold a seat for a while."""

    booking: Id
    seat: str
    payer: str


class Confirm(Command):
    """Let the seat be his for good."""

    booking: Id


class Expire(Command):
    """Give the seat up; sent by a timer."""

    booking: Id


class Drop(Command):
    """Give the seat up, since it cannot be paid."""

    booking: Id


class Deposit(Command):
    """Pay in."""

    account: Id
    number: str
    cents: int


class Pay(Command):
    """Pay for a booking."""

    payer: Id
    payee: Id
    booking: str


class Refund(Command):
    """Pay it back."""

    payer: Id
    payee: Id
    booking: str


class Booking(Aggregate, kind="booking", snapshot_every=2):
    """Is held, and then confirmed or given up."""

    state: str = ""
    seat: str = ""

    @handles
    def hold(self, command: Hold) -> Decision[Held]:
        """Claim the seat, and let a timer give it up."""
        timer = After(Expire(self.id), "hold", seconds=_HOLD_SECONDS)
        held = Held(self.id, command.seat, command.payer)
        return Decision(held, claims=[Claim("seat", command.seat)], timers=[timer])

    @handles
    def confirm(self, command: Confirm) -> Decision[Confirmed]:
        """Keep the seat."""
        if self.state != "held":
            raise Rejected("too-late", "the seat was given up")
        return Decision(Confirmed(self.id), timers=[CancelTimer("hold")])

    @handles
    def expire(self, command: Expire) -> Decision[Expired] | None:
        """Give it up, unless somebody was faster."""
        if self.state != "held":
            return None
        return Decision(Expired(self.id), claims=[Release("seat", self.seat)])

    @handles
    def drop(self, command: Drop) -> Decision[Dropped] | None:
        """Give it up, and the timer with it."""
        if self.state != "held":
            return None
        claims = [Release("seat", self.seat)]
        return Decision(Dropped(self.id), claims=claims, timers=[CancelTimer("hold")])

    @applies
    def held(self, event: Held) -> None:
        """Have it for now."""
        self.state, self.seat = "held", event.seat

    @applies
    def confirmed(self, event: Confirmed) -> None:
        """Have it."""
        self.state = "confirmed"

    @applies
    def expired(self, event: Expired) -> None:
        """Have it no more."""
        self.state = "expired"

    @applies
    def dropped(self, event: Dropped) -> None:
        """Have it no more."""
        self.state = "dropped"


class Account(Aggregate, kind="account", key_window=2, snapshot_every=3):
    """Has money, and never owes; it remembers two keys, and so knows deposits by their numbers."""

    cents: int = 0
    numbers: list[str] = []

    @handles
    def deposit(self, command: Deposit) -> Deposited | None:
        """Take it once."""
        if command.number in self.numbers:
            return None
        return Deposited(command.number, command.cents)

    @applies
    def deposited(self, event: Deposited) -> None:
        """Have it."""
        self.cents += event.cents
        self.numbers = [*self.numbers, event.booking]

    @applies
    def paid(self, event: Paid) -> None:
        """Have it, or have it no more."""
        self.cents += event.cents

    @applies
    def refunded(self, event: Refunded) -> None:
        """Have it, or have it no more."""
        self.cents += event.cents


@decides
def pay(command: Pay, payer: Account, payee: Account) -> list[To[Paid]]:
    """Move the price, if it is there."""
    if payer.cents < PRICE:
        raise Rejected("too-little", "there is not so much")
    return [
        To(payer, Paid(command.booking, payer.id, -PRICE)),
        To(payee, Paid(command.booking, payer.id, PRICE)),
    ]


@decides
def refund(command: Refund, payer: Account, payee: Account) -> list[To[Refunded]]:
    """Move it back."""
    return [
        To(payee, Refunded(command.booking, -PRICE)),
        To(payer, Refunded(command.booking, PRICE)),
    ]


class Billing(Reactor, name="billing", begins="start"):
    """Lets each booking be paid."""

    @reacts
    def held(self, event: Held) -> Pay:
        """Ask for the price."""
        return Pay(event.payer, HOUSE, event.booking)

    @when_rejected
    def too_little(self, command: Pay, rejection: Rejected) -> Drop:
        """Give the seat up."""
        return Drop(command.booking)


class Checkout(ProcessManager, kind="checkout", begins="start", key_window=1, snapshot_every=1):
    """Confirms what was paid, or pays it back."""

    payer: str = ""

    @reacts(by="booking")
    def paid(self, event: Paid) -> Decision[Went] | None:
        """Confirm, once the house has the money."""
        if event.cents < 0:
            return None
        return Decision(Went(self.id, event.payer), commands=[Confirm(self.id)])

    @when_rejected
    def too_late(self, command: Confirm, rejection: Rejected) -> Decision[Went]:
        """Pay back."""
        back = Refund(self.payer, HOUSE, self.id)
        return Decision(Went(self.id, "back"), commands=[back])

    @applies
    def went(self, event: Went) -> None:
        """Remember who paid."""
        if event.to != "back":
            self.payer = event.to


AGGREGATES: list[type[Aggregate]] = [Booking, Account, Checkout]
REACTORS = [Billing]
DECISIONS: list[Callable[..., Any]] = [pay, refund]
