"""The client library of each broker, and what is wrong with an encrypted connection.

Rules: a client library is imported when a connection is made, and in a thread where that can be
waited for. Nothing is connected here.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import ssl
import traceback
from typing import Final

from ..errors import BrokerFailed, DefinitionError
from .address import Address, Broker

__all__ = [
    "CONNECT_SECONDS",
    "check_installed",
    "encryption_failed",
    "load",
    "tls_problem",
    "unexpected",
]

CONNECT_SECONDS: Final = 10.0
"""How long one attempt to connect may take."""
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


def check_installed(address: Address) -> None:
    """Raise DefinitionError where the client library of a broker is not installed."""
    library, extra = _LIBRARIES[address.broker]
    if importlib.util.find_spec(library) is None:
        raise DefinitionError(
            f"{address} needs the library {library}: pip install '../foldline[{extra}]'"
        )


async def load(address: Address) -> None:
    """Import the client library of a broker in a thread: the loop is not blocked meanwhile."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, importlib.import_module, _LIBRARIES[address.broker][0])


def tls_problem(address: Address, error: BaseException | None) -> BrokerFailed | None:
    """Give what is wrong with the encryption of a connection, where it is that."""
    why: str | None = None
    for _ in range(LINKS_MAX):
        if error is None:
            break
        if isinstance(error, ssl.SSLError):
            why = why or getattr(error, "verify_message", "")
        error = error.__cause__ or error.__context__
    return None if why is None else encryption_failed(address, why)


def encryption_failed(address: Address, why: str) -> BrokerFailed:
    """Give what is to be done where a connection cannot be encrypted."""
    given = "tlsCAFile= in the URL" if address.broker == "mongodb" else "tls="
    return BrokerFailed(
        f"no encrypted connection to {address}: {why or 'the server does not offer it'}. Give "
        f"{given} with the authority that signed the server's certificate, or mend the server",
        passes=False,
    )


def unexpected(where: object, error: Exception) -> BrokerFailed:
    """Give what an error means that no client library is known to raise: no event is to blame.

    It passes, as a broker that is down does: what waits is neither parked nor lost meanwhile. Its
    text is not shown, since it may have what was sent.
    """
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        line = f"{frame.f_globals.get('__name__', '')}, line {number}"
    return BrokerFailed(
        f"the client library of {where} failed in a way that is not known of it "
        f"({type(error).__name__} in {line}): it is tried again. See whether its version is one "
        f"that this program was tested with",
        passes=True,
    )
