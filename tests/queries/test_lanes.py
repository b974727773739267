"""A statement that takes long holds up nobody who reads something else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import Engine, Query, Views, answers
from engine.stores.sqlite.views import states as views_states
from engine.stores.sqlite.views.states import States
from tests.queries.ledger import views_of
from tests.support.counters import Add, Counter
from tests.support.tallies import GetTally, Tallies, Tally, get_tally
from tests.support.waiting import settle, until

ENDLESS = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"


class Endless(Query[int]):
    pass


class Both(Query[tuple[int, int]]):
    pass


@answers
async def endless(query: Endless, views: Views) -> int:
    return int((await views.sql(ENDLESS))[0][0])


@answers
async def get_both(query: Both, views: Views) -> tuple[int, int]:
    """Read two rows that change together, at the same time."""
    found = await asyncio.gather(views.get(Tallies.rows, "a"), views.get(Tallies.rows, "a"))
    first, second = (0 if row is None else row.total for row in found)
    return first, second


@asynccontextmanager
async def reading(folder: Path) -> AsyncGenerator[tuple[Engine, States]]:
    engine = Engine(
        [Counter],
        projections=[Tallies],
        answers=[get_tally, endless, get_both],
        store=f"sqlite:{folder}/log.db",
    )
    async with engine:
        await engine.query(GetTally("a"), at=await engine.execute(Add("a", 1)))
        states = views_of(engine)._shown._states
        assert states is not None
        yield engine, states


async def ended(*asked: asyncio.Future[int]) -> None:
    for each in asked:
        each.cancel()
    await asyncio.wait(asked)


def runs(states: States, count: int) -> bool:
    """Whether so many statements run."""
    return sum(lane.calls.runs_for > 0 for lane in states.lanes) == count


def held_up(states: States) -> int:
    return sum(lane.calls.runs_for >= views_states.HELD_UP_SECONDS for lane in states.lanes)


async def test_a_row_is_read_beside_a_statement_that_never_ends(tmp_path: Path) -> None:
    async with reading(tmp_path) as (engine, states):
        asked = asyncio.ensure_future(engine.query(Endless()))
        await until(lambda: runs(states, 1))
        async with asyncio.timeout(5):
            found = [await engine.query(GetTally("a"), at=1) for _ in range(3)]
        await ended(asked)
    assert found == [Tally("a", 1, 1)] * 3


async def test_those_go_elsewhere_that_waited_when_it_began(tmp_path: Path) -> None:
    async with reading(tmp_path) as (engine, states):
        asked = asyncio.ensure_future(engine.query(Endless()))
        waiting = [asyncio.ensure_future(engine.query(GetTally("a"))) for _ in range(20)]
        await until(lambda: runs(states, 1))
        async with asyncio.timeout(5):
            assert await asyncio.gather(*waiting) == [Tally("a", 1, 1)] * 20
        assert not asked.done()
        await ended(asked)


async def test_who_is_cancelled_as_he_is_taken_elsewhere_is_cancelled(tmp_path: Path) -> None:
    async with reading(tmp_path) as (engine, states):
        slow = asyncio.ensure_future(engine.query(Endless()))
        waiting = [asyncio.ensure_future(engine.query(GetTally("a"))) for _ in range(3)]
        await until(lambda: held_up(states) == 1 and len(states._reading) == 4)
        waiting[0].cancel()
        states._look()
        waiting[1].cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found[:2]] == [asyncio.CancelledError] * 2
        assert found[2] == Tally("a", 1, 1)
        await ended(slow)
        assert not states._reading


async def test_what_has_begun_to_read_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing holds up a lane before the test says so: the read is to wait in that of the slow one.
    monkeypatch.setattr(views_states, "HELD_UP_SECONDS", 60.0)
    async with reading(tmp_path) as (engine, states):
        shown = views_of(engine)._shown
        slow = asyncio.ensure_future(engine.query(Endless()))
        await until(lambda: runs(states, 1))
        begun, go_on = list[object](), threading.Event()
        tables = shown.tables

        def slowly(connection: apsw.Connection, begin: Callable[[], None]) -> Any:
            begun.append(connection)
            assert go_on.wait(10)
            return tables(connection, begin)

        monkeypatch.setattr(shown, "tables", slowly)
        shown.committed()  # so that it joins no other
        asked = asyncio.ensure_future(engine.query(GetTally("a")))
        await until(lambda: len(states._reading) == 2)
        await settle()
        await ended(slow)
        await until(lambda: bool(begun))
        monkeypatch.setattr(views_states, "HELD_UP_SECONDS", 0.001)
        await until(lambda: held_up(states) == 1)
        states._look()
        await settle()  # whoever is moved has left the first lane by then
        go_on.set()
        assert await asked == Tally("a", 1, 1)
        assert len(begun) == 1


async def test_what_is_short_is_read_in_one_thread(tmp_path: Path) -> None:
    async with reading(tmp_path) as (engine, states):
        for _ in range(5):
            await asyncio.gather(*[engine.query(GetTally("a")) for _ in range(100)])
        assert len(states.lanes) == 1


async def test_there_are_only_so_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_states, "LANES_MAX", 2)
    async with reading(tmp_path) as (engine, states):
        asked = [asyncio.ensure_future(engine.query(Endless())) for _ in range(3)]
        await until(lambda: runs(states, 2))
        late = asyncio.ensure_future(engine.query(GetTally("a")))
        await until(lambda: held_up(states) == 2)
        states._look()
        assert not late.done()
        assert len(states.lanes) == 2
        await ended(*asked)
        assert await late == Tally("a", 1, 1)


async def test_what_an_answer_reads_at_once_is_of_one_state(tmp_path: Path) -> None:
    """Also where its first reads wait behind a statement, and events come meanwhile."""
    async with reading(tmp_path) as (engine, _):
        slow = asyncio.ensure_future(engine.query(Endless()))
        asked: list[asyncio.Future[tuple[int, int]]] = []
        async with asyncio.timeout(10):
            for _ in range(50):
                asked.append(asyncio.ensure_future(engine.query(Both())))
                await engine.query(GetTally("a"), at=await engine.execute(Add("a", 1)))
            await ended(slow)
            found = await asyncio.gather(*asked)
    assert all(first == second for first, second in found), found


async def test_statements_that_never_end_do_not_keep_an_engine_from_its_end(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(10):
        async with reading(tmp_path) as (engine, states):
            asked = [asyncio.ensure_future(engine.query(Endless())) for _ in range(3)]
            await until(lambda: runs(states, 3))
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
