"""Each answer reads one state of the views, however it reads."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Engine, Limits, Onlooker, UsageError, Views, answers
from engine.stores.sqlite.connection import OnlyReads
from tests.queries.ledger import (
    BETWEEN,
    LARGE,
    READS,
    Ledger,
    Mirror,
    Now,
    Twice,
    add,
    get,
    ledger,
    nobody_reads,
    total_now,
    twice,
    views_of,
)
from tests.support.counters import Add, Counter
from tests.support.waiting import settle, until


async def test_what_an_answer_reads_is_of_one_state(tmp_path: Path) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)

        async def another() -> None:
            await add(engine, 1)

        BETWEEN.append(another)
        for n, (first, second) in enumerate(itertools.product(READS, READS)):
            assert await engine.query(Twice(first, second)) == (n + 1, n + 1)


async def test_what_an_onlooker_reads_is_of_one_state(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    async with (
        ledger(tmp_path) as engine,
        Onlooker(projections=[Ledger, Mirror], answers=[twice], store=store) as onlooker,
    ):
        await add(engine, 1)

        async def another() -> None:
            await add(engine, 1)

        BETWEEN.append(another)
        for n, (first, second) in enumerate([("get", "sql"), ("search", "find"), ("other", "get")]):
            assert await onlooker.query(Twice(first, second)) == (n + 1, n + 1)


async def test_who_watches_is_told_what_changed_behind_the_state_of_an_answer(
    tmp_path: Path,
) -> None:
    """The table of the second read is noted when it has changed already."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        amounts = iter([LARGE])

        async def another() -> None:
            for amount in amounts:
                await add(engine, amount)

        BETWEEN.append(another)
        async with aclosing(engine.watch(Twice("get", "other"))) as watched:
            async with asyncio.timeout(10):
                assert [await anext(watched), await anext(watched)] == [(1, 1), (1, 2)]
            assert watched.position == 2
        BETWEEN.clear()
        async with aclosing(engine.watch(Twice("other", "other"))) as watched:
            assert await anext(watched) == (2, 2)


async def test_in_memory_writes_wait_for_an_answer_that_saw_two_states_twice() -> None:
    async with Engine(
        [Counter], projections=[Ledger, Mirror], answers=[twice, total_now]
    ) as engine:
        await add(engine, 1)
        asked: list[int] = []
        writes: list[asyncio.Task[None]] = []

        async def another() -> None:
            asked.append(len(asked))
            writes.append(asyncio.ensure_future(add(engine, 1)))
            await asyncio.wait(writes[-1:], timeout=0.2)

        BETWEEN.append(another)
        assert await engine.query(Twice("get", "sql")) == (3, 3)
        assert asked == [0, 1, 2]
        await asyncio.gather(*writes)


async def test_in_memory_a_read_whose_answer_has_ended_holds_no_write_up() -> None:
    async with Engine([Counter], projections=[Ledger, Mirror], answers=[total_now]) as engine:
        views = views_of(engine)
        holds, left = views.state(holding=10), views.state(holding=10)
        await holds.sql("SELECT 1", (), 1)
        straggler = asyncio.ensure_future(left.sql("SELECT 1", (), 1))
        await settle()
        left.end()
        assert not straggler.done()
        holds.end()
        await straggler
        await add(engine, 1)


async def test_in_memory_answers_beside_each_other_see_one_state_each() -> None:
    """One holds writes up after the other, and writes get their turn in between."""
    async with Engine(
        [Counter], projections=[Ledger, Mirror], answers=[twice, total_now]
    ) as engine:
        await add(engine, 1)
        writes: list[asyncio.Task[None]] = []

        async def another() -> None:
            writes.append(asyncio.ensure_future(add(engine, 1)))
            await asyncio.wait(writes[-1:], timeout=0.2)

        BETWEEN.append(another)
        answers = await asyncio.gather(*(engine.query(Twice("get", "sql")) for _ in range(4)))
        assert all(first == second for first, second in answers), answers
        assert len({first for first, _ in answers}) > 1, "writes were made between two of them"
        await asyncio.gather(*writes)


async def test_in_memory_an_answer_has_as_long_as_one_state_may_be_read() -> None:
    """It holds writes up for that long at most. What saw two states even then is not given."""
    async with Engine(
        [Counter],
        projections=[Ledger, Mirror],
        answers=[twice, total_now],
        limits=Limits(state_seconds=1),
    ) as engine:
        await add(engine, 1)
        tries: list[int] = []

        async def another() -> None:
            tries.append(len(tries))
            await add(engine, 1)  # waits for the views, which wait for this answer

        BETWEEN.append(another)
        with pytest.raises(TimeoutError, match=r"1 s, .*Limits\.state_seconds.*again is safe"):
            await engine.query(Twice("get", "sql"))
        assert len(tries) == 4


async def test_what_reads_after_its_answer_was_given_is_refused(tmp_path: Path) -> None:
    late: list[asyncio.Task[int]] = []
    given = asyncio.Event()

    @answers
    async def hasty(query: Now, views: Views) -> int:
        async def read() -> int:
            await given.wait()
            return int(await get(views))

        late.append(asyncio.ensure_future(read()))
        return int(await get(views))

    store = f"sqlite:{tmp_path}/log.db"
    async with Engine([Counter], projections=[Ledger], answers=[hasty], store=store) as engine:
        assert await engine.query(Now()) == 0
        given.set()
        with pytest.raises(UsageError, match="answer that had been given already"):
            await late[0]


async def test_an_answer_reads_on_in_its_state_while_another_build_takes_over(
    tmp_path: Path,
) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)

        async def rebuild() -> None:
            projections = engine.projections
            await projections.rebuild("ledger")
            await until(
                lambda: engine.statistics().projectors["ledger"].building is None,
            )
            await add(engine, 1)

        BETWEEN.append(rebuild)
        assert await engine.query(Twice("get", "search")) == (1, 1)
        BETWEEN.clear()
        assert await engine.query(Twice("get", "search")) == (2, 2)


async def test_a_search_begins_in_a_schema_that_stays(tmp_path: Path) -> None:
    """Builds come and go; an index of words that is opened meanwhile would fail."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        states = views_of(engine)._shown._states
        assert states is not None
        made = 0
        reads: list[bool] = []
        """Whether a state was held already, each time that an index of words was opened."""

        class Meddling(OnlyReads):
            """Another one changes the schema while what is read first is compiled."""

            selects = 0

            def __init__(self, connection: apsw.Connection) -> None:
                super().__init__()
                self.connection = connection

            def __call__(self, action: int, *about: Any) -> int:
                nonlocal made
                if action == apsw.SQLITE_READ and str(about[0]).endswith("_config"):
                    reads.append(self.connection.txn_state() == apsw.SQLITE_TXN_READ)
                if action == apsw.SQLITE_SELECT:
                    self.selects += 1
                if action == apsw.SQLITE_SELECT and self.selects > 1 and made < 5:
                    made += 1
                    with closing(apsw.Connection(f"{tmp_path}/log.views.db")) as shell:
                        shell.execute(f"CREATE TABLE meddled_{made} (x)")
                return super().__call__(action, *about)

        connect = states._source.connect

        def meddled() -> apsw.Connection:
            connection = connect()
            connection.authorizer = Meddling(connection)
            return connection

        states._source.connect = meddled  # type: ignore[method-assign]
        lane = states.lanes[0]
        await lane.calls.run(lane.nothing, lambda _: lane._idle.clear())

        assert await engine.query(Twice("search", "get")) == (1, 1)
        assert made == 5
        # Most releases of SQLite try such a failure again, and hide it.
        assert reads
        assert all(reads)


async def test_a_build_is_dropped_when_those_that_are_about_to_read_it_have_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        shown = views_of(engine)._shown
        await nobody_reads(engine)
        tables = shown.tables
        about_to_begin, go_on = threading.Event(), threading.Event()

        def slowly(connection: apsw.Connection, begin: Callable[[], None]) -> Any:
            def begin_later() -> None:
                about_to_begin.set()
                assert go_on.wait(10)
                begin()

            return tables(connection, begin_later)

        monkeypatch.setattr(shown, "tables", slowly)
        asked = asyncio.ensure_future(engine.query(Now()))
        await until(about_to_begin.is_set)
        await engine.projections.rebuild("ledger")
        await until(lambda: engine.statistics().projectors["ledger"].building is None)
        dropping = asyncio.ensure_future(engine.projections.drop("ledger"))
        await asyncio.wait({dropping}, timeout=0.3)
        assert not dropping.done()
        go_on.set()

        assert await asked == 1
        await dropping


async def test_a_read_that_failed_half_way_leaves_no_old_state_behind(tmp_path: Path) -> None:
    """Its cursor lives on in the error, and what it has read with it."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        kept: list[Any] = []

        def half(readable: Any) -> None:
            cursor = readable.connection.cursor()
            cursor.execute("SELECT name FROM ledger_rows")
            kept.append(cursor)

        state = views_of(engine).state()
        await state.run(half)  # type: ignore[attr-defined]
        state.end()
        for n in (2, 3):
            receipt = await engine.execute(Add("a", 1))
            assert await engine.query(Now(), at=receipt) == n
