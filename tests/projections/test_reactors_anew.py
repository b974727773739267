"""Reactors at a start: where a new one begins, and what is not made again after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine import Closed, Engine, Meta, Ports, Reactor, StoreRefused, UsageError, reacts
from engine.stores.contract.requests import Arguments
from engine.stores.sqlite.outside.operations import SqliteOperations
from tests.projections.reacting import (
    Cancelled,
    Careful,
    Depot,
    FromTheStart,
    OneDepot,
    Order,
    Paid,
    Parcel,
    Pay,
    Ship,
    Shipping,
    events,
    pay,
    reached,
    shipments,
    shop,
)
from tests.support.shelf import Crash
from tests.support.waiting import until


@pytest.fixture
def depot() -> Depot:
    return Depot()


# -- where a new one begins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "expected"), [("now", ["o-3/0"]), ("start", ["o-1/0", "o-2/0", "o-3/0"])]
)
async def test_a_new_reactor_begins_where_it_says(
    file: str, begins: Any, expected: list[str]
) -> None:
    class New(Shipping, name="shipping", begins=begins):
        pass

    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        await pay(engine, "o-1", "o-2")
    async with shop(file, New) as engine:
        await reached(engine, await pay(engine, "o-3"))
        await until(lambda: engine.statistics().position == 3 + len(expected))

        assert sorted(await shipments(engine)) == expected
        book = await engine.projections.decisions("shipping")
        assert [(d.kind, d.position) for d in book] == [("begin", 2 if begins == "now" else 0)]


async def test_a_new_reactor_begins_behind_a_position_of_the_log(file: str) -> None:
    class New(Shipping, name="shipping", begins=1):
        pass

    class Beyond(Shipping, name="shipping", begins=3):
        pass

    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        await pay(engine, "o-1", "o-2")
    with pytest.raises(StoreRefused, match="position 3, and the log ends at 2"):
        async with shop(file, Beyond):
            pass
    async with shop(file, New) as engine:
        await reached(engine, 2)

        assert await shipments(engine) == ["o-2/0"]


async def test_it_has_begun_once_also_if_no_event_came_until_it_ended(file: str) -> None:
    async with shop(file):
        pass
    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        await pay(engine, "o-1")
    async with shop(file) as engine:
        await reached(engine, 1)

        assert await shipments(engine) == ["o-1/0"]


async def test_it_is_never_run_again_by_a_reset_or_a_rebuild(file: str) -> None:
    async with shop(file, FromTheStart) as engine:
        await reached(engine, await pay(engine, "o-1"))
        for act in (engine.projections.reset, engine.projections.rebuild):
            with pytest.raises(UsageError, match="a reactor, and a"):
                await act("shipping")
        await reached(engine, await pay(engine, "o-2"))

        assert await shipments(engine) == ["o-1/0", "o-2/0"]


# -- crashes --------------------------------------------------------------------------------------


def crashing(times: int = 1) -> Ports:
    """A machine that loses power when commands have their receipts, and nothing says so yet."""
    seen: list[str] = []

    def crash(reached: str) -> None:
        if reached == "reactor.done":
            seen.append(reached)
            if len(seen) == times:
                raise Crash

    return Ports(failpoint=crash)


async def crash(engine: Engine, *orders: str) -> None:
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with engine:
            await pay(engine, *orders, parcels=2)
            await until(lambda: engine.failed is not None)


async def test_a_crash_before_the_checkpoint_makes_nothing_twice(file: str) -> None:
    await crash(shop(file, ports=crashing()), "o-1")
    async with shop(file) as engine:
        await reached(engine, 1)

        assert await shipments(engine) == ["o-1/0", "o-1/1"]


async def test_nothing_is_made_twice_though_its_key_was_forgotten_since(file: str) -> None:
    await crash(shop(file, OneDepot, ports=crashing()), "o-1")
    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        for n in range(5):
            await engine.execute(Ship("depot", "elsewhere", n))
    async with shop(file, OneDepot) as engine:
        await reached(engine, 1)
        found = [each for each in await shipments(engine) if each.startswith("o-1")]

        assert found == ["o-1/0", "o-1/1"]


async def test_a_key_of_a_client_that_looks_like_a_reactions_hides_nothing(file: str) -> None:
    async with shop(file):
        pass
    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        await pay(engine, "o-1")
        await engine.execute(Pay("o-9"), key="reaction:shipping:1:0")
    async with shop(file) as engine:
        await reached(engine, 2)

        assert sorted(await shipments(engine)) == ["o-1/0", "o-9/0"]


async def test_views_that_were_lost_make_nothing_twice(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    async with shop(url, FromTheStart) as engine:
        await reached(engine, await pay(engine, "o-1", "o-2"))
    for file in tmp_path.glob("*views*"):
        file.unlink()
    async with shop(url, FromTheStart) as engine:
        await reached(engine, await pay(engine, "o-3"))

        assert sorted(await shipments(engine)) == ["o-1/0", "o-2/0", "o-3/0"]


async def test_a_stop_of_the_engine_is_no_failure_of_the_event(file: str, depot: Depot) -> None:
    depot.hold["o-1"] = asyncio.Event()
    async with shop(file, depot=depot) as engine:
        await pay(engine, "o-1", parcels=2)
        await pay(engine, "o-1")
        await until(lambda: bool(depot.asked))
        asyncio.get_running_loop().call_later(0.01, depot.hold["o-1"].set)
    async with shop(file, depot=depot) as engine:
        await reached(engine, 2)

        assert await shipments(engine) == ["o-1/0", "o-1/1", "o-1/0"]
        assert (await engine.projections.parked("shipping")) == []


async def test_an_engine_ends_while_something_is_asked_of_its_reactor(
    file: str, depot: Depot
) -> None:
    """The reactor rests for the end, and whoever ends it is busy with what was asked."""
    depot.hold["o-1"] = asyncio.Event()
    engine = await shop(file, depot=depot).__aenter__()
    await pay(engine, "o-1", parcels=2)
    await pay(engine, "o-1")
    await until(lambda: bool(depot.asked))
    asked = asyncio.create_task(engine.projections.retry("shipping"))
    ending = asyncio.create_task(engine.__aexit__(None, None, None))
    await until(lambda: engine.statistics().state != "running")
    depot.hold["o-1"].set()
    done, _ = await asyncio.wait([asked, ending], timeout=10)

    assert done == {asked, ending}
    assert isinstance(asked.exception(), Closed | None)


async def test_a_retry_makes_only_what_was_not_made_also_after_a_restart(
    file: str, depot: Depot
) -> None:
    class Two(Reactor, name="shipping", begins="now"):
        @reacts
        def paid(self, event: Paid, meta: Meta) -> list[Ship]:
            return [Ship("depot", "good", 0), Ship("depot", meta.id, 1)]

    depot.fails.add("o-1")
    async with shop(file, Two, depot) as engine:
        await reached(engine, await pay(engine, "o-1"))
        assert await shipments(engine) == ["good/0"]
    async with Engine([Order, Parcel], store=file, resources={Depot: Depot()}) as engine:
        for n in range(5):
            await engine.execute(Ship("depot", "elsewhere", n))
    depot.fails.clear()
    async with shop(file, Two, depot) as engine:
        assert (await engine.projections.retry("shipping")).released == 1
        found = [each for each in await shipments(engine) if "elsewhere" not in each]

        assert found == ["good/0", "o-1/1"]


async def test_it_is_not_reset_without_an_engine_either(tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    async with shop(f"sqlite:{log}") as engine:
        await reached(engine, await pay(engine, "o-1"))
    with SqliteOperations(str(log)) as operations:
        number = operations.ask("reset", "shipping", Arguments("why not"))
        operations.do_at_rest()
        told = operations.request(number)
    async with shop(f"sqlite:{log}") as engine:
        await reached(engine, 2)

        assert told.state == "refused"
        assert "'shipping' is a reactor, and a reset would send its commands" in told.answer
        assert await shipments(engine) == ["o-1/0"]


async def test_what_follows_a_rejection_is_made_once(file: str, depot: Depot) -> None:
    depot.rejects.add("o-1")
    await crash(shop(file, Careful, depot, ports=crashing()), "o-1")
    depot.rejects.clear()
    async with shop(file, Careful, depot) as engine:
        await reached(engine, 1)
        found = await events(engine)

        assert [e for e, _ in found if isinstance(e, Cancelled)] == [Cancelled("no-stock")] * 2
        assert await shipments(engine) == []
        assert found[-1][1].key == "reaction:shipping:1:1:refused"
