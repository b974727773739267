"""Arguments, streams and pipes as a shell hands them over: any bytes, any numbers, closed ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from domain.__main__ import main as domain_main
from tests.support import warm
from tests.support.counters import Add
from tests.support.tallies import GetTallies, tallied

ROOT = Path(__file__).parents[2]
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
ROW = "1,A,LAMP,4,12/1/10 8:26,2.50,17850,France\n"


async def fill(path: Path) -> None:
    async with tallied(f"sqlite:{path}") as engine:
        receipt = await engine.execute(Add("a", 1, 2), key="k")
        await engine.query(GetTallies(), at=receipt)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("log")
    asyncio.run(fill(made / "log.db"))
    (made / "one.csv").write_text(HEADER + ROW)
    return made


def run(
    folder: Path, *arguments: bytes | str, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    settings = {"capture_output": True, "timeout": 60, **options}
    return warm.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **settings,
    )


HUGE = "9" * 30
HUGER = "9" * 6_000
LATIN = b"caf\xe9"
WRONG: Sequence[Sequence[bytes | str]] = [
    ["engine", "log", "log.db", "--stream", LATIN],
    ["engine", "log", "log.db", "--key", LATIN],
    ["engine", "log", LATIN],
    ["engine", "verify", "log.db", "--jobs", "65"],
    ["engine", "tail", "log.db", "--correlation", LATIN],
    ["engine", "sql", "log.db", "select ?", "--parameter", LATIN],
    ["engine", "projections", "pause", "log.db", "tallies", "--reason", LATIN],
    ["engine", "projections", "parked", "log.db", LATIN],
    ["engine", "projections", "build", "log.db", LATIN, "x"],
    ["engine", "schema", "check", "a:b", "--samples", LATIN],
    ["engine", LATIN],
    ["engine", "log", "log.db", "--after", HUGE],
    ["engine", "log", "log.db", "--limit", HUGER],
    ["engine", "log", "log.db", "--since", "9999-12-31T23:59:59-01:00"],
    ["engine", "log", "log.db", "--until", "0001-01-01T00:00:00+01:00"],
    ["engine", "log", "log.db", "--since", HUGER],
    ["engine", "log", "log.db", "--last", "5"],
    ["engine", "tail", "log.db", "--last", HUGE],
    ["engine", "tail", "log.db", "--last", "-1"],
    ["engine", "tail", "log.db", "--after", "٣"],
    ["engine", "sql", "log.db", "select 1", "--seconds", HUGE],
    ["engine", "sql", "log.db", "select 1", "--limit", HUGE],
    ["engine", "projections", "pause", "log.db", "tallies", "--wait", str(2**63 - 1)],
    ["engine", "projections", "skip", "log.db", "tallies", HUGE, "--reason", "x"],
    ["engine", "log", "mysql://ann:hunter2@db.example/shop"],
    ["engine", "members", "POSTGRESQL://ann:hunter2@db.example/shop"],
    ["engine", "health", " postgresql://ann:hunter2@db.example/shop"],
    ["engine", "copy", "log.db", "memory:"],
    ["engine", "copy", "log.db", "file:shop.db"],
    ["engine", "restore", "s3://bucket/log", "shop.db"],
    ["engine", "restore", "backup", "SQLITE:shop.db"],
    ["engine", "backup", "log.db", "s3://ann:hunter2@bucket/log"],
    ["engine", "export", "log.db", "--to", "s3://bucket/shop.csv"],
    ["engine", "members", "/"],
    ["domain", "order", LATIN],
    ["domain", "order", "1", "--version", HUGE],
    ["domain", "order", "1", "--at", "9999-12-31T23:59:59-01:00"],
    ["domain", "search", LATIN],
    ["domain", "search", "x", "--limit", HUGER],
    ["domain", "one.csv", "--store", LATIN],
    ["domain", "expand", "--times", HUGER, "--out", "x.csv"],
    ["domain", "wach"],
    ["domain", "serach", "--store", "x"],
    ["domain", "--store", "sqlite:x.db", "watch"],
    ["domain.web", "--port", "99999"],
    ["domain.web", "--port", HUGER],
]


def name(command: Sequence[bytes | str]) -> str:
    return " ".join(os.fsdecode(part)[:20].encode("unicode_escape").decode() for part in command)


@pytest.mark.parametrize("command", WRONG, ids=map(name, WRONG))
def test_a_wrong_argument_is_told_with_the_usage(
    folder: Path, command: Sequence[bytes | str]
) -> None:
    done = run(folder, *command)

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"usage: ")
    assert b"error: " in done.stderr
    assert len(done.stderr) < 2_000
    assert b"hunter2" not in done.stderr
    assert not [*folder.glob("*shop.db*"), *folder.glob("*:*"), *folder.glob("*hunter2*")]


LARGE: Sequence[Sequence[str]] = [
    ["engine", "log", "log.db", "--after", str(2**63 - 1)],
    ["engine", "log", "log.db", "--limit", str(2**63 - 1)],
    ["engine", "log", "log.db", "--last", "--limit", str(2**63 - 1)],
    ["engine", "sql", "log.db", "select 1", "--limit", str(2**63 - 1)],
    ["engine", "sql", "log.db", "select 1", "--seconds", str(7 * 86_400)],
    ["engine", "projections", "parked", "log.db", "tallies", "--key", "x" * 5_000],
    ["engine", "log", "log.db", "--since", "0001-01-01", "--until", "9999-12-31T23:59:59.999999"],
]


@pytest.mark.parametrize("command", LARGE, ids=map(name, LARGE))
def test_the_largest_numbers_are_taken(folder: Path, command: Sequence[str]) -> None:
    done = run(folder, *command)

    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["members", "none.db"], "there is no log "),
        (["verify", "sqlite:///none.db"], "others read that many slashes"),
        (["verify", "mysql://ann:hunter2@db.example/shop"], "no URL that is known here"),
        (["repair", "log.db", "new.db", "--from", "dynamodb://x"], "write dynamodb://REGION/TABLE"),
    ],
)
def test_a_wrong_name_of_a_log_is_told_in_a_line(
    folder: Path, command: Sequence[str], told: str
) -> None:
    done = run(folder, "engine", *command)

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")
    assert (told in done.stderr.decode(), b"hunter2" in done.stderr) == (True, False)


def test_a_mistyped_command_is_not_taken_for_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, meant in (("wach", "watch"), ("Orders", "order"), ("expnad", "expand")):
        with pytest.raises(SystemExit):
            domain_main([word])
        assert f"{word} is no command" in (told := capsys.readouterr().err)
        assert f"did you mean {meant}?" in told
    with pytest.raises(SystemExit):
        domain_main(["--store", "sqlite:x.db", "order"])
    assert "it stands first" in capsys.readouterr().err


def test_a_number_behind_last_is_told_where_it_belongs(folder: Path) -> None:
    told = run(folder, "engine", "log", "log.db", "--last", "5").stderr
    assert b"--limit N says how many" in told


def test_a_file_of_any_name_is_imported(folder: Path) -> None:
    other = os.fsencode(folder) + b"/" + LATIN + b".csv"
    Path(os.fsdecode(other)).write_text(HEADER + ROW)
    done = run(folder, "domain", other, "--store", "sqlite:named.db")

    assert (done.returncode, b"10.00" in done.stdout) == (0, True), done.stderr


def test_a_statement_on_the_input_that_is_no_text_is_told(folder: Path) -> None:
    for sent in (b"select '\xff'", b"select '" + b"x" * 1_100_000 + b"'", b"select 1\x00 -- '\xe9"):
        done = run(folder, "engine", "sql", "log.db", input=sent)
        assert (done.returncode, done.stderr[:7]) == (1, b"error: ")
        assert b"Traceback" not in done.stderr


PRINTING: Sequence[Sequence[str]] = [
    ["engine", "log", "log.db", "--payload"],
    ["engine", "sql", "log.db", "select * from log"],
    ["engine", "projections", "list", "log.db"],
    ["engine", "projections", "pause", "log.db", "tallies"],
    ["engine", "projections", "decisions", "log.db"],
    ["domain", "one.csv", "--store", "sqlite:closed.db"],
    ["domain", "expand", "one.csv", "--times", "1", "--out", "out.csv"],
]


@pytest.mark.parametrize("command", PRINTING, ids=map(name, PRINTING))
def test_a_command_whose_output_goes_nowhere_ends_without_a_traceback(
    folder: Path, command: Sequence[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    gone = run(folder, *command, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    shell = f"exec {sys.executable} -m {' '.join(repr(part) for part in command)} >&-"
    closed = subprocess.run(
        ["sh", "-c", shell],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        timeout=60,
    )

    assert gone.returncode in (0, 1)
    assert closed.returncode == 0
    for told in (gone.stderr, closed.stderr):
        assert b"Traceback" not in told
        assert b"Exception ignored" not in told


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "log", "status"), [("verify", "bad.db", 1), ("health", "log.db", 4)]
)
def test_a_check_whose_output_nobody_reads_has_its_status(
    folder: Path, command: str, log: str, status: int, unbuffered: str
) -> None:
    """`foldline verify shop.db | head -1` ended with 0 on a damaged log."""
    sound = (folder / "log.db").read_bytes()
    (folder / "bad.db").write_bytes(sound.replace(b'"amount":1', b'"amount":3'))
    assert sound != (folder / "bad.db").read_bytes()
    reading, writing = os.pipe()
    os.close(reading)
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    checked = subprocess.run(
        [sys.executable, "-m", "engine", command, log],
        cwd=folder,
        env=settings,
        stdout=writing,
        stderr=writing,
        timeout=60,
    )
    os.close(writing)
    assert checked.returncode == status


FULL = [PRINTING[0], PRINTING[1], PRINTING[5]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", FULL, ids=map(name, FULL))
def test_an_output_that_takes_nothing_is_told_in_a_line(
    folder: Path, command: Sequence[str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(folder, *command, capture_output=False, stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert b"error: [Errno 28]" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_terminal_that_cannot_show_a_name_shows_the_rest(folder: Path) -> None:
    (folder / "name.csv").write_text(HEADER + ROW.replace("LAMP", "LÄMP ☃"), encoding="utf-8")
    ascii_ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "domain", "name.csv", "--store", "sqlite:name.db"],
        cwd=folder,
        env=ascii_,
        capture_output=True,
        timeout=60,
    )

    assert (done.returncode, b"L\\xc4MP \\u2603" in done.stdout) == (0, True), done.stderr
