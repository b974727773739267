"""A start or an end of an engine that shares its log, which is cancelled again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine import Engine, Ports
from tests.members.duties_shop import sharing
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.scarce import Scarce
from tests.support.waiting import until

WAYS = ("join", "share", "spread")


def _engine(way: str, log: str, driver: Scarce) -> Engine:
    ports = Ports(database=driver)
    if way == "share":
        return sharing(log, ports=ports)
    return Engine([Counter], store=log, join="spread" if way == "spread" else True, ports=ports)


def _ours() -> set[str]:
    return {name for one in asyncio.all_tasks() if (name := one.get_name()).startswith("foldline")}


async def _cancelled_in_each_turn(task: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(60):
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        task.result()


@pytest.mark.parametrize(
    ("way", "at"),
    [
        ("join", "foldline membership"),
        ("join", "foldline notices"),
        ("share", "foldline duties"),
        ("spread", "foldline spread"),
    ],
)
async def test_a_start_that_is_cancelled_again_and_again_leaves_nothing_open(
    postgres: Server, way: str, at: str
) -> None:
    driver = Scarce()
    engine = _engine(way, postgres.url(postgres.new_schema(), "lease=9"), driver)
    starting = asyncio.create_task(engine.__aenter__())
    await until(lambda: at in _ours())
    await _cancelled_in_each_turn(starting)
    assert _ours() == set()
    assert driver.open() == []


@pytest.mark.parametrize("way", WAYS)
async def test_an_end_that_is_cancelled_again_and_again_leaves_nothing_open(
    postgres: Server, way: str
) -> None:
    driver = Scarce()
    engine = _engine(way, postgres.url(postgres.new_schema(), "lease=9"), driver)
    await engine.__aenter__()
    await engine.execute(Add("a", 1))
    ending = asyncio.create_task(engine.__aexit__(None, None, None))
    await asyncio.sleep(0)  # it has begun
    await _cancelled_in_each_turn(ending)
    assert _ours() == set()
    assert driver.open() == []
