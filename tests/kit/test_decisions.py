"""The test kit knows what a decision has beside its events: replies and claims."""

from __future__ import annotations

import pytest

from engine import (
    Aggregate,
    Claim,
    Command,
    Decision,
    Event,
    HandlerFailed,
    Id,
    Rejected,
    Release,
    UniqueValue,
    applies,
    handles,
)
from engine.testing.scenario import given


class Join(Command[int]):
    member: Id
    email: str


class SlowJoin(Command[int]):
    member: Id
    email: str


class Joined(Event, name="joined"):
    email: str


class Member(Aggregate, kind="member"):
    email: str = ""

    @handles
    def join(self, command: Join) -> Decision[Joined, int]:
        if command.email == "no":
            raise Rejected("no", "no")
        claims = [Release("email", self.email)] if self.email else []
        claim = Claim("email", command.email, "address-taken", "choose another")
        return Decision(Joined(command.email), reply=self.version, claims=[*claims, claim])

    @handles
    async def slow_join(self, command: SlowJoin) -> Decision[Joined, int]:
        return self.join(Join(command.member, command.email))

    @applies
    def joined(self, event: Joined) -> None:
        self.email = event.email


ANN = UniqueValue("email", "ann")


def test_replies_and_claims_are_expected() -> None:
    joined = given(Member).when(Join("m", "ann"))

    joined.then(Joined("ann")).then_reply(0).then_claims(Claim("email", "ann"))
    joined.when(Join("m", "bob")).then_reply(1).then_claims(
        Claim("email", "bob"), Release("email", "ann")
    )
    assert (joined.reply, joined.claims[0].value, joined.state.email) == (0, "ann", "ann")


def test_what_others_hold_is_refused() -> None:
    refused = given(Member).when(Join("m", "ann"), taken=[ANN])

    refused.then_rejected("address-taken")
    assert (refused.state.version, refused.events, refused.reply, refused.claims) == (
        0,
        (),
        None,
        (),
    )
    given(Member).when(Join("m", "bob"), taken=[ANN]).then(Joined("bob"))


async def test_async_handlers_decide_so_too() -> None:
    joined = await given(Member).when_async(SlowJoin("m", "ann"))
    joined.then(Joined("ann")).then_reply(0).then_claims(Claim("email", "ann"))
    refused = await given(Member).when_async(SlowJoin("m", "ann"), taken=[ANN])
    refused.then_rejected("address-taken")


def test_what_was_not_expected_is_shown() -> None:
    joined = given(Member).when(Join("m", "ann"))
    with pytest.raises(AssertionError, match="expected: 7\nfound:    0"):
        joined.then_reply(7)
    with pytest.raises(AssertionError, match="other claims came\nexpected: nothing"):
        joined.then_claims()
    with pytest.raises(AssertionError, match="other claims came"):
        joined.then_claims(Release("email", "ann"))
    rejected = given(Member).when(Join("m", "no"))
    with pytest.raises(AssertionError, match="the command was rejected"):
        rejected.then_reply(0)
    with pytest.raises(AssertionError, match="the command was rejected"):
        rejected.then_claims()


def test_a_claim_that_cannot_be_kept_fails_in_a_test_too() -> None:
    with pytest.raises(HandlerFailed, match="1 to 500 characters"):
        given(Member).when(Join("m", "x" * 501))
