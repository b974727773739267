"""Events that no handler folds: parked by their key, retried, skipped, and tried again first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import pytest

from engine import (
    AsyncSql,
    Delivery,
    Limits,
    Meta,
    Projection,
    ProjectionLag,
    Sql,
    Table,
    UsageError,
    projects,
)
from engine.stores.contract.views import Changes
from tests.projections.summing import (
    AILING,
    DEAD,
    IN_BOTH,
    SEEN,
    TRIES,
    InBoth,
    InSql,
    Kind,
    Outside,
    Stopping,
    StoppingInBoth,
    StoppingInSql,
    StoppingOutside,
    Sum,
    add,
    filled,
    status,
    summing,
    sums,
)
from tests.support.counters import Added, Emptied
from tests.support.waiting import until

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
        (projector,) = engine._wiring.projecting["sums"].serving
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


class ShakyInSql(InSql, name="sums", version=1, on_poison="park"):
    @projects
    def added(self, event: Added, meta: Meta, sql: Sql) -> None:
        shake(meta)
        super().added(event, meta, sql)


class ShakyInBoth(InBoth, name="sums", version=1, on_poison="park"):
    @projects
    async def added(self, event: Added, meta: Meta, sql: AsyncSql) -> None:
        shake(meta)
        await super().added(event, meta, sql)


class ShakyOutside(Outside, name="sums", version=1, on_poison="park"):
    async def deliver(self, batch: Sequence[Delivery[Added | Emptied]]) -> None:
        for delivery in batch:
            shake(delivery.meta)
        await super().deliver(batch)


SHAKY: Mapping[type[Projection], type[Projection]] = {
    Stopping: Shaky,
    StoppingInSql: ShakyInSql,
    StoppingInBoth: ShakyInBoth,
    StoppingOutside: ShakyOutside,
}


async def test_a_failure_that_may_pass_is_tried_again_before_anything_is_parked(
    kind: Kind, url: str
) -> None:
    async with summing(SHAKY[kind.stopping], url) as engine:
        assert await sums(engine, at=await add(engine, "a")) == {"a": 1}
        # A server is asked twice before an event has failed: once without savepoints.
        assert (await status(engine)).retries == (1 if kind == IN_BOTH else 3)
        assert await engine.projections.parked("sums") == []


async def test_a_failure_that_does_not_pass_is_parked_in_the_end(kind: Kind, url: str) -> None:
    TRIES.extend("4321")
    DEAD.add("a")
    limits = Limits(projector_retries=1, sink_retries=1)
    async with summing(SHAKY[kind.stopping], url, limits=limits) as engine:
        assert await sums(engine, at=await add(engine, "a", "b")) == {"b": 1}
        assert [p.key for p in await engine.projections.parked("sums")] == ["counter:a"]
