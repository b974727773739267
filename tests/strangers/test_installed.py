"""Foldline from its wheel, under the name that users import, beside their own `engine.py`.

Every program of the documents is run so too (`tests/docs/test_readme.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.installed import ROOT, USERS_OWN, Installed

PROGRAM = """\
import sys
from foldline import Aggregate, Command, Engine, Event, Id, applies, handles, run

class Add(Command):
    id: Id
class Added(Event, name="added", version=1):
    pass
class Counter(Aggregate, kind="counter"):
    @handles
    def add(self, command: Add) -> Added:
        return Added()
    @applies
    def added(self, event: Added) -> None: ...

async def main() -> None:
    async with Engine([Counter], store=sys.argv[1]) as engine:
        print((await engine.execute(Add("c-1"))).version)
run(main)
"""
CONFORMANCE = """\
from foldline.stores.memory import MemoryStore
from foldline.stores.sqlite.log.store import SqliteStore
from foldline.testing.conformance import StoreConformance

class Undamaged(StoreConformance):
    async def damage(self, store, position, field):
        raise NotImplementedError
class TestMemory(Undamaged):
    def new_store(self, folder):
        return MemoryStore()
    def same_log(self, store):
        return store
class TestSqlite(Undamaged):
    def new_store(self, folder):
        return SqliteStore(str(folder / "log.db"))
    def same_log(self, store):
        return SqliteStore(store.path)

async def test_the_plugin_makes_an_engine(make_engine):
    assert (await make_engine()).statistics().state == "running"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engine.py").write_text(USERS_OWN)
    (tmp_path / "counting.py").write_text(PROGRAM)
    return tmp_path


def test_the_wheel_has_one_package_and_every_file_of_it(installed: Installed) -> None:
    # What a page or a dashboard is made of goes with the code.
    files = {
        str(path.relative_to(ROOT / "engine"))
        for path in (ROOT / "engine").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(installed.wheel) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]

    assert {name.split("/")[0] for name in names} == {"foldline"}
    assert {name.removeprefix("foldline/") for name in names} == files


@pytest.mark.parametrize("options", ["", "?writer=process"])
def test_an_engine_runs_beside_a_users_own_module_of_that_name(
    installed: Installed, folder: Path, options: str
) -> None:
    done = installed.run(folder, "python", "counting.py", f"sqlite:log.db{options}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")

    shown = installed.run(folder, "python", "-m", "foldline", "log", "log.db", "--json")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 1)
    asked = installed.run(folder, "foldline", "sql", "log.db", "select max(version) from log")
    assert (asked.returncode, asked.stdout.split()[-1]) == (0, "1")


def test_a_copy_inside_another_package_is_served_by_its_own_writer(folder: Path) -> None:
    """Its name has dots, and no package called `engine` or `foldline` can be imported there."""
    shutil.copytree(ROOT / "engine", folder / "app" / "events")
    (folder / "counting.py").write_text(PROGRAM.replace("from foldline", "from app.events"))
    command = [sys.executable, "counting.py", "sqlite:log.db?writer=process"]
    variables = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_texts_name_the_program_that_is_installed(installed: Installed, folder: Path) -> None:
    usage = installed.run(folder, "foldline", "--help").stdout
    assert usage.startswith("usage: foldline [-h] [--version] COMMAND ...")
    assert installed.run(folder, "python", "-m", "foldline", "--help").stdout == usage
    helped = installed.run(folder, "foldline", "sql", "--help").stdout
    assert "\n  foldline sql shop.db --tables\n" in helped

    installed.run(folder, "python", "counting.py", "sqlite:log.db")
    (folder / "log.db-wal").write_bytes(b"no write-ahead log" * 100)
    refused = installed.run(folder, "python", "counting.py", "sqlite:log.db").stderr
    assert f"`foldline copy {folder / 'log.db'} NEW --damaged`" in refused
    assert "python -m" not in refused


@pytest.mark.slow
def test_the_stores_pass_the_conformance_suite_under_that_name(
    installed: Installed, folder: Path
) -> None:
    (folder / "test_stores.py").write_text(CONFORMANCE)
    (folder / "conftest.py").write_text('pytest_plugins = ["foldline.testing.pytest_plugin"]\n')
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", "."]
    done = installed.run(folder, "python", "-m", "pytest", *options, "-k", "not damage")

    assert done.returncode == 0, done.stdout
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 80
