"""Publishes to RabbitMQ.

Rules: every message is persistent, must reach a queue, and is confirmed by the server. Messages go
in waves: no two of one stream are on their way at once, since the server may refuse the first and
take the second. Queues are looked at before the first message: what is missing or is lost with the
server is refused. RabbitMQ drops no repetition; a receiver tells by the message's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Sequence
from typing import Any, Final

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS, tls_problem
from ..errors import BrokerFailed, MessageRefused
from .message import CONTENT_TYPE, Outgoing, waves
from .outlet import ANSWER_SECONDS

__all__ = [
    "PREFIXES",
    "RabbitOutlet",
    "closed",
    "connect",
    "failure_of",
    "look",
    "make_outlet",
]

HEADERS_MAX: Final = 100_000
"""Bytes of headers; a frame of the protocol has 131,072."""
HEARTBEAT_SECONDS: Final = 10
"""How often each end says a word: a line that says nothing for three times as long has ended."""
NAME_MAX: Final = 255
"""Bytes of a name in the protocol."""
PREFIXES: Final = ("cloudEvents:", "cloudEvents_")
"""Of the headers that are attributes of CloudEvents; the first is what is sent."""
_EXCHANGE: Final = "exchange:"
_TOO_LARGE: Final = "larger than"
_MISSING: Final = "NOT_FOUND - no "
"""How the server says that nothing of a name is declared."""
_CLOSED: Final = "Connection.Close"
"""All that the client tells of an answer of the server that ends a connection being opened."""


class RabbitOutlet:
    """One connection to RabbitMQ."""

    def __init__(self, address: Address, name: str, tls: ssl.SSLContext | None) -> None:
        """Take where to connect to, and what the server shows of it."""
        self._address = address
        self._name = name
        self._tls = tls
        self._connection: Any = None
        self._channel: Any = None
        self._exchanges: dict[str, tuple[Any, str]] = {}
        """By topic: the exchange, and the key that leads from there to a queue."""

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are confirmed."""
        errors: Any = importlib.import_module("aiormq.exceptions")
        for message in batch:
            self._check(message)
        try:
            if self._connection is None:
                self._connection = await connect(self._address, self._name, self._tls)
                self._channel = await self._connection.channel(
                    publisher_confirms=True, on_return_raises=True
                )
            for topic in {message.topic for message in batch} - self._exchanges.keys():
                self._exchanges[topic] = await self._find(topic)
            for wave in waves(batch):
                await self._publish(wave)
        except (errors.AMQPError, OSError, TimeoutError, RuntimeError) as error:
            failed = failure_of(self._address, error)
        except BaseException:
            await self.close()
            raise
        else:
            return
        await self.close()
        raise failed

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._channel = self._connection, None, None
        self._exchanges.clear()
        if connection is not None:
            await closed(connection)

    def _check(self, message: Outgoing) -> None:
        attributes = message.attributes
        size = sum(len(name) + len(value.encode()) + 32 for name, value in attributes.items())
        names = (message.topic, attributes[CONTENT_TYPE])
        if size > HEADERS_MAX or any(len(name.encode()) > NAME_MAX for name in names):
            raise MessageRefused(
                f"the message {message.id} has {size} bytes of headers, and RabbitMQ takes "
                f"{HEADERS_MAX}; or its topic or content type has more than {NAME_MAX}"
            )

    async def _find(self, topic: str) -> tuple[Any, str]:
        """Give where a topic is published; raise BrokerFailed where that is lost or missing."""
        if not topic.startswith(_EXCHANGE):
            await look(self._connection, self._address, "queue", topic)
            return self._channel.default_exchange, topic
        name, _, key = topic.removeprefix(_EXCHANGE).partition("/")
        await look(self._connection, self._address, "exchange", name)
        return await self._channel.get_exchange(name, ensure=False), key

    async def _publish(self, wave: Sequence[Outgoing]) -> None:
        pika: Any = importlib.import_module("aio_pika")
        errors: Any = importlib.import_module("aiormq.exceptions")
        async with asyncio.timeout(ANSWER_SECONDS):
            answers: Sequence[Any] = await asyncio.gather(
                *(self._send(pika, message) for message in wave), return_exceptions=True
            )
        for message, answer in zip(wave, answers, strict=True):
            if isinstance(answer, errors.PublishError):
                raise BrokerFailed(
                    f"no queue of {self._address} takes the topic {message.topic!r}, so the "
                    f"message would be dropped: bind one, then resume the relay",
                    passes=False,
                )
            if isinstance(answer, errors.ChannelPreconditionFailed) and _TOO_LARGE in str(answer):
                await self.close()
                raise MessageRefused(
                    f"{self._address} takes no message as large as {message.id}, "
                    f"{len(message.body)} bytes, or as one that was sent with it"
                )
            if isinstance(answer, errors.DeliveryError):
                raise BrokerFailed(
                    f"{self._address} has refused a message: the queue of {message.topic!r} is "
                    f"full, or has no leader",
                    passes=True,
                )
            if isinstance(answer, BaseException):
                raise failure_of(self._address, answer)

    async def _send(self, pika: Any, message: Outgoing) -> None:
        exchange, key = self._exchanges[message.topic]
        attributes = message.attributes
        made = pika.Message(
            message.body,
            message_id=message.id,
            type=attributes["type"],
            content_type=attributes[CONTENT_TYPE],
            delivery_mode=pika.DeliveryMode.PERSISTENT,
            headers={
                PREFIXES[0] + name: value
                for name, value in attributes.items()
                if name != CONTENT_TYPE
            },
        )
        await exchange.publish(made, routing_key=key, mandatory=True)


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> RabbitOutlet:
    """Give what publishes to RabbitMQ."""
    return RabbitOutlet(address, name, tls)


async def connect(address: Address, name: str, tls: ssl.SSLContext | None) -> Any:
    """Connect once; raise BrokerFailed where that fails."""
    # Its import takes long: in a thread, so that the loop is not blocked the first time.
    loop = asyncio.get_running_loop()
    pika: Any = await loop.run_in_executor(None, importlib.import_module, "aio_pika")
    errors: Any = importlib.import_module("aiormq.exceptions")
    host, port = address.hosts[0]
    options: dict[str, Any] = {"host": host, "port": port, "virtualhost": address.path or "/"}
    options["heartbeat"] = HEARTBEAT_SECONDS
    if address.password is not None:
        options |= {"login": address.user or "guest", "password": address.password.revealed}
    if address.is_encrypted:
        options |= {"ssl": True, "ssl_context": address.tls(tls)}
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await pika.connect(**options, client_properties={"connection_name": name})
    except (errors.AMQPError, OSError, TimeoutError, RuntimeError) as error:
        failed = failure_of(address, error)
    raise failed


async def closed(connection: Any) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(Exception, asyncio.CancelledError):
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.close()


async def look(
    connection: Any, address: Address, kind: str, name: str, *, durable: bool = True
) -> None:
    """Look at a queue or an exchange on a channel of its own: a refusal closes that.

    Raises BrokerFailed where it is missing or, if it is to be `durable`, lost with the server.
    """
    errors: Any = importlib.import_module("aiormq.exceptions")
    looking = await connection.channel()
    try:
        declare = looking.declare_queue if kind == "queue" else looking.declare_exchange
        await declare(name, passive=True)
        if kind == "queue" and durable:
            await declare(name, durable=True)
    except errors.ChannelNotFoundEntity as error:
        if _MISSING not in str(error):  # its process, or the machine that has it, is not up
            raise BrokerFailed(
                f"{address} has the {kind} {name!r}, and cannot use it now", passes=True
            ) from None
        raise BrokerFailed(
            f"{address} has no {kind} {name!r}, so nothing would keep the message: declare it, "
            f"then go on",
            passes=False,
        ) from None
    except errors.ChannelPreconditionFailed as error:
        if "'durable'" in str(error) and "memory" not in address.allow:
            raise BrokerFailed(
                f"the {kind} {name!r} of {address} is not durable, and is lost with the server: "
                f'declare it durable, or give the relay allow=["memory"]',
                passes=False,
            ) from None
    finally:
        with contextlib.suppress(Exception):
            await looking.close()


def failure_of(address: Address, error: BaseException) -> BrokerFailed:
    """Give what an error of the client means, in words that have no secret in them."""
    errors: Any = importlib.import_module("aiormq.exceptions")
    problem = tls_problem(address, error)
    if problem is not None:
        return problem
    name = type(error).__name__
    if isinstance(error, errors.AuthenticationError | errors.ProbableAuthenticationError):
        return BrokerFailed(
            f"{address} refuses the credentials of the URL: mend user or password", passes=False
        )
    denied = (errors.ChannelAccessRefused, errors.ConnectionNotAllowed)
    if isinstance(error, denied):
        return BrokerFailed(
            f"{address} does not allow it ({name}): see the virtual host and this user's rights",
            passes=False,
        )
    if isinstance(error, errors.InvalidFrameError) and _CLOSED in str(error):
        return BrokerFailed(
            f"{address} ends the connection as it is opened: it has no such virtual host, this "
            f"user may not enter it, or there are too many connections",
            passes=True,
        )
    if isinstance(error, TimeoutError):
        return BrokerFailed(f"{address} has not answered within {ANSWER_SECONDS:g} s", passes=True)
    return BrokerFailed(f"{address} cannot be reached ({name})", passes=True)
