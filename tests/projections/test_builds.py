"""Builds beside the tables that serve: rebuilt, swapped in, cancelled, dropped, gone back to."""

from __future__ import annotations

import asyncio

import pytest

from engine import (
    Engine,
    Meta,
    Projection,
    ProjectionLag,
    ProjectionUnserved,
    Query,
    Row,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from tests.projections.summing import (
    AILING,
    SEEN,
    AnewOutside,
    Kind,
    Sliced,
    Stopping,
    StoppingInBoth,
    SumOfThem,
    Tenfold,
    TenfoldInSql,
    add,
    filled,
    rebuilt,
    status,
    summing,
    sums,
)
from tests.support.counters import Added, Counter
from tests.support.waiting import until


async def test_a_rebuild_takes_the_place_of_the_old_tables_while_events_come_in(
    tabled: Kind, url: str
) -> None:
    async with filled(tabled.stopping, url, *["a", "b"] * 50) as engine:
        await engine.projections.rebuild("sums")
        positions = [await add(engine, f"c{n % 5}") for n in range(100)]
        for position in positions[-3:]:
            assert sum((await sums(engine, at=position)).values()) >= position
        await rebuilt(engine)

        found = await status(engine)
        assert [(b.number, b.state) for b in found.builds] == [(1, "former"), (2, "serving")]
        assert sum((await sums(engine, at=positions[-1])).values()) == 200
        assert sum((await sums(engine, at=await add(engine, "z"))).values()) == 201
        assert [b.number for b in await engine.projections.drop("sums")] == [1]
        assert [b.number for b in (await status(engine)).builds] == [2]


async def test_queries_never_go_back_in_time_during_a_rebuild(url: str) -> None:
    async with filled(Sliced, url, *["a", "b"] * 20) as engine:
        seen: list[int] = []

        async def look() -> None:
            while True:
                seen.append(sum((await sums(engine)).values()))
                await asyncio.sleep(0)

        looking = asyncio.ensure_future(look())
        for n in range(3):
            await engine.projections.rebuild("sums")
            await add(engine, *[f"c{n}"] * 10)
            await rebuilt(engine)
        looking.cancel()

        assert seen == sorted(seen)
        assert len(seen) > 10


async def test_a_raised_version_is_refused_with_what_to_do(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a"):
        pass

    with pytest.raises(StoreRefused, match=r'rebuild="auto".*Nothing was changed'):
        async with summing(tabled.tenfold, file):
            pass
    async with summing(tabled.stopping, file) as engine:
        assert await sums(engine, at=1) == {"a": 1}


async def test_a_raised_version_is_built_beside_the_old_one_which_serves_meanwhile(
    tabled: Kind,
    file: str,
) -> None:
    async with filled(tabled.stopping, file, "a", "b"):
        pass
    AILING.add("b")
    async with summing(tabled.tenfold, file, rebuild="auto") as engine:
        await until(lambda: engine.statistics().projectors["sums"].building is not None)
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is not None
                and b.state == "stopped"
            )
        )
        assert await sums(engine) == {"a": 1, "b": 1}, "the old tables have the same columns"
        found = await status(engine)
        assert (found.state, found.serving, found.version) == ("building", 1, 2)
        assert found.building is not None
        assert found.building.failure is not None
        with pytest.raises(ProjectionLag, match="building"):
            await engine.query(SumOfThem(), at=await add(engine, "a"), timeout=0.01)
        AILING.clear()
        await engine.projections.resume("sums")

        assert await sums(engine, at=3) == {"a": 20, "b": 10}
    async with summing(tabled.tenfold, file) as engine:
        assert await sums(engine, at=3) == {"a": 20, "b": 10}


class Widened(Row, key="counter"):
    counter: str
    total: int
    events: int
    last: int


class Wide(Projection, name="sums", version=2):
    rows: Table[Widened]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        if meta.id in AILING:
            raise ValueError("ailing")
        row = self.rows.get(meta.id) or Widened(meta.id, 0, 0, 0)
        total = row.total + event.amount
        self.rows.put(Widened(meta.id, total, row.events + 1, meta.position))


async def test_tables_of_other_columns_are_not_shown_as_if_they_were_the_new_ones(
    file: str,
) -> None:
    async with filled(Stopping, file, "a"):
        pass
    AILING.add("a")
    async with summing(Wide, file, rebuild="auto") as engine:
        with pytest.raises(ProjectionUnserved, match="is being built: .* have other columns"):
            await sums(engine)
        with pytest.raises(UsageError, match="let them be finished"):
            await engine.projections.cancel("sums")
        AILING.clear()
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is None
                or b.state == "stopped"
            )
        )
        await engine.projections.resume("sums")

        assert await sums(engine, at=1) == {"a": 1}


async def test_a_projection_becomes_one_of_another_kind_with_another_version(file: str) -> None:
    async with filled(Stopping, file, "a", "b"):
        pass
    async with summing(TenfoldInSql, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=2) == {"a": 10, "b": 10}
    with pytest.raises(StoreRefused, match="declared otherwise than they were stored"):
        async with summing(Tenfold, file, rebuild="auto"):
            pass
    async with summing(Stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
    async with summing(AnewOutside, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}
    async with summing(Stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}


async def test_a_former_version_comes_back_from_where_it_was(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a", "b"):
        pass
    async with summing(tabled.tenfold, file, rebuild="auto") as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 20, "b": 10}
    SEEN.clear()
    async with summing(tabled.stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert list(SEEN) == [("a", 3)], "only what it had not seen is folded"


async def test_a_rebuild_goes_on_after_a_restart(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, *["a", "b"] * 10) as engine:
        AILING.add("b")
        await engine.projections.rebuild("sums")
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is not None
                and b.state == "stopped"
            )
        )
    AILING.clear()
    SEEN.clear()
    async with summing(tabled.stopping, file) as engine:
        await rebuilt(engine)

        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]
        assert len(SEEN) == 19, "it goes on where it was"
        assert await sums(engine, at=20) == {"a": 10, "b": 10}


async def test_a_cancelled_rebuild_leaves_nothing(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a", "b") as engine:
        AILING.add("a")
        await engine.projections.rebuild("sums")
        await engine.projections.cancel("sums")
        AILING.clear()

        assert [b.number for b in (await status(engine)).builds] == [1]
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
        with pytest.raises(UsageError, match="is not being rebuilt"):
            await engine.projections.cancel("sums")


@pytest.mark.parametrize("projection", [Sliced, StoppingInBoth])
async def test_sql_by_the_plain_name_sees_the_build_that_serves(
    projection: type[Projection], url: str
) -> None:
    class Count(Query[int]):
        pass

    @answers
    async def count(query: Count, views: Views) -> int:
        assert await views.sql("select * from sums_rows where total < 0") == []
        ((number,),) = await views.sql("select count(*) from sums_rows")
        return int(number)

    engine = Engine([Counter], projections=[projection], answers=[count], store=url)
    async with engine:
        assert await engine.query(Count(), at=await add(engine, "a", "b")) == 2
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
        assert await engine.query(Count(), at=await add(engine, "c")) == 3


async def test_a_swap_that_would_go_back_in_time_is_refused(file: str) -> None:
    async with filled(Stopping, file, "a") as engine:
        views = engine._views
        build = await views.begin_build(Stopping.__definition__)
        from engine.stores.contract.views import ProjectionDecision

        with pytest.raises(StoreRefused, match="would go back in time"):
            await views.swap(
                Stopping.__definition__, build.number, ProjectionDecision("sums", "swap", 0, 1)
            )
        assert [b.state for b in await views.builds("sums")] == ["serving", "building"]
