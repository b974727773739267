"""Takes messages from NATS JetStream, by a durable consumer.

Rules: the server knows how far it was read, under the consumer's name. A message that is neither
acknowledged nor buried comes again `ACK_SECONDS` after its process was there. The stream must
exist, and so must one that takes what is buried. A message that has no id of its own is named by
its place and its time, since a stream that is made anew gives the same places again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn
from urllib.parse import quote

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS
from ..brokers.nats import connect
from ..errors import BrokerFailed, DefinitionError, MessageRefused
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .message import CONTENT_TYPE, percent_decoded, percent_encoded
from .nats import HEADERS_MAX, TOO_LARGE, headers_size, matches

__all__ = ["NatsInlet", "make_inlet"]

ACK_SECONDS: Final = 30
_LOOKS: Final = 3
"""In that time: how often the server is told that a message is in hand."""
_PREFIX: Final = "ce-"
_IN_A_NAME: Final = "!#$%&'*+^`|"
"""What the name of a header may have besides letters, digits and `-._~`."""


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
        self._held: dict[int, Any] = {}
        """Messages that are in hand, by their own identity."""
        self._keeping: asyncio.Task[None] | None = None

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
        self._held |= {id(message): message for message in found}
        return [self._received(message) for message in found]

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the server forget messages."""
        errors: Any = importlib.import_module("nats.errors")
        try:
            for each in received:
                self._held.pop(id(each.handle), None)
                await each.handle.ack()  # one that is lost lets the message come again
        except (errors.Error, OSError, TimeoutError) as error:
            self._fail(error)

    async def release(self, received: Sequence[Received]) -> None:
        """Let messages come again at once, and not only after `ACK_SECONDS`."""
        errors: Any = importlib.import_module("nats.errors")
        try:
            for each in received:
                self._held.pop(id(each.handle), None)
                if not each.handle.is_acked:
                    await each.handle.nak()
        except (errors.Error, OSError, TimeoutError) as error:
            self._fail(error)

    async def bury(self, received: Received, reason: str) -> None:
        """Publish a message to the subject of the dead, then let it be forgotten."""
        errors: Any = importlib.import_module("nats.errors")
        message = received.message
        kept = {n: v for n, v in message.headers.items() if not n.startswith("Nats-")}
        headers = {quote(name, safe=_IN_A_NAME): value for name, value in kept.items()}
        headers[REASON] = percent_encoded(reason)
        # Of this message alone: two that are buried may have one id.
        headers["Nats-Msg-Id"] = percent_encoded(f"{self._name}/{_place_of(received.handle)}")
        self._check_size(message, headers)
        try:
            await self._stream.publish(self._dead, message.body, headers=headers)
            self._held.pop(id(received.handle), None)
            await received.handle.term()
        except (errors.Error, OSError, TimeoutError) as error:
            if getattr(error, "err_code", None) in TOO_LARGE:
                raise self._unburied(message) from None
            self._fail(error)

    async def _keep(self) -> None:
        """Tell the server again and again what is in hand; what is not told comes again."""
        while True:
            await asyncio.sleep(ACK_SECONDS / _LOOKS)
            for message in list(self._held.values()):
                with contextlib.suppress(Exception):
                    await message.in_progress()

    def _check_size(self, message: Message, headers: Mapping[str, str]) -> None:
        """Raise MessageRefused for what the server would end the connection for."""
        size = headers_size(headers)
        if size > HEADERS_MAX or size + len(message.body) > self._client.max_payload:
            raise self._unburied(message)

    def _unburied(self, message: Message) -> MessageRefused:
        return MessageRefused(
            f"the message has {len(message.body)} bytes, and with the reason {self._address} takes "
            f"it not for {self._dead!r}: raise max_payload or max_msg_size there"
        )

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        keeping, self._keeping = self._keeping, None
        self._held.clear()
        if keeping is not None:
            keeping.cancel()
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
            self._check_reads((await self._messages.consumer_info()).config)
            self._keeping = asyncio.create_task(self._keep())
        except BaseException as error:
            await self.close()
            if isinstance(error, errors.Error | OSError | TimeoutError):
                self._fail(error)
            raise

    def _check_reads(self, made: Any) -> None:
        """Raise BrokerFailed where the server knows this name for something else."""
        subjects = made.filter_subjects or [made.filter_subject]
        if subjects != [self._topic] or made.ack_policy != "explicit":
            raise BrokerFailed(
                f"{self._address} has a consumer {self._name!r} that was made to read otherwise "
                f"(subjects {subjects}), and {self._topic!r} is to be read: give the Consumer "
                f"another name=, or delete the one that is there",
                passes=False,
            )

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
            attributes[CONTENT_TYPE] = percent_decoded(headers["content-type"])
        id_ = attributes.get("id") or headers.get("Nats-Msg-Id") or _place_of(message)
        return Received(Message(id_, message.subject, attributes, message.data, headers), message)

    def _fail(self, error: BaseException) -> NoReturn:
        name = type(error).__name__
        raise BrokerFailed(f"{self._address} does not answer ({name})", passes=True) from None


def _place_of(message: Any) -> str:
    """Name a stored message: the same each time it comes, and no other message's."""
    place = message.metadata
    return f"{place.stream}-{place.sequence.stream}-{place.timestamp:%Y%m%dT%H%M%S.%f}"


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> NatsInlet:
    """Give what takes messages from NATS.

    Raises DefinitionError where it would read what it has buried.
    """
    if matches(topic, dead):
        raise DefinitionError(
            f"the subjects {topic!r} have {dead!r} among them, where the dead go: a message that "
            f"is buried would come again, for ever. Name another subject for the dead"
        )
    return NatsInlet(address, name, topic, dead, tls)


async def _ignore() -> None:
    """Hear that the connection has ended: `fetch` finds out."""
