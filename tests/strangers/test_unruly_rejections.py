"""Classes of rejections that are made badly: each fails its own command, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, cast

import pytest

from engine import (
    After,
    Aggregate,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Limits,
    ProcessManager,
    Rejected,
    To,
    applies,
    decides,
    handles,
    reacts,
    when_rejected,
)
from tests.support.waiting import until


class WithoutCode(Rejected):
    def __init__(self) -> None:
        Exception.__init__(self, "the constructor of Rejected is not called")


class Leaving(Rejected):
    def __init__(self) -> None:
        Exception.__init__(self, "asked for its code, it ends the process")

    def __getattribute__(self, name: str) -> Any:
        if name == "code":
            raise SystemExit(3)
        return super().__getattribute__(name)


class Code(Enum):
    FULL = "full"


class Translated:
    """A text that is looked up when it is shown, as frameworks have them."""

    def __str__(self) -> str:
        return "es ist voll"


class OddCode(Rejected):
    def __init__(self) -> None:
        super().__init__(cast("str", Code.FULL), cast("str", Translated()))


REFUSALS: dict[str, Callable[[], Rejected]] = {
    "without": WithoutCode,
    "leaving": Leaving,
    "odd": OddCode,
}


class Try(Command):
    job: Id
    how: str


class TryBoth(Command):
    one: Id
    other: Id
    how: str


class Plan(Command):
    job: Id
    how: str


class Tried(Event, name="tried"):
    how: str


class Planned(Event, name="planned"):
    how: str


class Job(Aggregate, kind="job"):
    tried: bool = False

    @handles
    def do_try(self, command: Try) -> Tried:
        if command.how in REFUSALS:
            raise REFUSALS[command.how]()
        return Tried(command.how)

    @handles
    def plan(self, command: Plan) -> Decision[Planned]:
        return Decision(Planned(command.how), timers=[After(Try(self.id, command.how), "try")])

    @applies
    def was_tried(self, event: Tried) -> None:
        self.tried = True

    @applies
    def was_planned(self, event: Planned) -> None:
        pass


@decides
def try_both(command: TryBoth, one: Job, other: Job) -> list[To[Tried]]:
    raise REFUSALS[command.how]()


class Asked(Event, name="asked"):
    pass


class Heard(Event, name="heard"):
    code: str
    message: str


class Asker(ProcessManager, kind="asker", begins="start"):
    heard: tuple[str, str] = ("", "")

    @reacts(by="how")
    def planned(self, event: Planned) -> Decision[Asked]:
        return Decision(Asked(), commands=[Try("another", event.how)])

    @when_rejected
    def refused(self, command: Try, rejection: Rejected) -> Heard:
        return Heard(rejection.code, rejection.message)

    @applies
    def asked(self, event: Asked) -> None:
        pass

    @applies
    def was_heard(self, event: Heard) -> None:
        self.heard = (event.code, event.message)


@pytest.mark.parametrize("how", ["without", "leaving"])
async def test_a_rejection_without_a_code_fails_its_command_alone(how: str) -> None:
    async with Engine([Job], decisions=[try_both], store="memory:") as engine:
        with pytest.raises(HandlerFailed, match="must call that of Rejected"):
            await engine.execute(Try("a", how))
        with pytest.raises(HandlerFailed, match="must call that of Rejected"):
            await engine.execute(TryBoth("a", "b", how))
        assert (await engine.execute(Try("a", "well"))).version == 1


@pytest.mark.parametrize("how", ["without", "leaving"])
async def test_its_timer_is_tried_again_and_holds_nobody_up(how: str) -> None:
    limits = Limits(timers_at_once=1)
    async with Engine([Job], store="memory:", limits=limits) as engine:
        await engine.execute(Plan("a", how))
        await until(lambda: engine.statistics().timers.failed == 1)
        await engine.execute(Plan("b", "well"))
        await until(lambda: engine.statistics().timers.fired == 1)
        assert (await engine.state(Job, "b")).tried


async def test_a_process_manager_hears_a_code_that_is_no_text() -> None:
    async with Engine([Job, Asker], store="memory:") as engine:
        await engine.execute(Plan("a", "odd"))
        await until(lambda: engine.statistics().timers.fired == 2)
        assert (await engine.state(Asker, "odd")).heard == ("Code.FULL", "es ist voll")
