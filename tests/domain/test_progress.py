"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest

from domain.terminal.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)


def shown(stream: io.StringIO) -> str:
    progress = Progress("imported", stream)
    for done in range(201):
        progress.show(done, 200)
    progress.end()
    return stream.getvalue()


def test_a_terminal_has_one_line_that_is_drawn_again() -> None:
    text = shown(Terminal())

    assert text.count("imported") == 102  # each percentage, and once more at the end
    assert text.count("\n") == 1
    assert re.search(r"imported .*━━━━.* 100 % +\n\x1b\[\?25h$", text)


def test_a_terminal_that_can_do_nothing_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert shown(Terminal()) == shown(io.StringIO())


def test_elsewhere_a_line_is_written_for_each_tenth() -> None:
    assert shown(io.StringIO()).splitlines() == [f"imported {n} %" for n in range(0, 101, 10)]


def test_nothing_to_do_is_all_done() -> None:
    stream = io.StringIO()
    Progress("imported", stream).show(0, 0)

    assert stream.getvalue() == "imported 100 %\n"


def test_what_was_never_shown_leaves_no_line() -> None:
    stream = Terminal()
    Progress("imported", stream).end()

    assert stream.getvalue() == ""
