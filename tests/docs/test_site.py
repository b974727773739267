"""The site is built without a warning, has no dead link, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

import engine
from docs.generate import api, navigation

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
LOADED: Final = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "srcset"}
"""Attributes by which a page loads something. A link that a reader follows is none."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the built site; broken links and anchors are errors of the build."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if LOADED.get(tag) == name]


def _loads(page: Path) -> list[str]:
    loads = _Loads()
    loads.feed(page.read_text())
    return [found.partition("?")[0] for found in loads.found]


def _is_there(site: Path, page: Path, where: str) -> bool:
    """Tell whether a file is there; the page of errors names them from the root."""
    base = site if where.startswith("/") else page.parent
    return where.startswith("data:") or (base / where.lstrip("/").partition("#")[0]).exists()


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    loads = {page: _loads(page) for page in pages}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))

    found = [(page, where) for page in pages for where in loads[page]]
    assert [where for _, where in found if re.match(r"(?:https?:)?//", where)] == []
    assert [(p, where) for p, where in found if not _is_there(site, p, where)] == []
    assert re.findall(r"@import|url\([\"']?(?:https?:)?//", styles) == []


def test_llms_txt_is_served_and_its_links_lead_somewhere(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    links = re.findall(r"^- \[[^]]+\]\(([^)]+)\): ", text, re.MULTILINE)

    assert text.startswith("# Foldline\n\n> ")
    assert links
    assert [link for link in links if not (site / link).is_file()] == []


def test_every_public_name_is_explained_on_the_site_as_foldline(site: Path) -> None:
    shown = "".join(path.read_text() for path in (site / "reference" / "api").glob("*.html"))
    anchors = set(re.findall(r'id="(foldline\.\w+)"', shown))

    assert [name for name in engine.__all__ if f"foldline.{name}" not in anchors] == []
    assert 'id="engine.' not in shown


def test_the_groups_of_the_api_are_all_of_what_is_public() -> None:
    assert [name for _, names in api.groups(ROOT / "engine") for name in names] == engine.__all__


def test_the_navigation_is_what_the_index_of_a_folder_lists() -> None:
    index = (
        "# How-to\n\n- [A](a.md): one.\n\n## Empty\n\n## More\n\n- [B](b/c.md)\n- [C](../c.md)\n"
    )

    assert navigation.entries("howto/", index) == [
        "howto/index.md",
        {"A": "howto/a.md"},
        {"More": [{"B": "howto/b/c.md"}, {"C": "c.md"}]},
    ]


@pytest.mark.parametrize("folder", ["tutorial", "howto", "reference", "explanation"])
def test_the_index_of_a_folder_lists_each_page_once(folder: str) -> None:
    index = (DOCS / folder / "index.md").read_text()
    listed = re.findall(r"^- \[[^]]+\]\(([^)/]+\.md)\)", index, re.MULTILINE)
    pages = {path.name for path in (DOCS / folder).glob("*.md")} - {"index.md"}

    assert [name for name in pages if listed.count(name) != 1] == []
