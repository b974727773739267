"""How long closed aggregates are kept as they are: what a host declares, and a command does.

Rules: a stream is closed if its last event is one of those named, and its age counts from that
event. A function of its state may say that it is not. Nothing happens by itself: `foldline
retention` or `engine.operations.retention` does what is due, and only shows it first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from ..errors import DefinitionError
from .aggregate import Aggregate, definitions_of
from .given import as_function
from .messages import Event

__all__ = ["Retention", "closed_before"]

_MICROSECOND: Final = timedelta(microseconds=1)


class Retention(msgspec.Struct, frozen=True):
    """What becomes of closed aggregates of one class, and after which time.

    ```python
    RULES = [
        Retention(
            Order,
            closed_by=[Delivered, Cancelled],
            archive_after=timedelta(days=90),
            erase_after=timedelta(days=730),
        )
    ]
    ```

    `foldline retention shop.db shop:RULES --dry-run` shows what is due, and without `--dry-run` it
    is done. Raises DefinitionError for a rule that says nothing.
    """

    aggregate: type[Aggregate]
    """The class whose streams are meant."""
    closed_by: Sequence[type[Event]]
    """Events one of which is the last of a closed stream."""
    archive_after: timedelta | None = None
    """How old that event is when contents move to the cold file; None for never."""
    erase_after: timedelta | None = None
    """How old it is when people are erased. A person stays while any stream with that person's data
    is not due."""
    closed_if: Callable[[Any], bool] | None = None
    """Is given the state of each stream that `closed_by` selects; only True closes it. An engine
    asks it, in its event loop; `foldline retention` does with --app."""

    def __post_init__(self) -> None:
        """Refuse a rule that selects or does nothing."""
        cls: Any = self.aggregate
        if not isinstance(cls, type) or not issubclass(cls, Aggregate):
            raise DefinitionError(
                f"Retention takes a class of aggregates first, as Retention(Order, "
                f"closed_by=[Delivered], ...), and {cls!r:.100} is none"
            )
        definitions_of([cls])
        given: Sequence[Any] = self.closed_by
        if not given or not all(isinstance(e, type) and issubclass(e, Event) for e in given):
            raise DefinitionError(
                f"Retention of {self.aggregate.__name__}: closed_by lists classes of events, and "
                f"{given!r:.100} does not"
            )
        if self.closed_if is not None:
            as_function(f"Retention of {self.aggregate.__name__}: closed_if", self.closed_if)
        times: Any = [t for t in (self.archive_after, self.erase_after) if t is not None]
        if not times or not all(isinstance(t, timedelta) and t >= timedelta(0) for t in times):
            raise DefinitionError(
                f"Retention of {self.aggregate.__name__}: give archive_after or erase_after, each "
                f"a timedelta that is not below zero, as timedelta(days=90)"
            )

    @property
    def kind(self) -> str:
        """The stored kind of the aggregates."""
        return definitions_of([self.aggregate])[0].kind

    @property
    def names(self) -> tuple[str, ...]:
        """The stored names of the events that close a stream."""
        return tuple(event.event_name for event in self.closed_by)

    def __str__(self) -> str:
        """Give it in words, as it is kept with what was done."""
        closed = f"{self.kind} closed by {', '.join(self.names)}"
        return closed if self.closed_if is None else f"{closed}, if {_name_of(self.closed_if)}"


def _name_of(function: Callable[[Any], bool]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def closed_before(after: timedelta, now: int) -> int:
    """Give the time before which a stream was closed that is due, in µs; so is `now`."""
    return now - after // _MICROSECOND
