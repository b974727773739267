"""Read models elsewhere, one suite for all databases: each event counts once, whatever dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Ports, ProjectionLag
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.integrations.places import (
    SOCKETS_LEFT,
    Beside,
    Counting,
    Database,
    Deaf,
    Kept,
    Note,
    keeping,
)
from tests.support.breaking_lines import line_to
from tests.support.brokers import PASSWORD
from tests.support.counters import Add, Counter, Empty
from tests.support.shelf import Crash
from tests.support.waiting import until

pytestmark = SOCKETS_LEFT


def of(*names: str) -> pytest.MarkDecorator:
    """Run a test on these only."""
    return pytest.mark.parametrize("database", names, indirect=True)


async def add(engine: Engine, counters: str) -> int:
    position = 0
    for counter in counters:
        position = (await engine.execute(Add(counter, 1))).position
    return position


async def kept(engine: Engine, position: int) -> None:
    await engine.query(Kept(), at=position, timeout=30)


async def cause_of(engine: Engine, position: int) -> str:
    with pytest.raises(ProjectionLag, match="stopped"):
        await kept(engine, position)
    failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    return failure.cause


async def test_a_query_waits_for_the_model_and_each_event_counts_once(
    database: Database, tmp_path: Path
) -> None:
    for times in (1, 2):
        async with keeping(database.model(), tmp_path / "log.db") as engine:
            await kept(engine, await add(engine, "aba"))
            assert await database.totals() == {"a": 2 * times, "b": times}


async def test_a_row_that_is_removed_is_gone_and_may_come_again(database: Database) -> None:
    async with keeping(database.model()) as engine:
        await add(engine, "aab")
        await kept(engine, (await engine.execute(Empty("a"))).position)
        assert await database.totals() == {"b": 1}
        await kept(engine, await add(engine, "a"))
        assert await database.totals() == {"a": 1, "b": 1}


async def test_a_crash_between_the_write_and_the_checkpoint_counts_nothing_twice(
    database: Database, tmp_path: Path
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    async with Engine([Counter], store=f"sqlite:{tmp_path / 'log.db'}") as engine:
        await add(engine, "abaab")
        await engine.execute(Empty("b"))
    crashing = keeping(database.model(), tmp_path / "log.db", ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    assert await database.totals() == {"a": 3}
    async with Engine([Counter], store=f"sqlite:{tmp_path / 'log.db'}") as engine:
        await add(engine, "a")  # so that old events and a new one come in one batch
    async with keeping(database.model(), tmp_path / "log.db") as engine:
        await kept(engine, 7)
    assert await database.totals() == {"a": 4}


@of("redis", "opensearch", "mongodb", "mariadb")
async def test_a_line_that_is_cut_anywhere_counts_nothing_twice(
    database: Database, tmp_path: Path
) -> None:
    async with Engine([Counter], store=f"sqlite:{tmp_path / 'log.db'}") as engine:
        await add(engine, "abc" * 40)
    cuts = 0
    for version, left in enumerate((400, 800, 1_500, 2_500, 4_000, 6_000), 1):
        async with line_to(database.port) as line:
            line.left = left
            model = database.model(version=version, port=line.port)
            async with keeping(model, tmp_path / "log.db", rebuild="auto") as engine:
                await kept(engine, 120)
            cuts += line.cuts
        assert await database.totals() == {"a": 40, "b": 40, "c": 40}
    assert cuts >= 4


async def test_a_raised_version_makes_the_rows_anew_and_lets_go_of_the_old_ones(
    database: Database, tmp_path: Path
) -> None:
    async with keeping(database.model(), tmp_path / "log.db") as engine:
        await kept(engine, await add(engine, "aba"))
    second = database.model(Counting(factor=2), version=2)
    async with keeping(second, tmp_path / "log.db", rebuild="auto") as engine:
        await kept(engine, await add(engine, "b"))
    assert await database.totals() == {"a": 4, "b": 4}
    assert await database.left(1) == 0


@of("redis", "opensearch", "mongodb")
async def test_readers_find_the_old_rows_until_the_new_ones_are_as_far(
    database: Database, tmp_path: Path
) -> None:
    async with keeping(database.model(), tmp_path / "log.db") as engine:
        answers = [a async for a in engine.execute_many([Add(c, 1) for c in "ab" * 600])]
        await kept(engine, len(answers))
    counting = Counting(factor=2, fails_at=1_100)
    second = database.model(counting, version=2, **database.stops)
    async with keeping(second, tmp_path / "log.db", rebuild="auto") as engine:
        statistics = engine.statistics
        await until(lambda: statistics().projectors["totals"].state == "stopped")
        assert statistics().projectors["totals"].position == 1_099
        assert await database.totals() == {"a": 600, "b": 600}
        counting.fails_at = 0
        await engine.projections.resume("totals")
        await kept(engine, 1_200)
    assert await database.totals() == {"a": 1_200, "b": 1_200}


async def test_a_version_that_is_lowered_again_makes_its_rows_anew(
    database: Database, tmp_path: Path
) -> None:
    for version in (1, 2, 1):
        model = database.model(version=version)
        async with keeping(model, tmp_path / "log.db", rebuild="auto") as engine:
            await add(engine, "ab")
            await kept(engine, engine.statistics().position)
    assert await database.totals() == {"a": 3, "b": 3}


async def test_rows_of_another_log_are_not_mixed(database: Database, tmp_path: Path) -> None:
    async with keeping(database.model(), tmp_path / "one.db") as engine:
        await kept(engine, await add(engine, "aa"))
    async with keeping(database.model(), tmp_path / "two.db") as engine:
        position = await add(engine, "b")
        if database.takes_other_logs:
            await kept(engine, position)
            assert await database.totals() == {"b": 1}
        else:
            assert "rows of another log" in await cause_of(engine, position)
            assert await database.totals() == {"a": 2}


async def test_what_is_somebody_elses_is_not_touched(database: Database) -> None:
    await database.occupy()
    async with keeping(database.model()) as engine:
        cause = await cause_of(engine, await add(engine, "a"))
    assert "is not the model's" in cause or "are not its own" in cause
    assert await database.is_occupied()


async def test_a_log_that_went_back_is_noticed(database: Database, tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    async with keeping(database.model(), log) as engine:
        await kept(engine, await add(engine, "a"))
        copy_log(SystemFiles(), str(log), str(backup))
        await kept(engine, await add(engine, "a"))
    async with keeping(database.model(), backup) as engine:
        assert "went back" in await cause_of(engine, await add(engine, "b"))
    async with keeping(database.model(version=2), backup, rebuild="auto") as engine:
        await kept(engine, 2)
    assert await database.totals() == {"a": 1, "b": 1}


async def test_a_log_that_went_back_is_noticed_before_it_comes_to_where_the_model_is(
    database: Database, tmp_path: Path
) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    async with keeping(database.model(), log) as engine:
        await kept(engine, await add(engine, "a"))
        copy_log(SystemFiles(), str(log), str(backup))
        await kept(engine, await add(engine, "aaa"))
    async with keeping(database.model(), backup) as engine:
        assert "went back" in await cause_of(engine, await add(engine, "b"))
    async with Engine([Counter, Beside], store=f"sqlite:{backup}") as engine:
        await engine.execute(Note("n"))
        await engine.execute(Note("n"))  # at the position that the model has, and none of its own
    async with keeping(database.model(), backup) as engine:
        assert "went back" in await cause_of(engine, await add(engine, "b"))
    assert await database.totals() == {"a": 4}


async def test_a_database_that_went_back_is_noticed_and_mended_by_a_reset(
    database: Database, tmp_path: Path
) -> None:
    log = tmp_path / "log.db"
    async with keeping(database.model(), log) as engine:
        await kept(engine, await add(engine, "ab"))
    async with keeping(Deaf, log) as engine:
        await kept(engine, await add(engine, "ac"))
    async with keeping(database.model(), log) as engine:
        cause = await cause_of(engine, await add(engine, "b"))
        assert "has lost rows: it is at position 2 and lacks the event at 3" in cause
        assert await database.totals() == {"a": 1, "b": 1}
        await engine.projections.reset("totals")
        await engine.projections.resume("totals")
        await kept(engine, 5)
    assert await database.totals() == {"a": 2, "b": 2, "c": 1}


async def test_a_database_that_is_empty_is_noticed_and_mended_by_a_reset(
    database: Database, tmp_path: Path
) -> None:
    log = tmp_path / "log.db"
    async with keeping(database.model(), log) as engine:
        await kept(engine, await add(engine, "ab"))
    await database.empty()
    async with keeping(database.model(), log) as engine:
        assert "lacks the event at 1" in await cause_of(engine, await add(engine, "b"))
        await engine.projections.reset("totals")
        await engine.projections.resume("totals")
        await kept(engine, 3)
    assert await database.totals() == {"a": 1, "b": 2}


async def test_what_was_skipped_set_aside_or_is_of_no_class_of_the_model_is_not_missed(
    database: Database, tmp_path: Path
) -> None:
    log, counting = tmp_path / "log.db", Counting(fails_at=3)
    async with keeping(database.model(counting), log) as engine:
        await add(engine, "aba")
        if not database.parks:
            await cause_of(engine, 3)
            await engine.projections.skip("totals", 3, reason="it is wrong")
            await engine.projections.resume("totals")
        await engine.execute(Note("n"))
        await until(lambda: engine.statistics().projectors["totals"].lag_events == 0)
    async with keeping(database.model(counting), log) as engine:
        await kept(engine, await add(engine, "b"))
    assert await database.totals() == {"a": 1, "b": 2}


@of("redis", "opensearch", "mongodb")
async def test_rows_that_the_server_has_lost_are_noticed(database: Database) -> None:
    async with keeping(database.model()) as engine:
        await kept(engine, await add(engine, "a"))
        await database.empty()
        database.kill()
        database.start()
        assert "has lost rows" in await cause_of(engine, await add(engine, "a"))


@of("redis", "mongodb", "mariadb")
async def test_a_server_that_dies_is_waited_for_and_has_kept_all(
    database: Database, tmp_path: Path
) -> None:
    async with keeping(database.model(), tmp_path / "log.db") as engine:
        await kept(engine, await add(engine, "ab" * 5))
        database.kill()
        try:
            position = await add(engine, "a")  # no writer waits for it
            await until(lambda: engine.statistics().projectors["totals"].retries > 1)
        finally:
            database.start()
        await kept(engine, position)
    assert await database.totals() == {"a": 6, "b": 5}


async def test_what_apply_raises_leaves_nothing_half_done(
    database: Database, tmp_path: Path
) -> None:
    counting = Counting(fails_at=2)
    async with keeping(database.model(counting), tmp_path / "log.db") as engine:
        position = await add(engine, "abab")
        if not database.parks:
            assert "a secret" in await cause_of(engine, position)
            assert await database.totals() == {"a": 1}
            assert (await engine.projections.status("totals")).parked == 0
            return
        await kept(engine, position)
        assert (await engine.projections.status("totals")).parked == 2
        assert await database.totals() == {"a": 2}
        counting.fails_at = 0
        await engine.projections.retry("totals")
    assert await database.totals() == {"a": 2, "b": 2}


@of("redis", "opensearch", "mongodb")
async def test_an_error_of_the_client_that_nobody_expects_parks_nothing(database: Database) -> None:
    model: Any = database.model()
    make, is_broken = model.model_place, True

    def make_odd(name: str) -> Any:
        place = make(name)
        write = place.write

        async def fail(changes: Any) -> None:
            if is_broken:
                raise KeyError(PASSWORD)
            await write(changes)

        place.write = fail
        return place

    model.model_place = staticmethod(make_odd)
    async with keeping(model) as engine:
        position = await add(engine, "ab")
        await until(lambda: engine.statistics().projectors["totals"].retries > 1)
        found = await engine.projections.status("totals")
        assert (found.state, found.parked) == ("retrying", 0)
        assert found.retrying is not None
        assert "KeyError" in found.retrying.cause
        assert PASSWORD not in found.retrying.cause
        is_broken = False
        await kept(engine, position)
    assert await database.totals() == {"a": 1, "b": 1}
