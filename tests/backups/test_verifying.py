"""A log that is verified: nothing is wrong with a sound one, and each damage is named."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine import Engine, Meta, Projection, Reactor, Table, projects, reacts
from engine.__main__ import main
from engine.model.aggregate import definitions_of
from engine.outside.verifying import Verified, verify_log
from engine.outside.verifying_code import Code, verify_code
from engine.runtime.ports import Ports
from engine.stores.contract.verifying import Finding
from engine.stores.sqlite.connection import run
from engine.stores.urls import open_backend
from tests.backups.made import append, backed_up, claimed, manifest
from tests.outside.copied import (
    BOTH,
    Board,
    Count,
    NewStore,
    Pin,
    Pinned,
    boards,
    declared,
    filled,
)
from tests.support.postgres import Server


class Watched:
    """Takes progress, and rests not at all."""

    def __init__(self) -> None:
        self.rests = 0
        self.positions: list[int] = []

    def progress(self, position: int, end: int) -> None:
        assert position <= end
        self.positions.append(position)

    def rest(self) -> None:
        self.rests += 1


def verified(store: str, lane: Watched | None = None) -> tuple[Verified, list[Finding]]:
    outside = open_backend(store).outside(Ports())
    found: list[Finding] = []
    done = verify_log(outside.copy_source(), outside.structure(), found.append, lane or Watched())
    return done, found


def changed(path: str, *statements: str) -> None:
    """Change a file as nobody may who goes through its triggers."""
    with closing(apsw.Connection(path.removeprefix("sqlite:"))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        for statement in statements:
            run(connection, statement)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a log once, with its views, for whoever damages a copy of it."""
    path = tmp_path_factory.mktemp("made") / "log.db"

    async def make() -> None:
        async with boards(f"sqlite:{path}") as engine:
            await filled(engine)

    asyncio.run(make())
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> str:
    """Give a copy of it."""
    for name in ("log.db", "log.views.db"):
        shutil.copy(made.with_name(name), tmp_path / name)
    return f"sqlite:{tmp_path / 'log.db'}"


@pytest.mark.parametrize("kind", BOTH)
async def test_nothing_is_wrong_with_a_log_at_work_and_at_rest(new: NewStore, kind: str) -> None:
    store, lane = new(kind), Watched()
    async with boards(store) as engine:
        await filled(engine)
        done, found = await asyncio.to_thread(verified, store, lane)
    assert found == []
    assert (done.position, done.events, done.streams) == (24, 24, 3)
    assert lane.positions[-1] == 24
    assert lane.rests
    done, found = verified(store)
    assert (done.snapshots, found) == (3, [])
    said = " ".join(done.unlooked)
    assert ("amcheck" in said) == (kind == "postgresql"), "what was not looked at is said"


@pytest.mark.parametrize("kind", BOTH)
async def test_claims_are_compared_as_of_one_moment(new: NewStore, kind: str) -> None:
    store = new(kind)
    await claimed(store, 60)
    done, found = verified(store)
    assert (done.claims, found) == (20, [])


DAMAGE: list[tuple[str, str, str | None]] = [
    ("UPDATE events SET payload = x'7b' WHERE position = 9", "event", "9"),
    ("UPDATE events SET checksum = checksum + 1 WHERE position = 9", "event", "9"),
    ("UPDATE events SET type = 7 WHERE position = 9", "event", "9"),
    ("DELETE FROM events WHERE position = 9", "missing", "9"),
    ("DELETE FROM events WHERE position BETWEEN 9 AND 11", "missing", "9"),
    ("UPDATE streams SET name = 'stream:x' WHERE number = 3", "event", None),
    ("DELETE FROM claims WHERE value = 'x'", "claim", None),
    ("UPDATE claims SET stream = 1 WHERE value = 'x'", "claim", None),
    ("UPDATE snapshots SET state = x'00'", "snapshot", None),
    ("UPDATE snapshots SET position = position - 1", "snapshot", None),
    ("UPDATE snapshots SET version = 900, position = 900", "snapshot", None),
    ("UPDATE about SET log_id = 'another'", "views", None),
]


@pytest.mark.parametrize(("statement", "wrong", "position"), DAMAGE)
async def test_what_is_damaged_is_named_and_what_is_sound_is_counted(
    store: str, statement: str, wrong: str, position: str | None
) -> None:
    await append(store, 1, metadata=b'{"claims":[["name","x"]]}')
    changed(store, "INSERT INTO claims VALUES ('name', 'x', 4, 25)")
    assert verified(store)[1] == []
    changed(store, statement)

    done, found = verified(store)

    assert wrong in {finding.wrong for finding in found}, found
    if position is not None:
        assert int(position) in {finding.position for finding in found}
        assert (
            done.events + len({f.position for f in found if f.wrong in ("event", "missing")}) >= 24
        )


@pytest.mark.parametrize("kind", BOTH)
async def test_a_key_that_was_run_twice_within_its_window_is_named(
    new: NewStore, kind: str
) -> None:
    store = new(kind)
    await append(store, 2, stream="a:1", metadata=b'{"key":"k","fingerprint":1}')
    outside = open_backend(store).outside(Ports())

    def looked(**windows: int) -> tuple[list[tuple[str, int | None, str | None]], str]:
        found: list[Finding] = []
        source, structure = outside.copy_source(), outside.structure()
        done = verify_log(source, structure, found.append, Watched(), window=windows.get)
        return [(one.wrong, one.position, one.name) for one in found], "; ".join(done.unlooked)

    found, unlooked = looked(a=1_000)
    assert found == [("key", 2, "a:1")]
    assert "keys" not in unlooked
    found, unlooked = looked(a=1)
    assert found == [], "a kind that remembers keys for one version runs it again"
    assert "keys" not in unlooked
    found, unlooked = looked(b=1_000)
    assert found == [], "nobody knows whether that was right"
    assert "1 keys that come again in a stream, the first at position 2" in unlooked


async def test_a_log_in_postgresql_is_verified_event_by_event(
    new: NewStore, postgres: Server
) -> None:
    store = new("postgresql")
    async with boards(store) as engine:
        await filled(engine)
    schema = store.partition("schema=")[2].partition("&")[0]
    postgres.sql(
        f"ALTER TABLE {schema}.events DISABLE TRIGGER USER; "
        f"UPDATE {schema}.events SET payload = 'x' WHERE position = 4; "
        f"DELETE FROM {schema}.events WHERE position = 9; "
        f"UPDATE {schema}.snapshots SET state = 'x' WHERE stream = 'board:b0'; "
        f"ALTER TABLE {schema}.events ENABLE TRIGGER USER"
    )
    done, found = verified(store)
    assert {(f.wrong, f.position) for f in found if f.wrong in ("event", "missing")} == {
        ("event", 4),
        ("missing", 9),
    }
    assert done.events == 22
    assert "snapshot" in {f.wrong for f in found}


# -- the command ----------------------------------------------------------------------------------


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["verify", "--json", *arguments])
    out = capfd.readouterr().out
    return status, [msgspec.json.decode(line) for line in out.splitlines()]


async def test_the_command_tells_findings_and_a_summary_and_fails_on_damage(
    new: NewStore, capfd: pytest.CaptureFixture[str]
) -> None:
    store = new("sqlite")
    await claimed(store, 60)
    status, lines = command(capfd, store)
    assert (status, len(lines)) == (0, 1)
    assert lines[0] | {"unlooked": []} == {
        "wrong": "nothing",
        "position": 60,
        "events": 60,
        "streams": 50,
        "claims": 20,
        "tags": 0,
        "timers": 0,
        "snapshots": 0,
        "findings": 0,
        "unlooked": [],
    }
    changed(store, "UPDATE events SET version = version + 1000 WHERE position = 7")
    status, lines = command(capfd, store)
    assert status == 1
    assert lines[-1]["wrong"] == "something"
    assert lines[-1]["findings"] == len(lines) - 1
    assert any((line["wrong"], line.get("position")) == ("event", 7) for line in lines)
    status = main(["verify", store])
    assert status == 1
    assert "event: the event at position 7" in capfd.readouterr().out


def test_a_name_of_no_log_is_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each of its files was called unreadable, as if something were damaged."""
    assert main(["verify", str(tmp_path / "slip.db")]) == 1

    told = capfd.readouterr()
    assert (told.out, "there is no log" in told.err) == ("", True)
    assert list(tmp_path.iterdir()) == []


async def test_a_backup_is_verified_by_its_files_and_its_events(
    new: NewStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, folder = new("sqlite"), tmp_path / "backup"
    await claimed(store, 60)
    backed_up(store, folder, segment_events=14)
    assert command(capfd, str(folder))[0] == 0
    name = manifest(folder).segments[1].file.name
    data = bytearray((folder / name).read_bytes())
    data[200] ^= 8
    (folder / name).write_bytes(data)

    status, lines = command(capfd, str(folder))

    assert status == 1
    assert ("backup", name) in {(line["wrong"], line.get("name")) for line in lines}
    assert lines[-1]["events"] == 46
    (folder / "manifest.json").write_bytes(b"{}")
    assert main(["verify", str(folder)]) == 1
    assert "manifest" in capfd.readouterr().err


def flipped(path: Path, place: int, bit: int) -> Callable[[], None]:
    data = path.read_bytes()
    wrong = bytearray(data)
    wrong[place] ^= 1 << bit
    path.write_bytes(wrong)

    def back() -> None:
        path.write_bytes(data)

    return back


async def test_a_torn_or_damaged_tail_of_the_write_ahead_log_is_told(
    new: NewStore, tmp_path: Path
) -> None:
    store = new("sqlite")
    log = open_backend(store).log()
    await log.open(Ports())
    await log.close()
    await claimed(store, 9)
    source = Path(store.removeprefix("sqlite:"))
    keeping = apsw.Connection(str(source))
    run(keeping, "BEGIN")
    run(keeping, "SELECT * FROM events")
    await append(store, 4)
    left = tmp_path / "left.db"
    for ending in ("", "-wal"):
        Path(f"{left}{ending}").write_bytes(Path(f"{source}{ending}").read_bytes())
    keeping.close()
    assert verified(f"sqlite:{left}")[1] == []
    wal = Path(f"{left}-wal")
    data = wal.read_bytes()
    step = 24 + int.from_bytes(data[8:12])
    last = 32 + (len(data) - 32) // step * step - step
    for place in (last + 100, last + 9):
        Path(f"{left}-shm").unlink(missing_ok=True)
        back = flipped(wal, place, 3)
        _, found = verified(f"sqlite:{left}")
        assert [finding.wrong for finding in found] == ["wal"], place
        back()


# -- by the application's code ------------------------------------------------------------------


async def compared(store: str, *projections: Any) -> tuple[list[Finding], list[str]]:
    found: list[Finding] = []
    unlooked: list[str] = []
    engine = declared() if not projections else Engine([Board], projections=projections)
    code = Code(definitions_of(engine.aggregates), engine.declared, engine.registry)
    outside = open_backend(store).outside(Ports())
    await verify_code(outside, code, found.append, unlooked.append, lambda: None)
    return found, unlooked


class Pinning(Reactor, name="pinning", begins="now"):
    @reacts
    def pinned(self, event: Pinned, meta: Meta) -> Pin | None:
        return None if event.note == "too" else Pin(f"{meta.id}-too", "too")


@pytest.mark.parametrize("kind", BOTH)
async def test_nothing_is_wrong_with_a_reactor_that_begins_with_its_log(
    new: NewStore, kind: str
) -> None:
    store = new(kind)
    async with Engine([Board], projections=[Pinning], store=store) as engine:
        await engine.execute(Pin("a", "x"))
    assert verified(store)[1] == []
    assert await compared(store, Pinning) == ([], [])


@pytest.mark.parametrize("kind", BOTH)
async def test_rows_and_snapshots_are_what_the_code_makes_of_the_events(
    new: NewStore, kind: str
) -> None:
    store = new(kind)
    async with boards(store) as engine:
        await filled(engine)
        assert await compared(store) == ([], []), "beside an engine"
    assert await compared(store) == ([], [])


@pytest.mark.parametrize(
    ("statement", "differ"),
    [
        ("UPDATE \"counts_rows:1\" SET notes = 7 WHERE board = 'b1'", 1),
        ("DELETE FROM \"counts_rows:1\" WHERE board <> 'b1'", 2),
        ("INSERT INTO \"counts_rows:1\" VALUES ('z', 1)", 1),
    ],
)
async def test_rows_that_the_events_do_not_give_are_counted(
    store: str, statement: str, differ: int
) -> None:
    changed(store.replace(".db", ".views.db"), statement)
    found, _ = await compared(store)
    assert [(f.wrong, f.name, f.text.split()[0]) for f in found] == [
        ("views", "counts", str(differ))
    ]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "UPDATE checkpoints SET projection = 'c0unts' WHERE projection = 'counts'",
            {("checkpoint", "counts"), ("views", "c0unts")},
        ),
        (
            "UPDATE checkpoints SET slice = 3 WHERE projection = 'counts'",
            {("checkpoint", "counts")},
        ),
        (
            "ALTER TABLE failures RENAME COLUMN failed TO faihed",
            {("page", "log.views.db")},
        ),
        ("DROP INDEX parked_by_key", {("page", "log.views.db")}),
        (
            "INSERT INTO decisions VALUES (9, 'counts', 'paese', 1, 1, NULL, '', NULL, NULL)",
            {("views", "counts")},
        ),
        (
            "INSERT INTO parked VALUES ('counts', 9, 3, 0, 'b', 'a v1', 'board:b', 1, 1, '')",
            {("views", "counts")},
        ),
    ],
)
def test_books_of_views_that_no_engine_writes_are_named(
    store: str, statement: str, named: set[tuple[str, str]]
) -> None:
    changed(store.replace(".db", ".views.db"), statement)

    found = verified(store)[1]
    assert {(f.wrong, Path(f.name or "").name) for f in found} == named


def test_a_file_of_views_that_says_no_version_is_named(store: str) -> None:
    """A flipped bit took the number away, and `verify` ended with a traceback."""
    changed(store.replace(".db", ".views.db"), "DELETE FROM views_meta")

    assert ["gives no number" in finding.text for finding in verified(store)[1]] == [True]


async def test_a_snapshot_that_its_events_do_not_give_is_named(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def pinned(self: Board, event: Pinned) -> None:
        self.notes.append(event.note.upper())

    applier: Any = definitions_of(declared().aggregates)[0].appliers
    monkeypatch.setitem(applier, Pinned, pinned)
    found, _ = await compared(store)
    assert {(f.wrong, f.name) for f in found} == {("snapshot", f"board:b{n}") for n in range(3)}


async def test_a_projection_that_was_skipped_or_is_declared_otherwise_is_not_called_sound(
    store: str,
) -> None:
    class Otherwise(Projection, name="counts", version=2):
        rows: Table[Count]

        @projects
        def pinned(self, event: Pinned, meta: Meta) -> None: ...

    views = store.replace(".db", ".views.db")
    changed(
        views,
        "INSERT INTO decisions(projection, kind, decided, version, position, reason) "
        "VALUES ('counts', 'skip', 1, 1, 3, 'for a test')",
    )
    found, unlooked = await compared(store)
    assert (found, unlooked) == ([], ["the rows of projection 'counts': events of it are skipped"])
    found, _ = await compared(store, Otherwise)
    assert [(f.wrong, f.name) for f in found] == [("views", "counts")]
