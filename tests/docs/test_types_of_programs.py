"""The programs of the documents are fully typed, as their readers' are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import Reader
from tests.support.installed import Installed

DOCS = Path(__file__).parents[2] / "docs"
HOWTO = sorted(set((DOCS / "howto").glob("*.md")) - {DOCS / "howto" / "index.md"})
LENIENT = ("--allow-untyped-decorators", "--allow-subclassing-any", "--no-warn-return-any")
"""For libraries that have no types here, such as Django and Celery."""


def check(folder: Path, installed: Installed, cache: Path, *options: str) -> None:
    """Have mypy look at all programs of a folder."""
    (folder / "engine.py").unlink()
    programs = sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run(
        [
            *[sys.executable, "-m", "mypy", "--strict", "--python-executable", installed.python],
            *["--disable-error-code", "import-untyped", "--cache-dir", str(cache)],
            *[*options, *programs],
        ],
        cwd=folder,
        env=installed.variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_programs_of_the_tutorial_are_typed(tmp_path: Path, installed: Installed) -> None:
    (folder := tmp_path / "toolshed").mkdir()
    reader = Reader(folder, installed)
    for page in sorted((DOCS / "tutorial").glob("[1-9]-*.md")):
        reader.take(page)

    check(folder, installed, tmp_path / "cache")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give what mypy keeps of the libraries that pages have in common."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("page", HOWTO, ids=lambda page: page.stem)
def test_the_programs_of_a_how_to_page_are_typed(
    page: Path, tmp_path: Path, cache: Path, installed: Installed
) -> None:
    (folder := tmp_path / "toolshed").mkdir()
    reader = Reader(folder, installed)
    reader.take(HOWTO[0].with_name("bank.md"))
    reader.take(page)

    check(folder, installed, cache, *LENIENT)
