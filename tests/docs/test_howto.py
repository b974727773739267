"""Every program and command of the how-to pages runs as it stands, and prints what it should."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from domain.importer.invoices import SAMPLE
from tests.support.documents import ROOT, Folder, commands, programs
from tests.support.installed import Installed

HOWTO = "docs/howto/"
BALANCE = "Balance(account_id='a-1', cents=500)\n"


def the_program(page: str) -> str:
    """Give the one program of a page."""
    (found,) = programs(HOWTO + page)
    return found


@pytest.fixture
def empty(tmp_path: Path, installed: Installed) -> Folder:
    """Give a folder without any program yet."""
    return Folder(tmp_path, installed)


@pytest.fixture
def folder(empty: Folder) -> Folder:
    """Give a folder with the first program, which the others go on from, and what it wrote."""
    empty.write("bank.py", the_program("bank.md"))
    assert empty.ran("bank.py") == BALANCE
    return empty


def test_the_first_program_may_be_repeated(folder: Folder) -> None:
    assert folder.ran("bank.py") == BALANCE


def test_the_program_that_looks_back_prints_what_was(folder: Folder) -> None:
    folder.write("back.py", the_program("time-travel.md"))

    assert folder.ran("back.py") == (
        "1 Deposited(cents=500) None\n2 Deposited(cents=250) ann\n500\n~ cents: 500 -> 750\n"
    )


def test_the_program_that_asks_for_a_range_finds_what_is_in_it(folder: Folder) -> None:
    folder.write("hotel.py", the_program("query-a-range.md"))

    assert folder.ran("hotel.py") == "{'101'}\n"


def test_the_program_that_looks_on_prints_what_is(folder: Folder) -> None:
    folder.write("on.py", the_program("query-from-another-process.md"))

    assert folder.ran("on.py") == f"{BALANCE.rstrip()} {{'balances': 1}}\n{BALANCE}"


def test_the_program_that_searches_finds_what_is_and_not_what_was_not_yet(folder: Folder) -> None:
    folder.write("search.py", the_program("search.md"))

    assert folder.ran("search.py") == "40 cents by Zoë\n[]\n"


def test_the_program_without_a_loop_runs(folder: Folder) -> None:
    folder.write("night.py", the_program("threads-and-notebooks.md"))

    assert [folder.ran("night.py") for _ in range(2)] == ["2 525\n"] * 2


def test_the_watched_program_prints_what_it_says(folder: Folder) -> None:
    folder.write("watched.py", the_program("opentelemetry.md"))
    numbers, spans = folder.ran("watched.py").splitlines()

    page = (ROOT / HOWTO / "opentelemetry.md").read_text()
    assert f"It prints `{numbers}` and `{spans}`." in page


def test_the_web_app_serves(folder: Folder) -> None:
    folder.write("web.py", the_program("fastapi.md"))

    async def main() -> None:
        async with folder.serving("web:app") as url, httpx.AsyncClient(base_url=url) as client:
            deposit = {"url": "/accounts/a-1/deposits", "json": {"cents": 70}}
            headers = {"Idempotency-Key": '"k-1"', "If-Match": '"1"'}
            done = await client.post(**deposit, headers=headers)  # type: ignore[arg-type]
            assert (done.status_code, done.headers["ETag"]) == (201, '"2"')
            again = await client.post(**deposit, headers=headers)  # type: ignore[arg-type]
            assert (again.status_code, again.headers["ETag"]) == (201, '"2"')
            late = await client.post(**deposit, headers={"If-Match": '"1"'})  # type: ignore[arg-type]
            assert late.status_code == 412
            shown = await client.get(
                "/accounts/a-1", params={"at": done.headers["Foldline-Receipt"]}
            )
            assert shown.json() == {"account_id": "a-1", "cents": 570}
            wrong = await client.post("/accounts/a-1/deposits", json={"cents": -1})
            assert (wrong.status_code, wrong.json()["code"]) == (409, "not-positive")
            odd = await client.post("/accounts/a-1/deposits", json={"cents": 1, "euro": 2})
            assert (odd.status_code, odd.json()["code"]) == (422, "bad-body")

    asyncio.run(main())


def test_the_live_queries_are_served(folder: Folder) -> None:
    folder.write("web.py", the_program("fastapi.md"))
    folder.write("live.py", the_program("live-pages.md"))

    async def main() -> None:
        async with folder.serving("live:app") as url, httpx.AsyncClient(base_url=url) as client:
            async with client.stream("GET", "/accounts/a-1/live") as streamed:
                lines = streamed.aiter_lines()
                found = [await anext(lines) for _ in range(2)]
                saved = await client.post("/accounts/a-1/savings", params={"cents": 700})
                assert saved.json() == 3
                async with asyncio.timeout(20):
                    while found[-1] != 'data: {"account_id":"a-1","cents":700}':
                        found.append(await anext(lines))
            seen = [line for line in found if line.startswith("id:")][-1][4:]
            headers = {"Last-Event-ID": seen}
            async with client.stream("GET", "/accounts/a-1/live", headers=headers) as streamed:
                again = [line async for line in aislice(streamed.aiter_lines(), 2)]
        assert found[1] == 'data: {"account_id":"a-1","cents":500}'
        assert again[1] == 'data: {"account_id":"a-1","cents":700}'

    asyncio.run(main())


async def aislice(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        yield await anext(lines)


def test_the_program_in_sql_ranks_whom_the_first_one_knows(folder: Folder) -> None:
    """The other program of that page needs a server, and is run in `test_redis_sink`."""
    ranking, _ = programs(HOWTO + "sql-projections-and-sinks.md")
    folder.write("ranking.py", ranking)

    assert [folder.ran("ranking.py") for _ in range(2)] == [
        "[('a-2', 900, 1), ('a-1', 500, 2)]\n"
    ] * 2


def test_the_program_about_changing_events_runs_and_passes_the_gate(empty: Folder) -> None:
    program = the_program("change-an-event.md")
    (empty.path / "hotel").mkdir()
    empty.write("hotel/main.py", program)
    empty.write("hotel.py", program)
    assert empty.ran("hotel.py") == "Lee\n"
    (empty.path / "hotel.py").unlink()

    gate = ["foldline", "schema", "check", "hotel.main:make_engine"]
    done = empty.run(*gate, "--log", "hotel.db")
    assert (done.returncode, done.stdout) == (0, "")
    stored = f"1 stored in {empty.path / 'hotel.db'}: everything fits"
    assert f"3 types of events are declared, {stored}" in done.stderr


@pytest.mark.parametrize("number", [0, 1])
def test_the_tests_about_testing_pass(folder: Folder, number: int) -> None:
    folder.write("test_it.py", programs(HOWTO + "test-an-aggregate.md")[number])
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", "."]
    done = folder.run("python", "-m", "pytest", *options, "test_it.py")

    assert done.returncode == 0, done.stdout
    assert f"{(2, 1)[number]} passed" in done.stdout


SQL = (
    '"select a.cents, l.event from balances_rows a '
    "join log l on l.stream = 'account:' || a.account_id\""
)


def test_every_command_of_a_page_is_run_here() -> None:
    assert commands(HOWTO + "time-travel.md") == [
        "foldline log bank.db --stream account:a-1 --payload",
        "foldline copy bank.db backup.db",
        "foldline tail bank.db --json",
        f"foldline sql bank.db {SQL}",
        "python -m domain order 536365 --version 1",
        'python -m domain search "white lantern"',
    ]
    assert commands(HOWTO + "query-from-another-process.md") == ["python -m domain watch"]
    assert commands(HOWTO + "operate-projections.md") == [
        "foldline projections list bank.db --watch",
        'foldline projections pause bank.db balances --reason "moving the disk"',
        "foldline projections parked bank.db balances --traceback",
        "foldline projections build bank.db bank_2:make balances",
    ]


async def test_the_commands_that_look_into_a_log_show_it(folder: Folder) -> None:
    page = commands(HOWTO + "time-travel.md")
    log, copy, tail, sql = (shlex.split(found) for found in page if found.startswith("foldline"))
    shown = folder.run(*log)
    assert (shown.returncode, '{"cents":500}' in shown.stdout) == (0, True)

    assert folder.run("python", "-m", *copy).returncode == 0
    assert (folder.path / "backup.db").is_file()

    asked = folder.run(*sql, "--csv")
    assert asked.stdout == "cents,event\n500,deposited\n"

    following = await asyncio.create_subprocess_exec(
        *[folder.installed.program, *tail[1:], "--after", "0"],
        cwd=folder.path,
        env=folder.installed.variables,
        stdout=asyncio.subprocess.PIPE,
    )
    assert following.stdout is not None
    async with asyncio.timeout(60):
        assert b'"account:a-1"' in await following.stdout.readline()
    following.terminate()
    assert await following.wait() == 0


NEXT_RELEASE = """
import bank
from bank import *

class Balances(Projection, name="balances", version=2):
    rows: Table[Balance]
    @projects
    def deposited(self, event: Deposited, meta: Meta) -> None:
        self.rows.put(Balance(meta.id, event.cents))

def make():
    return Engine([Account], projections=[Balances], store="sqlite:bank.db")
"""


def test_the_commands_that_see_to_projections_do(folder: Folder) -> None:
    folder.write("bank_2.py", NEXT_RELEASE)
    watch, *others = map(shlex.split, commands(HOWTO + "operate-projections.md"))
    with subprocess.Popen(
        [folder.installed.program, *watch[1:]],
        cwd=folder.path,
        env=folder.installed.variables,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(3)]
        process.terminate()
    assert (process.returncode, shown[1][:10], shown[2][:8]) == (0, "PROJECTION", "balances")
    for arguments in others:
        done = folder.run(*arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "shown"),
    [("order", "ORDER 536365, as it was at version 1"), ("search", "WHITE METAL LANTERN")],
)
def test_the_commands_that_look_into_the_shop_show_it(
    tmp_path: Path, name: str, shown: str
) -> None:
    page = commands(HOWTO + "time-travel.md")
    (command,) = (shlex.split(found)[1:] for found in page if f"domain {name}" in found)
    with gzip.open(SAMPLE, "rt") as sample:
        (tmp_path / "invoices.csv").write_text("".join(itertools.islice(sample, 8)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["-m", "domain", "invoices.csv"], command):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert shown in done.stdout


async def test_the_command_that_watches_the_shop_waits_for_it(tmp_path: Path) -> None:
    (command,) = (c.split()[1:] for c in commands(HOWTO + "query-from-another-process.md"))
    watching = await asyncio.create_subprocess_exec(
        *[sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert watching.stderr is not None
    async with asyncio.timeout(60):
        assert b"waiting: nobody has written sqlite:shop.db" in await watching.stderr.readline()
    watching.terminate()
    assert await watching.wait() == 0
