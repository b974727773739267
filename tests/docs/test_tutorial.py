"""The tutorial, followed page by page in one folder that grows, as its reader does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Reader, blocks
from tests.support.installed import Installed

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
PAGES = sorted(TUTORIAL.glob("[1-9]-*.md"))


class Follower:
    """Follows pages in their order, each once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._left = iter(PAGES)
        self._done: dict[Path, str] = {}

    def follow(self, page: Path) -> str:
        """Follow all pages up to one; give that one as it should be."""
        while page not in self._done:
            this = next(self._left)
            self._done[this] = self._reader.follow(this)
        return self._done[page]


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory, installed: Installed) -> Follower:
    return Follower(Reader(tmp_path_factory.mktemp("toolshed"), installed))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_word_for_word_what_its_commands_print(page: Path, follower: Follower) -> None:
    assert follower.follow(page) == page.read_text()


def test_there_are_six_pages_and_each_leads_to_the_next() -> None:
    assert [page.name[0] for page in PAGES] == list("123456")
    for page, following in zip([TUTORIAL / "index.md", *PAGES], PAGES, strict=False):
        assert f"({following.name})" in page.read_text(), f"{page.name} leads nowhere"


def unnamed(page: Path) -> Iterator[str]:
    """Give the blocks that nobody would run."""
    for block in blocks(page.read_text()):
        if block.title is None and block.language not in ("console", "text"):
            yield block.text


def test_every_program_has_a_file_and_every_command_an_output() -> None:
    left = {page.name: list(unnamed(page)) for page in [TUTORIAL / "index.md", *PAGES]}

    (install,) = left.pop("index.md")
    assert re.findall(r"^(?:python3|pip|mkdir|cd|\.) ?.*$", install, re.MULTILINE)
    assert not any(left.values()), left
