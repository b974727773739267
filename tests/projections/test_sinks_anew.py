"""Sinks that are reset, raised, or lose their file; and sinks in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import Delivery, Limits, StoreRefused, UsageError
from engine.model.projection import slice_of
from tests.projections.receiver import (
    Outside,
    Parking,
    Receiver,
    add,
    filled,
    reached,
    sinking,
    status,
)
from tests.support.waiting import until


class Sliced(Outside, name="outside", version=1, slices=4):
    pass


class SlicedAndParking(Outside, name="outside", version=1, slices=4, on_poison="park"):
    pass


class Anew(Outside, name="outside", version=2):
    pass


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


# -- control --------------------------------------------------------------------------------------


async def test_a_rebuild_is_refused_with_what_to_do_instead(receiver: Receiver) -> None:
    async with sinking(receiver) as engine:
        with pytest.raises(UsageError, match=r"a sink of another name.*projections.reset\('outs"):
            await engine.projections.rebuild("outside")


async def test_reset_delivers_everything_again_and_says_so(
    receiver: Receiver, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with filled(receiver, file, Outside, "a", "b", "a") as engine:
        await reached(engine, 3)
        await engine.projections.reset("outside", reason="a new index", principal="ann")
        await until(lambda: len(receiver.positions) == 6)

    assert receiver.positions == [1, 2, 3, 1, 2, 3]
    assert "reset by ann and DELIVERS EVERYTHING AGAIN FROM THE BEGINNING" in caplog.text


async def test_a_raised_version_is_refused_or_delivers_everything_again(
    receiver: Receiver, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with filled(receiver, file, Outside, "a", "b") as engine:
        await reached(engine, 2)
    with pytest.raises(StoreRefused, match="another version delivers everything again"):
        async with sinking(receiver, file, Anew):
            pass
    assert receiver.positions == [1, 2]
    async with sinking(receiver, file, Anew, rebuild="auto") as engine:
        await reached(engine, 2)
        await until(lambda: len(receiver.positions) == 4)
    async with sinking(receiver, file, Anew) as engine:
        await reached(engine, await add(engine, "c"))

    assert receiver.positions == [1, 2, 1, 2, 3]
    assert "version 2 now, and DELIVERS EVERYTHING AGAIN" in caplog.text


async def test_a_lost_file_of_views_delivers_everything_again_and_says_so(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = f"sqlite:{tmp_path / 'log.db'}"
    async with sinking(receiver, file) as engine:
        await reached(engine, await add(engine, "a", "b"))
    assert "FROM THE BEGINNING" not in caplog.text
    (tmp_path / "log.views.db").unlink()
    async with sinking(receiver, file) as engine:
        await reached(engine, 2)

    assert receiver.positions == [1, 2, 1, 2]
    assert "outside has no checkpoint in these views: it delivers all 2 events" in caplog.text


async def test_another_log_delivers_everything_again_and_says_so(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = f"sqlite:{tmp_path / 'log.db'}"
    for _ in range(2):
        async with sinking(receiver, file) as engine:
            await reached(engine, await add(engine, "a"))
        for path in tmp_path.glob("log.db*"):
            path.unlink()

    assert receiver.positions == [1, 1]
    assert "WHICH DELIVERS EVERYTHING FROM THE BEGINNING" in caplog.text


async def test_other_slices_go_on_where_the_former_ones_were(receiver: Receiver, file: str) -> None:
    receiver.poison.add(2)
    async with filled(receiver, file, Parking, "a", "b", "c", "d", "b") as engine:
        await reached(engine, 5)
    async with sinking(receiver, file, SlicedAndParking) as engine:
        await reached(engine, await add(engine, "b", "a"))
        assert sorted(receiver.positions) == [1, 3, 4, 7]
        assert [p.position for p in await engine.projections.parked("outside")] == [2, 5, 6]
        receiver.poison.clear()
        assert (await engine.projections.retry("outside")).released == 3
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, await add(engine, "b"))

    assert [v for s, v in receiver.seen if s == "counter:b"] == [1, 2, 3, 4]
    assert sorted(receiver.positions) == list(range(1, 9))


async def test_fewer_slices_go_on_behind_the_slowest_and_forget_nothing(
    receiver: Receiver, file: str
) -> None:
    """What a faster slice had parked comes again, and is parked once."""
    slow, fast = two_keys_of_two_slices()
    held = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        if batch[0].meta.id == slow:
            await held.wait()

    receiver.hold, receiver.poison = hold, {2}
    async with sinking(receiver, file, SlicedAndParking, limits=Limits(sink_stop_seconds=1)) as e:
        await add(e, slow, fast, fast)
        await until(lambda: e.statistics().projectors["outside"].parked == 2)
    receiver.hold = None
    async with sinking(receiver, file, Parking) as engine:
        await reached(engine, 3)
        assert [p.position for p in await engine.projections.parked("outside")] == [2, 3]
        assert (await status(engine)).parked == 2
        receiver.poison.clear()
        assert (await engine.projections.retry("outside")).released == 2
        await reached(engine, await add(engine, fast))

    assert receiver.positions == [1, 2, 3, 4]


def two_keys_of_two_slices() -> tuple[str, str]:
    names = [f"c{n}" for n in range(99)]
    other = next(n for n in names if slice_of(f"counter:{n}", 4) != slice_of("counter:c0", 4))
    return "c0", other


# -- slices ---------------------------------------------------------------------------------------


async def test_slices_deliver_at_the_same_time_and_keys_in_order(
    receiver: Receiver, file: str
) -> None:
    """None is through before one of each slice is under way."""
    begun = set[int]()
    all_begun = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        begun.update(slice_of(delivery.meta.stream, 4) for delivery in batch)
        if len(begun) == 4:
            all_begun.set()
        await all_begun.wait()

    receiver.hold = hold
    counters = [f"c{n % 13}" for n in range(130)]
    async with filled(receiver, file, Sliced, *counters) as engine:
        await reached(engine, 130)

    assert sorted(receiver.positions) == list(range(1, 131))
    for counter in set(counters):
        assert [v for s, v in receiver.seen if s == f"counter:{counter}"] == list(range(1, 11))


async def test_a_slice_that_hangs_holds_up_its_own_keys_only(receiver: Receiver) -> None:
    slow, fast = two_keys_of_two_slices()
    held = asyncio.Event()

    async def hold(batch: Sequence[Delivery[Any]]) -> None:
        if batch[0].meta.id == slow:
            await held.wait()

    receiver.hold = hold
    async with sinking(receiver, sink=Sliced) as engine:
        position = await add(engine, slow, fast, slow, fast)
        await until(lambda: receiver.positions == [2, 4])
        held.set()
        await reached(engine, position)

    assert [v for s, v in receiver.seen if s == f"counter:{slow}"] == [1, 2]
