"""Publishes to Redis streams.

Rules: the id of an entry is `<position>-0`, so the server refuses a repetition, and a refusal
counts as a confirmation only where the entry with that id is this very message. A message that
comes late, since it was parked or went to another stream before, is put behind the last one, and
before any later message is sent. A stream is one log's own, and one relay's: positions of two would
collide. There is no transaction: Redis 7.0 loses those of its file when it is started with the user
`default` off. Where the server may refuse one message and take the next, since its memory is
bounded, messages go in waves.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..brokers.address import Address, Weakness
from ..brokers.client import CONNECT_SECONDS, tls_problem
from ..errors import BrokerFailed
from .message import Outgoing, headers_of, place_of, waves
from .outlet import ANSWER_SECONDS, PER_TURN

__all__ = ["RedisOutlet", "check_settings", "connect", "failure_of", "make_outlet"]

_HAS_LATER: Final = "equal or smaller"
_NO_STREAM: Final = "no such key"
_PASSES: Final = (
    "NOGROUP",
    "UNBLOCKED",
    "OOM",
    "MISCONF",
    "LOADING",
    "READONLY",
    "NOREPLICAS",
    "TRYAGAIN",
    "MASTERDOWN",
)
"""What the errors of a server begin with that works again by itself."""
_SETTINGS: Final = (
    "appendonly",
    "appendfsync",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
)
ID: Final = "ce_id"
"""The field of an entry that has the message's id."""


class RedisOutlet:
    """One connection to Redis."""

    def __init__(self, address: Address, name: str, tls: ssl.SSLContext | None) -> None:
        """Take where to connect to, and what the server shows of it."""
        self._address = address
        self._name = name
        self._tls = tls
        self._client: Any = None
        self._in_waves = True
        self._ends: dict[str, int] = {}
        """Streams that were seen to be this log's own, and the position behind which they go on."""

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are in their streams."""
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            if self._client is None:
                self._client = await connect(self._address, self._name, self._tls)
                self._in_waves = await check_settings(self._client, self._address)
            for topic in {message.topic for message in batch} - self._ends.keys():
                _, self._ends[topic] = await self._last(topic, batch)
            for wave in waves(batch) if self._in_waves else [batch]:
                await self._add(wave)
        except (errors.RedisError, OSError, TimeoutError) as error:
            failed = failure_of(self._address, error)
        except BaseException:
            await self.close()
            raise
        else:
            return
        await self.close()
        raise failed

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._ends.clear()
        if client is not None:
            with contextlib.suppress(Exception):
                await client.aclose()

    async def _last(self, topic: str, batch: Sequence[Outgoing]) -> tuple[Any, int]:
        """Give the last entry of a stream, and the place behind which the server takes another.

        That is the last entry's, unless readers have removed some. Raises BrokerFailed where the
        entry is of others.
        """
        errors: Any = importlib.import_module("redis.exceptions")
        try:
            stream: Any = await self._client.xinfo_stream(topic)
        except errors.ResponseError as error:
            if _NO_STREAM not in str(error):
                raise
            return None, 0
        entry, log_id = stream["last-entry"], _log_of(batch[0].id)
        if entry and _log_of(entry[1].get(ID, "")) != log_id:
            raise BrokerFailed(
                f"the Redis stream {topic!r} of {self._address} has entries that are not of this "
                f"log, and ids that its positions would collide with: give the relay another topic",
                passes=False,
            )
        return entry, _place_of(stream["last-generated-id"])

    async def _add(self, batch: Sequence[Outgoing]) -> None:
        late = [message for message in batch if message.position <= self._ends[message.topic]]
        await self._add_late(late)
        batch = [message for message in batch if message.position > self._ends[message.topic]]
        async with self._client.pipeline(transaction=False) as commands:
            for index, message in enumerate(batch, 1):
                commands.xadd(message.topic, fields_of(message), id=_id_of(message))
                if index % PER_TURN == 0:
                    await asyncio.sleep(0)
            answers: Sequence[Any] = await commands.execute(raise_on_error=False)
        refused = [
            (message, answer)
            for message, answer in zip(batch, answers, strict=True)
            if isinstance(answer, Exception)
        ]
        for _, answer in refused:
            if _HAS_LATER not in str(answer):
                raise answer
        await self._add_late([message for message, _ in refused])
        self._ends |= {message.topic: message.position for message in batch}

    async def _add_late(self, batch: Sequence[Outgoing]) -> None:
        """Put messages behind the last ones of their streams, unless they are there already."""
        if not batch:
            return
        async with self._client.pipeline(transaction=False) as commands:
            for message in batch:
                commands.xrange(message.topic, min=_id_of(message), max=_id_of(message))
            there: Sequence[Any] = await commands.execute()
        for message, found in zip(batch, there, strict=True):
            if found and self._is_this(message, found[0]):
                continue
            topic = message.topic
            last, top = await self._last(topic, [message])
            if last is not None and self._is_this(message, last):
                continue
            await self._client.xadd(topic, fields_of(message), id=f"{top or message.position}-*")

    def _is_this(self, message: Outgoing, entry: Any) -> bool:
        """Tell whether an entry is a message; raise BrokerFailed for one of another history."""
        place, fields = entry
        if fields.get(ID) == message.id:
            return True
        if place_of(fields.get(ID, "")) != message.place:
            return False
        raise BrokerFailed(
            f"the Redis stream {message.topic!r} of {self._address} has another event of this log "
            f"at {place}: the log was restored from a backup, and has gone on otherwise. Remove "
            f"what is lost from the stream, or give the relay another topic",
            passes=False,
        )


def _log_of(identity: str) -> str:
    """Give the id of the log of a message's id."""
    return place_of(identity).rpartition("-")[0]


async def check_settings(client: Any, address: Address) -> bool:
    """Tell whether a server may refuse one message and take the next.

    Raises BrokerFailed where it does not keep what it confirms.
    """
    errors: Any = importlib.import_module("redis.exceptions")

    def refuse(weakness: Weakness, what: str) -> None:
        if weakness not in address.allow:
            raise BrokerFailed(
                f'{address} {what}: mend that, or give the sink allow=["{weakness}"]',
                passes=False,
            )

    try:
        told: Mapping[str, str] = await client.config_get(*_SETTINGS)
    except errors.ResponseError:
        refuse("memory", "does not tell its settings, so nobody knows what it keeps")
        return True
    if told.get("appendonly") != "yes":
        refuse("memory", "keeps all in memory only (appendonly is off)")
    elif told.get("appendfsync") != "always":
        refuse("fsync", "confirms before the disk has it (appendfsync)")
    policy = told.get("maxmemory-policy", "")
    is_bounded = told.get("maxmemory", "0") != "0"
    if is_bounded and policy.startswith("allkeys"):
        refuse("memory", f"removes keys when memory is short ({policy})")
    return is_bounded or told.get("min-replicas-to-write", "0") != "0"


def _id_of(message: Outgoing) -> str:
    return f"{message.position}-0"


def _place_of(entry: str) -> int:
    """Give the first part of an entry's id."""
    return int(entry.partition("-")[0])


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> RedisOutlet:
    """Give what publishes to Redis."""
    return RedisOutlet(address, name, tls)


def fields_of(message: Outgoing) -> dict[Any, Any]:
    """Give the fields of an entry."""
    return {**headers_of(message, "ce_"), "data": message.body}


async def connect(
    address: Address, name: str, tls: ssl.SSLContext | None, *, answer: float = ANSWER_SECONDS
) -> Any:
    """Connect once; raise BrokerFailed where that fails."""
    redis: Any = importlib.import_module("redis.asyncio")
    library: Any = importlib.import_module("redis")
    host, port = address.hosts[0]
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": int(address.path or 0),
        "username": address.user,
        "password": None if address.password is None else address.password.revealed,
        "client_name": name.replace(" ", "-"),
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer,
        "retry": redis.retry.Retry(library.backoff.NoBackoff(), 0),
        "decode_responses": True,
        "encoding_errors": "surrogateescape",
    }
    context = address.tls(tls)
    if context is None:
        pool = redis.ConnectionPool(**options)
    else:
        pool = redis.ConnectionPool(connection_class=_encrypted(redis, context), **options)
    client = redis.Redis.from_pool(pool)
    try:
        await client.ping()
    except (library.RedisError, OSError, TimeoutError) as error:
        failed = failure_of(address, error)
    else:
        return client
    with contextlib.suppress(Exception):
        await client.aclose()
    raise failed


def _encrypted(redis: Any, context: ssl.SSLContext) -> Any:
    """Give a class of connections that are encrypted by a context of ours."""
    base: Any = redis.SSLConnection

    def arguments(self: Any) -> Mapping[str, Any]:
        return {**base._connection_arguments(self), "ssl": context}

    return type("Encrypted", (base,), {"_connection_arguments": arguments})


def failure_of(address: Address, error: BaseException) -> BrokerFailed:
    """Give what an error of the client means, in words that have no secret in them."""
    errors: Any = importlib.import_module("redis.exceptions")
    problem = tls_problem(address, error)
    if problem is not None:
        return problem
    text = str(error)
    code = text.partition(" ")[0]
    if isinstance(error, errors.AuthenticationError) or code in ("WRONGPASS", "NOAUTH"):
        return BrokerFailed(
            f"{address} refuses the credentials of the URL: mend user or password", passes=False
        )
    if isinstance(error, errors.ConnectionError | errors.TimeoutError | OSError | TimeoutError):
        cause = error.__cause__ or error
        return BrokerFailed(f"{address} cannot be reached ({type(cause).__name__})", passes=True)
    name = type(error).__name__
    kind = code if code.isupper() else name
    transient = (errors.OutOfMemoryError, errors.ReadOnlyError, errors.BusyLoadingError)
    if kind in _PASSES or isinstance(error, transient):
        what = "has no room" if isinstance(error, errors.OutOfMemoryError) else "takes no messages"
        return BrokerFailed(f"{address} {what} now ({kind})", passes=True)
    return BrokerFailed(
        f"{address} refuses the command ({kind}): see its log and this user's rights",
        passes=False,
    )
