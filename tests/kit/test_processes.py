"""The test kit lets events arrive at process managers, commands be rejected, and time pass."""

from __future__ import annotations

import pytest

from engine import After, CancelTimer, Meta, UsageError
from engine.testing.scenario import given
from tests.processes.dispatching import Begun as DispatchBegun
from tests.processes.dispatching import Carrier, Dispatch, Packed, Paid
from tests.processes.fulfilling import (
    Begun,
    Cancel,
    Charge,
    Fulfilment,
    GiveUp,
    Moved,
    Order,
    Placed,
    Reserve,
    Reserved,
    Restock,
    Settled,
    Ship,
)

PLACED = given(Fulfilment, aggregate_id="o-1").when(Placed("o-1", "lamp", "c-1", 70))
RESERVED = PLACED.when(Reserved("o-1"))


def test_an_event_arrives_and_commands_follow() -> None:
    PLACED.then(Begun("lamp", "c-1", 70)).then_commands(Reserve("lamp", "o-1"))
    RESERVED.then(Moved("reserved")).then_commands(Charge("c-1", "o-1", 70))
    RESERVED.then_timers(After(GiveUp("o-1"), "payment", minutes=15))
    RESERVED.when(Settled("o-1")).then_commands(Ship("o-1")).then_timers(CancelTimer("payment"))


def test_a_rejection_is_decided_about() -> None:
    PLACED.when_rejected(Reserve("lamp", "o-1"), "no-stock").then_commands(
        Cancel("o-1", "no-stock")
    )
    failed = RESERVED.when_rejected(Charge("c-1", "o-1", 70), "no-money")
    failed.then_commands(Restock("lamp", "o-1"), Cancel("o-1", "no-money"))
    with pytest.raises(UsageError, match="no method with @when_rejected for a rejected Ship"):
        RESERVED.when_rejected(Ship("o-1"), "no")


def test_time_passes_and_the_deadline_undoes() -> None:
    *_, give_up = RESERVED.when_time_passes(minutes=15).due
    late = RESERVED.when(give_up)

    late.then_commands(Restock("lamp", "o-1"), Cancel("o-1", "not-paid"))
    RESERVED.when(Settled("o-1")).when(give_up).then()


async def test_an_event_says_where_it_stands_and_a_handler_may_wait() -> None:
    meta = Meta("order:o-1", 3, 9, 0)
    paid = given(Dispatch, aggregate_id="o-1").when(Paid(5), meta=meta)
    paid.then(DispatchBegun("order:o-1@3"))
    fresh = given(Dispatch, aggregate_id="o-1")
    packed = await fresh.when_async(Packed("o-1", "red"), resources={Carrier: Carrier()})

    packed.then(DispatchBegun("red"))


def test_an_event_of_another_instance_or_for_nobody_is_told() -> None:
    with pytest.raises(UsageError, match="for instance 'o-2' of Fulfilment, and this one is 'o-1'"):
        PLACED.when(Reserved("o-2"))
    with pytest.raises(UsageError, match="does not react to Moved"):
        PLACED.when(Moved("on"))
    with pytest.raises(UsageError, match="Order is no ProcessManager"):
        given(Order).when(Reserved("o-1"))
