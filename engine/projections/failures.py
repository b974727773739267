"""Why one projector is stopped: what is shown of it, logged, and told to other processes.

Rules: an event is named where one is to blame, with its stream and the exception. It is told once
that it is stopped, and once that it goes on; what cannot be told is told again with the next look.
It decides nothing: the projector does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..errors import StoreFailed, StoreRefused
from ..model.stored import StoredEvent
from ..runtime.safely import shows_messages
from ..runtime.tracebacks import traceback_text
from ..statistics import ProjectionFailure
from ..stores.contract.views import Part, what_of

__all__ = ["Failed", "Failures", "Poisoned"]

Failed: TypeAlias = Callable[[Part, ProjectionFailure | None], Awaitable[None]]


class Poisoned(Exception):
    """An event could not be folded; its cause is in `__cause__`."""

    def __init__(self, stored: StoredEvent) -> None:
        super().__init__(stored.position)
        self.stored = stored


class Failures:
    """What has stopped a projector, and whether others know."""

    def __init__(self, part: Part, logger: logging.Logger, tell: Failed) -> None:
        """Take what is stopped, and what tells others."""
        self.current: ProjectionFailure | None = None
        """Why it is stopped, if it is."""
        self._part = part
        self._logger = logger
        self._tell = tell
        self._told: ProjectionFailure | None = None

    def stop(self, error: Exception, position: int) -> None:
        """Keep why it stops with its views at a position, and log it."""
        if isinstance(error, Poisoned):
            stored, cause = error.stored, error.__cause__
            assert isinstance(cause, Exception)
            what = what_of(stored.name, stored.event_version)
            failure = ProjectionFailure(stored.position, what, stored.stream, traceback_text(cause))
        else:
            cause = error
            failure = ProjectionFailure(position, "", "", traceback_text(error))
        self.current = failure
        self._logger.error(
            "projection %s stopped at position %d (%s): its views stay at %d, and everything else "
            "goes on. Mend it and start again: it continues there by itself%s\n%s",
            self._part.definition.name,
            failure.position,
            f"{failure.event} of {failure.stream}" if failure.event else "no event is to blame",
            position,
            ", or leave the event out by `foldline projections skip`" if failure.event else "",
            traceback_text(cause, messages=shows_messages(self._logger)),
        )

    async def tell(self) -> None:
        """Tell others why it is stopped, or that it goes on, as far as that can be done."""
        failure = self.current
        if failure is self._told:
            return
        try:
            await self._tell(self._part, failure)
            self._told = failure
        except (StoreFailed, StoreRefused) as error:
            # It is in the log of this process, and what is to be told may be the cause itself.
            self._logger.warning("the state of a projection could not be noted: %s", error)
