"""Projectors: every event counts once, in order; poison stops one of them until it is mended."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import StoreFailed, StoreRefused
from engine.limits import Limits
from engine.model.messages import Event
from engine.model.projection import Projection
from engine.model.rows import Scalar
from engine.model.stored import EventData
from engine.projections.targets.rows import RowTarget
from engine.statistics import ProjectorState
from engine.stores.contract.views import Changes, Checkpoint, Part
from tests.support.shelf import (
    MENDED,
    Book,
    Bought,
    Counts,
    CountsInSql,
    Crash,
    Dropped,
    Lent,
    Library,
    Log,
    Lost,
    Reader,
    Swept,
    Wired,
    fold_all,
    part_of,
)
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def broken() -> Iterator[None]:
    MENDED.clear()
    yield
    MENDED.clear()


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "shop.views.db")


def state_of(wired: Wired) -> str:
    return wired.projector.state


async def totals(wired: Wired) -> dict[str, int]:
    return {name: row.books for name, row in (await wired.rows(Counts.totals)).items()}


async def test_catching_up_gives_the_tables_that_folding_gives(path: str) -> None:
    log = Log()
    log.write(Bought("b1", 5), Bought("b2"), Lent("b1", "ann"), Swept(), Lost("b2"))
    async with Wired(log, path) as wired:
        await wired.caught_up()

        assert await wired.rows(Library.books) == {"b1": Book("b1", 5, "ann", 1)}
        assert await wired.rows(Library.readers) == {"ann": Reader("ann", 1, 3)}
        assert wired.projector.position == 5


async def test_rows_are_added_changed_and_deleted_live(path: str) -> None:
    async with Wired(Log(), path) as wired:
        for events in ([Bought("b1")], [Lent("b1", "ann")], [Bought("b2")], [Lost("b1")]):
            wired.publish(*events)
            await wired.caught_up()

        assert list(await wired.rows(Library.books)) == ["b2"]
        assert wired.projector.state == "live"
        assert wired.projector.statistics().bus.taken == 4


async def test_live_events_do_not_read_the_feed() -> None:
    log = Log()
    async with Wired(log, projections=[Counts]) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        reads = log.reads
        for _ in range(10):
            wired.publish(Bought("b"))
            await wired.caught_up()

        assert log.reads == reads
        assert await totals(wired) == {"all": 11}


async def test_a_publish_that_races_with_a_read_of_the_feed_counts_once() -> None:
    log = Log()
    log.write(Bought("b1"), Bought("b2"))
    raced = asyncio.Event()
    async with Wired(log, projections=[Counts]) as wired:

        def while_it_reads_what_is_stored() -> None:
            wired.publish(Lent("b1", "ann"))
            log.before_answer = while_it_finds_the_end

        def while_it_finds_the_end() -> None:
            wired.publish(Lent("b1", "ann"), Bought("b3"))
            raced.set()

        log.before_answer = while_it_reads_what_is_stored
        await raced.wait()
        await wired.caught_up()

        assert len(log.events) == 5
        assert await totals(wired) == fold_all(log)


@pytest.mark.parametrize("seed", range(20))
async def test_any_mix_of_feed_and_bus_counts_every_event_once(seed: int, path: str) -> None:
    choose = random.Random(seed)
    log = Log()
    limits = Limits(bus_events=12, projector_events=5, page_events=7, projector_rows=3)
    async with Wired(log, path, [Counts, Library], limits=limits) as wired:
        for _ in range(60):
            readers = ["ann", "bob", "cid", "dee"]
            events: list[Event] = [
                choose.choice([Bought("b"), Lent("b", choose.choice(readers)), Swept()])
                for _ in range(choose.randrange(1, 15))
            ]
            stored = log.write(*events)
            if choose.random() < 0.1:
                await wired.replace(Counts)
            wired.bus.publish(stored)
            for _ in range(choose.randrange(0, 6)):
                await asyncio.sleep(0)
        await wired.caught_up()

        assert await totals(wired) == fold_all(log)


async def test_an_overflowing_bus_loses_nothing() -> None:
    log = Log()
    async with Wired(log, projections=[Counts], limits=Limits(bus_events=10)) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        for _ in range(100):
            wired.publish(Bought("b"), Lent("b", "ann"), Swept())
        await wired.caught_up()

        statistics = wired.projector.statistics()
        assert statistics.bus.overflows > 0
        assert statistics.bus.waiting <= 10
        assert await totals(wired) == fold_all(log)


async def test_a_batch_too_large_for_the_bus_is_read_from_the_feed_though_nothing_follows() -> None:
    log = Log()
    async with Wired(log, projections=[Counts], limits=Limits(bus_events=10)) as wired:
        await until(lambda: log.reads == 1 and wired.projector.state == "live")
        wired.publish(*[Bought("b")] * 11)
        await wired.caught_up()

        assert await totals(wired) == {"all": 11}


async def test_a_projector_that_never_runs_does_not_hold_up_publishing() -> None:
    wired = Wired(Log(), limits=Limits(bus_events=10))
    for _ in range(1_000):
        wired.publish(Bought("b"))

    assert wired.projector.statistics().bus.waiting <= 10


async def test_the_checkpoint_moves_over_events_that_are_not_handled(path: str) -> None:
    log = Log()
    log.write(*[Swept()] * 3)
    async with Wired(log, path) as wired:
        await wired.caught_up()

        assert (await wired.views.checkpoint(part_of(Library))).position == 3
        assert wired.projector.statistics().events == 0


FAILPOINTS = ["projector.folded", "views.inserted", "views.checkpointed", "views.committed"]


@pytest.mark.parametrize("name", FAILPOINTS)
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("counts", [Counts, CountsInSql])
async def test_a_crash_at_any_step_counts_every_event_once(
    counts: type[Projection], name: str, at: int, tmp_path: Path
) -> None:
    left = at

    def crash(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                raise Crash

    log = Log()
    log.write(Bought("b"), Lent("b", "ann"))
    log.write(*[Bought("b")] * 3)
    path = str(tmp_path / "views.db")
    limits = Limits(page_events=2)
    crashed = Wired(log, path, [counts], limits=limits, failpoint=crash)
    await crashed.open()
    crashed.projector._work.writes_max = 1  # a transaction a page, so that there is a second one
    with pytest.raises(Crash):
        await crashed.projector.run()
    await crashed.views.close()

    async with Wired(log, path, [counts], limits=limits) as wired:
        await wired.caught_up()

        rows = (await wired.views.sql("SELECT name, books FROM counts_totals", (), 100)).rows
        assert dict(rows) == fold_all(log) == {"all": 5, "ann": 1}


async def test_a_batch_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """Between rows and checkpoint, a query on the other connection sees neither."""
    seen: list[object] = []
    log = Log()
    log.write(Bought("b"))
    path = str(tmp_path / "views.db")

    def look(reached: str) -> None:
        if reached in ("views.checkpointed", "views.committed"):
            import apsw

            other = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
            row = "select (select count(*) from counts_totals), position from checkpoints"
            seen.extend(other.execute(row).fetchall())
            other.close()

    async with Wired(log, path, [Counts], failpoint=look) as wired:
        await wired.caught_up()

    assert seen == [(0, 0), (1, 1)]


# -- poison ---------------------------------------------------------------------------------------


async def test_poison_stops_one_projector_with_the_good_prefix_written(
    caplog: pytest.LogCaptureFixture, path: str
) -> None:
    log = Log()
    async with Wired(log, path, [Library, Counts]) as wired:
        wired.publish(Bought("b1"), Bought("b2"), Dropped("b3"), Bought("b4"))
        await wired.ended()
        await wired.projectors["counts"].wait_for(4, None)
        library = wired.projectors["library"]

        assert library.state == "stopped"
        assert library.position == 2
        assert sorted(await wired.rows(Library.books)) == ["b1", "b2"]
        assert await totals(wired) == {"all": 3}
        failure = library.failure
        assert failure is not None
        assert (failure.position, failure.event, failure.stream) == (3, "dropped v1", "shelf:1")
        assert "ValueError" in failure.cause
        assert "in dropped" in failure.cause
        assert "secret name" not in failure.cause.replace('f"the secret name {event.book}"', "")
        assert library.statistics().failure is failure
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.name == "tests.read"
    assert "projection library stopped at position 3 (dropped v1 of shelf:1)" in record.message
    assert "continues there by itself, or leave the event out by `foldline" in record.message
    assert "b3" not in record.message


async def test_a_stopped_projector_goes_on_after_the_mend(path: str) -> None:
    log = Log()
    async with Wired(log, path, [Library]) as wired:
        wired.publish(Bought("b1"), Dropped("b2"), Lent("b1", "ann"))
        await wired.ended()
        wired.publish(Lent("b1", "bob"))
        wired.projector.resume()
        await wired.ended()
        assert state_of(wired) == "stopped"

        # What is asked of it is done as it rests: from then on it takes nothing of the bus.
        await wired.projector.ask(lambda: asyncio.sleep(0))
        MENDED.append(True)
        wired.projector.resume()
        await wired.caught_up()

        assert wired.projector.failure is None
        assert (await wired.rows(Library.books))["b1"] == Book("b1", 0, "bob", 2)
        wired.publish(Lost("b1"))
        await wired.caught_up()
        assert state_of(wired) == "live"
        wired.projector.resume()
        assert state_of(wired) == "live"


async def test_a_stopped_projector_can_be_closed() -> None:
    log = Log()
    log.write(Dropped("b"))
    async with Wired(log) as wired:
        await wired.ended()
    assert wired.projector.state == "closed"


async def test_a_damaged_event_stops_with_everything_before_it_written() -> None:
    log = Log()
    log.write(*[Bought(f"b{n}") for n in range(5)])
    log.damage(4)
    async with Wired(log) as wired:
        await wired.ended()

        assert wired.projector.position == 3
        assert wired.projector.state == "stopped"
        failure = wired.projector.failure
        assert failure is not None
        assert "the event at position 4 cannot be used" in failure.cause


async def test_an_event_that_cannot_be_decoded_stops_it_and_an_unknown_name_does_not() -> None:
    log = Log()
    log.write(Bought("b1"))
    kind = log._types["bought", 1]
    log.write_data([EventData(type(kind)("never-heard-of", 1, "0"), b"{}")])
    log.write_data([EventData(kind, b'{"book": 7}')])
    async with Wired(log) as wired:
        await wired.ended()

        assert wired.projector.position == 2
        failure = wired.projector.failure
        assert failure is not None
        assert (failure.position, failure.event) == (3, "bought v1")
        assert "Expected `str`, got `int` - at `$.book`" in failure.cause


async def test_a_failure_of_the_views_stops_it_until_it_is_resumed(path: str) -> None:
    log = Log()
    async with Wired(log, path, [Counts]) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        write = wired.views.write

        async def fail(changes: Changes) -> bool:
            raise StoreFailed("the disk is full.", written=False)

        wired.views.write = fail  # type: ignore[method-assign]
        wired.publish(Bought("b"), Bought("b"))
        await wired.ended("counts")
        failure = wired.projector.failure
        assert wired.projector.state == "stopped"
        assert failure is not None
        assert (failure.position, failure.event) == (1, "")
        assert "StoreFailed: the disk is full." in failure.cause

        wired.views.write = write  # type: ignore[method-assign]
        wired.projector.resume()
        await wired.caught_up()
        assert await totals(wired) == {"all": 3}


async def test_a_second_worker_on_the_same_views_is_refused() -> None:
    log = Log()
    async with Wired(log, projections=[Counts]) as wired:
        wired.publish(Bought("b"))
        await wired.caught_up()
        before = await wired.views.checkpoint(part_of(Counts))
        after = Checkpoint(5, 5)
        changes = Changes(part_of(Counts), Checkpoint(0, 0), after, {})
        with pytest.raises(StoreRefused, match="another worker writes them"):
            await wired.views.write(changes)
        assert await wired.views.checkpoint(part_of(Counts)) == before

        await wired.views.write(Changes(part_of(Counts), before, after, {}))
        wired.publish(Bought("b"))
        await wired.ended("counts")
        assert wired.projector.state == "stopped"
        failure = wired.projector.failure
        assert failure is not None
        assert "another worker writes them" in failure.cause
        assert await totals(wired) == {"all": 1}


# -- waiting and stopping -------------------------------------------------------------------------


async def test_waiting_ends_when_the_position_is_reached() -> None:
    async with Wired(Log()) as wired:
        waiting = asyncio.create_task(wired.projector.wait_for(2, None))
        wired.publish(Bought("b1"))
        await wired.caught_up()
        assert not waiting.done()
        wired.publish(Bought("b2"))

        assert await waiting
        assert await wired.projector.wait_for(1, 0.0)


async def test_waiting_ends_at_the_deadline_and_leaves_nothing_behind() -> None:
    async with Wired(Log()) as wired:
        now = asyncio.get_running_loop().time()

        assert not await wired.projector.wait_for(1, now)
        assert not wired.projector._arrivals._waiting


async def test_waiting_ends_when_the_projector_stops_below() -> None:
    async with Wired(Log()) as wired:
        waiting = asyncio.create_task(wired.projector.wait_for(9, None))
        await asyncio.sleep(0)
        wired.publish(Dropped("b"))

        assert not await waiting
        assert not await wired.projector.wait_for(9, None)
    assert not await wired.projector.wait_for(9, None)


async def test_stopping_finishes_the_batch_at_hand(path: str) -> None:
    log = Log()
    log.write(*[Bought("b")] * 20)
    states: list[ProjectorState] = []

    def stop(reached: str) -> None:
        if reached == "projector.folded":
            states.append(wired.projector.state)
            wired.projector.stop()

    wired = Wired(log, path, [Counts], limits=Limits(page_events=5), failpoint=stop)
    await wired.open()
    await wired.projector.run()

    assert states == ["catching-up"]
    assert wired.projector.state == "closed"
    assert wired.projector.position == 5
    assert await totals(wired) == {"all": 5}
    await wired.views.close()


async def test_a_projector_that_is_stopped_before_it_runs_returns_at_once() -> None:
    wired = Wired(Log())
    await wired.open()
    wired.projector.stop()
    await wired.projector.run()
    assert wired.projector.state == "closed"
    await wired.views.close()


async def test_a_long_batch_lets_the_loop_have_its_turns() -> None:
    log = Log()
    log.write(*[Bought(f"b{n}") for n in range(1_000)])
    turns = 0
    async with Wired(log, projections=[Counts]) as wired:
        work = wired.projector._work
        assert isinstance(work, RowTarget)
        fold = work._fold

        def count(function: Callable[..., None]) -> None:
            nonlocal turns
            turns += 1
            if not done.done():
                asyncio.get_running_loop().call_soon(count, function)

        folding = asyncio.create_task(fold.fold(log.events))
        done = folding
        count(print)
        await folding

        assert turns > 2 * 1_000 // 250 - 2
        fold.staging.clear()


async def test_each_transaction_is_told_once_it_is_visible() -> None:
    """Position and rows are there for whoever is told."""
    log = Log()
    told: list[tuple[int, int, list[Scalar]]] = []
    async with Wired(log) as wired:
        projector = wired.projector

        def written(part: Part, changes: Changes | None) -> None:
            assert part == projector.part
            assert changes is not None
            keys = sorted(changes.rows.get("books", {}), key=str)
            told.append((projector.position, changes.after.position, keys))

        projector._written = written
        wired.publish(Bought("a", 1), Swept())
        await wired.caught_up()
        wired.publish(Lost("a"), Bought("b", 1))
        await wired.caught_up()
        wired.publish(Swept())
        await wired.caught_up()

    assert told == [(2, 2, ["a"]), (4, 4, ["a", "b"]), (5, 5, [])]
