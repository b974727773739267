"""What the host's code raises in a projector: made an error of one event, or of the moment.

Rules: whatever a handler, a `deliver` or an event's own check raises is an Exception for whoever
called it, so that it ends no task of the engine in silence, and an exit in a handler no process.
An error that an engine or its views raise because they stop, are busy or were overtaken is of the
moment, however it is wrapped. This file catches nothing itself.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator, Sequence
from socket import gaierror
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

__all__ = ["UNREACHED", "HostFailed", "contained", "is_of_the_moment", "is_unreached", "members_of"]

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
_LINE: Final = ConnectionError | TimeoutError | gaierror | ssl.SSLError
_NO_WAY: Final = frozenset(
    (
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
    )
)
_NO_ADDRESS: Final = "Multiple exceptions: "
"""How asyncio begins where it was refused at each of several addresses."""
UNREACHED: Final = "is_unreached"
"""The attribute of an error whose causes another process has, and by which it tells of them."""
LINKS_MAX: Final = 100
"""Of a chain of errors that are looked at."""


def contained(error: BaseException) -> Exception:
    """Give an error of the host's code as an Exception: it fails one event and ends no task."""
    return as_error(error)


def is_of_the_moment(error: BaseException) -> bool:
    """Tell whether an engine raised it, or what it was raised from, and it may pass by itself."""
    return any(isinstance(link, OF_THE_MOMENT) for link in _links(error))


def is_unreached(error: BaseException) -> bool:
    """Tell whether an error was raised since another service was not reached.

    Clients have errors of their own, and some hide where those come from. Most of OSError is no
    outage: what a service has answered, what is said of a file, or data that cannot be read.
    """
    return any(map(_says_unreached, _links(error, hidden=True)))


def _says_unreached(link: BaseException) -> bool:
    if type(link) is OSError:
        return link.errno in _NO_WAY or str(link).startswith(_NO_ADDRESS)
    return isinstance(link, _LINE) or UNREACHED in vars(link)


def members_of(error: BaseException) -> Sequence[BaseException]:
    """Give the errors in a group; none for an error that is no group."""
    group: Any = error
    return group.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _links(error: BaseException, *, hidden: bool = False) -> Iterator[BaseException]:
    """Give an error, those that it was raised from, and those in groups of them.

    With `hidden` also what is not shown since it was raised `from None`.
    """
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
        if hidden or not link.__suppress_context__:
            waiting.append(link.__context__)
