"""Runs processes that share one log, and does to them by a seed what happens to machines.

On a file some are killed, stopped, or stand still. In a server each is as on a machine of its own:
the wires between them and to the database are cut in one way or both, late, or end in the middle of
a frame; the server is restarted; and the clock of one machine is an hour off. After each fault all
go on, or the trial ends there. Some stand still, or are killed, at a failpoint: each that the store
comes by has its turn. At the end the log is read by SQL, and judged by what was told.
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
from pathlib import Path
from typing import Final

import msgspec

from engine.runtime.ports import FAILPOINTS, SHARED_FAILPOINTS
from tests.support.brokers import PASSWORD, USER, NatsServer
from tests.support.postgres import Server, postgres_server, wheel_programs
from tests.support.wires import WAYS, Network, Wire

from .members import CLIENTS, Said
from .members_joint_judge import Row, row_of
from .members_judge import History, judge
from .members_persons_judge import KEEPS_SECONDS, judge_all_persons
from .members_times import Pause, late, longest_wait, told

__all__ = ["LEASE_SECONDS", "MACHINES", "Machine", "Trial", "main", "rows_of"]

ROOT = Path(__file__).parents[2]
MACHINES: Final = 3
LEASE_SECONDS: Final = 2
STILL_LEASES: Final = 3
_SECONDS: Final = 60.0
"""Within which all must have gone on after a fault."""
_DYING: Final = ("kill", "kill", "end")
_AT: Final = ("stand still at", "stand still at", "kill at")
_ON_FILES: Final = (*_DYING, "stand still", *_AT)
_ON_A_NETWORK: Final = (
    *_DYING,
    *("stand still", "stand still", "stand still"),
    "cut from the database",
    "cut from the others",
    "end wires",
    "end in a frame",
    "late",
    "restart",
    *_AT,
)
_ALL: Final = 5
"""Receipts of each client behind a fault: some of these commands were for whoever it befell."""
_TAKEOVER_SECONDS: Final = 1.0
"""Behind the end of a lease, where there is one."""
_WALK: Final = [n for n in FAILPOINTS if n.partition(".")[0] not in ("projector", "views")]
_VIEWS: Final = ("view.seen", "view.heeded")


def _failpoints(in_server: bool, is_spread: bool) -> list[str]:
    """Give those that the processes of a trial come by."""
    if not in_server:
        return [*_WALK, *SHARED_FAILPOINTS[:4]]
    walk = [name for name in _WALK if not name.startswith("store.")]
    return [*walk, *(n for n in SHARED_FAILPOINTS if is_spread or n not in _VIEWS)]


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


class Trial:
    """The processes of one trial, and what they have said."""

    def __init__(
        self, machines: list[Machine], network: Network | None, *, is_spread: bool = False
    ) -> None:
        self.history = History()
        self.pauses: list[Pause] = []
        self.faults: Count[str] = Count()
        self.machines = machines
        self._network = network
        self._is_spread = is_spread
        self.join = "spread" if is_spread else "one"
        """How its processes share the log, as they are told."""
        self._failpoints: list[str] = []
        """That have their turn next; all have one before any has another."""
        self._stopped: set[str] = set()
        """Names of processes that stand still at a failpoint."""
        self._number = 0
        self._answers: Count[str] = Count()
        """By client."""
        self._roles: dict[str, str] = {}
        self._listening: list[threading.Thread] = []
        self._news = threading.Condition()

    def start(self, machine: Machine) -> None:
        """Start a process, and wait until it takes part."""
        self._number += 1
        name = machine.name = f"p{self._number}"
        words = [machine.store, name, machine.listen, str(machine.hours), self.join]
        process = machine.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.members", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
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
                    self._answers[said.key.rpartition("-")[0]] += 1
                elif said.what == "stops":
                    self._stopped.add(name)
                elif said.key == name:
                    self._roles[name] = said.what
                self._news.notify_all()

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._news:
            if not self._news.wait_for(condition, _SECONDS):
                raise AssertionError(f"waited for {what} for {_SECONDS:g} s: {self._roles}")

    def let_all_go_on(self, more: int) -> None:
        """Wait until each client of each process has so many more receipts.

        Of several owners one that is gone has the aggregates of some commands, and not of all.
        """
        living = [m.name for m in self.machines if m.process]
        clients = [f"{name}-{number}" for name in living for number in range(CLIENTS)]
        wanted = {client: self._answers[client] + more for client in clients}
        self._wait_for(
            lambda: all(self._answers[client] >= count for client, count in wanted.items()),
            f"{more} more receipts of each client",
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
        if what in _AT:
            self._at_a_failpoint(what, chance)
            return
        is_owner = owner is not None and chance.random() < 0.7
        machine = owner if is_owner and owner is not None else chance.choice(self.machines)
        before = len(self.history.said)
        began = time.monotonic()
        if what in ("kill", "end"):
            self.end(machine, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self.let_all_go_on(_ALL)
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
        self.let_all_go_on(_ALL)
        if what not in ("kill", "end"):
            self._measure(what, machine, began, before, machine is owner)
        self.faults[f"{what}, {'owner' if machine is owner else 'member'}"] += 1

    def _at_a_failpoint(self, what: str, chance: random.Random) -> None:
        """Let a process stand still at the failpoint whose turn it is, and go on or die there."""
        in_server = self._network is not None
        if not self._failpoints:
            self._failpoints = _failpoints(in_server, self._is_spread)
            chance.shuffle(self._failpoints)
        place, owner = self._failpoints.pop(), self.owner()
        is_member = place.startswith("member.")
        machine = chance.choice([m for m in self.machines if (m is not owner) == is_member])
        if self._is_spread:
            machine = chance.choice(self.machines)
        before = len(self.history.said)
        process = machine.process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(place.encode() + b"\n")
        process.stdin.flush()
        gone = None
        if place in _VIEWS:  # where another one leaves
            gone = chance.choice([m for m in self.machines if m is not machine])
            self.end(gone, signal.SIGTERM)
        name = machine.name
        self._wait_for(lambda: name in self._stopped, f"{name} to come by {place}")
        began = time.monotonic()
        is_killed = what == "kill at"
        if is_killed:
            self.end(machine, signal.SIGKILL)
        else:
            time.sleep(STILL_LEASES * LEASE_SECONDS if in_server else chance.random() / 5)
            process.send_signal(signal.SIGCONT)
        self._stopped.discard(name)
        self.let_all_go_on(_ALL)
        self._measure(f"{what}: {place}", machine, began, before, machine is owner)
        if is_killed:
            self.start(machine)
        if gone is not None:
            self.start(gone)
        self.faults[f"{what} {place}"] += 1

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

    def end(self, machine: Machine, number: signal.Signals) -> None:
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
        """Note the longest that a caller of another process has waited."""
        with self._news:
            seconds, stalled = longest_wait(self.history.said[before:], machine.name, began)
        is_takeover = self._is_spread or (was_owner and self.owner() is not machine)
        self.pauses.append(Pause(what, seconds, stalled, is_takeover))

    def close(self) -> None:
        """End all that run."""
        for machine in self.machines:
            if machine.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    machine.process.send_signal(signal.SIGCONT)
                self.end(machine, signal.SIGTERM)
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
    seed: int,
    rounds: int,
    seconds: float,
    server: Server | None,
    nats: NatsServer | None = None,
    *,
    is_spread: bool = False,
    with_persons: bool = False,
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
        run = Trial(machines, network, is_spread=is_spread)
        if with_persons:
            run.join = "persons"
        found = Found(faults=run.faults, pauses=run.pauses)
        try:
            end = time.monotonic() + seconds
            for machine in machines:
                run.start(machine)
            done = 0
            while time.monotonic() < end if seconds else done < rounds:
                done += 1
                run.let_all_go_on(chance.randrange(1, 5))
                run.fault(chance, server, nats)
            run.let_all_go_on(5)
        except AssertionError as error:
            found.problems.append(str(error))
        finally:
            if network is not None:
                for wire in _wires(machines):
                    network.do(wire.release)
            run.close()
        log = [*rows_of(f"{folder}/log.db", server, schema)]
        found.problems += judge(run.history, log, _waiting(f"{folder}/log.db", server, schema))
        if with_persons:
            store = machines[0].store if server is None else server.url(schema, "lease=2")
            keeps = KEEPS_SECONDS[server is not None]
            found.problems += judge_all_persons(run.history.said, log, store, keeps)
        lease = 0 if server is None else LEASE_SECONDS
        if seconds:  # a brief one runs beside other tests
            found.problems += late(run.pauses, lease + _TAKEOVER_SECONDS)
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


def rows_of(path: str, server: Server | None, schema: str) -> Generator[Row]:
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
        yield row_of(int(place), stream, int(version), payload)


def _waiting(path: str, server: Server | None, schema: str) -> set[str]:
    """Give the streams that have a timer."""
    if server is not None:
        return {*server.sql(f"SELECT stream FROM {schema}.timers").splitlines()}
    with contextlib.closing(sqlite3.connect(path)) as file:
        return {stream for (stream,) in file.execute("SELECT stream FROM timers")}


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
    is_spread: bool = False,
    with_persons: bool = False,
    seconds: float = 0,
) -> int:
    """Run trials, or one for so long; print what they show, and give the exit status."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(postgres_server(wheel_programs())) if postgres else None
        nats = stack.enter_context(_nats_server()) if on_nats else None
        bad, total, begun = 0, Found(), time.monotonic()
        for seed in range(first, first + trials):
            ways = {"is_spread": is_spread, "with_persons": with_persons}
            found = trial(seed, rounds, seconds, server, nats, **ways)
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
    print("\n".join(told(found.pauses)))
