"""What the database itself keeps of a log: who may write, whose it is, and how it is set."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec
import pytest

from engine import DefinitionError, Engine, Ports, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import EventData, EventType, verify
from engine.stores.contract.claims import HeldClaim, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Batch, Write
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.schema import MIGRATIONS, schema_sql, with_schema
from engine.stores.postgres.log.store import PostgresStore
from engine.testing.conformance import append, event, feed, numbers, request
from tests.support.counters import Add, Counter
from tests.support.postgres import Server, asked, connected


def store_of(server: Server, schema: str, *options: str, user: str = "postgres") -> PostgresStore:
    return PostgresStore(
        read_address(server.url(schema, *options).replace("postgres@", f"{user}@"))
    )


@pytest.fixture
def schema(postgres: Server) -> str:
    return postgres.new_schema()


@pytest.fixture
async def store(postgres: Server, schema: str) -> AsyncIterator[PostgresStore]:
    opened = store_of(postgres, schema)
    await opened.open(Ports())
    yield opened
    await opened.close()


@pytest.fixture
async def role(postgres: Server, schema: str) -> str:
    """A role that an engine may have: it owns nothing, and reads and calls what it is let."""
    name = f"engine_of_{schema}"
    await asked(postgres, f"CREATE ROLE {name} LOGIN")
    postgres.sql(schema_sql(schema, role=name))
    return name


# -- append-only, by rights and whoever it is


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE {s}.events SET payload = ''",
        "DELETE FROM {s}.events",
        "TRUNCATE {s}.events",
        "INSERT INTO {s}.events VALUES (2, 0, 0, 0, 2, 1, 0, 'a:1', '', '')",
    ],
)
async def test_not_even_the_owner_changes_an_event_by_accident(
    postgres: Server, store: PostgresStore, schema: str, change: str
) -> None:
    await append(store, request("a:1", 0, 1))
    with pytest.raises(Exception, match="an event is"):
        await asked(postgres, change.replace("{s}", schema))

    assert numbers(await feed(store)) == [1]


@pytest.mark.parametrize("change", ["INSERT", "UPDATE", "DELETE", "TRUNCATE"])
async def test_the_role_of_an_engine_has_no_right_to_write_events(
    postgres: Server, schema: str, role: str, change: str
) -> None:
    store = store_of(postgres, schema, user=role)
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    (may,) = await asked(
        postgres, "SELECT has_table_privilege($1, $2, $3)", role, f"{schema}.events", change
    )

    assert may == (False,)
    assert numbers(await feed(store)) == [1]
    await store.close()


async def test_an_engine_works_as_a_role_that_owns_nothing(
    postgres: Server, schema: str, role: str
) -> None:
    url = postgres.url(schema).replace("postgres@", f"{role}@")
    async with Engine([Counter], store=url, views="memory:") as engine:
        await engine.execute(Add("a", 1), key="k")
        first = await engine.execute(Add("a", 1), key="l")
    async with Engine([Counter], store=url, views="memory:") as engine:
        assert await engine.execute(Add("a", 1), key="l") == first


def test_the_schema_is_printed_for_whoever_makes_it_by_hand(postgres: Server, schema: str) -> None:
    def printed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine", "schema", "sql", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = printed(postgres.url(schema), "--role", "postgres")
    assert done.returncode == 0
    postgres.sql(done.stdout)
    assert postgres.sql(f"SELECT schema_version FROM {schema}.about") == str(len(MIGRATIONS))
    for words, told in (
        (("sqlite:shop.db",), "needs no SQL"),
        ((postgres.url(), "--role", 'x"; DROP'), "no plain name"),
        ((postgres.url(), "--since", "99"), "versions 0"),
    ):
        wrong = printed(*words)
        assert wrong.returncode == 1
        assert told in wrong.stderr


async def test_an_upgrade_by_hand_is_for_the_version_that_is_there_and_no_other(
    postgres: Server, schema: str
) -> None:
    """What lies between would be left out, and the schema would say that it has all."""
    steps = "".join(with_schema(step, schema) for step in MIGRATIONS[:4])
    user = f"engine_of_{schema}"
    postgres.sql(f"CREATE SCHEMA {schema}; {steps} CREATE ROLE {user} LOGIN")
    postgres.sql(
        f"GRANT USAGE ON SCHEMA {schema} TO {user}; GRANT SELECT ON {schema}.about TO {user}"
    )
    version = f"SELECT schema_version FROM {schema}.about"

    with pytest.raises(StoreRefused, match="schema sql URL --since 4 --role USER"):
        await store_of(postgres, schema, user=user).open(Ports())
    with pytest.raises(AssertionError, match="has version 4"):
        postgres.sql(schema_sql(schema, since=9, role=user))
    assert postgres.sql(version) == "4"
    postgres.sql(schema_sql(schema, since=4, role=user))
    assert postgres.sql(version) == str(len(MIGRATIONS))
    store = store_of(postgres, schema, user=user)
    await store.open(Ports())
    await store.close()


@pytest.mark.parametrize(
    "call", ["append_1", "append_2", "begin_session_1", "keep_snapshots_1", "join_members_1"]
)
async def test_nobody_else_may_call_what_writes(
    postgres: Server, schema: str, role: str, call: str
) -> None:
    query = """
        SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = $1 AND p.proname = $2 AND has_function_privilege($3, p.oid, 'EXECUTE')
    """
    await asked(postgres, f"CREATE ROLE reader_of_{schema}")

    assert await asked(postgres, query, schema, call, role) == [(1,)]
    assert await asked(postgres, query, schema, call, f"reader_of_{schema}") == [(0,)]


async def test_a_role_without_rights_is_refused_by_name(postgres: Server, schema: str) -> None:
    postgres.sql(schema_sql(schema))
    await asked(postgres, f"CREATE ROLE stranger_of_{schema} LOGIN")
    stranger = store_of(postgres, schema, user=f"stranger_of_{schema}")

    with pytest.raises(StoreRefused, match="schema sql"):
        await stranger.open(Ports())


async def test_people_read_the_log_as_json(postgres: Server, store: PostgresStore) -> None:
    kind = EventType("moved", 2, "00")
    data = [EventData(kind, b'{"to":"x"}', b'{"key":"k"}'), EventData(kind, b"\x00\xff", b"", 7)]
    await store.append(Batch([AppendRequest([Write("a:1", 0, data)])], 1_500_000))
    rows = await asked(
        postgres,
        "SELECT event, event_version, extract(epoch FROM recorded)::text, payload->>'to', "
        f"metadata->>'key' FROM {store.address.schema}.log ORDER BY position",
    )

    assert rows[0] == ("moved", 2, "1.500000", "x", "k")
    assert rows[1][3:] == (None, None)


# -- the clock


async def test_people_read_a_log_in_which_a_text_has_a_nul(
    postgres: Server, store: PostgresStore
) -> None:
    kind = EventType("moved", 2, "00")
    texts = ["\0", "x\0\0y", "\\\0", "\\u0000", "\\\\u0000\0", "plain"]
    encoded = [msgspec.json.encode({"to": text}) for text in texts]
    data = [EventData(kind, each, each) for each in encoded]
    await store.append(Batch([AppendRequest([Write("a:1", 0, data)])], 1_500_000))
    schema = store.address.schema
    for column in ("payload", "metadata"):
        rows = await asked(
            postgres,
            f"SELECT {column}->>'to' FROM {schema}.log ORDER BY position",
        )
        assert [text for (text,) in rows] == [text.replace("\0", "\ufffd") for text in texts]


async def test_a_clock_that_goes_back_is_kept_beside_the_time(store: PostgresStore) -> None:
    await append(store, request("a:1", 0, 1), recorded=100)
    await append(store, request("a:1", 1, 2), recorded=40)
    await append(store, request("a:1", 2, 3), recorded=101)
    events = await feed(store)

    assert [(e.recorded, e.behind) for e in events] == [(100, 0), (100, 60), (101, 0)]
    for stored in events:
        verify(stored)


async def test_damage_to_what_a_clock_was_behind_is_seen(
    postgres: Server, store: PostgresStore
) -> None:
    await append(store, request("a:1", 0, 1))
    events = f"{store.address.schema}.events"
    await asked(postgres, f"ALTER TABLE {events} DISABLE TRIGGER ALL")
    await asked(postgres, f"UPDATE {events} SET behind = 1")

    with pytest.raises(Exception, match="position 1"):
        await feed(store)


async def test_the_checksum_of_an_event_stands_as_it_was(store: PostgresStore) -> None:
    """What is shifted from one number to the other is the writer's clock all the same."""
    await append(store, request("a:1", 0, 1), recorded=50)
    (event,) = await feed(store)

    verify(msgspec.structs.replace(event, recorded=60, behind=10))


# -- whose it is


async def test_an_engine_opens_a_log_whose_rows_another_server_has_replicated(
    postgres: Server, schema: str
) -> None:
    """Such a server has the rows of sessions, and its sequence begins at the first number."""
    for place in range(3):
        store = store_of(postgres, schema)
        await store.open(Ports())
        await append(store, request("a:1", place, place + 1))
        await store.close()
    await asked(postgres, f"ALTER TABLE {schema}.sessions ALTER COLUMN session RESTART")

    store = store_of(postgres, schema)
    await store.open(Ports())
    await append(store, request("a:1", 3, 4))
    assert store.session == 4
    await store.close()


async def test_a_second_engine_is_told_who_has_the_log(store: PostgresStore) -> None:
    with pytest.raises(StoreLocked, match=r"open in another engine: process \d+ on .*, since 20"):
        await PostgresStore(store.address).open(Ports())


async def test_a_living_engine_behind_a_pooler_is_known_by_its_renewals(
    postgres: Server, schema: str
) -> None:
    options = ("pooler=transaction", "lease=1")
    first, second = (store_of(postgres, schema, *options) for _ in range(2))
    await first.open(Ports())
    with pytest.raises(StoreLocked):
        await second.open(Ports())
    await append(first, request("a:1", 0, 1))
    await first.close()
    await second.open(Ports())

    assert numbers(await feed(second)) == [1]
    await second.close()


async def test_an_engine_that_has_gone_keeps_the_log_for_its_lease_only(
    postgres: Server, schema: str
) -> None:
    gone = store_of(postgres, schema, "lease=1")
    await gone.open(Ports())
    assert gone._keeper is not None
    gone._keeper.cancel()
    assert gone._writer is not None
    gone._writer.line.drop()
    heir = store_of(postgres, schema)
    await heir.open(Ports())
    await append(heir, request("a:1", 0, 1))

    with pytest.raises(StoreFailed, match="taken this log over") as fenced:
        await append(gone, request("b:1", 0, 2))
    assert (fenced.value.written, fenced.value.stopped) == (False, True)
    assert numbers(await feed(heir)) == [1]
    await gone.close()
    await append(heir, request("a:1", 1, 3))
    await heir.close()


async def test_an_engine_at_rest_hears_that_its_log_was_taken_over(
    postgres: Server, schema: str
) -> None:
    store = store_of(postgres, schema, "lease=1")
    await store.open(Ports())
    await asked(postgres, f"UPDATE {schema}.sessions SET live = false")

    assert "taken this log over" in str(await store.ended())
    await store.close()


async def test_a_closed_log_is_taken_at_once(postgres: Server, schema: str) -> None:
    for number in range(3):
        store = store_of(postgres, schema, "lease=3600")
        await store.open(Ports())
        await append(store, request("a:1", number, number))
        await store.close()


# -- how it is set and made


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_may_lose_events_is_refused_unless_it_is_allowed(
    postgres: Server, schema: str, name: str
) -> None:
    await asked(postgres, f"ALTER SYSTEM SET {name} = off")
    await asked(postgres, "SELECT pg_reload_conf()")
    try:
        with pytest.raises(StoreRefused, match=f"{name}=off.*allow={name}"):
            await store_of(postgres, schema).open(Ports())
        store = store_of(postgres, schema, f"allow={name}")
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        await store.close()
    finally:
        await asked(postgres, f"ALTER SYSTEM RESET {name}")
        await asked(postgres, "SELECT pg_reload_conf()")


async def test_a_commit_is_synced_though_its_session_was_set_otherwise(
    store: PostgresStore,
) -> None:
    assert store._writer is not None
    connection = store._writer.line.connection
    await connection.execute("SET synchronous_commit = off")
    async with connection.transaction():
        await append(store, request("a:1", 0, 1))
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("default_transaction_isolation", "serializable"),
        ("standard_conforming_strings", "off"),
        ("session_replication_role", "replica"),
    ],
)
async def test_what_changes_the_meaning_of_statements_is_refused_by_name(
    postgres: Server, schema: str, setting: str, value: str
) -> None:
    """It hides what others have committed, lets a backslash escape, or turns triggers off."""
    role = f"strict_{schema}"
    await asked(postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    await asked(postgres, f"ALTER ROLE {role} SET {setting} = {value}")

    with pytest.raises(StoreRefused, match=f"{setting}={value}"):
        await store_of(postgres, schema, user=role).open(Ports())


async def test_a_user_for_whom_triggers_run_as_for_any_is_taken(
    postgres: Server, schema: str
) -> None:
    role = f"local_{schema}"
    await asked(postgres, f"CREATE ROLE {role} LOGIN SUPERUSER")
    await asked(postgres, f"ALTER ROLE {role} SET session_replication_role = local")
    store = store_of(postgres, schema, user=role)
    await store.open(Ports())
    await append(store, AppendRequest([Write("a:1", 0, [event(1)])]))
    outside = await connected(postgres)
    try:
        await outside.execute("SET session_replication_role = local")
        with pytest.raises(Exception, match="never changed and never deleted"):
            await outside.execute(f"DELETE FROM {schema}.events")
    finally:
        await outside.close()
        await store.close()


async def test_a_schema_without_claims_gets_them(postgres: Server, schema: str) -> None:
    postgres.sql(f"CREATE SCHEMA {schema};" + with_schema(MIGRATIONS[0], schema))
    store = store_of(postgres, schema)
    await store.open(Ports())
    taking = AppendRequest([Write("a:1", 0, [event(1)])], [TakeClaim("email", "ann", "a:1")])

    assert await append(store, taking) == [Appended(1, (1,))]
    assert await store.read_claims(claims_max=2) == [HeldClaim("email", "ann", "a:1", 1)]
    await store.close()


async def test_a_schema_of_a_later_release_is_not_touched(
    postgres: Server, store: PostgresStore, schema: str
) -> None:
    await store.close()
    await asked(postgres, f"UPDATE {schema}.about SET schema_version = 99")

    with pytest.raises(StoreRefused, match="version 99.*a later release"):
        await PostgresStore(store.address).open(Ports())


async def test_a_schema_of_somebody_else_is_not_touched(postgres: Server, schema: str) -> None:
    await asked(postgres, f"CREATE SCHEMA {schema}")
    await asked(postgres, f"CREATE TABLE {schema}.events(mine text)")

    with pytest.raises(StoreRefused, match="already exists"):
        await store_of(postgres, schema).open(Ports())
    rows = await asked(postgres, "SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    assert rows == [("events",)]


async def test_engines_that_start_at_once_make_one_schema(postgres: Server, schema: str) -> None:
    stores = [store_of(postgres, schema) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(store.open(Ports()) for store in stores), return_exceptions=True
    )
    refused = [error for error in outcomes if error is not None]

    assert [type(error) for error in refused] == [StoreLocked] * 3, refused
    for store in stores:
        await store.close()


async def test_names_that_mean_something_to_sql_are_names(store: PostgresStore) -> None:
    names = ["a:'", 'a:"', "a:\\", "a:$1", "a:{s}", "a:%s", "a:" + "\U0001f600" * 255]
    await append(store, *(request(name, 0, number) for number, name in enumerate(names)))

    assert [event.stream for event in await feed(store)] == names


@pytest.mark.parametrize("name", ["a:\0", "a:\ud800"])
async def test_a_name_that_is_no_text_is_refused_and_nothing_is_written(
    store: PostgresStore, name: str
) -> None:
    with pytest.raises(StoreFailed) as failed:
        await append(store, request("b:1", 0, 1), request(name, 0, 1))

    assert failed.value.written is False
    assert numbers(await feed(store)) == []
    await append(store, request("b:1", 0, 2))


# -- views


def test_views_are_never_in_memory_by_silence(postgres: Server) -> None:
    Engine([Counter], store=postgres.url())  # in the same database
    for views in ("postgresql://127.0.0.1/d", "sqlite:", "sqlite:x?writer=process", ":memory:"):
        with pytest.raises(DefinitionError):
            Engine([Counter], store=postgres.url(), views=views)
    with pytest.raises(DefinitionError, match="a store in a server only"):
        Engine([Counter], store="memory:", views="memory:")
