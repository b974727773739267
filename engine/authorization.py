"""The one gate before commands and reads: asks the host's `authorize`, and denies by default.

Rules: once a hook is set, only its `True` allows; anything else, an exception included, is
Forbidden, and nothing is run or read. The hook sees what is run, and must not change it. However
long it takes for one command, those of one principal to one aggregate pass in the order in which
they were sent, and each within its deadline. What is denied is never shown: errors and log lines
name types and streams, no payloads.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Literal, NoReturn, TypeAlias

from .errors import Forbidden, Overloaded
from .given import as_text
from .limits import Limits
from .mailbox import Mail, too_late
from .messages import Command, Query, Receipt
from .ports import Clock
from .tracebacks import told

__all__ = ["Action", "Authorize", "Gate", "is_being_cancelled"]

Action: TypeAlias = Literal["execute", "query", "history", "feed", "past", "control"]
Asked: TypeAlias = Command | Query[Any] | str
Authorize: TypeAlias = Callable[[str | None, Action, Asked], bool | Awaitable[bool]]
"""`authorize(principal, action, message)`: may they? `message` is the command or the query; for
"history" it is the stream (`order:o-1`), for "feed" and "past" it is "*", for "control" the
projection. What is asked of a past is a "query"."""


class Gate:
    """Asks the hook of one engine."""

    def __init__(
        self, authorize: Authorize, logger: logging.Logger, clock: Clock, limits: Limits
    ) -> None:
        self._authorize = authorize
        self._logger = logger
        self._clock = clock
        self._waiting_max = limits.commands_accepted
        self._waiting = 0
        """Commands that the hook keeps waiting."""
        self._lines: dict[Hashable, asyncio.Future[None]] = {}
        """The last command of each line that waits; done when it and all before it have passed."""

    async def check(self, principal: str | None, action: Action, message: Asked) -> None:
        """Return if the hook gives True; raise Forbidden otherwise."""
        if principal is not None:
            principal = as_text("principal", principal)
        answer = self._ask(principal, action, message)
        if answer is not None:
            await self._hear(answer, principal, action, message)

    def check_now(self, principal: str | None, action: Action, message: Asked, mend: str) -> None:
        """Do the same for a caller who cannot wait; an async hook is Forbidden with the mend."""
        if principal is not None:
            principal = as_text("principal", principal)
        answer = self._ask(principal, action, message)
        if answer is None:
            return
        if inspect.iscoroutine(answer):
            answer.close()
        raise Forbidden(
            f"authorize is async and cannot be asked here: {mend}. Nothing was done.",
            principal,
            action,
        )

    async def admit(
        self, mail: Mail, line: Hashable, post: Callable[[Mail], asyncio.Future[Receipt]]
    ) -> asyncio.Future[Receipt]:
        """Ask for a command, and post it behind those that were sent before it in its line.

        Raises Forbidden, DeadlinePassed, Overloaded, and what `post` raises.
        """
        if self._waiting >= self._waiting_max:
            raise Overloaded(
                f"{self._waiting} commands wait for authorize, as many as "
                f"Limits.commands_accepted allows. Nothing was run; send again after a pause."
            )
        answer = self._ask(mail.principal, "execute", mail.command)
        if answer is None and line not in self._lines:
            return post(mail)
        before, own = self._lines.get(line), asyncio.get_running_loop().create_future()
        self._lines[line] = own
        self._waiting += 1
        try:
            await self._pass(mail, answer, before)
            return post(mail)
        finally:
            self._waiting -= 1
            if before is None:
                self._leave(line, own)
            else:
                # Whoever is refused or leaves lets nobody behind him overtake who is before him.
                before.add_done_callback(lambda _: self._leave(line, own))

    async def _pass(
        self, mail: Mail, answer: Awaitable[object] | None, before: asyncio.Future[None] | None
    ) -> None:
        """Return when the hook has said yes and those before have passed, within the deadline."""
        begun = 0.0 if mail.seconds is None else self._clock.monotonic()
        try:
            async with asyncio.timeout(mail.seconds):
                if answer is not None:
                    await self._hear(answer, mail.principal, "execute", mail.command)
                if before is not None:
                    await asyncio.shield(before)
        except TimeoutError:
            raise too_late(mail, "its aggregate", "waited for authorize") from None
        if mail.seconds is not None:
            mail.seconds -= self._clock.monotonic() - begun
            if mail.seconds <= 0:
                raise too_late(mail, "its aggregate", "waited for authorize")

    def _leave(self, line: Hashable, own: asyncio.Future[None]) -> None:
        if self._lines.get(line) is own:
            del self._lines[line]
        if not own.done():
            own.set_result(None)

    def _ask(
        self, principal: str | None, action: Action, message: Asked
    ) -> Awaitable[object] | None:
        """Call the hook; give what is to be awaited, or nothing where it has said yes."""
        try:
            allowed = self._authorize(principal, action, message)
            if inspect.isawaitable(allowed):
                return allowed
        except Forbidden:
            raise
        except BaseException as error:  # of the hook, whatever it is
            self._fail(error, principal, action, message)
        _judge(allowed, principal, action, message)
        return None

    async def _hear(
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
        self._logger.error("authorize failed, so the answer is no\n%s", told(error))
        raise _forbidden(principal, action, message) from error


def is_being_cancelled() -> bool:
    """Whether somebody wants this task to end; where not, a CancelledError is no end of it.

    Whoever awaits what another one has given up, such as a token that is fetched, is told so too.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
