"""A backup of a log: what is in it, how it grows, what it refuses, what comes out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine import Damaged, StoreRefused
from engine.backups.pace import Pace
from engine.backups.reading import BackupLog
from engine.model.stored import EventData
from engine.outside.claims import compare_claims
from engine.outside.copying import CopyProgress
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.urls import open_backend
from engine.testing.conformance import ADDED
from engine.testing.scenario import ManualClock
from tests.backups.made import append, backed_up, claimed, manifest, place, restored
from tests.outside.copied import (
    Board,
    GetCounts,
    Letters,
    NewStore,
    Pin,
    boards,
    filled,
    log_of,
)

WAYS = [
    ("sqlite", "sqlite"),
    ("sqlite", "postgresql"),
    ("postgresql", "sqlite"),
    ("postgresql", "postgresql"),
]


# -- what is in it --------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), WAYS)
async def test_an_engine_goes_on_with_a_restored_log(
    new: NewStore, tmp_path: Path, here: str, there: str
) -> None:
    source, target = new(here), new(there)
    async with boards(source) as engine:
        await filled(engine)
        await engine.projections.pause("counts", reason="ä\0\1", principal="ann")
        await engine.projections.resume("counts", reason="on")
        counts = await engine.query(GetCounts())
        receipt = await engine.execute(Pin("b0", "note 3"), key="key-3")
        early = await asyncio.to_thread(backed_up, source, tmp_path / "backup")
        assert (early.position, early.in_use) == (24, True)
    made = await asyncio.to_thread(backed_up, source, tmp_path / "backup")
    assert (made.resumed_at, made.position, made.in_use) == (24, 24, False)
    delivered = list(Letters.delivered)

    done = await asyncio.to_thread(restored, tmp_path / "backup", target)

    assert log_of(target) == log_of(source)
    assert (done.position, done.snapshots) == (24, made.snapshots)
    assert done.carried is not None
    assert done.carried.folded == ["counts"]
    with (
        open_backend(target).outside(Ports()).operations() as now,
        open_backend(source).outside(Ports()).operations() as before,
    ):
        assert now.decisions(None) == before.decisions(None) != []
        assert now.parked("letters") == before.parked("letters") != []
    async with boards(target) as engine:
        assert await engine.execute(Pin("b0", "note 3"), key="key-3") == receipt
        assert (await engine.execute(Pin("b0", "new"), key="key-new")).position == 25
        assert (await engine.state(Board, "b0")).notes[-1] == "new"
        await engine.projections.retry("letters")
        found = await engine.query(GetCounts(), at=25)
    assert [(c.board, c.notes) for c in found] == [
        (c.board, c.notes + (c.board == "b0")) for c in counts
    ]
    assert Letters.delivered[: len(delivered)] == delivered
    assert len(Letters.delivered) == len(set(Letters.delivered)), "nothing is delivered twice"


async def test_claims_of_a_restored_log_are_those_that_its_events_say(
    new: NewStore, tmp_path: Path
) -> None:
    source, target = new("sqlite"), new("sqlite")
    await claimed(source, 120)
    backed_up(source, tmp_path / "backup")

    restored(tmp_path / "backup", target, at=50)

    with open_backend(target).outside(Ports()).log_reader() as log:
        compared = compare_claims(log)
    assert (compared.position, compared.claims, compared.differences) == (50, 17, ())


async def test_a_backup_beside_a_writer_is_of_one_position(new: NewStore, tmp_path: Path) -> None:
    source = new("sqlite")
    await claimed(source, 40)
    log = open_backend(source).log()
    await log.open(Ports())
    written = 0

    async def write() -> None:
        nonlocal written
        event = EventData(ADDED, b"{}")
        await log.append(Batch([AppendRequest([Write("beside:1", written, [event])])], 3_000))
        written += 1

    loop = asyncio.get_running_loop()

    def show(progress: CopyProgress) -> None:
        if progress.what == "copied" and written < 5:
            asyncio.run_coroutine_threadsafe(write(), loop).result(10)

    made = await asyncio.to_thread(backed_up, source, tmp_path / "backup", show)
    await write()
    await log.close()

    assert 40 < made.position < 40 + written
    target = new("sqlite")
    restored(tmp_path / "backup", target)
    assert log_of(target)[1] == log_of(source)[1][: made.position]


# -- how it grows ---------------------------------------------------------------------------------


async def test_a_second_backup_adds_what_is_new_and_leaves_the_rest(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 70)
    backed_up(source, folder, segment_events=14)
    first = manifest(folder)
    read: list[int] = []
    await append(source, 9)

    done = backed_up(source, folder, lambda p: read.append(p.position), segment_events=14)

    assert (done.resumed_at, done.position) == (70, 79)
    assert read == [77, 79], "only what is new is read"
    now = manifest(folder)
    assert now.segments[: len(first.segments)] == first.segments
    assert [s.first for s in now.segments] == [1, 15, 29, 43, 57, 71]
    target = new("sqlite")
    restored(folder, target)
    assert log_of(target) == log_of(source)


async def test_small_segments_become_one_and_nothing_else_stays_in_the_folder(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 3)
    for round_ in range(4):
        backed_up(source, folder)
        await append(source, 2, after=2 * round_)
    before = manifest(folder)
    backed_up(source, folder)

    found = manifest(folder)
    assert [(s.first, s.after.position) for s in found.segments] == [(1, 11)]
    names = found.files() | before.files()
    assert {p.name for p in folder.iterdir()} == names | {"manifest.json", "backup.lock"}
    target = new("sqlite")
    restored(folder, target)
    assert log_of(target) == log_of(source)


async def test_who_reads_a_backup_while_it_is_continued_reads_the_one_of_before(
    new: NewStore, tmp_path: Path
) -> None:
    """A verify called a sound backup damaged, and a restore failed, beside a job of each hour."""
    source, folder, target = new("sqlite"), tmp_path / "backup", new("sqlite")
    await claimed(source, 3)
    backed_up(source, folder)
    before = log_of(source)
    with BackupLog(place(folder)) as log:  # it reads its manifest here
        await append(source, 2, after=0)
        backed_up(source, folder)
        assert log.head().position == 3
        assert [event.position for event in log.read_feed(0, events_max=9, bytes_max=9_999)] == [
            1,
            2,
            3,
        ]
        assert list(log.beside())
    restored(folder, target, at=3)
    assert log_of(target) == before


async def test_a_backup_that_was_interrupted_goes_on_from_its_last_segment(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 70)

    class Ended(Exception):
        pass

    def end(progress: CopyProgress) -> None:
        if progress.position > 40:
            raise Ended

    with pytest.raises(Ended):
        backed_up(source, folder, end, segment_events=14)

    begun = manifest(folder)
    assert (begun.position, begun.whole) == (42, False)
    early = new("sqlite")
    assert restored(folder, early).position == 42, "what is there is a backup of its position"
    read: list[int] = []
    done = backed_up(source, folder, lambda p: read.append(p.position), segment_events=14)
    assert (done.resumed_at, done.position, read[0]) == (42, 70, 49)
    assert manifest(folder).whole


# -- what it refuses ------------------------------------------------------------------------------


async def test_a_folder_takes_backups_of_one_history_only(new: NewStore, tmp_path: Path) -> None:
    source, other, folder = new("sqlite"), new("sqlite"), tmp_path / "backup"
    await claimed(source, 20)
    await claimed(other, 20)
    backed_up(source, folder)
    before = manifest(folder)
    with pytest.raises(StoreRefused, match="of the log"):
        backed_up(other, folder)

    target = new("sqlite")
    restored(folder, target, at=15)
    with pytest.raises(StoreRefused, match="went back"):
        backed_up(target, folder)
    await append(target, 30)
    with pytest.raises(StoreRefused, match="went back since .* Keep the copy"):
        backed_up(target, folder)
    assert manifest(folder) == before


@pytest.mark.parametrize("which", [0, 1, -1])
@pytest.mark.parametrize("left", [None, 0, 100])
async def test_nothing_is_added_to_a_backup_that_lacks_one_of_its_files(
    new: NewStore, tmp_path: Path, which: int, left: int | None
) -> None:
    """It said "backed up" each night, of what nobody could restore."""
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 70)
    backed_up(source, folder, segment_events=14)
    before = manifest(folder)
    gone = folder / before.segments[which].file.name
    whole = gone.read_bytes()
    gone.unlink()
    if left is not None:
        gone.write_bytes(whole[:left])
    for more in (0, 3):
        await append(source, more)
        with pytest.raises(StoreRefused, match=rf"{gone.name} of .*(is not there|has {left} byte)"):
            backed_up(source, folder, segment_events=14)
        assert manifest(folder) == before

    gone.write_bytes(whole)
    (folder / before.beside[0].name).unlink()  # of which there is a new one each time
    assert backed_up(source, folder, segment_events=14).position == 73
    target = new("sqlite")
    restored(folder, target)
    assert log_of(target) == log_of(source)


async def test_a_folder_of_something_else_and_one_in_use_are_refused(
    new: NewStore, tmp_path: Path
) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 2)
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"x")
    with pytest.raises(StoreRefused, match=r"photo\.jpg"):
        backed_up(source, folder)
    (folder / "photo.jpg").unlink()
    writing = place(folder)
    writing.begin()
    with pytest.raises(StoreRefused, match="another process writes a backup"):
        backed_up(source, folder)
    writing.end()
    assert backed_up(source, folder).position == 2


async def test_a_restore_writes_over_nothing(new: NewStore, tmp_path: Path) -> None:
    source = new("sqlite")
    await claimed(source, 5)
    backed_up(source, tmp_path / "backup")
    with pytest.raises(StoreRefused, match="there already"):
        restored(tmp_path / "backup", source)
    with pytest.raises(StoreRefused, match="there is no backup"):
        restored(tmp_path / "elsewhere", new("sqlite"))


def flips(data: bytes) -> Sequence[int]:
    """Give some bits of a file: the first ones, the last ones, and every 97th."""
    bits = len(data) * 8
    return sorted({*range(min(bits, 40)), *range(max(0, bits - 40), bits), *range(0, bits, 97)})


async def test_no_flipped_bit_of_a_backup_goes_unseen(new: NewStore, tmp_path: Path) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    async with boards(source) as engine:
        await filled(engine)
    backed_up(source, folder, segment_events=14)

    def read_all() -> None:
        with BackupLog(place(folder)) as log:
            after = 0
            while page := log.read_feed(after, events_max=99, bytes_max=10**9):
                after = page[-1].position  # what stands before a damaged event is given
            assert after == 24
            assert len(list(log.beside())) == 3

    read_all()
    for path in folder.glob("*[!k]"):
        data = path.read_bytes()
        for bit in flips(data):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises((Damaged, StoreRefused), match=f"{path.name}|manifest"):
                read_all()
        path.write_bytes(data)
    read_all()


async def test_files_of_a_backup_cannot_change_places(new: NewStore, tmp_path: Path) -> None:
    source, folder = new("sqlite"), tmp_path / "backup"
    await claimed(source, 70)
    backed_up(source, folder, segment_events=14)
    one, two, *_ = [folder / s.file.name for s in manifest(folder).segments]
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    with pytest.raises(Damaged, match=one.name):
        restored(folder, new("sqlite"))
    two.unlink()
    one.write_bytes(data[0])
    with pytest.raises(Damaged, match="not there"):
        restored(folder, new("sqlite"))


# -- up to a position, or a time ------------------------------------------------------------------


async def test_a_log_is_restored_as_it_was_at_a_time(new: NewStore, tmp_path: Path) -> None:
    source, folder, clock = new("sqlite"), tmp_path / "backup", ManualClock()
    async with boards(source, ports=Ports(clock=clock)) as engine:
        await filled(engine, clock)
    backed_up(source, folder, segment_events=7)
    events = log_of(source)[1]

    for position in (1, 7, 8, 20, 24):
        at_time, at_position = new("sqlite"), new("sqlite")
        restored(folder, at_time, until=events[position - 1].recorded + 10)
        restored(folder, at_position, at=position)
        assert log_of(at_time)[1] == log_of(at_position)[1] == events[:position]
    with pytest.raises(Exception, match="no event by then"):
        restored(folder, new("sqlite"), until=events[0].recorded - 1)
    with pytest.raises(Exception, match="ends at position 24"):
        restored(folder, new("sqlite"), at=25)


async def test_sinks_of_a_log_that_went_back_go_on_behind_its_end(
    new: NewStore, tmp_path: Path
) -> None:
    source, target, folder = new("sqlite"), new("sqlite"), tmp_path / "backup"
    async with boards(source) as engine:
        await filled(engine)
    backed_up(source, folder)
    Letters.delivered.clear()

    restored(folder, target, at=12)

    async with boards(target) as engine:
        for n in range(3):
            await engine.execute(Pin(f"b{n}", "again"))
        await engine.query(GetCounts(), at=15)
        await engine.projections.retry("letters")
        parked = await engine.projections.parked("letters")
    assert [event.position for event in parked] == [8, 11, 14]
    assert sorted(Letters.delivered) == [13, 15], "nothing again, and nothing new left out"


# -- beside an engine -----------------------------------------------------------------------------


def test_of_each_stretch_of_work_the_rest_of_the_share_is_rested() -> None:
    now, rested = 100.0, list[float]()
    pace = Pace(25, lambda: now, rested.append)
    now += 0.1
    pace.rest()
    now += 5.0
    pace.rest()
    assert rested == [pytest.approx(0.3), 2.0]
    always = Pace(100, lambda: now, rested.append)
    now += 1.0
    always.rest()
    assert len(rested) == 2
