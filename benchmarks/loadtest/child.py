"""One life of the engine: a process with the shop, and the clients that load it.

Rules: the clients are in the engine's own process, since that is how an embedded engine is used: a
pipe between them would be measured too, and would be what saturates first. The price is that they
take their part of the processor (a task for each command, as a web server has). A command is sent
when it is due, whether earlier ones are answered or not. What an earlier life may have sent is sent
until it is told yes or no, since "not run" says nothing about another life, and first, as a client
does that comes back: a bounded number at a time. It tells numbers of itself four times a second,
ends in peace when it is told to and all is answered, and at once when its parent is gone.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec

from domain.model.former_events import UPCASTERS
from domain.model.orders import Order
from domain.model.rates import Rates
from domain.model.returns import Return
from domain.shop import LIMITS, open_shop
from engine import Engine, EngineError, Overloaded, Rejected, run

from .load import Load, Phase, key_of
from .record import PUT_OFF, Answer, Record, Recorder

__all__ = ["Life", "Numbers"]

INPUT = 0
TICK_SECONDS = 0.001
BURST = 1_024
"""Commands that are sent in one turn of the loop, at most, when many are due."""
WINDOW = 512
"""Commands in the engine at a time while those are sent that an earlier life may have sent."""
PAUSE_SECONDS = 0.05
"""Before a command is sent again that an earlier life may have sent."""
NUMBERS_SECONDS = 0.25
STILLNESS_SECONDS_MAX = 30.0
"""How long the end waits for views that do not move."""
OTHERS_TOLD = 5
"""Unexpected answers that are told in full."""


class Life(msgspec.Struct, frozen=True):
    """What one life is told at its beginning; phases come later, a line of its input each.

    The last line is `null`.
    """

    store: str
    projections: bool
    clients: int
    sample: str
    answers: int
    """A descriptor of the memory where the record is."""
    numbers: str
    again: Sequence[int]
    """To be sent again at once, unanswered ones and others."""
    next: int
    """What comes then, as the phases say."""


class Numbers(msgspec.Struct, frozen=True):
    """How the engine stands at one moment; counts are since the life began."""

    at: float
    waiting: int
    """Commands in the engine without an answer: in mailboxes or not durable yet."""
    late: int
    """Commands that are due and not sent yet."""
    commits: int
    events: int
    lag: int
    """Events that the slowest view has not seen."""
    rss: int
    """Bytes of memory that are resident."""
    opening: float
    """Seconds that the engine took to open."""


class Clients:
    """They send to one engine."""

    def __init__(self, life: Life, engine: Engine, opening: float) -> None:
        loop = asyncio.get_running_loop()
        self._life = life
        self._engine = engine
        self._opening = opening
        self._loop = loop
        self._began = time.monotonic()
        self._load = Load.read(Path(life.sample), life.clients)
        self._recorder = Recorder(life.answers)
        self._numbers = Path(life.numbers).open("ab", buffering=0)  # noqa: SIM115 - till the end
        self._phases: asyncio.Queue[Phase | None] = asyncio.Queue()
        self._heard = b""
        self._late = 0
        self._turns = asyncio.Semaphore(WINDOW)
        self._others = 0
        loop.add_reader(INPUT, self._hear)

    # -- what is to be sent -------------------------------------------------------------------

    def _hear(self) -> None:
        some = os.read(INPUT, 65_536)
        if not some:
            os._exit(1)  # whoever started this process has ended without a word
        *lines, self._heard = (self._heard + some).split(b"\n")
        for line in lines:
            self._phases.put_nowait(msgspec.json.decode(line, type=Phase | None))

    async def run(self) -> None:
        """Send all that is to be sent, and have it answered."""
        telling = self._loop.create_task(self._tell())
        async with asyncio.TaskGroup() as group:
            await self._follow(group)
        await self._see_the_views()
        telling.cancel()
        self._tell_once()

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        again = deque(self._life.again)
        number = self._life.next
        while (phase := await self._phases.get()) is not None:
            while again and again[0] < phase.end:
                await self._send_in_turn(again.popleft(), phase, group)
            number = max(number, phase.first)
            while number < phase.end and phase.intended(number) < self._began:
                await self._send_in_turn(number, phase, group)
                number += 1
            while number < phase.end:
                due = phase.due(time.monotonic())
                self._late = max(0, due - number)
                last = min(due, number + BURST)
                while number < last:
                    group.create_task(self._send(number, phase))
                    number += 1
                await asyncio.sleep(0 if number < due else TICK_SECONDS)

    async def _send_in_turn(self, number: int, phase: Phase, group: asyncio.TaskGroup) -> None:
        """Send what an earlier life may have sent, a bounded number at a time."""
        self._late = phase.due(time.monotonic()) - number
        await self._turns.acquire()
        task = group.create_task(self._send(number, phase))
        task.add_done_callback(lambda _: self._turns.release())

    async def _send(self, number: int, phase: Phase) -> None:
        command, key = self._load.command(number), key_of(number)
        intended = phase.intended(number)
        while True:
            position = version = 0
            sent = time.monotonic()
            try:
                receipt = await self._engine.execute(command, key=key)
            except Rejected:
                answer = Answer.REJECTED
            except Overloaded:
                answer = Answer.OVERLOADED
            except EngineError as error:
                answer = Answer.OTHER
                self._tell_other(number, error)
            else:
                answer, position, version = Answer.RECEIPT, receipt.position, receipt.version
            now = time.monotonic()
            if answer is not Answer.OVERLOADED or intended >= self._began:
                break
            self._recorder.add(Record(number, PUT_OFF, now, now - intended, now - sent))
            await asyncio.sleep(PAUSE_SECONDS)
        self._recorder.add(
            Record(number, answer, now, now - intended, now - sent, position, version)
        )

    def _tell_other(self, number: int, error: EngineError) -> None:
        self._others += 1
        if self._others <= OTHERS_TOLD:
            print(f"command {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    # -- what is told of it -------------------------------------------------------------------

    async def _tell(self) -> None:
        while True:
            self._tell_once()
            await asyncio.sleep(NUMBERS_SECONDS)

    def _tell_once(self) -> None:
        said = self._engine.statistics()
        lags = [projector.lag_events or 0 for projector in said.projectors.values()]
        numbers = Numbers(
            at=time.monotonic(),
            waiting=said.commands.open,
            late=self._late,
            commits=said.journal.commits,
            events=said.journal.events,
            lag=max(lags, default=0),
            rss=_rss(),
            opening=self._opening,
        )
        self._numbers.write(msgspec.json.encode(numbers) + b"\n")

    async def _see_the_views(self) -> None:
        """Wait until the views have seen all, as long as they come nearer."""
        before: list[int] = []
        still_since = time.monotonic()
        while time.monotonic() - still_since < STILLNESS_SECONDS_MAX:
            said = self._engine.statistics()
            positions = [projector.position for projector in said.projectors.values()]
            if all(position >= said.position for position in positions):
                return
            if positions != before:
                before, still_since = positions, time.monotonic()
            await asyncio.sleep(NUMBERS_SECONDS)


def _rss() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no /proc here: the most there has been is the next best
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()


def _engine(life: Life) -> Engine:
    if life.projections:
        return open_shop(life.store)
    return Engine(
        [Order, Return],
        upcasters=UPCASTERS,
        resources={Rates: Rates()},
        store=life.store,
        limits=LIMITS,
    )


async def live(life: Life) -> None:
    """Be that life, to its end."""
    began = time.monotonic()
    async with _engine(life) as engine:
        await Clients(life, engine, time.monotonic() - began).run()


if __name__ == "__main__":
    run(live, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Life))
