"""Who may do what in the shop, for `Engine(authorize=...)`.

Rules: whoever is not on the staff may order, change, pay, call off and ask; shipping, returns,
stock, vouchers, the looks into the log and the control of projections are the staff's. Commands
that a timer sends are not asked about, so `Fulfilment` ships what is paid. A gate decides and
changes nothing; without one, as on a developer's machine, everybody may do everything.
"""

from __future__ import annotations

from collections.abc import Collection

from engine import Authorize

from .model.fulfilment import GiveUp
from .model.orders import ShipOrder
from .model.returns import RecordReturn
from .model.stock import ReceiveStock, ReleaseStock, ReserveStock
from .model.vouchers import IssueVoucher

__all__ = ["staff_gate"]

OF_THE_STAFF = (
    *(ShipOrder, RecordReturn, ReceiveStock, ReserveStock, ReleaseStock, GiveUp),
    IssueVoucher,
)


def staff_gate(staff: Collection[str]) -> Authorize:
    """Give a gate that knows these principals as the staff."""

    def may(principal: str | None, action: str, message: object) -> bool:
        if principal in staff:
            return True
        return action in {"execute", "query"} and not isinstance(message, OF_THE_STAFF)

    return may
