"""The page about the shop's demo: what it shows is what the commands print, and small pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from domain.__main__ import main
from domain.terminal.arguments import read_arguments
from tests.browser.screenshots import PICTURES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "howto" / "shop-demo.md").read_text()


def test_the_account_on_the_page_is_what_the_import_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = PAGE[PAGE.index("28,445 rows, 1,274 invoices, 3,104") :].partition("```")[0]

    assert main(["--store", f"sqlite:{tmp_path}/shop.db"]) == 0
    assert shown in capsys.readouterr().err


def test_every_command_on_the_page_is_one() -> None:
    commands = re.findall(r"python -m domain ((?:[a-z]+) [^`\n]+)`", PAGE)

    assert {command.split()[0] for command in commands} == {"order", "search", "watch", "expand"}
    for command in commands:
        read_arguments([word.strip('"') for word in re.findall(r'"[^"]+"|\S+', command)])


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_there_and_small(name: str) -> None:
    assert f"(../images/{name})" in PAGE
    assert 10_000 < (DOCS / "images" / name).stat().st_size < 200_000
