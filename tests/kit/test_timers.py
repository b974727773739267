"""The kit knows timers: what a decision sets, and what is due when time has passed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine import After, CancelTimer, HandlerFailed
from engine.testing.scenario import given
from tests.timers.kettles import (
    Forget,
    Kettle,
    SwitchedOff,
    SwitchedOn,
    SwitchOff,
    SwitchOn,
    Whistle,
    Whistled,
)


def test_what_a_decision_sets_is_expected() -> None:
    decided = given(Kettle).when(SwitchOn("test", 15))

    decided.then(SwitchedOn()).then_timers(After(SwitchOff("test"), "off", minutes=15))
    decided.when(Forget("test")).then_timers(CancelTimer("off")).then_commands()
    given(Kettle).when(Whistle("test", 2)).then_commands(Whistle("test", 1)).then_timers()


def test_another_timer_fails_the_test() -> None:
    decided = given(Kettle).when(SwitchOn("test", 15))

    with pytest.raises(AssertionError, match="other timers came"):
        decided.then_timers(After(SwitchOff("test"), "off", minutes=16))
    with pytest.raises(AssertionError, match="other timers came"):
        decided.then_timers()
    with pytest.raises(AssertionError, match="other commands came"):
        decided.then_commands(Whistle("test"))
    with pytest.raises(AssertionError, match="other commands are due"):
        decided.when_time_passes(minutes=14).then_due(SwitchOff("test"))


def test_time_passes_and_commands_are_due() -> None:
    decided = given(Kettle).when(SwitchOn("test", 15), now=datetime(2026, 3, 1, tzinfo=UTC))

    passed = decided.when_time_passes(minutes=14, seconds=59).then_due()
    passed = passed.when_time_passes(seconds=1).then_due(SwitchOff("test"))
    passed.when(*passed.due).then(SwitchedOff("timer"))
    passed.when_time_passes(days=1).then_due()


def test_a_timer_that_is_set_again_or_cancelled_is_not_due() -> None:
    decided = given(Kettle).when(SwitchOn("test", 15))

    decided.when(Forget("test")).when_time_passes(days=1).then_due()
    later = decided.when(SwitchOn("test", 30)).when_time_passes(minutes=29).then_due()
    later.when_time_passes(minutes=1).then_due(SwitchOff("test"))


def test_what_an_engine_refuses_is_refused() -> None:
    with pytest.raises(HandlerFailed, match="in the past"):
        given(Kettle).when(SwitchOn("test", -1))
    assert given(Kettle).when(Whistle("test", 1)).then(Whistled(1)).events == (Whistled(1),)
