"""One life of a simulated process: a user's engine and workload, until it ends one way or another.

Rules: a life ends with the power, with the process, or in order. The last one is quiet: the client
gets its answers, projections catch up, timers are fired, and then the invariant is asked. An error
is a finding unless the disk had failed before, and the engine says that it stopped for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ...engine import Engine
from ...errors import EngineError, UsageError
from ...runtime.tracebacks import traceback_text
from .disk import Disk
from .loop import SimulatedLoop
from .simulation import Simulation

__all__ = ["EngineOf", "Invariant", "Process", "Program", "Workload"]

EngineOf: TypeAlias = Callable[[Simulation], Engine]
"""Makes the engine of a life, not started: with `store=` and `ports=` of the simulation."""
Workload: TypeAlias = Callable[[Engine, Simulation], Awaitable[object]]
"""What is done in each life but the last one. It may be cut off at any await."""
Invariant: TypeAlias = Callable[[Engine, Simulation], Awaitable[bool | None]]
"""Asked at the end of each seed. What it raises, or False, is a finding."""

_STEP: Final = 0.05
_CALM_SECONDS: Final = 300.0
"""Of virtual time, in which a projection catches up if nothing fails."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated."""

    engine_of: EngineOf
    workload: Workload
    invariant: Invariant
    settle_seconds: float


class Process:
    """One life; `main` is what its process runs."""

    def __init__(
        self,
        program: Program,
        simulation: Simulation,
        disk: Disk,
        loop: SimulatedLoop,
        *,
        crashes: bool,
        stays: float | None,
        lingers: float,
    ) -> None:
        self._program = program
        self._simulation = simulation
        self._disk = disk
        self._loop = loop
        self._crashes = crashes
        self._stays = stays
        self._lingers = lingers
        self.engine: Engine | None = None
        self.problems: list[str] = []

    async def main(self) -> None:
        """Live, and end as it was said."""
        engine: Any = self._program.engine_of(self._simulation)
        if not isinstance(engine, Engine):
            raise UsageError(f"engine_of gave {type(engine).__name__}, and no Engine")
        self.engine = engine
        async with engine:
            doubtful = self._simulation.opened(engine)
            tasks: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(self._simulation.pursue(each)) for each in doubtful
            ]
            if self._simulation.is_quiet:
                await self._end_in_peace(engine, tasks)
            else:
                await self._work(engine, tasks)

    async def _work(self, engine: Engine, tasks: list[asyncio.Future[Any]]) -> None:
        tasks.append(asyncio.ensure_future(self._program.workload(engine, self._simulation)))
        await asyncio.wait(tasks, timeout=self._stays)
        if self._stays is None:
            await self._simulation.let_pass(self._lingers)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._judge_error(engine, error)
        if self._crashes:
            self._disk.power_off()
            await asyncio.Event().wait()

    def _judge_error(self, engine: Engine, error: BaseException) -> None:
        excused = isinstance(error, EngineError) and (engine.failed or self._disk.failed)
        if not excused:
            self.problems.append(f"the workload raised\n{traceback_text(error, messages=True)}")

    async def _end_in_peace(self, engine: Engine, tasks: Sequence[asyncio.Future[Any]]) -> None:
        await asyncio.gather(*tasks)
        await self._settle(engine)
        self.problems += _behind(engine)
        try:
            held = await self._program.invariant(engine, self._simulation)
        except Exception as error:
            self.problems.append(f"the invariant is broken\n{traceback_text(error, messages=True)}")
        else:
            if held is False:
                self.problems.append("the invariant is broken: it gave False")

    async def _settle(self, engine: Engine) -> None:
        """Let all follow that is to follow: wall time moves on to each timer that waits."""
        left = self._program.settle_seconds
        await self._calm(engine)
        # What stands is read: where one is set aside, the numbers are counted only now and then.
        while left > 0 and (due := await _seconds_to_next(engine, self._simulation)) is not None:
            seconds = min(left, due)
            left -= max(seconds, _STEP)
            await self._simulation.let_pass(seconds)
            await self._calm(engine)

    async def _calm(self, engine: Engine) -> None:
        """Wait until all commands are answered, and all projections have caught up."""
        end, still = self._loop.time() + _CALM_SECONDS, 0
        while still < 3 and self._loop.time() < end:
            await asyncio.sleep(_STEP)
            still = still + 1 if _is_still(engine) else 0


async def _seconds_to_next(engine: Engine, simulation: Simulation) -> float | None:
    """Give how long it is to the timer that is due first; None if none is found."""
    after: tuple[str, str] | None = ("", "")
    due: list[int] = []
    while after is not None:
        page = await engine.operations.timers(after=after, limit=500)
        due += [timer.next for timer in page.timers if not timer.parked]
        after = page.after
    return max(0.0, (min(due) - simulation.ports.clock.now()) / 1e6) if due else None


def _is_still(engine: Engine) -> bool:
    numbers = engine.statistics()
    return (
        numbers.commands.open == 0
        and numbers.timers.due == 0
        and all(
            one.position == numbers.position or one.state in ("stopped", "paused")
            for one in numbers.projectors.values()
        )
    )


def _behind(engine: Engine) -> list[str]:
    """Give the projections that have not caught up, though nothing fails."""
    numbers = engine.statistics()
    return [
        f"projection {name} is at {one.position} of {numbers.position} and {one.state}: "
        + (one.failure or one.retrying or _UNKNOWN).cause
        for name, one in numbers.projectors.items()
        if one.position != numbers.position and one.state != "paused"
    ]


class _NoCause(msgspec.Struct, frozen=True):
    cause: str = "nothing is known of why"


_UNKNOWN: Final = _NoCause()
