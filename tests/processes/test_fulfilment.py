"""A process manager leads an order to its end, and back where something fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import Decision, Engine, Limits, Ports, ProcessManager, applies, reacts
from engine.testing.scenario import ManualClock
from tests.processes.fulfilling import (
    Begun,
    Card,
    Item,
    Order,
    Parcel,
    Place,
    Placed,
    Reserve,
    Settle,
    shop,
)
from tests.support.waiting import until


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


async def names(engine: Engine) -> list[str]:
    return [logged.name async for logged in engine.feed()]


async def ended(engine: Engine, position: int) -> None:
    """Wait until the log ends there, and nothing follows any more."""
    numbers = engine.statistics
    await until(lambda: numbers().position >= position)
    await until(lambda: numbers().projectors["fulfilment"].position == position)
    await until(lambda: not numbers().timers.due)
    assert numbers().position == position


async def test_an_order_is_led_to_its_parcel_and_says_what_led_to_what(url: str) -> None:
    async with shop(url) as engine:
        await engine.execute(Place("o-1", "lamp", "c-1", 70), correlation="o-1")
        await ended(engine, 5)
        await engine.execute(Settle("c-1", "o-1"), correlation="o-1")
        await ended(engine, 8)

        assert await names(engine) == [
            "placed",
            "fulfilment-begun",
            "reserved",
            "fulfilment-moved",
            "charged",
            "settled",
            "fulfilment-moved",
            "shipped",
        ]
        assert (await engine.state(Parcel, "o-1")).shipped == 1
        assert engine.statistics().timers.waiting == 0
        page = await engine.history(Item, "lamp")
        assert page.events[0].meta.causation == "fulfilment:o-1@1"
        assert page.events[0].meta.correlation == "o-1"
        assert page.events[0].meta.depth == 2


async def test_what_was_done_is_undone_where_a_later_step_is_rejected(url: str) -> None:
    async with shop(url) as engine:
        await engine.execute(Place("o-1", "lamp", "c-1", 700))
        await ended(engine, 7)

        assert await names(engine) == [
            "placed",
            "fulfilment-begun",
            "reserved",
            "fulfilment-moved",
            "fulfilment-moved",
            "restocked",
            "order-cancelled",
        ]
        assert (await engine.state(Order, "o-1")).state == "cancelled"
        assert (await engine.state(Item, "lamp")).left == 2
        assert engine.statistics().timers.waiting == 0


async def test_nothing_is_undone_where_nothing_was_done() -> None:
    async with shop() as engine:
        for number in range(3):
            order = f"o-{number}"
            await engine.execute(Place(order, "lamp", "c-1", 10))
            await ended(engine, (5, 10, 14)[number])

        assert (await engine.state(Order, "o-2")).state == "cancelled"
        assert "restocked" not in await names(engine)
        assert (await engine.state(Item, "lamp")).left == 0


async def test_a_rejection_that_no_method_hears_is_told_as_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Deaf(ProcessManager, kind="deaf", begins="now"):
        @reacts(by="order")
        def order_placed(self, event: Placed) -> Decision[Begun]:
            begun = Begun(event.item, event.card, event.cents)
            return Decision(begun, commands=[Reserve(event.item, self.id)])

        @applies
        def begun(self, event: Begun) -> None: ...

    async with Engine([Order, Item, Deaf]) as engine:
        for order in ("o-1", "o-2", "o-3"):
            await engine.execute(Place(order, "lamp", "c-1", 10))
        await until(lambda: engine.statistics().timers.rejected == 1)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert ": reserve was rejected as 'no-stock', and nothing follows" in told[0]


async def test_a_payment_that_does_not_come_in_time_cancels(tmp_path: Path) -> None:
    url, clock = f"sqlite:{tmp_path / 'log.db'}", ManualClock()
    async with shop(url, ports=Ports(clock=clock)) as engine:
        await engine.execute(Place("o-1", "lamp", "c-1", 10))
        await ended(engine, 5)
        assert engine.statistics().timers.waiting == 1
    clock.advance(15 * 60)
    async with shop(url, ports=Ports(clock=clock)) as engine:
        await ended(engine, 8)

        assert (await engine.state(Order, "o-1")).state == "cancelled"
        assert (await engine.state(Item, "lamp")).left == 2
        assert (await engine.state(Card, "c-1")).charged == 10


async def test_a_circle_of_managers_and_commands_ends(caplog: pytest.LogCaptureFixture) -> None:
    async with shop(limits=Limits(reaction_depth=2)) as engine:
        await engine.execute(Place("o-1", "lamp", "c-1", 10))
        await until(lambda: engine.statistics().projectors["fulfilment"].position == 3)
        [parked] = await engine.projections.parked("fulfilment")

        assert parked.event == "reserved v1"
        assert "ReactionTooDeep" in parked.cause
    assert "break the circle" in caplog.text
