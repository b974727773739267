"""The feed: every committed event once and in order, to the end, or following the engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Aggregate,
    Closed,
    Damaged,
    Engine,
    EngineFailed,
    Event,
    Forbidden,
    Limits,
    LoggedEvent,
    OutcomeUnknown,
    Overloaded,
    StoreFailed,
    UsageError,
    applies,
    handles,
)
from engine.model.stored import EventData, StoredEvent
from engine.stores.contract.log import AppendRequest, Batch, Write
from tests.support.counters import Add, Added, Counter, Emptied, Empty, Touch, counters
from tests.support.held_store import HeldStore, unknown
from tests.support.waiting import settle, until


class ReadingStore(HeldStore):
    """Notes what is read of the feed."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []

    async def read_feed(
        self, after: int, *, events_max: int, bytes_max: int
    ) -> Sequence[StoredEvent]:
        self.reads.append((after, events_max))
        return await super().read_feed(after, events_max=events_max, bytes_max=bytes_max)


async def add(engine: Engine, count: int) -> None:
    for number in range(count):
        await engine.execute(Add(f"c-{number % 3}", number))


class Follower:
    """Follows in a task of its own, and keeps what came."""

    def __init__(self, engine: Engine, after: int = 0) -> None:
        self.seen: list[LoggedEvent] = []
        self.going = asyncio.Event()
        self.going.set()
        self.task = asyncio.ensure_future(self._run(engine, after))

    async def _run(self, engine: Engine, after: int) -> None:
        async for logged in engine.feed(after, follow=True):
            self.seen.append(logged)
            await self.going.wait()

    async def end(self) -> None:
        """Wait until the feed has ended; a feed that does not is told as one."""
        async with asyncio.timeout(5):
            await self.task

    @property
    def positions(self) -> list[int]:
        return [logged.meta.position for logged in self.seen]


async def test_all_events_in_order_page_by_page() -> None:
    store = ReadingStore()
    async with counters(store, limits=Limits(page_events=4)) as engine:
        await add(engine, 10)
        seen = [logged async for logged in engine.feed()]

        assert [logged.meta.position for logged in seen] == [*range(1, 11)]
        assert [logged.meta.stream for logged in seen[:4]] == [
            f"counter:c-{n}" for n in (0, 1, 2, 0)
        ]
        assert store.reads == [(0, 4), (4, 4), (8, 4), (10, 4)]
        assert [logged.meta.position async for logged in engine.feed(8)] == [9, 10]
        assert [logged async for logged in engine.feed(10)] == []


@pytest.mark.parametrize("after", [-1, True, "3", 11])
async def test_a_position_that_cannot_be_is_refused(after: Any) -> None:
    async with counters() as engine:
        await add(engine, 10)
        for follow in (False, True):
            with pytest.raises(UsageError, match=r"after is a position|ends at position 10"):
                await anext(engine.feed(after, follow=follow))


async def test_following_gives_what_was_and_what_comes_and_ends_with_the_engine() -> None:
    async with counters() as engine:
        await add(engine, 5)
        follower = Follower(engine, 2)
        await until(lambda: follower.positions == [3, 4, 5])
        await add(engine, 5)
        await until(lambda: follower.positions == [*range(3, 11)])
        await add(engine, 2)
    await follower.end()

    assert follower.positions == [*range(3, 13)]
    assert engine._bus._subscriptions == []


async def test_who_follows_is_woken_by_the_bus_and_reads_nothing_while_it_waits() -> None:
    store = ReadingStore()
    async with counters(store) as engine:
        follower = Follower(engine)
        await settle()
        reads = len(store.reads)
        await add(engine, 30)
        await until(lambda: len(follower.seen) == 30)

        assert len(store.reads) == reads
    await follower.end()


async def test_who_is_slow_slows_nobody_and_reads_the_log_for_what_the_bus_dropped() -> None:
    limits = Limits(bus_events=4, page_events=3)
    async with counters(limits=limits) as engine:
        follower = Follower(engine)
        follower.going.clear()
        await add(engine, 50)
        assert len(follower.seen) <= 1
        assert all(s.statistics().waiting <= 4 for s in engine._bus._subscriptions)
        follower.going.set()
        await until(lambda: len(follower.seen) == 50)
        await add(engine, 3)
        await until(lambda: len(follower.seen) == 53)
        await settle()
        # One batch that the bus cannot hold: nothing of it waits there, only the loss is known.
        await engine.execute(Add("large", 1, 6))
        await until(lambda: len(follower.seen) == 59)
    await follower.end()

    assert follower.positions == [*range(1, 60)]


async def test_leaving_early_takes_the_subscription_along() -> None:
    async with counters() as engine:
        await add(engine, 3)
        async with aclosing(engine.feed(follow=True)) as feed:
            assert (await anext(feed)).meta.position == 1
            assert len(engine._bus._subscriptions) == 1

        assert engine._bus._subscriptions == []


async def test_what_is_not_durable_is_not_in_the_feed() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        follower = Follower(engine)
        store.hold()
        waiting = asyncio.ensure_future(engine.execute(Add("a", 1)))
        await settle()
        assert follower.seen == []
        assert [logged async for logged in engine.feed()] == []
        store.release()
        await waiting
        await until(lambda: follower.positions == [1])
    await follower.end()


async def test_a_failed_engine_ends_the_feed_with_an_error() -> None:
    store = HeldStore()
    engine = Engine([Counter], store=store)
    await engine.__aenter__()
    await add(engine, 2)
    follower = Follower(engine)
    await until(lambda: len(follower.seen) == 2)
    store.failures.append(unknown())
    with pytest.raises(OutcomeUnknown):
        await engine.execute(Add("a", 1))

    with pytest.raises(Closed, match="engine has failed"):
        await follower.end()
    await until(lambda: engine.failed)
    with pytest.raises(Closed):
        await anext(engine.feed())
    with pytest.raises(EngineFailed):
        await engine.__aexit__(None, None, None)


async def test_a_feed_that_does_not_follow_says_that_the_engine_closed_under_it() -> None:
    async with counters(limits=Limits(page_events=1)) as engine:
        await add(engine, 3)
        feed = engine.feed()
        await anext(feed)
    with pytest.raises(Closed):
        await anext(feed)


async def test_a_store_that_cannot_be_read_is_told() -> None:
    class Broken(HeldStore):
        async def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Any:
            raise StoreFailed("the disk is gone", written=False)

    async with counters(Broken()) as engine:
        with pytest.raises(StoreFailed, match="gone"):
            await anext(engine.feed(follow=True))


async def test_a_damaged_event_ends_the_feed_after_everything_before_it(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    async with Engine([Counter], store=f"sqlite:{path}") as engine:
        await add(engine, 6)
        with closing(apsw.Connection(path)) as connection:
            connection.execute("DROP TRIGGER events_never_change").fetchall()
            connection.execute("UPDATE events SET recorded = 1 WHERE position = 4").fetchall()
        for follow in (False, True):
            seen: list[LoggedEvent] = []
            with pytest.raises(Damaged, match="position 4"):
                async for logged in engine.feed(follow=follow):
                    seen.append(logged)  # noqa: PERF401 - what came before the error is looked at
            assert [logged.meta.position for logged in seen] == [1, 2, 3]


# -- some of the events ----------------------------------------------------------------------


async def test_names_and_kinds_choose_events_and_the_position_moves_over_the_others() -> None:
    async with counters(limits=Limits(page_events=3)) as engine:
        for number in range(4):
            await engine.execute(Add("a", number, 3))
        await engine.execute(Empty("a"))
        await engine.execute(Add("a", 1))
        asked: list[list[str | type[Event]]] = [["emptied"], [Emptied], ["emptied", Emptied]]
        for names in asked:
            feed = engine.feed(names=names, kinds=[Counter])
            assert feed.position == 0
            assert [(logged.name, feed.position) async for logged in feed] == [("emptied", 13)]
            assert feed.position == 14
        assert [logged.meta.position async for logged in engine.feed(11, kinds=["counter"])] == [
            *(12, 13, 14)
        ]
        feed = engine.feed(names=["added"])
        async for _ in feed:
            if feed.position == 12:
                break
        assert [e.meta.position async for e in engine.feed(feed.position, names=["added"])] == [14]


async def test_who_follows_some_events_is_not_woken_for_the_others_and_moves_over_them() -> None:
    async with counters() as engine:
        feed = engine.feed(names=["emptied"], follow=True)
        waiting = asyncio.ensure_future(anext(feed))
        for _ in range(3):
            await add(engine, 3)
            await until(lambda: feed.position == engine.statistics().position)
        assert not waiting.done()
        await engine.execute(Empty("c-1"))

        assert (await waiting).meta.position == feed.position == 10
        await feed.aclose()


async def test_what_is_passed_over_is_not_decoded() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        data = EventData(engine.registry.type_of(Added), b"{")
        await store.append(Batch([AppendRequest([Write("counter:b", 0, [data])])], 1))
        await store.append_event("counter:c", 0, Emptied("nobody"))
        engine._wiring.journal.position = 3
        assert [logged.name async for logged in engine.feed(names=["emptied"])] == ["emptied"]
        feed = engine.feed(names=["added"])
        assert (await anext(feed)).meta.position == 1
        with pytest.raises(Damaged, match="position 2"):
            await anext(feed)
        assert feed.position == 1
        with pytest.raises(StopAsyncIteration):
            await anext(feed)


class Unknown(Event, name="unknown"):
    pass


class Stranger(Aggregate, kind="stranger"):
    @handles
    def touch(self, command: Touch) -> Unknown:
        return Unknown()

    @applies
    def unknown(self, event: Unknown) -> None:
        pass


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"names": ["nonsense"]}, r"names=\['nonsense'\], and this engine knows \['added', "),
        ({"names": [Unknown]}, "Unknown"),
        ({"names": [Counter]}, "Counter"),
        ({"names": [3]}, "3"),
        ({"names": "added"}, r"write `names=\[\.\.\.\]`"),
        ({"names": Emptied}, r"write `names=\[\.\.\.\]`"),
        ({"names": []}, "with one at least"),
        ({"kinds": ["nonsense"]}, r"knows \['counter'\]"),
        ({"kinds": [Stranger]}, "Stranger"),
        ({"kinds": "counter"}, r"write `kinds=\[\.\.\.\]`"),
    ],
)
async def test_what_nothing_here_has_is_refused_with_the_mend(
    what: dict[str, Any], message: str
) -> None:
    async with counters() as engine:
        with pytest.raises(UsageError, match=message):
            engine.feed(**what)


async def test_a_wait_for_an_event_that_is_cancelled_loses_nothing() -> None:
    async with counters(limits=Limits(page_events=2)) as engine:
        for names in (None, ["added"]):
            feed = engine.feed(engine.statistics().position, names=names, follow=True)
            expected: list[int] = []
            for _ in range(5):
                waiting = asyncio.ensure_future(anext(feed))
                await settle()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await engine.execute(Add("a", 1))
                await engine.execute(Empty("a"))
                await engine.execute(Add("a", 1))
                while feed.position < engine.statistics().position:
                    logged = await anext(feed)
                    expected.append(logged.meta.position)
            assert len(expected) == (15 if names is None else 10)
            await feed.aclose()


async def test_a_wait_that_is_cancelled_in_a_pause_loses_nothing() -> None:
    """Every 250 events the loop gets its turn, in the middle of a page."""
    async with counters() as engine:
        await engine.execute(Add("a", 1, 700))
        async with aclosing(engine.feed()) as feed:
            seen: list[int] = []
            pauses = 0
            while len(seen) < 700:
                waiting = asyncio.ensure_future(anext(feed))
                await asyncio.sleep(0)
                if seen and not waiting.done():
                    pauses += 1
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                else:
                    seen.append((await waiting).meta.position)

        assert (seen, pauses) == ([*range(1, 701)], 2)


async def test_a_feed_is_for_one_task_and_ends_where_it_is_closed() -> None:
    async with counters() as engine:
        feed = engine.feed(follow=True)
        waiting = asyncio.ensure_future(anext(feed))
        await settle()
        with pytest.raises(UsageError, match="in another task"):
            await anext(feed)
        await add(engine, 1)
        assert (await waiting).meta.position == 1
        waiting = asyncio.ensure_future(anext(feed))
        await settle()
        await feed.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_feed_that_nobody_closed_leaves_the_bus_all_the_same() -> None:
    async with counters() as engine:
        await add(engine, 3)
        async for _ in engine.feed(follow=True):
            break
        gc.collect()
        await settle()

        assert engine._bus._subscriptions == []


@pytest.mark.parametrize("follow", [False, True])
async def test_how_many_are_read_at_the_same_time_is_bounded(follow: bool) -> None:
    async with counters(limits=Limits(feeds=2)) as engine:
        await engine.execute(Add("a", 1))
        await engine.execute(Add("a", 1))
        first, second, third = (engine.feed(follow=follow) for _ in range(3))
        assert [(await anext(first)).meta.position, (await anext(second)).meta.position] == [1, 1]
        with pytest.raises(Overloaded, match=r"2 feeds are read already \(Limits\.feeds\)"):
            await anext(third)
        await first.aclose()
        await first.aclose()
        async with aclosing(engine.feed(follow=follow)) as fourth:
            await fourth.open()
            with pytest.raises(Overloaded):
                await engine.feed().open()
        # One that nobody closed, and one that came to its end.
        del second
        for _ in range(3):
            async for _ in engine.feed(follow=follow):
                break
        for _ in range(3):
            assert [logged.meta.position async for logged in engine.feed()] == [1, 2]
        async with aclosing(engine.feed()) as fifth, aclosing(engine.feed()) as sixth:
            await fifth.open()
            await sixth.open()


async def test_opening_says_at_once_what_iterating_would() -> None:
    async with counters(authorize=lambda who, *_: who != "eve") as engine:
        with pytest.raises(Forbidden):
            await engine.feed(principal="eve").open()
        feed = engine.feed(follow=True)
        await feed.open()
        assert len(engine._bus._subscriptions) == 1
        await feed.open()
        assert len(engine._bus._subscriptions) == 1
        await feed.aclose()
        assert engine._bus._subscriptions == []


async def test_a_denial_reads_nothing() -> None:
    asked: list[Any] = []

    def authorize(*question: Any) -> bool:
        asked.append(question)
        return "execute" in question

    store = ReadingStore()
    async with counters(store, authorize=authorize) as engine:
        await add(engine, 3)
        asked.clear()
        for follow in (False, True):
            with pytest.raises(Forbidden, match="feed"):
                await anext(engine.feed(follow=follow, principal="eve"))

        assert store.reads == []
        assert asked == [("eve", "feed", "*")] * 2
        assert engine._bus._subscriptions == []
