"""What is SqlReadModel's own, beside the suite of all read models (`test_read_models`)."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from engine import DefinitionError, Engine, Meta, Projection, ProjectionLag
from engine.integrations.sqlalchemy import SqlReadModel
from engine.stores.sqlite.outside.copy import copy_log
from engine.stores.sqlite.system_files import SystemFiles
from tests.integrations.places import TABLES, TOTALS, Kept, keeping
from tests.support.certificates import certify
from tests.support.counters import Add, Added, Empty
from tests.support.mariadb import MariaServer

ROOT = Path(__file__).parents[2]


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


async def cause_of(database: sql.Engine, log: Path) -> str:
    """Give why a model stops that has an event to write; nothing is parked."""
    async with keeping(model(database), log) as engine:
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=await add(engine, "a"), timeout=30)
        status = await engine.projections.status("totals")
    assert (status.position, status.parked) == (0, 0)
    assert status.failure is not None
    assert "BrokerFailed" in status.failure.cause
    assert "wr0ng" not in f"{status}{model(database)!r}"
    return status.failure.cause


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("root:wr0ng-secret@{}/shop", "refuses the credentials"),
        ("reader:wr0ng-but-right@{}/shop", "has no right to its tables (1142)"),
        ("root@{}/nowhere", "is not there, or"),
    ],
)
async def test_what_waiting_does_not_mend_stops_it_and_says_why(
    name: str, said: str, maria: MariaServer, tmp_path: Path
) -> None:
    database = made_for(maria, f"mysql+pymysql://{name}".format(f"127.0.0.1:{maria.port}"))
    log = tmp_path / "log.db"
    assert said in await cause_of(database, log)
    mended = made_for(maria, f"{maria.url}shop")
    async with keeping(model(mended), log) as engine:
        await engine.query(Kept(), at=await add(engine, "a"), timeout=30)
    with mended.begin() as connection:
        assert [tuple(row) for row in connection.execute(TOTALS.select())] == [("a", 2)]
        connection.execute(sql.text("DROP DATABASE shop"))


def made_for(maria: MariaServer, url: str, **options: Any) -> sql.Engine:
    """Give an engine of a database `shop` that is there, and that nobody keeps open."""
    with sql.create_engine(maria.url, **options).begin() as connection:
        connection.execute(sql.text("CREATE DATABASE IF NOT EXISTS shop"))
        made = "CREATE USER IF NOT EXISTS reader IDENTIFIED BY 'wr0ng-but-right'"
        connection.execute(sql.text(made))
        connection.execute(sql.text("GRANT SELECT ON shop.* TO reader"))
    return sql.create_engine(url, poolclass=sql.NullPool, **options)


async def test_tls_is_checked_and_a_certificate_that_does_not_fit_stops_it(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "maria", "IP:127.0.0.1")
    options = (f"--ssl-cert={certificate}", f"--ssl-key={tmp_path / 'maria.key'}")
    server = MariaServer(tmp_path / "server", *options, "--require-secure-transport=ON")
    server.start()
    try:
        trusted = {"ssl": ssl.create_default_context(cafile=str(certificate))}
        database = made_for(server, f"{server.url}shop", connect_args=trusted)
        plain = sql.create_engine(database.url, connect_args={"ssl_disabled": True})
        assert "or a connection that is not encrypted" in await cause_of(plain, tmp_path / "log.db")
        unknown = {"ssl": ssl.create_default_context()}
        distrusts = sql.create_engine(database.url, connect_args=unknown)
        assert "no encrypted connection" in await cause_of(distrusts, tmp_path / "log.db")
        async with keeping(model(database), tmp_path / "log.db") as engine:
            await engine.query(Kept(), at=await add(engine, "a"), timeout=30)
        with database.connect() as connection:
            assert [tuple(row) for row in connection.execute(TOTALS.select())] == [("a", 3)]
    finally:
        server.kill()


@pytest.fixture
def maria(started: Callable[[str], Any]) -> MariaServer:
    made: MariaServer = started("mariadb")
    return made


SILENT = """
import asyncio, threading
import sqlalchemy as sql
from engine import Engine, Limits
from engine.integrations.sqlalchemy import SqlReadModel
from tests.integrations.places import TABLES
from tests.support.counters import Add, Added, Counter

begun = threading.Event()

def apply(connection, event: Added, meta):
    begun.set()
    threading.Event().wait()  # as a driver that has no answer, and no limit of its own

model = SqlReadModel(
    "totals", engine=sql.create_engine("sqlite://"), tables=TABLES, events=[Added], apply=apply
)

async def main():
    limits = Limits(sink_stop_seconds=1)
    async with Engine([Counter], projections=[model], limits=limits) as engine:
        await engine.execute(Add("a", 1))
        await asyncio.to_thread(begun.wait)
    print("the engine has ended", flush=True)

asyncio.run(main())
print("so has the loop", flush=True)
"""


def test_a_database_that_never_answers_keeps_no_process_from_its_end() -> None:
    """As one behind a line that says nothing more: the call has no end."""
    command = [sys.executable, "-c", SILENT]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines() == ["the engine has ended", "so has the loop"]
    assert found.returncode == 0


def test_what_is_no_engine_of_sqlalchemys_is_refused() -> None:
    with pytest.raises(DefinitionError, match="create_engine"):
        SqlReadModel("totals", engine="url", tables=TABLES, events=[Added], apply=count)
