"""Tags in a log in PostgreSQL: their index, the functions that change it, and its reading.

Rules: `append_4` is `append_3` with what the events are found by, and with conditions that hold
unless an event came, which the function looks for under the lock that an append takes. Where one
does not hold, nothing is written and the batch is planned anew. A batch without tags and conditions
never pays for them. The index is made anew in one transaction, by the engine that has the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import msgspec

from ....errors import EngineError, StoreFailed
from ....model.stored import StoredEvent
from ...contract.log import AppendRequest
from ...contract.tags import (
    NOTHING_CAME,
    Came,
    Condition,
    TagBook,
    TagForm,
    TagPage,
    TagRead,
    TagRow,
    Unchanged,
    rows_of,
)
from ..address import Address
from ..driver import Driver, Record
from ..failures import described_failure
from ..line import Answering, Line
from .cold import FEED, TAGGED, thawed
from .limits import LIMITS
from .reading import EventReader, TypeNames, read_head

__all__ = [
    "APPEND_TAGS",
    "TAGS",
    "TAGS_SINCE",
    "ChangedTags",
    "TagsLaidOut",
    "index_tags",
    "index_within",
    "indexing",
    "is_index_of",
    "pages_of_tagged",
    "read_came",
    "read_forms",
    "read_rows",
    "read_tagged",
]

TAGS_SINCE: Final = 4
"""The schema version that has an index of tags."""

# `u` has a query: its first tag, the others as a JSON array, names of events, and a position. The
# first one leads: its rows are few behind a position, and the others are looked for one by one.
_SELECTED: Final = """FROM {s}.tags g WHERE g.tag = u.tag AND g.position > u.after
        AND g.type IN (SELECT t.number FROM {s}.event_types t WHERE t.name IN (
            SELECT n.name FROM jsonb_array_elements_text(u.names::jsonb) AS n(name)))
        AND NOT EXISTS (
            SELECT 1 FROM jsonb_array_elements_text(u.further::jsonb) AS f(tag) WHERE NOT EXISTS (
                SELECT 1 FROM {s}.tags o WHERE o.tag = f.tag AND o.position = g.position))"""

TAGS: Final = """
CREATE TABLE {s}.tag_forms(
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    fields text NOT NULL,
    fixed text NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE TABLE {s}.tags(
    tag text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    type integer NOT NULL,
    PRIMARY KEY (tag, position)
);

-- A place counts the events of the batch; g_types are numbers, also of types that it brings.
CREATE FUNCTION {s}.append_4(
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
    g_tags text[], g_places integer[], g_types integer[],
    u_tags text[], u_further text[], u_names text[], u_afters bigint[],
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
    -- Looked at first: a batch that was sent twice has brought its own events by coming late.
    SELECT e.position, e.checksum INTO last, found_checksum
        FROM {s}.events e ORDER BY e.position DESC LIMIT 1;
    IF coalesce(last, 0) <> p_after OR coalesce(found_checksum, 0) <> p_after_checksum THEN
        state := 'elsewhere';
        RETURN;
    END IF;
    PERFORM 1 FROM unnest(u_tags, u_further, u_names, u_afters)
        AS u(tag, further, names, after) WHERE EXISTS (SELECT 1 {selected});
    IF FOUND THEN
        state := 'misfit';
        RETURN;
    END IF;
    SELECT a.state, a.last, a.at, a.bad, a.actual, a.more
        INTO state, last, at, bad, actual, more
        FROM {s}.append_3(p_session, p_after, p_after_checksum, p_recorded, p_streams, p_versions,
            p_types, p_encodings, p_payloads, p_metadatas, p_checksums, q_streams, q_expected,
            false, p_synced, t_numbers, t_names, t_versions, t_hashes, c_names, c_values, c_before,
            c_after, c_places, f_streams, f_names, f_positions, d_streams, d_names, w_streams,
            w_names, w_dues, w_places, w_versions, w_commands, w_payloads, w_metadatas) a;
    IF state <> 'done' THEN
        RETURN;
    END IF;
    INSERT INTO {s}.tags(tag, position, type)
        SELECT u.tag, p_after + u.place, u.type
        FROM unnest(g_tags, g_places, g_types) AS u(tag, place, type);
END $$;
REVOKE EXECUTE ON FUNCTION {s}.append_4 FROM PUBLIC;

-- Let the index be of these forms, and forget what is found by types whose form is another one.
CREATE FUNCTION {s}.begin_index_1(
    p_session integer, p_stale integer[], p_names text[], p_versions bigint[], p_fields text[],
    p_fixed text[],
    OUT done boolean
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    PERFORM 1 FROM {s}.sessions s WHERE s.session = p_session AND s.live;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM {s}.tags g WHERE g.type = ANY (p_stale);
    DELETE FROM {s}.tag_forms;
    INSERT INTO {s}.tag_forms(name, version, fields, fixed)
        SELECT u.name, u.version, u.fields, u.fixed
        FROM unnest(p_names, p_versions, p_fields, p_fixed) AS u(name, version, fields, fixed);
    done := true;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.begin_index_1 FROM PUBLIC;

CREATE FUNCTION {s}.add_tags_1(
    p_session integer, p_tags text[], p_positions bigint[], p_types integer[],
    OUT done boolean
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '5s'
AS $$ BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    PERFORM 1 FROM {s}.sessions s WHERE s.session = p_session AND s.live;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO {s}.tags(tag, position, type)
        SELECT u.tag, u.position, u.type
        FROM unnest(p_tags, p_positions, p_types) AS u(tag, position, type);
    done := true;
END $$;
REVOKE EXECUTE ON FUNCTION {s}.add_tags_1 FROM PUBLIC;

UPDATE {s}.about SET schema_version = 4;
""".replace("{selected}", _SELECTED)

APPEND_TAGS: Final = (
    "SELECT state, at, bad, actual, more FROM {s}.append_4("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, "
    "$20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, "
    "$38, $39, $40, $41, $42, $43, $44)"
)
_CAME: Final = """
SELECT u.o FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
    AS u(tag, further, names, after, o) WHERE EXISTS (SELECT 1 {selected})
""".replace("{selected}", _SELECTED)
_TAGGED: Final = """
SELECT o, position, stream, version, type, recorded, payload, metadata, encoding, checksum, behind
FROM (
    SELECT u.o, page.n, e.*,
        sum(octet_length(e.payload) + octet_length(e.metadata)) OVER (ORDER BY u.o, page.n)
            AS so_far,
        row_number() OVER (ORDER BY u.o, page.n) AS number
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
        AS u(tag, further, names, after, o)
    CROSS JOIN LATERAL (
        SELECT g.position, row_number() OVER (ORDER BY g.position) AS n {selected}
        ORDER BY g.position LIMIT $5::bigint) page
    JOIN {s}.events e ON e.position = page.position
) cut WHERE number <= $5::bigint AND (number = 1 OR so_far <= $6) ORDER BY o, n
""".replace("{selected}", _SELECTED)
_COUNTS: Final = """
SELECT (SELECT count(*) FROM (SELECT 1 {selected} LIMIT $5::bigint + 1) few)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY
    AS u(tag, further, names, after, o) ORDER BY u.o
""".replace("{selected}", _SELECTED)
_FORMS: Final = "SELECT name, version, fields, fixed FROM {s}.tag_forms"
_ROWS: Final = """
SELECT g.tag, g.position, coalesce(t.name, ''), coalesce(t.version, 0)
FROM {s}.tags g LEFT JOIN {s}.event_types t ON t.number = g.type
WHERE (g.tag, g.position) > ($1, $2::bigint) ORDER BY g.tag, g.position LIMIT $3
"""
_BEGIN_INDEX: Final = "SELECT {s}.begin_index_1($1, $2, $3, $4, $5, $6)"
_ADD: Final = "SELECT {s}.add_tags_1($1, $2, $3, $4)"
_EVENTS_OF: Final = """
SELECT position, stream, version, type, recorded, payload, metadata, encoding, checksum, behind
FROM {s}.events WHERE position > $1 AND position <= $2 AND type = ANY ($3::integer[])
ORDER BY position LIMIT $4
"""
_PAGE_EVENTS: Final = 2_000
_PAGE_POSITIONS: Final = 100_000
"""Looked through for one page, so that no answer takes long where few events have tags."""
_FORGET_SECONDS: Final = 3_600.0
"""How long the rows of a large index may take to go."""
_PAGE_BYTES: Final = 64 * 1024 * 1024
"""Of what was archived."""

_fields: Final = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
_fixed: Final = msgspec.json.Decoder(tuple[str, ...]).decode
Numbers: TypeAlias = Mapping[tuple[str, int], tuple[int, str]]
"""Number and schema hash of each type, by name and version."""
_Whose: TypeAlias = Callable[[], Awaitable[int]]
"""Gives the session that has the log at this moment."""
_Forms: TypeAlias = Mapping[tuple[str, int], TagForm]
_Columns: TypeAlias = tuple[list[str], list[str], list[str], list[int]]


class ChangedTags(msgspec.Struct, frozen=True):
    """What the index gets of a batch, and the conditions that must hold before."""

    rows: Sequence[TagRow]
    conditions: Sequence[Condition]
    after: int
    """The position behind which those of `rows` are: 0 where they count in the batch."""

    def arrays(self, numbers: Mapping[tuple[str, int], int]) -> tuple[list[Any], ...]:
        """Give what the function `append_4` takes; `numbers` has those of all types."""
        return (
            [tag for tag, _, _, _ in self.rows],
            [position - self.after for _, position, _, _ in self.rows],
            [numbers[name, version] for _, _, name, version in self.rows],
            *_columns(self.conditions),
        )


class TagsLaidOut:
    """The tags of a batch that is laid out as if it fitted."""

    def __init__(self) -> None:
        self._book = TagBook()
        self._rows: list[TagRow] = []
        self._conditions: list[Condition] = []

    def add(self, request: AppendRequest, before: int) -> bool:
        """Add what a request has, behind so many events of the batch.

        Tells whether the batch may go out unplanned.
        """
        for extra in request.extras:
            if type(extra) is Unchanged:
                self._conditions.append((extra.tags, extra.names, extra.after))
        if request.extras and self._book.refusal(request.extras) is not None:
            return False  # by this very batch: to be planned
        for write in request.writes:
            for data in write.events:
                before += 1
                if data.tags:
                    name, version = data.type.name, data.type.version
                    self._book.add(name, data.tags)
                    self._rows += [(tag, before, name, version) for tag in data.tags]
        return True

    def changed(self) -> ChangedTags | None:
        """Give what there is to send; None for nothing."""
        if not self._rows and not self._conditions:
            return None
        return ChangedTags(self._rows, self._conditions, 0)


def _columns(queries: Iterable[Condition]) -> _Columns:
    """Give queries as arrays: first tags, further ones, names, and positions."""
    first: list[str] = []
    further: list[str] = []
    names: list[str] = []
    afters: list[int] = []
    for tags, wanted, after in queries:
        first.append(tags[0])
        further.append(_as_json(tags[1:]))
        names.append(_as_json(wanted))
        afters.append(after)
    return first, further, names, afters


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def read_came(line: Line, schema: str, conditions: Sequence[Condition]) -> Came:
    """Give those of some conditions that do not hold."""
    if not conditions:
        return NOTHING_CAME
    rows = await line.fetch(_CAME.replace("{s}", schema), *_columns(conditions))
    return frozenset(conditions[int(row[0]) - 1] for row in rows)


async def read_tagged(
    line: Line, schema: str, reads: Sequence[TagRead], events_max: int, bytes_max: int
) -> tuple[Sequence[Record], Sequence[int]]:
    """Give the rows of pages of tagged events, and how many events each could have.

    `pages_of_tagged` makes pages of them. What comes between the two is counted, and not given.
    """
    columns = _columns((read.tags, read.names, read.after) for read in reads)
    rows = await line.fetch(_TAGGED.replace("{s}", schema), *columns, events_max, bytes_max)
    rows = await thawed(line, schema, rows, TAGGED, bytes_max)
    counts = await line.fetch(_COUNTS.replace("{s}", schema), *columns, events_max)
    return rows, [row[0] for row in counts]


def pages_of_tagged(
    rows: Sequence[Record], counts: Sequence[int], type_names: TypeNames
) -> Sequence[TagPage]:
    """Give the pages of queries by tags, in their order. Raises Damaged."""
    event_of = EventReader(type_names).event
    found: list[list[StoredEvent]] = [[] for _ in counts]
    for row in rows:
        place, *columns = row
        events = found[int(place) - 1]
        events.append(event_of(*columns))
    return [TagPage(events, n > len(events)) for events, n in zip(found, counts, strict=True)]


async def read_forms(line: Line, schema: str) -> Sequence[TagForm]:
    """Give the forms by which the index was made."""
    return tuple((await _kept(line, schema)).values())


async def read_rows(
    line: Line, schema: str, after: tuple[str, int], rows_max: int
) -> Sequence[TagRow]:
    """Give rows of the index, in order; a type that is not there has no name."""
    rows = await line.fetch(_ROWS.replace("{s}", schema), *after, rows_max)
    return [(row[0], row[1], row[2], row[3]) for row in rows]


async def is_index_of(line: Line, schema: str, forms: Sequence[TagForm]) -> bool:
    """Tell whether the index is of these forms."""
    return await _kept(line, schema) == _by_type(forms)


async def _kept(line: Line, schema: str) -> _Forms:
    return _by_type(
        TagForm(name, version, _fields(fields), _fixed(fixed))
        for name, version, fields, fixed in await line.fetch(_FORMS.replace("{s}", schema))
    )


def _by_type(forms: Iterable[TagForm]) -> _Forms:
    return {(form.name, form.version): form for form in forms}


@asynccontextmanager
async def indexing(driver: Driver, address: Address) -> AsyncGenerator[Line]:
    """Give a connection of its own, since to make the index takes as long as the log is."""
    line = await Line.connected(driver, address)
    try:
        yield line
    except EngineError:
        raise
    except Exception as error:
        raise StoreFailed(
            f"{address.name}: its tags were not indexed: {described_failure(error)}", written=False
        ) from error
    finally:
        await line.close()


async def index_tags(
    line: Line, address: Address, session: int, numbers: Numbers, forms: Sequence[TagForm]
) -> int:
    """Do as `index_within`, in a transaction of its own."""

    async def own() -> int:
        return session

    with line.answering(address.answer_seconds) as again:
        async with line.connection.transaction():
            await line.connection.execute(LIMITS)
            return await index_within(line, address, own, again, numbers, forms)


async def index_within(
    line: Line,
    address: Address,
    whose: _Whose,
    again: Answering,
    numbers: Numbers,
    forms: Sequence[TagForm],
) -> int:
    """Make the index anew where its forms are others; give how many events were indexed.

    `again` is told before each statement that may
    take as long as `answering` lets it. Raises StoreRefused for an event without what its form
    says, StoreFailed where another engine has the log, and Damaged.
    """
    schema = address.schema
    whole = Line(line.connection, pooled=True)  # nothing is prepared in a transaction
    kept, wanted = await _kept(whole, schema), _by_type(forms)
    other = {key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key)}
    new = {key: wanted[key] for key in other if key in wanted and key in numbers}
    columns: list[list[Any]] = [
        # Without forms somebody had it made again, whatever it says.
        [numbers[key][0] for key in numbers if key in other or not kept],
        [form.name for form in forms],
        [form.version for form in forms],
        [_as_json(form.fields) for form in forms],
        [_as_json(form.fixed) for form in forms],
    ]
    again(max(_FORGET_SECONDS, address.answer_seconds))
    await _do(whole, address.sql(_BEGIN_INDEX), whose, *columns)
    again()
    end = (await read_head(whole, schema)).position
    count = after = 0
    while new and after < end:
        again()
        after, found = await _index_page(whole, address, whose, again, numbers, new, after)
        count += found
    again()
    return count


async def _index_page(
    line: Line,
    address: Address,
    whose: _Whose,
    again: Answering,
    numbers: Numbers,
    forms: _Forms,
    after: int,
) -> tuple[int, int]:
    """Index what comes behind a position; give how far that is, and how many events it was."""
    by_number, until = {numbers[key][0]: key for key in forms}, after + _PAGE_POSITIONS
    query = address.sql(_EVENTS_OF)
    found = await line.fetch(query, after, until, list(by_number), _PAGE_EVENTS)
    if not found:
        return until, 0
    if len(found) == _PAGE_EVENTS:
        until = found[-1][0]
    again()
    found = await thawed(line, address.schema, found, FEED, _PAGE_BYTES)
    again()
    event_of = EventReader(by_number.get).event
    rows = rows_of([event_of(*row) for row in found], forms)
    columns: list[list[Any]] = [
        [row[0] for row in rows],
        [row[1] for row in rows],
        [numbers[row[2], row[3]][0] for row in rows],
    ]
    await _do(line, address.sql(_ADD), whose, *columns)
    return until, len(found)


async def _do(line: Line, query: str, whose: _Whose, *columns: object) -> None:
    """Do it for whoever has the log; once more where that is another one meanwhile."""
    session, tried = await whose(), 0
    while session != tried:
        ((done,),) = await line.fetch(query, session, *columns)
        if done:
            return
        session, tried = await whose(), session
    raise StoreFailed(
        "another engine has taken this log over: its tags were not indexed", written=False
    )
