"""Views in SQLite: whose history they are, and which files are refused."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import apsw
import pytest

from engine.errors import StoreRefused
from engine.limits import Limits
from engine.model.projection import Projection
from engine.runtime.ports import Ports
from engine.stores.contract.views import Changes, Checkpoint, Selection
from engine.stores.sqlite.connection import set_pragma
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.shelf import (
    Bought,
    Counts,
    Log,
    Swept,
    Wired,
    fold_all,
    part_of,
    written,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.views.db")


async def run_once(log: Log, path: str, *projections: type[Projection]) -> dict[str, int]:
    async with Wired(log, path, projections or [Counts]) as wired:
        await wired.caught_up()
        table = wired.projections[0].__definition__.tables["totals"]
        rows = await wired.views.find(table, Selection(limit=1_000))
        return {row.name: row.books for row in rows}


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == level]


# -- history --------------------------------------------------------------------------------------


async def test_views_go_on_where_they_were(path: str) -> None:
    log = written(1, 2)
    await run_once(log, path)
    log.write(Bought("b"))
    async with Wired(log, path, [Counts]) as wired:
        assert (await wired.views.checkpoint(part_of(Counts))).position == 2
        await wired.caught_up()
        assert wired.projector.statistics().events == 1


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (written(1, 2, 3, 4, log_id="log-2"), "they are of log log-1, and this is log-2"),
        (written(1, 2), "they are at position 3, and the log ends at 2"),
        (written(1, 2, 4), "the log has another event at their position 3"),
        (written(1, 2, 4, 5, 6), "the log has another event at their position 3"),
    ],
    ids=["another-log", "shorter-log", "other-event-at-the-end", "other-event-inside"],
)
async def test_another_history_is_noticed_and_the_views_rebuilt(
    path: str, other: Log, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    await run_once(written(1, 2, 3), path)

    assert await run_once(other, path) == fold_all(other)
    (message,) = said(caplog, logging.WARNING)
    assert "the views of projection counts do not belong to this log" in message
    assert why in message


async def test_a_build_that_has_seen_what_the_log_lost_is_dropped(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    log, short = written(1, 2, 3), written(1, 2)
    await run_once(short, path)
    views = SqliteViews(path)
    await views.open(Ports(), Limits(), log, [Counts])
    build = await views.begin_build(Counts.__definition__)
    last = log.events[-1]
    after = Checkpoint(last.position, last.checksum)
    await views.write(Changes(part_of(Counts, build.number), Checkpoint(), after, {}))
    await views.close()
    other = written(1, 2, 4)
    views = SqliteViews(path)
    await views.open(Ports(), Limits(), other, [Counts])

    assert [(b.number, b.state) for b in await views.builds("counts")] == [(1, "serving")]
    assert not said(caplog, logging.WARNING), "what serves is of this history"
    await views.close()


async def test_a_flipped_checkpoint_is_noticed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    log = written(1, 2, 3)
    await run_once(log, path)
    connection = apsw.Connection(path)
    connection.execute("update checkpoints set position = 2")
    connection.close()

    assert await run_once(log, path) == {"all": 3}
    assert "another event" in said(caplog, logging.WARNING)[0]


async def test_a_missing_table_is_rebuilt(path: str, caplog: pytest.LogCaptureFixture) -> None:
    log = written(1, 2, 3)
    await run_once(log, path)
    connection = apsw.Connection(path)
    connection.execute('drop table "counts_totals:1"')
    connection.close()

    assert await run_once(log, path) == {"all": 3}
    assert "a table of theirs is missing" in said(caplog, logging.WARNING)[0]


async def test_a_damaged_event_at_the_checkpoint_is_not_another_history(path: str) -> None:
    log = written(1, 2, 3)
    await run_once(log, path)
    log.write(Swept())
    log.damage(3)

    assert await run_once(log, path) == {"all": 3}


# -- files ----------------------------------------------------------------------------------------


async def test_the_file_is_private_and_set_as_promised(path: str) -> None:
    async with Wired(written(1), path, [Counts]) as wired:
        await wired.caught_up()
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        connection = wired.views._connection
        assert connection is not None

        assert mode == 0o600
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 1
        assert connection.pragma("wal_autocheckpoint") == 0


def test_a_setting_that_does_not_take_is_refused() -> None:
    with pytest.raises(StoreRefused, match="PRAGMA journal_mode=wal did not take"):
        set_pragma(apsw.Connection(":memory:"), "journal_mode", "wal")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("create table x (y)", "is not a file of views"),
        ("pragma application_id=7", "is not a file of views"),
    ],
)
async def test_a_strangers_file_is_refused_and_not_changed(
    path: str, spoil: str, message: str
) -> None:
    apsw.Connection(path).execute(spoil)
    before = Path(path).read_bytes()

    with pytest.raises(StoreRefused, match=message):
        await Wired(Log(), path).open()
    assert Path(path).read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(path: str) -> None:
    Path(path).write_bytes(b"no database at all" * 100)

    with pytest.raises(StoreRefused, match="are damaged.*They can be rebuilt"):
        await Wired(Log(), path).open()


async def test_a_newer_schema_is_refused(path: str) -> None:
    await run_once(written(1), path)
    apsw.Connection(path).execute("update views_meta set schema_version = 3")

    with pytest.raises(StoreRefused, match="has schema version 3, and this engine knows 2"):
        await Wired(Log(), path).open()


async def test_a_table_that_is_not_a_projections_is_never_dropped(path: str) -> None:
    await run_once(written(1), path)
    apsw.Connection(path).execute("create table library_books (mine)")

    with pytest.raises(StoreRefused, match="has a table library_books already"):
        await Wired(Log(), path).open()
    assert apsw.Connection(path).execute("select count(*) from library_books").fetchall() == [(0,)]
