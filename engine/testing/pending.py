"""The timers of one aggregate in a test: what its decisions set, and which are due as time passes.

Rules: timers are checked as an engine checks them, and their commands are given back as copies that
have been stored. Nothing is run: a test sends the commands itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from ..errors import DefinitionError
from ..limits import Limits
from ..model.aggregate import id_field_of
from ..model.decisions import Decision
from ..model.messages import Command
from ..model.timers import TimedCommands, Timer, set_timers

__all__ = ["NOTHING_PENDING", "Pending"]

_Waits: TypeAlias = tuple[int, Command]
"""When a command is due, in µs, and the command."""


class Pending(msgspec.Struct, frozen=True):
    """What waits, at a time."""

    now: int = 0
    """In µs since 1970-01-01 UTC."""
    timers: Mapping[str, _Waits] = {}
    """By name, in the order in which they were set."""

    def at(self, now: int | None) -> Pending:
        """Give the same at another time, if there is one."""
        return self if now is None else msgspec.structs.replace(self, now=now)

    def decided(self, where: str, returned: Any, version: int) -> Pending:
        """Give what waits after a decision, whose first event has that version."""
        if not isinstance(returned, Decision):
            return self
        decision: Decision[Any, Any] = returned  # pyright: ignore[reportUnknownVariableType]
        commands = {type(command) for command in _commands_of(decision)}
        known = TimedCommands((cls, _ids_of(cls)) for cls in commands)
        changes = set_timers(
            where,
            decision.timers,
            decision.commands,
            bool(decision.events),
            version=version,
            now=self.now,
            known=known,
            limits=Limits(),
        )
        if changes is None:
            return self
        changed = {*changes.cancelled, *(new.name for new in changes.new)}
        kept = {name: waits for name, waits in self.timers.items() if name not in changed}
        for new in changes.new:
            kept[new.name] = new.due, known.decode(new.command, new.payload)
        return msgspec.structs.replace(self, timers=kept)

    def due_after(self, seconds: float) -> tuple[tuple[Command, ...], Pending]:
        """Give the commands that are due then, in their order, and what waits still."""
        now = self.now + round(seconds * 1_000_000)
        due = sorted((w for w in self.timers.values() if w[0] <= now), key=lambda waits: waits[0])
        left = {name: waits for name, waits in self.timers.items() if waits[0] > now}
        return tuple(command for _, command in due), Pending(now, left)


NOTHING_PENDING = Pending()


def _ids_of(cls: type[Command]) -> Callable[[Command], Sequence[object]]:
    """Give what gives the ids that a command names; of a joint decision it is not looked at."""
    try:
        field = id_field_of(cls)
    except DefinitionError:
        return lambda _: ()
    return lambda command: (getattr(command, field),)


def _commands_of(decision: Decision[Any, Any]) -> list[Command]:
    """Give the commands of a decision, whatever is wrong with it otherwise."""
    given: list[object] = [*decision.timers, *decision.commands]
    found = [getattr(each, "command", None) if isinstance(each, Timer) else each for each in given]
    return [each for each in found if isinstance(each, Command)]
