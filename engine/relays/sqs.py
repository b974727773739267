"""Publishes to SQS queues, which must be FIFO.

Rules: the group of a message is its stream, and its deduplication id is the event's: the queue
drops a repetition for five minutes. Messages go in waves in which each stream has one, since a call
of ten takes some and may refuse others; the calls of a wave are under way at once. A queue without
order is refused. What is larger than the queue takes is refused before it is sent.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from ..brokers.address import Address
from ..errors import BrokerFailed, MessageRefused
from .aws import (
    CALLS,
    DEFAULT_MAX,
    Entry,
    batches,
    closed,
    code_of,
    connect,
    entry_of,
    failure_of,
    look,
    size_of,
)
from .message import Outgoing, waves
from .outlet import ANSWER_SECONDS, LOOK_SECONDS, PER_TURN

__all__ = ["AwsOutlet", "Kept", "SqsOutlet", "make_outlet"]

_TOO_LARGE: Final = ("shorter than", "too long", "Message too long", "must be less than")
_NO_MESSAGE: Final = ("InvalidMessageContents", "MessageTooLong", "BatchRequestTooLong")


class Kept(msgspec.Struct, frozen=True):
    """Where a topic's messages go."""

    target: str
    """The URL of a queue, or the ARN of a topic of SNS."""
    largest: int
    """Bytes of a message that it takes."""


class AwsOutlet:
    """Sends messages of CloudEvents by calls of ten."""

    service: ClassVar[Literal["sqs", "sns"]]

    def __init__(self, address: Address, name: str, tls: ssl.SSLContext | None) -> None:
        """Take where to send to; the service is not told who sends."""
        self._address = address
        self._name = name
        self._tls = tls
        self._client: Any = None
        self._topics: dict[str, Kept] = {}
        self._looked = 0.0

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are confirmed."""
        errors: Any = importlib.import_module("botocore.exceptions")
        try:
            if self._client is None:
                self._client = await connect(self._address, self.service, self._tls)
            now = asyncio.get_running_loop().time()
            if now >= self._looked + LOOK_SECONDS:
                self._topics.clear()
                self._looked = now
            for topic in {message.topic for message in batch} - self._topics.keys():
                self._topics[topic] = await self._look(topic)
            formed: dict[int, Entry] = {}
            for index, message in enumerate(batch, 1):
                formed[message.position] = self._formed(message)
                if index % PER_TURN == 0:
                    await asyncio.sleep(0)
            async with asyncio.timeout(ANSWER_SECONDS * (1 + len(batch) // 100)):
                for wave in waves(batch):
                    await self._publish_wave(wave, formed)
        except (errors.BotoCoreError, errors.ClientError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        except BaseException:
            await self.close()
            raise
        else:
            return
        await self.close()
        raise failed

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        self._topics.clear()
        if client is not None:
            await closed(client)

    def _formed(self, message: Outgoing) -> Entry:
        entry, kept = entry_of(message), self._topics[message.topic]
        if (size := size_of(entry)) > kept.largest:
            raise MessageRefused(
                f"the message {message.id} has {size} bytes, and {message.topic!r} of "
                f"{self._address} takes {kept.largest}"
            )
        return entry

    async def _publish_wave(self, wave: Sequence[Outgoing], formed: Mapping[int, Entry]) -> None:
        by_topic: dict[str, list[Entry]] = defaultdict(list)
        for message in wave:
            by_topic[message.topic].append(formed[message.position])
        calls = [(topic, part) for topic, found in by_topic.items() for part in batches(found)]
        room = asyncio.Semaphore(CALLS)

        async def call(topic: str, part: Sequence[Entry]) -> None:
            async with room:
                await self._call(topic, part)

        ends = await asyncio.gather(*(call(*each) for each in calls), return_exceptions=True)
        failed = [end for end in ends if end is not None]
        # A message is to blame only if the service is not.
        for error in sorted(failed, key=lambda each: isinstance(each, MessageRefused)):
            raise error

    async def _call(self, topic: str, part: Sequence[Entry]) -> None:
        errors: Any = importlib.import_module("botocore.exceptions")
        entries = [{"Id": str(number), **entry} for number, entry in enumerate(part)]
        try:
            answer: Any = await self._send(self._topics[topic].target, entries)
        except errors.ClientError as error:
            text = f"{error.response.get('Error', {}).get('Message', '')}"
            self._check_refused(code_of(error), text, part[0])
            raise
        for refused in answer.get("Failed", ()):
            code, text = str(refused.get("Code", "")), str(refused.get("Message", ""))
            self._check_refused(code, text, part[int(refused["Id"])])
            status = 400 if refused.get("SenderFault") else 500
            told = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise errors.ClientError(told, "SendMessageBatch")

    def _check_refused(self, code: str, text: str, entry: Entry) -> None:
        """Raise MessageRefused where it is a message that is not taken."""
        if any(word in code for word in _NO_MESSAGE) or any(word in text for word in _TOO_LARGE):
            raise MessageRefused(
                f"{self._address} does not take the message {entry['MessageDeduplicationId']}, or "
                f"one that was sent with it ({code})"
            )

    async def _look(self, topic: str) -> Kept:
        raise NotImplementedError

    async def _send(self, target: str, entries: Sequence[Entry]) -> Mapping[str, Any]:
        raise NotImplementedError


class SqsOutlet(AwsOutlet):
    """Sends to queues."""

    service = "sqs"

    async def _look(self, topic: str) -> Kept:
        url, told = await look(self._client, self._address, topic)
        if told.get("FifoQueue") != "true":
            raise BrokerFailed(
                f"the queue {topic!r} of {self._address} keeps no order, as it is not FIFO: make "
                f"one whose name ends with .fifo, and give the relay that",
                passes=False,
            )
        return Kept(url, int(told.get("MaximumMessageSize", DEFAULT_MAX)))

    async def _send(self, target: str, entries: Sequence[Entry]) -> Mapping[str, Any]:
        made = [{**entry, "MessageBody": entry["Body"]} for entry in entries]
        for entry in made:
            del entry["Body"]
        answer: Mapping[str, Any] = await self._client.send_message_batch(
            QueueUrl=target, Entries=made
        )
        return answer


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> SqsOutlet:
    """Give what publishes to SQS."""
    return SqsOutlet(address, name, tls)
