"""The simulated world itself: that it forgets, fences, replays, and that its seeds hold."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any, Literal

import apsw
import pytest

from engine.testing.simulation.disk import Disk, Fault
from engine.testing.simulation.fence import Fenced, fence
from engine.testing.simulation.loop import DeadLock, SimulatedLoop
from engine.testing.simulation.machine import SimulatedFiles, SimulatedWorkers
from engine.testing.simulation.schedule import InOrder, Priorities, Schedule, Uniform

ROOT = Path(__file__).parent.parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


HAPPENINGS = ("crashes", "disk failures", "pasts", "Conflict", "DeadlinePassed", "Overloaded")


def test_seeds_hold_and_are_full_of_crashes_and_faults() -> None:
    done = simulate("--seeds", "60")

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("60 seeds, 0 bad")
    for happening in HAPPENINGS:
        assert re.search(rf" [1-9]\d* {happening}[,\n]", done.stdout), done.stdout


def test_a_seed_replays_step_by_step() -> None:
    code = (
        "import sys; sys.unraisablehook = lambda _: None\n"
        "from tests.simulation.world import run_seed\n"
        "for seed in range(12): print(run_seed(seed).digest)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]

    assert runs[0] == runs[1]
    assert len(set(runs[0].split())) == 12


LOOPS: list[SimulatedLoop] = []


def loop_of(schedule: Schedule | None = None, steps_max: int = 10_000) -> SimulatedLoop:
    LOOPS.append(SimulatedLoop(schedule or InOrder(), steps_max))
    return LOOPS[-1]


@pytest.fixture(autouse=True)
def closed_loops() -> Iterator[None]:
    """Close what the test has made: what still waits there waits for nothing."""
    yield
    for loop in LOOPS:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
    LOOPS.clear()


def live(loop: SimulatedLoop, main: Any) -> Any:
    task = loop.create_task(main)
    task.add_done_callback(lambda _: loop.stop())
    with fence():
        loop.run_forever()
    return task.result()


def test_time_is_virtual() -> None:
    loop = loop_of()

    async def main() -> float:
        await asyncio.sleep(3_600)
        return loop.time()

    assert live(loop, main()) == pytest.approx(3_600)


SCHEDULES: dict[str, Callable[[Random], Schedule]] = {
    "uniform": lambda random: Uniform(random, 1.0),
    "mostly in order": lambda random: Uniform(random, 0.2),
    "priorities": lambda random: Priorities(random, 3, 30),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_different_seeds_take_different_ways(schedule: Callable[[Random], Schedule]) -> None:
    async def racer(order: list[int], number: int) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        order.append(number)

    async def main() -> tuple[int, ...]:
        order: list[int] = []
        await asyncio.gather(*(racer(order, n) for n in range(6)))
        return tuple(order)

    assert len({live(loop_of(schedule(Random(seed))), main()) for seed in range(20)}) > 3
    assert live(loop_of(schedule(Random(5))), main()) == live(loop_of(schedule(Random(5))), main())


def test_by_priorities_one_task_runs_ahead_until_it_falls_back() -> None:
    order: list[str] = []

    async def racer(name: str) -> None:
        for _ in range(20):
            order.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(racer(name) for name in "abc"))

    live(loop_of(Priorities(Random(2), 1, 20)), main())

    runs = [len(list(same)) for _, same in groupby(order)]
    assert max(runs) >= 10, "in order, or by chance, nobody has so many turns in a row"
    assert len(runs) > 3


def test_something_can_be_done_after_any_number_of_steps() -> None:
    loop = loop_of()

    async def main() -> int:
        done = 0
        task = asyncio.current_task()
        assert task is not None
        loop.after_steps(7, task.cancel)
        try:
            while True:
                await asyncio.sleep(0)
                done += 1
        except asyncio.CancelledError:
            return done

    assert live(loop, main()) in (6, 7)


async def waits_for_nothing() -> None:
    await asyncio.get_running_loop().create_future()


async def spins() -> None:
    while True:
        await asyncio.sleep(0)


@pytest.mark.parametrize("main", [waits_for_nothing, spins])
def test_a_dead_lock_and_a_live_lock_are_errors(main: Any) -> None:
    loop = loop_of()
    loop.create_task(main())
    with pytest.raises(DeadLock):
        loop.run_forever()


async def thread() -> None:
    await asyncio.to_thread(print)


async def network() -> None:
    await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", 9)


async def clock() -> None:
    time.time()


async def nap() -> None:
    time.sleep(0)


async def dice() -> None:
    random.random()


async def new_id() -> None:
    uuid.uuid4()


async def own_thread() -> None:
    threading.Thread(target=print).start()


async def port() -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))


@pytest.mark.parametrize("main", [thread, network, clock, nap, dice, new_id, own_thread, port])
def test_the_real_world_is_fenced_off(main: Any) -> None:
    with pytest.raises(Fenced):
        live(loop_of(), main())
    assert time.time() > 0, "outside of the world the clock is itself again"


# -- the disk --------------------------------------------------------------------------------


def open_log(disk: Disk, synchronous: int) -> Any:
    connection = SimulatedFiles(disk).connect(str(disk.folder / "log.db"))
    assert connection.execute("PRAGMA journal_mode=wal").fetchall() == [("wal",)]
    connection.execute(f"PRAGMA synchronous={synchronous}").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    return connection


def test_two_connections_in_wal_mode_see_each_other(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", Random(1))
    one = open_log(disk, 2)
    one.execute("CREATE TABLE t(x)")
    two = open_log(disk, 2)
    one.execute("INSERT INTO t VALUES (1)")

    assert two.execute("SELECT x FROM t").fetchall() == [(1,)]
    disk.restart()


def lost_rows(folder: Path, synchronous: int) -> int:
    """Commit forty rows, cut the power at any moment, and give how many did not survive."""
    lost = 0
    for seed in range(30):
        disk = Disk(folder / str(seed), Random(seed))
        log = open_log(disk, 2)
        log.execute("CREATE TABLE t(x)")
        log.execute(f"PRAGMA synchronous={synchronous}").fetchall()
        disk.crash_at = disk.operations + 1 + seed * 3
        kept = 0
        try:
            for number in range(40):
                log.execute("INSERT INTO t VALUES (?)", (number,))
                kept = number + 1
        except apsw.Error:
            pass
        disk.restart()
        rows: Any = open_log(disk, 2).execute("SELECT count(*) FROM t").fetchall()
        found = rows[0][0]
        lost += max(0, kept - found)
        disk.restart()
    return lost


def test_what_was_synced_survives_a_loss_of_power(tmp_path: Path) -> None:
    assert lost_rows(tmp_path, 2) == 0


def test_what_was_not_synced_is_lost(tmp_path: Path) -> None:
    """Otherwise the test above would say nothing."""
    assert lost_rows(tmp_path, 1) > 50


def test_a_sync_that_fails_loses_for_ever_what_it_was_to_sync(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", Random(4))
    log = open_log(disk, 2)
    log.execute("CREATE TABLE t(x)")
    log.execute("INSERT INTO t VALUES (1)")
    disk.sync_failures = 1.0
    with pytest.raises(apsw.IOError):
        log.execute("INSERT INTO t VALUES (2)")
    image = disk.survivors("everything", Random(1))

    assert disk.failed == ["sync log.db-wal: EIO"]
    assert len(image["log.db-wal"]) < (disk.folder / "log.db-wal").stat().st_size
    disk.restart(image)
    rows: Any = open_log(disk, 2).execute("SELECT x FROM t").fetchall()
    assert rows == [(1,)]
    disk.dispose()


def test_what_was_written_and_not_synced_outlives_the_process_and_not_the_power(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path / "disk", Random(4))
    log = open_log(disk, 2)
    log.execute("CREATE TABLE t(x)")
    log.execute("PRAGMA synchronous=OFF").fetchall()
    log.execute("INSERT INTO t VALUES (1)")
    disk.dead = disk.only_killed = True
    disk.restart()

    rows: Any = open_log(disk, 2).execute("SELECT x FROM t").fetchall()
    assert rows == [(1,)]
    disk.dead = True
    disk.restart(disk.survivors("nothing", Random(1)))
    rows = open_log(disk, 2).execute("SELECT x FROM t").fetchall()
    assert rows == []
    disk.dispose()


@pytest.mark.parametrize("how", ["EIO", "ENOSPC", "short"])
def test_the_call_that_is_named_fails_and_no_other(
    tmp_path: Path, how: Literal["EIO", "ENOSPC", "short"]
) -> None:
    disk = Disk(tmp_path / "disk", Random(4))
    log = open_log(disk, 2)
    log.execute("CREATE TABLE t(x)")
    disk.notes_calls = True
    disk.fault = Fault(disk.made + 1, how)
    kind = apsw.FullError if how == "ENOSPC" else apsw.IOError
    with pytest.raises(kind):
        log.execute("INSERT INTO t VALUES (2)")
    log.execute("INSERT INTO t VALUES (3)")

    assert len(disk.failed) == 1
    assert disk.calls[0].startswith("write")
    rows: Any = log.execute("SELECT x FROM t").fetchall()
    assert rows == [(3,)]
    disk.dispose()


def test_a_thread_runs_its_calls_in_order_and_to_the_end() -> None:
    loop = loop_of()
    done: list[int] = []

    async def main() -> None:
        worker = SimulatedWorkers(loop, Random(5)).start("worker")
        calls = [asyncio.ensure_future(worker.run(done.append, n)) for n in range(10)]
        await asyncio.sleep(0)
        calls[3].cancel()
        await asyncio.wait(calls)
        await worker.close()

    live(loop, main())
    assert done == list(range(10))
