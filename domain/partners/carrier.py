"""The carrier that fetches what was shipped, told by a sink.

Rules: it is told of an order once or more, each time with the same key, since a crash may come
between its answer and the checkpoint. A parcel that it refuses is parked for a person to look at,
and the others go on; while it does not answer, it is tried again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from engine import Delivery, Sink

from ..model.orders import OrderShipped

__all__ = ["Carrier", "CarrierAway", "Pickups"]


class CarrierAway(Exception):
    """It does not answer now; it may later."""


class Carrier(ABC):
    """What the shop asks of a carrier; put your own client here."""

    @abstractmethod
    async def fetch(self, order_id: str, key: str) -> None:
        """Have a parcel fetched, once for each key.

        Raises CarrierAway where asking again may help, and anything else where the parcel is
        refused.
        """


class Pickups(Sink, name="pickups", version=1, on_poison="park"):
    """Has the parcel of each shipped order fetched."""

    transient = (CarrierAway,)

    async def deliver(self, batch: Sequence[Delivery[OrderShipped]], carrier: Carrier) -> None:
        """Tell of one after the other."""
        for delivery in batch:
            await carrier.fetch(delivery.meta.id, str(delivery.meta.event_id))
