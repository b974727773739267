"""Views asked from outside: what is refused, and what an onlooker never does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import apsw
import pytest

from engine import (
    DefinitionError,
    Engine,
    Projection,
    ProjectionLag,
    Query,
    Row,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.outside import onlooker
from engine.stores.sqlite.outside.views import SqliteViewsReader
from engine.stores.sqlite.views.store import SqliteViews
from tests.outside.looking import (
    GetSum,
    Newer,
    add,
    get_sum,
    looking,
    outside,
    the_next,
    views_file,
)
from tests.support.counters import Add, Added, Counter
from tests.support.tallies import (
    GetTallies,
    GetTally,
    Tallies,
    Tally,
    get_tallies,
    get_tally,
    tallied,
)
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 0.002)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/log.db"


class CountTallies(Query[int]):
    pass


@answers
async def count_tallies(query: CountTallies, views: Views) -> int:
    return await views.count(Tallies.rows, where={"total": 3})


# -- asking ---------------------------------------------------------------------------------


async def test_it_says_what_the_running_engine_says(url: str) -> None:
    async with tallied(url) as engine, looking(url, get_tally, get_tallies, get_sum) as looker:
        for counter, amount in (("a", 1), ("b", 2), ("a", 3)):
            await add(engine, counter, amount)
            assert await looker.query(GetTallies()) == await engine.query(GetTallies())
        assert await looker.query(GetTally("a")) == Tally("a", 4, 2)
        assert await looker.query(GetTally("none")) is None
        assert await looker.query(GetSum()) == 6
        assert await looker.positions() == {"tallies": 3}


async def test_all_ways_to_read_are_there_when_no_engine_is(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 3)
        await add(engine, "b", 4)
    async with looking(url, get_tally, get_tallies, get_sum, count_tallies) as looker:
        assert await looker.query(GetTally("a")) == Tally("a", 3, 1)
        assert await looker.query(GetTallies()) == [Tally("a", 3, 1), Tally("b", 4, 1)]
        assert await looker.query(GetSum()) == 7
        assert await looker.query(CountTallies()) == 1


async def test_a_query_at_a_receipt_waits_for_the_other_process(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        for amount in range(1, 20):
            receipt = await engine.execute(Add("a", amount))
            found = await looker.query(GetTally("a"), at=receipt.token)
            assert found is not None
            assert found.events == amount
        await engine.projections.pause("tallies")
        receipt = await engine.execute(Add("a", 20))
        with pytest.raises(ProjectionLag) as late:
            await looker.query(GetTally("a"), at=receipt, timeout=0.01)

    assert late.value.behind == {"tallies": 19}
    assert "written by another process" in str(late.value)


class Compare(Query[tuple[int, int]]):
    pass


@answers
async def compare(query: Compare, views: Views) -> tuple[int, int]:
    rows = await views.sql(
        "select coalesce(sum(events), 0), (select max(position) from checkpoints) from tallies_rows"
    )
    return rows[0][0], rows[0][1]


async def test_it_sees_whole_transactions(url: str) -> None:
    async with tallied(url) as engine, looking(url, compare) as looker:
        await add(engine, "a", 1)
        writing = asyncio.gather(*(engine.execute(Add(f"c{n % 7}", 1)) for n in range(500)))
        seen = {await looker.query(Compare()) for _ in range(50)}
        await writing

    assert all(events == position for events, position in seen)


class Other(Row, key="counter"):
    counter: str
    total: int


class Otherwise(Projection, name="tallies", version=1):
    rows: Table[Other]

    @projects
    def added(self, event: Added) -> None: ...


class Missing(Projection, name="missing", version=1):
    rows: Table[Tally]

    @projects
    def added(self, event: Added) -> None: ...


REFUSED: dict[str, tuple[type[Projection], str]] = {
    "another-version": (Newer, r"'tallies' in .* are of version 1, and version 2 is declared here"),
    "other-tables": (Otherwise, r"'tallies' are declared otherwise here .* use its class"),
    "not-there": (Missing, r"no views of projection 'missing': start an engine that has it"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_views_of_another_definition_are_refused_with_the_mend(url: str, case: str) -> None:
    projection, why = REFUSED[case]
    async with tallied(url) as engine:
        await add(engine, "a", 1)
    with pytest.raises(StoreRefused, match=why):
        async with looking(url, get_sum, projections=[projection]):
            pass

    assert [t.name for t in threading.enumerate() if t.name.startswith("foldline")] == []


async def test_a_file_that_has_no_views_is_refused(url: str) -> None:
    outside(url, "create table shopping (list text)")
    with pytest.raises(StoreRefused, match="is not a file of views"):
        async with looking(url):
            pass
    views_file(url).write_bytes(b"no database at all, whatever its name says" * 99)
    with pytest.raises(StoreRefused, match="damaged"):
        async with looking(url):
            pass


async def test_views_of_a_later_schema_are_refused(url: str) -> None:
    async with tallied(url):
        pass
    outside(url, "update views_meta set schema_version = 99")
    with pytest.raises(StoreRefused, match="schema version 99"):
        async with looking(url):
            pass


async def test_a_store_in_memory_has_nothing_to_look_at() -> None:
    with pytest.raises(DefinitionError, match="no file that another process could read"):
        looking("memory:")


async def test_a_definition_that_changes_below_it_is_noticed_at_the_next_query(url: str) -> None:
    async with looking(url) as looker:
        async with tallied(url) as engine:
            await add(engine, "a", 1)
            assert await looker.query(GetTally("a")) == Tally("a", 1, 1)
        async with aclosing(looker.watch(GetTallies())) as watching:
            assert await the_next(watching) == [Tally("a", 1, 1)]
            async with Engine([Counter], projections=[Newer], rebuild="auto", store=url):
                with pytest.raises(StoreRefused, match="of version 2, and version 1 is declared"):
                    await the_next(watching)
        with pytest.raises(StoreRefused, match="of version 2, and version 1 is declared"):
            await looker.query(GetTally("a"))


# -- what it never does ---------------------------------------------------------------------


async def test_it_cannot_write(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
        async with looking(url, get_sum) as looker:
            for statement in (
                'delete from "tallies_rows:1"',
                "insert into \"tallies_rows:1\" values ('z', 1, 1)",
                "pragma user_version = 3",
                "commit",
                "attach 'other.db' as other",
            ):
                with pytest.raises(UsageError, match=r"views\.sql"):
                    await looker.query(GetSum(statement))
            assert await looker.query(GetSum()) == 1
            reader = looker._reader
            assert isinstance(reader, SqliteViewsReader)
            connection = reader._connection
            assert connection is not None
            assert connection.readonly("main")
            with pytest.raises(apsw.ReadOnlyError):
                connection.execute('delete from "tallies_rows:1"').fetchall()


async def test_it_changes_no_byte_of_the_file(url: str, tmp_path: Path) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    async with looking(url, get_tallies, get_sum) as looker:
        await looker.query(GetTallies())
        await looker.query(GetSum())
        await the_next(looker.watch(GetTallies()))
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    beside = {"log.views.db-wal", "log.views.db-shm"}
    assert {name: after[name] for name in after.keys() - beside} == before
    assert not after.get("log.views.db-wal")


async def test_a_read_transaction_ends_with_its_query(url: str) -> None:
    """A reader at rest never keeps the write-ahead log from being folded in."""
    async with tallied(url) as engine:
        await add(engine, "a", 1)
        async with looking(url, get_tally, get_sum, count_tallies) as looker:
            await looker.query(GetTally("a"))
            await looker.query(GetSum())
            await looker.query(CountTallies())
            with pytest.raises(UsageError):
                await looker.query(GetSum("select no_such_column"))
            await the_next(looker.watch(CountTallies()))
            assert isinstance(engine._views, SqliteViews)
            states = engine._views._shown._states
            assert states is not None
            await until(lambda: not states.lanes[0].ended)  # the engine's own queries
            await looker.positions()  # what has ended was given back before
            folded = outside(url, "pragma wal_checkpoint(truncate)")

    assert folded == [(0, 0, 0)]


async def test_a_query_that_is_given_up_does_not_hold_up_the_next(url: str) -> None:
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
    async with tallied(url), looking(url, get_sum, get_tallies) as looker:
        slow = asyncio.create_task(looker.query(GetSum(endless)))
        reader = looker._reader
        assert isinstance(reader, SqliteViewsReader)
        while reader._calls._running is None:
            await asyncio.sleep(0)
        slow.cancel()

        assert await asyncio.wait_for(looker.query(GetTallies()), 10) == []


# -- who writes -----------------------------------------------------------------------------


async def test_it_tells_which_process_has_the_store(url: str) -> None:
    async with looking(url) as looker:
        assert looker.writer() is None
        async with tallied(url):
            assert looker.writer() == os.getpid()
        assert looker.writer() is None
        with subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE) as ended:
            ended.communicate()
        Path(url.removeprefix("sqlite:") + ".lock").write_text(f"{ended.pid}\n")
        assert looker.writer() is None


async def test_an_engine_that_is_kept_out_leaves_the_other_ones_note(url: str) -> None:
    async with tallied(url), looking(url) as looker:
        for _ in range(2):
            with pytest.raises(Exception, match=f"held by this very process \\({os.getpid()}\\)"):
                await tallied(url).__aenter__()
        assert looker.writer() == os.getpid()
