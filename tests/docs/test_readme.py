"""The README is short, and its program and its commands do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import smoke
from tests.support.documents import ROOT, Folder, commands, programs
from tests.support.installed import Installed

README = (ROOT / "README.md").read_text()
(PROGRAM,) = programs("README.md")


@pytest.fixture
def folder(tmp_path: Path, installed: Installed) -> Folder:
    """Give an empty folder of a user."""
    return Folder(tmp_path, installed)


def test_it_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_the_program_prints_what_it_says_each_time(folder: Folder) -> None:
    folder.write("bank.py", PROGRAM)
    printed = [folder.ran("bank.py") for _ in range(2)]

    assert printed == ["500 cents at version 1\n"] * 2
    assert f"It prints `{printed[0].strip()}`" in README
    shown = folder.run("foldline", "log", "bank.db", "--payload")
    assert (shown.returncode, '{"cents":500}' in shown.stdout) == (0, True)


def test_the_first_program_is_the_beginning_of_that_of_the_other_pages(folder: Folder) -> None:
    """The log that it has written is one that they go on with."""
    folder.write("bank.py", PROGRAM)
    folder.ran("bank.py")
    folder.write("bank.py", programs("docs/howto/bank.md")[0])

    assert folder.ran("bank.py") == "Balance(account_id='a-1', cents=500)\n"


def test_the_program_for_agents_runs(folder: Folder) -> None:
    (program,) = programs("docs/llms.txt")
    folder.write("bank.py", program)

    assert folder.ran("bank.py") == "500 1\n"


def test_its_commands_are_those_that_continuous_integration_runs() -> None:
    """Installing, the main job and the tests are what `.ci/run` is."""
    environment = ".venv/bin/"
    assert commands("README.md") == [
        f"python3 -m venv .venv && {environment}pip install ../foldline",
        f"{environment}pip install '../foldline[web,otel]'",
        f"{environment}pip wheel -q --no-deps -w dist ../foldline",
        f"python3 -m venv .venv && {environment}pip install -q . && {environment}python -m domain",
        f"{environment}pip install -q '.[test]' && {environment}python -m pytest",
        f"{environment}python -m pytest -m smoke",
    ]


def test_it_promises_no_package_index() -> None:
    assert re.findall(r"pip install (?:-q )?'?foldline", README) == []


def test_the_smoke_tests_are_files_that_exist() -> None:
    assert [name for name in smoke.FILES if not (ROOT / "tests" / name).is_file()] == []
