"""Callers who are cancelled while they wait for the end of a thread: it ends all the same."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from engine.runtime.ports import SystemWorkers
from tests.support.counters import Add, Counter, counters


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
