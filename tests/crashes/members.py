"""One of several processes that share a log, which sends commands until it is told to stop.

`python -m tests.crashes.members STORE NAME LISTEN HOURS JOIN` prints what it sends before it does,
and each answer, as lines of `Said`. LISTEN is where other machines find it: it takes part as if
each process were on a machine of its own. The clock of its machine is so many hours off. Where it
reads the name of a failpoint, it stands still there as soon as it comes by. JOIN says how the log
is shared: by one owner, by several ("spread"), or with projections that all of them run ("shared").
With "persons" it has one owner, and personal data; somebody is erased now and then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import msgspec

from engine import (
    Aggregate,
    Closed,
    Command,
    Engine,
    EngineError,
    Meta,
    OutcomeUnknown,
    Ports,
    Projection,
    ProjectionLag,
    ProjectionUnserved,
    Rejected,
    Row,
    StoreFailed,
    Table,
    projects,
    run,
)
from engine.members import meeting
from engine.runtime.machine import SystemClock

from .members_joint import DECISIONS, KINDS, Look, Move, drawn, told
from .members_notebooks import REMINDER, TAKEN, Count, Entitle, Note, Notebook, Noted, Remind
from .members_persons import PLACES, Diary, Signers, get_signers, keys_of, read, shown_of

__all__ = ["CLIENTS", "NOTEBOOKS", "Said", "engine_of", "looked"]

CLIENTS = 8
NOTEBOOKS = 40
REMINDS, ENTITLES = 0.3, 0.15
"""Shares of the notes."""
TITLES = 10
ERASES_SECONDS = 3.0
"""Between two erasures of a process, at most."""
PAUSE_MAX = 0.02
"""Seconds between two commands of a client: the log is read whole at the end."""
_HOUR = 3_600_000_000
_GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Ports below these are given by who starts this process."""
_SCHEDULED = Path(f"/proc/{os.getpid()}/schedstat")


class Summed(Row, key="notebook"):
    """Of its events: an event that is applied twice, or left out, changes both numbers."""

    notebook: str
    events: int
    positions: int


class Whole(Projection, name="whole", version=1):
    rows: Table[Summed]

    @projects
    def noted(self, event: Noted, meta: Meta) -> None:
        _sum_up(self.rows, meta)


class Sliced(Projection, name="sliced", version=1, slices=3):
    rows: Table[Summed]

    @projects
    def noted(self, event: Noted, meta: Meta) -> None:
        _sum_up(self.rows, meta)


def _sum_up(rows: Table[Summed], meta: Meta) -> None:
    row = rows.get(meta.id) or Summed(meta.id, 0, 0)
    rows.put(Summed(meta.id, row.events + 1, row.positions + meta.position))


class Said(msgspec.Struct, omit_defaults=True):
    """What a process says of itself, or of one command."""

    what: str
    """"ready", "owner", "failed", "stops"; "sent", "receipt", "counted", "unknown", or another
    error; "erases" and "erased" of a person; "state" or "rows" of what was read of one."""
    key: str
    """Of the command, also where it is sent without; else the name of the process."""
    at: float
    """Seconds by a clock that all processes of this machine share."""
    keyed: bool = False
    stream: str = ""
    version: int = 0
    """Of its event; or how many notes there were."""
    position: int = 0
    other: str = ""
    """The other stream, of what is decided together, and its version."""
    of_other: int = 0
    reply: int = 0
    writes: bool = False
    """Whether it is to write something, of what is decided together."""
    whole: bool = False
    """Whether it writes to both streams or to none."""
    since: float = 0.0
    """When it was begun, of a read."""
    shown: int = 0
    """The first version of a diary whose writer was shown in a read, and the last that was masked;
    0 for none."""
    masked: int = 0
    waited: float = 0.0
    """Seconds for which its main thread could have run, and the system ran something else."""


class Off(SystemClock):
    """The clock of another machine."""

    def __init__(self, hours: int) -> None:
        self._off = hours * _HOUR

    def now(self) -> int:
        return super().now() + self._off


class Stops:
    """Lets this process stand still at a failpoint, once for each name that comes in."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._at = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while line := os.read(0, 64):
            self._at = line.decode().strip()

    def reach(self, failpoint: str) -> None:
        """Stand still, if it is here."""
        if failpoint == self._at:
            self._at = ""
            say(Said("stops", self._name, time.monotonic()))
            os.kill(os.getpid(), signal.SIGSTOP)


def say(said: Said) -> None:
    said.waited = int(_SCHEDULED.read_text().split()[1]) / 1e9
    # One call, so that what a killed process has said is whole lines.
    os.write(1, msgspec.json.encode(said) + b"\n")


async def work(store: str, name: str, listen: str, hours: str, join: str) -> None:
    """Send commands until a signal comes."""
    logging.disable()  # it would tell of nearly every fault
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if listen:
        _hide_folders(is_all=join != "spread")
    ports = Ports(clock=Off(int(hours)), failpoint=Stops(name).reach)
    async with engine_of(store, join, listen=listen or None, ports=ports) as engine:
        say(Said("ready", name, time.monotonic()))
        clients = (_client(engine, f"{name}-{n}", stop, join) for n in range(CLIENTS))
        others = [_tell_of_owners(engine, name, stop)]
        if join == "persons":
            others.append(_look_at_some(engine, name, stop))
            if int(name[1:]) % 2:  # who erases somebody forgets what he has read of others
                others.append(_erase_some(engine, name, stop))
        await asyncio.gather(*others, *clients)


def engine_of(store: str, join: str, **options: Any) -> Engine:
    """Give an engine that shares a log in this way."""
    if join == "shared":
        options |= {"projections": [Whole, Sliced], "share_projections": True}
    if join == "persons":
        options |= {"projections": [Signers], "answers": [get_signers], "keys": keys_of(store)}
        return Engine([Diary], store=store, join=True, **options)
    if join != "spread":
        return Engine([Notebook], store=store, join=True, **options)
    kinds: list[type[Aggregate]] = [Notebook, *KINDS]
    return Engine(kinds, decisions=DECISIONS, store=store, join="spread", **options)


def _hide_folders(*, is_all: bool) -> None:
    """Let processes be met over the network, as on machines of their own.

    Of several owners it is those who decide: calls of operators come in at ports that no wire has.
    """
    module: Any = cast("Any", meeting)
    real, first = module._folders, int(_GIVEN.read_text().split()[0])

    def folders(address: str) -> list[str]:
        ports = [place.rpartition(":")[2] for place in address.split() if "://" in place]
        hidden = is_all or any(int(port) < first for port in ports)
        return [] if hidden else real(address)

    module._folders = folders


async def _client(engine: Engine, name: str, stop: asyncio.Event, join: str) -> None:
    chance = random.Random(name)
    number = 0
    notebook, reminds = "", False
    while not stop.is_set() and engine.failed is None:
        number += 1
        key = f"{name}-{number}"
        if not reminds:  # else something comes as the timer is due
            notebook = f"n{chance.randrange(NOTEBOOKS)}"
        reminds = False
        stream = f"notebook:{notebook}"
        if number % 4 == 0:
            await _send(engine, Count(notebook), Said("sent", key, 0.0, False, stream))
        elif join == "spread" and number % 2:
            command, (stream, other) = drawn(chance, key)
            said = Said("sent", key, 0.0, chance.random() < 0.7, stream, other=other)
            said.whole = isinstance(command, Move)
            said.writes = not isinstance(command, Look) and not getattr(command, "asks", False)
            await _send(engine, command, said)
        else:
            keyed, kind = chance.random() < 0.7, chance.random()
            note: Command[Any] = Note(notebook, key)
            if reminds := kind < REMINDS:
                note = Remind(notebook, key + REMINDER)
            elif kind < REMINDS + ENTITLES:
                note = Entitle(notebook, key, f"t{chance.randrange(TITLES)}")
            await _send(engine, note, Said("sent", key, 0.0, keyed, stream))
        await asyncio.sleep(chance.random() * PAUSE_MAX)


async def _send(engine: Engine, command: Command[Any], said: Said) -> None:
    said.at = time.monotonic()
    say(said)
    said.what = "receipt"
    try:
        receipt = await engine.execute(command, key=said.key if said.keyed else None)
    except Rejected as rejected:
        said.what = rejected.code
        if rejected.code != TAKEN:
            said.version = rejected.details["notes"]
    except EngineError as error:
        said.what = "unknown" if isinstance(error, OutcomeUnknown) else type(error).__name__
    else:
        said.stream = receipt.stream
        said.version, said.position = receipt.version, receipt.position
        said.of_other, said.reply = told(receipt, said.other)
    said.at = time.monotonic()
    say(said)


async def looked(engine: Engine, name: str, diary: str, place: str) -> Said | None:
    """Read who wrote in a diary; give what is to be said, unless nothing could be read."""
    said = Said(place, name, 0.0, stream=f"notebook:{diary}", since=time.monotonic())
    try:
        said.shown, said.masked, is_right = shown_of(await read(engine, diary, place))
    except (StoreFailed, Closed, ProjectionLag, ProjectionUnserved, TimeoutError):
        return None  # a server is away, or far behind, and who asked is told so
    except EngineError as error:
        said.what = type(error).__name__
    else:
        said.what = place if is_right else "misread"
    said.at = time.monotonic()
    return said


async def _look_at_some(engine: Engine, name: str, stop: asyncio.Event) -> None:
    chance = random.Random(f"{name} looks")
    while not stop.is_set() and engine.failed is None:
        for place in PLACES:
            said = await looked(engine, f"{name}:", f"n{chance.randrange(NOTEBOOKS)}", place)
            if said is not None:
                say(said)
        await asyncio.sleep(chance.random() / 10)


async def _erase_some(engine: Engine, name: str, stop: asyncio.Event) -> None:
    """Erase who keeps a diary, one after the other; say when it was done, if it was."""
    chance = random.Random(f"{name} erases")
    while not stop.is_set() and engine.failed is None:
        await _either(stop.wait(), asyncio.sleep(chance.random() * ERASES_SECONDS))
        stream = f"notebook:n{chance.randrange(NOTEBOOKS)}"
        said = Said("erases", f"{name}:{stream}", time.monotonic(), stream=stream)
        say(said)
        erasing = asyncio.ensure_future(engine.personal.erase(stream))
        await _either(stop.wait(), asyncio.wait([erasing]))
        if not erasing.done():
            erasing.cancel()  # what was begun goes on
            await asyncio.wait([erasing])
        said.since, said.at = said.at, time.monotonic()
        said.what = "unerased" if erasing.cancelled() or erasing.exception() else "erased"
        say(said)


async def _either(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _tell_of_owners(engine: Engine, name: str, stop: asyncio.Event) -> None:
    """Say when this process has the log, and when its engine has failed."""
    joined: Any = cast("Any", engine)._joined  # its numbers alone: to take all costs time
    before = ""
    while not stop.is_set():
        role = joined._membership.statistics().role
        now = role if engine.failed is None else "failed"
        if now != before:
            say(Said(now, name, time.monotonic()))
            before = now
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    run(work, *sys.argv[1:])
