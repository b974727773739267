"""The lines between the processes of a simulated world: they delay, cut frames, part and break.

Rules: a line keeps what it carries in order, and delivers all or breaks, as TCP does. What is sent
while two processes are parted arrives when they no longer are. A process that is dead is hung up
for by its machine, or much later where that is lost. A socket's folder shows that its process died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import PurePath
from random import Random
from typing import Any, Final
from unittest import mock

from tests.simulation.postgres.process import Process, ProcessesLoop, current_process

__all__ = ["Wires", "WiresLoop", "wired"]

_DELAY_SECONDS: Final = 0.0003
_FREE_PORTS: Final = 20_000
_LOST_SECONDS: Final = 60.0
"""Until one hears that the machine at the other end is no more."""


class Wires:
    """What processes find each other by, and talk over."""

    def __init__(self, random: Random, machine_of: Callable[[Process], int]) -> None:
        self.random = random
        self.machine_of = machine_of
        self.places: dict[str, _Listening] = {}
        self.folders: dict[str, Process] = {}
        self.ends: list[_End] = []
        self.parted: dict[tuple[int, int], float] = {}
        """From one process to another: until when nothing arrives."""
        self.connected = 0

    def arrival(self, sender: Process, receiver: Process) -> float:
        """Give when something arrives that is sent now."""
        parted = self.parted.get((sender.number, receiver.number), 0.0)
        passes = max(sender.loop.time(), parted)
        return passes + self.random.expovariate(1 / _DELAY_SECONDS)

    def listen(self, place: str, make: Callable[[], Any]) -> _Listening:
        """Let others connect; raise OSError where another one does."""
        there = self.places.get(place)
        if there is not None and not there.process.dead:
            raise OSError(98, "Address already in use")
        found = self.places[place] = _Listening(self, place, current_process(), make)
        return found

    async def connect(self, place: str, make: Callable[[], Any]) -> None:
        """Connect a protocol; raise OSError where nobody listens."""
        process = current_process()
        there = self.places.get(place)
        other = process if there is None else there.process
        if other.lost:
            await asyncio.sleep(_LOST_SECONDS)
        await asyncio.sleep(self.arrival(process, other) - process.loop.time())
        await asyncio.sleep(self.arrival(other, process) - process.loop.time())
        if there is None or other.dead or not there.serves or not there.is_at_its_path():
            raise ConnectionRefusedError(111, "Connection refused")
        here, far = _End(self, process, make()), _End(self, other, there.make())
        here.far, far.far = far, here
        self.ends += [here, far]
        self.connected += 1
        other.loop.call_soon(far.begin, context=other.context())
        here.begin()

    def break_some(self) -> None:
        """Break lines; what is on its way may arrive at one end before."""
        for end in list(self.ends):
            if self.random.random() < 0.5:
                end.break_at(end.process.loop.time() + self.random.random() * 0.01)

    def process_ended(self, process: Process) -> None:
        """Hang up for a process that is dead."""
        for end in [end for end in self.ends if end.process is process]:
            end.hang_up(_LOST_SECONDS if process.lost else 0.0)


class _End:
    """One end of a line: the transport of a protocol."""

    far: _End

    def __init__(self, wires: Wires, process: Process, protocol: Any) -> None:
        self._wires = wires
        self.process = process
        self._protocol = protocol
        self._arrived = 0.0
        self._is_closing = self._is_over = False

    def begin(self) -> None:
        """Tell the protocol that it has a line."""
        self._protocol.connection_made(self)

    def write(self, data: bytes) -> None:
        """Send; frames come in pieces now and then."""
        if self._is_closing:
            return
        random = self._wires.random
        cut = random.randrange(len(data)) if random.random() < 0.1 else 0
        for part in (data[:cut], data[cut:]):
            if part:
                self._at_far(self.far.receive, part)

    def _at_far(self, call: Callable[..., None], *values: Any, after: float = 0.0) -> None:
        receiver = self.far.process
        arrives = self._wires.arrival(self.process, receiver) + after
        self._arrived = max(arrives, self._arrived + 1e-9)
        receiver.loop.call_at(self._arrived, call, *values, context=receiver.context())

    def receive(self, data: bytes) -> None:
        """Take what came."""
        if not self._is_over:
            self._protocol.data_received(data)

    def close(self) -> None:
        """Send what waits, and end the line."""
        self.abort()

    def abort(self) -> None:
        """End the line."""
        if not self._is_closing:
            self.hang_up(0.0)
            self.process.loop.call_soon(self.end, context=self.process.context())

    def hang_up(self, after: float) -> None:
        """Let the other end hear that this one is gone, behind what was sent."""
        if not self._is_closing:
            self._is_closing = True
            self._at_far(self.far.end, after=after)

    def break_at(self, when: float) -> None:
        """Break the line at this end; the other one hears of it."""
        self.hang_up(0.0)
        self.process.loop.call_at(when, self.end, context=self.process.context())

    def end(self) -> None:
        """Tell the protocol that the line is gone."""
        if self._is_over:
            return
        self._is_over = True
        self.hang_up(0.0)
        self._wires.ends.remove(self)
        self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        """Tell whether nothing more is sent."""
        return self._is_closing

    def set_write_buffer_limits(self, _: int) -> None:
        """Know no bound."""

    def pause_reading(self) -> None:
        """Read on: what is not read waits nowhere in the model."""

    def resume_reading(self) -> None:
        """Read on."""


class _Listening:
    """A server at a place; `sockets` and `start_serving` are as asyncio has them."""

    def __init__(self, wires: Wires, place: str, process: Process, make: Callable[[], Any]) -> None:
        self._wires = wires
        self._place = place
        self.process = process
        self.make = make
        self.serves = False

    @property
    def sockets(self) -> list[_Listening]:
        """What it listens at."""
        return [self]

    def getsockname(self) -> tuple[str, int]:
        """Give host and port."""
        host, _, port = self._place.rpartition(":")
        return host, int(port)

    async def start_serving(self) -> None:
        """Take who connects."""
        self.serves = True

    def is_at_its_path(self) -> bool:
        """Whether who connects there comes here."""
        return self._wires.places.get(self._place) is self

    def close(self) -> None:
        """Listen no more."""
        if self.is_at_its_path():
            del self._wires.places[self._place]


class WiresLoop(ProcessesLoop):
    """A loop whose processes connect over `wires`."""

    wires: Wires
    ports_taken = 0

    async def create_server(  # type: ignore[override]
        self, make: Callable[[], Any], host: str, port: int, **_: Any
    ) -> Any:
        """Listen at a port; at one that nobody has, where it is 0."""
        if port == 0:
            self.ports_taken += 1
            port = _FREE_PORTS + self.ports_taken
        return self.wires.listen(f"{host}:{port}", make)

    async def create_connection(  # type: ignore[override]
        self, make: Callable[[], Any], host: str, port: int, **_: Any
    ) -> Any:
        """Connect with one."""
        await self.wires.connect(f"{host}:{port}", make)


@contextmanager
def wired(wires: Wires) -> Generator[None]:
    """Let meetings have folders and sockets of the model."""

    class Folder:
        def __init__(self) -> None:
            process = current_process()
            machine = wires.machine_of(process)
            self.path = f"/{machine}/{process.number}-{wires.random.getrandbits(32)}"
            wires.folders[self.path] = process

        def remove(self) -> None:
            wires.folders.pop(self.path, None)

    def is_here(path: str) -> bool:
        return path.split("/")[1] == str(wires.machine_of(current_process()))

    def is_abandoned(path: str) -> bool:
        process = wires.folders.get(path)
        return is_here(path) and process is not None and process.dead

    async def connect(path: str, make: Callable[[], Any]) -> None:
        if not is_here(path) or str(PurePath(path).parent) not in wires.folders:
            raise FileNotFoundError(2, "No such file or directory")
        await wires.connect(path, make)

    async def listen(path: str, make: Callable[[], Any]) -> _Listening:
        listening = wires.listen(path, make)
        await listening.start_serving()
        return listening

    def remove_abandoned(path: str) -> None:
        wires.folders.pop(path, None)

    meeting, wire = "engine.members.meeting", "engine.members.wire"
    with (
        mock.patch(f"{meeting}.PrivateFolder", Folder),
        mock.patch(f"{meeting}.is_abandoned", is_abandoned),
        mock.patch(f"{meeting}.remove_abandoned", remove_abandoned),
        mock.patch(f"{meeting}.connect", connect),
        mock.patch(f"{meeting}.listen", listen),
        mock.patch(f"{wire}.keep_from_forks", return_value=0),
        mock.patch(f"{wire}.release", return_value=None),
    ):
        yield
