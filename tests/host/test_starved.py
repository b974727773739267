"""A loop that gets no core is not called blocked: the machine is to blame, and not the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runtime.core_wait import CoreWait

WAITS = """
import asyncio, os, sys, time
from engine import Engine, Limits
from engine.runtime.core_wait import CoreWait
from engine.runtime.native import system_thread_id
from tests.support.counters import Add, Counter

os.sched_setaffinity(0, {int(sys.argv[1])})

async def main():
    async with Engine([Counter], limits=Limits(loop_blocked_ms=20)) as engine:
        waits = CoreWait(system_thread_id())
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        begun = waits.seconds(time.monotonic())
        while waits.seconds(time.monotonic()) < begun + 1.0:
            await engine.execute(Add("a", 1))
            await asyncio.sleep(0.001)  # to wake up it needs a core, and has no lock of Python
        print(engine.statistics().loop_blocked, flush=True)
        os._exit(0)  # to close an engine takes long without a core

asyncio.run(main())
"""
HOGS = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile 1: pass"
)


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="only Linux tells how long a thread waited"
)
def test_a_loop_that_waits_for_a_core_is_not_called_blocked() -> None:
    core = str(min(os.sched_getaffinity(0)))
    with subprocess.Popen([sys.executable, "-c", HOGS, core], stdout=subprocess.PIPE) as hog:
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            seen = subprocess.run(
                [sys.executable, "-c", WAITS, core], check=True, capture_output=True, text=True
            )
        finally:
            hog.kill()
    assert seen.stdout.split() == ["0"], seen.stderr


def told(folder: Path, schedstat: str, state: str) -> None:
    (folder / "7").mkdir(exist_ok=True)
    (folder / "7/schedstat").write_text(schedstat)
    (folder / "7/stat").write_text(f"7 (a ) R name) {state} 1 1")


def test_a_wait_that_goes_on_is_counted_before_the_kernel_counts_it(tmp_path: Path) -> None:
    waits = CoreWait(7, tasks=tmp_path)
    told(tmp_path, "5000000000 1000000000 9\n", "R")
    assert waits.seconds(100.0) == 1.0
    assert waits.seconds(102.0) == 3.0  # ready, and nothing has changed
    told(tmp_path, "5000000000 3500000000 9\n", "R")
    assert waits.seconds(102.5) == 3.5  # the kernel has counted it: not twice
    told(tmp_path, "5000000000 3500000000 9\n", "S")
    assert waits.seconds(104.0) == 3.5  # who sleeps waits for no core
    told(tmp_path, "5000000000 3500000000 9\n", "R")
    assert waits.seconds(104.5) == 4.0


def test_without_figures_nothing_seems_to_wait(tmp_path: Path) -> None:
    assert CoreWait(7, tasks=tmp_path).seconds(5.0) == 0.0
    told(tmp_path, "nothing\n", "R")
    assert CoreWait(7, tasks=tmp_path).seconds(5.0) == 0.0
