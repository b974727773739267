"""Timers in a log in PostgreSQL: their table, the functions that change them, and their reading.

Rules: `append_3` is `append_2` with the timers that change: those whose commands the batch has must
stand, which the function compares under the lock that an append takes. Where one does not, nothing
is written and the batch is planned anew. A batch without timers never pays for them. Timers whose
commands have written nothing are settled by the engine that has the log, and by no former one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ....errors import StoreFailed
from ...contract.log import AppendRequest, Extra, firsts_of
from ...contract.timers import (
    NO_TIMERS,
    DuePlace,
    FiredTimer,
    SettledTimer,
    TimerBook,
    TimerKey,
    WaitingTimer,
    may_replace,
)
from ..line import Line

__all__ = [
    "APPEND_TIMERS",
    "TIMERS",
    "TIMERS_SINCE",
    "ChangedTimers",
    "TimersLaidOut",
    "count_timers",
    "fired_by",
    "read_due",
    "read_standing",
    "read_timers",
    "settle_timers",
]

TIMERS_SINCE: Final = 3
"""The schema version that has a table of timers; an older one is read as without any."""

_COLUMNS: Final = (
    "stream, name, due, position, version, command, payload, metadata, next, attempts, parked, "
    "cause"
)

TIMERS: Final = """
CREATE TABLE {s}.timers(
    stream text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    due bigint NOT NULL,
    position bigint NOT NULL,
    version integer NOT NULL,
    command text COLLATE "C" NOT NULL,
    payload bytea NOT NULL,
    metadata bytea NOT NULL,
    next bigint NOT NULL,
    attempts integer NOT NULL,
    parked boolean NOT NULL,
    cause text NOT NULL,
    PRIMARY KEY (stream, name)
);
CREATE INDEX timers_by_due ON {s}.timers(next, position, stream, name) WHERE NOT parked;
CREATE INDEX timers_parked ON {s}.timers(stream, name) WHERE parked;

-- Fired timers are those whose commands are in the batch; a place counts the events of the batch.
CREATE FUNCTION {s}.append_3(
    p_session integer, p_after bigint, p_after_checksum bigint, p_recorded bigint,
    p_streams text[], p_versions integer[], p_types integer[], p_encodings integer[],
    p_payloads bytea[], p_metadatas bytea[], p_checksums bigint[],
    q_streams text[], q_expected integer[], q_alone boolean, p_synced boolean,
    t_numbers integer[], t_names text[], t_versions integer[], t_hashes text[],
    c_names text[], c_values text[], c_before text[], c_after text[], c_places integer[],
    f_streams text[], f_names text[], f_positions bigint[],
    d_streams text[], d_names text[],
    w_streams text[], w_names text[], w_dues bigint[], w_places integer[], w_versions integer[],
    w_commands text[], w_payloads bytea[], w_metadatas bytea[],
    OUT state text, OUT last bigint, OUT at bigint, OUT bad text[], OUT actual integer[],
    OUT more integer
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '5s'
AS $$
DECLARE
    found_checksum bigint;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    -- Looked at first: a batch that was sent twice may have changed its timers by coming late.
    SELECT e.position, e.checksum INTO last, found_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    IF coalesce(last, 0) <> p_after OR coalesce(found_checksum, 0) <> p_after_checksum THEN
        state := 'elsewhere';
        RETURN;
    END IF;
    PERFORM 1 FROM unnest(f_streams, f_names, f_positions) AS u(stream, name, place)
        LEFT JOIN {s}.timers w ON w.stream = u.stream AND w.name = u.name
        WHERE coalesce(w.position, 0) <> u.place;
    IF FOUND THEN
        state := 'misfit';
        RETURN;
    END IF;
    SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual
        FROM {s}.append_2(p_session, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
            p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
            false, p_synced, t_numbers, t_names, t_versions, t_hashes, c_names, c_values, c_before,
            c_after, c_places) a;
    IF state <> 'done' THEN
        RETURN;
    END IF;
    DELETE FROM {s}.timers w USING unnest(d_streams, d_names) AS u(stream, name)
        WHERE w.stream = u.stream AND w.name = u.name;
    GET DIAGNOSTICS more = ROW_COUNT;
    more := cardinality(w_streams) - more;
    INSERT INTO {s}.timers(stream, name, due, position, version, command, payload, metadata, next,
            attempts, parked, cause)
        SELECT u.stream, u.name, u.due, p_after + u.place, u.version, u.command, u.payload,
            u.metadata, u.due, 0, false, ''
        FROM unnest(w_streams, w_names, w_dues, w_places, w_versions, w_commands, w_payloads,
            w_metadatas) AS u(stream, name, due, place, version, command, payload, metadata);
END $$;
REVOKE EXECUTE ON FUNCTION {s}.append_3 FROM PUBLIC;

-- What becomes of timers whose commands wrote nothing; a next time below 0 takes one away.
CREATE FUNCTION {s}.settle_timers_1(
    p_session integer, p_streams text[], p_names text[], p_positions bigint[], p_nexts bigint[],
    p_attempts integer[], p_parked boolean[], p_causes text[],
    OUT gone integer
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    PERFORM 1 FROM {s}.sessions s WHERE s.session = p_session AND s.live;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE {s}.timers w SET next = u.next, attempts = u.attempts, parked = u.parked,
            cause = u.cause
        FROM unnest(p_streams, p_names, p_positions, p_nexts, p_attempts, p_parked, p_causes)
            AS u(stream, name, position, next, attempts, parked, cause)
        WHERE w.stream = u.stream AND w.name = u.name AND w.position = u.position AND u.next >= 0;
    DELETE FROM {s}.timers w
        USING unnest(p_streams, p_names, p_positions, p_nexts) AS u(stream, name, position, next)
        WHERE w.stream = u.stream AND w.name = u.name AND w.position = u.position AND u.next < 0;
    GET DIAGNOSTICS gone = ROW_COUNT;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.settle_timers_1 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 3;
"""

APPEND_TIMERS: Final = (
    "SELECT state, at, bad, actual, more FROM {s}.append_3("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, "
    "$20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37)"
)
_STANDING: Final = """
SELECT w.stream, w.name, w.position FROM unnest($1::text[], $2::text[]) AS q(stream, name)
JOIN {s}.timers w ON w.stream = q.stream AND w.name = q.name
"""
_DUE: Final = f"""
SELECT {_COLUMNS} FROM {{s}}.timers
WHERE NOT parked AND (next, position, stream, name) > ($1, $2, $3, $4) AND next <= $5
ORDER BY next, position, stream, name LIMIT $6
"""  # noqa: S608 - names of columns alone
_ALL: Final = f"""
SELECT {_COLUMNS} FROM {{s}}.timers
WHERE (stream, name) > ($1, $2) ORDER BY stream, name LIMIT $3
"""  # noqa: S608 - names of columns alone
_COUNT: Final = """
SELECT (SELECT count(*) FROM {s}.timers WHERE NOT parked),
    (SELECT count(*) FROM {s}.timers WHERE parked AND attempts > 0),
    (SELECT count(*) FROM {s}.timers WHERE parked AND attempts = 0)
"""
_SETTLE: Final = "SELECT {s}.settle_timers_1($1, $2, $3, $4, $5, $6, $7, $8)"


class ChangedTimers(msgspec.Struct, frozen=True):
    """The timers that a batch changes, as arrays."""

    fired: Sequence[FiredTimer]
    """Those that must stand."""
    changes: Mapping[TimerKey, WaitingTimer | None]
    after: int
    """The position behind which those of `changes` are: 0 where they count in the batch."""

    @property
    def more(self) -> int:
        """How many timers more there are, where none was set again."""
        return sum(1 if timer is not None else -1 for timer in self.changes.values())

    @property
    def key_columns(self) -> tuple[list[str], list[str]]:
        """The timers that do not stay as they are."""
        former = [key for key, timer in self.changes.items() if may_replace(timer)]
        return [stream for stream, _ in former], [name for _, name in former]

    def arrays(self) -> tuple[list[Any], ...]:
        """Give what the function `append_3` takes."""
        new = [timer for timer in self.changes.values() if timer is not None]
        return (
            [timer.stream for timer in self.fired],
            [timer.name for timer in self.fired],
            [timer.position for timer in self.fired],
            *self.key_columns,
            [timer.stream for timer in new],
            [timer.name for timer in new],
            [timer.due for timer in new],
            [timer.position - self.after for timer in new],
            [timer.version for timer in new],
            [timer.command for timer in new],
            [timer.payload for timer in new],
            [timer.metadata for timer in new],
        )


class TimersLaidOut:
    """The timers of a batch that is laid out as if it fitted."""

    def __init__(self) -> None:
        self._fired: list[FiredTimer] = []
        self._book = TimerBook(NO_TIMERS)

    def add(self, request: AppendRequest, before: int) -> bool:
        """Add what a request changes, behind so many events of the batch.

        Tells whether the batch may go out unplanned.
        """
        fired = fired_by(request.extras)
        if any((timer.stream, timer.name) in self._book.changes for timer in fired):
            return False  # by this very batch: to be planned
        self._fired += fired
        self._book.apply(request.extras, firsts_of(request, before))
        return True

    def changed(self) -> ChangedTimers | None:
        """Give what there is to send; None for nothing."""
        changes = self._book.changes
        return ChangedTimers(self._fired, changes, 0) if changes else None


def fired_by(extras: Sequence[Extra]) -> Sequence[FiredTimer]:
    """Give the timers whose command a request is."""
    return [extra for extra in extras if isinstance(extra, FiredTimer)]


async def read_standing(
    line: Line, schema: str, keys: Sequence[TimerKey]
) -> Mapping[TimerKey, int]:
    """Give the positions of these timers, of those that stand."""
    if not keys:
        return NO_TIMERS
    columns = [stream for stream, _ in keys], [name for _, name in keys]
    rows = await line.fetch(_STANDING.replace("{s}", schema), *columns)
    return {(row[0], row[1]): row[2] for row in rows}


async def read_due(
    line: Line, schema: str, after: DuePlace, until: int, timers_max: int
) -> list[WaitingTimer]:
    """Give a page of those that are due, in order."""
    rows = await line.fetch(_DUE.replace("{s}", schema), *after, until, timers_max)
    return [WaitingTimer(*row) for row in rows]


async def read_timers(
    line: Line, schema: str, after: TimerKey, timers_max: int
) -> list[WaitingTimer]:
    """Give a page of all timers, in order."""
    rows = await line.fetch(_ALL.replace("{s}", schema), *after, timers_max)
    return [WaitingTimer(*row) for row in rows]


async def count_timers(line: Line, schema: str) -> tuple[int, int, int]:
    """Give how many there are, how many of them have failed, and how many are cancelled."""
    ((waiting, failed, cancelled),) = await line.fetch(_COUNT.replace("{s}", schema))
    return waiting + failed, failed, cancelled


async def settle_timers(
    line: Line, schema: str, session: int, settled: Sequence[SettledTimer]
) -> int:
    """Take timers away, or let them wait; raise StoreFailed where another engine has the log."""
    columns: list[list[Any]] = [
        [s.stream for s in settled],
        [s.name for s in settled],
        [s.position for s in settled],
        [-1 if s.next is None else s.next for s in settled],
        [s.attempts for s in settled],
        [s.parked for s in settled],
        [s.cause.replace("\0", "") for s in settled],
    ]
    ((gone,),) = await line.fetch(_SETTLE.replace("{s}", schema), session, *columns)
    if gone is None:
        raise StoreFailed(
            "another engine has taken this log over: no timer was settled", written=False
        )
    count: int = gone
    return count
