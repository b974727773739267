"""What is damaged, or not of one moment, is refused by name, and a torn tail is not damage."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import StoreRefused
from engine.model.stored import EventData
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.sqlite.connection import run
from engine.stores.sqlite.files import SystemFiles
from engine.stores.sqlite.log import damage as sqlite_damage
from engine.stores.sqlite.log.damage import read_wal
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import ADDED, append, feed, numbers, request

EVENTS = 12
LARGE = EventData(ADDED, b'"' + b"x" * 20_000 + b'"')


class Frames:
    """The frames of a write-ahead log, by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = bytearray(path.read_bytes())
        self.step = 24 + struct.unpack_from(">I", self.content, 8)[0]
        salts = self.content[16:24]
        self.places = [
            place
            for place in range(32, len(self.content), self.step)
            if self.content[place + 8 : place + 16] == salts
        ]
        self.commits = [
            place for place in self.places if struct.unpack_from(">I", self.content, place + 4)[0]
        ]

    def flip(self, place: int) -> None:
        self.content[place] ^= 4
        self.path.write_bytes(self.content)


def copied(path: str, to: Path, *endings: str) -> Path:
    to.mkdir(exist_ok=True)
    for ending in endings or ("", "-wal"):
        shutil.copy(path + ending, to / ("log.db" + ending))
    return to / "log.db"


async def left(folder: Path, events: int = EVENTS) -> Path:
    """Give a log as a process leaves it that is killed."""
    store = SqliteStore(str(folder / "made.db"))
    await store.open(Ports())
    for number in range(events):
        await append(store, request("a:1", number, number + 1))
    path = copied(store.path, folder / "left")
    await store.close()
    return path


async def opened(path: Path) -> list[int]:
    """Start on a file, read it, append to it."""
    store = SqliteStore(str(path))
    await store.open(Ports())
    try:
        found = numbers(await feed(store))
        await append(store, request("b:1", 0, 99))
        assert numbers(await feed(store)) == [*found, 99]
    finally:
        await store.close()
    return found


def first_frame(frames: Frames) -> int:
    return frames.places[0] + 30


def salt_of_the_first(frames: Frames) -> int:
    return frames.places[0] + 9


def size_in_a_commit(frames: Frames) -> int:
    return frames.commits[4] + 7


def checksum_in_the_middle(frames: Frames) -> int:
    return frames.commits[6] + 17


def page_in_the_middle(frames: Frames) -> int:
    return frames.places[len(frames.places) // 2] + 4_000


def last_but_one(frames: Frames) -> int:
    return frames.commits[-2] + 5_000


FLIPS = (
    first_frame,
    salt_of_the_first,
    size_in_a_commit,
    checksum_in_the_middle,
    page_in_the_middle,
    last_but_one,
)


@pytest.mark.parametrize("where", FLIPS)
async def test_a_flipped_bit_before_other_commits_is_refused_and_nothing_is_changed(
    tmp_path: Path, where: Callable[[Frames], int]
) -> None:
    path = await left(tmp_path)
    frames = Frames(Path(f"{path}-wal"))
    frames.flip(where(frames))

    with pytest.raises(StoreRefused, match=r"log\.db-wal is damaged: frame \d+ .* backup"):
        await opened(path)
    with pytest.raises(StoreRefused, match="is damaged"), SqliteLogReader(str(path)):
        pass
    assert Path(f"{path}-wal").read_bytes() == frames.content


@pytest.mark.parametrize("place", [0, 3, 6, 10, 14, 17, 22, 25, 31])
async def test_a_flipped_bit_in_the_header_is_refused(tmp_path: Path, place: int) -> None:
    path = await left(tmp_path)
    frames = Frames(Path(f"{path}-wal"))
    frames.flip(place)

    with pytest.raises(StoreRefused, match=r"its header does not match|cannot be opened"):
        await opened(path)
    assert Path(f"{path}-wal").read_bytes() == frames.content


async def test_a_header_of_zeros_before_frames_is_refused(tmp_path: Path) -> None:
    path = await left(tmp_path)
    frames = Frames(Path(f"{path}-wal"))
    frames.content[:32] = bytes(32)
    frames.path.write_bytes(frames.content)

    with pytest.raises(StoreRefused, match="its header does not match"):
        await opened(path)


async def test_a_last_transaction_that_a_loss_of_power_tore_is_no_damage(tmp_path: Path) -> None:
    path = await left(tmp_path)
    frames = Frames(Path(f"{path}-wal"))
    frames.flip(frames.commits[-2] + frames.step + 100)  # the first frame of the last one

    assert await opened(path) == list(range(1, EVENTS))


async def test_what_is_torn_is_met_once_only(tmp_path: Path) -> None:
    """Else what is torn later would look like the second commit behind the end."""
    path = await left(tmp_path)
    frames = Frames(Path(f"{path}-wal"))
    frames.flip(frames.commits[-2] + frames.step + 100)
    store = SqliteStore(str(path))
    await store.open(Ports())

    again = copied(store.path, tmp_path / "again")
    await store.close()
    with closing(apsw.Connection(str(again))) as connection:
        connection.execute("SELECT count(*) FROM events").fetchall()
        wal = read_wal(connection, SystemFiles(), str(again))
    assert wal.frames == frames.places.index(frames.commits[-2]) + 1
    assert not wal.torn
    assert await opened(again) == list(range(1, EVENTS))


async def test_a_log_whose_making_was_torn_is_made_anew(tmp_path: Path) -> None:
    """What is blanked is never what was written since."""
    path = await left(tmp_path, 0)
    frames = Frames(Path(f"{path}-wal"))
    del frames.content[frames.commits[0] + frames.step :]
    frames.flip(frames.places[0] + 100)
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))

    again = copied(store.path, tmp_path / "again")
    await store.close()
    assert await opened(again) == [1]


async def test_zeros_and_an_empty_log_are_the_end_and_no_damage(tmp_path: Path) -> None:
    path = await left(tmp_path)
    wal = Path(f"{path}-wal")
    content = wal.read_bytes()
    wal.write_bytes(content + bytes(100_000))
    assert await opened(path) == list(range(1, EVENTS + 1))

    wal.write_bytes(bytes(100_000))
    store = SqliteStore(str(path))
    await store.open(Ports())
    assert numbers(await feed(store)) == [*range(1, EVENTS + 1), 99]
    await store.close()


async def test_a_log_that_goes_on_as_it_is_looked_at_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads beside an engine may see its commits behind the end that was asked for."""
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    with closing(SystemFiles().connect(store.path, readonly=True)) as connection:
        connection.execute("SELECT count(*) FROM events").fetchall()
        before = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]
        monkeypatch.setattr(sqlite_damage, "_end", lambda _connection: before)

        for number in range(1, 4):
            await append(store, request("a:1", number, number + 1))
        connection.execute("PRAGMA data_version").fetchall()
        monkeypatch.setattr(sqlite_damage, "run", _counting(run))
        assert read_wal(connection, SystemFiles(), store.path).frames == before
    await store.close()


def _counting(real: Callable[..., list[tuple[int, ...]]]) -> Callable[..., list[tuple[int, ...]]]:
    """Let each look at what others have committed give another number."""
    seen = iter(range(1_000))

    def count(connection: apsw.Connection, sql: str, *values: object) -> list[tuple[int, ...]]:
        found = real(connection, sql, *values)
        return [(next(seen),)] if sql == "PRAGMA data_version" else found

    return count


# -- files that are not of one moment -------------------------------------------------------


async def many(folder: Path) -> tuple[SqliteStore, Path, Path]:
    """Give a store, and what its database was before and after two folds."""
    store = SqliteStore(str(folder / "made.db"))
    await store.open(Ports())
    first: Path | None = None
    for number in range(700):
        request_ = AppendRequest([Write(f"a:{number % 90}", number // 90, [LARGE])])
        await store.append(Batch([request_], number))
        if first is None and store.merges[0] == 1:
            first = copied(store.path, folder / "first", "")
        if store.merges[0] >= 3 and number % 90 == 50:
            break
    assert first is not None
    assert store.merges[0] >= 3
    return store, first, copied(store.path, folder / "last", "", "-wal")


async def test_a_copy_that_spans_a_fold_is_refused(tmp_path: Path) -> None:
    store, early, late = await many(tmp_path)
    await store.close()
    shutil.copy(f"{late}-wal", f"{early}-wal")

    with pytest.raises(StoreRefused, match=r"not of one moment|a copy of a running log"):
        await opened(early)


async def test_a_database_that_is_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    store, _, late = await many(tmp_path)
    await store.close()
    content = late.read_bytes()
    late.write_bytes(content[: len(content) // 2 // 8_192 * 8_192])

    with pytest.raises(StoreRefused, match=r"not of one moment|copy of a running"):
        await opened(late)
    Path(f"{late}-wal").unlink()
    with pytest.raises(StoreRefused, match=r"malformed|damaged"):
        await opened(late)


@pytest.mark.parametrize("root", ["events", "events_by_stream", "streams"])
async def test_a_page_of_zeros_is_refused(tmp_path: Path, root: str) -> None:
    store, _, _ = await many(tmp_path)
    await store.close()
    with closing(apsw.Connection(store.path)) as connection:
        sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        page: Any = connection.execute(sql, (root,)).fetchall()[0][0]
    content = bytearray(Path(store.path).read_bytes())
    content[(page - 1) * 8_192 : page * 8_192] = bytes(8_192)
    Path(store.path).write_bytes(content)

    with pytest.raises(StoreRefused, match=r"malformed"):
        await opened(Path(store.path))


@pytest.mark.parametrize("missing", ["removed", "empty"])
async def test_a_write_ahead_log_without_its_database_is_kept_and_refused(
    tmp_path: Path, missing: str
) -> None:
    """SQLite would remove it as that of nothing."""
    path = await left(tmp_path)
    if missing == "removed":
        path.unlink()
    else:
        path.write_bytes(b"")
    size = Path(f"{path}-wal").stat().st_size

    with pytest.raises(StoreRefused, match=f"not there or is empty.*{size} bytes"):
        await opened(path)
    assert Path(f"{path}-wal").stat().st_size == size


async def test_a_lost_row_in_the_index_is_refused(tmp_path: Path) -> None:
    path = await left(tmp_path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("DROP TRIGGER events_never_go; DELETE FROM events WHERE position = 5")
        copy = copied(str(path), tmp_path / "copy")
    size = Path(f"{copy}-wal").stat().st_size

    for refused in (path, copy):
        with pytest.raises(StoreRefused, match=r"its index has 11 events of 12"):
            await opened(refused)
    assert Path(f"{copy}-wal").stat().st_size == size, "what is refused is not folded"
