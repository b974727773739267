"""What others rightly do beside a log stops nothing: links as a backup, rights, their own tables.

A store that refuses to open, or ends, although nothing is wrong is as bad as a loss.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from engine import Engine, Onlooker, StoreFailed, StoreRefused, Voided
from engine.runtime.ports import Ports
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.files import FileId, SystemFiles
from engine.stores.sqlite.log.damage import Wal, check_pages
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import append, feed, numbers, request
from tests.strangers.writing import Fills, Put, engine_on
from tests.support.counters import Add, Counter

# -- a backup by links ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.db", "shop", "a.b.shop.db", "shop.views.db"])
async def test_a_backup_by_links_stops_neither_the_log_nor_its_views(
    tmp_path: Path, name: str
) -> None:
    """The whole folder is linked while the engine runs, and once more at rest."""
    live = tmp_path / "live"
    live.mkdir()
    url = f"sqlite:{live / name}"
    async with engine_on(url) as engine:
        await engine.execute(Put("a", "x"))
        shutil.copytree(live, tmp_path / "first", copy_function=os.link)
        await engine.execute(Put("a", "y"))
        async with Onlooker(projections=[Fills], answers=[], store=url) as onlooker:
            await onlooker.positions()
    shutil.copytree(live, tmp_path / "second", copy_function=os.link)
    async with engine_on(url) as engine:
        assert (await engine.execute(Put("a", "z"))).version == 3

    # The links themselves are nobody's, and their views neither.
    views = Path(SqliteStore(str(tmp_path / "second" / name)).views_path)
    assert views.stat().st_nlink > 1
    for path in (views, tmp_path / "second" / name):
        with pytest.raises(StoreRefused, match="names"):
            SystemFiles().connect(str(path), readonly=True)


# -- a folder that cannot be looked into ---------------------------------------------------------


class Blind(SystemFiles):
    """A file system whose rights somebody changes for a while."""

    is_blind = False

    def identify(self, path: str) -> FileId | None:
        if self.is_blind:
            raise PermissionError(13, "Permission denied", path)
        return super().identify(path)


async def test_a_batch_is_put_off_while_its_file_cannot_be_looked_at(tmp_path: Path) -> None:
    files = Blind()
    async with Engine(
        [Counter], store=f"sqlite:{tmp_path / 'log.db'}", ports=Ports(files=files)
    ) as engine:
        await engine.execute(Add("a", 1))
        files.is_blind = True
        with pytest.raises(Voided, match=r"Permission denied.*Nothing was written"):
            await engine.execute(Add("a", 2))
        files.is_blind = False
        assert (await engine.execute(Add("a", 3))).version == 2


async def test_what_cannot_be_looked_at_behind_its_commit_is_not_acknowledged(
    tmp_path: Path,
) -> None:
    files = Blind()

    def at(step: str) -> None:
        files.is_blind = step == "store.inserted"

    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports(files=files, failpoint=at))
    with pytest.raises(StoreFailed, match="Permission denied") as failed:
        await append(store, request("a:1", 0, 1))
    assert failed.value.written is None
    assert failed.value.stopped
    await store.close()


async def test_a_reader_says_what_it_could_not_look_at_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()
    files = Blind()
    with SqliteLogReader(str(path), files) as reader:
        files.is_blind = True
        with pytest.raises(StoreFailed, match="cannot be looked at"):
            reader.head()
        files.is_blind = False
        assert reader.head().position == 1


# -- tables of somebody else in the file ---------------------------------------------------------


async def test_tables_of_others_with_their_indexes_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    await store.close()
    with closing(apsw.Connection(str(path))) as connection:
        run(
            connection,
            "CREATE TABLE notes(id TEXT PRIMARY KEY, at INTEGER, UNIQUE (at, id));"
            "CREATE INDEX notes_by_time ON notes(at); CREATE INDEX low ON notes(lower(id));"
            "INSERT INTO notes VALUES ('a', 1); ANALYZE; VACUUM",
        )

    with SqliteLogReader(str(path)) as reader:
        assert reader.head().position == 1
    await store.open(Ports())
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]
    await store.close()


# -- what grows while it is looked at ------------------------------------------------------------


async def test_a_log_that_grows_while_a_reader_looks_at_it_is_not_called_torn(
    tmp_path: Path,
) -> None:
    """The frames were counted before somebody's commit, and the pages behind it."""
    path = tmp_path / "log.db"
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    with closing(SystemFiles().connect(str(path), readonly=True)) as reading:
        before = int(run(reading, "PRAGMA data_version")[0][0])
        known = Wal(1, version=before)
        with pytest.raises(StoreRefused, match="not of one moment"):
            check_pages(reading, SystemFiles(), str(path), known, 8_192)
        await append(store, request("a:1", 1, 2))
        check_pages(reading, SystemFiles(), str(path), known, 8_192)
    await store.close()
