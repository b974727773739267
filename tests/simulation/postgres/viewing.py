"""The views' statements in the modelled server: what each gives, and what it changes.

Rules: a statement sees what was committed when it began, and what its transaction has changed; one
of a snapshot sees what its first one saw. A row that is written is locked up to the commit. The
conditions under which a checkpoint moves are read from the statement's own text, so that a slip in
them shows as what it does; all else is known by its words, as `statements` says. Locks on whole
tables are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from .database import Shelves
from .expressions import UnknownSql, or_null
from .fencing import FENCE, condition, stands_of
from .plpgsql import Running, Wait

__all__ = ["begin", "known_of_views"]

Rows: TypeAlias = list[tuple[Any, ...]]
_REAL: Final = re.compile(r"[a-z0-9]+_rows_[0-9a-f]{8}_b\d+")
_SHOWN: Final = re.compile(r'"\{s\}_views"\."(\w+_rows)"')
_BUILD_COLUMNS: Final = (
    *("projection", "number", "version", "definition", "slices", "log_id", "tables", "state"),
    *("builder", "own"),
)
_STATE, _BUILDER = 7, 8


# -- how a transaction begins ---------------------------------------------------------------------


def begin(call: Any, query: str) -> Running:
    """Do what stands behind a BEGIN in one string."""
    first, *rest = query.split("; ")
    call.is_snapshot = "REPEATABLE READ" in first
    for part in rest:
        name, mark, value = part.removeprefix("SET LOCAL ").partition(" = ")
        value = value.strip("'")
        if name == "synchronous_commit" and mark:
            call.set_local(name, value)
        elif name == "idle_in_transaction_session_timeout":
            call.idle_seconds = int(value) / 1_000
        elif name == "lock_timeout":
            call.lock_seconds = _seconds(value)
        elif part.startswith("SELECT pg_advisory_xact_lock(hashtextextended("):
            yield Wait(lock=("views",))
        elif not part.startswith(("SET LOCAL search_path", "SET LOCAL statement_", "SAVEPOINT ")):
            raise UnknownSql(f"behind a BEGIN: {part}")


def _seconds(value: str) -> float:
    if value.endswith("ms"):
        return float(value[:-2]) / 1_000
    return float(value[:-1]) if value.endswith("s") else float(value) / 1_000


# -- what is there --------------------------------------------------------------------------------


def _shelves(call: Any) -> Shelves:
    """Give the views' tables as this statement sees them."""
    if call.is_snapshot:
        if call.snapshot is None:
            call.snapshot = call.tables.views.copied()
        found: Shelves = call.snapshot
        return found
    committed: Shelves = call.tables.views
    own = [change for change in call.changes if change[0] == "views"]
    if not own:
        return committed
    seen = committed.copied()
    for _, *change in own:
        seen.apply(*change)
    return seen


def _table(call: Any, name: str) -> dict[Any, tuple[Any, ...]]:
    found = _shelves(call).tables.get(name)
    if found is None:
        raise call.fail("42P01", "relation does not exist")
    return found


def _put(call: Any, name: str, key: Any, row: Sequence[Any]) -> Running:
    _table(call, name)
    yield Wait(lock=("views", name, key))
    call.change("views", "put", name, key, tuple(row))


def _take(call: Any, name: str, keys: Sequence[Any]) -> Running:
    for key in keys:
        yield Wait(lock=("views", name, key))
        call.change("views", "gone", name, key)


def _of(call: Any, name: str, *begins: Any) -> list[Any]:
    """Give the keys of a table that begin so."""
    return [key for key in _table(call, name) if key[: len(begins)] == begins]


# -- statements, by the digest of their words -----------------------------------------------------

Handler: TypeAlias = Callable[..., Running]


def _reads(read: Callable[..., Rows]) -> Handler:
    def run(call: Any, names: Sequence[str], *values: Any) -> Running:
        yield from ()
        return read(call, *values)

    return run


def _nothing(_: Any, names: Sequence[str], *values: Any) -> Running:
    yield from ()
    return []


def _has_views(call: Any, _: str) -> Rows:
    return [(1,)] if "about" in _shelves(call).tables else []


def _make_schema(call: Any, names: Sequence[str]) -> Running:
    for name in ("about", "builds", "checkpoints", "parked", "decisions", "requests", "failures"):
        call.change("views", "made", name)
    yield from ()
    return []


def _begin_about(call: Any, names: Sequence[str], version: int, log_id: str) -> Running:
    yield from _put(call, "about", True, (version, log_id))
    return []


def _about(call: Any) -> Rows:
    return list(_table(call, "about").values())


def _set_log_id(call: Any, names: Sequence[str], log_id: str) -> Running:
    for key, (version, _) in list(_table(call, "about").items()):
        yield from _put(call, "about", key, (version, log_id))
    return []


def _builds(call: Any) -> Rows:
    checkpoints = _table(call, "checkpoints")
    rows: Rows = []
    for key, build in sorted(_table(call, "builds").items()):
        slices = sorted(at for at in checkpoints if at[:2] == key)
        rows += [(*build, at[2], *checkpoints[at]) for at in slices]
        if not slices:
            rows.append((*build, None, None, None))
    return rows


def _lock_checkpoints(call: Any, names: Sequence[str]) -> Running:
    for key in sorted(_table(call, "checkpoints")):
        yield Wait(lock=("views", "checkpoints", key))
    return []


def _lock_own_checkpoints(call: Any, names: Sequence[str], *own: Any) -> Running:
    whole, *parts = map(_listed, own)
    slices = set(zip(*parts, strict=True))
    for key in sorted(_table(call, "checkpoints")):
        if key[0] in whole or (key[0], key[2]) in slices:
            yield Wait(lock=("views", "checkpoints", key))
    return []


def _relations(call: Any, _: str) -> Rows:
    tables = _shelves(call).tables
    return [(name,) for name in (*tables, *tables.get("shown", {}))]


def _insert_build(call: Any, names: Sequence[str], *values: Any) -> Running:
    row = (*values[:8], None, values[8])
    states = [build[_STATE] for key, build in _table(call, "builds").items() if key[0] == row[0]]
    if row[:2] in _table(call, "builds") or (row[_STATE] in states and row[_STATE] != "former"):
        raise call.fail("23505", "duplicate key value violates a unique constraint")
    yield from _put(call, "builds", row[:2], row)
    return []


def _begin_checkpoints(call: Any, names: Sequence[str], *values: Any) -> Running:
    projection, build, position, checksum, slices = values
    for number in range(slices):
        yield from _put(call, "checkpoints", (projection, build, number), (position, checksum))
    return []


def _change_build(place: int) -> Handler:
    def run(call: Any, names: Sequence[str], projection: str, number: int, value: Any) -> Running:
        key = (projection, number)
        yield Wait(lock=("views", "builds", key))
        row = list(_table(call, "builds")[key])
        row[place] = value
        builds = _table(call, "builds")
        others = [b[_STATE] for other, b in builds.items() if other[0] == key[0] and other != key]
        if place == _STATE and value != "former" and value in others:
            raise call.fail("23505", "duplicate key value violates a unique constraint")
        call.change("views", "put", "builds", key, tuple(row))
        return []

    return run


def _forget(table: str) -> Handler:
    def run(call: Any, names: Sequence[str], *begins: Any) -> Running:
        for last in begins[-1:] if isinstance(begins[-1], int) else _listed(begins[-1]):
            yield from _take(call, table, _of(call, table, *begins[:-1], last))
        return []

    return run


def _checkpoints(call: Any) -> Rows:
    return [(*key, row[0]) for key, row in _table(call, "checkpoints").items()]


def _checkpoint(call: Any, *key: Any) -> Rows:
    found = _table(call, "checkpoints").get(key)
    return [] if found is None else [found]


def _wait_for_checkpoint(call: Any, names: Sequence[str], *key: Any) -> Running:
    yield Wait(lock=("views", "checkpoints", key))
    return _checkpoint(call, *key)


def _columns(call: Any, _: str, reals: Sequence[str]) -> Rows:
    there = _shelves(call).tables
    return [
        (real, column)
        for real in sorted(reals)
        if real in there
        for column in ("counter", "positions", "slice:")
    ]


def _add_decision(call: Any, names: Sequence[str], *values: Any) -> Running:
    yield from _put(call, "decisions", (len(_table(call, "decisions")) + 1,), values)
    return []


def _is_paused(call: Any, projection: str) -> Rows:
    kinds = [row[1] for row in _table(call, "decisions").values() if row[0] == projection]
    return [(kind,) for kind in kinds if kind in ("pause", "resume")][-1:]


def _none(call: Any, *_: Any) -> Rows:
    """Of what this world has nothing of: parked events, requests, skips, failures."""
    assert not any(_table(call, name) for name in ("parked", "requests"))
    return []


def _note_failure(call: Any, names: Sequence[str], *values: Any) -> Running:
    yield from _put(call, "failures", values[:3], values)
    return []


def _zero(_: Any) -> Rows:
    return [(0,)]


# -- statements, by patterns ----------------------------------------------------------------------

_MOVE: Final = re.compile(
    r'UPDATE "\{s\}_views"\.checkpoints SET position = \$1, checksum = \$2 WHERE (?P<where>.+?) '
    r'AND EXISTS \(SELECT 1 FROM "\{s\}_views"\.builds WHERE (?P<build>.+?) FOR SHARE\)'
    rf"(?: AND EXISTS \({FENCE}\))? RETURNING 1"
)
_HELD: Final = re.compile(FENCE)


def _held(found: re.Match[str]) -> Handler:
    stands = stands_of(found)

    def run(call: Any, names: Sequence[str], *values: Any) -> Running:
        yield from ()
        given = {f"p{n}": or_null(value) for n, value in enumerate(values, 1)}
        return [(1,)] if stands(call, given) else []

    return run


def _move(found: re.Match[str]) -> Handler:
    where, build = map(condition, found.group("where", "build"))
    stands = stands_of(found)

    def run(call: Any, names: Sequence[str], *values: Any) -> Running:
        given = {f"p{n}": or_null(value) for n, value in enumerate(values, 1)}
        rows = [
            dict(zip(_BUILD_COLUMNS, row, strict=True)) | {"builder_is_same": row[8] == values[9]}
            for row in _table(call, "builds").values()
        ]
        builds = [row for row in rows if build(given, row) is True]
        live = stands(call, given)
        for row in builds:
            yield Wait(lock=("views", "builds", (row["projection"], row["number"])))
        moved: Rows = []
        for key in list(_table(call, "checkpoints")) if builds and live else ():
            if where(given, _checkpoint_row(call, key)) is not True:
                continue
            yield Wait(lock=("views", "checkpoints", key))
            there = _table(call, "checkpoints").get(key)
            if there is not None and where(given, _checkpoint_row(call, key)) is True:
                call.change("views", "put", "checkpoints", key, tuple(values[:2]))
                moved.append((1,))
        return moved

    return run


def _checkpoint_row(call: Any, key: tuple[Any, ...]) -> dict[str, Any]:
    position, checksum = _table(call, "checkpoints")[key]
    row = dict(zip(("projection", "build", "slice"), key, strict=True))
    return {**row, "position": position, "checksum": checksum}


def _make(found: re.Match[str]) -> Handler:
    def run(call: Any, names: Sequence[str]) -> Running:
        if names[0] in _shelves(call).tables:
            raise call.fail("42P07", "relation already exists")
        call.change("views", "made", names[0])
        yield from ()
        return []

    return run


def _show(found: re.Match[str]) -> Handler:
    def run(call: Any, names: Sequence[str]) -> Running:
        for plain, real in zip(_SHOWN.findall(found[0]), names, strict=True):
            call.change("views", "put", "shown", plain, (real,))
        yield from ()
        return []

    return run


def _hide(found: re.Match[str]) -> Handler:
    def run(call: Any, names: Sequence[str]) -> Running:
        yield from _take(call, "shown", _SHOWN.findall(found[0]))
        return []

    return run


def _drop(found: re.Match[str]) -> Handler:
    def run(call: Any, names: Sequence[str]) -> Running:
        for name in names:
            call.change("views", "dropped", name)
        yield from ()
        return []

    return run


def _listed(array: Any) -> list[Any]:
    """Give the values of an array, which is bound as a text."""
    found: list[Any] = msgspec.json.decode(f"[{array[1:-1]}]") if isinstance(array, str) else array
    return found


def _upsert(found: re.Match[str]) -> Handler:
    sliced = found["sliced"] is not None

    def run(call: Any, names: Sequence[str], *columns: Any) -> Running:
        count = 0
        for row in zip(*map(_listed, columns), strict=True):
            yield Wait(lock=("views", names[0], row[0]))
            there = _table(call, names[0]).get(row[0])
            if not sliced or there is None or there[-1] == row[-1]:
                call.change("views", "put", names[0], row[0], row)
                count += 1
        return [(count,)] if sliced else []

    return run


def _fetch(found: re.Match[str]) -> Handler:
    def read(call: Any, names: Sequence[str], keys: Sequence[str], *others: int) -> Running:
        yield from ()
        rows = [row for key, row in _table(call, names[0]).items() if key in keys]
        if others:
            return [(row[0], row[-1]) for row in rows if row[-1] != others[0]][:1]
        return [row[:2] for row in rows]

    return read


def _find(found: re.Match[str]) -> Handler:
    def read(call: Any, names: Sequence[str], limit: int, offset: int) -> Running:
        yield from ()
        rows = [row[:2] for _, row in sorted(_table(call, names[0]).items())]
        return rows[offset : offset + limit]

    return read


def _empty(found: re.Match[str]) -> Handler:
    def run(call: Any, names: Sequence[str]) -> Running:
        yield from _take(call, names[0], list(_table(call, names[0])))
        return []

    return run


_T: Final = r'"\{s\}_views"\."\{t\}"'
_PATTERNS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Handler]], ...]] = (
    (_MOVE, _move),
    (_HELD, _held),
    (re.compile(rf'CREATE TABLE {_T} \("counter" text [^;]*'), _make),
    (re.compile(rf"CREATE OR REPLACE VIEW [^;]*FROM {_T}"), _show),
    (re.compile(rf"DROP VIEW IF EXISTS {_SHOWN.pattern}"), _hide),
    (re.compile(rf"DROP TABLE IF EXISTS {_T}"), _drop),
    (re.compile(rf"DELETE FROM {_T}"), _empty),
    (
        re.compile(
            rf'(?P<sliced>WITH put AS \()?INSERT INTO {_T} AS old \("counter", "positions"[^)]*\) '
            rf"SELECT [^;]* ON CONFLICT \([^;]*"
        ),
        _upsert,
    ),
    (re.compile(rf'SELECT "counter", "positions" FROM {_T} WHERE "counter" = ANY [^;]*'), _fetch),
    (
        re.compile(rf'SELECT "counter", "slice:" FROM {_T} WHERE "counter" = ANY [^;]*LIMIT 1'),
        _fetch,
    ),
    (
        re.compile(
            rf'SELECT "counter", "positions" FROM {_T} ORDER BY "counter" LIMIT \$1 OFFSET \$2'
        ),
        _find,
    ),
)
_KNOWN: Final[dict[str, Handler]] = {
    "6a8ca36f": _change_build(_STATE),
    "9ec9f88c": _change_build(_BUILDER),
    "955d8717": _add_decision,
    "79bad8a2": _reads(_none),
    "fdfed672": _reads(_checkpoints),
    "202b923a": _reads(_none),
    "aef0c6f8": _reads(_none),
    "7ef2cdd1": _reads(_zero),
    "c0fb1f05": _reads(_checkpoint),
    "5639dae7": _reads(_is_paused),
    "6c85d43d": _forget("failures"),
    "6e2688a6": _forget("failures"),
    "a94438be": _set_log_id,
    "e02153c6": _nothing,
    "48239d7c": _reads(_columns),
    "17511678": _begin_checkpoints,
    "fc4c91d0": _insert_build,
    "d6976bfa": _lock_checkpoints,
    "d31c2468": _lock_own_checkpoints,
    "043e8bca": _reads(_relations),
    "03facd96": _reads(_about),
    "43dac112": _reads(_builds),
    "410bad6f": _begin_about,
    "291a46b2": _make_schema,
    "71f7e292": _nothing,
    "551cf62c": _reads(lambda _, __: []),
    "3ca32d57": _reads(_has_views),
    "340d9647": _nothing,
    "ffeff068": _forget("failures"),
    "a800680f": _note_failure,
    "b03e25e5": _wait_for_checkpoint,
}


def known_of_views(text: str, digest: Callable[[str], str]) -> Any:
    """Give what a statement of the views does; None for one that is not known."""
    names: list[str] = _REAL.findall(text)
    text = _REAL.sub("{t}", text)
    handler = _KNOWN.get(digest(text)) or next(_matching(text), None)
    if handler is None:
        return None

    def run(call: Any, values: Sequence[Any]) -> Running:
        running: Running = handler(call, names, *values)
        return running

    return run


def _matching(text: str) -> Iterator[Handler]:
    for pattern, make in _PATTERNS:
        found = pattern.fullmatch(text)
        if found is not None:
            yield make(found)
