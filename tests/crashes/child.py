"""One life: a real process with an engine on real files, which tells every answer at once.

Rules: an answer goes into the pipe before anything else is done with it, by one write of one line.
The last life is quiet: it looks at what is there, sends every command again under its key, and
tells the log and the views as the engine shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from engine import Engine, Limits, NotRun, OutcomeUnknown, Overloaded, Receipt, Rejected, run
from engine.errors import EngineError, EngineFailed, StoreFailed
from engine.runtime.ports import Ports
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.files import SystemFiles
from engine.write import snapshot_writer
from tests.support.faults import VfsFiles

from .cells import Add, Cell, Cells, Look, Operations, Show, Take, show
from .dying import DyingVfs, LyingVfs, Reaper
from .story import Life, Logged, Operation, Seen, Told

HANGS_AFTER_SECONDS = 60

_encode = msgspec.json.Encoder().encode


def live(life: Life, pipe: int) -> None:
    """Be that process, to its end."""
    faulthandler.dump_traceback_later(HANGS_AFTER_SECONDS, exit=True)
    logging.getLogger("foldline").setLevel(logging.CRITICAL + 1)
    random = Random(life.seed)
    # Small files, folded often; and snapshots that are there before the end.
    vars(sqlite_wal).update(WAL_BYTES_MAX=life.wal_bytes)
    vars(snapshot_writer).update(_GATHER_SECONDS=random.choice((0.0, 0.01)))
    main = _Process(life, pipe, random).main
    if random.random() < 0.5:
        run(main)
    else:
        asyncio.run(main())


def _limits(random: Random) -> Limits:
    return Limits(
        resident_aggregates=random.choice((2, 3, 100)),
        batch_events=random.choice((5, 16, 100)),
        turn_commands=random.choice((4, 256)),
        actor_commands=random.choice((1, 4)),
        page_events=random.choice((10, 1_000)),
        bus_events=random.choice((1, 8, 1_000)),
        projector_events=random.choice((1, 7, 1_000)),
        projector_rows=random.choice((1, 20_000)),
        loads_at_once=random.choice((1, 256)),
        idle_seconds=1,
    )


class _Process:
    def __init__(self, life: Life, pipe: int, random: Random) -> None:
        self._life = life
        self._pipe = pipe
        self._random = random
        self._vfs: DyingVfs | LyingVfs | None = None

    def _ports(self) -> Ports:
        death = self._life.death
        if death is not None and not death.place.moment:
            return Ports(failpoint=Reaper(death).failpoint)
        if death is not None:
            self._vfs = DyingVfs(Reaper(death))
        elif self._life.lying:
            self._vfs = LyingVfs()
        return Ports(files=VfsFiles(self._vfs.name) if self._vfs is not None else SystemFiles())

    async def main(self) -> None:
        """Run an engine and its clients."""
        engine = Engine(
            [Cell],
            projections=[Cells, Operations],
            answers=[show],
            store=f"sqlite:{self._life.store}",
            limits=_limits(self._random),
            ports=self._ports(),
        )
        with contextlib.suppress(*(EngineFailed, StoreFailed) if self._life.cut else ()):
            await self._run(engine)

    async def _run(self, engine: Engine) -> None:
        Operations.ailing = not self._life.quiet
        async with engine:
            if self._life.quiet:
                await self._look_at_all(engine)
            looking_after = asyncio.ensure_future(self._look_after(engine))
            await self._send_all(engine)
            looking_after.cancel()
            await asyncio.wait([looking_after])
            if self._life.quiet:
                await self._look_at_all(engine)
                self._say(b"seen", await _see(engine))

    async def _look_after(self, engine: Engine) -> None:
        """Rebuild the projections again and again, and retry what is parked, mended or not."""
        control = engine.projections
        with contextlib.suppress(EngineError):
            while True:
                for name in ("cells", "operations"):
                    await control.rebuild(name)
                    await asyncio.sleep(self._random.random() * 0.01)
                    await control.drop(name)
                Operations.ailing = not self._life.quiet and not Operations.ailing
                await control.retry("operations")
                await engine.projections.resume("operations")

    async def _look_at_all(self, engine: Engine) -> None:
        cells = sorted({operation.cell for operation in self._life.operations})
        await asyncio.gather(*(self._execute(engine, Look(cell), cell, 0, None) for cell in cells))

    async def _send_all(self, engine: Engine) -> None:
        by_client: dict[int, list[Operation]] = {}
        for operation in self._life.operations:
            by_client.setdefault(operation.client, []).append(operation)
        await asyncio.gather(*(self._client(engine, todo) for todo in by_client.values()))

    async def _client(self, engine: Engine, todo: Sequence[Operation]) -> None:
        """Send one after the other, or a few at once."""
        random, place = self._random, 0
        while place < len(todo):
            some = todo[place : place + random.choice((1, 1, 2, 5))]
            place += len(some)
            await asyncio.gather(*(self._send(engine, operation) for operation in some))
            if random.random() < 0.2:
                await asyncio.sleep(random.random() * 0.003)

    async def _send(self, engine: Engine, operation: Operation) -> None:
        cell, number, amount = operation.cell, operation.number, operation.amount
        command: Add | Take
        if amount < 0:
            command = Take(cell, number, -amount)
        else:
            command = Add(cell, number, amount, operation.parts, "x" * operation.filler)
        await self._execute(engine, command, cell, number, operation.key)

    async def _execute(
        self, engine: Engine, command: Any, cell: str, number: int, key: str | None
    ) -> None:
        try:
            receipt = await self._until_there_is_room(engine, command, key)
        except Rejected as rejected:
            state = rejected.details
            self._tell("rejected", number, cell, **state)
        except NotRun as error:
            self._tell("not run", number, cell, error=type(error).__name__)
        except OutcomeUnknown as error:
            self._tell("unknown", number, cell, error=type(error).__name__)
        except EngineError as error:
            self._tell("error", number, cell, error=f"{type(error).__name__}: {error}")
        else:
            self._tell("receipt", number, cell, version=receipt.version, position=receipt.position)

    async def _until_there_is_room(self, engine: Engine, command: Any, key: str | None) -> Receipt:
        """Wait as a client does where few aggregates may be in memory."""
        while True:
            try:
                return await engine.execute(command, key=key)
            except Overloaded:
                await asyncio.sleep(0.001)

    def _tell(self, what: str, operation: int, cell: str, **more: Any) -> None:
        told = Told(self._life.number, what, operation, cell, at=time.monotonic(), **more)
        self._say(b"told", told)

    def _say(self, what: bytes, value: Any) -> None:
        line = what + b"\t" + _encode(value) + b"\n"
        while line:
            line = line[os.write(self._pipe, line) :]


async def _see(engine: Engine) -> Seen:
    """Tell the log and the views, with nothing parked any more."""
    for name in ("cells", "operations"):
        await engine.projections.resume(name)
        while (await engine.projections.status(name)).building is not None:
            await asyncio.sleep(0.005)
    position = engine.statistics().position
    await engine.query(Show(), at=position, timeout=30)
    await engine.projections.retry("operations")
    log: list[Logged] = []
    async for logged in engine.feed():
        event: Any = logged.event
        meta = logged.meta
        log.append(
            Logged(
                meta.position,
                meta.stream,
                meta.version,
                event.operation,
                event.amount,
                event.part,
                event.parts,
                meta.key,
            )
        )
    view = await engine.query(Show(), at=len(log), timeout=30)
    return Seen(log, view)
