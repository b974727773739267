"""What takes messages from a broker: one protocol, and which module speaks to which broker.

Rules: a message is the broker's until `acknowledge` or `bury`, and comes again where neither was
done. What is buried is where the host said, with the reason, before the broker forgets it. Nothing
here retries or waits for a broker that is down: the consumer does.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

import msgspec

from ..brokers.address import Address
from ..errors import DefinitionError

__all__ = ["REASON", "WAIT_SECONDS", "Inlet", "Message", "Received", "open_inlet"]

REASON: Final = "foldline-reason"
"""The header of a buried message that says why it was not run."""
WAIT_SECONDS: Final = 1.0
"""How long one look for messages waits for the first."""


class Message(msgspec.Struct, frozen=True):
    """A message of a broker, as `to_command` gets it."""

    id: str
    """The CloudEvents id, or else the broker's own: the same each time the message comes."""
    topic: str
    """The subject or stream that it came by."""
    attributes: Mapping[str, str]
    """Of CloudEvents, by name, where it has them; `datacontenttype` is the type of the body."""
    body: bytes
    headers: Mapping[str, str] = {}
    """All of its headers, or fields, by the broker's names."""


class Received(msgspec.Struct, frozen=True):
    """A message with what the broker knows it by."""

    message: Message
    handle: Any


class Inlet(Protocol):
    """Takes messages of one topic; it connects when it first has to, and again after a failure."""

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many; none where none has come for a moment.

        Raises BrokerFailed, as the other methods do.
        """
        ...

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the broker forget messages."""
        ...

    async def release(self, received: Sequence[Received]) -> None:
        """Give messages back, so that they come again soon; those that were buried do not."""
        ...

    async def bury(self, received: Received, reason: str) -> None:
        """Publish a message where the host has said, with a reason, then let it be forgotten."""
        ...

    async def close(self) -> None:
        """Close the connection; what was not acknowledged comes again."""
        ...


def open_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> Inlet:
    """Give what takes messages, not yet connected.

    `name` is what the broker remembers by how far it was read, and `dead` is where the dead go.
    Raises DefinitionError for a broker that nobody reads.
    """
    if address.broker == "sns":
        raise DefinitionError(
            "a topic of SNS is not read: subscribe a FIFO queue to it, and read that by sqs://"
        )
    module: Any = importlib.import_module(f".{address.broker}_inlet", __package__)
    return cast("Inlet", module.make_inlet(address, name, topic, dead, tls))
