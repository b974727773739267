"""What the commands show on a terminal, by rich: tables, a live screen, a bar; and elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from engine.cli.output import Output, terminal_of
from engine.cli.tables import Column, Table, numbers
from engine.cli.terminal import ROWS_MAX, Bar, Terminal
from tests.cli.filled import DONE, fill
from tests.support.processes import ROOT, release
from tests.support.terminals import shows, terminal

EVIL = "\x1b[2J\x9b31m\x07\r\n\u202e[red]a[/red] [link=http://x]b :skull:"
SHOWN = r"\x1b[2J\x9b31m\x07\r\n\u202e[red]a[/red] [link=http://x]b :skull:"
STYLE = re.compile(r"\x1b\[[0-9;]*m")
WITHOUT_RICH = (
    "import runpy, sys; sys.modules['rich'] = None; "
    "runpy.run_module('engine', run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


class Stream(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Give a terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    return Stream()


def show(stream: Stream, *parts: str | Table) -> None:
    with redirect_stdout(stream):
        Output(utf8=True).show(parts)


def hostile() -> Table:
    table = Table(Column(f"A{EVIL}"), Column("STATE", styles={"stopped": "red"}), *numbers(N=0))
    table.add("first", "stopped", "1", notes=[EVIL])
    table.add(EVIL, EVIL, "2")
    return table


# -- what others wrote --------------------------------------------------------------------------


def is_harmless(text: str) -> bool:
    """Tell whether nothing but a style stands in it, with every hostile text to be read."""
    told = STYLE.sub("", text)
    return told.replace("\n", "").isprintable() and SHOWN in re.sub(r"\s*\n\s*", "", told)


@pytest.mark.parametrize("columns", [300, 100, 30])
def test_a_table_obeys_nothing_that_others_wrote(
    columns: int, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show(stream, EVIL, hostile())

    text = stream.getvalue()
    assert is_harmless(text) or columns == 30
    assert STYLE.sub("", text).replace("\n", "").isprintable()
    assert "\x1b[31mstopped" in text
    assert all(len(line) <= columns for line in STYLE.sub("", text).splitlines()[1:])


def test_a_frame_obeys_nothing_that_others_wrote(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with redirect_stdout(stream), Output(utf8=True).frames() as draw:
        draw([EVIL, f"  {EVIL}", hostile()])

    drawn = stream.getvalue().rpartition("\x1b[H")[2].partition("\x1b[?25h")[0]
    assert is_harmless(drawn)
    assert len(drawn.splitlines()) == 24


def test_a_bar_obeys_nothing_that_others_wrote(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bar = Terminal(stream).bar("built")
    assert isinstance(bar, Bar)
    bar.show(1, 2, EVIL)
    bar.end()

    assert SHOWN in stream.getvalue()
    assert "\x07" not in stream.getvalue()


# -- tables --------------------------------------------------------------------------------------


def rows_of(*cells: str, columns: int = 6) -> Table:
    table = Table(*[Column(f"COLUMN{n}", number=n % 2 == 1) for n in range(columns)])
    table.add(*cells * columns)
    return table


def test_what_is_too_wide_for_a_terminal_is_shown_row_by_row(stream: Stream) -> None:
    show(stream, rows_of("x" * 30))

    lines = [line.rstrip() for line in STYLE.sub("", stream.getvalue()).splitlines()]
    assert lines == [*[f"COLUMN{n}  {'x' * 30}" for n in range(6)], ""]


def test_what_can_be_folded_at_its_words_stays_a_table(stream: Stream) -> None:
    show(stream, rows_of("a few more words of a text", columns=3))

    assert STYLE.sub("", stream.getvalue()).splitlines()[0].split() == [
        f"COLUMN{n}" for n in range(3)
    ]
    assert all(len(line) <= 80 for line in STYLE.sub("", stream.getvalue()).splitlines())


def test_a_long_table_is_plain_since_it_would_take_long(stream: Stream) -> None:
    table = Table(Column("A"), Column("B"))
    for number in range(ROWS_MAX + 1):
        table.add(str(number), "x" * 100)
    show(stream, table)

    assert stream.getvalue().splitlines() == [table.heading(), *table.lines()]


def test_no_color_is_kept(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    show(stream, hostile())

    assert "stopped" in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()


def test_what_is_no_terminal_gets_no_colour_even_where_that_is_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    output = Output(utf8=True)
    with output.frames() as show:
        show([hostile()])
    output.show([hostile()])

    lines = "".join(f"{line}\n" for line in (hostile().heading(), *hostile().lines()))
    assert capsys.readouterr().out == f"\n{lines}{lines}"


def test_a_terminal_that_can_do_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert terminal_of(Stream()) is None


def test_rich_is_imported_for_a_terminal_only(path: Path) -> None:
    fill(path, "a")
    commands = [["log", path], ["sql", path, "select 1"], ["projections", "list", path]]
    program = (
        "import sys; from engine.__main__ import main\n"
        f"for command in {[[str(part) for part in command] for command in commands]}:\n"
        "    assert main(command) == 0\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'rich'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


# -- real terminals ------------------------------------------------------------------------------


def test_a_list_that_is_watched_is_drawn_in_place_until_it_is_stopped(path: Path) -> None:
    with release(path, "stopping") as engine:
        engine.told("add", "a")
        command = ("-m", "engine", "projections", "list", str(path), "--watch")
        with terminal(*command, columns=100, lines=10) as shown:
            assert shown.seen == ""
            shown.until(shows("PROJECTION", "sums", "live"))
            engine.told("add", "a", "a")
            frame = shown.until(lambda frame: re.match(r"sums +1 +live +3 ", frame[1]) is not None)
            assert [line for line in frame if line] == frame[:2]
            shown.resize(40, 24)
            shown.until(shows("POSITION    3"))
            shown.press(b"\x03")
            assert shown.ended() == (DONE, "")
        engine.end()

    assert shown.seen.startswith("\x1b[?1049h")
    assert shown.seen.endswith("\x1b[?25h\x1b[?1049l")


def test_a_build_shows_a_bar_and_how_it_ends(path: Path) -> None:
    fill(path, *"ab" * 20)
    command = (
        "-m",
        "engine",
        "projections",
        "build",
        str(path),
        "tests.support.sums:tenfold",
        "sums",
    )
    with terminal(*command, columns=100, errors=True) as shown:
        assert shown.ended()[0] == DONE

    assert re.search(r"built ━+ 100 % build 2 at 40, 0 events to go", shown.text)
    assert shown.text.endswith("start the new release, which swaps it in\n")


def test_without_rich_a_terminal_gets_the_plain_text(path: Path) -> None:
    fill(path, "a", "b")
    arguments = ("sql", str(path), "select stream, version from log")
    with terminal("-c", WITHOUT_RICH, *arguments) as shown:
        assert shown.ended() == (DONE, "")

    assert shown.seen.split("\r\n") == [
        "STREAM     VERSION",
        "counter:a        1",
        "counter:b        1",
        "",
    ]


def test_without_rich_a_list_is_watched_below_what_was(path: Path) -> None:
    fill(path, "a")
    with terminal("-c", WITHOUT_RICH, "projections", "list", str(path), "--watch") as shown:
        shown.until_written("PARKED\r\nsums")
        shown.until_written("\r\n\r\nPROJECTION")
        shown.press(b"\x03")
        status, told = shown.ended()

    assert (status, "\x1b" in shown.seen) == (DONE, False)
    assert "to draw a screen takes rich (the extra `cli`" in told
