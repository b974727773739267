"""Processes that share one log, of which some are killed, stopped and started again, by a seed.

Each process sends commands without end, some with keys, and prints each answer before it sends the
next. The parent kills one of them at a time, the owner as often as not, or sends it SIGTERM, or
lets it stand still for a while. At the end the log is compared with what was printed: what was
acknowledged is there, once and at its place, nothing is there that nobody sent, and no command with
a key is there twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine import (
    Aggregate,
    Archive,
    Command,
    Engine,
    EngineError,
    Event,
    Id,
    OutcomeUnknown,
    Receipt,
    applies,
    handles,
    run,
)
from tests.support.postgres import Server, postgres_server, wheel_programs

__all__ = ["main", "trial"]

ROOT = Path(__file__).parents[2]
PROCESSES = 3
CLIENTS = 8
NOTEBOOKS = 5
LEASE_SECONDS = 2


class Noted(Event, name="noted"):
    what: str


class Note(Command):
    notebook: Id
    what: str


class Notebook(Aggregate, kind="notebook"):
    """Remembers keys for longer than commands of one notebook are on their way."""

    notes: int = 0

    @handles
    def note(self, command: Note) -> Noted:
        return Noted(command.what)

    @applies
    def noted(self, event: Noted) -> None:
        self.notes += 1


class Said(msgspec.Struct):
    """What one command of a process was answered."""

    key: str
    keyed: bool
    what: str
    """"sent", "receipt", "unknown" or the class of another error."""
    version: int = 0
    position: int = 0
    stream: str = ""


# -- one process ----------------------------------------------------------------------------------


def say(said: Said) -> None:
    # One call, so that what a killed process has said is whole lines.
    os.write(1, msgspec.json.encode(said) + b"\n")


async def work(store: str, name: str) -> None:
    """Send commands until the standard input ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Engine([Notebook], store=store, join=True) as engine:
        os.write(1, msgspec.json.encode(Said(name, False, "ready")) + b"\n")

        async def client(number: int) -> None:
            sent = 0
            while not stop.is_set() and engine.failed is None:
                sent += 1
                key, keyed = f"{name}-{number}-{sent}", sent % 3 != 0
                command = Note(f"n{sent % NOTEBOOKS}", key)
                say(Said(key, keyed, "sent"))
                try:
                    receipt = await engine.execute(command, key=key if keyed else None)
                except EngineError as error:
                    what = "unknown" if isinstance(error, OutcomeUnknown) else type(error).__name__
                    say(Said(key, keyed, what))
                else:
                    assert isinstance(receipt, Receipt)
                    say(
                        Said(
                            key, keyed, "receipt", receipt.version, receipt.position, receipt.stream
                        )
                    )

        async def tell_of_owners() -> None:
            before = None
            while not stop.is_set():
                now = engine._joined._membership.statistics().owner  # type: ignore[union-attr]
                if now != before and now is not None:
                    before = now
                    os.write(1, msgspec.json.encode(Said(str(now), False, "owner")) + b"\n")
                await asyncio.sleep(0.01)

        await asyncio.gather(tell_of_owners(), *(client(n) for n in range(CLIENTS)))


# -- the parent -----------------------------------------------------------------------------------


class Processes:
    """The processes of one trial, and what they have said."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._number = 0
        self.running: list[subprocess.Popen[bytes]] = []
        self.said: list[Said] = []
        self.owners: list[int] = []
        self._receipts = 0
        self._ready: set[str] = set()
        self._listening: list[threading.Thread] = []
        self._news = threading.Condition()

    def start(self) -> None:
        """Start one more, and wait until it takes part."""
        self._number += 1
        name = f"p{self._number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.members", self._store, name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        self.running.append(process)
        listening = threading.Thread(target=self._listen, args=(process,))
        listening.start()
        self._listening.append(listening)
        self.wait_for(lambda: name in self._ready)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break
            said = msgspec.json.decode(line, type=Said)
            with self._news:
                self.said.append(said)
                self._receipts += said.what == "receipt"
                if said.what == "ready":
                    self._ready.add(said.key)
                if said.what == "owner":
                    self.owners.append(int(said.key))
                self._news.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until something that they say makes it true."""
        with self._news:
            if not self._news.wait_for(condition, seconds):
                raise AssertionError(f"{len(self.said)} answers, and then none for {seconds} s")

    def wait_for_receipts(self, more: int) -> None:
        """Wait until so many more commands were acknowledged."""
        wanted = self._receipts + more
        self.wait_for(lambda: self._receipts >= wanted)

    def owner(self) -> subprocess.Popen[bytes]:
        known = {process.pid: process for process in self.running}
        return next((known[p] for p in reversed(self.owners) if p in known), self.running[0])

    def end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Send it a signal, and wait for its end."""
        self.running.remove(process)
        process.send_signal(number)
        process.wait(60)

    def close(self) -> None:
        for process in [*self.running]:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            self.end(process, signal.SIGTERM)
        for listening in self._listening:
            listening.join()


def trial(
    seed: int, store: str, rounds: int, server: Server | None = None
) -> tuple[list[str], Count[str]]:
    """Give what is wrong after so many rounds, and how often what was answered.

    Where the log is in a server, who stands still does so for three leases, and the server is
    restarted as well.
    """
    chance = random.Random(seed)
    processes = Processes(store)
    ways = ("kill", "kill", "end", "stand still") + (("restart",) if server is not None else ())
    try:
        for _ in range(PROCESSES):
            processes.start()
        for _ in range(rounds):
            processes.wait_for_receipts(chance.randrange(1, 60))
            owner, any_of_them = processes.owner(), chance.choice(processes.running)
            chosen = owner if chance.random() < 0.7 else any_of_them
            what = chance.choice(ways)
            if what == "restart":
                assert server is not None
                server.stop()
                server.start()
                continue
            if what == "stand still":
                chosen.send_signal(signal.SIGSTOP)
                time.sleep(chance.random() / 5 if server is None else 3 * LEASE_SECONDS)
                chosen.send_signal(signal.SIGCONT)
                continue
            processes.end(chosen, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            # Who is left goes on without it.
            processes.wait_for_receipts(5)
            processes.start()
        processes.wait_for_receipts(20)
    finally:
        processes.close()
    return asyncio.run(judge(store, processes.said)), Count(said.what for said in processes.said)


async def judge(store: str, said: list[Said]) -> list[str]:
    """Compare what was answered with the log."""
    places: dict[str, list[tuple[str, int, int]]] = {}
    async with Archive([Notebook], store=store) as archive:
        for number in range(NOTEBOOKS):
            async for logged in archive.history(Notebook, f"n{number}"):
                assert isinstance(logged.event, Noted)
                key = logged.event.what
                meta = logged.meta
                places.setdefault(key, []).append((meta.stream, meta.version, meta.position))
    return [*_problems(said, places)]


def _problems(said: list[Said], places: dict[str, list[tuple[str, int, int]]]) -> Iterator[str]:
    commands = {one.key: one for one in said if one.what == "sent"}
    for key in places.keys() - commands.keys():
        yield f"{key} is in the log, and nobody sent it"
    for key, found in places.items():
        if len(found) > 1:
            yield f"{key} is in the log {len(found)} times: {found}"
    for one in said:
        found = places.get(one.key, [])
        if one.what == "receipt" and (one.stream, one.version, one.position) not in found:
            yield f"{one.key} was acknowledged at {one.stream} {one.version}, and is at {found}"
        if one.what == "unknown" and one.keyed:
            yield f"{one.key} has a key, and its caller was told that nobody knows"
        if one.what in ("Closed", "Overloaded", "Voided") and found:
            yield f"{one.key} was called not run ({one.what}), and is at {found}"
        if one.what not in ("sent", "receipt", "unknown", "Closed", "Voided", "ready", "owner"):
            yield f"{one.key} was answered with {one.what}"


def main(trials: int, rounds: int, first: int, *, postgres: bool = False) -> int:
    """Run trials; give the exit status."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server(wheel_programs())) if postgres else None
        return _run(trials, rounds, first, server)


def _run(trials: int, rounds: int, first: int, server: Server | None) -> int:
    bad, answers, begun = 0, Count[str](), time.monotonic()
    for seed in range(first, first + trials):
        with tempfile.TemporaryDirectory(prefix="members-") as folder:
            store = f"sqlite:{folder}/log.db"
            if server is not None:
                store = server.url(server.new_schema(), f"lease={LEASE_SECONDS}")
            problems, count = trial(seed, store, rounds, server)
        answers += count
        bad += bool(problems)
        for problem in problems[:5]:
            print(f"seed {seed}: {problem}", flush=True)
    seconds = time.monotonic() - begun
    told = ", ".join(f"{count:,} {what}" for what, count in sorted(answers.items()))
    print(f"{trials} trials of {rounds} rounds, {bad} bad, {seconds:.1f} s: {told}")
    return int(bad > 0)


if __name__ == "__main__":
    run(work, *sys.argv[1:])
