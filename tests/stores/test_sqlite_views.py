"""Views in SQLite: whose history they are, what opening refuses, and exact values in any number."""

from __future__ import annotations

import logging
import random
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine.errors import StoreFailed, StoreRefused
from engine.limits import Limits
from engine.model.projection import Projection, Row, Table, projects
from engine.model.rows import Flat, Scalar
from engine.runtime.ports import Ports
from engine.stores.contract.views import Changes, Checkpoint, Decision, Parked, Selection
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.connection import set_pragma
from engine.stores.sqlite.views.catalog import Keeper
from engine.stores.sqlite.views.store import SqliteViews
from engine.stores.sqlite.views.tables import TableSql
from tests.simulation.disk import Disk
from tests.simulation.machine import SimulatedFiles
from tests.support.everything import Everything, everything
from tests.support.shelf import (
    Book,
    Bought,
    Counts,
    Lent,
    Library,
    Log,
    Reader,
    Swept,
    Wired,
    fold_all,
    part_of,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "shop.views.db")


def written(*positions: int, log_id: str = "log-1") -> Log:
    log = Log(log_id)
    for position in positions:
        log.write(Bought("b", position))
    return log


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


class Tenfold(Projection, name="counts", version=2):
    """The same tables as Counts, with another meaning."""

    totals: Table[Reader]

    @projects
    def bought(self, event: Bought) -> None:
        row = self.totals.get("all") or Reader("all")
        self.totals.put(Reader("all", row.books + 10))


async def test_a_raised_version_is_refused_unless_it_may_be_built(path: str) -> None:
    log = written(1, 2, 3)
    await run_once(log, path)

    with pytest.raises(StoreRefused, match=r"version 2 in 1 slices, and its views are version 1"):
        await Wired(log, path, [Tenfold]).open()
    assert await run_once(log, path) == {"all": 3}


async def test_other_tables_under_the_same_version_are_refused(path: str) -> None:
    class Changed(Projection, name="counts", version=1):
        totals: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    log = written(1)
    await run_once(log, path)

    with pytest.raises(StoreRefused, match=r"declare it as `version=2`, and they are rebuilt"):
        await Wired(log, path, [Changed]).open()


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
async def test_a_strangers_file_is_refused(path: str, spoil: str, message: str) -> None:
    apsw.Connection(path).execute(spoil)

    with pytest.raises(StoreRefused, match=message):
        await Wired(Log(), path).open()


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


async def test_closing_twice_does_nothing_and_closed_views_say_so(path: str) -> None:
    wired = Wired(Log(), path)
    await wired.open()
    await wired.views.close()
    await wired.views.close()

    with pytest.raises(StoreFailed, match="are closed"):
        await wired.views.checkpoint(part_of(Library))
    with pytest.raises(StoreFailed, match="are closed"):
        await wired.views.get(Library.books.definition, "b")


async def test_the_wal_is_folded_into_the_file_when_it_is_large(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", 100_000)
    log = Log()
    async with Wired(log, path, [Library]) as wired:
        sizes: list[int] = []
        for n in range(40):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
            sizes.append(Path(path + "-wal").stat().st_size)

        written = Path(path).stat().st_size
    assert sizes == sorted(sizes), "it is written over, and never cut"
    assert sizes[-1] < 200_000 < written


async def test_a_larger_wal_is_folded_where_folding_takes_much_of_the_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MIN", 50_000)
    monkeypatch.setattr(sqlite_wal, "_TIME_SHARE", 1e9)
    async with Wired(Log(), path, [Library]) as wired:
        for n in range(20):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
        assert wired.views._wal is not None
        assert wired.views._wal.bound.bytes > 50_000


def simulated(folder: Path) -> tuple[Disk, Ports]:
    disk = Disk(folder / "disk", random.Random(1))
    return disk, Ports(files=SimulatedFiles(disk))


async def open_views(disk: Disk, ports: Ports, log: Log) -> SqliteViews:
    views = SqliteViews(str(disk.folder / "shop.views.db"))
    await views.open(ports, Limits(), log, [Counts])
    return views


async def move(views: SqliteViews, log: Log, before: int, after: int) -> None:
    """Move the checkpoint, with no rows."""
    sums = [0, *(e.checksum for e in await log.read_feed(0, events_max=9, bytes_max=1 << 20))]
    there, then = (Checkpoint(n, sums[n]) if n else Checkpoint() for n in (before, after))
    await views.write(Changes(part_of(Counts), there, then, {}))


async def test_after_a_failed_sync_the_views_take_nothing_until_they_are_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    assert views._wal is not None
    views._wal.bound.next = 1  # let it fold, which is when views are synced
    disk.sync_failures = 1.0
    with pytest.raises(StoreFailed, match="could not be written"):
        await move(views, log, 1, 2)
    disk.sync_failures = 0.0

    with pytest.raises(
        StoreFailed, match="take nothing more since a sync of their file has failed"
    ):
        await move(views, log, 2, 3)
    disk.notes_calls = True
    await views.close()
    assert "delete shop.views.db-wal" not in disk.calls
    again = await open_views(disk, ports, log)
    assert (await again.checkpoint(part_of(Counts))).position == 2
    await again.close()
    disk.dispose()


async def test_what_somebody_decided_survives_a_loss_of_power(tmp_path: Path) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    await views.decide(Decision("counts", "skip", 7, 1, 2, "a test", "ann", 77))
    await views.decide(Decision("counts", "pause", 8, 1))
    await move(views, log, 1, 3)
    image = disk.survivors("nothing", random.Random(2))
    disk.dead = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart(image)

    views = await open_views(disk, ports, log)
    assert await views.decisions() == [
        Decision("counts", "skip", 7, 1, 2, "a test", "ann", 77),
        Decision("counts", "pause", 8, 1),
    ]
    assert await views.skipped(Counts.__definition__) == {2: 77}
    assert await views.is_paused("counts")
    assert (await views.checkpoint(part_of(Counts))).position == 1, "only decisions are synced"
    await views.close()
    disk.dispose()


async def test_after_a_fold_that_could_not_be_synced_nothing_is_written_in_the_same_turn(
    tmp_path: Path,
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    assert views._wal is not None
    assert views._writer is not None
    views._wal.bound.next = 1
    disk.sync_failures = 1.0
    with pytest.raises(StoreFailed, match="a sync has failed"):
        await views._writer.run(views._fold_wal)
    disk.sync_failures = 0.0

    assert views._stopped
    await views.close()
    disk.dispose()


async def test_views_whose_tables_cannot_be_synced_are_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, ports = simulated(tmp_path)
    prepare = Keeper.prepare

    def failing(*args: Any) -> None:
        disk.sync_failures = 1.0
        disk.notes_calls = True
        prepare(*args)

    monkeypatch.setattr(Keeper, "prepare", failing)
    with pytest.raises(StoreFailed, match=r"could not be written: a sync has failed"):
        await open_views(disk, ports, written(1))

    assert disk.failed == ["sync shop.views.db-wal: EIO"]
    # What is not on the disk must not be folded into the file.
    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    disk.dispose()


async def test_views_that_a_killed_process_left_are_folded_in_before_they_are_used(
    tmp_path: Path,
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    disk.dead = disk.only_killed = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart()

    views = await open_views(disk, ports, log)
    shown = (await views.checkpoint(part_of(Counts))).position
    disk.dead = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart(disk.survivors("nothing", random.Random(2)))
    views = await open_views(disk, ports, log)

    assert shown == 1, "otherwise this test shows nothing"
    assert (await views.checkpoint(part_of(Counts))).position == 1
    await views.close()
    disk.dispose()


async def test_views_that_cannot_be_made_durable_are_refused(tmp_path: Path) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    disk.dead = disk.only_killed = True
    with suppress(StoreFailed):
        await views.close()
    disk.restart()
    disk.sync_failures = 1.0
    disk.notes_calls = True

    with pytest.raises(StoreRefused, match=r"shop\.views\.db could not be opened"):
        await open_views(disk, ports, log)

    assert disk.failed == ["sync shop.views.db-wal: EIO"]
    disk.sync_failures = 0.0
    disk.close_connections()
    # What is not on the disk must not be folded into the file.
    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    views = await open_views(disk, ports, log)
    assert (await views.checkpoint(part_of(Counts))).position == 1
    await views.close()
    disk.dispose()


async def test_the_decision_to_skip_an_event_takes_it_out_of_what_is_parked(
    tmp_path: Path,
) -> None:
    """In its own transaction: whoever is killed behind it leaves nothing to be retried."""
    log = written(1, 2)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await move(views, log, 0, 1)
    part = part_of(Counts)
    at = await views.checkpoint(part)
    parked = Parked(1, "book:b", "bought v1", "book:b", 0, 1, "a test")
    await views.write(Changes(part, at, at, {}, (parked,)))
    assert await views.parked("counts") == [parked]
    await views.decide(Decision("counts", "skip", 0, 1, 1, "a test", None))

    assert await views.parked("counts") == []
    await views.close()
    disk.dispose()


@pytest.mark.parametrize("failing", ["opening", "deciding"])
async def test_a_decision_that_could_not_be_synced_is_folded_nowhere(
    tmp_path: Path, failing: str
) -> None:
    log = written(1, 2, 3)
    disk, ports = simulated(tmp_path)
    views = await open_views(disk, ports, log)
    await views.close()
    disk.notes_calls = True
    if failing == "opening":
        disk.sync_failures = 1.0
        again = SqliteViews(str(disk.folder / "shop.views.db"))
        with pytest.raises(StoreFailed, match="a sync has failed"):
            await again.open(ports, Limits(), log, [Counts, Library])
    else:
        views = await open_views(disk, ports, log)
        await move(views, log, 0, 1)
        disk.sync_failures = 1.0
        with pytest.raises(StoreFailed, match="whether this was kept shows when") as failed:
            await views.decide(Decision("counts", "pause", 7, 1))
        assert failed.value.written is None
        with pytest.raises(StoreFailed, match="take nothing more"):
            await views.decide(Decision("counts", "resume", 8, 1))
        await views.close()
    disk.sync_failures = 0.0
    disk.close_connections()

    assert "write shop.views.db" not in disk.calls
    assert "delete shop.views.db-wal" not in disk.calls
    views = await open_views(disk, ports, log)
    await views.close()
    disk.dispose()


async def test_a_reader_that_stays_does_not_stop_the_writer(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MAX", 50_000)
    log = Log()
    async with Wired(log, path, [Library]) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        stranger = apsw.Connection(path)
        stranger.execute("begin")
        stranger.execute("select count(*) from library_books").fetchall()
        for n in range(20):
            wired.publish(*[Bought(f"b{n}-{m}" * 9) for m in range(50)])
            await wired.caught_up()
        stranger.close()

        assert wired.projector.state == "live"
        assert wired.views._wal is not None
        assert wired.views._wal.bound.next > 50_000


# -- values ---------------------------------------------------------------------------------------


class Numbers(Row, key="id"):
    id: int
    real: float
    text: str = ""
    maybe: float | None = None


class All(Projection, name="all"):
    numbers: Table[Numbers]
    things: Table[Everything]
    books: Table[Book]

    @projects
    def bought(self, event: Bought) -> None: ...


def hard_floats() -> list[float]:
    choose = random.Random(1)
    values = [struct.unpack("d", choose.randbytes(8))[0] for _ in range(2_000)]
    values += [5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 0.1, 1e22, 1e23, 3.0]
    return [value for value in values if value - value == 0]


def flats(rows: list[Any]) -> dict[Any, Flat | None]:
    shape = type(rows[0]).__shape__
    found = [shape.flatten(row) for row in rows]
    return {flat[shape.key_place]: flat for flat in found}


@pytest.mark.parametrize("floats_exact", [True, False])
async def test_all_values_come_back_exactly(path: str, floats_exact: bool) -> None:
    views = SqliteViews(path)
    await views.open(Ports(), Limits(), Log(), [All])
    if not floats_exact:
        keeper = views._keeper
        keeper._sql["all", 1] = {
            name: TableSql(sql.definition, floats_exact=False, name=sql.name)
            for name, sql in keeper.tables("all", 1).items()
        }
    numbers = [Numbers(n, real, "x\0'\"\\ü\u2028") for n, real in enumerate(hard_floats())]
    changes: dict[str, Any] = {"numbers": flats(numbers), "things": flats([everything()])}
    definition, part = All.__definition__, part_of(All)
    await views.write(Changes(part, Checkpoint(), Checkpoint(1, 1), changes))

    found = await views.find(All.numbers.definition, Selection(limit=10_000))
    keys: dict[str, list[Scalar]] = {
        "numbers": [row.id for row in numbers],
        "things": [str(everything().id)],
    }
    fetched = await views.fetch(part, keys)
    await views.close()

    assert found == numbers
    for name, rows in changes.items():
        shape = definition.tables[name].shape
        assert {flat[shape.key_place]: tuple(flat) for flat in fetched[name]} == rows


@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 32, 33, 47, 48, 49, 100, 1_023, 1_025, 3_001])
async def test_any_number_of_rows_is_written_and_deleted(count: int) -> None:
    views = SqliteViews(":memory:")
    await views.open(Ports(), Limits(), Log(), [All])
    part = part_of(All)
    rows: dict[Any, Flat | None] = flats([Book(f"b{n}", n) for n in range(count)])
    await views.write(Changes(part, Checkpoint(), Checkpoint(1, 1), {"books": rows}))
    kept = await views.find(All.books.definition, Selection(limit=10_000))
    gone: dict[Any, Flat | None] = {key: None for key in rows if key != "b0"}
    await views.write(Changes(part, Checkpoint(1, 1), Checkpoint(2, 2), {"books": gone}))
    left = await views.find(All.books.definition, Selection(limit=10_000))
    await views.close()

    assert sorted(row.price for row in kept) == list(range(count))
    assert [row.id for row in left] == ["b0"]


async def test_deleting_finds_its_rows_by_the_key() -> None:
    sql = TableSql(Library.books.definition, floats_exact=True)
    connection = apsw.Connection(":memory:")
    for statement in sql.create():
        connection.execute(statement)
    for text, values in (sql.delete(["a"]), sql.fetch(["a"])):
        plan = connection.execute(f"explain query plan {text}", values).fetchall()

        assert any("SEARCH library_books USING" in str(row[3]) for row in plan), plan


async def test_pages_in_an_indexed_order_need_no_sorting() -> None:
    sql = TableSql(Library.books.definition, floats_exact=True)
    connection = apsw.Connection(":memory:")
    for statement in sql.create():
        connection.execute(statement)
    selection = Selection(order_by="price", descending=True, after=(5, "b"), limit=10)
    text, values = sql.find(selection)
    plan = str(connection.execute(f"explain query plan {text}", values).fetchall())

    assert "library_books:price" in plan
    assert "TEMP B-TREE" not in plan


async def test_two_projections_write_in_turn(path: str) -> None:
    log = Log()
    async with Wired(log, path, [Library, Counts]) as wired:
        for n in range(30):
            wired.publish(Bought(f"b{n}"), Lent(f"b{n}", "ann"))
        await wired.caught_up()

        assert len(await wired.rows(Library.books)) == 30
        assert (await wired.rows(Counts.totals))["ann"].books == 30


async def test_a_transaction_may_be_seen_before_it_is_over_and_is_seen_when_it_is(
    path: str,
) -> None:
    """Whoever reads twice compares what he saw for certain with what he may have seen since."""
    counts: list[tuple[int, int]] = []
    failing: list[bool] = []
    at = ("views.inserted", "views.checkpointed", "views.committed")

    def look(name: str) -> None:
        if name in at:
            counts.append(wired.views.transactions("library"))
            if failing and name == "views.checkpointed":
                raise OSError("no")

    def committing() -> bool:
        look("views.committed")
        return False

    log = Log()
    wired = Wired(log, path, failpoint=look)
    async with wired:
        log.write(Bought("a", 1))
        wired.publish(Bought("b", 1))
        await wired.caught_up()
        before = wired.views.transactions("library")
        connection = wired.views._connection
        assert connection is not None
        connection.set_commit_hook(committing)
        counts.clear()
        wired.publish(Bought("c", 1))
        await wired.caught_up()
        n = before[0]

        assert before == (n, n)
        assert counts == [(n, n), (n, n), (n, n + 1), (n + 1, n + 1)]
        failing.append(True)
        wired.publish(Bought("d", 1))
        await wired.ended()
        assert wired.views.transactions("library") == (n + 1, n + 1)
        assert wired.views.transactions("nobody") == (0, 0)
