"""Each how-to page is followed as a reader does, and says word for word what its commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import Reader, blocks
from tests.support.installed import Installed

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = sorted(set(HOWTO.glob("*.md")) - {HOWTO / "index.md"})
SHOWN: set[str] = {"ini", "js", "py", "sh", "sql", "text"}
"""Languages of blocks that are looked at, and not run."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_word_for_word_what_its_commands_print(
    page: Path, tmp_path: Path, installed: Installed
) -> None:
    reader = Reader(tmp_path, installed)
    reader.take(HOWTO / "bank.md")

    assert reader.follow(page) == page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_program_of_a_page_has_a_name_and_is_run(page: Path) -> None:
    found = list(blocks(page.read_text()))
    typed = "".join(block.text for block in found if block.language == "console")
    written = "".join(block.text for block in found)
    imported = set(re.findall(r"^from (\w+) import", written, re.MULTILINE))

    unnamed = [block for block in found if block.title is None]
    assert [block for block in unnamed if block.language not in {"console", *SHOWN}] == []
    for block in found:
        name, _, kind = (block.title or "").rpartition(".")
        if kind != "py":
            continue
        is_test = name.startswith("test_") and "pytest" in typed
        assert is_test or name in imported or re.search(rf"\b{name}\b", typed), block.title
