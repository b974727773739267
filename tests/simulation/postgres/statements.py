"""The statements that the log sends, and what each gives: all that the modelled server knows.

Rules: a statement is known by its words, by a digest of which it is listed here. A changed one is
unknown, and fails the world that sent it: look whether the model still gives what a server gives
(`test_against_a_server.py` compares them), then write its digest here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, Protocol, TypeAlias

from .attending import deciders_seen, members_seen, runners_seen, spared_seconds
from .database import Event
from .expressions import UnknownSql
from .plpgsql import Call, Function, Running, Wait, functions_of, words
from .tagging import came, counted, tag_forms, tagged, tagged_events
from .viewing import known_of_views
from .waiting import all_timers, count_timers, due_timers, standing_timers

__all__ = [
    "SCHEMA",
    "Asking",
    "Rows",
    "Statement",
    "digest_of",
    "feed_rows",
    "known_statement",
    "stream_rows",
]

SCHEMA: Final = "simulated"
"""The schema of every modelled log: a name that is no other word of a statement."""
_EPOCH: Final = 1_700_000_000
Rows: TypeAlias = list[tuple[Any, ...]]


class Asking(Call, Protocol):
    """The transaction in which a statement runs, with what only some statements need of it."""

    lock_seconds: float
    idle_seconds: float

    @property
    def settings(self) -> Sequence[str]:
        """Whether it is a standby, then its settings in the order in which they are read."""
        ...

    def started_at(self) -> float:
        """Give the database's time at the start of the server."""
        ...

    def try_lock(self, key: Any) -> bool:
        """Take a lock for the session, if it is free."""
        ...

    def unlock(self, key: Any) -> None:
        """Give such a lock back."""
        ...


Statement: TypeAlias = Callable[[Asking, Sequence[Any]], Running]
"""Gives its rows."""


def digest_of(query: str) -> str:
    """Give what a statement is listed by."""
    return blake2b(_plain(query).encode(), digest_size=4).hexdigest()


def _plain(query: str) -> str:
    """Give its words, wherever the schema stands and whatever its lock is called."""
    return re.sub(r"xact_lock\(-?\d+, -?\d+\)", "xact_lock(0, 0)", words(query)).replace(
        SCHEMA, "{s}"
    )


@functools.cache
def known_statement(query: str) -> Statement:
    """Give what a statement does; raise UnknownSql."""
    if "CREATE FUNCTION" in query or "CREATE OR REPLACE FUNCTION" in query:
        return _migration(words(query).replace(SCHEMA, "{s}"))
    known = _KNOWN.get(digest_of(query)) or known_of_views(_plain(query), digest_of)
    if known is None:
        raise UnknownSql(f"the statement {digest_of(query)}: {_plain(query)}")
    return known if SCHEMA + "." not in query else _in_the_schema(known)


def _in_the_schema(statement: Statement) -> Statement:
    def run(call: Asking, values: Sequence[Any]) -> Running:
        if call.tables.log_id is None:
            raise call.fail("42P01", "relation does not exist")
        return statement(call, values)

    return run


def _migration(text: str) -> Statement:
    functions, rest = functions_of(text)
    version = _MIGRATIONS.get(digest_of(rest))
    if version is None:
        raise UnknownSql(f"the tables {digest_of(rest)}: {rest}")

    def run(call: Asking, _: Sequence[Any]) -> Running:
        call.change("migrated", version, functions)
        yield from ()
        return []

    return run


def _at_once(read: Callable[..., Rows]) -> Statement:
    """Give a statement that waits for nothing."""

    def run(call: Asking, values: Sequence[Any]) -> Running:
        yield from ()
        return read(call, *values)

    return run


def _calling(name: str, *columns: str) -> Statement:
    def run(call: Asking, values: Sequence[Any]) -> Running:
        function: Function = call.tables.functions[name]
        row: dict[str, Any] = yield from function.run(call, values)
        return [tuple(row[column] for column in columns or ("",))]

    return run


def _appending_behind_own(name: str, *columns: str) -> Statement:
    """Append by several owners, if the last event that this one wrote is there."""
    appended = _calling(name, "state", "last", "at", "bad", "actual", *columns)

    def run(call: Asking, values: Sequence[Any]) -> Running:
        member, *rest, position, checksum = values
        known = position == 0 or any(
            e.position == position and e.checksum == checksum for e in call.tables.events
        )
        return (yield from appended(call, (member if known else None, *rest)))

    return run


def _begin(call: Asking, values: Sequence[Any]) -> Running:
    function: Function = call.tables.functions["begin_session_2"]
    row: dict[str, Any] = yield from function.run(call, values)
    for name in ("opened", "lease_until"):
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(_EPOCH + row[name], UTC)
    return [tuple(row.values())]


def _begin_as_nobody(call: Asking, _: Sequence[Any]) -> Running:
    function: Function = call.tables.functions["begin_session_2"]
    row: dict[str, Any] = yield from function.run(call, ("nobody", 0.0, True))
    return [(row["session"],)]


def _adding_tags(call: Asking, values: Sequence[Any]) -> Running:
    """Index by the session that leads, if one does."""
    live = next((s.session for s in call.tables.sessions.values() if s.live), None)
    function: Function = call.tables.functions["add_tags_1"]
    row: dict[str, Any] = yield from function.run(call, (live, *values))
    return [(row["done"],)]


def _leading(call: Asking) -> Rows:
    return [(s.session,) for s in call.tables.sessions.values() if s.live and s.shared]


def _other_holders(call: Asking, member: int) -> Rows:
    members = call.tables.members.items()
    return [(one.holder,) for number, one in members if one.decides and number != member]


def _locking(call: Asking, values: Sequence[Any]) -> Running:
    yield Wait(lock=("advisory", *values))
    return [(None,)]


def _locking_as_written(call: Asking, values: Sequence[Any]) -> Running:
    from engine.stores.postgres.log.schema import lock_key

    yield Wait(lock=("advisory", *lock_key(SCHEMA)))
    return [(None,)]


def _wait_for_standbys(call: Asking) -> Rows:
    call.set_local("synchronous_commit", "on")
    return []


def _at_a_begin(*, synced: bool, locking: bool) -> Statement:
    """Do as one statement what begins a transaction."""

    def run(call: Asking, values: Sequence[Any]) -> Running:
        yield from _limits(5.0, 2.0)(call, values)
        if synced:
            _wait_for_standbys(call)
        if locking:
            yield from _locking_as_written(call, values)
        return []

    return run


def _limits(lock_seconds: float, idle_seconds: float) -> Statement:
    def run(call: Asking) -> Rows:
        call.lock_seconds, call.idle_seconds = lock_seconds, idle_seconds
        return []

    return _at_once(run)


# -- reading ------------------------------------------------------------------------------------


def _nothing(_: Asking) -> Rows:
    return []


def _settings(call: Asking) -> Rows:
    return [tuple(call.settings)]


def _mend_leases(*_: object) -> Rows:
    return [(None,)]  # its clock goes back by less than anybody here would wait for


def _no_guard_missing(*_: object) -> Rows:
    return []


def _exists(call: Asking, _: str) -> Rows:
    return [] if call.tables.log_id is None else [("about",)]


def _version(call: Asking) -> Rows:
    return [(call.tables.schema_version,)]


def _holders(call: Asking, names: Sequence[str], values: Sequence[str]) -> Rows:
    keys = list(zip(names, values, strict=True))
    return [(*key, call.tables.claims[key][0]) for key in keys if key in call.tables.claims]


def _claims(call: Asking, name: str, value: str, claims_max: int) -> Rows:
    behind = [key for key in sorted(call.tables.claims) if key > (name, value)]
    return [(*key, *call.tables.claims[key]) for key in behind[:claims_max]]


def _log_id(call: Asking) -> Rows:
    return [(call.tables.log_id, bool(call.tables.tag_forms))]


def _try_lock(call: Asking, *key: int) -> Rows:
    return [(call.try_lock(("advisory", *key)),)]


def _unlock(call: Asking, *key: int) -> Rows:
    call.unlock(("advisory", *key))
    return [(True,)]


def _owner(call: Asking, lease_seconds: float) -> Rows:
    spared = spared_seconds(call, lease_seconds)
    return [
        (s.session, call.tables.log_id, s.holder, max(s.lease_until - call.clock(), spared))
        for s in call.tables.sessions.values()
        if s.live
    ]


def _head(call: Asking) -> Rows:
    last = call.tables.last
    return [] if last is None else [(last.position, last.checksum, last.recorded)]


def _types(call: Asking) -> Rows:
    return [(number, *kind) for number, kind in sorted(call.tables.types.items())]


def _versions(call: Asking, streams: Sequence[str]) -> Rows:
    return [(stream, call.tables.version(stream)) for stream in streams]


def _kinds(call: Asking) -> Rows:
    return [(kind,) for kind in sorted({name.partition(":")[0] for name in call.tables.streams})]


def _snapshots(call: Asking, streams: Sequence[str]) -> Rows:
    found = (call.tables.snapshots.get(stream) for stream in dict.fromkeys(streams))
    return [row for row in found if row is not None]


def _checksum(call: Asking, position: int) -> Rows:
    return [(event.checksum,) for event in call.tables.events if event.position == position]


def _moved(call: Asking, after: int, first: int, last: int) -> Rows:
    versions: dict[str, int] = {}
    for event in call.tables.events:
        if event.position > after and not first <= event.position <= last:
            versions[event.stream] = event.version
    return [*versions.items()]


def _found(call: Asking, streams: Sequence[str], versions: Sequence[int]) -> Rows:
    rows: Rows = []
    for stream, version in zip(streams, versions, strict=True):
        event: Event | None = call.tables.at(stream, version)
        told = (None,) * 3 if event is None else (event.position, event.checksum, event.recorded)
        rows.append((stream, *told, call.tables.version(stream)))
    return rows


def _bytes(event: Event) -> int:
    return len(event.payload) + len(event.metadata)


def _content(event: Event) -> tuple[Any, ...]:
    return (
        *(event.recorded, event.payload, event.metadata, event.encoding),
        *(event.checksum, event.behind),
    )


def feed_rows(call: Asking, after: int, events_max: int, bytes_max: int) -> Rows:
    """Give the events behind a position."""
    rows: Rows = []
    so_far = 0
    behind = [event for event in call.tables.events if event.position > after]
    for event in behind[:events_max]:
        so_far += _bytes(event)
        if not rows or so_far <= bytes_max:
            rows.append((event.position, event.stream, event.version, event.type, *_content(event)))
    return rows


def stream_rows(
    call: Asking, names: Sequence[str], afters: Sequence[int], events_max: int, bytes_max: int
) -> Rows:
    """Give the events of streams behind versions."""
    rows: Rows = []
    earlier = number = so_far = 0
    for place, (name, after) in enumerate(zip(names, afters, strict=True), 1):
        tail = call.tables.version(name)
        left_over = max(tail - after, 0)
        events: list[Event] = []
        if left_over and earlier < events_max:
            there: list[Event] = call.tables.streams.get(name, [])
            events = [e for e in there if e.version > after]
            events = events[: min(left_over, events_max - earlier)]
        earlier += left_over
        found: Rows = []
        for event in events:
            number += 1
            so_far += _bytes(event)
            if number == 1 or so_far <= bytes_max:
                about = (event.position, event.version, event.type)
                found.append((place, tail, *about, *_content(event)))
        rows += found or [(place, tail, *(None,) * 9)]
    return rows


_MIGRATIONS: Final = {
    "1594b7a3": 1,
    "f1c98bea": 2,
    "70b2d02f": 3,
    "c445b7fa": 4,
    "c2b24d6d": 5,
    "f913c312": 6,
    "759db8e8": 7,
    "a230dd20": 8,
    "322218ff": 9,
    "0f1e6e08": 10,
    "d7c5b8c7": 11,
}
"""By what is in them besides functions: the version that they lead to."""
_KNOWN: Final[dict[str, Statement]] = {
    "91abb800": _at_once(_settings),
    "5a88981a": _at_once(_no_guard_missing),
    "e05d9e23": _at_once(_exists),
    "d67eddae": _at_once(_version),
    "aca89d01": _at_once(_log_id),
    "a1069ccb": _limits(10.0, 10.0),
    "1d227a9b": _limits(5.0, 10.0),
    "017fb276": _limits(5.0, 2.0),
    "47bc2fe1": _limits(5.0, 0.0),  # as a mutant has it
    "e0ab60b1": _at_a_begin(synced=True, locking=False),
    "816ff697": _at_a_begin(synced=False, locking=True),
    "a59be7a6": _at_a_begin(synced=True, locking=True),
    "3e8eafed": _at_once(_wait_for_standbys),
    "4f9c549a": _locking_as_written,
    "7cf30d87": _locking,
    "11c152e1": _at_once(_nothing),  # CREATE SCHEMA
    "ba6cf072": _begin,
    "0beea9a0": _begin_as_nobody,
    "e3811781": _calling("renew_session_1"),
    "847de9f9": _calling("end_session_1"),
    "99ae60d1": _at_once(_mend_leases),
    "50d8fc3b": _calling("append_1", "state", "at", "bad", "actual"),
    "135bebde": _calling("append_2", "state", "at", "bad", "actual"),
    "f4eda039": _calling("append_3", "state", "at", "bad", "actual", "more"),
    "700dac40": _calling("append_4", "state", "at", "bad", "actual", "more"),
    "84df59ef": _calling("join_members_1", "joined", "number"),
    "f663e6b3": _calling("renew_member_1"),
    "4d82aadd": _calling("leave_members_1"),
    "69def842": _at_once(members_seen),
    "c281db89": _calling("join_members_2", "joined", "number", "other"),
    "f4893ee7": _at_once(deciders_seen),
    "785e068f": _at_once(runners_seen),
    "bae8ae9f": _appending_behind_own("append_5"),
    "4fb9cc9a": _appending_behind_own("append_6", "more"),
    "08686176": _calling("take_line_1", "number"),
    "5779f082": _at_once(tag_forms),
    "84f4ea49": _at_once(came),
    "444b47fe": _at_once(tagged),
    "14184007": _at_once(counted),
    "8db810bd": _calling("begin_index_1", "done"),
    "92fb0dc3": _calling("add_tags_1", "done"),
    "b7300bc9": _at_once(tagged_events),
    "a1bca6b3": _at_once(_other_holders),
    "c84ccb88": _adding_tags,
    "c0989587": _at_once(_leading),
    "45b6ecc0": _at_once(standing_timers),
    "6afa5fb7": _at_once(due_timers),
    "50691577": _at_once(all_timers),
    "9178390f": _at_once(count_timers),
    "f2ef4b4a": _calling("settle_timers_1", "gone"),
    "a9ec07ea": _at_once(_holders),
    "4703fb38": _at_once(_claims),
    "9cda2a05": _calling("keep_snapshots_1"),
    "b874bd25": _at_once(_try_lock),
    "efc67908": _at_once(_unlock),
    "c837ef09": _at_once(_head),
    "2a326224": _at_once(_owner),
    "21354ca7": _at_once(_types),
    "2ee34c90": _at_once(feed_rows),
    "f7e75ea2": _at_once(stream_rows),
    "6e3a4822": _at_once(_versions),
    "68d06cf9": _at_once(_kinds),
    "9df97314": _at_once(_snapshots),
    "52c93730": _at_once(_found),
    "03b20c6f": _at_once(_moved),
    "4818183e": _at_once(_checksum),
}
