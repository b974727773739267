"""The shop live on a terminal: beside a real import, at every size, and where there is none."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from domain.model.orders import ShipOrder
from domain.shop import open_shop
from domain.terminal.screen import Screen, fit, plain
from domain.terminal.watch import lay_out_live, line_of
from domain.views.catalogue import Product
from domain.views.queries import Overview, PendingOrder
from tests.domain.goods import create, heart, lantern

ROOT = Path(__file__).parents[2]
WATCH = [sys.executable, "-m", "domain", "watch", "--store"]
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
SECONDS = 60


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/shop.db"


@pytest.fixture
def invoices(tmp_path: Path) -> Path:
    path = tmp_path / "invoices.csv"
    rows = "".join(f"{n},A,LAMP,{n},12/1/10 8:26,2.50,17850,France\n" for n in range(1, 40))
    path.write_text(HEADER + rows)
    return path


class Terminal:
    """A pseudo-terminal with `domain watch` in it, and the frame that it shows."""

    def __init__(self, columns: int, lines: int, *arguments: str) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        # A file, since nobody reads it before the end: a pipe that is full would hold the shop up.
        self._told = tempfile.TemporaryFile()  # noqa: SIM115
        # The first terminal that the leader of a session opens becomes its own, with its Ctrl-C.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$0" >"$0"', os.ttyname(self._slave), *WATCH, *arguments],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
            stderr=self._told,
            start_new_session=True,
        )
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    @property
    def frame(self) -> list[str]:
        """The lines that were drawn last, without what makes them bold."""
        last = self.seen.rpartition("\x1b[H")[2].partition("\x1b[J")[0]
        return re.split(r"\r+\n", re.sub(r"\x1b\[[0-9;]*[mK]", "", last))

    def until(self, shown: Callable[[list[str]], bool]) -> list[str]:
        deadline = time.monotonic() + SECONDS
        while not ("\x1b[J" in self.seen.rpartition("\x1b[H")[2] and shown(self.frame)):
            assert time.monotonic() < deadline, self.frame
            if not self._read():
                raise AssertionError(f"it ended: {self.seen[-500:]}")
        return self.frame

    def ended(self) -> tuple[int, str]:
        """Give its exit status, and what it wrote to the error stream."""
        while self._read():
            pass
        status = self.process.wait(SECONDS)
        self._told.seek(0)
        return status, self._told.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._told.close()
        if not self.seen:
            os.close(self._slave)
        os.close(self._master)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], SECONDS)[0]:
            return False
        try:
            read = os.read(self._master, 65_536)
        except OSError:
            return False
        if not self.seen:
            # It has opened the terminal by now, and is the only one whose end shall be its end.
            os.close(self._slave)
        self.seen += read.decode()
        return bool(read)


@contextmanager
def terminal(*arguments: str, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    made = Terminal(columns, lines, *arguments)
    try:
        yield made
    finally:
        made.close()


def import_into(store: str, invoices: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "domain", str(invoices), "--store", store],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0


def shows(*texts: str) -> Callable[[list[str]], bool]:
    return lambda frame: all(any(text in line for line in frame) for text in texts)


def test_it_waits_for_the_shop_and_shows_an_import_of_another_process(
    store: str, invoices: Path
) -> None:
    with terminal(store) as shown:
        shown.until(shows("waiting: nobody has written"))
        import_into(store, invoices)
        frame = shown.until(shows("nobody writes: this is how the shop was left", "1,950.00"))
        assert len(frame) == 24
        assert "0 orders wait to be shipped" in frame
        assert any(re.fullmatch(r"  A +LAMP +780 +1,950\.00", line) for line in frame)
        # Another page than the one with the commands, which is there again afterwards.
        assert shown.seen.startswith("\x1b[?1049h")
        shown.press(b"\x03")
        assert shown.ended() == (0, "")
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


async def test_it_shows_an_order_that_comes_and_goes_and_who_writes(store: str) -> None:
    async with open_shop(store) as engine:
        with terminal(store) as shown:

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
        with terminal(f"{store}.none") as shown:
            await until("waiting: nobody has written")


def test_a_terminal_may_change_its_size(store: str, invoices: Path) -> None:
    import_into(store, invoices)
    with terminal(store, columns=120, lines=30) as shown:
        wide = shown.until(shows("LAMP"))
        assert len(wide) == 30
        shown.resize(40, 9)
        narrow = shown.until(lambda frame: len(frame) == 9)
        assert max(map(len, narrow)) <= 40
        shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() == (0, "")
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_it_imports_by_itself_and_reports_at_the_end(store: str) -> None:
    with terminal(store, "--import") as shown:
        shown.until(shows("importing online-retail", " %", "REGENCY CAKESTAND 3 TIER"))
        status, told = shown.ended()
        assert (status, "28,445 rows" in told) == (0, True)
        report = shown.seen.rpartition("\x1b[?1049l")[2]
        assert report.startswith("SALES REPORT")
        assert "540,161.30" in report


def test_an_interrupted_import_of_its_own_says_how_to_go_on(store: str) -> None:
    with terminal(store, "--import") as shown:
        shown.until(shows("importing online-retail"))
        shown.press(b"\x03")
        status, told = shown.ended()
        assert (status, "stopped; run it again to go on" in told) == (130, True)
        assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_an_import_does_not_depend_on_who_reads_of_it(store: str, invoices: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*WATCH, store, "--import", str(invoices)], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, b"Traceback" in done.stderr) == (1, False)
    again = subprocess.run(
        [sys.executable, "-m", "domain", str(invoices), "--store", store],
        cwd=ROOT,
        capture_output=True,
    )
    assert b"nothing new" in again.stderr


def test_views_of_another_release_end_it_in_one_line(store: str, invoices: Path) -> None:
    import_into(store, invoices)
    with terminal(store) as shown:
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
    with subprocess.Popen(
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
    done = subprocess.run([*WATCH, "memory:"], cwd=ROOT, capture_output=True, text=True)

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
            Product(f"{n}", "A DESCRIPTION\x1b[31m THAT GOES ON AND ON", units_sold=9)
            for n in range(products)
        ],
    )


@pytest.mark.parametrize("columns", [10, 20, 43, 44, 63, 64, 80, 200])
@pytest.mark.parametrize("lines", [1, 3, 9, 24, 70])
@pytest.mark.parametrize("rows", [(0, 0), (30, 0), (0, 30), (30, 30), (3, 30)])
def test_a_frame_is_as_high_as_the_terminal_and_no_line_too_wide(
    columns: int, lines: int, rows: tuple[int, int]
) -> None:
    size = os.terminal_size((columns, lines))
    frame = lay_out_live("sqlite:shop.db", overview(*rows), "all is well", size)

    assert len(frame) == lines
    if columns >= 44:
        assert all(len(fit(plain(line), 500).rstrip()) <= columns for line in frame), frame


def test_a_short_table_leaves_its_room_to_the_other() -> None:
    size = os.terminal_size((80, 24))
    frame = lay_out_live("t", overview(2, 30), "s", size)

    assert sum("order-" in line for line in frame) == 2
    assert sum("DESCRIPTION" in line for line in frame) == 14


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("abc", 5, "abc  "),
        ("abcdef", 3, "abc"),
        ("日本語", 5, "日本 "),
        ("日本語", 6, "日本語"),
        ("e\u0301te", 3, "e\u0301te"),
    ],
)
def test_a_text_is_cut_by_the_columns_that_it_takes(text: str, width: int, fitted: str) -> None:
    assert fit(text, width) == fitted


def test_what_others_wrote_moves_no_cursor() -> None:
    line = line_of(overview(1, 1))

    assert "\x1b" in line
    assert "\x1b" not in plain(line)


class Stream(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_frame_that_has_not_changed_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream()
    with Screen(stream) as screen:
        screen.draw(["Shop", "  one"])
        written = len(stream.getvalue())
        screen.draw(["Shop", "  one"])
        assert len(stream.getvalue()) == written
        screen.draw(["Shop", "  two"])
        assert "\x1b[1mShop\x1b[m\x1b[K\r\n  two\x1b[K\x1b[J" in stream.getvalue()


def test_a_terminal_that_can_do_nothing_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert not Screen(Stream()).is_terminal
