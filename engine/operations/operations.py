"""What operators ask of an engine, and what they have it do, wherever it is asked.

Rules: what shows numbers and names is apart from what shows what people wrote: that is given only
if `payloads` says so. To look changes nothing. What is done is done by `Projections` and its like,
and kept with its reason where they keep it. Every call says who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias, get_args

from ..errors import UsageError
from ..log.selection import Selection
from ..model.retention import Retention
from ..stores.contract.requests import Arguments
from ..stores.contract.views import Parked
from .answers import (
    Audit,
    Claims,
    Done,
    LogPage,
    Members,
    Overview,
    Retained,
    Sagas,
    ShownChange,
    ShownProjection,
    ShownState,
    Timers,
)

__all__ = ["ACTS", "PAGE_MAX", "Act", "Operations", "TimerAct", "checked_timer_act"]

Act: TypeAlias = Literal["pause", "resume", "rebuild", "reset", "cancel", "drop", "retry", "skip"]
"""What can be done with a projection."""
ACTS: Final[tuple[Act, ...]] = get_args(Act)
TimerAct: TypeAlias = Literal["fire", "cancel"]
"""What can be done with a timer."""
PAGE_MAX: Final = 500
"""Entries of a page."""


def checked_timer_act(kind: str) -> TimerAct:
    """Give what is to be done with a timer; raise UsageError for what cannot be."""
    if kind not in ("fire", "cancel"):
        raise UsageError(f"{kind!r:.40} is nothing that is done with a timer: fire, cancel")
    return "fire" if kind == "fire" else "cancel"


class Operations(Protocol):
    """One log and its engine, for operators.

    - `principal`: who asks. The engine's `authorize` is asked as well, if there is one.
    - `limit`: entries of a page, 1 to 500.
    - `payloads`: whether to give what people wrote, too.
    - `stream`: `kind:id` of an aggregate.

    All raise InvalidInput for what is none of that, Forbidden, Closed, and StoreFailed or
    StoreRefused if log or views cannot be read.
    """

    @property
    def has_states(self) -> bool:
        """Whether states of aggregates can be shown, which takes the application's code."""
        ...

    async def overview(self, *, principal: str | None = None) -> Overview:
        """Give how the engine stands, in numbers. Rates are since the look before."""
        ...

    async def projections(self, *, principal: str | None = None) -> Sequence[ShownProjection]:
        """Give how all projections stand."""
        ...

    async def parked(
        self,
        projection: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """Give parked events after a position, in order of position."""
        ...

    async def act(
        self, kind: str, projection: str, arguments: Arguments, *, principal: str | None = None
    ) -> Done:
        """Do one of `ACTS` with a projection.

        Raises UsageError for what cannot be done.
        """
        ...

    async def retry_timers(self, *, principal: str | None = None) -> Done:
        """Try all timers again that are parked. Raises UsageError where no engine can be asked."""
        ...

    async def act_on_timer(
        self,
        kind: TimerAct,
        stream: str,
        name: str,
        *,
        reason: str = "",
        principal: str | None = None,
    ) -> Done:
        """Let the command of a timer be run now ("fire"), or not at all ("cancel").

        Raises UsageError if there is no such timer, or its command is being run.
        """
        ...

    async def log(
        self,
        selection: Selection,
        *,
        kinds: frozenset[str] | None = None,
        after: int = 0,
        before: int | None = None,
        limit: int = 50,
        payloads: bool = False,
        principal: str | None = None,
    ) -> LogPage:
        """Give the last selected events between two positions, newest first.

        It looks at 20,000 events at most; `older` says where to go on. An event that is damaged
        stands among the others, and says why.
        """
        ...

    async def position(self) -> int:
        """Give the position of the last durable event, at little cost."""
        ...

    async def state(
        self, stream: str, version: int | None = None, *, principal: str | None = None
    ) -> ShownState:
        """Give an aggregate as it was at a version, or as it durably is."""
        ...

    async def difference(
        self, stream: str, before: int, after: int, *, principal: str | None = None
    ) -> Sequence[ShownChange]:
        """Give what changed in an aggregate between two versions."""
        ...

    async def timers(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        parked: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Timers:
        """Give timers behind a stream and a name; with `parked`, only those that are set aside."""
        ...

    async def sagas(
        self,
        *,
        before: int | None = None,
        limit: int = 50,
        waiting: bool = False,
        payloads: bool = False,
        principal: str | None = None,
    ) -> Sagas:
        """Give instances of process managers, the one that moved last before a position first.

        - `waiting`: only those that wait for a timer, or for the answer to a command.
        - `payloads`: with states, if there is code for them, and with commands.
        """
        ...

    async def claims(
        self,
        *,
        after: tuple[str, str] = ("", ""),
        limit: int = 100,
        principal: str | None = None,
    ) -> Claims:
        """Give the unique values behind a name and a value. Values are what people wrote."""
        ...

    async def members(self, *, principal: str | None = None) -> Members:
        """Give the processes that share the log."""
        ...

    async def retention(
        self,
        rules: Sequence[Retention],
        *,
        dry_run: bool = False,
        at_rest: bool = False,
        principal: str | None = None,
    ) -> Sequence[Retained]:
        """Do what rules of retention say, beside commands: erase people, archive streams.

        With `dry_run` it only looks. The whole log is read if a rule erases. Nobody is erased by a
        clock that is 30 days ahead of the last event, unless `at_rest` says that it is right. Each
        erasure is asked for as by `engine.personal.erase`: views lose the person a moment later.

        Raises UsageError where it cannot be done here, or is being done already, and Damaged for an
        event that cannot be read. To call it again is safe: it continues.
        """
        ...

    async def audit(
        self, *, offset: int = 0, limit: int = 100, principal: str | None = None
    ) -> Audit:
        """Give what operators did, the newest first: decisions about projections, erasures."""
        ...
