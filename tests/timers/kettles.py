"""A small domain for timers: kettles that are switched on, and go off after a while."""

from __future__ import annotations

from typing import Any

from engine import (
    After,
    Aggregate,
    CancelTimer,
    Command,
    Context,
    Decision,
    Event,
    Id,
    Rejected,
    applies,
    handles,
)

odd: dict[str, Any] = {}
"""What `Odd` decides, by a name that the test gives."""
runs: list[tuple[str, str, Context]] = []
"""Which commands of timers were decided: name, kettle, and what travelled with them."""
failing: set[str] = set()
"""Kettles whose timers fail."""


class SwitchOn(Command):
    kettle: Id
    minutes: float
    off: str = ""
    """Which kettle is switched off then; this one unless given."""


class SwitchOff(Command):
    kettle: Id
    why: str = "timer"
    tags: list[str] = []


class Forget(Command):
    kettle: Id


class Whistle(Command):
    kettle: Id
    times: int = 1


class Odd(Command):
    kettle: Id
    what: str


class Strange(Command):
    """Handled by nobody."""

    kettle: Id


class SwitchedOn(Event, name="kettle-on"):
    pass


class SwitchedOff(Event, name="kettle-off"):
    why: str


class Forgotten(Event, name="kettle-forgotten"):
    pass


class Whistled(Event, name="kettle-whistled"):
    times: int


class Kettle(Aggregate, kind="kettle"):
    is_on: bool = False
    whistles: int = 0

    @handles
    def switch_on(self, command: SwitchOn) -> Decision[SwitchedOn]:
        off = SwitchOff(command.off or self.id)
        return Decision(SwitchedOn(), timers=[After(off, "off", minutes=command.minutes)])

    @handles
    def switch_off(self, command: SwitchOff, ctx: Context) -> SwitchedOff | None:
        runs.append(("off", self.id, ctx))
        if self.id in failing:
            wrong = ConnectionError if self.id == "far" else RuntimeError
            cause = ConnectionRefusedError() if self.id == "client" else None
            raise wrong("the switch is stuck") from cause
        if command.why == "refuse":
            raise Rejected("stays-on", "it stays on")
        return SwitchedOff(command.why) if self.is_on else None

    @handles
    def forget(self, command: Forget) -> Decision[Forgotten]:
        return Decision(Forgotten(), timers=[CancelTimer("off")])

    @handles
    def whistle(self, command: Whistle, ctx: Context) -> Decision[Whistled]:
        runs.append(("whistle", self.id, ctx))
        again = [Whistle(self.id, command.times - 1)] if command.times > 1 else []
        return Decision(Whistled(command.times), commands=again)

    @handles
    def odd(self, command: Odd) -> Decision[Whistled]:
        decision: Decision[Whistled] = odd[command.what]()
        return decision

    @applies
    def on(self, event: SwitchedOn) -> None:
        self.is_on = True

    @applies
    def off(self, event: SwitchedOff) -> None:
        self.is_on = False

    @applies
    def forgotten(self, event: Forgotten) -> None:
        pass

    @applies
    def whistled(self, event: Whistled) -> None:
        self.whistles += 1
