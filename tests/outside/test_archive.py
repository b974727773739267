"""Histories and states out of a file, beside the engine that writes it."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Archive, Closed, Damaged, DefinitionError, Engine, Ports, StoreRefused
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Counter


async def test_an_archive_says_what_the_running_engine_says(tmp_path: Path) -> None:
    clock = ManualClock(10)
    url = f"sqlite:{tmp_path}/log.db"
    async with Engine([Counter], store=url, ports=Ports(clock=clock)) as engine:
        for number in range(5):
            await engine.execute(Add("a", number, tags={"n": [number]}), principal="ann")
            clock.advance(1)
        async with Archive([Counter], store=url) as archive:
            assert await archive.history(Counter, "a", limit=3) == await engine.history(
                Counter, "a", limit=3
            )
            assert [e async for e in archive.history(Counter, "a", after=1, limit=2)] == [
                e async for e in engine.history(Counter, "a", after=1)
            ]
            asked: list[dict[str, Any]] = [{}, {"version": 2}, {"at": 2_000_010}]
            for how in asked:
                assert await archive.state(Counter, "a", **how) == await engine.state(
                    Counter, "a", **how
                )
            assert (await archive.state(Counter, "a", at=2_000_010)).version == 3
            assert await archive.difference(Counter, "a", 1, 4) == await engine.difference(
                Counter, "a", 1, 4
            )
            await engine.execute(Add("a", 100))
            assert (await archive.state(Counter, "a")).total == 110


async def test_a_long_damaged_stream_stops_it_where_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with Engine([Counter], store=f"sqlite:{path}") as engine:
        await engine.execute(Add("a", 1, 3_000))
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("DROP TRIGGER events_never_change").fetchall()
        connection.execute("UPDATE events SET checksum = 7 WHERE position = 2700").fetchall()
    async with Archive([Counter], store=f"sqlite:{path}") as archive:
        assert (await archive.state(Counter, "a", version=2_699)).total == 2_699
        with pytest.raises(Damaged, match="position 2700"):
            await archive.state(Counter, "a", version=2_700)


async def test_where_there_is_no_log_nothing_is_made_and_no_thread_stays(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="no file"):
        Archive([Counter], store="memory:")
    archive = Archive([Counter], store=f"sqlite:{tmp_path}/none.db")
    with pytest.raises(StoreRefused, match="no such file"):
        await archive.__aenter__()
    with pytest.raises(Closed, match="not open"):
        await archive.state(Counter, "a")

    assert list(tmp_path.iterdir()) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("foldline")] == []
