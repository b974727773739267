"""Takes messages from a Redis stream, by a consumer group.

Rules: how far it was read is the server's, under the group's name; a group that is new begins with
the first entry. What was taken and not acknowledged comes first, after each start and each failure,
and is looked for now and then: a former process may have left it while this one read already. One
process at a time reads for a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Sequence
from typing import Any, Final

from ..brokers.address import Address
from .inlet import REASON, WAIT_SECONDS, Message, Received
from .message import CONTENT_TYPE
from .outlet import ANSWER_SECONDS
from .redis import connect, failure_of

__all__ = ["RedisInlet", "make_inlet"]

_PREFIX: Final = "ce_"
_BODY: Final = "data"
LOOK_SECONDS: Final = 30.0
"""How often it is looked what another process of this name has left."""


class RedisInlet:
    """One connection to Redis."""

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
        self._after: str = "0"
        """Behind which of the entries that are already its own; ">" for new ones."""
        self._looked = 0.0
        self._held: set[str] = set()
        """Entries that are in hand."""

    async def fetch(self, count: int) -> Sequence[Received]:
        """Give messages, at most so many."""
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            if self._client is None:
                await self._open()
            if self._after == ">" and _now() >= self._looked + LOOK_SECONDS:
                self._after = "0"
            found = await self._read(count)
            while not found and self._after != ">":
                found = await self._read(count)
            self._held |= {each.handle for each in found}
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        else:
            return found
        raise failed

    async def acknowledge(self, received: Sequence[Received]) -> None:
        """Let the server forget that messages are under way."""
        errors: Any = importlib.import_module("redis.exceptions")
        if not received:
            return
        self._held -= {each.handle for each in received}
        try:
            await self._client.xack(self._topic, self._name, *(each.handle for each in received))
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        else:
            return
        raise failed

    async def release(self, received: Sequence[Received]) -> None:
        """Do nothing: what was not acknowledged is read first when it is opened again."""

    async def bury(self, received: Received, reason: str) -> None:
        """Add a message to the stream of the dead, then let it be forgotten."""
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            fields = {**received.message.headers, REASON: reason, _BODY: received.message.body}
            await self._client.xadd(self._dead, fields)
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        else:
            await self.acknowledge([received])
            return
        raise failed

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._held.clear()
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _open(self) -> None:
        errors: Any = importlib.import_module("redis.exceptions")
        name = f"foldline {self._name}"
        answer = ANSWER_SECONDS + WAIT_SECONDS
        self._client = await connect(self._address, name, self._tls, answer=answer)
        self._after = "0"
        try:
            await self._client.xgroup_create(self._topic, self._name, id="0", mkstream=True)
        except errors.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _read(self, count: int) -> list[Received]:
        after = self._after
        answer: Any = await self._client.xreadgroup(
            self._name,
            self._name,
            {self._topic: after},
            count=count,
            block=int(WAIT_SECONDS * 1e3) if after == ">" else None,
        )
        streams: Any = answer.items() if hasattr(answer, "items") else answer or ()
        entries = [entry for _, found in streams for entry in _flat(found)]
        if entries and after != ">":
            self._after = entries[-1][0]
        elif after != ">":
            self._after, self._looked = ">", _now()
        # An entry that was trimmed away while it was under way has no fields any more.
        return [
            self._received(place, fields or {})
            for place, fields in entries
            if place not in self._held
        ]

    def _received(self, place: str, fields: dict[str, str]) -> Received:
        headers = {name: value for name, value in fields.items() if name != _BODY}
        attributes = {
            name.removeprefix(_PREFIX): value
            for name, value in headers.items()
            if name.startswith(_PREFIX)
        }
        if "content-type" in headers:
            attributes[CONTENT_TYPE] = headers["content-type"]
        body = fields.get(_BODY, "").encode(errors="surrogateescape")
        id_ = attributes.get("id") or f"{self._topic}-{place}"
        return Received(Message(id_, self._topic, attributes, body, headers), place)


def make_inlet(
    address: Address, name: str, topic: str, dead: str, tls: ssl.SSLContext | None
) -> RedisInlet:
    """Give what takes messages from Redis."""
    return RedisInlet(address, name, topic, dead, tls)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _flat(found: Any) -> list[Any]:
    """Give the entries of a stream: RESP3 has them in a list more."""
    has_more = bool(found) and isinstance(found[0], list)
    entries: list[Any] = list(found[0] if has_more else found)
    return entries
