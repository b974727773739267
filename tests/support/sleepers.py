"""Sleepers: aggregates whose only decision sets a timer."""

from __future__ import annotations

from engine import After, Aggregate, Command, Decision, Event, Id, applies, handles


class Rest(Command):
    sleeper_id: Id


class Rested(Event, name="rested"):
    pass


class Sleeper(Aggregate, kind="sleeper"):
    @handles
    def rest(self, command: Rest) -> Decision[Rested]:
        return Decision(Rested(), timers=[After(command, "wake", days=1)])

    @applies
    def rested(self, event: Rested) -> None:
        pass
