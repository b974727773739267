"""Whoever starts, uses or ends an engine where it is not his: he is refused, and nobody else is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, UsageError
from tests.support.counters import Add, Counter, counters, total

ROOT = Path(__file__).parent.parent.parent


def in_another_loop(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.to_thread(lambda: asyncio.run(call()))


async def test_a_second_start_from_anywhere_moves_nothing() -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1))
        for start in (engine.__aenter__, lambda: in_another_loop(engine.__aenter__)):
            with pytest.raises(UsageError, match="started once"):
                await start()
            assert (await engine.execute(Add("b", 1))).stream == "counter:b"
        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(lambda: engine.execute(Add("a", 1)))

        assert await total(engine, "a") == "1 at 1"


async def test_an_engine_is_not_ended_from_another_loop() -> None:
    async with counters() as engine:
        with pytest.raises(UsageError, match="another event loop"):
            await in_another_loop(lambda: engine.__aexit__(None, None, None))

        assert (await engine.execute(Add("a", 1))).version == 1


async def test_what_was_not_started_does_not_end() -> None:
    engine = Engine([Counter])
    with pytest.raises(UsageError, match="has not been started"):
        await engine.__aexit__(None, None, None)
    async with engine:
        assert (await engine.execute(Add("a", 1))).version == 1


async def test_of_two_threads_that_start_one_engine_one_has_it() -> None:
    engine = Engine([Counter])

    async def start_and_use() -> str:
        try:
            async with engine:
                return str((await engine.execute(Add("a", 1))).version)
        except UsageError as error:
            return str(error)

    said = await asyncio.gather(*(in_another_loop(start_and_use) for _ in range(4)))

    assert min(said) == "1"
    assert all(text.startswith("an engine is started once") for text in sorted(said)[1:])


FORKED = """
import asyncio, os
from engine import Engine, UsageError
from tests.support.counters import Add, Counter

loop = asyncio.new_event_loop()
engine = Engine([Counter])
fresh = Engine([Counter])
loop.run_until_complete(engine.__aenter__())

async def say(call):
    try:
        return (await asyncio.wait_for(call, 20)).version
    except UsageError as error:
        return type(error).__name__

async def inside():
    said = [await say(engine.__aenter__()), await say(engine.execute(Add("a", 1)))]
    said.append(await say(engine.__aexit__(None, None, None)))
    async with fresh:
        said.append(await say(fresh.execute(Add("a", 1))))
    return said

child = os.fork()
if not child:
    asyncio.events._set_running_loop(None)
    os.write(1, repr(loop.run_until_complete(inside())).encode())
    os._exit(0)
os.waitpid(child, 0)
print("", loop.run_until_complete(engine.execute(Add("a", 1))).version)
loop.run_until_complete(engine.__aexit__(None, None, None))
"""


def test_a_forked_child_neither_takes_nor_ends_its_parents_engine() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert done.stdout.strip() == "['UsageError', 'UsageError', 'UsageError', 1] 1", done.stderr
    assert done.returncode == 0
