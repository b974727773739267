"""The engine that users test with: in memory, with their own time, by context or by fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import EngineFailed
from engine.stores.memory import MemoryStore
from engine.testing.memory_engine import memory_engine
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Counter
from tests.support.held_store import HeldStore, unknown
from tests.support.tallies import GetTally, Tallies, Tally, get_tally

pytest_plugins = ["pytester"]


async def test_it_is_a_real_engine_with_projections_and_queries() -> None:
    async with memory_engine([Counter], projections=[Tallies], answers=[get_tally]) as engine:
        receipt = await engine.execute(Add("a", 3))

        assert await engine.query(GetTally("a"), at=receipt) == Tally("a", 3, 1)


async def test_time_stands_still_until_the_test_moves_it() -> None:
    clock, store = ManualClock(1_000_000), MemoryStore()
    async with memory_engine([Counter], clock=clock, store=store) as engine:
        await engine.execute(Add("a", 1))
        clock.advance(5)
        await engine.execute(Add("a", 1))

    events = await store.read_feed(0, events_max=10, bytes_max=10_000)
    assert [event.recorded for event in events] == [1_000_000, 6_000_000]


async def test_a_second_engine_on_the_same_store_is_a_restart() -> None:
    store = MemoryStore()
    for version in (1, 2):
        async with memory_engine([Counter], store=store) as engine:
            assert (await engine.execute(Add("a", 1))).version == version


async def test_an_engine_that_failed_fails_the_test() -> None:
    store = HeldStore()
    store.failures.append(unknown())
    with pytest.raises(EngineFailed):
        async with memory_engine([Counter], store=store) as engine:
            await engine.execute(Add("a", 1))


FIXTURE = """
import pytest
from engine import OutcomeUnknown
from engine.testing.pytest_plugin import MakeEngine
from tests.support.counters import Add, Counter
from tests.support.held_store import HeldStore, unknown

STOPPED = []

async def test_gives_engines(make_engine: MakeEngine):
    one, other = await make_engine(Counter), await make_engine(Counter)
    STOPPED.append(one)
    assert (await one.execute(Add("a", 1))).position == 1
    assert (await other.execute(Add("a", 1))).position == 1

async def test_the_engine_of_the_last_test_was_stopped():
    assert STOPPED[0].statistics().state == "stopped"

async def test_fails(make_engine: MakeEngine):
    store = HeldStore()
    store.failures.append(unknown())
    engine = await make_engine(Counter, store=store)
    with pytest.raises(OutcomeUnknown):
        await engine.execute(Add("a", 1))
"""


def test_the_fixture_starts_engines_and_stops_them(pytester: pytest.Pytester) -> None:
    root = Path(__file__).parents[2]
    pytester.makeconftest(
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        'pytest_plugins = ["engine.testing.pytest_plugin"]'
    )
    pytester.makepyfile(FIXTURE)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-o", "asyncio_mode=auto")

    # The last test passes, and its engine, which failed, makes an error when it is stopped.
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*EngineFailed*"])
