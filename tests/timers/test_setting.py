"""What is wrong with a timer is told before anything is written, with what to do instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine import After, At, CancelTimer, Command, Decision, HandlerFailed, Id, Limits
from engine.model.timers import TimedCommands
from engine.testing.memory_engine import memory_engine
from engine.testing.scenario import ManualClock
from tests.support.waiting import settle

from .kettles import Kettle, Odd, Strange, SwitchOff, Whistle, Whistled, odd, runs

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def after(command: Any = None, name: Any = "t", **durations: Any) -> After:
    return After(command or SwitchOff("k"), name, **durations)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"timers": after()}, "write a list, as timers="),
    "no timer": ({"timers": ["soon"]}, "give an After, an At or a CancelTimer"),
    "a command for a timer": ({"timers": [SwitchOff("k")]}, "give an After, an At"),
    "twice set": ({"timers": [after(hours=1), after(hours=2)]}, "the timer 't' twice"),
    "set and cancelled": ({"timers": [after(), CancelTimer("t")]}, "the timer 't' twice"),
    "in the past": ({"timers": [after(minutes=-1)]}, "'t' 60 s in the past"),
    "long past": ({"timers": [At(NOW - timedelta(hours=1), SwitchOff("k"))]}, "s in the past"),
    "a hundred years": ({"timers": [after(days=36_525)]}, "36,525 days ahead"),
    "for ever": ({"timers": [after(days=float("inf"))]}, "days ahead"),
    "for ever, in seconds": ({"timers": [after(seconds=float("inf"))]}, "days ahead"),
    "milliseconds for seconds": ({"timers": [after(seconds=5e12)]}, "days ahead"),
    "no number": ({"timers": [after(hours=float("nan"))]}, "a number of seconds"),
    "a text for a number": ({"timers": [after(hours="1")]}, "a number of seconds"),
    "without a zone": ({"timers": [At(datetime(2026, 3, 2), SwitchOff("k"))]}, "a time zone"),
    "a name with a dot": ({"timers": [after(name="1.0001")]}, "a stored name is"),
    "a name that is none": ({"timers": [after(name=7)]}, "is a string"),
    "an unknown command": ({"timers": [after(Strange("k"))]}, "Strange, which no aggregate"),
    "no command": ({"timers": [after("switch off")]}, "which is no command"),
    "a class": ({"timers": [after(SwitchOff)]}, "SwitchOff, which is no instance but a class"),
    "an id that is none": ({"timers": [after(SwitchOff(""))]}, "cannot be stored"),
    "a value of another type": (
        {"timers": [after(SwitchOff("k", why=7))]},  # type: ignore[arg-type]
        "SwitchOff.why must be a str, and is an int",
    ),
    "a value that is no JSON": ({"timers": [after(SwitchOff("k", tags=["\ud800"]))]}, "stored"),
    "no event": ({"events": None, "timers": [after()]}, "gives timers and no event"),
    "commands and no event": ({"events": [], "commands": [Whistle("k")]}, "commands and no event"),
    "an unknown command at once": ({"commands": [Strange("k")]}, "Strange, which no aggregate"),
    "too many": ({"commands": [Whistle("k")] * 6}, "above Limits.command_timers at 5"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_timer_that_cannot_be_is_refused_and_nothing_is_written(what: str) -> None:
    given, told = REFUSED[what]
    odd[what] = lambda: Decision(**{"events": Whistled(1), **given})
    runs.clear()
    async with engine() as made:
        with pytest.raises(HandlerFailed) as failed:
            await made.execute(Odd("k", what))
        assert told in str(failed.value)
        assert "Nothing was written" in str(failed.value)

        numbers = made.statistics()
        assert (numbers.position, numbers.timers.waiting) == (0, 0)
        await settle()
        assert runs == []


async def test_a_moment_that_has_just_passed_is_fired_at_once() -> None:
    at = At(NOW - timedelta(seconds=30), Whistle("late"), "t")
    odd["late"] = lambda: Decision(Whistled(1), timers=[at])
    async with engine() as made:
        await made.execute(Odd("k", "late"))
        await settle()
        assert (await made.state(Kettle, "late")).whistles == 1


async def test_a_timer_has_the_name_of_its_command_unless_it_is_given_one() -> None:
    odd["first"] = lambda: Decision(Whistled(1), timers=[After(SwitchOff("k"), hours=1)])
    odd["second"] = lambda: Decision(Whistled(1), timers=[CancelTimer("switch-off")])
    async with engine() as made:
        await made.execute(Odd("k", "first"))
        assert made.statistics().timers.waiting == 1
        await made.execute(Odd("k", "second"))
        assert made.statistics().timers.waiting == 0


async def test_a_circle_of_commands_ends() -> None:
    limits = Limits(reaction_depth=4, timer_retries=1, parked_events=10)
    async with engine(limits=limits) as made:
        await made.execute(Whistle("k", 50))
        await settle()
        assert (await made.state(Kettle, "k")).whistles == 4
        assert made.statistics().timers.failed == 1


class Brew(Command, name="brew"):
    kettle_id: Id
    cups: int = 1


def test_a_default_that_changes_while_a_command_waits_changes_no_command() -> None:
    timed = TimedCommands([(Brew, lambda command: (command.kettle_id,))])

    assert timed.encode("a handler", Brew("k")) == ("brew", b'{"kettle_id":"k","cups":1}')


async def test_a_list_that_lies_of_its_length_hides_no_timer() -> None:
    class Lying(list[Any]):
        def __len__(self) -> int:
            return 0

    odd["lying"] = lambda: Decision(Whistled(1), timers=Lying([after(hours=1)]))
    async with engine() as made:
        await made.execute(Odd("k", "lying"))
        assert made.statistics().timers.waiting == 1


def engine(**options: Any) -> Any:
    options.setdefault("limits", Limits(command_timers=5))
    return memory_engine([Kettle], clock=ManualClock(NOW), **options)
