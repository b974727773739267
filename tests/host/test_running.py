"""`engine.run` calms the garbage collector, and the engine leaves it little to do."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import engine
from engine.running import CALM, YOUNG, note_new_aggregates
from engine.runtime.machine import SystemWorkers
from engine.write import directory
from tests.support.counters import Add, counters


@pytest.fixture(autouse=True)
def python_as_it_comes() -> Iterator[None]:
    """Tests of other tools may have set the collector up for themselves."""
    before, enabled = gc.get_threshold(), gc.isenabled()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
    assert gc.isenabled() == enabled


def seen() -> tuple[tuple[int, int, int], bool]:
    return gc.get_threshold(), gc.get_freeze_count() > 0


def test_run_calms_the_collector_until_it_ends() -> None:
    async def main(word: str) -> tuple[str, tuple[tuple[int, int, int], bool]]:
        return word, seen()

    assert engine.run(main, "word") == ("word", (CALM, True))
    assert seen() == ((700, 10, 10), False)


def test_what_run_raises_puts_the_collector_back_too() -> None:
    async def main() -> None:
        raise RuntimeError("of the host")

    with pytest.raises(RuntimeError, match="of the host"):
        engine.run(main)
    assert seen() == ((700, 10, 10), False)


def test_the_last_of_several_users_puts_the_collector_back() -> None:
    first, second = engine.calm_collector(), engine.calm_collector()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert seen() == (CALM, True)
    second.__exit__(None, None, None)
    assert seen() == ((700, 10, 10), False)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ((0, 10, 10), (0, 10, 1_000)),
        ((50_000, 5, 2_000), (50_000, 10, 2_000)),
    ],
)
def test_what_the_host_set_beyond_it_stays(
    host: tuple[int, int, int], inside: tuple[int, int, int]
) -> None:
    gc.set_threshold(*host)
    with engine.calm_collector():
        assert gc.get_threshold() == inside
    assert gc.get_threshold() == host


def test_a_host_that_froze_stays_frozen() -> None:
    gc.freeze()
    with engine.calm_collector():
        pass
    assert gc.get_freeze_count() > 0


class Page:
    """What a call in a thread brings back."""


async def test_what_a_worker_gave_is_free_without_the_collector() -> None:
    """A cycle around each call would keep whole pages and batches until the collector comes."""
    gc.disable()
    try:
        worker = SystemWorkers().start("test")
        page = await worker.run(Page)
        await asyncio.sleep(0)
        gone = weakref.ref(page)
        await worker.run(int)
        del page
        assert gone() is None
        await worker.close()
    finally:
        gc.enable()


async def test_a_commit_leaves_nothing_to_the_collector(tmp_path: Path) -> None:
    async with engine.Engine([Counter], store=f"sqlite:{tmp_path}/log.db") as running:
        await running.execute(Count(id="a"))
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await running.execute(Count(id="a"))
            assert gc.collect() == 0
        finally:
            gc.enable()


class Count(engine.Command):
    id: engine.Id


class Counted(engine.Event, name="counted", version=1):
    pass


class Counter(engine.Aggregate, kind="counter"):
    @engine.handles
    def count(self, command: Count) -> Counted:
        return Counted()

    @engine.applies
    def counted(self, event: Counted) -> None:
        pass


@pytest.mark.parametrize("calm", [True, False])
def test_the_young_are_collected_as_aggregates_come_where_the_collector_is_calm(
    calm: bool,
) -> None:
    """Python counts nothing where as much is freed as is made."""
    collected: list[int] = []

    def note(phase: str, told: dict[str, int]) -> None:
        if phase == "start":
            collected.append(told["generation"])

    with engine.calm_collector() if calm else nullcontext():
        gc.callbacks.append(note)
        try:
            for _ in range(16):
                note_new_aggregates(YOUNG // 2)
        finally:
            gc.callbacks.remove(note)

    assert sorted(collected) == ([0] * 6 + [1] * 2 if calm else [])


async def test_a_directory_tells_of_the_aggregates_that_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    monkeypatch.setattr(directory, "note_new_aggregates", told.append)
    async with counters() as shop:
        await asyncio.gather(*[shop.execute(Add(f"c{n}", 1)) for n in range(10)])

    assert sum(told) == 10
