"""Each answer reads one state of the views, however it reads, and holds up nobody who writes."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from engine import (
    Engine,
    Limits,
    Meta,
    Onlooker,
    Projection,
    Query,
    Row,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.runtime.ports import Ports
from engine.stores.sqlite import wal as sqlite_wal
from engine.stores.sqlite.connection import OnlyReads
from engine.stores.sqlite.views import states as states_file
from engine.stores.sqlite.views.queries import QueryCalls
from engine.stores.sqlite.views.store import SqliteViews
from tests.support.counters import Add, Added, Counter
from tests.support.waiting import until


class Entry(Row, key="name", index=["total"], search=["words"]):
    name: str
    total: int
    words: str = ""


LARGE = 1_000


class Ledger(Projection, name="ledger", version=1):
    """Each event is entered in two rows, whose sum is 0 at any time; but for large amounts."""

    rows: Table[Entry]

    @projects
    def added(self, event: Added) -> None:
        if event.amount >= LARGE:
            return
        for name, sign in (("left", 1), ("right", -1)):
            row = self.rows.get(name) or Entry(name, 0)
            total = row.total + sign * event.amount
            self.rows.put(Entry(name, total, f"stands at {abs(total)}"))


class Mirror(Projection, name="mirror", version=1):
    """Another projection of the same events."""

    rows: Table[Entry]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        self.rows.put(Entry(f"at {meta.position}", event.amount))


class Twice(Query[tuple[Any, Any]]):
    """Reads in one way, and then in another."""

    first: str
    second: str


class Now(Query[int]):
    """The total on the left."""


READS: dict[str, Callable[[Views], Awaitable[Any]]] = {}


Read = Callable[[Views], Awaitable[Any]]


def reads(name: str) -> Callable[[Read], Read]:
    def keep(read: Read) -> Read:
        READS[name] = read
        return read

    return keep


@reads("get")
async def _get(views: Views) -> int:
    row = await views.get(Ledger.rows, "left")
    return 0 if row is None else row.total


@reads("find")
async def _find(views: Views) -> int:
    rows = await views.find(Ledger.rows, where={"name": "right"})
    return -rows[0].total if rows else 0


@reads("sql")
async def _sql(views: Views) -> int:
    found = await views.sql("SELECT coalesce(max(total), 0) FROM ledger_rows")
    return int(found[0][0])


@reads("search")
async def _search(views: Views) -> int:
    rows = await views.search(Ledger.rows, "stands")
    return max((row.total for row in rows), default=0)


@reads("other")
async def _count(views: Views) -> int:
    return await views.count(Mirror.rows)


BETWEEN: list[Callable[[], Awaitable[None]]] = []
"""What happens between the first read of `Twice` and the second."""


@pytest.fixture(autouse=True)
def _nothing_between() -> None:
    BETWEEN.clear()


@answers
async def twice(query: Twice, views: Views) -> tuple[Any, Any]:
    first = await READS[query.first](views)
    for call in BETWEEN:
        await call()
    return first, await READS[query.second](views)


@answers
async def total_now(query: Now, views: Views) -> int:
    return int(await _get(views))


def ledger(folder: Path, **options: Any) -> Engine:
    return Engine(
        [Counter],
        projections=[Ledger, Mirror],
        answers=[twice, total_now],
        store=f"sqlite:{folder}/log.db",
        **options,
    )


def views_of(engine: Engine) -> SqliteViews:
    assert isinstance(engine._views, SqliteViews)
    return engine._views


async def add(engine: Engine, amount: int) -> None:
    receipt = await engine.execute(Add("a", amount))
    await engine.query(Now(), at=receipt)


async def nobody_reads(engine: Engine) -> None:
    """End the transaction that the next answer would join."""
    states = views_of(engine)._shown._states
    assert states is not None
    await states.calls.run(states._nothing, lambda _: None)


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


async def test_a_slow_answer_holds_up_neither_writes_nor_other_answers(tmp_path: Path) -> None:
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            has_read.set()
            await go_on.wait()

        BETWEEN.append(wait)
        slow = asyncio.ensure_future(engine.query(Twice("get", "sql")))
        await has_read.wait()
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
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            has_read.set()
            await go_on.wait()

        BETWEEN.append(wait)
        slow = asyncio.ensure_future(engine.query(Twice("get", "sql")))
        await has_read.wait()
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
        await states.calls.run(states._nothing, lambda _: None)
        with closing(apsw.Connection(f"{tmp_path}/log.views.db")) as shell:
            assert list(shell.execute("pragma wal_checkpoint(truncate)")) == [(0, 0, 0)]


async def test_a_state_is_not_counted_while_its_first_read_waits(tmp_path: Path) -> None:
    """What waits for the reads of others holds no log up."""
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        states = views_of(engine)._shown._states
        assert states is not None
        go_on = threading.Event()
        busy = asyncio.ensure_future(states.calls.run(states._nothing, lambda _: go_on.wait()))
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


async def test_what_reads_after_its_answer_was_given_is_refused(tmp_path: Path) -> None:
    late: list[asyncio.Task[int]] = []
    given = asyncio.Event()

    @answers
    async def hasty(query: Now, views: Views) -> int:
        async def read() -> int:
            await given.wait()
            return int(await _get(views))

        late.append(asyncio.ensure_future(read()))
        return int(await _get(views))

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


async def test_answers_that_overlap_without_a_gap_let_the_log_be_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_wal, "WAL_BYTES_MIN", 64 * 1024)
    async with ledger(tmp_path) as engine:
        await add(engine, 1)
        views = views_of(engine)
        assert views._wal is not None
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            has_read.set()
            await go_on.wait()

        BETWEEN.append(wait)
        first = asyncio.ensure_future(engine.query(Twice("get", "sql")))
        await has_read.wait()
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
        has_read, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            has_read.set()
            await go_on.wait()

        BETWEEN.append(wait)
        slow = asyncio.ensure_future(engine.query(Twice("get", "sql")))
        await has_read.wait()
        next(iter(states._reading)).began = asyncio.get_running_loop().time() - 1
        async with states.pause() as nobody_reads:
            assert not nobody_reads
            assert await engine.query(Now()) == 1
        go_on.set()
        await slow


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
        await states.calls.run(states._nothing, lambda _: states._idle.clear())

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
