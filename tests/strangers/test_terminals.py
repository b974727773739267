"""What others wrote, on the terminal of who looks: it moves no cursor and makes no line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from domain.model.lines import Buyer, Line
from domain.model.orders import CancelOrder, CancelReason, CreateOrder
from domain.shop import open_shop
from engine.__main__ import main as engine_main
from engine.cli.printing import PlainStream, escaped, plain, plain_lines, spreadsheet_cell
from tests.support import warm

ROOT = Path(__file__).parents[2]
EVIL = "\x1b[2J\x9b31m\x07\x08\r\u202e\u2028\u2066x\u200b"
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


@pytest.mark.parametrize("shown", [plain, escaped])
def test_a_text_becomes_one_line_that_can_be_seen(shown: object) -> None:
    assert callable(shown)
    for text in (EVIL, f"a\nb{EVIL}\tc", "\udc9b\ue000\ufeff\x00\x85"):
        assert shown(text).isprintable()
    assert shown("Zoë 🏮 red, 1.50 é") == "Zoë 🏮 red, 1.50 é"


def test_nothing_is_left_out_in_silence() -> None:
    assert plain("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec"
    assert json.loads(escaped(json.dumps(EVIL, ensure_ascii=False))) == EVIL
    assert plain_lines(f"a\n\tb{EVIL}\n").count("\n") == 2
    assert "\r" not in plain_lines("all is well\rerror")


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1+1", "-1+1", "@SUM(A1)", " =1+1", "\t=1", "\uff1d1+1", "-2+3+cmd|' /C calc'!A0"],
)
def test_no_cell_is_a_formula(text: str) -> None:
    assert spreadsheet_cell(text).startswith("'")


@pytest.mark.parametrize("text", ["", "-5", "+1.50", "-1e3", "1=1", "a@b", "85123A", "'=1"])
def test_a_cell_that_is_none_stays(text: str) -> None:
    assert spreadsheet_cell(text) == text


def test_whatever_is_written_to_an_error_stream_is_plain() -> None:
    raw = io.StringIO()
    stream = PlainStream(raw)
    print(EVIL, file=stream)
    stream.writelines(["a\n", EVIL])
    stream.flush()
    assert not stream.isatty()
    assert raw.getvalue().replace("\n", "").isprintable()


async def write_into_shop(store: str) -> None:
    buyer = Buyer(f"UK\n  Atlantis   9{EVIL}", f"17{EVIL}")
    line = Line(f"=1+1{EVIL}", f"LAMP{EVIL}", 2, 100)
    async with open_shop(store) as shop:
        await shop.execute(
            CreateOrder("7", buyer, "2011-01-02T10:00:00", (line,)),
            key=f"k{EVIL}",
            principal=f"ann{EVIL}",
            correlation=f"c{EVIL}",
            headers={"note": EVIL},
        )
        await shop.execute(CancelOrder("7", CancelReason.OTHER, EVIL))
        receipt = await shop.execute(CreateOrder("8", buyer, "2011-01-02T10:00:00", (line,)))
        while shop.statistics().projectors["sales"].position < receipt.position:
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shop")
    asyncio.run(write_into_shop(f"sqlite:{made}/shop.db"))
    (made / "none.csv").write_text(HEADER)
    rows = f"9{EVIL},1,L,1,1/2/11 8:00,1,,UK\n\x1b]0;x\x07,,,\n"
    (made / "evil.csv").write_text(HEADER + rows, newline="")
    return made


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return warm.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        timeout=60,
    )


SQL = "select * from log"
ALL = (
    'select country, 1 as "=a\x1b" from sales_countries '
    "union select description, 2 from catalogue_products"
)
COMMANDS: Sequence[Sequence[str]] = [
    ["domain", "none.csv", "--store", "sqlite:shop.db"],
    ["domain", "evil.csv", "--store", "sqlite:other.db"],
    ["domain", "order", "7", "--store", "sqlite:shop.db"],
    ["domain", "search", "lamp", "--store", "sqlite:shop.db"],
    ["domain", "order", f"x{EVIL}", "--store", "sqlite:shop.db"],
    ["domain", f"no{EVIL}.csv"],
    ["domain", f"no{EVIL}"],
    ["domain", "--store", f"sqlite:/no/{EVIL}/x.db", "none.csv"],
    ["engine", "log", "shop.db", "--payload"],
    ["engine", "log", "shop.db", "--payload", "--json"],
    ["engine", "log", f"{EVIL}.db"],
    ["engine", "log", "shop.db", "--after", EVIL],
    ["engine", f"log{EVIL}"],
    ["engine", "sql", "shop.db", SQL],
    ["engine", "sql", "shop.db", SQL, "--json"],
    ["engine", "sql", "shop.db", ALL],
    ["engine", "sql", "shop.db", ALL, "--csv"],
    ["engine", "sql", "shop.db", f"select '{EVIL}' from"],
    ["engine", "projections", "list", "shop.db", "--traceback"],
    ["engine", "projections", "pause", "shop.db", f"no{EVIL}"],
    ["engine", "projections", "pause", "shop.db", "sales", "--reason", EVIL],
    ["engine", "projections", "decisions", "shop.db"],
    ["engine", "schema", "check", f"no{EVIL}:x", "--log", "shop.db"],
]


def name(command: Sequence[str]) -> str:
    return " ".join(command)[:40].encode("unicode_escape").decode()


@pytest.mark.parametrize("command", COMMANDS, ids=map(name, COMMANDS))
def test_no_command_moves_a_cursor(folder: Path, command: Sequence[str]) -> None:
    done = run(folder, *command)

    for text in (done.stdout.decode(), done.stderr.decode()):
        assert text.replace("\n", "").isprintable(), text
        # In CSV a cell has its lines between its quotes.
        assert "--csv" in command or "\n  Atlantis" not in text
    assert done.stdout or done.stderr
    assert b"Traceback" not in done.stderr


def test_the_report_has_one_line_for_a_country(folder: Path) -> None:
    told = run(folder, "domain", "none.csv", "--store", "sqlite:shop.db").stdout.decode()

    assert [line for line in told.splitlines() if "Atlantis" in line] == [
        line for line in told.splitlines() if line.startswith("  UK")
    ]


def test_csv_of_what_others_wrote_is_calculated_by_nobody(folder: Path) -> None:
    sql = "select product, units_sold from catalogue_products"
    told = run(folder, "engine", "sql", "shop.db", sql, "--csv").stdout.decode()

    [_, [product, sold]] = csv.reader(io.StringIO(told))
    assert product == "'" + plain(f"=1+1{EVIL}")
    assert sold == "2"


def test_a_traceback_moves_no_cursor_either(folder: Path) -> None:
    (folder / "broken.py").write_text(f"raise RuntimeError({EVIL!r} + '\\x1b]0;owned\\x07')\n")
    done = run(folder, "engine", "schema", "check", "broken:app", "--log", "shop.db")

    told = done.stderr.decode()
    assert "RuntimeError" in told
    assert told.replace("\n", "").isprintable()
    assert done.returncode != 0


def test_an_error_is_one_line_also_where_no_process_is_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engine_main(["log", f"{tmp_path}/{EVIL}\nall is well"]) == 1
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told[:-1].isprintable()
