"""A network between processes of one machine, that is cut: each wire stands before one server.

Rules: what a wire does to what passes is said beforehand, for either way: it holds it back, late or
until it is told to let go, ends the connection behind some bytes, or changes a frame of members.
What is held back keeps its order, and comes later, as over a network that heals; who ends his side
meanwhile is not seen to. `Network` runs wires in a thread of its own, for who has no event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Literal, TypeAlias

__all__ = [
    "CUTS",
    "NAMES",
    "WAYS",
    "Network",
    "Way",
    "Wire",
    "cut",
    "doubled",
    "oversized",
    "reordered",
    "wire",
]

Way: TypeAlias = Literal["forth", "back"]
WAYS: Final[tuple[Way, Way]] = ("forth", "back")
"""To the server, and from it."""
CUTS: Final[list[tuple[Way, ...]]] = [("forth",), ("back",), WAYS]
NAMES: Final = ["requests", "answers", "both"]
"""Of these, where a test is told which."""
Change: TypeAlias = Callable[[list[bytes]], bytes | None]
"""Makes of some whole frames what is sent instead; None until it has enough of them."""
_HEAD: Final = 4


class _Lane:
    """One way through a wire, on all its connections."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.delay = 0.0
        self.rest: int | None = None
        """Bytes until a connection is ended."""
        self.change: Change | None = None


class Wire:
    """A proxy before a server on loopback."""

    def __init__(self, server_host: str, server_port: int) -> None:
        self.port = 0
        self.passed = 0
        """Connections that were made through it."""
        self.refuses = False
        self._server = server_host, server_port
        self.lanes: dict[Way, _Lane] = {way: _Lane() for way in WAYS}
        self._open: dict[asyncio.StreamWriter, None] = {}

    @property
    def is_used(self) -> bool:
        """Whether something is connected through it."""
        return bool(self._open)

    def hold(self, *ways: Way) -> None:
        """Let nothing pass in these ways."""
        for way in ways:
            self.lanes[way].is_open.clear()

    def release(self) -> None:
        """Let pass what was held back, and what comes."""
        self.refuses = False
        for lane in self.lanes.values():
            lane.delay = 0.0
            lane.is_open.set()

    def delay(self, seconds: float) -> None:
        """Let everything come so much later."""
        for lane in self.lanes.values():
            lane.delay = seconds

    def cut(self) -> None:
        """End all connections, as a reset does."""
        for writer in [*self._open]:
            writer.transport.abort()

    def cut_behind(self, way: Way, size: int) -> None:
        """End the next connection that has passed on so many bytes more."""
        self.lanes[way].rest = size

    def change_frames(self, way: Way, change: Change) -> None:
        """Change the next frames of members, once."""
        self.lanes[way].change = change

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stand between a client and the server until either has gone."""
        ends = [writer]
        self._open[writer] = None
        try:
            if self.refuses:
                return
            await self.lanes["forth"].is_open.wait()
            back, forth = await asyncio.open_connection(*self._server)
            ends.append(forth)
            self._open[forth] = None
            self.passed += 1
            both = self._pass(reader, forth, "forth"), self._pass(back, writer, "back")
            tasks = [asyncio.ensure_future(each) for each in both]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
        except OSError:
            return
        finally:
            for each in ends:
                del self._open[each]
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        lane = self.lanes[way]
        frames = _Frames()
        try:
            while data := await reader.read(1 << 16):
                if lane.delay:
                    await asyncio.sleep(lane.delay)
                await lane.is_open.wait()
                data = frames.through(data, lane)
                if lane.rest is not None:
                    data, lane.rest = data[: lane.rest], lane.rest - len(data)
                writer.write(data)
                await writer.drain()
                if lane.rest is not None and lane.rest <= 0:
                    lane.rest = None
                    # What was written leaves before the connection ends.
                    writer.close()
                    await writer.wait_closed()
                    return
        except OSError:
            pass
        await lane.is_open.wait()  # nobody is seen to go over a wire that is held


class _Frames:
    """What one way of one connection has passed on, in frames of members."""

    def __init__(self) -> None:
        self._kept = b""
        """What has come since a change was asked for."""

    def through(self, data: bytes, lane: _Lane) -> bytes:
        if lane.change is None:
            kept, self._kept = self._kept, b""
            return kept + data
        self._kept += data
        frames, rest = _split(self._kept)
        changed = lane.change(frames)
        if changed is None:
            return b""
        lane.change, self._kept = None, b""
        return changed + rest


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Give the whole frames at the beginning, and what is behind them."""
    frames: list[bytes] = []
    while len(data) >= _HEAD:
        end = _HEAD + int.from_bytes(data[:_HEAD], "big")
        if len(data) < end:
            break
        frames.append(data[:end])
        data = data[end:]
    return frames, data


@asynccontextmanager
async def wire(
    server_port: int, *, host: str = "127.0.0.1", port: int = 0, server_host: str = "127.0.0.1"
) -> AsyncGenerator[Wire]:
    """Listen before a server; give the wire, whose own `port` is to be used."""
    found = Wire(server_host, server_port)
    listening = await asyncio.start_server(found.serve, host, port)
    found.port = listening.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        listening.close()
        found.release()
        while found.is_used:
            found.cut()
            await asyncio.sleep(0)


class Network:
    """Wires in a thread, for a process that waits for others and has no event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @contextmanager
    def running(self) -> Generator[Network]:
        """Run it."""
        self._thread.start()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def lay(self, server_port: int, *, host: str = "127.0.0.1", port: int = 0) -> Wire:
        """Give a wire before a server."""
        found = Wire("127.0.0.1", server_port)
        listening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(found.serve, host, port), self._loop
        ).result()
        found.port = listening.sockets[0].getsockname()[1]
        return found

    def do(self, what: Callable[[], None]) -> None:
        """Do something to a wire."""
        done = threading.Event()

        def do() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(do)
        done.wait()


# -- frames of members, changed on their way ------------------------------------------------------


def doubled(frames: list[bytes]) -> bytes | None:
    """Send the last one twice."""
    return b"".join(frames) + frames[-1] if frames else None


def reordered(frames: list[bytes]) -> bytes | None:
    """Send the last one first."""
    return b"".join(reversed(frames)) if len(frames) > 1 else None


def cut(frames: list[bytes]) -> bytes | None:
    """Send the first one without its end, and what is none behind it."""
    return frames[0][:-1] + b"\xff\xff\xff\xff" if frames else None


def oversized(frames: list[bytes]) -> bytes | None:
    """Say that the first one is larger than any may be."""
    return (1 << 25).to_bytes(4, "big") + frames[0] if frames else None
