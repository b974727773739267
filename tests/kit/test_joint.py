"""The test kit runs joint decisions: given several aggregates, then events for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from engine import Claim, DefinitionError, HandlerFailed, InvalidInput, To, UniqueValue, UsageError
from engine.testing.joint import Together, given_all
from engine.testing.scenario import given
from tests.write.accounts import (
    Account,
    Deposit,
    Deposited,
    Fund,
    Gate,
    Odd,
    Rename,
    Share,
    Slow,
    Transfer,
    Withdrawn,
    anything,
    contexts,
    odd,
    rename,
    share,
    slowly,
    transfer,
)


@pytest.fixture
def two() -> Together:
    return given_all(
        given(Account, Deposited(100), aggregate_id="a"),
        given(Account, aggregate_id="b"),
    )


def test_events_are_expected_by_stream(two: Together) -> None:
    moved = two.when(transfer, Transfer("a", "b", 30))

    moved.then({"account:a": [Withdrawn(30)], "account:b": [Deposited(30)]}).then_reply(70)
    moved.when(transfer, Transfer("b", "c", 30)).then_reply(0)
    assert moved.aggregate(Account, "b").state.cents == 30
    moved.aggregate(Account, "b").when(Deposit("b", 1)).then(Deposited(1))
    assert two.aggregate(Account, "a").state.cents == 100


def test_a_rejection_is_expected_by_its_code(two: Together) -> None:
    two.when(transfer, Transfer("a", "b", 101)).then_rejected("too-little-money", cents=100)
    two.when(transfer, Transfer("a", "b", 0)).then({}).then_reply(100)


def test_one_that_is_not_given_has_no_events_yet(two: Together) -> None:
    two.when(share, Share("a", ["x", "y"], 5)).then(
        {"account:a": [Withdrawn(10)], "account:x": [Deposited(5)], "account:y": [Deposited(5)]}
    )


def test_claims_are_expected_by_stream(two: Together) -> None:
    renamed = two.when(rename, Rename("a", "b", ("x", "y")))
    renamed.then_claims({"account:a": [Claim("name", "x")], "account:b": [Claim("name", "y")]})
    taken = [UniqueValue("name", "y")]
    two.when(rename, Rename("a", "b", ("x", "y")), taken=taken).then_rejected("name-taken")


async def test_an_async_function_is_awaited(two: Together) -> None:
    gate = Gate()
    gate.event.set()
    with pytest.raises(UsageError, match="when_async"):
        two.when(slowly, Slow("a", "b"), resources={Gate: gate})
    with pytest.raises(UsageError, match="takes a Gate"):
        await two.when_async(slowly, Slow("a", "b"))
    moved = await two.when_async(slowly, Slow("a", "b"), resources={Gate: gate})

    moved.then({"account:a": [Withdrawn(1)], "account:b": [Deposited(1)]})


def test_the_context_is_the_tests() -> None:
    odd["it"] = lambda one, other: [To(other, Deposited(2))]
    given_all().when(anything, Odd("1", "2", "it"), now=5, principal="ann").then(
        {"fund:2": [Deposited(2)]}
    )

    assert (contexts[-1].now, contexts[-1].principal) == (5, "ann")


def test_a_function_that_changes_a_state_is_caught() -> None:
    def changes(one: Account, other: Fund) -> list[Any]:
        other.cents = 7
        return []

    odd["it"] = changes
    with pytest.raises(AssertionError, match="changed the state of fund:2"):
        given_all().when(anything, Odd("1", "2", "it"))


def test_what_cannot_be_run_is_said(two: Together) -> None:
    def plain() -> None: ...

    with pytest.raises(InvalidInput, match="names an aggregate twice"):
        two.when(transfer, Transfer("a", "a", 1))
    with pytest.raises(UsageError, match="decides Transfer, and not Deposit"):
        two.when(transfer, Deposit("a", 1))
    with pytest.raises(DefinitionError, match="marked with @decides"):
        two.when(plain, Transfer("a", "b", 1))
    odd["it"] = lambda one, other: [Deposited(1)]
    with pytest.raises(HandlerFailed):
        two.when(anything, Odd("1", "2", "it"))


def test_a_failure_shows_what_came(two: Together) -> None:
    moved = two.when(transfer, Transfer("a", "b", 30))
    with pytest.raises(AssertionError) as failed:
        moved.then({"account:a": [Withdrawn(30)], "account:b": [Deposited(31)]})
    assert str(failed.value).splitlines() == [
        "other events came",
        "  account:a: Withdrawn(cents=30)",
        "- account:b: Deposited(cents=31)",
        "+ account:b: Deposited(cents=30)",
        "(- expected, + found)",
    ]
    expectations: Sequence[Callable[[], object]] = (
        lambda: moved.then_rejected("too-little-money"),
        lambda: moved.then_reply(71),
        lambda: moved.then_claims({"account:a": [Claim("name", "x")]}),
        lambda: two.when(transfer, Transfer("a", "b", 101)).then({}),
        lambda: two.when(transfer, Transfer("a", "b", 101)).then_rejected("other"),
        lambda: two.when(transfer, Transfer("a", "b", 101)).then_rejected(
            "too-little-money", cents=1
        ),
        lambda: two.when(transfer, Transfer("a", "b", 101)).then_reply(1),
        lambda: two.when(transfer, Transfer("a", "b", 101)).then_claims({}),
    )
    for expectation in expectations:
        with pytest.raises(AssertionError):
            expectation()
