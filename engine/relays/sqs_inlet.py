"""Takes messages from an SQS queue.

Rules: a message that was taken is hidden for the queue's own visibility timeout, which is made
longer while it is in hand. One that was not acknowledged comes again after it, or at once if it is
given back. In a FIFO queue the later messages of its group wait that long. The body may be the JSON
form of CloudEvents, or the notification of SNS that has one in it. The dead go to a queue too.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS
from ..errors import BrokerFailed, MessageRefused
from .aws import ATTRIBUTES_MAX, BATCH_MAX, DEFAULT_MAX, closed, connect, failure_of, look, size_of
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .message import CONTENT_TYPE

__all__ = ["SqsInlet", "make_inlet", "opened"]

_PREFIX: Final = "ce_"
_LOOKS: Final = 3
"""In the time that a message is hidden: how often that is made longer."""
_WORDS: Final = ("specversion", "id", "source", "type")
"""What each event of CloudEvents has."""


class SqsInlet:
    """One client of SQS, and the messages that are in its hand."""

    def __init__(
        self, address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
    ) -> None:
        """Take where to connect to, and the queues that are read and buried in."""
        self._address = address
        self._name = name
        self._topic = topic
        self._dead = dead
        self._tls = tls
        self._client: Any = None
        self._urls: tuple[str, str] = ("", "")
        self._largest = DEFAULT_MAX
        self._held: set[str] = set()
        """Receipt handles of messages that are in hand."""
        self._keeping: asyncio.Task[None] | None = None

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many."""
        found: list[Received] = []
        with self._failures():
            if self._client is None:
                await self._open()
            client: Any = self._client
            wait = int(WAIT_SECONDS)
            while len(found) < count:
                answer: Any = await client.receive_message(
                    QueueUrl=self._urls[0],
                    MaxNumberOfMessages=min(BATCH_MAX, count - len(found)),
                    WaitTimeSeconds=wait,
                    MessageSystemAttributeNames=["All"],
                    MessageAttributeNames=["All"],
                )
                come: Sequence[Any] = answer.get("Messages", ())
                self._held |= {each["ReceiptHandle"] for each in come}
                found += [self._received(each) for each in come]
                if not come:
                    break
                wait = 0
        return found

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the service delete messages; one whose time is over comes again."""
        handles = [each.handle["ReceiptHandle"] for each in received]
        with self._failures():
            for part in _tens(handles):
                entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(part)]
                answer = await self._client.delete_message_batch(
                    QueueUrl=self._urls[0], Entries=entries
                )
                self._held -= set(part)
                if any(not failed.get("SenderFault") for failed in answer.get("Failed", ())):
                    raise BrokerFailed(f"{self._address} has deleted only some", passes=True)

    async def release(self, received: Sequence[Received]) -> None:
        """Give messages back, so that they come again at once; what was deleted does not."""
        handles = {each.handle["ReceiptHandle"] for each in received} & self._held
        with self._failures():
            await self._hide(sorted(handles), 0)
        self._held -= handles

    async def bury(self, received: Received, reason: str) -> None:
        """Send a message to the queue of the dead; once that has it, let it be deleted."""
        raw = received.handle
        attributes = dict(raw.get("MessageAttributes", {}))
        attributes[REASON] = {"DataType": "String", "StringValue": reason}
        entry: dict[str, Any] = {"Body": raw["Body"], "MessageAttributes": attributes}
        size = size_of(entry)
        if len(attributes) > ATTRIBUTES_MAX or size > self._largest:
            self._held.discard(raw["ReceiptHandle"])  # so that it comes again, or the queue has it
            raise MessageRefused(
                f"the message has {size} bytes and {len(attributes)} attributes with the reason, "
                f"and {self._dead!r} of {self._address} takes {self._largest} and {ATTRIBUTES_MAX}"
            )
        sent = {"MessageBody": raw["Body"], "MessageAttributes": attributes}
        if self._urls[1].endswith(".fifo"):
            # Of this message alone: two that are buried may have one id.
            sent["MessageDeduplicationId"] = raw["MessageId"]
            sent["MessageGroupId"] = raw.get("Attributes", {}).get("MessageGroupId", "dead")
        with self._failures():
            await self._client.send_message(QueueUrl=self._urls[1], **sent)
        await self.acknowledge([received])

    async def close(self) -> None:
        """Give back what is in hand, if that can be done soon, and close the connections."""
        client, self._client = self._client, None
        keeping, self._keeping = self._keeping, None
        held, self._held = sorted(self._held), set()
        if keeping is not None:
            keeping.cancel()
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CONNECT_SECONDS / BATCH_MAX):
                    await self._hide(held, 0, client)
            await closed(client)

    async def _open(self) -> None:
        self._client = await connect(self._address, "sqs", self._tls)
        url, told = await look(self._client, self._address, self._topic)
        dead, of_the_dead = await look(self._client, self._address, self._dead)
        self._urls = (url, dead)
        self._largest = int(of_the_dead.get("MaximumMessageSize", DEFAULT_MAX))
        seconds = max(int(told["VisibilityTimeout"]), 1)
        self._keeping = asyncio.create_task(self._keep(self._client, seconds))

    async def _keep(self, client: Any, seconds: int) -> None:
        """Hide what is in hand for longer, again and again; what that fails for comes again."""
        while True:
            await asyncio.sleep(seconds / _LOOKS)
            with contextlib.suppress(Exception):
                await self._hide(sorted(self._held), seconds, client)

    async def _hide(self, handles: Sequence[str], seconds: int, client: Any = None) -> None:
        for part in _tens(handles):
            entries = [
                {"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
                for n, handle in enumerate(part)
            ]
            await (client or self._client).change_message_visibility_batch(
                QueueUrl=self._urls[0], Entries=entries
            )

    @contextlib.contextmanager
    def _failures(self) -> Generator[None]:
        errors: Any = importlib.import_module("botocore.exceptions")
        try:
            yield
        except (errors.BotoCoreError, errors.ClientError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        else:
            return
        raise failed

    def _received(self, raw: Mapping[str, Any]) -> Received:
        headers = {
            name: _text(attribute) for name, attribute in raw.get("MessageAttributes", {}).items()
        }
        attributes = {
            name.removeprefix(_PREFIX): value
            for name, value in headers.items()
            if name.startswith(_PREFIX)
        }
        if "content-type" in headers:
            attributes[CONTENT_TYPE] = headers["content-type"]
        body, found = opened(raw["Body"])
        attributes = found or attributes
        id_ = attributes.get("id") or raw["MessageId"]
        return Received(Message(id_, self._topic, attributes, body, headers), raw)


def opened(text: str) -> tuple[bytes, dict[str, str]]:
    """Give the body of a message, and the attributes if it is an event of CloudEvents.

    What is neither that nor the notification of SNS is the body as it is.
    """
    found = _object(text)
    if {"Type", "TopicArn", "Message"} <= found.keys() and _value(found["Type"]) == "Notification":
        inner = _value(found["Message"])
        text = inner if isinstance(inner, str) else text
        found = _object(text)
    if not all(isinstance(_value(found.get(word)), str) for word in _WORDS):
        return text.encode(), {}
    data, base64 = found.pop("data", None), found.pop("data_base64", None)
    attributes = {
        name: value if isinstance(value := _value(raw), str) else bytes(raw).decode()
        for name, raw in found.items()
    }
    if data is not None:
        return bytes(data), attributes
    try:
        return msgspec.json.decode(base64 or b'""', type=bytes), attributes
    except msgspec.DecodeError:
        return text.encode(), {}


def _object(text: str) -> dict[str, msgspec.Raw]:
    """Give the fields of a JSON object; none of what is no such."""
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _value(raw: msgspec.Raw | None) -> Any:
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def _text(attribute: Mapping[str, Any]) -> str:
    value: Any = attribute.get("StringValue", attribute.get("BinaryValue", b""))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _tens(handles: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(handles), BATCH_MAX):
        yield handles[start : start + BATCH_MAX]


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> SqsInlet:
    """Give what takes messages from SQS."""
    return SqsInlet(address, name, topic, dead, tls)
