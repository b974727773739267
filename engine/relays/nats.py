"""Publishes to NATS JetStream.

Rules: every message has its id as `Nats-Msg-Id`, so that the server drops a repetition within the
stream's duplicate window. Within a batch each message expects the one before it to be the stream's
last: where one is lost or refused, the server refuses all behind it, and nothing is overtaken. If
others publish to the same stream meanwhile, the rest goes in waves. The client's own reconnecting
is off: a connection that broke is replaced, and the batch is sent again by the projector.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS
from ..brokers.nats import connect
from ..errors import BrokerFailed, MessageRefused
from .message import Outgoing, headers_of, percent_encoded, waves
from .outlet import ANSWER_SECONDS, LOOK_SECONDS, PER_TURN

__all__ = [
    "HEADERS_MAX",
    "TOO_LARGE",
    "NatsOutlet",
    "headers_size",
    "make_outlet",
    "matches",
]

T = TypeVar("T")

HEADERS_MAX: Final = 65_535
"""Bytes of a message's headers that JetStream stores."""
TOPICS_MAX: Final = 10_000
"""Subjects whose stream is remembered."""
_NO_RESPONDERS: Final = 503
_SERVER_ERROR: Final = 500
_WRONG_LAST_ID: Final = 10_070
_NO_ROOM: Final = frozenset((10_002, 10_023, 10_028, 10_047, 10_077, 10_122))
"""No memory, no storage, more messages or bytes than the account or the stream takes."""
_SEALED: Final = 10_109
TOO_LARGE: Final = (10_054, 10_097)
"""A message, or its headers, have more bytes than the stream takes."""
SUBJECT_BYTES_MAX: Final = 2_000
"""Of a subject; a server ends the connection of who sends a line of more than 4,096 bytes."""
_OTHER_STREAM: Final = 10_060


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    error: _Error | None = None


class _Names(msgspec.Struct):
    streams: list[str] | None = None
    error: _Error | None = None


class _Config(msgspec.Struct):
    name: str = ""
    subjects: list[str] = []
    storage: str = "file"
    retention: str = "limits"
    max_msg_size: int = -1


class _State(msgspec.Struct):
    consumer_count: int = 0


class _Info(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)
    error: _Error | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode
_NOBODY: Final = _Error(_NO_RESPONDERS, 0, "no stream has answered")


class _Confirmations:
    """What the server says to the messages of one round."""

    def __init__(self, count: int) -> None:
        self.errors: dict[int, _Error] = {}
        self._left = set(range(count))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, index: int, error: _Error | None) -> None:
        if index not in self._left:
            return
        self._left.remove(index)
        if error is not None:
            self.errors[index] = error
        if not self._left and not self.done.done():
            self.done.set_result(None)


class NatsOutlet:
    """One connection to NATS."""

    def __init__(self, address: Address, name: str, tls: ssl.SSLContext | None) -> None:
        """Take where to connect to, and what the server shows of it."""
        self._address = address
        self._name = name
        self._tls = tls
        self._client: Any = None
        self._inbox = ""
        self._round = 0
        self._waiting: _Confirmations | None = None
        self._lost: asyncio.Future[None] | None = None
        """Done when the connection has ended."""
        self._streams: dict[str, _Config] = {}
        """By name."""
        self._topics: dict[str, _Config] = {}
        self._looked = 0.0

    async def publish(self, batch: Sequence[Outgoing]) -> None:
        """Publish messages in order; return when all are stored."""
        try:
            await self._connect()
            now = asyncio.get_running_loop().time()
            if now >= self._looked + LOOK_SECONDS:
                self._streams.clear()
                self._topics.clear()
                self._looked = now
            for message in batch:
                _check_subject(message)
                self._check(message, await self._stream_of(message.topic))
            reached = await self._send(batch, chained=True)
            for wave in waves(batch[reached:]):
                await self._send(wave, chained=False)
        except MessageRefused:
            raise
        except BrokerFailed as failed:
            if failed.passes:
                await self.close()
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._streams.clear()
        self._topics.clear()
        if client is not None:
            try:
                await asyncio.wait_for(client.close(), CONNECT_SECONDS)
            except Exception:
                return  # it is gone already

    # -- the connection -----------------------------------------------------------------------

    async def _connect(self) -> None:
        if self._client is not None and self._client.is_connected:
            return
        await self.close()
        lost = self._lost = asyncio.get_running_loop().create_future()

        async def note() -> None:
            if not lost.done():
                lost.set_result(None)

        client = self._client = await connect(self._address, self._name, self._tls, note)
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def _answer(self, wanted: asyncio.Future[T]) -> T:
        """Wait for an answer of the server; raise BrokerFailed where none comes."""
        assert self._lost is not None, "it is connected"
        ends: set[asyncio.Future[Any]] = {wanted, self._lost}
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait(ends, timeout=ANSWER_SECONDS, return_when=first)
            if wanted.done():
                return wanted.result()
        finally:
            wanted.cancel()
        what = "has closed the connection"
        if not self._lost.done():
            what = f"has not answered within {ANSWER_SECONDS:g} s"
        raise BrokerFailed(f"{self._address} {what}", passes=True)

    # -- streams ------------------------------------------------------------------------------

    async def _stream_of(self, topic: str) -> _Config:
        """Give the stream that takes a subject; raise BrokerFailed where there is none to trust."""
        found = self._topics.get(topic)
        if found is None:
            found = next((s for s in self._streams.values() if _takes(s, topic)), None)
            if found is None:
                found = await self._ask_stream_of(topic)
                self._streams[found.name] = found
            if len(self._topics) >= TOPICS_MAX:
                self._topics.clear()
            self._topics[topic] = found
        return found

    async def _ask_stream_of(self, topic: str) -> _Config:
        names = await self._ask("STREAM.NAMES", {"subject": topic}, _Names)
        if not names.streams:
            raise BrokerFailed(
                f"no JetStream stream of {self._address} takes the subject {topic!r}, so nothing "
                f"would keep the message: add one, then resume the relay",
                passes=False,
            )
        info: _Info = await self._ask(f"STREAM.INFO.{names.streams[0]}", {}, _Info)
        config = info.config
        if config.storage != "file" and "memory" not in self._address.allow:
            raise BrokerFailed(
                f"the stream {config.name!r} of {self._address} keeps messages in memory only, and "
                f'would lose them: store it in files, or give the relay allow=["memory"]',
                passes=False,
            )
        if config.retention == "interest" and not info.state.consumer_count:
            raise BrokerFailed(
                f"the stream {config.name!r} of {self._address} keeps messages for its consumers "
                f"only and has none, so it would drop what it confirms: add one, then resume the "
                f"relay",
                passes=False,
            )
        return config

    async def _ask(self, subject: str, request: object, answer: Any) -> Any:
        errors: Any = importlib.import_module("nats.errors")
        try:
            asked = self._client.request(
                f"$JS.API.{subject}", msgspec.json.encode(request), timeout=ANSWER_SECONDS
            )
            reply = await self._answer(asyncio.ensure_future(asked))
        except (errors.Error, OSError, TimeoutError) as error:
            why = type(error).__name__
            raise BrokerFailed(
                f"JetStream of {self._address} does not answer {subject.partition('.')[0]} "
                f"({why}): it starts, is not enabled, or this user may not ask",
                passes=True,
            ) from None
        found = msgspec.json.decode(reply.data, type=answer)
        if found.error is not None:
            self._raise(found.error, None)
        return found

    def _check(self, message: Outgoing, stream: _Config) -> None:
        headers = sum(len(name) + len(value) + 64 for name, value in message.attributes.items())
        size = len(message.body) + headers
        largest = self._client.max_payload
        if 0 <= stream.max_msg_size < largest:
            largest = stream.max_msg_size
        if size > largest or headers > HEADERS_MAX:
            exact = _headers(message, stream.name, message.id)
            headers = headers_size(exact)
            size = len(message.body) + headers
            if size > largest or headers > HEADERS_MAX:
                raise MessageRefused(
                    f"the message {message.id} has {size} bytes, {headers} of them headers, and "
                    f"{self._address} takes {largest}, {HEADERS_MAX} of them headers"
                )

    # -- messages -----------------------------------------------------------------------------

    async def _send(self, messages: Sequence[Outgoing], *, chained: bool) -> int:
        """Send messages and wait for all confirmations; give how many are stored.

        Fewer than all only where it is chained, and somebody else has published in between.
        """
        self._round += 1
        waiting = self._waiting = _Confirmations(len(messages))
        last: dict[str, str] = {}
        send, reply = self._client.publish, f"{self._inbox}.{self._round}-"
        for index, message in enumerate(messages):
            stream = self._topics[message.topic].name
            before = last.get(stream) if chained else None
            headers = _headers(message, stream, before)
            last[stream] = message.id
            await self._sending(send(message.topic, message.body, f"{reply}{index}", headers))
            if index % PER_TURN == PER_TURN - 1:
                await asyncio.sleep(0)
        try:
            await self._answer(waiting.done)
        finally:
            self._waiting = None
        if not waiting.errors:
            return len(messages)
        first = min(waiting.errors)
        if not chained or waiting.errors[first].err_code != _WRONG_LAST_ID:
            self._raise(waiting.errors[first], messages[first])
        return first

    async def _sending(self, sent: Any) -> None:
        errors: Any = importlib.import_module("nats.errors")
        try:
            await sent
        except (errors.Error, OSError) as error:
            why = type(error).__name__
            raise BrokerFailed(f"{self._address} took no message: {why}", passes=True) from None

    async def _take(self, answer: Any) -> None:
        turn, _, index = answer.subject.rpartition(".")[2].partition("-")
        if self._waiting is None or turn != str(self._round):
            return  # of a round that was given up
        headers = answer.headers
        if headers is not None and headers.get("Status") == str(_NO_RESPONDERS):
            self._waiting.take(int(index), _NOBODY)
        else:
            self._waiting.take(int(index), _decode_ack(answer.data).error)

    def _raise(self, error: _Error, message: Outgoing | None) -> NoReturn:
        """Raise what an error of the server means."""
        what = f"{error.description} ({error.err_code or error.code})"
        if error.err_code in _NO_ROOM:
            raise BrokerFailed(f"{self._address} has no room: {what}", passes=True)
        if error.err_code == _OTHER_STREAM or error.code >= _SERVER_ERROR:
            raise BrokerFailed(f"{self._address}: {what}", passes=True)
        if message is None or error.err_code == _SEALED:
            raise BrokerFailed(f"{self._address}: {what}", passes=False)
        raise MessageRefused(f"{self._address} does not take the message {message.id}: {what}")


def make_outlet(address: Address, name: str, tls: ssl.SSLContext | None) -> NatsOutlet:
    """Give what publishes to NATS."""
    return NatsOutlet(address, name, tls)


def _headers(message: Outgoing, stream: str, before: str | None) -> dict[str, str]:
    named = headers_of(message, "ce-")
    headers = {name: percent_encoded(value) for name, value in named.items()}
    headers["Nats-Msg-Id"] = message.id
    headers["Nats-Expected-Stream"] = stream
    if before is not None:
        headers["Nats-Expected-Last-Msg-Id"] = before
    return headers


def headers_size(headers: Mapping[str, str]) -> int:
    """Give the bytes of headers on their way to a server."""
    return 12 + sum(len(n.encode()) + len(v.encode()) + 4 for n, v in headers.items())


def _check_subject(message: Outgoing) -> None:
    """Raise MessageRefused for what no server takes; the client sees only a part of it."""
    topic = message.topic
    parts = topic.split(".")
    fits = " " not in topic and topic.isprintable() and not {"", "*", ">"} & set(parts)
    if not fits or len(topic.encode()) > SUBJECT_BYTES_MAX:
        raise MessageRefused(
            f"topic= gave what is no subject of NATS for the message {message.id}: it has parts "
            f"with characters between its points, no spaces, and at most {SUBJECT_BYTES_MAX} bytes"
        )


def _takes(stream: _Config, topic: str) -> bool:
    return any(matches(pattern, topic) for pattern in stream.subjects)


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a subject is among those that a pattern of NATS names."""
    wanted, parts = pattern.split("."), topic.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(parts) > index
        if index >= len(parts) or part not in ("*", parts[index]):
            return False
    return len(wanted) == len(parts)
