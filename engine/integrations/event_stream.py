"""Live queries and feeds over HTTP, as server-sent events, for any ASGI framework.

Rules: what prevents a stream is raised before it begins, so that it becomes a status; a stream that
has begun ends, and its client comes back with the id of the last event, which is a position. A
client is sent the next answer when it has taken the one before, so one that is slow gets the newest
only, and holds nothing up. A line that is idle is kept open by a heartbeat, which also moves the
client's place over what changes nothing for it. A stream ends when its client leaves, when the
engine stops, and when the server begins to stop: servers wait for their responses before they tell
the application that it is over, and would wait for ever. Nothing here imports a framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, MutableMapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import anyio
import msgspec

from ..errors import Closed
from ..log.feed import Feed
from ..log.history import LoggedEvent
from ..model.messages import Event, Receipt
from ..queries.live import LiveQuery
from .headers import Headers
from .server import LOOK_SECONDS, server_is_stopping

__all__ = ["EventStream", "event_stream", "last_event", "server_is_stopping"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

HEARTBEAT_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 1.0
"""How long a client may take for what it is sent last when the server stops."""

_HEARTBEAT: Final = b":\n\n"


def last_event(headers: Headers, at: str | None = None) -> Receipt | None:
    """Give where a client that comes back was: its `Last-Event-ID`, or else `at`, a token.

    `headers` finds names whatever their case, or has them in lower case. It goes into
    `engine.watch(query, at=...)`, and its position into `engine.feed(after)`. Raises InvalidInput
    for what is no token.
    """
    token = headers.get("last-event-id") or at
    return Receipt.from_token(token) if token else None


async def event_stream(
    source: LiveQuery[Any] | Feed,
    *,
    encode: Callable[[Any], bytes] | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    stopping: Callable[[], bool] = server_is_stopping,
) -> EventStream:
    """Give a response that sends what a live query or a feed gives, once its first word is there.

    Raises what iterating it would: Forbidden, Overloaded, ProjectionLag, Closed and so on. `encode`
    makes the data of an answer or a LoggedEvent. Without it that is JSON, of an event without what
    travelled with its command (key, principal, correlation, headers).
    """
    stream = EventStream(source, encode, heartbeat_seconds, stopping)
    await stream.open()
    return stream


class EventStream:
    """A response: an ASGI application, which Starlette takes as it is; or iterate its bytes.

    For FastAPI: `StreamingResponse(stream, headers=stream.headers)`.
    """

    headers: Final[Mapping[str, str]] = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would gather it otherwise
    }
    """The headers that go with it."""

    def __init__(
        self,
        source: LiveQuery[Any] | Feed,
        encode: Callable[[Any], bytes] | None,
        heartbeat_seconds: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._source = source
        self._encode = encode
        self._heartbeat_seconds = heartbeat_seconds
        self._stopping = stopping
        self._first = _HEARTBEAT
        self._told = 0
        """The position that the client was told last."""
        self._ending: asyncio.Future[None] | None = None
        self._give_up: Callable[[], None] | None = None

    async def open(self) -> None:
        """Have the first answer ready, or raise why there is none."""
        if isinstance(self._source, Feed):
            await self._source.open()
            self._told = self._source.position
        else:
            self._first = self._shown(await anext(self._source))

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Give the body, piece by piece."""
        with _told_of_the_end(self._stopping, self._end):
            async with aclosing(self._source):
                yield self._first
                while (piece := await self._next()) is not None:
                    yield piece

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request; to HEAD, without a body that would never end."""
        if scope.get("method") == "HEAD":
            await self._source.aclose()
            await send({"type": "http.response.start", "status": 200, "headers": self._raw})
            await send({"type": "http.response.body", "body": b""})
            return
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            self._give_up = group.cancel_scope.cancel
            group.start_soon(_until_left, receive, group.cancel_scope.cancel)
            try:
                await self._send_all(send)
            except Exception as error:
                failure = error  # raised below as it is, and not in a group
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @property
    def _raw(self) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self._raw})
        async with aclosing(self.__aiter__()) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _next(self) -> bytes | None:
        """Give what comes next, a heartbeat where that is nothing; None at the end."""
        idle = asyncio.timeout(self._heartbeat_seconds)
        try:
            async with idle:
                return self._shown(await anext(self._source))
        except TimeoutError:
            if not idle.expired():
                raise
            return self._heartbeat()
        except (StopAsyncIteration, Closed):
            # It comes back, and is told then whether there is an engine again.
            return None

    def _heartbeat(self) -> bytes:
        position = self._source.position
        if position == self._told:
            return _HEARTBEAT
        # Without data it is no event, and yet the client keeps its id.
        self._told = position
        return b"id: %b\n\n" % _token(position)

    def _shown(self, item: Any) -> bytes:
        self._told = self._source.position
        data = self._data(item)
        lines = b"".join(b"data: %b\n" % line for line in data.splitlines() or [b""])
        return b"id: %b\n%b\n" % (_token(self._told), lines)

    def _data(self, item: Any) -> bytes:
        if self._encode is not None:
            return self._encode(item)
        if isinstance(self._source, LiveQuery):
            return self._source.json
        return msgspec.json.encode(_ShownEvent.of(item))

    def _end(self) -> None:
        """End it, in the next pause; give up what its client does not take."""
        self._ending = asyncio.ensure_future(self._source.aclose())
        if self._give_up is not None:
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._give_up)


class _ShownEvent(msgspec.Struct, frozen=True):
    """What a client is shown of an event: nothing that travelled with its command."""

    position: int
    stream: str
    version: int
    recorded: int
    name: str
    event_version: int
    event: Event | None

    @classmethod
    def of(cls, logged: LoggedEvent) -> _ShownEvent:
        """Give what is shown."""
        meta, event = logged.meta, logged.event
        place = (meta.position, meta.stream, meta.version, meta.recorded)
        return cls(*place, logged.name, logged.event_version, event)


def _token(position: int) -> bytes:
    return Receipt("", 0, position).token.encode()


async def _until_left(receive: Receive, end: Callable[[], None]) -> None:
    # A GET with a body that a framework refuses: the stream has begun, so that nothing but its end
    # can be told.
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
    end()


class _EndMonitor:
    """Looks for all streams of an event loop whether they must end."""

    def __init__(self) -> None:
        self._streams: dict[object, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: object, stopping: Callable[[], bool], end: Callable[[], None]) -> None:
        self._streams[stream] = stopping, end
        if self._timer is None:
            self._look_later()

    def drop(self, stream: object) -> None:
        self._streams.pop(stream, None)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        for stream, (stopping, end) in list(self._streams.items()):
            if _ends(stopping):
                self.drop(stream)
                end()
        if self._streams:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)


def _ends(stopping: Callable[[], bool]) -> bool:
    """Tell whether a stream must end: also where that cannot be told, which concerns it alone."""
    try:
        return stopping()
    except Exception:
        return True


_monitors: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _EndMonitor]] = WeakKeyDictionary()


@contextmanager
def _told_of_the_end(stopping: Callable[[], bool], end: Callable[[], None]) -> Generator[None]:
    """Call `end` if the server begins to stop before the body of the `with` has ended."""
    loop, stream = asyncio.get_running_loop(), object()
    monitor = _monitors.get(loop)
    if monitor is None:
        monitor = _monitors[loop] = _EndMonitor()
    monitor.add(stream, stopping, end)
    try:
        yield
    finally:
        monitor.drop(stream)
