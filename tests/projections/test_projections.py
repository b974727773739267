"""Projections at run time: parked, retried, skipped, paused, reset, rebuilt, swapped, sliced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

from engine import (
    DefinitionError,
    Delivery,
    Engine,
    Event,
    Forbidden,
    Limits,
    Meta,
    Projection,
    ProjectionLag,
    ProjectionUnserved,
    Query,
    Row,
    Sink,
    Sql,
    SqlProjection,
    StoreRefused,
    Table,
    UsageError,
    Views,
    answers,
    projects,
)
from engine.model.projection import slice_of
from engine.projections.operations import Status
from engine.stores.contract.views import Changes
from tests.support.counters import Add, Added, Counter, Emptied, until

AILING: set[str] = set()
"""Ids of counters whose events no projection here can fold now."""
DEAD: set[str] = set()
"""Ids of counters behind a connection that is lost for good."""
SEEN: dict[tuple[str, int], None] = {}
"""Every event that a handler ran for, in order: the counter, and the position."""
TRIES: list[str] = []
RECEIVED: dict[int, tuple[str, int]] = {}
"""What a system outside has got, by position: the counter, and the amount, 0 to empty it."""


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    for kept in (AILING, DEAD, SEEN, TRIES, RECEIVED):
        kept.clear()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


class Sum(Row, key="counter"):
    counter: str
    total: int
    events: int


class SumOfThem(Query[list[Sum]]):
    pass


def see(meta: Meta) -> None:
    """Note that a handler has got as far as this event, and fail where it is to."""
    SEEN[meta.id, meta.position] = None
    if meta.id in AILING:
        raise ValueError(f"a secret of {meta.id}")


class _Base(Projection, name="base"):
    rows: Table[Sum]
    factor = 1

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Sum(meta.id, 0, 0)
        total = row.total + event.amount * self.factor
        self.rows.put(Sum(meta.id, total, row.events + 1))
        see(meta)

    @projects
    def emptied(self, event: Emptied, meta: Meta) -> None:
        self.rows.delete(meta.id)


class Parking(_Base, name="sums", version=1, on_poison="park"):
    rows: Table[Sum]


class Stopping(_Base, name="sums", version=1):
    rows: Table[Sum]


class _InSql(SqlProjection, name="base"):
    tables = {
        "rows": (
            """
            CREATE TABLE {rows} (
                counter TEXT PRIMARY KEY, total INTEGER NOT NULL, events INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE INDEX {rows:by_total} ON {rows} (total)",
        )
    }
    factor = 1

    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        sql.run(
            "INSERT INTO {rows} VALUES (?, ?, 1) ON CONFLICT (counter) DO UPDATE SET "
            "total = total + excluded.total, events = events + 1",
            (meta.id, event.amount * self.factor),
        )
        see(meta)

    @projects
    def emptied(self, event: Emptied, meta: Meta, sql: Sql) -> None:
        sql.run("DELETE FROM {rows} WHERE counter = ?", (meta.id,))


class ParkingInSql(_InSql, name="sums", version=1, on_poison="park"):
    pass


class StoppingInSql(_InSql, name="sums", version=1):
    pass


class TenfoldInSql(_InSql, name="sums", version=2):
    factor = 10


class _Outside(Sink, name="base"):
    async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
        for delivery in batch:
            see(delivery.meta)
            event = delivery.event
            amount = event.amount if isinstance(event, Added) else 0
            RECEIVED[delivery.position] = delivery.meta.id, amount


class ParkingOutside(_Outside, name="sums", version=1, on_poison="park"):
    pass


class StoppingOutside(_Outside, name="sums", version=1):
    pass


class AnewOutside(_Outside, name="sums", version=2):
    pass


class Tenfold(_Base, name="sums", version=2):
    rows: Table[Sum]
    factor = 10


class Sliced(_Base, name="sums", version=1, slices=4):
    rows: Table[Sum]


class SlicedInOrder(_Base, name="sums", version=1, slices=4):
    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get(meta.id) or Sum(meta.id, 0, 0)
        if meta.version != row.events + 1:
            raise ValueError(f"version {meta.version} after {row.events}")
        self.rows.put(Sum(meta.id, row.total + event.amount, row.events + 1))


class SlicedAndParking(_Base, name="sums", version=1, slices=4, on_poison="park"):
    rows: Table[Sum]


class Kind(NamedTuple):
    """One kind of projection, which does with counters what the others do."""

    stopping: type[Projection]
    parking: type[Projection]
    tenfold: type[Projection]
    """Its second version."""
    handler: str


TABLES = Kind(Stopping, Parking, Tenfold, "added")
IN_SQL = Kind(StoppingInSql, ParkingInSql, TenfoldInSql, "added")
OUTSIDE = Kind(StoppingOutside, ParkingOutside, AnewOutside, "deliver")


@pytest.fixture(params=[TABLES, IN_SQL, OUTSIDE], ids=["tables", "sql", "sink"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=[TABLES, IN_SQL], ids=["tables", "sql"])
def tabled(request: pytest.FixtureRequest) -> Kind:
    """One that has tables."""
    found: Kind = request.param
    return found


def summing(projection: type[Projection], store: str, **options: Any) -> Engine:
    @answers(projections=[projection])
    async def all_sums(query: SumOfThem, views: Views) -> list[Sum]:
        if issubclass(projection, Sink):
            return received()
        if issubclass(projection, SqlProjection):
            return await views.sql("SELECT * FROM sums_rows ORDER BY counter", row=Sum)
        return await views.find(projection.rows)  # type: ignore[attr-defined]

    return Engine([Counter], projections=[projection], answers=[all_sums], store=store, **options)


def received() -> list[Sum]:
    """Give what the system outside makes of what it has got: what came twice counts once."""
    found: dict[str, Sum] = {}
    for _, (counter, amount) in sorted(RECEIVED.items()):
        row = found.get(counter) or Sum(counter, 0, 0)
        found[counter] = Sum(counter, row.total + amount, row.events + 1)
        if not amount:
            del found[counter]
    return list(found.values())


async def add(engine: Engine, *counters: str) -> int:
    """Add 1 to counters, in order; give the position of the last event."""
    receipts = [await engine.execute(Add(counter, 1)) for counter in counters]
    return receipts[-1].position


async def sums(engine: Engine, at: int | None = None) -> dict[str, int]:
    return {row.counter: row.total for row in await engine.query(SumOfThem(), at=at)}


async def status(engine: Engine) -> Status:
    return await engine.projections.status("sums")


@asynccontextmanager
async def filled(
    projection: type[Projection], store: str, *counters: str, **options: Any
) -> AsyncGenerator[Engine]:
    async with summing(projection, store, **options) as engine:
        position = await add(engine, *counters)
        await engine.query(SumOfThem(), at=position)
        yield engine


# -- parking --------------------------------------------------------------------------------------


async def test_a_poison_event_parks_its_key_and_the_others_go_on(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        position = await add(engine, "a", "b", "a", "b", "c", "b")

        assert await sums(engine, at=position) == {"a": 2, "c": 1}
        parked = await engine.projections.parked("sums")
        assert [(p.position, p.key, p.attempts) for p in parked] == [
            (2, "counter:b", 1),
            (4, "counter:b", 0),
            (6, "counter:b", 0),
        ]
        assert (await status(engine)).parked == 3
        await until(lambda: engine.statistics().projectors["sums"].state == "live")


async def test_a_parked_event_keeps_its_traceback_and_none_of_its_values(
    kind: Kind, url: str
) -> None:
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, "b"))
        (parked,) = await engine.projections.parked("sums")

        assert "ValueError" in parked.cause
        assert f"in {kind.handler}" in parked.cause
        assert "a secret of b" not in parked.cause
        assert (parked.event, parked.stream) == ("added v1", "counter:b")


async def test_what_is_parked_stays_so_over_a_restart(kind: Kind, file: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, file) as engine:
        await sums(engine, at=await add(engine, "a", "b"))
    AILING.clear()
    async with summing(kind.parking, file) as engine:
        assert await sums(engine, at=await add(engine, "b", "a")) == {"a": 2}
        assert [p.position for p in await engine.projections.parked("sums")] == [2, 3]


async def test_retry_folds_what_is_parked_in_order_and_then_the_key_goes_on(
    kind: Kind, url: str
) -> None:
    AILING.update(("b", "c"))
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, "b", "c", "b", "a"))
        AILING.remove("b")
        SEEN.clear()
        retried = await engine.projections.retry("sums")

        assert retried.released == 2
        assert [p.position for p in retried.failed] == [2]
        assert [seen for seen in SEEN if seen[0] == "b"] == [("b", 1), ("b", 3)]
        assert await sums(engine, at=await add(engine, "b")) == {"a": 1, "b": 3}
        (left,) = await engine.projections.parked("sums")
        assert (left.position, left.attempts) == (2, 2)


async def test_retry_of_one_key_leaves_the_others(kind: Kind, url: str) -> None:
    AILING.update(("b", "c"))
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, "b", "c"))
        AILING.clear()

        assert (await engine.projections.retry("sums", key="counter:c")).released == 1
        assert [p.key for p in await engine.projections.parked("sums")] == ["counter:b"]


async def test_retry_goes_through_more_than_a_page(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, *["b"] * 250))
        AILING.clear()

        assert (await engine.projections.retry("sums")).released == 250
        assert await sums(engine) == {"b": 250}


async def test_retry_stops_at_the_first_of_a_key_that_fails(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, *["b"] * 250))
        SEEN.clear()
        retried = await engine.projections.retry("sums")

        assert (retried.released, len(retried.failed)) == (0, 1)
        assert list(SEEN) == [("b", 1)]


async def test_a_skipped_event_is_left_out_for_a_reason_that_is_kept(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, "b", "b"))
        await engine.projections.skip("sums", 1, reason="a test order", principal="ann")
        AILING.clear()
        await engine.projections.retry("sums")

        assert await sums(engine) == {"b": 1}
        decisions = await engine.projections.decisions("sums")
        assert [(d.kind, d.position, d.reason, d.principal) for d in decisions] == [
            ("skip", 1, "a test order", "ann")
        ]


async def test_an_event_that_was_parked_after_it_was_skipped_is_left_out_too(
    kind: Kind, url: str
) -> None:
    """A projector had it in hand, and the process was killed before it heard of the skip."""
    AILING.add("b")
    async with summing(kind.parking, url) as engine:
        await sums(engine, at=await add(engine, "b", "b"))
        parked = (await engine.projections.parked("sums"))[0]
        await engine.projections.skip("sums", 1, reason="a test order")
        (projector,) = engine._projecting["sums"]._serving
        at = await engine._views.checkpoint(projector.part)
        await engine._views.write(Changes(projector.part, at, at, {}, (parked,)))
        await projector.ask(projector.reopen)
        AILING.clear()
        SEEN.clear()
        retried = await engine.projections.retry("sums")

        assert (retried.released, list(SEEN)) == (2, [("b", 2)])
        assert await engine.projections.parked("sums") == []
        assert await sums(engine) == {"b": 1}


async def test_skipping_asks_for_a_reason_and_for_an_event_that_stands_in_the_way(
    kind: Kind, url: str
) -> None:
    async with filled(kind.parking, url, "a") as engine:
        with pytest.raises(UsageError, match="say it"):
            await engine.projections.skip("sums", 1, reason=" ")
        with pytest.raises(UsageError, match="none there has stopped it"):
            await engine.projections.skip("sums", 1, reason="why not")

        assert await engine.projections.decisions("sums") == []


async def test_a_skip_lets_a_stopped_projection_go_on(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.stopping, url) as engine:
        position = await add(engine, "a", "b", "a")
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        await engine.projections.skip("sums", 2, reason="it never happened")

        assert await sums(engine, at=position) == {"a": 2}
        await engine.projections.reset("sums")
        assert await sums(engine, at=position) == {"a": 2}, "what was decided holds"


async def test_too_much_that_is_parked_stops_the_projection(kind: Kind, url: str) -> None:
    AILING.add("b")
    async with summing(kind.parking, url, limits=Limits(parked_events=2)) as engine:
        position = await add(engine, "b", "b", "a", "b")
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)

        found = await status(engine)
        assert found.failure is not None
        assert found.failure.position == 4
        assert await sums(engine) == {"a": 1}


async def test_a_damaged_event_is_never_parked(kind: Kind, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with filled(kind.parking, url, "a"):
        pass
    with apsw.Connection(str(tmp_path / "log.db")) as connection:
        connection.execute("DROP TRIGGER events_never_change")
        connection.execute("UPDATE events SET payload = x'7b7e' WHERE position = 1")
    (tmp_path / "log.views.db").unlink()
    with pytest.raises(Exception, match="position 1"):
        async with summing(kind.parking, url) as engine:
            await sums(engine, at=await add(engine, "b"))


# -- failures that may pass -----------------------------------------------------------------------


def shake(meta: Meta) -> None:
    TRIES.append(meta.id)
    if meta.id in DEAD or len(TRIES) < 4:
        raise ConnectionError("not just now")


class Shaky(Projection, name="sums", version=1, on_poison="park"):
    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        shake(meta)
        self.rows.put(Sum(meta.id, event.amount, 1))


class ShakyInSql(_InSql, name="sums", version=1, on_poison="park"):
    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        shake(meta)
        super().added(event, meta, sql)


class ShakyOutside(_Outside, name="sums", version=1, on_poison="park"):
    async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
        for delivery in batch:
            shake(delivery.meta)
        await super().deliver(batch)


SHAKY: Mapping[type[Projection], type[Projection]] = {
    Stopping: Shaky,
    StoppingInSql: ShakyInSql,
    StoppingOutside: ShakyOutside,
}


async def test_a_failure_that_may_pass_is_tried_again_before_anything_is_parked(
    kind: Kind, url: str
) -> None:
    async with summing(SHAKY[kind.stopping], url) as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 1}
        assert (await status(engine)).retries == 3
        assert await engine.projections.parked("sums") == []


async def test_a_failure_that_does_not_pass_is_parked_in_the_end(kind: Kind, url: str) -> None:
    TRIES.extend("4321")
    DEAD.add("a")
    limits = Limits(projector_retries=1, sink_retries=1)
    async with summing(SHAKY[kind.stopping], url, limits=limits) as engine:
        assert await sums(engine, at=await add(engine, "a", "b")) == {"b": 1}
        assert [p.key for p in await engine.projections.parked("sums")] == ["counter:a"]


# -- pause and reset ------------------------------------------------------------------------------


async def test_a_paused_projection_rests_over_a_restart_until_it_is_resumed(
    kind: Kind, file: str
) -> None:
    async with filled(kind.stopping, file, "a") as engine:
        await engine.projections.pause("sums", reason="a migration", principal="ann")
        position = await add(engine, "a")
        with pytest.raises(ProjectionLag, match="paused"):
            await sums(engine, at=position)
    async with summing(kind.stopping, file) as engine:
        with pytest.raises(ProjectionLag, match="paused"):
            await sums(engine, at=position)
        await engine.projections.resume("sums")

        assert await sums(engine, at=position) == {"a": 2}
    async with summing(kind.stopping, file) as engine:
        assert await sums(engine, at=position) == {"a": 2}
        await until(lambda: engine.statistics().projectors["sums"].state == "live")


async def test_pausing_twice_and_resuming_twice_does_no_harm(kind: Kind, url: str) -> None:
    async with filled(kind.stopping, url, "a") as engine:
        for _ in range(2):
            await engine.projections.pause("sums")
        assert (await status(engine)).state == "paused"
        for _ in range(2):
            await engine.projections.resume("sums")

        assert await sums(engine, at=await add(engine, "a")) == {"a": 2}


async def test_reset_folds_everything_again_once(kind: Kind, url: str) -> None:
    async with filled(kind.stopping, url, "a", "b", "a") as engine:
        SEEN.clear()
        await engine.projections.reset("sums", reason="to be sure")

        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert len(SEEN) == 3
        assert [d.kind for d in await engine.projections.decisions("sums")] == ["reset"]


async def test_reset_while_events_come_in_counts_each_once(url: str) -> None:
    async with filled(Sliced, url, "a", "b") as engine:
        adding = asyncio.ensure_future(add(engine, *[f"c{n % 7}" for n in range(200)]))
        for _ in range(5):
            await engine.projections.reset("sums")
        position = await adding

        assert sum((await sums(engine, at=position)).values()) == 202


# -- builds ---------------------------------------------------------------------------------------


async def rebuilt(engine: Engine) -> None:
    """Wait until no build is on its way."""
    async with asyncio.timeout(20):
        while (await status(engine)).building is not None:
            await asyncio.sleep(0)


async def test_a_rebuild_takes_the_place_of_the_old_tables_while_events_come_in(
    tabled: Kind, url: str
) -> None:
    async with filled(tabled.stopping, url, *["a", "b"] * 50) as engine:
        await engine.projections.rebuild("sums")
        positions = [await add(engine, f"c{n % 5}") for n in range(100)]
        for position in positions[-3:]:
            assert sum((await sums(engine, at=position)).values()) >= position
        await rebuilt(engine)

        found = await status(engine)
        assert [(b.number, b.state) for b in found.builds] == [(1, "former"), (2, "serving")]
        assert sum((await sums(engine, at=positions[-1])).values()) == 200
        assert sum((await sums(engine, at=await add(engine, "z"))).values()) == 201
        assert [b.number for b in await engine.projections.drop("sums")] == [1]
        assert [b.number for b in (await status(engine)).builds] == [2]


async def test_queries_never_go_back_in_time_during_a_rebuild(url: str) -> None:
    async with filled(Sliced, url, *["a", "b"] * 20) as engine:
        seen: list[int] = []

        async def look() -> None:
            while True:
                seen.append(sum((await sums(engine)).values()))
                await asyncio.sleep(0)

        looking = asyncio.ensure_future(look())
        for n in range(3):
            await engine.projections.rebuild("sums")
            await add(engine, *[f"c{n}"] * 10)
            await rebuilt(engine)
        looking.cancel()

        assert seen == sorted(seen)
        assert len(seen) > 10


async def test_a_raised_version_is_refused_with_what_to_do(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a"):
        pass

    with pytest.raises(StoreRefused, match=r'rebuild="auto".*Nothing was changed'):
        async with summing(tabled.tenfold, file):
            pass
    async with summing(tabled.stopping, file) as engine:
        assert await sums(engine, at=1) == {"a": 1}


async def test_a_raised_version_is_built_beside_the_old_one_which_serves_meanwhile(
    tabled: Kind,
    file: str,
) -> None:
    async with filled(tabled.stopping, file, "a", "b"):
        pass
    AILING.add("b")
    async with summing(tabled.tenfold, file, rebuild="auto") as engine:
        await until(lambda: engine.statistics().projectors["sums"].building is not None)
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is not None
                and b.state == "stopped"
            )
        )
        assert await sums(engine) == {"a": 1, "b": 1}, "the old tables have the same columns"
        found = await status(engine)
        assert (found.state, found.serving, found.version) == ("building", 1, 2)
        assert found.building is not None
        assert found.building.failure is not None
        with pytest.raises(ProjectionLag, match="building"):
            await engine.query(SumOfThem(), at=await add(engine, "a"), timeout=0.01)
        AILING.clear()
        engine.resume("sums")

        assert await sums(engine, at=3) == {"a": 20, "b": 10}
    async with summing(tabled.tenfold, file) as engine:
        assert await sums(engine, at=3) == {"a": 20, "b": 10}


class Widened(Row, key="counter"):
    counter: str
    total: int
    events: int
    last: int


class Wide(Projection, name="sums", version=2):
    rows: Table[Widened]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        if meta.id in AILING:
            raise ValueError("ailing")
        row = self.rows.get(meta.id) or Widened(meta.id, 0, 0, 0)
        total = row.total + event.amount
        self.rows.put(Widened(meta.id, total, row.events + 1, meta.position))


async def test_tables_of_other_columns_are_not_shown_as_if_they_were_the_new_ones(
    file: str,
) -> None:
    async with filled(Stopping, file, "a"):
        pass
    AILING.add("a")
    async with summing(Wide, file, rebuild="auto") as engine:
        with pytest.raises(ProjectionUnserved, match="being built anew"):
            await sums(engine)
        with pytest.raises(UsageError, match="let them be finished"):
            await engine.projections.cancel("sums")
        AILING.clear()
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is None
                or b.state == "stopped"
            )
        )
        engine.resume("sums")

        assert await sums(engine, at=1) == {"a": 1}


async def test_a_projection_becomes_one_of_another_kind_with_another_version(file: str) -> None:
    async with filled(Stopping, file, "a", "b"):
        pass
    async with summing(TenfoldInSql, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=2) == {"a": 10, "b": 10}
    with pytest.raises(StoreRefused, match="declared otherwise than they were stored"):
        async with summing(Tenfold, file, rebuild="auto"):
            pass
    async with summing(Stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
    async with summing(AnewOutside, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}
    async with summing(Stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}


async def test_a_former_version_comes_back_from_where_it_was(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a", "b"):
        pass
    async with summing(tabled.tenfold, file, rebuild="auto") as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 20, "b": 10}
    SEEN.clear()
    async with summing(tabled.stopping, file, rebuild="auto") as engine:
        await rebuilt(engine)
        assert await sums(engine, at=3) == {"a": 2, "b": 1}
        assert list(SEEN) == [("a", 3)], "only what it had not seen is folded"


async def test_a_rebuild_goes_on_after_a_restart(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, *["a", "b"] * 10) as engine:
        AILING.add("b")
        await engine.projections.rebuild("sums")
        await until(
            lambda: (
                (b := engine.statistics().projectors["sums"].building) is not None
                and b.state == "stopped"
            )
        )
    AILING.clear()
    SEEN.clear()
    async with summing(tabled.stopping, file) as engine:
        await rebuilt(engine)

        assert [b.state for b in (await status(engine)).builds] == ["former", "serving"]
        assert len(SEEN) == 19, "it goes on where it was"
        assert await sums(engine, at=20) == {"a": 10, "b": 10}


async def test_a_cancelled_rebuild_leaves_nothing(tabled: Kind, file: str) -> None:
    async with filled(tabled.stopping, file, "a", "b") as engine:
        AILING.add("a")
        await engine.projections.rebuild("sums")
        await engine.projections.cancel("sums")
        AILING.clear()

        assert [b.number for b in (await status(engine)).builds] == [1]
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
        with pytest.raises(UsageError, match="is not being rebuilt"):
            await engine.projections.cancel("sums")


@pytest.mark.parametrize("projection", [Sliced, StoppingInSql])
async def test_sql_by_the_plain_name_sees_the_build_that_serves(
    projection: type[Projection], url: str
) -> None:
    class Count(Query[int]):
        pass

    @answers
    async def count(query: Count, views: Views) -> int:
        assert await views.sql("select * from sums_rows where total < 0") == []
        ((number,),) = await views.sql("select count(*) from sums_rows")
        return int(number)

    engine = Engine([Counter], projections=[projection], answers=[count], store=url)
    async with engine:
        assert await engine.query(Count(), at=await add(engine, "a", "b")) == 2
        await engine.projections.rebuild("sums")
        await rebuilt(engine)
        assert await engine.query(Count(), at=await add(engine, "c")) == 3


async def test_a_swap_that_would_go_back_in_time_is_refused(file: str) -> None:
    async with filled(Stopping, file, "a") as engine:
        views = engine._views
        build = await views.begin_build(Stopping.__definition__)
        from engine.stores.contract.views import Decision

        with pytest.raises(StoreRefused, match="would go back in time"):
            await views.swap(Stopping.__definition__, build.number, Decision("sums", "swap", 0, 1))
        assert [b.state for b in await views.builds("sums")] == ["serving", "building"]


# -- slices ---------------------------------------------------------------------------------------


async def test_slices_give_the_tables_that_one_projector_gives(url: str) -> None:
    counters = [f"c{n % 13}" for n in range(300)]
    async with filled(SlicedInOrder, url, *counters) as engine:
        expected = {name: counters.count(name) for name in set(counters)}

        assert await sums(engine) == expected
        assert (await status(engine)).slices == 4
        assert len({slice_of(f"counter:{name}", 4) for name in expected}) == 4


def test_a_key_is_in_its_slice_for_ever() -> None:
    assert [slice_of(f"counter:c{n}", 4) for n in range(12)] == [3, 1, 3, 1, 2, 0, 2, 0, 1, 3, 3, 1]


async def test_slices_catch_up_after_a_restart(file: str) -> None:
    async with filled(Sliced, file, *[f"c{n}" for n in range(40)]):
        pass
    SEEN.clear()
    async with summing(Sliced, file) as engine:
        assert len(await sums(engine, at=await add(engine, "x", "y"))) == 42
        assert sorted(SEEN) == [("x", 41), ("y", 42)]


async def test_poison_stops_its_slice_alone(url: str) -> None:
    AILING.add("a")
    other = next(
        f"c{n}" for n in range(99) if slice_of(f"counter:c{n}", 4) != slice_of("counter:a", 4)
    )
    async with summing(Sliced, url) as engine:
        position = await add(engine, "a", other)
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        await until(lambda: len(SEEN) == 2)
        AILING.clear()
        engine.resume("sums")

        assert await sums(engine, at=position) == {"a": 1, other: 1}


async def test_parking_in_slices(url: str) -> None:
    AILING.update(("a", "b"))
    async with summing(SlicedAndParking, url) as engine:
        await sums(engine, at=await add(engine, "a", "b", "c", "d", "a"))
        assert (await status(engine)).parked == 3
        AILING.clear()

        assert (await engine.projections.retry("sums")).released == 3
        assert await sums(engine) == {"a": 2, "b": 1, "c": 1, "d": 1}


class Shared(Projection, name="sums", version=1, slices=4):
    """Events of all counters change one row: no slice may have it."""

    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get("all") or Sum("all", 0, 0)
        self.rows.put(Sum("all", row.total + 1, row.events + 1))


async def test_a_row_of_another_slice_is_refused_and_never_overwritten(url: str) -> None:
    async with summing(Shared, url) as engine:
        position = await add(engine, *[f"c{n}" for n in range(20)])
        with pytest.raises(ProjectionLag, match="stopped"):
            await sums(engine, at=position)
        await until(lambda: engine.statistics().projectors["sums"].failure is not None)

        failure = engine.statistics().projectors["sums"].failure
        assert failure is not None
        assert "belongs to slice" in failure.cause


def all_in_one(event: Event, meta: Meta) -> str:
    return "all"


class SharedInOne(Projection, name="sums", version=1, slices=4, sequence=all_in_one):
    rows: Table[Sum]

    @projects
    def added(self, event: Added, meta: Meta) -> None:
        row = self.rows.get("all") or Sum("all", 0, 0)
        self.rows.put(Sum("all", row.total + 1, row.events + 1))


async def test_a_sequence_of_its_own_puts_a_row_into_one_slice(url: str) -> None:
    async with filled(SharedInOne, url, *[f"c{n}" for n in range(20)]) as engine:
        assert await sums(engine) == {"all": 20}


async def test_other_slices_are_a_changed_definition(file: str) -> None:
    async with filled(Sliced, file, "a", "b"):
        pass

    with pytest.raises(
        StoreRefused, match="version 1 in 1 slices, and its views are version 1 in 4"
    ):
        async with summing(Stopping, file):
            pass
    async with summing(Stopping, file, rebuild="auto") as engine:
        assert await sums(engine, at=2) == {"a": 1, "b": 1}


@pytest.mark.parametrize("slices", [0, 65, True, "4"])
def test_a_number_of_slices_that_cannot_be_is_refused(slices: Any) -> None:
    with pytest.raises(DefinitionError, match="give a number from 1 to 64"):

        class Wrong(_Base, name="wrong", slices=slices):
            rows: Table[Sum]


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(DefinitionError, match="on_poison='skip'"):

        class Wrong(_Base, name="wrong", on_poison="skip"):  # type: ignore[arg-type]
            rows: Table[Sum]


# -- files, gate ----------------------------------------------------------------------------------


async def test_views_of_the_first_schema_are_brought_to_todays(tmp_path: Path) -> None:
    url, path = f"sqlite:{tmp_path / 'log.db'}", tmp_path / "log.views.db"
    async with filled(Stopping, url, "a", "b"):
        pass
    _to_the_first_schema(path)
    SEEN.clear()
    async with summing(Stopping, url) as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 2, "b": 1}
        assert list(SEEN) == [("a", 3)], "nothing is folded again"


def _to_the_first_schema(path: Path) -> None:
    connection = apsw.Connection(str(path))
    (row,) = connection.execute(
        "SELECT projection, version, definition, position, checksum, log_id, tables "
        "FROM builds JOIN checkpoints USING (projection)"
    ).fetchall()
    for statement in (
        "DROP VIEW sums_rows",
        'ALTER TABLE "sums_rows:1" RENAME TO sums_rows',
        "DROP TABLE builds",
        "DROP TABLE parked",
        "DROP TABLE decisions",
        "DROP TABLE requests",
        "DROP TABLE failures",
        "DROP TABLE checkpoints",
        (
            "CREATE TABLE checkpoints (projection TEXT PRIMARY KEY, version INTEGER NOT NULL, "
            "definition TEXT NOT NULL, position INTEGER NOT NULL, checksum INTEGER NOT NULL, "
            "log_id TEXT NOT NULL, tables TEXT NOT NULL) STRICT, WITHOUT ROWID"
        ),
        "UPDATE views_meta SET schema_version = 1",
    ):
        connection.execute(statement).fetchall()
    connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?)", row).fetchall()
    connection.close()


async def test_control_asks_the_gate(url: str) -> None:
    asked: list[tuple[str | None, str, object]] = []

    def authorize(principal: str | None, action: str, message: object) -> bool:
        asked.append((principal, action, message))
        return action != "control" or principal == "ann"

    async with summing(Stopping, url, authorize=authorize) as engine:
        control = engine.projections
        calls: Sequence[Any] = [
            lambda p: control.list(principal=p),
            lambda p: control.pause("sums", principal=p),
            lambda p: control.resume("sums", principal=p),
            lambda p: control.reset("sums", principal=p),
            lambda p: control.rebuild("sums", principal=p),
            lambda p: control.drop("sums", principal=p),
            lambda p: control.parked("sums", principal=p),
            lambda p: control.retry("sums", principal=p),
            lambda p: control.decisions("sums", principal=p),
        ]
        for call in calls:
            with pytest.raises(Forbidden):
                await call("bob")
            await call("ann")
        with pytest.raises(Forbidden):
            await control.skip("sums", 1, reason="no", principal="bob")
        with pytest.raises(Forbidden):
            await control.cancel("sums", principal="bob")
        with pytest.raises(UsageError, match=r"no projection 'sum' here; there are \['sums'\]"):
            await control.pause("sum", principal="ann")

    assert ("bob", "control", "sums") in asked
