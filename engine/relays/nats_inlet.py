"""Takes messages from NATS JetStream, by a durable consumer.

Rules: the server knows how far it was read, under the consumer's name. A message that is neither
acknowledged nor buried within `ACK_SECONDS` comes again. The stream must exist, and so must one
that takes what is buried.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from ..errors import BrokerFailed
from .address import Address
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .message import CONTENT_TYPE, percent_decoded, percent_encoded
from .nats import connect
from .outlet import CONNECT_SECONDS

__all__ = ["NatsInlet", "make_inlet"]

ACK_SECONDS: Final = 30
_PREFIX: Final = "ce-"


class NatsInlet:
    """One connection to NATS."""

    def __init__(
        self, address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
    ) -> None:
        """Take where to connect to, and what to read there."""
        self._address = address
        self._name = name
        self._topic = topic
        self._dead = dead
        self._tls = tls
        self._client: Any = None
        self._stream: Any = None
        self._messages: Any = None

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many."""
        errors: Any = importlib.import_module("nats.errors")
        if self._client is None:
            await self._open(count)
        found: list[Any] = []
        try:
            found = await self._messages.fetch(count, timeout=WAIT_SECONDS)
        except (errors.TimeoutError, TimeoutError):
            found = []
        except (errors.Error, OSError) as error:
            self._fail(error)
        client: Any = self._client
        if not found and not client.is_connected:
            raise BrokerFailed(f"{self._address} has closed the connection", passes=True)
        return [self._received(message) for message in found]

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the server forget messages."""
        errors: Any = importlib.import_module("nats.errors")
        try:
            for each in received:
                await each.handle.ack()  # one that is lost lets the message come again
        except (errors.Error, OSError, TimeoutError) as error:
            self._fail(error)

    async def release(self, received: Sequence[Received]) -> None:
        """Let messages come again at once, and not only after `ACK_SECONDS`."""
        errors: Any = importlib.import_module("nats.errors")
        try:
            for each in received:
                if not each.handle.is_acked:
                    await each.handle.nak()
        except (errors.Error, OSError, TimeoutError) as error:
            self._fail(error)

    async def bury(self, received: Received, reason: str) -> None:
        """Publish a message to the subject of the dead, then let it be forgotten."""
        errors: Any = importlib.import_module("nats.errors")
        message = received.message
        kept = {n: v for n, v in message.headers.items() if not n.startswith("Nats-")}
        id_ = f"{self._name}/{message.id}"
        headers = {**kept, REASON: percent_encoded(reason), "Nats-Msg-Id": percent_encoded(id_)}
        try:
            await self._stream.publish(self._dead, message.body, headers=headers)
            await received.handle.term()
        except (errors.Error, OSError, TimeoutError) as error:
            self._fail(error)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            try:
                await asyncio.wait_for(client.close(), CONNECT_SECONDS)
            except Exception:
                return  # it is gone already

    async def _open(self, count: int) -> None:
        errors: Any = importlib.import_module("nats.errors")
        api: Any = importlib.import_module("nats.js.api")
        self._client = await connect(self._address, f"foldline {self._name}", self._tls, _ignore)
        self._stream = self._client.jetstream()
        try:
            await self._check(self._topic)
            await self._check(self._dead)
            config = api.ConsumerConfig(
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=ACK_SECONDS,
                max_ack_pending=2 * count,
                filter_subject=self._topic,
            )
            self._messages = await self._stream.pull_subscribe(
                self._topic, durable=self._name, config=config
            )
        except BaseException as error:
            await self.close()
            if isinstance(error, errors.Error | OSError | TimeoutError):
                self._fail(error)
            raise

    async def _check(self, topic: str) -> None:
        errors: Any = importlib.import_module("nats.js.errors")
        try:
            await self._stream.find_stream_name_by_subject(topic)
        except errors.NotFoundError:
            raise BrokerFailed(
                f"no JetStream stream of {self._address} takes the subject {topic!r}: add one, "
                f"then start the consumer again",
                passes=False,
            ) from None

    def _received(self, message: Any) -> Received:
        headers: dict[str, str] = dict(message.headers or {})
        attributes = {
            name.removeprefix(_PREFIX): percent_decoded(value)
            for name, value in headers.items()
            if name.startswith(_PREFIX)
        }
        if "content-type" in headers:
            attributes[CONTENT_TYPE] = headers["content-type"]
        place = message.metadata
        named = attributes.get("id") or headers.get("Nats-Msg-Id")
        id_ = named or f"{place.stream}-{place.sequence.stream}"
        return Received(Message(id_, message.subject, attributes, message.data, headers), message)

    def _fail(self, error: BaseException) -> NoReturn:
        name = type(error).__name__
        raise BrokerFailed(f"{self._address} does not answer ({name})", passes=True) from None


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> NatsInlet:
    """Give what takes messages from NATS."""
    return NatsInlet(address, name, topic, dead, tls)


async def _ignore() -> None:
    """Hear that the connection has ended: `fetch` finds out."""
