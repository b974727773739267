"""Connecting to a PostgreSQL server: what its refusals mean, and what they never show."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from engine import DefinitionError, Ports, StoreFailed, StoreRefused
from engine.stores.postgres.address import read_address
from engine.stores.postgres.driver import Asyncpg, Connection, check_installed, driver_of
from engine.stores.postgres.failures import is_lost, is_passing, sqlstate_of
from tests.support.postgres import Server, free_port

PASSWORD = "s3cret"


async def connect(url: str) -> Connection:
    connection, _ = await Asyncpg().connect(read_address(url))
    return connection


async def test_a_server_is_asked_directly(postgres: Server) -> None:
    connection, pooled = await Asyncpg().connect(read_address(postgres.url()))
    try:
        assert not pooled
        assert await connection.fetchval("SELECT $1::int + 1", 1) == 2
        named = await connection.prepare("SELECT $1::text", name="kept")
        assert list(await named.fetch("x")) == [("x",)]
        kept = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")
        assert kept == 1
        (application,) = await connection.fetchrow("SHOW application_name") or ()
        assert application == "foldline"
    finally:
        await connection.close()


async def test_a_pooler_that_is_named_is_believed(postgres: Server) -> None:
    connection, pooled = await Asyncpg().connect(
        read_address(postgres.url("foldline", "pooler=transaction"))
    )
    await connection.close()

    assert pooled


async def test_a_server_that_nobody_runs_cannot_be_reached(postgres: Server) -> None:
    with pytest.raises(StoreFailed, match="cannot be reached: .*Try again") as failed:
        await connect(postgres.url(port=free_port()))

    assert failed.value.written is False


async def test_a_database_that_there_is_not_is_refused(postgres: Server) -> None:
    url = postgres.url().replace("/postgres?", "/nowhere?")
    with pytest.raises(StoreRefused, match="no such database: create it"):
        await connect(url)


async def test_a_user_that_the_server_does_not_take_is_refused_without_the_password(
    postgres: Server,
) -> None:
    url = postgres.url().replace("postgres@", f"nobody:{PASSWORD}@")
    with pytest.raises(StoreRefused, match="does not take this user or password") as refused:
        await connect(url)

    told = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    names = {frame.name for frame in refused.traceback}
    assert "connect" in names
    assert PASSWORD not in "".join(line for line in told.format() if "url = " not in line)


async def test_a_server_without_tls_is_refused_where_tls_is_wanted(postgres: Server) -> None:
    with pytest.raises(StoreRefused, match="speaks no TLS"):
        await connect(postgres.url("foldline", "sslmode=require"))


async def test_a_certificate_that_is_not_there_is_refused(postgres: Server) -> None:
    with pytest.raises(StoreRefused, match="sslrootcert"):
        await connect(postgres.url("foldline", "sslmode=verify-full", "sslrootcert=/none"))


async def test_errors_are_told_by_what_they_mean_for_the_connection(postgres: Server) -> None:
    connection = await connect(postgres.url())
    with pytest.raises(Exception, match="zero") as refused:
        await connection.fetchval("SELECT 1/0")
    assert (sqlstate_of(refused.value), is_lost(refused.value)) == ("22012", False)
    assert not is_passing(refused.value)
    with pytest.raises(Exception, match="terminat") as ended:
        await connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
    assert is_lost(ended.value)
    with pytest.raises(Exception, match="closed") as closed:
        await connection.fetchval("SELECT 1")
    assert is_lost(closed.value)
    assert connection.is_closed()


async def test_the_ports_may_bring_another_driver() -> None:
    class Other(Asyncpg):
        pass

    other = Other()

    assert driver_of(Ports(database=other)) is other
    assert isinstance(driver_of(Ports()), Asyncpg)


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DefinitionError, match=r"foldline\[postgres\]"):
        check_installed()


def test_asyncpg_is_imported_by_nobody_who_does_not_connect() -> None:
    program = (
        "import sys, engine, engine.stores.postgres.driver\nsys.exit('asyncpg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path.cwd(), check=False)

    assert done.returncode == 0
