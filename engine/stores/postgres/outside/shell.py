"""SQL for people over a log in PostgreSQL and its views, which only reads, within bounds.

Rules: a statement runs in a transaction that cannot write and that the server ends when its time is
over. Of its rows the first ones are sent, and no more. The views' plain names and the log's view
`log` need no schema before them. `log` has the contents of archived events too, and a row whose
contents are not to be had ends the statement: a sum without them would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from ....errors import StoreRefused, UsageError
from ....model.rows import Scalar
from ...contract.archiving import MOVED
from ...contract.outside import Rows
from ..failures import CANCELED, described_failure, sqlstate_of
from ..log.cold_sql import cold_schema
from ..views.link import Link, Place, is_lost_line
from ..views.queries import readable
from ..views.values import bytes_of, values_of
from .blocking import Blocking
from .log import PostgresLogReader

__all__ = ["PostgresShell"]

BYTES_MAX: Final = 256 * 1024 * 1024
"""Of one answer."""
_TABLES: Final = (
    'SELECT table_schema AS "schema", table_name AS "table", '
    "string_agg(column_name, ', ' ORDER BY ordinal_position) AS \"columns\" "
    "FROM information_schema.columns WHERE table_schema IN ({schemas}) "
    "AND column_name NOT LIKE '%:' GROUP BY table_schema, table_name "
    "ORDER BY table_schema, table_name"
)
_ANY_MOVED: Final = "SELECT to_regclass('{s}.archives') IS NOT NULL"
_MOVED: Final = (
    "SELECT EXISTS (SELECT 1 FROM {s}.archives), to_regclass('{cold}.contents') IS NOT NULL"
)
_WHOLE_LOG: Final = f"""WITH log AS NOT MATERIALIZED (
    SELECT l.position, l.stream, l.version, l.event, l.event_version, l.recorded,
        CASE WHEN e.encoding <> {MOVED} THEN l.payload WHEN c.position IS NULL THEN {{unread}}
            ELSE {{payload}} END AS payload,
        CASE WHEN e.encoding <> {MOVED} THEN l.metadata WHEN c.position IS NULL THEN {{unread}}
            WHEN c.metadata <> '' THEN {{metadata}} END AS metadata
    FROM {{s}}.log l JOIN {{s}}.events e ON e.position = l.position
    LEFT JOIN {{contents}} c ON c.position = l.position AND c.checksum = e.checksum
        AND e.encoding = {MOVED})
"""  # noqa: S608 - names and a number of ours
"""What a statement means by `log` where events were archived."""
_SHOWN: Final = (
    "CASE c.encoding WHEN 0 THEN regexp_replace(convert_from(c.{column}, 'UTF8'), "
    r"'(?<!\\)((\\\\)*)\\u0000', '\1\\ufffd', 'g')::json "
    "ELSE to_json(encode(c.{column}, 'hex')) END"
)
"""As the view of the log shows them: with U+FFFD for a NUL, which no text may have there."""
_UNREAD: Final = (
    "to_json(('the event at position ' || l.position || ' was archived, and the schema {cold} "
    "does not have it: put that back')::integer)"
)
"""An error with these words, at the row for which it is wanted."""
_NO_CONTENTS: Final = (
    "(SELECT 0::bigint AS position, 0::bigint AS checksum, 0 AS encoding, ''::bytea AS payload, "
    "''::bytea AS metadata)"
)
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), int),
    **dict.fromkeys(("float4", "float8"), float),
    "numeric": Decimal,
    "bytea": bytes.fromhex,
    "date": date.fromisoformat,
    "timestamptz": datetime.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "bool": lambda text: text.lower() in ("1", "t", "true"),
}
"""How a text that was typed is bound where the server wants another type."""


class PostgresShell:
    """SQL over the two schemas of a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def ask(
        self, statement: str, parameters: Sequence[str], *, rows_max: int, seconds: int
    ) -> Rows:
        """Give the first rows of one statement that reads."""
        # Looks that there is a log, and says so in its own words where there is none.
        with PostgresLogReader(self._place):
            pass
        calls = Blocking(self._place)
        calls.open()
        try:
            return calls.run(self._ask, statement, parameters, rows_max, seconds)
        finally:
            calls.close()

    def tables(self, *, rows_max: int, seconds: int) -> Rows:
        """Give what there is to ask."""
        schemas = ", ".join(f"'{name}'" for name in (self._place.log_schema, self._place.schema))
        return self.ask(
            _TABLES.replace("{schemas}", schemas), (), rows_max=rows_max, seconds=seconds
        )

    async def _ask(
        self,
        link: Link,
        statement: str,
        parameters: Sequence[str],
        rows_max: int,
        seconds: int,
    ) -> Rows:
        query, count = readable(statement, rows_max)
        if count != len(parameters):
            raise UsageError(f"it has {count} marks `?`, and {len(parameters)} values were given")
        await link.do(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
            f'SET LOCAL search_path TO "{self._place.schema}", "{self._place.log_schema}"; '
            f"SET LOCAL statement_timeout = {1_000 * seconds}"
        )
        try:
            query = await _with_moved(link, query, self._place.log_schema)
            kinds = await link.takes(query)
            values = [_bound(kind, text) for kind, text in zip(kinds, parameters, strict=True)]
            names, found = await link.ask(query, values)
        except Exception as error:
            if is_lost_line(error) or isinstance(error, StoreRefused):
                raise
            if sqlstate_of(error) == CANCELED:
                raise UsageError(f"it took longer than {seconds} s, and was ended") from error
            why = described_failure(error) if sqlstate_of(error) else str(error)
            raise UsageError(f"it cannot be run: {why}") from error
        finally:
            if link.is_open:
                await link.do("ROLLBACK")
        rows = values_of(found)
        if bytes_of(rows, range(len(names))) > BYTES_MAX:
            raise UsageError(f"its rows have more than {BYTES_MAX} bytes: ask for fewer")
        shown = [[_shown(value) for value in row] for row in rows[:rows_max]]
        return Rows(list(names), shown, more=len(rows) > rows_max)


async def _with_moved(link: Link, query: str, schema: str) -> str:
    """Give a statement whose `log` has the contents of archived events, where there are such."""
    log, cold = f'"{schema}"', f'"{cold_schema(schema)}"'
    if not query.startswith("SELECT"):
        return query  # it only says how it would be run
    ((knows_archives,),) = await link.run(_ANY_MOVED.format(s=log))
    if not knows_archives:
        return query
    ((has_moved, is_there),) = await link.run(_MOVED.format(s=log, cold=cold))
    if not has_moved:
        return query
    whole = _WHOLE_LOG.format(
        s=log,
        unread=_UNREAD.format(cold=cold),
        payload=_SHOWN.format(column="payload"),
        metadata=_SHOWN.format(column="metadata"),
        contents=f"{cold}.contents" if is_there else _NO_CONTENTS,
    )
    return whole + query


def _bound(kind: str, text: str) -> Any:
    try:
        return _READ.get(kind, str)(text)
    except (ValueError, ArithmeticError):
        raise UsageError(f"{text!r:.60} is no value of the type {kind}") from None


def _shown(value: Any) -> Scalar:
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    return value.isoformat() if isinstance(value, date | datetime) else str(value)
