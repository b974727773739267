"""`simulate`: a user's own program is run through crashes, and its bugs are found and replayed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from engine import Engine, EngineError, Projection, Row, Table, UsageError, projects
from engine.testing import Faults, Simulation, SimulationFailed, simulate
from engine.testing.simulation import running
from tests.kit.simulated_orders import (
    BookingTwice,
    Card,
    Charge,
    Charged,
    Order,
    Paying,
    Place,
    charged_and_booked_once,
    engine_of,
    workload,
)

ROOT = Path(__file__).parents[2]


async def holds(engine: Engine, simulation: Simulation) -> None:
    """Hold, whatever is."""


async def idle(engine: Engine, simulation: Simulation) -> None:
    """Do nothing."""


def test_a_sound_program_holds_through_all_that_goes_wrong() -> None:
    done = simulate(engine_of, workload, charged_and_booked_once, seeds=10)

    assert done.seeds == 10
    assert done.crashes > 5
    assert done.disk_errors > 0
    assert done.answers["receipt"] > 30
    assert done.answers["answer lost"] > 2
    assert done.seconds > 4 * 3 * 86_400, "timers of days were waited for"


def test_a_delivery_that_counts_twice_after_a_crash_is_found_and_replays() -> None:
    wrong = partial(engine_of, booking=BookingTwice)
    with pytest.raises(SimulationFailed, match="the books differ") as found:
        simulate(wrong, workload, charged_and_booked_once, seeds=60)
    failed = found.value

    with pytest.raises(SimulationFailed) as again:
        simulate(wrong, workload, charged_and_booked_once, seeds=[failed.seed])

    assert (again.value.trace, again.value.story) == (failed.trace, failed.story)
    assert any("is gone" in line for line in failed.story)
    assert str(failed).endswith(f"replay: {failed.replay}")


def test_a_saga_that_forgets_to_undo_what_came_too_late_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Paying, "refunds", False)

    with pytest.raises(SimulationFailed, match="money was taken for nothing"):
        simulate(engine_of, workload, charged_and_booked_once, seeds=60)


async def move_in_two_commands(engine: Engine, simulation: Simulation) -> None:
    number = simulation.life
    await simulation.execute(Charge("from", "x", -7), key=f"from {number}")
    await simulation.execute(Charge("to", "x", 7), key=f"to {number}")


async def nothing_is_lost(engine: Engine, simulation: Simulation) -> bool:
    return sum([(await engine.state(Card, card)).cents for card in ("from", "to")]) == 0


def test_what_a_crash_between_two_commands_breaks_is_found() -> None:
    with pytest.raises(SimulationFailed, match="it gave False"):
        simulate(engine_of, move_in_two_commands, nothing_is_lost, seeds=20)


def test_without_faults_nothing_of_it_happens() -> None:
    calm = Faults(
        crashes=False, disk_errors=False, slow_disk=False, lost_answers=False, clock_jumps=False
    )

    async def each_once(engine: Engine, simulation: Simulation) -> None:
        assert all(sent.receipt for sent in simulation.sent)

    done = simulate(engine_of, place_and_wait, each_once, seeds=5, faults=calm)

    assert (done.crashes, done.disk_errors, set(done.answers)) == (0, 0, {"receipt"})


async def place_and_wait(engine: Engine, simulation: Simulation) -> None:
    sent = await simulation.execute(Place(simulation.new_id(), 3), key=simulation.new_id())
    assert sent.receipt is not None


PROGRAM = """
from functools import partial
from engine.testing import SimulationFailed, simulate
from engine.testing.simulation import running
from tests.kit.simulated_orders import *
try:
    simulate(partial(engine_of, booking=BookingTwice), workload, charged_and_booked_once, seeds=60)
except SimulationFailed as failed:
    print(failed)
"""


def printed(folder: Path, **variables: str) -> str:
    (folder / "program.py").write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_line_replays_the_same_run_in_another_process(tmp_path: Path) -> None:
    first = printed(tmp_path, PYTHONHASHSEED="1")
    line = re.search(r"^replay: (.*) (.*) python program\.py$", first, re.MULTILINE)
    assert line is not None, first
    assert line[1] == "PYTHONHASHSEED=1"
    name, _, value = line[2].partition("=")

    again = printed(tmp_path, PYTHONHASHSEED="2", **{name: value})

    assert again == first.replace("PYTHONHASHSEED=1", "PYTHONHASHSEED=2")


def test_a_test_is_replayed_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(engine: Engine, simulation: Simulation) -> None:
        raise AssertionError("broken")

    with pytest.raises(SimulationFailed) as failed:
        simulate(engine_of, idle, broken, seeds=[5])

    name = "tests/kit/test_simulate.py::test_a_test_is_replayed_by_its_name"
    assert failed.value.replay.endswith(f"python -m pytest {name}")
    monkeypatch.setenv("FOLDLINE_SEED", "5:another")
    with pytest.raises(SimulationFailed, match="not the run that is to be replayed") as replayed:
        simulate(engine_of, idle, broken, seeds=0)
    assert (replayed.value.seed, replayed.value.trace) == (5, failed.value.trace)


def test_a_run_that_does_not_follow_from_its_seed_is_told() -> None:
    number = count()

    async def changing(engine: Engine, simulation: Simulation) -> None:
        await simulation.execute(Place(f"o-{next(number)}", 3), key=f"k{next(number)}")

    async def broken(engine: Engine, simulation: Simulation) -> bool:
        return False

    with pytest.raises(SimulationFailed, match="took another way"):
        simulate(engine_of, changing, broken, seeds=3)


def test_a_program_that_reaches_for_the_real_world_is_told_where() -> None:
    async def by_chance(engine: Engine, simulation: Simulation) -> None:
        await simulation.execute(Place(str(uuid.uuid4()), 3))

    async def by_the_clock(engine: Engine, simulation: Simulation) -> None:
        await simulation.execute(Place(str(time.time()), 3))

    for reaching, what in ((by_chance, "uuid.uuid4"), (by_the_clock, "time.time")):
        with pytest.raises(SimulationFailed, match=f"reached for the real world: {what}"):
            simulate(engine_of, reaching, holds, seeds=20)


def _by_socket(use: Callable[[socket.socket], object]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as opened:
        use(opened)


REACHES: dict[str, Callable[[], object]] = {
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 25),
    "sendto": partial(_by_socket, lambda s: s.sendto(b"", ("127.0.0.1", 9))),
    "connect_ex": partial(_by_socket, lambda s: s.connect_ex(("127.0.0.1", 9))),
    "Popen": lambda: subprocess.run(["true"], check=False),
    "system": lambda: os.system("true"),
    "choices": lambda: random.choices([1, 2]),
    "gauss": lambda: random.gauss(0, 1),
    "randbelow": lambda: secrets.randbelow(2),
}


@pytest.mark.parametrize("what", REACHES)
def test_a_program_that_reaches_a_network_a_process_or_chance_is_refused(what: str) -> None:
    async def reaching(engine: Engine, simulation: Simulation) -> None:
        with contextlib.suppress(Exception):  # as a client that tries again hides it
            REACHES[what]()

    with pytest.raises(SimulationFailed, match=rf"reached for the real world: (\w+\.)?{what}"):
        simulate(engine_of, reaching, holds, seeds=1)


def test_a_program_may_log() -> None:
    async def telling(engine: Engine, simulation: Simulation) -> None:
        logging.getLogger("mine").warning("life %s", simulation.life)

    assert simulate(engine_of, telling, holds, seeds=3).seeds == 3


def test_what_a_workload_raises_is_told() -> None:
    async def failing(engine: Engine, simulation: Simulation) -> None:
        raise LookupError("my own bug")

    with pytest.raises(SimulationFailed, match="the workload raised(.|\n)*LookupError: my own bug"):
        simulate(engine_of, failing, holds, seeds=10)


class Totals(Row, key="name"):
    name: str


class Stopping(Projection, name="stopping", version=1):
    rows: Table[Totals]

    @projects
    def charged(self, event: Charged) -> None:
        raise LookupError("it cannot be folded")


def test_a_projection_that_stops_is_told() -> None:
    def stopping(simulation: Simulation) -> Engine:
        return Engine(
            [Card], projections=[Stopping], store=simulation.store, ports=simulation.ports
        )

    async def charge(engine: Engine, simulation: Simulation) -> None:
        await simulation.execute(Charge("c", "o", 1), key=f"k{simulation.life}")

    with pytest.raises(SimulationFailed, match="projection stopping is at 0 of"):
        simulate(stopping, charge, holds, seeds=20, settle_seconds=60)


def test_a_program_that_never_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STEPS_MAX", 10_000)

    async def spinning(engine: Engine, simulation: Simulation) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(SimulationFailed, match="comes to no end"):
        simulate(engine_of, spinning, holds, seeds=[0], faults=Faults(crashes=False), lives=1)


def test_an_engine_must_be_on_the_machine(tmp_path: Path) -> None:
    def elsewhere(simulation: Simulation) -> Engine:
        return Engine([Order], store="memory:", ports=simulation.ports)

    def none(simulation: Simulation) -> Engine:
        return None  # type: ignore[return-value]

    with pytest.raises(UsageError, match=r"store=simulation\.store"):
        simulate(elsewhere, idle, holds, seeds=3)
    with pytest.raises(UsageError, match="and no Engine"):
        simulate(none, idle, holds, seeds=1)
    with pytest.raises(UsageError, match="1 to 20 lives"):
        simulate(engine_of, idle, holds, lives=0)


def test_a_number_of_seeds_can_be_raised_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDLINE_SEEDS", "4")
    assert simulate(engine_of, idle, holds, seeds=1).seeds == 4
    monkeypatch.setenv("FOLDLINE_SEEDS", "many")
    with pytest.raises(UsageError, match="whole numbers"):
        simulate(engine_of, idle, holds, seeds=1)


def test_what_was_not_run_is_no_doubt_and_what_was_lost_is() -> None:
    seen: set[str] = set()

    async def told(engine: Engine, simulation: Simulation) -> None:
        for sent in simulation.sent:
            assert sent.key is not None or sent.in_doubt == (sent.answer is None)
            seen.add("doubt" if sent.in_doubt else type(sent.answer).__name__)

    async def without_keys(engine: Engine, simulation: Simulation) -> None:
        for number in range(5):
            sent = await simulation.execute(Charge("c", "o", number + 1), expected=number)
            assert isinstance(sent.error, EngineError | None)

    simulate(engine_of, without_keys, told, seeds=12)

    assert {"doubt", "Receipt", "WrongVersion"} <= seen
