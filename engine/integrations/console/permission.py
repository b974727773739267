"""Who may do what in the console: named actions, denied unless allowed.

Rules: without an `authorize` of the host, only this machine's own user interface is answered: a
request from a loopback address, to a loopback name, that no proxy has passed on. With one, only its
`True` allows; anything else, an exception included, is Forbidden. Each request is asked about anew.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import ip_address
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from ...authorization import Action, Authorize, Gate
from ...errors import DefinitionError, Forbidden
from ...runtime.tracebacks import traceback_text
from ..origin import origins_of

__all__ = ["ACTIONS", "Caller", "ConsoleAction", "ConsoleAuthorize", "Permission", "PrincipalOf"]

Scope: TypeAlias = MutableMapping[str, Any]
ConsoleAction: TypeAlias = Literal[
    "look",
    "payload",
    "audit",
    "pause",
    "resume",
    "rebuild",
    "reset",
    "cancel",
    "drop",
    "retry",
    "skip",
    "retry-timers",
    "fire-timer",
    "cancel-timer",
    "retain",
]
"""What somebody may do. "look" shows numbers, names, ids, who did what, and tracebacks. "payload"
shows what people wrote: payloads, headers, states, values of claims. "audit" shows what operators
did. The others change something."""
ACTIONS: Final[tuple[ConsoleAction, ...]] = get_args(ConsoleAction)

ConsoleAuthorize: TypeAlias = Callable[[str | None, ConsoleAction, str], bool | Awaitable[bool]]
"""`authorize(principal, action, target)`: may they? `target` is a projection, a stream, or "*"."""
PrincipalOf: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]
"""Gives who sends a request, out of its ASGI scope; None for nobody known."""

_PASSED_ON: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"}
)
_FORWARDED: Final = b"x-forwarded-"
_PAGE: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^/:?#]+)(?::[0-9]+)?")


class Caller:
    """Who sends one request, and what they may do."""

    def __init__(self, principal: str | None, gate: Gate | None) -> None:
        self.principal = principal
        self._gate = gate

    async def check(self, action: ConsoleAction, target: str = "*") -> None:
        """Return if they may; raise Forbidden otherwise."""
        if self._gate is not None:
            await self._gate.check(self.principal, cast("Action", action), target)

    async def may(self, action: ConsoleAction, target: str = "*") -> bool:
        """Tell whether they may."""
        try:
            await self.check(action, target)
        except Forbidden:
            return False
        return True


class Permission:
    """What the host says about callers; `origins` are other sites whose pages may ask."""

    def __init__(
        self,
        authorize: ConsoleAuthorize | None,
        principal_of: PrincipalOf | None,
        logger: logging.Logger,
        origins: Collection[str] = (),
    ) -> None:
        for name, given in (("authorize", authorize), ("principal_of", principal_of)):
            if given is not None and not callable(given):
                raise DefinitionError(f"Console({name}=...) is a function, not {given!r:.60}")
        self._principal_of = principal_of
        self._logger = logger
        self._origins = origins_of(origins)
        self._gate = None
        if authorize is not None:
            # The same rules as for an engine: only True allows, and what fails denies.
            self._gate = Gate(cast("Authorize", authorize), logger)

    def check_local(self, scope: Scope) -> None:
        """Raise Forbidden where nobody authorizes, and the request may come from elsewhere."""
        if self._gate is None and not _is_local(scope, self._origins):
            raise Forbidden(
                "this console has no `authorize`, so it answers on this machine only: give "
                "Console(engine, authorize=...) a function that says who may do what",
                None,
                "look",
            )

    def caller_inside(self, principal: str | None) -> Caller:
        """Give who asks from inside the process, or over its own stdin."""
        return Caller(principal, self._gate)

    async def caller(self, scope: Scope) -> Caller:
        """Give who sends a request; raise Forbidden if that cannot be told."""
        if self._principal_of is None:
            return Caller(None, self._gate)
        try:
            found = self._principal_of(scope)
            principal: Any = await found if inspect.isawaitable(found) else found
        except Forbidden:
            raise
        except Exception as error:
            self._logger.error(
                "principal_of failed, so nobody is let in\n%s", traceback_text(error)
            )
            raise Forbidden("it cannot be told who asks", None, "look") from error
        if principal is not None and not isinstance(principal, str):
            raise Forbidden("principal_of gave no text", None, "look")
        return Caller(principal, self._gate)


def _is_local(scope: Scope, origins: Collection[str]) -> bool:
    client = scope.get("client")
    if not client or not _is_loopback(str(client[0])):
        return False
    if str(scope.get("http_version", "1.1")) == "1.0":
        return False  # no browser speaks it, and proxies do by default
    names = {name for name, _ in scope["headers"]}
    if names & _PASSED_ON or any(name.startswith(_FORWARDED) for name in names):
        return False
    # A proxy may give it another Host, and leaves the name that the browser knows the page by.
    pages = _values(scope, b"origin")
    if not all(page in origins or _is_local_page(page) for page in pages):
        return False
    hosts = _values(scope, b"host")
    return len(hosts) == 1 and _is_loopback(_without_port(hosts[0]))


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip().lower() for n, value in scope["headers"] if n == name]


def _is_local_page(address: str) -> bool:
    found = _PAGE.fullmatch(address)
    return found is not None and _is_loopback(_without_port(found[1]))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
