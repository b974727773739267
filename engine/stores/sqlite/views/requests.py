"""What other processes ask of an engine, and which of its projectors stand still, in a views' file.

Rules: a request is appended by who asks and changed by who does it, and whoever commits either
syncs the file. Numbers are never used twice. A failure stands there for as long as its projector
stands still. Everything here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ....model.texts import as_text
from ....statistics import ProjectionFailure
from ...contract.requests import (
    ANSWER_CHARACTERS_MAX,
    REQUESTS_KEPT,
    REQUESTS_OPEN_MAX,
    Arguments,
    Outcome,
    Request,
)
from ...contract.views import Part, Standstill
from ..connection import run

__all__ = [
    "REQUESTS_SCHEMA",
    "add_request",
    "all_requests",
    "answer",
    "begin",
    "count_open",
    "forget_failures",
    "note_failure",
    "oldest_open",
    "open_requests",
    "put_back",
    "read_request",
    "read_standstills",
]

REQUESTS_SCHEMA: Final = (
    """
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        projection TEXT NOT NULL,
        arguments TEXT NOT NULL,
        asked INTEGER NOT NULL,
        principal TEXT,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'begun', 'done', 'refused', 'unknown')),
        answer TEXT NOT NULL,
        answered INTEGER
    ) STRICT
    """,
    "CREATE INDEX requests_open ON requests (number) WHERE state IN ('waiting', 'begun')",
    """
    CREATE TABLE failures (
        projection TEXT NOT NULL,
        build INTEGER NOT NULL,
        slice INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        position INTEGER NOT NULL,
        event TEXT NOT NULL,
        stream TEXT NOT NULL,
        cause TEXT NOT NULL,
        PRIMARY KEY (projection, build, slice)
    ) STRICT, WITHOUT ROWID
    """,
)

_COLUMNS: Final = (
    "number, CAST(kind AS BLOB), CAST(projection AS BLOB), CAST(arguments AS BLOB), asked, "
    "CAST(principal AS BLOB), state, CAST(answer AS BLOB), answered"
)
"""As bytes, since anybody may write here, and one text that is none must not hide the others."""
_OPEN: Final = "state IN ('waiting', 'begun')"


# -- requests -----------------------------------------------------------------------------------


def add_request(connection: Any, request: Request) -> int:
    """Append a request; give its number, and let the oldest answered ones go."""
    arguments = msgspec.json.encode(request.arguments).decode()
    row = (request.kind, request.projection, arguments, request.asked, request.principal)
    sql = (
        "INSERT INTO requests(kind, projection, arguments, asked, principal, state, answer) "
        "VALUES (?, ?, ?, ?, ?, 'waiting', '')"
    )
    run(connection, sql, row)
    # The newest one always stays, so its number is never given again.
    number: int = connection.last_insert_rowid()
    sql = f"DELETE FROM requests WHERE number <= ? AND NOT {_OPEN}"  # noqa: S608
    run(connection, sql, (number - REQUESTS_KEPT,))
    return number


def count_open(connection: Any) -> int:
    """Give how many requests have no answer yet, up to as many as may wait."""
    sql = f"SELECT count(*) FROM (SELECT 1 FROM requests WHERE {_OPEN} LIMIT ?)"  # noqa: S608
    return int(run(connection, sql, (REQUESTS_OPEN_MAX,))[0][0])


def oldest_open(connection: Any) -> Request | None:
    """Give the first request that has no answer yet."""
    found = _read(connection, f"{_OPEN} ORDER BY number LIMIT 1", ())
    return found[0] if found else None


def open_requests(connection: Any) -> Sequence[Request]:
    """Give all requests that have no answer yet, in order."""
    return _read(connection, f"{_OPEN} ORDER BY number", ())


def all_requests(connection: Any) -> Sequence[Request]:
    """Give all requests that are kept, in order."""
    return _read(connection, "true ORDER BY number", ())


def read_request(connection: Any, number: int) -> Request | None:
    """Give a request, or None where it is not kept any more."""
    found = _read(connection, "number = ?", (number,))
    return found[0] if found else None


def begin(connection: Any, number: int) -> bool:
    """Note that a request is being done; tell whether it was still waiting."""
    sql = "UPDATE requests SET state = 'begun' WHERE number = ? AND state = 'waiting'"
    run(connection, sql, (number,))
    return bool(connection.changes() == 1)


def put_back(connection: Any, number: int) -> None:
    """Let a request wait again, of which nothing was done."""
    sql = "UPDATE requests SET state = 'waiting' WHERE number = ? AND state = 'begun'"
    run(connection, sql, (number,))


def answer(connection: Any, number: int, outcome: Outcome, now: int) -> None:
    """Say what became of a request that has no answer yet."""
    sql = f"UPDATE requests SET state = ?, answer = ?, answered = ? WHERE number = ? AND {_OPEN}"  # noqa: S608
    text = as_text(outcome.text[:ANSWER_CHARACTERS_MAX])
    run(connection, sql, (outcome.state, text, now, number))


def _read(connection: Any, where: str, values: tuple[int, ...]) -> list[Request]:
    sql = f"SELECT {_COLUMNS} FROM requests WHERE {where}"  # noqa: S608
    return [
        Request(
            number,
            _shown(kind),
            _shown(projection),
            _arguments(arguments),
            asked,
            None if principal is None else _shown(principal),
            state,
            _shown(answered),
            at,
        )
        for number, kind, projection, arguments, asked, principal, state, answered, at in run(
            connection, sql, values
        )
    ]


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _arguments(text: bytes) -> Arguments | None:
    try:
        return msgspec.json.decode(text, type=Arguments)
    except (msgspec.MsgspecError, UnicodeError):
        return None


# -- failures -----------------------------------------------------------------------------------


def note_failure(connection: Any, part: Part, failure: ProjectionFailure | None, now: int) -> None:
    """Note why a part stands still, or that it does not."""
    at = (part.definition.name, part.build, part.slice)
    if failure is None:
        sql = "DELETE FROM failures WHERE projection = ? AND build = ? AND slice = ?"
        run(connection, sql, at)
        return
    row = (*at, now, failure.position, failure.event, failure.stream, as_text(failure.cause))
    run(connection, "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def forget_failures(connection: Any, projection: str, build: int) -> None:
    """Note that no part of a build stands still."""
    at = (projection, build)
    run(connection, "DELETE FROM failures WHERE projection = ? AND build = ?", at)


def read_standstills(connection: Any) -> Sequence[Standstill]:
    """Give which parts stand still, and why."""
    sql = (
        "SELECT failures.projection, build, slice, builds.version, position, event, stream, cause "
        "FROM failures JOIN builds ON builds.projection = failures.projection AND number = build "
        "ORDER BY failures.projection, build, slice"
    )
    return [
        Standstill(projection, build, slice_, version, ProjectionFailure(*failure))
        for projection, build, slice_, version, *failure in run(connection, sql)
    ]
