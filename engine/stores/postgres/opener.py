"""What is opened by a URL of PostgreSQL: a log, its backend, another program's tables, the schema.

Rules: the functions are those of `contract.opener`. Nothing is connected to here.
"""

from __future__ import annotations

from typing import Final

from ...runtime.ports import Ports
from ..contract.log import Store
from ..contract.opener import MakeViews
from .address import read_address
from .backend import PostgresBackend
from .driver import check_installed
from .keys import PostgresKeys, keys_address
from .log.schema import schema_sql
from .log.store import PostgresStore
from .outside.database import PostgresDatabase
from .outside.tables import PostgresTables
from .views.link import views_schema
from .views.schema import views_sql

__all__ = [
    "open_backend",
    "open_database",
    "open_keys",
    "open_store",
    "open_tables",
    "sql_of_schema",
]

_VIEWS_NOTE: Final = "-- The views. Leave this out if they are kept elsewhere.\n"


def open_store(url: str) -> PostgresStore:
    """Give the store of a URL; raise DefinitionError where it or asyncpg is not usable."""
    check_installed()
    return PostgresStore(read_address(url))


def open_backend(store: Store, views: MakeViews | None) -> PostgresBackend | None:
    """Give the backend of a store of this kind; None for one of another kind."""
    return PostgresBackend(store, views) if isinstance(store, PostgresStore) else None


def open_keys(url: str) -> PostgresKeys:
    """Give the keys of personal data, not yet open."""
    check_installed()
    return PostgresKeys(keys_address(url))


def open_tables(url: str, ports: Ports) -> PostgresTables:
    """Give the tables of another program, not yet open."""
    check_installed()
    return PostgresTables(read_address(url), ports)


def open_database(url: str, ports: Ports) -> PostgresDatabase:
    """Give a database that may have many logs, not yet connected to."""
    check_installed()
    return PostgresDatabase(read_address(url), ports)


def sql_of_schema(url: str, *, since: int, role: str | None) -> str:
    """Give the SQL that makes the log and its views, or moves the log on from a version."""
    schema = read_address(url).schema
    log = schema_sql(schema, since=since, role=role)
    if since:
        return log
    return f"{log}\n{_VIEWS_NOTE}\n{views_sql(schema, views_schema(schema), role=role)}"
