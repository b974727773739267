"""What is erased does not come back with a loss of power, nor with the end of a process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

from engine import ERASED, Erasure, Ports, SubjectKey
from engine.stores.sqlite.connection import cut_wal
from engine.stores.sqlite.files import files_of
from engine.stores.sqlite.keys import SqliteKeys
from engine.testing.simulation.disk import Disk
from engine.testing.simulation.machine import SimulatedFiles

from .hotel import NAME, Guest, Register, hotel, two_guests

HOUR = 3_600_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Give a disk that tells what a loss of power leaves."""
    disk = Disk(tmp_path / "disk", Random(1))
    yield disk
    disk.dispose()


def left_on(disk: Disk, text: bytes) -> list[str]:
    """Give the files that have a text, now or after a loss of power that takes all it can."""
    after = disk.survivors("nothing", Random(1))
    now = {path.name: path.read_bytes() for path in sorted(disk.folder.iterdir())}
    return [name for files in (now, after) for name, content in files.items() if text in content]


async def test_a_loss_of_power_brings_no_destroyed_key_back(disk: Disk) -> None:
    keys, secret = SqliteKeys(str(disk.folder / "log.keys.db")), Random(1).randbytes(32)
    await keys.open(Ports(files=SimulatedFiles(disk)), "log")
    await keys.add([SubjectKey(1, "guest:g-1", secret)])
    assert left_on(disk, secret), "otherwise this test shows nothing"
    await keys.erase(Erasure(0, "guest:g-1", 1, 0))
    assert left_on(disk, secret) == []
    await keys.close()


async def test_a_loss_of_power_brings_no_row_of_an_erased_person_back(disk: Disk) -> None:
    ports = Ports(files=SimulatedFiles(disk))
    async with hotel(f"sqlite:{disk.folder / 'hotel.db'}", ports=ports) as engine:
        await two_guests(engine)
        assert left_on(disk, NAME.encode()), "otherwise this test shows nothing"
        await engine.personal.erase("guest:g-1")
        assert left_on(disk, NAME.encode()) == []


@pytest.mark.parametrize("had_let_go", [True, False])
async def test_what_a_process_wrote_that_ended_as_it_let_go_is_erased_at_the_next_start(
    tmp_path: Path, had_let_go: bool
) -> None:
    """It may have been read before; behind that, somebody has come back, and stays."""
    store = f"sqlite:{tmp_path}/hotel.db"
    async with hotel(store) as engine:
        await two_guests(engine)
        await engine.personal.erase("guest:g-1")
        await engine.execute(Register("g-1", "Ann Again"))
    keys: Any = apsw.Connection(f"{tmp_path}/hotel.keys.db")
    whose = "subject = 'guest:g-1'" if had_let_go else "true"
    keys.execute(f"UPDATE erasures SET finished = NULL, asked = asked - {HOUR} WHERE {whose}")
    keys.close()
    async with hotel(store) as engine:
        while any(each.finished is None for each in await engine.personal.erasures()):
            await asyncio.sleep(0)
        name = (await engine.state(Guest, "g-1")).name
        assert name == ("Ann Again" if had_let_go else ERASED)


def test_who_cuts_a_write_ahead_log_waits_for_another_process_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says so at once; whoever erased somebody then was told of a reader without an end."""
    path, cuts, ends = str(tmp_path / "log.keys.db"), threading.Event(), threading.Event()
    own, reader, other = (apsw.Connection(path) for _ in range(3))
    own.execute("PRAGMA journal_mode = WAL; CREATE TABLE one(n)").fetchall()
    reader.execute("BEGIN; SELECT * FROM one").fetchall()
    own.execute("INSERT INTO one VALUES (1)")

    def waits(_tries: int) -> bool:
        cuts.set()
        ends.wait(60)
        return True

    def end(_seconds: float) -> None:
        ends.set()
        cutting.join(60)

    other.set_busy_handler(waits)
    cut = "PRAGMA wal_checkpoint(TRUNCATE)"
    cutting = threading.Thread(target=lambda: other.execute(cut).fetchall())
    cutting.start()
    assert cuts.wait(60)
    reader.execute("ROLLBACK")
    monkeypatch.setattr("engine.stores.sqlite.connection.native_sleep", end, raising=False)
    try:
        cut_wal(own, files_of(Ports()), path)
        assert Path(path + "-wal").stat().st_size == 0
    finally:
        end(0)
        for each in (own, reader, other):
            each.close()
