"""Takes messages from a RabbitMQ queue.

Rules: what was taken and not acknowledged is the server's again when the connection ends, and comes
again in its place. It is given back in no other way: a quorum queue puts what is refused behind
what it has given out since. A server that ends the reading of a queue ends the connection here. The
queue forgets what was acknowledged. The dead go to a queue too, and are confirmed there before the
message is acknowledged.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..brokers.address import Address
from ..errors import BrokerFailed
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .message import CONTENT_TYPE
from .outlet import ANSWER_SECONDS
from .rabbitmq import PREFIXES, closed, connect, failure_of, look

__all__ = ["RabbitInlet", "make_inlet"]

PREFETCH: Final = 512
"""Messages that the server gives before it has an acknowledgement, at most."""


class RabbitInlet:
    """One connection to RabbitMQ."""

    def __init__(
        self, address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
    ) -> None:
        """Take where to connect to, and the queues that are read and buried in."""
        self._address = address
        self._name = name
        self._topic = topic
        self._dead = dead
        self._tls = tls
        self._connection: Any = None
        self._channel: Any = None
        self._come: asyncio.Queue[Any] = asyncio.Queue()
        """Messages that the server has given; None where it gives no more."""

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many."""
        try:
            if self._connection is None:
                await self._open()
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    found = [await self._come.get()]
            except TimeoutError:
                return []
        except BrokerFailed:
            raise
        except Exception as error:
            raise self._failed(error) from None
        while len(found) < count and not self._come.empty():
            found.append(self._come.get_nowait())
        if None in found:
            raise BrokerFailed(
                f"{self._address} has closed the connection, or ended the reading of "
                f"{self._topic!r}: the queue was deleted, or has moved",
                passes=True,
            )
        return [self._received(each) for each in found]

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the server forget messages."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for each in received:
                    await each.handle.ack()
        except Exception as error:
            raise self._failed(error) from None

    async def release(self, received: Sequence[Received]) -> None:
        """Give messages back, to their places: with all others that were not acknowledged."""
        if received:
            await self.close()

    async def bury(self, received: Received, reason: str) -> None:
        """Publish a message to the queue of the dead; once that has it, let it be forgotten."""
        pika: Any = importlib.import_module("aio_pika")
        errors: Any = importlib.import_module("aiormq.exceptions")
        message = received.message
        try:
            made = pika.Message(
                message.body,
                headers={**received.handle.headers, REASON: reason},
                message_id=received.handle.message_id,
                content_type=received.handle.content_type,
                delivery_mode=pika.DeliveryMode.PERSISTENT,
            )
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._channel.default_exchange.publish(
                    made, routing_key=self._dead, mandatory=True
                )
        except errors.DeliveryError:
            raise BrokerFailed(
                f"the queue {self._dead!r} of {self._address}, where the dead go, takes no "
                f"message: it is full, was deleted, or has no leader",
                passes=True,
            ) from None
        except Exception as error:
            raise self._failed(error) from None
        await self.acknowledge([received])

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._channel = self._connection, None, None
        self._come = asyncio.Queue()
        if connection is not None:
            await closed(connection)

    def _failed(self, error: Exception) -> BrokerFailed:
        return failure_of(self._address, error)

    async def _open(self) -> None:
        name = f"foldline {self._name}"
        self._connection = await connect(self._address, name, self._tls)
        come = self._come = asyncio.Queue()
        async with asyncio.timeout(ANSWER_SECONDS):
            for queue in (self._topic, self._dead):
                await look(self._connection, self._address, "queue", queue, durable=False)
            self._channel = await self._connection.channel(
                publisher_confirms=True, on_return_raises=True
            )
            await self._channel.set_qos(prefetch_count=PREFETCH)

            def ended(*_: object) -> None:
                come.put_nowait(None)

            self._connection.close_callbacks.add(ended)
            self._channel.close_callbacks.add(ended)
            under = await self._channel.get_underlay_channel()
            under.on_consumer_cancel_callbacks.add(ended)
            queue = await self._channel.get_queue(self._topic, ensure=False)
            await queue.consume(come.put)

    def _received(self, message: Any) -> Received:
        headers = {name: _text(value) for name, value in message.headers.items()}
        attributes = _attributes(headers)
        if message.content_type:
            attributes[CONTENT_TYPE] = message.content_type
        # RabbitMQ gives none of its own: a message without one is buried.
        id_ = attributes.get("id") or message.message_id or ""
        return Received(Message(id_, self._topic, attributes, message.body, headers), message)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the attributes of CloudEvents, whichever of its two prefixes they have."""
    return {
        name.removeprefix(prefix): value
        for name, value in headers.items()
        for prefix in PREFIXES
        if name.startswith(prefix)
    }


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> RabbitInlet:
    """Give what takes messages from RabbitMQ."""
    return RabbitInlet(address, name, topic, dead, tls)
