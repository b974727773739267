"""What a simulated program is given: its machine, its seed, and a client that the crashes outlive.

Rules: one object for each seed. Everything in it comes from the seed. What the client was told of
each command is kept over all lives; nobody judges here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from random import Random
from typing import Any, Final

import msgspec

from ...engine import Engine
from ...errors import (
    Conflict,
    DeadlinePassed,
    EngineError,
    OutcomeUnknown,
    Overloaded,
    UsageError,
    Voided,
)
from ...model.messages import Command, Receipt
from ...runtime.ports import Ports
from .disk import Disk
from .loop import SimulatedLoop
from .machine import SimulatedIds, WallClock

__all__ = ["Faults", "Sent", "Simulation"]

_ATTEMPTS: Final = 6
_ATTEMPTS_IN_PEACE: Final = 60
_NOTES: Final = 2_000
_AGAIN: Final = (Overloaded, Conflict, Voided, DeadlinePassed)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Which troubles a simulation may have. Each seed draws some of them."""

    crashes: bool = True
    """The power is lost, or the process killed, at any call of the disk. Without it each life ends
    in order."""
    disk_errors: bool = True
    """Writes and syncs fail, and the disk is full."""
    slow_disk: bool = True
    """Calls of the disk take up to seconds."""
    lost_answers: bool = True
    """Callers leave, and answers get lost on their way."""
    clock_jumps: bool = True
    """The wall clock is wrong by an hour in some lives."""


class Sent(msgspec.Struct):
    """A command, and what its client knows of it."""

    command: Any
    key: str | None
    options: Mapping[str, Any] = {}
    """The other arguments of `execute`."""
    answer: Receipt[Any] | EngineError | None = None
    """The last answer; None if no answer came."""
    in_doubt: bool = False
    """Whether it may have been run, and no answer said so."""

    @property
    def receipt(self) -> Receipt[Any] | None:
        """Its receipt; None if there is none."""
        return self.answer if isinstance(self.answer, Receipt) else None

    @property
    def error(self) -> EngineError | None:
        """Why it was not run, or why that is not known; None otherwise."""
        return self.answer if isinstance(self.answer, EngineError) else None


class Simulation:
    """One seed, as an engine's factory, a workload and an invariant are given it.

    - `seed`; `random`: its own source of chance, for commands and for fakes of other systems.
    - `life`: 1 for the first process, 2 for the one after a crash, and so on.
    - `is_quiet`: whether this is the last life, in which nothing fails.
    - `store`, `ports`: what an engine must be given to live on the simulated machine.
    - `outside`: what is kept over the lives of a seed, and is new in each seed: fakes of systems
      outside of the process belong here.
    - `sent`: all commands that `execute` has sent, of all lives.
    """

    def __init__(self, seed: int, disk: Disk) -> None:
        self.seed = seed
        self.random = Random(f"workload of {seed}")
        self.life = 0
        self.is_quiet = False
        self.outside: dict[str, Any] = {}
        self.sent: list[Sent] = []
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self._disk = disk
        self._ids = SimulatedIds(self.random)
        self._digest = blake2b(digest_size=6)
        self._engine: Engine | None = None
        self._loop: SimulatedLoop | None = None
        self._ports: Ports | None = None
        self._clock: WallClock | None = None
        self._chance = Random(f"client of {seed}")
        self._lost = 0.0

    # -- what an engine is made of ---------------------------------------------------------------

    @property
    def store(self) -> str:
        """The URL of the log on the simulated disk."""
        return f"sqlite:{self._disk.folder / 'log.db'}"

    @property
    def ports(self) -> Ports:
        """Clock, ids, threads and files of this life."""
        if self._ports is None:
            raise UsageError("a simulation has ports while one of its processes lives")
        return self._ports

    # -- what a workload does --------------------------------------------------------------------

    def new_id(self) -> str:
        """Give an id of the seed: 32 hexadecimal digits."""
        return self._ids.new_id()

    async def execute(self, command: Command[Any], *, key: str | None = None, **more: Any) -> Sent:
        """Send a command, as a client elsewhere does; give what that client knows of it in the end.

        An answer may get lost. A command with a key is then sent again, also by later lives, until
        there is an answer. Without a key it is sent again only if it was certainly not run.
        `more` are the other arguments of `Engine.execute`. Raises no EngineError.
        """
        sent = Sent(command, key, more)
        self.sent.append(sent)
        await self.pursue(sent)
        return sent

    async def let_pass(self, seconds: float) -> None:
        """Let wall time pass, as while a machine sleeps: timers of that time are due then.

        `asyncio.sleep` waits as the engine does, and is for seconds; this is for hours and days.
        """
        if self._clock is not None:
            self._clock.advance(seconds)
        await asyncio.sleep(0.05)

    def note(self, text: str) -> None:
        """Keep a line for the story that is shown if this seed fails."""
        seconds = 0.0 if self._loop is None else self._loop.time()
        line = f"life {self.life}, {seconds:.3f} s: {text}"
        self._digest.update(line.encode())
        if len(self.notes) < _NOTES:
            self.notes.append(line)

    # -- what the simulation does with it --------------------------------------------------------

    @property
    def trace(self) -> str:
        """Give a digest of all that has happened."""
        return self._digest.hexdigest()

    def begin(
        self, loop: SimulatedLoop, clock: WallClock, ports: Ports, *, quiet: bool, lost: float
    ) -> None:
        """Begin the next life."""
        self._loop, self._clock, self._ports, self._engine = loop, clock, ports, None
        self._lost = 0.0 if quiet else lost
        self.life += 1
        self.is_quiet = quiet

    def opened(self, engine: Engine) -> list[Sent]:
        """Take the engine of this life, and give the commands to send again."""
        self._engine = engine
        return [sent for sent in self.sent if sent.in_doubt and sent.key is not None]

    def end(self) -> None:
        """End a life: what happened in its loop is a part of the trace."""
        if self._loop is not None:
            self._digest.update(self._loop.digest.encode())
        self._loop = self._clock = self._ports = self._engine = None

    async def pursue(self, sent: Sent) -> None:
        """Send a command until it is answered, or was sent often enough for now."""
        for _ in range(_ATTEMPTS_IN_PEACE if self.is_quiet else _ATTEMPTS):
            answer = await self._send(sent)
            if not _wants_again(sent, answer):
                return
            await asyncio.sleep(self._chance.expovariate(1 / 0.05))

    async def _send(self, sent: Sent) -> Receipt[Any] | EngineError | None:
        """Send once; give what the client is told."""
        assert self._engine is not None
        assert self._loop is not None
        lost = self._chance.random() < self._lost
        doubted, sent.in_doubt, sent.answer = sent.in_doubt, True, None
        call = asyncio.ensure_future(
            self._engine.execute(sent.command, key=sent.key, **dict(sent.options))
        )
        call.add_done_callback(_look_away)
        if lost and self._chance.random() < 0.5:
            self._loop.after_steps(int(self._chance.expovariate(1 / 20)), call.cancel)
        await asyncio.wait([call])
        if lost or call.cancelled():
            return self._told(sent, None)
        error = call.exception()
        if error is not None and not isinstance(error, EngineError):
            raise error
        answer = call.result() if error is None else error
        # What was not run this time says nothing of the time before; another answer does.
        not_run = isinstance(answer, EngineError) and answer.safe_to_resend
        sent.in_doubt = doubted if not_run else isinstance(answer, OutcomeUnknown)
        return self._told(sent, answer)

    def _told(
        self, sent: Sent, answer: Receipt[Any] | EngineError | None
    ) -> Receipt[Any] | EngineError | None:
        sent.answer = answer
        what = "answer lost" if answer is None else type(answer).__name__
        if isinstance(answer, Receipt):
            what = f"receipt at {answer.position}"
        self.counts[what.partition(" at ")[0]] += 1
        key = "" if sent.key is None else f" {sent.key}"
        self.note(f"{type(sent.command).__name__}{key}: {what}")
        return answer


def _wants_again(sent: Sent, answer: Receipt[Any] | EngineError | None) -> bool:
    if answer is None or isinstance(answer, OutcomeUnknown):
        return sent.key is not None
    return isinstance(answer, _AGAIN)


def _look_away(call: asyncio.Future[Any]) -> None:
    """Take its error from a call whose client has left."""
    if not call.cancelled():
        call.exception()
