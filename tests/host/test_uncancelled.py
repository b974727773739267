"""What is awaited to its end is not cancelled with the task that awaits it, and costs no turn."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from engine.runtime.uncancelled import uncancelled
from tests.support.waiting import settle


async def answer_of(future: asyncio.Future[int]) -> int:
    await asyncio.sleep(0)
    return await future


async def test_a_cancel_is_heard_behind_the_result() -> None:
    future = asyncio.get_running_loop().create_future()
    results: list[int] = []

    async def wait() -> None:
        results.append(await uncancelled(answer_of(future)))
        await asyncio.sleep(0)
        raise AssertionError("the cancel was lost")

    waiting = asyncio.ensure_future(wait())
    await settle()
    waiting.cancel("why")
    await settle()
    assert not waiting.done()
    assert not future.cancelled()
    future.set_result(7)
    with pytest.raises(asyncio.CancelledError, match="why"):
        await waiting

    assert results == [7]
    assert waiting.cancelled()


async def test_a_cancel_before_its_first_step_is_heard_behind_the_result() -> None:
    results: list[int] = []

    async def wait() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        results.append(await uncancelled(answer_of(future)))
        await asyncio.sleep(0)

    waiting = asyncio.ensure_future(wait())
    await asyncio.wait([waiting])

    assert results == [7]
    assert waiting.cancelled()


async def test_what_it_raises_is_raised() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))

    with pytest.raises(KeyError):
        await uncancelled(answer_of(future))


async def test_what_is_cancelled_inside_is_no_cancel_of_the_task() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    with pytest.raises(asyncio.CancelledError):
        await uncancelled(answer_of(future))
    task = asyncio.current_task()
    assert task is not None

    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_scopes_and_timeouts_know_their_own_cancels() -> None:
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        future: asyncio.Future[int] = loop.create_future()
        loop.call_soon(scope.cancel)
        loop.call_later(0.01, future.set_result, 7)
        assert await uncancelled(answer_of(future)) == 7
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            future = loop.create_future()
            loop.call_later(0.01, future.set_result, 7)
            await uncancelled(answer_of(future))
            await asyncio.sleep(9)


async def test_it_goes_on_in_the_turn_in_which_the_answer_came() -> None:
    turns: list[str] = []

    async def wait(future: asyncio.Future[int]) -> None:
        await uncancelled(answer_of(future))
        turns.append("goes on")

    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(wait(future))
    await settle()
    future.set_result(7)
    asyncio.get_running_loop().call_soon(turns.append, "next turn")
    await waiting

    assert turns == ["goes on", "next turn"]


async def test_a_group_that_is_cancelled_meanwhile_waits_in_peace() -> None:
    """anyio cancels what does not end at each turn of the loop, which keeps a processor busy."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    scopes: list[Any] = []

    async def wait() -> None:
        await uncancelled(answer_of(future))

    async def group() -> None:
        async with anyio.create_task_group() as running:
            scopes.append(running.cancel_scope)
            running.start_soon(wait)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            running.cancel_scope.cancel()

    grouped = asyncio.ensure_future(group())
    for _ in range(50):
        await asyncio.sleep(0)
    assert scopes[0].cancel_called
    assert scopes[0]._cancel_handle is None, "nothing is to be cancelled in the next turn"
    future.set_result(7)
    await grouped
