"""A loop that a handler blocks is logged with the stack that blocks it, and no other is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from engine import Limits, Ports, UsageError
from engine.testing.scenario import given
from tests.support.waiting import until
from tests.write.items import Item, Mark, Price, Priced, Rates, items


async def test_a_blocked_loop_is_logged_with_the_stack_that_blocks_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blocking(Rates):
        async def price(self, what: str) -> int:
            return self.sleep_like_a_sync_driver()

        def sleep_like_a_sync_driver(self) -> int:
            while engine.statistics().loop_blocked == 0:
                time.sleep(0.001)
            return 1

    with caplog.at_level(logging.WARNING):
        async with items(Blocking(), limits=Limits(loop_blocked_ms=20)) as engine:
            await engine.execute(Price("a"))
            await until_logged(caplog, "goes on, after about")

    assert "blocked for more than 20 ms" in caplog.text
    assert "sleep_like_a_sync_driver" in caplog.text
    assert engine.statistics().loop_blocked == 1


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await until(lambda: text in caplog.text)


async def test_a_loop_that_gives_way_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Callable[[float, float, Callable[[], str]], None]] = []

    class Watcher:
        def start(self, check: Any, every: float) -> Callable[[], None]:
            asked.append(check)
            return asked.clear

    async with items(Rates(), ports=Ports(watcher=Watcher())) as engine:
        for tick in range(10):
            asked[0](tick * 100.0, tick * 100.0, lambda: "stack")
            await asyncio.sleep(0)
        assert engine.statistics().loop_blocked == 0
        asked[0](2_000.0, 2_000.0, lambda: "stack")
        asked[0](2_000.05, 2_000.05, lambda: "stack")
        assert engine.statistics().loop_blocked == 0
        asked[0](2_000.1, 2_000.1, lambda: "stack")
        asked[0](2_000.2, 2_000.2, lambda: "stack")
        assert engine.statistics().loop_blocked == 1
        await asyncio.sleep(0)
        asked[0](2_000.3, 2_000.3, lambda: "stack")
        assert "goes on, after about 0.3 s" in caplog.text

    assert asked == []


async def test_a_machine_that_holds_up_the_whole_process_is_not_blamed_on_the_loop() -> None:
    checks: list[Callable[[float, float, Callable[[], str]], None]] = []

    class Watcher:
        def start(self, check: Any, every: float) -> Callable[[], None]:
            checks.append(check)
            return checks.clear

    async with items(Rates(), ports=Ports(watcher=Watcher())) as engine:
        checks[0](1.0, 1.0, lambda: "stack")
        checks[0](9.0, 1.1, lambda: "stack")  # eight seconds in which the process did nothing
        assert engine.statistics().loop_blocked == 0
        checks[0](9.05, 1.15, lambda: "stack")
        checks[0](12.0, 4.0, lambda: "stack")  # three in which it was busy, and let nobody in
        assert engine.statistics().loop_blocked == 1


async def test_what_blocks_again_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checks: list[Callable[[float, float, Callable[[], str]], None]] = []

    class Watcher:
        def start(self, check: Any, every: float) -> Callable[[], None]:
            checks.append(check)
            return checks.clear

    async with items(Rates(), ports=Ports(watcher=Watcher())) as engine:

        async def block(begin: float, stack: str) -> str:
            caplog.clear()
            for now in (begin, begin + 0.2):
                checks[0](now, now, lambda: stack)
            await asyncio.sleep(0)
            checks[0](begin + 0.3, begin + 0.3, lambda: stack)
            await asyncio.sleep(0)
            return caplog.text

        assert "first place" in await block(100.0, "first place")
        assert "second place" in await block(110.0, "second place")
        assert await block(120.0, "first place") == ""
        assert "first place" in await block(160.5, "first place")
        assert engine.statistics().loop_blocked == 4


async def test_the_test_kit_runs_async_handlers() -> None:
    rates = Rates()
    scenario = given(Item, Priced(5))

    decision = await scenario.when_async(Price("x"), resources={Rates: rates}, principal="ann")
    decision.then(Priced(15, "ann"))
    (await scenario.when_async(Price("x", "reject"), resources={Rates: rates})).then_rejected(
        "no-price"
    )
    (await scenario.when_async(Mark("x", 7))).then(Priced(7))
    with pytest.raises(UsageError, match="when_async"):
        scenario.when(Price("x"))
    with pytest.raises(UsageError, match=r"resources=\{Rates: \.\.\.\}"):
        await scenario.when_async(Price("x"))
