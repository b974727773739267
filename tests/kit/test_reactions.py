"""The test kit knows what follows from an event, and from a rejection."""

from __future__ import annotations

import itertools

import pytest

from engine import Command, Event, Id, Meta, Reactor, Rejected, UsageError, reacts, when_rejected
from engine.testing.reactions import reaction
from engine.testing.scenario import Folded


class Paid(Event, name="paid"):
    items: list[str]


class Ship(Command):
    item: Id
    order: str
    because: str | None = None


class Cancel(Command):
    order_id: Id
    why: str


class Shipping(Reactor, name="shipping", begins="now"):
    @reacts
    def paid(self, event: Paid, meta: Meta) -> list[Ship]:
        return [Ship(item, meta.id, meta.correlation) for item in event.items]

    @when_rejected
    def refused(self, command: Ship, rejection: Rejected) -> Cancel | None:
        return None if rejection.code == "later" else Cancel(command.order, rejection.code)


ARRIVED = reaction(Shipping, Paid(["lamp", "bulb"]), stream="order:o-1", correlation="c")


def test_the_commands_that_follow_are_compared_in_their_order() -> None:
    ARRIVED.then(Ship("lamp", "o-1", "c"), Ship("bulb", "o-1", "c"))
    with pytest.raises(AssertionError, match="other commands followed"):
        ARRIVED.then(Ship("bulb", "o-1", "c"), Ship("lamp", "o-1", "c"))


def test_what_follows_a_rejection() -> None:
    lamp = Ship("lamp", "o-1", "c")
    ARRIVED.when_rejected(lamp, "no-stock").then(Cancel("o-1", "no-stock"))
    ARRIVED.when_rejected(lamp, "later").then()
    with pytest.raises(UsageError, match="none of the commands"):
        ARRIVED.when_rejected(Ship("lamp", "o-2"), "no-stock")


def test_an_event_of_another_class_leads_to_nothing() -> None:
    class Other(Event, name="other"):
        pass

    reaction(Shipping, Other()).then()


def test_a_reaction_that_is_not_the_same_the_second_time_is_caught() -> None:
    numbers = itertools.count()

    class Counting(Reactor, name="counting", begins="now"):
        @reacts
        def paid(self, event: Paid) -> Cancel:
            return Cancel(f"o-{next(numbers)}", "counted")

    class Changing(Reactor, name="changing", begins="now"):
        @reacts
        def paid(self, event: Paid) -> None:
            event.items.clear()

    with pytest.raises(AssertionError, match="gave something else for the same event"):
        reaction(Counting, Paid([]))
    with pytest.raises(AssertionError, match="changed its event"):
        reaction(Changing, Paid(["lamp"]))


def test_a_reactor_folds_nothing() -> None:
    with pytest.raises(UsageError, match="is a reactor and folds nothing"):
        Folded(Shipping)
