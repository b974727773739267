"""Closed streams in a cold file: read as before, moved safely, refused where anything is odd."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import pytest_asyncio

from engine import ArchiveUnread, Damaged, StoreFailed, StoreLocked, StoreRefused
from engine.errors import DefinitionError
from engine.model.stored import EventData, StoredEvent
from engine.runtime.ports import ARCHIVE_FAILPOINTS, Ports
from engine.stores.contract.archiving import Archived, ArchiveRule
from engine.stores.contract.log import AppendRequest, Batch, StreamRead, Write
from engine.stores.contract.tags import TagForm, TagRead
from engine.stores.sqlite.connection import cut_wal, run
from engine.stores.sqlite.log import archiving
from engine.stores.sqlite.log.archiving import SqliteArchiver
from engine.stores.sqlite.log.cold import MOVED, cold_path, is_attached
from engine.stores.sqlite.log.schema import MIGRATIONS, read_schema_version
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import ALL
from tests.crashes.archive import ADDED, CLOSED, RULE, fill, read, trial
from tests.stores.spoiled_cold import (
    cut,
    flipped,
    gone,
    no_database,
    of_another_log,
    of_another_type,
)
from tests.support import warm

MOVED_EVENTS = 40
SECONDS = 30
MANY = ("archive.copied", "archive.verified", "archive.removing", "archive.moved")
"""Steps of each page."""
KILLED = """
import asyncio, os, signal, sys
from engine.runtime.ports import Ports
from engine.stores.sqlite.log import archiving
from tests.crashes.archive import RULE
archiving._PAGE_EVENTS = 10
left = int(sys.argv[3])
def die(name):
    global left
    if name == sys.argv[2]:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
async def move():
    async with archiving.SqliteArchiver(sys.argv[1], Ports(failpoint=die)) as archiver:
        await archiver.archive(RULE, lambda a, b: None)
asyncio.run(move())
"""


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> AsyncIterator[str]:
    """Give a log of orders, of which two in three are closed."""
    store = SqliteStore(str(tmp_path / "shop.db"))
    await store.open(Ports())
    await fill(store)
    await store.close()
    yield store.path


async def move(path: str, rule: ArchiveRule = RULE) -> Archived:
    async with SqliteArchiver(path, Ports()) as archiver:
        return await archiver.archive(rule, lambda _moved, _events: None)


def moved(path: str) -> list[int]:
    """Give the positions whose contents the log has not any more."""
    sql = "SELECT position FROM events WHERE encoding = ? AND payload = x'' AND metadata = x''"
    with closing(apsw.Connection(path)) as connection:
        return [position for (position,) in run(connection, sql, (MOVED,))]


async def test_what_was_moved_reads_as_it_did_and_the_log_is_smaller(path: str) -> None:
    before, size = read(path), Path(path).stat().st_size
    done = await move(path)

    assert (done.streams, done.events) == (8, MOVED_EVENTS)
    assert len(moved(path)) == MOVED_EVENTS, "the contents are in the cold file alone"
    assert size == done.before > done.after == Path(path).stat().st_size
    assert read(path) == before
    store = SqliteStore(path)
    await store.open(Ports())
    assert list(await store.read_feed(0, events_max=99, bytes_max=ALL)) == before
    await store.close()
    with SqliteLogReader(path) as reader:
        for event in before:
            assert reader.read_feed(event.position - 1, events_max=1, bytes_max=1) == [event]
            assert reader.checksum_at(event.position) == event.checksum
        for stream in {event.stream for event in before}:
            mine = [event for event in before if event.stream == stream]
            assert reader.version_of(stream) == len(mine)
            for after in range(len(mine)):
                read_ = [StreamRead(stream, after)]
                pages = reader.read_streams(read_, events_max=9, bytes_max=ALL)
                assert (pages[0].events, pages[0].more) == (mine[after:], False)


async def test_a_page_has_no_more_bytes_than_it_may(path: str) -> None:
    await move(path)
    whole = read(path)
    found: list[StoredEvent] = []
    with SqliteLogReader(path) as reader:
        while page := reader.read_feed(len(found), events_max=50, bytes_max=1_000):
            sizes = [len(event.payload) + len(event.metadata) for event in page]
            assert len(page) == 1 or sum(sizes) <= 1_000
            found += page
    assert found == whole


async def test_a_second_run_moves_what_was_closed_since_and_nothing_twice(path: str) -> None:
    before = read(path)
    assert (await move(path, ArchiveRule("order", ("closed",), 5))).events == MOVED_EVENTS
    assert (await move(path)).events == 0
    assert (await move(path, ArchiveRule("order", ("added",), 5))).events == 20
    assert read(path) == before


def _only_of_the_cold_file(refused: StoreFailed) -> Callable[[Any, Any, str], None]:
    def some(connection: Any, files: Any, path: str) -> None:
        if path.endswith("shop.db"):
            raise refused
        cut_wal(connection, files, path)

    return some


async def test_where_the_room_is_not_given_back_the_next_run_does_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, size = read(path), Path(path).stat().st_size
    with monkeypatch.context() as patch:
        refused = StoreFailed("somebody reads it", written=False)
        patch.setattr(archiving, "cut_wal", _only_of_the_cold_file(refused))
        done = await move(path)
    assert (done.events, done.is_shrunk) == (MOVED_EVENTS, False)
    assert read(path) == before
    again = await move(path)
    assert (again.events, again.is_shrunk) == (0, True)
    assert again.after < size


@pytest.mark.parametrize(
    ("rule", "events"),
    [
        (ArchiveRule("order", ("closed",), 4), 0),
        (ArchiveRule("order", ("other",), 9), 0),
        (ArchiveRule("ord", ("closed",), 9), 0),
        (ArchiveRule("other", ("added",), 99), 0),
    ],
    ids=["too-young", "not-closed", "another-kind", "the-last-event-of-the-log"],
)
async def test_what_no_rule_closes_stays(path: str, rule: ArchiveRule, events: int) -> None:
    before = Path(path).read_bytes()
    archiver = SqliteArchiver(path, Ports())
    assert (await archiver.archive(rule, lambda _a, _b: None, dry_run=True)).events == events
    assert Path(path).read_bytes() == before
    assert (await move(path, rule)).events == events
    assert not moved(path)


async def test_a_rule_that_selects_nothing_or_everything_is_refused() -> None:
    for kind, names in (("order", ()), ("order", ("",)), ("", ("closed",)), ("a:b", ("closed",))):
        with pytest.raises(DefinitionError, match="nothing was archived"):
            ArchiveRule(kind, names, 1)


async def test_no_engine_runs_meanwhile_and_a_look_is_always_possible(path: str) -> None:
    store = SqliteStore(path)
    await store.open(Ports())
    with pytest.raises(StoreLocked):
        await move(path)
    look = await SqliteArchiver(path, Ports()).archive(RULE, lambda _a, _b: None, dry_run=True)
    assert (look.streams, look.events) == (8, MOVED_EVENTS)
    await store.close()
    assert not Path(cold_path(path)).exists()
    refused: list[str] = []

    def engine_starts(name: str) -> None:
        if name == "archive.verified" and not refused:
            other = "from engine.stores.sqlite.system_files import SystemFiles as F; "
            ran = subprocess.run(
                [sys.executable, "-c", f"{other}F().lock({path + '.lock'!r})"],
                capture_output=True,
                text=True,
                check=False,
            )
            refused.append(ran.stderr)

    async with SqliteArchiver(path, Ports(failpoint=engine_starts)) as archiver:
        await archiver.archive(RULE, lambda _a, _b: None)
    assert "StoreLocked" in refused[0]


# -- dying ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "time"),
    [(step, time) for step in ARCHIVE_FAILPOINTS for time in (1, 2) if time == 1 or step in MANY],
)
async def test_a_kill_at_any_step_loses_nothing_and_the_next_run_goes_on(
    path: str, step: str, time: int
) -> None:
    before = read(path)
    command = [sys.executable, "-c", KILLED, path, step, str(time)]
    status = warm.run(command, timeout=SECONDS, check=False).returncode
    assert status == -signal.SIGKILL
    assert read(path) == before
    store = SqliteStore(path)
    await store.open(Ports())
    assert list(await store.read_feed(0, events_max=99, bytes_max=ALL)) == before
    await store.close()

    await move(path)
    assert len(moved(path)) == MOVED_EVENTS
    assert read(path) == before


@pytest.mark.parametrize("seed", range(6))
def test_a_loss_of_power_at_any_call_loses_nothing(seed: int, tmp_path: Path) -> None:
    assert trial(seed, tmp_path / "disk") == []


# -- what must hold whatever the code does --------------------------------------------------------


async def test_nothing_is_removed_whose_copy_is_not_the_same(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the comparison, and without it by the trigger."""
    before = read(path)
    copy = SqliteArchiver._copy

    def spoiled(self: SqliteArchiver, *given: object) -> None:
        copy(self, *given)  # type: ignore[arg-type]
        run(self._cold, "UPDATE events SET payload = x'7b7d' WHERE position = 2")

    monkeypatch.setattr(SqliteArchiver, "_copy", spoiled)
    with pytest.raises((StoreRefused, Damaged)):
        await move(path)
    assert not moved(path)
    monkeypatch.setattr(SqliteArchiver, "_compare", lambda *_: None)
    with pytest.raises(StoreFailed, match="emptied only where the cold file has the same"):
        await move(path)
    assert not moved(path)
    assert read(path) == before
    monkeypatch.undo()
    Path(cold_path(path)).unlink()  # whose event nobody can use any more
    for what in ("recorded = 0", "position = position + 1000", "checksum = 0"):
        with monkeypatch.context() as patch:
            patch.setattr(archiving, "_EMPTY", archiving._EMPTY.replace("SET", f"SET {what},"))
            with pytest.raises(StoreFailed, match="emptied only where the cold file has the same"):
                await move(path)
        assert not moved(path)
    assert read(path) == before


async def test_only_the_contents_of_events_change_and_a_shell_changes_nothing(path: str) -> None:
    columns = "position, stream, version, type, recorded, checksum"
    with closing(apsw.Connection(path)) as connection:
        before = run(connection, f"SELECT {columns} FROM events")
    await move(path)
    with closing(apsw.Connection(path)) as connection:
        assert run(connection, f"SELECT {columns} FROM events") == before
    for file in (path, cold_path(path)):
        for statement in (
            "UPDATE events SET payload = x'00'",
            "DELETE FROM events",
            "DELETE FROM streams",
            "UPDATE about SET log_id = 'other'",
        ):
            with closing(apsw.Connection(file)) as shell, pytest.raises(apsw.ConstraintError):
                run(shell, statement)
    for statement in ("DELETE FROM archives", "UPDATE archives SET events = 1"):
        with closing(apsw.Connection(path)) as shell, pytest.raises(apsw.ConstraintError):
            run(shell, statement)


async def test_a_release_that_knows_no_cold_file_refuses_the_log_by_name(path: str) -> None:
    await move(path)
    with (
        closing(apsw.Connection(path)) as connection,
        pytest.raises(StoreRefused, match="a later release has migrated it"),
    ):
        read_schema_version(connection, path, len(MIGRATIONS) - 1)
    with pytest.raises(StoreRefused, match="a database of something else"):
        await SqliteStore(cold_path(path)).open(Ports())


async def test_a_damaged_event_is_not_moved(path: str) -> None:
    with closing(apsw.Connection(path)) as connection:
        run(connection, "DROP TRIGGER events_never_change")
        run(connection, "UPDATE events SET payload = x'7b7d' WHERE position = 26")
    with pytest.raises(Damaged, match="position 26"):
        await move(path)
    assert 26 not in moved(path)


# -- a cold file that is not as it was ------------------------------------------------------------


SPOILS = [gone, no_database, of_another_log, of_another_type, flipped, cut]


@pytest.mark.parametrize("spoil", SPOILS)
async def test_a_cold_file_that_is_not_as_it_was_is_named_and_the_rest_is_served(
    path: str, tmp_path: Path, spoil: object
) -> None:
    other = tmp_path / "other" / "shop.db"
    other.parent.mkdir()
    store = SqliteStore(str(other))
    await store.open(Ports())
    await fill(store)
    await store.close()
    await move(str(other))
    before = read(path)
    cold = Path(cold_path(path))
    await move(path)
    there = set(moved(path))
    assert callable(spoil)
    spoil(cold, other)

    store = SqliteStore(path)
    await store.open(Ports())
    refused: list[Damaged] = []
    for event in before:
        try:
            found = await store.read_feed(event.position - 1, events_max=1, bytes_max=1)
        except Damaged as error:
            refused.append(error)
        else:
            assert found == [event]
    assert {error.position for error in refused} <= there
    unread = [error for error in refused if isinstance(error, ArchiveUnread)]
    assert all(error.path == str(cold) and str(cold) in str(error) for error in unread)
    assert refused
    if spoil is not flipped:
        assert unread == refused
    if spoil is not flipped and spoil is not cut:
        assert {error.position for error in refused} == there
    await store.close()


async def test_a_cold_file_of_another_log_is_not_written_to(path: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    store = SqliteStore(str(other))
    await store.open(Ports())
    await fill(store)
    await store.close()
    await move(str(other))
    Path(cold_path(str(other))).rename(cold_path(path))
    with pytest.raises(StoreRefused, match="events of another log"):
        await move(path)
    assert not moved(path)


async def test_an_index_of_tags_is_made_anew_from_both_files(path: str) -> None:
    before = read(path)
    await move(path)
    store = SqliteStore(path)
    await store.open(Ports())
    forms = [TagForm("added", 1, (("stream", "order"),))]
    with pytest.raises(StoreRefused, match="order"):
        await store.index_tags(forms)  # no payload has it: each was read for that
    assert await store.index_tags([TagForm("closed", 1, (("text", "text"),))]) == 8
    assert not is_attached(store._connection), "no batch locks the cold file"
    closing_ = next(event for event in before if event.name == "closed")
    text = msgspec.json.decode(closing_.payload)["text"]
    (page,) = await store.read_tagged(
        [TagRead((f"text:{text}",), ("closed",))], events_max=9, bytes_max=ALL
    )
    assert page.events == [closing_]
    await store.close()


async def test_a_second_cold_file_is_never_begun(path: str) -> None:
    await move(path, ArchiveRule("order", ("closed",), 5))
    cold = Path(cold_path(path))
    cold.rename(cold.with_name("elsewhere.db"))
    with pytest.raises(StoreRefused, match="it is not there: put that file back"):
        await move(path, ArchiveRule("order", ("added",), 5))
    assert not cold.exists()


async def test_nothing_is_moved_into_an_older_cold_file(path: str) -> None:
    """What is moved then would not be in the right one, and what was moved before not in this."""

    async def close(order: int) -> None:
        store = SqliteStore(path)
        await store.open(Ports())
        wanted = [(f"order:{order}", 5, CLOSED), (f"other:{order}", 0, ADDED)]
        writes = [Write(name, version, [EventData(k, b"2")]) for name, version, k in wanted]
        await store.append(Batch([AppendRequest([write]) for write in writes], 9))
        await store.close()

    cold = Path(cold_path(path))
    await move(path)
    older = cold.read_bytes()
    await close(0)
    assert (await move(path)).streams == 1
    right, there = cold.read_bytes(), moved(path)
    await close(3)
    whole = read(path)
    cold.write_bytes(older)
    with pytest.raises(StoreRefused, match="older than the log. Nothing was moved"):
        await move(path)
    assert moved(path) == there
    cold.write_bytes(right)
    assert (await move(path)).streams == 1
    assert read(path) == whole


async def test_a_reader_that_was_open_before_finds_what_is_moved_meanwhile(path: str) -> None:
    with SqliteLogReader(path) as reader:
        before = reader.read_feed(0, events_max=99, bytes_max=ALL)
        done = await move(path)
        assert done.is_shrunk
        assert reader.read_feed(0, events_max=99, bytes_max=ALL) == before
