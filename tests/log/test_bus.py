"""The bus: bounded, never in the writer's way, and honest about what it dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from engine.limits import Limits
from engine.log.bus import Bus
from engine.model.stored import StoredEvent
from tests.support.shelf import Bought, Log


def events(count: int) -> Sequence[StoredEvent]:
    return Log().write(*[Bought(f"b{n}") for n in range(count)])


def positions(taken: Sequence[StoredEvent]) -> list[int]:
    return [event.position for event in taken]


def test_batches_are_taken_where_they_go_on_exactly() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    log = events(6)
    bus.publish(log[:2])
    bus.publish(log[2:4])
    bus.publish(log[4:])

    assert positions(subscription.take(0, 100)) == [1, 2, 3, 4, 5, 6]
    assert subscription.take(6, 100) == []


def test_what_the_feed_has_brought_already_is_dropped() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    log = events(6)
    bus.publish(log[:2])
    bus.publish(log[2:5])

    assert positions(subscription.take(3, 100)) == [4, 5]
    assert subscription.statistics().waiting == 0


def test_a_batch_behind_a_hole_is_not_given() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    bus.publish(events(6)[3:])

    assert subscription.take(1, 100) == []
    assert subscription.first == 4
    assert positions(subscription.take(3, 100)) == [4, 5, 6]


def test_a_batch_larger_than_what_is_asked_for_is_given_in_parts() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    bus.publish(events(5))

    assert positions(subscription.take(0, 2)) == [1, 2]
    assert positions(subscription.take(2, 2)) == [3, 4]
    assert positions(subscription.take(4, 2)) == [5]


def test_too_much_is_dropped_and_remembered() -> None:
    bus = Bus(Limits(bus_events=4))
    slow, quick = bus.subscribe("slow"), bus.subscribe("quick")
    log = events(6)
    bus.publish(log[:3])
    quick.take(0, 100)
    bus.publish(log[3:])

    assert slow.first is None
    assert slow.take_loss()
    assert not slow.take_loss()
    assert slow.statistics().dropped == 6
    assert slow.statistics().overflows == 1
    assert positions(quick.take(3, 100)) == [4, 5, 6]
    assert not quick.take_loss()


async def test_a_loss_wakes_its_subscriber() -> None:
    bus = Bus(Limits(bus_events=1))
    subscription = bus.subscribe("a")
    waiting = asyncio.create_task(subscription.wait())
    await asyncio.sleep(0)
    bus.publish(events(2))

    await asyncio.wait_for(waiting, 5)
    assert subscription.take_loss()


async def test_waiting_ends_with_what_was_published_before_it_began() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    bus.publish(events(1))

    await asyncio.wait_for(subscription.wait(), 5)


def test_a_muted_subscription_holds_nothing_and_knows_that_it_lost_something() -> None:
    bus = Bus(Limits())
    subscription = bus.subscribe("a")
    log = events(3)
    bus.publish(log[:1])
    subscription.mute()
    bus.publish(log[1:2])
    subscription.listen()
    bus.publish(log[2:])

    assert subscription.take_loss()
    assert subscription.first == 3


def test_the_failpoint_is_reached_after_everyone_has_the_batch() -> None:
    seen: list[tuple[str, int | None]] = []
    bus = Bus(Limits(), lambda name: seen.append((name, subscription.first)))
    subscription = bus.subscribe("a")
    bus.publish(events(1))

    assert seen == [("bus.published", 1)]


def weight(some: Sequence[StoredEvent]) -> int:
    return sum(len(event.payload) + len(event.metadata) for event in some)


def test_what_waits_is_weighed_and_not_only_counted() -> None:
    log = events(9)
    bus = Bus(Limits(bus_bytes=weight(log[:6])))
    slow, quick = bus.subscribe("slow"), bus.subscribe("quick")
    for begin in (0, 3, 6):
        bus.publish(log[begin : begin + 3])
        assert positions(quick.take(begin, 100)) == [begin + 1, begin + 2, begin + 3]

    assert slow.take_loss()
    assert slow.statistics().waiting == 0
    assert slow.statistics().dropped == 9
    assert not quick.take_loss()
    assert quick.statistics().overflows == 0


def test_what_was_dropped_or_muted_weighs_nothing_any_more() -> None:
    log = events(8)
    bus = Bus(Limits(bus_bytes=weight(log[:4])))
    subscription = bus.subscribe("a")
    bus.publish(log[:3])
    subscription.mute()
    subscription.listen()
    bus.publish(log[3:6])
    assert positions(subscription.take(3, 2)) == [4, 5]
    bus.publish(log[6:7])

    assert positions(subscription.take(5, 100)) == [6, 7]
    bus.publish(log[:7])  # larger than all that may wait
    assert subscription.take_loss()
    bus.publish(log[7:])
    assert positions(subscription.take(7, 100)) == [8]
