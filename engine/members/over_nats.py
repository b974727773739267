"""Lines between members and their owner over NATS core, where their machines share no other path.

Rules: a line is two subjects, one for each end. Each message on it has its number and a proof of
the token and of this line: what is lost, doubled, overtaken, changed or another's ends the line,
and nothing is sent twice. The owner proves first that it has the token, which nobody sends. Where
the other end is gone, the server says so to who sends, and each end sends now and then. An owner
whose server has gone tries to reach it again, and goes on meanwhile. Commands are not hidden from
who may read the subjects.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import re
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import Any, Final, cast

from ..brokers.nats import connect, new_name
from ..errors import BrokerFailed, StoreRefused
from ..runtime.futures import retrieve
from ..runtime.safely import described
from .listening import ListenOnNats
from .wire import Line

__all__ = ["Exchange", "join"]

_SUBJECT: Final = re.compile(r"foldline(\.[A-Za-z0-9]{1,64}){1,2}")
"""All subjects are such: a server's permissions name `foldline.>`."""
_VERSION: Final = b"1"
_OWNER, _MEMBER = b"owner", b"member"
_PROOF: Final = 16
_NUMBER: Final = 8
_HEAD: Final = _PROOF + _NUMBER + 1
_DATA, _STILL, _END = b"D", b"S", b"E"
_PART_MAX: Final = 256 * 1024
"""Bytes of a line in one message, or fewer where the server takes fewer."""
_STILL_SECONDS: Final = 2.0
"""Between two messages of one end, at most."""
_JOIN_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 1.0
"""Between two tries of an owner to reach the server."""
_ASKED_MAX: Final = 64
"""Who has asked for a line and not come yet."""
_UNREAD_MAX: Final = 64 * 1024 * 1024
"""Bytes that wait for an end that does not read."""


class _Secret:
    """What the two ends of one line know, and nobody who has not the token."""

    def __init__(self, listen: ListenOnNats, *told: str) -> None:
        token = "" if listen.token is None else listen.token.revealed
        key = sha256(token.encode()).digest()
        self._key = blake2b("\n".join(told).encode(), key=key, digest_size=32).digest()

    def proof(self, whose: bytes, data: bytes) -> bytes:
        """Prove that an end has sent this on this line."""
        return blake2b(data, key=self._key, person=whose, digest_size=_PROOF).digest()


class _Connection:
    """One connection with the server."""

    def __init__(self) -> None:
        self.client: Any = None
        self.gone = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None

    async def open(self, listen: ListenOnNats) -> None:
        """Connect; raise OSError or BrokerFailed where that fails."""
        self.client = await connect(listen.address, "foldline", listen.tls(), self._end)

    async def _end(self) -> None:
        self.gone.set()

    def close(self) -> None:
        """End it, beside what goes on; a second call does nothing."""
        if self.client is not None and self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="foldline NATS")
            self._closing.add_done_callback(retrieve)

    async def _close(self) -> None:
        async with asyncio.timeout(_JOIN_SECONDS):
            await self.client.close()


class _End(asyncio.Transport):
    """One end of a line, as what the line writes to."""

    def __init__(
        self,
        connection: _Connection,
        secret: _Secret,
        mine: str,
        theirs: str,
        *,
        is_owner: bool,
        ended: Callable[[_End], None],
    ) -> None:
        """Take the subjects on which this end and the other one hear."""
        super().__init__()
        self._connection = connection
        self._secret = secret
        self.mine = mine
        self._theirs = theirs
        self._name, self._other = (_OWNER, _MEMBER) if is_owner else (_MEMBER, _OWNER)
        self._ended = ended
        self._line: Line | None = None
        self._unsent = bytearray()
        self._unsent_max = 1 << 16
        self._is_full = False
        self._sent = 0
        self._heard = 0
        self._unread: bytearray | None = None
        """What has come while the line reads nothing."""
        self._is_closing = False
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, line: Line) -> None:
        """Connect the line."""
        self._line = line
        for work in (self._send(), self._watch()):
            task = asyncio.create_task(work, name="foldline line")
            task.add_done_callback(retrieve)
            self._tasks.append(task)
        line.connection_made(self)

    async def _watch(self) -> None:
        """End with the connection."""
        await self._connection.gone.wait()
        self.abort()

    # -- what a line calls --------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Let bytes leave with what waits."""
        self._unsent += data
        self._news.set()
        if len(self._unsent) > self._unsent_max and not self._is_full:
            self._is_full = True
            cast("Line", self._line).pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:  # noqa: ARG002 - the transport's
        """Take how many bytes may wait."""
        self._unsent_max = self._unsent_max if high is None else high

    def pause_reading(self) -> None:
        """Keep what comes."""
        self._unread = bytearray() if self._unread is None else self._unread

    def resume_reading(self) -> None:
        """Hand on what has come."""
        unread, self._unread = self._unread, None
        if unread:
            self._hand_on(unread)

    def is_closing(self) -> bool:
        """Tell whether it ends."""
        return self._is_closing

    def close(self) -> None:
        """End behind what waits."""
        self._is_closing = True
        self._news.set()

    def abort(self) -> None:
        """End at once."""
        self._unsent.clear()
        self.close()
        # What is on its way to a server that takes nothing is not waited for.
        asyncio.get_running_loop().call_later(_STILL_SECONDS, self._tasks[0].cancel)

    # -- what leaves --------------------------------------------------------------------------

    async def _send(self) -> None:
        most = min(_PART_MAX, self._connection.client.max_payload - _HEAD)
        try:
            while not self._is_closing or self._unsent:
                await self._wait()
                data, self._unsent = self._unsent, bytearray()
                for start in range(0, len(data), most):
                    await self._publish(_DATA, bytes(data[start : start + most]))
                if not data and not self._is_closing:
                    await self._publish(_STILL, b"")
                if self._is_full and not self._is_closing:
                    self._is_full = False
                    cast("Line", self._line).resume_writing()
            await self._publish(_END, b"")
        finally:
            self._is_closing = True
            self._tasks[1].cancel()
            self._ended(self)
            cast("Line", self._line).connection_lost(None)

    async def _wait(self) -> None:
        """Return when there is something to send, or it is time to say that this one lives."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STILL_SECONDS):
                await self._news.wait()
        self._news.clear()

    async def _publish(self, kind: bytes, data: bytes) -> None:
        counted = self._sent.to_bytes(_NUMBER, "big") + kind + data
        self._sent += 1
        proof = self._secret.proof(self._name, counted)
        # Where nobody hears that any more, the server says so to this end.
        await self._connection.client.publish(self._theirs, proof + counted, reply=self.mine)

    # -- what comes ---------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Take the next message of the other end; any other one ends the line."""
        if self._is_closing:
            return
        if not self.is_next(data):
            self.abort()
            return
        self._heard += 1
        kind = data[_HEAD - 1 : _HEAD]
        if kind == _DATA:
            self._hand_on(data[_HEAD:])
        elif kind == _END:
            self.abort()

    def is_next(self, data: bytes) -> bool:
        """Tell whether the other end has sent this, behind what has come."""
        proof, counted = data[:_PROOF], data[_PROOF:]
        if not hmac.compare_digest(proof, self._secret.proof(self._other, counted)):
            return False
        return counted[:_NUMBER] == self._heard.to_bytes(_NUMBER, "big")

    def _hand_on(self, data: bytes | bytearray) -> None:
        if self._unread is None:
            cast("Line", self._line).data_received(bytes(data))
            return
        self._unread += data
        if len(self._unread) > _UNREAD_MAX:
            self.abort()


# -- as a member ----------------------------------------------------------------------------------


async def join(listen: ListenOnNats, subject: str, line: Line) -> None:
    """Connect a line with the owner that is met at a subject.

    Raises OSError where there is none to be had, and StoreRefused where the token is another one,
    or the server refuses this process or does not prove who it is.
    """
    connection = _Connection()
    try:
        await connection.open(listen)
    except BrokerFailed as error:
        if not error.passes:
            raise StoreRefused(f"the owner of the log cannot be joined: {error}") from error
        raise ConnectionRefusedError(errno.ECONNREFUSED, str(error)) from error
    try:
        await _Joining(listen, connection).run(subject, line)
    except BaseException:
        connection.close()
        raise


class _Joining:
    """A member's connection, for one line."""

    def __init__(self, listen: ListenOnNats, connection: _Connection) -> None:
        self._listen = listen
        self._connection = connection
        self._answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._end: _End | None = None

    async def run(self, subject: str, line: Line) -> None:
        """Ask who is met there for a line, and begin it."""
        client, mine, word = self._connection.client, f"foldline.{new_name()}", new_name()
        await client.subscribe(mine, cb=self._take)
        await client.publish(subject, _VERSION + word.encode(), reply=mine)
        answer = await self._answered()
        theirs, proof, other = answer.reply, answer.data[:_PROOF], answer.data[_PROOF:]
        if not _SUBJECT.fullmatch(theirs):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody is met there over NATS")
        secret = _Secret(self._listen, word, other.decode("ascii", "replace"), mine, theirs)
        if not hmac.compare_digest(proof, secret.proof(_OWNER, b"")):
            raise StoreRefused("the token of listen= is not the one that the owner has")
        closing = self._connection.close
        self._end = _End(
            self._connection, secret, mine, theirs, is_owner=False, ended=lambda _: closing()
        )
        self._end.begin(line)

    async def _answered(self) -> Any:
        gone = asyncio.ensure_future(self._connection.gone.wait())
        ends: set[asyncio.Future[Any]] = {self._answer, gone}
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if not self._answer.done():
            raise ConnectionResetError(errno.ECONNRESET, "the NATS server has gone")
        return self._answer.result()

    async def _take(self, message: Any) -> None:
        if self._end is not None:
            self._end.take(message.data)
        elif not self._answer.done():
            self._answer.set_result(message)


# -- as the owner ---------------------------------------------------------------------------------


class Exchange:
    """Where an owner is met, over connections that follow each other."""

    def __init__(self, listen: ListenOnNats, logger: logging.Logger) -> None:
        """Take the server; nothing is connected before `open`."""
        self._listen = listen
        self._logger = logger
        self.subject = f"foldline.{new_name()}"
        self._make: Callable[[], Line] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._asked: dict[str, tuple[_Secret, str]] = {}
        """Who has asked for a line, by its subject, in the order in which they came."""
        self._ends: dict[str, _End] = {}
        self.is_met = False
        """Whether members can come now."""
        self._leaving = asyncio.Event()
        self._empty = asyncio.Event()
        self._told = ""
        """Why nobody can come, as it was logged last."""

    def open(self, make: Callable[[], Line]) -> None:
        """Let members come, as soon as the server is reached."""
        self._make = make
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="foldline exchange")
            self._keeper.add_done_callback(retrieve)

    def leave(self) -> None:
        """Let nobody come any more; the lines that there are end one by one."""
        self._leaving.set()

    async def close(self) -> None:
        """Return when nothing goes on here; nobody has a line any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        while not self._leaving.is_set():
            connection = _Connection()
            try:
                await self._serve(connection)
            except Exception as error:
                self._tell(described(error))
            finally:
                self.is_met = False
                connection.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await self._leaving.wait()

    async def _serve(self, connection: _Connection) -> None:
        """Take who comes over one connection, until it ends or this one leaves."""
        await connection.open(self._listen)
        client = connection.client

        async def hear(message: Any) -> None:
            await self._hear(connection, message)

        async def take(message: Any) -> None:
            self._take(connection, message)

        coming = await client.subscribe(self.subject, cb=hear)
        await client.subscribe(f"{self.subject}.*", cb=take)
        await client.flush()
        self.is_met = True
        if self._told:
            self._told = ""
            self._logger.warning("processes can join this one again over NATS")
        if await _first(connection.gone, self._leaving) is connection.gone:
            raise ConnectionResetError(errno.ECONNRESET, "the NATS server has gone")
        # From here on the server says to who asks that nobody is there.
        await coming.unsubscribe()
        while self._ends and not connection.gone.is_set():
            self._empty.clear()
            await _first(connection.gone, self._empty)

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            self._logger.error(
                "no process can join this one over NATS, and it goes on without: %s. It is tried "
                "again each second",
                why,
            )

    async def _hear(self, connection: _Connection, message: Any) -> None:
        """Answer who asks for a line."""
        theirs, word = message.reply, message.data[1:].decode("ascii", "replace")
        if message.data[:1] != _VERSION or not _SUBJECT.fullmatch(theirs):
            return
        mine, other = f"{self.subject}.{new_name()}", new_name()
        secret = _Secret(self._listen, word, other, theirs, mine)
        self._asked[mine] = secret, theirs
        if len(self._asked) > _ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        answer = secret.proof(_OWNER, b"") + other.encode()
        await connection.client.publish(theirs, answer, reply=mine)

    def _take(self, connection: _Connection, message: Any) -> None:
        """Take what comes on a line, which begins with its first message."""
        mine = message.subject
        end = self._ends.get(mine)
        if end is None:
            if mine not in self._asked:
                return  # of a line that has ended
            secret, theirs = self._asked.pop(mine)
            end = _End(connection, secret, mine, theirs, is_owner=True, ended=self._ended)
            if not end.is_next(message.data):
                self._logger.warning("somebody has shown a wrong token: he cannot join this log")
                return
            assert self._make is not None, "it is open"
            self._ends[mine] = end
            end.begin(self._make())
        end.take(message.data)

    def _ended(self, end: _End) -> None:
        del self._ends[end.mine]
        if not self._ends:
            self._empty.set()


async def _first(*events: asyncio.Event) -> asyncio.Event:
    """Wait for the first of some events; give it."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return next(event for event in events if event.is_set())
