"""Views asked and watched from outside: beside their engine, over its ends, before it began."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Closed,
    DefinitionError,
    Engine,
    Meta,
    Onlooker,
    OnlookerQuery,
    Projection,
    ProjectionLag,
    Query,
    Receipt,
    Row,
    StoreFailed,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.outside import onlooker
from engine.stores.sqlite.views.store import SqliteViews
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

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 0.002)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/log.db"


def views_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:").replace("log.db", "log.views.db"))


def looking(url: str, *functions: Any, projections: Any = (Tallies,)) -> Onlooker:
    given = functions or (get_tally, get_tallies)
    return Onlooker(projections=projections, answers=given, store=url)


async def add(engine: Engine, counter: str, amount: int) -> Receipt:
    """Execute, and wait until the views have it."""
    receipt = await engine.execute(Add(counter, amount))
    await engine.query(GetTallies(), at=receipt)
    return receipt


async def the_next(watching: OnlookerQuery[Any]) -> Any:
    async with asyncio.timeout(10):
        return await anext(watching)


def outside(url: str, *statements: str) -> list[Any]:
    """Run statements as somebody with a SQLite shell could; give what the last one answers."""
    found: list[Any] = []
    with closing(apsw.Connection(str(views_file(url)))) as connection:
        for statement in statements:
            found = connection.execute(statement).fetchall()
    return found


class GetSum(Query[int]):
    statement: str = "select sum(total) from tallies_rows"


@answers
async def get_sum(query: GetSum, views: Views) -> int:
    return int((await views.sql(query.statement))[0][0])


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


# -- what is refused ------------------------------------------------------------------------


class Newer(Projection, name="tallies", version=2):
    rows: Table[Tally]

    @projects
    def added(self, event: Added) -> None: ...


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


# -- watching -------------------------------------------------------------------------------


async def test_it_gives_each_answer_that_differs_and_no_other(url: str) -> None:
    asked = 0

    @answers
    async def counted(query: GetTally, views: Views) -> Tally | None:
        nonlocal asked
        asked += 1
        return await views.get(Tallies.rows, query.counter)

    async with tallied(url) as engine, looking(url, counted) as looker:
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) is None
        later = asyncio.create_task(the_next(watching))
        for amount in range(1, 4):
            before = asked
            await add(engine, "b", amount)
            while asked == before:
                await asyncio.sleep(0)
        assert not later.done()
        await add(engine, "a", 5)
        assert await later == Tally("a", 5, 1)
        await watching.aclose()


async def test_what_is_committed_while_it_asks_is_not_missed(url: str) -> None:
    async with tallied(url) as engine:

        @answers
        async def overtaken(query: GetTally, views: Views) -> Tally | None:
            before = await views.get(Tallies.rows, query.counter)
            if before is None:
                await add(engine, query.counter, 1)
            return before

        async with looking(url, overtaken) as looker:
            watching = looker.watch(GetTally("a"))
            assert await the_next(watching) is None
            assert await the_next(watching) == Tally("a", 1, 1)
            await watching.aclose()


async def test_a_wait_that_is_given_up_loses_nothing(url: str) -> None:
    asking = asyncio.Event()
    goes_on = asyncio.Event()
    goes_on.set()

    @answers
    async def held(query: GetTallies, views: Views) -> list[Tally]:
        asking.set()
        await goes_on.wait()
        return await views.find(Tallies.rows)

    async with tallied(url) as engine, looking(url, held) as looker:
        watching = looker.watch(GetTallies())
        assert await the_next(watching) == []
        goes_on.clear()
        asking.clear()
        waiting = asyncio.create_task(the_next(watching))
        await add(engine, "a", 1)
        await asking.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        goes_on.set()
        assert await the_next(watching) == [Tally("a", 1, 1)]


async def test_an_answer_has_a_position_that_it_contains(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        watching = looker.watch(GetTallies())
        await the_next(watching)
        assert watching.position == 0
        for amount in range(1, 4):
            receipt = await add(engine, "a", amount)
            await the_next(watching)
            assert watching.position == receipt.position
        await watching.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watching)


async def test_it_asks_only_where_something_was_committed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = asked = 0

    @answers
    async def counted(query: GetTallies, views: Views) -> list[Tally]:
        nonlocal asked
        asked += 1
        return []

    async with tallied(url) as engine, looking(url, counted) as looker:
        look = looker._reader.look

        async def counting() -> Any:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(looker._reader, "look", counting)
        watching = looker.watch(GetTallies())
        assert await the_next(watching) == []
        waiting = asyncio.create_task(the_next(watching))
        while looks < 20:
            await asyncio.sleep(0)
        assert asked == 1
        await add(engine, "a", 1)
        while asked == 1:
            await asyncio.sleep(0)
        waiting.cancel()


async def test_many_who_watch_look_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK_SECONDS", 3_600)
    looks = 0
    async with tallied(url), looking(url) as looker:
        look = looker._reader.look

        async def counting() -> Any:
            nonlocal looks
            looks += 1
            return await look()

        monkeypatch.setattr(looker._reader, "look", counting)
        all_of_them = [looker.watch(GetTallies()) for _ in range(50)]
        assert [await the_next(watching) for watching in all_of_them] == [[]] * 50

    assert looks == 1


async def test_many_who_wait_for_a_position_look_together(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    async with tallied(url) as engine, looking(url) as looker:
        await engine.projections.pause("tallies")
        receipt = await engine.execute(Add("a", 1))
        positions, hold = looker._reader.positions, asyncio.Event()

        async def held() -> Any:
            nonlocal looks
            looks += 1
            await hold.wait()
            return await positions()

        monkeypatch.setattr(looker._reader, "positions", held)
        asking = [
            asyncio.create_task(looker.query(GetTally("a"), at=receipt, timeout=0))
            for _ in range(200)
        ]
        await until(lambda: looks == 1)
        hold.set()
        for asked in asking:
            with pytest.raises(ProjectionLag, match="tallies is 1 behind"):
                await asked

    assert looks <= 3


@pytest.mark.parametrize("watched", [False, True])
async def test_what_is_emptied_before_it_is_read_is_not_taken_for_more(
    url: str, watched: bool
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @answers
    async def late(query: GetTallies, views: Views) -> list[Tally]:
        begun.set()
        await go_on.wait()
        return await views.find(Tallies.rows)

    async with tallied(url) as engine, looking(url, late) as looker:
        receipt = await add(engine, "a", 1)
        watching = looker.watch(GetTallies())
        asked = the_next(watching) if watched else looker.query(GetTallies(), at=receipt, timeout=1)
        asking = asyncio.ensure_future(asked)
        await begun.wait()
        await engine.projections.pause("tallies")
        await engine.projections.reset("tallies")
        go_on.set()

        if watched:
            assert (await asking, watching.position) == ([], 0)
        else:
            with pytest.raises(ProjectionLag, match="tallies is 1 behind, at 0"):
                await asking


async def test_who_is_slow_is_given_the_newest(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        watching = looker.watch(GetTally("a"))
        await the_next(watching)
        for _ in range(20):
            await add(engine, "a", 1)
        assert await the_next(watching) == Tally("a", 20, 20)
        await watching.aclose()


async def test_it_waits_for_views_that_are_not_there_and_makes_nothing(
    url: str, tmp_path: Path
) -> None:
    async with looking(url) as looker:
        assert await looker.positions() == {}
        with pytest.raises(StoreRefused, match=r"no views in .*log\.views\.db yet: start the"):
            await looker.query(GetTallies())
        watching = looker.watch(GetTallies())
        first = asyncio.create_task(the_next(watching))
        await asyncio.sleep(0.01)
        assert list(tmp_path.iterdir()) == []
        async with tallied(url) as engine:
            assert await first == []
            await add(engine, "a", 1)
            assert await the_next(watching) == [Tally("a", 1, 1)]
        await watching.aclose()


async def test_it_goes_on_over_the_engines_restarts(url: str) -> None:
    async with looking(url) as looker:
        watching = looker.watch(GetTally("a"))
        for life in range(1, 4):
            async with tallied(url) as engine:
                await add(engine, "a", 1)
                while (found := await the_next(watching)) is None:
                    pass
                assert found == Tally("a", life, life)
        await watching.aclose()


async def test_it_goes_on_where_the_engine_is_killed_and_started_again(url: str) -> None:
    child = [sys.executable, "-m", "tests.support.tallies", url, "views.committed", "3"]
    async with looking(url) as looker:
        watching = looker.watch(GetTallies())
        killed = await asyncio.to_thread(subprocess.run, child, cwd=ROOT, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        seen = await the_next(watching)
        async with tallied(url) as engine:
            assert {t.counter for t in seen} <= {f"c{n}" for n in range(5)}
            await add(engine, "z", 1)
            while seen != await engine.query(GetTallies()):
                seen = await the_next(watching)
            assert seen[-1] == Tally("z", 1, 1)
        await watching.aclose()


async def test_it_goes_on_with_views_that_were_removed_and_are_built_anew(url: str) -> None:
    async with looking(url) as looker:
        async with tallied(url) as engine:
            await add(engine, "a", 1)
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) == Tally("a", 1, 1)
        waiting = asyncio.create_task(the_next(watching))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{views_file(url)}{suffix}").unlink(missing_ok=True)
        while await looker.positions():
            await asyncio.sleep(0)
        async with tallied(url) as engine:
            await add(engine, "a", 2)
            while (found := await waiting) != Tally("a", 3, 2):
                assert found is None or found == Tally("a", 1, 1)
                waiting = asyncio.create_task(the_next(watching))
        await watching.aclose()


async def test_it_goes_on_while_the_views_are_rebuilt_beside_and_swapped(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        await add(engine, "a", 1)
        watching = looker.watch(GetTally("a"))
        assert await the_next(watching) == Tally("a", 1, 1)
        outside(url, 'update "tallies_rows:1" set total = 77')
        assert await the_next(watching) == Tally("a", 77, 1)
        await engine.projections.rebuild("tallies")
        assert await the_next(watching) == Tally("a", 1, 1)
        assert (await engine.projections.status("tallies")).builds[-1].state == "serving"
        await engine.projections.drop("tallies")
        await add(engine, "a", 2)
        assert await the_next(watching) == Tally("a", 3, 2)
        assert await looker.positions() == {"tallies": 2}
        await watching.aclose()


async def test_it_follows_a_projection_that_is_reset(url: str) -> None:
    async with tallied(url) as engine, looking(url) as looker:
        for counter in "abc":
            await add(engine, counter, 1)
        watching = looker.watch(GetTallies())
        seen = await the_next(watching)
        outside(url, 'update "tallies_rows:1" set total = 77')
        await engine.projections.reset("tallies")
        while [row.total for row in seen] != [1, 1, 1]:
            seen = await the_next(watching)
        await watching.aclose()


async def test_views_that_are_being_built_are_to_be_waited_for(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
    outside(
        url,
        "insert into builds select projection, 2, 2, definition, slices, log_id, tables, "
        "'building', null, 0 from builds",
    )
    with pytest.raises(StoreRefused, match="version 2 is declared here: ask again when it serves"):
        async with looking(url, get_sum, projections=[Newer]):
            pass


class Sliced(Projection, name="tallies", version=1, slices=4):
    rows: Table[Tally]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Tally(meta.id, 0, 0)
        self.rows.put(Tally(meta.id, row.total + event.amount, row.events + 1))


class GetSliced(Query[list[Tally]]):
    pass


@answers
async def get_sliced(query: GetSliced, views: Views) -> list[Tally]:
    return await views.find(Sliced.rows, order_by="counter")


async def test_a_sliced_projection_is_as_far_as_its_last_slice(url: str) -> None:
    async with (
        Engine([Counter], projections=[Sliced], answers=[get_sliced], store=url) as engine,
        looking(url, get_sliced, projections=[Sliced]) as looker,
    ):
        for counter in "abcdefgh":
            receipt = await engine.execute(Add(counter, 1))
        assert [row.counter for row in await looker.query(GetSliced(), at=receipt)] == [*"abcdefgh"]
        assert await looker.positions() == {"tallies": 8}
        outside(url, "update checkpoints set position = 3 where slice = 2")
        assert await looker.positions() == {"tallies": 3}


async def test_it_follows_views_that_go_back_to_the_beginning(url: str) -> None:
    async with tallied(url) as engine:
        await add(engine, "a", 1)
        async with looking(url) as looker, aclosing(looker.watch(GetTallies())) as watching:
            assert await the_next(watching) == [Tally("a", 1, 1)]
            outside(url, 'delete from "tallies_rows:1"', "update checkpoints set position = 0")
            assert await the_next(watching) == []
            assert await looker.positions() == {"tallies": 0}


async def test_closing_it_ends_who_watches(url: str) -> None:
    async with tallied(url):
        async with looking(url) as looker:
            watching = looker.watch(GetTallies())
            await the_next(watching)
            waiting = asyncio.create_task(the_next(watching))
            await asyncio.sleep(0)
        with pytest.raises((Closed, StoreFailed), match="not open|closed"):
            await waiting
        with pytest.raises(Closed, match="use it inside"):
            await looker.query(GetTallies())

    assert [t.name for t in threading.enumerate() if t.name.startswith("foldline")] == []


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
            connection = looker._reader._connection
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
            await until(lambda: not states._ended)  # the engine's own queries
            await looker.positions()  # what has ended was given back before
            folded = outside(url, "pragma wal_checkpoint(truncate)")

    assert folded == [(0, 0, 0)]


async def test_a_query_that_is_given_up_does_not_hold_up_the_next(url: str) -> None:
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
    async with tallied(url), looking(url, get_sum, get_tallies) as looker:
        slow = asyncio.create_task(looker.query(GetSum(endless)))
        while looker._reader._calls._running is None:
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
