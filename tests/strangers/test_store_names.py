"""What names a store is read strictly: no slip of the pen opens a new and empty log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from engine import Archive, DefinitionError, Engine, Onlooker
from engine.runtime.ports import Ports
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.stores.urls import StoreName, open_backend, open_store, open_url
from tests.support import warm
from tests.support.counters import Add, Counter

UNKNOWN_OPTIONS = [
    "?writer=Process",
    "?writer",
    "?writer=",
    "?Writer=thread",
    "?readonly=1",
    "?cache=shared&writer=thread",
    "?writer=thread&writer=thread",
    "?writer=process#",
    "??writer=process",
    "?",
    "?writer=process ",
]
SLIPS = [
    "sqlite:\tshop.db",
    "sqlite:shop.db\r\n",
    "sqlite:shop.db\u00a0",
    "sqlite:data/ shop.db",
    'sqlite:"shop.db"',
    "sqlite:shop.db`",
    "sqlite:\ufeffshop.db",
    "sqlite:sh\x00op.db",
    "sqlite:sh\u200bop.db",
    "sqlite:shop\u00ad.db",
    "sqlite:sh\u2066op.db",
    "sqlite:shop.db\u2028",
    "sqlite:sqlite:shop.db",
    "sqlite:FILE:shop.db",
    "sqlite://shop.db",
    "sqlite://localhost/shop.db",
    "sqlite:///shop.db",
    "sqlite:shop.db&writer=process",
    "sqlite:shop.db;writer=process",
    "sqlite:shop.db/",
    "sqlite:data/..",
    "sqlite:shop%2Edb",
]


@pytest.mark.parametrize("url", [f"sqlite:shop.db{option}" for option in UNKNOWN_OPTIONS])
def test_an_unknown_option_is_refused_and_the_one_there_is_is_named(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"\?writer=process") as refused:
        open_url(url)
    assert "Nothing was made" in str(refused.value)


@pytest.mark.parametrize(
    "name", ["\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645.db", "my shop.db", "café.db"]
)
def test_a_name_of_any_language_is_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store: Any = open_url(f"sqlite:{name}")
    assert store.path == str(tmp_path / name)


@pytest.mark.parametrize("url", SLIPS)
def test_a_slip_is_refused_wherever_a_store_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for make in (
        lambda: Engine([Counter], store=url),
        lambda: Archive([Counter], store=url),
        lambda: Onlooker(projections=[], answers=[], store=url),
    ):
        with pytest.raises(DefinitionError):
            make()
    assert list(tmp_path.iterdir()) == []


def test_three_slashes_are_refused_where_they_could_mean_a_file_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_backend("sqlite:///data/shop.db").name == "/data/shop.db"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shop.db").touch()
    with pytest.raises(DefinitionError, match='"sqlite:data/shop.db"'):
        open_backend("sqlite:///data/shop.db")


@pytest.mark.parametrize("begin", ["sqlite:", "sqlite://", "sqlite:///"])
def test_an_absolute_path_is_the_same_in_all_its_spellings(tmp_path: Path, begin: str) -> None:
    assert open_backend(f"{begin}{tmp_path}/a b.db").name == f"{tmp_path}/a b.db"


@pytest.mark.parametrize(
    "name", ["my shop.db", "shöp.db", "50%.db", "a=b.db", "#1.db", "R&D.db", "shop", ".shop"]
)
def test_a_name_that_people_give_their_files_is_taken(tmp_path: Path, name: str) -> None:
    for store in (f"sqlite:{tmp_path}/{name}", tmp_path / name):
        assert open_backend(store).name == f"{tmp_path}/{name}"


async def test_a_path_is_a_store(tmp_path: Path) -> None:
    class Place(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "shop.db")

    names: list[StoreName] = [tmp_path / "shop.db", Place(), f"sqlite:{tmp_path}/shop.db"]
    for count, store in enumerate(names):
        async with Engine([Counter], store=store) as engine:
            assert (await engine.execute(Add("a", 1))).version == count + 1


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"shop.db"


@pytest.mark.parametrize(
    ("store", "told"),
    [
        (Path(), "names no file"),
        (PurePosixPath("/"), "names no file"),
        (Path("shop.db?writer=process"), "a path has no options"),
        (Path("shop.db\n"), "line end"),
        (BytesPath(), "is text"),
        (None, "here it is None"),
        (b"sqlite:shop.db", "a bytes"),
        (SqliteStore, "the class SqliteStore"),
        (object(), "a object"),
        (0, "a int"),
        ("", "none that this release knows"),
        (" ", "none that this release knows"),
        ("shop.db", 'write "sqlite:PATH"'),
    ],
)
def test_what_names_no_store_is_told_what_does(store: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        Engine([Counter], store=store)


def test_a_password_in_a_url_of_something_else_is_not_told() -> None:
    with pytest.raises(DefinitionError) as refused:
        open_url("mysql://me:se@cret@host/shop")
    assert "cret" not in str(refused.value)


def test_stores_are_taken_as_they_are() -> None:
    for store in (MemoryStore(), SqliteStore("shop.db"), SqliteProcessStore("shop.db")):
        assert open_store(store) is store
    with pytest.raises(DefinitionError, match="no file"):
        open_backend("memory:").outside(Ports())


def test_a_command_takes_the_url_too_and_reads_it_as_strictly(tmp_path: Path) -> None:
    def ask(file: str) -> subprocess.CompletedProcess[str]:
        return warm.run(
            [sys.executable, "-m", "engine", "log", file],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

    absent = ask("sqlite:shop.db?writer=process")
    assert f"there is no log {tmp_path / 'shop.db'}" in absent.stderr
    wrong = ask("sqlite:shop.db?writer=proces")
    assert "?writer=process" in wrong.stderr
    assert (absent.returncode, wrong.returncode) == (1, 2)
