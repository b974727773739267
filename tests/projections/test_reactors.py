"""Reactors: which commands follow from events, in which order, how often, and what fails."""

from __future__ import annotations

import asyncio
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
    ProjectionLag,
    Reactor,
    applies,
    handles,
    reacts,
)
from tests.projections.reacting import (
    Depot,
    FromTheStart,
    Order,
    Paid,
    Parcel,
    Pay,
    Ship,
    Shipped,
    Stopping,
    events,
    pay,
    reached,
    shipments,
    shop,
)
from tests.support.waiting import settle, until


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


class ByVersion(Reactor, name="shipping", begins="now"):
    """Sends each to a parcel of its own."""

    @reacts
    def paid(self, event: Paid, meta: Meta) -> Ship:
        return Ship(meta.event_id, meta.id)


async def test_commands_of_one_stream_keep_their_order_and_others_do_not_wait(
    depot: Depot,
) -> None:
    depot.hold["o-1"] = asyncio.Event()
    async with shop(reactor=ByVersion, depot=depot) as engine:
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


async def test_so_many_events_are_begun_before_the_first_is_done(depot: Depot) -> None:
    depot.hold = {"o-1": asyncio.Event()}
    async with shop(depot=depot, limits=Limits(reactor_events=1)) as engine:
        await pay(engine, "o-1")
        await pay(engine, "o-2")
        await until(lambda: depot.asked == ["o-1"])
        await settle()
        assert depot.asked == ["o-1"]
        depot.hold["o-1"].set()
        await until(lambda: depot.asked == ["o-1", "o-2"])


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


class Unreached(set[str]):
    """Raises, once, what the client of a service does that it does not reach."""

    def __contains__(self, order: object) -> bool:
        if order not in list(self):
            return False
        self.clear()
        try:
            raise ConnectionRefusedError
        except OSError as error:
            raise RuntimeError("the depot is not reached") from error


async def test_a_service_that_a_client_does_not_reach_is_asked_again(depot: Depot) -> None:
    """Clients have errors of their own, which come from those of the line."""
    depot.fails = Unreached(["o-1"])
    async with shop(depot=depot) as engine:
        await reached(engine, await pay(engine, "o-1"))

        assert await engine.projections.parked("shipping") == []
        assert await shipments(engine) == ["o-1/0"]


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


async def test_a_full_engine_is_waited_for(file: str, depot: Depot) -> None:
    hold = depot.hold["busy"] = asyncio.Event()
    async with Engine([Order, Parcel], store=file, resources={Depot: depot}) as engine:
        await pay(engine, "o-1")
    limits = Limits(commands_accepted=1, mailbox_commands=1)
    async with shop(file, FromTheStart, depot, limits=limits) as engine:
        busy = asyncio.ensure_future(engine.execute(Ship("other", "busy")))
        numbers = engine.statistics

        def waits() -> bool:
            found = numbers().projectors["shipping"]
            return bool(found.retries or (found.reactions and found.reactions.waits > 1))

        await until(waits)
        hold.set()
        await busy
        await reached(engine, 1)

        assert "o-1/0" in await shipments(engine)
        assert numbers().projectors["shipping"].retries == 0


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


async def test_a_stop_does_not_wait_for_a_gate_that_never_answers(file: str) -> None:
    asked = asyncio.Event()

    async def authorize(principal: str | None, action: str, message: object) -> bool:
        if principal == "reactor:shipping":
            asked.set()
            await asyncio.Event().wait()
        return True

    async with shop(file, authorize=authorize) as engine:
        await pay(engine, "o-1")
        await asked.wait()

    async with shop(file) as engine:
        await until(lambda: engine.statistics().position == 2)
        assert await shipments(engine) == ["o-1/0"]


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
