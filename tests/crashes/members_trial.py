"""Runs processes that share one log, and does to them by a seed what happens to machines.

On a file some are killed, stopped, or stand still. In a server each is as on a machine of its own:
the wires between them and to the database are cut in one way or both, late, or end in the middle of
a frame; the server is restarted; and the clock of one machine is an hour off. After each fault all
go on, or the trial ends there. At the end the log is read by SQL, and judged by what was told.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Generator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from tests.support.brokers import PASSWORD, USER, NatsServer
from tests.support.postgres import Server, postgres_server, wheel_programs
from tests.support.wires import WAYS, Network, Wire

from .members import Said
from .members_judge import History, Row, judge

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
MACHINES: Final = 3
LEASE_SECONDS: Final = 2
STILL_LEASES: Final = 3
_SECONDS: Final = 60.0
"""Within which all must have gone on after a fault."""
_DYING: Final = ("kill", "kill", "end")
_ON_FILES: Final = (*_DYING, "stand still")
_ON_A_NETWORK: Final = (
    *_DYING,
    "stand still",
    "cut from the database",
    "cut from the others",
    "end wires",
    "end in a frame",
    "late",
    "restart",
)


class Machine:
    """One place at which a process runs: its own wires, where there is a network."""

    def __init__(self, number: int, store: str, hours: int) -> None:
        self.number = number
        self.store = store
        self.listen = ""
        self.hours = hours
        self.database: Wire | None = None
        self.others: Wire | None = None
        self.name = ""
        self.process: subprocess.Popen[bytes] | None = None


class Pause(msgspec.Struct):
    """How long nobody else was answered behind a fault."""

    fault: str
    seconds: float
    is_takeover: bool


class Trial:
    """The processes of one trial, and what they have said."""

    def __init__(self, machines: list[Machine], network: Network | None) -> None:
        self.history = History()
        self.pauses: list[Pause] = []
        self.faults: Count[str] = Count()
        self.machines = machines
        self._network = network
        self._number = 0
        self._answers: Count[str] = Count()
        """By process."""
        self._roles: dict[str, str] = {}
        self._listening: list[threading.Thread] = []
        self._news = threading.Condition()

    def start(self, machine: Machine) -> None:
        """Start a process, and wait until it takes part."""
        self._number += 1
        name = machine.name = f"p{self._number}"
        words = [machine.store, name, machine.listen, str(machine.hours)]
        process = machine.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.members", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        listening = threading.Thread(target=self._listen, args=(name, process))
        listening.start()
        self._listening.append(listening)
        self._wait_for(lambda: name in self._roles, f"{name} to take part")

    def _listen(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        decode = msgspec.json.Decoder(Said).decode
        for line in process.stdout:
            if not line.endswith(b"\n"):
                break
            said = decode(line)
            with self._news:
                self.history.said.append(said)
                if said.what == "receipt":
                    self._answers[name] += 1
                elif said.key == name:
                    self._roles[name] = said.what
                self._news.notify_all()

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            if not self._news.wait_for(condition, _SECONDS):
                raise AssertionError(f"waited for {what} for {_SECONDS:g} s: {self._roles}")

    def let_all_go_on(self, more: int) -> None:
        """Wait until each process has so many more receipts."""
        wanted = {m.name: self._answers[m.name] + more for m in self.machines if m.process}
        self._wait_for(
            lambda: all(self._answers[name] >= count for name, count in wanted.items()),
            f"{more} more receipts of each",
        )

    def owner(self) -> Machine | None:
        """Give whose process says that it has the log."""
        found = [m for m in self.machines if self._roles.get(m.name) == "owner"]
        return found[-1] if found else None

    # -- what happens -------------------------------------------------------------------------

    def fault(self, chance: random.Random, server: Server | None, nats: NatsServer | None) -> None:
        """Let one thing happen, and wait until all have gone on."""
        ways = _ON_FILES if server is None else _ON_A_NETWORK
        what = chance.choice(ways if nats is None else (*ways, "kill NATS"))
        owner = self.owner()
        is_owner = owner is not None and chance.random() < 0.7
        machine = owner if is_owner and owner is not None else chance.choice(self.machines)
        before = len(self.history.said)
        began = time.monotonic()
        if what in ("kill", "end"):
            self._end(machine, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self.let_all_go_on(2)
            self._measure(what, machine, began, before, machine is owner)
            self.start(machine)
        elif what == "stand still":
            longest = STILL_LEASES * LEASE_SECONDS
            self._stand_still(machine, chance.random() / 5 if server is None else longest)
        elif what == "restart":
            assert server is not None
            server.stop()
            server.start()
        elif what == "kill NATS":
            assert nats is not None
            nats.kill()
            time.sleep(chance.uniform(0.0, STILL_LEASES) * LEASE_SECONDS)
            nats.start()
        else:
            what = self._cut(what, machine, chance)
        self.let_all_go_on(3)
        if what not in ("kill", "end"):
            self._measure(what, machine, began, before, machine is owner)
        self.faults[f"{what}, {'owner' if machine is owner else 'member'}"] += 1

    def _stand_still(self, machine: Machine, seconds: float) -> None:
        assert machine.process is not None
        machine.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        machine.process.send_signal(signal.SIGCONT)

    def _cut(self, what: str, machine: Machine, chance: random.Random) -> str:
        """Do something to the wires of a machine, for a while; give what it was."""
        network, database, others = self._network, machine.database, machine.others
        assert network is not None
        assert database is not None
        assert others is not None
        ways = chance.choice([WAYS, WAYS[:1], WAYS[1:]])
        wire = chance.choice([database, others])
        seconds = chance.uniform(0.2, STILL_LEASES) * LEASE_SECONDS
        if what == "cut from the database":
            wire = database
            seconds = chance.choice([0.5, STILL_LEASES]) * LEASE_SECONDS
            network.do(lambda: wire.hold(*ways))
            what += f" ({' and '.join(ways)})"
        elif what == "cut from the others":
            wire = others
            network.do(lambda: wire.hold(*ways))
            what += f" ({' and '.join(ways)})"
        elif what == "end wires":
            wire.refuses = True
            network.do(wire.cut)
        elif what == "end in a frame":
            way, size = chance.choice(WAYS), chance.randrange(1, 2_000)
            network.do(lambda: wire.cut_behind(way, size))
        else:
            delay = chance.uniform(0.005, 0.05)
            network.do(lambda: wire.delay(delay))
        time.sleep(seconds)
        network.do(wire.release)
        return what

    def _end(self, machine: Machine, number: signal.Signals) -> None:
        """Send a process a signal, and wait for its end."""
        process, machine.process = machine.process, None
        assert process is not None
        process.send_signal(number)
        process.wait(_SECONDS)
        with self._news:
            self._roles.pop(machine.name, None)
            if number == signal.SIGKILL:
                self.history.killed.add(machine.name)

    def _measure(
        self, what: str, machine: Machine, began: float, before: int, was_owner: bool
    ) -> None:
        """Note the longest time in which no other process was answered."""
        with self._news:
            times = sorted(
                one.at
                for one in self.history.said[before:]
                if one.what == "receipt" and not one.key.startswith(f"{machine.name}-")
            )
        times = [began, *(at for at in times if at > began)]
        longest = max((b - a for a, b in pairwise(times)), default=0.0)
        self.pauses.append(Pause(what, longest, was_owner and self.owner() is not machine))

    def close(self) -> None:
        """End all that run."""
        for machine in self.machines:
            if machine.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    machine.process.send_signal(signal.SIGCONT)
                self._end(machine, signal.SIGTERM)
        for listening in self._listening:
            listening.join()


# -- one trial and many ---------------------------------------------------------------------------


class Found(msgspec.Struct):
    """What trials have shown."""

    problems: list[str] = []
    answers: Count[str] = msgspec.field(default_factory=Count)
    faults: Count[str] = msgspec.field(default_factory=Count)
    pauses: list[Pause] = []


def trial(
    seed: int, rounds: int, seconds: float, server: Server | None, nats: NatsServer | None = None
) -> Found:
    """Run one trial, for so many rounds or so long, and judge it."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="members-"))
        network = stack.enter_context(Network().running()) if server is not None else None
        schema = "" if server is None else server.new_schema()
        machines = [Machine(n, f"sqlite:{folder}/log.db", (0, 1, -1)[n]) for n in range(MACHINES)]
        if server is not None:
            assert network is not None
            for machine in machines:
                _connect(machine, network, server, schema, nats)
        run = Trial(machines, network)
        found = Found(faults=run.faults, pauses=run.pauses)
        try:
            end = time.monotonic() + seconds
            for machine in machines:
                run.start(machine)
            done = 0
            while time.monotonic() < end if seconds else done < rounds:
                done += 1
                run.let_all_go_on(chance.randrange(1, 20))
                run.fault(chance, server, nats)
            run.let_all_go_on(5)
        except AssertionError as error:
            found.problems.append(str(error))
        finally:
            if network is not None:
                for wire in _wires(machines):
                    network.do(wire.release)
            run.close()
        log = [*_rows(f"{folder}/log.db", server, schema)]
        found.problems += judge(run.history, log)
        found.answers = Count(said.what for said in run.history.said)
    return found


def _wires(machines: list[Machine]) -> list[Wire]:
    return [w for m in machines for w in (m.database, m.others) if w is not None]


def _connect(
    machine: Machine, network: Network, server: Server, schema: str, nats: NatsServer | None
) -> None:
    """Lay the wires of a machine, each at a port that nobody else is given meanwhile."""
    host = f"127.0.0.{machine.number + 2}"
    database = machine.database = network.lay(server.port)
    machine.store = server.url(schema, f"lease={LEASE_SECONDS}", port=database.port)
    if nats is not None:
        machine.others = network.lay(nats.port)
        place = nats.url_of(USER, PASSWORD, port=machine.others.port)
        machine.listen = f"{place}?token=of-these-processes"
        return
    with _below_the_given_ports() as port:
        machine.others = network.lay(port, host=host, port=port)
    machine.listen = f"tcp://127.0.0.1:{port}?advertise={host}"


@contextlib.contextmanager
def _below_the_given_ports() -> Generator[int]:
    """Give a port that is free and that the system gives to no connection."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = random.Random(time.monotonic_ns())
    while True:
        port = chance.randrange(10_000, first)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
        return


def _rows(path: str, server: Server | None, schema: str) -> Generator[Row]:
    """Read the log, with nothing of the engine's."""
    if server is None:
        with contextlib.closing(sqlite3.connect(path)) as file:
            found = file.execute("SELECT position, stream, version, payload FROM log")
            rows = [[str(value) for value in row] for row in found]
    else:
        text = server.sql(f"SELECT position, stream, version, payload FROM {schema}.log")
        rows = [line.split("|", 3) for line in text.splitlines()]
    rows.sort(key=lambda row: int(row[0]))
    for place, stream, version, payload in rows:
        yield Row(int(place), stream, int(version), msgspec.json.decode(payload)["what"])


@contextlib.contextmanager
def _nats_server() -> Generator[NatsServer]:
    with tempfile.TemporaryDirectory(prefix="members-nats-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.close()


def main(
    trials: int,
    rounds: int,
    first: int,
    *,
    postgres: bool = False,
    on_nats: bool = False,
    seconds: float = 0,
) -> int:
    """Run trials, or one for so long; print what they show, and give the exit status."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server(wheel_programs())) if postgres else None
        nats = stack.enter_context(_nats_server()) if on_nats else None
        bad, total, begun = 0, Found(), time.monotonic()
        for seed in range(first, first + trials):
            found = trial(seed, rounds, seconds, server, nats)
            total.answers += found.answers
            total.faults += found.faults
            total.pauses += found.pauses
            bad += bool(found.problems)
            for problem in found.problems[:5]:
                print(f"seed {seed}: {problem}", flush=True)
        _tell(total)
    told = f"of {seconds:g} s" if seconds else f"of {rounds} rounds"
    print(f"{trials} trials {told}, {bad} bad, {time.monotonic() - begun:.1f} s")
    return int(bad > 0)


def _tell(found: Found) -> None:
    print(", ".join(f"{count:,} {what}" for what, count in sorted(found.answers.items())))
    print(", ".join(f"{count} {what}" for what, count in sorted(found.faults.items())))
    for what in sorted({(pause.fault, pause.is_takeover) for pause in found.pauses}):
        times = [p.seconds for p in found.pauses if (p.fault, p.is_takeover) == what]
        kind = "another takes the log" if what[1] else "pause"
        rest = ", ".join(f"{seconds:.2f}" for seconds in sorted(times, reverse=True)[:3])
        print(
            f"{what[0]}: {kind} in {median(times):.2f} s (median of {len(times)}; longest {rest})"
        )
