"""When this event arrives, then these commands: tests of reactors.

Rules: a reaction runs as the engine runs it, on a copy of the event that was encoded and decoded,
without an engine, a loop or a store. One that changes its event, or is not the same the second
time, is caught. Nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ..errors import Rejected, UsageError
from ..limits import Limits
from ..model.codec import EventRegistry
from ..model.messages import Command, Event, Meta
from ..model.projection import Projection, ProjectionDefinition, Reacting, handler_of
from ..model.reactor import Reactor, commands_given
from .clocks import microseconds
from .folded import TEST_ID
from .shown import fail, listed

__all__ = ["Reacted", "reaction"]


def reaction(
    reactor: type[Reactor],
    event: Event,
    *,
    stream: str = f"{TEST_ID}:1",
    version: int = 1,
    position: int = 1,
    recorded: datetime | int = 0,
    correlation: str | None = None,
    principal: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reacted:
    """Let an event of a stream (`kind:id`) arrive at a reactor.

    `recorded` is an aware datetime, or µs since 1970-01-01 UTC. What the reaction raises comes
    through. Raises AssertionError if it changes its event, or gives something else the second time.
    """
    __tracebackhide__ = True  # pytest shows the test's own line
    definition = reactor.__definition__
    meta = Meta(
        stream,
        version,
        position,
        microseconds(recorded),
        None,
        correlation,
        None,
        principal,
        headers,
    )
    handler = handler_of(definition, type(event))
    if handler is None:
        return Reacted(definition, meta, ())
    function, registry = handler.function, EventRegistry([type(event)])

    def react() -> tuple[Command, ...]:
        copy = registry.copy(event)
        arguments = (copy, meta) if handler.takes_meta else (copy,)
        given = function(definition.bind({}), *arguments)
        if registry.encode(copy) != registry.encode(event):
            fail(f"{function.__qualname__} changed its event; a reaction only gives commands", [])
        return commands_given(function.__qualname__, given, Limits().reaction_commands)

    return Reacted(definition, meta, _twice(function, react))


class Reacted:
    """What a reaction gave."""

    def __init__(
        self, definition: ProjectionDefinition, meta: Meta, commands: Sequence[Command]
    ) -> None:
        self._definition = definition
        self._meta = meta
        self.commands = tuple(commands)
        """The commands, in the order in which they are executed."""

    def then(self, *commands: Command) -> Reacted:
        """Expect exactly these commands, in this order; with none, expect that none follows."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.commands != commands:
            lines = [f"expected: {listed(commands)}", f"found:    {listed(self.commands)}"]
            fail("other commands followed", lines)
        return self

    def when_rejected(self, command: Command, code: str, message: str = "") -> Reacted:
        """Let one of the commands be rejected with a code; give what follows from that."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if command not in self.commands:
            raise UsageError(f"{command!r} is none of the commands: {listed(self.commands)}")
        reacting = self._definition.reacting
        assert isinstance(reacting, Reacting), "it is a reactor's definition"
        refusal = reacting.refusals.get(type(command))
        if refusal is None:
            return Reacted(self._definition, self._meta, ())
        rejection = Rejected(code, message)
        arguments = (self._meta,) if refusal.takes_meta else ()
        reactor: Projection = self._definition.bind({})
        given = refusal.function(reactor, command, rejection, *arguments)
        followed = commands_given(refusal.function.__qualname__, given, 1)
        return Reacted(self._definition, self._meta, followed)


def _twice(function: Callable[..., Any], react: Callable[[], Any]) -> tuple[Command, ...]:
    """Give what a reaction gives; fail where it gives something else the second time."""
    __tracebackhide__ = True  # pytest shows the test's own line
    first, second = react(), react()
    if list(map(_encoded, first)) != list(map(_encoded, second)):
        fail(
            f"{function.__qualname__} gave something else for the same event: a reaction may run "
            f"more than once, so it reads no clock and draws no ids",
            [f"first:  {listed(first)}", f"second: {listed(second)}"],
        )
    found: tuple[Command, ...] = first
    return found


def _encoded(command: Command) -> tuple[str, bytes]:
    return type(command).command_name, msgspec.json.encode(command, enc_hook=repr)
