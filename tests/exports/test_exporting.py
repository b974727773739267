"""Events and views as files: they come back byte by byte, and folders grow with the log."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.__main__ import main
from engine.exports.folder import Folder
from engine.model.stored import EventData, EventType, StoredEvent
from engine.runtime.folder import Folder as Locked
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.urls import open_backend, open_store
from tests.imports.bank import Deposit, Open, OpenedOne, make_engine

APP = ("--app", "tests.imports.bank:make_engine")


class Done(NamedTuple):
    status: int
    said: str
    told: str


Foldline = Callable[..., Done]


@pytest.fixture
def foldline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Foldline:
    """Give what runs a command in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(arguments)
        said = capsys.readouterr()
        return Done(status, said.out, said.err)

    return run


@pytest.fixture
def done(foldline: Foldline) -> Callable[..., str]:
    """Give what runs a command that does what it is told, and gives what it says."""

    def run(*arguments: str) -> str:
        found = foldline(*arguments)
        assert found.status == 0, found.told
        return found.said

    return run


def log_of(url: str) -> Sequence[StoredEvent]:
    with open_backend(url).outside(Ports()).log_reader() as reader:
        return reader.read_feed(0, events_max=10_000, bytes_max=10**8)


async def filled(url: str) -> None:
    """Fill a log: an event of an older version, claims, keys, replies, headers, odd texts."""
    store = open_store(url)
    await store.open(Ports())
    old = make_engine().registry.type_of(OpenedOne)
    data = EventData(EventType(old.name, old.version, old.schema_hash), b'{"owner":"\xc2\x9bold"}')
    await store.append(
        Batch([AppendRequest([Write("account:old", 0, [data])])], 1_700_000_000_000_000)
    )
    await store.close()
    async with make_engine(url) as engine:
        await engine.execute(Open("a", "Ann \u2028 =1+1"), key="key-1", principal="ann\x1b")
        await engine.execute(Deposit("a", 5), key="key-2", headers={"traceparent": "00-1"})
        await engine.execute(Deposit("b", 7), correlation="c", causation="d")


async def test_json_lines_come_back_with_the_same_checksums(
    tmp_path: Path, done: Callable[..., str], postgres_url: str
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))

    done("export", "bank.db", "--to", "events.jsonl")
    said = done("import", "events.jsonl", "again.db", *APP)
    done("import", "events.jsonl", postgres_url, *APP)
    done("export", postgres_url, "--to", "again.jsonl")

    before = log_of(f"sqlite:{tmp_path / 'bank.db'}")
    assert log_of(f"sqlite:{tmp_path / 'again.db'}") == before
    assert log_of(postgres_url) == before
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "events.jsonl").read_bytes()
    assert "imported 6 events of 3 streams, and verified" in said
    assert stat.S_IMODE((tmp_path / "events.jsonl").stat().st_mode) == 0o600
    async with make_engine(f"sqlite:{tmp_path / 'again.db'}") as engine:
        again = await engine.execute(Deposit("a", 5), key="key-2")
        assert (again.position, again.reply) == (4, 5)


async def test_lines_of_the_log_command_can_be_imported(
    tmp_path: Path, done: Callable[..., str]
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    shown = done("log", "bank.db", "--json", "--payload")
    (tmp_path / "shown.jsonl").write_text(shown)

    done("import", "shown.jsonl", "again.db", *APP)

    before, after = (log_of(f"sqlite:{tmp_path / name}") for name in ("bank.db", "again.db"))
    assert [(e.stream, e.version, e.recorded, json.loads(e.payload)) for e in after] == [
        (e.stream, e.version, e.recorded, json.loads(e.payload)) for e in before
    ]


async def test_csv_has_a_line_of_names_and_no_formula(
    tmp_path: Path, done: Callable[..., str]
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))

    done("export", "bank.db", "--to", "events.csv", "--name", "deposited", "--after", "4")

    with (tmp_path / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["position"], row["kind"], row["id"], row["payload"]) for row in rows] == [
        ("5", "account", "b", '{"cents":7}'),
        ("6", "account", "b", '{"cents":1}'),
    ]


async def test_parquet_is_read_by_duckdb(tmp_path: Path, done: Callable[..., str]) -> None:
    duckdb = pytest.importorskip("duckdb")
    await filled("sqlite:" + str(tmp_path / "bank.db"))

    done("export", "bank.db", "--to", "events.parquet", "--omit", "owner")

    with duckdb.connect() as connection:
        found: list[Any] = connection.execute(
            "SELECT position, kind, id, event, key, headers, payload, (payload->>'$.cents')::int, "
            "epoch_us(recorded) FROM 'events.parquet' ORDER BY position".replace(
                "events.parquet", str(tmp_path / "events.parquet")
            )
        ).fetchall()
    recorded = [event.recorded for event in log_of(f"sqlite:{tmp_path / 'bank.db'}")]
    assert [row[8] for row in found] == recorded
    assert found[0][:8] == (1, "account", "old", "opened", None, None, "{}", None)
    assert found[2][3:8] == ("deposited", "key-2", '{"traceparent":"00-1"}', '{"cents":5}', 5)
    assert sorted(path.name for path in tmp_path.glob("events*")) == ["events.parquet"]


async def test_a_folder_grows_with_the_log(tmp_path: Path, done: Callable[..., str]) -> None:
    url = "sqlite:" + str(tmp_path / "bank.db")
    await filled(url)
    export = ("export", "bank.db", "--to", "lake/", "--format", "jsonl", "--file-events", "4")

    first, again = done(*export), done(*export)
    async with make_engine(url) as engine:
        await engine.execute(Deposit("c", 9))
    then = done(*export)

    assert first == "exported 6 events into 2 files, to position 6\n"
    assert again == "exported 0 events into 0 files, to position 6\n"
    assert then == "exported 2 events into 1 file, to position 8\n"
    files = sorted((tmp_path / "lake").glob("events-*"))
    assert [path.name.split("-")[2:4] for path in files] == [
        ["000000000001", "000000000004"],
        ["000000000005", "000000000006"],
        ["000000000007", "000000000008"],
    ]
    together = b"".join(path.read_bytes() for path in files)
    done("export", "bank.db", "--to", "whole.jsonl")
    assert (tmp_path / "whole.jsonl").read_bytes() == together


async def test_a_folder_has_what_was_recorded_from_a_time_on_and_up_to_another(
    tmp_path: Path, done: Callable[..., str], foldline: Foldline
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    times = {
        event.position: datetime.fromtimestamp(event.recorded / 1e6, UTC).isoformat()
        for event in log_of("sqlite:" + str(tmp_path / "bank.db"))
    }
    export = ("export", "bank.db", "--to", "lake/", "--format", "jsonl")
    since, until = ("--since", times[3]), ("--until", times[4])

    done(*export, *since, *until)
    again = done(*export, *since, *until)
    then = done(*export, *since)
    done("export", "bank.db", "--to", "other/", "--format", "jsonl", "--until", times[1])
    gap = foldline("export", "bank.db", "--to", "other/", "--format", "jsonl", "--since", times[6])

    first = next(position for position in times if times[position] == times[3])
    last = max(position for position in times if times[position] == times[4])
    assert again == f"exported 0 events into 0 files, to position {last}\n"
    assert then.endswith("to position 6\n")
    done("export", "bank.db", "--to", "whole.jsonl", "--after", str(first - 1))
    files = sorted((tmp_path / "lake").glob("events-*"))
    together = b"".join(path.read_bytes() for path in files)
    assert (tmp_path / "whole.jsonl").read_bytes() == together
    if times[1] != times[6]:
        assert (gap.status, "would be missing" in gap.told) == (1, True)


async def test_a_folder_of_another_history_is_refused(
    tmp_path: Path, done: Callable[..., str], foldline: Foldline
) -> None:
    url = "sqlite:" + str(tmp_path / "bank.db")
    await filled(url)
    done("copy", "bank.db", "backup.db")
    async with make_engine(url) as engine:
        await engine.execute(Deposit("c", 9))
    export = ("--to", "lake", "--format", "jsonl")
    (tmp_path / "lake").mkdir()
    done("export", "bank.db", *export)

    went_back = foldline("export", "backup.db", *export)
    async with make_engine("sqlite:" + str(tmp_path / "backup.db")) as engine:
        await engine.execute(Deposit("d", 9))
    wrote_on = foldline("export", "backup.db", *export)
    async with make_engine("sqlite:" + str(tmp_path / "other.db")) as engine:
        await engine.execute(Deposit("c", 9))
    another = foldline("export", "other.db", *export)

    assert (went_back.status, "it went back" in went_back.told) == (1, True)
    assert (wrote_on.status, "it went back" in wrote_on.told) == (1, True)
    assert (another.status, "a folder of its own" in another.told) == (1, True)
    assert len(list((tmp_path / "lake").glob("events-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "events.xlsx"), "no ending that gives a form"),
        (("--to", "lake/"), "a folder needs --format"),
        (("--to", "lake/", "--format", "csv", "--after", "1"), "go with a file"),
        (("--to", "x.csv", "--view", "sums", "--name", "deposited"), "a view goes into a file"),
        (("--to", "there.csv"), "is there already"),
        (("--to", "nowhere/x.csv"), "cannot be written"),
        (("--to", "x.csv", "--view", "nobodys"), "no such table"),
    ],
)
async def test_what_cannot_be_exported_leaves_no_file(
    arguments: Sequence[str],
    said: str,
    tmp_path: Path,
    foldline: Foldline,
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    (tmp_path / "there.csv").write_text("kept")
    before = {path.name for path in tmp_path.iterdir()}

    found = foldline("export", "bank.db", *arguments)

    assert found.status == 1
    assert said in found.told
    new = {path.name for path in tmp_path.iterdir()} - before
    assert {name for name in new if not name.startswith("bank.")} <= {"lake"}
    assert (tmp_path / "there.csv").read_text() == "kept"


async def test_a_damaged_event_leaves_no_file(tmp_path: Path, foldline: Foldline) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    with closing(sqlite3.connect(tmp_path / "bank.db")) as connection, connection:
        connection.execute("DROP TRIGGER IF EXISTS events_no_update")
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("UPDATE events SET payload = x'7b7d' WHERE position = 3")

    found = foldline("export", "bank.db", "--to", "events.jsonl")

    assert found.status == 1
    assert "position 3" in found.told
    assert not list(tmp_path.glob("events*"))


# -- several at a time -----------------------------------------------------------------------------


async def test_two_that_export_into_one_folder_at_once_have_no_event_twice(
    tmp_path: Path, foldline: Foldline
) -> None:
    url = "sqlite:" + str(tmp_path / "bank.db")
    await filled(url)
    export = ("export", "bank.db", "--to", "lake/", "--format", "csv")
    with open_backend(url).outside(Ports()).log_reader() as log:
        with Folder(tmp_path / "lake", "csv", log) as one:
            before = one.end()  # it has found out where to begin, and is slow
            async with make_engine(url) as engine:
                await engine.execute(Deposit("c", 9))
            while_it_runs = foldline(*export)
        afterwards = foldline(*export)

    assert before == 0
    assert (while_it_runs.status, "another process exports" in while_it_runs.told) == (1, True)
    assert afterwards.said == "exported 8 events into 1 file, to position 8\n"


async def test_two_files_with_the_same_events_are_told(tmp_path: Path, foldline: Foldline) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    export = ("export", "bank.db", "--to", "lake/", "--format", "jsonl")
    foldline(*export, "--file-events", "2")
    second = next((tmp_path / "lake").glob("events-*-000000000004-*"))
    wider = second.name.replace("-000000000003-", "-000000000002-")
    (second.parent / wider).write_bytes(second.read_bytes())

    found = foldline(*export)

    assert (found.status, "has the same events in" in found.told) == (1, True)
    assert wider in found.told


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_a_file_that_is_being_written_is_nobody_elses(
    tmp_path: Path, foldline: Foldline, form: str
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    there, slow = tmp_path / f"events.{form}", Locked(str(tmp_path))
    assert slow.lock(f"events.{form}.partial")
    (tmp_path / f"events.{form}.partial").write_bytes(b"half of it")

    beside = foldline("export", "bank.db", "--to", there.name)

    assert (beside.status, "another process writes" in beside.told) == (1, True)
    assert (tmp_path / f"events.{form}.partial").read_bytes() == b"half of it"
    slow.unlock()  # it was killed
    assert foldline("export", "bank.db", "--to", there.name).status == 0
    assert not list(tmp_path.glob("*.partial"))
    assert b"half of it" not in there.read_bytes()
    assert stat.S_IMODE(there.stat().st_mode) == 0o600


async def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, foldline: Foldline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled("sqlite:" + str(tmp_path / "bank.db"))
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, (tmp_path / "events.csv").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)

    assert foldline("export", "bank.db", "--to", "events.csv").status == 0

    assert ("events.csv.partial", False) in synced
    assert (tmp_path.name, True) in synced
