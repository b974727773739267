"""A log in PostgreSQL that is no whole one: restored by half, or without its guards."""

from __future__ import annotations

import pytest

from engine import Ports, StoreRefused
from engine.stores.contract.verifying import Finding
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.guards import INDEXES, TRIGGERS
from engine.stores.postgres.log.schema import schema_sql
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.urls import open_backend
from engine.testing.conformance import append, feed, numbers, request
from tests.support.postgres import Server, asked

_INDEXES = """
SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = $1::text::regnamespace AND i.indisunique ORDER BY 1
"""
_TRIGGERS = """
SELECT t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = $1::text::regnamespace AND NOT t.tgisinternal ORDER BY 1
"""


def store_in(server: Server, schema: str, database: str = "postgres") -> PostgresStore:
    url = server.url(schema, "lease=1").replace("/postgres?", f"/{database}?")
    return PostgresStore(read_address(url))


async def filled(server: Server) -> str:
    """Give the schema of a log with one event, whose engine has ended."""
    schema = server.new_schema()
    store = store_in(server, schema)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()
    return schema


async def test_all_that_a_new_schema_has_is_looked_for(postgres: Server) -> None:
    schema = await filled(postgres)
    indexes = [name for (name,) in await asked(postgres, _INDEXES, schema)]
    triggers = [name for (name,) in await asked(postgres, _TRIGGERS, schema)]

    # Where moved events are is made by the first run of `archive`.
    assert [name for name in indexes if name != "archives_pkey"] == list(INDEXES)
    assert triggers == list(TRIGGERS)


@pytest.mark.parametrize(
    ("slip", "named"),
    [
        ("DROP INDEX {s}.events_by_stream", "the index events_by_stream"),
        ("ALTER TABLE {s}.events DROP CONSTRAINT events_pkey", "the index events_pkey"),
        (
            (
                "DROP INDEX {s}.events_by_stream; "
                "CREATE INDEX events_by_stream ON {s}.events(stream, version)"
            ),
            "the index events_by_stream",
        ),
        (
            "ALTER TABLE {s}.events DISABLE TRIGGER events_never_change",
            "the trigger events_never_change",
        ),
        ("DROP TRIGGER claims_are_kept ON {s}.claims", "the trigger claims_are_kept"),
    ],
    ids=["no index", "no key", "not unique", "disabled", "no trigger"],
)
async def test_no_engine_opens_a_log_without_what_keeps_it(
    postgres: Server, slip: str, named: str
) -> None:
    schema = await filled(postgres)
    postgres.sql(slip.replace("{s}", schema))

    with pytest.raises(StoreRefused, match=rf"{schema} is no whole log: it lacks {named}"):
        await store_in(postgres, schema).open(Ports())

    assert await asked(postgres, f"SELECT count(*) FROM {schema}.sessions") == [(1,)]
    found: list[Finding] = []
    outside = open_backend(postgres.url(schema)).outside(Ports())
    outside.structure().whole(found.append, lambda: None)
    assert [(f.wrong, f.name) for f in found] == [("schema", named)]


_SWALLOWS = (
    "CREATE FUNCTION {s}.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; "
)


@pytest.mark.parametrize(
    ("slip", "named"),
    [
        (
            (
                f"{_SWALLOWS}CREATE TRIGGER noted BEFORE INSERT ON {{s}}.events FOR EACH ROW "
                f"EXECUTE FUNCTION {{s}}.noted()"
            ),
            "the trigger noted before rows of events",
        ),
        (
            "CREATE RULE kept AS ON INSERT TO {s}.claims DO INSTEAD NOTHING",
            "the rule kept of claims",
        ),
    ],
    ids=["trigger", "rule"],
)
async def test_no_engine_opens_a_log_in_which_others_can_drop_what_it_writes(
    postgres: Server, slip: str, named: str
) -> None:
    schema = await filled(postgres)
    postgres.sql(slip.replace("{s}", schema))

    with pytest.raises(StoreRefused, match=f"{schema} has {named}: it can drop or change"):
        await store_in(postgres, schema).open(Ports())

    assert await asked(postgres, f"SELECT count(*) FROM {schema}.sessions") == [(1,)]
    found: list[Finding] = []
    outside = open_backend(postgres.url(schema)).outside(Ports())
    outside.structure().whole(found.append, lambda: None)
    assert [(f.wrong, f.name) for f in found] == [("schema", named)]


@pytest.mark.parametrize(
    "how",
    [
        "AFTER INSERT ON {s}.events FOR EACH ROW EXECUTE FUNCTION {s}.noted()",
        (
            "BEFORE INSERT ON {s}.events FOR EACH ROW EXECUTE FUNCTION {s}.noted(); "
            "ALTER TABLE {s}.events ENABLE REPLICA TRIGGER noted"
        ),
    ],
    ids=["after", "replica"],
)
async def test_a_trigger_that_drops_no_row_is_let_be(postgres: Server, how: str) -> None:
    schema = await filled(postgres)
    postgres.sql(f"{_SWALLOWS}CREATE TRIGGER noted {how}".replace("{s}", schema))
    store = store_in(postgres, schema)
    await store.open(Ports())
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]
    await store.close()


async def test_who_does_not_see_each_row_of_a_log_takes_no_part_of_it_for_all(
    postgres: Server,
) -> None:
    """Row-level security hides them from who reads, and lets the owner's functions append."""
    schema = await filled(postgres)
    role = f"engine_of_{schema}"
    grants = [line for line in schema_sql(schema, role=role).splitlines() if "GRANT" in line]
    hidden = f"ALTER TABLE {schema}.events ENABLE ROW LEVEL SECURITY"
    postgres.sql(f"CREATE ROLE {role} LOGIN; {' '.join(grants)} {hidden}")
    url = postgres.url(schema, "lease=1").replace("postgres@", f"{role}@")

    with pytest.raises(StoreRefused, match="row-level security on events, which hides rows"):
        await PostgresStore(read_address(url)).open(Ports())
    reader = open_backend(url).outside(Ports()).log_reader()
    with pytest.raises(StoreRefused, match="row-level security on events, which hides rows"):
        reader.open()
    store = store_in(postgres, schema)  # it owns the table, and sees all
    await store.open(Ports())
    await store.close()


async def test_no_engine_begins_in_the_middle_of_a_restore(postgres: Server) -> None:
    schema = await filled(postgres)
    dump = postgres.folder / f"{schema}.dump"
    postgres.run("pg_dump", *postgres.where, "-Fc", "-n", schema, "-f", dump)
    database = f"restored_{schema}"
    postgres.sql(f"CREATE DATABASE {database}")
    where = (*postgres.where[:-1], database)

    postgres.run("pg_restore", *where, "--section=pre-data", dump)
    with pytest.raises(StoreRefused, match="lacks the one row of"):
        await store_in(postgres, schema, database).open(Ports())
    postgres.run("pg_restore", *where, "--section=data", dump)
    with pytest.raises(StoreRefused, match="lacks the index about_pkey, .* and [0-9]+ more"):
        await store_in(postgres, schema, database).open(Ports())
    postgres.run("pg_restore", *where, "--section=post-data", dump)

    restored = store_in(postgres, schema, database)
    await restored.open(Ports())
    await append(restored, request("a:1", 1, 2))
    assert numbers(await feed(restored)) == [1, 2]
    await restored.close()
