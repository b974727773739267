"""What a handler returned: its events, and whether its annotation names them.

Rules: what is no event is told by what it is and by what to write, never by its value. What a
handler may return is read from its annotation, and compared only where somebody asks: in debug mode
and in the test kit. Nothing is encoded or folded here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final, cast

from ..errors import HandlerFailed, Rejected
from .aggregate import CommandHandler
from .decisions import Decision, UniqueValue
from .given import named
from .messages import Command, Event
from .timers import Timer

__all__ = ["as_events", "check_declared"]


def as_events(handler: CommandHandler, returned: Any) -> Sequence[Event]:
    """Give the events that a handler returned; raise HandlerFailed for anything else."""
    if returned is None:
        return ()
    if isinstance(returned, Event):
        return (returned,)
    where = handler.decide.__qualname__
    if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        # Once: a sequence of the host's own may give others each time.
        events = tuple(cast("Sequence[Event]", returned))
        if all(map(_is_event, events)):
            return events
        what = named(cast("object", returned))
        other = next(event for event in events if not _is_event(event))
        raise HandlerFailed(f"{where} returned {what} with {_told(other)}. Nothing was written.")
    if type(returned).__name__ == Decision.__name__:
        raise HandlerFailed(
            f"{where} returned a Decision: annotate it so, as `-> Decision[SomeEvent, ReplyType]`"
        )
    raise HandlerFailed(f"{where} returned {_told(returned)}. Nothing was written.")


def check_declared(handler: CommandHandler, returned: Any) -> None:
    """Raise HandlerFailed for an event, or for None, that a handler's annotation does not name."""
    where, known = handler.decide.__qualname__, handler.gives
    if returned is None:
        if not handler.may_give_nothing:
            raise HandlerFailed(
                f"{where} returned None, and its annotation does not say so: return an event on "
                f"every way through it, or write `-> ... | None`. Nothing was written."
            )
        return
    given: Any = getattr(returned, "events", returned)
    several = isinstance(given, list | tuple)
    for event in cast("Sequence[object]", given if several else (given,)):
        if known and _is_event(event) and not isinstance(event, known):
            raise HandlerFailed(
                f"{where} returned {named(event)}, which its annotation does not name: add it "
                f"there. Nothing was written."
            )


def _is_event(value: object) -> bool:
    return isinstance(value, Event)


def _told(returned: object) -> str:
    """Say what was returned that is no event, and what to write."""
    if isinstance(returned, type):
        return f"the class {returned.__name__}: return an instance, as {returned.__name__}(...)"
    what = "None" if returned is None else named(returned)
    if isinstance(returned, Rejected):
        return f"{what}: raise it"
    if inspect.isawaitable(returned):
        return f"{what}: await it, in a handler that is `async def`"
    for kind, place in _BESIDE:
        if isinstance(returned, kind):
            return (
                f"{what}: it stands beside the events, as `return Decision(events, {place}=[...])`"
            )
    return f"{what}: return an Event, a sequence of Events, or None"


_BESIDE: Final = ((Timer, "timers"), (UniqueValue, "claims"), (Command, "commands"))
"""What a decision has besides events, and under which name."""
