"""The shop as an engine: the one place where aggregates, projections and answers are wired.

Rules: whoever needs the shop, a web application, a worker, a test, gets it here; nothing else
names the parts together.
"""

from __future__ import annotations

from msgspec.structs import replace

from engine import Authorize, Engine, Limits, Onlooker, Ports, Retry

from .model.former_events import UPCASTERS
from .model.fulfilment import Fulfilment
from .model.orders import Order
from .model.rates import Rates
from .model.returns import Return
from .model.stock import Stock, release_stock, reserve_stock
from .model.vouchers import Voucher, issue_voucher, redeem_voucher
from .partners.carrier import Carrier, Pickups
from .views.catalogue import Catalogue
from .views.customers import Customers
from .views.dashboard import get_dashboard
from .views.orders import Orders
from .views.queries import ANSWERS
from .views.sales import Sales

__all__ = ["ALONE", "LIMITS", "look_on", "open_shop"]

PROJECTIONS = (Orders, Catalogue, Sales, Customers)

# An order is done with soon after it was invoiced, so that few are worth their place in memory:
# importing 1.4 million rows takes 250 MB so, and 650 MB with the engine's own bound.
LIMITS = Limits(resident_aggregates=2_000)
ALONE = replace(LIMITS, loop_blocked_ms=2_000)
"""For a process whose event loop nobody else waits for: a slow machine is no fault to log."""


def open_shop(
    store: str = "memory:",
    limits: Limits = LIMITS,
    *,
    authorize: Authorize | None = None,
    rates: Rates | None = None,
    carrier: Carrier | None = None,
    join: bool = False,
    ports: Ports | None = None,
) -> Engine:
    """Give the shop's engine on a store; start it with `async with`.

    With a `carrier` it is told of each shipped order: of all that the log has, if it is new.
    `authorize` is asked before each command and question (`gate.staff_gate`). `join` lets several
    processes share it. `ports` are for tests, whose clock jumps over a deadline.
    """
    resources: dict[type, object] = {Rates: rates or Rates()}
    if carrier is not None:
        resources[Carrier] = carrier
    return Engine(
        [Order, Return, Stock, Fulfilment, Voucher],
        projections=PROJECTIONS if carrier is None else (*PROJECTIONS, Pickups),
        answers=(*ANSWERS, get_dashboard),
        decisions=(reserve_stock, release_stock, issue_voucher, redeem_voucher),
        upcasters=UPCASTERS,
        rebuild="auto",
        resources=resources,
        authorize=authorize,
        store=store,
        limits=limits,
        # A worker that has just died is no fault of a client's: the next owner answers.
        middleware=[Retry(3)] if join else [],
        join=join,
        ports=ports,
    )


def look_on(store: str) -> Onlooker:
    """Give the shop's views, read-only, beside the process that has the shop open."""
    return Onlooker(projections=PROJECTIONS, answers=(*ANSWERS, get_dashboard), store=store)
