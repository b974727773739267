"""Which tables a SqlReadModel takes for its own: those it has made, and no other that is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from sqlalchemy import event as events

from engine import Engine, Event, Meta, Projection, ProjectionLag
from engine.integrations.sqlalchemy import SqlReadModel
from tests.integrations import guests
from tests.integrations.guests import CheckedIn, CheckedOut, CheckIn, CheckOut


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sql.Engine]:
    """Give a database of the host's, which has another one attached."""
    made = sql.create_engine(f"sqlite:///{tmp_path / 'model.db'}", poolclass=sql.NullPool)

    def attach(connection: Any, record: object) -> None:
        connection.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other")

    events.listen(made, "connect", attach)
    yield made
    made.dispose()


def model(
    database: sql.Engine,
    *names: str,
    version: int = 1,
    schema: str | None = None,
    takes: type[Event] = CheckedIn,
) -> type[Projection]:
    """Give a model that keeps names of guests in the first of its tables."""
    tables = sql.MetaData(schema=schema)
    made = [
        sql.Table(
            name, tables, sql.Column("guest", sql.String(50)), sql.Column("is", sql.String(50))
        )
        for name in names
    ]

    def apply(connection: Any, event: Any, meta: Meta) -> None:
        name = getattr(event, "name", "")
        connection.execute(made[0].insert().values({"guest": meta.id, "is": name}))

    return SqlReadModel(
        "guests",
        engine=database,
        tables=tables,
        events=[takes],
        apply=apply,
        version=version,
    )


def rows_of(database: sql.Engine, table: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(sql.text(f"SELECT * FROM {table}"))]


def run(database: sql.Engine, *statements: str) -> None:
    with database.begin() as connection:
        for statement in statements:
            connection.execute(sql.text(statement))


async def kept(engine: Engine, guest: str = "g-1") -> None:
    receipt = await engine.execute(CheckIn(guest, "r1", f"Ann {guest}"))
    await engine.query(guests.Kept(), at=receipt, timeout=30)


@pytest.mark.parametrize(
    ("there", "schema"),
    [
        ("CREATE TABLE Guests AS SELECT 'of the host' AS it", None),
        ("CREATE VIEW guests AS SELECT 'of the host' AS it", None),
        ("CREATE TABLE other.guests AS SELECT 'of the host' AS it", "other"),
    ],
    ids=["capitals", "view", "schema"],
)
async def test_a_table_of_the_host_is_never_dropped(
    there: str, schema: str | None, database: sql.Engine, tmp_path: Path
) -> None:
    run(database, there)
    kept_model = model(database, "guests", schema=schema)
    async with guests.make_engine(f"sqlite:{tmp_path / 'log.db'}", kept_model) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await kept(engine)
        failure = (await engine.projections.status("guests")).failure
    assert failure is not None
    assert "not its own" in failure.cause
    assert rows_of(database, "other.guests" if schema else "guests") == [("of the host",)]


async def test_nor_is_one_whose_name_a_raised_version_takes(
    database: sql.Engine, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with guests.make_engine(store, model(database, "guests")) as engine:
        await kept(engine)
    run(database, "CREATE TABLE rooms AS SELECT 'of the host' AS it")
    raised = model(database, "guests", "rooms", version=2)
    async with guests.make_engine(store, raised, rebuild="auto") as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await kept(engine, "g-2")
    assert rows_of(database, "rooms") == [("of the host",)]
    assert rows_of(database, "guests") == [("g-1", "Ann g-1")]
    run(database, "DROP TABLE rooms")
    async with guests.make_engine(store, raised) as engine:
        await kept(engine, "g-3")
    assert [guest for guest, _ in rows_of(database, "guests")] == ["g-1", "g-2", "g-3"]


async def test_an_erased_person_is_gone_from_tables_of_a_former_version(
    database: sql.Engine, tmp_path: Path
) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with guests.make_engine(store, model(database, "guests_1", "rooms")) as engine:
        await kept(engine)
    second = model(database, "guests_2", version=2, schema="other")
    async with guests.make_engine(store, second, rebuild="auto") as engine:
        await kept(engine, "g-2")
        assert rows_of(database, "guests_1") == [("g-1", "Ann g-1")]  # whoever reads it, goes on
        run(database, "DROP TABLE rooms")
        assert (await engine.personal.erase("guest:g-1")).finished is not None
    assert rows_of(database, "guests_1") == []
    assert rows_of(database, "other.guests_2") == [("g-1", "(erased)"), ("g-2", "Ann g-2")]


@pytest.mark.parametrize("name", ["guests_2", "guests_1"])
async def test_nor_is_one_there_where_the_raised_version_takes_nobodys_events(
    name: str, database: sql.Engine, tmp_path: Path
) -> None:
    """Of the raised version no event has come either."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with guests.make_engine(store, model(database, "guests_1")) as engine:
        await kept(engine)
    assert rows_of(database, "guests_1") == [("g-1", "Ann g-1")]
    second = model(database, name, version=2, takes=CheckedOut)
    async with guests.make_engine(store, second, rebuild="auto") as engine:
        assert (await engine.personal.erase("guest:g-1")).finished is not None
        assert rows_of(database, "guests_1") == []
        await engine.execute(CheckOut("g-2"))
        async with asyncio.timeout(30):
            while not rows_of(database, name):
                await asyncio.sleep(0.01)


async def test_tables_of_an_earlier_release_are_the_models_own(
    database: sql.Engine, tmp_path: Path
) -> None:
    """It kept no names of them."""
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with guests.make_engine(store, model(database, "guests")) as engine:
        await kept(engine)
    run(database, "DROP TABLE foldline_tables")
    async with guests.make_engine(store, model(database, "guests")) as engine:
        await kept(engine, "g-2")
    assert len(rows_of(database, "guests")) == 2
    run(database, "DROP TABLE foldline_tables")
    raised = model(database, "guests", version=2)
    async with guests.make_engine(store, raised, rebuild="auto") as engine:
        await kept(engine, "g-3")
    assert len(rows_of(database, "guests")) == 3
    assert rows_of(database, "foldline_tables") == [("guests", "", "guests")]
