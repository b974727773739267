"""A log that is made of another store's: what comes, what is refused before anything is written."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from engine import Damaged, Rejected, StoreRefused
from engine.imports import Imported, Mapping, SourceEvent
from engine.imports.drafts import ExportedDrafts, MappedDrafts
from engine.imports.event_stores import FORMS, TablesSource
from engine.imports.importing import ImportedLog, import_log, looked_at
from engine.imports.json_lines import JsonLinesSource
from engine.model.aggregate import definitions_of
from engine.model.stored import StoredEvent
from engine.outside.copying import CopyProgress
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend, open_tables
from tests.imports import bank
from tests.imports.bank import Account, Deposit, Deposited, Lost, Open, make_engine
from tests.imports.running import Ended, command
from tests.support.other_stores import (
    ANN,
    BOB,
    fill_eventsourcing,
    fill_marten,
    fill_message_db,
)
from tests.support.postgres import Server

NOW = 1_800_000_000_000_000
BOTH = ("sqlite", "postgres")


@pytest.fixture
def new(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Give the URL of a log that is not there yet."""

    def make(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:{tmp_path / 'new.db'}"
        server: Server = request.getfixturevalue("postgres")
        return server.url(server.new_schema())

    return make


def target_of(url: str) -> Any:
    return open_backend(url).outside(Ports()).copy_target()


def log_of(url: str) -> Sequence[StoredEvent]:
    with open_backend(url).outside(Ports()).log_reader() as reader:
        return reader.read_feed(0, events_max=10_000, bytes_max=10**8)


def mapped(source: Any, mapping: Any, target: Any, **given: Any) -> ImportedLog:
    engine = make_engine()
    drafts = MappedDrafts(
        source.name, mapping, engine.registry, definitions_of(engine.aggregates), engine.limits
    )
    return import_log(source, drafts, target, NOW, **given)


def lines(path: Path, *rows: dict[str, Any]) -> JsonLinesSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLinesSource(str(path))


def deposits(path: Path, count: int) -> JsonLinesSource:
    at = datetime(2024, 3, 1, tzinfo=UTC).isoformat()
    rows = [{"account": f"a-{n % 7}", "cents": [n + 1, 1], "at": at} for n in range(count)]
    return lines(path, *rows)


# -- what comes along -----------------------------------------------------------------------------

STORES = ("eventsourcing file", "eventsourcing", "marten", "message-db")


@contextmanager
def old_store(name: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[TablesSource]:
    """Give a source with the history, in a database of its own."""
    form, _, in_file = name.partition(" ")
    if in_file:
        fill_eventsourcing(folder / "old.db")
        tables = open_tables(str(folder / "old.db"), Ports())
        yield TablesSource(tables, FORMS[form], None, in_file=True)
        return
    server: Server = request.getfixturevalue("postgres")
    schema = server.new_schema()
    if form == "message-db":
        fill_message_db(server, schema)
    else:
        server.sql(f"CREATE SCHEMA {schema}")
        {"marten": fill_marten, "eventsourcing": fill_eventsourcing}[form](server, schema)
    table = FORMS[form].table.replace(FORMS[form].table.partition(".")[0], schema)
    yield TablesSource(open_tables(server.url(), Ports()), FORMS[form], table, in_file=False)


@pytest.mark.parametrize("store", STORES)
async def test_a_log_keeps_streams_versions_times_and_order(
    store: str, tmp_path: Path, new: Callable[[str], str], request: pytest.FixtureRequest
) -> None:
    url = new("sqlite")
    with old_store(store, tmp_path, request) as source:
        done = mapped(source, bank.moved, target_of(url))

    found = log_of(url)
    assert [(e.stream, e.version, e.name) for e in found] == [
        (f"account:{own.replace('-', '')}", version, name)
        for own, version, name in (
            (ANN, 1, "opened"),
            (BOB, 1, "opened"),
            (ANN, 2, "deposited"),
            (BOB, 2, "deposited"),
            (ANN, 3, "deposited"),
        )
    ]
    times = [datetime.fromtimestamp(e.recorded / 10**6, UTC).isoformat() for e in found]
    assert [time[17:26] for time in times] == [
        *("12.494086", "12.495341", "12.500062", "12.502341", "12.510423")
    ]
    assert (done.events, done.streams, done.passed_over) == (5, 2, int(store == "message-db"))
    async with make_engine(url) as engine:
        ann = ANN.replace("-", "")
        state = await engine.state(Account, ann)
        assert (state.owner, state.country, state.cents) == ("Ann", "FR", 750)
        with pytest.raises(Rejected, match="owner-taken"):  # claims are held from the start
            await engine.execute(Open("other", "Ann"))
        receipt = await engine.execute(Deposit(ann, 5))
        assert (receipt.version, receipt.position) == (5, 7)


def test_what_the_library_eventsourcing_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("eventsourcing", reason="it comes with the extra `bench`")
    program = """
from decimal import Decimal
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

class Account(Aggregate):
    @event("Opened")
    def __init__(self, owner, limit):
        self.owner = owner

bank = Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": "old.db"})
bank.save(Account("Ann", Decimal("1.50")))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    tables = open_tables(str(tmp_path / "old.db"), Ports())
    with TablesSource(tables, FORMS["eventsourcing"], None, in_file=True) as source:
        (event,) = source.events()

    assert (event.name, event.version) == ("Account.Opened", 1)
    assert {n: str(event.data[n]) for n in ("owner", "limit")} == {"owner": "Ann", "limit": "1.50"}
    assert event.recorded is not None
    assert event.recorded.utcoffset() is not None


def test_a_state_that_is_no_json_is_left_to_the_mapping_function(tmp_path: Path) -> None:
    fill_eventsourcing(tmp_path / "old.db")
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = x'789cff'")
    tables = open_tables(str(tmp_path / "old.db"), Ports())
    with TablesSource(tables, FORMS["eventsourcing"], None, in_file=True) as source:
        first = next(source.events())

    assert (first.data, first.raw, first.recorded) == (None, bytes.fromhex("789cff"), None)


def test_a_time_that_goes_back_keeps_the_order_and_its_own_time(
    tmp_path: Path, new: Callable[[str], str]
) -> None:
    at = [datetime(2024, 3, 1, 12, minute, tzinfo=UTC).isoformat() for minute in (5, 3, 9)]
    source = lines(
        tmp_path / "x.jsonl", *({"account": "a", "cents": [1], "at": time} for time in at)
    )
    url = new("postgres")

    mapped(source, bank.of_lines, target_of(url))

    minutes = [(e.recorded // 60_000_000 % 60, e.behind // 60_000_000) for e in log_of(url)]
    assert minutes == [(5, 0), (5, 2), (9, 0)]


# -- what is refused before anything is written ---------------------------------------------------


def _at(old: SourceEvent, **given: Any) -> Imported:
    fields: dict[str, Any] = {
        "kind": "account",
        "id": "a",
        "event": Deposited(1),
        "recorded": datetime(2024, 3, 1, tzinfo=UTC),
    }
    return Imported(**{**fields, **given})


def _raising(old: SourceEvent) -> Imported:
    raise ValueError(f"the secret {old.data}")


def _future() -> datetime:
    return datetime.fromtimestamp(NOW / 10**6 + 200_000, UTC)


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown kind": (lambda old: _at(old, kind="acount"), "no kind 'acount'"),
    "event of another kind": (lambda old: _at(old, event=Lost()), "nothing in Account applies"),
    "no event": (lambda old: _at(old, event="x"), "is an Event, not a str"),
    "an id that is none": (lambda old: _at(old, id="a\n"), "printable"),
    "no time": (lambda old: _at(old, recorded=None), "no time"),
    "a time without a zone": (lambda old: _at(old, recorded=datetime(2024, 3, 1)), "no time zone"),
    "a time to come": (lambda old: _at(old, recorded=_future()), "more than a day from now"),
    "too large": (lambda old: _at(old, event=bank.Opened("x" * 20_000, "")), "event_bytes"),
    "a wrong type": (lambda old: _at(old, event=Deposited(cast("int", "9"))), "Deposited"),
    "a word": (lambda old: "account", "gave a str"),
    "raises": (_raising, "ValueError in _raising"),
    "nothing at all": (lambda old: None, "gives no event, and 3 that become nothing"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_an_event_that_does_not_fit_is_told_with_its_line_and_nothing_is_made(
    wrong: str, tmp_path: Path
) -> None:
    mapping, said = REFUSED[wrong]
    source = lines(tmp_path / "x.jsonl", {"cents": 1}, {"cents": 2}, {"cents": 3})
    good = cast("Mapping", lambda old: _at(old))
    given = mapping if wrong == "nothing at all" else _last(good, mapping)

    with pytest.raises(StoreRefused) as caught:
        mapped(source, given, target_of(f"sqlite:{tmp_path / 'new.db'}"))

    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert ("line 3:" in str(caught.value)) == (wrong != "nothing at all")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def _last(good: Mapping, bad: Mapping) -> Mapping:
    return lambda old: bad(old) if old.place == "line 3" else good(old)


def test_a_claim_has_one_holder(tmp_path: Path) -> None:
    from engine import Claim

    source = lines(tmp_path / "x.jsonl", {"id": "a"}, {"id": "b"})
    claims = [Claim("owner", "ann")]

    with pytest.raises(StoreRefused, match="line 2: account:b claims .* that account:a holds"):
        mapped(
            source,
            lambda old: _at(old, id=old.data["id"], claims=claims),
            target_of(f"sqlite:{tmp_path / 'new.db'}"),
        )


EXPORTED = {
    "stream": "account:a",
    "version": 1,
    "event": "deposited",
    "event_version": 1,
    "recorded": "2024-03-01T09:30:12Z",
    "payload": {"cents": 5},
}
WRONG_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown event": ({"event": "withdrawn"}, "withdrawn version 1 of account:a is not declared"),
    "unknown version": ({"event_version": 9}, "deposited version 9"),
    "wrong payload": ({"payload": {"cents": "secret"}}, "Expected `int`"),
    "wrong kind": ({"stream": "box:a"}, "nothing in Box applies Deposited"),
    "hole": ({"version": 3}, "is at version 1 here, and this is its version 3"),
    "twice": ({"version": 1}, "events of it are missing, or stand twice"),
    "changed": ({"version": 2, "checksum": 7}, "it was changed"),
    "field missing": ({"recorded": None}, "recorded"),
    "another encoding": ({"encoding": 4}, "encoding is 4"),
}


@pytest.mark.parametrize("wrong", WRONG_LINES)
def test_a_line_of_an_export_that_does_not_fit_is_told_with_its_number(
    wrong: str, tmp_path: Path
) -> None:
    change, said = WRONG_LINES[wrong]
    source = lines(tmp_path / "x.jsonl", EXPORTED, {**EXPORTED, "version": 2, **change})
    engine = make_engine()
    drafts = ExportedDrafts(source.name, engine.registry, definitions_of(engine.aggregates))

    with pytest.raises(StoreRefused) as caught:
        looked_at(source, drafts, NOW, lambda _: None)

    assert "x.jsonl, line 2: " in str(caught.value)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_table_that_is_not_there_is_told(tmp_path: Path, postgres: Server) -> None:
    tables = open_tables(postgres.url(), Ports())
    with (
        pytest.raises(StoreRefused, match=r"no such table, nowhere.mt_events: .* --table"),
        TablesSource(tables, FORMS["marten"], "nowhere.mt_events", in_file=False) as source,
    ):
        list(source.events())
    fill_eventsourcing(tmp_path / "old.db")
    with (
        pytest.raises(StoreRefused, match="no table events"),
        TablesSource(
            open_tables(str(tmp_path / "old.db"), Ports()),
            FORMS["eventsourcing"],
            "events",
            in_file=True,
        ) as source,
    ):
        list(source.events())


# -- what is begun goes on ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_an_import_that_ended_goes_on_when_it_is_made_again(
    kind: str, tmp_path: Path, new: Callable[[str], str]
) -> None:
    source, url = deposits(tmp_path / "x.jsonl", 20), new(kind)

    def end(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("written", 14):
            raise Ended

    with pytest.raises(Ended):
        mapped(source, bank.of_lines, target_of(url), on_progress=end, page_events=7)
    with pytest.raises(StoreRefused):
        log_of(url)  # it is no log yet
    done = mapped(source, bank.of_lines, target_of(url), page_events=5)

    assert (done.resumed_at, done.events) == (14, 40)
    assert [json.loads(e.payload)["cents"] for e in log_of(url)][:6] == [1, 1, 2, 1, 3, 1]
    assert len(log_of(url)) == 40


@pytest.mark.parametrize("store", STORES)
def test_an_import_of_tables_that_ended_goes_on_when_it_is_made_again(
    store: str, tmp_path: Path, new: Callable[[str], str], request: pytest.FixtureRequest
) -> None:
    """Into the other kind of store than the tables are in."""
    url = new("postgres" if store.endswith("file") else "sqlite")

    def end(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("written", 2):
            raise Ended

    with old_store(store, tmp_path, request) as source:
        with pytest.raises(Ended):
            mapped(source, bank.moved, target_of(url), on_progress=end, page_events=2)
        done = mapped(source, bank.moved, target_of(url))

    assert (done.resumed_at, done.events, done.streams) == (2, 5, 2)
    assert [event.version for event in log_of(url)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("kind", BOTH)
def test_another_import_or_a_log_is_not_written_over(
    kind: str, tmp_path: Path, new: Callable[[str], str]
) -> None:
    url = new(kind)

    def end(progress: CopyProgress) -> None:
        if progress.what == "written":
            raise Ended

    with pytest.raises(Ended):
        mapped(
            deposits(tmp_path / "x.jsonl", 20),
            bank.of_lines,
            target_of(url),
            on_progress=end,
            page_events=7,
        )
    with pytest.raises(StoreRefused, match="a copy of the log .* was begun"):
        mapped(deposits(tmp_path / "y.jsonl", 21), bank.of_lines, target_of(url))
    mapped(deposits(tmp_path / "x.jsonl", 20), bank.of_lines, target_of(url))
    before = log_of(url)
    with pytest.raises(StoreRefused):
        mapped(deposits(tmp_path / "y.jsonl", 21), bank.of_lines, target_of(url))

    assert log_of(url) == before


def test_a_mapping_function_that_gives_something_else_the_second_time_makes_no_log(
    tmp_path: Path,
) -> None:
    count = 0

    def unsteady(old: SourceEvent) -> Imported:
        nonlocal count
        count += 1
        return _at(old, event=Deposited(count))

    source = deposits(tmp_path / "x.jsonl", 5)
    with pytest.raises(StoreRefused, match="gave other events the second time"):
        mapped(source, unsteady, target_of(f"sqlite:{tmp_path / 'new.db'}"))

    assert not (tmp_path / "new.db").exists()


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    target = target_of(f"sqlite:{tmp_path / 'new.db'}")
    add = target.add

    def add_another(events: Any, types: Any, before: Any, after: Any) -> None:
        add([*events[:-1], _other(events[-1])], types, before, after)

    target.add = add_another
    with pytest.raises(Damaged):
        mapped(deposits(tmp_path / "x.jsonl", 5), bank.of_lines, target)

    assert not (tmp_path / "new.db").exists()


def _other(event: StoredEvent) -> StoredEvent:
    import msgspec

    return msgspec.structs.replace(event, payload=event.payload.replace(b"1", b"2"))


# -- the command ----------------------------------------------------------------------------------


APP = ("--app", "tests.imports.bank:make_engine")


def test_a_killed_command_continues_when_it_is_run_again(tmp_path: Path) -> None:
    at = datetime(2024, 3, 1, tzinfo=UTC).isoformat()
    rows = [{"account": f"a-{n % 7}", "cents": [n, 1], "at": at} for n in range(1_500)]
    lines(tmp_path / "x.jsonl", *rows)
    arguments = ("x.jsonl", "new.db", *APP, "--map", "tests.imports.bank:killing")
    left = tmp_path / "left"
    left.write_text("2700")  # each line is mapped twice: this is behind the first page written

    killed = command(tmp_path, *arguments, KILL_AFTER=str(left))
    left.write_text("-1")
    done = command(tmp_path, *arguments, KILL_AFTER=str(left))

    assert (killed.returncode, killed.stdout) == (-9, "")
    assert done.returncode == 0, done.stderr
    assert "imported 3,000 events of 7 streams, from 2,000 on, and verified" in done.stdout
    assert len(log_of(f"sqlite:{tmp_path / 'new.db'}")) == 3_000


def test_the_command_says_what_it_would_do_and_what_it_needs(tmp_path: Path) -> None:
    deposits(tmp_path / "x.jsonl", 3)
    mapping = ("--map", "tests.imports.bank:of_lines")

    checked = command(tmp_path, "x.jsonl", "new.db", *APP, *mapping, "--check")
    no_map = command(tmp_path, "old.db", "new.db", *APP, "--format", "marten")
    no_form = command(tmp_path, "x.jsonl", "new.db", *APP)

    assert checked.stdout == "6 events of 3 streams can be imported, and nothing was written\n"
    assert "keeps events in PostgreSQL" in no_map.stderr
    assert (no_form.returncode, "x.jsonl, line 1:" in no_form.stderr) == (1, True)
    assert not (tmp_path / "new.db").exists()
