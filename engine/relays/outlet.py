"""What publishes to a broker: one protocol, and which module speaks to which broker.

Rules: `publish` returns when the broker has made every message of the batch durable, as far as its
settings let it, and raises otherwise; then some may have arrived. A message is never overtaken by a
later one of its key. Nothing here retries, waits for a broker that is down, or remembers a message:
the projector does. A client library is imported when a connection is made.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import ssl
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from ..errors import BrokerFailed, DefinitionError
from .address import Address, Broker
from .message import Outgoing

__all__ = [
    "ANSWER_SECONDS",
    "CONNECT_SECONDS",
    "PER_TURN",
    "Outlet",
    "check_installed",
    "load",
    "open_outlet",
    "tls_problem",
]

PER_TURN: Final = 50
"""Messages after which the event loop gets its turn: commands do not wait for a relay."""

CONNECT_SECONDS: Final = 10.0
"""How long one attempt to connect may take."""
ANSWER_SECONDS: Final = 10.0
"""How long a broker may take to confirm a batch."""
LINKS_MAX: Final = 20
"""Of a chain of errors that are looked at."""
_LIBRARIES: Final[dict[Broker, tuple[str, str]]] = {
    "kafka": ("aiokafka", "kafka"),
    "mongodb": ("pymongo", "mongodb"),
    "nats": ("nats", "nats"),
    "opensearch": ("aiohttp", "opensearch"),
    "rabbitmq": ("aio_pika", "rabbitmq"),
    "redis": ("redis", "redis"),
    "sns": ("aiobotocore", "aws"),
    "sqs": ("aiobotocore", "aws"),
}
"""By broker or database: its client library, and the extra that has it."""


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


def check_installed(address: Address) -> None:
    """Raise DefinitionError where the client library of a broker is not installed."""
    library, extra = _LIBRARIES[address.broker]
    if importlib.util.find_spec(library) is None:
        raise DefinitionError(
            f"{address} needs the library {library}: pip install 'foldline[{extra}]'"
        )


async def load(address: Address) -> None:
    """Import the client library of a broker in a thread: the loop is not blocked meanwhile."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, importlib.import_module, _LIBRARIES[address.broker][0])


def open_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> Outlet:
    """Give what publishes to a broker, not yet connected; `name` is what the broker shows of it."""
    module: Any = importlib.import_module(f".{address.broker}", __package__)
    return cast("Outlet", module.make_outlet(address, name, tls))


def tls_problem(address: Address, error: BaseException | None) -> BrokerFailed | None:
    """Give what is wrong with the encryption of a connection, where it is that."""
    why: str | None = None
    for _ in range(LINKS_MAX):
        if error is None:
            break
        if isinstance(error, ssl.SSLError):
            why = why or getattr(error, "verify_message", "")
        error = error.__cause__ or error.__context__
    if why is None:
        return None
    return BrokerFailed(
        f"no encrypted connection to {address}: {why or 'the server does not offer it'}. Give tls= "
        f"with the authority that signed the server's certificate, or mend the server",
        passes=False,
    )
