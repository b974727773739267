"""Who waits for the end of a thread: cancelled callers, and processes that were forked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.runtime.machine import SystemWorkers
from tests.support.counters import Add, Counter, counters
from tests.support.processes import ROOT


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def ended(name: str) -> None:
    async with asyncio.timeout(20):
        while threads(name):
            await asyncio.sleep(0.001)


async def test_a_thread_ends_whose_closing_was_cancelled() -> None:
    worker = SystemWorkers().start("left-alone")
    busy = threading.Event()
    call = asyncio.ensure_future(worker.run(busy.wait))
    closing = asyncio.ensure_future(worker.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    again = asyncio.ensure_future(worker.close())
    await asyncio.sleep(0)

    assert threads("left-alone")
    assert not again.done()

    busy.set()
    async with asyncio.timeout(20):
        await again

    assert await call
    assert not threads("left-alone")


async def test_differences_that_callers_give_up_leave_no_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = threading.Event()

    def compare(first: Any, second: Any) -> tuple[Any, ...]:
        slow.wait(20)
        return ()

    monkeypatch.setattr("engine.log.history.difference", compare)
    async with counters() as engine:
        await engine.execute(Add("c", 1))
        asking = [asyncio.ensure_future(engine.difference(Counter, "c", 0, 1)) for _ in range(3)]
        while len(threads("foldline-difference")) < len(asking):
            await asyncio.sleep(0.001)
        for _ in range(2):  # out of the comparison, and out of the closing after it
            for each in asking:
                each.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        slow.set()
        await asyncio.gather(*asking, return_exceptions=True)
        await ended("foldline-difference")

        assert all(each.cancelled() for each in asking)


FORKED = """
import asyncio, os, sys
from engine import Engine
from tests.support.counters import Add, Counter

async def main():
    async with Engine([Counter], store=sys.argv[1]) as engine:
        await engine.execute(Add("a", 1))
        if os.fork() == 0:
            sys.exit(7)  # unwinds through all that its parent was in
        os.wait()
        print((await engine.execute(Add("a", 1))).version)

asyncio.run(main())
"""


def test_a_fork_that_unwinds_waits_for_no_thread_of_its_parents(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, f"sqlite:{tmp_path / 'log.db'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert "after a fork" in done.stderr
