"""Takes apart what a handler returned: its events, and what is beside them, which goes on its mail.

Rules: it is looked at whole before an event is encoded, and what is wrong with it is HandlerFailed.
It decides nothing, and knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import HandlerFailed
from ..model.decisions import NO_CLAIMS, Decision, opened
from ..model.messages import Command
from ..model.timers import NO_TIMERS, SetTimers, Timer, set_timers
from .kind import Kind
from .mailbox import Mail

__all__ = ["timers_given", "unpack"]


class _TimersGiven(Protocol):
    """A decision, or one aggregate's share of one."""

    @property
    def timers(self) -> Sequence[Timer]: ...

    @property
    def commands(self) -> Sequence[Command]: ...


def timers_given(
    kind: Kind[Any],
    mail: Mail,
    given: _TimersGiven,
    version: int,
    *,
    has_events: bool,
) -> SetTimers | None:
    """Give what a decision at a version does to timers; raise HandlerFailed."""
    if kind.timers_instead is not None:
        raise HandlerFailed(
            f"{mail.handler.decide.__qualname__} gives timers or commands that follow, and this "
            f"store keeps no timers. {kind.timers_instead}. Nothing was written."
        )
    return set_timers(
        mail.handler.decide.__qualname__,
        given.timers,
        given.commands,
        has_events,
        version=version + 1,
        now=kind.ports.clock.now(),
        known=kind.timed,
        limits=kind.limits,
        depth=mail.depth,
    )


def unpack(kind: Kind[Any], mail: Mail, returned: Any, version: int) -> Any:
    """Give the events of a decision, and put the rest on its mail; raise HandlerFailed.

    `version` is that of the aggregate before it.
    """
    handler, limits = mail.handler, kind.limits
    form = handler.reply
    given: Any = returned
    if type(returned) is Decision:
        if given.timers is not NO_TIMERS or given.commands is not NO_TIMERS:
            mail.timers = timers_given(kind, mail, given, version, has_events=bool(given.events))
        if form is not None and given.claims is NO_CLAIMS:
            mail.reply, mail.kept = form.kept(given.reply, limits.reply_bytes)
            return given.events
    found = opened(handler.decide.__qualname__, form, returned, limits)
    events, mail.reply, mail.kept, mail.claims = found
    return events
