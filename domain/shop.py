"""The shop as an engine: the one place where aggregates, projections and answers are wired.

Rules: whoever needs the shop, a web application, a worker, a test, gets it here; nothing else
names the parts together.
"""

from __future__ import annotations

from engine import Engine, Limits, Onlooker

from .model.former_events import UPCASTERS
from .model.orders import Order
from .model.returns import Return
from .views.catalogue import Catalogue
from .views.customers import Customers
from .views.orders import Orders
from .views.queries import ANSWERS
from .views.sales import Sales

__all__ = ["look_on", "open_shop"]

PROJECTIONS = (Orders, Catalogue, Sales, Customers)

# An order is done with soon after it was invoiced, so that few are worth their place in memory:
# importing 1.4 million rows takes 250 MB so, and 650 MB with the engine's own bound.
LIMITS = Limits(resident_aggregates=2_000)


def open_shop(store: str = "memory:", limits: Limits = LIMITS) -> Engine:
    """Give the shop's engine on a store; start it with `async with`."""
    return Engine(
        [Order, Return],
        projections=PROJECTIONS,
        answers=ANSWERS,
        upcasters=UPCASTERS,
        rebuild="auto",
        store=store,
        limits=limits,
    )


def look_on(store: str) -> Onlooker:
    """Give the shop's views, read-only, beside the process that has the shop open."""
    return Onlooker(projections=PROJECTIONS, answers=ANSWERS, store=store)
