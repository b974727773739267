"""The statements inside of the log's functions, and what each does to the tables.

Rules: as `plpgsql` says. An UPDATE takes the lock of each row that it finds, and looks again at the
row that is there when it has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from .attending import MEMBER_STEPS
from .database import Event, Session
from .expressions import NULL, Expression, UnknownSql, compiled, or_null
from .plpgsql import Call, Function, Running, Step, Wait
from .tagging import TAG_STEPS
from .waiting import TIMER_STEPS

__all__ = ["known_step"]

_MONTH: Final = 30 * 86_400.0
_EVENTS: Final = (
    "INSERT INTO {s}.events(position, recorded, behind, checksum, version, type, encoding, stream, "
    "payload, metadata) SELECT last + POSITION, at, at - p_recorded, u.checksum, u.version, "
    "u.type, u.encoding, u.stream, u.payload, u.metadata FROM unnest(p_streams, p_versions, "
    "p_types, p_encodings, p_payloads, p_metadatas, p_checksums) WITH ORDINALITY AS u(stream, "
    "version, type, encoding, payload, metadata, checksum, o)"
)


def known_step(text: str) -> Step:
    """Give what a statement does; raise UnknownSql."""
    for pattern, make in _KNOWN:
        found = pattern.fullmatch(text)
        if found is not None:
            return make(found)
    raise UnknownSql(f"a statement in a function: {text!r}")


def _pattern(text: str) -> re.Pattern[str]:
    """Give a pattern of these words, where a name behind an @ stands for any text."""
    return re.compile(re.sub("@([a-z]+)", r"(?P<\1>.+)", re.escape(text)))


def _lock(found: re.Match[str]) -> Step:
    key = tuple(int(part) for part in found["key"].split(", "))

    def step(call: Call, variables: dict[str, Any]) -> Running:
        yield Wait(lock=("advisory", *key))

    return step


def _set_config(found: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.set_local(found["name"], found["value"])
        yield from ()

    return step


def _sessions(call: Call, variables: dict[str, Any], condition: Expression) -> list[Session]:
    rows: Iterator[Session] = iter(call.tables.sessions.values())
    return [row for row in rows if condition(variables, msgspec.structs.asdict(row))]


def _lock_sessions(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        for row in _sessions(call, variables, condition):
            yield Wait(lock=("session", row.session))

    return step


def _perform_session(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = bool(_sessions(call, variables, condition))
        yield from ()

    return step


def _select_session(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        rows = _sessions(call, variables, condition)
        row = msgspec.structs.asdict(rows[0]) if rows else {}
        for name in ("session", "holder", "opened", "lease_until"):
            variables[name] = row.get(name, NULL)
        variables["seconds_left"] = row["lease_until"] - call.clock() if rows else NULL
        yield from ()

    return step


def _update_sessions(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])
    ends = found["set"] == "live = false"
    if not ends and found["set"] != (
        "lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)"
    ):
        raise UnknownSql(f"an UPDATE: {found[0]!r}")

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = False
        for row in _sessions(call, variables, condition):
            yield Wait(lock=("session", row.session))
            there = call.tables.sessions.get(row.session)
            if there is None or not condition(variables, msgspec.structs.asdict(there)):
                continue
            variables["FOUND"] = True
            if ends:
                call.change("dead", row.session)
            else:
                until = call.clock() + variables["p_lease_seconds"]
                call.change("lease", row.session, until)

    return step


def _forget_sessions(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        for row in list(call.tables.sessions.values()):
            if row.opened < call.clock() - _MONTH:
                yield Wait(lock=("session", row.session))
                call.change("forgot", row.session)

    return step


def _insert_session(found: re.Match[str]) -> Step:
    shared = "shared" in found[0]
    by_nobody = "'nobody'" in found[0]

    def step(call: Call, variables: dict[str, Any]) -> Running:
        number, logged = call.tables.next_session()
        for change in logged:
            call.change(*change)
        if by_nobody:
            call.change("began", Session(number, "nobody", call.clock(), call.clock(), shared=True))
            return
        until = call.clock() + variables["p_lease_seconds"]
        is_shared = shared and bool(variables["p_shared"])
        begun = Session(number, variables["p_holder"], call.clock(), until, shared=is_shared)
        call.change("began", begun)
        variables["session"] = number
        yield from ()

    return step


def _select_of_session(found: re.Match[str]) -> Step:
    condition, into, column = compiled(found["where"]), found["into"], found["column"]

    def step(call: Call, variables: dict[str, Any]) -> Running:
        rows = _sessions(call, variables, condition)
        variables[into] = getattr(rows[0], column) if rows else NULL
        yield from ()

    return step


def _select_last(found: re.Match[str]) -> Step:
    columns = found["columns"].replace("e.", "").split(", ")
    names = found["names"].split(", ")

    def step(call: Call, variables: dict[str, Any]) -> Running:
        last: Event | None = call.tables.last
        for name, column in zip(names, columns, strict=True):
            variables[name] = NULL if last is None else getattr(last, column)
        yield from ()

    return step


def _select_bad(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        asked = zip(variables["q_streams"], variables["q_expected"], strict=True)
        rows = [
            {"stream": stream, "expected": expected, "actual": call.tables.version(stream)}
            for stream, expected in asked
        ]
        bad = [row for row in rows if condition(variables, row)]
        variables["bad"] = [row["stream"] for row in bad] or NULL
        variables["actual"] = [row["actual"] for row in bad] or NULL
        yield from ()

    return step


def _insert_types(found: re.Match[str]) -> Step:
    compares = bool(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        names = ("t_numbers", "t_names", "t_versions", "t_hashes")
        there = call.tables.types
        taken = {kind[:2] for kind in there.values()}
        written = 0
        for number, name, version, hash_ in _rows(variables, names):
            if number not in there:
                if (name, version) in taken:
                    raise call.fail("23505", "duplicate key value violates a unique constraint")
                call.change("type", number, name, version, hash_)
                written += 1
                continue
            known_name, known_version, _ = there[number]
            if not compares or (known_name, known_version) == (name, version):
                call.change("type", number, known_name, known_version, hash_)
                written += 1
        variables["ROW_COUNT"] = written
        yield from ()

    return step


def _get_row_count(found: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables[found["name"]] = variables["ROW_COUNT"]
        yield from ()

    return step


def _raise_unique(found: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        yield from ()
        raise call.fail("23505", found["message"])

    return step


_ROW: Final = (
    *("p_streams", "p_versions", "p_types", "p_encodings", "p_payloads", "p_metadatas"),
    "p_checksums",
)


def _insert_events(found: re.Match[str]) -> Step:
    without_bad = "row_number" in found[0]

    def step(call: Call, variables: dict[str, Any]) -> Running:
        last, at = variables["last"], variables["at"]
        behind = at - variables["p_recorded"]
        # Without the log's lock, its key would have the later one of two wait, and fail.
        yield Wait(lock=("position", last + 1))
        new: set[tuple[str, int]] = set()
        position = last
        if call.tables.last is not None and call.tables.last.position > last:
            raise call.fail("23505", "duplicate key value violates a unique constraint")
        for stream, version, kind, encoding, payload, metadata, checksum in _rows(variables, _ROW):
            if without_bad and stream in variables["bad"]:
                continue
            place = (stream, version)
            if place in new or call.tables.at(*place) is not None:
                raise call.fail("23505", "duplicate key value violates a unique constraint")
            new.add(place)
            position += 1
            event = Event(
                *(position, at, behind, checksum, version, kind, encoding, stream),
                *(payload, metadata),
            )
            call.change("event", event)

    return step


def _insert_snapshots(_: re.Match[str]) -> Step:
    names = (
        *("p_streams", "p_versions", "p_positions", "p_checksums", "p_snapshot_versions"),
        "p_states",
    )

    def step(call: Call, variables: dict[str, Any]) -> Running:
        seen: set[str] = set()
        for stream, *rest in _rows(variables, names):
            if stream in seen:
                raise call.fail("21000", "a row would be affected a second time")
            seen.add(stream)
            yield Wait(lock=("snapshot", stream))
            call.change("snapshot", stream, *rest)

    return step


_CLAIM: Final = ("c_names", "c_values", "c_before", "c_after", "c_places")


def _perform_claims(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = False
        for name, value, before, _, _ in _rows(variables, _CLAIM):
            held = call.tables.claims.get((name, value))
            row = {"stream": None if held is None else held[0], "holder": before}
            if condition(variables, row):
                variables["FOUND"] = True
        yield from ()

    return step


def _append_within(found: re.Match[str]) -> Step:
    values = [compiled(argument) for argument in found["arguments"].split(", ")]

    def step(call: Call, variables: dict[str, Any]) -> Running:
        function: Function = call.tables.functions[f"append_{found['which']}"]
        row: dict[str, Any] = yield from function.run(
            call, [value(variables, {}) for value in values]
        )
        for name, value in row.items():
            variables[name] = or_null(value)

    return step


def _delete_claims(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        for name, value, before, _, _ in _rows(variables, _CLAIM):
            if before:
                call.change("released", name, value)
        yield from ()

    return step


def _insert_claims(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        for name, value, before, after, place in _rows(variables, _CLAIM):
            if after and not before and (name, value) in call.tables.claims:
                raise call.fail("23505", "duplicate key value violates a unique constraint")
            if after:
                call.change("claimed", name, value, after, variables["p_after"] + place)
        yield from ()

    return step


def _rows(variables: dict[str, Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(variables[name] for name in names), strict=True))


_KNOWN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Step]], ...]] = (
    (re.compile(r"PERFORM pg_advisory_xact_lock\((?P<key>-?\d+, -?\d+)\)"), _lock),
    (
        re.compile(r"PERFORM set_config\('(?P<name>[a-z_.]+)', '(?P<value>[^']*)', true\)"),
        _set_config,
    ),
    (_pattern("PERFORM 1 FROM {s}.sessions s WHERE @where FOR UPDATE"), _lock_sessions),
    (_pattern("PERFORM 1 FROM {s}.sessions s WHERE @where"), _perform_session),
    (
        _pattern(
            "SELECT s.session, s.holder, s.opened, s.lease_until, extract(epoch FROM s.lease_until "
            "- clock_timestamp()) INTO session, holder, opened, lease_until, seconds_left "
            "FROM {s}.sessions s WHERE @where"
        ),
        _select_session,
    ),
    (_pattern("UPDATE {s}.sessions SET @set WHERE @where"), _update_sessions),
    (
        _pattern(
            "DELETE FROM {s}.sessions s WHERE s.opened < clock_timestamp() - interval '30 days'"
        ),
        _forget_sessions,
    ),
    (
        _pattern(
            "INSERT INTO {s}.sessions(holder, lease_until) VALUES (p_holder, clock_timestamp() + "
            "make_interval(secs => p_lease_seconds)) RETURNING sessions.session INTO session"
        ),
        _insert_session,
    ),
    (
        _pattern(
            "INSERT INTO {s}.sessions(holder, lease_until, shared) VALUES (p_holder, "
            "clock_timestamp() + make_interval(secs => p_lease_seconds), p_shared) RETURNING "
            "sessions.session INTO session"
        ),
        _insert_session,
    ),
    (
        _pattern(
            "INSERT INTO {s}.sessions(holder, lease_until, shared) VALUES ('nobody', "
            "clock_timestamp(), true)"
        ),
        _insert_session,
    ),
    (
        _pattern("SELECT s.@column INTO @into FROM {s}.sessions s WHERE @where"),
        _select_of_session,
    ),
    (
        _pattern("SELECT @columns INTO @names FROM {s}.events e ORDER BY e.position DESC LIMIT 1"),
        _select_last,
    ),
    (
        _pattern(
            "SELECT array_agg(x.stream), array_agg(x.actual) INTO bad, actual FROM ( SELECT "
            "q.stream, q.expected, coalesce(( SELECT e.version FROM {s}.events e WHERE e.stream = "
            "q.stream ORDER BY e.version DESC LIMIT 1), 0) AS actual FROM unnest(q_streams, "
            "q_expected) AS q(stream, expected) ) x WHERE @where"
        ),
        _select_bad,
    ),
    (
        re.compile(
            r"INSERT INTO \{s\}\.event_types AS known SELECT \* FROM unnest\(t_numbers, t_names, "
            r"t_versions, t_hashes\) ON CONFLICT \(number\) DO UPDATE SET schema_hash = "
            r"excluded\.schema_hash(?: WHERE \(known\.name, known\.version\) (?P<where>=) "
            r"\(excluded\.name, excluded\.version\))?"
        ),
        _insert_types,
    ),
    (_pattern("GET DIAGNOSTICS @name = ROW_COUNT"), _get_row_count),
    (
        _pattern("RAISE EXCEPTION '@message' USING ERRCODE = 'unique_violation'"),
        _raise_unique,
    ),
    (_pattern(_EVENTS.replace("POSITION", "u.o")), _insert_events),
    (
        _pattern(
            _EVENTS.replace("POSITION", "row_number() OVER (ORDER BY u.o)")
            + " WHERE u.stream <> ALL (bad)"
        ),
        _insert_events,
    ),
    (
        _pattern(
            "INSERT INTO {s}.snapshots SELECT * FROM unnest(p_streams, p_versions, p_positions, "
            "p_checksums, p_snapshot_versions, p_states) ON CONFLICT (stream) DO UPDATE SET "
            "version = excluded.version, position = excluded.position, checksum = "
            "excluded.checksum, snapshot_version = excluded.snapshot_version, state = "
            "excluded.state"
        ),
        _insert_snapshots,
    ),
    (
        _pattern(
            "PERFORM 1 FROM unnest(c_names, c_values, c_before) AS u(name, value, holder) LEFT "
            "JOIN {s}.claims c ON c.name = u.name AND c.value = u.value WHERE @where"
        ),
        _perform_claims,
    ),
    (
        _pattern(
            "SELECT a.state, a.last, a.at, a.bad, a.actual INTO state, last, at, bad, actual FROM "
            "{s}.append_@which(@arguments) a"
        ),
        _append_within,
    ),
    (
        _pattern(
            "SELECT a.state, a.last, a.at, a.bad, a.actual, a.more INTO state, last, at, bad, "
            "actual, more FROM {s}.append_@which(@arguments) a"
        ),
        _append_within,
    ),
    (
        _pattern(
            "DELETE FROM {s}.claims c USING unnest(c_names, c_values, c_before) AS u(name, value, "
            "holder) WHERE c.name = u.name AND c.value = u.value AND u.holder <> ''"
        ),
        _delete_claims,
    ),
    (
        _pattern(
            "INSERT INTO {s}.claims(name, value, stream, position) SELECT u.name, u.value, "
            "u.holder, p_after + u.place FROM unnest(c_names, c_values, c_after, c_places) AS "
            "u(name, value, holder, place) WHERE u.holder <> ''"
        ),
        _insert_claims,
    ),
    *((_pattern(words), make) for words, make in (*TIMER_STEPS, *TAG_STEPS, *MEMBER_STEPS)),
)
