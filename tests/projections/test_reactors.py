"""Reactors: which commands follow from events, in which order, how often, and what fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from engine import (
    Aggregate,
    Command,
    Engine,
    Event,
    Id,
    Limits,
    Meta,
    Ports,
    ProjectionLag,
    Reactor,
    StoreRefused,
    UsageError,
    applies,
    handles,
    reacts,
)
from tests.projections.reacting import (
    Cancelled,
    Careful,
    Depot,
    Done,
    FromTheStart,
    OneDepot,
    Order,
    Paid,
    Parcel,
    Pay,
    Ship,
    Shipped,
    Shipping,
    Stopping,
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


# -- what follows ---------------------------------------------------------------------------------


async def test_commands_follow_from_an_event_and_say_what_led_to_them(url: str) -> None:
    async with shop(url) as engine:
        receipt = await engine.execute(Pay("o-1", 2), correlation="c-7")
        await reached(engine, receipt.position)
        found = [(event, meta) for event, meta in await events(engine) if meta.position > 1]

    assert [event for event, _ in found] == [Shipped("o-1", 0), Shipped("o-1", 1)]
    metas = [meta for _, meta in found]
    assert [meta.stream for meta in metas] == ["parcel:o-1-0", "parcel:o-1-1"]
    assert {meta.correlation for meta in metas} == {"c-7"}
    assert {meta.causation for meta in metas} == {"order:o-1@1"}
    assert {meta.principal for meta in metas} == {"reactor:shipping"}
    assert [meta.key for meta in metas] == ["reaction:shipping:1:0", "reaction:shipping:1:1"]
    assert {meta.depth for meta in metas} == {1}


async def test_a_trace_goes_along_and_no_other_header(url: str) -> None:
    async with shop(url) as engine:
        headers = {"traceparent": "00-1-2-01", "secret": "s"}
        receipt = await engine.execute(Pay("o-1"), headers=headers)
        await reached(engine, receipt.position)
        shipped = (await events(engine))[-1][1]

    assert shipped.headers == {"traceparent": "00-1-2-01"}


async def test_no_command_follows_where_a_reaction_gives_none_and_others_pass() -> None:
    async with shop() as engine:
        await pay(engine, "o-1", parcels=0)
        await reached(engine, await pay(engine, "o-2"))

        assert await shipments(engine) == ["o-2/0"]
        numbers = engine.statistics().projectors["shipping"]
        assert numbers.reactions is not None
        assert (numbers.events, numbers.reactions.sent, numbers.reactions.receipts) == (2, 1, 1)


async def test_commands_of_one_stream_keep_their_order_and_others_do_not_wait(
    depot: Depot,
) -> None:
    depot.hold["o-1"] = asyncio.Event()
    async with shop(depot=depot) as engine:
        await pay(engine, "o-1", "o-2", "o-1", "o-3")
        await until(lambda: {"o-2", "o-3"} <= set(depot.asked))
        assert depot.asked.count("o-1") == 1
        depot.hold["o-1"].set()
        await reached(engine, 4)

        assert [each for each in depot.asked if each == "o-1"] == ["o-1", "o-1"]


async def test_so_many_streams_at_a_time_and_no_more(depot: Depot) -> None:
    hold = asyncio.Event()
    depot.hold = dict.fromkeys((f"o-{n}" for n in range(6)), hold)
    async with shop() as engine:
        await engine.execute(Pay("none", 0))
    limited = shop(depot=depot, limits=Limits(reactions_at_once=2))
    async with limited as engine:
        answers = [asyncio.create_task(pay(engine, f"o-{n}")) for n in range(6)]
        await asyncio.gather(*answers)
        await until(lambda: len(depot.asked) == 2)
        hold.set()
        await reached(engine, 6)

    assert len(depot.asked) == 6


async def test_what_was_done_is_not_done_again_after_a_restart(file: str) -> None:
    async with shop(file) as engine:
        await reached(engine, await pay(engine, "o-1"))
    async with shop(file) as engine:
        await reached(engine, await pay(engine, "o-2"))

        assert await shipments(engine) == ["o-1/0", "o-2/0"]


async def test_a_subclass_of_an_event_has_the_reaction_of_its_base() -> None:
    class Step(Event, name="step"):
        pass

    class BigStep(Step, name="big-step"):
        pass

    class Walk(Command):
        walker: Id

    class Walker(Aggregate, kind="walker"):
        @handles
        def walk(self, command: Walk) -> BigStep:
            return BigStep()

        @applies
        def stepped(self, event: BigStep) -> None:
            return None

    class Steps(Reactor, name="shipping", begins="now"):
        @reacts
        def step(self, event: Step) -> Pay:
            return Pay("walked")

    async with Engine([Walker, Order], projections=[Steps], store="memory:") as engine:
        await engine.execute(Walk("w"))
        await until(lambda: engine.statistics().position == 2)


# -- where a new one begins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "expected"), [("now", ["o-3/0"]), ("start", ["o-1/0", "o-2/0", "o-3/0"])]
)
async def test_a_new_reactor_begins_where_it_says(
    url: str, begins: Any, expected: list[str]
) -> None:
    class New(Shipping, name="shipping", begins=begins):
        pass

    if url == "memory:":
        pytest.skip("a log in memory is never older than its reactors")
    async with Engine([Order, Parcel], store=url, resources={Depot: Depot()}) as engine:
        await pay(engine, "o-1", "o-2")
    async with shop(url, New) as engine:
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


# -- what fails -----------------------------------------------------------------------------------


async def test_a_rejection_is_logged_and_counted_and_nothing_follows(
    depot: Depot, caplog: pytest.LogCaptureFixture
) -> None:
    depot.rejects.add("o-1")
    async with shop(depot=depot) as engine:
        await reached(engine, await pay(engine, "o-1", "o-2"))

        assert await shipments(engine) == ["o-2/0"]
        reactions = engine.statistics().projectors["shipping"].reactions
        assert reactions is not None
        assert (reactions.sent, reactions.receipts, reactions.rejected) == (2, 1, 1)
    assert "ship was rejected as 'no-stock' because of order:o-1@1" in caplog.text


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


async def test_what_fails_is_parked_with_its_stream_and_others_go_on(
    url: str, depot: Depot
) -> None:
    depot.fails.add("o-1")
    async with shop(url, depot=depot) as engine:
        await reached(engine, await pay(engine, "o-1", "o-2", "o-1"))
        parked = await engine.projections.parked("shipping")

        assert [(p.position, p.stream, p.attempts) for p in parked] == [
            (1, "order:o-1", 1),
            (3, "order:o-1", 0),
        ]
        assert "HandlerFailed" in parked[0].cause
        depot.fails.clear()
        retried = await engine.projections.retry("shipping")

        assert retried.released == 2
        assert await shipments(engine) == ["o-2/0", "o-1/0", "o-1/0"]


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


async def test_what_is_skipped_is_left_out(depot: Depot) -> None:
    depot.fails.add("o-1")
    async with shop(depot=depot) as engine:
        await reached(engine, await pay(engine, "o-1"))
        await engine.projections.skip("shipping", 1, reason="shipped by hand")

        assert await engine.projections.parked("shipping") == []
        assert await shipments(engine) == []


async def test_one_that_stops_goes_on_where_it_stopped_and_makes_nothing_twice(
    depot: Depot,
) -> None:
    depot.fails.add("o-1")
    async with shop(reactor=Stopping, depot=depot) as engine:
        position = await pay(engine, "o-2", "o-1", "o-3")
        with pytest.raises(ProjectionLag, match="stopped"):
            await reached(engine, position)
        depot.fails.clear()
        await engine.projections.resume("shipping")
        await reached(engine, position)

        assert sorted(await shipments(engine)) == ["o-1/0", "o-2/0", "o-3/0"]


async def test_an_error_of_a_reaction_is_its_events(url: str) -> None:
    class Wrong(Reactor, name="shipping", begins="now"):
        @reacts
        def paid(self, event: Paid) -> Ship:
            if event.parcels == 2:
                raise LookupError("no such shelf")
            wrong: Ship = cast("Any", "ship it")
            return wrong

    async with shop(url, Wrong) as engine:
        await pay(engine, "o-1")
        await reached(engine, await pay(engine, "o-2", parcels=2))
        causes = [p.cause for p in await engine.projections.parked("shipping")]

    assert "UsageError" in causes[0]
    assert "LookupError" in causes[1]


async def test_a_full_engine_is_waited_for(depot: Depot) -> None:
    hold = depot.hold["busy"] = asyncio.Event()
    limits = Limits(commands_accepted=1, mailbox_commands=1)
    async with shop(depot=depot, limits=limits) as engine:
        await pay(engine, "o-0", parcels=0)
        busy = asyncio.ensure_future(engine.execute(Ship("other", "busy")))
        await until(lambda: "busy" in depot.asked)
        follows = asyncio.ensure_future(engine.query(Done(), at=1))
        await follows
        hold.set()
        await busy
        await reached(engine, await pay(engine, "o-1"))

        assert "o-1/0" in await shipments(engine)


async def test_a_circle_of_reactions_ends_with_an_error_that_names_it(depot: Depot) -> None:
    class Circle(Reactor, name="shipping", begins="now"):
        @reacts
        def paid(self, event: Paid, meta: Meta) -> Pay:
            return Pay(meta.id)

    async with shop(reactor=Circle, limits=Limits(reaction_depth=3)) as engine:
        await pay(engine, "o-1")
        await until(lambda: engine.statistics().projectors["shipping"].position == 4)
        [parked] = await engine.projections.parked("shipping")

        assert parked.position == 4
        assert "ReactionTooDeep" in parked.cause
        assert [meta.depth for _, meta in await events(engine)] == [0, 1, 2, 3]


async def test_the_gate_is_asked_for_the_reactors_principal(url: str) -> None:
    asked: list[tuple[str | None, str]] = []

    async def authorize(principal: str | None, action: str, message: object) -> bool:
        if action == "execute":
            asked.append((principal, type(message).__name__))
        return not (principal == "reactor:shipping" and message == Ship("o-2-0", "o-2"))

    async with shop(url, authorize=authorize) as engine:
        await reached(engine, await pay(engine, "o-1", "o-2"))

        assert ("reactor:shipping", "Ship") in asked
        [parked] = await engine.projections.parked("shipping")
        assert parked.stream == "order:o-2"
        assert "Forbidden" in parked.cause


async def test_the_commands_of_a_reaction_are_bounded() -> None:
    async with shop(limits=Limits(reaction_commands=2)) as engine:
        await pay(engine, "o-1", parcels=3)
        await reached(engine, await pay(engine, "o-2", parcels=2))
        [parked] = await engine.projections.parked("shipping")

        assert "UsageError" in parked.cause
        assert await shipments(engine) == ["o-2/0", "o-2/1"]


def test_views_in_memory_beside_a_log_that_is_kept_are_refused(
    request: pytest.FixtureRequest,
) -> None:
    url = str(request.getfixturevalue("postgres_url"))
    with pytest.raises(Exception, match="reactor 'shipping' cannot be kept in views in memory"):
        shop(url, views="memory:")
