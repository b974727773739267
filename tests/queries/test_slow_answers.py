"""Answers that are slow, too long or too many hold up nobody who writes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Engine, Limits, Views, answers
from engine.runtime.ports import Ports
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.views import states as states_file
from engine.stores.sqlite.views.queries import QueryCalls
from tests.queries.ledger import (
    BETWEEN,
    READS,
    Ledger,
    Now,
    Twice,
    add,
    begin_slow,
    ledger,
    nobody_reads,
    views_of,
)
from tests.support.counters import Add, Counter
from tests.support.waiting import until


async def test_a_slow_answer_holds_up_neither_writes_nor_other_answers(tmp_path: Path) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        slow, go_on = await begin_slow(engine)
        for n in range(2, 30):
            receipt = await engine.execute(Add("a", 1))
            assert await engine.query(Now(), at=receipt) == n
        go_on.set()

        assert await slow == (1, 1)


SELDOM = 60.0
"""Seconds between two looks at what is read: within a test there is none."""


async def test_answers_between_two_commits_read_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_file, "LOOK_SECONDS", SELDOM)
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        await nobody_reads(engine)
        shown = views_of(engine)._shown
        tables, begun = shown.tables, 0

        def counted(connection: apsw.Connection, begin: Callable[[], None]) -> Any:
            nonlocal begun
            begun += 1
            return tables(connection, begin)

        monkeypatch.setattr(shown, "tables", counted)
        for _ in range(3):
            asked = [engine.query(Twice(first, "sql")) for first in READS]
            assert await asyncio.gather(*asked) == [(1, 1)] * len(READS)
        assert begun == 1
        await add(engine, 1)
        assert await engine.query(Twice("get", "sql")) == (2, 2)
        assert begun == 2


async def test_who_asks_behind_a_commit_does_not_join_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_file, "LOOK_SECONDS", SELDOM)
    async with ledger(tmp_path) as engine:
        await add(engine, 1)

        async def another() -> None:
            BETWEEN.clear()
            await add(engine, 1)
            assert await engine.query(Twice("get", "sql")) == (2, 2)

        BETWEEN.append(another)
        assert await engine.query(Twice("get", "sql")) == (1, 1)


async def test_a_commit_is_seen_as_soon_as_it_is_called_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has more to do behind it: another batch, or its log to fold."""
    monkeypatch.setattr(states_file, "LOOK_SECONDS", SELDOM)
    committed, go_on = threading.Event(), threading.Event()
    is_held = False

    def failpoint(name: str) -> None:
        if is_held and name == "views.committed":
            committed.set()
            assert go_on.wait(10)

    async with ledger(tmp_path, ports=Ports(failpoint=failpoint)) as engine:
        await add(engine, 1)
        assert await engine.query(Now()) == 1
        views, names = views_of(engine), ("ledger", "mirror")
        before = {name: views.transactions(name)[0] for name in names}
        is_held = True
        await engine.execute(Add("a", 1))
        await until(committed.is_set)
        try:
            found = await engine.query(Twice("get", "other"))
            certain = [views.transactions(name)[0] > before[name] for name in names]
            assert any(certain)
            assert all(n == 2 for n, sure in zip(found, certain, strict=True) if sure)
        finally:
            is_held = False
            go_on.set()


async def test_answers_that_overlap_do_not_read_one_state_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process commits too, and no number tells of it."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        monkeypatch.setattr(views_of(engine)._shown, "committed", lambda: None)
        slow, go_on = await begin_slow(engine)
        with closing(apsw.Connection(f"{tmp_path}/log.views.db")) as shell:
            shell.execute('UPDATE "ledger_rows:1" SET total = 7')
        async with asyncio.timeout(10):
            while await engine.query(Now()) != 7:
                pass
        go_on.set()
        assert await slow == (1, 1)


async def test_a_state_that_is_taken_from_one_answer_is_left_to_the_others() -> None:
    """They read on one connection: what is interrupted there for another's sake runs again."""
    calls = QueryCalls("views.db")
    worker = Ports().workers.start("test")
    calls.begin(worker)
    begun, go_on = threading.Event(), threading.Event()

    def one() -> tuple[apsw.Connection, None]:
        return connection, None

    def other() -> tuple[apsw.Connection, None]:
        return connection, None

    def read(_: None) -> str:
        first = not begun.is_set()
        begun.set()
        assert go_on.wait(10)
        if first:
            raise apsw.InterruptError("interrupted")
        return "read"

    with closing(apsw.Connection(":memory:")) as connection:
        asked = asyncio.ensure_future(calls.run(one, read))
        await until(begun.is_set)
        calls.give_up_on(other)
        go_on.set()
        assert await asked == "read"
        calls.end()
        await worker.close()


async def test_a_state_is_taken_from_an_answer_that_holds_it_too_long(tmp_path: Path) -> None:
    async with ledger(tmp_path, limits=Limits(state_seconds=1)) as engine:
        await add(engine, 1)
        states = views_of(engine)._shown._states
        assert states is not None
        ended = asyncio.Event()

        async def until_it_is_taken() -> None:
            await until(lambda: not states._reading)
            ended.set()

        BETWEEN.append(until_it_is_taken)
        with pytest.raises(TimeoutError, match=r"for 1 s at most \(Limits\.state_seconds\)"):
            await engine.query(Twice("get", "sql"))
        assert ended.is_set()
        BETWEEN.clear()
        assert await engine.query(Twice("get", "sql")) == (1, 1)
        await add(engine, 1)
        await states.lanes[0].calls.run(states.lanes[0].nothing, lambda _: None)
        with closing(apsw.Connection(f"{tmp_path}/log.views.db")) as shell:
            assert list(shell.execute("pragma wal_checkpoint(truncate)")) == [(0, 0, 0)]


async def test_a_state_is_not_counted_while_its_first_read_waits(tmp_path: Path) -> None:
    """What waits for the reads of others holds no log up."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        states = views_of(engine)._shown._states
        assert states is not None
        go_on = threading.Event()
        lane = states.lanes[0]
        busy = asyncio.ensure_future(lane.calls.run(lane.nothing, lambda _: go_on.wait()))
        asked = asyncio.ensure_future(engine.query(Now()))
        try:
            await until(lambda: bool(states._reading))
            states.seconds = 0
            states._look()
        finally:
            states.seconds = Limits().state_seconds
            go_on.set()
        await busy
        assert await asked == 1


async def test_a_statement_that_runs_too_long_is_ended(tmp_path: Path) -> None:
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"

    @answers
    async def never(query: Now, views: Views) -> int:
        return int((await views.sql(endless))[0][0])

    engine = Engine(
        [Counter],
        projections=[Ledger],
        answers=[never],
        store=f"sqlite:{tmp_path}/log.db",
        limits=Limits(state_seconds=1),
    )
    async with engine:
        with pytest.raises(TimeoutError, match=r"Limits\.state_seconds"):
            await engine.query(Now())


async def test_answers_beyond_the_bound_wait_for_their_turn(tmp_path: Path) -> None:
    async with ledger(tmp_path, limits=Limits(answers_at_once=2)) as engine:
        await add(engine, 1)
        inside, go_on = 0, asyncio.Event()

        async def wait() -> None:
            nonlocal inside
            inside += 1
            await go_on.wait()

        BETWEEN.append(wait)
        asked = [asyncio.ensure_future(engine.query(Twice("get", "sql"))) for _ in range(5)]
        await until(lambda: inside == 2)
        waiting = asyncio.ensure_future(engine.query(Now()))
        await asyncio.sleep(0)
        states = views_of(engine)._shown._states
        assert states is not None
        await until(lambda: len(states._waiting) == 4)
        waiting.cancel()
        asked[3].cancel()
        go_on.set()
        found = await asyncio.gather(*asked, return_exceptions=True)

        assert [answer for answer in found if answer == (1, 1)] == [(1, 1)] * 4
        assert not states._reading
        assert not states._waiting
        assert await engine.query(Now()) == 1


async def test_answers_that_overlap_without_a_gap_let_the_log_be_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MIN", 64 * 1024)
    # On a slow machine the log may need longer to grow than a pause lasts.
    monkeypatch.setattr(states_file, "PAUSE_SECONDS", SELDOM)
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        views = views_of(engine)
        assert views._wal is not None
        first, go_on = await begin_slow(engine)
        states = views._shown._states
        assert states is not None
        while not states._waiting:
            # The log grows until it would be folded, and then the next answer waits.
            await engine.execute(Add("a", 1))
            second = asyncio.ensure_future(engine.query(Now()))
            await asyncio.sleep(0)
            if not states._waiting:
                await second
        go_on.set()

        assert await first == (1, 1)
        assert await second > 1
        await until(lambda: views._shown._folding is None)
        assert views._wal._frames == 0


async def test_a_slow_answer_lets_nobody_wait_for_a_fold(tmp_path: Path) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        states = views_of(engine)._shown._states
        assert states is not None
        slow, go_on = await begin_slow(engine)
        next(iter(states._reading)).began = asyncio.get_running_loop().time() - 1
        async with states.pause() as nobody_reads:
            assert not nobody_reads
            assert await engine.query(Now()) == 1
        go_on.set()
        await slow
