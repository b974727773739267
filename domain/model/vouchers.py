"""Vouchers: a code takes some percent off the bill of so many orders, and of no more.

Rules: that a voucher is used up is told by no order alone and by no aggregate of its own. It is
told by all events that are about the code, wherever they are stored. So a boundary by tags decides,
together with the order. A use stays used, also where its order is cancelled: who finds out that a
code was free again would try all. No clock, no I/O.
"""

from __future__ import annotations

from typing import Final

from engine import Boundary, Command, Event, Id, Rejected, To, applies, decides

from .orders import Order, Status
from .payment import VoucherRedeemed

__all__ = [
    "IssueVoucher",
    "RedeemVoucher",
    "Voucher",
    "VoucherIssued",
    "issue_voucher",
    "redeem_voucher",
]

PERCENT_MAX: Final = 90
USES_MAX: Final = 1_000_000


class IssueVoucher(Command):
    """Let a code take some percent off the bill of so many orders."""

    voucher: Id
    percent: int
    uses: int


class RedeemVoucher(Command):
    """Use a voucher for a created order, before its checkout; an order takes one."""

    order: Id
    voucher: Id


class VoucherIssued(Event, name="voucher-issued", version=1, tags=("voucher",)):
    """A code may be used."""

    voucher: str
    percent: int
    uses: int


class Voucher(Boundary, tags=("voucher",)):
    """One code: what it takes off, and how many orders may still use it."""

    percent: int = 0
    left: int = 0

    @applies
    def issued(self, event: VoucherIssued) -> None:
        """Be usable."""
        self.percent = event.percent
        self.left = event.uses

    @applies
    def redeemed(self, event: VoucherRedeemed) -> None:
        """Be used once more."""
        self.left -= 1


@decides
def issue_voucher(command: IssueVoucher, voucher: Voucher) -> VoucherIssued:
    """Issue a code once."""
    if not 0 < command.percent <= PERCENT_MAX:
        raise Rejected("percent-unsound", f"a voucher takes 1 to {PERCENT_MAX} percent off")
    if not 0 < command.uses <= USES_MAX:
        raise Rejected("uses-unsound", f"a voucher is used 1 to {USES_MAX:,} times")
    if voucher.version:
        raise Rejected("voucher-exists", f"voucher {voucher.id} is issued already")
    return VoucherIssued(command.voucher, command.percent, command.uses)


@decides
def redeem_voucher(
    command: RedeemVoucher, order: Order, voucher: Voucher
) -> list[To[VoucherRedeemed]]:
    """Use a code that is not used up, once for an order."""
    order.refuse_unless("made cheaper", Status.CREATED)
    if not voucher.version:
        raise Rejected("voucher-unknown", "there is no such voucher")
    if order.percent_off:
        raise Rejected("voucher-taken", f"order {order.id} has a voucher already")
    if not voucher.left:
        raise Rejected("voucher-used-up", f"voucher {voucher.id} is used up")
    return [To(order, VoucherRedeemed(command.voucher, voucher.percent))]
