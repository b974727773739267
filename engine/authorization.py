"""The one gate before commands and reads: asks the host's `authorize`, and denies by default.

Rules: once a hook is set, only its `True` allows; anything else, an exception included, is
Forbidden, and nothing is run or read. The hook sees messages as they came in and must not change
them. What is denied is never shown: errors and log lines name types and streams, no payloads.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeAlias

from .errors import Forbidden
from .messages import Command, Query
from .tracebacks import told

__all__ = ["Action", "Authorize", "Gate"]

Action: TypeAlias = Literal["execute", "query", "history", "feed", "past", "control"]
Authorize: TypeAlias = Callable[
    [str | None, Action, Command | Query[Any] | str], bool | Awaitable[bool]
]
"""`authorize(principal, action, message)`: may they? `message` is the command or the query; for
"history" it is the stream (`order:o-1`), for "feed" and "past" it is "*", for "control" the
projection. What is asked of a past is a "query"."""


class Gate:
    """Asks the hook of one engine."""

    def __init__(self, authorize: Authorize, logger: logging.Logger) -> None:
        self._authorize = authorize
        self._logger = logger

    async def check(
        self, principal: str | None, action: Action, message: Command | Query[Any] | str
    ) -> None:
        """Return if the hook gives True; raise Forbidden otherwise."""
        try:
            allowed = self._authorize(principal, action, message)
            if inspect.isawaitable(allowed):
                allowed = await allowed
        except Forbidden:
            raise
        except Exception as error:
            self._logger.error("authorize failed, so the answer is no\n%s", told(error))
            raise _forbidden(principal, action, message) from error
        # Not "truthy": a hook that forgets its return, or gives an object, has not said yes.
        if allowed is not True:
            raise _forbidden(principal, action, message)


def _forbidden(
    principal: str | None, action: Action, message: Command | Query[Any] | str
) -> Forbidden:
    what = message if isinstance(message, str) else type(message).__name__
    return Forbidden(
        f"authorize does not let this principal {action} {what}. Nothing was run or read.",
        principal,
        action,
    )
