"""A log that is filled without actors is the log that the engine writes for the same commands."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

import engine
from benchmarks.filled import (
    CORRELATION,
    LOG,
    PRINCIPAL,
    Orders,
    Prepared,
    check_count,
    fill_memory,
    fill_sqlite,
)
from benchmarks.scenario import Wrong
from benchmarks.workload import AdjustOrder, BenchmarkOrder, OpenOrder
from engine.stores.memory import MemoryStore

ROWS = """
    SELECT e.position, s.number, s.name, e.version, t.name, t.version, t.schema_hash, e.encoding,
        e.payload, e.metadata
    FROM events e JOIN streams s ON s.number = e.stream JOIN event_types t ON t.number = e.type
    ORDER BY e.position
"""


def rows_of(path: Path) -> Sequence[tuple[Any, ...]]:
    connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows: Sequence[tuple[Any, ...]] = connection.execute(ROWS).fetchall()
    connection.close()
    return rows


def envelope(orders: Orders, version: int, command: OpenOrder | AdjustOrder) -> engine.Envelope:
    if not orders.keyed:
        return engine.Envelope(command=command)
    key = orders.key_of(version, command)
    return engine.Envelope(command=command, key=key, correlation=CORRELATION, principal=PRINCIPAL)


@pytest.mark.parametrize("keyed", [False, True], ids=["bare", "keyed"])
async def test_what_is_filled_in_is_what_the_engine_would_write(
    tmp_path: Path, keyed: bool
) -> None:
    orders = Orders(300, 3, keyed=keyed)
    async with engine.Engine([BenchmarkOrder], store=f"sqlite:{tmp_path / 'engine.db'}") as shop:
        commands = [envelope(orders, version, command) for version, command in orders.commands()]
        answers = [answer async for answer in shop.execute_many(commands, window=1)]
    assert all(isinstance(answer, engine.Receipt) for answer in answers)

    engine_rows = rows_of(tmp_path / "engine.db")
    await _in_thread(fill_sqlite, tmp_path, orders)

    assert len(engine_rows) == orders.total
    assert rows_of(tmp_path / LOG) == engine_rows


async def test_the_engine_goes_on_where_a_filled_log_ends(tmp_path: Path) -> None:
    await _in_thread(fill_sqlite, tmp_path, Orders(2, 10, keyed=True))
    async with engine.Engine([BenchmarkOrder], store=f"sqlite:{tmp_path / LOG}") as shop:
        command = AdjustOrder(Orders(2, 10).id_of(1), "mouse", 7)

        receipt = await shop.execute(command)

    assert (receipt.version, receipt.position) == (11, 21)


def test_orders_of_several_lengths_are_in_one_log() -> None:
    store: MemoryStore = fill_memory(Orders(3, 2, "short-"), Orders(1, 5, "long-"))

    async def read() -> Sequence[tuple[str, int]]:
        events = await store.read_feed(0, events_max=100, bytes_max=1 << 20)
        return [(event.stream, event.version) for event in events]

    found = engine.run(read)

    assert len(found) == 11
    assert [version for stream, version in found if "long-" in stream] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("acknowledged", [19, 21, 0])
def test_a_log_with_other_events_than_were_acknowledged_is_wrong(
    tmp_path: Path, acknowledged: int
) -> None:
    fill_sqlite(tmp_path, Orders(2, 10))
    check_count(tmp_path / LOG, 20)

    with pytest.raises(Wrong, match="the log has 20"):
        check_count(tmp_path / LOG, acknowledged)


def test_what_is_prepared_is_made_once_and_copied_whole(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / LOG).write_bytes(b"log")
        (folder / f"{LOG}-wal").write_bytes(b"wal")

    prepared = Prepared(tmp_path, make)
    assert made == [], "nothing is made before it is needed"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        path = prepared.copy(tmp_path / name)

        assert path.read_bytes() == b"log"
        assert path.with_name(f"{LOG}-wal").read_bytes() == b"wal"

    assert made == [prepared.folder()]
    assert prepared.folder().is_dir()
    del prepared
    gc.collect()
    assert not made[0].exists(), "it is gone with whoever had it made"


async def _in_thread(function: Any, *args: Any) -> None:
    """Run what has an event loop of its own."""
    await asyncio.to_thread(function, *args)
