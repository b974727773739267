"""The failures of one projector in a row, and how long it waits before it tries again.

Rules: it waits longer each time, up to a bound. What is logged is bounded too: the first failures,
then once that it goes on trying, and once that it could go on. Why it tries again is kept for
whoever looks, until something was written. This file waits for nothing itself, and does not know
which failures may pass.
"""

from __future__ import annotations

import logging
from typing import Final

from ..errors import BrokerFailed, StoreFailed
from ..runtime.safely import shows_messages, text_of
from ..runtime.tracebacks import traceback_text
from ..statistics import ProjectionFailure

__all__ = ["BackOff"]

SECONDS: Final = 0.05
SECONDS_MAX: Final = 5.0
BROKER_TOLD_MAX: Final = 5
"""Failures of a broker that are logged one by one: it may be away for hours."""
TEXT_MAX: Final = 200
"""Characters of an exception's text that a line shows."""
_DOUBLINGS_MAX: Final = 16
"""So that a number that grows for days never becomes one that no float holds."""


class BackOff:
    """What has failed since a projector has last written something."""

    def __init__(self, projection: str, logger: logging.Logger) -> None:
        """Take what is named in the log."""
        self._projection = projection
        self._logger = logger
        self.waits_for_the_store = True
        """Whether it goes on trying where a store will do it again: not for one who waits for it,
        and can be begun again."""
        self.failures = 0
        """In a row."""
        self._counted = 0
        """Those of them that are not waited for however long they last."""
        self.retries = 0
        """Since the start."""
        self.failure: ProjectionFailure | None = None
        """Why it tries again, as long as it does."""
        self._is_told = False
        """Whether it was logged that it goes on trying."""

    def again(
        self, cause: Exception, position: int, *, most: int, blames_event: bool
    ) -> float | None:
        """Note a failure at a checkpoint; give how many seconds to wait before the next try.

        Gives None where it was tried often enough: more than `most` times, unless a store or a
        broker says that it will do it when its surroundings let it. Then no event is to blame, and
        nobody has to tell the projector that it may go on. The first `most` failures are logged,
        and the next one as what it will wait for.
        """
        self.failures += 1
        if blames_event or not self._is_waited_for(cause):
            self._counted += 1
            if self._counted > most:
                return None
        self.retries += 1
        self.failure = ProjectionFailure(position, "", "", traceback_text(cause))
        seconds = SECONDS * 2.0 ** min(max(0, self.failures - 1), _DOUBLINGS_MAX)
        seconds = min(seconds, SECONDS_MAX)
        what = type(cause).__name__
        if isinstance(cause, BrokerFailed):
            # Its text is the engine's own: it quotes nobody.
            most, what = min(most, BROKER_TOLD_MAX), f"{what} ({cause})"
        elif shows_messages(self._logger) and not isinstance(cause, StoreFailed):
            # Of the host's own, as "the mail server is down"; a database's may quote a row.
            text = text_of(cause).partition("\n")[0][:TEXT_MAX]
            what = f"{what} ({text})" if text else what
        if self.failures <= most:
            self._logger.warning(
                "projection %s failed with %s and tries again in %.2f s",
                self._projection,
                what,
                seconds,
            )
        elif not self._is_told:
            self._is_told = True
            self._logger.error(
                "projection %s cannot go on at position %d, and no event is to blame. It tries "
                "again every %g s at most, without another word, until it can; everything else "
                "goes on\n%s",
                self._projection,
                position,
                SECONDS_MAX,
                traceback_text(cause, messages=shows_messages(self._logger)),
            )
        return seconds

    def _is_waited_for(self, cause: Exception) -> bool:
        by_itself = isinstance(cause, StoreFailed | BrokerFailed) and cause.passes
        return by_itself and self.waits_for_the_store

    def over(self, position: int) -> None:
        """Note that something was written."""
        self.failures = self._counted = 0
        self.failure = None
        if self._is_told:
            self._is_told = False
            self._logger.warning(
                "projection %s goes on, and stands at position %d", self._projection, position
            )

    def forget(self) -> None:
        """Begin to count anew: somebody wants it to go on, or it has stopped."""
        self.failures = self._counted = 0
        self.failure = None
