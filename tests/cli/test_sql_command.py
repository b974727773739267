"""`python -m engine sql`: a log and its views asked from another process, and nothing but asked."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from engine.__main__ import main
from engine.runtime.ports import Ports
from engine.stores.sqlite.files import files_of
from engine.stores.sqlite.outside.shell import LogAndViews
from tests.support import warm
from tests.support.counters import Add
from tests.support.tallies import GetTallies, tallied

ROOT = Path(__file__).parents[2]
JOINED = (
    "select t.counter, t.total, count(*) as events from tallies_rows t "
    "join log l on l.stream = 'counter:' || t.counter group by t.counter order by t.counter"
)
EXPECTED = [
    {"counter": "a", "total": 2, "events": 2},
    {"counter": "b", "total": 40, "events": 1},
]


async def fill(path: Path) -> None:
    async with tallied(f"sqlite:{path}") as engine:
        await engine.execute(Add("a", 1, 2))
        receipt = await engine.execute(Add("b", 40), key="k-1")
        await engine.query(GetTallies(), at=receipt)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "log.db"
    asyncio.run(fill(made))
    return made


def shown(
    capsys: pytest.CaptureFixture[str], path: Path, *arguments: str | Path
) -> tuple[int, str, str]:
    status = main(["sql", str(path), *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def decoded(out: str) -> list[Any]:
    return [msgspec.json.decode(line) for line in out.splitlines()]


# -- what is shown --------------------------------------------------------------------------------


def test_the_log_and_the_views_are_joined(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, path, JOINED, "--json")

    assert (status, err) == (0, "")
    assert decoded(out) == EXPECTED


async def test_a_running_engine_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    async with tallied(f"sqlite:{path}") as engine:
        for total in (1, 2):
            receipt = await engine.execute(Add("a", 1))
            await engine.query(GetTallies(), at=receipt)
            outside = warm.run(
                [sys.executable, "-m", "engine", "sql", path, JOINED, "--json"],
                cwd=ROOT,
                capture_output=True,
                check=True,
            )
            assert decoded(outside.stdout.decode()) == [
                {"counter": "a", "total": total, "events": total}
            ]


ALL_KINDS = "select null as a, x'ff00' as b, 'x,\"y' as c, 1.5 as d, 7 as e, 'ä\x1b' as f"


def test_a_table_for_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, path, f"{ALL_KINDS} union all select 1, x'', 'z', 22.25, null, ''")[1] == (
        '   A  B     C         D     E  F\n'
        'NULL  ff00  x,"y    1.5     7  ä\\x1b\n'
        '   1        z     22.25  NULL\n'
    )  # fmt: skip
    assert shown(capsys, path, "select 1 as one where 0") == (0, "ONE\n", "")


def test_json_lines_for_programs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, path, ALL_KINDS, "--json")[1]

    assert out.removesuffix("\n").isprintable()
    assert decoded(out) == [{"a": None, "b": "ff00", "c": 'x,"y', "d": 1.5, "e": 7, "f": "ä\x1b"}]
    assert shown(capsys, path, "select 1 as x, 2 as x, 3 as x_2", "--json")[1] == (
        '{"x":1,"x_2":2,"x_2_2":3}\n'
    )


def test_csv_for_spreadsheets(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, path, ALL_KINDS.replace("ä\x1b", "one\ntwo"), "--csv")[1]

    assert list(csv.reader(io.StringIO(out))) == [
        ["a", "b", "c", "d", "e", "f"],
        ["", "ff00", 'x,"y', "1.5", "7", "one\ntwo"],
    ]


def test_csv_has_no_formulas(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "select '=1+1' as \"@a\", '-5' as b, 'a\x1b' as c, -5 as d, '+cmd|x' as e"
    out = shown(capsys, path, asked, "--csv")[1]

    assert list(csv.reader(io.StringIO(out))) == [
        ["'@a", "b", "c", "d", "e"],
        ["'=1+1", "-5", "a\\x1b", "-5", "'+cmd|x"],
    ]


def test_what_there_is_to_ask(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = shown(capsys, path, "--tables", "--json")
    found = {(row["schema"], row["table"]): row["columns"] for row in decoded(out)}

    assert status == 0
    assert found["views", "tallies_rows"] == "counter TEXT, total INTEGER, events INTEGER"
    assert found["main", "log"].startswith("position INTEGER, stream TEXT, version INTEGER, event")
    assert not [name for _, name in found if ":" in name or name.startswith("sqlite_")]


def test_a_statement_may_come_from_the_input(path: Path) -> None:
    done = warm.run(
        [sys.executable, "-m", "engine", "sql", path, "--csv"],
        cwd=ROOT,
        input="select count(*) as n\nfrom log; -- all\n",
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "n\n3\n", "")


def test_parameters_are_values_and_never_sql(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(sql: str, *values: str) -> list[Any]:
        parameters = [part for value in values for part in ("--parameter", value)]
        return decoded(shown(capsys, path, sql, *parameters, "--json")[1])

    assert asked("select total from tallies_rows where counter = ?", "b") == [{"total": 40}]
    assert asked("select counter from tallies_rows where total = :t", "40") == [{"counter": "b"}]
    assert asked("select counter from tallies_rows where counter = ?", "b' or 1 --") == []
    assert asked("select ?2 as x, ?1 as y", "1", "two") == [{"x": "two", "y": "1"}]
    assert asked("select cast(? as integer) + 1 as n limit ?", "1", "5") == [{"n": 2}]


def test_rows_beyond_the_limit_are_said_to_be_there(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "select position from log"

    assert shown(capsys, path, sql, "--limit", "2", "--csv") == (
        0,
        "position\n1\n2\n",
        "there are more than these 2 rows: --limit shows more\n",
    )
    assert shown(capsys, path, sql, "--limit", "3", "--csv") == (0, "position\n1\n2\n3\n", "")


# -- what cannot be -------------------------------------------------------------------------------

MANY = "with recursive n(x) as (select 1 union all select x + 1 from n limit 100)"
ONLY_READS = "does more than read, which is all that is possible here"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("delete from events", ONLY_READS),
        ('delete from "tallies_rows:1"', ONLY_READS),
        ("delete from tallies_rows", "because it is a view"),
        ("update views.checkpoints set position = 0", ONLY_READS),
        ("insert into \"tallies_rows:1\" values ('z', 1, 1)", ONLY_READS),
        ("drop table events", ONLY_READS),
        ("create table x (y)", ONLY_READS),
        ("create temp table x (y)", ONLY_READS),
        ("attach 'other.db' as other", ONLY_READS),
        ("detach views", ONLY_READS),
        ("pragma query_only = 0", ONLY_READS),
        ("pragma wal_checkpoint(truncate)", ONLY_READS),
        ("vacuum into 'copy.db'", ONLY_READS),
        ("begin immediate", ONLY_READS),
        ("select load_extension('x')", "cannot be run"),
        ("select 1; select 2", "more than one statement"),
        ("select 1; delete from events", "more than one statement|" + ONLY_READS),
        ("selec 1", 'cannot be run: near "selec": syntax error'),
        (
            "select * from nobody",
            r"no such table: nobody\. There are .*events, .*log, .*tallies_rows",
        ),
        ("select ?", "cannot be run: "),
        ("", "no statement here"),
        ("-- nothing", "no statement here"),
        ("select zeroblob(1000000000)", "too big"),
        ("select cast(x'ff' as text)", "no UTF-8"),
    ],
)
def test_nothing_but_one_statement_that_reads_is_run(
    path: Path, capsys: pytest.CaptureFixture[str], statement: str, message: str
) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.glob("*.db")}
    status, out, err = shown(capsys, path, statement)

    assert (status, out) == (1, "")
    assert re.fullmatch(f"error: .*({message}).*\n", err)
    assert {file.name: file.read_bytes() for file in path.parent.glob("*.db")} == before


def test_the_files_are_opened_for_reading_alone(path: Path) -> None:
    ports = Ports()
    views = str(path.with_name("log.views.db"))
    with LogAndViews(
        str(path), views, files=files_of(ports), stopwatch=ports.stopwatch
    ) as database:
        connection = database._connection
        connection.pragma("query_only", 0)
        for table in ("main.events", 'views."tallies_rows:1"'):
            with pytest.raises(apsw.ReadOnlyError):
                connection.execute(f"delete from {table}").fetchall()


def test_a_statement_has_its_time(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"

    assert shown(capsys, path, endless, "--seconds", "1") == (
        1,
        "",
        "error: the statement took longer than 1 s and was ended\n",
    )


LONG_CALL = "select instr(zeroblob(30000000), zeroblob(15000000) || x'01')"
"""One step of SQLite's machine, of hours."""


def test_one_long_call_has_its_time_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, path, LONG_CALL, "--seconds", "1") == (
        1,
        "",
        "error: the statement took longer than 1 s and was ended\n",
    )


def test_a_view_of_a_file_that_somebody_gave_has_its_time(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(apsw.Connection(str(path.with_name("log.views.db")))) as views:
        views.execute("drop view tallies_rows").fetchall()
        views.execute(f"create view tallies_rows as {LONG_CALL} as counter").fetchall()
    status, out, err = shown(capsys, path, "select * from tallies_rows", "--seconds", "1")

    assert (status, out) == (1, "")
    assert "took longer than 1 s" in err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_one_long_call_ends_with_who_asked(path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "engine", "sql", str(path), LONG_CALL, "--seconds", "600"]
    with warm.Warm(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        child = until_child_has(process.pid, path)
        process.send_signal(how)
        _, told = process.communicate(timeout=20)

    assert (process.returncode, told) == (130, b"")
    assert not Path(f"/proc/{child}").exists()


def until_child_has(pid: int, path: Path) -> int:
    """Wait until a process has begun another one, which has a file open; give that."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell whose child is whose")
    while True:
        for child in children.read_text().split():
            with suppress(OSError):
                if any(file.readlink() == path for file in Path(f"/proc/{child}/fd").iterdir()):
                    return int(child)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (f"{MANY} select zeroblob(5000000) from n", "the answer has more than 64 MB"),
        (f"{MANY} select printf('%030000000d', x) from n", "the answer has more than 64 MB"),
        (f"select {', '.join(['hex(zeroblob(20000000))'] * 30)}", "more than 512 MB of memory"),
        ("select length(group_concat(zeroblob(50000000) || x)) from (select 1 x)", ""),
    ],
)
def test_a_statement_has_its_memory(
    path: Path, capsys: pytest.CaptureFixture[str], statement: str, message: str
) -> None:
    status, _, err = shown(capsys, path, statement)

    assert (status, message in err) == (1 if message else 0, True), err
    assert not message or re.fullmatch("error: .*\n", err)


def test_where_no_log_is_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = shown(capsys, tmp_path / "none.db", "select 1")

    assert (status, out) == (1, "")
    assert re.fullmatch("error: there is no log .*none.db: no such file\n", err)
    assert list(tmp_path.iterdir()) == []


def test_a_log_without_views_is_asked_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in path.parent.glob("log.views.db*"):
        file.unlink()

    assert shown(capsys, path, "select count(*) as n from log", "--csv")[1] == "n\n3\n"
    status, _, err = shown(capsys, path, "select * from tallies_rows")
    assert status == 1
    assert re.search(r"no such table: tallies_rows \(there is no file of views, .*log\.views", err)
    assert not list(path.parent.glob("log.views.db*"))


def test_views_that_are_damaged_are_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.with_name("log.views.db").write_bytes(b"no database at all" * 100)
    status, _, err = shown(capsys, path, "select * from tallies_rows")

    assert status == 1
    assert re.fullmatch(r"error: .*log\.db with .*log\.views\.db cannot be read: .*\n", err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sql"],
        ["sql", "x", "select 1", "--limit", "0"],
        ["sql", "x", "select 1", "--seconds", "0"],
        ["sql", "x", "select 1", "--json", "--csv"],
        ["sql", "x", "select 1", "--tables"],
        ["sql", "x", "--tables", "--parameter", "1"],
    ],
)
def test_wrong_arguments_are_told_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m engine sql")


# -- what it keeps others from --------------------------------------------------------------------


def test_an_answer_that_nobody_reads_on_keeps_nobody_from_folding_the_log(path: Path) -> None:
    wide = (
        f"select printf('%0500d', 1) from (select 1 from ({' union all '.join(['select 1'] * 9)})"
    )
    wide += " a, log b, log c, log d, log e, log f)"
    command = [sys.executable, "-m", "engine", "sql", str(path), wide, "--limit", "2000"]
    with warm.Warm(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # a megabyte stands behind it, and fills the pipe
        assert process.poll() is None
        with closing(apsw.Connection(str(path))) as writer:
            writer.execute("update snapshots set version = version").fetchall()
            writer.execute("create table x (y)").fetchall()
            writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            size = Path(f"{path}-wal").stat().st_size
        process.stdout.close()
        status = process.wait(30)

    assert first
    assert size == 0
    assert status == 0, "whoever read the output has gone, which is no failure"
