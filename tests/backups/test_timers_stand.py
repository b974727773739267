"""Timers of a log that was restored or repaired stand as they stood, and none is fired once more.

No event says that an operator has cancelled a timer, or that its command wrote nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from engine import Engine, Ports
from engine.backups.reading import BackupLog, BackupSource
from engine.backups.repairing import MendedSource
from engine.outside.copying import transfer
from engine.outside.timers import as_they_stand, table_of
from engine.stores.contract.timers import TimerKey, WaitingTimer
from engine.stores.urls import open_backend
from engine.testing.scenario import ManualClock
from tests.backups.made import backed_up, place, restored
from tests.outside.copied import NewStore
from tests.support.waiting import until
from tests.timers.kettles import Kettle, SwitchOn, failing, runs


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    runs.clear()
    failing.clear()
    failing.add("stuck")
    yield
    failing.clear()


def kettles(store: str, clock: ManualClock) -> Engine:
    return Engine([Kettle], store=store, ports=Ports(clock=clock))


def standing(store: str) -> Mapping[TimerKey, WaitingTimer]:
    with open_backend(store).outside(Ports()).log_reader() as log:
        return table_of(log)


def named(timers: Mapping[TimerKey, WaitingTimer]) -> Sequence[str]:
    return [stream.removeprefix("kettle:") for stream, _ in sorted(timers)]


async def evening(store: str, clock: ManualClock) -> None:
    """Let timers be cancelled, fail, be fired with events and without, and wait."""
    async with kettles(store, clock) as engine:
        await engine.execute(SwitchOn("cold", 1, off="nobody's"))
        await engine.execute(SwitchOn("given-up", 1))
        await engine.execute(SwitchOn("refilled", 1))
        await engine.execute(SwitchOn("stuck", 1))
        await engine.execute(SwitchOn("tomorrow", 24 * 60))
        await engine.cancel_timer("kettle:given-up", "off", reason="it was unplugged")
        clock.advance(61)
        await until(lambda: (s := engine.statistics().timers).fired == 2 and s.failed == 1)
    assert named(standing(store)) == ["given-up", "stuck", "tomorrow"]
    runs.clear()


async def fired_later(store: str, clock: ManualClock) -> Sequence[str]:
    """Give whose timers are fired in an hour, but for those that wait longer."""
    failing.clear()
    clock.advance(3_600)
    async with kettles(store, clock) as engine:
        await until(lambda: engine.statistics().timers.waiting == 1)
    return sorted(kettle for _, kettle, _ in runs)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_restored_log_has_the_timers_that_stood(
    new: NewStore, tmp_path: Path, kind: str
) -> None:
    source, target, folder, clock = new(kind), new("sqlite"), tmp_path / "kept", ManualClock()
    await evening(source, clock)
    await asyncio.to_thread(backed_up, source, folder)

    await asyncio.to_thread(restored, folder, target)

    assert standing(target) == standing(source)
    assert standing(target)["kettle:stuck", "off"].attempts == 1
    assert await fired_later(target, clock) == ["stuck"]


async def test_a_repaired_log_has_the_timers_that_stood(new: NewStore, tmp_path: Path) -> None:
    source, target, folder, clock = new("sqlite"), new("sqlite"), tmp_path / "kept", ManualClock()
    await evening(source, clock)
    backed_up(source, folder)
    damaged = open_backend(source).outside(Ports()).copy_source()
    mended = MendedSource(damaged, BackupSource(BackupLog(place(folder))), clock.now)

    transfer(mended, open_backend(target).outside(Ports()).copy_target())

    assert standing(target) == standing(source)
    assert not mended.notes
    assert await fired_later(target, clock) == ["stuck"]


async def test_at_an_earlier_end_what_was_cancelled_stays_so_and_the_rest_waits_again(
    new: NewStore, tmp_path: Path
) -> None:
    source, target, folder, clock = new("sqlite"), new("sqlite"), tmp_path / "kept", ManualClock()
    await evening(source, clock)
    backed_up(source, folder)

    restored(folder, target, at=5)

    assert named(standing(target)) == ["cold", "given-up", "refilled", "stuck", "tomorrow"]
    assert await fired_later(target, clock) == ["nobody's", "refilled", "stuck"]


async def test_a_backup_that_goes_on_has_the_timers_of_its_newest_end(
    new: NewStore, tmp_path: Path
) -> None:
    source, target, folder, clock = new("sqlite"), new("sqlite"), tmp_path / "kept", ManualClock()
    async with kettles(source, clock) as engine:
        await engine.execute(SwitchOn("early", 1))
        await engine.cancel_timer("kettle:early", "off")
        await asyncio.to_thread(backed_up, source, folder)
        await engine.fire_timer("kettle:early", "off")
        await until(lambda: engine.statistics().timers.fired == 1)
        await engine.execute(SwitchOn("late", 24 * 60))
        await engine.cancel_timer("kettle:late", "off")
        await asyncio.to_thread(backed_up, source, folder)

    restored(folder, target)

    assert standing(target) == standing(source)
    assert named(standing(target)) == ["late"]


def test_where_a_table_lacks_what_is_not_due_the_log_is_believed() -> None:
    soon = WaitingTimer("kettle:a", "off", 100, 1, 1, "off", b"{}", b"", 100)
    late = WaitingTimer("kettle:b", "off", 900, 2, 1, "off", b"{}", b"", 900)
    other = WaitingTimer("kettle:b", "off", 900, 7, 4, "off", b"{}", b"", 900, 0, True, "no")
    folded: dict[TimerKey, WaitingTimer] = {timer.key: timer for timer in (soon, late)}

    assert as_they_stand(folded, {}, now=500) == {late.key: late}
    assert as_they_stand(folded, {other.key: other}, now=50) == folded
