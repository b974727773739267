"""Process managers under way: what each of them did last, what it waits for, and its commands.

Rules: the log says which instances have moved, and the table of timers what they wait for: nothing
of an engine's memory is asked, and nothing is loaded. What is read is bounded: pages of the log as
when it is browsed, and so many timers of each instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from ..log.browsing import LogToBrowse, browse
from ..log.selection import Selection
from ..model.aggregate import Aggregate
from ..model.process import ProcessManager
from ..model.stored import StoredEvent
from ..model.timers import is_at_once
from ..stores.contract.timers import WaitingTimer
from .answers import Sagas, ShownSaga
from .operations import Operations
from .shown import shown_timer

__all__ = ["NO_CODE", "LogOfSagas", "process_kinds", "sagas_page", "with_states"]

NO_CODE: Final = (
    "which aggregates are process managers is known to the application: start this with --app"
)
_EVENTS: Final = 500
_TIMERS: Final = 50


class LogOfSagas(LogToBrowse, Protocol):
    """The log, with its table of timers."""

    async def read_timers(
        self, after: tuple[str, str] = ("", ""), *, timers_max: int
    ) -> list[WaitingTimer]:
        """Read as `Store.read_timers` does."""
        ...


def process_kinds(aggregates: Sequence[type[Aggregate]]) -> frozenset[str]:
    """Give the kinds of those that are process managers."""
    return frozenset(
        cls.__definition__.kind for cls in aggregates if issubclass(cls, ProcessManager)
    )


async def sagas_page(
    log: LogOfSagas,
    kinds: frozenset[str],
    *,
    before: int | None,
    limit: int,
    waiting: bool,
    payloads: bool,
) -> Sagas:
    """Give the instances that moved last before a position, each once, the newest first.

    With `waiting`, only those that wait for a timer or an answer. An instance that is on one page
    may come again on a later one, by an older event of its own.
    """
    found: dict[str, ShownSaga] = {}
    passed: set[str] = set()
    if not kinds:
        return Sagas((), None, "this program has no process managers")
    page = await browse(log, Selection(), before=before, limit=_EVENTS, kinds=kinds)
    for event in page.events:
        if not isinstance(event, StoredEvent) or event.stream in passed:
            continue
        if len(found) == limit:
            return Sagas([*found.values()], event.position + 1)
        passed.add(event.stream)
        saga = await _saga(log, event, payloads=payloads)
        if saga.timers or saga.commands or not waiting:
            found[event.stream] = saga
    return Sagas([*found.values()], page.older)


async def with_states(operations: Operations, found: Sagas, principal: str | None) -> Sagas:
    """Give the same with the state of each instance."""
    shown = [
        msgspec.structs.replace(
            saga, state=(await operations.state(saga.stream, principal=principal)).state
        )
        for saga in found.sagas
    ]
    return msgspec.structs.replace(found, sagas=shown)


async def _saga(log: LogOfSagas, event: StoredEvent, *, payloads: bool) -> ShownSaga:
    read: Sequence[Any] = await log.read_timers((event.stream, ""), timers_max=_TIMERS)
    own = [shown_timer(timer, payloads=payloads) for timer in read if timer.stream == event.stream]
    return ShownSaga(
        stream=event.stream,
        version=event.version,
        position=event.position,
        event=event.name,
        recorded=event.recorded,
        timers=[timer for timer in own if not is_at_once(timer.name)],
        commands=[timer for timer in own if is_at_once(timer.name)],
    )
