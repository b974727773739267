"""A read model in a SQL database: each event counts once, and tables of others are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from engine import (
    DefinitionError,
    Engine,
    Event,
    Meta,
    Ports,
    Projection,
    ProjectionLag,
    Query,
    Views,
    answers,
)
from engine.integrations.sqlalchemy import SqlReadModel
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.support.counters import Add, Added, Counter, Emptied, Empty
from tests.support.mariadb import MariaServer
from tests.support.shelf import Crash
from tests.support.waiting import until


@pytest.fixture(scope="module")
def maria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaServer]:
    server = MariaServer(tmp_path_factory.mktemp("maria"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["mariadb", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sql.Engine]:
    """Give an empty database."""
    if request.param == "sqlite":
        engine = sql.create_engine(f"sqlite:///{tmp_path / 'model.db'}")
    else:
        server: MariaServer = request.getfixturevalue("maria")
        name = f"d{abs(hash(str(tmp_path)))}"
        with sql.create_engine(server.url).begin() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {name}"))
        engine = sql.create_engine(server.url + name)
    yield engine
    engine.dispose()


TABLES = sql.MetaData()
TOTALS = sql.Table(
    "totals",
    TABLES,
    sql.Column("counter", sql.String(50), primary_key=True),
    sql.Column("total", sql.Integer, nullable=False),
)


def count(connection: Any, event: Added | Emptied, meta: Meta) -> None:
    """Count on, which an event that came twice would do twice; what is emptied is deleted."""
    own = TOTALS.c.counter == meta.id
    if isinstance(event, Emptied):
        connection.execute(TOTALS.delete().where(own))
        return
    changed = connection.execute(
        TOTALS.update().where(own).values(total=TOTALS.c.total + event.amount)
    )
    if not changed.rowcount:
        connection.execute(TOTALS.insert().values(counter=meta.id, total=event.amount))


def model(
    database: sql.Engine,
    version: int = 1,
    apply: Any = count,
    events: Sequence[type[Event]] = (Added, Emptied),
) -> type[Projection]:
    return SqlReadModel(
        "totals", engine=database, tables=TABLES, events=events, apply=apply, version=version
    )


class Kept(Query[None]):
    pass


def keeping(kept: type[Projection], store: str, **options: Any) -> Engine:
    @answers(projections=[kept])
    async def waits(query: Kept, views: Views) -> None:
        return None

    return Engine([Counter], projections=[kept], answers=[waits], store=store, **options)


async def add(engine: Engine, *counters: str) -> int:
    position = 0
    for counter in counters:
        position = (await engine.execute(Add(counter, 1))).position
    return position


def totals(database: sql.Engine) -> dict[str, int]:
    with database.connect() as connection:
        return {row.counter: row.total for row in connection.execute(TOTALS.select())}


async def test_a_query_waits_for_the_model_and_each_event_counts_once(
    database: sql.Engine, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    for total in (1, 2):
        async with keeping(model(database), store) as engine:
            await engine.query(Kept(), at=await add(engine, "a", "b"))
            assert totals(database) == {"a": total, "b": total}


async def test_a_crash_between_commit_and_checkpoint_counts_nothing_twice(
    database: sql.Engine, tmp_path: Path
) -> None:
    def crash(reached: str) -> None:
        if reached == "sink.delivered":
            raise Crash

    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        await add(engine, "a", "b", "a")
    crashing = keeping(model(database), store, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with crashing:
            await until(lambda: crashing.failed is not None)
    assert totals(database) == {"a": 2, "b": 1}
    async with keeping(model(database), store) as engine:
        await engine.query(Kept(), at=await add(engine, "a"))

    assert totals(database) == {"a": 3, "b": 1}


async def test_a_raised_version_makes_the_tables_anew(database: sql.Engine, tmp_path: Path) -> None:
    def double(connection: Any, event: Added, meta: Meta) -> None:
        for _ in range(2):
            count(connection, event, meta)

    store = f"sqlite:{tmp_path / 'log.db'}"
    async with keeping(model(database), store) as engine:
        await engine.query(Kept(), at=await add(engine, "a", "b", "a"))
    async with keeping(model(database, 2, double), store, rebuild="auto") as engine:
        await engine.query(Kept(), at=3)

    assert totals(database) == {"a": 4, "b": 2}


async def test_another_log_makes_the_tables_anew(database: sql.Engine, tmp_path: Path) -> None:
    for name in ("one", "two"):
        async with keeping(model(database), f"sqlite:{tmp_path / name}.db") as engine:
            await engine.query(Kept(), at=await add(engine, name))

    assert totals(database) == {"two": 1}


async def test_a_log_that_went_back_is_noticed(database: sql.Engine, tmp_path: Path) -> None:
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    async with keeping(model(database), f"sqlite:{log}") as engine:
        await engine.query(Kept(), at=await add(engine, "a"))
        copy_log(SystemFiles(), str(log), str(backup))
        await engine.query(Kept(), at=await add(engine, "a"))
    async with keeping(model(database), f"sqlite:{backup}") as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "b"))
        failure = (await engine.projections.status("totals")).failure
        assert failure is not None
        assert "the log went back" in failure.cause
    async with keeping(model(database, 2), f"sqlite:{backup}", rebuild="auto") as engine:
        await engine.query(Kept(), at=2)

    assert totals(database) == {"a": 1, "b": 1}


async def test_a_log_that_went_back_is_noticed_where_it_has_no_event_of_the_model_there(
    tmp_path: Path,
) -> None:
    database = sql.create_engine(f"sqlite:///{tmp_path / 'model.db'}")
    added: list[type[Event]] = [Added]
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    async with keeping(model(database, events=added), f"sqlite:{log}") as engine:
        await engine.query(Kept(), at=await add(engine, "a"))
        copy_log(SystemFiles(), str(log), str(backup))
        await engine.query(Kept(), at=await add(engine, "a", "a"))
    async with keeping(model(database, events=added), f"sqlite:{backup}") as engine:
        await add(engine, "lost")
        await engine.execute(Empty("lost"))  # it takes the place of what the model had last
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "b"))
        failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    assert "the log went back" in failure.cause
    assert totals(database) == {"a": 3}
    database.dispose()


async def test_tables_of_others_are_not_touched(database: sql.Engine) -> None:
    with database.begin() as connection:
        TABLES.create_all(connection)
        connection.execute(TOTALS.insert().values(counter="theirs", total=7))
    async with keeping(model(database), "memory:") as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "a"))
        failure = (await engine.projections.status("totals")).failure
        assert failure is not None
        assert "are not its own" in failure.cause

    assert totals(database) == {"theirs": 7}


async def test_what_apply_raises_stops_it_and_leaves_nothing_half_done(
    database: sql.Engine,
) -> None:
    def fail(connection: Any, event: Added, meta: Meta) -> None:
        count(connection, event, meta)
        if meta.position == 2:
            raise ValueError("a secret")

    async with keeping(model(database, apply=fail), "memory:") as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "a", "a", "a"))

        assert (await engine.projections.status("totals")).parked == 0
    assert totals(database) == {"a": 1}


async def test_a_database_that_dies_is_waited_for(maria: MariaServer, tmp_path: Path) -> None:
    with sql.create_engine(maria.url).begin() as connection:
        connection.execute(sql.text("CREATE DATABASE mortal"))
    database = sql.create_engine(maria.url + "mortal")
    async with keeping(model(database), f"sqlite:{tmp_path / 'log.db'}") as engine:
        await engine.query(Kept(), at=await add(engine, "a", "b"))
        maria.kill()
        position = await add(engine, "a", "b")  # no writer waits for it
        await until(lambda: engine.statistics().projectors["totals"].retries > 1)
        maria.start()
        await engine.query(Kept(), at=position, timeout=60)

    assert totals(database) == {"a": 2, "b": 2}
    database.dispose()


def test_what_is_no_engine_of_sqlalchemys_is_refused() -> None:
    with pytest.raises(DefinitionError, match="create_engine"):
        SqlReadModel("totals", engine="url", tables=TABLES, events=[Added], apply=count)
