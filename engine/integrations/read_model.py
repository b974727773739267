"""What read models in other databases have in common.

Rules: nothing of a database is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, cast

from ..errors import DefinitionError
from ..model.messages import Event
from ..model.sink import Delivery

__all__ = ["DIGITS", "batch_of", "events_of", "named"]

DIGITS: Final = 32
"""Of what names an event."""


def named(delivery: Delivery[Event]) -> str:
    """Name an event, so that another one at its position is told from it."""
    meta = delivery.meta
    text = f"{meta.stream} {meta.version} {meta.recorded} {type(delivery.event).event_name}"
    return blake2b(text.encode(), digest_size=DIGITS // 2).hexdigest()


def events_of(name: str, events: Sequence[type[Event]]) -> Sequence[Any]:
    """Give the classes of a model's events; raise DefinitionError for what is none."""
    found: list[Any] = list(events)
    if not found or not all(isinstance(cls, type) and issubclass(cls, Event) for cls in found):
        raise DefinitionError(f"read model {name!r}: events= is a list of classes of events")
    return found


def batch_of(events: Sequence[Any]) -> Any:
    """Give the annotation of a batch that has events of these classes."""
    union, delivery, sequence = events[0], cast("Any", Delivery), cast("Any", Sequence)
    for cls in events[1:]:
        union = union | cls
    return sequence[delivery[union]]
