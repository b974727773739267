"""Publishes to Kafka, and to servers that speak its protocol.

Rules: messages for one partition go as record batches, each of which the server takes whole or not
at all, and confirms when all replicas in sync have it. A partition gets its next batch when the one
before is confirmed, so that no message is overtaken by a later one of its key. The key is the
stream, and the partition is the one that Kafka's own clients give that key. A producer that has
failed is thrown away: what it has not confirmed is sent again, by the next one.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS
from ..errors import BrokerFailed, MessageRefused
from .kafka_client import PREFIX, Cluster, Kept, ended, failure_of, is_topic, reach
from .message import Outgoing, headers_of
from .outlet import ANSWER_SECONDS, PER_TURN

__all__ = ["KafkaOutlet", "make_outlet", "make_producer"]

BATCH_BYTES: Final = 500_000
"""Of one record batch, unless one message has more: a server takes 1,048,588 by default."""


class KafkaOutlet:
    """One producer of a Kafka cluster."""

    def __init__(self, address: Address, name: str, tls: ssl.SSLContext | None) -> None:
        """Take where to connect to, and what the server shows of it."""
        self._address = address
        self._name = name
        self._tls = tls
        self._cluster: Cluster | None = None
        self._producer: Any = None
        self._topics: dict[str, Kept] = {}

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are confirmed."""
        try:
            for topic in {message.topic for message in batch} - self._topics.keys():
                if not is_topic(topic):
                    raise MessageRefused(f"Kafka has no topics with the name {topic[:250]!r}")
                self._cluster = self._cluster or await reach(self._address, self._name, self._tls)
                self._topics[topic] = await self._cluster.look(topic)
            for message in batch:
                self._check(message)
            if self._producer is None:
                assert self._cluster is not None
                self._producer = await make_producer(self._cluster)
            await self._publish(batch)
        except MessageRefused:
            raise
        except (Exception, asyncio.CancelledError) as error:
            await self.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            failed = failure_of(self._address, error)
        else:
            return
        raise failed

    async def close(self) -> None:
        """Close the connections; what was not confirmed is not sent by them any more."""
        producer, self._producer = self._producer, None
        cluster, self._cluster = self._cluster, None
        self._topics.clear()
        if cluster is not None:
            cluster.close()
        if producer is not None:
            await ended(producer)

    def _check(self, message: Outgoing) -> None:
        largest = self._topics[message.topic].largest
        if largest is not None and len(message.body) > largest:
            raise MessageRefused(
                f"the message {message.id} has {len(message.body)} bytes, and the topic "
                f"{message.topic!r} of {self._address} takes {largest} (max.message.bytes)"
            )

    async def _publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish to all partitions at once, and to each batch by batch."""
        partitioner = importlib.import_module("aiokafka.partitioner").DefaultPartitioner()
        lanes: dict[tuple[str, int], list[Outgoing]] = defaultdict(list)
        for message in batch:
            partitions = list(self._topics[message.topic].partitions)
            partition = partitioner(message.key.encode(), partitions, partitions)
            lanes[message.topic, partition].append(message)
        async with asyncio.timeout(2 * ANSWER_SECONDS):
            ends = await asyncio.gather(
                *(self._publish_lane(topic, n, lane) for (topic, n), lane in lanes.items()),
                return_exceptions=True,
            )
        failed = [end for end in ends if end is not None]
        # A message is to blame only if the server is not.
        for error in sorted(failed, key=lambda each: isinstance(each, MessageRefused)):
            raise error

    async def _publish_lane(self, topic: str, partition: int, lane: Sequence[Outgoing]) -> None:
        errors: Any = importlib.import_module("aiokafka.errors")
        sent = 0
        while sent < len(lane):
            records = self._producer.create_batch()
            first = sent
            while sent < len(lane) and _append(records, lane[sent]):
                sent += 1
                if sent % PER_TURN == 0:
                    await asyncio.sleep(0)
            records.close()
            confirmed = await self._producer.send_batch(records, topic, partition=partition)
            try:
                await confirmed
            except errors.MessageSizeTooLargeError:
                raise MessageRefused(
                    f"{self._address} takes no message as large as {lane[first].id}, "
                    f"{len(lane[first].body)} bytes, or as one that was sent with it"
                ) from None
            except errors.UnknownTopicOrPartitionError:
                raise BrokerFailed(
                    f"{self._address} has no partition {partition} of {topic!r} any more",
                    passes=True,  # the next attempt looks at the topic again
                ) from None


def _append(records: Any, message: Outgoing) -> bool:
    """Add a message to a record batch; tell whether there was room.

    Its time is that of the sending: Kafka would delete by the event's own, if that is long ago.
    """
    headers = [(name, value.encode()) for name, value in headers_of(message, PREFIX).items()]
    added = records.append(
        key=message.key.encode(), value=message.body, timestamp=None, headers=headers
    )
    return added is not None


async def make_producer(cluster: Cluster) -> Any:
    """Give a producer that is started; it drops repetitions of its own if the server can."""
    kafka: Any = importlib.import_module("aiokafka")
    errors: Any = importlib.import_module("aiokafka.errors")
    unable = (
        errors.ClusterAuthorizationFailedError,  # servers before 2.8 ask for a right of its own
        errors.IncompatibleBrokerVersion,
        errors.UnknownError,  # Tansu 0.6 does not know the form in which aiokafka asks
    )
    for is_idempotent in (True, False):
        producer = kafka.AIOKafkaProducer(
            **cluster.options,
            acks="all",
            enable_idempotence=is_idempotent,
            max_batch_size=BATCH_BYTES,
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await producer.start()
        except BaseException as error:
            await ended(producer)
            if not is_idempotent or not isinstance(error, unable):
                raise
        else:
            return producer
    raise AssertionError("the second attempt has raised")


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> KafkaOutlet:
    """Give what publishes to Kafka."""
    return KafkaOutlet(address, name, tls)
