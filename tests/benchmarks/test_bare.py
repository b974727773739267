"""The floors read, check and fold what the engine reads, checks and folds."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine
from benchmarks import bare_growth
from benchmarks.bare import BareLog, BareView, Row, catch_up, checked, fold
from benchmarks.filled import LOG, Orders, check_count, fill_sqlite
from benchmarks.scenario import Wrong
from benchmarks.workload import BenchmarkOrder, OrderAdjusted, OrderOpened

ORDERS = Orders(130, 10, keyed=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    fill_sqlite(tmp_path, ORDERS)
    return tmp_path / LOG


def rows_of(log: Path) -> list[Row]:
    bare = BareLog(log)
    rows = [row for page in bare.pages() for row in page]
    bare.close()
    return rows


def test_the_bare_log_gives_every_event_once_in_order(log: Path) -> None:
    rows = rows_of(log)

    assert [row[0] for row in rows] == list(range(1, ORDERS.total + 1))
    assert {type(checked(row)) for row in rows} == {OrderOpened, OrderAdjusted}


@pytest.mark.parametrize("place", range(1, 9))
def test_a_row_that_is_not_what_was_written_is_wrong(log: Path, place: int) -> None:
    row = list(rows_of(log)[20])
    value = row[place]
    row[place] = value + 1 if isinstance(value, int) else value[:-1]  # type: ignore[index]

    with pytest.raises(Wrong, match="position 21"):
        checked(tuple(row))  # type: ignore[arg-type]


def test_the_bare_fold_makes_the_state_that_the_engine_makes(log: Path) -> None:
    order_id = ORDERS.id_of(77)
    bare = BareLog(log)
    folded = fold(order_id, bare.stream(f"benchmark-order:{order_id}"))
    bare.close()

    async def state() -> BenchmarkOrder:
        async with engine.Engine([BenchmarkOrder], store=f"sqlite:{log}") as shop:
            return await shop.state(BenchmarkOrder, order_id)

    assert folded == engine.run(state)
    assert folded.version == 10


def test_the_bare_view_counts_every_event_once(log: Path, tmp_path: Path) -> None:
    bare, view = BareLog(log), BareView(tmp_path / "view.db")

    assert catch_up(bare, view) == 2, "a transaction for each page of 1,000"
    assert view.totals() == (ORDERS.count, ORDERS.total)
    bare.close()
    view.close()


@pytest.mark.parametrize("at_random", [False, True])
def test_the_bare_growth_writes_streams_without_holes(tmp_path: Path, at_random: bool) -> None:
    connection = bare_growth.connect(tmp_path / LOG)
    rows = bare_growth.random_rows(300) if at_random else bare_growth.rows()
    bare_growth.insert(connection, rows, bare_growth.BATCH * 12)
    sql = "SELECT count(*), max(version) FROM events GROUP BY stream"
    streams = connection.execute(sql).fetchall()
    connection.close()

    check_count(tmp_path / LOG, bare_growth.BATCH * 12)
    assert all(count == last for count, last in streams)
    assert len(streams) == (300 if at_random else 512)
