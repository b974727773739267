"""The one gate before commands and reads: asks the host's `authorize`, and denies by default.

Rules: once a hook is set, only its `True` allows; anything else, an exception included, is
Forbidden, and nothing is run or read. The hook is given a copy of what is run. What is
denied is never shown: errors and log lines name types and streams, no payloads. Commands that wait
for an async hook are kept in their order by admission.py.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NoReturn, TypeAlias

from .errors import DefinitionError, Forbidden
from .model.copying import own_copy
from .model.given import as_text, shown
from .model.messages import Command, Query
from .runtime.futures import is_being_cancelled
from .runtime.tracebacks import traceback_text
from .runtime.within import within

__all__ = ["Action", "Authorize", "Gate", "gate_of"]

Action: TypeAlias = Literal["execute", "query", "history", "feed", "past", "control", "erase"]
Asked: TypeAlias = Command | Query[Any] | str
Authorize: TypeAlias = Callable[[str | None, Action, Asked], bool | Awaitable[bool]]
"""`authorize(principal, action, message)`: may they? `message` is the command or the query; for
"history" it is the stream (`order:o-1`), for "feed" and "past" it is "*". For "control" it is the
projection, and for "erase" the subject. What is asked of a past is a "query"."""


def gate_of(authorize: Authorize | None, logger: logging.Logger) -> Gate | None:
    """Give the gate of a hook, if there is one; raise DefinitionError for what is none."""
    if authorize is None:
        return None
    if not callable(authorize):
        raise DefinitionError(f"authorize= is a function, not {shown(authorize)}")
    try:
        inspect.signature(authorize).bind(None, "feed", "*")
    except TypeError:
        raise DefinitionError(
            "authorize= takes three arguments, as `def authorize(principal, action, message)`"
        ) from None
    except Exception:  # a function of C, or a class that says anything of itself
        logger.debug("authorize shows no signature")
    return Gate(authorize, logger)


class Gate:
    """Asks the hook of one engine."""

    def __init__(self, authorize: Authorize, logger: logging.Logger) -> None:
        self._authorize = authorize
        self._logger = logger

    async def check(self, principal: str | None, action: Action, message: Asked) -> None:
        """Return if the hook gives True; raise Forbidden otherwise."""
        if principal is not None:
            principal = as_text("principal", principal)
        answer = self.ask(principal, action, message)
        if answer is not None:
            await self.hear(answer, principal, action, message)

    async def check_within(
        self, seconds: float | None, principal: str | None, action: Action, message: Asked
    ) -> float | None:
        """Do the same in so many seconds; give what is left of them. Raises TimeoutError."""
        if seconds is None:
            await self.check(principal, action, message)
            return None
        time = asyncio.get_running_loop().time
        end = time() + seconds
        why = f"authorize has not answered within {seconds:g} s: nothing was run or read"
        await within(end, self.check(principal, action, message), lambda: why)
        return max(0.0, end - time())

    def ask(
        self, principal: str | None, action: Action, message: Asked
    ) -> Awaitable[object] | None:
        """Call the hook; give what is to be awaited, or nothing where it has said yes."""
        try:
            allowed = self._authorize(principal, action, _shown(message))
            if inspect.isawaitable(allowed):
                return allowed
        except Forbidden:
            raise
        except BaseException as error:  # of the hook, whatever it is
            self._fail(error, principal, action, message)
        _judge(allowed, principal, action, message)
        return None

    async def hear(
        self, answer: Awaitable[object], principal: str | None, action: Action, message: Asked
    ) -> None:
        """Return if an async hook gives True; raise Forbidden otherwise."""
        try:
            allowed = await answer
        except Forbidden:
            raise
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            self._fail(error, principal, action, message)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._fail(error, principal, action, message)
        _judge(allowed, principal, action, message)

    def _fail(
        self, error: BaseException, principal: str | None, action: Action, message: Asked
    ) -> NoReturn:
        # Without its message, which is about what was asked, and by whom.
        self._logger.error("authorize failed, so the answer is no\n%s", traceback_text(error))
        raise _forbidden(principal, action, message) from error


def _shown(message: Asked) -> Asked:
    """Give what the hook may look at, and change without changing what is run."""
    return message if isinstance(message, str) else own_copy(message)


def _judge(allowed: object, principal: str | None, action: Action, message: Asked) -> None:
    # Not "truthy": a hook that forgets its return, or gives an object, has not said yes.
    if allowed is not True:
        raise _forbidden(principal, action, message)


def _forbidden(principal: str | None, action: Action, message: Asked) -> Forbidden:
    what = message if isinstance(message, str) else type(message).__name__
    return Forbidden(
        f"authorize does not let this principal {action} {what}. Nothing was run or read.",
        principal,
        action,
    )
