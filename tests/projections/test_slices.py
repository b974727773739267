"""Slices: keys stay in theirs, poison stops one alone, and none writes the rows of another."""

from __future__ import annotations

from typing import Any

import pytest

from engine import (
    DefinitionError,
    Event,
    Meta,
    Projection,
    ProjectionLag,
    StoreRefused,
    Table,
    projects,
)
from engine.model.projection import slice_of
from tests.projections.summing import (
    AILING,
    SEEN,
    Base,
    Sliced,
    SlicedAndParking,
    Stopping,
    Sum,
    add,
    filled,
    status,
    summing,
    sums,
)
from tests.support.counters import Added
from tests.support.waiting import until


class SlicedInOrder(Base, name="sums", version=1, slices=4):
    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Sum(meta.id, 0, 0)
        if meta.version != row.events + 1:
            raise ValueError(f"version {meta.version} after {row.events}")
        self.rows.put(Sum(meta.id, row.total + event.amount, row.events + 1))


async def test_slices_give_the_tables_that_one_projector_gives(url: str) -> None:
    counters = [f"c{n % 13}" for n in range(300)]
    async with filled(SlicedInOrder, url, *counters) as engine:
        expected = {name: counters.count(name) for name in set(counters)}

        assert await sums(engine) == expected
        assert (await status(engine)).slices == 4
        assert len({slice_of(f"counter:{name}", 4) for name in expected}) == 4


def test_a_key_is_in_its_slice_for_ever() -> None:
    assert [slice_of(f"counter:c{n}", 4) for n in range(12)] == [3, 1, 3, 1, 2, 0, 2, 0, 1, 3, 3, 1]


async def test_slices_catch_up_after_a_restart(file: str) -> None:
    async with filled(Sliced, file, *[f"c{n}" for n in range(40)]):
        pass
    SEEN.clear()
    async with summing(Sliced, file) as engine:
        assert len(await sums(engine, at=await add(engine, "x", "y"))) == 42
        assert sorted(SEEN) == [("x", 41), ("y", 42)]


async def test_poison_stops_its_slice_alone(url: str) -> None:
    AILING.add("a")
    other = next(
        f"c{n}" for n in range(99) if slice_of(f"counter:c{n}", 4) != slice_of("counter:a", 4)
    )
    async with summing(Sliced, url) as engine:
        position = await add(engine, "a", other)
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        await until(lambda: len(SEEN) == 2)
        AILING.clear()
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"a": 1, other: 1}


async def test_parking_in_slices(url: str) -> None:
    AILING.update(("a", "b"))
    async with summing(SlicedAndParking, url) as engine:
        await sums(engine, at=await add(engine, "a", "b", "c", "d", "a"))
        assert (await status(engine)).parked == 3
        AILING.clear()

        assert (await engine.projections.retry("sums")).released == 3
        assert await sums(engine) == {"a": 2, "b": 1, "c": 1, "d": 1}


class Shared(Projection, name="sums", version=1, slices=4):
    """Events of all counters change one row: no slice may have it."""

    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get("all") or Sum("all", 0, 0)
        self.rows.put(Sum("all", row.total + 1, row.events + 1))


async def test_a_row_of_another_slice_is_refused_and_never_overwritten(url: str) -> None:
    async with summing(Shared, url) as engine:
        position = await add(engine, *[f"c{n}" for n in range(20)])
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)

        failure = engine.statistics().projectors["sums"].failure
        assert failure is not None
        assert "belongs to slice" in failure.cause


def all_in_one(event: Event, meta: Meta) -> str:
    return "all"


class SharedInOne(Projection, name="sums", version=1, slices=4, sequence=all_in_one):
    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get("all") or Sum("all", 0, 0)
        self.rows.put(Sum("all", row.total + 1, row.events + 1))


async def test_a_sequence_of_its_own_puts_a_row_into_one_slice(url: str) -> None:
    async with filled(SharedInOne, url, *[f"c{n}" for n in range(20)]) as engine:
        assert await sums(engine) == {"all": 20}


async def test_other_slices_are_a_changed_definition(file: str) -> None:
    async with filled(Sliced, file, "a", "b"):
        pass

    with pytest.raises(
        StoreRefused, match="version 1 in 1 slices, and its views are version 1 in 4"
    ):
        async with summing(Stopping, file):
            pass
    async with summing(Stopping, file, rebuild="auto") as engine:
        assert await sums(engine, at=2) == {"a": 1, "b": 1}


@pytest.mark.parametrize("slices", [0, 65, True, "4"])
def test_a_number_of_slices_that_cannot_be_is_refused(slices: Any) -> None:
    with pytest.raises(DefinitionError, match="give a number from 1 to 64"):

        class Wrong(Base, name="wrong", slices=slices):
            rows: Table[Sum]


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(DefinitionError, match="on_poison='skip'"):

        class Wrong(Base, name="wrong", on_poison="skip"):  # type: ignore[arg-type]
            rows: Table[Sum]
