"""The views as they were: what they contain, where they end, what they cost, who may see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Archive,
    Closed,
    Damaged,
    Engine,
    Forbidden,
    InvalidInput,
    Limits,
    Meta,
    Overloaded,
    PastViews,
    Ports,
    Projection,
    ProjectionFailed,
    Query,
    Receipt,
    Row,
    StoreFailed,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Added, Counter, Empty
from tests.support.tallies import (
    AILING,
    GetTallies,
    GetTally,
    Tallies,
    Tally,
    get_tallies,
    get_tally,
)

START = datetime(2026, 1, 31, 8, 5, tzinfo=UTC)


class Seen(Row, key="position"):
    position: int
    counter: str


class Log(Projection, name="log"):
    """One row for each event, so that one too many or too few shows."""

    rows: Table[Seen]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Seen(meta.position, meta.id))


class Shown(Row, key="counter", search=["counter"]):
    counter: str
    events: int


class Positions(Query[list[int]]):
    pass


class Endless(Query[int]):
    pass


@answers(projections=[Log])
async def positions(query: Positions, views: Views) -> list[int]:
    return [row.position for row in await views.find(Log.rows)]


@answers(projections=[Log])
async def endless(query: Endless, views: Views) -> int:
    rows = await views.sql(
        "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
    )
    return int(rows[0][0])


PROJECTIONS = [Tallies, Log]
ANSWERS: list[Callable[..., Any]] = [get_tally, get_tallies, positions, endless]


def engine_on(store: str = "memory:", **options: Any) -> Engine:
    options.setdefault("ports", Ports(clock=ManualClock(START)))
    return Engine([Counter], projections=PROJECTIONS, answers=ANSWERS, store=store, **options)


async def fill(engine: Engine, clock: ManualClock, seconds: int = 6) -> list[Receipt]:
    """Two events a second, recorded at the same moment."""
    receipts: list[Receipt] = []
    for number in range(seconds):
        receipts += [await engine.execute(Add(f"c{n}", 10**number)) for n in range(2)]
        clock.advance(1)
    return receipts


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    clock = ManualClock(START)
    async with engine_on(ports=Ports(clock=clock), limits=Limits(pasts=2)) as engine:
        await fill(engine, clock)
        yield engine


# -- where it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(13))
async def test_a_past_has_all_up_to_its_position_and_nothing_behind(
    engine: Engine, position: int
) -> None:
    async with engine.past(position=position) as past:
        assert await past.query(Positions()) == list(range(1, position + 1))
        assert (past.position, past.end) == (position, position)
        row = await past.query(GetTally("c0"))

    state = await engine.state(Counter, "c0", version=(position + 1) // 2)
    assert (row.total if row else 0) == state.total


@pytest.mark.parametrize(
    ("after", "events"),
    [
        (timedelta(days=-1), 0),
        (timedelta(microseconds=-1), 0),
        (timedelta(), 2),
        (timedelta(seconds=1, microseconds=-1), 2),
        (timedelta(seconds=1), 4),
        (timedelta(seconds=5), 12),
        (timedelta(days=1), 12),
    ],
)
async def test_a_past_at_a_time_has_what_was_recorded_at_or_before_it(
    engine: Engine, after: timedelta, events: int
) -> None:
    async with engine.past(at=START + after) as past:
        assert await past.query(Positions()) == list(range(1, events + 1))
        tally = await past.query(GetTally("c0"))

    state = await engine.state(Counter, "c0", at=START + after)
    assert (tally.total if tally else 0) == state.total


async def test_without_either_it_is_what_the_log_says_now(engine: Engine) -> None:
    async with engine.past() as past:
        await engine.execute(Add("c0", 1))

        assert await past.query(GetTallies()) == [Tally(f"c{n}", 111_111, 6) for n in range(2)]
        assert await past.query(Positions()) == list(range(1, 13))


async def test_a_receipt_names_a_position(engine: Engine) -> None:
    receipt = await engine.execute(Empty("c0"))
    await engine.execute(Add("c0", 5))
    for position in (receipt, receipt.token):
        async with engine.past(position=position) as past:
            assert await past.query(GetTally("c0")) is None


async def test_the_pages_of_the_log_do_not_show() -> None:
    clock = ManualClock(START)
    limits = Limits(page_events=5, projector_rows=3)
    async with engine_on(ports=Ports(clock=clock), limits=limits) as engine:
        await fill(engine, clock)
        for position in range(13):
            async with engine.past(position=position) as past:
                assert await past.query(Positions()) == list(range(1, position + 1))
        for second in range(6):
            async with engine.past(at=START + timedelta(seconds=second)) as past:
                assert past.position == 2 * second + 2


async def test_the_views_that_serve_are_not_touched(engine: Engine) -> None:
    before = await engine.query(GetTallies(), at=12)
    async with engine.past(position=1) as past:
        assert await past.query(GetTallies()) == [Tally("c0", 1, 1)]
        assert await engine.query(GetTallies()) == before
    assert await engine.query(GetTallies()) == before


async def test_only_the_projections_that_are_named_are_folded(engine: Engine) -> None:
    async with engine.past(position=12, projections=[Log, Log]) as past:
        assert len(await past.query(Positions())) == 12
        with pytest.raises(UsageError, match=r"answered from \['tallies'\].*has folded \['log'\]"):
            await past.query(GetTallies())
        with pytest.raises(UsageError, match="tallies_rows is no table"):
            await past.query(GetTally("c0"))


class Sliced(Projection, name="sliced", slices=3, on_poison="park"):
    """As Tallies, by three projectors, and searched."""

    rows: Table[Shown]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Shown(meta.id, 0)
        self.rows.put(Shown(meta.id, row.events + 1))
        if meta.id in AILING:
            raise ValueError("ailing")


class Find(Query[list[Shown]]):
    text: str


@answers(projections=[Sliced])
async def find(query: Find, views: Views) -> list[Shown]:
    return await views.search(Sliced.rows, query.text)


async def test_a_sliced_projection_is_folded_and_searched_as_it_is_served() -> None:
    async with Engine([Counter], projections=[Sliced], answers=[find]) as engine:
        for n in range(20):
            receipt = await engine.execute(Add(f"c-{n % 9}", 1))
        async with engine.past(position=receipt) as past, engine.past(position=9) as before:
            assert await past.query(Find("c")) == await engine.query(Find("c"), at=receipt)
            assert sum(row.events for row in await past.query(Find("c"))) == 20
            assert [row.events for row in await before.query(Find("c"))] == [1] * 9
            assert await before.query(Find("c-7")) == [Shown("c-7", 1)]


async def test_what_is_parked_stops_a_past_and_what_is_skipped_does_not() -> None:
    AILING.add("c-1")
    try:
        async with Engine([Counter], projections=[Sliced], answers=[find]) as engine:
            for n in range(3):
                receipt = await engine.execute(Add(f"c-{n}", 1))
            assert len(await engine.query(Find("c"), at=receipt)) == 2
            with pytest.raises(ProjectionFailed, match="sliced cannot fold added v1 .*position 2"):
                async with engine.past():
                    pass
            await engine.projections.skip("sliced", 2, reason="it never happened")
            async with engine.past() as past:
                assert [row.counter for row in await past.query(Find("c"))] == ["c-0", "c-2"]
    finally:
        AILING.clear()


# -- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"position": 13}, "the log ends at position 12, and position 13 was asked for"),
        ({"position": -1}, "position is a whole number from 0 on"),
        ({"position": True}, "position is a whole number from 0 on"),
        ({"position": "no token"}, "is not a receipt's token"),
        ({"at": datetime(2026, 1, 31)}, "has no time zone"),
        ({"at": "yesterday"}, "at is an aware datetime"),
    ],
)
async def test_what_is_no_position_and_no_time_is_refused(
    engine: Engine, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        async with engine.past(**wanted):
            pass


async def test_what_does_not_fit_together_is_refused(engine: Engine) -> None:
    class Other(Query[int]):
        pass

    with pytest.raises(UsageError, match="by position= or by at=, not by both"):
        engine.past(position=1, at=START)
    with pytest.raises(UsageError, match=r"Projection is no projection that was given here"):
        engine.past(projections=[Projection])
    past = engine.past(position=1)
    with pytest.raises(Closed, match="use it inside `async with`"):
        await past.query(Positions())
    async with past:
        with pytest.raises(UsageError, match="no answer for Other"):
            await past.query(Other())
    with pytest.raises(UsageError, match="a past is entered once"):
        await past.__aenter__()


async def test_a_handler_that_fails_is_named_and_nothing_stays_open(engine: Engine) -> None:
    AILING.add("c1")
    try:
        async with engine.past(position=1) as past:  # the event that ails is behind it
            assert past.position == 1
        for _ in range(5):
            with pytest.raises(ProjectionFailed) as raised:
                async with engine.past():
                    pass
    finally:
        AILING.clear()
    assert str(raised.value) == (
        "projection tallies cannot fold added v1 of counter:c1 at position 2: its handler raised "
        "ValueError"
    )
    assert isinstance(raised.value.__cause__, ValueError)
    assert threads_of_pasts() == 1


def threads_of_pasts() -> int:
    """Count the threads that have views, with the one of the views that serve."""
    return sum(t.name == "foldline-views" for t in threading.enumerate())


async def test_a_damaged_event_stops_a_past_that_needs_it(tmp_path: Path) -> None:
    clock = ManualClock(START)
    url = f"sqlite:{tmp_path}/log.db"
    async with engine_on(url, ports=Ports(clock=clock)) as engine:
        await fill(engine, clock)
    with closing(apsw.Connection(f"{tmp_path}/log.db")) as connection:
        connection.execute("DROP TRIGGER events_never_change").fetchall()
        connection.execute("UPDATE events SET checksum = 7 WHERE position = 7").fetchall()
    async with archive_of(url) as archive:
        async with archive.past(position=6) as past:
            assert len(await past.query(Positions())) == 6
        with pytest.raises(Damaged, match="position 7"):
            async with archive.past(position=7):
                pass


# -- what it costs --------------------------------------------------------------------------------


async def test_only_so_many_pasts_are_open_at_once(engine: Engine) -> None:
    async with engine.past(position=1), engine.past(position=2):
        with pytest.raises(Overloaded, match="2 pasts are open, as many as Limits.pasts allows"):
            async with engine.past(position=3):
                pass
    async with engine.past(position=3) as past:
        assert past.position == 3


async def test_the_tables_of_a_past_have_a_size() -> None:
    async with engine_on(limits=Limits(past_bytes=120_000)) as engine:
        await engine.execute(Add("c0", 1))
        async with engine.past() as past:
            assert await past.query(Positions()) == [1]
        for n in range(40):
            await engine.execute(Add(f"c{n}" * 50, 1, 100))
        with pytest.raises(StoreFailed, match=r"more than the 120000 bytes.*Limits\.past_bytes"):
            async with engine.past():
                pass

    assert threads_of_pasts() == 0


async def test_progress_can_be_seen_and_cancelling_leaves_nothing_behind() -> None:
    async with engine_on(limits=Limits(pasts=1)) as engine:
        for n in range(3):
            await engine.execute(Add(f"c{n}", 1, 4_000))
        past = engine.past()

        async def enter() -> None:
            async with past:
                await asyncio.Event().wait()

        folding = asyncio.create_task(enter())
        while past.position < 2_000:
            assert past.end in (None, 12_000)
            await asyncio.sleep(0)
        assert 0 < past.position < 12_000, "it folds in one go"
        await cancelled(folding)
        assert threads_of_pasts() == 1
        async with engine.past(position=9) as again:
            assert again.position == 9


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_event_loop_and_the_writers_go_on_meanwhile() -> None:
    async with engine_on() as engine:
        for n in range(3):
            await engine.execute(Add(f"c{n}", 1, 4_000))
        past = engine.past(position=12_000)
        entering = asyncio.create_task(past.__aenter__())
        written = 0
        while not entering.done():
            await engine.execute(Add("c9", 1))
            written += 1
        try:
            assert written > 10
            assert await (await entering).query(GetTally("c9")) is None
        finally:
            await past.__aexit__(None, None, None)


async def test_leaving_a_past_interrupts_what_it_is_asked(engine: Engine) -> None:
    past = await engine.past(position=3).__aenter__()
    asked = asyncio.create_task(past.query(Endless()))
    await reading(past)
    await asyncio.wait_for(past.__aexit__(None, None, None), 10)

    with pytest.raises(StoreFailed, match="closed during a query"):
        await asked


async def test_a_question_that_is_given_up_does_not_hold_up_the_next(engine: Engine) -> None:
    async with engine.past(position=3) as past:
        asked = asyncio.create_task(past.query(Endless()))
        await reading(past)
        await cancelled(asked)

        assert await asyncio.wait_for(past.query(Positions()), 10) == [1, 2, 3]


async def reading(past: PastViews) -> None:
    """Return when it has something to do."""
    while past._store is None or past._store._shown._calls._running is None:
        await asyncio.sleep(0)


async def test_a_past_ends_with_its_engine() -> None:
    async with engine_on() as engine:
        await engine.execute(Add("a", 1))
        past = await engine.past().__aenter__()
    with pytest.raises(Closed):
        await past.query(Positions())
    await past.__aexit__(None, None, None)
    with pytest.raises(Closed):
        await engine.past().__aenter__()


# -- who may --------------------------------------------------------------------------------------


async def test_a_past_and_each_of_its_questions_is_asked_for() -> None:
    asked: list[tuple[str | None, str, object]] = []
    allowed = {"execute", "past"}

    def authorize(principal: str | None, action: str, message: object) -> bool:
        asked.append((principal, action, message))
        return action in allowed

    async with engine_on(authorize=authorize) as engine:
        await engine.execute(Add("a", 1))
        asked.clear()
        async with engine.past(principal="ann") as past:
            with pytest.raises(Forbidden, match="query Positions"):
                await past.query(Positions())
            allowed.add("query")
            assert await past.query(Positions()) == [1]
        allowed.remove("past")
        with pytest.raises(Forbidden, match="past"):
            async with engine.past(principal="bob") as past:
                pass

    assert asked == [
        ("ann", "past", "*"),
        ("ann", "query", Positions()),
        ("ann", "query", Positions()),
        ("bob", "past", "*"),
    ]


# -- from outside ---------------------------------------------------------------------------------


def archive_of(url: str) -> Archive:
    return Archive([Counter], store=url, projections=PROJECTIONS, answers=ANSWERS)


async def test_another_process_sees_the_same_past(tmp_path: Path) -> None:
    clock = ManualClock(START)
    url = f"sqlite:{tmp_path}/log.db"
    async with engine_on(url, ports=Ports(clock=clock)) as engine:
        await fill(engine, clock)
        async with archive_of(url) as archive:
            asked: list[dict[str, Any]] = [{}, {"position": 5}, {"at": START}]
            for how in asked:
                async with engine.past(**how) as inside, archive.past(**how) as outside:
                    assert await outside.query(GetTallies()) == await inside.query(GetTallies())
                    assert await outside.query(Positions()) == await inside.query(Positions())
        with pytest.raises(Closed, match="not open"):
            await archive.past().__aenter__()
    assert sorted(path.name for path in tmp_path.iterdir() if "views" not in path.name) == [
        "log.db",
        "log.db.lock",
    ]
