"""One connection to NATS.

Rules: the client's own reconnecting is off: whoever holds a connection is told when it has ended,
and makes another one. A line that says nothing has ended, too. No secret is sent to a server that
should have offered encryption.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..errors import BrokerFailed
from .address import Address
from .client import CONNECT_SECONDS, tls_problem

__all__ = ["connect", "new_name"]

CLOSE_SECONDS: Final = 0.5
PING_SECONDS: Final = 10.0
"""How often the server is asked for a word; a line that says nothing ends when it asks the third
time without an answer."""
_CREDENTIALS: Final = ("authorization", "authentication", "permissions", "credentials")


async def connect(
    address: Address, name: str, tls: ssl.SSLContext | None, closed: Callable[[], Any]
) -> Any:
    """Connect once; raise BrokerFailed where that fails."""
    nats: Any = importlib.import_module("nats.aio.client")
    last: list[BaseException] = []

    async def note(error: BaseException) -> None:
        last.append(error)

    client = nats.Client()
    options: dict[str, Any] = {
        "servers": [f"{address.scheme}://{_shown(*host)}" for host in address.hosts],
        "name": name,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        "connect_timeout": CONNECT_SECONDS,
        "ping_interval": PING_SECONDS,
        "max_outstanding_pings": 2,
        "error_cb": note,
        "closed_cb": closed,
        **_credentials(address, client),
    }
    if address.is_encrypted or tls is not None:
        options["tls"] = tls or address.tls(None)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(**options)
        _check_encrypted(address, client)
    except Exception as error:
        failed = _cannot_connect(address, [error, *last])
    else:
        return client
    with contextlib.suppress(Exception):
        # Within a time: where TLS has failed, the client waits for a stream that never ends.
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()
    raise failed


def new_name() -> str:
    """Give a part of a subject that nobody else has, in letters and digits."""
    nuid: Any = importlib.import_module("nats.nuid")
    name: str = nuid.NUID().next().decode()
    return name


def _credentials(address: Address, client: Any) -> dict[str, Any]:
    """Give who asks, by functions: the client calls them when it has seen the server's greeting.

    It would connect in plain text to a server that offers no encryption, and send the password.
    """
    password = address.password

    def guarded(text: str | None) -> Callable[[], str | None]:
        def give() -> str | None:
            _check_encrypted(address, client)
            return text

        return give

    if password is None:
        return {}
    if address.user is None:
        return {"token": guarded(password.revealed)}
    return {"user": guarded(address.user), "password": guarded(password.revealed)}


def _check_encrypted(address: Address, client: Any) -> None:
    if address.is_encrypted and not client._server_info.get("tls_required"):
        raise ssl.SSLError("the server offers no encryption")


def _cannot_connect(address: Address, errors: Sequence[BaseException]) -> BrokerFailed:
    """Give what a failure to connect means, in words that have no secret in them."""
    for error in errors:
        problem = tls_problem(address, error)
        if problem is not None:
            return problem
        if any(word in str(error).lower() for word in _CREDENTIALS):
            return BrokerFailed(
                f"{address} refuses the credentials of the URL: mend user, password or token",
                passes=False,
            )
    why = type(errors[-1]).__name__
    return BrokerFailed(f"{address} cannot be reached ({why})", passes=True)


def _shown(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
