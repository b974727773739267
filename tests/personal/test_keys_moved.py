"""The file of keys is moved, removed or replaced while an engine has it open.

What would be encrypted with a key in it is read by nobody after a restart.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import Erasure, Ports, StoreFailed, SubjectKey, Voided
from engine.stores.sqlite.keys import SqliteKeys

from .hotel import NAME, Guest, Register, hotel, two_guests


def remove(keys: Path) -> None:
    for path in keys.parent.glob("hotel.keys.db*"):
        path.unlink()


def move(keys: Path) -> None:
    keys.rename(keys.with_name("elsewhere"))


def put_a_copy_in_its_place(keys: Path) -> None:
    shutil.copy(keys, keys.with_name("copy"))
    keys.with_name("copy").rename(keys)


WAYS = [remove, move, put_a_copy_in_its_place]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("guest", ["g-1", "g-new"])
async def test_nothing_is_acknowledged_whose_key_nobody_will_find(
    tmp_path: Path, way: Callable[[Path], None], guest: str
) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        way(tmp_path / "hotel.keys.db")

        with pytest.raises(Voided, match="hotel.keys.db is not the file any more"):
            await engine.execute(Register(guest, "Ann Again"))


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_is_called_erased_whose_key_may_be_there(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        way(tmp_path / "hotel.keys.db")

        with pytest.raises(StoreFailed, match="not the file any more"):
            await engine.personal.erase("guest:g-1")


@pytest.mark.parametrize("way", WAYS)
async def test_no_key_is_kept_or_destroyed_in_a_file_that_is_gone(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    """As `foldline personal erase` would, without an engine."""
    keys = SqliteKeys(str(tmp_path / "hotel.keys.db"))
    await keys.open(Ports(), "a-log")
    try:
        await keys.add([SubjectKey(1, "ann", bytes(32))])
        way(tmp_path / "hotel.keys.db")
        with pytest.raises(StoreFailed, match="not the file any more"):
            await keys.erase(Erasure(0, "ann", 1, 0))
        with pytest.raises(StoreFailed, match="not the file any more"):
            await keys.add([SubjectKey(2, "bob", bytes(32))])
    finally:
        await keys.close()


async def test_a_file_of_keys_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    keys = tmp_path / "hotel.keys.db"
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        await two_guests(engine)
        move(keys)
        with pytest.raises(Voided):
            await engine.execute(Register("g-3", NAME))
        keys.with_name("elsewhere").rename(keys)
        await engine.execute(Register("g-3", NAME))
    async with hotel(f"sqlite:{tmp_path}/hotel.db") as engine:
        assert (await engine.state(Guest, "g-3")).name == NAME


async def test_who_takes_a_log_over_has_its_keys_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, later = tmp_path / "here", tmp_path / "later"
    here.mkdir()
    later.mkdir()
    monkeypatch.chdir(here)
    named = {"keys": "sqlite:secret.db"}
    owner, member = (hotel("sqlite:hotel.db", join=True, **named) for _ in range(2))
    async with owner:
        await member.__aenter__()
        await member.execute(Register("g-1", NAME))
        monkeypatch.chdir(later)
    await asyncio.wait_for(member.execute(Register("g-2", NAME)), 30)
    assert (await member.state(Guest, "g-1")).name == NAME
    await member.__aexit__(None, None, None)

    assert list(later.iterdir()) == []
    monkeypatch.chdir(here)
    async with hotel("sqlite:hotel.db", **named) as engine:
        assert (await engine.state(Guest, "g-2")).name == NAME
