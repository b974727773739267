"""A whole engine on a log with a cold file: nobody notices, and what is asked twice is known."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Archive,
    ArchiveUnread,
    KeyReused,
    Ports,
    Rejected,
    Retention,
    StoreRefused,
    StreamUnreadable,
    WrongVersion,
)
from engine.__main__ import main
from engine.stores.contract.archiving import Archived, ArchiveRule
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.log.archiving import SqliteArchiver
from engine.stores.sqlite.log.cold import cold_path
from engine.stores.sqlite.log.pages import read_feed
from engine.stores.sqlite.outside import log as outside_log
from tests.backups.made import backed_up, restored
from tests.crashes.archive import read
from tests.whole.orders import (
    Close,
    Closed,
    GetAll,
    Note,
    Open,
    Order,
    engine,
    filled,
)

RULES = [Retention(Order, [Closed], archive_after=timedelta(days=0))]
RULE = ArchiveRule("order", ("order-closed",), 1 << 60)


async def moved_by(path: str, rule: ArchiveRule) -> Archived:
    async with SqliteArchiver(path, Ports()) as archiver:
        return await archiver.archive(rule, lambda _a, _b: None)


async def archived(path: str) -> None:
    done = await moved_by(path, RULE)
    assert (done.streams, done.events) == (3, 15)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.db")


async def test_keys_versions_and_claims_of_what_was_archived_are_known(path: str) -> None:
    await filled(path)
    async with engine(path) as running:
        first = await running.execute(Note("o-1", "1.1"), key="note-1-1")
    await archived(path)
    for store in (path, f"{path}?writer=process"):
        async with engine(store) as running:
            assert await running.execute(Note("o-1", "1.1"), key="note-1-1") == first
            with pytest.raises(KeyReused):
                await running.execute(Note("o-1", "another"), key="note-1-1")
            with pytest.raises(WrongVersion):
                await running.execute(Note("o-1", "late"), expected=3)
            with pytest.raises(Rejected, match="slip-taken"):
                await running.execute(Open("o-9", "s-1"))
            assert (await running.state(Order, "o-0")).notes[-1] == "closed"
    async with engine(path) as running:
        again = await running.execute(Note("o-1", "again"), expected=5, key="again")
        assert (again.version, again.position) == (6, 28)
        assert (await running.state(Order, "o-1")).notes[-2:] == ["closed", "again"]


async def test_histories_pasts_rebuilds_and_feeds_are_as_they_were(path: str) -> None:
    async def looked() -> list[object]:
        async with engine(path) as running:
            found: list[object] = [await running.query(GetAll(), at=27)]
            found.append([one async for one in running.history(Order, "o-2")])
            found.append(await running.state(Order, "o-0", version=2))
            found.append(list(await running.difference(Order, "o-1", 1, 4)))
            for position in (3, 9, 20):
                async with running.past(position=position) as past:
                    found.append(await past.query(GetAll()))
            found.append([each async for each in running.feed(0)])
        async with Archive([Order], store=f"sqlite:{path}") as beside:
            found.append(await beside.state(Order, "o-1", version=3))
        return found

    await filled(path)
    before = await looked()
    await archived(path)
    assert await looked() == before
    Path(path).with_name("shop.views.db").unlink()
    assert await looked() == before, "the views are folded again from both files"


async def test_without_the_cold_file_the_rest_is_served_and_who_needs_it_is_told(
    path: str,
) -> None:
    await filled(path)
    await archived(path)
    cold = Path(cold_path(path))
    cold.rename(cold.with_name("elsewhere.db"))
    async with engine(path) as running:
        assert (await running.execute(Note("o-5", "more"))).version == 5
        assert len(await running.query(GetAll())) == 6
        with pytest.raises(StreamUnreadable, match="shop.archive.db is not there") as told:
            await running.execute(Note("o-1", "1.1"), key="note-1-1")
        assert isinstance(told.value.__cause__, ArchiveUnread)
        cold.with_name("elsewhere.db").rename(cold)
        assert (await running.execute(Note("o-1", "1.1"), key="note-1-1")).version == 3


async def test_backups_copies_and_repairs_have_what_was_moved(path: str, tmp_path: Path) -> None:
    await filled(path)
    folder = tmp_path / "backup"
    backed_up(f"sqlite:{path}", folder)
    before = read(path)
    segments = {each.name: each.stat().st_mtime_ns for each in folder.rglob("*") if each.is_file()}
    await archived(path)
    backed_up(f"sqlite:{path}", folder)
    changed = [
        each.name
        for each in folder.rglob("*")
        if each.is_file() and segments.get(each.name) != each.stat().st_mtime_ns
    ]
    assert [name for name in changed if name.startswith("events")] == [], "written once"
    restored(folder, f"sqlite:{tmp_path / 'restored.db'}")
    assert read(str(tmp_path / "restored.db")) == before
    assert not Path(cold_path(str(tmp_path / "restored.db"))).exists()
    copy = str(tmp_path / "copy" / "new.db")
    Path(copy).parent.mkdir()
    assert main(["copy", path, copy]) == 0
    assert read(copy) == before
    assert sorted(each.name for each in Path(copy).parent.iterdir() if "-" not in each.name) == [
        "new.archive.db",
        "new.db",
        "new.views.db",
    ]
    Path(cold_path(copy)).unlink()
    mended = str(tmp_path / "mended.db")
    assert main(["repair", copy, mended, "--from", str(folder)]) == 0
    assert read(mended) == before


async def test_the_cold_file_from_before_a_restore_is_no_damage_of_the_log(
    path: str, tmp_path: Path
) -> None:
    """The first event that was to be moved was called damaged: its stream has another number."""
    async with engine(path) as running:
        sent = [running.execute(Open(f"o-{n}", f"s-{n}")) for n in (3, 1, 2)]
        await asyncio.gather(*sent)
        for n in (1, 2, 3):
            await running.execute(Close(f"o-{n}"))
        await running.execute(Open("o-9", "s-9"))
    await moved_by(path, RULE)
    restored_to = tmp_path / "restored" / "shop.db"
    restored_to.parent.mkdir()
    backed_up(f"sqlite:{path}", tmp_path / "backup")
    restored(tmp_path / "backup", f"sqlite:{restored_to}")
    cold = Path(cold_path(str(restored_to)))
    cold.write_bytes(Path(cold_path(path)).read_bytes())
    before = cold.read_bytes()
    with closing(apsw.Connection(str(restored_to))) as connection:
        names = run(connection, "SELECT number, name FROM streams ORDER BY number")
    with closing(apsw.Connection(path)) as connection:
        assert run(connection, "SELECT number, name FROM streams ORDER BY number") != names
    with pytest.raises(StoreRefused, match="such as the one before a restore.*Move that file away"):
        await moved_by(str(restored_to), RULE)
    assert cold.read_bytes() == before, "nothing was copied into it"
    cold.unlink()
    assert (await moved_by(str(restored_to), RULE)).streams == 3


async def test_each_rule_is_a_run_of_its_own_and_gives_its_room_back(path: str) -> None:
    """What a second rule moved was noted as the first one's, and the file stayed large."""
    await filled(path)
    rules = [RULE, ArchiveRule("order", ("order-noted",), 1 << 60)]
    async with SqliteArchiver(path, Ports()) as archiver:
        done = [await archiver.archive(rule, lambda _a, _b: None) for rule in rules]
    with closing(apsw.Connection(path)) as connection:
        runs = run(connection, "SELECT rule, streams, events, shrunk FROM archives ORDER BY number")
        assert runs == [(str(r), d.streams, d.events, 1) for r, d in zip(rules, done, strict=True)]
        assert run(connection, "PRAGMA freelist_count") == [(0,)]
    assert all(each.streams for each in done)


# -- commands -------------------------------------------------------------------------------------


def test_the_command_says_what_it_would_move_and_moves_it(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(filled(path))
    rule = ["--kind", "order", "--closed-by", "order-closed"]
    assert main(["archive", path, *rule, "--dry-run"]) == 0
    assert "15 events of 3 streams would be moved to" in capfd.readouterr().out
    slip = ["--kind", "oder", "--closed-by", "order-close", "--dry-run"]
    assert main(["archive", path, *slip]) == 0
    told = capfd.readouterr().err
    assert "no stream of the kind 'oder', and has 'order'" in told
    assert "no event that is stored as 'order-close'" in told
    assert main(["archive", path, *rule, "--days", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["events"] == 0
    assert main(["archive", path, *rule, "--json"]) == 0
    moved = json.loads(capfd.readouterr().out)
    assert (moved["streams"], moved["events"], moved["is_shrunk"]) == (3, 15, True)
    assert moved["cold"] == cold_path(path)
    assert main(["verify", path]) == 0
    assert "nothing is wrong: 27 events of 6 streams" in capfd.readouterr().out
    assert main(["sql", path, "SELECT payload FROM log WHERE position = 2", "--json"]) == 0
    assert "0.0" in capfd.readouterr().out, "for people too"
    assert main(["archive", "umadb://127.0.0.1:1", *rule]) == 1
    assert "by its engine alone" in capfd.readouterr().err


def test_retention_says_when_the_log_has_not_given_its_room_back(
    path: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(filled(path))
    monkeypatch.setattr(SqliteArchiver, "_shrink", lambda _self, _connection: False)
    assert main(["retention", path, "tests.whole.test_archived:RULES"]) == 1
    out, err = capfd.readouterr()
    assert "15 events of 3 streams archived" in out
    assert "the log's file is not smaller yet" in err


def test_health_is_told_of_a_log_whose_cold_file_is_gone(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """How fast it grows is found by reading events, and one of them had no contents."""
    asyncio.run(filled(path))
    asyncio.run(archived(path))
    Path(cold_path(path)).unlink()
    assert main(["health", path, "--json", "--disk", "1"]) == 4
    checks = json.loads(capfd.readouterr().out)["checks"]
    values = {check["name"]: check["value"] for check in checks}
    assert values["state"] == "at-rest"
    assert values["disk.seconds"] is not None


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        (["log"], [*range(20, 28), 28]),
        (["log", "--last", "--limit", "2"], [27, 28]),
        (["log", "--stream", "order:o-0"], [28]),
        (["log", "--stream", "order:o-0", "--after", "15"], [28]),
        (["export"], [*range(20, 28), 28]),
    ],
)
def test_a_time_is_found_where_the_cold_file_is_gone(
    path: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    more: list[str],
    shown: list[int],
) -> None:
    """The search by halving meets events whose contents are lost, and the log has their times."""

    async def fill() -> int:
        await filled(path)
        await archived(path)
        async with engine(path) as running:
            await running.execute(Note("o-0", "late"))
            page = await running.history(Order, "o-4", after=0)
            return next(logged.meta.recorded for logged in page.events)

    recorded = asyncio.run(fill())
    since = datetime.fromtimestamp(recorded / 1e6, UTC).isoformat()
    Path(cold_path(path)).unlink()
    command, *options = more
    if command == "export":
        to = tmp_path / "events.jsonl"
        assert main([command, path, "--since", since, "--to", str(to)]) == 0
        lines = to.read_text().splitlines()
    else:
        assert main([command, path, "--since", since, "--json", *options]) == 0
        lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["position"] for line in lines] == shown


def test_verify_reads_little_in_vain_where_the_cold_file_is_gone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind each event that was moved it tried a whole page: a log of years took days."""
    path = str(tmp_path / "shop.db")

    async def fill() -> None:
        async with engine(path) as running:
            for n in range(200):
                await running.execute(Open(f"o-{n}", f"s-{n}"))
                if n % 2:
                    await running.execute(Close(f"o-{n}"))

    asyncio.run(fill())
    asyncio.run(moved_by(path, RULE))
    Path(cold_path(path)).unlink()
    asked: list[int] = []

    def counted(connection: Any, types: Any, after: int, events_max: int, bytes_max: int) -> Any:
        asked.append(events_max)
        return read_feed(connection, types, after, events_max, bytes_max)

    monkeypatch.setattr(outside_log, "read_feed", counted)
    assert main(["verify", path]) == 1
    assert "2 findings. Looked at: 102 events" in capfd.readouterr().out
    assert sum(asked) < 10 * 300


def test_sql_never_calculates_without_what_was_archived(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sum left out what a missing or older cold file has not, with status 0."""
    path = str(tmp_path / "orders.db")
    asyncio.run(filled(path))
    cold, older = Path(cold_path(path)), tmp_path / "older.db"

    def asked(what: str) -> tuple[int, str]:
        status = main(["sql", path, f"SELECT {what} FROM log", "--json"])
        out, err = capfd.readouterr()
        return status, out or err

    contents = "sum(length(payload)) AS p, sum(length(metadata)) AS m, count(*) AS n"
    before = asked(contents)
    rule = ["--kind", "order", "--closed-by", "order-noted", "--closed-by", "order-closed"]
    assert main(["archive", path, *rule[:2], *rule[4:], "--days", "0"]) == 0
    older.write_bytes(cold.read_bytes())
    assert main(["archive", path, *rule, "--days", "0"]) == 0
    capfd.readouterr()
    assert asked(contents) == before
    whole = cold.rename(tmp_path / "moved.db")
    for wrong, why in ((None, "is not there"), (older, "does not have it")):
        if wrong is not None:
            cold.write_bytes(wrong.read_bytes())
        for what in ("sum(length(payload))", "max(metadata)"):
            status, said = asked(what)
            assert (status, why in said, str(cold) in said) == (1, True, True)
        assert asked("count(*) AS n") == (0, '{"n":27}\n')
    whole.replace(cold)
    assert asked(contents) == before


def test_sql_never_calculates_with_the_archive_of_another_course(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two copies of one log went on apart, and got each other's cold file: the sum was wrong."""
    first, second = str(tmp_path / "first.db"), str(tmp_path / "second.db")
    asyncio.run(filled(first))
    Path(second).write_bytes(Path(first).read_bytes())
    rule = ["--kind", "order", "--closed-by", "order-closed"]

    async def goes_on(path: str, note: str) -> None:
        async with engine(path) as running:
            await running.execute(Note("o-late", note))
            await running.execute(Close("o-late"))
            await running.execute(Note("o-last", "last"))

    for path, note in ((first, "here"), (second, "there")):
        asyncio.run(goes_on(path, note))
        assert main(["archive", path, *rule]) == 0
    capfd.readouterr()
    Path(cold_path(first)).write_bytes(Path(cold_path(second)).read_bytes())

    def asked(what: str) -> tuple[int, str]:
        status = main(["sql", first, f"SELECT {what} FROM log", "--json"])
        out, err = capfd.readouterr()
        return status, out or err

    status, said = asked("sum(length(payload))")
    assert (status, "or has another one" in said) == (1, True)
    assert asked("count(*) AS n")[0] == 0


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_archive_of_no_log_makes_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """A slip in the name made an empty log, with the status 0."""
    path = str(tmp_path / "slip.db")
    empty = tmp_path / "empty.db"
    empty.touch()
    rules = f"{__name__}:RULES"
    for command in (
        ["archive", path, "--kind", "order", "--closed-by", "order-closed", *more],
        ["archive", str(empty), "--kind", "order", "--closed-by", "order-closed", *more],
        ["retention", path, rules, *more],
    ):
        assert main(command) == 1
        assert "there is no log" in capfd.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["empty.db"]
    assert empty.stat().st_size == 0


CHANGES = [
    "UPDATE streams SET name = 'order:o-x' WHERE name = 'order:o-1'",
    "UPDATE event_types SET version = 7 WHERE name = 'order-noted'",
    "UPDATE events SET recorded = recorded + 1 WHERE position = 8",
    "UPDATE events SET payload = x'7b7d' WHERE position = 8",
    """INSERT INTO events SELECT 999, stream, 999, type, recorded, 0, payload, metadata, checksum
    FROM events WHERE position = 8""",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_verify_finds_what_was_changed_in_the_cold_file(
    path: str, change: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await filled(path)
    await archived(path)
    with closing(apsw.Connection(cold_path(path))) as shell:
        for (name,) in run(shell, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
            run(shell, f"DROP TRIGGER {name}")
        run(shell, change)
    assert main(["verify", path, "--json"]) == 1
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert found[:-1]
    assert all(each["wrong"] in ("archive", "event") for each in found[:-1])


@pytest.mark.parametrize("spoil", ["gone", "flipped"])
async def test_verify_names_the_cold_file(
    path: str, spoil: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await filled(path)
    await archived(path)
    cold = Path(cold_path(path))
    if spoil == "gone":
        cold.unlink()
    else:
        cold.write_bytes(cold.read_bytes().replace(b'{"text":"1.1"}', b'{"text":"1.9"}'))
    assert main(["verify", path, "--json"]) == 1
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert found[-1]["events"] == (12 if spoil == "gone" else 26)
    if spoil == "gone":
        assert {each["wrong"] for each in found[:-1]} == {"archive"}
        assert all("shop.archive.db" in each["text"] for each in found[:-1])
    else:
        assert [each.get("position") for each in found[:-1]] == [8]
