"""The whole length: commands in, events durable, views exact, answers out; killed at every step."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from engine import Closed, EngineFailed, OutcomeUnknown, Ports, ProjectionLag, UsageError
from engine.model.codec import decode_meta
from engine.runtime.ports import FAILPOINTS
from engine.stores.sqlite.log.store import SqliteStore
from tests.support import warm
from tests.support.counters import Add, Empty
from tests.support.faults import FaultyVfs, VfsFiles
from tests.support.tallies import (
    AILING,
    COMMANDS,
    GetTallies,
    GetTally,
    Tally,
    tallied,
)
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    AILING.clear()


async def test_a_query_at_a_receipt_sees_its_effect(url: str) -> None:
    async with tallied(url) as engine:
        for n in range(1, 30):
            receipt = await engine.execute(Add("a", 2))
            for at in (receipt, receipt.token, receipt.position):
                assert await engine.query(GetTally("a"), at=at) == Tally("a", 2 * n, n)
        receipt = await engine.execute(Empty("a"))

        assert await engine.query(GetTally("a"), at=receipt) is None


async def test_many_aggregates_are_tallied_exactly(url: str) -> None:
    async with tallied(url) as engine:
        commands = [Add(f"c{n % 50:02}", n) for n in range(2_000)]
        receipts = [answer async for answer in engine.execute_many(commands)]
        last = max(getattr(receipt, "position", 0) for receipt in receipts)
        tallies = await engine.query(GetTallies(), at=last)

    assert last == 2_000
    assert [t.events for t in tallies] == [40] * 50
    assert sum(t.total for t in tallies) == sum(range(2_000))


async def test_views_go_on_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    for n in range(1, 4):
        async with tallied(url) as engine:
            receipt = await engine.execute(Add("a", 1))
            assert await engine.query(GetTally("a"), at=receipt) == Tally("a", n, n)

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log.db", "log.db.lock", "log.views.db"]


async def test_views_that_are_gone_are_folded_again(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with tallied(url) as engine:
        await asyncio.gather(*(engine.execute(Add(f"c{n}", n)) for n in range(50)))
    (tmp_path / "log.views.db").unlink()
    async with tallied(url) as engine:
        tallies = await engine.query(GetTallies(), at=engine.statistics().position)

    assert len(tallies) == 50


async def test_views_of_another_log_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with tallied(url) as engine:
        receipt = await engine.execute(Add("a", 100))
        await engine.query(GetTally("a"), at=receipt)
    (tmp_path / "log.db").unlink()
    with caplog.at_level(logging.WARNING, "foldline"):
        async with tallied(url) as engine:
            receipt = await engine.execute(Add("b", 1))
            tallies = await engine.query(GetTallies(), at=receipt)

    assert tallies == [Tally("b", 1, 1)]
    assert "do not belong to this log" in caplog.text


async def test_a_poison_event_stops_its_projection_and_nobody_else(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with tallied(url) as engine:
        await engine.execute(Add("a", 1))
        AILING.add("b")
        poison = await engine.execute(Add("b", 1))
        after = await engine.execute(Add("a", 1))
        with pytest.raises(ProjectionLag, match=r"tallies is \d behind, at 1 \(stopped\)"):
            await engine.query(GetTally("a"), at=after, timeout=60)
        failure = engine.statistics().projectors["tallies"].failure
        assert failure
        assert (failure.position, failure.event) == (poison.position, "added v1")
        assert "ValueError" in failure.cause
        assert "projection tallies stopped at position 2" in caplog.text
        assert await engine.query(GetTally("a")) == Tally("a", 1, 1)

        AILING.clear()
        await engine.projections.resume("tallies")

        assert await engine.query(GetTally("b"), at=after) == Tally("b", 1, 1)
        assert await engine.query(GetTally("a")) == Tally("a", 2, 2)


async def test_resuming_an_unknown_projection_is_refused() -> None:
    async with tallied("memory:") as engine:
        with pytest.raises(
            UsageError, match=r"no projection 'orders' here; there are \['tallies'\]"
        ):
            await engine.projections.resume("orders")


async def test_stopping_leaves_no_event_behind_that_was_seen(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with tallied(url) as engine:
        await asyncio.gather(*(engine.execute(Add("a", 1)) for _ in range(500)))
    async with tallied(url) as engine:
        assert await engine.query(GetTally("a"), at=500) == Tally("a", 500, 500)
        assert engine.statistics().projectors["tallies"].position == 500


async def test_a_failed_sync_of_the_log_stops_the_engine_and_the_key_tells_what_became_of_it(
    tmp_path: Path,
) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    vfs = FaultyVfs()
    with pytest.raises(EngineFailed, match="the commit failed"):
        async with tallied(url, Ports(files=VfsFiles(vfs.name))) as engine:
            await engine.execute(Add("a", 1), key="first")
            vfs.faults["sync log.db-wal"] = apsw.SQLITE_IOERR
            with pytest.raises(OutcomeUnknown, match="send the same command with the same key"):
                await engine.execute(Add("a", 10), key="second")
            with pytest.raises(Closed):
                await engine.execute(Add("a", 100), key="third")
            vfs.faults.clear()
            with pytest.raises(Closed):
                await engine.execute(Add("a", 100), key="third")
    async with tallied(url) as engine:
        receipt = await engine.execute(Add("a", 10), key="second")

        assert receipt.version == 2
        assert await engine.query(GetTally("a"), at=receipt) == Tally("a", 11, 2)
    vfs.unregister()


async def test_a_full_disk_under_the_views_delays_them_and_not_the_log(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    vfs = FaultyVfs()
    async with tallied(url, Ports(files=VfsFiles(vfs.name))) as engine:
        vfs.faults["write log.views.db-wal"] = apsw.SQLITE_FULL
        receipt = await engine.execute(Add("a", 1))
        await until(lambda: engine.statistics().projectors["tallies"].state == "retrying")
        with pytest.raises(ProjectionLag, match="retrying"):
            await engine.query(GetTally("a"), at=receipt, timeout=0.01)
        receipt = await engine.execute(Add("a", 1))
        vfs.faults.clear()

        assert await engine.query(GetTally("a"), at=receipt, timeout=60) == Tally("a", 2, 2)
    vfs.unregister()


async def keys_in(path: str) -> list[str]:
    """Give the keys in a log, in the order of its events."""
    store = SqliteStore(path)
    await store.open(Ports())
    events = await store.read_feed(0, events_max=1_000, bytes_max=1 << 30)
    await store.close()
    return [str(decode_meta(event).key) for event in events]


KILLED = [name for name in FAILPOINTS if name != "mailbox.accepted"]


@pytest.mark.parametrize("hit", [1, 7])
@pytest.mark.parametrize("failpoint", KILLED)
async def test_a_kill_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, failpoint: str, hit: int
) -> None:
    path = str(tmp_path / "log.db")
    command = [sys.executable, "-m", "tests.support.tallies", f"sqlite:{path}", failpoint, str(hit)]
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    survived = await keys_in(path)
    # What was printed was acknowledged before the kill, and must be there before anything else.
    assert set(done.stdout.split()) <= set(survived)
    assert len(survived) == len(set(survived))
    async with tallied(f"sqlite:{path}") as engine:
        for counter, amount, key in COMMANDS:
            await engine.execute(Add(counter, amount), key=key)
        tallies = await engine.query(GetTallies(), at=engine.statistics().position)

    keys = await keys_in(path)
    assert keys[: len(survived)] == survived
    assert sorted(keys) == sorted(key for _, _, key in COMMANDS)
    assert {t.counter: (t.total, t.events) for t in tallies} == {
        f"c{c}": (sum(n for name, n, _ in COMMANDS if name == f"c{c}"), 12) for c in range(5)
    }
