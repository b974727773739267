"""What the host's code raises in a projector: made an error of one event, or of the moment.

Rules: whatever a handler, a `deliver` or an event's own check raises is an Exception for whoever
called it, so that it ends no task of the engine in silence, and an exit in a handler no process.
An error that an engine or its views raise because they stop, are busy or were overtaken is of the
moment, however it is wrapped. This file catches nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, Final

from ..errors import (
    Closed,
    Conflict,
    DeadlinePassed,
    EngineFailed,
    EventUnread,
    OutcomeUnknown,
    Overloaded,
    ProjectionLag,
    ProjectionUnserved,
    StoreFailed,
    Voided,
)
from .safely import HostFailed, as_error

__all__ = ["HostFailed", "comes_from", "contained", "is_of_the_moment", "members_of"]

OF_THE_MOMENT: Final = (
    Closed,
    Conflict,
    DeadlinePassed,
    EngineFailed,
    EventUnread,
    OutcomeUnknown,
    Overloaded,
    ProjectionLag,
    ProjectionUnserved,
    StoreFailed,
    Voided,
)
"""What passes by itself: nothing is wrong with what was asked."""
LINKS_MAX: Final = 100
"""Of a chain of errors that are looked at."""


def contained(error: BaseException) -> Exception:
    """Give an error of the host's code as an Exception: it fails one event and ends no task."""
    return as_error(error)


def is_of_the_moment(error: BaseException) -> bool:
    """Tell whether an engine raised it, or what it was raised from, and it may pass by itself."""
    return any(isinstance(link, OF_THE_MOMENT) for link in _links(error))


def comes_from(error: BaseException, kinds: type[BaseException] | UnionType) -> bool:
    """Tell whether an error is one of these, or was raised from one: clients of services do so."""
    link: BaseException | None = error
    for _ in range(LINKS_MAX):
        if link is None or isinstance(link, kinds):
            break
        link = link.__cause__
    return link is not None and isinstance(link, kinds)


def members_of(error: BaseException) -> Sequence[BaseException]:
    """Give the errors in a group; none for an error that is no group."""
    group: Any = error
    return group.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _links(error: BaseException) -> Iterator[BaseException]:
    """Give an error, those that it was raised from, and those in groups of them."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < LINKS_MAX:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += members_of(link)
        waiting.append(link.__cause__)
        if not link.__suppress_context__:
            waiting.append(link.__context__)
