"""Looking back: committed events, a state at any version and time, and what changed between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import (
    ABSENT,
    Aggregate,
    Change,
    Closed,
    Damaged,
    Engine,
    Forbidden,
    HistoryPage,
    Limits,
    LoggedEvent,
    Meta,
    Ports,
    Rejected,
    StreamUnreadable,
    UsageError,
)
from engine.model.codec import schema_hash
from engine.model.stored import EventData, EventType
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.testing.scenario import ManualClock
from tests.support.counters import (
    Add,
    Added,
    Broken,
    Counter,
    Emptied,
    Empty,
    Look,
    counters,
    total,
)
from tests.support.held_store import HeldStore
from tests.support.waiting import settle

STREAM = "counter:a"


class ReadingStore(HeldStore):
    """Notes what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int, int]] = []

    async def read_streams(self, reads: Any, *, events_max: int, bytes_max: int) -> Any:
        self.reads += [(read.stream, read.after, events_max) for read in reads]
        return await super().read_streams(reads, events_max=events_max, bytes_max=bytes_max)


async def amounts(engine: Engine, **options: Any) -> list[int]:
    found = [logged.event async for logged in engine.history(Counter, "a", **options)]
    return [event.amount for event in found if isinstance(event, Added)]


async def add(engine: Engine, *numbers: int) -> None:
    for number in numbers:
        await engine.execute(Add("a", number))


# -- history --------------------------------------------------------------------------------


async def test_an_event_comes_with_what_the_log_knows_of_it() -> None:
    async with counters(ports=Ports(clock=ManualClock(77))) as engine:
        await engine.execute(Add("other", 1))
        await engine.execute(
            Add("a", 5, tags={"t": [1]}),
            key="k-1",
            correlation="c-1",
            causation="x-1",
            principal="ann",
            headers={"via": "till"},
        )

        assert await engine.history(Counter, "a") == HistoryPage(
            STREAM,
            (
                LoggedEvent(
                    Added(5, {"t": [1]}),
                    Meta(STREAM, 1, 2, 77, "k-1", "c-1", "x-1", "ann", {"via": "till"}),
                    "added",
                    1,
                ),
            ),
            False,
        )


async def test_a_page_says_whether_the_stream_goes_on() -> None:
    async with counters() as engine:
        await add(engine, *range(1, 6))
        first = await engine.history(Counter, "a", limit=2)
        last = await engine.history(Counter, "a", after=3, limit=2)

        assert [e.meta.version for e in first.events] == [1, 2]
        assert first.more
        assert [e.meta.version for e in last.events] == [4, 5]
        assert not last.more
        assert (await engine.history(Counter, "a", after=9)).events == ()
        assert (await engine.history(Counter, "nobody")).events == ()


async def test_iterating_reads_everything_page_by_page() -> None:
    store = ReadingStore()
    async with counters(store, limits=Limits(page_events=3)) as engine:
        await add(engine, *range(1, 9))
        store.reads.clear()

        assert await amounts(engine) == [*range(1, 9)]
        assert store.reads == [(STREAM, after, 3) for after in (0, 3, 6)]
        store.reads.clear()
        assert await amounts(engine, after=4, limit=2) == [5, 6, 7, 8]
        assert store.reads == [(STREAM, 4, 2), (STREAM, 6, 2)]


async def test_only_what_is_committed_is_seen() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await add(engine, 1)
        store.hold()
        undurable = asyncio.ensure_future(engine.execute(Add("a", 2)))
        await settle()

        assert len(store.batches) == 2, "the second event is decided and on its way"
        assert await amounts(engine) == [1]
        assert (await engine.state(Counter, "a")).total == 1
        store.release()
        await undurable
        assert (await engine.state(Counter, "a")).total == 3


# -- states ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.integers(-50, 100), st.booleans()), min_size=1, max_size=12
    ),
    page=st.integers(1, 5),
)
def test_a_state_is_what_a_naive_refold_gives(
    steps: Sequence[tuple[int, int, bool]], page: int
) -> None:
    asyncio.run(_check_states(steps, page))


async def _check_states(steps: Sequence[tuple[int, int, bool]], page: int) -> None:
    clock = ManualClock(1_000_000)
    ports = Ports(clock=clock)
    async with counters(ports=ports, limits=Limits(page_events=page)) as engine:
        for number, moved, empty in steps:
            clock.advance(moved / 1e6)
            await engine.execute(Empty("a") if empty else Add("a", number, tags={"n": [number]}))
        events = [e async for e in engine.history(Counter, "a")]
        times = sorted({t + d for t in [e.meta.recorded for e in events] for d in (-1, 0, 1)})
        for version in range(len(events) + 1):
            found = await engine.state(Counter, "a", version=version)
            assert found == refold(events[:version])
        for at in times:
            expected = refold([e for e in events if e.meta.recorded <= at])
            assert await engine.state(Counter, "a", at=at) == expected
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
            east = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
            assert await engine.state(Counter, "a", at=east) == expected
        assert await engine.state(Counter, "a") == refold(events)


def refold(events: Sequence[LoggedEvent]) -> Counter:
    counter = Counter(id="a", version=len(events))
    for logged in events:
        event = logged.event
        if isinstance(event, Added):
            counter.total += event.amount
            counter.tags.update(event.tags)
        else:
            assert isinstance(event, Emptied)
            counter.total = 0
    return counter


async def test_a_state_shares_nothing_with_the_actor_or_another_state() -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1, tags={"t": [1]}))
        state = await engine.state(Counter, "a")
        state.tags["t"].append(2)
        state.total = 99

        assert await total(engine, "a") == "1 at 1"
        assert (await engine.state(Counter, "a")).tags == {"t": [1]}


async def test_looking_back_brings_nobody_into_memory() -> None:
    async with counters() as engine:
        await engine.state(Counter, "a")
        await engine.history(Counter, "b")

        assert engine.statistics().aggregates.resident == 0


async def test_a_version_that_does_not_exist_is_told_with_the_one_that_does() -> None:
    async with counters() as engine:
        await add(engine, 1, 2)
        with pytest.raises(UsageError, match="counter:a has version 2, and version 3 was asked"):
            await engine.state(Counter, "a", version=3)
        with pytest.raises(UsageError, match="counter:none has version 0"):
            await engine.state(Counter, "none", version=1)

        assert await engine.state(Counter, "none") == Counter(id="none")


async def test_the_loop_gets_its_turn_while_a_long_stream_is_folded() -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1, 900))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        for read in (
            lambda: engine.state(Counter, "a"),
            lambda: _page(engine, 900),
        ):
            turns = 0
            await read()
            assert turns >= 3
        counting.cancel()


async def _page(engine: Engine, limit: int) -> HistoryPage:
    return await engine.history(Counter, "a", limit=limit)


# -- differences ----------------------------------------------------------------------------


async def test_the_difference_of_two_versions_either_way() -> None:
    async with counters() as engine:
        await engine.execute(Add("a", 1, tags={"t": [1]}))
        await engine.execute(Add("a", 2, tags={"t": [1], "u": []}))

        assert await engine.difference(Counter, "a", 1, 2) == (
            Change(("total",), 1, 3),
            Change(("tags", "u"), ABSENT, []),
        )
        assert [str(c) for c in await engine.difference(Counter, "a", 1, 2)] == [
            "~ total: 1 -> 3",
            "+ tags['u']: []",
        ]
        assert [str(c) for c in await engine.difference(Counter, "a", 2, 0)] == [
            "~ total: 3 -> 0",
            "- tags['t']: [1]",
            "- tags['u']: []",
        ]
        assert await engine.difference(Counter, "a", 2, 2) == ()
        with pytest.raises(UsageError, match="has version 2, and version 3"):
            await engine.difference(Counter, "a", 1, 3)


# -- what cannot be asked -------------------------------------------------------------------


class Elsewhere(Counter, kind="elsewhere"):
    """An aggregate that the engine was not given."""


NAIVE = datetime(2026, 1, 1)
REFUSED: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "other-aggregate": (lambda e: e.history(Elsewhere, "a"), "Elsewhere is no aggregate of this"),
    "base": (lambda e: e.state(Aggregate, "a"), "Aggregate is no aggregate of this engine"),
    "no-class": (lambda e: e.history("counter", "a"), "str is no aggregate"),  # type: ignore[arg-type]
    "number-id": (lambda e: e.state(Counter, 7), "id is a string, not an int"),  # type: ignore[arg-type]
    "empty-id": (lambda e: e.history(Counter, ""), "0 characters"),
    "long-id": (lambda e: e.state(Counter, "x" * 256), "256 characters"),
    "unprintable-id": (lambda e: e.difference(Counter, "a\n", 0, 1), "printable"),
    "negative-after": (lambda e: e.history(Counter, "a", after=-1), "after is a version"),
    "no-limit": (lambda e: e.history(Counter, "a", limit=0), "limit is a number"),
    "true-version": (lambda e: e.state(Counter, "a", version=True), "version is a version"),
    "negative-version": (lambda e: e.difference(Counter, "a", -1, 1), "before is a version"),
    "naive": (lambda e: e.state(Counter, "a", at=NAIVE), "no time zone"),
    "text-time": (lambda e: e.state(Counter, "a", at="2026"), "aware datetime or"),  # type: ignore[arg-type]
    "both": (lambda e: e.state(Counter, "a", version=1, at=1), "not by both"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_is_refused_before_anything_is_read(case: str) -> None:
    ask, message = REFUSED[case]
    store = ReadingStore()
    async with counters(store) as engine:
        with pytest.raises(UsageError, match=message):
            await ask(engine)

        assert store.reads == []


async def test_an_engine_that_has_ended_reads_nothing_more() -> None:
    async with counters() as engine:
        await add(engine, 1, 2)
        history = engine.history(Counter, "a")
    with pytest.raises(Closed):
        await history
    with pytest.raises(Closed):
        await engine.state(Counter, "a")


# -- who may --------------------------------------------------------------------------------


async def test_a_denial_reads_nothing_and_shows_nothing() -> None:
    asked: list[tuple[Any, ...]] = []

    def authorize(principal: str | None, action: str, message: Any) -> bool:
        asked.append((principal, action, message))
        return action == "execute"

    store = ReadingStore()
    async with counters(store, authorize=authorize) as engine:
        await add(engine, 41)
        store.reads.clear()
        asked.clear()
        for read in (
            lambda: _page_as(engine, "eve"),
            lambda: amounts(engine, principal="eve"),
            lambda: engine.state(Counter, "a", version=1, principal="eve"),
            lambda: engine.difference(Counter, "a", 0, 1, principal="eve"),
        ):
            with pytest.raises(Forbidden, match="history counter:a") as caught:
                await read()
            assert "41" not in str(caught.value)

        assert store.reads == []
        assert asked == [("eve", "history", STREAM)] * 4


async def _page_as(engine: Engine, principal: str) -> HistoryPage:
    return await engine.history(Counter, "a", principal=principal)


async def test_one_question_is_asked_for_all_pages_of_an_iteration() -> None:
    asked: list[str] = []

    def authorize(principal: str | None, action: str, message: Any) -> bool:
        asked.append(action)
        return True

    async with counters(authorize=authorize) as engine:
        await add(engine, 1, 2, 3)
        asked.clear()

        assert await amounts(engine, limit=1) == [1, 2, 3]
        assert asked == ["history"]


# -- what cannot be read --------------------------------------------------------------------


async def test_a_damaged_event_stops_who_needs_it_and_nobody_else(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    async with Engine([Counter], store=f"sqlite:{path}") as engine:
        await add(engine, 1, 2, 3, 4, 5)
        await engine.execute(Add("b", 7))
        with closing(apsw.Connection(path)) as connection:
            connection.execute("DROP TRIGGER events_never_change").fetchall()
            connection.execute(
                "UPDATE events SET payload = CAST('{\"amount\":9}' AS BLOB) WHERE position = 4"
            ).fetchall()

        seen: list[LoggedEvent] = []
        with pytest.raises(Damaged, match="position 4 .*checksum") as caught:
            async for logged in engine.history(Counter, "a"):
                seen.append(logged)  # noqa: PERF401 - what came before the error is looked at
        assert ([e.meta.version for e in seen], caught.value.position) == ([1, 2, 3], 4)
        page = await engine.history(Counter, "a", after=2)
        assert ([e.meta.version for e in page.events], page.more) == ([3], True)
        with pytest.raises(Damaged, match="position 4"):
            await engine.history(Counter, "a", after=3)
        with pytest.raises(Damaged, match="position 4"):
            await engine.state(Counter, "a")
        with pytest.raises(Damaged, match="position 4"):
            await engine.difference(Counter, "a", 3, 5)
        assert (await engine.state(Counter, "a", version=3)).total == 6
        assert (await engine.state(Counter, "b")).total == 7


async def behind(store: HeldStore, name: str, payload: Any, schema: str = "beef") -> None:
    data = EventData(EventType(name, 1, schema), msgspec.json.encode(payload))
    version = len(store._streams.get(STREAM, ()))
    await store.append(Batch([AppendRequest([Write(STREAM, version, [data])])], 1))


async def test_an_unknown_event_stops_the_history_after_what_stands_before() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await add(engine, 1, 2)
        await behind(store, "moved", {"secret": 41})
        await behind(store, "added", {"amount": 3}, schema_hash(Added))

        page = await engine.history(Counter, "a")
        assert ([e.meta.version for e in page.events], page.more) == ([1, 2], True)
        with pytest.raises(Damaged, match="position 3 .*moved version 1 .* not declared") as caught:
            await engine.history(Counter, "a", after=2)
        assert "secret" not in str(caught.value)
        with pytest.raises(Damaged, match="position 3"):
            await amounts(engine)
        with pytest.raises(Damaged, match="position 3"):
            await engine.state(Counter, "a")
        assert (await engine.state(Counter, "a", version=2)).total == 3


async def test_an_event_whose_fold_fails_is_named() -> None:
    store = HeldStore()
    async with counters(store) as engine:
        await behind(store, "broken", {"fail": True}, schema_hash(Broken))
        with pytest.raises(
            StreamUnreadable, match="broken failed on broken .*position 1"
        ) as caught:
            await engine.state(Counter, "a")
        assert isinstance(caught.value.__cause__, ArithmeticError)


async def test_an_event_of_the_stream_that_nothing_applies_is_named() -> None:
    class Notebook(Aggregate, kind="notebook"):
        look = Counter.look
        added = Counter.added
        total: int = 0
        tags: dict[str, list[int]] = {}

    class Others(Aggregate, kind="others"):
        touch = Counter.touch
        emptied = Counter.emptied
        total: int = 0

    store = HeldStore()
    async with Engine([Notebook, Others], store=store) as engine:
        kind = EventType("emptied", 1, schema_hash(Emptied))
        write = Write("notebook:a", 0, [EventData(kind, b'{"by":"x"}')])
        await store.append(Batch([AppendRequest([write])], 1))

        with pytest.raises(StreamUnreadable, match="emptied .* nothing in .*Notebook applies it"):
            await engine.state(Notebook, "a")


async def test_the_readers_of_history_never_disturb_the_actor() -> None:
    async with counters() as engine:
        await add(engine, 1)
        reading = asyncio.gather(*(engine.state(Counter, "a") for _ in range(20)))
        await add(engine, *range(20))
        with pytest.raises(Rejected, match="191 at 21"):
            await engine.execute(Look("a"))

        assert all(state.version >= 1 for state in await reading)
