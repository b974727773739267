"""The API of the console, version 1: one table of what can be asked, by whom, and what is given.

Rules: a GET changes nothing. What it takes stands in its query, what a POST takes is JSON; both are
structs that refuse what they do not know. Each endpoint names the action that is asked about before
it is called, and what that is about. Payloads are given to whoever may see them, and asks for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from ...errors import InvalidInput
from ...log.selection import Selection
from ...operations.answers import (
    Audit,
    Claims,
    Done,
    LogPage,
    Members,
    Overview,
    Sagas,
    ShownChange,
    ShownProjection,
    ShownState,
    Timers,
)
from ...operations.operations import ACTS, PAGE_MAX, Operations, TimerAct
from ...runtime.package import release
from ...stores.contract.requests import Arguments
from ...stores.contract.views import Parked
from ..server import server_is_stopping
from .permission import ACTIONS, Caller, ConsoleAction

__all__ = ["ENDPOINTS", "VERSION", "Endpoint", "Info"]

VERSION: Final = 1
WAIT_SECONDS_MAX: Final = 20
_LOOK_SECONDS: Final = 0.25

Limit: TypeAlias = Annotated[int, Meta(ge=1, le=PAGE_MAX)]
Whole: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text: TypeAlias = Annotated[str, Meta(max_length=1_000)]
Reason: TypeAlias = Annotated[str, Meta(max_length=500)]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes nothing."""


class Info(msgspec.Struct, frozen=True):
    """What this console is, and what its caller may do."""

    version: int
    """Of the API."""
    release: str
    """Of Foldline."""
    title: str
    principal: str | None
    """Who asks, as the host says."""
    actions: Sequence[ConsoleAction]
    """What the caller may do, as far as that does not depend on what it is done with."""
    has_states: bool
    """Whether states of aggregates can be shown."""
    has_rules: bool = False
    """Whether the program has rules of retention."""


class AskParked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which parked events."""

    projection: Text
    key: Text | None = None
    after: Whole = 0
    limit: Limit = 100


class AskLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events of the log. Times are µs since 1970-01-01 UTC, and inclusive."""

    after: Whole = 0
    """Only events after this position."""
    before: Whole | None = None
    """Only events before this position."""
    limit: Limit = 50
    stream: Text | None = None
    name: tuple[Text, ...] = ()
    """Stored names of events; may come several times."""
    kind: tuple[Text, ...] = ()
    """Kinds of aggregates; may come several times."""
    since: Whole | None = None
    until: Whole | None = None
    key: Text | None = None
    """Of the command."""
    correlation: Text | None = None
    payloads: bool = False
    """Whether to give payloads and headers too: takes the action "payload"."""
    wait: Annotated[float, Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0
    """Seconds to wait until the log goes on behind `after`."""


class AskState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which state of an aggregate."""

    stream: Text
    version: Whole | None = None


class AskDifference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between which versions."""

    stream: Text
    before: Whole
    after: Whole


class AskTimers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which timers: those behind a stream and a name."""

    after_stream: Text = ""
    after_name: Text = ""
    limit: Limit = 100
    parked: bool = False
    payloads: bool = False


class AskSagas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which instances of process managers: those that moved last before a position."""

    before: Whole | None = None
    limit: Limit = 50
    waiting: bool = False
    """Only those that wait for a timer, or for the answer to a command."""
    payloads: bool = False
    """Whether to give states and commands too: takes the action "payload"."""


class AskClaims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which claims: those behind a name and a value."""

    after_name: Text = ""
    after_value: Text = ""
    limit: Limit = 100


class AskAudit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries: after so many of the newest."""

    offset: Whole = 0
    limit: Limit = 100


class DoPlain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With which projection, and why."""

    projection: Text
    reason: Reason = ""


class DoRetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parked events of which key, or all; and why."""

    projection: Text
    reason: Reason = ""
    key: Text | None = None


class DoSkip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which event, and why."""

    projection: Text
    position: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class DoTimer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With which timer, and why."""

    stream: Text
    name: Text
    reason: Reason = ""


Call: TypeAlias = Callable[[Operations, Any, Caller], Awaitable[Any]]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that can be asked."""

    method: str
    path: str
    """Below the place where the console is."""
    action: ConsoleAction
    """What `authorize` is asked about."""
    target: str = ""
    """The field that says what it is done with; empty for "*"."""
    takes: type[msgspec.Struct] = Nothing
    gives: Any
    about: str
    call: Call

    def target_of(self, given: msgspec.Struct) -> str:
        """Give what `authorize` is told that it is about."""
        found = getattr(given, self.target) if self.target else None
        return "*" if found is None else str(found)


async def _overview(ask: Operations, _: Nothing, who: Caller) -> Overview:
    return await ask.overview(principal=who.principal)


async def _projections(ask: Operations, _: Nothing, who: Caller) -> Sequence[ShownProjection]:
    return await ask.projections(principal=who.principal)


async def _parked(ask: Operations, given: AskParked, who: Caller) -> Sequence[Parked]:
    return await ask.parked(
        given.projection,
        key=given.key,
        after=given.after,
        limit=given.limit,
        principal=who.principal,
    )


async def _log(ask: Operations, given: AskLog, who: Caller) -> LogPage:
    if given.payloads:
        await who.check("payload", given.stream or "*")
    if given.wait:
        await _until_behind(ask, given.after, given.wait)
    selection = Selection(
        stream=given.stream,
        names=given.name,
        since=given.since,
        until=given.until,
        key=given.key,
        correlation=given.correlation,
    )
    return await ask.log(
        selection,
        kinds=frozenset(given.kind) or None,
        after=given.after,
        before=given.before,
        limit=given.limit,
        payloads=given.payloads,
        principal=who.principal,
    )


async def _until_behind(ask: Operations, position: int, seconds: float) -> None:
    """Wait until the log goes on behind a position, or a time has passed."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while await ask.position() <= position and not server_is_stopping():
        left = end - loop.time()
        if left <= 0:
            return
        await asyncio.sleep(min(left, _LOOK_SECONDS))


async def _state(ask: Operations, given: AskState, who: Caller) -> ShownState:
    return await ask.state(given.stream, given.version, principal=who.principal)


async def _difference(ask: Operations, given: AskDifference, who: Caller) -> Sequence[ShownChange]:
    return await ask.difference(given.stream, given.before, given.after, principal=who.principal)


async def _timers(ask: Operations, given: AskTimers, who: Caller) -> Timers:
    if given.payloads:
        await who.check("payload")
    return await ask.timers(
        after=(given.after_stream, given.after_name),
        limit=given.limit,
        parked=given.parked,
        payloads=given.payloads,
        principal=who.principal,
    )


async def _sagas(ask: Operations, given: AskSagas, who: Caller) -> Sagas:
    if given.payloads:
        await who.check("payload")
    return await ask.sagas(
        before=given.before,
        limit=given.limit,
        waiting=given.waiting,
        payloads=given.payloads,
        principal=who.principal,
    )


async def _claims(ask: Operations, given: AskClaims, who: Caller) -> Claims:
    return await ask.claims(
        after=(given.after_name, given.after_value), limit=given.limit, principal=who.principal
    )


async def _members(ask: Operations, _: Nothing, who: Caller) -> Members:
    return await ask.members(principal=who.principal)


async def _audit(ask: Operations, given: AskAudit, who: Caller) -> Audit:
    return await ask.audit(offset=given.offset, limit=given.limit, principal=who.principal)


def _act(kind: str) -> Call:
    async def act(ask: Operations, given: DoPlain | DoRetry | DoSkip, who: Caller) -> Done:
        if isinstance(given, DoSkip) and not given.reason.strip():
            raise InvalidInput("an event is skipped for a reason, and none was given")
        arguments = Arguments(
            reason=given.reason,
            key=given.key if isinstance(given, DoRetry) else None,
            position=given.position if isinstance(given, DoSkip) else None,
        )
        return await ask.act(kind, given.projection, arguments, principal=who.principal)

    return act


async def _retry_timers(ask: Operations, _: Nothing, who: Caller) -> Done:
    return await ask.retry_timers(principal=who.principal)


def _act_on_timer(kind: TimerAct) -> Call:
    async def act(ask: Operations, given: DoTimer, who: Caller) -> Done:
        return await ask.act_on_timer(
            kind, given.stream, given.name, reason=given.reason, principal=who.principal
        )

    return act


_ABOUT: Final = {
    "pause": "Let a projection rest, over restarts too.",
    "resume": "Let a projection continue, from a pause or after a failure.",
    "rebuild": "Build a projection again beside the tables that serve.",
    "reset": "Empty the tables of a projection and fold the log into them again.",
    "cancel": "Cancel what is being built of a projection.",
    "drop": "Remove the tables of former builds of a projection.",
    "retry": "Try parked events of a projection again, of one key or all.",
    "skip": "Leave one event out of a projection for good.",
}
_TAKEN: Final[dict[str, type[msgspec.Struct]]] = {"retry": DoRetry, "skip": DoSkip}


async def info(ask: Operations, title: str, who: Caller, *, has_rules: bool = False) -> Info:
    """Give what the console is, and what its caller may do."""
    actions: list[ConsoleAction] = [action for action in ACTIONS if await who.may(action)]
    return Info(VERSION, release(), title, who.principal, actions, ask.has_states, has_rules)


def _get(path: str, call: Call, gives: Any, about: str, **more: Any) -> Endpoint:
    action = more.pop("action", "look")
    return Endpoint(
        method="GET",
        path=f"/api/v{VERSION}/{path}",
        action=action,
        gives=gives,
        about=about,
        call=call,
        **more,
    )


def _post(path: str, action: ConsoleAction, call: Call, about: str, **more: Any) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"/api/v{VERSION}/{path}",
        action=action,
        gives=Done,
        about=about,
        call=call,
        **more,
    )


ENDPOINTS: Final[Sequence[Endpoint]] = (
    _get("overview", _overview, Overview, "How the engine stands, in numbers."),
    _get("projections", _projections, Sequence[ShownProjection], "How all projections stand."),
    _get(
        "parked",
        _parked,
        Sequence[Parked],
        "Events of a projection that are set aside, with cause and traceback, by position.",
        takes=AskParked,
        target="projection",
    ),
    _get(
        "log",
        _log,
        LogPage,
        "The last events of the log, or of one aggregate, newest first.",
        takes=AskLog,
        target="stream",
    ),
    _get(
        "state",
        _state,
        ShownState,
        "An aggregate as it was at a version, or as it durably is.",
        takes=AskState,
        action="payload",
        target="stream",
    ),
    _get(
        "difference",
        _difference,
        Sequence[ShownChange],
        "What changed in an aggregate between two versions.",
        takes=AskDifference,
        action="payload",
        target="stream",
    ),
    _get("timers", _timers, Timers, "Commands that wait for their time.", takes=AskTimers),
    _get(
        "sagas",
        _sagas,
        Sagas,
        "Process managers: what each did last, what it waits for, its commands under way.",
        takes=AskSagas,
    ),
    _get(
        "claims",
        _claims,
        Claims,
        "Unique values that aggregates hold.",
        takes=AskClaims,
        action="payload",
    ),
    _get("members", _members, Members, "The processes that share the log."),
    _get(
        "audit",
        _audit,
        Audit,
        "What operators did, the newest first.",
        takes=AskAudit,
        action="audit",
    ),
    *(
        _post(
            f"projections/{kind}",
            kind,
            _act(kind),
            _ABOUT[kind],
            takes=_TAKEN.get(kind, DoPlain),
            target="projection",
        )
        for kind in ACTS
    ),
    _post(
        "timers/retry",
        "retry-timers",
        _retry_timers,
        "Try all timers again that are set aside.",
    ),
    _post(
        "timers/fire",
        "fire-timer",
        _act_on_timer("fire"),
        "Let the command of a timer be run now, also if it has failed or was cancelled.",
        takes=DoTimer,
        target="stream",
    ),
    _post(
        "timers/cancel",
        "cancel-timer",
        _act_on_timer("cancel"),
        "Let the command of a timer not be run. The timer stays, set aside.",
        takes=DoTimer,
        target="stream",
    ),
)
