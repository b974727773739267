"""The shop live on a terminal: beside a real import, at every size, and where there is none."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, closing
from pathlib import Path

import apsw
import pytest
from rich.cells import cell_len

from domain.model.orders import ShipOrder
from domain.shop import open_shop
from domain.terminal.watch import lay_out_live
from domain.views.catalogue import Product
from domain.views.queries import Overview, PendingOrder
from engine.cli.tables import Table
from engine.cli.terminal import Terminal as ScreenTerminal
from tests.domain.goods import create, heart, lantern
from tests.support import warm
from tests.support.processes import ROOT, SECONDS
from tests.support.terminals import Terminal, shows, terminal

COMMAND = ["-m", "domain", "watch", "--store"]
WATCH = [sys.executable, *COMMAND]
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/shop.db"


@pytest.fixture
def invoices(tmp_path: Path) -> Path:
    path = tmp_path / "invoices.csv"
    rows = "".join(f"{n},A,LAMP,{n},12/1/10 8:26,2.50,17850,France\n" for n in range(1, 40))
    path.write_text(HEADER + rows)
    return path


def watching(
    store: str, *arguments: str, columns: int = 80, lines: int = 24
) -> AbstractContextManager[Terminal]:
    return terminal(*COMMAND, store, *arguments, columns=columns, lines=lines)


def import_into(store: str, invoices: Path) -> None:
    done = warm.run(
        [sys.executable, "-m", "domain", str(invoices), "--store", store],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0


def test_it_waits_for_the_shop_and_shows_an_import_of_another_process(
    store: str, invoices: Path
) -> None:
    with watching(store) as shown:
        shown.until(shows("waiting: nobody has written"))
        import_into(store, invoices)
        frame = shown.until(shows("nobody writes: this is how the shop was left", "1,950.00"))
        assert any(line.startswith("0 orders wait to be shipped") for line in frame)
        assert any(re.fullmatch(r"  A +LAMP +780 +1,950\.00", line) for line in frame)
        # Another page than the one with the commands, which is there again afterwards.
        assert shown.seen.startswith("\x1b[?1049h")
        shown.press(b"\x03")
        assert shown.ended() == (0, "")
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


async def test_it_shows_an_order_that_comes_and_goes_and_who_writes(store: str) -> None:
    async with open_shop(store) as engine:
        with watching(store) as shown:

            async def until(*texts: str) -> list[str]:
                return await asyncio.to_thread(shown.until, shows(*texts))

            await until(f"process {os.getpid()} has the shop open", "0 orders wait to be shipped")
            await engine.execute(create("o-1", lantern(6), heart(2)))
            frame = await until("1 order waits to be shipped", "LANTERN")
            assert any(
                re.fullmatch(r"  o-1 +France +2010-12-01 08:26 +25\.44", line) for line in frame
            )
            await engine.execute(ShipOrder("o-1"))
            await until("0 orders wait to be shipped")
        with watching(f"{store}.none") as shown:
            await until("waiting: nobody has written")


def test_a_terminal_may_change_its_size(store: str, invoices: Path) -> None:
    import_into(store, invoices)
    with watching(store, columns=120, lines=30) as shown:
        wide = shown.until(shows("LAMP"))
        assert any("sold" in line for line in wide)
        shown.resize(40, 9)
        narrow = shown.until(shows("Best sellers"))
        assert not any("sold" in line for line in narrow)
        shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() == (0, "")
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_it_imports_by_itself_and_reports_at_the_end(store: str) -> None:
    with watching(store, "--import") as shown:
        shown.until(shows("importing online-retail", " %", "REGENCY CAKESTAND 3 TIER"))
        status, told = shown.ended()
        assert (status, "28,445 rows" in told) == (0, True)
        report = shown.seen.rpartition("\x1b[?1049l")[2]
        assert report.startswith("SALES REPORT")
        assert "540,161.30" in report


def test_an_interrupted_import_of_its_own_says_how_to_go_on(store: str) -> None:
    with watching(store, "--import") as shown:
        shown.until(shows("importing online-retail"))
        shown.press(b"\x03")
        status, told = shown.ended()
        assert (status, "stopped; run it again to go on" in told) == (130, True)
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_an_import_does_not_depend_on_who_reads_of_it(store: str, invoices: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = warm.run(
        [*WATCH, store, "--import", str(invoices)], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    again = warm.run(
        [sys.executable, "-m", "domain", str(invoices), "--store", store],
        cwd=ROOT,
        capture_output=True,
    )
    assert b"nothing new" in again.stderr


def test_views_of_another_release_end_it_in_one_line(store: str, invoices: Path) -> None:
    import_into(store, invoices)
    with watching(store) as shown:
        shown.until(shows("LAMP"))
        with closing(
            apsw.Connection(store.removeprefix("sqlite:").replace(".db", ".views.db"))
        ) as c:
            c.execute("update builds set version = 99 where projection = 'orders'").fetchall()
        status, told = shown.ended()
        assert status == 1
        assert re.fullmatch(r"error: the views of projection 'orders' .* version 99, .*\n", told)
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_a_pipe_gets_a_line_for_what_has_changed_until_its_reader_has_gone(
    store: str, invoices: Path
) -> None:
    with warm.Warm(
        [*WATCH, store], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert "waiting: nobody has written" in watch.stderr.readline()
        import_into(store, invoices)
        while (line := watch.stdout.readline()) != "0 pending | best seller A LAMP 1,950.00\n":
            assert " pending" in line
        while "nobody writes" not in (told := watch.stderr.readline()):
            assert told
        watch.stdout.close()
        assert watch.wait(SECONDS) == 0
        assert watch.stderr.read() == ""


def test_a_store_that_cannot_be_watched_is_told_in_one_line() -> None:
    done = warm.run([*WATCH, "memory:"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 1
    assert re.fullmatch(r"error: .*no file that another process could read.*\n", done.stderr)


# -- the lines ------------------------------------------------------------------------------


def overview(orders: int, products: int) -> Overview:
    return Overview(
        1_234_567,
        [
            PendingOrder(
                f"order-{n}-with-a-long-id", "Côte d'Ivoire 日本", "2010-12-01T08:26:00", n
            )
            for n in range(orders)
        ],
        [
            Product(
                f"{n}", "A DESCRIPTION\x1b[31m [red]THAT[/] :skull: GOES ON AND ON", units_sold=9
            )
            for n in range(products)
        ],
    )


@pytest.mark.parametrize("lines", [1, 3, 9, 24, 70])
@pytest.mark.parametrize("rows", [(0, 0), (30, 0), (0, 30), (30, 30), (3, 30)])
def test_a_frame_is_no_higher_than_a_terminal_with_room_for_tables(
    lines: int, rows: tuple[int, int]
) -> None:
    frame = list(lay_out_live("sqlite:shop.db", overview(*rows), "all is well", 80, lines))

    heights = [1 + len(part.rows) if isinstance(part, Table) else 1 for part in frame]
    assert sum(heights) == (min(max(lines, 6), 6 + sum(rows)))


def test_a_short_table_leaves_its_room_to_the_other() -> None:
    frame = list(lay_out_live("t", overview(2, 30), "s", 80, 24))

    assert [len(part.rows) for part in frame if isinstance(part, Table)] == [2, 16]


@pytest.mark.parametrize("columns", [12, 20, 43, 44, 63, 64, 80, 200])
def test_a_screen_of_any_size_shows_what_others_wrote_and_obeys_none_of_it(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "12")
    stream = io.StringIO()
    with ScreenTerminal(stream).frames() as draw:
        draw(lay_out_live("sqlite:shop.db", overview(30, 30), "all is well", columns, 12))

    drawn = stream.getvalue().rpartition("\x1b[H")[2].partition("\x1b[?25h")[0]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn).split("\n")
    assert [cell_len(line) for line in lines] == [columns] * 12
    assert all(line.isprintable() for line in lines)
    assert columns < 20 or any("Best" in line for line in lines)
    assert columns < 200 or any("\\x1b[31m [red]THAT[/] :skull:" in line for line in lines)


def test_without_rich_a_terminal_gets_lines(store: str, invoices: Path) -> None:
    import_into(store, invoices)
    without = (
        "import runpy, sys; sys.modules['rich'] = None; "
        "runpy.run_module('domain', run_name='__main__', alter_sys=True)"
    )
    with terminal("-c", without, "watch", "--store", store) as shown:
        shown.until_written("best seller A LAMP 1,950.00\r\n")
        shown.press(b"\x03")
        status, told = shown.ended()

    assert (status, shown.seen.count("\x1b")) == (0, 0)
    assert "nobody writes" in told
