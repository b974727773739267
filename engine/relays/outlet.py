"""What publishes to a broker: one protocol, and which module speaks to which broker.

Rules: `publish` returns when the broker has made every message of the batch durable, as far as its
settings let it, and raises otherwise; then some may have arrived. A message is never overtaken by a
later one of its key. Nothing here retries, waits for a broker that is down, or remembers a message:
the projector does. A client library is imported when a connection is made.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from ..brokers.address import Address
from .message import Outgoing

__all__ = ["ANSWER_SECONDS", "LOOK_SECONDS", "PER_TURN", "SETTLE_SECONDS", "Outlet", "open_outlet"]

PER_TURN: Final = 50
"""Messages after which the event loop gets its turn: commands do not wait for a relay."""

ANSWER_SECONDS: Final = 10.0
"""How long a broker may take to confirm a batch."""

LOOK_SECONDS: Final = 60.0
"""After so long a topic is looked at again where it may have lost all of its readers, and drops
what it confirms."""

SETTLE_SECONDS: Final = 10.0
"""How long a broker that was out of reach may refuse what it will take: one that starts may not
know its queues yet."""


class Outlet(Protocol):
    """Publishes to one broker; it connects when it first has to, and again after a failure."""

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are confirmed.

        Raises MessageRefused where it is a message that the broker does not take, and BrokerFailed
        where no message is to blame.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


def open_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> Outlet:
    """Give what publishes to a broker, not yet connected; `name` is what the broker shows of it."""
    module: Any = importlib.import_module(f".{address.broker}", __package__)
    return cast("Outlet", module.make_outlet(address, name, tls))
