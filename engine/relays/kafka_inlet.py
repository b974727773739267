"""Takes messages from a topic of Kafka, from all of its partitions.

Rules: partitions are assigned here, and by no group of consumers: one process at a time reads under
a name. What was read is kept by the cluster as the offsets of the group of that name, and a
partition's offset stands before the first message that is not done with. So nothing is lost, and
what comes again has the same id. Messages that were deleted before they were read are an error.
The dead are confirmed in their topic before the message is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS
from ..errors import BrokerFailed, MessageRefused
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .kafka import make_producer
from .kafka_client import PREFIX, Cluster, ended, failure_of, reach
from .message import CONTENT_TYPE
from .outlet import ANSWER_SECONDS

__all__ = ["KafkaInlet", "make_inlet"]

CLOSE_SECONDS: Final = 1.0
"""How long a step of closing may take: a server that is down would let it take for ever."""
AHEAD_MAX: Final = 500
"""Messages of a partition behind one that is not done with: its offset stands there, so that after
a crash they come again."""
LOOK_SECONDS: Final = 10.0
"""After so long a topic is looked at again: it may have got more partitions."""
RENEW_SECONDS: Final = 3_600.0
"""After so long all offsets are committed again: Kafka forgets one that was not for a week."""


class KafkaInlet:
    """One reader of a topic, and one producer for the dead."""

    def __init__(
        self, address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
    ) -> None:
        """Take where to connect to, and the topics that are read and buried in."""
        self._address = address
        self._name = name
        self._topic = topic
        self._dead = dead
        self._tls = tls
        self._cluster: Cluster | None = None
        self._consumer: Any = None
        self._producer: Any = None
        self._producing = asyncio.Lock()
        """Held while the producer is made: several messages may be buried at once."""
        self._looked = self._renewed = 0.0
        self._open_offsets: dict[Any, set[int]] = defaultdict(set)
        """By partition: messages that were taken, and are not done with."""
        self._next: dict[Any, int] = {}
        """By partition: the offset behind the last message that was taken."""
        self._committed: dict[Any, int] = {}

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many."""
        try:
            if self._consumer is None:
                await self._open()
            consumer: Any = self._consumer
            for tp, places in self._open_offsets.items():
                is_far = bool(places) and self._next[tp] - min(places) >= AHEAD_MAX
                (consumer.pause if is_far else consumer.resume)(tp)
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await consumer.getmany(
                    timeout_ms=int(WAIT_SECONDS * 1_000), max_records=count
                )
            await self._look(is_idle=not found)
        except BrokerFailed:
            raise
        except Exception as error:
            await self._tell_lost(error)
            raise failure_of(self._address, error) from None
        return [self._received(tp, record) for tp, records in found.items() for record in records]

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Move the offsets of the partitions up to the first message that is not done with."""
        for each in received:
            tp, record = each.handle
            self._open_offsets[tp].discard(record.offset)
        done = {
            tp: min(self._open_offsets[tp], default=behind) for tp, behind in self._next.items()
        }
        moved = {tp: offset for tp, offset in done.items() if offset != self._committed.get(tp)}
        if not moved or self._consumer is None:
            return
        try:
            await self._commit(moved)
        except Exception as error:
            raise self._refused(error) from None
        self._committed |= moved

    async def _commit(self, offsets: Mapping[Any, int]) -> None:
        """Move offsets; where it is stopped now, wait a moment for the answer."""
        task = asyncio.ensure_future(self._consumer.commit(offsets))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=CLOSE_SECONDS)
            raise
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.InvalidStateError, asyncio.CancelledError):
                task.exception()  # it is known here, and asyncio would log it

    async def release(self, received: Sequence[Received]) -> None:
        """Read on at the first of these messages."""
        first: dict[Any, int] = {}
        for each in received:
            tp, record = each.handle
            if record.offset in self._open_offsets[tp]:
                first[tp] = min(record.offset, first.get(tp, record.offset))
        for tp, offset in first.items():
            with contextlib.suppress(Exception):
                self._consumer.seek(tp, offset)
                self._next[tp] = offset
                self._open_offsets[tp] = {n for n in self._open_offsets[tp] if n < offset}

    async def bury(self, received: Received, reason: str) -> None:
        """Publish a message to the topic of the dead; once that has it, let it be forgotten."""
        errors: Any = importlib.import_module("aiokafka.errors")
        _, record = received.handle
        headers = [*record.headers, (REASON, reason.encode())]
        try:
            async with self._producing:
                if self._producer is None:
                    assert self._cluster is not None
                    self._producer = await make_producer(self._cluster)
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._producer.send_and_wait(
                    self._dead, record.value or b"", key=record.key, headers=headers
                )
        except errors.MessageSizeTooLargeError:
            raise MessageRefused(
                f"{self._address} takes no message as large, with the reason, in {self._dead!r}"
            ) from None
        except Exception as error:
            raise failure_of(self._address, error) from None
        await self.acknowledge([received])

    async def close(self) -> None:
        """Close the connections; what was not acknowledged comes again."""
        consumer, self._consumer = self._consumer, None
        producer, self._producer = self._producer, None
        cluster, self._cluster = self._cluster, None
        for kept in (self._open_offsets, self._next, self._committed):
            kept.clear()
        if cluster is not None:
            cluster.close()
        if producer is not None:
            await ended(producer)
        if consumer is not None:
            await _closed(consumer)

    async def _open(self) -> None:
        """Begin at the offsets of the group, or with the first messages where it has none."""
        self._cluster = await reach(self._address, f"foldline {self._name}", self._tls)
        kafka: Any = importlib.import_module("aiokafka")
        await self._cluster.partitions(self._dead)
        partitions, _ = await self._cluster.partitions(self._topic)
        self._looked = self._renewed = asyncio.get_running_loop().time()
        self._consumer = consumer = kafka.AIOKafkaConsumer(
            **self._cluster.options,
            group_id=self._name,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
        async with asyncio.timeout(CONNECT_SECONDS):
            await consumer.start()
            assigned = [kafka.TopicPartition(self._topic, number) for number in partitions]
            first = await consumer.beginning_offsets(assigned)
            for tp in assigned:
                committed = await consumer.committed(tp)
                if committed is not None and committed < first[tp]:
                    raise self._lost(tp, committed, first[tp])
                self._next[tp] = first[tp] if committed is None else committed
            consumer.assign(assigned)
            for tp in assigned:
                consumer.seek(tp, self._next[tp])

    async def _look(self, *, is_idle: bool) -> None:
        """Ask the server whether it is there, if nothing came; open anew for more partitions."""
        now = asyncio.get_running_loop().time()
        if not is_idle and now - self._looked < LOOK_SECONDS:
            return
        assert self._cluster is not None
        self._looked = now
        if now - self._renewed >= RENEW_SECONDS:
            self._renewed = now
            self._committed.clear()  # so that the next acknowledgement commits them
        partitions, _ = await self._cluster.partitions(self._topic)
        if len(partitions) > len(self._next):
            raise BrokerFailed(
                f"the topic {self._topic!r} of {self._address} has got more partitions: "
                f"{len(partitions)}, and had {len(self._next)}",
                passes=True,
            )

    async def _tell_lost(self, error: Exception) -> None:
        """Raise BrokerFailed where the next message was deleted; begin anew for a new topic."""
        errors: Any = importlib.import_module("aiokafka.errors")
        if not isinstance(error, errors.OffsetOutOfRangeError):
            return
        first = await self._consumer.beginning_offsets(list(self._next))
        for tp, offset in self._next.items():
            if offset < first[tp]:
                raise self._lost(tp, offset, first[tp])
        # Behind the last message: the topic was made anew. What was read before has its receipt.
        with contextlib.suppress(Exception):
            await self._consumer.commit(first)
        raise BrokerFailed(
            f"the topic {self._topic!r} of {self._address} ends before consumer {self._name!r} had "
            f"read to, so it was made anew: it is read from its beginning",
            passes=True,
        )

    def _lost(self, tp: Any, offset: int, first: int) -> BrokerFailed:
        return BrokerFailed(
            f"{first - offset} messages of partition {tp.partition} of {self._topic!r} were "
            f"deleted before consumer {self._name!r} read them (offset {offset}, the first is "
            f"{first}): make the retention longer, and set the group's offset, or give another "
            f"name=",
            passes=False,
        )

    def _refused(self, error: Exception) -> BrokerFailed:
        errors: Any = importlib.import_module("aiokafka.errors")
        taken = (
            errors.CommitFailedError,
            errors.UnknownMemberIdError,
            errors.IllegalGenerationError,
            errors.RebalanceInProgressError,
        )
        if isinstance(error, taken):
            return BrokerFailed(
                f"{self._address} has a group of consumers with the name {self._name!r}, which "
                f"keeps its own offsets: give another name=",
                passes=False,
            )
        return failure_of(self._address, error)

    def _received(self, tp: Any, record: Any) -> Received:
        headers = {name: value.decode(errors="replace") for name, value in record.headers}
        attributes = _attributes(headers)
        # The time tells it from a message of a topic of this name that was deleted.
        own = f"{record.partition}-{record.offset}-{record.timestamp}"
        self._open_offsets[tp].add(record.offset)
        self._next[tp] = record.offset + 1
        message = Message(
            attributes.get("id") or own, self._topic, attributes, record.value or b"", headers
        )
        return Received(message, (tp, record))


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the attributes of CloudEvents."""
    found = {
        name.removeprefix(PREFIX): value
        for name, value in headers.items()
        if name.startswith(PREFIX)
    }
    if "content-type" in headers:
        found[CONTENT_TYPE] = headers["content-type"]
    return found


async def _closed(consumer: Any) -> None:
    """Close a reader, whatever state it is in.

    Its `stop` waits for a server that is down, and raises the cancellation of a task of its own: so
    each step is a task here, which is given up after a moment.
    """
    steps = [consumer.stop, consumer._client.close]
    if consumer._fetcher is not None:
        steps.insert(1, consumer._fetcher.close)
    for step in steps:
        task = asyncio.ensure_future(step())
        _, late = await asyncio.wait({task}, timeout=CLOSE_SECONDS)
        if late:
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # it is of no more use, and asyncio would log it


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> KafkaInlet:
    """Give what takes messages from Kafka."""
    return KafkaInlet(address, name, topic, dead, tls)
