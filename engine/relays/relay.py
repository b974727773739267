"""A relay: a sink that publishes events to a message broker.

Rules: it is declared by what it publishes and where to, and the projector does the rest: the
checkpoint moves when the broker has confirmed, a broker that is down is waited for, and a message
that is refused is parked with all later ones of its stream, or stops the relay. Each part of it has
a connection of its own. This file speaks to no broker.
"""

from __future__ import annotations

import asyncio
import ssl
import types
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, Literal, cast

from ..brokers.address import AWS, Address, Weakness, read_address
from ..brokers.client import check_installed, load, unexpected
from ..errors import BrokerFailed, DefinitionError, EngineError
from ..model.given import as_function
from ..model.messages import Event
from ..model.sink import Delivery, Sink
from .message import Encode, Former, Outgoing, Topic
from .outlet import PER_TURN, SETTLE_SECONDS, Outlet, open_outlet

__all__ = ["Relay"]

BATCH: Final = 1_000
"""Events of one delivery."""
AWS_BATCH: Final = 200
"""The same for AWS: if all are of one aggregate, each is a call of its own."""
PART_BYTES: Final = 1024 * 1024
"""Bodies that are on their way before the broker confirms the first: a slow line gets through."""


class Publishing(Sink):
    """What all relays do; a class is made of it for each."""

    events_max = BATCH
    relay_address: ClassVar[Address]
    relay_former: ClassVar[Former]
    relay_tls: ClassVar[ssl.SSLContext | None]
    _outlet: Outlet | None = None
    _away: float = -SETTLE_SECONDS
    """When the broker was last out of reach, by the event loop's clock."""

    @classmethod
    def __read__(cls, definition: Any, namespace: Any) -> Any:
        """Read a class as any sink's."""
        return super().__read__(definition, namespace)

    async def publish(self, batch: Sequence[Delivery[Event]]) -> None:
        """Publish events; return when the broker has confirmed all."""
        messages: list[Outgoing] = []
        for index, delivery in enumerate(batch, 1):
            message = self.relay_former.form(delivery)
            if message is not None:
                messages.append(message)
            if index % PER_TURN == 0:
                await asyncio.sleep(0)
        if self._outlet is None:
            await load(self.relay_address)
            name = f"foldline {self.__definition__.name}"
            self._outlet = open_outlet(self.relay_address, name, self.relay_tls)
        for part in parts(messages):
            await self._send(self._outlet, part)

    async def _send(self, outlet: Outlet, part: Sequence[Outgoing]) -> None:
        """Publish messages; what is wrong with a broker that was away a moment ago may pass."""
        now = asyncio.get_running_loop().time()
        try:
            await outlet.publish(part)
        except BrokerFailed as error:
            if error.passes:
                self._away = now
            elif now < self._away + SETTLE_SECONDS:
                error.passes = True
            raise
        except EngineError:
            raise
        except Exception as error:
            failed = unexpected(self.relay_address, error)
        else:
            return
        raise failed

    async def close(self) -> None:
        """Close the connection."""
        if self._outlet is not None:
            await self._outlet.close()


def parts(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Give messages in parts, in order, each of bounded bytes or of one message."""
    part: list[Outgoing] = []
    size = 0
    for message in messages:
        size += len(message.body)
        if part and size > PART_BYTES:
            yield part
            part, size = [], len(message.body)
        part.append(message)
    if part:
        yield part


def Relay(  # noqa: N802 - what it gives is a class, to be declared like one
    name: str,
    *,
    to: str,
    events: Sequence[type[Event]],
    topic: Topic,
    version: int = 1,
    slices: int = 1,
    on_poison: Literal["stop", "park"] = "park",
    encode: Encode | None = None,
    content_type: str = "application/json",
    source: str | None = None,
    dataschema: str | None = None,
    allow: Sequence[Weakness] = (),
    tls: ssl.SSLContext | None = None,
) -> type[Sink]:
    """Give a sink that publishes events to a message broker: `Engine(projections=[Relay(...)])`.

    - `name`: of the projection; its checkpoint is kept under it.
    - `to`: the broker: "nats://host", "amqp://host/vhost", "redis://host/0",
      "kafka://host,another", "sqs://region" or "sns://region". An encrypted connection, which is
      the rule off this machine, has "tls://", "amqps://", "rediss://" or "kafkas://"; SQS and SNS
      have it always.
    - `events`: classes of events; `[Event]` for all.
    - `topic`: what takes the messages, or a function of event and `Meta` that gives it. It is a
      subject of NATS, a stream of Redis, a topic of Kafka, or a FIFO topic of SNS by its ARN. With
      RabbitMQ it is a queue or "exchange:name/key", and with SQS a FIFO queue's name or ARN. In
      NATS a stream that takes the subject must exist; of the others only Redis makes what is
      missing.
    - `version`: raise it to publish everything again, with the same ids.
    - `slices`: so many batches are under way at once, each with streams of its own. Redis takes 1.
    - `on_poison`: what becomes of a message that the broker does not take, or that cannot be
      formed. "park" sets it aside with all later ones of its stream; "stop" stops the relay.
    - `encode`: gives the body, as bytes, of event and `Meta`, or None for an event that is not
      published. Without it the body is the event's JSON.
    - `content_type`: of the body.
    - `source`: the CloudEvents source; `urn:foldline:log:<log id>` unless given.
    - `dataschema`: a URI with `{name}` and `{version}` of the event.
    - `allow`: weak settings that are accepted. "memory": the broker keeps messages in memory only.
      "fsync": it confirms before the disk has them, or a second server. "unclean": a server of
      Kafka that lacks messages may become the leader. "plaintext": the connection is not
      encrypted, and leaves this machine.
    - `tls`: with which certificates to encrypt; the system's unless given.

    Messages are delivered at least once, in order for each stream, each with its `Delivery.id` as
    id. The checkpoint moves when the broker has confirmed a batch. A broker that
    is down, or has no room, is waited for as long as that takes; writers are never slowed. Wrong
    credentials, a missing topic or a setting that is too weak stop the relay with BrokerFailed.
    Nothing is lost, and it continues when it is resumed. Raises DefinitionError.
    """
    address = read_address(to, allow)
    check_installed(address)
    found: list[Any] = [] if isinstance(events, type) else list(events)
    if not found or not all(isinstance(cls, type) and issubclass(cls, Event) for cls in found):
        raise DefinitionError(f"relay {name!r}: events= is a list of classes of events")
    if not topic or not (callable(topic) or isinstance(cast("Any", topic), str)):
        raise DefinitionError(f"relay {name!r}: topic= is a text, or a function that gives one")
    for what, function in (("topic", topic), ("encode", encode)):
        if callable(function):
            as_function(f"relay {name!r}: {what}", function)
    if address.broker == "redis" and slices != 1:
        raise DefinitionError(
            f"relay {name!r}: the ids of a Redis stream grow with the position, so slices=1"
        )
    former = Former(
        topic, encode=encode, content_type=content_type, source=source, dataschema=dataschema
    )

    async def deliver(self: Publishing, batch: Any) -> None:
        await self.publish(batch)

    union, delivery, sequence = found[0], cast("Any", Delivery), cast("Any", Sequence)
    for cls in found[1:]:
        union = union | cls
    deliver.__annotations__ = {"batch": sequence[delivery[union]], "return": None}
    members = {
        "deliver": deliver,
        "events_max": AWS_BATCH if address.broker in AWS else BATCH,
        "relay_address": address,
        "relay_former": former,
        "relay_tls": tls,
        "__module__": __name__,
        "__doc__": f"Publishes to {address}.",
    }
    options = {"name": name, "version": version, "slices": slices, "on_poison": on_poison}
    return types.new_class(f"Relay {name}", (Publishing,), options, lambda ns: ns.update(members))
