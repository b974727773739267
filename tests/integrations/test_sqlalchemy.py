"""What is SqlReadModel's own, beside the suite of all read models (`test_read_models`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from engine import DefinitionError, Engine, Meta, Projection, ProjectionLag
from engine.integrations.sqlalchemy import SqlReadModel
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.integrations.places import TABLES, TOTALS, Kept, keeping
from tests.support.counters import Add, Added, Empty


def count(connection: Any, event: Added, meta: Meta) -> None:
    own = TOTALS.c.counter == meta.id
    more = connection.execute(TOTALS.update().where(own).values(total=TOTALS.c.total + 1))
    if not more.rowcount:
        connection.execute(TOTALS.insert().values(counter=meta.id, total=1))


def model(database: sql.Engine) -> type[Projection]:
    """Give a model that has not all events of the log."""
    return SqlReadModel("totals", engine=database, tables=TABLES, events=[Added], apply=count)


async def add(engine: Engine, *counters: str) -> int:
    position = 0
    for counter in counters:
        position = (await engine.execute(Add(counter, 1))).position
    return position


async def test_a_log_that_went_back_is_noticed_where_it_has_no_event_of_the_model_there(
    tmp_path: Path,
) -> None:
    database = sql.create_engine(f"sqlite:///{tmp_path / 'model.db'}")
    log, backup = tmp_path / "log.db", tmp_path / "backup.db"
    async with keeping(model(database), log) as engine:
        await engine.query(Kept(), at=await add(engine, "a"))
        copy_log(SystemFiles(), str(log), str(backup))
        await engine.query(Kept(), at=await add(engine, "a", "a"))
    async with keeping(model(database), backup) as engine:
        await add(engine, "lost")
        await engine.execute(Empty("lost"))  # it takes the place of what the model had last
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "b"))
        failure = (await engine.projections.status("totals")).failure
    assert failure is not None
    assert "the log went back" in failure.cause
    with database.connect() as connection:
        assert [tuple(row) for row in connection.execute(TOTALS.select())] == [("a", 3)]
    database.dispose()


def test_what_is_no_engine_of_sqlalchemys_is_refused() -> None:
    with pytest.raises(DefinitionError, match="create_engine"):
        SqlReadModel("totals", engine="url", tables=TABLES, events=[Added], apply=count)
