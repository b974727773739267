"""Logs of other event stores, with the tables that those projects make, in real databases.

`eventsourcing` 9.5: SQLiteApplicationRecorder and PostgresApplicationRecorder in its modules
`sqlite` and `postgres`. Marten 8: `EventsTable` in src/Marten/Events/Schema, and
docs/events/storage.md. Message DB 1.3: database/tables/messages.sql.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from tests.support.postgres import Server, postgres_server, wheel_programs

__all__ = ["ANN", "BOB", "OldDatabase", "fill_eventsourcing", "fill_marten", "fill_message_db"]

ANN: Final = "5ee4f276-3b4d-4916-ad06-57ffda4dbad2"
BOB: Final = "fcff26c1-7cda-4b83-871d-eca0bb39fb0e"
_DAY: Final = "2024-03-01T09:30:1"
HISTORY: Final = (
    (ANN, 1, "opened", {"owner": "Ann"}, f"{_DAY}2.494086+00:00"),
    (BOB, 1, "opened", {"owner": "Bob"}, f"{_DAY}2.495341+00:00"),
    (ANN, 2, "deposited", {"cents": 500}, f"{_DAY}2.500062+00:00"),
    (BOB, 2, "deposited", {"cents": 70}, f"{_DAY}2.502341+00:00"),
    (ANN, 3, "deposited", {"cents": 250}, f"{_DAY}2.510423+00:00"),
)
"""Two accounts and three deposits, in every store."""
MARTEN: Final = """
CREATE TABLE {s}.mt_streams (
    id uuid NOT NULL PRIMARY KEY, type varchar NULL, version bigint NULL,
    timestamp timestamptz NOT NULL DEFAULT now(), snapshot jsonb NULL,
    snapshot_version integer NULL,
    created timestamptz NOT NULL DEFAULT now(), tenant_id varchar DEFAULT '*DEFAULT*',
    is_archived boolean DEFAULT false
);
CREATE TABLE {s}.mt_events (
    seq_id bigint NOT NULL PRIMARY KEY, id uuid NOT NULL,
    stream_id uuid NULL REFERENCES {s}.mt_streams ON DELETE CASCADE, version bigint NOT NULL,
    data jsonb NOT NULL, type varchar(500) NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(),
    tenant_id varchar DEFAULT '*DEFAULT*', mt_dotnet_type varchar NULL,
    correlation_id varchar NULL, causation_id varchar NULL, headers jsonb NULL,
    is_archived boolean DEFAULT false
);
"""
MESSAGE_DB: Final = """
CREATE SCHEMA {s};
CREATE TABLE {s}.messages (
    global_position bigserial NOT NULL PRIMARY KEY, position bigint NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    time timestamp without time zone NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    stream_name text NOT NULL, type text NOT NULL, data jsonb, metadata jsonb
);
"""
EVENTSOURCING: Final = """
CREATE TABLE {s}.stored_events (
    originator_id uuid NOT NULL, originator_version bigint NOT NULL, topic text, state bytea,
    notification_id bigserial, PRIMARY KEY (originator_id, originator_version)
);
"""


def _text(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def fill_marten(server: Server, schema: str = "public") -> None:
    """Make Marten's tables, and what it writes; its sequence has a hole, as after a rollback."""
    rows = [MARTEN.format(s=schema)]
    made = f"INSERT INTO {schema}.mt_streams(id, type) VALUES "
    rows += [f"{made}('{own_id}', 'account');" for own_id in (ANN, BOB)]
    for number, (own_id, version, name, data, time) in enumerate(HISTORY, 7):
        kind = f"Bank.Account{name.title()}, Bank"
        values = (number, f"0000000{number % 8}-0000-4000-8000-000000000000", own_id, version)
        texts = (json.dumps(data), f"account_{name}", time, kind, "cor-1", '{"origin": "till-7"}')
        rows.append(
            f"INSERT INTO {schema}.mt_events(seq_id, id, stream_id, version, data, type, "
            f"timestamp, mt_dotnet_type, correlation_id, headers) VALUES "
            f"({', '.join(map(_text, (*values, *texts)))});"
        )
    server.sql("".join(rows))


def fill_message_db(server: Server, schema: str = "message_store") -> None:
    """Make Message DB's table, and what it writes: commands stand beside events."""
    rows = [MESSAGE_DB.format(s=schema)]
    command = (0, f"account:command-{ANN}", "Deposit", "{}", "{}", f"{_DAY}2.40")
    messages: list[tuple[Any, ...]] = [command]
    for own_id, version, name, data, time in HISTORY:
        metadata = json.dumps({"correlationStreamName": "till-7"})
        stream = f"account-{own_id}"
        messages.append(
            (
                version - 1,
                stream,
                name.title(),
                json.dumps(data),
                metadata,
                time.removesuffix("+00:00"),
            )
        )
    columns = "id, position, stream_name, type, data, metadata, time"
    into = f"INSERT INTO {schema}.messages({columns}) "
    ids = [f"{number:08}-0000-4000-8000-000000000000" for number in range(len(messages))]
    named = [(id_, *message) for id_, message in zip(ids, messages, strict=True)]
    rows += [f"{into}VALUES ({', '.join(map(_text, message))});" for message in named]
    server.sql("".join(rows))


def _states() -> list[tuple[str, int, str, str]]:
    found: list[tuple[str, int, str, str]] = []
    for own_id, version, name, data, time in HISTORY:
        timestamp = {"_type_": "datetime_iso", "_data_": time}
        topic = f"bank_old:Account.{name.title()}"
        found.append((own_id, version, topic, json.dumps({"timestamp": timestamp, **data})))
    return found


def fill_eventsourcing(where: Server | Path, schema: str = "public") -> None:
    """Make the table of `eventsourcing`, and what it writes, in a server or a file."""
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as connection, connection:
            connection.execute(
                "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, "
                "topic TEXT, state BLOB, PRIMARY KEY (originator_id, originator_version))"
            )
            rows = [
                (i.replace("-", ""), v, topic, state.encode()) for i, v, topic, state in _states()
            ]
            connection.executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?)", rows)
        return
    made = EVENTSOURCING.format(s=schema)
    for own_id, version, topic, state in _states():
        hexadecimal = "\\x" + state.encode().hex()
        values = ", ".join(map(_text, (own_id, version, topic, hexadecimal)))
        made += f"INSERT INTO {schema}.stored_events VALUES ({values});"
    where.sql(made)


class OldDatabase:
    """A PostgreSQL server with a log of Marten and one of Message DB, for who follows a page."""

    name = "OLD"

    def __init__(self, folder: Path) -> None:
        """Start it; `folder` is the reader's, and not used."""
        del folder
        self._open = ExitStack()
        self._server = self._open.enter_context(postgres_server(wheel_programs()))
        fill_marten(self._server)
        fill_message_db(self._server)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._server.url().partition("?")[0]

    def end(self) -> None:
        """End it, and remove its folder."""
        self._open.close()
