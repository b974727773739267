"""What is not built from another process, and to whom a build belongs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, StoreFailed, StoreRefused, UsageError
from engine.outside.build import Ending
from engine.statistics import BuildProgress
from engine.stores.contract.views import Part
from engine.stores.sqlite.views.catalog import Catalog
from engine.stores.sqlite.views.store import SqliteViews
from tests.outside.building import BUILT, beside, build, builds, serving, views
from tests.support.processes import ran, release
from tests.support.sums import AILING, FOLDED, add, summing, sums
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()
    FOLDED.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


async def rebuilt(engine: Engine) -> None:
    """Wait until no build is on its way."""
    await until(lambda: engine.statistics().projectors["sums"].building is None)


# -- what is refused ----------------------------------------------------------------------------


async def test_what_serves_already_is_not_built(path: Path) -> None:
    async with serving(path, "a"):
        with pytest.raises(StoreRefused, match=r"is served as it is declared, version 1 in 1"):
            await build(path, "stopping")
    assert builds(path) == [(1, 1, "serving")]


async def test_the_same_version_with_other_tables_is_not_built(path: Path) -> None:
    async with serving(path, "a"):
        with pytest.raises(StoreRefused, match="declare it as `version=2`"):
            await build(path, "otherwise")
    assert builds(path) == [(1, 1, "serving")]


async def test_a_sink_has_nothing_to_be_built(path: Path) -> None:
    async with serving(path, "a", named="sink"):
        with pytest.raises(UsageError, match="is a sink or a reactor, which has no tables"):
            await build(path, "sink-anew")
    assert builds(path) == [(1, 1, "serving")]


async def test_a_projection_in_sql_is_built_beside_as_well(path: Path) -> None:
    async with serving(path, "a", "b", named="sql"):
        FOLDED.clear()
        assert (await build(path, "sql-anew")).why == "caught-up"
        assert set(FOLDED) == {1, 2}
        FOLDED.clear()
    async with serving(path, named="sql-anew") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
        assert set(FOLDED) == {3}


async def test_a_build_in_sql_gives_the_file_back_in_between(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs it, however many events wait to be folded."""
    held: list[int] = []
    monkeypatch.setattr("engine.outside.build.TRANSACTION_SECONDS", 0.0)
    async with serving(path, *"ab" * 20, named="sql") as engine:
        committed = SqliteViews._committed

        def noted(self: SqliteViews, part: Part) -> None:
            held.append(len(FOLDED))
            committed(self, part)

        monkeypatch.setattr(SqliteViews, "_committed", noted)
        FOLDED.clear()
        assert (await build(path, "sql-anew")).why == "caught-up"
        assert held == list(range(1, 41)), "an event a transaction, where each takes that long"
        assert await sums(engine, at=await add(engine, "a")) == {"a": 21, "b": 20}
    async with serving(path, named="sql-anew") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=41) == {"a": 21, "b": 20}


async def test_a_build_that_is_dropped_as_it_begins_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = beside(path)
    async with serving(path, "a") as engine:
        opened = building._views.open

        async def dropped(*arguments: Any, **options: Any) -> None:
            await opened(*arguments, **options)
            await engine.projections.cancel("sums")

        monkeypatch.setattr(building._views, "open", dropped)
        with pytest.raises(StoreRefused, match="was dropped by another process as it began"):
            await building.__aenter__()


async def test_another_version_that_is_being_built_is_left_alone(path: Path) -> None:
    async with serving(path, "a"):
        await build(path)
        with pytest.raises(StoreRefused, match=r"version 2 of .* is being built \(build 2\)"):
            await build(path, "hundredfold")
    assert builds(path) == [(1, 1, "serving"), (2, 2, "building")]


async def test_without_views_nothing_is_built_or_made(path: Path) -> None:
    async with serving(path, "a"):
        pass
    path.with_suffix(".views.db").unlink()
    with pytest.raises(StoreRefused, match="there are no views"):
        await build(path)
    assert not path.with_suffix(".views.db").exists()


async def test_views_that_do_not_belong_to_the_log_are_left_to_an_engine(path: Path) -> None:
    async with serving(path, "a"):
        pass
    views(path, "UPDATE checkpoints SET checksum = checksum + 1")
    with pytest.raises(StoreRefused, match="do not belong to this log"):
        await build(path)
    assert builds(path) == [(1, 1, "serving")]


def test_what_the_command_cannot_find_is_told_in_a_line(path: Path) -> None:
    with release(path, "stopping") as old:
        for app, name, told in (
            (
                "tests.support.sums:tenfold",
                "orders",
                "declares no projection 'orders'; it declares ['sums",
            ),
            ("tests.nothing:tenfold", "sums", "cannot be imported from here"),
            (BUILT, "sums", "there is no log"),
        ):
            file = path.with_name("none.db") if told == "there is no log" else path
            status, out, err = ran("build", file, app, name)
            assert (status, out) == (1, "")
            assert told in err
            assert err.count("\n") == 1
        old.end()


# -- whose it is --------------------------------------------------------------------------------


async def started(running: asyncio.Task[Ending], path: Path) -> None:
    """Wait until a build follows."""
    at = "SELECT min(position) FROM checkpoints WHERE build = 2"
    await until(lambda: running.done() or views(path, at) == [(1,)])


async def test_of_two_that_build_the_same_the_first_gives_way(path: Path) -> None:
    async with serving(path, "a") as engine, beside(path) as first:
        told: list[BuildProgress] = []
        running = asyncio.create_task(first.run(told.append, follow=True))
        await started(running, path)
        async with beside(path) as second:
            ending = await asyncio.wait_for(running, 20)
            assert ending.why == "built-by-another"
            await add(engine, "a", "b")
            assert (await second.run(told.append)).why == "caught-up"
    async with serving(path, named="tenfold") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 20, "b": 10}


async def test_a_build_that_is_not_its_own_any_more_is_written_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(path, "a") as engine, beside(path) as first:
        look, projector, added = first._elsewhere, first._projectors[0], asyncio.Event()

        async def look_when_it_has_tried() -> Any:
            await added.wait()
            projector.subscription.miss()
            await until(lambda: projector.state == "stopped" or projector.position > 1)
            return await look()

        running = asyncio.create_task(first.run(lambda _: None, follow=True))
        await started(running, path)
        # Taken away in the middle of a write, before it looks.
        monkeypatch.setattr(first, "_elsewhere", look_when_it_has_tried)
        views(path, "UPDATE builds SET builder = 'another' WHERE number = 2")
        await add(engine, "a")
        added.set()
        assert (await asyncio.wait_for(running, 20)).why == "built-by-another"
        assert views(path, "SELECT position FROM checkpoints WHERE build = 2") == [(1,)]
        assert views(path, "SELECT count(*) FROM failures") == [(0,)]


async def test_a_build_that_finds_no_room_says_so_and_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody waits for it, and begins it again when there is room."""

    def full(views: SqliteViews, changes: Any) -> Any:
        del views, changes
        raise StoreFailed("the disk is full", written=False, passes=True)

    async with serving(path, "a"):
        with monkeypatch.context() as patch:
            patch.setattr(SqliteViews, "write", full)
            ending = await asyncio.wait_for(build(path), 20)
        assert ending.why == "stopped"
        assert ending.failure is not None
        assert "the disk is full" in ending.failure.cause
        assert (await build(path)).why == "caught-up"


async def test_a_former_version_is_caught_up_and_not_built_anew(path: Path) -> None:
    async with serving(path, "a", "b"):
        await build(path)
    async with serving(path, named="tenfold") as engine:
        await rebuilt(engine)
        await add(engine, "a")
        FOLDED.clear()
        assert (await build(path, "stopping")).why == "caught-up"
        assert [n for n in set(FOLDED) if n < 3] == []
    async with serving(path) as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert [b.number for b in (await engine.projections.status("sums")).builds] == [1, 2]


async def test_the_engines_own_rebuild_is_not_taken_by_another_process(path: Path) -> None:
    async with serving(path, "a") as engine:
        await engine.projections.pause("sums")
        await engine.projections.rebuild("sums")
        with pytest.raises(StoreRefused, match=r"version 1 of .* is being built \(build 2\)"):
            await build(path)
        await engine.projections.resume("sums")
        await rebuilt(engine)


@pytest.mark.parametrize("named", ["tenfold", "sliced"])
async def test_a_build_of_an_engine_at_work_is_left_to_it(path: Path, named: str) -> None:
    async with serving(path, "a", "b"):
        pass
    async with summing(named, f"sqlite:{path}", rebuild="auto") as engine:
        await engine.projections.pause("sums")
        assert builds(path) == [(1, 1, "serving"), (2, 2, "building")]
        for _ in range(2):
            assert (await build(path, named)).why == "taken-over"
        await engine.projections.resume("sums")
        await rebuilt(engine)
        assert await sums(engine, at=await add(engine, "a")) == {"a": 20, "b": 10}
    assert views(path, "SELECT builder FROM builds WHERE number = 2") == [(None,)]
    async with serving(path, named=named) as engine:
        assert await sums(engine, at=await add(engine, "b")) == {"a": 20, "b": 20}


async def test_a_build_that_an_engine_left_is_gone_on_with_where_none_runs(path: Path) -> None:
    async with serving(path, "a", "b") as engine:
        await engine.projections.pause("sums")
    async with summing("tenfold", f"sqlite:{path}", rebuild="auto"):
        pass
    assert builds(path) == [(1, 1, "serving"), (2, 2, "building")]
    assert (await build(path)).why == "caught-up"
    async with serving(path, named="tenfold") as engine:
        await engine.projections.resume("sums")
        await rebuilt(engine)
        assert await sums(engine, at=2) == {"a": 10, "b": 10}


async def test_what_a_former_release_left_of_a_builder_stops_nobody(path: Path) -> None:
    async with serving(path, "a"):
        pass
    views(path, "UPDATE builds SET builder = 'somebody'")
    async with serving(path) as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_a_build_that_another_process_has_taken_is_not_swapped_in(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path, "a") as engine:
        gate = engine._views.swap

        async def taken(*arguments: Any) -> None:
            views(path, "UPDATE builds SET builder = 'another' WHERE number = 2")
            await gate(*arguments)

        engine._views.swap = taken  # type: ignore[method-assign, assignment]
        await engine.projections.rebuild("sums")
        await until(lambda: "is built by another process now" in caplog.text)
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}
    assert builds(path) == [(1, 1, "serving"), (2, 1, "building")]


async def test_progress_is_told(path: Path) -> None:
    told: list[BuildProgress] = []
    async with serving(path, *"ab" * 10), beside(path) as building:
        ending = await building.run(told.append)

    assert ending.progress.position == 20
    assert (told[-1].position, told[-1].lag_events, told[-1].version) == (20, 0, 2)
    # However fast it is, it says first where it begins.
    assert (told[0].position, told[0].lag_events) == (0, 20)


async def test_a_build_begun_in_the_same_moment_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(path, "a") as engine:
        decide = Catalog.plan

        async def plan(*arguments: Any) -> Any:
            planned = await decide(*arguments)
            await engine.projections.pause("sums")
            await engine.projections.rebuild("sums")
            return planned

        monkeypatch.setattr(Catalog, "plan", plan)
        with pytest.raises(StoreRefused, match="were changed by another process"):
            await build(path)
    assert builds(path) == [(1, 1, "serving"), (2, 1, "building")]
